//! Transactions: where their commands go, and how the reply to `EXEC` comes to be.
//!
//! A client's commands are kept by its session until `EXEC`; then all go to their store in one piece, `MULTI` … `EXEC`, on
//! the shared connection, where nothing of others comes between. If the client watches keys, they go on the connection that
//! it watches them on.
//!
//! # Invariants
//! - All keys of a transaction, and those watched for it, are on one node.
//! - A command that the store refuses while it is queued voids the transaction, as a client expects it.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;

use super::{Coordinator, Request, Target, Verdict, rewritten_key};
use crate::backend::redis::{Exclusive, Node};
use crate::backend::{Flow, Piece, ReplySink, Stores, Tag};
use crate::command::{self, Args, Flag, Handling, KeyError, KeyIndexes, Program, reply};
use crate::config::{Listener, Rewrite};
use crate::metrics::Outcome;
use crate::protocol::resp::{
    Limits as RequestLimits, ReplyScan, RequestScan, Scanned, Step, Version, write_bulk, write_header, write_request,
};
use crate::quorum::Level;
use crate::replication::{Group, Transaction, Watched};
use crate::topology::{Place, View};
use crate::version::is_reserved;

/// A command of a transaction, at `EXEC`.
pub enum Part<'a> {
    /// Its store runs it.
    Store(Request<'a>),
    /// Quoit has answered it.
    Answered(Vec<u8>),
}

/// What a transaction is sent on.
pub enum Way<'v> {
    /// The shared connection of its node.
    Shared(&'v Rc<Node>),
    /// That on which its client watches keys.
    Watching(Exclusive),
}

