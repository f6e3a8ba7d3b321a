//! One pipelined connection to a store: a buffer of requests to write, a queue of requests that wait for their replies.
//! How it gets out of the way of others: `docs/decisions/2026-11-23-unread-replies.md`.

mod delivery;
mod overdue;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use self::delivery::Incoming;
use super::lease::Lease;
use super::node::Node;
use crate::backend::{Cause, Failure, Flow, Piece, ReplySink, Stream, Tag};
use crate::clock::Moment;
use crate::protocol::resp::Version;

pub(super) use self::overdue::Swept;

/// A request at least this long is written at once, without a copy, if nothing waits before it.
const DIRECT_BYTES: usize = 16 * 1024;
/// Reads of one wake-up, so that one busy store does not hold the worker.
const READS_PER_WAKE: usize = 8;
/// A write buffer that grew beyond this is given back when nothing is in flight, or when little of it was needed: one that
/// is given back while it is needed is grown again from nothing for the next batch, copy by copy.
const OUTGOING_KEPT_BYTES: usize = 256 * 1024;

/// A request whose reply is due, or a transaction, which is several of them.
pub(super) struct Entry {
    /// `None` once it was told of a failure: the reply still comes, and is dropped.
    pub(super) sink: Option<Rc<dyn ReplySink>>,
    pub(super) tag: Tag,
    /// Where its last byte is in the stream of all bytes of this connection.
    pub(super) end: u64,
    /// When it was put into the buffer; once sent late, when it was sent; once its reply began, when the last of it came.
    pub(super) at: Moment,
    /// Replies that come before the one that the sink waits for. They are dropped, but the first error among them is what
    /// the sink gets.
    preceding: u32,
    /// The store answers when it likes: a command that blocks.
    patient: bool,
}

impl Entry {
    pub(super) fn new(sink: &Rc<dyn ReplySink>, tag: Tag, end: u64, at: Moment) -> Self {
        Self { sink: Some(Rc::clone(sink)), tag, end, at, preceding: 0, patient: false }
    }
}

/// Which requests a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// All.
    Current,
    /// Only of clients that have requests on it: a big reply is passing, others would wait behind it.
    Busy,
    /// None, ever: a reply is overdue (FAILURES F9).
    Stalled,
    /// One big request of one client.
    Leased,
    /// Those of one client, for as long as it keeps the connection.
    Exclusive,
    /// None: its store has moved to another address, and it ends when nothing is due.
    Leaving,
    /// None now; it is healthy and may be used again.
    Spare,
}

#[expect(clippy::struct_excessive_bools, reason = "independent marks, each set and cleared in one place")]
pub(super) struct Inner {
    role: Role,
    stream: Option<Stream>,
    pub(super) closed: bool,
    /// Told to end as soon as the task runs.
    end: Option<Arc<str>>,
    pub(super) outgoing: Vec<u8>,
    pub(super) written: usize,
    pub(super) bytes_queued: u64,
    bytes_written: u64,
    /// How much of that the metrics know of.
    bytes_counted: u64,
    /// The socket did not take everything.
    blocked: bool,
    pub(super) in_flight: VecDeque<Entry>,
    paused: Option<Moment>,
    /// When replies began to wait for clients that do not read while others wait behind them. A client that reads slowly
    /// pauses its reply again and again, and many that do not read may follow each other.
    slow_since: Option<Moment>,
    waker: Option<Waker>,
    woken: bool,
    /// Requests wait one turn of the event loop, so that those of other clients can leave with them.
    graced: bool,
    /// Who waits for room in `outgoing`.
    pub(super) room: Option<Waker>,
    /// Who hears what the store says unasked.
    pub(super) pushes: Option<(Rc<dyn ReplySink>, Tag)>,
    /// A client is still sending the request of its lease.
    pub(super) leased: bool,
    /// How much was written when that last changed, and when it was seen to change; kept while a lease is being received.
    progress: (u64, Moment),
    accounted_bytes: usize,
}

/// A connection. Its task runs [`run`](Connection::run); everything else is called from the same thread.
pub(super) struct Connection {
    pub(super) version: Version,
    /// Not borrowed while a sink is told of a reply: it may send.
    pub(super) inner: RefCell<Inner>,
    /// Borrowed by the task alone.
    incoming: RefCell<Incoming>,
    pub(super) load: Cell<usize>,
    /// What the store calls it (`CLIENT ID`), once it was asked.
    pub(super) store_id: Cell<Option<i64>>,
}

