//! The command table against real servers: the keys we name are those `COMMAND GETKEYS` names, a request we call
//! malformed is one the server refuses, every verb we forward gives exactly one reply and leaves the connection as it
//! was, and our error texts are the server's.
//!
//! Redis 7.0 is looked for as `redis-server`; the others where `QUOIT_REDIS_62`, `QUOIT_REDIS_8` and `QUOIT_VALKEY`
//! name a binary. A server that is not there is skipped with a line on stderr.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod real_server;

use quoit::command::reply::{self, Resp};
use quoit::command::{Args, Handling, KeyIndexes, LocalVerb, Row, Unsupported, all, introspect, keys, lookup, resolve};
use real_server::{Client, Reply, Server, Words};
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Argument shapes tried for each verb that has keys.
const SHAPES_PER_VERB: u32 = 60;

/// Every row that names keys and that this server has.
fn rows_with_keys(client: &mut Client) -> Vec<&'static Row> {
    let reply = client.ask(&["COMMAND"]);
    let names: Vec<&[u8]> = reply.elements().iter().map(|command| command.elements()[0].text()).collect();
    for name in &names {
        assert!(lookup(name).is_some(), "{} has no row", String::from_utf8_lossy(name));
    }
    all()
        .iter()
        .filter(|row| names.contains(&row.name.as_bytes()))
        .flat_map(|row| std::iter::once(row).chain(row.subcommands))
        .filter(|row| !row.keys.is_empty())
        .collect()
}

/// Words that key specifications and option parsers care about, among keys and numbers.
fn random_request(random: &mut fastrand::Rng, row: &Row) -> Vec<String> {
    const WORDS: [&str; 28] = [
        "0",
        "1",
        "2",
        "3",
        "-1",
        "01",
        "+1",
        "k1",
        "k2",
        "k3",
        "k4",
        "k5",
        "member",
        "STREAMS",
        "STORE",
        "storedist",
        "LIMIT",
        "BY",
        "GET",
        "w_*",
        "COUNT",
        "GROUP",
        "m",
        "WEIGHTS",
        "KEYS",
        "DB",
        "$",
        "",
    ];
    let mut words: Vec<String> = row.name.split('|').map(str::to_owned).collect();
    let least = usize::try_from(row.arity.unsigned_abs()).unwrap();
    let len = if row.arity < 0 { random.usize(least..least + 7) } else { least };
    if row.name == "migrate" {
        let shapes = ["host 1 k1 0 10", "host 1  0 10 COPY KEYS k1 k2", "host 1  0 10 REPLACE", "host 1 k1 0 10 COPY"];
        words.extend(shapes[random.usize(0..shapes.len())].split(' ').map(str::to_owned));
        return words;
    }
    while words.len() < len {
        words.push(WORDS[random.usize(0..WORDS.len())].to_owned());
    }
    // Well-formed shapes are rare among random ones: often put a count or the keyword where it belongs.
    if random.bool() {
        match row.name {
            "xread" => "streams".clone_into(&mut words[1]),
            "xreadgroup" => words
                .splice(1.., ["GROUP", "g", "c", "STREAMS", "k1", "k2", ">", ">"].map(str::to_owned))
                .for_each(drop),
            name if row.keys.iter().any(|spec| matches!(spec.find, quoit::command::Find::KeyCount { .. })) => {
                let at = if name.contains("store")
                    || name.starts_with("eval")
                    || name.starts_with("fcall")
                    || name.starts_with('b')
                {
                    2
                } else {
                    1
                };
                words[at] = random.u32(0..4).to_string();
            }
            _ => {}
        }
    }
    words
}

/// What `keys` names, as the arguments themselves; none where it says the request is malformed.
fn our_keys(row: &Row, args: &Args<'_>) -> Option<Vec<Vec<u8>>> {
    let mut indexes = KeyIndexes::new();
    keys(row, args, &mut indexes).ok()?;
    Some(indexes.iter().map(|index| args.get(*index as usize).unwrap().to_vec()).collect())
}

