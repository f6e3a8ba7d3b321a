//! List verbs.

use super::number::{index_at, index_range, parse_integer};
use super::reply::{Failure, NO_SUCH_KEY, OK, OUT_OF_RANGE, Outcome, Reply, SYNTAX};
use super::store::{Args, SessionState, Store};
use super::value::{End, List};

impl Store {
    fn list(&mut self, key: &[u8]) -> Result<Option<&List>, Failure> {
        self.keyspace.read(key)
    }
}

pub(super) fn lpush(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    push(store, args, End::Left)
}

pub(super) fn rpush(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    push(store, args, End::Right)
}

pub(super) fn lpushx(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    push_existing(store, args, End::Left)
}

pub(super) fn rpushx(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    push_existing(store, args, End::Right)
}

fn push(store: &mut Store, args: Args<'_>, end: End) -> Outcome {
    store.keyspace.edit(args.at(1), |list: &mut List| {
        for item in args.from(2) {
            list.push(end, item.to_vec());
        }
        Ok(Reply::count(list.items().len()))
    })
}

fn push_existing(store: &mut Store, args: Args<'_>, end: End) -> Outcome {
    if store.list(args.at(1))?.is_some() { push(store, args, end) } else { Ok(Reply::Integer(0)) }
}

pub(super) fn lpop(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    pop(store, args, End::Left)
}

pub(super) fn rpop(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    pop(store, args, End::Right)
}

fn pop(store: &mut Store, args: Args<'_>, end: End) -> Outcome {
    let count = match args.from(2) {
        [] => None,
        [text] => {
            let count = parse_integer(text).ok().and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Failure::fixed("ERR value is out of range, must be positive"))?)
        }
        _ => {
            let verb = if end == End::Left { "lpop" } else { "rpop" };
            return Err(super::store::wrong_number_of_arguments(verb));
        }
    };
    let popped = store.keyspace.edit_existing(args.at(1), |list: &mut List| {
        let wanted = count.unwrap_or(1).min(list.items().len());
        Ok((0..wanted).filter_map(|_| list.pop(end)).map(Reply::Bulk).collect::<Vec<_>>())
    })?;
    Ok(match (popped, count) {
        (None, None) => Reply::Null,
        (None, Some(_)) => Reply::NullArray,
        (Some(items), Some(_)) => Reply::Array(items),
        (Some(mut items), None) => items.pop().unwrap_or(Reply::Null),
    })
}

pub(super) fn llen(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(store.list(args.at(1))?.map_or(0, |list| list.items().len())))
}

pub(super) fn lrange(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (start, stop) = (parse_integer(args.at(2))?, parse_integer(args.at(3))?);
    let Some(list) = store.list(args.at(1))? else { return Ok(Reply::Array(Vec::new())) };
    let range = index_range(start, stop, list.items().len()).unwrap_or(0..0);
    Ok(Reply::bulks(list.items().range(range).map(Vec::as_slice)))
}

pub(super) fn lindex(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let Some(list) = store.list(args.at(1))? else { return Ok(Reply::Null) };
    let place = index_at(parse_integer(args.at(2))?, list.items().len());
    Ok(Reply::bulk_or_null(place.and_then(|place| list.items().get(place)).map(Vec::as_slice)))
}

pub(super) fn lset(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let changed = store.keyspace.edit_existing(args.at(1), |list: &mut List| {
        let index = parse_integer(args.at(2))?;
        list.rewrite(|items| {
            let place = index_at(index, items.len()).ok_or(OUT_OF_RANGE)?;
            *items.get_mut(place).ok_or(OUT_OF_RANGE)? = args.at(3).to_vec();
            Ok(OK)
        })
    })?;
    changed.ok_or(NO_SUCH_KEY)
}

pub(super) fn linsert(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let after = match args.at(2).to_ascii_uppercase().as_slice() {
        b"BEFORE" => 0,
        b"AFTER" => 1,
        _ => return Err(SYNTAX),
    };
    let inserted = store.keyspace.edit_existing(args.at(1), |list: &mut List| {
        Ok(list.rewrite(|items| {
            let Some(place) = items.iter().position(|item| item == args.at(3)) else { return Reply::Integer(-1) };
            items.insert(place + after, args.at(4).to_vec());
            Reply::count(items.len())
        }))
    })?;
    Ok(inserted.unwrap_or(Reply::Integer(0)))
}

