//! Databases other than 0: the same bytes as one redis-server, and what only a proxy can get wrong: a request in a database
//! that its client is not in.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::clients::python_with_redis;
use crate::support::{
    Client, Cluster, DURABLE, Fleet, PATIENCE, Program, Quoit, Reach, RedisServer, Value, encode, eventually,
};

/// What two clients say in turns; `|` begins what the second says. All keys have one tag, so that they are on one node.
const TALKS: &[&str] = &[
    // The number.
    "SELECT abc; SELECT 16; SELECT -1; SELECT +1; SELECT 01; SELECT 99999999999; SELECT 3.0; SELECT; SELECT 1 2; SELECT 15",
    "SELECT 3; SELECT 16; SET {t}a 1; SELECT abc; GET {t}a; SELECT 0; EXISTS {t}a",
    // Each client is in its own.
    "SELECT 3; SET {t}a 1; GET {t}a; |GET {t}a; |SET {t}a 0; GET {t}a; |SELECT 3; |GET {t}a; SELECT 0; GET {t}a; |GET {t}a",
    "SET {t}a 0; SELECT 1; SET {t}a 1; SELECT 2; SET {t}a 2; MGET {t}a {t}b; SELECT 1; MGET {t}a {t}b; SELECT 0; MGET {t}a {t}b",
    "SELECT 7; MSET {t}a 1 {t}b 2; DEL {t}a {t}b {t}c; SELECT 0; EXISTS {t}a {t}b",
    // What a connection is told at its beginning and end.
    "SELECT 3; SET {t}a 1; HELLO 2; GET {t}a; HELLO 3; GET {t}a; RESET; GET {t}a; SELECT 3; GET {t}a",
    "SELECT 3; CLIENT REPLY ON; SET {t}a 1; GET {t}a; CONFIG GET databases",
    // From one to another.
    "SET {t}a 1; MOVE {t}a 5; EXISTS {t}a; SELECT 5; GET {t}a; MOVE {t}a 5; MOVE {t}a 16; MOVE {t}a -1; MOVE {t}a x; MOVE {t}a 99999999999; MOVE {t}a; MOVE {t}a 0; EXISTS {t}a; MOVE {t}a 0; SELECT 0; GET {t}a",
    "SET {t}a 1 EX 1000; |SELECT 5; |SET {t}a 2; MOVE {t}a 5; GET {t}a; |GET {t}a; |DEL {t}a; MOVE {t}a 5; |GET {t}a; |PERSIST {t}a",
    "SET {t}a 1; COPY {t}a {t}a DB 4; COPY {t}a {t}a; COPY {t}a {t}b DB 4 REPLACE; COPY {t}a {t}b DB 16; COPY {t}a {t}b DB; COPY {t}a {t}b DB x; COPY {t}a {t}b NONSENSE DB 16; COPY {t}a {t}b DB 16 NONSENSE; COPY {t}a {t}a DB 0; SELECT 4; MGET {t}a {t}b; COPY {t}a {t}a DB 4; COPY {t}a {t}c DB 0; SELECT 0; GET {t}c",
    // All keys of one database, or of all.
    "SELECT 3; SET {t}a 1; DBSIZE; KEYS *; SCAN 0; RANDOMKEY; SELECT 0; DBSIZE; KEYS *; SCAN 0; RANDOMKEY",
    "SELECT 3; SET {t}a 1; SELECT 4; SET {t}a 2; FLUSHDB; DBSIZE; SELECT 3; DBSIZE; FLUSHALL; DBSIZE; SELECT 4; DBSIZE",
    "SET {t}a 1; SELECT 3; SET {t}a 1; FLUSHDB ASYNC; SELECT 0; DBSIZE; SELECT 9; FLUSHALL SYNC; SELECT 0; DBSIZE",
    // Transactions.
    "SELECT 3; MULTI; SET {t}a 1; INCR {t}a; SELECT 3; PING; MOVE {t}a 5; MOVE {t}a 99; EXEC; EXISTS {t}a; SELECT 5; GET {t}a",
    "SELECT 3; MULTI; SELECT abc; SELECT 16; SET {t}a 1; EXEC; GET {t}a; SELECT 0; GET {t}a",
    "SELECT 3; SET {t}a 1; WATCH {t}a; |SET {t}a 5; MULTI; INCR {t}a; EXEC; WATCH {t}a; |SELECT 3; |SET {t}a 7; MULTI; INCR {t}a; EXEC; GET {t}a; |SELECT 0; |GET {t}a",
    "SELECT 3; SET {t}a 1; WATCH {t}a; UNWATCH; SELECT 4; MULTI; SET {t}a 2; EXEC; WATCH {t}a; RESET; GET {t}a",
    "SELECT 3; MULTI; SET {t}a 9; DISCARD; SET {t}a 1; MULTI; COPY {t}a {t}b DB 4; COPY {t}a {t}b DB 16; EXEC; SELECT 4; GET {t}b",
    // Scripts.
    "SELECT 3; EVAL return{redis.call('SET',KEYS[1],ARGV[1]),redis.call('GET',KEYS[1])} 1 {t}a 5; SELECT 0; EXISTS {t}a",
    "SELECT 3; SCRIPT LOAD return(redis.call('INCR',KEYS[1])); EVALSHA 6a935716be7afd629d740d55c8ec5faf2298e9d5 1 {t}a; SCRIPT FLUSH; SELECT 0; EXISTS {t}a",
    "SELECT 3; EVAL redis.call('SELECT',4);redis.call('SET',KEYS[1],1) 1 {t}a; EXISTS {t}a; SET {t}b 1; SELECT 4; EXISTS {t}a {t}b",
    // Waiting: only what comes in the database counts.
    "SELECT 3; RPUSH {t}l a; BLPOP {t}l 0; BLPOP {t}l 0.05; SELECT 0; BLPOP {t}l 0.05",
    "SELECT 3; RPUSH {t}l a b; BLMOVE {t}l {t}m LEFT RIGHT 0; SELECT 0; EXISTS {t}l {t}m; SELECT 3; LRANGE {t}m 0 -1",
    // Types, and what looks at a key.
    "SELECT 3; HSET {t}h f v; ZADD {t}z 1.5 m; XADD {t}x 1-1 f v; TYPE {t}h; OBJECT ENCODING {t}z; XRANGE {t}x - +; SORT {t}l; RENAME {t}h {t}i; EXISTS {t}i; SELECT 0; EXISTS {t}h {t}i {t}z {t}x",
    "SELECT 3; PUBLISH {t}c m; SPUBLISH {t}c m; PUBSUB NUMPAT; ROLE; WAIT 0 1",
    "SELECT 3; SET {t}a 1; DEBUG OBJECT {t}b; SELECT 0; DEBUG OBJECT {t}a",
];