impl Connection {
    pub(super) fn new(version: Version, role: Role) -> Rc<Self> {
        Rc::new(Self {
            version,
            load: Cell::new(0),
            store_id: Cell::new(None),
            incoming: RefCell::default(),
            inner: RefCell::new(Inner {
                role,
                stream: None,
                closed: false,
                end: None,
                outgoing: Vec::new(),
                written: 0,
                bytes_queued: 0,
                bytes_written: 0,
                bytes_counted: 0,
                blocked: false,
                in_flight: VecDeque::new(),
                paused: None,
                slow_since: None,
                waker: None,
                woken: false,
                graced: false,
                room: None,
                pushes: None,
                leased: false,
                progress: (0, Moment::default()),
                accounted_bytes: 0,
            }),
        })
    }

    pub(super) fn role(&self) -> Role {
        self.inner.borrow().role
    }

    pub(super) fn set_role(&self, role: Role) {
        self.inner.borrow_mut().role = role;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.borrow().closed
    }

    pub(super) fn in_flight(&self) -> usize {
        self.load.get()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        let inner = self.inner.borrow();
        inner.outgoing.len() - inner.written
    }

    /// Whether a request of the same client waits here.
    pub(super) fn carries(&self, origin: usize) -> bool {
        let inner = self.inner.borrow();
        inner.in_flight.iter().any(|entry| entry.sink.as_ref().is_some_and(|sink| sink.origin() == origin))
    }

    /// Ends the connection; what is in flight fails with `why`.
    pub(super) fn end(&self, why: &Arc<str>) {
        let mut inner = self.inner.borrow_mut();
        inner.end = Some(Arc::clone(why));
        inner.wake();
    }

