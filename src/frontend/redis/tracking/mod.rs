//! Clients that hold copies of keys: what they ask for (`CLIENT TRACKING`), which of their requests are about which keys,
//! and how they are told that a key has changed. What a worker knows of keys: `coordinator::tracking`.
//!
//! # Invariants
//! - Who reads is told of a change after the reply that may be older than it; who writes, after the reply to its write.
//! - A client whose news could not be passed on to the client that is to have it is told, later, that everything may have
//!   changed.

mod own_writes;

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use self::own_writes::{Digest, has_changed, value_written};
use super::clients::Ask;
use super::local::{Local, answer_later, resp_of};
use super::requests::Handled;
use super::session::{Inner, Session};
use super::worker::{Order, Worker};
use crate::command::reply::{self, Resp};
use crate::command::tracking::{self, Switch, Tracking};
use crate::command::{self, Args, Flag, Handling, KeyIndexes, LocalVerb, Row, TransactionVerb};
use crate::coordinator::pubsub::Push;
use crate::coordinator::tracking::{Afterwards, Due, Tracker, Use, Wish, Written};
use crate::metrics::Outcome;
use crate::protocol::resp::{Limits, RequestScan, Scanned, Version};
use crate::topology::View;

/// A key of a request that is due.
struct DueKey {
    /// What its client calls it.
    name: Box<[u8]>,
    due: Due,
    /// What the request gives it, where that matters.
    value: Option<Digest>,
}

/// A request that is due.
struct Asked {
    slot: u32,
    keys: SmallVec<[DueKey; 1]>,
    row: &'static Row,
    /// It has changed its keys, for sure.
    has_changed: bool,
}

/// What a client tracks.
#[derive(Default)]
pub(super) struct Tracks {
    pub(super) options: Tracking,
    /// The worker of the client that is told in its place.
    worker: usize,
    /// In the order of their slots.
    asked: VecDeque<Asked>,
    /// The client in its place has to be told that everything may have changed, as soon as its worker can be told that.
    owes_all: bool,
}

/// What a request does with keys.
type Uses = SmallVec<[(Box<[u8]>, Use, Option<Digest>); 2]>;

impl Worker {
    /// Which of the workers has a client of that number.
    async fn find_client(&self, id: i64) -> Option<usize> {
        let id = u64::try_from(id).ok()?;
        for (number, worker) in self.fleet.workers.iter().enumerate() {
            let (sender, answer) = oneshot::channel();
            if worker.send(Order::Ask(Ask::Find(id, sender))).await.is_ok() && answer.await == Ok(true) {
                return Some(number);
            }
        }
        None
    }

    /// Tells a client of this worker what another one tracks; whether it is here.
    pub(super) fn tell_in_place(&self, id: u64, keys: &[u8]) -> bool {
        let session = self.sessions.borrow().get(&id).map(Rc::clone);
        let Some(session) = session.filter(|session| !session.has_ended()) else { return false };
        let mut inner = session.inner.borrow_mut();
        session.tell_keys(&mut inner, keys, true);
        inner.wake();
        true
    }

    /// The client that is told in the place of a client of this worker has gone.
    pub(super) fn redirect_is_broken(&self, id: u64) {
        let session = self.sessions.borrow().get(&id).map(Rc::clone);
        if let Some(session) = session {
            session.redirect_is_broken(&mut session.inner.borrow_mut());
        }
    }

    /// Looks after what no event announces.
    pub(super) fn keep_tracking(&self) {
        let tracking = self.coordinator.tracking();
        tracking.keep_house();
        self.cells.tracked_keys.set(i64::try_from(tracking.keys()).unwrap_or(i64::MAX));
    }

    /// Whether any client of this worker tracks keys.
    pub(super) fn is_tracking(&self) -> bool {
        self.tracking_clients.get() > 0
    }
}

