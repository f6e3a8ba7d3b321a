//! What quoit counts about itself, and the page that Prometheus reads.
//!
//! A request increments a few cells of its worker ([`ListenerCells`], [`NodeCells`]); a scrape, on the admin thread,
//! sums the workers' cells and renders them ([`Metrics::render`]). The groups are handed out when a worker starts or a
//! topology is built, so the request path never looks anything up.
//!
//! # Invariants
//! - The hot path takes no lock and executes no locked instruction: a cell has one writer.
//! - A series never goes backwards while its process lives, except for gauges. A node's series vanish with its last
//!   handle.
//! - Every name is in [`names`], with its help and unit, and only there.
//!
//! It does not log, does not push anywhere, and holds no key, value or client address.

mod cell;
mod cells;
mod collect;
pub mod names;
mod node;
mod process;
mod replication;
#[cfg(test)]
mod tests;
mod traffic;
mod verbs;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus::{Registry, TextEncoder};

pub use cell::{Counter, Gauge, Histogram};
pub use cells::{Class, ConnectResult, Denial, FailureKind, Handshake, ListenerCells, NodeSheet, Outcome, WorkerCells};
pub use node::NodeCells;
pub use process::{CertificateFacts, LoadedConfig, NodeFacts, PoolFacts, ProcessCells, TopologyFacts};
pub use replication::ReplicationCells;
pub use traffic::Traffic;
pub use verbs::{VERBS_MAX, Verb, VerbCells, VerbTotals};

use collect::CellCollector;
use node::NodeSeries;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The page could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("render the metrics")]
pub struct RenderError(#[from] prometheus::Error);

/// All metrics of the process. Made once, shared by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    cells: Arc<Cells>,
    registry: Registry,
}

/// All groups of cells, by what they count for.
#[derive(Debug, Default)]
struct Cells {
    workers: Mutex<BTreeMap<usize, Arc<WorkerCells>>>,
    listeners: Mutex<BTreeMap<String, Vec<Arc<ListenerCells>>>>,
    nodes: Mutex<BTreeMap<(String, String), Weak<NodeSeries>>>,
    replication: Mutex<BTreeMap<String, Vec<Arc<ReplicationCells>>>>,
    process: ProcessCells,
}

impl Metrics {
    /// With no series but the process's own.
    ///
    /// # Panics
    /// Never: the names are constants, and a test registers them.
    pub fn new() -> Arc<Metrics> {
        let cells = Arc::<Cells>::default();
        let registry = Registry::new();
        let collector = CellCollector::new(Arc::clone(&cells)).expect("the names in `names` are valid");
        registry.register(Box::new(collector)).expect("the names in `names` are unique");
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("no name of ours begins with `process_`");
        Arc::new(Metrics { cells, registry })
    }

    /// The cells of one worker. Another call with its number gives the same ones.
    pub fn worker(&self, worker: usize) -> Arc<WorkerCells> {
        Arc::clone(lock(&self.cells.workers).entry(worker).or_default())
    }

    /// New cells for a listener. Each thread that writes asks for its own; the scrape sums those of one name. They stay
    /// for the life of the process.
    pub fn listener(&self, listener: &str) -> Arc<ListenerCells> {
        let cells = Arc::<ListenerCells>::default();
        lock(&self.cells.listeners).entry(listener.to_owned()).or_default().push(Arc::clone(&cells));
        cells
    }

    /// New cells for a node. Each worker asks for its own when it makes its handle of the node. What they counted stays
    /// in the node's series when they are dropped, until the last handle of the node is.
    pub fn node(&self, pool: &str, node: &str) -> Arc<NodeCells> {
        let mut nodes = lock(&self.cells.nodes);
        nodes.retain(|_, series| series.strong_count() > 0);
        let entry = nodes.entry((pool.to_owned(), node.to_owned())).or_default();
        let series = entry.upgrade().unwrap_or_default();
        *entry = Arc::downgrade(&series);
        Arc::new(series.handle())
    }

    /// New cells for a replicated pool. Each worker asks once for its own; they stay for the life of the process.
    pub fn replication(&self, pool: &str) -> Arc<ReplicationCells> {
        let cells = Arc::<ReplicationCells>::default();
        lock(&self.cells.replication).entry(pool.to_owned()).or_default().push(Arc::clone(&cells));
        cells
    }

    /// The cells of the process.
    pub fn process(&self) -> &ProcessCells {
        &self.cells.process
    }

    /// All metrics in the text format 0.0.4 ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// The encoder refused a family, which no family of ours gives it reason to.
    pub fn render(&self) -> Result<Vec<u8>, RenderError> {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        Ok(page.into_bytes())
    }
}

/// A panic elsewhere while a lock was held leaves counts that may be one short, which is no reason to lose the page.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
