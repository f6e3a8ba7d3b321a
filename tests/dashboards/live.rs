//! Every query on a real Prometheus that scrapes a quoit under load in front of three real stores.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Program, connect, free_port, http, query};
use super::{board, file, metrics_in, queries, rule_expressions, text};

const DEADLINE: Duration = Duration::from_secs(90);
/// What Grafana makes of `$__rate_interval` when the scrape interval is one second: four of them, and the step.
const RATE_INTERVAL: &str = "5s";

/// Tries until it gives something, or the deadline ends the test with what was missing.
#[expect(clippy::disallowed_methods, reason = "polls other processes: there is nothing to wait on but time")]
fn poll<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(missing) => assert!(begun.elapsed() < DEADLINE, "{what}: {missing}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start_redis(directory: &Path, port: u16) -> std::io::Result<Program> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let program = Program::start(&mut command, directory, &format!("redis-{port}"))?;
    poll("redis-server", || exchange(port, b"PING\r\n", b"+PONG\r\n").map_err(|error| error.to_string()));
    Ok(program)
}

/// A proxy with one listener for a pool with one copy of each key, and one for a pool with three. Three stores for each. A
/// third listener shows a certificate.
fn start_quoit(directory: &Path, ports: [u16; 2], admin_port: u16, store_ports: &[u16]) -> Program {
    let [port, replicated_port] = ports;
    let mut config = format!(
        "[proxy]\nworkers = 2\n[admin]\nbind = \"127.0.0.1:{admin_port}\"\n[[listener]]\nbind = \"127.0.0.1:{port}\"\n\
         protocol = \"redis\"\npool = \"main\"\n[[pool]]\nname = \"main\"\nprotocol = \"redis\"\nreplicas = 1\n\
         [pool.ring]\nplacement = \"ketama\"\nhash_tag = \"{{}}\"\n"
    );
    let replicated = format!(
        "[[listener]]\nbind = \"127.0.0.1:{replicated_port}\"\npool = \"kept\"\n[[pool]]\nname = \"kept\"\nreplicas = 3\n"
    );
    for (at, (node, store_port)) in ["a", "b", "c", "d", "e", "f"].iter().zip(store_ports).enumerate() {
        if at == 3 {
            config.push_str(&replicated);
        }
        write!(config, "[[pool.node]]\nname = \"{node}\"\naddress = \"127.0.0.1:{store_port}\"\n").unwrap();
    }
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("tls.crt"), certified.cert.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), certified.signing_key.serialize_pem()).unwrap();
    write!(
        config,
        "[[listener]]\nbind = \"127.0.0.1:{}\"\npool = \"main\"\ntls = {{ cert_file = \"tls.crt\", key_file = \"tls.key\" }}\n",
        free_port()
    )
    .unwrap();
    std::fs::write(directory.join("quoit.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoit"));
    command.args(["serve", "--config", "quoit.toml"]);
    let mut program = Program::start(&mut command, directory, "quoit").unwrap();
    poll("quoit", || {
        assert!(program.runs(), "quoit ended");
        match http(admin_port, "GET", "/readyz") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    program
}

fn start_prometheus(directory: &Path, port: u16, admin_port: u16) -> std::io::Result<Program> {
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n\
         - {{job_name: quoit, static_configs: [{{targets: [\"127.0.0.1:{admin_port}\"]}}]}}\n",
        file("dashboards/alerts.yml")
    );
    std::fs::write(directory.join("prometheus.yml"), config)?;
    let mut command = Command::new("prometheus");
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"]);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let program = Program::start(&mut command, directory, "prometheus")?;
    poll("prometheus", || {
        query(port, "up == 1").and_then(|up| if up.is_empty() { Err("no scrape".into()) } else { Ok(()) })
    });
    Ok(program)
}

/// Sends a request and reads as many bytes as its replies have.
fn exchange(port: u16, request: &[u8], replies: &[u8]) -> std::io::Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(request)?;
    let mut read = vec![0; replies.len()];
    stream.read_exact(&mut read)?;
    if read == replies { Ok(()) } else { Err(std::io::Error::other(String::from_utf8_lossy(&read).into_owned())) }
}

/// Requests of every class, over all nodes, good ones and bad ones, until `ended`.
#[expect(clippy::disallowed_methods, reason = "a load of a bounded rate, on a machine that others use too")]
fn load(port: u16, ended: &AtomicBool) {
    let mut stream = connect(port).unwrap();
    let mut round = 0_u32;
    while !ended.load(Relaxed) {
        let mut request = String::new();
        for key in 0..20 {
            write!(request, "SET key:{key} {round}\r\nGET key:{key}\r\nLPUSH key:{key} x\r\n").unwrap();
        }
        // The one reply that ends so tells that all have come.
        let last = format!("end of round {round}");
        write!(request, "MGET key:1 key:2 key:3\r\nNOSUCHVERB\r\nPING \"{last}\"\r\n").unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut replies, mut piece) = (Vec::new(), [0; 4096]);
        while !replies.ends_with(format!("{last}\r\n").as_bytes()) {
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "quoit closed the connection");
            replies.extend_from_slice(&piece[..count]);
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The query gives at least one number, and its series have the labels that the legend shows.
fn check(prometheus_port: u16, expression: &str, legend: &str) -> Result<(), String> {
    let expression =
        expression.replace("$__rate_interval", RATE_INTERVAL).replace("$job", "quoit").replace("$instance", ".+");
    let series = query(prometheus_port, &expression)?;
    let is_number = |one: &Value| one["value"][1].as_str().is_some_and(|value| value != "NaN");
    if !series.iter().any(is_number) {
        return Err(format!("no data: {expression}"));
    }
    for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
        if series.iter().any(|one| one["metric"][label].is_null()) {
            return Err(format!("no label {label}: {expression}"));
        }
    }
    Ok(())
}

fn check_all(admin_port: u16, prometheus_port: u16) {
    let (status, said) = http(admin_port, "POST", "/reload").unwrap();
    assert_eq!(status, 200, "{said}");
    let board = board::board();
    for (title, expression, legend) in queries(&board) {
        poll(title, || check(prometheus_port, expression, legend));
    }
    // An alert's own expression gives nothing while all is well. Its metrics must be there, and the rules must run.
    let rules = text("dashboards/alerts.yml");
    for name in metrics_in(&rule_expressions(&rules)) {
        poll(name, || check(prometheus_port, &format!("{{__name__=~\"{name}(_bucket)?\"}}"), ""));
    }
    poll("recording rules", || check(prometheus_port, "job:quoit_requests:rate5m > 0", ""));
    let healthy = || -> Result<(), String> {
        let (_, body) = http(prometheus_port, "GET", "/api/v1/rules").map_err(|error| error.to_string())?;
        let unwell = body.matches("\"health\":\"").count() - body.matches("\"health\":\"ok\"").count();
        if unwell == 0 && body.contains("\"health\"") { Ok(()) } else { Err(body) }
    };
    poll("rules", healthy);
}

#[test]
fn every_query_returns_data() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let store_ports: [u16; 6] = std::array::from_fn(|_| free_port());
    let stores: Result<Vec<_>, _> = store_ports.iter().map(|&port| start_redis(directory, port)).collect();
    if let Err(error) = &stores {
        eprintln!("skipped: redis-server does not start: {error}");
        return;
    }
    let (ports, admin_port, prometheus_port) = ([free_port(), free_port()], free_port(), free_port());
    let _quoit = start_quoit(directory, ports, admin_port, &store_ports);
    let _prometheus = match start_prometheus(directory, prometheus_port, admin_port) {
        Ok(prometheus) => prometheus,
        Err(error) => {
            eprintln!("skipped: prometheus does not start: {error}");
            return;
        }
    };
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for port in ports {
            let ended = &ended;
            scope.spawn(move || load(port, ended));
        }
        // Ends the load whether the checks hold or panic: the scope waits for it.
        let end = EndOnDrop(&ended);
        check_all(admin_port, prometheus_port);
        drop(end);
    });
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
