//! Which keys of a page are there, and which of them the store that is walked has to report.

use std::rc::Rc;

use smallvec::SmallVec;

use super::End;
use super::cursor::{Away, Position};
use super::walk::{Homes, Stop, Trouble, Walk, Wanted};
use crate::backend::{ReplySink, Stores, Tag};
use crate::command::{Args, KeyIndexes, Row, lookup};
use crate::coordinator::gather::Gather;
use crate::coordinator::replicated::Own;
use crate::protocol::resp::{Version, write_bulk, write_header};
use crate::quorum::Level;
use crate::replication::{self, Cursor, Group, Taken};
use crate::version::{FENCE_KEY, Record, is_reserved, write_record_key};

/// Commands for single keys that run at a time: enough to hide the round trips, few enough not to hold up others.
const AT_A_TIME: usize = 64;

/// A key of a page.
struct Candidate {
    key: Vec<u8>,
    homes: Homes,
}

/// What replicas say of one key, by their stops. Who is missing said nothing that counts.
type Records = SmallVec<[(usize, Record); 4]>;

impl Walk {
    /// The keys of a page that this stop has to report.
    pub(super) async fn reported(
        &self,
        position: &Position,
        stop: &Stop,
        keys: Vec<Vec<u8>>,
        wanted: &Wanted,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let Some(group) = &stop.group else { return Ok(keys) };
        let own = position.stop;
        let mut candidates: Vec<Candidate> =
            keys.into_iter().map(|key| Candidate { homes: self.homes(stop.pool, &key), key }).collect();
        candidates.retain(|it| it.homes.contains(&own));
        if wanted.copies {
            return Ok(candidates.into_iter().map(|it| it.key).collect());
        }
        if let Away::Patched(away) = position.away {
            candidates.retain(|it| it.homes.contains(&away));
        }
        let level = self.level_of(stop.pool);
        let mut reported = if level.read_acks(group.settings.quorums) > 1 {
            candidates.retain(|it| !self.is_covered_by(&it.homes, position));
            self.survey(group, position, candidates, level).await?
        } else {
            candidates.retain(|it| is_first(&it.homes, position));
            candidates.into_iter().map(|it| it.key).collect()
        };
        if let Some(name) = &wanted.type_name {
            let types = self.types(group, stop.pool, &reported, level).await?;
            let mut types = types.iter();
            reported.retain(|_| types.next().is_some_and(|found| found.eq_ignore_ascii_case(name)));
        }
        Ok(reported)
    }

    /// The keys that are there and that nobody after this stop holds.
    async fn survey(
        &self,
        group: &Rc<Group<Stores>>,
        position: &Position,
        candidates: Vec<Candidate>,
        level: Level,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let Some(pool) = self.stops.get(position.stop).map(|stop| stop.pool) else { return Ok(Vec::new()) };
        let said = self.records(group, position, &candidates).await;
        let mut reported = Vec::new();
        let mut open = Vec::new();
        for (candidate, said) in candidates.into_iter().zip(said) {
            if !is_agreed(&said, position.stop, level.read_acks(group.settings.quorums)) {
                open.push(candidate);
            } else if is_last(&candidate.homes, &said, position) {
                reported.push(candidate.key);
            }
        }
        if open.is_empty() {
            return Ok(reported);
        }
        // Replicas differ, or there is no record yet: a read settles what holds, and brings it to those that lack it.
        let keys: Vec<Vec<u8>> = open.iter().map(|candidate| candidate.key.clone()).collect();
        let types = self.types(group, pool, &keys, level).await?;
        let mut types = types.iter();
        open.retain(|_| types.next().is_some_and(|found| found != b"none"));
        let said = self.records(group, position, &open).await;
        let pairs = open.into_iter().zip(said);
        reported.extend(pairs.filter(|(it, said)| is_last(&it.homes, said, position)).map(|(it, _)| it.key));
        Ok(reported)
    }

