//! What a new configuration cannot change in a running process; `docs/decisions/2026-11-23-listeners-need-a-restart.md`
//! says why.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Config;

/// The settings that differ and only take effect with a restart, by name. Everything else is applied by a reload.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let mut names = Vec::new();
    let (proxy, admin) = ((&old.proxy, &new.proxy), (&old.admin, &new.admin));
    let settings = [
        ("proxy.workers", proxy.0.workers != proxy.1.workers),
        ("proxy.memory_bytes_max", proxy.0.memory_bytes_max != proxy.1.memory_bytes_max),
        ("proxy.connects_per_second_max", proxy.0.connects_per_second_max != proxy.1.connects_per_second_max),
        ("admin.bind", admin.0.bind != admin.1.bind),
        ("admin.token", admin.0.token != admin.1.token),
        ("admin.host_names", admin.0.host_names != admin.1.host_names),
    ];
    names.extend(settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| (*name).to_owned()));
    // By address, not by name: a listener may be renamed, and two may change places.
    for address in addresses(old).symmetric_difference(&addresses(new)) {
        names.push(format!("listener.bind {address}"));
    }
    names
}

fn addresses(config: &Config) -> BTreeSet<SocketAddr> {
    config.listeners.iter().map(|listener| listener.bind).collect()
}
