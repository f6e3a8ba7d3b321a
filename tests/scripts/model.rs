//! Random scripts on one key of each store against the rules of a record, written once more in Rust; and the order of
//! ballots in servers of several locales.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quoit::version::{Ballot, OpId, Record, Script};

use super::stage::{Stage, Value, bulk, record_key};
use super::{low, nothing, words};

#[derive(Clone, Debug)]
enum Step {
    Blind(Ballot),
    Prepare(Ballot),
    Apply { base: Option<Ballot>, ballot: Ballot, op: u64 },
    State { source: Record, proposal: bool },
}

/// Few values a field, so that ballots meet; high bytes, so that a comparison of characters would show.
fn ballot() -> impl Strategy<Value = Ballot> {
    let byte = prop_oneof![Just(0x01_u64), Just(0x61), Just(0x7f), Just(0x80), Just(0xc3), Just(0xff), Just(0x41)];
    let bytes = proptest::collection::vec(byte, 5);
    bytes.prop_map(|bytes| Ballot {
        hlc: 0x0199_0000_0000_0000 | bytes[0] << 32 | bytes[1],
        id: (bytes[2] % 3 + 1) << 62 | bytes[3] << 8,
        seq: u16::try_from(bytes[4] << 8 | 1).unwrap(),
    })
}

