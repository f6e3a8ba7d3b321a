//! Who listens to what, for the clients of one listener on one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::census::Census;
use super::expected::Expected;
use super::link::{Link, Standing};
use super::message::{Said, notified_key};
use super::{Kind, Name, Push, SHARD_NODES, Subscriber};
use crate::backend::Context;
use crate::coordinator::write_failure;
use crate::metrics::Outcome;
use crate::topology::View;
use crate::version::is_reserved;

/// One name.
#[derive(Default)]
struct Topic {
    /// By number: it only grows, so that who comes is put last.
    subscribers: Vec<(u64, Rc<dyn Subscriber>)>,
    /// Requests that wait for the stores to confirm it.
    waiting: usize,
}

/// One client's request to listen, until the stores have confirmed all its names.
struct Pending {
    subscriber: Rc<dyn Subscriber>,
    kind: Kind,
    names: Vec<Name>,
    /// How many of them are settled.
    settled: Cell<usize>,
    /// Why one of them is not listened to.
    error: RefCell<Option<Vec<u8>>>,
    /// Who publishes waits for it.
    _expected: Expected,
}

/// What is known of a name at the stores.
enum Settled {
    /// A store has not answered yet.
    Due,
    /// All that are there listen to it.
    Ready,
    /// None does, and why.
    Failed(Vec<u8>),
}

struct State {
    view: Rc<View>,
    pool: usize,
    pool_name: String,
    /// On how many nodes a key is.
    replicas: usize,
    /// In the order of the ring's members.
    links: Vec<Rc<Link>>,
    topics: [HashMap<Name, Topic>; 3],
    waiting: Vec<Rc<Pending>>,
}

/// See the module.
pub(super) struct Hub {
    listener: usize,
    pub(super) context: Rc<Context>,
    census: Arc<Census>,
    state: RefCell<State>,
    /// The longest message that is kept for clients.
    pub(super) message_bytes_max: Cell<usize>,
    ended: Cell<bool>,
}

impl State {
    fn topic(&self, kind: Kind, name: &[u8]) -> Option<&Topic> {
        self.topics.get(kind as usize)?.get(name)
    }

    /// Whether the node of that number has to be listened to for a name.
    fn serves(&self, node: usize, kind: Kind, name: &[u8]) -> bool {
        match kind {
            Kind::Channel | Kind::Pattern => true,
            Kind::Shard => self.view.topology.pools.get(self.pool).is_some_and(|pool| {
                pool.ring.replicas(name, SHARD_NODES).iter().any(|member| usize::from(member.0) == node)
            }),
        }
    }

    /// What a name has come to.
    fn settled(&self, kind: Kind, name: &Name) -> Settled {
        let mut ready = false;
        let mut error = None;
        for (node, link) in self.links.iter().enumerate() {
            if !self.serves(node, kind, name) {
                continue;
            }
            match link.standing(kind, name) {
                Standing::Due => return Settled::Due,
                Standing::Listens => ready = true,
                Standing::Refused(reply) => error = error.or(Some(reply.to_vec())),
                Standing::Away(failure) => {
                    error = error.or_else(|| {
                        let mut out = Vec::new();
                        let _: Outcome = write_failure(&failure, &mut out);
                        Some(out)
                    });
                }
            }
        }
        match error {
            _ if ready => Settled::Ready,
            Some(error) => Settled::Failed(error),
            None => Settled::Failed(b"-ERR no pool is configured for this channel\r\n".to_vec()),
        }
    }

    /// Whether a message about a key is told by this node, where several have the key and each tells of it.
    fn speaks_for(&self, node: usize, key: &[u8]) -> bool {
        let Some(pool) = self.view.topology.pools.get(self.pool) else { return false };
        let replicas = pool.ring.replicas(key, self.replicas);
        let mut there = replicas.iter().map(|member| usize::from(member.0));
        let speaks = |at: &usize| self.links.get(*at).is_some_and(|link| link.is_listening());
        there.find(speaks) == Some(node)
    }

    /// The links that listen to a name, or should.
    fn links_of(&self, kind: Kind, name: &Name) -> Vec<Rc<Link>> {
        let serving = self.links.iter().enumerate().filter(|(node, _)| self.serves(*node, kind, name));
        serving.map(|(_, link)| Rc::clone(link)).collect()
    }
}

