//! `INFO`, `CONFIG GET`, `CONFIG RESETSTAT`: what the proxy is and does, in the words of Redis where they fit.
//!
//! Figures are true or left out. Nothing is said of the stores: `QUOIT NODE name INFO` asks them, `DBSIZE` counts keys.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::counts::{self, Baseline};
use super::session::Session;
use crate::clock::Moment;
use crate::command::{Args, reply};

use crate::config::{Bind, Listener};
use crate::metrics::Traffic;
use crate::topology::View;

/// The server version that clients are told, so that they use what quoit has: the one its command table is taken from
/// first. `INFO` has quoit's own version beside it.
pub(super) const COMPATIBLE_VERSION: &str = "7.0.15";
/// Ticks of the processor times in `/proc`: `USER_HZ` is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;
/// How many samples make the requests of a second, and how far apart they are, as in Redis.
const SAMPLES: usize = 16;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What `INFO` remembers of the traffic.
#[derive(Debug, Default)]
pub struct Figures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// At the last `CONFIG RESETSTAT`.
    baseline: Traffic,
    counts: Baseline,
    sampled: Option<(Moment, Traffic)>,
    rates: [Traffic; SAMPLES],
    next: usize,
}

impl Figures {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows what was counted of each verb at the last `CONFIG RESETSTAT`.
    pub(super) fn with_counts<T>(&self, work: impl FnOnce(&Baseline) -> T) -> T {
        self.with(|state| work(&state.counts))
    }

    /// Takes a sample, if it is time. One worker does, and `now` is its clock.
    pub(super) fn sample(&self, now: Moment, traffic: impl FnOnce() -> Traffic) {
        self.with(|state| {
            let Some((at, before)) = state.sampled else {
                state.sampled = Some((now, traffic()));
                return;
            };
            let span = now.since(at);
            if span < SAMPLE_EVERY {
                return;
            }
            let traffic = traffic();
            let more = traffic.since(before);
            let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
            let in_a_second = |count: u64| count.saturating_mul(1_000_000) / micros;
            let rate = Traffic {
                requests: in_a_second(more.requests),
                received_bytes: in_a_second(more.received_bytes),
                sent_bytes: in_a_second(more.sent_bytes),
                ..Traffic::default()
            };
            let next = state.next;
            if let Some(place) = state.rates.get_mut(next) {
                *place = rate;
            }
            state.next = (next + 1) % SAMPLES;
            state.sampled = Some((now, traffic));
        });
    }

    fn rate(&self, of: impl Fn(&Traffic) -> u64) -> u64 {
        self.with(|state| state.rates.iter().map(of).sum::<u64>() / SAMPLES as u64)
    }
}

/// Which sections are asked for.
struct Wanted {
    names: Vec<String>,
    /// What is shown unless something is asked for.
    default: bool,
    all: bool,
}

impl Wanted {
    fn of(args: &Args<'_>) -> Self {
        let names: Vec<String> =
            args.iter().skip(1).map(|section| String::from_utf8_lossy(section).to_ascii_lowercase()).collect();
        let default = names.is_empty() || names.iter().any(|name| name == "default");
        let all = names.iter().any(|name| matches!(name.as_str(), "all" | "everything"));
        Self { names, default, all }
    }

    fn has(&self, name: &str) -> bool {
        self.all
            || (self.default && !matches!(name, "commandstats" | "latencystats"))
            || self.names.iter().any(|wanted| wanted == name)
    }
}

/// A section: what it is called in a request, its title, its lines.
type Section = (&'static str, &'static str, fn(&Session, &View, &Listener) -> String);

/// In the order of Redis, and quoit's own at the end. Each is made only if it is asked for.
const SECTIONS: [Section; 14] = [
    ("server", "Server", server),
    ("clients", "Clients", clients),
    ("memory", "Memory", memory),
    ("persistence", "Persistence", persistence),
    ("stats", "Stats", stats),
    ("replication", "Replication", replication),
    ("cpu", "CPU", cpu),
    ("modules", "Modules", |_, _, _| String::new()),
    ("commandstats", "Commandstats", |session, _, _| counts::commands(session)),
    ("errorstats", "Errorstats", |session, _, _| counts::errors(session)),
    ("latencystats", "Latencystats", |session, _, _| counts::latencies(session)),
    ("cluster", "Cluster", |_, _, listener| format!("cluster_enabled:{}\r\n", u8::from(listener.cluster_emulation))),
    // How many keys there are only the stores know: DBSIZE asks them.
    ("keyspace", "Keyspace", |_, _, _| String::new()),
    ("quoit", "Quoit", own),
];

