//! Builds the parts from one configuration, starts them, swaps the topology on reload, drains.
//!
//! The thread that calls [`Server::run`] is the control thread: it accepts clients, answers the admin port, watches the
//! file and the signals. Each worker has a thread and a current-thread runtime of its own
//! (`docs/decisions/2026-11-23-one-thread-per-worker.md`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState, Hooks, ReloadResult};
use crate::config::watch::{Change, Watch};
use crate::config::{self, Bind, Config, LoadError};
use crate::coordinator::Signs;
use crate::frontend::redis::{AclLog, Figures, Fleet, Latency, LiveUsers, Order, SlowLog, Tuned, Worker};
use crate::listener::{self, Client, Intake, Socket};
use crate::metrics::{CertificateFacts, LoadedConfig, Metrics, NodeFacts, PoolFacts, TopologyFacts};
use crate::topology::{Topology, TopologyError};

/// Orders that may wait for a worker; the acceptor waits when there are more.
const ORDERS_MAX: usize = 1024;
/// Reloads that may be asked for at a time over the admin port.
const RELOADS_MAX: usize = 16;
/// Tasks that a worker runs before it looks at its sockets again: enough for all clients that one look woke, so that
/// their requests to one node leave in one write.
const EVENT_INTERVAL: u32 = 256;

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The rings cannot be built.
    #[error("build the topology")]
    Topology(#[from] TopologyError),
    /// A port cannot be opened.
    #[error("listen on {address}")]
    Bind {
        /// Which.
        address: Bind,
        /// Why.
        source: io::Error,
    },
    /// A thread, a runtime or a signal handler cannot be had.
    #[error("start the {0}")]
    System(&'static str, #[source] io::Error),
    /// A worker ended by itself, which is a defect of ours.
    #[error("worker {0} ended unexpectedly")]
    Worker(usize),
}

/// Serves until a signal says stop.
///
/// # Errors
/// See [`ServerError`].
pub fn serve(path: &Path) -> Result<(), ServerError> {
    let config = config::load(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServerError::System("control runtime", error))?;
    runtime.block_on(async { Server::start(config, path)?.run().await })
}

/// A running proxy.
pub struct Server {
    control: Arc<Control>,
    workers: Vec<oneshot::Receiver<()>>,
    listeners: Vec<Socket>,
    admin: Option<TcpListener>,
    reloads: mpsc::Receiver<oneshot::Sender<ReloadResult>>,
    watch: Watch,
}

/// What the control thread's tasks share.
struct Control {
    path: PathBuf,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    open: Vec<Bind>,
    draining: AtomicBool,
    /// What was wrong with the file when it was last read; nothing if it is in force.
    reload_fault: Mutex<Option<String>>,
    ask_reload: mpsc::Sender<oneshot::Sender<ReloadResult>>,
}

impl Server {
    /// Opens the ports and starts the workers. Must be called within a runtime.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn start(config: Config, path: &Path) -> Result<Self, ServerError> {
        let mut inherited = listenfd::ListenFd::from_env();
        let open: Vec<Bind> = config.listeners.iter().map(|listener| listener.bind.clone()).collect();
        let names: Vec<String> = config.listeners.iter().map(|listener| listener.name.clone()).collect();
        let mut listeners = Vec::new();
        for (number, listener) in config.listeners.iter().enumerate() {
            listeners.push(open_listener(listener, number, &mut inherited)?);
        }
        let admin = config.admin.bind.map(open_admin).transpose()?;

        let metrics = Metrics::new();
        let seen = config.fingerprint;
        let workers = config.proxy.workers.max(1);
        let topology = Topology::build(Arc::new(config), 1, &open)?;
        let facts = loaded(&topology);
        warn_of_expired(&facts);
        metrics.process().config_started(facts);
        let (orders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(ORDERS_MAX)).unzip();
        let (ask_reload, reloads) = mpsc::channel(RELOADS_MAX);
        #[expect(clippy::disallowed_methods, reason = "the start of the process is a wall-clock time")]
        let fleet = Arc::new(Fleet {
            workers: orders,
            loads: (0..workers).map(|_| Arc::default()).collect(),
            topology: Arc::new(ArcSwap::from_pointee(topology)),
            census: Arc::default(),
            next_client: AtomicU64::new(1),
            sources: Arc::default(),
            users: LiveUsers::default(),
            acl_log: AclLog::default(),
            ask_reload: ask_reload.clone(),
            signs: Signs::new(workers),
            started: SystemTime::now(),
            run_id: fastrand::u128(..),
            slowlog: SlowLog::default(),
            latency: Latency::default(),
            tuned: Tuned::default(),
            figures: Figures::default(),
        });
        let mut ended = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            ended.push(start_worker(index, &fleet, &names, &metrics, inbox)?);
        }
        let control = Arc::new(Control {
            path: path.to_owned(),
            fleet,
            metrics,
            open,
            draining: AtomicBool::new(false),
            reload_fault: Mutex::new(None),
            ask_reload,
        });
        Ok(Self { control, workers: ended, listeners, admin, reloads, watch: Watch::start(path, seen) })
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    ///
    /// # Errors
    /// [`ServerError::Worker`] when a worker ended by itself.
    pub async fn run(mut self) -> Result<(), ServerError> {
        let system = |error| ServerError::System("signal handlers", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(system)?;
        let stop_accepting = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        let acceptors = self.start_acceptors(&stop_accepting);
        let admin = self.start_admin(&stop_admin);
        let mut watchdog = watchdog();
        let poke = self.watch.poke();
        self.control.announce();
        let failed = {
            let mut died = std::pin::pin!(first_ended(&mut self.workers));
            loop {
                tokio::select! {
                    biased; // The end first; then what an operator asks for.
                    _ = terminate.recv() => break None,
                    _ = interrupt.recv() => break None,
                    worker = &mut died => break Some(worker),
                    _ = hangup.recv() => poke.poke(),
                    Some(answer) = self.reloads.recv() => {
                        let result = self.control.reload();
                        // Who asked may have gone; the reload holds.
                        drop(answer.send(result));
                    }
                    change = self.watch.changed() => {
                        let why = match change { Change::Edited => "the file changed", Change::Poked => "asked for" };
                        tracing::info!(why, "reload");
                        drop(self.control.reload());
                    }
                    _ = watchdog.tick() => notify(&[sd_notify::NotifyState::Watchdog]),
                }
            }
        };
        self.control.draining.store(true, Ordering::Relaxed);
        notify(&[sd_notify::NotifyState::Stopping]);
        stop_accepting.cancel();
        acceptors.join_all().await;
        let result = if let Some(worker) = failed {
            Err(ServerError::Worker(worker))
        } else {
            self.control.drain(&mut self.workers).await;
            Ok(())
        };
        stop_admin.cancel();
        admin.join_all().await;
        result
    }

    fn start_acceptors(&mut self, stop: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let names: Vec<String> =
            self.control.fleet.topology.load().config.listeners.iter().map(|listener| listener.name.clone()).collect();
        for (number, (socket, name)) in self.listeners.drain(..).zip(names).enumerate() {
            let cells = self.control.metrics.listener(&name);
            let intake = Door { number, control: Arc::clone(&self.control) };
            tasks.spawn(listener::accept(socket, intake, cells, stop.clone()));
        }
        tasks
    }

    fn start_admin(&mut self, stop: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Some(socket) = self.admin.take() {
            let hooks = Box::new(AdminHooks(Arc::clone(&self.control)));
            let topology = self.control.fleet.topology.load();
            let configured = &topology.config.admin;
            let mut state = AdminState::new(Arc::clone(&self.control.metrics), hooks)
                .with_host_names(configured.host_names.clone());
            if let Some(token) = &configured.token {
                state = state.with_token(token.expose().to_owned());
            }
            tasks.spawn(admin::serve(socket, Arc::new(state), stop.clone()));
        }
        tasks
    }
}

fn open_listener(
    listener: &config::Listener,
    number: usize,
    inherited: &mut listenfd::ListenFd,
) -> Result<Socket, ServerError> {
    let failed = |source| ServerError::Bind { address: listener.bind.clone(), source };
    // systemd socket activation: sockets in the order of the listeners.
    let is_passed = number < inherited.len();
    match &listener.bind {
        Bind::Tcp(address) => {
            let passed = if is_passed { inherited.take_tcp_listener(number).map_err(failed)? } else { None };
            passed.map_or_else(|| listener::bind(*address), Ok).and_then(Socket::tcp).map_err(failed)
        }
        Bind::Unix(path) => {
            let passed = if is_passed { inherited.take_unix_listener(number).map_err(failed)? } else { None };
            let socket = passed.map_or_else(|| Socket::bind_unix(path, listener.socket_mode), Socket::unix);
            socket.map_err(failed)
        }
    }
}

fn open_admin(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address: Bind::Tcp(address), source };
    let socket = listener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(socket).map_err(failed)
}

