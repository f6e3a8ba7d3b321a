//! One copy of each key.

use super::{check_all_there, check_once, fill, names, page, patient_page, scan, scan_by_turns};
use crate::support::{
    Client, DURABLE, Fleet, PATIENCE, Program, Quoit, QuoitConfig, RedisServer, Value, encode, eventually,
};

#[test]
fn every_key_once() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    assert_eq!(scan(&mut client, ""), Vec::<String>::new());
    assert_eq!(client.line("RANDOMKEY"), Value::Null);
    assert_eq!(client.line("DBSIZE"), Value::Integer(0));
    let strings = fill(&mut client, "string:", 3_000);
    let lists: Vec<String> = (0..300).map(|number| format!("list:{number}")).collect();
    for name in &lists {
        client.line(&format!("RPUSH {name} a"));
    }
    let all = [strings.clone(), lists.clone()].concat();
    for options in ["", "COUNT 1", "COUNT 7", "COUNT 1000", "COUNT 1000000000", "MATCH *"] {
        check_once(scan(&mut client, options), &all, options);
    }
    check_once(scan(&mut client, "MATCH list:*"), &lists, "MATCH");
    check_once(
        scan(&mut client, "MATCH *:1? COUNT 100"),
        &all.iter().filter(|it| is_teen(it)).cloned().collect::<Vec<_>>(),
        "?",
    );
    check_once(scan(&mut client, "TYPE list COUNT 50"), &lists, "TYPE");
    check_once(scan(&mut client, "TYPE string MATCH list:*"), &[], "TYPE and MATCH");
    check_once(names(&client.line("KEYS *")), &all, "KEYS *");
    check_once(names(&client.line("KEYS list:*")), &lists, "KEYS list:*");
    assert_eq!(names(&client.line("KEYS string:17")), ["string:17"]);
    assert_eq!(names(&client.line("KEYS nothing")), Vec::<String>::new());
    assert_eq!(client.line("DBSIZE"), Value::Integer(3_300));
    for _ in 0..50 {
        assert!(all.contains(&client.line("RANDOMKEY").text()));
    }
    client.line("HELLO 3");
    check_once(names(&client.line("KEYS *")), &all, "KEYS * in RESP3");
    check_once(scan(&mut client, "COUNT 100"), &all, "SCAN in RESP3");
    assert_eq!(client.line("FLUSHALL").text(), "OK");
    assert_eq!(client.line("DBSIZE"), Value::Integer(0));
    assert_eq!(client.command_raw(&["RANDOMKEY"]).raw, b"_\r\n");
    assert_eq!(names(&client.line("KEYS *")), Vec::<String>::new());
    fill(&mut client, "again:", 20);
    assert_eq!(client.line("FLUSHDB SYNC").text(), "OK");
    assert_eq!(client.line("DBSIZE"), Value::Integer(0));
}

fn is_teen(name: &str) -> bool {
    let number = name.split(':').nth(1).unwrap_or_default();
    number.len() == 2 && number.starts_with('1')
}

/// What comes before such a command in a pipeline is done before it, and what comes after it later.
#[test]
fn a_pipeline_keeps_its_order() {
    let Some(fleet) = Fleet::start(3) else { return };
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = fleet.client();
        client.line(hello);
        let words = [
            "SET a 1", "SET b 2", "SET c 3", "DBSIZE", "SET d 4", "KEYS *", "DEL a b", "DBSIZE", "FLUSHALL", "SET e 5",
            "DBSIZE", "FLUSHDB", "DBSIZE",
        ];
        let requests: Vec<u8> = words.iter().flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>())).collect();
        for _ in 0..20 {
            let replies = client.pipeline(&requests, words.len());
            let integer = |at: usize| replies[at].value.clone();
            assert_eq!(integer(3), Value::Integer(3));
            assert_eq!(replies[5].value.items().len(), 4);
            assert_eq!(
                (integer(7), integer(10), integer(12)),
                (Value::Integer(2), Value::Integer(1), Value::Integer(0))
            );
        }
    }
}

/// No proxy remembers a scan: others with the same file go on with it, in whatever order theirs has the nodes.
#[test]
fn proxies_continue_each_others_cursors() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut config = Fleet::config_of(&fleet.stores);
    config.nodes.reverse();
    let other = Quoit::start(&config);
    let all = fill(&mut fleet.client(), "key:", 1_000);
    let mut clients = [fleet.client(), other.client(), fleet.client()];
    check_once(scan_by_turns(&mut clients, "COUNT 17"), &all, "by turns");
}

