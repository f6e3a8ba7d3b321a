use proptest::prelude::*;
use smallvec::smallvec;

use super::*;

const NUMBER_BITS: u32 = 24;

fn ballot(hlc: u64, writer: u64, number: u64) -> Ballot {
    Ballot { hlc, id: writer << NUMBER_BITS | number, seq: 0 }
}

fn any_record() -> impl Strategy<Value = Record> {
    let accepted = any::<(u64, u64, u16)>().prop_map(|(hlc, id, seq)| Ballot { hlc, id, seq });
    let promised = proptest::option::of(any::<(u64, u64)>().prop_map(|(hlc, id)| Term { hlc, id }));
    let lineage = (any::<u32>(), proptest::collection::vec(any::<u64>(), 0..=OPERATIONS_MAX));
    (accepted, promised, any::<Option<[u8; 5]>>(), any::<(bool, bool, bool)>(), lineage).prop_map(
        |(accepted, promised, prior, (tombstone, expires, transferred), (count, ids))| {
            let count = if ids.is_empty() { 0 } else { count };
            Record { accepted, promised, prior, tombstone, expires, transferred, count, ids: ids.into() }
        },
    )
}

fn bytes(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_give_the_record_back(record in any_record()) {
        prop_assert_eq!(Record::decode(&bytes(&record)), Ok(record));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert!(!record.never_accepted(record.accepted, OpId(1), 3));
        }
    }

    #[test]
    fn a_prior_is_found_again_below_its_accepted_time(prior in 0_u64..1 << 60, later in 0_u64..1 << 39) {
        let [_, _, _, low @ ..] = prior.to_be_bytes();
        let record = Record { accepted: ballot(prior + later, 1, 1), prior: Some(low), ..Record::default() };
        prop_assert_eq!(record.prior_hlc(), Some(prior));
    }
}

#[test]
fn layout() {
    let accepted = Ballot { hlc: 0x1112_1314_1516_1718, id: 0x2122_2324_2526_2728, seq: 0x3132 };
    let mut record = Record { accepted, ..Record::default() };
    assert_eq!(bytes(&record).len(), 19);
    assert_eq!(bytes(&record), b"\0\x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24\x25\x26\x27\x2812");
    record.prior = Some(*b"prior");
    assert_eq!(bytes(&record).len(), 24);
    record.promised = Some(Term { hlc: u64::from_be_bytes(*b"promised"), id: u64::from_be_bytes(*b"by a one") });
    (record.count, record.ids) = (2, smallvec![u64::from_be_bytes(*b"operate1"), u64::from_be_bytes(*b"operate2")]);
    (record.tombstone, record.expires) = (true, true);
    let encoded = bytes(&record);
    assert_eq!(encoded[0], 31);
    assert_eq!(&encoded[19..], b"priorpromisedby a one\0\0\0\x02operate1operate2");
}

#[test]
fn other_bytes_are_no_record() {
    assert_eq!(Record::decode(b""), Ok(Record::default()));
    let whole = [&[31][..], &[1; 18 + 5 + 16 + 4 + 8]].concat();
    assert!(Record::decode(&whole).is_ok());
    for length in 1..whole.len() {
        assert_eq!(Record::decode(&whole[..length]), Err(RecordError::Length(length)));
    }
    assert_eq!(Record::decode(&[0; 20]), Err(RecordError::Length(20)));
    assert_eq!(Record::decode(&[&whole[..], &[1; 64]].concat()), Err(RecordError::Length(whole.len() + 64)));
    assert_eq!(Record::decode(&[&[64][..], &[0; 18]].concat()), Err(RecordError::Flags(64)));
}

#[test]
fn what_a_record_contains() {
    let blind = Record { accepted: ballot(10, 1, 7), ..Record::default() };
    assert!(blind.is_blind() && blind.contains(blind.accepted.op_id()) && !blind.contains(OpId(7)));
    let updated = Record { count: 1, ids: smallvec![5, 6], ..blind };
    assert!(!updated.is_blind() && updated.contains(OpId(5)) && updated.contains(OpId(6)));
    assert!(!updated.contains(updated.accepted.op_id()));
    let zero = Record::default();
    assert!(!zero.is_blind() && !zero.contains(OpId(0)));
}

const BLIND: OpId = OpId(1 << NUMBER_BITS | 1);
const UPDATE: OpId = OpId(99);

