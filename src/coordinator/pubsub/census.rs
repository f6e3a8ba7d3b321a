//! How many clients of this process listen to what.
//!
//! A store sees one connection of each worker, however many clients are behind it, and counts that. What `PUBLISH` and
//! `PUBSUB NUMSUB` answer is put right by what is known here. Of other proxies only the stores' count is known.
//!
//! Shared by all workers; the lock is taken when a client comes or goes, and by a publisher only while some name has more
//! clients than workers that listen to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Kind;
use super::expected::ExpectedListeners;
use crate::command::glob;

/// Who listens to one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Clients.
    pub(super) clients: u64,
    /// What the stores see of them: hubs.
    pub(super) hubs: u64,
}

impl Count {
    /// A store's count, put right. A store that sees nobody has told nobody.
    pub(super) fn correct(self, counted: i64) -> i64 {
        if counted <= 0 {
            return counted;
        }
        let others = counted.saturating_sub_unsigned(self.hubs).max(0);
        others.saturating_add_unsigned(self.clients)
    }
}

type Names = [HashMap<Box<[u8]>, Count>; 3];

/// See the module.
#[derive(Debug, Default)]
pub struct Census {
    pools: Mutex<HashMap<String, Names>>,
    /// By how many there are more clients than hubs, over all names.
    surplus: AtomicU64,
    /// Who is about to listen.
    pub(super) expected: Arc<ExpectedListeners>,
}

impl Census {
    fn pools(&self) -> MutexGuard<'_, HashMap<String, Names>> {
        // A count that may be off by one is no reason to stop.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of a hub has begun to listen; whether it is the hub's first.
    pub(super) fn came(&self, pool: &str, kind: Kind, name: &[u8], first: bool) {
        let mut pools = self.pools();
        if !pools.contains_key(pool) {
            pools.insert(pool.to_owned(), Names::default());
        }
        let Some(names) = pools.get_mut(pool).and_then(|names| names.get_mut(kind as usize)) else { return };
        if !names.contains_key(name) {
            names.insert(name.into(), Count::default());
        }
        if let Some(count) = names.get_mut(name) {
            count.clients += 1;
            count.hubs += u64::from(first);
        }
        self.surplus.fetch_add(u64::from(!first), Ordering::Relaxed);
    }

    /// A client of a hub has ceased to listen; whether it was the hub's last.
    pub(super) fn went(&self, pool: &str, kind: Kind, name: &[u8], last: bool) {
        let mut pools = self.pools();
        let Some(names) = pools.get_mut(pool).and_then(|names| names.get_mut(kind as usize)) else { return };
        let Some(count) = names.get_mut(name) else { return };
        count.clients = count.clients.saturating_sub(1);
        count.hubs = count.hubs.saturating_sub(u64::from(last));
        if count.clients == 0 {
            names.remove(name);
            if names.capacity() > 8 * names.len().max(64) {
                names.shrink_to_fit();
            }
        }
        self.surplus.fetch_sub(u64::from(!last), Ordering::Relaxed);
    }

    /// Who listens to a name.
    pub(super) fn of(&self, pool: &str, kind: Kind, name: &[u8]) -> Count {
        let pools = self.pools();
        let names = pools.get(pool).and_then(|names| names.get(kind as usize));
        names.and_then(|names| names.get(name)).copied().unwrap_or_default()
    }

    /// Who hears a message of a channel, by its name and by patterns; `None` if the store's count is right as it is.
    pub(super) fn audience(&self, pool: &str, kind: Kind, channel: &[u8]) -> Option<Count> {
        if self.surplus.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut count = self.of(pool, kind, channel);
        if kind == Kind::Channel
            && let Some(patterns) = self.pools().get(pool).and_then(|names| names.get(Kind::Pattern as usize))
        {
            for (_, more) in patterns.iter().filter(|(pattern, _)| glob(pattern, channel)) {
                count.clients += more.clients;
                count.hubs += more.hubs;
            }
        }
        Some(count).filter(|count| count.clients != count.hubs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_counts_workers_and_the_census_their_clients() {
        let census = Census::default();
        let audience = |channel: &str| census.audience("main", Kind::Channel, channel.as_bytes());
        census.came("main", Kind::Channel, b"news", true);
        assert_eq!(audience("news"), None);
        census.came("main", Kind::Channel, b"news", false);
        census.came("main", Kind::Channel, b"news", true);
        census.came("main", Kind::Pattern, b"n*", true);
        census.came("other", Kind::Channel, b"news", true);
        census.came("main", Kind::Shard, b"news", true);
        let count = Count { clients: 4, hubs: 3 };
        assert_eq!(audience("news"), Some(count));
        assert_eq!(audience("never"), None);
        // Two connections of others are beside ours; ours are not all there yet; nobody is there.
        assert_eq!([5, 2, 0].map(|counted| count.correct(counted)), [6, 4, 0]);
        census.went("main", Kind::Channel, b"news", false);
        assert_eq!(audience("news"), None);
        assert_eq!(census.of("main", Kind::Channel, b"news"), Count { clients: 2, hubs: 2 });
        census.went("main", Kind::Channel, b"news", true);
        census.went("main", Kind::Channel, b"news", true);
        assert_eq!(census.of("main", Kind::Channel, b"news"), Count::default());
        assert_eq!(census.surplus.load(Ordering::Relaxed), 0);
    }
}
