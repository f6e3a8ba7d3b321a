//! The classes of replication against real servers: what we call a read changes nothing, only the keys we call written
//! are, an update gives two servers the same state and, straight or by a script, the same reply, a request with absolute times does what the one it stands for does, and
//! what we call malformed is refused.
//!
//! Which servers: `real_server/mod.rs`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod real_server;

use quoit::command::replicate::{Blind, Form, KeyRoles, classify, key_roles, null_is_array, script_resp};
use quoit::command::reply::Resp;
use quoit::command::{Handling, Replication, Row, absolute, all, lookup, resolve};
use real_server::{Client, Reply, Server, Words};
use std::collections::{BTreeMap, BTreeSet};

/// Random requests for each shape below.
const REQUESTS_PER_SHAPE: usize = 12;

/// What the random requests find.
const STORED: &[&str] = &[
    "SET string 5",
    "SET other 10.5",
    "RPUSH list a b c a b",
    "RPUSH numbers 3 1 2",
    "SADD set a b c",
    "ZADD zset 1 a 2 b 3 c",
    "GEOADD geo 13.3 38.1 a 15.0 37.5 b",
    "HSET hash a 1 b 2.5 c text",
    "PFADD hll a b c",
    "XADD stream 0-5 z 0",
    "XADD stream 1-1 a 1",
    "XADD stream 2-1 b 2",
    "XGROUP CREATE stream g 0",
    "XREADGROUP GROUP g c COUNT 2 STREAMS stream >",
    "XDEL stream 0-5",
];

/// Every key of these, and one that is not there.
const KEYS: &[&str] = &["string", "other", "list", "numbers", "set", "zset", "geo", "hash", "hll", "stream", "nothing"];

