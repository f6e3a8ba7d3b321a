//! How a write hears of its answers, alone or among others of its batch.

use std::rc::Rc;

use super::{Stage, Vote, Write};
use crate::backend::{Backend, Cause, Flow, Piece, ReplySink, Tag};
use crate::replication::Engine;
use crate::replication::round::may_have_arrived;
use crate::replication::wire::{Answer, Call};

impl<B: Backend> Write<B> {
    /// What a replica answered.
    pub(in crate::replication) fn heard(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: usize, answer: &Answer<'_>) {
        let vote = self.inner.borrow_mut().judge(engine, index, answer);
        self.take_vote(engine, index, vote);
    }

    /// A replica gives no answer.
    pub(in crate::replication) fn failed(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: usize, cause: &Cause) {
        self.take_vote(engine, index, if may_have_arrived(cause) { Vote::Maybe } else { Vote::Not });
    }

    /// A replica has forgotten the script, and this write was one of several: it gets the text for each.
    pub(in crate::replication) fn send_text(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: usize) {
        if !self.send_again(engine, index, Call::Text) {
            self.take_vote(engine, index, Vote::Not);
        }
    }

    /// It was to be one of several, and is the only one.
    pub(in crate::replication) fn send_alone(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: u8) {
        if !self.send_again(engine, usize::from(index), Call::Digest) {
            self.take_vote(engine, usize::from(index), Vote::Not);
        }
    }

    fn take_vote(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: usize, vote: Vote) {
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            inner.waiting = inner.waiting.saturating_sub(1);
            let votes = inner.members.get(index).is_some_and(|member| member.votes());
            if votes && vote == Vote::Accepted {
                inner.accepted += 1;
            }
            if let Some(place) = inner.votes.get_mut(index) {
                *place = if votes || vote == Vote::Maybe { vote } else { Vote::None };
            }
            if let Some(late) = &inner.late {
                let mut late = late.borrow_mut();
                late.waiting = inner.waiting;
                late.taken |= matches!(vote, Vote::Accepted | Vote::Maybe);
                late.refused |= if vote == Vote::Refused { 1 << index } else { 0 };
            }
            if inner.stage == Stage::Over
                && vote != Vote::Accepted
                && let Some(group) = inner.group.clone()
            {
                engine.missed(&group, inner.key(), &inner.members, 1 << index);
            }
            if inner.is_undecided() {
                return;
            }
        }
        self.look(engine);
    }
}

impl<B: Backend> ReplySink for Write<B> {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let Some(engine) = self.engine.upgrade() else { return Flow::Continue };
        let index = tag.part as usize;
        match piece {
            Piece::Whole(reply) => {
                let answer = Answer::parse(reply);
                if !matches!(answer, Answer::NoScript) || !self.send_again(&engine, index, Call::Text) {
                    self.heard(&engine, index, &answer);
                }
            }
            // The answer to an update may be long; scripts build it whole.
            Piece::Begin(bytes) | Piece::More(bytes) => self.inner.borrow_mut().gather(index, bytes),
            Piece::End(bytes) => {
                let reply = {
                    let mut inner = self.inner.borrow_mut();
                    inner.gather(index, bytes);
                    inner.gathered(index)
                };
                self.heard(&engine, index, &Answer::parse(&reply));
            }
            Piece::Failed(failure) => self.failed(&engine, index, &failure.cause),
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.inner.borrow().asker.as_ref().map_or(0, |asker| asker.sink.origin())
    }
}
