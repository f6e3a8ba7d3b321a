//! Tools and libraries that go over all keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{check_once, fill};
use crate::support::{Cluster, Fleet, Reach};

/// The output of a program, in lines; nothing where it is not installed.
fn lines(command: &mut Command) -> Option<Vec<String>> {
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
        }
        Err(error) => {
            eprintln!("skip: {} is not installed: {error}", command.get_program().display());
            None
        }
    }
}

fn check(port: u16, all: &[String]) {
    let port = port.to_string();
    let mut cli = Command::new("redis-cli");
    if let Some(found) = lines(cli.args(["-p", &port, "--scan", "--pattern", "cli:*"])) {
        check_once(found, all, "redis-cli --scan");
    }
    let installed = std::env::var_os("QUOIT_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python/bin/python"), PathBuf::from);
    let has_library = |python: &Path| {
        Command::new(python).args(["-c", "import redis"]).output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = [installed, PathBuf::from("python3")].into_iter().find(|python| has_library(python)) else {
        eprintln!("skip: redis-py is not installed");
        return;
    };
    let script = "import sys, redis\n\
                  client = redis.Redis(port=int(sys.argv[1]), decode_responses=True)\n\
                  names = list(client.scan_iter(match='cli:*', count=50))\n\
                  assert sorted(names) == sorted(client.keys('cli:*'))\n\
                  assert client.dbsize() == len(names) and client.randomkey() in names\n\
                  assert sorted(client.scan_iter(_type='string')) == sorted(names)\n\
                  print('\\n'.join(names))";
    let found = lines(Command::new(python).args(["-c", script, &port])).expect("it ran a moment ago");
    check_once(found, all, "scan_iter of redis-py");
}

#[test]
fn tools_go_over_all_keys() {
    let Some(fleet) = Fleet::start(3) else { return };
    let all = fill(&mut fleet.client(), "cli:", 700);
    check(fleet.address().port(), &all);
}

#[test]
fn tools_go_over_all_replicated_keys() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let all = fill(&mut cluster.client(0), "cli:", 700);
    check(cluster.addresses()[0].port(), &all);
}
