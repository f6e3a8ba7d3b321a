//! A TCP, TLS or Unix stream, with the few calls that the data path makes.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Tls;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP, in TLS.
    Tls(Box<Tls>),
}

impl Stream {
    /// Reads into `buf`; `Ready(Ok(0))` is the end of the stream.
    ///
    /// A read that does not fill `buf` is known to have emptied the socket, so that the next call waits without asking
    /// the kernel.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        let polled = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, &mut read),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, &mut read),
            Self::Tls(stream) => return stream.poll_read(context, buf),
        };
        polled.map_ok(|()| read.filled().len())
    }

    /// Writes what the socket takes at once. After `WouldBlock` the same bytes must come first next time, in as many more
    /// as there are by then: TLS may have enciphered some of them.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; others of the socket.
    #[inline]
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write(bytes),
        }
    }

    /// Asks to be woken when the socket takes bytes again.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
            Self::Tls(stream) => stream.poll_write_ready(context),
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|context| {
            while !bytes.is_empty() {
                match self.try_write(bytes) {
                    Ok(wrote) => bytes = bytes.get(wrote..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(self.poll_write_ready(context))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Reads what is there into `buf`; 0 is the end of the stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buf)).await
    }

    /// Where the other side is; none for a Unix socket.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    /// Where the other side has connected to; none for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.socket()),
            Self::Unix(_) => None,
        }
    }
}