/// Requests by their shape. `*` is any key, `@` a member or field, `#` a small number, `!` a time from now in seconds;
/// `.` stands in the place of a key of a type, so that not only errors come back.
const SHAPES: &str = "\
    APPEND * @, APPEND string @, BITFIELD string SET u8 # 5 GET u4 0, BITFIELD string GET u8 #, \
    BITFIELD * INCRBY u8 # #, BITFIELD string OVERFLOW FAIL INCRBY u8 0 300, SETBIT * # 1, SETBIT string # 1, \
    SETRANGE * # @, SETNX * @, GETSET * @, GETDEL *, GETDEL string, GETEX *, GETEX string EX !, \
    GETEX string PERSIST, INCR *, INCR string, INCRBY string #, INCRBYFLOAT string 1.25, INCRBYFLOAT other -#.1, \
    DECR string, DECRBY string #, DEL *, DEL * *, UNLINK *, DELIFEQ string 5, EXPIRE * !, EXPIRE * ! NX, \
    EXPIRE * ! GT, EXPIRE * -#, EXPIREAT * 99999999999, PEXPIRE * !000, PEXPIREAT * 99999999999999, PERSIST *, \
    SET * @, SET * @ EX !, SET * @ NX, SET * @ XX GET PX !000, SET * @ KEEPTTL, SET * @ PXAT 1, SETEX * ! @, \
    PSETEX * !000 @, MSET * @ * @, MSETNX * @ * @, MSETEX 2 * @ * @ EX !, HSET * @ #, HSET hash @ #, \
    HMSET hash @ #, HSETNX hash @ #, HDEL hash @, HINCRBY hash @ #, HINCRBYFLOAT hash @ #.5, \
    HSETEX hash EX ! FIELDS 1 @ #, HGETDEL hash FIELDS 1 @, HGETDEL hash FIELDS 3 d @ @, HGETEX hash EX ! FIELDS 1 @, HGETEX hash FIELDS 1 @, \
    HEXPIRE hash ! FIELDS 1 @, HEXPIREAT hash 9999999999 FIELDS 1 @, HPEXPIRE hash !000 NX FIELDS 2 @ @, \
    HPEXPIREAT hash 9999999999999 FIELDS 1 @, HPERSIST hash FIELDS 1 @, HEXPIRE hash 0 FIELDS 1 @, LPUSH * @, \
    LPUSHX * @, RPUSH list @, RPUSHX * @, LPOP *, LPOP list #, RPOP list, RPOP * #, LINSERT list BEFORE @ @, \
    LSET list # @, LREM list # @, LTRIM list # -1, SADD * @, SADD set @ @, SREM set @ @, ZADD * # @, \
    ZADD zset XX GT CH # @, ZADD zset NX INCR # @, ZINCRBY zset # @, ZREM zset @, ZREMRANGEBYLEX zset [a [b, \
    ZREMRANGEBYRANK zset # #, ZREMRANGEBYSCORE zset # #, ZPOPMAX zset #, ZPOPMIN *, PFADD * @, PFADD hll @ @, \
    GEOADD geo 1# 3# @, XADD stream 5-# @ @, XADD stream NOMKSTREAM MAXLEN 1 9-* @ @, XADD * 3-# @ @, \
    XADD stream * @ @, XADD stream MAXLEN ~ # 7-1 @ @, XTRIM stream MAXLEN #, XTRIM stream MAXLEN ~ #, \
    XDEL stream #-1, XDELEX stream KEEPREF IDS 1 #-1, XACK stream g #-1, XACKDEL stream g KEEPREF IDS 1 #-1, \
    XSETID stream 9-9, XGROUP CREATE stream @ $, XGROUP CREATE * g # MKSTREAM, XGROUP CREATECONSUMER stream g @, \
    XGROUP DELCONSUMER stream g c, XGROUP DESTROY stream g, XGROUP SETID stream g #, \
    XREADGROUP GROUP g @ COUNT # STREAMS stream >, XREADGROUP GROUP g c STREAMS stream 0, XCLAIM stream g @ 0 0-5 1-1, XCLAIM stream g @ 0 #-1, XAUTOCLAIM stream g @ 0 0, \
    BITOP OR * * *, BITOP NOT * string, COPY * *, COPY * * REPLACE, RENAME * *, RENAMENX * *, \
    LMOVE list * LEFT RIGHT, RPOPLPUSH * *, LMPOP 2 * list LEFT COUNT #, ZMPOP 2 * zset MIN, SMOVE set * @, \
    SPOP *, SPOP set #, SDIFFSTORE * set *, SINTERSTORE * set set, SUNIONSTORE * set *, ZUNIONSTORE * 2 zset *, \
    ZINTERSTORE * 1 zset, ZDIFFSTORE * 2 zset *, ZRANGESTORE * zset 0 #, PFMERGE * *, \
    GEOSEARCHSTORE * geo FROMMEMBER a BYRADIUS 500 km, GEORADIUS geo 15 37 # km STORE *, \
    GEORADIUS geo 15 37 500 km STOREDIST *, GEORADIUSBYMEMBER geo @ 500 km STORE *, GEORADIUS geo 15 37 200 km, \
    GEORADIUSBYMEMBER geo @ 500 km COUNT #, SORT numbers STORE *, SORT numbers, SORT * ALPHA LIMIT 0 #, GET *, \
    TOUCH * *, PFCOUNT hll, PFCOUNT hll *, SRANDMEMBER set #, HRANDFIELD hash #, ZRANDMEMBER zset #, \
    OBJECT FREQ *, OBJECT ENCODING *, MEMORY USAGE *, XREAD STREAMS stream 0, XPENDING stream g, \
    XINFO STREAM stream, EXISTS * *, DUMP *, TYPE *, LCS string other, SSCAN set 0, VADD vectors VALUES 2 1 # @, \
    VREM vectors @, VSETATTR vectors @ @";

fn shapes() -> impl Iterator<Item = &'static str> {
    SHAPES.split(", ")
}

fn words(request: &str) -> Vec<String> {
    request.split(' ').map(str::to_owned).collect()
}

fn random_request(random: &mut fastrand::Rng, shape: &str) -> Vec<String> {
    let mut request = String::new();
    for byte in shape.chars() {
        match byte {
            // Alone: `*` of XADD comes as `stream *`, which is told apart below.
            '*' => request.push_str(KEYS[random.usize(0..KEYS.len())]),
            '@' => request.push_str(["a", "b", "c", "d"][random.usize(0..4)]),
            '#' => request.push_str(&random.u32(0..6).to_string()),
            '!' => request.push_str(&random.u32(100..1000).to_string()),
            other => request.push(other),
        }
    }
    if shape.starts_with("XADD stream * ") {
        return words("XADD stream * f v");
    }
    if shape.starts_with("XADD stream NOMKSTREAM") {
        return words("XADD stream NOMKSTREAM MAXLEN 1 9-* f v");
    }
    words(&request)
}

