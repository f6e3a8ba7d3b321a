use super::*;

fn poll(waiting: &mut Waiting) -> Option<Held> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(waiting).poll(&mut context) {
        Poll::Ready(held) => Some(held),
        Poll::Pending => None,
    }
}

/// A blind write comes; whether it is let in as one.
fn enters(lanes: &Lanes, id: LaneId, origin: usize) -> bool {
    let entrance = lanes.enter_blind(id, origin, u64::MAX, Moment::default(), Duration::ZERO);
    matches!(entrance, Entrance::Blind { .. })
}

fn owned(ballot: Ballot) -> Owned {
    Owned { ballot, count: 0, last: OpId(1), generation: 0, since: Moment::default() }
}

#[test]
fn those_of_one_round_share_and_others_wait() {
    let lanes = Rc::new(Lanes::default());
    assert!(enters(&lanes, 1, 0));
    assert!(enters(&lanes, 1, 0));
    let mut alone = lanes.wait(&[1], 10, Wish::Exclusive, None);
    assert!(poll(&mut alone).is_none());
    assert!(!enters(&lanes, 1, 0), "nothing overtakes what waits");
    assert!(!lanes.is_open(1));
    lanes.leave(1);
    assert!(poll(&mut alone).is_none());
    lanes.leave(1);
    let held = poll(&mut alone).expect("the lane is free");
    let mut behind = lanes.wait(&[1], 11, Wish::Shared, None);
    let mut too = lanes.wait(&[1], 12, Wish::Shared, None);
    assert!(poll(&mut behind).is_none());
    drop(held);
    let (first, second) = (poll(&mut behind), poll(&mut too));
    assert!(first.is_some() && second.is_some());
    drop((first, second));
    assert!(lanes.map.borrow().is_empty(), "nothing is kept of a lane without a ballot");
}

#[test]
fn an_earlier_operation_goes_back_to_its_place() {
    let lanes = Rc::new(Lanes::default());
    assert!(enters(&lanes, 1, 0));
    let mut late = lanes.wait(&[1], 20, Wish::Exclusive, None);
    let mut early = lanes.wait(&[1], 5, Wish::Exclusive, None);
    lanes.leave(1);
    // The first was let in only after the one in front of it.
    assert!(poll(&mut late).is_none());
    let held = poll(&mut early).expect("the earlier one is first");
    drop(held);
    assert!(poll(&mut late).is_some());
}

#[test]
fn several_lanes_are_waited_for_without_a_deadlock() {
    let lanes = Rc::new(Lanes::default());
    let mut one = lanes.wait(&[1, 2], 1, Wish::Exclusive, None);
    let mut two = lanes.wait(&[2, 1], 2, Wish::Exclusive, None);
    let mut three = lanes.wait(&[2, 2, 3], 3, Wish::Exclusive, None);
    let held = poll(&mut one).expect("both are free");
    assert!(poll(&mut two).is_none() && poll(&mut three).is_none());
    drop(held);
    let held = poll(&mut two).expect("both are free now");
    drop(held);
    assert!(poll(&mut three).is_some());
}

#[test]
fn who_wrote_last_needs_one_round() {
    let lanes = Rc::new(Lanes::default());
    assert!(lanes.enter_owned(1, 0, 0, Moment::default()).is_none());
    let mut waiting = lanes.wait(&[1], 1, Wish::Exclusive, None);
    let held = poll(&mut waiting).expect("free");
    let ballot = Ballot { hlc: 7, id: 9, seq: 1 };
    held.set_owned(Some(Owned { ballot, count: 1, last: OpId(1), generation: 3, since: Moment::default() }));
    drop(held);
    assert!(lanes.enter_owned(1, 0, 4, Moment::default()).is_none(), "the fences are others");
    let (base, next) = lanes.enter_owned(1, 0, 3, Moment::default()).expect("owned");
    assert_eq!((base.ballot, next.seq), (ballot, 2));
    let (base, next) = lanes.enter_owned(1, 0, 3, Moment::default()).expect("two may be under way");
    assert_eq!((base.ballot.seq, next.seq), (2, 3));
    lanes.disown(1);
    assert!(lanes.enter_owned(1, 0, 3, Moment::default()).is_none());
}

#[test]
fn an_update_shares_a_lane_only_where_this_worker_wrote_last() {
    let lanes = Rc::new(Lanes::default());
    let mut first = lanes.wait(&[1], 1, Wish::Owned, None);
    let mut second = lanes.wait(&[1], 2, Wish::Owned, None);
    let mut read = lanes.wait(&[1], 3, Wish::Shared, None);
    assert!(!enters(&lanes, 1, 0), "what came later does not overtake");
    let held = poll(&mut first).expect("free");
    assert!(!held.is_shared() && poll(&mut second).is_none() && poll(&mut read).is_none());
    held.set_owned(Some(Owned {
        ballot: Ballot { hlc: 1, id: 1, seq: 1 },
        count: 1,
        last: OpId(1),
        generation: 0,
        since: Moment::default(),
    }));
    drop(held);
    let held = poll(&mut second).expect("it builds on the first");
    assert!(held.is_shared() && poll(&mut read).is_some());
    assert!(lanes.next_owned(1, 0, Moment::default()).is_some());
    assert!(!enters(&lanes, 1, 0), "a blind write goes behind it as one of them");
    // It turns out to need more rounds.
    let mut again = lanes.wait(&[1], 2, Wish::Exclusive, None);
    drop(held);
    assert!(!poll(&mut again).expect("its turn").is_shared());
}

