use proptest::prelude::*;
use smallvec::smallvec;

use super::*;

const NUMBER_BITS: u32 = 24;
const SEQ_BITS: u32 = 8;

fn ballot(hlc: u64, writer: u64, number: u64) -> Ballot {
    Ballot { hlc, id: writer << NUMBER_BITS | number << SEQ_BITS, seq: 0 }
}

fn any_record() -> impl Strategy<Value = Record> {
    let accepted = any::<(u64, u64, u16)>().prop_map(|(hlc, id, seq)| Ballot { hlc, id, seq });
    let promised = proptest::option::of(any::<(u64, u64)>().prop_map(|(hlc, id)| Term { hlc, id }));
    let lineage = (any::<u32>(), proptest::collection::vec(any::<u64>(), 0..=OPERATIONS_MAX));
    let mark = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Vec::into_boxed_slice));
    (accepted, promised, any::<Option<[u8; 5]>>(), any::<(bool, bool, bool)>(), lineage, mark).prop_map(
        |(accepted, promised, prior, (tombstone, expires, transferred), (count, ids), mark)| {
            let count = if ids.is_empty() { 0 } else { count };
            Record { accepted, promised, prior, tombstone, expires, transferred, count, ids: ids.into(), mark }
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
            prop_assert!(!record.never_accepted(record.accepted, 3));
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
    assert_eq!(Record::decode(&[&whole[..], &[1; 192]].concat()), Err(RecordError::Length(whole.len() + 192)));
    assert_eq!(Record::decode(&[&[128][..], &[0; 18]].concat()), Err(RecordError::Flags(128)));
}

#[test]
fn what_a_record_contains() {
    let blind = Record { accepted: ballot(10, 1, 7), ..Record::default() };
    assert!(blind.is_blind() && blind.contains(blind.accepted.op_id()) && !blind.contains(OpId(7 << SEQ_BITS)));
    let updated = Record { count: 1, ids: smallvec![5 << 8, 6 << 8 | 3], ..blind };
    assert!(!updated.is_blind() && updated.contains(OpId(5 << 8)) && updated.contains(OpId(6 << 8 | 3)));
    assert!(updated.contains(OpId(6 << 8 | 1)), "what came before it in its term");
    assert!(!updated.contains(OpId(6 << 8 | 4)) && !updated.contains(OpId(5 << 8 | 1)), "what came after it");
    assert!(!updated.contains(updated.accepted.op_id()));
    let zero = Record::default();
    assert!(!zero.is_blind() && !zero.contains(OpId(0)));
}

#[test]
fn what_follows_a_record() {
    let term = ballot(20, 2, 1);
    let first = term.next_in_term().unwrap();
    let second = first.next_in_term().unwrap();
    let missing = Record { promised: Some(term.term()), ..Record::default() };
    let one = missing.followed_by(first);
    assert_eq!(one, Record { accepted: first, count: 1, ids: smallvec![first.op_id().0], ..Record::default() });
    let two = one.followed_by(second);
    assert_eq!(two, Record { accepted: second, count: 1, ids: smallvec![second.op_id().0], ..Record::default() });
    let blind = Record { accepted: ballot(10, 1, 7), prior: Some(*b"prior"), transferred: true, ..Record::default() };
    let updated = blind.followed_by(first);
    assert_eq!((updated.count, updated.prior, updated.transferred), (1, blind.prior, false));
    assert_eq!(updated.ids.as_slice(), [blind.accepted.id, first.op_id().0]);
    let renewed = blind.renewed(first);
    assert_eq!((renewed.accepted, renewed.count, renewed.ids.as_slice()), (first, 0, &[blind.accepted.id][..]));
    assert_eq!(Record::decode(&bytes(&renewed)), Ok(renewed));
    let mut long = updated;
    for number in 0..40 {
        long = long.followed_by(ballot(30 + number, number % 2 + 3, number).next_in_term().unwrap());
    }
    assert_eq!((long.count, long.ids.len()), (41, OPERATIONS_MAX));
    assert_eq!(long.renewed(ballot(100, 1, 1)).ids, long.ids);
}

/// Ids of the first terms that `followed_by` gives to a state, with what these say of it.
#[track_caller]
fn check_beginning(start: &Record, is_whole: bool, begins_blind: bool) {
    let mut state = start.clone();
    for number in 1..2 * OPERATIONS_MAX {
        state = state.followed_by(ballot(200 + number as u64, 7, number as u64).next_in_term().unwrap());
        let remembers = state.ids.len() < OPERATIONS_MAX;
        assert_eq!(state.is_whole(), is_whole && remembers, "{state:?}");
        assert_eq!(state.begins_blind(), begins_blind && number < OPERATIONS_MAX, "{state:?}");
    }
}

#[test]
fn what_a_record_says_of_its_beginning() {
    let missing = Record::default();
    assert!(!missing.is_whole() && !missing.begins_blind());
    check_beginning(&missing, true, false);
    let blind = Record { accepted: ballot(10, 1, 7), ..Record::default() };
    assert!(!blind.is_whole() && blind.begins_blind());
    check_beginning(&blind, false, true);
    let renewed = blind.renewed(ballot(20, 2, 1).next_in_term().unwrap());
    assert!(!renewed.is_whole() && renewed.begins_blind());
    let adopted = Record { accepted: ballot(10, 1, 7).next_in_term().unwrap(), ..Record::default() };
    assert!(!adopted.is_whole() && !adopted.begins_blind());
}

fn blind() -> Ballot {
    ballot(100, 1, 1)
}

fn update() -> Ballot {
    blind().next_in_term().unwrap()
}

/// Whether `record` never accepted what was sent under this ballot, based on a record of that count.
#[track_caller]
fn check(what: &str, record: &Record, op: Ballot, base_count: u32, want: bool) {
    assert_eq!(record.never_accepted(op, base_count), want, "{what}: {record:?}");
}

fn low(hlc: u64) -> [u8; 5] {
    let [_, _, _, low @ ..] = hlc.to_be_bytes();
    low
}

#[test]
fn never_accepted_by_accepted_and_promised() {
    let record = |accepted, promised| Record { accepted, promised, ..Record::default() };
    let term = |hlc| Some(Term { hlc, id: 5 });
    for op in [blind(), update()] {
        check("nothing here, so it may still come", &record(Ballot::default(), None), op, 0, false);
        check("something older, so it may still come", &record(ballot(50, 2, 1), None), op, 0, false);
        check("a promise below it", &record(ballot(50, 2, 1), term(60)), op, 0, false);
        check("its own term promised", &record(ballot(50, 2, 1), Some(op.term())), op, 0, false);
        check("a greater promise", &record(ballot(50, 2, 1), term(101)), op, 0, true);
        check("a greater promise, nothing else", &record(Ballot::default(), term(101)), op, 0, true);
        check("it is here", &record(op, term(101)), op, 0, false);
        check("something newer of somebody else", &record(ballot(110, 2, 1), None), op, 0, true);
    }
}

#[test]
fn never_accepted_by_prior() {
    let record = |prior| Record { accepted: ballot(110, 2, 1), prior: Some(low(prior)), ..Record::default() };
    for op in [blind(), update()] {
        check("what was overwritten is older", &record(99), op, 0, true);
        check("what was overwritten may be it", &record(100), op, 0, false);
        check("what was overwritten is newer", &record(105), op, 0, false);
    }
}

/// Ids of so many terms, none of which is that of a try.
fn terms(count: usize) -> Operations {
    (1..=u64::try_from(count).unwrap()).map(|number| number << SEQ_BITS | 1).collect()
}

#[test]
fn never_accepted_by_lineage() {
    let record = |count: u32, ids: Operations| Record { accepted: ballot(110, 2, 1), count, ids, ..Record::default() };
    let start = ballot(90, 3, 1).id;
    let op = update();
    check("it is among the ids", &record(2, smallvec![start, op.op_id().0, 3]), op, 0, false);
    let later = op.next_in_term().unwrap().op_id().0;
    check("one that builds on it is", &record(2, smallvec![start, later, 3]), op, 0, false);
    check("all ids are known", &record(2, smallvec![start, 2, 3]), op, 0, true);
    check("all ids are known, the base is another lineage's", &record(2, smallvec![start, 2, 3]), op, 50, true);
    let most = OPERATIONS_MAX;
    check("24 terms, all since the base", &record(24, terms(most)), op, 0, false);
    check("24 terms, 23 since the base", &record(24, terms(most)), op, 1, true);
    check("many terms, 23 since the base", &record(50, terms(most)), op, 27, true);
    check("many terms, 24 since the base", &record(50, terms(most)), op, 26, false);
}

#[test]
fn never_accepted_when_blind_writes_of_one_writer_follow_each_other() {
    let own = ballot(105, 1, 2);
    let plain = |accepted| Record { accepted, ..Record::default() };
    check("a newer blind write of the same writer hides it", &plain(own), blind(), 0, false);
    check("an update would have left a prior", &plain(own), update(), 0, true);
    let older = Record { promised: Some(Term { hlc: 120, id: 0 }), ..plain(ballot(90, 1, 0)) };
    check("an older one of the same writer", &older, blind(), 0, true);
    let on = |count: u32, ids: Operations| Record { accepted: ballot(110, 2, 1), count, ids, ..Record::default() };
    let other = ballot(105, 3, 1).id;
    check("an update of such a blind write", &on(1, smallvec![own.id, 4]), blind(), 0, false);
    check("an update of another's blind write", &on(1, smallvec![other, 4]), blind(), 0, true);
    check("another's blind write under a new ballot", &on(0, smallvec![other]), blind(), 0, true);
    check("updates of a missing key", &on(2, smallvec![3, 4]), blind(), 0, true);
    let mut most = terms(OPERATIONS_MAX - 1);
    most.insert(0, other);
    check("23 terms of another's blind write", &on(23, most), blind(), 0, true);
    check("after 24 the first one is forgotten", &on(24, terms(OPERATIONS_MAX)), blind(), 0, false);
    check("after more as well", &on(30, terms(OPERATIONS_MAX)), blind(), 0, false);
}
