//! Golden vectors: the ring chooses what the real programs chose. `tests/data/ring/generate.py` made the data by running
//! nutcracker, libmemcached and a redis-server in cluster mode; nothing is started here.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use quoit::ring::{KeyHash, Member, MemberId, Placement, Ring, RingSpec, ShardKey, Token, ketama_ring_name};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct Golden<F> {
    source: String,
    fleets: Vec<F>,
}

#[derive(Deserialize)]
struct TwemproxyFleet {
    label: String,
    hash_tag: Option<String>,
    servers: Vec<(String, u16, u32, Option<String>)>,
    owners: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct LibmemcachedFleet {
    label: String,
    servers: Vec<(String, u16, u32)>,
    owners: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Slots {
    empty_key: u64,
    slots: Vec<u64>,
}

fn load<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/tests/data/ring/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn keys() -> Vec<Vec<u8>> {
    let keys: Vec<String> = load("keys.json");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    keys.iter().map(|hex| hex.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn named(name: &str) -> KeyHash {
    serde_json::from_value(name.into()).unwrap()
}

/// The vector as the generator writes it: one base-36 digit a key.
fn owners(spec: RingSpec, keys: &[Vec<u8>]) -> String {
    let ring = Ring::build(spec).unwrap();
    let digit = |key: &Vec<u8>| char::from_digit(ring.primary(key).0.into(), 36).unwrap();
    keys.iter().map(digit).collect()
}

#[track_caller]
fn check(what: &str, keys: &[Vec<u8>], got: &str, want: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let wrong: Vec<_> = keys
        .iter()
        .zip(got.chars().zip(want.chars()))
        .filter(|(_, (got, want))| got != want)
        .map(|(key, (got, want))| format!("{}: {got} and not {want}", key.escape_ascii()))
        .collect();
    assert!(wrong.is_empty(), "{what}: {} of {} keys differ\n{}", wrong.len(), keys.len(), wrong.join("\n"));
}

#[test]
fn twemproxy() {
    let keys = keys();
    let golden: Golden<TwemproxyFleet> = load("twemproxy.json");
    assert_eq!(golden.source, "nutcracker-0.5.0");
    let mut hashes = std::collections::BTreeSet::new();
    for fleet in golden.fleets {
        let members = fleet.servers.iter().enumerate().map(|(number, (host, port, weight, name))| Member {
            weight: *weight,
            ring_name: Some(name.clone().unwrap_or_else(|| ketama_ring_name(host, *port))),
            ..Member::new(format!("node {number}"))
        });
        let members: Vec<Member> = members.collect();
        let shard_key = match fleet.hash_tag.as_deref().map(str::as_bytes) {
            Some([open, close]) => ShardKey::HashTag { open: *open, close: *close },
            _ => ShardKey::Whole,
        };
        for (method, want) in fleet.owners {
            let (hash, distribution) = method.split_once(' ').unwrap();
            let placement = if distribution == "modula" { Placement::Modula } else { Placement::KetamaTwemproxy };
            hashes.insert((hash.to_owned(), placement));
            let spec =
                RingSpec { placement, hash: named(hash), shard_key: shard_key.clone(), members: members.clone() };
            check(&format!("{}, {method}", fleet.label), &keys, &owners(spec, &keys), &want);
        }
    }
    assert_eq!(hashes.len(), 24, "each of twemproxy's 12 hashes with both distributions");
}

#[test]
fn libmemcached() {
    let keys = keys();
    let golden: Golden<LibmemcachedFleet> = load("libmemcached.json");
    assert_eq!(golden.source, "libmemcached 1.1.4");
    for fleet in golden.fleets {
        let members = fleet.servers.iter().enumerate().map(|(number, (host, port, weight))| Member {
            weight: *weight,
            ring_name: Some(ketama_ring_name(host, *port)),
            ..Member::new(format!("node {number}"))
        });
        let members: Vec<Member> = members.collect();
        for (hash, want) in fleet.owners {
            let spec = RingSpec {
                placement: Placement::KetamaLibmemcached,
                hash: named(&hash),
                shard_key: ShardKey::Whole,
                members: members.clone(),
            };
            check(&format!("{}, {hash}", fleet.label), &keys, &owners(spec, &keys), &want);
        }
    }
}

#[test]
fn redis_cluster_slots() {
    let keys = keys();
    let golden: Slots = load("slots.json");
    let member = |(number, slots)| Member { slots: vec![slots], ..Member::new(format!("node {number}")) };
    let ranges = [(0, 5460), (5461, 10922), (10923, 16383)];
    let ring = Ring::build(RingSpec {
        placement: Placement::Slots,
        hash: KeyHash::Crc16,
        shard_key: ShardKey::HashTag { open: b'{', close: b'}' },
        members: ranges.into_iter().enumerate().map(member).collect(),
    })
    .unwrap();
    assert_eq!(ring.token(b""), Token(golden.empty_key));
    assert_eq!(keys.len(), golden.slots.len());
    for (key, slot) in keys.iter().zip(golden.slots) {
        assert_eq!(ring.token(key), Token(slot), "{}", key.escape_ascii());
        let owner = ranges.iter().position(|(_, last)| slot <= u64::from(*last)).unwrap();
        assert_eq!(ring.primary(key), MemberId(owner.try_into().unwrap()));
    }
}