/// `INFO [section …]`.
pub(super) fn info(session: &Session, view: &View, listener: &Listener, args: &Args<'_>) -> String {
    let wanted = Wanted::of(args);
    let mut text = String::new();
    for (name, title, lines) in SECTIONS {
        if wanted.has(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.extend(["# ", title, "\r\n", &lines(session, view, listener)]);
        }
    }
    text
}

fn server(session: &Session, _: &View, listener: &Listener) -> String {
    let fleet = &session.worker.fleet;
    let uptime = fleet.started.elapsed().unwrap_or_default().as_secs();
    #[expect(clippy::disallowed_methods, reason = "INFO tells the time of day")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(
        "redis_version:{COMPATIBLE_VERSION}\r\nredis_mode:{}\r\nos:{}\r\narch_bits:{}\r\nprocess_id:{}\r\n\
         run_id:{:040x}\r\ntcp_port:{}\r\nserver_time_usec:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
        mode(listener),
        std::env::consts::OS,
        usize::BITS,
        std::process::id(),
        fleet.run_id,
        session.local().or(listener.bind.tcp()).map_or(0, |address| address.port()),
        now.as_micros(),
        uptime / 86_400,
    )
}

/// What `HELLO` and `INFO` call this listener.
pub(super) fn mode(listener: &Listener) -> &'static str {
    if listener.cluster_emulation { "cluster" } else { "standalone" }
}

fn clients(session: &Session, view: &View, _: &Listener) -> String {
    let fleet = &session.worker.fleet;
    let clients: u64 = fleet.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum();
    format!(
        "connected_clients:{clients}\r\ncluster_connections:0\r\nmaxclients:{}\r\nblocked_clients:{}\r\n\
         tracking_clients:{}\r\n",
        view.topology.config.proxy.clients_max,
        fleet.signs.blocked(),
        session.worker.metrics.traffic().tracking_clients,
    )
}

/// A figure of `/proc/self/status`, in bytes; nothing where there is no such file.
fn process_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn memory(_: &Session, view: &View, _: &Listener) -> String {
    let mut text = String::new();
    let used = process_bytes("VmRSS");
    let peak = process_bytes("VmHWM");
    let fields = [("used_memory", used), ("used_memory_rss", used), ("used_memory_peak", peak)];
    for (name, bytes) in fields {
        if let Some(bytes) = bytes {
            let _infallible = write!(text, "{name}:{bytes}\r\n{name}_human:{}\r\n", human(bytes));
        }
    }
    let most = view.topology.config.proxy.memory_bytes_max;
    let _infallible = write!(
        text,
        "maxmemory:{most}\r\nmaxmemory_human:{}\r\nmaxmemory_policy:noeviction\r\nmem_allocator:mimalloc\r\n",
        human(most)
    );
    text
}

/// Bytes as Redis shows them to people: `1.50M`.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.2}{}", units.get(unit).unwrap_or(&""))
}

fn persistence(_: &Session, _: &View, _: &Listener) -> String {
    "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\n"
        .to_owned()
}

fn stats(session: &Session, _: &View, _: &Listener) -> String {
    let figures = &session.worker.fleet.figures;
    let traffic = session.worker.metrics.traffic().since(figures.with(|state| state.baseline));
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let text = [
        ("total_connections_received", traffic.clients_accepted.to_string()),
        ("total_commands_processed", traffic.requests.to_string()),
        ("instantaneous_ops_per_sec", figures.rate(|rate| rate.requests).to_string()),
        ("total_net_input_bytes", traffic.received_bytes.to_string()),
        ("total_net_output_bytes", traffic.sent_bytes.to_string()),
        ("instantaneous_input_kbps", format!("{:.2}", kib(figures.rate(|rate| rate.received_bytes)))),
        ("instantaneous_output_kbps", format!("{:.2}", kib(figures.rate(|rate| rate.sent_bytes)))),
        ("rejected_connections", traffic.clients_rejected.to_string()),
        ("total_error_replies", traffic.errors.to_string()),
        ("client_output_buffer_limit_disconnections", traffic.output_limit_kills.to_string()),
    ];
    text.iter().flat_map(|(name, value)| [*name, ":", value.as_str(), "\r\n"]).collect()
}

