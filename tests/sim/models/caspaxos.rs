//! `CASPaxos` (Rystsov, 2018): a register that changes by a function of its last value, under a ballot that a quorum has
//! promised. With and without a memory of the operations that made the value, and with a store that forgets.

use std::cell::Cell;
use std::rc::Rc;

use super::{ALL, Keys, Op, Outcome, Port, Protocol, QUORUM, Replica, Settings, Value, appended};
use crate::network::Memory;
use crate::tasks::Proxy;

/// A count and who counted.
pub(crate) type Ballot = (u64, u64);

/// How many ids of operations a replica remembers.
const IDS: usize = 8;

/// What a ballot was accepted with.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    accepted: Ballot,
    value: Value,
    ids: Vec<u64>,
    count: usize,
}

#[derive(Debug)]
pub(crate) struct Acceptor {
    state: State,
    promised: Ballot,
    /// False after a restart without memory: it has no fence.
    member: bool,
    epoch: u64,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self { state: State::default(), promised: (0, 0), member: true, epoch: 0 }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// The fence that the proxy believes in; None asks no fence.
    Prepare(Option<u64>, Ballot),
    Accept(Option<u64>, State),
    Read(Option<u64>),
    /// Refuse older epochs from now on; for a repair.
    Raise(u64),
    /// Become a member with this state.
    Install(u64, State),
    Probe,
}

#[derive(Debug)]
pub(crate) enum Reply {
    State(State),
    Accepted,
    Refused(Ballot),
    /// Another epoch, or none.
    Fence(Option<u64>),
}

impl Replica for Acceptor {
    type Request = Request;
    type Reply = Reply;

    fn execute(&mut self, request: &Request) -> Reply {
        if let Request::Prepare(Some(fence), _) | Request::Accept(Some(fence), _) | Request::Read(Some(fence)) = request
            && (!self.member || *fence != self.epoch)
        {
            return self.fence();
        }
        match request {
            Request::Prepare(_, ballot) => {
                if *ballot <= self.promised {
                    return Reply::Refused(self.promised);
                }
                self.promised = *ballot;
                Reply::State(self.state.clone())
            }
            Request::Accept(_, state) => {
                if state.accepted < self.promised {
                    return Reply::Refused(self.promised);
                }
                self.promised = state.accepted;
                self.state = state.clone();
                Reply::Accepted
            }
            Request::Read(_) => Reply::State(self.state.clone()),
            Request::Raise(epoch) => {
                self.epoch = self.epoch.max(*epoch);
                self.fence()
            }
            Request::Install(epoch, state) => {
                if !self.member || self.epoch < *epoch {
                    *self = Self { promised: state.accepted, state: state.clone(), member: true, epoch: *epoch };
                }
                self.fence()
            }
            Request::Probe => self.fence(),
        }
    }

    fn restarted(&mut self, memory: Memory) {
        if memory == Memory::Lost {
            *self = Self { member: false, ..Self::default() };
        }
    }
}

impl Acceptor {
    fn fence(&self) -> Reply {
        Reply::Fence(self.member.then_some(self.epoch))
    }
}

/// What differs between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// A failed attempt is made again, as if it had not been.
    BlindRetry,
    /// A failed attempt is looked for by its id.
    Ids,
    /// The same; a store without memory is copied to before it votes.
    Copied,
    /// The same; before that the others are told to refuse what began earlier.
    Fenced,
}

const VARIANTS: [Variant; 4] = [Variant::BlindRetry, Variant::Ids, Variant::Copied, Variant::Fenced];

impl Variant {
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }
}

/// An accept that was sent, and is not known to be chosen.
struct Attempt {
    id: u64,
    base: usize,
    result: Value,
}

pub(crate) struct Proposer {
    writer: u64,
    variant: Variant,
    counter: Cell<u64>,
    /// By key: each is a pool of its own here.
    epochs: [Cell<u64>; 2],
}

impl Protocol for Proposer {
    type Replica = Acceptor;

    fn new(writer: u64, settings: &Settings) -> Self {
        let variant = VARIANTS[settings.variant as usize];
        Self { writer, variant, counter: Cell::new(0), epochs: Default::default() }
    }

