//! Verbs that wait: the bytes are those of a server, a wait ends with its client, and what is taken reaches one client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Fleet, PATIENCE, Program, Quoit, QuoitConfig, Reach, RedisServer, Signal, Value, encode,
    eventually, is_refused, is_unknown, setting,
};

/// `who words` is a request and its reply; with `&` behind it, its reply is taken later, by `who <`. `{who}` is that
/// client's number.
const SCRIPT: &[&str] = &[
    // What is there is taken at once, from the first key that has it.
    "b RPUSH {k}1 one two three four",
    "a BLPOP {k}0 {k}1 {k}2 0",
    "a BRPOP {k}1 1",
    "a BLMOVE {k}1 {k}2 LEFT RIGHT 0",
    "a BRPOPLPUSH {k}1 {k}2 0",
    "a LRANGE {k}2 0 -1",
    "a BLMPOP 0 2 {k}0 {k}2 LEFT COUNT 5",
    "b ZADD {k}z 1 one 2.5 two 3 three 4 four",
    "a BZPOPMIN {k}0 {k}z 0",
    "a BZPOPMAX {k}z 0",
    "a BZMPOP 0 1 {k}z MAX COUNT 2",
    "a EXISTS {k}z {k}1",
    "b DEL {k}z {k}2",
    // What is not there is waited for.
    "a BLPOP {k}0 {k}1 0 &",
    "b RPUSH {k}1 late later",
    "a <",
    "b LPOP {k}1",
    "a BRPOP {k}0 0 &",
    "b RPUSH {k}0 x",
    "a <",
    "a BLMOVE {k}0 {k}1 RIGHT LEFT 0 &",
    "b LPUSH {k}0 moved",
    "a <",
    "b LRANGE {k}1 0 -1",
    "a BRPOPLPUSH {k}0 {k}1 0 &",
    "b LPUSH {k}0 again",
    "a <",
    "b LRANGE {k}1 0 -1",
    "b DEL {k}1",
    "a BLMPOP 0 2 {k}0 {k}1 RIGHT COUNT 2 &",
    "b RPUSH {k}1 a b c",
    "a <",
    "b DEL {k}1",
    "a BZPOPMIN {k}z 0 &",
    "b ZADD {k}z 1.25 member",
    "a <",
    "a BZMPOP 0 1 {k}z MIN &",
    "b ZADD {k}z 7 member",
    "a <",
    // One waits for what another moves.
    "a BLPOP {k}9 0 &",
    "c BLMOVE {k}8 {k}9 LEFT LEFT 0 &",
    "b RPUSH {k}8 relayed",
    "c <",
    "a <",
    // A key that comes to be in another way.
    "a BLPOP {k}5 0 &",
    "b RPUSH {k}6 renamed",
    "b RENAME {k}6 {k}5",
    "a <",
    // A key of another type is none while it is waited for, and a fault before.
    "a BLPOP {k}s 0 &",
    "b SET {k}s string",
    "b DEL {k}s",
    "b RPUSH {k}s element",
    "a <",
    "b SET {k}s string",
    "a BLPOP {k}s 0",
    "a BLPOP {k}0 {k}s 0",
    "a BZPOPMIN {k}s 0",
    "a BLMOVE {k}s {k}0 LEFT LEFT 0",
    "a BLMPOP 0 1 {k}s LEFT",
    "a XREAD BLOCK 0 STREAMS {k}s 0",
    "b RPUSH {k}7 kept",
    "a BLMOVE {k}7 {k}s LEFT LEFT 0",
    "b LRANGE {k}7 0 -1",
    // The time is up.
    "a BLPOP {k}0 0.01",
    "a BRPOP {k}0 {k}1 0.01",
    "a BLMOVE {k}0 {k}1 LEFT LEFT 0.01",
    "a BRPOPLPUSH {k}0 {k}1 0.01",
    "a BLMPOP 0.01 1 {k}0 LEFT",
    "a BZPOPMIN {k}0 0.01",
    "a BZPOPMAX {k}0 0.01",
    "a BZMPOP 0.01 1 {k}0 MIN",
    "a XREAD BLOCK 10 STREAMS {k}0 $",
    // What is no request.
    "a BLPOP {k}0",
    "a BLPOP {k}0 soon",
    "a BLPOP {k}0 -1",
    "a BLPOP {k}0 -inf",
    "a BLPOP {k}0 nan",
    "a BLMOVE {k}0 {k}1 LEFT UP 0",
    "a BLMOVE {k}0 {k}1 LEFT LEFT x",
    "a BLMOVE {k}0 {k}1 UP UP x",
    "a BRPOPLPUSH {k}0 {k}1 x",
    "a BLMPOP x 1 {k}0 LEFT",
    "a BLMPOP 0 0 {k}0 LEFT",
    "a BLMPOP 0 9 {k}0 LEFT",
    "a BLMPOP 0 1 {k}0 UP",
    "a BLMPOP 0 1 {k}0 LEFT COUNT 0",
    "a BLMPOP 0 1 {k}0 LEFT COUNT",
    "a BZMPOP -1 1 {k}0 MIN",
    "a BZMPOP 0 1 {k}0 LEFT",
    "a XREAD BLOCK x STREAMS {k}0 0",
    "a XREAD BLOCK -1 STREAMS {k}0 0",
    "a XREAD BLOCK 0 STREAMS {k}0 {k}1 0",
    "a XREAD BLOCK 0 STREAMS {k}0 x",
    "a XREADGROUP GROUP g c BLOCK 0 STREAMS {k}0 >",
    // Streams.
    "a XREAD BLOCK 0 STREAMS {k}x 0 &",
    "b XADD {k}x 1-1 field value",
    "a <",
    "a XREAD BLOCK 0 COUNT 1 STREAMS {k}x {k}y $ $ &",
    "c XREAD BLOCK 0 STREAMS {k}x $ &",
    "b XADD {k}x 1-2 field other",
    "a <",
    "c <",
    "a XREAD BLOCK 0 STREAMS {k}x 0",
    "b XDEL {k}x 1-2",
    "a XREAD BLOCK 0 STREAMS {k}x $ &",
    "b XADD {k}x 1-3 field third",
    "a <",
    "b XGROUP CREATE {k}x g $",
    "a XREADGROUP GROUP g one BLOCK 0 STREAMS {k}x > &",
    "b XADD {k}x 2-1 field fourth",
    "a <",
    "a XREADGROUP GROUP g one BLOCK 0 STREAMS {k}x 0",
    "a XREADGROUP GROUP g one BLOCK 10 STREAMS {k}x >",
    // Others end the wait.
    "a BLPOP {k}0 0 &",
    "b CLIENT UNBLOCK {a}",
    "a <",
    "a BLMOVE {k}0 {k}1 LEFT LEFT 0 &",
    "b CLIENT UNBLOCK {a} TIMEOUT",
    "a <",
    "a XREAD BLOCK 0 STREAMS {k}0 0 &",
    "b CLIENT UNBLOCK {a} error",
    "a <",
    "b CLIENT UNBLOCK {a}",
    "b CLIENT UNBLOCK {b}",
    "b CLIENT UNBLOCK 1234567",
    "b CLIENT UNBLOCK -1",
    "b CLIENT UNBLOCK x",
    "b CLIENT UNBLOCK 1 NOW",
    "b CLIENT UNBLOCK",
    // And the connection has remembered nothing.
    "a PING",
];

