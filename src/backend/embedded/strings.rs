//! String verbs.

use super::keys::expiry_at;
use super::number::{add_decimals, index_range, parse_double, parse_integer};
use super::reply::{Failure, OK, Outcome, Reply, SYNTAX};
use super::store::{Args, OUT_OF_MEMORY, SessionState, Store, wrong_number_of_arguments};
use super::value::Value;

/// The longest string Redis keeps (`proto-max-bulk-len`).
const STRING_BYTES_MAX: usize = 512 << 20;
const TOO_LONG: Failure = Failure::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
const OVERFLOW: Failure = Failure::fixed("ERR increment or decrement would overflow");

impl Store {
    fn string(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Failure> {
        Ok(self.keyspace.read::<Vec<u8>>(key)?.map(Vec::as_slice))
    }

    fn put_string(&mut self, key: &[u8], value: &[u8], expires_at_ms: Option<u64>) {
        self.keyspace.put(key, Value::String(value.to_vec()), expires_at_ms);
    }
}

pub(super) fn get(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::bulk_or_null(store.string(args.at(1))?))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    IfMissing,
    IfPresent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry<'a> {
    Keep,
    Never,
    At { unit: &'a [u8], text: &'a [u8] },
}

impl Expiry<'_> {
    /// The time meant, given the one in force. The number is judged only now: a syntax error wins, as in Redis.
    fn resolve(self, now_ms: u64, current: Option<u64>, verb: &str) -> Result<Option<u64>, Failure> {
        match self {
            Self::Keep => Ok(current),
            Self::Never => Ok(None),
            Self::At { unit, text } => expiry_at(now_ms, unit, text, verb).map(Some),
        }
    }
}

pub(super) fn set(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (key, value) = (args.at(1), args.at(2));
    let (mut expiry, mut only, mut wants_old) = (None, None, false);
    let mut words = args.from(3).iter();
    while let Some(&word) = words.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"NX" if only != Some(Only::IfPresent) => only = Some(Only::IfMissing),
            b"XX" if only != Some(Only::IfMissing) => only = Some(Only::IfPresent),
            b"GET" => wants_old = true,
            b"KEEPTTL" if expiry.is_none_or(|expiry| expiry == Expiry::Keep) => expiry = Some(Expiry::Keep),
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if expiry.is_none() => {
                expiry = Some(Expiry::At { unit: word, text: words.next().ok_or(SYNTAX)? });
            }
            _ => return Err(SYNTAX),
        }
    }
    let current = store.keyspace.entry(key).map(|entry| entry.expires_at_ms);
    let expires_at_ms = expiry.unwrap_or(Expiry::Never).resolve(store.keyspace.now_ms, current.flatten(), "set")?;
    let old = if wants_old { Some(Reply::bulk_or_null(store.string(key)?)) } else { None };
    let refused = match only {
        Some(Only::IfMissing) => current.is_some(),
        Some(Only::IfPresent) => current.is_none(),
        None => false,
    };
    if refused {
        return Ok(old.unwrap_or(Reply::Null));
    }
    store.put_string(key, value, expires_at_ms);
    Ok(old.unwrap_or(OK))
}

pub(super) fn setnx(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    if store.keyspace.contains(args.at(1)) {
        return Ok(Reply::Integer(0));
    }
    store.put_string(args.at(1), args.at(2), None);
    Ok(Reply::Integer(1))
}

pub(super) fn setex(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let at = expiry_at(store.keyspace.now_ms, b"EX", args.at(2), "setex")?;
    store.put_string(args.at(1), args.at(3), Some(at));
    Ok(OK)
}

pub(super) fn psetex(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let at = expiry_at(store.keyspace.now_ms, b"PX", args.at(2), "psetex")?;
    store.put_string(args.at(1), args.at(3), Some(at));
    Ok(OK)
}

pub(super) fn getset(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let old = Reply::bulk_or_null(store.string(args.at(1))?);
    store.put_string(args.at(1), args.at(2), None);
    Ok(old)
}

pub(super) fn getdel(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let old = Reply::bulk_or_null(store.string(args.at(1))?);
    store.keyspace.remove(args.at(1));
    Ok(old)
}