/// A cursor that was made under another ring begins the scan again.
#[test]
fn another_ring_starts_over() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let all = fill(&mut fleet.client(), "key:", 300);
    let (mut cursor, mut before) = ("0".to_owned(), Vec::new());
    while before.len() < 150 {
        let (next, found) = page(&mut fleet.client(), &cursor, "COUNT 20");
        before.extend(found);
        cursor = next;
    }
    let more = RedisServer::start().expect("the others have started");
    fleet.stores.push(more);
    let quoit = fleet.quoit().expect("it is one");
    quoit.write_config(&quoit.text_of(&Fleet::config_of(&fleet.stores)));
    let mut client = fleet.client();
    eventually("the new ring is in force", PATIENCE, || client.line("INFO").text().contains("nodes=4"));
    // Keys that have another owner now are not reachable, so not shown; all that are come, whatever was seen before.
    let reachable: Vec<String> =
        all.iter().filter(|name| client.line(&format!("EXISTS {name}")) == Value::Integer(1)).cloned().collect();
    assert!(reachable.len() < all.len(), "the new node owns something");
    let mut after = Vec::new();
    while cursor != "0" {
        let (next, found) = page(&mut client, &cursor, "COUNT 20");
        after.extend(found);
        cursor = next;
    }
    check_once(after, &reachable, "after the edit");
    check_once(names(&client.line("KEYS *")), &reachable, "KEYS");
}

/// A store that is killed and started again in the middle of a scan has other cursors: it is scanned anew.
#[test]
fn a_node_restarts_in_mid_scan() {
    let stores: Option<Vec<_>> = (0..3).map(|_| RedisServer::start_with(Program::Redis, DURABLE)).collect();
    let Some(stores) = stores else { return };
    let mut fleet =
        Fleet::in_front_of(stores, |config| config.tables("[pool.breaker]\nbackoff_min_ms = 20\nbackoff_max_ms = 100"));
    let mut client = fleet.client();
    let all = fill(&mut client, "key:", 2_000);
    for victim in 0..3 {
        let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
        let mut restarts = 0;
        loop {
            let (next, some) = patient_page(&mut client, &cursor, "COUNT 50");
            found.extend(some);
            cursor = next;
            if cursor == "0" {
                break;
            }
            // In the middle of each of the stores.
            if found.len() / 667 >= restarts && found.len() % 667 > 300 && restarts < 3 {
                restarts += 1;
                fleet.stores[victim].kill9();
                let reply = client.line("DBSIZE");
                assert!(reply.text().contains(Fleet::name(victim)), "{reply:?}");
                fleet.stores[victim].restart();
                // What it has on disk is loaded first.
                eventually("it is back", PATIENCE, || client.line("DBSIZE") == Value::Integer(2_000));
            }
        }
        assert_eq!(restarts, 3);
        check_all_there(found, &all, "with a restarted store");
    }
}

/// With one copy nobody else has the keys of a dead node: the error names it, and the same cursor goes on later.
#[test]
fn a_dead_node_is_named() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    fill(&mut client, "key:", 100);
    fleet.stores[1].kill9();
    for line in ["KEYS *", "DBSIZE", "FLUSHALL", "FLUSHDB"] {
        fill_survivors(&mut client);
        let reply = client.line(line);
        assert!(reply.is_error() && reply.text().contains(Fleet::name(1)), "{line}: {reply:?}");
        let others = [0, 2].iter().any(|other| reply.text().contains(Fleet::name(*other)));
        assert!(!others, "{line} names nobody else: {reply:?}");
    }
    // The others are flushed.
    assert_eq!(fleet.stores[0].client().line("DBSIZE"), Value::Integer(0));
    let mut cursor = "0".to_owned();
    let error = loop {
        let reply = client.line(&format!("SCAN {cursor}"));
        if reply.is_error() {
            break reply.text();
        }
        cursor = reply.items()[0].text();
        assert_ne!(cursor, "0", "a scan without a node is not whole");
    };
    assert!(error.contains(Fleet::name(1)), "{error}");
    fleet.stores[1].restart();
    while cursor != "0" {
        cursor = patient_page(&mut client, &cursor, "").0;
    }
}

fn fill_survivors(client: &mut Client) {
    for number in 0..100 {
        client.line(&format!("SET key:{number} value"));
    }
}

