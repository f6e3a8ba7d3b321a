//! `SLOWLOG`: which requests took long, from read to answered.
//!
//! While the log is on, the beginning of each request that a store answers is copied into the client's notes; when the
//! request was answered in time, which is one comparison, the copy goes back to the pool. What quoit answers by itself is
//! not measured, and neither is what is meant to wait (`BLPOP`).
//!
//! # Invariants
//! - Keys and values are in the log and nowhere else; the log is bounded, in memory, and gone with the process.
//! - Only the worker that has a slow request takes the lock, for as long as it takes to add one entry.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::clients::number;
use super::local::{Local, refused};
use super::session::{Inner, Session};
use crate::command::reply;
use crate::command::{Args, Flag, Row};
use crate::metrics::Outcome;

/// The part of a request that is kept: enough for the 32 arguments of 128 bytes that an entry has at most.
const NOTE_BYTES: usize = 32 * 128;
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

impl Session {
    /// Keeps the beginning of a request that is being sent, if the log is on.
    #[inline]
    pub(super) fn note(&self, slot: u32, row: &Row, frame: &[u8]) {
        if self.worker.slowlog_us.get() >= 0 {
            self.note_beginning(slot, row, frame);
        }
    }

    fn note_beginning(&self, slot: u32, row: &Row, frame: &[u8]) {
        if row.flags.contains(Flag::Blocking) {
            return;
        }
        let mut note = self.worker.context.take_buffer();
        note.extend_from_slice(frame.get(..frame.len().min(NOTE_BYTES)).unwrap_or_default());
        self.inner.borrow_mut().output.notes.push_back((slot, note));
    }

    /// Takes up the note of a request that is answered: an entry if it took long.
    pub(super) fn judge(&self, inner: &mut Inner, slot: u32, took: Duration) {
        let Some(note) = inner.output.take_note(slot) else { return };
        let threshold_us = self.worker.slowlog_us.get();
        if u128::try_from(threshold_us).is_ok_and(|threshold_us| took.as_micros() >= threshold_us) {
            self.log_slow(inner, &note, took);
        }
        self.worker.context.return_buffer(note);
    }

    #[cold]
    fn log_slow(&self, inner: &Inner, note: &[u8], took: Duration) {
        #[expect(clippy::disallowed_methods, reason = "the log tells the time of day")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Entry {
            id: 0,
            at_s: now.as_secs(),
            took,
            arguments: shortened(note),
            peer: inner.peer_name(),
            name: inner.facts.as_ref().map(|facts| facts.name.clone()).unwrap_or_default(),
        };
        let most = self.worker.view().topology.config.proxy.slowlog_len;
        self.worker.fleet.slowlog.add(entry, most);
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
            entries.iter().for_each(|entry| show(entry, out));
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
