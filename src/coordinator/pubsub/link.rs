//! The connection on which one node is listened to.
//!
//! What a store is to listen to is told to it one request at a time, with all names of one kind that wait: an error is then
//! about that request, and many clients who subscribe at once cost few requests.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::hub::Hub;
use super::message::{self, LONG_BYTES, Said};
use super::{Kind, Message, Name, Push};
use crate::backend::redis::{Exclusive, Node};
use crate::backend::{Cause, Context, Failure, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::protocol::resp::write_request;

/// Names and bytes of one request.
const NAMES_MAX: usize = 512;
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// What is kept of a message that is too long to be kept.
const BEGINNING_BYTES: usize = 4 * LONG_BYTES;
/// How long a store may be silent before it is asked whether it is there: a connection that the network has forgotten says
/// nothing either.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody needs.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The distance of attempts to connect. The node's breaker sees to the rest.
const RETRY: Duration = Duration::from_millis(200);

/// Why a node is not listened to.
type Reason = Rc<Failure>;

/// What a node says of a name.
pub(super) enum Standing {
    /// Nothing yet.
    Due,
    /// It listens to it.
    Listens,
    /// It refused, by this reply.
    Refused(Rc<[u8]>),
    /// It is not there.
    Away(Reason),
}

/// A request that the store has not answered in full.
struct InHand {
    /// `None` if it only asks whether the store is there.
    names: Option<(Kind, Vec<Name>)>,
    due: usize,
    since: Moment,
}

#[derive(Default)]
struct State {
    connection: Option<Exclusive>,
    /// The number of the connection: what an older one has still to say is of no interest.
    generation: u32,
    /// The store has said something on it.
    spoken: bool,
    away: Option<Reason>,
    listens: [HashSet<Name>; 3],
    refused: [HashMap<Name, Rc<[u8]>>; 3],
    /// Names that may have to be told to the store.
    changes: VecDeque<(Kind, Name)>,
    in_hand: Option<InHand>,
    heard_at: Moment,
    needed_at: Moment,
    retry_at: Moment,
}

/// The beginning of a message that is too long to come at once.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    /// Of the whole, also if it is not kept.
    len: usize,
    charged: usize,
    kept: bool,
}

/// See the module.
pub(super) struct Link {
    node: Rc<Node>,
    /// Its number in its pool.
    at: Cell<usize>,
    hub: Weak<Hub>,
    context: Rc<Context>,
    state: RefCell<State>,
    partial: RefCell<Partial>,
}

impl State {
    fn listens(&self, kind: Kind, name: &[u8]) -> bool {
        self.listens.get(kind as usize).is_some_and(|names| names.contains(name))
    }

    fn refused(&self, kind: Kind, name: &[u8]) -> Option<&Rc<[u8]>> {
        self.refused.get(kind as usize)?.get(name)
    }
}

impl Link {
    pub(super) fn new(node: &Rc<Node>, at: usize, hub: &Rc<Hub>) -> Rc<Self> {
        Rc::new(Self {
            node: Rc::clone(node),
            at: Cell::new(at),
            hub: Rc::downgrade(hub),
            context: Rc::clone(&hub.context),
            state: RefCell::default(),
            partial: RefCell::default(),
        })
    }

    pub(super) fn node(&self) -> &Rc<Node> {
        &self.node
    }

    /// The node has another number now.
    pub(super) fn moved_to(&self, at: usize) {
        self.at.set(at);
    }

    /// Whether messages of the node arrive, as far as is known.
    pub(super) fn is_listening(&self) -> bool {
        let state = self.state.borrow();
        state.spoken && state.connection.is_some() && self.node.is_available()
    }

    pub(super) fn standing(&self, kind: Kind, name: &[u8]) -> Standing {
        let state = self.state.borrow();
        match (&state.away, state.refused(kind, name)) {
            (Some(why), _) => Standing::Away(Rc::clone(why)),
            (None, Some(reply)) => Standing::Refused(Rc::clone(reply)),
            (None, None) if state.listens(kind, name) => Standing::Listens,
            (None, None) => Standing::Due,
        }
    }

