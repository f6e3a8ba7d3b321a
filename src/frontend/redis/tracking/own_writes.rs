//! `NOLOOP`: which news is of a client's own write.
//!
//! A store does not say who has changed a key, and tells once of all changes of one turn of its event loop. So news that
//! comes around a client's own write may be of somebody else's as well. A client that tracks what it reads is owed nothing
//! after its own write until it reads again, as with one server. One that is told of prefixes is: it goes on holding what it
//! has written. The news is withheld from it only if the key was then read and has the value that it wrote.

use std::rc::Rc;

use super::{Session, Tracks};
use crate::backend::ReplySink;
use crate::command::{self, Args, Row};
use crate::coordinator::exchange::Exchange;
use crate::coordinator::tracking::{Afterwards, Due, Use, Written};
use crate::coordinator::{Request, Verdict};
use crate::protocol::resp::{Limits, RequestScan, Scanned, Version, write_request};
use crate::topology::View;

/// Stands for a value.
pub(super) type Digest = u128;

/// Verbs that change their key whenever their reply is no error.
const ALWAYS_CHANGE: [&str; 16] = [
    "append",
    "decr",
    "decrby",
    "getset",
    "hincrby",
    "hincrbyfloat",
    "hmset",
    "hset",
    "incr",
    "incrby",
    "incrbyfloat",
    "lpush",
    "mset",
    "psetex",
    "rpush",
    "setex",
];

/// Verbs whose number tells how many keys or elements they have changed. Not `SETRANGE`: its number is a length, and nothing at
/// no place changes nothing.
const NUMBER_CHANGED: [&str; 16] = [
    "expire",
    "expireat",
    "hdel",
    "hsetnx",
    "linsert",
    "lpushx",
    "lrem",
    "msetnx",
    "persist",
    "pexpire",
    "pexpireat",
    "rpushx",
    "sadd",
    "setnx",
    "srem",
    "zrem",
];

/// Whether a write has changed all its keys, as its reply tells. One of which that is not sure is told to who has made it.
pub(super) fn has_changed(row: &Row, keys: usize, reply: &[u8]) -> bool {
    let number = || -> Option<usize> { std::str::from_utf8(reply.get(1..)?.trim_ascii_end()).ok()?.parse().ok() };
    match (row.name, reply.first()) {
        (_, Some(b'-') | None) => false,
        ("set" | "ltrim" | "lset", Some(b'+')) => true,
        // With `NOMKSTREAM` there may be no stream: the reply is null then.
        ("xadd", Some(b'$')) => !reply.starts_with(b"$-1"),
        ("del" | "unlink", Some(b':')) => number() == Some(keys),
        (name, Some(b':')) if NUMBER_CHANGED.contains(&name) => number().is_some_and(|number| number > 0),
        (name, _) => ALWAYS_CHANGE.contains(&name),
    }
}

/// The value that a request gives the key at that place, if it gives it one.
pub(super) fn value_written(row: &Row, args: &Args<'_>, key_at: usize) -> Option<Digest> {
    let value = match row.name {
        "set" | "setnx" | "getset" | "mset" | "msetnx" => args.get(key_at + 1),
        "setex" | "psetex" => args.get(key_at + 2),
        _ => None,
    };
    value.map(digest)
}

fn digest(value: &[u8]) -> Digest {
    xxhash_rust::xxh3::xxh3_128(value)
}

impl Tracks {
    /// Whether the client is told of prefixes, but not of its own writes.
    pub(super) fn verifies(&self) -> bool {
        self.options.broadcast && self.options.no_loop
    }
}

impl Session {
    /// Finds out whether a key still has the value that the client has just given it, and tells it if not. Until then the
    /// write counts as under way.
    pub(super) fn verify_later(&self, name: Box<[u8]>, due: Due, written: Digest) {
        let Some(session) = self.worker.sessions.borrow().get(&self.id).map(Rc::clone) else { return };
        let view = self.view(); // The client may go to another database meanwhile.
        self.worker.context.spawn(async move {
            let tracking = Rc::clone(session.worker.coordinator.tracking());
            // What a store has to say of the write itself is here then.
            tracking.all_heard(&due).await;
            let read = tracking.start(session.id, &name, Use::ReadUnderPrefix);
            let is_same = session.value_is(&view, &name, written).await;
            if !is_same {
                // Somebody else's, then: it is told once.
                tracking.all_heard(&due).await;
            }
            let since = read.map(|read| tracking.finish(session.id, &read, Written::Told));
            let is_own = is_same && since == Some(Afterwards::Nothing);
            // One that the client has overwritten itself meanwhile is not what it holds.
            let how = if is_own { Written::Silently } else { Written::LastDecides };
            if tracking.finish(session.id, &due, how) == Afterwards::Changed {
                session.tell_now(Some(&[&name]));
            }
        });
    }

    async fn value_is(self: &Rc<Self>, view: &View, name: &[u8], written: Digest) -> bool {
        let mut frame = Vec::new();
        write_request(&mut frame, [b"GET".as_slice(), name].into_iter());
        let exchange = Exchange::new(self.origin());
        let Some(listener) = view.topology.listener(self.listener) else { return false };
        let Some(row) = command::lookup(b"get") else { return false };
        let mut scan = RequestScan::default();
        if !matches!(scan.scan(&frame, &Limits::REDIS), Ok(Scanned::Request { .. })) {
            return false;
        }
        let args = Args::new(&frame, scan.bounds());
        let level = self.inner.borrow().level;
        let request = Request { frame: &frame, args, row, version: Version::Resp2, level };
        let mut out = Vec::new();
        let sink = exchange.sink();
        let verdict = self.worker.coordinator.dispatch(view, listener, &request, &sink, 0, &mut out);
        drop(sink);
        if verdict != Verdict::Sent {
            return false;
        }
        let Ok(reply) = exchange.answer().await else { return false };
        let value = reply.strip_prefix(b"$").and_then(|rest| {
            let start = rest.iter().position(|&byte| byte == b'\n')? + 1;
            rest.get(start..)?.strip_suffix(b"\r\n")
        });
        value.is_some_and(|value| digest(value) == written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Flag;

    #[track_caller]
    fn check(verb: &str, keys: usize, reply: &str, want: bool) {
        let row = command::lookup(verb.as_bytes()).unwrap_or_else(|| panic!("{verb}"));
        assert_eq!(has_changed(row, keys, reply.as_bytes()), want, "{verb} {reply:?}");
    }

    #[test]
    fn what_has_changed_for_sure() {
        check("set", 1, "+OK\r\n", true);
        check("set", 1, "$-1\r\n", false);
        check("set", 1, "_\r\n", false);
        check("del", 2, ":2\r\n", true);
        check("del", 2, ":1\r\n", false);
        check("hset", 1, ":0\r\n", true);
        check("sadd", 1, ":0\r\n", false);
        check("linsert", 1, ":-1\r\n", false);
        check("incr", 1, ":-3\r\n", true);
        check("incr", 1, "-ERR value is not an integer\r\n", false);
        check("getset", 1, "$1\r\na\r\n", true);
        check("getset", 1, "$-1\r\n", true);
        check("xadd", 1, "$3\r\n1-1\r\n", true);
        check("xadd", 1, "$-1\r\n", false);
        check("xadd", 1, "_\r\n", false);
        check("setrange", 1, ":3\r\n", false);
        check("zadd", 1, ":0\r\n", false);
        for verb in ALWAYS_CHANGE.iter().chain(&NUMBER_CHANGED) {
            assert!(command::lookup(verb.as_bytes()).is_some_and(|row| row.flags.contains(Flag::Write)), "{verb}");
        }
    }
}
