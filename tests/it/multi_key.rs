//! Commands over several keys with several nodes: split and merged where that is sound, refused like a cluster where not.

use crate::support::{Client, Fleet, RedisServer, Value, encode, random};

#[test]
fn split_commands_answer_like_one_store() {
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(store) = RedisServer::start() else { return };
    let mut random = random("multi-key");
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (fleet.client(), store.client());
        for client in [&mut subject, &mut reference] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
        }
        for _ in 0..400 {
            let batch: Vec<Vec<Vec<u8>>> = (0..random.usize(1..12)).map(|_| split_command(&mut random)).collect();
            let requests: Vec<u8> = batch.iter().flat_map(|command| encode(command)).collect();
            let got = subject.pipeline(&requests, batch.len());
            let want = reference.pipeline(&requests, batch.len());
            for ((command, got), want) in batch.iter().zip(got).zip(want) {
                let shown: Vec<_> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
                assert_eq!(got.raw, want.raw, "{shown:?}\n  proxy {got:?}\n  store {want:?}");
            }
        }
    }
}

fn split_command(random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let verb = random
        .choice(["MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH", "mget", "GET", "SET", "LPUSH"])
        .unwrap_or("MGET");
    let mut command = vec![verb.as_bytes().to_vec()];
    let keys = if random.u8(..10) == 0 { random.usize(20..300) } else { random.usize(1..9) };
    let keys = if ["GET", "SET", "LPUSH"].contains(&verb) { 1 } else { keys };
    for _ in 0..keys {
        // The same key twice in one command is a case of its own: a small pool makes it frequent.
        command.push(format!("key:{}", random.u8(..40)).into_bytes());
        if ["MSET", "SET", "LPUSH"].contains(&verb) {
            let length = if random.u8(..30) == 0 { 20_000 } else { random.usize(..40) };
            command.push((0..length).map(|_| random.u8(..)).collect());
        }
    }
    command
}

/// What needs its keys together says so in a cluster's words and changes nothing; with one hash tag it works.
#[test]
fn keys_that_must_share_a_node() {
    let Some(fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    let keys = fleet.keys_by_node(1);
    let (a, b) = (&keys[0][0], &keys[1][0]);
    let cases = [
        "MSETNX A 1 B 2",
        "RENAME A B",
        "RENAMENX A B",
        "COPY A B",
        "SINTER A B",
        "SUNIONSTORE A A B",
        "SMOVE A B m",
        "PFCOUNT A B",
        "PFMERGE A B",
        "BITOP AND A A B",
        "ZUNIONSTORE A 2 A B",
        "ZDIFF 2 A B",
        "ZRANGESTORE A B 0 -1",
        "SINTERCARD 2 A B",
        "LMPOP 2 A B LEFT",
        "LMOVE A B LEFT LEFT",
        "RPOPLPUSH A B",
        "LCS A B",
        "SORT A STORE B",
        "GEOSEARCHSTORE A B FROMLONLAT 0 0 BYRADIUS 1 km",
        "XREAD STREAMS A B 0 0",
    ];
    for case in cases {
        let line = case.replace(" A", &format!(" {a}")).replace(" B", &format!(" {b}"));
        let reply = client.line(&line);
        assert!(reply.is_error() && reply.text().starts_with("CROSSSLOT "), "{line}: {reply:?}");
        let tagged = case.replace(" A", " {tag}a").replace(" B", " {tag}b");
        let reply = client.line(&tagged);
        assert!(!reply.text().starts_with("CROSSSLOT"), "{tagged}: {reply:?}");
    }
    for key in [a, b] {
        assert_eq!(client.command(&["EXISTS", key]), Value::Integer(0), "a refused command wrote {key}");
    }
    assert_eq!(client.line("PING").text(), "PONG");
}

/// F5: one dead node costs the keys it has, not the whole command's truth: the error names it, and the rest is served.
#[test]
fn a_dead_node_in_a_split_command() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(3);
    let mut client = fleet.client();
    set_all(&mut client, &keys);
    fleet.stores[1].kill9();
    let all: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().flatten().map(String::as_str)).collect();
    let reply = client.command(&all);
    // Either the whole reply is one error or the dead node's places are: nothing may look like a missing key.
    if reply.is_error() {
        assert!(reply.text().contains(Fleet::name(1)), "the error names the node: {reply:?}");
    } else {
        for (index, item) in reply.items().iter().enumerate() {
            let dead = index / 3 == 1;
            assert_eq!(item.is_error(), dead, "place {index}: {item:?}");
            assert_ne!(*item, Value::Null);
        }
    }
    for (node, keys) in keys.iter().enumerate().filter(|(node, _)| *node != 1) {
        let command: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
        let want: Vec<_> = keys.iter().map(|key| Value::Bulk(key.as_bytes().to_vec())).collect();
        assert_eq!(client.command(&command), Value::Array(want), "node {node} is alive");
    }
    let mut deleted: Vec<&str> = all;
    deleted[0] = "DEL";
    let reply = client.command(&deleted);
    assert!(reply.is_error() && reply.text().contains(Fleet::name(1)), "{reply:?}");
}

fn set_all(client: &mut Client, keys: &[Vec<String>]) {
    for key in keys.iter().flatten() {
        assert_eq!(client.command(&["SET", key, key]).text(), "OK");
    }
}
