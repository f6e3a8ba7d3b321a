//! Where the keys of a request stand, as `COMMAND GETKEYS` of the servers says it.
//!
//! A key specification has two halves: where the search begins (a fixed argument, or behind a keyword) and how keys
//! follow from there (up to some argument, or as many as an argument says). The servers describe them in the manual
//! page "Command key specifications". `SORT` and `MIGRATE` cannot be described so and have their own rule here, and so have
//! requests whose keys `COMMAND GETKEYS` does not tell as the server then uses them.
//!
//! # Invariants
//!
//! * Every index given is that of an argument; none is 0, the verb.
//! * An error means that the request names no key as it should: the store will refuse it without touching one, so any
//!   node may be asked to, and answers in its own words.

use super::{Args, Row};
use smallvec::SmallVec;

/// The specifications of one command.
pub type KeySpecs = &'static [KeySpec];

/// Argument indexes of keys; more than 16 spill to the heap.
pub type KeyIndexes = SmallVec<[u32; 16]>;

/// Where some keys of a command stand.
#[derive(Debug, Clone, Copy)]
pub struct KeySpec {
    /// Where to begin.
    pub begin: Begin,
    /// How to go on.
    pub find: Find,
    /// What the command does with these keys, in the servers' words.
    pub flags: &'static [&'static str],
}

/// Where the search for keys begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(u32),
    /// Behind this word in any case, searched from an argument on; a negative place counts from the end and searches
    /// backwards.
    Keyword {
        /// The word.
        word: &'static str,
        /// Where the search for it starts.
        from: i32,
    },
    /// Not described.
    Unknown,
}

/// How keys follow from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// Every `step`th argument up to `last`.
    Range {
        /// From the first key; negative counts from the end.
        last: i32,
        /// The distance of two keys.
        step: u32,
        /// Where over 1, keys fill only this part of what is left (`XREAD`: half, the rest are ids).
        limit: u32,
    },
    /// As many as an argument says.
    KeyCount {
        /// Where the count stands, from the beginning.
        at: u32,
        /// Where the first key stands, from the beginning.
        first: u32,
        /// The distance of two keys.
        step: u32,
    },
    /// Not described.
    Unknown,
}

/// Why the keys of a request cannot be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The verb has none, or the request says that it brings none.
    #[error("the command has no key arguments")]
    NoKeys,
    /// A keyword, a count or a key is missing. The store refuses such a request.
    #[error("invalid arguments specified for command")]
    Malformed,
}

/// The argument indexes of all keys, in the order of the specifications. `out` is cleared first.
///
/// # Errors
///
/// [`KeyError`]; `out` is then empty.
pub fn keys(row: &Row, args: &Args<'_>, out: &mut KeyIndexes) -> Result<(), KeyError> {
    each_key(row, args, out, |_| ())
}