#[test]
fn an_earlier_blind_write_need_not_be_sent_again() {
    let lanes = Rc::new(Lanes::default());
    let ballot = |hlc| Ballot { hlc, id: 1, seq: 0 };
    assert!(enters(&lanes, 1, 0) && enters(&lanes, 1, 0));
    let mut again = lanes.wait(&[1], 1, Wish::Exclusive, None);
    lanes.leave(1);
    lanes.leave_blind(1, owned(ballot(2)), 2);
    let held = poll(&mut again).expect("its turn");
    assert!(lanes.is_overwritten(1, ballot(1), 2));
    assert!(!lanes.is_overwritten(1, ballot(1), 3), "not by so many");
    assert!(!lanes.is_overwritten(1, ballot(2), 2), "not by itself");
    drop(held);
}

#[test]
fn what_is_remembered_is_bounded() {
    let lanes = Rc::new(Lanes::default());
    for id in 0..REMEMBERED_MAX as u64 + 10 {
        let mut waiting = lanes.wait(&[id], id, Wish::Exclusive, None);
        let held = poll(&mut waiting).expect("free");
        held.set_owned(Some(Owned {
            ballot: Ballot { hlc: 1, id, seq: 0 },
            count: 0,
            last: OpId(1),
            generation: 0,
            since: Moment::default(),
        }));
    }
    assert_eq!(lanes.map.borrow().len(), REMEMBERED_MAX);
    assert!(lanes.enter_owned(0, 0, 0, Moment::default()).is_none());
    assert!(lanes.enter_owned(20, 0, 0, Moment::default()).is_some());
}

#[test]
fn a_blind_write_soon_after_updates_is_one_of_them() {
    let lanes = Rc::new(Lanes::default());
    let mut first = lanes.wait(&[1], 1, Wish::Exclusive, None);
    let held = poll(&mut first).expect("the lane is free");
    held.set_owned(Some(owned(Ballot { hlc: 1, id: 1, seq: 0 })));
    drop(held);
    let span = Duration::from_millis(250);
    let enter = |at: Duration| lanes.enter_blind(1, 0, 0, Moment::default().after(at), span);
    assert!(matches!(enter(span / 2), Entrance::Owned(base, _) if base.ballot.hlc == 1));
    lanes.leave(1);
    assert!(matches!(enter(span * 2), Entrance::Blind { others: 0 }), "the lineage may end");
    assert!(matches!(enter(span * 2), Entrance::Blind { others: 1 }));
    assert!(lanes.enter_owned(1, 0, 0, Moment::default()).is_none(), "what was written before is not the last");
    lanes.leave(1);
    lanes.leave_blind(1, owned(Ballot { hlc: 2, id: 1, seq: 0 }), 2);
    assert!(lanes.enter_owned(1, 0, 0, Moment::default()).is_some(), "an update may build on it");
}

#[test]
fn a_write_waits_for_its_clients_reads() {
    let lanes = Rc::new(Lanes::default());
    lanes.read_begins(1, 7);
    lanes.read_begins(1, 7);
    assert!(enters(&lanes, 1, 8), "another client's");
    lanes.leave(1);
    assert!(!enters(&lanes, 1, 7));
    let mut write = lanes.wait(&[1], 1, Wish::Blind, Some(7));
    lanes.read_ends(1, 7);
    assert!(poll(&mut write).is_none());
    // The other one is sent again, at its place.
    let mut again = lanes.wait(&[1], 0, Wish::Exclusive, None);
    lanes.read_ends(1, 7);
    assert!(poll(&mut write).is_none());
    drop(poll(&mut again).expect("its turn"));
    drop(poll(&mut write).expect("its turn"));
}

#[test]
fn a_read_that_was_let_in_counts_before_it_is_sent() {
    let lanes = Rc::new(Lanes::default());
    let mut before = lanes.wait(&[1], 1, Wish::Exclusive, None);
    let mut read = lanes.wait(&[1], 2, Wish::Shared, Some(7));
    let mut write = lanes.wait(&[1], 3, Wish::Blind, Some(7));
    drop(poll(&mut before).expect("its turn"));
    assert!(poll(&mut write).is_none());
    drop(poll(&mut read).expect("its turn"));
    assert!(poll(&mut write).is_some());
}

#[test]
fn who_had_the_lane_is_known_when_it_is_free_again() {
    let lanes = Rc::new(Lanes::default());
    let before = lanes.taken_count();
    assert!(!lanes.was_disturbed_since(before, 1, 10));
    let mut alone = lanes.wait(&[1], 5, Wish::Exclusive, None);
    drop(poll(&mut alone).expect("its turn"));
    assert!(!lanes.is_disturbed(1, 10), "it is done");
    assert!(lanes.was_disturbed_since(before, 1, 10), "a slow replica answers with what was before");
    assert!(!lanes.was_disturbed_since(before, 1, 4), "it came later");
    assert!(!lanes.was_disturbed_since(before, 2, 10), "another lane");
    assert!(!lanes.was_disturbed_since(lanes.taken_count(), 1, 10));
    for number in 0..2 * TAKEN_MAX as u64 {
        let mut other = lanes.wait(&[3], number, Wish::Exclusive, None);
        drop(poll(&mut other).expect("its turn"));
    }
    assert!(lanes.was_disturbed_since(before, 1, 10), "more than is remembered");
}
