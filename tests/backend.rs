//! Calls to stores as a coordinator of replicas makes them: transactions, sinks that are shared and that send from
//! within a reply, scripts that a connection loads. In front of a real redis-server, or of a store that does what the
//! test tells it. Without a redis-server on the PATH the tests that need one say so and pass.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test may end it")]

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quoit::backend::redis::{BreakerOptions, Node, NodeOptions};
use quoit::backend::{Backend, Cause, Context, Flow, Limits, Piece, ReplySink, Stores, Tag, Wake};
use quoit::config::Address;
use quoit::metrics::Metrics;
use quoit::protocol::resp::{Version, write_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server on a Unix socket in a directory of its own; ends with this value.
struct RealServer {
    child: Child,
    directory: tempfile::TempDir,
}

impl RealServer {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
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

    fn address(&self) -> Address {
        Address::Unix(self.directory.path().join("socket"))
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// What a sink was told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Reply(Tag, String),
    Failed(Tag, &'static str, String),
}

impl Told {
    fn reply(slot: u32, part: u32, reply: &str) -> Self {
        Self::Reply(Tag { slot, part }, reply.to_owned())
    }
}

type Answer = Box<dyn Fn(&Rc<Sink>, &Told)>;

/// Keeps what it is told, and does what the test wants to be done then.
#[derive(Default)]
struct Sink {
    told: RefCell<Vec<Told>>,
    begun: RefCell<Vec<(Tag, Vec<u8>)>>,
    pieces: Cell<u32>,
    /// So many pieces are answered with a pause.
    pauses: Cell<u32>,
    answer: RefCell<Option<Answer>>,
}

impl ReplySink for Sink {
    fn reply(self: Rc<Self>, tag: Tag, piece: Piece<'_>) -> Flow {
        self.pieces.set(self.pieces.get() + 1);
        let mut begun = self.begun.borrow_mut();
        let place = begun.iter().position(|(other, _)| *other == tag);
        let told = match (piece, place) {
            (Piece::Whole(bytes), None) => Told::Reply(tag, String::from_utf8_lossy(bytes).into_owned()),
            (Piece::Begin(bytes), None) => {
                begun.push((tag, bytes.to_vec()));
                return self.pause();
            }
            (Piece::More(bytes), Some(place)) => {
                begun.get_mut(place).unwrap().1.extend_from_slice(bytes);
                return self.pause();
            }
            (Piece::End(bytes), Some(place)) => {
                let (_, mut whole) = begun.swap_remove(place);
                whole.extend_from_slice(bytes);
                Told::Reply(tag, String::from_utf8_lossy(&whole).into_owned())
            }
            (Piece::Failed(failure), _) => Told::Failed(tag, name(&failure.cause), failure.cause.to_string()),
            (piece, place) => panic!("{piece:?} for {tag:?} at {place:?}"),
        };
        drop(begun);
        self.told.borrow_mut().push(told.clone());
        if let Some(answer) = self.answer.borrow().as_ref() {
            answer(&self, &told);
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Sink {
    fn new() -> Rc<Self> {
        Rc::default()
    }

    /// One that answers what it is told.
    fn answering(answer: impl Fn(&Rc<Self>, &Told) + 'static) -> Rc<Self> {
        Rc::new(Self { answer: RefCell::new(Some(Box::new(answer))), ..Self::default() })
    }

    fn pause(&self) -> Flow {
        let left = self.pauses.get();
        self.pauses.set(left.saturating_sub(1));
        if left > 0 { Flow::Pause } else { Flow::Continue }
    }

    /// What it was told, once that is so much.
    async fn told(&self, count: usize) -> Vec<Told> {
        until(|| self.told.borrow().len() >= count).await;
        self.told.borrow().clone()
    }
}

fn name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Connect(_) => "connect",
        Cause::BreakerOpen(_) => "breaker",
        Cause::QueueTimeout(_) => "queue",
        Cause::Overloaded => "overloaded",
        Cause::Behind => "behind",
        Cause::ServiceTimeout(_) => "service",
        Cause::Unsent(_) => "unsent",
        Cause::Broken(_) => "broken",
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("what the test waits for comes");
}

/// One worker's world.
struct World {
    context: Rc<Context>,
    stores: Stores,
    metrics: Arc<Metrics>,
}

impl World {
    fn node(&self, name: &str, address: Address, configure: impl FnOnce(&mut NodeOptions)) -> Rc<Node> {
        let mut options = NodeOptions {
            name: name.to_owned(),
            label: format!("{name} ({address})").into(),
            address,
            tls: None,
            credentials: None,
            database: 0,
            scripts: Arc::default(),
            connect_timeout: PATIENCE,
            queue_timeout: PATIENCE,
            service_timeout: PATIENCE,
            queue_bytes_max: 64 * 1024 * 1024,
            in_flight_max: 10_000,
            exclusive_connections_max: 4,
            stream_threshold_bytes: 256 * 1024,
            breaker: BreakerOptions {
                failures: 10,
                backoff_min: Duration::from_millis(10),
                backoff_max: Duration::from_millis(20),
                ramp: Duration::from_millis(1),
            },
        };
        configure(&mut options);
        let cells = self.metrics.node("main", name);
        Node::start(options, Rc::clone(&self.context), cells)
    }

    fn send(&self, node: &Rc<Node>, version: Version, sink: &Rc<Sink>, tag: (u32, u32), request: &str) {
        send(&self.stores, node, version, sink, tag, request).unwrap();
    }

    fn transaction(&self, node: &Rc<Node>, version: Version, sink: &Rc<Sink>, tag: (u32, u32), requests: &[&str]) {
        let sink: Rc<dyn ReplySink> = Rc::<Sink>::clone(sink);
        let tag = Tag { slot: tag.0, part: tag.1 };
        let count = u32::try_from(requests.len()).unwrap();
        let mut write = |out: &mut Vec<u8>| requests.iter().for_each(|request| append(out, request));
        self.stores.send_transaction(node, 100, count, &mut write, version, &sink, tag).unwrap();
    }
}

fn send(
    stores: &Stores,
    node: &Rc<Node>,
    version: Version,
    sink: &Rc<Sink>,
    (slot, part): (u32, u32),
    request: &str,
) -> Result<(), Cause> {
    let sink: Rc<dyn ReplySink> = Rc::<Sink>::clone(sink);
    stores.send(node, request.len(), &mut |out| append(out, request), version, &sink, Tag { slot, part })
}

fn append(out: &mut Vec<u8>, request: &str) {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    write_request(out, words.into_iter());
}

/// Runs a test on one thread, as a worker does.
fn run<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let limits = Limits { connects_per_second_max: 1_000, buffer_bytes_max: usize::MAX };
        let context = Rc::new(Context::new(limits));
        test(World { stores: Stores::new(Rc::clone(&context)), context, metrics: Metrics::new() }).await;
    });
}

/// One connection to a store that does what the test says.
struct Script {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Script {
    /// Accepts a connection and answers its greeting.
    async fn accept(listener: &TcpListener, version: Version) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut script = Self { stream, got: Vec::new() };
        script.expect("$4\r\nPING\r\n").await;
        script.say(if version == Version::Resp3 { "%0\r\n+OK\r\n+PONG\r\n" } else { "+OK\r\n+PONG\r\n" }).await;
        script
    }

    /// Reads until what was read ends in `end`.
    async fn expect(&mut self, end: &str) {
        while !self.got.ends_with(end.as_bytes()) {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.got)).await;
            assert!(read.unwrap().unwrap() > 0, "closed before {end:?}");
        }
        self.got.clear();
    }

    async fn say(&mut self, reply: &str) {
        self.stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

async fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Address::Tcp { host: "127.0.0.1".to_owned(), port })
}

