//! Time as a worker sees it: read once for each batch of work, then looked up.
//!
//! Reading the clock costs about as much as routing a request, so the event that starts a batch calls [`Clock::tick`]
//! and all that happens in it shares that moment. tokio's clock is used, which tests can pause.
//!
//! The wall clock ([`Clock::wall_ms`]) is the same moment as Unix time. It is read at most once a second; between two
//! readings it advances with the worker's own clock. Those who never ask pay nothing for it.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point in time: microseconds since the worker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// The time that passed since `earlier`, zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// Microseconds since `earlier`, zero if that is later.
    #[inline]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// How old a reading of the wall clock may be.
const WALL_AGE_MAX: Duration = Duration::from_secs(1);
/// A reading that is behind by less than this is noise of reading two clocks one after the other, or the wall clock
/// being slowed down: time stands still until it is reached. One that is further behind was set back, and is followed.
const WALL_STEP_MIN_MS: u64 = 1_000;
/// For tests only: milliseconds, with a sign, that are added to the wall clock of the whole process, so that a test can
/// run proxies whose clocks disagree on one machine.
const WALL_OFFSET_VARIABLE: &str = "QUOIT_TEST_CLOCK_OFFSET_MS";

/// The clock of one worker.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now: Cell<Moment>,
    /// A reading of the wall clock and when it was made.
    wall: Cell<Option<(Moment, u64)>>,
    wall_told_ms: Cell<u64>,
    wall_offset_ms: i64,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::new_without_default, reason = "a default that reads the clock would hide the reading")]
    pub fn new() -> Self {
        let offset = std::env::var(WALL_OFFSET_VARIABLE).ok();
        Self {
            start: Instant::now(),
            now: Cell::new(Moment::default()),
            wall: Cell::new(None),
            wall_told_ms: Cell::new(0),
            wall_offset_ms: offset.and_then(|offset| offset.parse().ok()).unwrap_or(0),
        }
    }

    /// Reads the clock.
    #[inline]
    pub fn tick(&self) -> Moment {
        let now = self.elapsed();
        self.now.set(now);
        now
    }

    /// The time of the last [`Clock::tick`].
    #[inline]
    pub fn now(&self) -> Moment {
        self.now.get()
    }

    /// The time of the last [`Clock::tick`] as Unix time in milliseconds. It goes back only when the machine's clock was
    /// set back, by a second or more.
    #[inline]
    pub fn wall_ms(&self) -> u64 {
        let (read, wall_ms) = match self.wall.get() {
            Some(reading) if self.now().since(reading.0) < WALL_AGE_MAX => reading,
            _ => self.read_wall(),
        };
        let now_ms = wall_ms + self.now().micros_since(read) / 1_000;
        let told_ms = not_back(self.wall_told_ms.get(), now_ms);
        self.wall_told_ms.set(told_ms);
        told_ms
    }

    fn elapsed(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    #[cold]
    #[expect(clippy::disallowed_methods, reason = "this is the wall clock that everybody else takes")]
    fn read_wall(&self) -> (Moment, u64) {
        // Both are read here and now: the last tick may be some time ago.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let reading = (self.elapsed(), wall_ms.saturating_add_signed(self.wall_offset_ms));
        self.wall.set(Some(reading));
        reading
    }
}

/// What is told after `told_ms` when the clock says `now_ms`.
fn not_back(told_ms: u64, now_ms: u64) -> u64 {
    let is_noise = told_ms > now_ms && told_ms - now_ms < WALL_STEP_MIN_MS;
    if is_noise { told_ms } else { now_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_back_are_held_and_big_ones_followed() {
        assert_eq!(not_back(0, 5_000), 5_000);
        assert_eq!(not_back(5_000, 5_001), 5_001);
        assert_eq!(not_back(5_000, 4_999), 5_000);
        assert_eq!(not_back(5_000, 4_001), 5_000);
        assert_eq!(not_back(5_000, 4_000), 4_000);
    }

    #[test]
    fn the_wall_clock_goes_with_the_ticks() {
        let clock = Clock::new();
        let first = clock.wall_ms();
        assert!(first > 1_600_000_000_000, "a year after 2020: {first}");
        assert_eq!(clock.wall_ms(), first, "no tick, no time");
        let (read, _) = clock.wall.get().unwrap();
        clock.now.set(read.after(Duration::from_millis(300)));
        assert_eq!(clock.wall_ms(), first + 300);
        // Recognised by its time: two readings may be made within one microsecond.
        clock.wall.set(Some((read, 1)));
        clock.now.set(read.after(Duration::from_secs(2)));
        assert!(clock.wall_ms() >= first + 300);
        assert_ne!(clock.wall.get().unwrap().1, 1, "an old reading is made again");
    }

    #[test]
    fn the_wall_clock_can_be_wrong_on_purpose() {
        let right = Clock::new();
        let wrong = Clock { wall_offset_ms: -3_600_000, ..Clock::new() };
        assert!(right.wall_ms() >= wrong.wall_ms() + 3_500_000);
    }
}
