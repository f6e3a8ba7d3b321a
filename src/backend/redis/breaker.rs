//! Whether a node is worth asking: pure, time comes in. What counts as a failure, and why:
//! `docs/decisions/2026-11-23-breaker-trips-at-once.md`.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;

/// When a breaker opens and how it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Failed requests in a row that open it. One broken connection counts once, however many requests it carried
    /// (FAILURES F7).
    pub failures: u32,
    /// The first distance between probes.
    pub backoff_min: Duration,
    /// The longest distance between probes.
    pub backoff_max: Duration,
    /// After it closed: the time in which the number of requests in flight grows to its maximum (F8).
    pub ramp: Duration,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32, since: Option<Moment> },
    Open { backoff: Duration, why: Arc<str> },
}

/// The breaker of one node in one worker.
#[derive(Debug)]
pub(super) struct Breaker {
    options: BreakerOptions,
    state: State,
}

/// Requests that may be in flight at the very start of a ramp.
const RAMP_FLOOR: usize = 64;

impl Breaker {
    pub(super) fn new(options: BreakerOptions) -> Self {
        Self { options, state: State::Closed { failures: 0, since: None } }
    }

    /// Why the node is not asked, if it is not.
    pub(super) fn open(&self) -> Option<Arc<str>> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { why, .. } => Some(Arc::clone(why)),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether the node has not been down for so long.
    pub(super) fn is_closed_since(&self, span: Duration, now: Moment) -> bool {
        match self.state {
            State::Closed { since, .. } => since.is_none_or(|since| now.since(since) >= span),
            State::Open { .. } => false,
        }
    }

    /// How many requests may be in flight now.
    #[inline]
    pub(super) fn in_flight_max(&self, most: usize, now: Moment) -> usize {
        match self.state {
            State::Closed { since: Some(since), .. } => {
                let passed = now.since(since);
                if passed >= self.options.ramp {
                    return most;
                }
                // Both are far below 2^52.
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a share of a count"
                )]
                let share = (most as f64 * passed.as_secs_f64() / self.options.ramp.as_secs_f64()) as usize;
                share.max(RAMP_FLOOR).min(most)
            }
            State::Closed { since: None, .. } => most,
            State::Open { .. } => 0,
        }
    }

    /// A reply came.
    #[inline]
    pub(super) fn succeeded(&mut self) {
        if let State::Closed { failures, .. } = &mut self.state {
            *failures = 0;
        }
    }

    /// A request failed; whether that opened the breaker.
    pub(super) fn failed(&mut self, why: &Arc<str>) -> bool {
        match &mut self.state {
            State::Closed { failures, .. } => {
                *failures += 1;
                if *failures < self.options.failures {
                    return false;
                }
                self.trip(why);
                true
            }
            State::Open { .. } => false,
        }
    }

    /// No connection could be made, which needs no counting; whether that opened the breaker.
    pub(super) fn trip(&mut self, why: &Arc<str>) -> bool {
        match &mut self.state {
            State::Closed { .. } => {
                self.state = State::Open { backoff: self.options.backoff_min, why: Arc::clone(why) };
                true
            }
            State::Open { why: last, .. } => {
                *last = Arc::clone(why);
                false
            }
        }
    }

    /// How long to wait before the next probe; `jitter` is between 0 and 1. Each call doubles the distance.
    pub(super) fn next_probe(&mut self, jitter: f64) -> Duration {
        match &mut self.state {
            State::Closed { .. } => Duration::ZERO,
            State::Open { backoff, .. } => {
                let wait = backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
                *backoff = (*backoff * 2).min(self.options.backoff_max);
                wait
            }
        }
    }

    /// A probe was answered.
    pub(super) fn readmit(&mut self, now: Moment) {
        if self.is_open() {
            self.state = State::Closed { failures: 0, since: Some(now) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions {
        failures: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_millis(350),
        ramp: Duration::from_secs(1),
    };

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let why: Arc<str> = "no reply".into();
        let mut breaker = Breaker::new(OPTIONS);
        assert!(!breaker.failed(&why));
        assert!(!breaker.failed(&why));
        breaker.succeeded();
        assert!(!breaker.failed(&why));
        assert!(!breaker.failed(&why));
        assert!(breaker.failed(&why));
        assert_eq!(breaker.open().as_deref(), Some("no reply"));
        assert!(!breaker.failed(&why), "it opens once");
    }

    #[test]
    fn probes_get_rarer_up_to_a_bound() {
        let mut breaker = Breaker::new(OPTIONS);
        assert!(breaker.trip(&"refused".into()));
        let waits: Vec<_> = (0..4).map(|_| breaker.next_probe(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        assert_eq!(breaker.next_probe(0.0).as_millis(), 175);
    }

    #[test]
    fn after_it_closed_the_load_grows() {
        let mut breaker = Breaker::new(OPTIONS);
        let start = Moment::default();
        assert_eq!(breaker.in_flight_max(10_000, start), 10_000);
        assert!(breaker.trip(&"refused".into()));
        assert_eq!(breaker.in_flight_max(10_000, start), 0);
        breaker.readmit(start);
        assert_eq!(breaker.in_flight_max(10_000, start), RAMP_FLOOR);
        assert_eq!(breaker.in_flight_max(10_000, start.after(Duration::from_millis(500))), 5_000);
        assert_eq!(breaker.in_flight_max(10_000, start.after(Duration::from_secs(2))), 10_000);
        assert!(!breaker.is_closed_since(Duration::from_secs(2), start.after(Duration::from_secs(1))));
        assert!(breaker.is_closed_since(Duration::from_secs(2), start.after(Duration::from_secs(2))));
    }
}
