//! The operator's port: metrics, health, the ring, the configuration in force, and a reload.
//!
//! [`serve`] accepts on the thread that the server gave it, apart from the workers, so a scrape never delays a request
//! of a client. Each HTTP request passes `guard` (who may ask) and then `routes` (what is answered); what the answers
//! say comes from [`Metrics`] and from the [`Hooks`] that the server provides.
//!
//! # Invariants
//! - A GET or HEAD changes nothing, whatever it carries.
//! - A web page cannot use the port through its reader's browser: neither by a cross-site POST, nor by a name that
//!   resolves to a loopback address.
//! - Connections, header and body sizes, and the life of a connection are bounded. One connection too many is closed.
//!
//! It does not speak TLS and knows no users: a bind beyond loopback is for a network that is trusted to read, and
//! changes nothing without a token.

mod guard;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// Prometheus, two probes and a few operators need ten.
const CONNECTIONS_MAX: usize = 64;
/// How long the next request's head may take, an idle connection's wait included. Longer than the usual scrape interval
/// of 15 s, so that a scraper keeps its connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long a connection finishes its request and ends; after `DRAIN_TIMEOUT` more it is cut. That bounds a
/// client that does not read its answer.
const CONNECTION_LIFE: Duration = Duration::from_mins(5);
/// How long a request in progress may go on once its connection or the process is to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for the head of a request. hyper refuses less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Wait after a failed accept: with no file descriptor left, the next one fails at once too.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a reload came to: what changed, or every fault.
pub type ReloadResult = Result<String, String>;

/// What the admin port asks of the server.
pub trait Hooks: Send + Sync {
    /// Whether new clients should be sent here.
    ///
    /// # Errors
    /// Why not, in a few words.
    fn ready(&self) -> Result<(), String>;

    /// The rings in force.
    fn ring_json(&self) -> serde_json::Value;

    /// The configuration in force, without secrets.
    fn config_json(&self) -> serde_json::Value;

    /// Reads the configuration again and puts it in force if it has no fault.
    ///
    /// # Cancel safety
    /// The future is dropped when its client goes or the time is up; the reload it began should go on.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>>;
}

/// What the admin port needs to answer.
pub struct AdminState {
    metrics: Arc<Metrics>,
    hooks: Box<dyn Hooks>,
    token: Option<String>,
    host_names: Vec<String>,
}

impl AdminState {
    /// Without a token, known by its addresses and as `localhost`.
    pub fn new(metrics: Arc<Metrics>, hooks: Box<dyn Hooks>) -> AdminState {
        AdminState { metrics, hooks, token: None, host_names: Vec::new() }
    }

    /// Whoever wants a change must show this token.
    #[must_use]
    pub fn with_token(mut self, token: String) -> AdminState {
        self.token = Some(token);
        self
    }

    /// Names, besides `localhost`, under which the port may be addressed.
    #[must_use]
    pub fn with_host_names(mut self, host_names: Vec<String>) -> AdminState {
        self.host_names = host_names;
        self
    }
}

/// Answers on `listener` until `shutdown`, then finishes the requests in progress.
///
/// Runs on any tokio runtime with I/O and time. All its tasks end before it does.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    // An address that cannot be told is treated as open to all.
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    loop {
        // Shutdown first, or a flood of connections could keep it from being seen; ended connections before new ones,
        // so that the count is right.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((_stream, peer)) if connections.len() >= CONNECTIONS_MAX => {
                    warn!(%peer, "admin connection closed: too many are open");
                }
                Ok((stream, _peer)) => {
                    connections.spawn(connection(stream, Arc::clone(&state), loopback, shutdown.clone()));
                }
                Err(error) => accept_failed(&error).await,
            },
        }
    }
    // Each ends by itself within `DRAIN_TIMEOUT`.
    while connections.join_next().await.is_some() {}
}

async fn accept_failed(error: &io::Error) {
    warn!(%error, "accept on the admin port");
    sleep(ACCEPT_RETRY).await;
}

/// One connection, from its first request to its end.
async fn connection(stream: TcpStream, state: Arc<AdminState>, loopback: bool, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(routes::answer(request, &state, loopback).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let mut running = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // The connection first: if it has ended there is nothing to drain.
    let ended = tokio::select! {
        biased;
        ended = running.as_mut() => Some(ended),
        () = shutdown.cancelled() => None,
        () = sleep(CONNECTION_LIFE) => None,
    };
    let ended = if let Some(ended) = ended {
        Ok(ended)
    } else {
        running.as_mut().graceful_shutdown();
        timeout(DRAIN_TIMEOUT, running.as_mut()).await
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin connection ended"),
        Err(_elapsed) => debug!("admin connection cut: its client did not finish in time"),
    }
}
