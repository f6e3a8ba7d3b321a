//! `CLIENT PAUSE`: the requests of all clients, or those that may write, are held back. Who is held back counts as blocked.
//!
//! # Invariants
//! - A pause holds back requests that are not sent yet; what was sent before goes on. A drain ends every pause.
//! - What may write is held back unless it has said that it does not, and then a store sees to it: a script or function with
//!   the flag `no-writes`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::clients::{Ask, ask_all, ask_others, number};
use super::intake::Obstacle;
use super::local::{Local, answer_later, refused};
use super::requests::Handled;
use super::session::Session;
use super::worker::Worker;
use crate::backend::ReplySink as _;
use crate::command::{Args, Handling, LocalVerb, Program, Row, TransactionVerb, VerbClass, reply};
use crate::config::Listener;
use crate::coordinator::Coordinator;
use crate::protocol::resp::{Limits, RequestScan, Scanned};
use crate::topology::View;

/// The verbs that may write although the table does not call them writes (Redis: `CMD_MAY_REPLICATE`). Of scripts and
/// transactions what they hold is looked at.
const MAY_WRITE: [&str; 7] = ["eval", "evalsha", "exec", "fcall", "pfcount", "publish", "spublish"];

/// Of how many functions a worker asks the stores during one pause. Those beyond are held back.
const FUNCTIONS_MAX: usize = 64;

/// Writes the reply to a request that cannot be served.
type Refusal = fn(&mut Vec<u8>);

/// Which requests a pause holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Paused {
    /// Those that may write.
    Writes,
    /// All.
    All,
}

/// What a worker knows of functions during a pause: whether a store has said that they write nothing.
#[derive(Debug, Default)]
pub(super) struct Functions(RefCell<HashMap<Vec<u8>, bool>>);

/// What a transaction has to do with pauses. The other workers are told before it runs: its reply does not come before
/// they hold back what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pauses {
    /// Nothing.
    #[default]
    None,
    /// It begins or ends one.
    ToTell,
    /// The workers are being told.
    Telling,
    /// They know.
    Told,
}

impl Pauses {
    /// A command is queued.
    pub(super) fn see(&mut self, row: &Row) {
        if change_of(row).is_some() {
            *self = Self::ToTell;
        }
    }
}

/// Whether a verb begins a pause, or ends one.
fn change_of(row: &Row) -> Option<LocalVerb> {
    match row.handling {
        Handling::Local(verb @ (LocalVerb::ClientPause | LocalVerb::ClientUnpause)) => Some(verb),
        _ => None,
    }
}

impl Worker {
    /// Holds requests back from now on.
    pub(super) fn begin_pause(&self, what: Paused, span: Duration) {
        let span = if self.is_draining() { Duration::ZERO } else { span };
        let until = self.context.clock.tick().after(span);
        // Of two pauses the longer and the stricter hold, as in Redis.
        let both = match self.pause.get() {
            Some((before, end)) => (before.max(what), end.max(until)),
            None => (what, until),
        };
        self.pause.set(Some(both));
        self.attention.set(true);
    }

    /// Lets go of what is held back.
    pub(super) fn end_pause(&self) {
        if self.pause.take().is_some() {
            self.functions.0.take();
            self.look_around();
            self.look_again();
            self.wake_all();
        }
    }

    /// Ends a pause whose time is over.
    pub(super) fn keep_pause(&self) {
        if self.pause.get().is_some_and(|(_, until)| until <= self.context.clock.now()) {
            self.end_pause();
        }
    }

    /// Has the clients that are held back see whether they still are.
    fn look_again(&self) {
        for session in self.sessions.borrow().values() {
            session.look_again();
        }
    }
}

impl Session {
    /// Holds a request back if a pause says so.
    pub(super) fn wait_for_pause(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        row: &Row,
        args: &Args<'_>,
    ) -> Handled {
        let holds = match self.worker.pause.get() {
            None => false,
            Some((Paused::All, _)) => true,
            Some((Paused::Writes, _)) => self.may_write(view, listener, row, args),
        };
        if !holds {
            return Handled::Yes;
        }
        self.hold_back();
        Handled::NotYet
    }

    /// What is asked next waits until somebody lets it go.
    pub(super) fn hold_back(&self) {
        self.inner.borrow_mut().obstacle = Obstacle::Pause;
        self.worker.fleet.signs.begin_block();
    }

    /// Goes on if the client was held back; it may be held back anew.
    pub(super) fn look_again(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_held_back() {
            inner.obstacle = Obstacle::Due;
            self.worker.fleet.signs.end_block();
            // How long it was held back says nothing of how long the request takes.
            self.seen.set(self.worker.context.clock.tick());
            inner.wake();
        }
    }

    fn may_write(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, row: &Row, args: &Args<'_>) -> bool {
        match row.handling {
            _ if row.class == VerbClass::Write => true,
            _ if !MAY_WRITE.contains(&row.name) => false,
            Handling::Run(Program::Function) => !self.function_reads(view, listener, args.get(1).unwrap_or_default()),
            Handling::Run(_) => !self.worker.coordinator.script_reads(row, args),
            Handling::Transaction(TransactionVerb::Exec) => self.queue_may_write(view, listener),
            _ => true,
        }
    }

    /// Whether anything that `EXEC` would run may write.
    fn queue_may_write(self: &Rc<Self>, view: &Rc<View>, listener: &Listener) -> bool {
        let mut may_write = false;
        self.look_at_queue(view, |row, args| may_write = may_write || self.may_write(view, listener, row, args));
        may_write
    }