    /// Puts a request into the buffer. The caller has seen that there is room.
    #[inline]
    pub(super) fn enqueue(&self, frame: &[u8], sink: &Rc<dyn ReplySink>, tag: Tag, now: Moment) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if frame.len() < DIRECT_BYTES || !inner.write_through(frame) {
            inner.outgoing.extend_from_slice(frame);
        }
        inner.bytes_queued += frame.len() as u64;
        let entry = Entry::new(sink, tag, inner.bytes_queued, now);
        self.push(inner, entry);
    }

    /// Puts a request into the buffer that `write` appends there.
    #[inline]
    pub(super) fn enqueue_with(
        &self,
        write: &mut dyn FnMut(&mut Vec<u8>),
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        now: Moment,
    ) {
        self.enqueue_transaction(1, write, sink, tag, now);
    }

    /// Puts requests into the buffer that `write` appends there in one piece, and to which `count` replies come.
    #[inline]
    pub(super) fn enqueue_transaction(
        &self,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        now: Moment,
    ) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let before = inner.outgoing.len();
        write(&mut inner.outgoing);
        inner.bytes_queued += (inner.outgoing.len() - before) as u64;
        let mut entry = Entry::new(sink, tag, inner.bytes_queued, now);
        entry.preceding = count.saturating_sub(1);
        self.push(inner, entry);
    }

    /// Puts bytes into the buffer to which no reply comes.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.outgoing.extend_from_slice(bytes);
        inner.bytes_queued += bytes.len() as u64;
        inner.wake();
    }

    /// Puts a request into the buffer whose reply has no deadline.
    pub(super) fn enqueue_patiently(&self, frame: &[u8], sink: &Rc<dyn ReplySink>, tag: Tag, now: Moment) {
        self.enqueue(frame, sink, tag, now);
        if let Some(entry) = self.inner.borrow_mut().in_flight.back_mut() {
            entry.patient = true;
        }
    }

    #[inline]
    fn push(&self, inner: &mut Inner, entry: Entry) {
        inner.in_flight.push_back(entry);
        self.load.set(inner.in_flight.len());
        inner.wake();
    }

    /// Hands the open stream over.
    pub(super) fn opened(&self, stream: Stream) {
        let mut inner = self.inner.borrow_mut();
        inner.stream = Some(stream);
        // What waited for the connection is sent late: its service time begins then (FAILURES F5).
        inner.blocked = true;
    }

    /// Since when the reply at the front waits for its client.
    pub(super) fn paused_since(&self) -> Option<Moment> {
        self.inner.borrow().paused
    }

    /// Has the client of the reply at the front take it, or give it up.
    pub(super) fn clear_the_way(&self) {
        let front = self.inner.borrow().in_flight.front().and_then(|entry| entry.sink.clone());
        if let Some(sink) = front {
            sink.make_way();
        }
        self.inner.borrow().wake_task();
    }

    /// Moves bytes both ways until the connection ends; why it ended.
    pub(super) async fn run(&self, node: &Node) -> Arc<str> {
        std::future::poll_fn(|context| self.poll(context, node)).await
    }

    fn poll(&self, context: &mut TaskContext<'_>, node: &Node) -> Poll<Arc<str>> {
        let mut scratch = node.context.take_scratch();
        let polled = self.poll_with(&mut scratch, context, node);
        node.context.return_scratch(scratch);
        polled
    }

    fn poll_with(&self, scratch: &mut [u8], context: &mut TaskContext<'_>, node: &Node) -> Poll<Arc<str>> {
        if let Err(why) = self.inner.borrow_mut().begin_turn(context, node) {
            return Poll::Ready(why);
        }
        for _ in 0..READS_PER_WAKE {
            if !self.may_go_on(context) {
                return Poll::Pending;
            }
            let data = match self.read(scratch, context, node) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Ready(Ok(data)) => data,
            };
            let delivered = self.deliver(data, node);
            let inner = self.inner.borrow();
            self.load.set(inner.in_flight.len());
            if let Err(why) = delivered {
                return Poll::Ready(why);
            }
            if inner.in_flight.is_empty() && matches!(inner.role, Role::Busy | Role::Leased) {
                node.wants_sweep();
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether no client needs it any more: no reply is due, and no request is half received.
    pub(super) fn is_done(&self) -> bool {
        let inner = self.inner.borrow();
        inner.in_flight.is_empty() && !inner.leased
    }

    /// Whether every request that is still in flight was given up.
    pub(super) fn is_abandoned(&self) -> bool {
        self.inner.borrow().in_flight.iter().all(|entry| entry.sink.is_none())
    }

    /// The end: whatever is in flight fails. How many were told.
    pub(super) fn finish(&self, why: &Arc<str>, node: &Node) -> usize {
        let (entries, was_open, bytes_written, room, pushes) = {
            let mut inner = self.inner.borrow_mut();
            inner.closed = true;
            let was_open = inner.stream.take().is_some();
            node.context.released(std::mem::take(&mut inner.accounted_bytes));
            inner.outgoing = Vec::new();
            inner.written = 0;
            let entries = std::mem::take(&mut inner.in_flight);
            (entries, was_open, inner.bytes_written, inner.room.take(), inner.pushes.take())
        };
        self.load.set(0);
        if let Some(room) = room {
            room.wake();
        }
        let mut told = 0;
        for entry in entries {
            if let Some(sink) = entry.sink {
                // A store drops a request of which it got only the beginning.
                let cause = match was_open {
                    false => Cause::Connect(Arc::clone(why)),
                    true if entry.end <= bytes_written => Cause::Broken(Arc::clone(why)),
                    true => Cause::Unsent(Arc::clone(why)),
                };
                tell(sink, entry.tag, node, cause);
                told += 1;
            }
        }
        if let Some((sink, tag)) = pushes {
            tell(sink, tag, node, Cause::Broken(Arc::clone(why)));
        }
        told
    }
}

fn tell(sink: Rc<dyn ReplySink>, tag: Tag, node: &Node, cause: Cause) {
    let failure = Failure { node: Arc::clone(&node.options.label), cause };
    let _: Flow = sink.reply(tag, Piece::Failed(&failure));
}

impl Inner {
    /// What the task does before it reads: takes note of its waker, ends if it was told to, writes.
    fn begin_turn(&mut self, context: &mut TaskContext<'_>, node: &Node) -> Result<(), Arc<str>> {
        self.woken = false;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        if let Some(why) = self.end.take() {
            return Err(why);
        }
        if self.graces(context) {
            self.woken = true; // It runs again without being asked.
            return Ok(());
        }
        self.flush(context, node).map_err(|error| error.to_string().into())
    }

    #[inline]
    pub(super) fn wake(&mut self) {
        if !self.woken {
            self.woken = true;
            self.wake_task();
        }
    }

    fn wake_task(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Writes a long frame straight to the socket if nothing is before it; what did not fit goes to the buffer.
    pub(super) fn write_through(&mut self, frame: &[u8]) -> bool {
        let Some(stream) = self.stream.as_mut() else { return false };
        if !self.outgoing.is_empty() {
            return false;
        }
        // An error shows again when the task writes.
        let Ok(wrote) = stream.try_write(frame) else { return false };
        self.bytes_written += wrote as u64;
        self.outgoing.extend_from_slice(frame.get(wrote..).unwrap_or_default());
        true
    }

    /// Whether the write is put off until the sockets were looked at once more. Only while the store has work anyway: then
    /// it does not wait for these requests, and fewer, larger writes cost both sides less. (Nagle's idea, RFC 896, with
    /// a turn of the event loop for the round trip: `docs/decisions/2026-11-23-one-turn.md`.)
    fn graces(&mut self, context: &mut TaskContext<'_>) -> bool {
        let pending = self.outgoing.len() - self.written;
        let busy = self.in_flight.front().is_some_and(|first| first.end <= self.bytes_written);
        if self.graced || pending == 0 || pending >= DIRECT_BYTES || !busy {
            self.graced = false;
            return false;
        }
        self.graced = true;
        let turn = std::pin::pin!(tokio::task::yield_now());
        turn.poll(context).is_pending()
    }

    fn flush(&mut self, context: &mut TaskContext<'_>, node: &Node) -> io::Result<()> {
        if self.written == self.outgoing.len() {
            self.count_sent(node);
            return Ok(());
        }
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        let before = self.bytes_written;
        let mut blocked = false;
        while let Some(bytes) = self.outgoing.get(self.written..)
            && !bytes.is_empty()
        {
            match stream.try_write(bytes) {
                Ok(wrote) => {
                    self.written += wrote;
                    self.bytes_written += wrote as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match stream.poll_write_ready(context) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => {
                        blocked = true;
                        node.cells.stalled.increment();
                        break;
                    }
                },
                Err(error) => return Err(error),
            }
        }
        self.count_sent(node);
        if self.blocked {
            // What waited is only now with the store: its service time begins.
            let now = node.context.clock.now();
            let from = self.in_flight.partition_point(|entry| entry.end <= before);
            let to = self.in_flight.partition_point(|entry| entry.end <= self.bytes_written);
            for entry in self.in_flight.range_mut(from..to) {
                entry.at = now;
            }
        }
        self.blocked = blocked;
        if !blocked {
            if self.outgoing.capacity() > OUTGOING_KEPT_BYTES && self.outgoing.len() < self.outgoing.capacity() / 16 {
                self.outgoing = Vec::new();
            }
            self.outgoing.clear();
            self.written = 0;
        } else if self.written > self.outgoing.len() / 2 {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
        if self.outgoing.len() - self.written < Lease::ROOM_BYTES
            && let Some(room) = self.room.take()
        {
            room.wake();
        }
        self.account(node);
        Ok(())
    }

    /// Tells the metrics what was written, directly or from the buffer.
    #[inline]
    fn count_sent(&mut self, node: &Node) {
        if self.bytes_written != self.bytes_counted {
            node.cells.sent_bytes.add(self.bytes_written - self.bytes_counted);
            self.bytes_counted = self.bytes_written;
        }
    }

    /// Nothing is in flight: gives back what a burst has left.
    fn shrink(&mut self, node: &Node) {
        if self.outgoing.is_empty() && self.outgoing.capacity() > OUTGOING_KEPT_BYTES {
            self.outgoing = Vec::new();
            self.account(node);
        }
    }

    fn account(&mut self, node: &Node) {
        let now = self.outgoing.capacity();
        if now > self.accounted_bytes {
            node.context.buffered(now - self.accounted_bytes);
        } else {
            node.context.released(self.accounted_bytes - now);
        }
        self.accounted_bytes = now;
    }
}
