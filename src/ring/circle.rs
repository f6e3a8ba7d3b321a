//! Placements that are a list of owners read in a circle: ketama's points, modula's and Maglev's tables, slots, ranges.
//!
//! A key has a place in the list. The owner there is its primary; the owners met by walking on, wrapping at the end, are its
//! further replicas. What differs is only how the list is filled (here and in `maglev.rs`) and how a place is found.
//!
//! # Invariants
//! The list is never empty, and a place is always an index into it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Member, MemberId, Placement, RingSpec, hash::md5_words, maglev, spec};

/// Vnodes for each unit of weight. 160 is libketama's and nginx's number: the share of a node then stays within about 8 % of
/// its weight, one standard deviation being 1/√160.
pub const VNODES_PER_WEIGHT: u32 = 160;

/// The slots of Redis Cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
pub const SLOTS: usize = 16384;

/// The most entries a circle may have, so that a mistyped weight cannot take the memory.
pub(super) const ENTRIES_MAX: u64 = 1 << 22;

/// Owners in a circle, and how to find a place among them.
#[derive(Debug)]
pub(super) struct Circle {
    owners: Box<[MemberId]>,
    places: Places,
}

#[derive(Debug)]
enum Places {
    /// The place of a token is the first point at or after it.
    Points(Points),
    /// The place of a token is its remainder by the number of owners.
    Remainder,
    /// The place of a token is that of the slot range that holds its remainder by [`SLOTS`].
    Slots(Box<[u16]>),
    /// The place of a key is the last split point at or before it.
    Splits(Box<[Box<[u8]>]>),
}

/// Sorted tokens, with an index by their upper bits: a look-up is one load and a search among about one token.
#[derive(Debug)]
struct Points {
    tokens: Box<[u64]>,
    /// For each value of the upper bits, how many tokens are below it; one more entry than values.
    below: Box<[u32]>,
    shift: u32,
    /// The greatest token a key can have.
    last: u64,
}

/// Tokens that all have one place: `start..=end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) place: usize,
}

impl Circle {
    /// The circle of a spec without faults; none for placements that are not one.
    pub(super) fn build(spec: &RingSpec) -> Option<Self> {
        let width_bits = spec.hash.width_bits();
        Some(match spec.placement {
            Placement::Ketama => Self::points(ketama(spec), 64, u64::MAX),
            Placement::KetamaTwemproxy | Placement::KetamaLibmemcached => {
                Self::points(ketama_compatible(spec), 32, last_of_width(width_bits.min(32)))
            }
            Placement::Modula => Self { owners: modula(spec), places: Places::Remainder },
            Placement::Maglev => Self { owners: maglev::table(spec, maglev::TABLE_SIZE), places: Places::Remainder },
            Placement::Slots => Self::slots(spec),
            Placement::Range => Self::splits(spec),
            Placement::Rendezvous | Placement::Jump => return None,
        })
    }

    fn points(points: Vec<(u64, MemberId)>, width_bits: u32, last: u64) -> Self {
        let index_bits = points.len().next_power_of_two().trailing_zeros().clamp(1, 22);
        let shift = width_bits - index_bits;
        let (tokens, owners): (Vec<u64>, Vec<MemberId>) = points.into_iter().unzip();
        let mut below = Vec::with_capacity((1 << index_bits) + 1);
        let mut count = 0;
        for upper in 0..1_u64 << index_bits {
            let start = upper << shift;
            while tokens.get(count).is_some_and(|token| *token < start) {
                count += 1;
            }
            below.push(entry_index(count));
        }
        below.push(entry_index(tokens.len()));
        let places = Places::Points(Points { tokens: tokens.into(), below: below.into(), shift, last });
        Self { owners: owners.into(), places }
    }