/// What a client can see of a key, the same whatever order its type's table is in.
fn content(client: &mut Client, key: &str) -> Vec<Reply> {
    let kind = client.ask(&["TYPE", key]);
    let kind = std::str::from_utf8(kind.text()).unwrap().trim_end().to_owned();
    let questions: &[&str] = match kind.as_str() {
        "+string" => &["GET ?"],
        "+list" => &["LRANGE ? 0 -1"],
        "+set" => &["SMEMBERS ?"],
        "+zset" => &["ZRANGE ? 0 -1 WITHSCORES"],
        "+hash" => &["HGETALL ?", "HPEXPIRETIME ? FIELDS 4 a b c d"],
        "+stream" => &["XRANGE ? - +", "XINFO GROUPS ?", "XPENDING ? g"],
        "+vectorset" => &["VCARD ?"],
        _ => &[],
    };
    let mut seen = vec![Reply::Text(kind.clone().into_bytes()), client.ask(&["PTTL", key])];
    if seen[1] != Reply::Text(b":-1\r\n".to_vec()) && kind != "+none" {
        // Time runs; where the server does not tell the end, that there is one.
        let end = client.ask(&["PEXPIRETIME", key]);
        seen[1] = if matches!(end, Reply::Error(_)) { Reply::Text(b"ends".to_vec()) } else { end };
    }
    for question in questions {
        let mut reply = client.ask(&words(&question.replace('?', key)));
        if let (true, Reply::Many(elements)) = (kind == "+set", &mut reply) {
            elements.sort_by(|one, other| one.text().cmp(other.text()));
        }
        if let (true, Reply::Many(elements)) = (question.starts_with("HGETALL"), &mut reply) {
            let mut pairs: Vec<_> = elements.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort_by(|one, other| one[0].text().cmp(other[0].text()));
            *elements = pairs.concat();
        }
        seen.push(reply);
    }
    seen
}

fn contents(client: &mut Client) -> BTreeMap<String, Vec<Reply>> {
    let keys = KEYS.iter().chain(&["vectors"]);
    keys.map(|key| ((*key).to_owned(), content(client, key))).collect()
}

fn fill(client: &mut Client) {
    client.ask(&["FLUSHALL"]);
    for request in STORED {
        let reply = client.ask(&words(request));
        assert!(!matches!(reply, Reply::Error(_)), "{request}: {reply:?}");
    }
}

/// The server's clock in ms.
fn now_ms(client: &mut Client) -> u64 {
    let time = client.ask(&["TIME"]);
    let number = |at: usize| std::str::from_utf8(time.elements()[at].text()).unwrap().parse::<u64>().unwrap();
    number(0) * 1000 + number(1) / 1000
}

/// The names of the commands that the server has.
fn known(client: &mut Client) -> BTreeSet<Vec<u8>> {
    let reply = client.ask(&["COMMAND"]);
    reply.elements().iter().map(|command| command.elements()[0].text().to_vec()).collect()
}

/// The request as it goes to the replicas.
fn as_sent(row: &Row, request: &[String], now_ms: u64) -> Vec<Vec<u8>> {
    let owned = Words::new(request);
    match absolute(row, &owned.args(), now_ms) {
        Some(words) => words.iter().map(<[u8]>::to_vec).collect(),
        None => owned.args().iter().map(<[u8]>::to_vec).collect(),
    }
}

/// The reply when a script runs the request, as scripts do on replicas.
fn run_in_script(client: &mut Client, resp: Resp, request: &[Vec<u8>]) -> Vec<u8> {
    let script = "redis.setresp(tonumber(KEYS[1])) return redis.pcall(unpack(ARGV))";
    let resp = if resp == Resp::Two { b"2" } else { b"3" };
    let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"1", resp];
    words.extend(request.iter().map(Vec::as_slice));
    client.raw(&words)
}

/// Two servers of one program in the same state: requests go straight to one, and by a script to the other.
struct Pair {
    straight: Client,
    by_script: Client,
    /// One connection for each version of the protocol.
    straight_askers: [Client; 2],
    script_askers: [Client; 2],
}

