//! Pipelines of many keys: what a batch says to a store is put together, and no client may notice.

use crate::support::{Client, Cluster, Fault, PATIENCE, Reach, RedisServer, Reply, Value, encode, eventually, random};

/// Sends commands at once; their replies.
fn pipeline(client: &mut Client, lines: &[String]) -> Vec<Value> {
    let requests: Vec<u8> = lines.iter().flat_map(|line| encode(&line.split(' ').collect::<Vec<_>>())).collect();
    client.pipeline(&requests, lines.len()).into_iter().map(|reply: Reply| reply.value.sorted()).collect()
}

/// Commands that are gathered, with those in between that are not.
fn command(random: &mut fastrand::Rng) -> String {
    let mut key = || format!("k{}", random.u32(..12));
    let (one, other) = (key(), key());
    let number = random.u32(..100);
    match random.u32(..24) {
        0..=7 => format!("SET {one} {number}"),
        8..=15 => format!("GET {one}"),
        16 => format!("INCR {one}"),
        17 => format!("DEL {one}"),
        18 => format!("MSET {one} {number} {other} x{number}"),
        19 => format!("MGET {one} {other}"),
        20 => format!("RPUSH {one} a"),
        21 => format!("STRLEN {one}"),
        22 => format!("SET {one} {number} PX 9000000"),
        _ => format!("EXISTS {one}"),
    }
}

#[test]
fn pipelines_of_many_keys_answer_as_one_store_does() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let Some(reference) = RedisServer::start() else { return };
    let mut random = random("pipelines_of_many_keys_answer_as_one_store_does");
    let mut pairs = [cluster.client(0), cluster.client(0)].map(|subject| (subject, reference.client()));
    for client in [&mut pairs[1].0, &mut pairs[1].1] {
        assert!(!client.line("HELLO 3").is_error());
    }
    for turn in 0..80 {
        let (subject, reference) = &mut pairs[turn % 2];
        let count = random.usize(2..120);
        let lines: Vec<String> = (0..count).map(|_| command(&mut random)).collect();
        assert_eq!(pipeline(subject, &lines), pipeline(reference, &lines), "{}", lines.join("|"));
    }
    cluster.converges("after pipelines");
}

/// Short values are asked for together; that they were long shows when they come.
#[test]
fn values_that_turn_out_to_be_long() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut writer = cluster.client(0);
    for (name, bytes, count) in [("some", 700, 64), ("much", 9_000, 64), ("more", 200_000, 8)] {
        let value = |number: usize| format!("{number}:{}", "x".repeat(bytes));
        let sets: Vec<String> = (0..count).map(|number| format!("SET {name}{number} {}", value(number))).collect();
        assert!(pipeline(&mut writer, &sets).iter().all(|reply| reply.text() == "OK"));
        // A proxy that has read no long value yet, and then knows better.
        let mut reader = cluster.client(1);
        let short: Vec<String> = (0..400).map(|number| format!("GET none{number}")).collect();
        pipeline(&mut reader, &short);
        let gets: Vec<String> = (0..count).map(|number| format!("GET {name}{number}")).collect();
        for _ in 0..3 {
            let values: Vec<String> = pipeline(&mut reader, &gets).iter().map(Value::text).collect();
            assert!(values.iter().enumerate().all(|(number, found)| *found == value(number)), "{name}");
        }
    }
}

/// A store that has forgotten its scripts gets their text for each write.
#[test]
fn scripts_that_were_forgotten() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    for store in &cluster.stores {
        assert_eq!(store.client().line("SCRIPT FLUSH").text(), "OK");
    }
    let sets: Vec<String> = (0..64).map(|number| format!("SET k{number} {number}")).collect();
    assert!(pipeline(&mut client, &sets).iter().all(|reply| reply.text() == "OK"));
    cluster.converges("after the scripts were flushed");
}

/// With one store away two of three replicas answer every part of a batch, and it catches up.
#[test]
fn one_store_is_away() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut client = cluster.client(0);
    for fault in [Fault::Swallow, Fault::Lose, Fault::Refuse] {
        cluster.disturb(1, fault, |_| true);
        if fault == Fault::Refuse {
            cluster.cut(1, |_| true);
        }
        for turn in 0..4 {
            let sets: Vec<String> = (0..64).map(|number| format!("SET k{number} {turn}:{number}")).collect();
            assert!(pipeline(&mut client, &sets).iter().all(|reply| reply.text() == "OK"), "{fault:?}");
            let gets: Vec<String> = (0..64).map(|number| format!("GET k{number}")).collect();
            let found = pipeline(&mut client, &gets);
            for (number, value) in found.iter().enumerate() {
                assert_eq!(value.text(), format!("{turn}:{number}"), "{fault:?}");
            }
        }
        cluster.disturb(1, Fault::None, |_| true);
        cluster.cut(1, |_| true);
        eventually("the store is back", PATIENCE, || !client.line("GET back").is_error());
        cluster.converges("after a store was away");
    }
}