/// Nothing waits within a transaction.
const TRANSACTION: &[&str] = &[
    "a MULTI",
    "a BLPOP {k}0 0",
    "a RPUSH {k}t one two three",
    "a BRPOP {k}0 {k}t 0",
    "a BLMOVE {k}t {k}u LEFT LEFT 0",
    "a XREAD BLOCK 0 STREAMS {k}0 0",
    "a EXEC",
];

/// How many clients wait, as `INFO` counts them.
fn blocked(client: &mut Client) -> u64 {
    let text = client.line("INFO clients").text();
    let line = text.lines().find_map(|line| line.strip_prefix("blocked_clients:")).expect("a line on blocked clients");
    line.trim().parse().expect("a number")
}

/// One of the two that must not be told apart.
struct Side {
    clients: BTreeMap<char, Client>,
    numbers: BTreeMap<char, i64>,
    control: Client,
    waiting: u64,
}

impl Side {
    fn new(address: SocketAddr, resp3: bool) -> Self {
        let mut side =
            Self { clients: BTreeMap::new(), numbers: BTreeMap::new(), control: Client::connect(address), waiting: 0 };
        for name in ['a', 'b', 'c'] {
            let mut client = Client::connect(address);
            if resp3 {
                assert!(!client.line("HELLO 3").is_error());
            }
            let Value::Integer(number) = client.line("CLIENT ID") else { panic!("a client has a number") };
            side.numbers.insert(name, number);
            side.clients.insert(name, client);
        }
        side
    }

