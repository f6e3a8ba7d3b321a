//! The command line as people and scripts meet it, and the committed files that it prints.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> String {
    root().join("config").join(name).to_str().unwrap().to_owned()
}

/// Runs `quoit` far from any configuration, as if in a pipe.
fn quoit(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("quoit").unwrap();
    command.args(arguments).current_dir(root().join("tests")).env_remove("QUOIT_LOG").env("COLUMNS", "100");
    command
}

fn stdout(arguments: &[&str]) -> String {
    String::from_utf8(quoit(arguments).assert().success().get_output().stdout.clone()).unwrap()
}

/// Standard error of a command that fails with code 1.
fn failure(arguments: &[&str]) -> String {
    String::from_utf8(quoit(arguments).assert().code(1).get_output().stderr.clone()).unwrap()
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/data/config/cli"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = text.replace(root().to_str().unwrap(), "ROOT");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[track_caller]
fn check_committed(path: &str, want: &str) {
    let committed = fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(
        committed == want,
        "{path} is not what quoit prints: write it again with `quoit schema` or `quoit schema --markdown`"
    );
}

#[test]
fn committed_schema_and_reference_are_current() {
    check_committed("config/quoit.schema.json", &stdout(&["schema"]));
    check_committed("docs/configuration.md", &stdout(&["schema", "--markdown"]));
}

#[test]
fn help_of_every_command() {
    let commands = ["serve", "check", "route", "plan", "import", "schema", "completions"];
    let pages = commands.map(|command| format!("$ quoit {command} --help\n{}", stdout(&[command, "--help"])));
    snapshot("help", &format!("{}\n{}", stdout(&["--help"]), pages.join("\n")));
    quoit(&["frobnicate"]).assert().code(2);
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(stdout(&["completions", shell]).contains("quoit"), "{shell}");
    }
}

#[test]
fn a_right_file_is_summed_up() {
    snapshot("check", &stdout(&["check", &example("routes.toml")]));
    snapshot("check-replicated", &stdout(&["check", &example("replicated.toml")]));
    let directory = tempfile::tempdir().unwrap();
    let text =
        fs::read_to_string(example("replicated.toml")).unwrap().replace("level = \"linearizable\"", "level = \"all\"");
    let all = stdout(&["check", written(&directory, "quoit.toml", &text).to_str().unwrap()]);
    assert!(all.contains("note: one lost node stops the writes of its keys"), "{all}");
}

#[test]
fn a_wrong_file_fails_without_colours() {
    let wrong = root().join("tests/data/config/faults/everything.toml");
    let shown = failure(&["check", wrong.to_str().unwrap()]);
    assert!(shown.contains("did you mean `clients_max`?"), "{shown}");
    assert!(shown.ends_with("23 faults\n"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colours where there is no terminal");
    for arguments in [vec!["check", "no-such-file.toml"], vec!["route", "k", "--config", "no-such-file.toml"]] {
        assert!(failure(&arguments).starts_with("error: cannot read no-such-file.toml"), "{arguments:?}");
    }
    assert!(failure(&["check"]).contains("there is no quoit.toml"));
}

#[test]
fn the_way_of_a_key() {
    let routes = example("routes.toml");
    let mut text = stdout(&["route", "old:session:{7}:x", "--config", &routes]);
    text.push_str(&stdout(&["route", "old:session:{7}:x", "--config", &routes, "--json"]));
    snapshot("route", &text);
    let ways: serde_json::Value =
        serde_json::from_str(&stdout(&["route", "user:1", "--config", &routes, "--listener", "clients", "--json"]))
            .unwrap();
    assert_eq!(ways[0]["route"], serde_json::Value::Null);
    assert_eq!(ways[0]["pool"], "main");
    assert!(failure(&["route", "k", "--config", &routes, "--listener", "x"]).contains("there is no listener `x`"));
}

/// A file of the test's own.
fn written(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_a_new_node_moves() {
    let directory = tempfile::tempdir().unwrap();
    let before = fs::read_to_string(example("quoit.toml")).unwrap();
    let after = format!("{before}\n[[pool.node]]\nname = \"d\"\naddress = \"127.0.0.1:7004\"\n");
    let moved = before.replace("127.0.0.1:7001", "10.9.8.7:7001");
    let [before, after, moved] =
        [("before", before), ("after", after), ("moved", moved)].map(|(name, text)| written(&directory, name, &text));
    let [before, after, moved] = [&before, &after, &moved].map(|path| path.to_str().unwrap());
    snapshot("plan", &stdout(&["plan", before, after]));
    assert_eq!(stdout(&["plan", before, moved]), "pool main: nothing moves\n", "an address is no place on the ring");
    let plan: serde_json::Value = serde_json::from_str(&stdout(&["plan", before, after, "--json"])).unwrap();
    let diff = &plan["pools"][0]["diff"];
    let share = diff["moved_share"].as_f64().unwrap();
    assert!((0.1..0.4).contains(&share), "about a quarter moves: {share}");
    assert!(diff["ranges"].as_array().unwrap().iter().all(|range| range["to"] == serde_json::json!(["d"])));
    assert!(stdout(&["plan", before, after, "--ranges"]).lines().count() > 100);
    let slots = example("cluster-slots.toml");
    assert!(stdout(&["plan", before, &slots]).contains("everything is taken to move"));
    let routes = stdout(&["plan", before, &example("routes.toml")]);
    assert!(routes.contains("pool sessions: new"), "{routes}");
}

#[test]
fn an_import_is_a_configuration() {
    let translated = stdout(&["import", &example("twemproxy.yml")]);
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "quoit.toml", &translated);
    quoit(&["check", path.to_str().unwrap()]).assert().success();
    let shown = failure(&["import", root().join("tests/data/config/faults/nutcracker.yml").to_str().unwrap()]);
    assert!(shown.contains("speaks memcached"), "{shown}");
}
