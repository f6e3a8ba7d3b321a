//! One run: clients ask engines that speak to real stores over wires that fail, and all that they heard is judged.

use std::cell::RefCell;
use std::rc::Rc;

use quoit::backend::{Flow, Piece, ReplySink, Tag};
use quoit::command::{self, Args, KeyIndexes};
use quoit::protocol::resp::{Limits, RequestScan, Scanned, Version, write_request};
use quoit::quorum::Level;
use quoit::replication::{Engine, Group, Member, Request, Taken, Transaction};
use quoit::version::{FENCE_KEY, FenceState, Mark, Record, write_record_key};

use crate::history::{Call, End, History, Operation};
use crate::linearizable::{Verdict, check};
use crate::network::{Memory, Network};
use crate::sequential::{Answer, Verb};
use crate::store_node::StoreNode;

use super::model::{AllKeys, Ask, OneKey, answer};
use super::outcome::{Outcome, level_name};
use super::plan::Plan;
use super::wire::Server;
use super::world::{Node, Tasks, Told, Wires, World};

/// Longer than anything takes when nothing goes wrong any more: a lease on a rebuild ends after 10 s.
const PATIENCE_US: u64 = 40_000_000;
/// How often the last writes are made again where a proxy dies within one.
const LAST_MAX: usize = 5;

/// How many replicas have to hold the newest state of a key.
#[derive(Clone, Copy)]
enum Equal {
    Quorum,
    All,
    /// All of them, whatever became of unknown writes: something was written to all since.
    AllForCertain,
}

/// A reply, as its client gets it.
type Heard = (usize, u64, Option<Vec<u8>>);

struct Client {
    proxy: usize,
    asks: usize,
    /// The number of its request, and where it stands in the history.
    current: Option<(u64, Call)>,
    asked: Option<Ask>,
    last: Vec<(usize, Ask)>,
}

struct Ear {
    client: usize,
    serial: u64,
    heard: Rc<RefCell<Vec<Heard>>>,
}

impl ReplySink for Ear {
    fn reply(self: Rc<Self>, _tag: Tag, piece: Piece<'_>) -> Flow {
        let bytes = match piece {
            Piece::Whole(bytes) => Some(bytes.to_vec()),
            Piece::Failed(_) => None,
            other => panic!("a short reply in pieces: {other:?}"),
        };
        self.heard.borrow_mut().push((self.client, self.serial, bytes));
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.client + 1
    }
}

struct Proxy {
    engine: Rc<Engine<Wires>>,
    group: Rc<Group<Wires>>,
}

pub(crate) struct Run {
    plan: Plan,
    world: World,
    nodes: Vec<Rc<RefCell<StoreNode>>>,
    proxies: Vec<Option<Proxy>>,
    tasks: Vec<Tasks>,
    clients: Vec<Client>,
    heard: Rc<RefCell<Vec<Heard>>>,
    history: History<(usize, Ask), Answer>,
    serial: u64,
    outcome: Outcome,
    /// What clients ask of the replicas.
    level: Level,
    /// Stores that are still to be emptied, and when the next may be.
    wipes: u32,
    wipe_at_us: u64,
    began: bool,
    traced: bool,
}

/// A request as it comes, and where its words are.
fn scan(words: &[Vec<u8>]) -> (Vec<u8>, RequestScan) {
    let mut frame = Vec::new();
    write_request(&mut frame, words.iter().map(Vec::as_slice));
    let mut scan = RequestScan::default();
    let Ok(Scanned::Request { .. }) = scan.scan(&frame, &Limits::REDIS) else { panic!("a request of ours") };
    (frame, scan)
}

fn key_name(key: usize) -> Vec<u8> {
    format!("key{key}").into_bytes()
}

