//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`: the same replies as one redis-server, and what only a proxy can get wrong.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::support::{
    Client, Cluster, Fleet, PATIENCE, Quoit, QuoitConfig, Reach, RedisServer, Value, encode, eventually, is_refused,
    is_unknown,
};

/// What two clients say in turns; `|` begins what the second says. All keys have one tag, so that they are on one node.
const TALKS: &[&str] = &[
    // Queued, run together, errors while they run among the replies.
    "MULTI; SET {t}a 1; INCR {t}a; GET {t}a; LPUSH {t}a x; DEL {t}a {t}b; MGET {t}a {t}b; EXEC; GET {t}a",
    "MULTI; EXEC",
    "MULTI; PING; EXEC",
    "MULTI; PING hello; ECHO a; EXEC",
    "MULTI; SET {t}a 1; PING; GET {t}a; ECHO between; CLIENT GETNAME; INCR {t}a; EXEC",
    "MULTI; CLIENT SETNAME me; CLIENT GETNAME; SELECT 0; EXEC; CLIENT GETNAME",
    // Refused while queued.
    "MULTI; GET; SET {t}a 1; EXEC; EXISTS {t}a",
    "MULTI; SET {t}a 1; NOSUCH b; EXEC; EXISTS {t}a",
    "MULTI; OBJECT nosuch {t}a; EXEC",
    "MULTI; MULTI; SET {t}a 1; EXEC; GET {t}a",
    "MULTI; WATCH {t}a; SET {t}a 1; EXEC; GET {t}a",
    "MULTI; WATCH; EXEC",
    "MULTI; EXEC x; DISCARD x; DISCARD",
    "EXEC x; EXEC; DISCARD; MULTI; DISCARD; DISCARD; EXEC",
    "MULTI; SET {t}a 1; DISCARD; EXISTS {t}a",
    "MULTI; SET {t}a 1; RESET; EXEC; EXISTS {t}a",
    "MULTI x; EXEC",
    // Watched keys.
    "SET {t}a 1; WATCH {t}a; MULTI; INCR {t}a; EXEC; GET {t}a",
    "SET {t}a 1; WATCH {t}a; |SET {t}a 5; MULTI; INCR {t}a; EXEC; GET {t}a; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; |SET {t}a 5; MULTI; EXEC",
    "WATCH {t}a; MULTI; EXEC",
    "WATCH {t}a; |SET {t}a 5; MULTI; PING; EXEC; MULTI; PING; EXEC",
    "WATCH {t}a; MULTI; PING; GET {t}a; ECHO x; EXEC",
    "WATCH {t}a; |SET {t}a 5; UNWATCH; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; |SET {t}a 5; MULTI; UNWATCH; INCR {t}a; EXEC",
    "WATCH {t}a; MULTI; UNWATCH; INCR {t}a; EXEC",
    "WATCH {t}a; |SET {t}a 5; MULTI; DISCARD; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; |SET {t}a 5; MULTI; GET; EXEC; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; |SET {t}a 5; RESET; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; WATCH {t}b {t}c; |SET {t}c 5; MULTI; INCR {t}a; EXEC",
    "WATCH {t}a; SET {t}a 2; MULTI; INCR {t}a; EXEC; GET {t}a",
    "WATCH {t}a; |SET {t}b 5; MULTI; INCR {t}a; EXEC",
    "UNWATCH; WATCH; UNWATCH x; EXEC",
    // What blocks does not block there.
    "MULTI; SPOP {t}s; ZPOPMIN {t}z; XREAD STREAMS {t}x 0; LMPOP 1 {t}l LEFT; EXEC",
    "RPUSH {t}l a b c; MULTI; LRANGE {t}l 0 -1; LMPOP 1 {t}l LEFT COUNT 2; ZADD {t}z 1.5 m; ZSCORE {t}z m; HSET {t}h f v; HGETALL {t}h; EXEC",
    "MULTI; SET {t}a 1; MULTI; GET {t}a; DISCARD; GET {t}a",
];

