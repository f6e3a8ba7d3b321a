//! From cells to metric families: what a scrape does.
//!
//! Runs on the admin thread. It reads cells that the workers write meanwhile, so two series of one scrape may be a few
//! requests apart; each alone never goes backwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter as ProtoCounter, Gauge as ProtoGauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily,
    MetricType,
};

use super::cell::{Counter, HistogramTotal};
use super::cells::{CLASSES, Class, ConnectResult, Denial, FailureKind, Handshake, ListenerCells, OUTCOMES, Outcome};
use super::names::{self, Family, Kind};
use super::process::LoadedConfig;
use super::{Cells, ReplicationCells, lock};

/// Reads all cells at a scrape.
pub(super) struct CellCollector {
    pub(super) cells: Arc<Cells>,
    pub(super) descriptions: Vec<Desc>,
}

impl CellCollector {
    /// # Errors
    /// A name or label that the exposition format does not allow.
    pub(super) fn new(cells: Arc<Cells>) -> prometheus::Result<CellCollector> {
        let describe = |family: &&Family| {
            let labels = family.labels.iter().map(ToString::to_string).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, std::collections::HashMap::new())
        };
        let descriptions = names::ALL.iter().map(describe).collect::<prometheus::Result<_>>()?;
        Ok(CellCollector { cells, descriptions })
    }
}

impl Collector for CellCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        page.listeners(&self.cells);
        page.nodes(&self.cells);
        page.replication(&self.cells);
        page.workers(&self.cells);
        page.process(&self.cells);
        page.families
    }
}