    /// Who listens to that name has changed: [`Link::work`] looks what the store has to know.
    pub(super) fn changed(&self, kind: Kind, name: &Name) {
        self.state.borrow_mut().changes.push_back((kind, Rc::clone(name)));
    }

    /// Tells the store what it has to know, as far as that can be done now.
    pub(super) fn work(self: &Rc<Self>, hub: &Rc<Hub>) {
        let (is_open, may_try) = {
            let state = self.state.borrow();
            (state.connection.is_some(), state.away.is_none())
        };
        if is_open {
            self.send_next(hub);
        } else if may_try && hub.is_needed() {
            self.connect(hub);
        } else {
            // All is told to it when it is back.
            self.state.borrow_mut().changes.clear();
        }
    }

    fn connect(self: &Rc<Self>, hub: &Rc<Hub>) {
        let now = self.context.clock.now();
        match self.node.subscription() {
            Err(cause) => {
                self.is_away(cause, now);
                hub.settle_waiting();
            }
            Ok(connection) => {
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                {
                    let mut state = self.state.borrow_mut();
                    state.generation = state.generation.wrapping_add(1);
                    connection.listen(&sink, Tag { slot: state.generation, part: 0 });
                    state.connection = Some(connection);
                    state.spoken = false;
                    state.heard_at = now;
                    state.needed_at = now;
                    state.changes.clear();
                }
                for kind in Kind::ALL {
                    hub.names_of(kind, &mut |name| self.changed(kind, name));
                }
                self.send_next(hub);
            }
        }
    }

    fn is_away(&self, cause: Cause, now: Moment) {
        let failure = Failure { node: Arc::clone(&self.node.options().label), cause };
        let mut state = self.state.borrow_mut();
        state.away = Some(Rc::new(failure));
        state.retry_at = now.after(RETRY);
        state.changes.clear();
    }