    /// Shows what `EXEC` would run, one command after the other.
    fn look_at_queue(&self, view: &View, mut look: impl FnMut(&'static Row, &Args<'_>)) {
        let Some(frames) = self.inner.borrow().transaction.as_ref().map(|queued| queued.frames().to_vec()) else {
            return;
        };
        let mut scan = RequestScan::default();
        let mut rest = frames.as_slice();
        while let Ok(Scanned::Request { len }) = scan.scan(rest, &Limits::REDIS) {
            let args = Args::new(rest, scan.bounds());
            if let Ok(row) = view.topology.config.commands.resolve(&args) {
                look(row, &args);
            }
            scan.reset();
            rest = rest.get(len..).unwrap_or_default();
        }
    }

    /// Tells the other workers of the pauses that a transaction begins or ends. Whether they know: until then it waits.
    pub(super) fn announce_pauses(self: &Rc<Self>, view: &View) -> bool {
        let pauses = match &self.inner.borrow().transaction {
            Some(transaction) if !transaction.is_void() => transaction.pauses,
            _ => Pauses::None,
        };
        match pauses {
            Pauses::None | Pauses::Told => return true,
            Pauses::Telling => {}
            Pauses::ToTell => {
                let mut changes = Vec::new();
                self.look_at_queue(view, |row, args| match change_of(row) {
                    Some(LocalVerb::ClientPause) => changes.extend(parse(args).ok().map(Some)),
                    Some(_) => changes.push(None),
                    None => {}
                });
                self.set_pauses(Pauses::Telling);
                let session = Rc::clone(self);
                self.worker.context.spawn(async move {
                    for change in changes {
                        match change {
                            Some((what, span)) => {
                                drop(ask_others(&session, |answer| Ask::Pause(what, span, answer)).await);
                            }
                            None => drop(ask_others(&session, Ask::Unpause).await),
                        }
                    }
                    session.set_pauses(Pauses::Told);
                    session.look_again();
                });
            }
        }
        self.hold_back();
        false
    }

    fn set_pauses(&self, pauses: Pauses) {
        if let Some(transaction) = &mut self.inner.borrow_mut().transaction {
            transaction.pauses = pauses;
        }
    }

    /// `CLIENT PAUSE` and `CLIENT UNPAUSE` of a transaction: what holds for this worker from now on, and the reply.
    pub(super) fn pause_at_once(&self, row: &Row, args: &Args<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let asked = (change_of(row) == Some(LocalVerb::ClientPause)).then(|| parse(args));
        match asked {
            Some(Err(write)) => {
                write(&mut out);
                return out;
            }
            Some(Ok((what, span))) => self.worker.begin_pause(what, span),
            None => self.worker.end_pause(),
        }
        reply::ok(&mut out);
        out
    }

    /// Whether a function is known to write nothing. If that is not known, the stores are asked, and who is held back looks
    /// again when they have said so.
    fn function_reads(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, name: &[u8]) -> bool {
        let mut functions = self.worker.functions.0.borrow_mut();
        if let Some(reads) = functions.get(name) {
            return *reads;
        }
        if functions.len() >= FUNCTIONS_MAX {
            return false;
        }
        functions.insert(name.to_vec(), false);
        let nodes = Coordinator::nodes_of(view, listener);
        let (session, name) = (Rc::clone(self), name.to_vec());
        self.worker.context.spawn(async move {
            let reads = Coordinator::function_reads(nodes, session.origin(), &name).await;
            let worker = &session.worker;
            if let (true, Some(known)) = (reads, worker.functions.0.borrow_mut().get_mut(&name)) {
                *known = true;
            }
            if reads {
                worker.look_again();
            }
        });
        false
    }
}

/// What a `CLIENT PAUSE` asks for.
///
/// # Errors
/// It is not one; what writes the reply.
pub(super) fn parse(args: &Args<'_>) -> Result<(Paused, Duration), Refusal> {
    let what = match args.get(3) {
        None => Paused::All,
        Some(word) if word.eq_ignore_ascii_case(b"all") => Paused::All,
        Some(word) if word.eq_ignore_ascii_case(b"write") => Paused::Writes,
        Some(_) => return Err(reply::pause_mode),
    };
    match args.get(2).and_then(number).map(u64::try_from) {
        None => Err(reply::timeout_not_an_integer),
        Some(Err(_)) => Err(reply::timeout_negative),
        Some(Ok(ms)) => Ok((what, Duration::from_millis(ms))),
    }
}

/// `CLIENT PAUSE timeout [WRITE|ALL]`: from its reply on no worker sends what is held back.
pub(super) fn pause(session: &Rc<Session>, row: &Row, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    if args.len() > 4 {
        return refused(out, |out| reply::subcommand_syntax(out, args));
    }
    let (what, span) = match parse(args) {
        Ok(asked) => asked,
        Err(write) => return refused(out, write),
    };
    answer_later(session, row, move |session| async move {
        ask_all(&session, |answer| Ask::Pause(what, span, answer)).await;
        b"+OK\r\n".to_vec()
    })
}

/// `CLIENT UNPAUSE`.
pub(super) fn unpause(session: &Rc<Session>, row: &Row) -> Local {
    answer_later(session, row, |session| async move {
        ask_all(&session, Ask::Unpause).await;
        b"+OK\r\n".to_vec()
    })
}
