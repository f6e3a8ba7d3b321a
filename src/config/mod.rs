//! The configuration: read from one TOML file, checked as a whole, watched for edits.
//!
//! [`load`] turns a file into a [`Config`] or into [`Faults`] that show every mistake at once. The server builds its
//! parts from a `Config`; [`watch`] says when to load again, [`reload`] what a new one cannot change in a running
//! process. A request never meets this module: it meets the topology that is built from it.
//!
//! # Invariants
//! - A `Config` is whole: names resolve, rings build, bounds hold. Nothing downstream checks again.
//! - [`check_text`] is pure and never panics, whatever the text.
//! - Secrets print as `***`, and are in no error and no schema. Passwords of clients are kept as hashes.
//!
//! It does not merge files, read settings from the environment, or know the formats of other proxies except to
//! translate them once ([`import`]).

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::acl;
use crate::command::Configured;
use crate::quorum::{Adopt, Level, Quorums};
use crate::ring;

mod address;
mod check;
mod expiry;
mod faults;
mod file;
pub mod import;
mod pool;
mod reference;
pub mod reload;
mod replication;
mod schema;
mod secret;
mod shape;
mod tls;
mod users;
pub mod watch;

pub use address::{Address, AddressError, Bind};
pub use faults::{Fault, Faults};
pub use file::Protocol;
pub use reference::markdown;
pub use schema::schema;
pub use secret::Secret;
pub use tls::{ListenerTls, StoreTls};
pub use users::AclAtRunTime;

/// The most a configuration file may have. Ten thousand nodes take about one mebibyte.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A configuration that holds together.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of the whole process.
    pub proxy: Proxy,
    /// The port for operators.
    pub admin: Admin,
    /// Ports for clients; at least one, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Sets of stores; at least one, in the order of the file.
    pub pools: Vec<Pool>,
    /// Who may sign in. `default` is here only if the file names it; [`Listener::default_user`] is the one that holds.
    pub users: Arc<acl::Users>,
    /// Whether some of the users are in a file of their own.
    pub has_acl_file: bool,
    /// Verbs beside those that quoit knows.
    pub commands: Configured,
    /// The hash of the file's text, to tell edits and differing instances; see [`content_hash`].
    pub content_hash: u64,
    /// What [`watch`] compares to tell whether to load again; none if the file could not be read at first.
    pub fingerprint: Option<u64>,
    /// The file with every default filled in, to show to people. It names secrets but holds none.
    pub effective: Value,
}

/// Settings of the whole process.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Threads that serve clients.
    pub workers: usize,
    /// Clients connected at once, over all listeners.
    pub clients_max: usize,
    /// Bytes in all buffers together.
    pub memory_bytes_max: u64,
    /// How long a shutdown waits for accepted requests.
    pub drain_timeout: Duration,
    /// Connections to stores opened in one second, over all nodes.
    pub connects_per_second_max: u32,
    /// From how many microseconds on `SLOWLOG` keeps a request; negative for never.
    pub slowlog_us: i64,
    /// How many requests `SLOWLOG` keeps.
    pub slowlog_len: usize,
    /// Bytes of the tables of keys that clients track, over all workers.
    pub tracking_bytes_max: u64,
    /// Whether users can be changed at run time.
    pub acl_at_run_time: AclAtRunTime,
}

/// The port for operators.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens, unless it is off.
    pub bind: Option<SocketAddr>,
    /// What requests that change something must carry. Always there for an address that is not loopback.
    pub token: Option<Secret>,
    /// Names under which it may be asked besides `localhost`.
    pub host_names: Vec<String>,
}

/// A port for clients.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What logs and metrics call it; unique.
    pub name: String,
    /// Where it listens; no other listener's.
    pub bind: Bind,
    /// The permissions of its Unix socket.
    pub socket_mode: u32,
    /// What clients speak.
    pub protocol: Protocol,
    /// The pool for keys that no route takes: an index into [`Config::pools`].
    pub pool: usize,
    /// Longest prefix first, so the first that matches is the one.
    pub routes: Vec<Route>,
    /// Who a client is before it signs in, and who has the listener's own password if it has one.
    pub default_user: Arc<acl::User>,
    /// How its connections are enciphered; none is plain text.
    pub tls: Option<ListenerTls>,
    /// Bytes of one argument of a request.
    pub request_bytes_max: u64,
    /// Bytes of one request that must be held whole to be split.
    pub query_buffer_bytes_max: u64,
    /// Bytes of replies waiting for one client.
    pub client_output_bytes_max: u64,
    /// Keys in one command.
    pub keys_per_command_max: usize,
    /// Bytes of the replies to the parts of one split command.
    pub multi_key_reply_bytes_max: u64,
    /// Bytes of the reply to one `KEYS`.
    pub keys_reply_bytes_max: u64,
    /// How long a command that goes over all keys may take.
    pub keyspace_timeout: Duration,
    /// How long a client may be silent.
    pub idle_timeout: Option<Duration>,
    /// Whether it passes for a Redis Cluster of one node.
    pub cluster_emulation: bool,
    /// Whether `PING` asks the stores.
    pub ping_asks_stores: bool,
    /// Where that node is said to be, unless it is the address that the client has connected to.
    pub cluster_announce: Option<Announce>,
}

/// An address as others know it: a host name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl Listener {
    /// The route that takes this key, if any does.
    pub fn route(&self, key: &[u8]) -> Option<&Route> {
        self.routes.iter().find(|route| key.starts_with(&route.prefix))
    }

    /// The user of that name, as clients of this listener see it.
    pub fn user<'c>(&'c self, config: &'c Config, name: &[u8]) -> Option<&'c Arc<acl::User>> {
        if name == acl::DEFAULT.as_bytes() { Some(&self.default_user) } else { config.users.get(name) }
    }
}

