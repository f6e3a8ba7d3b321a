//! The difference between two rings as data: which tokens change their replicas, from whom to whom, and how much that is.
//!
//! `plan` prints it, a mover walks it, metrics count it: all read this one type.
//!
//! Both rings must give a key the same token; rings whose sharding keys or hashes differ are not comparable, and then all
//! data must be taken to move. Where the placement has ranges, they are exact:
//!
//! | both rings | the ranges are of |
//! |---|---|
//! | `ketama`; or `ketama-twemproxy` and `ketama-libmemcached` | tokens |
//! | `modula`, `maglev`, `slots` | remainders of the key hash by [`RingDiff::modulus`] |
//! | `range` | keys, by the split points of both; the token is the number of the piece |
//!
//! `rendezvous` and `jump` have none, since neighbouring tokens share nothing; nor have two rings of different kinds, nor two
//! tables whose common multiple exceeds [`MODULUS_MAX`]. Their shares are counted over [`SAMPLES`] key hashes at fixed, equal
//! distances: `exact` is false, `ranges` is empty, and `flows` and `by_node` are right to about a tenth of a percent.
//!
//! # Invariants
//! * Members are the same if their names are.
//! * A range is listed only if the *set* of its replicas changes: another order among the same members moves no data.
//! * `share_after - share_before = gains - loses`, up to rounding.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use super::{MemberId, Placement, Ring, Table, Token, circle::last_of_width, hash::mix64, share_of_remainder};

/// How many key hashes are tried where there are no exact ranges.
pub const SAMPLES: u64 = 1 << 16;

/// The greatest common multiple of two tables that is still compared remainder by remainder.
pub const MODULUS_MAX: u64 = 1 << 17;

/// What changes between two rings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RingDiff {
    /// Whether both rings give a key the same token. If not, `reason` says why, and everything is taken to move.
    pub comparable: bool,
    /// Why the rings are not comparable.
    pub reason: Option<String>,
    /// Whether `ranges` lists all that moves and the shares are counted over every token. The share of a piece between two
    /// split points is a notion even so: every piece counts the same, since nobody knows how many keys it holds.
    pub exact: bool,
    /// Set where ranges are of remainders: by this number.
    pub modulus: Option<u64>,
    /// The part of the tokens of which at least one replica changes.
    pub moved_share: f64,
    /// What moves, in the order of tokens; neighbours with the same replicas are one range.
    pub ranges: Vec<MovedRange>,
    /// The same summed up by replicas before and after, the greatest first.
    pub flows: Vec<Flow>,
    /// What each member of either ring has, gets and gives: the old ring's members first, then those that are new.
    pub by_node: Vec<NodeDelta>,
    #[serde(skip)]
    locate: Locate,
}

/// A range whose set of replicas changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MovedRange {
    /// The first token (or remainder, or number of the piece).
    pub start: Token,
    /// The last one, included.
    pub end: Token,
    /// Placement `range`: the first key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_key: Option<KeyBound>,
    /// Placement `range`: the first key that is not in it any more; none for the last range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_key: Option<KeyBound>,
    /// The part of all tokens.
    pub share: f64,
    /// The replicas in the old ring, the primary first.
    pub from: Vec<String>,
    /// The replicas in the new ring, the primary first.
    pub to: Vec<String>,
}

/// How much moves from one list of replicas to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flow {
    /// The replicas in the old ring, the primary first.
    pub from: Vec<String>,
    /// The replicas in the new ring, the primary first.
    pub to: Vec<String>,
    /// The part of all tokens.
    pub share: f64,
}

/// What the change means for one node. Shares are of all tokens: those it holds a replica of, so that all nodes together
/// have as many wholes as there are replicas.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeDelta {
    /// The node.
    pub name: String,
    /// What it holds before; 0 if it is new.
    pub share_before: f64,
    /// What it holds after; 0 if it leaves.
    pub share_after: f64,
    /// What it holds after and not before: to be copied to it.
    pub gains: f64,
    /// What it holds before and not after: to be dropped from it.
    pub loses: f64,
}

/// A key that bounds a range. Shown and serialised with escapes where it is not printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyBound(pub Vec<u8>);