fn say(clients: &mut [Client; 2], talk: &str) -> Vec<String> {
    let mut replies = Vec::new();
    for line in talk.split(';').map(str::trim) {
        let (client, words) = match line.strip_prefix('|') {
            Some(words) => (1, words),
            None => (0, line),
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        replies.push(format!("{words:?} {}", clients[client].command_raw(&words).raw.escape_ascii()));
    }
    replies
}

fn check_talks(what: &str, client: impl Fn() -> Client) {
    check_talks_about("{t}", what, client);
}

/// The same with another tag, or without one.
fn check_talks_about(tag: &str, what: &str, client: impl Fn() -> Client) {
    let Some(reference) = RedisServer::start() else { return };
    for hello in ["HELLO 2", "HELLO 3"] {
        for talk in TALKS {
            let talk = &talk.replace("{t}", tag);
            let mut here = [client(), client()];
            let mut there = [reference.client(), reference.client()];
            for client in here.iter_mut().chain(&mut there) {
                client.line(hello);
            }
            let keys = ["a", "b", "c", "l", "z", "h", "s", "x"].map(|key| format!("{tag}{key}"));
            let wipe = encode(&[&["DEL".to_owned()], keys.as_slice()].concat());
            here[0].pipeline(&wipe, 1);
            there[0].pipeline(&wipe, 1);
            assert_eq!(say(&mut here, talk), say(&mut there, talk), "{what}, {hello}: {talk}");
        }
    }
}

#[test]
fn replies_are_those_of_one_server() {
    for nodes in [1, 3] {
        let Some(fleet) = Fleet::start(nodes) else { return };
        check_talks(&format!("{nodes} nodes"), || fleet.client());
    }
}

#[test]
fn replies_with_three_copies_are_those_of_one_server() {
    for (stores, proxies) in [(3, 1), (5, 2)] {
        let Some(cluster) = Cluster::start(stores, proxies, Reach::Direct) else { return };
        check_talks(&format!("three copies on {stores} stores"), || cluster.client(proxies - 1));
    }
}

/// Where every store has every key, all keys are together, whatever their names.
#[test]
fn keys_without_a_tag_are_together_where_every_store_has_them() {
    let (Some(cluster), Some(reference)) = (Cluster::start(3, 2, Reach::Direct), RedisServer::start()) else { return };
    check_talks_about("", "keys without a tag", || cluster.client(0));
    let lines = [
        "MSET a 1 b 2 c 3 d 4 e 5",
        "RENAME a f",
        "COPY b g",
        "MSETNX h 1 i 2",
        "MSETNX h 1 j 2",
        "SADD s:1 x y z",
        "SADD s:2 y z w",
        "SADD s:3 z",
        "SINTERSTORE s:4 s:1 s:2 s:3",
        "SUNION s:4 s:1",
        "SDIFFSTORE s:5 s:1 s:4",
        "SMOVE s:1 s:6 x",
        "RPUSH l:1 1 2 3",
        "LMOVE l:1 l:2 LEFT RIGHT",
        "BLMOVE l:1 l:3 LEFT RIGHT 1",
        "BLPOP l:4 l:5 l:3 1",
        "ZADD z:1 1 m 2 n",
        "ZADD z:2 3 n",
        "ZUNIONSTORE z:3 2 z:1 z:2",
        "BITOP OR bits b c d",
        "PFADD p:1 x",
        "PFADD p:2 y",
        "PFMERGE p:3 p:1 p:2",
        "PFCOUNT p:1 p:2 p:3",
        "XADD x:1 1-1 f v",
        "XADD x:2 1-1 f w",
        "XREAD STREAMS x:1 x:2 0 0",
        "EVAL_RO return{redis.call('GET',KEYS[1]),redis.call('GET',KEYS[2]),redis.call('GET',KEYS[3])} 3 b c f",
        "MGET a b c d e f g h i j bits",
    ];
    let (mut here, mut there) = (cluster.client(1), reference.client());
    for line in lines {
        assert_eq!(here.line(line).sorted(), there.line(line).sorted(), "{line}");
    }
    cluster.converges("after commands for several keys");
}

/// A whole talk in one write: the replies are the same, in the same order.
#[test]
fn pipelined_transactions_are_those_of_one_server() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(reference) = RedisServer::start() else { return };
    let lines = [
        "SET {t}a 1",
        "MULTI",
        "INCR {t}a",
        "GET {t}a",
        "EXEC",
        "GET {t}a",
        "WATCH {t}a",
        "INCR {t}a",
        "MULTI",
        "GET {t}a",
        "EXEC",
        "GET {t}a",
        "WATCH {t}a",
        "MULTI",
        "INCR {t}a",
        "PING",
        "EXEC",
        "INCR {t}a",
        "GET {t}a",
    ];
    let request: Vec<u8> = lines.iter().flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>())).collect();
    for _ in 0..20 {
        let raw = |client: &mut Client| {
            let replies = client.pipeline(&request, lines.len());
            replies.iter().map(|reply| reply.raw.escape_ascii().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(raw(&mut fleet.client()), raw(&mut reference.client()));
    }
}

#[test]
fn keys_on_several_nodes_are_refused_when_they_are_queued() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(20);
    let (one, other) = (&keys[0][0], &keys[1][0]);
    let mut client = fleet.client();
    client.line("MULTI");
    assert_eq!(client.line(&format!("SET {one} 1")).text(), "QUEUED");
    assert!(client.line(&format!("SET {other} 1")).text().starts_with("CROSSSLOT"));
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    assert_eq!(client.line(&format!("EXISTS {one} {other}")), Value::Integer(0));
    client.line("MULTI");
    assert!(client.line(&format!("MGET {one} {other}")).text().starts_with("CROSSSLOT"));
    client.line("DISCARD");
    assert_eq!(client.line(&format!("WATCH {one}")).text(), "OK");
    assert!(client.line(&format!("WATCH {other}")).text().starts_with("CROSSSLOT"));
    client.line("MULTI");
    assert!(client.line(&format!("SET {other} 1")).text().starts_with("CROSSSLOT"));
    client.line("DISCARD");
    // The connection lives, and so does the other order: a watch on one node, no keys in the transaction.
    assert_eq!(client.line(&format!("WATCH {other}")).text(), "OK");
    client.line("MULTI");
    assert_eq!(client.line("EXEC"), Value::Array(Vec::new()));
}

