//! Set verbs.

use indexmap::IndexSet;

use super::keys::{ScanOptions, scan_cursor, scan_reply};
use super::number::parse_integer;
use super::reply::{Failure, Outcome, Reply, SYNTAX};
use super::store::{Args, SessionState, Store};
use super::value::{Kind as _, Set};

impl Store {
    fn set(&mut self, key: &[u8]) -> Result<Option<&Set>, Failure> {
        self.keyspace.read(key)
    }

    fn has_member(&mut self, key: &[u8], member: &[u8]) -> Result<bool, Failure> {
        Ok(self.set(key)?.is_some_and(|set| set.members().contains(member)))
    }
}

pub(super) fn sadd(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    store.keyspace.edit(args.at(1), |set: &mut Set| {
        Ok(Reply::count(args.from(2).iter().filter(|member| set.insert(member)).count()))
    })
}

pub(super) fn srem(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let removed = store.keyspace.edit_existing(args.at(1), |set: &mut Set| {
        Ok(args.from(2).iter().filter(|member| set.remove(member)).count())
    })?;
    Ok(Reply::count(removed.unwrap_or(0)))
}

pub(super) fn smembers(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let members = store.set(args.at(1))?.map(Set::listed).unwrap_or_default();
    Ok(Reply::Set(members.into_iter().map(Reply::bulk).collect()))
}

pub(super) fn sismember(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::flag(store.has_member(args.at(1), args.at(2))?))
}

pub(super) fn smismember(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let flags = args.from(2).iter().map(|member| store.has_member(args.at(1), member).map(Reply::flag));
    Ok(Reply::Array(flags.collect::<Result<_, _>>()?))
}

pub(super) fn scard(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(store.set(args.at(1))?.map_or(0, |set| set.members().len())))
}

pub(super) fn smove(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (source, target, member) = (args.at(1), args.at(2), args.at(3));
    if store.set(source)?.is_none() {
        return Ok(Reply::Integer(0));
    }
    store.set(target)?;
    if !store.has_member(source, member)? {
        return Ok(Reply::Integer(0));
    }
    if source != target {
        store.keyspace.edit_existing(source, |set: &mut Set| Ok(set.remove(member)))?;
        store.keyspace.edit(target, |set: &mut Set| Ok(set.insert(member)))?;
    }
    Ok(Reply::Integer(1))
}

pub(super) fn spop(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let count = match args.from(2) {
        [] => None,
        [text] => {
            let count = parse_integer(text).ok().and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Failure::fixed("ERR value is out of range, must be positive"))?)
        }
        _ => return Err(SYNTAX),
    };
    let random = &mut store.random;
    let popped = store.keyspace.edit_existing(args.at(1), |set: &mut Set| {
        let wanted = count.unwrap_or(1).min(set.members().len());
        let mut take = |set: &mut Set| {
            let place = random.usize(..set.members().len());
            set.remove_at(place)
        };
        Ok((0..wanted).filter_map(|_| take(set)).map(Reply::Bulk).collect::<Vec<_>>())
    })?;
    Ok(match count {
        Some(_) => Reply::Set(popped.unwrap_or_default()),
        None => popped.and_then(|mut members| members.pop()).unwrap_or(Reply::Null),
    })
}

pub(super) fn srandmember(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    /// A negative count may repeat members; without a bound a client could ask for all memory there is.
    const REPEATS_MAX: usize = 1 << 20;
    let count = match args.from(2) {
        [] => None,
        [text] => Some(parse_integer(text)?),
        _ => return Err(SYNTAX),
    };
    let nothing = if count.is_some() { Reply::Array(Vec::new()) } else { Reply::Null };
    let Some(set) = self::Store::set(store, args.at(1))? else { return Ok(nothing) };
    let members: Vec<Vec<u8>> = set.members().iter().cloned().collect();
    let random = &mut store.random;
    let Some(count) = count else { return Ok(random.choice(&members).map_or(Reply::Null, |one| Reply::bulk(one))) };
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let chosen: Vec<Reply> = if count < 0 {
        (0..wanted.min(REPEATS_MAX)).filter_map(|_| random.choice(&members)).map(|one| Reply::bulk(one)).collect()
    } else {
        random.choose_multiple(members.iter(), wanted.min(members.len())).into_iter().map(|m| Reply::bulk(m)).collect()
    };
    Ok(Reply::Array(chosen))
}

/// What SINTER, SUNION and SDIFF do with the sets of their keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Algebra {
    Intersect,
    Unite,
    Subtract,
}

impl Algebra {
    fn combine(self, store: &mut Store, keys: &[&[u8]]) -> Result<Set, Failure> {
        let mut sets = Vec::with_capacity(keys.len());
        for key in keys {
            sets.push(store.set(key)?.map(|set| set.members().clone()).unwrap_or_default());
        }
        let mut sets = sets.into_iter();
        let first: IndexSet<Vec<u8>> = sets.next().unwrap_or_default();
        let members = sets.fold(first, |mut members, other| {
            match self {
                Self::Intersect => members.retain(|member| other.contains(member)),
                Self::Subtract => members.retain(|member| !other.contains(member)),
                Self::Unite => members.extend(other),
            }
            members
        });
        let mut result = Set::default();
        for member in &members {
            result.insert(member);
        }
        Ok(result)
    }

    fn answer(self, store: &mut Store, args: Args<'_>) -> Outcome {
        let result = self.combine(store, args.from(1))?;
        Ok(Reply::Set(result.listed().into_iter().map(Reply::bulk).collect()))
    }

    fn keep(self, store: &mut Store, args: Args<'_>) -> Outcome {
        let result = self.combine(store, args.from(2))?;
        let len = result.members().len();
        store.keyspace.remove(args.at(1));
        if len > 0 {
            store.keyspace.put(args.at(1), result.wrap(), None);
        }
        Ok(Reply::count(len))
    }
}

pub(super) fn sinter(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Intersect.answer(store, args)
}

pub(super) fn sunion(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Unite.answer(store, args)
}

pub(super) fn sdiff(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Subtract.answer(store, args)
}

pub(super) fn sinterstore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Intersect.keep(store, args)
}

pub(super) fn sunionstore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Unite.keep(store, args)
}

pub(super) fn sdiffstore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Algebra::Subtract.keep(store, args)
}

pub(super) fn sscan(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    // As in Redis: a bad cursor wins over the key's type, and that over bad options.
    scan_cursor(args.at(2))?;
    let Some(set) = store.set(args.at(1))? else { return Ok(scan_reply(0, Vec::new())) };
    let options = ScanOptions::parse(args, 2)?;
    let len = set.members().len();
    let (next, range) = options.step(len);
    let listed = set.listed();
    let step = listed.get(range).unwrap_or_default().iter();
    Ok(scan_reply(next, step.filter(|member| options.matches(member)).map(|m| Reply::bulk(m)).collect()))
}
