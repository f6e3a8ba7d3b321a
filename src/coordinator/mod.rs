//! One command to one reply: finds the nodes that hold its keys and sends each what concerns it.
//!
//! A request whose keys live on one node goes there as it came (`docs/decisions/2026-11-23-raw-frames.md`). One that
//! may be split (`MGET`, `MSET`, `DEL`, …) becomes a fragment for each node, and `merge` makes one reply of theirs. Keys
//! that must live together and do not are refused as Redis Cluster refuses them.
//!
//! # Invariants
//! - The view of the topology is taken once for each request.
//! - What is sent is what is hashed: a route that rewrites a key rewrites it before the ring sees it.
//! - Each request is answered exactly once, by the sink or by [`Verdict::Answered`].

mod blocking;
pub mod exchange;
mod fragment;
mod gather;
mod keyspace;
mod merge;
mod presence;
mod programs;
pub mod pubsub;
mod replicated;
pub mod tracking;
mod transaction;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Semaphore;

use crate::backend::redis::{Lease, Node};
use crate::backend::{Cause, Context, Failure, ReplySink, Stores, Tag};
use crate::command::{self, Args, Handling, KeyIndexes, Row, reply};
use crate::config::{Listener, Rewrite};
use crate::metrics::{Metrics, Outcome};
use crate::protocol::resp::{Version, write_bulk, write_header};
use crate::quorum::Level;
use crate::replication::{Engine, Group, Taken};
use crate::topology::{Place, View};

pub use blocking::{Block, Client as BlockedClient, Signs, Unblock};
pub use keyspace::Client;
pub use programs::Sources;
pub use transaction::{Part, Way};

use merge::Pool as MergePool;
use programs::Programs;
use pubsub::{Census, PubSub};
use replicated::Groups;
use tracking::Tracking;

/// A request whose row is known.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its bytes.
    pub frame: &'a [u8],
    /// Its arguments.
    pub args: Args<'a>,
    /// What the table says of it.
    pub row: &'static Row,
    /// The protocol version in which the client wants the reply.
    pub version: Version,
    /// What the client asks of replicas, if it has said so.
    pub level: Option<Level>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The sink will hear of it.
    Sent,
    /// The answer was appended to `out`.
    Answered(Outcome),
}

/// Sends requests; one for each worker.
pub struct Coordinator {
    context: Rc<Context>,
    merges: Rc<MergePool>,
    engine: Rc<Engine<Stores>>,
    groups: Groups,
    programs: Programs,
    turns: Rc<blocking::Turns>,
    pubsub: PubSub,
    tracking: Rc<Tracking>,
    /// How many more questions may be asked aside of `PING`.
    aside: Semaphore,
    /// Whether any pool has several replicas.
    replicates: Cell<bool>,
    /// Whether this worker looks after the stores for all.
    leads: bool,
}

/// Where a request has to go, as [`Coordinator::dispatch`] works on it.
struct Target<'v> {
    view: &'v View,
    listener: &'v Listener,
}

impl Target<'_> {
    /// The owner of a key, and how its route rewrites it.
    #[inline]
    fn owner(&self, key: &[u8]) -> Option<(Place, &Rc<Node>, &Rewrite)> {
        if self.listener.routes.is_empty() {
            let (place, node) = self.view.owner(self.listener.pool, key)?;
            return Some((place, node, &Rewrite::Keep));
        }
        match self.listener.route(key) {
            None => {
                let (place, node) = self.view.owner(self.listener.pool, key)?;
                Some((place, node, &Rewrite::Keep))
            }
            Some(route) => {
                let (place, node) = self.view.owner(route.pool, &route.rewritten(key))?;
                Some((place, node, &route.rewrite))
            }
        }
    }
}

impl Coordinator {
    /// The coordinator of worker number `worker`. The first one leads: it begins pools and rebuilds their stores. All share
    /// the `sources` of scripts, the `signs` for clients that wait and the `census` of those who listen.
    pub fn new(
        context: &Rc<Context>,
        worker: usize,
        sources: &Arc<Sources>,
        signs: &Arc<Signs>,
        census: &Arc<Census>,
    ) -> Self {
        Self {
            context: Rc::clone(context),
            merges: Rc::default(),
            engine: Engine::new(Stores::new(Rc::clone(context)), fastrand::u64(..)),
            groups: Groups::default(),
            programs: Programs::new(Arc::clone(sources)),
            pubsub: PubSub::new(context, census),
            tracking: Tracking::new(context),
            aside: Semaphore::new(presence::ASIDE_MAX),
            replicates: Cell::new(false),
            turns: blocking::Turns::new(signs, worker),
            leads: worker == 0,
        }
    }

