//! Memory stays within stated bounds, whatever clients and stores do, and comes back (F4, F21).

use std::io::Write as _;

use crate::support::{
    Client, Fleet, PATIENCE, Quoit, QuoitConfig, RedisServer, Value, encode, eventually, raise_open_files, setting,
};

const MIB: u64 = 1 << 20;

/// Replies that a client which does not read has asked for, of 1 MiB each: one client alone, and each of many.
const UNREAD_OF_ONE: usize = 100;
const UNREAD_OF_EACH: usize = 32;

/// Two stores, one of which has `big` (1 MiB), and the proxy in front of them.
fn fleet_with_a_big_value(change: impl FnOnce(QuoitConfig) -> QuoitConfig) -> Option<Fleet> {
    let fleet = Fleet::start_with(2, change)?;
    fleet.quoit()?;
    let mut client = fleet.client();
    assert_eq!(client.command(&[b"SET".as_slice(), b"big", &vec![b'x'; 1 << 20]]).text(), "OK");
    Some(fleet)
}

/// A client that asks for so many of them, and does not read.
fn lazy_client(fleet: &Fleet, replies: usize) -> Client {
    let mut client = fleet.client();
    let requests: Vec<u8> = (0..replies).flat_map(|_| encode(&["GET", "big"])).collect();
    client.send(&requests);
    client
}

/// The length line of each of those replies.
const HEAD: &[u8] = b"$1048576\r\n";

/// Reads at last: how many of `replies` came, each whole and in its place, before the connection was closed. The first
/// lines of `begun` of them have been read.
fn read_late(client: &mut Client, begun: usize, replies: usize) -> usize {
    for number in 0..replies {
        if number >= begun {
            let (bytes, closed) = client.receive_until(b"\n").expect("a reply's first line, or the end");
            if closed {
                return number;
            }
            assert_eq!(bytes, HEAD, "reply {number}");
        }
        if client.discard((1 << 20) + 2).is_err() {
            return number; // It was closed in the middle of a reply, which is then no reply.
        }
    }
    replies
}

/// Others are served: 2,000 pairs to keys of both nodes, without an error.
fn others_are_served(steady: &mut Client) {
    for number in 0..2_000 {
        let key = format!("steady:{}", number % 50);
        assert_eq!(steady.command(&["SET", &key, "v"]).text(), "OK", "after {number} pairs");
        assert_eq!(steady.command(&["GET", &key]).text(), "v", "after {number} pairs");
    }
}

/// F4: a client that reads late holds nobody up: it waits as long as it likes, and gets everything.
#[test]
fn a_client_that_reads_late() {
    let Some(fleet) = fleet_with_a_big_value(|config| config.pool(PATIENT)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut lazy = lazy_client(&fleet, UNREAD_OF_ONE);
    others_are_served(&mut fleet.client());
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 16 * MIB, "unread: {} MiB, {} before", peak / MIB, before / MIB);
    assert_eq!(read_late(&mut lazy, 0, UNREAD_OF_ONE), UNREAD_OF_ONE, "{}", quoit.log());
    assert_eq!(lazy.line("PING").text(), "PONG");
    let peak = quoit.peak_rss_bytes();
    assert!(peak < before + 48 * MIB, "read: {} MiB, {} before", peak / MIB, before / MIB);
}

/// What a listener may hold for one client in the tests of many clients that do not read.
const OUTPUT_MIB: u64 = 8;
const LAZY_CLIENTS: u64 = 20;

/// The store is not to blame for clients that do not read (F5), and each of those gets all in order or a closed
/// connection; the log and a metric say which.
fn check_lazy(fleet: &Fleet, lazy: Vec<Client>, begun: usize, before: u64) {
    let Some(quoit) = fleet.quoit() else { return };
    assert!(!quoit.log().contains("node is down"), "{}", quoit.log());
    // Each may have its bound in a buffer that doubled last; a few more are on their way.
    let bound = before + LAZY_CLIENTS * 2 * OUTPUT_MIB * MIB + 32 * MIB;
    let peak = quoit.peak_rss_bytes();
    assert!(peak < bound, "unread: {} MiB, {} before, {} allowed", peak / MIB, before / MIB, bound / MIB);
    let mut given_up = 0_u32;
    for mut client in lazy {
        if read_late(&mut client, begun, UNREAD_OF_EACH) == UNREAD_OF_EACH {
            assert_eq!(client.line("PING").text(), "PONG");
        } else {
            given_up += 1;
        }
    }
    let closed = quoit.metric_sum("quoit_output_limit_kills_total");
    assert!((closed - f64::from(given_up)).abs() < 0.5, "{given_up} found their connection closed, {closed} counted");
    let logged = quoit.log().matches("does not read its replies").count();
    assert_eq!(u32::try_from(logged).expect("a few lines"), given_up, "{}", quoit.log());
    let peak = quoit.peak_rss_bytes();
    assert!(peak < bound, "read: {} MiB, {} before, {} allowed", peak / MIB, before / MIB, bound / MIB);
    eventually("the memory comes back", PATIENCE, || quoit.rss_bytes() < before + 64 * MIB);
}

