//! A connection that one client has to itself, for what a connection to a store remembers: watched keys, a command that
//! blocks, subscriptions.
//!
//! # Invariants
//! - It goes back to the others only when it remembers nothing ([`Exclusive::give_back`]). One that is dropped is closed, and
//!   the store forgets.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use super::connection::Connection;
use super::node::Node;
use crate::backend::{Cause, Failure, Flow, Piece, ReplySink, Tag};

/// A connection of one client. Closed when it is dropped.
pub struct Exclusive {
    connection: Rc<Connection>,
    node: Rc<Node>,
    is_kept: bool,
}

impl Exclusive {
    pub(super) fn new(connection: Rc<Connection>, node: &Rc<Node>) -> Self {
        Self { connection, node: Rc::clone(node), is_kept: false }
    }

    /// The store.
    pub fn node(&self) -> &Rc<Node> {
        &self.node
    }

    /// Whether the connection is gone, and with it what the store remembered.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Sends one request.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    pub fn send(&self, frame: &[u8], sink: &Rc<dyn ReplySink>, tag: Tag) -> Result<(), Cause> {
        self.admit()?;
        self.connection.enqueue(frame, sink, tag, self.node.context.clock.now());
        Ok(())
    }

    /// Sends a request that may block: there is no deadline for its reply. A store that is found to be down ends it.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    pub fn send_patiently(&self, frame: &[u8], sink: &Rc<dyn ReplySink>, tag: Tag) -> Result<(), Cause> {
        self.admit()?;
        self.connection.enqueue_patiently(frame, sink, tag, self.node.context.clock.now());
        Ok(())
    }

    /// Sends a request that is answered by pushes alone, such as `SUBSCRIBE` on a connection that speaks RESP3. A store that
    /// refuses it says so by an error, which goes to who listens; so no other request may be due meanwhile.
    ///
    /// # Errors
    /// What can be refused at once.
    pub fn send_push(&self, frame: &[u8]) -> Result<(), Cause> {
        self.admit()?;
        self.connection.write(frame);
        Ok(())
    }

    /// As [`Node::send_transaction`].
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    pub fn send_transaction(
        &self,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        self.admit()?;
        self.connection.enqueue_transaction(count, write, sink, tag, self.node.context.clock.now());
        Ok(())
    }

    /// Has what the store says unasked (RESP3 pushes) told to `sink`, in pieces if it is long. The sink also hears of the end
    /// of the connection.
    pub fn listen(&self, sink: &Rc<dyn ReplySink>, tag: Tag) {
        self.connection.inner.borrow_mut().pushes = Some((Rc::clone(sink), tag));
    }

    /// One request and its whole reply.
    ///
    /// # Errors
    /// When no reply came.
    pub async fn ask(&self, frame: &[u8]) -> Result<Vec<u8>, Failure> {
        let (sender, answer) = oneshot::channel();
        let sink: Rc<dyn ReplySink> = Rc::new(Answer { sender: RefCell::new(Some(sender)), bytes: RefCell::default() });
        let failure = |cause| Failure { node: Arc::clone(&self.node.options.label), cause };
        self.send(frame, &sink, Tag::default()).map_err(failure)?;
        answer.await.unwrap_or_else(|_| Err(failure(Cause::Broken("closed".into()))))
    }

    /// Asks the store for its number of this connection, if that is not known yet. What is sent next follows at once. `known`
    /// hears of it when the store has answered: it reads by then, and what was sent next is there.
    ///
    /// # Errors
    /// What can be refused at once.
    pub fn identify(&self, known: &Rc<Notify>) -> Result<(), Cause> {
        if self.connection.store_id.get().is_some() {
            known.notify_one();
            return Ok(());
        }
        let sink: Rc<dyn ReplySink> =
            Rc::new(Identity { connection: Rc::downgrade(&self.connection), known: Rc::clone(known) });
        self.send(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", &sink, Tag::default())
    }

    /// The store's number of this connection (`CLIENT ID`); none until the answer to [`Exclusive::identify`] is here.
    pub fn store_id(&self) -> Option<i64> {
        self.connection.store_id.get()
    }

    /// Gives the connection back. The store must remember nothing of this client by now, and owe it no reply.
    pub fn give_back(mut self) {
        self.is_kept = true;
        self.connection.inner.borrow_mut().pushes = None;
        self.node.take_back(&self.connection);
    }

    fn admit(&self) -> Result<(), Cause> {
        if self.connection.is_closed() {
            return Err(Cause::Unsent("closed by the store".into()));
        }
        if self.connection.queued_bytes() > self.node.options.queue_bytes_max {
            return Err(Cause::Overloaded);
        }
        Ok(())
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        {
            let mut inner = self.connection.inner.borrow_mut();
            inner.pushes = None;
            // Nobody waits any more, and what a client does is no failure of the node.
            for entry in &mut inner.in_flight {
                entry.sink = None;
            }
        }
        self.connection.end(&Arc::from("its client is done with it"));
    }
}

/// Takes note of a connection's number.
struct Identity {
    connection: Weak<Connection>,
    known: Rc<Notify>,
}

impl ReplySink for Identity {
    fn reply(self: Rc<Self>, _: Tag, piece: Piece<'_>) -> Flow {
        if let (Piece::Whole(bytes), Some(connection)) = (piece, self.connection.upgrade()) {
            let digits = bytes.strip_prefix(b":").and_then(|line| line.strip_suffix(b"\r\n"));
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            connection.store_id.set(number);
            self.known.notify_one();
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

type Said = Result<Vec<u8>, Failure>;

/// Gathers one reply.
struct Answer {
    sender: RefCell<Option<oneshot::Sender<Said>>>,
    bytes: RefCell<Vec<u8>>,
}

impl Answer {
    fn tell(&self, result: Said) {
        if let Some(sender) = self.sender.take() {
            // Who asked may have stopped waiting.
            drop(sender.send(result));
        }
    }
}

impl ReplySink for Answer {
    fn reply(self: Rc<Self>, _: Tag, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::Whole(bytes) => self.tell(Ok(bytes.to_vec())),
            Piece::Begin(bytes) | Piece::More(bytes) => self.bytes.borrow_mut().extend_from_slice(bytes),
            Piece::End(bytes) => {
                let mut all = self.bytes.take();
                all.extend_from_slice(bytes);
                self.tell(Ok(all));
            }
            Piece::Failed(failure) => self.tell(Err(failure.clone())),
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
