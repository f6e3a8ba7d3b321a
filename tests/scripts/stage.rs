//! The stores that the scripts run on: real servers, and the embedded one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quoit::backend::embedded::{SessionState, Store};
use quoit::version::{Ballot, FENCE_KEY, OpId, Record, Script, Term, write_record_key};

const READ_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const FENCE: &str = "a fence, 18 bytes.";
pub(crate) const GRACE_MS: i64 = 60_000;
pub(crate) const TOMBSTONE_MS: i64 = 3_600_000;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<Value>),
    Double(String),
}

impl Value {
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Map(items) => items,
            other => panic!("no aggregate: {other:?}"),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if let Self::Bulk(bytes) = self { bytes } else { panic!("no bulk string: {self:?}") }
    }

    pub(crate) fn integer(&self) -> i64 {
        if let Self::Integer(number) = self { *number } else { panic!("no integer: {self:?}") }
    }

    /// The letter of a script's reply, `1` for the integer.
    pub(crate) fn letter(&self) -> char {
        match self {
            Self::Integer(1) => '1',
            Self::Integer(2) => '2',
            Self::Array(items) => char::from(items[0].bytes()[0]),
            other => panic!("no reply of a script: {other:?}"),
        }
    }

    /// The text of an `E` reply.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.letter(), 'E', "{self:?}");
        String::from_utf8(self.items()[1].bytes().to_vec()).unwrap()
    }
}

pub(crate) fn bulk(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bulk(bytes.as_ref().to_vec())
}

