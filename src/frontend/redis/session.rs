//! One client: reads its requests, answers or forwards each, writes the replies in order.
//!
//! The session's task runs when its socket can be read or written, when a reply has come, and when an obstacle is gone.
//! It owns no buffer while it has nothing to do: an idle client costs its task, its socket and this struct.
//!
//! # Invariants
//! - Requests are served in the order of arrival, replies leave in that order.
//! - A client that does not read its replies is not read either; what is held for it is bounded
//!   (`docs/decisions/2026-11-23-unread-replies.md`).
//! - A request that changes how later ones are understood (`HELLO`), and one that is passed on while it is received, is
//!   served when all before it are answered.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use super::client::ClientFacts;
use super::local::{self, Local};
use super::output::{Last, Output};
use super::worker::Worker;
use crate::backend::redis::Lease;
use crate::backend::{Flow, Piece, ReplySink, Stream, Tag};
use crate::clock::Moment;
use crate::command::{self, Args, Handling, LocalVerb, Row, Unsupported, VerbClass, reply};
use crate::config::Listener;
use crate::coordinator::{self, Request, Verdict};
use crate::metrics::{Class, ListenerCells, Outcome};
use crate::protocol::resp::{
    Limits, ProtocolError, ReplyScan, RequestScan, Scanned, Step, Version, split_inline, write_request,
};
use crate::topology::View;

/// Requests of one client that may be due at a time; its socket is not read further until half of them are answered.
const DUE_MAX: usize = 4096;
/// Rounds of one wake-up, so that one busy client does not hold the worker.
const ROUNDS_PER_WAKE: usize = 4;
/// A piece at least this long is written to the client at once, without a copy, if nothing waits before it.
const DIRECT_BYTES: usize = 16 * 1024;
/// A reply that is passed on in pieces waits at its store while this much is held for its client; and a client for which
/// this much is held is not read further.
const HELD_BYTES: usize = 1024 * 1024;
/// A request of which this much is there keeps its scanner; a shorter one is scanned again.
const SCAN_KEPT_BYTES: usize = 4096;

/// What the bytes that come next are.
enum Intake {
    /// Requests.
    Requests,
    /// The rest of a request that is passed on while it is received.
    Passing(Lease, ReplyScan),
    /// The rest of a request that was refused.
    Skipping(ReplyScan),
}

/// Why bytes that are here are not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    None,
    /// All requests before must be answered first.
    Due,
    /// Too many are due, or too much is held.
    Room,
    /// The store does not take the rest of a big request yet.
    Lease,
}

/// Which replies the client wants (`CLIENT REPLY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    /// All.
    On,
    /// None.
    Off,
    /// None to the next request.
    SkipNext,
}

#[expect(clippy::struct_excessive_bools, reason = "independent marks, each set and cleared in one place")]
pub(super) struct Inner {
    stream: Option<Stream>,
    output: Output,
    input: Vec<u8>,
    scan: Option<Box<RequestScan>>,
    intake: Intake,
    waker: Option<Waker>,
    /// A connection to a store that waits until the client has read what is held for it.
    obstructed: Option<Waker>,
    pub(super) facts: Option<Box<ClientFacts>>,
    accounted_bytes: usize,
    obstacle: Obstacle,
    pub(super) version: Version,
    pub(super) replies: Replies,
    pub(super) authenticated: bool,
    /// The task is about to run anyway.
    woken: bool,
    /// Replies wait one turn of the event loop, so that those behind them can leave with them.
    graced: bool,
    /// Answer what is due, then close.
    closing: bool,
    /// The client will send nothing more.
    ended: bool,
    /// Others wait behind what this client does not read: it is held here, up to the listener's bound.
    spilling: bool,
    /// Close now.
    broken: bool,
}

/// One client's session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) listener: usize,
    pub(super) peer: Option<SocketAddr>,
    pub(super) worker: Rc<Worker>,
    pub(super) since: Moment,
    pub(super) seen: Cell<Moment>,
    cells: Arc<ListenerCells>,
    pub(super) inner: RefCell<Inner>,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handled {
    Yes,
    /// It has to wait for an obstacle.
    NotYet,
}

