//! Verbs about all keys: `SCAN`, `KEYS`, `DBSIZE`, `RANDOMKEY`, `FLUSHALL`, `FLUSHDB`, with one copy of each key and with
//! several, while stores come and go.

mod clients;
mod replicated;
mod sharded;

use std::collections::BTreeMap;

use crate::support::{Client, PATIENCE, Value, encode, eventually};

/// The keys of a reply that is an array of names.
fn names(reply: &Value) -> Vec<String> {
    assert!(matches!(reply, Value::Array(_)), "an array of names: {reply:?}");
    reply.items().iter().map(Value::text).collect()
}

/// One page: the next cursor and the names.
#[track_caller]
fn page(client: &mut Client, cursor: &str, options: &str) -> (String, Vec<String>) {
    let reply = client.line(&format!("SCAN {cursor} {options}"));
    let [next, found] = reply.items() else { panic!("SCAN {cursor} {options}: {reply:?}") };
    let next = next.text();
    assert!(next.parse::<i64>().is_ok_and(|number| number >= 0), "the cursor {next}");
    (next, names(found))
}

/// One page, as soon as the stores that it needs answer.
#[track_caller]
fn patient_page(client: &mut Client, cursor: &str, options: &str) -> (String, Vec<String>) {
    let mut reply = Value::Null;
    eventually("a page is served", PATIENCE, || {
        reply = client.line(&format!("SCAN {cursor} {options}"));
        !reply.is_error()
    });
    let [next, found] = reply.items() else { panic!("SCAN {cursor} {options}: {reply:?}") };
    (next.text(), names(found))
}

/// All names of a scan, in the order in which they came; each client asks for a page in turn.
#[track_caller]
fn scan_by_turns(clients: &mut [Client], options: &str) -> Vec<String> {
    let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
    for round in 0..1_000_000 {
        let turn = round % clients.len();
        let (next, found) = page(&mut clients[turn], &cursor, options);
        all.extend(found);
        cursor = next;
        if cursor == "0" {
            return all;
        }
    }
    panic!("SCAN {options} does not end");
}

#[track_caller]
fn scan(client: &mut Client, options: &str) -> Vec<String> {
    let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let (next, found) = page(client, &cursor, options);
        all.extend(found);
        cursor = next;
        if cursor == "0" {
            return all;
        }
        assert!(all.len() < 10_000_000, "SCAN {options} does not end");
    }
}

/// Whether these are the wanted names, each once.
#[track_caller]
fn check_once(mut found: Vec<String>, wanted: &[String], what: &str) {
    found.sort_unstable();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    if found == wanted {
        return;
    }
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    for name in &found {
        *counts.entry(name).or_default() += 1;
    }
    for name in &wanted {
        *counts.entry(name).or_default() -= 1;
    }
    let wrong: Vec<_> = counts.into_iter().filter(|(_, count)| *count != 0).take(10).collect();
    panic!("{what}: {} names instead of {}; too often (or too seldom) by: {wrong:?}", found.len(), wanted.len());
}

/// Whether none of the wanted names is missing, and no others are there.
#[track_caller]
fn check_all_there(mut found: Vec<String>, wanted: &[String], what: &str) {
    found.sort_unstable();
    found.dedup();
    check_once(found, wanted, what);
}

/// Sets that many keys of that prefix; their names.
#[track_caller]
fn fill(client: &mut Client, prefix: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
    for part in names.chunks(200) {
        let requests: Vec<u8> = part.iter().flat_map(|name| encode(&["SET", name.as_str(), "value"])).collect();
        for reply in client.pipeline(&requests, part.len()) {
            assert_eq!(reply.value, Value::Simple(b"OK".to_vec()));
        }
    }
    names
}