impl fmt::Display for KeyBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl Serialize for KeyBound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a key is found among the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locate {
    Tokens { last: u64 },
    Remainder { modulus: u64 },
    Keys,
    Nowhere,
}

/// What changes from `old` to `new` when every key has `replicas` replicas.
pub fn diff(old: &Ring, new: &Ring, replicas: usize) -> RingDiff {
    let locate = match comparison(old, new) {
        Ok(locate) => locate,
        Err(reason) => return all_moves(old, new, replicas, reason),
    };
    let mut tally = Tally::new(old, new);
    match (locate, &old.table, &new.table) {
        (Locate::Tokens { last }, Table::Circle(before), Table::Circle(after)) => {
            let mut ends: Vec<u64> = before.cells().iter().chain(&after.cells()).map(|cell| cell.end).collect();
            ends.sort_unstable();
            ends.dedup();
            let mut start = 0;
            for end in ends {
                let from = old.replicas_of_place(before, before.place_of_token(end), replicas);
                let to = new.replicas_of_place(after, after.place_of_token(end), replicas);
                tally.add(&Piece::of_tokens(start, end, last), &from, &to);
                start = end.saturating_add(1);
            }
        }
        (Locate::Remainder { modulus }, ..) => {
            for rest in 0..modulus {
                let piece = Piece { share: share_of_remainder(old.spec.hash, modulus, rest), ..Piece::at(rest) };
                tally.add(&piece, &old.replicas_of_hash(rest, replicas), &new.replicas_of_hash(rest, replicas));
            }
        }
        (Locate::Keys, Table::Circle(before), Table::Circle(after)) => {
            let splits = before.split_points().into_iter().chain(after.split_points()).flatten();
            let mut splits: Vec<&[u8]> = splits.map(AsRef::as_ref).collect();
            splits.sort_unstable();
            splits.dedup();
            for (number, start) in splits.iter().enumerate() {
                let [from, to] = [(old, before), (new, after)].map(|(ring, circle)| {
                    ring.replicas_of_place(circle, circle.place_of_key(start).unwrap_or(0), replicas)
                });
                tally.add(&Piece::of_keys(&splits, number, start), &from, &to);
            }
        }
        (Locate::Nowhere | Locate::Tokens { .. } | Locate::Keys, ..) => {
            for (hash, share) in samples(old.spec.hash.width_bits()) {
                let [from, to] = [old, new].map(|ring| ring.replicas_of_hash(hash, replicas));
                tally.add(&Piece { share, listed: false, ..Piece::at(hash) }, &from, &to);
            }
        }
    }
    tally.finish(locate, locate != Locate::Nowhere || old.fingerprint() == new.fingerprint())
}

impl RingDiff {
    /// The listed range that `key` lies in, if it moves; `ring` is either of the two that were compared.
    pub fn moved(&self, ring: &Ring, key: &[u8]) -> Option<&MovedRange> {
        let shard_key = ring.shard_key(key);
        let after = match self.locate {
            Locate::Tokens { .. } => {
                let token = ring.token(key);
                self.ranges.partition_point(|range| range.start <= token)
            }
            Locate::Remainder { modulus } => {
                let rest = Token(ring.hash(shard_key) % modulus);
                self.ranges.partition_point(|range| range.start <= rest)
            }
            Locate::Keys => self.ranges.partition_point(|range| range.starts_by(shard_key)),
            Locate::Nowhere => return None,
        };
        let range = self.ranges.get(after.checked_sub(1)?)?;
        let inside = match self.locate {
            Locate::Tokens { .. } => ring.token(key) <= range.end,
            Locate::Remainder { modulus } => ring.hash(shard_key) % modulus <= range.end.0,
            Locate::Keys => range.end_key.as_ref().is_none_or(|end| shard_key < end.0.as_slice()),
            Locate::Nowhere => false,
        };
        inside.then_some(range)
    }
}

impl MovedRange {
    fn starts_by(&self, key: &[u8]) -> bool {
        self.start_key.as_ref().is_some_and(|start| start.0.as_slice() <= key)
    }
}