impl Hub {
    pub(super) fn new(listener: usize, view: &Rc<View>, context: &Rc<Context>, census: &Arc<Census>) -> Rc<Self> {
        let hub = Rc::new(Self {
            listener,
            context: Rc::clone(context),
            census: Arc::clone(census),
            state: RefCell::new(State {
                view: Rc::clone(view),
                pool: usize::MAX,
                pool_name: String::new(),
                replicas: 1,
                links: Vec::new(),
                topics: Default::default(),
                waiting: Vec::new(),
            }),
            message_bytes_max: Cell::new(usize::MAX),
            ended: Cell::new(false),
        });
        hub.adopt(view);
        hub
    }

    /// Takes a new view: nodes that left are not listened to any more, and those that came are.
    pub(super) fn adopt(self: &Rc<Self>, view: &Rc<View>) {
        if self.ended.get() {
            return;
        }
        let Some(listener) = view.topology.listener(self.listener) else { return };
        self.message_bytes_max.set(usize::try_from(listener.client_output_bytes_max).unwrap_or(usize::MAX));
        let (old, links) = {
            let mut state = self.state.borrow_mut();
            state.view = Rc::clone(view);
            state.pool = listener.pool;
            let name = view.topology.pools.get(listener.pool).map_or("", |pool| &pool.name);
            if state.pool_name != name {
                self.recount(&state, Census::went);
                name.clone_into(&mut state.pool_name);
                self.recount(&state, Census::came);
            }
            state.replicas = view.topology.config.pools.get(listener.pool).map_or(1, |pool| pool.replicas) as usize;
            let nodes = view.nodes_in(listener.pool).iter().enumerate();
            let links = nodes
                .map(|(at, node)| match state.links.iter().find(|link| Rc::ptr_eq(link.node(), node)) {
                    Some(link) => {
                        link.moved_to(at);
                        Rc::clone(link)
                    }
                    None => Link::new(node, at, self),
                })
                .collect();
            (std::mem::replace(&mut state.links, links), state.links.clone())
        };
        for link in old.iter().filter(|old| !links.iter().any(|new| Rc::ptr_eq(old, new))) {
            link.close();
        }
        // Shard channels may have other nodes now.
        for link in &links {
            self.names_of(Kind::Shard, &mut |name| link.changed(Kind::Shard, name));
            link.work(self);
        }
        self.settle_waiting();
    }

    /// Tells the census of all clients, one by one.
    fn recount(&self, state: &State, tell: fn(&Census, &str, Kind, &[u8], bool)) {
        for kind in Kind::ALL {
            for (name, topic) in state.topics.get(kind as usize).into_iter().flatten() {
                for at in 0..topic.subscribers.len() {
                    tell(&self.census, &state.pool_name, kind, name, at == 0);
                }
            }
        }
    }

    /// Every name of a kind that somebody listens to.
    pub(super) fn names_of(&self, kind: Kind, tell: &mut dyn FnMut(&Name)) {
        if let Some(topics) = self.state.borrow().topics.get(kind as usize) {
            topics.keys().for_each(tell);
        }
    }

    pub(super) fn names(&self) -> usize {
        self.state.borrow().topics.iter().map(HashMap::len).sum()
    }

    /// Whether somebody listens to anything.
    pub(super) fn is_needed(&self) -> bool {
        !self.ended.get() && self.state.borrow().topics.iter().any(|topics| !topics.is_empty())
    }

    /// Whether somebody wants that node to be listened to for that name.
    pub(super) fn wants(&self, node: usize, kind: Kind, name: &[u8]) -> bool {
        let state = self.state.borrow();
        state.topic(kind, name).is_some() && state.serves(node, kind, name)
    }

    pub(super) fn subscribe(
        self: &Rc<Self>,
        kind: Kind,
        names: &mut dyn Iterator<Item = &[u8]>,
        subscriber: &Rc<dyn Subscriber>,
    ) {
        let mut asked = Vec::new();
        let (links, expected) = {
            let mut state = self.state.borrow_mut();
            let mut begun = Vec::new();
            for name in names {
                let Some(topics) = state.topics.get_mut(kind as usize) else { return };
                let known = topics.get_key_value(name).map(|(name, _)| Rc::clone(name));
                let is_new = known.is_none();
                let name = known.unwrap_or_else(|| Rc::from(name));
                topics.entry(Rc::clone(&name)).or_default().waiting += 1;
                if is_new {
                    begun.push(Rc::clone(&name));
                }
                asked.push(name);
            }
            for name in &begun {
                for link in state.links_of(kind, name) {
                    link.changed(kind, name);
                }
            }
            let expected = self.census.expected.expect(&state.pool_name, kind, &asked);
            (if begun.is_empty() { Vec::new() } else { state.links.clone() }, expected)
        };
        for link in links {
            link.work(self);
        }
        let pending = Rc::new(Pending {
            subscriber: Rc::clone(subscriber),
            kind,
            names: asked,
            settled: Cell::new(0),
            error: RefCell::default(),
            _expected: expected,
        });
        if !self.settle(&pending) {
            self.state.borrow_mut().waiting.push(pending);
        }
    }

