use super::*;
use crate::config::check_text;
use crate::ring::Ring;

const POOL: &str = r#"
    [[listener]]
    bind = "127.0.0.1:6380"
    pool = "main"
    [[pool]]
    name = "main"
    replicas = 3
    [pool.ring]
    placement = "ketama"
    [[pool.node]]
    name = "a"
    address = "10.0.0.1:6379"
    zone = "x"
    [[pool.node]]
    name = "b"
    address = "10.0.0.2:6379"
    [[pool.node]]
    name = "c"
    address = "10.0.0.3:6379"
    [[pool.node]]
    name = "d"
    address = "10.0.0.4:6379"
"#;

const FIVE: &str = "[[pool.node]]\nname = \"e\"\naddress = \"10.0.0.5:6379\"\n";

fn config(text: &str) -> Config {
    check_text("quoit.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The change in words, or nothing where the new file may take the place of the old one.
#[track_caller]
fn check_from(old: &str, new: &str, want: &str) {
    let (old, new) = (config(old), config(new));
    let changes: Vec<String> = ring_changes(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(changes.join("; "), want);
}

/// The same, for an edit of one place. The ring itself is asked, too: what it takes for another must be refused.
#[track_caller]
fn check(place: &str, edit: &str, want: &str) {
    let text = POOL.replacen(place, edit, 1);
    assert_ne!(text, POOL, "the place is there");
    check_from(POOL, &text, want);
    let print = |text: &str| Ring::build(config(text).pools[0].ring.clone()).unwrap().fingerprint();
    assert!(print(POOL) == print(&text) || !want.is_empty());
}

#[test]
fn what_changes_no_ring() {
    check("10.0.0.4", "10.0.0.9", "");
    check("replicas = 3", "replicas = 3\nwrite_quorum = 3\nread_quorum = 1\nlevel = \"all\"", "");
    check("replicas = 3", "replicas = 3\nhedge_ms = 0\nservice_timeout_ms = 10", "");
    check("placement = \"ketama\"", "hash = \"xxh3\"\nhash_tag = \"{}\"", "");
    check("name = \"a\"", "name = \"a\"\nring_name = \"a\"", "");
    // Two nodes change places in the file.
    let text = POOL.replace("\"a\"", "\"?\"").replace("\"b\"", "\"a\"").replace("\"?\"", "\"b\"");
    let text = text.replace("0.1:", "0.?:").replace("0.2:", "0.1:").replace("0.?:", "0.2:");
    let zones = text.replace("zone = \"x\"", "").replace("0.1:6379\"", "0.1:6379\"\nzone = \"x\"");
    check_from(POOL, &zones, "");
}

#[test]
fn what_changes_a_ring() {
    check("replicas = 3", "replicas = 4", "pool `main`: `replicas` was 3 and would be 4");
    check("replicas = 3", "replicas = 1", "pool `main`: `replicas` was 3 and would be 1");
    check("ketama", "rendezvous", "pool `main`: `placement` was `ketama` and would be `rendezvous`");
    check("\"ketama\"", "\"ketama\"\nhash = \"md5\"", "pool `main`: `hash` was `xxh3` and would be `md5`");
    let whole = "pool `main`: the sharding key was hash tag {…} and would be the whole key";
    check("\"ketama\"", "\"ketama\"\nhash_tag = \"\"", whole);
    check("zone = \"x\"", "zone = \"y\"", "pool `main`: `zone` of node `a` would be another");
    check("zone = \"x\"", "weight = 2\nzone = \"x\"", "pool `main`: `weight` of node `a` would be another");
    let renamed = "pool `main`: `ring_name` of node `a` would be another";
    check("zone = \"x\"", "zone = \"x\"\nring_name = \"z\"", renamed);
    check("name = \"d\"", "name = \"e\"", "pool `main`: node `d` would be gone");
    let exchanged = "pool `main`: node `a` would have the store of node `b`";
    check_from(POOL, &POOL.replace("0.1:", "0.?:").replace("0.2:", "0.1:").replace("0.?:", "0.2:"), exchanged);
    check_from(POOL, &format!("{POOL}\n{FIVE}"), "pool `main`: node `e` would be new");
    let jump = POOL.replace("ketama", "jump");
    let reordered = jump.replace("\"c\"", "\"?\"").replace("\"d\"", "\"c\"").replace("\"?\"", "\"d\"");
    let order = "pool `main`: the order of the nodes, which counts with placement `jump`, would be another";
    check_from(&jump, &reordered, order);
}

#[test]
fn pools_that_come_go_and_change_their_name() {
    let single = POOL.replace("replicas = 3", "");
    check_from(&single, &format!("{single}\n{FIVE}"), "");
    check_from(&single, POOL, "pool `main`: `replicas` was 1 and would be 3");
    let elsewhere = POOL.replace("10.0.0", "10.0.1").replace("\"main\"", "\"next\"");
    check_from(&elsewhere, POOL, "");
    let renamed = POOL.replace("\"main\"", "\"next\"");
    check_from(POOL, &renamed, "");
    check_from(
        POOL,
        &format!("{renamed}\n{FIVE}"),
        "pool `next`: it would have stores of pool `main`, but node `e` would be new",
    );
}
