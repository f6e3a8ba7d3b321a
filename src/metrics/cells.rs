//! The groups of cells: one per worker and listener, one per worker and node, one per worker, one for the process.
//!
//! A worker asks for its groups when it starts (listeners) or when it makes a node handle, keeps the `Arc`s beside the
//! connections they belong to, and writes to them without further ado.
//!
//! # Invariants
//! - A group belongs to one worker: its cells have one writer. It is aligned to 128 bytes, two cache lines, so that two
//!   workers never write to one line or to a pair that the processor prefetches together.
//! - The labels are enums with a fixed number of values: the arrays are indexed by `as usize`, out of range is impossible.

use std::sync::OnceLock;

use tokio::runtime::RuntimeMetrics;

use super::cell::{Counter, Gauge, Histogram};
use super::verbs::{Verb, VerbCells, Verbs};

macro_rules! labels {
    ($(#[$doc:meta])* $type:ident { $($(#[$value_doc:meta])* $value:ident = $label:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$value_doc])* $value),* }

        impl $type {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [$type] = &[$($type::$value),*];

            /// The value of the label.
            pub const fn label(self) -> &'static str {
                match self { $($type::$value => $label),* }
            }
        }
    };
}

labels! {
    /// What a verb does to its keys.
    Class {
        /// It only reads.
        Read = "read",
        /// It may write.
        Write = "write",
        /// It has no key, or the proxy answers it.
        Other = "other",
    }
}

labels! {
    /// How a request ended, as its client saw it.
    Outcome {
        /// With a reply that is no error.
        Ok = "ok",
        /// With an error reply of a store.
        StoreError = "store_error",
        /// With our own error: an unknown or unsupported command, keys on several nodes, no permission.
        Refused = "refused",
        /// With our own error: the node is down, or its breaker open.
        Unavailable = "unavailable",
        /// With our own error: the node did not answer in time.
        TimedOut = "timed_out",
        /// With our own error: a limit of memory or of requests in flight was reached.
        Overloaded = "overloaded",
    }
}

labels! {
    /// What a client was not allowed.
    Denial {
        /// To be the user that it named, with the password that it gave.
        Auth = "auth",
        /// A command.
        Command = "command",
        /// A script, whose commands and keys nobody can tell.
        Script = "script",
        /// A key.
        Key = "key",
        /// A channel.
        Channel = "channel",
    }
}

labels! {
    /// How the TLS handshake of a client ended.
    Handshake {
        /// The client is served.
        Ok = "ok",
        /// The client did not speak TLS.
        Plain = "plain",
        /// Its certificate was missing or not accepted.
        Certificate = "certificate",
        /// It did not accept ours, or took offence otherwise, and said so.
        Refused = "refused",
        /// It broke the protocol, or has no version or cipher that we have.
        Protocol = "protocol",
        /// It went away.
        Closed = "closed",
        /// It took too long.
        TimedOut = "timeout",
        /// Too many were under way.
        Crowded = "crowded",
    }
}

labels! {
    /// Why a node gave no reply to a request.
    FailureKind {
        /// There was no connection, and none could be made in time.
        Connect = "connect",
        /// It could not be sent in time, or the queue was full.
        Queue = "queue",
        /// It was sent, and the reply did not come in time.
        Service = "service",
        /// The connection ended while the node owed the reply.
        Broken = "broken",
        /// The breaker was open: nothing was tried.
        Refused = "refused",
    }
}