/// Raises a counter by `WATCH`, `GET`, `MULTI`, `SET`, `EXEC` until it was done so often: how often, and how often nobody
/// could say.
fn raise(address: SocketAddr, times: u32) -> (u32, u32) {
    let mut client = Client::connect(address);
    let (mut done, mut unknown) = (0, 0);
    while done + unknown < times {
        let reply = client.line("WATCH count");
        if is_refused(&reply) {
            continue;
        }
        assert_eq!(reply.text(), "OK");
        let reply = client.line("GET count");
        if is_refused(&reply) {
            continue;
        }
        let count: i64 = reply.text().parse().unwrap_or(0);
        client.line("MULTI");
        client.line(&format!("SET count {}", count + 1));
        match client.line("EXEC") {
            Value::Null => {}
            reply if is_refused(&reply) => {}
            reply if is_unknown(&reply) => unknown += 1,
            reply => {
                assert_eq!(reply.items().len(), 1, "{reply:?}");
                done += 1;
            }
        }
    }
    (done, unknown)
}

fn raise_together(addresses: &[SocketAddr], times: u32, meanwhile: impl FnOnce()) -> (u32, u32) {
    let addresses = addresses.iter().cycle().copied().take(8);
    let tasks: Vec<_> = addresses.map(|address| std::thread::spawn(move || raise(address, times))).collect();
    meanwhile();
    tasks.into_iter().fold((0, 0), |(done, unknown), task| {
        let (more, doubts) = task.join().expect("a client ends well");
        (done + more, unknown + doubts)
    })
}

#[test]
fn a_counter_raised_under_watch_loses_nothing() {
    let Some(fleet) = Fleet::start_with(3, |config| config.workers(2)) else { return };
    assert_eq!(raise_together(&[fleet.address()], 25, || {}), (200, 0));
    assert_eq!(fleet.client().line("GET count").text(), "200");
}

