//! A write in one round: a blind one, or an update of a key that this worker wrote last.
//!
//! When not enough replicas take it, it becomes a [`super::proposal`], which knows what was tried.
//!
//! # Invariants
//! - It is sent once to each replica, in one moment, under one ballot.
//! - Late answers are still looked at: a replica that did not take what a quorum took is repaired.

mod heard;
mod verdict;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use self::verdict::Verdict;
use super::begin::acks_of;
use super::bundle::{self, Common, PART_BYTES_MAX};
use super::lane::{LaneId, Owned, Wish};
use super::proposal::{Key, Late, Proposal, Try, Work};
use super::shape::Shape;
use super::wire::{Call, Words, write_bulk, write_number, write_script, write_time};
use super::{Asker, Engine, Group, Members, Request};
use crate::backend::{Backend, ReplySink, Tag};
use crate::clock::Moment;
use crate::command::reply;
use crate::protocol::resp::Version;
use crate::version::{Ballot, FENCE_BYTES, FENCE_KEY, NO_BASE, OpId, Record, Script, write_record_key};

/// Writes kept for the next, and the largest buffer kept with one. Fifty clients with pipelines of 64 have 3,200 under way.
const POOLED_MAX: usize = 4096;
const POOLED_BYTES_MAX: usize = 1024;
/// A call up to this long is put together once and copied for each replica.
const COPIED_BYTES_MAX: usize = 4096;

/// Writes that are done, for the next one.
pub(super) struct Pool<B: Backend> {
    done: RefCell<Vec<Rc<Write<B>>>>,
}

impl<B: Backend> Default for Pool<B> {
    fn default() -> Self {
        Self { done: RefCell::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Set { expires_at: Option<u64> },
    Restore { expires_at: Option<u64> },
    Update { words: usize },
}

/// What one replica has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vote {
    /// It was not asked, or its word does not count.
    None,
    Waiting,
    Accepted,
    /// It was refused there: something newer is known.
    Refused,
    /// It has not taken it.
    Not,
    /// The command itself failed.
    Error,
    /// Perhaps.
    Maybe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asking,
    /// The client has its answer, or a proposal goes on.
    Over,
}

/// Thousands may be under way, and each is looked at three times, by then out of the processor's cache: what every answer
/// needs stands together, at the front.
#[repr(C)]
pub(super) struct Inner<B: Backend> {
    stage: Stage,
    /// Replicas saw it differently.
    split: bool,
    /// Whether the key was there before, as the first replica that took it said.
    existed: bool,
    /// It says `OK` to whatever was there.
    overwrites: bool,
    version: Version,
    votes: [Vote; 8],
    needed: usize,
    waiting: usize,
    accepted: usize,
    members: Members<B>,
    group: Option<Rc<Group<B>>>,
    generation: u64,
    lane: LaneId,
    asker: Option<Asker>,
    kind: Kind,
    ballot: Ballot,
    serial: u64,
    base: Owned,
    trusted: usize,
    shape: Shape,
    /// Key, record key, and what is to be written: a value, or the words of a command.
    bytes: Vec<u8>,
    key_len: usize,
    record_len: usize,
    /// The first answer of a replica that took it.
    reply: Vec<u8>,
    error: Option<Vec<u8>>,
    /// Where a proposal looks for the reply.
    late: Option<Rc<RefCell<Late>>>,
    /// The records of those that vote and refused it.
    shown: Vec<Record>,
    since: Moment,
    /// Answers that come in pieces.
    partial: Vec<(usize, Vec<u8>)>,
}

/// One write.
pub(super) struct Write<B: Backend> {
    engine: Weak<Engine<B>>,
    pub(super) inner: RefCell<Inner<B>>,
}

impl<B: Backend> Inner<B> {
    fn key(&self) -> &[u8] {
        self.bytes.get(..self.key_len).unwrap_or_default()
    }

