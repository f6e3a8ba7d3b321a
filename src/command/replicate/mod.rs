//! How a request goes to the replicas of its keys: the class of its verb, refined by its arguments.
//!
//! A coordinator asks [`classify`] once a request. A [`Form::Blind`] request brings what a store needs to keep it; one
//! of the other writing forms goes to the stores as [`absolute`](super::absolute()) says it. [`key_roles`] tells which
//! keys of a [`Form::Opaque`] request are written, [`null_is_array`] and [`script_resp`] what a script's
//! reply no longer says.
//!
//! # Invariants
//!
//! * What is not understood is not taken for less than it is: an unknown option makes a blind write an update, and an
//!   id that is not plainly explicit makes `XADD` opaque.
//! * [`Form::Malformed`] is given only where every server refuses the request before it looks at a key.
//! * A blind write never brings a time that has passed: it would leave no trace of itself in a store.
//!
//! It deliberately does not decide whether a `XADD *` could be an update with an id of ours: the stream may hold ids
//! that are ahead of our clock, and Redis 6.2 has no half-given ids. One store picks the id.

mod script_keys;

use super::absolute::{Clock, integer};
use super::keys::{KeyError, KeyIndexes, each_key, sort_destination};
use super::reply::Resp;
use super::{Args, Begin, Replication, Row};
use smallvec::SmallVec;

pub use script_keys::script_keys;

/// What a request needs of the replicas of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// [`Replication::Read`].
    Read,
    /// [`Replication::Blind`], and what is to be stored.
    Blind(Blind<'a>),
    /// [`Replication::Update`]. `DEL` and `UNLINK` are one update a key.
    Update,
    /// [`Replication::Opaque`].
    Opaque,
    /// [`Replication::FanOut`].
    FanOut,
    /// [`Replication::Local`].
    Local,
    /// [`Replication::Refused`].
    Refused,
    /// Any store refuses it, in its own words, and touches nothing: one of them is to be asked, with the bytes as they
    /// came.
    Malformed,
}

impl Form<'_> {
    /// The class without what it brings; none of a malformed request.
    pub fn class(&self) -> Option<Replication> {
        match self {
            Self::Read => Some(Replication::Read),
            Self::Blind(_) => Some(Replication::Blind),
            Self::Update => Some(Replication::Update),
            Self::Opaque => Some(Replication::Opaque),
            Self::FanOut => Some(Replication::FanOut),
            Self::Local => Some(Replication::Local),
            Self::Refused => Some(Replication::Refused),
            Self::Malformed => None,
        }
    }
}

/// What a blind write stores under argument 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind<'a> {
    /// A string.
    Set {
        /// Its bytes.
        value: &'a [u8],
        /// When it ends, in ms since the epoch; after the time of the request. None: never.
        expires_at_ms: Option<u64>,
    },
    /// A value as `DUMP` gives it.
    Restore {
        /// Its bytes.
        payload: &'a [u8],
        /// As in `Set`.
        expires_at_ms: Option<u64>,
    },
    /// `MSET`: a key and its value from argument 1 on, each pair a write of its own.
    SetEach,
}

/// The form of a request that came at `now_ms` since the epoch. `row` is what [`super::resolve`] gave for it.
#[inline]
pub fn classify<'a>(row: &Row, args: &Args<'a>, now_ms: u64) -> Form<'a> {
    match row.replication {
        // It stores the count that it computed inside the value: replicas would differ by where it was asked.
        Replication::Read if args.len() == 2 && row.name == "pfcount" => Form::Update,
        Replication::Read => Form::Read,
        Replication::Blind => blind(row, args, now_ms),
        Replication::Update => update(row, args),
        Replication::Opaque => opaque(row, args),
        Replication::FanOut => Form::FanOut,
        Replication::Local => Form::Local,
        Replication::Refused => Form::Refused,
    }
}

#[inline]
fn blind<'a>(row: &Row, args: &Args<'a>, now_ms: u64) -> Form<'a> {
    match (row.name, args.len()) {
        ("set", 3) => match args.get(2) {
            Some(value) => Form::Blind(Blind::Set { value, expires_at_ms: None }),
            None => Form::Malformed,
        },
        ("set", _) => set_with_options(args, now_ms).unwrap_or(Form::Malformed),
        ("setex", _) => set_for(args, Clock::SECONDS_FROM_NOW, now_ms),
        ("psetex", _) => set_for(args, Clock::MS_FROM_NOW, now_ms),
        ("mset", len) => {
            if len % 2 == 1 {
                Form::Blind(Blind::SetEach)
            } else {
                Form::Malformed
            }
        }
        ("restore", _) => restore(args, now_ms).unwrap_or(Form::Malformed),
        // A verb that nobody has taught this function is no less than an update.
        _ => Form::Update,
    }
}

