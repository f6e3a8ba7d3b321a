//! Scripts that write where keys have several copies: one replica runs them, the others get what they wrote.

use std::thread;

use super::differential::{Errors, compare};
use super::{APPEND, bulk, load};
use crate::support::{Client, Cluster, Program, Reach, RedisServer, Value, is_refused, is_unknown};

/// Scripts with their keys and arguments; words are parted by `|`. All keys have one tag.
const SCRIPTS: &[&str] = &[
    "local x = 1\nredis.call('INCR', KEYS[1])\nreturn x|1|{t}n",
    "redis.call('SET', KEYS[1], 'text')|1|{t}text",
    "local x = 1\nredis.call('INCR', KEYS[1])\nreturn x|1|{t}text",
    "local x = 1\nlocal r = redis.pcall('INCR', KEYS[1])\nreturn r.err|1|{t}text",
    "redis.call('SET', KEYS[1], ARGV[1]) error('after the write')|1|{t}text|other",
    "return redis.call('GET', KEYS[1])|1|{t}text",
    "local x = nil\nreturn x.y|1|{t}n",
    "redis.call('RPUSH', KEYS[1], unpack(ARGV)) return redis.call('LRANGE', KEYS[1], 0, -1)|1|{t}l|1|2|3",
    "redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT') return redis.call('LLEN', KEYS[2])|2|{t}l|{t}m",
    "return #KEYS + #ARGV * 100|2|{t}k|{t}k|1|2|3",
    // Keys that are not named.
    "redis.call('SET', '{t}found', 'x') return redis.call('GET', '{t}found')|1|{t}l",
    "redis.call('SET', KEYS[1], '1') redis.call('HSET', '{t}h', 'f', 'v') local n = redis.call('INCR', '{t}n') \
     return {n, redis.call('GET', KEYS[1])}|1|{t}q",
    "redis.call('DEL', KEYS[1], '{t}found') redis.call('SET', '{t}kept', redis.call('TTL', KEYS[2]))|2|{t}q|{t}h",
    "for i = 1, 40 do redis.call('INCR', '{t}c' .. i % 20) end return redis.call('MGET', '{t}c0', '{t}c1')|1|{t}l",
    "return redis.call('SET', '{t}nobody', 'bar')|0",
    "return redis.call('GET', '{t}nobody')|0",
    "local ok = pcall(function() redis.call('SET', '{t}caught', 1) end) return {ok, redis.call('GET', KEYS[1])}|1|{t}l2",
    // What the stores say of their own accord.
    "return redis.call('GET')|1|{t}k",
    "return redis.call()|1|{t}k",
    "return redis.call('NOSUCH', 'a')|1|{t}k",
    "return foo(|1|{t}k",
    "return undefined|1|{t}k",
    "x = 1|1|{t}k",
    "#!lua\nlocal x\nredis.call('SET', KEYS[1], 1) return redis.call('LPOP', KEYS[1])|1|{t}k",
    "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 1)|1|{t}k",
    "return {1, 2, 3} -- the end|1|{t}k",
    // Verbs whose keys stand elsewhere.
    "redis.call('ZADD', KEYS[1], 1, 'a', 2, 'b') return redis.call('ZUNIONSTORE', KEYS[2], 2, KEYS[1], KEYS[1])|2|{t}z|{t}zz",
    "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')|1|{t}zz",
    "return redis.call('SORT', KEYS[1], 'BY', 'nosort', 'STORE', KEYS[2])|2|{t}m|{t}s",
    "redis.call('XADD', KEYS[1], '1-1', 'a', 'b') return redis.call('XREAD', 'COUNT', 1, 'STREAMS', KEYS[1], '0')|1|{t}x",
    "redis.call('XGROUP', 'CREATE', KEYS[1], 'g', '0') \
     return redis.call('XREADGROUP', 'GROUP', 'g', 'me', 'STREAMS', KEYS[1], '>')|1|{t}x",
    "return redis.call('LMPOP', 2, KEYS[1], KEYS[2], 'LEFT')|2|{t}none|{t}l",
    "redis.call('SETEX', KEYS[1], 100, 'v') return redis.call('TTL', KEYS[1])|1|{t}e",
    "redis.call('GEOADD', KEYS[1], 1, 1, 'a') return redis.call('GEOSEARCHSTORE', KEYS[2], KEYS[1], 'FROMLONLAT', 1, 1, \
     'BYRADIUS', 9, 'km')|2|{t}g|{t}gg",
    // Replies of every kind, in both protocols.
    "redis.setresp(3) return redis.call('HGETALL', KEYS[1])|1|{t}h",
    "redis.setresp(3) redis.call('SADD', KEYS[1], 'm') return redis.call('SMEMBERS', KEYS[1])|1|{t}set",
    "redis.setresp(3) redis.call('INCR', KEYS[1]) return true|1|{t}n",
    "redis.call('INCR', KEYS[1]) return true|1|{t}n",
    "redis.call('INCR', KEYS[1]) return false|1|{t}n",
    "redis.call('INCR', KEYS[1])|1|{t}n",
    "redis.call('INCR', KEYS[1]) return {double = 3.5}|1|{t}n",
    "redis.call('INCR', KEYS[1]) return {1, false, {ok = 'fine'}, {err = 'MY own'}, 'b', nil, 5}|1|{t}n",
    "return {redis.call('DEL', KEYS[1]), redis.call('EXISTS', KEYS[1])}|1|{t}n",
];

