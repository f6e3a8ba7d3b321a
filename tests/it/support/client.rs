//! A plain blocking RESP client that keeps every byte: tests send exactly what they mean and compare exactly what came.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// One reply, decoded far enough to be compared by meaning; [`Reply::raw`] has the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` and RESP3's `_`.
    Null,
    Array(Vec<Value>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    /// Keys and values one after the other.
    Map(Vec<Value>),
    /// Double, boolean, big number, verbatim string: marker and text.
    Other(u8, Vec<u8>),
}

impl Value {
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// The text of a simple, bulk or error reply, lossily; `""` for anything else.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Simple(bytes) | Self::Error(bytes) | Self::Bulk(bytes) | Self::Other(_, bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            _ => String::new(),
        }
    }

    /// The elements of an aggregate, or none.
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) | Self::Map(items) => items,
            _ => &[],
        }
    }

    /// The same value with the elements of every unordered aggregate in one order: two servers with different hash
    /// seeds list the members of one set differently.
    pub(crate) fn sorted(&self) -> Value {
        match self {
            Self::Array(items) | Self::Set(items) => {
                let mut items: Vec<_> = items.iter().map(Value::sorted).collect();
                items.sort();
                Self::Array(items)
            }
            Self::Map(items) => {
                let mut pairs: Vec<_> = items.chunks(2).map(|pair| Self::Array(pair.to_vec())).collect();
                pairs.sort();
                Self::Map(pairs)
            }
            other => other.clone(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(bytes) => write!(formatter, "+{}", bytes.escape_ascii()),
            Self::Error(bytes) => write!(formatter, "-{}", bytes.escape_ascii()),
            Self::Integer(number) => write!(formatter, ":{number}"),
            Self::Bulk(bytes) => write!(formatter, "\"{}\"", bytes.escape_ascii()),
            Self::Null => formatter.write_str("null"),
            Self::Array(items) => formatter.debug_list().entries(items).finish(),
            Self::Set(items) => formatter.debug_set().entries(items).finish(),
            Self::Push(items) => write!(formatter, ">{items:?}"),
            Self::Map(items) => write!(formatter, "%{items:?}"),
            Self::Other(marker, bytes) => write!(formatter, "{}{}", char::from(*marker), bytes.escape_ascii()),
        }
    }
}

/// A reply with the bytes it came as.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) raw: Vec<u8>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.raw.get(..400).unwrap_or(&self.raw);
        write!(formatter, "{} ({} bytes)", shown.escape_ascii(), self.raw.len())
    }
}

/// Decodes one reply from the front of `bytes`; `None` while it is incomplete. Malformed bytes fail the test.
fn parse(bytes: &[u8]) -> Option<(Value, usize)> {
    let marker = *bytes.first()?;
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[1..line_end];
    let next = line_end + 2;
    let number = || -> i64 {
        let text = std::str::from_utf8(line).expect("a length is ASCII");
        text.parse().unwrap_or_else(|_| panic!("not a number in a reply: {}", bytes[..line_end].escape_ascii()))
    };
    let simple = match marker {
        b'+' => Value::Simple(line.to_vec()),
        b'-' => Value::Error(line.to_vec()),
        b':' => Value::Integer(number()),
        b'_' => Value::Null,
        b',' | b'#' | b'(' => Value::Other(marker, line.to_vec()),
        b'$' | b'=' | b'!' => return parse_bulk(marker, number(), bytes, next),
        b'*' | b'~' | b'>' | b'%' => return parse_aggregate(marker, number(), bytes, next),
        _ => panic!("unknown reply marker in {}", bytes[..bytes.len().min(80)].escape_ascii()),
    };
    Some((simple, next))
}

fn parse_bulk(marker: u8, length: i64, bytes: &[u8], start: usize) -> Option<(Value, usize)> {
    let Ok(length) = usize::try_from(length) else { return Some((Value::Null, start)) };
    let end = start + length;
    let body = bytes.get(start..end)?;
    let terminator = bytes.get(end..end + 2)?;
    let shown = &bytes[..bytes.len().min(200)];
    assert_eq!(terminator, b"\r\n", "a bulk ends in CRLF: {}", shown.escape_ascii());
    let value = match marker {
        b'$' => Value::Bulk(body.to_vec()),
        b'!' => Value::Error(body.to_vec()),
        _ => Value::Other(marker, body.to_vec()),
    };
    Some((value, end + 2))
}