/// What routes do to names is undone.
#[test]
fn routes_are_undone() {
    let Some(stores) = Fleet::stores(3) else { return };
    let (main, other) = stores.split_at(2);
    let tables = format!(
        "[[listener.route]]\nprefix = \"s:\"\npool = \"other\"\nreplace_prefix = \"x:\"\n\
         [[listener.route]]\nprefix = \"k:\"\npool = \"other\"\n\
         [[pool]]\nname = \"other\"\n[[pool.node]]\nname = \"x\"\naddress = \"{}\"\n",
        other[0].address()
    );
    let quoit = Quoit::start(&Fleet::config_of(main).listener(&tables));
    let mut client = quoit.client();
    let all = [fill(&mut client, "s:", 100), fill(&mut client, "k:", 100), fill(&mut client, "plain:", 100)].concat();
    assert_eq!(other[0].client().line("EXISTS x:7 s:7"), Value::Integer(1));
    check_once(scan(&mut client, "COUNT 9"), &all, "SCAN");
    check_once(scan(&mut client, "MATCH s:* COUNT 9"), &all[..100], "of the rewritten route");
    check_once(names(&client.line("KEYS k:*")), &all[100..200], "of the kept route");
    check_once(scan(&mut client, "MATCH plain:* COUNT 9"), &all[200..], "of the default pool");
    check_once(names(&client.line("KEYS x:*")), &[], "what only the store calls so");
    assert_eq!(client.line("DBSIZE"), Value::Integer(300));
    for _ in 0..30 {
        assert!(all.contains(&client.line("RANDOMKEY").text()));
    }
    assert_eq!(client.line("FLUSHALL").text(), "OK");
    assert!(stores.iter().all(|store| store.client().line("DBSIZE") == Value::Integer(0)));
}

#[test]
fn keys_has_a_bound() {
    let Some(fleet) = Fleet::start_with(2, |config| config.listener("keys_reply_bytes_max = 65536")) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    let all = fill(&mut client, &"long".repeat(20), 1_000);
    let reply = client.line("KEYS *");
    assert_eq!(
        reply.text(),
        "ERR the reply to KEYS exceeds quoit's limit of 65536 bytes (keys_reply_bytes_max); use SCAN"
    );
    assert_eq!(names(&client.line(&format!("KEYS {}", all[7]))), [all[7].clone()]);
    check_once(scan(&mut client, "COUNT 100"), &all, "SCAN");
}

/// A million keys: the reply is long, the proxy serves others meanwhile, and nothing of it stays.
#[test]
fn keys_of_many_keys() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    // As many as a debug build goes through in a few seconds.
    let count = crate::support::setting("QUOIT_TEST_KEYS").unwrap_or(100_000);
    for store in &fleet.stores {
        store.client().line(&format!("DEBUG POPULATE {count} key 3"));
    }
    let mut client = fleet.client();
    let reply = client.line("KEYS *");
    assert_eq!(reply.items().len() as u64, count, "each is on both stores, and one owns it");
    // Who does not read holds up nobody, and gets it all when it does.
    let mut slow = fleet.client();
    slow.send(&encode(&["KEYS", "*"]));
    for _ in 0..3 {
        assert_eq!(names(&client.line("KEYS key:17")), ["key:17"]);
    }
    assert_eq!(slow.receive().value.items().len() as u64, count);
    drop(slow);
    let mut hasty = fleet.client();
    // Who leaves in the middle leaves nothing behind.
    hasty.send(&encode(&["KEYS", "*"]));
    hasty.close();
    drop(hasty);
    let quoit = fleet.quoit().expect("it is one");
    eventually("the one who left is gone", PATIENCE, || quoit.metric_sum("quoit_clients_open") <= 1.0);
    assert_eq!(client.line("PING").text(), "PONG");
}

#[test]
fn a_long_command_has_an_end() {
    let Some(fleet) = Fleet::start_with(1, |config| config.listener("keyspace_timeout_ms = 100")) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    fleet.stores[0].client().line("DEBUG POPULATE 1000000 key 3");
    let reply = fleet.client().line("KEYS nothing");
    assert!(reply.text().starts_with("ERR KEYS was not done within 100 ms (keyspace_timeout_ms)"), "{reply:?}");
}

