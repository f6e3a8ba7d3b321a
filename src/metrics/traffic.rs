//! What `INFO` says of the process's traffic: a few sums over all listeners.

use super::cells::{Class, ListenerCells, Outcome};
use super::{Metrics, lock};

/// Sums since the process started, or differences of two such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Clients that were accepted.
    pub clients_accepted: u64,
    /// Clients that were turned away, for there were too many.
    pub clients_rejected: u64,
    /// Clients that were closed for not reading their replies.
    pub output_limit_kills: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Those of them that were answered with an error.
    pub errors: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Clients that track keys now.
    pub tracking_clients: i64,
}

impl Traffic {
    fn add(&mut self, cells: &ListenerCells) {
        self.clients_accepted += cells.clients_accepted.get();
        self.clients_rejected += cells.clients_rejected.get();
        self.output_limit_kills += cells.output_limit_kills.get();
        self.received_bytes += cells.received_bytes.get();
        self.sent_bytes += cells.sent_bytes.get();
        self.tracking_clients += cells.tracking_clients.get();
        for class in Class::ALL {
            for outcome in Outcome::ALL {
                let count = cells.requests(*class, *outcome);
                self.requests += count;
                if *outcome != Outcome::Ok {
                    self.errors += count;
                }
            }
        }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            clients_accepted: self.clients_accepted.saturating_sub(before.clients_accepted),
            clients_rejected: self.clients_rejected.saturating_sub(before.clients_rejected),
            output_limit_kills: self.output_limit_kills.saturating_sub(before.output_limit_kills),
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            tracking_clients: self.tracking_clients,
        }
    }
}

impl Metrics {
    /// The traffic of all listeners so far.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        lock(&self.cells.listeners).values().flatten().for_each(|cells| traffic.add(cells));
        traffic
    }
}
