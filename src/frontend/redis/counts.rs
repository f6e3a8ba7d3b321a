//! What `INFO` and `LATENCY HISTOGRAM` say of each verb: the sections `commandstats`, `errorstats` and `latencystats`. They
//! are the cells of `/metrics`, told apart by verb, since the last `CONFIG RESETSTAT`.
//!
//! Times are from read to answered, the wait for the store included. What scripts and transactions run within a store is
//! counted there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::session::Session;
use crate::command::reply::{self, Resp};
use crate::command::{self, Args, Row};
use crate::metrics::{Metrics, VerbTotals};

/// The percentiles of `latencystats`, which are those that Redis shows unless it is told others.
const PERCENTILES: [(&str, f64); 3] = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];

/// What was counted at the last `CONFIG RESETSTAT`.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    verbs: BTreeMap<u16, VerbTotals>,
    errors: BTreeMap<String, u64>,
}

impl Baseline {
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self { verbs: metrics.verbs(), errors: metrics.errors() }
    }

    /// What came since, by name. A verb that was not asked for is not there.
    fn verbs_since(&self, metrics: &Metrics) -> Vec<(&'static Row, VerbTotals)> {
        let mut totals = metrics.verbs();
        let mut verbs = Vec::new();
        for row in command::all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            if let Some(total) = totals.remove(&row.id) {
                let since = self.verbs.get(&row.id).map_or_else(|| total.clone(), |before| total.clone().since(before));
                if since.requests() > 0 {
                    verbs.push((row, since));
                }
            }
        }
        verbs
    }
}

fn verbs(session: &Session) -> Vec<(&'static Row, VerbTotals)> {
    session.worker.fleet.figures.with_counts(|baseline| baseline.verbs_since(&session.worker.metrics))
}

/// The section `commandstats`.
pub(super) fn commands(session: &Session) -> String {
    let mut text = String::new();
    for (row, total) in verbs(session) {
        let (calls, took) = (total.calls(), total.took());
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let each = took.as_nanos() as f64 / 1e3 / calls.max(1) as f64;
        let _infallible = write!(
            text,
            "cmdstat_{}:calls={calls},usec={},usec_per_call={each:.2},rejected_calls={},failed_calls={}\r\n",
            row.name,
            took.as_micros(),
            total.rejected(),
            total.failed(),
        );
    }
    text
}

/// The section `errorstats`.
pub(super) fn errors(session: &Session) -> String {
    let mut text = String::new();
    session.worker.fleet.figures.with_counts(|baseline| {
        for (word, count) in session.worker.metrics.errors() {
            let count = count.saturating_sub(baseline.errors.get(&word).copied().unwrap_or(0));
            if count > 0 {
                let _infallible = write!(text, "errorstat_{word}:count={count}\r\n");
            }
        }
    });
    text
}

/// The section `latencystats`.
pub(super) fn latencies(session: &Session) -> String {
    let mut text = String::new();
    for (row, total) in verbs(session).into_iter().filter(|(_, total)| total.calls() > 0) {
        let shown = PERCENTILES.map(|(name, percent)| {
            let took = total.percentile(percent);
            format!("{name}={}.{:03}", took.as_micros(), took.subsec_nanos() % 1_000)
        });
        let _infallible = write!(text, "latency_percentiles_usec_{}:{}\r\n", row.name, shown.join(","));
    }
    text
}

/// `LATENCY HISTOGRAM [verb …]`: of a container, all its subcommands. What is no verb, or was not asked for, is left out.
pub(super) fn histogram(session: &Session, resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) {
    let mut all = verbs(session);
    all.retain(|(_, total)| total.calls() > 0);
    let wanted: Vec<&(&'static Row, VerbTotals)> = if args.len() == 2 {
        all.iter().collect()
    } else {
        let of = |word: &[u8]| {
            let word = word.to_ascii_lowercase();
            all.iter().filter(move |(row, _)| {
                let behind = row.name.as_bytes().strip_prefix(word.as_slice());
                behind.is_some_and(|behind| behind.is_empty() || behind.first() == Some(&b'|'))
            })
        };
        args.iter().skip(2).flat_map(of).collect()
    };
    reply::map_header(out, resp, wanted.len());
    for (row, total) in wanted {
        reply::bulk(out, row.name.as_bytes());
        reply::map_header(out, resp, 2);
        reply::bulk(out, b"calls");
        integer(out, total.calls());
        reply::bulk(out, b"histogram_usec");
        let octaves = total.octaves();
        reply::map_header(out, resp, octaves.len());
        for (bound_us, count) in octaves {
            integer(out, bound_us);
            integer(out, count);
        }
    }
}

fn integer(out: &mut Vec<u8>, number: u64) {
    reply::integer(out, i64::try_from(number).unwrap_or(i64::MAX));
}