    fn record(&self) -> &[u8] {
        self.bytes.get(self.key_len..self.key_len + self.record_len).unwrap_or_default()
    }

    fn load(&self) -> &[u8] {
        self.bytes.get(self.key_len + self.record_len..).unwrap_or_default()
    }

    /// Appends the call; where the fence in it begins.
    fn write(&self, index: usize, call: Call, out: &mut Vec<u8>) -> usize {
        let (Some(member), Some(group)) = (self.members.get(index), &self.group) else { return 0 };
        let fence = member.fence();
        let fence_at;
        match self.kind {
            Kind::Set { expires_at } | Kind::Restore { expires_at } => {
                let fresh = group.contention_ms(self.needed);
                write_script(out, Script::Blind, call, 3, if fresh.is_some() { 7 } else { 6 });
                fence_at = self.write_keys(out, fence.as_bytes());
                write_bulk(out, &self.ballot.encode());
                write_number(out, group.record_grace_ms);
                write_bulk(out, if matches!(self.kind, Kind::Set { .. }) { b"SET" } else { b"RESTORE" });
                write_bulk(out, self.load());
                write_time(out, expires_at);
                if let Some(fresh) = fresh {
                    write_number(out, fresh);
                }
            }
            Kind::Update { words } => {
                write_script(out, Script::Apply, call, 3, 7 + words);
                fence_at = self.write_keys(out, fence.as_bytes());
                let base = if self.base.ballot.is_zero() { NO_BASE } else { self.base.ballot.encode() };
                write_bulk(out, &base);
                write_bulk(out, &self.ballot.encode());
                write_bulk(out, &self.ballot.op_id().0.to_be_bytes());
                write_bulk(out, self.shape.resp());
                write_number(out, group.record_grace_ms);
                write_number(out, group.tombstone_ms);
                out.extend_from_slice(self.load());
            }
        }
        fence_at
    }

    fn write_keys(&self, out: &mut Vec<u8>, fence: &[u8]) -> usize {
        write_bulk(out, self.key());
        write_bulk(out, self.record());
        write_bulk(out, FENCE_KEY);
        write_bulk(out, fence);
        out.len() - fence.len() - b"\r\n".len()
    }

    /// What the write is as an update, for a proposal.
    fn words(&self) -> Words {
        match self.kind {
            Kind::Update { words } => Words { bytes: self.load().to_vec(), count: words },
            kind => words_of_blind(kind, self.key(), self.load()),
        }
    }

    fn gather(&mut self, index: usize, bytes: &[u8]) {
        match self.partial.iter_mut().find(|(from, _)| *from == index) {
            Some((_, all)) => all.extend_from_slice(bytes),
            None => self.partial.push((index, bytes.to_vec())),
        }
    }

    fn gathered(&mut self, index: usize) -> Vec<u8> {
        let at = self.partial.iter().position(|(from, _)| *from == index);
        at.map(|at| self.partial.swap_remove(at).1).unwrap_or_default()
    }
}

/// A blind write as the words of an update.
pub(super) fn words_of_blind(kind: Kind, key: &[u8], value: &[u8]) -> Words {
    match kind {
        Kind::Update { .. } => Words::default(),
        Kind::Set { expires_at } => {
            let mut words = Words::of([b"SET".as_slice(), key, value]);
            if let Some(at) = expires_at {
                words.push(b"PXAT");
                words.push(at.to_string().as_bytes());
            }
            words
        }
        Kind::Restore { expires_at } => {
            let at = expires_at.unwrap_or(0).to_string();
            Words::of([b"RESTORE".as_slice(), key, at.as_bytes(), value, b"REPLACE", b"ABSTTL"])
        }
    }
}

/// What has to be written, and in which way.
pub(super) struct Plan<'p> {
    pub(super) kind: Kind,
    /// The value, or the words of the command as bulk strings.
    pub(super) load: &'p [u8],
    pub(super) ballot: Ballot,
    pub(super) base: Owned,
    /// It says `OK` to whatever was there.
    pub(super) overwrites: bool,
}

