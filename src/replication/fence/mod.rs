//! Which stores may vote. Each store has a fence key; every script and every read carries what the proxy believes it to
//! be, and a store that disagrees is not counted.
//!
//! A store without the key has lost its memory: it holds older states than it once confirmed. It votes again after the
//! fences of its peers were raised, so that nothing that was under way before can still be counted with it, and after
//! every key was brought to it from a quorum.
//!
//! # Invariants
//! - A fence only ever changes from one value that was seen to the next, by compare-and-set.
//! - A pool begins only when all its stores were there at once, and none had voted ([`founding`]).
//! - A store is admitted by who has seen every key of it repaired, under the fence that this began with.

mod founding;
mod rebuild;

use std::rc::Rc;
use std::time::Duration;

use super::round::{Round, sleep};
use super::wire::{Answer, Cursor, write_probe};
use super::{Belief, Engine, Group, Member, Members};
use crate::backend::Backend;
use crate::protocol::resp::{Version, write_request};
use crate::version::{FENCE_KEY, Mark};

/// How often the fences are looked at when nothing asks for it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon they are looked at when something does.
const SOON: Duration = Duration::from_millis(20);
/// `1` if the key had the first value and has the second now.
const COMPARE_AND_SET: &[u8] =
    b"if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";

/// What is known of a store's fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not answered yet.
    Unknown,
    /// It has none, for so many looks.
    Empty(u32),
    /// Its pool begins, and it may not vote yet.
    Founding,
    /// It belongs to another ring, or is none.
    Foreign,
    /// It has the one that is believed.
    Known,
}

impl<B: Backend> Group<B> {
    /// The fingerprint that a store's fence has to have: of the ring, and of its place in it, so that two stores whose
    /// addresses were exchanged are noticed.
    fn fingerprint_of(&self, backend: &B, member: &Member<B>) -> u64 {
        self.settings.fingerprint ^ xxhash_rust::xxh3::xxh3_64(backend.name(&member.node).as_bytes())
    }

    /// Has the fences looked at soon.
    pub fn look_at_fences(&self) {
        self.look_soon.set(true);
    }

    fn all(&self) -> Members<B> {
        self.members.iter().map(Rc::clone).collect()
    }
}

impl<B: Backend> Engine<B> {
    /// Looks after a group's fences until the group is retired. With `leads`, begins the pool and rebuilds its stores;
    /// one worker of a process is enough for that.
    pub fn keep(self: &Rc<Self>, group: &Rc<Group<B>>, leads: bool) {
        self.report(group);
        let (engine, group) = (Rc::clone(self), Rc::clone(group));
        self.spawn(async move {
            let mut checked = false;
            while !group.retired.get() && !engine.ending.get() {
                group.look_soon.set(false);
                engine.read_fences(&group).await;
                if leads {
                    engine.begin_pool(&group).await;
                    engine.rebuild_one(&group).await;
                    if !checked && group.members.iter().all(|member| member.votes()) {
                        checked = true;
                        engine.check_settings(&group).await;
                    }
                }
                engine.report(&group);
                let mut waited = Duration::ZERO;
                let interval = if group.members.iter().all(|it| it.votes()) { INTERVAL } else { INTERVAL / 4 };
                while waited < interval && !group.look_soon.get() {
                    sleep(&engine.backend, SOON).await;
                    waited += SOON;
                }
            }
        });
    }

    /// Shows how the group is to whoever reads its metrics.
    fn report(&self, group: &Group<B>) {
        if group.retired.get() {
            return;
        }
        let skew_ms = self.hlc.skew_ms(self.backend.wall_ms());
        group.cells.clock_skew_ms.set(i64::try_from(skew_ms).unwrap_or(i64::MAX));
        group.cells.set_members(group.members.iter().map(|member| (self.backend.name(&member.node), member.votes())));
    }

    /// A store answered with a fence that is not the expected one.
    pub(super) fn fenced(&self, group: &Rc<Group<B>>, members: &Members<B>, index: usize, found: &[u8]) {
        group.cells.fenced.increment();
        if let Some(member) = members.get(index) {
            self.believe(group, member, found);
        }
        group.look_at_fences();
    }

    /// Says what an answer that decides nothing was, for people; takes a fence from it.
    pub(super) fn other_answer(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        index: usize,
        answer: &Answer<'_>,
    ) -> String {
        let label = members.get(index).map(|member| self.backend.label(&member.node)).unwrap_or_default();
        match answer {
            Answer::Fenced(found) => {
                self.fenced(group, members, index, found);
                format!("{label}: its fence has changed")
            }
            Answer::Failed(text) | Answer::Error(text) => format!("{label}: {}", String::from_utf8_lossy(text)),
            Answer::Behind => format!("{label}: it is behind"),
            Answer::Refused(_) => "other writers are at work on the key".to_owned(),
            _ => format!("{label}: an answer that is none"),
        }
    }

