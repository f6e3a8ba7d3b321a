//! Which clients have to be told that a key has changed: `CLIENT TRACKING`.
//!
//! While a client of this worker tracks keys, a connection to each node has the store tell of every change
//! (`CLIENT TRACKING ON BCAST`), whoever makes it. A `Table` knows who has read what. Why so, and why that
//! suffices where keys have several copies: `docs/decisions/2026-11-23-tracking.md`.
//!
//! # Invariants
//! - A client that was answered a read is told of the next change of the key, after that reply, or that everything may have
//!   changed.
//! - While a node that may serve a key does not tell of its changes, a read of the key is told to be invalid as soon as it is
//!   answered. When it ceases to tell of them and when it begins again, clients are told to forget everything.
//! - Names that quoit keeps for itself are told to nobody.

mod cover;
mod link;
mod message;
mod table;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::exchange::Exchange;
use super::keyspace::names::Names;
use crate::backend::Context;
use crate::config::Listener;
use crate::topology::View;
use crate::version::is_reserved;

use cover::Cover;
use link::{Link, Standing};
use table::Table;

pub use table::{Afterwards, Due, Use, Written};

/// A client that is told of changes. None of these calls may call back.
pub trait Tracker {
    /// These keys, by the client's names, have changed.
    fn changed(&self, keys: &[&[u8]]);

    /// All keys may have changed.
    fn forget_all(&self);
}

/// What a client asks to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Changes of keys that it has read.
    Read,
    /// Changes of all keys that begin with one of these.
    Prefixes(Vec<Vec<u8>>),
}

/// Why all that clients hold may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// A store has said so: `FLUSHALL`.
    Store,
    /// A node has ceased to tell of changes.
    Lost,
    /// A node has begun to tell of changes again.
    Back,
    /// Keys may have other nodes now.
    Reload,
}

/// A client, and the names of keys that it is told.
type Told = (Rc<dyn Tracker>, Vec<Vec<u8>>);

struct Tracked {
    tracker: Rc<dyn Tracker>,
    listener: usize,
    wish: Wish,
    /// The client knows that it tracks.
    has_begun: bool,
}

/// A client's request, until all nodes that are there tell of changes.
struct Waiting {
    id: u64,
    covers: Vec<Cover>,
    answer: oneshot::Sender<Result<(), Vec<u8>>>,
}

#[derive(Default)]
struct State {
    view: Option<Rc<View>>,
    clients: HashMap<u64, Tracked>,
    /// Those that are told of prefixes: each change is held against them.
    prefixed: Vec<u64>,
    /// Of which keys the nodes of each pool tell.
    covers: Vec<Cover>,
    links: Vec<Rc<Link>>,
    table: Table,
    waiting: Vec<Waiting>,
    table_bytes_max: usize,
    has_ended: bool,
}

/// The keys that clients of one worker track.
pub struct Tracking {
    context: Rc<Context>,
    state: RefCell<State>,
}

impl State {
    fn listener(&self, number: usize) -> Option<&Listener> {
        self.view.as_ref()?.topology.listener(number)
    }

    /// Whether the pool keeps names of quoit's own beside its keys.
    fn replicas(&self, pool: usize) -> usize {
        let view = self.view.as_ref();
        view.and_then(|view| view.topology.config.pools.get(pool)).map_or(1, |pool| pool.replicas as usize)
    }

    /// The links to the nodes that have a key.
    fn links_of(&self, pool: usize, key: &[u8]) -> impl Iterator<Item = &Rc<Link>> {
        let view = self.view.as_ref();
        let nodes = view.map(|view| view.nodes_in(pool)).unwrap_or_default();
        let ring = view.and_then(|view| Some(&view.topology.pools.get(pool)?.ring));
        let members = ring.map(|ring| ring.replicas(key, self.replicas(pool)));
        let nodes = members.into_iter().flatten().filter_map(|member| nodes.get(usize::from(member.0)));
        nodes.filter_map(|node| self.links.iter().find(|link| Rc::ptr_eq(link.node(), node)))
    }

    /// Whether a change of the key would go unheard.
    fn misses(&self, pool: usize, key: &[u8]) -> bool {
        let mut links = self.links_of(pool, key).peekable();
        links.peek().is_none() || links.any(|link| link.misses(key))
    }