impl Pair {
    fn new(straight: &Server, by_script: &Server) -> Self {
        let connect = |server: &Server| {
            let mut askers = [server.connect(), server.connect()];
            askers[1].ask(&["HELLO", "3"]);
            askers
        };
        Self {
            straight: straight.connect(),
            by_script: by_script.connect(),
            straight_askers: connect(straight),
            script_askers: connect(by_script),
        }
    }

    fn fill(&mut self) {
        fill(&mut self.straight);
        fill(&mut self.by_script);
    }

    /// Runs a request and checks what it has changed. Gives its form and how many keys it changed.
    fn check(&mut self, request: &[String], resp: Resp) -> (Option<Replication>, usize) {
        let owned = Words::new(request);
        let args = owned.args();
        let row = resolve(&args).unwrap_or_else(|_| panic!("{request:?}"));
        let now_ms = now_ms(&mut self.straight);
        let class = classify(row, &args, now_ms).class();
        let mut roles = KeyRoles::new();
        key_roles(row, &args, &mut roles).unwrap();
        let written = roles.iter().filter(|role| role.written).map(|role| request[role.at as usize].as_str());
        let written: BTreeSet<&str> = written.collect();
        let before = contents(&mut self.straight);
        let sent = as_sent(row, request, now_ms);
        let at = usize::from(resp == Resp::Three);
        let reply = self.straight_askers[at].raw(&sent);
        let after = contents(&mut self.straight);
        let changed: Vec<&String> = after.keys().filter(|key| before[*key] != after[*key]).collect();
        for key in &changed {
            assert!(class != Some(Replication::Read), "{request:?} is a read and changed {key}");
            assert!(written.contains(key.as_str()), "{request:?} changed {key}, which is not written");
        }
        let is_chance =
            matches!(row.name, "spop" | "vadd" | "vrem") || row.name == "xadd" && request.contains(&"*".into());
        if class != Some(Replication::Read) && !is_chance {
            let script_resp = script_resp(row, resp);
            let by_script = run_in_script(&mut self.script_askers[at], script_resp, &sent);
            let mut reply = String::from_utf8_lossy(&reply).into_owned();
            if row.name == "xreadgroup" && reply.starts_with("%1") {
                reply = reply.replacen("%1", "*1\r\n*2", 1);
            }
            let mut by_script = String::from_utf8_lossy(&by_script).into_owned();
            if null_is_array(row, &args) {
                by_script = by_script.replace("$-1\r\n", "*-1\r\n");
            }
            // An older server refuses newer options in one text, and in scripts in another.
            let is_arity = reply.starts_with("-ERR wrong number") && by_script.starts_with('-');
            assert!(is_arity || reply == by_script, "{request:?}: {reply:?}, in a script {by_script:?}");
        }
        if matches!(class, Some(Replication::Update | Replication::Blind)) {
            assert_eq!(after, contents(&mut self.by_script), "{request:?}");
        }
        (class, changed.len())
    }
}

fn compare(variable: Option<&str>) {
    let (Some(straight), Some(by_script)) = (Server::start(variable), Server::start(variable)) else { return };
    let mut pair = Pair::new(&straight, &by_script);
    let known = known(&mut pair.straight);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut changes_len, mut reads_len, mut updates_len) = (0, 0, 0);
    for shape in shapes() {
        if !known.contains(shape.split(' ').next().unwrap().to_lowercase().as_bytes()) {
            continue;
        }
        pair.fill();
        for at in 0..REQUESTS_PER_SHAPE {
            let resp = if at % 2 == 0 { Resp::Two } else { Resp::Three };
            let (class, changed) = pair.check(&random_request(&mut random, shape), resp);
            changes_len += changed;
            reads_len += usize::from(class == Some(Replication::Read));
            updates_len += usize::from(matches!(class, Some(Replication::Update | Replication::Blind)));
            if class == Some(Replication::Opaque) {
                // Chance or a clock: the two go apart here, and meet again.
                pair.fill();
            }
        }
    }
    eprintln!("{variable:?}: {changes_len} keys changed, {reads_len} reads, {updates_len} updates");
    assert!(changes_len > 200 && reads_len > 150 && updates_len > 500);
}

#[test]
fn classes_hold_on_redis_7() {
    compare(None);
}

#[test]
fn classes_hold_on_redis_6() {
    compare(Some("QUOIT_REDIS_62"));
}

