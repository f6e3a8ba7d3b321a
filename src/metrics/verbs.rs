//! What is counted of each verb. The figures of a class are the sums of its verbs', so that a request is counted once.
//!
//! # Invariants
//! - A worker that has not served a verb has no cells for it: what they take is bounded by the verbs that there are.
//! - Errors are told apart by their first word, of which a bounded number is kept; the lock around them has one writer.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::cell::{Counter, Histogram, HistogramTotal};
use super::cells::{CLASSES, Class, Counters, OUTCOMES, Outcome};
use super::{Metrics, lock};

/// More than there are verbs; those beyond share the last place.
pub const VERBS_MAX: u16 = 512;
/// First words of errors that are told apart, as in Redis (`ERRORSTATS_LIMIT`), and their longest.
const ERRORS_MAX: usize = 128;
const ERROR_BYTES_MAX: usize = 64;
/// What counts for those beyond.
const ERRORS_BEYOND: &str = "ERRORSTATS_OVERFLOW";

/// A verb, by its number, and the class of a request with it: those of one verb may be of several classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verb {
    number: u16,
    class: Class,
}

impl Verb {
    /// What is no verb.
    pub const NONE: Self = Self { number: VERBS_MAX - 1, class: Class::Other };

    /// The verb of this number.
    pub fn new(number: u16, class: Class) -> Self {
        Self { number: number.min(VERBS_MAX - 1), class }
    }

    /// The same, counted with what is neither a read nor a write.
    #[must_use]
    pub fn as_other(self) -> Self {
        Self { class: Class::Other, ..self }
    }

    fn place(self) -> usize {
        usize::from(self.number) * CLASSES + self.class as usize
    }
}

/// What one worker counts of one verb.
#[derive(Debug, Default)]
pub struct VerbCells {
    requests: Counters<OUTCOMES>,
    /// How long the requests took.
    pub duration: Histogram,
    /// Those of the refused that were looked at, and failed: quoit answers the verb by itself.
    pub failed: Counter,
}

impl VerbCells {
    /// The counter of the requests that ended so.
    #[inline]
    pub fn requests(&self, outcome: Outcome) -> &Counter {
        self.requests.at(outcome as usize)
    }
}

/// The cells of all verbs of one worker and listener.
#[derive(Debug)]
pub(super) struct Verbs {
    cells: Box<[OnceLock<Box<VerbCells>>]>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Default for Verbs {
    fn default() -> Self {
        let places = usize::from(VERBS_MAX) * CLASSES;
        Self { cells: (0..places).map(|_| OnceLock::new()).collect(), errors: Mutex::default() }
    }
}

impl Verbs {
    #[inline]
    pub(super) fn at(&self, verb: Verb) -> &VerbCells {
        self.cells.get(verb.place()).expect("a verb's number is bounded").get_or_init(Box::default)
    }

    /// Counts an error reply.
    pub(super) fn note_error(&self, reply: &[u8]) {
        let Some(text) = reply.strip_prefix(b"-") else { return };
        let word = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let word = String::from_utf8_lossy(word.get(..word.len().min(ERROR_BYTES_MAX)).unwrap_or_default());
        let mut errors = lock(&self.errors);
        if let Some(count) = errors.get_mut(word.as_ref()) {
            *count += 1;
            return;
        }
        let word = if errors.len() < ERRORS_MAX { word.into_owned() } else { ERRORS_BEYOND.to_owned() };
        *errors.entry(word).or_default() += 1;
    }

    /// The cells of a class that exist.
    pub(super) fn of(&self, class: Class) -> impl Iterator<Item = &VerbCells> {
        self.cells.iter().skip(class as usize).step_by(CLASSES).filter_map(OnceLock::get).map(Box::as_ref)
    }
}

/// What was counted of one verb, by all workers.
#[derive(Debug, Clone, Default)]
pub struct VerbTotals {
    requests: [u64; OUTCOMES],
    failed: u64,
    duration: HistogramTotal,
}

impl VerbTotals {
    fn add(&mut self, cells: &VerbCells) {
        for (sum, outcome) in self.requests.iter_mut().zip(Outcome::ALL) {
            *sum += cells.requests(*outcome).get();
        }
        self.failed += cells.failed.get();
        cells.duration.add_to(&mut self.duration);
    }

