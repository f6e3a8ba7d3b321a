//! A write in several rounds: ask for the right to write, then write on top of the newest state of a quorum.
//!
//! `CASPaxos` (Rystsov, 2018) with the operation sent where the state is the base, and the state sent where it is not. A
//! proposal without work brings the newest state to a quorum: that is how what others left half done is finished.
//!
//! # Invariants
//! - Nothing is written in a term that a majority did not promise, nor after a fence has changed.
//! - A proposal that may have been applied looks for its own id first. It is tried again only where enough replicas are
//!   known never to have taken it; else its outcome is unknown.
//! - All tries together have one deadline, and pauses between them are jittered.

mod search;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use self::search::Search;
pub(super) use self::search::{Late, Try};
use super::accept::Accepted;
use super::lane::{Held, Owned};
use super::piece::marks_of;
use super::program::Program;
use super::repair::{ALL, UNKNOWN};
use super::round::{Round, Said, may_have_arrived, sleep};
use super::shape::Shape;
use super::transact::Watched;
use super::wire::{Answer, Words, write_script};
use super::{Asker, Engine, Group, Members};
use crate::backend::Backend;
use crate::clock::Moment;
use crate::command::reply;
use crate::protocol::resp::{Version, write_bulk};
use crate::version::{Ballot, ClientScript, FENCE_KEY, OpId, Operations, Record, Script, Term, write_record_key};

/// The first pause between two tries, and the longest: a round trip of a fast network, and of a slow one.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A key of a proposal.
pub(super) struct Key {
    pub(super) name: Vec<u8>,
    pub(super) record: Vec<u8>,
    /// Whether the work may change it.
    pub(super) written: bool,
}

impl Key {
    pub(super) fn new(name: &[u8], written: bool) -> Self {
        let mut record = Vec::with_capacity(name.len() + 8);
        write_record_key(name, &mut record);
        Self { name: name.to_vec(), record, written }
    }
}

/// What a proposal does to its keys.
pub(super) enum Work {
    /// Nothing: the newest state is brought to a quorum.
    Nothing,
    /// Each replica runs it.
    Update(Words),
    /// One replica runs it, the others get the states.
    Opaque(Words),
    /// The same with the commands of a transaction.
    Several(Box<Several>),
    /// The same with a client's script.
    Program(Box<Program>),
}

/// The commands of a transaction.
pub(super) struct Several {
    pub(super) words: Words,
    /// How the reply to each has to look.
    pub(super) shapes: Vec<Shape>,
    /// What runs them where scripts are among them.
    pub(super) script: Option<Rc<ClientScript>>,
    /// How many keys were found while they ran.
    pub(super) found: usize,
    /// Keys by their places, and the states in which they have to be.
    pub(super) watched: Vec<(usize, Watched)>,
}

/// A write in several rounds.
pub(super) struct Proposal<B: Backend> {
    pub(super) group: Rc<Group<B>>,
    pub(super) members: Members<B>,
    pub(super) keys: SmallVec<[Key; 1]>,
    pub(super) work: Work,
    pub(super) version: Version,
    pub(super) needed: usize,
    pub(super) deadline: Moment,
    /// The next try need not wait: nothing was in the way of the last.
    pub(super) goes_on: bool,
    /// How long it leaves the key to others before it begins: who is in its way is in the middle of something.
    pub(super) rest: Duration,
    pub(super) tries: SmallVec<[Try; 1]>,
    /// Records that replicas showed since the last try, each with the number of its key.
    pub(super) shown: RefCell<Vec<(usize, Record)>>,
    /// Marks that were met since then.
    pub(super) open: RefCell<Vec<Box<[u8]>>>,
    /// The greatest promise to others that was in the way, and since when.
    pub(super) obstacle: Cell<Option<(Term, Moment)>>,
    /// Others were in the way of this attempt, and of the last one.
    pub(super) met: Cell<bool>,
    pub(super) crowded: bool,
    /// Promises that are of no use stand in the way of others.
    pub(super) blocks: Cell<bool>,
    /// What a replica that ran it has answered.
    pub(super) reply: Option<Vec<u8>>,
    /// It says `OK` to whatever was there.
    pub(super) overwrites: bool,
    pub(super) shape: Shape,
    pub(super) asker: Option<Asker>,
    /// What went wrong last, for people.
    pub(super) trouble: RefCell<String>,
}

