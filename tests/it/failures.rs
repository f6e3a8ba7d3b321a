//! Stores that die, hang, break connections or move: their keys fail at once with an error that names the node, nobody
//! else notices, and everything heals by itself. The numbers F1 … F17 name the incident of another proxy that each test
//! guards against.

use std::process::Command;
use std::time::Duration;

use crate::support::{
    Expect, Fault, FaultProxy, Fleet, Load, PATIENCE, Program, Quoit, QuoitConfig, RedisServer, Value, encode,
    eventually, keys_by_store,
};

/// Deadlines short enough for a test, a breaker that opens after three failures.
fn impatient(config: QuoitConfig) -> QuoitConfig {
    config
        .pool("connect_timeout_ms = 300\nqueue_timeout_ms = 300\nservice_timeout_ms = 300")
        .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 50\nbackoff_max_ms = 400\nramp_ms = 100")
}

/// Waits until each of `groups` has had `count` more good answers.
fn progresses(load: &Load, groups: &[usize], count: u64) {
    let before: Vec<_> = groups.iter().map(|&group| load.answered(group)).collect();
    eventually("the nodes answer", PATIENCE, || {
        assert!(load.is_healthy(), "a connection of the load ended");
        groups.iter().zip(&before).all(|(&group, before)| load.answered(group) >= before + count)
    });
}

/// Waits until `group` gives only good answers.
fn heals(load: &Load, group: usize) {
    let (mut failed, mut answered) = (load.failed(group), load.answered(group));
    eventually("the node is back without errors", PATIENCE, || {
        assert!(load.is_healthy(), "a connection of the load ended");
        if load.failed(group) != failed {
            (failed, answered) = (load.failed(group), load.answered(group));
        }
        load.answered(group) >= answered + 300
    });
}

fn fails(load: &Load, group: usize, count: u64) {
    let before = load.failed(group);
    eventually("the lost node's keys fail", PATIENCE, || {
        assert!(load.is_healthy(), "a connection of the load ended");
        load.failed(group) >= before + count
    });
}

/// Every error of the lost node's group names it; the other groups have none.
fn check_blame(load: &Load, lost: usize, groups: usize) {
    for error in load.errors(lost) {
        assert!(error.contains(Fleet::name(lost)), "the error does not name {}: {error}", Fleet::name(lost));
        assert!(error.starts_with(|first: char| first.is_ascii_uppercase()), "an error has a code word: {error}");
    }
    for group in (0..groups).filter(|&group| group != lost) {
        assert_eq!(load.failed(group), 0, "{} suffered: {:?}", Fleet::name(group), load.errors(group));
    }
}

/// F1: the keys of a lost node were not written anywhere else.
fn check_not_rehomed(fleet: &Fleet, keys: &[Vec<String>], lost: usize) {
    for (index, store) in fleet.stores.iter().enumerate().filter(|(index, _)| *index != lost) {
        let mut client = store.client();
        for key in &keys[lost] {
            assert_eq!(
                client.command(&["EXISTS", key]),
                Value::Integer(0),
                "{key} was re-homed to {}",
                Fleet::name(index)
            );
        }
    }
}

/// F1 F6 F10: SIGKILL under load, three times.
#[test]
fn a_killed_store() {
    let Some(mut fleet) = Fleet::start_with(3, impatient) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(24);
    let load = Load::start(fleet.address(), 6, 8, &keys, Expect::LatestOrLost);
    progresses(&load, &[0, 1, 2], 200);
    for _ in 0..3 {
        fleet.stores[1].kill9();
        fails(&load, 1, 100);
        progresses(&load, &[0, 2], 300);
        fleet.stores[1].restart();
        heals(&load, 1);
    }
    check_blame(&load, 1, 3);
    load.finish();
    check_not_rehomed(&fleet, &keys, 1);
}

