//! The verb `QUOIT` in front of a pool with several replicas.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Client, Cluster, Fleet, PATIENCE, Quoit, QuoitConfig, Reach, RedisServer, Value, eventually};

/// Three stores with every key on all of them. The proxy is ready to serve when this returns.
fn replicated(change: impl FnOnce(QuoitConfig) -> QuoitConfig) -> Option<(Vec<RedisServer>, Quoit)> {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return None;
    }
    let stores = Fleet::stores(3)?;
    let quoit = Quoit::start_laid_out(&change(Fleet::config_of(&stores)), |directory, text| {
        let text = text.replace("\nreplicas = 1\n", "\nreplicas = 3\n");
        fs::write(directory.join("quoit.toml"), text).expect("the file can be written");
    });
    eventually("the pool begins", PATIENCE, || quoit.client().line("SET first 1").text() == "OK");
    Some((stores, quoit))
}

/// What `QUOIT VERSIONS` says of each replica.
fn versions(client: &mut Client, key: &str) -> Vec<BTreeMap<String, String>> {
    let reply = client.command(&["QUOIT", "VERSIONS", key]);
    let fields = |version: &Value| {
        let pairs = version.items().chunks(2).map(|pair| {
            let text = match &pair[1] {
                Value::Integer(number) => number.to_string(),
                other => other.text(),
            };
            (pair[0].text(), text)
        });
        pairs.collect()
    };
    reply.items().iter().map(fields).collect()
}

fn all_are(versions: &[BTreeMap<String, String>], field: &str, want: &str) -> bool {
    versions.iter().all(|version| version[field] == want)
}

/// A client whose worker knows all stores: until then its writes need more rounds than one.
fn ready_client(quoit: &Quoit) -> Client {
    let mut client = quoit.client();
    eventually("all stores vote", PATIENCE, || all_are(&versions(&mut client, "first"), "votes", "1"));
    client
}