/// How a proposal ended.
pub(super) enum End {
    /// A quorum holds it; the answer.
    Done(Vec<u8>),
    /// Stores refuse it in these words, on the newest state.
    Refused(Vec<u8>),
    /// It may or may not have been applied.
    Unknown,
    /// It was certainly not applied.
    NotApplied,
}

/// What a promised replica had before.
pub(super) struct Promise {
    pub(super) member: usize,
    pub(super) records: SmallVec<[(Record, bool); 1]>,
}

/// A term, and the newest state in which each key was found.
#[derive(Default)]
pub(super) struct Ground {
    pub(super) term: Ballot,
    pub(super) generation: u64,
    pub(super) promises: Vec<Promise>,
    /// Of each key.
    pub(super) newest: SmallVec<[Record; 1]>,
}

impl Ground {
    /// The next ballot of the term.
    pub(super) fn next_ballot(&mut self) -> Option<Ballot> {
        self.term = self.term.next_in_term()?;
        Some(self.term)
    }

    /// The replicas that hold the newest state of a key.
    pub(super) fn holders(&self, key: usize) -> impl Iterator<Item = usize> {
        let newest = self.newest.get(key).map(|record| record.accepted);
        let holds = move |promise: &&Promise| promise.records.get(key).map(|(record, _)| record.accepted) == newest;
        self.promises.iter().filter(holds).map(|promise| promise.member)
    }
}

/// The answers of one round, some of which may have come before.
struct Answers<'r, B: Backend> {
    early: Option<(usize, Said)>,
    round: &'r Round<'r, B>,
    /// How many are due.
    left: usize,
}

impl<B: Backend> Answers<'_, B> {
    async fn next(&mut self) -> Option<(usize, Said)> {
        self.left = self.left.saturating_sub(1);
        match self.early.take() {
            Some(early) => Some(early),
            None => self.round.next().await,
        }
    }
}

impl<B: Backend> Proposal<B> {
    /// A proposal that nobody waits for and that does nothing but bring a key to a quorum.
    pub(super) fn identity(engine: &Engine<B>, group: &Rc<Group<B>>, members: &Members<B>, key: &[u8]) -> Self {
        Self::new(engine, group, members, std::iter::once(Key::new(key, true)).collect(), Work::Nothing)
    }

    /// A proposal that has tried nothing, and that nobody waits for.
    pub(super) fn new(
        engine: &Engine<B>,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        keys: SmallVec<[Key; 1]>,
        work: Work,
    ) -> Self {
        Self {
            group: Rc::clone(group),
            members: members.clone(),
            keys,
            work,
            version: Version::Resp2,
            needed: usize::from(group.quorums().write),
            deadline: engine.deadline(group),
            goes_on: false,
            rest: Duration::ZERO,
            tries: SmallVec::new(),
            shown: RefCell::default(),
            open: RefCell::default(),
            obstacle: Cell::new(None),
            met: Cell::new(false),
            crowded: false,
            blocks: Cell::new(false),
            reply: None,
            overwrites: false,
            shape: Shape::default(),
            asker: None,
            trouble: RefCell::default(),
        }
    }

    pub(super) fn note_trouble(&self, trouble: String) {
        *self.trouble.borrow_mut() = trouble;
    }

    pub(super) fn majority(&self) -> usize {
        usize::from(self.group.quorums().majority())
    }

    pub(super) fn origin(&self) -> usize {
        self.asker.as_ref().map_or(0, |asker| asker.sink.origin())
    }

