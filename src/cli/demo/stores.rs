//! The stores that a demo runs: built-in ones on threads of this process, or real servers as its children.
//!
//! # Invariants
//! - A store ends with its value: threads are joined, children are killed and waited for.
//! - A real server answers before it counts as started, or there is an error with its log in it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{free_port, loopback};
use crate::backend::embedded::EmbeddedServer;

/// The real servers, in the order in which they are looked for.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// How long a real server may take until it answers, and how often it is asked.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_INTERVAL: Duration = Duration::from_millis(20);

/// Which stores to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Threads of this process.
    Embedded,
    /// `redis-server` or `valkey-server`.
    Real,
}

/// Where to listen on loopback.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// There and nowhere else.
    Fixed(u16),
    /// There, or wherever there is room.
    Preferred(u16),
}

impl Place {
    /// Opens a socket there.
    pub(super) fn open<T>(self, bind: impl Fn(SocketAddr) -> io::Result<T>) -> anyhow::Result<T> {
        let (Self::Fixed(port) | Self::Preferred(port)) = self;
        match (bind(loopback(port)), self) {
            (Err(_taken), Self::Preferred(_)) => bind(loopback(0)).context("open any free port of 127.0.0.1"),
            (bound, _) => bound.with_context(|| format!("open port {port} of 127.0.0.1")),
        }
    }
}

/// Running stores.
pub(super) struct Stores {
    kind: Kind,
    ports: Vec<u16>,
    running: Vec<Store>,
}

enum Store {
    Embedded { stop: CancellationToken, thread: Option<JoinHandle<()>> },
    Real(Child),
}

impl Stores {
    /// Starts one store at each place; `path` is the configuration, beside which real servers log.
    pub(super) async fn start(
        kind: Kind,
        places: impl IntoIterator<Item = Place>,
        path: &Path,
    ) -> anyhow::Result<Self> {
        let mut stores = Self { kind, ports: Vec::new(), running: Vec::new() };
        for (index, place) in places.into_iter().enumerate() {
            let (store, port) = match kind {
                Kind::Embedded => start_embedded(place)?,
                Kind::Real => {
                    let port = free_port(place)?;
                    let log = path.with_file_name(format!("node-{}.log", index + 1));
                    (Store::Real(start_real(port, &log)?), port)
                }
            };
            stores.running.push(store);
            stores.ports.push(port);
        }
        for (store, port) in stores.running.iter_mut().zip(&stores.ports) {
            if let Store::Real(child) = store {
                answers(child, *port).await.with_context(|| format!("start a store on port {port}"))?;
            }
        }
        Ok(stores)
    }

    /// What they are.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where they listen.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let ended = match self {
            Self::Embedded { stop, thread } => {
                stop.cancel();
                thread.take().is_none_or(|thread| thread.join().is_ok())
            }
            // It keeps nothing, so there is nothing that it would have to finish.
            Self::Real(child) => child.kill().and_then(|()| child.wait()).is_ok(),
        };
        if !ended {
            tracing::warn!("a store of the demo did not end in order");
        }
    }
}

fn start_embedded(place: Place) -> anyhow::Result<(Store, u16)> {
    let server = place.open(EmbeddedServer::bind)?;
    let port = server.local_addr().port();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime of a store")?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let thread = std::thread::Builder::new()
        .name(format!("store-{port}"))
        .spawn(move || {
            if let Err(error) = runtime.block_on(server.run(stopped)) {
                tracing::error!(%error, port, "a store of the demo ended");
            }
        })
        .context("start the thread of a store")?;
    Ok((Store::Embedded { stop, thread: Some(thread) }, port))
}

fn start_real(port: u16, log: &Path) -> anyhow::Result<Child> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    for program in PROGRAMS {
        let (out, errors) = (file.try_clone().context("open a log")?, file.try_clone().context("open a log")?);
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            // Ctrl-C is for the demo alone: the proxy has replies to finish before its stores may go.
            .process_group(0)
            .spawn();
        match child {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot run {program}")),
        }
    }
    drop(std::fs::remove_file(log));
    bail!(
        "neither {} is in PATH: install one (on Debian: apt install redis-server), or leave --real out",
        PROGRAMS.join(" nor ")
    )
}

/// Waits until the server answers a PING.
async fn answers(child: &mut Child, port: u16) -> anyhow::Result<()> {
    let started = async {
        loop {
            if let Some(status) = child.try_wait().context("look after the server")? {
                bail!("the server ended ({status}); its log is beside quoit.toml");
            }
            if ping(port).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(START_INTERVAL).await;
        }
    };
    tokio::time::timeout(START_TIMEOUT, started).await.context("the server does not answer")?
}

async fn ping(port: u16) -> io::Result<()> {
    const PONG: [u8; 7] = *b"+PONG\r\n";
    let mut stream = TcpStream::connect(loopback(port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut reply = [0; PONG.len()];
    stream.read_exact(&mut reply).await?;
    if reply == PONG { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