    fn of(&self, outcome: Outcome) -> u64 {
        self.requests.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Requests, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// Those that were refused without a look at what they ask for.
    pub fn rejected(&self) -> u64 {
        self.of(Outcome::Refused).saturating_sub(self.failed)
    }

    /// Those that were served.
    pub fn calls(&self) -> u64 {
        self.requests().saturating_sub(self.rejected())
    }

    /// Those of the served that were answered with an error.
    pub fn failed(&self) -> u64 {
        self.calls().saturating_sub(self.of(Outcome::Ok))
    }

    /// How long all took together.
    pub fn took(&self) -> Duration {
        self.duration.sum()
    }

    /// How long at most the fastest of the requests took, by their part in percent; as exact as a bucket is wide.
    pub fn percentile(&self, percent: f64) -> Duration {
        self.duration.percentile(percent)
    }

    /// How many took at most as long as each power of two of microseconds, where that is more than of the one before.
    pub fn octaves(&self) -> Vec<(u64, u64)> {
        let mut before = 0;
        let mut octaves: Vec<(u64, u64)> = self.duration.octaves().collect();
        octaves.retain(|(_, count)| std::mem::replace(&mut before, *count) < *count);
        octaves
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (count, before) in self.requests.iter_mut().zip(before.requests) {
            *count = count.saturating_sub(before);
        }
        self.failed = self.failed.saturating_sub(before.failed);
        self.duration.subtract(&before.duration);
        self
    }
}

impl Metrics {
    /// What was counted of each verb that was served, by its number.
    pub fn verbs(&self) -> BTreeMap<u16, VerbTotals> {
        let mut totals = BTreeMap::<u16, VerbTotals>::new();
        for cells in lock(&self.cells.listeners).values().flatten() {
            for (number, places) in (0..VERBS_MAX - 1).zip(cells.verbs.cells.chunks(CLASSES)) {
                for cells in places.iter().filter_map(OnceLock::get) {
                    totals.entry(number).or_default().add(cells);
                }
            }
        }
        totals
    }

    /// How many errors clients were answered, by their first words.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::<String, u64>::new();
        for cells in lock(&self.cells.listeners).values().flatten() {
            for (word, count) in lock(&cells.verbs.errors).iter() {
                *totals.entry(word.clone()).or_default() += count;
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_summed_over_workers_and_classes() {
        let metrics = Metrics::new();
        for (listener, class) in [("a", Class::Read), ("a", Class::Read), ("b", Class::Other)] {
            let cells = metrics.listener(listener);
            let verb = cells.verb(Verb::new(7, class));
            verb.requests(Outcome::Ok).add(2);
            verb.requests(Outcome::Refused).add(3);
            verb.failed.increment();
            verb.duration.observe_many(Duration::from_micros(100), 5);
            cells.verb(Verb::NONE).requests(Outcome::Refused).increment();
        }
        let before = metrics.verbs();
        assert_eq!(before.keys().collect::<Vec<_>>(), [&7]);
        let totals = &before[&7];
        assert_eq!((totals.requests(), totals.calls(), totals.rejected(), totals.failed()), (15, 9, 6, 3));
        assert_eq!(totals.took(), Duration::from_micros(1500));
        assert_eq!(totals.percentile(50.0), Duration::from_micros(112));
        assert_eq!(totals.octaves(), [(128, 15)]);
        assert_eq!(metrics.traffic().requests, 18);

        metrics.listener("a").verb(Verb::new(7, Class::Write)).requests(Outcome::StoreError).increment();
        let since = metrics.verbs().remove(&7).unwrap().since(totals);
        assert_eq!((since.calls(), since.failed(), since.took()), (1, 1, Duration::ZERO));
    }

    #[test]
    fn errors_are_told_apart_and_bounded() {
        let metrics = Metrics::new();
        let cells = metrics.listener("a");
        for reply in ["-ERR no\r\n", "-ERR other\r\n", "-NOSCRIPT\r\n", "+OK\r\n"] {
            cells.note_error(reply.as_bytes());
        }
        assert_eq!(metrics.errors(), [("ERR".to_owned(), 2), ("NOSCRIPT".to_owned(), 1)].into());
        for number in 0..1000 {
            cells.note_error(format!("-E{number} x\r\n").as_bytes());
        }
        let errors = metrics.errors();
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        assert_eq!(errors.values().sum::<u64>(), 1003);
    }
}
