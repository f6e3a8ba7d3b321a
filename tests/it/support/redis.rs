//! A real store of one test: a `redis-server` (or another version's) on a port of its own, killed by its process id.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::client::Client;
use super::{PATIENCE, Signal, eventually, free_port, signal};

/// Which server program plays the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `redis-server` from the path: 7.0 on Debian 12.
    Redis,
    /// The program that this environment variable names: other versions, where the check installed them.
    Named(&'static str),
}

impl Program {
    /// Where it is, or `None` when this machine does not have it.
    pub(crate) fn path(self) -> Option<String> {
        match self {
            Self::Redis => Some("redis-server".to_owned()),
            Self::Named(variable) => std::env::var(variable).ok().filter(|path| !path.is_empty()),
        }
        .filter(|path| Command::new(path).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok())
    }
}

/// Arguments of a store that keeps every write it has answered, whatever becomes of its process.
pub(crate) const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Arguments that allow `DEBUG`, which servers before 7.0 always allow.
fn debug_arguments(program: &str) -> &'static [&'static str] {
    let version = Command::new(program).arg("--version").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if text.contains("v=6.") { &[] } else { &["--enable-debug-command", "yes"] }
}

/// A running store.
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    program: String,
    extra: Vec<String>,
    directory: TempDir,
    running: bool,
}

impl RedisServer {
    /// Starts the default store, or prints why not and gives `None`.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(Program::Redis, &[])
    }

    pub(crate) fn start_with(program: Program, extra: &[&str]) -> Option<Self> {
        let Some(path) = program.path() else {
            eprintln!("skip: {program:?} is not installed");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let extra = debug_arguments(&path).iter().chain(extra);
        let extra: Vec<String> = extra.map(|&argument| argument.to_owned()).collect();
        // The port was free a moment ago; somebody may have taken it since, so a few are tried.
        for _ in 0..5 {
            let port = free_port();
            let mut child = launch(&path, port, &extra, &directory);
            if answers(&mut child, port) {
                return Some(Self { child, port, program: path, extra, directory, running: true });
            }
            stop(&mut child);
        }
        panic!("{path} did not start on any of five ports");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Whether it has been started and not killed since.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// SIGSTOP: the kernel still accepts connections and bytes, nobody answers.
    pub(crate) fn pause(&self) {
        signal(self.child.id(), Signal::Stop);
    }

    pub(crate) fn resume(&self) {
        signal(self.child.id(), Signal::Continue);
    }

    /// SIGKILL and wait: its connections are reset, its port refuses.
    pub(crate) fn kill9(&mut self) {
        stop(&mut self.child);
        self.running = false;
    }

    /// Whether it was started with [`DURABLE`].
    pub(crate) fn is_durable(&self) -> bool {
        DURABLE.iter().all(|argument| self.extra.iter().any(|extra| extra == argument))
    }

    /// Starts again on the same port and without its data.
    pub(crate) fn restart_empty(&mut self) {
        stop(&mut self.child);
        for entry in fs::read_dir(self.directory.path()).expect("the directory can be read") {
            let path = entry.expect("an entry").path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
        }
        self.restart();
    }

    /// Starts again on the same port: with its data where it is started with [`DURABLE`], otherwise empty.
    pub(crate) fn restart(&mut self) {
        stop(&mut self.child);
        let port = self.port;
        eventually("the store is back on its port", PATIENCE, || {
            self.child = launch(&self.program, port, &self.extra, &self.directory);
            let up = answers(&mut self.child, port);
            if !up {
                stop(&mut self.child);
            }
            up
        });
        self.running = true;
    }

    /// The clients that are connected to it, one line of `CLIENT LIST` each, without the one that asks.
    pub(crate) fn clients(&self) -> Vec<String> {
        let mut client = self.client();
        let own = client.line("CLIENT ID");
        let Value::Integer(own) = own else { panic!("CLIENT ID gave {own:?}") };
        let own = format!("id={own} ");
        let text = client.line("CLIENT LIST").text();
        text.lines().filter(|line| !line.starts_with(&own)).map(str::to_owned).collect()
    }
}

use super::client::Value;

impl Drop for RedisServer {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

fn launch(program: &str, port: u16, extra: &[String], directory: &TempDir) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--loglevel", "warning", "--tcp-backlog", "128", "--maxclients", "9000"])
        // Rehashing by the clock would make the order of a hash depend on time.
        .args(["--activerehashing", "no"])
        .args(extra)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("start {program}: {error}"))
}

/// Waits until the child itself answers and has its data; false when it ended instead.
fn answers(child: &mut Child, port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let own = format!("process_id:{}\r\n", child.id());
    let mut ended = false;
    eventually("the store answers PING", PATIENCE, || {
        ended = child.try_wait().expect("the child can be asked").is_some();
        ended
            || Client::try_connect(address).is_ok_and(|mut client| {
                // The process id, so that a stranger on this port is not taken for ours.
                client.try_send(b"INFO server\r\n").is_ok()
                    && client.try_receive().is_ok_and(|reply| reply.value.text().contains(&own))
                    // What it has on its disk is not served before it is read.
                    && client.try_send(b"PING\r\n").is_ok()
                    && client.try_receive().is_ok_and(|reply| !reply.value.is_error())
            })
    });
    !ended
}

pub(super) fn stop(child: &mut Child) {
    // Fails only when it has ended already.
    drop(child.kill());
    drop(child.wait());
}
