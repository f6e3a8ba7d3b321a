//! What one run is: how many stores, proxies and clients, what is asked, and what goes wrong. All of it follows from the
//! seed.

use std::time::Duration;

use fastrand::Rng;
use quoit::quorum::{Adopt, Level, Quorums};
use quoit::replication::Settings;

use crate::network::{Faults, Transport};
use crate::sequential::Verb;

use super::model::{Ask, KEYS_MAX};

/// One run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stores: usize,
    pub(crate) proxies: usize,
    pub(crate) clients: usize,
    pub(crate) asks: usize,
    pub(crate) keys: usize,
    /// The longest that a client waits before it asks again.
    pub(crate) pause_us: u64,
    pub(crate) flavour: Flavour,
    pub(crate) level: Level,
    pub(crate) settings: Settings,
    pub(crate) faults: Faults,
    /// Stores that lose their memory one after the other, each when all vote again. One in `faults` may do so while the
    /// pool begins.
    pub(crate) wipes: u32,
    pub(crate) script_flushes: u32,
    pub(crate) service_timeout_us: u64,
    /// What the stores had before the pool began.
    pub(crate) is_pure: bool,
}

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Registers,
    Counters,
    Lists,
    Popping,
    Mixed,
    Renames,
    /// Commands over all keys, among others.
    Together,
}