/// What the server names; none where it finds nothing or an error.
fn their_keys(client: &mut Client, words: &[String]) -> Option<Vec<Vec<u8>>> {
    let question: Vec<&str> = ["COMMAND", "GETKEYS"].into_iter().chain(words.iter().map(String::as_str)).collect();
    match client.ask(&question) {
        Reply::Many(keys) if !keys.is_empty() => Some(keys.iter().map(|key| key.text().to_vec()).collect()),
        _ => None,
    }
}

fn is_forwarded(row: &Row) -> bool {
    matches!(row.handling, Handling::Forward | Handling::SameNode | Handling::Split(_))
}

/// The keys that are stored.
fn stored(client: &mut Client) -> Vec<Vec<u8>> {
    client.ask(&["KEYS", "*"]).elements().iter().map(|key| key.text().to_vec()).collect()
}

/// An error about the arguments.
fn is_refusal(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with(b"-ERR") && !text.starts_with(b"-ERR no such key"))
}

/// Asks for real and checks that one reply came and that the connection is where it was.
fn run(client: &mut Client, words: &[String]) -> Reply {
    let reply = client.ask(words);
    assert_eq!(client.ask(&["ECHO", "still here"]), Reply::Text(b"still here".to_vec()), "{words:?}");
    reply
}

fn compare(variable: Option<&str>) {
    let Some(server) = Server::start(variable) else { return };
    let mut client = server.connect();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut named, mut executed, mut refused) = (0, 0, 0);
    let rows = rows_with_keys(&mut client);
    for row in &rows {
        for _ in 0..SHAPES_PER_VERB {
            let words = random_request(&mut random, row);
            let owned = Words::new(&words);
            let args = owned.args();
            let Ok(resolved) = resolve(&args) else { continue };
            let (mut ours, mut theirs) = (our_keys(resolved, &args), their_keys(&mut client, &words));
            if variable == Some("QUOIT_REDIS_62") {
                // It names the destination last.
                ours.iter_mut().chain(&mut theirs).for_each(|keys| keys.sort());
            }
            if words[0] == "pfmerge" && words.len() == 2 {
                // Runs, but the servers since 7.0 name no key of it.
                theirs = theirs.or_else(|| Some(vec![words[1].as_bytes().to_vec()]));
            }
            named += usize::from(ours.is_some() && ours == theirs);
            if !is_forwarded(resolved) {
                // Never run, so a request that the server finds malformed, or a count that only `COMMAND GETKEYS` takes for
                // one, is not looked at any closer.
                let loose = ours.is_none() && words.iter().any(|word| word == "01" || word == "+1");
                assert!(
                    loose || theirs.is_none() || ours == theirs,
                    "{words:?}: we say {ours:?}, the server {theirs:?}"
                );
                continue;
            }
            // Where we and the server disagree, or nobody finds a key, the request must be one that is refused, and not
            // for what happens to be stored.
            let is_malformed = ours != theirs || ours.is_none();
            if is_malformed {
                client.ask(&["FLUSHALL"]);
            }
            let before = stored(&mut client);
            let reply = run(&mut client, &words);
            executed += 1;
            for key in stored(&mut client) {
                let named = before.contains(&key) || ours.as_ref().is_some_and(|ours| ours.contains(&key));
                assert!(named, "{words:?} made {}, which we did not name", String::from_utf8_lossy(&key));
            }
            if is_malformed {
                assert!(is_refusal(&reply), "{words:?}: we say {ours:?}, the server {theirs:?}, {reply:?}");
                refused += 1;
            }
        }
    }
    eprintln!("{variable:?}: {} verbs, {named} requests agree, {executed} run, {refused} refused", rows.len());
    assert!(rows.len() > 120 && named > executed / 2);
}

#[test]
fn keys_are_those_of_redis_7() {
    compare(None);
}

#[test]
fn keys_are_those_of_redis_6() {
    compare(Some("QUOIT_REDIS_62"));
}

