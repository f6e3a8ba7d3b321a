//! `SLOWLOG`: which requests took long, from read to answered.
//!
//! While the log is on, the beginning of each request that a store answers is copied behind those of the client's other
//! requests that are due. When it is answered, one comparison tells whether it took long; the copies go when nothing is due.
//! What quoit answers by itself is not copied: it is still at hand when it has been answered. What is meant to wait (`BLPOP`)
//! is not measured, and neither is `EXEC`, whose commands are. Events of `LATENCY` are found on the way.
//!
//! # Invariants
//! - Keys and values are in the log and nowhere else; the log is bounded, in memory, and gone with the process.
//! - What is copied for one client is bounded too: beyond [`NOTES_BYTES`] a request leaves a few bytes only.
//! - Only the worker that has a slow request takes the lock, for as long as it takes to add one entry.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::clients::number;
use super::local::{Local, refused};
use super::monitor;
use super::session::{Inner, Session};
use crate::backend::Context;
use crate::clock::Moment;
use crate::command::{self, reply};
use crate::command::{Args, Flag, Row};
use crate::metrics::Outcome;

/// The part of a request that is kept: enough for the 32 arguments of 128 bytes that an entry has at most.
const NOTE_BYTES: usize = 32 * 128;
/// How much is kept of all requests of one client that are due, and what each one beyond leaves.
const NOTES_BYTES: usize = 256 * 1024;
const SHORT_NOTE_BYTES: usize = 64;
/// What bounds the entries of one worker.
const WINDOW: Duration = Duration::from_millis(100);
const ENTRIES_MIN: usize = 128;
/// What an entry has at most, as in Redis (`SLOWLOG_ENTRY_MAX_ARGC`, `SLOWLOG_ENTRY_MAX_STRING`).
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;
/// Entries that `SLOWLOG GET` gives if no number is named.
const GET_DEFAULT: usize = 10;

/// The log of one process.
#[derive(Debug, Default)]
pub struct SlowLog(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    /// The newest first.
    entries: VecDeque<Entry>,
    next: i64,
}

#[derive(Debug, Clone)]
struct Entry {
    id: i64,
    at_s: u64,
    took: Duration,
    arguments: Vec<Vec<u8>>,
    peer: String,
    name: String,
}

impl SlowLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut entry: Entry, most: usize) {
        let mut log = self.lock();
        entry.id = log.next;
        log.next += 1;
        log.entries.push_front(entry);
        log.entries.truncate(most);
    }
}

/// How many entries a worker has added lately. When everything is slow the log must not make it slower: a worker adds at
/// most as many as the log has, and [`ENTRIES_MIN`], in each [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Added {
    since: Cell<Moment>,
    count: Cell<usize>,
}

impl Added {
    fn may_add(&self, now: Moment, most: usize) -> bool {
        if now.since(self.since.get()) >= WINDOW {
            self.since.set(now);
            self.count.set(0);
        }
        self.count.set(self.count.get() + 1);
        self.count.get() <= most.max(ENTRIES_MIN)
    }
}

/// The beginnings of a client's requests that are due, one behind the other, each with the number of its slot and its length
/// before it.
#[derive(Debug, Default)]
pub(super) struct Notes {
    bytes: Vec<u8>,
    /// Where the note is that was found last: the next one that is asked for mostly lies behind it.
    found: usize,
    /// At how many bytes those of answered requests are looked for.
    tidy_at: usize,
}

impl Notes {
    /// Adds one; `first` is the number of the first slot that is due.
    fn add(&mut self, context: &Context, first: u32, slot: u32, frame: &[u8]) {
        if first == slot {
            self.bytes.clear(); // Nothing else is due.
            self.found = 0;
        } else if self.bytes.len() > self.tidy_at {
            self.forget_answered(first);
            self.tidy_at = self.bytes.len().saturating_mul(2).max(NOTES_BYTES);
        }
        if self.bytes.capacity() == 0 {
            self.bytes = context.take_buffer();
        }
        let most = if self.bytes.len() < NOTES_BYTES { NOTE_BYTES } else { SHORT_NOTE_BYTES };
        let note = frame.get(..frame.len().min(most)).unwrap_or_default();
        self.bytes.extend_from_slice(&slot.to_le_bytes());
        self.bytes.extend_from_slice(&u32::try_from(note.len()).unwrap_or_default().to_le_bytes());
        self.bytes.extend_from_slice(note);
    }

