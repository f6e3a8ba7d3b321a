//! What a new configuration cannot change in a running process.

use std::collections::BTreeMap;
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
    let (before, after) = (addresses(old), addresses(new));
    let listeners: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in listeners {
        if before.get(name) != after.get(name) {
            names.push(format!("listener.bind of `{name}`"));
        }
    }
    names
}

fn addresses(config: &Config) -> BTreeMap<&str, SocketAddr> {
    config.listeners.iter().map(|listener| (listener.name.as_str(), listener.bind)).collect()
}
