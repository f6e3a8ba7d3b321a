//! The texts of scripts that came through this process, by their digest: what a store has forgotten it is given again.
//!
//! Shared by all workers, and asked only where a store is not known to have a script. `docs/scripting.md` says what
//! follows from it being nowhere else.
//!
//! # Invariants
//! - What is held is bounded. Texts that clients have loaded stay longer than those that were only run.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha1::{Digest as _, Sha1};

/// All texts together. A script has some kilobytes, and an application some dozens of them.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// One text; a longer one is not remembered.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// What an entry costs beside its text, about.
const ENTRY_BYTES: usize = 160;

/// The name of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 20]);

impl Digest {
    /// Of a text.
    pub(super) fn of(text: &[u8]) -> Self {
        Self(Sha1::digest(text).into())
    }

    /// As clients write it; none if it cannot be one.
    pub(super) fn parse(hex: &[u8]) -> Option<Self> {
        let mut bytes = [0; 20];
        if hex.len() != 40 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }

    /// The number by which nodes know it.
    pub(super) fn number(self) -> u64 {
        self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How a text came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Came {
    /// By `EVAL`: the first to go when there are too many.
    Run,
    /// By `SCRIPT LOAD`.
    Loaded,
}

struct Entry {
    text: Arc<[u8]>,
    came: Came,
    serial: u64,
}

#[derive(Default)]
struct Inner {
    texts: HashMap<Digest, Entry>,
    /// Those that were only run before those that were loaded, the oldest of each first.
    order: BTreeMap<(Came, u64), Digest>,
    serial: u64,
    bytes: usize,
}

/// The texts that a process remembers.
#[derive(Default)]
pub struct Sources {
    inner: Mutex<Inner>,
    epoch: AtomicU64,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Changes whenever a text was let go: who has noted that a text is here looks again.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(super) fn remember(&self, text: &[u8], came: Came) -> Digest {
        let digest = Digest::of(text);
        if text.len() > TEXT_BYTES_MAX {
            return digest;
        }
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.serial += 1;
        let serial = inner.serial;
        if let Some(entry) = inner.texts.get_mut(&digest) {
            inner.order.remove(&(entry.came, entry.serial));
            (entry.came, entry.serial) = (entry.came.max(came), serial);
            inner.order.insert((entry.came, serial), digest);
            return digest;
        }
        inner.texts.insert(digest, Entry { text: text.into(), came, serial });
        inner.order.insert((came, serial), digest);
        inner.bytes += text.len() + ENTRY_BYTES;
        while inner.bytes > BYTES_MAX
            && let Some((_, oldest)) = inner.order.pop_first()
        {
            if let Some(gone) = inner.texts.remove(&oldest) {
                inner.bytes -= gone.text.len() + ENTRY_BYTES;
            }
            self.epoch.fetch_add(1, Ordering::Relaxed);
        }
        digest
    }

    pub(super) fn find(&self, digest: Digest) -> Option<Arc<[u8]>> {
        self.lock().texts.get(&digest).map(|entry| Arc::clone(&entry.text))
    }

    pub(super) fn forget_all(&self) {
        let mut inner = self.lock();
        let serial = inner.serial;
        *inner = Inner { serial, ..Inner::default() };
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_servers_say() {
        let digest = Digest::of(b"return 1");
        assert_eq!(Digest::parse(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"), Some(digest));
        assert_eq!(digest.to_string(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        assert_eq!(Digest::parse(b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB"), Some(digest));
        assert_eq!(Digest::parse(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8d"), None);
        assert_eq!(Digest::parse(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8dg"), None);
        assert_eq!(Digest::parse(&[0xff; 40]), None);
    }

    #[test]
    fn what_was_loaded_stays_longer() {
        let sources = Sources::default();
        let text = |number: usize| format!("{number:08}{}", "x".repeat(1_000_000)).into_bytes();
        let loaded = sources.remember(&text(0), Came::Loaded);
        let run = sources.remember(&text(1), Came::Run);
        let both = sources.remember(&text(2), Came::Run);
        sources.remember(&text(2), Came::Loaded);
        sources.remember(&text(2), Came::Run);
        let before = sources.epoch();
        for number in 3..40 {
            sources.remember(&text(number), Came::Run);
        }
        assert!(before < sources.epoch());
        assert!(sources.lock().bytes <= BYTES_MAX);
        assert_eq!(sources.find(loaded).as_deref(), Some(text(0).as_slice()));
        assert_eq!(sources.find(run), None);
        assert_eq!(sources.find(both).as_deref(), Some(text(2).as_slice()));
        assert!(sources.find(Digest::of(&text(39))).is_some());
        sources.forget_all();
        assert_eq!(sources.find(loaded), None);
        assert_eq!(sources.lock().bytes, 0);
    }

    #[test]
    fn a_huge_text_is_not_remembered() {
        let sources = Sources::default();
        let huge = vec![b' '; TEXT_BYTES_MAX + 1];
        let digest = sources.remember(&huge, Came::Loaded);
        assert_eq!(sources.find(digest), None);
    }
}