fn eval(client: &mut Client, line: &str) -> crate::support::Reply {
    let words: Vec<&str> = std::iter::once("EVAL").chain(line.split('|')).collect();
    client.command_raw(&words)
}

#[test]
fn replies_are_those_of_one_server() {
    let (Some(cluster), Some(reference)) = (Cluster::start(4, 1, Reach::Direct), RedisServer::start()) else { return };
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (cluster.client(0), reference.client());
        for client in [&mut subject, &mut reference] {
            for line in ["FLUSHALL", "FUNCTION FLUSH", "SCRIPT FLUSH"] {
                client.line(line);
            }
            client.line(&format!("HELLO {protocol}"));
        }
        for line in SCRIPTS {
            let (got, want) = (eval(&mut subject, line), eval(&mut reference, line));
            assert_eq!(got.raw, want.raw, "{line}\n  {got:?}\n  {want:?}");
        }
        // Which stores have a script is another matter here; and in which line of a function an error came about is not
        // known where the call was the last thing that it did.
        let others = |line: &str| line.contains("SCRIPT|EXISTS") || line == "FCALL|put|0";
        compare(&mut subject, &mut reference, Errors::ByTheByte, others);
        cluster.converges("after the scripts");
    }
}

#[test]
fn other_servers_run_them_too() {
    for variable in ["QUOIT_REDIS_62", "QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let start = || RedisServer::start_with(Program::Named(variable), &["--appendonly", "yes"]);
        let (Some(one), Some(two), Some(three), Some(reference)) = (start(), start(), start(), start()) else {
            continue;
        };
        let cluster = Cluster::in_front_of(vec![one, two, three], 1, Reach::Direct, |_, config| config);
        let (mut subject, mut reference) = (cluster.client(0), reference.client());
        for line in SCRIPTS {
            if variable == "QUOIT_REDIS_62" && (line.starts_with("#!") || line.contains("LMPOP")) {
                continue; // Both came with Redis 7.
            }
            let (got, want) = (eval(&mut subject, line), eval(&mut reference, line));
            // Errors of scripts are those of Redis 7, whatever the store's version.
            let alike = got.value.is_error() && want.value.is_error();
            assert!(alike || got.raw == want.raw, "{variable}: {line}\n  {got:?}\n  {want:?}");
        }
        cluster.converges(variable);
    }
}

#[test]
fn what_is_about_one_store_is_refused() {
    let Some(cluster) = Cluster::start(5, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    for verb in ["KEYS", "RANDOMKEY", "DBSIZE", "FLUSHALL", "SCAN", "INFO"] {
        let script = format!("return redis.call('{verb}', '0')");
        let text = client.command(&["EVAL", &script, "1", "k"]).text();
        let want = format!("ERR '{}' in a script is not supported where keys have several copies", verb.to_lowercase());
        assert!(text.starts_with(&want), "{text}");
    }
    let text = client.command(&["EVAL", "redis.call('SET', KEYS[1], 1) redis.call('SET', ARGV[1], 1)", "1", "k", "x1"]);
    let others = (0..100).map(|number| format!("x{number}")).find(|name| {
        let script = "redis.call('SET', KEYS[1], 1) redis.call('SET', ARGV[1], 1)";
        client.command(&["EVAL", script, "1", "k", name]).text().starts_with("CROSSSLOT The script uses a key")
    });
    assert!(others.is_some(), "some key is elsewhere; {text:?}");
    let reserved = client.command(&["EVAL", "return redis.call('GET', '\\0qf')", "1", "k"]).text();
    assert!(reserved.starts_with("ERR keys that begin with"), "{reserved}");
}

/// A digest is known to the proxy that has seen its text; any other says so, and the client sends the text.
#[test]
fn a_digest_is_run_where_its_text_is_known() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let (mut one, mut other) = (cluster.client(0), cluster.client(1));
    let digest = load(&mut one, APPEND);
    assert_eq!(one.command(&["EVALSHA", &digest, "1", "k", "a"]), Value::Integer(1));
    assert!(other.command(&["EVALSHA", &digest, "1", "k", "b"]).text().starts_with("NOSCRIPT"));
    assert_eq!(other.command(&["EVAL", APPEND, "1", "k", "b"]), Value::Integer(2));
    assert_eq!(other.command(&["EVALSHA", &digest, "1", "k", "c"]), Value::Integer(3));
    for store in &cluster.stores {
        assert_eq!(store.client().line("SCRIPT FLUSH").text(), "OK");
    }
    assert_eq!(other.command(&["EVALSHA", &digest, "1", "k", "d"]), Value::Integer(4));
    assert_eq!(one.line("GET k"), bulk("abcd"));
}

