//! The verb `QUOIT`: what a client may ask the proxy about itself and its keys, and the level of its connection.

use std::rc::Rc;

use super::local::Local;
use super::nodes;
use super::requests::verb_of;
use super::session::Session;
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row};
use crate::config::{Listener, Pool};
use crate::metrics::Outcome;
use crate::quorum::Level;
use crate::replication::KeyVersion;
use crate::topology::View;
use crate::version::Term;

/// The subcommands, and what `QUOIT HELP` says of them.
const HELP: [(&str, &str); 5] = [
    ("LEVEL [linearizable|quorum|all|one|eventual|default]", "Shows or sets what this connection asks of replicas."),
    ("NODE <name> <command> [<arg> ...]", "Asks one node something about itself, such as INFO or SLOWLOG GET."),
    (
        "ROUTE <key>",
        "Shows where a key lives: pool, node, address; with several replicas also the level and all of them.",
    ),
    ("VERSIONS <key>", "Asks each replica of a key which version it holds."),
    ("HELP", "Prints this help."),
];

/// What a connection without a level of its own says.
const DEFAULT: &str = "default";

/// Answers `QUOIT`.
pub(super) fn answer(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &'static Row,
    args: &Args<'_>,
    resp: Resp,
    out: &mut Vec<u8>,
) -> Local {
    match (args.get(2), args.len()) {
        (None, 2) if args.is_word(1, "HELP") => help(out),
        (None, 2) if args.is_word(1, "LEVEL") => {
            let level = session.inner.borrow().level;
            reply::bulk(out, level.map_or(DEFAULT, Level::name).as_bytes());
        }
        (Some(word), 3) if args.is_word(1, "LEVEL") => return set_level(session, view, listener, word, out),
        (Some(key), 3) if args.is_word(1, "ROUTE") => return route(session, view, listener, key, out),
        (Some(key), 3) if args.is_word(1, "VERSIONS") => return versions(session, view, listener, row, key, resp, out),
        (Some(_), 4..) if args.is_word(1, "NODE") => return nodes::answer(session, view, row, args, out),
        _ => {
            reply::quoit_subcommand(out);
            return Local::Reply(Outcome::Refused);
        }
    }
    Local::Reply(Outcome::Ok)
}

fn help(out: &mut Vec<u8>) {
    reply::array_header(out, 1 + 2 * HELP.len());
    reply::simple(out, "QUOIT <subcommand> [<arg> ...]. Subcommands are:");
    for (usage, text) in HELP {
        reply::simple(out, usage);
        reply::simple(out, &format!("    {text}"));
    }
}

/// `QUOIT LEVEL level`: from the next request on.
fn set_level(session: &Session, view: &View, listener: &Listener, word: &[u8], out: &mut Vec<u8>) -> Local {
    let word = String::from_utf8_lossy(word);
    let level = match word.parse::<Level>() {
        _ if word.eq_ignore_ascii_case(DEFAULT) => None,
        Ok(level) => Some(level),
        Err(error) => {
            reply::unknown_level(out, error);
            return Local::Reply(Outcome::Refused);
        }
    };
    if let Some(level) = level.filter(|level| level.needs_quorums()) {
        let routed = listener.routes.iter().map(|route| route.pool);
        for pool in std::iter::once(listener.pool).chain(routed) {
            let Some(pool) = view.topology.config.pools.get(pool) else { continue };
            if let Err(why) = pool.quorums.check() {
                reply::level_without_quorums(out, level.name(), &pool.name, why);
                return Local::Reply(Outcome::Refused);
            }
        }
    }
    session.inner.borrow_mut().level = level;
    reply::ok(out);
    Local::Reply(Outcome::Ok)
}

/// Where a key lives, as its listener sees it.
pub(super) struct Home<'v> {
    pub(super) pool: usize,
    config: &'v Pool,
    pub(super) key: Vec<u8>,
    level: Option<Level>,
}

pub(super) fn home<'v>(view: &'v View, listener: &Listener, key: &[u8]) -> Option<Home<'v>> {
    let route = listener.route(key);
    let pool = route.map_or(listener.pool, |route| route.pool);
    Some(Home {
        pool,
        config: view.topology.config.pools.get(pool)?,
        key: route.map_or_else(|| key.into(), |route| route.rewritten(key)).into_owned(),
        level: route.and_then(|route| route.level),
    })
}

