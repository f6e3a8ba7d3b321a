//! Splits a multi-key request into one fragment for each node. Pure.

use smallvec::SmallVec;

use super::Request;
use crate::command::SplitRule;
use crate::protocol::resp::{write_bulk, write_header};
use crate::topology::Place;

/// Which of a request's keys go where.
pub(super) struct Plan<'p> {
    pub(super) rule: SplitRule,
    /// Argument indexes of the keys.
    pub(super) keys: &'p [u32],
    /// The owner of each key.
    pub(super) places: &'p [Place],
}

/// What one node gets.
pub(super) struct Fragment {
    pub(super) place: Place,
    /// How many of the keys.
    pub(super) keys: usize,
}

pub(super) type Fragments = SmallVec<[Fragment; 8]>;

impl Plan<'_> {
    /// One fragment for each node, in the order in which the request names them first.
    pub(super) fn fragments(&self) -> Fragments {
        let mut fragments = Fragments::new();
        for place in self.places {
            match fragments.iter_mut().find(|fragment| fragment.place == *place) {
                Some(fragment) => fragment.keys += 1,
                None => fragments.push(Fragment { place: *place, keys: 1 }),
            }
        }
        fragments
    }

    /// How many arguments belong to each key, itself counted.
    fn stride(&self) -> usize {
        match self.rule {
            SplitRule::Mset => 2,
            SplitRule::Mget | SplitRule::SumIntegers => 1,
        }
    }

    /// Appends a fragment's request: the verb, and its keys with what belongs to them.
    pub(super) fn write(
        &self,
        request: &Request<'_>,
        fragment: &Fragment,
        write_key: &dyn Fn(&[u8], &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let stride = self.stride();
        write_header(out, b'*', 1 + fragment.keys * stride);
        write_bulk(out, request.args.get(0).unwrap_or_default());
        for (key, _) in self.keys.iter().zip(self.places).filter(|(_, place)| **place == fragment.place) {
            let at = *key as usize;
            write_key(request.args.get(at).unwrap_or_default(), out);
            for value in at + 1..at + stride {
                write_bulk(out, request.args.get(value).unwrap_or_default());
            }
        }
    }
}

impl Fragment {
    /// About how many bytes the fragment has: its share of the request by keys.
    pub(super) fn bytes_about(&self, request: &Request<'_>) -> usize {
        request.frame.len() * self.keys / request.args.len().max(1)
    }
}
