//! A TCP relay that misbehaves on command: it stands between the proxy and a store.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// What the relay does. Connections that are open follow a change at their next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Replies come this much later.
    Delay(Duration),
    /// Each connection is reset after so many bytes of replies: in the middle of one, more often than not.
    CutAfter(u64),
    /// A connection is accepted and closed at once.
    Refuse,
    /// Replies are taken and go nowhere, nor does what comes after them on their connection.
    Swallow,
    /// Requests are taken and go nowhere, nor does what comes after them on their connection.
    Lose,
    /// Requests are taken slowly: 16 KiB at most, then this long none.
    Slow(Duration),
}

struct Shared {
    fault: Mutex<Fault>,
    accepted: AtomicU64,
    stopped: AtomicBool,
    /// Both ends of each connection, by its number.
    open: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
}

/// The relay; it ends with its value.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    pub(crate) fn start(store: SocketAddr) -> Self {
        let listener = listen().expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            accepted: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            open: Mutex::new(BTreeMap::new()),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, store, &accepting));
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.shared.fault.lock().expect("no thread panics with it") = fault;
    }

    /// How many connections came so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Breaks every connection that is open now.
    pub(crate) fn cut_all(&self) {
        for streams in self.shared.open.lock().expect("no thread panics with it").values() {
            streams.iter().for_each(close);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.cut_all();
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

fn close(stream: &TcpStream) {
    // Fails only when it is closed already.
    drop(stream.shutdown(Shutdown::Both));
}

/// Its connections have a small receive buffer, so that a sender notices soon when nobody reads.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(64 * 1024)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, store: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        if *shared.fault.lock().expect("no thread panics with it") == Fault::Refuse {
            continue;
        }
        let Ok(store) = TcpStream::connect(store) else { continue };
        // No delay of our own: a relay that coalesces would hide split replies.
        for stream in [&client, &store] {
            drop(stream.set_nodelay(true));
        }
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        let ends = [clone(&client), clone(&store)];
        shared.open.lock().expect("no thread panics with it").insert(number, ends);
        let pair = (clone(&client), clone(&store));
        let (requests, replies) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || relay(client, store, &requests, Direction::Requests));
        thread::spawn(move || {
            relay(pair.1, pair.0, &replies, Direction::Replies);
            // Both directions end together.
            replies.open.lock().expect("no thread panics with it").remove(&number);
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

fn relay(mut from: TcpStream, mut to: TcpStream, shared: &Shared, direction: Direction) {
    let (mut chunk, mut passed, mut swallowed) = (vec![0; 16_384], 0, false);
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 {
            break;
        }
        let fault = *shared.fault.lock().expect("no thread panics with it");
        let (mut count, mut cut) = (count, false);
        // TCP loses nothing in the middle: a gap would be a peer that is out of step.
        if swallowed {
            continue;
        }
        if direction == Direction::Replies {
            match fault {
                Fault::None | Fault::Refuse | Fault::Lose | Fault::Slow(_) => {}
                Fault::Delay(delay) => thread::sleep(delay),
                Fault::CutAfter(limit) => {
                    let left = usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX);
                    // The rest of the chunk is lost, so that nothing may follow it, whatever is set meanwhile.
                    cut = left <= count;
                    count = count.min(left);
                }
                Fault::Swallow => {
                    swallowed = true;
                    continue;
                }
            }
        } else if let Fault::Slow(pause) = fault {
            thread::sleep(pause);
        } else if fault == Fault::Lose {
            swallowed = true;
            continue;
        }
        if to.write_all(&chunk[..count]).is_err() || cut {
            break;
        }
        passed += u64::try_from(count).expect("a chunk is small");
    }
    [&from, &to].into_iter().for_each(close);
}