/// A counter that only a script can count: it reads, and then writes. A store dies and comes back meanwhile.
#[test]
fn what_is_counted_is_counted_once() {
    let Some(mut cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let script = "local n = tonumber(redis.call('GET', KEYS[1]) or '0') redis.call('SET', KEYS[1], n + 1) \
                  redis.call('SET', '{c}last', ARGV[1]) return n + 1";
    let tasks: Vec<_> = (0..4)
        .map(|number| {
            let mut client = cluster.client(number % 2);
            thread::spawn(move || {
                let (mut done, mut unknown) = (Vec::new(), 0);
                for turn in 0..60 {
                    let reply = client.command(&["EVAL", script, "1", "{c}count", &format!("{number}.{turn}")]);
                    match reply {
                        Value::Integer(count) => done.push(count),
                        reply if is_unknown(&reply) => unknown += 1,
                        reply => assert!(is_refused(&reply), "{reply:?}"),
                    }
                }
                (done, unknown)
            })
        })
        .collect();
    cluster.stores[0].kill9();
    cluster.stores[0].restart();
    let ends: Vec<(Vec<i64>, i64)> = tasks.into_iter().map(|task| task.join().expect("a client ends well")).collect();
    let unknown: i64 = ends.iter().map(|(_, unknown)| unknown).sum();
    let mut counts: Vec<i64> = ends.into_iter().flat_map(|(done, _)| done).collect();
    let done = i64::try_from(counts.len()).expect("some hundred");
    counts.sort_unstable();
    assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "no count was given twice: {counts:?}");
    assert!(done > 0);
    cluster.converges("after the counter");
    let end: i64 = cluster.client(0).line("GET {c}count").text().parse().expect("a number");
    assert!((done..=done + unknown).contains(&end), "{end} of {done} and {unknown}");
}

/// Scripts among the commands of a transaction; words are parted by `|`.
const TRANSACTIONS: &[&[&str]] = &[
    &["SET|{t}a|1", "EVAL|return redis.call('INCR', KEYS[1])|1|{t}a", "GET|{t}a", "HSET|{t}h|f|v", "HGETALL|{t}h"],
    &[
        "EVALSHA|DIGEST|1|{t}s|x",
        "EVALSHA|DIGEST|1|{t}s|y",
        "GET|{t}s",
        "EVALSHA|ffffffffffffffffffffffffffffffffffffffff|0",
    ],
    &[
        "EVAL|local x = 1\nreturn redis.call('SET', KEYS[1], x)|1|{t}a",
        "EVAL|local x = 1\nlocal y = 2\nredis.call('LPUSH', KEYS[1], 1)\nreturn x|1|{t}a",
        "EVAL|#!lua\nlocal x\nredis.call('LPUSH', KEYS[1], 1) return x|1|{t}a",
        "EVAL|error('boom')|1|{t}a",
        "INCR|{t}a",
        "LPUSH|{t}a|1",
        "ZADD|{t}z|1.5|m",
        "ZSCORE|{t}z|m",
    ],
    &[
        "EVAL|redis.call('SET', '{t}found', ARGV[1]) return redis.call('GET', '{t}found')|1|{t}a|v",
        "GET|{t}found",
        "DEL|{t}found|{t}a",
    ],
    &["EVAL|return {#KEYS, #ARGV, KEYS[2], ARGV[1]}|2|{t}a|{t}b|c", "EVAL|return {#KEYS, #ARGV}|1|{t}a", "EXISTS|{t}a"],
    &["EVAL|return redis.call('GET', KEYS[1])|1|{t}none", "SMISMEMBER|{t}none|a", "EVAL|return false|1|{t}none"],
];

#[test]
fn scripts_in_transactions_answer_like_those_of_a_server() {
    let (Some(cluster), Some(reference)) = (Cluster::start(4, 1, Reach::Direct), RedisServer::start()) else { return };
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (cluster.client(0), reference.client());
        let digest = [&mut subject, &mut reference].map(|client| {
            client.line("FLUSHALL");
            client.line(&format!("HELLO {protocol}"));
            load(client, APPEND)
        });
        for lines in TRANSACTIONS {
            let replies = [&mut subject, &mut reference].map(|client| {
                client.line("MULTI");
                for line in *lines {
                    let words: Vec<&str> =
                        line.split('|').map(|word| if word == "DIGEST" { digest[0].as_str() } else { word }).collect();
                    assert_eq!(client.command(&words).text(), "QUEUED", "{line}");
                }
                client.command_raw(&["EXEC"])
            });
            assert_eq!(replies[0].raw, replies[1].raw, "{lines:?}\n  {:?}\n  {:?}", replies[0], replies[1]);
        }
        // What is watched voids it as well.
        let mut other = cluster.client(0);
        subject.line("WATCH {t}w");
        other.line("SET {t}w 1");
        subject.line("MULTI");
        subject.command(&["EVAL", "return redis.call('SET', KEYS[1], 2)", "1", "{t}w"]);
        assert_eq!(subject.line("EXEC"), Value::Null);
        assert_eq!(other.line("GET {t}w"), bulk("1"));
        cluster.converges("after the transactions");
    }
}
