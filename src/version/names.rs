//! What quoit's own keys are called in the stores, and what the fence key holds.

use super::ballot::{BALLOT_BYTES, Ballot};

/// What quoit's own keys begin with. Clients of a replicated pool cannot use such keys.
const RESERVED: &[u8] = b"\0q";

/// What the keys of pieces begin with, and those of decisions.
const PIECE: &[u8] = b"\0qt";
const DECISION: &[u8] = b"\0qd";

/// The key of a store's [`Fence`].
pub const FENCE_KEY: &[u8] = b"\0qf";

/// How many bytes an encoded [`Fence`] has.
pub const FENCE_BYTES: usize = 18;

/// Whether a key is quoit's own, or would be taken for it.
pub fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED)
}

/// Appends the name of the record of `key`. No two keys have the same, and a store in cluster mode keeps it in the slot
/// of its key, unless the key has a closing brace without a hash tag.
pub fn write_record_key(key: &[u8], out: &mut Vec<u8>) {
    let (before, after) = around_record_key(key);
    out.extend_from_slice(before);
    out.extend_from_slice(key);
    out.extend_from_slice(after);
}

/// What stands before and after `key` in the name of its record.
#[inline]
pub fn around_record_key(key: &[u8]) -> (&'static [u8], &'static [u8]) {
    if has_hash_tag(key) { (b"\0qw", b"") } else { (b"\0qv{", b"}") }
}

/// Whether there is something between the first `{` and the next `}` (the cluster specification's "hash tags").
fn has_hash_tag(key: &[u8]) -> bool {
    let inside = key.iter().position(|&byte| byte == b'{').and_then(|open| key.get(open + 1..));
    inside.and_then(|inside| inside.iter().position(|&byte| byte == b'}')).is_some_and(|length| length > 0)
}

/// What a [piece](write_piece_key) is called: the ballot of its command, and the first key that this writes.
pub fn piece_name(ballot: Ballot, key: &[u8]) -> Vec<u8> {
    [&ballot.encode(), key].concat()
}

/// Appends the key of a piece: what a command over several keys leaves in a store until it is decided whether that stays.
pub fn write_piece_key(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(PIECE);
    out.extend_from_slice(name);
}

/// Appends the key of the decision about a piece, which is replicated as any key: `1`, it stays; `0`, it does not.
pub fn write_decision_key(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(DECISION);
    out.extend_from_slice(name);
}

/// The key whose replicas a key has: for a decision those of the first key that its command writes.
pub fn placed_as(key: &[u8]) -> &[u8] {
    key.strip_prefix(DECISION).and_then(|name| name.get(BALLOT_BYTES..)).unwrap_or(key)
}

/// Whether a store votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// It holds what it accepted, so it votes.
    Member,
    /// It lost its memory or is new: it is filled, and does not vote.
    Rebuilding,
}

/// What a store says about the pool it belongs to, from the moment the pool began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Of the ring that is in force.
    pub fingerprint: u64,
    /// The [round](Founding::rounds) that began the pool.
    pub birth: u32,
    /// How often the fences of the pool were raised; it only grows.
    pub epoch: u32,
    /// Whether the store votes.
    pub state: FenceState,
    /// Whether the pool began on empty stores, so that a key without a record does not exist. Otherwise the store may
    /// hold keys from before quoit.
    pub pure: bool,
}

/// What a store says while its pool begins. It has not voted since its memory began, and does not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    /// Of the ring, as in a fence.
    pub fingerprint: u64,
    /// A random number for the store's memory: one that was emptied has another, if it has one.
    pub nonce: u64,
    /// As in a fence.
    pub pure: bool,
    /// In which rounds this memory was part of the whole: each is a hash of the nonces of all stores. The last
    /// [`ROUNDS_MAX`].
    pub rounds: Vec<u32>,
}

/// How many rounds a store remembers; a new one is needed when a store is emptied while the pool begins.
pub const ROUNDS_MAX: usize = 16;

/// What the fence key of a store holds. A store without one has lost its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Its pool begins.
    Founding(Founding),
    /// Its pool has begun.
    Fence(Fence),
}

/// Why bytes are no fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Too few bytes, or too many.
    #[error("a fence of {0} bytes instead of 18")]
    Length(usize),
    /// A state or a flag that this version does not know.
    #[error("a fence of an unknown kind")]
    Unknown,
}

impl Fence {
    /// The bytes of the fence. Scripts compare them as a whole.
    pub fn encode(self) -> [u8; FENCE_BYTES] {
        let state = match self.state {
            FenceState::Member => b'M',
            FenceState::Rebuilding => b'R',
        };
        head(self.fingerprint, u64::from(self.birth) << 32 | u64::from(self.epoch), state, self.pure)
    }
}

impl Founding {
    /// The bytes of the fence key.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = head(self.fingerprint, self.nonce, b'B', self.pure).to_vec();
        bytes.extend(self.rounds.iter().flat_map(|round| round.to_be_bytes()));
        bytes
    }

    /// The same store, which is part of this round now.
    #[must_use]
    pub fn joined(&self, round: u32) -> Self {
        let mut next = self.clone();
        next.rounds.push(round);
        let over = next.rounds.len().saturating_sub(ROUNDS_MAX);
        next.rounds.drain(..over);
        next
    }
}

