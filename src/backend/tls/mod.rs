//! TLS on a TCP stream: the handshake, and the same few calls as [`super::Stream`] makes on a socket.
//!
//! rustls keeps the state of a connection and knows no socket; this moves bytes between the two. Towards the data path a
//! TLS stream behaves as a socket does: what a write says is written has left, and what it did not take is offered
//! again. Why so: `docs/decisions/2026-11-23-tls.md`.
//!
//! # Invariants
//! - A record is on its way as a whole or not at all, as far as the other side can tell: it reads none of which it has only a
//!   part. So bytes that are not said to be written have not been read by anybody.
//! - What is received and not yet asked for is bounded by one read of the socket.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::config::{Address, StoreTls};

/// Bytes of one record, and so of one write: RFC 8446, section 5.1.
const RECORD_BYTES: usize = 16 * 1024;
/// Bytes that one read takes from the socket at most.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one call that bring no data, such as parts of a record, before others get their turn.
const EMPTY_READS: usize = 8;

thread_local! {
    /// What a read takes from the socket: one for each worker, for nothing stays in it.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// A connection that speaks TLS.
#[derive(Debug)]
pub struct Tls {
    socket: TcpStream,
    connection: Connection,
    /// Bytes of the last write that are in a record which has not left as a whole.
    held: usize,
    /// What came from the socket and is not deciphered yet, for nobody has asked for it.
    received: Vec<u8>,
    /// What went wrong behind data that came first.
    failure: Option<io::Error>,
    /// The other side would not understand a farewell.
    is_plain: bool,
}

/// What a pool's connections are made with. A reload changes what is in it, so that its nodes keep their connections.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<ArcSwap<StoreTls>>);

impl PartialEq for ClientTls {
    /// Whether it is the same one, and so always says the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ClientTls {
    /// For a pool.
    pub fn new(settings: &StoreTls) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings.clone())))
    }

    /// New connections are made as `other` says.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other side ended the connection.
    #[error("TLS: closed during the handshake")]
    Closed,
    /// The socket failed.
    #[error("TLS: {0}")]
    Socket(#[from] io::Error),
    /// What came is no TLS at all: somebody speaks in plain text.
    #[error("TLS: the other side speaks no TLS here")]
    Plain,
    /// The two sides do not agree.
    #[error("TLS: {}", explained(.0))]
    Refused(rustls::Error),
    /// No certificate can be for this name.
    #[error("TLS: `{0}` is no name that a certificate can have: set `server_name` in `[pool.tls]`")]
    Name(String),
}

/// What went wrong, and where it is mended if that is known.
fn explained(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Fault, Error};
    let mend = match error {
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the other side wants a certificate of ours: set `cert_file` and `key_file` in `[pool.tls]`"
        }
        Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateExpired) => {
            "the other side does not accept our certificate"
        }
        Error::InvalidCertificate(Fault::UnknownIssuer) => "`ca_file` has no certificate of who issued it",
        // An authority that has begun anew under its old name.
        Error::InvalidCertificate(Fault::BadSignature) => "`ca_file` has another certificate of who issued it",
        Error::InvalidCertificate(Fault::NotValidForName | Fault::NotValidForNameContext { .. }) => {
            "`server_name` in `[pool.tls]` says which name to expect"
        }
        _ => return error.to_string(),
    };
    format!("{error} ({mend})")
}

impl Tls {
    fn new(socket: TcpStream, connection: impl Into<Connection>) -> Self {
        Self { socket, connection: connection.into(), held: 0, received: Vec::new(), failure: None, is_plain: false }
    }