/// F5 F8 F9: SIGSTOP under load: the kernel still accepts, nobody answers; replies that come late reach nobody.
#[test]
fn a_hanging_store() {
    let Some(fleet) = Fleet::start_with(3, impatient) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(24);
    let load = Load::start(fleet.address(), 6, 8, &keys, Expect::Latest);
    progresses(&load, &[0, 1, 2], 200);
    for _ in 0..3 {
        fleet.stores[2].pause();
        fails(&load, 2, 100);
        progresses(&load, &[0, 1], 300);
        fleet.stores[2].resume();
        heals(&load, 2);
    }
    check_blame(&load, 2, 3);
    load.finish();
    check_not_rehomed(&fleet, &keys, 2);
}

/// F5: with a generous deadline, a request to a hanging node still waits while others are answered.
#[test]
fn others_do_not_wait_for_a_hanging_store() {
    let Some(fleet) = Fleet::start_with(3, |config| config.pool("service_timeout_ms = 60000")) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut waiting: Vec<_> = (0..8).map(|_| fleet.client()).collect();
    fleet.stores[0].pause();
    for client in &mut waiting {
        client.send(&encode(&["GET", &keys[0][0]]));
    }
    let mut clients: Vec<_> = (0..8).map(|_| fleet.client()).collect();
    for round in 0..50 {
        for client in &mut clients {
            for key in [&keys[1][0], &keys[2][0]] {
                let value = format!("{key} {round}");
                assert_eq!(client.command(&["SET", key, &value]).text(), "OK");
                assert_eq!(client.command(&["GET", key]).text(), value);
            }
        }
    }
    for client in &mut waiting {
        client.set_read_timeout(Duration::from_millis(1));
        assert!(client.try_receive().is_err(), "nothing can have answered yet");
        client.set_read_timeout(PATIENCE);
    }
    fleet.stores[0].resume();
    for client in &mut waiting {
        assert_eq!(client.receive().value, Value::Null);
    }
}

/// F5 F8: once a node is known to hang, its requests fail without waiting for the deadline: two hundred deadlines one
/// after the other would be far over the patience of this test.
#[test]
fn a_known_bad_store_fails_fast() {
    let Some(fleet) = Fleet::start_with(2, |config| {
        config
            .pool("connect_timeout_ms = 500\nservice_timeout_ms = 500")
            .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 500\nbackoff_max_ms = 2000")
    }) else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    fleet.stores[0].pause();
    let mut failed = 0;
    eventually("two hundred refusals", PATIENCE, || {
        let reply = client.command(&["GET", &keys[0][0]]);
        assert!(reply.is_error() && reply.text().contains(Fleet::name(0)), "{reply:?}");
        failed += 1;
        failed >= 200
    });
    fleet.stores[0].resume();
    eventually("the node is back", PATIENCE, || !client.command(&["GET", &keys[0][0]]).is_error());
}

