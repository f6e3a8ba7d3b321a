//! Commands that write several keys: all of them or none, whatever becomes of the proxy that sent them and of the stores.
//!
//! The replica that runs such a command, and each that takes its states, marks the records of its keys and keeps the values
//! from before in a *piece*. When a quorum has marked them, the *decision* is written: a reserved key with the same replicas,
//! `1` if all stays. It is a key as any other, and so has one value for everybody. After that the command is answered, the
//! marks go, and the decision with them.
//!
//! Whoever meets a mark neither reads nor writes the key before it is gone. It leaves the command some time; then it decides
//! that nothing stays, unless it is decided already, and has all replicas do what was decided.
//!
//! # Invariants
//! - Only the proxy that began a command decides that it stays, once, when a quorum has marked its keys.
//! - A decision is dropped only when all replicas have marked the keys and have ended that, or when it has been kept for as
//!   long as tombstones are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use super::accept::State;
use super::proposal::{End, Ground, Key, Proposal, Work};
use super::round::{Round, sleep};
use super::wire::{Answer, Cursor, Words, write_number, write_script};
use super::{Engine, Group, Members};
use crate::backend::Backend;
use crate::clock::Moment;
use crate::protocol::resp::{Version, write_bulk, write_request};
use crate::version::{
    Ballot, FENCE_KEY, NO_BASE, Record, Script, piece_name, write_decision_key, write_piece_key, write_record_key,
};

/// Before a mark is looked at again.
const PAUSE: Duration = Duration::from_millis(2);
/// Marks that are known to have been met, and since when.
const MET_MAX: usize = 256;

/// Before any clock: who prepares for a decision is always ahead of it.
const FIRST_HLC: u64 = 1;

/// What is under way over several keys.
pub(super) struct Piece {
    /// Where each replica keeps it.
    pub(super) key: Vec<u8>,
    decision: Vec<u8>,
}

impl Piece {
    fn of(name: &[u8]) -> Self {
        let (mut key, mut decision) = (Vec::new(), Vec::new());
        write_piece_key(name, &mut key);
        write_decision_key(name, &mut decision);
        Self { key, decision }
    }
}

/// Marks that were met.
#[derive(Default)]
pub(super) struct Met(RefCell<VecDeque<(Box<[u8]>, Moment)>>);

impl Met {
    /// Since when a mark is known.
    fn since(&self, mark: &[u8], now: Moment) -> Moment {
        let mut all = self.0.borrow_mut();
        if let Some((_, since)) = all.iter().find(|(known, _)| &**known == mark) {
            return *since;
        }
        if all.len() == MET_MAX {
            all.pop_front();
        }
        all.push_back((mark.into(), now));
        now
    }

    fn forget(&self, mark: &[u8]) {
        self.0.borrow_mut().retain(|(known, _)| &**known != mark);
    }
}

impl<B: Backend> Proposal<B> {
    pub(super) fn written(&self) -> SmallVec<[usize; 4]> {
        (0..self.keys.len()).filter(|key| self.keys.get(*key).is_some_and(|key| key.written)).collect()
    }

    /// The piece that a try under this ballot makes, if it writes several keys.
    pub(super) fn piece(&self, ballot: Ballot) -> Option<Piece> {
        let written = self.written();
        let first = written.first().and_then(|key| self.keys.get(*key)).filter(|_| written.len() > 1)?;
        Some(Piece::of(&piece_name(ballot, &first.name)))
    }

    fn names(&self) -> Vec<Vec<u8>> {
        self.written().iter().filter_map(|key| self.keys.get(*key)).map(|key| key.name.clone()).collect()
    }

    /// One replica has run the work on several keys: the others take what it wrote, and it is decided whether it stays.
    /// None if not, and it may be tried again.
    pub(super) async fn hand_on_together(
        &mut self,
        engine: &Engine<B>,
        ground: &Ground,
        piece: Piece,
        runner: usize,
        ballot: Ballot,
        states: &[State],
    ) -> Option<End> {
        let names = self.names();
        let staged = self.stage(engine, &piece, &names, states, runner).await;
        let enough = staged.held >= self.needed.max(self.majority());
        let stays = if !enough || ground.generation != self.group.generation.get() {
            Some(false)
        } else if self.decide_to_stay(engine, ground, &piece, ballot).await {
            Some(true)
        } else {
            engine.decide(&self.group, &self.members, &piece).await
        };
        match stays {
            Some(true) => {
                let all = staged.taken == self.members.len();
                let (group, members) = (Rc::clone(&self.group), self.members.clone());
                if let Some(owned) = engine.this.borrow().upgrade() {
                    engine.spawn(async move { owned.finish(&group, &members, &piece, &names, all).await });
                }
                Some(End::Done(self.reply.take().unwrap_or_default()))
            }
            Some(false) => {
                self.withdraw(engine, &piece).await;
                None
            }
            None => {
                self.note_trouble("whether it was applied could not be decided".to_owned());
                Some(End::Unknown)
            }
        }
    }

