//! The scripts of `quoit::version` on real stores (Redis 7.0; 6.2, 8 and Valkey where `QUOIT_REDIS_62`, `QUOIT_REDIS_8`
//! and `QUOIT_VALKEY` name them) and on the embedded one: what they accept, what they refuse, what they leave behind.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "the helpers of a test may end it")]

mod model;
mod piece;
mod stage;

use quoit::version::{Ballot, OpId, Record, Script, Term};
use stage::{FENCE, GRACE_MS, Stage, TOMBSTONE_MS, Value, bulk};

/// The ballot of a time, of a writer's number one.
fn at(hlc: u64, writer: u64) -> Ballot {
    Ballot { hlc: hlc << 16, id: writer << 24 | (hlc & 0xffff) << 8, seq: 0 }
}

fn nothing() -> Value {
    bulk("")
}

fn answer(existed: i64, reply: Value) -> Value {
    Value::Array(vec![bulk("A"), Value::Integer(existed), reply])
}

fn far_ahead(stage: &mut Stage) -> String {
    (stage.now_ms() + 100_000_000).to_string()
}

/// The low bytes of a ballot's time.
fn low(ballot: Ballot) -> [u8; 5] {
    let [_, _, _, low @ ..] = ballot.hlc.to_be_bytes();
    low
}

#[test]
fn a_blind_write_wins_by_its_ballot() {
    Stage::on_every_store(|stage| {
        assert_eq!(stage.blind("k", at(10, 1), "first", ""), Value::Integer(1));
        assert_eq!(stage.record_bytes("k").len(), 19);
        assert_eq!(stage.blind("k", at(20, 1), "second", ""), Value::Integer(1));
        assert_eq!(stage.record_bytes("k").len(), 19, "writes of one writer leave no prior");
        for stale in [at(20, 1), at(19, 9), Ballot { seq: 0, ..at(20, 0) }] {
            let record = stage.record_bytes("k");
            assert_eq!(stage.blind("k", stale, "stale", ""), Value::Array(vec![bulk("R"), bulk(record)]));
        }
        assert_eq!(stage.blind("k", at(20, 2), "third", ""), Value::Integer(1));
        assert_eq!(stage.record_bytes("k").len(), 24);
        let record = stage.record("k");
        assert_eq!((record.accepted, record.prior), (at(20, 2), Some(low(at(20, 1)))));
        assert_eq!(stage.blind("k", at(30, 2), "fourth", ""), Value::Integer(1));
        assert_eq!(stage.record("k"), Record { accepted: at(30, 2), ..record });
        stage.check("GET k", &bulk("fourth"));
    });
}

#[test]
fn blind_writes_of_several_keys_are_each_for_itself() {
    Stage::on_every_store(|stage| {
        let many = |stage: &mut Stage, hlc, fresh_ms| {
            stage.blind_many(&[("a", at(hlc, 1), "v"), ("b", at(hlc, 1), "w"), ("c", at(hlc, 1), "x")], fresh_ms)
        };
        assert_eq!(many(stage, 10, "250"), Value::Integer(1), "{}", stage.name);
        stage.check("MGET a b c", &Value::Array(vec![bulk("v"), bulk("w"), bulk("x")]));
        assert_eq!(stage.record("b"), Record { accepted: at(10, 1), ..Record::default() });
        stage.blind("b", at(30, 2), "other", "");
        let refused = Value::Array(vec![bulk("R"), bulk(stage.record_bytes("b"))]);
        let one = Value::Integer(1);
        assert_eq!(many(stage, 20, ""), Value::Array(vec![bulk("M"), one.clone(), refused, one]), "{}", stage.name);
        stage.check("MGET a b c", &Value::Array(vec![bulk("v"), bulk("other"), bulk("x")]));
        assert_eq!(stage.record("c"), Record { accepted: at(20, 1), ..Record::default() });
        // What is young is left alone in some of them, as `blind_within` does it.
        stage.prepare(&["a"], at(40, 2).term());
        let writes = [("a", at(50, 1), "y"), ("c", at(50, 1), "y")];
        let alone = stage.blind_within("a", at(50, 1), 250).letter();
        let among = stage.blind_many(&writes, "250").items()[1].letter();
        assert_eq!((alone, among), ('R', 'R'), "{}", stage.name);
    });
}