/// A reply as it is compared: what greets has the number of its connection.
fn shown(words: &[&str], raw: &[u8]) -> String {
    let raw = if words[0] == "HELLO" { &raw[..1] } else { raw };
    format!("{words:?} {}", raw.escape_ascii())
}

fn say(clients: &mut [Client; 2], talk: &str) -> Vec<String> {
    let mut replies = Vec::new();
    for line in talk.split("; ") {
        let (client, words) = match line.strip_prefix('|') {
            Some(words) => (1, words),
            None => (0, line),
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        let raw = clients[client].command_raw(&words).raw;
        replies.push(shown(&words, &raw));
    }
    replies
}

/// What one client says, all at once.
fn say_at_once(client: &mut Client, talk: &str) -> Vec<String> {
    let lines: Vec<Vec<&str>> = talk.split("; ").map(|line| line.split_whitespace().collect()).collect();
    let requests: Vec<u8> = lines.iter().flat_map(|words| encode(words)).collect();
    let replies = client.pipeline(&requests, lines.len());
    lines.iter().zip(replies).map(|(words, reply)| shown(words, &reply.raw)).collect()
}

fn hello(clients: &mut [Client; 2], hello: &str) {
    for client in clients {
        client.line(hello);
    }
}

#[test]
fn replies_are_those_of_one_server() {
    let (Some(fleet), Some(reference)) = (Fleet::start(1), RedisServer::start()) else { return };
    for protocol in ["HELLO 2", "HELLO 3"] {
        for talk in TALKS {
            let mut here = [fleet.client(), fleet.client()];
            let mut there = [reference.client(), reference.client()];
            for at_once in [false, true] {
                if at_once && talk.contains('|') {
                    continue;
                }
                for clients in [&mut here, &mut there] {
                    clients[0].line("RESET");
                    clients[1].line("RESET");
                    clients[0].line("FLUSHALL");
                    hello(clients, protocol);
                }
                let (got, want) = if at_once {
                    (say_at_once(&mut here[0], talk), say_at_once(&mut there[0], talk))
                } else {
                    (say(&mut here, talk), say(&mut there, talk))
                };
                assert_eq!(got, want, "{protocol}, at once: {at_once}: {talk}");
            }
        }
    }
}

/// Keys in any places: each in its database, all of a database, none of another.
#[test]
fn three_nodes_have_sixteen_databases() {
    let Some(fleet) = Fleet::start(3) else { return };
    for protocol in ["HELLO 2", "HELLO 3"] {
        let mut client = fleet.client();
        client.line("FLUSHALL");
        client.line(protocol);
        for database in 0..16 {
            assert_eq!(client.line(&format!("SELECT {database}")).text(), "OK");
            let pairs: Vec<String> = (0..=database).map(|key| format!("key:{key} {database}")).collect();
            assert_eq!(client.line(&format!("MSET {}", pairs.join(" "))).text(), "OK");
        }
        for database in (0..16).rev() {
            client.line(&format!("SELECT {database}"));
            assert_eq!(client.line("DBSIZE"), Value::Integer(database + 1));
            let want: BTreeSet<String> = (0..=database).map(|key| format!("key:{key}")).collect();
            let names = |value: &Value| value.items().iter().map(Value::text).collect::<BTreeSet<String>>();
            assert_eq!(names(&client.line("KEYS *")), want);
            let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
            loop {
                let page = client.line(&format!("SCAN {cursor} COUNT 2"));
                found.extend(names(&page.items()[1]));
                cursor = page.items()[0].text();
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!(found, want);
            assert!(want.contains(&client.line("RANDOMKEY").text()));
            let all: Vec<String> = want.into_iter().collect();
            let values = client.line(&format!("MGET {}", all.join(" ")));
            assert!(values.items().iter().all(|value| value.text() == database.to_string()), "{values:?}");
        }
        client.line("SELECT 9");
        assert_eq!(client.line("FLUSHDB").text(), "OK");
        assert_eq!(client.line("DBSIZE"), Value::Integer(0));
        client.line("SELECT 8");
        assert_eq!(client.line("DBSIZE"), Value::Integer(9));
        assert_eq!(client.line("FLUSHALL").text(), "OK");
        for store in &fleet.stores {
            assert_eq!(store.client().line("INFO keyspace").text(), "# Keyspace\r\n");
        }
    }
}

/// `SELECT` among what is sent at once: what comes after it is not there before what came before it.
#[test]
fn a_pipeline_keeps_its_order_from_database_to_database() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let mut requests = Vec::new();
    let mut want = Vec::new();
    for round in 0..200 {
        let (from, to) = (round % 3, (round + 1) % 3);
        for (line, reply) in [
            (format!("SELECT {from}"), "+OK\r\n".to_owned()),
            (format!("SET ball {round}"), "+OK\r\n".to_owned()),
            (format!("MOVE ball {to}"), ":1\r\n".to_owned()),
            (format!("SELECT {to}"), "+OK\r\n".to_owned()),
            ("GETDEL ball".to_owned(), format!("${}\r\n{round}\r\n", round.to_string().len())),
        ] {
            requests.extend(encode(&line.split(' ').collect::<Vec<_>>()));
            want.push(reply);
        }
    }
    let count = want.len();
    let got: Vec<String> =
        client.pipeline(&requests, count).iter().map(|reply| reply.raw.escape_ascii().to_string()).collect();
    let want: Vec<String> = want.iter().map(|reply| reply.as_bytes().escape_ascii().to_string()).collect();
    assert_eq!(got, want);
    // However the bytes are cut.
    let ends: Vec<usize> = (1..requests.len()).step_by(61).collect();
    client.send_split(&requests, ends);
    let got: Vec<String> = (0..count).map(|_| client.receive().raw.escape_ascii().to_string()).collect();
    assert_eq!(got, want);
}

/// A request longer than what is held, and a reply as long.
#[test]
fn long_values_pass_through_in_their_database() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    let long = "x".repeat(4 << 20);
    client.line("SELECT 6");
    assert_eq!(client.command(&["SET", "long", &long]).text(), "OK");
    assert_eq!(client.line("GET long").text(), long);
    client.line("SELECT 0");
    assert_eq!(client.line("GET long"), Value::Null);
    assert_eq!(fleet.stores[0].client().line("DBSIZE"), Value::Integer(0));
}

