//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
//!
//! Between `MULTI` and `EXEC` a client's commands are checked as Redis checks them, and kept. `EXEC` hands them to the
//! coordinator. The keys that a client watches are watched on a connection that it has to itself until `EXEC`, `DISCARD` or
//! `UNWATCH`.
//!
//! # Invariants
//! - What is kept is bounded by the listener's `query_buffer_bytes_max`.
//! - A command that is refused while it is queued voids the transaction.
//! - While keys are watched, nothing that was sent before `WATCH` or `EXEC` is still under way when those are sent.

use std::rc::Rc;

use super::databases;
use super::intake::Obstacle;
use super::local::{self, Local, resp_of};
use super::output::Last;
use super::pause::Pauses;
use super::requests::{Handled, verb_of};
use super::session::Session;
use super::settings;
use crate::backend::redis::Exclusive;
use crate::backend::{Failure, Flow, Piece, ReplySink, Stores, Tag};
use crate::command::{Args, Flag, Handling, LocalVerb, PubSubVerb, Row, TransactionVerb, reply};
use crate::config::Listener;
use crate::coordinator::pubsub::Kind;
use crate::coordinator::{self, Coordinator, Part, Request, Verdict, Way};
use crate::metrics::Outcome;
use crate::protocol::resp::{Limits, RequestScan, Scanned, Version, write_request};
use crate::replication::{Group, Watched};
use crate::topology::{Place, View};

/// What a client has begun.
#[derive(Default)]
pub(super) struct Transaction {
    /// Between `MULTI` and `EXEC`.
    is_queueing: bool,
    /// A command was refused: `EXEC` runs none.
    is_void: bool,
    /// The commands, as they came, one after the other.
    frames: Vec<u8>,
    /// How many.
    count: usize,
    /// The channels on which they publish.
    channels: Vec<Vec<u8>>,
    /// Where their keys are.
    place: Option<Place>,
    watch: Option<Watch>,
    /// Keys that the client watches in a pool that keeps several copies, their states then, and where they are.
    watched: Vec<(Vec<u8>, Watched)>,
    watched_at: Option<Place>,
    /// A key with several replicas: those of all others have to be the same.
    anchor: Option<Vec<u8>>,
    /// Whether it begins or ends a pause, and whether the other workers know.
    pub(super) pauses: Pauses,
    /// A connection on which keys were watched has ended: they count as changed.
    is_watch_lost: bool,
}

/// The keys that a client watches.
struct Watch {
    exclusive: Exclusive,
    place: Place,
    version: Version,
    keys: usize,
}

impl Transaction {
    /// The fields of `CLIENT LIST`: commands queued, or -1 outside of `MULTI`; keys watched.
    pub(super) fn counts(&self) -> (i64, usize) {
        let queued = if self.is_queueing { i64::try_from(self.count).unwrap_or(i64::MAX) } else { -1 };
        (queued, self.watch.as_ref().map_or(self.watched.len(), |watch| watch.keys))
    }

    /// Whether the client watches keys.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some() || self.watched_at.is_some() || self.is_watch_lost
    }

    /// Whether `EXEC` runs nothing of it.
    pub(super) fn is_void(&self) -> bool {
        self.is_void
    }

    /// The commands, one after the other.
    pub(super) fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// The node of its keys, as far as it has any.
    fn node(&self) -> Option<Place> {
        self.place.or(self.watch.as_ref().map(|watch| watch.place)).or(self.watched_at)
    }
}

/// Has the store forget what a client watched there.
fn unwatch(session: &Session, watch: Watch) {
    session.worker.context.spawn(async move {
        let mut frame = Vec::new();
        write_request(&mut frame, [b"UNWATCH".as_slice()].into_iter());
        if watch.exclusive.ask(&frame).await.is_ok_and(|reply| reply == b"+OK\r\n") {
            watch.exclusive.give_back();
        }
    });
}

impl Session {
    /// Ends what the client has begun.
    pub(super) fn forget_transaction(&self) {
        let transaction = self.inner.borrow_mut().transaction.take();
        if let Some(watch) = transaction.and_then(|transaction| transaction.watch) {
            unwatch(self, watch);
        }
    }

