//! Opening a connection: resolve, connect, authenticate, choose the protocol, see that the store answers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::node::NodeOptions;
use crate::backend::Stream;
use crate::backend::tls::{ClientTls, HandshakeError, Tls};
use crate::config::Address;
use crate::protocol::resp::{ReplyScan, Step, Version, write_request};

/// What quoit says to a store that wants a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; none is the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why there is no connection, in words for people.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing listens there, or nothing answers: the store is down.
    Down(Arc<str>),
    /// Somebody accepted and then closed the connection.
    HungUp(Arc<str>),
    /// It is up and does not speak this version of the protocol.
    Unsupported(Arc<str>),
}

/// Connects and shakes hands within the time that the node allows. `last_good` is asked when the name cannot be resolved.
pub(super) async fn open(
    options: &NodeOptions,
    version: Version,
    last_good: &mut Vec<SocketAddr>,
) -> Result<Stream, Refusal> {
    let timeout = options.connect_timeout;
    let opened = tokio::time::timeout(timeout, async {
        let mut stream = connect(&options.address, options.tls.as_ref(), last_good).await?;
        greet(&mut stream, options, version).await?;
        Ok(stream)
    });
    opened.await.unwrap_or_else(|_| {
        let what = if options.tls.is_some() { "connect, TLS and PING" } else { "connect and PING" };
        Err(Refusal::Down(format!("no answer to {what} within {} ms", timeout.as_millis()).into()))
    })
}

/// The addresses that a name leads to now; none for a Unix socket.
pub(super) async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    match address {
        Address::Tcp { host, port } => Ok(tokio::net::lookup_host((host.as_str(), *port)).await?.collect()),
        Address::Unix(_) => Ok(Vec::new()),
    }
}

/// A connection that nothing was said on yet, in TLS if the node wants that.
pub(super) async fn connect(
    address: &Address,
    tls: Option<&ClientTls>,
    last_good: &mut Vec<SocketAddr>,
) -> Result<Stream, Refusal> {
    let stream = connect_socket(address, last_good).await.map_err(|error| Refusal::Down(error.to_string().into()))?;
    match (stream, tls) {
        (Stream::Tcp(socket), Some(tls)) => match Tls::connect(socket, tls, address).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            // As one that accepts in plain text and hangs up, it may be about to serve again.
            Err(error @ (HandshakeError::Closed | HandshakeError::Socket(_))) => {
                Err(Refusal::HungUp(error.to_string().into()))
            }
            Err(error @ (HandshakeError::Plain | HandshakeError::Refused(_) | HandshakeError::Name(_))) => {
                Err(Refusal::Down(error.to_string().into()))
            }
        },
        (stream, _) => Ok(stream),
    }
}

async fn connect_socket(address: &Address, last_good: &mut Vec<SocketAddr>) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Address::Tcp { host, .. } => {
            match resolve(address).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => *last_good = found,
                Err(error) if last_good.is_empty() => {
                    return Err(io::Error::new(error.kind(), format!("cannot resolve {host}: {error}")));
                }
                Err(error) => tracing::warn!(%host, %error, "cannot resolve: the last good address is used"),
            }
            let stream = TcpStream::connect(last_good.as_slice()).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_mins(1))
                .with_interval(Duration::from_secs(15))
                .with_retries(4);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Stream::Tcp(stream))
        }
    }
}

