//! The Grafana board as data: rows of panels, written to `dashboards/quoit.json`.
//!
//! Only panel kinds that have an exported component are used (timeseries, stat, bargauge, table, text, row), so that
//! every panel can be drawn outside Grafana too. In a query, `{@}` and `{@,…}` stand for the filter on the chosen jobs
//! and instances, `[@]` for the range that fits the scrape interval.

use serde_json::{Value, json};

/// Grafana's board is 24 units wide.
const WIDTH: u64 = 24;

/// How a panel draws.
#[derive(Clone, Copy)]
enum Look {
    Line,
    /// Areas on top of each other.
    Stack,
    Stat,
    Bar,
    Table,
}

struct Panel {
    title: &'static str,
    text: &'static str,
    look: Look,
    unit: &'static str,
    width: u64,
    queries: Vec<(&'static str, &'static str)>,
    thresholds: Vec<(&'static str, f64)>,
}

impl Panel {
    fn new(look: Look, width: u64, unit: &'static str, title: &'static str, text: &'static str) -> Panel {
        Panel { title, text, look, unit, width, queries: Vec::new(), thresholds: Vec::new() }
    }

    /// One query, with the legend of its series.
    fn query(mut self, legend: &'static str, query: &'static str) -> Panel {
        self.queries.push((legend, query));
        self
    }

    /// From this value on, this colour.
    fn from(mut self, value: f64, colour: &'static str) -> Panel {
        self.thresholds.push((colour, value));
        self
    }

    fn height(&self) -> u64 {
        if matches!(self.look, Look::Stat) { 4 } else { 8 }
    }

    fn kind(&self) -> &'static str {
        match self.look {
            Look::Line | Look::Stack => "timeseries",
            Look::Stat => "stat",
            Look::Bar => "bargauge",
            Look::Table => "table",
        }
    }