impl Session {
    pub(super) fn new(
        id: u64,
        listener: usize,
        peer: Option<SocketAddr>,
        stream: Stream,
        worker: &Rc<Worker>,
        cells: Arc<ListenerCells>,
    ) -> Rc<Self> {
        let now = worker.context.clock.tick();
        let needs_password =
            worker.view().topology.listener(listener).is_some_and(|listener| listener.password.is_some());
        cells.clients_open.add(1);
        cells.clients_accepted.increment();
        Rc::new(Self {
            id,
            listener,
            peer,
            worker: Rc::clone(worker),
            since: now,
            seen: Cell::new(now),
            cells,
            inner: RefCell::new(Inner {
                stream: Some(stream),
                output: Output::default(),
                input: Vec::new(),
                scan: None,
                intake: Intake::Requests,
                waker: None,
                obstructed: None,
                facts: None,
                accounted_bytes: 0,
                obstacle: Obstacle::None,
                version: Version::Resp2,
                replies: Replies::On,
                authenticated: !needs_password,
                woken: false,
                graced: false,
                closing: false,
                ended: false,
                spilling: false,
                broken: false,
            }),
        })
    }

    /// Serves the client until it leaves.
    pub(super) async fn run(self: &Rc<Self>) {
        std::future::poll_fn(|context| self.poll(context)).await;
        let mut inner = self.inner.borrow_mut();
        inner.broken = true;
        inner.stream = None;
        self.worker.context.released(std::mem::take(&mut inner.accounted_bytes));
        let obstructed = inner.obstructed.take();
        inner.output = Output::default();
        inner.input = Vec::new();
        let intake = std::mem::replace(&mut inner.intake, Intake::Requests);
        drop(inner);
        if let Intake::Passing(lease, _) = intake {
            lease.abandon();
        }
        if let Some(waker) = obstructed {
            waker.wake();
        }
        self.cells.clients_open.add(-1);
    }

    /// Runs the task again, to see what has changed.
    pub(super) fn wake(&self) {
        self.inner.borrow_mut().wake();
    }

    /// Looks after what no event announces.
    pub(super) fn keep_house(&self, view: &View, now: Moment) {
        let mut inner = self.inner.borrow_mut();
        if inner.obstacle == Obstacle::Room {
            inner.wake(); // It may be the worker's memory that was full.
        }
        let timeout = view.topology.listener(self.listener).and_then(|listener| listener.idle_timeout);
        if timeout.is_some_and(|timeout| inner.output.is_idle() && now.since(self.seen.get()) > timeout) {
            inner.broken = true;
            inner.wake();
        }
    }

