//! The protocol that quoit runs: blind writes in one round, settled by what the records say if that fails; updates by
//! `CASPaxos`, whose proposer keeps its term for the next update of the key.
//!
//! The replica does what the scripts do, record by record. Each rule that keeps it sound can be left out
//! ([`Slip`]), to see that the simulation would notice.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::{ALL, Op, Outcome, Port, Protocol, QUORUM, Replica, Settings, Value, appended};
use crate::network::Memory;

/// Acks of a write, and equal answers of a read.
const WRITE_QUORUM: usize = QUORUM;
/// Replicas that certainly never accepted a ballot, so that no quorum can have.
const BLOCKING: usize = ALL.len() - QUORUM + 1;
/// Ids in a record.
const IDS: usize = 8;
/// Bits of a time that a record keeps of what it replaced.
const PRIOR_BITS: u32 = 40;

/// Order: the time, then who, then the number in the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct Ballot {
    hlc: u64,
    id: u64,
    seq: u16,
}

type Term = (u64, u64);

impl Ballot {
    fn term(self) -> Term {
        (self.hlc, self.id)
    }
}

/// Who made an id: five of its eight bytes.
fn writer(id: u64) -> u64 {
    id >> 24
}

/// The updates since a blind write, or since nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lineage {
    count: usize,
    ids: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    accepted: Ballot,
    promised: Term,
    prior: Option<u64>,
    lineage: Option<Lineage>,
}

impl Record {
    fn promised(&self) -> Term {
        self.promised.max(self.accepted.term())
    }

    fn is_blind(&self) -> bool {
        self.accepted != Ballot::default() && self.lineage.is_none()
    }

    fn ids(&self) -> &[u64] {
        self.lineage.as_ref().map(|lineage| lineage.ids.as_slice()).unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.lineage.as_ref().map_or(0, |lineage| lineage.count)
    }

    /// Whether an operation is part of what was accepted.
    fn contains(&self, attempt: &Attempt) -> bool {
        self.accepted == attempt.ballot || self.ids().contains(&attempt.id)
    }

    /// The largest time that `prior` can stand for.
    fn prior_hlc(&self) -> Option<u64> {
        let mask = (1 << PRIOR_BITS) - 1;
        let near = |low: u64| (self.accepted.hlc & !mask) | low;
        self.prior.map(|low| if near(low) > self.accepted.hlc { near(low) - (mask + 1) } else { near(low) })
    }

    fn replaced(old: &Self) -> Option<u64> {
        (old.accepted != Ballot::default()).then_some(old.accepted.hlc & ((1 << PRIOR_BITS) - 1))
    }