#[test]
fn a_counter_with_three_copies_raised_under_watch_loses_nothing() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Direct) else { return };
    let addresses = cluster.addresses();
    let (done, unknown) = raise_together(&addresses, 10, || {});
    let count: u32 = cluster.client(0).line("GET count").text().parse().expect("a count");
    assert!((done..=done + unknown).contains(&count), "{count} of {done} and {unknown}");
    // And while a store is lost and comes back.
    let (more, doubts) = raise_together(&addresses, 10, || {
        cluster.stores[1].kill9();
        cluster.stores[1].restart();
    });
    let count: u32 = cluster.client(0).line("GET count").text().parse().expect("a count");
    let (done, unknown) = (done + more, unknown + doubts);
    assert!((done..=done + unknown).contains(&count), "{count} of {done} and {unknown}");
    cluster.converges("after the counter");
}

/// Sums are moved between two accounts; who reads both in one transaction sees nothing in between. Where one was said to be
/// unknown, it may be there in half.
#[test]
fn transactions_with_three_copies_are_seen_whole() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    check_transfers(&cluster, &["{bank}a".to_owned(), "{bank}b".to_owned()]);
    if cluster.has_proxies() {
        // The ring names other stores first for the second.
        let mut client = cluster.client(0);
        let mut first = |number: usize| client.line(&format!("QUOIT ROUTE bank:{number}")).items()[1].text();
        let other = (1..1_000).find(|other| first(*other) != first(0)).expect("keys of several stores");
        check_transfers(&cluster, &["bank:0".to_owned(), format!("bank:{other}")]);
    }
}

/// Clients that move sums between two keys, and look at both. Each move leaves its name in two lists, too.
fn check_transfers(cluster: &Cluster, keys: &[String; 2]) {
    let [a, b] = keys;
    cluster.client(0).line(&format!("MSET {a} 500 {b} 500"));
    let lists = keys.clone().map(|key| format!("{key}:moves"));
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let mut client = cluster.client(number % 2);
            let ([a, b], lists) = (keys.clone(), lists.clone());
            std::thread::spawn(move || {
                let (mut unknown, mut answered, mut broken) = (0, Vec::new(), Vec::new());
                for turn in 0..40 {
                    let name = format!("{number}-{turn}");
                    let moves = (turn + number) % 2 == 0;
                    client.line("MULTI");
                    if moves {
                        client.line(&format!("DECRBY {a} 7"));
                        client.line(&format!("INCRBY {b} 7"));
                        for list in &lists {
                            client.line(&format!("RPUSH {list} {name}"));
                        }
                    }
                    client.line(&format!("GET {a}"));
                    client.line(&format!("GET {b}"));
                    let reply = client.line("EXEC");
                    if is_unknown(&reply) {
                        unknown += 1;
                    }
                    if is_unknown(&reply) || is_refused(&reply) {
                        continue;
                    }
                    if moves {
                        answered.push(name);
                    }
                    let (_, both) = reply.items().split_at(reply.items().len() - 2);
                    let sum: i64 = both.iter().map(|item| item.text().parse::<i64>().unwrap_or(0)).sum();
                    if sum != 1_000 {
                        broken.push(format!("{reply:?}"));
                    }
                }
                (unknown, answered, broken)
            })
        })
        .collect();
    let (mut unknown, mut answered, mut broken) = (0, Vec::new(), Vec::new());
    for task in tasks {
        let (more, names, wrong) = task.join().expect("a client ends well");
        unknown += more;
        answered.extend(names);
        broken.extend(wrong);
    }
    assert!(broken.is_empty(), "{unknown} unknown: {broken:?}");
    cluster.converges("after the transfers");
    let mut client = cluster.client(0);
    let moves = lists.map(|list| {
        let items = client.line(&format!("LRANGE {list} 0 -1"));
        items.items().iter().map(Value::text).collect::<Vec<String>>()
    });
    assert_eq!(moves[0], moves[1], "each is there on both keys or on none, {unknown} unknown");
    let once: BTreeSet<&String> = moves[0].iter().collect();
    assert_eq!(once.len(), moves[0].len(), "each is there once");
    assert!(answered.iter().all(|name| once.contains(name)), "what was answered is there");
    let sum: i64 = 7 * i64::try_from(moves[0].len()).expect("few");
    let sums = keys.clone().map(|key| client.line(&format!("GET {key}")).text().parse::<i64>().expect("a number"));
    assert_eq!(sums.iter().sum::<i64>(), 1_000, "{unknown} unknown");
    assert_eq!(sums, [500 - sum, 500 + sum], "{sums:?} after {sum}, {unknown} unknown");
}

