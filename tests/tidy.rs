//! The rules of the house that the compiler does not know: which module may import which, what a file begins with, how
//! long it may grow, and words that do not belong in it.

#![expect(clippy::print_stderr, reason = "a skipped check says so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module imports only from modules of lower numbers; modules of one number do not know each other.
const LAYERS: &[(u32, &[&str])] = &[
    (1, &["clock", "shutdown", "metrics"]),
    (2, &["version", "ring", "command"]),
    (3, &["protocol", "quorum", "acl"]),
    (4, &["config"]),
    (5, &["backend", "listener"]),
    (6, &["topology"]),
    (7, &["replication", "rebalance", "backup"]),
    (8, &["coordinator"]),
    (9, &["frontend", "admin"]),
    (10, &["server"]),
    (11, &["cli"]),
    (12, &["main"]),
];

/// Parts that take time, seeds and bytes as arguments, so that a test can replay them.
const PURE: &[&str] = &["version", "ring", "command", "protocol", "quorum", "acl"];

/// What a pure module does not touch.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::net",
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "fastrand",
    "crate::clock",
    "crate::metrics",
    "prometheus::",
];

/// Lines of code without tests that one file may have before it is time to cut it.
const LINES_MAX: usize = 700;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The first module below `src`, such as `ring`.
    fn module(&self) -> String {
        let below = self.path.strip_prefix(root().join("src")).expect("a file of src");
        let first = below.iter().next().expect("a file name").to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    /// A file of tests only, by the convention of its name.
    fn is_test(&self) -> bool {
        let text = self.path.to_string_lossy();
        text.ends_with("tests.rs") || text.contains("/tests/")
    }

    /// The tests of the module beside them: the module's own front page speaks for both.
    fn is_unit_test(&self) -> bool {
        self.is_test() && self.path.starts_with(root().join("src"))
    }

    fn is_generated(&self) -> bool {
        self.text.lines().take(10).any(|line| line.to_lowercase().contains("generated"))
    }

    /// The lines before the unit tests, with their numbers, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let lines = lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]" || self.is_test());
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn shown(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, ends: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "node_modules"].contains(&name.as_str()) {
                files(&path, ends, found);
            }
        } else if ends.iter().any(|end| name.ends_with(end)) {
            // What is not text is not ours to judge.
            if let Ok(text) = fs::read_to_string(&path) {
                found.push(Source { path, text });
            }
        }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    files(&root().join("src"), &[".rs"], &mut found);
    found
}

#[track_caller]
fn check(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn layers() -> BTreeMap<&'static str, u32> {
    LAYERS.iter().flat_map(|(number, modules)| modules.iter().map(move |module| (*module, *number))).collect()
}

/// The modules that a line names by `crate::…`.
fn imports(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for part in line.split("crate::").skip(1) {
        let list = part.strip_prefix('{').unwrap_or(part);
        let many = part.starts_with('{');
        for item in list.split(',') {
            let word: String =
                item.trim().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            if !word.is_empty() {
                named.push(word);
            }
            if !many {
                break;
            }
        }
    }
    named
}

#[test]
fn modules_import_downwards_only() {
    let layers = layers();
    let mut faults = Vec::new();
    for source in sources() {
        let module = source.module();
        if module == "lib" {
            continue;
        }
        let Some(own) = layers.get(module.as_str()) else {
            faults.push(format!("{}: module `{module}` has no layer", source.shown()));
            continue;
        };
        for (number, line) in source.code() {
            for imported in imports(line).into_iter().filter(|imported| *imported != module) {
                if layers.get(imported.as_str()).is_some_and(|layer| layer >= own) {
                    faults.push(format!("{}:{number}: {module} ({own}) imports {imported}", source.shown()));
                }
            }
        }
    }
    check(&faults);
}

#[test]
fn pure_modules_stay_pure() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.module().as_str()) && !source.is_test()) {
        for (number, line) in source.code() {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{number}: a pure module uses `{word}`", source.shown()));
            }
        }
    }
    check(&faults);
}

#[test]
fn a_file_says_what_it_is_for() {
    let mut found = sources();
    files(&root().join("tests"), &[".rs"], &mut found);
    let silent = found
        .iter()
        .filter(|source| !source.text.starts_with("//!") && !source.is_generated() && !source.is_unit_test());
    check(&silent.map(|source| format!("{}: does not begin with `//!`", source.shown())).collect::<Vec<_>>());
}

#[test]
fn files_have_one_subject() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test() && !source.is_generated()) {
        let lines = source.code().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines", source.shown()));
        }
    }
    check(&faults);
}

/// `mod.rs` only: a module is a directory or a file, never both.
#[test]
fn a_module_has_one_front_page() {
    let beside = sources().into_iter().filter(|source| source.path.with_extension("").is_dir());
    check(&beside.map(|source| format!("{}: beside a directory of that name", source.shown())).collect::<Vec<_>>());
}

/// Words left behind by work that is not finished, and words that the house says otherwise.
#[test]
fn words_that_do_not_belong() {
    let unfinished = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut found = sources();
    for directory in ["tests", "config", "dashboards", "docs", ".ci"] {
        files(&root().join(directory), &[".rs", ".toml", ".md", ".py", ".sh", ".yml", "run"], &mut found);
    }
    let mut faults = Vec::new();
    for source in &found {
        for (index, line) in source.text.lines().enumerate() {
            for word in unfinished.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: {word}", source.shown(), index + 1));
            }
            if source.path.ends_with("mod.rs") && line.contains("mod utils") {
                faults.push(format!("{}:{}: a module named for nothing", source.shown(), index + 1));
            }
        }
    }
    check(&faults);
}

/// Log lines and errors never carry a path of the machine they were written on.
#[test]
fn no_path_of_a_machine() {
    let mut found = sources();
    for directory in ["tests", "config", "dashboards", "docs", "fuzz", ".ci", "tools", "bench"] {
        files(
            &root().join(directory),
            &[".rs", ".toml", ".md", ".py", ".sh", ".yml", ".json", ".txt", "run"],
            &mut found,
        );
    }
    let paths = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
    let mut faults = Vec::new();
    for source in &found {
        for (index, line) in source.text.lines().enumerate() {
            for path in paths.iter().filter(|path| line.contains(**path)) {
                faults.push(format!("{}:{}: {path}", source.shown(), index + 1));
            }
        }
    }
    check(&faults);
}

/// The licences of everything that is linked: `cargo deny` where it is installed.
#[test]
fn dependencies_have_allowed_licences() {
    let deny = std::process::Command::new("cargo")
        .args(["deny", "--offline", "check", "bans", "licenses", "sources"])
        .current_dir(root())
        .output();
    match deny {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("no such command") => {
            eprintln!("skip: cargo-deny is not installed");
        }
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skip: cargo does not run: {error}"),
    }
}
