//! Every metric quoit exports, once: name, type, labels, help.
//!
//! The collector, the tests and the dashboards' test read this table, so a name cannot drift between them.
//!
//! # Invariants
//! - Base units only (seconds, bytes), the unit last; counters end in `_total`.
//! - Every label has a closed set of values: listeners, pools and nodes of the configuration, and our own enums. Never a
//!   key, never an address of a client.
//!
//! The `process_*` metrics are not here: they come from the `prometheus` crate's process collector.

/// The type of a metric, as the exposition format names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; reset by a restart.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Durations: `_bucket`, `_sum` and `_count` series.
    Histogram,
}

/// One metric: what all its series share.
#[derive(Debug)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The label names, in the order in which the collector gives their values.
    pub labels: &'static [&'static str],
    /// What it counts, for the reader of `/metrics`.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };
        )*
        /// All of them, in the order of this file.
        pub const ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    REQUESTS: Counter "quoit_requests_total" ["listener", "class", "outcome"]
        "Requests answered, by verb class and outcome. An error reply of a store is one that begins with '-'.";
    REQUEST_DURATION: Histogram "quoit_request_duration_seconds" ["listener", "class"]
        "Time from the request read in full to its reply ready to be written, by verb class.";
    CLIENT_RECEIVED: Counter "quoit_client_received_bytes_total" ["listener"]
        "Bytes read from clients.";
    CLIENT_SENT: Counter "quoit_client_sent_bytes_total" ["listener"]
        "Bytes written to clients.";
    CLIENTS_ACCEPTED: Counter "quoit_clients_accepted_total" ["listener"]
        "Client connections accepted.";
    CLIENTS_REJECTED: Counter "quoit_clients_rejected_total" ["listener"]
        "Client connections closed at once because the limit of clients was reached.";
    CLIENTS_OPEN: Gauge "quoit_clients_open" ["listener"]
        "Client connections open now.";
    PROTOCOL_ERRORS: Counter "quoit_protocol_errors_total" ["listener"]
        "Client connections closed because what they sent was not the protocol.";
    OUTPUT_LIMIT_KILLS: Counter "quoit_output_limit_kills_total" ["listener"]
        "Client connections closed because they did not read their replies and the output limit was reached.";
    DENIALS: Counter "quoit_acl_denials_total" ["listener", "reason"]
        "What clients were not allowed. Reason auth: to sign in with that name and password; command, script, key, channel: a request, by what the user has no right to.";
    TLS_HANDSHAKES: Counter "quoit_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes of clients. Result ok: served; plain: the client spoke no TLS; certificate: the client's was missing or not accepted; refused: the client refused ours, or said no otherwise; protocol: no common version or cipher, or nonsense; closed: it went away; timeout: it took too long; crowded: too many were under way.";
    SUBSCRIBERS: Gauge "quoit_subscribers" ["listener"]
        "Clients that listen to messages now.";
    SUBSCRIPTIONS: Gauge "quoit_subscriptions" ["listener"]
        "Channels and patterns that clients listen to now, each as often as there are clients that do.";
    MESSAGES_DELIVERED: Counter "quoit_messages_delivered_total" ["listener"]
        "Messages handed to clients, each as often as there are clients that got it.";
    MESSAGES_DROPPED: Counter "quoit_messages_dropped_total" ["listener"]
        "Messages that a client was not given because as much waited for it as may: it was closed.";

    TRACKING_CLIENTS: Gauge "quoit_tracking_clients" ["listener"]
        "Clients that are told of keys that have changed (CLIENT TRACKING) now.";
    INVALIDATIONS: Counter "quoit_invalidations_total" ["listener"]
        "Times that a client was told of keys that have changed, or that all may have.";

    NODE_REQUESTS: Counter "quoit_node_requests_total" ["pool", "node"]
        "Requests given to the node, fragments of split commands included.";
    NODE_REPLIES_ERROR: Counter "quoit_node_replies_error_total" ["pool", "node"]
        "Replies of the node that begin with '-'.";
    NODE_FAILURES: Counter "quoit_node_failures_total" ["pool", "node", "kind"]
        "Requests to the node without a reply. Kind connect: no connection; queue: not sent in time or no room; service: sent, no reply in time; broken: the connection ended; refused: the breaker was open.";
    NODE_SERVICE_DURATION: Histogram "quoit_node_service_duration_seconds" ["pool", "node"]
        "Time from the request written to the node to its reply.";
    NODE_IN_FLIGHT: Gauge "quoit_node_in_flight_requests" ["pool", "node"]
        "Requests the node owes a reply now.";
    NODE_QUEUED: Gauge "quoit_node_queued_bytes" ["pool", "node"]
        "Bytes that wait to be written to the node.";
    NODE_CONNECTIONS: Gauge "quoit_node_connections" ["pool", "node"]
        "Connections to the node open now, over all workers.";
    NODE_CONNECTS: Counter "quoit_node_connects_total" ["pool", "node", "result"]
        "Attempts to connect to the node, by result.";
    NODE_SENT: Counter "quoit_node_sent_bytes_total" ["pool", "node"]
        "Bytes written to the node.";
    NODE_RECEIVED: Counter "quoit_node_received_bytes_total" ["pool", "node"]
        "Bytes read from the node.";
    NODE_BREAKERS_OPEN: Gauge "quoit_node_breakers_open" ["pool", "node"]
        "Workers whose breaker for the node is open: they answer for it with an error at once.";
    NODE_PROBES: Counter "quoit_node_probes_total" ["pool", "node"]
        "Probes sent to the node before it is readmitted.";
    NODE_STALLS: Counter "quoit_node_stalls_total" ["pool", "node"]
        "Times that writing to the node had to wait because its socket was full.";
    NODE_SHARE: Gauge "quoit_node_share_ratio" ["pool", "node"]
        "The part of the ring that the node owns, from 0 to 1.";
    NODE_WEIGHT: Gauge "quoit_node_weight" ["pool", "node"]
        "The weight of the node in the configuration.";
    NODE_INFO: Gauge "quoit_node_info" ["pool", "node", "address", "zone"]
        "Always 1; the address and zone of the node as labels.";

    REPLICATION_READS: Counter "quoit_replication_reads_total" ["pool", "rounds"]
        "Reads of keys with several replicas. Rounds one: the replicas that were asked agreed; more: others were asked too, or had to be brought up to date first.";
    REPLICATION_WRITES: Counter "quoit_replication_writes_total" ["pool", "rounds"]
        "Writes of keys with several replicas. Rounds one: sent to all replicas at once, and enough took it; more: by a proposal.";
    REPLICATION_HEDGES: Counter "quoit_replication_hedges_total" ["pool"]
        "Reads that had no answer within `hedge_ms`, so that further replicas were asked.";
    REPLICATION_READ_REPAIRS: Counter "quoit_replication_read_repairs_total" ["pool"]
        "Keys that were brought to further replicas before a read of them was answered.";
    REPLICATION_REPAIRS: Counter "quoit_replication_repairs_total" ["pool"]
        "Keys that were brought to replicas in the background.";
    REPLICATION_REPAIRS_DROPPED: Counter "quoit_replication_repairs_dropped_total" ["pool"]
        "Keys that a replica missed and that found no room in the queue of repairs: their next read or write repairs them.";
    REPLICATION_REPAIRS_WAITING: Gauge "quoit_replication_repairs_waiting" ["pool"]
        "Keys that have fewer replicas than they should, as far as this proxy knows, and wait for repair.";
    REPLICATION_REFUSALS: Counter "quoit_replication_refusals_total" ["pool"]
        "Answers of stores that refused a write because they had promised or taken a newer one.";
    REPLICATION_FENCED: Counter "quoit_replication_fenced_total" ["pool"]
        "Answers of stores that did not count because the store's fence was not the expected one.";
    REPLICATION_UNKNOWN: Counter "quoit_replication_unknown_total" ["pool"]
        "Requests answered -UNKNOWN: they may or may not have been applied.";
    REPLICATION_NO_REPLICAS: Counter "quoit_replication_no_replicas_total" ["pool"]
        "Requests answered -NOREPLICAS: too few replicas, nothing was changed.";
    REPLICATION_ADOPTED: Counter "quoit_replication_adopted_total" ["pool"]
        "Keys from before quoit, without a version record, that got one.";
    REPLICATION_TRANSFERS_REFUSED: Counter "quoit_replication_transfers_refused_total" ["pool"]
        "Values of one store that another could not take, for want of memory or because it is of an older version.";
    REPLICATION_REBUILDS: Counter "quoit_replication_rebuilds_total" ["pool"]
        "Stores that had lost their data and were filled again from their peers by this proxy.";
    REPLICATION_MEMBERS: Gauge "quoit_replication_members" ["pool", "node"]
        "1 if the store votes, 0 if it does not: it was not reached yet, is being rebuilt, or belongs to another ring.";
    REPLICATION_CLOCK_SKEW: Gauge "quoit_replication_clock_skew_seconds" []
        "By how much the newest version that was seen is ahead of this proxy's clock: another proxy's clock is, or ours went back.";

    RING_FINGERPRINT: Gauge "quoit_ring_fingerprint" ["pool"]
        "48 bits of a hash of the pool's ring: two proxies that place keys alike export one value.";
    TOPOLOGY_EPOCH: Gauge "quoit_topology_epoch" []
        "The number of the topology in force; each one that comes into force adds one.";
    CONFIG_RELOADS: Counter "quoit_config_reloads_total" ["result"]
        "Reloads of the configuration, by result. A failed one leaves the running topology in place.";
    CONFIG_LAST_RELOAD_SUCCESSFUL: Gauge "quoit_config_last_reload_successful" []
        "1 if the last load of the configuration succeeded, else 0.";
    CONFIG_LAST_RELOAD_SUCCESS: Gauge "quoit_config_last_reload_success_timestamp_seconds" []
        "When the configuration in force was loaded, in seconds since 1970.";
    CONFIG_HASH: Gauge "quoit_config_hash" []
        "48 bits of a hash of the configuration in force.";
    TLS_CERTIFICATE_EXPIRY: Gauge "quoit_tls_certificate_expiry_timestamp_seconds" ["side", "name"]
        "When the certificate that quoit shows expires, or one behind it if that is sooner, in seconds since 1970. Side listener: to clients; pool: to stores.";
    CLIENTS_LIMIT: Gauge "quoit_clients_limit" []
        "How many client connections the process accepts.";
    BUFFERS_LIMIT: Gauge "quoit_buffers_limit_bytes" []
        "How many bytes the buffers of all workers may hold together.";

    WORKER_BUFFERS: Gauge "quoit_worker_buffers_bytes" ["worker"]
        "Bytes that the buffers of the worker's clients and nodes hold now.";
    WORKER_TRACKED_KEYS: Gauge "quoit_worker_tracked_keys" ["worker"]
        "Keys that clients of the worker have read and are to be told of when they change.";
    WORKER_BUSY: Counter "quoit_worker_busy_seconds_total" ["worker"]
        "Time the worker's event loop was busy; its rate is the worker's utilisation, from 0 to 1.";
    WORKER_PARKS: Counter "quoit_worker_parks_total" ["worker"]
        "Times the worker's event loop went to sleep for want of work.";

    BUILD_INFO: Gauge "quoit_build_info" ["version"]
        "Always 1; the version of quoit as a label.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for (at, family) in ALL.iter().enumerate() {
            let Family { name, kind, help, .. } = family;
            assert!(name.starts_with("quoit_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(help.ends_with('.'), "{name}");
            assert!(ALL.iter().take(at).all(|other| other.name != *name), "{name} is there twice");
        }
    }
}
