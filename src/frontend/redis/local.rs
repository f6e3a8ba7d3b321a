//! Verbs that quoit answers itself: who is there, what is this, which protocol.

use std::future::Future;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::info::{self, COMPATIBLE_VERSION};
use super::requests::verb_of;
use super::session::Session;
use super::{
    acl, acl_changes, auth, blocking, clients, cluster, databases, hyperloglog, latency, minor, monitor, nodes, pause,
    pubsub, quoit, settings, slowlog, tracking,
};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::reply::{self, Resp};
use crate::command::{Args, LocalVerb, Row, introspect};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::protocol::resp::Version;
use crate::topology::View;

/// How a local verb was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// The reply was appended.
    Reply(Outcome),
    /// The reply was appended, and the connection ends after it.
    Last,
    /// There is no reply, or it comes later.
    Silent,
    /// The connection ends without a reply.
    Close,
}

/// Answers a local verb.
pub(super) fn answer(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    verb: LocalVerb,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let resp = resp_of(session.inner.borrow().version);
    match verb {
        LocalVerb::Ping if args.len() <= 2 && session.is_confined() => pubsub::ping(args, out),
        LocalVerb::Ping => match args.get(1) {
            None => reply::simple(out, "PONG"),
            Some(message) if args.len() == 2 => reply::bulk(out, message),
            Some(_) => return refused(out, |out| reply::wrong_arity(out, row)),
        },
        LocalVerb::Echo => reply::bulk(out, args.get(1).unwrap_or_default()),
        LocalVerb::Quit => {
            reply::ok(out);
            return Local::Last;
        }
        LocalVerb::HttpRequest => return Local::Close,
        LocalVerb::Reset => {
            session.forget(listener);
            reply::simple(out, "RESET");
        }
        LocalVerb::Hello => return hello(session, view, listener, args, out),
        LocalVerb::Auth => return auth::auth(session, view, listener, args, out),
        LocalVerb::Select => return databases::select(session, view, listener, args, out),
        LocalVerb::Cluster => return cluster::answer(session, listener, row, args, out),
        LocalVerb::ClusterDisabled => return cluster::refuse(listener, row, out),
        LocalVerb::Command => introspect::command(out, resp, row, args),
        LocalVerb::Help => introspect::help(out, row),
        LocalVerb::ConfigGet => return settings::get(session, listener, row, resp, args, out),
        LocalVerb::ConfigSet => return settings::set(session, listener, row, args, out),
        LocalVerb::ConfigResetstat => info::reset_stats(session, out),
        LocalVerb::Info => {
            reply::verbatim_text(out, resp, info::info(session, view, listener, args).as_bytes());
        }
        LocalVerb::Role => {
            reply::array_header(out, 3);
            reply::bulk(out, b"master");
            reply::integer(out, 0);
            reply::array_header(out, 0);
        }
        LocalVerb::Time => time(out),
        LocalVerb::Acl => return acl::answer(session, view, listener, row, args, resp, out),
        LocalVerb::AclChange => return acl_changes::answer(session, view, row, args, out),
        LocalVerb::Quoit => return quoit::answer(session, view, listener, row, args, resp, out),
        LocalVerb::Commandlog | LocalVerb::Slowlog => return slowlog::answer(session, row, args, out),
        LocalVerb::Debug => return minor::debug(session, view, listener, row, args, out),
        LocalVerb::Pfdebug => return hyperloglog::debug(session, view, listener, row, args, out),
        LocalVerb::Pfselftest => return nodes::ask_any(session, view, listener, row, args, out),
        LocalVerb::Latency => return latency::answer(session, row, resp, args, out),
        LocalVerb::Lolwut => return minor::lolwut(resp, args, out),
        LocalVerb::Monitor => return monitor::start(session, listener, row),
        LocalVerb::Wait => return minor::wait(session, &view.topology.config, listener, args, out),
        LocalVerb::Waitaof => return minor::wait_for_disk(args, out),
        LocalVerb::ClientKill => return clients::kill(session, view, listener, row, args, out),
        _ => return client(session, verb, row, resp, args, out),
    }
    Local::Reply(Outcome::Ok)
}

/// Answers `PING` when the stores have answered one, where the listener speaks for them.
pub(super) fn ping_stores(session: &Rc<Session>, row: &Row, args: &Args<'_>) {
    let mut pong = Vec::new();
    match args.get(1) {
        None => reply::simple(&mut pong, "PONG"),
        Some(message) => reply::bulk(&mut pong, message),
    }
    let _: Local = answer_later(session, row, move |session| async move {
        let view = session.worker.view();
        let Some(listener) = view.topology.listener(session.listener) else { return pong };
        match session.worker.coordinator.presence(&view, listener, session.origin()).await {
            Ok(()) => pong,
            Err(trouble) => trouble,
        }
    });
}

