//! A changed file becomes a changed ring without a restart: no reply is lost, no connection is left behind, and a bad
//! file changes nothing.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Expect, Fleet, Load, PATIENCE, Quoit, QuoitConfig, RedisServer, Signal, eventually, setting};

/// Stores of which a ring uses some.
fn ring_of(stores: &[RedisServer], members: &[usize]) -> QuoitConfig {
    QuoitConfig::new(members.iter().map(|&index| (Fleet::name(index), stores[index].address())))
}

fn has_proxy() -> bool {
    std::env::var_os("QUOIT_TEST_SUBJECT").is_none()
}

/// Whether the ring in use has a node of this name.
fn has_node(quoit: &Quoit, name: &str) -> bool {
    quoit.admin("GET", "/ring").body.contains(name)
}

fn last_reload_successful(quoit: &Quoit) -> bool {
    quoit.metric_sum("quoit_config_last_reload_successful") > 0.5
}

fn open_files(quoit: &Quoit) -> usize {
    fs::read_dir(format!("/proc/{}/fd", quoit.process())).map(Iterator::count).expect("the process runs")
}

/// A thousand reloads under load that add and remove nodes.
#[test]
fn a_thousand_reloads_under_load() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(5) else { return };
    let rings: [&[usize]; 6] = [&[0, 1, 2], &[0, 1, 2, 3], &[0, 2, 3, 4], &[0], &[0, 4], &[0, 1, 2, 3, 4]];
    let quoit = Quoit::start(&ring_of(&stores, rings[0]));
    let keys: Vec<String> = (0..400).map(|number| format!("key:{number}")).collect();
    let load = Load::start(quoit.address(), 8, 6, &[keys], Expect::AnyOwn);
    eventually("the load runs", PATIENCE, || load.answered(0) > 1_000);
    let files = open_files(&quoit);
    for round in 1..=setting("QUOIT_RELOADS").unwrap_or(1_000) {
        let ring = rings[usize::try_from(round).expect("fits") % rings.len()];
        quoit.write_config(&quoit.text_of(&ring_of(&stores, ring)));
        let reply = quoit.admin("POST", "/reload");
        assert_eq!(reply.status, 200, "reload {round}: {}", reply.body);
        assert!(load.is_healthy(), "a connection of the load ended at reload {round}");
    }
    assert_eq!(load.failed(0), 0, "{:?}", load.errors(0));
    let answered = load.answered(0);
    eventually("the load still runs", PATIENCE, || load.answered(0) > answered + 1_000);
    assert!(last_reload_successful(&quoit));

    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[0, 1])));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    eventually("removed nodes are left", PATIENCE, || stores[2..].iter().all(|store| store.clients().is_empty()));
    eventually("used nodes have their few connections", PATIENCE, || {
        stores[..2].iter().all(|store| (1..=4).contains(&store.clients().len()))
    });
    eventually("no files are left open", PATIENCE, || open_files(&quoit) <= files + 8);
    assert_eq!(load.failed(0), 0, "{:?}", load.errors(0));
    load.finish();
}

/// A file with a fault keeps the ring, says so everywhere, and the next good file heals it.
#[test]
fn a_bad_file_keeps_the_ring() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let good = ring_of(&stores, &[0, 1]);
    let quoit = Quoit::start(&good);
    let mut client = quoit.client();
    let values: Vec<_> = (0..50).map(|number| (format!("key {number}"), format!("value {number}"))).collect();
    for (key, value) in &values {
        assert_eq!(client.command(&["SET", key, value]).text(), "OK");
    }
    assert!(last_reload_successful(&quoit));
    let text = quoit.text_of(&good);
    let bad = [
        "this is not TOML [".to_owned(),
        String::new(),
        text.replace("replicas = 1", "replicaz = 1"),
        text.replace("pool = \"main\"", "pool = \"man\""),
        text.replace(Fleet::name(1), Fleet::name(0)),
        text.replace("replicas = 1", "replicas = \"one\""),
    ];
    for (round, bad) in bad.iter().enumerate() {
        quoit.write_config(bad);
        let reply = quoit.admin("POST", "/reload");
        assert!(reply.status >= 400, "bad file {round} was taken: {} {}", reply.status, reply.body);
        assert!(!last_reload_successful(&quoit), "bad file {round}");
        assert!(has_node(&quoit, Fleet::name(0)) && has_node(&quoit, Fleet::name(1)));
        for (key, value) in &values {
            assert_eq!(&client.command(&["GET", key]).text(), value, "bad file {round}");
        }
        assert_eq!(quoit.admin("GET", "/readyz").status, 200, "it still serves");
        quoit.write_config(&text);
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
        assert!(last_reload_successful(&quoit));
    }
    assert!(quoit.log().contains("replicaz"), "the log shows the fault:\n{}", quoit.log());
}

/// A file that is missing for a while is a bad file, too.
#[test]
fn a_missing_file_keeps_the_ring() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]));
    fs::remove_file(quoit.config_path()).expect("the file was there");
    assert!(quoit.admin("POST", "/reload").status >= 400);
    assert_eq!(quoit.client().line("SET k v").text(), "OK");
    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[0, 1])));
    eventually("the new file is seen", PATIENCE, || has_node(&quoit, Fleet::name(1)));
}