impl Run {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let plan = Plan::of(seed);
        let node = |at: usize| Rc::new(RefCell::new(StoreNode::new(seed.wrapping_add(at as u64), plan.proxies, 0)));
        let nodes: Vec<_> = (0..plan.stores).map(node).collect();
        let server = |(at, node): (usize, &Rc<RefCell<StoreNode>>)| {
            Server::new(Rc::clone(node), seed ^ (at as u64) << 8, plan.script_flushes)
        };
        let servers = nodes.iter().enumerate().map(server).collect();
        let mut network = Network::new(servers, plan.proxies, plan.faults.clone(), seed);
        if traced {
            network.keep_trace();
        }
        network.note(|| format!("{plan:?}"));
        let world = World::new(network, plan.stores, plan.proxies, seed ^ 0x77, plan.service_timeout_us);
        let client = |at: usize| Client {
            proxy: at % plan.proxies,
            asks: plan.asks,
            current: None,
            asked: None,
            last: Vec::new(),
        };
        Self {
            clients: (0..plan.clients).map(client).collect(),
            proxies: (0..plan.proxies).map(|_| None).collect(),
            tasks: (0..plan.proxies).map(|_| Tasks::default()).collect(),
            heard: Rc::default(),
            history: History::new(),
            serial: 0,
            outcome: Outcome::default(),
            level: plan.level,
            wipes: plan.wipes,
            wipe_at_us: 0,
            began: false,
            plan,
            world,
            nodes,
            traced,
        }
    }

    /// Runs to the end.
    pub(crate) fn play(mut self) -> Outcome {
        if !self.plan.is_pure {
            for node in &self.nodes {
                node.borrow_mut().command(&[b"SET", b"other", b"1"], 0);
            }
        }
        for proxy in 0..self.plan.proxies {
            self.start(proxy);
        }
        let done = |run: &Self| run.clients.iter().all(|client| client.asks == 0 && client.current.is_none());
        let ended = self.play_until(done);
        if !ended {
            self.violation("liveness: a client has no answer");
            return self.end();
        }
        let started = |run: &Self| run.proxies.iter().all(Option::is_some);
        let votes = |run: &Self| started(run) && (0..run.plan.stores).all(|store| run.votes(store));
        if !self.play_until(votes) {
            self.violation("liveness: a store does not vote");
            return self.end();
        }
        self.ask_last();
        if !self.play_until(done) {
            self.violation("liveness: a client has no answer at the end");
            return self.end();
        }
        self.settle();
        self.look_at_replicas(if self.forgot() { Equal::Quorum } else { Equal::All });
        // One may have been emptied since it was last looked at.
        if !self.play_until(votes) {
            self.violation("liveness: a store does not vote at the end");
            return self.end();
        }
        // Where the proxy dies within it, nobody is left who knows what a replica missed.
        for _ in 0..LAST_MAX {
            let unknown = self.unknown();
            self.write_last();
            if !self.play_until(done) {
                self.violation("liveness: a write to all has no answer at the end");
                return self.end();
            }
            if self.unknown() == unknown {
                break;
            }
        }
        self.settle();
        self.look_at_replicas(Equal::AllForCertain);
        self.judge();
        self.end()
    }

    fn end(mut self) -> Outcome {
        self.outcome.runs = 1;
        self.outcome.virtual_us = self.world.now_us();
        self.outcome.skewed = u64::from(self.plan.faults.skew_us > 0);
        self.outcome.impure = u64::from(!self.plan.is_pure);
        self.outcome.faults = self.world.network(|it| it.counts().clone());
        self.outcome.flushes =
            (0..self.plan.stores).map(|store| self.world.network(|it| it.store(store).flushed())).sum();
        self.outcome.bundles =
            (0..self.plan.stores).map(|store| self.world.network(|it| it.store(store).bundles())).sum();
        if self.traced {
            self.outcome.trace = format!("{}\n{}", self.world.network(|it| it.trace()), self.history.shown());
        }
        for proxy in self.proxies.iter().flatten() {
            self.outcome.rebuilt += proxy.group.cells.rebuilds.get();
            self.outcome.long_writes += proxy.group.cells.writes_in_more_rounds.get();
            self.outcome.long_reads += proxy.group.cells.reads_in_more_rounds.get();
            self.outcome.hedges += proxy.group.cells.hedges.get();
            self.outcome.repairs += proxy.group.cells.repairs.get();
        }
        for proxy in 0..self.plan.proxies {
            self.stop(proxy);
        }
        self.outcome
    }

    fn violation(&mut self, what: &str) {
        self.outcome.violation.get_or_insert_with(|| what.to_owned());
    }

    /// False if that takes forever.
    fn play_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let limit = self.world.now_us().max(self.plan.faults.horizon_us) + PATIENCE_US;
        while !done(self) {
            if self.world.now_us() > limit {
                return false;
            }
            self.step();
        }
        true
    }

    fn play_for(&mut self, span_us: u64) {
        let end = self.world.now_us() + span_us;
        self.play_until(|run| run.world.now_us() >= end);
    }

    fn step(&mut self) {
        let Some((proxy, told)) = self.world.step() else { panic!("the keepers never end") };
        if self.world.now_us() > self.plan.faults.horizon_us {
            self.world.network(Network::calm);
        }
        self.wipe();
        match told {
            Told::Nothing => {}
            Told::Client(client) => self.next_asks(client),
            Told::Crashed(proxy) => self.crash(proxy),
            Told::Started(proxy) => self.start(proxy),
        }
        self.tasks[proxy].run(&self.world, proxy);
        self.listen();
    }

    /// Empties a store, if it is time to, and no other is without its memory.
    fn wipe(&mut self) {
        const BETWEEN_US: u64 = 60_000;
        let now = self.world.now_us();
        if self.wipes == 0 || now < self.wipe_at_us || now > self.plan.faults.horizon_us {
            return;
        }
        if !(0..self.plan.stores).all(|store| self.votes(store)) {
            self.wipe_at_us = now + 1_000;
            return;
        }
        let (store, after_us) =
            self.world.random(|random| (random.usize(..self.plan.stores), random.u64(..BETWEEN_US)));
        if self.began {
            self.wipes -= 1;
            self.world.network(|network| network.restart(store, Memory::Lost));
        }
        // Not at the moment when the last one begins to vote.
        self.began = !self.began;
        self.wipe_at_us = now + 1 + after_us;
    }

    fn start(&mut self, proxy: usize) {
        let engine = Engine::new(self.world.wires(proxy), self.world.random(|random| random.u64(..)));
        let member = |store: usize| Member::new(Rc::new(Node { store, name: format!("node{store}") }));
        let (stores, replicas) = (self.plan.stores, usize::from(self.plan.settings.quorums.replicas));
        let locate = move |key: &[u8]| {
            let first = key.last().map_or(0, |byte| usize::from(*byte));
            (0..replicas).map(|nth| (first * 2 + nth) % stores).collect()
        };
        let serial = engine.next_serial();
        let members = (0..stores).map(member).collect();
        let group = Group::new("pool", self.plan.settings.clone(), members, serial, Box::new(locate));
        engine.keep(&group, true);
        self.proxies[proxy] = Some(Proxy { engine, group });
        self.tasks[proxy].run(&self.world, proxy);
        for client in 0..self.clients.len() {
            if self.clients[client].proxy == proxy {
                let pause = self.pause();
                self.world.call_client(proxy, client, pause + 2_000);
            }
        }
    }

    fn stop(&mut self, proxy: usize) {
        self.world.forget(proxy);
        self.tasks[proxy].clear();
        self.proxies[proxy] = None;
    }

    fn crash(&mut self, proxy: usize) {
        self.stop(proxy);
        self.heard.borrow_mut().clear();
        for client in self.clients.iter_mut().filter(|client| client.proxy == proxy) {
            // What it asked stays unknown.
            if client.current.take().is_some() {
                self.outcome.unknown += 1;
            }
        }
    }

    fn pause(&self) -> u64 {
        self.world.random(|random| random.u64(..self.plan.pause_us))
    }

    /// What a client asks; and often what other clients of its proxy ask, as if all came as one batch.
    fn next_asks(&mut self, at: usize) {
        let proxy = self.clients[at].proxy;
        let engine = self.proxies[proxy].as_ref().map(|proxy| Rc::clone(&proxy.engine));
        let begins = engine.as_ref().is_some_and(|engine| engine.begin_batch());
        self.next_ask(at);
        for other in 0..self.clients.len() {
            let is_near = other != at && self.clients[other].proxy == proxy;
            if is_near && self.world.random(fastrand::Rng::bool) {
                self.next_ask(other);
            }
        }
        if let Some(engine) = engine.filter(|_| begins) {
            engine.end_batch();
        }
    }

    fn next_ask(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.current.is_some() {
            return;
        }
        let (key, ask) = match client.last.pop() {
            Some(last) => last,
            None if client.asks > 0 => {
                let (plan, serial) = (&self.plan, self.history.operations().len() + 1);
                self.world.random(|random| {
                    let key = random.usize(..plan.keys);
                    (key, plan.ask(random, key, serial))
                })
            }
            None => return,
        };
        client.asks = client.asks.saturating_sub(1);
        self.ask(at, key, &ask);
    }

    fn ask(&mut self, at: usize, key: usize, ask: &Ask) {
        let proxy_id = self.clients[at].proxy;
        let call = self.history.call(proxy_id, key, (key, ask.clone()));
        self.serial += 1;
        self.outcome.operations += 1;
        *self.outcome.verbs.entry(ask.name()).or_default() += 1;
        *self.outcome.levels.entry(level_name(self.level)).or_default() += 1;
        self.clients[at].current = Some((self.serial, call));
        self.clients[at].asked = Some(ask.clone());
        let serial = self.serial;
        self.world.network(|network| network.note(|| format!("p{proxy_id} c{at} op{serial} asks {key} {ask:?}")));
        let Some(proxy) = &self.proxies[proxy_id] else { panic!("a client of a proxy that is not there") };
        let all: Vec<Vec<u8>> = (0..self.plan.keys).map(key_name).collect();
        let ear: Rc<dyn ReplySink> = Rc::new(Ear { client: at, serial, heard: Rc::clone(&self.heard) });
        let members = proxy.group.replicas_of(&all[key]).expect("all keys have replicas");
        if ask.is_transaction() {
            let scanned: Vec<_> = (0..all.len()).map(|key| scan(&ask.words(key, &all))).collect();
            let args: Vec<Args<'_>> = scanned.iter().map(|(frame, scan)| Args::new(frame, scan.bounds())).collect();
            let row = |args: &Args<'_>| command::resolve(args).expect("a verb that is served");
            let commands: Vec<_> = args.into_iter().map(|args| (row(&args), args)).collect();
            let texts = vec![None; commands.len()];
            let transaction = Transaction {
                group: &proxy.group,
                members,
                commands: &commands,
                texts: &texts,
                watched: &[],
                version: Version::Resp2,
                level: self.level,
            };
            proxy.engine.transact(&transaction, &ear, Tag::default());
            return;
        }
        let (frame, scan) = scan(&ask.words(key, &all));
        let args = Args::new(&frame, scan.bounds());
        let row = command::resolve(&args).expect("a verb that is served");
        let mut keys = KeyIndexes::new();
        command::keys(row, &args, &mut keys).expect("it has keys");
        let request = Request {
            group: &proxy.group,
            members,
            frame: &frame,
            args,
            keys: &keys,
            row,
            version: Version::Resp2,
            level: self.level,
        };
        let mut out = Vec::new();
        if proxy.engine.serve(&request, &ear, Tag::default(), &mut out) == Taken::Answered {
            self.heard.borrow_mut().push((at, serial, Some(out)));
        }
    }

    /// Takes what clients have heard.
    fn listen(&mut self) {
        loop {
            let Some((at, serial, bytes)) = self.heard.borrow_mut().pop() else { return };
            let text = bytes.as_deref().unwrap_or(b"failed").escape_ascii().to_string();
            self.world.network(|network| network.note(|| format!("c{at} op{serial} hears {text}")));
            let client = &mut self.clients[at];
            match client.current.take() {
                Some((current, call)) if current == serial => self.hear(at, call, bytes, &text),
                _ => self.violation("an operation was answered twice"),
            }
        }
    }

    fn hear(&mut self, at: usize, call: Call, bytes: Option<Vec<u8>>, text: &str) {
        let client = &mut self.clients[at];
        let ask = client.asked.take().expect("it asked");
        let proxy = client.proxy;
        match bytes {
            None => self.history.fail(call),
            Some(bytes) if bytes.starts_with(b"-UNKNOWN") => self.outcome.unknown += 1,
            Some(bytes) if bytes.starts_with(b"-NOREPLICAS") => {
                self.outcome.failed += 1;
                self.history.fail(call);
            }
            Some(bytes) => match answer(&bytes, &ask) {
                Some(answer) => self.history.answer(call, answer),
                None => self.violation(&format!("an answer of no model to {ask:?}: {text}")),
            },
        }
        let pause = self.pause();
        self.world.call_client(proxy, at, pause);
    }

    /// Whether somebody may have forgotten what is to be repaired.
    fn forgot(&self) -> bool {
        self.plan.faults.proxy_crashes + self.plan.faults.wipes + self.plan.wipes > 0
    }

    /// A client of each proxy looks at each key once more.
    fn ask_last(&mut self) {
        for at in 0..self.clients.len().min(self.plan.proxies) {
            let looks = [Verb::Get, Verb::LRange, Verb::SMembers];
            let all = (0..self.plan.keys).flat_map(|key| looks.iter().map(move |verb| (key, Ask::Plain(verb.clone()))));
            let all: Vec<_> = if at == 0 { all.collect() } else { all.step_by(3).collect() };
            self.clients[at].asks = all.len();
            self.clients[at].last = all;
            let proxy = self.clients[at].proxy;
            self.world.call_client(proxy, at, 1);
        }
    }

    /// An answer of a store to an operator.
    fn command(&self, store: usize, args: &[&[u8]]) -> Vec<u8> {
        self.nodes[store].borrow_mut().command(args, self.world.now_us())
    }

    fn bulk(&self, store: usize, args: &[&[u8]]) -> Vec<u8> {
        let reply = self.command(store, args);
        if reply.starts_with(b"$-1") {
            return Vec::new();
        }
        let at = reply.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        reply[at..reply.len() - 2].to_vec()
    }

    fn votes(&self, store: usize) -> bool {
        let mark = Mark::decode(&self.bulk(store, &[b"GET", FENCE_KEY]));
        matches!(mark, Ok(Mark::Fence(fence)) if fence.state == FenceState::Member)
    }

    /// Waits for what goes on in the background.
    fn settle(&mut self) {
        let idle = |run: &Self| run.proxies.iter().flatten().all(|proxy| proxy.engine.repairs_waiting() == 0);
        if !self.play_until(idle) {
            self.violation("liveness: repairs do not end");
        }
        self.play_for(600_000);
    }

    /// One client writes each key once more, so that all replicas take it: after that nobody is behind, whatever proxies
    /// that crashed had left to repair.
    fn write_last(&mut self) {
        self.level = Level::All;
        let all: Vec<_> = (0..self.plan.keys).map(|key| (key, Ask::Persist)).collect();
        self.clients[0].asks = all.len();
        self.clients[0].last = all;
        self.world.call_client(self.clients[0].proxy, 0, 1);
    }

    /// How many operations have ended without anybody knowing how.
    fn unknown(&self) -> usize {
        let of_key = |key| self.history.of_key(key).iter().filter(|it| matches!(it.end, End::Unknown)).count();
        (0..self.plan.keys).map(of_key).sum()
    }

    /// Looks whether so many replicas of each key hold the newest state of it, and none holds something else under the
    /// same ballot.
    fn look_at_replicas(&mut self, equal: Equal) {
        for key in 0..self.plan.keys {
            let name = key_name(key);
            let Some(proxy) = &self.proxies[0] else { return };
            let members = proxy.group.replicas_of(&name).expect("all keys have replicas");
            let mut record_name = Vec::new();
            write_record_key(&name, &mut record_name);
            let held = |member: &Rc<Member<Wires>>| {
                let bytes = self.bulk(member.node.store, &[b"GET", &record_name]);
                let record =
                    if bytes.is_empty() { Record::default() } else { Record::decode(&bytes).expect("a record") };
                // What a replica promised, and what it had before, is its own.
                let record = Record { promised: None, prior: None, transferred: false, ..record };
                (record, self.value(member.node.store, &name))
            };
            let held: Vec<_> = members.iter().map(held).collect();
            let newest = held.iter().map(|(record, _)| record.accepted).max().unwrap_or_default();
            let (new, old): (Vec<_>, Vec<_>) = held.iter().partition(|(record, _)| record.accepted == newest);
            let enough = match equal {
                Equal::Quorum => usize::from(self.plan.settings.quorums.write),
                Equal::All | Equal::AllForCertain => held.len(),
            };
            self.outcome.behind += u64::from(!old.is_empty());
            // The message of a write whose outcome is unknown may arrive when the repair that followed it is done.
            let is_unknown = |operation: &Operation<(usize, Ask), Answer>| matches!(operation.end, End::Unknown);
            let may_be_late = !matches!(equal, Equal::AllForCertain) && self.history.of_key(key).iter().any(is_unknown);
            if new.len() < enough && !may_be_late {
                self.violation(&format!("key {key}: replicas differ at the end: {held:?}"));
            }
            if new.windows(2).any(|two| two[0] != two[1]) {
                self.violation(&format!("key {key}: two states of one ballot at the end: {held:?}"));
            }
        }
    }

    /// The value of a key in one form whatever the order of its members.
    fn value(&self, store: usize, name: &[u8]) -> Vec<u8> {
        let members = self.command(store, &[b"SORT", name, b"ALPHA"]);
        match members.first() {
            Some(b'*') if members != b"*0\r\n" => {
                let list = self.command(store, &[b"LRANGE", name, b"0", b"-1"]);
                if list.starts_with(b"-") { members } else { list }
            }
            _ => self.bulk(store, &[b"DUMP", name]),
        }
    }

    fn judge(&mut self) {
        if self.plan.flavour.is_joint() {
            return self.take_verdict(check::<AllKeys>(self.history.operations()), "all keys");
        }
        for key in 0..self.plan.keys {
            let operations: Vec<Operation<Ask, Answer>> =
                self.history.of_key(key).into_iter().map(|operation| single(&operation)).collect();
            self.take_verdict(check::<OneKey>(&operations), &format!("key {key}"));
        }
    }

    fn take_verdict(&mut self, verdict: Verdict, of: &str) {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Undecided => self.outcome.undecided += 1,
            Verdict::Violation { placed } => {
                let what = format!("{of}: not linearizable, {placed} operations placed\n{}", self.history.shown());
                self.violation(&what);
            }
        }
    }
}

fn single(operation: &Operation<(usize, Ask), Answer>) -> Operation<Ask, Answer> {
    let end: End<Answer> = operation.end.clone();
    Operation { proxy: operation.proxy, key: operation.key, call: operation.call, op: operation.op.1.clone(), end }
}
