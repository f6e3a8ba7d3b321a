//! What happened to the users of other proxies, step by step: no old value may be read, no deleted one come back, no
//! acknowledged one be lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{Absence, done};
use crate::support::{Client, Cluster, PATIENCE, QuoitConfig, Reach, Value, contents, eventually};

const KEYS: usize = 8;

/// Keys that begin with `near:` may be read from one replica.
fn with_a_route_of_one(_: usize, config: QuoitConfig) -> QuoitConfig {
    config.listener("[[listener.route]]\nprefix = \"near:\"\npool = \"main\"\nlevel = \"one\"\n")
}

/// Every proxy, many times: `wanted` and nothing else.
#[track_caller]
fn all_read(clients: &mut [Client], key: &str, wanted: &str, step: &str) {
    for round in 0..12 {
        for (proxy, client) in clients.iter_mut().enumerate() {
            let value = done(client, &format!("GET {key}")).text();
            assert_eq!(value, wanted, "{step}: {key} by proxy {proxy}, read {round}");
        }
    }
}

/// F1, twemproxy #604: a server that is ejected, returns and is ejected again. Its ninth step read the value of the fourth.
#[test]
fn a_store_that_comes_and_goes() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for (absence, store) in Absence::ALL.into_iter().zip([0, 1, 2]) {
        let keys: Vec<_> = (0..KEYS).map(|number| format!("flapping:{absence:?}:{number}")).collect();
        let each = |clients: &mut [Client], value: &str| {
            for (number, key) in keys.iter().enumerate() {
                let writer = number % clients.len();
                done(&mut clients[writer], &format!("SET {key} {value}"));
            }
        };
        let read = |clients: &mut [Client], value: &str, step: &str| {
            for key in &keys {
                all_read(clients, key, value, &format!("{absence:?}: {step}"));
            }
        };
        each(&mut clients, "first");
        absence.begin(&mut cluster, store);
        read(&mut clients, "first", "the server is away");
        each(&mut clients, "second");
        absence.end(&mut cluster, store);
        read(&mut clients, "second", "the server has returned");
        each(&mut clients, "third");
        absence.begin(&mut cluster, store);
        read(&mut clients, "third", "the server is away again");
        absence.end(&mut cluster, store);
        read(&mut clients, "third", "and back again");
        cluster.converges("a store that comes and goes");
    }
}

/// F1, mcrouter #202: the key is deleted and set again while its server is away; the server returns with the old value.
#[test]
fn a_store_that_returns_with_an_old_value() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for (absence, store) in Absence::ALL.into_iter().zip([2, 0, 1]) {
        for number in 0..KEYS {
            let key = format!("mykey:{absence:?}:{number}");
            done(&mut clients[0], &format!("SET {key} hello1 EX 600"));
            absence.begin(&mut cluster, store);
            done(&mut clients[1], &format!("DEL {key}"));
            done(&mut clients[2], &format!("SET {key} hello2 EX 600"));
            all_read(&mut clients, &key, "hello2", "the server is away");
            absence.end(&mut cluster, store);
            all_read(&mut clients, &key, "hello2", "the server has returned");
        }
        cluster.converges("a store that returns");
    }
}

/// F1, mcrouter #190: every write is preceded by a delete, one of three servers loses its connection now and then. Every
/// server is the one that is away, and no update is lost either.
#[test]
fn each_store_is_away_once() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    done(&mut clients[0], "DEL counter");
    for round in 1..=6 {
        let store = round % 3;
        Absence::CutOff.begin(&mut cluster, store);
        let writer = &mut clients[round % 3];
        done(writer, "DEL value");
        done(writer, &format!("SET value {round}"));
        // Not repeated by this test: a connection that is refused leaves no doubt.
        let mut count = Value::Null;
        eventually("the counter counts", PATIENCE, || {
            count = writer.line("INCR counter");
            assert!(!count.text().starts_with("UNKNOWN"), "{count:?}");
            !count.is_error()
        });
        assert_eq!(count, Value::Integer(i64::try_from(round).expect("small")));
        all_read(&mut clients, "value", &round.to_string(), "one server is away");
        Absence::CutOff.end(&mut cluster, store);
        all_read(&mut clients, "value", &round.to_string(), "all servers are back");
        all_read(&mut clients, "counter", &round.to_string(), "all servers are back");
    }
    cluster.converges("each store was away once");
}

