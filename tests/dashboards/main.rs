//! The board and the alert rules hold: their file is current, every name in them is one that quoit exports, every query
//! runs on a real Prometheus and returns data, and every alert fires and stays quiet as its test says.
//!
//! `QUOIT_UPDATE=1` writes `dashboards/quoit.json` anew.

#![cfg(test)]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod board;
mod live;
mod process;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use quoit::metrics::names;
use serde_json::Value;

/// What the board may use of the process collector of the `prometheus` crate, which `names` does not list.
const PROCESS_NAMES: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The panels that draw something.
fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// Every query of the board, with the title of its panel and its legend.
fn queries(board: &Value) -> Vec<(&str, &str, &str)> {
    let of_panel = |panel| {
        let panel: &Value = panel;
        let targets = panel["targets"].as_array().unwrap().iter();
        targets.map(|target| {
            let (title, legend) = (panel["title"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            (title, target["expr"].as_str().unwrap(), legend)
        })
    };
    panels(board).flat_map(of_panel).collect()
}

/// The metrics that a query or a rules file names, without the suffixes of a histogram's series.
fn metrics_in(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = words.filter(|word| word.starts_with("quoit_") || word.starts_with("process_"));
    ours.map(|word| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        family.unwrap_or(word)
    })
    .collect()
}

/// The expressions of the rules file: what follows `expr:`, on the line or folded below it.
fn rule_expressions(rules: &str) -> String {
    let mut expressions = String::new();
    let mut inside = false;
    for line in rules.lines() {
        let line = line.trim();
        inside = line.starts_with("expr:") || (inside && !line.starts_with("for:") && !line.starts_with("- "));
        if inside {
            expressions.push_str(line);
            expressions.push('\n');
        }
    }
    expressions
}

#[test]
fn the_board_in_the_file_is_current() {
    let written = format!("{:#}\n", board::board());
    if std::env::var_os("QUOIT_UPDATE").is_some() {
        std::fs::write(file("dashboards/quoit.json"), &written).unwrap();
    }
    assert!(text("dashboards/quoit.json") == written, "run: QUOIT_UPDATE=1 cargo test --test dashboards");
}

#[test]
fn every_panel_is_complete() {
    let board = board::board();
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        let kind = panel["type"].as_str().unwrap();
        assert!(["timeseries", "stat", "bargauge", "table", "text", "row"].contains(&kind), "{title}: {kind}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title}: too far right");
    }
    for panel in panels(&board) {
        let title = panel["title"].as_str().unwrap();
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}: no description");
        assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{title}: no unit");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}: no query");
    }
    for (title, query, _) in queries(&board) {
        let selectors = query.matches("quoit_").count() + query.matches("process_").count();
        let filters = query.matches(r#"{job=~"$job",instance=~"$instance""#).count();
        assert_eq!(selectors, filters, "{title}: each metric is filtered by job and instance: {query}");
        assert!(!query.contains("rate(") || query.contains("[$__rate_interval]"), "{title}: {query}");
    }
}

#[test]
fn every_name_is_known_and_every_metric_is_used() {
    let board = board::board();
    let rules = text("dashboards/alerts.yml");
    let expressions = rule_expressions(&rules);
    let known: BTreeSet<&str> = names::ALL.iter().map(|family| family.name).chain(PROCESS_NAMES).collect();
    let mut used = BTreeSet::new();
    let all = queries(&board).into_iter().map(|(title, query, _)| (title, query)).chain([("alerts", &*expressions)]);
    for (place, query) in all {
        for name in metrics_in(query) {
            assert!(known.contains(name), "{place}: {name} is not exported");
            used.insert(name);
        }
    }
    let unused: Vec<_> = names::ALL.iter().map(|family| family.name).filter(|name| !used.contains(name)).collect();
    assert!(unused.is_empty(), "neither on the board nor in an alert: {unused:?}");
}

#[test]
fn every_alert_is_complete_and_tested() {
    let rules = text("dashboards/alerts.yml");
    let readme = text("dashboards/README.md");
    let tests = text("tests/data/dashboards/alerts_test.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for key in ["expr: ", "for: ", "severity: ", "summary: "] {
            assert!(alert.contains(key), "{name} has no {key}");
        }
        let anchor = format!("/blob/main/dashboards/README.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&anchor), "{name}: its runbook_url does not end in {anchor}");
        assert!(readme.contains(&format!("\n### {name}\n")), "{name} is not explained");
        let cases: Vec<&str> = tests.split("- alertname: ").filter(|case| case.lines().next() == Some(name)).collect();
        assert!(cases.iter().any(|case| case.contains("exp_labels")), "{name}: no test fires it");
        assert!(cases.iter().any(|case| case.contains("exp_alerts: []")), "{name}: no test keeps it quiet");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let rules = ["check", "rules", "dashboards/alerts.yml"];
    let tests = ["test", "rules", "tests/data/dashboards/alerts_test.yml"];
    for arguments in [rules, tests] {
        let ran = Command::new("promtool").args(arguments).current_dir(file("")).output();
        let output = match ran {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: promtool does not start: {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}
