//! A read that one round did not answer: everybody is asked, and what only some hold is brought to enough of them before
//! the answer leaves (ABD's write-back).

use std::rc::Rc;

use smallvec::SmallVec;

use super::Engine;
use super::lane::{Waiting, Wish, lane_of};
use super::proposal::Proposal;
use super::read::Question;
use super::round::{Round, sleep};
use super::wire::{Cursor, Seen, TRANSACTION_REPLIES, write_transaction};
use crate::backend::Backend;
use crate::command::{Args, KeyIndexes, reply};
use crate::protocol::resp::{write_bulk, write_header};
use crate::version::{Ballot, write_record_key};

/// The pause between two looks at replicas that keep changing.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// A read of any number of keys.
pub(super) struct SlowRead<B: Backend> {
    question: Question<B>,
    frame: Vec<u8>,
    keys: SmallVec<[Vec<u8>; 1]>,
    serial: u64,
}

/// What one look at the replicas led to.
enum Look {
    Answer(Vec<u8>),
    Again(String),
}

impl<B: Backend> SlowRead<B> {
    pub(super) fn new(question: Question<B>, frame: &[u8], args: &Args<'_>, keys: &KeyIndexes, serial: u64) -> Self {
        let keys = keys.iter().filter_map(|at| args.get(*at as usize)).map(<[u8]>::to_vec).collect();
        Self { question, frame: frame.to_vec(), keys, serial }
    }

    /// The names of the records of its keys.
    fn records(&self) -> SmallVec<[Vec<u8>; 1]> {
        let name = |key: &Vec<u8>| {
            let mut record = Vec::new();
            write_record_key(key, &mut record);
            record
        };
        self.keys.iter().map(name).collect()
    }

    pub(super) fn of_one_key(question: Question<B>, frame: &[u8], key: (usize, usize), serial: u64) -> Self {
        let key = frame.get(key.0..key.1).unwrap_or_default().to_vec();
        Self { question, frame: frame.to_vec(), keys: std::iter::once(key).collect(), serial }
    }
}

