//! Requests that wait for too long, as one look at the clock finds them.

use std::rc::Rc;
use std::time::Duration;

use super::{Connection, Inner, Role, tell};
use crate::backend::redis::node::Node;
use crate::backend::{Cause, ReplySink, Tag};
use crate::clock::Moment;

/// How long a reply may wait for its client before the connection is left to those who have requests on it.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long it may wait while replies to others are behind it.
const OBSTRUCTION_MAX: Duration = Duration::from_secs(1);

/// What one look at the clock found.
#[derive(Debug, Default)]
pub(in crate::backend::redis) struct Swept {
    /// Requests that had no reply in time.
    pub(in crate::backend::redis) timed_out: u32,
    /// Requests that could not be sent in time.
    pub(in crate::backend::redis) not_sent: u32,
    /// The client of the reply at the front does not take it.
    pub(in crate::backend::redis) obstructed: bool,
    /// Nothing is in flight.
    pub(in crate::backend::redis) idle: bool,
}

impl Connection {
    /// Looks at the clock: fails what is overdue.
    pub(in crate::backend::redis) fn sweep(&self, now: Moment, node: &Node) -> Swept {
        let mut swept = Swept::default();
        let mut failed: Vec<(Rc<dyn ReplySink>, Tag, Cause)> = Vec::new();
        let obstructs;
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let is_waited_for = inner.in_flight.iter().any(|entry| !entry.patient || entry.end > inner.bytes_written);
            swept.idle = !is_waited_for && !inner.leased;
            if swept.idle {
                inner.shrink(node);
            }
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
            if !failed.is_empty() {
                inner.role = Role::Stalled; // Before anybody is told: what they send in answer goes elsewhere.
            }
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
}

impl Inner {
    fn expire_sent(&mut self, now: Moment, timeout: Duration, failed: &mut Vec<(Rc<dyn ReplySink>, Tag, Cause)>) {
        let sent = self.in_flight.partition_point(|entry| entry.end <= self.bytes_written);
        for entry in self.in_flight.range_mut(..sent) {
            if entry.patient || now.since(entry.at) < timeout {
                break; // What a store answers after it waits for it too.
            }
            if let Some(sink) = entry.sink.take() {
                failed.push((sink, entry.tag, Cause::ServiceTimeout(timeout)));
            }
        }
    }

    /// Whether others wait behind the client of the reply at the front.
    pub(super) fn is_obstructed(&self) -> bool {
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
