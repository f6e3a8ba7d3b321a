//! A wait at one store: on a connection that the client has to itself, for as long as the store does not answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

use super::{End, Job, NOT_BLOCKED, Spot, Unblock, Wish};
use crate::backend::redis::{Exclusive, Node};
use crate::backend::{Context, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::command::blocking::is_nothing;
use crate::coordinator::exchange::Exchange;
use crate::protocol::resp::{Version, write_bulk, write_header};

/// The pause between two requests to a store to end a wait: the first may have overtaken the request that waits.
const PRESS_PAUSE: Duration = Duration::from_millis(20);

/// Passes the store's reply on, and knows when it was the last of it.
struct Relay {
    sink: Rc<dyn ReplySink>,
    tag: Tag,
    /// A reply that says that there was nothing is kept back.
    holds_nothing: Cell<bool>,
    held: RefCell<Option<Vec<u8>>>,
    /// Some of the reply has come.
    has_begun: Cell<bool>,
    end: Cell<Option<Passed>>,
    ended: Notify,
}

/// How the reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// The client has it.
    Whole,
    /// It was kept back.
    Held,
    /// There was none: the client was told why.
    Failed,
}

impl Relay {
    fn new(job: &Job) -> Rc<Self> {
        Rc::new(Self {
            sink: Rc::clone(&job.sink),
            tag: job.tag,
            holds_nothing: Cell::new(false),
            held: RefCell::default(),
            has_begun: Cell::new(false),
            end: Cell::new(None),
            ended: Notify::new(),
        })
    }

    /// Waits for the end of the reply.
    ///
    /// # Cancel safety
    /// Dropped early it may be called again.
    async fn done(&self) -> Passed {
        loop {
            if let Some(end) = self.end.get() {
                return end;
            }
            self.ended.notified().await;
        }
    }

    fn pass(&self, piece: Piece<'_>) -> Flow {
        Rc::clone(&self.sink).reply(self.tag, piece)
    }

    fn finish(&self, end: Passed) {
        self.end.set(Some(end));
        self.ended.notify_one();
    }
}

impl ReplySink for Relay {
    fn reply(self: Rc<Self>, _: Tag, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::Whole(bytes) if self.holds_nothing.get() && is_nothing(bytes) => {
                self.held.replace(Some(bytes.to_vec()));
                self.finish(Passed::Held);
                Flow::Continue
            }
            Piece::Whole(_) | Piece::End(_) => {
                self.finish(Passed::Whole);
                self.pass(piece)
            }
            Piece::Begin(_) | Piece::More(_) => {
                self.has_begun.set(true);
                self.pass(piece)
            }
            Piece::Failed(_) => {
                self.finish(Passed::Failed);
                self.pass(piece)
            }
        }
    }

    fn ready(&self, _: Tag, waker: &Waker) -> bool {
        self.sink.ready(self.tag, waker)
    }

    fn origin(&self) -> usize {
        self.sink.origin()
    }

    fn make_way(&self) {
        self.sink.make_way();
    }
}

/// Until when a store must have obeyed: a request that waits may have to be sent first.
fn patience(exclusive: &Exclusive, context: &Context) -> Moment {
    let options = exclusive.node().options();
    context.clock.tick().after(options.connect_timeout + options.queue_timeout + options.service_timeout)
}

impl Job {
    /// Has a store wait.
    pub(super) async fn wait_at_store(&self, node: &Rc<Node>) -> End {
        let exclusive = match node.exclusive(self.version) {
            Ok(exclusive) => exclusive,
            Err(cause) => {
                self.fail(node, cause);
                return End::Over;
            }
        };
        let relay = Relay::new(self);
        let known = Rc::new(Notify::new());
        let sink: Rc<dyn ReplySink> = Rc::<Relay>::clone(&relay);
        let sent = exclusive
            .identify(&known)
            .and_then(|()| exclusive.send_patiently(&self.frame(self.left()), &sink, Tag::default()));
        if let Err(cause) = sent {
            self.fail(node, cause);
            return End::Over;
        }
        loop {
            let wish = tokio::select! {
                biased; // What the store said came first.
                passed = relay.done() => return Self::ended(exclusive, passed),
                // Whoever sees that this client waits may rely on it that the store has the request.
                () = known.notified() => {
                    self.block.count();
                    continue;
                }
                wish = self.block.wished() => wish,
            };
            match wish {
                Wish::Abandon => return End::Over, // And with the connection what the store keeps for it.
                Wish::Unblock(how, asker) => {
                    let reply = self.unblock(&exclusive, &relay, how).await;
                    // Who asked may have gone.
                    drop(asker.send(reply));
                }
                Wish::Drain => return self.drain(exclusive, &relay).await,
                Wish::Leave => return self.leave(exclusive, &relay).await,
                Wish::Look if self.has_moved(node) => return self.move_on(exclusive, &relay).await,
                Wish::Look => {}
            }
        }
    }

