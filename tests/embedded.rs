//! The embedded demo store against a real redis-server: the same commands, the same bytes. Without a redis-server on
//! the PATH these tests say so and pass.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "the helpers of a test may end it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quoit::backend::embedded::EmbeddedServer;
use tokio_util::sync::CancellationToken;

const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A redis-server on a Unix socket in a directory of its own; ends with this value.
struct RealServer {
    child: Child,
    directory: tempfile::TempDir,
}

impl RealServer {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--databases", "1"]);
        command.arg("--unixsocket").arg(directory.path().join("socket")).arg("--dir").arg(directory.path());
        let Ok(child) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
            skip("no redis-server on the PATH");
            return None;
        };
        let mut server = Self { child, directory };
        let mut lines = BufReader::new(server.child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("eady to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        // Its log must not fill the pipe and stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Some(server)
    }

    fn connect(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(self.directory.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Client { stream: BufReader::new(stream) }
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// An embedded store on a thread of its own; ends with this value.
struct Embedded {
    address: SocketAddr,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Embedded {
    fn start(configure: impl FnOnce(EmbeddedServer) -> EmbeddedServer) -> Self {
        let server = configure(EmbeddedServer::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap());
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server.run(stop)).unwrap();
        });
        Self { address, shutdown, thread: Some(thread) }
    }

    fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Client { stream: BufReader::new(stream) }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

type Words = Vec<Vec<u8>>;

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn shown(command: &Words) -> String {
    command.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

struct Client<S> {
    stream: BufReader<S>,
}

impl<S: std::io::Read + std::io::Write> Client<S> {
    fn send(&mut self, commands: &[Words]) {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len()).unwrap();
            for word in command {
                write!(bytes, "${}\r\n", word.len()).unwrap();
                bytes.extend_from_slice(word);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.stream.get_mut().write_all(&bytes).unwrap();
    }

    /// One reply, as its bytes; the elements of unordered ones sorted.
    fn reply(&mut self, unordered: bool) -> Vec<u8> {
        let mut head = Vec::new();
        self.stream.read_until(b'\n', &mut head).unwrap();
        let number = || std::str::from_utf8(&head[1..head.len() - 2]).unwrap().parse::<i64>().unwrap();
        match head.first() {
            Some(b'$' | b'=') if number() >= 0 => {
                let mut body = vec![0; usize::try_from(number()).unwrap() + 2];
                self.stream.read_exact(&mut body).unwrap();
                head.extend(body);
            }
            Some(b'*' | b'~' | b'%') if number() > 0 => {
                let each = if head[0] == b'%' { 2 } else { 1 };
                let mut items: Vec<_> = (0..number() * each).map(|_| self.reply(false)).collect();
                if unordered {
                    items.sort();
                }
                head.extend(items.concat());
            }
            Some(_) => {}
            None => panic!("the connection ended"),
        }
        head
    }

    fn call(&mut self, line: &str) -> String {
        self.call_words(words(line))
    }

    fn call_words(&mut self, command: Words) -> String {
        self.send(&[command]);
        self.reply(false).escape_ascii().to_string()
    }
}

/// Verbs whose replies Redis orders by hash table.
const UNORDERED: &[&str] = &["smembers", "sinter", "sunion", "sdiff", "keys", "spop"];

/// One form a line: `K` a key of any type, `s` `h` `l` `t` `z` a key of mostly that type, `y` a sorted set whose
/// scores are equal (the others have no defined lexical ranges), `f` a field or member, `v` a
/// value, `i` an integer, `d` a decimal, `b` a score bound, `x` a lexical bound, `T` a time, mostly far ahead, `F` always; `a|b` one of.
const FORMS: &str = "\
get s;set s v;set s v NX|XX|GET|KEEPTTL;set s v PXAT|EXAT F;set s i;set s v EX i;set s v NX GET;setnx s v;setex s i v;\
psetex s 100000 v;getset s v;getdel s;getex s;getex s PERSIST;getex s PXAT|EXAT T;mget s s K;mset s v s i;\
mset s v s;msetnx s v s v;append s v;strlen s;getrange s i i;substr s i i;setrange s i v;incr s;decr s;incrby s i;\
decrby s i;incrbyfloat s d;hset h f v;hset h f v f v;hset h f v f;hmset h f v f v;hsetnx h f v;hget h f;hmget h f f;\
hgetall h;hkeys h;hvals h;hlen h;hexists h f;hstrlen h f;hdel h f;hdel h f f;hincrby h f i;hincrbyfloat h f d;\
hset h f i;hscan h 0;hscan h 0 MATCH a* COUNT i;hscan h v;lpush l v;rpush l v v i;lpushx l v;rpushx l v;lpop l;rpop l;\
lpop l i;rpop l i;llen l;lrange l i i;lindex l i;lset l i v;linsert l BEFORE|AFTER|x v v;lrem l i v;ltrim l i i;\
rpoplpush l l;lmove l l LEFT|RIGHT LEFT|RIGHT|x;lpos l v;lpos l v RANK i;lpos l v COUNT i;lpos l v MAXLEN i;\
lpos l v RANK i COUNT i MAXLEN i;lpop l 1 2;sadd t f f;sadd t i i;srem t f;smembers t;sismember t f;smismember t f i;\
scard t;smove t t f;sinter t t;sunion t t;sdiff t t t;sinterstore t t t;sunionstore t t t;sdiffstore t t t;\
spop t 0;srandmember t 0;spop t v;zadd z d f;zadd z i f i f;zadd z NX|XX|GT|LT|CH d f;zadd z CH GT|LT i f i f;\
zadd z INCR i f;zadd z NX GT i f;zadd z NX XX i f;zadd z v f;zincrby z d f;zincrby z inf|-inf f;zrem z f;zscore z f;\
zmscore z f f;zcard z;zrank z f;zrevrank z f;zrange z i i;zrange z i i WITHSCORES;zrange z b b BYSCORE;\
zrange z b b BYSCORE REV WITHSCORES;zrange z b b BYSCORE LIMIT i i;zrange y x x BYLEX;zrange y x x BYLEX REV;\
zrange z i i REV;zrange z i i LIMIT i i;zrange y x x BYLEX WITHSCORES;zrevrange z i i WITHSCORES;\
zrangebyscore z b b;zrangebyscore z b b WITHSCORES LIMIT i i;zrevrangebyscore z b b;zrangebylex z - +;\
zrevrangebylex z + -;zcount z b b;zremrangebyrank z i i;zremrangebyscore z b b;zpopmin z;zpopmax z;zpopmin z i;\
zpopmax z i;zscan z 0;zscan z 0 MATCH a*;zadd z i f i;zlexcount z - +;zadd y 0 f;zadd y 0 f 0 f 0 f;zlexcount y x x;zrangebylex y x x LIMIT i i;zrevrangebylex y x x;del K;unlink K K;exists K K;touch K;type K;\
rename K K;renamenx K K;copy K K;copy K K REPLACE;copy K K DB i;expire K i;pexpireat K T;expireat K T;\
pexpireat K T NX|XX|GT|LT;expireat K T NX GT;expireat K T GT LT;expireat K T v;pexpire K 100000;pexpire K hello;persist K;\
keys *;keys h*;dbsize;dump nokey;restore K 0 junk;restore K -1 junk REPLACE;scan nan;scan 0 COUNT 0;\
ping;ping v;ping v v;echo v;select i;nosuch v v;get;set s;client getname;client setname v;client nosuch;client id v;\
config nosuch;script nosuch;script exists v;evalsha v 0;eval v i;discard;exec;unwatch;flushall nosuch;\
zremrangebylex y [a (b;zrange y x x BYLEX LIMIT i i;set s v EX 100 PX 100;get s s;hset h f;type none";

fn pick<'a>(random: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    random.choice(from).unwrap()
}

fn key(random: &mut fastrand::Rng, kind: char) -> Vec<u8> {
    let kind = if kind == 'K' || kind != 'y' && random.u8(..20) == 0 {
        random.choice(['s', 'h', 'l', 't', 'z']).unwrap()
    } else {
        kind
    };
    format!("{kind}{}", random.u8(..4)).into_bytes()
}

fn word(random: &mut fastrand::Rng, form: &str) -> Vec<u8> {
    let text: &str = match form {
        "K" | "s" | "h" | "l" | "t" | "z" | "y" => return key(random, form.chars().next().unwrap()),
        "f" => pick(random, &["a", "b", "c", "aa", "1", "2", "10", ""]),
        "v" => pick(random, &["", "a", "hello", "10", "-3", "3.5", "\r\n", "01", "GET", "x y"]),
        "i" => pick(random, &["0", "1", "2", "3", "-1", "-2", "-100", "100", "nan", "7", "9223372036854775807"]),
        "d" => pick(random, &["0.1", "0.5", "-1.25", "3", "10.01", "1000000.1", "a", "-0.3"]),
        "b" => pick(random, &["-inf", "+inf", "(1", "2", "(0.5", "100", "a", "0", "inf"]),
        "x" => pick(random, &["-", "+", "[a", "(a", "[b", "(aa", "a"]),
        "F" => "33000000000000",
        "T" => pick(random, &["33000000000", "33000000001", "33000000000000", "1", "-5"]),
        _ => {
            let choices: Vec<&str> = form.split('|').collect();
            pick(random, &choices)
        }
    };
    text.as_bytes().to_vec()
}

fn random_command(random: &mut fastrand::Rng, forms: &[&str]) -> Words {
    let form = pick(random, forms);
    let mut parts = form.split(' ');
    let verb = parts.next().unwrap();
    let mut command = vec![verb.as_bytes().to_vec()];
    command.extend(parts.map(|form| word(random, form)));
    command
}

fn is_unordered(command: &Words) -> bool {
    UNORDERED.iter().any(|verb| command[0] == verb.as_bytes())
}

fn random_batch(random: &mut fastrand::Rng, forms: &[&str]) -> Vec<Words> {
    let mut batch: Vec<Words> = (0..random.usize(1..20)).map(|_| random_command(random, forms)).collect();
    if random.u8(..5) == 0 {
        // Redis judges a subcommand when it is queued, the embedded store when it runs.
        let container =
            |command: &Words| ["client", "config", "script"].iter().any(|verb| command[0] == verb.as_bytes());
        batch.retain(|command| !is_unordered(command) && !container(command));
        batch.insert(0, words("multi"));
        batch.push(words("exec"));
    }
    batch
}

/// The first command of a random run that is answered differently, with those before it.
fn first_difference(seed: u64, real: &RealServer, embedded: &Embedded, forms: &[&str]) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut ours, mut theirs) = (embedded.connect(), real.connect());
    assert_eq!(ours.call("flushall"), theirs.call("flushall"));
    if seed % 2 == 1 {
        ours.call("hello 3");
        theirs.call("hello 3");
    }
    let mut history = Vec::new();
    for _ in 0..25 {
        let batch = random_batch(&mut random, forms);
        ours.send(&batch);
        theirs.send(&batch);
        for command in &batch {
            history.push(shown(command));
            let (our, their) = (ours.reply(is_unordered(command)), theirs.reply(is_unordered(command)));
            if our != their {
                let last = history[history.len().saturating_sub(12)..].join("\n");
                let (our, their) = (our.escape_ascii(), their.escape_ascii());
                return Some(format!("seed {seed}, after\n{last}\n  ours  {our}\n  redis {their}"));
            }
        }
    }
    None
}

