//! The core without sockets: what a simulation relies on.

use super::{SessionState, Store};

const NOW_MS: u64 = 1_800_000_000_000;

struct Client {
    store: Store,
    session: SessionState,
    now_ms: u64,
}

impl Client {
    fn new(seed: u64) -> Self {
        Self { store: Store::new(seed), session: SessionState::new(1), now_ms: NOW_MS }
    }

    fn call_words(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        self.store.execute(&mut self.session, words, self.now_ms, &mut out);
        out
    }

    fn call(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8(self.call_words(&words)).unwrap()
    }

    #[track_caller]
    fn check(&mut self, line: &str, want: &str) {
        assert_eq!(self.call(line), want, "{line}");
    }

    /// The elements of the array inside a SCAN reply, and its cursor.
    fn scan(&mut self, line: &str) -> (String, Vec<String>) {
        let reply = self.call(line);
        let mut words = reply.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).map(str::to_owned);
        let cursor = words.next().unwrap();
        (cursor, words.filter(|word| !word.is_empty()).collect())
    }
}

/// Changes of all types over a few keys, some of them expiring.
fn random_change(random: &mut fastrand::Rng) -> String {
    let (key, other, item, number) = (random.u8(..8), random.u8(..8), random.u8(..30), random.i8(-9..9));
    let choices = [
        format!("set s{key} {item}{item}"),
        format!("append s{key} x{item}"),
        format!("setrange s{key} {item} {item}"),
        format!("hset h{key} {item} {number} a b"),
        format!("hdel h{key} {item} a"),
        format!("hincrby h{key} c {number}"),
        format!("rpush l{key} {item} {number}"),
        format!("lpop l{key} 3"),
        format!("ltrim l{key} {number} -2"),
        format!("lrem l{key} {number} {item}"),
        format!("linsert l{key} before {item} new"),
        format!("lset l{key} {number} set{item}"),
        format!("lmove l{key} l{other} left right"),
        format!("sadd t{key} {item} {number}"),
        format!("srem t{key} {item}"),
        format!("spop t{key} 2"),
        format!("smove t{key} t{other} {item}"),
        format!("sunionstore t{key} t{other} t{key}"),
        format!("zadd z{key} {number} {item}"),
        format!("zincrby z{key} {number} {item}"),
        format!("zrem z{key} {item}"),
        format!("zremrangebyscore z{key} {number} 3"),
        format!("zpopmax z{key}"),
        format!("rename s{key} s{other}"),
        format!("copy h{key} h{other} replace"),
        format!("del t{key} l{other}"),
        format!("pexpire z{key} {}", u64::from(item) * 50),
    ];
    random.choice(choices).unwrap()
}

#[test]
fn the_same_seed_and_commands_give_the_same_bytes() {
    let run = || {
        let mut random = fastrand::Rng::with_seed(7);
        let mut client = Client::new(1);
        let mut replies = String::new();
        for step in 0..2000 {
            client.now_ms = NOW_MS + step;
            replies += &client.call(&random_change(&mut random));
            client.store.expire_sample(client.now_ms);
        }
        replies + &client.call("keys *") + &client.call("randomkey") + &client.call("info")
    };
    assert_eq!(run(), run());
}

#[test]
fn a_dump_restores_every_type_and_the_bytes_are_counted_right() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut client, mut copy) = (Client::new(1), Client::new(2));
    for step in 0..3000 {
        client.now_ms = NOW_MS + step;
        client.call(&random_change(&mut random));
    }
    copy.now_ms = client.now_ms;
    while client.store.expire_sample(client.now_ms) > 0 {}
    let (_, keys) = client.scan("scan 0 count 1000");
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let reply = client.call_words(&[b"dump", key.as_bytes()]);
        let start = reply.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let payload = &reply[start..reply.len() - 2];
        let expiry = client.call(&format!("pexpiretime {key}"));
        let expiry = expiry.trim_start_matches(':').trim_end().replace("-1", "0");
        let words: [&[u8]; 5] = [b"restore", key.as_bytes(), expiry.as_bytes(), payload, b"absttl"];
        assert_eq!(copy.call_words(&words), b"+OK\r\n", "{key}");
        assert_eq!(copy.call_words(&[b"dump", key.as_bytes()]), reply, "{key}");
        assert_eq!(copy.call(&format!("pttl {key}")), client.call(&format!("pttl {key}")));
    }
    // The copy was counted from nothing, the original through thousands of changes.
    let live = client.call("dbsize");
    assert_eq!(copy.call("dbsize"), live);
    assert_eq!(copy.store.memory_bytes(), client.store.memory_bytes());
    client.call("flushall");
    assert_eq!(client.store.memory_bytes(), 0);
}

