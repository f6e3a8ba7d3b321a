//! What one worker counts for one replicated pool.
//!
//! # Invariants
//! - The counters have one writer, the worker; the request path reaches them without a look-up.
//! - Which stores vote is behind a lock: it is written when the fences were looked at, once a second, never by a request.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::cell::{Counter, Gauge};
use super::lock;

/// What one worker counts for one replicated pool. They stay for the life of the process.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ReplicationCells {
    /// Reads that were answered after one round.
    pub reads_in_one_round: Counter,
    /// Reads that needed more.
    pub reads_in_more_rounds: Counter,
    /// Writes that were answered after one round.
    pub writes_in_one_round: Counter,
    /// Writes that needed more.
    pub writes_in_more_rounds: Counter,
    /// Reads that were asked again because they took too long.
    pub hedges: Counter,
    /// Keys that were brought to a replica before a read was answered.
    pub read_repairs: Counter,
    /// Keys that were brought to a replica in the background.
    pub repairs: Counter,
    /// Keys that found no room in the queue of the background.
    pub repairs_dropped: Counter,
    /// Keys that wait in that queue.
    pub repairs_waiting: Gauge,
    /// Keys from before quoit that got a record.
    pub adopted: Counter,
    /// Answers of stores that had seen a newer ballot.
    pub refusals: Counter,
    /// Answers of stores whose fence was not the expected one.
    pub fenced: Counter,
    /// Answers `-UNKNOWN`.
    pub unknown: Counter,
    /// Answers `-NOREPLICAS`.
    pub no_replicas: Counter,
    /// States that a store could not read.
    pub transfers_refused: Counter,
    /// Stores that were rebuilt.
    pub rebuilds: Counter,
    /// By how much the worker's ballots are ahead of its wall clock.
    pub clock_skew_ms: Gauge,
    members: Mutex<BTreeMap<String, bool>>,
}

impl ReplicationCells {
    /// Says which stores the pool has and whether each votes; those that are not named are forgotten.
    pub fn set_members<'n>(&self, members: impl Iterator<Item = (&'n str, bool)>) {
        *lock(&self.members) = members.map(|(name, votes)| (name.to_owned(), votes)).collect();
    }

    /// The pool is not served any more: what describes the present is forgotten, what was counted stays.
    pub fn retire(&self) {
        self.clock_skew_ms.set(0);
        lock(&self.members).clear();
    }

    /// Adds this worker's opinion: a store votes if all workers say so.
    pub(super) fn add_members(&self, all: &mut BTreeMap<String, bool>) {
        for (name, votes) in lock(&self.members).iter() {
            all.entry(name.clone()).and_modify(|sum| *sum &= votes).or_insert(*votes);
        }
    }
}
