//! Questions to several stores, and their answers when all are there.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::backend::redis::Node;
use crate::backend::{Failure, Flow, Piece, ReplySink, Tag};
use crate::protocol::resp::Version;

/// All answers together. A page of keys has some hundred kilobytes at most, unless keys are very long.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What one question came to.
pub(super) type Answer = Result<Vec<u8>, Miss>;

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Miss {
    /// The store gave none.
    Failed(Failure),
    /// It is longer than what is held.
    TooLong,
}

#[derive(Default)]
struct Part {
    reply: Vec<u8>,
    miss: Option<Miss>,
    settled: bool,
}

#[derive(Default)]
struct Inbox {
    parts: Vec<Part>,
    due: usize,
    bytes: usize,
    waker: Option<Waker>,
}

/// Where the answers arrive.
pub(super) struct Gather {
    origin: usize,
    inbox: RefCell<Inbox>,
}

impl Gather {
    /// For questions that are asked on behalf of a client.
    pub(super) fn new(origin: usize) -> Rc<Self> {
        Rc::new(Self { origin, inbox: RefCell::default() })
    }

    /// A place for one more answer.
    pub(super) fn expect(&self) -> Tag {
        let mut inbox = self.inbox.borrow_mut();
        inbox.parts.push(Part::default());
        inbox.due += 1;
        Tag { slot: 0, part: u32::try_from(inbox.parts.len() - 1).unwrap_or(u32::MAX) }
    }

    /// An answer that was there at once.
    pub(super) fn answer(&self, tag: Tag, reply: &[u8]) {
        self.settle(tag, reply, None);
    }

    /// There will be no answer.
    pub(super) fn fail(&self, tag: Tag, failure: Failure) {
        self.settle(tag, &[], Some(failure));
    }

    /// Asks a store; `replies` are those to one transaction, of which the last is the answer.
    pub(super) fn ask(self: &Rc<Self>, node: &Rc<Node>, replies: u32, write: &mut dyn FnMut(&mut Vec<u8>)) {
        let tag = self.expect();
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let sent = match replies {
            1 => node.send_with(256, write, Version::Resp2, &sink, tag),
            count => node.send_transaction(256, count, write, Version::Resp2, &sink, tag),
        };
        if let Err(cause) = sent {
            let failure = Failure { node: Arc::clone(&node.options().label), cause };
            self.settle(tag, &[], Some(failure));
        }
    }

    /// Waits for all answers, in the order of the questions.
    ///
    /// # Cancel safety
    /// Dropped early it leaves nothing behind: late answers find nobody.
    pub(super) async fn all(&self) -> Vec<Answer> {
        std::future::poll_fn(|context| {
            let mut inbox = self.inbox.borrow_mut();
            if inbox.due == 0 {
                return Poll::Ready(());
            }
            inbox.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        let mut inbox = self.inbox.borrow_mut();
        inbox.bytes = 0;
        inbox.parts.drain(..).map(|part| part.miss.map_or(Ok(part.reply), Err)).collect()
    }

    fn extend(inbox: &mut Inbox, tag: Tag, bytes: &[u8]) {
        inbox.bytes += bytes.len();
        let too_long = inbox.bytes > BYTES_MAX;
        let Some(part) = inbox.parts.get_mut(tag.part as usize).filter(|part| !part.settled) else { return };
        if too_long {
            part.reply = Vec::new();
            part.miss = Some(Miss::TooLong);
        } else {
            part.reply.extend_from_slice(bytes);
        }
    }

    fn settle(&self, tag: Tag, bytes: &[u8], failure: Option<Failure>) {
        let mut inbox = self.inbox.borrow_mut();
        let inbox = &mut *inbox;
        Self::extend(inbox, tag, bytes);
        let Some(part) = inbox.parts.get_mut(tag.part as usize).filter(|part| !part.settled) else { return };
        part.settled = true;
        if let Some(failure) = failure {
            part.miss = Some(Miss::Failed(failure));
        }
        inbox.due -= 1;
        if inbox.due == 0
            && let Some(waker) = inbox.waker.take()
        {
            waker.wake();
        }
    }
}

impl ReplySink for Gather {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::Whole(bytes) | Piece::End(bytes) => self.settle(tag, bytes, None),
            Piece::Begin(bytes) | Piece::More(bytes) => Self::extend(&mut self.inbox.borrow_mut(), tag, bytes),
            Piece::Failed(failure) => self.settle(tag, &[], Some(failure.clone())),
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.origin
    }
}

/// Asks one store one thing.
pub(super) async fn ask(node: &Rc<Node>, origin: usize, replies: u32, write: &mut dyn FnMut(&mut Vec<u8>)) -> Answer {
    let gather = Gather::new(origin);
    gather.ask(node, replies, write);
    gather.all().await.pop().unwrap_or(Err(Miss::TooLong))
}