/// As [`keys`], and tells `on_key` the specification of each key as it is found.
///
/// # Errors
///
/// As [`keys`].
pub fn each_key(
    row: &Row,
    args: &Args<'_>,
    out: &mut KeyIndexes,
    mut on_key: impl FnMut(&'static KeySpec),
) -> Result<(), KeyError> {
    out.clear();
    let mut found = Ok(());
    for spec in row.keys.iter().filter(|spec| !spec.flags.contains(&"not_key") && is_used(row, spec, args)) {
        let before = out.len();
        found = found.and_then(|()| append(row, spec, args, out));
        out.iter().skip(before).for_each(|_| on_key(spec));
    }
    found.inspect_err(|_| out.clear())?;
    if out.is_empty() { Err(KeyError::NoKeys) } else { Ok(()) }
}

/// `MIGRATE` names its key in one place or, where that is the empty string, may name its keys behind `KEYS` instead.
fn is_used(row: &Row, spec: &KeySpec, args: &Args<'_>) -> bool {
    if row.name != "migrate" {
        return true;
    }
    let several = args.get(3).is_some_and(<[u8]>::is_empty) && (6..args.len()).any(|at| args.is_word(at, "KEYS"));
    several == matches!(spec.begin, Begin::Keyword { .. })
}

fn append(row: &Row, spec: &KeySpec, args: &Args<'_>, out: &mut KeyIndexes) -> Result<(), KeyError> {
    match spec.begin {
        Begin::Index(index) => append_from(index as usize, spec.find, args, out),
        Begin::Keyword { word: "STREAMS", .. } => {
            let begin = stream_options(args).streams_at.ok_or(KeyError::Malformed)?;
            append_from(begin, spec.find, args, out)
        }
        Begin::Keyword { word, from } if from < 0 => {
            let end = (args.len() + 1).saturating_sub(from.unsigned_abs() as usize);
            match (1..end).rev().find(|at| args.is_word(*at, word)) {
                Some(at) => append_from(at + 1, spec.find, args, out),
                None => Ok(()),
            }
        }
        Begin::Keyword { word, from } => append_each_behind(word, from, spec.find, args, out),
        Begin::Unknown => {
            // `SORT` has two undescribed specifications: the patterns, which `variant` deals with, and the destination.
            if row.name == "sort" && spec.flags.contains(&"update") {
                out.extend(sort_destination(args).and_then(|at| u32::try_from(at).ok()));
            }
            Ok(())
        }
    }
}

/// Keys behind every occurrence of an option, where `COMMAND GETKEYS` stops at the first: of `STORE a STORE b` the
/// servers obey the last, and a key that is not named could land on the wrong node.
fn append_each_behind(
    word: &str,
    from: i32,
    find: Find,
    args: &Args<'_>,
    out: &mut KeyIndexes,
) -> Result<(), KeyError> {
    let mut at = usize::try_from(from).unwrap_or_default().max(1);
    while at < args.len() {
        if args.is_word(at, word) {
            append_from(at + 1, find, args, out)?;
            at += 1;
        }
        at += 1;
    }
    Ok(())
}

/// Keys from a beginning on.
fn append_from(begin: usize, find: Find, args: &Args<'_>, out: &mut KeyIndexes) -> Result<(), KeyError> {
    match find {
        // `PFMERGE destination` without sources is a request, though `COMMAND GETKEYS` refuses it.
        Find::Range { last, .. } if last < 0 && begin >= args.len() => Ok(()),
        Find::Range { last, step, limit } => {
            let left = args.len().checked_sub(begin).ok_or(KeyError::Malformed)?;
            let last = if let Ok(last) = usize::try_from(last) {
                begin + last
            } else {
                let part = if limit > 1 { left / limit as usize } else { left };
                (begin + part).checked_sub(last.unsigned_abs() as usize).ok_or(KeyError::Malformed)?
            };
            append_range(begin, last, step, args, out)
        }
        Find::KeyCount { at, first, step } => {
            let count = args.get(begin + at as usize).and_then(key_count).ok_or(KeyError::Malformed)?;
            let Some(steps) = count.checked_sub(1) else { return Ok(()) };
            let first = begin + first as usize;
            let last = steps.checked_mul(step as usize).and_then(|steps| first.checked_add(steps));
            append_range(first, last.ok_or(KeyError::Malformed)?, step, args, out)
        }
        Find::Unknown => Ok(()),
    }
}

fn append_range(first: usize, last: usize, step: u32, args: &Args<'_>, out: &mut KeyIndexes) -> Result<(), KeyError> {
    if first == 0 || last < first || last >= args.len() {
        return Err(KeyError::Malformed);
    }
    for index in (first..=last).step_by((step as usize).max(1)) {
        out.push(u32::try_from(index).map_err(|_| KeyError::Malformed)?);
    }
    Ok(())
}

/// What stands before the streams of `XREAD` and `XREADGROUP`.
pub(super) struct StreamOptions {
    /// Where the last `BLOCK` stands.
    pub(super) block_at: Option<usize>,
    /// The first argument behind `STREAMS`.
    pub(super) streams_at: Option<usize>,
}

/// Goes from option to option as the servers do, so that a group or consumer may be named `streams` or `block`; to
/// search for the word, as the key specification says, would take such a name for it.
pub(super) fn stream_options(args: &Args<'_>) -> StreamOptions {
    let mut options = StreamOptions { block_at: None, streams_at: None };
    let mut at = 1;
    while at < args.len() {
        if args.is_word(at, "STREAMS") {
            options.streams_at = Some(at + 1);
            break;
        }
        if args.is_word(at, "BLOCK") {
            options.block_at = Some(at);
        }
        at += if args.is_word(at, "GROUP") {
            3
        } else if ["BLOCK", "COUNT", "CLAIM"].iter().any(|option| args.is_word(at, option)) {
            2
        } else {
            1
        };
    }
    options
}

/// The argument of the last `STORE`, past the arguments of other options.
pub(super) fn sort_destination(args: &Args<'_>) -> Option<usize> {
    let (mut destination, mut at) = (None, 2);
    while at < args.len() {
        if args.is_word(at, "LIMIT") {
            at += 2;
        } else if args.is_word(at, "GET") || args.is_word(at, "BY") {
            at += 1;
        } else if args.is_word(at, "STORE") && at + 1 < args.len() {
            at += 1;
            destination = Some(at);
        }
        at += 1;
    }
    destination
}

/// A count as the servers read an integer: digits only, no sign, no leading zero but 0 itself.
fn key_count(digits: &[u8]) -> Option<usize> {
    let well_formed = digits == b"0" || digits.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    if !well_formed || digits.len() > 9 {
        return None;
    }
    digits
        .iter()
        .try_fold(0_usize, |count, digit| digit.is_ascii_digit().then(|| count * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::{Handling, Row, all, resolve};
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(request: &str, want: Result<&[u32], KeyError>) {
        let args = OwnedArgs::new(request.split(' '));
        let row = resolve(&args.view()).unwrap();
        let mut found = KeyIndexes::new();
        let got = keys(row, &args.view(), &mut found).map(|()| found.as_slice());
        assert_eq!(got, want, "{request}");
    }

    #[test]
    fn keys_stand_where_the_servers_find_them() {
        check("GET k", Ok(&[1]));
        check("MGET a b c", Ok(&[1, 2, 3]));
        check("MSET a 1 b 2", Ok(&[1, 3]));
        check("BLPOP a b 0", Ok(&[1, 2]));
        check("BITOP AND d a b", Ok(&[2, 3, 4]));
        check("OBJECT FREQ k", Ok(&[2]));
        check("PFMERGE d a", Ok(&[1, 2]));
        check("PFMERGE d", Ok(&[1]));
        check("PING", Err(KeyError::NoKeys));
    }

    #[test]
    fn a_count_says_how_many_keys_follow() {
        check("ZUNION 2 a b WEIGHTS 1 2", Ok(&[2, 3]));
        check("ZUNIONSTORE d 2 a b", Ok(&[1, 3, 4]));
        check("LMPOP 1 a LEFT", Ok(&[2]));
        check("EVAL script 0 a", Err(KeyError::NoKeys));
        check("MSETEX 2 a 1 b 2 EX 5", Ok(&[2, 4]));
        check("ZUNION 3 a b", Err(KeyError::Malformed));
        check("ZUNION 02 a b", Err(KeyError::Malformed));
        check("ZUNION -1 a b", Err(KeyError::Malformed));
        check("ZUNION 99999999999999999999 a", Err(KeyError::Malformed));
        check("ZUNION 4294967295 a", Err(KeyError::Malformed));
    }

    #[test]
    fn a_keyword_says_where_keys_begin() {
        check("XREAD COUNT 1 STREAMS a b 0 0", Ok(&[4, 5]));
        check("XREADGROUP GROUP g c streams a >", Ok(&[5]));
        check("XREADGROUP COUNT 1 GROUP streams block STREAMS a b > >", Ok(&[7, 8]));
        check("XREAD COUNT 1 NOACK", Err(KeyError::Malformed));
        check("XREAD COUNT 1 STREAMS", Err(KeyError::NoKeys));
        check("GEORADIUS k 1 1 1 m", Ok(&[1]));
        check("GEORADIUS k 1 1 1 m STORE d", Ok(&[1, 7]));
        check("GEORADIUS k 1 1 1 m STORE store STORE e", Ok(&[1, 7, 9]));
        check("GEORADIUSBYMEMBER k member 1 m storedist d", Ok(&[1, 6]));
        check("MIGRATE host 1 k 0 10", Ok(&[3]));
        check("MIGRATE host 1  0 10 KEYS a b", Ok(&[7, 8])); // Two spaces: an empty argument.
    }

    #[test]
    fn sort_has_the_last_destination() {
        check("SORT k", Ok(&[1]));
        check("SORT k LIMIT 0 STORE BY nosort STORE d", Ok(&[1, 8]));
        check("SORT k STORE a STORE b", Ok(&[1, 5]));
        check("SORT k STORE", Ok(&[1]));
        check("SORT_RO k STORE d", Ok(&[1]));
    }

    fn any_row() -> impl Strategy<Value = &'static Row> {
        let rows = || all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
        proptest::sample::select(rows().collect::<Vec<_>>())
    }

    fn any_argument() -> impl Strategy<Value = Vec<u8>> {
        let words =
            ["0", "1", "2", "STREAMS", "store", "STOREDIST", "KEYS", "LIMIT", "GET", "BY", "BLOCK", "GROUP", "DB", ""];
        prop_oneof![
            proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            any::<u32>().prop_map(|number| number.to_string().into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ]
    }

    proptest! {
        #[test]
        fn no_index_is_out_of_range_whatever_the_arguments(
            row in any_row(),
            mut words in proptest::collection::vec(any_argument(), 0..12),
        ) {
            for (at, part) in row.name.split('|').enumerate() {
                words.insert(at.min(words.len()), part.as_bytes().to_vec());
            }
            let args = OwnedArgs::new(&words);
            let mut found = KeyIndexes::new();
            let result = keys(row, &args.view(), &mut found);
            prop_assert_eq!(result.is_ok(), !found.is_empty());
            prop_assert!(found.iter().all(|index| (1..words.len()).contains(&(*index as usize))));
            if let Ok(resolved) = resolve(&args.view()) {
                prop_assert!(resolved.takes(words.len()));
                if let (Handling::Forward, Some(at)) = (resolved.handling, resolved.single_key_at) {
                    prop_assert_eq!(keys(resolved, &args.view(), &mut found), Ok(()));
                    prop_assert_eq!(found.as_slice(), &[u32::from(at)]);
                }
            }
        }
    }
}
