//! The order of one worker's operations on a key.
//!
//! Operations that need one round share a key: their requests leave on the same connections, one behind the other, and
//! every store sees them in that order. One that needs more rounds has the key to itself, and what comes meanwhile waits
//! behind it, so that a client sees its own commands in the order in which it sent them. Beside that a lane remembers
//! which ballot this worker wrote last: while nobody else writes the key, the next update needs one round.
//!
//! # Invariants
//! - Lanes order; they do not protect. Two keys with one hash share a lane and lose nothing but time, and other workers
//!   and proxies know nothing of it: what makes a write safe is decided by ballots at the stores.
//! - Nothing overtakes what waits. An operation that turns out to need more rounds goes back to its own place.
//! - A write waits for the reads that its client sent before it: one whose replicas disagree asks again and would see it.
//! - Lanes in which nothing happens are bounded in number; the oldest go first.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock::Moment;
use crate::version::{Ballot, OpId};

/// Lanes that are remembered for their ballot while nothing happens in them.
const REMEMBERED_MAX: usize = 16 * 1024;

/// How many lanes that somebody got for himself are remembered: far more than are taken while one read is on its way.
const TAKEN_MAX: usize = 1024;

/// Names a lane.
pub(super) type LaneId = u64;

/// The lane of a key of a pool.
#[inline]
pub(super) fn lane_of(pool: u64, key: &[u8]) -> LaneId {
    xxh3_64_with_seed(key, pool)
}

/// The keys of the map are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A client that reads a key.
#[derive(PartialEq, Eq)]
struct Reader {
    lane: LaneId,
    origin: usize,
}

impl Hash for Reader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // An address: its upper bits are as good as constant, and the map looks at upper and lower bits.
        state.write_u64(self.lane ^ (self.origin as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// This worker wrote the key last: nobody else has promised or written anything since, as far as it knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owned {
    /// The last ballot it sent; the next one is in the same term.
    pub(super) ballot: Ballot,
    /// The length of the lineage with it.
    pub(super) count: u32,
    /// The last operation in that.
    pub(super) last: OpId,
    /// The fences that held.
    pub(super) generation: u64,
    /// When it was sent.
    pub(super) since: Moment,
}

/// What a blind write finds at its lane.
#[derive(Debug)]
pub(super) enum Entrance {
    /// It goes in one round; so many others are in the lane.
    Blind { others: u32 },
    /// It goes in one round as an update: the ballot that it builds on, and its own.
    Owned(Owned, Ballot),
    /// It has to wait.
    Waits,
}

/// There is one for each blind write under way, at random places of a map: the less it takes, the more of them are in the
/// processor's cache when the answers come. What such a lane does not need is apart.
#[derive(Default)]
struct Lane {
    /// Operations in their only round.
    sharing: u32,
    /// Waiters that were let in and have not begun.
    admitted: u32,
    exclusive: bool,
    /// It is in the queue of those that may be forgotten.
    remembered: bool,
    /// Other workers or proxies were met here last time.
    crowded: bool,
    rare: Option<Box<Rare>>,
}

/// What a lane has in which somebody waits, or that is owned.
#[derive(Default)]
struct Rare {
    /// The serial number of who has it alone.
    holder: u64,
    waiting: VecDeque<Rc<Waiter>>,
    owned: Option<Owned>,
    /// The last blind write that so many replicas took while an earlier one was under way.
    settled: Option<(Ballot, usize)>,
}

/// What it is in all other lanes.
const NOTHING_RARE: &Rare = &Rare { holder: 0, waiting: VecDeque::new(), owned: None, settled: None };

impl Lane {
    #[inline]
    fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(NOTHING_RARE)
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn is_quiet(&self) -> bool {
        self.sharing == 0 && !self.exclusive && self.admitted == 0 && self.rare().waiting.is_empty()
    }

    fn next_owned(&mut self, generation: u64, now: Moment) -> Option<(Owned, Ballot)> {
        let owned = self.rare().owned.filter(|owned| owned.generation == generation)?;
        let ballot = owned.ballot.next_in_term()?;
        // The blind write before it is no term of updates; all others are in the lineage already.
        let count = owned.count.max(1);
        self.rare_mut().owned = Some(Owned { ballot, count, last: ballot.op_id(), generation, since: now });
        Some((owned, ballot))
    }

    fn is_open(&self) -> bool {
        !self.exclusive && self.admitted == 0 && self.rare().waiting.is_empty()
    }
}

/// How an operation wants a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Shared,
    Exclusive,
    /// One lane: shared if this worker wrote last when the turn comes, else exclusive.
    Owned,
    /// One lane: shared, by a write that needs no base.
    Blind,
}

