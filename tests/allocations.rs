//! The hot path makes no allocation per request in the steady state: the real server on its own threads in this process,
//! real stores behind it, an allocator that counts.
//!
//! Counted are all threads of the server: workers, control, the file's watcher. The client's thread says that it is not
//! to be counted. One thing is left that is not a request's: each node's look at the clock while something is in flight,
//! twenty times a second; [`PER_SECOND`] is about twice that.
//!
//! `QUOIT_ALLOCATIONS_SHOWN=5` prints the backtraces of the first five that each case counts.

#![expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one counts and hands on to the system's")]
#![expect(clippy::disallowed_methods, reason = "real sockets and processes live in real time; waits have deadlines")]
#![expect(clippy::print_stderr, reason = "a skipped test says so, the others their figures")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of each case, after as many to warm up.
const REQUESTS: usize = 20_000;
const CONNECTIONS: usize = 4;
/// Allocations that time makes, for each second: three nodes, two workers, twenty looks at the clock, one list each.
const PER_SECOND: u64 = 300;
/// The same in a window that is hardly any time at all: a few of each timer.
const AT_LEAST: u64 = 60;

/// The same for a pool with several copies: each worker looks every ten milliseconds whether a read takes too long, which
/// is a task, and once a second at the fences of the stores. About twice that again.
const PER_SECOND_REPLICATED: u64 = 1_000;

/// Verb and pipeline. `MGET` and `EXISTS` have ten keys, on all nodes: they are split and merged.
const CASES: [(&str, usize); 10] = [
    ("GET", 1),
    ("SET", 1),
    ("MGET", 1),
    ("EXISTS", 1),
    ("GET", 64),
    ("SET", 64),
    ("MGET", 16),
    ("MSET", 16),
    ("EXISTS", 64),
    ("MGET", 64),
];
/// The same with three copies of each key: what needs one round. The increment is by zero, so that its reply is always
/// the same; each connection has keys of its own, so that they are its worker's.
const REPLICATED_CASES: [(&str, usize); 6] =
    [("GET", 1), ("SET", 1), ("INCRBY", 1), ("GET", 64), ("SET", 64), ("INCRBY", 64)];

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Backtraces that are still to be shown.
static SHOWN: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Without a destructor and without an allocation of its own, so that the allocator may look at it.
    static COUNTED: Cell<bool> = const { Cell::new(true) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn count() {
        if !COUNTED.get() {
            return;
        }
        ALLOCATIONS.fetch_add(1, Relaxed);
        if SHOWN.load(Relaxed) > 0 && SHOWN.fetch_sub(1, Relaxed) > 0 {
            COUNTED.set(false); // What a backtrace allocates is not ours.
            eprintln!("{}", Backtrace::force_capture());
            COUNTED.set(true);
        }
    }
}

// SAFETY: every method hands its arguments to `System` as they came; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A `redis-server` that ends with its value.
struct Store(Child);