    /// The notes that begin at an offset, each with its slot and where the next one begins.
    fn at(&self, offset: usize) -> Option<(u32, &[u8], usize)> {
        let (slot, rest) = self.bytes.get(offset..)?.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        Some((u32::from_le_bytes(*slot), rest.get(..len)?, offset + 8 + len))
    }

    /// The note of a slot that is due, unless it has none.
    fn find(&mut self, slot: u32) -> Option<&[u8]> {
        // Numbers wrap: what is behind is the near half of the circle.
        let is_behind = |other: u32| other != slot && other.wrapping_sub(slot) < u32::MAX / 2;
        let mut offset = self.found;
        if self.at(offset).is_none_or(|(other, ..)| is_behind(other)) {
            offset = 0;
        }
        while let Some((other, _, next)) = self.at(offset)
            && other != slot
            && !is_behind(other)
        {
            offset = next;
        }
        self.found = offset;
        self.at(offset).filter(|(other, ..)| *other == slot).map(|(_, note, _)| note)
    }

    fn forget_answered(&mut self, first: u32) {
        let mut offset = 0;
        // Numbers wrap; those before the first are the far half of the circle.
        while let Some((slot, _, next)) = self.at(offset)
            && slot.wrapping_sub(first) > u32::MAX / 2
        {
            offset = next;
        }
        self.bytes.drain(..offset);
        self.found = 0;
    }

    /// Nothing is due: gives the memory back.
    pub(super) fn rest(&mut self, context: &Context) {
        if self.bytes.capacity() > 0 {
            context.return_buffer(std::mem::take(&mut self.bytes));
            self.found = 0;
        }
    }

    /// The memory they take.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Session {
    /// Keeps the beginning of a request that is being sent, if it may be looked at when it is answered.
    #[inline]
    pub(super) fn note(&self, slot: u32, row: &Row, frame: &[u8]) {
        if self.worker.slow.get() < Duration::MAX && !row.flags.contains(Flag::Blocking) {
            let output = &mut self.inner.borrow_mut().output;
            let first = output.first();
            output.notes.add(&self.worker.context, first, slot, frame);
        }
    }

    /// Adds an entry for a request that took long, if the log is on and has a note of it.
    #[cold]
    pub(super) fn log_slow(&self, inner: &mut Inner, slot: u32, took: Duration) {
        let Some(note) = inner.output.notes.find(slot) else { return };
        let arguments = shortened(note);
        let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let row = words.first().and_then(|verb| command::lookup(verb));
        self.keep_slow(inner, row, arguments, took);
    }

    /// The same for a request that quoit has answered by itself.
    #[cold]
    pub(super) fn log_slow_local(&self, row: &Row, args: &Args<'_>, frame: &[u8], took: Duration) {
        let mut arguments = shortened(frame.get(..frame.len().min(NOTE_BYTES)).unwrap_or_default());
        for (at, argument) in arguments.iter_mut().enumerate() {
            if is_secret(row, args, at) {
                *argument = b"(redacted)".to_vec();
            }
        }
        self.keep_slow(&self.inner.borrow(), Some(row), arguments, took);
    }

    fn keep_slow(&self, inner: &Inner, row: Option<&Row>, arguments: Vec<Vec<u8>>, took: Duration) {
        let worker = &self.worker;
        #[expect(clippy::disallowed_methods, reason = "the log tells the time of day")]
        let at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if took >= worker.slow_event.get()
            && let Some(row) = row
        {
            worker.fleet.latency.add(row, at_s, took);
        }
        // Not from the worker's view: a reload may be due there, and the session is in the middle of a reply.
        let most = worker.slow_entries_max.get();
        if took < worker.slow_entry.get() || !worker.slow_entries.may_add(worker.context.clock.now(), most) {
            return;
        }
        let peer = inner.peer_name();
        let name = inner.facts.as_ref().map(|facts| facts.name.clone()).unwrap_or_default();
        worker.fleet.slowlog.add(Entry { id: 0, at_s, took, arguments, peer, name }, most);
    }
}

