//! The engine that quoit runs, on simulated wires, with the scripts that stores run.
//!
//! `QUOIT_SIM_RUNS=100000 cargo test --release --test sim engine -- --nocapture` looks at so many runs;
//! `QUOIT_SIM_SEED=engine:1234` repeats one and prints all that happened in it.

mod model;
mod plan;
mod run;
mod wire;
mod world;

use run::{Outcome, Run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
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
    let runs = number("QUOIT_SIM_RUNS").unwrap_or(100);
    let first = number("QUOIT_SIM_FIRST").unwrap_or(0);
    let (mut all, mut bad) = (Outcome::default(), Vec::new());
    for seed in first..first + runs {
        let outcome = Run::new(seed, false).play();
        all.operations += outcome.operations;
        all.unknown += outcome.unknown;
        all.failed += outcome.failed;
        all.undecided += outcome.undecided;
        all.rebuilt += outcome.rebuilt;
        all.rounds += outcome.rounds;
        all.virtual_us += outcome.virtual_us;
        all.behind += outcome.behind;
        if let Some(what) = outcome.violation {
            eprintln!("QUOIT_SIM_SEED=engine:{seed} {}", what.lines().next().unwrap_or_default());
            bad.push((seed, what));
        }
        if bad.len() >= 20 {
            break;
        }
    }
    eprintln!(
        "{runs} runs, {} operations, {} unknown, {} not applied, {} undecided, {} rebuilt, {} rounds, {} s simulated, {} keys behind, {} violations",
        all.operations,
        all.unknown,
        all.failed,
        all.undecided,
        all.rebuilt,
        all.rounds,
        all.virtual_us / 1_000_000,
        all.behind,
        bad.len()
    );
    assert!(bad.is_empty(), "seeds {:?}: {}", bad.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(), bad[0].1);
}