impl<B: Backend> Engine<B> {
    pub(super) fn read_slowly(self: &Rc<Self>, read: SlowRead<B>) {
        read.question.group.cells.reads_in_more_rounds.increment();
        let engine = Rc::clone(self);
        let lanes: SmallVec<[u64; 2]> = read.keys.iter().map(|key| lane_of(read.question.group.seed, key)).collect();
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&lanes, read.serial, Wish::Exclusive, None);
        self.spawn(async move { engine.run_slow_read(read, waiting).await });
    }

    async fn run_slow_read(self: &Rc<Self>, read: SlowRead<B>, waiting: Waiting) {
        let group = Rc::clone(&read.question.group);
        let deadline = self.deadline(&group);
        let share = waiting.await;
        let mut out = Vec::new();
        loop {
            match self.look(&read).await {
                Look::Answer(bytes) => {
                    out = bytes;
                    break;
                }
                Look::Again(trouble) if self.is_late(deadline) => {
                    group.cells.no_replicas.increment();
                    reply::no_replicas(&mut out, &trouble);
                    break;
                }
                Look::Again(_) => sleep(&self.backend, PAUSE).await,
            }
        }
        drop(share);
        read.question.asker.answer(&out);
    }

    async fn look(&self, read: &SlowRead<B>) -> Look {
        let question = &read.question;
        let (group, members) = (&question.group, &question.members);
        let needed = usize::from(question.level.read_acks(group.quorums()));
        let voters = members.iter().filter(|member| member.votes()).count();
        if voters < needed {
            group.look_at_fences();
            return Look::Again(format!("{voters} of {} replicas can vote, {needed} are needed", members.len()));
        }
        let generation = group.generation.get();
        let records = read.records();
        let names: SmallVec<[&[u8]; 1]> = records.iter().map(Vec::as_slice).collect();
        let Some(mut each) = self.probe_each(group, members, &names, needed).await else {
            return Look::Again("too few replicas answered".to_owned());
        };
        if each.iter().any(|held| !held.is_held_by(needed)) {
            // Perhaps those that were not waited for make up the number.
            if let Some(all) = self.probe_each(group, members, &names, members.len()).await {
                each = all;
            }
        }
        let marks: Vec<Box<[u8]>> = each.iter().flat_map(|held| held.marks.iter().cloned()).collect();
        if !marks.is_empty() {
            self.settle_marks(group, members, marks).await;
            return Look::Again("what a command over several keys wrote is not decided yet".to_owned());
        }
        let (mut agreed, mut brought) = (SmallVec::<[Ballot; 1]>::new(), false);
        let mut holders: Option<SmallVec<[usize; 7]>> = None;
        for (key, held) in read.keys.iter().zip(&each) {
            let newest = held.newest().unwrap_or_default();
            if !held.is_held_by(needed) {
                brought = true;
                if !self.write_back(group, members, key, held, needed).await {
                    return Look::Again("too few replicas hold the newest value".to_owned());
                }
            } else if newest.is_zero() && self.has_old_values(read, key).await {
                if !self.settle(Proposal::identity(self, group, members, key)).await {
                    return Look::Again("a value from before quoit could not be adopted".to_owned());
                }
                return Look::Again("a value from before quoit was adopted".to_owned());
            }
            agreed.push(newest);
            let here: SmallVec<[usize; 7]> = held.holders(newest).collect();
            holders = Some(match holders {
                None => here,
                Some(others) => others.into_iter().filter(|at| here.contains(at)).collect(),
            });
        }
        if brought && read.keys.len() > 1 {
            // Of several keys what was seen at one moment has to be what a quorum holds: one of them alone may have got what
            // a command over several wrote later.
            return Look::Again("the newest values had to be brought to enough replicas".to_owned());
        }
        if generation != group.generation.get() {
            return Look::Again("the stores' fences have changed".to_owned());
        }
        let holders = holders.unwrap_or_else(|| (0..members.len()).collect());
        if holders.is_empty() {
            // Several keys, and nobody holds the newest of all.
            for key in &read.keys {
                drop(self.repair(group, members, key).await);
            }
            return Look::Again("no replica holds the newest value of all keys".to_owned());
        }
        self.read_at(read, &holders, &agreed).await
    }

    /// Whether a store holds a key without a record: one from before quoit.
    async fn has_old_values(&self, read: &SlowRead<B>, key: &[u8]) -> bool {
        let members = &read.question.members;
        if read.question.group.is_pure() {
            return false;
        }
        let write = |_: usize, _, out: &mut Vec<u8>| {
            write_header(out, b'*', 2);
            write_bulk(out, b"EXISTS");
            write_bulk(out, key);
        };
        let round = Round::new(self, members, read.question.version, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        while let Some((_, said)) = round.next().await {
            if said.is_ok_and(|reply| reply == b":1\r\n") {
                return true;
            }
        }
        false
    }

    /// Reads at a replica that holds what was agreed on.
    async fn read_at(&self, read: &SlowRead<B>, holders: &[usize], agreed: &[Ballot]) -> Look {
        let question = &read.question;
        let members = &question.members;
        let records = read.records();
        let write = |_: usize, _, out: &mut Vec<u8>| {
            write_transaction(out, records.iter().map(Vec::as_slice), &read.frame);
        };
        let mut trouble = String::new();
        for at in holders {
            let Some(member) = members.get(*at) else { continue };
            let round = Round::new(self, members, question.version, question.asker.sink.origin(), &write)
                .of_replies(TRANSACTION_REPLIES);
            round.ask(*at);
            let reply = match round.next().await {
                Some((_, Ok(reply))) => reply,
                Some((_, Err(failure))) => {
                    trouble = format!("{}: {}", failure.node, failure.cause);
                    continue;
                }
                None => continue,
            };
            if reply.first() == Some(&b'-') {
                return Look::Answer(reply); // The store refuses the command itself.
            }
            let checked = || {
                let mut cursor = Cursor::new(&reply);
                cursor.array().filter(|elements| *elements == 2)?;
                cursor.array().filter(|elements| *elements == records.len() + 1)?;
                for ballot in agreed {
                    Some(Seen::of(cursor.bulk()?)?).filter(|seen| seen.accepted() == *ballot && !seen.marked)?;
                }
                let fence = cursor.bulk()?;
                (fence == member.fence().as_bytes()).then(|| cursor.rest().to_vec())
            };
            return match checked() {
                Some(value) => Look::Answer(value),
                None => Look::Again("the value changes faster than it can be read".to_owned()),
            };
        }
        Look::Again(trouble)
    }
}
