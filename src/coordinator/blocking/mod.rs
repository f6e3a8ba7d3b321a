//! Verbs that may wait: `BLPOP` and its like, `XREAD BLOCK`, `XREADGROUP BLOCK`.
//!
//! Each is a task of the worker. In a pool with one copy of each key the store waits, on a connection that the client has
//! to itself meanwhile (`store`). In one with several copies the task waits: it asks by the plain verb, then again when
//! there is a sign that a key has got something (`replicas`, `turns`).
//!
//! # Invariants
//! - What is taken from a key is given to its client. Who ends a wait from outside asks the store to end it, so that the
//!   store decides which came first.
//! - A wait never outlasts its client, and a drain never waits for one.
//! - The client's earlier requests have been answered, and later ones wait for this one.
//!
//! Why it is so, and what order waiting clients are served in: `docs/decisions/2026-11-23-blocking.md`.

mod replicas;
mod store;
mod turns;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::replicated::Own;
use super::{Coordinator, Request, Target, rewritten_key, write_failure};
use crate::backend::redis::Node;
use crate::backend::{Cause, Failure, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::command::blocking::{self, Plain};
use crate::command::reply::{self, Resp};
use crate::command::{self, Args, KeyIndexes, Row};
use crate::config::Rewrite;
use crate::metrics::Outcome;
use crate::protocol::resp::Version;
use crate::quorum::Level;
use crate::topology::{Place, View};

pub use turns::Signs;
pub(super) use turns::{Herald, Turns, only_takes};

/// How `CLIENT UNBLOCK` ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unblock {
    /// As if the time were up.
    Timeout,
    /// With an error.
    Error,
}

/// Where a blocking request came from.
pub struct Client {
    /// The number of its listener.
    pub listener: usize,
    /// The newest view of the topology.
    pub view: Box<dyn Fn() -> Rc<View>>,
    /// Closes the client's connection without an answer.
    pub close: Box<dyn Fn()>,
}

/// What a wait is told from outside.
enum Wish {
    /// The client is gone.
    Abandon,
    /// The client has ended its side: nobody will thank for what is taken from now on.
    Leave,
    /// The worker drains.
    Drain,
    /// `CLIENT UNBLOCK`, and who wants to know what became of it.
    Unblock(Unblock, oneshot::Sender<Vec<u8>>),
    /// The topology has changed.
    Look,
}

/// What ends a wait whatever becomes of its reply; the greater of two is what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Leave,
    Drain,
    Abandon,
}

#[derive(Default)]
struct Wishes {
    ending: Option<Ending>,
    looks: bool,
    /// Bounded by the number of clients: each asks for one thing at a time.
    unblock: VecDeque<(Unblock, oneshot::Sender<Vec<u8>>)>,
}

/// A request that may be waiting, as its session sees it.
pub struct Block {
    wishes: RefCell<Wishes>,
    changed: Notify,
    is_over: Cell<bool>,
    /// Among those that wait.
    is_counted: Cell<bool>,
    epoch: Cell<u64>,
    signs: Arc<Signs>,
}

impl Block {
    fn new(signs: &Arc<Signs>, epoch: u64) -> Rc<Self> {
        Rc::new(Self {
            wishes: RefCell::default(),
            changed: Notify::new(),
            is_over: Cell::new(false),
            is_counted: Cell::new(false),
            epoch: Cell::new(epoch),
            signs: Arc::clone(signs),
        })
    }

    /// Whether it has been answered.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// The client is gone: whatever waits for it ends.
    pub fn abandon(&self) {
        self.wish(|wishes| wishes.ending = Some(Ending::Abandon));
    }

    /// The client has ended its side. What it is given already still goes to it.
    pub fn leave(&self) {
        self.wish(|wishes| wishes.ending = wishes.ending.max(Some(Ending::Leave)));
    }

    /// The worker drains: the client is told that it was unblocked.
    pub fn drain(&self) {
        self.wish(|wishes| wishes.ending = wishes.ending.max(Some(Ending::Drain)));
    }

    /// Ends the wait for `CLIENT UNBLOCK`, whose reply is told to `asker`.
    pub fn unblock(&self, how: Unblock, asker: oneshot::Sender<Vec<u8>>) {
        if self.is_over() {
            // Who asked may have gone.
            drop(asker.send(NOT_BLOCKED.to_vec()));
            return;
        }
        self.wish(|wishes| wishes.unblock.push_back((how, asker)));
    }

