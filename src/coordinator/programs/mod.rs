//! Scripts and functions: `EVAL`, `EVALSHA`, `FCALL`, and `SCRIPT` and `FUNCTION`, which are about all nodes.
//!
//! A program runs on the node of its keys, and one without keys on the node that would have the empty key. A store that
//! lacks it (it was restarted, it was told to forget) is told: a script's text before the request, where this process
//! remembers it (`ahead`), otherwise after the store has said so (`call`, `heal`). What concerns all nodes is in `everywhere`,
//! what is remembered in `sources`. `docs/decisions/2026-11-23-scripts.md` says why nothing is kept in the stores.
//!
//! # Invariants
//! - A request is sent a second time only where the store has said that it did not run it, and only if nothing that its
//!   client sent later has left.
//! - What is remembered is bounded, and what waits for an answer is charged to the worker's memory.

mod ahead;
mod call;
mod everywhere;
mod functions;
mod heal;
mod reads;
mod sources;

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

pub use sources::Sources;

use super::replicated::Own;
use super::{Coordinator, Part, Request, Target, Verdict, rewritten_key};
use crate::backend::redis::Node;
use crate::backend::{ReplySink, Tag};
use crate::clock::Moment;
use crate::command::{self, Args, Handling, KeyError, KeyIndexes, Program, Replication, reply};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::protocol::resp::write_request;
use crate::replication::{self, Taken};
use crate::topology::View;

use call::Call;
use sources::{Came, Digest};

/// Texts that a worker has handed to [`Sources`] and need not be hashed again.
const SEEN_MAX: usize = 4096;
/// A search that found nothing is not made again for so long.
const FRUITLESS: Duration = Duration::from_secs(1);
/// The same for stores that do not know the verb that would tell (`SCRIPT SHOW`).
const UNABLE: Duration = Duration::from_mins(1);
const FRUITLESS_MAX: usize = 64;

/// The nodes on which a program may run.
type Homes = SmallVec<[Rc<Node>; 3]>;

/// What a worker knows of programs.
#[derive(Default)]
pub(super) struct Programs {
    sources: Arc<Sources>,
    /// Hashes of texts that were handed over, in this epoch of the sources.
    seen: RefCell<HashSet<u64>>,
    epoch: Cell<u64>,
    /// What was looked for in vain, and until when that is believed.
    fruitless: RefCell<VecDeque<(u64, Moment)>>,
}

impl Programs {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, ..Self::default() }
    }

    /// A text is run. Hashing it for this is quick, and its digest is not computed each time.
    fn see(&self, text: &[u8]) {
        let epoch = self.sources.epoch();
        let mut seen = self.seen.borrow_mut();
        if self.epoch.replace(epoch) != epoch || seen.len() >= SEEN_MAX {
            seen.clear();
        }
        if seen.insert(xxhash_rust::xxh3::xxh3_64(text)) {
            self.sources.remember(text, Came::Run);
        }
    }

    fn is_fruitless(&self, number: u64, now: Moment) -> bool {
        let mut fruitless = self.fruitless.borrow_mut();
        fruitless.retain(|(_, until)| *until > now);
        fruitless.iter().any(|(other, _)| *other == number)
    }

    /// What was not there may be now.
    fn hope(&self) {
        self.fruitless.borrow_mut().clear();
    }

    fn note_fruitless(&self, number: u64, until: Moment) {
        let mut fruitless = self.fruitless.borrow_mut();
        if fruitless.len() >= FRUITLESS_MAX {
            fruitless.pop_front();
        }
        fruitless.push_back((number, until));
    }
}

/// What a request calls a program.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Script(Digest),
    Function(Vec<u8>),
}

impl Name {
    fn of(program: Program, word: &[u8]) -> Option<Self> {
        match program {
            Program::Text => None,
            Program::Digest => Digest::parse(word).map(Self::Script),
            Program::Function => Some(Self::Function(word.to_vec())),
        }
    }