    /// By pool, the keys that a client is to be told of.
    fn covers_of(&self, listener: usize, wish: &Wish) -> Vec<Cover> {
        let Some(listener) = self.listener(listener) else { return Vec::new() };
        let mut covers: Vec<Cover> = Vec::new();
        let everything = [Vec::new()];
        let prefixes = match wish {
            Wish::Read => everything.as_slice(),
            Wish::Prefixes(prefixes) => prefixes,
        };
        let mut add = |pool: usize, prefix: &[u8]| {
            if covers.len() <= pool {
                covers.resize_with(pool + 1, Cover::default);
            }
            if let Some(cover) = covers.get_mut(pool) {
                cover.add(prefix);
            }
        };
        for prefix in prefixes {
            add(listener.pool, prefix);
            for route in &listener.routes {
                if prefix.starts_with(&route.prefix) {
                    add(route.pool, &route.rewritten(prefix));
                } else if route.prefix.starts_with(prefix) {
                    add(route.pool, &route.rewritten(&route.prefix));
                }
            }
        }
        covers
    }

    /// What to do for new wishes: links to nodes that have none yet.
    fn link_all(&mut self, tracking: &Rc<Tracking>) {
        let Some(view) = self.view.clone() else { return };
        for (pool, cover) in self.covers.iter().enumerate() {
            for node in view.nodes_in(pool) {
                let is_known = self.links.iter().any(|link| Rc::ptr_eq(link.node(), node));
                if !is_known && !cover.prefixes().is_empty() {
                    self.links.push(Link::new(node, pool, tracking));
                }
            }
        }
    }

    fn cover(&self, pool: usize) -> Cover {
        self.covers.get(pool).cloned().unwrap_or_default()
    }

    /// Whether a client's request has all it waits for; the error that it gets then.
    fn settled(&self, waiting: &Waiting) -> Option<Result<(), Vec<u8>>> {
        for (pool, cover) in waiting.covers.iter().enumerate().filter(|(_, cover)| !cover.prefixes().is_empty()) {
            for link in self.links.iter().filter(|link| link.pool() == pool) {
                match link.standing(cover) {
                    Standing::Due => return None,
                    Standing::Tells | Standing::Away => {}
                    Standing::Refused(reply) => return Some(Err(reply.to_vec())),
                }
            }
        }
        Some(Ok(()))
    }
}

/// What clients call a store's key: as many names as routes lead to it.
fn names(listener: &Listener, pool: usize, key: &[u8]) -> Vec<Vec<u8>> {
    if listener.routes.is_empty() {
        return if pool == listener.pool { vec![key.to_vec()] } else { Vec::new() };
    }
    Names { listener, pool }.of(key)
}

impl Tracking {
    pub(super) fn new(context: &Rc<Context>) -> Rc<Self> {
        Rc::new(Self { context: Rc::clone(context), state: RefCell::default() })
    }

    /// How many bytes the table of keys may have.
    pub fn set_room(&self, bytes: usize) {
        self.state.borrow_mut().table_bytes_max = bytes;
    }

    /// Has the client told of changes from now on; a further wish adds to the one before.
    ///
    /// # Errors
    /// The reply of a store that does not tell of changes.
    pub async fn begin(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: usize,
        id: u64,
        wish: Wish,
        tracker: Rc<dyn Tracker>,
    ) -> Result<(), Vec<u8>> {
        if wish != Wish::Read {
            // What changed before is no news to it, though it may not be heard yet.
            let links = self.state.borrow().links.clone();
            self.hear_all(&links, None).await;
        }
        let (answer, settled) = oneshot::channel();
        let links = {
            let mut state = self.state.borrow_mut();
            if state.has_ended {
                return Err(b"-ERR the proxy is shutting down\r\n".to_vec());
            }
            if state.view.is_none() {
                state.view = Some(Rc::clone(view));
            }
            let covers = state.covers_of(listener, &wish);
            for (pool, cover) in covers.iter().enumerate() {
                if state.covers.len() <= pool {
                    state.covers.resize_with(pool + 1, Cover::default);
                }
                if let Some(own) = state.covers.get_mut(pool) {
                    own.add_all(cover);
                }
            }
            state.link_all(self);
            if wish != Wish::Read && !state.prefixed.contains(&id) {
                state.prefixed.push(id);
            }
            let client = Tracked { tracker, listener, wish: Wish::Read, has_begun: false };
            let client = state.clients.entry(id).or_insert(client);
            match (&mut client.wish, wish) {
                (Wish::Prefixes(own), Wish::Prefixes(more)) => own.extend(more),
                (own, wish) => *own = wish,
            }
            state.waiting.push(Waiting { id, covers, answer });
            state.links.clone()
        };
        self.open(&links);
        self.settle_waiting();
        settled.await.unwrap_or_else(|_| Err(b"-ERR the proxy is shutting down\r\n".to_vec()))
    }