impl Flavour {
    /// Whether some commands are about several keys, so that all keys are judged as one.
    pub(crate) fn is_joint(self) -> bool {
        matches!(self, Self::Renames | Self::Together)
    }
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed ^ 0x5eed);
        let (stores, replicas) = *pick(&mut random, &[(3, 3), (3, 3), (3, 3), (5, 5), (5, 3), (2, 2)]);
        let has_wipe = replicas > 2 && random.u32(..3) == 0;
        let wipes = if has_wipe { random.u32(..=4) } else { 0 };
        let (flavour, stores, replicas) = drawn(&mut random, stores, replicas);
        let horizon_us = if has_wipe { 800_000 } else { 150_000 };
        let faults = Faults {
            transport: Transport::Connections,
            delay_us: *pick(&mut random, &[200, 1_000, 5_000]),
            slow: *pick(&mut random, &[0, 50, 200]),
            slow_us: 40_000,
            lost: *pick(&mut random, &[0, 5, 20, 50]),
            doubled: 0,
            store_stalls: random.u32(..4),
            proxy_stalls: random.u32(..4),
            stall_us: *pick(&mut random, &[10_000, 40_000, 100_000]),
            proxy_crashes: random.u32(..3),
            restarts: random.u32(..3),
            wipes: u32::from(has_wipe && wipes == 0),
            skew_us: *pick(&mut random, &[0, 1_000, 50_000]),
            horizon_us,
        };
        let proxies = random.usize(2..=4);
        let clients = proxies * random.usize(1..=3);
        Self {
            stores,
            proxies,
            clients,
            asks: if has_wipe && !flavour.is_joint() { 90 } else { 60 } / clients,
            keys: if flavour == Flavour::Renames {
                2
            } else if flavour == Flavour::Together {
                random.usize(2..=KEYS_MAX)
            } else {
                random.usize(1..=if has_wipe { 6 } else { 2 })
            },
            pause_us: if has_wipe {
                *pick(&mut random, &[20_000, 50_000, 100_000])
            } else {
                *pick(&mut random, &[500, 5_000, 20_000])
            },
            flavour,
            level: *pick(&mut random, &[Level::Linearizable, Level::Linearizable, Level::Linearizable, Level::All]),
            settings: Settings {
                quorums: Quorums::of_majorities(replicas),
                tombstone_grace: Duration::from_mins(10),
                timeout: Duration::from_millis(*pick(&mut random, &[50, 200, 1_000])),
                hedge: *pick(&mut random, &[None, Some(Duration::from_millis(3))]),
                repair_queue_len: 1_000,
                fingerprint: 7,
                is_strict: true,
                adopt: Adopt::Majority,
            },
            faults,
            wipes,
            script_flushes: *pick(&mut random, &[0, 0, 10]),
            service_timeout_us: *pick(&mut random, &[20_000, 60_000]),
            is_pure: random.u32(..4) > 0,
        }
    }

    /// What a client asks next. `serial` makes each value one of its own, so that twice is seen.
    pub(crate) fn ask(&self, random: &mut Rng, key: usize, serial: usize) -> Ask {
        let number = (serial * 1000).to_string().into_bytes();
        let word = format!("w{serial}.").into_bytes();
        let (get, set) = (Ask::Plain(Verb::Get), Ask::Plain(Verb::Set(number.clone())));
        let asks: Vec<Ask> = match self.flavour {
            Flavour::Registers => vec![get.clone(), get, set.clone(), set],
            Flavour::Counters => {
                vec![get, set, Ask::Plain(Verb::Incr), Ask::Plain(Verb::Incr), Ask::Plain(Verb::Append(b"7".to_vec()))]
            }
            Flavour::Lists => vec![
                Ask::Plain(Verb::LRange),
                Ask::Plain(Verb::RPush(word.clone())),
                Ask::Plain(Verb::RPush(word)),
                Ask::Plain(Verb::Del),
            ],
            Flavour::Popping => vec![
                Ask::Plain(Verb::SMembers),
                Ask::Plain(Verb::SAdd(word.clone())),
                Ask::Plain(Verb::SAdd(word)),
                Ask::Plain(Verb::SPop),
            ],
            Flavour::Renames => {
                vec![get, set.clone(), set, Ask::Rename(1 - key), Ask::Plain(Verb::Append(word)), Ask::GetDel]
            }
            Flavour::Together => vec![
                get,
                set.clone(),
                Ask::Mget,
                Ask::LookEach,
                Ask::AppendEach(word.clone()),
                Ask::AppendEach(word.clone()),
                Ask::Plain(Verb::Append(word)),
                Ask::Rename((key + 1) % self.keys),
                Ask::GetDel,
            ],
            Flavour::Mixed => vec![
                get.clone(),
                get,
                set.clone(),
                set,
                Ask::Plain(Verb::Incr),
                Ask::Plain(Verb::Incr),
                Ask::Plain(Verb::Append(b"1".to_vec())),
                Ask::Plain(Verb::Del),
                Ask::Plain(Verb::RPush(word.clone())),
                Ask::Plain(Verb::LRange),
                Ask::Plain(Verb::SAdd(word)),
                Ask::Plain(Verb::SMembers),
                Ask::Plain(Verb::SPop),
                Ask::GetDel,
                Ask::SetNx(number),
            ],
        };
        pick(random, &asks).clone()
    }
}

/// What clients ask for, and how many stores there are for that.
fn drawn(random: &mut Rng, stores: usize, replicas: u8) -> (Flavour, usize, u8) {
    let flavours = [
        Flavour::Registers,
        Flavour::Counters,
        Flavour::Lists,
        Flavour::Popping,
        Flavour::Mixed,
        Flavour::Mixed,
        Flavour::Renames,
        Flavour::Together,
    ];
    let flavour = *pick(random, &flavours);
    let is_full = stores == usize::from(replicas);
    // `QUOIT_SIM_JOINT=1`: commands over several keys in every run.
    if std::env::var_os("QUOIT_SIM_JOINT").is_some() {
        let flavour = match flavour {
            joint if joint.is_joint() => joint,
            _ => *pick(random, &[Flavour::Renames, Flavour::Together]),
        };
        return if is_full { (flavour, stores, replicas) } else { (flavour, 3, 3) };
    }
    // The keys need not be together otherwise.
    (if flavour.is_joint() && !is_full { Flavour::Mixed } else { flavour }, stores, replicas)
}

fn pick<'a, T>(random: &mut Rng, all: &'a [T]) -> &'a T {
    &all[random.usize(..all.len())]
}
