//! The protocols that were tried, as small models: a replica is a stamp and a value, a proxy an `async` function.
//! Those that were rejected have to fail here, and those that were kept must not.

pub(crate) mod caspaxos;
pub(crate) mod hybrid;
pub(crate) mod stamped;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::rc::Rc;

use crate::history::{Call, End, History, Operation};
use crate::linearizable::{self, Model, Verdict};
use crate::network::{Faults, Memory, Network, Store};
use crate::tasks::{Proxy, World};

/// Stores of each run.
pub(crate) const STORES: usize = 3;
/// A majority of them.
pub(crate) const QUORUM: usize = 2;
/// How long a proxy waits for replies.
pub(crate) const TIMEOUT_US: u64 = 8_000;
/// A wait for replies that has no end but the timeout.
pub(crate) const ALL: [usize; STORES] = [0, 1, 2];

/// A value is the tokens it was made of: each write brings one that no other has, so that a result says which writes
/// came before it.
pub(crate) type Value = Vec<u16>;

/// What the clients of the models do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    /// A blind write of one token.
    Write(u16),
    /// An update: one token more. Its result is the whole value, as of INCR.
    Append(u16),
}

/// One copy of such a value.
pub(crate) struct Cell;

impl Model for Cell {
    type State = Value;
    type Op = Op;
    /// What a read or an update saw; nothing of a blind write.
    type Result = Value;

    fn start() -> Value {
        Value::new()
    }

    fn step(state: &Value, op: &Op, result: Option<&Value>) -> Vec<Value> {
        let (next, right) = match op {
            Op::Read => (state.clone(), state.clone()),
            Op::Write(token) => (vec![*token], Value::new()),
            Op::Append(token) => {
                let next = appended(state, *token);
                (next.clone(), next)
            }
        };
        if result.is_none_or(|result| *result == right) { vec![next] } else { Vec::new() }
    }
}

pub(crate) fn appended(value: &[u16], token: u16) -> Value {
    let mut next = value.to_vec();
    next.push(token);
    next
}

/// What a proxy tells its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answer(Value),
    /// May or may not have been applied.
    Unknown,
    /// Certainly not applied.
    Failed,
}

/// A replica of several keys of a model.
pub(crate) trait Replica: Default {
    type Request: Clone + Debug;
    type Reply: Debug;

    fn execute(&mut self, request: &Self::Request) -> Self::Reply;

    fn restarted(&mut self, memory: Memory) {
        if memory == Memory::Lost {
            *self = Self::default();
        }
    }
}

/// A store of such replicas.
#[derive(Default)]
pub(crate) struct Keys<R> {
    keys: [R; KEYS],
}

/// Keys of each run.
const KEYS: usize = 2;

impl<R: Replica> Store for Keys<R> {
    type Request = (usize, R::Request);
    type Reply = R::Reply;

    fn execute(&mut self, _proxy: usize, request: &Self::Request, _now_us: u64) -> R::Reply {
        self.keys[request.0].execute(&request.1)
    }

    fn restarted(&mut self, memory: Memory) {
        self.keys.iter_mut().for_each(|key| key.restarted(memory));
    }
}

/// One proxy and one key: what a protocol talks through.
pub(crate) struct Port<R: Replica> {
    pub(crate) proxy: Proxy<Keys<R>>,
    pub(crate) key: usize,
}

impl<R: Replica> Clone for Port<R> {
    fn clone(&self) -> Self {
        Self { proxy: self.proxy.clone(), key: self.key }
    }
}

impl<R: Replica + 'static> Port<R> {
    /// Asks all stores; goes on as soon as `enough` have answered.
    pub(crate) async fn ask_all(&self, request: R::Request, enough: usize) -> Vec<Option<R::Reply>> {
        self.ask(&ALL, |_| request.clone(), |replies| replies.iter().flatten().count() >= enough).await
    }

    /// Asks some stores; the replies are in their order.
    pub(crate) async fn ask(
        &self,
        stores: &[usize],
        request: impl Fn(usize) -> R::Request,
        enough: impl Fn(&[Option<R::Reply>]) -> bool,
    ) -> Vec<Option<R::Reply>> {
        self.proxy.ask(stores, |store| (self.key, request(store)), TIMEOUT_US, enough).await
    }

    /// A pause before another attempt, different for each proxy, and longer each time.
    pub(crate) async fn pause(&self, round: u32) {
        self.proxy.sleep(500 + self.proxy.random(3_000 << round)).await;
    }
}

/// One of the protocols. A value of this type is what one life of a proxy remembers.
pub(crate) trait Protocol: 'static {
    type Replica: Replica + 'static;

    /// `writer` differs for each life of each proxy.
    fn new(writer: u64, settings: &Settings) -> Self;

    fn run(&self, port: &Port<Self::Replica>, op: Op) -> impl Future<Output = Outcome>;

    /// What a proxy does beside its clients, once for each life.
    fn beside(self: Rc<Self>, _proxy: Proxy<Keys<Self::Replica>>) {}
}

/// Which variant of a protocol, and what it meets.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) faults: Faults,
    pub(crate) variant: u32,
    pub(crate) proxies: usize,
    /// Clients of each proxy, which share what it remembers.
    pub(crate) clients: usize,
    /// Operations of each proxy, whichever of its clients makes them.
    pub(crate) operations: usize,
    /// Of ten operations, so many are reads, and so many blind writes; the rest are updates.
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    pub(crate) pause_us: u64,
}