    fn options(&self) -> Value {
        let last = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.look {
            Look::Line | Look::Stack => json!({
                "legend": { "calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Look::Stat => json!({
                "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
                "reduceOptions": last, "textMode": "auto",
            }),
            Look::Bar => json!({
                "displayMode": "basic", "orientation": "horizontal", "reduceOptions": last, "showUnfilled": true,
            }),
            Look::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
        }
    }

    fn field_config(&self) -> Value {
        let mut steps = vec![json!({ "color": "green", "value": null })];
        steps.extend(self.thresholds.iter().map(|(colour, value)| json!({ "color": colour, "value": value })));
        let mut defaults = json!({
            "unit": self.unit,
            "color": { "mode": if matches!(self.look, Look::Stat) { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps },
        });
        match self.look {
            Look::Line | Look::Stack => {
                let (mode, fill) = if matches!(self.look, Look::Stack) { ("normal", 40) } else { ("none", 10) };
                defaults["custom"] = json!({
                    "drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never",
                    "spanNulls": false, "stacking": { "mode": mode, "group": "A" },
                });
                defaults["min"] = json!(0);
            }
            Look::Bar => {
                defaults["min"] = json!(0);
                defaults["max"] = json!(1);
            }
            Look::Table => defaults["decimals"] = json!(0),
            Look::Stat => {}
        }
        json!({ "defaults": defaults, "overrides": [] })
    }

    fn targets(&self) -> Vec<Value> {
        let instant = matches!(self.look, Look::Bar | Look::Table);
        let target = |(letter, (legend, query)): (char, &(&str, &str))| {
            json!({
                "datasource": data_source(),
                "refId": letter.to_string(),
                "expr": written_out(query),
                "legendFormat": legend,
                "instant": instant,
                "range": !instant,
                "format": if matches!(self.look, Look::Table) { "table" } else { "time_series" },
            })
        };
        ('A'..='Z').zip(&self.queries).map(target).collect()
    }

    fn json(&self, id: u64, x: u64, y: u64) -> Value {
        let mut panel = json!({
            "id": id,
            "type": self.kind(),
            "title": self.title,
            "description": self.text,
            "datasource": data_source(),
            "gridPos": { "h": self.height(), "w": self.width, "x": x, "y": y },
            "fieldConfig": self.field_config(),
            "options": self.options(),
            "targets": self.targets(),
        });
        if matches!(self.look, Look::Table) {
            panel["transformations"] = json!([{ "id": "organize", "options": { "excludeByName": { "Time": true } } }]);
        }
        panel
    }
}

fn written_out(query: &str) -> String {
    const FILTER: &str = r#"job=~"$job",instance=~"$instance""#;
    query.replace("{@", &format!("{{{FILTER}")).replace("[@]", "[$__rate_interval]")
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// The whole board.
pub(crate) fn board() -> Value {
    let rows = [
        ("Overview", overview()),
        ("Clients", clients().into_iter().chain(caches()).collect()),
        ("TLS", tls()),
        ("Ring and nodes", nodes()),
        ("Replication", replication()),
        ("Config", config()),
        ("Process", process()),
    ];
    let (mut panels, mut y) = (Vec::new(), 0);
    for (title, row) in rows {
        let id = panels.len() as u64 + 1;
        let place = json!({ "h": 1, "w": WIDTH, "x": 0, "y": y });
        panels.push(
            json!({ "id": id, "type": "row", "title": title, "collapsed": false, "gridPos": place, "panels": [] }),
        );
        y += 1;
        let (mut x, mut line_height) = (0, 0);
        for panel in row {
            if x + panel.width > WIDTH {
                (x, y) = (0, y + line_height);
                line_height = 0;
            }
            panels.push(panel.json(panels.len() as u64 + 1, x, y));
            x += panel.width;
            line_height = line_height.max(panel.height());
        }
        y += line_height;
    }
    json!({
        "__inputs": [{
            "name": "DS_PROMETHEUS", "label": "Prometheus", "description": "the Prometheus that scrapes quoit",
            "type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus",
        }],
        "__requires": [{ "type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0" }],
        "uid": "quoit",
        "title": "quoit",
        "description": "The sharding proxy quoit: requests, clients, ring and nodes, configuration, process.",
        "tags": ["quoit", "redis"],
        "schemaVersion": 42,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "annotations": { "list": [] },
        "links": [],
        "templating": { "list": [
            {
                "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
                "current": { "text": "${DS_PROMETHEUS}", "value": "${DS_PROMETHEUS}" },
                "hide": 0, "includeAll": false, "multi": false, "refresh": 1, "regex": "",
            },
            choice("job", "label_values(quoit_build_info, job)"),
            choice("instance", "label_values(quoit_build_info{job=~\"$job\"}, instance)"),
        ] },
        "panels": panels,
    })
}

/// A variable with the values of one label.
fn choice(label: &str, query: &str) -> Value {
    json!({
        "name": label, "label": label, "type": "query", "datasource": data_source(),
        "query": { "query": query, "refId": label },
        "current": { "text": ["All"], "value": ["$__all"] },
        "includeAll": true, "allValue": ".+", "multi": true, "refresh": 2, "sort": 1, "hide": 0, "regex": "",
    })
}

fn overview() -> Vec<Panel> {
    use Look::{Line, Stack, Stat};
    vec![
        Panel::new(Stat, 4, "reqps", "Requests", "Requests answered per second, all classes and outcomes.")
            .query("", "sum(rate(quoit_requests_total{@}[@]))"),
        Panel::new(Stat, 4, "percentunit", "Requests failed", "The part of the requests answered with an error of the proxy's own making: node unavailable, timed out, overloaded.")
            .query("", r#"sum(rate(quoit_requests_total{@,outcome=~"unavailable|timed_out|overloaded"}[@])) / sum(rate(quoit_requests_total{@}[@]))"#)
            .from(0.001, "orange").from(0.01, "red"),
        Panel::new(Stat, 4, "s", "Latency, p99", "Ninety-nine in a hundred requests were answered within this time, measured in the proxy.")
            .query("", "histogram_quantile(0.99, sum by (le) (rate(quoit_request_duration_seconds_bucket{@}[@])))")
            .from(0.01, "orange").from(0.1, "red"),
        Panel::new(Stat, 4, "none", "Nodes down", "Nodes for which a breaker is open somewhere: their keys get errors at once.")
            .query("", "count(max by (pool, node) (quoit_node_breakers_open{@}) > 0) or vector(0)")
            .from(1.0, "red"),
        Panel::new(Stat, 4, "none", "Clients", "Client connections open now.").query("", "sum(quoit_clients_open{@})"),
        Panel::new(Stat, 4, "none", "Proxies", "Proxies that answer Prometheus.").query("", "count(quoit_build_info{@})"),
        Panel::new(Stack, 12, "reqps", "Requests, by class", "Requests answered per second: verbs that read, that may write, and the others, which have no key or are answered by the proxy.")
            .query("{{class}}", "sum by (class) (rate(quoit_requests_total{@}[@]))"),
        Panel::new(Line, 12, "reqps", "Requests failed, by outcome", "Requests per second whose reply was an error: of a store (store_error), refused by the proxy, or failed.")
            .query("{{outcome}}", r#"sum by (outcome) (rate(quoit_requests_total{@,outcome!="ok"}[@]))"#),
        Panel::new(Line, 12, "s", "Latency", "Time from the request read to its reply ready, over all classes.")
            .query("p50", "histogram_quantile(0.5, sum by (le) (rate(quoit_request_duration_seconds_bucket{@}[@])))")
            .query("p95", "histogram_quantile(0.95, sum by (le) (rate(quoit_request_duration_seconds_bucket{@}[@])))")
            .query("p99", "histogram_quantile(0.99, sum by (le) (rate(quoit_request_duration_seconds_bucket{@}[@])))"),
        Panel::new(Line, 12, "s", "Latency, p99 by class", "Time from the request read to its reply ready, for each class.")
            .query("{{class}}", "histogram_quantile(0.99, sum by (class, le) (rate(quoit_request_duration_seconds_bucket{@}[@])))"),
    ]
}

fn clients() -> Vec<Panel> {
    use Look::Line;
    vec![
        Panel::new(
            Line,
            12,
            "none",
            "Clients open",
            "Client connections of each listener, and how many a proxy accepts over all its listeners.",
        )
        .query("{{instance}} {{listener}}", "sum by (instance, listener) (quoit_clients_open{@})")
        .query("limit of one proxy", "max(quoit_clients_limit{@})"),
        Panel::new(
            Line,
            12,
            "cps",
            "Connections",
            "Connections per second that were accepted, and that were closed at once because the limit was reached.",
        )
        .query("{{listener}} accepted", "sum by (listener) (rate(quoit_clients_accepted_total{@}[@]))")
        .query("{{listener}} rejected", "sum by (listener) (rate(quoit_clients_rejected_total{@}[@]))"),
        Panel::new(Line, 12, "Bps", "Client traffic", "Bytes per second read from clients and written to them.")
            .query("{{listener}} received", "sum by (listener) (rate(quoit_client_received_bytes_total{@}[@]))")
            .query("{{listener}} sent", "sum by (listener) (rate(quoit_client_sent_bytes_total{@}[@]))"),
        Panel::new(
            Line,
            12,
            "cps",
            "Clients turned away",
            "Clients per second that did not speak the protocol, or did not read their replies; and what clients were not \
             allowed.",
        )
        .query("{{listener}} protocol error", "sum by (listener) (rate(quoit_protocol_errors_total{@}[@]))")
        .query("{{listener}} output limit", "sum by (listener) (rate(quoit_output_limit_kills_total{@}[@]))")
        .query("{{listener}} denied {{reason}}", "sum by (listener, reason) (rate(quoit_acl_denials_total{@}[@]))"),
        Panel::new(
            Line,
            12,
            "none",
            "Messages: who listens",
            "Clients that listen to channels or patterns, and to how many in all.",
        )
        .query("{{listener}} clients", "sum by (listener) (quoit_subscribers{@})")
        .query("{{listener}} subscriptions", "sum by (listener) (quoit_subscriptions{@})"),
        Panel::new(
            Line,
            12,
            "cps",
            "Messages",
            "Messages per second that were handed to clients, and that were not because as much waited for the client as may.",
        )
        .query("{{listener}} delivered", "sum by (listener) (rate(quoit_messages_delivered_total{@}[@]))")
        .query("{{listener}} dropped", "sum by (listener) (rate(quoit_messages_dropped_total{@}[@]))"),
    ]
}

fn tls() -> Vec<Panel> {
    use Look::Line;
    vec![
        Panel::new(
            Line,
            12,
            "cps",
            "TLS handshakes",
            "Handshakes per second of clients that speak TLS, by how they ended; docs/security.md has the results. Closed is \
             also who only asks whether the port is open.",
        )
        .query("{{listener}} {{result}}", "sum by (listener, result) (rate(quoit_tls_handshakes_total{@}[@]))"),
        Panel::new(
            Line,
            12,
            "s",
            "Certificates: time left",
            "How long the certificates that quoit shows are valid, to clients of a listener and to the stores of a pool. A new \
             one is taken over as soon as it is in its file.",
        )
        .query("{{side}} {{name}}", "min by (side, name) (quoit_tls_certificate_expiry_timestamp_seconds{@}) - time()"),
    ]
}

fn caches() -> [Panel; 2] {
    use Look::Line;
    [
        Panel::new(
            Line,
            12,
            "none",
            "Client-side caches",
            "Clients that track keys, and the keys that they are to be told of when they change, over all workers.",
        )
        .query("{{listener}} clients", "sum by (listener) (quoit_tracking_clients{@})")
        .query("keys", "sum(quoit_worker_tracked_keys{@})"),
        Panel::new(
            Line,
            12,
            "cps",
            "News for client-side caches",
            "How often a second clients were told that keys have changed, or that all may have.",
        )
        .query("{{listener}}", "sum by (listener) (rate(quoit_invalidations_total{@}[@]))"),
    ]
}

fn nodes() -> Vec<Panel> {
    use Look::{Bar, Line, Table};
    vec![
        Panel::new(Bar, 8, "percentunit", "Share of the ring", "The part of its pool's ring that each node owns.")
            .query("{{pool}} {{node}}", "max by (pool, node) (quoit_node_share_ratio{@})"),
        Panel::new(Table, 16, "none", "Nodes", "The nodes of the configurations in force. The value is the weight.")
            .query("", "max by (pool, node, address, zone) (quoit_node_info{@} * on (job, instance, pool, node) group_left () quoit_node_weight{@})"),
        Panel::new(Line, 12, "reqps", "Requests, by node", "Requests per second given to each node, parts of split commands counted each.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (rate(quoit_node_requests_total{@}[@]))"),
        Panel::new(Line, 12, "s", "Service time of the nodes, p99", "Time from the request written to the node to its reply.")
            .query("{{pool}} {{node}}", "histogram_quantile(0.99, sum by (pool, node, le) (rate(quoit_node_service_duration_seconds_bucket{@}[@])))"),
        Panel::new(Line, 12, "reqps", "Failures, by node", "Requests per second to which a node gave no reply, by what went wrong.")
            .query("{{pool}} {{node}} {{kind}}", "sum by (pool, node, kind) (rate(quoit_node_failures_total{@}[@]))"),
        Panel::new(Line, 12, "reqps", "Error replies, by node", "Error replies of the stores per second. They are passed on and do not count against the node.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (rate(quoit_node_replies_error_total{@}[@]))"),
        Panel::new(Line, 12, "none", "Breakers open", "Workers, over all proxies, that answer for the node with an error at once.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (quoit_node_breakers_open{@})"),
        Panel::new(Line, 12, "none", "Requests in flight", "Requests that the nodes owe a reply.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (quoit_node_in_flight_requests{@})"),
        Panel::new(Line, 12, "bytes", "Bytes queued for the nodes", "Bytes that wait to be written. A queue that stays is a node that does not keep up.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (quoit_node_queued_bytes{@})"),
        Panel::new(Line, 12, "none", "Connections to the nodes", "Open connections, over all workers and proxies.")
            .query("{{pool}} {{node}}", "sum by (pool, node) (quoit_node_connections{@})"),
        Panel::new(Line, 12, "Bps", "Traffic of the nodes", "Bytes per second written to each node and read from it.")
            .query("{{pool}} {{node}} sent", "sum by (pool, node) (rate(quoit_node_sent_bytes_total{@}[@]))")
            .query("{{pool}} {{node}} received", "sum by (pool, node) (rate(quoit_node_received_bytes_total{@}[@]))"),
        Panel::new(Line, 12, "cps", "Connects, probes and stalls", "Per second: attempts to connect by result, probes before a node is readmitted, and writes that had to wait for a full socket.")
            .query("{{node}} connect {{result}}", "sum by (node, result) (rate(quoit_node_connects_total{@}[@]))")
            .query("{{node}} probe", "sum by (node) (rate(quoit_node_probes_total{@}[@]))")
            .query("{{node}} stall", "sum by (node) (rate(quoit_node_stalls_total{@}[@]))"),
    ]
}

fn replication() -> Vec<Panel> {
    use Look::{Line, Stat};
    vec![
        Panel::new(Stat, 6, "none", "Stores that do not vote", "Stores of replicated pools that count for nothing: not reached yet, being rebuilt, or of another ring.")
            .query("", "count(min by (pool, node) (quoit_replication_members{@}) == 0) or vector(0)")
            .from(1.0, "red"),
        Panel::new(Stat, 6, "none", "Keys with fewer replicas", "Keys that a replica missed, as far as the proxies know, and that wait for repair.")
            .query("", "sum(quoit_replication_repairs_waiting{@})")
            .from(1.0, "orange"),
        Panel::new(Stat, 6, "percentunit", "Reads in one round", "The part of the reads for which the replicas that were asked agreed at once.")
            .query("", r#"sum(rate(quoit_replication_reads_total{@,rounds="one"}[@])) / sum(rate(quoit_replication_reads_total{@}[@]))"#),
        Panel::new(Stat, 6, "s", "Clock skew", "By how much the newest version seen is ahead of the clock of the proxy that saw it.")
            .query("", "max(quoit_replication_clock_skew_seconds{@})")
            .from(1.0, "red"),
        Panel::new(Line, 12, "reqps", "Reads and writes, by rounds", "Requests for replicated keys per second: answered after one round of messages, or after more.")
            .query("{{pool}} read, {{rounds}}", "sum by (pool, rounds) (rate(quoit_replication_reads_total{@}[@]))")
            .query("{{pool}} write, {{rounds}}", "sum by (pool, rounds) (rate(quoit_replication_writes_total{@}[@]))"),
        Panel::new(Line, 12, "reqps", "Requests without enough replicas", "Requests per second answered -UNKNOWN (they may have been applied) and -NOREPLICAS (they were not).")
            .query("{{pool}} unknown", "sum by (pool) (rate(quoit_replication_unknown_total{@}[@]))")
            .query("{{pool}} no replicas", "sum by (pool) (rate(quoit_replication_no_replicas_total{@}[@]))"),
        Panel::new(Line, 12, "ops", "Repairs", "Keys per second brought to replicas that missed them: before a read was answered, in the background, and those for which the queue had no room.")
            .query("{{pool}} before a read", "sum by (pool) (rate(quoit_replication_read_repairs_total{@}[@]))")
            .query("{{pool}} in the background", "sum by (pool) (rate(quoit_replication_repairs_total{@}[@]))")
            .query("{{pool}} dropped", "sum by (pool) (rate(quoit_replication_repairs_dropped_total{@}[@]))"),
        Panel::new(Line, 12, "none", "Keys that wait for repair", "By proxy. It grows while a store is away, and ends when that is back.")
            .query("{{instance}} {{pool}}", "sum by (instance, pool) (quoit_replication_repairs_waiting{@})"),
        Panel::new(Line, 12, "ops", "Contention and hedges", "Per second: answers of stores that had seen a newer version, and reads asked again because they took too long.")
            .query("{{pool}} refused", "sum by (pool) (rate(quoit_replication_refusals_total{@}[@]))")
            .query("{{pool}} hedge", "sum by (pool) (rate(quoit_replication_hedges_total{@}[@]))"),
        Panel::new(Line, 12, "none", "Stores that vote", "1 if every worker of every proxy counts the store's word.")
            .query("{{pool}} {{node}}", "min by (pool, node) (quoit_replication_members{@})"),
        Panel::new(Line, 12, "ops", "Fences and transfers", "Per second: answers of stores whose fence was not the expected one, and values that a store could not take from another.")
            .query("{{pool}} fenced", "sum by (pool) (rate(quoit_replication_fenced_total{@}[@]))")
            .query("{{pool}} transfer refused", "sum by (pool) (rate(quoit_replication_transfers_refused_total{@}[@]))"),
        Panel::new(Line, 12, "none", "Rebuilt stores and adopted keys", "Since the proxies started: stores that were filled again, and keys from before quoit that got a version.")
            .query("{{pool}} rebuilt", "sum by (pool) (quoit_replication_rebuilds_total{@})")
            .query("{{pool}} adopted", "sum by (pool) (quoit_replication_adopted_total{@})"),
    ]
}

fn config() -> Vec<Panel> {
    use Look::{Line, Stat, Table};
    vec![
        Panel::new(Stat, 6, "none", "Proxies with a bad file", "Proxies whose last load of the configuration failed: they go on with the one before.")
            .query("", "count(quoit_config_last_reload_successful{@} == 0) or vector(0)")
            .from(1.0, "red"),
        Panel::new(Stat, 6, "s", "Age of the configuration", "How long ago the newest configuration in force was loaded.")
            .query("", "time() - max(quoit_config_last_reload_success_timestamp_seconds{@})"),
        Panel::new(Stat, 6, "none", "Configurations", "Different configurations in force. One, unless a change is being rolled out or the proxies are meant to differ.")
            .query("", "count(count_values(\"hash\", quoit_config_hash{@}))"),
        Panel::new(Stat, 6, "none", "Pools with two rings", "Pools whose keys two proxies place differently. Must be 0 once a change is rolled out.")
            .query("", "count(max by (job, pool) (quoit_ring_fingerprint{@}) != min by (job, pool) (quoit_ring_fingerprint{@})) or vector(0)")
            .from(1.0, "red"),
        Panel::new(Line, 8, "none", "Reloads", "Reloads in the last five minutes, by result.")
            .query("{{instance}} {{result}}", "sum by (instance, result) (increase(quoit_config_reloads_total{@}[5m]))"),
        Panel::new(Line, 8, "none", "Topology", "The number of the topology in force on each proxy; each change adds one.")
            .query("{{instance}}", "max by (instance) (quoit_topology_epoch{@})"),
        Panel::new(Table, 8, "none", "Ring of each proxy", "The fingerprint of each pool's ring. Proxies of one fleet must show one value per pool.")
            .query("", "max by (instance, pool) (quoit_ring_fingerprint{@})"),
    ]
}

fn process() -> Vec<Panel> {
    use Look::{Line, Table};
    vec![
        Panel::new(
            Line,
            12,
            "percentunit",
            "Worker utilisation",
            "The part of the time each worker's event loop is busy. Near 1, requests wait for it.",
        )
        .query("{{instance}} {{worker}}", "sum by (instance, worker) (rate(quoit_worker_busy_seconds_total{@}[@]))"),
        Panel::new(
            Line,
            12,
            "ops",
            "Worker sleeps",
            "Times per second a worker ran out of work. Requests per sleep tell how many are served at one go.",
        )
        .query("{{instance}} {{worker}}", "sum by (instance, worker) (rate(quoit_worker_parks_total{@}[@]))"),
        Panel::new(
            Line,
            12,
            "bytes",
            "Buffers",
            "Bytes held by the buffers of each worker, and the limit for all workers of one proxy.",
        )
        .query("{{instance}} {{worker}}", "sum by (instance, worker) (quoit_worker_buffers_bytes{@})")
        .query("limit of one proxy", "max(quoit_buffers_limit_bytes{@})"),
        Panel::new(Line, 12, "bytes", "Memory", "Resident memory of each proxy.")
            .query("{{instance}}", "sum by (instance) (process_resident_memory_bytes{@})"),
        Panel::new(Line, 12, "none", "CPU", "Cores used by each proxy.")
            .query("{{instance}}", "sum by (instance) (rate(process_cpu_seconds_total{@}[@]))"),
        Panel::new(Line, 12, "percentunit", "Open files", "Files and sockets open, as a part of the limit.")
            .query("{{instance}}", "max by (instance) (process_open_fds{@} / process_max_fds{@})"),
        Panel::new(Line, 12, "s", "Uptime", "Time since each proxy started.")
            .query("{{instance}}", "max by (instance) (time() - process_start_time_seconds{@})"),
        Panel::new(Table, 12, "none", "Versions", "The version of quoit that each proxy runs.")
            .query("", "max by (instance, version) (quoit_build_info{@})"),
    ]
}
