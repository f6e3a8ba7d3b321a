//! What quoit's own keys are called in the stores, and what the fence key holds.

/// What quoit's own keys begin with. Clients of a replicated pool cannot use such keys.
const RESERVED: &[u8] = b"\0q";

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
    if has_hash_tag(key) {
        out.extend_from_slice(b"\0qw");
        out.extend_from_slice(key);
    } else {
        out.extend_from_slice(b"\0qv{");
        out.extend_from_slice(key);
        out.push(b'}');
    }
}

/// Whether there is something between the first `{` and the next `}` (the cluster specification's "hash tags").
fn has_hash_tag(key: &[u8]) -> bool {
    let inside = key.iter().position(|&byte| byte == b'{').and_then(|open| key.get(open + 1..));
    inside.and_then(|inside| inside.iter().position(|&byte| byte == b'}')).is_some_and(|length| length > 0)
}

/// Whether a store votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// It holds what it accepted, so it votes.
    Member,
    /// It lost its memory or is new: it is filled, and does not vote.
    Rebuilding,
    /// Its pool begins: it has never voted, and will when all stores of the pool have a fence.
    Beginning,
}

/// What a store says about the pool it belongs to. A store without one has lost its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Of the ring that is in force.
    pub fingerprint: u64,
    /// Which ring of the pool that is; it only grows.
    pub epoch: u64,
    /// Whether the store votes.
    pub state: FenceState,
    /// Whether the pool began on empty stores, so that a key without a record does not exist. Otherwise the store may
    /// hold keys from before quoit.
    pub pure: bool,
}

/// Why bytes are no fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Another number of bytes than [`FENCE_BYTES`].
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
            FenceState::Beginning => b'B',
        };
        let marks = [state, if self.pure { b'P' } else { b'A' }];
        let parts = self.fingerprint.to_be_bytes().into_iter().chain(self.epoch.to_be_bytes()).chain(marks);
        let mut bytes = [0; FENCE_BYTES];
        bytes.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
        bytes
    }

    /// The fence of these bytes.
    ///
    /// # Errors
    /// When they are none, or one of a newer quoit.
    pub fn decode(bytes: &[u8]) -> Result<Self, FenceError> {
        let wrong = FenceError::Length(bytes.len());
        let (fingerprint, rest) = bytes.split_first_chunk::<8>().ok_or(wrong)?;
        let (epoch, marks) = rest.split_first_chunk::<8>().ok_or(wrong)?;
        let &[state, flag] = marks else { return Err(wrong) };
        let state = match state {
            b'M' => FenceState::Member,
            b'R' => FenceState::Rebuilding,
            b'B' => FenceState::Beginning,
            _ => return Err(FenceError::Unknown),
        };
        let pure = match flag {
            b'P' => true,
            b'A' => false,
            _ => return Err(FenceError::Unknown),
        };
        Ok(Self { fingerprint: u64::from_be_bytes(*fingerprint), epoch: u64::from_be_bytes(*epoch), state, pure })
    }
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
                let fence = Fence { fingerprint: 0x0102_0304_0506_0708, epoch: 9, state, pure };
                assert_eq!(Fence::decode(&fence.encode()), Ok(fence));
            }
        }
        let fence = Fence { fingerprint: 0x6162_6364_6566_6768, epoch: 5, state: FenceState::Member, pure: true };
        assert_eq!(&fence.encode(), b"abcdefgh\0\0\0\0\0\0\0\x05MP");
    }

    #[test]
    fn other_bytes_are_no_fence() {
        assert_eq!(Fence::decode(b""), Err(FenceError::Length(0)));
        assert_eq!(Fence::decode(&[0; 17]), Err(FenceError::Length(17)));
        assert_eq!(Fence::decode(&[0; 19]), Err(FenceError::Length(19)));
        assert_eq!(Fence::decode(b"abcdefghabcdefghXP"), Err(FenceError::Unknown));
        assert_eq!(Fence::decode(b"abcdefghabcdefghMX"), Err(FenceError::Unknown));
    }
}
