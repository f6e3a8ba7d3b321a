//! Stores that have forgotten a script are given it again.

use std::thread;

use super::{APPEND, APPEND_DIGEST, bulk, load};
use crate::support::{Client, Fleet, PATIENCE, Program, Quoit, RedisServer, Value, encode, eventually};

/// Everything that a client may be told of a script that nobody has.
const UNKNOWN: &str = "NOSCRIPT No matching script. Please use EVAL.";

#[test]
fn a_store_that_was_restarted_is_told() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(10);
    let mut client = fleet.client();
    load(&mut client, APPEND);
    for protocol in ["2", "3"] {
        client.line(&format!("HELLO {protocol}"));
        for store in &mut fleet.stores {
            store.restart();
        }
        for keys in &keys {
            eventually("the node is back", PATIENCE, || !client.command(&["GET", &keys[0]]).is_error());
            assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]), Value::Integer(1));
        }
        // And where the first to notice is a pipeline.
        for store in &mut fleet.stores {
            store.restart();
        }
        for keys in &keys {
            eventually("the node is back", PATIENCE, || !client.command(&["GET", &keys[0]]).is_error());
        }
        let mut requests = Vec::new();
        for key in keys.iter().flatten() {
            for word in ["x", "y"] {
                requests.extend(encode(&["EVALSHA", APPEND_DIGEST, "1", key, word]));
            }
            requests.extend(encode(&["GET", key]));
        }
        for three in client.pipeline(&requests, 90).chunks(3) {
            assert_eq!(three[0].value, Value::Integer(1));
            assert_eq!(three[1].value, Value::Integer(2));
            assert_eq!(three[2].value, bulk("xy"));
        }
        for key in keys.iter().flatten() {
            client.command(&["DEL", key]);
        }
    }
}

/// Told to forget by somebody whom the proxy does not know: the store says so, and is told.
#[test]
fn a_store_that_was_told_to_forget_is_told() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    load(&mut client, APPEND);
    for protocol in ["2", "3"] {
        client.line(&format!("HELLO {protocol}"));
        for keys in &keys {
            client.command(&["DEL", &keys[0]]);
            for length in 1..20 {
                if length % 3 == 0 {
                    for store in &fleet.stores {
                        assert_eq!(store.client().line("SCRIPT FLUSH").text(), "OK");
                    }
                }
                let reply = client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]);
                assert_eq!(reply, Value::Integer(length));
            }
        }
    }
}

/// Nothing overtakes: whether a request in the middle of a pipeline is healed or fails, those behind it see what it did.
#[test]
fn a_pipeline_that_meets_it_keeps_its_order() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    load(&mut client, APPEND);
    let mut healed = 0;
    for round in 0..200 {
        if round % 10 == 0 {
            for store in &fleet.stores {
                assert_eq!(store.client().line("SCRIPT FLUSH").text(), "OK");
            }
        }
        let key = format!("key:{round}");
        let mut requests = encode(&["SET", &key, "x"]);
        for _ in 0..3 {
            requests.extend(encode(&["EVALSHA", APPEND_DIGEST, "1", &key, "y"]));
            requests.extend(encode(&["STRLEN", &key]));
        }
        let replies = client.pipeline(&requests, 7);
        let mut length = 1;
        for pair in replies[1..].chunks(2) {
            match &pair[0].value {
                Value::Integer(now) => {
                    length += 1;
                    assert_eq!(*now, length);
                }
                other => assert_eq!(other.text(), UNKNOWN),
            }
            assert_eq!(pair[1].value, Value::Integer(length), "{replies:?}");
        }
        healed += usize::from(length == 4);
    }
    // Each store is told by the first round that asks it.
    assert!(160 <= healed, "{healed} of 200 rounds succeed");
}

/// Many clients of several workers meet it at once, and none is told.
#[test]
fn nobody_is_told_while_stores_forget() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    load(&mut fleet.client(), APPEND);
    let run = |number: usize| {
        let mut client = fleet.client();
        for round in 0..300_i64 {
            let reply = client.command(&["EVALSHA", APPEND_DIGEST, "1", &format!("{number}:{}", round % 7), "a"]);
            assert_eq!(reply, Value::Integer(round / 7 + 1));
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || run(number))).collect();
        let mut stores: Vec<Client> = fleet.stores.iter().map(RedisServer::client).collect();
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            for store in &mut stores {
                assert_eq!(store.line("SCRIPT FLUSH").text(), "OK");
            }
            thread::yield_now();
        }
    });
}

#[test]
fn what_nobody_knows_is_said_to_be_unknown() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    for keys in &keys {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]).text(), UNKNOWN);
    }
    load(&mut client, APPEND);
    assert_eq!(client.line("SCRIPT FLUSH").text(), "OK");
    for keys in &keys {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]).text(), UNKNOWN);
        assert_eq!(client.command(&["EXISTS", &keys[0]]), Value::Integer(0));
    }
    // As every client library goes on.
    assert_eq!(client.command(&["EVAL", APPEND, "1", &keys[0][0], "a"]), Value::Integer(1));
    for keys in &keys[1..] {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]), Value::Integer(1));
    }
}