#[test]
fn a_promise_stops_what_is_older() {
    Stage::on_every_store(|stage| {
        stage.blind("k", at(10, 1), "v", "");
        let before = stage.record_bytes("k");
        let promise = stage.prepare(&["k"], at(30, 5).term());
        assert_eq!(promise, Value::Array(vec![bulk("P"), bulk(before), Value::Integer(1)]), "{}", stage.name);
        for term in [at(10, 1), at(20, 1), at(30, 5)] {
            let record = stage.record_bytes("k");
            assert_eq!(stage.prepare(&["k"], term.term()), Value::Array(vec![bulk("R"), bulk(record)]));
        }
        assert_eq!(stage.blind("k", at(20, 1), "v", "").letter(), 'R');
        assert_eq!(stage.update("k", at(20, 1), 1, "APPEND k x").letter(), 'R');
        assert_eq!(stage.exec(&["k"], "1", at(20, 1), 1, "APPEND k x").letter(), 'R');
        let newer = Record { accepted: at(20, 1), ..Record::default() };
        assert_eq!(stage.state("k", &newer, b"", "", "W").letter(), 'R');
        stage.check("GET k", &bulk("v"));
        // Its own term is the promise's, a greater one takes it over.
        assert_eq!(stage.update("k", Ballot { seq: 3, ..at(30, 5) }, 1, "APPEND k x"), answer(1, Value::Integer(2)));
        assert_eq!(stage.record("k").promised, None);
        assert_eq!(stage.prepare(&["k"], at(40, 5).term()).letter(), 'P');
        assert_eq!(stage.prepare(&["k"], at(50, 5).term()).letter(), 'P');
        assert_eq!(stage.record("k").promised, Some(at(50, 5).term()));
        assert_eq!(stage.blind("k", at(60, 1), "v", ""), Value::Integer(1));
        assert_eq!(stage.record("k").promised, None);
    });
}

#[test]
fn a_promise_for_several_keys_is_for_all_or_none() {
    Stage::on_every_store(|stage| {
        let expiry = far_ahead(stage);
        stage.blind("{t}a", at(10, 1), "v", &expiry);
        let life = stage.record_pttl("{t}a");
        let a = stage.record_bytes("{t}a");
        let reply = stage.prepare(&["{t}a", "{t}b"], at(20, 1).term());
        let want = vec![bulk("P"), bulk(&a), Value::Integer(1), nothing(), Value::Integer(0)];
        assert_eq!(reply, Value::Array(want));
        let left = stage.record_pttl("{t}a");
        assert!(life >= left && left > life - 60_000, "{}: the promise left {left} of {life}", stage.name);
        let fresh = stage.record("{t}b");
        assert_eq!(fresh, Record { promised: Some(at(20, 1).term()), ..Record::default() });
        assert!((1..=TOMBSTONE_MS).contains(&stage.record_pttl("{t}b")));
        stage.prepare(&["{t}b"], at(40, 1).term());
        let (a, b) = (stage.record_bytes("{t}a"), stage.record_bytes("{t}b"));
        let refused = stage.prepare(&["{t}a", "{t}c", "{t}b"], at(30, 1).term());
        assert_eq!(refused, Value::Array(vec![bulk("R"), bulk(&a), nothing(), bulk(b)]));
        assert_eq!(stage.record_bytes("{t}a"), a);
        assert_eq!(stage.record_bytes("{t}c"), b"");
    });
}

#[test]
fn another_fence_stops_every_script() {
    Stage::on_every_store(|stage| {
        stage.blind("k", at(10, 1), "v", "");
        let record = Record { accepted: at(20, 1), ..Record::default() };
        let replies = |stage: &mut Stage| {
            [
                stage.blind("k", at(20, 1), "w", ""),
                stage.blind_many(&[("k", at(20, 1), "w"), ("other", at(20, 1), "w")], ""),
                stage.prepare(&["k"], at(20, 1).term()),
                stage.update("k", at(20, 1), 1, "DEL k"),
                stage.state("k", &record, b"", "", "W"),
                stage.fetch("k"),
                stage.exec(&["k"], "1", at(20, 1), 1, "DEL k"),
            ]
        };
        stage.fence = "the fence of others".to_owned();
        for reply in replies(stage) {
            assert_eq!(reply, Value::Array(vec![bulk("F"), bulk(FENCE)]), "{}", stage.name);
        }
        stage.call(words!["DEL", quoit::version::FENCE_KEY]);
        for reply in replies(stage) {
            assert_eq!(reply, Value::Array(vec![bulk("F"), nothing()]), "{}", stage.name);
        }
        stage.check("GET k", &bulk("v"));
        assert_eq!(stage.record("k"), Record { accepted: at(10, 1), ..Record::default() });
    });
}

