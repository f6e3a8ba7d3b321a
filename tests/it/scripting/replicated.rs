//! Several copies of each key: what writes nothing runs, what is about all nodes is told to all.

use super::{APPEND, LIBRARY, bulk, load};
use crate::support::{Cluster, PATIENCE, Reach, Value, encode, eventually};

const GET: &str = "return redis.call('GET', KEYS[1])";

#[test]
fn what_writes_nothing_runs() {
    let Some(cluster) = Cluster::start(4, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let digest = load(&mut client, GET);
    assert_eq!(client.command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
    let both = "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}";
    for protocol in ["2", "3"] {
        client.line(&format!("HELLO {protocol}"));
        for level in ["default", "linearizable", "all", "one", "eventual"] {
            assert!(!client.line(&format!("QUOIT LEVEL {level}")).is_error(), "{level}");
            for number in 0..20 {
                let key = format!("{{{number}}}key");
                assert_eq!(client.command(&["SET", &key, &format!("{level}{number}")]).text(), "OK");
            }
            if level == "one" || level == "eventual" {
                cluster.converges("before one replica is believed");
            }
            for number in 0..20 {
                let (key, other) = (format!("{{{number}}}key"), format!("{{{number}}}other"));
                let want = bulk(&format!("{level}{number}"));
                assert_eq!(client.command(&["EVAL_RO", GET, "1", &key]), want);
                assert_eq!(client.command(&["EVALSHA_RO", &digest, "1", &key]), want);
                assert_eq!(client.command(&["FCALL_RO", "look", "1", &key]), want);
                let pair = client.command(&["EVAL_RO", both, "2", &key, &other]);
                assert_eq!(pair, Value::Array(vec![want, Value::Null]));
            }
        }
    }
    assert_eq!(client.command(&["EVAL_RO", "return 7", "0"]), Value::Integer(7));
    let refused = client.command(&["EVAL_RO", APPEND, "1", "k", "v"]);
    assert!(refused.text().starts_with("ERR Write commands are not allowed from read-only scripts"), "{refused:?}");
    assert_eq!(client.line("EXISTS k"), Value::Integer(0));
}

/// The stores forget quoit's own scripts as well, which it notices and goes on.
#[test]
fn stores_may_forget_all_scripts() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let digest = load(&mut client, GET);
    for round in 0..30 {
        let value = round.to_string();
        if round % 3 == 0 {
            assert_eq!(client.line("SCRIPT FLUSH").text(), "OK");
            assert!(client.command(&["EVALSHA_RO", &digest, "1", "k"]).text().starts_with("NOSCRIPT"));
            load(&mut client, GET);
        } else if round % 3 == 1 {
            for store in &cluster.stores {
                assert_eq!(store.client().line("SCRIPT FLUSH").text(), "OK");
            }
        }
        assert_eq!(client.command(&["SET", "k", &value]).text(), "OK");
        assert_eq!(client.command(&["EVALSHA_RO", &digest, "1", "k"]), bulk(&value));
        assert_eq!(client.line("INCR count"), Value::Integer(round + 1));
    }
}

#[test]
fn a_store_that_was_restarted_is_told() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let digest = load(&mut client, GET);
    assert_eq!(client.command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
    assert_eq!(client.line("SET k v").text(), "OK");
    for store in 0..3 {
        cluster.stores[store].restart();
        eventually("the store is back", PATIENCE, || {
            client.line("QUOIT LEVEL all");
            let back = client.line("GET k") == bulk("v");
            client.line("QUOIT LEVEL default");
            back
        });
        let requests = [
            encode(&["EVALSHA_RO", &digest, "1", "k"]),
            encode(&["FCALL_RO", "look", "1", "k"]),
            encode(&["GET", "k"]),
        ]
        .concat();
        for _ in 0..10 {
            for reply in client.pipeline(&requests, 3) {
                assert_eq!(reply.value, bulk("v"));
            }
        }
    }
}
