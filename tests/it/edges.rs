//! What happens at the edges of the data path: clients that leave in the middle, that do not read, that send half a
//! request; stores that stop in the middle of a big one; and that afterwards nothing is left behind.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::support::{Client, Fleet, PATIENCE, Quoit, QuoitConfig, Value, encode, eventually};

const MIB: usize = 1 << 20;

fn value(mib: usize) -> Vec<u8> {
    vec![b'v'; mib * MIB]
}

/// The first line of a big `SET` and nothing of its value.
fn set_header(key: &str, bytes: usize) -> Vec<u8> {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n", key.len()).into_bytes()
}

fn clients_become(quoit: &Quoit, count: f64) {
    eventually("those who left are gone", PATIENCE, || (quoit.metric_sum("quoit_clients_open") - count).abs() < 0.5);
}

/// Waits until nothing is under way anywhere.
pub(crate) fn comes_to_rest(quoit: &Quoit) {
    for gauge in ["quoit_node_in_flight_requests", "quoit_node_queued_bytes"] {
        eventually(gauge, PATIENCE, || quoit.metric_sum(gauge).abs() < 0.5);
    }
}

fn cpu_ticks(quoit: &Quoit) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", quoit.process())).expect("the process runs");
    let after_name = stat.rsplit(')').next().expect("a line has an end");
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// Waits for half a second in which the process used less than a tenth of one processor.
pub(crate) fn sleeps(what: &str, quoit: &Quoit) {
    eventually(what, PATIENCE, || {
        let before = cpu_ticks(quoit);
        std::thread::sleep(Duration::from_millis(500));
        cpu_ticks(quoit) - before < 5
    });
}

/// F5 F9: two big replies of one pipeline, the second there first: it must not keep the first from its client.
#[test]
fn a_big_reply_that_overtakes_another() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let (slow, fast) = (&keys[0][0], &keys[1][0]);
    let mut client = fleet.client();
    let big = value(4);
    for key in [slow, fast] {
        assert_eq!(client.command(&[b"SET".as_slice(), key.as_bytes(), &big]).text(), "OK");
    }
    fleet.stores[0].pause();
    client.send(&[encode(&["GET", slow]), encode(&["GET", fast]), encode(&["PING"])].concat());
    // The second reply comes to its bound while the first has not begun; that takes as long as it takes.
    std::thread::sleep(Duration::from_millis(300));
    fleet.stores[0].resume();
    for key in [slow, fast] {
        assert!(client.receive().value == Value::Bulk(big.clone()), "the value of {key}");
    }
    assert_eq!(client.receive().value.text(), "PONG");
}

/// F4: a client that ends its side in the middle of a big request leaves nothing behind, and is answered what it had
/// asked before.
#[test]
fn a_big_request_that_is_cut_off() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut steady = fleet.client();
    assert_eq!(steady.line("SET k v").text(), "OK");
    for round in 0..40 {
        let mut client = fleet.client();
        client.send(&[encode(&["GET", "k"]), set_header("big", 8 * MIB), value(2)].concat());
        if round % 2 == 0 {
            client.finish_writing();
            assert_eq!(client.receive().value.text(), "v");
            assert!(client.try_receive().is_err(), "after what was answered the connection ends");
        }
    }
    clients_become(quoit, 1.0);
    comes_to_rest(quoit);
    assert_eq!(steady.command(&[b"SET".as_slice(), b"big", &value(2)]).text(), "OK");
    assert_eq!(steady.line("STRLEN big"), Value::Integer(2 << 20));
}

/// F7: what clients do says nothing about the node.
#[test]
fn clients_that_leave_do_not_open_the_breaker() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    for _ in 0..10 {
        let mut client = fleet.client();
        client.send(&[set_header("big", 8 * MIB), value(2)].concat());
        drop(client);
        clients_become(quoit, 0.0);
    }
    assert!(quoit.metric_sum("quoit_node_failures_total") < 0.5, "{:?}", quoit.metric("quoit_node_failures_total"));
    assert_eq!(fleet.client().line("SET k v").text(), "OK");
}