impl<B: Backend> Engine<B> {
    pub(super) fn start_write(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        key: &[u8],
        lane: LaneId,
        plan: &Plan<'_>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) {
        let write = self.take_write();
        write.fill(request, key, plan, sink, tag);
        {
            let mut inner = write.inner.borrow_mut();
            inner.lane = lane;
            inner.serial = self.next_serial();
        }
        let is_plain = plan.kind == Kind::Set { expires_at: None };
        if is_plain && self.gathers() && request.frame.len() <= PART_BYTES_MAX {
            self.gather(&write, sink.origin());
        } else {
            self.send_write(&write);
        }
    }

    /// Has a blind write go with others of its batch.
    fn gather(self: &Rc<Self>, write: &Rc<Write<B>>, origin: usize) {
        let is_under_way = {
            let mut inner = write.inner.borrow_mut();
            let inner = &mut *inner;
            inner.since = self.backend.now();
            for (member, vote) in inner.members.iter().zip(&mut inner.votes) {
                if member.belief.get().is_some() {
                    *vote = Vote::Waiting;
                    inner.waiting += 1;
                }
            }
            inner.is_undecided()
        };
        let mut bytes = self.scratch.take();
        bytes.clear();
        {
            let inner = write.inner.borrow(); // Others that leave to make room are others.
            write_bulk(&mut bytes, inner.record());
            let record_end = bytes.len();
            write_bulk(&mut bytes, inner.key());
            let key_end = bytes.len();
            write_bulk(&mut bytes, &inner.ballot.encode());
            write_bulk(&mut bytes, inner.load());
            let (record, rest) = bytes.split_at_checked(record_end).unwrap_or_default();
            let (key, args) = rest.split_at_checked(key_end - record_end).unwrap_or_default();
            let words = bundle::Words { record, key, args };
            let fresh_ms = inner.group.as_ref().and_then(|group| group.contention_ms(inner.needed));
            let common = Common { version: inner.version, origin, fresh_ms };
            for ((index, member), vote) in (0..).zip(inner.members.iter()).zip(inner.votes) {
                if vote == Vote::Waiting {
                    self.gather_write(member, write, index, &words, common);
                }
            }
        }
        self.scratch.set(bytes);
        if !is_under_way {
            write.look(self);
        }
    }

    /// Sends a blind write that has waited: newer than all that went before it.
    pub(super) fn send_blind(self: &Rc<Self>, write: &Rc<Write<B>>, lane: LaneId, serial: u64) {
        {
            let mut inner = write.inner.borrow_mut();
            inner.ballot = self.next_ballot();
            (inner.lane, inner.serial) = (lane, serial);
            inner.begin();
        }
        self.send_write(write);
    }

    /// A proposal that turned out to need one round.
    pub(super) fn start_proposed(
        self: &Rc<Self>,
        proposal: Proposal<B>,
        lane: LaneId,
        serial: u64,
        base: Owned,
        ballot: Ballot,
    ) {
        let write = self.take_write();
        {
            let mut inner = write.inner.borrow_mut();
            let inner = &mut *inner;
            let Some(key) = proposal.keys.first() else { return };
            let words = match &proposal.work {
                Work::Update(words) | Work::Opaque(words) => words.clone(),
                Work::Nothing | Work::Several(_) | Work::Program(_) => Words::default(),
            };
            inner.bytes.clear();
            inner.bytes.extend_from_slice(&key.name);
            inner.bytes.extend_from_slice(&key.record);
            inner.bytes.extend_from_slice(&words.bytes);
            (inner.key_len, inner.record_len) = (key.name.len(), key.record.len());
            inner.kind = Kind::Update { words: words.count };
            inner.overwrites = proposal.overwrites;
            inner.version = proposal.version;
            inner.needed = proposal.needed;
            inner.shape = proposal.shape;
            inner.ballot = ballot;
            inner.base = base;
            inner.lane = lane;
            inner.serial = serial;
            inner.group = Some(proposal.group);
            inner.members = proposal.members;
            inner.asker = proposal.asker;
            inner.begin();
        }
        self.send_write(&write);
    }