/// The file is watched: renamed over, written in place, written in halves, deleted and made again. Nobody posts anything.
#[test]
fn the_file_is_watched() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let (one, two) = (ring_of(&stores, &[0]), ring_of(&stores, &[0, 1]));
    let quoit = Quoit::start(&one);
    let (one, two) = (quoit.text_of(&one), quoit.text_of(&two));
    let sees = |what: &str, expected: bool| {
        eventually(what, PATIENCE, || has_node(&quoit, Fleet::name(1)) == expected);
        assert!(last_reload_successful(&quoit), "{what}");
    };
    for round in 0..2 {
        quoit.write_config(&two);
        sees(&format!("renamed over, {round}"), true);
        quoit.write_config(&one);
        sees(&format!("renamed back, {round}"), false);
    }
    fs::write(quoit.config_path(), &two).expect("written in place");
    sees("written in place", true);
    fs::remove_file(quoit.config_path()).expect("deleted");
    fs::write(quoit.config_path(), &one).expect("made again");
    sees("deleted and made again", false);
    // An editor's leavings beside it are not the file.
    fs::write(quoit.directory().join(".quoit.toml.swp"), "swap").expect("written");
    fs::write(quoit.directory().join("quoit.toml~"), &two).expect("written");
    quoit.write_config(&two);
    sees("after an editor's leavings", true);
}

/// Kubernetes mounts a ConfigMap as links: `quoit.toml` → `..data/quoit.toml`, `..data` → a directory that is swapped.
#[test]
fn a_config_map_is_swapped() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let (one, two) = (ring_of(&stores, &[0]), ring_of(&stores, &[0, 1]));
    let quoit = Quoit::start_laid_out(&one, |directory, text| {
        fs::create_dir(directory.join("..2026_1")).expect("a directory");
        fs::write(directory.join("..2026_1/quoit.toml"), text).expect("the file");
        symlink("..2026_1", directory.join("..data")).expect("a link");
        symlink("..data/quoit.toml", directory.join("quoit.toml")).expect("a link");
    });
    for (generation, config, expected) in [(2, &two, true), (3, &one, false), (4, &two, true)] {
        let directory = quoit.directory();
        let name = format!("..2026_{generation}");
        fs::create_dir(directory.join(&name)).expect("a directory");
        fs::write(directory.join(&name).join("quoit.toml"), quoit.text_of(config)).expect("the file");
        symlink(&name, directory.join("..data_tmp")).expect("a link");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("swapped");
        fs::remove_dir_all(directory.join(format!("..2026_{}", generation - 1))).expect("the old one goes");
        eventually(&format!("generation {generation} is seen"), PATIENCE, || {
            has_node(&quoit, Fleet::name(1)) == expected
        });
    }
    assert!(last_reload_successful(&quoit));
}

/// SIGHUP reloads at once, and a process that gets many survives them.
#[test]
fn sighup() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]));
    for _ in 0..20 {
        quoit.signal(Signal::HangUp);
    }
    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[0, 1])));
    quoit.signal(Signal::HangUp);
    eventually("the new ring is used", PATIENCE, || has_node(&quoit, Fleet::name(1)));
    assert_eq!(quoit.client().line("SET k v").text(), "OK");
}

/// What needs a restart says so by name; the rest of the file is used.
#[test]
fn what_needs_a_restart_is_said() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]).workers(1));
    quoit.write_config(&quoit.text_of(&ring_of(&stores, &[0, 1]).workers(2)));
    let reply = quoit.admin("POST", "/reload");
    assert!(reply.body.contains("workers") || quoit.log().contains("workers"), "{}\n{}", reply.body, quoit.log());
    assert!(has_node(&quoit, Fleet::name(1)), "the ring follows all the same");
}

/// F23: a GET changes nothing, and the admin port answers what it does not know.
#[test]
fn the_admin_port_changes_nothing_by_get() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&ring_of(&stores, &[0]));
    let before = quoit.metric("quoit_config_reloads_total");
    assert_eq!(quoit.admin("GET", "/reload").status, 405);
    assert_eq!(quoit.admin("GET", "/nothing-here").status, 404);
    assert_eq!(quoit.admin("DELETE", "/metrics").status, 405);
    assert_eq!(quoit.admin("GET", "/healthz").status, 200);
    assert_eq!(quoit.metric("quoit_config_reloads_total"), before);
    assert!(quoit.admin("GET", "/config").body.contains(Fleet::name(0)));
}

/// The same file again is no change; the ring keeps its connections.
#[test]
fn an_unchanged_file_changes_nothing() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(1) else { return };
    let config = ring_of(&stores, &[0]);
    let quoit = Quoit::start(&config);
    let mut client = quoit.client();
    assert_eq!(client.line("SET k v").text(), "OK");
    let ids = |store: &RedisServer| -> Vec<String> {
        let lines = store.clients();
        lines.iter().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    };
    let before = ids(&stores[0]);
    for _ in 0..10 {
        quoit.write_config(&quoit.text_of(&config));
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
        assert_eq!(client.line("GET k").text(), "v");
    }
    assert_eq!(ids(&stores[0]), before, "the same connections");
}
