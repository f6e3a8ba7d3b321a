//! The sharding key: which bytes of a key decide its place. Keys with the same sharding key live together.
//!
//! # Invariants
//! The result is always a part of the key, or all of it: nothing is copied.

use std::fmt;

use regex::bytes::Regex;

/// Which part of a key is hashed.
#[derive(Debug, Clone, Default)]
pub enum ShardKey {
    /// All of it.
    #[default]
    Whole,
    /// What lies between the first `open` byte and the first `close` byte after it, if that is not empty; else the whole
    /// key. Redis Cluster's rule for `{` and `}`, and twemproxy's for any two bytes, which may be equal.
    HashTag {
        /// The byte before the tag.
        open: u8,
        /// The byte after it.
        close: u8,
    },
    /// The first capture group; the whole match if the expression has no group or the group took no part; the whole key if
    /// nothing matches. A group costs an allocation for each key, an expression without one does not.
    Regex(Regex),
}

impl ShardKey {
    /// The part of `key` that is hashed.
    pub fn of<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match self {
            Self::Whole => key,
            Self::HashTag { open, close } => hash_tag(key, *open, *close).unwrap_or(key),
            Self::Regex(regex) if regex.captures_len() == 1 => regex.find(key).map_or(key, |found| found.as_bytes()),
            Self::Regex(regex) => regex
                .captures(key)
                .and_then(|captures| captures.get(1).or_else(|| captures.get(0)))
                .map_or(key, |found| found.as_bytes()),
        }
    }
}

fn hash_tag(key: &[u8], open: u8, close: u8) -> Option<&[u8]> {
    let after = key.get(find(open, key)? + 1..)?;
    let tag = after.get(..find(close, after)?)?;
    (!tag.is_empty()).then_some(tag)
}

/// Where a byte is. Keys are short: calling out to vector code costs more than a loop until a few dozen bytes.
#[inline]
fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    if bytes.len() <= 32 { bytes.iter().position(|other| *other == byte) } else { memchr::memchr(byte, bytes) }
}

impl PartialEq for ShardKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole, Self::Whole) => true,
            (Self::HashTag { open, close }, Self::HashTag { open: other_open, close: other_close }) => {
                open == other_open && close == other_close
            }
            (Self::Regex(regex), Self::Regex(other)) => regex.as_str() == other.as_str(),
            (Self::Whole | Self::HashTag { .. } | Self::Regex(_), _) => false,
        }
    }
}

impl Eq for ShardKey {}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("the whole key"),
            Self::HashTag { open, close } => {
                write!(f, "hash tag {}…{}", open.escape_ascii(), close.escape_ascii())
            }
            Self::Regex(regex) => write!(f, "regex {regex}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shard_key: &ShardKey, key: &str, want: &str) {
        assert_eq!(shard_key.of(key.as_bytes()), want.as_bytes(), "{shard_key} of {key}");
    }

    #[test]
    fn hash_tags() {
        let braces = ShardKey::HashTag { open: b'{', close: b'}' };
        check(&braces, "user:{42}:name", "42");
        check(&braces, "user:{}:name", "user:{}:name");
        check(&braces, "{}{42}", "{}{42}");
        check(&braces, "user:{42", "user:{42");
        check(&braces, "}{42}", "42");
        check(&braces, "{{42}}", "{42");
        check(&braces, "", "");
        let dollars = ShardKey::HashTag { open: b'$', close: b'$' };
        check(&dollars, "a$b$c", "b");
        check(&dollars, "a$b", "a$b");
        check(&ShardKey::Whole, "user:{42}", "user:{42}");
    }

    #[test]
    fn regexes() {
        let group = ShardKey::Regex(Regex::new(r"^user:(\d+)|other").unwrap());
        check(&group, "user:42:name", "42");
        check(&group, "another", "other");
        check(&group, "session:42", "session:42");
        check(&ShardKey::Regex(Regex::new(r"\d+").unwrap()), "user:42:name", "42");
    }
}
