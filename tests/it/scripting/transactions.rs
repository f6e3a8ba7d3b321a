//! Scripts and functions between `MULTI` and `EXEC`.

use super::{APPEND, APPEND_DIGEST, LIBRARY, bulk, load};
use crate::support::{Client, Cluster, Fleet, PATIENCE, Reach, RedisServer, Value, encode, eventually};

/// The replies to a transaction of these requests.
fn transact(client: &mut Client, requests: &[&[&str]]) -> Value {
    let mut bytes = encode(&["MULTI"]);
    for request in requests {
        bytes.extend(encode(request));
    }
    bytes.extend(encode(&["EXEC"]));
    client.pipeline(&bytes, requests.len() + 2).pop().expect("as many as requests").value
}

#[test]
fn a_transaction_runs_programs_like_a_server() {
    let (Some(fleet), Some(reference)) = (Fleet::start(1), RedisServer::start()) else { return };
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (fleet.client(), reference.client());
        let mut replies = Vec::new();
        for client in [&mut subject, &mut reference] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
            for line in ["FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"] {
                assert_eq!(client.line(line).text(), "OK");
            }
            assert_eq!(client.command(&["FUNCTION", "LOAD", LIBRARY]), bulk("shelf"));
            let requests: [&[&str]; 9] = [
                &["EVALSHA", APPEND_DIGEST, "1", "{t}k", "a"],
                &["EVAL", APPEND, "1", "{t}k", "b"],
                &["EVALSHA", APPEND_DIGEST, "1", "{t}k", "c"],
                &["EVAL", "return redis.error_reply('MY own')", "0"],
                &["EVAL", "return 1", "x"],
                &["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "{t}k"],
                &["FCALL", "put", "1", "{t}f", "v"],
                &["FCALL_RO", "look", "1", "{t}f"],
                &["FCALL", "nonesuch", "1", "{t}f"],
            ];
            replies.push(transact(client, &requests));
        }
        assert_eq!(replies[0], replies[1]);
    }
}

/// Client libraries ask whether stores have a script before a pipeline: a store that is away is not asked.
#[test]
fn scripts_are_known_while_a_store_is_away_if_there_are_others() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    cluster.stores[1].kill9();
    let mut client = cluster.client(0);
    eventually("it is noticed", PATIENCE, || client.command(&["SCRIPT", "LOAD", APPEND]) == bulk(APPEND_DIGEST));
    assert_eq!(client.command(&["SCRIPT", "EXISTS", APPEND_DIGEST]), Value::Array(vec![Value::Integer(1)]));
    let reply = transact(&mut client, &[&["EVALSHA", APPEND_DIGEST, "1", "k", "a"]]);
    assert_eq!(reply, Value::Array(vec![Value::Integer(1)]));
}

#[test]
fn keys_of_programs_belong_to_the_transaction() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    let apart = transact(&mut client, &[&["SET", &keys[0][0], "v"], &["EVAL", APPEND, "1", &keys[1][0], "a"]]);
    assert!(apart.text().starts_with("EXECABORT"), "{apart:?}");
    for keys in &keys {
        let both = transact(&mut client, &[&["SET", &keys[0], "v"], &["EVAL", APPEND, "1", &keys[0], "a"]]);
        assert_eq!(both, Value::Array(vec![Value::Simple(b"OK".to_vec()), Value::Integer(2)]));
    }
    // Alone it runs where it runs outside of a transaction.
    let outside = client.command(&["EVAL", "return redis.call('INCR', 'here')", "0"]);
    let inside = transact(&mut client, &[&["EVAL", "return redis.call('INCR', 'here')", "0"]]);
    assert_eq!((outside, inside), (Value::Integer(1), Value::Array(vec![Value::Integer(2)])));
    let refused = transact(&mut client, &[&["SCRIPT", "LOAD", "return 1"]]);
    assert!(refused.text().starts_with("EXECABORT"), "{refused:?}");
}

/// The text goes before `MULTI`, on the connection of the transaction.
#[test]
fn a_store_that_was_restarted_is_told_before_a_transaction() {
    let Some(mut fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    load(&mut client, APPEND);
    for is_watching in [false, true] {
        for store in &mut fleet.stores {
            store.restart();
        }
        for keys in &keys {
            let key = &keys[0];
            eventually("the node is back", PATIENCE, || client.command(&["GET", key]) == Value::Null);
            if is_watching {
                assert_eq!(client.command(&["WATCH", key]).text(), "OK");
            }
            let once: &[&str] = &["EVALSHA", APPEND_DIGEST, "1", key, "a"];
            let replies = transact(&mut client, &[once, once]);
            assert_eq!(replies, Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        }
    }
}
