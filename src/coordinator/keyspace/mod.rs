//! Verbs about all keys: `SCAN`, `KEYS`, `DBSIZE`, `RANDOMKEY`, `FLUSHALL`, `FLUSHDB`.
//!
//! Each is a task of the worker. `walk` goes over the stores, `survey` finds out which of several replicas reports a key,
//! `names` undoes what routes do to names, `cursor` is the number that a client carries between two calls of `SCAN`.
//!
//! # Invariants
//! - What is held for one command is bounded, and charged to the worker's memory.
//! - A command ends: at its deadline, when its client has gone, or when a store that is needed gives no answer.
//! - The answer is for all keys, or it is an error.
//!
//! It deliberately takes no snapshot: keys that come and go meanwhile may be among the answer or not, as with `SCAN` on
//! one server. Why `DBSIZE` counts and `FLUSHALL` deletes key by key where there are several replicas:
//! `docs/decisions/2026-11-23-all-keys.md`.

mod cursor;
mod flush;
pub(super) mod names;
mod survey;
mod walk;

use std::rc::Rc;
use std::time::Duration;

use super::gather::{Gather, ask};
use super::{Coordinator, Request, Verdict, write_failure};
use crate::backend::{Cause, Context, Failure, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::command::reply::{self, Resp};
use crate::command::{Args, KeyspaceVerb};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::protocol::resp::{Version, write_bulk, write_header};
use crate::topology::View;

use cursor::Position;
use names::Names;
use walk::{Page, Trouble, Walk, Wanted};

/// Places that a page has where the command takes as many pages as there are.
const PAGE_COUNT: u64 = 1_000;
/// The same where the client does not say; Redis's own number.
const SCAN_COUNT: u64 = 10;
/// With several replicas, so many pages are looked at for one that has names, and for so long, before an empty one is given.
const EMPTY_PAGES_MAX: usize = 32;
const EMPTY_MAX: Duration = Duration::from_millis(50);
/// A client that has ended its side of the connection may only have said all that it had to say; what it is given so long
/// to hear, it gets.
const ENDED_MAX: Duration = Duration::from_secs(1);
/// A long reply is handed over in pieces of this size, so that one that is not read waits here and not in the session.
const PIECE_BYTES: usize = 64 * 1024;
/// How often `RANDOMKEY` asks before it looks for any key at all. In a replicated pool every second name is a record's.
const RANDOM_TRIES: usize = 40;

/// Where a command about all keys came from.
pub struct Client {
    /// The number of its listener.
    pub listener: usize,
    /// Whether it has ended its side of the connection, or is gone.
    pub has_ended: Box<dyn Fn() -> bool>,
}

/// One command under way.
struct Job {
    walk: Walk,
    client: Client,
    sink: Rc<dyn ReplySink>,
    tag: Tag,
    resp: Resp,
    context: Rc<Context>,
    began: Moment,
    timeout: Duration,
    keys_reply_bytes_max: usize,
}

/// What is to be done, with its arguments.
enum Order {
    Scan { cursor: u64, wanted: Wanted },
    Keys { pattern: Vec<u8> },
    Dbsize,
    Randomkey,
    Flush { words: Vec<Vec<u8>> },
}

/// Why a command ends without its answer.
enum End {
    Trouble(Trouble),
    /// An error reply.
    Reply(Vec<u8>),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Coordinator {
    /// Serves a verb about all keys. The client's earlier requests have been answered, and later ones wait for this one.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub fn dispatch_keyspace(
        &self,
        view: &Rc<View>,
        listener: &Listener,
        verb: KeyspaceVerb,
        request: &Request<'_>,
        client: Client,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let order = match read_order(verb, &request.args) {
            Ok(order) => order,
            Err(write) => {
                write(out);
                return Verdict::Answered(Outcome::Refused);
            }
        };
        let walk = Walk::new(view, listener, request.level, sink.origin(), &self.engine, |pool| self.groups.get(pool));
        let job = Job {
            walk,
            client,
            sink: Rc::clone(sink),
            tag: Tag { slot, part: 0 },
            resp: match request.version {
                Version::Resp2 => Resp::Two,
                Version::Resp3 => Resp::Three,
            },
            began: self.context.clock.now(),
            context: Rc::clone(&self.context),
            timeout: listener.keyspace_timeout,
            keys_reply_bytes_max: usize::try_from(listener.keys_reply_bytes_max).unwrap_or(usize::MAX),
        };
        self.context.spawn(async move { job.run(order).await });
        Verdict::Sent
    }
}

type WriteError = fn(&mut Vec<u8>);

fn read_order(verb: KeyspaceVerb, args: &Args<'_>) -> Result<Order, WriteError> {
    match verb {
        KeyspaceVerb::Scan => read_scan(args),
        KeyspaceVerb::Keys => Ok(Order::Keys { pattern: args.get(1).unwrap_or_default().to_vec() }),
        KeyspaceVerb::Dbsize => Ok(Order::Dbsize),
        KeyspaceVerb::Randomkey => Ok(Order::Randomkey),
        KeyspaceVerb::Flush | KeyspaceVerb::FlushAll => {
            if args.len() > 2 || args.len() == 2 && !args.is_word(1, "ASYNC") && !args.is_word(1, "SYNC") {
                return Err(reply::syntax_error);
            }
            let mut words: Vec<Vec<u8>> = args.iter().map(<[u8]>::to_vec).collect();
            if words.len() == 1 {
                // Clients see no difference, and the store does not stand still while it frees its memory.
                words.push(b"ASYNC".to_vec());
            }
            Ok(Order::Flush { words })
        }
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`, with the errors of Redis in its order.
fn read_scan(args: &Args<'_>) -> Result<Order, WriteError> {
    let cursor = cursor::parse(args.get(1).unwrap_or_default()).ok_or(reply::invalid_cursor as WriteError)?;
    let mut wanted = Wanted { count: SCAN_COUNT, ..Wanted::default() };
    let mut at = 2;
    while at < args.len() {
        let Some(value) = args.get(at + 1) else { return Err(reply::syntax_error) };
        if args.is_word(at, "COUNT") {
            let text = std::str::from_utf8(value).unwrap_or_default();
            // One spelling for each number, as the servers have it.
            let count = text.parse::<i64>().ok().filter(|count| count.to_string() == text);
            let count = count.ok_or(reply::not_an_integer as WriteError)?;
            wanted.count =
                u64::try_from(count).ok().filter(|count| *count > 0).ok_or(reply::syntax_error as WriteError)?;
        } else if args.is_word(at, "MATCH") {
            wanted.pattern = Some(value.to_vec()).filter(|pattern| pattern != b"*");
        } else if args.is_word(at, "TYPE") {
            wanted.type_name = Some(value.to_vec());
        } else {
            return Err(reply::syntax_error);
        }
        at += 2;
    }
    Ok(Order::Scan { cursor, wanted })
}

impl Job {
    async fn run(self, order: Order) {
        let done = match order {
            Order::Scan { cursor, wanted } => self.scan(cursor, &wanted).await,
            Order::Keys { pattern } => match self.keys(pattern).await {
                Ok(names) => return self.deliver(names).await,
                Err(end) => Err(end),
            },
            Order::Dbsize => self.dbsize().await,
            Order::Randomkey => self.randomkey().await,
            Order::Flush { words } => self.flush(&words).await,
        };
        self.answer(&done.unwrap_or_else(End::into_reply));
    }

    fn answer(&self, reply: &[u8]) {
        let _: Flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(reply));
    }

    /// Whether there is still time, and somebody to answer.
    fn may_go_on(&self, verb: &str) -> Result<(), End> {
        let age = self.context.clock.tick().since(self.began);
        let mut out = Vec::new();
        if age > self.timeout {
            reply::keyspace_timeout(&mut out, verb, self.timeout.as_millis());
        } else if age > ENDED_MAX && (self.client.has_ended)() {
            reply::error(&mut out, "ERR the client has gone");
        } else {
            return Ok(());
        }
        Err(End::Reply(out))
    }

    /// The names that the keys of a page have for the client.
    fn names_of(&self, page: &Page, pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let Some(listener) = self.walk.view.topology.listener(self.client.listener) else { return Vec::new() };
        let names = Names { listener, pool: page.pool };
        page.keys.iter().flat_map(|key| names.matching(key, pattern)).collect()
    }

    async fn scan(&self, cursor: u64, wanted: &Wanted) -> Result<Vec<u8>, End> {
        let asked = wanted.count;
        // A cursor of another layout is of no use: the scan begins again, and loses nothing.
        let mut position = self.walk.layout.unpack(cursor).unwrap_or_default();
        let mut wanted = wanted.clone();
        let mut names = Vec::new();
        for _ in 0..EMPTY_PAGES_MAX {
            let stop = position.stop;
            let page = self.walk.step(&mut position, &wanted).await?;
            names = self.names_of(&page, wanted.pattern.as_deref());
            let late = self.context.clock.tick().since(self.began) > EMPTY_MAX;
            let replicated = self.walk.stops.get(stop).is_some_and(|stop| stop.group.is_some());
            if !names.is_empty() || late || !replicated || self.walk.is_over(&position) {
                break;
            }
            // Most of what one store has another reports: there is little to come before its turn.
            wanted.count = if position.stop == stop { wanted.count.saturating_mul(2) } else { asked };
        }
        let next = if self.walk.is_over(&position) { Some(0) } else { self.walk.layout.pack(&position) };
        let mut out = Vec::new();
        let Some(next) = next else {
            reply::error(
                &mut out,
                "ERR the cursor of a store is too large for quoit; use KEYS, or scan that node directly",
            );
            return Err(End::Reply(out));
        };
        write_header(&mut out, b'*', 2);
        write_bulk(&mut out, next.to_string().as_bytes());
        write_header(&mut out, b'*', names.len());
        for name in &names {
            write_bulk(&mut out, name);
        }
        Ok(out)
    }

    async fn keys(&self, pattern: Vec<u8>) -> Result<Held, End> {
        let pattern = Some(pattern).filter(|pattern| pattern != b"*");
        let wanted = Wanted { pattern, count: PAGE_COUNT, ..Wanted::default() };
        let mut held = Held { context: Rc::clone(&self.context), bytes: Vec::new(), count: 0, charged: 0 };
        let mut position = Position::default();
        while !self.walk.is_over(&position) {
            self.may_go_on("KEYS")?;
            let page = self.walk.step(&mut position, &wanted).await?;
            for name in self.names_of(&page, wanted.pattern.as_deref()) {
                write_bulk(&mut held.bytes, &name);
                held.count += 1;
            }
            held.charge();
            let mut out = Vec::new();
            if held.bytes.len() > self.keys_reply_bytes_max {
                reply::keys_too_many(&mut out, self.keys_reply_bytes_max);
                return Err(End::Reply(out));
            }
            if self.context.is_full() {
                reply::error(&mut out, "ERR overloaded: the memory for replies is full; use SCAN");
                return Err(End::Reply(out));
            }
        }
        Ok(held)
    }

    /// Hands over a reply that may be long, as fast as the client reads.
    async fn deliver(&self, names: Held) {
        let mut head = Vec::new();
        write_header(&mut head, b'*', names.count);
        if names.bytes.len() <= PIECE_BYTES {
            head.extend_from_slice(&names.bytes);
            return self.answer(&head);
        }
        let sink = || Rc::clone(&self.sink);
        let mut flow = sink().reply(self.tag, Piece::Begin(&head));
        let (first, last) = names.bytes.split_at(names.bytes.len() - PIECE_BYTES);
        for piece in first.chunks(PIECE_BYTES) {
            if flow == Flow::Pause && !self.has_room().await {
                let cause = Cause::Broken("the client does not read its reply".into());
                let _: Flow = sink().reply(self.tag, Piece::Failed(&Failure { node: "KEYS".into(), cause }));
                return;
            }
            flow = sink().reply(self.tag, Piece::More(piece));
        }
        let _: Flow = sink().reply(self.tag, Piece::End(last));
    }

    /// Waits for the client to read; whether it did in time.
    async fn has_room(&self) -> bool {
        let ready = std::future::poll_fn(|context| {
            if self.sink.ready(self.tag, context.waker()) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        tokio::time::timeout(self.timeout, ready).await.is_ok()
    }

    /// The keys of nodes with one copy as they count them; those with several are counted one by one.
    async fn dbsize(&self) -> Result<Vec<u8>, End> {
        let gather = Gather::new(self.walk.origin);
        for stop in self.walk.stops.iter().filter(|stop| stop.group.is_none()) {
            gather.ask(&stop.node, 1, &mut |out| out.extend_from_slice(b"*1\r\n$6\r\nDBSIZE\r\n"));
        }
        let mut total: i64 = 0;
        for answer in gather.all().await {
            let reply = answer.map_err(Trouble::from)?;
            total = total.saturating_add(integer(&reply).ok_or(Trouble::Store(reply))?);
        }
        let wanted = Wanted { count: PAGE_COUNT, ..Wanted::default() };
        let mut position = Position::default();
        while let Some(stop) = self.walk.stops.get(position.stop) {
            if stop.group.is_none() {
                self.walk.advance(&mut position);
                continue;
            }
            self.may_go_on("DBSIZE")?;
            let page = self.walk.step(&mut position, &wanted).await?;
            total = total.saturating_add(i64::try_from(page.keys.len()).unwrap_or(i64::MAX));
        }
        let mut out = Vec::new();
        reply::integer(&mut out, total);
        Ok(out)
    }

    /// Some key: a random one of a random node, and if chance does not find one, any.
    async fn randomkey(&self) -> Result<Vec<u8>, End> {
        let mut out = Vec::new();
        for _ in 0..RANDOM_TRIES {
            let Some(at) = (!self.walk.stops.is_empty()).then(|| fastrand::usize(..self.walk.stops.len())) else {
                break;
            };
            self.may_go_on("RANDOMKEY")?;
            if let Some(name) = self.random_of(at).await? {
                reply::bulk(&mut out, &name);
                return Ok(out);
            }
        }
        let wanted = Wanted { count: PAGE_COUNT, ..Wanted::default() };
        let mut position = Position::default();
        while !self.walk.is_over(&position) {
            self.may_go_on("RANDOMKEY")?;
            let page = self.walk.step(&mut position, &wanted).await?;
            let names = self.names_of(&page, None);
            if !names.is_empty() {
                let chosen = fastrand::usize(..names.len());
                reply::bulk(&mut out, names.get(chosen).map(Vec::as_slice).unwrap_or_default());
                return Ok(out);
            }
        }
        reply::null(&mut out, self.resp);
        Ok(out)
    }

    /// A random key of one node, if it gives one that the client can reach.
    async fn random_of(&self, at: usize) -> Result<Option<Vec<u8>>, End> {
        let Some(stop) = self.walk.stops.get(at) else { return Ok(None) };
        let mut write = |out: &mut Vec<u8>| out.extend_from_slice(b"*1\r\n$9\r\nRANDOMKEY\r\n");
        let Ok(reply) = ask(&stop.node, self.walk.origin, 1, &mut write).await else { return Ok(None) };
        let Some(key) = crate::replication::Cursor::new(&reply).bulk().filter(|_| !reply.starts_with(b"$-1")) else {
            return Ok(None);
        };
        if !self.walk.homes(stop.pool, key).contains(&at) {
            return Ok(None);
        }
        let page = Page { pool: stop.pool, keys: vec![key.to_vec()] };
        if !self.walk.is_there(stop, key).await {
            return Ok(None);
        }
        Ok(self.names_of(&page, None).pop())
    }
}

/// Names that are held for one client, charged to the worker's memory while they are.
struct Held {
    context: Rc<Context>,
    bytes: Vec<u8>,
    count: usize,
    charged: usize,
}

impl Held {
    fn charge(&mut self) {
        self.context.buffered(self.bytes.capacity() - self.charged);
        self.charged = self.bytes.capacity();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.context.released(self.charged);
    }
}

impl End {
    fn into_reply(self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Reply(reply) | Self::Trouble(Trouble::Store(reply)) => return reply,
            Self::Trouble(Trouble::Node(failure)) => {
                let _: Outcome = write_failure(&failure, &mut out);
            }
            Self::Trouble(Trouble::TooFew(why)) => reply::no_replicas(&mut out, why),
        }
        out
    }
}

fn integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut frame, mut bounds) = (Vec::new(), Vec::new());
        for word in words {
            let start = u32::try_from(frame.len()).unwrap();
            frame.extend_from_slice(word);
            bounds.push((start, u32::try_from(frame.len()).unwrap()));
        }
        let got = match read_scan(&Args::new(&frame, &bounds)) {
            Ok(Order::Scan { cursor, wanted }) => format!(
                "{cursor} {} {:?} {:?}",
                wanted.count,
                wanted.pattern.map(|it| String::from_utf8(it).unwrap()),
                wanted.type_name.map(|it| String::from_utf8(it).unwrap())
            ),
            Ok(_) => "another order".to_owned(),
            Err(write) => {
                let mut out = Vec::new();
                write(&mut out);
                String::from_utf8(out).unwrap().trim_end().to_owned()
            }
        };
        assert_eq!(got, want, "{line}");
    }

    #[test]
    fn what_scan_takes() {
        check("SCAN 0", "0 10 None None");
        check("SCAN 7 match a* COUNT 5 TYPE hash", "7 5 Some(\"a*\") Some(\"hash\")");
        check("SCAN 0 MATCH *", "0 10 None None");
        check("SCAN x COUNT x", "-ERR invalid cursor");
        check("SCAN 0 COUNT x", "-ERR value is not an integer or out of range");
        check("SCAN 0 COUNT +1", "-ERR value is not an integer or out of range");
        check("SCAN 0 COUNT 0", "-ERR syntax error");
        check("SCAN 0 COUNT -1", "-ERR syntax error");
        check("SCAN 0 COUNT", "-ERR syntax error");
        check("SCAN 0 BOGUS 1", "-ERR syntax error");
    }
}
