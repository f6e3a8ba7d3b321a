//! Accepts clients and hands each to the worker with the fewest.
//!
//! One task accepts for one listening socket. Several sockets on one port (`SO_REUSEPORT`) would spread few long-lived
//! connections unevenly, which is what stores' clients have.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
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

    /// Takes a client.
    fn take(&self, client: TcpStream) -> impl Future<Output = ()>;
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

/// Accepts until `drain`, then those that the kernel holds already, and closes the socket.
pub async fn accept(listener: TcpListener, intake: impl Intake, cells: Arc<ListenerCells>, drain: CancellationToken) {
    loop {
        tokio::select! {
            biased; // A flood of clients must not keep the drain from being seen.
            () = drain.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    if let Ok(client) = client.into_std() {
                        welcome(client, &intake, &cells).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    // Whoever is connected has been accepted, as far as it can tell. The kernel is asked itself: tokio would say what it
    // knew when it last looked.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((client, _)) = listener.accept() {
        welcome(client, &intake, &cells).await;
    }
}

async fn welcome(mut client: TcpStream, intake: &impl Intake, cells: &ListenerCells) {
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
    let mut refusal = Vec::new();
    crate::command::reply::too_many_clients(&mut refusal);
    // A client that does not take one line will see the end of the connection.
    drop(client.write_all(&refusal));
}

/// Prepares a client's socket. A client that vanished without a word is found out after some ten minutes (Redis's
/// `tcp-keepalive` asks as often).
fn prepare(client: &TcpStream) -> io::Result<()> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    socket2::SockRef::from(client).set_tcp_keepalive(&keepalive)
}
