//! What became of earlier tries: they are looked for in what a quorum holds.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use super::{PAUSE_MIN, Promise, Proposal};
use crate::backend::Backend;
use crate::protocol::resp::Version;
use crate::replication::Engine;
use crate::replication::round::{Round, sleep};
use crate::replication::wire::{Cursor, write_probe};
use crate::version::{Ballot, OpId, Operations, Record};

/// An earlier try that may have been applied. Each has an operation id of its own: which of them was applied says which
/// reply is the right one.
pub(in crate::replication) struct Try {
    /// The ballot it was sent under.
    pub(in crate::replication) ballot: Ballot,
    /// The length of the lineage it built on.
    pub(in crate::replication) base_count: u32,
    /// Operations of states that do not have it, by key: what follows one of them does not have it either, unless it
    /// comes later.
    pub(in crate::replication) without: SmallVec<[Operations; 1]>,
    /// The other way round, operations that came after it in a state that has it: what has one of them has it too.
    pub(in crate::replication) with: SmallVec<[Operations; 1]>,
    /// Replicas that have refused the only message of it.
    pub(in crate::replication) refused: u8,
    /// What a replica that ran it has answered.
    pub(in crate::replication) reply: Option<Vec<u8>>,
    /// What replicas say that had not answered yet.
    pub(in crate::replication) late: Option<Rc<RefCell<Late>>>,
    /// The member whose reply that is.
    pub(in crate::replication) trusted: Option<usize>,
    /// Of a write that says `OK` to whatever was there: no newer ballot was chosen before it began.
    pub(in crate::replication) floor: Option<Ballot>,
}

impl Try {
    /// Takes what came late. False if by now all replicas have said that they did not take it.
    pub(super) fn is_open(&mut self) -> bool {
        let Some(late) = &self.late else { return true };
        let late = late.borrow();
        self.refused |= late.refused;
        late.taken || late.waiting > 0
    }

    /// A replica showed this record of a key.
    pub(in crate::replication) fn learn(&mut self, key: usize, record: &Record) {
        for learned in [&mut self.with, &mut self.without] {
            if learned.len() <= key {
                learned.resize(key + 1, SmallVec::new());
            }
        }
        let ids = record.operations();
        let since = ids.iter().position(|id| self.is_in(key, OpId(*id)));
        let (Some(with), Some(without)) = (self.with.get_mut(key), self.without.get_mut(key)) else { return };
        if let Some(since) = since {
            remember(with, ids.get(since..).unwrap_or_default());
            return;
        }
        // A state that is older than it, or follows one without it and has it not among what came since.
        if record.accepted < self.ballot || without.iter().any(|id| record.contains(OpId(*id))) {
            remember(without, &ids);
        }
    }

    /// Whether it is in the state of a key, by what is known of it.
    fn is_part_of(&self, key: usize, record: &Record) -> bool {
        record.contains(self.ballot.op_id())
            || self.with.get(key).into_iter().flatten().any(|id| record.contains(OpId(*id)))
    }

    /// Whether an operation on a key is the try, or came after it.
    fn is_in(&self, key: usize, op: OpId) -> bool {
        op.includes(self.ballot.op_id()) || self.with.get(key).into_iter().flatten().any(|id| op.includes(OpId(*id)))
    }
}

/// Adds those that are new, and forgets the oldest where there are too many.
fn remember(learned: &mut Operations, ids: &[u64]) {
    for id in ids {
        if !learned.contains(id) {
            learned.push(*id);
        }
    }
    let excess = learned.len().saturating_sub(LEARNED_MAX);
    learned.drain(..excess);
}

/// Ids of operations that a try remembers; the newest are of use.
const LEARNED_MAX: usize = 64;

/// What came of a try after its proposal had begun.
#[derive(Default)]
pub(in crate::replication) struct Late {
    /// What a replica that ran it has answered.
    pub(in crate::replication) reply: Option<Vec<u8>>,
    /// Some replica took it, or may have.
    pub(in crate::replication) taken: bool,
    /// Replicas that have refused it.
    pub(in crate::replication) refused: u8,
    /// Replicas that have not answered yet.
    pub(in crate::replication) waiting: usize,
}