    /// Shows the topology's number: if it is new, the keys may have another owner.
    pub fn see(&self, epoch: u64) {
        if self.epoch.replace(epoch) != epoch {
            self.wish(|wishes| wishes.looks = true);
        }
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        if !self.is_over() {
            change(&mut self.wishes.borrow_mut());
            self.changed.notify_one();
        }
    }

    fn next_wish(&self) -> Option<Wish> {
        let mut wishes = self.wishes.borrow_mut();
        if wishes.ending == Some(Ending::Abandon) {
            return Some(Wish::Abandon);
        }
        if let Some((how, asker)) = wishes.unblock.pop_front() {
            return Some(Wish::Unblock(how, asker));
        }
        match wishes.ending {
            Some(Ending::Abandon) => Some(Wish::Abandon),
            Some(Ending::Drain) => Some(Wish::Drain),
            Some(Ending::Leave) => Some(Wish::Leave),
            None => std::mem::take(&mut wishes.looks).then_some(Wish::Look),
        }
    }

    fn has_no_wish(&self) -> bool {
        let wishes = self.wishes.borrow();
        wishes.unblock.is_empty() && wishes.ending.is_none()
    }

    /// Waits for something to be wished.
    ///
    /// # Cancel safety
    /// A wish that was not given out is given out the next time.
    async fn wished(&self) -> Wish {
        loop {
            if let Some(wish) = self.next_wish() {
                return wish;
            }
            self.changed.notified().await;
        }
    }