#[test]
fn random_commands_get_the_bytes_of_redis() {
    const SEEDS: u64 = 100;
    let Some(real) = RealServer::start() else { return };
    let embedded = Embedded::start(|server| server);
    let forms: Vec<&str> = FORMS.split(';').collect();
    let differences: Vec<_> = (0..SEEDS).filter_map(|seed| first_difference(seed, &real, &embedded, &forms)).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

const SCRIPTS: &[&str] = &[
    "return 1",
    "return {1, 2.9, 'a', false, true, {KEYS[1], ARGV[1]}, nil, 3}",
    "return redis.call('set', KEYS[1], ARGV[1])",
    "return redis.call('get', KEYS[1])",
    "return redis.call('lpush', KEYS[1], 'a')",
    "local x = 1\nreturn redis.call('lpush', KEYS[1], 'a')",
    "return redis.pcall('lpush', KEYS[1], 'a')",
    "return redis.pcall('lpush', KEYS[1], 'a').err",
    "local ok, e = pcall(redis.call, 'lpush', KEYS[1], 'a') return {tostring(ok), type(e), e}",
    "error('boo')",
    "error({err='MY error'})",
    "return x",
    "x = 1",
    "redis.call = 1",
    "string.x = 1",
    "return (",
    "return {err='MY error'}",
    "return redis.error_reply('MY error')",
    "return redis.error_reply('-MY error')",
    "return redis.status_reply('FINE')",
    "return redis.call()",
    "return redis.call('nosuch')",
    "return redis.call('get')",
    "return redis.call('get', {})",
    "return redis.call('eval', 'return 1', 0)",
    "return redis.call('multi')",
    "local t = {} return t.x.y",
    "return redis.call('set', KEYS[1], 0.1)",
    "return {redis.call('set', KEYS[1], 1e17), redis.call('get', KEYS[1]), redis.call('set', KEYS[1], 3)}",
    "return redis.sha1hex('')",
    "return redis.call('hgetall', KEYS[2])",
    "redis.call('hset', KEYS[2], 'a', 1, 'b', 2) return redis.call('hgetall', KEYS[2])",
    "redis.call('zadd', KEYS[3], 1.5, 'a') return redis.call('zrange', KEYS[3], 0, -1, 'withscores')",
    "return redis.call('zscore', KEYS[3], 'a')",
    "redis.setresp(3) local r = redis.call('zscore', KEYS[3], 'a') return {type(r), r.double * 2, r}",
    "redis.setresp(3) return {type(redis.call('get', 'none')), redis.call('hgetall', KEYS[2]).map.a}",
    "redis.setresp(3) redis.call('sadd', 'set', 'a') return {redis.call('smembers', 'set').set.a, 1}",
    "redis.setresp(3) redis.call('sadd', 'set', 'a') return redis.call('smembers', 'set')",
    "redis.setresp(2) return redis.call('zscore', KEYS[3], 'a')",
    "return redis.call('zscore', KEYS[3], 'a')",
    "redis.setresp(4)",
    "return redis.call('mget', KEYS[1], KEYS[2], 'none')",
    "local v = redis.call('get', 'none') if v == false then return 'missing' end",
    "return {redis.call('ping'), redis.call('type', KEYS[1]).ok}",
    "return tostring(redis.call('incr', 'n'))",
    "return redis.call('incr', 'n') + 0.7",
    "return {string.byte('abc', 1, -1), ('x'):rep(3), string.format('%d', 3), math.floor(2.5), #ARGV, unpack(KEYS)}",
    "local t = {} for k in pairs({a=1}) do t[#t+1] = k end table.sort(t) return table.concat(t, ',')",
    "return {pcall(error, 'x')}",
    "local found = redis.call('MGET', KEYS[1]..'v', KEYS[1]..'r') \
     if found[2] and found[2] >= ARGV[1] then return {0, found[2]} end \
     redis.call('MSET', KEYS[1]..'v', 'new', KEYS[1]..'r', ARGV[1]) return {1, found[1], string.sub(ARGV[1], 2, 3)}",
    "return {redis.call('set', 'b', '\\0\\255\\r\\n'), redis.call('get', 'b'), '\\0a' < '\\0b', #redis.call('get', 'b')}",
    "local t = redis.call('TIME') return {#t, tonumber(t[1]) > 1700000000}",
    "redis.call('set', KEYS[1], 'x') redis.call('pexpireat', KEYS[1], ARGV[2] or 33000000000000) \
     return {redis.call('pexpiretime', KEYS[1]), redis.call('pttl', 'none'), redis.call('ttl', 'b')}",
    "redis.call('pexpireat', KEYS[1], 33000000000000) return redis.call('pexpiretime', KEYS[1])",
    "local d = redis.call('dump', KEYS[2]) redis.call('restore', 'r', 33000000000000, d, 'ABSTTL', 'REPLACE') \
     return {redis.call('hgetall', 'r'), redis.call('pexpiretime', 'r')}",
];

#[test]
fn scripts_answer_as_in_redis() {
    let Some(real) = RealServer::start() else { return };
    let embedded = Embedded::start(|server| server);
    let (mut ours, mut theirs) = (embedded.connect(), real.connect());
    for verb in ["eval", "eval_ro"] {
        for script in SCRIPTS {
            let command: Words =
                [verb, script, "3", "k", "h", "z", "value"].iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(ours.call_words(command.clone()), theirs.call_words(command), "{script}");
        }
    }
    for line in [
        "script load return",
        "script exists e0e1f9fabfc9d4800c877a703b823ac0578ff8db e0e1",
        "evalsha E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0",
        "script flush nosuch",
        "script flush",
        "evalsha e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0",
        "eval x 1",
        "eval x -1",
        "eval x a",
        "script load",
    ] {
        assert_eq!(ours.call(line), theirs.call(line), "{line}");
    }
}

#[test]
fn watch_aborts_as_in_redis() {
    let Some(real) = RealServer::start() else { return };
    let embedded = Embedded::start(|server| server);
    let (mut ours, mut theirs) = (embedded.connect(), real.connect());
    let (mut our_other, mut their_other) = (embedded.connect(), real.connect());
    let mut check = |line: &str| {
        if let Some(line) = line.strip_prefix("other: ") {
            assert_eq!(our_other.call(line), their_other.call(line), "{line}");
        } else {
            assert_eq!(ours.call(line), theirs.call(line), "{line}");
        }
    };
    for line in [
        "set k 1",
        "watch k none",
        "multi",
        "get k",
        "multi",
        "watch k",
        "exec",
        "watch k",
        "other: set k 2",
        "multi",
        "get k",
        "exec",
        "watch none",
        "other: set none 1",
        "multi",
        "ping",
        "exec",
        "watch k",
        "other: set k 3",
        "unwatch",
        "multi",
        "get k",
        "exec",
        "watch k",
        "other: get k",
        "multi",
        "incr k",
        "exec",
        "multi",
        "nosuch",
        "get k",
        "exec",
        "multi",
        "get",
        "exec",
        "multi",
        "discard",
        "exec",
        "discard",
        "watch k",
        "other: del k",
        "multi",
        "reset",
        "exec",
    ] {
        check(line);
    }
}

#[test]
fn expiry_is_told_as_in_redis() {
    let Some(real) = RealServer::start() else { return };
    let embedded = Embedded::start(|server| server);
    let (mut ours, mut theirs) = (embedded.connect(), real.connect());
    for line in [
        "set k v PXAT 33000000000499",
        "expiretime k",
        "pexpiretime k",
        "set k v KEEPTTL",
        "pexpiretime k",
        "append k w",
        "pexpiretime k",
        "incr n",
        "expireat n 33000000000",
        "incr n",
        "pexpiretime n",
        "rename n m",
        "pexpiretime m",
        "copy m o",
        "pexpiretime o",
        "getset o 1",
        "ttl o",
        "pttl none",
        "expiretime o",
        "pexpiretime none",
        "getex m PERSIST",
        "ttl m",
        "set k v",
        "ttl k",
        "pexpireat k 1",
        "exists k",
        "set k v EXAT 1",
        "get k",
    ] {
        assert_eq!(ours.call(line), theirs.call(line), "{line}");
    }
}

#[test]
fn protocol_errors_end_the_connection_with_redis_s_words() {
    let Some(real) = RealServer::start() else { return };
    let embedded = Embedded::start(|server| server);
    let inputs = [
        "PING\r\nPING x\r\nQUIT\r\n",
        "*0\r\n*-1\r\n\r\n*1\r\n$4\r\nPING\r\nQUIT\r\n",
        "*1\r\n:1\r\n",
        "*x\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$04\r\n",
        "*1\r\n$536870913\r\n",
        "*2\r\n$3\r\nGET\r\n+a\r\n",
        "ECHO \"a b\"\r\nQUIT\r\n",
        "ECHO \"a\r\n",
    ];
    for input in inputs {
        let ends = |stream: &mut dyn ReadWrite| {
            stream.write_all(input.as_bytes()).unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).unwrap();
            reply.escape_ascii().to_string()
        };
        let (mut ours, mut theirs) = (embedded.connect(), real.connect());
        assert_eq!(ends(ours.stream.get_mut()), ends(theirs.stream.get_mut()), "{input:?}");
    }
}