    /// What a line of the script led to.
    fn run(&mut self, line: &str) -> Vec<u8> {
        let (name, words) = line.split_once(' ').expect("a client and words");
        let name = name.chars().next().expect("a client");
        let client = self.clients.get_mut(&name).expect("a known client");
        if words == "<" {
            self.waiting -= 1;
            return client.receive().raw;
        }
        let mut words = words.to_owned();
        for (name, number) in &self.numbers {
            words = words.replace(&format!("{{{name}}}"), &number.to_string());
        }
        let Some(words) = words.strip_suffix(" &") else {
            return client.command_raw(&words.split(' ').collect::<Vec<_>>()).raw;
        };
        client.send(&encode(&words.split(' ').collect::<Vec<_>>()));
        self.waiting += 1;
        let (control, waiting) = (&mut self.control, self.waiting);
        eventually("the client waits", PATIENCE, || blocked(control) == waiting);
        Vec::new()
    }
}

/// Whether all bytes are compared, or one error is like another: what quoit itself refuses it words as Redis 7.0 does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Bytes,
    BytesOrErrors,
}

fn check_script(subject: SocketAddr, reference: &RedisServer, script: &[&[&str]], compare: Compare) {
    for resp3 in [false, true] {
        let (mut subject, mut reference) = (Side::new(subject, resp3), Side::new(reference.address(), resp3));
        // Redis 6.2 has no verbs that take from several keys, and would not wait in one.
        let lacks_several = reference.control.line("LMPOP 1 k LEFT").is_error();
        let mut skips = false;
        for line in script.iter().copied().flatten() {
            if skips || lacks_several && line.contains("MPOP") {
                // One that waits is left out with all up to its reply.
                skips = line.ends_with('&') || skips && !line.ends_with('<');
                continue;
            }
            let (got, want) = (subject.run(line), reference.run(line));
            if compare == Compare::BytesOrErrors && got.starts_with(b"-") && want.starts_with(b"-") {
                continue;
            }
            assert_eq!(got.escape_ascii().to_string(), want.escape_ascii().to_string(), "{line} (RESP3: {resp3})");
        }
        assert!(!subject.control.line("FLUSHALL").is_error());
        assert!(!reference.control.line("FLUSHALL").is_error());
    }
}

#[test]
fn one_copy_answers_as_a_server_does() {
    let (Some(fleet), Some(reference)) = (Fleet::start(3), RedisServer::start()) else { return };
    check_script(fleet.address(), &reference, &[SCRIPT, TRANSACTION], Compare::Bytes);
}

/// Later servers take more words.
#[test]
fn an_unblock_takes_as_many_words_as_that_of_redis_7() {
    let (Some(fleet), Some(reference)) = (Fleet::start(1), RedisServer::start()) else { return };
    for request in [["CLIENT", "UNBLOCK", "1", "TIMEOUT", "NOW"], ["client", "unblock", "1", "x", "y"]] {
        assert_eq!(fleet.client().command_raw(&request), reference.client().command_raw(&request));
    }
}

#[test]
fn several_copies_answer_as_a_server_does() {
    let (Some(cluster), Some(reference)) = (Cluster::start(3, 1, Reach::Direct), RedisServer::start()) else { return };
    check_script(cluster.addresses()[0], &reference, &[SCRIPT], Compare::Bytes);
}

/// Stores run none of these in the scripts that transactions on copies are.
#[test]
fn a_transaction_on_several_copies_takes_no_verb_that_may_wait() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    assert_eq!(client.line("MULTI").text(), "OK");
    let reply = client.line("BLPOP queue 0").text();
    assert!(reply.contains("'BLPOP' is refused by quoit inside a transaction"), "{reply}");
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
}