fn replication(session: &Session, _: &View, _: &Listener) -> String {
    format!(
        "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:{:040x}\r\n\
         master_repl_offset:0\r\n",
        session.worker.fleet.run_id
    )
}

/// Times of the process, from the fields 14 and 15 of `/proc/self/stat` (manual page proc(5)).
fn cpu(_: &Session, _: &View, _: &Listener) -> String {
    let times = || -> Option<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the process may hold anything but ends in the last parenthesis.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<f64>().ok();
        Some((next()? / TICKS_PER_SECOND, next()? / TICKS_PER_SECOND))
    };
    times()
        .map_or_else(String::new, |(user, system)| format!("used_cpu_sys:{system:.6}\r\nused_cpu_user:{user:.6}\r\n"))
}

fn own(session: &Session, view: &View, _: &Listener) -> String {
    let topology = &view.topology;
    let mut text = format!(
        "quoit_version:{}\r\nworkers:{}\r\ntopology_epoch:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        session.worker.fleet.workers.len(),
        topology.epoch,
    );
    for pool in &topology.pools {
        let fingerprint = pool.ring.fingerprint();
        text.extend([format!("pool_{}:nodes={},ring={fingerprint:016x}\r\n", pool.name, pool.nodes.len())]);
    }
    text
}

/// `CONFIG RESETSTAT`: `INFO` counts from here. `/metrics` does not: its counters never go back.
pub(super) fn reset_stats(session: &Session, out: &mut Vec<u8>) {
    let traffic = session.worker.metrics.traffic();
    let counts = Baseline::of(&session.worker.metrics);
    session.worker.fleet.figures.with(|state| (state.baseline, state.counts) = (traffic, counts));
    reply::ok(out);
}

/// `CONFIG GET` of what exists here or what clients ask at start (redis-benchmark: `save`, `appendonly`).
pub(super) fn settings(session: &Session, listener: &Listener) -> [(&'static str, String); 17] {
    let view = session.worker.view();
    let topology = &view.topology;
    let proxy = &topology.config.proxy;
    let output = listener.client_output_bytes_max;
    let address = listener.bind.tcp();
    let [(event, event_ms), (slow, slow_us), (entries, entries_max)] = session.worker.fleet.tuned.values(topology);
    [
        ("appendonly", "no".to_owned()),
        ("bind", address.map_or_else(String::new, |address| address.ip().to_string())),
        ("client-output-buffer-limit", format!("normal {output} 0 0 slave 0 0 0 pubsub {output} 0 0")),
        ("client-query-buffer-limit", listener.query_buffer_bytes_max.to_string()),
        ("cluster-enabled", if listener.cluster_emulation { "yes" } else { "no" }.to_owned()),
        ("databases", view.databases(listener).to_string()),
        ("io-threads", proxy.workers.to_string()),
        (event, event_ms.to_string()),
        ("maxclients", proxy.clients_max.to_string()),
        ("maxmemory", proxy.memory_bytes_max.to_string()),
        ("port", address.map_or(0, |address| address.port()).to_string()),
        ("proto-max-bulk-len", listener.request_bytes_max.to_string()),
        ("save", String::new()),
        (slow, slow_us.to_string()),
        (entries, entries_max.to_string()),
        ("timeout", listener.idle_timeout.map_or(0, |timeout| timeout.as_secs()).to_string()),
        ("unixsocket", if let Bind::Unix(path) = &listener.bind { path.display().to_string() } else { String::new() }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, want) in [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1_572_864, "1.50M"), (1 << 50, "1024.00T")]
        {
            assert_eq!(human(bytes), want);
        }
    }

    #[test]
    fn rates_are_of_a_second() {
        let figures = Figures::default();
        let mut now = Moment::default();
        for step in 0..=SAMPLES as u64 {
            figures.sample(now, || Traffic { requests: step * 50, ..Traffic::default() });
            now = now.after(SAMPLE_EVERY);
        }
        assert_eq!(figures.rate(|rate| rate.requests), 500);
    }
}
