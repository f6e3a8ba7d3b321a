//! Verbs for keys of any type: existence, expiry, names, scans, DUMP and RESTORE.

use super::dump;
use super::glob;
use super::keyspace::scan_range;
use super::number::{parse_database, parse_integer};
use super::reply::{Failure, NO_SUCH_KEY, NOT_INTEGER, OK, Outcome, Reply, SYNTAX};
use super::store::{Args, SessionState, Store};
use super::value::COMPACT_LEN_MAX;

/// The time that an expiry option means: `EX` and `PX` from now on, `EXAT` and `PXAT` absolute.
///
/// # Errors
/// When it is no integer, not positive, or beyond the range of milliseconds.
pub(super) fn expiry_at(now_ms: u64, unit: &[u8], text: &[u8], verb: &str) -> Result<u64, Failure> {
    let number = parse_integer(text)?;
    let invalid = || Failure::owned(format!("ERR invalid expire time in '{verb}' command"));
    if number <= 0 {
        return Err(invalid());
    }
    u64::try_from(when(now_ms, unit, number).ok_or_else(invalid)?).map_err(|_| invalid())
}

fn when(now_ms: u64, unit: &[u8], number: i64) -> Option<i64> {
    let unit = unit.to_ascii_uppercase();
    let milliseconds = if unit.first() == Some(&b'P') { number } else { number.checked_mul(1000)? };
    let base_ms = if unit.ends_with(b"AT") { 0 } else { i64::try_from(now_ms).ok()? };
    milliseconds.checked_add(base_ms)
}

pub(super) fn del(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(args.from(1).iter().filter(|key| store.keyspace.remove(key).is_some()).count()))
}

pub(super) fn exists(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(args.from(1).iter().filter(|key| store.keyspace.contains(key)).count()))
}

pub(super) fn type_of(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let name = store.keyspace.entry(args.at(1)).map_or("none", |entry| entry.value.type_name());
    Ok(Reply::Status(name.as_bytes().into()))
}

pub(super) fn rename(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let entry = store.keyspace.remove(args.at(1)).ok_or(NO_SUCH_KEY)?;
    store.keyspace.put(args.at(2), entry.value, entry.expires_at_ms);
    Ok(OK)
}

pub(super) fn renamenx(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    if !store.keyspace.contains(args.at(1)) {
        return Err(NO_SUCH_KEY);
    }
    if store.keyspace.contains(args.at(2)) {
        return Ok(Reply::Integer(0));
    }
    rename(store, session, args).map(|_| Reply::Integer(1))
}

pub(super) fn copy(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (mut replace, mut words) = (false, args.from(3).iter());
    while let Some(word) = words.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"REPLACE" => replace = true,
            b"DB" => parse_database(words.next().ok_or(SYNTAX)?)?,
            _ => return Err(SYNTAX),
        }
    }
    if args.at(1) == args.at(2) {
        return Err(Failure::fixed("ERR source and destination objects are the same"));
    }
    let Some(entry) = store.keyspace.entry(args.at(1)).cloned() else { return Ok(Reply::Integer(0)) };
    if !replace && store.keyspace.contains(args.at(2)) {
        return Ok(Reply::Integer(0));
    }
    store.keyspace.put(args.at(2), entry.value, entry.expires_at_ms);
    Ok(Reply::Integer(1))
}

pub(super) fn expire(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expire_key(store, args, b"EX", "expire")
}

pub(super) fn pexpire(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expire_key(store, args, b"PX", "pexpire")
}

pub(super) fn expireat(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expire_key(store, args, b"EXAT", "expireat")
}

pub(super) fn pexpireat(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expire_key(store, args, b"PXAT", "pexpireat")
}

/// When EXPIRE may change what is there.
#[expect(clippy::struct_excessive_bools, reason = "one for each option word; most combinations are allowed")]
#[derive(Default)]
struct ExpireConditions {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_sooner: bool,
}

