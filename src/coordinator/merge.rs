//! Makes one reply of those to the fragments of a split request.
//!
//! # Invariants
//! - The sink hears exactly one whole reply, when the last fragment is settled.
//! - A fragment that fails fails its own keys: an element of `MGET`'s array is then that error. Where there is one reply
//!   for all keys (`MSET`, `DEL`, …) the first error is it, since saying OK would be a lie.
//! - What is held is bounded, for one request and for all together; beyond the bound the reply is an error that says so
//!   (FAILURES F21).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::fragment::{Fragments, Plan};
use super::write_failure;
use crate::backend::{Failure, Flow, Piece, ReplySink, Tag};
use crate::command::{SplitRule, reply};
use crate::protocol::resp::{ReplyScan, Step, write_header};

/// Merges that are kept for reuse, and the largest buffer that is kept with one.
const POOLED_MAX: usize = 128;
const POOLED_BYTES_MAX: usize = 4096;
/// All merges of a worker together hold as much as so many of the longest replies that one may have.
const LONGEST_MAX: usize = 4;

/// Merges that are done, for the next split request: none is allocated in the steady state.
#[derive(Default)]
pub(super) struct Pool {
    done: RefCell<Vec<Rc<Merge>>>,
    /// Bytes of replies that wait for the other parts of theirs.
    held_bytes: Cell<usize>,
}

impl Pool {
    pub(super) fn take(
        self: &Rc<Self>,
        plan: &Plan<'_>,
        fragments: &Fragments,
        sink: &Rc<dyn ReplySink>,
        slot: u32,
        bytes_max: usize,
    ) -> Rc<Merge> {
        let merge = self.pop();
        merge.begin(self, plan.rule, fragments.len(), sink, Tag { slot, part: 0 }, bytes_max);
        {
            let mut state = merge.state.borrow_mut();
            state.owners.extend(plan.places.iter().map(|place| {
                let part = fragments.iter().position(|fragment| fragment.place == *place).unwrap_or_default();
                u32::try_from(part).unwrap_or(u32::MAX)
            }));
        }
        merge
    }

    /// A merge with a part for each key.
    pub(super) fn take_each(
        self: &Rc<Self>,
        rule: SplitRule,
        keys: usize,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        bytes_max: usize,
    ) -> Rc<Merge> {
        let merge = self.pop();
        merge.begin(self, rule, keys, sink, tag, bytes_max);
        merge.state.borrow_mut().owners.extend(0..u32::try_from(keys).unwrap_or(u32::MAX));
        merge
    }

    fn pop(&self) -> Rc<Merge> {
        let mut merge = self.done.borrow_mut().pop().unwrap_or_default();
        if Rc::get_mut(&mut merge).is_none() {
            merge = Rc::default(); // Its last caller still holds it.
        }
        merge
    }
}

#[derive(Default)]
struct Part {
    reply: Vec<u8>,
    /// It was too long to be held.
    dropped: bool,
    settled: bool,
}

#[derive(Default)]
struct State {
    rule: Option<SplitRule>,
    sink: Option<Rc<dyn ReplySink>>,
    pool: Option<Rc<Pool>>,
    tag: Tag,
    /// For each key, the part that has it.
    owners: Vec<u32>,
    parts: Vec<Part>,
    used: usize,
    left: usize,
    bytes: usize,
    bytes_max: usize,
    /// What the pool is charged with for it.
    held_bytes: usize,
    /// The merged reply; kept so that the next one needs no memory of its own.
    merged: Vec<u8>,
}

/// The replies to the fragments of one request, as they come.
#[derive(Default)]
pub(super) struct Merge {
    state: RefCell<State>,
    /// Fragments are still being sent: the sink is not to be called from within its own dispatch.
    sending: Cell<bool>,
}

impl Merge {
    fn begin(
        &self,
        pool: &Rc<Pool>,
        rule: SplitRule,
        parts: usize,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        bytes_max: usize,
    ) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.rule = Some(rule);
        state.sink = Some(Rc::clone(sink));
        state.pool = Some(Rc::clone(pool));
        state.tag = tag;
        state.owners.clear();
        state.used = parts;
        state.left = parts;
        if state.parts.len() < parts {
            state.parts.resize_with(parts, Part::default);
        }
        for part in &mut state.parts {
            part.reply.clear();
            part.dropped = false;
            part.settled = false;
        }
        state.bytes = 0;
        state.held_bytes = 0;
        state.bytes_max = bytes_max;
        self.sending.set(true);
    }

    /// A fragment could not be sent.
    pub(super) fn part_failed(&self, part: usize, failure: &Failure) {
        self.state.borrow_mut().fail(part, failure);
    }

    /// A part was answered at once.
    pub(super) fn part_answered(&self, part: usize, reply: &[u8]) {
        self.state.borrow_mut().extend(part, reply, true);
    }

    /// Every fragment was sent or has failed.
    pub(super) fn all_sent(self: &Rc<Self>) {
        self.sending.set(false);
        self.finish_if_settled();
    }

    fn finish_if_settled(self: &Rc<Self>) {
        if self.sending.get() || self.state.borrow().left > 0 {
            return;
        }
        let (sink, tag, mut merged, pool, held_bytes) = {
            let mut state = self.state.borrow_mut();
            let mut merged = std::mem::take(&mut state.merged);
            state.write(&mut merged);
            (state.sink.take(), state.tag, merged, state.pool.take(), state.held_bytes)
        };
        if let Some(sink) = sink {
            let _: Flow = sink.reply(tag, Piece::Whole(&merged));
        }
        if let Some(pool) = pool {
            pool.held_bytes.set(pool.held_bytes.get().saturating_sub(held_bytes));
            let mut kept = pool.done.borrow_mut();
            if kept.len() < POOLED_MAX {
                let mut state = self.state.borrow_mut();
                state.parts.retain(|part| part.reply.capacity() <= POOLED_BYTES_MAX);
                state.owners.shrink_to(POOLED_BYTES_MAX);
                if merged.capacity() <= POOLED_BYTES_MAX {
                    merged.clear();
                    state.merged = merged;
                }
                drop(state);
                kept.push(Rc::clone(self));
            }
        }
    }
}