/// `CLIENT TRACKING`, `CACHING`, `TRACKINGINFO`, `GETREDIR`.
pub(super) fn answer(
    session: &Rc<Session>,
    verb: LocalVerb,
    row: &'static Row,
    resp: Resp,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let mut inner = session.inner.borrow_mut();
    let options = inner.tracks.as_mut().map(|tracks| &mut tracks.options);
    match verb {
        LocalVerb::ClientTracking => {
            inner.alone = true;
            drop(inner);
            let words: Vec<Vec<u8>> = args.iter().skip(2).map(<[u8]>::to_vec).collect();
            return answer_later(session, row, move |session| async move {
                match session.switch_tracking(&words).await {
                    Ok(()) => b"+OK\r\n".to_vec(),
                    Err(refusal) => refusal,
                }
            });
        }
        LocalVerb::ClientCaching => {
            if !Tracking::say_caching(options, args.get(2).unwrap_or_default(), out) {
                return Local::Reply(Outcome::Refused);
            }
        }
        LocalVerb::ClientTrackinginfo => tracking::describe(options.as_deref(), resp, out),
        _ => reply::integer(out, options.map_or(-1, |options| options.redirect)),
    }
    Local::Reply(Outcome::Ok)
}

impl Session {
    async fn switch_tracking(self: &Rc<Self>, words: &[Vec<u8>]) -> Result<(), Vec<u8>> {
        let mut found = Vec::new();
        for id in tracking::redirects(words) {
            found.push((id, self.worker.find_client(id).await));
        }
        let worker_of = |id: i64| found.iter().find(|(found, _)| *found == id).and_then(|(_, worker)| *worker);
        let current = self.inner.borrow().tracks.as_ref().map(|tracks| tracks.options.clone());
        let wanted = match tracking::parse(words, current.as_ref(), |id| worker_of(id).is_some())? {
            Switch::Off => {
                self.track_no_more();
                return Ok(());
            }
            Switch::On(wanted) => wanted,
        };
        let wish = if wanted.broadcast { Wish::Prefixes(wanted.prefixes.clone()) } else { Wish::Read };
        let tracker: Rc<dyn Tracker> = Rc::<Self>::clone(self);
        let view = self.worker.view();
        let tracking = Rc::clone(self.worker.coordinator.tracking());
        tracking.begin(&view, self.listener, self.id, wish, tracker).await?;
        let mut inner = self.inner.borrow_mut();
        if inner.broken {
            tracking.leave(self.id);
            return Ok(());
        }
        if inner.tracks.is_none() {
            self.worker.tracking_clients.set(self.worker.tracking_clients.get() + 1);
            self.cells.tracking_clients.add(1);
            self.worker.look_around();
        }
        let tracks = inner.tracks.get_or_insert_default();
        tracks.worker = worker_of(wanted.redirect).unwrap_or_default();
        tracks.owes_all = false;
        tracks.options.replaced_by(wanted);
        Ok(())
    }

    /// The client tracks nothing any more.
    pub(super) fn track_no_more(&self) {
        let Some(tracks) = self.inner.borrow_mut().tracks.take() else { return };
        let tracking = self.worker.coordinator.tracking();
        for key in tracks.asked.iter().flat_map(|asked| &asked.keys) {
            let _: Afterwards = tracking.finish(self.id, &key.due, Written::Told);
        }
        tracking.leave(self.id);
        self.worker.tracking_clients.set(self.worker.tracking_clients.get().saturating_sub(1));
        self.cells.tracking_clients.add(-1);
        self.worker.look_around();
    }

    /// Serves a request of a client that may track keys, by `serve`.
    pub(super) fn serve_tracked(
        self: &Rc<Self>,
        view: &View,
        row: &'static Row,
        args: &Args<'_>,
        serve: impl FnOnce() -> Handled,
    ) -> Handled {
        let Some(uses) = self.uses(view, row, args) else { return serve() };
        let next = self.inner.borrow().output.next();
        let handled = serve();
        let mut inner = self.inner.borrow_mut();
        let was_sent = handled == Handled::Yes && inner.output.next() != next;
        let is_queueing = inner.transaction.as_ref().is_some_and(|transaction| transaction.counts().0 >= 0);
        if let Some(tracks) = inner.tracks.as_mut().filter(|_| handled == Handled::Yes) {
            tracks.options.caching &= is_queueing || row.name.starts_with("client|");
        }
        let is_due = inner.output.slot(next).is_some();
        drop(inner);
        if was_sent && is_due && !uses.is_empty() {
            self.remember(next, row, uses);
        }
        handled
    }