    /// Asks the replicas of some keys for their records.
    async fn records(&self, group: &Group<Stores>, position: &Position, keys: &[Candidate]) -> Vec<Records> {
        let mut said: Vec<Records> = keys.iter().map(|_| Records::new()).collect();
        if keys.is_empty() {
            return said;
        }
        let gather = Gather::new(self.origin);
        let mut asked = Vec::new();
        for (at, stop) in self.stops.iter().enumerate() {
            if position.away == Away::Known(at) || position.away == Away::Patched(at) {
                continue;
            }
            let concerned: Vec<usize> =
                keys.iter().enumerate().filter(|(_, it)| it.homes.contains(&at)).map(|(number, _)| number).collect();
            if concerned.is_empty() {
                continue;
            }
            gather.ask(&stop.node, 1, &mut |out| {
                write_header(out, b'*', 2 + concerned.len());
                write_bulk(out, b"MGET");
                for candidate in concerned.iter().filter_map(|number| keys.get(*number)) {
                    let mut name = Vec::with_capacity(candidate.key.len() + 5);
                    write_record_key(&candidate.key, &mut name);
                    write_bulk(out, &name);
                }
                write_bulk(out, FENCE_KEY);
            });
            asked.push((at, stop.member, concerned));
        }
        let answers = gather.all().await;
        for ((at, member, concerned), answer) in asked.into_iter().zip(answers) {
            let (Some(member), Ok(reply)) = (group.members.get(member), answer) else { continue };
            let Some((records, fence)) = records_of(&reply, concerned.len()) else { continue };
            if !member.votes_under(&fence) {
                group.look_at_fences();
                continue;
            }
            for (number, record) in concerned.into_iter().zip(records) {
                if let Some(said) = said.get_mut(number) {
                    said.push((at, record));
                }
            }
        }
        said
    }

    /// The type of each key, `none` for one that is not there.
    async fn types(
        &self,
        group: &Rc<Group<Stores>>,
        pool: usize,
        keys: &[Vec<u8>],
        level: Level,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let mut types = Vec::with_capacity(keys.len());
        for reply in self.each(group, pool, b"TYPE", keys, level).await {
            match reply.strip_prefix(b"+").and_then(|text| text.strip_suffix(b"\r\n")) {
                Some(name) => types.push(name.to_vec()),
                None => return Err(Trouble::Store(reply)),
            }
        }
        Ok(types)
    }

    /// Whether a key that one store has is there, as the client's reads see it.
    pub(super) async fn is_there(&self, stop: &Stop, key: &[u8]) -> bool {
        let Some(group) = &stop.group else { return true };
        if is_reserved(key) {
            return false;
        }
        let replies = self.each(group, stop.pool, b"EXISTS", &[key.to_vec()], self.level_of(stop.pool)).await;
        replies.first().is_some_and(|reply| reply == b":1\r\n")
    }

    /// The replies to one verb for each of some keys of a replicated pool.
    pub(super) async fn each(
        &self,
        group: &Rc<Group<Stores>>,
        pool: usize,
        verb: &[u8],
        keys: &[Vec<u8>],
        level: Level,
    ) -> Vec<Vec<u8>> {
        let mut replies = Vec::with_capacity(keys.len());
        let Some(row) = lookup(verb) else { return replies };
        for part in keys.chunks(AT_A_TIME) {
            let gather = Gather::new(self.origin);
            for key in part {
                self.serve(group, pool, row, verb, key, level, &gather);
            }
            replies.extend(
                gather
                    .all()
                    .await
                    .into_iter()
                    .map(|answer| answer.unwrap_or_else(|miss| End::Trouble(miss.into()).into_reply())),
            );
        }
        replies
    }

    #[expect(clippy::too_many_arguments, reason = "a request, where it goes and who hears of it")]
    fn serve(
        &self,
        group: &Rc<Group<Stores>>,
        pool: usize,
        row: &'static Row,
        verb: &[u8],
        key: &[u8],
        level: Level,
        gather: &Rc<Gather>,
    ) {
        let mut own = Own::default();
        own.begin(2);
        own.push(verb);
        own.push(key);
        let mut only = KeyIndexes::new();
        only.push(1);
        let members = self.homes(pool, key).into_iter().filter_map(|at| self.stops.get(at));
        let request = replication::Request {
            group,
            members: members.filter_map(|stop| group.members.get(stop.member).map(Rc::clone)).collect(),
            frame: &own.frame,
            args: Args::new(&own.frame, &own.bounds),
            keys: &only,
            row,
            version: Version::Resp2,
            level,
        };
        let tag: Tag = gather.expect();
        let sink: Rc<dyn ReplySink> = Rc::<Gather>::clone(gather);
        let mut out = Vec::new();
        if self.engine.serve(&request, &sink, tag, &mut out) == Taken::Answered {
            gather.answer(tag, &out);
        }
    }
}

/// Whether this stop is the first replica that is not left out. The stops that are walked again report what the one that
/// is left out was to report.
fn is_first(homes: &Homes, position: &Position) -> bool {
    let (left_out, is_again) = match position.away {
        Away::None => (None, false),
        Away::Known(away) => (Some(away), false),
        Away::Patched(away) => (Some(away), true),
    };
    let first = homes.iter().find(|home| Some(**home) != left_out);
    first == Some(&position.stop) && (!is_again || homes.first().copied() == left_out)
}

