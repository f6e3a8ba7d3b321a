//! `quoit demo`: a proxy with stores of its own, to try things out.
//!
//! Starts the `stores`, writes the configuration (`file`) and serves it in this process, exactly as `quoit serve`
//! would. One store more than the ring has nodes is started, so that adding a node is an edit away.
//!
//! # Invariants
//! - Everything listens on loopback, and ends with this process.
//! - A file that is there already is used as it is, never written again.
//!
//! It keeps nothing: the stores live in memory, real ones run without persistence.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::server::Server;

mod banner;
mod file;
mod stores;

use banner::Banner;
use stores::{Kind, Place, Stores};

/// What is used where the command line names nothing else and nobody else listens there.
const PORT_DEFAULT: u16 = 6380;
const ADMIN_PORT_DEFAULT: u16 = 9380;
const STORE_PORT_DEFAULT: u16 = 7001;
const STORES_DEFAULT: u16 = 4;

const FILE_NAME: &str = "quoit.toml";

/// How many names are tried for a fresh folder.
const FOLDER_TRIES: usize = 16;

/// What `quoit demo` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// How many stores to start; the last one is left for you to add to the ring [default: 4]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: Option<u16>,
    /// On how many stores each key is kept; with more than one, all stores are in the ring [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=7))]
    replicas: Option<u16>,
    /// Start `redis-server` or `valkey-server` from PATH instead of the built-in demo stores
    #[arg(long)]
    real: bool,
    /// Where Redis clients connect [default: 6380, or a free port]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Where metrics and the ring are shown [default: 9380, or a free port]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: Option<u16>,
    /// The folder of quoit.toml; a file that is there already is used as it is [default: a new one for temporary files]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Demo {
    /// Runs until interrupted.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the control runtime")?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let path = self.folder()?.join(FILE_NAME);
        let kind = if self.real { Kind::Real } else { Kind::Embedded };
        let stores = match std::fs::read_to_string(&path) {
            Ok(text) => self.start_again(kind, &path, &text).await?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.start_afresh(kind, &path).await?,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let config = match super::load(&path)? {
            Ok(config) => config,
            Err(code) => return Ok(code),
        };
        let banner = Banner::new(&config, &path, &stores, &program());
        let server = Server::start(config, &path)?;
        // Listens from here on: a terminal can close as soon as it has shown something.
        let terminal_closed = terminal_closed()?;
        super::print(&banner.to_string())?;
        tokio::select! {
            biased; // The server's own end is the orderly one.
            result = server.run() => result?,
            () = terminal_closed => {}
        }
        drop(stores);
        if self.dir.is_none() {
            // On a terminal that is gone there is nobody to tell.
            let _unwritten = writeln!(anstream::stderr(), "{}", banner.farewell());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        match &self.dir {
            None => fresh_folder().context("make a folder for temporary files"),
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
                // Whole, so that what the banner shows works from anywhere.
                folder.canonicalize().with_context(|| format!("find the folder {}", folder.display()))
            }
        }
    }

    /// Starts stores on free ports and writes the file about them.
    async fn start_afresh(&self, kind: Kind, path: &Path) -> anyhow::Result<Stores> {
        let (count, replicas) = (self.nodes.unwrap_or(STORES_DEFAULT), self.replicas.unwrap_or(1));
        let count = if self.nodes.is_none() { count.max(replicas) } else { count };
        ensure!(replicas <= count, "{replicas} replicas do not fit on {count} stores");
        let places = (0..count).map(|index| Place::Preferred(STORE_PORT_DEFAULT + index));
        let stores = Stores::start(kind, places, path).await?;
        let proxy = self.port.map_or_else(|| free_port(Place::Preferred(PORT_DEFAULT)), Ok)?;
        let admin = self.admin_port.map_or_else(|| free_port(Place::Preferred(ADMIN_PORT_DEFAULT)), Ok)?;
        ensure!(proxy != admin, "clients and --admin-port cannot share port {proxy}");
        file::write(path, &file::text(proxy, admin, stores.ports(), replicas))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(stores)
    }

    /// Starts the stores of a file that an earlier demo wrote.
    async fn start_again(&self, kind: Kind, path: &Path, text: &str) -> anyhow::Result<Stores> {
        if self.nodes.is_some() || self.replicas.is_some() || self.port.is_some() || self.admin_port.is_some() {
            bail!(
                "{} is there already and says how many stores, replicas and which ports: name another --dir",
                path.display()
            );
        }
        Stores::start(kind, file::store_ports(text).into_iter().map(Place::Fixed), path).await
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port where nobody listens now. Somebody may a moment later; then its opening fails and says so.
fn free_port(place: Place) -> anyhow::Result<u16> {
    let listener = place.open(std::net::TcpListener::bind)?;
    Ok(listener.local_addr().context("read the port of a socket")?.port())
}

/// A new folder that only this user can enter.
fn fresh_folder() -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..FOLDER_TRIES {
        let folder = std::env::temp_dir().join(format!("quoit-demo-{:08x}", fastrand::u32(..)));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// How this program was called, so that what the banner shows can be called the same way.
fn program() -> String {
    std::env::args_os().next().unwrap_or_else(|| OsString::from("quoit")).to_string_lossy().into_owned()
}

/// Waits until the terminal that the demo was started from is closed. The proxy takes the signal that comes then for
/// the wish to reload, as of a service; a demo that nobody sees any more should not live on.
fn terminal_closed() -> io::Result<impl Future<Output = ()>> {
    let had_terminal = io::stdin().is_terminal();
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            if had_terminal && !io::stdin().is_terminal() {
                break;
            }
        }
    })
}