    /// Takes a fence as it was found in a store.
    fn believe(&self, group: &Group<B>, member: &Rc<Member<B>>, found: &[u8]) {
        let label = || self.backend.label(&member.node);
        if found.is_empty() {
            let looks = match member.standing.get() {
                Standing::Empty(looks) => looks,
                _ => 0,
            };
            member.standing.set(Standing::Empty(looks));
            self.forgot(group, member);
            return;
        }
        let mark = Mark::decode(found);
        if !mark.as_ref().is_ok_and(|mark| mark.fingerprint() == group.fingerprint_of(&self.backend, member)) {
            if member.standing.replace(Standing::Foreign) != Standing::Foreign {
                let why = mark
                    .err()
                    .map_or_else(|| "it belongs to another ring or another node".to_owned(), |it| it.to_string());
                tracing::error!(pool = %group.name, node = %label(), %why, "the store is not touched: its fence is not this pool's; use the configuration it was set up with, or empty it");
            }
            if member.belief.take().is_some() {
                group.generation.set(self.next_serial());
            }
            return;
        }
        match mark {
            Ok(Mark::Fence(fence)) => {
                member.standing.set(Standing::Known);
                if member.belief.get().is_none_or(|belief| belief.fence != fence) {
                    member.belief.set(Some(Belief { fence, bytes: fence.encode() }));
                    group.generation.set(self.next_serial());
                    tracing::debug!(pool = %group.name, node = %label(), epoch = fence.epoch, state = ?fence.state, "fence");
                }
            }
            Ok(Mark::Founding(founding)) => {
                member.standing.set(Standing::Founding);
                *member.founding.borrow_mut() = Some(founding);
                self.forgot(group, member);
            }
            Err(_) => {}
        }
    }

    /// What is believed of a store is no longer so: it was emptied.
    fn forgot(&self, group: &Group<B>, member: &Member<B>) {
        if member.belief.take().is_some() {
            tracing::warn!(pool = %group.name, node = %self.backend.label(&member.node), "the store has lost its memory: it does not vote until it is rebuilt");
            group.generation.set(self.next_serial());
        }
    }

    /// Reads the fence of every store that answers.
    async fn read_fences(&self, group: &Rc<Group<B>>) {
        let members = group.all();
        let write = |_: usize, _, out: &mut Vec<u8>| write_probe(out, std::iter::empty(), None);
        let round = Round::new(self, &members, Version::Resp2, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        while let Some((at, said)) = round.next().await {
            let Some(member) = members.get(at) else { continue };
            let Ok(reply) = said else { continue };
            let mut cursor = Cursor::new(&reply);
            let Some(found) = cursor.array().filter(|count| *count == 1).and_then(|_| cursor.bulk()) else { continue };
            self.believe(group, member, found);
            if let Standing::Empty(looks) = member.standing.get() {
                member.standing.set(Standing::Empty(looks.saturating_add(1)));
            }
        }
    }

    /// Gives a store another fence, if it has the one that is believed. Whether it has it now.
    async fn change_fence(&self, group: &Group<B>, member: &Rc<Member<B>>, from: &[u8], to: &[u8]) -> bool {
        let words: &[&[u8]] = &[b"EVAL", COMPARE_AND_SET, b"1", FENCE_KEY, from, to];
        if self.ask(group, member, words).await.is_none_or(|reply| reply != b":1\r\n") {
            return false;
        }
        self.believe(group, member, to);
        true
    }

    /// One request to one store.
    async fn ask(&self, group: &Group<B>, member: &Rc<Member<B>>, words: &[&[u8]]) -> Option<Vec<u8>> {
        let members: Members<B> = std::iter::once(Rc::clone(member)).collect();
        let write = |_: usize, _, out: &mut Vec<u8>| write_request(out, words.iter().copied());
        let round = Round::new(self, &members, Version::Resp2, 0, &write);
        round.ask(0);
        match round.next().await {
            Some((_, Ok(reply))) if reply.first() != Some(&b'-') => Some(reply),
            Some((_, Ok(reply))) => {
                let error = String::from_utf8_lossy(&reply);
                tracing::warn!(pool = %group.name, node = %self.backend.label(&member.node), error = %error.trim_end(), "a store refuses what a replicated pool needs");
                None
            }
            _ => None,
        }
    }

    /// Says what the stores' own settings do not allow the pool to promise.
    async fn check_settings(&self, group: &Rc<Group<B>>) {
        for member in &group.members {
            let node = self.backend.label(&member.node);
            let setting = async |name: &[u8]| {
                let reply = self.ask(group, member, &[b"CONFIG", b"GET", name]).await?;
                let mut cursor = Cursor::new(&reply);
                cursor.array().filter(|count| *count == 2)?;
                let _: &[u8] = cursor.bulk()?;
                Some(String::from_utf8_lossy(cursor.bulk()?).into_owned())
            };
            let policy = setting(b"maxmemory-policy").await.unwrap_or_default();
            let limit = setting(b"maxmemory").await.unwrap_or_default();
            if limit != "0" && !limit.is_empty() && policy != "noeviction" && group.settings.is_strict {
                tracing::warn!(pool = %group.name, %node, policy, "the store evicts: it drops keys and their records by itself, and the pool cannot be linearizable; set maxmemory-policy noeviction, or level = \"eventual\"");
            }
            let appends = setting(b"appendonly").await.unwrap_or_default();
            let saves = setting(b"save").await.unwrap_or_default();
            if appends == "no" && saves.is_empty() {
                tracing::warn!(pool = %group.name, %node, "the store keeps nothing on disk: a restart empties it, and it is rebuilt from its peers; two at once lose data");
            } else if appends == "no" {
                tracing::warn!(pool = %group.name, %node, "the store keeps snapshots only: a crash takes it back in time without anybody noticing, and acknowledged writes may be lost with it; set appendonly yes");
            }
        }
    }
}