/// F8: a store that the kernel still accepts connections for is not back because a connection can be made: it is asked
/// first, and while it does not answer, no client's request is spent on it.
#[test]
fn a_hanging_store_is_not_readmitted_unasked() {
    let Some(fleet) = Fleet::start_with(2, |config| impatient(config).workers(1)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    fleet.stores[0].pause();
    let label = format!("node=\"{}\"", Fleet::name(0));
    let sample = |name: &str, label: &str| -> f64 {
        quoit.metric(name).iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    };
    eventually("the breaker is open", PATIENCE, || {
        assert!(client.command(&["GET", &keys[0][0]]).is_error());
        sample("quoit_node_breakers_open", &label) > 0.5
    });
    let timeouts = || sample("quoit_node_failures_total", "kind=\"service\"");
    let (timed_out, probes) = (timeouts(), sample("quoit_node_probes_total", &label));
    eventually("it was asked five times", PATIENCE, || {
        let reply = client.command(&["GET", &keys[0][0]]);
        assert!(reply.is_error() && reply.text().contains(Fleet::name(0)), "{reply:?}");
        sample("quoit_node_probes_total", &label) >= probes + 5.0
    });
    assert!((timeouts() - timed_out).abs() < 0.5, "requests were spent on a store that does not answer");
    fleet.stores[0].resume();
    eventually("the node is back", PATIENCE, || !client.command(&["GET", &keys[0][0]]).is_error());
}

/// F6 F9: one request that had no reply in time costs that request; those behind it on the same connection have their
/// own deadlines, and get their own replies.
#[test]
fn one_timeout_is_one_failure() {
    const SERVICE_TIMEOUT: Duration = Duration::from_secs(4);
    let change = |config: QuoitConfig| {
        let timeout = format!("service_timeout_ms = {}", SERVICE_TIMEOUT.as_millis());
        config.workers(1).pool(&timeout).tables("[pool.breaker]\nfailures = 3")
    };
    let Some(fleet) = Fleet::start_with(1, change) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let (mut first, mut second) = (fleet.client(), fleet.client());
    assert_eq!(first.line("SET another w").text(), "OK");
    assert_eq!(second.line("SET k v").text(), "OK");
    fleet.stores[0].pause();
    first.send(&encode(&["GET", "another"]));
    // Not a wait for anything: the distance between the deadlines of the two.
    std::thread::sleep(SERVICE_TIMEOUT / 2);
    let requests: Vec<u8> = (0..1_000).flat_map(|_| encode(&["GET", "k"])).collect();
    second.send(&requests);
    let reply = first.receive().value;
    assert!(reply.is_error() && reply.text().contains(Fleet::name(0)), "{reply:?}");
    fleet.stores[0].resume();
    for number in 0..1_000 {
        assert_eq!(second.receive().value.text(), "v", "reply {number}");
    }
    assert_eq!(first.line("GET k").text(), "v", "the node is not ejected");
}

/// Thirty megabytes in front of a way to the store that passes three in a second, under the deadlines in `pool`: the
/// replies to a hundred and fifty clients. The way is slow by waiting, so that a busy machine makes it little slower.
fn queue_up(pool: &str) -> Option<(Relayed, Vec<Value>)> {
    if !has_proxy() {
        return None;
    }
    let relayed = Relayed::start(|config| {
        config.workers(1).pool(&format!("queue_bytes_max = 268435456\n{pool}")).tables("[pool.breaker]\nfailures = 3")
    })?;
    let keys = relayed.keys(1);
    let value = vec![b'x'; 200_000];
    relayed.relay.set(Fault::Slow(Duration::from_millis(5)));
    let mut clients: Vec<_> = (0..150).map(|_| relayed.quoit.client()).collect();
    for client in &mut clients {
        client.send(&encode(&[b"SET".as_slice(), keys[0][0].as_bytes(), &value]));
    }
    let replies = clients.iter_mut().map(|client| client.receive().value).collect();
    Some((relayed, replies))
}

/// F5: the time in the proxy's own queue is not service time: with more in it than passes within the service deadline,
/// everything is answered. What the kernel takes off our hands passes in a quarter of the deadline.
#[test]
fn a_long_queue_is_not_a_slow_store() {
    let Some((relayed, replies)) = queue_up("service_timeout_ms = 6000\nqueue_timeout_ms = 60000") else { return };
    for (number, reply) in replies.iter().enumerate() {
        assert_eq!(reply.text(), "OK", "client {number}");
    }
    assert!(relayed.quoit.metric_sum("quoit_node_failures_total") < 0.5);
}

/// F5: what waits too long in the queue fails, and says nothing about the store: it is not ejected.
#[test]
fn a_queue_that_is_too_long_ejects_nobody() {
    let Some((relayed, replies)) = queue_up("service_timeout_ms = 60000\nqueue_timeout_ms = 1000") else { return };
    let (failed, served): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.is_error());
    assert!(!failed.is_empty() && !served.is_empty(), "{} failed, {} served", failed.len(), served.len());
    for error in failed {
        assert!(error.text().contains(Fleet::name(0)) && error.text().contains("was not sent"), "{error:?}");
    }
    let log = relayed.quoit.log();
    assert!(!log.contains("node is down"), "{log}");
}

