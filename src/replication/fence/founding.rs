//! How a pool begins, on stores any of which may be emptied meanwhile, with proxies any of which may die or come late.
//!
//! A store may vote if it has not forgotten a vote of its own. While nobody has voted that is true of all, and it stops
//! being so with the first vote; the fences have to tell the two apart, whoever looks and how late. So each store first gets
//! a random number for its memory. When all have one, a *round* is the hash of all numbers, and each store is told that it is
//! part of it. A store that was told so still has the memory that the round counted with. When all were told, any that
//! remembers this round votes; one that does not was emptied since, and is rebuilt like any other.
//!
//! # Invariants
//! - A memory is told of a round only before it votes. So a round that all stores remember is younger than every vote that
//!   any of these memories has given, and a vote that was given before is forgotten only by stores that were emptied.
//! - A store that votes names the round by which it does, so that those that come later know which to look for.
//! - If a store is emptied before all were told, the next round replaces the one that can no longer be complete.

use std::rc::Rc;

use super::super::{Engine, Group, Member};
use super::Standing;
use crate::backend::Backend;
use crate::version::{FENCE_KEY, Fence, FenceState, Founding};

impl<B: Backend> Member<B> {
    /// What the store says while its pool begins; none if it has begun there, or nothing is known.
    pub(super) fn says(&self) -> Option<Founding> {
        (self.standing.get() == Standing::Founding).then(|| self.founding.borrow().clone()).flatten()
    }

    /// The round by which it votes.
    fn birth(&self) -> Option<u32> {
        self.belief.get().filter(|_| self.votes()).map(|belief| belief.fence.birth)
    }

    /// Whether the store was emptied since the pool began, although it says that the pool begins: what it says came late.
    pub(super) fn is_late(&self, group: &Group<B>) -> bool {
        let Some(founding) = self.says() else { return false };
        let mut births = group.members.iter().filter_map(|member| member.birth()).peekable();
        births.peek().is_some() && !births.any(|birth| founding.rounds.contains(&birth))
    }
}

impl<B: Backend> Engine<B> {
    /// Goes on with the beginning of a pool, wherever it is.
    pub(super) async fn begin_pool(&self, group: &Rc<Group<B>>) {
        let is_empty = |member: &Rc<Member<B>>| matches!(member.standing.get(), Standing::Empty(_));
        if group.members.iter().all(|member| is_empty(member) || member.says().is_some()) {
            if !self.number_the_empty(group).await {
                return;
            }
            let Some(round) = self.tell_round(group).await else { return };
            let mut all = true;
            for member in &group.members {
                all &= self.let_vote(group, member, round).await;
            }
            if all {
                tracing::info!(pool = %group.name, pure = group.is_pure(), "a replicated pool begins");
            }
            return;
        }
        // One that votes is the proof that all were told of its round.
        for member in &group.members {
            let Some(founding) = member.says() else { continue };
            let births = || group.members.iter().filter_map(|member| member.birth());
            if let Some(birth) = births().find(|birth| founding.rounds.contains(birth)) {
                self.let_vote(group, member, birth).await;
            }
        }
    }

    /// Gives each store without a fence a number for its memory. Whether all have one now.
    async fn number_the_empty(&self, group: &Rc<Group<B>>) -> bool {
        for member in &group.members {
            if member.says().is_some() {
                continue;
            }
            let Some(size) = self.ask(group, member, &[b"DBSIZE"]).await else { return false };
            let founding = Founding {
                fingerprint: group.fingerprint_of(&self.backend, member),
                nonce: self.backend.random(),
                pure: size == b":0\r\n",
                rounds: Vec::new(),
            };
            let given = self.ask(group, member, &[b"SET", FENCE_KEY, &founding.encode(), b"NX"]).await;
            if given.is_none_or(|reply| reply != b"+OK\r\n") {
                return false; // Somebody was faster: the next look shows who.
            }
            self.believe(group, member, &founding.encode());
        }
        true
    }

    /// Tells each store of the round in which all are, if it does not know. The round, if all know.
    async fn tell_round(&self, group: &Rc<Group<B>>) -> Option<u32> {
        let numbers = group.members.iter().map(|member| {
            let said = member.says()?;
            Some(u128::from(xxhash_rust::xxh3::xxh3_64_with_seed(&said.nonce.to_be_bytes(), said.fingerprint)))
        });
        // A sum, so that the order in which a file names the stores does not matter.
        let sum = numbers.sum::<Option<u128>>()?;
        let [a, b, c, d, ..] = xxhash_rust::xxh3::xxh3_64(&sum.to_be_bytes()).to_be_bytes();
        let round = u32::from_be_bytes([a, b, c, d]);
        for member in &group.members {
            let founding = member.says()?;
            if founding.rounds.last() != Some(&round)
                && !self.change_fence(group, member, &founding.encode(), &founding.joined(round).encode()).await
            {
                return None;
            }
        }
        Some(round)
    }

    /// Lets a store vote that was told of a round of which all were told.
    async fn let_vote(&self, group: &Rc<Group<B>>, member: &Rc<Member<B>>, birth: u32) -> bool {
        let Some(founding) = member.says() else { return false };
        let Founding { fingerprint, pure, .. } = founding;
        let fence = Fence { fingerprint, birth, epoch: 1, state: FenceState::Member, pure };
        self.change_fence(group, member, &founding.encode(), &fence.encode()).await
    }
}