const EXEC: &str = "*1\r\n$4\r\nEXEC\r\n";

#[test]
fn a_transaction_gives_its_last_reply() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |_| {});
        for version in [Version::Resp2, Version::Resp3] {
            let sink = Sink::new();
            world.send(&node, version, &sink, (1, 0), "SET key value");
            world.transaction(&node, version, &sink, (2, 7), &["MULTI", "MGET key key", "GET key", "EXEC"]);
            world.send(&node, version, &sink, (3, 0), "GET key");
            let want = [
                Told::reply(1, 0, "+OK\r\n"),
                Told::reply(2, 7, "*2\r\n*2\r\n$5\r\nvalue\r\n$5\r\nvalue\r\n$5\r\nvalue\r\n"),
                Told::reply(3, 0, "$5\r\nvalue\r\n"),
            ];
            assert_eq!(sink.told(3).await, want);
        }
    });
}

#[test]
fn the_first_error_while_commands_are_queued_is_the_reply() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |_| {});
        let sink = Sink::new();
        world.transaction(&node, Version::Resp2, &sink, (1, 0), &["MULTI", "GET", "NOSUCH a", "SET k v", "EXEC"]);
        world.send(&node, Version::Resp2, &sink, (2, 0), "EXISTS k");
        // An error while it runs is part of the reply of `EXEC`.
        world.transaction(&node, Version::Resp2, &sink, (3, 0), &["MULTI", "SET k v", "LPUSH k v", "EXEC"]);
        let told = sink.told(3).await;
        let wrong_type = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
        let want = [
            Told::reply(1, 0, "-ERR wrong number of arguments for 'get' command\r\n"),
            Told::reply(2, 0, ":0\r\n"),
            Told::reply(3, 0, &format!("*2\r\n+OK\r\n{wrong_type}")),
        ];
        assert_eq!(told, want);
    });
}