#[test]
fn only_its_own_database_ends_a_wait() {
    let Some(fleet) = Fleet::start(1) else { return };
    let (mut waiting, mut pushing) = (fleet.client(), fleet.client());
    waiting.line("SELECT 3");
    waiting.send(&encode(&["BLPOP", "queue", "0"]));
    eventually("the client waits", PATIENCE, || pushing.line("INFO clients").text().contains("blocked_clients:1"));
    assert_eq!(pushing.line("RPUSH queue wrong"), Value::Integer(1));
    pushing.line("SELECT 3");
    assert_eq!(pushing.line("RPUSH queue right"), Value::Integer(1));
    assert_eq!(waiting.receive().value.items()[1].text(), "right");
    // The connection is given back, and stays what it is.
    assert_eq!(waiting.line("SET a 1").text(), "OK");
    pushing.line("SELECT 0");
    assert_eq!(pushing.line("KEYS *").items().len(), 1);
}

#[test]
fn a_select_that_would_reach_further_is_refused_by_name() {
    let Some(fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    client.line("MULTI");
    let refusal = "ERR 'SELECT' of another database is refused by quoit inside a transaction: all its commands run in one \
                   database; SELECT before MULTI";
    assert_eq!(client.line("SELECT 4").text(), refusal);
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    client.line("WATCH a");
    let refusal = "ERR 'SELECT' of another database is refused by quoit while keys are watched: they are in this one; EXEC, \
                   DISCARD or UNWATCH first";
    assert_eq!(client.line("SELECT 4").text(), refusal);
    assert_eq!(client.line("SELECT 0").text(), "OK");
    client.line("UNWATCH");
    assert_eq!(client.line("SELECT 4").text(), "OK");
    let refusal = client.line("SWAPDB 0 1").text();
    assert!(refusal.starts_with("ERR 'SWAPDB' is refused by quoit: "), "{refusal}");
}

/// What others are shown of a client.
#[test]
fn the_database_is_shown() {
    let Some(fleet) = Fleet::start(1) else { return };
    let (mut client, mut other, mut monitor) = (fleet.client(), fleet.client(), fleet.client());
    client.line("SELECT 11");
    client.line("CLIENT SETNAME shown");
    assert!(client.line("CLIENT INFO").text().contains(" db=11 "));
    let list = other.line("CLIENT LIST").text();
    assert!(list.lines().any(|line| line.contains("name=shown") && line.contains(" db=11 ")), "{list}");
    monitor.line("MONITOR");
    let mut line = || monitor.receive().value.text();
    client.line("GET a");
    assert!(line().contains(" [11 "));
    client.line("SELECT 12");
    let shown = line();
    assert!(shown.contains(" [12 ") && shown.ends_with("\"SELECT\" \"12\""), "{shown}");
    other.line("GET a");
    assert!(line().contains(" [0 "));
}

/// Notifications name the database, and reach who listens, whatever database that client is in.
#[test]
fn notifications_name_the_database() {
    let Some(fleet) = Fleet::start(2) else { return };
    let (mut listening, mut client) = (fleet.client(), fleet.client());
    listening.line("SELECT 5");
    assert_eq!(listening.line("CONFIG SET notify-keyspace-events KEA").text(), "OK");
    listening.line("PSUBSCRIBE __key*@3__:*");
    for number in 0..20 {
        client.line("SELECT 2");
        client.line(&format!("SET key:{number} 1"));
        client.line("SELECT 3");
        client.line(&format!("SET key:{number} 1"));
        let mut channels = [(); 2].map(|()| listening.receive().value.items()[2].text());
        channels.sort();
        assert_eq!(channels, ["__keyevent@3__:set".to_owned(), format!("__keyspace@3__:key:{number}")]);
    }
}

/// A client that holds copies hears of changes in its database.
#[test]
fn changes_are_told_in_any_database() {
    let Some(fleet) = Fleet::start(2) else { return };
    let (mut holding, mut writing) = (fleet.client(), fleet.client());
    holding.line("HELLO 3");
    holding.line("SELECT 3");
    writing.line("SELECT 3");
    writing.line("SET a 1");
    assert_eq!(holding.line("CLIENT TRACKING ON").text(), "OK");
    for round in 0..10 {
        holding.line("GET a");
        writing.line(&format!("SET a {round}"));
        let push = holding.receive().value;
        assert_eq!(push.items()[0].text(), "invalidate");
        assert_eq!(push.items()[1].items()[0].text(), "a");
    }
}

/// Clients go to and fro between databases 3 and 7 and write while stores are killed and come back: whatever is found is in the
/// database that its name says.
#[test]
fn nothing_goes_astray_when_a_store_is_killed() {
    let stores: Option<Vec<RedisServer>> = (0..2).map(|_| RedisServer::start_with(Program::Redis, DURABLE)).collect();
    let Some(stores) = stores else { return };
    let mut fleet = Fleet::in_front_of(stores, |config| {
        config.tables("[pool.breaker]\nfailures = 5\nbackoff_min_ms = 10\nbackoff_max_ms = 50\nramp_ms = 1")
    });
    let address = fleet.address();
    let (ended, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in 0..6 {
            let (ended, written) = (&ended, &written);
            scope.spawn(move || {
                let mut number = 0;
                let mut client = greeted(address, writer);
                while !ended.load(Ordering::Relaxed) {
                    number += 1;
                    match write_something(&mut client, writer, number) {
                        Ok(true) => drop(written.fetch_add(1, Ordering::Relaxed)),
                        Ok(false) => {}
                        Err(_) => client = greeted(address, writer),
                    }
                }
            });
        }
        for round in 0..6 {
            let before = written.load(Ordering::Relaxed);
            eventually("writes go through", PATIENCE, || written.load(Ordering::Relaxed) > before + 300);
            fleet.stores[round % 2].kill9();
            fleet.stores[round % 2].restart();
        }
        ended.store(true, Ordering::Relaxed);
    });
    for store in &fleet.stores {
        let mut client = store.client();
        let text = client.line("INFO keyspace").text();
        let databases: Vec<&str> = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
        assert_eq!(databases, ["db3", "db7"], "{text}");
        for database in ["3", "7"] {
            client.line(&format!("SELECT {database}"));
            for key in client.line("KEYS *").items() {
                assert!(key.text().starts_with(database), "{key:?} in database {database}");
            }
        }
    }
}

