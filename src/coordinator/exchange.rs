//! One request of a task, and its whole reply.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::oneshot;

use super::write_failure;
use crate::backend::{Flow, Piece, ReplySink, Tag};

/// The whole reply, or the error that a client is told in its place.
type Said = Result<Vec<u8>, Vec<u8>>;

/// A place for one reply. The request was made for a client.
pub struct Exchange {
    inbox: Rc<Inbox>,
    answer: oneshot::Receiver<Said>,
}

struct Inbox {
    origin: usize,
    bytes: RefCell<Vec<u8>>,
    sender: RefCell<Option<oneshot::Sender<Said>>>,
}

impl Exchange {
    /// A place for the reply to a request that is made for that client.
    pub fn new(origin: usize) -> Self {
        let (sender, answer) = oneshot::channel();
        let inbox = Inbox { origin, bytes: RefCell::default(), sender: RefCell::new(Some(sender)) };
        Self { inbox: Rc::new(inbox), answer }
    }

    /// Who hears the reply.
    pub fn sink(&self) -> Rc<dyn ReplySink> {
        Rc::<Inbox>::clone(&self.inbox)
    }

    /// Waits for the reply. Every request that was sent has one, or a failure.
    ///
    /// # Errors
    /// The error that a client is told of a failure.
    pub async fn answer(self) -> Said {
        drop(self.inbox);
        self.answer.await.unwrap_or_else(|_| Err(b"-ERR the request was given up\r\n".to_vec()))
    }
}

impl Inbox {
    fn tell(&self, said: Said) {
        if let Some(sender) = self.sender.take() {
            // Who asked may have stopped waiting.
            drop(sender.send(said));
        }
    }
}

impl ReplySink for Inbox {
    fn reply(self: Rc<Self>, _: Tag, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::Whole(bytes) => self.tell(Ok(bytes.to_vec())),
            Piece::Begin(bytes) | Piece::More(bytes) => self.bytes.borrow_mut().extend_from_slice(bytes),
            Piece::End(bytes) => {
                let mut all = self.bytes.take();
                all.extend_from_slice(bytes);
                self.tell(Ok(all));
            }
            Piece::Failed(failure) => {
                let mut out = Vec::new();
                let _: crate::metrics::Outcome = write_failure(failure, &mut out);
                self.tell(Err(out));
            }
        }
        Flow::Continue
    }

    fn ready(&self, _: Tag, _: &Waker) -> bool {
        true
    }

    fn origin(&self) -> usize {
        self.origin
    }

    fn make_way(&self) {}
}