    fn slots(spec: &RingSpec) -> Self {
        let mut owner_of = vec![MemberId(0); SLOTS];
        for (id, member) in spec.numbered() {
            for &(first, last) in &member.slots {
                if let Some(slots) = owner_of.get_mut(first.into()..=last.into()) {
                    slots.fill(id);
                }
            }
        }
        let mut owners: Vec<MemberId> = Vec::new();
        let mut place_of = Vec::with_capacity(SLOTS);
        for owner in owner_of {
            if owners.last() != Some(&owner) {
                owners.push(owner);
            }
            place_of.push(u16::try_from(owners.len() - 1).expect("no more runs than slots"));
        }
        Self { owners: owners.into(), places: Places::Slots(place_of.into()) }
    }

    fn splits(spec: &RingSpec) -> Self {
        let mut starts: Vec<(&[u8], MemberId)> =
            spec.numbered().map(|(id, member)| (member.range_start.as_deref().unwrap_or_default(), id)).collect();
        starts.sort_unstable();
        let (starts, owners): (Vec<_>, Vec<_>) = starts.into_iter().map(|(start, id)| (Box::from(start), id)).unzip();
        Self { owners: owners.into(), places: Places::Splits(starts.into()) }
    }

    /// The place of a token; for splits, of the number of a range.
    #[inline]
    pub(super) fn place_of_token(&self, token: u64) -> usize {
        match &self.places {
            Places::Points(points) => points.place(token),
            Places::Remainder | Places::Splits(_) => remainder(token, self.owners.len()),
            Places::Slots(place_of) => place_of.get(remainder(token, SLOTS)).map_or(0, |place| usize::from(*place)),
        }
    }

    /// The place of a key between split points; `None` where keys are hashed.
    #[inline]
    pub(super) fn place_of_key(&self, key: &[u8]) -> Option<usize> {
        match &self.places {
            Places::Splits(starts) => Some(starts.partition_point(|start| **start <= *key).saturating_sub(1)),
            Places::Points(_) | Places::Remainder | Places::Slots(_) => None,
        }
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The owner at a place.
    #[inline]
    pub(super) fn owner(&self, place: usize) -> MemberId {
        self.owners.get(place).copied().unwrap_or(MemberId(0))
    }

    /// All owners, from a place on, once around.
    pub(super) fn walk(&self, place: usize) -> impl Iterator<Item = MemberId> {
        let (before, after) = self.owners.split_at(place.min(self.owners.len()));
        after.iter().chain(before).copied()
    }

    /// The split points in order, for placement `range`.
    pub(super) fn split_points(&self) -> Option<&[Box<[u8]>]> {
        match &self.places {
            Places::Splits(starts) => Some(starts),
            Places::Points(_) | Places::Remainder | Places::Slots(_) => None,
        }
    }

    /// The divisor whose remainder decides, for tables and slots.
    pub(super) fn modulus(&self) -> Option<u64> {
        match &self.places {
            Places::Remainder => Some(self.owners.len() as u64),
            Places::Slots(place_of) => Some(place_of.len() as u64),
            Places::Points(_) | Places::Splits(_) => None,
        }
    }

    /// The greatest token, for points.
    pub(super) fn last_token(&self) -> Option<u64> {
        match &self.places {
            Places::Points(points) => Some(points.last),
            Places::Remainder | Places::Slots(_) | Places::Splits(_) => None,
        }
    }

    /// All tokens (or remainders, or split numbers) in order, cut where the place changes.
    pub(super) fn cells(&self) -> Vec<Cell> {
        match &self.places {
            Places::Points(points) => points.cells(),
            Places::Remainder | Places::Slots(_) | Places::Splits(_) => {
                let count = self.modulus().unwrap_or(self.owners.len() as u64);
                (0..count).map(|token| Cell { start: token, end: token, place: self.place_of_token(token) }).collect()
            }
        }
    }
}

impl Points {
    #[inline]
    fn place(&self, token: u64) -> usize {
        // `token` is below 2^width and the index covers the width, so both entries exist.
        let upper = usize::try_from(token >> self.shift).unwrap_or(usize::MAX);
        let Some([from, to]) = self.below.get(upper..).and_then(|below| below.first_chunk()) else { return 0 };
        let (from, to) = (*from as usize, *to as usize);
        let near = self.tokens.get(from..to).unwrap_or_default();
        let place = from + near.partition_point(|point| *point < token);
        if place < self.tokens.len() { place } else { 0 }
    }

    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(self.tokens.len() + 1);
        let mut start = 0;
        for (place, token) in self.tokens.iter().enumerate() {
            // Of points with equal tokens the first answers for all; points after the last token answer as one.
            if *token < start {
                continue;
            }
            let end = (*token).min(self.last);
            cells.push(Cell { start, end, place });
            if end == self.last {
                return cells;
            }
            start = end + 1;
        }
        cells.push(Cell { start, end: self.last, place: 0 });
        cells
    }
}

