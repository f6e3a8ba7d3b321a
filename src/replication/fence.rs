//! Which stores may vote. Each store has a fence key; every script and every read carries what the proxy believes it to
//! be, and a store that disagrees is not counted.
//!
//! A store without the key has lost its memory: it holds older states than it once confirmed. It votes again after the
//! fences of its peers were raised, so that nothing that was under way before can still be counted with it, and after
//! every key was brought to it from a quorum.
//!
//! # Invariants
//! - A fence only ever changes from one value that was seen to the next, by compare-and-set.
//! - A pool begins only when all its stores are there and none has a fence.
//! - A store is admitted by who has seen every key of it repaired, under the fence that this began with.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::proposal::Proposal;
use super::repair::Repair;
use super::round::{Round, sleep};
use super::wire::{Answer, Cursor, write_probe};
use super::{Belief, Engine, Group, Member, Members};
use crate::backend::Backend;
use crate::protocol::resp::{Version, write_request};
use crate::version::{FENCE_KEY, Fence, FenceState, key_of_record};

/// How often the fences are looked at when nothing asks for it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How soon they are looked at when something does.
const SOON: Duration = Duration::from_millis(20);
/// A store that has no fence for so many looks has lost its memory, and is not just being given one.
const EMPTY_LOOKS: u32 = 2;
/// Who rebuilds a store holds this key there.
const LEASE_KEY: &[u8] = b"\0ql";
const LEASE_MS: &[u8] = b"10000";
/// Keys repaired at a time, and keys that one SCAN asks for.
const AT_A_TIME: usize = 32;
const SCAN_COUNT: &[u8] = b"500";

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
        let before = member.belief.get();
        if found.is_empty() {
            let looks = match member.standing.get() {
                Standing::Empty(looks) => looks,
                _ => 0,
            };
            member.standing.set(Standing::Empty(looks));
            if before.is_some() {
                tracing::warn!(pool = %group.name, node = %label(), "the store has lost its memory: it does not vote until it is rebuilt");
                member.belief.set(None);
                group.generation.set(self.next_serial());
            }
            return;
        }
        match Fence::decode(found) {
            Ok(fence) if fence.fingerprint == group.fingerprint_of(&self.backend, member) => {
                member.standing.set(Standing::Known);
                if before.is_none_or(|belief| belief.fence != fence) {
                    member.belief.set(Some(Belief { fence, bytes: fence.encode() }));
                    group.generation.set(self.next_serial());
                    tracing::debug!(pool = %group.name, node = %label(), epoch = fence.epoch, state = ?fence.state, "fence");
                }
            }
            other => {
                if member.standing.replace(Standing::Foreign) != Standing::Foreign {
                    let why = other
                        .err()
                        .map_or_else(|| "it belongs to another ring or another node".to_owned(), |it| it.to_string());
                    tracing::error!(pool = %group.name, node = %label(), %why, "the store is not touched: its fence is not this pool's; use the configuration it was set up with, or empty it");
                }
                if before.is_some() {
                    member.belief.set(None);
                    group.generation.set(self.next_serial());
                }
            }
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

    /// A pool whose stores have never been told so: all of them answer and none votes yet. First each gets a fence that
    /// does not vote; when all have one, they vote. Whoever comes after a proxy that died in between goes on.
    async fn begin_pool(&self, group: &Rc<Group<B>>) {
        let is_begun = |member: &Rc<Member<B>>| {
            member.belief.get().is_some_and(|belief| belief.fence.state == FenceState::Beginning)
        };
        let is_empty = |member: &Rc<Member<B>>| matches!(member.standing.get(), Standing::Empty(_));
        if group.members.iter().all(|member| is_empty(member) || is_begun(member)) {
            for member in group.members.iter().filter(|member| is_empty(member)) {
                let Some(size) = self.ask(group, member, &[b"DBSIZE"]).await else { return };
                let fingerprint = group.fingerprint_of(&self.backend, member);
                let pure = size == b":0\r\n";
                let fence = Fence { fingerprint, epoch: 1, state: FenceState::Beginning, pure };
                if self.ask(group, member, &[b"SET", FENCE_KEY, &fence.encode(), b"NX"]).await.is_none() {
                    return;
                }
            }
            self.read_fences(group).await;
        }
        let is_known = |member: &Rc<Member<B>>| member.standing.get() == Standing::Known;
        // One that votes is the proof that all had a fence, whatever became of some since.
        let may_begin = group.members.iter().all(is_known) || group.members.iter().any(|member| member.votes());
        if !group.members.iter().any(is_begun) || !may_begin {
            return;
        }
        for member in group.members.iter().filter(|member| is_begun(member)) {
            let Some(belief) = member.belief.get() else { return };
            let fence = Fence { state: FenceState::Member, ..belief.fence };
            let words: &[&[u8]] = &[b"EVAL", COMPARE_AND_SET, b"1", FENCE_KEY, &belief.bytes, &fence.encode()];
            if self.ask(group, member, words).await.is_none() {
                return;
            }
        }
        tracing::info!(pool = %group.name, pure = group.is_pure(), "a replicated pool begins");
        self.read_fences(group).await;
    }

    /// Rebuilds one store that needs it.
    async fn rebuild_one(self: &Rc<Self>, group: &Rc<Group<B>>) {
        let needs = |member: &&Rc<Member<B>>| match (member.standing.get(), member.belief.get()) {
            (Standing::Empty(looks), _) => looks >= EMPTY_LOOKS,
            (Standing::Known, Some(belief)) => belief.fence.state == FenceState::Rebuilding,
            _ => false,
        };
        let Some(member) = group.members.iter().find(needs).map(Rc::clone) else { return };
        let token = format!("{:016x}", self.backend.random());
        let lease: &[&[u8]] = &[b"SET", LEASE_KEY, token.as_bytes(), b"NX", b"PX", LEASE_MS];
        if self.ask(group, &member, lease).await.is_none_or(|reply| reply != b"+OK\r\n") {
            return; // Somebody is at it.
        }
        if matches!(member.standing.get(), Standing::Empty(_)) && !self.raise_fences(group, &member).await {
            drop(self.ask(group, &member, &[b"DEL", LEASE_KEY]).await);
            return;
        }
        let label = self.backend.label(&member.node);
        tracing::info!(pool = %group.name, node = %label, "a store is rebuilt");
        let done = self.copy_to(group, &member, &token).await;
        if done && self.admit(group, &member).await {
            group.cells.rebuilds.increment();
            tracing::info!(pool = %group.name, node = %label, "the store is rebuilt and votes");
        } else {
            tracing::warn!(pool = %group.name, node = %label, "the store could not be rebuilt yet");
        }
        drop(self.ask(group, &member, &[b"DEL", LEASE_KEY]).await);
    }

    /// Raises the fences of the peers of an empty store, and gives it one under which it is rebuilt.
    async fn raise_fences(&self, group: &Rc<Group<B>>, empty: &Rc<Member<B>>) -> bool {
        let quorums = group.quorums();
        // So many of the peers in each set of replicas must know; any may be among those that cannot be reached.
        let may_lack = usize::from(quorums.replicas - 1).saturating_sub(usize::from(quorums.blocking()));
        let peers = || group.members.iter().filter(|peer| !Rc::ptr_eq(peer, empty));
        let away = peers().filter(|peer| !peer.votes() || !self.backend.is_available(&peer.node)).count();
        if away > may_lack {
            tracing::debug!(pool = %group.name, away, "a store without memory waits for its peers");
            return false;
        }
        let (mut lacking, mut epoch, mut pure) = (0, 0, true);
        for peer in group.members.iter().filter(|peer| !Rc::ptr_eq(peer, empty)) {
            let Some(belief) = peer.belief.get() else {
                lacking += 1;
                continue;
            };
            let raised = Fence { epoch: belief.fence.epoch + 1, ..belief.fence };
            let words: &[&[u8]] = &[b"EVAL", COMPARE_AND_SET, b"1", FENCE_KEY, &belief.bytes, &raised.encode()];
            if self.ask(group, peer, words).await.is_none_or(|reply| reply != b":1\r\n") {
                lacking += 1;
                continue;
            }
            self.believe(group, peer, &raised.encode());
            epoch = epoch.max(raised.epoch);
            pure &= belief.fence.pure;
        }
        if lacking > may_lack {
            tracing::warn!(pool = %group.name, node = %self.backend.label(&empty.node), lacking, "a store without memory waits: too many of its peers cannot be reached");
            return false;
        }
        let fingerprint = group.fingerprint_of(&self.backend, empty);
        let fence = Fence { fingerprint, epoch, state: FenceState::Rebuilding, pure };
        let given = self.ask(group, empty, &[b"SET", FENCE_KEY, &fence.encode(), b"NX"]).await;
        if given.is_none_or(|reply| reply != b"+OK\r\n") {
            return false;
        }
        self.believe(group, empty, &fence.encode());
        true
    }

    /// The store holds everything: from now on it votes.
    async fn admit(&self, group: &Rc<Group<B>>, member: &Rc<Member<B>>) -> bool {
        let Some(belief) = member.belief.get() else { return false };
        let fence = Fence { state: FenceState::Member, ..belief.fence };
        let words: &[&[u8]] = &[b"EVAL", COMPARE_AND_SET, b"1", FENCE_KEY, &belief.bytes, &fence.encode()];
        if self.ask(group, member, words).await.is_none_or(|reply| reply != b":1\r\n") {
            return false;
        }
        self.believe(group, member, &fence.encode());
        true
    }

    /// Brings every key that a store should hold to it, each from a quorum. Whether all are there.
    async fn copy_to(self: &Rc<Self>, group: &Rc<Group<B>>, member: &Rc<Member<B>>, token: &str) -> bool {
        let failed = Rc::new(Cell::new(0_u64));
        for peer in group.members.iter().filter(|peer| !Rc::ptr_eq(peer, member)) {
            if !self.copy_keys_of(group, peer, member, token, &failed).await {
                // What is on this peer alone and on no other is on no quorum; but which keys those are is not known.
                return false;
            }
        }
        failed.get() == 0
    }

    /// Every key that `peer` has and `member` should have.
    async fn copy_keys_of(
        self: &Rc<Self>,
        group: &Rc<Group<B>>,
        peer: &Rc<Member<B>>,
        member: &Rc<Member<B>>,
        token: &str,
        failed: &Rc<Cell<u64>>,
    ) -> bool {
        let permits = Arc::new(Semaphore::new(AT_A_TIME));
        let mut cursor = b"0".to_vec();
        loop {
            let Some(reply) = self.ask(group, peer, &[b"SCAN", &cursor, b"COUNT", SCAN_COUNT]).await else {
                return false;
            };
            let Some((next, keys)) = scanned(&reply) else { return false };
            for key in keys {
                let Some(members) = group.replicas_of(&key) else { continue };
                if !members.iter().any(|replica| Rc::ptr_eq(replica, member)) {
                    continue;
                }
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return false };
                let (engine, group, failed) = (Rc::clone(self), Rc::clone(group), Rc::clone(failed));
                let member = Rc::clone(member);
                self.spawn(async move {
                    if !engine.copy_key(&group, &members, &member, &key).await {
                        failed.set(failed.get() + 1);
                    }
                    drop(permit);
                });
            }
            // The lease is renewed by who holds it; who has lost it stops.
            let held = self.ask(group, member, &[b"GET", LEASE_KEY]).await;
            let renewed = self.ask(group, member, &[b"SET", LEASE_KEY, token.as_bytes(), b"PX", LEASE_MS]).await;
            if held.is_none() || renewed.is_none() || failed.get() > 0 {
                return false;
            }
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
        // All permits are back: all keys are done.
        let all = u32::try_from(AT_A_TIME).unwrap_or(u32::MAX);
        permits.acquire_many(all).await.is_ok()
    }

    async fn copy_key(&self, group: &Rc<Group<B>>, members: &Members<B>, to: &Rc<Member<B>>, key: &[u8]) -> bool {
        for _ in 0..3 {
            match self.repair(group, members, key).await {
                Repair::Left(left) => {
                    if !left.iter().any(|at| members.get(*at).is_some_and(|member| Rc::ptr_eq(member, to))) {
                        return true;
                    }
                }
                // A key from before quoit: it gets a record.
                Repair::NoRecord => {
                    if !self.settle(Proposal::identity(self, group, members, key)).await {
                        return false;
                    }
                }
                Repair::TooFew => return false,
            }
        }
        false
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

/// The next cursor, and the keys of clients that a `SCAN` gave: those of records count as their keys.
fn scanned(reply: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut cursor = Cursor::new(reply);
    cursor.array().filter(|count| *count == 2)?;
    let next = cursor.bulk()?.to_vec();
    let count = cursor.array()?;
    let mut keys: Vec<Vec<u8>> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = cursor.bulk()?;
        match key_of_record(name) {
            Some(key) => keys.push(key.to_vec()),
            None if crate::version::is_reserved(name) => {}
            None => keys.push(name.to_vec()),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Some((next, keys))
}