/// Sends the keys with a prefix to another pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What a key starts with; not empty.
    pub prefix: Vec<u8>,
    /// An index into [`Config::pools`].
    pub pool: usize,
    /// What the store sees of the key.
    pub rewrite: Rewrite,
    /// What commands for these keys want of the replicas, in place of the pool's level. Only where the pool has more than
    /// one, and its quorums suffice.
    pub level: Option<Level>,
}

/// What a store sees of a routed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The key as it came.
    Keep,
    /// The key without the prefix.
    Strip,
    /// The key with this in place of the prefix.
    Replace(Vec<u8>),
}

impl Route {
    /// The key that the store sees. `key` starts with the prefix.
    pub fn rewritten<'k>(&self, key: &'k [u8]) -> std::borrow::Cow<'k, [u8]> {
        let rest = key.strip_prefix(self.prefix.as_slice()).unwrap_or(key);
        match &self.rewrite {
            Rewrite::Keep => key.into(),
            Rewrite::Strip => rest.into(),
            Rewrite::Replace(replacement) => [replacement, rest].concat().into(),
        }
    }
}

/// A set of stores that share a ring.
#[derive(Clone, Debug)]
pub struct Pool {
    /// What logs and metrics call it; unique.
    pub name: String,
    /// What the stores speak.
    pub protocol: Protocol,
    /// On how many nodes each key is kept: not more than there are. The same number as in `quorums`.
    pub replicas: u32,
    /// How many databases clients may select; 1 with more than one replica.
    pub databases: u16,
    /// How many of them must answer. They [meet](Quorums::check) if the level of the pool or of a route to it needs that.
    pub quorums: Quorums,
    /// What commands want of the replicas unless their route says otherwise; `linearizable` with one replica.
    pub level: Level,
    /// How long a replicated operation may take with all its tries.
    pub operation_timeout: Duration,
    /// When a read asks one more replica; `None` for never.
    pub hedge: Option<Duration>,
    /// Keys of this pool that may wait in one worker for background repair.
    pub repair_queue_len: usize,
    /// How long the record of a deleted key is kept.
    pub tombstone_grace: Duration,
    /// Which of several values without a version wins.
    pub adopt: Adopt,
    /// How keys are placed. It has been built once, so it builds.
    pub ring: ring::RingSpec,
    /// The stores, in the order of the ring's members.
    pub nodes: Vec<Node>,
    /// How connections to them are enciphered; none is plain text.
    pub tls: Option<StoreTls>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When a failing node is left alone.
    pub breaker: Breaker,
    /// Unsent bytes on one store connection.
    pub queue_bytes_max: usize,
    /// Unanswered requests on one store connection.
    pub in_flight_max: usize,
    /// Connections to one store that clients may have to themselves, for each worker.
    pub exclusive_connections_max: usize,
    /// From which size on a value streams through.
    pub stream_threshold_bytes: usize,
}

/// A store.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its identity on the ring; unique in the pool.
    pub name: String,
    /// Where it listens; unique in the pool.
    pub address: Address,
    /// Its part of the keys relative to the others.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// The user to authenticate as; only with a password.
    pub username: Option<String>,
    /// The password to authenticate with.
    pub password: Option<Secret>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection, authentication included.
    pub connect: Duration,
    /// Waiting in the proxy.
    pub queue: Duration,
    /// From sent to answered.
    pub service: Duration,
}

/// When a failing node is left alone, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Failed requests in a row that open it; a failed connect does at once.
    pub failures: u32,
    /// The wait before the first probe.
    pub backoff_min: Duration,
    /// The longest wait between probes; not less than `backoff_min`.
    pub backoff_max: Duration,
    /// How long until a node that came back gets all of its requests; may be zero.
    pub ramp: Duration,
}

/// Why a file did not become a [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no configuration at all, by its size or its bytes.
    #[error("{} is not a configuration: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        reason: &'static str,
    },
    /// It was read and is wrong.
    #[error("{0}")]
    Faults(Faults),
}

impl LoadError {
    /// The error for a terminal, with its cause and in colours.
    pub fn render_with_colours(&self) -> String {
        match self {
            Self::Faults(faults) => faults.render_with_colours(),
            Self::Read { source, .. } => format!("error: {self}: {source}"),
            Self::NotText { .. } => format!("error: {self}"),
        }
    }
}

/// Reads and checks a configuration file, secrets included.
///
/// # Errors
/// When the file or one of its secrets cannot be read, or anything in it is wrong.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    // Before anything is read: what changes meanwhile is noticed.
    let fingerprint = watch::fingerprint(path);
    let text = read(path)?;
    let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let checked = check::check(&path.display().to_string(), &text, &secret::Secrets::Read(directory));
    checked.map(|config| Config { fingerprint, ..config }).map_err(LoadError::Faults)
}

/// Checks the text of a configuration file. `name` is what faults call it. Secrets are not read and come out empty.
///
/// # Errors
/// When anything in it is wrong.
pub fn check_text(name: &str, text: &str) -> Result<Config, Faults> {
    check::check(name, text, &secret::Secrets::Unread)
}

/// The hash by which edits and differing instances are told: XXH3 of the bytes.
pub fn content_hash(text: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text)
}

fn read(path: &Path) -> Result<String, LoadError> {
    let not_text = |reason| LoadError::NotText { path: path.to_owned(), reason };
    let bytes = bytes(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(not_text("it is longer than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| not_text("it is not UTF-8"))
}

/// A file up to one byte more than it may have.
fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
