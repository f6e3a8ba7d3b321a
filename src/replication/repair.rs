//! Replicas that missed something: the newest state of a key goes to them, before an answer or in the background.
//!
//! # Invariants
//! - A state is only ever replaced by one of a greater ballot, whole, with its end kept to the millisecond.
//! - The queue of the background is bounded, holds each key once, and loses nothing that a read would not find again.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::accept::{Put, State};
use super::lane::lane_of;
use super::proposal::{End, Key, Proposal};
use super::round::{Round, Said, sleep};
use super::wire::{Answer, Call, Cursor, Seen, write_number, write_probe, write_script};
use super::{Engine, Group, Member, Members};
use crate::backend::{Backend, Failure};
use crate::clock::Moment;
use crate::protocol::resp::{Version, write_bulk};
use crate::version::{Ballot, FENCE_KEY, Record, Script, placed_as};

/// How long the background waits for a store that is away before it looks again.
const PATIENCE: Duration = Duration::from_millis(200);
/// Keys repaired at a time: enough to hide the round trip, few enough not to be felt.
const AT_A_TIME: usize = 16;

/// How often the log has it that a store refuses states.
const COMPLAINTS_APART: Duration = Duration::from_mins(1);

/// Replicas of a key, as a set of their places: all, and those of which nothing is known.
pub(super) const ALL: u8 = u8::MAX;
pub(super) const UNKNOWN: u8 = 0;

/// A key that a replica missed.
struct Missed<B: Backend> {
    group: Rc<Group<B>>,
    members: Members<B>,
    key: Vec<u8>,
}

/// Keys that wait to be repaired in the background.
pub(super) struct Queue<B: Backend> {
    waiting: RefCell<VecDeque<Missed<B>>>,
    /// Which are in it.
    known: RefCell<HashSet<u64>>,
    running: Cell<bool>,
    complaints: RefCell<Vec<Complaint>>,
}

impl<B: Backend> Default for Queue<B> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            known: RefCell::default(),
            running: Cell::new(false),
            complaints: RefCell::default(),
        }
    }
}

/// A store's refusal of a state, as the log has it: a store of an older version refuses every key, again and again.
struct Complaint {
    pool: String,
    node: Arc<str>,
    /// When it was logged.
    at: Moment,
    /// How often it came since without being logged.
    more: u64,
}

/// Looks at what replicas answer after the client was answered.
pub(super) struct Aftermath<B: Backend> {
    engine: Weak<Engine<B>>,
    group: Rc<Group<B>>,
    members: Members<B>,
    key: Vec<u8>,
}

impl<B: Backend> Aftermath<B> {
    /// Takes a late answer to a write.
    pub(super) fn judge(&self, member: usize, said: &Said) {
        let Some(engine) = self.engine.upgrade() else { return };
        match said.as_deref().map(Answer::parse) {
            Ok(Answer::Accepted | Answer::Applied { .. } | Answer::AppliedNumber { .. }) => {}
            Ok(Answer::Fenced(found)) => {
                engine.fenced(&self.group, &self.members, member, found);
                engine.missed(&self.group, &self.key, &self.members, 1 << member);
            }
            _ => engine.missed(&self.group, &self.key, &self.members, 1 << member),
        }
    }
}

/// What a repair came to.
pub(super) enum Repair {
    /// All hold the newest state but these.
    Left(SmallVec<[usize; 7]>),
    /// Nobody has a record of the key.
    NoRecord,
    /// Too few replicas answered.
    TooFew,
}

/// What the replicas of one key hold.
#[derive(Default)]
pub(super) struct Held {
    /// Of each member that votes and has answered.
    pub(super) seen: SmallVec<[(usize, Seen); 7]>,
    /// The same of those whose word does not count.
    pub(super) rebuilding: SmallVec<[(usize, Seen); 1]>,
    /// What is open at any of them.
    pub(super) marks: Vec<Box<[u8]>>,
}

impl Held {
    fn note(&mut self, member: usize, seen: Seen, record: &[u8], votes: bool) {
        if votes {
            self.seen.push((member, seen));
        } else {
            self.rebuilding.push((member, seen));
        }
        let mark = if seen.marked { Record::decode(record).ok().and_then(|record| record.mark) } else { None };
        if let Some(mark) = mark.filter(|mark| !self.marks.contains(mark)) {
            self.marks.push(mark);
        }
    }

    pub(super) fn newest(&self) -> Option<Ballot> {
        self.seen.iter().map(|(_, seen)| seen.accepted()).max()
    }

