//! Three replicas of each key answer like one store: with all of them, without one, and while one is lost.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::thread;

use quoit::command::{self, Flag, Handling, Row};

use super::grammar::{Commands, NEWER, SEVERAL_KEYS, SINGLE_KEY};
use super::{Compare, LEFT_OUT, Outcomes, Pair, known_to, show, verb_of};
use crate::support::{
    Cluster, DURABLE, PATIENCE, Program, Reach, RedisServer, Value, encode, eventually, is_refused, is_unknown,
    patient, random, replicas_converge, setting,
};

/// What two processes list, number or encode differently, whatever stands between them and the client: ties of `SORT`,
/// cursors, payloads, and how a value is kept after it came as a payload.
const DIFFERS: [&str; 5] = ["SORT", "HSCAN", "SSCAN", "DUMP", "OBJECT"];

fn lines(of: &[&'static [&'static str]]) -> Vec<&'static str> {
    let all = of.concat().into_iter();
    // A sort whose result is kept compares bytes: it has no ties.
    all.filter(|line| line.contains(" STORE ") || !DIFFERS.iter().any(|verb| line.starts_with(verb))).collect()
}

/// Fields of more than 53 bits are refused: a script would lose their last digits.
fn is_wide(command: &[Vec<u8>]) -> bool {
    let wide = |word: &Vec<u8>| {
        let bits = word.strip_prefix(b"i").or(word.strip_prefix(b"u")).and_then(|bits| std::str::from_utf8(bits).ok());
        bits.and_then(|bits| bits.parse::<u32>().ok()).is_some_and(|bits| bits > 53)
    };
    command[0].eq_ignore_ascii_case(b"bitfield") && command.iter().any(wide)
}

/// A cluster and the one store it is compared with.
struct Comparison {
    cluster: Cluster,
    reference: RedisServer,
    /// Commands whose fate the proxy did not know: allowed while a store is being lost.
    unknown: u32,
    /// What was asked and answered, to tell how a difference came about.
    history: Vec<(Vec<Vec<u8>>, String)>,
}

impl Comparison {
    fn start(stores: usize) -> Option<Self> {
        let cluster = Cluster::start_with(stores, 1, Reach::Direct, patient)?;
        if !cluster.has_proxies() {
            return None;
        }
        Some(Self { cluster, reference: RedisServer::start()?, unknown: 0, history: Vec::new() })
    }

    fn pair(&self, protocol: &str) -> Pair {
        let (mut subject, mut reference) = (self.cluster.client(0), self.reference.client());
        for client in [&mut subject, &mut reference] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error(), "HELLO {protocol}");
        }
        Pair { subject, reference, compare: Compare::Meaning }
    }

    /// About `count` random commands in pipelines; `at_half` happens while they run.
    fn run(&mut self, test: &str, prefix: &'static str, protocol: &str, at_half: impl FnOnce(&mut Cluster)) {
        let count = 5_000 * setting("QUOIT_DIFFERENTIAL_FACTOR").unwrap_or(1);
        let lines = if prefix.is_empty() { lines(&[SINGLE_KEY]) } else { lines(&[SINGLE_KEY, SEVERAL_KEYS]) };
        let mut commands = Commands::new(random(test), lines, prefix);
        let (mut pair, mut outcomes) = (self.pair(protocol), Outcomes::default());
        let (mut done, mut at_half) = (0, Some(at_half));
        while done < count {
            let length = if commands.random.bool() { 1 } else { commands.random.usize(1..60) };
            let batch: Vec<_> = (0..length).map(|_| commands.next()).filter(|command| !is_wide(command)).collect();
            if !self.exchange(&mut pair, &batch, &mut outcomes) {
                self.begin_again(&mut pair);
            }
            done += length as u64;
            if done >= count / 2
                && let Some(happen) = at_half.take()
            {
                happen(&mut self.cluster);
            }
        }
        outcomes.check();
    }

    /// Sends the batch to both sides. False when the fate of a command is unknown, so that the two may differ now.
    fn exchange(&mut self, pair: &mut Pair, batch: &[Vec<Vec<u8>>], outcomes: &mut Outcomes) -> bool {
        let requests: Vec<u8> = batch.iter().flat_map(|command| encode(command)).collect();
        let subjects = pair.subject.pipeline(&requests, batch.len());
        let references = pair.reference.pipeline(&requests, batch.len());
        for (index, ((command, subject), reference)) in batch.iter().zip(subjects).zip(references).enumerate() {
            if is_unknown(&subject.value) || is_refused(&subject.value) {
                eprintln!("command {index} of {}: {}: {:?}", batch.len(), show(command), subject.value);
                self.unknown += 1;
                return false;
            }
            assert!(
                pair.agree(command, &subject, &reference),
                "command {index} of {}: {}\n  replicas  {subject:?}\n  one store {reference:?}\n  after\n    {}",
                batch.len(),
                show(command),
                self.before(command),
            );
            outcomes.count(command, &reference.value);
            self.history.push((command.clone(), format!("{:?}", reference.value)));
        }
        true
    }

    /// The last commands that share a key with this one, and their answers.
    fn before(&self, command: &[Vec<u8>]) -> String {
        let shares = |other: &[Vec<u8>]| other[1..].iter().any(|word| word.contains(&b':') && command.contains(word));
        let mut last: Vec<_> = self.history.iter().rev().filter(|(other, _)| shares(other)).take(8).collect();
        last.reverse();
        let lines: Vec<_> = last.iter().map(|(command, reply)| format!("{} -> {reply:.80}", show(command))).collect();
        lines.join("\n    ")
    }

    /// Removes all keys on both sides.
    fn begin_again(&self, pair: &mut Pair) {
        let mut keys = BTreeSet::new();
        for store in self.cluster.stores.iter().chain([&self.reference]).filter(|store| store.is_running()) {
            let all = store.client().line("KEYS *");
            keys.extend(all.items().iter().filter_map(|key| match key {
                Value::Bulk(key) if !key.starts_with(b"\0q") => Some(key.clone()),
                _ => None,
            }));
        }
        for key in keys {
            let command = [b"DEL".to_vec(), key];
            eventually("a key is deleted", PATIENCE, || !pair.subject.command(&command).is_error());
            pair.reference.command(&command);
        }
    }

    /// The replicas are equal, and still so when each has started again from its log.
    fn equal_afterwards(&mut self, test: &str) {
        eprintln!("{test}: {} commands of unknown fate", self.unknown);
        replicas_converge(&self.cluster.stores, self.cluster.replicas, test, PATIENCE);
        for store in self.cluster.stores.iter_mut().filter(|store| store.is_durable()) {
            store.kill9();
            store.restart();
        }
        replicas_converge(&self.cluster.stores, self.cluster.replicas, &format!("{test}, from the logs"), PATIENCE);
    }
}

