//! A replicated pool with several proxies: stores that keep their data, a relay between each proxy and each store.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Value};
use super::fault::{Fault, FaultProxy};
use super::fleet::Fleet;
use super::quoit::{Quoit, QuoitConfig};
use super::redis::{DURABLE, Program, RedisServer};
use super::replicas;
use super::{PATIENCE, eventually};

/// How the proxies reach the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Direct,
    /// By a relay for each pair of proxy and store.
    Relayed,
}

/// One proxy and its ways to the stores.
pub(crate) struct Proxy {
    relays: Vec<FaultProxy>,
    /// `None` with `QUOIT_TEST_SUBJECT=redis`: the first store itself is asked.
    quoit: Option<Quoit>,
    address: SocketAddr,
}

impl Proxy {
    pub(crate) fn quoit(&self) -> Option<&Quoit> {
        self.quoit.as_ref()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

/// Stores and the proxies in front of them.
pub(crate) struct Cluster {
    pub(crate) stores: Vec<RedisServer>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) replicas: usize,
}

impl Cluster {
    /// `stores` stores with three replicas of each key behind `proxies` proxies, or `None` where no server is installed.
    pub(crate) fn start(stores: usize, proxies: usize, reach: Reach) -> Option<Self> {
        Self::start_with(stores, proxies, reach, |_, config| config)
    }

    /// The same with changes to the file of each proxy.
    pub(crate) fn start_with(
        stores: usize,
        proxies: usize,
        reach: Reach,
        change: impl Fn(usize, QuoitConfig) -> QuoitConfig,
    ) -> Option<Self> {
        Some(Self::in_front_of(Self::durable_stores(stores)?, proxies, reach, change))
    }

    /// Stores that have their data again when they are killed and restarted.
    pub(crate) fn durable_stores(stores: usize) -> Option<Vec<RedisServer>> {
        (0..stores).map(|_| RedisServer::start_with(Program::Redis, DURABLE)).collect()
    }

    /// Proxies in front of stores that run already.
    pub(crate) fn in_front_of(
        stores: Vec<RedisServer>,
        proxies: usize,
        reach: Reach,
        change: impl Fn(usize, QuoitConfig) -> QuoitConfig,
    ) -> Self {
        let replicas = 3;
        let plain = std::env::var("QUOIT_TEST_SUBJECT").is_ok_and(|subject| subject == "redis");
        let proxies = (0..proxies).map(|number| {
            let relays: Vec<_> = match reach {
                Reach::Direct => Vec::new(),
                Reach::Relayed => stores.iter().map(|store| FaultProxy::start(store.address())).collect(),
            };
            if plain {
                return Proxy { relays, quoit: None, address: stores[0].address() };
            }
            let addresses = (0..stores.len()).map(|index| match reach {
                Reach::Direct => stores[index].address(),
                Reach::Relayed => relays[index].address(),
            });
            let nodes = addresses.enumerate().map(|(index, address)| (Fleet::name(index), address));
            let quoit = Quoit::start(&change(number, impatient(QuoitConfig::new(nodes)).replicas(replicas)));
            let address = quoit.address();
            Proxy { relays, quoit: Some(quoit), address }
        });
        let proxies = proxies.collect();
        let cluster = Self { stores, proxies, replicas };
        cluster.has_begun();
        cluster
    }

    /// A pool begins when all its stores are there: none is taken away before that, however busy the machine is.
    fn has_begun(&self) {
        if !self.stores.iter().all(RedisServer::is_running) {
            return;
        }
        for proxy in self.proxies.iter().filter(|proxy| proxy.quoit.is_some()) {
            let mut client = proxy.client();
            eventually("the pool begins", PATIENCE, || !client.line("GET begun").is_error());
        }
    }

    /// Whether there are proxies at all; where not, a test of what only they do is over.
    pub(crate) fn has_proxies(&self) -> bool {
        let all = self.proxies.iter().all(|proxy| proxy.quoit.is_some());
        if !all {
            eprintln!("skip: the subject is a plain store");
        }
        all
    }

    pub(crate) fn client(&self, proxy: usize) -> Client {
        self.proxies[proxy].client()
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.proxies.iter().map(Proxy::client).collect()
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(Proxy::address).collect()
    }

    /// What happens between a store and those proxies for which `whom` holds.
    pub(crate) fn disturb(&self, store: usize, fault: Fault, whom: impl Fn(usize) -> bool) {
        for (number, proxy) in self.proxies.iter().enumerate().filter(|(number, _)| whom(*number)) {
            let relay = proxy.relays.get(store);
            relay.unwrap_or_else(|| panic!("proxy {number} has no relay to store {store}")).set(fault);
        }
    }

