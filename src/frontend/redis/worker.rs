//! What the sessions of one worker share, and what other threads ask of a worker. Why so little is shared:
//! `docs/decisions/2026-11-23-one-thread-per-worker.md`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::{mpsc, oneshot};

use super::acl_changes::LiveUsers;
use super::acl_log::AclLog;
use super::clients::Ask;
use super::databases::Databases;
use super::info::Figures;
use super::latency::Latency;
use super::monitor::Feed;
use super::output::Slot;
use super::pause::{Functions, Paused};
use super::session::Session;
use super::slowlog::{Added, SlowLog};
use super::tls::Handshakes;
use super::tuned::Tuned;
use crate::backend::{Context, Limits, Stream};
use crate::clock::Moment;
use crate::coordinator::pubsub::Census;
use crate::coordinator::{Coordinator, Signs, Sources};
use crate::listener::Client;
use crate::metrics::{ListenerCells, Metrics, WorkerCells};
use crate::protocol::resp::RequestScan;
use crate::topology::{Topology, View};

/// Slot queues that are kept for the next session that needs one, and the longest of them.
const SLOT_QUEUES_MAX: usize = 256;
const SLOT_QUEUE_LEN_MAX: usize = 128;
/// How often a worker looks after what no event announces.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How long a worker's buffers may be full before those clients that hold most are closed: nothing is read meanwhile, and
/// who waits for room may wait for clients that never make any.
const FULL_MAX: Duration = Duration::from_secs(1);
/// How often the allocator is called though nobody needs memory, and for how much: see [`call_the_allocator`].
const ALLOCATOR_CALL: Duration = Duration::from_secs(1);
const ALLOCATOR_CALL_BYTES: usize = 1024 * 1024;
/// A client that holds less is not closed for it.
const WORTH_CLOSING_BYTES: usize = 64 * 1024;

/// What another thread asks of a worker.
#[derive(Debug)]
pub enum Order {
    /// Serve this client, which came in on the listener of that number.
    Serve(Client, usize),
    /// The topology has changed: take it now, not at the next request.
    Refresh,
    /// What a client asks about the others.
    Ask(Ask),
    /// Finish what has come in, then close.
    Drain,
}

/// All workers, as one of them sees the others.
#[derive(Debug)]
pub struct Fleet {
    /// Where orders go, in the order of the workers' numbers.
    pub workers: Vec<mpsc::Sender<Order>>,
    /// How many clients each has.
    pub loads: Vec<Arc<AtomicU64>>,
    /// What every worker's requests see.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Who listens to messages.
    pub census: Arc<Census>,
    /// The number of the next client.
    pub next_client: AtomicU64,
    /// The texts of scripts that clients have sent.
    pub sources: Arc<Sources>,
    /// Who may sign in, where that was changed at run time.
    pub users: LiveUsers,
    /// What clients were not allowed of late.
    pub acl_log: AclLog,
    /// Where a reload of the configuration is asked for.
    pub ask_reload: mpsc::Sender<oneshot::Sender<Result<String, String>>>,
    /// What the workers tell each other of clients that wait.
    pub signs: Arc<Signs>,
    /// When the process started.
    pub started: SystemTime,
    /// Another number for each process.
    pub run_id: u128,
    /// The slow requests of all workers.
    pub slowlog: SlowLog,
    /// When requests took long.
    pub latency: Latency,
    /// What clients have set while the process runs.
    pub tuned: Tuned,
    /// What `INFO` remembers.
    pub figures: Figures,
}

/// One worker.
pub struct Worker {
    pub(super) context: Rc<Context>,
    pub(super) coordinator: Rc<Coordinator>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) sessions: RefCell<HashMap<u64, Rc<Session>>>,
    pub(super) handshakes: Handshakes,
    listeners: Vec<Arc<ListenerCells>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) cells: Arc<WorkerCells>,
    load: Arc<AtomicU64>,
    cache: RefCell<Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>>,
    view: RefCell<Rc<View>>,
    pub(super) databases: Databases,
    scan: Cell<Option<Box<RequestScan>>>,
    slot_queues: RefCell<Vec<VecDeque<Slot>>>,
    draining: Cell<bool>,
    full_since: Cell<Option<Moment>>,
    allocator_called: Cell<Moment>,
    /// Whether requests are looked at on their way: there is a pause, a monitor, or a client that tracks keys.
    pub(super) attention: Cell<bool>,
    /// How many clients track keys.
    pub(super) tracking_clients: Cell<usize>,
    pub(super) pause: Cell<Option<(Paused, Moment)>>,
    pub(super) functions: Functions,
    pub(super) monitors: RefCell<Vec<Feed>>,
    /// From when on a request is looked at for having taken long: for an entry of `SLOWLOG`, or an event of `LATENCY`.
    pub(super) slow: Cell<Duration>,
    pub(super) slow_entry: Cell<Duration>,
    pub(super) slow_event: Cell<Duration>,
    pub(super) slow_entries: Added,
    pub(super) slow_entries_max: Cell<usize>,
    /// Which of the workers this is. The first does what is done once for all.
    index: usize,
}

