//! From the bytes of a request to its row. Runs once a request, so it neither allocates nor walks the name.
//!
//! A verb of up to 24 bytes is read as three lower-cased words; one multiplication gives its only possible slot, and
//! comparing the words settles whether it is there. The multiplier is part of the generated table; the compiler
//! builds the slots from the rows and stops if two names meet.

use super::table::{MULTIPLIER, ROWS};
use super::{Args, Handling, Row, SplitRule};

/// 4,096 slots of two bytes for some 270 names: few enough for the cache, and a multiplier without collisions exists.
const SLOT_BITS: u32 = 12;
const SLOTS_LEN: usize = 1 << SLOT_BITS;
const EMPTY: u16 = u16::MAX;

static PACKED: [Packed; ROWS.len()] = pack_rows();
static SLOTS: [u16; SLOTS_LEN] = fill_slots();

/// Why a request has no row.
#[derive(Debug, Clone, Copy)]
pub enum Unsupported {
    /// No server has such a verb: `reply::unknown_command`.
    UnknownCommand,
    /// The container has no such subcommand: `reply::unknown_subcommand`.
    UnknownSubcommand(&'static Row),
    /// Too few or too many arguments: `reply::wrong_arity`.
    WrongArity(&'static Row),
}

/// The row of a verb in any case; not of its subcommand.
#[inline]
pub fn lookup(verb: &[u8]) -> Option<&'static Row> {
    let packed = pack(verb)?;
    let index = usize::from(*SLOTS.get(packed.slot())?);
    if PACKED.get(index)?.is(packed) { ROWS.get(index) } else { None }
}

/// The row that decides about a request: its verb's, its subcommand's, or the variant its arguments ask for.
///
/// # Errors
///
/// Where no row fits; the caller answers with the error text named at the variant.
#[inline]
pub fn resolve(args: &Args<'_>) -> Result<&'static Row, Unsupported> {
    let row = args.get(0).and_then(lookup).ok_or(Unsupported::UnknownCommand)?;
    match row.handling {
        // The common case: nothing but the number of arguments can be wrong.
        Handling::Forward if row.variants.is_empty() => {
            if row.takes(args.len()) {
                Ok(row)
            } else {
                Err(Unsupported::WrongArity(row))
            }
        }
        _ => resolve_fully(row, args),
    }
}

fn resolve_fully(row: &'static Row, args: &Args<'_>) -> Result<&'static Row, Unsupported> {
    let row = match args.get(1) {
        Some(name) if !row.subcommands.is_empty() => {
            subcommand(row, name).ok_or(Unsupported::UnknownSubcommand(row))?
        }
        _ => row,
    };
    let unpaired = row.handling == Handling::Split(SplitRule::Mset) && args.len().is_multiple_of(2);
    if !row.takes(args.len()) || unpaired {
        return Err(Unsupported::WrongArity(row));
    }
    let variant = row.variants.iter().find(|variant| variant.when.holds(args));
    Ok(variant.map_or(row, |variant| &variant.row))
}

/// The row of a full name: a verb, or `container|subcommand` as `COMMAND INFO` and `COMMAND DOCS` take it.
pub fn lookup_full_name(name: &[u8]) -> Option<&'static Row> {
    match name.iter().position(|byte| *byte == b'|') {
        None => lookup(name),
        Some(at) => {
            let (container, rest) = name.split_at(at);
            subcommand(lookup(container)?, rest.get(1..)?)
        }
    }
}

/// Every verb's row, sorted by name.
pub fn all() -> &'static [Row] {
    &ROWS
}

fn subcommand(container: &'static Row, name: &[u8]) -> Option<&'static Row> {
    // Tens of rows at most, and never on the data path except `OBJECT`, `XGROUP` and `XINFO` with a handful.
    let own = container.name.len() + 1;
    let is_it = |row: &&Row| row.name.as_bytes().get(own..).is_some_and(|rest| rest.eq_ignore_ascii_case(name));
    container.subcommands.iter().find(is_it)
}

/// A name of up to 24 bytes, lower-cased, eight bytes a word, the first byte lowest, zeros behind. `len` tells a name
/// from the same name with a zero byte behind it.
#[derive(Clone, Copy)]
struct Packed {
    words: [u64; 3],
    len: usize,
}

impl Packed {
    /// Without the call that comparing arrays compiles to: it took as long as all the rest of a look-up.
    #[inline]
    fn is(&self, other: Self) -> bool {
        let [first, second, third] = self.words;
        let [other_first, other_second, other_third] = other.words;
        let words_differ = (first ^ other_first) | (second ^ other_second) | (third ^ other_third);
        words_differ | (self.len ^ other.len) as u64 == 0
    }

    const fn slot(&self) -> usize {
        let [first, second, third] = self.words;
        let mixed = first ^ second.rotate_left(23) ^ third.rotate_left(47);
        (mixed.wrapping_mul(MULTIPLIER) >> (u64::BITS - SLOT_BITS)) as usize
    }
}

#[inline]
const fn pack(name: &[u8]) -> Option<Packed> {
    let len = name.len();
    let words = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            let first = lower(u64::from_le_bytes(*first));
            // The bytes of `last` that are not in a word before it, moved to the lowest place.
            let last = lower(u64::from_le_bytes(*last));
            match len {
                8 => [first, 0, 0],
                9..=16 => [first, last >> (8 * (16 - len)), 0],
                17..=24 => {
                    let Some((_, rest)) = name.split_first_chunk::<8>() else { return None };
                    let Some(second) = rest.first_chunk::<8>() else { return None };
                    [first, lower(u64::from_le_bytes(*second)), last >> (8 * (24 - len))]
                }
                _ => return None,
            }
        }
        _ => [lower(pack_short(name)), 0, 0],
    };
    Some(Packed { words, len })
}