    /// A command was refused: if it was to be queued, the transaction is void.
    pub(super) fn void_transaction(&self) {
        if let Some(transaction) = &mut self.inner.borrow_mut().transaction {
            transaction.is_void |= transaction.is_queueing;
        }
    }

    /// Whether the command is kept for `EXEC` rather than served.
    pub(super) fn is_queued(&self, row: &Row) -> bool {
        let at_once = match row.handling {
            Handling::Transaction(verb) => verb != TransactionVerb::Unwatch,
            Handling::Local(verb) => matches!(verb, LocalVerb::Quit | LocalVerb::Reset),
            _ => false,
        };
        !at_once && self.inner.borrow().transaction.as_ref().is_some_and(|transaction| transaction.is_queueing)
    }

    /// Checks a command and keeps it.
    pub(super) fn queue(&self, view: &View, listener: &Listener, request: &Request<'_>) {
        let mut out = Vec::new();
        let mut inner = self.inner.borrow_mut();
        let Some(transaction) = inner.transaction.as_mut() else { return };
        let checked = check(view, listener, request, transaction, &mut out).and_then(|place| {
            if let Some(group) = place.and_then(|place| self.worker.coordinator.group(usize::from(place.pool))) {
                Coordinator::check_replicated(view, listener, &group, request, &mut transaction.anchor, &mut out)?;
            }
            Ok(place)
        });
        let outcome = match checked {
            Err(outcome) => {
                transaction.is_void = true;
                outcome
            }
            Ok(place) => {
                transaction.place = transaction.place.or(place);
                // What is void is not run: nothing of it needs to be kept.
                if !transaction.is_void {
                    transaction.frames.extend_from_slice(request.frame);
                    transaction.count += 1;
                    if request.row.handling == Handling::PubSub(PubSubVerb::Publish) {
                        transaction.channels.push(request.args.get(1).unwrap_or_default().to_vec());
                    }
                    transaction.pauses.see(request.row);
                }
                reply::simple(&mut out, "QUEUED");
                Outcome::Ok
            }
        };
        drop(inner);
        self.answer(verb_of(request.row), &out, outcome);
    }

    pub(super) fn handle_transaction(
        self: &Rc<Self>,
        view: &View,
        listener: &Listener,
        verb: TransactionVerb,
        request: &Request<'_>,
    ) -> Handled {
        let (is_queueing, is_watching) = {
            let inner = self.inner.borrow();
            let transaction = inner.transaction.as_deref();
            (transaction.is_some_and(|it| it.is_queueing), transaction.is_some_and(|it| it.watch.is_some()))
        };
        let mut out = Vec::new();
        let outcome = match verb {
            TransactionVerb::Multi if is_queueing => {
                reply::nested_multi(&mut out);
                Outcome::Refused
            }
            TransactionVerb::Multi => {
                self.inner.borrow_mut().transaction.get_or_insert_default().is_queueing = true;
                reply::ok(&mut out);
                Outcome::Ok
            }
            TransactionVerb::Discard | TransactionVerb::Exec if !is_queueing => {
                reply::without_multi(&mut out, request.row);
                Outcome::Refused
            }
            TransactionVerb::Discard | TransactionVerb::Unwatch => {
                self.forget_transaction();
                reply::ok(&mut out);
                Outcome::Ok
            }
            TransactionVerb::Watch if is_queueing => {
                reply::watch_inside_multi(&mut out);
                Outcome::Refused
            }
            TransactionVerb::Watch => return self.watch(view, listener, request),
            TransactionVerb::Exec => return self.exec(view, listener, request, is_watching),
        };
        self.count_failed(request.row, outcome);
        self.answer(verb_of(request.row), &out, outcome);
        Handled::Yes
    }

    /// Whether all that came before is answered; what comes after waits until this is.
    pub(super) fn takes_its_turn(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.output.slots.is_empty() {
            inner.alone = true;
            return true;
        }
        inner.obstacle = Obstacle::Due;
        false
    }

    fn watch(self: &Rc<Self>, view: &View, listener: &Listener, request: &Request<'_>) -> Handled {
        if !self.takes_its_turn() {
            return Handled::NotYet;
        }
        let mut out = Vec::new();
        let slot = self.open_slot(verb_of(request.row));
        if let Err(outcome) = self.send_watch(view, listener, request, slot, &mut out) {
            self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
        }
        Handled::Yes
    }