#[test]
fn other_servers_are_answered_as_they_answer() {
    for program in [Program::Named("QUOIT_REDIS_62"), Program::Named("QUOIT_REDIS_8"), Program::Named("QUOIT_VALKEY")] {
        let start = || RedisServer::start_with(program, &[]);
        let (Some(reference), Some(one), Some(several)) =
            (start(), (0..2).map(|_| start()).collect(), (0..3).map(|_| start()).collect())
        else {
            continue;
        };
        let fleet = Fleet::in_front_of(one, |config| config);
        check_script(fleet.address(), &reference, &[SCRIPT, TRANSACTION], Compare::BytesOrErrors);
        let cluster = Cluster::in_front_of(several, 1, Reach::Direct, |_, config| config);
        check_script(cluster.addresses()[0], &reference, &[SCRIPT], Compare::BytesOrErrors);
    }
}

#[test]
fn keys_of_several_nodes_are_refused_where_a_store_would_wait() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    let reply = client.command(&["BLPOP", &keys[0][0], &keys[1][0], "0"]).text();
    assert!(reply.starts_with("CROSSSLOT"), "{reply}");
}

/// Celery's transport waits for several keys that share nothing in their names.
#[test]
fn several_copies_wait_for_keys_of_any_nodes() {
    let Some(cluster) = Cluster::start(5, 1, Reach::Direct) else { return };
    let (mut waiting, mut feeder) = (cluster.client(0), cluster.client(0));
    waiting.send(&encode(&["BRPOP", "celery", "celery3", "celery6", "celery9", "0"]));
    eventually("the client waits", PATIENCE, || blocked(&mut feeder) == 1);
    feeder.line("LPUSH celery6 task");
    assert_eq!(
        waiting.receive().value,
        Value::Array(vec![Value::Bulk(b"celery6".to_vec()), Value::Bulk(b"task".to_vec())])
    );
}

#[test]
fn who_has_waited_for_longest_is_served_first() {
    let Some(fleet) = Fleet::start(1) else { return };
    check_order(fleet.address(), &fleet.stores[0]);
}

/// One worker, for the order holds within one.
#[test]
fn who_has_waited_for_longest_is_served_first_with_several_copies() {
    let Some(cluster) = Cluster::start_with(3, 1, Reach::Direct, |_, config| config.workers(1)) else { return };
    let mut control = cluster.client(0);
    let mut waiting: Vec<Client> = Vec::new();
    for number in 1..=5 {
        let mut client = cluster.client(0);
        client.send(&encode(&["BLPOP", "queue", "0"]));
        eventually("the client waits", PATIENCE, || blocked(&mut control) == number);
        waiting.push(client);
    }
    // Who was counted first has joined first: the worker starts their tasks in that order.
    assert_eq!(control.line("RPUSH queue 0 1 2 3 4"), Value::Integer(5));
    for (number, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.receive().value.items()[1].text(), number.to_string());
    }
}

fn check_order(address: SocketAddr, store: &RedisServer) {
    let mut direct = store.client();
    let mut waiting: Vec<Client> = Vec::new();
    for number in 1..=5 {
        let mut client = Client::connect(address);
        client.send(&encode(&["BLPOP", "queue", "0"]));
        eventually("the store has the request", PATIENCE, || blocked(&mut direct) == number);
        waiting.push(client);
    }
    assert_eq!(Client::connect(address).line("RPUSH queue 0 1 2 3 4"), Value::Integer(5));
    for (number, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.receive().value.items()[1].text(), number.to_string());
    }
}

#[test]
fn a_wait_ends_with_its_client() {
    let Some(fleet) = Fleet::start(1) else { return };
    let (mut direct, mut control) = (fleet.stores[0].client(), fleet.client());
    for pipelined in ["", "SET a b\r\n"] {
        // Half closed, closed, and closed with unread bytes.
        let (mut half, mut whole, mut dirty) = (fleet.client(), fleet.client(), fleet.client());
        for client in [&mut half, &mut whole, &mut dirty] {
            client.send(format!("PING\r\nBLPOP queue 0\r\n{pipelined}").as_bytes());
        }
        for client in [&mut half, &mut whole] {
            assert_eq!(client.receive().value.text(), "PONG");
        }
        eventually("the store has the requests", PATIENCE, || blocked(&mut direct) == 3);
        half.finish_writing();
        drop(whole);
        drop(dirty);
        eventually("the store is free", PATIENCE, || blocked(&mut direct) == 0);
        eventually("nobody waits", PATIENCE, || blocked(&mut control) == 0);
        assert!(half.try_receive().is_err(), "the connection ends without a word");
        assert_eq!(control.line("RPUSH queue kept"), Value::Integer(1));
        assert_eq!(control.line("LPOP queue").text(), "kept");
        assert_eq!(control.line("EXISTS a"), Value::Integer(0), "what came behind was not served");
    }
}

