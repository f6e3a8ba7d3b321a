//! `quoit import` against the real thing: nutcracker and the ring of the imported file send each key to the same
//! server. The servers are sinks that answer any request with their own name.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, reason = "a test with its own clock")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quoit::config::{check_text, import};
use quoit::ring::Ring;

const DEADLINE: Duration = Duration::from_secs(20);
const KEYS: usize = 300;

/// Kills nutcracker, by its own id, however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("nutcracker is killed");
        self.0.wait().expect("nutcracker is gone");
    }
}

/// Answers every request on one connection with `name`. Requests here are `GET key`: three lines of five end it.
fn answer(connection: impl Read + Write, name: &str) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    loop {
        for _ in 0..5 {
            line.clear();
            if connection.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        // In one write: Nagle's algorithm would hold the second until the first is acknowledged.
        if connection.get_mut().write_all(format!("${}\r\n{name}\r\n", name.len()).as_bytes()).is_err() {
            return;
        }
    }
}

fn tcp_sink() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = address.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let name = name.clone();
            std::thread::spawn(move || answer(connection, &name));
        }
    });
    address
}

fn unix_sink(path: &std::path::Path) -> String {
    let listener = UnixListener::bind(path).unwrap();
    let address = path.to_str().unwrap().to_owned();
    let name = format!("unix:{address}");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let name = name.clone();
            std::thread::spawn(move || answer(connection, &name));
        }
    });
    address
}

/// Ports that nobody listens on, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Connects as soon as the port listens.
fn connect(address: &str) -> TcpStream {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "connect to {address}: {error}"),
        }
        std::thread::yield_now();
    }
}

/// The server that nutcracker asks for a key.
fn asked(stream: &mut BufReader<TcpStream>, key: &str) -> String {
    let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with('$'), "{line}");
    line.clear();
    stream.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn nutcracker_and_its_import_agree() {
    if Command::new("nutcracker").arg("--version").stderr(Stdio::null()).status().is_err() {
        eprintln!("skip: nutcracker is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let [one, two, three] = [(); 3].map(|()| tcp_sink());
    let [left, right] = ["left.sock", "right.sock"].map(|name| unix_sink(&directory.path().join(name)));
    let pools = [
        format!("hash: fnv1a_64\n  distribution: ketama\n  servers:\n   - '{one}:1'\n   - '{two}:1'\n   - '{three}:1'"),
        format!("hash: md5\n  hash_tag: '{{}}'\n  servers:\n   - '{one}:1'\n   - '{two}:5'\n   - '{three}:2'"),
        format!("hash: crc32a\n  servers:\n   - '{one}:1 lo,ng'\n   - '{two}:1 b'\n   - '{three}:1 a'"),
        format!("servers:\n   - '{left}:1'\n   - '{right}:2'\n   - '{three}:1'"),
        format!(
            "hash: murmur\n  distribution: modula\n  servers:\n   - '{one}:1 longer'\n   - '{two}:2 b'\n   - '{three}:1 aa'"
        ),
        format!("hash: hsieh\n  distribution: modula\n  servers:\n   - '{three}:1'\n   - '{left}:1'\n   - '{one}:1'"),
    ];
    let ports = free_ports(pools.len() + 1);
    let text = ports
        .iter()
        .zip(&pools)
        .map(|(port, settings)| format!("on-{port}:\n  listen: 127.0.0.1:{port}\n  redis: true\n  {settings}\n"))
        .collect::<Vec<_>>()
        .concat();
    let path = directory.path().join("nutcracker.yml");
    fs::write(&path, &text).unwrap();
    let translated = import::nutcracker("nutcracker.yml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let config = check_text("quoit.toml", &translated).unwrap();
    assert_eq!(config.listeners.len(), pools.len());

    let mut command = Command::new("nutcracker");
    command.arg("-c").arg(&path).args(["-s", &ports[pools.len()].to_string(), "-a", "127.0.0.1"]);
    let _nutcracker = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    for (listener, settings) in config.listeners.iter().zip(&pools) {
        let pool = &config.pools[listener.pool];
        let ring = Ring::build(pool.ring.clone()).unwrap();
        let mut stream = BufReader::new(connect(&listener.bind.to_string()));
        for number in 0..KEYS {
            let key = format!("user:{{{}}}:{number}", number / 2);
            let ours = pool.nodes[usize::from(ring.primary(key.as_bytes()).0)].address.to_string();
            assert_eq!(asked(&mut stream, &key), ours, "{key} with {settings}");
        }
    }
}
