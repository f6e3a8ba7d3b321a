//! The snapshot that a request sees: rings and node handles of one state of the configuration.
//!
//! [`Topology`] is what all workers share, built once for each accepted configuration. A [`View`] is one worker's: the
//! same rings with that worker's own handles to the nodes. A request takes the view once and sees one ring throughout,
//! however often the file is saved meanwhile.
//!
//! # Invariants
//! - A node that is the same in the old and the new configuration (name, address, bounds) keeps its handle, and with it
//!   its connections and its breaker. Other certificates make no other node: new connections use them.
//! - A node that left is told so; its connections close when nothing waits on them.
//! - Health never changes placement (FAILURES F1).
//! - A replicated pool keeps its ring while it is served.

mod database;

use std::rc::Rc;
use std::sync::Arc;

use crate::backend::Context;
use crate::backend::redis::{BreakerOptions, Credentials, Node, NodeOptions};
use crate::backend::tls::ClientTls;
use crate::config::reload::{self, RingChange};
use crate::config::{Bind, Config, Listener, Pool};
use crate::metrics::Metrics;
use crate::quorum::Lag;
use crate::ring::{Ring, RingError};
use crate::version::Script;

/// Rings and nodes of one configuration, shared by all workers.
#[derive(Debug)]
pub struct Topology {
    /// Counts the configurations that were in force in this process.
    pub epoch: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// In the order of the configuration.
    pub pools: Vec<PoolTopology>,
    /// For each listener that was opened at start, its place in `config.listeners`.
    listeners: Vec<usize>,
}

/// One pool's ring and nodes.
#[derive(Debug)]
pub struct PoolTopology {
    /// The pool's name.
    pub name: String,
    /// Key to member.
    pub ring: Ring,
    /// In the order of the ring's members.
    pub nodes: Vec<NodeOptions>,
    /// How connections to them are enciphered.
    tls: Option<ClientTls>,
    /// Which of them may lack something.
    pub lag: Arc<Lag>,
}

/// A topology that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The members make no ring.
    #[error("pool `{pool}`")]
    Ring {
        /// The pool's name.
        pool: String,
        /// What is wrong with its members.
        source: RingError,
    },
    /// A listener that is open is not configured any more.
    #[error("the listener on {0} is not in the configuration any more, which needs a restart")]
    Listener(Bind),
    /// A replicated pool that is served would get another ring.
    #[error(
        "{}; the ring of a replicated pool cannot be changed while it is served: undo this, or add a pool of another name \
         with stores of its own, copy the keys there, and let listeners and routes name that pool",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    RingInUse(Vec<RingChange>),
}

