//! Requests that may wait, and what a session does meanwhile: it goes on reading, so as to notice when its client leaves,
//! and serves nothing.

use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use tokio::sync::oneshot;

use super::clients::{Ask, number};
use super::intake::Obstacle;
use super::local::{Local, answer_later};
use super::requests::{Handled, verb_of};
use super::session::Session;
use super::worker::{Order, Worker};
use crate::backend::ReplySink;
use crate::command::{Args, Row, reply};
use crate::coordinator::{BlockedClient, Request, Unblock};
use crate::metrics::Outcome;
use crate::topology::View;

/// How much of what a waiting client sends is read. With more, its end is noticed only when it has been answered.
const READ_AHEAD_BYTES: usize = 64 * 1024;

impl Session {
    /// What may wait is neither overtaken by what came before it nor by what comes after it.
    pub(super) fn handle_blocking(self: &Rc<Self>, view: &Rc<View>, request: &Request<'_>) -> Handled {
        {
            let mut inner = self.inner.borrow_mut();
            if !inner.output.slots.is_empty() {
                inner.obstacle = Obstacle::Due;
                return Handled::NotYet;
            }
            inner.alone = true;
        }
        // How long a client waits for others says nothing of how long requests take.
        let slot = self.open_slot(verb_of(request.row).as_other());
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let (viewer, closer) = (Rc::clone(self), Rc::clone(self));
        let client = BlockedClient {
            listener: self.listener,
            view: Box::new(move || viewer.view()),
            close: Box::new(move || closer.close()),
        };
        let block = self.worker.coordinator.dispatch_blocking(view, request, client, &sink, slot);
        self.inner.borrow_mut().block = Some(block);
        Handled::Yes
    }

    /// Closes the connection without a word.
    fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.broken = true;
        inner.wake();
    }

    /// Reads on while the client waits, up to a bound.
    pub(super) fn read_ahead(&self, context: &mut TaskContext<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let room = READ_AHEAD_BYTES.saturating_sub(inner.input.len());
        if inner.ended {
            inner.block.iter().for_each(|block| block.leave());
        }
        let Some(stream) = inner.stream.as_mut().filter(|_| room > 0 && !inner.ended) else { return Poll::Pending };
        let mut scratch = self.worker.context.take_scratch();
        let room = room.min(scratch.len());
        let polled = stream.poll_read(context, scratch.get_mut(..room).unwrap_or_default());
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => inner.ended = true,
            // The client is gone; there is nobody to tell.
            Poll::Ready(Err(_)) => inner.broken = true,
            Poll::Ready(Ok(got)) => {
                self.seen.set(self.worker.context.clock.tick());
                self.cells.received_bytes.add(got as u64);
                inner.input.extend_from_slice(scratch.get(..got).unwrap_or_default());
            }
        }
        self.worker.context.return_scratch(scratch);
        if polled.is_pending() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Worker {
    /// Ends the wait of a client of this worker.
    pub(super) fn unblock(&self, id: u64, how: Unblock, answer: oneshot::Sender<Vec<u8>>) {
        let block = self.sessions.borrow().get(&id).map(|session| session.inner.borrow().block.clone());
        match block {
            None => {}
            Some(Some(block)) => block.unblock(how, answer),
            // Who asked may have gone.
            Some(None) => drop(answer.send(b":0\r\n".to_vec())),
        }
    }
}

/// `CLIENT UNBLOCK id [TIMEOUT | ERROR]`: whichever worker has the client answers.
pub(super) fn unblock(session: &Rc<Session>, row: &Row, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let how = match args.len() {
        3 => Unblock::Timeout,
        4 if args.is_word(3, "TIMEOUT") => Unblock::Timeout,
        4 if args.is_word(3, "ERROR") => Unblock::Error,
        4 => {
            reply::unblock_reason(out);
            return Local::Reply(Outcome::Refused);
        }
        _ => {
            reply::subcommand_syntax(out, args);
            return Local::Reply(Outcome::Refused);
        }
    };
    let Some(id) = args.get(2).and_then(number) else {
        reply::not_an_integer(out);
        return Local::Reply(Outcome::Refused);
    };
    answer_later(session, row, move |session| async move {
        for other in &session.worker.fleet.workers {
            let (sender, answer) = oneshot::channel();
            let Ok(id) = u64::try_from(id) else { break };
            if other.send(Order::Ask(Ask::Unblock(id, how, sender))).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
        }
        b":0\r\n".to_vec()
    })
}
