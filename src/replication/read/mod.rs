//! A read in one round: the value and its record from one replica, the record alone from others, until enough agree.
//!
//! Replicas that do not agree, that fail, or that take too long make it a [`super::slow_read`], which begins anew.
//!
//! # Invariants
//! - No byte of a value is passed on before enough replicas agree on its ballot.
//! - The record stands before the value in one atomic answer of the store: the value is the record's, or expired.

mod told;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use self::told::Next;
use super::bundle::{Common, PART_BYTES_MAX};
use super::lane::{LaneId, Wish, lane_of};
use super::slow_read::SlowRead;
use super::wire::{TRANSACTION_REPLIES, write_probe_of, write_record_bulk, write_transaction_of};
use super::{Asker, Engine, Group, Members, Request, Taken};
use crate::backend::{Backend, Flow, Piece, ReplySink, Tag, Wake};
use crate::clock::Moment;
use crate::command::Row;
use crate::protocol::resp::Version;
use crate::quorum::Level;
use crate::version::BALLOT_BYTES;

/// Reads that are kept while nothing is asked, and the largest buffer that is kept with one. Fifty clients with pipelines
/// of 64 have 3,200 under way.
const KEPT_MAX: usize = 4096;
const KEPT_BYTES_MAX: usize = 1024;
/// Which part of a read the value is; probes are the numbers before.
const VALUE: u8 = 8;

/// The tag of a part.
#[inline]
fn tag_of(part: u8) -> Tag {
    Tag { slot: 0, part: u32::from(part) }
}

/// How a value is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `GET`: `MGET record fence key`, one command. A key of another type looks like none, and is asked for again.
    Get,
    /// One key of `MGET`: a key of another type is nil.
    ElementOfMget,
    /// Everything else: a transaction.
    Other,
}

impl Form {
    pub(super) fn of(row: &Row, args: usize) -> Self {
        match row.name {
            "get" => Self::Get,
            "mget" if args == 2 => Self::ElementOfMget,
            _ => Self::Other,
        }
    }
}

/// The reads of one worker: those under way, whose age is looked at, and those that wait to be used again.
pub(super) struct Pool<B: Backend> {
    all: RefCell<Vec<Rc<Read<B>>>>,
    free: RefCell<VecDeque<usize>>,
    ticking: Cell<bool>,
}

