//! What a new configuration cannot change in a running process.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Config;

/// The settings that differ and only take effect with a restart, by name. Everything else is applied by a reload.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let mut names = Vec::new();
    if old.proxy.workers != new.proxy.workers {
        names.push("proxy.workers".to_owned());
    }
    if old.admin.bind != new.admin.bind {
        names.push("admin.bind".to_owned());
    }
    // By address, not by name: a listener may be renamed, and two may change places.
    for address in addresses(old).symmetric_difference(&addresses(new)) {
        names.push(format!("listener.bind {address}"));
    }
    names
}

fn addresses(config: &Config) -> BTreeSet<SocketAddr> {
    config.listeners.iter().map(|listener| listener.bind).collect()
}
