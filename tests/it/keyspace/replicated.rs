//! Three copies of each key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{check_all_there, check_once, fill, names, patient_page, scan, scan_by_turns};
use crate::support::{
    Client, Cluster, DURABLE, Fault, PATIENCE, Program, Reach, RedisServer, Value, all_serve, encode, eventually,
};

/// Deletes keys, each in a request of its own.
#[track_caller]
fn delete(client: &mut Client, names: &[String]) {
    for part in names.chunks(200) {
        let requests: Vec<u8> = part.iter().flat_map(|name| encode(&["DEL", name.as_str()])).collect();
        let replies = client.pipeline(&requests, part.len());
        for (name, reply) in part.iter().zip(replies).filter(|(_, reply)| reply.value.is_error()) {
            // Where a store has just gone or come it may be unknown whether it was done.
            eventually(&format!("{name} is deleted after {reply:?}"), PATIENCE, || {
                !client.command(&["DEL", name.as_str()]).is_error()
            });
        }
    }
}

/// Waits until all replicas are equal. They are asked for once: a replica that refused the very first writes, because a
/// worker did not know its fence yet, is only found out by a read.
#[track_caller]
fn settle(cluster: &Cluster) {
    cluster.touched();
    cluster.converges("all written");
}

/// Waits until no worker takes a store for dead.
#[track_caller]
fn all_reached(cluster: &Cluster) {
    eventually("all stores are reached", PATIENCE, || {
        let quoits = cluster.proxies.iter().filter_map(|proxy| proxy.quoit());
        quoits.into_iter().all(|quoit| quoit.metric_sum("quoit_node_breakers_open") < 0.5)
    });
}

/// All ways to ask for all names give these, each once.
#[track_caller]
fn check(client: &mut Client, wanted: &[String], what: &str) {
    check_once(scan(client, "COUNT 100"), wanted, &format!("{what}: SCAN"));
    check_once(names(&client.line("KEYS *")), wanted, &format!("{what}: KEYS"));
    assert_eq!(client.line("DBSIZE"), Value::Integer(i64::try_from(wanted.len()).unwrap()), "{what}: DBSIZE");
    for _ in 0..5 {
        let name = client.line("RANDOMKEY");
        assert!(
            if wanted.is_empty() { name == Value::Null } else { wanted.contains(&name.text()) },
            "{what}: {name:?}"
        );
    }
}

#[test]
fn every_key_once() {
    for stores in [3, 5] {
        let Some(cluster) = Cluster::start(stores, 2, Reach::Direct) else { return };
        if !cluster.has_proxies() {
            return;
        }
        let mut client = cluster.client(0);
        check(&mut client, &[], "nothing");
        let strings = fill(&mut client, "string:", 500);
        let lists: Vec<String> = (0..100).map(|number| format!("{{tag}}list:{number}")).collect();
        for name in &lists {
            client.line(&format!("RPUSH {name} a"));
        }
        let all = [strings.clone(), lists.clone()].concat();
        check(&mut client, &all, "right after writes");
        for options in ["", "COUNT 1", "COUNT 1000000"] {
            check_once(scan(&mut client, options), &all, options);
        }
        check_once(scan(&mut client, "MATCH *list:*"), &lists, "MATCH");
        check_once(scan(&mut client, "TYPE LIST COUNT 50"), &lists, "TYPE");
        check_once(scan(&mut client, "TYPE string MATCH *list*"), &[], "TYPE and MATCH");
        check_once(scan_by_turns(&mut cluster.clients(), "COUNT 5"), &all, "two proxies");
        delete(&mut client, &strings[..200]);
        let left = [&strings[200..], &lists].concat();
        check(&mut client, &left, "right after deletes");
        for name in &strings[200..300] {
            client.line(&format!("PEXPIRE {name} 50"));
        }
        let left = [&strings[300..], &lists].concat();
        // They go by the stores' clocks.
        eventually("keys expire", PATIENCE, || client.line("DBSIZE") == Value::Integer(300));
        check(&mut client, &left, "after expiry");
        for line in ["QUOIT LEVEL one", "QUOIT LEVEL eventual"] {
            cluster.converges("before a weaker level");
            client.line(line);
            check(&mut client, &left, line);
            check_once(scan(&mut client, "TYPE list"), &lists, line);
        }
        client.line("QUOIT LEVEL default");
        assert_eq!(client.line("FLUSHALL").text(), "OK");
        check(&mut cluster.client(1), &[], "after FLUSHALL");
        let again = fill(&mut client, "string:", 100);
        check(&mut client, &again, "after that");
        assert_eq!(client.line("FLUSHDB").text(), "OK");
        check(&mut client, &[], "after FLUSHDB");
    }
}

