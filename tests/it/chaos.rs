//! Everything at once, by chance: clients with random pipelines that are cut anywhere and leave at any moment, stores
//! that die, hang, break connections and answer late, rings that change. Every reply must belong to its request, and
//! when it is over nothing may be left behind. `QUOIT_CHAOS_SECONDS` makes it longer.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::edges::{comes_to_rest, sleeps};
use crate::support::{
    Client, Fault, FaultProxy, Fleet, PATIENCE, Quoit, QuoitConfig, RedisServer, Value, encode, eventually, random,
    setting,
};

const KEYS_EACH: usize = 20;
const CLIENTS: usize = 8;
/// More than a reply may have that is waited for whole, and more than one that shares its connection.
const BIG_BYTES: [usize; 3] = [40_000, 300_000, 2_500_000];

/// What the reply to one request may be. Everywhere an error that names a node is allowed as well.
enum Expect {
    Ok,
    /// The value of this key, of a write up to this number; or nothing.
    ValueOf(String, u64),
    ValuesOf(Vec<String>, u64),
    Exactly(String),
    CountUpTo(i64),
    Hello,
    Unknown,
}

struct Person {
    number: usize,
    random: fastrand::Rng,
    sequence: u64,
}

/// One pipeline: its bytes, and what must come back.
#[derive(Default)]
struct Round {
    bytes: Vec<u8>,
    expected: VecDeque<Expect>,
    /// A store that dies in the middle of a big reply costs its client the connection.
    may_break: bool,
}

impl Person {
    fn key(&mut self) -> String {
        format!("person:{}:{}", self.number, self.random.usize(..KEYS_EACH))
    }

    fn keys(&mut self) -> Vec<String> {
        (0..self.random.usize(1..12)).map(|_| self.key()).collect()
    }

    /// `key=sequence;` and then something.
    fn value(&mut self, key: &str) -> Vec<u8> {
        self.sequence += 1;
        let mut value = format!("{key}={};", self.sequence).into_bytes();
        let more = match self.random.u32(..100) {
            0..=2 => BIG_BYTES[self.random.usize(..BIG_BYTES.len())],
            3..=20 => self.random.usize(..2_000),
            _ => 0,
        };
        value.resize(value.len() + more, b'.');
        value
    }

    fn round(&mut self) -> Round {
        let mut round = Round::default();
        let length = if self.random.u8(..20) == 0 { 300 } else { self.random.usize(1..30) };
        for _ in 0..length {
            let (bytes, expect) = self.request(&mut round.may_break);
            round.bytes.extend(bytes);
            round.expected.extend(expect);
        }
        round
    }

    fn request(&mut self, may_break: &mut bool) -> (Vec<u8>, Option<Expect>) {
        let token = format!("{}-{}", self.number, self.random.u64(..));
        let key = self.key();
        match self.random.u32(..100) {
            0..=29 => {
                let value = self.value(&key);
                (encode(&[b"SET".as_slice(), key.as_bytes(), &value]), Some(Expect::Ok))
            }
            30..=59 => {
                *may_break = true;
                (encode(&["GET", &key]), Some(Expect::ValueOf(key, self.sequence)))
            }
            60..=69 => {
                // Where all the keys are on one node, it is one reply.
                *may_break = true;
                let keys = self.keys();
                let words: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
                (encode(&words), Some(Expect::ValuesOf(keys, self.sequence)))
            }
            70..=76 => {
                let mut words = vec![b"MSET".to_vec()];
                for key in self.keys() {
                    let value = self.value(&key);
                    words.extend([key.into_bytes(), value]);
                }
                (encode(&words), Some(Expect::Ok))
            }
            77..=81 => {
                let keys = self.keys();
                let words: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
                (encode(&words), Some(Expect::CountUpTo(i64::try_from(keys.len()).expect("few"))))
            }
            82..=89 => (encode(&["ECHO", &token]), Some(Expect::Exactly(token))),
            90..=91 => (format!("ECHO {token}\r\n").into_bytes(), Some(Expect::Exactly(token))),
            92 => (encode(&["HELLO", if self.random.bool() { "2" } else { "3" }]), Some(Expect::Hello)),
            93..=94 => ([encode(&["CLIENT", "REPLY", "SKIP"]), encode(&["GET", &key])].concat(), None),
            95 => {
                let value = self.value(&key);
                let set = encode(&[b"SET".as_slice(), key.as_bytes(), &value]);
                (
                    [encode(&["CLIENT", "REPLY", "OFF"]), set, encode(&["CLIENT", "REPLY", "ON"])].concat(),
                    Some(Expect::Ok),
                )
            }
            96..=97 => (encode(&["NOSUCHVERB", &token]), Some(Expect::Unknown)),
            _ => (encode(&["PING"]), Some(Expect::Exactly("PONG".to_owned()))),
        }
    }