/// What becomes of a positive time.
enum End {
    At(u64),
    /// It has passed, or does not fit the servers' 64 bits: the update that carries it deletes the key or fails.
    Odd,
}

fn end(clock: Clock, number: i64, now_ms: u64) -> End {
    clock.absolute_ms(number, now_ms).filter(|time_ms| *time_ms > now_ms).map_or(End::Odd, End::At)
}

/// `SETEX key seconds value`.
fn set_for<'a>(args: &Args<'a>, clock: Clock, now_ms: u64) -> Form<'a> {
    let number = args.get(2).and_then(integer).filter(|number| *number > 0);
    match (number, args.get(3)) {
        (Some(number), Some(value)) => match end(clock, number, now_ms) {
            End::At(time_ms) => Form::Blind(Blind::Set { value, expires_at_ms: Some(time_ms) }),
            End::Odd => Form::Update,
        },
        _ => Form::Malformed,
    }
}

/// `SET key value …`. None where it is malformed. An option may stand twice, the last one counts.
fn set_with_options<'a>(args: &Args<'a>, now_ms: u64) -> Option<Form<'a>> {
    let value = args.get(2)?;
    let (mut time, mut nx, mut xx, mut keeps_ttl, mut gets) = (None, false, false, false, false);
    let mut at = 3;
    while let Some(word) = args.get(at) {
        if let Some(clock) = Clock::of_option(word) {
            let digits = args.get(at + 1)?;
            if keeps_ttl || time.is_some_and(|(other, _)| other != clock) {
                return None;
            }
            time = Some((clock, digits));
            at += 1;
        } else if word.eq_ignore_ascii_case(b"NX") {
            nx = true;
        } else if word.eq_ignore_ascii_case(b"XX") {
            xx = true;
        } else if word.eq_ignore_ascii_case(b"KEEPTTL") {
            keeps_ttl = true;
        } else if word.eq_ignore_ascii_case(b"GET") {
            gets = true;
        } else {
            // A comparison, or an option newer than this.
            return Some(Form::Update);
        }
        if (nx && xx) || (keeps_ttl && time.is_some()) {
            return None;
        }
        at += 1;
    }
    let time = match time {
        Some((clock, digits)) => Some((clock, integer(digits).filter(|number| *number > 0)?)),
        None => None,
    };
    if nx || xx || keeps_ttl || gets {
        return Some(Form::Update);
    }
    let expires_at_ms = match time.map(|(clock, number)| end(clock, number, now_ms)) {
        Some(End::Odd) => return Some(Form::Update),
        Some(End::At(time_ms)) => Some(time_ms),
        None => None,
    };
    Some(Form::Blind(Blind::Set { value, expires_at_ms }))
}

/// `RESTORE key ttl payload …`; without `REPLACE` it depends on whether the key is there. None where it is malformed.
fn restore<'a>(args: &Args<'a>, now_ms: u64) -> Option<Form<'a>> {
    let ttl = args.get(2).and_then(integer).filter(|ttl| *ttl >= 0)?;
    let payload = args.get(3)?;
    let (mut replaces, mut clock) = (false, Clock::MS_FROM_NOW);
    for word in args.iter().skip(4) {
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replaces = true;
        } else if word.eq_ignore_ascii_case(b"ABSTTL") {
            clock = Clock::MS;
        } else {
            // IDLETIME or FREQ: the command says it better than a payload alone.
            return Some(Form::Update);
        }
    }
    let end = (ttl > 0).then(|| end(clock, ttl, now_ms));
    Some(match end {
        _ if !replaces => Form::Update,
        Some(End::Odd) => Form::Update,
        Some(End::At(time_ms)) => Form::Blind(Blind::Restore { payload, expires_at_ms: Some(time_ms) }),
        None => Form::Blind(Blind::Restore { payload, expires_at_ms: None }),
    })
}

fn update<'a>(row: &Row, args: &Args<'_>) -> Form<'a> {
    match row.name {
        "getex" if args.len() == 2 => Form::Read,
        "hgetex" if only_fields(args) => Form::Read,
        "bitfield" if only_gets(args) => Form::Read,
        "xadd" if !names_its_id(args) => Form::Opaque,
        "xtrim" if args.is_word(3, "~") => Form::Opaque,
        _ => Form::Update,
    }
}

/// Whether `HGETEX key FIELDS count field …` is all there is.
fn only_fields(args: &Args<'_>) -> bool {
    let count = args.get(3).and_then(integer).and_then(|count| usize::try_from(count).ok());
    args.is_word(2, "FIELDS") && count.is_some_and(|count| args.len().checked_sub(4) == Some(count))
}

/// Whether `BITFIELD` has no operation but `GET`.
fn only_gets(args: &Args<'_>) -> bool {
    let mut at = 2;
    while at < args.len() {
        at += if args.is_word(at, "GET") {
            3
        } else if args.is_word(at, "OVERFLOW") {
            2
        } else {
            return false;
        };
    }
    true
}