#[test]
fn an_update_runs_on_its_base_only() {
    Stage::on_every_store(|stage| {
        let zero = [0; 18];
        assert_eq!(stage.apply("k", &zero, at(10, 1), OpId(1), "INCR k"), answer(0, Value::Integer(1)));
        let record = stage.record_bytes("k");
        let behind = Value::Array(vec![bulk("B"), bulk(&record)]);
        assert_eq!(stage.apply("k", &zero, at(20, 1), OpId(2), "INCR k"), behind);
        assert_eq!(stage.apply("k", &at(11, 1).encode(), at(20, 1), OpId(2), "INCR k"), behind);
        assert_eq!(stage.apply("k", &at(10, 1).encode(), at(10, 1), OpId(2), "INCR k").letter(), 'R');
        assert_eq!(stage.record_bytes("k"), record);
        let second = Ballot { seq: 1, ..at(10, 1) };
        assert_eq!(stage.apply("k", &at(10, 1).encode(), second, OpId(2), "incr k"), answer(1, Value::Integer(2)));
        assert_eq!(stage.apply("k", b"*", at(20, 1), OpId(3), "INCR k"), answer(1, Value::Integer(3)));
        // A value without a record is a base that nobody can name.
        stage.line("SET stray v");
        let unknown = Value::Array(vec![bulk("B"), nothing()]);
        assert_eq!(stage.apply("stray", &zero, at(10, 1), OpId(1), "APPEND stray x"), unknown);
        assert_eq!(stage.apply("stray", &zero, at(10, 1), OpId(1), ""), unknown);
        assert_eq!(stage.apply("stray", b"*", at(10, 1), OpId(1), ""), answer(1, Value::Integer(1)));
        assert_eq!(stage.record("stray").accepted, at(10, 1));
    });
}

#[test]
fn the_lineage_remembers_the_last_terms() {
    Stage::on_every_store(|stage| {
        for (key, start) in [("blind", Some(at(5, 7).id)), ("missing", None)] {
            if start.is_some() {
                stage.blind(key, at(5, 7), "0", "");
            }
            let mut ids: Vec<u64> = start.into_iter().collect();
            for number in 1..=30_u64 {
                let op = number << 8 | 1;
                assert_eq!(stage.update(key, at(10 + number, 1), op, &format!("INCR {key}")).letter(), 'A');
                ids.push(op);
                let last = ids.len().saturating_sub(24);
                let record = stage.record(key);
                assert_eq!((u64::from(record.count), record.ids.as_slice()), (number, &ids[last..]));
                assert!(record.contains(OpId(op)) && record.prior.is_none());
            }
            assert_eq!(stage.record_bytes(key).len(), 19 + 4 + 24 * 8);
        }
        // The next blind write begins another lineage, and an update does not touch what it left as prior.
        stage.blind("blind", at(50, 1), "0", "");
        let record = stage.record("blind");
        assert_eq!((record.count, record.ids.len(), record.prior), (0, 0, Some(low(at(40, 1)))));
        stage.update("blind", at(60, 1), 5, "INCR blind");
        assert_eq!(stage.record("blind").prior, Some(low(at(40, 1))));
    });
}

/// Operations of one term follow each other: the last one stands for all.
#[test]
fn a_term_stands_once_in_the_lineage() {
    Stage::on_every_store(|stage| {
        let op = |number: u64, seq: u64| number << 8 | seq;
        stage.blind("k", at(5, 7), "0", "");
        stage.update("k", at(11, 1), op(1, 1), "INCR k");
        for seq in 1..=40_u64 {
            let ballot = Ballot { seq: u16::try_from(seq).expect("small"), ..at(12, 1) };
            let reply = if seq % 2 == 0 {
                stage.update("k", ballot, op(2, seq), "INCR k")
            } else {
                stage.exec(&["k"], "1", ballot, op(2, seq), "INCR k")
            };
            assert!(matches!(reply.letter(), 'A' | 'X'));
            let record = stage.record("k");
            assert_eq!((record.count, record.ids.as_slice()), (2, &[at(5, 7).id, op(1, 1), op(2, seq)][..]));
            assert!(record.contains(OpId(op(2, 1))) && !record.contains(OpId(op(2, seq + 1))));
        }
        // A new ballot without a command is no operation.
        let before = stage.record("k");
        assert_eq!(stage.apply("k", b"*", at(13, 1), OpId(op(3, 1)), "").letter(), 'A');
        assert_eq!(stage.record("k"), Record { accepted: at(13, 1), ..before });
        stage.blind("plain", at(5, 7), "0", "");
        assert_eq!(stage.apply("plain", b"*", at(6, 1), OpId(op(3, 1)), "").letter(), 'A');
        let plain = Record { accepted: at(5, 7), ..Record::default() };
        assert_eq!(stage.record("plain"), plain.renewed(at(6, 1)));
    });
}

