//! What one batch of a client's requests says to each store in few words: the records that its reads ask for in one
//! `MGET`, the values of its `GET`s with their records in another, its blind writes in one script call. The store parses,
//! runs and answers one request instead of dozens, and so do the connections on this side.
//!
//! An answer is held until all of it is here, so values are asked for together only while those of the pool are short.
//!
//! It is a matter of transport alone: every read and write stays what it is, with its own ballot, votes and outcome, and
//! takes its part of the answer, or the failure of the whole.
//!
//! Why: `docs/decisions/2026-11-23-batches-to-stores.md`.
//!
//! # Invariants
//! - Nothing waits beyond the batch: [`Engine::end_batch`] sends what was gathered, before any other task of the worker
//!   runs. What is alone goes as it would have gone.
//! - What concerns one key leaves in the order in which it came: a write is not gathered, and a read not sent, while an
//!   earlier write of its lane waits here.
//! - One key is written once by a bundle.
//! - How much one request asks of a store is bounded in number and bytes.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::read::Read;
use super::wire::{Answer, Call, Cursor, write_bulk, write_number, write_script};
use super::write::Write;
use super::{Engine, Member};
use crate::backend::{Backend, Failure, Flow, Piece, ReplySink, Tag};
use crate::protocol::resp::{Version, write_header};
use crate::version::{FENCE_KEY, Script};

/// Requests of one bundle. A store does nothing else while it runs a script: of so many writes for some 200 µs.
const PARTS_MAX: usize = 64;
/// Bytes from which on a bundle is sent.
const BYTES_MAX: usize = 16 * 1024;
/// The longest request that is gathered: of a longer one the copy costs more than a request of its own.
pub(super) const PART_BYTES_MAX: usize = 1024;
/// Values up to this long are short: what a bundle of them answers is not passed on in pieces.
const SHORT_BYTES: usize = 384;
/// What is held of an answer that comes in pieces all the same. Reads that find longer values are asked for one by one.
const HELD_BYTES_MAX: usize = 256 * 1024;
/// Bundles kept for the next.
const POOLED_MAX: usize = 256;

/// The bundles of one worker.
pub(super) struct Bundles<B: Backend> {
    /// Requests of one batch come in.
    open: Cell<bool>,
    pending: RefCell<Vec<Rc<Bundle<B>>>>,
    /// Among those are writes.
    has_writes: Cell<bool>,
    done: RefCell<Vec<Rc<Bundle<B>>>>,
}

impl<B: Backend> Default for Bundles<B> {
    fn default() -> Self {
        Self {
            open: Cell::new(false),
            pending: RefCell::default(),
            has_writes: Cell::new(false),
            done: RefCell::default(),
        }
    }
}

/// What is gathered for one store, by kind.
pub(super) struct Gathered<B: Backend>([RefCell<Option<Rc<Bundle<B>>>>; 3]);

impl<B: Backend> Default for Gathered<B> {
    fn default() -> Self {
        Self([RefCell::default(), RefCell::default(), RefCell::default()])
    }
}

impl<B: Backend> Gathered<B> {
    #[inline]
    fn of(&self, kind: Kind) -> &RefCell<Option<Rc<Bundle<B>>>> {
        let [probes, values, writes] = &self.0;
        match kind {
            Kind::Probes => probes,
            Kind::Values => values,
            Kind::Writes => writes,
        }
    }
}

/// What the requests of a bundle ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Records.
    Probes,
    /// Values, each with its record before it.
    Values,
    Writes,
}

/// How long the values are that a pool's clients have read lately.
#[derive(Debug, Default)]
pub(super) struct Lengths(Cell<usize>);

impl Lengths {
    /// Takes note of one, with its length line.
    #[inline]
    pub(super) fn saw(&self, bytes: usize) {
        // The longest is forgotten as others come: after some hundred short ones, one of 100 KiB.
        let longest = self.0.get();
        self.0.set(if bytes > longest { bytes } else { longest - longest / 64 });
    }

    /// Whether they are short.
    #[inline]
    pub(super) fn are_short(&self) -> bool {
        self.0.get() <= SHORT_BYTES
    }
}

struct Inner<B: Backend> {
    kind: Kind,
    member: Option<Rc<Member<B>>>,
    version: Version,
    /// The time for which its writes leave others alone.
    fresh_ms: Option<u64>,
    reads: Vec<(Rc<Read<B>>, u8)>,
    writes: Vec<(Rc<Write<B>>, u8)>,
    /// Bulk strings.
    records: Vec<u8>,
    keys: Vec<u8>,
    args: Vec<u8>,
    /// An answer that comes in pieces.
    partial: Vec<u8>,
}