/// A watched key whose time is up counts as changed.
#[test]
fn a_watched_key_that_expires_voids_the_transaction() {
    let Some(fleet) = Fleet::start(1) else { return };
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    for mut client in [fleet.client(), cluster.client(0)] {
        client.line("SET {t}a 1");
        assert_eq!(client.line("WATCH {t}a").text(), "OK");
        client.line("PEXPIRE {t}a 100000000");
        client.line("MULTI");
        assert_eq!(client.line("EXEC"), Value::Null, "it was changed");
        client.line("SET {t}a 1 PX 300");
        assert_eq!(client.line("WATCH {t}a").text(), "OK");
        let watched_in_time = client.line("GET {t}a").text() == "1";
        eventually("its end", PATIENCE, || client.line("EXISTS {t}a") == Value::Integer(0));
        client.line("MULTI");
        client.line("SET {t}b 1");
        assert_eq!(client.line("EXEC") == Value::Null, watched_in_time);
    }
}

/// What only a transaction with copies refuses.
#[test]
fn what_scripts_cannot_run_is_refused_with_three_copies() {
    let Some(cluster) = Cluster::start(5, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    client.line("MULTI");
    assert!(client.line("SET \0qx 1").text().contains("belong to quoit"));
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    let others: Vec<String> = (0..20).map(|at| format!("key:{at}")).collect();
    client.line("MULTI");
    let replies: Vec<String> = others.iter().map(|key| client.line(&format!("SET {key} 1")).text()).collect();
    assert!(replies.iter().any(|reply| reply.starts_with("CROSSSLOT")), "{replies:?}");
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    assert_eq!(client.command(&[&["EXISTS".to_owned()], others.as_slice()].concat()), Value::Integer(0));
}

#[test]
fn watched_keys_cost_their_store_nothing_afterwards() {
    let Some(fleet) = Fleet::start(1) else { return };
    let clients = || {
        let text = fleet.stores[0].client().line("INFO clients").text();
        let line = text.lines().find_map(|line| line.strip_prefix("watching_clients:").map(str::to_owned));
        line.map_or_else(|| "0".to_owned(), |count| count.trim().to_owned())
    };
    for end in ["UNWATCH", "RESET", "DISCARD", "EXEC", "QUIT", ""] {
        let mut client = fleet.client();
        client.line("WATCH a b");
        if matches!(end, "DISCARD" | "EXEC") {
            client.line("MULTI");
        }
        if end.is_empty() {
            client.close();
        } else {
            client.line(end);
        }
        let listed = fleet.stores[0].client().line("CLIENT LIST").text();
        eventually(&format!("nothing is watched after {end:?}: {} {listed}", clients()), PATIENCE, || clients() == "0");
    }
    // And one connection serves them one after the other.
    let opened = || fleet.stores[0].client().line("INFO stats").text();
    let count = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("total_connections_received:").map(str::to_owned));
        line.and_then(|count| count.trim().parse::<u64>().ok()).expect("a count")
    };
    let mut client = fleet.client();
    let before = count(&opened());
    for _ in 0..50 {
        client.line("WATCH a");
        client.line("MULTI");
        client.line("SET a 1");
        client.line("EXEC");
    }
    assert!(count(&opened()) - before <= 3, "a connection for each WATCH");
}

#[test]
fn a_watch_whose_store_died_voids_the_transaction() {
    let Some(mut fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    client.line("SET a 1");
    assert_eq!(client.line("WATCH a").text(), "OK");
    fleet.stores[0].kill9();
    fleet.stores[0].restart();
    eventually("the store serves again", PATIENCE, || fleet.client().line("SET a 7").text() == "OK");
    client.line("MULTI");
    assert_eq!(client.line("SET a 2").text(), "QUEUED");
    assert_eq!(client.line("EXEC"), Value::Null);
    assert_eq!(client.line("GET a").text(), "7");
    client.line("MULTI");
    client.line("SET a 2");
    assert_eq!(client.line("EXEC").items().len(), 1);
}

/// A store that refuses a queued command refuses the transaction; the client hears why.
#[test]
fn a_store_without_memory_voids_the_transaction() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    client.line("SET a 1");
    fleet.stores[0].client().line("CONFIG SET maxmemory 1");
    client.line("MULTI");
    client.line("GET a");
    client.line("SET a 2");
    let reply = client.line("EXEC").text();
    assert!(reply.starts_with("EXECABORT Transaction discarded because of: OOM"), "{reply}");
    assert_eq!(client.line("GET a").text(), "1");
}