    /// Lives until `stop`, in one connection after the other.
    fn live(mut self, address: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            let mut client = Client::connect(address);
            for _ in 0..self.random.usize(1..40) {
                if stop.load(Ordering::Relaxed) || !self.exchange(&mut client, answered) {
                    break;
                }
            }
        }
    }

    /// One round; whether the connection goes on.
    fn exchange(&mut self, client: &mut Client, answered: &AtomicU64) -> bool {
        let Round { mut bytes, mut expected, may_break } = self.round();
        let mood = self.random.u8(..30);
        if mood == 0 {
            // Leaves anywhere: in the middle of a request, of a reply, of both.
            bytes.truncate(self.random.usize(..=bytes.len()));
            expected.truncate(self.random.usize(..=expected.len()));
        }
        let ends = mood == 1;
        let pieces = self.random.usize(1..4);
        let mut writer = client.writer();
        thread::scope(|scope| {
            let sent = scope.spawn(|| -> io::Result<()> {
                for piece in bytes.chunks(bytes.len() / pieces + 1) {
                    writer.write_all(piece)?;
                }
                if ends { writer.shutdown(std::net::Shutdown::Write) } else { Ok(()) }
            });
            if mood == 0 {
                // It may wait for replies that were never asked for in full; none at all is as good a moment to leave.
                client.set_read_timeout(Duration::from_millis(50));
            }
            while let Some(expect) = expected.pop_front() {
                match client.try_receive() {
                    Ok(reply) => {
                        check(&expect, &reply.value);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) if mood == 0 => break,
                    Err(error) => {
                        let ended = !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                        assert!(ended && may_break, "no reply: {error}; {} to come", expected.len() + 1);
                        expected.clear();
                        client.close();
                        drop(sent.join());
                        return false;
                    }
                }
            }
            if mood == 0 {
                client.close();
            }
            drop(sent.join().expect("a writer does not panic"));
            if ends {
                assert!(client.try_receive().is_err(), "more replies than requests");
            }
            mood > 1
        })
    }
}

fn check(expect: &Expect, got: &Value) {
    if got.is_error() && got.text().starts_with("ERR node ") {
        return;
    }
    let fits = match expect {
        Expect::Ok => got.text() == "OK",
        Expect::ValueOf(key, sequence) => is_value_of(key, *sequence, got),
        Expect::ValuesOf(keys, sequence) => {
            keys.len() == got.items().len()
                && keys.iter().zip(got.items()).all(|(key, item)| is_value_of(key, *sequence, item))
        }
        Expect::Exactly(text) => got.text() == *text,
        Expect::CountUpTo(most) => matches!(got, Value::Integer(count) if (0..=*most).contains(count)),
        Expect::Hello => matches!(got, Value::Map(_) | Value::Array(_)),
        Expect::Unknown => got.is_error() && got.text().starts_with("ERR unknown command"),
    };
    let shown = format!("{got:?}");
    assert!(fits, "a reply that belongs elsewhere: {}", shown.get(..300).unwrap_or(&shown));
}

fn is_value_of(key: &str, most: u64, got: &Value) -> bool {
    match got {
        Value::Null => true,
        Value::Error(text) => text.starts_with(b"ERR node "),
        Value::Bulk(bytes) => {
            let end = bytes.iter().position(|byte| *byte == b';').unwrap_or(0);
            let head = String::from_utf8_lossy(&bytes[..end]);
            let sequence = head.strip_prefix(key).and_then(|rest| rest.strip_prefix('='));
            sequence.and_then(|text| text.parse::<u64>().ok()).is_some_and(|sequence| sequence <= most)
                && bytes[end + 1..].iter().all(|byte| *byte == b'.')
        }
        _ => false,
    }
}