/// Whether `record` never accepted operation `op` under the ballot (100, writer 1, 1), based on a record of that count.
#[track_caller]
fn check(what: &str, record: &Record, op: OpId, base_count: u32, want: bool) {
    assert_eq!(record.never_accepted(ballot(100, 1, 1), op, base_count), want, "{what}: {record:?}");
}

fn low(hlc: u64) -> [u8; 5] {
    let [_, _, _, low @ ..] = hlc.to_be_bytes();
    low
}

#[test]
fn never_accepted_by_accepted_and_promised() {
    let record = |accepted, promised| Record { accepted, promised, ..Record::default() };
    let term = |hlc| Some(Term { hlc, id: 5 });
    for op in [BLIND, UPDATE] {
        check("nothing here, so it may still come", &record(Ballot::default(), None), op, 0, false);
        check("something older, so it may still come", &record(ballot(50, 2, 1), None), op, 0, false);
        check("a promise below it", &record(ballot(50, 2, 1), term(60)), op, 0, false);
        check("its own term promised", &record(ballot(50, 2, 1), Some(ballot(100, 1, 1).term())), op, 0, false);
        check("a greater promise", &record(ballot(50, 2, 1), term(101)), op, 0, true);
        check("a greater promise, nothing else", &record(Ballot::default(), term(101)), op, 0, true);
        check("it is here", &record(ballot(100, 1, 1), term(101)), op, 0, false);
        check("something newer of somebody else", &record(ballot(110, 2, 1), None), op, 0, true);
    }
}

#[test]
fn never_accepted_by_prior() {
    let record = |prior| Record { accepted: ballot(110, 2, 1), prior: Some(low(prior)), ..Record::default() };
    for op in [BLIND, UPDATE] {
        check("what was overwritten is older", &record(99), op, 0, true);
        check("what was overwritten may be it", &record(100), op, 0, false);
        check("what was overwritten is newer", &record(105), op, 0, false);
    }
}

#[test]
fn never_accepted_by_lineage() {
    let record =
        |count: u32, ids: &[u64]| Record { accepted: ballot(110, 2, 1), count, ids: ids.into(), ..Record::default() };
    let start = ballot(90, 3, 1).id;
    check("it is among the ids", &record(2, &[start, 99, 3]), UPDATE, 0, false);
    check("all ids are known", &record(2, &[start, 2, 3]), UPDATE, 0, true);
    check("all ids are known, the base is another lineage's", &record(2, &[start, 2, 3]), UPDATE, 50, true);
    check("eight updates, all since the base", &record(8, &[1, 2, 3, 4, 5, 6, 7, 8]), UPDATE, 0, false);
    check("eight updates, seven since the base", &record(8, &[1, 2, 3, 4, 5, 6, 7, 8]), UPDATE, 1, true);
    check("many updates, seven since the base", &record(50, &[1, 2, 3, 4, 5, 6, 7, 8]), UPDATE, 43, true);
    check("many updates, eight since the base", &record(50, &[1, 2, 3, 4, 5, 6, 7, 8]), UPDATE, 42, false);
}

#[test]
fn never_accepted_when_blind_writes_of_one_writer_follow_each_other() {
    let own = ballot(105, 1, 2);
    let blind = |accepted| Record { accepted, ..Record::default() };
    check("a newer blind write of the same writer hides it", &blind(own), BLIND, 0, false);
    check("an update would have left a prior", &blind(own), UPDATE, 0, true);
    let older = Record { promised: Some(Term { hlc: 120, id: 0 }), ..blind(ballot(90, 1, 0)) };
    check("an older one of the same writer", &older, BLIND, 0, true);
    let on =
        |count: u32, ids: &[u64]| Record { accepted: ballot(110, 2, 1), count, ids: ids.into(), ..Record::default() };
    check("an update of such a blind write", &on(1, &[own.id, 4]), BLIND, 0, false);
    check("an update of another's blind write", &on(1, &[ballot(105, 3, 1).id, 4]), BLIND, 0, true);
    check("updates of a missing key", &on(2, &[3, 4]), BLIND, 0, true);
    check(
        "seven updates of another's blind write",
        &on(7, &[ballot(105, 3, 1).id, 1, 2, 3, 4, 5, 6, 7]),
        BLIND,
        0,
        true,
    );
    check("after eight the first one is forgotten", &on(8, &[1, 2, 3, 4, 5, 6, 7, 8]), BLIND, 0, false);
    check("after more as well", &on(30, &[1, 2, 3, 4, 5, 6, 7, 8]), BLIND, 0, false);
}