#[test]
fn keys_are_those_of_redis_8() {
    compare(Some("QUOIT_REDIS_8"));
}

#[test]
fn keys_are_those_of_valkey() {
    compare(Some("QUOIT_VALKEY"));
}

#[test]
fn well_formed_requests_have_the_keys_redis_7_names() {
    let Some(server) = Server::start(None) else { return };
    let mut client = server.connect();
    for request in [
        "SORT k BY nosort GET # LIMIT 0 5 STORE d",
        "SORT k STORE a STORE b",
        "SORT_RO k BY nosort",
        "GEORADIUS k 1 1 5 m COUNT 3 STORE d",
        "GEORADIUS k 1 1 5 m STOREDIST d",
        "GEORADIUSBYMEMBER k member 5 m STORE d",
        "GEORADIUS_RO k 1 1 5 m",
        "GEOSEARCHSTORE d k FROMMEMBER m BYRADIUS 5 m",
        "XREAD COUNT 2 STREAMS a b 0 0",
        "XREADGROUP GROUP g c NOACK STREAMS a b > >",
        "ZUNIONSTORE d 3 a b c WEIGHTS 1 2 3",
        "ZINTERSTORE d 1 a AGGREGATE MAX",
        "ZDIFFSTORE d 2 a b",
        "ZUNION 2 a b WITHSCORES",
        "ZINTERCARD 2 a b LIMIT 1",
        "SINTERCARD 2 a b",
        "LMPOP 2 a b LEFT COUNT 2",
        "ZMPOP 1 a MIN",
        "ZRANGESTORE d a 0 1",
        "BITOP XOR d a b",
        "RENAME a b",
        "COPY a b DB 0 REPLACE",
        "LMOVE a b LEFT LEFT",
        "SMOVE a b m",
        "PFMERGE d a b",
        "LCS a b IDX",
        "MSETNX a 1 b 2",
        "OBJECT ENCODING k",
        "XINFO STREAM k FULL",
        "XGROUP CREATE k g $ MKSTREAM",
        "MEMORY USAGE k SAMPLES 5",
        "MIGRATE host 1  0 10 COPY AUTH p KEYS a b",
        "EVAL script 2 a b c",
        "FCALL f 1 a b",
        "BLMOVE a b LEFT LEFT 0",
        "BZMPOP 0 2 a b MIN",
    ] {
        let words: Vec<String> = request.split(' ').map(str::to_owned).collect();
        let owned = Words::new(&words);
        let args = owned.args();
        let row = resolve(&args).unwrap();
        let ours = our_keys(row, &args);
        assert!(ours.is_some() && ours == their_keys(&mut client, &words), "{request}: {ours:?}");
    }
}

/// Our answer to a request that no node sees.
fn our_answer(words: &[&str], resp: Resp) -> Vec<u8> {
    let owned = Words::new(words);
    let args = owned.args();
    let mut out = Vec::new();
    match resolve(&args) {
        Ok(row) => match row.handling {
            Handling::Local(LocalVerb::Command) => introspect::command(&mut out, resp, row, &args),
            Handling::Local(LocalVerb::Cluster | LocalVerb::ClusterDisabled) => reply::cluster_disabled(&mut out),
            _ => panic!("{words:?} is not answered from the table"),
        },
        Err(Unsupported::UnknownCommand) => reply::unknown_command(&mut out, &args),
        Err(Unsupported::UnknownSubcommand(_)) => reply::unknown_subcommand(&mut out, &args),
        Err(Unsupported::WrongArity(row)) => reply::wrong_arity(&mut out, row),
    }
    out
}