/// A blind write leaves alone what others are in the middle of.
#[test]
fn writers_that_meet() {
    Stage::on_every_store(|stage| {
        let ms = |ms: u64, writer: u64| at(1_000_000 + ms, writer);
        stage.blind("k", ms(0, 1), "v", "");
        assert_eq!(stage.blind_within("k", ms(100, 2), 250), Value::Integer(1), "another blind write");
        stage.update("k", ms(400, 2), 1 << 8 | 1, "APPEND k x");
        assert_eq!(stage.blind_within("k", ms(500, 2), 250).letter(), 'R', "an update");
        assert_eq!(stage.blind_within("k", ms(650, 2), 250), Value::Integer(1), "an old update");
        assert_eq!(stage.prepare(&["k"], ms(2_000, 1).term()).letter(), 'P');
        assert_eq!(stage.blind_within("k", ms(2_100, 2), 250).letter(), 'R', "a promise");
        assert_eq!(stage.prepare_within("k", ms(2_005, 2).term(), 10).letter(), 'R', "a promise");
        assert_eq!(stage.prepare_within("k", ms(2_006, 1).term(), 10).letter(), 'P', "its own");
        assert_eq!(stage.prepare_within("k", ms(2_016, 2).term(), 10).letter(), 'P', "an old one");
        assert_eq!(stage.blind_within("k", ms(2_266, 3), 250), Value::Integer(1), "an old promise");
    });
}

#[test]
fn the_count_carries_over_its_bytes() {
    Stage::on_every_store(|stage| {
        for count in [254, 255, 256, 65_535, 65_536, 16_777_215, u32::MAX - 1, u32::MAX] {
            let record = Record { accepted: at(10, 1), count, ids: [1 << 8; 8].as_slice().into(), ..Record::default() };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for script in [Script::Apply, Script::Exec] {
                stage.call(words!["SET", stage::record_key("k"), bytes.as_slice()]);
                let reply = match script {
                    Script::Apply => stage.update("k", at(20, 1), 2, "INCR k"),
                    _ => stage.exec(&["k"], "1", at(20, 1), 2, "INCR k"),
                };
                assert!(matches!(reply.letter(), 'A' | 'X'));
                assert_eq!(stage.record("k").count, count.saturating_add(1), "{}", stage.name);
            }
        }
    });
}

#[test]
fn a_delete_leaves_a_tombstone() {
    Stage::on_every_store(|stage| {
        stage.blind("k", at(10, 1), "v", "");
        assert_eq!(stage.update("k", at(20, 1), 1, "DEL k"), answer(1, Value::Integer(1)));
        let record = stage.record("k");
        assert!(record.tombstone && !record.expires, "{record:?}");
        assert!((TOMBSTONE_MS - 60_000..=TOMBSTONE_MS).contains(&stage.record_pttl("k")));
        assert_eq!(stage.update("k", at(30, 1), 2, "GETDEL k"), answer(0, Value::Null));
        assert_eq!(stage.update("k", at(40, 1), 3, "RPUSH k a"), answer(0, Value::Integer(1)));
        let record = stage.record("k");
        assert!(!record.tombstone && record.contains(OpId(1)), "{record:?}");
        assert_eq!(stage.record_pttl("k"), -1);
        assert_eq!(stage.update("k", at(50, 1), 4, "LPOP k"), answer(1, bulk("a")));
        assert!(stage.record("k").tombstone, "the list is empty");
        assert_eq!(stage.blind("k", at(60, 1), "v", ""), Value::Integer(1));
        assert_eq!((stage.record("k").tombstone, stage.record_pttl("k")), (false, -1));
    });
}

/// The life of the record is that of its key and the grace.
#[track_caller]
fn check_grace(stage: &mut Stage, key: &str) {
    assert!(stage.record(key).expires);
    let (from, value, record, to) =
        (stage.now_ms(), stage.line(&format!("PTTL {key}")).integer(), stage.record_pttl(key), stage.now_ms());
    let off = record - value - GRACE_MS;
    assert!(off <= 2 && off >= -2 - (to - from), "{}: off by {off} ms", stage.name);
}

