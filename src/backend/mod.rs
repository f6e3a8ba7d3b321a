//! Calls to stores. A request leaves through [`redis::Node::send`]; its reply comes back, in pieces if it is big, to the
//! [`ReplySink`] that was handed over with it.
//!
//! # Invariants
//! - A sink hears of each request exactly once: pieces that end in a whole reply, or a [`Failure`].
//! - `send` never calls the sink; what can be refused at once is returned as an error.
//! - A sink may send from within [`ReplySink::reply`], to any node.
//! - Replies of one connection arrive in the order of its requests, and a late reply finds its own entry or none.

mod context;
pub mod embedded;
pub mod redis;
mod stores;
mod stream;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub use context::{Context, Limits};
pub use stores::Stores;
pub use stream::Stream;

use crate::clock::Moment;
use crate::protocol::resp::Version;

/// What a coordinator needs of the world outside it: stores, clocks, timers. One implementation is a worker's
/// ([`Stores`]), another may be a simulation's.
pub trait Backend: 'static {
    /// A handle to one store.
    type Node: 'static;

    /// Sends a request that `write` appends to what waits to be sent; `bytes` is about how long it is.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    fn send(
        &self,
        node: &Rc<Self::Node>,
        bytes: usize,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause>;

    /// Sends several requests in one piece, such as `MULTI` … `EXEC`, to which `count` replies come. The sink gets the
    /// last of them; if one before it is an error, it gets the first such error instead and the rest is dropped.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    #[expect(clippy::too_many_arguments, reason = "what `send` takes, and the number of replies")]
    fn send_transaction(
        &self,
        node: &Rc<Self::Node>,
        bytes: usize,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause>;

    /// Whether the store is believed to answer. One that is not refuses at once, so that a read chooses others.
    fn is_available(&self, node: &Rc<Self::Node>) -> bool;

    /// The node and its address, as people read it.
    fn label(&self, node: &Rc<Self::Node>) -> Arc<str>;

    /// The node's identity in its pool.
    fn name<'n>(&self, node: &'n Rc<Self::Node>) -> &'n str;

    /// How many connections to the store were opened so far. When it has changed, the store may have been restarted,
    /// or be another one.
    fn generation(&self, node: &Rc<Self::Node>) -> u64;

    /// The moment at which the current batch of work began. Never goes back.
    fn now(&self) -> Moment;

    /// Unix time of that moment in milliseconds. Goes back only when the machine's clock was set back.
    fn wall_ms(&self) -> u64;

    /// A random number. Not for secrets.
    fn random(&self) -> u64;

    /// Calls [`Wake::wake`] once when `after` has passed, on this worker's thread and never from within this call. A
    /// worker that drains waits for it, so `after` has to be short.
    fn later(&self, after: Duration, wake: Rc<dyn Wake>);

    /// Runs a task on this worker's thread. A worker that drains waits for it.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>);
}

/// Who waits for a time to pass.
pub trait Wake {
    /// It has passed.
    fn wake(self: Rc<Self>);
}

/// Names one request towards its sink: the sink chooses it and gets it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    /// Which of the sink's requests.
    pub slot: u32,
    /// Which part of that request.
    pub part: u32,
}

/// What a sink is told of one request.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The whole reply.
    Whole(&'a [u8]),
    /// The beginning of a reply that is too big to wait for.
    Begin(&'a [u8]),
    /// More of it.
    More(&'a [u8]),
    /// The rest of it.
    End(&'a [u8]),
    /// There will be no (further) reply.
    Failed(&'a Failure),
}

/// What a sink answers to a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// The sink holds as much as it may: ask [`ReplySink::ready`] before more of *this* reply comes.
    Pause,
}

/// Who waits for replies: a client's session, or one part of a command that was split.
pub trait ReplySink {
    /// Takes a piece of the reply to `tag`.
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow;

    /// Whether the paused reply to `tag` may go on; if not, `waker` is woken when it may. A sink that never pauses leaves it as
    /// it is.
    fn ready(&self, _tag: Tag, _waker: &Waker) -> bool {
        true
    }

    /// The client that the request is made for: its requests for one key must not overtake each other. Asked for while
    /// any sink sends, this one among them.
    fn origin(&self) -> usize;

    /// Asks that nothing which the client sends later leaves before this request is answered. Whether it is so: not if
    /// something has left already. A request that may have to be sent once more can be then, and overtakes nothing.
    fn hold(&self, _tag: Tag) -> bool {
        false
    }

    /// The reply to a paused request has stood still for too long, and replies to others wait behind it: the sink has to
    /// take it now, or give it up. Told while any sink sends, this one among them.
    fn make_way(&self) {}
}

/// A request that got no reply.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The node and its address, as people read it.
    pub node: Arc<str>,
    /// Why.
    pub cause: Cause,
}

/// Why a request got no reply. What a caller must know is whether the store may have executed it.
#[derive(Debug, Clone)]
pub enum Cause {
    /// No connection: not sent.
    Connect(Arc<str>),
    /// The breaker is open: not sent.
    BreakerOpen(Arc<str>),
    /// It waited longer than `queue_timeout_ms` to be sent: not sent.
    QueueTimeout(Duration),
    /// As much as may wait for this node waits already: not sent.
    Overloaded,
    /// An earlier request of the same client waits on a connection that stands still; overtaking it could reorder
    /// them: not sent.
    Behind,
    /// Sent, and no reply within `service_timeout_ms`: may have been executed.
    ServiceTimeout(Duration),
    /// The connection broke before it was sent in full: not executed.
    Unsent(Arc<str>),
    /// The connection broke after it was sent: may have been executed.
    Broken(Arc<str>),
}

impl Cause {
    /// Whether the store may have executed the request.
    pub fn may_be_applied(&self) -> bool {
        match self {
            Self::ServiceTimeout(_) | Self::Broken(_) => true,
            Self::Connect(_)
            | Self::BreakerOpen(_)
            | Self::QueueTimeout(_)
            | Self::Overloaded
            | Self::Behind
            | Self::Unsent(_) => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::BreakerOpen(why) => write!(f, "unavailable: {why}"),
            Self::QueueTimeout(span) => write!(f, "busy: the request was not sent within {} ms", span.as_millis()),
            Self::Overloaded => write!(f, "overloaded: too many requests wait for it"),
            Self::Behind => write!(f, "stalled: an earlier command of this connection still waits for it"),
            Self::ServiceTimeout(span) => {
                write!(
                    f,
                    "timed out: no reply within {} ms, the command may or may not have been applied",
                    span.as_millis()
                )
            }
            Self::Unsent(why) => write!(f, "connection lost: {why}, the command was not applied"),
            Self::Broken(why) => write!(f, "connection lost: {why}, the command may or may not have been applied"),
        }
    }
}
