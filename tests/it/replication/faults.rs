//! Many clients, several proxies, one fault at a time: every key must behave as if there were one store and no fault.
//! `QUOIT_FAULT_SECONDS` says how long each of these tests makes trouble; `QUOIT_SOAK_SECONDS` starts `soak`.

use std::thread;
use std::time::{Duration, Instant};

use super::trouble::{Trouble, make};
use super::workload::Workload;
use crate::support::{
    Client, Cluster, Fault, QuoitConfig, Reach, Value, all_serve, is_refused, is_unknown, patient, random, setting,
};

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
    let slow_is_no_fault = |proxy, config| patient(proxy, skewed(proxy, config));
    let Some(cluster) = Cluster::start_with(3, 3, Reach::Direct, slow_is_no_fault) else { return };
    let workload = Workload::new("no fault", cluster.addresses(), CLIENTS, 1);
    let tally = workload.run(&mut random("no fault"), |_| thread::sleep(seconds() / 3), || ());
    assert_eq!((tally.unknown, tally.refused), (0, 0), "nothing was wrong");
    cluster.converges("no fault");
}

/// Each proxy reaches two stores, and no two of them the same two.
#[test]
fn each_proxy_misses_another_store() {
    let Some(cluster) = Cluster::start_with(3, 3, Reach::Relayed, skewed) else { return };
    let mut random = random("each proxy misses another store");
    let addresses = cluster.addresses();
    let workload = Workload::new("missing", addresses.clone(), CLIENTS, 1);
    let apart = |fault| (0..3).for_each(|number| cluster.disturb(number, fault, |proxy| proxy == number));
    let tally = workload.run(
        &mut random,
        |_| {
            apart(Fault::Refuse);
            (0..3).for_each(|number| cluster.cut(number, |proxy| proxy == number));
            thread::sleep(seconds() / 2);
        },
        || {
            apart(Fault::None);
            all_serve(&addresses);
        },
    );
    assert!(tally.answered > tally.unknown + tally.refused, "every proxy has a quorum: {tally:?}");
    cluster.converges("each proxy missed another store");
}

/// Many clients of three proxies want one key: each increment is counted once, and they get on.
#[test]
fn one_key_that_all_want() {
    let Some(cluster) = Cluster::start_with(3, 3, Reach::Direct, skewed) else { return };
    let addresses = cluster.addresses();
    let results: Vec<(Vec<i64>, u32, u32)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let mut client = Client::connect(addresses[number % addresses.len()]);
                scope.spawn(move || {
                    let (mut counts, mut unknown, mut refused) = (Vec::new(), 0, 0);
                    for _ in 0..80 {
                        match client.line("INCR wanted") {
                            Value::Integer(count) => counts.push(count),
                            reply if is_unknown(&reply) => unknown += 1,
                            reply if is_refused(&reply) => refused += 1,
                            reply => panic!("INCR was answered by {reply:?}"),
                        }
                    }
                    (counts, unknown, refused)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });
    let unknown: u32 = results.iter().map(|(_, unknown, _)| unknown).sum();
    let refused: u32 = results.iter().map(|(_, _, refused)| refused).sum();
    eprintln!("{unknown} unknown, {refused} refused of {}", 12 * 80);
    for (counts, ..) in &results {
        assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "one client saw {counts:?}");
        assert!(!counts.is_empty(), "a client got no answer at all");
    }
    let mut all: Vec<_> = results.into_iter().flat_map(|(counts, ..)| counts).collect();
    let answered = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), answered, "two increments gave one number");
    assert!(answered > 12 * 80 / 2, "{answered} increments were answered");
    let last: i64 = cluster.client(0).line("GET wanted").text().parse().expect("a number");
    let answered = i64::try_from(answered).expect("few");
    assert!(
        (answered..=answered + i64::from(unknown)).contains(&last),
        "{answered} answered, {unknown} unknown: {last}"
    );
    cluster.converges("one key that all want");
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