impl Topology {
    /// Builds the rings; `open` are the addresses of the listeners that this process has open.
    ///
    /// # Errors
    /// See [`TopologyError`].
    pub fn build(config: Arc<Config>, epoch: u64, open: &[Bind]) -> Result<Self, TopologyError> {
        let pools = config.pools.iter().map(PoolTopology::build).collect::<Result<_, _>>()?;
        let listeners = open
            .iter()
            .map(|bind| {
                let place = config.listeners.iter().position(|listener| &listener.bind == bind);
                place.ok_or_else(|| TopologyError::Listener(bind.clone()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { epoch, config, pools, listeners })
    }

    /// Builds the topology that takes the place of this one in a running process.
    ///
    /// # Errors
    /// See [`TopologyError`]. This one stays in force then.
    pub fn replaced_by(&self, config: Arc<Config>, open: &[Bind]) -> Result<Self, TopologyError> {
        let changes = reload::ring_changes(&self.config, &config);
        if !changes.is_empty() {
            return Err(TopologyError::RingInUse(changes));
        }
        let mut next = Self::build(config, self.epoch + 1, open)?;
        for pool in &mut next.pools {
            // What is known of its replicas stays true: their ring is the same.
            let same = |other: &&PoolTopology| other.name == pool.name && other.nodes.len() == pool.nodes.len();
            if let Some(old) = self.pools.iter().find(same) {
                pool.lag = Arc::clone(&old.lag);
            }
        }
        // Nothing can fail any more: from here on the connections of both are made alike.
        for pool in &mut next.pools {
            let old = self.pools.iter().find(|other| other.name == pool.name);
            if let Some(old) = old.and_then(|old| old.tls.as_ref()) {
                pool.keep_tls(old);
            }
        }
        Ok(next)
    }

    /// The configuration of the listener that was opened as number `index`.
    pub fn listener(&self, index: usize) -> Option<&Listener> {
        self.config.listeners.get(*self.listeners.get(index)?)
    }
}

impl PoolTopology {
    fn build(pool: &Pool) -> Result<Self, TopologyError> {
        let ring =
            Ring::build(pool.ring.clone()).map_err(|source| TopologyError::Ring { pool: pool.name.clone(), source })?;
        let tls = pool.tls.as_ref().map(ClientTls::new);
        let nodes = pool.nodes.iter().map(|node| node_options(pool, node, tls.as_ref())).collect();
        let lag = Arc::new(Lag::new(pool.nodes.len()));
        Ok(Self { name: pool.name.clone(), ring, nodes, tls, lag })
    }

    /// Takes the place of a pool whose nodes keep their connections, and make new ones as this one's would.
    fn keep_tls(&mut self, old: &ClientTls) {
        let Some(new) = &self.tls else { return };
        old.replace(new);
        self.tls = Some(old.clone());
        for node in &mut self.nodes {
            node.tls = Some(old.clone());
        }
    }
}

/// What the stores of a replicated pool have to know.
fn scripts() -> Arc<[Arc<str>]> {
    Script::ALL.iter().map(|script| Arc::from(script.body())).collect()
}

fn node_options(pool: &Pool, node: &crate::config::Node, tls: Option<&ClientTls>) -> NodeOptions {
    NodeOptions {
        name: node.name.clone(),
        label: format!("{} ({})", node.name, node.address).into(),
        address: node.address.clone(),
        tls: tls.cloned(),
        credentials: node
            .password
            .as_ref()
            .map(|password| Credentials { username: node.username.clone(), password: password.expose().to_owned() }),
        database: 0,
        // Only pools with more than one replica run scripts.
        scripts: if pool.replicas > 1 { scripts() } else { Arc::default() },
        connect_timeout: pool.timeouts.connect,
        queue_timeout: pool.timeouts.queue,
        service_timeout: pool.timeouts.service,
        queue_bytes_max: pool.queue_bytes_max,
        in_flight_max: pool.in_flight_max,
        exclusive_connections_max: pool.exclusive_connections_max,
        stream_threshold_bytes: pool.stream_threshold_bytes as u64,
        breaker: BreakerOptions {
            failures: pool.breaker.failures,
            backoff_min: pool.breaker.backoff_min,
            backoff_max: pool.breaker.backoff_max,
            ramp: pool.breaker.ramp,
        },
    }
}

/// One worker's view of a topology.
pub struct View {
    /// What it is a view of.
    pub topology: Arc<Topology>,
    pools: Vec<Vec<Rc<Node>>>,
    /// The database in which its nodes' connections are.
    database: u16,
}

/// Names a node within a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which pool.
    pub pool: u16,
    /// Which of its nodes.
    pub node: u16,
}

impl View {
    /// Makes handles for the nodes that `previous` does not have, and lets go of those that are gone.
    pub fn build(topology: Arc<Topology>, previous: Option<&Self>, context: &Rc<Context>, metrics: &Metrics) -> Self {
        let pools = topology
            .pools
            .iter()
            .map(|pool| {
                let kept = previous.and_then(|view| view.nodes_of(&pool.name));
                pool.nodes
                    .iter()
                    .map(|options| {
                        let same = kept.and_then(|nodes| nodes.iter().find(|node| node.options() == options));
                        same.map_or_else(
                            || {
                                let cells = metrics.node(&pool.name, &options.name);
                                Node::start(options.clone(), Rc::clone(context), cells)
                            },
                            Rc::clone,
                        )
                    })
                    .collect()
            })
            .collect();
        let view = Self { topology, pools, database: 0 };
        view.let_go_of(previous);
        view
    }

    /// Lets go of the nodes that an earlier view has and this one has not.
    fn let_go_of(&self, previous: Option<&Self>) {
        for node in previous.into_iter().flat_map(Self::nodes) {
            if !self.nodes().any(|new| Rc::ptr_eq(node, new)) {
                node.leave();
            }
        }
    }

    fn nodes_of(&self, pool: &str) -> Option<&Vec<Rc<Node>>> {
        let at = self.topology.pools.iter().position(|candidate| candidate.name == pool)?;
        self.pools.get(at)
    }

    fn nodes(&self) -> impl Iterator<Item = &Rc<Node>> {
        self.pools.iter().flatten()
    }

    /// The node that owns a key of a pool.
    #[inline]
    pub fn owner(&self, pool: usize, key: &[u8]) -> Option<(Place, &Rc<Node>)> {
        let member = self.topology.pools.get(pool)?.ring.primary(key);
        let node = self.pools.get(pool)?.get(usize::from(member.0))?;
        Some((Place { pool: u16::try_from(pool).ok()?, node: member.0 }, node))
    }

    /// One place for all keys of a pool with several copies, where the first replica is no more than the others: which
    /// keys can be together there is for their replicas to say. Any other place is what it is.
    pub fn stand_in(&self, place: Place) -> Place {
        let pool = self.topology.config.pools.get(usize::from(place.pool));
        if pool.is_some_and(|pool| pool.replicas > 1) { Place { node: 0, ..place } } else { place }
    }

    /// The handles of a pool's nodes, in the order of its ring's members.
    pub fn nodes_in(&self, pool: usize) -> &[Rc<Node>] {
        self.pools.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// The handle of a node.
    pub fn node(&self, place: Place) -> Option<&Rc<Node>> {
        self.pools.get(usize::from(place.pool))?.get(usize::from(place.node))
    }

    /// Lets go of all nodes: the worker ends.
    pub fn leave(&self) {
        for node in self.nodes() {
            node.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;

    fn config(nodes: &[&str], level: &str) -> Arc<Config> {
        let nodes = nodes
            .iter()
            .enumerate()
            .map(|(index, name)| format!("[[pool.node]]\nname = \"{name}\"\naddress = \"10.0.0.{index}:6379\"\n"));
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:6380\"\npool = \"main\"\n\
             [[pool]]\nname = \"main\"\nreplicas = 3\nlevel = \"{level}\"\n{}",
            nodes.collect::<String>()
        );
        Arc::new(check_text("quoit.toml", &text).unwrap_or_else(|faults| panic!("{faults}")))
    }

    #[test]
    fn a_replicated_pool_keeps_its_ring() {
        let open = [Bind::Tcp("127.0.0.1:6380".parse().unwrap())];
        let topology = Topology::build(config(&["a", "b", "c"], "linearizable"), 7, &open).unwrap();
        let next = topology.replaced_by(config(&["a", "b", "c"], "all"), &open).unwrap();
        assert_eq!(next.epoch, 8);
        let error = topology.replaced_by(config(&["a", "b", "c", "d"], "linearizable"), &open).unwrap_err().to_string();
        assert!(error.starts_with("pool `main`: node `d` would be new; the ring of a replicated pool"), "{error}");
    }
}
