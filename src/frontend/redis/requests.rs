//! What a session does with one request, and with the reply to it.

use std::rc::Rc;
use std::task::Waker;

use super::intake::Obstacle;
use super::local::{self, Local};
use super::output::Last;
use super::pubsub;
use super::session::{HELD_BYTES, Inner, Replies, Session};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::{
    Args, Flag, Handling, IDS_WITH_CONFIGURED, KeyspaceVerb, LocalVerb, Row, TransactionVerb, Unsupported, VerbClass,
    reply,
};
use crate::config::Listener;
use crate::coordinator::{self, Client, Request, Verdict};
use crate::metrics::{Class, Outcome, VERBS_MAX, Verb};
use crate::protocol::resp::Version;
use crate::topology::View;

/// A piece at least this long is written to the client at once, without a copy, if nothing waits before it.
pub(super) const DIRECT_BYTES: usize = 16 * 1024;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handled {
    Yes,
    /// It has to wait for an obstacle.
    NotYet,
}

impl Session {
    #[inline]
    pub(super) fn handle(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        frame: &[u8],
        bounds: &[(u32, u32)],
    ) -> Handled {
        let args = Args::new(frame, bounds);
        let row = match view.topology.config.commands.resolve(&args) {
            Ok(row) => row,
            Err(unsupported) => {
                self.refuse(&unsupported, &args);
                self.void_transaction();
                return Handled::Yes;
            }
        };
        if self.worker.attention.get() {
            return self.handle_watched(view, listener, frame, row, &args);
        }
        self.serve(view, listener, frame, row, args)
    }

    /// The same while there is a pause, a monitor, or a client that tracks keys.
    #[cold]
    fn handle_watched(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        frame: &[u8],
        row: &'static Row,
        args: &Args<'_>,
    ) -> Handled {
        let may_ask = self.inner.borrow().authenticated || row.flags.contains(Flag::NoAuth);
        if may_ask && self.wait_for_pause(view, listener, row, args) == Handled::NotYet {
            return Handled::NotYet;
        }
        let handled = self.serve_tracked(view, row, args, || self.serve(view, listener, frame, row, *args));
        if may_ask && handled == Handled::Yes {
            self.worker.show(self, row, args);
        }
        handled
    }

    #[inline]
    fn serve(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        frame: &[u8],
        row: &'static Row,
        args: Args<'_>,
    ) -> Handled {
        self.last.set(Some(row));
        let (version, authenticated, restricted, level) = {
            let inner = self.inner.borrow();
            (inner.version, inner.authenticated, inner.restricted, inner.level)
        };
        let (has_transaction, subscribed) = {
            let inner = self.inner.borrow();
            (inner.transaction.is_some(), inner.subscriptions.is_some())
        };
        if restricted && authenticated && !self.is_permitted(row, &args) {
            self.void_transaction();
            return Handled::Yes;
        }
        if subscribed && version == Version::Resp2 && !pubsub::is_allowed(row) {
            self.void_transaction();
            self.answer_with(row, Outcome::Refused, |out| reply::subscribed(out, row));
            return Handled::Yes;
        }
        if view.database() != 0 && authenticated && !self.has_database(view, listener, row, &args) {
            return Handled::Yes;
        }
        if has_transaction && authenticated && self.is_queued(row) {
            self.queue(view, listener, &Request { frame, args, row, version, level });
            return Handled::Yes;
        }
        match row.handling {
            Handling::Local(verb) => return self.handle_local(view, listener, verb, row, frame, &args),
            _ if !authenticated => self.answer_with(row, Outcome::Refused, reply::noauth),
            Handling::ToDatabase if self.refuses_database(view, listener, row, &args) => {}
            Handling::Forward | Handling::SameNode | Handling::Split(_) | Handling::ToDatabase => {
                let slot = self.open_slot(verb_of(row));
                self.note(slot, row, frame);
                let request = Request { frame, args, row, version, level };
                let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
                let mut out = Vec::new();
                let verdict = self.worker.coordinator.dispatch(view, listener, &request, &sink, slot, &mut out);
                if let Verdict::Answered(outcome) = verdict {
                    self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
                }
            }
            Handling::Keyspace(verb) => {
                let request = Request { frame, args, row, version, level };
                return self.handle_keyspace(view, listener, verb, &request);
            }
            Handling::Run(program) => {
                let request = Request { frame, args, row, version, level };
                self.handle_run(view, listener, program, &request);
            }
            Handling::Programs(verb) => {
                let request = Request { frame, args, row, version, level };
                return self.handle_programs(view, listener, verb, &request);
            }
            Handling::Transaction(verb) => {
                let request = Request { frame, args, row, version, level };
                return self.handle_transaction(view, listener, verb, &request);
            }
            Handling::Blocking => {
                return self.handle_blocking(view, &Request { frame, args, row, version, level });
            }
            Handling::PubSub(verb) => {
                let request = Request { frame, args, row, version, level };
                return self.handle_pubsub(view, listener, verb, &request);
            }
            Handling::Later(reason) => self.answer_with(row, Outcome::Refused, |out| reply::later(out, row, reason)),
            Handling::Refused(reason) => {
                self.answer_with(row, Outcome::Refused, |out| reply::refused(out, row, reason));
            }
        }
        Handled::Yes
    }