#[test]
fn a_big_transaction_comes_in_pieces() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |_| {});
        let sink = Sink::new();
        let value = "x".repeat(3_000_000);
        world.send(&node, Version::Resp2, &sink, (1, 0), &format!("SET key {value}"));
        assert_eq!(sink.told(1).await, [Told::reply(1, 0, "+OK\r\n")]);
        sink.pauses.set(2);
        world.transaction(&node, Version::Resp2, &sink, (2, 0), &["MULTI", "GET key", "EXEC"]);
        let told = sink.told(2).await;
        assert!(told.last() == Some(&Told::reply(2, 0, &format!("*1\r\n$3000000\r\n{value}\r\n"))), "another reply");
        assert!(sink.pieces.get() > 5 && sink.pauses.get() == 0, "{} pieces", sink.pieces.get());
        // A big reply that only precedes the one that is waited for is dropped.
        world.transaction(&node, Version::Resp2, &sink, (3, 0), &["GET key", "GET key", "PING"]);
        assert_eq!(sink.told(3).await.last(), Some(&Told::reply(3, 0, "+PONG\r\n")));
    });
}

#[test]
fn one_sink_has_many_requests_on_many_nodes() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let nodes = ["a", "b", "c"].map(|name| world.node(name, server.address(), |_| {}));
        let sink = Sink::new();
        for (part, node) in (0..).zip(&nodes) {
            for slot in 0..50 {
                world.send(node, Version::Resp2, &sink, (slot, part), &format!("ECHO {slot}:{part}"));
            }
        }
        let told = sink.told(150).await;
        for part in 0..3 {
            let of_node = told.iter().filter(|told| matches!(told, Told::Reply(tag, _) if tag.part == part));
            let want: Vec<Told> = (0..50)
                .map(|slot| {
                    let text = format!("{slot}:{part}");
                    Told::reply(slot, part, &format!("${}\r\n{text}\r\n", text.len()))
                })
                .collect();
            assert!(of_node.eq(&want), "in the order of the requests");
        }
        assert_eq!(told.len(), 150);
        assert!(nodes.iter().all(|node| world.stores.is_available(node) && node.generation() == 1));
        assert_eq!(nodes.each_ref().map(|node| world.stores.name(node)), ["a", "b", "c"]);
    });
}

#[test]
fn a_sink_may_send_from_within_a_reply() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let [first, second] = ["a", "b"].map(|name| world.node(name, server.address(), |_| {}));
        let stores = world.stores.clone();
        let other = Rc::clone(&second);
        let node = Rc::clone(&first);
        // Each reply sends two more, one to the node that it came from, until the ninth generation.
        let sink = Sink::answering(move |sink, told| {
            let Told::Reply(Tag { slot, part: _ }, _) = told else { panic!("{told:?}") };
            if *slot < 9 {
                for (part, node) in [(0, &node), (1, &other)] {
                    send(&stores, node, Version::Resp2, sink, (slot + 1, part), "INCR count").unwrap();
                }
            }
        });
        world.send(&first, Version::Resp2, &sink, (1, 0), "INCR count");
        let told = sink.told(511).await;
        assert_eq!(told.len(), 511);
        let mut counts: Vec<String> = told.iter().map(|told| format!("{told:?}")).collect();
        counts.sort_unstable();
        counts.dedup();
        assert_eq!(counts.len(), 511, "each was executed once");
    });
}