impl<B: Backend> Inner<B> {
    fn len(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Whether one part more may come.
    #[inline]
    fn takes(&self, common: &Common) -> bool {
        let is_alike = self.version == common.version && self.fresh_ms == common.fresh_ms;
        is_alike && self.len() < PARTS_MAX && self.bytes() < BYTES_MAX
    }

    fn bytes(&self) -> usize {
        self.records.len() + self.keys.len() + self.args.len()
    }

    /// Appends the request for all parts.
    fn write(&self, fence: &[u8], out: &mut Vec<u8>) {
        if self.kind != Kind::Writes {
            let each = if self.kind == Kind::Values { 2 } else { 1 };
            write_header(out, b'*', 2 + each * self.reads.len());
            write_bulk(out, b"MGET");
            write_bulk(out, FENCE_KEY);
            out.extend_from_slice(&self.records);
            return;
        }
        let count = self.writes.len();
        write_script(out, Script::BlindMany, Call::Digest, 2 * count + 1, 2 + 2 * count);
        out.extend_from_slice(&self.records);
        out.extend_from_slice(&self.keys);
        write_bulk(out, FENCE_KEY);
        write_bulk(out, fence);
        match self.fresh_ms {
            Some(fresh_ms) => write_number(out, fresh_ms),
            None => write_bulk(out, b""),
        }
        out.extend_from_slice(&self.args);
    }
}

/// Requests of one batch for one store: reads or writes.
pub(super) struct Bundle<B: Backend> {
    engine: Weak<Engine<B>>,
    /// The client.
    origin: Cell<usize>,
    inner: RefCell<Inner<B>>,
}

/// A blind write as it is gathered, in bulk strings.
pub(super) struct Words<'w> {
    pub(super) record: &'w [u8],
    pub(super) key: &'w [u8],
    /// Ballot and value.
    pub(super) args: &'w [u8],
}

/// What has to be the same for all parts of a bundle.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub(super) version: Version,
    pub(super) origin: usize,
    pub(super) fresh_ms: Option<u64>,
}

impl<B: Backend> Engine<B> {
    /// What is served from now on is one batch of one client: what stores can be told together is gathered. Whether this
    /// call began the batch; then [`Engine::end_batch`] has to follow before anything else happens on this thread.
    pub fn begin_batch(&self) -> bool {
        !self.bundles.open.replace(true)
    }

    /// The batch is over.
    pub fn end_batch(self: &Rc<Self>) {
        self.bundles.open.set(false);
        self.send_gathered();
    }

    /// Whether requests are gathered.
    #[inline]
    pub(super) fn gathers(&self) -> bool {
        self.bundles.open.get()
    }

    /// Whether writes are gathered that were not sent.
    #[inline]
    pub(super) fn has_gathered_writes(&self) -> bool {
        self.bundles.has_writes.get()
    }

    /// Sends what was gathered: something else is about to go to a store, and must not overtake it.
    pub fn send_gathered(self: &Rc<Self>) {
        self.bundles.has_writes.set(false);
        loop {
            // Its failure may be a part's end, which must not find the list borrowed.
            let Some(bundle) = self.bundles.pending.borrow_mut().pop() else { return };
            self.send_bundle(&bundle);
        }
    }

    /// Gathers the question of a read for the record on a replica, whose name is a bulk string; and for the value, if there
    /// is its key.
    pub(super) fn gather_read(
        self: &Rc<Self>,
        member: &Rc<Member<B>>,
        read: &Rc<Read<B>>,
        index: u8,
        record: &[u8],
        key: Option<&[u8]>,
        common: Common,
    ) {
        let kind = if key.is_some() { Kind::Values } else { Kind::Probes };
        self.add(member, kind, common, |inner| {
            inner.reads.push((Rc::clone(read), index));
            inner.records.extend_from_slice(record);
            if let Some(key) = key {
                write_bulk(&mut inner.records, key);
            }
        });
    }

