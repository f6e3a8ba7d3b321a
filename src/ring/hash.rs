//! Key hashes: bytes to a number. Most of them are here because some fleet already uses them.
//!
//! Our own default is `xxh3`. The other names are those of twemproxy's `hash:` setting and give what twemproxy gives,
//! oddities included, since a drop-in that moves keys is none. Known oddities, each pinned by the golden vectors in
//! `tests/data/ring`:
//!
//! * All of twemproxy's hashes are 32 bits wide; its `fnv1a_64` and `fnv1_64` are the low half of the 64-bit one.
//! * `fnv*`, `one_at_a_time` and one byte of `hsieh` read a byte as a *signed* char, as gcc does on x86-64. A twemproxy
//!   built for arm64, where char is unsigned, places keys with bytes above 0x7f differently; this module follows x86-64.
//! * `crc16` keeps the bits that the 16-bit register shifts out, up to 32 of them. The low 16 bits are CRC-16/XMODEM, what
//!   Redis Cluster uses, so the same function serves the `slots` placement.
//! * `crc32` is libmemcached's: 15 bits of the real CRC-32, which is `crc32a`.
//!
//! # Invariants
//! A hash of given bytes never changes: not with the version, the platform or the process. Stored data depends on it.

use std::fmt;

use md5::{Digest, Md5};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::{xxh3::xxh3_64, xxh64::xxh64};

/// How a sharding key becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum KeyHash {
    /// XXH3, 64 bits: the default; the fastest and well spread.
    #[default]
    #[serde(rename = "xxh3")]
    Xxh3,
    /// XXH64, 64 bits: Envoy's.
    #[serde(rename = "xxh64")]
    Xxh64,
    /// The low 32 bits of 64-bit FNV-1a: twemproxy's default.
    #[serde(rename = "fnv1a_64")]
    Fnv1a64,
    /// The low 32 bits of 64-bit FNV-1.
    #[serde(rename = "fnv1_64")]
    Fnv164,
    /// 32-bit FNV-1a.
    #[serde(rename = "fnv1a_32")]
    Fnv1a32,
    /// 32-bit FNV-1.
    #[serde(rename = "fnv1_32")]
    Fnv132,
    /// The first four bytes of MD5, little endian: libmemcached's for its weighted ketama.
    #[serde(rename = "md5")]
    Md5,
    /// CRC-16/XMODEM: Redis Cluster's, with twemproxy's spilled upper bits.
    #[serde(rename = "crc16")]
    Crc16,
    /// 15 bits of CRC-32: libmemcached's and twemproxy's `crc32`.
    #[serde(rename = "crc32")]
    Crc32,
    /// CRC-32 as zlib computes it.
    #[serde(rename = "crc32a")]
    Crc32a,
    /// `MurmurHash2`, seeded by the length.
    #[serde(rename = "murmur")]
    Murmur,
    /// Paul Hsieh's `SuperFastHash`, started at zero.
    #[serde(rename = "hsieh")]
    Hsieh,
    /// Bob Jenkins's lookup3.
    #[serde(rename = "jenkins")]
    Jenkins,
    /// Bob Jenkins's one-at-a-time.
    #[serde(rename = "one_at_a_time")]
    OneAtATime,
}