/// One store is dead from the beginning to the end: each key once, whichever it is.
#[test]
fn one_store_is_dead() {
    let Some(mut cluster) = Cluster::start(4, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let all = fill(&mut cluster.client(0), "key:", 600);
    settle(&cluster);
    for victim in 0..4 {
        cluster.stores[victim].kill9();
        let mut client = cluster.client(0);
        // The first page finds out; it need not know before.
        check_once(scan(&mut client, "COUNT 20"), &all, &format!("without store {victim}"));
        check(&mut client, &all, &format!("without store {victim}"));
        client.line("QUOIT LEVEL one");
        check(&mut client, &all, &format!("without store {victim}, at level one"));
        cluster.stores[victim].restart();
        all_serve(&cluster.addresses());
        delete(&mut cluster.client(0), &(0..20).map(|it| format!("is it served?{it}")).collect::<Vec<_>>());
        cluster.converges("it is back");
        // Or the next walk would see it come back.
        all_reached(&cluster);
    }
}

/// A store dies, or goes and comes back, while a scan is under way: no key is lost.
#[test]
fn a_store_goes_in_mid_scan() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let all = fill(&mut cluster.client(0), "key:", 600);
    settle(&cluster);
    for level in ["default", "one"] {
        for victim in 0..3 {
            for (dies_at, returns) in [(1, false), (100, false), (250, false), (450, false), (100, true), (300, true)] {
                let mut client = cluster.client(0);
                client.line(&format!("QUOIT LEVEL {level}"));
                let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
                let mut died = false;
                loop {
                    let (next, some) = patient_page(&mut client, &cursor, "COUNT 10");
                    found.extend(some);
                    cursor = next;
                    if cursor == "0" {
                        break;
                    }
                    if found.len() >= dies_at && !died {
                        died = true;
                        cluster.stores[victim].kill9();
                        if returns {
                            cluster.stores[victim].restart();
                        }
                    }
                }
                let what = format!("{level}: store {victim} went at {dies_at}, came back {returns}");
                assert!(found.len() <= 2 * all.len(), "{what}: {} names", found.len());
                if level == "one" && victim == 2 && dies_at == 1 && !returns {
                    // Its turn has not come, so what it should have reported is known.
                    check_once(found, &all, &what);
                } else {
                    check_all_there(found, &all, &what);
                }
                if died && !returns {
                    cluster.stores[victim].restart();
                }
                all_reached(&cluster);
            }
        }
    }
}

/// A store dies after others have counted on it and before its own turn: what it should have reported they report.
#[test]
fn a_store_goes_before_its_turn() {
    let Some(mut cluster) = Cluster::start(5, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let all = fill(&mut cluster.client(0), "key:", 600);
    settle(&cluster);
    for level in ["default", "one"] {
        for victim in [3, 4] {
            let mut client = cluster.client(0);
            client.line(&format!("QUOIT LEVEL {level}"));
            let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
            while found.is_empty() {
                (cursor, found) = patient_page(&mut client, &cursor, "COUNT 10");
            }
            assert!(found.len() < 60, "{level}: the first page has {} names", found.len());
            cluster.stores[victim].kill9();
            while cursor != "0" {
                let (next, some) = patient_page(&mut client, &cursor, "COUNT 10");
                found.extend(some);
                cursor = next;
            }
            check_once(found, &all, &format!("{level}: without store {victim}"));
            cluster.stores[victim].restart();
            all_reached(&cluster);
        }
    }
}

/// What a store has missed while it was away, values and deletes, is not seen in a scan that it takes part in.
#[test]
fn a_store_that_missed_something() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    for victim in 0..3 {
        let mut client = cluster.client(0);
        let old = fill(&mut client, &format!("old:{victim}:"), 200);
        settle(&cluster);
        cluster.disturb(victim, Fault::Refuse, |_| true);
        cluster.cut(victim, |_| true);
        eventually("writes do without it", PATIENCE, || !client.line("SET probe value").is_error());
        let new = fill(&mut client, &format!("new:{victim}:"), 200);
        delete(&mut client, &old);
        client.line("DEL probe");
        cluster.disturb(victim, Fault::None, |_| true);
        for round in 0..5 {
            let found = scan(&mut client, "COUNT 30");
            let what = format!("store {victim}, round {round}");
            // While it is repaired, a key may come twice.
            check_all_there(found, &new, &what);
        }
        cluster.converges("all repaired");
        check(&mut client, &new, &format!("store {victim}, repaired"));
        assert_eq!(client.line("FLUSHALL").text(), "OK");
    }
}

