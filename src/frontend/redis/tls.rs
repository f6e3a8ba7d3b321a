//! Clients that come in TLS: their handshake, before there is a session.
//!
//! # Invariants
//! - A handshake ends within the listener's `handshake_timeout_ms`, and soon when the worker drains.
//! - At most [`HANDSHAKES_MAX`] are under way in one worker. The next client is turned away: those that say nothing would keep
//!   it waiting for as long as they may.
//! - Between two steps of handshakes the worker looks at its sockets: a thousand clients that connect at once delay a request by
//!   one step, which is up to a millisecond of computing, and not by a thousand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription as Alert;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::worker::{Leaving, Worker};
use crate::backend::Stream;
use crate::backend::tls::{HandshakeError, Tls};
use crate::clock::Moment;
use crate::command::reply;
use crate::config::ListenerTls;
use crate::metrics::{Handshake, ListenerCells};

/// Handshakes that may be under way in one worker. Each holds some ten kilobytes.
const HANDSHAKES_MAX: usize = 1024;
/// How long one may go on once the worker drains.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How often a failed handshake is logged: whoever can connect can fail.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// The handshakes that are under way in one worker.
pub(super) struct Handshakes {
    open: Cell<usize>,
    /// Whose turn it is to compute.
    turn: Semaphore,
    drains: CancellationToken,
    /// When a failed one was last logged, and how many were not since.
    said: Cell<Option<Moment>>,
    unsaid: Cell<u64>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            open: Cell::default(),
            turn: Semaphore::new(1),
            drains: CancellationToken::new(),
            said: Cell::default(),
            unsaid: Cell::default(),
        }
    }
}

impl Handshakes {
    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.get() == 0
    }

    /// Ends those soon that do not end themselves.
    pub(super) fn drain(&self) {
        self.drains.cancel();
    }
}

impl Worker {
    /// Shakes hands with a client, then serves it.
    pub(super) fn shake_hands(
        self: &Rc<Self>,
        socket: std::net::TcpStream,
        tls: ListenerTls,
        listener: usize,
        cells: Arc<ListenerCells>,
        leaving: Leaving,
    ) {
        if self.handshakes.open.get() >= HANDSHAKES_MAX {
            cells.handshakes(Handshake::Crowded).increment();
            return;
        }
        let Ok(socket) = tokio::net::TcpStream::from_std(socket) else { return };
        self.handshakes.open.set(self.handshakes.open.get() + 1);
        let worker = Rc::clone(self);
        self.context.spawn(async move {
            let peer = socket.peer_addr().ok();
            let mut plain = Vec::new();
            reply::tls_needed(&mut plain);
            let shaken = tokio::select! {
                biased; // Who is done is served, however late it is.
                shaken = Tls::accept(socket, tls.config, &worker.handshakes.turn, &plain) => Some(shaken),
                () = tokio::time::sleep(tls.handshake_timeout) => None,
                () = worker.handshakes.drained() => None,
            };
            let result = shaken
                .as_ref()
                .map_or(Handshake::TimedOut, |shaken| shaken.as_ref().map_or_else(judge, |_| Handshake::Ok));
            cells.handshakes(result).increment();
            match shaken {
                Some(Ok(stream)) => worker.serve(Stream::Tls(Box::new(stream)), listener, cells, leaving),
                Some(Err(error)) => worker.log_handshake(result, peer, &error.to_string()),
                None => worker.log_handshake(result, peer, "the TLS handshake took too long"),
            }
            // Last: a drain waits for it, and then for the session.
            worker.handshakes.open.set(worker.handshakes.open.get() - 1);
        });
    }

    fn log_handshake(&self, result: Handshake, peer: Option<std::net::SocketAddr>, why: &str) {
        let handshakes = &self.handshakes;
        let now = self.context.clock.tick();
        let is_quiet = handshakes.said.get().is_some_and(|said| now.since(said) < SAID_EVERY);
        let peer = peer.map(tracing::field::display);
        // A connection that says nothing and goes is how machines ask whether the port is open.
        if is_quiet || result == Handshake::Closed {
            tracing::debug!(peer, why, "a client did not get through the TLS handshake");
            handshakes.unsaid.set(handshakes.unsaid.get() + u64::from(is_quiet));
            return;
        }
        handshakes.said.set(Some(now));
        let more = handshakes.unsaid.replace(0);
        tracing::warn!(peer, why, more, "a client did not get through the TLS handshake");
    }
}

impl Handshakes {
    async fn drained(&self) {
        self.drains.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    }
}

/// What kind of failure it was.
fn judge(error: &HandshakeError) -> Handshake {
    use rustls::Error;
    match error {
        HandshakeError::Plain => Handshake::Plain,
        HandshakeError::Closed | HandshakeError::Socket(_) => Handshake::Closed,
        HandshakeError::Refused(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => {
            Handshake::Certificate
        }
        HandshakeError::Refused(Error::AlertReceived(alert)) if *alert != Alert::CloseNotify => Handshake::Refused,
        HandshakeError::Refused(_) | HandshakeError::Name(_) => Handshake::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CertificateError, Error, InvalidMessage};

    #[track_caller]
    fn check(error: &HandshakeError, want: Handshake) {
        assert_eq!(judge(error), want, "{error}");
    }

    #[test]
    fn failures_are_counted_by_their_kind() {
        let refused = HandshakeError::Refused;
        check(&HandshakeError::Plain, Handshake::Plain);
        check(&HandshakeError::Closed, Handshake::Closed);
        check(&HandshakeError::Socket(std::io::ErrorKind::ConnectionReset.into()), Handshake::Closed);
        check(&refused(Error::NoCertificatesPresented), Handshake::Certificate);
        check(&refused(Error::InvalidCertificate(CertificateError::UnknownIssuer)), Handshake::Certificate);
        check(&refused(Error::AlertReceived(Alert::UnknownCA)), Handshake::Refused);
        check(&refused(Error::InvalidMessage(InvalidMessage::InvalidContentType)), Handshake::Protocol);
        check(&refused(Error::DecryptError), Handshake::Protocol);
    }
}