fn parse_aggregate(marker: u8, count: i64, bytes: &[u8], start: usize) -> Option<(Value, usize)> {
    let Ok(count) = usize::try_from(count) else { return Some((Value::Null, start)) };
    let count = if marker == b'%' { count * 2 } else { count };
    let (mut items, mut at) = (Vec::new(), start);
    for _ in 0..count {
        let (item, used) = parse(&bytes[at..])?;
        items.push(item);
        at += used;
    }
    let value = match marker {
        b'*' => Value::Array(items),
        b'~' => Value::Set(items),
        b'>' => Value::Push(items),
        _ => Value::Map(items),
    };
    Some((value, at))
}

/// The request as an array of bulks, the form every client library sends.
pub(crate) fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    read_at: usize,
}

impl Client {
    /// Connects; every read on the connection has [`PATIENCE`].
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), read_at: 0 })
    }

    /// Where the connection begins, as the peer sees it.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Where it ends.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a connected socket has a peer")
    }

    pub(crate) fn set_read_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("a read timeout can be set");
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer takes the bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `bytes` in pieces that end at the given offsets, each by its own system call.
    #[track_caller]
    pub(crate) fn send_split(&mut self, bytes: &[u8], ends: impl IntoIterator<Item = usize>) {
        let mut start = 0;
        for end in ends.into_iter().chain([bytes.len()]) {
            self.send(&bytes[start..end]);
            start = end;
        }
    }

    /// The next reply, whole.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Reply {
        self.try_receive().unwrap_or_else(|error| panic!("no reply: {error}; so far {:?}", self.unread()))
    }

    pub(crate) fn try_receive(&mut self) -> io::Result<Reply> {
        let mut wanted = 1;
        loop {
            let unread = &self.received[self.read_at..];
            // A reply is only parsed again when the buffer has doubled, so that a large one costs linear time.
            if unread.len() >= wanted || unread.ends_with(b"\r\n") {
                if let Some((value, used)) = parse(unread) {
                    let raw = unread[..used].to_vec();
                    self.read_at += used;
                    return Ok(Reply { value, raw });
                }
                wanted = unread.len() * 2;
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads what is there, once; 0 at the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        if self.read_at > 0 {
            self.received.drain(..self.read_at);
            self.read_at = 0;
        }
        let mut chunk = vec![0; 65_536];
        // A read with a time limit is not taken up again by itself where a signal has interrupted it.
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.received.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// Everything up to the end of the stream, or up to and with `marker`. The second value says whether the peer closed.
    pub(crate) fn receive_until(&mut self, marker: &[u8]) -> io::Result<(Vec<u8>, bool)> {
        loop {
            let unread = &self.received[self.read_at..];
            if let Some(at) = unread.windows(marker.len()).position(|window| window == marker) {
                let bytes = unread[..at + marker.len()].to_vec();
                self.read_at += bytes.len();
                return Ok((bytes, false));
            }
            match self.fill() {
                Ok(0) => return Ok((std::mem::take(&mut self.received), true)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok((std::mem::take(&mut self.received), true));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and drops exactly `count` bytes: for replies too large to keep.
    pub(crate) fn discard(&mut self, mut count: usize) -> io::Result<()> {
        let mut chunk = vec![0; 1 << 20];
        while count > 0 {
            let part = count.min(chunk.len());
            self.read_exact(&mut chunk[..part])?;
            count -= part;
        }
        Ok(())
    }

    /// Reads exactly so many bytes.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let kept = (self.received.len() - self.read_at).min(buffer.len());
        let (first, rest) = buffer.split_at_mut(kept);
        first.copy_from_slice(&self.received[self.read_at..self.read_at + kept]);
        self.read_at += kept;
        self.stream.read_exact(rest)
    }

    /// One command, one reply.
    #[track_caller]
    pub(crate) fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.command_raw(arguments).value
    }

    /// The same, where the connection may break.
    pub(crate) fn try_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Value> {
        self.try_send(&encode(arguments))?;
        self.try_receive().map(|reply| reply.value)
    }

    #[track_caller]
    pub(crate) fn command_raw<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        self.send(&encode(arguments));
        self.receive()
    }

    /// The words of a line as one command: `client.line("SET greeting hello")`.
    #[track_caller]
    pub(crate) fn line(&mut self, words: &str) -> Value {
        self.command(&words.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    pub(crate) fn pipeline(&mut self, requests: &[u8], count: usize) -> Vec<Reply> {
        self.send(requests);
        (0..count).map(|_| self.receive()).collect()
    }

    /// A second handle, for a thread that writes while another reads.
    #[track_caller]
    pub(crate) fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be cloned")
    }

    /// Ends both sides; a writer that waits is let go.
    pub(crate) fn close(&self) {
        // Fails only when the peer has closed already.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    pub(crate) fn finish_writing(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the write side can be closed");
    }

    pub(crate) fn unread(&self) -> Reply {
        Reply { value: Value::Null, raw: self.received[self.read_at..].to_vec() }
    }
}