/// Whether an argument of what quoit answers by itself is, or may be, a password. What is refused is in the log as well.
fn is_secret(row: &Row, args: &Args<'_>, at: usize) -> bool {
    let holds = |word: &[u8], part: &[u8]| memchr::memmem::find(&word.to_ascii_lowercase(), part).is_some();
    match row.name {
        "acl|setuser" | "acl|deluser" => at > 1,
        "config|set" => {
            let name = at.checked_sub(1).filter(|name| *name > 1).and_then(|name| args.get(name)).unwrap_or_default();
            at % 2 == 1 && (holds(name, b"pass") || holds(name, b"auth") || holds(name, b"user"))
        }
        // Whatever it passes on.
        "quoit|node" => at > 3,
        _ => monitor::is_secret(row, args, at),
    }
}

/// The arguments of a request of which the beginning is here, as an entry shows them.
fn shortened(mut note: &[u8]) -> Vec<Vec<u8>> {
    let mut header = |marker: u8| -> Option<(usize, &[u8])> {
        let end = note.windows(2).position(|pair| pair == b"\r\n")?;
        let line = note.get(..end)?.strip_prefix(&[marker])?;
        let len = std::str::from_utf8(line).ok()?.parse().ok()?;
        note = note.get(end + 2..)?;
        let body = note;
        if marker == b'$' {
            note = note.get(len + 2..).unwrap_or_default();
        }
        Some((len, body))
    };
    let Some((count, _)) = header(b'*') else { return Vec::new() };
    let shown_max = if count > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { count };
    let mut arguments = Vec::new();
    while arguments.len() < shown_max
        && let Some((len, body)) = header(b'$')
    {
        let shown = body.get(..len.min(ARGUMENT_BYTES_MAX).min(body.len())).unwrap_or_default();
        let mut argument = shown.to_vec();
        if shown.len() < len {
            argument.extend_from_slice(format!("... ({} more bytes)", len - shown.len()).as_bytes());
        }
        arguments.push(argument);
    }
    if arguments.len() < count {
        arguments.push(format!("... ({} more arguments)", count - arguments.len()).into_bytes());
    }
    arguments
}

/// `SLOWLOG` and, for the type `slow`, Valkey's `COMMANDLOG`.
pub(super) fn answer(session: &Session, row: &Row, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let log = &session.worker.fleet.slowlog;
    let Some((container, subcommand)) = row.name.split_once('|') else { return refused(out, reply::syntax_error) };
    let type_at = match (container, subcommand) {
        ("slowlog", _) => None,
        (_, "get") => Some(3),
        _ => Some(2),
    };
    if let Some(at) = type_at
        && !args.is_word(at, "SLOW")
    {
        return refused(out, reply::commandlog_type);
    }
    match subcommand {
        "len" => reply::integer(out, i64::try_from(log.lock().entries.len()).unwrap_or(i64::MAX)),
        "reset" => {
            log.lock().entries.clear();
            reply::ok(out);
        }
        "get" => {
            let count = match args.get(2) {
                None => GET_DEFAULT,
                Some(text) => match number(text) {
                    Some(-1) => usize::MAX,
                    Some(count) if count >= 0 => usize::try_from(count).unwrap_or(usize::MAX),
                    _ => return refused(out, reply::slowlog_count),
                },
            };
            if args.len() > 3 && type_at.is_none() {
                return refused(out, |out| reply::subcommand_syntax(out, args));
            }
            let entries: Vec<Entry> = log.lock().entries.iter().take(count).cloned().collect();
            reply::array_header(out, entries.len());
            for entry in &entries {
                show(entry, out);
            }
        }
        _ => return refused(out, reply::syntax_error),
    }
    Local::Reply(Outcome::Ok)
}

