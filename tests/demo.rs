//! `quoit demo` as a newcomer meets it: what its banner shows works when it is pasted, and Ctrl-C leaves nothing behind.

#![expect(clippy::print_stderr, clippy::disallowed_methods, reason = "skips are seen; processes live in real time")]
#![expect(clippy::indexing_slicing, reason = "a test")]

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const QUOIT: &str = env!("CARGO_BIN_EXE_quoit");

/// How long anything that must come may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether a program is there to be run.
fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One test at a time: all demos like the same ports, and one that ends would be mistaken for one that begins.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running demo in a folder of its own.
struct Demo {
    child: Child,
    folder: TempDir,
    banner: String,
}

impl Demo {
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), arguments)
    }

    /// Starts a demo and waits until it has shown the whole banner.
    #[track_caller]
    fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let output = folder.path().join("output");
        let child = Command::new(QUOIT)
            .args(["demo", "--dir"])
            .arg(folder.path())
            .args(arguments)
            .env_remove("QUOIT_LOG")
            .stdin(Stdio::null())
            .stdout(File::create(&output).expect("a temporary file"))
            .stderr(File::create(folder.path().join("log")).expect("a temporary file"))
            .spawn()
            .expect("quoit runs");
        let mut demo = Self { child, folder, banner: String::new() };
        demo.banner = eventually("the banner", || {
            assert!(demo.child.try_wait().expect("a child can be asked").is_none(), "the demo ended: {}", demo.log());
            let shown = fs::read_to_string(&output).expect("the output can be read");
            shown.contains("Ctrl-C").then_some(shown)
        });
        demo
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("the folder is there").join("quoit.toml")
    }

    /// The lines of the banner that are to be pasted, and hold `word`.
    fn lines(&self, word: &str) -> Vec<&str> {
        self.banner.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.contains(word)).collect()
    }

    /// Every port in the file, of stores outside the ring, too.
    fn addresses(&self) -> Vec<SocketAddr> {
        let text = fs::read_to_string(self.file()).expect("the file can be read");
        let quoted = text.split('"').filter(|part| part.starts_with("127.0.0.1:"));
        quoted.map(|address| address.parse().expect("an address")).collect()
    }

    /// The names of the nodes that `/ring` shows.
    fn ring(&self) -> Vec<String> {
        let shown: serde_json::Value =
            serde_json::from_str(&pasted(self.lines("/ring")[0])).expect("the ring is shown as JSON");
        let nodes = shown["pools"][0]["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Ctrl-C, as a terminal sends it, then its end.
    #[track_caller]
    fn interrupt(&mut self) -> ExitStatus {
        run(&format!("kill -INT {}", self.child.id()));
        eventually("the demo ends", || self.child.try_wait().expect("a child can be asked"))
    }

    /// Ctrl-C leaves no port open and no child running.
    #[track_caller]
    fn interrupt_leaves_nothing(&mut self) {
        let addresses = self.addresses();
        assert!(addresses.iter().all(|address| TcpStream::connect(address).is_ok()), "all listen: {addresses:?}");
        let children = children(self.child.id());
        let status = self.interrupt();
        assert!(status.success(), "{status}: {}", self.log());
        assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()), "none listens: {addresses:?}");
        let left: Vec<&u32> = children.iter().filter(|child| is_running(**child)).collect();
        assert!(left.is_empty(), "children are left: {left:?}");
        assert!(!self.log().contains("ERROR"), "{}", self.log());
        assert!(!self.log().contains("WARN"), "{}", self.log());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // Orderly, so that it takes its children along.
            run(&format!("kill -TERM {}", self.child.id()));
            let deadline = Instant::now() + PATIENCE;
            while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(line: &str) -> Output {
    Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output().expect("bash runs")
}

/// What a line of the banner prints.
#[track_caller]
fn pasted(line: &str) -> String {
    let output = run(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The processes whose parent this one is.
fn children(parent: u32) -> Vec<u32> {
    let status = |process: &Path| fs::read_to_string(process.join("status")).unwrap_or_default();
    let processes = fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    processes
        .filter(|entry| status(&entry.path()).lines().any(|line| line == format!("PPid:\t{parent}")))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

fn is_running(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[test]
fn the_banner_can_be_pasted() {
    let _alone = alone();
    let mut demo = Demo::start(&[]);
    assert_eq!(demo.addresses().len(), 6, "proxy, admin and four stores");
    assert!(demo.banner.contains("4 stores, 3 of them in the ring"), "{}", demo.banner);

    if is_installed("redis-cli") {
        assert_eq!(pasted(demo.lines(" SET ")[0]), "OK\n");
        assert_eq!(pasted(demo.lines("redis-cli")[1]), "hello\n");
        let first = pasted(demo.lines(" KEYS ")[0]);
        assert!(["\n", "greeting\n"].contains(&first.as_str()), "{first:?}");
    } else {
        skip("redis-cli is not installed");
    }
    if is_installed("nc") {
        assert_eq!(pasted(demo.lines("| nc")[0]), "+OK\r\n$5\r\nhello\r\n+OK\r\n");
    } else {
        skip("nc is not installed");
        pasted(&demo.lines("/dev/tcp")[0].replace("GET greeting", "SET greeting hello"));
    }
    assert_eq!(pasted(demo.lines("/dev/tcp")[0]), "$5\r\nhello\r\n+OK\r\n");
    assert!(pasted(demo.lines("route")[0]).contains("node-"), "the node of a key");
    assert!(pasted(demo.lines("/metrics")[0]).contains("quoit_"), "metrics");

    assert_eq!(demo.ring(), ["node-1", "node-2", "node-3"]);
    pasted(demo.lines("sed ")[0]);
    assert!(pasted(demo.lines(" plan ")[0]).contains("node-4"), "what would move to the fourth node");
    pasted(demo.lines("cp ")[0]);
    eventually("four nodes are in the ring", || (demo.ring().len() == 4).then_some(()));
    demo.interrupt_leaves_nothing();
}

/// The file is the user's from its first edit on: a second demo in the same folder takes it as it is.
#[test]
fn an_edited_file_is_used_again() {
    let _alone = alone();
    let mut demo = Demo::start(&["--nodes", "2"]);
    let addresses = demo.addresses();
    assert_eq!(demo.ring(), ["node-1"]);
    demo.interrupt_leaves_nothing();

    let edited = fs::read_to_string(demo.file()).expect("the file stays").replace("\n#[", "\n[").replace("\n#n", "\nn");
    let edited = edited.replace("\n#a", "\na").replace("node-2", "mine");
    fs::write(demo.file(), &edited).expect("the file can be edited");
    let folder = std::mem::replace(&mut demo.folder, tempfile::tempdir().expect("a temporary directory"));
    let folder_path = folder.path().to_owned();

    let refused = Command::new(QUOIT).args(["demo", "--nodes", "5", "--dir"]).arg(&folder_path).output();
    let refused = refused.expect("quoit runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"));

    let mut again = Demo::start_in(folder, &[]);
    assert_eq!(again.ring(), ["node-1", "mine"]);
    assert_eq!(again.addresses(), addresses);
    assert_eq!(fs::read_to_string(again.file()).expect("the file stays"), edited);
    again.interrupt_leaves_nothing();
}

#[test]
fn real_servers_take_the_place_of_built_in_stores() {
    let _alone = alone();
    if !is_installed("redis-server") && !is_installed("valkey-server") {
        skip("neither redis-server nor valkey-server is installed");
        return;
    }
    let mut demo = Demo::start(&["--real", "--nodes", "3"]);
    assert_eq!(children(demo.child.id()).len(), 3, "{}", demo.log());
    let bash = demo.lines("/dev/tcp")[0].replace("GET greeting", "SET greeting hello");
    assert_eq!(pasted(&bash), "+OK\r\n+OK\r\n");
    demo.interrupt_leaves_nothing();
}

#[test]
fn without_a_real_server_the_way_out_is_shown() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(QUOIT)
        .args(["demo", "--real", "--dir"])
        .arg(folder.path())
        .env("PATH", folder.path())
        .output()
        .expect("quoit runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("neither redis-server nor valkey-server is in PATH"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder stays").count(), 0, "nothing is left");
}

/// Runs its arguments on a terminal of their own, closes that once the banner is there, and says how they ended.
const TERMINAL: &str = r#"
import os, pty, signal, sys
child, terminal = pty.fork()
def give_up(*_):
    os.kill(child, signal.SIGTERM)
signal.signal(signal.SIGALRM, give_up)
signal.alarm(30)
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
while b"serving" not in shown:
    shown += os.read(terminal, 4096)
os.close(terminal)
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(ended if signal.alarm(0) else "only when it was told to")
"#;

/// A window that is closed takes the demo and its servers along, though a service takes the same signal for a reload.
#[test]
fn a_closed_terminal_ends_it() {
    if !is_installed("python3") {
        skip("python3 is not installed");
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let real: &[&str] = if is_installed("redis-server") { &["--real"] } else { &[] };
    let output = Command::new("python3")
        .args(["-c", TERMINAL, QUOIT, "demo", "--dir"])
        .arg(folder.path())
        .args(real)
        .output()
        .expect("python3 runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(folder.path().join("quoit.toml")).expect("the file stays");
    for address in text.split('"').filter(|part| part.starts_with("127.0.0.1:")) {
        assert!(TcpStream::connect(address).is_err(), "somebody listens on {address}");
    }
}