impl KeyHash {
    /// Every hash, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Xxh3,
        Self::Xxh64,
        Self::Fnv1a64,
        Self::Fnv164,
        Self::Fnv1a32,
        Self::Fnv132,
        Self::Md5,
        Self::Crc16,
        Self::Crc32,
        Self::Crc32a,
        Self::Murmur,
        Self::Hsieh,
        Self::Jenkins,
        Self::OneAtATime,
    ];

    /// The name in a configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Xxh64 => "xxh64",
            Self::Fnv1a64 => "fnv1a_64",
            Self::Fnv164 => "fnv1_64",
            Self::Fnv1a32 => "fnv1a_32",
            Self::Fnv132 => "fnv1_32",
            Self::Md5 => "md5",
            Self::Crc16 => "crc16",
            Self::Crc32 => "crc32",
            Self::Crc32a => "crc32a",
            Self::Murmur => "murmur",
            Self::Hsieh => "hsieh",
            Self::Jenkins => "jenkins",
            Self::OneAtATime => "one_at_a_time",
        }
    }

    /// How many low bits of the result can be set.
    pub fn width_bits(self) -> u32 {
        match self {
            Self::Xxh3 | Self::Xxh64 => 64,
            Self::Crc32 => 15,
            Self::Fnv1a64
            | Self::Fnv164
            | Self::Fnv1a32
            | Self::Fnv132
            | Self::Md5
            | Self::Crc16
            | Self::Crc32a
            | Self::Murmur
            | Self::Hsieh
            | Self::Jenkins
            | Self::OneAtATime => 32,
        }
    }

    /// The hash of `bytes`.
    pub fn hash(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Xxh3 => xxh3_64(bytes),
            Self::Xxh64 => xxh64(bytes, 0),
            Self::Fnv1a64 => fnv1a(bytes, FNV_64_BASIS_LOW, FNV_64_PRIME_LOW).into(),
            Self::Fnv164 => fnv1(bytes, FNV_64_BASIS_LOW, FNV_64_PRIME_LOW).into(),
            Self::Fnv1a32 => fnv1a(bytes, FNV_32_BASIS, FNV_32_PRIME).into(),
            Self::Fnv132 => fnv1(bytes, FNV_32_BASIS, FNV_32_PRIME).into(),
            Self::Md5 => md5_words(bytes)[0].into(),
            Self::Crc16 => crc16(bytes).into(),
            Self::Crc32 => u64::from((crc32(bytes) >> 16) & 0x7fff),
            Self::Crc32a => crc32(bytes).into(),
            Self::Murmur => murmur2(bytes).into(),
            Self::Hsieh => hsieh(bytes).into(),
            Self::Jenkins => lookup3(bytes).into(),
            Self::OneAtATime => one_at_a_time(bytes).into(),
        }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Spreads the bits of a number over all 64 (the finaliser of splitmix64, Stafford's variant 13). A bijection.
pub(super) fn mix64(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The MD5 of `bytes` as four little-endian words: four points of the ketama circle.
pub(super) fn md5_words(bytes: &[u8]) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    let (chunks, _) = digest.as_chunks::<4>();
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}

// draft-eastlake-fnv, section 6. Only the low half of the 64-bit parameters reaches the low half of the result.
const FNV_32_BASIS: u32 = 0x811c_9dc5;
const FNV_32_PRIME: u32 = 0x0100_0193;
const FNV_64_BASIS_LOW: u32 = 0x8422_2325;
const FNV_64_PRIME_LOW: u32 = 0x0000_01b3;

/// A byte widened as C widens `char` on x86-64: with its sign.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

fn fnv1a(bytes: &[u8], basis: u32, prime: u32) -> u32 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ signed(*byte)).wrapping_mul(prime))
}

fn fnv1(bytes: &[u8], basis: u32, prime: u32) -> u32 {
    bytes.iter().fold(basis, |hash, byte| hash.wrapping_mul(prime) ^ signed(*byte))
}

/// CRC-16/XMODEM: polynomial 0x1021, nothing reflected, started at zero.
const CRC16_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        #[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "the register is 16 bits wide")]
        {
            table[byte] = (crc & 0xffff) as u16;
        }
        byte += 1;
    }
    table
};

fn crc16(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc: u32, byte| {
        let [_, _, high, _] = crc.to_be_bytes();
        (crc << 8) ^ u32::from(entry(&CRC16_TABLE, high ^ byte))
    })
}

/// CRC-32: polynomial 0x04c11db7, reflected (RFC 1952, section 8).
const CRC32_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "the loop ends before 256")]
        {
            table[byte as usize] = crc;
        }
        byte += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ entry(&CRC32_TABLE, low ^ byte)
    })
}

fn entry<T: Copy>(table: &[T; 256], byte: u8) -> T {
    #[expect(clippy::indexing_slicing, reason = "a byte cannot be 256")]
    table[usize::from(byte)]
}

/// Up to four bytes as a little-endian word, zeros above.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