impl Coordinator {
    /// The node of all keys of a request, or the pool where they have several copies; none if it has no keys.
    ///
    /// # Errors
    /// When they are on several nodes, or on none; the answer was appended to `out`.
    pub fn place_of_all(
        view: &View,
        listener: &Listener,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Place>, Outcome> {
        let target = Target { view, listener };
        let mut keys = KeyIndexes::new();
        if command::keys(request.row, &request.args, &mut keys).is_err() {
            return Ok(None); // Malformed: any store refuses it.
        }
        let most = listener.keys_per_command_max;
        if keys.len() > most {
            reply::too_large(out, "keys in one command", most);
            return Err(Outcome::Refused);
        }
        let mut found: Option<Place> = None;
        for at in &keys {
            let Some((place, ..)) = request.args.get(*at as usize).and_then(|key| target.owner(key)) else {
                reply::no_pool(out);
                return Err(Outcome::Refused);
            };
            let place = view.stand_in(place);
            if found.is_some_and(|other| other != place) {
                reply::crossslot(out);
                return Err(Outcome::Refused);
            }
            found = Some(place);
        }
        Ok(found)
    }

    /// The node that runs commands without keys: every proxy chooses the same, as scripts may have something there.
    pub fn place_of_none(view: &View, listener: &Listener) -> Option<Place> {
        Some(view.owner(listener.pool, b"")?.0)
    }

    /// Whether a request may be part of a transaction over keys with several replicas. `anchor` is a key of the transaction,
    /// if there is one already; its replicas have to be those of all.
    ///
    /// # Errors
    /// When it may not; the answer was appended to `out`.
    pub fn check_replicated(
        view: &View,
        listener: &Listener,
        group: &Group<Stores>,
        request: &Request<'_>,
        anchor: &mut Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Outcome> {
        let target = Target { view, listener };
        let mut keys = KeyIndexes::new();
        let is_known = request.row.keys.is_empty()
            || match command::keys(request.row, &request.args, &mut keys) {
                Ok(()) => true,
                Err(error) => error == KeyError::NoKeys && matches!(request.row.handling, Handling::Run(_)),
            };
        let is_script = matches!(request.row.handling, Handling::Run(Program::Text | Program::Digest));
        let is_kept_out =
            request.row.flags.contains(Flag::Noscript) && !is_script || request.row.handling == Handling::Blocking;
        if is_kept_out && request.row.name != "watch" {
            reply::not_in_replicated_transaction(out, request.row);
            return Err(Outcome::Refused);
        }
        if !is_known {
            reply::syntax_error(out);
            return Err(Outcome::Refused);
        }
        for at in &keys {
            let key = request.args.get(*at as usize).unwrap_or_default();
            let key = match target.listener.route(key) {
                Some(route) => rewritten_key(&target, key, &route.rewrite),
                None => key.into(),
            };
            if is_reserved(&key) {
                reply::reserved_key(out);
                return Err(Outcome::Refused);
            }
            let first = anchor.get_or_insert_with(|| key.to_vec());
            let same = match (group.replicas_of(first), group.replicas_of(&key)) {
                (Some(mut one), Some(other)) => group.join(&mut one, &other),
                _ => false,
            };
            if !same {
                reply::crossslot(out);
                return Err(Outcome::Refused);
            }
        }
        Ok(())
    }

    /// The keys of a request as their store knows them.
    pub fn keys_for_store(view: &View, listener: &Listener, request: &Request<'_>) -> Vec<Vec<u8>> {
        let target = Target { view, listener };
        let mut keys = KeyIndexes::new();
        if command::keys(request.row, &request.args, &mut keys).is_err() {
            return Vec::new();
        }
        let key = |at: &u32| {
            let key = request.args.get(*at as usize)?;
            Some(match target.listener.route(key) {
                Some(route) => rewritten_key(&target, key, &route.rewrite).into_owned(),
                None => key.to_vec(),
            })
        };
        keys.iter().filter_map(key).collect()
    }

    /// Runs a transaction over keys with several replicas.
    #[expect(clippy::too_many_arguments, reason = "a transaction, where it goes and who hears of it")]
    pub fn transact_replicated(
        &self,
        view: &View,
        listener: &Listener,
        group: &Rc<Group<Stores>>,
        parts: &[Part<'_>],
        watched: &[(Vec<u8>, Watched)],
        version: Version,
        level: Level,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.engine.send_gathered();
        let mut anchor = watched.first().map(|(key, _)| key.clone());
        let (mut frames, mut own, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for (at, part) in parts.iter().enumerate() {
            match part {
                Part::Answered(bytes) => own.push((at, bytes.clone())),
                Part::Store(request) => {
                    if let Err(outcome) = Self::check_replicated(view, listener, group, request, &mut anchor, out) {
                        return Verdict::Answered(outcome);
                    }
                    texts.push(self.text_of(request));
                    let mut frame = Vec::new();
                    Self::write_for_store(view, listener, request, &mut frame);
                    let mut scan = RequestScan::default();
                    if let Ok(Scanned::Request { .. }) = scan.scan(&frame, &RequestLimits::REDIS) {
                        frames.push((request.row, frame, scan.bounds().to_vec()));
                    }
                }
            }
        }
        let commands: Vec<_> = frames.iter().map(|(row, frame, bounds)| (*row, Args::new(frame, bounds))).collect();
        let Some(members) = anchor.and_then(|key| group.replicas_of(&key)) else {
            reply::no_key_in_transaction(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let heard: Rc<dyn ReplySink> = Rc::new(Exec {
            sink: Rc::clone(sink),
            tag: Tag { slot, part: 0 },
            own,
            held: RefCell::default(),
            exclusive: RefCell::new(None),
        });
        let transaction = Transaction { group, members, commands: &commands, texts: &texts, watched, version, level };
        self.engine.transact(&transaction, &heard, Tag::default());
        Verdict::Sent
    }

    /// Appends a request as its store is to get it.
    pub fn write_for_store(view: &View, listener: &Listener, request: &Request<'_>, out: &mut Vec<u8>) {
        let target = Target { view, listener };
        let mut keys = KeyIndexes::new();
        let is_known = !listener.routes.is_empty() && command::keys(request.row, &request.args, &mut keys).is_ok();
        let is_rewritten = is_known
            && keys.iter().any(|at| {
                let owner = request.args.get(*at as usize).and_then(|key| target.owner(key));
                owner.is_some_and(|(_, _, rewrite)| *rewrite != Rewrite::Keep)
            });
        if !is_rewritten {
            out.extend_from_slice(request.frame);
            return;
        }
        write_header(out, b'*', request.args.len());
        for (at, arg) in request.args.iter().enumerate() {
            match target.owner(arg) {
                Some((_, _, rewrite)) if keys.iter().any(|key| *key as usize == at) => {
                    write_bulk(out, &rewritten_key(&target, arg, rewrite));
                }
                _ => write_bulk(out, arg),
            }
        }
    }

    /// Sends a transaction.
    #[expect(clippy::too_many_arguments, reason = "a transaction, where it goes and who hears of it")]
    pub fn transact(
        &self,
        view: &View,
        listener: &Listener,
        way: Way<'_>,
        parts: Vec<Part<'_>>,
        version: Version,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.engine.send_gathered();
        let mut frames = Vec::new();
        let node = match &way {
            Way::Shared(node) => node,
            Way::Watching(exclusive) => exclusive.node(),
        };
        let (mut count, mut own) = (2 + self.load_before(node, &parts, &mut frames), Vec::new());
        write_request(&mut frames, [b"MULTI".as_slice()].into_iter());
        for (at, part) in parts.into_iter().enumerate() {
            match part {
                Part::Store(request) => {
                    Self::write_for_store(view, listener, &request, &mut frames);
                    count += 1;
                }
                Part::Answered(bytes) => own.push((at, bytes)),
            }
        }
        write_request(&mut frames, [b"EXEC".as_slice()].into_iter());
        let (node, exclusive) = match way {
            Way::Shared(node) => (Rc::clone(node), None),
            Way::Watching(exclusive) => (Rc::clone(exclusive.node()), Some(exclusive)),
        };
        let exec = Rc::new(Exec {
            sink: Rc::clone(sink),
            tag: Tag { slot, part: 0 },
            own,
            held: RefCell::default(),
            exclusive: RefCell::new(None),
        });
        let heard: Rc<dyn ReplySink> = Rc::<Exec>::clone(&exec);
        let mut write = |out: &mut Vec<u8>| out.extend_from_slice(&frames);
        let sent = match &exclusive {
            None => node.send_transaction(frames.len(), count, &mut write, version, &heard, Tag::default()),
            Some(exclusive) => exclusive.send_transaction(count, &mut write, &heard, Tag::default()),
        };
        if sent.is_ok() {
            *exec.exclusive.borrow_mut() = exclusive;
        } else {
            node.forget_programs(); // What was to be loaded before it was not.
        }
        super::verdict(&node, sent, out)
    }
}

/// Hears the reply to `EXEC`.
struct Exec {
    sink: Rc<dyn ReplySink>,
    tag: Tag,
    /// The replies of commands that quoit answered, and their places.
    own: Vec<(usize, Vec<u8>)>,
    /// The store's reply, while it comes and has to be put together with those.
    held: RefCell<Vec<u8>>,
    /// The connection that the client watched keys on: it remembers nothing after `EXEC`.
    exclusive: RefCell<Option<Exclusive>>,
}

impl Exec {
    fn done(&self) {
        if let Some(exclusive) = self.exclusive.take() {
            exclusive.give_back();
        }
    }

    fn whole(&self, bytes: &[u8]) -> Flow {
        let sink = Rc::clone(&self.sink);
        let is_plain = bytes.starts_with(b"-EXECABORT") || reply::is_unavailable(bytes);
        if bytes.first() == Some(&b'-') && !is_plain && !bytes.starts_with(b"-UNKNOWN") {
            let mut out = Vec::new();
            reply::exec_aborted_because(&mut out, bytes.get(1..).unwrap_or_default());
            return sink.reply(self.tag, Piece::Whole(&out));
        }
        if self.own.is_empty() || bytes.first() != Some(&b'*') || bytes.starts_with(b"*-1") {
            return sink.reply(self.tag, Piece::Whole(bytes));
        }
        match merged(bytes, &self.own) {
            Some(all) => sink.reply(self.tag, Piece::Whole(&all)),
            None => sink.reply(self.tag, Piece::Whole(bytes)),
        }
    }
}

/// The store's replies with those of quoit in their places.
fn merged(store: &[u8], own: &[(usize, Vec<u8>)]) -> Option<Vec<u8>> {
    let header = store.iter().position(|byte| *byte == b'\n')? + 1;
    let count: usize = std::str::from_utf8(store.get(1..header.checked_sub(2)?)?).ok()?.parse().ok()?;
    let mut rest = store.get(header..)?;
    let mut own = own.iter().peekable();
    let mut all = Vec::with_capacity(store.len() + 64);
    let total = count + own.len();
    write_header(&mut all, b'*', total);
    for at in 0..total {
        if let Some((_, bytes)) = own.next_if(|(place, _)| *place == at) {
            all.extend_from_slice(bytes);
            continue;
        }
        let Ok(Step::Complete { len }) = ReplyScan::default().advance(rest) else { return None };
        let (reply, tail) = rest.split_at_checked(len)?;
        all.extend_from_slice(reply);
        rest = tail;
    }
    Some(all)
}

impl ReplySink for Exec {
    fn reply(self: Rc<Self>, _: Tag, piece: Piece<'_>) -> Flow {
        let is_held = !self.own.is_empty();
        match piece {
            Piece::Whole(bytes) => {
                self.done();
                self.whole(bytes)
            }
            Piece::Begin(bytes) | Piece::More(bytes) if is_held => {
                self.held.borrow_mut().extend_from_slice(bytes);
                Flow::Continue
            }
            Piece::End(bytes) => {
                self.done();
                if !is_held {
                    return Rc::clone(&self.sink).reply(self.tag, Piece::End(bytes));
                }
                let mut all = self.held.take();
                all.extend_from_slice(bytes);
                self.whole(&all)
            }
            Piece::Failed(failure) => {
                drop(self.exclusive.take());
                Rc::clone(&self.sink).reply(self.tag, Piece::Failed(failure))
            }
            other => Rc::clone(&self.sink).reply(self.tag, other),
        }
    }

    fn ready(&self, _: Tag, waker: &Waker) -> bool {
        self.sink.ready(self.tag, waker)
    }

    fn origin(&self) -> usize {
        self.sink.origin()
    }

    fn make_way(&self) {
        self.sink.make_way();
    }
}