    /// A try of which this proxy has not said that it stays, and never will.
    pub(super) async fn withdraw(&mut self, engine: &Engine<B>, piece: &Piece) {
        self.reply = None;
        engine.end_piece(&self.group, &self.members, piece, &self.names(), false).await;
    }

    /// Has the other replicas take the states that one has.
    async fn stage(
        &self,
        engine: &Engine<B>,
        piece: &Piece,
        names: &[Vec<u8>],
        states: &[State],
        runner: usize,
    ) -> Staged {
        let text = names.iter().flat_map(|name| [format!("{}:", name.len()).as_bytes(), name].concat());
        let text: Vec<u8> = text.collect();
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = self.members.get(part) else { return };
            write_script(out, Script::Stage, call, 2 * names.len() + 2, 2 + 3 * states.len());
            write_keys(names, piece, out);
            write_bulk(out, member.fence().as_bytes());
            write_bulk(out, &text);
            for state in states {
                write_bulk(out, &state.record);
                write_bulk(out, &state.payload);
                write_bulk(out, &state.expires_at);
            }
        };
        let round = Round::new(engine, &self.members, Version::Resp2, 0, &write);
        for (at, member) in self.members.iter().enumerate() {
            if at != runner && member.belief.get().is_some() {
                round.ask(at);
            }
        }
        let mut staged = Staged { held: 1, taken: 1 };
        while let Some((at, said)) = round.next().await {
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Accepted) => {
                    staged.taken += 1;
                    staged.held += usize::from(self.members.get(at).is_some_and(|member| member.votes()));
                }
                Ok(Answer::Refused(records)) => {
                    for (key, record) in self.written().into_iter().zip(&records) {
                        self.note_shown(engine, key, record);
                    }
                    self.note_trouble("other writers are at work on the keys".to_owned());
                }
                Ok(Answer::Error(text)) => {
                    self.group.cells.transfers_refused.increment();
                    self.note_trouble(String::from_utf8_lossy(text).into_owned());
                }
                Ok(other) => self.note_trouble(engine.other_answer(&self.group, &self.members, at, &other)),
                Err(failure) => self.note_trouble(format!("{}: {}", failure.node, failure.cause)),
            }
        }
        staged
    }

    /// A quorum has marked the keys: they stay. False if it is not known whether that is decided now.
    async fn decide_to_stay(&self, engine: &Engine<B>, ground: &Ground, piece: &Piece, ballot: Ballot) -> bool {
        let key = Key::new(&piece.decision, true);
        let words = Words::of([b"INCRBY".as_slice(), &piece.decision, b"1"]);
        // It asks for no promise, so it has to come before all that others may write.
        let ballot = Ballot { hlc: FIRST_HLC, ..ballot };
        let write = |part: usize, call, out: &mut Vec<u8>| {
            self.write_apply(part, call, &key, &NO_BASE, ballot, Some(&words), out);
        };
        let round = Round::new(engine, &self.members, Version::Resp2, 0, &write);
        for (at, _) in self.members.iter().enumerate().filter(|(_, member)| member.belief.get().is_some()) {
            round.ask(at);
        }
        let mut held = 0;
        while let Some((at, said)) = round.next().await {
            let votes = self.members.get(at).is_some_and(|member| member.votes());
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Applied { .. }) => held += usize::from(votes),
                Ok(Answer::Fenced(found)) => engine.fenced(&self.group, &self.members, at, found),
                _ => {}
            }
            if held >= self.majority() {
                break;
            }
        }
        held >= self.majority() && ground.generation == self.group.generation.get()
    }
}

/// Who has taken the states, the replica that ran the work included.
struct Staged {
    /// Those that vote.
    held: usize,
    taken: usize,
}

/// Appends keys, their records, the fence and the piece.
fn write_keys(names: &[Vec<u8>], piece: &Piece, out: &mut Vec<u8>) {
    for name in names {
        write_bulk(out, name);
    }
    let mut record = Vec::new();
    for name in names {
        record.clear();
        write_record_key(name, &mut record);
        write_bulk(out, &record);
    }
    write_bulk(out, FENCE_KEY);
    write_bulk(out, &piece.key);
}

/// The names of the keys of a piece, as the scripts write them.
fn names_in(mut text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    while !text.is_empty() {
        let (len, rest) = text.split_at_checked(memchr::memchr(b':', text)?)?;
        let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
        let (name, rest) = rest.get(1..)?.split_at_checked(len)?;
        names.push(name.to_vec());
        text = rest;
    }
    Some(names)
}

