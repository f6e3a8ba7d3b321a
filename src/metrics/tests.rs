use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

fn page(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render().unwrap()).unwrap()
}

/// The value of one series, written as on the page.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    page(metrics).lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Metrics with at least one series of every family.
fn fed() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    metrics.worker(0).watch_runtime(runtime.metrics());
    metrics.listener("redis");
    metrics.replication("main").set_members([("a", true)].into_iter());
    let node =
        NodeFacts { name: "a".into(), address: "127.0.0.1:6379".into(), weight: 1, share: 1.0, ..NodeFacts::default() };
    let pool = PoolFacts { name: "main".into(), fingerprint: u64::MAX, nodes: vec![node] };
    let topology = TopologyFacts { epoch: 1, pools: vec![pool] };
    metrics.process().config_started(LoadedConfig {
        at: Duration::from_secs(9),
        hash: 7,
        certificates: vec![CertificateFacts { side: "listener", name: "redis".into(), expires: 1_000 }],
        topology,
        ..LoadedConfig::default()
    });
    metrics
}

#[test]
fn the_page_holds_every_name_and_no_other() {
    let metrics = fed();
    let _node = metrics.node("main", "a");
    let page = page(&metrics);
    let mut typed: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    typed.retain(|name| !name.starts_with("process_"));
    let mut known: Vec<&str> = names::ALL.iter().map(|family| family.name).collect();
    known.sort_unstable();
    assert_eq!(typed, known);
}