impl<B: Backend> Default for Pool<B> {
    fn default() -> Self {
        Self { all: RefCell::default(), free: RefCell::default(), ticking: Cell::new(false) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Not enough is known yet.
    Asking,
    /// Enough agree; the value is on its way in pieces.
    Passing,
    /// Answered, or somebody else does it.
    Over,
}

/// The part of a read that it has in common with one that is asked again.
pub(super) struct Question<B: Backend> {
    pub(super) group: Rc<Group<B>>,
    pub(super) members: Members<B>,
    pub(super) asker: Asker,
    pub(super) version: Version,
    pub(super) level: Level,
}

struct Inner<B: Backend> {
    question: Option<Question<B>>,
    form: Form,
    frame: Vec<u8>,
    /// Where the key is in `frame`.
    key: (usize, usize),
    lane: LaneId,
    origin: usize,
    serial: u64,
    generation: u64,
    /// How often lanes had been taken when it was sent.
    taken_count: u64,
    stage: Stage,
    needed: usize,
    /// How many replicas have told their record, and the ballot of the first of them.
    told: usize,
    ballot: [u8; BALLOT_BYTES],
    /// Another one has told another ballot.
    differ: bool,
    /// The value, or the beginning of it, while it is not known whether it is the right one.
    held: Vec<u8>,
    held_whole: bool,
    /// The record says that there is a key.
    live: bool,
    /// Whoever waits for the rest of the value.
    waker: Option<Waker>,
}

/// One read.
pub(super) struct Read<B: Backend> {
    engine: Weak<Engine<B>>,
    place: usize,
    since: Cell<Moment>,
    inner: RefCell<Inner<B>>,
}

impl<B: Backend> Engine<B> {
    /// Serves a request that only reads.
    pub(super) fn read(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Taken {
        if matches!(request.level, Level::Eventual | Level::One) {
            request.group.cells.reads_in_one_round.increment();
            return self.pass_on(request, sink, tag, out);
        }
        let question = Question {
            group: Rc::clone(request.group),
            members: request.members.clone(),
            asker: Asker { sink: Rc::clone(sink), tag },
            version: request.version,
            level: request.level,
        };
        let key = match request.keys.as_slice() {
            [at] => request.args.get(*at as usize),
            _ => None,
        };
        let Some(key) = key else {
            self.read_slowly(SlowRead::new(question, request.frame, &request.args, request.keys, self.next_serial()));
            return Taken::Sent;
        };
        let begin = key.as_ptr().addr() - request.frame.as_ptr().addr();
        let form = Form::of(request.row, request.args.len());
        let lane = lane_of(request.group.seed, key);
        let serial = self.next_serial();
        if self.has_gathered_writes() && self.lanes.is_shared(lane) {
            self.send_gathered(); // One of them may be of this key.
        }
        if self.lanes.is_open(lane) {
            self.read_at_once(question, lane, request.frame, (begin, begin + key.len()), form, serial);
        } else {
            // Behind what waits already; when its turn comes it goes in one round all the same.
            let waiting = self.lanes.wait(&[lane], serial, Wish::Shared, Some(sink.origin()));
            let (engine, frame) = (Rc::clone(self), request.frame.to_vec());
            let key = (begin, begin + key.len());
            self.spawn(async move {
                let turn = waiting.await;
                engine.read_at_once(question, lane, &frame, key, form, serial);
                drop(turn);
            });
        }
        Taken::Sent
    }

    fn read_at_once(
        self: &Rc<Self>,
        question: Question<B>,
        lane: LaneId,
        frame: &[u8],
        at: (usize, usize),
        form: Form,
        serial: u64,
    ) {
        let key = frame.get(at.0..at.1).unwrap_or_default();
        let group = Rc::clone(&question.group);
        let needed = usize::from(question.level.read_acks(group.quorums()));
        let (mut chosen, mut count) = (0_u8, 0);
        for (index, member) in (0..VALUE).zip(question.members.iter()) {
            if count < needed && member.votes() && self.backend.is_available(&member.node) {
                chosen |= 1 << index;
                count += 1;
            }
        }
        if count < needed {
            self.read_slowly(SlowRead::of_one_key(question, frame, at, serial));
            return;
        }
        let read = self.take_read();
        let origin = question.asker.sink.origin();
        {
            let mut inner = read.inner.borrow_mut();
            let inner = &mut *inner;
            inner.frame.clear();
            inner.frame.extend_from_slice(frame);
            inner.key = at;
            inner.question = Some(question);
            inner.form = form;
            (inner.lane, inner.origin) = (lane, origin);
            inner.serial = serial;
            inner.generation = group.generation.get();
            inner.taken_count = self.lanes.taken_count();
            inner.stage = Stage::Asking;
            inner.needed = needed;
            (inner.told, inner.differ) = (0, false);
            inner.held.clear();
            inner.held_whole = false;
            inner.waker = None;
        }
        self.lanes.read_begins(lane, origin);
        read.since.set(self.backend.now());
        let all_sent = self.send_read(&read, key, chosen);
        if !all_sent {
            read.give_over(self);
        } else if let Some(hedge) = group.settings.hedge {
            self.tick(hedge);
        }
    }

    fn send_read(self: &Rc<Self>, read: &Rc<Read<B>>, key: &[u8], chosen: u8) -> bool {
        let inner = read.inner.borrow(); // Not for writing: a connection may ask for the origin meanwhile.
        let Some(question) = &inner.question else { return false };
        let (version, frame, form) = (question.version, inner.frame.as_slice(), inner.form);
        let common = Common { version, origin: inner.origin, fresh_ms: None };
        let mut record = self.scratch.take();
        record.clear();
        write_record_bulk(key, &mut record);
        let sink: Rc<dyn ReplySink> = Rc::<Read<B>>::clone(read);
        let bytes = frame.len() + record.len() + 128;
        let gathers = self.gathers() && frame.len() <= PART_BYTES_MAX;
        let gathers_value = gathers && form != Form::Other && question.group.lengths.are_short();
        let (mut all_sent, mut asks_value) = (true, true);
        for (index, member) in (0..VALUE).zip(question.members.iter()) {
            if chosen & (1 << index) == 0 {
                continue;
            }
            let of_value = std::mem::replace(&mut asks_value, false).then_some(key);
            if if of_value.is_some() { gathers_value } else { gathers } {
                self.gather_read(member, read, index, &record, of_value, common);
                continue;
            }
            let (backend, tag) = (&self.backend, tag_of(if of_value.is_some() { VALUE + index } else { index }));
            let sent = if of_value.is_some() && form == Form::Other {
                let mut write = |out: &mut Vec<u8>| write_transaction_of(out, &record, frame);
                backend.send_transaction(&member.node, bytes, TRANSACTION_REPLIES, &mut write, version, &sink, tag)
            } else {
                let mut write = |out: &mut Vec<u8>| write_probe_of(out, &record, of_value);
                backend.send(&member.node, bytes, &mut write, version, &sink, tag)
            };
            all_sent &= sent.is_ok();
        }
        self.scratch.set(record);
        all_sent
    }

    fn take_read(self: &Rc<Self>) -> Rc<Read<B>> {
        let mut all = self.reads.all.borrow_mut();
        let mut free = self.reads.free.borrow_mut();
        if let Some(place) = free.pop_front() {
            match all.get(place) {
                // A reply that is still due to it would be taken for one to the next.
                Some(read) if Rc::strong_count(read) == 1 => return Rc::clone(read),
                _ => free.push_back(place),
            }
        }
        let read = Rc::new(Read {
            engine: Rc::downgrade(self),
            place: all.len(),
            since: Cell::default(),
            inner: RefCell::new(Inner {
                question: None,
                form: Form::Get,
                frame: Vec::new(),
                key: (0, 0),
                lane: 0,
                origin: 0,
                serial: 0,
                generation: 0,
                taken_count: 0,
                stage: Stage::Over,
                needed: 0,
                told: 0,
                ballot: [0; BALLOT_BYTES],
                differ: false,
                held: Vec::new(),
                held_whole: false,
                live: false,
                waker: None,
            }),
        });
        all.push(Rc::clone(&read));
        read
    }

    fn tick(self: &Rc<Self>, hedge: Duration) {
        if !self.reads.ticking.replace(true) {
            self.backend.later(hedge / 2, Rc::<Self>::clone(self) as Rc<dyn Wake>);
        }
    }
}

/// Looks at the reads under way: one that has no answer by now is asked again, of all replicas.
impl<B: Backend> Wake for Engine<B> {
    fn wake(self: Rc<Self>) {
        self.reads.ticking.set(false);
        let now = self.backend.now();
        let mut late: SmallVec<[Rc<Read<B>>; 8]> = SmallVec::new();
        let mut next: Option<Duration> = None;
        for read in self.reads.all.borrow().iter() {
            let inner = read.inner.borrow();
            let hedge = inner.question.as_ref().and_then(|question| question.group.settings.hedge);
            let (Stage::Asking, Some(hedge)) = (inner.stage, hedge) else { continue };
            if inner.held.is_empty() && now.since(read.since.get()) >= hedge
                || !inner.held.is_empty() && now.since(read.since.get()) >= hedge * 2
            {
                late.push(Rc::clone(read));
            } else {
                next = Some(next.map_or(hedge, |next| next.min(hedge)));
            }
        }
        for read in late {
            if let Some(question) = &read.inner.borrow().question {
                question.group.cells.hedges.increment();
            }
            read.give_over(&self);
        }
        match next {
            Some(hedge) => self.tick(hedge),
            None => self.reads.shrink(),
        }
    }
}

impl<B: Backend> Pool<B> {
    /// Gives back what a burst has left.
    fn shrink(&self) {
        let mut all = self.all.borrow_mut();
        if all.len() <= KEPT_MAX {
            return;
        }
        while all.len() > KEPT_MAX && all.last().is_some_and(|read| Rc::strong_count(read) == 1) {
            all.pop();
        }
        let len = all.len();
        self.free.borrow_mut().retain(|place| *place < len);
    }
}

impl<B: Backend> Read<B> {
    /// Another way is needed: it begins anew and asks everybody.
    fn give_over(&self, engine: &Rc<Engine<B>>) {
        let (slow, lane, origin) = {
            let mut inner = self.inner.borrow_mut();
            let Some(question) = inner.question.take().filter(|_| inner.stage == Stage::Asking) else { return };
            inner.stage = Stage::Over;
            if let Some(waker) = inner.waker.take() {
                waker.wake(); // The rest of the value that was paused is dropped.
            }
            (SlowRead::of_one_key(question, &inner.frame, inner.key, inner.serial), inner.lane, inner.origin)
        };
        engine.reads.free.borrow_mut().push_back(self.place);
        engine.read_slowly(slow);
        // Only now, so that no write gets in between.
        engine.lanes.read_ends(lane, origin);
    }

    /// Keeps it for the next read, with a buffer.
    #[inline]
    fn give_back(&self, engine: &Engine<B>, buffer: Vec<u8>) {
        self.inner.borrow_mut().held = if buffer.capacity() > KEPT_BYTES_MAX { Vec::new() } else { buffer };
        engine.reads.free.borrow_mut().push_back(self.place);
    }
}

impl<B: Backend> Inner<B> {
    /// It is over.
    #[inline]
    fn finish(&mut self, engine: &Engine<B>) {
        if self.stage == Stage::Asking {
            engine.lanes.read_ends(self.lane, self.origin);
        }
        self.stage = Stage::Over;
        self.question = None;
        if self.frame.capacity() > KEPT_BYTES_MAX {
            self.frame = Vec::new();
        }
    }

    fn key(&self) -> &[u8] {
        self.frame.get(self.key.0..self.key.1).unwrap_or_default()
    }
}

impl<B: Backend> ReplySink for Read<B> {
    #[inline]
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let Some(engine) = self.engine.upgrade() else { return Flow::Continue };
        let is_value = tag.part >= u32::from(VALUE);
        let index = (tag.part % u32::from(VALUE)) as usize;
        let mut inner = self.inner.borrow_mut();
        let next = match (inner.stage, &piece) {
            (Stage::Passing, _) if is_value => {
                drop(inner);
                return self.pass(&engine, piece);
            }
            (Stage::Over | Stage::Passing, _) => return Flow::Continue,
            (Stage::Asking, Piece::Whole(reply)) if is_value => inner.valued(&engine, index, reply, true),
            (Stage::Asking, Piece::Begin(reply)) if is_value => inner.valued(&engine, index, reply, false),
            (Stage::Asking, Piece::Whole(reply)) => inner.probed(&engine, index, reply),
            (Stage::Asking, _) => Next::GiveOver,
        };
        if let Next::AskAgain = next {
            drop(inner);
            if !self.ask_again(&engine, index, tag) {
                self.give_over(&engine);
            }
            return Flow::Continue;
        }
        self.act(&engine, inner, next, &piece)
    }

    fn ready(&self, _tag: Tag, waker: &Waker) -> bool {
        let mut inner = self.inner.borrow_mut();
        match inner.stage {
            Stage::Over => true,
            Stage::Asking => {
                inner.waker = Some(waker.clone());
                false
            }
            Stage::Passing => {
                let asker = inner.question.as_ref().map(|question| question.asker.clone());
                drop(inner);
                asker.is_none_or(|asker| asker.sink.ready(asker.tag, waker))
            }
        }
    }

    fn origin(&self) -> usize {
        self.inner.borrow().question.as_ref().map_or(0, |question| question.asker.sink.origin())
    }

    fn make_way(&self) {
        let asker = self.inner.borrow().question.as_ref().map(|question| question.asker.clone());
        if let Some(asker) = asker {
            asker.sink.make_way();
        }
    }
}

impl<B: Backend> Read<B> {
    /// A replica has told the record, among those of others.
    pub(super) fn probed(&self, engine: &Rc<Engine<B>>, index: usize, record: &[u8], fence: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        if inner.stage == Stage::Asking {
            let next = inner.told(engine, index, record, fence);
            let _: Flow = self.act(engine, inner, next, &Piece::Whole(b""));
        }
    }

    /// The same with the value.
    pub(super) fn valued(
        self: &Rc<Self>,
        engine: &Rc<Engine<B>>,
        index: usize,
        record: &[u8],
        fence: &[u8],
        value: &[u8],
    ) {
        let mut inner = self.inner.borrow_mut();
        if inner.stage != Stage::Asking {
            return;
        }
        match inner.told_with(engine, index, (record, fence), value, 0, true) {
            Next::AskAgain => {
                drop(inner);
                let part = u32::try_from(index).unwrap_or(0) + u32::from(VALUE);
                if !self.ask_again(engine, index, Tag { slot: 0, part }) {
                    self.give_over(engine);
                }
            }
            next => {
                let _: Flow = self.act(engine, inner, next, &Piece::Whole(value));
            }
        }
    }

    /// The value is at least so long, or another of the same answer.
    pub(super) fn found_long(&self, bytes: usize) {
        if let Some(question) = &self.inner.borrow().question {
            question.group.lengths.saw(bytes);
        }
    }

    /// A replica that was asked for the record, among those of others, will not tell it.
    pub(super) fn unanswered(&self, engine: &Rc<Engine<B>>) {
        if self.inner.borrow().stage == Stage::Asking {
            self.give_over(engine);
        }
    }

    /// Asks a replica for the record, perhaps with the value: no other read of the batch asks it.
    pub(super) fn ask_alone(self: &Rc<Self>, engine: &Rc<Engine<B>>, index: u8, for_value: bool) {
        let sent = {
            let inner = self.inner.borrow(); // Not for writing: a connection may ask for the origin meanwhile.
            let Some(question) = inner.question.as_ref().filter(|_| inner.stage == Stage::Asking) else { return };
            let Some(member) = question.members.get(usize::from(index)) else { return };
            let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
            let mut record = engine.scratch.take();
            record.clear();
            write_record_bulk(inner.key(), &mut record);
            let key = for_value.then(|| inner.key());
            let mut write = |out: &mut Vec<u8>| write_probe_of(out, &record, key);
            let bytes = inner.frame.len() + record.len() + 128;
            let tag = tag_of(if for_value { VALUE + index } else { index });
            let sent = engine.backend.send(&member.node, bytes, &mut write, question.version, &sink, tag);
            engine.scratch.set(record);
            sent.is_ok()
        };
        if !sent {
            self.give_over(engine);
        }
    }

    /// Does what an answer leads to. `piece` is what the value came in, if it did.
    #[inline]
    fn act(&self, engine: &Rc<Engine<B>>, mut inner: RefMut<'_, Inner<B>>, next: Next, piece: &Piece<'_>) -> Flow {
        if let Next::Wait(flow) = next {
            return flow;
        }
        if let (Next::Answer(_) | Next::AnswerHeld | Next::Begin(_) | Next::BeginHeld, Some(question)) =
            (&next, &inner.question)
        {
            question.group.cells.reads_in_one_round.increment();
        }
        if matches!(next, Next::Answer(_) | Next::AnswerHeld) {
            let Some(question) = inner.question.take() else { return Flow::Continue };
            let held = std::mem::take(&mut inner.held);
            inner.finish(engine);
            drop(inner);
            let value = match (next, piece) {
                (Next::Answer(at), Piece::Whole(reply)) => reply.get(at..).unwrap_or_default(),
                _ => &held,
            };
            question.asker.answer(value);
            self.give_back(engine, held);
            return Flow::Continue;
        }
        let asker = inner.question.as_ref().map(|question| question.asker.clone());
        match (next, asker, piece) {
            (Next::Begin(at), Some(asker), Piece::Begin(reply)) => {
                inner.stage = Stage::Passing;
                engine.lanes.read_ends(inner.lane, inner.origin);
                drop(inner);
                let tag = asker.tag;
                return asker.sink.reply(tag, Piece::Begin(reply.get(at..).unwrap_or_default()));
            }
            (Next::BeginHeld, Some(asker), _) => {
                inner.stage = Stage::Passing;
                engine.lanes.read_ends(inner.lane, inner.origin);
                let held = std::mem::take(&mut inner.held);
                let waker = inner.waker.take();
                drop(inner);
                let _: Flow = Rc::clone(&asker.sink).reply(asker.tag, Piece::Begin(&held));
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            _ => {
                drop(inner);
                self.give_over(engine);
            }
        }
        Flow::Continue
    }

    /// Asks the replica that was asked for the value once more, in a transaction.
    fn ask_again(self: &Rc<Self>, engine: &Engine<B>, index: usize, tag: Tag) -> bool {
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let inner = self.inner.borrow();
        let Some(question) = &inner.question else { return false };
        let Some(member) = question.members.get(index) else { return false };
        let (node, version) = (Rc::clone(&member.node), question.version);
        let mut record = engine.scratch.take();
        record.clear();
        write_record_bulk(inner.key(), &mut record);
        let bytes = inner.frame.len() + record.len() + 128;
        let mut write = |out: &mut Vec<u8>| write_transaction_of(out, &record, &inner.frame);
        let backend = &engine.backend;
        let sent = backend.send_transaction(&node, bytes, TRANSACTION_REPLIES, &mut write, version, &sink, tag);
        engine.scratch.set(record);
        sent.is_ok()
    }

    /// Hands on a piece of a value that is the right one.
    fn pass(&self, engine: &Engine<B>, piece: Piece<'_>) -> Flow {
        let asker = self.inner.borrow().question.as_ref().map(|question| question.asker.clone());
        let Some(asker) = asker else { return Flow::Continue };
        if matches!(piece, Piece::End(_) | Piece::Failed(_) | Piece::Whole(_)) {
            self.inner.borrow_mut().finish(engine);
            self.give_back(engine, Vec::new());
        }
        asker.sink.reply(asker.tag, piece)
    }
}