#[test]
fn a_wait_for_several_copies_ends_with_its_client() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let (mut control, mut client) = (cluster.client(0), cluster.client(0));
    client.send(&encode(&["BLPOP", "queue", "0"]));
    eventually("the client waits", PATIENCE, || blocked(&mut control) == 1);
    drop(client);
    eventually("nobody waits", PATIENCE, || blocked(&mut control) == 0);
    assert_eq!(control.line("RPUSH queue kept"), Value::Integer(1));
    assert_eq!(control.line("LPOP queue").text(), "kept");
}

#[test]
fn what_comes_behind_waits_and_what_came_before_is_done() {
    let Some(fleet) = Fleet::start(1) else { return };
    let (mut direct, mut client) = (fleet.stores[0].client(), fleet.client());
    // More than is read ahead; the rest stays in the socket.
    let big = "x".repeat(300_000);
    let requests = [
        encode(&["SET", "before", "1"]),
        encode(&["BLPOP", "queue", "0"]),
        encode(&["SET", "behind", &big]),
        encode(&["GET", "before"]),
        encode(&["STRLEN", "behind"]),
    ];
    client.send(&requests.concat());
    eventually("the store has the request", PATIENCE, || blocked(&mut direct) == 1);
    assert_eq!(direct.line("GET before").text(), "1");
    assert_eq!(direct.line("EXISTS behind"), Value::Integer(0));
    assert_eq!(direct.line("RPUSH queue element"), Value::Integer(1));
    assert_eq!(client.receive().value.text(), "OK");
    assert_eq!(client.receive().value.items()[1].text(), "element");
    assert_eq!(client.receive().value.text(), "OK");
    assert_eq!(client.receive().value.text(), "1");
    assert_eq!(client.receive().value, Value::Integer(300_000));
}

/// A reply that is passed on in pieces, and a connection that is used again.
#[test]
fn a_long_reply_passes_and_the_connection_is_used_again() {
    let Some(fleet) = Fleet::start(1) else { return };
    let (mut client, mut feeder) = (fleet.client(), fleet.client());
    let long = "y".repeat(5_000_000);
    for round in 0..3 {
        client.send(&encode(&["BRPOP", "queue", "0"]));
        feeder.command(&["LPUSH", "queue", &long]);
        assert_eq!(client.receive().value.items()[1].text().len(), long.len(), "round {round}");
    }
    let ours = fleet.stores[0].clients().into_iter().filter(|line| line.contains("cmd=brpop")).count();
    assert!(ours <= 1, "{ours} connections for one client that waits");
}

#[test]
fn a_drain_does_not_wait() {
    for replicas in [1, 3] {
        let Some(mut fleet) = Fleet::start_with(3, |config| config.replicas(replicas)) else { return };
        if fleet.quoit().is_none() {
            return;
        }
        let mut control = fleet.client();
        eventually("the pool begins", PATIENCE, || !control.line("GET begun").is_error());
        let mut client = fleet.client();
        client.send(&[encode(&["BLPOP", "queue", "0"]), encode(&["PING"])].concat());
        eventually("the client waits", PATIENCE, || blocked(&mut control) == 1);
        let quoit = fleet.quoit_mut().expect("seen above");
        quoit.signal(Signal::Terminate);
        assert_eq!(client.receive().value.text(), "UNBLOCKED client unblocked via CLIENT UNBLOCK");
        assert_eq!(client.receive().value.text(), "PONG");
        assert!(client.try_receive().is_err());
        assert!(quoit.wait().success(), "{}", quoit.log());
    }
}

