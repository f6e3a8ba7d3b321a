//! Time as a worker sees it: read once for each batch of work, then looked up.
//!
//! Reading the clock costs about as much as routing a request, so the event that starts a batch calls [`Clock::tick`]
//! and all that happens in it shares that moment. tokio's clock is used, which tests can pause.

use std::cell::Cell;
use std::time::Duration;

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

/// The clock of one worker.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now: Cell<Moment>,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::new_without_default, reason = "a default that reads the clock would hide the reading")]
    pub fn new() -> Self {
        Self { start: Instant::now(), now: Cell::new(Moment::default()) }
    }

    /// Reads the clock.
    #[inline]
    pub fn tick(&self) -> Moment {
        let now = Moment(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.now.set(now);
        now
    }

    /// The time of the last [`Clock::tick`].
    #[inline]
    pub fn now(&self) -> Moment {
        self.now.get()
    }
}
