//! The ring: key → sharding key → token → the members that hold the key.
//!
//! A request meets it once a key: [`Ring::primary`] (or [`Ring::replicas`]) is one call without an allocation. A ring is built
//! from a [`RingSpec`] when a configuration is loaded and never changes; a new configuration is a new ring, and
//! [`diff::diff`] says what lies between the two.
//!
//! # Invariants
//! * Pure: names, weights and zones in, members out. No clock, randomness, socket or file.
//! * The same spec gives the same owners in every process, on every platform, in every later version: stored data depends
//!   on it. Golden vectors pin it.
//! * Health is not an input. A dead node's keys are nobody else's.
//! * Except for `jump`, the order of the member list means nothing.
//! * The first replica is the primary, and replicas are distinct.
//!
//! It does not know addresses, connections or how many replicas a pool wants.

mod circle;
pub mod diff;
mod hash;
mod maglev;
mod scatter;
mod shard_key;
mod spec;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use self::{
    circle::Circle,
    hash::mix64,
    scatter::{Rendezvous, best_first, jump, jump_order},
};
pub use self::{
    circle::{SLOTS, VNODES_PER_WEIGHT},
    hash::KeyHash,
    shard_key::ShardKey,
    spec::{Member, Placement, RingError, RingSpec, ketama_ring_name},
};

/// A member, as an index into [`RingSpec::members`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct MemberId(pub u16);

/// A place on the ring. What the number counts depends on the placement: see [`Ring::token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Token {
    /// As a decimal string: a JSON number loses bits above 2^53 in JavaScript and jq.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The replicas of a key, the primary first.
pub type Replicas = SmallVec<[MemberId; 8]>;

/// A run of tokens with one primary, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Arc {
    /// The first token.
    pub start: Token,
    /// The last token.
    pub end: Token,
    /// Who owns them.
    pub owner: MemberId,
}

/// A ring: see the module.
#[derive(Debug)]
pub struct Ring {
    spec: RingSpec,
    table: Table,
    /// Each member's zone as a number; members without a zone have one each.
    zones: Box<[u16]>,
    /// How many zones have more than 0, 1, 2 … members.
    zones_deeper_than: Box<[usize]>,
}

#[derive(Debug)]
enum Table {
    Circle(Circle),
    Rendezvous(Rendezvous),
    Jump { buckets: u16 },
}

impl Ring {
    /// Builds the ring of `spec`.
    ///
    /// # Errors
    /// The first of [`RingSpec::faults`].
    pub fn build(spec: RingSpec) -> Result<Self, RingError> {
        if let Some(fault) = spec.faults().into_iter().next() {
            return Err(fault);
        }
        let table = match (Circle::build(&spec), spec.placement) {
            (Some(circle), _) => Table::Circle(circle),
            (None, Placement::Jump) => Table::Jump { buckets: u16::try_from(spec.members.len()).unwrap_or(u16::MAX) },
            (None, _) => Table::Rendezvous(Rendezvous::build(&spec)),
        };
        let (zones, zones_deeper_than) = zones(&spec);
        Ok(Self { spec, table, zones, zones_deeper_than })
    }