/// Counts a client out when it is gone.
pub(super) struct Leaving(Arc<AtomicU64>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Worker number `index`; `listeners` are the names of those that are open. Nodes begin to connect.
    pub fn start(index: usize, fleet: &Arc<Fleet>, listeners: &[String], metrics: &Arc<Metrics>) -> Rc<Self> {
        let mut cache = Cache::new(Arc::clone(&fleet.topology));
        let topology = Arc::clone(cache.load());
        let proxy = &topology.config.proxy;
        let workers = fleet.workers.len().max(1);
        let context = Rc::new(Context::new(Limits {
            connects_per_second_max: (proxy.connects_per_second_max / u32::try_from(workers).unwrap_or(1)).max(1),
            buffer_bytes_max: usize::try_from(proxy.memory_bytes_max).unwrap_or(usize::MAX) / workers,
        }));
        let view = Rc::new(View::build(topology, None, &context, metrics));
        let coordinator = Rc::new(Coordinator::new(&context, index, &fleet.sources, &fleet.signs, &fleet.census));
        coordinator.refresh(&view, metrics);
        coordinator.tracking().set_room(tracking_room(view.topology.config.proxy.tracking_bytes_max, workers));
        let worker = Rc::new(Self {
            coordinator,
            fleet: Arc::clone(fleet),
            sessions: RefCell::default(),
            handshakes: Handshakes::default(),
            listeners: listeners.iter().map(|name| metrics.listener(name)).collect(),
            metrics: Arc::clone(metrics),
            cells: metrics.worker(index),
            load: fleet.loads.get(index).map(Arc::clone).unwrap_or_default(),
            cache: RefCell::new(cache),
            view: RefCell::new(view),
            databases: Databases::default(),
            scan: Cell::default(),
            slot_queues: RefCell::default(),
            draining: Cell::new(false),
            full_since: Cell::default(),
            allocator_called: Cell::new(context.clock.tick()),
            attention: Cell::default(),
            tracking_clients: Cell::default(),
            pause: Cell::default(),
            functions: Functions::default(),
            monitors: RefCell::default(),
            slow: Cell::new(Duration::MAX),
            slow_entry: Cell::new(Duration::MAX),
            slow_event: Cell::new(Duration::MAX),
            slow_entries: Added::default(),
            slow_entries_max: Cell::default(),
            index,
            context,
        });
        worker.tune(&worker.view().topology);
        worker
    }

    /// Carries out orders until it is told to drain and has no client left.
    pub async fn run(self: Rc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // Orders first: a drain must not wait behind housekeeping.
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => self.drain(),
                },
                _ = housekeeping.tick() => self.keep_house(),
            }
            if self.draining.get() && self.sessions.borrow().is_empty() && self.handshakes.is_empty() {
                break;
            }
        }
        self.coordinator.end();
        self.view.borrow().leave();
        self.leave_databases();
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Serve(stream, listener) => self.admit(stream, listener),
            Order::Refresh => drop(self.view()),
            Order::Ask(ask) => self.answer_ask(ask),
            Order::Drain => self.drain(),
        }
    }

    fn drain(&self) {
        self.draining.set(true);
        self.handshakes.drain();
        self.end_pause();
        self.wake_all();
    }

    pub(super) fn wake_all(&self) {
        for session in self.sessions.borrow().values() {
            session.wake();
        }
    }

    fn keep_house(&self) {
        self.cells.buffers_bytes.set(i64::try_from(self.context.buffered_bytes()).unwrap_or(i64::MAX));
        let now = self.context.clock.tick();
        let view = self.view();
        self.coordinator.pubsub().keep_house();
        self.keep_databases(&view, now);
        self.keep_tracking();
        self.keep_pause();
        if self.index == 0 {
            self.fleet.figures.sample(now, || self.metrics.traffic());
        }
        for session in self.sessions.borrow().values() {
            session.keep_house(&view, now);
        }
        if self.context.is_full() {
            let since = self.full_since.get().unwrap_or(now);
            self.full_since.set(Some(since));
            if now.since(since) >= FULL_MAX {
                self.close_the_biggest();
            }
        } else {
            self.full_since.set(None);
        }
        if now.since(self.allocator_called.get()) >= ALLOCATOR_CALL {
            self.allocator_called.set(now);
            call_the_allocator();
        }
    }

    /// Closes the clients that hold most, until a quarter of the memory is free.
    fn close_the_biggest(&self) {
        let mut excess_bytes = self.context.excess_bytes();
        let sessions = self.sessions.borrow();
        let mut holders: Vec<(usize, &Rc<Session>)> = sessions
            .values()
            .map(|session| (session.accounted_bytes(), session))
            .filter(|(bytes, _)| *bytes >= WORTH_CLOSING_BYTES)
            .collect();
        holders.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, session) in holders {
            if excess_bytes == 0 {
                return;
            }
            excess_bytes = excess_bytes.saturating_sub(bytes);
            session.close_for_memory();
        }
    }

    fn admit(self: &Rc<Self>, client: Client, listener: usize) {
        // The acceptor has counted the client; whoever lets it go counts it out.
        let leaving = Leaving(Arc::clone(&self.load));
        let Some(cells) = self.listeners.get(listener).map(Arc::clone) else { return };
        let tls = self.view().topology.listener(listener).and_then(|listener| listener.tls.clone());
        match (client, tls) {
            (Client::Tcp(stream), None) => {
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
                self.serve(Stream::Tcp(stream), listener, cells, leaving);
            }
            (Client::Tcp(stream), Some(tls)) => self.shake_hands(stream, tls, listener, cells, leaving),
            (Client::Unix(stream), _) => {
                let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
                self.serve(Stream::Unix(stream), listener, cells, leaving);
            }
        }
    }

    pub(super) fn serve(self: &Rc<Self>, stream: Stream, listener: usize, cells: Arc<ListenerCells>, leaving: Leaving) {
        let id = self.fleet.next_client.fetch_add(1, Ordering::Relaxed);
        let session = Session::new(id, listener, stream, self, cells);
        self.sessions.borrow_mut().insert(id, Rc::clone(&session));
        let worker = Rc::clone(self);
        self.context.spawn(async move {
            session.run().await;
            drop(worker.sessions.borrow_mut().remove(&session.id));
            let mut sessions = worker.sessions.borrow_mut();
            if sessions.capacity() > 8 * sessions.len().max(64) {
                sessions.shrink_to_fit();
            }
            drop(leaving);
        });
    }

    /// The view that a batch of requests uses; takes a changed topology at once.
    #[inline]
    pub(super) fn view(&self) -> Rc<View> {
        let mut cache = self.cache.borrow_mut();
        let newest = cache.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(newest, &view.topology) {
            *view = Rc::new(View::build(Arc::clone(newest), Some(&view), &self.context, &self.metrics));
            self.coordinator.refresh(&view, &self.metrics);
            self.coordinator.pubsub().refresh(&view);
            self.coordinator.tracking().refresh(&view);
            self.tune(newest);
            let room = tracking_room(newest.config.proxy.tracking_bytes_max, self.fleet.workers.len());
            self.coordinator.tracking().set_room(room);
        }
        Rc::clone(&view)
    }

    /// Which of the workers this is.
    pub(super) fn number(&self) -> usize {
        self.index
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Lends the scanner that requests which arrive whole are scanned with.
    #[inline]
    #[expect(clippy::unnecessary_box_returns, reason = "a session that keeps it keeps the box")]
    pub(super) fn take_scan(&self) -> Box<RequestScan> {
        self.scan.take().unwrap_or_default()
    }

    #[inline]
    pub(super) fn return_scan(&self, mut scan: Box<RequestScan>) {
        scan.reset();
        // One that grew with a huge request is not kept (FAILURES F4).
        if scan.heap_bytes() < 64 * 1024 {
            self.scan.set(Some(scan));
        }
    }

    #[inline]
    pub(super) fn take_slots(&self) -> VecDeque<Slot> {
        self.slot_queues.borrow_mut().pop().unwrap_or_default()
    }

    #[inline]
    pub(super) fn return_slots(&self, slots: VecDeque<Slot>) {
        let mut kept = self.slot_queues.borrow_mut();
        if slots.capacity() > 0 && slots.capacity() <= SLOT_QUEUE_LEN_MAX && kept.len() < SLOT_QUEUES_MAX {
            kept.push(slots);
        }
    }
}

/// One worker's part of the memory for what clients track.
fn tracking_room(bytes_max: u64, workers: usize) -> usize {
    usize::try_from(bytes_max).unwrap_or(usize::MAX) / workers.max(1)
}

/// Has the allocator look for memory to give back (FAILURES F4). mimalloc returns pages a second after they were freed,
/// but looks at the time only when it frees others (`_mi_page_free` in its page.c): what the end of a burst freed would
/// stay for as long as the proxy has little to do. A block of more than 512 KiB is a page of its own, freed at once;
/// nothing writes to it, so that it takes no memory.
fn call_the_allocator() {
    // Without the black box the compiler may leave both calls out.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ALLOCATOR_CALL_BYTES)));
}
