//! Scripts of clients that write keys with several replicas: one replica runs them, the others get the states.
//!
//! A script may use keys that it did not name, as long as they have the same replicas: it is stopped at the first such key,
//! undone, and run again with that key (`version/scripts/exec/client.lua`).
//!
//! # Invariants
//! - A script runs only while the proposal has a promise for every key that it uses, reading or writing.
//! - What is kept of scripts is bounded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use smallvec::SmallVec;

use super::begin::acks_of;
use super::lane::{LaneId, Wish, lane_of};
use super::proposal::{End, Ground, Key, Proposal, Work};
use super::round::Round;
use super::wire::{Answer, Words};
use super::{Asker, Engine, Request, Taken};
use crate::backend::{Backend, ReplySink, Tag};
use crate::command::replicate::script_keys;
use crate::command::{Args, reply};
use crate::protocol::resp::write_request;
use crate::version::{ClientScript, is_reserved};

/// All texts that a worker keeps together.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Keys that one script may use without having named them.
const FOUND_MAX: usize = 128;

/// The scripts that a worker has made ready, by the hash of the client's text.
#[derive(Default)]
pub(super) struct Scripts {
    ready: RefCell<(usize, HashMap<u128, Rc<ClientScript>>)>,
}

impl Scripts {
    fn of(&self, text: &[u8]) -> Rc<ClientScript> {
        self.ready(xxhash_rust::xxh3::xxh3_128(text), || ClientScript::new(text, script_keys()))
    }

    fn ready(&self, hash: u128, make: impl FnOnce() -> ClientScript) -> Rc<ClientScript> {
        let mut ready = self.ready.borrow_mut();
        let (bytes, scripts) = &mut *ready;
        if let Some(script) = scripts.get(&hash) {
            return Rc::clone(script);
        }
        let script = Rc::new(make());
        let size = script.body.len() + script.text.len();
        if *bytes + size > KEPT_BYTES_MAX {
            scripts.clear();
            *bytes = 0;
        }
        *bytes += size;
        scripts.insert(hash, Rc::clone(&script));
        script
    }
}

/// The scripts of a transaction.
#[derive(Default)]
pub(super) struct Parts<'a> {
    texts: Vec<&'a [u8]>,
    any: bool,
}

impl<'a> Parts<'a> {
    /// Appends the call of a script, as `transaction.lua` takes it.
    pub(super) fn push(&mut self, words: &mut Words, args: &Args<'_>, text: Option<&'a [u8]>) {
        self.any = true;
        let Some(text) = text else { return words.push_command(std::iter::empty(), b"N") };
        let number = self.texts.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() - 1
        });
        let rest: SmallVec<[&[u8]; 8]> = args.iter().skip(2).collect();
        words.push_command(rest.into_iter(), format!("S{}", number + 1).as_bytes());
    }

    /// What runs them; none where there are none.
    pub(super) fn ready(&self, scripts: &Scripts) -> Option<Rc<ClientScript>> {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(b"transaction");
        for text in &self.texts {
            hasher.update(&text.len().to_be_bytes());
            hasher.update(text);
        }
        let make = || ClientScript::of_transaction(&self.texts, script_keys());
        self.any.then(|| scripts.ready(hasher.digest128(), make))
    }
}

/// A script with its keys and arguments.
pub(super) struct Program {
    pub(super) script: Rc<ClientScript>,
    /// As `client.lua` takes them.
    pub(super) words: Words,
    /// How many keys were found while it ran.
    found: usize,
}

impl<B: Backend> Engine<B> {
    /// Serves `EVAL`, whose text is argument 1.
    pub(super) fn run_script(self: &Rc<Self>, request: &Request<'_, B>, sink: &Rc<dyn ReplySink>, tag: Tag) -> Taken {
        let args = &request.args;
        let script = self.scripts.of(args.get(1).unwrap_or_default());
        let mut words = Words::default();
        words.push(script.name.as_bytes());
        for word in args.iter().skip(2) {
            words.push(word);
        }
        let mut keys: SmallVec<[Key; 1]> = SmallVec::new();
        for name in request.keys.iter().filter_map(|at| args.get(*at as usize)) {
            if keys.iter().all(|key: &Key| key.name != name) {
                keys.push(Key::new(name, true));
            }
        }
        let lanes: SmallVec<[LaneId; 2]> = keys.iter().map(|key| lane_of(request.group.seed, &key.name)).collect();
        let mut proposal = Proposal {
            version: request.version,
            needed: acks_of(request.level, request.group),
            asker: Some(Asker { sink: Rc::clone(sink), tag }),
            ..Proposal::new(
                self,
                request.group,
                &request.members,
                keys,
                Work::Program(Box::new(Program { script, words, found: 0 })),
            )
        };
        // What is known of tries goes by the places of replicas: those stay, whatever key is found.
        proposal.members = proposal.group.in_own_order(&proposal.members);
        let engine = Rc::clone(self);
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&lanes, self.next_serial(), Wish::Exclusive, Some(sink.origin()));
        self.spawn(async move {
            let held = waiting.await;
            if proposal.keys.is_empty() && !proposal.run_keyless(&engine).await {
                return;
            }
            proposal.run(engine, held).await;
        });
        Taken::Sent
    }
}

