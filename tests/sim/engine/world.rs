//! The engine's world: [`Backend`] over the simulated network, and the tasks of each proxy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quoit::backend::{Backend, Cause, Failure, Flow, Piece, ReplySink, Tag, Wake};
use quoit::clock::Moment;
use quoit::protocol::resp::{ReplyScan, Step, Version};

use crate::network::{Happening, Network};

use super::wire::{Bytes, Server};

/// Unix time in milliseconds that belongs to the beginning of each run.
const EPOCH_MS: u64 = 1_700_000_000_000;

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// A request that waits for its reply.
struct Pending {
    proxy: usize,
    store: usize,
    sink: Rc<dyn ReplySink>,
    tag: Tag,
    replies: u32,
}

/// What a timer is for.
enum Alarm {
    Wake(Rc<dyn Wake>),
    /// The request has waited too long.
    Timeout(u64),
    /// A client goes on.
    Client(usize),
}

/// What the driver of the clients has to know.
pub(crate) enum Told {
    Nothing,
    Client(usize),
    Crashed(usize),
    Started(usize),
}

struct Shared {
    network: Network<Server>,
    stores: usize,
    random: fastrand::Rng,
    tags: u64,
    pending: BTreeMap<u64, Pending>,
    alarms: BTreeMap<u64, (usize, Alarm)>,
    born: Vec<(usize, Job)>,
    /// A store is taken for dead by a proxy until then; for each proxy and store.
    down_until: Vec<u64>,
    openings: Vec<u64>,
    service_timeout_us: u64,
}

/// All proxies and their stores.
#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<Shared>>);

/// A store as a proxy sees it.
pub(crate) struct Node {
    pub(crate) store: usize,
    pub(crate) name: String,
}

/// The world of one proxy.
pub(crate) struct Wires {
    world: World,
    proxy: usize,
}

struct Flag(AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    job: Job,
    flag: Arc<Flag>,
    waker: Waker,
}

/// The tasks of one proxy. The first that was begun runs first.
#[derive(Default)]
pub(crate) struct Tasks(Vec<Task>);

impl Tasks {
    fn begin(&mut self, job: Job) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.0.push(Task { job, waker: Waker::from(Arc::clone(&flag)), flag });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Runs all that can run.
    pub(crate) fn run(&mut self, world: &World, proxy: usize) {
        loop {
            world.born(proxy).into_iter().for_each(|job| self.begin(job));
            let mut ran = false;
            self.0.retain_mut(|task| {
                if !task.flag.0.swap(false, Ordering::Relaxed) {
                    return true;
                }
                ran = true;
                task.job.as_mut().poll(&mut Context::from_waker(&task.waker)) == Poll::Pending
            });
            if !ran && !world.has_born() {
                return;
            }
        }
    }
}