/// F5: more clients than a node has spare connections ask for big values and do not read them; the node serves others.
#[test]
fn many_clients_that_do_not_read() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut steady = fleet.client();
    assert_eq!(steady.command(&[b"SET".as_slice(), b"big", &value(16)]).text(), "OK");
    let mut lazy: Vec<Client> = Vec::new();
    for _ in 0..40 {
        let mut client = fleet.client();
        client.send(&encode(&["GET", "big"]));
        // From its first line on, a big reply has its connection to itself.
        client.receive_until(b"\n").expect("the beginning of the value");
        lazy.push(client);
    }
    for number in 0..100 {
        let text = number.to_string();
        eventually("the node serves others", PATIENCE, || !steady.command(&["SET", "k", &text]).is_error());
        assert_eq!(steady.line("GET k").text(), text);
    }
    sleeps("nothing turns while clients do not read", quoit);
    drop(lazy);
    clients_become(quoit, 1.0);
    comes_to_rest(quoit);
}

/// F5: a client that reads a big value slowly, but reads: who came behind it on the same connection does not wait for
/// the end of it.
#[test]
fn behind_a_client_that_reads_slowly() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1).listener("client_output_bytes_max = 268435456"))
    else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut steady = fleet.client();
    assert_eq!(steady.command(&[b"SET".as_slice(), b"big", &value(100)]).text(), "OK");
    assert_eq!(steady.line("SET k v").text(), "OK");
    let mut slow = fleet.client();
    fleet.stores[0].pause();
    slow.send(&encode(&["GET", "big"]));
    std::thread::sleep(Duration::from_millis(100));
    steady.send(&encode(&["GET", "k"]));
    std::thread::sleep(Duration::from_millis(100));
    fleet.stores[0].resume();
    // Far less than the big value takes at this pace, which never pauses for long.
    steady.set_read_timeout(PATIENCE / 3);
    let waiting = std::thread::spawn(move || steady.receive().value);
    while !waiting.is_finished() {
        slow.discard(MIB / 5).expect("the connection of a slow client lives");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(waiting.join().expect("the reply came in time").text(), "v");
    slow.discard(MIB).expect("the connection of a slow client lives");
}

/// F5: a store that stops taking a big request in the middle: the client hears of it, and the connection goes on.
#[test]
fn a_store_that_stops_in_a_big_request() {
    let Some(fleet) = Fleet::start_with(1, |config| config.pool("service_timeout_ms = 300\nqueue_timeout_ms = 300"))
    else {
        return;
    };
    let Some(quoit) = fleet.quoit() else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("SET k v").text(), "OK");
    client.send(&set_header("big", 64 * MIB));
    client.send(&value(2));
    fleet.stores[0].pause();
    // All of it is taken, though nobody wants it any more.
    client.send(&value(62));
    client.send(b"\r\n");
    let reply = client.receive().value;
    assert!(reply.is_error() && reply.text().contains(Fleet::name(0)), "{reply:?}");
    fleet.stores[0].resume();
    eventually("the node is back", PATIENCE, || client.line("GET k").text() == "v");
    assert_eq!(client.line("EXISTS big"), Value::Integer(0), "half a value is no value");
    comes_to_rest(quoit);
}

/// `CLIENT REPLY SKIP` and `OFF` hold for big replies too, and end as in Redis.
#[test]
fn big_replies_that_nobody_wants() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    for mib in [1, 4] {
        assert_eq!(client.command(&[b"SET".as_slice(), b"big", &value(mib)]).text(), "OK");
        assert_eq!(client.command(&[b"SET".as_slice(), b"some", &vec![b'x'; 20_000]]).text(), "OK");
        for key in ["big", "some"] {
            client.send(b"CLIENT REPLY SKIP\r\n");
            client.send(&encode(&["GET", key]));
            assert_eq!(client.line("PING").text(), "PONG", "GET {key} was skipped");
        }
        client.send(b"CLIENT REPLY OFF\r\nGET big\r\nMGET big some\r\nGET some\r\nCLIENT REPLY ON\r\n");
        assert_eq!(client.receive().value.text(), "OK");
        client.send(b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\n");
        assert_eq!(client.receive().value.text(), "OK", "ON ends SKIP");
    }
}