    fn send_watch(
        self: &Rc<Self>,
        view: &View,
        listener: &Listener,
        request: &Request<'_>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Outcome> {
        let place = Coordinator::place_of_all(view, listener, request, out)?;
        let Some((place, node)) = place.and_then(|place| Some((place, view.node(place)?))) else {
            reply::no_pool(out);
            return Err(Outcome::Refused);
        };
        let mut inner = self.inner.borrow_mut();
        let transaction = inner.transaction.get_or_insert_default();
        if let Some(group) = self.worker.coordinator.group(usize::from(place.pool)) {
            if transaction.node().is_some_and(|other| other.pool != place.pool) {
                reply::crossslot(out);
                return Err(Outcome::Refused);
            }
            Coordinator::check_replicated(view, listener, &group, request, &mut transaction.anchor, out)?;
            transaction.watched_at = Some(place);
            drop(inner);
            self.watch_copies(group, Coordinator::keys_for_store(view, listener, request), slot);
            return Ok(());
        }
        let keys = request.args.len() - 1;
        let failed = |cause| Failure { node: node.options().label.clone(), cause };
        transaction.is_watch_lost |= transaction.watch.take_if(|watch| watch.exclusive.is_closed()).is_some();
        if transaction.node().is_some_and(|other| other != place) {
            reply::crossslot(out);
            return Err(Outcome::Refused);
        }
        if transaction.watch.is_none() {
            let exclusive = node.exclusive(request.version);
            let exclusive = exclusive.map_err(|cause| coordinator::write_failure(&failed(cause), out))?;
            transaction.watch = Some(Watch { exclusive, place, version: request.version, keys: 0 });
        }
        let Some(watch) = transaction.watch.as_mut() else { return Ok(()) };
        watch.keys += keys;
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut frame = Vec::new();
        Coordinator::write_for_store(view, listener, request, &mut frame);
        let sent = watch.exclusive.send(&frame, &sink, Tag { slot, part: 0 });
        sent.map_err(|cause| coordinator::write_failure(&failed(cause), out))
    }

    /// Has the replicas say which states the client watches.
    fn watch_copies(self: &Rc<Self>, group: Rc<Group<Stores>>, keys: Vec<Vec<u8>>, slot: u32) {
        let session = Rc::clone(self);
        let engine = Rc::clone(self.worker.coordinator.engine());
        self.worker.context.spawn(async move {
            let mut out = Vec::new();
            match engine.watch(&group, &keys).await {
                Ok(states) => {
                    reply::ok(&mut out);
                    if let Some(transaction) = &mut session.inner.borrow_mut().transaction {
                        transaction.watched.extend(keys.into_iter().zip(states));
                    }
                }
                Err(trouble) => reply::no_replicas(&mut out, trouble),
            }
            let _: Flow = ReplySink::reply(session, Tag { slot, part: 0 }, Piece::Whole(&out));
        });
    }