impl<B: Backend> Proposal<B> {
    /// Runs a script that has named no keys. Whether it uses one: then it has the replicas of that.
    async fn run_keyless(&mut self, engine: &Engine<B>) -> bool {
        let ballot = engine.next_ballot();
        let ground = Ground { term: ballot, generation: self.group.generation.get(), ..Ground::default() };
        let mut out = Vec::new();
        for runner in (0..self.members.len()).filter(|at| self.members.get(*at).is_some_and(|it| it.votes())) {
            let said = self.run_on(engine, &ground, runner, ballot, None).await;
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Executed { reply, .. }) => out.extend_from_slice(reply),
                Ok(Answer::Wants(key)) => match self.find(key) {
                    None => return true,
                    Some(End::Refused(text)) => reply::store_error(&mut out, &text),
                    Some(_) => reply::no_pool(&mut out),
                },
                Ok(Answer::Failed(text)) => {
                    let text = self.compile_error(engine, runner, text).await;
                    reply::store_error(&mut out, &text);
                }
                Ok(other) => {
                    self.note_trouble(engine.other_answer(&self.group, &self.members, runner, &other));
                    continue;
                }
                // It changes nothing, so that another replica may be asked.
                Err(failure) => {
                    self.note_trouble(format!("{}: {}", failure.node, failure.cause));
                    continue;
                }
            }
            break;
        }
        if out.is_empty() {
            self.group.cells.no_replicas.increment();
            reply::no_replicas(&mut out, self.trouble.borrow());
        }
        if let Some(asker) = self.asker.take() {
            asker.answer(&out);
        }
        false
    }

    /// What a replica says of the client's own text, where it did not take what was made of it.
    pub(super) async fn compile_error(&self, engine: &Engine<B>, runner: usize, text: &[u8]) -> Vec<u8> {
        let Work::Program(program) = &self.work else { return text.to_vec() };
        let write = |_: usize, _, out: &mut Vec<u8>| {
            let words: [&[u8]; 3] = [b"SCRIPT", b"LOAD", &program.script.text];
            write_request(out, words.into_iter());
        };
        let round = Round::new(engine, &self.members, self.version, self.origin(), &write);
        round.ask(runner);
        match round.next().await {
            Some((_, Ok(reply))) => match Answer::parse(&reply) {
                Answer::Failed(text) => text.to_vec(),
                _ => text.to_vec(),
            },
            _ => text.to_vec(),
        }
    }

    /// The script uses a key that it has not named: it gets it, or an error.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<End> {
        let found = match &mut self.work {
            Work::Program(program) => &mut program.found,
            Work::Several(several) => &mut several.found,
            _ => return Some(End::NotApplied),
        };
        *found += 1;
        if *found > FOUND_MAX {
            let text =
                format!("ERR a script may use {FOUND_MAX} keys that it has not named in KEYS, and this one uses more");
            return Some(End::Refused(text.into_bytes()));
        }
        if is_reserved(name) {
            return Some(End::Refused(b"ERR keys that begin with '\\0q' are quoit's own".to_vec()));
        }
        let Some(members) = self.group.replicas_of(name) else { return Some(End::NotApplied) };
        if self.keys.is_empty() {
            self.members = self.group.in_own_order(&members);
        } else if !self.group.clone().join(&mut self.members, &members) {
            let shown = String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned();
            let text = format!("CROSSSLOT The script uses a key that is on other nodes than those in KEYS: '{shown}'");
            return Some(End::Refused(text.into_bytes()));
        }
        self.keys.push(Key::new(name, true));
        self.goes_on = true;
        None
    }

    /// Whether what it did is nothing but reading.
    pub(super) fn wrote_nothing(&self, states: usize) -> bool {
        self.is_scripted() && states == 0
    }

    /// Whether scripts of clients are in it.
    pub(super) fn is_scripted(&self) -> bool {
        match &self.work {
            Work::Program(_) => true,
            Work::Several(several) => several.script.is_some(),
            Work::Nothing | Work::Update(_) | Work::Opaque(_) => false,
        }
    }
}