/// Answers by a task; the reply takes the place of this request among the client's others.
pub(super) fn answer_later<F>(session: &Rc<Session>, row: &Row, make: impl FnOnce(Rc<Session>) -> F) -> Local
where
    F: Future<Output = Vec<u8>> + 'static,
{
    let slot = session.open_slot(verb_of(row));
    let answer = make(Rc::clone(session));
    let session = Rc::clone(session);
    let worker = Rc::clone(&session.worker);
    worker.context.spawn(async move {
        let out = answer.await;
        session.worker.context.clock.tick(); // How long it took is counted.
        let _: Flow = ReplySink::reply(session, Tag { slot, part: 0 }, Piece::Whole(&out));
    });
    Local::Silent
}

/// The subcommands of `CLIENT`.
fn client(
    session: &Rc<Session>,
    verb: LocalVerb,
    row: &'static Row,
    resp: Resp,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    match verb {
        LocalVerb::ClientList => return clients::list(session, row, resp, args, out),
        LocalVerb::ClientPause => return pause::pause(session, row, args, out),
        LocalVerb::ClientUnpause => return pause::unpause(session, row),
        LocalVerb::ClientUnblock => return blocking::unblock(session, row, args, out),
        LocalVerb::ClientCaching
        | LocalVerb::ClientGetredir
        | LocalVerb::ClientTracking
        | LocalVerb::ClientTrackinginfo => return tracking::answer(session, verb, row, resp, args, out),
        LocalVerb::ClientNoTouch => session.set_no_touch(args, out),
        LocalVerb::ClientId => reply::integer(out, i64::try_from(session.id).unwrap_or(i64::MAX)),
        LocalVerb::ClientInfo => {
            let line = session.describe(session.worker.context.clock.now()) + "\n";
            reply::verbatim_text(out, resp, line.as_bytes());
        }
        LocalVerb::ClientGetname => match session.name() {
            name if name.is_empty() => reply::null(out, resp),
            name => reply::bulk(out, name.as_bytes()),
        },
        LocalVerb::ClientSetname => {
            if session.set_name(args.get(2).unwrap_or_default()) {
                reply::ok(out);
            } else {
                return refused(out, |out| reply::unprintable(out, "Client names"));
            }
        }
        LocalVerb::ClientSetinfo => session.set_info(args, out),
        LocalVerb::ClientNoEvict => session.set_no_evict(args, out),
        LocalVerb::ClientReply => {
            if !session.set_replies(args, out) {
                return Local::Silent;
            }
        }
        LocalVerb::ClientCapa => reply::ok(out),
        _ => return refused(out, reply::syntax_error),
    }
    Local::Reply(Outcome::Ok)
}

pub(super) fn refused(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Local {
    write(out);
    Local::Reply(Outcome::Refused)
}

pub(super) fn resp_of(version: Version) -> Resp {
    match version {
        Version::Resp2 => Resp::Two,
        Version::Resp3 => Resp::Three,
    }
}

/// `HELLO [protover [AUTH user password] [SETNAME name]]`.
fn hello(session: &Rc<Session>, view: &View, listener: &Listener, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let version = match args.get(1) {
        None => session.inner.borrow().version,
        Some(b"2") => Version::Resp2,
        Some(b"3") => Version::Resp3,
        Some(other) if std::str::from_utf8(other).is_ok_and(|text| text.parse::<i64>().is_ok()) => {
            return refused(out, reply::noproto);
        }
        Some(_) => return refused(out, reply::protocol_version_not_an_integer),
    };
    let mut credentials = None;
    let mut name = None;
    let mut at = 2;
    while at < args.len() {
        if args.is_word(at, "AUTH") && at + 2 < args.len() {
            credentials = Some((args.get(at + 1).unwrap_or_default(), args.get(at + 2).unwrap_or_default()));
            at += 3;
        } else if args.is_word(at, "SETNAME") && at + 1 < args.len() {
            name = args.get(at + 1);
            at += 2;
        } else {
            return refused(out, |out| reply::hello_option(out, args.get(at).unwrap_or_default()));
        }
    }
    if let Some((user, password)) = credentials {
        if !session.sign_in(view, listener, args.get(0).unwrap_or_default(), user, password) {
            return refused(out, reply::wrongpass);
        }
    } else if !session.inner.borrow().authenticated {
        return refused(out, reply::hello_noauth);
    }
    if name.is_some_and(|name| !session.set_name(name)) {
        return refused(out, |out| reply::unprintable(out, "Client names"));
    }
    session.inner.borrow_mut().version = version;
    let resp = resp_of(version);
    reply::map_header(out, resp, 7);
    for (field, value) in [("server", "redis"), ("version", COMPATIBLE_VERSION)] {
        reply::bulk(out, field.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    reply::bulk(out, b"proto");
    reply::integer(out, resp.number());
    reply::bulk(out, b"id");
    reply::integer(out, i64::try_from(session.id).unwrap_or(i64::MAX));
    for (field, value) in [("mode", info::mode(listener)), ("role", "master")] {
        reply::bulk(out, field.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    reply::bulk(out, b"modules");
    reply::array_header(out, 0);
    Local::Reply(Outcome::Ok)
}

fn time(out: &mut Vec<u8>) {
    #[expect(clippy::disallowed_methods, reason = "TIME is the wall clock, by definition")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply::array_header(out, 2);
    reply::bulk(out, now.as_secs().to_string().as_bytes());
    reply::bulk(out, now.subsec_micros().to_string().as_bytes());
}