/// Up to seven bytes: two overlapping reads, or-ed where they overlap because they agree there.
#[inline]
const fn pack_short(name: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        let high = u32::from_le_bytes(*last) as u64;
        return u32::from_le_bytes(*first) as u64 | high << (8 * (name.len() - 4));
    }
    match name {
        [a] => *a as u64,
        [a, b] => *a as u64 | (*b as u64) << 8,
        [a, b, c] => *a as u64 | (*b as u64) << 8 | (*c as u64) << 16,
        _ => 0,
    }
}

/// Lower-cases the ASCII letters among eight bytes at once: bit 7 of each byte says whether it is one, and that bit
/// moved down to bit 5 is the difference between the cases.
#[inline]
const fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low_bits = word & (0x7f * EACH);
    let from_a = low_bits + (0x80 - b'A' as u64) * EACH;
    let past_z = low_bits + (0x7f - b'Z' as u64) * EACH;
    let is_upper = from_a & !past_z & !word & (0x80 * EACH);
    word | is_upper >> 2
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: out of range does not compile")]
const fn pack_rows() -> [Packed; ROWS.len()] {
    let mut packed = [Packed { words: [0; 3], len: 0 }; ROWS.len()];
    let mut at = 0;
    while at < ROWS.len() {
        packed[at] = pack(ROWS[at].name.as_bytes()).expect("no verb is longer than 24 bytes");
        at += 1;
    }
    packed
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: out of range does not compile")]
#[expect(clippy::cast_possible_truncation, reason = "the row count is asserted to fit")]
const fn fill_slots() -> [u16; SLOTS_LEN] {
    assert!(ROWS.len() < EMPTY as usize, "rows are numbered in 16 bits");
    let mut slots = [EMPTY; SLOTS_LEN];
    let mut at = 0;
    while at < ROWS.len() {
        let slot = PACKED[at].slot();
        assert!(slots[slot] == EMPTY, "two names meet: regenerate the table");
        slots[slot] = at as u16;
        at += 1;
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::{LocalVerb, VerbClass};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_name_is_found_in_every_case_and_its_neighbours_are_not() {
        for row in all() {
            let name = row.name.as_bytes();
            let mixed: Vec<u8> = name
                .iter()
                .enumerate()
                .map(|(at, byte)| if at % 2 == 0 { byte.to_ascii_uppercase() } else { *byte })
                .collect();
            for spelled in [name.to_vec(), name.to_ascii_uppercase(), mixed] {
                assert_eq!(lookup(&spelled).map(|found| found.name), Some(row.name));
            }
            for byte in [0, b' ', b'z', 0xff] {
                let longer = [name, &[byte]].concat();
                assert!(lookup(&longer).is_none_or(|found| found.name.as_bytes() == longer));
            }
            let shorter = &name[1..];
            assert!(lookup(shorter).is_none_or(|found| found.name.as_bytes() == shorter));
            // 0x20 away from the right byte without being its other case: what a lower-casing by one bit confuses.
            for at in 0..name.len() {
                let mut near = name.to_vec();
                near[at] ^= if near[at].is_ascii_alphabetic() { 0x80 } else { 0x20 };
                assert!(lookup(&near).is_none(), "{near:?}");
            }
        }
    }

    #[test]
    fn long_and_empty_names_are_unknown() {
        for name in [&b""[..], b"\0", b"get\0", &[b'a'; 24], &[b'a'; 25], &[b'a'; 4096]] {
            assert!(lookup(name).is_none());
        }
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_search_of_the_rows(name in "[a-zA-Z_:|.]{0,26}") {
            let searched = all().iter().find(|row| row.name.eq_ignore_ascii_case(&name)).map(|row| row.name);
            prop_assert_eq!(lookup(name.as_bytes()).map(|row| row.name), searched);
        }

        #[test]
        fn lower_is_the_ascii_one(bytes in any::<[u8; 8]>()) {
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|byte| byte.to_ascii_lowercase()));
        }

        #[test]
        fn pack_keeps_every_byte(name in proptest::collection::vec(any::<u8>(), 0..=24)) {
            let mut padded = name.to_ascii_lowercase();
            padded.resize(24, 0);
            let bytes: Vec<u8> = pack(&name).unwrap().words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(bytes, padded);
        }
    }

    #[track_caller]
    fn check(request: &str, want: &str) {
        let args = OwnedArgs::new(request.split(' '));
        let got = match resolve(&args.view()) {
            Ok(row) => match row.handling {
                Handling::Later(_) => format!("{} later", row.name),
                Handling::Refused(_) => format!("{} refused", row.name),
                Handling::Blocking => format!("{} blocks", row.name),
                Handling::ToDatabase => format!("{} to a database", row.name),
                _ => row.name.to_owned(),
            },
            Err(Unsupported::UnknownCommand) => "unknown".to_owned(),
            Err(Unsupported::UnknownSubcommand(row)) => format!("{} unknown", row.name),
            Err(Unsupported::WrongArity(row)) => format!("{} arity", row.name),
        };
        assert_eq!(got, want, "{request}");
    }

    #[test]
    fn resolve_finds_the_row_or_the_reason() {
        check("GET k", "get");
        check("GET", "get arity");
        check("GET a b", "get arity");
        check("nonsense", "unknown");
        check("CONFIG", "config arity");
        check("config GET maxmemory", "config|get");
        check("CONFIG GET", "config|get arity");
        check("CONFIG nonsense", "config unknown");
        check("CONFIG SET a b", "config|set");
        check("CONFIG REWRITE", "config|rewrite refused");
        check("COMMAND", "command");
        check("COMMAND COUNT", "command|count");
        check("MSET a 1 b 2", "mset");
        check("MSET a 1 b", "mset arity");
        check("VCARD", "vcard arity");
        check("PING", "ping");
        check("MULTI", "multi");
        check("OBJECT ENCODING k", "object|encoding");
        check("MEMORY USAGE k", "memory|usage");
        check("MEMORY DOCTOR", "memory|doctor later");
    }

    #[test]
    fn resolve_takes_the_variant_its_arguments_ask_for() {
        check("XREAD STREAMS a 0", "xread");
        check("XREAD COUNT 1 BLOCK 0 STREAMS a 0", "xread blocks");
        check("XREAD STREAMS block 0", "xread");
        check("XREADGROUP GROUP streams c block 0 STREAMS a >", "xreadgroup blocks");
        check("XREADGROUP GROUP g block STREAMS a >", "xreadgroup");
        check("XREADGROUP GROUP g c COUNT 2 STREAMS a >", "xreadgroup");
        check("SORT k", "sort");
        check("SORT k BY nosort GET # STORE d", "sort");
        check("SORT k BY w_*", "sort refused");
        check("SORT k LIMIT 0 by BY w_*", "sort refused");
        check("SORT_RO k GET o_*->f", "sort_ro refused");
        check("COPY a b", "copy");
        check("COPY a b DB 0", "copy to a database");
        check("COPY a b REPLACE db 1", "copy to a database");
        check("COPY a b DB", "copy to a database");
    }

    #[test]
    fn a_forwarded_verb_never_touches_its_connection_and_the_rest_says_why() {
        fn walk(row: &'static Row) {
            match row.handling {
                Handling::Forward => assert!(row.single_key_at.is_some(), "{}", row.name),
                Handling::SameNode
                | Handling::Split(_)
                | Handling::Run(_)
                | Handling::Blocking
                | Handling::ToDatabase => {
                    assert!(!row.keys.is_empty(), "{}", row.name);
                }
                Handling::Keyspace(_) | Handling::Programs(_) => assert!(row.keys.is_empty(), "{}", row.name),
                Handling::Transaction(verb) => {
                    assert_eq!(row.keys.is_empty(), verb != super::super::TransactionVerb::Watch, "{}", row.name);
                }
                Handling::PubSub(_) => assert_eq!(row.about.group, "pubsub", "{}", row.name),
                Handling::Later(reason) | Handling::Refused(reason) => assert!(!reason.is_empty(), "{}", row.name),
                Handling::Local(verb) => assert!(
                    row.class == VerbClass::Other
                        || verb == LocalVerb::ClusterDisabled
                        || verb == LocalVerb::HttpRequest
                        || verb == LocalVerb::Lolwut // A picture, "readonly" to the servers.
                        || verb == LocalVerb::Pfdebug // Its store is asked, and with several copies to look only.
                ),
            }
            row.subcommands.iter().for_each(walk);
        }
        all().iter().for_each(walk);
        for owner in ["select", "multi", "subscribe", "monitor", "auth", "reset", "blpop", "client", "hello", "wait"] {
            let row = lookup(owner.as_bytes()).unwrap();
            assert!(!matches!(row.handling, Handling::Forward | Handling::SameNode), "{owner}");
        }
    }
}
