//! The same random commands through the proxy and straight to the store: the replies must be the same bytes.
//!
//! With one node both sides talk to *one* store process, the proxy's clients in its database 0, the direct ones in its
//! database 1: so both see the same hash seed and the same clock, and even the order of a set's members must agree.
//! With three nodes the reference is a store of its own, and unordered replies are compared as sets.

mod grammar;
mod replicated;

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Client, Fleet, Program, RedisServer, Reply, Value, encode, random, setting};
use grammar::{Commands, NEWER, SEVERAL_KEYS, SINGLE_KEY};

/// Verbs of one key that the grammar leaves out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("hrandfield", "random"),
    ("object|freq", "needs another eviction policy"),
    ("object|idletime", "reads the clock"),
    ("pfdebug", "refused by the proxy"),
    ("restore-asking", "refused by the proxy"),
    ("move", "another database"),
    ("memory|usage", "allocator"),
    ("spop", "random"),
    ("spublish", "pub/sub"),
    ("srandmember", "random"),
    ("xautoclaim", "reads the clock"),
    ("xclaim", "reads the clock"),
    ("xinfo|consumers", "reads the clock"),
    ("xinfo|stream", "the radix tree's node count depends on history"),
    ("zrandmember", "random"),
];

/// Every single-key verb of the running server is asked, or named above with the reason.
#[test]
fn the_grammar_knows_every_single_key_verb_of_the_server() {
    let Some(store) = RedisServer::start() else { return };
    let mut known: BTreeSet<String> = SINGLE_KEY.iter().map(|line| verb_of(line)).collect();
    known.extend(LEFT_OUT.iter().map(|(verb, _)| (*verb).to_owned()));
    let mut missing = Vec::new();
    for row in store.client().line("COMMAND").items() {
        collect_unknown(row, &known, &mut missing);
    }
    assert!(missing.is_empty(), "add to the grammar or to LEFT_OUT: {missing:?}");
}

fn verb_of(line: &str) -> String {
    let mut words = line.split(' ');
    let verb = words.next().expect("a line has a verb").to_ascii_lowercase();
    match words.next() {
        Some(word) if word.bytes().all(|byte| byte.is_ascii_uppercase()) && !["AND", "NOT"].contains(&word) => {
            if ["object", "xgroup", "xinfo"].contains(&verb.as_str()) {
                return format!("{verb}|{}", word.to_ascii_lowercase());
            }
            verb
        }
        _ => verb,
    }
}