    async fn run(&self, port: &Port<Acceptor>, op: Op) -> Outcome {
        if op == Op::Read
            && let Some(value) = self.read(port).await
        {
            return Outcome::Answer(value);
        }
        self.propose(port, op).await
    }

    fn beside(self: Rc<Self>, proxy: Proxy<Keys<Acceptor>>) {
        if proxy.id == 0 && matches!(self.variant, Variant::Copied | Variant::Fenced) {
            proxy.clone().spawn(async move {
                while proxy.now_us() < 400_000 {
                    for key in 0..2 {
                        self.readmit(&Port { proxy: proxy.clone(), key }).await;
                    }
                    proxy.sleep(500).await;
                }
            });
        }
    }
}

fn states(replies: Vec<Option<Reply>>) -> Vec<State> {
    let state = |reply| if let Reply::State(state) = reply { Some(state) } else { None };
    replies.into_iter().flatten().filter_map(state).collect()
}

fn accepted(replies: &[Option<Reply>]) -> usize {
    replies.iter().flatten().filter(|reply| matches!(reply, Reply::Accepted)).count()
}

fn promised(replies: &[Option<Reply>]) -> usize {
    replies.iter().flatten().filter(|reply| matches!(reply, Reply::State(_))).count()
}

impl Proposer {
    fn fence(&self, key: usize) -> Option<u64> {
        matches!(self.variant, Variant::Copied | Variant::Fenced).then(|| self.epochs[key].get())
    }

    fn learn(&self, key: usize, replies: &[Option<Reply>]) {
        for reply in replies.iter().flatten() {
            match reply {
                Reply::State(state) => self.counter.set(self.counter.get().max(state.accepted.0)),
                Reply::Refused(ballot) => self.counter.set(self.counter.get().max(ballot.0)),
                Reply::Fence(Some(epoch)) => self.epochs[key].set(self.epochs[key].get().max(*epoch)),
                Reply::Accepted | Reply::Fence(None) => {}
            }
        }
    }

    async fn read(&self, port: &Port<Acceptor>) -> Option<Value> {
        let fence = self.fence(port.key);
        let replies = port.ask(&ALL, |_| Request::Read(fence), |replies| promised(replies) >= QUORUM).await;
        self.learn(port.key, &replies);
        let found = states(replies);
        let agreed = |state: &&State| found.iter().filter(|other| other.accepted == state.accepted).count() >= QUORUM;
        found.iter().find(agreed).map(|state| state.value.clone())
    }

    async fn propose(&self, port: &Port<Acceptor>, op: Op) -> Outcome {
        let mut attempts: Vec<Attempt> = Vec::new();
        for round in 0..6 {
            let fence = self.fence(port.key);
            self.counter.set(self.counter.get() + 1);
            let ballot = (self.counter.get(), self.writer);
            let request = Request::Prepare(fence, ballot);
            let replies = port.ask(&ALL, |_| request.clone(), |replies| promised(replies) >= QUORUM).await;
            self.learn(port.key, &replies);
            let found = states(replies);
            if found.len() < QUORUM {
                port.pause(round).await;
                continue;
            }
            let base = found.into_iter().max_by_key(|state| state.accepted).expect("a quorum");
            let applied = attempts.iter().find(|attempt| base.ids.contains(&attempt.id));
            let (next, result) = if let Some(attempt) = applied {
                (State { accepted: ballot, ..base }, attempt.result.clone())
            } else if self.variant != Variant::BlindRetry
                && attempts.iter().any(|attempt| base.count >= attempt.base + IDS)
            {
                // It may have been applied, and forgotten since.
                return Outcome::Unknown;
            } else {
                let id = self.writer << 32 | self.counter.get();
                let (next, result) = next(ballot, id, &base, op);
                attempts.push(Attempt { id, base: base.count, result: result.clone() });
                (next, result)
            };
            let request = Request::Accept(fence, next);
            let replies = port.ask(&ALL, |_| request.clone(), |replies| accepted(replies) >= QUORUM).await;
            self.learn(port.key, &replies);
            if accepted(&replies) >= QUORUM {
                return Outcome::Answer(result);
            }
            if self.variant == Variant::BlindRetry {
                for attempt in &mut attempts {
                    attempt.id = 0;
                }
            }
            port.pause(round).await;
        }
        if attempts.is_empty() || op == Op::Read { Outcome::Failed } else { Outcome::Unknown }
    }

