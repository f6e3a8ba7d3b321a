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
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use super::client::ClientFacts;
use super::intake::{Intake, Obstacle};
use super::output::Output;
use super::pubsub::Subscriptions;
use super::requests::DIRECT_BYTES;
use super::tracking::Tracks;
use super::transaction::Transaction;
use super::worker::Worker;
use crate::acl::{DEFAULT, User};
use crate::backend::Stream;
use crate::clock::Moment;
use crate::command::Row;
use crate::coordinator::Block;
use crate::metrics::ListenerCells;
use crate::protocol::resp::{RequestScan, Version};
use crate::quorum::Level;
use crate::topology::View;

/// Requests of one client that may be due at a time; its socket is not read further until half of them are answered.
pub(super) const DUE_MAX: usize = 4096;
/// Rounds of one wake-up, so that one busy client does not hold the worker.
const ROUNDS_PER_WAKE: usize = 4;
/// A reply that is passed on in pieces waits at its store while this much is held for its client; and a client for which
/// this much is held is not read further.
pub(super) const HELD_BYTES: usize = 1024 * 1024;
/// How long a drain waits for the next byte of a request that is not all here.
const UNFINISHED_MAX: Duration = Duration::from_secs(1);
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
    pub(super) stream: Option<Stream>,
    pub(super) output: Output,
    pub(super) input: Vec<u8>,
    pub(super) scan: Option<Box<RequestScan>>,
    pub(super) intake: Intake,
    pub(super) waker: Option<Waker>,
    /// Connections to stores that wait until the client has read what is held for it.
    pub(super) obstructed: Vec<Waker>,
    pub(super) facts: Option<Box<ClientFacts>>,
    pub(super) transaction: Option<Box<Transaction>>,
    /// What the client listens to, if it does.
    pub(super) subscriptions: Option<Box<Subscriptions>>,
    /// What the client tracks, if it does.
    pub(super) tracks: Option<Box<Tracks>>,
    accounted_bytes: usize,
    pub(super) obstacle: Obstacle,
    pub(super) version: Version,
    pub(super) replies: Replies,
    /// What the client asks of replicas, in place of its pools' levels.
    pub(super) level: Option<Level>,
    pub(super) authenticated: bool,
    /// Whether there is anything that the user may not do.
    pub(super) restricted: bool,
    pub(super) user: Arc<User>,
    /// The task is about to run anyway.
    woken: bool,
    /// Replies wait one turn of the event loop, so that those behind them can leave with them.
    graced: bool,
    /// Answer what is due, then close.
    pub(super) closing: bool,
    /// The client will send nothing more.
    pub(super) ended: bool,
    /// A request that may be waiting; `alone` is set as well until it is answered.
    pub(super) block: Option<Rc<Block>>,
    /// What comes after the newest request waits until it is answered: it is about all keys or all nodes, or may have to
    /// be sent once more.
    pub(super) alone: bool,
    /// A message has waited for those who are about to listen.
    pub(super) waited: bool,
    /// Others wait behind what this client does not read: it is held here, up to the listener's bound.
    pub(super) spilling: bool,
    /// Close now.
    pub(super) broken: bool,
}

/// One client's session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) listener: usize,
    pub(super) worker: Rc<Worker>,
    pub(super) since: Moment,
    pub(super) seen: Cell<Moment>,
    /// The last verb, for `CLIENT LIST`.
    pub(super) last: Cell<Option<&'static Row>>,
    pub(super) cells: Arc<ListenerCells>,
    /// The database that the client is in.
    pub(super) database: Cell<u16>,
    /// The epoch of the topology that the user is of.
    pub(super) users_epoch: Cell<u64>,
    pub(super) inner: RefCell<Inner>,
}

