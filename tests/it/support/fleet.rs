//! The usual set: some stores and the proxy in front of them.

use std::net::SocketAddr;

use super::client::{Client, Value};
use super::quoit::{Quoit, QuoitConfig};
use super::redis::RedisServer;

/// The names that the nodes of a fleet have, in order: whole words, so that an error that names one is recognised.
const NAMES: [&str; 5] = ["node-amber", "node-birch", "node-cedar", "node-dunes", "node-ember"];

/// What the tests talk to.
enum Subject {
    Quoit(Box<Quoit>),
    /// `QUOIT_TEST_SUBJECT=redis`: the first store itself, to debug a test without the proxy.
    Store,
}

/// Stores `node-amber`, `node-birch`, … and the proxy in front of them.
pub(crate) struct Fleet {
    pub(crate) stores: Vec<RedisServer>,
    subject: Subject,
}

impl Fleet {
    /// Stores and proxy, or `None` (and a line that says so) where no `redis-server` is installed.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        Self::start_with(nodes, |config| config)
    }

    /// The same with changes to the file.
    pub(crate) fn start_with(nodes: usize, change: impl FnOnce(QuoitConfig) -> QuoitConfig) -> Option<Self> {
        Some(Self::in_front_of(Self::stores(nodes)?, change))
    }

    /// The proxy in front of stores that run already.
    pub(crate) fn in_front_of(stores: Vec<RedisServer>, change: impl FnOnce(QuoitConfig) -> QuoitConfig) -> Self {
        if std::env::var("QUOIT_TEST_SUBJECT").is_ok_and(|subject| subject == "redis") {
            return Self { stores, subject: Subject::Store };
        }
        let quoit = Quoit::start(&change(Self::config_of(&stores)));
        Self { stores, subject: Subject::Quoit(Box::new(quoit)) }
    }

    pub(crate) fn stores(nodes: usize) -> Option<Vec<RedisServer>> {
        (0..nodes).map(|_| RedisServer::start()).collect()
    }

    pub(crate) fn config_of(stores: &[RedisServer]) -> QuoitConfig {
        QuoitConfig::new(stores.iter().enumerate().map(|(index, store)| (Self::name(index), store.address())))
    }

    pub(crate) fn name(index: usize) -> &'static str {
        NAMES[index]
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        match &self.subject {
            Subject::Quoit(quoit) => quoit.address(),
            Subject::Store => self.stores[0].address(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// The proxy; `None` (and a line that says so) when the subject is a store, which has no admin port and no nodes.
    pub(crate) fn quoit(&self) -> Option<&Quoit> {
        match &self.subject {
            Subject::Quoit(quoit) => Some(quoit),
            Subject::Store => {
                eprintln!("skip: the subject is a plain store");
                None
            }
        }
    }

    pub(crate) fn quoit_mut(&mut self) -> Option<&mut Quoit> {
        match &mut self.subject {
            Subject::Quoit(quoit) => Some(quoit),
            Subject::Store => {
                eprintln!("skip: the subject is a plain store");
                None
            }
        }
    }

    /// `count` keys for each node.
    pub(crate) fn keys_by_node(&self, count: usize) -> Vec<Vec<String>> {
        keys_by_store(self.address(), &self.stores, count)
    }
}

/// `count` keys for each store, found by writing through the proxy and looking where they went: no knowledge of the ring.
/// The keys are deleted again.
pub(crate) fn keys_by_store(proxy: SocketAddr, stores: &[RedisServer], count: usize) -> Vec<Vec<String>> {
    let mut client = Client::connect(proxy);
    let mut stores: Vec<_> = stores.iter().map(RedisServer::client).collect();
    let mut keys = vec![Vec::new(); stores.len()];
    for number in 0..10_000 {
        if keys.iter().all(|keys: &Vec<String>| keys.len() >= count) {
            return keys;
        }
        let key = format!("key-of-somebody:{number}");
        assert_eq!(client.command(&["SET", &key, "1"]), Value::Simple(b"OK".to_vec()));
        for (store, keys) in stores.iter_mut().zip(&mut keys) {
            if store.command(&["DEL", &key]) == Value::Integer(1) && keys.len() < count {
                keys.push(key.clone());
            }
        }
    }
    panic!("10,000 keys did not reach every node {count} times: {:?}", keys.iter().map(Vec::len).collect::<Vec<_>>());
}