#[test]
fn a_store_that_dies_ends_the_waits_at_it() {
    let Some(mut fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let (mut direct, mut client) = (fleet.stores[0].client(), fleet.client());
    client.send(&encode(&["BLPOP", "queue", "0"]));
    eventually("the store has the request", PATIENCE, || blocked(&mut direct) == 1);
    fleet.stores[0].kill9();
    let reply = client.receive().value;
    assert!(reply.is_error() && reply.text().contains("node-amber"), "{reply:?}");
    assert_eq!(client.line("PING").text(), "PONG", "the connection lives");
    fleet.stores[0].restart_empty();
    eventually("the node is back", PATIENCE, || client.line("RPUSH queue back") == Value::Integer(1));
    assert_eq!(client.line("BLPOP queue 0").items()[1].text(), "back");
}

fn ring_of(stores: &[RedisServer], members: &[usize]) -> QuoitConfig {
    QuoitConfig::new(members.iter().map(|&index| (Fleet::name(index), stores[index].address())))
}

#[test]
fn a_wait_goes_on_at_the_new_owner() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]));
    let (mut old, mut new) = (stores[0].client(), stores[1].client());
    let (mut endless, mut limited) = (quoit.client(), quoit.client());
    endless.send(&encode(&["BLPOP", "queue", "0"]));
    eventually("the old owner has the request", PATIENCE, || blocked(&mut old) == 1);
    limited.send(&encode(&["BLMOVE", "{queue}2", "{queue}3", "LEFT", "LEFT", "600"]));
    eventually("the old owner has both", PATIENCE, || blocked(&mut old) == 2);
    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[1])));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    eventually("both have moved", PATIENCE, || blocked(&mut old) == 0 && blocked(&mut new) == 2);
    let mut feeder = quoit.client();
    assert_eq!(feeder.line("RPUSH queue moved"), Value::Integer(1));
    assert_eq!(endless.receive().value.items()[1].text(), "moved");
    assert_eq!(feeder.line("RPUSH {queue}2 with-it"), Value::Integer(1));
    assert_eq!(limited.receive().value.text(), "with-it");
}

#[test]
fn a_client_may_take_no_more_connections_than_it_is_given() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1).pool("exclusive_connections_max = 2")) else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut direct = fleet.stores[0].client();
    let mut waiting: Vec<Client> = (0..2).map(|_| fleet.client()).collect();
    for client in &mut waiting {
        client.send(&encode(&["BLPOP", "queue", "0"]));
    }
    eventually("the store has both", PATIENCE, || blocked(&mut direct) == 2);
    let mut third = fleet.client();
    let reply = third.line("BLPOP queue 0");
    assert!(reply.is_error() && reply.text().contains("overloaded"), "{reply:?}");
    assert_eq!(third.line("RPUSH queue a b"), Value::Integer(2));
}

/// What consumers got, and what may be missing.
#[derive(Default)]
struct Ledger {
    taken: Mutex<BTreeMap<String, u32>>,
    pushed: Mutex<BTreeMap<String, bool>>,
    unknown_takes: AtomicU64,
    done: AtomicBool,
}

/// Takes until told to stop. An outcome that is unknown may have taken one element.
fn consume(address: SocketAddr, verb: &str, ledger: &Ledger) {
    let mut client = Client::connect(address);
    loop {
        let ends = ledger.done.load(Ordering::SeqCst);
        let reply = match verb {
            "BLMPOP" => client.line("BLMPOP 0.2 1 queue RIGHT COUNT 3"),
            "BLMOVE" => client.line("BRPOPLPUSH queue taken 0.2"),
            _ => client.line("BRPOP queue other 0.2"),
        };
        match &reply {
            Value::Null if ends => return,
            Value::Null => {}
            Value::Error(_) if is_unknown(&reply) => {
                ledger.unknown_takes.fetch_add(if verb == "BLMPOP" { 3 } else { 1 }, Ordering::SeqCst);
            }
            Value::Error(_) => assert!(is_refused(&reply), "{reply:?}"),
            _ => {
                let elements = match &reply {
                    Value::Bulk(_) => vec![reply.text()],
                    other => match &other.items()[1] {
                        Value::Array(items) => items.iter().map(Value::text).collect(),
                        one => vec![one.text()],
                    },
                };
                let mut taken = ledger.taken.lock().expect("no panic");
                for element in elements {
                    *taken.entry(element).or_default() += 1;
                }
            }
        }
    }
}

/// Pushes elements that are all different; what is unknown may be there or not.
fn produce(address: SocketAddr, name: usize, count: usize, ledger: &Ledger) {
    let mut client = Client::connect(address);
    for number in 0..count {
        let element = format!("{name}.{number}");
        loop {
            let reply = client.command(&["LPUSH", "queue", &element]);
            if let Value::Integer(_) = reply {
                ledger.pushed.lock().expect("no panic").insert(element, true);
            } else if is_unknown(&reply) {
                ledger.pushed.lock().expect("no panic").insert(element, false);
            } else {
                assert!(is_refused(&reply), "{reply:?}");
                continue;
            }
            break;
        }
    }
}

