//! `PUBLISH` and `SPUBLISH`: to one node, the first in the ring's order of the channel that is available.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::census::Count;
use super::{ExpectedListeners, Kind, SHARD_NODES};
use crate::backend::redis::Node;
use crate::backend::{Cause, Flow, Piece, ReplySink, Tag};
use crate::command::{PubSubVerb, reply};
use crate::config::Listener;
use crate::coordinator::{Coordinator, Request, Verdict, refuse};
use crate::metrics::Outcome;
use crate::replication::Cursor;
use crate::topology::View;

impl Coordinator {
    /// Whether a client of this process is about to listen to a channel.
    pub fn expects_listeners(&self, view: &View, listener: &Listener, kind: Kind, channel: &[u8]) -> bool {
        let pool = view.topology.pools.get(listener.pool).map_or("", |pool| &pool.name);
        self.expected_listeners().are_due(pool, kind, channel)
    }

    /// Clients of this process that are about to listen.
    pub fn expected_listeners(&self) -> &Arc<ExpectedListeners> {
        &self.pubsub.census.expected
    }

    /// Publishes. The reply is how many clients of this process and connections of others the store has told.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub fn publish(
        &self,
        view: &View,
        listener: &Listener,
        verb: PubSubVerb,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let tag = Tag { slot, part: 0 };
        let channel = request.args.get(1).unwrap_or_default();
        let Some((_, own)) = view.owner(listener.pool, channel) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let kind = if verb == PubSubVerb::Spublish { Kind::Shard } else { Kind::Channel };
        let pool = view.topology.pools.get(listener.pool).map_or("", |pool| &pool.name);
        let sink = match self.pubsub.census.audience(pool, kind, channel) {
            None => Rc::clone(sink),
            Some(audience) => Rc::new(Corrected { sink: Rc::clone(sink), audience }),
        };
        let send = |node: &Rc<Node>| node.send(request.frame, request.version, &sink, tag);
        if own.is_steady() {
            match send(own) {
                Ok(()) => return Verdict::Sent,
                Err(cause) if is_away(&cause) => {}
                Err(cause) => return Verdict::Answered(refuse(own, cause, out)),
            }
        }
        let most = if kind == Kind::Shard { SHARD_NODES } else { usize::MAX };
        for node in stand_ins(view, listener.pool, channel, most) {
            match send(&node) {
                Ok(()) => return Verdict::Sent,
                Err(cause) if is_away(&cause) => {}
                Err(cause) => return Verdict::Answered(refuse(&node, cause, out)),
            }
        }
        match send(own) {
            Ok(()) => Verdict::Sent,
            Err(cause) => Verdict::Answered(refuse(own, cause, out)),
        }
    }
}

/// The nodes that may serve a channel, in the ring's order; those that have only just come back, to which some may not
/// listen yet, stand last.
fn stand_ins(view: &View, pool: usize, channel: &[u8], most: usize) -> Vec<Rc<Node>> {
    let nodes = view.nodes_in(pool);
    let Some(pool) = view.topology.pools.get(pool) else { return Vec::new() };
    let order = pool.ring.replicas(channel, most.min(nodes.len()));
    let mut order: Vec<Rc<Node>> =
        order.iter().filter_map(|member| nodes.get(usize::from(member.0)).map(Rc::clone)).collect();
    order.sort_by_key(|node| !node.is_steady());
    order
}

/// Whether a node is down, so that another stands in for it. One that is only busy keeps its channels, and their order.
fn is_away(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_) | Cause::BreakerOpen(_) | Cause::Unsent(_) => true,
        Cause::QueueTimeout(_) | Cause::Overloaded | Cause::Behind | Cause::ServiceTimeout(_) | Cause::Broken(_) => {
            false
        }
    }
}

/// Puts the store's count right.
struct Corrected {
    sink: Rc<dyn ReplySink>,
    audience: Count,
}

impl ReplySink for Corrected {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let sink = Rc::clone(&self.sink);
        let Piece::Whole(bytes) = piece else { return sink.reply(tag, piece) };
        let Some(counted) = Cursor::new(bytes).integer() else { return sink.reply(tag, piece) };
        let mut out = Vec::new();
        reply::integer(&mut out, self.audience.correct(counted));
        sink.reply(tag, Piece::Whole(&out))
    }

    fn ready(&self, tag: Tag, waker: &Waker) -> bool {
        self.sink.ready(tag, waker)
    }

    fn origin(&self) -> usize {
        self.sink.origin()
    }

    fn make_way(&self) {
        self.sink.make_way();
    }
}
