//! Clients that listen: what they may say meanwhile, what they are told, and how much may wait for them.
//!
//! # Invariants
//! - A client is told of a subscription before it is told any message of it, and of no message after it was told of its end.
//! - What waits for one client is bounded (`client_output_bytes_max`). A client beyond that is closed, as Redis closes one
//!   beyond its `client-output-buffer-limit`; no other client waits for it.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::intake::Obstacle;
use super::output::Last;
use super::requests::{Handled, verb_of};
use super::session::{HELD_BYTES, Inner, Session};
use crate::acl::User;
use crate::backend::ReplySink;
use crate::command::reply::{self, Resp};
use crate::command::{Args, Handling, LocalVerb, PubSubVerb, Row};
use crate::config::Listener;
use crate::coordinator::pubsub::{Kind, Name, Push, Subscriber};
use crate::coordinator::{Request, Verdict};
use crate::metrics::Outcome;
use crate::protocol::resp::{Version, write_bulk, write_header};
use crate::topology::View;

/// What a name costs about, beside its bytes: its places in the sets of the session, the hub and the connections.
const NAME_BYTES: usize = 256;
/// While the worker's memory is full, a client for which more waits than this is closed when more comes.
const HELD_WHILE_FULL_BYTES: usize = 64 * 1024;

/// What one client listens to.
#[derive(Default)]
pub(super) struct Subscriptions {
    names: [HashSet<Name>; 3],
    bytes: usize,
    /// The request that waits for the stores.
    slot: Option<u32>,
}

impl Subscriptions {
    /// What they cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Channels, patterns and shard channels.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let [channels, patterns, shards] = &self.names;
        (channels.len(), patterns.len(), shards.len())
    }

    /// The number that goes with a confirmation: shard channels are counted apart.
    fn count(&self, kind: Kind) -> usize {
        match (kind, self.counts()) {
            (Kind::Shard, (_, _, shards)) => shards,
            (Kind::Channel | Kind::Pattern, (channels, patterns, _)) => channels + patterns,
        }
    }

    /// Whether this user may listen to all of them.
    pub(super) fn are_allowed(&self, user: &User) -> bool {
        let allowed = |kind: Kind| {
            self.names.get(kind as usize).into_iter().flatten().all(|name| match kind {
                Kind::Pattern => user.may_hear_pattern(name),
                Kind::Channel | Kind::Shard => user.may_hear(name),
            })
        };
        [Kind::Channel, Kind::Pattern, Kind::Shard].into_iter().all(allowed)
    }

    fn is_empty(&self) -> bool {
        self.slot.is_none() && self.names.iter().all(HashSet::is_empty)
    }

    fn add(&mut self, kind: Kind, name: &Name) {
        if self.names.get_mut(kind as usize).is_some_and(|names| names.insert(Rc::clone(name))) {
            self.bytes += name.len() + NAME_BYTES;
        }
    }

    fn remove(&mut self, kind: Kind, name: &[u8]) -> bool {
        let removed = self.names.get_mut(kind as usize).is_some_and(|names| names.remove(name));
        if removed {
            self.bytes -= name.len() + NAME_BYTES;
        }
        removed
    }

    /// How many names.
    fn len(&self) -> usize {
        self.names.iter().map(HashSet::len).sum()
    }

    fn all(&self, kind: Kind) -> Vec<Name> {
        self.names.get(kind as usize).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

/// Whether a client that speaks RESP2 may say it while it listens.
pub(super) fn is_allowed(row: &Row) -> bool {
    match row.handling {
        Handling::PubSub(verb) => changes(verb).is_some(),
        Handling::Local(verb) => matches!(verb, LocalVerb::Ping | LocalVerb::Quit | LocalVerb::Reset),
        _ => false,
    }
}

/// The reply to `PING` of a client that speaks RESP2 and listens: it has to look like a message.
pub(super) fn ping(args: &Args<'_>, out: &mut Vec<u8>) {
    reply::array_header(out, 2);
    reply::bulk(out, b"pong");
    reply::bulk(out, args.get(1).unwrap_or_default());
}

/// What a verb does to subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Begin,
    End,
}

fn changes(verb: PubSubVerb) -> Option<(Change, Kind)> {
    Some(match verb {
        PubSubVerb::Subscribe => (Change::Begin, Kind::Channel),
        PubSubVerb::Psubscribe => (Change::Begin, Kind::Pattern),
        PubSubVerb::Ssubscribe => (Change::Begin, Kind::Shard),
        PubSubVerb::Unsubscribe => (Change::End, Kind::Channel),
        PubSubVerb::Punsubscribe => (Change::End, Kind::Pattern),
        PubSubVerb::Sunsubscribe => (Change::End, Kind::Shard),
        PubSubVerb::Publish
        | PubSubVerb::Spublish
        | PubSubVerb::Channels
        | PubSubVerb::Numpat
        | PubSubVerb::Numsub
        | PubSubVerb::Shardchannels
        | PubSubVerb::Shardnumsub => return None,
    })
}

