//! Bringing back a store that lost its memory: its peers' fences are raised, every key is copied to it from a quorum, and
//! then it votes.
//!
//! The fences are raised at each beginning, also of a rebuild that another proxy began: the fence that it left in the store
//! may be an old one that arrived late, after the store had voted again and was emptied again.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::super::proposal::Proposal;
use super::super::repair::Repair;
use super::super::wire::Cursor;
use super::super::{Engine, Group, Member, Members};
use super::Standing;
use crate::backend::Backend;
use crate::version::{FENCE_KEY, Fence, FenceState, key_of_record, placed_as};

/// A store that has no fence for so many looks has lost its memory, and is not just being given one.
const EMPTY_LOOKS: u32 = 2;
/// Who rebuilds a store holds this key there.
const LEASE_KEY: &[u8] = b"\0ql";
const LEASE_MS: &[u8] = b"10000";
/// Keys repaired at a time, and keys that one SCAN asks for.
const AT_A_TIME: usize = 32;
const SCAN_COUNT: &[u8] = b"500";

impl<B: Backend> Member<B> {
    fn needs_rebuild(&self, group: &Group<B>) -> bool {
        match (self.standing.get(), self.belief.get()) {
            (Standing::Empty(looks), _) => looks >= EMPTY_LOOKS,
            (Standing::Known, Some(belief)) => belief.fence.state == FenceState::Rebuilding,
            (Standing::Founding, _) => self.is_late(group),
            _ => false,
        }
    }

    /// The bytes of its fence key, as far as they are known.
    fn mark(&self) -> Vec<u8> {
        match self.belief.get() {
            Some(belief) => belief.bytes.to_vec(),
            None => self.says().map(|founding| founding.encode()).unwrap_or_default(),
        }
    }
}

impl<B: Backend> Engine<B> {
    /// Rebuilds one store that needs it.
    pub(super) async fn rebuild_one(self: &Rc<Self>, group: &Rc<Group<B>>) {
        let Some(member) = group.members.iter().find(|member| member.needs_rebuild(group)).map(Rc::clone) else {
            return;
        };
        let token = format!("{:016x}", self.backend.random());
        let lease: &[&[u8]] = &[b"SET", LEASE_KEY, token.as_bytes(), b"NX", b"PX", LEASE_MS];
        if self.ask(group, &member, lease).await.is_none_or(|reply| reply != b"+OK\r\n") {
            return; // Somebody is at it.
        }
        self.read_fences(group).await;
        if !member.needs_rebuild(group) || !self.raise_fences(group, &member).await {
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
        let (quorums, before) = (group.quorums(), empty.mark());
        // So many of the peers in each set of replicas must know; any may be among those that cannot be reached.
        let may_lack = usize::from(quorums.replicas - 1).saturating_sub(usize::from(quorums.blocking()));
        let peers = || group.members.iter().filter(|peer| !Rc::ptr_eq(peer, empty));
        let away = peers().filter(|peer| !peer.votes() || !self.backend.is_available(&peer.node)).count();
        if away > may_lack {
            tracing::debug!(pool = %group.name, away, "a store without memory waits for its peers");
            return false;
        }
        // One more than any has, so that no two rebuilds have the same.
        let epoch =
            peers().filter_map(|peer| peer.belief.get()).map(|belief| belief.fence.epoch).max().unwrap_or(0) + 1;
        let (mut lacking, mut birth, mut pure) = (0, 0, true);
        for peer in group.members.iter().filter(|peer| !Rc::ptr_eq(peer, empty)) {
            let Some(belief) = peer.belief.get() else {
                lacking += 1;
                continue;
            };
            let raised = Fence { epoch, ..belief.fence };
            if !self.change_fence(group, peer, &belief.bytes, &raised.encode()).await {
                lacking += 1;
                continue;
            }
            birth = raised.birth;
            pure &= raised.pure;
        }
        if lacking > may_lack {
            tracing::warn!(pool = %group.name, node = %self.backend.label(&empty.node), lacking, "a store without memory waits: too many of its peers cannot be reached");
            return false;
        }
        let fingerprint = group.fingerprint_of(&self.backend, empty);
        let fence = Fence { fingerprint, birth, epoch, state: FenceState::Rebuilding, pure }.encode();
        if !before.is_empty() {
            return self.change_fence(group, empty, &before, &fence).await;
        }
        let given = self.ask(group, empty, &[b"SET", FENCE_KEY, &fence, b"NX"]).await;
        if given.is_none_or(|reply| reply != b"+OK\r\n") {
            return false;
        }
        self.believe(group, empty, &fence);
        true
    }

    /// The store holds everything: from now on it votes.
    async fn admit(&self, group: &Rc<Group<B>>, member: &Rc<Member<B>>) -> bool {
        let Some(belief) = member.belief.get() else { return false };
        let fence = Fence { state: FenceState::Member, ..belief.fence };
        self.change_fence(group, member, &belief.bytes, &fence.encode()).await
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
                let Some(members) = group.replicas_of(placed_as(&key)) else { continue };
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
