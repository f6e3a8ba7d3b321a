//! `QUOIT NODE name command …`: asks one node, by its name, something that is about that node and changes nothing. And
//! what is asked of the node that has a key.

use std::rc::Rc;

use super::local::{Local, refused};
use super::output::Last;
use super::quoit::home;
use super::requests::verb_of;
use super::session::Session;
use crate::backend::redis::Node;
use crate::backend::{Failure, ReplySink, Tag};
use crate::command::reply;
use crate::command::{Args, Row, glob};
use crate::config::Listener;
use crate::coordinator::{self, Coordinator};
use crate::protocol::resp::{write_bulk, write_header};
use crate::topology::{Place, View};

/// What may be asked, as the table calls it. None of them reads or changes the state of the connection, which is shared,
/// writes, blocks, or has other than one reply.
const ALLOWED: [&str; 29] = [
    "client|list",
    "cluster|info",
    "cluster|nodes",
    "cluster|slots",
    "command|count",
    "commandlog|get",
    "commandlog|len",
    "config|get",
    "dbsize",
    "function|list",
    "function|stats",
    "info",
    "lastsave",
    "latency|doctor",
    "latency|graph",
    "latency|histogram",
    "latency|history",
    "latency|latest",
    "lolwut",
    "memory|doctor",
    "memory|malloc-stats",
    "memory|stats",
    "module|list",
    "ping",
    "pubsub|numpat",
    "role",
    "slowlog|get",
    "slowlog|len",
    "time",
];

/// Settings of stores that are secrets; patterns that find one are not passed on.
const SECRETS: [&str; 8] = [
    "masterauth",
    "masteruser",
    "primaryauth",
    "primaryuser",
    "requirepass",
    "sentinel-pass",
    "tls-client-key-file-pass",
    "tls-key-file-pass",
];

/// Answers `QUOIT NODE name command …`; `args` are those of the whole request.
pub(super) fn answer(session: &Rc<Session>, view: &View, row: &Row, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let name = args.get(2).unwrap_or_default();
    let place = match find(view, name) {
        Ok(place) => place,
        Err(Missing::Unknown) => return refused(out, |out| reply::unknown_node(out, name)),
        Err(Missing::Ambiguous) => return refused(out, |out| reply::ambiguous_node(out, name)),
    };
    let Some(node) = view.node(place) else { return refused(out, reply::no_pool) };
    let asked = args.skip(3);
    let allowed = crate::command::resolve(&asked).ok().filter(|row| ALLOWED.contains(&row.name));
    let Some(allowed) = allowed else { return refused(out, reply::not_for_nodes) };
    let is_secret = |pattern: &[u8]| {
        let pattern = pattern.to_ascii_lowercase();
        SECRETS.iter().any(|secret| glob(&pattern, secret.as_bytes()))
    };
    if allowed.name == "config|get" && asked.iter().skip(2).any(is_secret) {
        return refused(out, reply::node_secrets);
    }
    let words: Vec<&[u8]> = asked.iter().collect();
    pass_on(session, node, row, &words)
}

/// Asks the node that has a key, or the first of those that have it, something about that key: the third word of `args`.
pub(super) fn ask_owner(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    key: &[u8],
    out: &mut Vec<u8>,
) -> Local {
    let home = home(view, listener, key);
    let owner = home.as_ref().and_then(|home| view.owner(home.pool, &home.key));
    let (Some(home), Some((_, node))) = (&home, owner) else { return refused(out, reply::no_pool) };
    let mut words: Vec<&[u8]> = args.iter().collect();
    if let Some(word) = words.get_mut(2) {
        *word = &home.key;
    }
    pass_on(session, node, row, &words)
}

/// Asks one of the nodes that the listener reaches, whichever answers.
pub(super) fn ask_any(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let nodes = Coordinator::nodes_of(view, listener);
    let Some(node) = nodes.iter().find(|node| node.is_available()).or(nodes.first()) else {
        return refused(out, reply::no_pool);
    };
    pass_on(session, node, row, &args.iter().collect::<Vec<_>>())
}

fn pass_on(session: &Rc<Session>, node: &Rc<Node>, row: &Row, words: &[&[u8]]) -> Local {
    let version = session.inner.borrow().version;
    let slot = session.open_slot(verb_of(row));
    let sink: Rc<dyn ReplySink> = Rc::<Session>::clone(session);
    let mut write = |out: &mut Vec<u8>| {
        write_header(out, b'*', words.len());
        for word in words {
            write_bulk(out, word);
        }
    };
    let bytes = words.iter().map(|word| word.len() + 16).sum();
    if let Err(cause) = node.send_with(bytes, &mut write, version, &sink, Tag { slot, part: 0 }) {
        let failure = Failure { node: std::sync::Arc::clone(&node.options().label), cause };
        let mut answer = Vec::new();
        let outcome = coordinator::write_failure(&failure, &mut answer);
        session.settle(&mut session.inner.borrow_mut(), slot, &answer, Last::Yes, outcome);
    }
    Local::Silent
}

enum Missing {
    Unknown,
    Ambiguous,
}

/// The node of a name: `node`, or `pool/node` where several pools have one of that name.
fn find(view: &View, name: &[u8]) -> Result<Place, Missing> {
    let mut found = None;
    for (pool, topology) in view.topology.pools.iter().enumerate() {
        for (node, options) in topology.nodes.iter().enumerate() {
            let place = || Some(Place { pool: u16::try_from(pool).ok()?, node: u16::try_from(node).ok()? });
            let is_full = || format!("{}/{}", topology.name, options.name).as_bytes() == name;
            if options.name.as_bytes() == name {
                if found.is_some() {
                    return Err(Missing::Ambiguous);
                }
                found = place();
            } else if is_full() {
                return place().ok_or(Missing::Unknown);
            }
        }
    }
    found.ok_or(Missing::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Flag, lookup_full_name};

    #[test]
    fn what_may_be_asked_changes_nothing() {
        for name in ALLOWED {
            let row = lookup_full_name(name.as_bytes()).unwrap_or_else(|| panic!("{name} has no row"));
            for flag in [Flag::Write, Flag::Blocking, Flag::Pubsub] {
                assert!(!row.flags.contains(flag) || name.starts_with("pubsub"), "{name} is {}", flag.as_str());
            }
        }
    }
}