    /// Whether so many hold the newest state.
    pub(super) fn is_held_by(&self, needed: usize) -> bool {
        self.holders(self.newest().unwrap_or_default()).count() >= needed
    }

    pub(super) fn holders(&self, ballot: Ballot) -> impl Iterator<Item = usize> {
        self.seen.iter().filter(move |(_, seen)| seen.accepted() == ballot).map(|(member, _)| *member)
    }
}

impl<B: Backend> Engine<B> {
    pub(super) fn aftermath(&self, group: &Rc<Group<B>>, members: &Members<B>, key: &[u8]) -> Rc<Aftermath<B>> {
        Rc::new(Aftermath {
            engine: self.this.borrow().clone(),
            group: Rc::clone(group),
            members: members.clone(),
            key: key.to_vec(),
        })
    }

    /// Some replicas (a bit for each) did not take what others took: they get it later.
    pub(super) fn missed(&self, group: &Rc<Group<B>>, key: &[u8], members: &Members<B>, lacking: u8) {
        // A reload may have made another group of the pool meanwhile, with the same ring; or the pool is gone.
        let Some(newest) = group.newest() else { return };
        let places = group.places_of(members, lacking).into_iter();
        let own = if Rc::ptr_eq(&newest, group) { Some(members.clone()) } else { newest.replicas_of(placed_as(key)) };
        let (group, Some(members)) = (&newest, own) else { return };
        let id = lane_of(group.seed, key);
        if !self.repairs.known.borrow_mut().insert(id) {
            group.lag.misses(places);
            return;
        }
        if self.repairs.waiting.borrow().len() >= group.settings.repair_queue_len {
            self.repairs.known.borrow_mut().remove(&id);
            group.cells.repairs_dropped.increment();
            group.lag.misses(places);
            return;
        }
        let missed = Missed { group: Rc::clone(group), members, key: key.to_vec() };
        self.repairs.waiting.borrow_mut().push_back(missed);
        group.lag.owe(places);
        group.cells.repairs_waiting.add(1);
        if !self.repairs.running.replace(true)
            && let Some(engine) = self.this.borrow().upgrade()
        {
            self.spawn(async move {
                engine.repair_in_background().await;
                engine.repairs.running.set(false);
            });
        }
    }

    /// Keys that wait for repair.
    pub fn repairs_waiting(&self) -> usize {
        self.repairs.waiting.borrow().len()
    }

    async fn repair_in_background(self: &Rc<Self>) {
        // What was just written is often on its way to the replica that seems to lack it.
        sleep(&self.backend, Duration::from_millis(20)).await;
        loop {
            let round = self.repairs.waiting.borrow().len();
            if round == 0 {
                return;
            }
            let mut in_vain = 0;
            for _ in 0..round {
                if self.ending.get() {
                    return;
                }
                let Some(missed) = self.repairs.waiting.borrow_mut().pop_front() else { break };
                missed.group.cells.repairs_waiting.add(-1);
                // From here on another miss of the key counts anew.
                self.repairs.known.borrow_mut().remove(&lane_of(missed.group.seed, &missed.key));
                let repaired = self.repair(&missed.group, &missed.members, &missed.key).await;
                if matches!(&repaired, Repair::NoRecord) || matches!(&repaired, Repair::Left(left) if left.is_empty()) {
                    missed.group.cells.repairs.increment();
                } else {
                    in_vain += 1;
                    let left = match &repaired {
                        Repair::Left(left) => left.iter().fold(0, |left, at| left | 1 << at),
                        Repair::NoRecord | Repair::TooFew => UNKNOWN,
                    };
                    self.missed(&missed.group, &missed.key, &missed.members, left);
                }
                missed.group.lag.settle();
                if in_vain >= AT_A_TIME {
                    break;
                }
            }
            if in_vain > 0 {
                sleep(&self.backend, PATIENCE).await;
            }
        }
    }