/// Something that answers commands.
enum Host {
    Real { child: Child, stream: BufReader<UnixStream>, _directory: tempfile::TempDir },
    Embedded { store: Box<Store>, session: Box<SessionState> },
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Self::Real { child, .. } = self {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// One store with the scripts loaded and the fence in place.
pub(crate) struct Stage {
    pub(crate) name: String,
    host: Host,
    pub(crate) fence: String,
}

/// Words of a command: text or bytes.
#[macro_export]
macro_rules! words {
    ($($word:expr),* $(,)?) => { vec![$(Vec::<u8>::from($word)),*] };
}

pub(crate) type Words = Vec<Vec<u8>>;

#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
fn skip(why: &str) {
    eprintln!("skip: {why}");
}

impl Stage {
    /// Runs a test on every store that this machine has.
    pub(crate) fn on_every_store(test: impl Fn(&mut Self)) {
        test(&mut Self::embedded());
        for program in ["redis-server", "QUOIT_REDIS_62", "QUOIT_REDIS_8", "QUOIT_VALKEY"] {
            if let Some(mut stage) = Self::real(program, None) {
                test(&mut stage);
            }
        }
    }

    fn embedded() -> Self {
        let host = Host::Embedded { store: Box::new(Store::new(1)), session: Box::new(SessionState::new(1)) };
        Self { name: "embedded".to_owned(), host, fence: FENCE.to_owned() }.ready()
    }

    /// A server by its path, or by the variable that names it; `locale` is the one it runs in.
    pub(crate) fn real(program: &str, locale: Option<&str>) -> Option<Self> {
        let variable = program.starts_with("QUOIT_").then(|| std::env::var(program).ok());
        let Some(path) = variable.unwrap_or_else(|| Some(program.to_owned())) else {
            skip(&format!("no {program}"));
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut command = Command::new(&path);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(directory.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(locale) = locale {
            command.env("LC_ALL", locale).env("LC_COLLATE", locale).env("LANG", locale);
        }
        let Ok(mut child) = command.spawn() else {
            skip(&format!("{path} does not start"));
            return None;
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("eady to accept connections"));
        assert!(ready, "{path} ended before it was ready");
        // Its log must not fill the pipe and stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        let host = Host::Real { child, stream: BufReader::new(stream), _directory: directory };
        let name = format!("{program} {}", locale.unwrap_or_default());
        Some(Self { name, host, fence: FENCE.to_owned() }.ready())
    }

    fn ready(mut self) -> Self {
        for script in Script::ALL {
            assert_eq!(self.call(words!["SCRIPT", "LOAD", script.body()]), bulk(script.sha()));
        }
        self.call(words!["SET", FENCE_KEY, FENCE]);
        self
    }

    pub(crate) fn call(&mut self, words: Words) -> Value {
        match &mut self.host {
            Host::Embedded { store, session } => {
                let (words, mut out): (Vec<&[u8]>, _) = (words.iter().map(Vec::as_slice).collect(), Vec::new());
                store.execute(session, &words, 1_800_000_000_123, &mut out);
                read(&mut out.as_slice())
            }
            Host::Real { stream, .. } => {
                let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
                for word in words {
                    bytes.extend(format!("${}\r\n", word.len()).bytes());
                    bytes.extend(word);
                    bytes.extend(b"\r\n");
                }
                stream.get_mut().write_all(&bytes).unwrap();
                read(stream)
            }
        }
    }

    /// A command of plain words.
    pub(crate) fn line(&mut self, line: &str) -> Value {
        self.call(line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    }

    /// The store refuses what may add data.
    pub(crate) fn fill(&mut self, full: bool) {
        match &mut self.host {
            Host::Embedded { store, .. } => store.set_memory_bytes_max(if full { 1 } else { 1 << 30 }),
            Host::Real { .. } => {
                self.line(if full { "CONFIG SET maxmemory 1" } else { "CONFIG SET maxmemory 0" });
            }
        }
    }

    pub(crate) fn now_ms(&mut self) -> i64 {
        let time = self.line("TIME");
        let number = |value: &Value| String::from_utf8(value.bytes().to_vec()).unwrap().parse::<i64>().unwrap();
        number(&time.items()[0]) * 1000 + number(&time.items()[1]) / 1000
    }

    /// Runs a script: keys, their records, the fence; its expected value and the further arguments.
    pub(crate) fn run(&mut self, script: Script, keys: &[Vec<u8>], args: Words) -> Value {
        let mut command = words!["EVALSHA", script.sha(), (keys.len() + 1).to_string()];
        command.extend(keys.iter().cloned());
        command.extend(words![FENCE_KEY, self.fence.as_str()]);
        command.extend(args);
        self.call(command)
    }

    pub(crate) fn blind(&mut self, key: &str, ballot: Ballot, value: &str, expiry: &str) -> Value {
        let args = words![ballot.encode(), GRACE_MS.to_string(), "SET", value, expiry];
        self.run(Script::Blind, &[key.into(), record_key(key)], args)
    }

    /// Several at once: key, ballot, value. With the time for which others are left alone, or none.
    pub(crate) fn blind_many(&mut self, writes: &[(&str, Ballot, &str)], fresh_ms: &str) -> Value {
        let records = writes.iter().map(|(key, ..)| record_key(key));
        let keys: Vec<Vec<u8>> = records.chain(writes.iter().map(|(key, ..)| (*key).into())).collect();
        let mut args = words![fresh_ms];
        for (_, ballot, value) in writes {
            args.extend(words![ballot.encode(), *value]);
        }
        self.run(Script::BlindMany, &keys, args)
    }

    /// With the time for which others are left alone.
    pub(crate) fn blind_within(&mut self, key: &str, ballot: Ballot, fresh_ms: u64) -> Value {
        let args = words![ballot.encode(), GRACE_MS.to_string(), "SET", "v", "", fresh_ms.to_string()];
        self.run(Script::Blind, &[key.into(), record_key(key)], args)
    }

    /// The same.
    pub(crate) fn prepare_within(&mut self, key: &str, term: Term, fresh_ms: u64) -> Value {
        let args = words![term.encode(), TOMBSTONE_MS.to_string(), fresh_ms.to_string()];
        self.run(Script::Prepare, &[record_key(key), key.into()], args)
    }

    pub(crate) fn prepare(&mut self, keys: &[&str], term: Term) -> Value {
        let mut names: Vec<Vec<u8>> = keys.iter().map(|key| record_key(key)).collect();
        names.extend(keys.iter().map(|key| key.as_bytes().to_vec()));
        self.run(Script::Prepare, &names, words![term.encode(), TOMBSTONE_MS.to_string()])
    }

    pub(crate) fn apply(&mut self, key: &str, base: &[u8], ballot: Ballot, op: OpId, command: &str) -> Value {
        let resp = if command.starts_with('3') { "3" } else { "2" };
        let (grace, tombstone) = (GRACE_MS.to_string(), TOMBSTONE_MS.to_string());
        let mut args = words![base, ballot.encode(), op.0.to_be_bytes(), resp, grace, tombstone];
        let command = command.trim_start_matches('3');
        args.extend(command.split(' ').filter(|word| !word.is_empty()).map(|word| word.as_bytes().to_vec()));
        self.run(Script::Apply, &[key.into(), record_key(key)], args)
    }

    /// An update on what is there, as the one proposer there is.
    pub(crate) fn update(&mut self, key: &str, ballot: Ballot, op: u64, command: &str) -> Value {
        let base = self.record(key).accepted.encode();
        self.apply(key, &base, ballot, OpId(op), command)
    }

    pub(crate) fn state(&mut self, key: &str, record: &Record, payload: &[u8], expiry: &str, mode: &str) -> Value {
        let mut source = Vec::new();
        if *record != Record::default() {
            record.encode(&mut source);
        }
        let (grace, tombstone) = (GRACE_MS.to_string(), TOMBSTONE_MS.to_string());
        let args = words![source, payload, expiry, mode, grace, tombstone];
        self.run(Script::State, &[key.into(), record_key(key)], args)
    }

    pub(crate) fn fetch(&mut self, key: &str) -> Value {
        self.run(Script::Fetch, &[key.into(), record_key(key)], Words::new())
    }

    /// Runs a command over keys; `written` says which, base is what is there.
    pub(crate) fn exec(&mut self, keys: &[&str], written: &str, ballot: Ballot, op: u64, command: &str) -> Value {
        let mut names: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        names.extend(keys.iter().map(|key| record_key(key)));
        let (grace, tombstone, count) = (GRACE_MS.to_string(), TOMBSTONE_MS.to_string(), keys.len().to_string());
        let resp = if command.starts_with('3') { "3" } else { "2" };
        let mut args = words![ballot.encode(), op.to_be_bytes(), resp, grace, tombstone, count, written];
        for key in keys {
            args.push(self.record(key).accepted.encode().to_vec());
        }
        args.extend(command.trim_start_matches('3').split(' ').map(|word| word.as_bytes().to_vec()));
        self.run(Script::Exec, &names, args)
    }

    pub(crate) fn record_bytes(&mut self, key: &str) -> Vec<u8> {
        match self.call(words!["GET", record_key(key)]) {
            Value::Bulk(bytes) => bytes,
            Value::Null => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn record(&mut self, key: &str) -> Record {
        Record::decode(&self.record_bytes(key)).unwrap()
    }

    /// How long the record of a key lives.
    pub(crate) fn record_pttl(&mut self, key: &str) -> i64 {
        self.call(words!["PTTL", record_key(key)]).integer()
    }

    #[track_caller]
    pub(crate) fn check(&mut self, line: &str, want: &Value) {
        let got = self.line(line);
        assert_eq!(got, *want, "{}: {line}", self.name);
    }
}

pub(crate) fn record_key(key: &str) -> Vec<u8> {
    let mut name = Vec::new();
    write_record_key(key.as_bytes(), &mut name);
    name
}

fn read(stream: &mut impl std::io::BufRead) -> Value {
    let mut head = Vec::new();
    stream.read_until(b'\n', &mut head).unwrap();
    let text = String::from_utf8_lossy(&head[1..head.len() - 2]).into_owned();
    let number = || text.parse::<i64>().unwrap();
    let mut many = |each: i64| (0..number() * each).map(|_| read(stream)).collect();
    match head[0] {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Integer(number()),
        b',' => Value::Double(text),
        b'_' => Value::Null,
        b'$' | b'*' if number() < 0 => Value::Null,
        b'*' => Value::Array(many(1)),
        b'~' => Value::Set(many(1)),
        b'%' => Value::Map(many(2)),
        b'$' => {
            let mut bytes = vec![0; usize::try_from(number()).unwrap() + 2];
            stream.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            Value::Bulk(bytes)
        }
        other => panic!("a reply that begins with {}", other.escape_ascii()),
    }
}