    /// Gathers a write for a replica.
    pub(super) fn gather_write(
        self: &Rc<Self>,
        member: &Rc<Member<B>>,
        write: &Rc<Write<B>>,
        index: u8,
        words: &Words<'_>,
        common: Common,
    ) {
        self.bundles.has_writes.set(true);
        self.add(member, Kind::Writes, common, |inner| {
            inner.writes.push((Rc::clone(write), index));
            inner.records.extend_from_slice(words.record);
            inner.keys.extend_from_slice(words.key);
            inner.args.extend_from_slice(words.args);
        });
    }

    /// Adds a part to the bundle of a store, or to a new one.
    #[inline]
    fn add(self: &Rc<Self>, member: &Rc<Member<B>>, kind: Kind, common: Common, add: impl FnOnce(&mut Inner<B>)) {
        if let Some(bundle) = &*member.gathered.of(kind).borrow() {
            let mut inner = bundle.inner.borrow_mut();
            if bundle.origin.get() == common.origin && inner.takes(&common) {
                add(&mut inner);
                return;
            }
        }
        let bundle = self.next_bundle(member, kind, common);
        add(&mut bundle.inner.borrow_mut());
    }

    /// Sends the bundle of a store, if there is one, and begins the next.
    fn next_bundle(self: &Rc<Self>, member: &Rc<Member<B>>, kind: Kind, common: Common) -> Rc<Bundle<B>> {
        let place = member.gathered.of(kind);
        let full = place.borrow_mut().take();
        if let Some(full) = full {
            self.bundles.pending.borrow_mut().retain(|other| !Rc::ptr_eq(other, &full));
            self.send_bundle(&full);
        }
        let bundle = self.bundles.done.borrow_mut().pop().unwrap_or_else(|| Bundle::new(self));
        bundle.origin.set(common.origin);
        {
            let mut inner = bundle.inner.borrow_mut();
            inner.member = Some(Rc::clone(member));
            inner.kind = kind;
            (inner.version, inner.fresh_ms) = (common.version, common.fresh_ms);
        }
        *place.borrow_mut() = Some(Rc::clone(&bundle));
        self.bundles.pending.borrow_mut().push(Rc::clone(&bundle));
        bundle
    }

    fn send_bundle(self: &Rc<Self>, bundle: &Rc<Bundle<B>>) {
        let Some(member) = bundle.inner.borrow_mut().member.take() else { return };
        let inner = bundle.inner.borrow(); // Not for writing: a connection may ask for the origin meanwhile.
        *member.gathered.of(inner.kind).borrow_mut() = None;
        if inner.len() == 1 {
            drop(inner);
            self.send_alone(bundle);
            return;
        }
        let sink: Rc<dyn ReplySink> = Rc::<Bundle<B>>::clone(bundle);
        let mut write = |out: &mut Vec<u8>| inner.write(member.fence().as_bytes(), out);
        let bytes = inner.bytes() + 256;
        let sent = self.backend.send(&member.node, bytes, &mut write, inner.version, &sink, Tag::default());
        drop(inner);
        if let Err(cause) = sent {
            bundle.failed(self, &Failure { node: self.backend.label(&member.node), cause });
        }
    }

    /// Sends what is alone as it would have gone.
    fn send_alone(self: &Rc<Self>, bundle: &Rc<Bundle<B>>) {
        let (kind, read, write) = {
            let mut inner = bundle.inner.borrow_mut();
            (inner.kind, inner.reads.pop(), inner.writes.pop())
        };
        bundle.recycle(self);
        if let Some((read, index)) = read {
            read.ask_alone(self, index, kind == Kind::Values);
        }
        if let Some((write, index)) = write {
            write.send_alone(self, index);
        }
    }
}

impl<B: Backend> Bundle<B> {
    fn new(engine: &Rc<Engine<B>>) -> Rc<Self> {
        Rc::new(Self {
            engine: Rc::downgrade(engine),
            origin: Cell::new(0),
            inner: RefCell::new(Inner {
                kind: Kind::Probes,
                member: None,
                version: Version::Resp2,
                fresh_ms: None,
                reads: Vec::new(),
                writes: Vec::new(),
                records: Vec::new(),
                keys: Vec::new(),
                args: Vec::new(),
                partial: Vec::new(),
            }),
        })
    }

