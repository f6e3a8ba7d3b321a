//! The files of `deploy/`, and what they rely on: ports handed over by the service manager, and what it is told.

#![expect(clippy::print_stderr, clippy::disallowed_methods, reason = "skips are seen; processes live in real time")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const QUOIT: &str = env!("CARGO_BIN_EXE_quoit");

/// How long anything that must come may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Whether a program is there to be run.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        skip(&format!("{program} is not installed"));
    }
    found.is_ok()
}

/// Ends with this value, whatever the test made of it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.0.kill().expect("a child that runs can be killed");
            self.0.wait().expect("a killed child ends");
        }
    }
}

impl Process {
    #[track_caller]
    fn ends_well(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.0.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}");
    }
}

fn signal(process: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().expect("sh runs");
    assert!(status.success(), "kill -{name} {process}");
}

/// A port that was free just now.
fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("a bound socket has an address")
}

/// A file for one listener, whose only store is not there.
fn config(directory: &Path, listener: SocketAddr) -> PathBuf {
    let path = directory.join("quoit.toml");
    let text = format!(
        "[proxy]\nworkers = 1\n\n[admin]\nbind = \"off\"\n\n[[listener]]\nbind = \"{listener}\"\npool = \"main\"\n\n\
         [[pool]]\nname = \"main\"\n\n[[pool.node]]\nname = \"a\"\naddress = \"unix:/nowhere/redis.sock\"\n"
    );
    fs::write(&path, text).expect("a temporary file can be written");
    path
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream
}

fn pong(stream: &mut TcpStream) {
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"+PONG\r\n");
}

/// systemd reads the units without a word: its exit code is 0 even where it ignores a line it does not know.
#[test]
fn units_are_understood() {
    if !is_installed("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let service = fs::read_to_string(deployed("quoit.service")).expect("the unit can be read");
    // The program has to be there for the check, and it is not installed.
    let here = service.replace("ExecStart=/usr/bin/quoit ", &format!("ExecStart={QUOIT} "));
    assert_ne!(here, service, "the unit starts /usr/bin/quoit");
    let (unit, socket) = (directory.path().join("quoit.service"), directory.path().join("quoit.socket"));
    fs::write(&unit, here).expect("a temporary file can be written");
    fs::copy(deployed("quoit.socket"), &socket).expect("the unit can be copied");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([&unit, &socket])
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}:\n{said}", output.status);
}

/// The socket unit, its comment says, has the addresses of the listeners: those of the example are checked.
#[test]
fn the_socket_unit_fits_the_example() {
    let unit = fs::read_to_string(deployed("quoit.socket")).expect("the unit can be read");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/quoit.toml");
    let config = quoit::config::load(&example).expect("the example is good");
    let opened: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    let listeners: Vec<String> = config.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(opened, listeners);
    let service = fs::read_to_string(deployed("quoit.service")).expect("the unit can be read");
    let stop = service.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).expect("a time to stop");
    let stop: u64 = stop.parse().expect("seconds");
    assert!(config.proxy.drain_timeout < Duration::from_secs(stop), "the drain must fit into TimeoutStopSec");
}

/// Opens the port, then runs the program twice with it as file descriptor 3, as systemd does (`sd_listen_fds(3)`). Waits
/// for a line before each run, and says the process id and the end of each.
const SOCKET_HOLDER: &str = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for run in range(2):
    sys.stdin.readline()
    child = os.fork()
    if child == 0:
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execv(sys.argv[1], sys.argv[1:])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"#;

/// The port belongs to the service manager: quoit takes it over, and who connects during a restart is served after it.
#[test]
fn a_socket_that_is_handed_over_outlives_a_restart() {
    if !is_installed("python3") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("quoit.toml");
    let mut holder = Process(
        Command::new("python3")
            .args(["-c", SOCKET_HOLDER, QUOIT, "serve", "--config"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs"),
    );
    let mut orders = holder.0.stdin.take().expect("its input is ours");
    let mut said = BufReader::new(holder.0.stdout.take().expect("its output is ours")).lines();
    let mut number = || -> u32 { said.next().expect("a line").expect("text").parse().expect("a number") };
    let port = u16::try_from(number()).expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Nobody else can open the port: serving it means that the socket was taken over.
    assert!(TcpListener::bind(address).is_err());
    config(directory.path(), address);

    // This client is there before quoit is.
    let mut first = connect(address);
    first.write_all(b"PING\r\n").expect("the kernel takes it");
    orders.write_all(b"start\n").expect("the holder reads");
    let process = number();
    pong(&mut first);
    signal(process, "TERM");
    assert_eq!(number(), 0, "quoit ends well");

    let mut second = connect(address);
    second.write_all(b"PING\r\n").expect("the kernel takes it");
    orders.write_all(b"start\n").expect("the holder reads");
    let process = number();
    pong(&mut second);
    signal(process, "TERM");
    assert_eq!(number(), 0, "quoit ends well");
    holder.ends_well();
}

/// What `Type=notify` and `WatchdogSec` wait for (`sd_notify(3)`).
#[test]
fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let notified = directory.path().join("notify");
    let socket = UnixDatagram::bind(&notified).expect("a socket in a temporary directory");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    let address = free_address();
    let mut quoit = Process(
        Command::new(QUOIT)
            .args(["serve", "--config"])
            .arg(config(directory.path(), address))
            .env("NOTIFY_SOCKET", &notified)
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("quoit runs"),
    );
    let told = |wanted: &str| {
        let mut buffer = [0; 256];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("waiting for {wanted}: {error}"));
            if String::from_utf8_lossy(&buffer[..len]).lines().any(|line| line == wanted) {
                return;
            }
        }
        panic!("not told: {wanted}");
    };
    told("READY=1");
    let mut client = connect(address);
    client.write_all(b"PING\r\n").expect("the kernel takes it");
    pong(&mut client);
    for _ in 0..3 {
        told("WATCHDOG=1");
    }
    signal(quoit.0.id(), "TERM");
    told("STOPPING=1");
    quoit.ends_well();
}

/// Whoever reads the log may end, as when journald restarts: the proxy serves on.
#[test]
fn the_end_of_the_log_is_not_the_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let address = free_address();
    let mut quoit = Process(
        Command::new(QUOIT)
            .args(["serve", "--config"])
            .arg(config(directory.path(), address))
            .env_remove("QUOIT_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("quoit runs"),
    );
    let mut log = BufReader::new(quoit.0.stderr.take().expect("its log is ours"));
    let mut line = String::new();
    while !line.contains("serving") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a log") > 0, "quoit ended");
    }
    drop(log);
    for _ in 0..3 {
        // Each logs a line.
        signal(quoit.0.id(), "HUP");
        let mut client = connect(address);
        client.write_all(b"PING\r\n").expect("the kernel takes it");
        pong(&mut client);
    }
    signal(quoit.0.id(), "TERM");
    quoit.ends_well();
}