fn greeted(address: SocketAddr, writer: usize) -> Client {
    let mut client = Client::connect(address);
    client.line(if writer.is_multiple_of(2) { "HELLO 2" } else { "HELLO 3" });
    client
}

/// One of several ways to write; whether it was taken. An error that is none of a store that is away fails the test.
fn write_something(client: &mut Client, writer: usize, number: usize) -> io::Result<bool> {
    let database = if number.is_multiple_of(3) { "3" } else { "7" };
    let tag = format!("{database}{{w{}}}", number % 7);
    let (key, list) = (format!("{tag}:{}", number % 100), format!("{tag}:list:{writer}"));
    let script = "return redis.call('APPEND',KEYS[1],ARGV[1])";
    let long = "x".repeat(if number.is_multiple_of(50) { 2 << 20 } else { 10 });
    let said: &[&[&str]] = match number % 5 {
        0 => &[&["SET", &key, &long]],
        1 => &[&["EVAL", script, "1", &key, "x"]],
        2 => &[&["MULTI"], &["SET", &key, "2"], &["APPEND", &key, "3"], &["EXEC"]],
        3 => &[&["WATCH", &key], &["MULTI"], &["SET", &key, "4"], &["EXEC"]],
        _ => &[&["RPUSH", &list, "a", "b"], &["BLPOP", &list, "1"]],
    };
    let mut is_taken = true;
    let select: &[&str] = &["SELECT", database];
    // At once, so that what comes behind is here when the database changes.
    client.try_send(&[select].iter().chain(said).flat_map(|words| encode(words)).collect::<Vec<_>>())?;
    for words in [select].iter().chain(said) {
        let reply = client.try_receive()?.value;
        if reply.is_error() {
            let text = reply.text();
            let begins = ["ERR node", "EXECABORT", "LOADING"];
            let is_known = begins.iter().any(|word| text.starts_with(word));
            assert!(is_known && words[0] != "SELECT", "{words:?}: {text}");
            is_taken = false;
        }
    }
    if !is_taken {
        client.try_command(&["DISCARD"])?;
        client.try_command(&["UNWATCH"])?;
    }
    Ok(is_taken)
}

