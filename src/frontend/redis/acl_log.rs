//! What was not allowed of late, for `ACL LOG`: one list for all workers, written where something is refused.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::metrics;

/// Events kept; the oldest goes. As many as Redis keeps (`acllog-max-len`).
const EVENTS_MAX: usize = 128;
/// Bytes kept of a key, channel or name.
const OBJECT_BYTES_MAX: usize = 1024;
/// What happens again within this time is counted, as in Redis, and takes no place of its own.
const TOGETHER_MS: u64 = 60_000;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A name with a password.
    Auth,
    Command,
    Script,
    Key,
    Channel,
}

impl Reason {
    /// The word in `ACL LOG`. A script is a command there: Redis knows no more.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Command | Self::Script => "command",
            Self::Key => "key",
            Self::Channel => "channel",
        }
    }

    /// The label of its metric.
    pub(super) fn label(self) -> metrics::Denial {
        match self {
            Self::Auth => metrics::Denial::Auth,
            Self::Command => metrics::Denial::Command,
            Self::Script => metrics::Denial::Script,
            Self::Key => metrics::Denial::Key,
            Self::Channel => metrics::Denial::Channel,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) reason: Reason,
    /// The verb, key or channel.
    pub(super) object: &'a [u8],
    /// Who it was, or who it wanted to be.
    pub(super) user: &'a [u8],
    /// The client's line of `CLIENT LIST`.
    pub(super) client: String,
}

/// What is kept of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) reason: Reason,
    pub(super) object: Vec<u8>,
    pub(super) user: Vec<u8>,
    pub(super) client: String,
    pub(super) count: i64,
    pub(super) at_ms: u64,
}

/// The newest events, the newest first.
#[derive(Debug, Default)]
pub struct AclLog {
    entries: Mutex<VecDeque<Entry>>,
}

impl AclLog {
    pub(super) fn add(&self, event: Event<'_>, now_ms: u64) {
        let cut = |bytes: &[u8]| bytes.get(..OBJECT_BYTES_MAX).unwrap_or(bytes).to_vec();
        let Event { reason, object, user, client } = event;
        let (object, user) = (cut(object), cut(user));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let same = entries.iter().position(|known| {
            known.reason.word() == reason.word()
                && known.object == object
                && known.user == user
                && now_ms.saturating_sub(known.at_ms) <= TOGETHER_MS
        });
        let count = same.and_then(|at| entries.remove(at)).map_or(0, |known| known.count);
        entries.push_front(Entry { reason, object, user, client, count: count + 1, at_ms: now_ms });
        entries.truncate(EVENTS_MAX);
    }

    pub(super) fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().take(count).cloned().collect()
    }

    pub(super) fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_repetitions_counted() {
        let log = AclLog::default();
        let add = |object: &str, now_ms| {
            let event = Event { reason: Reason::Key, object: object.as_bytes(), user: b"u", client: String::new() };
            log.add(event, now_ms);
        };
        let shown = |count| -> Vec<(String, i64)> {
            let entries = log.newest(count);
            entries.iter().map(|entry| (String::from_utf8_lossy(&entry.object).into_owned(), entry.count)).collect()
        };
        add("a", 0);
        add("b", 1);
        add("a", 60_000);
        assert_eq!(shown(9), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        add("a", 120_001);
        assert_eq!(shown(2), [("a".to_owned(), 1), ("a".to_owned(), 2)]);
        (0..200).for_each(|number| add(&format!("{number}"), 200_000));
        assert_eq!(shown(usize::MAX).len(), EVENTS_MAX);
        add(&"x".repeat(5_000), 300_000);
        assert_eq!(log.newest(1)[0].object.len(), OBJECT_BYTES_MAX);
        log.clear();
        assert!(shown(9).is_empty());
    }
}
