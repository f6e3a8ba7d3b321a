//! The life of a node's series: several workers count for one node, and handles of it come and go with reloads.
//!
//! A handle that goes leaves its counts behind in the series, or the node's counters would go backwards, which
//! Prometheus takes for a restart and adds the whole value to every rate. When the last handle goes, the node has left
//! every ring, and its series vanish.
//!
//! # Invariants
//! - What a handle counted is in `live` or in `ended`, never in both and never in neither: one lock covers the move.
//! - Only counters and histograms outlive a handle. Its gauges describe connections that are gone.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use super::cell::HistogramTotal;
use super::cells::{CONNECT_RESULTS, ConnectResult, FAILURE_KINDS, FailureKind, NodeSheet};
use super::lock;

/// One worker's handle on the cells of one node. Reads as the cells themselves.
#[derive(Debug)]
pub struct NodeCells {
    sheet: Arc<NodeSheet>,
    series: Arc<NodeSeries>,
}

impl Deref for NodeCells {
    type Target = NodeSheet;

    #[inline]
    fn deref(&self) -> &NodeSheet {
        &self.sheet
    }
}

impl Drop for NodeCells {
    fn drop(&mut self) {
        let mut state = lock(&self.series.state);
        state.live.retain(|sheet| !Arc::ptr_eq(sheet, &self.sheet));
        state.ended.add_counters(&self.sheet);
    }
}

/// What all handles of one node count together.
#[derive(Debug, Default)]
pub(super) struct NodeSeries {
    state: Mutex<SeriesState>,
}

#[derive(Debug, Default)]
struct SeriesState {
    live: Vec<Arc<NodeSheet>>,
    ended: NodeTotals,
}

impl NodeSeries {
    /// One more handle.
    pub(super) fn handle(self: &Arc<Self>) -> NodeCells {
        let sheet = Arc::new(NodeSheet::default());
        lock(&self.state).live.push(Arc::clone(&sheet));
        NodeCells { sheet, series: Arc::clone(self) }
    }

    /// The sums over all handles, those that ended included.
    pub(super) fn totals(&self) -> NodeTotals {
        let state = lock(&self.state);
        let mut totals = state.ended.clone();
        for sheet in &state.live {
            totals.add_counters(sheet);
            totals.in_flight += sheet.in_flight.get();
            totals.queued_bytes += sheet.queued_bytes.get();
            totals.connections += sheet.connections.get();
            totals.breakers_open += sheet.breaker_open.get();
        }
        totals
    }
}

/// The sums of a node's cells at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct NodeTotals {
    pub(super) requests: u64,
    pub(super) replies_error: u64,
    pub(super) failures: [u64; FAILURE_KINDS],
    pub(super) service_duration: HistogramTotal,
    pub(super) connects: [u64; CONNECT_RESULTS],
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) probes: u64,
    pub(super) stalled: u64,
    pub(super) in_flight: i64,
    pub(super) queued_bytes: i64,
    pub(super) connections: i64,
    pub(super) breakers_open: i64,
}

impl NodeTotals {
    fn add_counters(&mut self, sheet: &NodeSheet) {
        self.requests += sheet.requests.get();
        self.replies_error += sheet.replies_error.get();
        for (sum, &kind) in self.failures.iter_mut().zip(FailureKind::ALL) {
            *sum += sheet.failures(kind).get();
        }
        sheet.service_duration.add_to(&mut self.service_duration);
        for (sum, &result) in self.connects.iter_mut().zip(ConnectResult::ALL) {
            *sum += sheet.connects(result).get();
        }
        self.sent_bytes += sheet.sent_bytes.get();
        self.received_bytes += sheet.received_bytes.get();
        self.probes += sheet.probes.get();
        self.stalled += sheet.stalled.get();
    }
}