    /// Gives a store that has lost its memory what the others know.
    async fn readmit(&self, port: &Port<Acceptor>) {
        let fences: Vec<Option<Option<u64>>> = port
            .ask_all(Request::Probe, ALL.len())
            .await
            .iter()
            .map(|reply| if let Some(Reply::Fence(fence)) = reply { Some(*fence) } else { None })
            .collect();
        let newest = fences.iter().flatten().flatten().copied().max().unwrap_or(0);
        let lost = ALL
            .into_iter()
            .find(|store| matches!(fences[*store], Some(fence) if fence.is_none_or(|fence| fence < newest)));
        let Some(lost) = lost else { return };
        let others: Vec<usize> = ALL.into_iter().filter(|store| *store != lost).collect();
        let epoch = if self.variant == Variant::Fenced { newest + 1 } else { newest };
        if self.variant == Variant::Fenced {
            let raised = port.ask(&others, |_| Request::Raise(epoch), |_| false).await;
            if !raised.iter().all(|reply| matches!(reply, Some(Reply::Fence(Some(now))) if *now == epoch)) {
                return;
            }
        }
        let replies = port.ask(&others, |_| Request::Read(Some(epoch)), |_| false).await;
        let found = states(replies);
        // All but Q - 1 of the replicas: whatever a quorum accepted, one of these has it.
        if found.len() < others.len() {
            return;
        }
        let newest = found.into_iter().max_by_key(|state| state.accepted).expect("two states");
        port.ask(&[lost], |_| Request::Install(epoch, newest.clone()), |_| false).await;
    }
}

fn next(ballot: Ballot, id: u64, base: &State, op: Op) -> (State, Value) {
    let mut ids = base.ids.clone();
    ids.push(id);
    if ids.len() > IDS {
        ids.remove(0);
    }
    let (value, result) = match op {
        Op::Read => (base.value.clone(), base.value.clone()),
        Op::Write(token) => (vec![token], Value::new()),
        Op::Append(token) => (appended(&base.value, token), appended(&base.value, token)),
    };
    (State { accepted: ballot, value, ids, count: base.count + 1 }, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two updates on an empty key. The second has a promise of a store that forgets it, and is copied to, before the
    /// first arrives there. Random runs meet this too seldom to wait for it.
    fn accepts_around_a_copy(fenced: bool) -> [usize; 2] {
        let mut stores: [Acceptor; 3] = Default::default();
        let mut at = |store: usize, request: &Request| stores[store].execute(request);
        let (first, second, fence) = ((1, 1), (2, 2), Some(0));
        let accept = |ballot, token| {
            Request::Accept(fence, State { accepted: ballot, value: vec![token], ids: Vec::new(), count: 1 })
        };
        for (store, ballot) in [(0, first), (2, first), (1, second), (2, second)] {
            assert!(matches!(at(store, &Request::Prepare(fence, ballot)), Reply::State(_)));
        }
        stores[2].restarted(Memory::Lost);
        let mut at = |store: usize, request: &Request| stores[store].execute(request);
        assert!(matches!(at(2, &Request::Read(fence)), Reply::Fence(None)), "it does not vote");
        let epoch = u64::from(fenced);
        for store in [0, 1] {
            at(store, &Request::Raise(epoch));
            assert!(matches!(at(store, &Request::Read(Some(epoch))), Reply::State(state) if state.value.is_empty()));
        }
        at(2, &Request::Install(epoch, State::default()));
        let mut acks = |ballot, token, stores: [usize; 2]| {
            let accepts = |store: &usize| matches!(at(*store, &accept(ballot, token)), Reply::Accepted);
            stores.into_iter().filter(accepts).count()
        };
        [acks(first, 1, [0, 2]), acks(second, 2, [1, 2])]
    }

    #[test]
    fn a_copied_store_needs_the_fence() {
        assert_eq!(accepts_around_a_copy(false), [QUORUM, QUORUM], "both are chosen, neither knows of the other");
        assert_eq!(accepts_around_a_copy(true), [0, 0]);
    }
}
