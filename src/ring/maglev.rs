//! Envoy's Maglev table (Eisenbud et al., "Maglev", NSDI 2016, section 3.4; weights as Envoy adds them).
//!
//! Each member has its own permutation of the table and takes the next free entry of it in turn; a member of less than the
//! greatest weight sits out some turns. A change of the fleet moves little more than it must.
//!
//! Envoy hashes a host's address with XXH64 and fills the table in the order of those addresses: set `ring_name` to the
//! address and the key hash to `xxh64` for the same table. The placement of replicas after the first is ours.

use xxhash_rust::xxh64::xxh64;

use super::{MemberId, RingSpec};

/// Envoy's default size of the table, a prime.
pub(super) const TABLE_SIZE: u64 = 65537;

struct Turn {
    id: MemberId,
    /// The entry to try next, and the step to the one after.
    next: u64,
    step: u64,
    weight: f64,
    /// How much weight the member must have had offered before its next turn.
    due: f64,
}

/// The owner of each entry of a table of `size` entries, a prime.
pub(super) fn table(spec: &RingSpec, size: u64) -> Box<[MemberId]> {
    let total: f64 = spec.members.iter().map(|member| f64::from(member.weight)).sum();
    let mut members: Vec<_> = spec.numbered().collect();
    members.sort_by_key(|(_, member)| member.hashed_name());
    let mut turns: Vec<Turn> = members
        .into_iter()
        .map(|(id, member)| {
            let name = member.hashed_name().as_bytes();
            let (next, step) = (xxh64(name, 0) % size, xxh64(name, 1) % (size - 1) + 1);
            Turn { id, next, step, weight: f64::from(member.weight) / total, due: 0.0 }
        })
        .collect();
    let greatest = turns.iter().map(|turn| turn.weight).fold(0.0, f64::max);
    let mut owners = vec![None; usize::try_from(size).expect("the table fits the address space")];
    let mut free = owners.len();
    let mut round = 0.0;
    while free > 0 && !turns.is_empty() {
        round += 1.0;
        for turn in &mut turns {
            if free == 0 {
                break;
            }
            if round * turn.weight < turn.due {
                continue;
            }
            turn.due += greatest;
            while let Some(owner) = owners.get_mut(usize::try_from(turn.next).unwrap_or(usize::MAX)) {
                turn.next = (turn.next + turn.step) % size;
                if owner.is_none() {
                    *owner = Some(turn.id);
                    free -= 1;
                    break;
                }
            }
        }
    }
    owners.into_iter().map(|owner| owner.expect("the loop ends when no entry is free")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{KeyHash, Member, Placement, ShardKey};

    #[track_caller]
    fn check(weights: &[u32], size: u64, want: &[u16]) {
        let member =
            |(port, weight): (u16, &u32)| Member { weight: *weight, ..Member::new(format!("127.0.0.1:{port}")) };
        let spec = RingSpec {
            placement: Placement::Maglev,
            hash: KeyHash::Xxh64,
            shard_key: ShardKey::Whole,
            members: (90..).zip(weights).map(member).collect(),
        };
        let owners: Vec<u16> = table(&spec, size).iter().map(|id| id.0).collect();
        assert_eq!(owners, want);
    }

    /// The tables that Envoy's own tests expect (`maglev_lb_test.cc`).
    #[test]
    fn envoys_tables() {
        check(&[1; 6], 7, &[2, 4, 0, 1, 5, 0, 3]);
        check(&[1, 2], 17, &[1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]);
        check(&[7], 17, &[0; 17]);
    }
}