    fn open(&self, links: &[Rc<Link>]) {
        for link in links {
            let cover = self.state.borrow().cover(link.pool());
            link.need(&cover);
        }
    }

    /// Something has changed at a node.
    fn settle_waiting(&self) {
        let mut settled = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            for waiting in std::mem::take(&mut state.waiting) {
                match state.settled(&waiting) {
                    None => state.waiting.push(waiting),
                    Some(result) => {
                        let client = state.clients.get_mut(&waiting.id);
                        let had_begun = client.is_some_and(|client| {
                            let had_begun = client.has_begun;
                            client.has_begun |= result.is_ok();
                            had_begun
                        });
                        if result.is_err() && !had_begun {
                            state.forget(waiting.id);
                        }
                        settled.push((waiting.answer, result));
                    }
                }
            }
        }
        for (answer, result) in settled {
            drop(answer.send(result)); // The client may have gone.
        }
    }

    /// The client tracks nothing any more.
    pub fn leave(&self, id: u64) {
        self.state.borrow_mut().forget(id);
    }

    /// The client begins a request about a key, by its own name.
    pub fn start(&self, id: u64, key: &[u8], with: Use) -> Option<Due> {
        let mut told = Vec::new();
        let due = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let listener = state.listener(state.clients.get(&id)?.listener)?;
            let (pool, key) = match listener.route(key) {
                None => (listener.pool, key.into()),
                Some(route) => (route.pool, route.rewritten(key)),
            };
            let doubtful = !with.is_write() && state.misses(pool, &key);
            let due = state.table.begin(id, pool, &key, with, doubtful);
            // More than one at a time, for a long key may have come for many short ones.
            for _ in 0..16 {
                let random = fastrand::usize(..);
                let tell = |id, pool, key: &[u8]| told.push((id, pool, key.to_vec()));
                if !state.table.evict(state.table_bytes_max, random, tell) {
                    break;
                }
            }
            due
        };
        for (id, pool, key) in told {
            let client = self.state.borrow().client_of(id, pool, &key);
            if let Some((tracker, names)) = client {
                for name in &names {
                    tracker.changed(&[name]);
                }
            }
        }
        Some(due)
    }

    /// Waits until all is heard that the nodes of a key have said of it by now, or a node has failed.
    pub async fn all_heard(&self, due: &Due) {
        let links: Vec<Rc<Link>> = self.state.borrow().links_of(due.pool(), due.key()).map(Rc::clone).collect();
        self.hear_all(&links, Some(due.key())).await;
    }

    /// The same for these nodes, and for all keys if there is none.
    async fn hear_all(&self, links: &[Rc<Link>], key: Option<&[u8]>) {
        let echoes = links.iter().filter_map(|link| {
            let echo = Exchange::new(std::ptr::from_ref(self).addr());
            link.echo(key, &echo.sink()).then_some(echo)
        });
        for echo in echoes.collect::<Vec<_>>() {
            echo.answer().await.ok();
        }
    }

    /// The request has been answered.
    pub fn finish(&self, id: u64, due: &Due, written: Written) -> Afterwards {
        self.state.borrow_mut().table.end(id, due, written)
    }

    /// A node has told of changes.
    fn changed(&self, pool: usize, keys: &[&[u8]]) {
        let mut told: Vec<Told> = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let is_replicated = state.replicas(pool) > 1;
            let mut under_prefixes = HashMap::new();
            let mut ids = Vec::new();
            for key in keys.iter().filter(|key| !is_replicated || !is_reserved(key)) {
                // First, while it is known who has a write of it under way.
                state.tell_prefixes(pool, key, &mut under_prefixes);
                state.table.changed(pool, key, |id| ids.push(id));
                for id in ids.drain(..) {
                    if let Some((tracker, names)) = state.client_of(id, pool, key) {
                        // One at a time, as a server tells them.
                        told.extend(names.into_iter().map(|name| (Rc::clone(&tracker), vec![name])));
                    }
                }
            }
            told.extend(under_prefixes.into_values());
        }
        for (tracker, names) in told {
            let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            tracker.changed(&names);
        }
    }

    /// Tells every client that all it holds may be out of date.
    fn forget_all(&self, lapse: Lapse) {
        let trackers: Vec<Rc<dyn Tracker>> = {
            let mut state = self.state.borrow_mut();
            state.table.clear();
            let begun = state.clients.values().filter(|client| client.has_begun);
            begun.map(|client| Rc::clone(&client.tracker)).collect()
        };
        if !trackers.is_empty() {
            tracing::debug!(?lapse, clients = trackers.len(), "clients are told to forget what they hold");
        }
        for tracker in trackers {
            tracker.forget_all();
        }
    }

    /// Takes a new view, a little later: who calls may be in the middle of something.
    pub fn refresh(self: &Rc<Self>, view: &Rc<View>) {
        if self.state.borrow().view.is_none() {
            return;
        }
        let (tracking, view) = (Rc::clone(self), Rc::clone(view));
        self.context.spawn(async move { tracking.adopt(&view) });
    }

    fn adopt(self: &Rc<Self>, view: &Rc<View>) {
        let (links, gone) = {
            let mut state = self.state.borrow_mut();
            if state.has_ended {
                return;
            }
            state.view = Some(Rc::clone(view));
            let pools = 0..view.topology.pools.len();
            let at = |link: &Rc<Link>| {
                pools.clone().find(|pool| view.nodes_in(*pool).iter().any(|node| Rc::ptr_eq(node, link.node())))
            };
            let (kept, gone): (Vec<_>, Vec<_>) = state.links.drain(..).partition(|link| at(link).is_some());
            for link in &kept {
                link.moved_to(at(link).unwrap_or_default());
            }
            state.links = kept;
            let wishes: Vec<_> = state.clients.values().map(|it| (it.listener, it.wish.clone())).collect();
            state.covers.clear();
            for (listener, wish) in wishes {
                for (pool, cover) in state.covers_of(listener, &wish).iter().enumerate() {
                    if state.covers.len() <= pool {
                        state.covers.resize_with(pool + 1, Cover::default);
                    }
                    if let Some(own) = state.covers.get_mut(pool) {
                        own.add_all(cover);
                    }
                }
            }
            state.link_all(self);
            (state.links.clone(), gone)
        };
        for link in gone {
            link.close();
        }
        self.open(&links);
        self.forget_all(Lapse::Reload);
        self.settle_waiting();
    }

    /// Looks after what no event announces. Called some times a second.
    pub fn keep_house(&self) {
        let links = {
            let state = self.state.borrow();
            if state.links.is_empty() {
                return;
            }
            state.links.clone()
        };
        for link in links {
            let (cover, is_needed) = {
                let state = self.state.borrow();
                (state.cover(link.pool()), !state.clients.is_empty())
            };
            link.keep_house(&cover, is_needed && !cover.prefixes().is_empty());
        }
    }

    /// How many keys are known to be held by clients of this worker.
    pub fn keys(&self) -> usize {
        self.state.borrow().table.len()
    }

    /// The worker ends: so do the connections.
    pub fn end(&self) {
        let (links, waiting) = {
            let mut state = self.state.borrow_mut();
            state.has_ended = true;
            state.clients.clear();
            (std::mem::take(&mut state.links), std::mem::take(&mut state.waiting))
        };
        for link in links {
            link.close();
        }
        drop(waiting);
    }
}