#[test]
fn classes_hold_on_redis_8() {
    compare(Some("QUOIT_REDIS_8"));
}

#[test]
fn classes_hold_on_valkey() {
    compare(Some("QUOIT_VALKEY"));
}

#[test]
fn every_verb_that_writes_keys_by_itself_has_a_shape() {
    fn walk(row: &'static Row, missing: &mut Vec<&'static str>) {
        let spoken = row.name.replace('|', " ").to_uppercase() + " ";
        // What programs and transactions write is not said by their verb. What may block goes to replicas as its plain verb.
        let is_left_out = matches!(
            row.handling,
            Handling::Later(_) | Handling::Run(_) | Handling::Transaction(_) | Handling::Blocking
        );
        let is_data = matches!(row.replication, Replication::Blind | Replication::Update)
            || row.replication == Replication::Opaque && !is_left_out;
        if is_data && !shapes().any(|shape| shape.starts_with(&spoken)) {
            missing.push(row.name);
        }
        row.subcommands.iter().for_each(|row| walk(row, missing));
    }
    let mut missing = Vec::new();
    for row in all() {
        walk(row, &mut missing);
    }
    // It needs a payload: see below.
    assert_eq!(missing, ["restore"]);
}

/// What a request leaves of key `k`: type and value, and when it or its field `f` ends.
fn outcome(client: &mut Client) -> (Vec<Reply>, i64) {
    let end = client.ask(&["PEXPIRETIME", "k"]);
    let field_end = client.ask(&["HPEXPIRETIME", "k", "FIELDS", "1", "f"]);
    let number = |reply: &Reply| match reply {
        Reply::Text(text) => std::str::from_utf8(&text[1..]).unwrap().trim().parse().unwrap_or(-2),
        Reply::Many(_) | Reply::Error(_) => -2,
    };
    let field_end = if let Reply::Many(ends) = &field_end { ends.first().map_or(-2, number) } else { -2 };
    let value = ["GET k", "HGETALL k", "LRANGE k 0 -1"].map(|question| client.ask(&words(question)));
    (value.to_vec(), number(&end).max(field_end))
}

/// The absolute form gives the same reply, value and error, and the end that the relative one would have at that time.
#[track_caller]
fn check_absolute(client: &mut Client, stored: &[&str], request: &[Vec<u8>]) {
    let prepare = |client: &mut Client| {
        client.ask(&["FLUSHALL"]);
        for request in stored {
            client.ask(&words(request));
        }
    };
    prepare(client);
    let earliest = now_ms(client);
    let relative = (client.ask(request), outcome(client));
    let latest = now_ms(client);
    prepare(client);
    let now_ms = now_ms(client);
    let owned = Words::new(request);
    let row = resolve(&owned.args()).unwrap();
    let sent: Vec<Vec<u8>> = match absolute(row, &owned.args(), now_ms) {
        Some(words) => words.iter().map(<[u8]>::to_vec).collect(),
        None => request.to_vec(),
    };
    let (reply, (value, end)) = (client.ask(&sent), outcome(client));
    let shown = request.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
    let (relative_reply, (relative_value, relative_end)) = relative;
    assert_eq!((reply, value), (relative_reply, relative_value), "{shown}");
    if relative_end < 0 {
        assert_eq!(end, relative_end, "{shown}");
    } else {
        // Either the end that was there, or one from now: the relative form reads the clock between our two readings.
        let span = end - i64::try_from(now_ms).unwrap();
        let spans = relative_end - i64::try_from(latest).unwrap()..=relative_end - i64::try_from(earliest).unwrap();
        assert!(
            end == relative_end || spans.contains(&span),
            "{shown}: ends after {span} ms, the store says {spans:?}"
        );
    }
}