labels! {
    /// How an attempt to connect ended.
    ConnectResult {
        /// Connected, and greeted where the node wants that.
        Ok = "ok",
        /// Refused, unreachable, too late, or not allowed.
        Failed = "failed",
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub(super) struct Counters<const N: usize>([Counter; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Counters<N> {
    pub(super) fn at(&self, index: usize) -> &Counter {
        self.0.get(index).expect("the enum of the label has as many values as the array")
    }
}

/// How many values `Class` has.
pub(super) const CLASSES: usize = Class::ALL.len();
/// How many values `Outcome` has.
pub(super) const OUTCOMES: usize = Outcome::ALL.len();
/// How many values `Denial` has.
pub(super) const DENIALS: usize = Denial::ALL.len();
/// How many values `Handshake` has.
pub(super) const HANDSHAKES: usize = Handshake::ALL.len();
/// How many values `FailureKind` has.
pub(super) const FAILURE_KINDS: usize = FailureKind::ALL.len();
/// How many values `ConnectResult` has.
pub(super) const CONNECT_RESULTS: usize = ConnectResult::ALL.len();

/// What one worker counts for one listener. The acceptor, being a writer too, asks for a group of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCells {
    pub(super) verbs: Verbs,
    /// Bytes read from clients.
    pub received_bytes: Counter,
    /// Bytes written to clients.
    pub sent_bytes: Counter,
    /// Connections accepted.
    pub clients_accepted: Counter,
    /// Connections closed at once: the limit of clients was reached.
    pub clients_rejected: Counter,
    /// Connections open.
    pub clients_open: Gauge,
    /// Connections closed for not speaking the protocol.
    pub protocol_errors: Counter,
    /// Connections closed because they did not read their replies.
    pub output_limit_kills: Counter,
    denials: Counters<DENIALS>,
    handshakes: Counters<HANDSHAKES>,
    /// Clients that listen to messages.
    pub subscribers: Gauge,
    /// What they listen to.
    pub subscriptions: Gauge,
    /// Messages handed to clients.
    pub messages_delivered: Counter,
    /// Messages that were not, because too much waited for the client.
    pub messages_dropped: Counter,
    /// Clients that track keys.
    pub tracking_clients: Gauge,
    /// Times that a client was told of keys that have changed.
    pub invalidations: Counter,
}

impl ListenerCells {
    /// What is counted of a verb.
    #[inline]
    pub fn verb(&self, verb: Verb) -> &VerbCells {
        self.verbs.at(verb)
    }

    /// Counts an error reply by its first word.
    #[cold]
    pub fn note_error(&self, reply: &[u8]) {
        self.verbs.note_error(reply);
    }

    /// How many requests of a class ended so.
    pub(super) fn requests(&self, class: Class, outcome: Outcome) -> u64 {
        self.verbs.of(class).map(|verb| verb.requests(outcome).get()).sum()
    }

    /// The counter of what was not allowed, by what it was.
    pub fn denials(&self, denial: Denial) -> &Counter {
        self.denials.at(denial as usize)
    }

    /// The counter of the TLS handshakes that ended so.
    pub fn handshakes(&self, handshake: Handshake) -> &Counter {
        self.handshakes.at(handshake as usize)
    }
}

/// What one worker counts for one node.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct NodeSheet {
    /// Requests given to the node.
    pub requests: Counter,
    /// Replies that begin with '-'.
    pub replies_error: Counter,
    failures: Counters<FAILURE_KINDS>,
    /// From the request written to the reply read.
    pub service_duration: Histogram,
    /// Requests that wait for their reply.
    pub in_flight: Gauge,
    /// Bytes that wait to be written.
    pub queued_bytes: Gauge,
    /// Connections open.
    pub connections: Gauge,
    connects: Counters<CONNECT_RESULTS>,
    /// Bytes written to the node.
    pub sent_bytes: Counter,
    /// Bytes read from the node.
    pub received_bytes: Counter,
    /// 1 while this worker's breaker is open, else 0.
    pub breaker_open: Gauge,
    /// Probes sent before the node is readmitted.
    pub probes: Counter,
    /// Writes that had to wait for the socket.
    pub stalled: Counter,
}

impl NodeSheet {
    /// The counter of the requests without a reply, by what went wrong.
    #[inline]
    pub fn failures(&self, kind: FailureKind) -> &Counter {
        self.failures.at(kind as usize)
    }

    /// The counter of the attempts to connect that ended so.
    #[inline]
    pub fn connects(&self, result: ConnectResult) -> &Counter {
        self.connects.at(result as usize)
    }
}

/// What one worker counts for itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCells {
    /// Bytes held by the buffers of this worker's clients and nodes.
    pub buffers_bytes: Gauge,
    /// Keys of which clients are to be told when they change.
    pub tracked_keys: Gauge,
    runtime: OnceLock<RuntimeMetrics>,
}

impl WorkerCells {
    /// Lets the scrape read how busy the worker's runtime is. Costs the worker nothing: the runtime counts anyway. The
    /// first call holds; a worker has one runtime.
    pub fn watch_runtime(&self, runtime: RuntimeMetrics) {
        self.runtime.get_or_init(|| runtime);
    }

    pub(super) fn runtime(&self) -> Option<&RuntimeMetrics> {
        self.runtime.get()
    }
}