#[test]
fn a_failure_is_told_once_and_may_be_answered_by_sending() {
    run(async |world| {
        let (listener, address) = listen().await;
        let node = world.node("a", address, |_| {});
        let stores = world.stores.clone();
        let again = Rc::clone(&node);
        let sink = Sink::answering(move |sink, told| {
            if let Told::Failed(Tag { slot, .. }, ..) = told {
                send(&stores, &again, Version::Resp2, sink, (slot + 10, 0), "GET again").unwrap();
            }
        });
        let mut script = Script::accept(&listener, Version::Resp2).await;
        world.transaction(&node, Version::Resp2, &sink, (1, 0), &["MULTI", "GET key", "EXEC"]);
        world.send(&node, Version::Resp2, &sink, (2, 0), "GET last");
        script.expect("last\r\n").await;
        script.say("+OK\r\n-ERR no\r\n").await;
        assert_eq!(sink.told(1).await, [Told::reply(1, 0, "-ERR no\r\n")]);
        drop(script); // The transaction has had its reply; the other request fails, and is answered by another.
        let mut script = Script::accept(&listener, Version::Resp2).await;
        script.expect("again\r\n").await;
        script.say("+again\r\n").await;
        let told = sink.told(3).await;
        assert!(matches!(told.get(1), Some(Told::Failed(Tag { slot: 2, .. }, "broken", _))), "{told:?}");
        assert_eq!(told.get(2..).unwrap(), [Told::reply(12, 0, "+again\r\n")]);
        assert_eq!(node.generation(), 2);
    });
}

#[test]
fn a_transaction_without_its_last_reply_fails_once() {
    run(async |world| {
        let (listener, address) = listen().await;
        let node = world.node("a", address, |options| options.service_timeout = Duration::from_millis(200));
        let stores = world.stores.clone();
        let again = Rc::clone(&node);
        let sink = Sink::answering(move |sink, told| {
            if matches!(told, Told::Failed(Tag { slot: 1, .. }, "service", _)) {
                send(&stores, &again, Version::Resp2, sink, (2, 0), "GET again").unwrap();
            }
        });
        let mut late = Script::accept(&listener, Version::Resp2).await;
        world.transaction(&node, Version::Resp2, &sink, (1, 0), &["MULTI", "GET key", "EXEC"]);
        late.expect(EXEC).await;
        late.say("+OK\r\n+QUEUED\r\n").await;
        // What is sent when it is overdue goes to another connection: this one stands still.
        let mut script = Script::accept(&listener, Version::Resp2).await;
        script.expect("again\r\n").await;
        script.say("+again\r\n").await;
        let told = sink.told(2).await;
        assert!(matches!(told.first(), Some(Told::Failed(Tag { slot: 1, .. }, "service", _))), "{told:?}");
        assert_eq!(told.get(1..).unwrap(), [Told::reply(2, 0, "+again\r\n")]);
    });
}

