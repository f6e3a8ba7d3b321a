//! One program that is run by its digest or name: where the store does not have it, it may be given it and asked again.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;

use smallvec::SmallVec;

use super::heal::NotFound;
use super::{Homes, Name};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::{Args, Row};
use crate::coordinator::{Coordinator, Request, Target, Verdict};
use crate::protocol::resp::Version;
use crate::quorum::Level;
use crate::topology::View;

/// Requests beyond this are not kept to be sent once more.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Stands between the store and the client, and knows the request by heart if it is not too long.
pub(super) struct Call {
    pub(super) coordinator: Rc<Coordinator>,
    pub(super) view: Rc<View>,
    pub(super) listener: usize,
    pub(super) name: Name,
    pub(super) homes: Homes,
    pub(super) sink: Rc<dyn ReplySink>,
    /// Empty if the request is too long to be kept.
    frame: Vec<u8>,
    tag: Tag,
    bounds: SmallVec<[(u32, u32); 8]>,
    row: &'static Row,
    version: Version,
    level: Option<Level>,
    is_keyless: bool,
    /// The homes were known to have it.
    known: bool,
    /// Nothing that the client sends later leaves before this is answered.
    held: bool,
    begun: Cell<bool>,
}

impl Call {
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub(super) fn new(
        coordinator: &Rc<Coordinator>,
        view: &Rc<View>,
        listener: usize,
        request: &Request<'_>,
        is_keyless: bool,
        name: Name,
        homes: Homes,
        known: bool,
        held: bool,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Rc<Self> {
        let kept = request.frame.len() <= KEPT_BYTES_MAX;
        let frame = if kept { request.frame.to_vec() } else { Vec::new() };
        coordinator.context.buffered(frame.len());
        Rc::new(Self {
            coordinator: Rc::clone(coordinator),
            view: Rc::clone(view),
            listener,
            name,
            homes,
            sink: Rc::clone(sink),
            frame,
            tag,
            bounds: request.args.bounds().into(),
            row: request.row,
            version: request.version,
            level: request.level,
            is_keyless,
            known,
            held,
            begun: Cell::new(false),
        })
    }

    /// Whether the store says that it does not have the program. Then it has not run.
    fn is_missing(&self, reply: &[u8]) -> bool {
        match &self.name {
            Name::Script(_) => reply.starts_with(b"-NOSCRIPT No matching script."),
            Name::Function(_) => reply == b"-ERR Function not found\r\n",
        }
    }

    fn missed(self: Rc<Self>, reply: &[u8]) -> Flow {
        self.forget();
        if !self.can_be_found() {
            return Rc::clone(&self.sink).reply(self.tag, Piece::Whole(reply));
        }
        let context = Rc::clone(&self.coordinator.context);
        if self.frame.is_empty() || !self.held && !self.sink.hold(self.tag) {
            // It cannot be sent again, or would come after what the client sent later. The next request finds the program.
            let flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(reply));
            context.spawn(async move { drop(self.heal().await) });
            return flow;
        }
        let reply = reply.to_vec();
        context.spawn(async move {
            match self.heal().await {
                Ok(()) => self.run_again(),
                Err(NotFound) => {
                    let _: Flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(&reply));
                }
            }
        });
        Flow::Continue
    }

    /// Whether a word stands anywhere in the request.
    pub(super) fn says(&self, word: &[u8]) -> bool {
        memchr::memmem::find(&self.frame, word).is_some()
    }

    /// Sends the request once more; what comes of it goes to the client as it is.
    fn run_again(&self) {
        let mut out = Vec::new();
        if let Some(listener) = self.view.topology.listener(self.listener) {
            let target = Target { view: &self.view, listener };
            let request = Request {
                frame: &self.frame,
                args: Args::new(&self.frame, &self.bounds),
                row: self.row,
                version: self.version,
                level: self.level,
            };
            if let Name::Script(digest) = &self.name {
                // Right before it, so that nothing comes between.
                self.forget();
                self.coordinator.load_ahead(*digest, &self.homes, &request, &self.sink);
            }
            let (keyless, slot) = (self.is_keyless, self.tag.slot);
            let verdict = self.coordinator.send_program(&target, &request, keyless, &self.sink, slot, &mut out);
            if verdict == Verdict::Sent {
                return;
            }
        }
        let _: Flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(&out));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.coordinator.context.released(self.frame.len());
    }
}

impl ReplySink for Call {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        match &piece {
            Piece::Whole(reply) if !self.begun.get() && self.is_missing(reply) => return self.missed(reply),
            Piece::Whole(reply) if !self.known && reply.first() != Some(&b'-') => self.note(),
            Piece::End(_) if !self.known => self.note(),
            Piece::Begin(_) => self.begun.set(true),
            _ => {}
        }
        Rc::clone(&self.sink).reply(tag, piece)
    }

    fn ready(&self, tag: Tag, waker: &Waker) -> bool {
        self.sink.ready(tag, waker)
    }

    fn origin(&self) -> usize {
        self.sink.origin()
    }

    fn make_way(&self) {
        self.sink.make_way();
    }
}

impl Call {
    fn forget(&self) {
        for node in &self.homes {
            node.forget_program(self.name.number());
        }
    }

    /// It ran: the homes have it.
    fn note(&self) {
        for node in &self.homes {
            node.note_program(self.name.number());
        }
    }
}