/// Consumers and producers on several proxies while one store after the other is killed and comes back.
#[test]
fn each_element_is_taken_once_though_stores_die() {
    let Some(mut cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let addresses = cluster.addresses();
    let count = usize::try_from(setting("QUOIT_BLOCKING_ELEMENTS").unwrap_or(150)).expect("fits");
    let ledger = Ledger::default();
    let produced = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (number, address) in addresses.iter().enumerate() {
            for verb in ["BRPOP", "BLMPOP", "BLMOVE"] {
                let ledger = &ledger;
                scope.spawn(move || consume(*address, verb, ledger));
            }
            let (ledger, produced) = (&ledger, &produced);
            scope.spawn(move || {
                produce(*address, number, count, ledger);
                produced.fetch_add(1, Ordering::SeqCst);
            });
        }
        let rounds = Instant::now();
        let mut store = 0;
        while produced.load(Ordering::SeqCst) < addresses.len() as u64 && rounds.elapsed() < PATIENCE * 4 {
            cluster.stores[store].kill9();
            cluster.stores[store].restart();
            eventually("the store is back in the pool", PATIENCE * 2, || {
                addresses.iter().all(|address| !Client::connect(*address).line("GET begun").is_error())
            });
            let before = ledger.pushed.lock().expect("no panic").len();
            eventually("work goes on", PATIENCE * 2, || {
                produced.load(Ordering::SeqCst) > 0 || ledger.pushed.lock().expect("no panic").len() > before + 5
            });
            store = (store + 1) % cluster.stores.len();
        }
        ledger.done.store(true, Ordering::SeqCst);
    });
    let taken = ledger.taken.into_inner().expect("no panic");
    let pushed = ledger.pushed.into_inner().expect("no panic");
    let twice: Vec<_> = taken.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "taken more than once: {twice:?}");
    let strangers: Vec<_> = taken.keys().filter(|element| !pushed.contains_key(*element)).collect();
    assert!(strangers.is_empty(), "taken and never pushed: {strangers:?}");
    let missing = pushed.iter().filter(|(element, sure)| **sure && !taken.contains_key(*element)).count() as u64;
    let unknown = ledger.unknown_takes.load(Ordering::SeqCst);
    assert!(missing <= unknown, "{missing} elements are missing, {unknown} may have been taken unsaid");
    eprintln!("{} pushed, {} taken, {missing} missing of at most {unknown}", pushed.len(), taken.len());
}

/// A sign of another proxy's write is found by looking; it takes no longer than the longest pause, by far.
#[test]
fn a_wait_hears_of_what_another_proxy_writes() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let (mut waiting, mut control, mut feeder) = (cluster.client(0), cluster.client(0), cluster.client(1));
    for (request, push) in [
        ("BLPOP queue 0", "RPUSH queue element"),
        ("BZPOPMAX scores 0", "ZADD scores 1 member"),
        ("XREAD BLOCK 0 STREAMS stream $", "XADD stream * field value"),
    ] {
        waiting.send(&encode(&request.split(' ').collect::<Vec<_>>()));
        eventually("the client waits", PATIENCE, || blocked(&mut control) == 1);
        assert!(!feeder.line(push).is_error());
        assert!(!waiting.receive().value.is_error());
        eventually("nobody waits", PATIENCE, || blocked(&mut control) == 0);
    }
}

/// Waits on one worker are told of writes on another.
#[test]
fn a_wait_hears_of_what_another_worker_writes() {
    let Some(cluster) = Cluster::start_with(3, 1, Reach::Direct, |_, config| config.workers(2)) else { return };
    let mut control = cluster.client(0);
    for round in 0..20 {
        // Clients go to the worker with the fewest: these are on both.
        let (mut waiting, mut feeder) = (cluster.client(0), cluster.client(0));
        waiting.send(&encode(&["BLPOP", "queue", "0"]));
        eventually("the client waits", PATIENCE, || blocked(&mut control) == 1);
        assert_eq!(feeder.line("RPUSH queue element"), Value::Integer(1), "round {round}");
        assert_eq!(waiting.receive().value.items()[1].text(), "element");
        eventually("nobody waits", PATIENCE, || blocked(&mut control) == 0);
    }
}

