//! A connection for one request that is too big to be held.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::connection::{Connection, Entry};
use crate::backend::{ReplySink, Tag};
use crate::clock::Moment;

/// A connection for one big request of one client, which is passed on while it is received.
pub struct Lease {
    connection: Rc<Connection>,
}

impl Lease {
    /// Bytes that may wait to be written before the client is not read further.
    pub(super) const ROOM_BYTES: usize = 256 * 1024;

    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self { connection }
    }

    /// Begins the request; its reply goes to `sink`.
    pub fn begin(&self, sink: &Rc<dyn ReplySink>, tag: Tag, now: Moment) {
        let mut inner = self.connection.inner.borrow_mut();
        inner.leased = true;
        inner.in_flight.push_back(Entry::new(sink, tag, u64::MAX, now));
        self.connection.load.set(inner.in_flight.len());
    }

    /// Passes on bytes of the request; whether there is room for more. If not, `waker` is woken when there is.
    pub fn push(&self, bytes: &[u8], waker: &Waker) -> bool {
        let mut inner = self.connection.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.closed {
            return true; // The reply to it has failed; the rest of the request is read and dropped.
        }
        if !inner.write_through(bytes) {
            inner.outgoing.extend_from_slice(bytes);
        }
        inner.bytes_queued += bytes.len() as u64;
        inner.wake();
        if inner.outgoing.len() - inner.written < Self::ROOM_BYTES {
            return true;
        }
        inner.room = Some(waker.clone());
        false
    }

    /// Whether there is room for more bytes. If not, `waker` is woken when there is.
    pub fn has_room(&self, waker: &Waker) -> bool {
        let mut inner = self.connection.inner.borrow_mut();
        if inner.closed || inner.outgoing.len() - inner.written < Self::ROOM_BYTES {
            return true;
        }
        inner.room = Some(waker.clone());
        false
    }

    /// The request is complete: its reply is due from now on.
    pub fn finish(self, now: Moment) {
        let mut inner = self.connection.inner.borrow_mut();
        let end = inner.bytes_queued;
        inner.leased = false;
        if let Some(entry) = inner.in_flight.back_mut() {
            entry.end = end;
            entry.at = now;
        }
        inner.wake();
    }

    /// The client went away in the middle: the store must not see the beginning of another request after this one. Nobody
    /// waits for a reply, and what a client does is no failure of the node.
    pub fn abandon(self) {
        for entry in &mut self.connection.inner.borrow_mut().in_flight {
            entry.sink = None;
        }
        self.connection.end(&Arc::from("its client went away in the middle of a request"));
    }
}