/// The families gathered so far.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    /// The metrics of one family, which is appended if it is new. Few families: a scan is enough.
    fn metrics(&mut self, family: &Family) -> &mut Vec<Metric> {
        let at = self.families.iter().position(|known| known.name() == family.name).unwrap_or_else(|| {
            let mut new = MetricFamily::default();
            new.set_name(family.name.to_owned());
            new.set_help(family.help.to_owned());
            new.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            self.families.push(new);
            self.families.len() - 1
        });
        self.families.get_mut(at).expect("just found or just pushed").mut_metric()
    }

    /// One series of a counter or gauge.
    fn value(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut metric = labelled(family, labels);
        match family.kind {
            Kind::Counter => {
                let mut counter = ProtoCounter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
                let mut gauge = ProtoGauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics(family).push(metric);
    }

    fn count(&mut self, family: &Family, labels: &[&str], value: u64) {
        self.value(family, labels, from_count(value));
    }

    fn level(&mut self, family: &Family, labels: &[&str], value: i64) {
        self.value(family, labels, from_level(value));
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], total: &HistogramTotal) {
        let bucket = |(bound_us, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(from_count(bound_us) / 1e6);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = ProtoHistogram::default();
        histogram.set_bucket(total.cumulative().map(bucket).collect());
        histogram.set_sample_count(total.count());
        histogram.set_sample_sum(total.sum_seconds());
        let mut metric = labelled(family, labels);
        metric.set_histogram(histogram);
        self.metrics(family).push(metric);
    }

    fn listeners(&mut self, cells: &Cells) {
        for (name, groups) in lock(&cells.listeners).iter() {
            let totals = ListenerTotals::of(groups);
            for (&class, (requests, duration)) in Class::ALL.iter().zip(totals.requests.iter().zip(&totals.durations)) {
                for (outcome, &count) in Outcome::ALL.iter().zip(requests) {
                    self.count(&names::REQUESTS, &[name, class.label(), outcome.label()], count);
                }
                self.histogram(&names::REQUEST_DURATION, &[name, class.label()], duration);
            }
            let sum = |cell: fn(&ListenerCells) -> u64| groups.iter().map(|group| cell(group)).sum();
            self.count(&names::CLIENT_RECEIVED, &[name], sum(|group| group.received_bytes.get()));
            self.count(&names::CLIENT_SENT, &[name], sum(|group| group.sent_bytes.get()));
            self.count(&names::CLIENTS_ACCEPTED, &[name], sum(|group| group.clients_accepted.get()));
            self.count(&names::CLIENTS_REJECTED, &[name], sum(|group| group.clients_rejected.get()));
            self.count(&names::PROTOCOL_ERRORS, &[name], sum(|group| group.protocol_errors.get()));
            self.count(&names::OUTPUT_LIMIT_KILLS, &[name], sum(|group| group.output_limit_kills.get()));
            for &denial in Denial::ALL {
                let count = groups.iter().map(|group| group.denials(denial).get()).sum();
                self.count(&names::DENIALS, &[name, denial.label()], count);
            }
            for &handshake in Handshake::ALL {
                let count = groups.iter().map(|group| group.handshakes(handshake).get()).sum();
                self.count(&names::TLS_HANDSHAKES, &[name, handshake.label()], count);
            }
            self.count(&names::MESSAGES_DELIVERED, &[name], sum(|group| group.messages_delivered.get()));
            self.count(&names::MESSAGES_DROPPED, &[name], sum(|group| group.messages_dropped.get()));
            let subscribers = groups.iter().map(|group| group.subscribers.get()).sum();
            self.level(&names::SUBSCRIBERS, &[name], subscribers);
            let subscriptions = groups.iter().map(|group| group.subscriptions.get()).sum();
            self.level(&names::SUBSCRIPTIONS, &[name], subscriptions);
            self.count(&names::INVALIDATIONS, &[name], sum(|group| group.invalidations.get()));
            let tracking = groups.iter().map(|group| group.tracking_clients.get()).sum();
            self.level(&names::TRACKING_CLIENTS, &[name], tracking);
            let open = groups.iter().map(|group| group.clients_open.get()).sum();
            self.level(&names::CLIENTS_OPEN, &[name], open);
        }
    }

    fn nodes(&mut self, cells: &Cells) {
        for ((pool, node), series) in lock(&cells.nodes).iter() {
            let Some(series) = series.upgrade() else { continue };
            let totals = series.totals();
            let labels = [pool.as_str(), node.as_str()];
            self.count(&names::NODE_REQUESTS, &labels, totals.requests);
            self.count(&names::NODE_REPLIES_ERROR, &labels, totals.replies_error);
            for (kind, &count) in FailureKind::ALL.iter().zip(&totals.failures) {
                self.count(&names::NODE_FAILURES, &[pool, node, kind.label()], count);
            }
            self.histogram(&names::NODE_SERVICE_DURATION, &labels, &totals.service_duration);
            for (result, &count) in ConnectResult::ALL.iter().zip(&totals.connects) {
                self.count(&names::NODE_CONNECTS, &[pool, node, result.label()], count);
            }
            self.count(&names::NODE_SENT, &labels, totals.sent_bytes);
            self.count(&names::NODE_RECEIVED, &labels, totals.received_bytes);
            self.count(&names::NODE_PROBES, &labels, totals.probes);
            self.count(&names::NODE_STALLS, &labels, totals.stalled);
            self.level(&names::NODE_IN_FLIGHT, &labels, totals.in_flight);
            self.level(&names::NODE_QUEUED, &labels, totals.queued_bytes);
            self.level(&names::NODE_CONNECTIONS, &labels, totals.connections);
            self.level(&names::NODE_BREAKERS_OPEN, &labels, totals.breakers_open);
        }
    }

    fn replication(&mut self, cells: &Cells) {
        let mut skew_ms = None;
        for (pool, groups) in lock(&cells.replication).iter() {
            let sum = |cell: fn(&ReplicationCells) -> &Counter| groups.iter().map(|group| cell(group).get()).sum();
            self.count(&names::REPLICATION_READS, &[pool, "one"], sum(|group| &group.reads_in_one_round));
            self.count(&names::REPLICATION_READS, &[pool, "more"], sum(|group| &group.reads_in_more_rounds));
            self.count(&names::REPLICATION_WRITES, &[pool, "one"], sum(|group| &group.writes_in_one_round));
            self.count(&names::REPLICATION_WRITES, &[pool, "more"], sum(|group| &group.writes_in_more_rounds));
            self.count(&names::REPLICATION_HEDGES, &[pool], sum(|group| &group.hedges));
            self.count(&names::REPLICATION_READ_REPAIRS, &[pool], sum(|group| &group.read_repairs));
            self.count(&names::REPLICATION_REPAIRS, &[pool], sum(|group| &group.repairs));
            self.count(&names::REPLICATION_REPAIRS_DROPPED, &[pool], sum(|group| &group.repairs_dropped));
            self.count(&names::REPLICATION_REFUSALS, &[pool], sum(|group| &group.refusals));
            self.count(&names::REPLICATION_FENCED, &[pool], sum(|group| &group.fenced));
            self.count(&names::REPLICATION_UNKNOWN, &[pool], sum(|group| &group.unknown));
            self.count(&names::REPLICATION_NO_REPLICAS, &[pool], sum(|group| &group.no_replicas));
            self.count(&names::REPLICATION_ADOPTED, &[pool], sum(|group| &group.adopted));
            self.count(&names::REPLICATION_TRANSFERS_REFUSED, &[pool], sum(|group| &group.transfers_refused));
            self.count(&names::REPLICATION_REBUILDS, &[pool], sum(|group| &group.rebuilds));
            let waiting = groups.iter().map(|group| group.repairs_waiting.get()).sum();
            self.level(&names::REPLICATION_REPAIRS_WAITING, &[pool], waiting);
            let mut members = BTreeMap::new();
            for group in groups {
                group.add_members(&mut members);
                skew_ms = skew_ms.max(Some(group.clock_skew_ms.get()));
            }
            for (node, votes) in &members {
                self.count(&names::REPLICATION_MEMBERS, &[pool, node], u64::from(*votes));
            }
        }
        if let Some(skew_ms) = skew_ms {
            self.value(&names::REPLICATION_CLOCK_SKEW, &[], from_level(skew_ms) / 1e3);
        }
    }

    fn workers(&mut self, cells: &Cells) {
        for (worker, group) in lock(&cells.workers).iter() {
            let worker = worker.to_string();
            self.level(&names::WORKER_BUFFERS, &[&worker], group.buffers_bytes.get());
            self.level(&names::WORKER_TRACKED_KEYS, &[&worker], group.tracked_keys.get());
            if let Some(runtime) = group.runtime() {
                // Each of our runtimes has one worker, number 0.
                let busy = runtime.worker_total_busy_duration(0);
                self.value(&names::WORKER_BUSY, &[&worker], busy.as_secs_f64());
                self.count(&names::WORKER_PARKS, &[&worker], runtime.worker_park_count(0));
            }
        }
    }

    fn process(&mut self, cells: &Cells) {
        self.value(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let state = cells.process.state();
        self.count(&names::CONFIG_RELOADS, &["ok"], state.reloads_ok);
        self.count(&names::CONFIG_RELOADS, &["failed"], state.reloads_failed);
        self.count(&names::CONFIG_LAST_RELOAD_SUCCESSFUL, &[], u64::from(state.last_reload_successful));
        if let Some(config) = state.config {
            self.config(&config);
        }
    }

    fn config(&mut self, config: &LoadedConfig) {
        self.value(&names::CONFIG_LAST_RELOAD_SUCCESS, &[], config.at.as_secs_f64());
        self.value(&names::CONFIG_HASH, &[], from_hash(config.hash));
        self.count(&names::CLIENTS_LIMIT, &[], config.clients_max);
        self.count(&names::BUFFERS_LIMIT, &[], config.buffers_bytes_max);
        self.count(&names::TOPOLOGY_EPOCH, &[], config.topology.epoch);
        for certificate in &config.certificates {
            let labels = [certificate.side, certificate.name.as_str()];
            self.count(&names::TLS_CERTIFICATE_EXPIRY, &labels, certificate.expires);
        }
        for pool in &config.topology.pools {
            self.value(&names::RING_FINGERPRINT, &[&pool.name], from_hash(pool.fingerprint));
            for node in &pool.nodes {
                let labels = [pool.name.as_str(), node.name.as_str()];
                self.value(&names::NODE_SHARE, &labels, node.share);
                self.value(&names::NODE_WEIGHT, &labels, f64::from(node.weight));
                self.value(&names::NODE_INFO, &[&pool.name, &node.name, &node.address, &node.zone], 1.0);
            }
        }
    }
}

/// The sums of a listener's requests over all workers.
#[derive(Default)]
struct ListenerTotals {
    requests: [[u64; OUTCOMES]; CLASSES],
    durations: [HistogramTotal; CLASSES],
}

impl ListenerTotals {
    fn of(groups: &[Arc<ListenerCells>]) -> ListenerTotals {
        let mut totals = ListenerTotals::default();
        for group in groups {
            for ((requests, duration), &class) in totals.requests.iter_mut().zip(&mut totals.durations).zip(Class::ALL)
            {
                for (sum, &outcome) in requests.iter_mut().zip(Outcome::ALL) {
                    *sum += group.requests(class, outcome);
                }
                group.verbs.of(class).for_each(|verb| verb.duration.add_to(duration));
            }
        }
        totals
    }
}

fn labelled(family: &Family, values: &[&str]) -> Metric {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(family.labels.iter().zip(values).map(pair).collect())
}

#[expect(clippy::cast_precision_loss, reason = "the exposition format is f64; past 2^53 the last digits do not matter")]
fn from_count(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "the exposition format is f64; past 2^53 the last digits do not matter")]
fn from_level(value: i64) -> f64 {
    value as f64
}

/// The low 48 bits: they survive an f64 unrounded, so equal hashes and only they are equal on the dashboard (the
/// Alertmanager exports its configuration's hash so).
fn from_hash(value: u64) -> f64 {
    from_count(value & 0xffff_ffff_ffff)
}