#[test]
fn pushes_between_the_replies_of_a_transaction_are_dropped() {
    run(async |world| {
        let (listener, address) = listen().await;
        let node = world.node("a", address, |_| {});
        let sink = Sink::new();
        world.transaction(&node, Version::Resp3, &sink, (1, 0), &["MULTI", "GET key", "EXEC"]);
        let mut script = loop {
            // The node connects for the other version, too.
            let (stream, _) = listener.accept().await.unwrap();
            let mut script = Script { stream, got: Vec::new() };
            script.expect_greeting().await;
            if script.is_resp3() {
                break script;
            }
        };
        script.got.clear();
        script.say("%0\r\n+OK\r\n+PONG\r\n").await;
        script.expect(EXEC).await;
        for part in [">1\r\n+news\r\n+OK\r\n>1\r", "\n+news\r\n+QUEUED\r\n>1\r\n+news\r\n*1\r\n$1", "\r\nv\r\n"] {
            script.say(part).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(sink.told(1).await, [Told::reply(1, 0, "*1\r\n$1\r\nv\r\n")]);
    });
}

impl Script {
    async fn expect_greeting(&mut self) {
        while !self.got.ends_with(b"$4\r\nPING\r\n") {
            assert!(self.stream.read_buf(&mut self.got).await.unwrap() > 0, "closed in the greeting");
        }
    }

    fn is_resp3(&self) -> bool {
        self.got.windows(5).any(|word| word == b"HELLO")
    }
}

/// `SCRIPT LOAD` answers with the script's name.
#[test]
fn a_connection_loads_scripts_before_it_is_used() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let scripts: Arc<[Arc<str>]> = Arc::new(["return 'first'".into(), "return 'second'".into()]);
        let mut names = Vec::new();
        for script in scripts.iter() {
            let mut name = String::new();
            for byte in <sha1::Sha1 as sha1::Digest>::digest(script.as_bytes()) {
                write!(name, "{byte:02x}").unwrap();
            }
            names.push(name);
        }
        let node = world.node("a", server.address(), |options| options.scripts = scripts);
        for version in [Version::Resp2, Version::Resp3] {
            let sink = Sink::new();
            for (slot, name) in (0..).zip(&names) {
                world.send(&node, version, &sink, (slot, 0), &format!("EVALSHA {name} 0"));
            }
            let want = [Told::reply(0, 0, "$5\r\nfirst\r\n"), Told::reply(1, 0, "$6\r\nsecond\r\n")];
            assert_eq!(sink.told(2).await, want);
            world.send(&node, version, &sink, (2, 0), "SCRIPT FLUSH");
            assert_eq!(sink.told(3).await.last(), Some(&Told::reply(2, 0, "+OK\r\n")));
        }
    });
}

#[test]
fn a_store_that_takes_no_scripts_is_down() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let scripts: Arc<[Arc<str>]> = Arc::new(["this is no Lua".into()]);
        let node = world.node("a", server.address(), |options| options.scripts = scripts);
        let sink = Sink::new();
        world.send(&node, Version::Resp2, &sink, (1, 0), "PING");
        let told = sink.told(1).await;
        let Some(Told::Failed(_, "connect", why)) = told.first() else { panic!("{told:?}") };
        assert!(why.contains("SCRIPT LOAD answered: ERR Error compiling script"), "{why}");
        assert!(why.contains("a pool with replicas needs stores that run scripts"), "{why}");
        until(|| !world.stores.is_available(&node)).await;
        assert_eq!(node.generation(), 0);
        assert!(matches!(
            send(&world.stores, &node, Version::Resp2, &sink, (2, 0), "PING"),
            Err(Cause::BreakerOpen(_))
        ));
    });
}

struct Alarm {
    stores: Stores,
    rung: Cell<u32>,
}

impl Wake for Alarm {
    fn wake(self: Rc<Self>) {
        self.rung.set(self.rung.get() + 1);
        if self.rung.get() < 3 {
            let stores = self.stores.clone();
            stores.later(Duration::from_millis(1), self);
        }
    }
}

#[test]
fn a_timer_wakes_once_and_begins_a_batch_of_work() {
    run(async |world| {
        let alarm = Rc::new(Alarm { stores: world.stores.clone(), rung: Cell::new(0) });
        let before = (world.stores.now(), world.stores.wall_ms());
        world.stores.later(Duration::from_millis(5), Rc::<Alarm>::clone(&alarm));
        assert_eq!(alarm.rung.get(), 0, "not from within the call");
        until(|| alarm.rung.get() == 3).await;
        assert!(world.stores.now().since(before.0) >= Duration::from_millis(7));
        assert!(world.stores.wall_ms() > before.1);
        world.context.tasks.close();
        world.context.tasks.wait().await;
        assert_eq!(alarm.rung.get(), 3);
    });
}

