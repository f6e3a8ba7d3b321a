//! What a ring promises, tried on random fleets. What other programs do is in `tests/ring_golden.rs`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::diff::{RingDiff, diff};
use super::*;

/// A member as the tests draw it: a number that names it, a weight, a zone.
type Drawn = (u16, u32, Option<u8>);

fn ring(placement: Placement, hash: KeyHash, drawn: &[Drawn]) -> Ring {
    let shard_key = ShardKey::HashTag { open: b'{', close: b'}' };
    let count = drawn.len();
    let mut members: Vec<Member> = Vec::new();
    for (index, (number, weight, zone)) in drawn.iter().enumerate() {
        let mut member = Member::new(format!("node-{number}"));
        member.zone = zone.map(|zone| format!("zone-{zone}"));
        if placement.uses_weights() {
            member.weight = *weight;
        }
        if placement == Placement::Slots {
            // Two runs each, so that a member's slots do not lie together.
            let bound = |part: usize| u16::try_from(part * SLOTS / (2 * count)).unwrap();
            member.slots = vec![
                (bound(index), bound(index + 1) - 1),
                (bound(count + index), u16::try_from((count + index + 1) * SLOTS / (2 * count) - 1).unwrap()),
            ];
        }
        if placement == Placement::Range {
            member.range_start =
                Some(if index == 0 { Vec::new() } else { format!("key:{}", (index * 9 + count) % 100).into_bytes() });
        }
        members.push(member);
    }
    Ring::build(RingSpec { placement, hash, shard_key, members }).unwrap()
}

fn names(ring: &Ring, ids: &[MemberId]) -> Vec<String> {
    ids.iter().map(|id| ring.member(*id).unwrap().name.clone()).collect()
}

fn keys(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| format!("key:{number}").into_bytes())
}

/// Fleets of 1 to 9 members with names out of 0 to 30.
fn fleet() -> impl Strategy<Value = Vec<Drawn>> {
    proptest::collection::btree_map(0_u16..30, (1_u32..5, proptest::option::of(0_u8..3)), 1..9)
        .prop_map(|members| members.into_iter().map(|(number, (weight, zone))| (number, weight, zone)).collect())
}

fn placement() -> impl Strategy<Value = Placement> {
    proptest::sample::select(&Placement::ALL[..])
}

