//! Seeded faults in simulated time.
#![expect(clippy::print_stderr, reason = "seeds and tables are for whoever reads the output")]

mod engine;
mod history;
mod linearizable;
mod network;
mod sequential;
mod store_node;
