//! What a history of concurrent operations must look like to be the history of one key of one store.
//!
//! Every written value is unique, so that no search is needed. For registers the test is exact: a history of unique
//! writes is linearizable when the zones of its values can be put one after the other (Gibbons and Korach, *Testing
//! Shared Memories*, 1997, section 4). For what only grows, each operation names the version it saw or made, and versions must not contradict
//! the clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// When an operation ran, by one clock for all clients. An operation whose fate is unknown may take effect at any time
/// after its call, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) call: Duration,
    /// `Duration::MAX` where no answer ever said that it was done.
    pub(super) end: Duration,
}

impl Span {
    pub(super) fn is_unknown(&self) -> bool {
        self.end == Duration::MAX
    }
}

/// One operation on a register. Writes that were certainly refused are left out.
#[derive(Clone, Debug)]
pub(super) enum Access {
    Write(String, Span),
    /// `None`: the key was not there.
    Read(Option<String>, Span),
}

/// All operations that wrote or read one value.
#[derive(Clone, Copy)]
struct Zone {
    written: Span,
    /// The first of its operations to end, and the last to begin.
    end_min: Duration,
    call_max: Duration,
}

impl Zone {
    fn new(written: Span) -> Self {
        Self { written, end_min: written.end, call_max: written.call }
    }

    /// The register had this value from `end_min` to `call_max` at least.
    fn is_forward(&self) -> bool {
        self.end_min < self.call_max
    }
}

/// Whether the accesses are those of one register that began absent.
pub(super) fn register(accesses: &[Access]) -> Result<(), String> {
    let mut zones: BTreeMap<Option<&str>, Zone> = BTreeMap::new();
    let beginning = Span { call: Duration::ZERO, end: Duration::ZERO };
    zones.insert(None, Zone::new(beginning));
    for access in accesses {
        if let Access::Write(value, span) = access
            && zones.insert(Some(value), Zone::new(*span)).is_some()
        {
            return Err(format!("{value} was written twice: the test is wrong"));
        }
    }
    let mut seen = HashSet::new();
    for access in accesses {
        let Access::Read(value, span) = access else { continue };
        let Some(zone) = zones.get_mut(&value.as_deref()) else {
            return Err(format!(
                "{value:?} was read and nobody wrote it, or its writer was told that it is not written"
            ));
        };
        if span.end < zone.written.call {
            return Err(format!("{value:?} was read before it was written"));
        }
        seen.insert(value.as_deref());
        zone.end_min = zone.end_min.min(span.end);
        zone.call_max = zone.call_max.max(span.call);
    }
    // A write of unknown fate that nobody saw may never have happened.
    zones.retain(|value, zone| !zone.written.is_unknown() || seen.contains(value));
    let (forward, backward): (Vec<_>, Vec<_>) = zones.into_iter().partition(|(_, zone)| zone.is_forward());
    let mut forward = forward;
    forward.sort_by_key(|(_, zone)| zone.end_min);
    for pair in forward.windows(2) {
        let [(value, zone), (next, after)] = pair else { continue };
        if after.end_min < zone.call_max {
            return Err(format!("{value:?} was seen again after {next:?} was: {zone:?} {after:?}"));
        }
    }
    for (value, zone) in &backward {
        // The last forward zone that began before this one did.
        let around = forward.iter().rev().find(|(_, around)| around.end_min < zone.call_max);
        if let Some((other, around)) = around
            && zone.end_min < around.call_max
        {
            return Err(format!(
                "{value:?} came and went while the value was {other:?} all the time: {zone:?} {around:?}"
            ));
        }
    }
    Ok(())
}

impl std::fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { written, end_min, call_max } = self;
        write!(formatter, "(written {:?}..{:?}, seen {end_min:?}..{call_max:?})", written.call, written.end)
    }
}

/// An operation on something that only grows, and the version it saw (a read) or made (a write).
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) version: u64,
    pub(super) made: bool,
    pub(super) span: Span,
}

/// Whether no operation saw less than one that had ended before it began, and no version was made twice.
pub(super) fn versions(seen: &[Seen]) -> Result<(), String> {
    let mut made = HashMap::new();
    for write in seen.iter().filter(|seen| seen.made) {
        if let Some(other) = made.insert(write.version, write.span) {
            return Err(format!("version {} was made twice: {other:?} and {:?}", write.version, write.span));
        }
    }
    let (mut by_call, mut by_end) = (seen.to_vec(), seen.to_vec());
    by_call.sort_by_key(|seen| seen.span.call);
    by_end.sort_by_key(|seen| seen.span.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<Seen> = None;
    for seen in by_call {
        while let Some(before) = ended.next_if(|before| before.span.end < seen.span.call) {
            newest = newest.filter(|newest| newest.version >= before.version).or(Some(before));
        }
        let Some(newest) = newest else { continue };
        if seen.version < newest.version || (seen.made && seen.version == newest.version) {
            return Err(format!("{seen:?} began after {newest:?} had ended"));
        }
    }
    Ok(())
}

/// What became of one attempt to add an item.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) item: String,
    pub(super) span: Span,
    /// How many items there were with it, where the answer says so.
    pub(super) count: Option<u64>,
}