/// A whole scan while others write: what was there from its beginning to its end is found.
#[test]
fn a_scan_while_others_write() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let all = fill(&mut cluster.client(0), "stays:", 1_000);
    settle(&cluster);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..2 {
            let (cluster, stop) = (&cluster, &stop);
            scope.spawn(move || {
                let mut client = cluster.client(writer);
                let mut number = 0_usize;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    // Some come, some go, and some of those that stay get other values.
                    client.line(&format!("SET comes:{writer}:{} value", number % 300));
                    client.line(&format!("DEL comes:{writer}:{}", (number + 150) % 300));
                    client.line(&format!("SET stays:{} {number}", number * 7 % 1_000));
                    client.line(&format!("APPEND stays:{} x", number * 11 % 1_000));
                }
            });
        }
        let mut client = cluster.client(1);
        for round in 0..5 {
            let mut found = scan(&mut client, "COUNT 20");
            found.retain(|name| name.starts_with("stays:"));
            check_once(found, &all, &format!("round {round}"));
            let mut found = names(&client.line("KEYS stays:*"));
            found.retain(|name| name.starts_with("stays:"));
            check_once(found, &all, &format!("KEYS, round {round}"));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What is flushed while a store is away does not come back with it.
#[test]
fn a_flush_without_a_store() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    for victim in 0..3 {
        let mut client = cluster.client(0);
        fill(&mut client, "key:", 300);
        settle(&cluster);
        cluster.stores[victim].kill9();
        eventually("it is flushed without the dead store", PATIENCE, || client.line("FLUSHALL").text() == "OK");
        check(&mut client, &[], "flushed");
        cluster.stores[victim].restart();
        // It has all of it still, and nobody believes it.
        check_once(names(&client.line("KEYS *")), &[], "right after its return");
        assert_eq!(client.line("GET key:7"), Value::Null);
        cluster.touched();
        cluster.converges("repaired");
        check(&mut client, &[], "repaired");
        // The fences are there: nothing had to be rebuilt.
        assert!(
            cluster.stores.iter().all(|store| store.client().command(&[&b"EXISTS"[..], b"\0qf"]) == Value::Integer(1))
        );
    }
}

/// Two of three are away: it is said so, and not answered with a part.
#[test]
fn two_stores_are_dead() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let all = fill(&mut client, "key:", 100);
    settle(&cluster);
    cluster.stores[0].kill9();
    cluster.stores[2].kill9();
    for line in ["KEYS *", "DBSIZE", "FLUSHALL", "SCAN 0 COUNT 1000"] {
        let reply = client.line(line);
        assert!(reply.is_error() && reply.text().starts_with("NOREPLICAS too few replicas"), "{line}: {reply:?}");
    }
    cluster.stores[0].restart();
    cluster.stores[2].restart();
    eventually("all are served", PATIENCE, || client.line("DBSIZE") == Value::Integer(100));
    check(&mut client, &all, "all are back");
}

/// A store that was emptied holds no keys to report, and is not asked before it votes again.
#[test]
fn an_emptied_store() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let all = fill(&mut client, "key:", 400);
    settle(&cluster);
    for victim in 0..3 {
        cluster.stores[victim].client().line("FLUSHALL");
        for _ in 0..10 {
            let reply = client.line("KEYS *");
            if !reply.is_error() {
                check_all_there(names(&reply), &all, &format!("store {victim} was emptied"));
            }
        }
        cluster.refills("it is filled again");
        check(&mut client, &all, &format!("store {victim} is filled again"));
    }
}

/// Keys from before the pool was replicated have no records.
#[test]
fn keys_from_before() {
    let Some(stores) = Cluster::durable_stores(3) else { return };
    let all = fill(&mut stores[0].client(), "before:", 200);
    for store in &stores[1..] {
        fill(&mut store.client(), "before:", 200);
    }
    let cluster = Cluster::in_front_of(stores, 1, Reach::Direct, |_, config| config);
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    eventually("the pool begins", PATIENCE, || !client.line("GET before:1").is_error());
    check_once(scan(&mut client, "COUNT 10"), &all, "SCAN");
    check(&mut client, &all, "adopted");
}

/// Other versions of the stores.
#[test]
fn other_versions() {
    for program in [Program::Named("QUOIT_REDIS_62"), Program::Named("QUOIT_REDIS_8"), Program::Named("QUOIT_VALKEY")] {
        let stores: Option<Vec<_>> = (0..3).map(|_| RedisServer::start_with(program, DURABLE)).collect();
        let Some(stores) = stores else { continue };
        let cluster = Cluster::in_front_of(stores, 1, Reach::Direct, |_, config| config);
        if !cluster.has_proxies() {
            return;
        }
        let mut client = cluster.client(0);
        let all = fill(&mut client, "key:", 300);
        check(&mut client, &all, &format!("{program:?}"));
        check_once(scan(&mut client, "COUNT 7 TYPE string MATCH key:*"), &all, &format!("{program:?}"));
        assert_eq!(client.line("FLUSHALL").text(), "OK");
        check(&mut client, &[], &format!("{program:?}, flushed"));
    }
}

/// What quoit keeps is in no answer, whatever is asked for.
#[test]
fn records_are_not_shown() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    fill(&mut client, "key:", 50);
    fill(&mut client, "{tag}", 50);
    delete(&mut client, &(0..20).map(|it| format!("key:{it}")).collect::<Vec<_>>());
    for pattern in [&b"*"[..], b"\0*", b"\0q*", b"*q*", b"[^a]q*", b"?q*", b"\\\0qv*"] {
        for reply in [
            client.command(&[b"KEYS", pattern]),
            client.command(&[b"SCAN", &b"0"[..], b"COUNT", b"1000", b"MATCH", pattern]),
        ] {
            assert!(!reply.is_error() && !format!("{reply:?}").contains("\\x00q"), "{reply:?}");
        }
    }
    for _ in 0..100 {
        assert!(!client.line("RANDOMKEY").text().starts_with('\0'));
    }
}