#[test]
fn what_a_transaction_keeps_is_bounded() {
    let bound = |config: QuoitConfig| config.listener("query_buffer_bytes_max = 1_048_576");
    let Some(fleet) = Fleet::start_with(1, bound) else { return };
    let Some(_) = fleet.quoit() else { return };
    let mut client = fleet.client();
    client.line("MULTI");
    let value = "x".repeat(300_000);
    let replies: Vec<String> = (0..4).map(|_| client.command(&["SET", "a", &value]).text()).collect();
    assert_eq!(replies[..3], ["QUEUED", "QUEUED", "QUEUED"]);
    assert!(replies[3].contains("bytes in one transaction"), "{replies:?}");
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    assert_eq!(client.line("EXISTS a"), Value::Integer(0));
}

#[test]
fn a_big_reply_comes_whole_with_and_without_parts_of_quoit() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    let value = "v".repeat(3_000_000);
    client.command(&["SET", "a", &value]);
    for with_ping in [false, true] {
        client.line("MULTI");
        client.line("GET a");
        if with_ping {
            client.line("PING");
        }
        client.line("GET a");
        let reply = client.line("EXEC");
        let items = reply.items();
        assert_eq!(items.len(), 2 + usize::from(with_ping));
        assert!(items[0].text() == value && items[items.len() - 1].text() == value);
        assert!(!with_ping || items[1].text() == "PONG");
    }
}

#[test]
fn routes_rewrite_the_keys_of_a_transaction() {
    let route = |config: QuoitConfig| {
        config.listener("[[listener.route]]\nprefix = \"cut:\"\npool = \"main\"\nreplace_prefix = \"\"")
    };
    let Some(fleet) = Fleet::start_with(1, route) else { return };
    let Some(_) = fleet.quoit() else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("WATCH cut:a").text(), "OK");
    fleet.stores[0].client().line("SET a 5");
    client.line("MULTI");
    client.line("INCR cut:a");
    assert_eq!(client.line("EXEC"), Value::Null, "the key that the store has is the one that is watched");
    client.line("MULTI");
    client.line("INCR cut:a");
    client.line("MGET cut:a b");
    let reply = client.line("EXEC");
    assert_eq!(reply.items()[0], Value::Integer(6));
    assert_eq!(reply.items()[1].items()[0].text(), "6");
}

/// Transactions that were begun before a reload and end after it.
#[test]
fn a_reload_between_multi_and_exec() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let keys: Vec<String> = (0..40).map(|at| format!("key:{at}")).collect();
    let mut begun: Vec<Client> = keys.iter().map(|_| quoit.client()).collect();
    for (at, (client, key)) in begun.iter_mut().zip(&keys).enumerate() {
        if at % 2 == 0 {
            assert_eq!(client.line(&format!("WATCH {key}")).text(), "OK");
        }
        client.line("MULTI");
        client.line(&format!("SET {key} done"));
    }
    let one = Fleet::config_of(&fleet.stores[..1]);
    reload(quoit, &quoit.text_of(&one));
    let mut outcomes = BTreeSet::new();
    for (at, (client, key)) in begun.iter_mut().zip(&keys).enumerate() {
        let is_done = client.line("EXEC") != Value::Null;
        outcomes.insert((at % 2 == 0, is_done));
        assert_eq!(quoit.client().line(&format!("GET {key}")).text(), if is_done { "done" } else { "" });
        assert!(is_done || at % 2 == 0, "only what was watched may be void");
    }
    assert!(outcomes.contains(&(true, false)), "some watched keys have moved: {outcomes:?}");
}

fn reload(quoit: &Quoit, text: &str) {
    let before = quoit.metric_sum("quoit_config_reloads_total");
    quoit.write_config(text);
    eventually("the reload", PATIENCE, || quoit.metric_sum("quoit_config_reloads_total") > before);
}