/// The first node is reached through a relay that misbehaves; the second directly.
struct Relayed {
    stores: Vec<RedisServer>,
    relay: FaultProxy,
    quoit: Quoit,
}

impl Relayed {
    fn start(change: impl FnOnce(QuoitConfig) -> QuoitConfig) -> Option<Self> {
        let stores = Fleet::stores(2)?;
        let relay = FaultProxy::start(stores[0].address());
        let nodes = [(Fleet::name(0), relay.address()), (Fleet::name(1), stores[1].address())];
        let quoit = Quoit::start(&change(QuoitConfig::new(nodes)));
        Some(Self { stores, relay, quoit })
    }

    fn keys(&self, count: usize) -> Vec<Vec<String>> {
        keys_by_store(self.quoit.address(), &self.stores, count)
    }
}

fn has_proxy() -> bool {
    std::env::var_os("QUOIT_TEST_SUBJECT").is_none()
}

const CONNECTIONS: usize = 4;
const DEPTH: usize = 8;

/// F7: a connection that breaks costs what was on its way over it, and nothing more: the node is not dead.
#[test]
fn a_broken_connection_is_not_a_dead_node() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(|config| config) else { return };
    let keys = relayed.keys(24);
    let load = Load::start(relayed.quoit.address(), CONNECTIONS, DEPTH, &keys, Expect::Latest);
    for cuts in 1..=5 {
        progresses(&load, &[0, 1], 300);
        relayed.relay.cut_all();
        heals(&load, 0);
        // Two requests a pair; whatever each client had under way when the connection broke, once a cut.
        let bound = (CONNECTIONS * DEPTH * 2 * cuts) as u64;
        assert!(load.failed(0) <= bound, "{} requests failed in {cuts} cuts: {:?}", load.failed(0), load.errors(0));
    }
    check_blame(&load, 0, 2);
    load.finish();
}

/// F7 F9: connections that end after a few hundred bytes, in the middle of a reply: no reply is attributed wrongly.
#[test]
fn connections_that_are_cut_within_a_reply() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(impatient) else { return };
    let keys = relayed.keys(24);
    let load = Load::start(relayed.quoit.address(), 4, 8, &keys, Expect::Latest);
    for limit in [1, 7, 100, 1_003, 5_000] {
        progresses(&load, &[1], 200);
        relayed.relay.set(Fault::CutAfter(limit));
        fails(&load, 0, 30);
        relayed.relay.set(Fault::None);
        heals(&load, 0);
    }
    check_blame(&load, 0, 2);
    load.finish();
}

/// F6: while a node refuses, thousands of requests cause few connections.
#[test]
fn a_refusing_store_is_not_stormed() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(impatient) else { return };
    let keys = relayed.keys(24);
    let load = Load::start(relayed.quoit.address(), 6, 8, &keys, Expect::Latest);
    progresses(&load, &[0, 1], 200);
    relayed.relay.set(Fault::Refuse);
    relayed.relay.cut_all();
    let before = relayed.relay.accepted();
    fails(&load, 0, 3_000);
    let connects = relayed.relay.accepted() - before;
    assert!(connects < 300, "{connects} connections for 3,000 failed requests");
    relayed.relay.set(Fault::None);
    heals(&load, 0);
    check_blame(&load, 0, 2);
    load.finish();
}

/// F5: a slow node delays its own keys' replies and what a client asked after them, not other clients.
#[test]
fn a_slow_store_keeps_the_order() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(|config| config.pool("service_timeout_ms = 20000")) else { return };
    let keys = relayed.keys(24);
    relayed.relay.set(Fault::Delay(Duration::from_millis(5)));
    let load = Load::start(relayed.quoit.address(), 4, 8, &keys, Expect::Latest);
    progresses(&load, &[0, 1], 300);
    assert_eq!(load.failed(0) + load.failed(1), 0, "{:?}", load.errors(0));
    load.finish();
}

