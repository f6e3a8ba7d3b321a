//! The proxy under test: the built binary, serving a file in a directory of its own.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use super::client::Client;
use super::redis::stop;
use super::{PATIENCE, Signal, eventually, free_port, process_bytes, signal};

/// What a test's `quoit.toml` says. Ports of the proxy itself are filled in when it starts.
#[derive(Clone, Debug)]
pub(crate) struct QuoitConfig {
    pub(crate) workers: usize,
    /// On how many nodes of the pool each key is.
    pub(crate) replicas: usize,
    /// Name and address of each node.
    pub(crate) nodes: Vec<(String, String)>,
    /// What of a key gives it its node: a line of `[pool.ring]`.
    pub(crate) sharding_key: String,
    /// Lines of the `[[pool]]` table, such as `service_timeout_ms = 500`.
    pub(crate) pool: String,
    /// Lines of the `[[listener]]` table.
    pub(crate) listener: String,
    /// Lines of every `[[pool.node]]` table.
    pub(crate) node: String,
    /// Lines of the `[proxy]` table.
    pub(crate) proxy: String,
    /// Whole tables after `[pool.ring]`, such as `[pool.breaker]`.
    pub(crate) tables: String,
    /// What the process finds in its environment beside what the test has in its own.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl QuoitConfig {
    pub(crate) fn new<N: Into<String>, A: ToString>(nodes: impl IntoIterator<Item = (N, A)>) -> Self {
        Self {
            workers: 2,
            replicas: 1,
            nodes: nodes.into_iter().map(|(name, address)| (name.into(), address.to_string())).collect(),
            sharding_key: "hash_tag = \"{}\"".to_owned(),
            pool: String::new(),
            listener: String::new(),
            node: String::new(),
            proxy: String::new(),
            tables: String::new(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    pub(crate) fn sharding_key(mut self, line: &str) -> Self {
        line.clone_into(&mut self.sharding_key);
        self
    }

    pub(crate) fn environment(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub(crate) fn pool(mut self, lines: &str) -> Self {
        self.pool.push_str(lines);
        self.pool.push('\n');
        self
    }

    pub(crate) fn listener(mut self, lines: &str) -> Self {
        self.listener.push_str(lines);
        self.listener.push('\n');
        self
    }

    pub(crate) fn node(mut self, lines: &str) -> Self {
        self.node.push_str(lines);
        self.node.push('\n');
        self
    }

    pub(crate) fn proxy(mut self, lines: &str) -> Self {
        self.proxy.push_str(lines);
        self.proxy.push('\n');
        self
    }

    pub(crate) fn tables(mut self, lines: &str) -> Self {
        self.tables.push_str(lines);
        self.tables.push('\n');
        self
    }

    /// The file as it stands on the disk.
    pub(crate) fn text(&self, listener_port: u16, admin_port: u16) -> String {
        let Self { workers, replicas, nodes, sharding_key, pool, listener, node, proxy, tables, environment: _ } = self;
        let mut text = format!(
            "[proxy]\nworkers = {workers}\n{proxy}\n[admin]\nbind = \"127.0.0.1:{admin_port}\"\n\n\
             [[listener]]\nbind = \"127.0.0.1:{listener_port}\"\nprotocol = \"redis\"\npool = \"main\"\n{listener}\n\
             [[pool]]\nname = \"main\"\nprotocol = \"redis\"\nreplicas = {replicas}\n{pool}\n\
             [pool.ring]\nplacement = \"ketama\"\n{sharding_key}\n\n{tables}\n"
        );
        for (name, address) in nodes {
            writeln!(text, "[[pool.node]]\nname = \"{name}\"\naddress = \"{address}\"\n{node}")
                .expect("a string grows");
        }
        text
    }
}

/// An answer of the admin port.
#[derive(Clone, Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A running proxy.
pub(crate) struct Quoit {
    child: Child,
    directory: TempDir,
    listener: SocketAddr,
    admin: SocketAddr,
    environment: Vec<(&'static str, String)>,
}

impl Quoit {
    /// Starts the proxy and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(config: &QuoitConfig) -> Self {
        Self::launch(config, Self::write_plainly, &|binary| Command::new(binary))
    }

    /// The same, with the file laid out in its directory by the test: links, for one.
    #[track_caller]
    pub(crate) fn start_laid_out(config: &QuoitConfig, lay_out: impl Fn(&Path, &str)) -> Self {
        Self::launch(config, lay_out, &|binary| Command::new(binary))
    }

    /// The same, with the command that runs the binary in the test's hands: limits, namespaces.
    #[track_caller]
    pub(crate) fn start_by(config: &QuoitConfig, command: impl Fn(&str) -> Command) -> Self {
        Self::launch(config, Self::write_plainly, &command)
    }

    fn write_plainly(directory: &Path, text: &str) {
        fs::write(directory.join("quoit.toml"), text).expect("the file can be written");
    }

    #[track_caller]
    fn launch(config: &QuoitConfig, lay_out: impl Fn(&Path, &str), command: &dyn Fn(&str) -> Command) -> Self {
        // Ports were free a moment ago; somebody may have taken one since, so a few pairs are tried.
        for _ in 0..3 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let (listener_port, admin_port) = (free_port(), free_port());
            lay_out(directory.path(), &config.text(listener_port, admin_port));
            let mut command = command(env!("CARGO_BIN_EXE_quoit"));
            command.envs(config.environment.iter().map(|(name, value)| (name, value)));
            let child = spawn(&mut command, directory.path());
            let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
            let environment = config.environment.clone();
            let (listener, admin) = (loopback(listener_port), loopback(admin_port));
            let mut quoit = Self { child, directory, listener, admin, environment };
            if quoit.becomes_ready() {
                return quoit;
            }
            let log = quoit.log();
            assert!(log.contains("in use"), "quoit ended before it was ready:\n{log}");
        }
        panic!("quoit found its ports taken three times");
    }

    /// SIGKILL and wait: what it was doing is left as it is.
    pub(crate) fn kill9(&mut self) {
        stop(&mut self.child);
    }

    /// Starts again with the same file and the same ports, after `kill9` or an end of its own.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        stop(&mut self.child);
        eventually("quoit is back on its ports", PATIENCE, || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_quoit"));
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            self.child = spawn(&mut command, self.directory.path());
            let ready = self.becomes_ready();
            let log = self.log();
            assert!(ready || log.contains("in use"), "quoit ended before it was ready:\n{log}");
            ready
        });
    }

    fn becomes_ready(&mut self) -> bool {
        let mut ended = false;
        let log = self.directory.path().join("log");
        let what = format!("quoit is ready (its log is {})", log.display());
        eventually(&what, PATIENCE, || {
            ended = self.child.try_wait().expect("the child can be asked").is_some();
            ended || self.try_admin("GET", "/readyz").is_ok_and(|reply| reply.status == 200)
        });
        !ended
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.listener)
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Memory of the process that is in RAM now.
    pub(crate) fn rss_bytes(&self) -> u64 {
        process_bytes(self.child.id(), "VmRSS:")
    }

    /// The most it ever had in RAM.
    pub(crate) fn peak_rss_bytes(&self) -> u64 {
        process_bytes(self.child.id(), "VmHWM:")
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join("quoit.toml")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file that `config` stands for with this proxy's own ports.
    pub(crate) fn text_of(&self, config: &QuoitConfig) -> String {
        config.text(self.listener.port(), self.admin.port())
    }

    /// Puts a new file in the place of the old one, as an editor does: written aside, then renamed over.
    pub(crate) fn write_config(&self, text: &str) {
        let aside = self.directory.path().join("quoit.toml.new");
        fs::write(&aside, text).expect("the file can be written");
        fs::rename(&aside, self.config_path()).expect("the file can be renamed");
    }

    pub(crate) fn signal(&self, name: Signal) {
        signal(self.child.id(), name);
    }

    /// SIGTERM, then the exit status.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::Terminate);
        self.wait()
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("quoit ends", PATIENCE, || {
            status = self.child.try_wait().expect("the child can be asked");
            status.is_some()
        });
        status.expect("it ended")
    }

    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str) -> HttpReply {
        self.try_admin(method, path).unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    fn try_admin(&self, method: &str, path: &str) -> io::Result<HttpReply> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let host = self.admin;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        Ok(HttpReply { status: status.ok_or(io::ErrorKind::InvalidData)?, body: body.to_owned() })
    }

    /// The samples of one metric: the text of its labels, and the value.
    pub(crate) fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let page = self.admin("GET", "/metrics").body;
        page.lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (labels, value) = rest.rsplit_once(' ')?;
                (labels.is_empty() || labels.starts_with('{'))
                    .then(|| (labels.to_owned(), value.parse().expect("a sample is a number")))
            })
            .collect()
    }

    /// The sum of all samples of one metric; a missing metric fails the test.
    #[track_caller]
    pub(crate) fn metric_sum(&self, name: &str) -> f64 {
        let samples = self.metric(name);
        assert!(!samples.is_empty(), "no metric {name}");
        samples.iter().map(|(_, value)| value).sum()
    }
}

/// The log goes on where an earlier process of the same directory ended.
fn spawn(command: &mut Command, directory: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("the log can be written");
    command
        .args(["serve", "--config"])
        .arg(directory.join("quoit.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("quoit starts")
}

impl Drop for Quoit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the last lines of quoit's log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        stop(&mut self.child);
    }
}