    fn send_write(self: &Rc<Self>, write: &Rc<Write<B>>) {
        let sink: Rc<dyn ReplySink> = Rc::<Write<B>>::clone(write);
        write.inner.borrow_mut().since = self.backend.now();
        let inner = write.inner.borrow(); // Not for writing: a connection may ask for the origin meanwhile.
        let (mut votes, mut waiting) = (inner.votes, 0);
        // All get the same bytes but for the fence, whose length is always the same.
        let (mut call, mut fence_at) = (self.scratch.take(), None);
        let is_short = inner.bytes.len() <= COPIED_BYTES_MAX;
        call.clear();
        for ((index, member), vote) in inner.members.iter().enumerate().zip(&mut votes) {
            let Some(belief) = member.belief.get() else { continue };
            match fence_at {
                None if is_short => fence_at = Some(inner.write(index, Call::Digest, &mut call)),
                None => {}
                Some(at) => {
                    if let Some(fence) = call.get_mut(at..at + FENCE_BYTES) {
                        fence.copy_from_slice(&belief.bytes);
                    }
                }
            }
            let mut put = |out: &mut Vec<u8>| {
                if is_short {
                    out.extend_from_slice(&call);
                } else {
                    inner.write(index, Call::Digest, out);
                }
            };
            let (bytes, tag) = (inner.bytes.len() + 256, Tag { slot: 0, part: u32::try_from(index).unwrap_or(0) });
            let sent = self.backend.send(&member.node, bytes, &mut put, inner.version, &sink, tag);
            waiting += usize::from(sent.is_ok());
            *vote = if sent.is_ok() { Vote::Waiting } else { Vote::Not };
        }
        self.scratch.set(call);
        drop(inner);
        let is_under_way = {
            let mut inner = write.inner.borrow_mut();
            (inner.votes, inner.waiting) = (votes, waiting);
            inner.is_undecided()
        };
        drop(sink);
        if !is_under_way {
            write.look(self);
        }
    }

    pub(super) fn take_write(self: &Rc<Self>) -> Rc<Write<B>> {
        if let Some(write) = self.writes.done.borrow_mut().pop() {
            return write;
        }
        Rc::new(Write {
            engine: Rc::downgrade(self),
            inner: RefCell::new(Inner {
                group: None,
                members: Members::default(),
                asker: None,
                version: Version::Resp2,
                bytes: Vec::new(),
                key_len: 0,
                record_len: 0,
                kind: Kind::Update { words: 0 },
                lane: 0,
                serial: 0,
                generation: 0,
                ballot: Ballot::default(),
                base: Owned {
                    ballot: Ballot::default(),
                    count: 0,
                    last: OpId(0),
                    generation: 0,
                    since: Moment::default(),
                },
                needed: 0,
                stage: Stage::Over,
                votes: [Vote::None; 8],
                waiting: 0,
                accepted: 0,
                reply: Vec::new(),
                existed: false,
                overwrites: false,
                split: false,
                trusted: 0,
                error: None,
                late: None,
                shown: Vec::new(),
                since: Moment::default(),
                shape: Shape::default(),
                partial: Vec::new(),
            }),
        })
    }
}

impl<B: Backend> Inner<B> {
    /// Forgets the last write.
    fn begin(&mut self) {
        self.stage = Stage::Asking;
        self.votes = [Vote::None; 8];
        self.waiting = 0;
        self.accepted = 0;
        self.reply.clear();
        self.existed = false;
        self.split = false;
        self.trusted = 0;
        self.error = None;
        self.late = None;
        self.shown.clear();
        self.partial.clear();
        self.generation = self.group.as_ref().map_or(0, |group| group.generation.get());
    }