trait ReadWrite: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> ReadWrite for T {}

#[test]
fn a_runaway_script_ends_and_the_store_goes_on() {
    let embedded = Embedded::start(|server| server);
    let mut client = embedded.connect();
    for script in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local function f() return pcall(f) end while true do f() end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} t[1] = t return t",
        "local s = ('x'):rep(1000000) local t = {} for i = 1, 1000 do t[i] = s end return t",
        "return tostring(setmetatable({}, {__tostring = function(t) return tostring(t) end}))",
    ] {
        let command: Words = ["eval", script, "0"].iter().map(|word| word.as_bytes().to_vec()).collect();
        let reply = client.call_words(command);
        assert!(reply.starts_with("-ERR"), "{script}: {reply}");
        assert_eq!(client.call("ping"), "+PONG\\r\\n");
    }
    assert_eq!(client.call("eval return{pcall(error)} 0"), "*1\\r\\n$-1\\r\\n");
}

#[test]
fn above_the_memory_cap_only_what_adds_data_fails() {
    let embedded = Embedded::start(|server| server.with_memory_bytes_max(10_000));
    let mut client = embedded.connect();
    let value = "v".repeat(20_000);
    assert_eq!(client.call(&format!("set k {value}")), "+OK\\r\\n");
    let oom = "-OOM command not allowed when used memory > \\'maxmemory\\'.\\r\\n";
    assert_eq!(client.call("set other 1"), oom);
    assert!(client.call("eval return(redis.pcall('set','other','1')) 0").starts_with("-OOM"));
    assert_eq!(client.call("strlen k"), ":20000\\r\\n");
    assert_eq!(client.call("del k"), ":1\\r\\n");
    assert_eq!(client.call("set other 1"), "+OK\\r\\n");
    assert_eq!(client.call("setrange other 500000000 x"), oom);
}