    fn ended(exclusive: Exclusive, passed: Passed) -> End {
        if passed != Passed::Failed {
            exclusive.give_back();
        }
        End::Over
    }

    /// The newest topology has the keys elsewhere.
    fn has_moved(&self, node: &Rc<Node>) -> bool {
        let spot = self.spot(&(self.client.view)());
        !matches!(spot, Ok(Spot::Store(owner)) if Rc::ptr_eq(&owner, node))
    }

    /// `CLIENT UNBLOCK`: the store decides.
    async fn unblock(&self, exclusive: &Exclusive, relay: &Relay, how: Unblock) -> Vec<u8> {
        let deadline = patience(exclusive, &self.coordinator.context);
        loop {
            if let Some(id) = exclusive.store_id() {
                return self.ask_to_unblock(exclusive.node(), id, how).await.unwrap_or_else(|refusal| refusal);
            }
            // The store does not have the request yet.
            let is_done = tokio::time::timeout(PRESS_PAUSE, relay.done()).await.is_ok();
            if is_done || self.coordinator.context.clock.tick() >= deadline {
                return NOT_BLOCKED.to_vec();
            }
        }
    }

    /// The store's answer, or what is to be told in its place.
    async fn ask_to_unblock(&self, node: &Rc<Node>, id: i64, how: Unblock) -> Result<Vec<u8>, Vec<u8>> {
        let exchange = Exchange::new(self.sink.origin());
        let sink = exchange.sink();
        let mut write = |out: &mut Vec<u8>| {
            write_header(out, b'*', 4);
            let how = match how {
                Unblock::Timeout => b"TIMEOUT".as_slice(),
                Unblock::Error => b"ERROR",
            };
            for word in [b"CLIENT".as_slice(), b"UNBLOCK", id.to_string().as_bytes(), how] {
                write_bulk(out, word);
            }
        };
        match node.send_with(64, &mut write, Version::Resp2, &sink, Tag::default()) {
            Ok(()) => {
                drop(sink);
                exchange.answer().await
            }
            Err(cause) => Err(super::failure_reply(node, cause)),
        }
    }

    /// Has the store end the wait. Whether it did, or had before.
    async fn press(&self, exclusive: &Exclusive, relay: &Relay, how: Unblock) -> bool {
        let deadline = patience(exclusive, &self.coordinator.context);
        loop {
            if let Some(id) = exclusive.store_id()
                && !relay.has_begun.get()
            {
                let answer = self.ask_to_unblock(exclusive.node(), id, how).await;
                if relay.end.get().is_none() && !answer.is_ok_and(|reply| reply.starts_with(b":")) {
                    return false;
                }
            }
            if tokio::time::timeout(PRESS_PAUSE, relay.done()).await.is_ok() {
                return true;
            }
            // A reply that is on its way to a client that reads slowly may take as long as any other.
            if self.coordinator.context.clock.tick() >= deadline && !relay.has_begun.get() {
                return false;
            }
        }
    }

    /// The worker drains: the client hears it from the store, or gets what the store had for it.
    async fn drain(&self, exclusive: Exclusive, relay: &Relay) -> End {
        if self.press(&exclusive, relay, Unblock::Error).await {
            return Self::ended(exclusive, relay.done().await);
        }
        drop(exclusive);
        self.answer_unblocked();
        End::Over
    }

    /// The client sends nothing more. The servers close such a connection, unless they have answered before they see it.
    async fn leave(&self, exclusive: Exclusive, relay: &Relay) -> End {
        relay.holds_nothing.set(true);
        if self.press(&exclusive, relay, Unblock::Timeout).await {
            let passed = relay.done().await;
            if passed != Passed::Held {
                return Self::ended(exclusive, passed);
            }
            exclusive.give_back();
        }
        (self.client.close)();
        End::Over
    }

    /// The keys have another owner: what is left of the wait goes there.
    async fn move_on(&self, exclusive: Exclusive, relay: &Relay) -> End {
        relay.holds_nothing.set(true);
        if self.press(&exclusive, relay, Unblock::Timeout).await {
            let passed = relay.done().await;
            if passed != Passed::Held {
                return Self::ended(exclusive, passed);
            }
            exclusive.give_back();
        }
        if self.left().is_some_and(|left| left.is_zero()) {
            match relay.held.take() {
                Some(reply) => self.answer(&reply),
                None => self.answer_timed_out(),
            }
            return End::Over;
        }
        End::Moved
    }
}
