//! Settings of the proxy's own that clients change while it runs, by `CONFIG SET`: from when on a request is slow, and how
//! many of those are kept.
//!
//! # Invariants
//! - What a client sets holds for all workers when it has its reply, and until the next reload or restart: then what the
//!   file says holds again. The file is never written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::worker::Worker;
use crate::topology::Topology;

/// Most that `slowlog-max-len` may be, as in the file: the log is in memory.
const SLOWLOG_LEN_MAX: i64 = 65_536;

/// The settings, under the names of Redis.
const NAMES: [(&str, std::ops::RangeInclusive<i64>); 3] = [
    ("latency-monitor-threshold", 0..=i64::MAX),
    ("slowlog-log-slower-than", -1..=i64::MAX),
    ("slowlog-max-len", 0..=SLOWLOG_LEN_MAX),
];

/// What clients have set, in the order of their names.
#[derive(Debug, Default)]
pub struct Tuned(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of which topology it was set.
    epoch: u64,
    values: [Option<i64>; NAMES.len()],
}

/// One setting and what it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    at: usize,
    value: i64,
}

/// Why a value cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    NoInteger,
    OutOfRange(i64, i64),
}

impl Change {
    /// What a client asks for; nothing if the setting is none of these.
    pub(super) fn parse(name: &[u8], value: &[u8]) -> Option<Result<Self, Unfit>> {
        let (at, (_, range)) = (0..).zip(&NAMES).find(|(_, (own, _))| name.eq_ignore_ascii_case(own.as_bytes()))?;
        let Some(value) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) else {
            return Some(Err(Unfit::NoInteger));
        };
        let fits = range.contains(&value);
        Some(if fits { Ok(Self { at, value }) } else { Err(Unfit::OutOfRange(*range.start(), *range.end())) })
    }

    pub(super) fn is_of_same(self, other: Self) -> bool {
        self.at == other.at
    }
}

impl Tuned {
    /// What holds now, under the names of Redis.
    pub(super) fn values(&self, topology: &Topology) -> [(&'static str, i64); NAMES.len()] {
        let proxy = &topology.config.proxy;
        let file = [0, proxy.slowlog_us, i64::try_from(proxy.slowlog_len).unwrap_or(SLOWLOG_LEN_MAX)];
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let set = if state.epoch == topology.epoch { state.values } else { Default::default() };
        let mut values = NAMES.map(|(name, _)| (name, 0));
        for ((value, file), set) in values.iter_mut().zip(file).zip(set) {
            value.1 = set.unwrap_or(file);
        }
        values
    }

    /// Sets some; the workers have to be told.
    pub(super) fn set(&self, topology: &Topology, changes: &[Change]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.epoch != topology.epoch {
            *state = State { epoch: topology.epoch, ..State::default() };
        }
        for change in changes {
            if let Some(value) = state.values.get_mut(change.at) {
                *value = Some(change.value);
            }
        }
    }
}

impl Worker {
    /// Takes what holds now.
    pub(super) fn tune(&self, topology: &Topology) {
        let [(_, event_ms), (_, slow_us), (_, entries_max)] = self.fleet.tuned.values(topology);
        let event = u64::try_from(event_ms).unwrap_or(0);
        let event = if event == 0 { Duration::MAX } else { Duration::from_millis(event) };
        let slow = u64::try_from(slow_us).map_or(Duration::MAX, Duration::from_micros);
        self.slow_entry.set(slow);
        self.slow_event.set(event);
        // One comparison for each request, whatever is on.
        self.slow.set(slow.min(event));
        self.slow_entries_max.set(usize::try_from(entries_max).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, want: Option<Result<i64, Unfit>>) {
        let got = Change::parse(name.as_bytes(), value.as_bytes());
        assert_eq!(got.map(|change| change.map(|change| change.value)), want);
    }

    #[test]
    fn what_may_be_set() {
        check("SLOWLOG-max-len", "7", Some(Ok(7)));
        check("slowlog-max-len", "65537", Some(Err(Unfit::OutOfRange(0, 65536))));
        check("slowlog-log-slower-than", "-1", Some(Ok(-1)));
        check("slowlog-log-slower-than", "-2", Some(Err(Unfit::OutOfRange(-1, i64::MAX))));
        check("latency-monitor-threshold", "1s", Some(Err(Unfit::NoInteger)));
        check("maxmemory", "1", None);
    }
}
