//! Quorums: how many replicas must answer, and what may be said when some of them did.
//!
//! A replicated pool has [`Quorums`], the numbers of its replicas; a request has a [`Level`], which says what it wants of
//! them. The coordinator counts replies in a [`Tally`] and answers when its [`Outcome`] is no longer pending.
//!
//! # Invariants
//! - Pure: numbers in, a verdict out. No clock, randomness or socket. [`Lag`] is what workers tell each other.
//! - [`Quorums::check`] holds wherever a level is served that [needs it](Level::needs_quorums): any two write quorums then
//!   share a replica, and any read quorum shares one with any write quorum.
//!
//! It does not know nodes, keys or versions: which of several values is the newest is not decided here.

mod lag;
mod level;
mod tally;

pub use lag::Lag;
pub use level::{Level, UnknownLevel};
pub use tally::{Outcome, Tally};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers of one pool's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// On how many nodes each key is kept: N.
    pub replicas: u8,
    /// How many of them must have taken a write: W.
    pub write: u8,
    /// How many of them a read asks at least: R.
    pub read: u8,
}

/// Why quorums cannot serve a level that needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// A quorum of none, or of more replicas than there are.
    #[error("quorums of {} and {} out of {} replicas", .0.write, .0.read, .0.replicas)]
    OutOfBounds(Quorums),
    /// Two writes could each have their quorum and no replica in common.
    #[error("two write quorums of {} out of {} replicas need not meet: 2 * {} is not more than {}", .0.write, .0.replicas, .0.write, .0.replicas)]
    WritesApart(Quorums),
    /// A read could ask only replicas that a write did not reach.
    #[error("a read quorum of {} can miss a write quorum of {} out of {} replicas: {} + {} is not more than {}", .0.read, .0.write, .0.replicas, .0.read, .0.write, .0.replicas)]
    ReadMisses(Quorums),
}

impl Quorums {
    /// Majorities for both: what a pool has that sets nothing.
    pub fn of_majorities(replicas: u8) -> Self {
        let majority = majority_of(replicas);
        Self { replicas, write: majority, read: majority }
    }

    /// The least number of which any two share a replica: Q. What a promise needs.
    pub fn majority(self) -> u8 {
        majority_of(self.replicas)
    }

    /// How many replicas must hold the same version before a read may answer with it: enough for the next read, which asks
    /// R of them, to meet one.
    pub fn agree(self) -> u8 {
        self.read.max(self.replicas.saturating_sub(self.read).saturating_add(1))
    }

    /// The least number of replicas without which no majority is left: if so many never took a write, it was never chosen.
    pub fn blocking(self) -> u8 {
        self.replicas.saturating_sub(self.majority()).saturating_add(1)
    }

    /// Whether every two writes, and every write and read, share a replica.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(self) -> Result<(), QuorumError> {
        let (replicas, write, read) = (u16::from(self.replicas), u16::from(self.write), u16::from(self.read));
        if write == 0 || read == 0 || replicas < write || replicas < read {
            Err(QuorumError::OutOfBounds(self))
        } else if 2 * write <= replicas {
            Err(QuorumError::WritesApart(self))
        } else if write + read <= replicas {
            Err(QuorumError::ReadMisses(self))
        } else {
            Ok(())
        }
    }
}

fn majority_of(replicas: u8) -> u8 {
    replicas / 2 + 1
}

/// Which of several values wins that were in the stores before quoit and so have no version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Adopt {
    /// The value that most replicas hold; among as many, the one that comes first in the order of the ring.
    #[default]
    Majority,
    /// The value of the first replica, in the order of the ring, that has one.
    First,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check((replicas, write, read): (u8, u8, u8), agree: u8, want: &str) {
        let quorums = Quorums { replicas, write, read };
        let got = match quorums.check() {
            Ok(()) => "ok",
            Err(QuorumError::OutOfBounds(_)) => "out of bounds",
            Err(QuorumError::WritesApart(_)) => "writes apart",
            Err(QuorumError::ReadMisses(_)) => "read misses",
        };
        assert_eq!((got, quorums.agree()), (want, agree), "{quorums:?}");
    }

    #[test]
    fn quorums_that_meet() {
        //     N  W  R  agree
        check((1, 1, 1), 1, "ok");
        check((2, 2, 2), 2, "ok");
        check((2, 2, 1), 2, "ok");
        check((2, 1, 2), 2, "writes apart");
        check((3, 2, 2), 2, "ok");
        check((3, 3, 1), 3, "ok");
        check((3, 2, 3), 3, "ok");
        check((3, 2, 1), 3, "read misses");
        check((3, 1, 3), 3, "writes apart");
        check((3, 0, 3), 3, "out of bounds");
        check((3, 3, 0), 4, "out of bounds");
        check((3, 4, 2), 2, "out of bounds");
        check((4, 2, 3), 3, "writes apart");
        check((4, 3, 2), 3, "ok");
        check((5, 3, 3), 3, "ok");
        check((5, 4, 2), 4, "ok");
        check((7, 4, 4), 4, "ok");
        check((7, 4, 3), 5, "read misses");
    }

    #[test]
    fn an_error_shows_its_sum() {
        let text = |replicas, write, read| Quorums { replicas, write, read }.check().unwrap_err().to_string();
        assert_eq!(text(4, 2, 3), "two write quorums of 2 out of 4 replicas need not meet: 2 * 2 is not more than 4");
        assert_eq!(
            text(3, 2, 1),
            "a read quorum of 1 can miss a write quorum of 2 out of 3 replicas: 1 + 2 is not more than 3"
        );
    }

    /// What was chosen by a majority cannot be missing on as many as block one.
    #[test]
    fn majorities_meet_what_blocks_them() {
        for replicas in 1..=7 {
            let quorums = Quorums::of_majorities(replicas);
            assert_eq!(quorums.check(), Ok(()));
            assert_eq!((quorums.agree(), quorums.write), (quorums.majority(), quorums.majority()));
            assert_eq!(quorums.majority() + quorums.blocking(), replicas + 1);
        }
    }
}
