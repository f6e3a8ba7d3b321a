//! Things that go wrong with one store at a time.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::workload::Workload;
use crate::support::{Cluster, Fault, PATIENCE, eventually};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// SIGKILL, and back with its data.
    Kill,
    /// SIGSTOP: what was sent is answered late.
    Pause,
    /// All connections break.
    Cut,
    /// Replies come late.
    Delay,
    /// Connections break within replies.
    CutAfter,
    /// Requests arrive, their replies do not.
    Swallow,
    /// Requests do not arrive.
    Lose,
    /// Nobody can connect.
    Refuse,
    /// SIGKILL, and back without its data.
    Wipe,
    /// A proxy is killed and comes back.
    Proxy,
}

impl Trouble {
    /// What three replicas must bear one at a time.
    pub(super) const STORES: &[Self] =
        &[Self::Kill, Self::Pause, Self::Cut, Self::Delay, Self::CutAfter, Self::Swallow, Self::Lose, Self::Refuse];

    /// Does it to `store`, for a while, and undoes it.
    fn happens(self, cluster: &mut Cluster, store: usize, random: &mut fastrand::Rng) {
        let lasting = Duration::from_millis(random.u64(20..900));
        // Some proxies notice, others do not.
        let whom = random.u8(1..1 << cluster.proxies.len());
        let noticed = |proxy: usize| whom & (1 << proxy) != 0;
        let fault = match self {
            Self::Kill => {
                cluster.stores[store].kill9();
                thread::sleep(lasting);
                return cluster.stores[store].restart();
            }
            Self::Wipe => {
                cluster.stores[store].kill9();
                thread::sleep(lasting);
                return cluster.stores[store].restart_empty();
            }
            Self::Pause => {
                cluster.stores[store].pause();
                thread::sleep(lasting);
                return cluster.stores[store].resume();
            }
            Self::Proxy => {
                let proxy = random.usize(..cluster.proxies.len());
                cluster.kill_proxy(proxy);
                thread::sleep(lasting / 4);
                return cluster.restart_proxy(proxy);
            }
            Self::Cut => return cluster.cut(store, noticed),
            Self::Delay => Fault::Delay(Duration::from_millis(random.u64(1..60))),
            Self::CutAfter => Fault::CutAfter(random.u64(1..20_000)),
            Self::Swallow => Fault::Swallow,
            Self::Lose => Fault::Lose,
            Self::Refuse => Fault::Refuse,
        };
        cluster.disturb(store, fault, noticed);
        if self == Self::Refuse {
            cluster.cut(store, noticed);
        }
        thread::sleep(lasting);
        cluster.disturb(store, Fault::None, noticed);
        // What was swallowed is gone, and nothing that comes later may take its place.
        cluster.cut(store, noticed);
    }
}

/// Trouble of these kinds, one after the other, for `duration`. Between two of them the workload must get on.
pub(super) fn make(
    cluster: &mut Cluster,
    kinds: &[Trouble],
    duration: Duration,
    workload: &Workload,
    random: &mut fastrand::Rng,
) {
    let end = Instant::now() + duration;
    let mut counts: BTreeMap<Trouble, u32> = BTreeMap::new();
    // Each kind once first, in an order by chance.
    let mut first = kinds.to_vec();
    random.shuffle(&mut first);
    if !cluster.has_proxies() {
        return thread::sleep(duration.min(Duration::from_secs(2)));
    }
    while Instant::now() < end {
        let kind = first.pop().unwrap_or_else(|| kinds[random.usize(..kinds.len())]);
        let store = random.usize(..cluster.stores.len());
        *counts.entry(kind).or_default() += 1;
        kind.happens(cluster, store, random);
        if kind == Trouble::Wipe {
            // One fault at a time: it is over when the store has its keys again.
            cluster.refills("after a wipe under load");
        }
        let before = workload.answered();
        eventually("the clients get answers again", PATIENCE, || workload.answered() >= before + 30);
        thread::sleep(Duration::from_millis(random.u64(..200)));
    }
    eprintln!("trouble: {counts:?}");
}
