//! What a new configuration cannot change in a running process; `docs/decisions/2026-11-23-listeners-need-a-restart.md`
//! says why.
//!
//! Most of it waits for a restart. The ring of a replicated pool is another matter: until rings change step by step, with
//! quorums of the old and the new owners at once, such a change would let a write and a read of one key meet different
//! nodes, so [`ring_changes`] are a reason to refuse the new configuration as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::{Address, Bind, Config, Pool};
use crate::ring::{Member, Placement};

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
    let mode_of = |config: &Config, bind: &Bind| {
        config.listeners.iter().find(|listener| listener.bind == *bind).map(|listener| listener.socket_mode)
    };
    for bind in addresses(old).intersection(&addresses(new)) {
        if matches!(bind, Bind::Unix(_)) && mode_of(old, bind) != mode_of(new, bind) {
            names.push(format!("listener.socket_mode {bind}"));
        }
    }
    names
}

fn addresses(config: &Config) -> BTreeSet<&Bind> {
    config.listeners.iter().map(|listener| &listener.bind).collect()
}

/// The replicated pools whose keys would have other replicas than they have, each with the first thing that differs; empty
/// if the new configuration may take the place of the old one while it is served. New addresses, levels, quorums, timeouts
/// and routes change no ring.
pub fn ring_changes(old: &Config, new: &Config) -> Vec<RingChange> {
    let mut stores: HashMap<&Address, Vec<&Pool>> = HashMap::new();
    for (pool, node) in old.pools.iter().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node))) {
        stores.entry(&node.address).or_default().push(pool);
    }
    let change = |after: &Pool| {
        let namesake = old.pools.iter().find(|before| before.name == after.name);
        if let Some(what) = namesake.and_then(|before| ring_difference(before, after)) {
            return Some(RingChange { pool: after.name.clone(), what });
        }
        // A pool of another name on the same stores is the same pool to them.
        let others = after.nodes.iter().filter_map(|node| stores.get(&node.address)).flatten();
        others.filter(|before| before.name != after.name).find_map(|before| {
            let what =
                format!("it would have stores of pool `{}`, but {}", before.name, ring_difference(before, after)?);
            Some(RingChange { pool: after.name.clone(), what })
        })
    };
    new.pools.iter().filter_map(change).collect()
}

/// A pool whose ring would be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingChange {
    /// The pool's new name.
    pub pool: String,
    /// What differs, as a clause.
    pub what: String,
}

impl fmt::Display for RingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool `{}`: {}", self.pool, self.what)
    }
}

/// What differs between the rings of two pools, if keys have replicas before or after.
fn ring_difference(old: &Pool, new: &Pool) -> Option<String> {
    if old.replicas == 1 && new.replicas == 1 {
        return None;
    }
    if old.replicas != new.replicas {
        return Some(format!("`replicas` was {} and would be {}", old.replicas, new.replicas));
    }
    let (before, after) = (&old.ring, &new.ring);
    if before.placement != after.placement {
        return Some(format!("`placement` was `{}` and would be `{}`", before.placement, after.placement));
    }
    if before.hash != after.hash && before.placement != Placement::Range {
        return Some(format!("`hash` was `{}` and would be `{}`", before.hash, after.hash));
    }
    if before.shard_key != after.shard_key {
        return Some(format!("the sharding key was {} and would be {}", before.shard_key, after.shard_key));
    }
    members_difference(&before.members, &after.members, before.placement).or_else(|| exchanged_stores(old, new))
}

fn members_difference(old: &[Member], new: &[Member], placement: Placement) -> Option<String> {
    let by_name = |members: &[Member]| -> BTreeMap<String, Member> {
        members.iter().map(|member| (member.name.clone(), member.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    for (name, member) in &before {
        let Some(changed) = after.get(name) else { return Some(format!("node `{name}` would be gone")) };
        if let Some(setting) = member_difference(member, changed, placement) {
            return Some(format!("`{setting}` of node `{name}` would be another"));
        }
    }
    if let Some(added) = after.keys().find(|name| !before.contains_key(*name)) {
        return Some(format!("node `{added}` would be new"));
    }
    let same_order = old.iter().map(|member| &member.name).eq(new.iter().map(|member| &member.name));
    (placement == Placement::Jump && !same_order)
        .then(|| "the order of the nodes, which counts with placement `jump`, would be another".to_owned())
}

/// The setting of a node that gives it other keys.
fn member_difference(old: &Member, new: &Member, placement: Placement) -> Option<&'static str> {
    let hashed = |member: &Member| member.ring_name.clone().unwrap_or_else(|| member.name.clone());
    let slots = |member: &Member| {
        let mut slots = member.slots.clone();
        slots.sort_unstable();
        slots
    };
    let settings = [
        ("weight", old.weight != new.weight),
        ("zone", old.zone != new.zone),
        ("ring_name", placement.uses_names() && hashed(old) != hashed(new)),
        ("slots", slots(old) != slots(new)),
        ("range_start", old.range_start != new.range_start),
    ];
    settings.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
}

/// A node may get a new store, which is seen to be empty and filled. One that was another node's looks in order and has
/// other keys.
fn exchanged_stores(old: &Pool, new: &Pool) -> Option<String> {
    let owners: HashMap<_, _> = old.nodes.iter().map(|node| (&node.address, &node.name)).collect();
    new.nodes.iter().find_map(|node| {
        let owner = owners.get(&node.address).filter(|owner| **owner != &node.name)?;
        Some(format!("node `{}` would have the store of node `{owner}`", node.name))
    })
}

#[cfg(test)]
mod tests;