/// The lines whose verb this server knows.
fn known_to(store: &RedisServer, lines: &[&'static str]) -> Vec<&'static str> {
    let rows = store.client().line("COMMAND");
    let known: BTreeSet<String> = rows.items().iter().map(|row| row.items()[0].text().to_ascii_lowercase()).collect();
    let verb = |line: &str| line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    lines.iter().copied().filter(|line| known.contains(&verb(line))).collect()
}

/// Every verb of the newer servers with one key is asked of them, or named as left out.
#[test]
fn the_grammar_knows_every_single_key_verb_of_newer_servers() {
    const RANDOM: &[&str] = &["vinfo", "vlinks", "vrandmember", "vsim", "clusterscan"];
    for variable in ["QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let Some(store) = RedisServer::start_with(Program::Named(variable), &[]) else { continue };
        let mut known: BTreeSet<String> = [SINGLE_KEY, NEWER].concat().into_iter().map(verb_of).collect();
        known.extend(LEFT_OUT.iter().map(|(verb, _)| (*verb).to_owned()));
        known.extend(RANDOM.iter().map(|verb| (*verb).to_owned()));
        let mut missing = Vec::new();
        for row in store.client().line("COMMAND").items() {
            collect_unknown(row, &known, &mut missing);
        }
        missing.retain(|verb| !known.contains(&verb.to_ascii_lowercase()));
        assert!(missing.is_empty(), "{variable}: add to the grammar or to LEFT_OUT: {missing:?}");
    }
}

fn collect_unknown(row: &Value, known: &BTreeSet<String>, missing: &mut Vec<String>) {
    let [name, _, flags, first, last, _, _, _, _, subcommands, ..] = row.items() else { panic!("a row of COMMAND") };
    let flags: Vec<_> = flags.items().iter().map(Value::text).collect();
    let has = |flag: &str| flags.iter().any(|name| name == flag);
    let one_key = first == last && matches!(first, Value::Integer(1..));
    if one_key && !has("blocking") && !has("movablekeys") && !known.contains(&name.text()) {
        missing.push(name.text());
    }
    for row in subcommands.items() {
        collect_unknown(row, known, missing);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Bytes,
    /// Bytes, but any error is like another: the proxy words arity faults as Redis 7.0 does, older and newer ones do not.
    BytesOrErrors,
    /// Members of unordered aggregates in any order.
    Meaning,
}

/// Two connections that must not be told apart.
struct Pair {
    subject: Client,
    reference: Client,
    compare: Compare,
}

impl Pair {
    /// Sends `commands` to both, to the subject in pieces, and compares every reply.
    fn exchange(&mut self, commands: &[Vec<Vec<u8>>], ends: Vec<usize>, outcomes: &mut Outcomes) {
        let requests: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.subject.send_split(&requests, ends);
        self.reference.send(&requests);
        for (index, command) in commands.iter().enumerate() {
            let shown = || show(command);
            let subject = self.subject.try_receive().unwrap_or_else(|error| {
                panic!("no reply to command {index} of {}: {}: {error}", commands.len(), shown());
            });
            let reference = self.reference.receive();
            assert!(
                self.agree(command, &subject, &reference),
                "command {index} of {}: {}\n  subject   {subject:?}\n  reference {reference:?}",
                commands.len(),
                shown(),
            );
            outcomes.count(command, &reference.value);
        }
    }

    fn agree(&self, command: &[Vec<u8>], subject: &Reply, reference: &Reply) -> bool {
        let verb = command[0].to_ascii_lowercase();
        match (verb.as_slice(), &subject.value, &reference.value) {
            // Two moments: a key that lives for a day may be some milliseconds older.
            (b"ttl" | b"expiretime", Value::Integer(left), Value::Integer(right)) if *right > 0 => {
                left.abs_diff(*right) <= 60
            }
            (b"pttl" | b"pexpiretime", Value::Integer(left), Value::Integer(right)) if *right > 0 => {
                left.abs_diff(*right) <= 60_000
            }
            // The same for fields.
            (b"httl" | b"hpttl" | b"hexpiretime" | b"hpexpiretime", Value::Array(left), Value::Array(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|pair| match pair {
                        (Value::Integer(left), Value::Integer(right)) if *right > 0 => left.abs_diff(*right) <= 60_000,
                        (left, right) => left == right,
                    })
            }
            // A stream's consumers carry the moment they were last seen, and the fields of a hash that of their end. The first byte
            // is the type (RDB types 15, 19 and 21; 22 of Valkey 9, 24 and 25 of Redis 8).
            (b"dump", Value::Bulk(left), Value::Bulk(right))
                if matches!(left.first(), Some(15 | 19 | 21 | 22 | 24 | 25)) =>
            {
                left.len() == right.len() && left.first() == right.first()
            }
            // A vector set (a module's type, 7, and its id): on which levels an element is linked is drawn by chance.
            (b"dump", Value::Bulk(left), Value::Bulk(right)) if left.first() == Some(&7) => {
                left.get(..10) == right.get(..10)
            }
            // No count is as large, but `SETRANGE` may have written one into the value, and scripts have 53 bits.
            (b"pfcount", Value::Integer(left), Value::Integer(right)) if *right > 1 << 53 => {
                left.abs_diff(*right) <= 1 << 10
            }
            (b"zscan", Value::Array(left), Value::Array(right)) if self.compare == Compare::Meaning => {
                zscan_agrees(left, right)
            }
            _ if self.compare == Compare::Meaning && is_unordered(&verb) => {
                subject.value.sorted() == reference.value.sorted()
            }
            (_, Value::Error(_), Value::Error(_)) if self.compare == Compare::BytesOrErrors => true,
            _ => subject.raw == reference.raw,
        }
    }
}

/// A sorted set is listed by score while it is kept as a short list, and by a hash that each process has of its own once
/// it is not. Whether a short one is a list depends on how it came about: one that came as a payload is. Parts of a long
/// one are different members in each process.
fn zscan_agrees(left: &[Value], right: &[Value]) -> bool {
    let ([left_cursor, left], [right_cursor, right]) = (left, right) else { return left == right };
    let whole = |cursor: &Value| *cursor == Value::Bulk(b"0".to_vec());
    if !whole(left_cursor) || !whole(right_cursor) {
        return true;
    }
    let pairs = |members: &Value| {
        let mut pairs: Vec<_> = members.items().chunks(2).map(<[Value]>::to_vec).collect();
        pairs.sort();
        pairs
    };
    pairs(left) == pairs(right)
}

fn is_unordered(verb: &[u8]) -> bool {
    matches!(
        verb,
        b"hgetall" | b"hkeys" | b"hvals" | b"hscan" | b"smembers" | b"sscan" | b"sinter" | b"sunion" | b"sdiff"
    )
}

fn show(command: &[Vec<u8>]) -> String {
    let words = command.iter().map(|argument| format!("\"{}\"", argument[..argument.len().min(80)].escape_ascii()));
    words.collect::<Vec<_>>().join(" ")
}

/// How often each verb was asked, and how often it was not an error: a verb that always fails tests little.
#[derive(Default)]
struct Outcomes {
    by_verb: BTreeMap<String, (u32, u32)>,
}

impl Outcomes {
    fn count(&mut self, command: &[Vec<u8>], reply: &Value) {
        let verb = String::from_utf8_lossy(&command[0]).to_ascii_lowercase();
        let (asked, answered) = self.by_verb.entry(verb).or_default();
        *asked += 1;
        // A verb that an older server does not know is answered as much as it can be.
        *answered += u32::from(!reply.is_error() || reply.text().starts_with("ERR unknown command"));
    }

    #[track_caller]
    fn check(&self) {
        let poor: Vec<_> =
            self.by_verb.iter().filter(|(_, (asked, answered))| *asked >= 100 && *answered == 0).collect();
        // RESTORE gets random bytes on purpose: the refusal is what is compared.
        let poor: Vec<_> = poor.into_iter().filter(|(verb, _)| *verb != "restore").collect();
        assert!(poor.is_empty(), "verbs that never succeeded (asked, answered): {poor:?}");
    }
}

/// Runs about `count` commands of `lines` in random pipelines, each cut at random places.
fn run(test: &str, lines: &[&[&'static str]], prefix: &'static str, pair: &mut Pair, count: u64) {
    let count = count * setting("QUOIT_DIFFERENTIAL_FACTOR").unwrap_or(1);
    let mut commands = Commands::new(random(test), lines.iter().flat_map(|lines| lines.iter().copied()), prefix);
    let mut outcomes = Outcomes::default();
    let mut done = 0;
    while done < count {
        let length = if commands.random.bool() { 1 } else { commands.random.usize(1..60) };
        let batch: Vec<_> = (0..length).map(|_| commands.next()).collect();
        let bytes = batch.iter().map(|command| encode(command).len()).sum::<usize>();
        let ends = match commands.random.u8(..8) {
            // Every byte by itself.
            0 if bytes < 600 => (1..bytes).collect(),
            1..=3 => {
                let mut ends: Vec<_> =
                    (0..commands.random.usize(1..6)).map(|_| commands.random.usize(..bytes)).collect();
                ends.sort_unstable();
                ends
            }
            _ => Vec::new(),
        };
        pair.exchange(&batch, ends, &mut outcomes);
        done += batch.len() as u64;
    }
    outcomes.check();
}

fn one_store(fleet: &Fleet, protocol: &str) -> Pair {
    let (mut subject, mut reference) = (fleet.client(), fleet.stores[0].client());
    assert_eq!(reference.line("SELECT 1").text(), "OK");
    for client in [&mut subject, &mut reference] {
        assert!(!client.line(&format!("HELLO {protocol}")).is_error(), "HELLO {protocol}");
    }
    Pair { subject, reference, compare: Compare::Bytes }
}

#[test]
fn one_node_answers_like_the_store_resp2() {
    let Some(fleet) = Fleet::start(1) else { return };
    run("differential resp2", &[SINGLE_KEY, SEVERAL_KEYS], "", &mut one_store(&fleet, "2"), 40_000);
}

#[test]
fn one_node_answers_like_the_store_resp3() {
    let Some(fleet) = Fleet::start(1) else { return };
    run("differential resp3", &[SINGLE_KEY, SEVERAL_KEYS], "", &mut one_store(&fleet, "3"), 40_000);
}

/// One session changes protocol in the middle, between pipelines and within one.
#[test]
fn a_session_may_change_its_protocol() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut pair = one_store(&fleet, "3");
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut batch = Vec::new();
    for protocol in ["2", "3", "2", "3"] {
        batch.extend(["HSET h f v", "HGETALL h", "ZADD z 1.5 m", "ZSCORE z m", "GET nothing"].map(words));
        batch.push(words(&format!("HELLO {protocol}")));
        batch.extend(["HGETALL h", "ZSCORE z m", "GET nothing", "SMEMBERS nothing"].map(words));
    }
    let requests: Vec<u8> = batch.iter().flat_map(|command| encode(command)).collect();
    let subject = pair.subject.pipeline(&requests, batch.len());
    let reference = pair.reference.pipeline(&requests, batch.len());
    for ((command, subject), reference) in batch.iter().zip(&subject).zip(&reference) {
        if command[0] == b"HELLO" {
            // The proxy has its own name and identity; the shape of the answer must be the store's.
            assert_eq!(subject.raw[0], reference.raw[0], "{}", show(command));
            continue;
        }
        assert_eq!(subject.raw, reference.raw, "{}", show(command));
    }
}

/// Three nodes against one store that has everything: one key's commands must not notice the ring.
#[test]
fn three_nodes_answer_like_one_store() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(store) = RedisServer::start() else { return };
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (fleet.client(), store.client());
        for client in [&mut subject, &mut reference] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
        }
        let mut pair = Pair { subject, reference, compare: Compare::Meaning };
        // What a large set is iterated by (SORT's ties, SCAN's batches, DUMP's order) differs between two processes.
        let same: Vec<_> = SINGLE_KEY
            .iter()
            .copied()
            .filter(|line| !["SORT", "HSCAN", "SSCAN", "DUMP"].iter().any(|verb| line.starts_with(verb)))
            .collect();
        run("differential three nodes", &[&same], "", &mut pair, 6_000);
    }
}

/// Under one hash tag every verb over several keys works with any number of nodes.
#[test]
fn a_hash_tag_keeps_several_keys_together() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(store) = RedisServer::start() else { return };
    let mut pair = Pair { subject: fleet.client(), reference: store.client(), compare: Compare::Meaning };
    let same: Vec<_> = [SINGLE_KEY, SEVERAL_KEYS]
        .concat()
        .into_iter()
        .filter(|line| !["SORT", "HSCAN", "SSCAN", "DUMP"].iter().any(|verb| line.starts_with(verb)))
        .collect();
    run("differential hash tag", &[&same], "{tag}", &mut pair, 6_000);
}

/// Other server versions behind the proxy, where they are installed.
#[test]
fn other_servers_answer_through_the_proxy() {
    for variable in ["QUOIT_REDIS_62", "QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let Some(store) = RedisServer::start_with(Program::Named(variable), &[]) else { continue };
        let fleet = Fleet::in_front_of(vec![store], |config| config);
        for protocol in ["2", "3"] {
            let mut pair = Pair { compare: Compare::BytesOrErrors, ..one_store(&fleet, protocol) };
            run(variable, &[SINGLE_KEY, SEVERAL_KEYS], "", &mut pair, 6_000);
            run(variable, &[&known_to(&fleet.stores[0], NEWER)], "", &mut pair, 3_000);
        }
    }
}