#[test]
fn expiries_are_kept_to_the_millisecond() {
    Stage::on_every_store(|stage| {
        let expiry = far_ahead(stage);
        stage.blind("k", at(10, 1), "v", &expiry);
        check_grace(stage, "k");
        let fetched = stage.fetch("k");
        assert_eq!(fetched.items()[3], bulk(&expiry), "{}", stage.name);
        // A transfer keeps it.
        let (record, payload) = (stage.record("k"), fetched.items()[2].bytes().to_vec());
        assert_eq!(stage.state("copy", &record, &payload, &expiry, "P"), Value::Integer(1));
        assert_eq!(stage.fetch("copy").items()[3], bulk(&expiry));
        check_grace(stage, "copy");
        // So does a blind RESTORE, and an update that does not change it.
        let args = words![at(20, 1).encode(), GRACE_MS.to_string(), "RESTORE", payload.as_slice(), expiry.as_str()];
        assert_eq!(stage.run(Script::Blind, &[b"other".to_vec(), stage::record_key("other")], args), Value::Integer(1));
        assert_eq!(stage.fetch("other").items()[3], bulk(&expiry));
        check_grace(stage, "other");
        stage.update("k", at(20, 1), 1, "APPEND k w");
        assert_eq!(stage.fetch("k").items()[3], bulk(&expiry));
        check_grace(stage, "k");
        // What changes it changes the life of the record.
        stage.update("k", at(30, 1), 1, "PERSIST k");
        assert_eq!((stage.record_pttl("k"), stage.record("k").expires), (-1, false));
        assert_eq!(stage.fetch("k").items()[3], nothing());
        stage.update("k", at(40, 1), 1, &format!("PEXPIREAT k {expiry}"));
        check_grace(stage, "k");
        stage.blind("k", at(50, 1), "v", "");
        assert_eq!((stage.record_pttl("k"), stage.line("PTTL k")), (-1, Value::Integer(-1)));
        // An expiry too far ahead to add a grace to it.
        stage.update("k", at(60, 1), 1, "PEXPIREAT k 9000000000000000");
        assert_eq!((stage.record_pttl("k"), stage.record("k").expires), (-1, true));
        // One that has passed.
        assert_eq!(stage.update("k", at(70, 1), 1, "PEXPIREAT k 5"), answer(1, Value::Integer(1)));
        assert!(stage.record("k").tombstone);
        assert_eq!(stage.blind("k", at(80, 1), "v", "5"), Value::Integer(1));
        assert_eq!(stage.line("EXISTS k"), Value::Integer(0));
    });
}

#[test]
fn a_failing_command_changes_nothing() {
    Stage::on_every_store(|stage| {
        stage.blind("k", at(10, 1), "text", "");
        let record = stage.record_bytes("k");
        let wrong_type = "WRONGTYPE Operation against a key holding the wrong kind of value";
        assert_eq!(stage.update("k", at(20, 1), 1, "LPUSH k a").error(), wrong_type);
        assert_eq!(stage.update("k", at(20, 1), 1, "3LPUSH k a").error(), wrong_type);
        assert_eq!(stage.exec(&["k"], "1", at(20, 1), 1, "LPUSH k a").error(), wrong_type);
        let not_integer = "ERR value is not an integer or out of range";
        assert_eq!(stage.update("k", at(20, 1), 1, "INCR k").error(), not_integer);
        assert_eq!(stage.update("missing", at(20, 1), 1, "HINCRBY missing f x").error(), not_integer);
        assert!(stage.update("k", at(20, 1), 1, "GET").error().starts_with("ERR Wrong number of args"));
        assert!(stage.update("k", at(20, 1), 1, "NOSUCH k").error().starts_with("ERR Unknown"));
        let many = format!("RPUSH k{}", " x".repeat(8_000));
        assert!(stage.update("k", at(20, 1), 1, &many).error().starts_with("ERR too many arguments"));
        let newer = Record { accepted: at(20, 1), ..Record::default() };
        let bad = stage.state("k", &newer, b"no payload", "", "P").error();
        assert!(bad.starts_with("ERR DUMP payload version or checksum"), "{bad}");
        let args = words![at(20, 1).encode(), "0", "RESTORE", "no payload", ""];
        let bad = stage.run(Script::Blind, &[b"k".to_vec(), stage::record_key("k")], args).error();
        assert!(bad.starts_with("ERR DUMP payload version or checksum"), "{bad}");
        let bad = stage.blind("k", at(20, 1), "v", "soon").error();
        assert!(bad.starts_with("ERR") && !bad.ends_with('\n'), "{bad}");
        stage.check("GET k", &bulk("text"));
        assert_eq!(stage.record_bytes("k"), record);
        assert_eq!(stage.record_bytes("missing"), b"");
    });
}

