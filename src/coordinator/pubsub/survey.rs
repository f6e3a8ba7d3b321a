//! `PUBSUB`: what all nodes say, as one answer.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::Kind;
use super::census::Count;
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::{PubSubVerb, reply};
use crate::config::Listener;
use crate::coordinator::gather::{Answer, Gather, Miss};
use crate::coordinator::{Coordinator, Request, Verdict, write_failure};
use crate::metrics::Outcome;
use crate::protocol::resp::{write_bulk, write_header};
use crate::replication::Cursor;
use crate::topology::View;

impl Coordinator {
    /// Asks every node that is available, and makes one answer of theirs: names without repetition, and of several counts
    /// the highest, since whoever listens through quoit does so on every node. Counts are put right by the census.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub fn ask_about_messages(
        &self,
        view: &View,
        listener: &Listener,
        verb: PubSubVerb,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let nodes = view.nodes_in(listener.pool);
        let there = nodes.iter().filter(|node| node.is_available()).count();
        // If none is, they say themselves why.
        let asked = nodes.iter().filter(|node| there == 0 || node.is_available());
        let gather = Gather::new(sink.origin());
        for node in asked {
            gather.ask(node, 1, &mut |out| out.extend_from_slice(request.frame));
        }
        if nodes.is_empty() {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        }
        let sink = Rc::clone(sink);
        let census = Arc::clone(&self.pubsub.census);
        let pool = view.topology.pools.get(listener.pool).map_or(String::new(), |pool| pool.name.clone());
        self.context.spawn(async move {
            let kind = if verb == PubSubVerb::Shardnumsub { Kind::Shard } else { Kind::Channel };
            let answer = merged(verb, &gather.all().await, &|name| census.of(&pool, kind, name));
            let _: Flow = sink.reply(Tag { slot, part: 0 }, Piece::Whole(&answer));
        });
        Verdict::Sent
    }
}

/// One answer of several. Stores that give none are left out while there is another.
fn merged(verb: PubSubVerb, answers: &[Answer], census: &dyn Fn(&[u8]) -> Count) -> Vec<u8> {
    let said: Vec<&[u8]> =
        answers.iter().filter_map(|answer| answer.as_deref().ok()).filter(|said| !said.starts_with(b"-")).collect();
    let mut out = Vec::new();
    if said.is_empty() {
        match answers.first() {
            Some(Ok(error)) => out.extend_from_slice(error),
            Some(Err(Miss::Failed(failure))) => {
                let _: Outcome = write_failure(failure, &mut out);
            }
            Some(Err(Miss::TooLong)) | None => reply::error(&mut out, "ERR the stores' answers are too long"),
        }
        return out;
    }
    match verb {
        PubSubVerb::Numpat => {
            let most = said.iter().filter_map(|said| Cursor::new(said).integer()).max();
            reply::integer(&mut out, most.unwrap_or_default());
        }
        PubSubVerb::Numsub | PubSubVerb::Shardnumsub => write_counts(&said, census, &mut out),
        _ => write_names(&said, &mut out),
    }
    out
}

/// Every name that is in one of the arrays.
fn write_names(said: &[&[u8]], out: &mut Vec<u8>) {
    let mut known = HashSet::new();
    let mut body = Vec::new();
    for said in said {
        let mut cursor = Cursor::new(said);
        for _ in 0..cursor.array().unwrap_or_default() {
            let Some(name) = cursor.bulk() else { break };
            if known.insert(name) {
                write_bulk(&mut body, name);
            }
        }
    }
    write_header(out, b'*', known.len());
    out.extend_from_slice(&body);
}

/// Names and counts: all arrays have the same names in the same order.
fn write_counts(said: &[&[u8]], census: &dyn Fn(&[u8]) -> Count, out: &mut Vec<u8>) {
    let mut cursors: Vec<Cursor<'_>> = said.iter().map(|said| Cursor::new(said)).collect();
    let pairs = cursors.iter_mut().filter_map(Cursor::array).min().unwrap_or_default() / 2;
    write_header(out, b'*', pairs * 2);
    for _ in 0..pairs {
        let names: Vec<&[u8]> = cursors.iter_mut().filter_map(Cursor::bulk).collect();
        let most = cursors.iter_mut().filter_map(Cursor::integer).max();
        let name = names.first().copied().unwrap_or_default();
        write_bulk(out, name);
        reply::integer(out, census(name).correct(most.unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(name: &[u8]) -> Count {
        if name == b"b" { Count { clients: 5, hubs: 2 } } else { Count::default() }
    }

    #[track_caller]
    fn check(verb: PubSubVerb, answers: &[&str], want: &str) {
        let answers: Vec<Answer> = answers.iter().map(|answer| Ok(answer.as_bytes().to_vec())).collect();
        assert_eq!(String::from_utf8(merged(verb, &answers, &census)).unwrap(), want);
    }

    #[test]
    fn answers_of_several_stores_become_one() {
        let (one, two) = ("*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n");
        check(PubSubVerb::Channels, &[one, two], "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
        check(PubSubVerb::Channels, &["*0\r\n"], "*0\r\n");
        check(PubSubVerb::Numpat, &[":1\r\n", ":3\r\n", ":2\r\n"], ":3\r\n");
        let (one, two) = ("*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n", "*4\r\n$1\r\na\r\n:0\r\n$1\r\nb\r\n:7\r\n");
        check(PubSubVerb::Numsub, &[one, two], "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:10\r\n");
        check(PubSubVerb::Numsub, &["*0\r\n", "*0\r\n"], "*0\r\n");
        check(PubSubVerb::Shardchannels, &["-ERR no\r\n", "*1\r\n$1\r\na\r\n"], "*1\r\n$1\r\na\r\n");
        check(PubSubVerb::Shardchannels, &["-ERR no\r\n", "-ERR no\r\n"], "-ERR no\r\n");
    }
}