    pub(super) fn unsubscribe(self: &Rc<Self>, kind: Kind, name: &[u8], id: u64) {
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let Some(topic) = state.topics.get_mut(kind as usize).and_then(|topics| topics.get_mut(name)) else {
                return;
            };
            if let Ok(at) = topic.subscribers.binary_search_by_key(&id, |(id, _)| *id) {
                drop(topic.subscribers.remove(at));
                self.census.went(&state.pool_name, kind, name, topic.subscribers.is_empty());
            }
        }
        self.forget_unneeded(kind, name);
    }

    /// Ends a subscription at the stores if nobody needs it.
    fn forget_unneeded(self: &Rc<Self>, kind: Kind, name: &[u8]) {
        let links = {
            let mut state = self.state.borrow_mut();
            let Some(topics) = state.topics.get_mut(kind as usize) else { return };
            if topics.get(name).is_none_or(|topic| topic.waiting > 0 || !topic.subscribers.is_empty()) {
                return;
            }
            let Some((name, _)) = topics.remove_entry(name) else { return };
            if topics.capacity() > 8 * topics.len().max(64) {
                topics.shrink_to_fit();
            }
            let links = state.links_of(kind, &name);
            for link in &links {
                link.changed(kind, &name);
            }
            links
        };
        for link in links {
            link.work(self);
        }
    }

    /// Looks whether a request has all it waits for, and answers it then. Whether it did.
    fn settle(self: &Rc<Self>, pending: &Rc<Pending>) -> bool {
        while let Some(name) = pending.names.get(pending.settled.get()) {
            match self.state.borrow().settled(pending.kind, name) {
                Settled::Due => return false,
                Settled::Ready => {}
                Settled::Failed(error) => {
                    pending.error.borrow_mut().get_or_insert(error);
                }
            }
            pending.settled.set(pending.settled.get() + 1);
        }
        let error = pending.error.take();
        let listens = error.is_none() && !pending.subscriber.is_gone();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let Some(topics) = state.topics.get_mut(pending.kind as usize) else { return true };
            let id = pending.subscriber.id();
            for name in &pending.names {
                let Some(topic) = topics.get_mut(name) else { continue };
                topic.waiting -= 1;
                if listens && let Err(at) = topic.subscribers.binary_search_by_key(&id, |(id, _)| *id) {
                    topic.subscribers.insert(at, (id, Rc::clone(&pending.subscriber)));
                    self.census.came(&state.pool_name, pending.kind, name, topic.subscribers.len() == 1);
                }
            }
        }
        if listens {
            pending.subscriber.subscribed(pending.kind, &pending.names);
        } else {
            for name in &pending.names {
                self.forget_unneeded(pending.kind, name);
            }
            pending.subscriber.not_subscribed(&error.unwrap_or_default());
        }
        true
    }

    /// Something has changed at a store.
    pub(super) fn settle_waiting(self: &Rc<Self>) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            if state.waiting.is_empty() {
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        let rest: Vec<_> = waiting.into_iter().filter(|pending| !self.settle(pending)).collect();
        let mut state = self.state.borrow_mut();
        let came = std::mem::replace(&mut state.waiting, rest);
        state.waiting.extend(came);
    }

    /// A node has a message.
    pub(super) fn heard(&self, node: usize, said: &Said<'_>, push: Push<'_>) {
        let Said::Message { kind, name, channel, payload } = *said else { return };
        let state = self.state.borrow();
        if state.replicas > 1
            && let Some(key) = notified_key(channel, payload)
            && (is_reserved(key) || !state.speaks_for(node, key))
        {
            return; // Every replica of the key tells of it; and nobody asked for the names that quoit keeps for itself.
        }
        let Some(topic) = state.topic(kind, name) else { return };
        for (_, subscriber) in &topic.subscribers {
            subscriber.hear(push);
        }
    }

    pub(super) fn keep_house(self: &Rc<Self>) {
        let links = self.state.borrow().links.clone();
        for link in links {
            link.keep_house(self);
        }
    }

    /// The connections end.
    pub(super) fn end(&self) {
        self.ended.set(true);
        let (links, waiting) = {
            let mut state = self.state.borrow_mut();
            state.topics = Default::default();
            (std::mem::take(&mut state.links), std::mem::take(&mut state.waiting))
        };
        for link in links {
            link.close();
        }
        drop(waiting);
    }
}
