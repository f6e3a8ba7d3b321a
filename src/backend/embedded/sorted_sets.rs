//! Sorted set verbs.

use std::ops::Range;

use super::keys::{ScanOptions, scan_cursor, scan_reply};
use super::number::{format_double, index_range, parse_double, parse_integer};
use super::reply::{Failure, Outcome, Protocol, Reply, SYNTAX};
use super::store::{Args, SessionState, Store, wrong_number_of_arguments};
use super::value::SortedSet;

impl Store {
    fn sorted(&mut self, key: &[u8]) -> Result<Option<&SortedSet>, Failure> {
        self.keyspace.read(key)
    }
}

#[expect(clippy::struct_excessive_bools, reason = "one for each option word; most combinations are allowed")]
#[derive(Clone, Copy, Default)]
struct AddOptions {
    only_new: bool,
    only_known: bool,
    only_greater: bool,
    only_less: bool,
    count_changed: bool,
    increment: bool,
}

/// Scores with their members, as written.
type Pairs<'a> = &'a [[&'a [u8]; 2]];

impl AddOptions {
    /// The options at the front of ZADD's words, and the score-member pairs after them.
    fn parse<'a>(words: &'a [&'a [u8]]) -> Result<(Self, Pairs<'a>), Failure> {
        let mut options = Self::default();
        let mut rest = words;
        while let Some((word, tail)) = rest.split_first() {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => options.only_new = true,
                b"XX" => options.only_known = true,
                b"GT" => options.only_greater = true,
                b"LT" => options.only_less = true,
                b"CH" => options.count_changed = true,
                b"INCR" => options.increment = true,
                _ => break,
            }
            rest = tail;
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        if pairs.is_empty() || !odd.is_empty() {
            return Err(SYNTAX);
        }
        if options.only_new && options.only_known {
            return Err(Failure::fixed("ERR XX and NX options at the same time are not compatible"));
        }
        if [options.only_greater, options.only_less, options.only_new].iter().filter(|&&on| on).count() > 1 {
            return Err(Failure::fixed("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if options.increment && pairs.len() > 1 {
            return Err(Failure::fixed("ERR INCR option supports a single increment-element pair"));
        }
        Ok((options, pairs))
    }

    /// Sets one score. The score in force afterwards, or `None` if the options forbade the change.
    fn apply(self, sorted: &mut SortedSet, member: &[u8], score: f64) -> Result<Option<f64>, Failure> {
        let current = sorted.score(member);
        if current.is_some() && self.only_new || current.is_none() && self.only_known {
            return Ok(None);
        }
        let wanted = if self.increment { current.unwrap_or(0.0) + score } else { score };
        if wanted.is_nan() {
            return Err(Failure::fixed("ERR resulting score is not a number (NaN)"));
        }
        if let Some(current) = current {
            if self.only_greater && wanted <= current || self.only_less && wanted >= current {
                return Ok(None);
            }
            #[expect(clippy::float_cmp, reason = "a change is a change, however small")]
            if wanted == current {
                return Ok(Some(wanted));
            }
        }
        sorted.insert(member, wanted);
        Ok(Some(wanted))
    }
}

pub(super) fn zadd(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let (options, pairs) = AddOptions::parse(args.from(2))?;
    let scores = pairs.iter().map(|[score, _]| parse_double(score)).collect::<Result<Vec<_>, _>>()?;
    store.keyspace.edit(args.at(1), |sorted: &mut SortedSet| {
        let (mut added, mut changed, mut last) = (0, 0, None);
        for (&score, [_, member]) in scores.iter().zip(pairs) {
            let before = sorted.score(member);
            last = options.apply(sorted, member, score)?;
            let after = sorted.score(member);
            added += usize::from(before.is_none() && after.is_some());
            changed += usize::from(before != after);
        }
        Ok(match options {
            AddOptions { increment: true, .. } => Reply::double_or_null(last),
            AddOptions { count_changed: true, .. } => Reply::count(changed),
            _ => Reply::count(added),
        })
    })
}

pub(super) fn zincrby(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let by = parse_double(args.at(2))?;
    let options = AddOptions { increment: true, ..AddOptions::default() };
    store
        .keyspace
        .edit(args.at(1), |sorted: &mut SortedSet| Ok(Reply::double_or_null(options.apply(sorted, args.at(3), by)?)))
}

pub(super) fn zrem(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let removed = store.keyspace.edit_existing(args.at(1), |sorted: &mut SortedSet| {
        Ok(args.from(2).iter().filter(|member| sorted.remove(member)).count())
    })?;
    Ok(Reply::count(removed.unwrap_or(0)))
}

pub(super) fn zscore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::double_or_null(store.sorted(args.at(1))?.and_then(|sorted| sorted.score(args.at(2)))))
}

pub(super) fn zmscore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let sorted = store.sorted(args.at(1))?;
    let scores = args.from(2).iter().map(|member| Reply::double_or_null(sorted.and_then(|set| set.score(member))));
    Ok(Reply::Array(scores.collect()))
}

pub(super) fn zcard(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::count(store.sorted(args.at(1))?.map_or(0, |sorted| sorted.ranked().len())))
}

