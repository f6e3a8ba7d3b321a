//! Verbs whose arguments decide what quoit does with them: `XREAD` forwards, `XREAD BLOCK` waits.
//!
//! `resolve` asks each condition of a row in turn and takes the row of the first that holds, so that a caller sees
//! nothing but a row with its final handling.

use super::keys::stream_options;
use super::{Args, Row};

/// A row that replaces its verb's own where the condition holds.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// What must hold of the arguments.
    pub when: Condition,
    /// The row to use then.
    pub row: Row,
}

/// A question about the arguments of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `XREAD` and `XREADGROUP` with `BLOCK` among the options.
    Blocks,
    /// `SORT` and `SORT_RO` with a `BY` or `GET` pattern that names other keys. A pattern without `*` names none: `BY
    /// nosort` only turns sorting off, and `GET` of such a pattern answers nil.
    SortsByOtherKeys,
    /// `COPY … DB n`.
    CopiesToDatabase,
}

impl Condition {
    /// Whether it holds. Where the arguments are not well-formed it may be either: the store refuses them anyway.
    pub fn holds(self, args: &Args<'_>) -> bool {
        match self {
            Self::Blocks => stream_options(args).block_at.is_some(),
            Self::SortsByOtherKeys => sorts_by_other_keys(args),
            Self::CopiesToDatabase => (3..args.len()).any(|at| args.is_word(at, "DB")),
        }
    }
}

/// The options of `SORT`: LIMIT takes two arguments, BY, GET and STORE one, as the servers parse them.
fn sorts_by_other_keys(args: &Args<'_>) -> bool {
    let mut at = 2;
    while at < args.len() {
        if args.is_word(at, "LIMIT") {
            at += 2;
        } else if args.is_word(at, "STORE") {
            at += 1;
        } else if args.is_word(at, "BY") || args.is_word(at, "GET") {
            if args.get(at + 1).is_some_and(|pattern| pattern.contains(&b'*')) {
                return true;
            }
            at += 1;
        }
        at += 1;
    }
    false
}
