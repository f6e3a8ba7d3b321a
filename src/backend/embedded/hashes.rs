//! Hash verbs.

use super::keys::{ScanOptions, scan_cursor, scan_reply};
use super::number::{add_decimals, parse_double, parse_integer};
use super::reply::{Failure, OK, Outcome, Reply};
use super::store::{Args, SessionState, Store, wrong_number_of_arguments};
use super::value::Hash;

impl Store {
    fn hash(&mut self, key: &[u8]) -> Result<Option<&Hash>, Failure> {
        self.keyspace.read(key)
    }
}

pub(super) fn hset(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(set_pairs(store, args, "hset")?))
}

pub(super) fn hmset(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    set_pairs(store, args, "hmset")?;
    Ok(OK)
}

fn set_pairs(store: &mut Store, args: Args<'_>, verb: &str) -> Result<usize, Failure> {
    let (pairs, rest) = args.from(2).as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong_number_of_arguments(verb));
    }
    store.keyspace.edit(args.at(1), |hash: &mut Hash| {
        Ok(pairs.iter().filter(|[field, value]| hash.insert(field, value.to_vec())).count())
    })
}

pub(super) fn hsetnx(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    if store.hash(args.at(1))?.is_some_and(|hash| hash.get(args.at(2)).is_some()) {
        return Ok(Reply::Integer(0));
    }
    store.keyspace.edit(args.at(1), |hash: &mut Hash| Ok(Reply::flag(hash.insert(args.at(2), args.at(3).to_vec()))))
}

pub(super) fn hget(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let hash = store.hash(args.at(1))?;
    Ok(Reply::bulk_or_null(hash.and_then(|hash| hash.get(args.at(2)))))
}

pub(super) fn hmget(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let hash = store.hash(args.at(1))?;
    let values = args.from(2).iter().map(|field| Reply::bulk_or_null(hash.and_then(|hash| hash.get(field))));
    Ok(Reply::Array(values.collect()))
}

pub(super) fn hgetall(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let fields = store.hash(args.at(1))?.into_iter().flat_map(|hash| hash.fields().iter());
    Ok(Reply::Map(fields.map(|(field, value)| (Reply::bulk(field), Reply::bulk(value))).collect()))
}

pub(super) fn hkeys(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let fields = store.hash(args.at(1))?.into_iter().flat_map(|hash| hash.fields().keys());
    Ok(Reply::bulks(fields.map(Vec::as_slice)))
}

pub(super) fn hvals(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let values = store.hash(args.at(1))?.into_iter().flat_map(|hash| hash.fields().values());
    Ok(Reply::bulks(values.map(Vec::as_slice)))
}

pub(super) fn hlen(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(store.hash(args.at(1))?.map_or(0, |hash| hash.fields().len())))
}

pub(super) fn hexists(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::flag(store.hash(args.at(1))?.is_some_and(|hash| hash.get(args.at(2)).is_some())))
}

pub(super) fn hstrlen(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let value = store.hash(args.at(1))?.and_then(|hash| hash.get(args.at(2)));
    Ok(Reply::count(value.map_or(0, <[u8]>::len)))
}

pub(super) fn hdel(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let removed = store.keyspace.edit_existing(args.at(1), |hash: &mut Hash| {
        Ok(args.from(2).iter().filter(|field| hash.remove(field)).count())
    })?;
    Ok(Reply::count(removed.unwrap_or(0)))
}

pub(super) fn hincrby(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (field, by) = (args.at(2), parse_integer(args.at(3))?);
    store.keyspace.edit(args.at(1), |hash: &mut Hash| {
        let current = hash.get(field).map_or(Ok(0), parse_integer);
        let current = current.map_err(|_| Failure::fixed("ERR hash value is not an integer"))?;
        let sum = current.checked_add(by).ok_or(Failure::fixed("ERR increment or decrement would overflow"))?;
        hash.insert(field, sum.to_string().into_bytes());
        Ok(Reply::Integer(sum))
    })
}

pub(super) fn hincrbyfloat(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let field = args.at(2);
    parse_double(args.at(3))?;
    store.keyspace.edit(args.at(1), |hash: &mut Hash| {
        let current = hash.get(field).unwrap_or(b"0");
        parse_double(current).map_err(|_| Failure::fixed("ERR hash value is not a float"))?;
        let sum = add_decimals(current, args.at(3))?;
        hash.insert(field, sum.clone());
        Ok(Reply::Bulk(sum))
    })
}

pub(super) fn hscan(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    // As in Redis: a bad cursor wins over the key's type, and that over bad options.
    scan_cursor(args.at(2))?;
    let Some(hash) = store.hash(args.at(1))? else { return Ok(scan_reply(0, Vec::new())) };
    let options = ScanOptions::parse(args, 2)?;
    let len = hash.fields().len();
    let (next, range) = options.step(len);
    let step = hash.fields().get_range(range).into_iter().flat_map(|slice| slice.iter());
    let matching = step.filter(|(field, _)| options.matches(field));
    Ok(scan_reply(next, matching.flat_map(|(field, value)| [Reply::bulk(field), Reply::bulk(value)]).collect()))
}
