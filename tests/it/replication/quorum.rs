//! Too few replicas are left: clients are told so in time, nothing that was refused appears, and it works again when the
//! stores are back. And a proxy that dies in the middle of writes leaves nothing that the others disagree about.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::{Absence, done};
use crate::support::{
    Client, Cluster, PATIENCE, QuoitConfig, Reach, Value, all_serve, eventually, is_refused, is_unknown,
};

/// Far more than the deadline below, far less than for ever.
const IN_TIME: Duration = Duration::from_secs(10);

fn soon(_: usize, config: QuoitConfig) -> QuoitConfig {
    config.pool("operation_timeout_ms = 800")
}

/// Asks, with `IN_TIME` for the answer.
fn ask(client: &mut Client, line: &str) -> Value {
    client.set_read_timeout(IN_TIME);
    let reply = client.try_command(&line.split_whitespace().collect::<Vec<_>>());
    client.set_read_timeout(PATIENCE);
    reply.unwrap_or_else(|error| panic!("{line} is not answered in time: {error}"))
}

#[test]
fn two_of_three_are_lost() {
    for absence in Absence::ALL {
        let Some(mut cluster) = Cluster::start_with(3, 2, Reach::Relayed, soon) else { return };
        if !cluster.has_proxies() {
            return;
        }
        let mut clients = cluster.clients();
        for number in 0..10 {
            done(&mut clients[0], &format!("SET held:{number} before"));
            done(&mut clients[0], &format!("RPUSH list:{number} before"));
        }
        absence.begin(&mut cluster, 0);
        absence.begin(&mut cluster, 2);
        let mut refused = BTreeMap::new();
        for number in 0..5 {
            let key = format!("held:{number}");
            for (client, line) in [
                (0, format!("SET {key} after")),
                (1, format!("RPUSH list:{number} after")),
                (0, format!("GET {key}")),
                (1, format!("LRANGE list:{number} 0 -1")),
                (1, format!("MGET {key} held:9")),
                (0, format!("SPOP bag:{number}")),
            ] {
                let reply = ask(&mut clients[client], &line);
                let parts = if reply.is_error() { vec![reply.clone()] } else { reply.items().to_vec() };
                let fine = !parts.is_empty() && parts.iter().all(|part| is_refused(part) || is_unknown(part));
                assert!(fine, "{absence:?}: {line} was answered by {reply:?} without a quorum");
                refused.insert(line, is_refused(&parts[0]));
            }
        }
        // What needs no store is answered.
        assert_eq!(ask(&mut clients[0], "PING").text(), "PONG");
        absence.end(&mut cluster, 0);
        absence.end(&mut cluster, 2);
        all_serve(&cluster.addresses());
        for number in 0..5 {
            let value = done(&mut clients[1], &format!("GET held:{number}")).text();
            let certain = refused[&format!("SET held:{number} after")];
            assert!(value == "before" || (value == "after" && !certain), "{absence:?}: held:{number} is {value}");
            let list = done(&mut clients[0], &format!("LRANGE list:{number} 0 -1"));
            let certain = refused[&format!("RPUSH list:{number} after")];
            let items: Vec<_> = list.items().iter().map(Value::text).collect();
            let fine = items == ["before"] || (items == ["before", "after"] && !certain);
            assert!(fine, "{absence:?}: list:{number} is {items:?}, certainly refused: {certain}");
            // A write of unknown fate may still come, but not go again.
            let mut seen = value;
            for turn in 0..6 {
                let value = done(&mut clients[turn % 2], &format!("GET held:{number}")).text();
                let fine = value == seen || (value == "after" && !refused[&format!("SET held:{number} after")]);
                assert!(fine, "{absence:?}: held:{number} was {seen}, then {value}");
                seen = value;
            }
        }
        cluster.touched();
        cluster.converges("after two were lost");
    }
}

/// With five stores, the keys whose three replicas hold a quorum are served while two others are lost.
#[test]
fn other_keys_are_served() {
    let Some(mut cluster) = Cluster::start_with(5, 1, Reach::Direct, soon) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let keys: Vec<_> = (0..60).map(|number| format!("spread:{number}")).collect();
    for key in &keys {
        done(&mut client, &format!("SET {key} before"));
    }
    cluster.converges("before");
    let on_both = |key: &String, cluster: &Cluster| {
        let holds = |store: usize| cluster.stores[store].client().command(&["EXISTS", key]) == Value::Integer(1);
        holds(1) && holds(3)
    };
    let (lost, kept): (Vec<_>, Vec<_>) = keys.iter().partition(|key| on_both(key, &cluster));
    assert!(!lost.is_empty() && !kept.is_empty(), "60 keys are on all sorts of replicas");
    cluster.stores[1].kill9();
    cluster.stores[3].kill9();
    for key in &kept {
        assert_eq!(done(&mut client, &format!("GET {key}")).text(), "before");
        done(&mut client, &format!("SET {key} after"));
    }
    for key in lost {
        let reply = ask(&mut client, &format!("GET {key}"));
        assert!(is_refused(&reply) || is_unknown(&reply), "{key} was answered by {reply:?} without a quorum");
    }
    cluster.stores[1].restart();
    cluster.stores[3].restart();
    for key in kept {
        assert_eq!(done(&mut client, &format!("GET {key}")).text(), "after");
    }
    cluster.converges("after two of five were lost");
}