struct Waiter {
    serial: u64,
    wish: Wish,
    /// Whose it is: a write waits for that client's earlier reads, a shared read is one of them from when it is let in.
    client: Option<usize>,
    /// How it was let in: shared or exclusive.
    granted: Cell<Wish>,
    /// Lanes that have not let it in yet.
    missing: Cell<usize>,
    waker: Cell<Option<Waker>>,
}

impl Waiter {
    fn reader(&self) -> Option<usize> {
        self.client.filter(|_| self.wish == Wish::Shared)
    }
}

/// All lanes of one worker.
#[derive(Default)]
pub(super) struct Lanes {
    map: RefCell<HashMap<LaneId, Lane, BuildHasherDefault<AsItIs>>>,
    /// Quiet lanes with a ballot, the oldest first.
    quiet: RefCell<VecDeque<LaneId>>,
    /// Reads in their only round.
    reading: RefCell<HashMap<Reader, u32, BuildHasherDefault<AsItIs>>>,
    /// Lanes that somebody got for himself, with his serial number, the last one last; and how many there ever were.
    taken: RefCell<VecDeque<(LaneId, u64)>>,
    taken_count: Cell<u64>,
}

/// Lanes that an operation has to itself, or shares. It gives them back when it is dropped.
pub(super) struct Held {
    lanes: Rc<Lanes>,
    ids: SmallVec<[LaneId; 2]>,
    wish: Wish,
    /// The client that was let in to read.
    reader: Option<usize>,
}

impl Held {
    /// Whether others may be in the lanes, too.
    pub(super) fn is_shared(&self) -> bool {
        self.wish == Wish::Shared
    }

    /// Keeps a shared lane beyond this value: [`Lanes::leave`] has to follow.
    pub(super) fn keep(mut self) {
        self.ids.clear();
    }

    /// Whether others were met here last time.
    pub(super) fn is_crowded(&self) -> bool {
        let map = self.lanes.map.borrow();
        self.ids.iter().any(|id| map.get(id).is_some_and(|lane| lane.crowded))
    }

    /// Remembers whether others were met.
    pub(super) fn set_crowded(&self, crowded: bool) {
        let mut map = self.lanes.map.borrow_mut();
        for id in &self.ids {
            if let Some(lane) = map.get_mut(id) {
                lane.crowded = crowded;
            }
        }
    }

    /// Remembers what was written last.
    pub(super) fn set_owned(&self, owned: Option<Owned>) {
        for id in &self.ids {
            self.lanes.set_owned(*id, owned);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for id in &self.ids {
            match self.wish {
                Wish::Shared => self.lanes.leave(*id),
                Wish::Exclusive | Wish::Owned | Wish::Blind => self.lanes.release(*id),
            }
            if let Some(reader) = self.reader {
                self.lanes.read_ends(*id, reader);
            }
        }
    }
}

impl Lanes {
    /// Enters a lane for a blind write in one round, if nothing waits there. [`Lanes::leave_blind`] or [`Lanes::leave`] has to
    /// follow.
    ///
    /// Not while updates may be under way that each build on the one before: should they have to be sent again, they
    /// would come after the blind write. Behind them it goes as one of them; and so it does while `rest` has not passed
    /// since this worker updated the key: who met it here has to learn first what became of that.
    #[inline]
    pub(super) fn enter_blind(
        &self,
        id: LaneId,
        origin: usize,
        generation: u64,
        now: Moment,
        rest: Duration,
    ) -> Entrance {
        if self.is_read_by(id, origin) {
            return Entrance::Waits;
        }
        let mut map = self.map.borrow_mut();
        let lane = map.entry(id).or_default();
        if !lane.is_open() {
            return Entrance::Waits;
        }
        if let Some(owned) = lane.rare().owned {
            let is_at_rest = lane.sharing == 0 && now.since(owned.since) >= rest;
            if !is_at_rest && let Some((base, ballot)) = lane.next_owned(generation, now) {
                lane.sharing += 1;
                return Entrance::Owned(base, ballot);
            }
            if lane.sharing > 0 {
                return Entrance::Waits;
            }
            // What was written before it is not the last any more.
            lane.rare_mut().owned = None;
        }
        lane.sharing += 1;
        Entrance::Blind { others: lane.sharing - 1 }
    }

