//! The view of another database than 0: the same rings, with nodes whose connections have selected it.
//!
//! Whoever is given this view cannot help but work in its database: a request is sent to a node of the view, and all
//! connections of that node are in the one database (`docs/decisions/2026-11-23-databases.md`).
//!
//! # Invariants
//! - A pool that does not have the database has no nodes in the view.

use std::rc::Rc;
use std::sync::Arc;

use super::{PoolTopology, View};
use crate::backend::Context;
use crate::backend::redis::{Node, NodeOptions};
use crate::config::Listener;
use crate::metrics::Metrics;

impl View {
    /// The view of a database other than 0. Nodes that `previous`, the last view of that database, has are kept. No connection
    /// is made before there is something to send.
    pub fn of_database(
        base: &Self,
        database: u16,
        previous: Option<&Self>,
        context: &Rc<Context>,
        metrics: &Metrics,
    ) -> Self {
        let topology = Arc::clone(&base.topology);
        let make = |pool: &PoolTopology, options: &NodeOptions| {
            let options = NodeOptions {
                database,
                label: format!("{}, database {database}", options.label).into(),
                ..options.clone()
            };
            let kept = previous.and_then(|view| view.nodes_of(&pool.name));
            if let Some(same) = kept.and_then(|nodes| nodes.iter().find(|node| *node.options() == options)) {
                return Rc::clone(same);
            }
            let cells = metrics.node(&pool.name, &options.name);
            Node::start(options, Rc::clone(context), cells)
        };
        let pools = topology.pools.iter().zip(&topology.config.pools).map(|(pool, config)| {
            let has_it = database < config.databases;
            pool.nodes.iter().filter(|_| has_it).map(|options| make(pool, options)).collect()
        });
        let pools = pools.collect();
        let view = Self { topology, pools, database };
        view.let_go_of(previous);
        view
    }

    /// The database in which its nodes' connections are.
    #[inline]
    pub fn database(&self) -> u16 {
        self.database
    }

    /// Whether a pool has the database of this view.
    pub fn has_pool(&self, pool: usize) -> bool {
        self.topology.config.pools.get(pool).is_some_and(|pool| self.database < pool.databases)
    }

    /// How many databases the clients of a listener have: those of its pool. Redis Cluster, which some listeners pass for,
    /// has one.
    pub fn databases(&self, listener: &Listener) -> u16 {
        let pool = self.topology.config.pools.get(listener.pool);
        if listener.cluster_emulation { 1 } else { pool.map_or(1, |pool| pool.databases) }
    }

    /// Whether nobody waits for anything of its nodes.
    pub fn is_unused(&self) -> bool {
        self.nodes().all(|node| node.is_unused())
    }
}