    /// The part of `key` that decides its place.
    #[inline]
    pub fn shard_key<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        self.spec.shard_key.of(key)
    }

    /// Where `key` lies. By placement:
    /// `ketama` and `rendezvous`: the key hash as 64 bits (one of 32 bits is spread over 64) · `ketama-twemproxy` and
    /// `ketama-libmemcached`: its low 32 bits · `modula`, `maglev` and `jump`: the key hash · `slots`: the slot ·
    /// `range`: the number of the range, in the order of keys.
    pub fn token(&self, key: &[u8]) -> Token {
        let key = self.shard_key(key);
        Token(match &self.table {
            Table::Circle(circle) => match circle.place_of_key(key) {
                Some(place) => place as u64,
                None if self.spec.placement == Placement::Slots => self.hash(key) % SLOTS as u64,
                None => self.token_of_hash(self.hash(key)),
            },
            Table::Rendezvous(_) | Table::Jump { .. } => self.token_of_hash(self.hash(key)),
        })
    }

    /// The first replica of `key`: with one replica, its owner. The hot path.
    #[inline]
    pub fn primary(&self, key: &[u8]) -> MemberId {
        let key = self.shard_key(key);
        match &self.table {
            Table::Circle(circle) => circle.owner(self.place(circle, key)),
            Table::Rendezvous(rendezvous) => rendezvous.primary(self.token_of_hash(self.hash(key))),
            Table::Jump { buckets } => jump(self.hash(key), *buckets),
        }
    }

    /// The first `count` distinct members for `key`, the primary first. A zone repeats only when each zone that still has an
    /// unused member was used as often. Fewer than `count` only if fewer members own anything.
    pub fn replicas(&self, key: &[u8], count: usize) -> Replicas {
        let key = self.shard_key(key);
        match &self.table {
            Table::Circle(circle) => self.replicas_of_place(circle, self.place(circle, key), count),
            Table::Rendezvous(_) | Table::Jump { .. } => self.replicas_of_hash(self.hash(key), count),
        }
    }

    /// How many places there are whose keys have the same replicas each; none for a placement without such places.
    pub fn places(&self) -> Option<usize> {
        match &self.table {
            Table::Circle(circle) => Some(circle.len()),
            Table::Rendezvous(_) | Table::Jump { .. } => None,
        }
    }

    /// The place of a key, below [`Ring::places`].
    #[inline]
    pub fn place_of(&self, key: &[u8]) -> Option<usize> {
        match &self.table {
            Table::Circle(circle) => Some(self.place(circle, self.shard_key(key))),
            Table::Rendezvous(_) | Table::Jump { .. } => None,
        }
    }

    /// The members, in the order of the spec; a [`MemberId`] is an index into it.
    pub fn members(&self) -> &[Member] {
        &self.spec.members
    }

    /// The member of an id of this ring.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.spec.members.get(usize::from(id.0))
    }

    /// What the ring was built from.
    pub fn spec(&self) -> &RingSpec {
        &self.spec
    }

    /// Each member's share of the tokens as primary; they add up to 1. Exact, with two readings: for `rendezvous` it is the
    /// expectation, and for `range`, where nobody knows how many keys lie between two split points, every range counts the
    /// same.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.spec.members.len()];
        match &self.table {
            Table::Circle(circle) => {
                for cell in circle.cells() {
                    if let Some(share) = shares.get_mut(usize::from(circle.owner(cell.place).0)) {
                        *share += self.share_of_cell(circle, cell);
                    }
                }
            }
            Table::Rendezvous(_) | Table::Jump { .. } => {
                let total: f64 = self.spec.members.iter().map(|member| f64::from(member.weight)).sum();
                for (share, member) in shares.iter_mut().zip(&self.spec.members) {
                    *share = f64::from(member.weight) / total;
                }
            }
        }
        shares
    }

    /// The circle for drawing: runs of tokens with one primary, in order and without gaps, from 0 to [`Self::last_arc_token`].
    /// Ketama's arcs are exact; `modula`, `maglev` and `slots` are drawn by remainder, `range` by range number. `rendezvous`
    /// and `jump` have no arcs: each member gets one as long as its share, in list order, which shows the balance only.
    pub fn arcs(&self) -> Vec<Arc> {
        let mut arcs: Vec<Arc> = Vec::new();
        match &self.table {
            Table::Circle(circle) => {
                for cell in circle.cells() {
                    let owner = circle.owner(cell.place);
                    match arcs.last_mut() {
                        Some(last) if last.owner == owner => last.end = Token(cell.end),
                        _ => arcs.push(Arc { start: Token(cell.start), end: Token(cell.end), owner }),
                    }
                }
            }
            Table::Rendezvous(_) | Table::Jump { .. } => {
                let total: u64 = self.spec.members.iter().map(|member| u64::from(member.weight)).sum();
                let (mut before, mut start) = (0, 0);
                for (owner, member) in self.spec.numbered() {
                    before += u64::from(member.weight);
                    let end = u128::from(u64::MAX) * u128::from(before) / u128::from(total.max(1));
                    let end = u64::try_from(end).unwrap_or(u64::MAX);
                    arcs.push(Arc { start: Token(start), end: Token(end), owner });
                    start = end.saturating_add(1);
                }
            }
        }
        arcs
    }

    /// The last token that [`Self::arcs`] covers: the length of the circle, less one.
    pub fn last_arc_token(&self) -> Token {
        Token(match &self.table {
            Table::Circle(circle) => circle
                .last_token()
                .or(circle.modulus().map(|modulus| modulus - 1))
                .unwrap_or(self.spec.members.len() as u64 - 1),
            Table::Rendezvous(_) | Table::Jump { .. } => u64::MAX,
        })
    }

    /// A number that two rings share exactly when they have the same placement, hash, sharding key and members (names, ring
    /// names, weights, zones, slots, range starts), and so the same replicas for every key. The same in every process and
    /// version. The order of members counts for `jump` only.
    pub fn fingerprint(&self) -> u64 {
        let mut members: Vec<&Member> = self.spec.members.iter().collect();
        if self.spec.placement != Placement::Jump {
            members.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let mut fields = Fields(b"quoit ring 1".to_vec());
        fields.add(self.spec.placement.name().as_bytes());
        fields.add(if self.spec.placement == Placement::Range { b"" } else { self.spec.hash.name().as_bytes() });
        fields.add(self.spec.shard_key.to_string().as_bytes());
        for member in members {
            fields.add(member.name.as_bytes());
            fields.add(if self.spec.placement.uses_names() { member.hashed_name().as_bytes() } else { b"" });
            fields.add(&member.weight.to_le_bytes());
            fields.add_optional(member.zone.as_deref().map(str::as_bytes));
            fields.add_optional(member.range_start.as_deref());
            let mut slots = member.slots.clone();
            slots.sort_unstable();
            fields.add(
                &slots
                    .iter()
                    .flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()])
                    .flatten()
                    .collect::<Vec<_>>(),
            );
        }
        xxh3_64(&fields.0)
    }

    /// The key hash of a sharding key.
    #[inline]
    fn hash(&self, shard_key: &[u8]) -> u64 {
        self.spec.hash.hash(shard_key)
    }

    /// The token of a key hash, before any remainder is taken.
    #[inline]
    fn token_of_hash(&self, hash: u64) -> u64 {
        match self.spec.placement {
            // A hash of 32 bits or fewer would leave most of a circle of 64 empty.
            Placement::Ketama | Placement::Rendezvous if self.spec.hash.width_bits() < 64 => mix64(hash),
            Placement::KetamaTwemproxy | Placement::KetamaLibmemcached => hash & u64::from(u32::MAX),
            Placement::Ketama
            | Placement::Rendezvous
            | Placement::Modula
            | Placement::Maglev
            | Placement::Jump
            | Placement::Slots
            | Placement::Range => hash,
        }
    }

    #[inline]
    fn place(&self, circle: &Circle, shard_key: &[u8]) -> usize {
        match circle.place_of_key(shard_key) {
            Some(place) => place,
            None => circle.place_of_token(self.token_of_hash(self.hash(shard_key))),
        }
    }

    fn replicas_of_place(&self, circle: &Circle, place: usize, count: usize) -> Replicas {
        self.spread(|| circle.walk(place), count)
    }

    fn replicas_of_hash(&self, hash: u64, count: usize) -> Replicas {
        let token = self.token_of_hash(hash);
        match &self.table {
            Table::Circle(circle) => self.replicas_of_place(circle, circle.place_of_token(token), count),
            Table::Rendezvous(rendezvous) => {
                let ranks = rendezvous.ranks(token);
                self.spread(|| best_first(&ranks), count)
            }
            Table::Jump { buckets } => {
                // Zones may need members far down the order; without them the first `count` do.
                let wanted = if self.zones_deeper_than.len() == 1 { count } else { usize::from(*buckets) };
                let order = jump_order(hash, *buckets, wanted);
                self.spread(|| order.iter().copied(), count)
            }
        }
    }

    /// Takes members from `walk` in rounds: in each, a zone gives one member at most.
    fn spread<W: Iterator<Item = MemberId>>(&self, walk: impl Fn() -> W, count: usize) -> Replicas {
        let mut chosen = Replicas::new();
        for zones in &self.zones_deeper_than {
            let round_start = chosen.len();
            let wanted = count.min(round_start + zones);
            if wanted == round_start {
                break;
            }
            for id in walk() {
                let zone = self.zone(id);
                let used = chosen
                    .iter()
                    .enumerate()
                    .any(|(number, other)| *other == id || (number >= round_start && self.zone(*other) == zone));
                if !used {
                    chosen.push(id);
                    if chosen.len() == wanted {
                        break;
                    }
                }
            }
        }
        chosen
    }

    fn zone(&self, id: MemberId) -> u16 {
        self.zones.get(usize::from(id.0)).copied().unwrap_or(0)
    }

    /// The part of all key hashes that fall into a cell.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double's precision")]
    fn share_of_cell(&self, circle: &Circle, cell: circle::Cell) -> f64 {
        if let Some(last) = circle.last_token() {
            return ((cell.end - cell.start) as f64 + 1.0) / (last as f64 + 1.0);
        }
        match circle.modulus() {
            Some(modulus) => {
                (cell.start..=cell.end).map(|rest| share_of_remainder(self.spec.hash, modulus, rest)).sum()
            }
            None => 1.0 / self.spec.members.len() as f64,
        }
    }
}

