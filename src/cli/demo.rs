//! `quoit demo`: a proxy with stores of its own, to try things out.

use std::process::ExitCode;

use anyhow::bail;

/// What `quoit demo` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// How many stores to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Start `redis-server` or `valkey-server` from PATH instead of the built-in demo store
    #[arg(long)]
    real: bool,
}

impl Demo {
    /// Runs until interrupted.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let stores = if self.real { "real servers" } else { "built-in stores" };
        bail!("the demo with {} {stores} is not built in yet", self.nodes)
    }
}
