//! Verbs about the client's session and the server: HELLO, CLIENT, INFO, CONFIG, COMMAND and the like.

use super::glob;
use super::number::{parse_database, parse_integer};
use super::reply::{Failure, OK, Outcome, Protocol, Reply, SYNTAX};
use super::store::{Args, SessionState, Store, unknown_subcommand, wrong_number_of_arguments};
use super::table;

/// The server this store answers as.
const VERSION: &str = "7.0.15";

const BAD_NAME: Failure = Failure::fixed("ERR Client names cannot contain spaces, newlines or special characters.");

pub(super) fn ping(_: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    match args.from(1) {
        [] => Ok(Reply::Status(b"PONG".into())),
        [message] => Ok(Reply::bulk(message)),
        _ => Err(wrong_number_of_arguments("ping")),
    }
}

pub(super) fn echo(_: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    Ok(Reply::bulk(args.at(1)))
}

pub(super) fn select(_: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    parse_database(args.at(1)).map(|()| OK)
}

/// There are no users and no passwords: every one is right.
pub(super) fn auth(_: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    if args.len() > 3 { Err(SYNTAX) } else { Ok(OK) }
}

pub(super) fn quit(_: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    session.closing = true;
    Ok(OK)
}

pub(super) fn reset(_: &mut Store, session: &mut SessionState, _: Args<'_>) -> Outcome {
    session.reset();
    Ok(Reply::Status(b"RESET".into()))
}

pub(super) fn time(store: &mut Store, _: &mut SessionState, _: Args<'_>) -> Outcome {
    let now_ms = store.keyspace.now_ms;
    let text = |number: u64| Reply::Bulk(number.to_string().into_bytes());
    Ok(Reply::Array(vec![text(now_ms / 1000), text(now_ms % 1000 * 1000)]))
}