impl<B: Backend> Engine<B> {
    /// Marks were met: each command gets some time to end, and is ended then.
    pub(super) fn settle_marks<'a>(
        &'a self,
        group: &'a Rc<Group<B>>,
        members: &'a Members<B>,
        marks: Vec<Box<[u8]>>,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let mut waits = false;
            for mark in marks {
                let since = self.met.since(&mark, self.backend.now());
                if self.backend.now().since(since) < Duration::from_millis(self.patience_ms()) {
                    waits = true;
                    continue;
                }
                let piece = Piece::of(&mark);
                let Some(stays) = self.decide(group, members, &piece).await else { continue };
                if let Some(names) = self.names_of(members, &piece).await {
                    self.end_piece(group, members, &piece, &names, stays).await;
                }
                self.met.forget(&mark);
                self.drop_later(group, members, &piece);
            }
            if waits {
                sleep(&self.backend, PAUSE).await;
            }
        })
    }

    /// What was decided; if nothing was, that nothing stays. None if that cannot be told.
    async fn decide(&self, group: &Rc<Group<B>>, members: &Members<B>, piece: &Piece) -> Option<bool> {
        let words = Words::of([b"INCRBY".as_slice(), &piece.decision, b"0"]);
        let reply = self.update_decision(group, members, piece, words).await?;
        match reply.as_slice() {
            b":1\r\n" => Some(true),
            b":0\r\n" => Some(false),
            _ => None,
        }
    }

    async fn update_decision(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        piece: &Piece,
        words: Words,
    ) -> Option<Vec<u8>> {
        let keys = std::iter::once(Key::new(&piece.decision, true)).collect();
        let mut proposal = Proposal::new(self, group, members, keys, Work::Update(words));
        proposal.needed = proposal.needed.max(proposal.majority());
        // It is a proposal that asks for this.
        match Box::pin(proposal.propose(self, &mut None)).await {
            End::Done(reply) => Some(reply),
            End::Refused(_) | End::Unknown | End::NotApplied => None,
        }
    }

    /// The keys of a piece, from any replica that has it.
    async fn names_of(&self, members: &Members<B>, piece: &Piece) -> Option<Vec<Vec<u8>>> {
        let write = |_: usize, _, out: &mut Vec<u8>| {
            write_request(out, [b"LRANGE".as_slice(), &piece.key, b"0", b"0"].into_iter());
        };
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        while let Some((_, said)) = round.next().await {
            let Ok(reply) = said else { continue };
            let mut cursor = Cursor::new(&reply);
            if cursor.array() == Some(1)
                && let Some(names) = cursor.bulk().and_then(names_in)
            {
                return Some(names);
            }
        }
        None
    }

    /// Has all replicas do what was decided; whether all have done it.
    async fn end_piece(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        piece: &Piece,
        names: &[Vec<u8>],
        stays: bool,
    ) -> bool {
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = members.get(part) else { return };
            write_script(out, Script::Decide, call, 2 * names.len() + 2, 4);
            write_keys(names, piece, out);
            write_bulk(out, member.fence().as_bytes());
            write_bulk(out, if stays { b"1" } else { b"0" });
            write_number(out, group.record_grace_ms);
            write_number(out, group.tombstone_ms);
        };
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        for (at, _) in members.iter().enumerate().filter(|(_, member)| member.belief.get().is_some()) {
            round.ask(at);
        }
        let mut done = 0;
        while let Some((at, said)) = round.next().await {
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Accepted) => done += 1,
                Ok(other) => drop(self.other_answer(group, members, at, &other)),
                Err(_) => {}
            }
        }
        done == members.len()
    }

    /// It is decided that all stays: the marks go, and the decision.
    async fn finish(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        piece: &Piece,
        names: &[Vec<u8>],
        is_everywhere: bool,
    ) {
        let all = self.end_piece(group, members, piece, names, true).await;
        if !all || !is_everywhere {
            self.drop_later(group, members, piece);
            for name in names {
                self.missed(group, name, members, super::repair::UNKNOWN);
            }
            return;
        }
        // Nobody has a mark, and nobody can get one: it would be older than what the keys hold.
        let mut record = Vec::new();
        write_record_key(&piece.decision, &mut record);
        let write = |_: usize, _, out: &mut Vec<u8>| {
            write_request(out, [b"DEL".as_slice(), &piece.decision, &record].into_iter());
        };
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        while round.next().await.is_some() {}
    }

    /// A replica that is away may have marks: the decision stays for as long as a tombstone does.
    fn drop_later(&self, group: &Rc<Group<B>>, members: &Members<B>, piece: &Piece) {
        let at = self.backend.wall_ms().saturating_add(group.tombstone_ms).to_string();
        let words = Words::of([b"PEXPIREAT".as_slice(), &piece.decision, at.as_bytes()]);
        let (group, members) = (Rc::clone(group), members.clone());
        let piece = Piece { key: piece.key.clone(), decision: piece.decision.clone() };
        if let Some(engine) = self.this.borrow().upgrade() {
            self.spawn(async move { drop(engine.update_decision(&group, &members, &piece, words).await) });
        }
    }
}

/// The marks of records.
pub(super) fn marks_of<'r>(records: impl Iterator<Item = &'r Record>) -> Vec<Box<[u8]>> {
    let mut marks: Vec<Box<[u8]>> = records.filter_map(|record| record.mark.clone()).collect();
    marks.sort_unstable();
    marks.dedup();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(names_in(b""), Some(Vec::new()));
        assert_eq!(names_in(b"1:a3:b:c0:"), Some(vec![b"a".to_vec(), b"b:c".to_vec(), Vec::new()]));
        for wrong in ["a", "1", "1:", "3:ab", "x:a", "1:ab"] {
            assert_eq!(names_in(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
