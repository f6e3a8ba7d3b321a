//! Stores that held keys before quoit came: the first command that touches such a key makes it a replicated one, and from
//! then on all proxies and replicas agree.

use std::collections::BTreeSet;

use super::{Cold, done};
use crate::support::{Cluster, Fleet, Reach, RedisServer, Value, contents, record_key};

/// Three stores, filled by `fill` before two proxies start.
fn filled(fill: impl Fn(usize, &mut crate::support::Client)) -> Option<Cluster> {
    let stores = Cluster::durable_stores(3)?;
    for (number, store) in stores.iter().enumerate() {
        fill(number, &mut store.client());
    }
    let cluster = Cluster::in_front_of(stores, 2, Reach::Direct, |_, config| config);
    cluster.has_proxies().then_some(cluster)
}

#[track_caller]
fn has_record(store: &RedisServer, key: &str) {
    let exists = store.client().command(&[b"EXISTS".as_slice(), &record_key(key.as_bytes())]);
    assert_eq!(exists, Value::Integer(1), "{key} has no record");
}

/// Keys of all types that were on one store only, on each of the three.
#[test]
fn keys_of_one_store() {
    let cold = std::cell::RefCell::new(Vec::new());
    let Some(cluster) = filled(|number, client| {
        cold.borrow_mut().push(Cold::write(client, &format!("only:{number}"), 21));
    }) else {
        return;
    };
    for cold in cold.take() {
        cold.check_all(&cluster);
    }
    cluster.converges("keys of one store");
    assert_eq!(contents(&cluster.stores[1]).len(), 63);
}

/// The same keys and values on all stores: reads need no change, updates build on what is there.
#[test]
fn keys_of_all_stores() {
    let cold = std::cell::RefCell::new(Vec::new());
    let Some(cluster) = filled(|_, client| {
        cold.borrow_mut().push(Cold::write(client, "same", 70));
        for line in [
            "SET n 41",
            "SET s abc",
            "RPUSH l a b",
            "SADD t a",
            "HSET h f 1",
            "ZADD z 1 a",
            "XADD x 1-1 f v",
            "SET e v PXAT 9000000000000",
            "SET {k}from v",
            "SET gone v",
            "SET over v",
            "SET kept v",
            "SADD bag a b c",
        ] {
            done(client, line);
        }
    }) else {
        return;
    };
    let mut clients = cluster.clients();
    let number = Value::Integer;
    // The first command for each key is an update.
    assert_eq!(done(&mut clients[0], "INCR n"), number(42));
    assert_eq!(done(&mut clients[1], "APPEND s d"), number(4));
    assert_eq!(done(&mut clients[0], "RPUSH l c"), number(3));
    assert_eq!(done(&mut clients[1], "SADD t a b"), number(1));
    assert_eq!(done(&mut clients[0], "HINCRBY h f 1"), number(2));
    assert_eq!(done(&mut clients[1], "ZADD z 2 b"), number(1));
    assert_eq!(done(&mut clients[0], "XADD x 2-1 f v").text(), "2-1");
    assert_eq!(done(&mut clients[1], "APPEND e w"), number(2));
    assert_eq!(done(&mut clients[0], "RENAME {k}from {k}to").text(), "OK");
    assert_eq!(done(&mut clients[1], "DEL gone"), number(1));
    assert_eq!(done(&mut clients[0], "SET over w").text(), "OK");
    assert_eq!(done(&mut clients[1], "SETNX kept w"), number(0));
    assert_eq!(done(&mut clients[0], "SPOP bag 2").items().len(), 2);
    for client in &mut clients {
        assert_eq!(done(client, "GET n").text(), "42");
        assert_eq!(done(client, "GET s").text(), "abcd");
        assert_eq!(done(client, "LLEN l"), number(3));
        assert_eq!(done(client, "PEXPIRETIME e"), number(9_000_000_000_000));
        assert_eq!(done(client, "GET {k}to").text(), "v");
        assert_eq!(done(client, "EXISTS gone {k}from"), number(0));
        assert_eq!(done(client, "GET over").text(), "w");
        assert_eq!(done(client, "GET kept").text(), "v");
        assert_eq!(done(client, "SCARD bag"), number(1));
        cold.borrow()[0].check(client);
    }
    for store in &cluster.stores {
        for key in ["n", "s", "l", "over", "bag", "{k}to"] {
            has_record(store, key);
        }
    }
    cluster.converges("keys of all stores");
}

