//! The record of a key: what a store accepted and promised.
//!
//! The bytes, as the scripts read and write them (`scripts/*.lua`; positions from 1 there):
//!
//! | bytes | what | when |
//! |---|---|---|
//! | 1 | flags | always |
//! | 18 | the accepted ballot | always |
//! | 5 | prior: the low bytes of a hybrid time | flag 4 |
//! | 16 | the promised term | flag 2 |
//! | 4 + 8 each | the number of terms of updates since the last blind write; the last 24 of them | flag 8 |
//! | some + 4 | the mark: the name of a piece, and how long that is | flag 64 |
//!
//! A term stands there by the id of its last operation: those of a term build on each other, so that one has all before
//! it in it, and a writer that goes on does not push out who else was there.
//!
//! A key that is only ever SET has a record of 19 bytes, 24 if several writers wrote it.

use smallvec::SmallVec;

use super::ballot::{BALLOT_BYTES, Ballot, OpId, TERM_BYTES, Term, writer};

/// How many terms a record remembers. Who writes alone needs one; where many writers meet, so many may come between the
/// try of one of them and the moment when it looks what became of it.
pub const OPERATIONS_MAX: usize = 24;

/// Ids of operations.
pub type Operations = SmallVec<[u64; 8]>;

const TERMS_MAX: u32 = 24;

const TOMBSTONE: u8 = 1;
const PROMISED: u8 = 2;
const PRIOR: u8 = 4;
const LINEAGE: u8 = 8;
const EXPIRES: u8 = 16;
const TRANSFERRED: u8 = 32;
const MARKED: u8 = 64;

/// The low bits of a hybrid time that a prior keeps.
const PRIOR_BITS: u32 = 40;

/// What one store knows about the version of one key.
///
/// The default stands for a missing record: nothing was accepted, nothing promised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The ballot of the state that the store holds.
    pub accepted: Ballot,
    /// The term below which it accepts nothing, where that is above the accepted one.
    pub promised: Option<Term>,
    /// The low bytes of a hybrid time: an upper bound of all that was accepted before the lineage began. `None`: nothing
    /// was, or only blind writes of the writer whose blind write began the lineage.
    pub prior: Option<[u8; 5]>,
    /// Whether there was no value any more.
    pub tombstone: bool,
    /// Whether the value had an expiry: if it is missing, its time has passed.
    pub expires: bool,
    /// Whether the state came from another replica. Then the next blind write sets the prior, whoever wrote both: what
    /// arrives late from their writer can tell that it was never here.
    pub transferred: bool,
    /// How many terms updated the key since the last blind write, or since it was missing. 0 after a blind write, whose
    /// id is among `ids` once its ballot was renewed.
    pub count: u32,
    /// The ids of the last operation of each of the last terms, oldest first: the updates, before them the blind write.
    /// Empty after a blind write, whose id is in its ballot.
    pub ids: Operations,
    /// A command over several keys wrote the value that the store holds, and it is not decided whether that stays. The rest
    /// of the record is the one from before. The name of its [piece](super::write_piece_key).
    pub mark: Option<Box<[u8]>>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They end too early, or there are some too many.
    #[error("a version record of a wrong length, {0} bytes")]
    Length(usize),
    /// A flag that this version does not know.
    #[error("a version record of an unknown kind, flags {0}")]
    Flags(u8),
}

/// Cuts parts off the front of a record.
struct Parts<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Parts<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], RecordError> {
        let (part, rest) = self.rest.split_first_chunk::<N>().ok_or(RecordError::Length(self.whole))?;
        self.rest = rest;
        Ok(part)
    }

    /// The mark, off the end.
    fn take_mark(&mut self) -> Result<Box<[u8]>, RecordError> {
        let wrong = RecordError::Length(self.whole);
        let (rest, len) = self.rest.split_last_chunk::<4>().ok_or(wrong)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| wrong)?;
        let (rest, mark) = rest.split_at_checked(rest.len().checked_sub(len).ok_or(wrong)?).ok_or(wrong)?;
        self.rest = rest;
        Ok(mark.into())
    }
}

