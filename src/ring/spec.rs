//! What a ring is built from, and every reason to refuse it.
//!
//! # Invariants
//! A setting that the placement would ignore is refused, never dropped silently: a weight that does nothing looks like one
//! that works until a node is full.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeyHash, ShardKey, circle};

/// How a token becomes a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Vnodes on a circle of 64-bit tokens. The default: weights, minimal movement, ranges one can name.
    #[default]
    Ketama,
    /// The circle of twemproxy's `distribution: ketama`.
    KetamaTwemproxy,
    /// The circle of libmemcached's `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`.
    KetamaLibmemcached,
    /// The hash modulo the sum of weights, as twemproxy's `distribution: modula`. Almost every key moves with the fleet.
    Modula,
    /// Weighted rendezvous (highest random weight): the best balance, at a cost that grows with the members.
    Rendezvous,
    /// Envoy's Maglev table of 65537 entries.
    Maglev,
    /// Lamping and Veach's jump hash: perfect balance; members can only come and go at the end of the list.
    Jump,
    /// Redis Cluster's 16384 slots, assigned by hand.
    Slots,
    /// Split points in the order of keys, so that neighbours stay together.
    Range,
}

impl Placement {
    /// Every placement, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Ketama,
        Self::KetamaTwemproxy,
        Self::KetamaLibmemcached,
        Self::Modula,
        Self::Rendezvous,
        Self::Maglev,
        Self::Jump,
        Self::Slots,
        Self::Range,
    ];

    /// The name in a configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ketama => "ketama",
            Self::KetamaTwemproxy => "ketama-twemproxy",
            Self::KetamaLibmemcached => "ketama-libmemcached",
            Self::Modula => "modula",
            Self::Rendezvous => "rendezvous",
            Self::Maglev => "maglev",
            Self::Jump => "jump",
            Self::Slots => "slots",
            Self::Range => "range",
        }
    }

    /// Whether a member's weight changes its share.
    pub fn uses_weights(self) -> bool {
        match self {
            Self::Ketama
            | Self::KetamaTwemproxy
            | Self::KetamaLibmemcached
            | Self::Modula
            | Self::Rendezvous
            | Self::Maglev => true,
            Self::Jump | Self::Slots | Self::Range => false,
        }
    }

    /// Whether a member's place comes from its name (or `ring_name`), and so not from its place in the list.
    pub fn uses_names(self) -> bool {
        self.uses_weights()
    }

    /// The key hash to use where none is set: what makes the placement a drop-in, else `xxh3`.
    pub fn default_hash(self) -> KeyHash {
        match self {
            Self::KetamaTwemproxy | Self::Modula => KeyHash::Fnv1a64,
            Self::KetamaLibmemcached => KeyHash::Md5,
            Self::Maglev => KeyHash::Xxh64,
            Self::Slots => KeyHash::Crc16,
            Self::Ketama | Self::Rendezvous | Self::Jump | Self::Range => KeyHash::Xxh3,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One member of a ring. Its address is not here: an address edit moves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is. The name decides its place on the ring, so it may not change while data depends on it.
    pub name: String,
    /// Its share relative to the others', at least 1. Only placements that honour weights take another than 1.
    pub weight: u32,
    /// Where it stands. Replicas of a key go to different zones first; a member without one counts as its own zone.
    pub zone: Option<String>,
    /// The slots it owns, both ends included. Placement `slots` only; a member may own none.
    pub slots: Vec<(u16, u16)>,
    /// The first key it owns, up to the next member's. Placement `range` only; exactly one member starts at the empty key.
    pub range_start: Option<Vec<u8>>,
    /// What is hashed in place of `name`. For a drop-in, what the other program hashes: see [`ketama_ring_name`].
    pub ring_name: Option<String>,
}

impl Member {
    /// A member of weight 1 with nothing else set.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), weight: 1, zone: None, slots: Vec::new(), range_start: None, ring_name: None }
    }

    /// What decides the member's place.
    pub(super) fn hashed_name(&self) -> &str {
        self.ring_name.as_deref().unwrap_or(&self.name)
    }
}

/// What libmemcached, and twemproxy for a server without a name of its own, hash for a server: `host:port`, or the host
/// alone on memcached's port 11211.
pub fn ketama_ring_name(host: &str, port: u16) -> String {
    const MEMCACHED_PORT: u16 = 11211;
    if port == MEMCACHED_PORT { host.to_owned() } else { format!("{host}:{port}") }
}