    /// Takes a new view.
    pub fn refresh(&self, view: &View, metrics: &Metrics) {
        self.groups.refresh(view, &self.engine, self.leads, metrics);
        self.replicates.set(self.groups.any());
    }

    /// What is dispatched from now on is one batch of one client. Whether [`Coordinator::end_batch`] has to follow, before
    /// anything else happens on this thread.
    #[inline]
    pub fn begin_batch(&self) -> bool {
        self.replicates.get() && self.engine.begin_batch()
    }

    /// The batch is over: what was gathered of it is sent.
    pub fn end_batch(&self) {
        self.engine.end_batch();
    }

    /// The worker drains: what runs for nobody ends.
    pub fn end(&self) {
        self.engine.end();
        self.pubsub.end();
        self.tracking.end();
    }

    /// The messages of this worker.
    pub fn pubsub(&self) -> &PubSub {
        &self.pubsub
    }

    /// What clients of this worker hold of keys.
    pub fn tracking(&self) -> &Rc<Tracking> {
        &self.tracking
    }

    /// The group of a pool with several replicas.
    pub fn group(&self, pool: usize) -> Option<Rc<Group<Stores>>> {
        self.groups.get(pool)
    }

    /// What replicates.
    pub fn engine(&self) -> &Rc<Engine<Stores>> {
        &self.engine
    }

    /// Sends a request that stores answer.
    #[inline]
    pub fn dispatch(
        &self,
        view: &View,
        listener: &Listener,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let target = Target { view, listener };
        if self.replicates.get()
            && view.database() == 0 // Pools with several replicas have no other.
            && let Some(verdict) = self.dispatch_replicated(&target, request, sink, Tag { slot, part: 0 }, out)
        {
            return verdict;
        }
        if let (Handling::Forward, Some(at)) = (request.row.handling, request.row.single_key_at)
            && let Some(key) = request.args.get(usize::from(at))
            && let Some((_, node, Rewrite::Keep)) = target.owner(key)
        {
            let sent = node.send(request.frame, request.version, sink, Tag { slot, part: 0 });
            return verdict(node, sent, out);
        }
        self.dispatch_keys(&target, request, sink, slot, out)
    }

    fn dispatch_keys(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let mut keys = KeyIndexes::new();
        if command::keys(request.row, &request.args, &mut keys).is_err() {
            // Without keys the request is malformed: any store refuses it in its own words and touches nothing.
            return self.send_anywhere(target, request, sink, slot, out);
        }
        let most = target.listener.keys_per_command_max;
        if keys.len() > most {
            reply::too_large(out, "keys in one command", most);
            return Verdict::Answered(Outcome::Refused);
        }
        let mut places: SmallVec<[Place; 16]> = SmallVec::new();
        let mut rewritten = false;
        for at in &keys {
            let owner = request.args.get(*at as usize).and_then(|key| target.owner(key));
            let Some((place, _, rewrite)) = owner else {
                reply::no_pool(out);
                return Verdict::Answered(Outcome::Refused);
            };
            rewritten |= *rewrite != Rewrite::Keep;
            places.push(place);
        }
        let Some(first) = places.first().copied() else {
            return self.send_anywhere(target, request, sink, slot, out);
        };
        let together = places.iter().all(|place| *place == first);
        match request.row.handling {
            Handling::Split(rule) if !together => {
                let plan = fragment::Plan { rule, keys: &keys, places: &places };
                self.split(target, request, &plan, sink, slot)
            }
            _ if together => match target.view.node(first) {
                None => {
                    reply::no_pool(out);
                    Verdict::Answered(Outcome::Refused)
                }
                Some(node) => {
                    let tag = Tag { slot, part: 0 };
                    let sent = if rewritten {
                        send_rewritten(target, request, &keys, node, sink, tag)
                    } else {
                        node.send(request.frame, request.version, sink, tag)
                    };
                    verdict(node, sent, out)
                }
            },
            _ => {
                reply::crossslot(out);
                Verdict::Answered(Outcome::Refused)
            }
        }
    }

    fn send_anywhere(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let tag = Tag { slot, part: 0 };
        if let Some(group) = self.groups.get(target.listener.pool) {
            return match self.engine.ask_any_store(&group, request.frame, request.version, sink, tag, out) {
                Taken::Sent => Verdict::Sent,
                Taken::Answered => Verdict::Answered(Outcome::Unavailable),
            };
        }
        let nodes = target.view.nodes_in(target.listener.pool);
        let Some(node) = nodes.iter().find(|node| node.is_available()).or(nodes.first()) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let sent = node.send(request.frame, request.version, sink, tag);
        verdict(node, sent, out)
    }