impl State {
    fn fail(&mut self, part: usize, failure: &Failure) {
        let Some(part) = self.parts.get_mut(part).filter(|part| !part.settled) else { return };
        part.reply.clear();
        let _outcome = write_failure(failure, &mut part.reply);
        part.settled = true;
        self.left -= 1;
    }

    fn extend(&mut self, part: usize, bytes: &[u8], last: bool) {
        self.bytes += bytes.len();
        let too_long = self.bytes > self.bytes_max;
        let bytes_max = self.bytes_max;
        let (Some(part), Some(pool)) = (self.parts.get_mut(part).filter(|part| !part.settled), &self.pool) else {
            return;
        };
        let held_bytes = pool.held_bytes.get();
        let too_many = held_bytes.saturating_add(bytes.len()) > bytes_max.saturating_mul(LONGEST_MAX);
        if !part.dropped && !too_long && !too_many {
            part.reply.extend_from_slice(bytes);
            pool.held_bytes.set(held_bytes + bytes.len());
            self.held_bytes += bytes.len();
        } else if !part.dropped {
            part.dropped = true;
            pool.held_bytes.set(held_bytes.saturating_sub(part.reply.len()));
            self.held_bytes = self.held_bytes.saturating_sub(part.reply.len());
            part.reply = Vec::new();
        }
        if last {
            if part.dropped && too_long {
                reply::too_large(&mut part.reply, "bytes in the replies to one command", bytes_max);
            } else if part.dropped {
                reply::error(&mut part.reply, "ERR overloaded: too many replies wait to be merged");
            }
            part.settled = true;
            self.left -= 1;
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let parts = self.parts.get(..self.used).unwrap_or_default();
        match self.rule {
            Some(SplitRule::Mget) => write_array(&self.owners, parts, out),
            Some(SplitRule::Mset) => match first_error(parts) {
                Some(error) => out.extend_from_slice(error),
                None => out.extend_from_slice(b"+OK\r\n"),
            },
            Some(SplitRule::SumIntegers) => match first_error(parts) {
                Some(error) => out.extend_from_slice(error),
                None => reply::integer(out, parts.iter().filter_map(|part| integer(&part.reply)).sum()),
            },
            None => {}
        }
    }
}

fn first_error(parts: &[Part]) -> Option<&[u8]> {
    parts.iter().map(|part| part.reply.as_slice()).find(|reply| reply.first() == Some(&b'-'))
}

fn integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Appends the elements of all parts in the order of the request's keys.
fn write_array(owners: &[u32], parts: &[Part], out: &mut Vec<u8>) {
    write_header(out, b'*', owners.len());
    let mut rest: smallvec::SmallVec<[(&[u8], bool); 8]> = parts.iter().map(|part| elements(&part.reply)).collect();
    for owner in owners {
        let Some((rest, repeat)) = rest.get_mut(*owner as usize) else { continue };
        if *repeat {
            out.extend_from_slice(rest);
            continue;
        }
        let len = match ReplyScan::default().advance(rest) {
            Ok(Step::Complete { len }) => len,
            Ok(Step::Partial { .. }) | Err(_) => 0,
        };
        match rest.split_at_checked(len) {
            Some((element, tail)) if len > 0 => {
                out.extend_from_slice(element);
                *rest = tail;
            }
            // A store that answers with fewer values than keys; the client's reply must keep its shape.
            _ => reply::error(out, "ERR a store answered with fewer values than it was asked for"),
        }
    }
}

/// What follows the array's header, or, when the reply is no array, the reply itself, once for each key.
fn elements(reply: &[u8]) -> (&[u8], bool) {
    match (reply.first(), memchr::memchr(b'\n', reply)) {
        (Some(b'*'), Some(end)) => (reply.get(end + 1..).unwrap_or_default(), false),
        _ => (reply, true),
    }
}

impl ReplySink for Merge {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        let part = tag.part as usize;
        {
            let mut state = self.state.borrow_mut();
            match piece {
                Piece::Whole(bytes) | Piece::End(bytes) => state.extend(part, bytes, true),
                Piece::Begin(bytes) | Piece::More(bytes) => state.extend(part, bytes, false),
                Piece::Failed(failure) => state.fail(part, failure),
            }
        }
        self.finish_if_settled();
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.state.borrow().sink.as_ref().map_or(0, |sink| sink.origin())
    }
}
