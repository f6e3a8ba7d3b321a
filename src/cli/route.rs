//! `quoit route`: where a key is, by the configuration alone. No store is asked.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;

use super::{ConfigFile, config_path, json, load, print};
use crate::config::{Config, Listener, Rewrite};
use crate::ring::Ring;

/// What `quoit route` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Route {
    /// The key, as a client would send it
    key: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Only for the clients of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The way of a key from a listener to its nodes.
#[derive(Debug, Serialize)]
struct Way {
    listener: String,
    /// The route that takes the key; none if the listener's own pool does.
    route: Option<RouteOfKey>,
    pool: String,
    /// What the store sees.
    stored_key: String,
    /// The part of it that is hashed.
    shard_key: String,
    placement: String,
    token: String,
    /// What requests ask of its replicas, unless their connection says otherwise; none where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    /// The primary first.
    nodes: Vec<NodeOfKey>,
}

#[derive(Debug, Serialize)]
struct RouteOfKey {
    prefix: String,
    /// What the store sees in its place; none if the key is sent as it came.
    replace_prefix: Option<String>,
}

#[derive(Debug, Serialize)]
struct NodeOfKey {
    name: String,
    address: String,
    zone: Option<String>,
}

impl Route {
    /// Prints the way of the key.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = match load(&config_path(self.file.config)?)? {
            Ok(config) => config,
            Err(code) => return Ok(code),
        };
        let wanted = |listener: &&Listener| self.listener.as_ref().is_none_or(|name| *name == listener.name);
        let ways: Vec<Way> = config
            .listeners
            .iter()
            .filter(wanted)
            .map(|listener| way(&config, listener, self.key.as_bytes()))
            .collect::<anyhow::Result<_>>()?;
        if let (true, Some(name)) = (ways.is_empty(), &self.listener) {
            bail!("there is no listener `{name}`");
        }
        if self.json {
            return print(&json(&ways)?);
        }
        print(&ways.iter().map(Way::described).collect::<Vec<_>>().join("\n\n"))
    }
}

fn way(config: &Config, listener: &Listener, key: &[u8]) -> anyhow::Result<Way> {
    let route = listener.route(key);
    let stored_key = route.map_or(key.into(), |route| route.rewritten(key));
    let pool = config.pools.get(route.map_or(listener.pool, |route| route.pool)).context("find the pool")?;
    let ring = Ring::build(pool.ring.clone())?;
    let nodes = ring
        .replicas(&stored_key, usize::try_from(pool.replicas)?)
        .iter()
        .filter_map(|member| pool.nodes.get(usize::from(member.0)))
        .map(|node| NodeOfKey { name: node.name.clone(), address: node.address.to_string(), zone: node.zone.clone() })
        .collect();
    Ok(Way {
        listener: listener.name.clone(),
        route: route.map(|route| RouteOfKey {
            prefix: shown(&route.prefix),
            replace_prefix: match &route.rewrite {
                Rewrite::Keep => None,
                Rewrite::Strip => Some(String::new()),
                Rewrite::Replace(replacement) => Some(shown(replacement)),
            },
        }),
        pool: pool.name.clone(),
        shard_key: shown(ring.shard_key(&stored_key)),
        stored_key: shown(&stored_key),
        placement: pool.ring.placement.to_string(),
        token: ring.token(&stored_key).0.to_string(),
        level: (pool.replicas > 1).then(|| route.and_then(|route| route.level).unwrap_or(pool.level).name()),
        nodes,
    })
}

/// Bytes as text; what would confuse a terminal is escaped.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

impl RouteOfKey {
    fn described(&self) -> String {
        match self.replace_prefix.as_deref() {
            None => self.prefix.clone(),
            Some("") => format!("{}, stripped", self.prefix),
            Some(replacement) => format!("{}, replaced by {replacement}", self.prefix),
        }
    }
}

impl Way {
    fn described(&self) -> String {
        let mut lines = vec![
            ("listener", self.listener.clone()),
            (
                "route",
                self.route.as_ref().map_or_else(|| "none: the listener's pool".to_owned(), RouteOfKey::described),
            ),
            ("pool", self.pool.clone()),
            ("stored key", self.stored_key.clone()),
            ("shard key", self.shard_key.clone()),
            ("token", format!("{} ({})", self.token, self.placement)),
        ];
        if let Some(level) = self.level {
            lines.push(("level", level.to_owned()));
        }
        for node in &self.nodes {
            let zone = node.zone.as_ref().map(|zone| format!(" in {zone}")).unwrap_or_default();
            lines.push(("node", format!("{} at {}{zone}", node.name, node.address)));
        }
        lines.iter().map(|(name, value)| format!("{name:<11} {value}")).collect::<Vec<_>>().join("\n")
    }
}