    /// What a blind write leaves of the record that it replaces.
    fn prior_of_blind(old: &Self, new: Ballot) -> Option<u64> {
        if old.is_blind() && writer(old.accepted.id) == writer(new.id) { old.prior } else { Self::replaced(old) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Keeper {
    record: Record,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    WriteBack,
    Proposal,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Blind {
        ballot: Ballot,
        value: Value,
    },
    Prepare(Term),
    /// No token: identity.
    Apply {
        base: Ballot,
        ballot: Ballot,
        id: u64,
        token: Option<Op>,
    },
    State {
        record: Record,
        value: Value,
        mode: Mode,
    },
    /// Also the read of a client.
    Fetch,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Done,
    Refused(Record),
    Behind(Record),
    Promised(Record),
    Applied(Value),
    State(Record, Value),
}

impl Replica for Keeper {
    type Request = Request;
    type Reply = Reply;

    fn execute(&mut self, request: &Request) -> Reply {
        match request {
            Request::Blind { ballot, value } => self.blind(*ballot, value),
            Request::Prepare(term) => {
                if *term <= self.record.promised() {
                    return Reply::Refused(self.record.clone());
                }
                let before = self.record.clone();
                self.record.promised = *term;
                Reply::Promised(before)
            }
            Request::Apply { base, ballot, id, token } => self.apply(*base, *ballot, *id, *token),
            Request::State { record, value, mode } => self.state(record, value, *mode),
            Request::Fetch => Reply::State(self.record.clone(), self.value.clone()),
        }
    }

    fn restarted(&mut self, memory: Memory) {
        assert_eq!(memory, Memory::Kept, "the fence is not part of this model");
    }
}

impl Keeper {
    fn blind(&mut self, ballot: Ballot, value: &Value) -> Reply {
        if ballot <= self.record.accepted || ballot.term() < self.record.promised() {
            return Reply::Refused(self.record.clone());
        }
        let prior = Record::prior_of_blind(&self.record, ballot);
        self.record = Record { accepted: ballot, promised: (0, 0), prior, lineage: None };
        self.value.clone_from(value);
        Reply::Done
    }

    fn apply(&mut self, base: Ballot, ballot: Ballot, id: u64, token: Option<Op>) -> Reply {
        let old = &self.record;
        if ballot <= old.accepted || ballot.term() < old.promised() {
            return Reply::Refused(old.clone());
        }
        if base != old.accepted {
            return Reply::Behind(old.clone());
        }
        let mut lineage = old
            .lineage
            .clone()
            .unwrap_or(Lineage { count: 0, ids: if old.is_blind() { vec![old.accepted.id] } else { Vec::new() } });
        lineage.count += 1;
        lineage.ids.push(id);
        let dropped = lineage.ids.len().saturating_sub(IDS);
        lineage.ids.drain(..dropped);
        self.record = Record { accepted: ballot, promised: (0, 0), prior: old.prior, lineage: Some(lineage) };
        match token {
            Some(Op::Write(token)) => self.value = vec![token],
            Some(Op::Append(token)) => self.value = appended(&self.value, token),
            Some(Op::Read) | None => {}
        }
        Reply::Applied(self.value.clone())
    }

    fn state(&mut self, record: &Record, value: &Value, mode: Mode) -> Reply {
        let old = &self.record;
        if old.accepted == record.accepted || (old.accepted > record.accepted && mode == Mode::WriteBack) {
            return Reply::Done;
        }
        if old.accepted > record.accepted || record.accepted.term() < old.promised() {
            return Reply::Refused(old.clone());
        }
        let prior =
            if record.is_blind() { Record::prior_of_blind(old, record.accepted) } else { Record::replaced(old) };
        let promised = if old.promised > record.accepted.term() { old.promised } else { (0, 0) };
        self.record = Record { accepted: record.accepted, promised, prior, lineage: record.lineage.clone() };
        self.value.clone_from(value);
        Reply::Done
    }
}

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slip {
    /// None: the protocol as it should be.
    None,
    /// A record of eight updates over a blind write is taken to name that write, which was dropped just then.
    NinthId,
    /// An update over a later blind write of one writer hides an earlier one, which left no prior.
    HiddenBlind,
    /// State is fetched for the replicas that were behind, and counts although something else has overwritten it.
    ForeignState,
    /// An operation that is found is answered before a quorum has it.
    FoundTooSoon,
    /// An operation counts as done if any record names it, not the newest alone.
    FoundAnywhere,
    /// All attempts of an operation share one id, so it is not known which of them was applied.
    SharedId,
    /// "Never chosen" is taken for "never will be", and told to the client.
    NeverIsFailed,
    /// Only the last attempt is looked for.
    LastAttemptOnly,
    /// Nothing is looked for.
    NoSettling,
}

pub(crate) const SLIPS: [Slip; 10] = [
    Slip::None,
    Slip::NinthId,
    Slip::HiddenBlind,
    Slip::ForeignState,
    Slip::FoundTooSoon,
    Slip::FoundAnywhere,
    Slip::SharedId,
    Slip::NeverIsFailed,
    Slip::LastAttemptOnly,
    Slip::NoSettling,
];

impl Slip {
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }
}

/// A write that was sent, and is not known to be chosen.
#[derive(Debug, Clone)]
struct Attempt {
    ballot: Ballot,
    id: u64,
    /// The count of the record that it was applied to; None of a blind write.
    base: Option<usize>,
    /// What the client gets if this is the attempt that took effect.
    result: Option<Value>,
}

impl Attempt {
    /// Whether a replica that has promised a later term, and had this record then, certainly never accepted it.
    fn is_never(&self, record: &Record, slip: Slip) -> bool {
        if record.contains(self) || record.prior_hlc().is_some_and(|prior| prior >= self.ballot.hlc) {
            return false;
        }
        let (count, ids) = (record.count(), record.ids());
        let same_writer = |id: u64| writer(id) == writer(self.ballot.id);
        if let Some(base) = self.base {
            return count <= IDS || count < base + IDS;
        }
        // Blind writes of one writer over each other leave no prior: the later hides the earlier, and goes on to do so as
        // the first id of the updates over it.
        let hidden = record.is_blind() && same_writer(record.accepted.id) && record.accepted > self.ballot;
        let begins_blind = ids.len() == count + 1 && ids.first().is_some_and(|first| same_writer(*first));
        // With eight updates over a blind write the ninth id, its own, has been dropped.
        let complete = if slip == Slip::NinthId { count <= IDS } else { count < IDS };
        complete && !hidden && (slip == Slip::HiddenBlind || !begins_blind)
    }
}

/// What the records of a quorum say of earlier attempts.
enum Settled {
    Found(Option<Value>),
    Never,
    Unknown,
}

/// How an attempt under a term went.
enum Applied {
    Chosen(Option<Value>),
    /// Some replica may have it.
    Maybe(Option<Value>),
    No,
}

pub(crate) struct Worker {
    writer: u64,
    slip: Slip,
    number: Cell<u64>,
    hlc: Cell<u64>,
    /// The last ballot of the terms that this proxy owns, and the count of its record, by key.
    owned: RefCell<HashMap<usize, (Ballot, usize)>>,
}

impl Protocol for Worker {
    type Replica = Keeper;

    fn new(writer: u64, settings: &Settings) -> Self {
        let slip = SLIPS[settings.variant as usize];
        Self { writer, slip, number: Cell::new(0), hlc: Cell::new(0), owned: RefCell::default() }
    }

    async fn run(&self, port: &Port<Keeper>, op: Op) -> Outcome {
        match op {
            Op::Read => self.read(port).await,
            Op::Write(token) => self.write(port, token).await,
            Op::Append(_) => self.update(port, op).await,
        }
    }
}

fn count(replies: &[Option<Reply>], wanted: fn(&Reply) -> bool) -> usize {
    replies.iter().flatten().filter(|reply| wanted(reply)).count()
}

fn is_done(reply: &Reply) -> bool {
    matches!(reply, Reply::Done)
}

fn is_applied(reply: &Reply) -> bool {
    matches!(reply, Reply::Applied(_))
}

fn is_promised(reply: &Reply) -> bool {
    matches!(reply, Reply::Promised(_))
}

impl Worker {
    fn id(&self) -> u64 {
        self.number.set(self.number.get() + 1);
        self.writer << 24 | self.number.get()
    }

    fn ballot(&self, port: &Port<Keeper>) -> Ballot {
        let clock = (port.proxy.clock_us() / 1000) << 16;
        self.hlc.set(clock.max(self.hlc.get() + 1));
        Ballot { hlc: self.hlc.get(), id: self.id(), seq: 0 }
    }

    fn learn(&self, replies: &[Option<Reply>]) {
        for reply in replies.iter().flatten() {
            if let Reply::Refused(record) | Reply::Behind(record) | Reply::Promised(record) | Reply::State(record, _) =
                reply
            {
                self.hlc.set(self.hlc.get().max(record.promised().0));
            }
        }
    }

    async fn ask(
        &self,
        port: &Port<Keeper>,
        stores: &[usize],
        request: Request,
        enough: impl Fn(&[Option<Reply>]) -> bool,
    ) -> Vec<Option<Reply>> {
        let replies = port.ask(stores, |_| request.clone(), enough).await;
        self.learn(&replies);
        replies
    }

    async fn read(&self, port: &Port<Keeper>) -> Outcome {
        for _ in 0..4 {
            let replies = self.ask(port, &ALL, Request::Fetch, |replies| agreed(replies).is_some()).await;
            if let Some(value) = agreed(&replies) {
                return Outcome::Answer(value);
            }
            let state = |reply: &Reply| {
                if let Reply::State(record, value) = reply { Some((record.clone(), value.clone())) } else { None }
            };
            let states: Vec<_> = replies.iter().flatten().filter_map(state).collect();
            if states.len() >= QUORUM {
                let (record, value) = states.into_iter().max_by_key(|state| state.0.accepted).expect("a quorum");
                let request = Request::State { record, value, mode: Mode::WriteBack };
                let replies = self.ask(port, &ALL, request, |replies| count(replies, is_done) >= QUORUM).await;
                if count(&replies, is_done) < QUORUM {
                    return self.propose(port, Op::Read, Vec::new()).await;
                }
            }
        }
        Outcome::Failed
    }

    async fn write(&self, port: &Port<Keeper>, token: u16) -> Outcome {
        let ballot = self.ballot(port);
        let request = Request::Blind { ballot, value: vec![token] };
        let replies = self.ask(port, &ALL, request, |replies| count(replies, is_done) >= WRITE_QUORUM).await;
        if count(&replies, is_done) >= WRITE_QUORUM {
            return Outcome::Answer(Value::new());
        }
        let refused = count(&replies, |reply| matches!(reply, Reply::Refused(_)));
        let attempt = Attempt { ballot, id: ballot.id, base: None, result: Some(Value::new()) };
        let attempts = if refused == ALL.len() { Vec::new() } else { vec![attempt] };
        self.propose(port, Op::Write(token), attempts).await
    }

    async fn update(&self, port: &Port<Keeper>, op: Op) -> Outcome {
        let next = self.owned.borrow().get(&port.key).copied().filter(|(last, _)| last.seq < u16::MAX);
        let Some((last, counted)) = next else { return self.propose(port, op, Vec::new()).await };
        let ballot = Ballot { seq: last.seq + 1, ..last };
        // Before any reply: the next update of this proxy is sent behind this one, on top of it.
        self.owned.borrow_mut().insert(port.key, (ballot, counted + 1));
        let id = self.id();
        let attempt = Attempt { ballot, id, base: Some(counted), result: None };
        match self.apply(port, &attempt, last, Some(op)).await {
            Applied::Chosen(Some(value)) => Outcome::Answer(value),
            Applied::Chosen(None) => Outcome::Unknown,
            Applied::Maybe(result) => {
                self.disown(port.key, ballot);
                self.propose(port, op, vec![Attempt { result, ..attempt }]).await
            }
            Applied::No => {
                self.disown(port.key, ballot);
                self.propose(port, op, Vec::new()).await
            }
        }
    }

    fn disown(&self, key: usize, ballot: Ballot) {
        let mut owned = self.owned.borrow_mut();
        if owned.get(&key).is_some_and(|(last, _)| last.term() == ballot.term()) {
            owned.remove(&key);
        }
    }

    async fn propose(&self, port: &Port<Keeper>, op: Op, mut attempts: Vec<Attempt>) -> Outcome {
        let shared_id = self.id();
        for round in 0..6 {
            let ballot = self.ballot(port);
            let request = Request::Prepare(ballot.term());
            let replies = self.ask(port, &ALL, request, |replies| count(replies, is_promised) >= QUORUM).await;
            let promised =
                |reply: &Reply| if let Reply::Promised(record) = reply { Some(record.clone()) } else { None };
            let records: Vec<Record> = replies.iter().flatten().filter_map(promised).collect();
            if records.len() < QUORUM {
                port.pause(round).await;
                continue;
            }
            let base = records.iter().max_by_key(|record| record.accepted).expect("a quorum").clone();
            let found = match self.settle(&attempts, &base, &records) {
                Settled::Found(result) if self.slip == Slip::FoundTooSoon => return answer(result),
                Settled::Found(result) => Some(result),
                Settled::Unknown => return Outcome::Unknown,
                Settled::Never => None,
            };
            let id = if self.slip == Slip::SharedId { shared_id } else { self.id() };
            let attempt = Attempt { ballot, id, base: Some(base.count()), result: None };
            let command = if found.is_some() { None } else { Some(op) };
            let applied = self.apply(port, &attempt, base.accepted, command).await;
            let result = match (&found, op, &applied) {
                (Some(found), _, _) => found.clone(),
                (None, Op::Write(_), _) => Some(Value::new()),
                (None, _, Applied::Chosen(value) | Applied::Maybe(value)) => value.clone(),
                (None, _, Applied::No) => None,
            };
            if let Applied::Chosen(_) = applied {
                self.owned.borrow_mut().insert(port.key, (ballot, base.count() + 1));
                return answer(result);
            }
            let untried = matches!(applied, Applied::No);
            if self.slip == Slip::NeverIsFailed && found.is_none() && untried && !attempts.is_empty() {
                return Outcome::Failed;
            }
            if found.is_none() && !untried {
                attempts.push(Attempt { result, ..attempt });
            }
            port.pause(round).await;
        }
        let certain = attempts.is_empty() || op == Op::Read;
        if certain { Outcome::Failed } else { Outcome::Unknown }
    }

    /// What became of the earlier attempts, as a quorum that has promised a later term knows it.
    fn settle(&self, attempts: &[Attempt], base: &Record, records: &[Record]) -> Settled {
        let looked_for = match self.slip {
            Slip::LastAttemptOnly => &attempts[attempts.len().saturating_sub(1)..],
            Slip::NoSettling => &[],
            _ => attempts,
        };
        // Later attempts first: with one id for all, the last is the best guess.
        for attempt in looked_for.iter().rev() {
            let anywhere = self.slip == Slip::FoundAnywhere && records.iter().any(|record| record.contains(attempt));
            if base.contains(attempt) || anywhere {
                return Settled::Found(attempt.result.clone());
            }
        }
        let never =
            |attempt: &Attempt| records.iter().filter(|record| attempt.is_never(record, self.slip)).count() >= BLOCKING;
        if looked_for.iter().all(never) { Settled::Never } else { Settled::Unknown }
    }

    /// Runs an update on all replicas that have its base, and copies the outcome to those that have an older one.
    async fn apply(&self, port: &Port<Keeper>, attempt: &Attempt, base: Ballot, token: Option<Op>) -> Applied {
        let request = Request::Apply { base, ballot: attempt.ballot, id: attempt.id, token };
        let replies = self.ask(port, &ALL, request, |replies| count(replies, is_applied) >= WRITE_QUORUM).await;
        let by = |wanted: fn(&Reply) -> bool| -> Vec<usize> {
            ALL.into_iter().filter(|store| replies[*store].as_ref().is_some_and(wanted)).collect()
        };
        let applied = by(is_applied);
        let behind = by(|reply| matches!(reply, Reply::Behind(_)));
        let refused = by(|reply| matches!(reply, Reply::Refused(_)));
        let value = |reply: &Reply| if let Reply::Applied(value) = reply { Some(value.clone()) } else { None };
        let result = replies.iter().flatten().find_map(value);
        if applied.len() >= WRITE_QUORUM {
            return Applied::Chosen(result);
        }
        if refused.len() + behind.len() == ALL.len() {
            return Applied::No;
        }
        if let (Some(source), false) = (applied.first(), behind.is_empty()) {
            let copied = self.copy(port, *source, &behind, attempt).await;
            if applied.len() + copied >= WRITE_QUORUM {
                return Applied::Chosen(result);
            }
        }
        Applied::Maybe(result)
    }

    /// Copies the outcome of an attempt; on how many replicas it is then.
    async fn copy(&self, port: &Port<Keeper>, source: usize, behind: &[usize], attempt: &Attempt) -> usize {
        let fetched = self.ask(port, &[source], Request::Fetch, |_| false).await.pop().flatten();
        let Some(Reply::State(record, value)) = fetched else { return 0 };
        // Something else may have been written there since, and says nothing of this attempt.
        if !record.contains(attempt) && self.slip != Slip::ForeignState {
            return 0;
        }
        let request = Request::State { record, value, mode: Mode::Proposal };
        count(&self.ask(port, behind, request, |_| false).await, is_done)
    }
}

fn answer(result: Option<Value>) -> Outcome {
    result.map_or(Outcome::Unknown, Outcome::Answer)
}

/// The value that enough replicas have under one ballot.
fn agreed(replies: &[Option<Reply>]) -> Option<Value> {
    let states = || {
        replies
            .iter()
            .flatten()
            .filter_map(|reply| if let Reply::State(record, value) = reply { Some((record, value)) } else { None })
    };
    let held = |ballot: Ballot| states().filter(|(record, _)| record.accepted == ballot).count();
    states().find(|(record, _)| held(record.accepted) >= QUORUM).map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of one proxy on one replica; `true` of those that are blind. The first is the one that is asked for.
    #[track_caller]
    fn check(first_is_blind: bool, then: &[(u64, bool)], slip: Slip, never: bool) {
        const WRITER: u64 = 7 << 24;
        let mut keeper = Keeper::default();
        let asked = Ballot { hlc: 100, id: WRITER | 1, seq: 0 };
        let base = if first_is_blind { None } else { Some(keeper.record.count()) };
        write(&mut keeper, asked, first_is_blind);
        for (nth, (writer, blind)) in (2..).zip(then) {
            write(&mut keeper, Ballot { hlc: 100 + nth, id: writer << 24 | nth, seq: 0 }, *blind);
        }
        let attempt = Attempt { ballot: asked, id: asked.id, base, result: None };
        assert_eq!(attempt.is_never(&keeper.record, slip), never, "{:?}", keeper.record);
    }

    fn write(keeper: &mut Keeper, ballot: Ballot, blind: bool) {
        let reply = if blind {
            keeper.blind(ballot, &vec![0])
        } else {
            keeper.apply(keeper.record.accepted, ballot, ballot.id, Some(Op::Append(0)))
        };
        assert!(matches!(reply, Reply::Done | Reply::Applied(_)), "{reply:?}");
    }

    /// All of these replicas did accept the write that is asked for: `never` would be a lie.
    #[test]
    fn what_was_accepted_is_not_never() {
        let updates = |count: usize, writer| vec![(writer, false); count];
        for writer in [7, 8] {
            for count in 0..30 {
                check(true, &updates(count, writer), Slip::None, false);
                let blind_between = [&[(writer, true)], updates(count, 8).as_slice()].concat();
                check(true, &blind_between, Slip::None, false);
                check(false, &blind_between, Slip::None, false);
                check(true, &[(7, true), (writer, true), (7, true)], Slip::None, false);
            }
        }
        for count in 0..8 {
            check(false, &updates(count, 8), Slip::None, false);
        }
        // The rules without which it would be.
        check(true, &updates(8, 8), Slip::NinthId, true);
        check(true, &[(7, true), (8, false)], Slip::HiddenBlind, true);
    }
}
