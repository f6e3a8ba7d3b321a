//! Commands that the file adds. The stores have some of Redis's own under other names, which quoit does not know.

use crate::support::{Client, Cluster, Fleet, Program, QuoitConfig, Reach, RedisServer, Value};

/// What the stores call `STRLEN`, `APPEND`, `BITOP` and `MGET`.
const RENAMED: &[&str] = &[
    "--rename-command",
    "STRLEN",
    "LENGTHOF",
    "--rename-command",
    "APPEND",
    "ATTACH",
    "--rename-command",
    "BITOP",
    "COMBINE",
    "--rename-command",
    "MSETNX",
    "BEGINALL",
    "--appendonly",
    "yes",
];
const COMMANDS: &str = r#"
[[command]]
name = "lengthof"
writes = false
[[command]]
name = "ATTACH"
[[command]]
name = "Combine"
first_key = 2
last_key = -1
[[command]]
name = "BEGINALL"
last_key = -1
key_step = 2
"#;

#[track_caller]
fn check_error(client: &mut Client, line: &str, start: &str) {
    let reply = client.line(line);
    assert!(reply.is_error() && reply.text().starts_with(start), "{line}: {reply:?}");
}

fn stores(count: usize) -> Option<Vec<RedisServer>> {
    (0..count).map(|_| RedisServer::start_with(Program::Redis, RENAMED)).collect()
}

fn check(mut client: Client) {
    assert_eq!(client.line("ATTACH {t}a abc"), Value::Integer(3));
    assert_eq!(client.line("attach {t}a def"), Value::Integer(6));
    assert_eq!(client.line("LengthOf {t}a"), Value::Integer(6));
    assert_eq!(client.line("COMBINE AND {t}b {t}a {t}a"), Value::Integer(6));
    assert_eq!(client.line("GET {t}b").text(), "abcdef");
    assert_eq!(client.line("BEGINALL {t}c 1 {t}d 2"), Value::Integer(1));
    assert_eq!(client.line("MGET {t}c {t}d").items().len(), 2);
    check_error(&mut client, "LENGTHOF", "ERR wrong number of arguments for 'lengthof' command");
    check_error(&mut client, "ATTACH {t}a", "ERR");
    check_error(&mut client, "COMBINE AND x1 x2 x3 x4 x5 x6 x7 x8 x9", "CROSSSLOT");
    check_error(&mut client, "UNHEARDOF k", "ERR unknown command 'UNHEARDOF'");
    client.line("MULTI");
    client.line("ATTACH {t}a !");
    client.line("LENGTHOF {t}a");
    assert_eq!(client.line("EXEC"), Value::Array(vec![Value::Integer(7), Value::Integer(7)]));
}

#[test]
fn they_go_to_the_nodes_of_their_keys() {
    let Some(stores) = stores(3) else { return };
    let fleet = Fleet::in_front_of(stores, |config: QuoitConfig| config.tables(COMMANDS));
    if fleet.quoit().is_none() {
        return;
    }
    check(fleet.client());
}

#[test]
fn they_reach_all_copies() {
    let Some(stores) = stores(4) else { return };
    let cluster = Cluster::in_front_of(stores, 1, Reach::Direct, |_, config| config.tables(COMMANDS));
    if !cluster.has_proxies() {
        return;
    }
    check(cluster.client(0));
    cluster.converges("after commands of the file");
}

#[test]
fn rights_to_them_go_by_category() {
    let Some(stores) = stores(1) else { return };
    let users = "[[user]]\nname = \"reader\"\nrules = \"on >a ~* +@read\"\n";
    let fleet = Fleet::in_front_of(stores, |config: QuoitConfig| config.tables(COMMANDS).tables(users));
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    assert_eq!(client.line("ATTACH k abc"), Value::Integer(3));
    assert_eq!(client.line("AUTH reader a").text(), "OK");
    assert_eq!(client.line("LENGTHOF k"), Value::Integer(3));
    check_error(&mut client, "ATTACH k abc", "NOPERM");
}