/// The part of all hashes that leave this remainder. Not quite `1 / modulus` for a narrow hash such as the 15 bits of `crc32`.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double's precision")]
fn share_of_remainder(hash: KeyHash, modulus: u64, remainder: u64) -> f64 {
    let hashes = 1_u128 << hash.width_bits();
    let modulus = u128::from(modulus);
    let count = hashes / modulus + u128::from(u128::from(remainder) < hashes % modulus);
    count as f64 / hashes as f64
}

/// Each member's zone as a number, and how many zones have more than 0, 1, 2 … members.
fn zones(spec: &RingSpec) -> (Box<[u16]>, Box<[usize]>) {
    let mut known: Vec<(Option<&str>, usize)> = Vec::new();
    let mut zones: Vec<u16> = Vec::with_capacity(spec.members.len());
    for member in &spec.members {
        let own = member.zone.as_deref();
        let found = own.and_then(|_| known.iter().position(|(zone, _)| *zone == own));
        let number = found.unwrap_or(known.len());
        if let Some((_, size)) = known.get_mut(number) {
            *size += 1;
        } else {
            known.push((own, 1));
        }
        zones.push(u16::try_from(number).expect("there are no more zones than members, and those are at most 65535"));
    }
    let deepest = known.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let deeper_than = (0..deepest).map(|depth| known.iter().filter(|(_, size)| *size > depth).count()).collect();
    (zones.into(), deeper_than)
}

/// Bytes with their lengths, so that no two lists of fields read the same.
struct Fields(Vec<u8>);

impl Fields {
    fn add(&mut self, field: &[u8]) {
        self.0.extend((field.len() as u64).to_le_bytes());
        self.0.extend(field);
    }

    fn add_optional(&mut self, field: Option<&[u8]>) {
        self.0.push(field.is_some().into());
        self.add(field.unwrap_or_default());
    }
}