    /// Has every replica hold the newest state of a key, those that are being rebuilt included.
    pub(super) async fn repair(&self, group: &Rc<Group<B>>, members: &Members<B>, key: &[u8]) -> Repair {
        let name = Key::new(key, true);
        let deadline = self.deadline(group);
        let held = loop {
            match self.probe(group, members, &name.record, members.len()).await {
                None => return Repair::TooFew,
                Some(held) if held.marks.is_empty() => break held,
                Some(_) if self.is_late(deadline) => return Repair::TooFew,
                Some(held) => self.settle_marks(group, members, held.marks).await,
            }
        };
        let Some(newest) = held.newest() else { return Repair::TooFew };
        let all = members.iter().enumerate();
        let has =
            |at: usize, seen: &[(usize, Seen)]| seen.iter().any(|(of, seen)| *of == at && seen.accepted() == newest);
        let stale: SmallVec<[usize; 7]> =
            all.map(|(at, _)| at).filter(|at| !has(*at, &held.seen) && !has(*at, &held.rebuilding)).collect();
        if newest.is_zero() {
            return Repair::NoRecord;
        }
        // What was sent to all and taken only by one whose word does not count: it would keep that when it votes.
        let ahead = held.rebuilding.iter().filter(|(_, seen)| seen.accepted() > newest);
        let ahead: SmallVec<[(usize, Ballot); 1]> = ahead.map(|(at, seen)| (*at, seen.accepted())).collect();
        if let Some(ballot) = ahead.iter().map(|(_, ballot)| *ballot).max() {
            self.hlc.saw(ballot, self.backend.wall_ms());
            if !self.settle(Proposal::identity(self, group, members, key)).await {
                return Repair::TooFew;
            }
            return Repair::Left(ahead.into_iter().map(|(at, _)| at).collect());
        }
        if stale.is_empty() {
            return Repair::Left(stale);
        }
        let Some(put) = self.carry(group, members, &name, held.holders(newest), &stale).await else {
            return Repair::TooFew;
        };
        if put.promised && !self.settle(Proposal::identity(self, group, members, key)).await {
            return Repair::TooFew;
        }
        Repair::Left(stale.into_iter().filter(|at| !put.taken.contains(at)).collect())
    }

    /// Runs a proposal that nobody waits for; whether a quorum holds its result.
    pub(super) async fn settle(&self, mut proposal: Proposal<B>) -> bool {
        matches!(proposal.propose(self, &mut None).await, End::Done(_))
    }

    /// Has `needed` replicas hold the newest state of a key before somebody reads it. False if it is not known which
    /// state that is now.
    pub(super) async fn write_back(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        key: &[u8],
        held: &Held,
        needed: usize,
    ) -> bool {
        group.cells.read_repairs.increment();
        let name = Key::new(key, true);
        let Some(newest) = held.newest() else { return false };
        let stale: SmallVec<[usize; 7]> =
            (0..members.len()).filter(|at| !held.holders(newest).any(|holder| holder == *at)).collect();
        let mut holding = held.holders(newest).count();
        if let Some(put) = self.carry(group, members, &name, held.holders(newest), &stale).await {
            holding += put.held;
            if holding >= needed {
                return true;
            }
        }
        // A state that is newer somewhere need not build on this one, and what the proposal settles may be another.
        let _: bool = self.settle(Proposal::identity(self, group, members, key)).await;
        false
    }

    /// Brings the state of one holder to members that lack it, and the same of the next holder to those that cannot load
    /// that: among stores of several versions, the payload of an older one may be what they can. None if no holder gave
    /// its state.
    async fn carry(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        name: &Key,
        holders: impl Iterator<Item = usize>,
        lacking: &[usize],
    ) -> Option<Put> {
        let mut carried: Option<(Option<Ballot>, Put)> = None;
        for source in holders {
            let to: SmallVec<[usize; 7]> = match &carried {
                Some((_, put)) => put.unreadable().collect(),
                None => lacking.into(),
            };
            if to.is_empty() {
                break;
            }
            let Ok(state) = self.fetch(group, members, &name.name, &name.record, source).await else { continue };
            let ballot = Record::decode(&state.record).ok().map(|record| record.accepted);
            if carried.as_ref().is_some_and(|(first, _)| *first != ballot) {
                continue; // It has moved on meanwhile: not what the others were given.
            }
            let put = self.send(group, members, &name.name, &name.record, &state, b"W", &to).await;
            carried = match carried {
                Some((first, before)) => Some((first, before.followed_by(put, &to))),
                None => Some((ballot, put)),
            };
        }
        let (_, put) = carried?;
        self.conclude(group, members, &name.name, &put, lacking);
        Some(put)
    }

    /// Asks members for their records of one key until `wanted` that vote have answered; none if too few did.
    pub(super) async fn probe(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        record: &[u8],
        wanted: usize,
    ) -> Option<Held> {
        self.probe_each(group, members, &[record], wanted).await?.pop()
    }

