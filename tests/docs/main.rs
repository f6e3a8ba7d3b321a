//! The README and `docs/` held against the program: what they show to paste is run, what they quote is compared, what
//! is generated is generated again.
//!
//! A ```` ```sh ```` block of the tour is run as it stands (but on free ports, and by the program under test), in order.
//! A ```` ```text ```` block says what it prints: each line is found in one line of the output, `…` standing for anything.
//! A ```` ```toml ```` block is a configuration. `QUOIT_UPDATE=1` writes `docs/commands.md` anew.

#![expect(
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test with its own clock"
)]

mod commands;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quoit::backend::Cause;
use quoit::command::reply;

const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The part of a page under one heading.
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no `{heading}`"));
    rest.split("\n## ").next().unwrap()
}

/// A fenced block: its language and its text.
#[derive(Debug)]
struct Block<'p> {
    language: &'p str,
    text: &'p str,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let fenced = page.split("\n```").collect::<Vec<_>>();
    assert!(fenced.len() % 2 == 1, "a block is not closed");
    let inside = fenced.chunks(2).filter_map(|pair| pair.get(1));
    inside.map(|block| block.split_once('\n').map(|(language, text)| Block { language, text }).unwrap()).collect()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether each expected line is found within one line of the output.
fn shows(output: &str, expected: &str) -> Result<(), String> {
    let fits = |line: &str, wanted: &str| {
        let mut rest = line;
        wanted.split('…').all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    match expected.lines().find(|wanted| !output.lines().any(|line| fits(line, wanted))) {
        Some(missing) => Err(format!("no line has `{missing}` in:\n{output}")),
        None => Ok(()),
    }
}

/// The demo of the tour. It ends with its handle.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the tour needs: a folder of its own, and ports that nobody else uses.
struct Tour {
    directory: tempfile::TempDir,
    port: u16,
    admin: u16,
}

impl Tour {
    /// The commands with this tour's program and ports in the place of those that people use.
    fn adapted(&self, commands: &str) -> String {
        let quoit = env!("CARGO_BIN_EXE_quoit");
        commands
            .replace("cargo run --release --", quoit)
            .replace("$PWD/target/release", Path::new(quoit).parent().unwrap().to_str().unwrap())
            .replace("6380", &self.port.to_string())
            .replace("9380", &self.admin.to_string())
    }

    fn start(&self, commands: &str) -> Demo {
        let line = format!("exec {} --port {} --admin-port {}", self.adapted(commands.trim()), self.port, self.admin);
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).current_dir(self.directory.path());
        let demo = Demo(shell.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(start.elapsed() < PATIENCE, "the demo does not start: {log}");
            std::thread::sleep(PAUSE);
        }
        demo
    }

    /// Runs a block until it shows what it should: a reload may take a moment. `environment` is what earlier blocks set.
    #[track_caller]
    fn check(&self, environment: &str, commands: &str, expected: &str) {
        let start = Instant::now();
        loop {
            let script = format!("set -e\n{environment}\n{}", self.adapted(commands));
            let output =
                Command::new("bash").args(["-c", &script]).current_dir(self.directory.path()).output().unwrap();
            let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let verdict = if output.status.success() { shows(&shown, expected) } else { Err(errors.into_owned()) };
            match verdict {
                Ok(()) => return,
                Err(why) => assert!(start.elapsed() < PATIENCE, "{commands}\n{why}"),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Runs what a section shows to paste, in order. How many blocks that were.
#[track_caller]
fn walk(heading: &str) -> usize {
    let page = readme();
    let blocks = blocks(section(&page, heading));
    let tour = Tour { directory: tempfile::tempdir().unwrap(), port: free_port(), admin: free_port() };
    let (start, rest) = blocks.split_first().unwrap();
    let _demo = tour.start(start.text);
    let mut environment = String::new();
    let mut ran = 0;
    for (at, block) in rest.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let expected = rest.get(at + 1).filter(|next| next.language == "text").map_or("", |next| next.text);
        tour.check(&environment, block.text, expected);
        for line in block.text.lines().filter(|line| line.starts_with("export ")) {
            writeln!(environment, "{}", tour.adapted(line)).unwrap();
        }
        ran += 1;
    }
    ran
}

fn can_walk() -> bool {
    let missing = ["bash", "redis-cli", "curl"].into_iter().find(|program| !is_installed(program));
    if let Some(program) = missing {
        eprintln!("skip: {program} is not installed, so what the README shows was not run");
    }
    missing.is_none()
}

/// The parts of the README that are run as they stand.
const WALKS: [&str; 2] = ["Five minutes", "Keep three copies"];

#[test]
fn the_tour_works_as_it_stands() {
    if can_walk() {
        assert!(4 < walk(WALKS[0]), "the tour has lost its steps");
    }
}

#[test]
fn three_copies_are_kept_as_it_stands() {
    if can_walk() {
        assert!(2 < walk(WALKS[1]), "the section has lost its steps");
    }
}

#[test]
fn configurations_are_right() {
    let other = |page: &str| fs::read_to_string(root().join("docs").join(page)).unwrap();
    let page = readme() + &other("replication.md") + &other("compatibility.md");
    let found: Vec<_> = blocks(&page).into_iter().filter(|block| block.language == "toml").collect();
    assert!(3 <= found.len(), "each page shows a configuration");
    for block in found {
        quoit::config::check_text("README.md", block.text).unwrap_or_else(|faults| panic!("{faults}"));
    }
}

/// Outside the tour: each command is one that exists, with arguments that it takes.
#[test]
fn other_commands_exist() {
    let page = readme();
    let others = WALKS.iter().fold(page.clone(), |rest, heading| rest.replace(section(&page, heading), ""));
    let directory = tempfile::tempdir().unwrap();
    let configuration = blocks(&page).into_iter().find(|block| block.language == "toml").unwrap().text.to_owned();
    let written = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    written("quoit.toml", &configuration);
    written("nutcracker.yml", &fs::read_to_string(root().join("config/twemproxy.yml")).unwrap());
    for block in blocks(&others).iter().filter(|block| block.language == "sh") {
        for line in block.text.lines() {
            let command = line.split('#').next().unwrap().trim();
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["quoit", "serve", ..] | ["cargo", "run" | "test", ..] => {
                    eprintln!("skip: `{command}` is run by others");
                }
                ["quoit", arguments @ ..] => {
                    let arguments: Vec<_> = arguments.iter().take_while(|word| **word != ">").collect();
                    let quoit = Command::new(env!("CARGO_BIN_EXE_quoit"))
                        .args(arguments)
                        .current_dir(directory.path())
                        .output()
                        .unwrap();
                    assert!(quoit.status.success(), "{command}: {}", String::from_utf8_lossy(&quoit.stderr));
                }
                [script, ..] if script.starts_with("bench/") => {
                    assert!(root().join(script).exists(), "{command}");
                    eprintln!("skip: `{command}` takes minutes");
                }
                _ => panic!("`{command}` is not known to this test"),
            }
        }
    }
}

/// The error texts that the README quotes are those that clients see.
#[test]
fn errors_are_quoted_to_the_letter() {
    let page = readme();
    let toml = blocks(&page).into_iter().find(|block| block.language == "toml").unwrap().text.to_owned();
    let defaults = quoit::config::check_text("README.md", &toml).unwrap();
    let (listener, timeouts) = (&defaults.listeners[0], defaults.pools[0].timeouts);
    let connect_ms = timeouts.connect.as_millis();
    let causes = [
        Cause::BreakerOpen("Connection refused (os error 111)".into()),
        Cause::Connect(format!("no answer to connect and PING within {connect_ms} ms").into()),
        Cause::ServiceTimeout(timeouts.service),
        Cause::Broken("closed by the store".into()),
        Cause::Unsent("closed by the store".into()),
        Cause::QueueTimeout(timeouts.queue),
        Cause::Overloaded,
        Cause::Behind,
    ];
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        texts.push(out);
    };
    for cause in &causes {
        add(&|out| reply::node_failed(out, "a (10.0.0.1:6379)", cause));
    }
    add(&|out| reply::no_replicas(out, "1 of 3 replicas can vote, 2 are needed"));
    add(&|out| reply::unknown_outcome(out, "other writers are at work on the key"));
    add(&reply::reserved_key);
    add(&reply::crossslot);
    add(&reply::too_many_clients);
    let [request, replies] = [listener.query_buffer_bytes_max, listener.multi_key_reply_bytes_max]
        .map(|bytes| usize::try_from(bytes).unwrap());
    add(&|out| reply::too_large(out, "bytes in one request of this kind", request));
    add(&|out| reply::too_large(out, "keys in one command", listener.keys_per_command_max));
    add(&|out| reply::too_large(out, "bytes in the replies to one command", replies));
    let names = usize::try_from(listener.keys_reply_bytes_max).unwrap();
    add(&|out| reply::keys_too_many(out, names));
    for text in texts {
        let text = format!("`{}`", String::from_utf8(text).unwrap().trim_end());
        assert!(page.contains(&text), "the README does not have {text}");
    }
    for cause in &causes {
        let open = matches!(cause, Cause::ServiceTimeout(_) | Cause::Broken(_));
        let says_open = cause.to_string().contains("may or may not have been applied");
        assert_eq!(says_open, open, "the README says which: {cause}");
    }
}

/// Links to files of this repository lead somewhere.
#[test]
fn links_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                _ => {}
            }
        }
    }
    let mut faults = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let there: PathBuf = page.parent().unwrap().join(file);
            if !target.starts_with("http") && !file.is_empty() && !there.exists() {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The text of every Rust file below a folder.
fn rust_files(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Comments name rules by number, `docs/failures.md` names tests: both are there.
#[test]
fn failures_have_rules_and_rules_have_tests() {
    let page = fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let (mut sources, mut tests) = (String::new(), String::new());
    rust_files(&root().join("src"), &mut sources);
    rust_files(&root().join("tests"), &mut tests);
    sources.push_str(&tests);
    let comments = sources.lines().filter(|line| line.trim_start().starts_with("//"));
    for word in comments.flat_map(|line| line.split(|letter: char| !letter.is_alphanumeric())) {
        let number = word.strip_prefix('F').filter(|digits| !digits.is_empty() && digits.parse::<u8>().is_ok());
        assert!(number.is_none() || page.contains(&format!("\n| {word} |")), "docs/failures.md has no {word}");
    }
    for row in page.lines().filter(|line| line.starts_with("| F")) {
        let held_by = row.rsplit('|').nth(1).unwrap();
        for test in held_by.split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {test}()")), "{row}: there is no test {test}");
        }
    }
}
