//! Bytes of the store become replies, and each reply goes to who waits for it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use super::{Connection, Entry, Inner, Role};
use crate::backend::redis::node::Node;
use crate::backend::{Flow, Piece};
use crate::clock::Moment;
use crate::protocol::resp::{ReplyScan, Step};

/// A reply is waited for until this much of it is there; a bigger one is passed on in pieces.
const WHOLE_REPLY_BYTES_MAX: usize = 32 * 1024;

/// The stream of replies, as far as it was read.
#[derive(Default)]
pub(super) struct Incoming {
    /// Read and not yet delivered: the beginning of a reply.
    rest: Vec<u8>,
    scan: ReplyScan,
    /// The reply at the front is being passed on in pieces.
    passing: bool,
}

impl Connection {
    /// Whether the reply at the front does not wait for its client, or need not any more.
    pub(super) fn may_go_on(&self, context: &TaskContext<'_>) -> bool {
        let front = {
            let inner = self.inner.borrow();
            if inner.paused.is_none() {
                return true;
            }
            match &inner.pushes {
                Some((sink, tag)) => Some((Rc::clone(sink), *tag)),
                None => inner.in_flight.front().and_then(|entry| Some((entry.sink.clone()?, entry.tag))),
            }
        };
        let ready = front.is_none_or(|(sink, tag)| sink.ready(tag, context.waker()));
        if ready {
            self.inner.borrow_mut().paused = None;
        }
        ready
    }

    /// Reads what is there; with what was kept of the last time before it.
    pub(super) fn read<'s>(
        &self,
        scratch: &'s mut [u8],
        context: &mut TaskContext<'_>,
        node: &Node,
    ) -> Poll<Result<&'s [u8], Arc<str>>> {
        let mut incoming = self.incoming.borrow_mut();
        let kept = incoming.rest.len();
        let Some((head, tail)) = scratch.split_at_mut_checked(kept).filter(|(_, tail)| !tail.is_empty()) else {
            return Poll::Ready(Err("a reply line too long to hold".into()));
        };
        let mut inner = self.inner.borrow_mut();
        let Some(stream) = inner.stream.as_mut() else { return Poll::Ready(Err("not open".into())) };
        match stream.poll_read(context, tail) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err("closed by the store".into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string().into())),
            Poll::Ready(Ok(got)) => {
                head.copy_from_slice(&incoming.rest);
                incoming.rest.clear();
                node.cells.received_bytes.add(got as u64);
                Poll::Ready(Ok(scratch.get(..kept + got).unwrap_or_default()))
            }
        }
    }

    /// Cuts the bytes into replies and hands each to who waits for it.
    pub(super) fn deliver(&self, data: &[u8], node: &Node) -> Result<(), Arc<str>> {
        let now = node.context.clock.tick();
        let mut incoming = self.incoming.borrow_mut();
        let incoming = &mut *incoming;
        let mut rest = data;
        let mut replies = 0;
        let mut errors = 0;
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match incoming.scan.advance(rest) {
                Err(error) => break Err(error.to_string().into()),
                Ok(Step::Complete { len }) => {
                    let (reply, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    rest = tail;
                    let kind = incoming.scan.kind();
                    let passed = std::mem::take(&mut incoming.passing);
                    if kind == b'>' {
                        self.push_out(if passed { Piece::End(reply) } else { Piece::Whole(reply) }, now);
                        continue;
                    }
                    let settled = self.inner.borrow_mut().settle(kind, passed);
                    let Some(Entry { sink, tag, at, preceding, patient, .. }) = settled else {
                        if kind == b'-' && self.inner.borrow().pushes.is_some() {
                            // What is answered by pushes alone was refused.
                            self.push_out(Piece::Whole(reply), now);
                            continue;
                        }
                        break Err("a reply that nothing asked for".into());
                    };
                    if preceding == 0 {
                        replies += 1;
                        errors += u64::from(kind == b'-');
                        if !patient {
                            node.cells.service_duration.observe(now.since(at));
                        }
                    }
                    if let Some(sink) = sink {
                        let piece = if passed { Piece::End(reply) } else { Piece::Whole(reply) };
                        let _: Flow = sink.reply(tag, piece);
                    }
                }
                Ok(Step::Partial { len }) => {
                    let bytes_known = (len as u64).saturating_add(incoming.scan.bytes_pending());
                    let wait = !incoming.passing && bytes_known <= WHOLE_REPLY_BYTES_MAX as u64;
                    if wait {
                        incoming.scan.reset();
                    }
                    if wait || len == 0 {
                        break Ok(());
                    }
                    let (piece, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    rest = tail;
                    break self.pass_on(incoming, piece, now, node);
                }
            }
        };
        incoming.rest.extend_from_slice(rest);
        if replies > 0 {
            node.answered(replies, errors);
        }
        result
    }

    /// Hands over what the store said unasked. Where nobody listens, it is dropped.
    fn push_out(&self, piece: Piece<'_>, now: Moment) {
        let listener = self.inner.borrow().pushes.as_ref().map(|(sink, tag)| (Rc::clone(sink), *tag));
        if let Some((sink, tag)) = listener
            && sink.reply(tag, piece) == Flow::Pause
        {
            self.inner.borrow_mut().paused = Some(now);
        }
    }

    /// Hands over a piece of a reply that is too long to wait for.
    fn pass_on(&self, incoming: &mut Incoming, bytes: &[u8], now: Moment, node: &Node) -> Result<(), Arc<str>> {
        let begins = !incoming.passing;
        incoming.passing = true;
        if incoming.scan.kind() == b'>' {
            self.push_out(if begins { Piece::Begin(bytes) } else { Piece::More(bytes) }, now);
            return Ok(());
        }
        let (sink, tag) = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let Some(entry) = inner.in_flight.front_mut() else { return Err("a reply that nothing asked for".into()) };
            entry.at = now;
            let bytes_known = incoming.scan.bytes_pending().saturating_add(bytes.len() as u64);
            if begins && bytes_known >= node.options.stream_threshold_bytes {
                inner.role = if inner.role == Role::Current { Role::Busy } else { inner.role };
                node.wants_sweep();
            }
            // One that precedes what the sink waits for is dropped, and is no error: those are lines, which come whole.
            (entry.sink.as_ref().filter(|_| entry.preceding == 0).map(Rc::clone), entry.tag)
        };
        let piece = if begins { Piece::Begin(bytes) } else { Piece::More(bytes) };
        if let Some(sink) = sink
            && sink.reply(tag, piece) == Flow::Pause
        {
            let mut inner = self.inner.borrow_mut();
            inner.paused = Some(now);
            inner.slow_since = inner.slow_since.or(Some(now));
        }
        Ok(())
    }
}

impl Inner {
    /// Takes note that a reply ended: the request that it answers, without a sink if nobody is to hear of it. `None` when
    /// nobody asked.
    #[inline]
    fn settle(&mut self, kind: u8, passed: bool) -> Option<Entry> {
        let entry = self.in_flight.pop_front()?;
        if passed && self.slow_since.is_some() && !self.is_obstructed() {
            self.slow_since = None;
        }
        Some(if entry.preceding == 0 { entry } else { self.settle_preceding(kind, entry) })
    }

    /// More replies to the request come: it goes back to where it was, unless this one is an error, without its sink.
    #[cold]
    fn settle_preceding(&mut self, kind: u8, mut entry: Entry) -> Entry {
        let sink = if kind == b'-' { entry.sink.take() } else { None };
        let told = Entry { sink, ..entry };
        self.in_flight.push_front(Entry { sink: entry.sink, preceding: entry.preceding - 1, ..told });
        told
    }
}