#[test]
fn a_scan_returns_every_key_that_stays_whatever_comes_and_goes() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut client = Client::new(1);
    for number in 0..1000 {
        client.call(&format!("set stays{number} 1"));
        client.call(&format!("set goes{number} 1"));
        client.call(&format!("hset big stays{number} 1 goes{number} 1"));
    }
    for (verb, remove, add) in [("scan", "del", "mset"), ("hscan big", "hdel big", "hset big")] {
        let (mut cursor, mut seen) = ("0".to_owned(), std::collections::BTreeSet::new());
        loop {
            let (next, items) = client.scan(&format!("{verb} {cursor} count 7"));
            seen.extend(items.into_iter().filter(|item| item.starts_with("stays")));
            client.call(&format!("{remove} goes{} goes{}", random.u16(..1000), random.u16(..1000)));
            client.call(&format!("{add} new{} 1", random.u16(..1000)));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        assert_eq!(seen.len(), 1000, "{verb}");
    }
}

#[test]
fn expired_keys_go_when_asked_for_and_when_nobody_asks() {
    let mut client = Client::new(1);
    for number in 0..100 {
        client.call(&format!("set k{number} v px 100"));
    }
    client.check("pttl k1", ":100\r\n");
    client.now_ms += 99;
    client.check("get k1", "$1\r\nv\r\n");
    client.now_ms += 1;
    client.check("get k1", "$-1\r\n");
    client.check("keys *", "*0\r\n");
    for _ in 0..10_000 {
        client.store.expire_sample(client.now_ms);
    }
    client.check("dbsize", ":0\r\n");
    assert_eq!(client.store.memory_bytes(), 0);
}

#[test]
fn a_script_sees_the_time_of_its_command() {
    let mut client = Client::new(1);
    let script: &[u8] = b"local t = redis.call('TIME') return t[1] .. '/' .. t[2]";
    assert_eq!(client.call_words(&[b"eval", script, b"0"]), b"$12\r\n1800000000/0\r\n");
    client.now_ms += 7;
    assert_eq!(client.call_words(&[b"eval", script, b"0"]), b"$15\r\n1800000000/7000\r\n");
}

#[test]
fn a_failing_script_leaves_the_session_and_the_next_script_alone() {
    let mut client = Client::new(1);
    client.check("multi", "+OK\r\n");
    client.check("eval error('x') 0", "+QUEUED\r\n");
    client.check("eval return(redis.call('incr','n')) 0", "+QUEUED\r\n");
    let replies = client.call("exec");
    assert!(replies.starts_with("*2\r\n-ERR user_script:1: x script: "), "{replies}");
    assert!(replies.ends_with("\r\n:1\r\n"), "{replies}");
    for script in ["string.rep=nil", "rawset(_G,'x',1)", "getmetatable('').__index.rep=nil", "loadstring('x=1')()"] {
        assert!(client.call(&format!("eval {script} 0")).starts_with("-ERR"), "{script}");
    }
    client.check("eval return(('x'):rep(3)) 0", "$3\r\nxxx\r\n");
}

#[test]
fn odd_words_do_not_end_the_process() {
    let mut client = Client::new(1);
    let words: [&[u8]; 12] = [
        b"",
        b"0",
        b"-1",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"\xff\x00",
        b"inf",
        b"nan",
        b"k",
        b"l",
        b"[",
        b"(",
    ];
    let mut random = fastrand::Rng::with_seed(11);
    let skipped = ["eval", "eval_ro"];
    for verb in super::table::VERBS.iter().filter(|verb| !skipped.contains(&verb.name)) {
        for _ in 0..300 {
            let mut command: Vec<&[u8]> = vec![verb.name.as_bytes()];
            command.extend((0..random.usize(..6)).map(|_| *random.choice(&words).unwrap()));
            assert!(client.call_words(&command).ends_with(b"\r\n"), "{}", verb.name);
        }
    }
}