/// A pool with fewer databases behind a route, and a file that takes databases away and gives them back.
#[test]
fn routes_and_reloads_may_take_databases_away() {
    let (Some(main), Some(side)) = (RedisServer::start(), RedisServer::start()) else { return };
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let config = |databases: u16| {
        Fleet::config_of(std::slice::from_ref(&main))
            .listener("[[listener.route]]\nprefix = \"s:\"\npool = \"side\"")
            .pool(&format!("databases = {databases}"))
    };
    let more = format!(
        "[[pool]]\nname = \"side\"\ndatabases = 2\n[[pool.node]]\nname = \"side\"\naddress = \"{}\"\n",
        side.address()
    );
    let quoit = Quoit::start_laid_out(&config(16), |directory: &Path, text| {
        fs::write(directory.join("quoit.toml"), format!("{text}{more}")).expect("the file can be written");
    });
    let mut client = quoit.client();
    client.line("SELECT 1");
    for key in ["a", "s:a"] {
        assert_eq!(client.line(&format!("SET {key} 1")).text(), "OK");
    }
    assert_eq!(client.line("DBSIZE"), Value::Integer(2));
    let has_two = |verb: &str| {
        format!("ERR '{verb}' is refused by quoit: pool side has databases 0 to 1; SELECT another database")
    };
    assert_eq!(client.line("MOVE s:a 5").text(), has_two("MOVE"));
    assert_eq!(client.line("COPY s:a s:b DB 5").text(), has_two("COPY"));
    client.line("SELECT 5");
    assert_eq!(client.line("SET a 5").text(), "OK");
    for line in ["GET s:a", "MGET a s:a", "BLPOP s:l 0", "WATCH s:a", "EVAL return(1) 1 s:a", "RENAME s:a s:b"] {
        assert_eq!(client.line(line).text(), has_two(line.split(' ').next().unwrap_or_default()), "{line}");
    }
    client.line("MULTI");
    assert_eq!(client.line("GET s:a").text(), has_two("GET"));
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    assert_eq!(client.line("KEYS *").items().len(), 1);
    // While others go on in a database that stays.
    let mut steady = quoit.client();
    steady.line("SELECT 3");
    steady.line("WATCH w");
    for (databases, is_there) in [(4, false), (16, true)] {
        quoit.write_config(&format!("{}{more}", quoit.text_of(&config(databases))));
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
        let got = client.line("GET a").text();
        let gone = "ERR 'GET' is refused by quoit: pool main has databases 0 to 3; SELECT another database";
        assert_eq!(got, if is_there { "5" } else { gone });
        for line in ["DBSIZE", "FLUSHDB", "EVAL return(1) 0"] {
            assert_eq!(client.line(line).is_error(), !is_there, "{line}");
        }
        client.line("SET a 5");
        assert_eq!(client.line("SELECT 15").is_error(), !is_there);
        client.line("SELECT 5");
    }
    steady.line("MULTI");
    steady.line("SET w 1");
    assert_eq!(steady.line("EXEC").items().len(), 1, "its connection has outlived the reloads");
    assert_eq!(steady.line("DBSIZE"), Value::Integer(1));
    assert_eq!(client.line("FLUSHALL").text(), "OK");
    assert_eq!(side.client().line("INFO keyspace").text(), "# Keyspace\r\n");
}