fn compare_times(variable: Option<&str>) {
    let Some(server) = Server::start(variable) else { return };
    let mut client = server.connect();
    let known = known(&mut client);
    let string: &[&str] = &[&format!("SET k v PXAT {}", now_ms(&mut client) + 500_000)];
    let hash: &[&str] = &["HSET k f v g w"];
    for (stored, request) in [
        (string, "SET k w EX 100"),
        (string, "SET k w PX 100000 XX"),
        (string, "SET k w PX 100000 GET"),
        (string, "SET k w EX 1 EX 200"),
        (string, "SET k w EX 0"),
        (string, "SET k w EX 9223372036854775807"),
        (string, "SET k w PX 9223372036854775807"),
        (string, "SET k w NX EX 100"),
        (string, "SETEX k 100 w"),
        (string, "SETEX k 0 w"),
        (string, "SETEX k 9223372036854775807 w"),
        (string, "PSETEX k 100000 w"),
        (string, "GETEX k EX 100"),
        (string, "GETEX k PX 100000"),
        (string, "GETEX k EX -1"),
        (string, "EXPIRE k 100"),
        (string, "EXPIRE k 1000 NX"),
        (string, "EXPIRE k 1000 GT"),
        (string, "EXPIRE k 1000 LT"),
        (string, "EXPIRE k 0"),
        (string, "EXPIRE k -5"),
        (string, "EXPIRE k -5 GT"),
        (string, "EXPIRE k 100 NX XX"),
        (string, "EXPIRE k 9223372036854775807"),
        (string, "EXPIRE k -9223372036854775808"),
        (string, "PEXPIRE k 100000"),
        (string, "PEXPIRE k 9223372036854775807"),
        (string, "EXPIRE k x"),
        (hash, "EXPIRE k 100"),
        (hash, "EXPIRE nothing 100"),
        (hash, "HEXPIRE k 100 FIELDS 1 f"),
        (hash, "HEXPIRE k 100 XX FIELDS 1 f"),
        (hash, "HEXPIRE k 0 FIELDS 1 f"),
        (hash, "HEXPIRE k -1 FIELDS 1 f"),
        (hash, "HEXPIRE k 9223372036854775807 FIELDS 1 f"),
        (hash, "HPEXPIRE k 100000 FIELDS 2 f h"),
        (hash, "HSETEX k EX 100 FIELDS 1 f x"),
        (hash, "HSETEX k FXX PX 100000 FIELDS 1 h x"),
        (hash, "HGETEX k EX 100 FIELDS 1 f"),
        (hash, "HGETEX k PX 100000 FIELDS 1 f"),
        (string, "MSETEX 1 k w EX 100"),
    ] {
        if known.contains(request.split(' ').next().unwrap().to_lowercase().as_bytes()) {
            let request: Vec<Vec<u8>> = request.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            check_absolute(&mut client, stored, &request);
        }
    }
    client.ask(&["RPUSH", "list", "a", "b"]);
    let payload = client.ask(&["DUMP", "list"]).text().to_vec();
    for (ttl, options) in
        [("100000", ""), ("100000", "REPLACE"), ("0", "REPLACE"), ("-1", "REPLACE"), ("9", "WHAT"), ("x", "")]
    {
        let mut request = [b"RESTORE", &b"k"[..], ttl.as_bytes(), &payload].map(<[u8]>::to_vec).to_vec();
        request.extend((!options.is_empty()).then(|| options.as_bytes().to_vec()));
        check_absolute(&mut client, &[], &request);
        check_absolute(&mut client, string, &request);
    }
}

#[test]
fn absolute_times_are_those_of_redis_7() {
    compare_times(None);
}

#[test]
fn absolute_times_are_those_of_redis_8() {
    compare_times(Some("QUOIT_REDIS_8"));
}

#[test]
fn absolute_times_are_those_of_valkey() {
    compare_times(Some("QUOIT_VALKEY"));
}

/// Requests that every server refuses.
const MALFORMED: &str = "\
    SET k w EX, SET k w EX 0, SET k w PX -1, SET k w EXAT 0, SET k w PXAT x, SET k w EX 010, SET k w NX XX, \
    SET k w XX NX GET, SET k w EX 10 PX 10, SET k w EX 10 EXAT 99999999999, SET k w KEEPTTL EX 10, \
    SET k w PX 10 KEEPTTL, SET k w NX EX 0, SET k w GET EX x, SETEX k 0 w, SETEX k x w, PSETEX k -1 w, \
    RESTORE k x p REPLACE, RESTORE k -1 p REPLACE";