/// Clients that end their side are answered all they asked.
#[test]
fn clients_that_close_one_side() {
    let Some(fleet) = Fleet::start(2) else { return };
    for tail in [b"".as_slice(), b"*2\r\n$3\r\nGET\r\n$1", b"PIN"] {
        let mut client = fleet.client();
        let requests: Vec<u8> = (0..6_000)
            .flat_map(|number| match number % 3 {
                0 => encode(&["SET", &format!("key:{}", number % 50), &number.to_string()]),
                1 => encode(&["MGET", &format!("key:{}", number % 50), &format!("key:{}", number % 49)]),
                _ => encode(&["ECHO", &number.to_string()]),
            })
            .collect();
        client.send(&requests);
        client.send(tail);
        client.finish_writing();
        for number in 0..6_000 {
            let reply = client.receive().value;
            match number % 3 {
                0 => assert_eq!(reply.text(), "OK"),
                1 => assert_eq!(reply.items().len(), 2),
                _ => assert_eq!(reply.text(), number.to_string()),
            }
        }
        assert!(client.try_receive().is_err(), "then the connection ends");
        assert!(client.unread().raw.is_empty());
    }
}

/// A drain waits for what was accepted, not for the rest of a request that never comes.
#[test]
fn a_drain_with_half_requests() {
    let Some(mut fleet) = Fleet::start_with(1, |config| config.proxy("drain_timeout_ms = 3600000")) else { return };
    let mut clients: Vec<_> = (0..4).map(|_| fleet.client()).collect();
    for (client, half) in clients.iter_mut().zip([
        b"*2\r\n$3\r\nGET\r\n$1".to_vec(),
        b"PIN".to_vec(),
        [set_header("big", 8 * MIB), value(2)].concat(),
        [b"*2000001\r\n$4\r\nMGET\r\n".to_vec(), b"$1\r\nk\r\n".repeat(100)].concat(),
    ]) {
        assert_eq!(client.line("PING").text(), "PONG");
        client.send(&half);
    }
    let Some(quoit) = fleet.quoit_mut() else { return };
    assert!(quoit.terminate().success(), "{}", quoit.log());
}

/// F4: clients that stop in the middle of their requests fill the memory; the others are served all the same.
#[test]
fn memory_full_of_half_requests() {
    let Some(fleet) = Fleet::start_with(1, |config| {
        config.workers(1).proxy("memory_bytes_max = 16777216").pool("stream_threshold_bytes = 4194304")
    }) else {
        return;
    };
    let Some(quoit) = fleet.quoit() else { return };
    let mut halves: Vec<_> = (0..12).map(|_| fleet.client()).collect();
    for client in &mut halves {
        client.send(&set_header("big", 3 * MIB));
        // Whoever is closed to make room does not take the rest.
        drop(client.try_send(&value(2)));
    }
    let mut steady = fleet.client();
    for _ in 0..100 {
        assert_eq!(steady.line("SET k v").text(), "OK");
    }
    sleeps("nothing turns", quoit);
    drop(halves);
    clients_become(quoit, 1.0);
    comes_to_rest(quoit);
}

