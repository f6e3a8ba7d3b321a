//! Whose turn it is at a key of a replicated pool, and how who waits learns that it has got something.
//!
//! A write that this proxy has seen through is a sign to those that wait for its key, on whichever worker they are. What
//! other proxies write is found by looking.
//!
//! # Invariants
//! - Of the clients of one worker that take from a key, the one that has waited for longest takes first.
//! - While nobody waits, a write pays for one look at a number that does not change.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::backend::{Context, Flow, Piece, ReplySink, Tag};

/// Into how many parts a worker's keys are cut for the others to see which it waits for. More wake fewer in vain.
const PARTS: usize = 256;

/// What may be waited for, as `TYPE` says it. Who waits for a list does not stand in the way of who waits for a stream.
const KINDS: [&str; 3] = ["list", "zset", "stream"];

/// A key of a pool, and what it is waited for as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Spot(u64);

impl Spot {
    pub(super) fn new(pool: usize, type_name: &str, key: &[u8]) -> Self {
        let kind = KINDS.iter().position(|kind| *kind == type_name).unwrap_or(KINDS.len());
        Self(xxh3_64_with_seed(key, (pool * (KINDS.len() + 1) + kind) as u64))
    }

    fn part(self) -> usize {
        usize::try_from(self.0 % PARTS as u64).unwrap_or(0)
    }
}

/// Whether somebody of this process takes from keys of a part.
const FREE: u8 = 0;
const HELD: u8 = 1;
/// And somebody else would like to.
const WANTED: u8 = 2;

/// What one worker waits for, as the others see it.
struct Board {
    waiting: [AtomicU32; PARTS],
    signs: [AtomicBool; PARTS],
    signed: Notify,
}

/// What the workers of a process tell each other about keys that are waited for.
pub struct Signs {
    boards: Vec<Board>,
    /// Who takes meets nobody of its own process: writers that meet cost each other rounds, and at worst what is known of
    /// their outcome.
    taking: [AtomicU8; PARTS],
    /// Clients that wait for keys of replicated pools.
    waiting: AtomicUsize,
    /// Clients that wait in a blocking verb, or for a pause to end.
    pub(super) blocked: AtomicU64,
}

impl std::fmt::Debug for Signs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signs").field("waiting", &self.waiting).field("blocked", &self.blocked).finish_non_exhaustive()
    }
}