impl Drop for Store {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => {
                stream.set_nodelay(true).expect("an option of TCP");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "connect to {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start_store(directory: &std::path::Path) -> std::io::Result<(Store, u16)> {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let child = command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let store = Store(child);
    exchange(&mut connect(port), b"PING\r\n", b"+PONG\r\n");
    Ok((store, port))
}

/// Starts a server on threads of this process, with so many copies of each key. It serves until the process ends.
fn start_quoit(directory: &std::path::Path, store_ports: &[u16], copies: usize) -> u16 {
    let port = free_port();
    // The log of slow requests is on and nothing is slow: an entry would be an allocation, on a machine that is busy.
    let mut text = format!(
        "[proxy]\nworkers = 2\nslowlog_us = 86_400_000_000\n[admin]\nbind = \"off\"\n\
         [[listener]]\nbind = \"127.0.0.1:{port}\"\n\
         protocol = \"redis\"\npool = \"main\"\n[[pool]]\nname = \"main\"\nprotocol = \"redis\"\nreplicas = {copies}\n"
    );
    for (number, store_port) in store_ports.iter().enumerate() {
        write!(text, "[[pool.node]]\nname = \"node-{number}\"\naddress = \"127.0.0.1:{store_port}\"\n")
            .expect("a string grows");
    }
    let path = directory.join(format!("copies-{copies}.toml"));
    std::fs::write(&path, text).expect("the file can be written");
    std::thread::spawn(move || quoit::server::serve(&path).expect("it serves"));
    port
}

/// Waits until the server serves: the stores of a pool with several copies have to become members first.
fn wait_until_served(client: &mut TcpStream) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.write_all(b"SET begun 1\r\n").expect("the peer takes the bytes");
        let mut got = [0; 512];
        let len = client.read(&mut got).expect("a reply comes");
        if got.starts_with(b"+OK") {
            return;
        }
        assert!(Instant::now() < deadline, "{}", got.get(..len).unwrap_or_default().escape_ascii());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn exchange(client: &mut TcpStream, requests: &[u8], replies: &[u8]) {
    client.write_all(requests).expect("the peer takes the bytes");
    let mut got = vec![0; replies.len()];
    client.read_exact(&mut got).expect("the replies come");
    assert!(got == replies, "{} instead of {}", got.escape_ascii(), replies.escape_ascii());
}

/// Requests that are sent in one write, and their replies.
struct Batch {
    requests: Vec<u8>,
    replies: Vec<u8>,
    count: usize,
}

/// How often a case is looked at that allocates too much.
const LOOKS: usize = 4;

const VALUE: &str = "0123456789abcdef0123456789abcdef";

fn words(out: &mut Vec<u8>, words: &[String]) {
    write!(out, "*{}\r\n", words.len()).expect("a vector grows");
    for word in words {
        write!(out, "${}\r\n{word}\r\n", word.len()).expect("a vector grows");
    }
}

/// `depth` requests of one verb over keys of all nodes, which are called `prefix:…`.
fn batch(verb: &str, depth: usize, prefix: &str) -> Batch {
    let mut batch = Batch { requests: Vec::new(), replies: Vec::new(), count: depth };
    for number in 0..depth {
        let key = |offset: usize| format!("{prefix}:{}", (number + offset) % 100);
        let mut request = vec![verb.to_owned()];
        match verb {
            "GET" => request.push(key(0)),
            "INCRBY" => request.extend([format!("n:{}", key(0)), "0".to_owned()]),
            "SET" => request.extend([key(0), VALUE.to_owned()]),
            "MSET" => request.extend((0..10).flat_map(|offset| [key(offset), VALUE.to_owned()])),
            _ => request.extend((0..10).map(key)),
        }
        words(&mut batch.requests, &request);
        match verb {
            "GET" => write!(batch.replies, "$32\r\n{VALUE}\r\n"),
            "SET" | "MSET" => write!(batch.replies, "+OK\r\n"),
            "INCRBY" => write!(batch.replies, ":0\r\n"),
            "MGET" => write!(batch.replies, "*10\r\n{}", format!("$32\r\n{VALUE}\r\n").repeat(10)),
            _ => write!(batch.replies, ":10\r\n"),
        }
        .expect("a vector grows");
    }
    batch
}

/// A client and what it asks, again and again.
struct Asker {
    client: TcpStream,
    batch: Batch,
}

/// Serves one batch after the other to every connection until `requests` were answered.
fn run(askers: &mut [Asker], requests: usize) {
    let mut answered = 0;
    while answered < requests {
        for Asker { client, batch } in &mut *askers {
            exchange(client, &batch.requests, &batch.replies);
            answered += batch.count;
        }
    }
}

/// Counts what a case allocates when it is warm; says so if that is more than time alone makes, each time that it is
/// looked at: what a request allocates comes every time, and what a machine that is busy with others adds does not.
fn check(name: &str, askers: &mut [Asker], per_second: u64, shown: i64) -> Option<String> {
    run(askers, REQUESTS);
    let mut fault = None;
    for _ in 0..LOOKS {
        let (begun, before) = (Instant::now(), ALLOCATIONS.load(Relaxed));
        SHOWN.store(shown, Relaxed);
        run(askers, REQUESTS);
        SHOWN.store(0, Relaxed);
        let (elapsed, counted) = (begun.elapsed(), ALLOCATIONS.load(Relaxed) - before);
        let allowed = AT_LEAST + per_second * u64::try_from(elapsed.as_millis()).expect("a short time") / 1_000;
        eprintln!("{name}: {counted} allocations, {allowed} allowed, in {elapsed:?}");
        if counted <= allowed {
            return None;
        }
        fault = Some(format!("{name}: {counted} allocations for {REQUESTS} requests"));
    }
    fault
}

#[test]
fn no_allocation_per_request() {
    COUNTED.set(false);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let stores: std::io::Result<Vec<_>> = (0..6).map(|_| start_store(directory.path())).collect();
    let Ok(stores) = stores else {
        eprintln!("skip: redis-server is not installed");
        return;
    };
    let ports: Vec<u16> = stores.iter().map(|(_, port)| *port).collect();
    let shown = std::env::var("QUOIT_ALLOCATIONS_SHOWN").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut faults = Vec::new();
    // One server after the other, each on stores of its own: the first is idle while the second is looked at.
    for ((copies, cases, per_second), ports) in
        [(1, CASES.as_slice(), PER_SECOND), (3, &REPLICATED_CASES, PER_SECOND_REPLICATED)].iter().zip(ports.chunks(3))
    {
        let port = start_quoit(directory.path(), ports, *copies);
        wait_until_served(&mut connect(port));
        let prefix = |number: usize| if *copies == 1 { "key".to_owned() } else { format!("key:{number}") };
        let mut askers: Vec<_> = (0..CONNECTIONS)
            .map(|number| Asker { client: connect(port), batch: batch("SET", 100, &prefix(number)) })
            .collect();
        run(&mut askers, 1_000);
        for (verb, depth) in *cases {
            for (number, asker) in askers.iter_mut().enumerate() {
                asker.batch = batch(verb, *depth, &prefix(number));
            }
            faults.extend(check(
                &format!("{verb}, pipeline {depth}, copies {copies}"),
                &mut askers,
                *per_second,
                shown,
            ));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