    /// Whether operations in their only round are in a lane.
    #[inline]
    pub(super) fn is_shared(&self, id: LaneId) -> bool {
        self.map.borrow().get(&id).is_some_and(|lane| lane.sharing > 0)
    }

    /// As [`Lanes::enter_blind`], for an update: only where this worker wrote last. The ballot that the update builds on, and
    /// its own.
    #[inline]
    pub(super) fn enter_owned(
        &self,
        id: LaneId,
        origin: usize,
        generation: u64,
        now: Moment,
    ) -> Option<(Owned, Ballot)> {
        if self.is_read_by(id, origin) {
            return None;
        }
        let mut map = self.map.borrow_mut();
        let lane = map.get_mut(&id).filter(|lane| lane.is_open())?;
        let next = lane.next_owned(generation, now)?;
        lane.sharing += 1;
        Some(next)
    }

    /// The same for an operation that shares the lane already.
    pub(super) fn next_owned(&self, id: LaneId, generation: u64, now: Moment) -> Option<(Owned, Ballot)> {
        self.map.borrow_mut().get_mut(&id)?.next_owned(generation, now)
    }

    /// A read of that client is on its way, in its only round. [`Lanes::read_ends`] has to follow.
    #[inline]
    pub(super) fn read_begins(&self, lane: LaneId, origin: usize) {
        *self.reading.borrow_mut().entry(Reader { lane, origin }).or_default() += 1;
    }

    /// It is answered, or waits in the lane to be sent again.
    #[inline]
    pub(super) fn read_ends(&self, lane: LaneId, origin: usize) {
        let mut reading = self.reading.borrow_mut();
        let Entry::Occupied(mut entry) = reading.entry(Reader { lane, origin }) else { return };
        if *entry.get() > 1 {
            *entry.get_mut() -= 1;
            return;
        }
        entry.remove();
        drop(reading);
        if let Some(waiting) = self.map.borrow_mut().get_mut(&lane) {
            self.admit(lane, waiting);
        }
    }

    #[inline]
    fn is_read_by(&self, lane: LaneId, origin: usize) -> bool {
        let reading = self.reading.borrow();
        !reading.is_empty() && reading.contains_key(&Reader { lane, origin })
    }

    /// Whether a read may go now: nothing on the key needs more than one round.
    #[inline]
    pub(super) fn is_open(&self, id: LaneId) -> bool {
        let map = self.map.borrow();
        map.is_empty() || map.get(&id).is_none_or(Lane::is_open)
    }

    /// Whether something that came before needs more than one round: what was read meanwhile may be from before it.
    #[inline]
    pub(super) fn is_disturbed(&self, id: LaneId, serial: u64) -> bool {
        let map = self.map.borrow();
        if map.is_empty() {
            return false;
        }
        let Some(lane) = map.get(&id) else { return false };
        let rare = lane.rare();
        lane.exclusive && rare.holder < serial || rare.waiting.front().is_some_and(|first| first.serial < serial)
    }

    /// How often a lane was taken so far, for [`Lanes::was_disturbed_since`].
    #[inline]
    pub(super) fn taken_count(&self) -> u64 {
        self.taken_count.get()
    }

    /// Whether something that came before has had the lane to itself since then, though it may be done with it. Then what a
    /// replica answered that it did not wait for is from before it.
    #[inline]
    pub(super) fn was_disturbed_since(&self, count: u64, id: LaneId, serial: u64) -> bool {
        let since = self.taken_count.get() - count;
        since > 0 && self.has_taken(since, id, serial)
    }

