//! Verbs with a small answer of quoit's own: `WAIT`, `WAITAOF`, `DEBUG`, `LOLWUT`.

use std::rc::Rc;
use std::time::Duration;

use super::clients::number;
use super::local::{Local, answer_later, refused};
use super::nodes;
use super::session::Session;
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row};
use crate::config::{Config, Listener};
use crate::metrics::Outcome;
use crate::topology::View;

/// What `DEBUG` says of a key without changing anything.
const LOOKS: [&str; 4] = ["DIGEST-VALUE", "HTSTATS-KEY", "OBJECT", "SDSLEN"];

/// How often a client that sleeps is looked at: it may have gone, or the proxy drains.
const SLEEP_STEP: Duration = Duration::from_millis(50);

/// `WAIT replicas timeout`: how many replicas beside the first have every write of this client that was answered `OK`.
///
/// A replicated pool answers a write when its write quorum has it, so the number is known and there is nothing to wait
/// for: one less than the smallest quorum that a key of this listener may have. It is 0 where a write is answered by one
/// store, whatever stands behind that. All requests before have been answered when this runs.
pub(super) fn wait(
    session: &Session,
    config: &Config,
    listener: &Listener,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    if args.get(1).and_then(number).is_none() {
        return refused(out, reply::not_an_integer);
    }
    if let Err(write) = timeout(args.get(2)) {
        return refused(out, write);
    }
    reply::integer(out, i64::from(replicas_that_have(session, config, listener)));
    Local::Reply(Outcome::Ok)
}

/// `WAITAOF local replicas timeout`: nothing is known of what the stores have on their disks.
pub(super) fn wait_for_disk(args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    match args.get(1).and_then(number) {
        Some(0) => {}
        Some(1) => return refused(out, reply::waitaof_without_aof),
        Some(_) => return refused(out, reply::waitaof_local),
        None => return refused(out, reply::not_an_integer),
    }
    if args.get(2).and_then(number).is_none_or(|replicas| replicas < 0) {
        return refused(out, reply::not_positive);
    }
    if let Err(write) = timeout(args.get(3)) {
        return refused(out, write);
    }
    reply::array_header(out, 2);
    reply::integer(out, 0);
    reply::integer(out, 0);
    Local::Reply(Outcome::Ok)
}

fn timeout(word: Option<&[u8]>) -> Result<i64, fn(&mut Vec<u8>)> {
    match word.and_then(number) {
        None => Err(reply::timeout_not_an_integer),
        Some(timeout) if timeout < 0 => Err(reply::timeout_negative),
        Some(timeout) => Ok(timeout),
    }
}

fn replicas_that_have(session: &Session, config: &Config, listener: &Listener) -> u8 {
    let own = session.inner.borrow().level;
    let routes = listener.routes.iter().map(|route| (route.pool, route.level));
    std::iter::once((listener.pool, None))
        .chain(routes)
        .filter_map(|(pool, level)| {
            let pool = config.pools.get(pool)?;
            let level = own.or(level).unwrap_or(pool.level);
            Some(if pool.replicas == 1 { 0 } else { level.write_acks(pool.quorums).saturating_sub(1) })
        })
        .min()
        .unwrap_or(0)
}

/// `DEBUG SLEEP seconds` holds up this client and nobody else; what looks at one key is asked of its node; nothing else of
/// `DEBUG` is served.
pub(super) fn debug(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let is_about_a_key = LOOKS.iter().any(|word| args.is_word(1, word));
    if let (true, Some(key), 3) = (is_about_a_key, args.get(2), args.len()) {
        return nodes::ask_owner(session, view, listener, row, args, key, out);
    }
    let seconds = args.get(2).and_then(|text| std::str::from_utf8(text).ok()?.parse::<f64>().ok());
    if !args.is_word(1, "SLEEP") || args.len() != 3 {
        return refused(out, |out| {
            let reason = "but for DEBUG SLEEP and what looks at one key it is about one server; connect to that node";
            reply::refused(out, row, reason);
        });
    }
    // What is no number counts as nothing, as with the servers' strtod.
    let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0).unwrap_or(0.0);
    let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    session.inner.borrow_mut().alone = true;
    answer_later(session, row, move |session| async move {
        let mut left = span;
        while !left.is_zero() && !session.has_ended() && !session.worker.is_draining() {
            let step = left.min(SLEEP_STEP);
            tokio::time::sleep(step).await;
            left = left.saturating_sub(step);
        }
        b"+OK\r\n".to_vec()
    })
}

/// `LOLWUT [VERSION n] [nodes]`: a ring and who stands on it.
pub(super) fn lolwut(resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let first = if args.is_word(1, "VERSION") { 3 } else { 1 };
    let nodes = args.get(first).and_then(number).and_then(|nodes| usize::try_from(nodes).ok()).unwrap_or(7);
    reply::verbatim_text(out, resp, picture(nodes.clamp(1, 26)).as_bytes());
    Local::Reply(Outcome::Ok)
}

/// A ring of letters, each node's twice: it stays where it was when others come.
fn picture(nodes: usize) -> String {
    const WIDTH: i32 = 36;
    const HEIGHT: i32 = 18;
    let letter = |number: usize| u8::try_from(number).map_or('?', |number| char::from(b'a' + number));
    let mut text = String::new();
    for y in 0..=HEIGHT {
        let mut line = String::new();
        for x in 0..=WIDTH {
            let (across, down) =
                (f64::from(2 * x - WIDTH) / f64::from(WIDTH), f64::from(2 * y - HEIGHT) / f64::from(HEIGHT));
            let radius = across.hypot(down);
            let turn = (down.atan2(across) / std::f64::consts::TAU + 1.0).fract();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a part of a small circle"
            )]
            let part = (turn * 2.0 * nodes as f64) as usize % nodes;
            line.push(if (0.74..=1.0).contains(&radius) { letter(part) } else { ' ' });
        }
        text.extend([line.trim_end(), "\n"]);
    }
    text.extend(["\nquoit ver. ", env!("CARGO_PKG_VERSION"), "\n"]);
    text
}