/// F1: a read of one replica does not ask a store that has returned before it has caught up.
#[test]
fn a_store_that_returns_answers_for_all_before_it_answers_alone() {
    let Some(mut cluster) = Cluster::start_with(3, 3, Reach::Relayed, with_a_route_of_one) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for (absence, store) in Absence::ALL.into_iter().zip([1, 2, 0]) {
        let keys: Vec<_> = (0..KEYS).map(|number| format!("near:{absence:?}:{number}")).collect();
        for key in &keys {
            done(&mut clients[0], &format!("SET {key} old"));
        }
        cluster.converges("before");
        absence.begin(&mut cluster, store);
        for key in &keys {
            done(&mut clients[0], &format!("SET {key} new"));
        }
        absence.end(&mut cluster, store);
        // The proxy that wrote knows what that store has missed.
        for key in &keys {
            all_read(&mut clients[..1], key, "new", &format!("{absence:?}: the store has returned"));
        }
        cluster.converges("the store has caught up");
        for key in &keys {
            all_read(&mut clients, key, "new", &format!("{absence:?}: the store has caught up"));
        }
    }
}

/// F3, dynomite #190: what was written while a server was away is on it afterwards, unasked, and outlives the others.
#[test]
fn a_write_outlives_a_later_failure() {
    for absence in Absence::ALL {
        let Some(mut cluster) = Cluster::start(3, 2, Reach::Relayed) else { return };
        if !cluster.has_proxies() {
            return;
        }
        if !cluster.has_proxies() {
            return;
        }
        absence.begin(&mut cluster, 1);
        let mut client = cluster.client(0);
        for number in 0..200 {
            done(&mut client, &format!("SET foo:{number} {number}"));
            done(&mut client, &format!("SADD bar:{number} {number}"));
        }
        absence.end(&mut cluster, 1);
        cluster.refills("the store that was away");
        cluster.converges("the store that was away");
        // Now one that was there all the time is lost for good.
        cluster.stores[0].kill9();
        let mut other = cluster.client(1);
        for number in 0..200 {
            assert_eq!(done(&mut other, &format!("GET foo:{number}")).text(), number.to_string());
            assert_eq!(done(&mut other, &format!("SCARD bar:{number}")), Value::Integer(1));
        }
    }
}

/// F19, dynomite #777: each part of a command over many keys is replicated, also when a replica dies in the middle.
#[test]
fn a_replica_that_dies_within_split_commands() {
    let Some(mut cluster) = Cluster::start(5, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let keys: Vec<_> = (0..40).map(|number| format!("part:{number}")).collect();
    let (acked, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut writer, mut reader) = (cluster.client(0), cluster.client(1));
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 1_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let mut command = vec!["MSET".to_owned()];
                command.extend(keys.iter().flat_map(|key| [key.clone(), format!("{round:09}")]));
                if !writer.command(&command).is_error() {
                    acked.store(round, Ordering::SeqCst);
                }
            }
        });
        let reading = scope.spawn(|| {
            let mut command = vec!["MGET".to_owned()];
            command.extend(keys.iter().cloned());
            let mut seen = vec![0; keys.len()];
            while !stop.load(Ordering::Relaxed) {
                let floor = acked.load(Ordering::SeqCst);
                let values = reader.command(&command);
                for (index, value) in values.items().iter().enumerate().filter(|(_, value)| !value.is_error()) {
                    let now = value.text().parse().unwrap_or(0);
                    assert!(
                        now >= floor && now >= seen[index],
                        "{} was {}, is {now}",
                        keys[index],
                        floor.max(seen[index])
                    );
                    seen[index] = now;
                }
            }
        });
        let progresses = |count| {
            let before = acked.load(Ordering::SeqCst);
            eventually("writes succeed", PATIENCE, || {
                assert!(!writing.is_finished() && !reading.is_finished(), "a client has failed");
                acked.load(Ordering::SeqCst) >= before + count
            });
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for store in 0..5 {
                progresses(20);
                cluster.stores[store].kill9();
                progresses(10);
                cluster.stores[store].restart();
            }
            progresses(20);
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    });
    cluster.refills("split commands");
    cluster.converges("split commands");
    // Deletes are split as well.
    let mut client = cluster.client(1);
    cluster.stores[2].kill9();
    done(&mut client, &format!("DEL {}", keys.join(" ")));
    cluster.stores[2].restart();
    assert_eq!(done(&mut client, &format!("EXISTS {}", keys.join(" "))), Value::Integer(0));
    cluster.converges("split deletes");
    assert!(cluster.stores.iter().all(|store| contents(store).is_empty()), "a deleted key is still on a store");
}