    fn is_under_the_same_fences(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.generation.get() == self.generation)
    }

    /// It is answered after one round.
    fn count(&self) {
        if let Some(group) = &self.group {
            group.cells.writes_in_one_round.increment();
        }
    }

    /// Replicas that have said by now that they did not take it are repaired.
    fn note_missing(&self, engine: &Engine<B>) {
        let Some(group) = &self.group else { return };
        let votes = self.votes.iter().take(self.members.len()).enumerate();
        let without = votes.filter(|(_, vote)| !matches!(vote, Vote::Accepted | Vote::Waiting));
        let lacking = without.fold(0, |lacking, (at, _)| lacking | 1 << at);
        if lacking != 0 {
            engine.missed(group, self.key(), &self.members, lacking);
        }
    }

    fn is_blind(&self) -> bool {
        matches!(self.kind, Kind::Set { .. } | Kind::Restore { .. })
    }

    /// The same write in several rounds; `tried` if this one may have been applied.
    pub(super) fn proposal(&self, engine: &Engine<B>, tried: Option<Try>) -> Option<Proposal<B>> {
        let group = self.group.as_ref()?;
        let keys = std::iter::once(Key::new(self.key(), true)).collect();
        Some(Proposal {
            version: self.version,
            needed: self.needed,
            // Others that hold a promise are about to write; those that wrote are done.
            rest: if self.shown.iter().any(|record| record.promised.is_some()) {
                engine.backend.now().since(self.since)
            } else {
                Duration::ZERO
            },
            tries: tried.into_iter().collect(),
            overwrites: self.overwrites,
            shape: self.shape,
            asker: self.asker.clone(),
            ..Proposal::new(engine, group, &self.members, keys, Work::Update(self.words()))
        })
    }
}

impl<B: Backend> Write<B> {
    pub(super) fn fill(
        &self,
        request: &Request<'_, B>,
        key: &[u8],
        plan: &Plan<'_>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.bytes.clear();
        inner.bytes.extend_from_slice(key);
        inner.key_len = key.len();
        write_record_key(key, &mut inner.bytes);
        inner.record_len = inner.bytes.len() - key.len();
        inner.bytes.extend_from_slice(plan.load);
        inner.kind = plan.kind;
        inner.overwrites = plan.overwrites;
        inner.ballot = plan.ballot;
        inner.base = plan.base;
        inner.version = request.version;
        inner.needed = acks_of(request.level, request.group);
        inner.group = Some(Rc::clone(request.group));
        inner.members = request.members.clone();
        inner.asker = Some(Asker { sink: Rc::clone(sink), tag });
        inner.shape =
            if inner.is_blind() { Shape::default() } else { Shape::of(request.row, &request.args, request.version) };
        inner.begin();
    }

    /// Looks at the votes after each of them.
    fn look(self: &Rc<Self>, engine: &Rc<Engine<B>>) {
        let verdict = self.inner.borrow().verdict();
        match verdict {
            Verdict::Wait => {}
            Verdict::Done if self.inner.borrow().is_under_the_same_fences() => self.done(engine),
            Verdict::Refused => self.refused(engine),
            Verdict::Done | Verdict::Propose => self.go_on(engine),
        }
        self.recycle(engine);
    }

