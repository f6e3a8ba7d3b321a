//! The second half of a proposal: the work goes to the replicas that hold its base, the state to the others.

use std::rc::Rc;

use smallvec::SmallVec;

use super::Engine;
use super::lane::Held;
use super::piece::Piece;
use super::proposal::{End, Ground, Key, Promise, Proposal, Work, maybe_taken};
use super::repair::ALL;
use super::round::{Round, Said};
use super::shape;
use super::wire::{Answer, Call, Fetched, Words, write_any_script, write_number, write_script};
use crate::backend::Backend;
use crate::protocol::resp::write_bulk;
use crate::quorum::Adopt;
use crate::version::{ANY_BASE, Ballot, FENCE_KEY, NO_BASE, Operations, Record, Script};

/// What became of work that was sent to all replicas.
pub(super) enum Accepted {
    /// Enough of them have it.
    Yes { reply: Vec<u8>, record: Record },
    /// The work itself failed on those that hold the base, and nowhere was it done.
    Refused { text: Vec<u8>, by: usize },
    /// Not enough have it. `maybe`: some may.
    No { maybe: bool, refused: u8 },
}

/// The whole state of a key, as it came from a replica.
pub(super) struct State {
    pub(super) record: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) expires_at: Vec<u8>,
}

impl State {
    pub(super) fn of(fetched: &Fetched<'_>) -> Self {
        Self {
            record: fetched.record.to_vec(),
            payload: fetched.payload.to_vec(),
            expires_at: fetched.expires_at.to_vec(),
        }
    }
}

/// What the replicas said to one round of work.
#[derive(Default)]
struct Heard {
    accepted: SmallVec<[(usize, bool); 7]>,
    behind: SmallVec<[usize; 7]>,
    reply: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
    errors: usize,
    maybe: bool,
    refused: u8,
    trouble: String,
    /// The records of those that refused it.
    shown: Vec<Record>,
    /// Some replica did not take it, or was not even asked.
    left_out: bool,
}

impl<B: Backend> Proposal<B> {
    /// Sends work (nothing: only the ballot is renewed) for one key to all replicas, and the state to those that do not
    /// hold the base. With `trusted`, the state is that member's in any case.
    #[expect(clippy::too_many_arguments, reason = "one round of the protocol, as it is written down")]
    pub(super) async fn accept(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        key: usize,
        words: Option<&Words>,
        base: &Record,
        ballot: Ballot,
        trusted: Option<usize>,
    ) -> Accepted {
        let heard = self.send_work(engine, ground, key, words, base, ballot).await;
        if !heard.trouble.is_empty() {
            self.note_trouble(heard.trouble.clone());
        }
        for record in &heard.shown {
            engine.saw(record);
            self.met.set(true);
            self.open.borrow_mut().extend(record.mark.clone());
            self.shown.borrow_mut().push((key, record.clone()));
        }
        let no = Accepted::No { maybe: heard.maybe || !heard.accepted.is_empty(), refused: heard.refused };
        let Some((first, existed)) = heard
            .accepted
            .iter()
            .find(|(member, _)| trusted.is_none_or(|trusted| trusted == *member))
            .or(heard.accepted.first())
            .copied()
        else {
            return match heard.error {
                Some(text) if heard.errors > 0 && !heard.maybe => Accepted::Refused { text, by: heard.errors },
                _ => no,
            };
        };
        if let Some(reply) = heard.reply {
            // It ran: should another try find it, this is its answer.
            self.reply.get_or_insert(reply);
        }
        // A key with an expiry may have ended in one store and not yet in another: then they did different things.
        let split = heard.accepted.iter().any(|(_, other)| *other != existed);
        let mut holders = heard.accepted.len();
        let mut newest = ballot;
        if split {
            let Some(next) = ground.next_ballot() else { return no };
            holders = self.overwrite(engine, key, first, next).await;
            newest = next;
        } else if holders < self.needed {
            holders += self.spread(engine, key, first, &heard.behind, ballot).await;
        }
        if heard.left_out
            && let Some(key) = self.keys.get(key)
        {
            let took = heard.accepted.iter().fold(0, |took, (member, _)| took | 1 << member);
            engine.missed(&self.group, &key.name, &self.members, ALL & !took);
        }
        if holders < self.needed || ground.generation != self.group.generation.get() {
            return no;
        }
        ground.term = newest.max(ground.term);
        let record = if words.is_some() { base.followed_by(ballot) } else { base.renewed(ballot) };
        let record = Record { accepted: ground.term, ..record };
        Accepted::Yes { reply: self.reply.clone().unwrap_or_default(), record }
    }