#[test]
fn replicas_answer_like_one_store() {
    let Some(mut both) = Comparison::start(3) else { return };
    for protocol in ["2", "3"] {
        both.run("replicas", "", protocol, |_| ());
    }
    assert_eq!(both.unknown, 0, "nothing was wrong with any store");
    both.equal_afterwards("replicas");
}

#[test]
fn replicas_answer_like_one_store_under_a_hash_tag() {
    for stores in [3, 5] {
        let Some(mut both) = Comparison::start(stores) else { return };
        for protocol in ["2", "3"] {
            both.run("replicas, hash tag", "{tag}", protocol, |_| ());
        }
        assert_eq!(both.unknown, 0, "nothing was wrong with any store");
        both.equal_afterwards("replicas, hash tag");
    }
}

#[test]
fn five_stores_answer_like_one() {
    let Some(mut both) = Comparison::start(5) else { return };
    for protocol in ["2", "3"] {
        both.run("five stores", "", protocol, |_| ());
    }
    assert_eq!(both.unknown, 0, "nothing was wrong with any store");
    both.equal_afterwards("five stores");
}

/// Without one replica from the beginning: nothing is unknown once the proxy has noticed.
#[test]
fn two_of_three_answer_like_one_store() {
    for (lost, prefix) in [(0, ""), (1, "{tag}"), (2, "{tag}")] {
        let Some(mut both) = Comparison::start(3) else { return };
        both.cluster.stores[lost].kill9();
        let mut client = both.cluster.client(0);
        eventually("writes go on without one store", PATIENCE, || !client.line("SET first 1").is_error());
        eventually("the key is deleted", PATIENCE, || !client.line("DEL first").is_error());
        both.run("two of three", prefix, "3", |_| ());
        assert!(both.unknown <= 2, "{} commands of unknown fate without a fault of their own", both.unknown);
        both.cluster.stores[lost].restart();
        both.equal_afterwards("two of three");
    }
}

/// A replica is killed in the middle, and comes back with what it had.
#[test]
fn a_replica_that_is_lost_in_the_middle() {
    for (lost, prefix) in [(1, ""), (0, "{tag}"), (2, "{tag}")] {
        let Some(mut both) = Comparison::start(3) else { return };
        both.run("lost in the middle", prefix, "2", |cluster| cluster.stores[lost].kill9());
        assert!(both.unknown <= 10, "{} commands of unknown fate after one fault", both.unknown);
        both.cluster.stores[lost].restart();
        both.run("and back", prefix, "3", |_| ());
        both.equal_afterwards("lost in the middle");
    }
}

