//! Time and the wires: messages between proxies and stores, and what goes wrong with them.
//!
//! A driver sends ([`Network::send`]), sets timers ([`Network::timer`]), and asks for the next thing that happens to a
//! proxy ([`Network::step`]): a reply, a lost connection, a timer, a crash. All that is random follows from one seed,
//! and time is a number, so a run is repeated exactly. A driver of the protocol models is in `tasks`; one for the real
//! coordinator sends bytes to [`crate::store_node::StoreNode`] by the same four calls.
//!
//! Over [`Transport::Connections`] the requests of one proxy to one store, and their replies, keep their order; what is
//! lost is a connection, with all that is on its way. Over [`Transport::Datagrams`] each message is late, lost or
//! doubled for itself: harsher than TCP, for the models.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

use fastrand::Rng;

/// What a restart leaves of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Kept,
    Lost,
}

/// The far end of a connection.
pub(crate) trait Store {
    type Request: Clone + Debug;
    type Reply: Debug;

    /// Executes one request of one proxy.
    fn execute(&mut self, proxy: usize, request: &Self::Request, now_us: u64) -> Self::Reply;

    /// A proxy has opened a new connection.
    fn connected(&mut self, _proxy: usize) {}

    /// The process has ended and begins again.
    fn restarted(&mut self, memory: Memory);
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Connections,
    Datagrams,
}

/// What goes wrong, and how often. Shares are of a thousand messages, counts are of one run.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    pub(crate) transport: Transport,
    /// A message takes 50 µs to this.
    pub(crate) delay_us: u64,
    /// So many take up to `slow_us`.
    pub(crate) slow: u32,
    pub(crate) slow_us: u64,
    /// So many requests, and so many replies, are lost: with their connection, where there is one.
    pub(crate) lost: u32,
    /// So many requests arrive twice (datagrams only).
    pub(crate) doubled: u32,
    pub(crate) store_stalls: u32,
    pub(crate) proxy_stalls: u32,
    pub(crate) stall_us: u64,
    pub(crate) proxy_crashes: u32,
    /// Restarts of a store that keeps its memory, and of one that does not.
    pub(crate) restarts: u32,
    pub(crate) wipes: u32,
    /// Clocks differ from the true time by up to this, either way.
    pub(crate) skew_us: u64,
    /// Faults happen before this time.
    pub(crate) horizon_us: u64,
}

impl Faults {
    /// A bad day of the models: as in `docs`, 3 % of requests and of replies lost, clocks 50 ms off.
    pub(crate) fn models() -> Self {
        Self {
            transport: Transport::Datagrams,
            delay_us: 1_000,
            slow: 100,
            slow_us: 40_000,
            lost: 30,
            doubled: 20,
            store_stalls: 2,
            proxy_stalls: 2,
            stall_us: 40_000,
            proxy_crashes: 1,
            restarts: 0,
            wipes: 0,
            skew_us: 50_000,
            horizon_us: 150_000,
        }
    }

    /// The same over connections, and stores that restart.
    pub(crate) fn connections() -> Self {
        Self { transport: Transport::Connections, lost: 10, doubled: 0, restarts: 1, ..Self::models() }
    }
}

/// How often what went wrong in one run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    /// Messages that took as long as `slow_us` allows.
    pub(crate) slow: u64,
    /// Connections that broke, and requests and replies that were lost with them or for themselves.
    pub(crate) cuts: u64,
    pub(crate) lost: u64,
    /// Requests that a store executed after their connection was gone: what came later may have been before them.
    pub(crate) late: u64,
    pub(crate) doubled: u64,
    /// Messages that waited for a store, or for a proxy, that stood still.
    pub(crate) stalled: u64,
    pub(crate) crashes: u64,
    pub(crate) restarts: u64,
    pub(crate) wipes: u64,
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Happening<R> {
    Reply {
        proxy: usize,
        tag: u64,
        reply: R,
    },
    /// The connection ended before the reply came: the request may have been executed.
    Lost {
        proxy: usize,
        tag: u64,
    },
    Timer {
        proxy: usize,
        tag: u64,
    },
    /// All that the proxy knew is gone; nothing it waits for will come.
    Crashed {
        proxy: usize,
    },
    /// It begins again, with a new identity.
    Started {
        proxy: usize,
    },
    Restarted {
        store: usize,
        memory: Memory,
    },
}