#[test]
fn the_level_of_a_connection() {
    let Some((mut stores, quoit)) = replicated(|config| config.pool("operation_timeout_ms = 500")) else { return };
    let (mut client, mut other) = (ready_client(&quoit), ready_client(&quoit));
    assert_eq!(client.line("QUOIT LEVEL").text(), "default");
    for (word, name) in [("all", "all"), ("QUORUM", "linearizable"), ("one", "one"), ("Eventual", "eventual")] {
        assert_eq!(client.line(&format!("quoit level {word}")).text(), "OK");
        assert_eq!(client.line("QUOIT LEVEL").text(), name);
        assert_eq!(client.line("QUOIT ROUTE k").items()[3].text(), name);
    }
    assert_eq!(other.line("QUOIT LEVEL").text(), "default", "it is the connection's");
    let reply = client.line("QUOIT LEVEL two");
    let wanted = "ERR there is no level `two`; there are linearizable (or quorum), eventual, all and one";
    assert!(reply.is_error() && reply.text().starts_with(wanted), "{reply:?}");
    assert_eq!(client.line("QUOIT LEVEL").text(), "eventual", "what is wrong changes nothing");
    assert_eq!(client.line("QUOIT LEVEL default").text(), "OK");
    assert_eq!(client.line("QUOIT LEVEL").text(), "default");

    // It is what is asked of replicas: `all` cannot be had of two.
    assert_eq!(client.line("QUOIT LEVEL all").text(), "OK");
    stores[0].kill9();
    assert_eq!(other.line("SET k 1").text(), "OK");
    let refused = client.line("SET k 2");
    assert!(refused.is_error(), "{refused:?}");
    assert!(["UNKNOWN", "NOREPLICAS"].iter().any(|code| refused.text().starts_with(code)), "{refused:?}");
    assert_eq!(client.line("RESET").text(), "RESET");
    assert_eq!(client.line("QUOIT LEVEL").text(), "default");
    assert_eq!(client.line("SET k 3").text(), "OK");
    let page = quoit.admin("GET", "/metrics").body;
    let unavailable =
        page.lines().find(|line| line.contains(r#"class="write",outcome="unavailable""#)).unwrap_or_default();
    assert!(unavailable.ends_with(" 1"), "it is not the store's error: {unavailable}");
}

#[test]
fn a_level_that_the_quorums_cannot_keep() {
    let eventual = |config: QuoitConfig| config.pool("level = \"eventual\"\nwrite_quorum = 1\nread_quorum = 1");
    let Some((_stores, quoit)) = replicated(eventual) else { return };
    let mut client = quoit.client();
    for word in ["linearizable", "all", "one"] {
        let reply = client.line(&format!("QUOIT LEVEL {word}"));
        let wanted = format!("ERR level {word} cannot be kept by pool main: two write quorums of 1 out of 3");
        assert!(reply.is_error() && reply.text().starts_with(&wanted), "{reply:?}");
    }
    assert_eq!(client.line("QUOIT LEVEL eventual").text(), "OK");
    assert_eq!(client.line("QUOIT LEVEL default").text(), "OK");
}

#[test]
fn where_a_key_lives_and_in_which_versions() {
    let Some((mut stores, quoit)) = replicated(|config| config.node("zone = \"here\"")) else { return };
    let mut client = ready_client(&quoit);
    let way = client.line("QUOIT ROUTE k");
    let [pool, node, address, level, replicas] = way.items() else { panic!("{way:?}") };
    assert_eq!((pool.text(), level.text()), ("main".to_owned(), "linearizable".to_owned()));
    let first = &replicas.items()[0];
    assert_eq!((node.text(), address.text()), (first.items()[0].text(), first.items()[1].text()));
    assert!(replicas.items().len() == 3 && replicas.items().iter().all(|it| it.items()[2].text() == "here"), "{way:?}");

    assert!(all_are(&versions(&mut client, "k"), "value", "none"));
    client.line("SET k 1");
    eventually("all hold it", PATIENCE, || all_are(&versions(&mut client, "k"), "value", "live"));
    let live = versions(&mut client, "k");
    assert!(all_are(&live, "state", "equal") && all_are(&live, "votes", "1") && all_are(&live, "updates", "0"));
    assert!(live[0]["written"].starts_with("20") && live[0]["writer"].len() == 10, "{live:?}");
    client.line("INCR k");
    eventually("all hold the update", PATIENCE, || all_are(&versions(&mut client, "k"), "updates", "1"));
    client.line("DEL k");
    eventually("all hold the tombstone", PATIENCE, || all_are(&versions(&mut client, "k"), "value", "tombstone"));

    // RESP3 has maps, in their place among other replies.
    client.line("HELLO 3");
    let reply = client.line("QUOIT VERSIONS k");
    assert!(matches!(reply.items()[0], Value::Map(_)), "{reply:?}");

    stores[1].kill9();
    client.line("SET k 2");
    let states: Vec<String> = versions(&mut client, "k").iter().map(|version| version["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "unreachable").count(), 1, "{states:?}");
}

/// F3: what a proxy knows to be missing is on its metrics page, and a reload does not make it forget.
#[test]
fn what_waits_for_repair_outlives_a_reload() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let Some(quoit) = cluster.proxies[0].quoit() else { return };
    let mut client = ready_client(quoit);
    cluster.stores[1].kill9();
    for number in 0..20 {
        eventually("it is written", PATIENCE, || client.line(&format!("SET key:{number} {number}")).text() == "OK");
    }
    let waiting = |quoit: &Quoit| quoit.metric_sum("quoit_replication_repairs_waiting");
    let text = fs::read_to_string(quoit.config_path()).expect("the file is there");
    let changed = text.replace("\nreplicas = 3\n", "\nreplicas = 3\noperation_timeout_ms = 1_900\n");
    assert_ne!(changed, text);
    quoit.write_config(&changed);
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    eventually("all keys wait", PATIENCE, || waiting(quoit) > 19.5);
    cluster.stores[1].restart();
    eventually("none waits", PATIENCE, || waiting(quoit) < 0.5);
    for number in 0..20 {
        // The last one may be on its way.
        eventually("all replicas are equal", PATIENCE, || {
            all_are(&versions(&mut client, &format!("key:{number}")), "state", "equal")
        });
    }
}

#[test]
fn help_and_what_it_does_not_take() {
    let Some(fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    let help = client.line("QUOIT HELP");
    for name in ["LEVEL", "ROUTE", "VERSIONS", "HELP"] {
        assert!(help.items().iter().any(|line| line.text().starts_with(name)), "{name}: {help:?}");
    }
    for line in ["QUOIT", "QUOIT NOSUCH", "QUOIT ROUTE", "QUOIT LEVEL a b", "QUOIT VERSIONS"] {
        let reply = client.line(line);
        assert!(reply.is_error() && reply.text().starts_with("ERR QUOIT takes: LEVEL"), "{line}: {reply:?}");
    }
    assert_eq!(client.line("QUOIT ROUTE k").items().len(), 3, "one copy: pool, node, address");
    let reply = client.line("QUOIT VERSIONS k");
    assert_eq!(reply.text(), "ERR pool main keeps one copy of each key and no versions");
}
