//! `SCRIPT` and `FUNCTION`: every node is told, and the answers become one.
//!
//! # Invariants
//! - What changes something is done when every node has done it; otherwise the answer names those that have not, and the
//!   command may be repeated.
//! - What ends a script reaches a node whose connections wait for that script.

use std::rc::Rc;
use std::sync::Arc;

use super::{Came, Digest};
use crate::backend::redis::Node;
use crate::backend::{Failure, Flow, Piece, ReplySink, Tag};
use crate::command::{ProgramsVerb, Row, reply};
use crate::config::Listener;
use crate::coordinator::gather::{Answer, Gather, Miss};
use crate::coordinator::keyspace::names::pools_of;
use crate::coordinator::presence::ask_all_aside;
use crate::coordinator::{Coordinator, Request, Target, Verdict, verdict, write_failure};
use crate::metrics::Outcome;
use crate::protocol::resp::{Version, write_header};
use crate::replication::Cursor;
use crate::topology::View;

/// What the stores answer where nothing runs.
const NOTHING_RUNS: &[u8] = b"-NOTBUSY";
/// A script runs there.
const BUSY: &[u8] = b"-BUSY";
/// The script has written: it cannot be ended without losing half of what it does.
const CANNOT_END: &[u8] = b"-UNKILLABLE";

/// One command for all nodes.
struct Errand {
    coordinator: Rc<Coordinator>,
    verb: ProgramsVerb,
    row: &'static Row,
    nodes: Vec<Rc<Node>>,
    frame: Vec<u8>,
    /// The text of a script, if the command brings one.
    text: Vec<u8>,
    version: Version,
    sink: Rc<dyn ReplySink>,
    /// Whether all keys that the listener serves have several copies.
    has_copies: bool,
}

/// What a node said, and which it is.
struct Said {
    label: Arc<str>,
    answer: Answer,
}

/// The nodes of all pools that the clients of a listener can reach; a store that is in several is there once.
pub(super) fn reach(view: &View, listener: &Listener) -> Vec<Rc<Node>> {
    let mut nodes: Vec<Rc<Node>> = Vec::new();
    for node in pools_of(listener).into_iter().flat_map(|pool| view.nodes_in(pool)) {
        if !nodes.iter().any(|other| other.options().address == node.options().address) {
            nodes.push(Rc::clone(node));
        }
    }
    nodes
}

impl Coordinator {
    /// Serves a verb about scripts or functions. The client's earlier requests have been answered, and later ones wait for
    /// this one.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub fn dispatch_programs(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: ProgramsVerb,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let tag = Tag { slot, part: 0 };
        let nodes = reach(view, listener);
        if verb == ProgramsVerb::AskOne {
            let target = Target { view, listener };
            let home = super::keyless_home(&target).filter(|node| node.is_available());
            let Some(node) = home.or(nodes.iter().find(|node| node.is_available())).or(nodes.first()) else {
                reply::no_pool(out);
                return Verdict::Answered(Outcome::Refused);
            };
            return verdict(node, node.send(request.frame, request.version, sink, tag), out);
        }
        self.context.buffered(request.frame.len());
        let text = if verb == ProgramsVerb::ScriptLoad { request.args.get(2).unwrap_or_default() } else { b"" };
        let errand = Errand {
            coordinator: Rc::clone(self),
            verb,
            row: request.row,
            nodes,
            frame: request.frame.to_vec(),
            text: text.to_vec(),
            version: request.version,
            sink: Rc::clone(sink),
            has_copies: pools_of(listener).into_iter().all(|pool| self.groups.has(pool)),
        };
        self.context.spawn(async move {
            let answer = errand.run().await;
            let _: Flow = Rc::clone(&errand.sink).reply(tag, Piece::Whole(&answer));
        });
        Verdict::Sent
    }
}

/// What clients say to the stores themselves.
impl Coordinator {
    /// Whether some keys that the clients of a listener can reach have several copies.
    pub fn has_copies(&self, listener: &Listener) -> bool {
        pools_of(listener).into_iter().any(|pool| self.groups.has(pool))
    }

    /// The nodes of all pools that the clients of a listener can reach.
    pub fn nodes_of(view: &View, listener: &Listener) -> Vec<Rc<Node>> {
        reach(view, listener)
    }