pub(super) fn getex(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let key = args.at(1);
    let expiry = match args.from(2) {
        [] => Expiry::Keep,
        [word] if word.eq_ignore_ascii_case(b"PERSIST") => Expiry::Never,
        [unit, text] if [&b"EX"[..], b"PX", b"EXAT", b"PXAT"].iter().any(|known| unit.eq_ignore_ascii_case(known)) => {
            Expiry::At { unit, text }
        }
        _ => return Err(SYNTAX),
    };
    let Some(value) = store.string(key)? else { return Ok(Reply::Null) };
    let value = Reply::bulk(value);
    if expiry != Expiry::Keep {
        let expires_at_ms = expiry.resolve(store.keyspace.now_ms, None, "getex")?;
        if expires_at_ms.is_some_and(|at| at <= store.keyspace.now_ms) {
            store.keyspace.remove(key);
        } else {
            store.keyspace.set_expiry(key, expires_at_ms);
        }
    }
    Ok(value)
}

pub(super) fn mget(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let values = args.from(1).iter().map(|key| Reply::bulk_or_null(store.string(key).unwrap_or(None)));
    Ok(Reply::Array(values.collect()))
}

pub(super) fn mset(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (pairs, rest) = args.from(1).as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong_number_of_arguments("mset"));
    }
    for [key, value] in pairs {
        store.put_string(key, value, None);
    }
    Ok(OK)
}

pub(super) fn msetnx(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (pairs, rest) = args.from(1).as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong_number_of_arguments("msetnx"));
    }
    if pairs.iter().any(|[key, _]| store.keyspace.contains(key)) {
        return Ok(Reply::Integer(0));
    }
    for [key, value] in pairs {
        store.put_string(key, value, None);
    }
    Ok(Reply::Integer(1))
}

pub(super) fn append(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    store.keyspace.edit(args.at(1), |text: &mut Vec<u8>| {
        if text.len() + args.at(2).len() > STRING_BYTES_MAX {
            return Err(TOO_LONG);
        }
        text.extend_from_slice(args.at(2));
        Ok(Reply::count(text.len()))
    })
}

pub(super) fn strlen(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(store.string(args.at(1))?.map_or(0, <[u8]>::len)))
}

pub(super) fn getrange(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (start, end) = (parse_integer(args.at(2))?, parse_integer(args.at(3))?);
    let text = store.string(args.at(1))?.unwrap_or_default();
    let inverted = start < 0 && end < 0 && start > end;
    // Unlike a list's, an end before the first byte means the first byte.
    let len = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let end = if end < 0 { end.saturating_add(len).max(0) } else { end };
    let part = index_range(start, end, text.len()).filter(|_| !inverted).and_then(|range| text.get(range));
    Ok(Reply::bulk(part.unwrap_or_default()))
}

pub(super) fn setrange(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let offset =
        usize::try_from(parse_integer(args.at(2))?).map_err(|_| Failure::fixed("ERR offset is out of range"))?;
    let patch = args.at(3);
    if patch.is_empty() {
        return strlen(store, &mut SessionState::new(0), args);
    }
    let end = offset.saturating_add(patch.len());
    // A few bytes far out would take all memory at once, before the next command meets the cap.
    if end <= STRING_BYTES_MAX && end > store.memory_bytes_max {
        return Err(OUT_OF_MEMORY);
    }
    store.keyspace.edit(args.at(1), |text: &mut Vec<u8>| {
        if end > STRING_BYTES_MAX {
            return Err(TOO_LONG);
        }
        if text.len() < end {
            text.resize(end, 0);
        }
        text.splice(offset..end, patch.iter().copied());
        Ok(Reply::count(text.len()))
    })
}

fn increment(store: &mut Store, key: &[u8], by: i64) -> Outcome {
    let current = store.string(key)?.map_or(Ok(0), parse_integer)?;
    let sum = current.checked_add(by).ok_or(OVERFLOW)?;
    replace_string(store, key, sum.to_string().into_bytes())?;
    Ok(Reply::Integer(sum))
}

/// Changes the text of a key and nothing else: its expiry stays.
fn replace_string(store: &mut Store, key: &[u8], value: Vec<u8>) -> Result<(), Failure> {
    store.keyspace.edit(key, |text: &mut Vec<u8>| {
        *text = value;
        Ok(())
    })
}

pub(super) fn incr(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    increment(store, args.at(1), 1)
}

pub(super) fn decr(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    increment(store, args.at(1), -1)
}

pub(super) fn incrby(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    increment(store, args.at(1), parse_integer(args.at(2))?)
}

pub(super) fn decrby(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let by = parse_integer(args.at(2))?;
    increment(store, args.at(1), by.checked_neg().ok_or(Failure::fixed("ERR decrement would overflow"))?)
}

pub(super) fn incrbyfloat(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let current = store.string(args.at(1))?.unwrap_or(b"0").to_vec();
    parse_double(&current)?;
    let sum = add_decimals(&current, args.at(2))?;
    replace_string(store, args.at(1), sum.clone())?;
    Ok(Reply::Bulk(sum))
}