/// How to compare the rings, or why one cannot.
fn comparison(old: &Ring, new: &Ring) -> Result<Locate, String> {
    let (a, b) = (&old.spec, &new.spec);
    if a.shard_key != b.shard_key {
        return Err(format!("the sharding key changes from {} to {}", a.shard_key, b.shard_key));
    }
    let by_key = [a.placement, b.placement].map(|placement| placement == Placement::Range);
    if by_key == [true, true] {
        return Ok(Locate::Keys);
    }
    if by_key != [false, false] {
        return Err(format!(
            "the placement changes from {} to {}: one orders keys, the other hashes them",
            a.placement, b.placement
        ));
    }
    if a.hash != b.hash {
        return Err(format!("the hash changes from {} to {}", a.hash, b.hash));
    }
    let (Table::Circle(before), Table::Circle(after)) = (&old.table, &new.table) else { return Ok(Locate::Nowhere) };
    if let (Some(last), Some(other)) = (before.last_token(), after.last_token()) {
        // Only the 64-bit circle has that many tokens, and all others cut the hash in the same way.
        return Ok(if last == other { Locate::Tokens { last } } else { Locate::Nowhere });
    }
    if let (Some(one), Some(other)) = (before.modulus(), after.modulus()) {
        let modulus = one / greatest_common_divisor(one, other) * other;
        if modulus <= MODULUS_MAX {
            return Ok(Locate::Remainder { modulus });
        }
    }
    Ok(Locate::Nowhere)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Rings that cannot be compared: every node gives all it has and gets all it will have.
fn all_moves(old: &Ring, new: &Ring, replicas: usize, reason: String) -> RingDiff {
    let mut tally = Tally::new(old, new);
    for (ring, is_new) in [(old, false), (new, true)] {
        for node in diff(ring, ring, replicas).by_node {
            if let Some(delta) = tally.nodes.iter_mut().find(|delta| delta.name == node.name) {
                let (held, moved) = if is_new {
                    (&mut delta.share_after, &mut delta.gains)
                } else {
                    (&mut delta.share_before, &mut delta.loses)
                };
                *held = node.share_before;
                *moved = node.share_before;
            }
        }
    }
    tally.moved_share = 1.0;
    RingDiff { comparable: false, reason: Some(reason), ..tally.finish(Locate::Nowhere, false) }
}

/// Key hashes at equal distances with mixed low bits, so that neither a circle nor a remainder sees a pattern; all of them
/// where there are no more than [`SAMPLES`].
#[expect(clippy::cast_precision_loss, reason = "the number of samples is a power of two")]
fn samples(width_bits: u32) -> impl Iterator<Item = (u64, f64)> {
    let count = SAMPLES.min(last_of_width(width_bits).saturating_add(1));
    let low_bits = width_bits - count.trailing_zeros();
    let low_mask = if low_bits == 0 { 0 } else { last_of_width(low_bits) };
    (0..count).map(move |sample| ((sample << low_bits) | (mix64(sample) & low_mask), 1.0 / count as f64))
}

/// Tokens that have the same replicas throughout, in each ring.
struct Piece {
    start: u64,
    end: u64,
    start_key: Option<KeyBound>,
    end_key: Option<KeyBound>,
    share: f64,
    /// Whether it stands for itself; a sample stands for others too.
    listed: bool,
}

impl Piece {
    fn at(token: u64) -> Self {
        Self { start: token, end: token, start_key: None, end_key: None, share: 0.0, listed: true }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double's precision")]
    fn of_tokens(start: u64, end: u64, last: u64) -> Self {
        Self { end, share: ((end - start) as f64 + 1.0) / (last as f64 + 1.0), ..Self::at(start) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double's precision")]
    fn of_keys(splits: &[&[u8]], number: usize, start: &[u8]) -> Self {
        Self {
            start_key: Some(KeyBound(start.to_vec())),
            end_key: splits.get(number + 1).map(|end| KeyBound(end.to_vec())),
            share: 1.0 / splits.len() as f64,
            ..Self::at(number as u64)
        }
    }
}

/// Indices into [`Tally::nodes`].
type Nodes = SmallVec<[u32; 4]>;

struct Tally {
    nodes: Vec<NodeDelta>,
    /// Each ring's members as indices into `nodes`.
    old_nodes: Vec<u32>,
    new_nodes: Vec<u32>,
    moved_share: f64,
    ranges: Vec<MovedRange>,
    last_range: Option<(Nodes, Nodes)>,
    flows: BTreeMap<(Nodes, Nodes), f64>,
}

impl Tally {
    fn new(old: &Ring, new: &Ring) -> Self {
        let mut numbers = BTreeMap::new();
        let mut nodes = Vec::new();
        let [old_nodes, new_nodes] = [old, new].map(|ring| {
            let number = |member: &super::Member| {
                *numbers.entry(member.name.clone()).or_insert_with(|| {
                    let name = member.name.clone();
                    nodes.push(NodeDelta { name, share_before: 0.0, share_after: 0.0, gains: 0.0, loses: 0.0 });
                    u32::try_from(nodes.len() - 1).expect("two rings have at most 131070 members")
                })
            };
            ring.members().iter().map(number).collect()
        });
        Self {
            nodes,
            old_nodes,
            new_nodes,
            moved_share: 0.0,
            ranges: Vec::new(),
            last_range: None,
            flows: BTreeMap::new(),
        }
    }

    fn add(&mut self, piece: &Piece, from: &[MemberId], to: &[MemberId]) {
        let of = |numbers: &[u32], ids: &[MemberId]| -> Nodes {
            ids.iter().filter_map(|id| numbers.get(usize::from(id.0)).copied()).collect()
        };
        let (from, to) = (of(&self.old_nodes, from), of(&self.new_nodes, to));
        let mut moves = false;
        for node in &from {
            let lost = !to.contains(node);
            moves |= lost;
            self.node(*node, |delta| {
                delta.share_before += piece.share;
                delta.loses += if lost { piece.share } else { 0.0 };
            });
        }
        for node in &to {
            let gained = !from.contains(node);
            moves |= gained;
            self.node(*node, |delta| {
                delta.share_after += piece.share;
                delta.gains += if gained { piece.share } else { 0.0 };
            });
        }
        if moves {
            self.moved_share += piece.share;
            *self.flows.entry((from.clone(), to.clone())).or_default() += piece.share;
            // A remainder that no hash leaves (those of `crc32` are short) holds no key.
            if piece.listed && piece.share > 0.0 {
                self.list(piece, from, to);
            }
        }
    }

    fn node(&mut self, number: u32, change: impl FnOnce(&mut NodeDelta)) {
        if let Some(delta) = self.nodes.get_mut(number as usize) {
            change(delta);
        }
    }

    fn list(&mut self, piece: &Piece, from: Nodes, to: Nodes) {
        let replicas = Some((from, to));
        match self.ranges.last_mut() {
            Some(last) if last.end.0.checked_add(1) == Some(piece.start) && self.last_range == replicas => {
                last.end = Token(piece.end);
                last.end_key.clone_from(&piece.end_key);
                last.share += piece.share;
            }
            _ => {
                let (from, to) =
                    replicas.as_ref().map(|(from, to)| (self.names(from), self.names(to))).unwrap_or_default();
                let (start, end) = (Token(piece.start), Token(piece.end));
                let (start_key, end_key) = (piece.start_key.clone(), piece.end_key.clone());
                self.ranges.push(MovedRange { start, end, start_key, end_key, share: piece.share, from, to });
                self.last_range = replicas;
            }
        }
    }

    fn names(&self, nodes: &[u32]) -> Vec<String> {
        nodes.iter().filter_map(|node| self.nodes.get(*node as usize)).map(|delta| delta.name.clone()).collect()
    }

    fn finish(self, locate: Locate, exact: bool) -> RingDiff {
        let flow = |((from, to), share): (&(Nodes, Nodes), &f64)| Flow {
            from: self.names(from),
            to: self.names(to),
            share: *share,
        };
        let mut flows: Vec<Flow> = self.flows.iter().map(flow).collect();
        flows.sort_by(|a, b| b.share.total_cmp(&a.share));
        let modulus = if let Locate::Remainder { modulus } = locate { Some(modulus) } else { None };
        RingDiff {
            comparable: true,
            reason: None,
            exact,
            modulus,
            moved_share: self.moved_share,
            ranges: self.ranges,
            flows,
            by_node: self.nodes,
            locate,
        }
    }
}