fn is_client_name(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

pub(super) fn hello(_: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    let mut protocol = session.protocol;
    if args.len() > 1 {
        let number = parse_integer(args.at(1))
            .map_err(|_| Failure::fixed("ERR Protocol version is not an integer or out of range"))?;
        protocol = match number {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(Failure::fixed("NOPROTO unsupported protocol version")),
        };
    }
    let (mut name, mut words) = (None, args.from(2));
    loop {
        words = match words {
            [] => break,
            [option, _, _, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => rest,
            [option, value, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                name = Some(value.to_vec());
                rest
            }
            [option, ..] => {
                return Err(Failure::owned([b"ERR Syntax error in HELLO option '", *option, b"'"].concat()));
            }
        };
    }
    if let Some(name) = name {
        if !is_client_name(&name) {
            return Err(BAD_NAME);
        }
        session.name = name;
    }
    session.protocol = protocol;
    let text = |text: &str| Reply::bulk(text.as_bytes());
    Ok(Reply::Map(vec![
        (text("server"), text("redis")),
        (text("version"), text(VERSION)),
        (text("proto"), Reply::Integer(if protocol == Protocol::Resp3 { 3 } else { 2 })),
        (text("id"), Reply::Integer(i64::try_from(session.id).unwrap_or(i64::MAX))),
        (text("mode"), text("standalone")),
        (text("role"), text("master")),
        (text("modules"), Reply::Array(Vec::new())),
    ]))
}

pub(super) fn client(store: &mut Store, session: &mut SessionState, args: Args<'_>) -> Outcome {
    match (args.at(1).to_ascii_uppercase().as_slice(), args.from(2)) {
        (b"ID", []) => Ok(Reply::Integer(i64::try_from(session.id).unwrap_or(i64::MAX))),
        (b"GETNAME", []) => Ok(Reply::bulk_or_null(Some(session.name.as_slice()).filter(|name| !name.is_empty()))),
        (b"SETNAME", [name]) if is_client_name(name) => {
            session.name = name.to_vec();
            Ok(OK)
        }
        (b"SETNAME", [_]) => Err(BAD_NAME),
        (b"INFO" | b"LIST", []) => Ok(Reply::Text(format!(
            "id={} name={} db=0 resp={} age={}\n",
            session.id,
            String::from_utf8_lossy(&session.name),
            if session.protocol == Protocol::Resp3 { 3 } else { 2 },
            store.uptime_seconds(),
        ))),
        (b"NO-EVICT", [word]) if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off") => Ok(OK),
        (b"NO-EVICT", [_]) => Err(SYNTAX),
        (name @ (b"ID" | b"GETNAME" | b"SETNAME" | b"INFO" | b"NO-EVICT"), _) => {
            Err(wrong_number_of_arguments(&format!("client|{}", String::from_utf8_lossy(name).to_ascii_lowercase())))
        }
        _ => Err(unknown_subcommand(args)),
    }
}

/// COMMAND tells names only. What the verbs mean to a proxy is in the proxy's own table.
pub(super) fn command(_: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    if args.len() == 1 {
        return Ok(Reply::Array(Vec::new()));
    }
    match (args.at(1).to_ascii_uppercase().as_slice(), args.from(2)) {
        (b"COUNT", []) => Ok(Reply::count(table::VERBS.len())),
        (b"DOCS", _) => Ok(Reply::Map(Vec::new())),
        (b"INFO", names) => Ok(Reply::Array(names.iter().map(|_| Reply::NullArray).collect())),
        (b"LIST", []) => Ok(Reply::bulks(table::VERBS.iter().map(|verb| verb.name.as_bytes()))),
        _ => Err(unknown_subcommand(args)),
    }
}

pub(super) fn config(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    match (args.at(1).to_ascii_uppercase().as_slice(), args.from(2)) {
        (b"GET", patterns @ [_, ..]) => {
            let memory = store.memory_bytes_max.to_string();
            let settings = [
                ("appendonly", "no"),
                ("databases", "1"),
                ("maxmemory", memory.as_str()),
                ("maxmemory-policy", "noeviction"),
                ("proto-max-bulk-len", "536870912"),
                ("save", ""),
                ("timeout", "0"),
            ];
            let wanted = |name: &str| {
                patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
            };
            let found = settings.into_iter().filter(|(name, _)| wanted(name));
            let pair = |(name, value): (&str, &str)| (Reply::bulk(name.as_bytes()), Reply::bulk(value.as_bytes()));
            Ok(Reply::Map(found.map(pair).collect()))
        }
        (b"GET", []) => Err(wrong_number_of_arguments("config|get")),
        (b"RESETSTAT", []) => Ok(OK),
        (b"SET", _) => Err(Failure::fixed("ERR the embedded demo store has no settings to change")),
        _ => Err(unknown_subcommand(args)),
    }
}

impl Store {
    fn uptime_seconds(&self) -> u64 {
        self.keyspace.now_ms.saturating_sub(self.started_at_ms.unwrap_or(0)) / 1000
    }

    /// Forty hex digits that name this store, from its seed and the time of its first command.
    fn run_id(&self) -> String {
        let mut random = fastrand::Rng::with_seed(self.seed ^ self.started_at_ms.unwrap_or(0));
        std::iter::repeat_with(|| random.digit(16)).take(40).collect()
    }
}

pub(super) fn info(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    let keyspace = match store.keyspace.len() {
        0 => String::new(),
        len => format!("db0:keys={len},expires={},avg_ttl=0\r\n", store.keyspace.expiring_len()),
    };
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{VERSION}\r\nredis_mode:standalone\r\nserver_name:quoit embedded demo store\r\n\
                 run_id:{}\r\nuptime_in_seconds:{}\r\n",
                store.run_id(),
                store.uptime_seconds()
            ),
        ),
        (
            "Memory",
            format!(
                "used_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n",
                store.keyspace.bytes(),
                store.memory_bytes_max
            ),
        ),
        ("Persistence", "loading:0\r\n".to_owned()),
        ("Stats", format!("total_commands_processed:{}\r\n", store.commands_total)),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        ("Keyspace", keyspace),
    ];
    let all =
        |word: &&[u8]| [&b"all"[..], b"default", b"everything"].iter().any(|known| word.eq_ignore_ascii_case(known));
    let words = args.from(1);
    let wanted = |name: &str| {
        words.is_empty() || words.iter().any(|word| all(word) || word.eq_ignore_ascii_case(name.as_bytes()))
    };
    let chosen = sections.iter().filter(|(name, _)| wanted(name));
    Ok(Reply::Text(chosen.map(|(name, text)| format!("# {name}\r\n{text}")).collect::<Vec<_>>().join("\r\n")))
}