/// F9: a store that swallows requests: they end at their deadline, and its later answers are never seen.
#[test]
fn a_store_that_swallows_requests() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(impatient) else { return };
    let keys = relayed.keys(24);
    let load = Load::start(relayed.quoit.address(), 4, 8, &keys, Expect::Latest);
    for _ in 0..3 {
        progresses(&load, &[0, 1], 200);
        relayed.relay.set(Fault::Swallow);
        fails(&load, 0, 50);
        relayed.relay.set(Fault::None);
        heals(&load, 0);
    }
    check_blame(&load, 0, 2);
    load.finish();
}

/// A node that is down when the proxy starts is no reason not to start.
#[test]
fn a_store_that_is_down_from_the_start() {
    if !has_proxy() {
        return;
    }
    let Some(mut stores) = Fleet::stores(2) else { return };
    stores[0].kill9();
    let quoit = Quoit::start(&impatient(Fleet::config_of(&stores)));
    let mut client = quoit.client();
    let replies: Vec<_> = (0..200).map(|number| client.command(&["SET", &format!("key {number}"), "v"])).collect();
    let (failed, served): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.is_error());
    assert!(!failed.is_empty() && !served.is_empty(), "{} failed, {} served", failed.len(), served.len());
    assert!(failed.iter().all(|reply| reply.text().contains(Fleet::name(0))), "{failed:?}");
    stores[0].restart();
    eventually("every key is served", PATIENCE, || {
        (0..200).all(|number| !client.command(&["SET", &format!("key {number}"), "v"]).is_error())
    });
}

/// F15: connections to a store are workers × protocols in use, however many clients there are.
#[test]
fn few_connections_to_a_store() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut clients: Vec<_> = (0..60).map(|_| fleet.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            assert!(!client.line("HELLO 3").is_error());
        }
        let requests: Vec<u8> = (0..40).flat_map(|key| encode(&["SET", &format!("key:{key}"), "v"])).collect();
        assert!(client.pipeline(&requests, 40).iter().all(|reply| reply.value.text() == "OK"));
    }
    for store in &fleet.stores {
        let connections = store.clients();
        let bound = 2 * 2;
        assert!((1..=bound).contains(&connections.len()), "{} of {bound}: {connections:#?}", connections.len());
    }
}

/// F17: a pipeline reads what it wrote.
#[test]
fn a_pipeline_reads_its_own_writes() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut clients: Vec<_> = (0..4).map(|_| fleet.client()).collect();
    for round in 0..30 {
        let requests: Vec<u8> = (0..500)
            .flat_map(|number| {
                let (key, value) = (format!("{{{}}}:k", number % 23), format!("{round}.{number}"));
                [
                    encode(&["SET", &key, &value]),
                    encode(&["GET", &key]),
                    encode(&["MGET", &key, &format!("{{{}}}:k", number % 19)]),
                ]
                .concat()
            })
            .collect();
        let client = &mut clients[round % 4];
        for (number, replies) in client.pipeline(&requests, 1_500).chunks(3).enumerate() {
            let value = format!("{round}.{number}");
            assert_eq!(replies[0].value.text(), "OK");
            assert_eq!(replies[1].value.text(), value, "GET after SET");
            assert_eq!(replies[2].value.items()[0].text(), value, "MGET after SET");
        }
    }
}

