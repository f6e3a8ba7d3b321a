//! What is counted once for the process: the configuration in force and its reloads.
//!
//! All of it changes at a reload and is read at a scrape, so a lock is cheap enough and keeps the facts of one load
//! together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;

/// The topology in force, as the metrics tell it. Plain data, made by whoever builds the topology.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopologyFacts {
    /// The number of the topology.
    pub epoch: u64,
    /// Its pools.
    pub pools: Vec<PoolFacts>,
}

/// One pool of a topology.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolFacts {
    /// Its name in the configuration.
    pub name: String,
    /// Equal for two rings that place all keys alike.
    pub fingerprint: u64,
    /// Its nodes.
    pub nodes: Vec<NodeFacts>,
}

/// One node of a pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is reached, without a password.
    pub address: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Its weight.
    pub weight: u32,
    /// The part of the ring it owns, from 0 to 1.
    pub share: f64,
}

/// A certificate that quoit shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// To whom: `listener` or `pool`.
    pub side: &'static str,
    /// The name of that listener or pool.
    pub name: String,
    /// When it, or one behind it, expires, in seconds since 1970.
    pub expires: u64,
}

/// One configuration that was put in force.
#[derive(Debug, Clone, Default)]
pub struct LoadedConfig {
    /// When, since 1970.
    pub at: Duration,
    /// A hash of its content.
    pub hash: u64,
    /// How many clients it allows.
    pub clients_max: u64,
    /// How many bytes it allows all buffers together.
    pub buffers_bytes_max: u64,
    /// The certificates that it names for TLS.
    pub certificates: Vec<CertificateFacts>,
    /// The topology made from it.
    pub topology: TopologyFacts,
}

/// What is counted for the process.
#[derive(Debug, Default)]
pub struct ProcessCells {
    state: Mutex<ProcessState>,
}

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessState {
    pub(super) reloads_ok: u64,
    pub(super) reloads_failed: u64,
    pub(super) last_reload_successful: bool,
    /// `None` until the first configuration is in force.
    pub(super) config: Option<Arc<LoadedConfig>>,
}

impl ProcessCells {
    /// The configuration at start is in force.
    pub fn config_started(&self, config: LoadedConfig) {
        let mut state = lock(&self.state);
        state.last_reload_successful = true;
        state.config = Some(Arc::new(config));
    }

    /// A reload put another configuration in force, or found the same one again.
    pub fn reload_succeeded(&self, config: LoadedConfig) {
        self.config_started(config);
        lock(&self.state).reloads_ok += 1;
    }

    /// A reload failed; the configuration in force stays.
    pub fn reload_failed(&self) {
        let mut state = lock(&self.state);
        state.last_reload_successful = false;
        state.reloads_failed += 1;
    }

    pub(super) fn state(&self) -> ProcessState {
        lock(&self.state).clone()
    }
}