/// `QUOIT ROUTE key`: where a key lives.
fn route(session: &Session, view: &View, listener: &Listener, key: &[u8], out: &mut Vec<u8>) -> Local {
    let home = home(view, listener, key);
    let owner = home.as_ref().and_then(|home| view.owner(home.pool, &home.key));
    let (Some(home), Some((_, node))) = (home, owner) else {
        reply::no_pool(out);
        return Local::Reply(Outcome::Refused);
    };
    let replicas = usize::try_from(home.config.replicas).unwrap_or(1);
    reply::array_header(out, if replicas > 1 { 5 } else { 3 });
    reply::bulk(out, home.config.name.as_bytes());
    reply::bulk(out, node.options().name.as_bytes());
    reply::bulk(out, node.options().address.to_string().as_bytes());
    if replicas > 1 {
        let own = session.inner.borrow().level;
        let level = own.or(home.level).unwrap_or(home.config.level);
        reply::bulk(out, level.name().as_bytes());
        let ring = view.topology.pools.get(home.pool).map(|pool| &pool.ring);
        let members = ring.map(|ring| ring.replicas(&home.key, replicas)).unwrap_or_default();
        let nodes: Vec<_> = members.iter().filter_map(|member| home.config.nodes.get(usize::from(member.0))).collect();
        reply::array_header(out, nodes.len());
        for node in nodes {
            reply::array_header(out, 3);
            reply::bulk(out, node.name.as_bytes());
            reply::bulk(out, node.address.to_string().as_bytes());
            reply::bulk(out, node.zone.as_deref().unwrap_or_default().as_bytes());
        }
    }
    Local::Reply(Outcome::Ok)
}

/// `QUOIT VERSIONS key` asks the replicas; the reply comes when all have answered.
fn versions(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    key: &[u8],
    resp: Resp,
    out: &mut Vec<u8>,
) -> Local {
    let Some(home) = home(view, listener, key) else {
        reply::no_pool(out);
        return Local::Reply(Outcome::Refused);
    };
    let Some(group) = session.worker.coordinator.group(home.pool) else {
        reply::one_copy(out, &home.config.name);
        return Local::Reply(Outcome::Refused);
    };
    let addresses: Vec<(String, String)> =
        home.config.nodes.iter().map(|node| (node.name.clone(), node.address.to_string())).collect();
    let key = home.key;
    let slot = session.open_slot(verb_of(row));
    let session = Rc::clone(session);
    let worker = Rc::clone(&session.worker);
    worker.context.spawn(async move {
        let found = session.worker.coordinator.engine().versions(&group, &key).await;
        let mut out = Vec::new();
        reply::array_header(&mut out, found.len());
        for version in &found {
            let address = addresses.iter().find(|(name, _)| *name == version.node).map(|(_, address)| address.as_str());
            show(version, address.unwrap_or_default(), resp, &mut out);
        }
        let _: Flow = ReplySink::reply(session, Tag { slot, part: 0 }, Piece::Whole(&out));
    });
    Local::Silent
}

fn show(version: &KeyVersion, address: &str, resp: Resp, out: &mut Vec<u8>) {
    let record = &version.record;
    let accepted = record.accepted;
    let none = accepted.is_zero();
    let value = match (none, record.tombstone) {
        (true, _) => "none",
        (false, true) => "tombstone",
        (false, false) => "live",
    };
    let written = if none { String::new() } else { moment(accepted.hlc) };
    let writer = if none { String::new() } else { format!("{:010x}", accepted.writer()) };
    let promised = record.promised.map(|Term { hlc, .. }| moment(hlc)).unwrap_or_default();
    reply::map_header(out, resp, 11);
    let texts = [
        ("node", version.node.as_str()),
        ("address", address),
        ("state", version.state.name()),
        ("value", value),
        ("written", &written),
        ("writer", &writer),
        ("promised", &promised),
        ("trouble", &version.trouble),
    ];
    for (name, text) in texts {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, text.as_bytes());
    }
    let numbers = [
        ("votes", i64::from(version.votes)),
        ("sequence", i64::from(accepted.seq)),
        ("updates", i64::from(record.count)),
    ];
    for (name, number) in numbers {
        reply::bulk(out, name.as_bytes());
        reply::integer(out, number);
    }
}

/// A hybrid time as people read it: `2026-11-23T09:34:21.123Z`, and the counter where there is one.
fn moment(hlc: u64) -> String {
    let (ms, counter) = (hlc >> 16, hlc & 0xffff);
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z");
    if counter == 0 { text } else { format!("{text}+{counter}") }
}

/// Year, month and day of a number of days since 1970, by way of years that begin in March, so that the leap day is the
/// last (Gregorian calendar: 146,097 days in 400 years).
fn date(days: u64) -> (u64, u64, u64) {
    let since_march = days + 719_468; // Days from 1 March of year 0 to 1970.
    let (era, day_of_era) = (since_march / 146_097, since_march % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ms: u64, counter: u64, want: &str) {
        assert_eq!(moment(ms << 16 | counter), want);
    }

    #[test]
    fn moments_are_dates() {
        check(0, 0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, 0, "2000-02-29T00:00:00.000Z");
        check(1_709_251_199_999, 0, "2024-02-29T23:59:59.999Z");
        check(1_795_426_461_123, 7, "2026-11-23T09:34:21.123Z+7");
        check(4_107_542_400_000, 0, "2100-03-01T00:00:00.000Z");
    }
}
