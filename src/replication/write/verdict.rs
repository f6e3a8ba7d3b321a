//! What the replicas' answers to a write come to.

use std::cell::RefCell;
use std::rc::Rc;

use smallvec::SmallVec;

use super::{Inner, Stage, Vote};
use crate::backend::Backend;
use crate::replication::Engine;
use crate::replication::proposal::{Late, Try};
use crate::replication::wire::Answer;
use crate::version::{Ballot, Record};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    Done,
    Refused,
    Propose,
}

impl<B: Backend> Inner<B> {
    /// What a replica's answer says of it.
    pub(super) fn judge(&mut self, engine: &Engine<B>, index: usize, answer: &Answer<'_>) -> Vote {
        let votes = self.members.get(index).is_some_and(|member| member.votes());
        match answer {
            // It counts for nothing now, and may do so when it is rebuilt.
            Answer::Accepted | Answer::Applied { .. } | Answer::AppliedNumber { .. } if !votes => Vote::Maybe,
            Answer::Error(_) if !votes => Vote::None,
            Answer::Accepted => Vote::Accepted,
            Answer::Applied { existed, reply } => {
                self.took(index, *existed, &[&self.shape.restore(reply)]);
                Vote::Accepted
            }
            Answer::AppliedNumber { existed, digits } => {
                self.took(index, *existed, &[b":", digits, b"\r\n"]);
                Vote::Accepted
            }
            Answer::Behind => Vote::Not,
            Answer::Refused(records) => {
                if let Some(group) = &self.group {
                    group.cells.refusals.increment();
                }
                let Some(record) = records.first().and_then(|record| Record::decode(record).ok()) else {
                    return Vote::Not;
                };
                engine.saw(&record);
                // Somebody brought it there before it came itself.
                if self.is_blind() && record.accepted == self.ballot {
                    return Vote::Accepted;
                }
                if votes && self.stage == Stage::Asking {
                    self.shown.push(record);
                }
                Vote::Refused
            }
            Answer::Error(text) => {
                self.error.get_or_insert_with(|| text.to_vec());
                Vote::Error
            }
            Answer::Garbled => Vote::Maybe,
            other => {
                if let Some(group) = self.group.clone() {
                    drop(engine.other_answer(&group, &self.members, index, other));
                }
                Vote::Not
            }
        }
    }

    fn took(&mut self, index: usize, existed: bool, reply: &[&[u8]]) {
        if self.accepted > 0 {
            self.split |= self.existed != existed;
            return;
        }
        self.existed = existed;
        self.trusted = index;
        self.reply.clear();
        for part in reply {
            self.reply.extend_from_slice(part);
        }
        if let Some(late) = &self.late {
            late.borrow_mut().reply.get_or_insert_with(|| self.reply.clone());
        }
    }

    /// The next answer is waited for, whatever it will be: nothing is to be done now.
    #[inline]
    pub(super) fn is_undecided(&self) -> bool {
        self.waiting > 0
            && (self.stage == Stage::Over || self.accepted < self.needed && self.accepted + self.waiting >= self.needed)
    }

    /// What the votes come to: whether the client can be answered, and with what.
    pub(super) fn verdict(&self) -> Verdict {
        if self.stage == Stage::Over {
            return Verdict::Wait;
        }
        if self.accepted >= self.needed {
            return if self.split { Verdict::Propose } else { Verdict::Done };
        }
        if self.accepted + self.waiting >= self.needed {
            return Verdict::Wait;
        }
        let errors = self.votes.iter().filter(|vote| **vote == Vote::Error).count();
        let unclear = self.accepted > 0 || self.votes.contains(&Vote::Maybe) || self.waiting > 0;
        let majority = self.group.as_ref().map_or(1, |group| usize::from(group.quorums().majority()));
        // A failed update is an answer where a quorum holds its base; a blind write has no base.
        if !unclear && errors > 0 && (errors >= majority || self.is_blind() && !self.votes.contains(&Vote::Refused)) {
            return Verdict::Refused;
        }
        Verdict::Propose
    }

    /// The newest that a majority held after a write began that does not look at what was there: whatever is newer was not
    /// chosen before.
    fn floor(&self) -> Option<Ballot> {
        let majority = usize::from(self.group.as_ref()?.quorums().majority());
        let newest = self.shown.iter().map(|record| record.accepted).max().unwrap_or_default();
        (self.overwrites && self.accepted + self.shown.len() >= majority).then(|| newest.max(self.ballot))
    }

    /// What a proposal has to know of it; none if no replica took it.
    pub(super) fn tried(&mut self) -> Option<Try> {
        let unclear = self.accepted > 0 || self.votes.iter().any(|vote| matches!(vote, Vote::Maybe | Vote::Waiting));
        if !unclear {
            return None;
        }
        let refused = (0..8_u8).filter(|at| self.votes.get(usize::from(*at)) == Some(&Vote::Refused));
        let reply =
            if self.is_blind() { Some(b"+OK\r\n".to_vec()) } else { (self.accepted > 0).then(|| self.reply.clone()) };
        let refused = refused.fold(0, |mask, at| mask | 1 << at);
        if self.waiting > 0 {
            let taken = self.accepted > 0 || self.votes.contains(&Vote::Maybe);
            self.late = Some(Rc::new(RefCell::new(Late { reply: None, taken, refused, waiting: self.waiting })));
        }
        let base = (!self.is_blind()).then(|| std::iter::once(self.base.last.0).collect());
        let mut tried = Try {
            ballot: self.ballot,
            base_count: self.base.count,
            without: base.into_iter().collect(),
            with: SmallVec::new(),
            refused,
            reply,
            late: self.late.clone(),
            trusted: self.split.then_some(self.trusted),
            floor: self.floor(),
        };
        self.shown.iter().for_each(|record| tried.learn(0, record));
        Some(tried)
    }
}