    /// It was not answered at once.
    fn count(&self) {
        if !self.is_over() && !self.is_counted.replace(true) {
            self.signs.blocked.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn finish(&self) {
        if self.is_over.replace(true) {
            return;
        }
        if self.is_counted.get() {
            self.signs.blocked.fetch_sub(1, Ordering::Relaxed);
        }
        for (_, asker) in self.wishes.take().unblock {
            // Who asked may have gone.
            drop(asker.send(NOT_BLOCKED.to_vec()));
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What `CLIENT UNBLOCK` answers.
const NOT_BLOCKED: &[u8] = b":0\r\n";
const WAS_BLOCKED: &[u8] = b":1\r\n";

/// How a wait in one place ended.
enum End {
    /// The client was answered, or is not to be.
    Over,
    /// The keys may have another owner: the wait goes on there.
    Moved,
}

/// Where a request waits.
enum Spot {
    Store(Rc<Node>),
    Replicas,
}

/// One request under way.
struct Job {
    coordinator: Rc<Coordinator>,
    block: Rc<Block>,
    client: Client,
    sink: Rc<dyn ReplySink>,
    tag: Tag,
    words: Own,
    row: &'static Row,
    plain: Plain,
    version: Version,
    level: Option<Level>,
    began: Moment,
    view: Rc<View>,
}

impl Coordinator {
    /// Serves a verb that may wait.
    pub fn dispatch_blocking(
        self: &Rc<Self>,
        view: &Rc<View>,
        request: &Request<'_>,
        client: Client,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
    ) -> Rc<Block> {
        let block = Block::new(&self.turns.signs, view.topology.epoch);
        let mut words = Own::default();
        words.begin(request.args.len());
        for word in request.args.iter() {
            words.push(word);
        }
        let plain = blocking::plain(request.row);
        let Some(plain) = plain else {
            debug_assert!(false, "{} has no plain counterpart", request.row.name);
            block.finish();
            return block;
        };
        let job = Job {
            coordinator: Rc::clone(self),
            block: Rc::clone(&block),
            client,
            sink: Rc::clone(sink),
            tag: Tag { slot, part: 0 },
            words,
            row: request.row,
            plain,
            version: request.version,
            level: request.level,
            began: self.context.clock.tick(),
            view: Rc::clone(view),
        };
        self.context.spawn(async move { job.run().await });
        block
    }
}

impl Job {
    async fn run(mut self) {
        loop {
            let end = match self.spot(&self.view) {
                Ok(Spot::Store(node)) => self.wait_at_store(&node).await,
                Ok(Spot::Replicas) => self.wait_for_replicas().await,
                Err(refusal) => {
                    self.answer(&refusal);
                    End::Over
                }
            };
            match end {
                End::Over => break,
                End::Moved => self.view = (self.client.view)(),
            }
        }
        self.block.finish();
    }

    fn args(&self) -> Args<'_> {
        Args::new(&self.words.frame, &self.words.bounds)
    }

    fn resp(&self) -> Resp {
        match self.version {
            Version::Resp2 => Resp::Two,
            Version::Resp3 => Resp::Three,
        }
    }

    fn answer(&self, reply: &[u8]) {
        let _: Flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(reply));
    }

    fn fail(&self, node: &Node, cause: Cause) {
        self.answer(&failure_reply(node, cause));
    }

    fn answer_timed_out(&self) {
        let mut out = Vec::new();
        blocking::timed_out(&mut out, self.resp());
        self.answer(&out);
    }

    fn answer_unblocked(&self) {
        let mut out = Vec::new();
        reply::unblocked(&mut out);
        self.answer(&out);
    }

    /// What is left of the time to wait; none if there is no end to it, or if it is for the store to refuse.
    fn left(&self) -> Option<Duration> {
        let timeout_ms = blocking::timeout_ms(self.row, &self.args()).ok()??;
        let waited = self.coordinator.context.clock.tick().since(self.began);
        Some(Duration::from_millis(timeout_ms).saturating_sub(waited))
    }

    /// The places of the keys among the arguments; none where the request is malformed.
    fn keys(&self) -> Option<KeyIndexes> {
        let mut keys = KeyIndexes::new();
        command::keys(self.row, &self.args(), &mut keys).ok()?;
        Some(keys)
    }

    /// Where the request has to wait.
    fn spot(&self, view: &View) -> Result<Spot, Vec<u8>> {
        let refuse = |write: fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        let no_pool = || refuse(reply::no_pool);
        let listener = view.topology.listener(self.client.listener).ok_or_else(no_pool)?;
        let target = Target { view, listener };
        let groups = &self.coordinator.groups;
        let Some(keys) = self.keys() else {
            // Whoever is asked refuses it in its own words. Should one not, it waits where nobody waits behind it.
            if groups.get(listener.pool).is_some() {
                return Ok(Spot::Replicas);
            }
            let nodes = view.nodes_in(listener.pool);
            let node = nodes.iter().find(|node| node.is_available()).or(nodes.first()).ok_or_else(no_pool)?;
            return Ok(Spot::Store(Rc::clone(node)));
        };
        if keys.len() > listener.keys_per_command_max {
            let mut out = Vec::new();
            reply::too_large(&mut out, "keys in one command", listener.keys_per_command_max);
            return Err(out);
        }
        let args = self.args();
        let mut first: Option<Place> = None;
        let mut copies: Option<bool> = None;
        for key in keys.iter().filter_map(|at| args.get(*at as usize)) {
            let pool = listener.route(key).map_or(listener.pool, |route| route.pool);
            let has_copies = groups.get(pool).is_some();
            if *copies.get_or_insert(has_copies) != has_copies {
                return Err(refuse(reply::crossslot));
            }
            if has_copies {
                continue; // Whether its keys are together is for the plain request to say.
            }
            let (place, _, _) = target.owner(key).ok_or_else(no_pool)?;
            if *first.get_or_insert(place) != place {
                return Err(refuse(reply::crossslot));
            }
        }
        match first {
            Some(place) => Ok(Spot::Store(Rc::clone(view.node(place).ok_or_else(no_pool)?))),
            None => Ok(Spot::Replicas),
        }
    }

    /// The request as its store is to see it: keys as routes rewrite them, and what is left of the time to wait.
    fn frame(&self, left: Option<Duration>) -> Vec<u8> {
        let args = self.args();
        let keys = self.keys().unwrap_or_default();
        let listener = self.view.topology.listener(self.client.listener);
        let timeout = left.map(|left| blocking::timeout_word(self.row, millis(left)));
        let timeout = blocking::timeout_at(self.row, &args).zip(timeout);
        let mut own = Own::default();
        own.begin(args.len());
        for (at, word) in args.iter().enumerate() {
            match (&timeout, listener) {
                (Some((place, timeout)), _) if *place == at => own.push(timeout.as_bytes()),
                (_, Some(listener)) if keys.iter().any(|key| *key as usize == at) => {
                    let target = Target { view: &self.view, listener };
                    let rewrite = listener.route(word).map_or(&Rewrite::Keep, |route| &route.rewrite);
                    own.push(&rewritten_key(&target, word, rewrite));
                }
                _ => own.push(word),
            }
        }
        own.frame
    }
}

/// What a client is told of a request that a node did not take.
fn failure_reply(node: &Node, cause: Cause) -> Vec<u8> {
    let mut out = Vec::new();
    let failure = Failure { node: Arc::clone(&node.options().label), cause };
    let _: Outcome = write_failure(&failure, &mut out);
    out
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}
