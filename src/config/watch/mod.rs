//! Notices that the configuration file changed, or a file with a certificate or key that it names, however it was changed.
//!
//! Editors write a new file and rename it over the old one; Kubernetes swaps a symlink two directories away; a script
//! truncates and writes. A watch on the file itself misses the first two after one time, so every directory that leads
//! to the file is watched instead, any event in one of them is a reason to look, and looking compares the content.
//! (What inotify delivers in each case was observed with notify 8.2 on Linux 6.)
//!
//! # Invariants
//! - A change is reported only when the content differs from what was last reported, so events in excess are harmless.
//! - A missed event costs at most 30 seconds: the file is compared at that pace whatever the events say.
//! - Reading the file causes no event that is listened to, so the watch does not wake itself.
//!
//! It does not read or check the configuration, and does not know signals: [`Poke`] is for those.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::content_hash;

mod named;

/// How long it must be quiet before the file is read. The first event of a symlink swap still shows the old content,
/// and the first of a truncation an empty file; editors need a few milliseconds between their steps.
const QUIET: Duration = Duration::from_millis(200);

/// How long a directory that is never quiet can hold up a look.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often the file is compared without any event: the net under network filesystems, exhausted inotify limits and
/// links that lead through directories that are not watched.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// How many symlinks in a row are followed; Linux itself stops at 40 (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Why to load the file again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its content differs from what was loaded, or it can no longer be read, or can be again.
    Edited,
    /// Someone asked for it by [`Poke::poke`].
    Poked,
}

/// Asks a [`Watch`] to report [`Change::Poked`]: for SIGHUP and the admin port.
#[derive(Clone, Debug)]
pub struct Poke {
    signals: Arc<Signals>,
}

impl Poke {
    /// Reports a change even if the content is the same: passwords are in other files. Several pokes before the watch is
    /// polled count as one.
    pub fn poke(&self) {
        self.signals.poked.store(true, Ordering::Release);
        self.signals.wake.notify_one();
    }
}

/// What the watcher's thread and [`Poke`] leave for the watch: two marks and a bell, so nothing can pile up.
#[derive(Debug, Default)]
struct Signals {
    wake: Notify,
    poked: AtomicBool,
    touched: AtomicBool,
}

/// Watches one configuration file.
pub struct Watch {
    path: PathBuf,
    signals: Arc<Signals>,
    /// `None` where the system gives no watcher; the poll remains.
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    /// The [`fingerprint`] that was last reported; `None` for a file that could not be read.
    seen: Option<u64>,
    poll_interval: Duration,
    poll_at: Instant,
}

impl Watch {
    /// Watches `path`, of which the content with the fingerprint `seen` ([`super::Config::fingerprint`]) has been loaded. An
    /// edit between that load and this call is reported.
    pub fn start(path: &Path, seen: Option<u64>) -> Self {
        Self::with_poll_interval(path, seen, POLL_INTERVAL)
    }

    fn with_poll_interval(path: &Path, seen: Option<u64>, poll_interval: Duration) -> Self {
        let signals = Arc::new(Signals::default());
        let watcher = watcher(Arc::clone(&signals))
            .inspect_err(|error| {
                tracing::warn!(%error, "no file watcher: the configuration is compared every 30 seconds instead");
            })
            .ok();
        let mut watch = Self {
            path: path.to_owned(),
            signals,
            watcher,
            directories: BTreeSet::new(),
            seen,
            poll_interval,
            poll_at: Instant::now(), // The first look is at once: the file may have changed since it was loaded.
        };
        watch.follow();
        watch
    }

    /// A handle that makes this watch report a change.
    pub fn poke(&self) -> Poke {
        Poke { signals: Arc::clone(&self.signals) }
    }

    /// Waits until there is a reason to load the file again.
    ///
    /// # Cancel safety
    /// Safe: what was noticed but not reported is kept in marks that the next call sees first.
    pub async fn changed(&mut self) -> Change {
        loop {
            if self.signals.poked.swap(false, Ordering::AcqRel) {
                self.seen = fingerprint(&self.path);
                return Change::Poked;
            }
            let touched = self.signals.touched.load(Ordering::Acquire);
            if touched {
                self.quiet().await;
            } else if Instant::now() < self.poll_at {
                // Woken or timed out, the marks and the clock decide above.
                let _woken = timeout_at(self.poll_at, self.signals.wake.notified()).await;
                continue;
            }
            // No await from here on: the marks are taken and the file is compared in one piece.
            self.signals.touched.store(false, Ordering::Release);
            self.poll_at = Instant::now() + self.poll_interval;
            self.follow();
            let now = fingerprint(&self.path);
            if now != self.seen {
                self.seen = now;
                return Change::Edited;
            }
        }
    }

    /// Waits until no event has come for a while, or a poke has.
    async fn quiet(&self) {
        let deadline = Instant::now() + QUIET_WAIT_MAX;
        while Instant::now() < deadline && !self.signals.poked.load(Ordering::Acquire) {
            if timeout(QUIET, self.signals.wake.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Watches the directories that lead to the files as they are linked now.
    fn follow(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let files = std::iter::once(self.path.clone()).chain(named::files(&self.path));
        let wanted: BTreeSet<PathBuf> = files.flat_map(|file| directories(&file)).collect();
        for gone in self.directories.difference(&wanted) {
            // A directory that was deleted took its watch along, which is an error here and no loss.
            let _gone = watcher.unwatch(gone);
        }
        // Those already watched are watched again: a directory that was deleted and made anew has lost its watch, and
        // for one that has not, inotify_add_watch(2) changes nothing.
        self.directories = wanted
            .into_iter()
            .filter(|directory| match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "directory is not watched");
                    false
                }
            })
            .collect();
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

fn watcher(signals: Arc<Signals>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error means that events were lost: all the more reason to look.
        if event.is_ok_and(|event| is_reading(event.kind)) {
            return;
        }
        signals.touched.store(true, Ordering::Release);
        signals.wake.notify_one();
    })
}

/// Whether the event is of someone who only read, such as ourselves.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// The directory of the file, that of each link on the way to it, and that of the file it really is.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new(".").to_owned(),
            Some(parent) => parent.to_owned(),
            None => break,
        };
        // Both: the directory as it is now, and whatever a relative link starts from.
        directories.insert(parent.canonicalize().unwrap_or_else(|_| parent.clone()));
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = parent.join(target);
    }
    directories
}

/// What a file says, and the files with certificates and keys that it names, in one number: [`content_hash`] if it names
/// none. `None` if the file itself cannot be read.
pub fn fingerprint(path: &Path) -> Option<u64> {
    let own = hash(path)?;
    let others: Vec<Option<u64>> = named::files(path).iter().map(|file| hash(file)).collect();
    if others.is_empty() {
        return Some(own);
    }
    let all = others.iter().flat_map(|hash| [u64::from(hash.is_some()), hash.unwrap_or(0)]);
    let bytes: Vec<u8> = std::iter::once(own).chain(all).flat_map(u64::to_le_bytes).collect();
    Some(content_hash(&bytes))
}

/// The hash of the content, or `None` if it cannot be read.
fn hash(path: &Path) -> Option<u64> {
    super::bytes(path).ok().map(|bytes| content_hash(&bytes))
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
