//! What the stores of a replicated pool hold, asked of each of them directly: whether the replicas of a key are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::client::{Client, Value, encode};
use super::redis::RedisServer;

/// What the proxy's own keys begin with.
const RESERVED: &[u8] = b"\0q";

/// Where the record of a key is: it shares the hash tag of its key.
pub(crate) fn record_key(key: &[u8]) -> Vec<u8> {
    let open = key.iter().position(|byte| *byte == b'{');
    let tagged =
        open.is_some_and(|open| key[open + 1..].iter().position(|byte| *byte == b'}').is_some_and(|at| at > 0));
    if tagged { [b"\0qw", key].concat() } else { [b"\0qv{", key, b"}"].concat() }
}

/// The keys of one store, without the proxy's own.
fn keys(client: &mut Client) -> Vec<Vec<u8>> {
    let all = client.line("KEYS *");
    let bytes = all.items().iter().filter_map(|item| match item {
        Value::Bulk(bytes) => Some(bytes.clone()),
        _ => None,
    });
    bytes.filter(|key| !key.starts_with(RESERVED)).collect()
}

/// Asks one thing about every key, in pipelines.
fn ask(client: &mut Client, keys: &[Vec<u8>], command: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<Value> {
    let mut answers = Vec::new();
    for part in keys.chunks(200) {
        let requests: Vec<u8> = part.iter().flat_map(|key| encode(&command(key))).collect();
        answers.extend(client.pipeline(&requests, part.len()).into_iter().map(|reply| reply.value));
    }
    answers
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Every key of a store and what it holds: type, digest of the value, and when it expires.
pub(crate) fn contents(store: &RedisServer) -> BTreeMap<Vec<u8>, String> {
    let mut client = store.client();
    let keys = keys(&mut client);
    let types = ask(&mut client, &keys, |key| words(&[b"TYPE", key]));
    let digests = ask(&mut client, &keys, |key| words(&[b"DEBUG", b"DIGEST-VALUE", key]));
    let expiries = ask(&mut client, &keys, |key| words(&[b"PEXPIRETIME", key]));
    let mut contents = BTreeMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        let kind = types[index].text();
        if kind == "none" {
            continue; // Expired meanwhile.
        }
        let digest = digests[index].items().first().map(Value::text).unwrap_or_default();
        // A server before 7.0 cannot say it.
        let expiry = if expiries[index].is_error() { String::new() } else { format!("{:?}", expiries[index]) };
        contents.insert(key, format!("{kind} {digest} expires {expiry}"));
    }
    contents
}

/// The accepted ballot of each of `keys` in one store; nothing where there is no record.
pub(crate) fn records(store: &RedisServer, keys: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let values = ask(&mut store.client(), keys, |key| words(&[b"GET", &record_key(key)]));
    let bytes = values.into_iter().map(|value| if let Value::Bulk(bytes) = value { bytes } else { Vec::new() });
    bytes.map(|bytes| bytes.get(1..19).unwrap_or_default().to_vec()).collect()
}

/// What keeps the stores from being equal: each key that is on any of them must be on `replicas` of them, with one
/// value, one expiry and one accepted ballot. All stores must run.
pub(crate) fn differences(stores: &[RedisServer], replicas: usize) -> Vec<String> {
    let held: Vec<_> = stores.iter().map(contents).collect();
    let keys: Vec<Vec<u8>> =
        held.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>().into_iter().cloned().collect();
    let ballots: Vec<_> = stores.iter().map(|store| records(store, &keys)).collect();
    let mut differences = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let shown = key[..key.len().min(60)].escape_ascii();
        let values: Vec<_> = held.iter().map(|held| held.get(key)).collect();
        let copies = values.iter().flatten().count();
        if copies != replicas || values.iter().flatten().collect::<BTreeSet<_>>().len() != 1 {
            let ballots: Vec<_> = ballots.iter().map(|of| of[index].escape_ascii().to_string()).collect();
            differences.push(format!("{shown}: {copies} copies of {replicas}: {values:?}, ballots {ballots:?}"));
            continue;
        }
        let holders = (0..stores.len()).filter(|&store| values[store].is_some());
        let ballots: BTreeSet<_> = holders.map(|store| &ballots[store][index]).collect();
        if ballots.len() != 1 {
            let ballots: Vec<_> = ballots.iter().map(|ballot| ballot.escape_ascii().to_string()).collect();
            differences.push(format!("{shown}: one value, ballots {ballots:?}"));
        }
    }
    differences
}

/// The keys that fewer than `replicas` stores have, whatever the values.
pub(crate) fn missing(stores: &[RedisServer], replicas: usize) -> Vec<Vec<u8>> {
    let mut copies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for key in stores.iter().flat_map(|store| keys(&mut store.client())) {
        *copies.entry(key).or_default() += 1;
    }
    copies.into_iter().filter(|(_, copies)| *copies < replicas).map(|(key, _)| key).collect()
}

/// Whether every store says that it is a member of the pool: its fence has the state `M`.
pub(crate) fn all_vote(stores: &[RedisServer]) -> bool {
    stores.iter().all(|store| match store.client().command(&[b"GET".as_slice(), b"\0qf"]) {
        Value::Bulk(fence) => fence.get(16) == Some(&b'M'),
        _ => false,
    })
}

/// Asks the proxy once to change nothing about every key that is on any store: unlike a read, that needs all replicas.
pub(crate) fn touch_all(proxy: SocketAddr, stores: &[RedisServer]) {
    let all: BTreeSet<Vec<u8>> = stores.iter().flat_map(|store| keys(&mut store.client())).collect();
    let all: Vec<_> = all.into_iter().collect();
    // A point in the past is later than no expiry.
    drop(ask(&mut Client::connect(proxy), &all, |key| words(&[b"PEXPIREAT", key, b"1", b"GT"])));
}
