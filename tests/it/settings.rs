//! `CONFIG GET` and `CONFIG SET` of what the stores have, and what `DEBUG` tells of one key.

use crate::support::{Client, Fleet, PATIENCE, Program, RedisServer, Value, eventually};

/// What a store says of a setting.
fn at_store(store: &RedisServer, name: &str) -> String {
    value_of(&mut store.client(), name)
}

fn value_of(client: &mut Client, name: &str) -> String {
    match client.line(&format!("CONFIG GET {name}")).items() {
        [_, value] => value.text(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn all_stores_are_told() {
    for copies in [1, 3] {
        let Some(mut fleet) = Fleet::start_with(3, |config| config.replicas(copies)) else { return };
        let mut client = fleet.client();
        let set = "CONFIG SET set-max-intset-entries 77 Notify-Keyspace-Events KEA";
        assert_eq!(client.line(set).text(), "OK");
        for store in &fleet.stores {
            assert_eq!(at_store(store, "set-max-intset-entries"), "77");
            assert_eq!(at_store(store, "notify-keyspace-events"), "AKE");
        }
        assert_eq!(value_of(&mut client, "set-max-intset-entries"), "77");
        let both = client.line("CONFIG GET set-max-int* slowlog-max-len");
        assert_eq!(both.items().len(), 4, "quoit's own and that of the stores: {both:?}");
        let wrong = client.line("CONFIG SET set-max-intset-entries many");
        assert!(wrong.text().starts_with("ERR CONFIG SET failed"), "a store says what is wrong: {wrong:?}");

        // In one pipeline, what is asked behind a change sees it.
        client.send(b"CONFIG SET hash-max-listpack-entries 7\r\nCONFIG GET hash-max-listpack-entries\r\n");
        assert_eq!(client.receive().value.text(), "OK");
        assert_eq!(client.receive().value.items()[1].text(), "7");

        fleet.stores[1].kill9();
        let reply = client.line("CONFIG SET set-max-intset-entries 78");
        assert!(reply.is_error() && reply.text().contains(Fleet::name(1)), "who was not told is named: {reply:?}");
        eventually("another one is asked", PATIENCE, || value_of(&mut client, "set-max-intset-entries") == "78");
    }
}

#[test]
fn what_is_not_for_clients() {
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.replicas(copies)) else { return };
        let mut client = fleet.client();
        for setting in ["dir /", "maxclients 7", "requirepass x", "no-such 1", "set-max-intset-entries 5 maxmemory 1"] {
            let reply = client.line(&format!("CONFIG SET {setting}"));
            assert!(reply.text().contains("is refused by quoit"), "{setting}: {reply:?}");
            assert_eq!(client.line("PING").text(), "PONG");
        }
        assert_eq!(at_store(&fleet.stores[0], "set-max-intset-entries"), "512", "all of a command or nothing");
        assert_eq!(client.line("CONFIG SET save").text(), "ERR wrong number of arguments for 'config|set' command");
        let odd = "CONFIG SET set-max-intset-entries 5 save";
        assert_eq!(client.line(odd).text(), "ERR wrong number of arguments for 'config|set' command");
        // It is so already.
        assert_eq!(client.command(&["CONFIG", "SET", "save", ""]).text(), "OK");
        let reply = client.line("CONFIG SET maxmemory-policy allkeys-lru");
        assert_eq!(reply.is_error(), copies > 1, "stores that drop keys cannot keep copies: {reply:?}");
        assert_eq!(client.line("CONFIG SET maxmemory-policy noeviction").text(), "OK");

        assert_eq!(client.line("MULTI").text(), "OK");
        assert!(client.line("CONFIG SET set-max-intset-entries 5").is_error());
        assert!(client.line("CONFIG GET set-max-intset-entries").is_error());
        assert!(client.line("EXEC").is_error());
    }
}

#[test]
fn a_key_is_looked_at_where_it_is() {
    let debug = ["--enable-debug-command", "yes"];
    let stores: Option<Vec<_>> = (0..3).map(|_| RedisServer::start_with(Program::Redis, &debug)).collect();
    let Some(stores) = stores else { return };
    let fleet = Fleet::in_front_of(stores, |config| config);
    let mut client = fleet.client();
    for number in 0..20 {
        let key = format!("key:{number}");
        assert_eq!(client.command(&["SET", &key, &"x".repeat(number)]).text(), "OK");
        let reply = client.line(&format!("DEBUG OBJECT {key}"));
        assert!(reply.text().contains("encoding:embstr"), "{reply:?}");
        assert!(client.line(&format!("DEBUG SDSLEN {key}")).text().contains(&format!("val_sds_len:{number}")));
    }
    assert_eq!(client.line("DEBUG OBJECT nothing").text(), "ERR no such key");
    for other in ["DEBUG RELOAD", "DEBUG SEGFAULT", "DEBUG OBJECT", "DEBUG OBJECT a b"] {
        assert!(client.line(other).text().contains("refused by quoit"), "{other}");
    }
    assert_eq!(client.line("DEBUG SLEEP 0").text(), "OK");
    assert_eq!(client.line("PING"), Value::Simple(b"PONG".to_vec()));
}

/// What `PFDEBUG` says of a key is what its store says; what would change one copy alone is refused.
#[test]
fn registers_are_looked_at_where_they_are() {
    let Some(server) = RedisServer::start() else { return };
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.replicas(copies)) else { return };
        let (mut ours, mut theirs) = (fleet.client(), server.client());
        for number in 0..10 {
            let key = format!("hll:{number}");
            let lines =
                [format!("PFADD {key} a b c"), format!("PFDEBUG ENCODING {key}"), format!("PFDEBUG DECODE {key}")];
            // In one pipeline, it sees what was written before.
            ours.send([lines.join("\r\n").as_bytes(), b"\r\n"].concat().as_slice());
            theirs.line(&format!("DEL {key}"));
            for line in lines {
                assert_eq!(ours.receive().value, theirs.line(&line), "{line}");
            }
        }
        for line in ["PFDEBUG ENCODING none", "PFDEBUG ENCODING", "PFSELFTEST"] {
            assert_eq!(ours.line(line), theirs.line(line), "{line}");
        }
        let dense = ours.line("PFDEBUG TODENSE hll:1");
        if copies == 1 {
            assert_eq!(dense, theirs.line("PFDEBUG TODENSE hll:1"));
            assert_eq!(ours.line("PFDEBUG ENCODING hll:1").text(), "dense");
            assert_eq!(ours.line("PFDEBUG GETREG hll:1").items().len(), 16384);
        } else {
            assert!(dense.text().starts_with("ERR 'PFDEBUG' is refused by quoit: but for DECODE"), "{dense:?}");
        }
        assert_eq!(ours.line("MULTI").text(), "OK");
        assert!(ours.line("PFDEBUG ENCODING hll:1").is_error());
        assert!(ours.line("EXEC").is_error());
    }
}