/// F17: while a big reply passes, its connection is left to those who have requests on it, and who has stays on it: a
/// small write does not overtake the big one that the same client sent before.
#[test]
fn a_write_does_not_overtake_another() {
    if !has_proxy() {
        return;
    }
    let Some(relayed) = Relayed::start(|config| config.workers(1)) else { return };
    let keys = relayed.keys(2);
    let (big, key) = (&keys[0][0], &keys[0][1]);
    let (reply, old) = (vec![b'x'; 4 << 20], vec![b'o'; 600_000]);
    assert_eq!(relayed.stores[0].client().command(&[b"SET".as_slice(), big.as_bytes(), &reply]).text(), "OK");
    let mut client = relayed.quoit.client();
    for round in 0..3 {
        // The big write takes a third of a second to the store.
        relayed.relay.set(Fault::Slow(Duration::from_millis(10)));
        client.send(&encode(&["GET", big]));
        client.send(&encode(&[b"SET".as_slice(), key.as_bytes(), &old]));
        let (head, _) = client.receive_until(b"\n").expect("the first line");
        assert_eq!(head, format!("${}\r\n", reply.len()).into_bytes());
        let new = format!("new {round}");
        client.send(&encode(&["SET", key, &new]));
        client.discard(reply.len() + 2).expect("the big reply");
        assert_eq!(client.receive().value.text(), "OK", "round {round}");
        assert_eq!(client.receive().value.text(), "OK", "round {round}");
        relayed.relay.set(Fault::None);
        let got = client.command(&["GET", key]).text();
        assert_eq!(got.get(..5), new.get(..5), "round {round}: the older write came last");
    }
}

/// One store on three addresses; the proxy knows it by a name of its own, which a file resolves. Needs a mount namespace.
struct Named {
    store: RedisServer,
    directory: tempfile::TempDir,
    quoit: Quoit,
}

impl Named {
    fn start() -> Option<Self> {
        if !has_proxy() {
            return None;
        }
        let may_mount = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
        if !may_mount {
            eprintln!("skip: a mount namespace of its own is not permitted here");
            return None;
        }
        let store = RedisServer::start_with(Program::Redis, &["--bind", "127.0.0.1", "127.0.0.2", "127.0.0.3"])?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let hosts = directory.path().join("hosts");
        std::fs::write(&hosts, Self::hosts("127.0.0.2")).expect("the file can be written");
        let nodes = [(Fleet::name(0), format!("moving-store:{}", store.port()))];
        let quoit = Quoit::start_by(&impatient(QuoitConfig::new(nodes)), |binary| {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            command.args(["--mount", "sh", "-c", script]).arg(&hosts).arg(binary);
            command
        });
        Some(Self { store, directory, quoit })
    }

    fn hosts(address: &str) -> String {
        format!("127.0.0.1 localhost\n{address} moving-store\n")
    }

    fn moves_to(&self, address: &str) {
        std::fs::write(self.directory.path().join("hosts"), Self::hosts(address)).expect("the file can be written");
    }

    /// The connections that the store has at this address, as it lists them.
    fn connections(&self, address: &str) -> Vec<String> {
        let local = format!("laddr={address}:{} ", self.store.port());
        self.store.clients().into_iter().filter(|line| line.contains(&local)).collect()
    }
}

/// F14: a node's host name is looked up again when its connection is lost.
#[test]
fn a_store_that_moved_to_another_address() {
    let Some(named) = Named::start() else { return };
    let mut client = named.quoit.client();
    assert_eq!(client.line("SET k v").text(), "OK");
    let old = named.connections("127.0.0.2");
    assert!(!old.is_empty(), "the first address is used");
    named.moves_to("127.0.0.3");
    for connection in old {
        let id = connection.split(' ').next().and_then(|field| field.strip_prefix("id=")).expect("a client has an id");
        assert_eq!(named.store.client().command(&["CLIENT", "KILL", "ID", id]), Value::Integer(1));
    }
    eventually("the new address is used", PATIENCE, || {
        client.line("GET k").text() == "v" && !named.connections("127.0.0.3").is_empty()
    });
}

/// F14: and from time to time while it is connected: the old address may serve on, and be somebody else's. The proxy
/// looks every 30 s, which this test has to wait for.
#[test]
fn a_store_that_moves_while_it_is_connected() {
    let Some(named) = Named::start() else { return };
    let mut client = named.quoit.client();
    assert_eq!(client.line("SET k v").text(), "OK");
    named.moves_to("127.0.0.3");
    eventually("the old address is left", PATIENCE * 3, || {
        assert_eq!(client.line("GET k").text(), "v", "no request is lost on the way");
        named.connections("127.0.0.2").is_empty() && !named.connections("127.0.0.3").is_empty()
    });
}
