//! Pools with several replicas of each key: what the clients of several proxies see while stores, connections and
//! proxies fail, and what the stores hold when it is over.

mod adoption;
mod batches;
mod checks;
mod faults;
mod hidden;
mod incidents;
mod levels;
mod mixed;
mod quorum;
mod refill;
mod trouble;
mod verbs;
mod workload;

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Cluster, Fault, PATIENCE, Value, is_refused, is_unknown};

/// Keys of every type that are written once, and what reading them must give from then on.
struct Cold {
    reads: Vec<(Vec<String>, Value)>,
}

impl Cold {
    /// Writes `count` keys: through a proxy, or to a store itself.
    fn write(client: &mut Client, name: &str, count: usize) -> Self {
        Self::write_kinds(client, name, count, 7)
    }

    /// The same for servers before 7.0, which cannot tell when a key expires.
    fn basic(client: &mut Client, name: &str, count: usize) -> Self {
        Self::write_kinds(client, name, count, 6)
    }

    fn write_kinds(client: &mut Client, name: &str, count: usize, kinds: usize) -> Self {
        let mut cold = Self { reads: Vec::new() };
        for number in 0..count {
            let key = format!("{name}:{number}");
            let (write, read) = match number % kinds {
                0 => (format!("SET {key} value-{number}"), format!("GET {key}")),
                1 => (format!("RPUSH {key} a b {number}"), format!("LRANGE {key} 0 -1")),
                2 => (format!("SADD {key} a {number}"), format!("SMEMBERS {key}")),
                3 => (format!("HSET {key} field {number} other x"), format!("HGETALL {key}")),
                4 => (format!("ZADD {key} 1.5 a {number} b"), format!("ZRANGE {key} 0 -1 WITHSCORES")),
                5 => (format!("XADD {key} 7-{number} field value"), format!("XRANGE {key} - +")),
                _ => (format!("SET {key} {number} PXAT 9000000000000"), format!("PEXPIRETIME {key}")),
            };
            done(client, &write);
            cold.expect(client, &[&read]);
        }
        cold
    }

    /// What these commands give now, they must give from now on.
    fn expect(&mut self, client: &mut Client, reads: &[&str]) {
        for line in reads {
            let read: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let value = insist(client, &read).sorted();
            assert!(!value.is_error() && value != Value::Null, "{read:?} gave {value:?}");
            self.reads.push((read, value));
        }
    }

    /// The same through every proxy.
    #[track_caller]
    fn check_all(&self, cluster: &Cluster) {
        for client in &mut cluster.clients() {
            self.check(client);
        }
    }

    /// Whether a store itself has all of them.
    fn holds(&self, store: &mut Client) -> bool {
        self.reads.iter().all(|(read, wanted)| store.command(read).sorted() == *wanted)
    }

    /// Reads all of them.
    #[track_caller]
    fn check(&self, client: &mut Client) {
        for (read, wanted) in &self.reads {
            let value = insist(client, read);
            assert_eq!(value.sorted(), *wanted, "{read:?}");
        }
    }
}

/// Asks until the answer is no want of replicas: for commands that may be repeated.
#[track_caller]
fn insist<A: AsRef<[u8]>>(client: &mut Client, command: &[A]) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = client.command(command);
        if !(is_unknown(&reply) || is_refused(&reply)) {
            return reply;
        }
        assert!(Instant::now() < deadline, "not served within {PATIENCE:?}: {reply:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A command that may be repeated, in words; it must succeed.
#[track_caller]
fn done(client: &mut Client, line: &str) -> Value {
    let reply = insist(client, &line.split_whitespace().collect::<Vec<_>>());
    assert!(!reply.is_error(), "{line}: {reply:?}");
    reply
}

/// How a store is gone, to come back with what it had.
#[derive(Clone, Copy, Debug)]
enum Absence {
    /// Its process is killed and started again.
    Killed,
    /// Its process hangs.
    Paused,
    /// No proxy reaches it. The cluster needs relays.
    CutOff,
}

impl Absence {
    const ALL: [Self; 3] = [Self::Killed, Self::Paused, Self::CutOff];

    fn begin(self, cluster: &mut Cluster, store: usize) {
        match self {
            Self::Killed => cluster.stores[store].kill9(),
            Self::Paused => cluster.stores[store].pause(),
            Self::CutOff => {
                cluster.disturb(store, Fault::Refuse, |_| true);
                cluster.cut(store, |_| true);
            }
        }
    }

    fn end(self, cluster: &mut Cluster, store: usize) {
        match self {
            Self::Killed => cluster.stores[store].restart(),
            Self::Paused => cluster.stores[store].resume(),
            Self::CutOff => cluster.disturb(store, Fault::None, |_| true),
        }
    }
}