impl State {
    fn forget(&mut self, id: u64) {
        drop(self.clients.remove(&id));
        self.prefixed.retain(|other| *other != id);
        if self.clients.is_empty() {
            self.table.clear();
            self.covers.clear();
        }
    }

    /// A client that has begun, and what it calls the key.
    fn client_of(&self, id: u64, pool: usize, key: &[u8]) -> Option<Told> {
        let client = self.clients.get(&id).filter(|client| client.has_begun)?;
        let names = names(self.listener(client.listener)?, pool, key);
        Some((Rc::clone(&client.tracker), names))
    }

    /// Adds a key for every client that wants to hear of its prefix.
    fn tell_prefixes(&self, pool: usize, key: &[u8], told: &mut HashMap<u64, Told>) {
        for id in &self.prefixed {
            let Some(client) = self.clients.get(id) else { continue };
            let Wish::Prefixes(prefixes) = &client.wish else { continue };
            if !client.has_begun || self.table.waits(pool, key, *id) {
                continue;
            }
            let Some(listener) = self.listener(client.listener) else { continue };
            let mut names = names(listener, pool, key);
            names.retain(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
            if !names.is_empty() {
                let new = || (Rc::clone(&client.tracker), Vec::new());
                told.entry(*id).or_insert_with(new).1.extend(names);
            }
        }
    }
}
