//! What clients made for Redis Cluster ask, on a listener with `cluster_emulation`: a cluster of one node, which is this
//! listener, and all 16384 slots are its own.
//!
//! Such a client then sends everything here, and the ring does the rest. What a slot promises in a cluster, that its keys
//! are together, holds here only where the `hash_tag` of the pool says so too.

use super::local::{Local, refused, resp_of};
use super::session::Session;
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row, introspect};
use crate::config::{self, Announce, Listener};
use crate::metrics::Outcome;
use crate::ring::KeyHash;

/// As many slots as a Redis Cluster has.
const SLOTS: u16 = 16_384;
/// How far the port of a cluster's own bus is from that for clients, in Redis.
const BUS_PORT_OFFSET: u16 = 10_000;

/// The only node.
struct Node {
    address: Announce,
    id: String,
}

impl Node {
    /// As this client sees it.
    fn of(session: &Session, listener: &Listener) -> Self {
        let address = listener.cluster_announce.clone().unwrap_or_else(|| {
            let local = session.local().or(listener.bind.tcp());
            let host = local.map_or_else(String::new, |local| local.ip().to_canonical().to_string());
            // By a Unix socket there is none to tell, and a client stays where it is.
            Announce { host, port: local.map_or(0, |local| local.port()) }
        });
        let id = node_id(&address);
        Self { address, id }
    }
}

/// Forty hexadecimal digits, the same from every proxy behind one address and from one start to the next.
fn node_id(address: &Announce) -> String {
    let text = |salt: u8| format!("{salt} {} {}", address.host, address.port);
    let hash = |salt: u8| config::content_hash(text(salt).as_bytes());
    format!("{:016x}{:016x}{:08x}", hash(0), hash(1), hash(2) >> 32)
}

/// The slot of a key: CRC16 of it, or of what stands in its first braces if that is not empty (Redis Cluster
/// specification, "Hash tags").
fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        rest.get(..close)
    });
    let hash = KeyHash::Crc16.hash(tag.unwrap_or(key)) % u64::from(SLOTS);
    u16::try_from(hash).unwrap_or_default()
}

/// `CLUSTER` with a subcommand that asks, `READONLY`, `READWRITE`, `ASKING`.
pub(super) fn answer(
    session: &Session,
    listener: &Listener,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    if !listener.cluster_emulation {
        return refused(out, reply::cluster_disabled);
    }
    let resp = resp_of(session.inner.borrow().version);
    let node = Node::of(session, listener);
    match row.name {
        "cluster|slots" => slots(&node, resp, out),
        "cluster|shards" => shards(&node, resp, out),
        "cluster|nodes" => reply::verbatim_text(out, resp, nodes(&node).as_bytes()),
        "cluster|info" => reply::verbatim_text(out, resp, state().as_bytes()),
        "cluster|keyslot" => reply::integer(out, slot_of(args.get(2).unwrap_or_default()).into()),
        "cluster|myid" => reply::bulk(out, node.id.as_bytes()),
        // The shard of the only node: its number read from the other end, so that the two differ.
        "cluster|myshardid" => reply::bulk(out, &node.id.bytes().rev().collect::<Vec<u8>>()),
        "cluster|links" => reply::array_header(out, 0),
        "cluster|replicas" | "cluster|slaves" | "cluster|count-failure-reports" => {
            let asked = args.get(2).unwrap_or_default();
            if asked != node.id.as_bytes() {
                return refused(out, |out| reply::unknown_cluster_node(out, asked));
            }
            if row.name == "cluster|count-failure-reports" {
                reply::integer(out, 0);
            } else {
                reply::array_header(out, 0);
            }
        }
        "cluster|help" => introspect::help(out, row),
        _ => reply::ok(out), // READONLY, READWRITE, ASKING: what they allow is allowed here anyway.
    }
    Local::Reply(Outcome::Ok)
}

/// What changes a cluster, and what looks into its slots.
pub(super) fn refuse(listener: &Listener, row: &Row, out: &mut Vec<u8>) -> Local {
    if listener.cluster_emulation {
        let reason = "the cluster is emulated: keys are placed by the ring in quoit's file, not by slots";
        return refused(out, |out| reply::refused(out, row, reason));
    }
    refused(out, reply::cluster_disabled)
}

fn slots(node: &Node, resp: Resp, out: &mut Vec<u8>) {
    reply::array_header(out, 1);
    reply::array_header(out, 3);
    reply::integer(out, 0);
    reply::integer(out, i64::from(SLOTS - 1));
    reply::array_header(out, 4);
    reply::bulk(out, node.address.host.as_bytes());
    reply::integer(out, node.address.port.into());
    reply::bulk(out, node.id.as_bytes());
    reply::map_header(out, resp, 0);
}

fn shards(node: &Node, resp: Resp, out: &mut Vec<u8>) {
    let text = |out: &mut Vec<u8>, name: &str, value: &str| {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    };
    let number = |out: &mut Vec<u8>, name: &str, value: i64| {
        reply::bulk(out, name.as_bytes());
        reply::integer(out, value);
    };
    reply::array_header(out, 1);
    reply::map_header(out, resp, 2);
    reply::bulk(out, b"slots");
    reply::array_header(out, 2);
    reply::integer(out, 0);
    reply::integer(out, i64::from(SLOTS - 1));
    reply::bulk(out, b"nodes");
    reply::array_header(out, 1);
    reply::map_header(out, resp, 7);
    text(out, "id", &node.id);
    number(out, "port", node.address.port.into());
    text(out, "ip", &node.address.host);
    text(out, "endpoint", &node.address.host);
    text(out, "role", "master");
    number(out, "replication-offset", 0);
    text(out, "health", "online");
}

fn nodes(node: &Node) -> String {
    let Node { address: Announce { host, port }, id } = node;
    let bus = port.checked_add(BUS_PORT_OFFSET).unwrap_or_default();
    format!("{id} {host}:{port}@{bus} myself,master - 0 0 1 connected 0-{}\n", SLOTS - 1)
}

fn state() -> String {
    let facts = [
        ("cluster_state", "ok"),
        ("cluster_slots_assigned", "16384"),
        ("cluster_slots_ok", "16384"),
        ("cluster_slots_pfail", "0"),
        ("cluster_slots_fail", "0"),
        ("cluster_known_nodes", "1"),
        ("cluster_size", "1"),
        ("cluster_current_epoch", "1"),
        ("cluster_my_epoch", "1"),
        ("cluster_stats_messages_sent", "0"),
        ("cluster_stats_messages_received", "0"),
        ("total_cluster_links_buffer_limit_exceeded", "0"),
    ];
    facts.iter().flat_map(|(name, value)| [*name, ":", *value, "\r\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, want: u16) {
        assert_eq!(slot_of(key.as_bytes()), want, "{key}");
    }

    #[test]
    fn slots_are_those_of_a_cluster() {
        check("", 0);
        check("foo", 12_182);
        check("123456789", 12_739);
        check("{foo}bar", 12_182);
        check("x{foo}y{bar}", 12_182);
        assert_ne!(slot_of(b"{}foo"), slot_of(b"foo"), "empty braces are no tag");
        assert_eq!(slot_of(b"{}{foo}"), slot_of(b"{}{foo}"));
        assert_ne!(slot_of(b"{foo"), slot_of(b"foo"));
    }

    #[test]
    fn a_node_keeps_its_id() {
        let id = |host: &str, port| node_id(&Announce { host: host.to_owned(), port });
        assert_eq!(id("a", 1), id("a", 1));
        assert_ne!(id("a", 1), id("a", 2));
        assert_eq!(id("a", 1).len(), 40);
    }
}