impl ExpireConditions {
    fn parse(words: &[&[u8]]) -> Result<Self, Failure> {
        let mut conditions = Self::default();
        for word in words {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => conditions.if_none = true,
                b"XX" => conditions.if_some = true,
                b"GT" => conditions.if_later = true,
                b"LT" => conditions.if_sooner = true,
                _ => return Err(Failure::owned([b"ERR Unsupported option ", *word].concat())),
            }
        }
        if conditions.if_none && (conditions.if_some || conditions.if_later || conditions.if_sooner) {
            return Err(Failure::fixed("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if conditions.if_later && conditions.if_sooner {
            return Err(Failure::fixed("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// A key that never expires counts as later than any.
    fn allow(&self, current: Option<u64>, wanted: u64) -> bool {
        !(self.if_none && current.is_some()
            || self.if_some && current.is_none()
            || self.if_later && current.is_none_or(|at| wanted <= at)
            || self.if_sooner && current.is_some_and(|at| wanted >= at))
    }
}

fn expire_key(store: &mut Store, args: Args<'_>, unit: &[u8], verb: &str) -> Outcome {
    let conditions = ExpireConditions::parse(args.from(3))?;
    let now_ms = store.keyspace.now_ms;
    let at = when(now_ms, unit, parse_integer(args.at(2))?)
        .ok_or_else(|| Failure::owned(format!("ERR invalid expire time in '{verb}' command")))?;
    let at = u64::try_from(at).unwrap_or(0);
    let Some(entry) = store.keyspace.entry(args.at(1)) else { return Ok(Reply::Integer(0)) };
    if !conditions.allow(entry.expires_at_ms, at) {
        return Ok(Reply::Integer(0));
    }
    if at <= now_ms {
        store.keyspace.remove(args.at(1));
    } else {
        store.keyspace.set_expiry(args.at(1), Some(at));
    }
    Ok(Reply::Integer(1))
}

pub(super) fn persist(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let expires = store.keyspace.entry(args.at(1)).is_some_and(|entry| entry.expires_at_ms.is_some());
    Ok(Reply::flag(expires && store.keyspace.set_expiry(args.at(1), None)))
}

/// The four verbs that tell an expiry: from the absolute time in milliseconds by `view`.
fn expiry_view(store: &mut Store, args: Args<'_>, view: impl FnOnce(u64, u64) -> u64) -> Outcome {
    let now_ms = store.keyspace.now_ms;
    Ok(Reply::Integer(match store.keyspace.entry(args.at(1)).map(|entry| entry.expires_at_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => i64::try_from(view(at, now_ms)).unwrap_or(i64::MAX),
    }))
}

pub(super) fn ttl(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expiry_view(store, args, |at, now| (at - now + 500) / 1000)
}

pub(super) fn pttl(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expiry_view(store, args, |at, now| at - now)
}

pub(super) fn expiretime(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expiry_view(store, args, |at, _| at.saturating_add(500) / 1000)
}

pub(super) fn pexpiretime(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    expiry_view(store, args, |at, _| at)
}

pub(super) fn keys(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let matching = store.keyspace.keys().map(|(key, _)| key).filter(|key| glob::matches(args.at(1), key));
    Ok(Reply::bulks(matching))
}

pub(super) fn randomkey(store: &mut Store, _: &mut SessionState, _: Args<'_>) -> Outcome {
    /// Most tries land on a live key; a store full of expired ones is cleaned by sampling, not here.
    const TRIES: usize = 100;
    let len = store.keyspace.len();
    for _ in 0..TRIES.min(len) {
        let place = store.random.usize(..len);
        if let Some(key) = store.keyspace.key_at(place) {
            return Ok(Reply::bulk(key));
        }
    }
    Ok(Reply::Null)
}

pub(super) fn dbsize(store: &mut Store, _: &mut SessionState, _: Args<'_>) -> Outcome {
    Ok(Reply::count(store.keyspace.len()))
}

pub(super) fn flush(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    if args.len() > 2 || args.len() == 2 && !args.is(1, "SYNC") && !args.is(1, "ASYNC") {
        return Err(SYNTAX);
    }
    store.keyspace.clear();
    Ok(OK)
}

/// The words after a SCAN verb's cursor.
pub(super) struct ScanOptions<'a> {
    pub(super) cursor: u64,
    count: usize,
    pattern: Option<&'a [u8]>,
    type_name: Option<Vec<u8>>,
}

impl<'a> ScanOptions<'a> {
    /// Reads the cursor, which is the word at `place`, and what follows it.
    pub(super) fn parse(args: Args<'a>, place: usize) -> Result<Self, Failure> {
        let cursor = scan_cursor(args.at(place))?;
        let mut options = Self { cursor, count: 10, pattern: None, type_name: None };
        let (pairs, odd) = args.from(place + 1).as_chunks::<2>();
        for &[name, value] in pairs {
            match name.to_ascii_uppercase().as_slice() {
                b"COUNT" => {
                    let count = parse_integer(value)?;
                    options.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
                }
                b"MATCH" => options.pattern = Some(value),
                b"TYPE" if place == 1 => options.type_name = Some(value.to_ascii_lowercase()),
                _ => return Err(SYNTAX),
            }
        }
        if odd.is_empty() { Ok(options) } else { Err(SYNTAX) }
    }

    /// The next cursor and the places this step visits: all of a compact collection whatever the cursor, as in
    /// Redis.
    pub(super) fn step(&self, len: usize) -> (u64, std::ops::Range<usize>) {
        if len <= COMPACT_LEN_MAX { (0, 0..len) } else { scan_range(self.cursor, self.count, len) }
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

/// The number of a cursor. `strtoul`, which Redis uses, takes an empty word for 0 and negative ones for large ones.
pub(super) fn scan_cursor(word: &[u8]) -> Result<u64, Failure> {
    let text = str::from_utf8(word).unwrap_or("?");
    let negative = || text.parse::<i64>().map(i64::cast_unsigned);
    let cursor = if text.is_empty() { Some(0) } else { text.parse().or_else(|_| negative()).ok() };
    cursor.ok_or(Failure::fixed("ERR invalid cursor"))
}

pub(super) fn scan_reply(next: u64, items: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::Bulk(next.to_string().into_bytes()), Reply::Array(items)])
}

pub(super) fn scan(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let options = ScanOptions::parse(args, 1)?;
    let (next, step) = store.keyspace.scan(options.cursor, options.count);
    let wanted = options.type_name.as_deref();
    let matching = step
        .filter(|(_, entry)| wanted.is_none_or(|name| name == entry.value.type_name().as_bytes()))
        .filter(|(key, _)| options.matches(key));
    Ok(scan_reply(next, matching.map(|(key, _)| Reply::bulk(key)).collect()))
}

pub(super) fn dump(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let payload = store.keyspace.entry(args.at(1)).map(|entry| dump::dump(&entry.value));
    Ok(payload.map_or(Reply::Null, Reply::Bulk))
}

pub(super) fn restore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (key, mut replace, mut absolute) = (args.at(1), false, false);
    let mut words = args.from(4).iter();
    while let Some(word) = words.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"REPLACE" => replace = true,
            b"ABSTTL" => absolute = true,
            // This store evicts nothing, so it keeps no idle time or frequency; they are checked and dropped.
            b"IDLETIME" | b"FREQ" => {
                parse_integer(words.next().ok_or(SYNTAX)?)?;
            }
            _ => return Err(SYNTAX),
        }
    }
    if !replace && store.keyspace.contains(key) {
        return Err(Failure::fixed("BUSYKEY Target key name already exists."));
    }
    let number =
        u64::try_from(parse_integer(args.at(2))?).map_err(|_| Failure::fixed("ERR Invalid TTL value, must be >= 0"))?;
    let value = dump::restore(args.at(3))?;
    let now_ms = store.keyspace.now_ms;
    store.keyspace.remove(key);
    match number {
        0 => store.keyspace.put(key, value, None),
        at if absolute && at <= now_ms => {}
        at if absolute => store.keyspace.put(key, value, Some(at)),
        span => {
            let at = now_ms.checked_add(span).ok_or(NOT_INTEGER)?;
            store.keyspace.put(key, value, Some(at));
        }
    }
    Ok(OK)
}
