//! Requests that any one replica may answer: reads of a low level, and what every store refuses in its own words.
//!
//! # Invariants
//! - A replica that fails before its reply has begun leaves the request to the next one, as long as there is one.
//! - Those that may lack something are asked after those that do not.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::Waker;

use smallvec::SmallVec;

use super::{Asker, Engine, Group, Member, Request, Taken};
use crate::backend::{Backend, Flow, Piece, ReplySink, Tag};
use crate::command::reply;
use crate::protocol::resp::Version;

/// Kept for the next request, and the largest buffer that is kept.
const KEPT_MAX: usize = 1024;
const KEPT_BYTES_MAX: usize = 4096;

/// Those that were answered, for the next ones.
pub(super) struct Pool<B: Backend> {
    done: RefCell<Vec<Rc<Anyone<B>>>>,
}

impl<B: Backend> Default for Pool<B> {
    fn default() -> Self {
        Self { done: RefCell::default() }
    }
}

struct Inner<B: Backend> {
    asker: Option<Asker>,
    frame: Vec<u8>,
    version: Version,
    /// Who has not been asked, the best last.
    left: SmallVec<[Rc<Member<B>>; 3]>,
    begun: bool,
}

/// One request.
pub(super) struct Anyone<B: Backend> {
    engine: Weak<Engine<B>>,
    inner: RefCell<Inner<B>>,
}

impl<B: Backend> Engine<B> {
    /// Sends a request to one replica as it came.
    pub(super) fn pass_on(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Taken {
        let asker = Asker { sink: Rc::clone(sink), tag };
        self.ask_anyone(request.group, &request.members, request.frame, request.version, asker, out)
    }

    /// Has any store of a pool answer.
    pub fn ask_any_store(
        self: &Rc<Self>,
        group: &Rc<Group<B>>,
        frame: &[u8],
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Taken {
        let asker = Asker { sink: Rc::clone(sink), tag };
        self.ask_anyone(group, &group.members, frame, version, asker, out)
    }

    fn ask_anyone(
        self: &Rc<Self>,
        group: &Rc<Group<B>>,
        members: &[Rc<Member<B>>],
        frame: &[u8],
        version: Version,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> Taken {
        self.send_gathered(); // It may be about a key that is written there.
        let pending = self.asked.done.borrow_mut().pop().unwrap_or_else(|| {
            let inner = Inner { asker: None, frame: Vec::new(), version, left: SmallVec::new(), begun: false };
            Rc::new(Anyone { engine: Rc::downgrade(self), inner: RefCell::new(inner) })
        });
        {
            let mut inner = pending.inner.borrow_mut();
            inner.asker = Some(asker);
            inner.frame.clear();
            inner.frame.extend_from_slice(frame);
            inner.version = version;
            inner.begun = false;
            inner.left.clear();
            inner.left.extend(members.iter().rev().map(Rc::clone));
            let is_poor = |member: &Rc<Member<B>>| {
                let usable = member.votes() && self.backend.is_available(&member.node);
                (!usable, usable && group.is_behind(member))
            };
            // Often the first one will do, and nothing moves.
            if members.first().is_none_or(|first| is_poor(first) != (false, false)) {
                inner.left.sort_by_key(|member| std::cmp::Reverse(is_poor(member)));
            }
        }
        if pending.ask(self, out) {
            return Taken::Sent;
        }
        pending.finish(self);
        Taken::Answered
    }
}

impl<B: Backend> Anyone<B> {
    /// Asks the next one. If nobody takes it, why not is appended.
    fn ask(self: &Rc<Self>, engine: &Engine<B>, out: &mut Vec<u8>) -> bool {
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut trouble = None;
        loop {
            let next = self.inner.borrow_mut().left.pop();
            let Some(member) = next else { break };
            let inner = self.inner.borrow();
            let mut write = |out: &mut Vec<u8>| out.extend_from_slice(&inner.frame);
            let tag = Tag { slot: 0, part: 0 };
            match engine.backend.send(&member.node, inner.frame.len(), &mut write, inner.version, &sink, tag) {
                Ok(()) => return true,
                Err(cause) => trouble = Some((member, cause)),
            }
        }
        match trouble {
            Some((member, cause)) => reply::node_failed(out, &engine.backend.label(&member.node), &cause),
            None => reply::no_pool(out),
        }
        false
    }

    fn finish(self: &Rc<Self>, engine: &Engine<B>) {
        let mut inner = self.inner.borrow_mut();
        inner.asker = None;
        inner.left.clear();
        if inner.frame.capacity() > KEPT_BYTES_MAX {
            inner.frame = Vec::new();
        }
        let mut done = engine.asked.done.borrow_mut();
        if done.len() < KEPT_MAX {
            done.push(Rc::clone(self));
        }
    }
}

impl<B: Backend> ReplySink for Anyone<B> {
    fn reply(self: Rc<Self>, _tag: Tag, piece: Piece<'_>) -> Flow {
        let Some(engine) = self.engine.upgrade() else { return Flow::Continue };
        let (asker, begun) = {
            let mut inner = self.inner.borrow_mut();
            let begun = std::mem::replace(&mut inner.begun, true);
            (inner.asker.clone(), begun)
        };
        let Some(asker) = asker else { return Flow::Continue };
        if let Piece::Failed(_) = &piece
            && !begun
        {
            let mut refusal = Vec::new();
            self.inner.borrow_mut().begun = false;
            if !self.inner.borrow().left.is_empty() && self.ask(&engine, &mut refusal) {
                return Flow::Continue;
            }
        }
        if matches!(piece, Piece::Whole(_) | Piece::End(_) | Piece::Failed(_)) {
            self.finish(&engine);
        }
        asker.sink.reply(asker.tag, piece)
    }

    fn ready(&self, _tag: Tag, waker: &Waker) -> bool {
        let asker = self.inner.borrow().asker.clone();
        asker.is_none_or(|asker| asker.sink.ready(asker.tag, waker))
    }

    fn origin(&self) -> usize {
        self.inner.borrow().asker.as_ref().map_or(0, |asker| asker.sink.origin())
    }

    fn make_way(&self) {
        let asker = self.inner.borrow().asker.clone();
        if let Some(asker) = asker {
            asker.sink.make_way();
        }
    }
}
