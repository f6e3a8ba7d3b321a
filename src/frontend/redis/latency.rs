//! `LATENCY`: when requests took long, by the threshold `latency-monitor-threshold`, which clients set. There are two
//! events, as far as a proxy has those of Redis: `command`, and `fast-command` for the verbs that servers call fast.
//!
//! # Invariants
//! - What is kept is bounded: a number of samples for each of two events, one for each second.
//! - While no threshold is set, nothing is looked at: `slow` is asked once for this and for `SLOWLOG`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counts;
use super::local::{Local, refused};
use super::session::Session;
use crate::command::reply::{self, Resp};
use crate::command::{Args, Flag, Row};
use crate::metrics::Outcome;

/// Samples of an event, as in Redis (`LATENCY_TS_LEN`).
const SAMPLES_MAX: usize = 160;
/// How high a graph is, in lines.
const GRAPH_LINES: u64 = 4;

/// The events of one process.
#[derive(Debug, Default)]
pub struct Latency(Mutex<[Event; 2]>);

const NAMES: [&str; 2] = ["command", "fast-command"];

#[derive(Debug, Default)]
struct Event {
    /// Second and milliseconds, the newest last.
    samples: VecDeque<(u64, u64)>,
    /// The longest since the last reset.
    ms_max: u64,
}

impl Event {
    fn add(&mut self, at_s: u64, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.ms_max = self.ms_max.max(ms);
        // Of those of one second the longest.
        if let Some((_, newest)) = self.samples.back_mut().filter(|(second, _)| *second == at_s) {
            *newest = ms.max(*newest);
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((at_s, ms));
    }
}

impl Latency {
    fn lock(&self) -> MutexGuard<'_, [Event; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of this verb took so long.
    pub(super) fn add(&self, row: &Row, at_s: u64, took: Duration) {
        let [command, fast] = &mut *self.lock();
        let event = if row.flags.contains(Flag::Fast) { fast } else { command };
        event.add(at_s, took);
    }
}

/// Answers `LATENCY …`.
pub(super) fn answer(session: &Session, row: &Row, resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    if row.name == "latency|histogram" {
        counts::histogram(session, resp, args, out);
        return Local::Reply(Outcome::Ok);
    }
    let mut events = session.worker.fleet.latency.lock();
    let named = |at: usize| NAMES.iter().position(|name| args.get(at).is_some_and(|word| word == name.as_bytes()));
    match row.name {
        "latency|latest" => {
            let seen: Vec<_> = NAMES.iter().zip(events.iter()).filter(|(_, event)| !event.samples.is_empty()).collect();
            reply::array_header(out, seen.len());
            for (name, event) in seen {
                let (second, ms) = event.samples.back().copied().unwrap_or_default();
                reply::array_header(out, 4);
                reply::bulk(out, name.as_bytes());
                for number in [second, ms, event.ms_max] {
                    integer(out, number);
                }
            }
        }
        "latency|history" => {
            let samples = named(2).and_then(|at| events.get(at)).map(|event| &event.samples);
            reply::array_header(out, samples.map_or(0, VecDeque::len));
            for (second, ms) in samples.into_iter().flatten() {
                reply::array_header(out, 2);
                integer(out, *second);
                integer(out, *ms);
            }
        }
        "latency|reset" => {
            let mut count = 0;
            for (at, event) in events.iter_mut().enumerate() {
                let is_meant = args.len() == 2 || (2..args.len()).any(|arg| named(arg) == Some(at));
                if is_meant && !std::mem::take(event).samples.is_empty() {
                    count += 1;
                }
            }
            reply::integer(out, count);
        }
        "latency|graph" => match named(2).and_then(|at| Some((NAMES.get(at)?, events.get(at)?))) {
            Some((name, event)) if !event.samples.is_empty() => {
                reply::verbatim_text(out, resp, graph(name, event).as_bytes());
            }
            _ => return refused(out, |out| reply::no_latency_samples(out, args.get(2).unwrap_or_default())),
        },
        "latency|doctor" => reply::verbatim_text(out, resp, report(session, &events).as_bytes()),
        _ => return refused(out, reply::syntax_error),
    }
    Local::Reply(Outcome::Ok)
}

fn integer(out: &mut Vec<u8>, number: u64) {
    reply::integer(out, i64::try_from(number).unwrap_or(i64::MAX));
}

/// The samples as columns, the newest at the right.
fn graph(name: &str, event: &Event) -> String {
    let (low, high) = event.samples.iter().fold((u64::MAX, 0), |(low, high), (_, ms)| (low.min(*ms), high.max(*ms)));
    let all_time = event.ms_max;
    let mut text = format!("{name} - high {high} ms, low {low} ms (all time high {all_time} ms)\n");
    text.extend(["-".repeat(80).as_str(), "\n"]);
    for line in (0..GRAPH_LINES).rev() {
        for (_, ms) in event.samples.iter().skip(event.samples.len().saturating_sub(80)) {
            let height = (ms - low) * GRAPH_LINES / (high - low + 1);
            text.push(match height.cmp(&line) {
                std::cmp::Ordering::Less => ' ',
                std::cmp::Ordering::Equal => '_',
                std::cmp::Ordering::Greater => '|',
            });
        }
        text.push('\n');
    }
    text
}

/// What `LATENCY DOCTOR` says.
fn report(session: &Session, events: &[Event; 2]) -> String {
    let mut text = String::new();
    for (name, event) in NAMES.iter().zip(events).filter(|(_, event)| !event.samples.is_empty()) {
        let sum: u64 = event.samples.iter().map(|(_, ms)| ms).sum();
        let count = event.samples.len() as u64;
        let _infallible = writeln!(
            text,
            "{name}: {count} samples, average {} ms, worst {} ms since the last reset.",
            sum / count,
            event.ms_max
        );
    }
    if text.is_empty() {
        text.push_str(if session.worker.slow_event.get() == Duration::MAX {
            "No events are watched: CONFIG SET latency-monitor-threshold <milliseconds> begins that.\n"
        } else {
            "Nothing took that long.\n"
        });
    }
    text.push_str(
        "Times are from read to answered, the wait for the store included. SLOWLOG GET shows single requests, /metrics on \
         the admin port has histograms of all, and QUOIT NODE <name> LATENCY DOCTOR asks one node.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_sample() {
        let mut event = Event::default();
        for (second, ms) in [(1, 5), (1, 9), (1, 7), (2, 3)] {
            event.add(second, Duration::from_millis(ms));
        }
        assert_eq!(event.samples, [(1, 9), (2, 3)]);
        assert_eq!(event.ms_max, 9);
        for second in 3..1000 {
            event.add(second, Duration::from_millis(1));
        }
        assert_eq!((event.samples.len(), event.ms_max), (SAMPLES_MAX, 9));
    }

    #[test]
    fn a_graph_has_a_column_for_each_sample() {
        let mut event = Event::default();
        for (second, ms) in [(1, 0), (2, 10), (3, 39)] {
            event.add(second, Duration::from_millis(ms));
        }
        let text = graph("command", &event);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines, ["  _", "  |", " _|", "_||"]);
        assert!(text.starts_with("command - high 39 ms, low 0 ms (all time high 39 ms)\n---"));
    }
}