#[test]
fn long_commands_fit() {
    Stage::on_every_store(|stage| {
        let many = format!("RPUSH k{}", " x".repeat(7_490));
        assert_eq!(stage.update("k", at(20, 1), 1, &many), answer(0, Value::Integer(7_490)), "{}", stage.name);
    });
}

#[test]
fn a_full_store_changes_nothing_but_lets_go() {
    Stage::on_every_store(|stage| {
        stage.blind("k", at(10, 1), "7", "");
        stage.blind("other", at(10, 1), "7", "");
        let payload = stage.fetch("k").items()[2].bytes().to_vec();
        stage.fill(true);
        let record = stage.record_bytes("k");
        let newer = Record { accepted: at(30, 1), ..Record::default() };
        let refused = [
            stage.blind("k", at(20, 1), "8", ""),
            stage.blind_many(&[("k", at(20, 1), "8"), ("new", at(20, 1), "8")], "250").items()[1].clone(),
            stage.blind("k", at(20, 1), "8", "33000000000000"),
            stage.update("k", at(20, 1), 1, "INCR k"),
            stage.state("k", &newer, &payload, "", "P"),
            stage.prepare(&["new"], at(20, 1).term()),
            stage.exec(&["k", "other"], "10", at(20, 1), 1, "SUNIONSTORE k other"),
            stage.apply("new", &[0; 18], at(20, 1), OpId(1), ""),
        ];
        for reply in refused {
            let error = reply.error();
            assert!(error.starts_with("OOM ") && !error.ends_with('\n'), "{}: {error:?}", stage.name);
        }
        stage.check("GET k", &bulk("7"));
        assert_eq!(stage.record_bytes("k"), record);
        assert_eq!(stage.record_bytes("new"), b"");
        // What makes room goes through, with its promise before and its record after.
        assert_eq!(stage.prepare(&["k"], at(20, 1).term()).letter(), 'P', "{}", stage.name);
        assert_eq!(stage.update("k", at(20, 1), 1, "DEL k"), answer(1, Value::Integer(1)), "{}", stage.name);
        assert!(stage.record("k").tombstone);
        assert_eq!(stage.state("other", &Record { tombstone: true, ..newer }, b"", "", "P"), Value::Integer(1));
        stage.check("EXISTS k other", &Value::Integer(0));
        stage.fill(false);
        assert_eq!(stage.blind("k", at(40, 1), "8", ""), Value::Integer(1));
    });
}

#[test]
fn replies_arrive_whole() {
    Stage::on_every_store(|stage| {
        stage.line("HELLO 3");
        let mut hlc = 10;
        let mut check = |stage: &mut Stage, key: &str, command: &str, want: Value| {
            hlc += 1;
            let reply = stage.update(key, at(hlc, 1), hlc, command);
            assert_eq!(reply, want, "{}: {command}", stage.name);
        };
        let big = |existed, text: &str| Value::Array(vec![bulk("I"), Value::Integer(existed), bulk(text)]);
        check(stage, "n", "INCRBY n 9007199254740991", answer(0, Value::Integer(9_007_199_254_740_991)));
        check(stage, "n", "incr n", big(1, "9007199254740992"));
        check(stage, "n", "Incr n", big(1, "9007199254740993"));
        check(stage, "n", "INCRBY n 9214364837600034814", big(1, "9223372036854775807"));
        check(stage, "n", "DECR n", big(1, "9223372036854775806"));
        check(stage, "m", "DECRBY m 9223372036854775807", big(0, "-9223372036854775807"));
        check(stage, "m", "DECR m", big(1, "-9223372036854775808"));
        check(stage, "h", "HINCRBY h f 9007199254740993", big(0, "9007199254740993"));
        check(stage, "z", "3ZADD z INCR 1.5 a", answer(0, Value::Double("1.5".to_owned())));
        check(stage, "z", "3ZADD z NX INCR 1 a", answer(1, Value::Null));
        check(stage, "z", "3ZINCRBY z 0.25 a", answer(1, Value::Double("1.75".to_owned())));
        check(stage, "z", "ZINCRBY z 1 a", answer(1, bulk("2.75")));
        check(stage, "s", "3SADD s a", answer(0, Value::Integer(1)));
        check(stage, "s", "3SPOP s 1", answer(1, Value::Set(vec![bulk("a")])));
        check(stage, "s", "3SPOP s", answer(0, Value::Null));
        check(stage, "s", "SPOP s", answer(0, Value::Null));
        check(stage, "t", "SET t v", answer(0, Value::Simple("OK".to_owned())));
        check(stage, "t", "SET t v NX", answer(1, Value::Null));
        check(stage, "l", "RPUSH l a b", answer(0, Value::Integer(2)));
        check(stage, "l", "LPOP l 2", answer(1, Value::Array(vec![bulk("a"), bulk("b")])));
        check(stage, "l", "LPOP l 2", answer(0, Value::Null));
        check(stage, "l", "", answer(0, Value::Integer(1)));
        check(stage, "t", "", answer(1, Value::Integer(1)));
        check(stage, "t", "SET t \0\r\n\u{ff}", answer(1, Value::Simple("OK".to_owned())));
        stage.check("GET t", &bulk("\0\r\n\u{ff}"));
    });
}

