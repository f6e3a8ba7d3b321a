//! Subscriptions that clients of this process have asked for and stores have not confirmed yet.
//!
//! One server reads a `SUBSCRIBE` before a `PUBLISH` that was sent after it, whoever sent that; and programs rely on it: they
//! do not wait for the confirmation, and hand out the work whose end they want to hear of. Here the stores have to be told
//! first. So who publishes by the same process waits for those who were there before, for `LISTENERS_WAIT` at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Kind, Name};
use crate::command::glob;

/// How long a message waits for clients that are about to listen. A store that stands still holds them up for longer.
pub(super) const LISTENERS_WAIT: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Asked {
    pool: String,
    kind: Kind,
    names: Vec<Box<[u8]>>,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    asked: HashMap<u64, Asked>,
}

/// See the module. Shared by all workers; who publishes takes the lock only while somebody is about to listen.
#[derive(Debug, Default)]
pub struct ExpectedListeners {
    count: AtomicUsize,
    all: Mutex<All>,
    settled: Notify,
}

impl ExpectedListeners {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is about to listen to these names, until what is given back goes.
    pub(super) fn expect(self: &Arc<Self>, pool: &str, kind: Kind, names: &[Name]) -> Expected {
        let names = names.iter().map(|name| Box::from(&**name)).collect();
        let mut all = self.all();
        let number = all.next;
        all.next += 1;
        all.asked.insert(number, Asked { pool: pool.to_owned(), kind, names });
        self.count.fetch_add(1, Ordering::Release);
        Expected { number, listeners: Arc::clone(self) }
    }

    /// Whether somebody is about to listen to a channel.
    pub fn are_due(&self, pool: &str, kind: Kind, channel: &[u8]) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.all().asked.values().filter(|expected| expected.pool == pool).any(|expected| match expected.kind {
                Kind::Pattern => kind == Kind::Channel && expected.names.iter().any(|name| glob(name, channel)),
                other => other == kind && expected.names.iter().any(|name| **name == *channel),
            })
    }

    /// Waits until nobody of whom `are_due` tells is about to listen, or for `LISTENERS_WAIT`.
    pub async fn settle(&self, are_due: impl Fn() -> bool) {
        let all = async {
            loop {
                let settled = self.settled.notified();
                if !are_due() {
                    return;
                }
                settled.await;
            }
        };
        // Late or not, it is published.
        drop(tokio::time::timeout(LISTENERS_WAIT, all).await);
    }
}

/// A client that is about to listen.
#[derive(Debug)]
pub(super) struct Expected {
    number: u64,
    listeners: Arc<ExpectedListeners>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.listeners.all().asked.remove(&self.number);
        self.listeners.count.fetch_sub(1, Ordering::Release);
        self.listeners.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_about_to_listen() {
        let listeners = Arc::<ExpectedListeners>::default();
        let due = |kind, channel: &str| listeners.are_due("main", kind, channel.as_bytes());
        let name = |name: &str| Name::from(name.as_bytes());
        let first = listeners.expect("main", Kind::Channel, &[name("news"), name("sports")]);
        let second = listeners.expect("main", Kind::Pattern, &[name("we*")]);
        let third = listeners.expect("other", Kind::Shard, &[name("shard")]);
        assert!(due(Kind::Channel, "sports") && due(Kind::Channel, "weather"));
        assert!(!due(Kind::Channel, "other") && !due(Kind::Shard, "news") && !due(Kind::Shard, "weather"));
        assert!(!due(Kind::Shard, "shard"), "in another pool");
        drop(first);
        assert!(!due(Kind::Channel, "news") && due(Kind::Channel, "weather"));
        drop((second, third));
        assert!(!due(Kind::Channel, "weather"));
        assert_eq!(listeners.count.load(Ordering::Relaxed), 0);
    }
}
