//! The connections on which one node tells of keys that have changed: one as a rule, and a second while it has to tell of
//! more keys than before. The first is kept until the second tells of all, so that nothing falls between the two.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::cover::Cover;
use super::message::{self, Said};
use super::{Lapse, Tracking};
use crate::backend::redis::{Exclusive, Node};
use crate::backend::{Cause, Context, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::protocol::resp::write_request;

/// How long a store may be silent before it is asked whether it is there: a connection that the network has forgotten says
/// nothing either, and meanwhile clients hold what may have changed.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// How long a connection is kept that nobody needs.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The distance of attempts to connect. The node's breaker sees to the rest.
const RETRY: Duration = Duration::from_millis(200);
/// The same for a store that does not tell of changes at all.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// A longer list of keys is not kept: it counts as all keys.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// Which of the requests on a connection an answer is to.
const PUSHES: u32 = 0;
const BEGIN: u32 = 1;
const PING: u32 = 2;
const LAST_PING: u32 = 3;

/// Whether a node tells of some keys.
pub(super) enum Standing {
    /// It has not answered yet.
    Due,
    /// It does.
    Tells,
    /// It refuses to, by this reply.
    Refused(Rc<[u8]>),
    /// It is not there.
    Away,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The store has not confirmed it.
    Asked,
    Tells,
    /// Another tells of all that it tells of; what it has said before that is still on its way.
    Leaving,
}

struct Line {
    exclusive: Exclusive,
    generation: u32,
    cover: Cover,
    phase: Phase,
    since: Moment,
    /// The beginning of a list that does not come at once.
    list: Vec<u8>,
    is_too_long: bool,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    generation: u32,
    refused: Option<Rc<[u8]>>,
    is_away: bool,
    heard_at: Moment,
    needed_at: Moment,
    retry_at: Moment,
    /// When the store was asked whether it is there, if it has not answered.
    pinged: Option<Moment>,
}

/// See the module.
pub(super) struct Link {
    node: Rc<Node>,
    pool: Cell<usize>,
    tracking: Weak<Tracking>,
    context: Rc<Context>,
    state: RefCell<State>,
}

impl State {
    fn line(&mut self, generation: u32) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.generation == generation)
    }

    fn tells(&self, what: impl Fn(&Cover) -> bool) -> bool {
        self.lines.iter().any(|line| line.phase == Phase::Tells && what(&line.cover))
    }
}

impl Link {
    pub(super) fn new(node: &Rc<Node>, pool: usize, tracking: &Rc<Tracking>) -> Rc<Self> {
        Rc::new(Self {
            node: Rc::clone(node),
            pool: Cell::new(pool),
            tracking: Rc::downgrade(tracking),
            context: Rc::clone(&tracking.context),
            state: RefCell::default(),
        })
    }

    pub(super) fn node(&self) -> &Rc<Node> {
        &self.node
    }

    pub(super) fn pool(&self) -> usize {
        self.pool.get()
    }

    /// The pool has another number now.
    pub(super) fn moved_to(&self, pool: usize) {
        self.pool.set(pool);
    }

    /// Whether a change of the key would go unheard, though the node may serve it.
    pub(super) fn misses(&self, key: &[u8]) -> bool {
        !self.state.borrow().tells(|cover| cover.has(key)) && self.node.is_available()
    }

    /// Asks the node for an answer that comes after all that it has told of the key, or of any, by now. Whether it is asked.
    pub(super) fn echo(&self, key: Option<&[u8]>, sink: &Rc<dyn ReplySink>) -> bool {
        let state = self.state.borrow();
        let tells = |line: &&Line| line.phase == Phase::Tells && key.is_none_or(|key| line.cover.has(key));
        let line = state.lines.iter().find(tells);
        line.is_some_and(|line| line.exclusive.send(b"*1\r\n$4\r\nPING\r\n", sink, Tag::default()).is_ok())
    }

    pub(super) fn standing(&self, cover: &Cover) -> Standing {
        let state = self.state.borrow();
        match &state.refused {
            _ if state.tells(|own| own.includes(cover)) => Standing::Tells,
            Some(reply) => Standing::Refused(Rc::clone(reply)),
            None if state.is_away => Standing::Away,
            None => Standing::Due,
        }
    }

