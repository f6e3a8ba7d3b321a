//! Accepts clients and hands each to the worker with the fewest.
//!
//! One task accepts for one listening socket. Several sockets on one port (`SO_REUSEPORT`) would spread few long-lived
//! connections unevenly, which is what stores' clients have.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::metrics::ListenerCells;

/// Wait after a failed accept: with no file descriptor left, the next one fails at once too.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client may be silent before the kernel asks whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(5);
/// Clients that the kernel may hold for us; it cuts this to its own `somaxconn`.
const BACKLOG: i32 = 4096;

/// Where accepted clients go.
pub trait Intake {
    /// Whether one more may come in.
    fn has_room(&self) -> bool;

    /// Whether a client here understands nothing before it has shaken hands.
    fn speaks_tls(&self) -> bool;

    /// Takes a client.
    fn take(&self, client: Client) -> impl Future<Output = ()>;
}

/// Opens a listening socket.
///
/// # Errors
/// Those of the system: the address is taken, or not allowed.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, and its name in the file system if it is ours.
    Unix(UnixListener, Option<SocketFile>),
}

/// A client as it was accepted.
#[derive(Debug)]
pub enum Client {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The name of a Unix socket. It goes when it is dropped, unless somebody has put another socket there: a proxy that takes
/// over from this one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        let found = fs::symlink_metadata(path)?;
        Ok((found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // What is left there is replaced by the next proxy.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Socket {
    /// A TCP socket that listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Self::Tcp)
    }

    /// A Unix socket that listens, of which the name is somebody else's.
    ///
    /// # Errors
    /// Those of the system.
    pub fn unix(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket).map(|socket| Self::Unix(socket, None))
    }

    /// Opens a Unix socket with these permissions. A socket that is there and that nobody serves is replaced.
    ///
    /// # Errors
    /// Those of the system: somebody serves the socket, the file is none, the directory is missing or not ours to write.
    pub fn bind_unix(path: &Path, mode: u32) -> io::Result<Self> {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if is_socket && UnixStream::connect(path).is_err_and(|error| refused(&error)) {
            fs::remove_file(path)?;
        }
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        let file = SocketFile { path: path.to_owned(), identity: SocketFile::identity(path)? };
        // Before anybody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        UnixListener::from_std(socket.into()).map(|socket| Self::Unix(socket, Some(file)))
    }

    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(socket) => socket.accept().await?.0.into_std().map(Client::Tcp),
            Self::Unix(socket, _) => socket.accept().await?.0.into_std().map(Client::Unix),
        }
    }

    /// What the kernel holds already. It is asked itself: tokio would say what it knew when it last looked.
    async fn accept_rest(self, intake: &impl Intake, cells: &ListenerCells) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                let socket = socket.into_std()?;
                while let Ok((client, _)) = socket.accept() {
                    welcome(Client::Tcp(client), intake, cells).await;
                }
            }
            Self::Unix(socket, _file) => {
                let socket = socket.into_std()?;
                while let Ok((client, _)) = socket.accept() {
                    welcome(Client::Unix(client), intake, cells).await;
                }
            }
        }
        Ok(())
    }
}

/// Accepts until `drain`, then those that the kernel holds already, and closes the socket.
pub async fn accept(socket: Socket, intake: impl Intake, cells: Arc<ListenerCells>, drain: CancellationToken) {
    loop {
        tokio::select! {
            biased; // A flood of clients must not keep the drain from being seen.
            () = drain.cancelled() => break,
            accepted = socket.accept() => match accepted {
                Ok(client) => welcome(client, &intake, &cells).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    // Whoever is connected has been accepted, as far as it can tell.
    if let Err(error) = socket.accept_rest(&intake, &cells).await {
        tracing::debug!(%error, "cannot look for the last clients");
    }
}

async fn welcome(mut client: Client, intake: &impl Intake, cells: &ListenerCells) {
    if let Err(error) = prepare(&client) {
        // It has gone already.
        tracing::debug!(%error, "cannot prepare a client's socket");
        return;
    }
    if intake.has_room() {
        intake.take(client).await;
        return;
    }
    cells.clients_rejected.increment();
    if intake.speaks_tls() {
        return; // As Redis: it sees the end of the connection.
    }
    let mut refusal = Vec::new();
    crate::command::reply::too_many_clients(&mut refusal);
    // A client that does not take one line will see the end of the connection.
    drop(match &mut client {
        Client::Tcp(stream) => stream.write_all(&refusal),
        Client::Unix(stream) => stream.write_all(&refusal),
    });
}

/// Prepares a client's socket. A client that vanished without a word is found out after some ten minutes (Redis's
/// `tcp-keepalive` asks as often); one on this machine cannot.
fn prepare(client: &Client) -> io::Result<()> {
    match client {
        Client::Unix(stream) => stream.set_nonblocking(true),
        Client::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
            socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
        }
    }
}