    /// The number by which nodes know it.
    fn number(&self) -> u64 {
        match self {
            Self::Script(digest) => digest.number(),
            Self::Function(name) => xxhash_rust::xxh3::xxh3_64(name),
        }
    }
}

impl Coordinator {
    /// Runs a program on the node of its keys.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub fn dispatch_program(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        listener_number: usize,
        program: Program,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.engine.send_gathered(); // It may be about a key that is written there.
        let target = Target { view, listener };
        let mut keys = KeyIndexes::new();
        let key = match command::keys(request.row, &request.args, &mut keys) {
            Ok(()) => keys.first().and_then(|at| request.args.get(*at as usize)),
            Err(KeyError::NoKeys) => None,
            // Any store refuses it in its own words.
            Err(KeyError::Malformed) => return self.send_anywhere(&target, request, sink, slot, out),
        };
        let Some((homes, replicated)) = self.homes(&target, key) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        if replicated && request.row.replication != Replication::Read {
            if program == Program::Function {
                return self.run_function(view, listener_number, &homes, request, key.is_none(), sink, slot);
            }
            return self.run_replicated(&target, program, request, key.is_none(), sink, slot, out);
        }
        let word = request.args.get(1).unwrap_or_default();
        if program == Program::Text {
            self.programs.see(word);
        }
        let Some(name) = Name::of(program, word) else {
            return self.send_program(&target, request, key.is_none(), sink, slot, out);
        };
        let tag = Tag { slot, part: 0 };
        let number = name.number();
        let known = homes.iter().all(|node| node.has_program(number));
        let held = !known
            && match &name {
                Name::Script(digest) => {
                    self.load_ahead(*digest, &homes, request, sink);
                    false
                }
                // Whether it is there is not known, and nothing can be sent ahead: what comes later waits this once.
                Name::Function(_) => sink.hold(tag),
            };
        let call = Call::new(self, view, listener_number, request, key.is_none(), name, homes, known, held, sink, tag);
        let call: Rc<dyn ReplySink> = call;
        self.send_program(&target, request, key.is_none(), &call, slot, out)
    }

    /// The nodes on which a program with this first key, or without keys, may run; and whether they are of a pool with
    /// several copies.
    fn homes(&self, target: &Target<'_>, key: Option<&[u8]>) -> Option<(Homes, bool)> {
        let Some(key) = key else {
            return match self.groups.get(target.listener.pool) {
                Some(group) => Some((group.members.iter().map(|member| Rc::clone(&member.node)).collect(), true)),
                None => Some((std::iter::once(Rc::clone(keyless_home(target)?)).collect(), false)),
            };
        };
        let place = Self::place_of(target, key);
        let Some(group) = self.groups.get(place.pool) else {
            return Some((std::iter::once(Rc::clone(target.owner(key)?.1)).collect(), false));
        };
        let name = match target.listener.route(key) {
            Some(route) => rewritten_key(target, key, &route.rewrite),
            None => key.into(),
        };
        Some((group.replicas_of(&name)?.iter().map(|member| Rc::clone(&member.node)).collect(), true))
    }

    /// Runs what may write keys with several replicas. The engine takes scripts by their text, whatever the stores have.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    fn run_replicated(
        &self,
        target: &Target<'_>,
        program: Program,
        request: &Request<'_>,
        is_keyless: bool,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let word = request.args.get(1).unwrap_or_default();
        let text = match program {
            Program::Text => {
                self.programs.see(word);
                return self.send_replicated(target, request, is_keyless, sink, slot, out);
            }
            Program::Digest => Digest::parse(word).and_then(|digest| self.programs.sources.find(digest)),
            Program::Function => None,
        };
        let (Some(text), Some(row)) = (text, command::lookup(b"eval")) else {
            reply::no_script(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let mut own = Own::default();
        own.begin(request.args.len());
        own.push(b"EVAL");
        own.push(&text);
        for word in request.args.iter().skip(2) {
            own.push(word);
        }
        let request = Request { frame: &own.frame, args: Args::new(&own.frame, &own.bounds), row, ..*request };
        self.send_replicated(target, &request, is_keyless, sink, slot, out)
    }

    /// The text of the script that a request runs; none of one that is not known.
    pub(super) fn text_of(&self, request: &Request<'_>) -> Option<Arc<[u8]>> {
        let word = request.args.get(1)?;
        match request.row.handling {
            Handling::Run(Program::Text) => {
                self.programs.see(word);
                Some(word.into())
            }
            Handling::Run(Program::Digest) => self.programs.sources.find(Digest::parse(word)?),
            _ => None,
        }
    }

    fn send_replicated(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        is_keyless: bool,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        if !is_keyless {
            return self.send_program(target, request, false, sink, slot, out);
        }
        let pool = target.listener.pool;
        let (Some(group), Some(settings)) = (self.groups.get(pool), target.view.topology.config.pools.get(pool)) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let request = replication::Request {
            group: &group,
            // So that every proxy chooses the same.
            members: group.replicas_of(b"").unwrap_or_default(),
            frame: request.frame,
            args: request.args,
            keys: &KeyIndexes::new(),
            row: request.row,
            version: request.version,
            level: request.level.unwrap_or(settings.level),
        };
        match self.engine.serve(&request, sink, Tag { slot, part: 0 }, out) {
            Taken::Sent => Verdict::Sent,
            Taken::Answered => Verdict::Answered(Outcome::Unavailable),
        }
    }

    fn send_program(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        is_keyless: bool,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let tag = Tag { slot, part: 0 };
        if !is_keyless {
            if self.replicates.get()
                && let Some(verdict) = self.dispatch_replicated(target, request, sink, tag, out)
            {
                return verdict;
            }
            return self.dispatch_keys(target, request, sink, slot, out);
        }
        if let Some(group) = self.groups.get(target.listener.pool) {
            return match self.engine.ask_any_store(&group, request.frame, request.version, sink, tag, out) {
                Taken::Sent => Verdict::Sent,
                Taken::Answered => Verdict::Answered(Outcome::Unavailable),
            };
        }
        let Some(node) = keyless_home(target) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        super::verdict(node, node.send(request.frame, request.version, sink, tag), out)
    }

    /// Has stores that are not known to have a script load it before they hear what comes next.
    fn load_ahead(&self, digest: Digest, homes: &Homes, request: &Request<'_>, sink: &Rc<dyn ReplySink>) {
        let Some(text) = self.programs.sources.find(digest) else { return };
        for node in homes.iter().filter(|node| !node.has_program(digest.number())) {
            ahead::load(node, digest, &text, request.version, sink.origin());
        }
    }

    /// Appends what has a store load the scripts of a transaction that it is not known to have; how many requests that is.
    pub(super) fn load_before(&self, node: &Rc<Node>, parts: &[Part<'_>], out: &mut Vec<u8>) -> u32 {
        let mut count = 0;
        for part in parts {
            let Part::Store(request) = part else { continue };
            if request.row.handling == Handling::Run(Program::Digest)
                && let Some(digest) = request.args.get(1).and_then(Digest::parse)
                && !node.has_program(digest.number())
                && let Some(text) = self.programs.sources.find(digest)
            {
                write_load(out, &text);
                node.note_program(digest.number());
                count += 1;
            }
        }
        count
    }
}

/// Where programs without keys run: on the node that would have the empty key, so that every proxy chooses the same.
fn keyless_home<'v>(target: &Target<'v>) -> Option<&'v Rc<Node>> {
    target.view.owner(target.listener.pool, b"").map(|(_, node)| node)
}

fn write_load(out: &mut Vec<u8>, text: &[u8]) {
    let words: [&[u8]; 3] = [b"SCRIPT", b"LOAD", text];
    write_request(out, words.into_iter());
}
