//! Verbs that quoit answers itself: who is there, what is this, which protocol.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::pubsub;
use super::requests::class_of;
use super::session::Session;
use super::worker::Order;
use super::{acl, auth, blocking, quoit};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::reply::{self, Resp};
use crate::command::{Args, LocalVerb, Row, glob, introspect};
use crate::config::{Bind, Listener};
use crate::metrics::Outcome;
use crate::protocol::resp::Version;
use crate::topology::View;

/// The server version that clients are told, so that they use what quoit has: the one its command table is taken from
/// first. `INFO` has quoit's own version beside it.
const COMPATIBLE_VERSION: &str = "7.0.15";

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
        LocalVerb::Select => match args.get(1).and_then(|number| std::str::from_utf8(number).ok()?.parse::<i64>().ok())
        {
            Some(0) => reply::ok(out),
            Some(number) if i32::try_from(number).is_err() => return refused(out, reply::outside_i32),
            Some(_) => return refused(out, reply::no_such_database),
            None => return refused(out, reply::not_an_integer),
        },
        LocalVerb::ClusterDisabled => return refused(out, reply::cluster_disabled),
        LocalVerb::Command => introspect::command(out, resp, row, args),
        LocalVerb::Help => introspect::help(out, row),
        LocalVerb::ConfigGet => config_get(session, listener, resp, args, out),
        LocalVerb::Info => reply::verbatim_text(out, resp, info(session, view, args).as_bytes()),
        LocalVerb::Role => {
            reply::array_header(out, 3);
            reply::bulk(out, b"master");
            reply::integer(out, 0);
            reply::array_header(out, 0);
        }
        LocalVerb::Time => time(out),
        LocalVerb::Acl => return acl::answer(session, view, listener, row, args, resp, out),
        LocalVerb::Quoit => return quoit::answer(session, view, listener, row, args, resp, out),
        LocalVerb::ClientUnblock => return blocking::unblock(session, row, args, out),
        LocalVerb::ClientList => {
            list_clients(session, row, resp);
            return Local::Silent;
        }
        _ => return client(session, verb, resp, args, out),
    }
    Local::Reply(Outcome::Ok)
}

/// The subcommands of `CLIENT`.
fn client(session: &Session, verb: LocalVerb, resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    match verb {
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
        LocalVerb::ClientGetredir => reply::integer(out, -1),
        LocalVerb::ClientCapa => reply::ok(out),
        _ => return refused(out, reply::syntax_error),
    }
    Local::Reply(Outcome::Ok)
}

fn refused(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Local {
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
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
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

/// `CONFIG GET` of what exists here or what clients ask at start (redis-benchmark: `save`, `appendonly`).
fn config_get(session: &Session, listener: &Listener, resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) {
    let topology = &session.worker.view().topology;
    let (ip, port, path) = match &listener.bind {
        Bind::Tcp(address) => (address.ip().to_string(), address.port(), String::new()),
        Bind::Unix(path) => (String::new(), 0, path.display().to_string()),
    };
    let settings = [
        ("appendonly", "no".to_owned()),
        ("bind", ip),
        ("databases", "1".to_owned()),
        ("maxclients", topology.config.proxy.clients_max.to_string()),
        ("maxmemory", topology.config.proxy.memory_bytes_max.to_string()),
        ("port", port.to_string()),
        ("proto-max-bulk-len", listener.request_bytes_max.to_string()),
        ("save", String::new()),
        ("timeout", listener.idle_timeout.map_or(0, |timeout| timeout.as_secs()).to_string()),
        ("unixsocket", path),
    ];
    let asked: Vec<String> =
        args.iter().skip(2).map(|pattern| String::from_utf8_lossy(pattern).to_ascii_lowercase()).collect();
    let found: Vec<_> = settings
        .iter()
        .filter(|(name, _)| asked.iter().any(|pattern| glob(pattern.as_bytes(), name.as_bytes())))
        .collect();
    reply::map_header(out, resp, found.len());
    for (name, value) in found {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
}

/// `INFO` in Redis's form: sections that have a meaning here, and quoit's own.
fn info(session: &Session, view: &View, args: &Args<'_>) -> String {
    let topology = &view.topology;
    let worker = &session.worker;
    let uptime = worker.fleet.started.elapsed().unwrap_or_default().as_secs();
    let clients: u64 = worker.fleet.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum();
    let mut sections: Vec<(&str, String)> = vec![
        (
            "server",
            format!(
                "redis_version:{COMPATIBLE_VERSION}\r\nredis_mode:standalone\r\nos:{}\r\nprocess_id:{}\r\n\
                 uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
                std::env::consts::OS,
                std::process::id(),
                uptime / 86_400,
            ),
        ),
        (
            "clients",
            format!(
                "connected_clients:{clients}\r\nmaxclients:{}\r\nblocked_clients:{}\r\n",
                topology.config.proxy.clients_max,
                worker.fleet.signs.blocked(),
            ),
        ),
        ("memory", format!("maxmemory:{}\r\n", topology.config.proxy.memory_bytes_max)),
        ("persistence", "loading:0\r\n".to_owned()),
        ("replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("cluster", "cluster_enabled:0\r\n".to_owned()),
    ];
    let mut own = format!(
        "quoit_version:{}\r\nworkers:{}\r\ntopology_epoch:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        worker.fleet.workers.len(),
        topology.epoch,
    );
    for pool in &topology.pools {
        let fingerprint = pool.ring.fingerprint();
        own.extend([format!("pool_{}:nodes={},ring={fingerprint:016x}\r\n", pool.name, pool.nodes.len())]);
    }
    sections.push(("quoit", own));
    let asked: Vec<String> =
        args.iter().skip(1).map(|section| String::from_utf8_lossy(section).to_ascii_lowercase()).collect();
    let all = asked.is_empty() || asked.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let mut text = String::new();
    for (name, body) in sections {
        if all || asked.iter().any(|asked| asked == name) {
            let mut title = name.to_owned();
            if let Some(first) = title.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.extend(["# ", &title, "\r\n", &body]);
        }
    }
    text
}

/// `CLIENT LIST` asks every worker; the reply comes when all have answered.
fn list_clients(session: &Rc<Session>, row: &Row, resp: Resp) {
    let slot = session.open_slot(class_of(row));
    let session = Rc::clone(session);
    let worker = Rc::clone(&session.worker);
    worker.context.spawn(async move {
        let mut lines = String::new();
        for other in &session.worker.fleet.workers {
            let (sender, answer) = oneshot::channel();
            // A worker that is gone has no clients.
            if other.send(Order::List(sender)).await.is_ok() {
                lines.push_str(&answer.await.unwrap_or_default());
            }
        }
        let mut out = Vec::new();
        reply::verbatim_text(&mut out, resp, lines.as_bytes());
        let _: Flow = ReplySink::reply(session, Tag { slot, part: 0 }, Piece::Whole(&out));
    });
}