impl World {
    pub(crate) fn new(
        network: Network<Server>,
        stores: usize,
        proxies: usize,
        seed: u64,
        service_timeout_us: u64,
    ) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            stores,
            network,
            random: fastrand::Rng::with_seed(seed),
            tags: 0,
            pending: BTreeMap::new(),
            alarms: BTreeMap::new(),
            born: Vec::new(),
            down_until: vec![0; proxies * stores],
            openings: vec![0; proxies * stores],
            service_timeout_us,
        })))
    }

    pub(crate) fn wires(&self, proxy: usize) -> Wires {
        Wires { world: self.clone(), proxy }
    }

    pub(crate) fn network<T>(&self, look: impl FnOnce(&mut Network<Server>) -> T) -> T {
        look(&mut self.0.borrow_mut().network)
    }

    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.borrow_mut().random)
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.0.borrow().network.now_us()
    }

    /// Has a client go on after a time.
    pub(crate) fn call_client(&self, proxy: usize, client: usize, after_us: u64) {
        self.set(proxy, after_us, Alarm::Client(client));
    }

    fn set(&self, proxy: usize, after_us: u64, alarm: Alarm) {
        let mut shared = self.0.borrow_mut();
        shared.tags += 1;
        let (tag, at) = (shared.tags, shared.network.now_us() + after_us);
        shared.alarms.insert(tag, (proxy, alarm));
        shared.network.timer(proxy, at, tag);
    }

    fn born(&self, proxy: usize) -> Vec<Job> {
        let mut shared = self.0.borrow_mut();
        let born = std::mem::take(&mut shared.born);
        assert!(born.iter().all(|(of, _)| *of == proxy), "one proxy runs at a time");
        born.into_iter().map(|(_, job)| job).collect()
    }

    fn has_born(&self) -> bool {
        !self.0.borrow().born.is_empty()
    }

    /// The next thing that happens, and the proxy that it happens to.
    pub(crate) fn step(&self) -> Option<(usize, Told)> {
        let happening = self.0.borrow_mut().network.step()?;
        Some(match happening {
            Happening::Reply { proxy, tag, reply } => {
                self.settle(tag, Ok(&reply.0));
                (proxy, Told::Nothing)
            }
            Happening::Lost { proxy, tag } => {
                self.lose(proxy, tag);
                (proxy, Told::Nothing)
            }
            Happening::Timer { proxy, tag } => {
                let alarm = self.0.borrow_mut().alarms.remove(&tag);
                match alarm {
                    Some((_, Alarm::Wake(wake))) => wake.wake(),
                    Some((_, Alarm::Timeout(request))) => {
                        let span = Duration::from_micros(self.0.borrow().service_timeout_us);
                        self.settle(request, Err(Cause::ServiceTimeout(span)));
                    }
                    Some((_, Alarm::Client(client))) => return Some((proxy, Told::Client(client))),
                    None => {}
                }
                (proxy, Told::Nothing)
            }
            Happening::Crashed { proxy } => (proxy, Told::Crashed(proxy)),
            Happening::Started { proxy } => (proxy, Told::Started(proxy)),
            Happening::Restarted { .. } => (0, Told::Nothing),
        })
    }

    /// A proxy is gone with all it waited for.
    pub(crate) fn forget(&self, proxy: usize) {
        let mut shared = self.0.borrow_mut();
        let born = std::mem::take(&mut shared.born);
        let (gone, kept) = std::mem::take(&mut shared.pending).into_iter().partition(|(_, it)| it.proxy == proxy);
        shared.pending = kept;
        let (silent, alarms) = std::mem::take(&mut shared.alarms).into_iter().partition(|(_, it)| it.0 == proxy);
        shared.alarms = alarms;
        let from = proxy * shared.stores;
        let stores = shared.stores;
        shared.down_until[from..from + stores].fill(0);
        drop(shared);
        let gone: BTreeMap<u64, Pending> = gone;
        let silent: BTreeMap<u64, (usize, Alarm)> = silent;
        drop((born, gone, silent));
    }

    /// The connection is lost; the next may take a while.
    fn lose(&self, proxy: usize, tag: u64) {
        {
            let mut shared = self.0.borrow_mut();
            if let Some(store) = shared.pending.get(&tag).map(|pending| pending.store) {
                let (link, now) = (proxy * shared.stores + store, shared.network.now_us());
                shared.openings[link] += 1;
                if shared.down_until[link] <= now && shared.random.bool() {
                    shared.down_until[link] = now + shared.random.u64(..20_000);
                }
            }
        }
        self.settle(tag, Err(Cause::Broken("reset".into())));
    }

    /// Tells a sink what became of its request, as a connection does it.
    fn settle(&self, tag: u64, came: Result<&[u8], Cause>) {
        let Some(Pending { store, sink, tag, replies, .. }) = self.0.borrow_mut().pending.remove(&tag) else { return };
        let _: Flow = match came {
            Ok(reply) => sink.reply(tag, Piece::Whole(one_of(reply, replies))),
            Err(cause) => sink.reply(tag, Piece::Failed(&Failure { node: label(store), cause })),
        };
    }

    fn send(
        &self,
        proxy: usize,
        store: usize,
        replies: u32,
        request: Vec<u8>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        if !self.is_up(proxy, store) {
            return Err(Cause::Connect("it is down".into()));
        }
        let (request_tag, timeout_us) = {
            let mut shared = self.0.borrow_mut();
            shared.tags += 1;
            let request_tag = shared.tags;
            let pending = Pending { proxy, store, sink: Rc::clone(sink), tag, replies };
            shared.pending.insert(request_tag, pending);
            shared.network.send(proxy, store, request_tag, Bytes(request));
            (request_tag, shared.service_timeout_us)
        };
        self.set(proxy, timeout_us, Alarm::Timeout(request_tag));
        Ok(())
    }

    fn is_up(&self, proxy: usize, store: usize) -> bool {
        let shared = self.0.borrow();
        shared.network.now_us() >= shared.down_until[proxy * shared.stores + store]
    }
}

fn label(store: usize) -> Arc<str> {
    format!("s{store}").into()
}

/// The last of several replies, or the first error before it.
fn one_of(replies: &[u8], count: u32) -> &[u8] {
    let mut rest = replies;
    for left in (0..count).rev() {
        let Ok(Step::Complete { len }) = ReplyScan::default().advance(rest) else {
            panic!("not {count} replies: {:?}", Bytes(replies.to_vec()));
        };
        let (reply, tail) = rest.split_at(len);
        if left == 0 {
            assert!(tail.is_empty(), "more than {count} replies: {:?}", Bytes(replies.to_vec()));
        }
        if left == 0 || reply.starts_with(b"-") {
            return reply;
        }
        rest = tail;
    }
    rest
}

impl Backend for Wires {
    type Node = Node;

    fn send(
        &self,
        node: &Rc<Node>,
        _bytes: usize,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        self.send_transaction(node, 0, 1, write, version, sink, tag)
    }

    fn send_transaction(
        &self,
        node: &Rc<Node>,
        _bytes: usize,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        _version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        let mut request = Vec::new();
        write(&mut request);
        self.world.send(self.proxy, node.store, count, request, sink, tag)
    }

    fn is_available(&self, node: &Rc<Node>) -> bool {
        self.world.is_up(self.proxy, node.store)
    }

    fn label(&self, node: &Rc<Node>) -> Arc<str> {
        label(node.store)
    }

    fn name<'n>(&self, node: &'n Rc<Node>) -> &'n str {
        &node.name
    }

    fn generation(&self, node: &Rc<Node>) -> u64 {
        let shared = self.world.0.borrow();
        shared.openings[self.proxy * shared.stores + node.store]
    }

    fn now(&self) -> Moment {
        Moment::default().after(Duration::from_micros(self.world.now_us()))
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.world.0.borrow().network.clock_us(self.proxy) / 1000
    }

    fn random(&self) -> u64 {
        self.world.random(|random| random.u64(..))
    }

    fn later(&self, after: Duration, wake: Rc<dyn Wake>) {
        let after_us = u64::try_from(after.as_micros()).expect("a short time");
        self.world.set(self.proxy, after_us, Alarm::Wake(wake));
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        self.world.0.borrow_mut().born.push((self.proxy, task));
    }
}