/// All stores are lost and return: everything that was acknowledged is there.
#[test]
fn all_stores_are_lost() {
    let Some(mut cluster) = Cluster::start_with(3, 2, Reach::Direct, soon) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    (0..50).for_each(|number| drop(done(&mut clients[0], &format!("SET kept:{number} {number}"))));
    cluster.stores.iter_mut().for_each(crate::support::RedisServer::kill9);
    let reply = ask(&mut clients[1], "GET kept:1");
    assert!(is_refused(&reply) || is_unknown(&reply), "{reply:?}");
    cluster.stores.iter_mut().for_each(crate::support::RedisServer::restart);
    for number in 0..50 {
        assert_eq!(done(&mut clients[1], &format!("GET kept:{number}")).text(), number.to_string());
    }
}

/// A proxy is killed with a pipeline of writes half done: what it acknowledged is there, and nobody's view goes back.
#[test]
fn a_proxy_dies_within_a_pipeline() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    for round in 0..6 {
        let keys: Vec<_> = (0..30).map(|number| format!("half:{round}:{number}")).collect();
        let mut client = cluster.client(0);
        for key in &keys {
            done(&mut client, &format!("RPUSH {key} first"));
        }
        // One store takes the writes, the others get them late, so that many are on one replica only.
        let late = crate::support::Fault::Slow(Duration::from_millis(20));
        (0..3).filter(|store| *store != round % 3).for_each(|store| cluster.disturb(store, late, |proxy| proxy == 0));
        let pipeline: Vec<u8> = keys
            .iter()
            .flat_map(|key| {
                [
                    crate::support::encode(&["RPUSH", key, "second"]),
                    crate::support::encode(&["SET", &format!("{key}s"), "v"]),
                ]
            })
            .flatten()
            .collect();
        client.send(&pipeline);
        // Any moment is as good as another; this one is early.
        thread::sleep(Duration::from_millis(15));
        cluster.kill_proxy(0);
        let mut acked = 0;
        while client.try_receive().is_ok_and(|reply| !reply.value.is_error()) {
            acked += 1;
        }
        (0..3).for_each(|store| cluster.disturb(store, crate::support::Fault::None, |_| true));
        let (mut one, mut other) = (cluster.client(1), cluster.client(2));
        for (number, key) in keys.iter().enumerate() {
            let first = done(&mut one, &format!("LRANGE {key} 0 -1"));
            let items: Vec<_> = first.items().iter().map(Value::text).collect();
            let fine = items == ["first", "second"] || (items == ["first"] && number * 2 >= acked);
            assert!(fine, "{key} is {items:?}, {acked} of {} were acknowledged", keys.len() * 2);
            let set = done(&mut other, &format!("GET {key}s"));
            assert!(set.text() == "v" || number * 2 + 1 >= acked, "{key}s was acknowledged and is {set:?}");
            // What was not acknowledged may still come, but nothing that was read goes away.
            let (mut items, mut set) = (items, set);
            for turn in 0..4 {
                let client = if turn % 2 == 0 { &mut other } else { &mut one };
                let list = done(client, &format!("LRANGE {key} 0 -1"));
                let now: Vec<_> = list.items().iter().map(Value::text).collect();
                assert!(now.starts_with(&items) && now.len() <= 2, "{key} was {items:?}, then {now:?}");
                items = now;
                let now = done(client, &format!("GET {key}s"));
                assert!(now == set || set == Value::Null, "{key}s was {set:?}, then {now:?}");
                set = now;
            }
            // And it can be written: no promise of the dead one is in the way for ever.
            let mut reply = Value::Null;
            eventually("the key can be written", PATIENCE, || {
                reply = one.command(&["RPUSH", key, "third"]);
                !is_refused(&reply)
            });
            let Value::Integer(length) = reply else { panic!("RPUSH {key}: {reply:?}") };
            let list = done(&mut other, &format!("LRANGE {key} 0 -1"));
            let now: Vec<_> = list.items().iter().map(Value::text).collect();
            assert!(now.starts_with(&items) && now.last().is_some_and(|last| last == "third"), "{key} is {now:?}");
            assert_eq!(length, i64::try_from(now.len()).expect("few"), "{key} is {now:?}");
        }
        cluster.restart_proxy(0);
    }
    cluster.touched();
    cluster.converges("after proxies died");
}
