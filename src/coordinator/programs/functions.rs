//! Functions where keys have several copies. Their text is in the stores, and anybody may replace it at any moment: so it is
//! asked for each time, and runs as a script that registers its functions and calls one of them.

use std::rc::Rc;

use smallvec::SmallVec;

use super::Homes;
use super::heal::libraries;
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::{self, Args, reply};
use crate::coordinator::gather::ask;
use crate::coordinator::replicated::Own;
use crate::coordinator::{Coordinator, Request, Target, Verdict};
use crate::metrics::Outcome;
use crate::protocol::resp::write_request;
use crate::topology::View;

/// Stands where the first line of a library says what it is, so that its other lines keep their numbers.
const REGISTER: &[u8] = b"local q_own={} redis.register_function=function(name,callback) if type(name)=='table' then \
    q_own[name.function_name]=name.callback else q_own[name]=callback end end";

/// A function, as the stores have it.
pub(super) enum Function {
    /// The text of a script that does the same.
    Text(Vec<u8>),
    /// It says that it writes nothing.
    Reads,
}

impl Function {
    /// Puts the call together; whether it is one that only reads.
    fn call(&self, args: &Args<'_>, own: &mut Own) -> bool {
        own.begin(args.len());
        match self {
            Self::Text(text) => {
                own.push(b"EVAL");
                own.push(text);
            }
            Self::Reads => {
                own.push(b"FCALL_RO");
                own.push(args.get(1).unwrap_or_default());
            }
        }
        for word in args.iter().skip(2) {
            own.push(word);
        }
        matches!(self, Self::Reads)
    }
}

/// Makes a script of a library: what it registers, and a call. `q_function` is the name that its errors have.
fn script_of(code: &[u8], function: &[u8]) -> Vec<u8> {
    let (_, rest) = code.split_at(memchr::memchr(b'\n', code).unwrap_or(code.len()));
    [REGISTER, rest, b"\nredis.q_function='", function, b"' return q_own['", function, b"'](KEYS,ARGV)"].concat()
}

impl Coordinator {
    /// Runs a function that may write. What the client sends next waits until its text is here.
    #[expect(clippy::too_many_arguments, reason = "a request, who made it and who hears of it")]
    pub(super) fn run_function(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: usize,
        homes: &Homes,
        request: &Request<'_>,
        is_keyless: bool,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
    ) -> Verdict {
        let tag = Tag { slot, part: 0 };
        sink.hold(tag);
        let (coordinator, view, sink, homes) = (Rc::clone(self), Rc::clone(view), Rc::clone(sink), homes.clone());
        let frame = request.frame.to_vec();
        let bounds: SmallVec<[(u32, u32); 8]> = request.args.bounds().into();
        let (row, version, level) = (request.row, request.version, request.level);
        self.context.buffered(frame.len());
        self.context.spawn(async move {
            let args = Args::new(&frame, &bounds);
            let mut out = Vec::new();
            let found = function(&homes, sink.origin(), args.get(1).unwrap_or_default()).await;
            coordinator.context.released(frame.len());
            let sent = if let (Some(function), Some(listener)) = (found, view.topology.listener(listener)) {
                let mut own = Own::default();
                let reads = function.call(&args, &mut own);
                let row = command::lookup(if reads { b"fcall_ro" } else { b"eval" }).unwrap_or(row);
                let args = Args::new(&own.frame, &own.bounds);
                let request = Request { frame: &own.frame, args, row, version, level };
                let target = Target { view: &view, listener };
                if reads {
                    coordinator.send_program(&target, &request, is_keyless, &sink, slot, &mut out)
                } else {
                    coordinator.send_replicated(&target, &request, is_keyless, &sink, slot, &mut out)
                }
            } else {
                reply::no_function(&mut out);
                Verdict::Answered(Outcome::Refused)
            };
            if sent != Verdict::Sent {
                let _: Flow = sink.reply(tag, Piece::Whole(&out));
            }
        });
        Verdict::Sent
    }
}

/// What one of the nodes says of a function; the next is asked only if it has none of that name, or does not answer.
pub(super) async fn function(nodes: &Homes, origin: usize, name: &[u8]) -> Option<Function> {
    for node in nodes {
        let words: [&[u8]; 3] = [b"FUNCTION", b"LIST", b"WITHCODE"];
        let Ok(listed) = ask(node, origin, 1, &mut |out| write_request(out, words.into_iter())).await else { continue };
        let Some(libraries) = libraries(&listed) else { continue };
        for library in libraries {
            let Some((function, reads)) = library.functions.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)) else {
                continue;
            };
            return Some(if *reads { Function::Reads } else { Function::Text(script_of(library.code, function)) });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_becomes_a_script_and_keeps_its_lines() {
        let script = script_of(b"#!lua name=l\nredis.register_function('f', g)", b"f");
        let script = String::from_utf8(script).unwrap();
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(
            lines[1..],
            ["redis.register_function('f', g)", "redis.q_function='f' return q_own['f'](KEYS,ARGV)"]
        );
    }
}