    /// Has the node tell of these keys, beside those that it tells of.
    pub(super) fn need(self: &Rc<Self>, cover: &Cover) {
        let cover = {
            let mut state = self.state.borrow_mut();
            state.needed_at = self.context.clock.now();
            if state.lines.iter().any(|line| line.phase != Phase::Leaving && line.cover.includes(cover)) {
                return;
            }
            let mut all = cover.clone();
            state.lines.iter().for_each(|line| all.add_all(&line.cover));
            all
        };
        self.open(cover);
    }

    fn open(self: &Rc<Self>, cover: Cover) {
        let now = self.context.clock.now();
        let Ok(exclusive) = self.node.subscription() else { return self.is_away(now) };
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut state = self.state.borrow_mut();
        state.generation = state.generation.wrapping_add(1);
        let generation = state.generation;
        exclusive.listen(&sink, Tag { slot: generation, part: PUSHES });
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON", b"BCAST"];
        for prefix in cover.prefixes().iter().filter(|prefix| !prefix.is_empty()) {
            words.extend([b"PREFIX", prefix.as_slice()]);
        }
        let mut frame = Vec::new();
        write_request(&mut frame, words.into_iter());
        if exclusive.send(&frame, &sink, Tag { slot: generation, part: BEGIN }).is_err() {
            drop(state);
            return self.is_away(now);
        }
        // One that was asked for less and has not answered yet is not waited for.
        state.lines.retain(|line| line.phase != Phase::Asked);
        state.heard_at = now;
        state.is_away = false;
        state.refused = None;
        let line = Line {
            exclusive,
            generation,
            cover,
            phase: Phase::Asked,
            since: now,
            list: Vec::new(),
            is_too_long: false,
        };
        state.lines.push(line);
    }

    fn is_away(&self, now: Moment) {
        let mut state = self.state.borrow_mut();
        state.is_away = true;
        state.retry_at = now.after(RETRY);
    }

    /// A connection has ended.
    fn lost(&self, generation: u32, cause: &Cause) {
        let (told, line) = {
            let mut state = self.state.borrow_mut();
            let Some(at) = state.lines.iter().position(|line| line.generation == generation) else { return };
            let line = state.lines.swap_remove(at);
            state.pinged = None;
            (line.phase != Phase::Asked, line)
        };
        drop(line);
        self.is_away(self.context.clock.now());
        let Some(tracking) = self.tracking.upgrade() else { return };
        if told {
            let node = &self.node.options().label;
            tracing::info!(%node, %cause, "changes of keys are not heard: clients are told to forget what they hold");
            tracking.forget_all(Lapse::Lost);
        }
        tracking.settle_waiting();
    }

