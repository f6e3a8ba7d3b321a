//! A TCP or Unix stream, with the few calls that the data path makes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
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
        };
        polled.map_ok(|()| read.filled().len())
    }

    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; others of the socket.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
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
        }
    }
}
