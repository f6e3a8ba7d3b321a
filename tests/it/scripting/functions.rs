//! Functions: on every node, and again on one that has lost them.

use super::{LIBRARY, bulk};
use crate::support::{Fleet, PATIENCE, Value, encode, eventually};

#[test]
fn a_library_is_on_every_node() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(1);
    for protocol in ["2", "3"] {
        let mut client = fleet.client();
        client.line(&format!("HELLO {protocol}"));
        assert_eq!(client.command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
        for keys in &keys {
            assert_eq!(client.command(&["FCALL", "put", "1", &keys[0], "v"]).text(), "OK");
            assert_eq!(client.command(&["FCALL_RO", "look", "1", &keys[0]]), bulk("v"));
        }
        let Value::Bulk(dump) = client.line("FUNCTION DUMP") else { panic!("a dump") };
        assert_eq!(client.line("FUNCTION DELETE shelf").text(), "OK");
        for keys in &keys {
            assert_eq!(client.command(&["FCALL", "put", "1", &keys[0], "v"]).text(), "ERR Function not found");
        }
        assert_eq!(client.command(&[b"FUNCTION".as_slice(), b"RESTORE", &dump]).text(), "OK");
        for keys in &keys {
            assert_eq!(client.command(&["FCALL", "look", "1", &keys[0]]), bulk("v"));
        }
        assert_eq!(client.line("FUNCTION FLUSH").text(), "OK");
        for store in &fleet.stores {
            assert_eq!(store.client().line("FUNCTION LIST").items(), []);
        }
    }
}

#[test]
fn what_only_some_nodes_have_done_is_said() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    fleet.stores[0].client().command(&["FUNCTION", "LOAD", LIBRARY]);
    let reply = client.command(&["FUNCTION", "LOAD", LIBRARY]);
    let want = format!("ERR FUNCTION LOAD is not complete, repeat it: node {}", Fleet::name(0));
    assert!(reply.text().starts_with(&want) && reply.text().ends_with("already exists"), "{reply:?}");
    assert_eq!(client.command(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]), bulk("shelf"));
    // Gone is gone, whoever had it.
    fleet.stores[0].client().line("FUNCTION FLUSH");
    assert_eq!(client.line("FUNCTION DELETE shelf").text(), "OK");
    assert_eq!(client.line("FUNCTION DELETE shelf").text(), "ERR Library not found");
}

#[test]
fn a_store_that_was_restarted_gets_the_library_of_another() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(10);
    let mut client = fleet.client();
    assert_eq!(client.command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
    for protocol in ["2", "3"] {
        client.line(&format!("HELLO {protocol}"));
        for node in 0..3 {
            fleet.stores[node].restart();
            eventually("the node is back", PATIENCE, || !client.command(&["GET", &keys[node][0]]).is_error());
            let mut requests = Vec::new();
            for key in keys.iter().flatten() {
                requests.extend(encode(&["FCALL", "put", "1", key, protocol]));
                requests.extend(encode(&["FCALL_RO", "look", "1", key]));
            }
            for pair in client.pipeline(&requests, 60).chunks(2) {
                assert_eq!(pair[0].value.text(), "OK");
                assert_eq!(pair[1].value, bulk(protocol));
            }
        }
    }
}

/// A function that nobody has is looked for, and that costs no more than one look a second.
#[test]
fn a_function_that_nobody_has() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    for number in 0..50 {
        let reply = client.command(&["FCALL", "nonesuch", "1", &format!("key:{number}")]);
        assert_eq!(reply.text(), "ERR Function not found");
    }
    assert_eq!(client.command(&["FUNCTION", "LOAD", &LIBRARY.replace("'put'", "'nonesuch'")]), bulk("shelf"));
    for number in 0..50 {
        assert_eq!(client.command(&["FCALL", "nonesuch", "1", &format!("key:{number}"), "v"]).text(), "OK");
    }
}

/// Many clients of both workers meet it at once, and none is told.
#[test]
fn nobody_is_told_while_a_store_forgets() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(8);
    assert_eq!(fleet.client().command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
    let mut clients: Vec<_> = (0..8).map(|_| fleet.client()).collect();
    for round in 0..30 {
        let node = round % 3;
        assert_eq!(fleet.stores[node].client().line("FUNCTION FLUSH").text(), "OK");
        for (client, key) in clients.iter_mut().zip(&keys[node]) {
            client.send(&encode(&["FCALL", "put", "1", key, "v"]));
        }
        for client in &mut clients {
            assert_eq!(client.receive().value.text(), "OK");
        }
    }
}