/// What one worker remembers that it has handed over, another may have had forgotten.
#[test]
fn a_flush_is_forgotten_when_the_text_comes_again() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(1);
    // On both workers.
    let mut clients: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
    for round in 0..20_i64 {
        let key = |node: usize| format!("{}:{round}", keys[node][0]);
        for client in &mut clients {
            assert!(!client.command(&["EVAL", APPEND, "1", "warm", "x"]).is_error());
        }
        let flusher = usize::try_from(round % 4).expect("it is small");
        assert_eq!(clients[flusher].line("SCRIPT FLUSH").text(), "OK");
        for client in &mut clients {
            let unknown = client.command(&["EVALSHA", APPEND_DIGEST, "1", &key(0), "x"]);
            assert_eq!(unknown.text(), UNKNOWN);
        }
        for (client, length) in clients.iter_mut().zip(1..) {
            assert_eq!(client.command(&["EVAL", APPEND, "1", &key(1), "x"]), Value::Integer(length));
            for node in [0, 2] {
                let other = client.command(&["EVALSHA", APPEND_DIGEST, "1", &format!("{}{node}", key(node)), "x"]);
                assert_eq!(other, Value::Integer(length));
            }
        }
    }
}

/// Too long to be kept: not sent again, but the text goes ahead of the next one.
#[test]
fn a_long_request_is_told_and_the_next_one_is_not() {
    let Some(mut fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    load(&mut client, APPEND);
    let long = "x".repeat(1_000_000);
    let call = |client: &mut Client| client.command(&["EVALSHA", APPEND_DIGEST, "1", "k", &long]);
    assert_eq!(call(&mut client), Value::Integer(1_000_000));
    assert_eq!(fleet.stores[0].client().line("SCRIPT FLUSH").text(), "OK");
    assert_eq!(call(&mut client).text(), UNKNOWN);
    assert_eq!(call(&mut client), Value::Integer(2_000_000));
    fleet.stores[0].restart();
    eventually("the node is back", PATIENCE, || client.line("GET k") == Value::Null);
    assert_eq!(call(&mut client), Value::Integer(1_000_000));
}

/// A proxy that has never seen a text cannot give it to a store; the client can, as with one server.
#[test]
fn another_proxy_hears_the_text_from_its_clients() {
    let Some(mut fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let other = Quoit::start(&Fleet::config_of(&fleet.stores));
    let keys = fleet.keys_by_node(1);
    load(&mut fleet.client(), APPEND);
    let mut client = other.client();
    for keys in &keys {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]), Value::Integer(1));
    }
    for store in &mut fleet.stores {
        store.restart();
    }
    for keys in &keys {
        eventually("the node is back", PATIENCE, || client.command(&["GET", &keys[0]]) == Value::Null);
    }
    assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0][0], "a"]).text(), UNKNOWN);
    assert_eq!(client.command(&["EVAL", APPEND, "1", &keys[0][0], "a"]), Value::Integer(1));
    for (keys, length) in keys.iter().zip([2, 1]) {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]), Value::Integer(length));
    }
}

/// A script whose own answer looks like the server's has run, and is not run again.
#[test]
fn a_script_that_says_so_itself_runs_once() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let script =
        "redis.call('INCR', KEYS[1]) return redis.error_reply('NOSCRIPT No matching script. Please use EVAL.')";
    let digest = load(&mut client, script);
    for count in 1..5 {
        assert_eq!(client.command(&["EVALSHA", &digest, "1", "k"]).text(), UNKNOWN);
        assert_eq!(client.line("GET k"), bulk(&count.to_string()));
    }
}

/// A proxy that has never seen the script asks the other stores, where they tell (Valkey).
#[test]
fn another_store_tells_the_text() {
    let start = || RedisServer::start_with(Program::Named("QUOIT_VALKEY"), &[]);
    let (Some(one), Some(two)) = (start(), start()) else { return };
    let fleet = Fleet::in_front_of(vec![one, two], |config| config);
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    load(&mut fleet.stores[0].client(), APPEND);
    let mut client = fleet.client();
    assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[1][0], "a"]), Value::Integer(1));
    assert_eq!(client.line(&format!("SCRIPT SHOW {APPEND_DIGEST}")), bulk(APPEND));
    let unknown = "f".repeat(40);
    assert!(client.line(&format!("SCRIPT SHOW {unknown}")).text().starts_with("NOSCRIPT"));
    assert!(client.line(&format!("EVALSHA {unknown} 1 k")).text().starts_with("NOSCRIPT"));
}