#[derive(Debug, Clone)]
enum Event<Q, R> {
    Request { from: Endpoint, store: usize, tag: u64, request: Q },
    Reply { from: Endpoint, store: usize, tag: u64, reply: R },
    Closed { from: Endpoint, store: usize },
    Timer { from: Endpoint, tag: u64 },
    StallStore { store: usize, until_us: u64 },
    StallProxy { proxy: usize, until_us: u64 },
    Crash { proxy: usize },
    Start { proxy: usize },
    Restart { store: usize, memory: Memory },
}

/// One life of a proxy, and one of its connection: what belongs to an earlier one is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    proxy: usize,
    life: u32,
    opening: u32,
}

#[derive(Debug, Default, Clone)]
struct Link {
    opening: u32,
    opened: bool,
    /// Broken, and the proxy does not know yet.
    cut: bool,
    /// What was on its way when it broke is not executed either.
    cut_requests: bool,
    request_at: u64,
    reply_at: u64,
    waiting: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Host {
    life: u32,
    alive: bool,
    stalled_until: u64,
    skew_us: i64,
}

/// The wires, the stores at their ends, and the clock.
pub(crate) struct Network<S: Store> {
    stores: Vec<S>,
    store_stalls: Vec<u64>,
    proxies: Vec<Host>,
    links: Vec<Link>,
    queue: BTreeMap<(u64, u64), Event<S::Request, S::Reply>>,
    /// Requests whose connection is gone, and whose proxy has not been told yet.
    lost: VecDeque<(Endpoint, u64)>,
    now_us: u64,
    sequence: u64,
    /// The number of the event that is being handled.
    handled: u64,
    random: Rng,
    faults: Faults,
    counts: Counts,
    trace: Option<Vec<String>>,
}

impl<S: Store> Network<S> {
    pub(crate) fn new(stores: Vec<S>, proxies: usize, faults: Faults, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let skew = i64::try_from(faults.skew_us).expect("a small skew");
        let host = |_| Host { life: 0, alive: true, stalled_until: 0, skew_us: random.i64(-skew..=skew) };
        let proxies: Vec<Host> = (0..proxies).map(host).collect();
        let mut network = Self {
            store_stalls: vec![0; stores.len()],
            links: vec![Link::default(); stores.len() * proxies.len()],
            stores,
            proxies,
            queue: BTreeMap::new(),
            lost: VecDeque::new(),
            now_us: 0,
            sequence: 0,
            handled: 0,
            random,
            faults,
            counts: Counts::default(),
            trace: None,
        };
        network.plan_faults();
        network
    }

