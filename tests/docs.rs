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

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quoit::backend::Cause;
use quoit::command::{self, Handling, LocalVerb, Replication, Row, SplitRule, replicate, reply};

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
    let page = readme() + &fs::read_to_string(root().join("docs/replication.md")).unwrap();
    let found: Vec<_> = blocks(&page).into_iter().filter(|block| block.language == "toml").collect();
    assert!(2 <= found.len(), "each page shows a configuration");
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

#[test]
fn the_list_of_commands_is_current() {
    let path = root().join("docs/commands.md");
    let page = commands_page();
    if std::env::var_os("QUOIT_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "run: QUOIT_UPDATE=1 cargo test --test docs");
}

/// A row as it is listed: the verbs of a container where they are handled apart.
fn listed(rows: &'static [Row]) -> Vec<&'static Row> {
    let mut found = Vec::new();
    for row in rows {
        let apart = |other: &Row| other.handling != row.handling || other.replication != row.replication;
        let apart = row.subcommands.iter().any(apart);
        if apart {
            found.extend(listed(row.subcommands));
            // A container whose bare name is a command of its own.
            found.extend(row.takes(1).then_some(row));
        } else {
            found.push(row);
        }
    }
    found
}

fn spoken(row: &Row) -> String {
    let name = row.name.replace('|', " ").to_uppercase();
    let alone = row.subcommands.is_empty() || row.takes(1);
    if alone { format!("`{name}`") } else { format!("`{name} …`") }
}

/// The verbs of one kind by the servers' groups, a line a group.
fn by_group(rows: &[&'static Row], which: impl Fn(&Row) -> bool) -> String {
    let mut groups: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    for row in rows.iter().filter(|row| which(row)) {
        groups.entry(row.about.group).or_default().push(spoken(row));
    }
    let mut lines = String::new();
    for (group, verbs) in groups {
        let group = if group.is_empty() { "other" } else { group };
        writeln!(lines, "- {group}: {}", verbs.join(", ")).unwrap();
    }
    lines
}

/// The verbs that have a reason, a line a reason.
fn by_reason(rows: &[&'static Row], reason_of: impl Fn(&Row) -> Option<&'static str>) -> String {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(reason) = reason_of(row) else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, verbs)) => verbs.push(spoken(row)),
            None => reasons.push((reason, vec![spoken(row)])),
        }
    }
    let mut lines = String::from("| verbs | why |\n|---|---|\n");
    for (reason, verbs) in reasons {
        writeln!(lines, "| {} | {reason} |", verbs.join(", ")).unwrap();
    }
    lines
}

fn variants(rows: &[&'static Row]) -> String {
    let mut lines = String::from("| verb | with | |\n|---|---|---|\n");
    for row in rows {
        for variant in row.variants {
            let with = match variant.when {
                command::Condition::Blocks => "`BLOCK`",
                command::Condition::SortsByOtherKeys => "`BY` or `GET` and a pattern that has a `*`",
                command::Condition::CopiesToDatabase => "`DB` other than 0",
            };
            let (what, reason) = match variant.row.handling {
                Handling::Blocking => ("waits", "as the verbs that may wait"),
                Handling::Later(reason) => ("not yet", reason),
                Handling::Refused(reason) => ("refused", reason),
                other => panic!("{}: {other:?} has no words here yet", row.name),
            };
            writeln!(lines, "| {} | {with} | {what}: {reason} |", spoken(row)).unwrap();
        }
    }
    lines
}

/// What a class of replication means, for people.
fn meaning(class: Replication) -> &'static str {
    match class {
        Replication::Read => "One replica answers, and enough others confirm that its copy is the newest.",
        Replication::Blind => {
            "What was there does not matter: one round to all replicas, done when a write quorum holds it."
        }
        Replication::Update => {
            "Of one key: each replica runs it for itself, on a state that a quorum has agreed on before."
        }
        Replication::Opaque => {
            "One replica runs it, and the others get the state of the keys it has written: several keys, chance, the \
             store's clock, programs."
        }
        Replication::FanOut => "No key of its own: it asks or tells each node by itself.",
        Replication::Local => "Answered by quoit, as in any pool.",
        Replication::Refused => "Never served, for the reason above.",
    }
}

/// Requests that go another way than their verb: what is said of them is asked of the program.
const BY_ARGUMENTS: &[&str] = &[
    "SET key value EX 10",
    "SET key value NX",
    "SET key value GET",
    "SET key value KEEPTTL",
    "RESTORE key 0 payload REPLACE",
    "RESTORE key 0 payload",
    "GETEX key",
    "GETEX key EX 10",
    "BITFIELD key GET u8 0",
    "BITFIELD key SET u8 0 1",
    "SORT key",
    "SORT key STORE destination",
    "GEORADIUS key 15 37 200 km",
    "GEORADIUS key 15 37 200 km STORE destination",
    "XADD key 1-1 field value",
    "XADD key * field value",
    "XADD key MAXLEN ~ 1000 1-1 field value",
    "XTRIM key MAXLEN 1000",
    "XTRIM key MAXLEN ~ 1000",
];

fn class_of(request: &str) -> Replication {
    let (mut frame, mut bounds) = (Vec::new(), Vec::new());
    for word in request.split(' ') {
        let start = u32::try_from(frame.len()).unwrap();
        frame.extend_from_slice(word.as_bytes());
        bounds.push((start, u32::try_from(frame.len()).unwrap()));
    }
    let args = command::Args::new(&frame, &bounds);
    let row = command::resolve(&args).unwrap();
    replicate::classify(row, &args, 1_000_000).class().unwrap()
}