/// One look at all the items.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) items: Vec<String>,
    pub(super) span: Span,
}

/// Every item is one that somebody added or may have added, and is there once.
fn items_are_known(added: &HashMap<&str, &Added>, look: &Look) -> Result<(), String> {
    let mut once = HashSet::new();
    for item in &look.items {
        let Some(added) = added.get(item.as_str()) else {
            return Err(format!("{item} is there, and its writer was told that it is not, or it has none"));
        };
        if look.span.end < added.span.call {
            return Err(format!("{item} was seen before it was added"));
        }
        if !once.insert(item) {
            return Err(format!("{item} is there twice"));
        }
    }
    Ok(())
}

/// Whether the looks are those at one sequence that items were added to the end of. `last` is what it was in the end.
pub(super) fn sequence(added: &[Added], looks: &[Look], last: &Look) -> Result<(), String> {
    let by_item: HashMap<&str, &Added> = added.iter().map(|added| (added.item.as_str(), added)).collect();
    items_are_known(&by_item, last)?;
    let places: HashMap<&str, usize> = last.items.iter().enumerate().map(|(at, item)| (item.as_str(), at)).collect();
    let mut seen = Vec::new();
    for added in added.iter().filter(|added| !added.span.is_unknown()) {
        let Some(at) = places.get(added.item.as_str()) else {
            return Err(format!("{} is lost: {added:?}", added.item));
        };
        let count = u64::try_from(at + 1).expect("a test is short");
        if added.count.is_some_and(|said| said != count) {
            return Err(format!("{} is number {count}, its writer was told {:?}", added.item, added.count));
        }
        seen.push(Seen { version: count, made: true, span: added.span });
    }
    for look in looks {
        items_are_known(&by_item, look)?;
        if !last.items.starts_with(&look.items) {
            let at = look.items.iter().zip(&last.items).take_while(|(left, right)| left == right).count();
            let (saw, is) = (look.items.get(at), last.items.get(at));
            return Err(format!("at {:?} number {at} was {saw:?}, in the end it is {is:?}", look.span));
        }
        seen.push(Seen { version: look.items.len() as u64, made: false, span: look.span });
    }
    versions(&seen)
}

/// Whether the looks are those at one set that items were added to.
pub(super) fn set(added: &[Added], looks: &[Look], last: &Look) -> Result<(), String> {
    let by_item: HashMap<&str, &Added> = added.iter().map(|added| (added.item.as_str(), added)).collect();
    // From when on each item must be there: acknowledged, or seen.
    let mut since: BTreeMap<&str, Duration> = BTreeMap::new();
    for added in added.iter().filter(|added| !added.span.is_unknown()) {
        since.insert(&added.item, added.span.end);
    }
    for look in looks {
        items_are_known(&by_item, look)?;
        for item in &look.items {
            let since = since.entry(item).or_insert(look.span.end);
            *since = look.span.end.min(*since);
        }
    }
    for look in looks.iter().chain([last]) {
        let there: HashSet<&str> = look.items.iter().map(String::as_str).collect();
        let gone = since.iter().find(|(item, since)| **since < look.span.call && !there.contains(*item));
        if let Some((item, since)) = gone {
            return Err(format!("{item} was there at {since:?} and is missing at {:?}", look.span));
        }
    }
    items_are_known(&by_item, last)
}

/// What is taken from a queue is taken once, and what was added is taken or still there.
pub(super) fn queue(added: &[Added], taken: &[String], unknown_takes: usize, left: &[String]) -> Result<(), String> {
    let known: BTreeSet<&str> = added.iter().map(|added| added.item.as_str()).collect();
    let mut once: HashSet<&str> = HashSet::new();
    for item in taken.iter().chain(left) {
        if !known.contains(item.as_str()) {
            return Err(format!("{item} came out, and its writer was told that it is not in, or it has none"));
        }
        if !once.insert(item) {
            return Err(format!("{item} came out twice, or came out and is still there"));
        }
    }
    let lost: Vec<_> =
        added.iter().filter(|added| !added.span.is_unknown() && !once.contains(added.item.as_str())).collect();
    // A take whose answer was lost may have taken one item.
    if lost.len() > unknown_takes {
        return Err(format!("{} items are lost and {unknown_takes} takes unknown: {lost:?}", lost.len()));
    }
    Ok(())
}

