//! The rules of replication: how many replicas, which level, which quorums. A part of [`super::check`].
//!
//! # Invariants
//! - A pool has at least as many nodes that own keys as replicas.
//! - Quorums meet wherever a level needs them to, of the pool or of a route.
//! - A store of a replicated pool is no other pool's.

use std::collections::HashMap;
use std::ops::Range;

use super::address::Address;
use super::check::Check;
use super::faults::Fault;
use super::file::{At, PoolTable};
use super::pool;
use crate::quorum::{Level, QuorumError, Quorums};
use crate::ring::Placement;

/// How many databases a pool has unless its file says otherwise: Redis's number.
const DATABASES: u16 = 16;

impl Check<'_> {
    /// The quorums and the level of a pool.
    pub(super) fn replication(&mut self, table: &PoolTable) -> (Quorums, Level) {
        let level = table.level.as_ref().map_or_else(Level::default, |level| level.value);
        self.enough_nodes(table);
        if self.replicas_known(table) {
            // One fault for one line: sums over a number that is out of bounds say nothing more.
            let bounded = [&table.write_quorum, &table.read_quorum]
                .map(|quorum| quorum.as_ref().is_none_or(|quorum| self.within_replicas(quorum, table)));
            if table.replicas.value == 1 {
                self.level_of_one_replica(table.level.as_ref(), table);
            } else if bounded == [true, true] && level.needs_quorums() && self.level_known(table) {
                self.quorums_meet(level, None, table);
            }
        }
        (quorums(table), level)
    }

    /// The level of a route to this pool.
    pub(super) fn route_level(&mut self, level: &At<Level>, pool: &PoolTable) {
        if !self.replicas_known(pool) {
            return;
        }
        let pools_own = pool.level.as_ref().map_or_else(Level::default, |level| level.value);
        if pool.replicas.value == 1 {
            self.level_of_one_replica(Some(level), pool);
        } else if level.value.needs_quorums() && !pools_own.needs_quorums() {
            self.quorums_meet(level.value, Some(&level.span), pool);
        }
    }

    /// How many databases a pool has. Replicated ones have the one that their records and fences are in.
    pub(super) fn databases(&mut self, table: &PoolTable) -> u16 {
        let Some(databases) = &table.databases else {
            return if table.replicas.value > 1 { 1 } else { DATABASES };
        };
        if table.replicas.value > 1 && databases.value > 1 {
            let fault = Fault::new(&databases.span, "a pool that keeps several copies of each key has one database")
                .label("records and fences are kept in database 0")
                .help("remove it, or set `databases = 1`");
            self.push(fault.related(&table.replicas.span, "the replicas of this pool"));
        }
        databases.value
    }

    /// Whether `replicas` is what the file says, and not what stands in for something that was refused.
    fn replicas_known(&self, table: &PoolTable) -> bool {
        !table.replicas.span.is_empty() || !self.removed.contains("pool.replicas")
    }

    fn level_known(&self, table: &PoolTable) -> bool {
        table.level.is_some() || !self.removed.contains("pool.level")
    }

    fn enough_nodes(&mut self, table: &PoolTable) {
        let slots = table.ring.placement.as_ref().is_some_and(|placement| placement.value == Placement::Slots);
        // A node without slots owns no keys, and is nobody's next node either.
        let owns =
            |slots_of: &Option<At<Vec<At<String>>>>| slots_of.as_ref().is_some_and(|list| !list.value.is_empty());
        let nodes = table.node.iter().filter(|node| !slots || owns(&node.slots)).count();
        let replicas = usize::from(table.replicas.value);
        if nodes == 0 || replicas <= nodes {
            return;
        }
        let what = match (nodes, slots) {
            (1, false) => "1 node".to_owned(),
            (1, true) => "1 node with slots".to_owned(),
            (_, false) => format!("{nodes} nodes"),
            (_, true) => format!("{nodes} nodes with slots"),
        };
        let mend = if slots { "give slots to more nodes" } else { "add nodes" };
        let fault = Fault::new(&table.replicas.span, format!("{replicas} replicas do not fit on {what}"))
            .help(format!("{mend} until there are {replicas}, or set `replicas = {nodes}`"));
        self.push(match &table.name {
            Some(name) => fault.related(&name.span, format!("this pool has {what}")),
            None => fault,
        });
    }

    fn within_replicas(&mut self, quorum: &At<u8>, table: &PoolTable) -> bool {
        let replicas = table.replicas.value;
        if quorum.value <= replicas {
            return true;
        }
        let fault = Fault::new(&quorum.span, format!("a quorum of {} out of {}", quorum.value, counted(replicas)))
            .label(format!("at most {replicas}"));
        self.push(if table.replicas.span.is_empty() {
            fault.help("this pool keeps each key on one node: add `replicas`, such as `replicas = 3`")
        } else {
            fault.related(&table.replicas.span, "the replicas of this pool")
        });
        false
    }

    /// With one replica every level is the same, so whoever writes one expects replicas that are not there.
    fn level_of_one_replica(&mut self, level: Option<&At<Level>>, pool: &PoolTable) {
        let Some(level) = level else { return };
        let fault = Fault::new(&level.span, "a level changes nothing with one replica")
            .help("remove it, or give the pool more replicas, such as `replicas = 3`");
        let place = if pool.replicas.span.is_empty() {
            pool.name.as_ref().map(|name| &name.span)
        } else {
            Some(&pool.replicas.span)
        };
        self.push(match place {
            Some(place) => fault.related(place, "this pool keeps each key on one node"),
            None => fault,
        });
    }

    /// Blames the quorum that is too small, or the route's level if that is what asks for more than the pool does.
    fn quorums_meet(&mut self, level: Level, route: Option<&Range<usize>>, table: &PoolTable) {
        let quorums = quorums(table);
        let Err(error) = quorums.check() else { return };
        let Quorums { replicas, write, read } = quorums;
        let writes = table.write_quorum.as_ref().map(|quorum| &quorum.span);
        let reads = table.read_quorum.as_ref().map(|quorum| &quorum.span);
        let (blamed, title, sum, mend) = match error {
            // Each was compared with the replicas before.
            QuorumError::OutOfBounds(_) => return,
            QuorumError::WritesApart(_) => (
                writes,
                format!("two write quorums of {write} out of {replicas} replicas need not meet"),
                format!("2 * {write} = {} is not more than {replicas}", 2 * write),
                format!("`write_quorum = {}`", quorums.majority()),
            ),
            QuorumError::ReadMisses(_) => (
                reads.or(writes),
                format!("a read quorum of {read} can miss a write quorum of {write} out of {replicas} replicas"),
                format!("{read} + {write} = {} is not more than {replicas}", read + write),
                format!("`read_quorum = {}`", replicas - write + 1),
            ),
        };
        let Some(quorum) = blamed else { return };
        let help = format!("`{level}` needs {mend} or more; `eventual` takes any quorums");
        self.push(match route {
            Some(route) => Fault::new(route, title).label(sum).help(help).related(quorum, "the quorum of its pool"),
            None => Fault::new(quorum, title).label(sum).help(help),
        });
    }

    /// A replicated pool marks its stores as its own and keeps a record beside each key, which a second pool on the same
    /// store would contradict.
    pub(super) fn shared_stores(&mut self, pools: &[PoolTable]) {
        let mut owners: HashMap<Address, (usize, bool, &Range<usize>)> = HashMap::new();
        for (index, pool) in pools.iter().enumerate() {
            let replicated = 1 < pool.replicas.value;
            for address in pool.node.iter().filter_map(|node| node.address.as_ref()) {
                let Ok(parsed) = pool::parse(address, pool) else { continue };
                match owners.get(&parsed) {
                    Some((other, others, first)) if *other != index && (replicated || *others) => {
                        self.push(
                            Fault::new(&address.span, "a store of a replicated pool is in two pools")
                                .label("again here")
                                .related(first, "first here")
                                .help("its records hold for one pool alone: use a store of its own for each"),
                        );
                    }
                    Some(_) => {}
                    None => {
                        owners.insert(parsed, (index, replicated, &address.span));
                    }
                }
            }
        }
    }
}

fn counted(replicas: u8) -> String {
    if replicas == 1 { "1 replica".to_owned() } else { format!("{replicas} replicas") }
}

/// What the pool says, and majorities where it says nothing.
fn quorums(table: &PoolTable) -> Quorums {
    let majorities = Quorums::of_majorities(table.replicas.value);
    Quorums {
        write: table.write_quorum.as_ref().map_or(majorities.write, |quorum| quorum.value),
        read: table.read_quorum.as_ref().map_or(majorities.read, |quorum| quorum.value),
        ..majorities
    }
}
