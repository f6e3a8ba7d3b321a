//! The cells that the hot path writes: a counter, a gauge, a histogram.
//!
//! A request touches a handful of them, so one costs a load, an add and a store, and nothing else: no lock, no
//! look-up of a label, no locked instruction. The scrape reads the same cells from another thread.
//!
//! # Invariants
//! - A cell has one writer at a time: the worker that owns it. Two writers would lose counts (never more than that).
//! - Counters and histogram buckets never decrease.
//!
//! It does not aggregate: summing the workers' cells is the collector's part.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows. One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Wraps after 2^64, which bytes at 100 Gbit/s reach in forty years.
    #[inline]
    pub fn add(&self, count: u64) {
        // A load and a store instead of `fetch_add`: there is one writer, and the locked instruction is what costs.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes both ways. One writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Adds `delta`, which may be negative.
    #[inline]
    pub fn add(&self, delta: i64) {
        self.set(self.get().wrapping_add(delta));
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Each power of two is cut into this many buckets of one width.
const BUCKETS_PER_OCTAVE: u64 = 4;
/// Durations of 2^26 µs (67 s) and more share the last bucket.
const OCTAVES: u64 = 26;
/// Four buckets of 1 µs, then four for each octave from 4 µs on, then the one for everything longer.
#[expect(clippy::cast_possible_truncation, reason = "101")]
pub(super) const BUCKETS: usize = (4 + (OCTAVES - 2) * BUCKETS_PER_OCTAVE + 1) as usize;

/// Where the exported `le` buckets end, in µs. Each is the end of one of our own buckets, so the export is exact. They
/// are dense where a proxied request lies (64 µs to 2 ms) and sparse where only timeouts are.
pub(super) const EXPORTED_BOUNDS_US: [u64; 20] = [
    64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 4_096, 8_192, 16_384, 65_536, 262_144, 1_048_576,
    4_194_304, 16_777_216, 67_108_864,
];

/// A distribution of durations from 1 µs to 67 s in log-linear buckets, each at most a quarter wider than its start.
/// One writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Counter::default()), sum_ns: Counter::default() }
    }
}

impl Histogram {
    /// Counts one event of this duration.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.observe_many(duration, 1);
    }

    /// Counts `count` events of one duration: a pipelined batch that was answered at once reads the clock once.
    #[inline]
    pub fn observe_many(&self, duration: Duration, count: u64) {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(duration_ns)) {
            bucket.add(count);
        }
        self.sum_ns.add(duration_ns.wrapping_mul(count));
    }

    /// Adds what was counted so far to `total`.
    pub(super) fn add_to(&self, total: &mut HistogramTotal) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
        total.sum_ns = total.sum_ns.wrapping_add(self.sum_ns.get());
    }
}

/// The sum of several histograms at one moment.
#[derive(Debug, Clone)]
pub(super) struct HistogramTotal {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for HistogramTotal {
    fn default() -> Self {
        HistogramTotal { buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl HistogramTotal {
    /// The sum of all durations.
    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The end of the bucket in which that part of the events, in percent, is reached; nothing if there were none.
    #[expect(clippy::cast_precision_loss, reason = "of more than 2^53 events the last do not matter")]
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let wanted = self.count() as f64 * percent / 100.0;
        let mut count = 0;
        for (bucket, events) in self.buckets.iter().enumerate() {
            count += events;
            if count > 0 && count as f64 >= wanted {
                return Duration::from_micros(end_of(bucket));
            }
        }
        Duration::ZERO
    }

    /// How many events took at most as long as each power of two of microseconds; the last is for all.
    pub(super) fn octaves(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..=OCTAVES + 1).map(|octave| {
            let within = if octave > OCTAVES { BUCKETS } else { bucket_of((1 << octave) * 1_000) + 1 };
            (1 << octave, self.buckets.iter().take(within).sum())
        })
    }

    /// Takes away what was there before.
    pub(super) fn subtract(&mut self, before: &HistogramTotal) {
        for (count, before) in self.buckets.iter_mut().zip(before.buckets) {
            *count = count.saturating_sub(before);
        }
        self.sum_ns = self.sum_ns.saturating_sub(before.sum_ns);
    }

    /// How many events.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all durations, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "the text format is f64; 2^53 ns is a hundred days, then it rounds")]
    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// How many events took at most as long as each of the exported bounds.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        EXPORTED_BOUNDS_US.iter().map(|&bound_us| {
            let within = bucket_of(bound_us * 1_000) + 1;
            (bound_us, self.buckets.iter().take(within).sum())
        })
    }
}

/// The bucket of a duration. Bucket ends are inclusive, as `le` is: hence the one taken off before rounding down.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most `BUCKETS`, by the clamp above it")]
fn bucket_of(duration_ns: u64) -> usize {
    let us = duration_ns.saturating_sub(1) / 1_000;
    if us < 4 {
        return us as usize;
    }
    let octave = u64::from(u64::BITS - 1 - us.leading_zeros());
    if octave >= OCTAVES {
        return BUCKETS - 1;
    }
    let within_octave = (us >> (octave - 2)) & (BUCKETS_PER_OCTAVE - 1);
    (4 + (octave - 2) * BUCKETS_PER_OCTAVE + within_octave) as usize
}

/// Where a bucket ends, in microseconds. The last ends nowhere: it is shown as wide as the one before it.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 4 {
        return bucket + 1;
    }
    let (octave, within) = ((bucket - 4) / BUCKETS_PER_OCTAVE + 2, (bucket - 4) % BUCKETS_PER_OCTAVE);
    (BUCKETS_PER_OCTAVE + within + 1) << (octave - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_end_where_the_next_begins() {
        for bucket in 0..BUCKETS - 1 {
            let end_us = end_of(bucket);
            assert_eq!(bucket_of(end_us * 1_000), bucket);
            assert_eq!(bucket_of(end_us * 1_000 + 1), bucket + 1);
        }
    }

    #[test]
    fn buckets_are_contiguous_and_end_inclusively() {
        let mut last = 0;
        for us in 1..=70_000_u64 {
            let bucket = bucket_of(us * 1_000);
            assert!(bucket == last || bucket == last + 1, "a gap before {us} µs");
            assert_eq!(bucket, bucket_of(us * 1_000 - 999), "{us} µs is one microsecond wide");
            last = bucket;
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(67_108_864_000), BUCKETS - 2);
        assert_eq!(bucket_of(67_108_864_001), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn exported_bounds_are_exact() {
        for bound_us in EXPORTED_BOUNDS_US {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_micros(bound_us));
            histogram.observe_many(Duration::from_nanos(bound_us * 1_000 + 1), 2);
            let mut total = HistogramTotal::default();
            histogram.add_to(&mut total);
            let within = total.cumulative().find(|(us, _)| *us == bound_us).unwrap().1;
            assert_eq!((within, total.count()), (1, 3), "{bound_us} µs");
        }
    }

    #[test]
    fn sums_and_counts() {
        let histogram = Histogram::default();
        histogram.observe_many(Duration::from_millis(250), 4);
        let mut total = HistogramTotal::default();
        histogram.add_to(&mut total);
        histogram.add_to(&mut total);
        assert!((total.sum_seconds() - 2.0).abs() < 1e-9);
        assert_eq!(total.count(), 8);
    }

    #[test]
    fn a_gauge_goes_both_ways() {
        let gauge = Gauge::default();
        gauge.add(3);
        gauge.add(-4);
        assert_eq!(gauge.get(), -1);
    }
}