    fn split(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        plan: &fragment::Plan<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
    ) -> Verdict {
        let fragments = plan.fragments();
        let most = usize::try_from(target.listener.multi_key_reply_bytes_max).unwrap_or(usize::MAX);
        let merge = self.merges.take(plan, &fragments, sink, slot, most);
        let part_sink: Rc<dyn ReplySink> = Rc::<merge::Merge>::clone(&merge);
        for (part, fragment) in fragments.iter().enumerate() {
            let tag = Tag { slot: 0, part: u32::try_from(part).unwrap_or(u32::MAX) };
            let Some(node) = target.view.node(fragment.place) else { continue };
            let rewrite = |key: &[u8], out: &mut Vec<u8>| match target.owner(key) {
                Some((_, _, rewrite)) => write_bulk(out, &rewritten_key(target, key, rewrite)),
                None => write_bulk(out, key),
            };
            let mut write = |out: &mut Vec<u8>| plan.write(request, fragment, &rewrite, out);
            let sent = node.send_with(fragment.bytes_about(request), &mut write, request.version, &part_sink, tag);
            if let Err(cause) = sent {
                // The other fragments go on: a part that fails fails alone (FAILURES F5).
                let failure = Failure { node: Arc::clone(&node.options().label), cause };
                merge.part_failed(part, &failure);
            }
        }
        merge.all_sent();
        Verdict::Sent
    }

    /// A connection for a request too big to be held, of a verb with one key at a fixed place. None where the request
    /// cannot go through untouched.
    ///
    /// # Errors
    /// Why there is none; the answer was appended to `out`.
    pub fn lease(
        &self,
        view: &View,
        listener: &Listener,
        key: &[u8],
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<Option<Lease>, Outcome> {
        let target = Target { view, listener };
        let Some((place, node, Rewrite::Keep)) = target.owner(key) else { return Ok(None) };
        if self.groups.get(usize::from(place.pool)).is_some() {
            return Ok(None); // It goes to several.
        }
        node.lease(version).map(Some).map_err(|cause| refuse(node, cause, out))
    }
}

fn rewritten_key<'k>(target: &Target<'_>, key: &'k [u8], rewrite: &Rewrite) -> std::borrow::Cow<'k, [u8]> {
    match rewrite {
        Rewrite::Keep => key.into(),
        Rewrite::Strip | Rewrite::Replace(_) => {
            target.listener.route(key).map_or_else(|| key.into(), |route| route.rewritten(key))
        }
    }
}

fn send_rewritten(
    target: &Target<'_>,
    request: &Request<'_>,
    keys: &[u32],
    node: &Rc<Node>,
    sink: &Rc<dyn ReplySink>,
    tag: Tag,
) -> Result<(), Cause> {
    let mut write = |out: &mut Vec<u8>| {
        write_header(out, b'*', request.args.len());
        for (at, arg) in request.args.iter().enumerate() {
            let is_key = keys.iter().any(|key| *key as usize == at);
            match target.listener.route(arg) {
                Some(route) if is_key => write_bulk(out, &route.rewritten(arg)),
                _ => write_bulk(out, arg),
            }
        }
    };
    node.send_with(request.frame.len(), &mut write, request.version, sink, tag)
}

/// What became of a request that was offered to one node.
#[inline]
fn verdict(node: &Node, sent: Result<(), Cause>, out: &mut Vec<u8>) -> Verdict {
    match sent {
        Ok(()) => Verdict::Sent,
        Err(cause) => Verdict::Answered(refuse(node, cause, out)),
    }
}

/// Appends the error of a request that a node cannot take.
fn refuse(node: &Node, cause: Cause, out: &mut Vec<u8>) -> Outcome {
    let failure = Failure { node: Arc::clone(&node.options().label), cause };
    write_failure(&failure, out)
}

/// Appends the error that a client sees for a failure; its outcome.
pub fn write_failure(failure: &Failure, out: &mut Vec<u8>) -> Outcome {
    reply::node_failed(out, &failure.node, &failure.cause);
    match &failure.cause {
        Cause::Connect(_) | Cause::BreakerOpen(_) | Cause::Behind | Cause::Unsent(_) | Cause::Broken(_) => {
            Outcome::Unavailable
        }
        Cause::QueueTimeout(_) | Cause::ServiceTimeout(_) => Outcome::TimedOut,
        Cause::Overloaded => Outcome::Overloaded,
    }
}