impl Record {
    /// The record of these bytes. No bytes are the record that is missing.
    ///
    /// # Errors
    /// When they are none: somebody else wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let wrong = RecordError::Length(bytes.len());
        let mut parts = Parts { rest: bytes, whole: bytes.len() };
        let [flags] = *parts.take::<1>()?;
        if flags & !(TOMBSTONE | PROMISED | PRIOR | LINEAGE | EXPIRES | TRANSFERRED | MARKED) != 0 {
            return Err(RecordError::Flags(flags));
        }
        let mark = if flags & MARKED == 0 { None } else { Some(parts.take_mark()?) };
        let accepted = Ballot::decode(parts.take::<BALLOT_BYTES>()?).ok_or(wrong)?;
        let prior = if flags & PRIOR == 0 { None } else { Some(*parts.take::<5>()?) };
        let promised = if flags & PROMISED == 0 { None } else { Term::decode(parts.take::<TERM_BYTES>()?) };
        let (mut count, mut ids) = (0, SmallVec::new());
        if flags & LINEAGE != 0 {
            count = u32::from_be_bytes(*parts.take::<4>()?);
            let (each, odd) = parts.rest.as_chunks::<8>();
            if each.is_empty() || each.len() > OPERATIONS_MAX || !odd.is_empty() {
                return Err(wrong);
            }
            ids.extend(each.iter().map(|id| u64::from_be_bytes(*id)));
        } else if !parts.rest.is_empty() {
            return Err(wrong);
        }
        let (tombstone, expires) = (flags & TOMBSTONE != 0, flags & EXPIRES != 0);
        let transferred = flags & TRANSFERRED != 0;
        Ok(Self { accepted, promised, prior, tombstone, expires, transferred, count, ids, mark })
    }

    /// Appends the bytes of this record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = |bit, set| if set { bit } else { 0 };
        out.push(
            flag(TOMBSTONE, self.tombstone)
                | flag(PROMISED, self.promised.is_some())
                | flag(PRIOR, self.prior.is_some())
                | flag(LINEAGE, self.has_lineage())
                | flag(EXPIRES, self.expires)
                | flag(TRANSFERRED, self.transferred)
                | flag(MARKED, self.mark.is_some()),
        );
        out.extend_from_slice(&self.accepted.encode());
        out.extend(self.prior.into_iter().flatten());
        out.extend(self.promised.into_iter().flat_map(Term::encode));
        if self.has_lineage() {
            out.extend_from_slice(&self.count.to_be_bytes());
            self.ids.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        }
        if let Some(mark) = &self.mark {
            out.extend_from_slice(mark);
            out.extend_from_slice(&u32::try_from(mark.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }

    /// Whether the first byte of a record says that it is marked.
    #[inline]
    pub fn is_marked(record: &[u8]) -> bool {
        record.first().is_some_and(|flags| flags & MARKED != 0)
    }

    fn has_lineage(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Whether a blind write made the state that it speaks of. Not if nothing was accepted.
    pub fn is_blind(&self) -> bool {
        !self.has_lineage() && !self.accepted.is_zero()
    }

    /// Whether the state that it speaks of has this operation in it, among the last ones that it remembers.
    pub fn contains(&self, op: OpId) -> bool {
        self.ids.iter().any(|id| OpId(*id).includes(op)) || self.is_blind() && self.accepted.op_id() == op
    }

    /// Whether all that was done to the key since it was missing is among the ids: what is not was not chosen.
    pub fn is_whole(&self) -> bool {
        let ids = self.ids.len();
        self.has_lineage() && ids < OPERATIONS_MAX && u32::try_from(ids) == Ok(self.count)
    }

    /// Whether a client's blind write made the state, or the first that is remembered of what led to it.
    pub fn begins_blind(&self) -> bool {
        if self.has_lineage() {
            return u32::try_from(self.ids.len()) == Ok(self.count.saturating_add(1));
        }
        // A value from before quoit, which has no lineage either, is not the first of its term.
        self.is_blind() && self.accepted.seq == 0
    }

    /// The record of this state under a new ballot, without a command.
    #[must_use]
    pub fn renewed(&self, ballot: Ballot) -> Self {
        if self.accepted.is_zero() {
            return self.followed_by(ballot);
        }
        let ids = self.operations();
        Self { accepted: ballot, promised: None, transferred: false, ids, ..self.clone() }
    }

    /// The record of an update that was sent under `ballot` on this state, as the stores write it.
    #[must_use]
    pub fn followed_by(&self, ballot: Ballot) -> Self {
        let (mut ids, op) = (self.ids.clone(), ballot.op_id());
        if self.is_blind() {
            ids.push(self.accepted.id);
        }
        let is_same_term = self.has_lineage() && ids.last().is_some_and(|last| OpId(*last).is_of_the_term_of(op));
        let count = self.count.saturating_add(u32::from(!is_same_term));
        if is_same_term {
            ids.pop();
        } else if ids.len() == OPERATIONS_MAX {
            ids.remove(0);
        }
        ids.push(op.0);
        Self { accepted: ballot, promised: None, transferred: false, count, ids, ..self.clone() }
    }

    /// The last operations of the state that it speaks of, as far as it remembers them, the blind write included.
    pub fn operations(&self) -> Operations {
        if self.is_blind() { std::iter::once(self.accepted.op_id().0).collect() } else { self.ids.clone() }
    }

    /// An upper bound of the hybrid times of all that was accepted before the lineage began.
    pub fn prior_hlc(&self) -> Option<u64> {
        let low = self.prior?.iter().fold(0, |low, byte| low << 8 | u64::from(*byte));
        let span = 1 << PRIOR_BITS;
        // The largest that is not after the accepted one and ends in these bits.
        let candidate = self.accepted.hlc & !(span - 1) | low;
        if candidate <= self.accepted.hlc {
            return Some(candidate);
        }
        // Nothing precedes the beginning of time: such a prior was never written, and rules out nothing.
        Some(candidate.checked_sub(span).unwrap_or(self.accepted.hlc))
    }

    /// Whether this replica certainly never accepted the operation that was sent under `ballot`, and never will. If that
    /// is so for more replicas than a quorum can do without, the operation was not chosen and may be tried again.
    ///
    /// `base_count` is the `count` of the record that the operation was applied on, 0 for a blind write.
    pub fn never_accepted(&self, ballot: Ballot, base_count: u32) -> bool {
        let closed = self.accepted > ballot || self.promised.is_some_and(|term| term > ballot.term());
        let forgotten = self.prior_hlc().is_some_and(|hlc| hlc >= ballot.hlc);
        if !closed || forgotten || self.accepted == ballot || self.contains(ballot.op_id()) {
            return false;
        }
        // Only blind writes are the first of their term.
        if ballot.seq == 0 {
            self.accepted < ballot || !self.hides_blind(ballot)
        } else {
            self.remembers_updates_since(base_count)
        }
    }

    /// Whether the replica that refused what was sent once under `ballot` never took it from anybody else either, and
    /// never will. A message that arrived and was refused does not come again, so what [`Record::never_accepted`] has to
    /// leave open is known here.
    pub fn refused_for_good(&self, ballot: Ballot, base_count: u32) -> bool {
        let forgotten = self.prior_hlc().is_some_and(|hlc| hlc >= ballot.hlc);
        let hidden = self.accepted > ballot && !self.remembers_updates_since(base_count);
        self.accepted != ballot && !self.contains(ballot.op_id()) && !forgotten && !hidden
    }

    /// Whether all terms after that many are still among the ids.
    pub fn remembers_updates_since(&self, count: u32) -> bool {
        // So many are; the next would push the first one out.
        self.count < TERMS_MAX || self.count.saturating_sub(count) < TERMS_MAX
    }

    /// Whether a blind write under `ballot` may have been here and left no trace. Blind writes of one writer that follow
    /// each other leave none but that of the last, which begins the lineage and is forgotten after so many terms.
    fn hides_blind(&self, ballot: Ballot) -> bool {
        let ids = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let start = match ids.checked_sub(self.count) {
            Some(0) if self.is_blind() => Some(self.accepted.id),
            // As many ids as terms: the lineage began with a missing key, unless all that fit are updates.
            Some(0) if ids < TERMS_MAX => None,
            // The blind write stands before its updates.
            Some(1) => self.ids.first().copied(),
            _ => return true,
        };
        start.is_some_and(|id| writer(id) == ballot.writer())
    }
}

#[cfg(test)]
mod tests;
