//! From a client's bytes to its requests: whole ones are handled, big ones are passed on while they are received.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::requests::{Handled, verb_of};
use super::session::{DUE_MAX, HELD_BYTES, Session};
use crate::backend::redis::Lease;
use crate::backend::{ReplySink, Tag};
use crate::command::{self, Args, Handling, Row, SplitRule, reply};
use crate::config::Listener;
use crate::metrics::{Outcome, Verb};
use crate::protocol::resp::{
    Limits, ProtocolError, ReplyScan, RequestScan, Scanned, Step, split_inline, write_request,
};
use crate::topology::View;

/// A request of which this much is there keeps its scanner; a shorter one is scanned again.
const SCAN_KEPT_BYTES: usize = 4096;

/// What the bytes that come next are.
pub(super) enum Intake {
    /// Requests.
    Requests,
    /// The rest of a big request: it is passed on while it is received, or dropped. Few clients do this at a time, so it
    /// is not part of every session.
    Rest(Box<Rest>),
}

/// The rest of a request that is not held.
pub(super) struct Rest {
    /// Where it goes; nowhere if it was refused.
    pub(super) lease: Option<Lease>,
    scan: ReplyScan,
}

/// Why bytes that are here are not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    None,
    /// All requests before must be answered first.
    Due,
    /// Too many are due, or too much is held.
    Room,
    /// Somebody holds back what clients ask (`CLIENT PAUSE`).
    Pause,
    /// The store does not take the rest of a big request yet.
    Lease,
    /// Somebody is about to listen to what the client publishes.
    Listeners,
}

