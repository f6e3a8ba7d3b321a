//! What a command over several keys leaves until it is decided, and how that ends.

use quoit::version::{
    Ballot, FENCE_KEY, OpId, Record, Script, is_reserved, key_of_record, piece_name, placed_as, write_decision_key,
    write_piece_key, write_record_key,
};

use crate::stage::{GRACE_MS, Stage, TOMBSTONE_MS, Value, bulk, record_key};
use crate::{at, nothing};

const KEYS: [&str; 2] = ["a", "b"];

fn piece(ballot: Ballot) -> Vec<u8> {
    let mut key = Vec::new();
    write_piece_key(&piece_name(ballot, b"a"), &mut key);
    key
}

impl Stage {
    fn run_on_both(&mut self, script: &str, piece: &[u8], args: Vec<Vec<u8>>) -> Value {
        let mut words: Vec<Vec<u8>> = vec![b"EVALSHA".to_vec(), script.as_bytes().to_vec(), b"6".to_vec()];
        words.extend(KEYS.map(|key| key.as_bytes().to_vec()));
        words.extend(KEYS.map(record_key));
        words.extend([FENCE_KEY.to_vec(), piece.to_vec(), crate::stage::FENCE.as_bytes().to_vec()]);
        words.extend(args);
        self.call(words)
    }

    /// Runs a command that writes both keys, on what is there; the states that it gives.
    fn run_piece(&mut self, ballot: Ballot, command: &str) -> Value {
        let mut args = vec![ballot.encode().to_vec(), ballot.op_id().0.to_be_bytes().to_vec(), b"2".to_vec()];
        args.extend([GRACE_MS, TOMBSTONE_MS, 2].map(|number| number.to_string().into_bytes()));
        args.push(b"11".to_vec());
        args.extend(KEYS.map(|key| self.record(key).accepted.encode().to_vec()));
        args.extend(command.split(' ').map(|word| word.as_bytes().to_vec()));
        self.run_on_both(Script::Exec.sha(), &piece(ballot), args)
    }

    fn stage_piece(&mut self, ballot: Ballot, states: [[&[u8]; 3]; 2]) -> Value {
        let mut args = vec![b"1:a1:b".to_vec()];
        args.extend(states.concat().into_iter().map(<[u8]>::to_vec));
        self.run_on_both(Script::Stage.sha(), &piece(ballot), args)
    }

    fn decide(&mut self, ballot: Ballot, stays: bool) {
        let mut args = vec![if stays { b"1".to_vec() } else { b"0".to_vec() }];
        args.extend([GRACE_MS, TOMBSTONE_MS].map(|number| number.to_string().into_bytes()));
        assert_eq!(self.run_on_both(Script::Decide.sha(), &piece(ballot), args), Value::Integer(1));
        assert_eq!(self.call(vec![b"EXISTS".to_vec(), piece(ballot)]), Value::Integer(0));
    }