/// What a ring is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingSpec {
    /// How a token becomes a member.
    pub placement: Placement,
    /// How a sharding key becomes a token. Placement `range` compares keys and does not hash.
    pub hash: KeyHash,
    /// Which part of a key is its sharding key.
    pub shard_key: ShardKey,
    /// The members. Their order means something to `jump` only.
    pub members: Vec<Member>,
}

/// Why a ring cannot be built: which member, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// No members.
    #[error("a ring needs at least one member")]
    Empty,
    /// More members than a `MemberId` can number.
    #[error("{count} members are more than the {most} a ring can hold: split the pool")]
    TooManyMembers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A member without a name.
    #[error("member number {number} has an empty name: the name is its identity on the ring, give it one")]
    EmptyName {
        /// Its place in the list, from 1.
        number: usize,
    },
    /// Two members of one name.
    #[error("two members are named `{name}`: rename one")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Two members that would fall on the same tokens.
    #[error("members `{name}` and `{other}` both hash `{hashed}` for their place: give one another ring name")]
    DuplicateRingName {
        /// The later member.
        name: String,
        /// The earlier one.
        other: String,
        /// What both hash.
        hashed: String,
    },
    /// A weight of 0.
    #[error("member `{name}` has weight 0: use 1 or more, or remove the member")]
    ZeroWeight {
        /// The member.
        name: String,
    },
    /// A weight that would do nothing.
    #[error("member `{name}` has weight {weight}, but placement `{placement}` ignores weights: remove it{}", mend_weight(*placement))]
    WeightIgnored {
        /// The member.
        name: String,
        /// Its weight.
        weight: u32,
        /// The placement.
        placement: Placement,
    },
    /// Weights that add up to more than a table can hold.
    #[error("the weights add up to {total}, more than {most}: divide them all by the same number, or split the pool")]
    TooMuchWeight {
        /// Their sum.
        total: u64,
        /// The most it may be.
        most: u64,
    },
    /// Slots where they would do nothing.
    #[error(
        "member `{name}` has slots, but placement `{placement}` ignores them: remove them, or use placement `slots`"
    )]
    SlotsIgnored {
        /// The member.
        name: String,
        /// The placement.
        placement: Placement,
    },
    /// A range start where it would do nothing.
    #[error(
        "member `{name}` has a range start, but placement `{placement}` ignores it: remove it, or use placement `range`"
    )]
    RangeIgnored {
        /// The member.
        name: String,
        /// The placement.
        placement: Placement,
    },
    /// A slot range that is no range.
    #[error("member `{name}` has slots {first}-{last}: the first may not exceed the last, nor the last 16383")]
    BadSlots {
        /// The member.
        name: String,
        /// As given.
        first: u16,
        /// As given.
        last: u16,
    },
    /// A slot with two owners.
    #[error("slot {slot} belongs to both `{other}` and `{name}`: remove it from one")]
    SlotOverlap {
        /// The first such slot.
        slot: u16,
        /// The later member.
        name: String,
        /// The earlier one.
        other: String,
    },
    /// Slots without an owner.
    #[error("slots {first}-{last} belong to no member: assign them")]
    SlotsMissing {
        /// The first of the gap.
        first: u16,
        /// The last of the gap.
        last: u16,
    },
    /// A member without a range.
    #[error("member `{name}` has no range start: say which key is the first it owns")]
    RangeStartMissing {
        /// The member.
        name: String,
    },
    /// Two ranges that start at one key.
    #[error("members `{other}` and `{name}` both start at key \"{}\": move one", start.escape_ascii())]
    RangeStartTwice {
        /// The later member.
        name: String,
        /// The earlier one.
        other: String,
        /// The key.
        start: Vec<u8>,
    },
    /// Keys before the first split point.
    #[error("keys before \"{}\" belong to no member: let `{name}` start at the empty key", start.escape_ascii())]
    RangeGap {
        /// The member with the least range start.
        name: String,
        /// That start.
        start: Vec<u8>,
    },
}

fn mend_weight(placement: Placement) -> &'static str {
    match placement {
        Placement::Slots => " and assign more slots",
        Placement::Range => " and move the split points",
        _ => ", or use `ketama` or `rendezvous`",
    }
}

