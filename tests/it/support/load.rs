//! Load that knows what it is owed: each connection writes and reads its own keys, each value names its key and a
//! sequence number, so that a reply in the wrong place, of another key or from the past is seen at once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::client::{Client, Value, encode};

/// What may be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The value of the last acknowledged write, or of one whose fate is unknown.
    Latest,
    /// Also nothing: the store may have come back empty.
    LatestOrLost,
    /// Any value this connection wrote to this key, or nothing: the key may have moved to another node and back.
    AnyOwn,
}

/// The keys of one node, and what became of the requests for them.
pub(crate) struct Group {
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) errors: Mutex<BTreeSet<String>>,
}

struct Shared {
    stop: AtomicBool,
    groups: Vec<Group>,
}

/// Running connections. They fail the test when joined if a reply was wrong.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `connections` of them, each with `depth` pairs of SET and GET in a pipeline, over keys named after `groups`.
    pub(crate) fn start(
        address: SocketAddr,
        connections: usize,
        depth: usize,
        groups: &[Vec<String>],
        expect: Expect,
    ) -> Self {
        let counters = groups.iter().map(|_| Group {
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            errors: Mutex::new(BTreeSet::new()),
        });
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), groups: counters.collect() });
        let threads = (0..connections).map(|number| {
            // Every connection has keys of every group to itself.
            let keys: Vec<(usize, String)> = groups
                .iter()
                .enumerate()
                .flat_map(|(group, keys)| {
                    keys.iter().skip(number).step_by(connections).map(move |key| (group, key.clone()))
                })
                .collect();
            assert!(!keys.is_empty(), "more connections than keys");
            let shared = Arc::clone(&shared);
            thread::spawn(move || Worker::new(keys, depth, expect).run(address, &shared))
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    pub(crate) fn group(&self, index: usize) -> &Group {
        &self.shared.groups[index]
    }

    pub(crate) fn answered(&self, group: usize) -> u64 {
        self.group(group).answered.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self, group: usize) -> u64 {
        self.group(group).failed.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self, group: usize) -> Vec<String> {
        self.group(group).errors.lock().expect("no thread panics with it").iter().cloned().collect()
    }

    /// A connection that ended has failed: says so at once instead of after a wait.
    pub(crate) fn is_healthy(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Lets every pipeline finish, and fails with the first wrong reply.
    pub(crate) fn finish(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(failure) = thread.join() {
                std::panic::resume_unwind(failure);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The test has failed already; what a connection adds is printed by its own thread.
            drop(thread.join());
        }
    }
}

struct Worker {
    keys: Vec<(usize, String)>,
    depth: usize,
    expect: Expect,
    random: fastrand::Rng,
    sequence: u64,
    acknowledged: HashMap<String, u64>,
    /// Writes that were answered by an error: applied or not, now or later.
    uncertain: HashMap<String, HashSet<u64>>,
}

impl Worker {
    fn new(keys: Vec<(usize, String)>, depth: usize, expect: Expect) -> Self {
        let random = fastrand::Rng::new();
        Self { keys, depth, expect, random, sequence: 0, acknowledged: HashMap::new(), uncertain: HashMap::new() }
    }

    fn run(mut self, address: SocketAddr, shared: &Shared) {
        let mut client = Client::connect(address);
        while !shared.stop.load(Ordering::Relaxed) {
            self.round(&mut client, shared);
        }
    }

    fn round(&mut self, client: &mut Client, shared: &Shared) {
        let mut requests = Vec::new();
        let mut asked = Vec::new();
        for _ in 0..self.depth {
            let (group, key) = self.keys[self.random.usize(..self.keys.len())].clone();
            self.sequence += 1;
            requests.extend(encode(&["SET", &key, &format!("{key}={}", self.sequence)]));
            requests.extend(encode(&["GET", &key]));
            asked.push((group, key, self.sequence));
        }
        client.send(&requests);
        for (group, key, sequence) in asked {
            let group = &shared.groups[group];
            let set = client.receive().value;
            match &set {
                Value::Simple(text) if text == b"OK" => {
                    self.acknowledged.insert(key.clone(), sequence);
                }
                Value::Error(_) => {
                    self.uncertain.entry(key.clone()).or_default().insert(sequence);
                }
                other => panic!("SET {key} {sequence} was answered by {other:?}"),
            }
            group.count(&set);
            let got = client.receive().value;
            self.check(&key, &got);
            group.count(&got);
        }
    }

    fn check(&self, key: &str, got: &Value) {
        let acknowledged = self.acknowledged.get(key).copied();
        let text = match got {
            Value::Error(_) => return,
            Value::Null if self.expect != Expect::Latest || acknowledged.is_none() => return,
            Value::Bulk(_) => got.text(),
            other => panic!("GET {key} was answered by {other:?}, acknowledged is {acknowledged:?}"),
        };
        let sequence =
            text.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).and_then(|rest| rest.parse().ok());
        let Some(sequence) = sequence else { panic!("GET {key} was answered by another key's value: {text}") };
        let known = Some(sequence) == acknowledged
            || self.uncertain.get(key).is_some_and(|uncertain| uncertain.contains(&sequence))
            || (self.expect == Expect::AnyOwn && sequence <= self.sequence);
        assert!(known, "GET {key} was answered by {text}, acknowledged is {acknowledged:?}");
    }
}

impl Group {
    fn count(&self, reply: &Value) {
        if !reply.is_error() {
            self.answered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut errors = self.errors.lock().expect("no thread panics with it");
        if errors.len() < 50 {
            errors.insert(reply.text());
        }
    }
}