pub(super) fn zrank(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let rank = store.sorted(args.at(1))?.and_then(|sorted| sorted.rank(args.at(2)));
    Ok(rank.map_or(Reply::Null, Reply::count))
}

pub(super) fn zrevrank(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let Some(sorted) = store.sorted(args.at(1))? else { return Ok(Reply::Null) };
    let last = sorted.ranked().len().saturating_sub(1);
    Ok(sorted.rank(args.at(2)).map_or(Reply::Null, |rank| Reply::count(last - rank)))
}

/// What the two bounds of a range verb are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Reverse,
}

/// The bounds of a range, read before the key is looked up.
enum Bounds<'a> {
    Rank(i64, i64, Direction),
    Score(Bound<f64>, Bound<f64>),
    Lex(Bound<&'a [u8]>, Bound<&'a [u8]>),
}

/// One end of a range: every member on its inner side is in.
enum Bound<T> {
    Lowest,
    Highest,
    With(T),
    Without(T),
}

impl<'a> Bounds<'a> {
    fn parse(by: By, direction: Direction, args: Args<'a>) -> Result<Self, Failure> {
        let (low, high) = match (by, direction) {
            (By::Rank, _) | (_, Direction::Forward) => (args.at(2), args.at(3)),
            (_, Direction::Reverse) => (args.at(3), args.at(2)),
        };
        Ok(match by {
            By::Rank => Self::Rank(parse_integer(low)?, parse_integer(high)?, direction),
            By::Score => Self::Score(score_bound(low)?, score_bound(high)?),
            By::Lex => Self::Lex(lex_bound(low)?, lex_bound(high)?),
        })
    }

    /// The ranks inside, lowest first.
    fn ranks(&self, sorted: &SortedSet) -> Range<usize> {
        let ranked = sorted.ranked();
        let range = match self {
            Self::Rank(start, stop, direction) => {
                let range = index_range(*start, *stop, ranked.len()).unwrap_or(0..0);
                match direction {
                    Direction::Forward => range,
                    Direction::Reverse => ranked.len() - range.end..ranked.len() - range.start,
                }
            }
            Self::Score(low, high) => {
                ranked.partition_point(|(score, _)| low.is_above(*score))
                    ..ranked.partition_point(|(score, _)| !high.is_below(*score))
            }
            Self::Lex(low, high) => {
                ranked.partition_point(|(_, name)| low.is_above(name.as_slice()))
                    ..ranked.partition_point(|(_, name)| !high.is_below(name.as_slice()))
            }
        };
        range.start..range.end.max(range.start)
    }
}

impl<T: PartialOrd + Copy> Bound<T> {
    /// As the lower bound: whether it leaves this one out.
    fn is_above(&self, other: T) -> bool {
        match *self {
            Self::Lowest => false,
            Self::Highest => true,
            Self::With(bound) => other < bound,
            Self::Without(bound) => other <= bound,
        }
    }