impl Session {
    /// Serves requests from the front of `data`; how many bytes are done with.
    pub(super) fn process(self: &Rc<Self>, data: &[u8]) -> usize {
        let view = self.view();
        let topology = Arc::clone(&view.topology);
        let Some(listener) = topology.listener(self.listener) else { return data.len() };
        self.renew_user(&topology);
        let kept = self.inner.borrow_mut().scan.take();
        let mut scan = kept.unwrap_or_else(|| self.worker.take_scan());
        let (mut done, mut is_batch) = (0, false);
        while let Some(rest) = data.get(done..)
            && !rest.is_empty()
        {
            // What is alone is not worth gathering.
            is_batch = is_batch || done > 0 && self.worker.coordinator.begin_batch();
            match self.process_one(&view, listener, rest, &mut scan) {
                0 => break,
                consumed => done += consumed,
            }
        }
        if is_batch {
            self.worker.coordinator.end_batch();
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
            if inner.closing || inner.broken {
                return data.len();
            }
            if inner.alone {
                // Where a `SELECT` was answered, what follows needs another view.
                if !inner.output.slots.is_empty() || self.database.get() != view.database() {
                    inner.obstacle = Obstacle::Due;
                    return 0;
                }
                inner.alone = false;
                inner.block = None;
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
        self.answer(Verb::NONE, &out, Outcome::Refused);
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

    /// A request that is not all here: if it is big, it is passed on while it is received, or refused.
    fn receive_big(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        data: &[u8],
        scan: &mut RequestScan,
    ) -> usize {
        if has_too_many_keys(&Args::new(data, scan.bounds()), scan.arguments(), listener.keys_per_command_max) {
            // Known from its first line: nothing of it needs to be held.
            let mut out = Vec::new();
            reply::too_large(&mut out, "keys in one command", listener.keys_per_command_max);
            return self.skip_refused(data, scan, &out, Outcome::Refused);
        }
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
        let version = self.inner.borrow().version;
        let passable =
            passable_key(&args, scan.arguments()).filter(|(row, key)| !scan.irregular() && self.may_pass_on(row, key));
        if let Some((row, _)) = passable
            && self.wait_for_pause(view, listener, row, &args) == Handled::NotYet
        {
            return 0;
        }
        let leased = match passable {
            Some((row, key)) => {
                let lease = self.worker.coordinator.lease(view, listener, key, version, &mut out);
                lease.map(|lease| lease.map(|lease| (row, lease)))
            }
            None => Ok(None),
        };
        match leased {
            Ok(Some((row, lease))) => {
                let slot = self.open_slot(verb_of(row));
                self.last.set(Some(row));
                self.note(slot, row, data);
                self.worker.show(self, row, &args);
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                lease.begin(&sink, Tag { slot, part: 0 }, self.seen.get());
                let rest = Rest { lease: Some(lease), scan: ReplyScan::default() };
                self.inner.borrow_mut().intake = Intake::Rest(Box::new(rest));
            }
            Ok(None) if needed <= listener.query_buffer_bytes_max => return 0,
            Ok(None) => {
                let most = usize::try_from(listener.query_buffer_bytes_max).unwrap_or(usize::MAX);
                reply::too_large(&mut out, "bytes in one request of this kind", most);
                return self.skip_refused(data, scan, &out, Outcome::Refused);
            }
            Err(outcome) => return self.skip_refused(data, scan, &out, outcome),
        }
        scan.reset();
        self.pass_on(data)
    }

    /// Answers a request that is not all here; the rest of it is read and dropped.
    fn skip_refused(&self, data: &[u8], scan: &mut RequestScan, answer: &[u8], outcome: Outcome) -> usize {
        self.answer(Verb::NONE, answer, outcome);
        let rest = Rest { lease: None, scan: ReplyScan::default() };
        self.inner.borrow_mut().intake = Intake::Rest(Box::new(rest));
        scan.reset();
        self.pass_on(data)
    }

    /// Passes on, or drops, bytes of a big request; how many were taken.
    fn pass_on(&self, data: &[u8]) -> usize {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let now = self.worker.context.clock.now();
        let waker = inner.waker.clone().unwrap_or_else(|| Waker::noop().clone());
        let Intake::Rest(mut rest) = std::mem::replace(&mut inner.intake, Intake::Requests) else { return 0 };
        // A request has the form of a reply: an array of bulk strings.
        let (taken, complete) = match rest.scan.advance(data) {
            Ok(Step::Complete { len }) => (len, true),
            Ok(Step::Partial { len }) => (len, false),
            Err(_) => {
                if let Some(lease) = rest.lease {
                    lease.abandon();
                }
                inner.broken = true;
                return data.len();
            }
        };
        if let Some(lease) = &rest.lease
            && !lease.push(data.get(..taken).unwrap_or_default(), &waker)
            && !complete
        {
            inner.obstacle = Obstacle::Lease;
        }
        if !complete {
            inner.intake = Intake::Rest(rest);
        } else if let Some(lease) = rest.lease {
            lease.finish(now);
            // What comes next may concern the same key, and must not overtake.
            inner.obstacle = Obstacle::Due;
        }
        taken
    }

    /// About how many bytes the request that is being received still needs, for its buffer to grow once.
    pub(super) fn bytes_missing(&self) -> usize {
        let inner = self.inner.borrow();
        inner.scan.as_ref().map_or(0, |scan| scan.bytes_needed().min(1024 * 1024))
    }

    /// Serves what is in `input` and keeps the rest.
    pub(super) fn take_in(self: &Rc<Self>, mut input: Vec<u8>) {
        let consumed = self.process(&input);
        if consumed == input.len() {
            self.worker.context.return_buffer(input);
            return;
        }
        input.drain(..consumed);
        self.inner.borrow_mut().input = input;
    }
}

/// Whether a command that is split has more keys than one command may have.
fn has_too_many_keys(args: &Args<'_>, arguments: i64, most: usize) -> bool {
    let Ok(arguments) = usize::try_from(arguments) else { return false };
    if arguments <= most {
        return false;
    }
    match args.get(0).and_then(command::lookup).map(|row| row.handling) {
        Some(Handling::Split(SplitRule::Mset)) => arguments / 2 > most,
        Some(Handling::Split(SplitRule::Mget | SplitRule::SumIntegers)) => true,
        _ => false,
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