impl Mark {
    /// What these bytes of a fence key say.
    ///
    /// # Errors
    /// When they are none, or of a newer quoit.
    pub fn decode(bytes: &[u8]) -> Result<Self, FenceError> {
        let wrong = FenceError::Length(bytes.len());
        let (fingerprint, rest) = bytes.split_first_chunk::<8>().ok_or(wrong)?;
        let (number, rest) = rest.split_first_chunk::<8>().ok_or(wrong)?;
        let (&[state, flag], rest) = rest.split_first_chunk::<2>().ok_or(wrong)?;
        let pure = match flag {
            b'P' => true,
            b'A' => false,
            _ => return Err(FenceError::Unknown),
        };
        let fingerprint = u64::from_be_bytes(*fingerprint);
        let state = match state {
            b'B' => {
                let (rounds, over) = rest.as_chunks::<4>();
                if !over.is_empty() || rounds.len() > ROUNDS_MAX {
                    return Err(wrong);
                }
                let rounds = rounds.iter().map(|round| u32::from_be_bytes(*round)).collect();
                return Ok(Self::Founding(Founding { fingerprint, nonce: u64::from_be_bytes(*number), pure, rounds }));
            }
            b'M' => FenceState::Member,
            b'R' => FenceState::Rebuilding,
            _ => return Err(FenceError::Unknown),
        };
        if !rest.is_empty() {
            return Err(wrong);
        }
        let [a, b, c, d, epoch @ ..] = *number;
        let (birth, epoch) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(epoch));
        Ok(Self::Fence(Fence { fingerprint, birth, epoch, state, pure }))
    }

    /// Which ring, and which place in it, the store belongs to.
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Founding(founding) => founding.fingerprint,
            Self::Fence(fence) => fence.fingerprint,
        }
    }
}

/// What the marks of all kinds begin with.
fn head(fingerprint: u64, number: u64, state: u8, pure: bool) -> [u8; FENCE_BYTES] {
    let marks = [state, if pure { b'P' } else { b'A' }];
    let parts = fingerprint.to_be_bytes().into_iter().chain(number.to_be_bytes()).chain(marks);
    let mut bytes = [0; FENCE_BYTES];
    bytes.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
    bytes
}

/// The key whose record has this name; none if it is no record's name.
pub fn key_of_record(name: &[u8]) -> Option<&[u8]> {
    match name.strip_prefix(b"\0qv{") {
        Some(rest) => rest.strip_suffix(b"}"),
        None => name.strip_prefix(b"\0qw"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &[u8], want: &[u8]) {
        let mut name = Vec::new();
        write_record_key(key, &mut name);
        assert_eq!(name.escape_ascii().to_string(), want.escape_ascii().to_string());
        assert!(is_reserved(&name) && !is_reserved(key));
    }

    #[test]
    fn records_have_the_hash_tag_of_their_key() {
        check(b"user:1", b"\0qv{user:1}");
        check(b"", b"\0qv{}");
        check(b"{user}:1", b"\0qw{user}:1");
        check(b"a{b}{c}", b"\0qwa{b}{c}");
        check(b"a{{b}", b"\0qwa{{b}");
        check(b"a{}b", b"\0qv{a{}b}");
        check(b"a}b{c", b"\0qv{a}b{c}");
        check(b"a{}{b}", b"\0qv{a{}{b}}");
    }

    #[test]
    fn the_fence_key_is_reserved() {
        assert!(is_reserved(FENCE_KEY) && is_reserved(b"\0q") && is_reserved(b"\0qanything"));
        assert!(!is_reserved(b"\0") && !is_reserved(b"") && !is_reserved(b"q"));
    }

    #[test]
    fn bytes_give_the_fence_back() {
        for state in [FenceState::Member, FenceState::Rebuilding] {
            for pure in [false, true] {
                let fence = Fence { fingerprint: 0x0102_0304_0506_0708, birth: 0xfedc_ba98, epoch: 9, state, pure };
                assert_eq!(Mark::decode(&fence.encode()), Ok(Mark::Fence(fence)));
            }
        }
        let fence = Fence {
            fingerprint: 0x6162_6364_6566_6768,
            birth: 0x696a_6b6c,
            epoch: 5,
            state: FenceState::Member,
            pure: true,
        };
        assert_eq!(&fence.encode(), b"abcdefghijkl\0\0\0\x05MP");
    }

    #[test]
    fn bytes_give_back_what_a_store_says_while_its_pool_begins() {
        let mut founding = Founding {
            fingerprint: 0x6162_6364_6566_6768,
            nonce: 0x696a_6b6c_6d6e_6f70,
            pure: true,
            rounds: Vec::new(),
        };
        assert_eq!(founding.encode(), b"abcdefghijklmnopBP");
        founding = founding.joined(0x7172_7374);
        assert_eq!(founding.encode(), b"abcdefghijklmnopBPqrst");
        for round in 0..20 {
            assert_eq!(Mark::decode(&founding.encode()), Ok(Mark::Founding(founding.clone())));
            founding = founding.joined(round);
        }
        assert_eq!(founding.rounds, (4..20).collect::<Vec<_>>());
    }

    #[test]
    fn other_bytes_are_no_fence() {
        for length in [0, 17, 19, 82, 86] {
            assert_eq!(
                Mark::decode(&vec![b'x'; length]).err(),
                Some(match length {
                    0 | 17 => FenceError::Length(length),
                    _ => FenceError::Unknown,
                })
            );
        }
        assert_eq!(Mark::decode(b"abcdefghabcdefghXP"), Err(FenceError::Unknown));
        assert_eq!(Mark::decode(b"abcdefghabcdefghMX"), Err(FenceError::Unknown));
        assert_eq!(Mark::decode(b"abcdefghabcdefghMPq"), Err(FenceError::Length(19)));
        assert_eq!(Mark::decode(b"abcdefghabcdefghBPqrs"), Err(FenceError::Length(21)));
        assert_eq!(Mark::decode(&[b"abcdefghabcdefghBP".as_slice(), &[0; 68]].concat()), Err(FenceError::Length(86)));
    }
}