#[test]
fn error_texts_are_those_of_redis_7() {
    let Some(server) = Server::start(None) else { return };
    let mut client = server.connect();
    let long = "y".repeat(300);
    let almost = "z".repeat(125);
    let requests: &[&[&str]] = &[
        &["nonsense"],
        &["NonSense", "a", "b c", ""],
        &["non\r\nsense", "a\r\nb", "nul\0nul"],
        &[&long, &long, "more"],
        &["nonsense", &almost, &almost, "more"],
        &["config|get", "a"],
        &["get"],
        &["GET", "a", "b"],
        &["mset", "a", "1", "b"],
        &["CONFIG"],
        &["CONFIG", "GET"],
        &["config", "nonsense"],
        &["oBject", &long, "k"],
        &["OBJECT", "freq"],
        &["COMMAND", "nonsense"],
        &["COMMAND", "COUNT", "x"],
        &["READONLY"],
        &["ASKING"],
        &["CLUSTER", "INFO"],
        &["COMMAND", "GETKEYS", "GET", "k"],
        &["COMMAND", "GETKEYS", "GET", "a", "b"],
        &["COMMAND", "GETKEYS", "CONFIG", "GET", "x"],
        &["COMMAND", "GETKEYS", "CONFIG", "nonsense"],
        &["COMMAND", "GETKEYS", "nonsense", "a"],
        &["COMMAND", "GETKEYS", "EVAL", "x", "0"],
        &["COMMAND", "GETKEYS", "ZUNION", "3", "a"],
        &["COMMAND", "GETKEYS", "SPUBLISH", "a", "b"],
        &["COMMAND", "GETKEYS", "MSET", "a", "b", "c"],
        &["COMMAND", "GETKEYSANDFLAGS", "RENAME", "a", "b"],
        &["COMMAND", "GETKEYSANDFLAGS", "SORT", "a", "STORE", "b"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "xre?d"],
        &["COMMAND", "LIST", "FILTERBY", "MODULE", "x"],
        &["COMMAND", "LIST", "FILTERBY"],
    ];
    for words in requests {
        let theirs = client.raw(words);
        let ours = our_answer(words, Resp::Two);
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{words:?}");
    }
}

/// The same reply whatever the order in its sets, as the servers' tables are hashed.
fn sorted(reply: &Reply) -> String {
    match reply {
        Reply::Many(elements) => {
            let mut texts: Vec<String> = elements.iter().map(sorted).collect();
            texts.sort();
            format!("{texts:?}")
        }
        Reply::Text(text) | Reply::Error(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

#[test]
fn command_info_has_the_shape_of_redis_7() {
    let Some(server) = Server::start(None) else { return };
    for (resp, version) in [(Resp::Two, "2"), (Resp::Three, "3")] {
        let mut client = server.connect();
        client.ask(&["HELLO", version]);
        for name in ["get", "mget", "xread", "zunionstore", "bitop", "object", "object|freq", "no"] {
            let words = ["COMMAND", "INFO", name];
            let theirs = client.ask(&words);
            let ours = our_answer(&words, resp);
            let mut echo = TcpEcho::new(&ours);
            assert_eq!(sorted(&echo.read()), sorted(&theirs), "{name}");
            assert_eq!(ours.len(), client.raw(&words).len(), "{name} in RESP{version}");
        }
    }
}

/// Our own bytes, read by the same reader as the server's.
struct TcpEcho(Client);

impl TcpEcho {
    fn new(bytes: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(bytes).unwrap();
        Self(Client { reader: BufReader::new(stream) })
    }

    fn read(&mut self) -> Reply {
        self.0.read()
    }
}

#[test]
fn the_table_is_what_the_generator_writes() {
    let root = env!("CARGO_MANIFEST_DIR");
    let generated = Command::new("python3").arg(format!("{root}/tools/generate_commands.py")).arg("--print").output();
    let Ok(generated) = generated else {
        eprintln!("skip: python3 cannot be run");
        return;
    };
    let errors = String::from_utf8_lossy(&generated.stderr);
    if errors.contains("tomllib") {
        eprintln!("skip: python3 is older than 3.11");
        return;
    }
    assert!(generated.status.success(), "{errors}");
    let table = std::fs::read(format!("{root}/src/command/table.rs")).unwrap();
    assert!(table == generated.stdout, "run tools/generate_commands.py and commit src/command/table.rs");
}