fn show(entry: &Entry, out: &mut Vec<u8>) {
    let integer = |out: &mut Vec<u8>, value: u128| reply::integer(out, i64::try_from(value).unwrap_or(i64::MAX));
    reply::array_header(out, 6);
    reply::integer(out, entry.id);
    integer(out, entry.at_s.into());
    integer(out, entry.took.as_micros());
    reply::array_header(out, entry.arguments.len());
    entry.arguments.iter().for_each(|argument| reply::bulk(out, argument));
    reply::bulk(out, entry.peer.as_bytes());
    reply::bulk(out, entry.name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Limits;
    use crate::protocol::resp::write_request;

    #[track_caller]
    fn check(words: &[&str], want: &[&str]) {
        let mut frame = Vec::new();
        write_request(&mut frame, words.iter().map(|word| word.as_bytes()));
        frame.truncate(NOTE_BYTES);
        let got = shortened(&frame);
        assert_eq!(got.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>(), want);
    }

    #[test]
    fn entries_are_shortened_as_the_servers_do() {
        check(&["GET", "key"], &["GET", "key"]);
        let long = "x".repeat(200);
        let cut = format!("{}... (72 more bytes)", "x".repeat(128));
        check(&["SET", &long, "v"], &["SET", &cut, "v"]);
        let many: Vec<&str> = std::iter::once("DEL").chain(std::iter::repeat_n("k", 39)).collect();
        let mut shown: Vec<&str> = many.iter().take(31).copied().collect();
        shown.push("... (9 more arguments)");
        check(&many, &shown);
        check(&many[..32], &many[..32]);
    }

    #[test]
    fn what_is_behind_the_note_is_counted() {
        let long = "x".repeat(10_000);
        let cut = format!("{}... (9872 more bytes)", "x".repeat(128));
        check(&["SET", "k", &long, "EX", "5"], &["SET", "k", &cut, "... (2 more arguments)"]);
    }

    #[test]
    fn notes_of_what_is_due_are_found() {
        let context = Context::new(Limits { connects_per_second_max: 1, buffer_bytes_max: 1 });
        let mut notes = Notes::default();
        notes.add(&context, 5, 5, b"five");
        notes.add(&context, 5, 6, b"six");
        notes.add(&context, 6, 7, b"seven");
        notes.add(&context, 6, 9, b"nine");
        for (slot, want) in
            [(5, "five"), (6, "six"), (7, "seven"), (9, "nine"), (8, ""), (6, "six"), (5, "five"), (8, ""), (9, "nine")]
        {
            let want = Some(want.as_bytes()).filter(|want| !want.is_empty());
            assert_eq!(notes.find(slot), want, "{slot}");
        }
        notes.add(&context, 10, 10, b"ten");
        assert_eq!(notes.find(9), None);
        assert_eq!(notes.find(10), Some(&b"ten"[..]));
        notes.rest(&context);
        assert_eq!(notes.find(10), None);
        assert_eq!(notes.capacity(), 0);
    }

    #[test]
    fn notes_are_bounded() {
        let context = Context::new(Limits { connects_per_second_max: 1, buffer_bytes_max: 1 });
        let mut notes = Notes::default();
        let frame = vec![b'x'; 100_000];
        // Numbers wrap; a thousand are due at a time, and there is never a moment without.
        let begin = u32::MAX - 50_000;
        for count in 0..100_000_u32 {
            let slot = begin.wrapping_add(count);
            notes.add(&context, begin.wrapping_add(count.saturating_sub(1000)), slot, &frame);
            assert!(notes.find(slot).is_some() || count % 1000 != 0);
        }
        assert!(notes.capacity() < 8 * NOTES_BYTES, "{}", notes.capacity());
    }

    #[test]
    fn a_worker_does_not_flood_the_log() {
        let added = Added::default();
        let mut now = Moment::default().after(WINDOW);
        for _ in 0..3 {
            let count = (0..10_000).filter(|_| added.may_add(now, 5)).count();
            assert_eq!(count, ENTRIES_MIN);
            now = now.after(WINDOW);
        }
        assert_eq!((0..10_000).filter(|_| added.may_add(now, 1000)).count(), 1000);
    }

    #[test]
    fn the_log_keeps_the_newest() {
        let log = SlowLog::default();
        let entry = Entry {
            id: 0,
            at_s: 0,
            took: Duration::ZERO,
            arguments: Vec::new(),
            peer: String::new(),
            name: String::new(),
        };
        for _ in 0..5 {
            log.add(entry.clone(), 3);
        }
        assert_eq!(log.lock().entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [4, 3, 2]);
    }
}