#[test]
fn a_transfer_brings_what_is_newer() {
    Stage::on_every_store(|stage| {
        stage.blind("source", at(10, 1), "old", "");
        stage.update("source", at(20, 2), 7, "APPEND source er");
        let fetched = stage.fetch("source");
        let (record, payload) = (stage.record("source"), fetched.items()[2].bytes().to_vec());
        assert_eq!(fetched.items()[0..2], [bulk("S"), bulk(stage.record_bytes("source"))]);
        for mode in ["W", "P"] {
            let key = &format!("key{mode}");
            stage.blind(key, at(15, 1), "lost", "");
            assert_eq!(stage.state(key, &record, &payload, "", mode), Value::Integer(1));
            stage.check(&format!("GET {key}"), &bulk("older"));
            let here = Record { prior: Some(low(at(15, 1))), transferred: true, ..record.clone() };
            assert_eq!(stage.record(key), here);
            // The same again is nothing, the source's own prior stays there.
            let again = Record { prior: Some([9; 5]), promised: Some(Term { hlc: u64::MAX, id: 1 }), ..record.clone() };
            assert_eq!(stage.state(key, &again, b"not read", "", mode), Value::Integer(1));
            assert_eq!(stage.state("new", &again, &payload, "", mode), Value::Integer(1));
            assert_eq!(stage.record("new"), Record { transferred: true, ..record.clone() });
            stage.line("DEL new");
            stage.call(words!["DEL", stage::record_key("new")]);
        }
        let here = stage.record_bytes("keyP");
        let older = Record { accepted: at(5, 1), ..Record::default() };
        for older in [older, Record::default()] {
            assert_eq!(stage.state("keyP", &older, b"", "", "W"), Value::Integer(2));
            assert_eq!(stage.state("keyP", &older, b"", "", "P"), Value::Array(vec![bulk("R"), bulk(&here)]));
        }
        stage.check("GET keyP", &bulk("older"));
        // A tombstone, and blind over blind of the same writer.
        let gone = Record { accepted: at(30, 1), tombstone: true, count: 3, ..record.clone() };
        assert_eq!(stage.state("keyP", &gone, b"", "", "P"), Value::Integer(1));
        stage.check("EXISTS keyP", &Value::Integer(0));
        assert_eq!(stage.record("keyP"), Record { prior: Some(low(at(15, 1))), transferred: true, ..gone });
        assert!((1..=TOMBSTONE_MS).contains(&stage.record_pttl("keyP")));
        stage.blind("b", at(10, 1), "v", "");
        let blind = Record { accepted: at(20, 1), expires: true, ..Record::default() };
        assert_eq!(stage.state("b", &blind, &payload, "33000000000000", "P"), Value::Integer(1));
        assert_eq!(stage.record("b"), Record { transferred: true, ..blind });
        // The next blind write of that writer sets a prior: what came from elsewhere is not one of its own.
        stage.blind("b", at(30, 1), "v", "");
        assert_eq!(stage.record("b").prior, Some(low(at(20, 1))));
        assert_eq!(stage.fetch("none"), Value::Array(vec![bulk("S"), nothing(), nothing(), nothing()]));
    });
}

