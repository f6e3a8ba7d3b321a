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

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::version::{Ballot, OpId};

/// Lanes that are remembered for their ballot while nothing happens in them.
const REMEMBERED_MAX: usize = 16 * 1024;

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

    fn next_owned(&mut self, generation: u64) -> Option<(Owned, Ballot)> {
        let owned = self.rare().owned.filter(|owned| owned.generation == generation)?;
        let ballot = owned.ballot.next_in_term()?;
        // The blind write before it is no term of updates; all others are in the lineage already.
        let count = owned.count.max(1);
        self.rare_mut().owned = Some(Owned { ballot, count, last: ballot.op_id(), generation });
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
    /// Enters a lane for a blind write in one round, if nothing waits there. [`Lanes::leave`] has to follow.
    ///
    /// Not while updates may be under way that each build on the one before: should they have to be sent again, they
    /// would come after the blind write. Behind them it goes as one of them.
    #[inline]
    pub(super) fn enter(&self, id: LaneId, origin: usize) -> bool {
        if self.is_read_by(id, origin) {
            return false;
        }
        let mut map = self.map.borrow_mut();
        let lane = map.entry(id).or_default();
        if !lane.is_open() || lane.sharing > 0 && lane.rare().owned.is_some() {
            return false;
        }
        lane.sharing += 1;
        true
    }

    /// As [`Lanes::enter`], for an update: only where this worker wrote last. The ballot that the update builds on, and
    /// its own.
    #[inline]
    pub(super) fn enter_owned(&self, id: LaneId, origin: usize, generation: u64) -> Option<(Owned, Ballot)> {
        if self.is_read_by(id, origin) {
            return None;
        }
        let mut map = self.map.borrow_mut();
        let lane = map.get_mut(&id).filter(|lane| lane.is_open())?;
        let next = lane.next_owned(generation)?;
        lane.sharing += 1;
        Some(next)
    }

    /// The same for an operation that shares the lane already.
    pub(super) fn next_owned(&self, id: LaneId, generation: u64) -> Option<(Owned, Ballot)> {
        self.map.borrow_mut().get_mut(&id)?.next_owned(generation)
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

    /// A blind write is at a quorum; if this lane is one that sees updates, the next of them may build on it.
    #[inline]
    pub(super) fn wrote_blindly(&self, id: LaneId, owned: Owned) {
        if let Some(lane) = self.map.borrow_mut().get_mut(&id)
            && lane.remembered
            && lane.sharing == 1
            && lane.is_open()
        {
            lane.rare_mut().owned = Some(owned);
        }
    }

    /// So many replicas, a majority, took a blind write. If an earlier one has to be sent again it need not: it is as if it
    /// had come directly before this one.
    #[inline]
    pub(super) fn settled_blindly(&self, id: LaneId, ballot: Ballot, acks: usize) {
        if let Some(lane) = self.map.borrow_mut().get_mut(&id)
            && (lane.sharing > 1 || !lane.rare().waiting.is_empty())
            && lane.rare().settled.is_none_or(|(other, _)| other < ballot)
        {
            lane.rare_mut().settled = Some((ballot, acks));
        }
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
        let mut map = self.map.borrow_mut();
        let Some(lane) = map.get_mut(&id) else { return };
        lane.sharing = lane.sharing.saturating_sub(1);
        if lane.is_quiet() && lane.rare().owned.is_none() && !lane.remembered {
            map.remove(&id);
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
            rare.holder = if shares { rare.holder } else { first.serial };
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
mod tests {
    use super::*;

    fn poll(waiting: &mut Waiting) -> Option<Held> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(waiting).poll(&mut context) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        }
    }

    #[test]
    fn those_of_one_round_share_and_others_wait() {
        let lanes = Rc::new(Lanes::default());
        assert!(lanes.enter(1, 0));
        assert!(lanes.enter(1, 0));
        let mut alone = lanes.wait(&[1], 10, Wish::Exclusive, None);
        assert!(poll(&mut alone).is_none());
        assert!(!lanes.enter(1, 0), "nothing overtakes what waits");
        assert!(!lanes.is_open(1));
        lanes.leave(1);
        assert!(poll(&mut alone).is_none());
        lanes.leave(1);
        let held = poll(&mut alone).expect("the lane is free");
        let mut behind = lanes.wait(&[1], 11, Wish::Shared, None);
        let mut too = lanes.wait(&[1], 12, Wish::Shared, None);
        assert!(poll(&mut behind).is_none());
        drop(held);
        let (first, second) = (poll(&mut behind), poll(&mut too));
        assert!(first.is_some() && second.is_some());
        drop((first, second));
        assert!(lanes.map.borrow().is_empty(), "nothing is kept of a lane without a ballot");
    }

    #[test]
    fn an_earlier_operation_goes_back_to_its_place() {
        let lanes = Rc::new(Lanes::default());
        assert!(lanes.enter(1, 0));
        let mut late = lanes.wait(&[1], 20, Wish::Exclusive, None);
        let mut early = lanes.wait(&[1], 5, Wish::Exclusive, None);
        lanes.leave(1);
        // The first was let in only after the one in front of it.
        assert!(poll(&mut late).is_none());
        let held = poll(&mut early).expect("the earlier one is first");
        drop(held);
        assert!(poll(&mut late).is_some());
    }

    #[test]
    fn several_lanes_are_waited_for_without_a_deadlock() {
        let lanes = Rc::new(Lanes::default());
        let mut one = lanes.wait(&[1, 2], 1, Wish::Exclusive, None);
        let mut two = lanes.wait(&[2, 1], 2, Wish::Exclusive, None);
        let mut three = lanes.wait(&[2, 2, 3], 3, Wish::Exclusive, None);
        let held = poll(&mut one).expect("both are free");
        assert!(poll(&mut two).is_none() && poll(&mut three).is_none());
        drop(held);
        let held = poll(&mut two).expect("both are free now");
        drop(held);
        assert!(poll(&mut three).is_some());
    }

    #[test]
    fn who_wrote_last_needs_one_round() {
        let lanes = Rc::new(Lanes::default());
        assert!(lanes.enter_owned(1, 0, 0).is_none());
        let mut waiting = lanes.wait(&[1], 1, Wish::Exclusive, None);
        let held = poll(&mut waiting).expect("free");
        let ballot = Ballot { hlc: 7, id: 9, seq: 1 };
        held.set_owned(Some(Owned { ballot, count: 1, last: OpId(1), generation: 3 }));
        drop(held);
        assert!(lanes.enter_owned(1, 0, 4).is_none(), "the fences are others");
        let (base, next) = lanes.enter_owned(1, 0, 3).expect("owned");
        assert_eq!((base.ballot, next.seq), (ballot, 2));
        let (base, next) = lanes.enter_owned(1, 0, 3).expect("two may be under way");
        assert_eq!((base.ballot.seq, next.seq), (2, 3));
        lanes.disown(1);
        assert!(lanes.enter_owned(1, 0, 3).is_none());
    }

    #[test]
    fn an_update_shares_a_lane_only_where_this_worker_wrote_last() {
        let lanes = Rc::new(Lanes::default());
        let mut first = lanes.wait(&[1], 1, Wish::Owned, None);
        let mut second = lanes.wait(&[1], 2, Wish::Owned, None);
        let mut read = lanes.wait(&[1], 3, Wish::Shared, None);
        assert!(!lanes.enter(1, 0), "what came later does not overtake");
        let held = poll(&mut first).expect("free");
        assert!(!held.is_shared() && poll(&mut second).is_none() && poll(&mut read).is_none());
        held.set_owned(Some(Owned {
            ballot: Ballot { hlc: 1, id: 1, seq: 1 },
            count: 1,
            last: OpId(1),
            generation: 0,
        }));
        drop(held);
        let held = poll(&mut second).expect("it builds on the first");
        assert!(held.is_shared() && poll(&mut read).is_some());
        assert!(lanes.next_owned(1, 0).is_some());
        assert!(!lanes.enter(1, 0), "a blind write goes behind it as one of them");
        // It turns out to need more rounds.
        let mut again = lanes.wait(&[1], 2, Wish::Exclusive, None);
        drop(held);
        assert!(!poll(&mut again).expect("its turn").is_shared());
    }

    #[test]
    fn an_earlier_blind_write_need_not_be_sent_again() {
        let lanes = Rc::new(Lanes::default());
        let ballot = |hlc| Ballot { hlc, id: 1, seq: 0 };
        assert!(lanes.enter(1, 0) && lanes.enter(1, 0));
        let mut again = lanes.wait(&[1], 1, Wish::Exclusive, None);
        lanes.leave(1);
        lanes.settled_blindly(1, ballot(2), 2);
        lanes.leave(1);
        let held = poll(&mut again).expect("its turn");
        assert!(lanes.is_overwritten(1, ballot(1), 2));
        assert!(!lanes.is_overwritten(1, ballot(1), 3), "not by so many");
        assert!(!lanes.is_overwritten(1, ballot(2), 2), "not by itself");
        drop(held);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let lanes = Rc::new(Lanes::default());
        for id in 0..REMEMBERED_MAX as u64 + 10 {
            let mut waiting = lanes.wait(&[id], id, Wish::Exclusive, None);
            let held = poll(&mut waiting).expect("free");
            held.set_owned(Some(Owned {
                ballot: Ballot { hlc: 1, id, seq: 0 },
                count: 0,
                last: OpId(1),
                generation: 0,
            }));
        }
        assert_eq!(lanes.map.borrow().len(), REMEMBERED_MAX);
        assert!(lanes.enter_owned(0, 0, 0).is_none());
        assert!(lanes.enter_owned(20, 0, 0).is_some());
    }

    #[test]
    fn a_write_waits_for_its_clients_reads() {
        let lanes = Rc::new(Lanes::default());
        lanes.read_begins(1, 7);
        lanes.read_begins(1, 7);
        assert!(lanes.enter(1, 8), "another client's");
        lanes.leave(1);
        assert!(!lanes.enter(1, 7));
        let mut write = lanes.wait(&[1], 1, Wish::Blind, Some(7));
        lanes.read_ends(1, 7);
        assert!(poll(&mut write).is_none());
        // The other one is sent again, at its place.
        let mut again = lanes.wait(&[1], 0, Wish::Exclusive, None);
        lanes.read_ends(1, 7);
        assert!(poll(&mut write).is_none());
        drop(poll(&mut again).expect("its turn"));
        drop(poll(&mut write).expect("its turn"));
    }

    #[test]
    fn a_read_that_was_let_in_counts_before_it_is_sent() {
        let lanes = Rc::new(Lanes::default());
        let mut before = lanes.wait(&[1], 1, Wish::Exclusive, None);
        let mut read = lanes.wait(&[1], 2, Wish::Shared, Some(7));
        let mut write = lanes.wait(&[1], 3, Wish::Blind, Some(7));
        drop(poll(&mut before).expect("its turn"));
        assert!(poll(&mut write).is_none());
        drop(poll(&mut read).expect("its turn"));
        assert!(poll(&mut write).is_some());
    }
}
