//! The hybrid logical clock of one worker: where ballots and operation ids come from.

use std::cell::Cell;

use super::ballot::{Ballot, OpId, WRITER_BITS};

/// How many bits of a hybrid time count within one millisecond.
const COUNTER_BITS: u32 = 16;
const NUMBER_BITS: u32 = u64::BITS - WRITER_BITS;

/// Hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): wall-clock time where that moves forward, and
/// a counter where it does not.
///
/// It is one worker's, so its state is in cells. Time comes in as an argument. Every ballot that a store shows goes to
/// [`Hlc::saw`], also one from the far future: order must hold, and [`Hlc::skew_ms`] tells how far ahead that led.
#[derive(Debug)]
pub struct Hlc {
    last: Cell<u64>,
    /// Who gives the ids, and the number of the last one.
    writer: Cell<u64>,
    number: Cell<u64>,
    /// Where further writers come from: an id has room for 2^24 numbers, minutes of a busy worker.
    seed: Cell<u64>,
}

impl Hlc {
    /// A clock whose ids are this worker's. The seed has to be random: two workers with the same one share their ids.
    pub fn new(writer_seed: u64) -> Self {
        let hlc = Self { last: Cell::new(0), writer: Cell::new(0), number: Cell::new(0), seed: Cell::new(writer_seed) };
        hlc.become_another_writer();
        hlc
    }

    /// A ballot newer than all that were given or seen, the first of its term. `wall_ms` is Unix time.
    pub fn next(&self, wall_ms: u64) -> Ballot {
        let wall = wall_ms.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS;
        // At the end of time, some 8,900 years from now, the ids still tell ballots apart.
        let hlc = wall.max(self.last.get().saturating_add(1));
        self.last.set(hlc);
        Ballot { hlc, id: self.op_id().0, seq: 0 }
    }

    /// An id that no other operation has.
    pub fn op_id(&self) -> OpId {
        let number = self.number.get() + 1;
        if number >> NUMBER_BITS != 0 {
            self.become_another_writer();
            return self.op_id();
        }
        self.number.set(number);
        OpId(self.writer.get() << NUMBER_BITS | number)
    }

    /// What a store showed: the next ballots are newer.
    pub fn saw(&self, ballot: Ballot) {
        self.last.set(self.last.get().max(ballot.hlc));
    }

    /// How many milliseconds this clock is ahead of the wall clock: another worker's clock was, or ours went back.
    pub fn skew_ms(&self, wall_ms: u64) -> u64 {
        (self.last.get() >> COUNTER_BITS).saturating_sub(wall_ms)
    }

    /// Takes a new writer from the seed, by `SplitMix64` (Steele, Lea, Flood, 2014), which repeats none before 2^64.
    fn become_another_writer(&self) {
        self.seed.set(self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.seed.get();
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.writer.set((mixed ^ mixed >> 31) >> NUMBER_BITS);
        self.number.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn ballots_grow_whatever_the_wall_clock_does() {
        let hlc = Hlc::new(7);
        let mut last = Ballot::default();
        for wall_ms in [NOW_MS, NOW_MS, NOW_MS + 1, NOW_MS - 90_000, 0, NOW_MS + 2, u64::MAX, 0] {
            let ballot = hlc.next(wall_ms);
            assert!(ballot.hlc > last.hlc || ballot.hlc == u64::MAX, "{ballot:?} after {last:?} at {wall_ms}");
            assert_ne!(ballot.id, last.id);
            last = ballot;
        }
    }

    #[test]
    fn the_upper_48_bits_are_wall_time() {
        let hlc = Hlc::new(7);
        assert_eq!(hlc.next(NOW_MS).hlc >> 16, NOW_MS);
        assert_eq!(hlc.skew_ms(NOW_MS), 0);
    }

    #[test]
    fn a_ballot_from_the_future_is_followed_and_shows_as_skew() {
        let hlc = Hlc::new(7);
        let ahead = Hlc::new(8).next(NOW_MS + 200_000_000);
        hlc.saw(ahead);
        hlc.saw(Ballot::default());
        assert!(hlc.next(NOW_MS) > ahead);
        assert_eq!(hlc.skew_ms(NOW_MS), 200_000_000);
    }

    #[test]
    fn ids_are_unique_when_a_writer_has_used_its_numbers() {
        let hlc = Hlc::new(7);
        let first = hlc.op_id();
        hlc.number.set((1 << NUMBER_BITS) - 3);
        let ids: BTreeSet<OpId> = (0..10).map(|_| hlc.op_id()).chain([first]).collect();
        assert_eq!(ids.len(), 11);
        let writers: BTreeSet<u64> = ids.iter().map(|id| Ballot { id: id.0, ..Ballot::default() }.writer()).collect();
        assert_eq!(writers.len(), 2);
    }

    #[test]
    fn writers_differ_by_seed() {
        let writers: BTreeSet<u64> = (0..1000).map(|seed| Hlc::new(seed).next(NOW_MS).writer()).collect();
        assert_eq!(writers.len(), 1000);
    }
}
