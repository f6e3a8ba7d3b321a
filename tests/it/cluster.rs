//! `cluster_emulation`: clients made for Redis Cluster connect, are told that the proxy is the cluster, and work.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Client, Fleet, PATIENCE, RedisServer, Value, eventually};

/// A cluster of one real server with all slots.
fn real_cluster() -> Option<RedisServer> {
    let server = RedisServer::start_with(
        crate::support::Program::Redis,
        &["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"],
    )?;
    let mut client = server.client();
    assert_eq!(client.line("CLUSTER ADDSLOTSRANGE 0 16383").text(), "OK");
    eventually("the cluster is up", PATIENCE, || client.line("CLUSTER INFO").text().contains("cluster_state:ok"));
    Some(server)
}

fn emulated(nodes: usize) -> Option<Fleet> {
    Fleet::start_with(nodes, |config| config.listener("cluster_emulation = true"))
}

/// The bytes with what differs from one node to another taken out: its id, its ports, epochs.
fn masked(client: &mut Client, line: &str) -> String {
    let id = client.line("CLUSTER MYID").text();
    let port = client.peer_address().port();
    let reply = client.command_raw(&line.split_whitespace().collect::<Vec<_>>());
    let text = String::from_utf8(reply.raw).expect("text");
    // A cluster that was just made counts its first epoch differently, and knows no addresses until it has met others.
    text.replace(&id, "ID")
        .replace(&format!("@{}", port + 10_000), "@BUS")
        .replace(&port.to_string(), "PORT")
        .replace(" 0 0 0 connected", " 0 0 1 connected")
}

#[test]
fn the_replies_of_a_cluster_of_one() {
    let (Some(fleet), Some(real)) = (emulated(3), real_cluster()) else { return };
    let mut faults = Vec::new();
    for protocol in ["HELLO 2", "HELLO 3"] {
        let (mut ours, mut theirs) = (fleet.client(), real.client());
        ours.line(protocol);
        theirs.line(protocol);
        for line in [
            "CLUSTER SLOTS",
            "CLUSTER SHARDS",
            "CLUSTER KEYSLOT foo",
            "CLUSTER KEYSLOT {user}.name",
            "CLUSTER KEYSLOT a{}b",
            "CLUSTER KEYSLOT {{x}}",
            "CLUSTER KEYSLOT }{a}",
            "CLUSTER KEYSLOT",
            "CLUSTER LINKS",
            "CLUSTER REPLICAS nosuch",
            "CLUSTER COUNT-FAILURE-REPORTS nosuch",
            "CLUSTER NOSUCH",
            "READONLY",
            "READWRITE",
            "ASKING",
            "SELECT 0",
            "SELECT 1",
            "CONFIG GET cluster-enabled",
            "INFO cluster",
        ] {
            let (ours, theirs) = (masked(&mut ours, line), masked(&mut theirs, line));
            if ours != theirs {
                faults.push(format!("{line} after {protocol}: wanted {theirs:?}, got {ours:?}"));
            }
        }
        let names = |text: String| -> Vec<String> {
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
        };
        let ours_info = names(ours.line("CLUSTER INFO").text());
        let theirs_info = names(theirs.line("CLUSTER INFO").text());
        assert_eq!(ours_info, theirs_info);
        let columns = |text: String| text.trim_end().split(' ').map(str::len).collect::<Vec<_>>().len();
        assert_eq!(columns(ours.line("CLUSTER NODES").text()), columns(theirs.line("CLUSTER NODES").text()));
        assert!(ours.line("CLUSTER NODES").text().contains(" myself,master - 0 0 "));
        let hello = |client: &mut Client| {
            let reply = client.line("HELLO");
            let at = reply.items().iter().position(|item| item.text() == "mode").expect("a mode");
            reply.items()[at + 1].text()
        };
        assert_eq!(hello(&mut ours), hello(&mut theirs));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let mut client = fleet.client();
    let own = client.line("CLUSTER MYID").text();
    assert_eq!(own.len(), 40);
    assert_eq!(client.line(&format!("CLUSTER REPLICAS {own}")).items(), []);
    assert_eq!(client.line(&format!("CLUSTER COUNT-FAILURE-REPORTS {own}")), Value::Integer(0));
    for line in ["CLUSTER ADDSLOTS 1", "CLUSTER COUNTKEYSINSLOT 1", "CLUSTER FAILOVER", "CLUSTER RESET"] {
        let reply = client.line(line);
        assert!(reply.is_error() && reply.text().contains("emulated"), "{line}: {reply:?}");
    }
}

#[test]
fn another_address_is_announced() {
    let announce = "cluster_emulation = true\ncluster_announce = \"redis.example:7000\"";
    let Some(fleet) = Fleet::start_with(1, |config| config.listener(announce)) else { return };
    let mut client = fleet.client();
    let slots = client.line("CLUSTER SLOTS");
    let node = slots.items()[0].items()[2].items();
    assert_eq!((node[0].text(), node[1].clone()), ("redis.example".to_owned(), Value::Integer(7000)));
    assert!(client.line("CLUSTER NODES").text().contains(" redis.example:7000@17000 myself"));
    let off = Fleet::start(1).expect("there were stores a moment ago");
    assert_eq!(off.client().line("CLUSTER SLOTS").text(), "ERR This instance has cluster support disabled");
}

/// Keys that must be together share a `hash_tag`, as ever; a slot alone does not put them together.
#[test]
fn keys_are_placed_by_the_ring() {
    let Some(fleet) = emulated(3) else { return };
    let mut client = fleet.client();
    for number in 0..100 {
        let key = format!("key:{number}");
        assert_eq!(client.line(&format!("SET {key} {number}")).text(), "OK", "no MOVED");
        assert_eq!(client.line(&format!("RENAME {key} {{{key}}}:moved")).text(), "OK");
    }
    assert_eq!(client.line("DBSIZE"), Value::Integer(100));
    assert!(
        client.line("RENAME {key:1}:moved elsewhere").text().starts_with("CROSSSLOT") || {
            // One in three that they are on one node by chance; then another is not.
            client.line("RENAME {key:2}:moved else:where").text().starts_with("CROSSSLOT")
                || client.line("RENAME {key:3}:moved somewhere").text().starts_with("CROSSSLOT")
                || client.line("SINTER a b c d e f g h").text().starts_with("CROSSSLOT")
        }
    );
}

// --- client libraries -----------------------------------------------------------------------------------------------

fn installed(variable: &str, default: &str) -> PathBuf {
    let place = std::env::var_os(variable).map(PathBuf::from);
    place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(default))
}