    /// The same of several keys. Each member tells the records of all of them in one moment.
    pub(super) async fn probe_each(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        records: &[&[u8]],
        wanted: usize,
    ) -> Option<Vec<Held>> {
        let write = |_: usize, _, out: &mut Vec<u8>| write_probe(out, records.iter().copied(), None);
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        let mut each: Vec<Held> = records.iter().map(|_| Held::default()).collect();
        let mut votes = 0;
        while let Some((at, said)) = round.next().await {
            let Some(member) = members.get(at) else { continue };
            let Ok(reply) = said else { continue };
            let read = || {
                let mut cursor = Cursor::new(&reply);
                cursor.array().filter(|elements| *elements == records.len() + 1)?;
                let told = records.iter().map(|_| cursor.bulk()).collect::<Option<SmallVec<[&[u8]; 2]>>>()?;
                let seen = told.iter().map(|record| Seen::of(record)).collect::<Option<SmallVec<[Seen; 2]>>>()?;
                Some((told, seen, cursor.bulk()?))
            };
            match read() {
                Some((told, seen, fence)) if member.fence().as_bytes() == fence && !fence.is_empty() => {
                    for ((held, seen), record) in each.iter_mut().zip(seen).zip(told) {
                        held.note(at, seen, record, member.votes());
                    }
                    votes += usize::from(member.votes());
                }
                Some((_, _, fence)) => self.fenced(group, members, at, fence),
                None => {}
            }
            if votes >= wanted {
                break;
            }
        }
        let majority = usize::from(group.quorums().majority());
        (votes >= majority).then_some(each)
    }

    /// Whether one member holds a key in that state.
    pub(super) async fn holds(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        record: &[u8],
        member: usize,
        ballot: Ballot,
    ) -> bool {
        let held = self.probe(group, members, record, members.len()).await;
        held.is_some_and(|held| held.holders(ballot).any(|holder| holder == member))
    }

    /// Reads the whole state of a key from one replica.
    pub(super) async fn fetch(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        key: &[u8],
        record: &[u8],
        source: usize,
    ) -> Result<State, String> {
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = members.get(part) else { return };
            write_script(out, Script::Fetch, call, 3, 1);
            write_bulk(out, key);
            write_bulk(out, record);
            write_bulk(out, FENCE_KEY);
            write_bulk(out, member.fence().as_bytes());
        };
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        round.ask(source);
        match round.next().await {
            Some((at, Ok(reply))) => match Answer::parse(&reply) {
                Answer::Fetched(fetched) if Record::is_marked(fetched.record) => {
                    Err("what a command over several keys wrote is not decided yet".to_owned())
                }
                Answer::Fetched(fetched) => Ok(State::of(&fetched)),
                other => Err(self.other_answer(group, members, at, &other)),
            },
            Some((_, Err(failure))) => Err(format!("{}: {}", failure.node, failure.cause)),
            None => Err("no such replica".to_owned()),
        }
    }

    /// Brings a state to members; to those that do not take it now, the background will. `mode` is `W` for one that a
    /// quorum may hold already, `P` for one of a proposal.
    #[expect(clippy::too_many_arguments, reason = "a key, a state, and where it goes")]
    pub(super) async fn put(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        key: &[u8],
        record: &[u8],
        state: &State,
        mode: &[u8],
        to: &[usize],
    ) -> Put {
        let put = self.send(group, members, key, record, state, mode, to).await;
        self.conclude(group, members, key, &put, to);
        put
    }

    /// The same without looking at what it came to.
    #[expect(clippy::too_many_arguments, reason = "a key, a state, and where it goes")]
    async fn send(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        key: &[u8],
        record: &[u8],
        state: &State,
        mode: &[u8],
        to: &[usize],
    ) -> Put {
        let parcel = Parcel { key, record, state };
        let write = |part: usize, call, out: &mut Vec<u8>| {
            if let Some(member) = members.get(part) {
                parcel.write(group, member, call, mode, out);
            }
        };
        let mut put = Put::default();
        let round = Round::new(self, members, Version::Resp2, 0, &write);
        for at in to {
            if members.get(*at).is_some_and(|member: &Rc<Member<B>>| member.belief.get().is_some()) {
                round.ask(*at);
            }
        }
        while let Some((at, said)) = round.next().await {
            self.hear_put(group, members, &mut put, at, said.as_deref().map(Answer::parse));
        }
        put
    }

    /// What a member said to a state.
    pub(super) fn hear_put(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        put: &mut Put,
        at: usize,
        said: Result<Answer<'_>, &Failure>,
    ) {
        let votes = members.get(at).is_some_and(|member| member.votes());
        match said {
            Ok(Answer::Accepted) => {
                put.taken.push(at);
                put.held += usize::from(votes);
            }
            Ok(Answer::Overtaken) => put.taken.push(at),
            Ok(Answer::Refused(records)) => {
                put.promised = true;
                "other writers are at work on the key".clone_into(&mut put.trouble);
                for record in records.iter().filter_map(|record| Record::decode(record).ok()) {
                    self.saw(&record);
                }
            }
            Ok(Answer::Error(text)) => {
                let label = members.get(at).map(|member| self.backend.label(&member.node));
                let text = String::from_utf8_lossy(text).into_owned();
                put.trouble = format!("{}: {text}", label.as_deref().unwrap_or_default());
                put.refused.push((at, text));
            }
            Ok(other) => put.trouble = self.other_answer(group, members, at, &other),
            Err(failure) => put.trouble = format!("{}: {}", failure.node, failure.cause),
        }
    }

    /// Counts and logs what members refused, and leaves to the background what they did not take.
    pub(super) fn conclude(&self, group: &Rc<Group<B>>, members: &Members<B>, key: &[u8], put: &Put, to: &[usize]) {
        for (at, text) in &put.refused {
            group.cells.transfers_refused.increment();
            if let Some(member) = members.get(*at) {
                self.complain(&group.name, &self.backend.label(&member.node), text);
            }
        }
        if put.taken.len() < to.len() {
            let lacking = to.iter().filter(|at| !put.taken.contains(at));
            self.missed(group, key, members, lacking.fold(0, |lacking, at| lacking | 1 << at));
        }
    }

    /// Logs that a store refused a state, unless the log has had that of the store not long ago.
    fn complain(&self, pool: &str, node: &Arc<str>, text: &str) {
        let now = self.backend.now();
        let mut complaints = self.repairs.complaints.borrow_mut();
        let known = complaints.iter_mut().find(|known| known.node == *node && known.pool == pool);
        let not_logged = match known {
            Some(known) if now.since(known.at) < COMPLAINTS_APART => {
                known.more += 1;
                return;
            }
            Some(known) => {
                known.at = now;
                std::mem::take(&mut known.more)
            }
            None => {
                // Stores that have left the topology leave the list too.
                complaints.retain(|known| now.since(known.at) < COMPLAINTS_APART * 10);
                complaints.push(Complaint { pool: pool.to_owned(), node: Arc::clone(node), at: now, more: 0 });
                0
            }
        };
        tracing::warn!(%pool, %node, %text, not_logged, "a state could not be transferred");
    }
}

