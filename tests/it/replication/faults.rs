//! Many clients, several proxies, one fault at a time: every key must behave as if there were one store and no fault.
//! `QUOIT_FAULT_SECONDS` says how long each of these tests makes trouble; `QUOIT_SOAK_SECONDS` starts `soak`.

use std::thread;
use std::time::{Duration, Instant};

use super::trouble::{Trouble, make};
use super::workload::Workload;
use crate::support::{Cluster, QuoitConfig, Reach, all_serve, random, setting};

const CLIENTS: usize = 6;

fn seconds() -> Duration {
    Duration::from_secs(setting("QUOIT_FAULT_SECONDS").unwrap_or(8))
}

/// The clocks of three proxies, 100 ms from the first to the last.
fn skewed(proxy: usize, config: QuoitConfig) -> QuoitConfig {
    config.environment("QUOIT_TEST_CLOCK_OFFSET_MS", &[0, 50, -50][proxy % 3])
}

/// One round: keys of their own, trouble, and everything checked.
fn round(cluster: &mut Cluster, name: &str, kinds: &[Trouble], duration: Duration, random: &mut fastrand::Rng) {
    let mut workload = Workload::new(name, cluster.addresses(), CLIENTS, 2);
    workload.proxies_may_die = kinds.contains(&Trouble::Proxy);
    let mut nemesis = random.fork();
    let addresses = cluster.addresses();
    workload.run(random, |workload| make(cluster, kinds, duration, workload, &mut nemesis), || all_serve(&addresses));
    if workload.proxies_may_die {
        cluster.touched();
    }
    cluster.converges(name);
    workload.clear();
}

#[test]
fn three_stores_one_fault_at_a_time() {
    let Some(mut cluster) = Cluster::start_with(3, 3, Reach::Relayed, skewed) else { return };
    round(&mut cluster, "three stores", Trouble::STORES, seconds(), &mut random("three stores"));
}

#[test]
fn five_stores_one_fault_at_a_time() {
    let Some(mut cluster) = Cluster::start_with(5, 3, Reach::Relayed, skewed) else { return };
    round(&mut cluster, "five stores", Trouble::STORES, seconds(), &mut random("five stores"));
}

/// Nothing fails: whatever goes wrong here is a matter of clients that meet.
#[test]
fn no_fault_at_all() {
    let Some(cluster) = Cluster::start_with(3, 3, Reach::Direct, skewed) else { return };
    let workload = Workload::new("no fault", cluster.addresses(), CLIENTS, 1);
    let tally = workload.run(&mut random("no fault"), |_| thread::sleep(seconds() / 3), || ());
    assert_eq!((tally.unknown, tally.refused), (0, 0), "nothing was wrong");
    cluster.converges("no fault");
}

/// A proxy that is killed leaves writes half done; the others must settle them.
#[test]
fn proxies_that_are_killed() {
    let Some(mut cluster) = Cluster::start_with(3, 3, Reach::Direct, skewed) else { return };
    round(&mut cluster, "killed proxies", &[Trouble::Proxy], seconds() / 2, &mut random("killed proxies"));
}

/// Hours by hand: `QUOIT_SOAK_SECONDS=3600 cargo test --test it soak -- --nocapture`.
#[test]
fn soak() {
    let Some(seconds) = setting("QUOIT_SOAK_SECONDS") else { return };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = random("soak");
    let everything = [Trouble::STORES, &[Trouble::Proxy, Trouble::Wipe]].concat();
    let mut number = 0;
    while Instant::now() < end {
        let stores = if random.bool() { 3 } else { 5 };
        let Some(mut cluster) = Cluster::start_with(stores, 3, Reach::Relayed, skewed) else { return };
        for _ in 0..10 {
            number += 1;
            eprintln!("round {number}, {stores} stores, {:?} left", end.saturating_duration_since(Instant::now()));
            round(&mut cluster, &format!("soak {number}"), &everything, Duration::from_secs(15), &mut random);
            if Instant::now() >= end {
                break;
            }
        }
    }
}
