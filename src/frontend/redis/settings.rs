//! `CONFIG GET` and `CONFIG SET`: quoit's own settings are read, and changed in its file, but for those of [`super::tuned`];
//! those of the stores that say how values are kept, and of what events there are, are asked of a node and told to all of them.
//!
//! A store forgets them when it restarts, as it does what a client has told it: what should last is in its own file.

use std::rc::Rc;

use super::clients::{Ask, ask_all};
use super::info;
use super::local::{Local, answer_later, refused};
use super::session::Session;
use super::tuned::{Change, Unfit};
use crate::backend::ReplySink as _;
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row, glob};
use crate::config::Listener;
use crate::coordinator::{Coordinator, write_failure};
use crate::metrics::Outcome;
use crate::protocol::resp::{write_bulk, write_header};

const POLICY: &str = "maxmemory-policy";

/// What clients may ask and tell the stores: nothing of it makes a store lose something, fill its memory or be out of reach.
const OF_STORES: [&str; 32] = [
    "active-expire-effort",
    "activerehashing",
    "busy-reply-threshold",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hll-sparse-max-bytes",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "lfu-decay-time",
    "lfu-log-factor",
    "list-compress-depth",
    "list-max-listpack-size",
    "list-max-ziplist-size",
    "lua-time-limit",
    "maxmemory-eviction-tenacity",
    POLICY,
    "maxmemory-samples",
    "notify-keyspace-events",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
];

/// Those of the stores that a pattern finds.
fn of_stores(pattern: &[u8]) -> impl Iterator<Item = &'static str> {
    let pattern = pattern.to_ascii_lowercase();
    OF_STORES.into_iter().filter(move |name| glob(&pattern, name.as_bytes()))
}

/// Whether a `CONFIG GET` has to ask a store.
pub(super) fn asks_stores(args: &Args<'_>) -> bool {
    args.iter().skip(2).any(|pattern| of_stores(pattern).next().is_some())
}

/// Answers `CONFIG GET pattern …`. Of what both have, what it says is quoit's.
pub(super) fn get(
    session: &Rc<Session>,
    listener: &Listener,
    row: &Row,
    resp: Resp,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let asked: Vec<Vec<u8>> = args.iter().skip(2).map(<[u8]>::to_ascii_lowercase).collect();
    let (mut own, mut count) = (Vec::new(), 0);
    for (name, value) in info::settings(session, listener) {
        if asked.iter().any(|pattern| glob(pattern, name.as_bytes())) {
            count += 1;
            reply::bulk(&mut own, name.as_bytes());
            reply::bulk(&mut own, value.as_bytes());
        }
    }
    let mut names: Vec<&'static str> = args.iter().skip(2).flat_map(of_stores).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        reply::map_header(out, resp, count);
        out.extend_from_slice(&own);
        return Local::Reply(Outcome::Ok);
    }
    let nodes = Coordinator::nodes_of(&session.worker.view(), listener);
    let Some(node) = nodes.iter().find(|node| node.is_available()).or(nodes.first()).map(Rc::clone) else {
        return refused(out, reply::no_pool);
    };
    answer_later(session, row, move |session| async move {
        // One at a time: Redis 6.2 takes one pattern.
        let frames = names.into_iter().map(|name| frame(&[b"CONFIG", b"GET", name.as_bytes()]));
        let mut out = Vec::new();
        match Coordinator::pairs_of(&node, frames, session.origin()).await {
            Ok(pairs) => {
                reply::map_header(&mut out, resp, count + pairs.len());
                out.extend_from_slice(&own);
                for (name, value) in pairs {
                    reply::bulk(&mut out, &name);
                    reply::bulk(&mut out, &value);
                }
            }
            Err(failure) => drop(write_failure(&failure, &mut out)),
        }
        out
    })
}

/// Answers `CONFIG SET name value …`.
pub(super) fn set(
    session: &Rc<Session>,
    listener: &Listener,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    if !args.len().is_multiple_of(2) {
        return refused(out, |out| reply::wrong_arity(out, row));
    }
    let own = info::settings(session, listener);
    let mut words: Vec<&[u8]> = args.iter().take(2).collect();
    let mut changes: Vec<Change> = Vec::new();
    for (name, value) in args.iter().skip(2).zip(args.iter().skip(3)).step_by(2) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match Change::parse(name, value) {
            None => {}
            Some(Err(unfit)) => return refused(out, |out| write_unfit(out, name, unfit)),
            Some(Ok(change)) if changes.iter().any(|other| other.is_of_same(change)) => {
                return refused(out, |out| reply::setting_unfit(out, name, "duplicate parameter"));
            }
            Some(Ok(change)) => {
                changes.push(change);
                continue;
            }
        }
        // It has that value: there is nothing to change.
        if own.iter().any(|(known, current)| is(known) && current.as_bytes() == value) {
            continue;
        }
        if is(POLICY) && !value.eq_ignore_ascii_case(b"noeviction") && session.worker.coordinator.has_copies(listener) {
            return refused(out, reply::eviction_refused);
        }
        if !OF_STORES.into_iter().any(is) {
            return refused(out, |out| reply::setting_refused(out, name));
        }
        words.extend([name, value]);
    }
    if words.len() == 2 && changes.is_empty() {
        reply::ok(out);
        return Local::Reply(Outcome::Ok);
    }
    let asked = (words.len() > 2).then(|| (Coordinator::nodes_of(&session.worker.view(), listener), frame(&words)));
    session.inner.borrow_mut().alone = true;
    answer_later(session, row, move |session| async move {
        // The stores first: if one refuses, nothing is changed here either.
        if let Some((nodes, frame)) = asked {
            let reply = session.worker.coordinator.tell_all(&nodes, "CONFIG SET", &frame, session.origin()).await;
            if changes.is_empty() || reply.first() == Some(&b'-') {
                return reply;
            }
        }
        session.worker.fleet.tuned.set(&session.worker.view().topology, &changes);
        ask_all(&session, Ask::Tune).await;
        b"+OK\r\n".to_vec()
    })
}

fn write_unfit(out: &mut Vec<u8>, name: &[u8], unfit: Unfit) {
    match unfit {
        Unfit::NoInteger => reply::setting_unfit(out, name, "argument couldn't be parsed into an integer"),
        Unfit::OutOfRange(least, most) => {
            reply::setting_unfit(out, name, &format!("argument must be between {least} and {most} inclusive"));
        }
    }
}

fn frame(words: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_header(&mut frame, b'*', words.len());
    for word in words {
        write_bulk(&mut frame, word);
    }
    frame
}
