//! Keys to values with expiry, change numbers for WATCH, and the count of bytes for the memory cap.
//!
//! # Invariants
//! - No method hands out an entry whose time has passed: look-ups remove it first (lazy expiry), and
//!   [`Keyspace::expire_sample`] removes those nobody asks for.
//! - No entry holds an empty collection.
//! - The order of entries depends on the commands alone, so that a run with the same seed is the same run.

use indexmap::IndexMap;

use super::reply::{Failure, WRONG_TYPE};
use super::value::{Kind, Value};

/// What an entry costs beside its key and value; a round figure.
const ENTRY_BYTES: usize = 96;

/// How many entries one sampling looks at, Redis's `ACTIVE_EXPIRE_CYCLE_KEYS_PER_LOOP`.
const SAMPLE_LEN: usize = 20;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) expires_at_ms: Option<u64>,
    changed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Keyspace {
    entries: IndexMap<Vec<u8>, Entry>,
    /// The time of the command that runs, or the last one.
    pub(super) now_ms: u64,
    changes: u64,
    bytes: usize,
}

impl Keyspace {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn expiring_len(&self) -> usize {
        self.entries.values().filter(|entry| entry.expires_at_ms.is_some()).count()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        let live = |entry: &Entry| entry.expires_at_ms.is_none_or(|at| at > self.now_ms);
        self.entries.iter().filter(move |(_, entry)| live(entry)).map(|(key, entry)| (key.as_slice(), entry))
    }

    /// One step of SCAN: at most `count` places downwards from `cursor`, and the next cursor (0: done).
    ///
    /// Downwards, because a removal moves the last entry into the hole: that one was visited, or is met below.
    /// So a key that is there from start to end is always returned, as Redis promises.
    pub(super) fn scan(&self, cursor: u64, count: usize) -> (u64, impl Iterator<Item = (&[u8], &Entry)>) {
        let (next, range) = scan_range(cursor, count, self.entries.len());
        let now_ms = self.now_ms;
        let step = self.entries.get_range(range).into_iter().flat_map(|slice| slice.iter());
        let live = step.filter(move |(_, entry)| entry.expires_at_ms.is_none_or(|at| at > now_ms));
        (next, live.map(|(key, entry)| (key.as_slice(), entry)))
    }

    /// The entry in this place, if it is still alive.
    pub(super) fn key_at(&self, place: usize) -> Option<&[u8]> {
        let (key, entry) = self.entries.get_index(place)?;
        entry.expires_at_ms.is_none_or(|at| at > self.now_ms).then_some(key)
    }

    pub(super) fn entry(&mut self, key: &[u8]) -> Option<&Entry> {
        self.expire(key);
        self.entries.get(key)
    }

    /// A number that changes whenever the key does; 0 while there is no such key.
    pub(super) fn version(&mut self, key: &[u8]) -> u64 {
        self.entry(key).map_or(0, |entry| entry.changed)
    }

    pub(super) fn contains(&mut self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// The value of a key as one type.
    pub(super) fn read<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&T>, Failure> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry) => T::of(&entry.value).map(Some).ok_or(WRONG_TYPE),
        }
    }

    /// Changes the value of a key, which is made first if it is missing and goes if it ends up empty.
    pub(super) fn edit<T: Kind, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        if self.contains(key) {
            let result = self.edit_existing(key, change)?;
            return Ok(result.expect("the key was just seen"));
        }
        let mut fresh = T::default();
        let result = change(&mut fresh)?;
        let value = fresh.wrap();
        if !value.is_gone() {
            self.put(key, value, None);
        }
        Ok(result)
    }

    /// Changes the value of a key that is there; `None` if it is not.
    pub(super) fn edit_existing<T: Kind, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T) -> Result<R, Failure>,
    ) -> Result<Option<R>, Failure> {
        self.expire(key);
        let Some(entry) = self.entries.get_mut(key) else { return Ok(None) };
        let before = entry.value.bytes();
        let result = change(T::of_mut(&mut entry.value).ok_or(WRONG_TYPE)?);
        self.bytes = (self.bytes + entry.value.bytes()).saturating_sub(before);
        if result.is_ok() {
            self.changes += 1;
            entry.changed = self.changes;
        }
        if entry.value.is_gone() {
            self.remove(key);
        }
        result.map(Some)
    }

    pub(super) fn put(&mut self, key: &[u8], value: Value, expires_at_ms: Option<u64>) {
        self.changes += 1;
        self.bytes += value.bytes() + key.len() + ENTRY_BYTES;
        let entry = Entry { value, expires_at_ms, changed: self.changes };
        let old = match self.entries.get_mut(key) {
            Some(place) => Some(std::mem::replace(place, entry)),
            None => self.entries.insert(key.to_vec(), entry),
        };
        if let Some(old) = old {
            self.bytes -= old.value.bytes() + key.len() + ENTRY_BYTES;
        }
    }

    /// Sets or clears the time at which a key goes. Whether there is such a key.
    pub(super) fn set_expiry(&mut self, key: &[u8], expires_at_ms: Option<u64>) -> bool {
        self.expire(key);
        self.changes += 1;
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.expires_at_ms = expires_at_ms;
        entry.changed = self.changes;
        true
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.expire(key);
        self.discard(key)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Looks at some entries from a random place on and removes those whose time has passed. How many went.
    pub(super) fn expire_sample(&mut self, random: &mut fastrand::Rng) -> usize {
        let mut gone = 0;
        for _ in 0..SAMPLE_LEN.min(self.entries.len()) {
            let place = random.usize(..self.entries.len().max(1));
            let due = self.entries.get_index(place).filter(|(_, entry)| self.is_due(entry)).map(|(key, _)| key.clone());
            if let Some(key) = due {
                self.discard(&key);
                gone += 1;
            }
        }
        gone
    }

    fn is_due(&self, entry: &Entry) -> bool {
        entry.expires_at_ms.is_some_and(|at| at <= self.now_ms)
    }

    fn expire(&mut self, key: &[u8]) {
        if self.entries.get(key).is_some_and(|entry| self.is_due(entry)) {
            self.discard(key);
        }
    }

    fn discard(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.swap_remove(key)?;
        self.bytes -= entry.value.bytes() + key.len() + ENTRY_BYTES;
        Some(entry)
    }
}

/// The places one step of a scan visits, and the cursor after it. Cursor 0 begins at the end.
pub(super) fn scan_range(cursor: u64, count: usize, len: usize) -> (u64, std::ops::Range<usize>) {
    let end = if cursor == 0 { len } else { usize::try_from(cursor).unwrap_or(usize::MAX).min(len) };
    let start = end.saturating_sub(count.max(1));
    (start as u64, start..end)
}
