//! Client libraries and tools connect with their defaults and work. The scripts are in `tests/clients`; what is not
//! installed is skipped, and says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use redis::AsyncTypedCommands as _;

use crate::support::{Cluster, Fleet, Reach};

/// Where `.ci/run` installs libraries, unless a variable names another place.
pub(crate) fn installed(variable: &str, default: &str) -> PathBuf {
    let place = std::env::var_os(variable).map(PathBuf::from);
    place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(default))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a command; `None`, visibly, when there is no such program.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skip: {} is not installed: {error}", command.get_program().display());
            None
        }
    }
}

#[track_caller]
fn check_ok(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim_end().ends_with("ok"), "{}\n{out}\n{err}", output.status);
}

fn node(library: &str, name: &str) {
    let modules = installed("QUOIT_NODE_MODULES", "node_modules");
    if !modules.join(library).exists() {
        eprintln!("skip: the npm package {library} is not installed");
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    let Some(output) = run(Command::new("node").env("NODE_PATH", modules).arg(script(name)).arg(port)) else { return };
    check_ok(&output);
}

#[test]
fn ioredis() {
    node("ioredis", "ioredis.cjs");
}

#[test]
fn node_redis() {
    node("redis", "node_redis.cjs");
}

/// Where redis-py is installed, if it is.
pub(crate) fn python_with_redis() -> Option<PathBuf> {
    let python = installed("QUOIT_PYTHON", "python/bin/python");
    let has_library = |python: &Path| {
        Command::new(python).args(["-c", "import redis"]).output().is_ok_and(|output| output.status.success())
    };
    let found = [python, PathBuf::from("python3")].into_iter().find(|python| has_library(python));
    if found.is_none() {
        eprintln!("skip: redis-py is not installed");
    }
    found
}

#[test]
fn redis_py() {
    let Some(python) = python_with_redis() else { return };
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    check_ok(&run(Command::new(python).arg(script("redis_py.py")).arg(port)).expect("it ran a moment ago"));
}

/// Workers that wait for tasks, each of which has to be done once.
#[test]
fn redis_py_queue() {
    let Some(python) = python_with_redis() else { return };
    let (Some(fleet), Some(cluster)) = (Fleet::start(3), Cluster::start(3, 1, Reach::Direct)) else { return };
    for address in [fleet.address(), cluster.addresses()[0]] {
        let port = address.port().to_string();
        check_ok(&run(Command::new(&python).arg(script("redis_py_queue.py")).arg(port)).expect("it ran a moment ago"));
    }
}

#[test]
fn redis_cli() {
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    let cli = |arguments: &[&str]| -> Option<String> {
        let output = run(Command::new("redis-cli").args(["-p", &port]).args(arguments))?;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(pong) = cli(&["PING"]) else { return };
    assert_eq!(pong, "PONG\n");
    assert_eq!(cli(&["SET", "cli:greeting", "hello"]).as_deref(), Some("OK\n"));
    assert_eq!(cli(&["GET", "cli:greeting"]).as_deref(), Some("hello\n"));
    assert_eq!(cli(&["-3", "HSET", "cli:hash", "field", "value"]).as_deref(), Some("1\n"));
    assert_eq!(cli(&["-3", "--json", "HGETALL", "cli:hash"]).as_deref(), Some("{\"field\":\"value\"}\n"));
    assert_eq!(cli(&["-2", "HGETALL", "cli:hash"]).as_deref(), Some("field\nvalue\n"));
    assert_eq!(cli(&["-n", "0", "EXISTS", "cli:hash"]).as_deref(), Some("1\n"));
    assert_eq!(cli(&["-r", "3", "INCR", "cli:count"]).as_deref(), Some("1\n2\n3\n"));
    assert!(cli(&["NOSUCHCOMMAND"]).expect("it ran").contains("unknown command"));
}

/// `redis-cli --pipe` sends an RDB-like stream of requests and counts the answers.
#[test]
fn redis_cli_pipe() {
    use std::io::Write as _;
    use std::process::Stdio;
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port, "--pipe"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skip: redis-cli is not installed");
        return;
    };
    let mut input = child.stdin.take().expect("it is piped");
    for number in 0..20_000 {
        let request = crate::support::encode(&["SET".to_owned(), format!("pipe:{number}"), number.to_string()]);
        input.write_all(&request).expect("redis-cli reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("redis-cli ends");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("errors: 0, replies: 20000"), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fleet.client().line("GET pipe:19999").text(), "19999");
}

#[test]
fn redis_benchmark() {
    let Some(fleet) = Fleet::start(3) else { return };
    let port = fleet.address().port().to_string();
    for extra in [&["-P", "1"], &["-P", "32"]] {
        let tests =
            ["-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,mset", "-n", "2000", "-r", "1000", "-c", "20", "--csv"];
        let Some(output) = run(Command::new("redis-benchmark").args(["-p", &port]).args(tests).args(*extra)) else {
            return;
        };
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        assert_eq!(
            out.lines().filter(|line| line.starts_with('"')).count(),
            10,
            "a header and nine tests\n{out}\n{err}"
        );
        assert!(!err.contains("Error") && !err.contains("ERR"), "{err}");
    }
}

#[test]
fn redis_rs() {
    let Some(fleet) = Fleet::start(3) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for protocol in ["", "?protocol=resp3"] {
            let url = format!("redis://{}/{protocol}", fleet.address());
            let client = redis::Client::open(url).expect("a URL");
            let mut connection = client.get_multiplexed_async_connection().await.expect("it connects");
            connection.set("rs:greeting", "hello").await.expect("SET");
            assert_eq!(connection.get("rs:greeting").await.expect("GET").as_deref(), Some("hello"));
            let pairs: Vec<(String, String)> =
                (0..100).map(|number| (format!("rs:{number}"), number.to_string())).collect();
            connection.mset(&pairs).await.expect("MSET");
            let (keys, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let got = connection.mget(&keys).await.expect("MGET");
            assert_eq!(got, values.into_iter().map(Some).collect::<Vec<_>>());
            let mut pipeline = redis::pipe();
            for number in 0..200 {
                pipeline.cmd("SET").arg(format!("rs:p:{number}")).arg(number).ignore();
                pipeline.cmd("GET").arg(format!("rs:p:{number}"));
            }
            let got: Vec<u32> = pipeline.query_async(&mut connection).await.expect("a pipeline");
            assert_eq!(got, (0..200).collect::<Vec<_>>());
            assert_eq!(connection.del(&keys).await.expect("DEL"), 100);
            let error = redis::cmd("NOSUCHCOMMAND").exec_async(&mut connection).await.expect_err("an unknown command");
            assert!(error.to_string().contains("unknown command"), "{error}");
            connection.set("rs:greeting", "again").await.expect("the connection lives");
        }
    });
}