/// Whether no replica after this stop holds the key. One that gives no answer is believed to: its stop comes later, and
/// if it is still away then, those before it are walked again.
fn is_last(homes: &Homes, said: &Records, position: &Position) -> bool {
    homes.iter().filter(|home| **home > position.stop).all(|home| {
        position.away == Away::Known(*home)
            || position.away == Away::Patched(*home)
            || said.iter().any(|(at, record)| at == home && (record.accepted.is_zero() || record.tombstone))
    })
}

/// Whether enough replicas hold the newest version, this one among them, and it is no tombstone: then it is there.
fn is_agreed(said: &Records, own: usize, needed: u8) -> bool {
    let Some(newest) = said.iter().map(|(_, record)| record.accepted).max() else { return false };
    let holders = || said.iter().filter(|(_, record)| record.accepted == newest);
    !newest.is_zero()
        && holders().count() >= usize::from(needed)
        && holders().any(|(at, record)| *at == own && !record.tombstone)
}

fn records_of(reply: &[u8], count: usize) -> Option<(Vec<Record>, Vec<u8>)> {
    let mut cursor = Cursor::new(reply);
    cursor.array().filter(|parts| *parts == count + 1)?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = cursor.bulk()?;
        records.push(if bytes.is_empty() { Record::default() } else { Record::decode(bytes).ok()? });
    }
    Some((records, cursor.bulk()?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Ballot;

    fn record(hlc: u64, tombstone: bool) -> Record {
        let id = u64::from(hlc > 0); // All zero is no version at all.
        Record { accepted: Ballot { hlc, id, seq: 0 }, tombstone, ..Record::default() }
    }

    fn said(records: &[(usize, u64)]) -> Records {
        records.iter().map(|(at, hlc)| (*at, record(*hlc, false))).collect()
    }

    fn at(stop: usize, away: Away) -> Position {
        Position { stop, away, store: 0, run: 0 }
    }

    /// How often a key is reported by a whole walk over three stops, with what they hold.
    fn reports(homes: &[usize], held: &[(usize, u64)], away: Away) -> usize {
        let homes: Homes = homes.iter().copied().collect();
        let held = said(held);
        let reports = |stop: usize| {
            let holds = held.iter().any(|(at, record)| *at == stop && !record.accepted.is_zero());
            away != Away::Known(stop) && holds && is_last(&homes, &held, &at(stop, away))
        };
        (0..3).filter(|stop| reports(*stop)).count()
    }

    #[test]
    fn the_last_holder_reports_a_key_once() {
        for homes in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            assert_eq!(reports(&homes, &[(0, 1), (1, 1), (2, 1)], Away::None), 1);
            assert_eq!(reports(&homes, &[(0, 1), (1, 0), (2, 1)], Away::None), 1);
            assert_eq!(reports(&homes, &[(0, 1), (1, 1), (2, 0)], Away::None), 1);
            for away in 0..3 {
                let held: Vec<_> = (0..3).filter(|stop| *stop != away).map(|stop| (stop, 1)).collect();
                assert_eq!(reports(&homes, &held, Away::Known(away)), 1, "{away}");
            }
        }
    }

    #[test]
    fn the_first_replica_that_is_not_left_out_reports() {
        for homes in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let homes: Homes = homes.iter().copied().collect();
            let reports = |away| (0..3).filter(|stop| is_first(&homes, &at(*stop, away))).count();
            assert_eq!(reports(Away::None), 1);
            for away in 0..3 {
                assert_eq!(reports(Away::Known(away)), 1);
                // Walked as if all were there up to the one that is away, then those before it again, then the rest.
                let before = (0..away).filter(|stop| is_first(&homes, &at(*stop, Away::None))).count();
                let again = (0..away).filter(|stop| is_first(&homes, &at(*stop, Away::Patched(away)))).count();
                let after = (away + 1..3).filter(|stop| is_first(&homes, &at(*stop, Away::Known(away)))).count();
                assert_eq!(before + again + after, 1, "{homes:?} without {away}");
            }
        }
    }

    #[test]
    fn agreement_needs_this_stop_and_enough_others() {
        assert!(is_agreed(&said(&[(0, 2), (1, 2), (2, 1)]), 0, 2));
        assert!(!is_agreed(&said(&[(0, 2), (1, 2), (2, 1)]), 2, 2));
        assert!(!is_agreed(&said(&[(0, 2), (1, 1), (2, 1)]), 0, 2));
        assert!(!is_agreed(&said(&[(0, 0), (1, 0)]), 0, 2));
        assert!(!is_agreed(&said(&[]), 0, 2));
        let gone: Records = [(0, record(2, true)), (1, record(2, true))].into_iter().collect();
        assert!(!is_agreed(&gone, 0, 2));
    }
}
