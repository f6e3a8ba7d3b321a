//! Memory stays within stated bounds, whatever clients and stores do, and comes back (F4, F21).

use std::io::Write as _;

use crate::support::{Client, Fleet, PATIENCE, Quoit, Value, encode, eventually, raise_open_files, setting};

const MIB: u64 = 1 << 20;

/// F4: clients that ask for gigabytes and do not read them.
#[test]
fn clients_that_do_not_read() {
    let Some(fleet) = Fleet::start(2) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut steady = fleet.client();
    let big = vec![b'x'; 1 << 20];
    assert_eq!(steady.command(&[b"SET".as_slice(), b"big", &big]).text(), "OK");
    assert_eq!(steady.line("SET small value").text(), "OK");
    let before = quoit.rss_bytes();
    // 20 connections × 100 replies of 1 MiB: 2 GiB are asked for.
    let mut lazy: Vec<_> = (0..20).map(|_| fleet.client()).collect();
    for client in &mut lazy {
        let requests: Vec<u8> = (0..100).flat_map(|_| encode(&["GET", "big"])).collect();
        client.send(&requests);
    }
    // Whoever reads is served meanwhile, by both nodes.
    for number in 0..2_000 {
        let key = format!("steady:{}", number % 50);
        assert_eq!(steady.command(&["SET", &key, "v"]).text(), "OK");
        assert_eq!(steady.command(&["GET", &key]).text(), "v");
    }
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 256 * MIB, "{} MiB, {} before", peak / MIB, before / MIB);
    // Who reads at last gets the replies in order and whole, up to the end of a connection that was given up.
    for client in &mut lazy {
        for number in 0..100 {
            let (bytes, closed) = client.receive_until(b"\n").expect("a reply's first line, or the end");
            if closed {
                break;
            }
            assert_eq!(bytes, b"$1048576\r\n", "reply {number}");
            if client.discard((1 << 20) + 2).is_err() {
                break;
            }
        }
    }
    drop(lazy);
    eventually("the memory comes back", PATIENCE, || quoit.rss_bytes() < before + 64 * MIB);
}

/// The largest value that a store takes goes through both ways and is never held.
#[test]
fn a_value_of_512_mib() {
    let length = usize::try_from(setting("QUOIT_BIG_VALUE_MIB").unwrap_or(512)).expect("a number of MiB") << 20;
    let Some(fleet) = Fleet::start(2) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut client = fleet.client();
    client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${length}\r\n").as_bytes());
    let chunk: Vec<u8> = (0..1 << 20).map(|index: u32| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
    for _ in 0..length / chunk.len() {
        client.send(&chunk);
    }
    client.send(b"\r\n");
    assert_eq!(client.receive().value.text(), "OK");
    assert_eq!(client.line("STRLEN big"), Value::Integer(i64::try_from(length).expect("fits")));
    client.send(&encode(&["GET", "big"]));
    let (head, _) = client.receive_until(b"\n").expect("the first line");
    assert_eq!(head, format!("${length}\r\n").into_bytes());
    let mut got = vec![0; chunk.len()];
    for part in 0..length / chunk.len() {
        client.read_exact(&mut got).expect("the value");
        assert!(got == chunk, "MiB {part} of the value differs");
    }
    client.discard(2).expect("the end of the value");
    assert_eq!(client.line("PING").text(), "PONG");
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 64 * MIB, "{} MiB, {} before", peak / MIB, before / MIB);
}

/// A big value whose client goes away in the middle leaves the other clients of that node alone.
#[test]
fn a_big_value_that_ends_in_the_middle() {
    let Some(fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut steady = fleet.client();
    for round in 0..5 {
        let mut client = fleet.client();
        client.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$67108864\r\n");
        client.send(&vec![b'x'; 8 << 20]);
        drop(client);
        let value = format!("round {round}");
        eventually("the node serves others", PATIENCE, || !steady.command(&["SET", "k", &value]).is_error());
        assert_eq!(steady.line("GET k").text(), value);
        assert_eq!(steady.line("EXISTS big"), Value::Integer(0), "half a value is no value");
    }
}

/// F21: a command over a million keys is refused with the reason, or served within the bound.
#[test]
fn a_million_keys() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    for verb in ["MGET", "DEL", "EXISTS"] {
        let mut client = fleet.client();
        let mut request = format!("*1000001\r\n${}\r\n{verb}\r\n", verb.len()).into_bytes();
        for number in 0..1_000_000 {
            write!(request, "$11\r\nkey:{number:07}\r\n").expect("a vector grows");
        }
        client.send(&request);
        let reply = client.receive().value;
        match &reply {
            Value::Error(_) => {
                assert!(reply.text().contains("keys"), "what is too many? {reply:?}");
            }
            Value::Array(items) => assert_eq!(items.len(), 1_000_000),
            other => assert_eq!(*other, Value::Integer(0)),
        }
        assert_eq!(client.line("PING").text(), "PONG", "the connection lives");
    }
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 256 * MIB, "{} MiB, {} before", peak / MIB, before / MIB);
    eventually("the memory comes back", PATIENCE, || quoit.rss_bytes() < before + 64 * MIB);
}

/// Ten thousand connections that were used once and then say nothing.
#[test]
fn ten_thousand_idle_connections() {
    // Both processes hold one end of each; some files are for everything else.
    let allowed = raise_open_files().saturating_sub(400);
    let count = allowed.min(10_000);
    if count < 10_000 {
        eprintln!("only {count} connections: the limit on open files is low");
    }
    let Some(fleet) = Fleet::start_with(2, |config| config.proxy("clients_max = 12000")) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut first = fleet.client();
    assert_eq!(first.line("SET k v").text(), "OK");
    let before = quoit.rss_bytes();
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut client = fleet.client();
        assert_eq!(client.line("GET k").text(), "v");
        idle.push(client);
    }
    let each = quoit.rss_bytes().saturating_sub(before) / count;
    eprintln!("{each} bytes for an idle connection that was used (debug build)");
    assert!(each < 8_192, "{each} bytes for an idle connection");
    for client in idle.iter_mut().step_by(97) {
        assert_eq!(client.line("GET k").text(), "v", "an idle connection is still served");
    }
    for store in &fleet.stores {
        assert!(store.clients().len() <= 4, "clients do not become connections to a store");
    }
    drop(idle);
    assert_eq!(first.line("GET k").text(), "v");
    eventually("the connections are gone", PATIENCE, || open_files(quoit) < 100);
}

fn open_files(quoit: &Quoit) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", quoit.process())).map(Iterator::count).expect("the process runs")
}

/// A client that never finishes its request holds little and harms nobody.
#[test]
fn requests_that_never_end() {
    let Some(fleet) = Fleet::start(1) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut unfinished: Vec<Client> = (0..200).map(|_| fleet.client()).collect();
    for client in &mut unfinished {
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\nabc");
    }
    let mut steady = fleet.client();
    // Were the node held up by requests that never end, a reply would not come within the client's patience.
    for _ in 0..500 {
        assert_eq!(steady.line("SET k v").text(), "OK");
    }
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 32 * MIB, "{} MiB, {} before", peak / MIB, before / MIB);
}