/// Authenticates, chooses the protocol version, names the connection, selects the database, loads scripts, and asks for a
/// sign of life. All in one write.
///
/// No request is sent before all of that is answered, and a store that does not select the database gets none: so nothing
/// runs in another one, however often the connection is made anew.
///
/// A store that has lost its scripts has restarted or was told to forget them. The first closes its connections, so that
/// the next request finds them again; whoever runs a script must have an answer to the second.
async fn greet(stream: &mut Stream, options: &NodeOptions, version: Version) -> Result<(), Refusal> {
    let mut names = Vec::new();
    let mut out = Vec::new();
    names.extend(write_sign_in(options.credentials.as_ref(), version, &mut out));
    let mut send = |name: &'static str, args: &[&[u8]]| {
        names.push(name);
        write_request(&mut out, args.iter().copied());
    };
    send("CLIENT SETNAME", &[b"CLIENT", b"SETNAME", b"quoit"]);
    if options.database != 0 {
        send(SELECT, &[b"SELECT", options.database.to_string().as_bytes()]);
    }
    for script in options.scripts.iter() {
        send(SCRIPT_LOAD, &[b"SCRIPT", b"LOAD", script.as_bytes()]);
    }
    send("PING", &[b"PING"]);

    stream.write_all(&out).await.map_err(|error| Refusal::HungUp(error.to_string().into()))?;
    let replies = read_replies(stream, names.len()).await?;
    for (name, reply) in names.iter().zip(replies) {
        // A name is a courtesy; a store that takes none is a store all the same.
        if reply.first() == Some(&b'-') && *name != "CLIENT SETNAME" {
            let text = String::from_utf8_lossy(reply.get(1..).unwrap_or_default()).trim_end().to_owned();
            let need = match *name {
                SCRIPT_LOAD => "; a pool with replicas needs stores that run scripts",
                SELECT => {
                    "; the store has fewer databases than the pool's `databases` says, or its user may not SELECT"
                }
                _ => "",
            };
            let why = format!("{name} answered: {text}{need}").into();
            // `HELLO` is since Redis 6.0. That a store has none is no reason to keep clients that need none from it.
            let is_unsupported = *name == "HELLO" && (text.starts_with("ERR unknown") || text.starts_with("NOPROTO"));
            return Err(if is_unsupported { Refusal::Unsupported(why) } else { Refusal::Down(why) });
        }
    }
    Ok(())
}

/// Appends what authenticates and chooses the protocol; what it is called, if there is any need for it.
pub(super) fn write_sign_in(
    credentials: Option<&Credentials>,
    version: Version,
    out: &mut Vec<u8>,
) -> Option<&'static str> {
    let mut words: Vec<&[u8]> = match version {
        Version::Resp3 => vec![b"HELLO", b"3"],
        Version::Resp2 => Vec::new(),
    };
    if let Some(Credentials { username, password }) = credentials {
        words.push(b"AUTH");
        match (version, username) {
            (_, Some(user)) => words.push(user.as_bytes()),
            (Version::Resp3, None) => words.push(b"default"),
            (Version::Resp2, None) => {}
        }
        words.push(password.as_bytes());
    }
    if words.is_empty() {
        return None;
    }
    write_request(out, words.iter().copied());
    Some(if version == Version::Resp3 { "HELLO" } else { "AUTH" })
}

const SCRIPT_LOAD: &str = "SCRIPT LOAD";
const SELECT: &str = "SELECT";

/// Most bytes that the replies to a greeting may have.
const GREETING_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn read_replies(stream: &mut Stream, count: usize) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut buffer = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        let got = stream.read(&mut piece).await;
        buffer.extend_from_slice(got.as_ref().ok().and_then(|got| piece.get(..*got)).unwrap_or_default());
        match got {
            Ok(0) => return Err(Refusal::HungUp("closed by the store before it answered PING".into())),
            Ok(_) if buffer.len() > GREETING_BYTES_MAX => {
                return Err(Refusal::Down("an endless answer to PING".into()));
            }
            Ok(_) => {}
            Err(error) => return Err(Refusal::HungUp(error.to_string().into())),
        }
        if let Some(replies) = cut(&buffer, count).map_err(|error| Refusal::Down(error.to_string().into()))? {
            return Ok(replies);
        }
    }
}

fn cut(buffer: &[u8], count: usize) -> Result<Option<Vec<Vec<u8>>>, crate::protocol::resp::ReplyError> {
    let mut replies = Vec::new();
    let mut rest = buffer;
    while replies.len() < count {
        match ReplyScan::default().advance(rest)? {
            Step::Partial { .. } => return Ok(None),
            Step::Complete { len } => {
                let (reply, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                replies.push(reply.to_vec());
                rest = tail;
            }
        }
    }
    Ok(Some(replies))
}