#[test]
fn a_store_votes_if_all_workers_say_so() {
    let metrics = Metrics::new();
    let workers = [metrics.replication("main"), metrics.replication("main")];
    for (cells, votes) in workers.iter().zip([true, false]) {
        cells.reads_in_one_round.add(2);
        cells.repairs_waiting.add(1);
        cells.set_members([("a", true), ("b", votes)].into_iter());
    }
    workers[0].clock_skew_ms.set(1_500);
    let expect = |series: &str, want: Option<f64>| assert_eq!(value(&metrics, series), want, "{series}");
    expect(r#"quoit_replication_reads_total{pool="main",rounds="one"}"#, Some(4.0));
    expect(r#"quoit_replication_repairs_waiting{pool="main"}"#, Some(2.0));
    expect(r#"quoit_replication_members{pool="main",node="a"}"#, Some(1.0));
    expect(r#"quoit_replication_members{pool="main",node="b"}"#, Some(0.0));
    expect("quoit_replication_clock_skew_seconds", Some(1.5));
    for cells in &workers {
        cells.retire();
    }
    expect(r#"quoit_replication_reads_total{pool="main",rounds="one"}"#, Some(4.0));
    expect(r#"quoit_replication_members{pool="main",node="a"}"#, None);
    expect("quoit_replication_clock_skew_seconds", Some(0.0));
}

#[test]
fn cells_of_one_listener_are_summed_over_its_workers() {
    let metrics = Metrics::new();
    let workers = [metrics.listener("redis"), metrics.listener("redis")];
    let verb = Verb::new(3, Class::Read);
    metrics.listener("other").verb(verb).requests(Outcome::Ok).add(100);
    for cells in &workers {
        cells.verb(verb).requests(Outcome::Ok).add(3);
        cells.verb(verb).duration.observe(Duration::from_micros(100));
        cells.clients_open.set(2);
    }
    let expect = |series: &str, want: f64| assert_eq!(value(&metrics, series), Some(want), "{series}");
    expect(r#"quoit_requests_total{listener="redis",class="read",outcome="ok"}"#, 6.0);
    expect(r#"quoit_requests_total{listener="redis",class="write",outcome="ok"}"#, 0.0);
    expect(r#"quoit_clients_open{listener="redis"}"#, 4.0);
    expect(r#"quoit_request_duration_seconds_count{listener="redis",class="read"}"#, 2.0);
    expect(r#"quoit_request_duration_seconds_bucket{listener="redis",class="read",le="0.000096"}"#, 0.0);
    expect(r#"quoit_request_duration_seconds_bucket{listener="redis",class="read",le="0.000128"}"#, 2.0);
    expect(r#"quoit_request_duration_seconds_bucket{listener="redis",class="read",le="+Inf"}"#, 2.0);
}

#[test]
fn the_counts_of_an_ended_handle_stay_until_the_node_is_gone() {
    const REQUESTS: &str = r#"quoit_node_requests_total{pool="main",node="a"}"#;
    const IN_FLIGHT: &str = r#"quoit_node_in_flight_requests{pool="main",node="a"}"#;
    let metrics = Metrics::new();
    let (first, second) = (metrics.node("main", "a"), metrics.node("main", "a"));
    for cells in [&first, &second] {
        cells.requests.add(10);
        cells.in_flight.set(1);
        cells.failures(FailureKind::Broken).increment();
        cells.service_duration.observe(Duration::from_millis(1));
    }
    assert_eq!((value(&metrics, REQUESTS), value(&metrics, IN_FLIGHT)), (Some(20.0), Some(2.0)));
    drop(first);
    assert_eq!((value(&metrics, REQUESTS), value(&metrics, IN_FLIGHT)), (Some(20.0), Some(1.0)));
    let third = metrics.node("main", "a");
    third.requests.add(1);
    drop(second);
    assert_eq!((value(&metrics, REQUESTS), value(&metrics, IN_FLIGHT)), (Some(21.0), Some(0.0)));
    assert_eq!(value(&metrics, r#"quoit_node_failures_total{pool="main",node="a",kind="broken"}"#), Some(2.0));
    assert_eq!(value(&metrics, r#"quoit_node_service_duration_seconds_count{pool="main",node="a"}"#), Some(2.0));
    drop(third);
    assert_eq!(value(&metrics, REQUESTS), None);
    let again = metrics.node("main", "a");
    assert_eq!(value(&metrics, REQUESTS), Some(0.0));
    drop(again);
}

#[test]
fn a_counter_never_goes_backwards_while_handles_come_and_go() {
    const REQUESTS: &str = r#"quoit_node_requests_total{pool="main",node="a"}"#;
    let metrics = Metrics::new();
    let kept = metrics.node("main", "a");
    let reloads = std::thread::spawn({
        let metrics = Arc::clone(&metrics);
        move || (0..2_000).for_each(|_| metrics.node("main", "a").requests.add(1))
    });
    let mut last = 0.0;
    while !reloads.is_finished() {
        let now = value(&metrics, REQUESTS).unwrap();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    reloads.join().unwrap();
    assert_eq!(value(&metrics, REQUESTS), Some(2_000.0));
    drop(kept);
}

#[test]
fn reloads_and_the_topology() {
    let metrics = fed();
    let expect = |series: &str, want: f64| assert_eq!(value(&metrics, series), Some(want), "{series}");
    expect("quoit_config_last_reload_successful", 1.0);
    expect(r#"quoit_config_reloads_total{result="ok"}"#, 0.0);
    expect(r#"quoit_ring_fingerprint{pool="main"}"#, 281_474_976_710_655.0);
    metrics.process().reload_failed();
    expect("quoit_config_last_reload_successful", 0.0);
    expect("quoit_config_hash", 7.0);
    metrics.process().reload_succeeded(LoadedConfig { hash: 8, ..LoadedConfig::default() });
    expect("quoit_config_last_reload_successful", 1.0);
    expect("quoit_config_hash", 8.0);
    expect(r#"quoit_config_reloads_total{result="failed"}"#, 1.0);
    assert_eq!(value(&metrics, r#"quoit_ring_fingerprint{pool="main"}"#), None, "the pool is gone");
}

#[test]
fn a_worker_shows_how_busy_its_runtime_is() {
    let metrics = Metrics::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    metrics.worker(3).watch_runtime(runtime.metrics());
    runtime.block_on(async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(value(&metrics, r#"quoit_worker_busy_seconds_total{worker="3"}"#).unwrap() > 0.0);
    assert!(value(&metrics, r#"quoit_worker_parks_total{worker="3"}"#).unwrap() >= 10.0);
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new();
    metrics.listener("a\"b\\c\nd");
    assert!(page(&metrics).contains(r#"quoit_clients_open{listener="a\"b\\c\nd"} 0"#));
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn promtool_finds_no_fault() {
    let metrics = fed();
    let _node = metrics.node("main", "a");
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped: promtool does not start: {error}");
            return;
        }
    };
    promtool.stdin.take().unwrap().write_all(page(&metrics).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
