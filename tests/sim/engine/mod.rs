//! The engine that quoit runs, on simulated wires, with the scripts that stores run.
//!
//! `QUOIT_SIM_RUNS=100000 cargo test --release --test sim engine -- --nocapture` looks at so many runs, on
//! `QUOIT_SIM_THREADS` threads (as many as there are processors), from `QUOIT_SIM_FIRST` on;
//! `QUOIT_SIM_SEED=engine:1234` repeats one and prints all that happened in it.
//! `QUOIT_SIM_JOINT=1` has commands over several keys in every run, whose keys are then judged as one.
//!
//! # Does it find faults?
//!
//! Faults that were put into the engine, one at a time, and the first seed (from 0) that showed each, when the workload was
//! as it was then (it changes the seeds, and has more emptied stores now):
//!
//! | fault | seed |
//! |---|---|
//! | a proposal builds on the oldest state of its quorum | 0 |
//! | a write is answered with one replica less than W | 0 |
//! | `apply` does not compare the base | 0 |
//! | an earlier try is always taken for lost | 0 |
//! | tombstones are dropped at once | 0 |
//! | ids of operations are not remembered in the lineage | 1 |
//! | a read agrees with one replica less | 4 |
//! | one replica's record counts twice in a slow read | 4 |
//! | `apply` takes ballots that are not greater | 5 |
//! | `blind` and `apply` ignore promises | 8 |
//! | a majority less one promises | 10 |
//! | an emptied store votes without a copy of the keys | 16 |
//! | `prepare` promises any term | 29 |
//! | a try that is in the newest state, forgotten there, is taken for lost | 31 |
//! | nothing is written back before a read | 79 |
//! | an emptied store votes at once, while it is copied to | 105 |
//! | a state that was overtaken counts as written back | 317 |
//!
//! Not shown by some hundred runs each: acknowledgements of stores that do not vote, reads and scripts that ignore the fence,
//! peers whose fences are not raised, terms that are kept when the fences change. Each needs a message that is under way
//! from before a store was emptied until it votes again, and a second replica that missed the same write. Not judged at all:
//! the order of one client's requests (each client waits for its answer, and lanes only order), and clocks that do not
//! follow what they see, which cost rounds and nothing else.

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
    let total = Mutex::new(Seen::default());
    let progress = (runs / 20).max(1_000);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs || total.lock().expect("no panic").bad.len() >= BAD_MAX {
                return;
            }
            let outcome = Run::new(seed, false).play();
            let mut total = total.lock().expect("no panic");
            total.all.add(&outcome);
            if let Some(what) = outcome.violation {
                eprintln!("QUOIT_SIM_SEED=engine:{seed} {}", what.lines().next().unwrap_or_default());
                total.bad.push((seed, what));
            }
            if total.all.runs.is_multiple_of(progress) {
                let Seen { all: Outcome { runs, operations, unknown, rebuilt, .. }, bad } = &*total;
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
    total.into_inner().expect("no panic")
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
    assert!(all.bundles > 0, "no batch was sent in few words");
    assert!(bad.is_empty(), "seeds {:?}: {}", bad.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(), bad[0].1);
}