/// Starts a worker's thread; the receiver tells when it ended, however it ended.
fn start_worker(
    index: usize,
    fleet: &Arc<Fleet>,
    listeners: &[String],
    metrics: &Arc<Metrics>,
    inbox: mpsc::Receiver<Order>,
) -> Result<oneshot::Receiver<()>, ServerError> {
    let (alive, ended) = oneshot::channel();
    let (fleet, listeners, metrics) = (Arc::clone(fleet), listeners.to_vec(), Arc::clone(metrics));
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let _alive: oneshot::Sender<()> = alive;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Err(error) => tracing::error!(%error, worker = index, "cannot start the runtime"),
                Ok(runtime) => runtime.block_on(async {
                    metrics.worker(index).watch_runtime(tokio::runtime::Handle::current().metrics());
                    Worker::start(index, &fleet, &listeners, &metrics).run(inbox).await;
                }),
            }
        })
        .map_err(|error| ServerError::System("worker thread", error))?;
    Ok(ended)
}

/// The number of the first worker that ended.
async fn first_ended(workers: &mut [oneshot::Receiver<()>]) -> usize {
    std::future::poll_fn(|context| {
        for (number, worker) in workers.iter_mut().enumerate() {
            if Pin::new(worker).poll(context).is_ready() {
                return std::task::Poll::Ready(number);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn watchdog() -> tokio::time::Interval {
    // Twice in the time that systemd allows; without a watchdog the tick tells nobody anything.
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_hours(1), |limit| limit / 2);
    tokio::time::interval(every.max(Duration::from_millis(1)))
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

fn loaded(topology: &Topology) -> LoadedConfig {
    let config = &topology.config;
    #[expect(clippy::disallowed_methods, reason = "when a configuration was loaded is a wall-clock time")]
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let pools = topology.pools.iter().zip(&config.pools).map(|(pool, configured)| {
        let nodes = configured.nodes.iter().zip(pool.ring.shares()).map(|(node, share)| NodeFacts {
            name: node.name.clone(),
            address: node.address.to_string(),
            zone: node.zone.clone().unwrap_or_default(),
            weight: node.weight,
            share,
        });
        PoolFacts { name: pool.name.clone(), fingerprint: pool.ring.fingerprint(), nodes: nodes.collect() }
    });
    LoadedConfig {
        at,
        hash: config.content_hash,
        clients_max: config.proxy.clients_max as u64,
        buffers_bytes_max: config.proxy.memory_bytes_max,
        certificates: certificates(config),
        topology: TopologyFacts { epoch: topology.epoch, pools: pools.collect() },
    }
}

/// Says which certificates nobody will accept any more. They are used all the same: it may be the clock that is wrong.
fn warn_of_expired(facts: &LoadedConfig) {
    for CertificateFacts { side, name, .. } in facts.certificates.iter().filter(|it| it.expires < facts.at.as_secs()) {
        tracing::warn!(side, name, "the certificate has expired");
    }
}

/// The certificates that are shown, and when they expire.
fn certificates(config: &Config) -> Vec<CertificateFacts> {
    let listeners = config.listeners.iter().map(|listener| {
        let expires = listener.tls.as_ref().and_then(|tls| tls.expires);
        ("listener", &listener.name, expires)
    });
    let pools = config.pools.iter().map(|pool| ("pool", &pool.name, pool.tls.as_ref().and_then(|tls| tls.expires)));
    let shown = |(side, name, expires): (&'static str, &String, Option<u64>)| {
        Some(CertificateFacts { side, name: name.clone(), expires: expires? })
    };
    listeners.chain(pools).filter_map(shown).collect()
}

impl Control {
    fn announce(&self) {
        let topology = self.fleet.topology.load();
        for listener in &topology.config.listeners {
            tracing::info!(listener = %listener.name, address = %listener.bind, tls = listener.tls.is_some(), "serving");
        }
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Reads the file again; a fault leaves everything as it is.
    fn reload(&self) -> ReloadResult {
        let result = self.try_reload();
        *self.reload_fault.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().cloned();
        match result {
            Ok(text) => {
                tracing::info!(what = %text, "reloaded");
                Ok(text)
            }
            Err(faults) => {
                self.metrics.process().reload_failed();
                tracing::error!("reload failed, the running configuration stays in force:\n{faults}");
                Err(faults)
            }
        }
    }

    fn try_reload(&self) -> ReloadResult {
        let before = self.fleet.topology.load_full();
        let config = Arc::new(config::load(&self.path).map_err(|error| error.to_string())?);
        let ignored = config::reload::restart_needed(&before.config, &config);
        let topology = before.replaced_by(Arc::clone(&config), &self.open).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{source}")
        })?;
        let facts = loaded(&topology);
        let epoch = topology.epoch;
        warn_of_expired(&facts);
        self.fleet.topology.store(Arc::new(topology));
        self.metrics.process().reload_succeeded(facts);
        for worker in &self.fleet.workers {
            // A worker that is busy takes the topology with its next request anyway.
            drop(worker.try_send(Order::Refresh));
        }
        for setting in &ignored {
            tracing::warn!(%setting, "this change needs a restart");
        }
        let mut text = format!("configuration {:016x} is in force as epoch {epoch}", config.content_hash);
        if !ignored.is_empty() {
            text.push_str("; a restart is needed for ");
            text.push_str(&ignored.join(", "));
        }
        Ok(text)
    }

    /// Lets the workers finish what has come in, for as long as the configuration allows.
    async fn drain(&self, workers: &mut Vec<oneshot::Receiver<()>>) {
        let timeout = self.fleet.topology.load().config.proxy.drain_timeout;
        let finished = async {
            for worker in &self.fleet.workers {
                // A worker that is gone has nothing to finish.
                drop(worker.send(Order::Drain).await);
            }
            for worker in workers {
                drop(worker.await);
            }
        };
        if tokio::time::timeout(timeout, finished).await.is_err() {
            tracing::warn!(
                timeout_ms = timeout.as_millis(),
                "drain timed out: connections that are still busy are cut"
            );
        }
    }
}

/// Where a listener's clients go: to the worker that has the fewest.
struct Door {
    number: usize,
    control: Arc<Control>,
}

impl Intake for Door {
    fn has_room(&self) -> bool {
        let fleet = &self.control.fleet;
        let clients: u64 = fleet.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum();
        clients < fleet.topology.load().config.proxy.clients_max as u64
    }

    fn speaks_tls(&self) -> bool {
        self.control.fleet.topology.load().listener(self.number).is_some_and(|listener| listener.tls.is_some())
    }

    async fn take(&self, client: Client) {
        let fleet = &self.control.fleet;
        let fewest = fleet.loads.iter().zip(&fleet.workers).min_by_key(|(load, _)| load.load(Ordering::Relaxed));
        let Some((load, worker)) = fewest else { return };
        load.fetch_add(1, Ordering::Relaxed);
        if worker.send(Order::Serve(client, self.number)).await.is_err() {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct AdminHooks(Arc<Control>);

impl Hooks for AdminHooks {
    fn ready(&self) -> Result<(), String> {
        if self.0.draining.load(Ordering::Relaxed) { Err("draining".to_owned()) } else { Ok(()) }
    }

    fn ring_json(&self) -> Value {
        let topology = self.0.fleet.topology.load();
        let pools = topology.pools.iter().zip(&topology.config.pools).map(|(pool, configured)| {
            let nodes = configured.nodes.iter().zip(pool.ring.shares()).map(|(node, share)| {
                json!({
                    "name": node.name, "address": node.address.to_string(), "zone": node.zone,
                    "weight": node.weight, "share": share,
                })
            });
            json!({
                "name": pool.name,
                "placement": pool.ring.spec().placement.to_string(),
                "hash": pool.ring.spec().hash.to_string(),
                "fingerprint": format!("{:016x}", pool.ring.fingerprint()),
                "nodes": nodes.collect::<Vec<_>>(),
            })
        });
        let fault = self.0.reload_fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({ "epoch": topology.epoch, "reload_fault": fault, "pools": pools.collect::<Vec<_>>() })
    }

    fn config_json(&self) -> Value {
        self.0.fleet.topology.load().config.effective.clone()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let ask = self.0.ask_reload.clone();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            ask.try_send(sender).map_err(|_| "too many reloads are asked for".to_owned())?;
            answer.await.map_err(|_| "the server is stopping".to_owned())?
        })
    }
}