impl Signs {
    /// For so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let board = || Board {
            waiting: std::array::from_fn(|_| AtomicU32::new(0)),
            signs: std::array::from_fn(|_| AtomicBool::new(false)),
            signed: Notify::new(),
        };
        Arc::new(Self {
            boards: (0..workers).map(|_| board()).collect(),
            taking: std::array::from_fn(|_| AtomicU8::new(FREE)),
            waiting: AtomicUsize::new(0),
            blocked: AtomicU64::new(0),
        })
    }

    /// Shows a worker that there is something for a part of its keys.
    fn show(&self, worker: usize, part: usize) {
        let Some(board) = self.boards.get(worker) else { return };
        let (Some(waiting), Some(sign)) = (board.waiting.get(part), board.signs.get(part)) else { return };
        if waiting.load(Ordering::SeqCst) > 0 {
            sign.store(true, Ordering::SeqCst);
            board.signed.notify_one();
        }
    }

    /// How many clients wait in a blocking verb, or for a pause to end.
    pub fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
    }

    /// One more client waits, for a pause to end.
    pub fn begin_block(&self) {
        self.blocked.fetch_add(1, Ordering::Relaxed);
    }

    /// It does so no longer.
    pub fn end_block(&self) {
        self.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One client that waits.
pub(super) struct Waiter {
    woken: Notify,
    has_sign: Cell<bool>,
    /// It takes nothing away: all of its kind may look at the same time.
    shares: bool,
}

impl Waiter {
    fn sign(&self) {
        self.has_sign.set(true);
        self.woken.notify_one();
    }
}

/// Who waits on this worker; one for each worker.
pub(in crate::coordinator) struct Turns {
    pub(in crate::coordinator) signs: Arc<Signs>,
    worker: usize,
    queues: RefCell<HashMap<Spot, VecDeque<Rc<Waiter>>>>,
    waiting: Cell<usize>,
    /// A task listens to the other workers.
    listens: Cell<bool>,
}

impl Turns {
    pub(in crate::coordinator) fn new(signs: &Arc<Signs>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            signs: Arc::clone(signs),
            worker,
            queues: RefCell::default(),
            waiting: Cell::new(0),
            listens: Cell::new(false),
        })
    }

    /// Whether anybody in this process waits for a key of a replicated pool.
    #[inline]
    pub(in crate::coordinator) fn any(&self) -> bool {
        self.signs.waiting.load(Ordering::Relaxed) > 0
    }

    /// How many wait on this worker.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Joins those that wait for some keys, behind them.
    pub(super) fn join(self: &Rc<Self>, context: &Rc<Context>, spots: Vec<Spot>, shares: bool) -> Turn {
        let waiter = Rc::new(Waiter { woken: Notify::new(), has_sign: Cell::new(false), shares });
        self.signs.waiting.fetch_add(1, Ordering::SeqCst);
        self.waiting.set(self.waiting.get() + 1);
        let mut own: Vec<Spot> = Vec::with_capacity(spots.len());
        for spot in spots {
            if !own.contains(&spot) {
                self.queues.borrow_mut().entry(spot).or_default().push_back(Rc::clone(&waiter));
                self.count(spot, |count| count.fetch_add(1, Ordering::SeqCst));
                own.push(spot);
            }
        }
        if !self.listens.replace(true) {
            let turns = Rc::clone(self);
            context.spawn(async move { turns.listen().await });
        }
        Turn { turns: Rc::clone(self), waiter, spots: own }
    }

    fn count(&self, spot: Spot, change: impl FnOnce(&AtomicU32) -> u32) {
        if let Some(count) = self.signs.boards.get(self.worker).and_then(|board| board.waiting.get(spot.part())) {
            let _: u32 = change(count);
        }
    }

    /// Hears from the other workers while anybody waits here.
    async fn listen(&self) {
        while let Some(board) = self.signs.boards.get(self.worker)
            && self.waiting.get() > 0
        {
            for (part, sign) in board.signs.iter().enumerate() {
                if sign.swap(false, Ordering::SeqCst) {
                    self.wake_part(part);
                }
            }
            board.signed.notified().await;
        }
        self.listens.set(false);
    }

    fn wake_part(&self, part: usize) {
        for (spot, queue) in self.queues.borrow().iter() {
            if spot.part() == part {
                wake(queue);
            }
        }
    }

    /// A key may have got something.
    pub(super) fn tell(&self, pool: usize, key: &[u8]) {
        for kind in KINDS {
            let spot = Spot::new(pool, kind, key);
            if let Some(queue) = self.queues.borrow().get(&spot) {
                wake(queue);
            }
            for worker in (0..self.signs.boards.len()).filter(|worker| *worker != self.worker) {
                self.signs.show(worker, spot.part());
            }
        }
    }
}

/// The right to take from keys of a part.
pub(super) struct Hold {
    signs: Arc<Signs>,
    part: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(state) = self.signs.taking.get(self.part) else { return };
        if state.swap(FREE, Ordering::SeqCst) == WANTED {
            (0..self.signs.boards.len()).for_each(|worker| self.signs.show(worker, self.part));
        }
    }
}

/// Wakes the first of those that take, and all of those that only look.
fn wake(queue: &VecDeque<Rc<Waiter>>) {
    if let Some(first) = queue.iter().find(|waiter| !waiter.shares) {
        first.sign();
    }
    queue.iter().filter(|waiter| waiter.shares).for_each(|waiter| waiter.sign());
}

/// A place among those that wait.
pub(super) struct Turn {
    turns: Rc<Turns>,
    waiter: Rc<Waiter>,
    spots: Vec<Spot>,
}