/// The greatest number of so many bits.
pub(super) fn last_of_width(bits: u32) -> u64 {
    u64::MAX.checked_shr(64 - bits).unwrap_or(0)
}

fn remainder(token: u64, modulus: usize) -> usize {
    usize::try_from(token.checked_rem(modulus as u64).unwrap_or(0)).unwrap_or(0)
}

fn entry_index(count: usize) -> u32 {
    u32::try_from(count).expect("65535 members have at most 160 points each, or as many as ENTRIES_MAX allows")
}

/// Our own points: each vnode's token is the hash of the member's name, seeded by the vnode's number. A member's first
/// vnodes do not depend on its weight, so a greater weight only adds tokens.
fn ketama(spec: &RingSpec) -> Vec<(u64, MemberId)> {
    let mut points: Vec<(u64, MemberId)> = Vec::new();
    for (id, member) in spec.by_ring_name() {
        let vnodes = u64::from(member.weight) * u64::from(VNODES_PER_WEIGHT);
        points.extend((0..vnodes).map(|vnode| (xxh3_64_with_seed(member.hashed_name().as_bytes(), vnode), id)));
    }
    points.sort_by_key(|(token, _)| *token); // Stable: of equal tokens the one first by name wins, in any list order.
    points
}

/// The points of twemproxy's and libmemcached's weighted ketama: four from each MD5 of "name-number".
fn ketama_compatible(spec: &RingSpec) -> Vec<(u64, MemberId)> {
    let total_weight: u64 = spec.members.iter().map(|member| u64::from(member.weight)).sum();
    let mut points = Vec::new();
    for (id, member) in spec.by_ring_name() {
        for digest in 0..digests(member, total_weight, spec.members.len()) {
            let words = md5_words(format!("{}-{digest}", member.hashed_name()).as_bytes());
            points.extend(words.map(|word| (u64::from(word), id)));
        }
    }
    points.sort_by_key(|(token, _)| *token);
    points
}

/// How many digests of four points a member gets. Single precision and the order of the operations are part of the result:
/// rounding costs every member of some fleets a digest, and a drop-in must lose it too.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as in C")]
fn digests(member: &Member, total_weight: u64, members: usize) -> u32 {
    let share = member.weight as f32 / total_weight as f32;
    let digests = share * 160.0 / 4.0 * members as f32;
    ((f64::from(digests) + 0.000_000_000_1) as f32).floor() as u32
}

/// twemproxy's table: each member as often as its weight says, members in twemproxy's order of names.
fn modula(spec: &RingSpec) -> Box<[MemberId]> {
    spec.by_ring_name().into_iter().flat_map(|(id, member)| std::iter::repeat_n(id, member.weight as usize)).collect()
}

impl spec::RingSpec {
    /// The members with their ids.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        (0..=u16::MAX).map(MemberId).zip(&self.members)
    }

    /// The members in an order that does not depend on the list: by ring name, shorter first. It is the order that
    /// twemproxy sorts its servers in, which decides what `modula` means.
    pub(super) fn by_ring_name(&self) -> Vec<(MemberId, &Member)> {
        let mut members: Vec<_> = self.numbered().collect();
        members.sort_by_key(|(_, member)| (member.hashed_name().len(), member.hashed_name()));
        members
    }
}
