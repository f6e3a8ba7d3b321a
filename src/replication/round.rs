//! One question to several replicas, and their answers as they come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::repair::Aftermath;
use super::wire::Call;
use super::{Engine, Members};
use crate::backend::{Backend, Cause, Failure, Flow, Piece, ReplySink, Tag, Wake};
use crate::protocol::resp::Version;

/// What one replica said.
pub(super) type Said = Result<Vec<u8>, Failure>;

struct Inbox<B: Backend> {
    arrived: VecDeque<(usize, Said)>,
    /// Replies that come in pieces.
    partial: Vec<(usize, Vec<u8>)>,
    due: usize,
    waker: Option<Waker>,
    /// Nobody waits any more: who looks at what still comes.
    aftermath: Option<Rc<Aftermath<B>>>,
}

/// Where the answers of one round arrive.
struct Mailbox<B: Backend> {
    origin: usize,
    inbox: RefCell<Inbox<B>>,
}

impl<B: Backend> Mailbox<B> {
    fn deliver(&self, from: usize, said: Said) {
        let mut inbox = self.inbox.borrow_mut();
        inbox.due = inbox.due.saturating_sub(1);
        if let Some(aftermath) = inbox.aftermath.clone() {
            drop(inbox);
            aftermath.judge(from, &said);
            return;
        }
        inbox.arrived.push_back((from, said));
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }
}

impl<B: Backend> ReplySink for Mailbox<B> {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let from = tag.part as usize;
        let gathered = |rest: &[u8]| {
            let mut inbox = self.inbox.borrow_mut();
            let at = inbox.partial.iter().position(|(part, _)| *part == from);
            let mut bytes = at.map(|at| inbox.partial.swap_remove(at).1).unwrap_or_default();
            bytes.extend_from_slice(rest);
            bytes
        };
        match piece {
            Piece::Whole(bytes) => self.deliver(from, Ok(bytes.to_vec())),
            Piece::Begin(bytes) | Piece::More(bytes) => {
                let bytes = gathered(bytes);
                self.inbox.borrow_mut().partial.push((from, bytes));
            }
            Piece::End(bytes) => self.deliver(from, Ok(gathered(bytes))),
            Piece::Failed(failure) => self.deliver(from, Err(failure.clone())),
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.origin
    }
}

/// What a round says to the replica of that number.
pub(super) type Write<'w> = dyn Fn(usize, Call, &mut Vec<u8>) + 'w;

/// One question to several replicas.
pub(super) struct Round<'w, B: Backend> {
    engine: &'w Engine<B>,
    members: &'w Members<B>,
    version: Version,
    /// Replies that one question gets; only the last counts.
    replies: u32,
    write: &'w Write<'w>,
    mailbox: Rc<Mailbox<B>>,
}

impl<'w, B: Backend> Round<'w, B> {
    pub(super) fn new(
        engine: &'w Engine<B>,
        members: &'w Members<B>,
        version: Version,
        origin: usize,
        write: &'w Write<'w>,
    ) -> Self {
        let inbox = Inbox { arrived: VecDeque::new(), partial: Vec::new(), due: 0, waker: None, aftermath: None };
        let mailbox = Rc::new(Mailbox { origin, inbox: RefCell::new(inbox) });
        Self { engine, members, version, replies: 1, write, mailbox }
    }

    /// A round of transactions.
    pub(super) fn of_replies(mut self, replies: u32) -> Self {
        self.replies = replies;
        self
    }

    /// Asks one replica.
    pub(super) fn ask(&self, index: usize) {
        self.send(index, Call::Digest);
    }

    fn send(&self, index: usize, call: Call) {
        let Some(member) = self.members.get(index) else { return };
        let backend = &self.engine.backend;
        let sink: Rc<dyn ReplySink> = Rc::<Mailbox<B>>::clone(&self.mailbox);
        let tag = Tag { slot: 0, part: u32::try_from(index).unwrap_or(u32::MAX) };
        let mut write = |out: &mut Vec<u8>| (self.write)(index, call, out);
        self.mailbox.inbox.borrow_mut().due += 1;
        // How long it is is only known when it is written; what the bound is for is many requests, not one.
        let sent = match self.replies {
            1 => backend.send(&member.node, 256, &mut write, self.version, &sink, tag),
            count => backend.send_transaction(&member.node, 256, count, &mut write, self.version, &sink, tag),
        };
        if let Err(cause) = sent {
            self.mailbox.deliver(index, Err(Failure { node: backend.label(&member.node), cause }));
        }
    }

    /// Nobody waits any more: `aftermath` looks at the answers that are still to come.
    pub(super) fn leave(&self, aftermath: &Rc<Aftermath<B>>) {
        let arrived = {
            let mut inbox = self.mailbox.inbox.borrow_mut();
            inbox.aftermath = Some(Rc::clone(aftermath));
            std::mem::take(&mut inbox.arrived)
        };
        for (from, said) in arrived {
            aftermath.judge(from, &said);
        }
    }

    /// The next answer; none when all that were asked have answered. A store that has forgotten a script is asked again
    /// with its text.
    pub(super) async fn next(&self) -> Option<(usize, Said)> {
        loop {
            let (index, said) = Arrival(&self.mailbox).await?;
            match &said {
                Ok(reply) if lacks_script(reply) => self.send(index, Call::Text),
                _ => return Some((index, said)),
            }
        }
    }
}

/// Whether a store has forgotten a script, also one within a transaction.
fn lacks_script(reply: &[u8]) -> bool {
    const NOSCRIPT: &[u8] = b"-NOSCRIPT";
    let within = || reply.iter().position(|byte| *byte == b'\n').and_then(|at| reply.get(at + 1..));
    match reply.first() {
        Some(b'-') => reply.starts_with(NOSCRIPT),
        Some(b'*') => within().is_some_and(|first| first.starts_with(NOSCRIPT)),
        _ => false,
    }
}

struct Arrival<'m, B: Backend>(&'m Mailbox<B>);

impl<B: Backend> Future for Arrival<'_, B> {
    type Output = Option<(usize, Said)>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inbox = self.0.inbox.borrow_mut();
        if let Some(arrived) = inbox.arrived.pop_front() {
            return Poll::Ready(Some(arrived));
        }
        if inbox.due == 0 {
            return Poll::Ready(None);
        }
        inbox.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Whether a store that gave no answer may have carried out what it was told.
pub(super) fn may_have_arrived(cause: &Cause) -> bool {
    match cause {
        Cause::ServiceTimeout(_) | Cause::Broken(_) => true,
        Cause::Connect(_)
        | Cause::BreakerOpen(_)
        | Cause::QueueTimeout(_)
        | Cause::Overloaded
        | Cause::Behind
        | Cause::Unsent(_) => false,
    }
}

#[derive(Default)]
struct Alarm {
    rung: std::cell::Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wake for Alarm {
    fn wake(self: Rc<Self>) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

struct Sleep(Rc<Alarm>);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.rung.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Waits.
pub(super) async fn sleep<B: Backend>(backend: &B, span: Duration) {
    let alarm = Rc::<Alarm>::default();
    backend.later(span, Rc::<Alarm>::clone(&alarm) as Rc<dyn Wake>);
    Sleep(alarm).await;
}