    /// Runs to its end and answers. What it has of the lanes is given back as early as possible.
    pub(super) async fn run(mut self, engine: Rc<Engine<B>>, held: Held) {
        self.crowded = held.is_crowded() || !self.rest.is_zero();
        let mut held = Some(held);
        let end = self.propose(&engine, &mut held).await;
        drop(held);
        let asker = self.asker.take();
        let Some(asker) = asker else { return };
        self.group.cells.writes_in_more_rounds.increment();
        let mut out = Vec::new();
        match end {
            End::Done(bytes) => out = bytes,
            End::Refused(text) => reply::store_error(&mut out, &text),
            End::Unknown => {
                // If some replica has it, all should: whether it was applied has to have one answer soon.
                for key in self.keys.iter().filter(|key| key.written) {
                    engine.missed(&self.group, &key.name, &self.members, UNKNOWN);
                }
                self.group.cells.unknown.increment();
                reply::unknown_outcome(&mut out, self.trouble.borrow());
            }
            End::NotApplied => {
                self.group.cells.no_replicas.increment();
                reply::no_replicas(&mut out, self.trouble.borrow());
            }
        }
        asker.answer(&out);
    }

    /// For a cache: the first replica that runs it answers, and the others get the state when they get it.
    pub(super) async fn run_anywhere(mut self, engine: &Engine<B>) {
        self.group.cells.writes_in_one_round.increment();
        let mut out = Vec::new();
        loop {
            match self.try_anywhere(engine).await {
                Some(End::Done(reply)) => {
                    out = reply;
                    break;
                }
                Some(End::Refused(text)) => {
                    reply::store_error(&mut out, &text);
                    break;
                }
                Some(End::Unknown) => {
                    self.group.cells.unknown.increment();
                    reply::unknown_outcome(&mut out, self.trouble.borrow());
                    break;
                }
                _ if engine.is_late(self.deadline) => {
                    self.group.cells.no_replicas.increment();
                    reply::no_replicas(&mut out, self.trouble.borrow());
                    break;
                }
                _ => sleep(&engine.backend, PAUSE_MIN).await,
            }
        }
        if let Some(asker) = self.asker.take() {
            asker.answer(&out);
        }
    }