/// Runs a script of `tests/clients` against an emulated cluster.
#[track_caller]
fn run(program: &Path, environment: Option<(&str, PathBuf)>, script: &str) {
    let Some(fleet) = emulated(3) else { return };
    let mut command = Command::new(program);
    command.envs(environment);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    let output = match command.arg(fleet.address().port().to_string()).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skip: {} is not installed: {error}", program.display());
            return;
        }
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim_end().ends_with("ok"), "{}\n{out}\n{err}", output.status);
}

#[test]
fn redis_py() {
    let python = installed("QUOIT_PYTHON", "python/bin/python");
    let has_library = |python: &Path| {
        Command::new(python).args(["-c", "import redis"]).output().is_ok_and(|output| output.status.success())
    };
    match [python, PathBuf::from("python3")].into_iter().find(|python| has_library(python)) {
        Some(python) => run(&python, None, "redis_py_cluster.py"),
        None => eprintln!("skip: redis-py is not installed"),
    }
}

#[test]
fn node() {
    let modules = installed("QUOIT_NODE_MODULES", "node_modules");
    for (library, script) in [("ioredis", "ioredis_cluster.cjs"), ("redis", "node_redis_cluster.cjs")] {
        if modules.join(library).exists() {
            run(Path::new("node"), Some(("NODE_PATH", modules.clone())), script);
        } else {
            eprintln!("skip: the npm package {library} is not installed");
        }
    }
}

#[test]
fn redis_cli() {
    let Some(fleet) = emulated(3) else { return };
    let port = fleet.address().port().to_string();
    for (words, want) in
        [(["-c", "SET", "cli:cluster", "yes"].as_slice(), "OK\n"), (&["-c", "GET", "cli:cluster"], "yes\n")]
    {
        match Command::new("redis-cli").args(["-p", &port]).args(words).output() {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), want, "{output:?}"),
            Err(error) => eprintln!("skip: redis-cli is not installed: {error}"),
        }
    }
}