/// `MurmurHash2` (Austin Appleby); the seed is libmemcached's.
fn murmur2(bytes: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    #[expect(clippy::cast_possible_truncation, reason = "the original takes the length as 32 bits")]
    let length = bytes.len() as u32;
    let mut hash = 0xdead_beef_u32.wrapping_mul(length) ^ length;
    let (words, tail) = bytes.as_chunks::<4>();
    for bytes in words {
        let mut word = u32::from_le_bytes(*bytes).wrapping_mul(MULTIPLIER);
        word = (word ^ (word >> 24)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ word;
    }
    if !tail.is_empty() {
        hash = (hash ^ word(tail)).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// `SuperFastHash` (Paul Hsieh, <http://www.azillionmonkeys.com/qed/hash.html>).
fn hsieh(bytes: &[u8]) -> u32 {
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash: u32 = 0;
    for [a, b, c, d] in blocks {
        hash = hash.wrapping_add(word(&[*a, *b]));
        hash = (hash << 16) ^ (word(&[*c, *d]) << 11) ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match tail {
        [a, b, c] => {
            hash = hash.wrapping_add(word(&[*a, *b]));
            hash ^= (hash << 16) ^ (signed(*c) << 18);
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(word(&[*a, *b]));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(u32::from(*a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    for (left, right) in [(3, 5), (4, 17), (25, 6)] {
        hash ^= hash << left;
        hash = hash.wrapping_add(hash >> right);
    }
    hash
}

/// lookup3's `hashlittle` (Bob Jenkins, 2006, <https://burtleburtle.net/bob/c/lookup3.c>), started at 13 as libmemcached does.
fn lookup3(bytes: &[u8]) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the original takes the length as 32 bits")]
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32).wrapping_add(13);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = bytes;
    // The last block, even a whole one, is mixed differently from those before it.
    while rest.len() > 12 {
        let (block, after) = rest.split_at(12);
        [a, b, c] = add_block([a, b, c], block);
        // Each step changes two of the three; turning the roles instead of the names makes the six steps one.
        for turn in [4, 6, 8, 16, 19, 4] {
            a = a.wrapping_sub(c) ^ c.rotate_left(turn);
            c = c.wrapping_add(b);
            [a, b, c] = [b, c, a];
        }
        rest = after;
    }
    if rest.is_empty() {
        return c;
    }
    [a, b, c] = add_block([a, b, c], rest);
    for turn in [14, 11, 25, 16, 4, 14, 24] {
        c = (c ^ b).wrapping_sub(b.rotate_left(turn));
        [c, b, a] = [a, c, b];
    }
    b // What the last step changed, its name turned once more.
}

fn add_block([a, b, c]: [u32; 3], block: &[u8]) -> [u32; 3] {
    let mut words = block.chunks(4).map(word);
    [a, b, c].map(|lane| lane.wrapping_add(words.next().unwrap_or(0)))
}

/// Bob Jenkins's one-at-a-time (Dr. Dobb's Journal, September 1997).
fn one_at_a_time(bytes: &[u8]) -> u32 {
    let mut hash = bytes.iter().fold(0, |hash: u32, byte| {
        let hash = hash.wrapping_add(signed(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hash: KeyHash, bytes: &str, want: u64) {
        assert_eq!(hash.hash(bytes.as_bytes()), want, "{hash} of {bytes:?}");
    }

    /// Check values from each algorithm's own publication; the golden vectors of real programs cover the rest.
    #[test]
    fn published_check_values() {
        check(KeyHash::Crc16, "123456789", 0x31c3 | (KeyHash::Crc16.hash(b"123456789") & 0xffff_0000));
        check(KeyHash::Crc32a, "123456789", 0xcbf4_3926);
        check(KeyHash::Crc32, "123456789", 0x4bf4);
        check(KeyHash::Fnv1a32, "foobar", 0xbf9c_f968);
        check(KeyHash::Fnv132, "foobar", 0x31f0_b262);
        check(KeyHash::Fnv1a64, "foobar", 0x8594_4171_f739_67e8 & 0xffff_ffff);
        check(KeyHash::Fnv164, "foobar", 0x340d_8765_a4dd_a9c2 & 0xffff_ffff);
        check(KeyHash::OneAtATime, "a", 0xca2e_9442);
        check(KeyHash::Md5, "", 0xd98c_1dd4);
        check(KeyHash::Xxh64, "", 0xef46_db37_51d8_e999);
        check(KeyHash::Xxh3, "", 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn names_are_those_of_the_file() {
        for hash in KeyHash::ALL {
            assert_eq!(serde_json::to_string(&hash).unwrap(), format!("\"{hash}\""));
            assert!(hash.width_bits() == 64 || hash.hash(b"some key") >> hash.width_bits() == 0);
        }
    }
}