#[test]
fn exec_gives_what_it_wrote() {
    Stage::on_every_store(|stage| {
        let expiry = far_ahead(stage);
        stage.blind("{t}a", at(10, 1), "v", &expiry);
        let reply = stage.exec(&["{t}a", "{t}b"], "11", at(20, 2), 7, "RENAME {t}a {t}b");
        let items = reply.items();
        assert_eq!(items[..2], [bulk("X"), Value::Simple("OK".to_owned())], "{}", stage.name);
        let (a, b) = (stage.record("{t}a"), stage.record("{t}b"));
        assert_eq!(Record::decode(items[2].bytes()), Ok(a.clone()));
        assert_eq!(items[3..5], [nothing(), nothing()]);
        assert_eq!(Record::decode(items[5].bytes()), Ok(b.clone()));
        assert_eq!(items[7], bulk(&expiry));
        assert!(
            a.tombstone && b.expires && a.contains(OpId(7)) && b.contains(OpId(7)) && a.contains(at(10, 1).op_id())
        );
        assert_eq!((a.accepted, b.accepted), (at(20, 2), at(20, 2)));
        check_grace(stage, "{t}b");
        assert!((1..=TOMBSTONE_MS).contains(&stage.record_pttl("{t}a")));
        // What it gave makes the same state elsewhere.
        let payload = items[6].bytes().to_vec();
        assert_eq!(stage.state("copy", &b, &payload, &expiry, "P"), Value::Integer(1));
        stage.check("GET copy", &bulk("v"));

        // Keys that are only read keep their record; without one they are a base as well.
        for (number, member) in ["x", "y", "z"].into_iter().enumerate() {
            let number = number as u64;
            stage.update("{t}s", at(30 + number, 1), 10 + number, &format!("SADD {{t}}s {member}"));
        }
        let record = stage.record_bytes("{t}s");
        let keys = ["{t}d", "{t}s", "{t}none"];
        let reply = stage.exec(&keys, "100", at(40, 1), 20, "SUNIONSTORE {t}d {t}s {t}none");
        assert_eq!((reply.items().len(), &reply.items()[1]), (5, &Value::Integer(3)));
        assert_eq!(stage.record_bytes("{t}s"), record);
        let popped = stage.exec(&["{t}d"], "1", at(50, 1), 21, "SPOP {t}d");
        assert_eq!((popped.items().len(), stage.line("SCARD {t}d")), (5, Value::Integer(2)));
        stage.line("HELLO 3");
        let popped = stage.exec(&["{t}d"], "1", at(60, 1), 22, "3SPOP {t}d 2");
        assert!(matches!(&popped.items()[1], Value::Set(members) if members.len() == 2), "{popped:?}");
        assert_eq!(popped.items()[3..], [nothing(), nothing()]);
        let none = stage.exec(&["{t}d"], "1", at(70, 1), 23, "3SPOP {t}d");
        assert_eq!((none.items().len(), &none.items()[1]), (5, &Value::Null));
    });
}

#[test]
fn exec_runs_on_its_bases_only() {
    Stage::on_every_store(|stage| {
        stage.blind("{t}a", at(10, 1), "a", "");
        stage.blind("{t}b", at(30, 1), "b", "");
        let records = [bulk(stage.record_bytes("{t}a")), bulk(stage.record_bytes("{t}b"))];
        let refused = stage.exec(&["{t}a", "{t}b"], "11", at(20, 1), 1, "RENAME {t}a {t}b");
        assert_eq!(refused, Value::Array([&[bulk("R")], &records[..]].concat()));
        // A key that is only read may be newer than the ballot.
        let copied = stage.exec(&["{t}a", "{t}b"], "10", at(20, 1), 1, "BITOP AND {t}a {t}b");
        if !copied.items()[0].bytes().eq(b"E") {
            assert_eq!(copied.letter(), 'X');
        }
        let names = |key: &str| [key.as_bytes().to_vec(), stage::record_key(key)];
        let ([a, ra], [b, rb]) = (names("{t}a"), names("{t}b"));
        let behind = at(5, 1).encode();
        let tail = words![at(40, 1).encode(), [0; 8], "2", "0", "0", "2", "11", "*", behind, "RENAME", "{t}a", "{t}b"];
        let reply = stage.run(Script::Exec, &[a, b, ra, rb], tail);
        assert_eq!(reply.letter(), 'B');
        assert_eq!(reply.items()[2], records[1]);
        stage.check("EXISTS {t}a {t}b", &Value::Integer(2));
    });
}