/// Deadlines that are not what these tests are about, longer than a busy machine takes.
const PATIENT: &str = "service_timeout_ms = 60000\nqueue_timeout_ms = 60000";

fn little_output(config: QuoitConfig) -> QuoitConfig {
    config.workers(1).pool(PATIENT).listener(&format!("client_output_bytes_max = {}", OUTPUT_MIB * MIB))
}

/// F4 F5: many at once, on one connection to the store, with others behind them: those wait about as long as they would
/// behind one.
#[test]
fn clients_that_do_not_read() {
    let Some(fleet) = fleet_with_a_big_value(little_output) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut steady = fleet.client();
    // While the stores stand still nothing begins, and all gather on one connection.
    fleet.stores.iter().for_each(RedisServer::pause);
    let lazy: Vec<_> = (0..LAZY_CLIENTS).map(|_| lazy_client(&fleet, UNREAD_OF_EACH)).collect();
    let asked = f64::from(u32::try_from(lazy.len() * UNREAD_OF_EACH).expect("some hundreds"));
    eventually("all were passed on", PATIENCE, || quoit.metric_sum("quoit_node_in_flight_requests") >= asked);
    steady.send(&encode(&["EXISTS", "big"]));
    fleet.stores.iter().for_each(RedisServer::resume);
    steady.set_read_timeout(PATIENCE * 2);
    assert_eq!(steady.receive().value, Value::Integer(1));
    // One second for the first of them, and none for the next: a busy machine makes each take longer, never shorter.
    let apart = apart_in_log(&quoit.log(), "does not read its replies");
    assert!(apart.len() >= lazy.len() / 2, "{}", quoit.log());
    let shortest = apart.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(shortest < 1.0, "seconds between clients that make way: {apart:?}");
    others_are_served(&mut steady);
    check_lazy(&fleet, lazy, 0, before);
}

/// Seconds between one line of the log with `words` and the next.
fn apart_in_log(log: &str, words: &str) -> Vec<f64> {
    // `2026-11-23T12:42:31.082841Z  INFO …`: a day may end in between.
    let second_of_day = |line: &str| {
        let time = line.split_once('T')?.1.split_once('Z')?.0;
        time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
    };
    let lines = log.lines().filter(|line| line.contains(words));
    let times: Vec<f64> = lines.map(|line| second_of_day(line).expect("a line begins with its time")).collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).rem_euclid(86_400.0)).collect()
}

/// F4 F5: many, one after the other, each with time to get a connection to the store for itself: they do not use up what
/// others need.
#[test]
fn clients_that_do_not_read_one_after_the_other() {
    let Some(fleet) = fleet_with_a_big_value(little_output) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut steady = fleet.client();
    let mut lazy = Vec::new();
    for number in 0..LAZY_CLIENTS {
        let mut client = lazy_client(&fleet, UNREAD_OF_EACH);
        let (head, _) = client.receive_until(b"\n").expect("the first line");
        assert_eq!(head, HEAD, "client {number}");
        assert_eq!(steady.line("EXISTS big"), Value::Integer(1), "after {number} clients that do not read");
        lazy.push(client);
    }
    others_are_served(&mut steady);
    check_lazy(&fleet, lazy, 1, before);
}

/// The largest value that a store takes goes through both ways and is never held.
#[test]
fn a_value_of_512_mib() {
    let length = usize::try_from(setting("QUOIT_BIG_VALUE_MIB").unwrap_or(512)).expect("a number of MiB") << 20;
    // On a busy machine it takes a store some time to begin.
    let Some(fleet) = Fleet::start_with(2, |config| config.pool("service_timeout_ms = 30000")) else { return };
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

/// F4: what a burst took comes back though nothing happens afterwards: nothing is freed any more, which is when an
/// allocator looks for memory to give back.
#[test]
fn the_memory_of_a_burst_before_silence() {
    let Some(fleet) = Fleet::start(1) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let before = quoit.rss_bytes();
    let mut request = b"*50001\r\n$4\r\nMGET\r\n".to_vec();
    // All but the last of its keys.
    for number in 1..50_000 {
        write!(request, "$200\r\nkey:{number:0196}\r\n").expect("a vector grows");
    }
    let mut unfinished: Vec<Client> = (0..8).map(|_| fleet.client()).collect();
    for client in &mut unfinished {
        client.send(&request);
    }
    let sent = u64::try_from(unfinished.len() * request.len()).expect("some MiB");
    eventually("all was read", PATIENCE, || quoit.rss_bytes() > before + sent);
    drop(unfinished);
    eventually("the memory comes back", PATIENCE, || quoit.rss_bytes() < before + 32 * MIB);
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