    /// What is about all keys is neither overtaken by what came before it nor by what comes after it.
    fn handle_keyspace(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: KeyspaceVerb,
        request: &Request<'_>,
    ) -> Handled {
        if !self.takes_its_turn() {
            return Handled::NotYet;
        }
        let slot = self.open_slot(verb_of(request.row));
        self.note(slot, request.row, request.frame);
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let session = Rc::clone(self);
        let has_ended = Box::new(move || session.has_ended());
        let client = Client { listener: self.listener, has_ended };
        let mut out = Vec::new();
        let coordinator = &self.worker.coordinator;
        let all = (verb == KeyspaceVerb::FlushAll).then(|| self.worker.view()); // Of all pools, whatever databases they have.
        let view = all.as_ref().unwrap_or(view);
        let verdict = coordinator.dispatch_keyspace(view, listener, verb, request, client, &sink, slot, &mut out);
        if let Verdict::Answered(outcome) = verdict {
            self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
        }
        Handled::Yes
    }

    fn handle_local(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: LocalVerb,
        row: &'static Row,
        frame: &[u8],
        args: &Args<'_>,
    ) -> Handled {
        {
            let mut inner = self.inner.borrow_mut();
            if is_served_alone(verb) && !inner.output.slots.is_empty() {
                inner.obstacle = Obstacle::Due;
                return Handled::NotYet;
            }
            let without_password =
                matches!(verb, LocalVerb::Auth | LocalVerb::Hello | LocalVerb::Quit | LocalVerb::Reset);
            if !inner.authenticated && !without_password && verb != LocalVerb::HttpRequest {
                drop(inner);
                self.answer_with(row, Outcome::Refused, reply::noauth);
                return Handled::Yes;
            }
        }
        if verb == LocalVerb::Ping && listener.ping_asks_stores && !self.is_confined() && args.len() <= 2 {
            // Of a store that is busy with what this client asked before, it says what comes after that.
            if !self.takes_its_turn() {
                return Handled::NotYet;
            }
            let slot = self.inner.borrow().output.next();
            local::ping_stores(self, row, args);
            if self.inner.borrow().output.next() != slot {
                self.note(slot, row, frame);
            }
            return Handled::Yes;
        }
        let mut out = self.worker.context.take_buffer();
        let slot = self.inner.borrow().output.next();
        match local::answer(self, view, listener, verb, row, args, &mut out) {
            Local::Reply(outcome) => {
                self.answer(verb_of(row), &out, outcome);
                self.count_failed(row, outcome);
                let took = self.worker.context.clock.now().since(self.seen.get());
                if took >= self.worker.slow.get() {
                    self.log_slow_local(row, args, frame, took);
                }
            }
            Local::Last => {
                self.answer(verb_of(row), &out, Outcome::Ok);
                self.inner.borrow_mut().closing = true;
            }
            // The reply comes later, if there is one.
            Local::Silent if self.inner.borrow().output.next() != slot => self.note(slot, row, frame),
            Local::Silent => {}
            Local::Close => self.inner.borrow_mut().broken = true,
        }
        self.worker.context.return_buffer(out);
        Handled::Yes
    }

