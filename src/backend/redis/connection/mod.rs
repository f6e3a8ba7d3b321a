//! One pipelined connection to a store: a buffer of requests to write, a queue of requests that wait for their replies.
//! How it gets out of the way of others: `docs/decisions/2026-11-23-unread-replies.md`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use super::lease::Lease;
use super::node::Node;
use crate::backend::{Cause, Failure, Flow, Piece, ReplySink, Stream, Tag};
use crate::clock::Moment;
use crate::protocol::resp::{ReplyScan, Step, Version};

/// A request at least this long is written at once, without a copy, if nothing waits before it.
const DIRECT_BYTES: usize = 16 * 1024;
/// A reply is waited for until this much of it is there; a bigger one is passed on in pieces.
const WHOLE_REPLY_BYTES_MAX: usize = 32 * 1024;
/// Reads of one wake-up, so that one busy store does not hold the worker.
const READS_PER_WAKE: usize = 8;
/// A write buffer that grew beyond this is given back when it is empty.
const OUTGOING_KEPT_BYTES: usize = 256 * 1024;
/// How long a reply may wait for its client before the connection is left to those who have requests on it.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long it may wait while replies to others are behind it.
const OBSTRUCTION_MAX: Duration = Duration::from_secs(1);

/// A request whose reply is due.
pub(super) struct Entry {
    /// `None` once it was told of a failure: the reply still comes, and is dropped.
    pub(super) sink: Option<Rc<dyn ReplySink>>,
    pub(super) tag: Tag,
    /// Where its last byte is in the stream of all bytes of this connection.
    pub(super) end: u64,
    /// When it was put into the buffer; once sent late, when it was sent; once its reply began, when the last of it came.
    pub(super) at: Moment,
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
    rest: Vec<u8>,
    scan: ReplyScan,
    /// The reply at the front is being passed on in pieces.
    passing: bool,
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
    /// A client is still sending the request of its lease.
    pub(super) leased: bool,
    /// How much was written when that last changed, and when it was seen to change; kept while a lease is being received.
    progress: (u64, Moment),
    accounted_bytes: usize,
}

/// A connection. Its task runs [`run`](Connection::run); everything else is called from the same thread.
pub(super) struct Connection {
    pub(super) version: Version,
    pub(super) inner: RefCell<Inner>,
    pub(super) load: Cell<usize>,
}

/// What one look at the clock found.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Requests that had no reply in time.
    pub(super) timed_out: u32,
    /// Requests that could not be sent in time.
    pub(super) not_sent: u32,
    /// The client of the reply at the front does not take it.
    pub(super) obstructed: bool,
    /// Nothing is in flight.
    pub(super) idle: bool,
}