    /// Tells all these nodes something, on behalf of a client and past what waits for them; their answer, if they give the
    /// same one. That one is busy is told in its own words: to say it again is the mend for that and for what another has not
    /// done. `verb` is for people.
    pub async fn tell_all(&self, nodes: &[Rc<Node>], verb: &str, frame: &[u8], origin: usize) -> Vec<u8> {
        let answers = ask_all_aside(&self.context, nodes, frame, Version::Resp2, origin).await;
        let labels = nodes.iter().map(|node| Arc::clone(&node.options().label));
        let said: Vec<Said> = labels.zip(answers).map(|(label, answer)| Said { label, answer }).collect();
        let busy = said.iter().filter_map(Said::reply).find(|reply| reply.starts_with(BUSY));
        busy.map_or_else(|| all_alike(verb, &said), <[u8]>::to_vec)
    }

    /// The names and values that a node answers to these requests. What it has not, it answers nothing to.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn pairs_of(
        node: &Rc<Node>,
        frames: impl Iterator<Item = Vec<u8>>,
        origin: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Failure> {
        let gather = Gather::new(origin);
        frames.for_each(|frame| gather.ask(node, 1, &mut |out| out.extend_from_slice(&frame)));
        let mut pairs = Vec::new();
        for answer in gather.all().await {
            let reply = match answer {
                Ok(reply) => reply,
                Err(Miss::Failed(failure)) => return Err(failure),
                Err(Miss::TooLong) => continue,
            };
            let mut cursor = Cursor::new(&reply);
            let words = cursor.array().unwrap_or(0);
            for _ in 0..words / 2 {
                if let (Some(name), Some(value)) = (cursor.bulk(), cursor.bulk()) {
                    pairs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(pairs)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.coordinator.context.released(self.frame.len());
    }
}

impl Errand {
    async fn run(&self) -> Vec<u8> {
        let aside = matches!(self.verb, ProgramsVerb::Kill | ProgramsVerb::FunctionStats);
        let mut said = if aside { self.ask_aside().await } else { self.ask().await };
        self.note(&said);
        if self.has_copies && matches!(self.verb, ProgramsVerb::ScriptLoad | ProgramsVerb::ScriptExists) {
            without_absent(&mut said);
        }
        let verb = self.row.name.replace('|', " ").to_ascii_uppercase();
        match self.verb {
            ProgramsVerb::Change | ProgramsVerb::ScriptLoad | ProgramsVerb::ScriptFlush => all_alike(&verb, &said),
            ProgramsVerb::FunctionDelete => all_gone(&verb, said),
            ProgramsVerb::ScriptExists => all_have(&verb, &said),
            ProgramsVerb::ScriptShow | ProgramsVerb::AskOne => first_that_has(&verb, &said),
            ProgramsVerb::Kill => ended(&verb, &said),
            ProgramsVerb::FunctionStats => where_it_runs(&verb, &said),
        }
    }

    async fn ask(&self) -> Vec<Said> {
        let gather = Gather::new(self.sink.origin());
        for node in &self.nodes {
            gather.ask(node, 1, &mut |out| out.extend_from_slice(&self.frame));
        }
        self.named(gather.all().await)
    }

    async fn ask_aside(&self) -> Vec<Said> {
        let context = &self.coordinator.context;
        self.named(ask_all_aside(context, &self.nodes, &self.frame, self.version, self.sink.origin()).await)
    }

    fn named(&self, answers: Vec<Answer>) -> Vec<Said> {
        let labels = self.nodes.iter().map(|node| Arc::clone(&node.options().label));
        labels.zip(answers).map(|(label, answer)| Said { label, answer }).collect()
    }

    /// Keeps what this process knows of programs right.
    fn note(&self, said: &[Said]) {
        let programs = &self.coordinator.programs;
        let done = || self.nodes.iter().zip(said).filter(|(_, said)| said.reply().is_some_and(|it| !is_error(it)));
        match self.verb {
            ProgramsVerb::ScriptLoad if done().next().is_some() => {
                programs.sources.remember(&self.text, Came::Loaded);
                let number = Digest::of(&self.text).number();
                done().for_each(|(node, _)| node.note_program(number));
            }
            ProgramsVerb::ScriptFlush if done().next().is_some() => {
                programs.sources.forget_all();
                done().for_each(|(node, _)| node.forget_programs());
            }
            ProgramsVerb::Change | ProgramsVerb::FunctionDelete => {
                programs.hope();
                done().for_each(|(node, _)| node.forget_programs());
            }
            _ => {}
        }
    }
}

impl Said {
    fn reply(&self) -> Option<&[u8]> {
        self.answer.as_deref().ok()
    }

    /// What is wrong with it, for people.
    fn trouble(&self) -> Option<String> {
        match &self.answer {
            Ok(reply) if is_error(reply) => {
                let text = String::from_utf8_lossy(reply.strip_prefix(b"-").unwrap_or(reply)).trim_end().to_owned();
                Some(format!("node {}: {text}", self.label))
            }
            Ok(_) => None,
            Err(Miss::Failed(failure)) => Some(format!("node {}: {}", self.label, failure.cause)),
            Err(Miss::TooLong) => Some(format!("node {}: an answer too long", self.label)),
        }
    }
}

fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

/// Leaves out the stores that cannot be asked, if any can: where keys have several copies scripts are run by their texts, and
/// a store that is away keeps nobody from anything.
fn without_absent(said: &mut Vec<Said>) {
    let is_absent = |it: &Said| matches!(it.answer, Err(Miss::Failed(_)));
    if !said.iter().all(is_absent) {
        said.retain(|it| !is_absent(it));
    }
}

/// The answer if all give the same one.
fn all_alike(verb: &str, said: &[Said]) -> Vec<u8> {
    match said.first() {
        Some(Said { answer: Ok(first), .. }) if said.iter().all(|it| it.reply() == Some(first.as_slice())) => {
            first.clone()
        }
        _ => incomplete(verb, said),
    }
}

/// An error that names the nodes that have not done it.
fn incomplete(verb: &str, said: &[Said]) -> Vec<u8> {
    let mut out = Vec::new();
    if let [Said { answer: Err(Miss::Failed(failure)), .. }] = said {
        write_failure(failure, &mut out);
        return out;
    }
    let troubles: Vec<String> = said.iter().filter_map(Said::trouble).collect();
    match troubles.is_empty() {
        true if said.is_empty() => reply::no_pool(&mut out),
        true => reply::incomplete(&mut out, verb, "the nodes do not answer alike"),
        false => reply::incomplete(&mut out, verb, &troubles.join("; ")),
    }
    out
}

/// As [`all_alike`], where a node without the library has nothing to do if another had it.
fn all_gone(verb: &str, mut said: Vec<Said>) -> Vec<u8> {
    if said.iter().any(|it| it.reply() == Some(b"+OK\r\n")) {
        said.retain(|it| it.reply() != Some(b"-ERR Library not found\r\n"));
    }
    all_alike(verb, &said)
}

/// For each script whether all nodes have it.
fn all_have(verb: &str, said: &[Said]) -> Vec<u8> {
    let mut all: Option<Vec<i64>> = None;
    for one in said {
        let read = |reply: &[u8]| {
            let mut cursor = Cursor::new(reply);
            let count = cursor.array()?;
            (0..count).map(|_| cursor.integer()).collect::<Option<Vec<i64>>>()
        };
        let Some(flags) = one.reply().and_then(read) else { return all_alike(verb, said) };
        all = Some(match all {
            None => flags,
            Some(before) => before.into_iter().zip(flags).map(|(one, other)| one & other).collect(),
        });
    }
    let flags = all.unwrap_or_default();
    let mut out = Vec::new();
    write_header(&mut out, b'*', flags.len());
    for flag in flags {
        reply::integer(&mut out, flag);
    }
    out
}

fn first_that_has(verb: &str, said: &[Said]) -> Vec<u8> {
    let mut replies = said.iter().filter_map(Said::reply);
    match replies.clone().find(|reply| !is_error(reply)).or_else(|| replies.next()) {
        Some(reply) => reply.to_vec(),
        None => incomplete(verb, said),
    }
}

/// Ended if any node had something to end, unless one has something that cannot be.
fn ended(verb: &str, said: &[Said]) -> Vec<u8> {
    let find = |which: &dyn Fn(&[u8]) -> bool| said.iter().filter_map(Said::reply).find(|reply| which(reply));
    let found = find(&|reply| reply.starts_with(CANNOT_END))
        .or_else(|| find(&|reply| !is_error(reply)))
        .or_else(|| find(&|reply| !reply.starts_with(NOTHING_RUNS)));
    match found {
        Some(reply) => reply.to_vec(),
        // Nothing runs on those that answer; that is not all if others do not.
        None => all_alike(verb, said),
    }
}

/// What the first node says on which something runs, or else the first of all.
fn where_it_runs(verb: &str, said: &[Said]) -> Vec<u8> {
    let runs = |reply: &&[u8]| {
        let name = b"$14\r\nrunning_script\r\n";
        let rest = memchr::memmem::find(reply, name).and_then(|at| reply.get(at + name.len()..));
        rest.is_some_and(|rest| !rest.starts_with(b"$-1") && !rest.starts_with(b"*-1") && !rest.starts_with(b"_"))
    };
    match said.iter().filter_map(Said::reply).find(runs) {
        Some(reply) => reply.to_vec(),
        None => first_that_has(verb, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Cause;

    /// Nodes `a`, `b`, … with these answers; an empty one is none.
    fn said(answers: &[&str]) -> Vec<Said> {
        let answer = |text: &str, label: &Arc<str>| match text {
            "" => Err(Miss::Failed(Failure { node: Arc::clone(label), cause: Cause::Overloaded })),
            text => Ok(format!("{text}\r\n").into_bytes()),
        };
        let labels = ["a", "b", "c"].map(Arc::<str>::from).into_iter();
        labels.zip(answers).map(|(label, text)| Said { answer: answer(text, &label), label }).collect()
    }

    #[track_caller]
    fn check(merge: impl Fn(&[Said]) -> Vec<u8>, answers: &[&str], want: &str) {
        let got = String::from_utf8(merge(&said(answers))).unwrap();
        assert!(got.starts_with(want) && got.ends_with("\r\n"), "{answers:?}: {got:?}, not {want:?}");
    }

    #[test]
    fn a_change_is_done_when_all_have_done_it() {
        let alike = |said: &[Said]| all_alike("SCRIPT LOAD", said);
        check(alike, &["+OK", "+OK"], "+OK\r\n");
        check(alike, &["-ERR no", "-ERR no"], "-ERR no\r\n");
        let want = "-ERR SCRIPT LOAD is not complete, repeat it: node b: ERR no\r\n";
        check(alike, &["+OK", "-ERR no"], want);
        let want = "-ERR SCRIPT LOAD is not complete, repeat it: node b: overloaded: too many requests wait for it\r\n";
        check(alike, &["+OK", "", "+OK"], want);
        check(alike, &[""], "-ERR node a: overloaded");
        check(alike, &["$1\r\na", "$1\r\nb"], "-ERR SCRIPT LOAD is not complete, repeat it: the nodes do not");
        check(alike, &[], "-ERR no pool");
    }

    #[test]
    fn what_is_gone_need_not_be_deleted() {
        let gone = |said: &[Said]| {
            let copy = said.iter().map(|it| Said { label: Arc::clone(&it.label), answer: it.answer.clone() });
            all_gone("FUNCTION DELETE", copy.collect())
        };
        check(gone, &["+OK", "-ERR Library not found"], "+OK\r\n");
        check(gone, &["-ERR Library not found", "-ERR Library not found"], "-ERR Library not found\r\n");
        check(gone, &["+OK", "-ERR Library not found", ""], "-ERR FUNCTION DELETE is not complete");
    }

    #[test]
    fn a_script_exists_where_all_have_it() {
        let have = |said: &[Said]| all_have("SCRIPT EXISTS", said);
        check(have, &["*2\r\n:1\r\n:1", "*2\r\n:0\r\n:1"], "*2\r\n:0\r\n:1\r\n");
        check(have, &["*1\r\n:1", ""], "-ERR SCRIPT EXISTS is not complete");
        check(have, &["-ERR x", "-ERR x"], "-ERR x\r\n");
    }

    #[test]
    fn who_is_away_is_left_out_if_anybody_is_there() {
        let have = |said: &[Said]| {
            let mut said: Vec<Said> =
                said.iter().map(|it| Said { label: Arc::clone(&it.label), answer: it.answer.clone() }).collect();
            without_absent(&mut said);
            all_have("SCRIPT EXISTS", &said)
        };
        check(have, &["*1\r\n:1", ""], "*1\r\n:1\r\n");
        check(have, &["", ""], "-ERR SCRIPT EXISTS is not complete");
    }

    #[test]
    fn a_kill_says_the_worst() {
        let kill = |said: &[Said]| ended("SCRIPT KILL", said);
        check(kill, &["-NOTBUSY n", "-NOTBUSY n"], "-NOTBUSY n\r\n");
        check(kill, &["-NOTBUSY n", "+OK", ""], "+OK\r\n");
        check(kill, &["+OK", "-UNKILLABLE u"], "-UNKILLABLE u\r\n");
        check(kill, &["-NOTBUSY n", "-BUSY b"], "-BUSY b\r\n");
        check(
            kill,
            &["-NOTBUSY n", ""],
            "-ERR SCRIPT KILL is not complete, repeat it: node a: NOTBUSY n; node b: over",
        );
    }

    #[test]
    fn the_node_that_runs_something_tells() {
        let stats = |said: &[Said]| where_it_runs("FUNCTION STATS", said);
        let idle = "*4\r\n$14\r\nrunning_script\r\n$-1\r\n$7\r\nengines\r\n*0";
        let busy = "*4\r\n$14\r\nrunning_script\r\n*0\r\n$7\r\nengines\r\n*0";
        check(stats, &[idle, busy], &format!("{busy}\r\n"));
        check(stats, &["", idle], idle);
        check(stats, &[""], "-ERR node a");
    }
}
