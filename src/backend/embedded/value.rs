//! The five types a key can hold. Each counts its own bytes, so that the memory cap costs no walk.
//!
//! # Invariants
//! - `bytes()` is the sum over the elements present, at any time.
//! - Small hashes and sets keep the order in which Redis's compact encodings list them, so replies compare equal.

use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};

use super::number::parse_integer;

/// Up to this length a collection keeps insertion order on removal and is scanned in one step, as Redis's listpack
/// and intset encodings do (`hash-max-listpack-entries`, `set-max-intset-entries`).
pub(super) const COMPACT_LEN_MAX: usize = 512;

/// What an element costs beside its bytes; a round figure for allocator and table.
const ELEMENT_BYTES: usize = 48;

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(Vec<u8>),
    Hash(Hash),
    List(List),
    Set(Set),
    SortedSet(SortedSet),
}

/// One of the types, as the keyspace hands it to a verb.
pub(super) trait Kind: Default {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
}

macro_rules! kind {
    ($type:ty, $variant:ident) => {
        impl Kind for $type {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$variant(inner) = value { Some(inner) } else { None }
            }
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let Value::$variant(inner) = value { Some(inner) } else { None }
            }
            fn wrap(self) -> Value {
                Value::$variant(self)
            }
        }
    };
}

kind!(Vec<u8>, String);
kind!(Hash, Hash);
kind!(List, List);
kind!(Set, Set);
kind!(SortedSet, SortedSet);

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Hash(_) => "hash",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::SortedSet(_) => "zset",
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Hash(hash) => hash.bytes,
            Self::List(list) => list.bytes,
            Self::Set(set) => set.bytes,
            Self::SortedSet(sorted) => sorted.bytes,
        }
    }

    /// Whether nothing is left, so that the key goes. An empty string is a value.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::String(_) => false,
            Self::Hash(hash) => hash.fields.is_empty(),
            Self::List(list) => list.items.is_empty(),
            Self::Set(set) => set.members.is_empty(),
            Self::SortedSet(sorted) => sorted.scores.is_empty(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Hash {
    fields: IndexMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Hash {
    pub(super) fn fields(&self) -> &IndexMap<Vec<u8>, Vec<u8>> {
        &self.fields
    }

    pub(super) fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(Vec::as_slice)
    }

    /// Whether the field is new.
    pub(super) fn insert(&mut self, field: &[u8], value: Vec<u8>) -> bool {
        self.bytes += value.len();
        if let Some(old) = self.fields.get_mut(field) {
            self.bytes -= old.len();
            *old = value;
            return false;
        }
        self.bytes += field.len() + ELEMENT_BYTES;
        self.fields.insert(field.to_vec(), value);
        true
    }

    pub(super) fn remove(&mut self, field: &[u8]) -> bool {
        let compact = self.fields.len() <= COMPACT_LEN_MAX;
        let removed = if compact { self.fields.shift_remove(field) } else { self.fields.swap_remove(field) };
        if let Some(value) = &removed {
            self.bytes -= value.len() + field.len() + ELEMENT_BYTES;
        }
        removed.is_some()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct List {
    items: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

impl List {
    pub(super) fn items(&self) -> &VecDeque<Vec<u8>> {
        &self.items
    }

    pub(super) fn push(&mut self, end: End, item: Vec<u8>) {
        self.bytes += item.len() + ELEMENT_BYTES;
        match end {
            End::Left => self.items.push_front(item),
            End::Right => self.items.push_back(item),
        }
    }

    pub(super) fn pop(&mut self, end: End) -> Option<Vec<u8>> {
        let item = match end {
            End::Left => self.items.pop_front(),
            End::Right => self.items.pop_back(),
        }?;
        self.bytes -= item.len() + ELEMENT_BYTES;
        Some(item)
    }

    /// Any other change: `change` gets the items, and the bytes are counted again after it.
    pub(super) fn rewrite<R>(&mut self, change: impl FnOnce(&mut VecDeque<Vec<u8>>) -> R) -> R {
        let result = change(&mut self.items);
        self.bytes = self.items.iter().map(|item| item.len() + ELEMENT_BYTES).sum();
        result
    }
}

#[derive(Clone, Debug)]
pub(super) struct Set {
    members: IndexSet<Vec<u8>>,
    bytes: usize,
    /// Whether Redis would still hold this set as an intset, which lists its members in numeric order. Once lost,
    /// it is lost for good.
    only_integers: bool,
}

impl Default for Set {
    fn default() -> Self {
        Self { members: IndexSet::new(), bytes: 0, only_integers: true }
    }
}

impl Set {
    pub(super) fn members(&self) -> &IndexSet<Vec<u8>> {
        &self.members
    }

    /// The members in the order of replies.
    pub(super) fn listed(&self) -> Vec<&[u8]> {
        let mut listed: Vec<&[u8]> = self.members.iter().map(Vec::as_slice).collect();
        if self.only_integers {
            listed.sort_by_key(|member| parse_integer(member).unwrap_or(0));
        }
        listed
    }

    pub(super) fn insert(&mut self, member: &[u8]) -> bool {
        if self.members.contains(member) {
            return false;
        }
        self.bytes += member.len() + ELEMENT_BYTES;
        self.members.insert(member.to_vec());
        self.only_integers &= self.members.len() <= COMPACT_LEN_MAX && parse_integer(member).is_ok();
        true
    }

    pub(super) fn remove(&mut self, member: &[u8]) -> bool {
        let removed = self.members.swap_remove(member);
        if removed {
            self.bytes -= member.len() + ELEMENT_BYTES;
        }
        removed
    }

    pub(super) fn remove_at(&mut self, position: usize) -> Option<Vec<u8>> {
        let member = self.members.swap_remove_index(position)?;
        self.bytes -= member.len() + ELEMENT_BYTES;
        Some(member)
    }
}

/// Members by score, then by bytes. A sorted vector: look-ups by rank and by range are plain slices, and an insert
/// moves memory, which up to some ten thousand members is cheaper than a tree; a hundred thousand take seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct SortedSet {
    scores: IndexMap<Vec<u8>, f64>,
    ranked: Vec<(f64, Vec<u8>)>,
    bytes: usize,
}

impl SortedSet {
    pub(super) fn ranked(&self) -> &[(f64, Vec<u8>)] {
        &self.ranked
    }

    /// Members in the order of the table, for scans.
    pub(super) fn members(&self, places: std::ops::Range<usize>) -> impl Iterator<Item = (&[u8], f64)> {
        let slice = self.scores.get_range(places);
        slice.into_iter().flat_map(|slice| slice.iter()).map(|(member, score)| (member.as_slice(), *score))
    }

    pub(super) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    pub(super) fn rank(&self, member: &[u8]) -> Option<usize> {
        Some(self.place(self.score(member)?, member))
    }

    /// How many members sort before this one.
    #[expect(clippy::float_cmp, reason = "equal scores are those that compare equal, zeros of both signs too")]
    fn place(&self, score: f64, member: &[u8]) -> usize {
        self.ranked.partition_point(|(other, name)| *other < score || (*other == score && name.as_slice() < member))
    }

    pub(super) fn insert(&mut self, member: &[u8], score: f64) {
        if let Some(old) = self.score(member) {
            let place = self.place(old, member);
            self.ranked.remove(place);
        } else {
            self.bytes += 2 * (member.len() + ELEMENT_BYTES);
        }
        self.scores.insert(member.to_vec(), score);
        let place = self.place(score, member);
        self.ranked.insert(place, (score, member.to_vec()));
    }

    pub(super) fn remove(&mut self, member: &[u8]) -> bool {
        let Some(rank) = self.rank(member) else { return false };
        self.remove_range(rank..rank + 1);
        true
    }

    /// Takes the members of these ranks out.
    pub(super) fn remove_range(&mut self, ranks: std::ops::Range<usize>) -> Vec<(f64, Vec<u8>)> {
        let removed: Vec<_> = self.ranked.drain(ranks).collect();
        for (_, member) in &removed {
            self.scores.swap_remove(member);
            self.bytes -= 2 * (member.len() + ELEMENT_BYTES);
        }
        removed
    }
}