    /// The store has answered whether it tells of changes.
    fn begun(self: &Rc<Self>, generation: u32, reply: &[u8]) {
        let Some(tracking) = self.tracking.upgrade() else { return };
        let is_new = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let was_telling = state.tells(|_| true);
            if reply.starts_with(b"+") {
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                for line in &mut state.lines {
                    if line.generation == generation {
                        line.phase = Phase::Tells;
                    } else if line.phase == Phase::Tells {
                        line.phase = Phase::Leaving;
                        // One that cannot be asked ends, and is told as lost.
                        let tag = Tag { slot: line.generation, part: LAST_PING };
                        line.exclusive.send(b"*1\r\n$4\r\nPING\r\n", &sink, tag).ok();
                    }
                }
                !was_telling
            } else {
                state.refused = Some(Rc::from(reply));
                state.retry_at = self.context.clock.now().after(RETRY_REFUSED);
                state.lines.retain(|line| line.generation != generation);
                false
            }
        };
        if is_new {
            // Until now changes went unheard.
            tracking.forget_all(Lapse::Back);
        }
        tracking.settle_waiting();
    }

    /// Nobody needs it.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        let generation = state.generation.wrapping_add(1);
        *state = State { generation, ..State::default() };
    }

    pub(super) fn keep_house(self: &Rc<Self>, cover: &Cover, is_needed: bool) {
        let now = self.context.clock.now();
        let (idle, silent, retry, open) = {
            let mut state = self.state.borrow_mut();
            if is_needed {
                state.needed_at = now;
            }
            let idle = now.since(state.needed_at) > IDLE_MAX;
            let silent = now.since(state.heard_at) > SILENT_MAX && state.pinged.is_none();
            (idle, silent, now >= state.retry_at, !state.lines.is_empty())
        };
        if idle {
            if open {
                self.close();
            }
        } else if is_needed && retry && self.node.is_available() {
            self.need(cover);
        }
        if silent {
            self.ask_whether_it_is_there(now);
        }
        if let Some((generation, patience)) = self.overdue(now) {
            self.lost(generation, &Cause::ServiceTimeout(patience));
        }
    }

    /// A connection on which an answer has not come in time.
    fn overdue(&self, now: Moment) -> Option<(u32, Duration)> {
        let options = self.node.options();
        let patience = options.connect_timeout + options.queue_timeout + options.service_timeout;
        let state = self.state.borrow();
        let is_silent = state.pinged.is_some_and(|since| now.since(since) > patience);
        let is_overdue = |line: &&Line| match line.phase {
            Phase::Asked => now.since(line.since) > patience,
            Phase::Tells | Phase::Leaving => is_silent,
        };
        state.lines.iter().find(is_overdue).map(|line| (line.generation, patience))
    }

    fn ask_whether_it_is_there(self: &Rc<Self>, now: Moment) {
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut state = self.state.borrow_mut();
        let Some(line) = state.lines.iter().find(|line| line.phase == Phase::Tells) else { return };
        let tag = Tag { slot: line.generation, part: PING };
        let sent = line.exclusive.send(b"*1\r\n$4\r\nPING\r\n", &sink, tag);
        state.pinged = sent.is_ok().then_some(now);
    }

    fn heard(&self, frame: &[u8]) {
        self.state.borrow_mut().heard_at = self.context.clock.now();
        let Some(tracking) = self.tracking.upgrade() else { return };
        match message::read(frame) {
            Said::Changed(keys) => tracking.changed(self.pool(), &keys),
            Said::Everything => tracking.forget_all(Lapse::Store),
            Said::Other => {}
        }
    }

    /// A part of a long list, and whether it is the last.
    fn gather(&self, generation: u32, bytes: &[u8], is_last: bool) {
        let list = {
            let mut state = self.state.borrow_mut();
            let Some(line) = state.line(generation) else { return };
            line.is_too_long |= line.list.len() + bytes.len() > LIST_BYTES_MAX;
            if line.is_too_long {
                line.list = Vec::new();
            } else {
                line.list.extend_from_slice(bytes);
            }
            if !is_last {
                return;
            }
            let is_too_long = std::mem::take(&mut line.is_too_long);
            (!is_too_long).then(|| std::mem::take(&mut line.list))
        };
        match (list, self.tracking.upgrade()) {
            (Some(list), _) => self.heard(&list),
            (None, Some(tracking)) => tracking.forget_all(Lapse::Store),
            (None, None) => {}
        }
    }

    fn answered(self: &Rc<Self>, tag: Tag, bytes: &[u8]) {
        match tag.part {
            PUSHES => self.gather(tag.slot, bytes, true),
            BEGIN => self.begun(tag.slot, bytes),
            LAST_PING => self.state.borrow_mut().lines.retain(|line| line.generation != tag.slot),
            _ => {
                let mut state = self.state.borrow_mut();
                state.pinged = None;
                state.heard_at = self.context.clock.now();
            }
        }
    }
}

impl ReplySink for Link {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        if self.state.borrow_mut().line(tag.slot).is_none() {
            return Flow::Continue;
        }
        match piece {
            Piece::Failed(failure) => self.lost(tag.slot, &failure.cause),
            Piece::Whole(bytes) | Piece::End(bytes) => self.answered(tag, bytes),
            Piece::Begin(bytes) | Piece::More(bytes) if tag.part == PUSHES => self.gather(tag.slot, bytes, false),
            Piece::Begin(_) | Piece::More(_) => {}
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