    /// Shakes hands with a client. `turn` is whose turn it is to compute, which takes far longer than a request does. A client
    /// that speaks plain text is told `plain`.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        turn: &Semaphore,
        plain: &[u8],
    ) -> Result<Self, HandshakeError> {
        let connection = ServerConnection::new(config).map_err(HandshakeError::Refused)?;
        let mut stream = Self::new(socket, connection);
        let shaken = stream.shake(Some(turn)).await;
        if let Err(HandshakeError::Plain) = &shaken {
            stream.is_plain = true;
            // A client that does not take one line will see the end of the connection.
            drop(stream.socket.try_write(plain));
        }
        shaken.map(|()| stream)
    }

    /// Shakes hands with a store.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect(socket: TcpStream, tls: &ClientTls, address: &Address) -> Result<Self, HandshakeError> {
        let settings = tls.0.load_full();
        let name = match (&settings.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Tcp { host, .. }) => {
                ServerName::try_from(host.clone()).map_err(|_| HandshakeError::Name(host.clone()))?
            }
            (None, Address::Unix(path)) => return Err(HandshakeError::Name(path.display().to_string())),
        };
        let connection = ClientConnection::new(Arc::clone(&settings.config), name).map_err(HandshakeError::Refused)?;
        let mut stream = Self::new(socket, connection);
        stream.shake(None).await?;
        Ok(stream)
    }

    async fn shake(&mut self, turn: Option<&Semaphore>) -> Result<(), HandshakeError> {
        let mut is_first = true;
        loop {
            self.send_all().await?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            self.socket.readable().await?;
            match self.connection.read_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Err(HandshakeError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            // Nobody closes the semaphore; without it the handshake would only be less polite.
            let computing = match turn {
                Some(turn) => turn.acquire().await.ok(),
                None => None,
            };
            let processed = self.connection.process_new_packets();
            if computing.is_some() {
                tokio::task::yield_now().await; // Requests that came meanwhile go first.
            }
            drop(computing);
            if let Err(error) = processed {
                let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
                if is_first && error == no_tls {
                    return Err(HandshakeError::Plain);
                }
                self.say_last();
                return Err(HandshakeError::Refused(error));
            }
            is_first = false;
        }
    }

    /// Sends what rustls has to say.
    async fn send_all(&mut self) -> io::Result<()> {
        loop {
            match self.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                result => return result,
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut Socket(&self.socket))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Tells the other side what rustls wants to say before the end, if it takes that at once. It sees the end anyway. Not
    /// while a record is half sent: whoever offered the bytes in it is told that nobody has read them.
    fn say_last(&mut self) {
        if self.held == 0 && !self.is_plain {
            drop(self.send());
        }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// As [`super::Stream::poll_read`]. An end without the farewell of TLS is an end like any other: a request or reply
    /// says itself where it ends.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Err(failure));
        }
        for _ in 0..EMPTY_READS {
            let received = std::mem::take(&mut self.received);
            match self.decipher(&received, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
            let polled = self.poll_receive(context, &mut scratch, buf);
            SCRATCH.set(Some(scratch));
            match ready!(polled) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read of the socket.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Not much more than is asked for, so that not much is kept.
        let most = buf.len().clamp(RECORD_BYTES, READ_BYTES);
        let mut read = ReadBuf::new(scratch.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            let _: usize = self.connection.read_tls(&mut io::empty())?; // That is how it is told of the end.
        }
        let result = self.decipher(bytes, buf);
        // Answers of TLS itself. What the socket does not take leaves with the next write, where an error shows again.
        if self.held == 0 {
            drop(self.send());
        }
        Poll::Ready(result)
    }

    /// Deciphers `bytes` into `buf`, behind what was received before. What `buf` does not hold is kept. `WouldBlock` if
    /// there is nothing to give.
    fn decipher(&mut self, mut bytes: &[u8], buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            while let Some(room) = buf.get_mut(filled..).filter(|room| !room.is_empty()) {
                match self.connection.reader().read(room) {
                    Ok(0) => return Ok(filled), // The farewell: nothing follows.
                    Ok(got) => filled += got,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(filled),
                    Err(error) => return Err(error),
                }
            }
            if bytes.is_empty() || filled == buf.len() {
                self.received.extend_from_slice(bytes);
                return if filled == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) };
            }
            if self.connection.read_tls(&mut bytes)? == 0 {
                bytes = &[]; // It takes nothing after the farewell.
            }
            if let Err(error) = self.connection.process_new_packets() {
                self.say_last();
                let failure = io::Error::new(io::ErrorKind::InvalidData, HandshakeError::Refused(error).to_string());
                if filled == 0 {
                    return Err(failure);
                }
                self.failure = Some(failure);
                return Ok(filled);
            }
        }
    }

    /// As [`super::Stream::try_write`]. After `WouldBlock` the same bytes must come first next time.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        if self.held == 0 {
            let record = bytes.get(..RECORD_BYTES).unwrap_or(bytes);
            self.held = self.connection.writer().write(record)?;
            self.send()?;
        }
        debug_assert!(self.held <= bytes.len(), "bytes that were offered are offered again");
        Ok(std::mem::take(&mut self.held).min(bytes.len()))
    }

    pub(super) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(context)
    }
}

impl Drop for Tls {
    /// Says farewell, so that the other side knows that nothing was cut off.
    fn drop(&mut self) {
        if !self.connection.is_handshaking() {
            self.connection.send_close_notify();
            self.say_last();
        }
    }
}

/// A socket as rustls sees it.
struct Socket<'s>(&'s TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