    /// Hands each part its own of the answer.
    fn heard(self: &Rc<Self>, engine: &Rc<Engine<B>>, reply: &[u8]) {
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            match inner.kind {
                Kind::Probes => hand_out_records(engine, &mut inner.reads, reply),
                Kind::Values => hand_out_values(engine, &mut inner.reads, reply),
                Kind::Writes => hand_out_answers(engine, &mut inner.writes, reply),
            }
        }
        self.recycle(engine);
    }

    fn failed(self: &Rc<Self>, engine: &Rc<Engine<B>>, failure: &Failure) {
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            inner.reads.drain(..).for_each(|(read, _)| read.unanswered(engine));
            inner.writes.drain(..).for_each(|(write, index)| write.failed(engine, usize::from(index), &failure.cause));
        }
        self.recycle(engine);
    }

    /// Keeps a piece of the answer. Of one too long to keep the rest is dropped, and its reads begin anew.
    fn hold(&self, engine: &Rc<Engine<B>>, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.kind == Kind::Values && inner.reads.is_empty() {
            return;
        }
        if inner.kind != Kind::Values || inner.partial.len() + bytes.len() <= HELD_BYTES_MAX {
            inner.partial.extend_from_slice(bytes);
            return;
        }
        inner.partial = Vec::new();
        for (read, _) in inner.reads.drain(..) {
            read.found_long(HELD_BYTES_MAX);
            read.unanswered(engine);
        }
    }

    /// Keeps it for the next batch.
    fn recycle(self: &Rc<Self>, engine: &Engine<B>) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        for buffer in [&mut inner.records, &mut inner.keys, &mut inner.args] {
            buffer.clear();
        }
        inner.partial = Vec::new();
        let mut done = engine.bundles.done.borrow_mut();
        if done.len() < POOLED_MAX {
            done.push(Rc::clone(self));
        }
    }
}

/// Fence and records, as an `MGET` gives them.
fn hand_out_records<B: Backend>(engine: &Rc<Engine<B>>, reads: &mut Vec<(Rc<Read<B>>, u8)>, reply: &[u8]) {
    let mut cursor = Cursor::new(reply);
    let is_whole = cursor.array().is_some_and(|count| count == reads.len() + 1);
    let fence = cursor.bulk().filter(|_| is_whole);
    for (read, index) in reads.drain(..) {
        match fence.and_then(|fence| Some((cursor.bulk()?, fence))) {
            Some((record, fence)) => read.probed(engine, usize::from(index), record, fence),
            None => read.unanswered(engine),
        }
    }
}

/// Fence, and each record with its value.
fn hand_out_values<B: Backend>(engine: &Rc<Engine<B>>, reads: &mut Vec<(Rc<Read<B>>, u8)>, reply: &[u8]) {
    let mut cursor = Cursor::new(reply);
    let is_whole = cursor.array().is_some_and(|count| count == 2 * reads.len() + 1);
    let fence = cursor.bulk().filter(|_| is_whole);
    for (read, index) in reads.drain(..) {
        match fence.and_then(|fence| Some((cursor.bulk()?, fence, cursor.value()?))) {
            Some((record, fence, value)) => read.valued(engine, usize::from(index), record, fence, value),
            None => read.unanswered(engine),
        }
    }
}

/// What a script for several writes says of each.
fn hand_out_answers<B: Backend>(engine: &Rc<Engine<B>>, writes: &mut Vec<(Rc<Write<B>>, u8)>, reply: &[u8]) {
    let mut cursor = Cursor::new(reply);
    let differ = cursor.array().is_some_and(|count| count == writes.len() + 1) && cursor.bulk() == Some(b"M");
    if differ {
        for (write, index) in writes.drain(..) {
            let answer = cursor.value().map_or(Answer::Garbled, Answer::parse);
            write.heard(engine, usize::from(index), &answer);
        }
        return;
    }
    let answer = Answer::parse(reply);
    for (write, index) in writes.drain(..) {
        match answer {
            Answer::NoScript => write.send_text(engine, usize::from(index)),
            _ => write.heard(engine, usize::from(index), &answer),
        }
    }
}

impl<B: Backend> ReplySink for Bundle<B> {
    fn reply(self: Rc<Self>, _tag: Tag, piece: Piece<'_>) -> Flow {
        let Some(engine) = self.engine.upgrade() else { return Flow::Continue };
        match piece {
            Piece::Whole(reply) => self.heard(&engine, reply),
            // What is short may be long together.
            Piece::Begin(bytes) | Piece::More(bytes) => self.hold(&engine, bytes),
            Piece::End(bytes) => {
                self.hold(&engine, bytes);
                let reply = std::mem::take(&mut self.inner.borrow_mut().partial);
                self.heard(&engine, &reply);
            }
            Piece::Failed(failure) => self.failed(&engine, failure),
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.origin.get()
    }
}