    fn refuse(&self, unsupported: &Unsupported, args: &Args<'_>) {
        let mut out = Vec::new();
        let verb = match unsupported {
            Unsupported::WrongArity(row) => verb_of(row).as_other(),
            Unsupported::UnknownCommand | Unsupported::UnknownSubcommand(_) => Verb::NONE,
        };
        match unsupported {
            Unsupported::UnknownCommand => reply::unknown_command(&mut out, args),
            Unsupported::UnknownSubcommand(_) => reply::unknown_subcommand(&mut out, args),
            Unsupported::WrongArity(row) if row.handling == Handling::Transaction(TransactionVerb::Exec) => {
                // An `EXEC` that is refused for any reason ends the transaction, as on the servers.
                self.forget_transaction();
                reply::wrong_arity(&mut out, row);
                let why = out.split_off(b"-ERR ".len());
                out.clear();
                reply::exec_aborted_because(&mut out, &why);
            }
            Unsupported::WrongArity(row) => reply::wrong_arity(&mut out, row),
        }
        self.answer(verb, &out, Outcome::Refused);
    }

    pub(super) fn answer_with(&self, row: &Row, outcome: Outcome, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        self.answer(verb_of(row), &out, outcome);
    }

    /// A request that quoit has looked at by itself was refused: it counts as failed rather than as rejected.
    pub(super) fn count_failed(&self, row: &Row, outcome: Outcome) {
        if outcome == Outcome::Refused {
            self.cells.verb(verb_of(row)).failed.increment();
        }
    }

    /// Answers the request that was just read.
    pub(super) fn answer(&self, verb: Verb, bytes: &[u8], outcome: Outcome) {
        let slot = self.open_slot(verb);
        self.settle(&mut self.inner.borrow_mut(), slot, bytes, Last::Yes, outcome);
    }

    /// A slot for the request that was just read.
    #[inline]
    pub(super) fn open_slot(&self, verb: Verb) -> u32 {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.output.slots.capacity() == 0 {
            inner.output.slots = self.worker.take_slots();
        }
        let silent = match inner.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                inner.replies = Replies::On;
                true
            }
        };
        inner.output.open(verb, self.seen.get(), silent)
    }

    #[inline]
    pub(super) fn settle(&self, inner: &mut Inner, slot: u32, bytes: &[u8], last: Last, outcome: Outcome) {
        let mut sent = 0;
        if let Some((_, due)) = inner.output.slot(slot) {
            if last == Last::Yes {
                let duration = self.worker.context.clock.now().since(due.at);
                let cells = self.cells.verb(due.verb);
                cells.requests(outcome).increment();
                cells.duration.observe(duration);
                if outcome != Outcome::Ok {
                    self.cells.note_error(bytes);
                }
                if duration >= self.worker.slow.get() {
                    self.log_slow(inner, slot, duration);
                }
            }
        } else {
            return;
        }
        if inner.output.bytes_held() > HELD_BYTES && self.closed_beyond_limit(inner) {
            return;
        }
        if inner.output.bytes.capacity() == 0 {
            inner.output.bytes = self.worker.context.take_buffer();
        }
        if bytes.len() >= DIRECT_BYTES
            && inner.output.may_write_through(slot)
            && let Some(stream) = &mut inner.stream
        {
            // An error shows again when the task writes.
            sent = stream.try_write(bytes).unwrap_or(0);
            self.cells.sent_bytes.add(sent as u64);
        }
        inner.output.put(&self.worker.context, slot, bytes, last, sent);
        if inner.tracks.is_some() && last == Last::Yes {
            self.tell_after(inner, slot, bytes);
        }
    }

    /// Whether more is held for the client than the listener allows: then it is closed, as Redis closes a client beyond
    /// its `client-output-buffer-limit`. One reply alone is never too much.
    #[cold]
    pub(super) fn closed_beyond_limit(&self, inner: &mut Inner) -> bool {
        let view = self.worker.view();
        let most = view.topology.listener(self.listener).map_or(0, |listener| listener.client_output_bytes_max);
        if inner.output.bytes_held() as u64 <= most {
            return false;
        }
        self.close_for_output(inner, inner.output.bytes_held());
        true
    }

    /// The client is closed for what it does not read.
    #[cold]
    pub(super) fn close_for_output(&self, inner: &mut Inner, held_bytes: usize) {
        self.cells.output_limit_kills.increment();
        tracing::warn!(client = self.id, held_bytes, "closed: it does not read its replies");
        inner.broken = true;
        inner.wake();
    }
}