    #[cold]
    fn has_taken(&self, last: u64, id: LaneId, serial: u64) -> bool {
        let taken = self.taken.borrow();
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        last > taken.len() || taken.iter().rev().take(last).any(|(lane, by)| *lane == id && *by < serial)
    }

    /// Whether a blind write that has been let in may go as one: no updates are under way that build on each other, and
    /// nothing that came before it has to be sent again.
    pub(super) fn is_ready_for_blind(&self, id: LaneId, serial: u64) -> bool {
        let map = self.map.borrow();
        let Some(lane) = map.get(&id) else { return false };
        let rare = lane.rare();
        !lane.exclusive && rare.owned.is_none() && rare.waiting.front().is_none_or(|first| first.serial > serial)
    }

    pub(super) fn set_owned(&self, id: LaneId, owned: Option<Owned>) {
        if let Some(lane) = self.map.borrow_mut().get_mut(&id)
            && (owned.is_some() || lane.rare.is_some())
        {
            lane.rare_mut().owned = owned;
        }
    }

    /// A blind write was sent: what was written before it is not the last any more.
    #[inline]
    pub(super) fn disown(&self, id: LaneId) {
        self.set_owned(id, None);
    }

    /// Whether this worker sent a blind write after that of `ballot` and so many replicas took it.
    pub(super) fn is_overwritten(&self, id: LaneId, ballot: Ballot, acks: usize) -> bool {
        let map = self.map.borrow();
        let settled = map.get(&id).and_then(|lane| lane.rare().settled);
        settled.is_some_and(|(later, taken)| later > ballot && taken >= acks)
    }

    /// The round is over.
    #[inline]
    pub(super) fn leave(&self, id: LaneId) {
        self.leave_after(id, |_| {});
    }

    /// The round of a blind write is over, and so many replicas, a majority, took it. If an earlier one has to be sent again
    /// it need not: it is as if it had come directly before this one. And if this lane is one that sees updates, the next of
    /// them may build on it.
    #[inline]
    pub(super) fn leave_blind(&self, id: LaneId, owned: Owned, acks: usize) {
        self.leave_after(id, |lane| {
            let has_company = lane.sharing > 1 || !lane.rare().waiting.is_empty();
            if has_company && lane.rare().settled.is_none_or(|(other, _)| other < owned.ballot) {
                lane.rare_mut().settled = Some((owned.ballot, acks));
            }
            if lane.remembered && lane.sharing == 1 && lane.is_open() {
                lane.rare_mut().owned = Some(owned);
            }
        });
    }

    #[inline]
    fn leave_after(&self, id: LaneId, note: impl FnOnce(&mut Lane)) {
        let mut map = self.map.borrow_mut();
        let Entry::Occupied(mut entry) = map.entry(id) else { return };
        let lane = entry.get_mut();
        note(lane);
        lane.sharing = lane.sharing.saturating_sub(1);
        if lane.is_quiet() && lane.rare().owned.is_none() && !lane.remembered {
            entry.remove();
            return;
        }
        self.admit(id, lane);
        drop(map);
        self.remember(id);
    }

    fn release(&self, id: LaneId) {
        if let Some(lane) = self.map.borrow_mut().get_mut(&id) {
            lane.exclusive = false;
            self.admit(id, lane);
        }
        self.remember(id);
    }