    fn exec(self: &Rc<Self>, view: &View, listener: &Listener, request: &Request<'_>, is_watching: bool) -> Handled {
        let channels = self.inner.borrow().transaction.as_ref().map(|it| it.channels.clone()).unwrap_or_default();
        if !channels.is_empty()
            && self.waits_for_listeners(view, listener, Kind::Channel, &mut channels.iter().map(Vec::as_slice))
        {
            return Handled::NotYet;
        }
        if is_watching && !self.takes_its_turn() {
            return Handled::NotYet;
        }
        if !self.announce_pauses(view) {
            return Handled::NotYet;
        }
        let Some(transaction) = self.inner.borrow_mut().transaction.take() else { return Handled::Yes };
        let Transaction { is_void, frames, place, mut watch, watched, watched_at, is_watch_lost, .. } = *transaction;
        let place = place.or(watched_at);
        let is_lost =
            is_watch_lost || watch.as_ref().is_some_and(|it| it.exclusive.is_closed() || it.version != request.version);
        let mut out = Vec::new();
        if is_void || is_lost {
            if let Some(watch) = watch.take() {
                unwatch(self, watch);
            }
            let outcome = if is_void { Outcome::Refused } else { Outcome::Ok };
            if is_void {
                reply::exec_aborted(&mut out);
            } else {
                // Nobody knows whether the watched keys are what they were.
                reply::null_array(&mut out, resp_of(request.version));
            }
            self.count_failed(request.row, outcome);
            self.answer(verb_of(request.row), &out, outcome);
            return Handled::Yes;
        }
        let mut scan = RequestScan::default();
        let mut bounds = Vec::new();
        let mut rest = frames.as_slice();
        while let Ok(Scanned::Request { len }) = scan.scan(rest, &Limits::REDIS) {
            let (frame, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            bounds.push((frame, scan.bounds().to_vec()));
            scan.reset();
            rest = tail;
        }
        let queued = bounds.iter().filter_map(|(frame, bounds)| self.part(view, listener, request, frame, bounds));
        let queued: Vec<Part<'_>> = queued.collect();
        let slot = self.open_slot(verb_of(request.row));
        if let Verdict::Answered(outcome) =
            self.send_exec(view, listener, request, place, watch, &watched, queued, slot, &mut out)
        {
            self.settle(&mut self.inner.borrow_mut(), slot, &out, Last::Yes, outcome);
        }
        Handled::Yes
    }

    /// A queued command, at `EXEC`. What quoit itself answers is answered now.
    fn part<'f>(
        self: &Rc<Self>,
        view: &View,
        listener: &Listener,
        exec: &Request<'_>,
        frame: &'f [u8],
        bounds: &'f [(u32, u32)],
    ) -> Option<Part<'f>> {
        let args = Args::new(frame, bounds);
        let row = view.topology.config.commands.resolve(&args).ok()?;
        match row.handling {
            Handling::Local(LocalVerb::ClientPause | LocalVerb::ClientUnpause) => {
                Some(Part::Answered(self.pause_at_once(row, &args)))
            }
            Handling::Local(verb) => {
                let mut own = Vec::new();
                match local::answer(self, view, listener, verb, row, &args, &mut own) {
                    Local::Reply(_) => {}
                    Local::Last | Local::Silent | Local::Close => reply::not_in_transaction(&mut own, row),
                }
                Some(Part::Answered(own))
            }
            Handling::Transaction(_) => {
                let mut own = Vec::new();
                reply::ok(&mut own);
                Some(Part::Answered(own))
            }
            Handling::ToDatabase if databases::refusal(view, listener, row, &args).is_some() => {
                databases::refusal(view, listener, row, &args).map(Part::Answered)
            }
            _ => Some(Part::Store(Request { frame, args, row, version: exec.version, level: exec.level })),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a transaction, where it goes and who hears of it")]
    fn send_exec(
        self: &Rc<Self>,
        view: &View,
        listener: &Listener,
        request: &Request<'_>,
        place: Option<Place>,
        watch: Option<Watch>,
        watched: &[(Vec<u8>, Watched)],
        parts: Vec<Part<'_>>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let is_local = parts.iter().all(|part| matches!(part, Part::Answered(_)));
        if watch.is_none() && watched.is_empty() && is_local {
            reply::array_header(out, parts.len());
            for part in parts {
                if let Part::Answered(bytes) = part {
                    out.extend_from_slice(&bytes);
                }
            }
            return Verdict::Answered(Outcome::Ok);
        }
        // The ring may have changed since: where the keys are now is what counts.
        let mut now = None;
        for part in &parts {
            let Part::Store(request) = part else { continue };
            match Coordinator::place_of_all(view, listener, request, out) {
                Err(outcome) => return Verdict::Answered(outcome),
                Ok(Some(place)) if now.is_some_and(|other| other != place) => {
                    reply::crossslot(out);
                    return Verdict::Answered(Outcome::Refused);
                }
                Ok(place) => now = now.or(place),
            }
        }
        let at_watch = watch.as_ref().map(|watch| watch.place);
        let mut place = now.or(place.filter(|_| at_watch.is_none())).or(at_watch);
        let runs = |part: &Part<'_>| matches!(part, Part::Store(it) if matches!(it.row.handling, Handling::Run(_)));
        if place.is_none() && parts.iter().any(runs) {
            // Scripts without keys may use some all the same: where those have several copies no store runs them by itself.
            place = Coordinator::place_of_none(view, listener);
        }
        if let Some(pool) = place.map(|place| usize::from(place.pool))
            && let Some(group) = self.worker.coordinator.group(pool)
        {
            let level = view.topology.config.pools.get(pool).map(|pool| pool.level).unwrap_or_default();
            let (version, level) = (request.version, request.level.unwrap_or(level));
            let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
            let coordinator = &self.worker.coordinator;
            return coordinator
                .transact_replicated(view, listener, &group, &parts, watched, version, level, &sink, slot, out);
        }
        let place = place.or_else(|| Coordinator::place_of_none(view, listener));
        let Some(node) = place.and_then(|place| view.node(place)) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let way = match watch {
            None => Way::Shared(node),
            Some(watch) if Rc::ptr_eq(watch.exclusive.node(), node) => Way::Watching(watch.exclusive),
            Some(watch) => {
                // The keys have another node than when they were watched: they count as changed.
                unwatch(self, watch);
                reply::null_array(out, resp_of(request.version));
                return Verdict::Answered(Outcome::Ok);
            }
        };
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        self.worker.coordinator.transact(view, listener, way, parts, request.version, &sink, slot, out)
    }
}

/// Whether a command may be queued, and the node of its keys.
fn check(
    view: &View,
    listener: &Listener,
    request: &Request<'_>,
    transaction: &Transaction,
    out: &mut Vec<u8>,
) -> Result<Option<Place>, Outcome> {
    let row = request.row;
    if row.flags.contains(Flag::NoMulti) {
        reply::forbidden_in_transaction(out);
        return Err(Outcome::Refused);
    }
    let most = usize::try_from(listener.query_buffer_bytes_max).unwrap_or(usize::MAX);
    if transaction.frames.len() + request.frame.len() > most {
        reply::too_large(out, "bytes in one transaction", most);
        return Err(Outcome::Refused);
    }
    match row.handling {
        // What may wait does not within a transaction.
        Handling::Forward
        | Handling::SameNode
        | Handling::Split(_)
        | Handling::Run(_)
        | Handling::Blocking
        | Handling::ToDatabase => {
            let place = Coordinator::place_of_all(view, listener, request, out)?;
            let other = transaction.node();
            if place.is_some() && other.is_some() && place != other {
                reply::crossslot(out);
                return Err(Outcome::Refused);
            }
            Ok(place)
        }
        Handling::Local(LocalVerb::Select) if databases::leaves(view, listener, &request.args) => {
            reply::select_refused(
                out,
                "inside a transaction",
                "all its commands run in one database; SELECT before MULTI",
            );
            Err(Outcome::Refused)
        }
        Handling::Local(verb) if answers_at_once(verb, request) => Ok(None),
        // Whoever listens does so on every node: it may be published on that of the keys.
        Handling::Transaction(_) | Handling::PubSub(PubSubVerb::Publish) => Ok(None),
        Handling::Local(_) | Handling::Keyspace(_) | Handling::Programs(_) | Handling::PubSub(_) => {
            reply::not_in_transaction(out, row);
            Err(Outcome::Refused)
        }
        Handling::Later(reason) => {
            reply::later(out, row, reason);
            Err(Outcome::Refused)
        }
        Handling::Refused(reason) => {
            reply::refused(out, row, reason);
            Err(Outcome::Refused)
        }
    }
}

/// Whether a local verb has its reply at once, and does not change how replies look.
fn answers_at_once(verb: LocalVerb, request: &Request<'_>) -> bool {
    let asks_stores = verb == LocalVerb::ConfigGet && settings::asks_stores(&request.args);
    !asks_stores
        && !matches!(
            verb,
            LocalVerb::AclChange
                | LocalVerb::ClientKill
                | LocalVerb::ClientList
                | LocalVerb::ClientReply
                | LocalVerb::ClientTracking
                | LocalVerb::ClientUnblock
                | LocalVerb::ConfigSet
                | LocalVerb::Debug
                | LocalVerb::Hello
                | LocalVerb::HttpRequest
                | LocalVerb::Monitor
                | LocalVerb::Pfdebug
                | LocalVerb::Pfselftest
                | LocalVerb::Quoit
        )
}