impl Settings {
    pub(crate) fn new(faults: Faults, variant: u32, reads: u32, writes: u32) -> Self {
        Self { faults, variant, proxies: 4, clients: 1, operations: 12, reads, writes, pause_us: 6_000 }
    }
}

/// What one run came to.
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    pub(crate) answered: usize,
    pub(crate) unknown: usize,
    pub(crate) failed: usize,
    /// For people; empty unless asked for.
    pub(crate) trace: String,
}

type Shared = Rc<RefCell<History<Op, Value>>>;

/// One run of a protocol.
pub(crate) fn run<P: Protocol>(settings: &Settings, seed: u64, with_trace: bool) -> Run {
    let stores = ALL.iter().map(|_| Keys::<P::Replica>::default()).collect();
    let mut network = Network::new(stores, settings.proxies, settings.faults.clone(), seed);
    if with_trace {
        network.keep_trace();
    }
    let history: Shared = Rc::new(RefCell::new(History::new()));
    let world = World::new(network);
    let left = Rc::new(RefCell::new(vec![settings.operations; settings.proxies]));
    world.run(settings.proxies, |proxy| {
        let life = proxy.with_network(|network| network.life(proxy.id));
        let protocol = Rc::new(P::new((proxy.id as u64 + 1) << 8 | u64::from(life), settings));
        Rc::clone(&protocol).beside(proxy.clone());
        for _ in 0..settings.clients {
            let (protocol, history) = (Rc::clone(&protocol), Rc::clone(&history));
            proxy.spawn(client(proxy.clone(), protocol, history, Rc::clone(&left), settings.clone()));
        }
    });
    summary(&history.borrow(), &world, with_trace)
}

/// One client: one operation after the other, until its share is done.
async fn client<P: Protocol>(
    proxy: Proxy<Keys<P::Replica>>,
    protocol: Rc<P>,
    history: Shared,
    left: Rc<RefCell<Vec<usize>>>,
    settings: Settings,
) {
    while left.borrow()[proxy.id] > 0 {
        proxy.sleep(proxy.random(settings.pause_us)).await;
        if left.borrow()[proxy.id] == 0 {
            return;
        }
        left.borrow_mut()[proxy.id] -= 1;
        // One key is busy, the other is there to be mixed up with it.
        let key = usize::from(proxy.random(5) == 0);
        let call = begin(&proxy, &history, key, &settings);
        let op = history.borrow().operations().last().expect("the call just made").op;
        let port = Port { proxy: proxy.clone(), key };
        let outcome = protocol.run(&port, op).await;
        proxy.note(|| format!("p{} is told {outcome:?} of {op:?} on key {key}", proxy.id));
        match outcome {
            Outcome::Answer(value) => history.borrow_mut().answer(call, value),
            Outcome::Failed => history.borrow_mut().fail(call),
            Outcome::Unknown => {}
        }
    }
}

fn begin<S: Store + 'static>(proxy: &Proxy<S>, history: &Shared, key: usize, settings: &Settings) -> Call {
    let mut history = history.borrow_mut();
    let token = u16::try_from(history.operations().len() + 1).expect("few operations");
    let kind = u32::try_from(proxy.random(10)).expect("a digit");
    let op = match kind {
        _ if kind < settings.reads => Op::Read,
        _ if kind < settings.reads + settings.writes => Op::Write(token),
        _ => Op::Append(token),
    };
    proxy.note(|| format!("p{} begins {op:?} on key {key}", proxy.id));
    history.call(proxy.id, key, op)
}

/// Without the writes of unknown end whose token no result has: what cannot be told from never having happened, need not
/// have. (Where one was placed, nobody looked before the next write, or its token had been seen.)
fn that_matter(operations: Vec<Operation<Op, Value>>) -> Vec<Operation<Op, Value>> {
    let result = |operation: &Operation<Op, Value>| match &operation.end {
        End::Answered { result, .. } => result.clone(),
        End::Unknown | End::Failed => Value::new(),
    };
    let seen: HashSet<u16> = operations.iter().flat_map(result).collect();
    let matters = |operation: &Operation<Op, Value>| match (&operation.end, operation.op) {
        (End::Answered { .. }, _) => true,
        (End::Unknown, Op::Write(token) | Op::Append(token)) => seen.contains(&token),
        (End::Unknown, Op::Read) | (End::Failed, _) => false,
    };
    operations.into_iter().filter(matters).collect()
}

fn summary<S: Store + 'static>(history: &History<Op, Value>, world: &World<S>, with_trace: bool) -> Run {
    let verdicts: Vec<Verdict> =
        (0..KEYS).map(|key| linearizable::check::<Cell>(&that_matter(history.of_key(key)))).collect();
    let worst = verdicts.iter().find(|verdict| matches!(verdict, Verdict::Violation { .. }));
    let worst = worst.or_else(|| verdicts.iter().find(|verdict| **verdict == Verdict::Undecided));
    let count = |wanted: fn(&End<Value>) -> bool| history.operations().iter().filter(|op| wanted(&op.end)).count();
    let trace = if with_trace {
        world.with_network(|network| format!("{}\n\n{}", network.trace(), history.shown()))
    } else {
        String::new()
    };
    Run {
        verdict: worst.copied().unwrap_or(Verdict::Linearizable),
        answered: count(|end| matches!(end, End::Answered { .. })),
        unknown: count(|end| matches!(end, End::Unknown)),
        failed: count(|end| matches!(end, End::Failed)),
        trace,
    }
}