    fn dumped(&mut self, key: &str) -> Vec<u8> {
        match self.line(&format!("DUMP {key}")) {
            Value::Bulk(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// Both keys are marked: nobody gets to them.
    #[track_caller]
    fn check_marked(&mut self, ballot: Ballot) {
        for key in KEYS {
            let (bytes, record) = (self.record_bytes(key), self.record(key));
            assert_eq!(record.mark.as_deref(), Some(&*piece_name(ballot, b"a")));
            assert_eq!(self.record_pttl(key), -1, "a mark does not go by itself");
            let refused = Value::Array(vec![bulk("R"), Value::Bulk(bytes)]);
            let later = at(1 << 24, 9);
            assert_eq!(self.blind(key, later, "v", ""), refused);
            let base = record.accepted.encode();
            assert_eq!(self.apply(key, &base, later, OpId(5), "SET a w"), refused);
            let newer = Record { accepted: later, ..Record::default() };
            assert_eq!(self.state(key, &newer, b"", "", "W"), refused);
            assert_eq!(self.state(key, &newer, b"", "", "P"), refused);
        }
        let refused = self.exec(&KEYS, "11", at(1 << 24, 9), 7, "RENAME a b");
        assert!(matches!(refused, Value::Array(items) if items[0] == bulk("R")));
    }
}

#[test]
fn the_replica_that_runs_it_can_take_it_back() {
    for stays in [true, false] {
        Stage::on_every_store(|stage| {
            let end = crate::far_ahead(stage);
            stage.blind("a", at(10, 1), "one", &end);
            stage.blind("b", at(10, 2), "two", "");
            stage.prepare(&KEYS, at(20, 3).term());
            let (ballot, before) = (at(20, 3).next_in_term().unwrap(), KEYS.map(|key| stage.record(key)));
            let expiry = stage.line("PTTL a").integer();
            let answer = stage.run_piece(ballot, "RENAME a b");
            assert_eq!(answer.items()[0], bulk("X"), "{answer:?}");
            stage.check_marked(ballot);
            stage.decide(ballot, stays);
            stage.decide(ballot, !stays);
            if stays {
                assert_eq!(stage.line("MGET a b"), Value::Array(vec![Value::Null, bulk("one")]));
                for (n, key) in KEYS.iter().enumerate() {
                    assert_eq!(Value::Bulk(stage.record_bytes(key)), answer.items()[2 + 3 * n]);
                    assert_eq!(stage.record(key).accepted, ballot);
                }
                assert!(stage.record_pttl("a") > 0, "a tombstone");
            } else {
                assert_eq!(stage.line("MGET a b"), Value::Array(vec![bulk("one"), bulk("two")]));
                assert!(stage.line("PTTL a").integer() > expiry - 10_000 && stage.line("PTTL a").integer() <= expiry);
                assert_eq!(KEYS.map(|key| stage.record(key)), before);
            }
        });
    }
}

#[test]
fn others_take_all_or_none() {
    for stays in [true, false] {
        Stage::on_every_store(|stage| {
            stage.line("SET x new");
            let payload = stage.dumped("x");
            stage.blind("a", at(10, 1), "one", "");
            let ballot = at(20, 3).next_in_term().unwrap();
            let source = Record::default().followed_by(ballot);
            let mut bytes = Vec::new();
            source.encode(&mut bytes);
            // One of them cannot be loaded.
            let answer = stage.stage_piece(ballot, [[&bytes, &payload, b""], [&bytes, b"rubbish", b""]]);
            assert_eq!(answer.items()[0], bulk("E"), "{answer:?}");
            assert_eq!(stage.line("MGET a b"), Value::Array(vec![bulk("one"), Value::Null]));
            // One of them is promised to others.
            stage.prepare(&["b"], at(30, 4).term());
            let answer = stage.stage_piece(ballot, [[&bytes, &payload, b""], [&bytes, &payload, b""]]);
            assert_eq!(answer.items()[0], bulk("R"), "{answer:?}");
            assert_eq!(stage.record("a").mark, None);
            let ballot = at(40, 3).next_in_term().unwrap();
            let mut bytes = Vec::new();
            Record::default().followed_by(ballot).encode(&mut bytes);
            let states: [[&[u8]; 3]; 2] = [[&bytes, b"", b""], [&bytes, &payload, b""]];
            assert_eq!(stage.stage_piece(ballot, states), Value::Integer(1));
            stage.check_marked(ballot);
            // A promise may be given meanwhile, and is kept.
            stage.prepare(&["a"], at(50, 5).term());
            stage.decide(ballot, stays);
            let wanted = if stays { vec![Value::Null, bulk("new")] } else { vec![bulk("one"), Value::Null] };
            assert_eq!(stage.line("MGET a b"), Value::Array(wanted));
            assert_eq!(stage.record("a").promised, Some(at(50, 5).term()));
            assert_eq!(stage.record("a").accepted, if stays { ballot } else { at(10, 1) });
            assert_eq!(stage.record("b").promised.is_some(), !stays);
        });
    }
}

#[test]
fn a_full_store_can_end_it() {
    for stays in [true, false] {
        Stage::on_every_store(|stage| {
            stage.blind("a", at(10, 1), "one", "");
            stage.prepare(&KEYS, at(20, 3).term());
            let ballot = at(20, 3).next_in_term().unwrap();
            assert_eq!(stage.run_piece(ballot, "RENAME a b").items()[0], bulk("X"));
            stage.fill(true);
            stage.decide(ballot, stays);
            stage.fill(false);
            let kept = if stays { vec![Value::Null, bulk("one")] } else { vec![bulk("one"), Value::Null] };
            assert_eq!(stage.line("MGET a b"), Value::Array(kept));
        });
    }
}

#[test]
fn names() {
    let (mut key, mut decision, mut record) = (Vec::new(), Vec::new(), Vec::new());
    let name = piece_name(at(1, 1), b"some{tag}");
    write_piece_key(&name, &mut key);
    write_decision_key(&name, &mut decision);
    write_record_key(&decision, &mut record);
    assert!(is_reserved(&key) && is_reserved(&decision) && key != decision);
    assert_eq!(key_of_record(&record), Some(&*decision));
    assert_eq!(placed_as(&decision), b"some{tag}");
    assert_eq!(placed_as(b"some{tag}"), b"some{tag}");
    assert_eq!(nothing(), bulk(""));
}