/// Two stores agree, one differs: the majority is right, whichever store it is.
#[test]
fn the_majority_is_adopted() {
    let Some(cluster) = filled(|number, client| {
        for odd in 0..3 {
            let value = if number == odd { "odd" } else { "even" };
            for way in ["read", "update"] {
                done(client, &format!("SET {way}:{odd} {value}"));
                done(client, &format!("RPUSH list:{way}:{odd} {value}"));
            }
        }
    }) else {
        return;
    };
    let mut clients = cluster.clients();
    for odd in 0..3 {
        assert_eq!(done(&mut clients[0], &format!("GET read:{odd}")).text(), "even");
        assert_eq!(done(&mut clients[1], &format!("APPEND update:{odd} x")), Value::Integer(5));
        assert_eq!(done(&mut clients[1], &format!("LRANGE list:read:{odd} 0 0")).items()[0].text(), "even");
        assert_eq!(done(&mut clients[0], &format!("RPUSH list:update:{odd} x")), Value::Integer(2));
        assert_eq!(done(&mut clients[1], &format!("LRANGE list:update:{odd} 0 0")).items()[0].text(), "even");
    }
    cluster.converges("a majority");
}

/// Three stores, three values: one of them, the same for everybody from then on.
#[test]
fn three_different_values() {
    for adopt in ["majority", "first"] {
        let Some(stores) = Cluster::durable_stores(3) else { return };
        for (number, store) in stores.iter().enumerate() {
            for key in 0..12 {
                done(&mut store.client(), &format!("SET key:{key} value-{number}"));
            }
        }
        let cluster =
            Cluster::in_front_of(stores, 2, Reach::Direct, |_, config| config.pool(&format!("adopt = \"{adopt}\"")));
        if !cluster.has_proxies() {
            return;
        }
        let mut clients = cluster.clients();
        for key in 0..12 {
            let values: BTreeSet<_> =
                (0..10).map(|turn| done(&mut clients[turn % 2], &format!("GET key:{key}")).text()).collect();
            assert_eq!(values.len(), 1, "{adopt}: key:{key} was read as {values:?}");
            let value = values.first().expect("one");
            assert!(["value-0", "value-1", "value-2"].contains(&value.as_str()), "{adopt}: {value}");
        }
        cluster.converges("three values");
    }
}

/// One transaction is about keys whose first replicas differ: of each key the value of its own first replica is adopted.
#[test]
fn the_first_value_is_that_of_each_key() {
    let Some(stores) = Cluster::durable_stores(3) else { return };
    for (number, store) in stores.iter().enumerate() {
        for key in 0..12 {
            done(&mut store.client(), &format!("SET key:{key} value-{number}"));
        }
    }
    let cluster = Cluster::in_front_of(stores, 1, Reach::Direct, |_, config| config.pool("adopt = \"first\""));
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let firsts: Vec<_> = (0..12).map(|key| client.line(&format!("QUOIT ROUTE key:{key}")).items()[1].text()).collect();
    assert!(firsts.iter().any(|first| *first != firsts[0]), "{firsts:?}");
    done(&mut client, "MULTI");
    for key in 0..12 {
        done(&mut client, &format!("APPEND key:{key} !"));
    }
    assert_eq!(done(&mut client, "EXEC").items().len(), 12);
    for (key, first) in firsts.iter().enumerate() {
        let number = (0..3).find(|store| Fleet::name(*store) == first).expect("a node of the fleet");
        assert_eq!(done(&mut client, &format!("GET key:{key}")).text(), format!("value-{number}!"));
    }
    cluster.converges("first values");
}

/// A proxy that starts later, and one that starts again, find the pool as it is: nothing is adopted twice.
#[test]
fn later_proxies_find_the_pool_as_it_is() {
    let Some(mut cluster) = filled(|_, client| {
        (0..20).for_each(|key| drop(done(client, &format!("SET key:{key} before"))));
    }) else {
        return;
    };
    let mut client = cluster.client(0);
    (0..10).for_each(|key| drop(done(&mut client, &format!("DEL key:{key}"))));
    cluster.kill_proxy(1);
    cluster.restart_proxy(1);
    let mut other = cluster.client(1);
    for key in 0..20 {
        let exists = done(&mut other, &format!("EXISTS key:{key}"));
        assert_eq!(exists, Value::Integer(i64::from(key >= 10)), "key:{key}");
    }
    cluster.converges("later proxies");
}
