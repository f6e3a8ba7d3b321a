//! What a verb that may block asks for: how long it waits, and the plain verb that does the same without waiting.
//!
//! A pool with one copy of each key leaves both to its store and needs [`timeout_at`] alone, for a wait that goes on at
//! another store. One with several copies asks again and again by the plain verb, and has [`Plain::shaped`] make the
//! blocking verb's reply of what came.
//!
//! # Invariants
//!
//! * What is wrong with a request is said as the servers say it, and before anything is taken.
//! * A plain request never blocks.

use smallvec::SmallVec;

use super::absolute::integer;
use super::keys::stream_options;
use super::reply::{self, Resp};
use super::{Args, Row};

/// The words of a request.
pub type PlainWords<'a> = SmallVec<[&'a [u8]; 8]>;

/// What a blocking verb takes, and how its plain verb is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One element of the first list that has one: `LPOP` of each.
    Element,
    /// One member of the first sorted set that has one: `ZPOPMIN` of each.
    Member,
    /// Some of the first key that has any: `LMPOP 1` of each.
    Several,
    /// From one list to another.
    Move,
    /// Entries of streams, which stay there.
    Read,
    /// Entries of streams that their group has not seen.
    ReadGroup,
}

/// The plain counterpart of a blocking verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// Its name.
    pub verb: &'static str,
    /// How it is asked.
    pub shape: Shape,
    /// What `TYPE` says of the keys that it takes from.
    pub type_name: &'static str,
}

/// Why a time to wait is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutFault {
    /// Seconds that are no number.
    NotAFloat,
    /// Milliseconds that are no number.
    NotAnInteger,
    /// Less than nothing.
    Negative,
    /// More than a clock counts.
    OutOfRange,
}

impl TimeoutFault {
    /// Appends the error.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::NotAFloat => reply::timeout_not_a_float(out),
            Self::NotAnInteger => reply::timeout_not_an_integer(out),
            Self::Negative => reply::timeout_negative(out),
            Self::OutOfRange => reply::timeout_out_of_range(out),
        }
    }
}

/// Whether the verb's time is in milliseconds; in seconds with a fraction otherwise.
fn counts_ms(row: &Row) -> bool {
    matches!(row.name, "xread" | "xreadgroup")
}

/// The argument that says how long to wait. None where the request ends before it.
pub fn timeout_at(row: &Row, args: &Args<'_>) -> Option<usize> {
    let at = match row.name {
        "blmpop" | "bzmpop" => 1,
        "brpoplpush" => 3,
        "blmove" => 5,
        "xread" | "xreadgroup" => stream_options(args).block_at? + 1,
        _ => args.len().checked_sub(1)?,
    };
    (at < args.len()).then_some(at)
}

/// How long the request waits, in milliseconds; none for ever.
///
/// # Errors
///
/// What the servers would object to.
pub fn timeout_ms(row: &Row, args: &Args<'_>) -> Result<Option<u64>, TimeoutFault> {
    let word = timeout_at(row, args).and_then(|at| args.get(at)).unwrap_or_default();
    let ms = if counts_ms(row) {
        integer(word).ok_or(TimeoutFault::NotAnInteger)?
    } else {
        let seconds: f64 = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        if seconds.is_nan() {
            return Err(TimeoutFault::NotAFloat);
        }
        whole_ms(seconds)?
    };
    match u64::try_from(ms) {
        Ok(0) => Ok(None),
        // The servers add the time of day.
        Ok(ms) if ms > i64::MAX.unsigned_abs() / 2 => Err(TimeoutFault::OutOfRange),
        Ok(ms) => Ok(Some(ms)),
        Err(_) => Err(TimeoutFault::Negative),
    }
}

/// Milliseconds, rounded up as the servers do, so that a little is never for ever.
fn whole_ms(seconds: f64) -> Result<i64, TimeoutFault> {
    /// 2^63, the first that does not fit.
    const TOO_MUCH: f64 = 9_223_372_036_854_775_808.0;
    let ms = (seconds * 1_000.0).ceil();
    if ms >= TOO_MUCH {
        return Err(TimeoutFault::OutOfRange);
    }
    #[expect(clippy::cast_possible_truncation, reason = "what is far below zero is negative all the same")]
    Ok(ms as i64)
}

/// The word for what is left of the time to wait: never that for ever.
pub fn timeout_word(row: &Row, left_ms: u64) -> String {
    let left_ms = left_ms.max(1);
    if counts_ms(row) { left_ms.to_string() } else { format!("{}.{:03}", left_ms / 1_000, left_ms % 1_000) }
}