    /// What a request does with which keys; none if the client tracks nothing.
    fn uses(&self, view: &View, row: &'static Row, args: &Args<'_>) -> Option<Uses> {
        let inner = self.inner.borrow();
        let options = &inner.tracks.as_ref()?.options;
        let mut uses = Uses::new();
        match &inner.transaction {
            Some(transaction) if transaction.counts().0 >= 0 => {
                if row.handling == Handling::Transaction(TransactionVerb::Exec) {
                    let mut scan = RequestScan::default();
                    let mut rest = transaction.frames();
                    while let Ok(Scanned::Request { len }) = scan.scan(rest, &Limits::REDIS) {
                        let (frame, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                        let args = Args::new(frame, scan.bounds());
                        if let Ok(row) = view.topology.config.commands.resolve(&args) {
                            add_uses(options, row, &args, &mut uses);
                        }
                        scan.reset();
                        rest = tail;
                    }
                }
            }
            _ => add_uses(options, row, args, &mut uses),
        }
        Some(uses)
    }

    fn remember(&self, slot: u32, row: &'static Row, uses: Uses) {
        let tracking = self.worker.coordinator.tracking();
        let keys = uses.into_iter().filter_map(|(name, with, value)| {
            let due = tracking.start(self.id, &name, with)?;
            Some(DueKey { name, due, value })
        });
        let keys = keys.collect();
        if let Some(tracks) = self.inner.borrow_mut().tracks.as_mut() {
            tracks.asked.push_back(Asked { slot, keys, row, has_changed: false });
        }
    }

    /// A reply is whole. What was due before the first slot that still is has been answered.
    #[cold]
    pub(super) fn tell_after(&self, inner: &mut Inner, slot: u32, reply: &[u8]) {
        let Some(mut tracks) = inner.tracks.take() else { return };
        if let Some(asked) = tracks.asked.iter_mut().find(|asked| asked.slot == slot) {
            asked.has_changed = has_changed(asked.row, asked.keys.len(), reply);
        }
        let (no_loop, verifies) = (tracks.options.no_loop, tracks.verifies());
        let mut told: Vec<Box<[u8]>> = Vec::new();
        while let Some(asked) = tracks.asked.pop_front_if(|asked| !inner.output.is_due(asked.slot)) {
            let is_own = no_loop && asked.has_changed;
            let written = if is_own && !verifies { Written::Silently } else { Written::Told };
            for DueKey { name, due, value } in asked.keys {
                if let Some(value) = value.filter(|_| is_own && verifies) {
                    self.verify_later(name, due, value);
                    continue;
                }
                let afterwards = self.worker.coordinator.tracking().finish(self.id, &due, written);
                if afterwards == Afterwards::Changed && !told.contains(&name) {
                    told.push(name);
                }
            }
        }
        let names: Vec<&[u8]> = told.iter().map(AsRef::as_ref).collect();
        let messages = tracks.options.messages(&names);
        inner.tracks = Some(tracks);
        for keys in messages {
            self.tell_of(inner, Some(&keys));
        }
    }

    /// Tells the client, or who is told in its place, of these keys; of all if there are none.
    fn tell_of(&self, inner: &mut Inner, keys: Option<&[&[u8]]>) {
        let resp = resp_of(inner.version);
        let Some(tracks) = inner.tracks.as_mut() else { return };
        let mut payload = Vec::new();
        tracking::write_keys(&mut payload, keys, resp);
        match tracks.options.redirect {
            0 => self.tell_keys(inner, &payload, false),
            id if u64::try_from(id) == Ok(self.id) => self.tell_keys(inner, &payload, true),
            id => {
                let id = u64::try_from(id).unwrap_or_default();
                if tracks.worker == self.worker.number() {
                    if !self.worker.tell_in_place(id, &payload) {
                        self.redirect_is_broken(inner);
                    }
                } else if !tracks.owes_all {
                    // What is owed is owed until it was taken: `keep_tracking`.
                    tracks.owes_all = !self.pass_on_keys(tracks.worker, id, payload);
                }
            }
        }
    }

    fn pass_on_keys(&self, worker: usize, id: u64, payload: Vec<u8>) -> bool {
        let ask = Ask::Tell { id, keys: payload, of: self.id, from: self.worker.number() };
        let worker = self.worker.fleet.workers.get(worker);
        worker.is_none_or(|worker| worker.try_send(Order::Ask(ask)).is_ok())
    }

    /// Passes on what could not be passed on before.
    pub(super) fn keep_tracking(&self) {
        let mut inner = self.inner.borrow_mut();
        if let Some(tracks) = inner.tracks.as_mut()
            && std::mem::take(&mut tracks.owes_all)
        {
            self.tell_of(&mut inner, None);
        }
    }

    /// Appends what the client is told, by itself or in another's place, if its protocol allows.
    fn tell_keys(&self, inner: &mut Inner, keys: &[u8], in_place: bool) {
        let is_told = inner.version == Version::Resp3 || (in_place && inner.subscriptions.is_some());
        if is_told && !inner.broken {
            self.tell_frame(inner, &tracking::frame(keys, resp_of(inner.version)));
            self.cells.invalidations.increment();
        }
    }

    fn tell_frame(&self, inner: &mut Inner, frame: &[u8]) {
        if self.may_hold(inner, frame.len()) {
            if inner.output.bytes.capacity() == 0 {
                inner.output.bytes = self.worker.context.take_buffer();
            }
            inner.output.tell(super::pubsub::marker(inner.version), Push::Short(frame));
        }
    }

    fn redirect_is_broken(&self, inner: &mut Inner) {
        let Some(tracks) = inner.tracks.as_mut() else { return };
        tracks.options.is_broken = true;
        let redirect = tracks.options.redirect;
        if inner.version == Version::Resp3 {
            self.tell_frame(inner, &tracking::broken_frame(redirect));
        }
        inner.wake();
    }

    fn tell_now(&self, keys: Option<&[&[u8]]>) {
        let mut inner = self.inner.borrow_mut();
        if inner.broken {
            return;
        }
        let Some(tracks) = &inner.tracks else { return };
        match keys.map(|keys| tracks.options.messages(keys)) {
            None => self.tell_of(&mut inner, None),
            Some(messages) => messages.iter().for_each(|keys| self.tell_of(&mut inner, Some(keys))),
        }
        inner.wake();
    }
}

impl Tracker for Session {
    fn changed(&self, keys: &[&[u8]]) {
        self.tell_now(Some(keys));
    }

    fn forget_all(&self) {
        self.tell_now(None);
    }
}

fn add_uses(options: &Tracking, row: &Row, args: &Args<'_>, uses: &mut Uses) {
    // A program may do both.
    let is_program = matches!(row.handling, Handling::Run(_));
    let reads = row.flags.contains(Flag::Readonly) || is_program;
    // One that waits for others would have its client wait for the news of what they do.
    let writes = (row.flags.contains(Flag::Write) && row.handling != Handling::Blocking) || is_program;
    let mut found = KeyIndexes::new();
    if (!reads && !writes) || command::keys(row, args, &mut found).is_err() {
        return;
    }
    for at in found.iter().map(|at| *at as usize) {
        let Some(key) = args.get(at) else { continue };
        if reads && options.broadcast {
            uses.push((key.into(), Use::ReadUnderPrefix, None));
        } else if reads && options.tracks_next() {
            uses.push((key.into(), Use::Read, None));
        }
        if writes {
            let value = if options.broadcast && options.no_loop { value_written(row, args, at) } else { None };
            let with = if options.broadcast { Use::WriteUnderPrefix } else { Use::Write };
            uses.push((key.into(), with, value));
        }
    }
}