impl Session {
    pub(super) fn new(
        id: u64,
        listener: usize,
        stream: Stream,
        worker: &Rc<Worker>,
        cells: Arc<ListenerCells>,
    ) -> Rc<Self> {
        let now = worker.context.clock.tick();
        let topology = Arc::clone(&worker.view().topology);
        let users = &worker.fleet.users;
        let user = topology.listener(listener).map(|listener| users.default_user(&topology, listener));
        let user = user.unwrap_or_else(|| Arc::new(User::new(DEFAULT)));
        cells.clients_open.add(1);
        cells.clients_accepted.increment();
        Rc::new(Self {
            id,
            listener,
            worker: Rc::clone(worker),
            since: now,
            seen: Cell::new(now),
            last: Cell::new(None),
            cells,
            database: Cell::new(0),
            users_epoch: Cell::new(topology.epoch),
            inner: RefCell::new(Inner {
                stream: Some(stream),
                output: Output::default(),
                input: Vec::new(),
                scan: None,
                intake: Intake::Requests,
                waker: None,
                obstructed: Vec::new(),
                facts: None,
                transaction: None,
                subscriptions: None,
                tracks: None,
                accounted_bytes: 0,
                obstacle: Obstacle::None,
                version: Version::Resp2,
                replies: Replies::On,
                level: None,
                authenticated: user.needs_no_sign_in(),
                restricted: !user.may_all(),
                user,
                woken: false,
                graced: false,
                closing: false,
                ended: false,
                block: None,
                alone: false,
                waited: false,
                spilling: false,
                broken: false,
            }),
        })
    }

    /// Serves the client until it leaves.
    pub(super) async fn run(self: &Rc<Self>) {
        std::future::poll_fn(|context| self.poll(context)).await;
        self.inner.borrow_mut().broken = true;
        self.leave_channels();
        self.track_no_more();
        self.look_again();
        let mut inner = self.inner.borrow_mut();
        inner.stream = None;
        self.worker.context.released(std::mem::take(&mut inner.accounted_bytes));
        let obstructed = std::mem::take(&mut inner.obstructed);
        inner.output = Output::default();
        inner.input = Vec::new();
        inner.transaction = None;
        inner.facts = None;
        let intake = std::mem::replace(&mut inner.intake, Intake::Requests);
        let block = inner.block.take();
        drop(inner);
        if let Some(block) = block {
            block.abandon();
        }
        if let Intake::Rest(rest) = intake
            && let Some(lease) = rest.lease
        {
            lease.abandon();
        }
        obstructed.into_iter().for_each(Waker::wake);
        self.cells.clients_open.add(-1);
    }

    /// Whether the client will send nothing more, or is gone.
    pub(super) fn has_ended(&self) -> bool {
        let inner = self.inner.borrow();
        inner.broken || inner.ended
    }

    /// Runs the task again, to see what has changed.
    pub(super) fn wake(&self) {
        self.inner.borrow_mut().wake();
    }

    /// Looks after what no event announces.
    pub(super) fn keep_house(&self, view: &View, now: Moment) {
        self.renew_user(&view.topology);
        self.keep_tracking();
        let mut inner = self.inner.borrow_mut();
        inner.block.iter().for_each(|block| block.see(view.topology.epoch));
        if inner.obstacle == Obstacle::Room {
            inner.wake(); // It may be the worker's memory that was full.
        }
        let timeout = view.topology.listener(self.listener).and_then(|listener| listener.idle_timeout);
        let silent = now.since(self.seen.get());
        let is_unfinished = self.worker.is_draining()
            && inner.obstacle == Obstacle::None
            && (inner.output.is_idle() || matches!(inner.intake, Intake::Rest(_)));
        // Who listens has no need to say anything.
        let may_idle = inner.is_monitor() || inner.is_held_back() || inner.subscriptions.is_some();
        if timeout.is_some_and(|timeout| inner.output.is_idle() && silent > timeout && !may_idle)
            || (is_unfinished && silent > UNFINISHED_MAX)
        {
            inner.broken = true;
            inner.wake();
        }
    }

    /// The bytes that the worker's memory is charged with for this client, and those that are held for it among others.
    pub(super) fn accounted_bytes(&self) -> usize {
        let inner = self.inner.borrow();
        inner.accounted_bytes + inner.output.shared_bytes()
    }