fn compare_refusals(variable: Option<&str>) {
    let Some(server) = Server::start(variable) else { return };
    let mut client = server.connect();
    for request in MALFORMED.split(", ") {
        let request = words(request);
        let owned = Words::new(&request);
        let form = classify(lookup(request[0].as_bytes()).unwrap(), &owned.args(), 1_000_000);
        assert_eq!(form, Form::Malformed, "{request:?}");
        client.ask(&["SET", "k", "v"]);
        let reply = client.ask(&request);
        assert!(matches!(reply, Reply::Error(_)), "{request:?}: {reply:?}");
        assert_eq!(client.ask(&["GET", "k"]).text(), b"v", "{request:?}");
    }
    // The other way round: what is taken for a write of a value is one, with that value.
    for request in ["SET k w", "SET k w EX 10 EX 100", "SET k w EX x EX 100", "SET k EX PX 100000", "SETEX k 100 w"] {
        let request = words(request);
        let owned = Words::new(&request);
        let now_ms = now_ms(&mut client);
        let form = classify(lookup(request[0].as_bytes()).unwrap(), &owned.args(), now_ms);
        let Form::Blind(Blind::Set { value, expires_at_ms }) = form else { panic!("{request:?}: {form:?}") };
        client.ask(&["DEL", "k"]);
        assert_eq!(client.ask(&request), Reply::Text(b"+OK\r\n".to_vec()), "{request:?}");
        assert_eq!(client.ask(&["GET", "k"]).text(), value, "{request:?}");
        assert_eq!(client.ask(&["PERSIST", "k"]) == Reply::Text(b":1\r\n".to_vec()), expires_at_ms.is_some());
    }
}

#[test]
fn malformed_requests_are_refused_by_every_server() {
    for variable in [None, Some("QUOIT_REDIS_62"), Some("QUOIT_REDIS_8"), Some("QUOIT_VALKEY")] {
        compare_refusals(variable);
    }
}

/// Requests to which there is nothing to say.
const WITHOUT_ANSWER: &str = "\
    LPOP k, RPOP k, LPOP k 2, RPOP k 2, LMPOP 1 k LEFT, ZMPOP 1 k MIN, BLPOP k 0.01, BRPOP k 0.01, \
    BLMPOP 0.01 1 k LEFT, BZMPOP 0.01 1 k MIN, BZPOPMIN k 0.01, BZPOPMAX k 0.01, BLMOVE k d LEFT LEFT 0.01, \
    BRPOPLPUSH k d 0.01, XREAD STREAMS stream 9, XREADGROUP GROUP g c STREAMS stream >, ZRANK zset b, \
    ZRANK zset b WITHSCORE, ZREVRANK zset b WITHSCORE, SPOP k, GETSET k v, SET string w NX, SET other w XX, \
    SET string w XX GET, GETDEL nothing, GETEX nothing, LMOVE none d LEFT LEFT, RPOPLPUSH none d, \
    ZADD none XX INCR 1 a, XADD none NOMKSTREAM 1-1 f v, SRANDMEMBER none, ZRANDMEMBER none, \
    HRANDFIELD none, LPOS none a, HGET none f, ZSCORE none a, DUMP none";

fn compare_nulls(variable: Option<&str>) {
    let Some(server) = Server::start(variable) else { return };
    let mut client = server.connect();
    let known = known(&mut client);
    client.ask(&words("SET string v"));
    client.ask(&words("ZADD zset 1 a"));
    client.ask(&words("XADD stream 1-1 f v"));
    client.ask(&words("XGROUP CREATE stream g $"));
    for request in WITHOUT_ANSWER.split(", ") {
        let request = words(request);
        if !known.contains(request[0].to_lowercase().as_bytes()) {
            continue;
        }
        client.ask(&["DEL", "k"]);
        let raw = client.raw(&request);
        if raw.starts_with(b"-") {
            continue; // WITHSCORE is not of every version.
        }
        let owned = Words::new(&request);
        let row = resolve(&owned.args()).unwrap();
        let want: &[u8] = if null_is_array(row, &owned.args()) { b"*-1\r\n" } else { b"$-1\r\n" };
        let is_value = request[0] == "SET" && request.len() > 4 && raw.starts_with(b"$1");
        assert!(is_value || raw == want, "{request:?}: {}", String::from_utf8_lossy(&raw));
    }
}

#[test]
fn nothing_has_the_form_of_the_servers() {
    for variable in [None, Some("QUOIT_REDIS_62"), Some("QUOIT_REDIS_8"), Some("QUOIT_VALKEY")] {
        compare_nulls(variable);
    }
}