fn hash() -> impl Strategy<Value = KeyHash> {
    proptest::sample::select(&KeyHash::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_distinct_and_zones_come_first(
        placement in placement(), hash in hash(), members in fleet(), count in 0_usize..10,
    ) {
        let ring = ring(placement, hash, &members);
        let zone = |id: &MemberId| members[usize::from(id.0)].2.map_or(u32::from(id.0) + 1000, u32::from);
        for key in keys(50) {
            let replicas = ring.replicas(&key, count);
            prop_assert_eq!(replicas.len(), count.min(members.len()));
            prop_assert_eq!(replicas.first().copied(), (count > 0).then(|| ring.primary(&key)));
            prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replicas.len());
            let mut used: BTreeMap<u32, usize> = BTreeMap::new();
            replicas.iter().for_each(|id| *used.entry(zone(id)).or_default() += 1);
            let most = used.values().copied().max().unwrap_or(0);
            for unused in (0..).zip(&members).map(|(id, _)| MemberId(id)).filter(|id| !replicas.contains(id)) {
                prop_assert!(used.get(&zone(&unused)).copied().unwrap_or(0) + 1 >= most, "{:?} was passed over", unused);
            }
            // A shorter list is the beginning of a longer one: raising the number of replicas moves no copy.
            prop_assert_eq!(&ring.replicas(&key, count.saturating_sub(1))[..], &replicas[..replicas.len().min(count.saturating_sub(1))]);
        }
    }

    #[test]
    fn the_order_of_the_list_means_nothing(placement in placement(), members in fleet(), turn in 0_usize..9) {
        prop_assume!(!matches!(placement, Placement::Jump | Placement::Slots | Placement::Range));
        let ordered = ring(placement, KeyHash::Xxh3, &members);
        let mut other = members.clone();
        other.reverse();
        other.rotate_left(turn % members.len());
        let shuffled = ring(placement, KeyHash::Xxh3, &other);
        prop_assert_eq!(ordered.fingerprint(), shuffled.fingerprint());
        for key in keys(100) {
            prop_assert_eq!(names(&ordered, &ordered.replicas(&key, 3)), names(&shuffled, &shuffled.replicas(&key, 3)));
        }
    }

    #[test]
    fn a_new_member_only_takes(
        placement in proptest::sample::select(vec![Placement::Ketama, Placement::Rendezvous, Placement::Jump]),
        hash in hash(), members in fleet(), weight in 1_u32..5, count in 1_usize..4,
    ) {
        // Zones may make a member replace another of its zone: minimal movement is of rings without them.
        let mut members: Vec<Drawn> = members.iter().map(|(number, weight, _)| (*number, *weight, None)).collect();
        let before = ring(placement, hash, &members);
        members.push((99, weight, None));
        let after = ring(placement, hash, &members);
        let new = MemberId(u16::try_from(members.len() - 1).unwrap());
        for key in keys(300) {
            let (old, now) = (before.primary(&key), after.primary(&key));
            prop_assert!(old == now || now == new);
            if placement != Placement::Jump {
                let old = before.replicas(&key, count);
                prop_assert!(after.replicas(&key, count).iter().all(|id| *id == new || old.contains(id)));
            }
        }
    }

    #[test]
    fn more_weight_only_takes(
        placement in proptest::sample::select(vec![Placement::Ketama, Placement::Rendezvous]), members in fleet(),
    ) {
        let before = ring(placement, KeyHash::Xxh3, &members);
        let mut heavier = members.clone();
        heavier[0].1 += 1;
        let after = ring(placement, KeyHash::Xxh3, &heavier);
        for key in keys(300) {
            let (old, now) = (before.primary(&key), after.primary(&key));
            prop_assert!(old == now || now == MemberId(0));
        }
    }

    /// A member's share of a ketama circle has a relative standard deviation of about 1/√(160·weight). All members lie
    /// within six of those (plus a percent for the tail of that distribution), and on the average within two.
    #[test]
    fn ketama_is_balanced_as_theory_says(seed in 0_u16..1000, weights in proptest::collection::vec(1_u32..4, 5..20)) {
        let members: Vec<Drawn> = (0..).zip(&weights).map(|(i, weight)| (seed * 20 + i, *weight, None)).collect();
        let ring = ring(Placement::Ketama, KeyHash::Xxh3, &members);
        let total: u32 = weights.iter().sum();
        let mut square = 0.0;
        for (share, weight) in ring.shares().iter().zip(&weights) {
            let sigma = 1.0 / f64::from(VNODES_PER_WEIGHT * weight).sqrt();
            let off = (share / (f64::from(*weight) / f64::from(total)) - 1.0) / sigma;
            prop_assert!(off.abs() < 6.1, "{} deviations off", off);
            square += off * off;
        }
        prop_assert!((square / f64::from(u32::try_from(weights.len()).unwrap())).sqrt() < 2.0);
    }

    /// Rendezvous, jump and Maglev have no structure of their own: keys fall as dice do.
    #[test]
    fn the_others_are_balanced_as_dice(
        placement in proptest::sample::select(vec![Placement::Rendezvous, Placement::Jump, Placement::Maglev]),
        members in fleet(),
    ) {
        let ring = ring(placement, KeyHash::Xxh3, &members);
        let total: f64 = ring.members().iter().map(|member| f64::from(member.weight)).sum();
        let mut counts = vec![0.0; members.len()];
        keys(4000).for_each(|key| counts[usize::from(ring.primary(&key).0)] += 1.0);
        for ((member, count), share) in ring.members().iter().zip(counts).zip(ring.shares()) {
            let want = f64::from(member.weight) / total;
            prop_assert!((share - want).abs() < 0.001, "{} has {} and not {}", member.name, share, want);
            let sigma = (4000.0 * want * (1.0 - want)).sqrt();
            prop_assert!((count - 4000.0 * want).abs() <= 6.0 * sigma, "{} keys at {}", count, member.name);
        }
    }

    #[test]
    fn arcs_cover_the_circle(placement in placement(), hash in hash(), members in fleet()) {
        let ring = ring(placement, hash, &members);
        let arcs = ring.arcs();
        prop_assert_eq!(arcs[0].start, Token(0));
        prop_assert_eq!(arcs.last().unwrap().end, ring.last_arc_token());
        prop_assert!(arcs.windows(2).all(|pair| pair[0].end.0 + 1 == pair[1].start.0 && pair[0].owner != pair[1].owner));
        prop_assert!((ring.shares().iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let drawn = !matches!(placement, Placement::Rendezvous | Placement::Jump);
        for key in keys(100).filter(|_| drawn) {
            let token = match placement {
                Placement::Modula | Placement::Maglev => ring.token(&key).0 % (ring.last_arc_token().0 + 1),
                _ => ring.token(&key).0,
            };
            let arc = arcs.iter().find(|arc| (arc.start.0..=arc.end.0).contains(&token)).unwrap();
            prop_assert_eq!(arc.owner, ring.primary(&key));
        }
    }


    #[test]
    fn a_diff_agrees_with_every_key(
        placement in placement(), hash in hash(), before in fleet(), after in fleet(), replicas in 1_usize..4,
    ) {
        prop_assume!(!matches!(placement, Placement::Maglev | Placement::Rendezvous | Placement::Jump));
        let (before, after) = (ring(placement, hash, &before), ring(placement, hash, &after));
        check_diff(&before, &after, replicas, &diff(&before, &after, replicas));
    }
}

proptest! {
    // A diff by samples costs a tenth of a second where nothing is optimised.
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_shows_that_a_new_member_only_takes(
        placement in proptest::sample::select(vec![Placement::Ketama, Placement::Rendezvous, Placement::Jump]),
        members in fleet(), weight in 1_u32..5,
    ) {
        let before = ring(placement, KeyHash::Xxh3, &members);
        let grown: Vec<Drawn> = members.iter().copied().chain([(99, weight, None)]).collect();
        let after = ring(placement, KeyHash::Xxh3, &grown);
        let change = diff(&before, &after, 1);
        prop_assert_eq!(change.exact, placement == Placement::Ketama);
        prop_assert!(change.by_node.iter().all(|node| node.name == "node-99" || node.gains == 0.0));
        let share = after.shares()[members.len()];
        let tolerance = if change.exact { 1e-9 } else { 0.01 };
        prop_assert!((change.moved_share - share).abs() < tolerance, "{} and {}", change.moved_share, share);
    }

    #[test]
    fn a_slow_diff_agrees_with_every_key(
        placement in proptest::sample::select(vec![Placement::Maglev, Placement::Rendezvous, Placement::Jump]), hash in hash(), before in fleet(), after in fleet(), replicas in 1_usize..4,
    ) {
        let (before, after) = (ring(placement, hash, &before), ring(placement, hash, &after));
        check_diff(&before, &after, replicas, &diff(&before, &after, replicas));
    }

    #[test]
    fn rings_of_two_kinds_are_compared_by_samples(
        placements in (placement(), placement()), members in fleet(), replicas in 1_usize..4,
    ) {
        let before = ring(placements.0, KeyHash::Xxh3, &members);
        let after = ring(placements.1, KeyHash::Xxh3, &members);
        let change = diff(&before, &after, replicas);
        let ranged = [placements.0, placements.1].map(|placement| placement == Placement::Range);
        prop_assert_eq!(change.comparable, ranged[0] == ranged[1]);
        check_diff(&before, &after, replicas, &change);
    }
}

/// Tries many keys against a diff, and its sums against each other.
#[track_caller]
fn check_diff(before: &Ring, after: &Ring, replicas: usize, change: &RingDiff) {
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let (mut count_moved, mut count) = (0.0, 0.0);
    for key in keys(2000) {
        let from = names(before, &before.replicas(&key, replicas));
        let to = names(after, &after.replicas(&key, replicas));
        let moves = set(&from) != set(&to);
        count += 1.0;
        count_moved += f64::from(u8::from(moves));
        if change.exact {
            let found = change.moved(before, &key);
            assert_eq!(found, change.moved(after, &key));
            assert_eq!(found.map(|range| (&range.from, &range.to)), moves.then_some((&from, &to)), "{change:?}");
        }
    }
    let by_token = before.spec().placement != Placement::Range && change.comparable;
    if by_token && before.spec().hash == KeyHash::Xxh3 {
        let sigma = (change.moved_share * (1.0 - change.moved_share) / count).sqrt().max(1e-3);
        assert!(
            (count_moved / count - change.moved_share).abs() < 6.0 * sigma,
            "{count_moved} of {count}: {}",
            change.moved_share
        );
    }
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} and {b}");
    if change.comparable {
        near(change.flows.iter().map(|flow| flow.share).sum(), change.moved_share);
    }
    if change.exact {
        near(change.ranges.iter().map(|range| range.share).sum(), change.moved_share);
    }
    change.by_node.iter().for_each(|node| near(node.share_after - node.share_before, node.gains - node.loses));
    let held = change.by_node.iter().map(|node| node.share_before).sum::<f64>();
    near(held, f64::from(u32::try_from(replicas.min(before.members().len())).unwrap()));
}

#[track_caller]
fn refused(placement: Placement, members: Vec<Member>, want: &str) {
    let spec = RingSpec { placement, hash: KeyHash::Xxh3, shard_key: ShardKey::Whole, members };
    let faults: Vec<String> = spec.faults().iter().map(ToString::to_string).collect();
    assert_eq!(faults.join("; "), want);
    assert_eq!(Ring::build(spec).map_err(|error| error.to_string()).unwrap_err(), faults[0]);
}

fn member(name: &str, weight: u32) -> Member {
    Member { weight, ..Member::new(name) }
}

#[test]
fn faults_name_the_member_and_the_mend() {
    use Placement::{Jump, Ketama, Range, Rendezvous, Slots};
    let slots = |name: &str, slots: &[(u16, u16)]| Member { slots: slots.to_vec(), ..Member::new(name) };
    let range = |name: &str, start: &str| Member { range_start: Some(start.into()), ..Member::new(name) };
    refused(Ketama, vec![], "a ring needs at least one member");
    refused(Ketama, vec![member("a", 1), member("a", 1)], "two members are named `a`: rename one");
    refused(
        Rendezvous,
        vec![member("a", 0), member("", 1)],
        "member number 2 has an empty name: the name is its identity on the ring, give it one; \
         member `a` has weight 0: use 1 or more, or remove the member",
    );
    refused(
        Jump,
        vec![member("a", 2)],
        "member `a` has weight 2, but placement `jump` ignores weights: remove it, or use `ketama` or `rendezvous`",
    );
    refused(
        Ketama,
        vec![member("a", 26215)],
        "the weights add up to 26215, more than 26214: divide them all by the same number, or split the pool",
    );
    refused(
        Ketama,
        vec![Member { ring_name: Some("b".into()), ..member("a", 1) }, member("b", 1)],
        "members `b` and `a` both hash `b` for their place: give one another ring name",
    );
    refused(
        Ketama,
        vec![slots("a", &[(0, 1)]), range("b", "")],
        "member `a` has slots, but placement `ketama` ignores them: remove them, or use placement `slots`; \
         member `b` has a range start, but placement `ketama` ignores it: remove it, or use placement `range`",
    );
    refused(
        Slots,
        vec![slots("a", &[(0, 8000), (9000, 8999)]), slots("b", &[(8000, 16000), (16000, 16384)])],
        "member `a` has slots 9000-8999: the first may not exceed the last, nor the last 16383; \
         slot 8000 belongs to both `a` and `b`: remove it from one; \
         member `b` has slots 16000-16384: the first may not exceed the last, nor the last 16383; \
         slots 16001-16383 belong to no member: assign them",
    );
    refused(
        Range,
        vec![range("a", "g"), range("b", "g"), Member::new("c")],
        "members `a` and `b` both start at key \"g\": move one; \
         member `c` has no range start: say which key is the first it owns; \
         keys before \"g\" belong to no member: let `a` start at the empty key",
    );
    let many = (0..=u16::MAX).map(|number| member(&number.to_string(), 1)).collect();
    refused(Ketama, many, "65536 members are more than the 65535 a ring can hold: split the pool");
}

#[test]
fn a_ring_name_keeps_the_place_when_the_name_changes() {
    let members = [(1, 1, None), (2, 3, None), (3, 1, None)];
    let before = ring(Placement::Ketama, KeyHash::Xxh3, &members);
    let mut spec = before.spec().clone();
    spec.members[1].ring_name = Some("node-2".into());
    spec.members[1].name = "renamed".into();
    let after = Ring::build(spec).unwrap();
    assert!(keys(1000).all(|key| before.primary(&key) == after.primary(&key)));
}

#[test]
fn ranges_keep_neighbours_together() {
    let member = |name: &str, start: &[u8]| Member { range_start: Some(start.to_vec()), ..Member::new(name) };
    let build = |members| {
        let shard_key = ShardKey::Whole;
        Ring::build(RingSpec { placement: Placement::Range, hash: KeyHash::Xxh3, shard_key, members }).unwrap()
    };
    let before = build(vec![member("low", b""), member("high", b"m"), member("top", b"\xff")]);
    let owner = |key: &[u8]| before.primary(key).0;
    assert_eq!(
        [b"".as_slice(), b"a", b"lzzz", b"m", b"mm", b"\xfe", b"\xff", b"\xff\xff"].map(owner),
        [0, 0, 0, 1, 1, 1, 2, 2]
    );
    assert_eq!(before.token(b"n"), Token(1));
    let after = build(vec![member("low", b""), member("high", b"p"), member("top", b"\xff")]);
    let change = serde_json::to_value(diff(&before, &after, 1)).unwrap();
    let want = serde_json::json!([{ "start": "1", "end": "1", "start_key": "m", "end_key": "p", "share": 0.25,
        "from": ["high"], "to": ["low"] }]);
    assert_eq!(change["ranges"], want);
}

#[test]
fn rings_that_cannot_be_compared_move_everything() {
    let members = [(1, 1, None), (2, 1, None)];
    let before = ring(Placement::Ketama, KeyHash::Xxh3, &members);
    let change = diff(&before, &ring(Placement::Ketama, KeyHash::Md5, &members), 1);
    assert_eq!(change.reason.as_deref(), Some("the hash changes from xxh3 to md5"));
    assert!(!change.comparable && !change.exact && change.ranges.is_empty());
    assert!((change.moved_share - 1.0).abs() < f64::EPSILON);
    assert!((change.by_node.iter().map(|node| node.gains).sum::<f64>() - 1.0).abs() < 1e-9);
    let mut spec = before.spec().clone();
    spec.shard_key = ShardKey::Whole;
    let change = diff(&before, &Ring::build(spec).unwrap(), 1);
    assert_eq!(change.reason.as_deref(), Some("the sharding key changes from hash tag {…} to the whole key"));
}

#[test]
fn a_fingerprint_sees_every_field() {
    let base = ring(Placement::Ketama, KeyHash::Xxh3, &[(1, 1, None), (2, 1, None)]);
    let mut seen = BTreeSet::from([base.fingerprint()]);
    let mut change = |edit: fn(&mut RingSpec)| {
        let mut spec = base.spec().clone();
        edit(&mut spec);
        assert!(seen.insert(Ring::build(spec).unwrap().fingerprint()));
    };
    change(|spec| spec.placement = Placement::Rendezvous);
    change(|spec| spec.hash = KeyHash::Xxh64);
    change(|spec| spec.shard_key = ShardKey::Whole);
    change(|spec| spec.members[0].name.push('x'));
    change(|spec| spec.members[0].weight = 2);
    change(|spec| spec.members[0].zone = Some(String::new()));
    change(|spec| spec.members[0].ring_name = Some("x".into()));
    change(|spec| spec.members.truncate(1));
}

/// Our own placements have no other program to agree with but an earlier quoit: a change here moves the data of everybody.
#[test]
fn placements_do_not_change_between_versions() {
    let members = [(1, 1, Some(0)), (2, 2, Some(1)), (3, 1, None), (4, 3, Some(1)), (5, 1, Some(0))];
    let of = |placement| {
        let ring = ring(placement, KeyHash::Xxh3, &members);
        let owners: String = keys(40)
            .map(|key| ring.replicas(&key, 2).iter().map(|id| id.0.to_string()).collect::<String>() + " ")
            .collect();
        format!("{placement} {:016x} {owners}", ring.fingerprint())
    };
    insta::assert_snapshot!(Placement::ALL.map(of).join("\n"));
}