/// The state of one key on its way.
pub(super) struct Parcel<'a> {
    pub(super) key: &'a [u8],
    pub(super) record: &'a [u8],
    pub(super) state: &'a State,
}

impl Parcel<'_> {
    /// Appends the call of the script that takes it.
    pub(super) fn write<B: Backend>(
        &self,
        group: &Group<B>,
        member: &Member<B>,
        call: Call,
        mode: &[u8],
        out: &mut Vec<u8>,
    ) {
        write_script(out, Script::State, call, 3, 7);
        write_bulk(out, self.key);
        write_bulk(out, self.record);
        write_bulk(out, FENCE_KEY);
        write_bulk(out, member.fence().as_bytes());
        write_bulk(out, &self.state.record);
        write_bulk(out, &self.state.payload);
        write_bulk(out, &self.state.expires_at);
        write_bulk(out, mode);
        write_number(out, group.record_grace_ms);
        write_number(out, group.tombstone_ms);
    }
}

impl Put {
    /// Those that cannot read what the store sent from which it came, and may be able to read what another sends: a
    /// store of an older version cannot read what a newer one writes.
    fn unreadable(&self) -> impl Iterator<Item = usize> {
        let is_unreadable =
            |text: &str| text.starts_with("ERR DUMP payload") || text.starts_with("ERR Bad data format");
        self.refused.iter().filter(move |(_, text)| is_unreadable(text)).map(|(at, _)| *at)
    }

    /// What it came to, with what came of the same state from another holder for the members `again`.
    fn followed_by(mut self, next: Self, again: &[usize]) -> Self {
        self.held += next.held;
        self.taken.extend(next.taken);
        self.refused.retain(|(at, _)| !again.contains(at));
        self.refused.extend(next.refused);
        self.promised |= next.promised;
        self.trouble = next.trouble;
        self
    }
}
