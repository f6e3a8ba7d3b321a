//! Applications that were made for one Redis work through three stores: workers that do jobs, sites that keep sessions and
//! caches, locks, rate limiters, each in its newest version and, where nothing else is said, with its defaults.
//!
//! The programs are in `tests/clients/applications`. Each does real work twice over: the first half, then a line that says
//! so, then, when it is told to, the second half. Where keys have three copies they do it once more, and a store is killed
//! between the halves. What is not installed is skipped, and says so.
//!
//! The rows here are the table in `docs/compatibility.md`; `QUOIT_UPDATE=1` writes it anew.

mod redis_rs;
mod table;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use self::table::APPLICATIONS;
use crate::clients::installed;
use crate::support::{Fleet, PATIENCE, eventually, kill_group};

/// How long a program may take: most of it is patience with a machine that has other things to do.
const DEADLINE: Duration = Duration::from_mins(2);

/// What runs a program, and where its packages are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runtime {
    Python,
    Node,
}

/// How a program gets on where keys have one copy on three stores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OneCopy {
    /// Its keys are spread.
    Spread,
    /// It uses keys together that share no tag: those that begin like this are kept together, by `key_regex`.
    Together(&'static str),
}

/// How it gets on where keys have three copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ThreeCopies {
    Works,
    /// It is refused something that it cannot do without: what, and what it says then.
    #[expect(dead_code, reason = "nothing is refused now; the next application may be")]
    Refused {
        because: &'static str,
        words: &'static str,
    },
}

#[derive(Clone, Copy)]
struct Application {
    name: &'static str,
    /// What it or quoit is told that is not a default.
    told: &'static str,
    runtime: Runtime,
    /// The package that has to be there, whose version the table shows.
    package: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// It takes the listener for a Redis Cluster.
    is_cluster: bool,
    one: OneCopy,
    three: ThreeCopies,
}

/// A program that runs, and the processes that it starts.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    errors: mpsc::Receiver<String>,
}