    async fn try_anywhere(&mut self, engine: &Engine<B>) -> Option<End> {
        let words = match &self.work {
            Work::Update(words) => words.clone(),
            Work::Nothing | Work::Opaque(_) | Work::Several(_) | Work::Program(_) => return None,
        };
        for at in 0..self.members.len() {
            let Some(member) = self.members.get(at) else { continue };
            if !member.votes() || !engine.backend.is_available(&member.node) {
                continue;
            }
            let ballot = engine.next_ballot();
            let (said, reply) = self.apply_at(engine, at, &words, ballot).await;
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Applied { .. } | Answer::AppliedNumber { .. }) => {
                    if let Some(key) = self.keys.first() {
                        engine.missed(&self.group, &key.name, &self.members, ALL & !(1 << at));
                    }
                    return Some(End::Done(reply));
                }
                Ok(Answer::Error(text)) => return Some(End::Refused(text.to_vec())),
                Ok(Answer::Refused(records)) => {
                    let records: Vec<Record> = records.iter().filter_map(|it| Record::decode(it).ok()).collect();
                    for record in &records {
                        engine.saw(record);
                    }
                    engine.settle_marks(&self.group, &self.members, marks_of(records.iter())).await;
                    return None;
                }
                Ok(other) => self.note_trouble(engine.other_answer(&self.group, &self.members, at, &other)),
                // It may have run: another replica is not asked, lest it runs twice.
                Err(failure) if may_have_arrived(&failure.cause) => {
                    self.note_trouble(format!("{}: {}", failure.node, failure.cause));
                    return Some(End::Unknown);
                }
                Err(failure) => self.note_trouble(format!("{}: {}", failure.node, failure.cause)),
            }
        }
        None
    }

    /// Tries until it is done, or refused, or late.
    pub(super) async fn propose(&mut self, engine: &Engine<B>, held: &mut Option<Held>) -> End {
        let mut pause = PAUSE_MIN;
        let jittered = |span: Duration| span.mul_f64(0.5 + f64::from((engine.backend.random() & 0xff) as u8) / 256.0);
        if !self.rest.is_zero() {
            self.pause(engine, jittered(self.rest.min(PAUSE_MAX))).await;
        }
        let mut first = true;
        loop {
            if !first && !std::mem::take(&mut self.goes_on) {
                if engine.is_late(self.deadline) {
                    return if self.tries.is_empty() { End::NotApplied } else { End::Unknown };
                }
                self.crowded = self.met.take();
                if self.crowded && self.blocks.take() {
                    // Till they have ended, so that somebody gets all of the next ones.
                    self.pause(engine, jittered(Duration::from_millis(engine.patience_ms()) * 3 / 2)).await;
                } else if self.crowded {
                    self.pause(engine, jittered(engine.round_trip.get())).await;
                } else {
                    self.pause(engine, jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            first = false;
            if let Some(held) = held {
                held.set_crowded(self.crowded);
            }
            if let Some(end) = self.attempt(engine, held).await {
                return end;
            }
        }
    }

    /// One term. None if it has to be tried again in another one.
    async fn attempt(&mut self, engine: &Engine<B>, held: &mut Option<Held>) -> Option<End> {
        for (key, record) in self.shown.take() {
            self.tries.iter_mut().for_each(|tried| tried.learn(key, &record));
        }
        self.tries.retain(Try::is_open);
        let open = self.open.take();
        if !open.is_empty() {
            engine.settle_marks(&self.group, &self.members, open).await;
        }
        let (mut ground, search) = self.prepare(engine).await?;
        let open = marks_of(ground.promises.iter().flat_map(|it| &it.records).map(|(record, _)| record));
        if !open.is_empty() {
            *self.open.borrow_mut() = open;
            self.goes_on = !engine.is_late(self.deadline);
            return None;
        }
        match search {
            // Not chosen so far, and not to be chosen in this term: in the next one all is looked for again.
            Search::Free => self.reply = None,
            // What was due from a replica may have come meanwhile, or may still.
            Search::Unclear if self.may_clear_up() => return None,
            Search::Unclear => {
                self.note_trouble("whether an earlier try was applied cannot be told any more".to_owned());
                return Some(End::Unknown);
            }
            Search::Found(at) => return self.complete(engine, &mut ground, at, held).await,
            Search::Overwritten => {
                self.level(engine, &mut ground, 0, None).await?;
                self.remember(engine, &ground, held);
                return Some(End::Done(b"+OK\r\n".to_vec()));
            }
        }
        for key in 0..self.keys.len() {
            if ground.newest.get(key).is_some_and(|newest| newest.accepted.is_zero())
                && ground.promises.iter().any(|promise| promise.records.get(key).is_some_and(|(_, exists)| *exists))
            {
                self.adopt(engine, &mut ground, key).await?;
            }
        }
        match &self.work {
            Work::Opaque(_) | Work::Several(_) | Work::Program(_) => self.run_opaque(engine, &mut ground, held).await,
            Work::Update(_) | Work::Nothing => self.run_update(engine, &mut ground, held).await,
        }
    }

    /// Asks for a term. None if it was not given.
    async fn prepare(&mut self, engine: &Engine<B>) -> Option<(Ground, Search)> {
        let members = self.members.clone();
        let group = Rc::clone(&self.group);
        let majority = self.majority();
        let generation = group.generation.get();
        let voters: SmallVec<[usize; 7]> =
            (0..members.len()).filter(|at| members.get(*at).is_some_and(|member| member.votes())).collect();
        if voters.len() < majority {
            let few = format!("{} of {} replicas can vote, {majority} are needed", voters.len(), members.len());
            self.note_trouble(few);
            group.look_at_fences();
            return None;
        }
        let term = engine.next_ballot();
        let (keys, patience) = (&self.keys, engine.patience_ms());
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = members.get(part) else { return };
            write_script(out, Script::Prepare, call, keys.len() * 2 + 1, 4);
            for key in keys {
                write_bulk(out, &key.record);
            }
            for key in keys {
                write_bulk(out, &key.name);
            }
            write_bulk(out, FENCE_KEY);
            write_bulk(out, member.fence().as_bytes());
            write_bulk(out, &term.term().encode());
            super::wire::write_number(out, group.tombstone_ms);
            super::wire::write_number(out, patience);
        };
        let began = engine.backend.now();
        let round = Round::new(engine, &members, self.version, self.origin(), &write);
        // Where others were met before, one replica decides who goes first: else each might get one of three.
        let first = if self.crowded { voters.first().copied() } else { None };
        let mut answers = Answers { early: None, round: &round, left: voters.len() };
        if let Some(first) = first {
            round.ask(first);
            let (member, said) = round.next().await?;
            if let Ok(Answer::Refused(records)) = said.as_deref().map(Answer::parse) {
                self.refused(engine, &records);
                return None;
            }
            answers.early = Some((member, said));
        }
        for voter in voters.iter().filter(|voter| first != Some(**voter)) {
            round.ask(*voter);
        }
        let (promises, search) = self.collect(engine, answers, term.term()).await?;
        engine.took(engine.backend.now().since(began));
        if generation != group.generation.get() {
            return None;
        }
        let newest = (0..self.keys.len())
            .map(|key| {
                let records = promises.iter().filter_map(|promise| promise.records.get(key));
                records.map(|(record, _)| record).max_by_key(|record| record.accepted).cloned().unwrap_or_default()
            })
            .collect::<SmallVec<[Record; 1]>>();
        for record in &newest {
            engine.saw(record);
        }
        Some((Ground { term, generation, promises, newest }, search))
    }

    /// Gathers promises until a majority gave one and, if it can be told at all, it is known what became of an earlier
    /// try. None if there is no majority.
    async fn collect(
        &self,
        engine: &Engine<B>,
        mut answers: Answers<'_, B>,
        term: Term,
    ) -> Option<(Vec<Promise>, Search)> {
        let majority = self.majority();
        let mut promises: Vec<Promise> = Vec::new();
        while let Some((member, said)) = answers.next().await {
            let left = answers.left;
            match said.as_deref().map(Answer::parse) {
                Ok(Answer::Promised(found)) if found.len() == self.keys.len() => {
                    // The record is the one from before; by now the replica has promised, and an earlier try that is
                    // still on its way comes too late.
                    let read = |(record, exists): &(&[u8], bool)| {
                        Some((Record { promised: Some(term), ..Record::decode(record).ok()? }, *exists))
                    };
                    match found.iter().map(read).collect::<Option<_>>() {
                        Some(records) => promises.push(Promise { member, records }),
                        None => self.note_trouble(super::unreadable(engine, &self.members, member)),
                    }
                }
                Ok(Answer::Refused(records)) => {
                    self.refused(engine, &records);
                }
                Ok(answer) => self.note_trouble(engine.other_answer(&self.group, &self.members, member, &answer)),
                Err(failure) => self.note_trouble(format!("{}: {}", failure.node, failure.cause)),
            }
            if promises.len() + left < majority {
                self.blocks.set(!promises.is_empty());
                return None;
            }
            if promises.len() >= majority {
                let search = self.search(&promises);
                // A value from before quoit may be with any of them.
                let may_adopt = !self.group.is_pure()
                    && (0..self.keys.len()).any(|key| {
                        promises.iter().all(|it| it.records.get(key).is_some_and(|(it, _)| it.accepted.is_zero()))
                    });
                let waits = may_adopt || matches!(search, Search::Unclear);
                if left == 0 || !waits {
                    return Some((promises, search));
                }
            }
        }
        let search = self.search(&promises);
        (promises.len() >= majority).then_some((promises, search))
    }

    /// A replica refused a promise and showed the records of the keys.
    fn refused(&self, engine: &Engine<B>, records: &[&[u8]]) {
        self.group.cells.refusals.increment();
        for (key, record) in records.iter().enumerate() {
            self.note_shown(engine, key, record);
        }
        self.note_trouble("other writers are at work on the key".to_owned());
    }

    /// A replica that refused something showed the record of a key.
    pub(super) fn note_shown(&self, engine: &Engine<B>, key: usize, record: &[u8]) {
        let Ok(record) = Record::decode(record) else { return };
        engine.saw(&record);
        self.met.set(true);
        self.open.borrow_mut().extend(record.mark.clone());
        if let Some(promised) = record.promised {
            self.wait_for(engine, promised);
        }
        if !self.tries.is_empty() {
            self.shown.borrow_mut().push((key, record));
        }
    }

    /// Somebody has a promise. Who does not use it for too long loses it, whatever its clock says.
    fn wait_for(&self, engine: &Engine<B>, promised: Term) {
        let now = engine.backend.now();
        match self.obstacle.get() {
            Some((term, since)) if term == promised => {
                let patience = engine.patience_ms();
                if now.since(since) >= Duration::from_millis(patience) {
                    engine.hlc.pass(promised.hlc, patience);
                }
            }
            Some((term, _)) if term > promised => {}
            _ => self.obstacle.set(Some((promised, now))),
        }
    }

    /// An earlier try is part of the newest state: that is brought to a quorum, then it is done.
    async fn complete(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        tried: usize,
        held: &mut Option<Held>,
    ) -> Option<End> {
        let trusted = self.tries.get(tried).and_then(|tried| tried.trusted);
        for key in self.written() {
            self.level(engine, ground, key, trusted).await?;
        }
        self.remember(engine, ground, held);
        let Some(reply) = self.reply_of(engine, tried).await else {
            self.note_trouble("it was applied, but its reply is lost".to_owned());
            return Some(End::Unknown);
        };
        Some(End::Done(reply))
    }

    /// An update, or nothing: sent to all replicas.
    async fn run_update(&mut self, engine: &Engine<B>, ground: &mut Ground, held: &mut Option<Held>) -> Option<End> {
        let words = match &self.work {
            Work::Update(words) => Some(words.clone()),
            Work::Nothing | Work::Opaque(_) | Work::Several(_) | Work::Program(_) => None,
        };
        if let Some(end) = self.run_update_once(engine, ground, held, words.as_ref()).await? {
            return Some(end);
        }
        // Stores refuse it, but not enough of them hold the newest state for that to be the answer.
        self.level(engine, ground, 0, None).await?;
        self.run_update_once(engine, ground, held, words.as_ref()).await?
    }

    async fn run_update_once(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        held: &mut Option<Held>,
        words: Option<&Words>,
    ) -> Option<Option<End>> {
        let base = ground.newest.first()?.clone();
        let ballot = ground.next_ballot()?;
        let accepted = self.accept(engine, ground, 0, words, &base, ballot, None).await;
        match accepted {
            Accepted::Yes { reply, record } => {
                if let Some(first) = ground.newest.first_mut() {
                    *first = record;
                }
                self.remember(engine, ground, held);
                Some(Some(End::Done(self.reply.take().unwrap_or(reply))))
            }
            Accepted::Refused { text, by } => {
                if by >= self.majority() {
                    self.seal(engine, ground).await?;
                    self.remember(engine, ground, held);
                    return Some(Some(End::Refused(text)));
                }
                Some(None)
            }
            Accepted::No { maybe, refused } => {
                let without = std::iter::once(base.operations()).collect();
                self.note_try(words.is_some() && maybe, ballot, (base.count, without), refused);
                None
            }
        }
    }

    /// A try was sent and did not reach a quorum.
    pub(super) fn note_try(
        &mut self,
        maybe: bool,
        ballot: Ballot,
        base: (u32, SmallVec<[Operations; 1]>),
        refused: u8,
    ) {
        if maybe {
            let reply = self.reply.take();
            let (base_count, without) = base;
            // Nothing at all was there when the term began.
            let floor = (self.overwrites && without.iter().all(SmallVec::is_empty)).then(Ballot::default);
            self.tries.push(Try {
                ballot,
                base_count,
                without,
                with: SmallVec::new(),
                refused,
                reply,
                late: None,
                trusted: None,
                floor,
            });
        }
    }

    /// The term is ours: the next update of the key needs one round.
    pub(super) fn remember(&self, engine: &Engine<B>, ground: &Ground, held: &mut Option<Held>) {
        let Some(held) = held.as_ref() else { return };
        let owned = match (self.keys.len(), ground.newest.first()) {
            (1, Some(newest)) if newest.accepted.term() == ground.term.term() => {
                let last = newest.operations().last().map_or(newest.accepted.op_id(), |id| OpId(*id));
                Some(Owned {
                    ballot: newest.accepted,
                    count: newest.count,
                    last,
                    generation: ground.generation,
                    since: engine.backend.now(),
                })
            }
            _ => None,
        };
        held.set_owned(owned);
    }
}

/// Whether a reply that did not come may hide that the store has taken what it was told.
pub(super) fn maybe_taken(said: &Result<Answer<'_>, &crate::backend::Failure>) -> bool {
    match said {
        Err(failure) => may_have_arrived(&failure.cause),
        Ok(Answer::Garbled) => true,
        Ok(_) => false,
    }
}