    async fn send_work(
        &self,
        engine: &Engine<B>,
        ground: &Ground,
        key: usize,
        words: Option<&Words>,
        base: &Record,
        ballot: Ballot,
    ) -> Heard {
        let mut heard = Heard::default();
        let Some(key) = self.keys.get(key) else { return heard };
        let base_bytes = if base.accepted.is_zero() { NO_BASE } else { base.accepted.encode() };
        let write = |part: usize, call, out: &mut Vec<u8>| {
            self.write_apply(part, call, key, &base_bytes, ballot, words, out);
        };
        let round = Round::new(engine, &self.members, self.version, self.origin(), &write);
        for (at, member) in self.members.iter().enumerate() {
            if member.belief.get().is_some() {
                round.ask(at);
            } else {
                heard.left_out = true;
            }
        }
        while let Some((at, said)) = round.next().await {
            let answer = said.as_deref().map(Answer::parse);
            heard.left_out |= !matches!(answer, Ok(Answer::Applied { .. } | Answer::AppliedNumber { .. }));
            let votes = self.members.get(at).is_some_and(|member| member.votes());
            if votes {
                self.hear(engine, ground, &mut heard, at, &said, ballot);
            } else {
                // It counts for nothing now, and may do so later, with what it took.
                heard.maybe |= matches!(answer, Ok(Answer::Applied { .. } | Answer::AppliedNumber { .. }));
                heard.maybe |= maybe_taken(&answer);
            }
            let alike =
                heard.accepted.first().is_some_and(|(_, one)| heard.accepted.iter().all(|(_, other)| one == other));
            if heard.accepted.len() >= self.needed && alike {
                round.leave(&engine.aftermath(&self.group, &self.members, &key.name));
                break;
            }
        }
        heard
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of the script")]
    pub(super) fn write_apply(
        &self,
        part: usize,
        call: Call,
        key: &Key,
        base: &[u8],
        ballot: Ballot,
        words: Option<&Words>,
        out: &mut Vec<u8>,
    ) {
        let Some(member) = self.members.get(part) else { return };
        write_script(out, Script::Apply, call, 3, 7 + words.map_or(0, |words| words.count));
        write_bulk(out, &key.name);
        write_bulk(out, &key.record);
        write_bulk(out, FENCE_KEY);
        write_bulk(out, member.fence().as_bytes());
        write_bulk(out, base);
        write_bulk(out, &ballot.encode());
        write_bulk(out, &ballot.op_id().0.to_be_bytes());
        write_bulk(out, self.shape.resp());
        write_number(out, self.group.record_grace_ms);
        write_number(out, self.group.tombstone_ms);
        if let Some(words) = words {
            out.extend_from_slice(&words.bytes);
        }
    }

    /// Sends work to one replica, whatever it holds; what it said, and the reply in that.
    pub(super) async fn apply_at(
        &self,
        engine: &Engine<B>,
        at: usize,
        words: &Words,
        ballot: Ballot,
    ) -> (Said, Vec<u8>) {
        let Some(key) = self.keys.first() else { return (Ok(Vec::new()), Vec::new()) };
        let write = |part: usize, call, out: &mut Vec<u8>| {
            self.write_apply(part, call, key, ANY_BASE, ballot, Some(words), out);
        };
        let round = Round::new(engine, &self.members, self.version, self.origin(), &write);
        round.ask(at);
        let Some((_, said)) = round.next().await else { return (Ok(Vec::new()), Vec::new()) };
        let reply = match said.as_deref().map(Answer::parse) {
            Ok(Answer::Applied { reply, .. }) => self.shape.restore(reply).into_owned(),
            Ok(Answer::AppliedNumber { digits, .. }) => [b":", digits, b"\r\n"].concat(),
            _ => Vec::new(),
        };
        (said, reply)
    }

    fn hear(&self, engine: &Engine<B>, ground: &Ground, heard: &mut Heard, at: usize, said: &Said, ballot: Ballot) {
        let answer = said.as_deref().map(Answer::parse);
        heard.maybe |= maybe_taken(&answer);
        match answer {
            Ok(Answer::Applied { existed, reply }) => {
                heard.accepted.push((at, existed));
                heard.reply.get_or_insert_with(|| self.shape.restore(reply).into_owned());
            }
            Ok(Answer::AppliedNumber { existed, digits }) => {
                heard.accepted.push((at, existed));
                heard.reply.get_or_insert_with(|| [b":", digits, b"\r\n"].concat());
            }
            Ok(Answer::Behind) => heard.behind.push(at),
            Ok(Answer::Refused(records)) => {
                self.group.cells.refusals.increment();
                "other writers are at work on the key".clone_into(&mut heard.trouble);
                heard.refused |= 1 << at;
                heard.shown.extend(records.first().and_then(|record| Record::decode(record).ok()));
            }
            Ok(Answer::Error(text)) => {
                heard.errors += 1;
                heard.error.get_or_insert_with(|| text.to_vec());
            }
            Ok(other) => heard.trouble = engine.other_answer(&self.group, &self.members, at, &other),
            Err(failure) => heard.trouble = format!("{}: {}", failure.node, failure.cause),
        }
        debug_assert!(ground.term.term() == ballot.term(), "work is sent in the term that was promised");
    }

    /// Brings the state of one replica, under `ballot`, to others; how many took it.
    async fn spread(&mut self, engine: &Engine<B>, key: usize, source: usize, to: &[usize], ballot: Ballot) -> usize {
        if to.is_empty() {
            return 0;
        }
        let Some(state) = self.fetch(engine, key, source).await else { return 0 };
        match Record::decode(&state.record) {
            Ok(record) if record.accepted == ballot => self.put(engine, key, &state, to).await,
            _ => 0,
        }
    }

    /// Brings the state of one replica to all under a new ballot; how many hold it.
    async fn overwrite(&mut self, engine: &Engine<B>, key: usize, source: usize, ballot: Ballot) -> usize {
        let Some(mut state) = self.fetch(engine, key, source).await else { return 0 };
        let Ok(record) = Record::decode(&state.record) else { return 0 };
        if record.accepted.term() != ballot.term() {
            return 0;
        }
        state.record.clear();
        Record { accepted: ballot, promised: None, prior: None, ..record }.encode(&mut state.record);
        let all: SmallVec<[usize; 7]> = (0..self.members.len()).collect();
        self.put(engine, key, &state, &all).await
    }

    /// Reads the whole state of a key from one replica.
    pub(super) async fn fetch(&mut self, engine: &Engine<B>, key: usize, source: usize) -> Option<State> {
        let name = self.keys.get(key)?;
        let fetched = engine.fetch(&self.group, &self.members, &name.name, &name.record, source).await;
        match fetched {
            Ok(state) => Some(state),
            Err(trouble) => {
                self.note_trouble(trouble);
                None
            }
        }
    }

    /// Brings a state to replicas that hold something older; how many of those that vote hold it then.
    async fn put(&self, engine: &Engine<B>, key: usize, state: &State, to: &[usize]) -> usize {
        let Some(name) = self.keys.get(key) else { return 0 };
        let put = engine.put(&self.group, &self.members, &name.name, &name.record, state, b"P", to).await;
        if !put.trouble.is_empty() {
            self.note_trouble(put.trouble);
        }
        put.held
    }

    /// Has a quorum hold the newest state of a key under a new ballot of the term.
    pub(super) async fn level(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        key: usize,
        trusted: Option<usize>,
    ) -> Option<()> {
        let base = ground.newest.get(key)?.clone();
        let ballot = ground.next_ballot()?;
        let reply = self.reply.take();
        let accepted = self.accept(engine, ground, key, None, &base, ballot, trusted).await;
        self.reply = reply;
        match accepted {
            Accepted::Yes { record, .. } => {
                if let Some(newest) = ground.newest.get_mut(key) {
                    *newest = record;
                }
                Some(())
            }
            Accepted::Refused { .. } | Accepted::No { .. } => None,
        }
    }

    /// Values from before quoit, without records: one of them becomes the state of all.
    pub(super) async fn adopt(&mut self, engine: &Engine<B>, ground: &mut Ground, key: usize) -> Option<()> {
        let holding = |promise: &&Promise| promise.records.get(key).is_some_and(|(_, exists)| *exists);
        let sources: SmallVec<[usize; 7]> = ground.promises.iter().filter(holding).map(|it| it.member).collect();
        let mut states: Vec<(usize, State)> = Vec::new();
        for source in sources {
            if let Some(state) = self.fetch(engine, key, source).await.filter(|state| !state.payload.is_empty()) {
                states.push((source, state));
            }
        }
        let order = self.keys.get(key).and_then(|key| self.group.replicas_of(&key.name)).unwrap_or_default();
        let place_of = |source: usize| {
            let member = self.members.get(source)?;
            order.iter().position(|other| Rc::ptr_eq(member, other))
        };
        states.sort_by_key(|(source, _)| place_of(*source));
        // The most frequent one; of several the first in ring order.
        let frequency = |state: &State| match self.group.settings.adopt {
            Adopt::Majority => states.iter().filter(|(_, other)| other.payload == state.payload).count(),
            Adopt::First => 0,
        };
        let chosen = states.iter().rev().max_by_key(|(_, state)| frequency(state)).map(|(source, _)| *source)?;
        let at = states.iter().position(|(source, _)| *source == chosen)?;
        let (_, mut state) = states.swap_remove(at);
        let ballot = ground.next_ballot()?;
        let record = Record { accepted: ballot, expires: !state.expires_at.is_empty(), ..Record::default() };
        state.record.clear();
        record.encode(&mut state.record);
        let all: SmallVec<[usize; 7]> = (0..self.members.len()).collect();
        if self.put(engine, key, &state, &all).await < self.needed {
            return None;
        }
        self.group.cells.adopted.increment();
        if let Some(newest) = ground.newest.get_mut(key) {
            *newest = record;
        }
        for promise in &mut ground.promises {
            if let Some((held, _)) = promise.records.get_mut(key) {
                held.accepted = ballot;
            }
        }
        Some(())
    }

    /// Work that one replica does for all: it gets to hold the newest state of every key, runs it, and the others get
    /// what it wrote.
    pub(super) async fn run_opaque(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        held: &mut Option<Held>,
    ) -> Option<End> {
        let runs = |ground: &Ground, member: usize, keys: usize| {
            (0..keys).all(|key| ground.holders(key).any(|holder| holder == member))
        };
        let find = |ground: &Ground, keys: usize| {
            ground.promises.iter().map(|promise| promise.member).find(|member| runs(ground, *member, keys))
        };
        let keys = self.keys.len();
        if let Work::Several(several) = &self.work
            && !several.watched.iter().all(|(key, state)| state.is_still(ground, *key))
        {
            self.seal(engine, ground).await?;
            return Some(End::Done(shape::null_array(self.version).to_vec()));
        }
        self.settle_sources(engine, ground).await?;
        let runner = match find(ground, keys) {
            Some(runner) => runner,
            None => self.gather(engine, ground).await?,
        };
        // An error is an answer, too: it has to be one on a state that a quorum holds.
        let settled = (0..keys).all(|key| ground.holders(key).count() >= self.majority());
        let ballot = ground.next_ballot()?;
        let piece = self.piece(ballot);
        let said = self.run_on(engine, ground, runner, ballot, piece.as_ref()).await;
        let answer = said.as_deref().map(Answer::parse);
        // What changes nothing can be run again.
        let maybe = maybe_taken(&answer) && self.keys.iter().any(|key| key.written);
        match answer {
            Ok(Answer::Executed { reply, states }) => {
                let states: Vec<State> = states.iter().map(State::of).collect();
                self.hand_on(engine, ground, held, runner, ballot, piece, reply, &states).await
            }
            Ok(Answer::Wants(key)) => {
                let end = self.find(key)?;
                self.seal(engine, ground).await?;
                Some(end)
            }
            // A client's script that is none.
            Ok(Answer::Failed(text)) if self.is_scripted() && settled => {
                self.seal(engine, ground).await?;
                Some(End::Refused(self.compile_error(engine, runner, text).await))
            }
            Ok(Answer::Error(text)) if settled => {
                self.seal(engine, ground).await?;
                Some(End::Refused(text.to_vec()))
            }
            Ok(Answer::Error(_)) => {
                for key in 0..keys {
                    self.level(engine, ground, key, None).await?;
                }
                None
            }
            other => {
                let trouble = match &other {
                    Ok(other) => engine.other_answer(&self.group, &self.members, runner, other),
                    Err(failure) => format!("{}: {}", failure.node, failure.cause),
                };
                if let Ok(Answer::Refused(records)) = &other {
                    for (key, record) in records.iter().enumerate() {
                        self.note_shown(engine, key, record);
                    }
                }
                self.note_trouble(trouble);
                match piece {
                    Some(piece) => self.withdraw(engine, &piece).await,
                    None => self.note_try(maybe, ballot, self.bases(ground), 0),
                }
                None
            }
        }
    }

    /// One replica has run the work: the others get what it wrote.
    #[expect(clippy::too_many_arguments, reason = "the second half of the function above")]
    async fn hand_on(
        &mut self,
        engine: &Engine<B>,
        ground: &mut Ground,
        held: &mut Option<Held>,
        runner: usize,
        ballot: Ballot,
        piece: Option<Piece>,
        reply: &[u8],
        states: &[State],
    ) -> Option<End> {
        let reply = match &self.work {
            Work::Several(several) => shape::restore_each(&several.shapes, reply),
            _ => self.shape.restore(reply).into_owned(),
        };
        self.reply = Some(reply.clone());
        if self.wrote_nothing(states.len()) {
            self.seal(engine, ground).await?;
            return Some(End::Done(reply));
        }
        if let Some(held) = held.as_ref() {
            held.set_owned(None);
        }
        if let Some(piece) = piece {
            return self.hand_on_together(engine, ground, piece, runner, ballot, states).await;
        }
        let written = self.written();
        let others: SmallVec<[usize; 7]> = (0..self.members.len()).filter(|at| *at != runner).collect();
        let done = match (written.first(), states.first()) {
            (Some(key), Some(state)) => 1 + self.put(engine, *key, state, &others).await >= self.needed,
            _ => true,
        };
        if done && ground.generation == self.group.generation.get() {
            return Some(End::Done(reply));
        }
        self.note_try(!written.is_empty(), ballot, self.bases(ground), 0);
        None
    }

    /// Before an answer that writes nothing: what an earlier try may have left on a replica that did not promise is not in the
    /// newest state, and would be as soon as somebody found it there. The newest state under a newer ballot ends that.
    pub(super) async fn seal(&mut self, engine: &Engine<B>, ground: &mut Ground) -> Option<()> {
        if self.tries.is_empty() {
            return Some(());
        }
        for key in 0..self.keys.len() {
            if self.keys.get(key).is_some_and(|key| key.written) {
                self.level(engine, ground, key, None).await?;
            }
        }
        Some(())
    }

    /// What is read must not be undone by others afterwards: a majority has to hold it. Of one key that is written anyway,
    /// what it becomes is chosen with what it was; of several, the value of one may go to another. None if a majority holds
    /// all only now.
    async fn settle_sources(&mut self, engine: &Engine<B>, ground: &mut Ground) -> Option<()> {
        // A script need not write what it may write.
        let is_alone = self.keys.len() == 1 && !self.is_scripted();
        let is_open = |at: &usize| {
            let is_read = !is_alone || self.keys.get(*at).is_some_and(|key| !key.written);
            is_read && ground.holders(*at).count() < self.majority()
        };
        let open: SmallVec<[usize; 4]> = (0..self.keys.len()).filter(is_open).collect();
        for key in &open {
            self.level(engine, ground, *key, None).await?;
        }
        open.is_empty().then_some(())
    }

    /// What a try in this term was based on.
    fn bases(&self, ground: &Ground) -> (u32, SmallVec<[Operations; 1]>) {
        let written = self.keys.iter().zip(&ground.newest).filter(|(key, _)| key.written);
        let count = written.map(|(_, newest)| newest.count).min().unwrap_or(0);
        (count, ground.newest.iter().map(Record::operations).collect())
    }

    /// No replica holds the newest state of all keys: the first that votes gets them.
    async fn gather(&mut self, engine: &Engine<B>, ground: &mut Ground) -> Option<usize> {
        let runner = ground.promises.first()?.member;
        for key in 0..self.keys.len() {
            self.level(engine, ground, key, None).await?;
            let ballot = ground.newest.get(key)?.accepted;
            let holds = engine.holds(&self.group, &self.members, &self.keys.get(key)?.record, runner, ballot).await;
            if !holds {
                let source = ground.promises.iter().map(|promise| promise.member).find(|at| *at != runner)?;
                if self.spread(engine, key, source, &[runner], ballot).await == 0 {
                    return None;
                }
            }
            if let Some(promise) = ground.promises.iter_mut().find(|promise| promise.member == runner)
                && let Some((record, _)) = promise.records.get_mut(key)
            {
                record.accepted = ballot;
            }
        }
        Some(runner)
    }

    pub(super) async fn run_on(
        &self,
        engine: &Engine<B>,
        ground: &Ground,
        runner: usize,
        ballot: Ballot,
        piece: Option<&Piece>,
    ) -> Said {
        let keys = &self.keys;
        let version = self.version;
        let (sha, body, words) = match &self.work {
            Work::Opaque(words) => (Script::Exec.sha(), Script::Exec.body().as_bytes(), words),
            Work::Several(several) => match &several.script {
                Some(script) => (script.sha.as_str(), script.body.as_slice(), &several.words),
                None => (Script::Multi.sha(), Script::Multi.body().as_bytes(), &several.words),
            },
            Work::Program(program) => (program.script.sha.as_str(), program.script.body.as_slice(), &program.words),
            Work::Update(_) | Work::Nothing => return Ok(Vec::new()),
        };
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = self.members.get(part) else { return };
            let names = keys.len() * 2 + 1 + usize::from(piece.is_some());
            write_any_script(out, sha, body, call, names, 8 + keys.len() + words.count);
            for key in keys {
                write_bulk(out, &key.name);
            }
            for key in keys {
                write_bulk(out, &key.record);
            }
            write_bulk(out, FENCE_KEY);
            if let Some(piece) = piece {
                write_bulk(out, &piece.key);
            }
            write_bulk(out, member.fence().as_bytes());
            write_bulk(out, &ballot.encode());
            write_bulk(out, &ballot.op_id().0.to_be_bytes());
            match &self.work {
                Work::Several(several) => write_number(out, several.shapes.len() as u64),
                Work::Program(program) => write_number(out, program.script.lines as u64),
                _ => write_bulk(out, self.shape.resp()),
            }
            write_number(out, self.group.record_grace_ms);
            write_number(out, self.group.tombstone_ms);
            write_number(out, keys.len() as u64);
            let written: Vec<u8> = keys.iter().map(|key| if key.written { b'1' } else { b'0' }).collect();
            write_bulk(out, &written);
            for newest in &ground.newest {
                write_bulk(out, &newest.accepted.encode());
            }
            out.extend_from_slice(&words.bytes);
        };
        let round = Round::new(engine, &self.members, version, self.origin(), &write);
        round.ask(runner);
        match round.next().await {
            Some((_, said)) => said,
            None => Ok(Vec::new()),
        }
    }
}

/// What putting a state to replicas came to.
#[derive(Default)]
pub(super) struct Put {
    /// Those that vote and hold it.
    pub(super) held: usize,
    /// Those that hold it or something newer, whether they vote or not.
    pub(super) taken: SmallVec<[usize; 7]>,
    /// Those that could not load it, and what each said.
    pub(super) refused: SmallVec<[(usize, String); 1]>,
    /// A promise to another proposal was in the way.
    pub(super) promised: bool,
    pub(super) trouble: String,
}