/// The plain counterpart of a blocking verb; none of any other.
pub fn plain(row: &Row) -> Option<Plain> {
    let (verb, shape, type_name) = match row.name {
        "blpop" => ("lpop", Shape::Element, "list"),
        "brpop" => ("rpop", Shape::Element, "list"),
        "bzpopmin" => ("zpopmin", Shape::Member, "zset"),
        "bzpopmax" => ("zpopmax", Shape::Member, "zset"),
        "blmpop" => ("lmpop", Shape::Several, "list"),
        "bzmpop" => ("zmpop", Shape::Several, "zset"),
        "blmove" => ("lmove", Shape::Move, "list"),
        "brpoplpush" => ("rpoplpush", Shape::Move, "list"),
        "xread" => ("xread", Shape::Read, "stream"),
        "xreadgroup" => ("xreadgroup", Shape::ReadGroup, "stream"),
        _ => return None,
    };
    Some(Plain { verb, shape, type_name })
}

impl Plain {
    /// The request for one of the keys. `key` may have another name at the store than `args` has for it.
    pub fn of_key<'a>(&self, args: &Args<'a>, key: &'a [u8]) -> PlainWords<'a> {
        let mut words = PlainWords::new();
        words.push(self.verb.as_bytes());
        if self.shape == Shape::Several {
            words.push(b"1");
            words.push(key);
            words.extend(args.iter().skip(3 + count_of(args)));
        } else {
            words.push(key);
        }
        words
    }

    /// The whole request without its time to wait.
    pub fn whole<'a>(&self, row: &Row, args: &Args<'a>) -> PlainWords<'a> {
        let timeout_at = timeout_at(row, args);
        let option_at = timeout_at.filter(|_| counts_ms(row)).and_then(|at| at.checked_sub(1));
        let kept = args.iter().enumerate().skip(1);
        let kept = kept.filter(|(at, _)| Some(*at) != timeout_at && Some(*at) != option_at);
        std::iter::once(self.verb.as_bytes()).chain(kept.map(|(_, word)| word)).collect()
    }

    /// Whether the servers would refuse the request for what stands beside its keys and its time. Where this says so they
    /// may be asked by the whole plain request, and answer in their own words.
    pub fn is_malformed(&self, args: &Args<'_>) -> bool {
        let is_one_of = |at: usize, words: [&str; 2]| words.iter().any(|word| args.is_word(at, word));
        match self.shape {
            Shape::Element | Shape::Member | Shape::Read | Shape::ReadGroup => false,
            Shape::Move => {
                let ends = ["LEFT", "RIGHT"];
                args.len() == 6 && !(is_one_of(3, ends) && is_one_of(4, ends))
            }
            Shape::Several => {
                let at = 3 + count_of(args);
                let ends = if self.type_name == "list" { ["LEFT", "RIGHT"] } else { ["MIN", "MAX"] };
                let counts = args.is_word(at + 1, "COUNT")
                    && args.get(at + 2).and_then(integer).is_some_and(|count| count > 0)
                    && args.len() == at + 3;
                !is_one_of(at, ends) || !(counts || args.len() == at + 1)
            }
        }
    }

    /// The blocking verb's reply, made of the plain one's to a request for `key`; none where there was nothing.
    pub fn shaped(&self, key: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        if is_nothing(plain) {
            return None;
        }
        if plain.first() == Some(&b'-') {
            return Some(plain.to_vec());
        }
        let mut out = Vec::with_capacity(plain.len() + key.len() + 16);
        match self.shape {
            Shape::Element => {
                reply::array_header(&mut out, 2);
                reply::bulk(&mut out, key);
                out.extend_from_slice(plain);
            }
            Shape::Member => {
                reply::array_header(&mut out, 3);
                reply::bulk(&mut out, key);
                // Behind the head of its own: member and score.
                out.extend_from_slice(plain.strip_prefix(b"*2\r\n").unwrap_or(plain));
            }
            Shape::Several | Shape::Move | Shape::Read | Shape::ReadGroup => out.extend_from_slice(plain),
        }
        Some(out)
    }
}

/// `numkeys` of `BLMPOP` and `BZMPOP`.
fn count_of(args: &Args<'_>) -> usize {
    args.get(2).and_then(integer).and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Whether a reply says that there was nothing.
pub fn is_nothing(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n" | b"*0\r\n")
}

/// What a blocking verb answers when its time is up.
pub fn timed_out(out: &mut Vec<u8>, resp: Resp) {
    reply::null_array(out, resp);
}

#[cfg(test)]
mod tests;
