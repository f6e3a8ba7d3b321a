//! What came of runs: what was asked, how it ended, and how often what went wrong.

use std::collections::BTreeMap;
use std::fmt;

use quoit::quorum::Level;

use crate::network::Counts;

/// What came of a run, or of many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    pub(crate) runs: u64,
    pub(crate) operations: u64,
    pub(crate) unknown: u64,
    pub(crate) failed: u64,
    /// Keys whose history was too much to look at.
    pub(crate) undecided: u64,
    pub(crate) rebuilt: u64,
    /// Writes that took more than one round, and reads.
    pub(crate) long_writes: u64,
    pub(crate) long_reads: u64,
    pub(crate) hedges: u64,
    pub(crate) repairs: u64,
    pub(crate) virtual_us: u64,
    /// Keys of which a replica was behind at the end: proxies that crashed forgot to repair it.
    pub(crate) behind: u64,
    /// Runs with clocks that differ, and such that began with keys from before quoit.
    pub(crate) skewed: u64,
    pub(crate) impure: u64,
    pub(crate) flushes: u64,
    /// Requests to stores that were of several operations.
    pub(crate) bundles: u64,
    pub(crate) faults: Counts,
    pub(crate) verbs: BTreeMap<&'static str, u64>,
    pub(crate) levels: BTreeMap<&'static str, u64>,
    /// The first thing that must not be, of one run.
    pub(crate) violation: Option<String>,
    pub(crate) trace: String,
}

/// The name of a level.
pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::Linearizable => "linearizable",
        Level::All => "all",
        Level::Eventual => "eventual",
        Level::One => "one",
    }
}

impl Outcome {
    /// Counts another run, too. What was wrong with it stays with that.
    pub(crate) fn add(&mut self, other: &Self) {
        let sums: [(&mut u64, u64); 26] = [
            (&mut self.runs, other.runs),
            (&mut self.operations, other.operations),
            (&mut self.unknown, other.unknown),
            (&mut self.failed, other.failed),
            (&mut self.undecided, other.undecided),
            (&mut self.rebuilt, other.rebuilt),
            (&mut self.long_writes, other.long_writes),
            (&mut self.long_reads, other.long_reads),
            (&mut self.hedges, other.hedges),
            (&mut self.repairs, other.repairs),
            (&mut self.virtual_us, other.virtual_us),
            (&mut self.behind, other.behind),
            (&mut self.skewed, other.skewed),
            (&mut self.impure, other.impure),
            (&mut self.flushes, other.flushes),
            (&mut self.bundles, other.bundles),
            (&mut self.faults.slow, other.faults.slow),
            (&mut self.faults.cuts, other.faults.cuts),
            (&mut self.faults.lost, other.faults.lost),
            (&mut self.faults.late, other.faults.late),
            (&mut self.faults.doubled, other.faults.doubled),
            (&mut self.faults.stalled, other.faults.stalled),
            (&mut self.faults.crashes, other.faults.crashes),
            (&mut self.faults.restarts, other.faults.restarts),
            (&mut self.faults.wipes, other.faults.wipes),
            (&mut self.faults.messages, other.faults.messages),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        for (counts, more) in [(&mut self.verbs, &other.verbs), (&mut self.levels, &other.levels)] {
            for (name, count) in more {
                *counts.entry(name).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, operations, unknown, failed, undecided, .. } = self;
        writeln!(
            f,
            "{runs} runs, {} s simulated: {operations} operations, {unknown} unknown, {failed} not applied, {undecided} keys undecided",
            self.virtual_us / 1_000_000
        )?;
        let named = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "  verbs: {}", named(&self.verbs))?;
        writeln!(f, "  levels: {}", named(&self.levels))?;
        writeln!(
            f,
            "  more than one round: {} writes, {} reads ({} hedged); {} repairs, {} stores rebuilt, {} keys behind at the end; {} requests to stores were of several operations",
            self.long_writes, self.long_reads, self.hedges, self.repairs, self.rebuilt, self.behind, self.bundles
        )?;
        let Counts { messages, slow, cuts, lost, late, doubled, stalled, crashes, restarts, wipes } = &self.faults;
        write!(
            f,
            "  faults: {messages} messages, {slow} slow, {lost} lost, {doubled} doubled, {late} executed after their connection was gone, {stalled} stalled; {cuts} connections broken, {crashes} proxies crashed, {restarts} stores restarted, {wipes} stores emptied, {} script caches flushed; {} runs with skewed clocks, {} with keys from before",
            self.flushes, self.skewed, self.impure
        )
    }
}