/// Errors are those of a single server, to the letter.
#[test]
fn errors_are_those_of_a_server() {
    const LINES: &[&str] = &[
        "SCAN",
        "SCAN x",
        "SCAN 1x",
        "SCAN 99999999999999999999999",
        "SCAN 0 COUNT",
        "SCAN 0 COUNT x",
        "SCAN 0 COUNT 0",
        "SCAN 0 COUNT -5",
        "SCAN 0 COUNT 1.5",
        "SCAN 0 COUNT +5",
        "SCAN 0 COUNT 010",
        "SCAN 0 COUNT 99999999999999999999",
        "SCAN 0 MATCH",
        "SCAN 0 TYPE",
        "SCAN 0 bogus",
        "SCAN 0 bogus 1",
        "SCAN 0 COUNT 1 COUNT x",
        "SCAN 0 MATCH a MATCH",
        "SCAN x COUNT x",
        "SCAN 0 TYPE nosuchtype",
        "SCAN 0 TYPE",
        "KEYS",
        "KEYS a b",
        "DBSIZE x",
        "RANDOMKEY x",
        "FLUSHALL x",
        "FLUSHALL ASYNC x",
        "FLUSHALL ASYNC SYNC",
        "FLUSHDB x",
        "FLUSHDB SYNC 1",
        "SCAN 0 count 10 match nothing type string",
    ];
    for program in [Program::Redis, Program::Named("QUOIT_REDIS_8"), Program::Named("QUOIT_VALKEY")] {
        let Some(single) = RedisServer::start_with(program, &[]) else { continue };
        let stores: Option<Vec<_>> = (0..2).map(|_| RedisServer::start_with(program, &[])).collect();
        let Some(stores) = stores else { continue };
        let fleet = Fleet::in_front_of(stores, |config| config);
        let (mut plain, mut client) = (single.client(), fleet.client());
        for line in LINES {
            let (wanted, got) = (plain.line(line), client.line(line));
            if wanted.is_error() || got.is_error() {
                assert_eq!(got, wanted, "{line} on {program:?}");
            }
        }
    }
}

/// Any number is taken as a cursor, by servers too, and the scan that goes on from there ends.
#[test]
fn strange_cursors_do_no_harm() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    fill(&mut client, "key:", 200);
    let mut random = crate::support::random("strange_cursors_do_no_harm");
    for _ in 0..300 {
        let mut cursor = (random.u64(..) >> random.u32(..64)).to_string();
        for _ in 0..1_000 {
            cursor = page(&mut client, &cursor, "COUNT 100").0;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(cursor, "0", "the scan ends");
    }
    assert!(!client.line("SCAN -1").is_error());
    assert!(!client.command(&["SCAN", ""]).is_error());
}

/// Other versions of the stores.
#[test]
fn other_versions() {
    for program in [Program::Named("QUOIT_REDIS_62"), Program::Named("QUOIT_REDIS_8"), Program::Named("QUOIT_VALKEY")] {
        let stores: Option<Vec<_>> = (0..3).map(|_| RedisServer::start_with(program, &[])).collect();
        let Some(stores) = stores else { continue };
        let fleet = Fleet::in_front_of(stores, |config| config);
        let mut client = fleet.client();
        let all = fill(&mut client, "key:", 1_000);
        check_once(scan(&mut client, "COUNT 30 TYPE string"), &all, "SCAN");
        check_once(names(&client.line("KEYS *")), &all, "KEYS");
        assert_eq!(client.line("DBSIZE"), Value::Integer(1_000));
        assert!(all.contains(&client.line("RANDOMKEY").text()));
        assert_eq!(client.line("FLUSHALL SYNC").text(), "OK");
        assert_eq!(client.line("DBSIZE"), Value::Integer(0));
    }
}

/// A store whose user may not ask for `INFO` is walked all the same.
#[test]
fn a_user_without_info() {
    let Some(stores) = Fleet::stores(2) else { return };
    for store in &stores {
        store.client().line("ACL SETUSER walker on >secret ~* +@all -info");
    }
    let nodes = stores.iter().enumerate().map(|(index, store)| (Fleet::name(index), store.address()));
    let config = QuoitConfig::new(nodes)
        .pool("username = \"walker\"\npassword_env = \"WALKER\"")
        .environment("WALKER", &"secret");
    let quoit = Quoit::start(&config);
    let mut client = quoit.client();
    let all = fill(&mut client, "key:", 300);
    check_once(scan(&mut client, ""), &all, "SCAN");
    check_once(names(&client.line("KEYS *")), &all, "KEYS");
}