/// The same while clients write: no request is between two others when the store dies.
#[test]
fn a_replica_that_is_lost_within_a_pipeline() {
    let Some(mut both) = Comparison::start(3) else { return };
    let lines = lines(&[SINGLE_KEY, SEVERAL_KEYS]);
    let mut commands = Commands::new(random("lost within a pipeline"), lines, "{tag}");
    let (mut pair, mut outcomes) = (both.pair("3"), Outcomes::default());
    for lost in [0, 1, 2] {
        let batch: Vec<_> = (0..600).map(|_| commands.next()).filter(|command| !is_wide(command)).collect();
        let requests: Vec<u8> = batch.iter().flat_map(|command| encode(command)).collect();
        let mut writer = pair.subject.writer();
        let subjects = thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&requests).expect("the proxy takes the requests"));
            let first = pair.subject.receive();
            both.cluster.stores[lost].kill9();
            let rest = (1..batch.len()).map(|_| pair.subject.receive());
            [first].into_iter().chain(rest).collect::<Vec<_>>()
        });
        let references = pair.reference.pipeline(&requests, batch.len());
        let mut known = true;
        for ((command, subject), reference) in batch.iter().zip(subjects).zip(references) {
            if is_unknown(&subject.value) || is_refused(&subject.value) {
                both.unknown += 1;
                known = false;
                break;
            }
            let same = pair.agree(command, &subject, &reference);
            assert!(same, "{}\n  replicas  {subject:?}\n  one store {reference:?}", show(command));
            outcomes.count(command, &reference.value);
        }
        both.cluster.stores[lost].restart();
        if !known {
            both.begin_again(&mut pair);
        }
        replicas_converge(&both.cluster.stores, 3, "lost within a pipeline", PATIENCE);
    }
    both.equal_afterwards("lost within a pipeline");
}

#[test]
fn newer_verbs_are_replicated() {
    for variable in ["QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let start = || RedisServer::start_with(Program::Named(variable), DURABLE);
        let Some(stores) = (0..3).map(|_| start()).collect::<Option<Vec<_>>>() else { continue };
        let Some(reference) = start() else { continue };
        let cluster = Cluster::in_front_of(stores, 1, Reach::Direct, |_, config| config);
        if !cluster.has_proxies() {
            return;
        }
        let own = known_to(&reference, NEWER);
        let mut both = Comparison { cluster, reference, unknown: 0, history: Vec::new() };
        let mut pair = both.pair("3");
        pair.compare = Compare::BytesOrErrors;
        let (mut commands, mut outcomes) = (Commands::new(random(variable), own, ""), Outcomes::default());
        for _ in 0..100 {
            let batch: Vec<_> = (0..20).map(|_| commands.next()).filter(|command| !is_wide(command)).collect();
            assert!(both.exchange(&mut pair, &batch, &mut outcomes), "nothing was wrong with any store");
        }
        // The digest of a hash does not tell when its fields expire; the values must be equal at least.
        both.equal_afterwards(variable);
    }
}

/// Write verbs that the grammar leaves out, and where they are tested.
const ELSEWHERE: &[(&str, &str)] = &[
    ("msetex", "needs a server that no test installs"),
    ("xautoclaim", "replication::verbs"),
    ("xclaim", "replication::verbs"),
    ("xreadgroup", "replication::verbs"),
];

/// Every write verb that is served is asked of a replicated pool.
#[test]
fn the_grammar_knows_every_write_verb_that_is_served() {
    let mut known: BTreeSet<String> = [SINGLE_KEY, SEVERAL_KEYS, NEWER].concat().into_iter().map(verb_of).collect();
    known.extend(ELSEWHERE.iter().chain(LEFT_OUT).map(|(verb, _)| (*verb).to_owned()));
    let mut missing = Vec::new();
    for row in command::all() {
        collect_unknown_writes(row, &known, &mut missing);
    }
    assert!(missing.is_empty(), "add to the grammar or to ELSEWHERE: {missing:?}");
}

fn collect_unknown_writes(row: &'static Row, known: &BTreeSet<String>, missing: &mut Vec<&'static str>) {
    let served = |row: &Row| matches!(row.handling, Handling::Forward | Handling::SameNode | Handling::Split(_));
    let any = served(row) || row.variants.iter().any(|variant| served(&variant.row));
    if any && row.flags.contains(Flag::Write) && !known.contains(row.name) {
        missing.push(row.name);
    }
    for row in row.subcommands {
        collect_unknown_writes(row, known, missing);
    }
}