    /// Sends the next request, if none is under way.
    fn send_next(&self, hub: &Hub) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.in_hand.is_some() {
            return;
        }
        let Some((verb, kind, names)) = self.next_request(state, hub) else { return };
        let mut frame = Vec::new();
        let words = std::iter::once(verb.as_bytes()).chain(names.iter().map(|name| &**name));
        let words: Vec<&[u8]> = words.collect();
        write_request(&mut frame, words.into_iter());
        if let Some(connection) = &state.connection
            && connection.send_push(&frame).is_ok()
        {
            let due = names.len();
            if verb == kind.ends()
                && let Some(listens) = state.listens.get_mut(kind as usize)
            {
                // Who asks for one of them from now on has to wait until the store listens again.
                for name in &names {
                    listens.remove(name);
                }
            }
            state.in_hand = Some(InHand { names: Some((kind, names)), due, since: self.context.clock.now() });
        }
        // What cannot be sent is told by the end of the connection, after which all is told to the store again.
    }

    /// All that waits and goes into one request with the first of it.
    fn next_request(&self, state: &mut State, hub: &Hub) -> Option<(&'static str, Kind, Vec<Name>)> {
        let mut request: Option<(&'static str, Kind)> = None;
        let (mut names, mut bytes) = (Vec::new(), 0);
        while let Some((kind, name)) = state.changes.pop_front() {
            let wanted = hub.wants(self.at.get(), kind, &name);
            if !wanted && let Some(refused) = state.refused.get_mut(kind as usize) {
                refused.remove(&name);
            }
            if wanted == (state.listens(kind, &name) || state.refused(kind, &name).is_some()) {
                continue;
            }
            let verb = if wanted { kind.begins() } else { kind.ends() };
            if *request.get_or_insert((verb, kind)) != (verb, kind) || bytes > REQUEST_BYTES_MAX {
                state.changes.push_front((kind, name));
                break;
            }
            bytes += name.len();
            names.push(name);
            if names.len() >= NAMES_MAX {
                break;
            }
        }
        if state.changes.is_empty() && state.changes.capacity() > NAMES_MAX {
            state.changes = VecDeque::new();
        }
        request.map(|(verb, kind)| (verb, kind, names))
    }

    /// The connection is gone.
    fn lost(self: &Rc<Self>, cause: Cause) {
        let Some(hub) = self.hub.upgrade() else { return };
        let was_listening = {
            let mut state = self.state.borrow_mut();
            let connection = state.connection.take();
            state.generation = state.generation.wrapping_add(1);
            state.in_hand = None;
            state.listens = Default::default();
            state.refused = Default::default();
            state.changes.clear();
            let was_listening = connection.is_some() && std::mem::take(&mut state.spoken);
            drop(connection);
            was_listening
        };
        self.partial.borrow_mut().clear(&self.context);
        if was_listening && hub.is_needed() {
            // At once: a message that is published meanwhile is not heard.
            tracing::info!(node = %self.node.options().label, %cause, "messages of the node are not heard until it is reached again");
            self.connect(&hub);
        } else {
            self.is_away(cause, self.context.clock.now());
        }
        hub.settle_waiting();
    }

    /// Nobody needs the connection.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        let generation = state.generation.wrapping_add(1);
        *state = State { generation, ..State::default() };
        self.partial.borrow_mut().clear(&self.context);
    }

    pub(super) fn keep_house(self: &Rc<Self>, hub: &Rc<Hub>) {
        let now = self.context.clock.now();
        let options = self.node.options();
        let patience = options.connect_timeout + options.queue_timeout + options.service_timeout;
        let needed = hub.is_needed();
        let (is_open, idle, overdue, silent, retry) = {
            let mut state = self.state.borrow_mut();
            if needed {
                state.needed_at = now;
            }
            let idle = now.since(state.needed_at) > IDLE_MAX && state.in_hand.is_none();
            let overdue = state.in_hand.as_ref().is_some_and(|in_hand| now.since(in_hand.since) > patience);
            let silent = now.since(state.heard_at) > SILENT_MAX && state.in_hand.is_none();
            (state.connection.is_some(), idle, overdue, silent, now >= state.retry_at)
        };
        if !is_open {
            if needed && retry && self.node.is_available() {
                self.connect(hub);
            }
        } else if idle {
            self.close();
        } else if overdue {
            self.lost(Cause::ServiceTimeout(patience));
        } else if silent {
            self.ask_whether_it_is_there(now);
        } else {
            self.send_next(hub);
        }
    }

    fn ask_whether_it_is_there(self: &Rc<Self>, now: Moment) {
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut state = self.state.borrow_mut();
        let tag = Tag { slot: state.generation, part: 1 };
        if let Some(connection) = &state.connection
            && connection.send(b"*1\r\n$4\r\nPING\r\n", &sink, tag).is_ok()
        {
            state.in_hand = Some(InHand { names: None, due: 1, since: now });
        }
    }

    /// What the store said, whole.
    fn said(&self, frame: &[u8], push: Push<'_>) {
        let Some(hub) = self.hub.upgrade() else { return };
        let said = message::read(frame);
        {
            let mut state = self.state.borrow_mut();
            state.heard_at = self.context.clock.now();
            state.spoken = true;
            state.away = None;
        }
        match said {
            Said::Message { .. } => hub.heard(self.at.get(), &said, push),
            Said::Begun { kind, name } => self.answered(&hub, kind, name, true),
            Said::Ended { kind, name } => self.answered(&hub, kind, name, false),
            Said::Refused => self.refused(&hub, frame),
            Said::Other => {}
        }
    }

    /// The store listens to a name now, or does not any more.
    fn answered(&self, hub: &Rc<Hub>, kind: Kind, name: &[u8], listens: bool) {
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            // Answers come in the order of the names. Of one that is too long to be kept the beginning is here.
            let asked = state.in_hand.as_ref().and_then(|in_hand| {
                let (_, names) = in_hand.names.as_ref()?;
                names.get(names.len() - in_hand.due).filter(|asked| asked.starts_with(name)).cloned()
            });
            if let Some(names) = state.listens.get_mut(kind as usize) {
                if listens {
                    names.insert(asked.unwrap_or_else(|| Rc::from(name)));
                } else {
                    names.remove(name);
                }
            }
            let Some(in_hand) = state.in_hand.as_mut() else { return };
            in_hand.due = in_hand.due.saturating_sub(1);
            if in_hand.due > 0 {
                return;
            }
            state.in_hand = None;
        }
        self.send_next(hub);
        hub.settle_waiting();
    }

    /// The store refuses the request that is in hand.
    fn refused(&self, hub: &Rc<Hub>, reply: &[u8]) {
        {
            let mut state = self.state.borrow_mut();
            let Some(InHand { names: Some((kind, names)), .. }) = state.in_hand.take() else { return };
            let reply: Rc<[u8]> = Rc::from(reply);
            if let Some(refused) = state.refused.get_mut(kind as usize) {
                refused.extend(names.into_iter().map(|name| (name, Rc::clone(&reply))));
            }
        }
        self.send_next(hub);
        hub.settle_waiting();
    }

    fn is_there(&self) {
        let Some(hub) = self.hub.upgrade() else { return };
        {
            let mut state = self.state.borrow_mut();
            state.in_hand = None;
            state.heard_at = self.context.clock.now();
        }
        self.send_next(&hub);
    }

    /// A part of a long message.
    fn gather(&self, bytes: &[u8]) {
        if let Some(hub) = self.hub.upgrade() {
            self.partial.borrow_mut().extend(bytes, hub.message_bytes_max.get(), &self.context);
        }
    }

    fn gathered(&self) {
        let mut partial = std::mem::take(&mut *self.partial.borrow_mut());
        self.context.released(std::mem::take(&mut partial.charged));
        if partial.kept {
            let mut bytes = partial.bytes;
            bytes.shrink_to_fit();
            let message = Message::new(bytes, &self.context);
            self.said(message.frame(), Push::Long(&message));
        } else {
            self.said(&partial.bytes, Push::TooLong(partial.len));
        }
    }
}