    /// Lets in those at the front that may go together.
    fn admit(&self, id: LaneId, lane: &mut Lane) {
        while let Some(first) = lane.rare().waiting.front() {
            if first.wish != Wish::Shared && first.client.is_some_and(|client| self.is_read_by(id, client)) {
                return;
            }
            let shares = match first.wish {
                Wish::Shared | Wish::Blind => true,
                Wish::Exclusive => false,
                Wish::Owned => lane.rare().owned.is_some(),
            };
            let free = !lane.exclusive && (shares || lane.sharing == 0 && lane.admitted == 0);
            if !free {
                return;
            }
            let rare = lane.rare_mut();
            let Some(first) = rare.waiting.pop_front() else { return };
            if !shares {
                rare.holder = first.serial;
                self.taken_count.set(self.taken_count.get() + 1);
                let mut taken = self.taken.borrow_mut();
                if taken.len() == TAKEN_MAX {
                    taken.pop_front();
                }
                taken.push_back((id, first.serial));
            }
            lane.admitted += 1;
            lane.exclusive |= !shares;
            first.granted.set(if shares { Wish::Shared } else { Wish::Exclusive });
            if let Some(reader) = first.reader() {
                self.read_begins(id, reader);
            }
            first.missing.set(first.missing.get().saturating_sub(1));
            if first.missing.get() == 0
                && let Some(waker) = first.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Keeps a quiet lane for its ballot; forgets the oldest when there are too many.
    fn remember(&self, id: LaneId) {
        let mut map = self.map.borrow_mut();
        let Some(lane) = map.get_mut(&id).filter(|lane| lane.is_quiet()) else { return };
        if lane.rare().owned.is_none() && !lane.remembered {
            map.remove(&id);
            return;
        }
        if !lane.remembered {
            lane.remembered = true;
            self.quiet.borrow_mut().push_back(id);
        }
        let mut quiet = self.quiet.borrow_mut();
        while quiet.len() > REMEMBERED_MAX {
            let Some(oldest) = quiet.pop_front() else { return };
            match map.get_mut(&oldest) {
                Some(lane) if lane.is_quiet() => drop(map.remove(&oldest)),
                Some(lane) => lane.remembered = false,
                None => {}
            }
        }
    }

    /// Waits for lanes in the order of serial numbers. All are asked for at once, so no two operations can wait for each
    /// other.
    ///
    /// With the client, a write waits for the reads that this client has sent before it.
    pub(super) fn wait(self: &Rc<Self>, ids: &[LaneId], serial: u64, wish: Wish, client: Option<usize>) -> Waiting {
        let mut own: SmallVec<[LaneId; 2]> = ids.iter().copied().collect();
        own.sort_unstable();
        own.dedup();
        let (missing, granted, waker) = (Cell::new(own.len()), Cell::new(wish), Cell::new(None));
        let waiter = Rc::new(Waiter { serial, wish, client, granted, missing, waker });
        let mut map = self.map.borrow_mut();
        for id in &own {
            let lane = map.entry(*id).or_default();
            let waiting = &mut lane.rare_mut().waiting;
            let at = waiting.iter().position(|other| other.serial > serial).unwrap_or(waiting.len());
            waiting.insert(at, Rc::clone(&waiter));
            self.admit(*id, lane);
        }
        drop(map);
        Waiting { lanes: Rc::clone(self), ids: own, waiter, done: false }
    }
}

/// Waits for lanes.
pub(super) struct Waiting {
    lanes: Rc<Lanes>,
    ids: SmallVec<[LaneId; 2]>,
    waiter: Rc<Waiter>,
    done: bool,
}

impl Future for Waiting {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Held> {
        if self.waiter.missing.get() > 0 {
            self.waiter.waker.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        self.done = true;
        let lanes = Rc::clone(&self.lanes);
        let wish = self.waiter.granted.get();
        for id in &self.ids {
            if let Some(lane) = lanes.map.borrow_mut().get_mut(id) {
                lane.admitted = lane.admitted.saturating_sub(1);
                if wish == Wish::Shared {
                    lane.sharing += 1;
                }
            }
        }
        let reader = self.waiter.reader();
        Poll::Ready(Held { lanes, ids: std::mem::take(&mut self.ids), wish, reader })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Its task ended early: the worker is going down. Others must not wait for it.
        for id in &self.ids {
            let mut map = self.lanes.map.borrow_mut();
            let Some(lane) = map.get_mut(id) else { continue };
            let waiting = &mut lane.rare_mut().waiting;
            let before = waiting.len();
            let mut reader_left = None;
            waiting.retain(|other| !Rc::ptr_eq(other, &self.waiter));
            if waiting.len() == before {
                lane.admitted = lane.admitted.saturating_sub(1);
                lane.exclusive &= self.waiter.granted.get() != Wish::Exclusive;
                reader_left = self.waiter.reader();
            }
            self.lanes.admit(*id, lane);
            drop(map);
            if let Some(reader) = reader_left {
                self.lanes.read_ends(*id, reader);
            }
        }
    }
}

#[cfg(test)]
mod tests;