/// Three stores, the first of them behind a relay.
struct World {
    stores: Vec<RedisServer>,
    relay: FaultProxy,
    quoit: Quoit,
}

impl World {
    fn start() -> Option<Self> {
        let stores = Fleet::stores(3)?;
        let relay = FaultProxy::start(stores[0].address());
        let quoit = Quoit::start(&Self::config(&stores, &relay, 3, 300));
        Some(Self { stores, relay, quoit })
    }

    fn config(stores: &[RedisServer], relay: &FaultProxy, nodes: usize, timeout_ms: u32) -> QuoitConfig {
        let addresses = [relay.address(), stores[1].address(), stores[2].address()];
        QuoitConfig::new((0..nodes).map(|index| (Fleet::name(index), addresses[index])))
            .pool(&format!("connect_timeout_ms = 300\nqueue_timeout_ms = 300\nservice_timeout_ms = {timeout_ms}"))
            .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 20\nbackoff_max_ms = 200\nramp_ms = 100")
    }

    fn reload(&self, nodes: usize, timeout_ms: u32) {
        self.quoit.write_config(&self.quoit.text_of(&Self::config(&self.stores, &self.relay, nodes, timeout_ms)));
        assert_eq!(self.quoit.admin("POST", "/reload").status, 200);
    }

    /// Something goes wrong, for a while.
    fn trouble(&mut self, random: &mut fastrand::Rng) {
        let while_it_lasts = Duration::from_millis(random.u64(10..600));
        let store = random.usize(..self.stores.len());
        match random.u8(..8) {
            0 => {
                self.stores[store].kill9();
                thread::sleep(while_it_lasts);
                self.stores[store].restart();
            }
            1 | 2 => {
                self.stores[store].pause();
                thread::sleep(while_it_lasts);
                self.stores[store].resume();
            }
            3 => self.relay.cut_all(),
            4 => self.reload(random.usize(1..=3), 300),
            5 => self.reload(3, random.u32(200..400)),
            kind => {
                self.relay.set(match kind {
                    6 => Fault::CutAfter(random.u64(1..200_000)),
                    _ if random.bool() => Fault::Delay(Duration::from_millis(random.u64(1..20))),
                    _ => Fault::Swallow,
                });
                thread::sleep(while_it_lasts);
                self.relay.set(Fault::None);
                // What was swallowed is gone, and a later reply must not take its place.
                self.relay.cut_all();
            }
        }
        thread::sleep(Duration::from_millis(random.u64(..100)));
    }
}

/// F1 F5 F7 F9 F10, together.
#[test]
fn replies_belong_to_their_requests() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let Some(mut world) = World::start() else { return };
    let mut random = random("chaos");
    let address = world.quoit.address();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(setting("QUOIT_CHAOS_SECONDS").unwrap_or(10));
    thread::scope(|scope| {
        let people: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let person = Person { number, random: random.fork(), sequence: 0 };
                scope.spawn(|| person.live(address, &stop, &answered))
            })
            .collect();
        while Instant::now() < end && people.iter().all(|person| !person.is_finished()) {
            world.trouble(&mut random);
        }
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("{} replies", answered.load(Ordering::Relaxed));
    assert!(answered.load(Ordering::Relaxed) > 0);
    leaves_nothing_behind(&world);
}

fn leaves_nothing_behind(world: &World) {
    world.reload(3, 300);
    let mut client = world.quoit.client();
    eventually("every key is served", PATIENCE, || {
        (0..100).all(|number| !client.command(&["SET", &format!("key {number}"), "v"]).is_error())
    });
    eventually("all clients are gone", PATIENCE, || (world.quoit.metric_sum("quoit_clients_open") - 1.0).abs() < 0.5);
    comes_to_rest(&world.quoit);
    assert!(world.quoit.metric_sum("quoit_node_breakers_open") < 0.5);
    for store in &world.stores {
        // Two workers, two protocols, and two spares for each.
        eventually("no connection is left over", PATIENCE, || store.clients().len() <= 12);
    }
    sleeps("nobody runs when it is over", &world.quoit);
    let log = world.quoit.log();
    assert!(!log.contains("panicked"), "{log}");
}