    /// Keeps a line of all that happens.
    pub(crate) fn keep_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    pub(crate) fn trace(&self) -> String {
        self.trace.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A line of the driver's own in the trace.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>8} {}", self.now_us, line()));
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time as a proxy believes it to be. It begins late enough for a clock that is behind.
    pub(crate) fn clock_us(&self, proxy: usize) -> u64 {
        (1_000_000 + self.now_us).saturating_add_signed(self.proxies[proxy].skew_us)
    }

    /// How often a proxy has crashed.
    pub(crate) fn life(&self, proxy: usize) -> u32 {
        self.proxies[proxy].life
    }

    pub(crate) fn random(&mut self) -> &mut Rng {
        &mut self.random
    }

    /// A store, for what an operator would do there.
    pub(crate) fn store(&mut self, store: usize) -> &mut S {
        &mut self.stores[store]
    }

    /// A store restarts now.
    pub(crate) fn restart(&mut self, store: usize, memory: Memory) {
        self.at(self.now_us, Event::Restart { store, memory });
    }

    /// From now on no message is slow or lost.
    pub(crate) fn calm(&mut self) {
        (self.faults.slow, self.faults.lost, self.faults.doubled) = (0, 0, 0);
    }

    /// Sends a request. Its reply comes as [`Happening::Reply`] with the same tag, or [`Happening::Lost`] does, or, by
    /// datagrams, nothing.
    pub(crate) fn send(&mut self, proxy: usize, store: usize, tag: u64, request: S::Request) {
        self.note(|| format!("p{proxy} -> s{store} #{tag} {request:?}"));
        match self.faults.transport {
            Transport::Datagrams => self.send_datagram(proxy, store, tag, request),
            Transport::Connections => self.send_in_order(proxy, store, tag, request),
        }
    }

    /// Calls the proxy back at a time.
    pub(crate) fn timer(&mut self, proxy: usize, at_us: u64, tag: u64) {
        let from = self.endpoint(proxy, 0);
        self.at(at_us, Event::Timer { from, tag });
    }

    /// The next thing that a driver has to know; None when nothing is left.
    pub(crate) fn step(&mut self) -> Option<Happening<S::Reply>> {
        loop {
            while let Some((from, tag)) = self.lost.pop_front() {
                if self.is_current(from) {
                    return Some(Happening::Lost { proxy: from.proxy, tag });
                }
            }
            let ((at, sequence), event) = self.queue.pop_first()?;
            (self.now_us, self.handled) = (at, sequence);
            if let Some(happening) = self.handle(event) {
                return Some(happening);
            }
        }
    }

    fn at(&mut self, at_us: u64, event: Event<S::Request, S::Reply>) {
        self.sequence += 1;
        self.queue.insert((at_us.max(self.now_us), self.sequence), event);
    }

    /// Puts off what is being handled, and keeps its place among what is due at the same time.
    fn put_off(&mut self, at_us: u64, event: Event<S::Request, S::Reply>) {
        self.queue.insert((at_us, self.handled), event);
    }

    fn endpoint(&self, proxy: usize, opening: u32) -> Endpoint {
        Endpoint { proxy, life: self.proxies[proxy].life, opening }
    }

    fn link(&mut self, proxy: usize, store: usize) -> &mut Link {
        let stores = self.stores.len();
        &mut self.links[proxy * stores + store]
    }

    fn delay(&mut self) -> u64 {
        let is_slow = self.chance(self.faults.slow);
        self.counts.messages += 1;
        self.counts.slow += u64::from(is_slow);
        let most = if is_slow { self.faults.slow_us } else { self.faults.delay_us };
        self.random.u64(50..=most)
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.random.u32(..1000) < of_thousand
    }

    fn plan_faults(&mut self) {
        let faults = self.faults.clone();
        let (stores, proxies) = (self.stores.len(), self.proxies.len());
        let any = |random: &mut Rng| random.u64(..faults.horizon_us);
        let mut random = self.random.fork();
        for _ in 0..faults.store_stalls {
            let (at, store) = (any(&mut random), random.usize(..stores));
            self.at(at, Event::StallStore { store, until_us: at + random.u64(..=faults.stall_us) });
        }
        for _ in 0..faults.proxy_stalls {
            let (at, proxy) = (any(&mut random), random.usize(..proxies));
            self.at(at, Event::StallProxy { proxy, until_us: at + random.u64(..=faults.stall_us) });
        }
        for _ in 0..faults.proxy_crashes {
            self.at(any(&mut random), Event::Crash { proxy: random.usize(..proxies) });
        }
        for (count, memory) in [(faults.restarts, Memory::Kept), (faults.wipes, Memory::Lost)] {
            // In the first half of its share of the time each: a second store must not lose its memory before the first
            // has it back.
            for nth in 0..count {
                let share = faults.horizon_us / u64::from(count);
                let at = u64::from(nth) * share + random.u64(..share / 2);
                self.at(at, Event::Restart { store: random.usize(..stores), memory });
            }
        }
    }

    fn send_datagram(&mut self, proxy: usize, store: usize, tag: u64, request: S::Request) {
        let from = self.endpoint(proxy, 0);
        if self.chance(self.faults.doubled) {
            self.counts.doubled += 1;
            let at = self.now_us + self.delay() + self.random.u64(..=self.faults.slow_us);
            self.at(at, Event::Request { from, store, tag, request: request.clone() });
        }
        if self.chance(self.faults.lost) {
            self.counts.lost += 1;
            return self.note(|| format!("   lost request #{tag}"));
        }
        let at = self.now_us + self.delay();
        self.at(at, Event::Request { from, store, tag, request });
    }

    fn send_in_order(&mut self, proxy: usize, store: usize, tag: u64, request: S::Request) {
        let arrives = self.now_us + self.delay();
        if self.chance(self.faults.lost) {
            self.cut(proxy, store);
        }
        let link = self.link(proxy, store);
        link.waiting.push_back(tag);
        let opened = std::mem::replace(&mut link.opened, true);
        if link.cut {
            self.counts.lost += 1;
            return self.note(|| format!("   lost request #{tag}: the connection is broken"));
        }
        link.request_at = arrives.max(link.request_at + 1);
        let (at, opening) = (link.request_at, link.opening);
        if !opened {
            self.stores[store].connected(proxy);
        }
        let from = self.endpoint(proxy, opening);
        self.at(at, Event::Request { from, store, tag, request });
    }

    /// A connection breaks; the proxy hears of it later, and opens the next one then.
    fn cut(&mut self, proxy: usize, store: usize) {
        let notice = self.now_us + self.delay();
        let cut_requests = self.random.bool();
        let link = self.link(proxy, store);
        if link.cut {
            return;
        }
        link.cut = true;
        link.cut_requests = cut_requests;
        let (opening, at) = (link.opening, notice.max(link.reply_at + 1));
        self.counts.cuts += 1;
        self.note(|| format!("   the connection of p{proxy} to s{store} breaks"));
        let from = self.endpoint(proxy, opening);
        self.at(at, Event::Closed { from, store });
    }

    fn handle(&mut self, event: Event<S::Request, S::Reply>) -> Option<Happening<S::Reply>> {
        match event {
            Event::Request { from, store, tag, request } => self.arrive(from, store, tag, request),
            Event::Reply { from, store, tag, reply } => return self.answer(from, store, tag, reply),
            Event::Closed { from, store } => self.close(from, store),
            Event::Timer { from, tag } => {
                let wait = self.proxies[from.proxy].stalled_until;
                if !self.is_current(from) {
                    return None;
                }
                if self.now_us < wait {
                    self.put_off(wait, Event::Timer { from, tag });
                    return None;
                }
                return Some(Happening::Timer { proxy: from.proxy, tag });
            }
            Event::StallStore { store, until_us } => {
                self.note(|| format!("s{store} stalls until {until_us}"));
                self.store_stalls[store] = until_us.max(self.store_stalls[store]);
            }
            Event::StallProxy { proxy, until_us } => {
                self.note(|| format!("p{proxy} stalls until {until_us}"));
                let host = &mut self.proxies[proxy];
                host.stalled_until = until_us.max(host.stalled_until);
            }
            Event::Crash { proxy } => return self.crash(proxy),
            Event::Start { proxy } => {
                self.proxies[proxy].alive = true;
                return Some(Happening::Started { proxy });
            }
            Event::Restart { store, memory } => {
                self.note(|| format!("s{store} restarts, its memory is {memory:?}"));
                match memory {
                    Memory::Kept => self.counts.restarts += 1,
                    Memory::Lost => self.counts.wipes += 1,
                }
                self.stores[store].restarted(memory);
                if self.faults.transport == Transport::Connections {
                    // Who is not there has no connection, and would never hear that it is gone.
                    let alive: Vec<usize> = (0..self.proxies.len()).filter(|at| self.proxies[*at].alive).collect();
                    for proxy in alive {
                        self.cut(proxy, store);
                    }
                }
                return Some(Happening::Restarted { store, memory });
            }
        }
        None
    }

    fn is_current(&self, from: Endpoint) -> bool {
        let host = self.proxies[from.proxy];
        host.alive && host.life == from.life
    }

    /// A request is at its store, whoever sent it may be gone.
    fn arrive(&mut self, from: Endpoint, store: usize, tag: u64, request: S::Request) {
        let wait = self.store_stalls[store];
        if self.now_us < wait {
            self.counts.stalled += 1;
            return self.put_off(wait, Event::Request { from, store, tag, request });
        }
        let in_order = self.faults.transport == Transport::Connections;
        let link = self.link(from.proxy, store);
        let is_gone = in_order && (link.opening != from.opening || link.cut);
        if is_gone && link.cut_requests {
            self.counts.lost += 1;
            return self.note(|| format!("   lost request #{tag} with its connection"));
        }
        self.counts.late += u64::from(is_gone);
        let reply = self.stores[store].execute(from.proxy, &request, self.now_us);
        self.note(|| format!("s{store} -> p{} #{tag} {reply:?}", from.proxy));
        let arrives = self.now_us + self.delay();
        let lost = self.chance(self.faults.lost);
        if !in_order {
            if lost {
                self.counts.lost += 1;
                return self.note(|| format!("   lost reply #{tag}"));
            }
            return self.at(arrives, Event::Reply { from, store, tag, reply });
        }
        if lost && self.link(from.proxy, store).opening == from.opening {
            self.cut(from.proxy, store);
        }
        let link = self.link(from.proxy, store);
        if link.cut || link.opening != from.opening {
            self.counts.lost += 1;
            return;
        }
        link.reply_at = arrives.max(link.reply_at + 1);
        let at = link.reply_at;
        self.at(at, Event::Reply { from, store, tag, reply });
    }

    fn answer(&mut self, from: Endpoint, store: usize, tag: u64, reply: S::Reply) -> Option<Happening<S::Reply>> {
        if !self.is_current(from) {
            return None;
        }
        let wait = self.proxies[from.proxy].stalled_until;
        if self.now_us < wait {
            self.counts.stalled += 1;
            self.put_off(wait, Event::Reply { from, store, tag, reply });
            return None;
        }
        if self.faults.transport == Transport::Connections {
            let link = self.link(from.proxy, store);
            if link.opening != from.opening {
                return None;
            }
            let first = link.waiting.pop_front();
            assert_eq!(first, Some(tag), "replies of one connection come in the order of its requests");
        }
        Some(Happening::Reply { proxy: from.proxy, tag, reply })
    }

    /// The proxy hears that a connection is gone, and all that waited on it.
    fn close(&mut self, from: Endpoint, store: usize) {
        if !self.is_current(from) || self.link(from.proxy, store).opening != from.opening {
            return;
        }
        let wait = self.proxies[from.proxy].stalled_until;
        if self.now_us < wait {
            return self.put_off(wait, Event::Closed { from, store });
        }
        let link = self.link(from.proxy, store);
        let opening = link.opening + 1;
        let old = std::mem::replace(link, Link { opening, ..Link::default() });
        link.cut_requests = old.cut_requests;
        self.lost.extend(old.waiting.into_iter().map(|tag| (from, tag)));
    }

    fn crash(&mut self, proxy: usize) -> Option<Happening<S::Reply>> {
        if !self.proxies[proxy].alive {
            return None;
        }
        self.note(|| format!("p{proxy} crashes"));
        self.counts.crashes += 1;
        self.proxies[proxy].alive = false;
        self.proxies[proxy].life += 1;
        for store in 0..self.stores.len() {
            let link = self.link(proxy, store);
            *link = Link { opening: link.opening + 1, ..Link::default() };
        }
        let at = self.now_us + self.random.u64(..=self.faults.stall_us);
        self.at(at, Event::Start { proxy });
        Some(Happening::Crashed { proxy })
    }
}