/// Who hears what a verb publishes.
fn published_to(verb: PubSubVerb) -> Kind {
    if verb == PubSubVerb::Spublish { Kind::Shard } else { Kind::Channel }
}

/// Appends the confirmation of one name, as RESP3 has it.
fn write_confirmation(out: &mut Vec<u8>, word: &str, name: Option<&[u8]>, count: usize, version: Version) {
    write_header(out, b'>', 3);
    write_bulk(out, word.as_bytes());
    match name {
        Some(name) => write_bulk(out, name),
        None => reply::null(out, if version == Version::Resp2 { Resp::Two } else { Resp::Three }),
    }
    reply::integer(out, i64::try_from(count).unwrap_or(i64::MAX));
}

/// The first byte of what a client is told unasked.
pub(super) fn marker(version: Version) -> u8 {
    match version {
        Version::Resp2 => b'*',
        Version::Resp3 => b'>',
    }
}

impl Session {
    /// Whether the client listens and speaks RESP2, so that it may say little.
    pub(super) fn is_confined(&self) -> bool {
        let inner = self.inner.borrow();
        inner.version == Version::Resp2 && inner.subscriptions.is_some()
    }

    pub(super) fn handle_pubsub(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: PubSubVerb,
        request: &Request<'_>,
    ) -> Handled {
        // Messages know no databases.
        let base = (view.database() != 0).then(|| self.worker.view());
        let view = base.as_ref().unwrap_or(view);
        if let Some((change, kind)) = changes(verb) {
            {
                // A confirmation has its place among the replies, and what it confirms is not to be overtaken.
                let mut inner = self.inner.borrow_mut();
                if !inner.output.slots.is_empty() {
                    inner.obstacle = Obstacle::Due;
                    return Handled::NotYet;
                }
                inner.alone = true;
            }
            match change {
                Change::Begin => self.listen(view, kind, request),
                Change::End => self.listen_no_more(kind, request),
            }
            return Handled::Yes;
        }
        let published = matches!(verb, PubSubVerb::Publish | PubSubVerb::Spublish);
        let channel = published.then(|| request.args.get(1).unwrap_or_default());
        if self.waits_for_listeners(view, listener, published_to(verb), &mut channel.into_iter()) {
            return Handled::NotYet;
        }
        let slot = self.open_slot(verb_of(request.row));
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut out = Vec::new();
        let coordinator = &self.worker.coordinator;
        let verdict = match verb {
            PubSubVerb::Publish | PubSubVerb::Spublish => {
                coordinator.publish(view, listener, verb, request, &sink, slot, &mut out)
            }
            _ => coordinator.ask_about_messages(view, listener, verb, request, &sink, slot, &mut out),
        };
        if let Verdict::Answered(outcome) = verdict {
            self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
        }
        Handled::Yes
    }

    /// Whether clients that were there before are about to listen to one of these channels: the request comes again when
    /// they do.
    pub(super) fn waits_for_listeners(
        self: &Rc<Self>,
        view: &View,
        listener: &Listener,
        kind: Kind,
        channels: &mut dyn Iterator<Item = &[u8]>,
    ) -> bool {
        let has_waited = std::mem::take(&mut self.inner.borrow_mut().waited);
        let coordinator = &self.worker.coordinator;
        let due = |channel: &&[u8]| coordinator.expects_listeners(view, listener, kind, channel);
        let channels: Vec<Vec<u8>> = channels.filter(due).map(<[u8]>::to_vec).collect();
        if has_waited || channels.is_empty() {
            return false;
        }
        self.inner.borrow_mut().obstacle = Obstacle::Listeners;
        let pool = view.topology.pools.get(listener.pool).map_or("", |pool| &pool.name).to_owned();
        let session = Rc::clone(self);
        let expected = Arc::clone(coordinator.expected_listeners());
        self.worker.context.spawn(async move {
            expected.settle(|| channels.iter().any(|channel| expected.are_due(&pool, kind, channel))).await;
            let mut inner = session.inner.borrow_mut();
            inner.waited = true;
            inner.wake();
        });
        true
    }

    fn listen(self: &Rc<Self>, view: &Rc<View>, kind: Kind, request: &Request<'_>) {
        let slot = self.open_slot(verb_of(request.row));
        self.inner.borrow_mut().subscriptions.get_or_insert_default().slot = Some(slot);
        let subscriber: Rc<dyn Subscriber> = Rc::<Self>::clone(self);
        let pubsub = self.worker.coordinator.pubsub();
        pubsub.subscribe(view, self.listener, kind, &mut request.args.iter().skip(1), &subscriber);
    }

