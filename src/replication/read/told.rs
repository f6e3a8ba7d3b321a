//! What the answers of replicas come to: whether they agree, and what follows from that.

use super::{Form, Inner};
use crate::backend::{Backend, Flow};
use crate::replication::Engine;
use crate::replication::wire::{Cursor, Seen};

/// A value that comes in pieces has at least so many bytes.
const LONG_BYTES: usize = 32 * 1024;

/// What a piece of an answer leads to.
pub(super) enum Next {
    Wait(Flow),
    /// The value is right and whole: it begins there in the piece.
    Answer(usize),
    /// The value is right and was held.
    AnswerHeld,
    /// The value is right, and this is its beginning.
    Begin(usize),
    BeginHeld,
    /// The value is asked for in the other form.
    AskAgain,
    GiveOver,
}

impl<B: Backend> Inner<B> {
    /// Takes a record; whether it is one, under the right fence.
    fn note(&mut self, index: usize, record: &[u8], fence: &[u8]) -> bool {
        let Some(question) = &self.question else { return false };
        if !question.members.get(index).is_some_and(|member| member.has_fence(fence)) {
            return false;
        }
        let Some(seen) = Seen::of(record) else { return false };
        // Where keys from before quoit may be, no record does not mean no key.
        if seen.marked || seen.is_nothing() && !question.group.is_pure() {
            return false;
        }
        self.live = seen.live;
        if self.told == 0 {
            self.ballot = seen.ballot;
        } else {
            self.differ |= self.ballot != seen.ballot;
        }
        self.told += 1;
        true
    }

    /// Whether enough agree; none when they do not.
    fn agreed(&self, engine: &Engine<B>) -> Option<bool> {
        if self.differ {
            return None;
        }
        let question = self.question.as_ref()?;
        if self.told < self.needed {
            return Some(false);
        }
        // What changed meanwhile: a store lost its memory, or an operation on the key that came before needs more rounds. That
        // may even be over when a slow replica answers at last.
        if question.group.generation.get() != self.generation
            || engine.lanes.is_disturbed(self.lane, self.serial)
            || engine.lanes.was_disturbed_since(self.taken_count, self.lane, self.serial)
        {
            return None;
        }
        Some(true)
    }

    pub(super) fn probed(&mut self, engine: &Engine<B>, index: usize, reply: &[u8]) -> Next {
        let mut cursor = Cursor::new(reply);
        let noted = (|| {
            cursor.array().filter(|count| *count == 2)?;
            Some((cursor.bulk()?, cursor.bulk()?))
        })();
        noted.map_or(Next::GiveOver, |(record, fence)| self.told(engine, index, record, fence))
    }

    /// Takes a record that came without the value.
    pub(super) fn told(&mut self, engine: &Engine<B>, index: usize, record: &[u8], fence: &[u8]) -> Next {
        if !self.note(index, record, fence) {
            return Next::GiveOver;
        }
        match self.agreed(engine) {
            None => Next::GiveOver,
            Some(true) if self.held_whole => Next::AnswerHeld,
            Some(true) if !self.held.is_empty() => Next::BeginHeld,
            Some(_) => Next::Wait(Flow::Continue),
        }
    }

    pub(super) fn valued(&mut self, engine: &Engine<B>, index: usize, reply: &[u8], whole: bool) -> Next {
        let mut cursor = Cursor::new(reply);
        let form = self.form;
        let noted = (|| {
            let elements = if form == Form::Other { 2 } else { 3 };
            cursor.array().filter(|count| *count == elements)?;
            if form == Form::Other {
                cursor.array().filter(|count| *count == 2)?;
            }
            Some((cursor.bulk()?, cursor.bulk()?))
        })();
        let Some((record, fence)) = noted else { return Next::GiveOver };
        let value = cursor.rest();
        self.told_with(engine, index, (record, fence), value, reply.len() - value.len(), whole)
    }

    /// Takes a record that came with the value, which begins there in what will be passed on.
    pub(super) fn told_with(
        &mut self,
        engine: &Engine<B>,
        index: usize,
        (record, fence): (&[u8], &[u8]),
        value: &[u8],
        at: usize,
        whole: bool,
    ) -> Next {
        if !self.note(index, record, fence) {
            return Next::GiveOver;
        }
        if let Some(question) = &self.question {
            // One that comes in pieces is long, however much of it is here.
            question.group.lengths.saw(if whole { value.len() } else { LONG_BYTES.max(value.len()) });
        }
        if self.form == Form::Get && self.live && matches!(value, b"$-1\r\n" | b"_\r\n") {
            // Expired, or of another type: only `GET` itself can tell.
            (self.told, self.differ) = (self.told.saturating_sub(1), false);
            self.form = Form::Other;
            return Next::AskAgain;
        }
        match (self.agreed(engine), whole) {
            (None, _) => Next::GiveOver,
            (Some(true), true) => Next::Answer(at),
            (Some(true), false) => Next::Begin(at),
            (Some(false), _) => {
                self.held.clear();
                self.held.extend_from_slice(value);
                self.held_whole = whole;
                Next::Wait(if whole { Flow::Continue } else { Flow::Pause })
            }
        }
    }
}
