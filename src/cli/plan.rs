//! `quoit plan`: what would move if one configuration replaced another, before anything does.
//!
//! It compares the rings of pools with the same name. Keys that change pools because routes do are pointed out, not
//! counted: how many there are is only known to the stores.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{json, load, percent, print, table};
use crate::config::{Config, Listener, Pool};
use crate::ring::diff::{RingDiff, diff};
use crate::ring::{Ring, RingError};

/// What `quoit plan` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// The configuration that runs
    old: PathBuf,
    /// The configuration that would replace it
    new: PathBuf,
    /// List every range that moves
    #[arg(long)]
    ranges: bool,
    /// Print JSON, ranges included
    #[arg(long)]
    json: bool,
}

/// What would change.
#[derive(Debug, Serialize)]
struct Changes {
    pools: Vec<PoolChange>,
    /// Listeners whose routes or pool differ, so that some keys go to another pool.
    rerouted_listeners: Vec<String>,
    /// Settings that take effect with a restart alone.
    restart_needed: Vec<String>,
}

/// What would change in one pool.
#[derive(Debug, Serialize)]
struct PoolChange {
    name: String,
    #[serde(flatten)]
    change: Change,
}

#[derive(Debug, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
enum Change {
    Added,
    Removed,
    Kept { diff: Box<RingDiff> },
}

impl Plan {
    /// Prints what would move.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (old, new) = match (load(&self.old)?, load(&self.new)?) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(code), _) | (_, Err(code)) => return Ok(code),
        };
        let changes = Changes {
            pools: pools(&old, &new)?,
            rerouted_listeners: rerouted(&old, &new),
            restart_needed: crate::config::reload::restart_needed(&old, &new),
        };
        if self.json {
            return print(&json(&changes)?);
        }
        print(&changes.described(self.ranges))
    }
}

fn pools(old: &Config, new: &Config) -> Result<Vec<PoolChange>, RingError> {
    let find = |config: &Config, name: &str| config.pools.iter().find(|pool| pool.name == name).cloned();
    let mut changes = Vec::new();
    for after in &new.pools {
        let change = match find(old, &after.name) {
            None => Change::Added,
            Some(before) => Change::Kept { diff: Box::new(compare(&before, after)?) },
        };
        changes.push(PoolChange { name: after.name.clone(), change });
    }
    for before in old.pools.iter().filter(|before| find(new, &before.name).is_none()) {
        changes.push(PoolChange { name: before.name.clone(), change: Change::Removed });
    }
    Ok(changes)
}

fn compare(before: &Pool, after: &Pool) -> Result<RingDiff, RingError> {
    let replicas = usize::try_from(before.replicas.max(after.replicas)).unwrap_or(usize::MAX);
    Ok(diff(&Ring::build(before.ring.clone())?, &Ring::build(after.ring.clone())?, replicas))
}

/// The listeners of both that would send some keys to another pool.
fn rerouted(old: &Config, new: &Config) -> Vec<String> {
    let way = |config: &Config, listener: &Listener| {
        let pool = |index: usize| config.pools.get(index).map(|pool| pool.name.clone());
        let routes: Vec<_> = listener
            .routes
            .iter()
            .map(|route| (route.prefix.clone(), pool(route.pool), route.rewrite.clone()))
            .collect();
        (pool(listener.pool), routes)
    };
    let differs = |after: &&Listener| {
        let before = old.listeners.iter().find(|before| before.name == after.name);
        before.is_some_and(|before| way(old, before) != way(new, after))
    };
    new.listeners.iter().filter(differs).map(|listener| listener.name.clone()).collect()
}

impl Changes {
    fn described(&self, with_ranges: bool) -> String {
        let pools = self.pools.iter().map(|pool| match &pool.change {
            Change::Added => format!("pool {}: new, it starts with what its stores hold", pool.name),
            Change::Removed => format!("pool {}: no longer served; its stores keep what they hold", pool.name),
            Change::Kept { diff } => described_diff(&pool.name, diff, with_ranges),
        });
        let listeners = self
            .rerouted_listeners
            .iter()
            .map(|name| format!("listener {name}: other routes; keys that change pools are not counted and not moved"));
        let settings = self.restart_needed.iter().map(|name| format!("{name}: takes effect with a restart"));
        pools.chain(listeners).chain(settings).collect::<Vec<_>>().join("\n")
    }
}

fn described_diff(name: &str, diff: &RingDiff, with_ranges: bool) -> String {
    if !diff.comparable {
        let reason = diff.reason.as_deref().unwrap_or("the rings cannot be compared");
        return format!("pool {name}: everything is taken to move: {reason}");
    }
    if diff.by_node.iter().all(|node| node.gains <= 0.0 && node.loses <= 0.0) {
        return format!("pool {name}: nothing moves");
    }
    let about = if diff.exact { "" } else { "about " };
    let mut nodes = table(["node", "before", "after", "gains", "loses"]);
    for node in &diff.by_node {
        let shares = [node.share_before, node.share_after, node.gains, node.loses].map(percent);
        nodes.add_row(std::iter::once(node.name.clone()).chain(shares));
    }
    let mut lines =
        vec![format!("pool {name}: {about}{} of the keys move", percent(diff.moved_share)), nodes.trim_fmt()];
    match (diff.ranges.len(), with_ranges) {
        (0, _) => {}
        (count, false) => lines.push(format!("{count} ranges move; --ranges lists them")),
        (_, true) => lines.push(ranges(diff)),
    }
    lines.join("\n")
}

fn ranges(diff: &RingDiff) -> String {
    let mut ranges = table(["from", "to", "share", "before", "after"]);
    for range in &diff.ranges {
        let (start, end) = match &range.start_key {
            Some(start) => (start.to_string(), range.end_key.as_ref().map(ToString::to_string).unwrap_or_default()),
            None => (range.start.to_string(), range.end.to_string()),
        };
        ranges.add_row([start, end, percent(range.share), range.from.join(" "), range.to.join(" ")]);
    }
    ranges.trim_fmt()
}