/// Watched keys, a command that blocks for longer than any deadline, subscriptions: each has a connection to itself.
#[test]
fn an_exclusive_connection_remembers_for_one_client() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |options| options.service_timeout = Duration::from_millis(100));
        let others = Sink::new();
        let ask = async |exclusive: &quoit::backend::redis::Exclusive, request: &str| {
            let mut frame = Vec::new();
            append(&mut frame, request);
            String::from_utf8(exclusive.ask(&frame).await.unwrap()).unwrap()
        };

        // A watched key that somebody else writes voids the transaction.
        let watching = node.exclusive(Version::Resp2).unwrap();
        let id = ask(&watching, "CLIENT ID").await;
        assert_eq!(ask(&watching, "WATCH key").await, "+OK\r\n");
        world.send(&node, Version::Resp2, &others, (1, 0), "SET key other");
        others.told(1).await;
        assert_eq!(ask(&watching, "MULTI").await, "+OK\r\n");
        assert_eq!(ask(&watching, "EXEC").await, "*-1\r\n");
        watching.give_back();

        // The next one to need a connection gets that one; what blocks on it has no deadline.
        let blocking = node.exclusive(Version::Resp2).unwrap();
        assert_eq!(ask(&blocking, "CLIENT ID").await, id);
        let (sink, mut frame) = (Sink::new(), Vec::new());
        append(&mut frame, "BLPOP list 0");
        let waiting: Rc<dyn ReplySink> = Rc::<Sink>::clone(&sink);
        blocking.send_patiently(&frame, &waiting, Tag { slot: 5, part: 0 }).unwrap();
        // One that is sent later and has a deadline is given up first.
        let (hasty, late) = (node.exclusive(Version::Resp2).unwrap(), Sink::new());
        let given_up: Rc<dyn ReplySink> = Rc::<Sink>::clone(&late);
        hasty.send(&frame, &given_up, Tag { slot: 4, part: 0 }).unwrap();
        assert!(matches!(late.told(1).await.last(), Some(Told::Failed(Tag { slot: 4, part: 0 }, "service", _))));
        drop(hasty);
        assert_eq!(sink.told.borrow().len(), 0);
        world.send(&node, Version::Resp2, &others, (2, 0), "RPUSH list item");
        assert_eq!(sink.told(1).await, [Told::reply(5, 0, "*2\r\n$4\r\nlist\r\n$4\r\nitem\r\n")]);

        // One that is dropped is closed, and what waits there is told nothing.
        blocking.send_patiently(&frame, &waiting, Tag { slot: 6, part: 0 }).unwrap();
        drop(blocking);
        let mut left = String::new();
        while !left.contains("blocked_clients:0") {
            let asked = Sink::new();
            world.send(&node, Version::Resp2, &asked, (0, 0), "INFO clients");
            left = format!("{:?}", asked.told(1).await);
        }
        assert_eq!(sink.told.borrow().len(), 1);
    });
}

#[test]
fn pushes_of_any_length_reach_who_listens_and_so_does_the_end() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |_| {});
        let exclusive = node.exclusive(Version::Resp3).unwrap();
        let (sink, mut frame) = (Sink::new(), Vec::new());
        let listener: Rc<dyn ReplySink> = Rc::<Sink>::clone(&sink);
        exclusive.listen(&listener, Tag { slot: 9, part: 1 });
        append(&mut frame, "SUBSCRIBE news");
        // The confirmation is a push, and no reply follows.
        exclusive.send_push(&frame).unwrap();
        assert_eq!(sink.told(1).await, [Told::reply(9, 1, ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")]);
        let text = "x".repeat(3_000_000);
        sink.pauses.set(2);
        world.send(&node, Version::Resp2, &Sink::new(), (0, 0), &format!("PUBLISH news {text}"));
        let want = format!(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3000000\r\n{text}\r\n");
        assert!(sink.told(2).await.last() == Some(&Told::reply(9, 1, &want)), "another push");
        world.send(&node, Version::Resp2, &Sink::new(), (0, 0), "CLIENT KILL TYPE pubsub");
        assert!(matches!(sink.told(3).await.last(), Some(Told::Failed(Tag { slot: 9, part: 1 }, "broken", _))));
        assert!(exclusive.is_closed());
    });
}

#[test]
fn a_node_has_only_so_many_exclusive_connections() {
    let Some(server) = RealServer::start() else { return };
    run(async |world| {
        let node = world.node("a", server.address(), |_| {});
        let mut held: Vec<_> =
            (0..4).map(|at| node.exclusive([Version::Resp2, Version::Resp3][at % 2]).unwrap()).collect();
        assert!(matches!(node.exclusive(Version::Resp2), Err(Cause::Overloaded)));
        held.pop().unwrap().give_back();
        held.push(node.exclusive(Version::Resp2).unwrap());
        drop(held.pop());
        until(|| node.exclusive(Version::Resp2).is_ok()).await;
    });
}