/// What became of the earlier tries.
pub(super) enum Search {
    /// The try of that number is in the newest state.
    Found(usize),
    /// None was chosen, or nothing was tried.
    Free,
    /// A blind write was, if it was, and has been overwritten since.
    Overwritten,
    Unclear,
}

/// How long a pause may be without a look at the records: as many terms as a lineage remembers take longer, even where the
/// network takes no time.
const BLIND_MAX: Duration = Duration::from_millis(2);

impl<B: Backend> Proposal<B> {
    /// Waits. What others write meanwhile pushes what it knows out of the lineages, and with it the answer to what became of
    /// earlier tries: as long as there are any, it looks now and then.
    pub(super) async fn pause(&mut self, engine: &Engine<B>, span: Duration) {
        let end = engine.backend.now().after(span);
        loop {
            let now = engine.backend.now();
            if now >= end {
                return;
            }
            let left = end.since(now);
            if self.tries.is_empty() {
                return sleep(&engine.backend, left).await;
            }
            sleep(&engine.backend, left.min(BLIND_MAX)).await;
            if left > BLIND_MAX {
                self.look(engine).await;
            }
        }
    }

    /// Has the tries learn from the records that a majority shows.
    async fn look(&mut self, engine: &Engine<B>) {
        let members = self.members.clone();
        let records: SmallVec<[Vec<u8>; 1]> = self.keys.iter().map(|key| key.record.clone()).collect();
        let write = |_: usize, _, out: &mut Vec<u8>| write_probe(out, records.iter().map(Vec::as_slice), None);
        let round = Round::new(engine, &members, Version::Resp2, self.origin(), &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        let mut due = self.majority();
        while let Some((_, said)) = round.next().await {
            let Ok(reply) = said else { continue };
            let mut cursor = Cursor::new(&reply);
            if cursor.array().is_none() {
                continue;
            }
            for key in 0..records.len() {
                let Some(record) = cursor.bulk().and_then(|bytes| Record::decode(bytes).ok()) else { break };
                self.tries.iter_mut().for_each(|tried| tried.learn(key, &record));
            }
            due -= 1;
            if due == 0 {
                return;
            }
        }
    }

    /// Whether what replicas still have to say may tell what became of a try.
    pub(super) fn may_clear_up(&mut self) -> bool {
        let before = self.tries.len();
        self.tries.retain(Try::is_open);
        let is_due = |tried: &Try| tried.late.as_ref().is_some_and(|late| late.borrow().waiting > 0);
        self.tries.len() < before || self.tries.iter().any(is_due)
    }

    /// Looks for earlier tries in what a quorum holds.
    pub(super) fn search(&self, promises: &[Promise]) -> Search {
        // So many replicas without it, and no quorum can have had it.
        let enough = self.members.len() - self.majority() + 1;
        let written = || self.keys.iter().enumerate().filter(|(_, key)| key.written).map(|(at, _)| at);
        let records =
            |at: usize| promises.iter().filter_map(move |promise| Some((promise.member, &promise.records.get(at)?.0)));
        let contains = |at: usize, tried: &Try| {
            let newest = records(at).map(|(_, record)| record).max_by_key(|record| record.accepted);
            newest.is_some_and(|newest| tried.is_part_of(at, newest))
        };
        let mut clear = true;
        for (number, tried) in self.tries.iter().enumerate() {
            let Try { ballot, base_count, without, refused, .. } = tried;
            if written().all(|at| contains(at, tried)) {
                return Search::Found(number);
            }
            // In some of several keys and not in others: half of it may stay undone.
            clear &= !written().any(|at| contains(at, tried));
            for at in written() {
                // The newest state and one without the try have an operation in common, or began with a missing key, and
                // all that came after that is known by its id: what is not among it was not chosen.
                let newest = records(at).map(|(_, record)| record).max_by_key(|record| record.accepted);
                let mut ids = without.get(at).into_iter().flatten();
                if newest.is_some_and(|newest| newest.is_whole() || ids.any(|id| newest.contains(OpId(*id)))) {
                    continue;
                }
                let without = |(member, record): &(usize, &Record)| {
                    record.never_accepted(*ballot, *base_count)
                        || refused & (1 << member) != 0 && record.refused_for_good(*ballot, *base_count)
                };
                // The newest is what the next try builds on: so many without it only say that it was not chosen so far.
                let is_newest =
                    |(_, record): &(usize, &Record)| newest.is_some_and(|it| it.accepted == record.accepted);
                clear &= records(at).filter(without).count() >= enough
                    && records(at).filter(is_newest).any(|it| without(&it));
            }
        }
        // Whether or not it was applied: a blind write came after it began and left nothing of it. It is as if it had come
        // directly before that one.
        let newest = records(0).map(|(_, record)| record).max_by_key(|record| record.accepted);
        let is_overwritten = newest.is_some_and(|newest| {
            let is_after = |floor: Ballot| {
                // Later ballots for the same state hide that of the blind write. It came later than nothing at all, unless
                // it is a value from before quoit.
                let is_first = floor.is_zero() && self.group.is_pure();
                newest.accepted > floor && (newest.is_blind() || is_first)
            };
            newest.begins_blind() && self.tries.iter().filter_map(|tried| tried.floor).any(is_after)
        });
        match (clear, is_overwritten) {
            (true, _) => Search::Free,
            (false, true) => Search::Overwritten,
            (false, false) => Search::Unclear,
        }
    }

    /// What a replica has answered to an earlier try, or still answers.
    pub(super) async fn reply_of(&mut self, engine: &Engine<B>, tried: usize) -> Option<Vec<u8>> {
        let tried = self.tries.get_mut(tried)?;
        if tried.reply.is_some() {
            return tried.reply.take();
        }
        let late = tried.late.take()?;
        while late.borrow().reply.is_none() && late.borrow().waiting > 0 && !engine.is_late(self.deadline) {
            sleep(&engine.backend, PAUSE_MIN).await;
        }
        late.take().reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::OPERATIONS_MAX;

    /// The first ballot of a term of its own.
    fn ballot(number: u64) -> Ballot {
        Ballot { hlc: number << 16, id: number << 16, seq: 1 }
    }

    /// What was tried under this ballot on this state.
    fn tried(ballot: Ballot, base: &Record) -> Try {
        Try {
            ballot,
            base_count: base.count,
            without: std::iter::once(base.operations()).collect(),
            with: SmallVec::new(),
            refused: 0,
            reply: None,
            late: None,
            trusted: None,
            floor: None,
        }
    }

    /// Others write more terms than a record remembers; the try looks at every `every`th state.
    #[track_caller]
    fn check(is_applied: bool, every: usize, wants: (bool, bool)) {
        let base = Record::default().followed_by(ballot(1));
        let mut tried = tried(ballot(2), &base);
        let mut state = if is_applied { base.followed_by(ballot(2)) } else { base };
        for number in 3..3 + 3 * OPERATIONS_MAX {
            state = state.followed_by(ballot(number as u64));
            if number % every == 0 {
                tried.learn(0, &state);
            }
        }
        let is_without = tried.without.iter().flatten().any(|id| state.contains(OpId(*id)));
        assert_eq!((tried.is_part_of(0, &state), is_without), wants, "applied: {is_applied}, every {every}");
    }

    #[test]
    fn a_try_is_found_by_what_came_after_it() {
        check(true, OPERATIONS_MAX / 2, (true, false));
        check(false, OPERATIONS_MAX / 2, (false, true));
        // Nobody looked in time: nothing is known, and nothing is guessed.
        check(true, 4 * OPERATIONS_MAX, (false, false));
        check(false, 4 * OPERATIONS_MAX, (false, false));
    }
}