fn source() -> impl Strategy<Value = Record> {
    let id = (0..3_u64, 0..3_u64).prop_map(|(term, seq)| term << 8 | seq);
    let ids = proptest::collection::vec(id, 0..30).prop_map(|ids| ids.into_iter().take(24).collect::<Vec<_>>());
    (ballot(), any::<Option<[u8; 5]>>(), proptest::option::of(ballot()), ids, any::<(bool, bool, bool)>()).prop_map(
        |(accepted, prior, promised, ids, (tombstone, expires, transferred))| {
            let count = u32::try_from(ids.len()).unwrap();
            let promised = promised.map(Ballot::term).filter(|promised| *promised > accepted.term());
            Record { accepted, promised, prior, tombstone, expires, transferred, count, ids: ids.into(), mark: None }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => ballot().prop_map(Step::Blind),
        2 => ballot().prop_map(Step::Prepare),
        3 => (proptest::option::of(ballot()), ballot(), 0..40_u64, 0..3_u64)
            .prop_map(|(base, ballot, term, seq)| Step::Apply { base, ballot, op: term << 8 | seq }),
        2 => (source(), any::<bool>()).prop_map(|(source, proposal)| Step::State { source, proposal }),
    ]
}

/// The prior that a state under this ballot leaves.
fn prior(ballot: Ballot) -> Option<[u8; 5]> {
    (!ballot.is_zero()).then(|| low(ballot))
}

/// What becomes of the record, and the letter of the reply.
fn expected(old: &Record, step: &Step) -> (char, Record) {
    let open = |ballot: Ballot| ballot > old.accepted && old.promised.is_none_or(|promised| ballot.term() >= promised);
    let keeps = |ballot: Ballot| old.is_blind() && old.accepted.writer() == ballot.writer();
    match step {
        Step::Blind(ballot) if open(*ballot) => {
            let prior = if keeps(*ballot) && !old.transferred { old.prior } else { prior(old.accepted) };
            ('1', Record { accepted: *ballot, prior, ..Record::default() })
        }
        Step::Prepare(ballot) if ballot.term() > old.promised.unwrap_or(old.accepted.term()) => {
            ('P', Record { promised: Some(ballot.term()), ..old.clone() })
        }
        Step::Apply { base, ballot, op } if open(*ballot) => {
            if base.is_some_and(|base| base != old.accepted) {
                return ('B', old.clone());
            }
            let mut ids = old.ids.clone();
            if old.is_blind() {
                ids.push(old.accepted.id);
            } else if ids.last().is_some_and(|last| last >> 8 == op >> 8) {
                ids.pop();
                ids.push(*op);
                return (
                    'A',
                    Record { accepted: *ballot, prior: old.prior, count: old.count, ids, ..Record::default() },
                );
            }
            ids.push(*op);
            if ids.len() > 24 {
                ids.remove(0);
            }
            let (accepted, prior, count) = (*ballot, old.prior, old.count + 1);
            ('A', Record { accepted, prior, count, ids, ..Record::default() })
        }
        Step::State { source, proposal } => {
            if source.accepted == old.accepted {
                return ('1', old.clone());
            }
            if !proposal && source.accepted < old.accepted {
                return ('2', old.clone());
            }
            if !open(source.accepted) {
                return ('R', old.clone());
            }
            // A lineage that the store's own state is part of began before it.
            let last = old.ids.last().copied().unwrap_or(old.accepted.id);
            let builds = |id: &u64| id >> 8 == last >> 8 && *id >= last;
            let grown = !source.ids.is_empty() && !old.accepted.is_zero() && source.ids.iter().any(builds);
            let keeps = source.is_blind() && keeps(source.accepted) || grown;
            let prior = if keeps { old.prior } else { prior(old.accepted) };
            ('1', Record { prior, promised: None, transferred: true, ..source.clone() })
        }
        Step::Blind(_) | Step::Prepare(_) | Step::Apply { .. } => ('R', old.clone()),
    }
}

fn take(stage: &mut Stage, step: &Step) -> Value {
    match step {
        Step::Blind(ballot) if ballot.hlc % 2 == 0 => stage.blind("k", *ballot, "0", ""),
        // Among others it comes to the same.
        Step::Blind(ballot) => match stage.blind_many(&[("k", *ballot, "0"), ("beside", Ballot::default(), "0")], "") {
            Value::Integer(1) => Value::Integer(1),
            all => all.items()[1].clone(),
        },
        Step::Prepare(ballot) => stage.prepare(&["k"], ballot.term()),
        Step::Apply { base, ballot, op } => {
            // The base that is there, mostly: few random ones are.
            let base = base.map_or_else(|| b"*".to_vec(), |base| base.encode().to_vec());
            stage.apply("k", &base, *ballot, OpId(*op), "SET k 1")
        }
        Step::State { source, proposal } => {
            let payload = if source.tombstone { Vec::new() } else { stage.fetch("value").items()[2].bytes().to_vec() };
            stage.state("k", source, &payload, "", if *proposal { "P" } else { "W" })
        }
    }
}

fn clear(stage: &mut Stage) {
    stage.call(words!["DEL", "k", record_key("k"), "beside", record_key("beside")]);
    stage.line("SET value v");
}

#[test]
fn records_follow_the_rules() {
    Stage::on_every_store(|stage| {
        let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let stage = std::cell::RefCell::new(stage);
        let steps = proptest::collection::vec(step(), 1..25);
        let ran = runner.run(&steps, |steps| {
            let stage = &mut **stage.borrow_mut();
            clear(stage);
            let mut record = Record::default();
            for step in steps {
                let (letter, next) = expected(&record, &step);
                let before = stage.record_bytes("k");
                let reply = take(stage, &step);
                prop_assert_eq!(reply.letter(), letter, "{:?} on {:?} gave {:?}", step, record, reply);
                if matches!(letter, 'R' | 'B') {
                    let shown = if before.is_empty() { nothing() } else { bulk(&before) };
                    prop_assert_eq!(&reply.items()[1], &shown);
                }
                prop_assert_eq!(&stage.record("k"), &next, "{:?} on {:?}", step, record);
                record = next;
            }
            Ok(())
        });
        ran.unwrap_or_else(|fault| panic!("{}: {fault}", stage.borrow().name));
    });
}

/// Lua's `<` on strings asks the locale, and servers take theirs from the environment.
#[test]
fn the_order_of_ballots_is_that_of_bytes_in_every_locale() {
    for locale in ["C", "C.UTF-8", "en_US.UTF-8", "de_DE.ISO-8859-1"] {
        let Some(mut stage) = Stage::real("redis-server", Some(locale)) else { return };
        let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let stage = std::cell::RefCell::new(&mut stage);
        let ran = runner.run(&(ballot(), ballot()), |(left, right)| {
            let stage = &mut **stage.borrow_mut();
            clear(stage);
            stage.blind("k", left, "v", "");
            let newer = Record { accepted: right, ..Record::default() };
            let taken = [
                (stage.apply("k", b"*", right, OpId(1), "").letter() == 'A', right > left),
                (stage.state("k", &newer, b"", "", "P") == Value::Integer(1), right >= left),
            ];
            for (got, want) in taken {
                prop_assert_eq!(got, want, "{:?} after {:?}", right, left);
            }
            clear(stage);
            stage.blind("k", left, "v", "");
            let promised = stage.prepare(&["k"], right.term()).letter() == 'P';
            prop_assert_eq!(promised, right.term() > left.term());
            let args = words![right.encode(), "0", "SET", "v", ""];
            let taken = stage.run(Script::Blind, &[b"k".to_vec(), record_key("k")], args) == Value::Integer(1);
            prop_assert_eq!(taken, right > left);
            Ok(())
        });
        ran.unwrap_or_else(|fault| panic!("{}: {fault}", stage.borrow().name));
    }
}