mod tests {
    use super::*;

    fn span(call: u64, end: u64) -> Span {
        let end = if end == 0 { Duration::MAX } else { Duration::from_millis(end) };
        Span { call: Duration::from_millis(call), end }
    }

    /// `w a 1 4` a write of `a` from 1 to 4, `w a 1 0` one of unknown fate; `r a 5 6` a read, `r - 5 6` of nothing.
    #[track_caller]
    fn check_register(history: &str, good: bool) {
        let accesses: Vec<_> = history
            .split(", ")
            .map(|operation| {
                let words: Vec<_> = operation.split(' ').collect();
                let span = span(words[2].parse().expect("a number"), words[3].parse().expect("a number"));
                match (words[0], words[1]) {
                    ("w", value) => Access::Write(value.to_owned(), span),
                    (_, "-") => Access::Read(None, span),
                    (_, value) => Access::Read(Some(value.to_owned()), span),
                }
            })
            .collect();
        let verdict = register(&accesses);
        assert_eq!(verdict.is_ok(), good, "{history}: {verdict:?}");
    }

    #[test]
    fn registers() {
        check_register("r - 1 2", true);
        check_register("w a 1 2, r a 3 4", true);
        check_register("w a 1 2, r - 3 4", false);
        check_register("w a 1 4, r - 2 3", true);
        check_register("w a 1 4, r a 2 3", true);
        check_register("r a 1 2, w a 3 4", false);
        check_register("r a 1 2", false);
        // Two readers, one after the other, while the write goes on: the second may not go back.
        check_register("w a 1 9, r a 2 3, r - 4 5", false);
        check_register("w a 1 2, w b 3 9, r b 4 5, r a 6 7", false);
        check_register("w a 1 2, w b 3 9, r a 4 5, r b 6 7", true);
        check_register("w a 1 2, w b 3 9, r b 4 6, r a 5 7", true);
        check_register("w a 1 2, w b 3 4, r a 5 6", false);
        // Concurrent writes in any order, but in one.
        check_register("w a 1 5, w b 1 5, r a 6 7, r a 8 9", true);
        check_register("w a 1 5, w b 1 5, r b 6 7, r b 8 9", true);
        check_register("w a 1 5, w b 1 5, r a 6 7, r b 8 9", false);
        check_register("w a 1 20, w b 1 20, r a 6 7, r b 8 9, r a 10 11", false);
        check_register("w a 1 20, w b 1 20, r a 6 7, r b 8 9", true);
        // A write within another's life needs a moment of its own.
        check_register("w a 1 2, w b 4 5, r a 3 9, r a 8 10", false);
        check_register("w a 1 2, w b 3 10, r a 4 9, r a 8 11", true);
        check_register("w a 1 2, w b 5 6, r a 3 4, r b 7 8", true);
        // Unknown: never, at once, or late; but not twice.
        check_register("w a 1 2, w b 3 0, r a 4 5", true);
        check_register("w a 1 2, w b 3 0, r b 4 5", true);
        check_register("w a 1 2, w b 3 0, r a 4 5, r b 100 101", true);
        check_register("w a 1 2, w b 3 0, r b 4 5, r a 6 7", false);
        check_register("w a 1 2, w b 3 0, r b 4 5, w c 6 7, r b 8 9", false);
        check_register("w b 3 0, r b 1 2", false);
    }

