//! Messages: `SUBSCRIBE`, `PUBLISH` and their like.
//!
//! A `Hub` listens for all clients of one listener on this worker: by one connection to each node of the pool, however
//! many clients there are. It subscribes at the stores when the first client asks for a name, and ends that when the last
//! has left. A message that arrives is handed to each [`Subscriber`] of its name.
//!
//! Channels and patterns are listened to on every node, shard channels on the first `SHARD_NODES` in the ring's order of
//! their name. A message is published on one node: the first in the ring's order of its channel that is available. So
//! nobody has to agree with anybody about which nodes are: `docs/decisions/2026-11-23-pubsub.md`.
//!
//! # Invariants
//! - A client that listens to a name has each message once for that name, in the order in which one node has them.
//! - A subscription is confirmed to a client when every store that answers has confirmed it.
//! - A client never holds up the connection of a store, nor another client.
//!
//! It deliberately keeps no message: what is published while a connection to a store is down is lost, as it is with one
//! server.

mod census;
mod expected;
mod hub;
mod link;
mod message;
mod publish;
mod survey;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::Context;
use crate::topology::View;

use hub::Hub;

pub use census::Census;
pub use expected::ExpectedListeners;
pub use message::{Message, Push};

/// The nodes on which a shard channel is listened to, and may be published on: its own, and the one that stands in.
const SHARD_NODES: usize = 2;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A channel: `SUBSCRIBE`.
    Channel = 0,
    /// All channels that match: `PSUBSCRIBE`.
    Pattern = 1,
    /// A channel on the node of its name: `SSUBSCRIBE`.
    Shard = 2,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The verb that begins a subscription, as the stores write it.
    pub fn begins(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    /// The verb that ends one.
    pub fn ends(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }
}

/// The name of a channel or a pattern, shared by all who hold it.
pub type Name = Rc<[u8]>;

/// A client that listens. None of these calls comes from within a call that the client makes, but for the answer to
/// [`PubSub::subscribe`]; and none may call back.
pub trait Subscriber {
    /// Tells clients apart.
    fn id(&self) -> u64;

    /// Whether the client has gone.
    fn is_gone(&self) -> bool;

    /// A message.
    fn hear(&self, push: Push<'_>);

    /// The client listens to these names from now on.
    fn subscribed(&self, kind: Kind, names: &[Name]);

    /// The client does not listen to the names that it asked for last, for this reason: an error reply.
    fn not_subscribed(&self, error: &[u8]);
}

/// The messages of one worker.
pub struct PubSub {
    context: Rc<Context>,
    census: Arc<Census>,
    /// By the number of the listener; made when its first client subscribes.
    hubs: RefCell<Vec<Option<Rc<Hub>>>>,
}

impl PubSub {
    pub(super) fn new(context: &Rc<Context>, census: &Arc<Census>) -> Self {
        Self { context: Rc::clone(context), census: Arc::clone(census), hubs: RefCell::default() }
    }

    /// Listens to names for a client of a listener. It hears of it, now or later, once.
    pub fn subscribe(
        &self,
        view: &Rc<View>,
        listener: usize,
        kind: Kind,
        names: &mut dyn Iterator<Item = &[u8]>,
        subscriber: &Rc<dyn Subscriber>,
    ) {
        let hub = {
            let mut hubs = self.hubs.borrow_mut();
            if hubs.len() <= listener {
                hubs.resize_with(listener + 1, || None);
            }
            let Some(place) = hubs.get_mut(listener) else { return };
            Rc::clone(place.get_or_insert_with(|| Hub::new(listener, view, &self.context, &self.census)))
        };
        hub.subscribe(kind, names, subscriber);
    }

    /// Listens no more.
    pub fn unsubscribe(&self, listener: usize, kind: Kind, name: &[u8], id: u64) {
        if let Some(hub) = self.hub(listener) {
            hub.unsubscribe(kind, name, id);
        }
    }

    fn hub(&self, listener: usize) -> Option<Rc<Hub>> {
        self.hubs.borrow().get(listener)?.clone()
    }

    fn all(&self) -> Vec<Rc<Hub>> {
        self.hubs.borrow().iter().flatten().cloned().collect()
    }

    /// Takes a new view, a little later: who calls may be in the middle of something.
    pub fn refresh(&self, view: &Rc<View>) {
        for hub in self.all() {
            let view = Rc::clone(view);
            self.context.spawn(async move { hub.adopt(&view) });
        }
    }

    /// Looks after what no event announces. Called some times a second.
    pub fn keep_house(&self) {
        for hub in self.all() {
            hub.keep_house();
        }
    }

    /// How many names are listened to by this worker.
    pub fn names(&self) -> usize {
        self.all().iter().map(|hub| hub.names()).sum()
    }

    /// The worker ends: so do the connections.
    pub fn end(&self) {
        for hub in std::mem::take(&mut *self.hubs.borrow_mut()).into_iter().flatten() {
            hub.end();
        }
    }
}