    fn poll(self: &Rc<Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        {
            let mut inner = self.inner.borrow_mut();
            inner.woken = false;
            if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                inner.waker = Some(context.waker().clone());
            }
        }
        for _ in 0..ROUNDS_PER_WAKE {
            if self.flush(context).is_err() {
                return Poll::Ready(());
            }
            if self.is_over() {
                return Poll::Ready(());
            }
            match self.advance(context) {
                Poll::Pending => {
                    return if self.rest() { Poll::Ready(()) } else { Poll::Pending };
                }
                Poll::Ready(()) => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        let inner = self.inner.borrow();
        inner.broken || ((inner.closing || inner.ended) && inner.output.is_idle() && !inner.has_input())
    }

    /// Nothing can be done now: gives back what is not needed. Whether the session ends here, for the worker drains.
    fn rest(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let context = &self.worker.context;
        if inner.output.pending_bytes() == 0 && inner.output.bytes.capacity() > 0 {
            context.return_buffer(std::mem::take(&mut inner.output.bytes));
            inner.output.written = 0;
        }
        if inner.output.slots.is_empty() && inner.output.slots.capacity() > 0 {
            self.worker.return_slots(std::mem::take(&mut inner.output.slots));
        }
        let held = inner.output.bytes.capacity() + inner.output.bytes_held() + inner.input.capacity();
        if held != inner.accounted_bytes {
            context.released(inner.accounted_bytes);
            context.buffered(held);
            inner.accounted_bytes = held;
        }
        self.worker.is_draining()
            && inner.output.is_idle()
            && inner.input.is_empty()
            && matches!(inner.intake, Intake::Requests)
    }

    /// Writes what may be sent.
    fn flush(&self, context: &mut TaskContext<'_>) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let pending = inner.output.pending_bytes();
        if pending == 0 {
            return Ok(());
        }
        if !inner.graced && pending < DIRECT_BYTES && !inner.output.slots.is_empty() {
            // Replies behind these are due: those that the next look at the sockets brings leave in the same write.
            inner.graced = true;
            let turn = std::pin::pin!(tokio::task::yield_now());
            if turn.poll(context).is_pending() {
                return Ok(());
            }
        }
        inner.graced = false;
        let Some(stream) = inner.stream.as_ref() else { return Ok(()) };
        let output = &mut inner.output;
        let before = output.written;
        while let Some(bytes) = output.bytes.get(output.written..)
            && !bytes.is_empty()
        {
            match stream.try_write(bytes) {
                Ok(wrote) => output.written += wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match stream.poll_write_ready(context) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => break,
                },
                Err(error) => return Err(error),
            }
        }
        self.cells.sent_bytes.add((output.written - before) as u64);
        if output.pending_bytes() == 0 {
            output.bytes.clear();
            output.written = 0;
            inner.spilling = false;
        } else if output.written > output.bytes.len() / 2 {
            output.bytes.drain(..output.written);
            output.written = 0;
        }
        if let Some(waker) = inner.obstructed.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Serves what is here, or reads more. Pending when neither can be done.
    fn advance(self: &Rc<Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        {
            let mut inner = self.inner.borrow_mut();
            if inner.closing || !self.may_go_on(&mut inner, context) {
                return Poll::Pending;
            }
            if inner.obstacle != Obstacle::None {
                inner.obstacle = Obstacle::None;
                if !inner.input.is_empty() {
                    let input = std::mem::take(&mut inner.input);
                    drop(inner);
                    self.take_in(input);
                    return Poll::Ready(());
                }
            }
            if inner.ended {
                return Poll::Pending;
            }
        }
        self.read(context)
    }

    /// Whether the obstacle is gone.
    fn may_go_on(&self, inner: &mut Inner, context: &mut TaskContext<'_>) -> bool {
        match inner.obstacle {
            Obstacle::None => true,
            Obstacle::Due => inner.output.slots.is_empty(),
            Obstacle::Room => {
                inner.output.slots.len() < DUE_MAX / 2
                    && inner.output.bytes_held() < HELD_BYTES
                    && !self.worker.context.is_full()
            }
            Obstacle::Lease => match &inner.intake {
                Intake::Passing(lease, _) => lease.has_room(context.waker()),
                Intake::Requests | Intake::Skipping(_) => true,
            },
        }
    }

    fn read(self: &Rc<Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        let mut scratch = self.worker.context.take_scratch();
        let polled = {
            let mut inner = self.inner.borrow_mut();
            match inner.stream.as_mut() {
                Some(stream) => stream.poll_read(context, &mut scratch),
                None => Poll::Ready(Ok(0)),
            }
        };
        match polled {
            Poll::Pending => {
                self.worker.context.return_scratch(scratch);
                return Poll::Pending;
            }
            Poll::Ready(Ok(0)) => self.inner.borrow_mut().ended = true,
            // The client is gone; there is nobody to tell.
            Poll::Ready(Err(_)) => self.inner.borrow_mut().broken = true,
            Poll::Ready(Ok(got)) => {
                self.seen.set(self.worker.context.clock.tick());
                self.cells.received_bytes.add(got as u64);
                let data = scratch.get(..got).unwrap_or_default();
                let mut input = std::mem::take(&mut self.inner.borrow_mut().input);
                if input.is_empty() {
                    let consumed = self.process(data);
                    if let Some(rest) = data.get(consumed..)
                        && !rest.is_empty()
                    {
                        input.reserve(self.bytes_missing());
                        input.extend_from_slice(rest);
                        self.inner.borrow_mut().input = input;
                    }
                } else {
                    input.extend_from_slice(data);
                    self.take_in(input);
                }
            }
        }
        self.worker.context.return_scratch(scratch);
        Poll::Ready(())
    }

    /// About how many bytes the request that is being received still needs, for its buffer to grow once.
    fn bytes_missing(&self) -> usize {
        let inner = self.inner.borrow();
        inner.scan.as_ref().map_or(0, |scan| scan.bytes_needed().min(1024 * 1024))
    }

    /// Serves what is in `input` and keeps the rest.
    fn take_in(self: &Rc<Self>, mut input: Vec<u8>) {
        let consumed = self.process(&input);
        if consumed == input.len() {
            self.worker.context.return_buffer(input);
            return;
        }
        input.drain(..consumed);
        self.inner.borrow_mut().input = input;
    }

    /// Serves requests from the front of `data`; how many bytes are done with.
    fn process(self: &Rc<Self>, data: &[u8]) -> usize {
        let view = self.worker.view();
        let topology = Arc::clone(&view.topology);
        let Some(listener) = topology.listener(self.listener) else { return data.len() };
        let kept = self.inner.borrow_mut().scan.take();
        let mut scan = kept.unwrap_or_else(|| self.worker.take_scan());
        let mut done = 0;
        while let Some(rest) = data.get(done..)
            && !rest.is_empty()
        {
            match self.process_one(&view, listener, rest, &mut scan) {
                0 => break,
                consumed => done += consumed,
            }
        }
        if !scan.is_idle() && data.len() - done >= SCAN_KEPT_BYTES {
            self.inner.borrow_mut().scan = Some(scan);
        } else {
            self.worker.return_scan(scan);
        }
        done
    }

    /// Serves the request at the front of `data`; its length, or 0 if it has to wait for more bytes or an obstacle.
    #[inline]
    fn process_one(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        data: &[u8],
        scan: &mut RequestScan,
    ) -> usize {
        let authenticated = {
            let mut inner = self.inner.borrow_mut();
            if !matches!(inner.intake, Intake::Requests) {
                drop(inner);
                return self.pass_on(data);
            }
            if inner.closing {
                return data.len();
            }
            if inner.output.slots.len() >= DUE_MAX
                || inner.output.bytes_held() >= HELD_BYTES
                || self.worker.context.is_full()
            {
                inner.obstacle = Obstacle::Room;
                return 0;
            }
            inner.authenticated
        };
        let limits = limits_of(listener, authenticated);
        match scan.scan(data, &limits) {
            Ok(Scanned::Request { len }) => {
                let frame = data.get(..len).unwrap_or_default();
                let handled = if scan.irregular() {
                    self.handle_rewritten(view, listener, &Args::new(frame, scan.bounds()))
                } else {
                    self.handle(view, listener, frame, scan.bounds())
                };
                scan.reset();
                if handled == Handled::Yes { len } else { 0 }
            }
            Ok(Scanned::Inline { line, len }) => {
                let handled = self.handle_inline(view, listener, data.get(..line).unwrap_or_default());
                scan.reset();
                if handled == Handled::Yes { len } else { 0 }
            }
            Ok(Scanned::Nothing { len }) => {
                scan.reset();
                len
            }
            Ok(Scanned::Incomplete) => self.receive_big(view, listener, data, scan),
            Err(error) => {
                self.protocol_error(error);
                data.len()
            }
        }
    }

    fn protocol_error(&self, error: ProtocolError) {
        self.cells.protocol_errors.increment();
        let mut out = Vec::new();
        reply::protocol_error(&mut out, &error.to_string());
        self.answer(Class::Other, &out, Outcome::Refused);
        self.inner.borrow_mut().closing = true;
    }

    fn handle_inline(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, line: &[u8]) -> Handled {
        let Ok(words) = split_inline(line) else {
            self.protocol_error(ProtocolError::UnbalancedQuotes);
            return Handled::Yes;
        };
        if words.is_empty() {
            return Handled::Yes;
        }
        let mut frame = Vec::new();
        write_request(&mut frame, words.iter().map(Vec::as_slice));
        self.handle_frame(view, listener, &frame)
    }

    /// Handles a request in its canonical form.
    fn handle_rewritten(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, args: &Args<'_>) -> Handled {
        let mut frame = Vec::new();
        write_request(&mut frame, args.iter());
        self.handle_frame(view, listener, &frame)
    }

    fn handle_frame(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, frame: &[u8]) -> Handled {
        let mut scan = RequestScan::default();
        match scan.scan(frame, &Limits::REDIS) {
            Ok(Scanned::Request { .. }) => self.handle(view, listener, frame, scan.bounds()),
            _ => Handled::Yes,
        }
    }

    #[inline]
    fn handle(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, frame: &[u8], bounds: &[(u32, u32)]) -> Handled {
        let args = Args::new(frame, bounds);
        let row = match command::resolve(&args) {
            Ok(row) => row,
            Err(unsupported) => {
                self.refuse(&unsupported, &args);
                return Handled::Yes;
            }
        };
        let (version, authenticated) = {
            let inner = self.inner.borrow();
            (inner.version, inner.authenticated)
        };
        match row.handling {
            Handling::Local(verb) => return self.handle_local(view, listener, verb, row, &args),
            _ if !authenticated => self.answer_with(row, Outcome::Refused, reply::noauth),
            Handling::Forward | Handling::SameNode | Handling::Split(_) => {
                let slot = self.open_slot(class_of(row));
                let request = Request { frame, args, row, version };
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                let mut out = Vec::new();
                let verdict = self.worker.coordinator.dispatch(view, listener, &request, &sink, slot, &mut out);
                if let Verdict::Answered(outcome) = verdict {
                    self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
                }
            }
            Handling::Later(reason) => self.answer_with(row, Outcome::Refused, |out| reply::later(out, row, reason)),
            Handling::Refused(reason) => {
                self.answer_with(row, Outcome::Refused, |out| reply::refused(out, row, reason));
            }
        }
        Handled::Yes
    }

    fn handle_local(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: LocalVerb,
        row: &'static Row,
        args: &Args<'_>,
    ) -> Handled {
        {
            let mut inner = self.inner.borrow_mut();
            // Both change how the replies to earlier requests would have to look.
            if matches!(verb, LocalVerb::Hello | LocalVerb::Reset) && !inner.output.slots.is_empty() {
                inner.obstacle = Obstacle::Due;
                return Handled::NotYet;
            }
            let without_password =
                matches!(verb, LocalVerb::Auth | LocalVerb::Hello | LocalVerb::Quit | LocalVerb::Reset);
            if !inner.authenticated && !without_password && verb != LocalVerb::HttpRequest {
                drop(inner);
                self.answer_with(row, Outcome::Refused, reply::noauth);
                return Handled::Yes;
            }
        }
        let mut out = self.worker.context.take_buffer();
        match local::answer(self, view, listener, verb, row, args, &mut out) {
            Local::Reply(outcome) => self.answer(class_of(row), &out, outcome),
            Local::Last => {
                self.answer(class_of(row), &out, Outcome::Ok);
                self.inner.borrow_mut().closing = true;
            }
            Local::Silent => {}
            Local::Close => self.inner.borrow_mut().broken = true,
        }
        self.worker.context.return_buffer(out);
        Handled::Yes
    }

    fn refuse(&self, unsupported: &Unsupported, args: &Args<'_>) {
        let mut out = Vec::new();
        match unsupported {
            Unsupported::UnknownCommand => reply::unknown_command(&mut out, args),
            Unsupported::UnknownSubcommand(_) => reply::unknown_subcommand(&mut out, args),
            Unsupported::WrongArity(row) => reply::wrong_arity(&mut out, row),
        }
        self.answer(Class::Other, &out, Outcome::Refused);
    }

    fn answer_with(&self, row: &Row, outcome: Outcome, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        self.answer(class_of(row), &out, outcome);
    }

    /// Answers the request that was just read.
    pub(super) fn answer(&self, class: Class, bytes: &[u8], outcome: Outcome) {
        let slot = self.open_slot(class);
        self.settle(&mut self.inner.borrow_mut(), slot, bytes, Last::Yes, outcome);
    }

    /// A slot for the request that was just read.
    #[inline]
    pub(super) fn open_slot(&self, class: Class) -> u32 {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.output.slots.capacity() == 0 {
            inner.output.slots = self.worker.take_slots();
        }
        let silent = match inner.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                inner.replies = Replies::On;
                true
            }
        };
        inner.output.open(class, self.seen.get(), silent)
    }

    #[inline]
    fn settle(&self, inner: &mut Inner, slot: u32, bytes: &[u8], last: Last, outcome: Outcome) {
        let mut sent = 0;
        if let Some((_, due)) = inner.output.slot(slot) {
            if last == Last::Yes {
                let duration = self.worker.context.clock.now().since(due.at);
                self.cells.requests(due.class, outcome).increment();
                self.cells.request_duration(due.class).observe(duration);
            }
        } else {
            return;
        }
        if inner.output.bytes_held() > HELD_BYTES && self.closed_beyond_limit(inner) {
            return;
        }
        if inner.output.bytes.capacity() == 0 {
            inner.output.bytes = self.worker.context.take_buffer();
        }
        if bytes.len() >= DIRECT_BYTES
            && inner.output.is_next(slot)
            && inner.output.pending_bytes() == 0
            && let Some(stream) = &inner.stream
        {
            // An error shows again when the task writes.
            sent = stream.try_write(bytes).unwrap_or(0);
            self.cells.sent_bytes.add(sent as u64);
        }
        inner.output.put(&self.worker.context, slot, bytes, last, sent);
    }

    /// Whether more is held for the client than the listener allows: then it is closed, as Redis closes a client beyond
    /// its `client-output-buffer-limit`. One reply alone is never too much.
    #[cold]
    fn closed_beyond_limit(&self, inner: &mut Inner) -> bool {
        let view = self.worker.view();
        let most = view.topology.listener(self.listener).map_or(0, |listener| listener.client_output_bytes_max);
        if inner.output.bytes_held() as u64 <= most {
            return false;
        }
        self.cells.output_limit_kills.increment();
        let held_bytes = inner.output.bytes_held();
        tracing::warn!(client = self.id, held_bytes, "closed: it does not read its replies");
        inner.broken = true;
        inner.wake();
        true
    }

    /// A request that is not all here: if it is big, it is passed on while it is received, or refused.
    fn receive_big(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        data: &[u8],
        scan: &mut RequestScan,
    ) -> usize {
        let needed = scan.bytes_needed().max(data.len()) as u64;
        let pool = view.topology.config.pools.get(listener.pool);
        let threshold = pool.map_or(u64::MAX, |pool| pool.stream_threshold_bytes as u64);
        if needed <= threshold.min(listener.query_buffer_bytes_max) {
            return 0;
        }
        if !self.inner.borrow().output.slots.is_empty() {
            self.inner.borrow_mut().obstacle = Obstacle::Due;
            return 0;
        }
        let args = Args::new(data, scan.bounds());
        let mut out = Vec::new();
        let (version, authenticated) = {
            let inner = self.inner.borrow();
            (inner.version, inner.authenticated)
        };
        let passable = passable_key(&args, scan.arguments()).filter(|_| authenticated && !scan.irregular());
        let leased = match passable {
            Some((row, key)) => {
                let lease = self.worker.coordinator.lease(view, listener, key, version, &mut out);
                lease.map(|lease| lease.map(|lease| (row, lease)))
            }
            None => Ok(None),
        };
        match leased {
            Ok(Some((row, lease))) => {
                let slot = self.open_slot(class_of(row));
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                lease.begin(&sink, Tag { slot, part: 0 }, self.seen.get());
                self.inner.borrow_mut().intake = Intake::Passing(lease, ReplyScan::default());
            }
            Ok(None) if needed <= listener.query_buffer_bytes_max => return 0,
            Ok(None) => {
                let most = usize::try_from(listener.query_buffer_bytes_max).unwrap_or(usize::MAX);
                reply::too_large(&mut out, "bytes in one request of this kind", most);
                self.answer(Class::Other, &out, Outcome::Refused);
                self.inner.borrow_mut().intake = Intake::Skipping(ReplyScan::default());
            }
            Err(outcome) => {
                self.answer(Class::Other, &out, outcome);
                self.inner.borrow_mut().intake = Intake::Skipping(ReplyScan::default());
            }
        }
        scan.reset();
        self.pass_on(data)
    }

    /// Passes on, or drops, bytes of a big request; how many were taken.
    fn pass_on(&self, data: &[u8]) -> usize {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let now = self.worker.context.clock.now();
        let waker = inner.waker.clone().unwrap_or_else(|| Waker::noop().clone());
        let (lease, scan) = match std::mem::replace(&mut inner.intake, Intake::Requests) {
            Intake::Requests => return 0,
            Intake::Passing(lease, scan) => (Some(lease), scan),
            Intake::Skipping(scan) => (None, scan),
        };
        let mut scan = scan;
        // A request has the form of a reply: an array of bulk strings.
        let (taken, complete) = match scan.advance(data) {
            Ok(Step::Complete { len }) => (len, true),
            Ok(Step::Partial { len }) => (len, false),
            Err(_) => {
                if let Some(lease) = lease {
                    lease.abandon();
                }
                inner.broken = true;
                return data.len();
            }
        };
        match lease {
            None if complete => {}
            None => inner.intake = Intake::Skipping(scan),
            Some(lease) => {
                let has_room = lease.push(data.get(..taken).unwrap_or_default(), &waker);
                if complete {
                    lease.finish(now);
                    // What comes next may concern the same key, and must not overtake.
                    inner.obstacle = Obstacle::Due;
                } else {
                    inner.intake = Intake::Passing(lease, scan);
                    if !has_room {
                        inner.obstacle = Obstacle::Lease;
                    }
                }
            }
        }
        taken
    }
}