    /// Enough replicas have it.
    fn done(&self, engine: &Rc<Engine<B>>) {
        let (reply, asker, owned, lane, acks) = {
            let mut inner = self.inner.borrow_mut();
            inner.stage = Stage::Over;
            inner.note_missing(engine);
            inner.count();
            let last = inner.ballot.op_id();
            let owned = Owned {
                ballot: inner.ballot,
                count: 0,
                last,
                generation: inner.generation,
                since: engine.backend.now(),
            };
            let majority = inner.group.as_ref().map_or(0, |group| usize::from(group.quorums().majority()));
            let is_base = inner.is_blind() && inner.accepted >= majority;
            let reply = (!inner.is_blind()).then(|| std::mem::take(&mut inner.reply));
            (reply, inner.asker.clone(), is_base.then_some(owned), inner.lane, inner.accepted)
        };
        match owned {
            Some(owned) => engine.lanes.leave_blind(lane, owned, acks),
            None => engine.lanes.leave(lane),
        }
        if let Some(asker) = asker {
            asker.answer(reply.as_deref().unwrap_or(b"+OK\r\n"));
        }
        if let Some(reply) = reply {
            self.inner.borrow_mut().reply = reply;
        }
    }

    /// The command failed where its base is at a quorum.
    fn refused(&self, engine: &Rc<Engine<B>>) {
        let (error, asker, lane) = {
            let mut inner = self.inner.borrow_mut();
            inner.stage = Stage::Over;
            inner.count();
            (inner.error.take(), inner.asker.clone(), inner.lane)
        };
        engine.lanes.disown(lane);
        engine.lanes.leave(lane);
        let mut out = Vec::new();
        reply::store_error(&mut out, error.as_deref().unwrap_or_default());
        if let Some(asker) = asker {
            asker.answer(&out);
        }
    }

    /// It goes on in several rounds, at its place in the lane.
    fn go_on(&self, engine: &Rc<Engine<B>>) {
        let (proposal, lane, serial, blind) = {
            let mut inner = self.inner.borrow_mut();
            inner.stage = Stage::Over;
            let tried = inner.tried();
            let blind = inner.is_blind().then_some(inner.ballot);
            (inner.proposal(engine, tried), inner.lane, inner.serial, blind)
        };
        engine.lanes.disown(lane);
        let waiting = engine.lanes.wait(&[lane], serial, Wish::Exclusive, None);
        // Only now, so that nothing gets in between.
        engine.lanes.leave(lane);
        let Some(proposal) = proposal else { return };
        let own = Rc::clone(engine);
        engine.spawn(async move {
            let held = waiting.await;
            if blind.is_some_and(|ballot| own.lanes.is_overwritten(lane, ballot, proposal.needed)) {
                // Sent again it would undo what came after it, perhaps from the same client.
                drop(held);
                if let Some(asker) = &proposal.asker {
                    asker.answer(b"+OK\r\n");
                }
                return;
            }
            proposal.run(own, held).await;
        });
    }

    /// Keeps it for the next write, when nothing is due to it any more.
    fn recycle(self: &Rc<Self>, engine: &Engine<B>) {
        let mut borrowed = self.inner.borrow_mut();
        let inner = &mut *borrowed;
        if inner.stage != Stage::Over || inner.waiting > 0 || inner.group.is_none() {
            return;
        }
        inner.group = None;
        inner.members = Members::default();
        inner.asker = None;
        inner.late = None;
        for buffer in [&mut inner.bytes, &mut inner.reply] {
            if buffer.capacity() > POOLED_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        drop(borrowed);
        let mut done = engine.writes.done.borrow_mut();
        if done.len() < POOLED_MAX {
            done.push(Rc::clone(self));
        }
    }

    /// Sends it to one replica; with its text, if that has forgotten the script.
    fn send_again(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: usize, call: Call) -> bool {
        let tag = Tag { slot: 0, part: u32::try_from(index).unwrap_or(0) };
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let inner = self.inner.borrow();
        let Some(member) = inner.members.get(index) else { return false };
        let mut put = |out: &mut Vec<u8>| {
            inner.write(index, call, out);
        };
        let bytes = inner.bytes.len() + if call == Call::Text { 4096 } else { 256 };
        engine.backend.send(&member.node, bytes, &mut put, inner.version, &sink, tag).is_ok()
    }
}
