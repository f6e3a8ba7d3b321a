//! `MONITOR`: one client sees what all clients ask. Each worker shows its own requests, by a queue to the monitor's task.
//!
//! # Invariants
//! - Nothing waits for a monitor. One that reads too slowly is closed, as Redis closes it: beyond the listener's
//!   `client_output_bytes_max`, or [`LINES_MAX`] behind.
//! - No password is shown.
//! - Without a monitor a request pays for nothing but a look at one mark.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clients::Ask;
use super::local::Local;
use super::requests::verb_of;
use super::session::{HELD_BYTES, Session};
use super::worker::{Order, Worker};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::{Args, Flag, Handling, Row};
use crate::config::Listener;
use crate::coordinator::pubsub::Push;

/// Lines that may wait for one monitor's task.
const LINES_MAX: usize = 16_384;
/// Lines that the task passes on before it lets others run.
const LINES_PER_TURN: usize = 256;

/// Where a worker's lines for one monitor go.
#[derive(Debug, Clone)]
pub struct Feed {
    lines: mpsc::Sender<Arc<[u8]>>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes in the queue, and how many there may be.
    held_bytes: AtomicU64,
    bytes_max: u64,
    /// The monitor is gone, or has to go.
    end: CancellationToken,
    too_slow: AtomicBool,
}

impl Feed {
    /// Whether the monitor goes on.
    fn show(&self, line: &Arc<[u8]>) -> bool {
        if self.state.end.is_cancelled() {
            return false;
        }
        let bytes = line.len() as u64;
        let held = self.state.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One line alone is never too much.
        if (held > 0 && held + bytes > self.state.bytes_max) || self.lines.try_send(Arc::clone(line)).is_err() {
            self.state.too_slow.store(true, Ordering::Relaxed);
            self.state.end.cancel();
            return false;
        }
        true
    }
}

/// Whether Redis shows the verb to monitors.
fn is_shown(row: &Row) -> bool {
    !row.flags.contains(Flag::Admin)
        && !row.flags.contains(Flag::SkipMonitor)
        && !matches!(row.handling, Handling::Later(_) | Handling::Refused(_))
}

impl Worker {
    /// Shows a request to all monitors.
    #[cold]
    pub(super) fn show(&self, session: &Session, row: &Row, args: &Args<'_>) {
        if self.monitors.borrow().is_empty() || !is_shown(row) {
            return;
        }
        let line: Arc<[u8]> = line(session.database.get(), &session.peer_name(), row, args).into();
        self.monitors.borrow_mut().retain(|feed| feed.show(&line));
        self.look_around();
    }
}

/// The line for one request: time, database, client, arguments in quotes.
fn line(database: u16, peer: &str, row: &Row, args: &Args<'_>) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "monitors are told the time of day, in microseconds")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = format!("+{}.{:06} [{database} {peer}]", now.as_secs(), now.subsec_micros()).into_bytes();
    for (at, arg) in args.iter().enumerate() {
        out.push(b' ');
        quote(&mut out, if is_secret(row, args, at) { b"(redacted)" } else { arg });
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Whether an argument is, or may be, a password: what stands behind `AUTH`, as a verb or in `HELLO`.
pub(super) fn is_secret(row: &Row, args: &Args<'_>, at: usize) -> bool {
    match row.name {
        "auth" => at > 0,
        "hello" => {
            let follows = |back: usize| at.checked_sub(back).is_some_and(|at| at > 1 && args.is_word(at, "AUTH"));
            follows(1) || follows(2)
        }
        _ => false,
    }
}

/// In quotes, with what cannot be shown in escapes (Redis: `sdscatrepr`).
fn quote(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(*byte),
            other => out.extend_from_slice(format!("\\x{other:02x}").as_bytes()),
        }
    }
    out.push(b'"');
}

/// `MONITOR`. A second one changes nothing and has no reply, as in Redis.
pub(super) fn start(session: &Rc<Session>, listener: &Listener, row: &Row) -> Local {
    if session.is_monitor() {
        return Local::Silent;
    }
    let (lines, queue) = mpsc::channel(LINES_MAX);
    let end = CancellationToken::new();
    let state = Arc::new(State {
        held_bytes: AtomicU64::new(0),
        bytes_max: listener.client_output_bytes_max,
        end: end.clone(),
        too_slow: AtomicBool::new(false),
    });
    session.set_monitor(end.drop_guard());
    let slot = session.open_slot(verb_of(row));
    let session = Rc::clone(session);
    let worker = Rc::clone(&session.worker);
    worker.context.spawn(async move {
        let feed = Feed { lines, state };
        for other in &session.worker.fleet.workers {
            let (sender, taken) = oneshot::channel();
            if other.send(Order::Ask(Ask::Monitor(feed.clone(), sender))).await.is_ok() {
                // A worker that is gone shows nothing.
                drop(taken.await);
            }
        }
        let _: Flow = ReplySink::reply(Rc::clone(&session), Tag { slot, part: 0 }, Piece::Whole(b"+OK\r\n"));
        pass_on(&session, &feed.state, queue).await;
    });
    Local::Silent
}

/// Gives the client the lines until it, or its being a monitor, ends.
async fn pass_on(session: &Rc<Session>, state: &State, mut queue: mpsc::Receiver<Arc<[u8]>>) {
    loop {
        tokio::select! {
            biased; // The end first: a monitor that is too slow gets nothing more.
            () = state.end.cancelled() => break,
            line = queue.recv() => {
                let Some(line) = line else { break };
                let mut lines = vec![line];
                lines.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(LINES_PER_TURN));
                for line in lines {
                    state.held_bytes.fetch_sub(line.len() as u64, Ordering::Relaxed);
                    session.interject(&line);
                }
            }
        }
        tokio::task::yield_now().await;
    }
    if state.too_slow.load(Ordering::Relaxed) {
        session.close_too_slow();
    }
}

impl Session {
    /// Sends the client a line, which is no reply.
    fn interject(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.broken || (inner.output.bytes_held() > HELD_BYTES && self.closed_beyond_limit(inner)) {
            return;
        }
        if inner.output.bytes.capacity() == 0 {
            inner.output.bytes = self.worker.context.take_buffer();
        }
        inner.output.tell(b'+', Push::Short(bytes));
        inner.wake();
    }

    /// The client is a monitor and too far behind.
    fn close_too_slow(&self) {
        self.cells.output_limit_kills.increment();
        tracing::warn!(client = self.id, "closed: a monitor that does not keep up");
        let mut inner = self.inner.borrow_mut();
        inner.broken = true;
        inner.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], want: &str) {
        let mut out = Vec::new();
        quote(&mut out, bytes);
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn arguments_are_shown_on_one_line() {
        check(b"plain", r#""plain""#);
        check(b"a \"b\" \\", r#""a \"b\" \\""#);
        check(b"\r\n\t\x07\x08\0\x7f\xff", r#""\r\n\t\a\b\x00\x7f\xff""#);
    }
}