/// The key of a request of which only the beginning is known, if its verb can be passed on untouched.
fn passable_key<'a>(args: &Args<'a>, arguments: i64) -> Option<(&'static Row, &'a [u8])> {
    let row = command::lookup(args.get(0)?)?;
    let at = row.single_key_at?;
    let takes = row.takes(usize::try_from(arguments).ok()?);
    if row.handling != Handling::Forward || !row.variants.is_empty() || !takes {
        return None;
    }
    Some((row, args.get(usize::from(at))?))
}

fn limits_of(listener: &Listener, authenticated: bool) -> Limits {
    if !authenticated {
        return Limits::UNAUTHENTICATED;
    }
    let most = i64::try_from(listener.request_bytes_max).unwrap_or(i64::MAX);
    Limits { bulk_bytes_max: most.min(Limits::REDIS.bulk_bytes_max), ..Limits::REDIS }
}

#[inline]
pub(super) fn class_of(row: &Row) -> Class {
    match row.class {
        VerbClass::Read => Class::Read,
        VerbClass::Write => Class::Write,
        VerbClass::Other => Class::Other,
    }
}

impl Inner {
    #[inline]
    fn wake(&mut self) {
        if !self.woken {
            self.woken = true;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Whether bytes are here that can still be served.
    fn has_input(&self) -> bool {
        self.obstacle != Obstacle::None && !self.input.is_empty() && !self.closing
    }
}

impl ReplySink for Session {
    #[inline]
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.broken {
            return Flow::Continue;
        }
        let flow = match piece {
            Piece::Whole(bytes) => {
                let outcome = if bytes.first() == Some(&b'-') { Outcome::StoreError } else { Outcome::Ok };
                self.settle(inner, tag.slot, bytes, Last::Yes, outcome);
                Flow::Continue
            }
            Piece::End(bytes) => {
                self.settle(inner, tag.slot, bytes, Last::Yes, Outcome::Ok);
                Flow::Continue
            }
            Piece::Begin(bytes) | Piece::More(bytes) => {
                self.settle(inner, tag.slot, bytes, Last::No, Outcome::Ok);
                if inner.output.bytes_held() >= HELD_BYTES && !inner.spilling { Flow::Pause } else { Flow::Continue }
            }
            Piece::Failed(failure) if inner.output.has_begun(tag.slot) => {
                // Part of the reply is with the client: only a closed connection can tell it.
                tracing::warn!(node = %failure.node, cause = %failure.cause, "a reply broke off in the middle");
                inner.broken = true;
                Flow::Continue
            }
            Piece::Failed(failure) => {
                let mut out = Vec::new();
                let outcome = coordinator::write_failure(failure, &mut out);
                inner.output.restart(tag.slot);
                self.settle(inner, tag.slot, &out, Last::Yes, outcome);
                Flow::Continue
            }
        };
        inner.wake();
        flow
    }

    fn ready(&self, waker: &Waker) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.broken || inner.spilling || inner.output.bytes_held() < HELD_BYTES {
            return true;
        }
        inner.obstructed = Some(waker.clone());
        false
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn make_way(&self) {
        self.inner.borrow_mut().spilling = true;
    }
}