impl Partial {
    fn extend(&mut self, bytes: &[u8], most: usize, context: &Context) {
        if self.len == 0 {
            self.kept = true;
        }
        self.len += bytes.len();
        if self.kept && self.len <= most {
            self.bytes.extend_from_slice(bytes);
        } else if self.kept {
            // The beginning says whom it is for; that is all that is needed of it.
            self.kept = false;
            let room = BEGINNING_BYTES.saturating_sub(self.bytes.len()).min(bytes.len());
            self.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
            self.bytes.truncate(BEGINNING_BYTES);
            self.bytes.shrink_to_fit();
        }
        context.buffered(self.bytes.capacity());
        context.released(std::mem::replace(&mut self.charged, self.bytes.capacity()));
    }

    fn clear(&mut self, context: &Context) {
        context.released(self.charged);
        *self = Self::default();
    }
}

impl ReplySink for Link {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        if tag.slot != self.state.borrow().generation {
            return Flow::Continue;
        }
        match (tag.part, piece) {
            (_, Piece::Failed(failure)) => self.lost(failure.cause.clone()),
            (0, Piece::Whole(frame)) if frame.len() < LONG_BYTES => self.said(frame, Push::Short(frame)),
            (0, Piece::Begin(bytes) | Piece::More(bytes)) => self.gather(bytes),
            (0, Piece::Whole(bytes) | Piece::End(bytes)) => {
                self.gather(bytes);
                self.gathered();
            }
            _ => self.is_there(),
        }
        Flow::Continue
    }

    fn ready(&self, _: Tag, _: &Waker) -> bool {
        true
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn make_way(&self) {}
}