impl Running {
    fn start(application: &Application, port: u16) -> Self {
        let folder = root().join("tests/clients/applications");
        let mut command = match application.runtime {
            Runtime::Python => Command::new(python()),
            Runtime::Node => Command::new("node"),
        };
        let mut child = command
            .arg(folder.join(application.program))
            .arg(port.to_string())
            .args(application.arguments)
            .env("NODE_PATH", node_modules())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("what is installed can be run");
        let (said, lines) = mpsc::channel();
        let output = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(said.send(line)));
        });
        let (complained, errors) = mpsc::channel();
        let mut complaints = child.stderr.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut text = Vec::new();
            drop(complaints.read_to_end(&mut text));
            drop(complained.send(String::from_utf8_lossy(&text).into_owned()));
        });
        Self { child, lines, errors }
    }

    /// The next line that it says, unless it ends before.
    fn line(&self) -> Option<String> {
        self.lines.recv_timeout(DEADLINE).ok()
    }

    fn go_on(&mut self) {
        let mut input = self.child.stdin.take().expect("it is piped");
        input.write_all(b"go on\n").expect("the program reads");
    }

    /// What it wrote to stderr, when it has ended.
    fn complaints(&mut self) -> String {
        kill_group(self.child.id());
        self.errors.recv_timeout(PATIENCE).unwrap_or_else(|_| "it does not end".to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill_group(self.child.id());
        drop(self.child.wait());
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> PathBuf {
    installed("QUOIT_PYTHON", "python/bin/python")
}

fn node_modules() -> PathBuf {
    installed("QUOIT_NODE_MODULES", "node_modules")
}

fn is_installed(application: &Application) -> bool {
    let package = application.package;
    let found = match application.runtime {
        Runtime::Node => node_modules().join(package).exists(),
        Runtime::Python => {
            let look = format!("import importlib.metadata; importlib.metadata.version({package:?})");
            Command::new(python()).args(["-c", &look]).output().is_ok_and(|output| output.status.success())
        }
    };
    if !found {
        eprintln!("skip: {package} is not installed");
    }
    found
}

/// Three stores, and the proxy in front of them when its pool serves.
fn fleet(application: &Application, copies: usize) -> Option<Fleet> {
    let lines = if application.is_cluster { "cluster_emulation = true" } else { "" };
    let fleet = Fleet::start_with(3, |config| match application.one {
        OneCopy::Together(begin) if copies == 1 => config.sharding_key(&format!("key_regex = \"^(){begin}\"")),
        OneCopy::Spread | OneCopy::Together(_) => config.replicas(copies).listener(lines),
    })?;
    let mut client = fleet.client();
    eventually("the pool begins", PATIENCE, || !client.line("GET begun").is_error());
    Some(fleet)
}

/// Runs a program to its end; a store may be killed when half of its work is done.
fn check_works(application: &Application, copies: usize, kills: bool) {
    let Some(mut fleet) = fleet(application, copies) else { return };
    let mut program = Running::start(application, fleet.address().port());
    let mut said = Vec::new();
    while let Some(line) = program.line() {
        if line == "halfway" {
            if kills {
                fleet.stores[0].kill9();
            }
            program.go_on();
        }
        said.push(line);
    }
    let what = format!("{} {:?}, {copies} copies, a store dies: {kills}", application.program, application.arguments);
    assert!(said.last().is_some_and(|line| line == "ok"), "{what}\n{}\n{}", said.join("\n"), program.complaints());
}

/// It is refused what it needs, in these words: when it is not any more, the row is to be changed.
fn check_refused(application: &Application, words: &str) {
    let Some(fleet) = fleet(application, 3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut program = Running::start(application, fleet.address().port());
    let first = program.line();
    let complaints = program.complaints();
    assert!(first.is_none(), "{} works with three copies now: say so in its row", application.program);
    assert!(complaints.contains(words), "{}: {complaints}", application.program);
}

/// One application at a time: each is several processes that have a second of patience with each other here and there, and
/// two cores are soon full.
static TURN: Mutex<()> = Mutex::new(());

/// All that a program does.
fn check(program: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = 0;
    for application in APPLICATIONS.iter().filter(|application| application.program == program) {
        found += 1;
        if !is_installed(application) {
            return;
        }
        check_works(application, 1, false);
        match application.three {
            ThreeCopies::Refused { words, .. } => check_refused(application, words),
            ThreeCopies::Works => {
                check_works(application, 3, false);
                check_works(application, 3, true);
            }
        }
    }
    assert!(found > 0, "a row for {program}");
}

#[test]
fn redis_py() {
    check("redis_py_work.py");
}

#[test]
fn ioredis() {
    check("ioredis_work.cjs");
}

#[test]
fn node_redis() {
    check("node_redis_work.cjs");
}

#[test]
fn celery() {
    check("celery_jobs.py");
}

#[test]
fn rq() {
    check("rq_jobs.py");
}

#[test]
fn bullmq() {
    check("bullmq.cjs");
}

#[test]
fn sidekiq_shaped() {
    check("sidekiq_queue.py");
}

#[test]
fn django() {
    check("django_cache.py");
}

#[test]
fn flask_session() {
    check("flask_sessions.py");
}

#[test]
fn connect_redis() {
    check("connect_redis.cjs");
}

#[test]
fn socket_io() {
    check("socket_io.cjs");
}

#[test]
fn redlock() {
    check("redlock.cjs");
}

#[test]
fn limits() {
    check("rate_limits.py");
}

#[test]
fn rate_limiters() {
    check("rate_limiters.cjs");
}

/// The version of a package that `.ci/run` installs.
fn version_of(application: &Application) -> String {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file of the tests");
    let package = application.package;
    let found = match application.runtime {
        Runtime::Python => {
            let all = read("tests/requirements.txt") + &read("tests/clients/applications/requirements.txt");
            all.lines().find_map(|line| {
                let (name, version) = line.split_once("==")?;
                (name.split('[').next() == Some(package)).then(|| version.to_owned())
            })
        }
        Runtime::Node => read("tests/clients/package.json").lines().find_map(|line| {
            let version = line.trim().strip_prefix(&format!("\"{package}\": \""))?;
            Some(version.trim_end_matches(['"', ',']).to_owned())
        }),
    };
    found.unwrap_or_else(|| panic!("no version of {package}"))
}

/// A row of the table in `docs/compatibility.md`.
fn written(application: &Application) -> String {
    let Application { name, told, .. } = application;
    let one = match application.one {
        OneCopy::Spread => "yes".to_owned(),
        OneCopy::Together(begin) => format!("yes, with `key_regex = \"^(){begin}\"`"),
    };
    let (three, dying) = match application.three {
        ThreeCopies::Works => ("yes", "yes"),
        ThreeCopies::Refused { because, .. } => (because, "–"),
    };
    format!("| {name} | {} | {told} | {one} | {three} | {dying} |\n", version_of(application))
}

#[test]
fn the_table_is_current() {
    let path = root().join("docs/compatibility.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (begin, end) = ("<!-- rows -->\n", "<!-- end of rows -->\n");
    let (head, rest) = page.split_once(begin).expect("a mark");
    let (_, tail) = rest.split_once(end).expect("another mark");
    let heading =
        "| what | version | told | one copy, three stores | three copies | a store dies |\n|---|---|---|---|---|---|\n";
    let rows: String = APPLICATIONS.iter().map(written).chain([redis_rs::written()]).collect();
    let current = format!("{head}{begin}\n{heading}{rows}\n{end}{tail}");
    if std::env::var_os("QUOIT_UPDATE").is_some() {
        std::fs::write(&path, &current).expect("the page can be written");
    }
    assert!(page == current || std::env::var_os("QUOIT_UPDATE").is_some(), "QUOIT_UPDATE=1 writes it anew");
}