/// F20, `KeyDB` #447: a replica that missed the delete returns with the value.
#[test]
fn deletes_stay() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for (absence, store) in Absence::ALL.into_iter().zip([0, 1, 2]) {
        let key = |kind: &str, number: usize| format!("deleted:{absence:?}:{kind}:{number}");
        for number in 0..KEYS {
            done(&mut clients[0], &format!("SET {} value", key("string", number)));
            done(&mut clients[1], &format!("HSET {} field value", key("hash", number)));
            done(&mut clients[2], &format!("SADD {} member", key("set", number)));
        }
        absence.begin(&mut cluster, store);
        for number in 0..KEYS {
            done(&mut clients[1], &format!("DEL {}", key("string", number)));
            // The last field takes the key along.
            done(&mut clients[2], &format!("HDEL {} field", key("hash", number)));
            done(&mut clients[0], &format!("UNLINK {}", key("set", number)));
        }
        absence.end(&mut cluster, store);
        for number in 0..KEYS {
            for kind in ["string", "hash", "set"] {
                for turn in 0..12 {
                    let client = &mut clients[turn % 3];
                    let exists = done(client, &format!("EXISTS {}", key(kind, number)));
                    assert_eq!(exists, Value::Integer(0), "{absence:?}: {} came back", key(kind, number));
                }
            }
        }
        cluster.converges("deletes");
        for store in &cluster.stores {
            let left: Vec<_> = contents(store).into_keys().map(|key| key.escape_ascii().to_string()).collect();
            assert!(left.is_empty(), "{absence:?}: {left:?} are left on a store");
        }
    }
}

/// F20 in another form: the key expires while the replica with the older, unlimited value is away.
#[test]
fn expired_values_stay_away() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for (absence, store) in Absence::ALL.into_iter().zip([2, 1, 0]) {
        let keys: Vec<_> = (0..KEYS).map(|number| format!("session:{absence:?}:{number}")).collect();
        for key in &keys {
            done(&mut clients[0], &format!("SET {key} unlimited"));
        }
        absence.begin(&mut cluster, store);
        for (number, key) in keys.iter().enumerate() {
            if number % 2 == 0 {
                done(&mut clients[1], &format!("SET {key} limited PX 400"));
            } else {
                done(&mut clients[1], &format!("PEXPIRE {key} 400"));
            }
        }
        eventually("the keys expire", PATIENCE, || {
            keys.iter().all(|key| done(&mut clients[2], &format!("EXISTS {key}")) == Value::Integer(0))
        });
        absence.end(&mut cluster, store);
        for key in &keys {
            for turn in 0..12 {
                let client = &mut clients[turn % 3];
                assert_eq!(done(client, &format!("GET {key}")), Value::Null, "{absence:?}: {key} came back");
            }
        }
        cluster.converges("expiries");
    }
}