#[test]
fn a_wait_of_some_seconds_ends_in_time() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let mut client = cluster.client(0);
    let began = Instant::now();
    assert_eq!(client.line("BLPOP nothing 0.5"), Value::Null);
    assert!(began.elapsed() >= Duration::from_millis(500), "it ended early");
}

/// Who ends waits from outside takes no element away.
#[test]
fn no_element_is_lost_to_who_ends_waits() {
    for replicas in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.replicas(replicas)) else { return };
        let mut control = fleet.client();
        eventually("the pool begins", PATIENCE, || !control.line("GET begun").is_error());
        let taken = Mutex::new(BTreeMap::<String, u32>::new());
        let ends = AtomicBool::new(false);
        let numbers = Mutex::new(Vec::new());
        let unblocked = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = fleet.client();
                    let Value::Integer(number) = client.line("CLIENT ID") else { panic!("a client has a number") };
                    numbers.lock().expect("no panic").push(number);
                    loop {
                        match client.line("BLPOP queue 0") {
                            Value::Null => {}
                            reply if reply.is_error() => {
                                assert!(reply.text().starts_with("UNBLOCKED"), "{reply:?}");
                            }
                            reply => {
                                *taken.lock().expect("no panic").entry(reply.items()[1].text()).or_default() += 1;
                            }
                        }
                        if ends.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                });
            }
            for how in ["TIMEOUT", "ERROR"] {
                let (numbers, unblocked, ends) = (&numbers, &unblocked, &ends);
                let mut client = fleet.client();
                scope.spawn(move || {
                    while !ends.load(Ordering::SeqCst) || unblocked.load(Ordering::SeqCst) < 20 {
                        for number in numbers.lock().expect("no panic").clone() {
                            if client.line(&format!("CLIENT UNBLOCK {number} {how}")) == Value::Integer(1) {
                                unblocked.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
            for number in 0..150 {
                assert!(!control.line(&format!("RPUSH queue {number}")).is_error());
            }
            eventually("all were taken", PATIENCE, || taken.lock().expect("no panic").len() == 150);
            eventually("waits were ended", PATIENCE, || unblocked.load(Ordering::SeqCst) >= 20);
            ends.store(true, Ordering::SeqCst);
            // Those that wait once more.
            let mut last = fleet.client();
            eventually("nobody waits", PATIENCE, || {
                for number in numbers.lock().expect("no panic").clone() {
                    last.line(&format!("CLIENT UNBLOCK {number}"));
                }
                blocked(&mut last) == 0
            });
        });
        let taken = taken.into_inner().expect("no panic");
        assert!(taken.values().all(|count| *count == 1), "{replicas} copies: {taken:?}");
    }
}

/// A ring that grows takes some keys elsewhere and leaves others.
#[test]
fn every_wait_finds_its_key_when_the_ring_grows() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]));
    let (mut old, mut new) = (stores[0].client(), stores[1].client());
    let mut waiting: Vec<Client> = (0..20).map(|_| quoit.client()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&encode(&["BRPOP", &format!("queue:{number}"), "0"]));
    }
    eventually("the store has all", PATIENCE, || blocked(&mut old) == 20);
    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[0, 1])));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    eventually("some have moved", PATIENCE, || {
        let (left, moved) = (blocked(&mut old), blocked(&mut new));
        left > 0 && moved > 0 && left + moved == 20
    });
    let mut feeder = quoit.client();
    for (number, client) in waiting.iter_mut().enumerate() {
        // A wait that has to move may only now be on its way.
        assert!(!feeder.line(&format!("LPUSH queue:{number} {number}")).is_error());
        assert_eq!(client.receive().value.items()[1].text(), number.to_string());
    }
}

/// A group that goes ends the waits for it.
#[test]
fn a_group_that_goes_ends_the_wait_for_it() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let (mut waiting, mut control) = (cluster.client(0), cluster.client(0));
    for end in ["XGROUP DESTROY stream g", "DEL stream"] {
        assert!(!control.line("XGROUP CREATE stream g $ MKSTREAM").is_error());
        waiting.send(&encode(&"XREADGROUP GROUP g c BLOCK 0 STREAMS stream >".split(' ').collect::<Vec<_>>()));
        eventually("the client waits", PATIENCE, || blocked(&mut control) == 1);
        assert!(!control.line(end).is_error());
        let reply = waiting.receive().value;
        assert!(reply.text().starts_with("NOGROUP"), "{end}: {reply:?}");
    }
}
