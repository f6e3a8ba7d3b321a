//! The proxy's own keys: no client sees or touches them, and they are small.

use super::done;
use crate::support::{Cluster, PATIENCE, Reach, Value, eventually, record_key};

/// Commands that name the key `K`, one or several to a line.
const LINES: &str = "\
    GET K|SET K x|SETNX K x|GETSET K x|DEL K|UNLINK K|EXISTS K|TYPE K|TTL K|TOUCH K|EXPIRE K 1|PERSIST K|DUMP K|\
    STRLEN K|APPEND K x|SETRANGE K 0 x|GETRANGE K 0 -1|INCR K|OBJECT ENCODING K|RENAME K {tag}y|\
    RENAME {tag}mine K|RENAMENX {tag}mine K|COPY K {tag}y|COPY {tag}mine K REPLACE|MGET K|MGET mine K|MSET K x|\
    MSET other x K x|MSETNX K x|DEL other K|EXISTS other K|UNLINK other K|TOUCH other K|BITOP NOT K {tag}mine|\
    SORT K STORE K|SORT {tag}s STORE K|SADD K x|HSET K a b|RPUSH K x|ZADD K 1 a|XADD K * a b|PFADD K a|\
    SUNIONSTORE K {tag}x|SUNION K {tag}x|SMOVE {tag}x K a|LMOVE K {tag}x LEFT LEFT|ZUNIONSTORE K 1 {tag}x|\
    XREAD STREAMS K 0|GETEX K PERSIST|GETDEL K|SETEX K 1 x|RESTORE K 0 x REPLACE|LCS K {tag}mine|LMPOP 1 K LEFT|\
    GEORADIUS {tag}x 0 0 1 m STORE K|XGROUP CREATE K g 0 MKSTREAM";

#[test]
fn clients_cannot_name_records() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    done(&mut client, "SET mine value");
    done(&mut client, "SET {tag}mine value");
    cluster.converges("before");
    let dump = |cluster: &Cluster| -> Vec<Vec<(Value, Value)>> {
        let own = [record_key(b"mine"), record_key(b"{tag}mine"), b"\0qf".to_vec()];
        let of = |store: &crate::support::RedisServer| {
            let mut client = store.client();
            own.iter().map(|key| (client.command(&[b"GET", &key[..]]), client.command(&[b"PTTL", &key[..]]))).collect()
        };
        cluster.stores.iter().map(of).collect()
    };
    let before = dump(&cluster);
    for key in [record_key(b"mine"), record_key(b"{tag}mine"), b"\0qf".to_vec(), b"\0q".to_vec(), b"\0qv{tag}".to_vec()]
    {
        for line in LINES.split('|') {
            let word = |word: &str| if word == "K" { key.clone() } else { word.as_bytes().to_vec() };
            let command: Vec<_> = line.split(' ').map(word).collect();
            let reply = client.command(&command);
            let refused = match &reply {
                // A part may fail by itself.
                Value::Array(items) if line.starts_with("MGET") => items.last().is_some_and(Value::is_error),
                reply => reply.is_error(),
            };
            assert!(refused, "{line} with {} was answered by {reply:?}", key.escape_ascii());
            let text = if reply.is_error() { reply.text() } else { String::new() };
            // `RESTORE` and its like have faults of their own that may be found first, but not these.
            assert!(!text.contains("unknown") && !text.starts_with("UNKNOWN"), "{line}: {text}");
        }
    }
    assert_eq!(dump(&cluster), before, "a record was touched");
    assert_eq!(done(&mut client, "GET {tag}mine").text(), "value");
}

/// Verbs that look at all keys, as far as they are served, do not show records.
#[test]
fn clients_do_not_see_records() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    for number in 0..50 {
        done(&mut client, &format!("SET key:{number} value"));
    }
    for line in ["KEYS *", "SCAN 0 COUNT 1000", "RANDOMKEY", "DBSIZE", "SORT key:list BY nosort GET *", "CLUSTER SLOTS"]
    {
        let reply = client.line(line);
        let raw = format!("{reply:?}");
        assert!(!raw.contains("\\x00q"), "{line} shows {raw}");
        if line == "DBSIZE" && !reply.is_error() {
            assert_eq!(reply, Value::Integer(50));
        }
    }
}

/// A key that is only ever set, by whomever, costs a record of 24 bytes at most.
#[test]
fn records_of_plain_keys_are_small() {
    let Some(cluster) = Cluster::start(3, 3, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            for key in ["plain", "{tag}plain", "expiring"] {
                let expiry = if key == "expiring" { " EX 1000" } else { "" };
                // Who has seen the last write is certain to have a later ballot.
                done(client, &format!("GET {key}"));
                done(client, &format!("SET {key} {round}-{number}{expiry}"));
            }
            done(client, "MGET many:1 many:2 many:3");
            done(client, "MSET many:1 a many:2 b many:3 c");
        }
    }
    cluster.converges("after writes");
    for store in &cluster.stores {
        for key in ["plain", "{tag}plain", "expiring", "many:1", "many:2", "many:3"] {
            let length = store.client().command(&[b"STRLEN".as_slice(), &record_key(key.as_bytes())]);
            let Value::Integer(length) = length else { panic!("STRLEN of the record of {key}: {length:?}") };
            assert!((19..=24).contains(&length), "the record of {key} has {length} bytes");
        }
        // The value itself is plain: who goes around the proxy reads it.
        assert_eq!(store.client().line("GET many:2").text(), "b");
    }
}

/// The record of a key that expires goes as well, some time after it; that of a deleted key has an end.
#[test]
fn records_have_an_end() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    let lines = "SET expiring v PX 60000|SET gone v|DEL gone|SET staying v EX 9|PERSIST staying|HSET h f v|HDEL h f";
    lines.split('|').for_each(|line| drop(done(&mut client, line)));
    for store in &cluster.stores {
        let mut client = store.client();
        for (key, limited) in [("expiring", true), ("gone", true), ("h", true), ("staying", false)] {
            // The last of three replicas may hear of it after the client has.
            eventually(&format!("the record of {key} has an end: {limited}"), PATIENCE, || {
                match client.command(&[b"PTTL".as_slice(), &record_key(key.as_bytes())]) {
                    Value::Integer(-1) => !limited,
                    Value::Integer(left) => left > 0 && limited,
                    other => panic!("PTTL: {other:?}"),
                }
            });
        }
    }
}