pub(super) fn lrem(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let count = parse_integer(args.at(2))?;
    let mut left = if count == 0 { u64::MAX } else { count.unsigned_abs() };
    let removed = store.keyspace.edit_existing(args.at(1), |list: &mut List| {
        let mut keep = |item: &Vec<u8>| {
            let hit = left > 0 && item == args.at(3);
            left -= u64::from(hit);
            !hit
        };
        Ok(list.rewrite(|items| {
            let before = items.len();
            if count < 0 {
                let mut kept: std::collections::VecDeque<_> = items.drain(..).rev().filter(keep).collect();
                kept.make_contiguous().reverse();
                *items = kept;
            } else {
                items.retain(&mut keep);
            }
            before - items.len()
        }))
    })?;
    Ok(Reply::count(removed.unwrap_or(0)))
}

pub(super) fn ltrim(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (start, stop) = (parse_integer(args.at(2))?, parse_integer(args.at(3))?);
    store.keyspace.edit_existing(args.at(1), |list: &mut List| {
        list.rewrite(|items| {
            let range = index_range(start, stop, items.len()).unwrap_or(0..0);
            items.truncate(range.end);
            items.drain(..range.start);
        });
        Ok(())
    })?;
    Ok(OK)
}

pub(super) fn rpoplpush(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    move_item(store, args, End::Right, End::Left)
}

pub(super) fn lmove(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let end = |place: usize| match args.at(place).to_ascii_uppercase().as_slice() {
        b"LEFT" => Ok(End::Left),
        b"RIGHT" => Ok(End::Right),
        _ => Err(SYNTAX),
    };
    move_item(store, args, end(3)?, end(4)?)
}

fn move_item(store: &mut Store, args: Args<'_>, from: End, to: End) -> Outcome {
    let (source, target) = (args.at(1), args.at(2));
    if store.list(source)?.is_none() {
        return Ok(Reply::Null);
    }
    store.list(target)?;
    let popped = store.keyspace.edit_existing(source, |list: &mut List| Ok(list.pop(from)))?.flatten();
    let Some(item) = popped else { return Ok(Reply::Null) };
    store.keyspace.edit(target, |list: &mut List| {
        list.push(to, item.clone());
        Ok(())
    })?;
    Ok(Reply::Bulk(item))
}

struct Search {
    rank: i64,
    count: Option<usize>,
    len_max: usize,
}

fn search_options(args: Args<'_>) -> Result<Search, Failure> {
    let mut search = Search { rank: 1, count: None, len_max: usize::MAX };
    let (options, rest) = args.from(3).as_chunks::<2>();
    for [name, text] in options {
        let positive = |failure| {
            let number = parse_integer(text).ok();
            number.and_then(|number| usize::try_from(number).ok()).ok_or(failure)
        };
        match name.to_ascii_uppercase().as_slice() {
            b"RANK" => search.rank = parse_integer(text)?,
            b"COUNT" => search.count = Some(positive(Failure::fixed("ERR COUNT can't be negative"))?),
            b"MAXLEN" => {
                let len = positive(Failure::fixed("ERR MAXLEN can't be negative"))?;
                search.len_max = if len == 0 { usize::MAX } else { len };
            }
            _ => return Err(SYNTAX),
        }
        if search.rank == 0 {
            return Err(Failure::fixed(
                "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative \
                 to start from the end of the list",
            ));
        }
    }
    if rest.is_empty() { Ok(search) } else { Err(SYNTAX) }
}

pub(super) fn lpos(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let Search { rank, count, len_max } = search_options(args)?;
    let nothing = if count.is_some() { Reply::Array(Vec::new()) } else { Reply::Null };
    let Some(list) = store.list(args.at(1))? else { return Ok(nothing) };
    let hit = |(place, item): (usize, &Vec<u8>)| (item == args.at(2)).then_some(Reply::count(place));
    let skip = usize::try_from(rank.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let take = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let places = list.items().iter().enumerate();
    let mut hits: Vec<Reply> = if rank > 0 {
        places.take(len_max).filter_map(hit).skip(skip).take(take).collect()
    } else {
        places.rev().take(len_max).filter_map(hit).skip(skip).take(take).collect()
    };
    Ok(if count.is_some() { Reply::Array(hits) } else { hits.pop().unwrap_or(nothing) })
}