impl Connection {
    pub(super) fn new(version: Version, role: Role) -> Rc<Self> {
        Rc::new(Self {
            version,
            load: Cell::new(0),
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
                rest: Vec::new(),
                scan: ReplyScan::default(),
                passing: false,
                paused: None,
                slow_since: None,
                waker: None,
                woken: false,
                graced: false,
                room: None,
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
        self.push(inner, sink, tag, now);
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
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let before = inner.outgoing.len();
        write(&mut inner.outgoing);
        inner.bytes_queued += (inner.outgoing.len() - before) as u64;
        self.push(inner, sink, tag, now);
    }

    #[inline]
    fn push(&self, inner: &mut Inner, sink: &Rc<dyn ReplySink>, tag: Tag, now: Moment) {
        inner.in_flight.push_back(Entry { sink: Some(Rc::clone(sink)), tag, end: inner.bytes_queued, at: now });
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
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.woken = false;
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            inner.waker = Some(context.waker().clone());
        }
        if let Some(why) = inner.end.take() {
            return Poll::Ready(why);
        }
        if inner.graces(context) {
            inner.woken = true; // It runs again without being asked.
        } else if let Err(error) = inner.flush(context, node) {
            return Poll::Ready(error.to_string().into());
        }
        for _ in 0..READS_PER_WAKE {
            if inner.paused.is_some() {
                let ready = match inner.in_flight.front() {
                    Some(Entry { sink: Some(sink), tag, .. }) => sink.ready(*tag, context.waker()),
                    _ => true,
                };
                if !ready {
                    return Poll::Pending;
                }
                inner.paused = None;
            }
            let kept = inner.rest.len();
            let Some((head, tail)) = scratch.split_at_mut_checked(kept).filter(|(_, tail)| !tail.is_empty()) else {
                return Poll::Ready("a reply line too long to hold".into());
            };
            let Some(stream) = inner.stream.as_mut() else { return Poll::Ready("not open".into()) };
            match stream.poll_read(context, tail) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready("closed by the store".into()),
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string().into()),
                Poll::Ready(Ok(got)) => {
                    head.copy_from_slice(&inner.rest);
                    inner.rest.clear();
                    node.cells.received_bytes.add(got as u64);
                    let data = scratch.get(..kept + got).unwrap_or_default();
                    let delivered = inner.deliver(data, node);
                    self.load.set(inner.in_flight.len());
                    if let Err(why) = delivered {
                        return Poll::Ready(why);
                    }
                }
            }
            if inner.in_flight.is_empty() && matches!(inner.role, Role::Busy | Role::Leased) {
                node.wants_sweep();
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks at the clock: fails what is overdue.
    pub(super) fn sweep(&self, now: Moment, node: &Node) -> Swept {
        let mut swept = Swept::default();
        let mut failed: Vec<(Rc<dyn ReplySink>, Tag, Cause)> = Vec::new();
        let obstructs;
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            swept.idle = inner.in_flight.is_empty() && !inner.leased;
            if let Some(since) = inner.paused {
                swept.obstructed = now.since(since) > PAUSE_MAX;
            } else {
                inner.expire_sent(now, node.options.service_timeout, &mut failed);
                inner.expire_leased(now, node.options.service_timeout, &mut failed);
                swept.timed_out = u32::try_from(failed.len()).unwrap_or(u32::MAX);
            }
            let is_slow = inner.slow_since.is_some_and(|since| now.since(since) > OBSTRUCTION_MAX);
            obstructs = is_slow && inner.is_obstructed();
            let sent_late = failed.len();
            inner.expire_unsent(now, node.options.queue_timeout, &mut failed);
            swept.not_sent = u32::try_from(failed.len() - sent_late).unwrap_or(u32::MAX);
            self.load.set(inner.in_flight.len());
        }
        if obstructs {
            self.clear_the_way();
        }
        for (sink, tag, cause) in failed {
            tell(sink, tag, node, cause);
        }
        swept
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
        let (entries, was_open, bytes_written, room) = {
            let mut inner = self.inner.borrow_mut();
            inner.closed = true;
            let was_open = inner.stream.take().is_some();
            node.context.released(std::mem::take(&mut inner.accounted_bytes));
            inner.outgoing = Vec::new();
            inner.written = 0;
            (std::mem::take(&mut inner.in_flight), was_open, inner.bytes_written, inner.room.take())
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
        told
    }
}

fn tell(sink: Rc<dyn ReplySink>, tag: Tag, node: &Node, cause: Cause) {
    let failure = Failure { node: Arc::clone(&node.options.label), cause };
    let _: Flow = sink.reply(tag, Piece::Failed(&failure));
}

impl Inner {
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
        let Some(stream) = self.stream.as_ref() else { return false };
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
        let Some(stream) = self.stream.as_ref() else { return Ok(()) };
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
            self.outgoing.clear();
            self.written = 0;
            if self.outgoing.capacity() > OUTGOING_KEPT_BYTES {
                self.outgoing = Vec::new();
            }
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

    fn account(&mut self, node: &Node) {
        let now = self.outgoing.capacity();
        if now > self.accounted_bytes {
            node.context.buffered(now - self.accounted_bytes);
        } else {
            node.context.released(self.accounted_bytes - now);
        }
        self.accounted_bytes = now;
    }

    /// Cuts the bytes into replies and hands each to who waits for it.
    fn deliver(&mut self, data: &[u8], node: &Node) -> Result<(), Arc<str>> {
        let now = node.context.clock.tick();
        let mut rest = data;
        let mut replies = 0;
        let mut errors = 0;
        let result = loop {
            if rest.is_empty() || self.paused.is_some() {
                break Ok(());
            }
            match self.scan.advance(rest) {
                Err(error) => break Err(error.to_string().into()),
                Ok(Step::Complete { len }) => {
                    let (reply, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    rest = tail;
                    if self.scan.kind() == b'>' && !self.passing {
                        continue; // Out of band: nothing that is forwarded asks for pushes.
                    }
                    let Some(entry) = self.in_flight.pop_front() else {
                        break Err("a reply that nothing asked for".into());
                    };
                    replies += 1;
                    errors += u64::from(self.scan.kind() == b'-');
                    node.cells.service_duration.observe(now.since(entry.at));
                    let piece = if std::mem::take(&mut self.passing) {
                        if self.slow_since.is_some() && !self.is_obstructed() {
                            self.slow_since = None;
                        }
                        Piece::End(reply)
                    } else {
                        Piece::Whole(reply)
                    };
                    if let Some(sink) = entry.sink {
                        let _: Flow = sink.reply(entry.tag, piece);
                    }
                }
                Ok(Step::Partial { len }) => {
                    let wait = !self.passing
                        && (len as u64).saturating_add(self.scan.bytes_pending()) <= WHOLE_REPLY_BYTES_MAX as u64;
                    if wait || len == 0 {
                        if wait {
                            self.scan.reset();
                        }
                        break Ok(());
                    }
                    let (piece, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    rest = tail;
                    if let Err(error) = self.pass_on(piece, now, node) {
                        break Err(error);
                    }
                    break Ok(());
                }
            }
        };
        self.rest.extend_from_slice(rest);
        if replies > 0 {
            node.answered(replies, errors);
        }
        result
    }

    fn pass_on(&mut self, bytes: &[u8], now: Moment, node: &Node) -> Result<(), Arc<str>> {
        let Some(entry) = self.in_flight.front_mut() else { return Err("a reply that nothing asked for".into()) };
        if !self.passing && self.scan.kind() == b'>' {
            return Err("a long push that nothing asked for".into());
        }
        entry.at = now;
        let piece = if self.passing { Piece::More(bytes) } else { Piece::Begin(bytes) };
        let bytes_known = self.scan.bytes_pending().saturating_add(bytes.len() as u64);
        if !self.passing && bytes_known >= node.options.stream_threshold_bytes {
            self.role = if self.role == Role::Current { Role::Busy } else { self.role };
            node.wants_sweep();
        }
        self.passing = true;
        if let Some(sink) = &entry.sink
            && Rc::clone(sink).reply(entry.tag, piece) == Flow::Pause
        {
            self.paused = Some(now);
            self.slow_since = self.slow_since.or(Some(now));
        }
        Ok(())
    }

    fn expire_sent(&mut self, now: Moment, timeout: Duration, failed: &mut Vec<(Rc<dyn ReplySink>, Tag, Cause)>) {
        let sent = self.in_flight.partition_point(|entry| entry.end <= self.bytes_written);
        for entry in self.in_flight.range_mut(..sent) {
            if now.since(entry.at) < timeout {
                break;
            }
            if let Some(sink) = entry.sink.take() {
                failed.push((sink, entry.tag, Cause::ServiceTimeout(timeout)));
            }
        }
    }

    /// Whether others wait behind the client of the reply at the front.
    fn is_obstructed(&self) -> bool {
        let mut origins = self.in_flight.iter().filter_map(|entry| Some(entry.sink.as_ref()?.origin()));
        let front = origins.next();
        origins.any(|origin| Some(origin) != front)
    }

    /// Gives up a request that is still being received from its client when the store takes no more of it.
    fn expire_leased(&mut self, now: Moment, timeout: Duration, failed: &mut Vec<(Rc<dyn ReplySink>, Tag, Cause)>) {
        if !self.leased || self.stream.is_none() {
            return;
        }
        if self.written == self.outgoing.len() || self.progress.0 != self.bytes_written {
            self.progress = (self.bytes_written, now);
        } else if now.since(self.progress.1) >= timeout
            && let Some(entry) = self.in_flight.back_mut()
            && let Some(sink) = entry.sink.take()
        {
            failed.push((sink, entry.tag, Cause::ServiceTimeout(timeout)));
        }
    }

    /// Takes back what waited too long to be sent. With one request half sent, nothing can follow it, so all that wait
    /// behind it fail with it.
    fn expire_unsent(&mut self, now: Moment, timeout: Duration, failed: &mut Vec<(Rc<dyn ReplySink>, Tag, Cause)>) {
        let from = self.in_flight.partition_point(|entry| entry.end <= self.bytes_written);
        let Some(first) = self.in_flight.get(from) else { return };
        // A request that is still being received from its client has no end yet, and is that client's business.
        if first.end == u64::MAX || now.since(first.at) < timeout {
            return;
        }
        for entry in self.in_flight.drain(from..) {
            if let Some(sink) = entry.sink {
                failed.push((sink, entry.tag, Cause::QueueTimeout(timeout)));
            }
        }
        self.outgoing.clear();
        self.written = 0;
        if self.stream.is_some() {
            // Part of the first may have gone out: no further request may follow it.
            self.role = Role::Stalled;
        }
        self.bytes_queued = self.bytes_written;
    }
}