/// Whether all earlier requests have to be answered first: `HELLO` and `RESET` change how the replies to those would have
/// to look, after `SELECT` others go by other connections, `WAIT` and `WAITAOF` speak of them, `MONITOR`, `CLIENT TRACKING`,
/// `CONFIG SET`, `ACL SETUSER` and `DEBUG` begin or change something, and `PFDEBUG` looks at what earlier ones have written.
fn is_served_alone(verb: LocalVerb) -> bool {
    matches!(
        verb,
        LocalVerb::Hello
            | LocalVerb::Reset
            | LocalVerb::AclChange
            | LocalVerb::Select
            | LocalVerb::ClientTracking
            | LocalVerb::Wait
            | LocalVerb::Waitaof
            | LocalVerb::Monitor
            | LocalVerb::ConfigSet
            | LocalVerb::Debug
            | LocalVerb::Pfdebug
    )
}

#[inline]
pub(super) fn verb_of(row: &Row) -> Verb {
    let class = match row.class {
        VerbClass::Read => Class::Read,
        VerbClass::Write => Class::Write,
        VerbClass::Other => Class::Other,
    };
    Verb::new(row.id, class)
}

// Each verb has cells of its own, and there is a place for what is none.
const _: () = assert!(IDS_WITH_CONFIGURED < VERBS_MAX as usize);

impl ReplySink for Session {
    #[inline]
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.broken {
            return Flow::Continue;
        }
        let flow = match piece {
            Piece::Whole(bytes) => {
                let outcome = match bytes.first() {
                    Some(b'-') if reply::is_unavailable(bytes) => Outcome::Unavailable,
                    Some(b'-') => Outcome::StoreError,
                    _ => Outcome::Ok,
                };
                self.settle(inner, tag.slot, bytes, Last::Yes, outcome);
                Flow::Continue
            }
            Piece::End(bytes) => {
                self.settle(inner, tag.slot, bytes, Last::Yes, Outcome::Ok);
                Flow::Continue
            }
            Piece::Begin(bytes) | Piece::More(bytes) => {
                self.settle(inner, tag.slot, bytes, Last::No, Outcome::Ok);
                if inner.has_room_for(tag.slot) { Flow::Continue } else { Flow::Pause }
            }
            Piece::Failed(failure) if inner.output.has_begun(tag.slot) => {
                // Part of the reply is with the client: only a closed connection can tell it.
                tracing::warn!(node = %failure.node, cause = %failure.cause, "a reply broke off in the middle");
                inner.broken = true;
                Flow::Continue
            }
            Piece::Failed(failure) => {
                let mut out = Vec::new();
                let outcome = coordinator::write_failure(failure, &mut out);
                inner.output.restart(tag.slot);
                self.settle(inner, tag.slot, &out, Last::Yes, outcome);
                Flow::Continue
            }
        };
        inner.wake();
        flow
    }

    fn ready(&self, tag: Tag, waker: &Waker) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.broken || inner.has_room_for(tag.slot) {
            return true;
        }
        if !inner.obstructed.iter().any(|other| other.will_wake(waker)) {
            inner.obstructed.push(waker.clone());
        }
        false
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn hold(&self, tag: Tag) -> bool {
        let mut inner = self.inner.borrow_mut();
        let holds = inner.output.is_newest(tag.slot) && !inner.broken;
        inner.alone |= holds;
        holds
    }

    fn make_way(&self) {
        self.inner.borrow_mut().spilling = true;
    }
}
