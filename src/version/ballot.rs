//! Ballots: the total order of writes.

/// How many bytes an encoded [`Ballot`] has.
pub const BALLOT_BYTES: usize = 18;

/// How many bytes an encoded [`Term`] has: those of a ballot without its sequence number.
pub const TERM_BYTES: usize = 16;

/// How many bits of an id say who gave it; the others count.
pub const WRITER_BITS: u32 = 40;

/// How many of the lower bits of an id are zero in that of a term: an operation's place in its term stands there.
pub(super) const SEQ_BITS: u32 = 8;

/// The id of one operation, by which a retry finds out whether it was applied: the id of its term, and its place there.
/// No other operation has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OpId(pub u64);

/// What a promise is about: a ballot without its sequence number. Who holds a term may write under it again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term {
    /// As [`Ballot::hlc`].
    pub hlc: u64,
    /// As [`Ballot::id`].
    pub id: u64,
}

/// The version of one state of one key. The fields stand in the order in which they are compared.
///
/// The default, all zero, stands for "nothing accepted": no clock gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    /// Hybrid logical time: Unix milliseconds in the upper 48 bits, a counter in the lower 16.
    pub hlc: u64,
    /// Who made it (upper 40 bits, random), and that writer's number for it (the next 16 bits).
    pub id: u64,
    /// Which write of its term it is; at most 255.
    pub seq: u16,
}

impl Term {
    /// The bytes of the term, whose order is that of terms.
    pub fn encode(self) -> [u8; TERM_BYTES] {
        (u128::from(self.hlc) << 64 | u128::from(self.id)).to_be_bytes()
    }

    /// The term of these bytes, if they are as many as a term has.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (hlc, id) = bytes.split_first_chunk::<8>()?;
        Some(Self { hlc: u64::from_be_bytes(*hlc), id: u64::from_be_bytes(id.try_into().ok()?) })
    }

    /// The first ballot of the term.
    pub fn first(self) -> Ballot {
        Ballot { hlc: self.hlc, id: self.id, seq: 0 }
    }
}

impl OpId {
    /// Whether an operation of this id has the other one in what it builds on: those of one term follow each other.
    pub fn includes(self, other: Self) -> bool {
        self.0 >> SEQ_BITS == other.0 >> SEQ_BITS && self.0 >= other.0
    }

    /// Whether both are of one term.
    pub fn is_of_the_term_of(self, other: Self) -> bool {
        self.0 >> SEQ_BITS == other.0 >> SEQ_BITS
    }
}

impl Ballot {
    /// The bytes of the ballot, whose order is that of ballots.
    #[inline]
    pub fn encode(self) -> [u8; BALLOT_BYTES] {
        let mut bytes = [0; BALLOT_BYTES];
        if let Some((term, seq)) = bytes.split_first_chunk_mut::<TERM_BYTES>() {
            *term = self.term().encode();
            seq.copy_from_slice(&self.seq.to_be_bytes());
        }
        bytes
    }

    /// The ballot of these bytes, if they are as many as a ballot has.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (term, seq) = bytes.split_first_chunk::<TERM_BYTES>()?;
        let seq = u16::from_be_bytes(seq.try_into().ok()?);
        Some(Self { seq, ..Term::decode(term)?.first() })
    }

    /// The ballot without its sequence number.
    pub fn term(self) -> Term {
        Term { hlc: self.hlc, id: self.id }
    }

    /// Who made it: 40 random bits.
    pub fn writer(self) -> u64 {
        writer(self.id)
    }

    /// The id of the operation that is sent under it.
    pub fn op_id(self) -> OpId {
        OpId(self.id | u64::from(self.seq))
    }

    /// Whether it stands for "nothing accepted".
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// The next ballot of the same term, or `None` when the term is used up.
    pub fn next_in_term(self) -> Option<Self> {
        let seq = self.seq.checked_add(1).filter(|seq| seq >> SEQ_BITS == 0)?;
        Some(Self { seq, ..self })
    }
}

/// Who gave an id.
pub(super) fn writer(id: u64) -> u64 {
    id >> (u64::BITS - WRITER_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballot() -> impl Strategy<Value = Ballot> {
        // Small numbers too, so that fields are equal now and then.
        let number = || prop_oneof![0..3_u64, any::<u64>()];
        (number(), number(), prop_oneof![0..3_u16, any::<u16>()]).prop_map(|(hlc, id, seq)| Ballot { hlc, id, seq })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bytes_give_the_ballot_back(ballot in ballot()) {
            prop_assert_eq!(Ballot::decode(&ballot.encode()), Some(ballot));
            prop_assert_eq!(Term::decode(&ballot.term().encode()), Some(ballot.term()));
        }

        #[test]
        fn bytes_sort_as_ballots_do(left in ballot(), right in ballot()) {
            prop_assert_eq!(left.encode().cmp(&right.encode()), left.cmp(&right));
            prop_assert_eq!(left.term().encode().cmp(&right.term().encode()), left.term().cmp(&right.term()));
        }
    }

    #[test]
    fn other_lengths_are_no_ballot() {
        for length in (0..40).filter(|length| *length != BALLOT_BYTES) {
            assert_eq!(Ballot::decode(&vec![1; length]), None, "{length} bytes");
        }
        for length in (0..40).filter(|length| *length != TERM_BYTES) {
            assert_eq!(Term::decode(&vec![1; length]), None, "{length} bytes");
        }
    }

    #[test]
    fn parts() {
        let ballot = Ballot { hlc: 1, id: 0xaabb_ccdd_ee00_0700, seq: 9 };
        assert_eq!(ballot.op_id(), OpId(0xaabb_ccdd_ee00_0709));
        assert_eq!(ballot.writer(), 0xaa_bbcc_ddee);
        assert_eq!(ballot.next_in_term(), Some(Ballot { seq: 10, ..ballot }));
        assert_eq!(Ballot { seq: 255, ..ballot }.next_in_term(), None);
        assert!(Ballot::default().is_zero() && !ballot.is_zero());
    }
}