impl RingSpec {
    /// Everything that speaks against this ring, so that a person can mend it in one go. Empty if it can be built.
    pub fn faults(&self) -> Vec<RingError> {
        let mut faults = Vec::new();
        if self.members.is_empty() {
            faults.push(RingError::Empty);
            return faults;
        }
        let most = usize::from(u16::MAX);
        if self.members.len() > most {
            faults.push(RingError::TooManyMembers { count: self.members.len(), most });
            return faults;
        }
        self.check_names(&mut faults);
        self.check_weights(&mut faults);
        self.check_slots(&mut faults);
        self.check_ranges(&mut faults);
        faults
    }

    fn check_names(&self, faults: &mut Vec<RingError>) {
        let mut names = BTreeSet::new();
        let mut hashed_names = BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            let name = member.name.clone();
            if name.is_empty() {
                faults.push(RingError::EmptyName { number: index + 1 });
            } else if !names.insert(&member.name) {
                faults.push(RingError::DuplicateName { name });
            } else if self.placement.uses_names()
                && let Some(other) = hashed_names.insert(member.hashed_name(), &member.name)
            {
                let hashed = member.hashed_name().to_owned();
                faults.push(RingError::DuplicateRingName { name, other: other.clone(), hashed });
            }
        }
    }

    fn check_weights(&self, faults: &mut Vec<RingError>) {
        for Member { name, weight, .. } in &self.members {
            let (name, weight, placement) = (name.clone(), *weight, self.placement);
            if weight == 0 {
                faults.push(RingError::ZeroWeight { name });
            } else if weight != 1 && !placement.uses_weights() {
                faults.push(RingError::WeightIgnored { name, weight, placement });
            }
        }
        let most = match self.placement {
            Placement::Ketama => circle::ENTRIES_MAX / u64::from(circle::VNODES_PER_WEIGHT),
            Placement::Modula => circle::ENTRIES_MAX,
            // Weights are relative there: their sum costs nothing. The compatible ketamas add theirs up in 32 bits.
            _ => u32::MAX.into(),
        };
        let total = self.members.iter().map(|member| u64::from(member.weight)).sum();
        if total > most {
            faults.push(RingError::TooMuchWeight { total, most });
        }
    }

    fn check_slots(&self, faults: &mut Vec<RingError>) {
        let placement = self.placement;
        let mut owners = vec![None; circle::SLOTS];
        for member in &self.members {
            if placement != Placement::Slots && !member.slots.is_empty() {
                faults.push(RingError::SlotsIgnored { name: member.name.clone(), placement });
            }
            for &(first, last) in &member.slots {
                let name = member.name.clone();
                let Some(range) = owners.get_mut(first.into()..=last.into()).filter(|_| first <= last) else {
                    faults.push(RingError::BadSlots { name, first, last });
                    continue;
                };
                if let Some((slot, other)) = (first..).zip(&*range).find_map(|(slot, owner)| owner.map(|o| (slot, o))) {
                    let other: &str = other;
                    faults.push(RingError::SlotOverlap { slot, name, other: other.to_owned() });
                }
                range.fill(Some(member.name.as_str()));
            }
        }
        if placement == Placement::Slots {
            let mut slots = (0..=u16::MAX).zip(&owners).peekable();
            while let Some((first, owner)) = slots.next() {
                if owner.is_none() {
                    let mut last = first;
                    while let Some((slot, _)) = slots.next_if(|(_, owner)| owner.is_none()) {
                        last = slot;
                    }
                    faults.push(RingError::SlotsMissing { first, last });
                }
            }
        }
    }

    fn check_ranges(&self, faults: &mut Vec<RingError>) {
        let placement = self.placement;
        let mut starts: BTreeMap<&[u8], &str> = BTreeMap::new();
        for member in &self.members {
            let name = member.name.clone();
            match &member.range_start {
                Some(_) if placement != Placement::Range => faults.push(RingError::RangeIgnored { name, placement }),
                None if placement == Placement::Range => faults.push(RingError::RangeStartMissing { name }),
                None => {}
                Some(start) => match starts.entry(start) {
                    Entry::Vacant(entry) => {
                        entry.insert(&member.name);
                    }
                    Entry::Occupied(entry) => {
                        let other = (*entry.get()).to_owned();
                        faults.push(RingError::RangeStartTwice { name, other, start: start.clone() });
                    }
                },
            }
        }
        if let Some((start, name)) = starts.first_key_value().filter(|(start, _)| !start.is_empty()) {
            faults.push(RingError::RangeGap { name: (*name).to_owned(), start: start.to_vec() });
        }
    }
}
