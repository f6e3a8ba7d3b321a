//! Real servers for the tests of the command table: one of each known version, where it is installed, and a client that
//! keeps the bytes of each reply.
//!
//! Redis 7.0 is looked for as `redis-server`; the others where `QUOIT_REDIS_62`, `QUOIT_REDIS_8` and `QUOIT_VALKEY`
//! name a binary. A server that is not there is skipped with a line on stderr.

use quoit::command::{Args, reply};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server of its own, stopped when dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    _log: BufReader<std::process::ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Server {
    /// None, with a line on stderr, where the program is not installed.
    pub(crate) fn start(variable: Option<&str>) -> Option<Self> {
        let program = match variable {
            None => "redis-server".to_owned(),
            Some(variable) => {
                let Ok(program) = std::env::var(variable) else {
                    eprintln!("skip: {variable} is not set");
                    return None;
                };
                program
            }
        };
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = tempfile::tempdir().unwrap();
            let process = Command::new(&program)
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
                .arg(directory.path())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut process) = process else {
                eprintln!("skip: {program} cannot be run");
                return None;
            };
            let mut log = BufReader::new(process.stdout.take().unwrap());
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|len| len > 0) {
                if line.contains("eady to accept connections") {
                    return Some(Self { process, port, _log: log, _directory: directory });
                }
                line.clear();
            }
            // Somebody else took the port in between: the server has ended.
            process.wait().unwrap();
        }
        panic!("{program} does not start");
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { reader: BufReader::new(stream) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A RESP client that keeps the bytes of each reply.
pub(crate) struct Client {
    pub(crate) reader: BufReader<TcpStream>,
}

impl Client {
    /// The reply to one request.
    pub(crate) fn ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Reply {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            reply::bulk(&mut request, word.as_ref());
        }
        self.reader.get_mut().write_all(&request).unwrap();
        self.read()
    }

    /// The bytes of the reply: what is there after a following request was answered too.
    pub(crate) fn raw<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Vec<u8> {
        const END: &[u8] = b"$17\r\nend of the answer\r\n";
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            reply::bulk(&mut request, word.as_ref());
        }
        request.extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$17\r\nend of the answer\r\n");
        self.reader.get_mut().write_all(&request).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(END) {
            assert!(self.reader.read_until(b'\n', &mut bytes).unwrap() > 0, "the server closed");
        }
        bytes.truncate(bytes.len() - END.len());
        bytes
    }

    pub(crate) fn read(&mut self) -> Reply {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        let text = String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
        let len = || text.parse::<i64>().unwrap();
        match line[0] {
            b'$' | b'=' if len() < 0 => Reply::Text(line),
            b'$' | b'=' => {
                let mut bytes = vec![0; usize::try_from(len()).unwrap() + 2];
                self.reader.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Reply::Text(bytes)
            }
            b'*' | b'~' | b'>' => Reply::Many((0..len()).map(|_| self.read()).collect()),
            b'%' => Reply::Many((0..2 * len()).map(|_| self.read()).collect()),
            b'-' => Reply::Error(line),
            _ => Reply::Text(line),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(Vec<u8>),
    Many(Vec<Reply>),
    Error(Vec<u8>),
}

impl Reply {
    pub(crate) fn elements(&self) -> &[Self] {
        if let Self::Many(elements) = self { elements } else { panic!("{self:?} is not an array") }
    }

    pub(crate) fn text(&self) -> &[u8] {
        if let Self::Text(text) = self { text } else { panic!("{self:?} is not text") }
    }
}

/// Words as one frame, the way a request holds them.
pub(crate) struct Words {
    frame: Vec<u8>,
    bounds: Vec<(u32, u32)>,
}

impl Words {
    pub(crate) fn new<T: AsRef<[u8]>>(words: &[T]) -> Self {
        let (mut frame, mut bounds) = (Vec::new(), Vec::new());
        for word in words {
            let start = u32::try_from(frame.len()).unwrap();
            frame.extend_from_slice(word.as_ref());
            bounds.push((start, u32::try_from(frame.len()).unwrap()));
        }
        Self { frame, bounds }
    }

    pub(crate) fn args(&self) -> Args<'_> {
        Args::new(&self.frame, &self.bounds)
    }
}
