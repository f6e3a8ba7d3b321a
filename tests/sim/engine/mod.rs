//! The engine that quoit runs, on simulated wires, with the scripts that stores run.
//!
//! `QUOIT_SIM_RUNS=100000 cargo test --release --test sim engine -- --nocapture` looks at so many runs, on
//! `QUOIT_SIM_THREADS` threads (as many as there are processors), from `QUOIT_SIM_FIRST` on;
//! `QUOIT_SIM_SEED=engine:1234` repeats one and prints all that happened in it.

mod model;
mod outcome;
mod plan;
mod run;
mod wire;
mod world;

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use outcome::Outcome;
use run::Run;

/// Runs where nobody says otherwise.
const RUNS: u64 = 100;
/// After so many bad runs the rest would say the same.
const BAD_MAX: usize = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// What all threads have seen so far.
#[derive(Default)]
struct Seen {
    all: Outcome,
    bad: Vec<(u64, String)>,
}

/// Plays seeds, and says now and then how far it is.
fn play(first: u64, runs: u64) -> Seen {
    let next = AtomicU64::new(first);
    let seen = Mutex::new(Seen::default());
    let progress = (runs / 20).max(1_000);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs || seen.lock().expect("no panic").bad.len() >= BAD_MAX {
                return;
            }
            let outcome = Run::new(seed, false).play();
            let mut seen = seen.lock().expect("no panic");
            seen.all.add(&outcome);
            if let Some(what) = outcome.violation {
                eprintln!("QUOIT_SIM_SEED=engine:{seed} {}", what.lines().next().unwrap_or_default());
                seen.bad.push((seed, what));
            }
            if seen.all.runs.is_multiple_of(progress) {
                let Seen { all: Outcome { runs, operations, unknown, rebuilt, .. }, bad } = &*seen;
                let bad = bad.len();
                eprintln!(
                    "{runs} runs, {operations} operations, {unknown} unknown, {rebuilt} rebuilt, {bad} violations"
                );
            }
        }
    };
    let threads = number("QUOIT_SIM_THREADS").and_then(|threads| usize::try_from(threads).ok());
    let threads = threads.or_else(|| std::thread::available_parallelism().map(NonZero::get).ok()).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    seen.into_inner().expect("no panic")
}

#[test]
fn the_engine_is_linearizable() {
    if let Ok(name) = std::env::var("QUOIT_SIM_SEED") {
        let Some(seed) = name.strip_prefix("engine:").and_then(|seed| seed.parse().ok()) else { return };
        let outcome = Run::new(seed, true).play();
        eprintln!("{}", outcome.trace);
        assert!(outcome.violation.is_none(), "{}", outcome.violation.unwrap_or_default());
        return;
    }
    let Seen { all, mut bad } = play(number("QUOIT_SIM_FIRST").unwrap_or(0), number("QUOIT_SIM_RUNS").unwrap_or(RUNS));
    bad.sort_unstable();
    eprintln!("{all}\n  {} violations", bad.len());
    assert!(bad.is_empty(), "seeds {:?}: {}", bad.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(), bad[0].1);
}