/// Where keys have several copies there is one database, as on a server with `databases 1`.
#[test]
fn replicated_pools_have_one_database() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let Some(reference) = RedisServer::start_with(Program::Redis, &["--databases", "1"]) else { return };
    for protocol in ["HELLO 2", "HELLO 3"] {
        let (mut here, mut there) = (cluster.client(0), reference.client());
        here.line("FLUSHALL");
        there.line("FLUSHALL");
        here.line(protocol);
        there.line(protocol);
        for line in [
            "SELECT 0",
            "SELECT 1",
            "SELECT x",
            "SET {t}a 1",
            "MOVE {t}a 0",
            "MOVE {t}a 1",
            "MOVE {t}a x",
            "COPY {t}a {t}b DB 1",
            "COPY {t}a {t}b DB x",
            "COPY {t}a {t}b DB 0",
            "COPY {t}a {t}c DB 0 REPLACE",
            "COPY {t}a {t}a DB 0",
            "COPY {t}a {t}b DB",
            "MGET {t}a {t}b {t}c",
            "CONFIG GET databases",
            "FLUSHDB",
            "DBSIZE",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let (got, want) = (here.command_raw(&words), there.command_raw(&words));
            assert_eq!(got.raw.escape_ascii().to_string(), want.raw.escape_ascii().to_string(), "{protocol}: {line}");
        }
    }
}

