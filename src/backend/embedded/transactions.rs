//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A watched key that was missing, was made and is missing again counts as unchanged; Redis would abort. Both are
//! serializable, and this way nothing has to be remembered for sessions that vanish.

use super::reply::{Failure, OK, Outcome, Reply};
use super::store::{Args, SessionState, Store};
use super::table::Verb;

/// How many bytes of commands one transaction may queue.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// How many keys one session may watch.
const WATCHED_MAX: usize = 1 << 16;

/// The commands between MULTI and EXEC.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    commands: Vec<(&'static Verb, Vec<Vec<u8>>)>,
    bytes: usize,
    /// A command could not be queued, so EXEC must not run the others.
    broken: bool,
}

/// Runs a command now, or queues it when its session is between MULTI and EXEC.
pub(super) fn run_or_queue(
    store: &mut Store,
    session: &mut SessionState,
    verb: Result<&'static Verb, Failure>,
    args: Args<'_>,
) -> Outcome {
    let Some(transaction) = &mut session.transaction else { return (verb?.run)(store, session, args) };
    let verb = verb.inspect_err(|_| transaction.broken = true)?;
    if matches!(verb.name, "multi" | "exec" | "discard" | "watch" | "quit" | "reset") {
        return (verb.run)(store, session, args);
    }
    transaction.bytes += args.0.iter().map(|arg| arg.len() + size_of::<Vec<u8>>()).sum::<usize>();
    if transaction.bytes > QUEUED_BYTES_MAX {
        transaction.broken = true;
        return Err(Failure::fixed("ERR transaction is too big for the embedded demo store"));
    }
    transaction.commands.push((verb, args.0.iter().map(|arg| arg.to_vec()).collect()));
    Ok(Reply::Status(b"QUEUED".into()))
}

pub(super) fn multi(_: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    if session.transaction.is_some() {
        return Err(Failure::fixed("ERR MULTI calls can not be nested"));
    }
    session.transaction = Some(Transaction::default());
    Ok(OK)
}

pub(super) fn exec(store: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    let transaction = session.transaction.take().ok_or(Failure::fixed("ERR EXEC without MULTI"))?;
    let watched = std::mem::take(&mut session.watched);
    if transaction.broken {
        return Err(Failure::fixed("EXECABORT Transaction discarded because of previous errors."));
    }
    if watched.iter().any(|(key, version)| store.keyspace.version(key) != *version) {
        return Ok(Reply::NullArray);
    }
    let replies = transaction.commands.iter().map(|(verb, words)| {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        (verb.run)(store, session, Args(&words)).unwrap_or_else(Reply::Error)
    });
    Ok(Reply::Array(replies.collect()))
}

pub(super) fn discard(_: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    session.transaction.take().ok_or(Failure::fixed("ERR DISCARD without MULTI"))?;
    session.watched.clear();
    Ok(OK)
}

pub(super) fn watch(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    if session.transaction.is_some() {
        return Err(Failure::fixed("ERR WATCH inside MULTI is not allowed"));
    }
    if session.watched.len() + args.len() > WATCHED_MAX {
        return Err(Failure::fixed("ERR too many watched keys for the embedded demo store"));
    }
    // A key watched twice is in twice; its older version decides.
    for key in args.from(1) {
        session.watched.push((key.to_vec(), store.keyspace.version(key)));
    }
    Ok(OK)
}

pub(super) fn unwatch(_: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    session.watched.clear();
    Ok(OK)
}