/// Whether `XADD` gives each replica the same: an id that begins with a number (`5-*` follows from the stream alone),
/// and no trimming as it suits the store.
fn names_its_id(args: &Args<'_>) -> bool {
    let mut at = 2;
    while let Some(word) = args.get(at) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("MAXLEN") || is("MINID") {
            if args.is_word(at + 1, "~") {
                return false;
            }
            at += if args.is_word(at + 1, "=") { 3 } else { 2 };
        } else if is("LIMIT") {
            at += 2;
        } else if ["NOMKSTREAM", "KEEPREF", "DELREF", "ACKED"].into_iter().any(is) {
            at += 1;
        } else {
            return word.first().is_some_and(u8::is_ascii_digit);
        }
    }
    // No id at all: refused by the store.
    true
}

fn opaque<'a>(row: &Row, args: &Args<'_>) -> Form<'a> {
    let writes = match row.name {
        "sort" => sort_destination(args).is_some(),
        "georadius" | "georadiusbymember" => stores(row, args),
        _ => true,
    };
    if writes { Form::Opaque } else { Form::Read }
}

/// Whether an option that names a destination is among the arguments.
fn stores(row: &Row, args: &Args<'_>) -> bool {
    row.keys.iter().any(|spec| match spec.begin {
        Begin::Keyword { word, from } => {
            usize::try_from(from).is_ok_and(|from| (from..args.len()).any(|at| args.is_word(at, word)))
        }
        Begin::Index(_) | Begin::Unknown => false,
    })
}

/// One key of a request and whether the request may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRole {
    /// The argument it is; the first of them where it is named more than once.
    pub at: u32,
    /// Whether any of the places where it is named is one that is written.
    pub written: bool,
}

/// Every key of a request once, in the order of the arguments; more than eight spill to the heap.
pub type KeyRoles = SmallVec<[KeyRole; 8]>;

/// The keys of a request and which of them it may write. `out` is cleared first.
///
/// # Errors
///
/// As [`super::keys()`]; `out` is then empty.
pub fn key_roles(row: &Row, args: &Args<'_>, out: &mut KeyRoles) -> Result<(), KeyError> {
    out.clear();
    let mut indexes = KeyIndexes::new();
    let mut written: SmallVec<[bool; 16]> = SmallVec::new();
    each_key(row, args, &mut indexes, |spec| written.push(writes(row, spec.flags)))?;
    out.extend(indexes.iter().zip(written).map(|(&at, written)| KeyRole { at, written }));
    let key = |role: &KeyRole| args.get(role.at as usize);
    // By key, so that the places of one stand together; then back to the order of the request.
    out.sort_unstable_by(|one, other| key(one).cmp(&key(other)).then(one.at.cmp(&other.at)));
    out.dedup_by(|again, kept| {
        let is_same = key(again) == key(kept);
        kept.written |= is_same && again.written;
        is_same
    });
    out.sort_unstable_by_key(|role| role.at);
    Ok(())
}

/// The servers say "RO" of the keys of `XREADGROUP`, although it changes what its group knows.
fn writes(row: &Row, flags: &[&str]) -> bool {
    row.name == "xreadgroup" || !flags.contains(&"RO")
}

/// Whether every null in this request's reply is a null array (`*-1`) in RESP2, and not a null string (`$-1`): the whole
/// reply where there is no answer, and in `XREADGROUP` also what was in a deleted entry. Scripts give null strings.
pub fn null_is_array(row: &Row, args: &Args<'_>) -> bool {
    match row.name {
        "lpop" | "rpop" => args.len() > 2,
        "zrank" | "zrevrank" => args.len() > 3,
        // The blocking ones when their time is up.
        "blmove" | "blmpop" | "blpop" | "brpop" | "brpoplpush" | "bzmpop" | "bzpopmax" | "bzpopmin" | "exec"
        | "lmpop" | "xread" | "xreadgroup" | "zmpop" => true,
        _ => false,
    }
}

/// The protocol that a script is to speak with its store (`redis.setresp`) for a client of `resp`. In RESP3 Lua sees a
/// null within an array as the array's end, so verbs whose arrays may hold one speak RESP2: their replies differ in
/// nothing but the null, which the store then writes as the connection has it. `XREADGROUP` is among them for entries
/// that were deleted; it answers with an array of pairs then, where RESP3 has a map.
pub fn script_resp(row: &Row, resp: Resp) -> Resp {
    match row.name {
        // The last three give booleans, which Lua gives back as numbers: whoever asked puts them back.
        "bitfield" | "hgetdel" | "hgetex" | "xautoclaim" | "xclaim" | "xreadgroup" | "vadd" | "vrem" | "vsetattr" => {
            Resp::Two
        }
        _ => resp,
    }
}

#[cfg(test)]
mod tests;