    /// A few random histories of one real register, some of them spoilt, against every order of the operations.
    #[test]
    fn registers_by_brute_force() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..4_000 {
            let count = random.usize(2..6);
            let mut writes = 0;
            let mut accesses: Vec<Access> = Vec::new();
            for index in 0..count {
                let call = random.u64(1..20) * 10 + index as u64;
                let span = span(call, if random.u8(..6) == 0 { 0 } else { call + random.u64(1..80) });
                if random.bool() {
                    writes += 1;
                    accesses.push(Access::Write(writes.to_string(), span));
                } else if !span.is_unknown() {
                    let value = random.u32(..=3);
                    let value = (value > 0).then(|| value.to_string());
                    accesses.push(Access::Read(value, span));
                }
            }
            let verdict = register(&accesses);
            let possible = search(&accesses, &mut Vec::new(), None);
            assert_eq!(verdict.is_ok(), possible, "{accesses:?}: {verdict:?}");
            if possible { good += 1 } else { bad += 1 }
        }
        assert!(good > 200 && bad > 200, "{good} good, {bad} bad");
    }

    /// Whether the operations that are not in `done` can follow in some order.
    fn search(accesses: &[Access], done: &mut Vec<usize>, value: Option<&str>) -> bool {
        let of = |access: &Access| match access {
            Access::Write(_, span) | Access::Read(_, span) => *span,
        };
        let left: Vec<_> = (0..accesses.len()).filter(|index| !done.contains(index)).collect();
        if left.iter().all(|&index| of(&accesses[index]).is_unknown()) {
            return true;
        }
        for &index in &left {
            let first = left.iter().all(|&other| of(&accesses[other]).end >= of(&accesses[index]).call);
            let next = match &accesses[index] {
                Access::Write(written, _) => Some(written.as_str()),
                Access::Read(read, _) if read.as_deref() == value => value,
                Access::Read(..) => continue,
            };
            if first {
                done.push(index);
                let found = search(accesses, done, next);
                done.pop();
                if found {
                    return true;
                }
            }
        }
        false
    }

    /// `m 3 1 2`: version 3 was made from 1 to 2; `s 3 1 2`: it was seen.
    #[track_caller]
    fn check_versions(history: &str, good: bool) {
        let seen: Vec<_> = history
            .split(", ")
            .map(|operation| {
                let words: Vec<_> = operation.split(' ').collect();
                let number = |at: usize| words[at].parse::<u64>().expect("a number");
                Seen { version: number(1), made: words[0] == "m", span: span(number(2), number(3)) }
            })
            .collect();
        assert_eq!(versions(&seen).is_ok(), good, "{history}");
    }

    #[test]
    fn counters() {
        check_versions("m 1 1 2, m 2 3 4, s 2 5 6", true);
        check_versions("m 1 1 2, m 2 3 4, s 1 5 6", false);
        check_versions("m 1 1 2, m 2 3 9, s 1 5 6", true);
        check_versions("m 1 1 2, m 1 3 4", false);
        check_versions("m 2 1 2, m 1 3 4", false);
        check_versions("m 2 1 5, m 1 3 4", true);
        check_versions("s 5 1 2, s 4 3 4", false);
        check_versions("s 5 1 2, m 5 3 4", false);
        check_versions("s 5 1 4, m 5 3 6", true);
    }

    fn added(item: &str, call: u64, end: u64, count: Option<u64>) -> Added {
        Added { item: item.to_owned(), span: span(call, end), count }
    }

    fn look(items: &str, call: u64, end: u64) -> Look {
        Look { items: items.split_whitespace().map(str::to_owned).collect(), span: span(call, end) }
    }

    #[test]
    fn sequences() {
        let both = [added("a", 1, 2, Some(1)), added("b", 3, 4, Some(2))];
        let check = |added: &[Added], looks: &[Look], last: &str, good: bool| {
            let verdict = sequence(added, looks, &look(last, 90, 91));
            assert_eq!(verdict.is_ok(), good, "{added:?} {looks:?} {last}: {verdict:?}");
        };
        check(&both, &[look("a", 3, 4), look("a b", 5, 6)], "a b", true);
        check(&both, &[look("a", 5, 6)], "a b", false);
        check(&both, &[], "a", false);
        check(&both, &[], "b a", false);
        check(&both, &[], "a b b", false);
        check(&both, &[], "a b c", false);
        check(&both, &[look("b", 3, 4)], "a b", false);
        check(&[added("a", 1, 0, None)], &[], "a", true);
        check(&[added("a", 1, 0, None)], &[look("a", 2, 3)], "", false);
        check(&[added("a", 1, 0, None)], &[], "", true);
    }

    #[test]
    fn sets() {
        let both = [added("a", 1, 2, None), added("b", 3, 0, None)];
        let check = |looks: &[Look], last: &str, good: bool| {
            let verdict = set(&both, looks, &look(last, 90, 91));
            assert_eq!(verdict.is_ok(), good, "{looks:?} {last}: {verdict:?}");
        };
        check(&[], "a", true);
        check(&[], "b a", true);
        check(&[], "b", false);
        check(&[look("", 1, 3)], "a", true);
        check(&[look("", 3, 4)], "a", false);
        check(&[look("b", 3, 5)], "a", false);
        check(&[look("a b", 3, 5), look("a", 4, 6)], "a b", true);
        check(&[look("a b", 3, 5), look("a", 6, 7)], "a b", false);
    }

    #[test]
    fn queues() {
        let items = [added("a", 1, 2, None), added("b", 3, 4, None), added("c", 5, 0, None)];
        let check = |taken: &str, unknown: usize, left: &str, good: bool| {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(queue(&items, &words(taken), unknown, &words(left)).is_ok(), good, "{taken} / {left}");
        };
        check("a", 0, "b", true);
        check("a b", 0, "c", true);
        check("a b a", 0, "", false);
        check("a", 0, "a b", false);
        check("a", 0, "", false);
        check("a", 1, "", true);
        check("a d", 0, "b", false);
    }
}
