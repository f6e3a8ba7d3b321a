//! A [`Store`] behind a TCP listener, on one thread.
//!
//! # Invariants
//! - Connections, the bytes of a request and the replies that wait to be written are bounded.
//! - The replies to a batch of pipelined requests leave in one write, unless they pass [`WRITE_BYTES`].

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::store::{SessionState, Store};
use crate::protocol::resp::{Limits, ProtocolError, RequestScan, Scanned, split_inline};

const CONNECTIONS_MAX: usize = 1024;

/// The longest request, whole. A demo store does not take Redis's 512 MiB.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// A million words of one request; what they hold is bounded by [`REQUEST_BYTES_MAX`].
const LIMITS: Limits = Limits { arguments_max: 1 << 20, ..Limits::REDIS };
const READ_BYTES: usize = 16 << 10;
const WRITE_BYTES: usize = 1 << 20;

/// How long a client may take to read what was written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often expired keys are looked for, and how many rounds at most each time.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(100);
const EXPIRE_ROUNDS_MAX: usize = 50;

/// The embedded demo store on a socket: data lives in memory and goes with the process.
#[derive(Debug)]
pub struct EmbeddedServer {
    listener: std::net::TcpListener,
    local_addr: SocketAddr,
    memory_bytes_max: usize,
}

impl EmbeddedServer {
    /// Binds the listener; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, local_addr, memory_bytes_max: super::MEMORY_BYTES_MAX_DEFAULT })
    }

    /// Sets the memory cap of the store, in bytes.
    #[must_use]
    pub fn with_memory_bytes_max(mut self, bytes: usize) -> Self {
        self.memory_bytes_max = bytes;
        self
    }

    /// The address clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then ends every connection. To be run on a current-thread runtime.
    ///
    /// # Errors
    /// When the runtime refuses the listener.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut store = Store::new(u64::from(self.local_addr.port()));
        store.set_memory_bytes_max(self.memory_bytes_max);
        LocalSet::new().run_until(serve(listener, Rc::new(RefCell::new(store)), shutdown)).await;
        Ok(())
    }
}

async fn serve(listener: TcpListener, store: Rc<RefCell<Store>>, shutdown: CancellationToken) {
    let mut sessions = JoinSet::new();
    let mut next_id = 1;
    let mut ticks = interval(EXPIRE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The end first, then room for new connections, then they, then the housekeeping.
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // Out of file descriptors, most likely: a tick from now one may be free.
                    ticks.tick().await;
                    continue;
                };
                if sessions.len() < CONNECTIONS_MAX {
                    sessions.spawn_local(session(stream, Rc::clone(&store), next_id));
                    next_id += 1;
                } else if stream.try_write(b"-ERR max number of clients reached\r\n").is_err() {
                    tracing::debug!("a refused client did not take its reply");
                }
            }
            _ = ticks.tick() => expire(&mut store.borrow_mut()),
        }
    }
    sessions.shutdown().await;
}

/// While a good part of the sampled keys are due, there are more.
fn expire(store: &mut Store) {
    const MANY: usize = 5;
    let now_ms = wall_clock_ms();
    for _ in 0..EXPIRE_ROUNDS_MAX {
        if store.expire_sample(now_ms) < MANY {
            break;
        }
    }
}

async fn session(mut stream: TcpStream, store: Rc<RefCell<Store>>, id: u64) {
    if let Err(error) = converse(&mut stream, &store, id).await {
        tracing::debug!(%error, "a session of the embedded store ended");
    }
}

async fn converse(stream: &mut TcpStream, store: &RefCell<Store>, id: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = SessionState::new(id);
    let (mut requests, mut replies, mut scan) = (Vec::new(), Vec::new(), RequestScan::default());
    loop {
        requests.reserve(READ_BYTES);
        if stream.read_buf(&mut requests).await? == 0 {
            return Ok(());
        }
        let mut used = 0;
        while let Batch::Unfinished = run_batch(store, &mut session, &mut scan, &requests, &mut used, &mut replies) {
            write(stream, &mut replies).await?;
        }
        requests.drain(..used);
        if requests.len() > REQUEST_BYTES_MAX {
            session.closing = true;
            replies.extend_from_slice(b"-ERR Protocol error: request is too big for the embedded demo store\r\n");
        }
        write(stream, &mut replies).await?;
        if session.is_closing() {
            return stream.shutdown().await;
        }
        // Only between requests: in the middle of a long one it would copy what is there at every read.
        if requests.is_empty() {
            requests.shrink_to(READ_BYTES);
            if scan.heap_bytes() > READ_BYTES {
                scan = RequestScan::default();
            }
        }
    }
}

async fn write(stream: &mut TcpStream, replies: &mut Vec<u8>) -> io::Result<()> {
    if !replies.is_empty() {
        timeout(WRITE_TIMEOUT, stream.write_all(replies)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        replies.clear();
        replies.shrink_to(READ_BYTES);
    }
    Ok(())
}

enum Batch {
    /// Every whole request was run.
    Finished,
    /// The replies so far should be written first.
    Unfinished,
}

fn run_batch(
    store: &RefCell<Store>,
    session: &mut SessionState,
    scan: &mut RequestScan,
    requests: &[u8],
    used: &mut usize,
    replies: &mut Vec<u8>,
) -> Batch {
    let mut store = store.borrow_mut();
    let now_ms = wall_clock_ms();
    while !session.closing {
        if replies.len() > WRITE_BYTES {
            return Batch::Unfinished;
        }
        let rest = requests.get(*used..).unwrap_or_default();
        let taken = take_request(scan, rest, |words| store.execute(session, words, now_ms, replies));
        match taken {
            Ok(None) => break,
            Ok(Some(len)) => *used += len,
            Err(error) => {
                replies.extend_from_slice(format!("-ERR Protocol error: {error}\r\n").as_bytes());
                session.closing = true;
            }
        }
    }
    Batch::Finished
}

/// Runs the request that `bytes` begin with, once it is whole; gives its length then.
fn take_request(
    scan: &mut RequestScan,
    bytes: &[u8],
    run: impl FnOnce(&[&[u8]]),
) -> Result<Option<usize>, ProtocolError> {
    let len = match scan.scan(bytes, &LIMITS)? {
        Scanned::Incomplete => return Ok(None),
        Scanned::Nothing { len } => len,
        Scanned::Request { len } => {
            run(&scan.bounds().iter().map(|bounds| word(bytes, *bounds)).collect::<Vec<_>>());
            len
        }
        Scanned::Inline { line, len } => {
            let line = bytes.get(..line).unwrap_or_default();
            let words = split_inline(line).map_err(|_unbalanced| ProtocolError::UnbalancedQuotes)?;
            run(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            len
        }
    };
    scan.reset();
    Ok(Some(len))
}

/// The part of a request between two places that its scan has found.
fn word(request: &[u8], (from, to): (u32, u32)) -> &[u8] {
    // Both are places in a buffer, so they fit.
    let place = |offset: u32| usize::try_from(offset).unwrap_or(usize::MAX);
    request.get(place(from)..place(to)).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the one place where the store's time comes from")]
fn wall_clock_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