/// F21: a pipeline of split requests, one of the nodes silent: what the other answers is held up to a bound.
#[test]
fn many_merges_that_wait() {
    let Some(fleet) = Fleet::start_with(2, |config| {
        config
            .workers(1)
            .pool("service_timeout_ms = 60000\nqueue_timeout_ms = 60000")
            .listener("multi_key_reply_bytes_max = 8388608")
    }) else {
        return;
    };
    let Some(quoit) = fleet.quoit() else { return };
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    assert_eq!(client.command(&[b"SET".as_slice(), keys[1][0].as_bytes(), &value(4)]).text(), "OK");
    fleet.stores[0].pause();
    let before = quoit.rss_bytes();
    client.send(&encode(&["MGET", &keys[0][0], &keys[1][0]]).repeat(60));
    let sent = 240 << 20;
    eventually("the other node has answered", PATIENCE, || {
        quoit.metric_sum("quoit_node_received_bytes_total") > f64::from(sent)
    });
    fleet.stores[0].resume();
    let mut whole = 0;
    for _ in 0..60 {
        match client.receive().value.items() {
            [Value::Null, Value::Bulk(bytes)] if bytes.len() == 4 * MIB => whole += 1,
            [Value::Null, error] => assert!(error.text().starts_with("ERR overloaded"), "{error:?}"),
            other => panic!("{} elements", other.len()),
        }
    }
    assert!((1..=8).contains(&whole), "{whole} of 32 MiB fit");
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + (160 << 20), "{} MiB, {} before", peak >> 20, before >> 20);
    assert_eq!(client.command(&["MGET", &keys[0][0], &keys[1][0]]).items().len(), 2);
    comes_to_rest(quoit);
}

/// Nothing runs while nothing happens, whatever everybody waits for.
#[test]
fn waiting_costs_nothing() {
    let Some(fleet) = Fleet::start_with(2, |config| config.pool("service_timeout_ms = 60000")) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    assert_eq!(client.command(&[b"SET".as_slice(), keys[1][0].as_bytes(), &value(16)]).text(), "OK");
    fleet.stores[0].pause();
    let held = encode(&["GET", &keys[0][0]]);
    let sent: Vec<Vec<u8>> = vec![
        held.clone(),
        [held.clone(), encode(&["HELLO", "3"]), encode(&["PING"])].concat(),
        [held.clone(), set_header(&keys[1][0], 8 * MIB), value(2)].concat(),
        [held.clone(), encode(&["PING"]).repeat(5_000)].concat(),
        [held, encode(&["QUIT"])].concat(),
        encode(&["GET", &keys[1][0]]).repeat(3),
        [set_header(&keys[1][0], 8 * MIB), value(2)].concat(),
        set_header(&keys[1][0], 500_000),
    ];
    let mut waiting: Vec<_> = sent.iter().map(|_| fleet.client()).collect();
    for (client, bytes) in waiting.iter_mut().zip(&sent) {
        client.send(bytes);
    }
    let mut ended = fleet.client();
    ended.send(&encode(&["GET", &keys[0][0]]));
    ended.finish_writing();
    sleeps("nobody runs", quoit);
    fleet.stores[0].resume();
    assert_eq!(ended.receive().value, Value::Null);
    assert_eq!(waiting[0].receive().value, Value::Null);
    drop(waiting);
    drop(ended);
    clients_become(quoit, 1.0);
    comes_to_rest(quoit);
    sleeps("nobody runs when all are gone", quoit);
}

/// A store of the days before RESP3, with one value. It ends with the process.
fn store_without_hello() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    let text = String::from_utf8_lossy(&chunk[..count]).into_owned();
                    let replies: String = text
                        .split("\r\n")
                        .map(|word| match word {
                            "HELLO" => "-ERR unknown command `HELLO`\r\n",
                            "CLIENT" => "+OK\r\n",
                            "PING" => "+PONG\r\n",
                            "GET" => "$1\r\nv\r\n",
                            _ => "",
                        })
                        .collect();
                    if stream.write_all(replies.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// F7: a store without RESP3 serves who needs none, whatever others ask of it.
#[test]
fn a_store_without_resp3() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let quoit = Quoit::start(&QuoitConfig::new([("node-amber", store_without_hello())]).workers(1));
    let (mut old, mut new) = (quoit.client(), quoit.client());
    assert!(!new.line("HELLO 3").is_error());
    for _ in 0..20 {
        assert_eq!(old.line("GET k").text(), "v");
        let refused = new.line("GET k");
        assert!(refused.text().contains("node-amber") && refused.text().contains("HELLO"), "{refused:?}");
    }
    comes_to_rest(&quoit);
}