    fn listen_no_more(&self, kind: Kind, request: &Request<'_>) {
        let slot = self.open_slot(verb_of(request.row));
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut subscriptions = inner.subscriptions.take().unwrap_or_default();
        let before = subscriptions.len();
        let mut names: Vec<Name> = request.args.iter().skip(1).map(Rc::from).collect();
        if names.is_empty() {
            names = subscriptions.all(kind);
        }
        let mut out = Vec::new();
        for name in &names {
            if subscriptions.remove(kind, name) {
                self.worker.coordinator.pubsub().unsubscribe(self.listener, kind, name, self.id);
            }
            write_confirmation(&mut out, kind.ends(), Some(name), subscriptions.count(kind), inner.version);
            self.tell(inner, &mut out);
        }
        if names.is_empty() {
            write_confirmation(&mut out, kind.ends(), None, subscriptions.count(kind), inner.version);
            self.tell(inner, &mut out);
        }
        self.count_subscriptions(before, subscriptions.len());
        inner.subscriptions = Some(subscriptions).filter(|subscriptions| !subscriptions.is_empty());
        self.settle(inner, slot, b"", Last::Yes, Outcome::Ok);
    }

    fn count_subscriptions(&self, before: usize, now: usize) {
        let level = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.cells.subscriptions.add(level(now) - level(before));
        self.cells.subscribers.add(i64::from(now > 0) - i64::from(before > 0));
    }

    /// Appends what the client is told unasked, and empties it.
    fn tell(&self, inner: &mut Inner, frame: &mut Vec<u8>) {
        if inner.output.bytes.capacity() == 0 {
            inner.output.bytes = self.worker.context.take_buffer();
        }
        inner.output.tell(marker(inner.version), Push::Short(frame));
        frame.clear();
    }

    /// The client listens to nothing any more: it has gone, or begins anew.
    pub(super) fn leave_channels(&self) {
        let Some(subscriptions) = self.inner.borrow_mut().subscriptions.take() else { return };
        self.count_subscriptions(subscriptions.len(), 0);
        for kind in Kind::ALL {
            for name in subscriptions.all(kind) {
                self.worker.coordinator.pubsub().unsubscribe(self.listener, kind, &name, self.id);
            }
        }
    }

    /// Whether so many bytes more may wait for the client. If not, it is closed.
    pub(super) fn may_hold(&self, inner: &mut Inner, bytes: usize) -> bool {
        let held = inner.output.bytes_held() + bytes;
        if held <= HELD_BYTES && !self.worker.context.is_full() {
            return true;
        }
        let view = self.worker.view();
        let most = view.topology.listener(self.listener).map_or(0, |listener| listener.client_output_bytes_max);
        let crowded = self.worker.context.is_full() && inner.output.bytes_held() > HELD_WHILE_FULL_BYTES;
        if held as u64 <= most && !crowded {
            return true;
        }
        self.cells.messages_dropped.increment();
        self.close_for_output(inner, held);
        false
    }
}

impl Subscriber for Session {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_gone(&self) -> bool {
        self.inner.borrow().broken
    }

    fn hear(&self, push: Push<'_>) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.broken || !self.may_hold(inner, push.len()) {
            return;
        }
        if inner.output.bytes.capacity() == 0 {
            inner.output.bytes = self.worker.context.take_buffer();
        }
        inner.output.tell(marker(inner.version), push);
        self.cells.messages_delivered.increment();
        inner.wake();
    }

    fn subscribed(&self, kind: Kind, names: &[Name]) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut subscriptions = inner.subscriptions.take().unwrap_or_default();
        let slot = subscriptions.slot.take();
        let before = subscriptions.len();
        let mut out = Vec::new();
        for name in names {
            subscriptions.add(kind, name);
            write_confirmation(&mut out, kind.begins(), Some(name), subscriptions.count(kind), inner.version);
            self.tell(inner, &mut out);
        }
        self.count_subscriptions(before, subscriptions.len());
        inner.subscriptions = Some(subscriptions);
        if let Some(slot) = slot {
            self.settle(inner, slot, b"", Last::Yes, Outcome::Ok);
        }
        inner.wake();
    }

    fn not_subscribed(&self, error: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let Some(mut subscriptions) = inner.subscriptions.take() else { return };
        let slot = subscriptions.slot.take();
        inner.subscriptions = Some(subscriptions).filter(|subscriptions| !subscriptions.is_empty());
        if let Some(slot) = slot {
            self.settle(inner, slot, error, Last::Yes, Outcome::Unavailable);
        }
        inner.wake();
    }
}