/// Stores that have fewer databases than the file says.
#[test]
fn a_store_without_the_database_says_so_and_database_0_goes_on() {
    let Some(store) = RedisServer::start_with(Program::Redis, &["--databases", "2"]) else { return };
    let fleet = Fleet::in_front_of(vec![store], |config| config);
    if fleet.quoit().is_none() {
        return;
    }
    let (mut client, mut other) = (fleet.client(), fleet.client());
    assert_eq!(client.line("SELECT 5").text(), "OK");
    let reply = client.line("SET a 1").text();
    assert!(reply.contains("SELECT answered: ERR DB index is out of range; the store has fewer databases"), "{reply}");
    assert_eq!(other.line("SET a 0").text(), "OK");
    client.line("SELECT 1");
    assert_eq!(client.line("SET a 1").text(), "OK");
    assert_eq!(other.line("GET a").text(), "0");
}

/// Connections for a database are there while it is used, and database 0 has none that it did not have.
#[test]
fn connections_come_with_a_database_and_go_when_it_is_left() {
    let Some(mut fleet) = Fleet::start_with(1, |config| config.workers(1)) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let databases = |fleet: &Fleet| {
        let clients = fleet.stores[0].clients();
        let field = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("db=").map(str::to_owned));
        let mut found: Vec<String> = clients.iter().filter_map(|line| field(line)).collect();
        found.sort();
        found
    };
    let mut client = fleet.client();
    client.line("SET a 0");
    assert_eq!(databases(&fleet), ["0"]);
    client.line("SELECT 3");
    assert_eq!(databases(&fleet), ["0"], "nothing has been asked there yet");
    for _ in 0..100 {
        client.line("SET a 3");
    }
    assert_eq!(databases(&fleet), ["0", "3"]);
    client.line("SELECT 0");
    eventually("nobody is in database 3", 3 * PATIENCE, || databases(&fleet) == ["0"]);
    client.line("SELECT 3");
    assert_eq!(client.line("GET a").text(), "3");
    // A drain ends them all.
    assert!(fleet.quoit_mut().is_some_and(|quoit| quoit.terminate().success()));
    eventually("no connection is left", PATIENCE, || databases(&fleet).is_empty());
}

#[test]
fn redis_py_and_redis_cli_name_a_database() {
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    if let Some(python) = python_with_redis() {
        let script = "import redis, sys\n\
            for protocol in (2, 3):\n\
            \x20   client = redis.Redis(port=int(sys.argv[1]), db=2, protocol=protocol, decode_responses=True)\n\
            \x20   client.flushdb()\n\
            \x20   other = redis.Redis(port=int(sys.argv[1]), decode_responses=True)\n\
            \x20   assert client.mset({f'py:{n}': n for n in range(100)})\n\
            \x20   pipe = client.pipeline(transaction=True)\n\
            \x20   pipe.incr('py:{t}').expire('py:{t}', 100)\n\
            \x20   assert pipe.execute() == [1, True]\n\
            \x20   assert client.dbsize() == 101 and len(list(client.scan_iter('py:*'))) == 101\n\
            \x20   assert other.dbsize() == 0 and other.get('py:1') is None\n\
            \x20   assert client.move('py:1', 0) and other.get('py:1') == '1'\n\
            \x20   other.delete('py:1')\n\
            \x20   client.connection_pool.disconnect()\n\
            \x20   assert client.get('py:2') == '2'\n\
            \x20   assert client.copy('py:2', 'py:2', destination_db=4)\n\
            \x20   other.execute_command('FLUSHALL')\n\
            print('ok')";
        let output = Command::new(python).args(["-c", script, &port]).output().expect("it ran a moment ago");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let cli = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Ok(set) = cli(&["-n", "2", "SET", "cli:a", "2"]) else {
        eprintln!("skip: redis-cli is not installed");
        return;
    };
    assert_eq!(set, "OK\n");
    assert_eq!(cli(&["-n", "2", "GET", "cli:a"]).expect("it runs"), "2\n");
    assert_eq!(cli(&["-n", "0", "GET", "cli:a"]).expect("it runs"), "\n");
    assert_eq!(cli(&["-3", "-n", "2", "DBSIZE"]).expect("it runs").trim_start_matches("(integer) "), "1\n");
}