    /// Breaks the connections between a store and those proxies for which `whom` holds.
    pub(crate) fn cut(&self, store: usize, whom: impl Fn(usize) -> bool) {
        for (_, proxy) in self.proxies.iter().enumerate().filter(|(number, _)| whom(*number)) {
            if let Some(relay) = proxy.relays.get(store) {
                relay.cut_all();
            }
        }
    }

    pub(crate) fn kill_proxy(&mut self, proxy: usize) {
        if let Some(quoit) = &mut self.proxies[proxy].quoit {
            quoit.kill9();
        }
    }

    pub(crate) fn restart_proxy(&mut self, proxy: usize) {
        if let Some(quoit) = &mut self.proxies[proxy].quoit {
            quoit.start_again();
        }
    }

    /// Waits until each store has all the keys it should have and votes, without asking the proxies for anything. Values
    /// may change meanwhile.
    #[track_caller]
    pub(crate) fn refills(&self, what: &str) {
        let mut missing = Vec::new();
        let deadline = Instant::now() + PATIENCE * 2;
        while Instant::now() < deadline {
            missing = replicas::missing(&self.stores, self.replicas);
            if missing.is_empty() && replicas::all_vote(&self.stores) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let shown: Vec<_> = missing.iter().take(10).map(|key| key.escape_ascii().to_string()).collect();
        let vote = replicas::all_vote(&self.stores);
        panic!("{what}: {} keys have too few copies: {shown:?}; all stores vote: {vote}", missing.len());
    }

    /// Touches every key once, so that a proxy sees which replicas differ: where the one that knew it is dead.
    pub(crate) fn touched(&self) {
        replicas::touch_all(self.proxies[0].address, &self.stores);
    }

    /// Waits until all replicas are equal, without asking the proxies for anything.
    #[track_caller]
    pub(crate) fn converges(&self, what: &str) {
        self.converges_within(what, PATIENCE * 2);
    }

    #[track_caller]
    pub(crate) fn converges_within(&self, what: &str, patience: Duration) {
        if self.proxies.iter().any(|proxy| proxy.quoit.is_none()) {
            return;
        }
        replicas_converge(&self.stores, self.replicas, what, patience);
    }
}

/// Waits until the replicas are equal; says where they are not when `patience` is over.
#[track_caller]
pub(crate) fn replicas_converge(stores: &[RedisServer], replicas: usize, what: &str, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let differences = replicas::differences(stores, replicas);
        if differences.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: replicas still differ in {} keys after {patience:?}:\n{}",
            differences.len(),
            differences[..differences.len().min(12)].join("\n"),
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until many writes in a row succeed through every proxy.
#[track_caller]
pub(crate) fn all_serve(proxies: &[SocketAddr]) {
    for &proxy in proxies {
        let mut client = Client::connect(proxy);
        eventually("every key is served", PATIENCE, || {
            (0..20).all(|number| !client.command(&["SET", &format!("is it served?{number}"), "yes"]).is_error())
        });
    }
}

fn deadlines(ms: u32) -> String {
    format!("connect_timeout_ms = {ms}\nqueue_timeout_ms = {ms}\nservice_timeout_ms = {ms}\n")
}

/// For a cluster whose stores run or are gone, and are never silent: a store that is slow because the machine is busy is
/// waited for. Where nothing is wrong with the stores no command may be of unknown fate.
pub(crate) fn patient(_: usize, mut config: QuoitConfig) -> QuoitConfig {
    config.pool = config.pool.replace(&deadlines(IMPATIENT_MS), &deadlines(10_000));
    config
}

const IMPATIENT_MS: u32 = 300;

/// Deadlines short enough for a test, breakers that look again soon.
fn impatient(config: QuoitConfig) -> QuoitConfig {
    config
        .pool(&deadlines(IMPATIENT_MS))
        .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 20\nbackoff_max_ms = 200\nramp_ms = 100")
}

/// Whether a write was certainly not applied, by its answer.
pub(crate) fn is_refused(reply: &Value) -> bool {
    reply.is_error() && reply.text().starts_with("NOREPLICAS")
}

/// Whether nobody can say if a write was applied, by its answer.
pub(crate) fn is_unknown(reply: &Value) -> bool {
    reply.is_error() && reply.text().starts_with("UNKNOWN")
}