    /// The worker's memory is full, and this client holds much of it.
    pub(super) fn close_for_memory(&self) {
        let mut inner = self.inner.borrow_mut();
        self.cells.output_limit_kills.increment();
        tracing::warn!(client = self.id, held_bytes = inner.accounted_bytes, "closed: the memory for buffers is full");
        inner.broken = true;
        inner.wake();
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
        if inner.output.slots.is_empty() {
            inner.output.notes.rest(context);
        }
        let held = inner.output.bytes.capacity() + inner.output.bytes_held() - inner.output.shared_bytes()
            + inner.output.notes.capacity()
            + inner.input.capacity()
            + inner.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.bytes());
        if held != inner.accounted_bytes {
            context.released(inner.accounted_bytes);
            context.buffered(held);
            inner.accounted_bytes = held;
        }
        if self.worker.is_draining() {
            inner.block.iter().for_each(|block| block.drain());
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
            // What went out directly may have been all that a paused reply waited for.
            inner.obstructed.drain(..).for_each(Waker::wake);
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
        let Some(stream) = inner.stream.as_mut() else { return Ok(()) };
        let output = &mut inner.output;
        let (wrote, is_next) = output.write_front(stream, context)?;
        self.cells.sent_bytes.add(wrote as u64);
        if !is_next {
            inner.obstructed.drain(..).for_each(Waker::wake);
            return Ok(());
        }
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
        inner.obstructed.drain(..).for_each(Waker::wake);
        Ok(())
    }

    /// Serves what is here, or reads more. Pending when neither can be done.
    fn advance(self: &Rc<Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        {
            let mut inner = self.inner.borrow_mut();
            if inner.closing || !self.may_go_on(&mut inner, context) {
                let waits = inner.block.as_ref().is_some_and(|block| !block.is_over());
                drop(inner);
                return if waits { self.read_ahead(context) } else { Poll::Pending };
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
                inner.block.iter().for_each(|block| block.leave());
                return if inner.give_up_passing() { Poll::Ready(()) } else { Poll::Pending };
            }
        }
        self.read(context)
    }

    /// Whether the obstacle is gone.
    fn may_go_on(&self, inner: &mut Inner, context: &mut TaskContext<'_>) -> bool {
        match inner.obstacle {
            Obstacle::None => true,
            Obstacle::Due => inner.output.slots.is_empty(),
            Obstacle::Pause => false, // Until `look_again`.
            Obstacle::Listeners => inner.waited,
            Obstacle::Room => {
                inner.output.slots.len() < DUE_MAX / 2
                    && inner.output.bytes_held() < HELD_BYTES
                    && !self.worker.context.is_full()
            }
            Obstacle::Lease => match &inner.intake {
                Intake::Rest(rest) => rest.lease.as_ref().is_none_or(|lease| lease.has_room(context.waker())),
                Intake::Requests => true,
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
}

impl Inner {
    #[inline]
    pub(super) fn wake(&mut self) {
        if !self.woken {
            self.woken = true;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// The client ended its side in the middle of a request that is being passed on: it will never be complete, and gets
    /// no reply. It is the only one that is due, since it waited for all before it. Whether there was one.
    fn give_up_passing(&mut self) -> bool {
        let Intake::Rest(rest) = std::mem::replace(&mut self.intake, Intake::Requests) else { return false };
        let Some(lease) = rest.lease else { return false };
        lease.abandon();
        self.output.slots.clear();
        true
    }

    /// Whether more of the reply to this slot may come. The first in the order only waits for the socket: if it waited
    /// for what the slots behind it hold as well, neither would ever move.
    pub(super) fn has_room_for(&self, slot: u32) -> bool {
        let held = if self.output.is_next(slot) { self.output.pending_bytes() } else { self.output.bytes_held() };
        self.spilling || held < HELD_BYTES
    }

    /// Whether a pause holds back what the client has asked.
    pub(super) fn is_held_back(&self) -> bool {
        self.obstacle == Obstacle::Pause
    }

    /// Whether bytes are here that can still be served.
    fn has_input(&self) -> bool {
        self.obstacle != Obstacle::None && !self.input.is_empty() && !self.closing
    }
}
