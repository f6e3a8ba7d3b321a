//! What the tests stand on: stores, the proxy, a client that keeps bytes, faults, and waiting for a condition.

mod client;
mod cluster;
mod fault;
mod fleet;
mod load;
mod quoit;
mod redis;
mod replicas;
mod tls;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Reply, Value, encode};
pub(crate) use cluster::{Cluster, Reach, all_serve, is_refused, is_unknown, patient, replicas_converge};
pub(crate) use fault::{Fault, FaultProxy};
pub(crate) use fleet::{Fleet, keys_by_store};
pub(crate) use load::{Expect, Load};
pub(crate) use quoit::{Quoit, QuoitConfig};
pub(crate) use redis::{DURABLE, Program, RedisServer};
pub(crate) use replicas::{contents, record_key};
pub(crate) use tls::{Authority, Identity, TlsClient, Tunnel, ping};

/// How long anything that must come may take: far more than it needs, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` holds; fails with `what` when `patience` is over.
#[track_caller]
pub(crate) fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A port that was free just now. Below the range the kernel gives to outgoing connections, each asked for once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let offset = u16::try_from(u64::from(std::process::id()) * 97 % u64::from(COUNT)).expect("a remainder of a u16");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The signals that tests send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Stop,
    Continue,
    Terminate,
    HangUp,
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(process: u32, signal: Signal) {
    let name = match signal {
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
        Signal::Terminate => "TERM",
        Signal::HangUp => "HUP",
    };
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().expect("sh runs");
    assert!(status.success(), "kill -{name} {process}");
}

/// SIGKILL for a program that this test started as the leader of a group of its own, and for what it started.
pub(crate) fn kill_group(leader: u32) {
    // Fails only when all of them have ended.
    drop(Command::new("sh").args(["-c", &format!("kill -KILL -- -{leader}")]).stderr(Stdio::null()).status());
}

/// A generator for one test. Its seed is printed, and `QUOIT_TEST_SEED` runs the same again.
pub(crate) fn random(test: &str) -> fastrand::Rng {
    let seed = setting("QUOIT_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: QUOIT_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// A figure of `/proc/PID/status` in bytes, such as `VmRSS`.
pub(crate) fn process_bytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field}"));
    let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number of kB");
    kib * 1024
}

/// Lets this process open as many files as it may; gives that number.
pub(crate) fn raise_open_files() -> u64 {
    let own = std::process::id();
    let limits = || {
        let text = std::fs::read_to_string("/proc/self/limits").expect("the process runs");
        let line =
            text.lines().find(|line| line.starts_with("Max open files")).expect("a line on open files").to_owned();
        let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().unwrap_or(u64::MAX));
        (numbers.next().expect("the soft limit"), numbers.next().expect("the hard limit"))
    };
    let (soft, hard) = limits();
    if soft < hard {
        let limit = format!("--nofile={hard}:{hard}");
        // `prlimit` is in util-linux; without it the test makes do with the soft limit.
        drop(Command::new("prlimit").args(["--pid", &own.to_string(), &limit]).status());
    }
    limits().0
}