    /// As the upper bound: whether it leaves this one out.
    fn is_below(&self, other: T) -> bool {
        match *self {
            Self::Lowest => true,
            Self::Highest => false,
            Self::With(bound) => other > bound,
            Self::Without(bound) => other >= bound,
        }
    }
}

fn score_bound(text: &[u8]) -> Result<Bound<f64>, Failure> {
    let parse = |text| parse_double(text).map_err(|_| Failure::fixed("ERR min or max is not a float"));
    match text.strip_prefix(b"(") {
        Some(text) => parse(text).map(Bound::Without),
        None => parse(text).map(Bound::With),
    }
}

fn lex_bound(text: &[u8]) -> Result<Bound<&[u8]>, Failure> {
    match text {
        b"-" => Ok(Bound::Lowest),
        b"+" => Ok(Bound::Highest),
        [b'[', member @ ..] => Ok(Bound::With(member)),
        [b'(', member @ ..] => Ok(Bound::Without(member)),
        _ => Err(Failure::fixed("ERR min or max not valid string range item")),
    }
}

#[derive(Default)]
struct RangeOptions {
    by: Option<By>,
    direction: Option<Direction>,
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

impl RangeOptions {
    /// `fixed` is what the verb's own name says; ZRANGE leaves it to its options.
    fn parse(args: Args<'_>, fixed: Option<(By, Direction)>) -> Result<Self, Failure> {
        let (by, direction) = fixed.unzip();
        let mut options = Self { by, direction, ..Self::default() };
        let mut words = args.from(4).iter();
        while let Some(word) = words.next() {
            match word.to_ascii_uppercase().as_slice() {
                b"WITHSCORES" => options.with_scores = true,
                b"LIMIT" => {
                    let (offset, count) = words.next().zip(words.next()).ok_or(SYNTAX)?;
                    options.limit = Some((parse_integer(offset)?, parse_integer(count)?));
                }
                b"BYSCORE" if fixed.is_none() => options.by = Some(By::Score),
                b"BYLEX" if fixed.is_none() => options.by = Some(By::Lex),
                b"REV" if fixed.is_none() => options.direction = Some(Direction::Reverse),
                _ => return Err(SYNTAX),
            }
        }
        // LIMIT with a count of -1 is no limit, and its offset then means nothing by rank.
        let by_rank = matches!(options.by, None | Some(By::Rank));
        if options.limit.take_if(|_| by_rank).is_some_and(|(_, count)| count != -1) {
            return Err(Failure::fixed(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if options.with_scores && options.by == Some(By::Lex) {
            return Err(Failure::fixed("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        Ok(options)
    }
}

fn range(store: &mut Store, session: &SessionState, args: Args<'_>, fixed: Option<(By, Direction)>) -> Outcome {
    let options = RangeOptions::parse(args, fixed)?;
    let direction = options.direction.unwrap_or(Direction::Forward);
    let bounds = Bounds::parse(options.by.unwrap_or(By::Rank), direction, args)?;
    let Some(sorted) = store.sorted(args.at(1))? else { return Ok(Reply::Array(Vec::new())) };
    let inside = sorted.ranked().get(bounds.ranks(sorted)).unwrap_or_default();
    let (offset, count) = options.limit.unwrap_or((0, -1));
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let take = usize::try_from(count).unwrap_or(usize::MAX);
    let pairs: Vec<_> = match direction {
        Direction::Forward => inside.iter().skip(skip).take(take).collect(),
        Direction::Reverse => inside.iter().rev().skip(skip).take(take).collect(),
    };
    if options.with_scores {
        return Ok(scored(pairs.into_iter(), session.protocol));
    }
    Ok(Reply::bulks(pairs.into_iter().map(|(_, member)| member.as_slice())))
}

/// Members with scores: flat in RESP2, pairs in RESP3.
fn scored<'a>(pairs: impl Iterator<Item = &'a (f64, Vec<u8>)>, protocol: Protocol) -> Reply {
    let pair = |(score, member): &(f64, Vec<u8>)| [Reply::bulk(member), Reply::Double(*score)];
    Reply::Array(match protocol {
        Protocol::Resp2 => pairs.flat_map(pair).collect(),
        Protocol::Resp3 => pairs.map(|one| Reply::Array(pair(one).into())).collect(),
    })
}

pub(super) fn zrange(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, None)
}

pub(super) fn zrevrange(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, Some((By::Rank, Direction::Reverse)))
}

pub(super) fn zrangebyscore(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, Some((By::Score, Direction::Forward)))
}

pub(super) fn zrevrangebyscore(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, Some((By::Score, Direction::Reverse)))
}

pub(super) fn zrangebylex(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, Some((By::Lex, Direction::Forward)))
}

pub(super) fn zrevrangebylex(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    range(store, session, args, Some((By::Lex, Direction::Reverse)))
}

fn count(store: &mut Store, args: Args<'_>, by: By) -> Outcome {
    let bounds = Bounds::parse(by, Direction::Forward, args)?;
    Ok(Reply::count(store.sorted(args.at(1))?.map_or(0, |sorted| bounds.ranks(sorted).len())))
}

pub(super) fn zcount(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    count(store, args, By::Score)
}

pub(super) fn zlexcount(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    count(store, args, By::Lex)
}

fn remove_range(store: &mut Store, args: Args<'_>, by: By) -> Outcome {
    let bounds = Bounds::parse(by, Direction::Forward, args)?;
    let removed = store.keyspace.edit_existing(args.at(1), |sorted: &mut SortedSet| {
        let ranks = bounds.ranks(sorted);
        Ok(sorted.remove_range(ranks).len())
    })?;
    Ok(Reply::count(removed.unwrap_or(0)))
}

pub(super) fn zremrangebyrank(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    remove_range(store, args, By::Rank)
}

pub(super) fn zremrangebyscore(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    remove_range(store, args, By::Score)
}

pub(super) fn zremrangebylex(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    remove_range(store, args, By::Lex)
}

pub(super) fn zpopmin(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    pop(store, session, args, Direction::Forward)
}

pub(super) fn zpopmax(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    pop(store, session, args, Direction::Reverse)
}

fn pop(store: &mut Store, session: &SessionState, args: Args<'_>, direction: Direction) -> Outcome {
    // A single member comes flat in both protocols; a count, even of one, makes pairs in RESP3.
    let (count, protocol) = match args.from(2) {
        [] => (1, Protocol::Resp2),
        [text] => {
            let count = parse_integer(text).ok().and_then(|count| usize::try_from(count).ok());
            (count.ok_or(Failure::fixed("ERR value is out of range, must be positive"))?, session.protocol)
        }
        _ if direction == Direction::Forward => return Err(wrong_number_of_arguments("zpopmin")),
        _ => return Err(wrong_number_of_arguments("zpopmax")),
    };
    let popped = store.keyspace.edit_existing(args.at(1), |sorted: &mut SortedSet| {
        let len = sorted.ranked().len();
        let count = count.min(len);
        Ok(match direction {
            Direction::Forward => sorted.remove_range(0..count),
            Direction::Reverse => sorted.remove_range(len - count..len).into_iter().rev().collect(),
        })
    })?;
    Ok(scored(popped.unwrap_or_default().iter(), protocol))
}

pub(super) fn zscan(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    // As in Redis: a bad cursor wins over the key's type, and that over bad options.
    scan_cursor(args.at(2))?;
    let Some(sorted) = store.sorted(args.at(1))? else { return Ok(scan_reply(0, Vec::new())) };
    let options = ScanOptions::parse(args, 2)?;
    // By the table of members, not by rank: a changed score must not hide a member from a scan.
    let (next, range) = options.step(sorted.ranked().len());
    let matching: Vec<(&[u8], f64)> = if range.len() == sorted.ranked().len() {
        sorted.ranked().iter().map(|(score, member)| (member.as_slice(), *score)).collect()
    } else {
        sorted.members(range).collect()
    };
    let matching = matching.into_iter().filter(|(member, _)| options.matches(member));
    let pairs =
        matching.flat_map(|(member, score)| [Reply::bulk(member), Reply::Bulk(format_double(score).into_bytes())]);
    Ok(scan_reply(next, pairs.collect()))
}
