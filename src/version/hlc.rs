//! The hybrid logical clock of one worker: where ballots and operation ids come from.

use std::cell::Cell;

use super::ballot::{Ballot, SEQ_BITS, WRITER_BITS};

/// How many bits of a hybrid time count within one millisecond.
const COUNTER_BITS: u32 = 16;
/// Clocks that differ by more are not worth following: something is wrong with them.
const AHEAD_MAX_MS: u64 = 1000;
const NUMBER_BITS: u32 = u64::BITS - WRITER_BITS;

/// Hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): wall-clock time where that moves forward, and
/// a counter where it does not.
///
/// It is one worker's, so its state is in cells. Time comes in as an argument. Every ballot that a store shows goes to
/// [`Hlc::saw`], also one from the far future: order must hold, and [`Hlc::skew_ms`] tells how far ahead that led.
#[derive(Debug)]
pub struct Hlc {
    last: Cell<u64>,
    /// By how many ms the fastest clock was ahead of ours, and when that was seen.
    ahead: Cell<(u64, u64)>,
    /// Who gives the ids, and the lower bits of the last one.
    writer: Cell<u64>,
    number: Cell<u64>,
    /// Where further writers come from: an id has room for 2^16 numbers, a second or so of a busy worker.
    seed: Cell<u64>,
}

impl Hlc {
    /// A clock whose ids are this worker's. The seed has to be random: two workers with the same one share their ids.
    pub fn new(writer_seed: u64) -> Self {
        let (last, ahead) = (Cell::new(0), Cell::new((0, 0)));
        let hlc = Self { last, ahead, writer: Cell::new(0), number: Cell::new(0), seed: Cell::new(writer_seed) };
        hlc.become_another_writer();
        hlc
    }

    /// A ballot newer than all that were given or seen, the first of its term. `wall_ms` is Unix time.
    pub fn next(&self, wall_ms: u64) -> Ballot {
        let wall = wall_ms.saturating_add(self.ahead_ms(wall_ms)).min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS;
        // At the end of time, some 8,900 years from now, the ids still tell ballots apart.
        let hlc = wall.max(self.last.get().saturating_add(1));
        self.last.set(hlc);
        Ballot { hlc, id: self.id(), seq: 0 }
    }

    /// An id that no other term has.
    fn id(&self) -> u64 {
        let number = self.number.get() + (1 << SEQ_BITS);
        if number >> NUMBER_BITS != 0 {
            self.become_another_writer();
            return self.id();
        }
        self.number.set(number);
        self.writer.get() << NUMBER_BITS | number
    }

    /// What a store showed at `wall_ms`: the next ballots are newer.
    ///
    /// Newer than what its writer gives meanwhile, too: who only counted on from what it saw would always lose against
    /// a clock that is ahead.
    pub fn saw(&self, ballot: Ballot, wall_ms: u64) {
        self.last.set(self.last.get().max(ballot.hlc));
        let ahead = (ballot.hlc >> COUNTER_BITS).saturating_sub(wall_ms).min(AHEAD_MAX_MS);
        if ahead > self.ahead_ms(wall_ms) {
            self.ahead.set((ahead, wall_ms));
        }
    }

    /// The next ballots are this much newer than that time.
    pub fn pass(&self, hlc: u64, by_ms: u64) {
        let far = hlc.saturating_add(by_ms.saturating_add(1) << COUNTER_BITS);
        self.last.set(self.last.get().max(far));
    }

    /// How far to be ahead of the wall clock now. A fast clock that was not seen for long is forgotten, a ms a second.
    fn ahead_ms(&self, wall_ms: u64) -> u64 {
        let (ahead, since) = self.ahead.get();
        ahead.saturating_sub(wall_ms.saturating_sub(since) / 1000)
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
        hlc.saw(ahead, NOW_MS);
        hlc.saw(Ballot::default(), NOW_MS);
        assert!(hlc.next(NOW_MS) > ahead);
        assert_eq!(hlc.skew_ms(NOW_MS), 200_000_000);
    }

    #[test]
    fn a_clock_that_is_ahead_is_kept_up_with_and_forgotten() {
        let (slow, fast) = (Hlc::new(7), Hlc::new(8));
        slow.saw(fast.next(NOW_MS + 80), NOW_MS);
        assert!(slow.next(NOW_MS + 20) > fast.next(NOW_MS + 99));
        assert_eq!(slow.skew_ms(NOW_MS + 20), 80);
        assert_eq!(slow.next(NOW_MS + 80_000).hlc >> 16, NOW_MS + 80_000);
        slow.saw(fast.next(NOW_MS + 9_000_000), NOW_MS + 80_000);
        let next = slow.next(NOW_MS + 9_000_000);
        assert_eq!(next.hlc >> 16, NOW_MS + 9_000_000, "its clock is not followed");
    }

    #[test]
    fn ids_are_unique_when_a_writer_has_used_its_numbers() {
        let hlc = Hlc::new(7);
        let first = hlc.id();
        hlc.number.set((1 << NUMBER_BITS) - (3 << SEQ_BITS));
        let ids: BTreeSet<u64> = (0..10).map(|_| hlc.id()).chain([first]).collect();
        assert_eq!(ids.len(), 11);
        assert!(ids.iter().all(|id| id % (1 << SEQ_BITS) == 0));
        let writers: BTreeSet<u64> = ids.iter().map(|id| Ballot { id: *id, ..Ballot::default() }.writer()).collect();
        assert_eq!(writers.len(), 2);
    }

    #[test]
    fn writers_differ_by_seed() {
        let writers: BTreeSet<u64> = (0..1000).map(|seed| Hlc::new(seed).next(NOW_MS).writer()).collect();
        assert_eq!(writers.len(), 1000);
    }
}