/// The verbs by their class of replication, and the requests that have another than their verb.
fn replication(rows: &[&'static Row]) -> String {
    let mut text = String::new();
    for class in Replication::ALL {
        writeln!(text, "**{}.** {}\n", class.as_str(), meaning(class)).unwrap();
        let verbs = rows.iter().filter(|row| row.replication == class).map(|row| spoken(row));
        // Those that are listed above under the same name.
        if !matches!(class, Replication::Local | Replication::Refused) {
            writeln!(text, "{}\n", verbs.collect::<Vec<_>>().join(", ")).unwrap();
        }
    }
    text.push_str("Where the arguments decide:\n\n| request | class |\n|---|---|\n");
    for request in BY_ARGUMENTS {
        writeln!(text, "| `{request}` | {} |", class_of(request).as_str()).unwrap();
    }
    text
}

fn commands_page() -> String {
    let rows = listed(command::all());
    let names = |is_meant: &dyn Fn(&Row) -> bool| {
        rows.iter().filter(|row| is_meant(row)).map(|row| spoken(row)).collect::<Vec<_>>().join(", ")
    };
    let split = |rule: SplitRule| names(&|row| row.handling == Handling::Split(rule));
    let local = |verb: LocalVerb| names(&|row| row.handling == Handling::Local(verb));
    let elsewhere = [LocalVerb::ClusterDisabled, LocalVerb::Cluster, LocalVerb::HttpRequest].map(Handling::Local);
    format!(
        "# Commands\n\n\
         What quoit does with each verb of Redis 6.2 to 8 and Valkey 9. This page is written from the command table by\n\
         `QUOIT_UPDATE=1 cargo test --test docs`. A verb that is neither here nor in a `[[command]]` table of the file is\n\
         unknown: `-ERR unknown command …`, as from the servers. A store answers in its own words if it is older than the verb.\n\n\
         ## One key: forwarded\n\n\
         The request goes to the node of its key as it came, and the reply comes back as it is.\n\n{}\n\
         ## Several keys on one node: forwarded\n\n\
         All keys must be on one node, by a `{{tag}}` for instance; else\n\
         `-CROSSSLOT Keys in request don't hash to the same slot`.\n\n{}\n\
         ## Several keys on any nodes: split\n\n\
         One request a node, in parallel; the replies become one. Where all keys are on one node, the request goes there as\n\
         it came. Each node's part is atomic, the whole is not.\n\n\
         - an array in the order of the keys; an error stands in the place of each key of a failed node: {}\n\
         - `OK`, or the first error: {}\n\
         - the sum, or the first error: {}\n\n\
         ## Waiting\n\n\
         {}, and `XREAD` and `XREADGROUP` with `BLOCK`. All keys on one node, but see [waiting](waiting.md).\n\n\
         ## All keys\n\n\
         {}. Every node is asked; see [all keys](all-keys.md).\n\n\
         ## Transactions\n\n\
         {}. All keys must be on one node; see [transactions](transactions.md).\n\n\
         ## Scripts and functions\n\n\
         {}. Run on the node of their keys, kept on every node; see [scripting](scripting.md).\n\n\
         ## Messages\n\n\
         {}. A message goes to one node, and every client that listens has it once; see [pub/sub](pubsub.md).\n\n\
         ## Answered by quoit\n\n{}\n\
         `QUOIT` is quoit's own: `QUOIT ROUTE key`, `QUOIT LEVEL`, `QUOIT VERSIONS key`, `QUOIT NODE name command`,\n\
         `QUOIT HELP`. See [replication](replication.md#looking-at-it) and [clients and the proxy](clients.md).\n\n\
         Answered where the listener has `cluster_emulation`, see [clients and the proxy](clients.md#redis-cluster), else with\n\
         `-ERR This instance has cluster support disabled`, as by a server that is not part of a cluster: {}.\n\n\
         Always answered with an error, that one or another: {}.\n\n\
         The beginning of an HTTP request ({}) closes the connection, as the servers do.\n\n\
         ## Not yet\n\n\
         `-ERR 'MEMORY STATS' is not supported by quoit yet: …`, with the reason; the connection lives.\n\n{}\n\
         ## Refused\n\n\
         `-ERR 'CONFIG SET' is refused by quoit: …`, with the reason; the connection lives.\n\n{}\n\
         ## Decided by arguments\n\n{}\n\
         ## In a pool that keeps several copies\n\n\
         Where a pool has `replicas` of 2 or more, each verb belongs to a class that says how it goes to the replicas of its\n\
         keys. A verb that is not yet served has the class it will have.\n\n{}",
        by_group(&rows, |row| row.handling == Handling::Forward),
        by_group(&rows, |row| row.handling == Handling::SameNode),
        split(SplitRule::Mget),
        split(SplitRule::Mset),
        split(SplitRule::SumIntegers),
        names(&|row| row.handling == Handling::Blocking),
        names(&|row| matches!(row.handling, Handling::Keyspace(_))),
        names(&|row| matches!(row.handling, Handling::Transaction(_))),
        names(&|row| matches!(row.handling, Handling::Run(_) | Handling::Programs(_))),
        names(&|row| matches!(row.handling, Handling::PubSub(_))),
        by_group(&rows, |row| matches!(row.handling, Handling::Local(_)) && !elsewhere.contains(&row.handling)),
        local(LocalVerb::Cluster),
        local(LocalVerb::ClusterDisabled),
        local(LocalVerb::HttpRequest),
        by_reason(&rows, |row| if let Handling::Later(reason) = row.handling { Some(reason) } else { None }),
        by_reason(&rows, |row| if let Handling::Refused(reason) = row.handling { Some(reason) } else { None }),
        variants(&rows),
        replication(&rows),
    )
}
