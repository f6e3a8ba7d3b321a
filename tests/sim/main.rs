//! Seeded faults in simulated time: is what clients see what a single copy of each key could have answered?
//!
//! `history` is what clients saw, `linearizable` judges it, `sequential` says what one copy does. `network` has the
//! clock, the wires and their faults; `store_node` puts real stores at their ends. `models` are the protocols that were
//! considered before the one that quoit runs: the rejected ones show that the simulation finds what it has to find.
//!
//! `QUOIT_SIM_RUNS` is the number of runs of each protocol, `QUOIT_SIM_ONLY=name,name` which of them;
//! `QUOIT_SIM_SEED=name:seed` repeats one run and prints all that happened in it.

#![expect(clippy::print_stderr, reason = "seeds and tables are for whoever reads the output")]

#[cfg(test)]
mod checker_tests;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod history;
#[cfg(test)]
mod linearizable;
#[cfg(test)]
mod models;
#[cfg(test)]
mod network;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod sequential;
#[cfg(test)]
mod store_node;
#[cfg(test)]
mod tasks;

/// As in the binary: a run allocates a lot, and two threads of runs hinder each other less.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