impl Turn {
    /// Whether nobody on this worker has waited longer for the key.
    pub(super) fn is_first(&self, spot: Spot) -> bool {
        let queues = self.turns.queues.borrow();
        let first = queues.get(&spot).and_then(|queue| queue.iter().find(|waiter| !waiter.shares));
        self.waiter.shares || first.is_none_or(|first| Rc::ptr_eq(first, &self.waiter))
    }

    /// The right to take from a key; none while somebody else of this process takes, and then there is a sign afterwards.
    pub(super) fn hold(&self, spot: Spot) -> Option<Hold> {
        let (signs, part) = (&self.turns.signs, spot.part());
        let state = signs.taking.get(part)?;
        let claim = |now: u8| Some(if now == FREE { HELD } else { WANTED });
        let before = state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim).ok()?;
        (before == FREE).then(|| Hold { signs: Arc::clone(signs), part })
    }

    /// Whether it is first anywhere: who is not need not look.
    pub(super) fn is_first_anywhere(&self) -> bool {
        self.spots.iter().any(|spot| self.is_first(*spot))
    }

    /// Whether there was a sign since this was last asked.
    pub(super) fn took_sign(&self) -> bool {
        self.waiter.has_sign.replace(false)
    }

    /// Waits for a sign.
    ///
    /// # Cancel safety
    /// A sign that came stays until [`Turn::took_sign`] takes it.
    pub(super) async fn sign(&self) {
        while !self.waiter.has_sign.get() {
            self.waiter.woken.notified().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for spot in &self.spots {
            let was_first = self.is_first(*spot);
            let mut queues = self.turns.queues.borrow_mut();
            if let Some(queue) = queues.get_mut(spot) {
                queue.retain(|other| !Rc::ptr_eq(other, &self.waiter));
                if queue.is_empty() {
                    queues.remove(spot);
                } else if was_first && !self.waiter.shares {
                    // There may be more where this one's came from.
                    wake(queue);
                }
            }
            drop(queues);
            self.turns.count(*spot, |count| count.fetch_sub(1, Ordering::SeqCst));
        }
        self.turns.signs.waiting.fetch_sub(1, Ordering::SeqCst);
        self.turns.waiting.set(self.turns.waiting.get() - 1);
        if self.turns.waiting.get() == 0
            && let Some(board) = self.turns.signs.boards.get(self.turns.worker)
        {
            board.signed.notify_one(); // Nobody needs to listen any more.
        }
    }
}

/// Whether a verb that writes takes elements away at most: nobody waits for that. (`DEL` may take a group, and who waits for
/// it is told.)
pub(in crate::coordinator) fn only_takes(verb: &str) -> bool {
    const TAKERS: [&str; 11] =
        ["lmpop", "lpop", "lrem", "ltrim", "rpop", "xack", "xreadgroup", "zmpop", "zpopmax", "zpopmin", "zrem"];
    TAKERS.contains(&verb)
}

/// Tells those that wait for some keys that a write to them is done.
pub(in crate::coordinator) struct Herald {
    sink: Rc<dyn ReplySink>,
    turns: Rc<Turns>,
    pool: usize,
    keys: Vec<Vec<u8>>,
}

impl Herald {
    pub(in crate::coordinator) fn announcing(
        sink: &Rc<dyn ReplySink>,
        turns: &Rc<Turns>,
        pool: usize,
        keys: Vec<Vec<u8>>,
    ) -> Rc<dyn ReplySink> {
        Rc::new(Self { sink: Rc::clone(sink), turns: Rc::clone(turns), pool, keys })
    }
}

impl ReplySink for Herald {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let is_last = !matches!(piece, Piece::Begin(_) | Piece::More(_));
        let flow = Rc::clone(&self.sink).reply(tag, piece);
        if is_last {
            // Even after an error: it may have been done.
            self.keys.iter().for_each(|key| self.turns.tell(self.pool, key));
        }
        flow
    }

    fn ready(&self, tag: Tag, waker: &Waker) -> bool {
        self.sink.ready(tag, waker)
    }

    fn origin(&self) -> usize {
        self.sink.origin()
    }

    fn hold(&self, tag: Tag) -> bool {
        self.sink.hold(tag)
    }

    fn make_way(&self) {
        self.sink.make_way();
    }
}
