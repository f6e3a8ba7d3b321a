//! One worker's handle to one store.
//! Why it may have more than one connection: `docs/decisions/2026-11-23-unread-replies.md`.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::breaker::{Breaker, BreakerOptions};
use super::connection::{Connection, Role};
use super::exclusive::Exclusive;
use super::handshake::{self, Credentials, Refusal};
use super::lease::Lease;
use super::programs::Programs;
use crate::backend::tls::ClientTls;
use crate::backend::{Cause, Context, ReplySink, Stream, Tag};
use crate::clock::Moment;
use crate::config::Address;
use crate::metrics::{ConnectResult, FailureKind, NodeCells};
use crate::protocol::resp::Version;

/// What a node is and what it may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeOptions {
    /// Its identity in the pool.
    pub name: String,
    /// Name and address, as people read it.
    pub label: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// How the connection is enciphered; none is plain text.
    pub tls: Option<ClientTls>,
    /// How quoit signs in.
    pub credentials: Option<Credentials>,
    /// The database that every connection is in before anything else is said on it.
    pub database: u16,
    /// Scripts that every new connection loads before it is used. A store that does not take them is down.
    pub scripts: Arc<[Arc<str>]>,
    /// Connect and handshake.
    pub connect_timeout: Duration,
    /// Waiting to be sent.
    pub queue_timeout: Duration,
    /// From sent to answered.
    pub service_timeout: Duration,
    /// Bytes that may wait to be sent.
    pub queue_bytes_max: usize,
    /// Requests that may wait for replies.
    pub in_flight_max: usize,
    /// Connections that clients may have to themselves.
    pub exclusive_connections_max: usize,
    /// A reply or request beyond this has a connection to itself.
    pub stream_threshold_bytes: u64,
    /// Opens and closes the breaker.
    pub breaker: BreakerOptions,
}

/// Healthy connections that are kept beside the current one, for each node, worker and version.
const SPARES_MAX: usize = 2;
/// Healthy connections that clients have just given back are kept, up to so many, for so long: who waits for an element has
/// as a rule come to wait for the next one, and a burst of elements ends many waits at once.
const RETURNED_MAX: usize = 64;
const RETURNED_KEPT: Duration = Duration::from_secs(1);
/// Connections that may be left to big or stalled requests at the same time, for each node, worker and version.
const DETACHED_MAX: usize = 16;
/// From so many of them on, one client that does not read its big reply has to make way for each further one.
const DETACHED_CROWDED: usize = 8;

/// How long after a probe succeeded all that is to follow from it is done, on a machine with much else to do.
const NOTICED_AFTER: Duration = Duration::from_secs(1);

/// How often a name is resolved again. The system's resolver tells no TTL; 30 s is what most clients use for it.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Lane {
    current: Option<Rc<Connection>>,
    spares: Vec<Rc<Connection>>,
    detached: Vec<Rc<Connection>>,
    exclusive: Vec<Rc<Connection>>,
}

/// A handle to a store. Cheap to share within its worker.
pub struct Node {
    pub(super) options: NodeOptions,
    pub(super) context: Rc<Context>,
    pub(super) cells: Arc<NodeCells>,
    lanes: [RefCell<Lane>; 2],
    breaker: RefCell<Breaker>,
    pub(super) last_good: Cell<Vec<SocketAddr>>,
    pub(super) programs: Programs,
    sweep: Notify,
    sweeping: Cell<bool>,
    /// When a client last gave back a connection.
    returned: Cell<Moment>,
    left: CancellationToken,
    generation: Cell<u64>,
}

impl Node {
    /// A handle. That for database 0 begins to connect at once, another one when it is first needed.
    pub fn start(options: NodeOptions, context: Rc<Context>, cells: Arc<NodeCells>) -> Rc<Self> {
        let node = Rc::new(Self {
            breaker: RefCell::new(Breaker::new(options.breaker)),
            options,
            cells,
            lanes: Default::default(),
            last_good: Cell::default(),
            programs: Programs::default(),
            sweep: Notify::new(),
            sweeping: Cell::new(false),
            returned: Cell::default(),
            left: CancellationToken::new(),
            generation: Cell::new(0),
            context,
        });
        node.context.spawn(sweep(Rc::downgrade(&node)));
        if node.options.database == 0 {
            drop(node.connect(Version::Resp2, Role::Current));
        }
        if node.options.address.is_name() {
            let watcher = Rc::clone(&node);
            node.context.spawn(async move { watcher.watch_name().await });
        }
        node
    }

    /// What it was started with.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// How many connections were opened so far. When it has changed, the store may have been restarted, or be another.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Whether the breaker lets requests through.
    #[inline]
    pub fn is_available(&self) -> bool {
        !self.breaker.borrow().is_open()
    }

    /// Whether it has been up for so long that every other worker and proxy has noticed: none waits longer than a probe is
    /// away from the next.
    #[inline]
    pub fn is_steady(&self) -> bool {
        let span = self.options.breaker.backoff_max + self.options.connect_timeout + NOTICED_AFTER;
        self.breaker.borrow().is_closed_since(span, self.context.clock.now())
    }

    /// Sends a request as it is.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    #[inline]
    pub fn send(
        self: &Rc<Self>,
        frame: &[u8],
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        let connection = self.admit(frame.len(), version, sink)?;
        connection.enqueue(frame, sink, tag, self.context.clock.now());
        Ok(())
    }

    /// Sends a request that `write` appends to the buffer; `bytes` is about how long it is.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    pub fn send_with(
        self: &Rc<Self>,
        bytes: usize,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        let connection = self.admit(bytes, version, sink)?;
        connection.enqueue_with(write, sink, tag, self.context.clock.now());
        Ok(())
    }

    /// Sends several requests that `write` appends in one piece and to which `count` replies come, such as `MULTI` …
    /// `EXEC`. The sink gets the last reply, or the first error among those before it.
    ///
    /// # Errors
    /// What can be refused at once; the sink hears nothing then.
    pub fn send_transaction(
        self: &Rc<Self>,
        bytes: usize,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        let connection = self.admit(bytes, version, sink)?;
        connection.enqueue_transaction(count, write, sink, tag, self.context.clock.now());
        Ok(())
    }

    /// A connection of its own for a request that is passed on while it is received.
    ///
    /// # Errors
    /// What can be refused at once.
    pub fn lease(self: &Rc<Self>, version: Version) -> Result<Lease, Cause> {
        if let Some(why) = self.breaker.borrow().open() {
            return Err(Cause::BreakerOpen(why));
        }
        let spare = {
            let mut lane = self.lane(version).borrow_mut();
            if lane.detached.len() >= DETACHED_MAX {
                return Err(Cause::Overloaded);
            }
            lane.spares.pop()
        };
        let connection = match spare {
            Some(connection) if !connection.is_closed() => {
                connection.set_role(Role::Leased);
                connection
            }
            _ => self.connect(version, Role::Leased),
        };
        self.lane(version).borrow_mut().detached.push(Rc::clone(&connection));
        self.wants_sweep();
        Ok(Lease::new(connection))
    }

    /// A connection that one client has to itself.
    ///
    /// # Errors
    /// What can be refused at once.
    pub fn exclusive(self: &Rc<Self>, version: Version) -> Result<Exclusive, Cause> {
        self.exclusive_within(version, self.options.exclusive_connections_max)
    }

    /// The connection on which a worker hears messages for all its clients: however many clients have connections to
    /// themselves, there is room for it.
    ///
    /// # Errors
    /// What can be refused at once.
    pub fn subscription(self: &Rc<Self>) -> Result<Exclusive, Cause> {
        self.exclusive_within(Version::Resp3, usize::MAX)
    }

    fn exclusive_within(self: &Rc<Self>, version: Version, most: usize) -> Result<Exclusive, Cause> {
        if let Some(why) = self.breaker.borrow().open() {
            return Err(Cause::BreakerOpen(why));
        }
        let spare = {
            let in_use: usize = self.lanes.iter().map(|lane| lane.borrow().exclusive.len()).sum();
            if in_use >= most {
                return Err(Cause::Overloaded);
            }
            let mut lane = self.lane(version).borrow_mut();
            lane.spares.retain(|connection| !connection.is_closed());
            lane.spares.pop()
        };
        let connection = spare.unwrap_or_else(|| self.connect(version, Role::Exclusive));
        connection.set_role(Role::Exclusive);
        self.lane(version).borrow_mut().exclusive.push(Rc::clone(&connection));
        self.wants_sweep();
        Ok(Exclusive::new(connection, self))
    }

    /// Takes back a connection that a client had to itself.
    pub(super) fn take_back(&self, connection: &Rc<Connection>) {
        let mut lane = self.lane(connection.version).borrow_mut();
        lane.exclusive.retain(|other| !Rc::ptr_eq(other, connection));
        if connection.is_done()
            && lane.spares.len() < RETURNED_MAX
            && !self.left.is_cancelled()
            && !connection.is_closed()
        {
            connection.set_role(Role::Spare);
            lane.spares.push(Rc::clone(connection));
            self.returned.set(self.context.clock.now());
            self.wants_sweep();
        } else {
            drop(lane);
            connection.set_role(Role::Leaving);
            connection.end(&Arc::from("no longer needed"));
        }
    }

    /// Waits until the node has left the topology.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }

    /// The node left the topology: its connections close as soon as nothing waits on them.
    pub fn leave(&self) {
        self.left.cancel();
        self.wants_sweep();
    }

    /// Whether nobody waits for anything here, or has a connection to himself.
    pub fn is_unused(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let lane = lane.borrow();
            let is_done = lane.current.as_ref().is_none_or(|current| current.in_flight() == 0);
            is_done && lane.detached.is_empty() && lane.exclusive.is_empty()
        })
    }

    fn lane(&self, version: Version) -> &RefCell<Lane> {
        let [resp2, resp3] = &self.lanes;
        match version {
            Version::Resp2 => resp2,
            Version::Resp3 => resp3,
        }
    }

    /// The connection that takes the request, or why none does.
    #[inline]
    fn admit(
        self: &Rc<Self>,
        bytes: usize,
        version: Version,
        sink: &Rc<dyn ReplySink>,
    ) -> Result<Rc<Connection>, Cause> {
        let in_flight_max = {
            let breaker = self.breaker.borrow();
            if let Some(why) = breaker.open() {
                return Err(Cause::BreakerOpen(why));
            }
            breaker.in_flight_max(self.options.in_flight_max, self.context.clock.now())
        };
        if !self.sweeping.get() {
            self.wants_sweep();
        }
        let current = {
            let mut lane = self.lane(version).borrow_mut();
            if lane.current.as_ref().is_some_and(|current| current.role() != Role::Current) {
                // It has become busy: who has requests on it stays on it, as with every other that is detached.
                lane.detach_current();
            }
            if !lane.detached.is_empty()
                && let Some(carrier) = lane.detached.iter().find(|connection| connection.carries(sink.origin()))
            {
                // One client's requests for one key travel on one connection, in order (FAILURES F17).
                if carrier.role() == Role::Stalled {
                    return Err(Cause::Behind);
                }
                Some(Rc::clone(carrier))
            } else {
                lane.current.clone()
            }
        };
        let connection = match current {
            Some(connection) => connection,
            None => self.replace(version)?,
        };
        if connection.in_flight() >= in_flight_max
            || connection.queued_bytes().saturating_add(bytes) > self.options.queue_bytes_max.max(bytes)
        {
            return Err(Cause::Overloaded);
        }
        Ok(connection)
    }

    /// Puts a connection in the empty place of the current one.
    #[cold]
    fn replace(self: &Rc<Self>, version: Version) -> Result<Rc<Connection>, Cause> {
        self.make_room(version);
        let spare = {
            let mut lane = self.lane(version).borrow_mut();
            if lane.detached.len() > DETACHED_MAX {
                return Err(Cause::Overloaded);
            }
            lane.spares.retain(|connection| !connection.is_closed());
            lane.spares.pop()
        };
        let Some(connection) = spare else { return Ok(self.connect(version, Role::Current)) };
        connection.set_role(Role::Current);
        self.lane(version).borrow_mut().current = Some(Rc::clone(&connection));
        Ok(connection)
    }

    fn connect(self: &Rc<Self>, version: Version, role: Role) -> Rc<Connection> {
        let connection = Connection::new(version, role);
        if role == Role::Current {
            self.lane(version).borrow_mut().current = Some(Rc::clone(&connection));
        }
        let node = Rc::clone(self);
        let task = Rc::clone(&connection);
        self.context.spawn(async move {
            match node.open_patiently(version).await {
                Ok(stream) => node.serve(&task, stream).await,
                Err(why) => {
                    node.forget(&task);
                    let _: usize = task.finish(&why, &node);
                }
            }
        });
        connection
    }

    /// Connects. A store that accepts and then hangs up may be about to serve again (a restart, a proxy between): it is
    /// asked again until the breaker opens, while requests wait for as long as they may. One that refuses is down.
    async fn open_patiently(self: &Rc<Self>, version: Version) -> Result<Stream, Arc<str>> {
        loop {
            self.context.connect_turn().await;
            match self.open(version).await {
                Ok(stream) => return Ok(stream),
                Err(Refusal::Down(why)) => {
                    self.refused(&why);
                    return Err(why);
                }
                Err(Refusal::Unsupported(why)) => {
                    self.cells.failures(FailureKind::Connect).add(1);
                    return Err(why);
                }
                Err(Refusal::HungUp(why)) => {
                    self.cells.failures(FailureKind::Connect).add(1);
                    self.count_failure(&why);
                    if self.breaker.borrow().is_open() || self.left.is_cancelled() {
                        return Err(why);
                    }
                    self.wants_sweep(); // What waits for too long fails meanwhile.
                    let pause = self.options.breaker.backoff_min.mul_f64(fastrand::f64() / 4.0);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn open(&self, version: Version) -> Result<Stream, Refusal> {
        let mut last_good = self.last_good.take();
        let opened = handshake::open(&self.options, version, &mut last_good).await;
        // Another attempt may have borrowed it meanwhile, and come back without one.
        if !last_good.is_empty() {
            self.last_good.set(last_good);
        }
        let result = if opened.is_ok() { ConnectResult::Ok } else { ConnectResult::Failed };
        self.cells.connects(result).increment();
        opened
    }

    /// Runs an open connection to its end.
    async fn serve(self: &Rc<Self>, connection: &Rc<Connection>, stream: Stream) {
        connection.opened(stream);
        self.generation.set(self.generation.get() + 1);
        self.cells.connections.add(1);
        let since = self.context.clock.tick();
        let why = connection.run(self).await;
        self.cells.connections.add(-1);
        let was_current = connection.role() == Role::Current;
        // Forgotten before anybody is told: what they send in answer takes another connection.
        self.forget(connection);
        let failed = connection.finish(&why, self);
        if failed > 0 {
            self.cells.failures(FailureKind::Broken).add(failed as u64);
            tracing::warn!(node = %self.options.label, why = %why, requests = failed, "connection lost");
            self.count_failure(&why);
        }
        // A store that restarted is found again before the next request needs it, or found to be down. One that closes
        // what it has just accepted is not asked again and again while nobody needs it.
        let lived = self.context.clock.tick().since(since);
        if was_current
            && (failed > 0 || lived >= self.options.connect_timeout)
            && !self.left.is_cancelled()
            && !self.breaker.borrow().is_open()
            && self.lane(connection.version).borrow().current.is_none()
        {
            drop(self.connect(connection.version, Role::Current));
        }
    }

    fn forget(&self, connection: &Rc<Connection>) {
        self.programs.clear(); // The store may have been restarted.
        let mut lane = self.lane(connection.version).borrow_mut();
        if lane.current.as_ref().is_some_and(|current| Rc::ptr_eq(current, connection)) {
            lane.current = None;
        }
        lane.spares.retain(|other| !Rc::ptr_eq(other, connection));
        lane.detached.retain(|other| !Rc::ptr_eq(other, connection));
        lane.exclusive.retain(|other| !Rc::ptr_eq(other, connection));
        self.wants_sweep();
    }

    /// Replies came.
    #[inline]
    pub(super) fn answered(&self, replies: u64, errors: u64) {
        self.cells.requests.add(replies);
        self.cells.replies_error.add(errors);
        self.breaker.borrow_mut().succeeded();
    }

    fn count_failure(self: &Rc<Self>, why: &Arc<str>) {
        if self.breaker.borrow_mut().failed(why) {
            self.opened_breaker(why);
        }
    }

    /// No connection could be made: nothing more needs counting.
    fn refused(self: &Rc<Self>, why: &Arc<str>) {
        self.cells.failures(FailureKind::Connect).add(1);
        if self.breaker.borrow_mut().trip(why) {
            self.opened_breaker(why);
        }
    }

    fn opened_breaker(self: &Rc<Self>, why: &Arc<str>) {
        tracing::error!(node = %self.options.label, why = %why, "node is down: its keys fail at once until a probe succeeds");
        self.cells.breaker_open.set(1);
        for lane in &self.lanes {
            let mut lane = lane.borrow_mut();
            if let Some(current) = &lane.current {
                current.set_role(Role::Stalled);
            }
            lane.detach_current();
            for spare in lane.spares.drain(..) {
                spare.end(why);
            }
            // What a client waits for there without a deadline will not come.
            for connection in &lane.exclusive {
                connection.end(why);
            }
        }
        self.wants_sweep();
        let node = Rc::clone(self);
        self.context.spawn(async move { node.probe().await });
    }

    /// Asks a node that is down whether it is back, until it is (FAILURES F8).
    async fn probe(self: Rc<Self>) {
        loop {
            let wait = self.breaker.borrow_mut().next_probe(fastrand::f64());
            if self.left.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            self.context.connect_turn().await;
            self.cells.probes.add(1);
            match self.open(Version::Resp2).await {
                Err(Refusal::Down(why) | Refusal::HungUp(why) | Refusal::Unsupported(why)) => {
                    let _: bool = self.breaker.borrow_mut().trip(&why);
                }
                // Nobody would ever close it.
                Ok(_) if self.left.is_cancelled() => return,
                Ok(stream) => {
                    self.breaker.borrow_mut().readmit(self.context.clock.tick());
                    self.cells.breaker_open.set(0);
                    tracing::info!(node = %self.options.label, "node is back");
                    let connection = Connection::new(Version::Resp2, Role::Current);
                    self.lane(Version::Resp2).borrow_mut().current = Some(Rc::clone(&connection));
                    self.serve(&connection, stream).await;
                    return;
                }
            }
        }
    }

    /// Asks for the address of a store that is known by name, and moves to where the name leads now (FAILURES F14): a
    /// store that moved may keep its old connections open for ever.
    async fn watch_name(self: Rc<Self>) {
        while self.left.run_until_cancelled(tokio::time::sleep(RESOLVE_INTERVAL)).await.is_some() {
            let found = handshake::resolve(&self.options.address);
            let Ok(Ok(found)) = tokio::time::timeout(self.options.connect_timeout, found).await else { continue };
            let known = self.last_good.take();
            let moved = has_moved(&known, &found);
            // An empty answer, like none, keeps the last good one.
            self.last_good.set(if found.is_empty() { known } else { found });
            if moved {
                tracing::info!(node = %self.options.label, "its name leads elsewhere now: new connections go there");
                for lane in &self.lanes {
                    let mut lane = lane.borrow_mut();
                    for connection in lane.current.iter().chain(&lane.spares) {
                        connection.set_role(Role::Leaving);
                    }
                    lane.detach_current();
                    let spares = std::mem::take(&mut lane.spares);
                    lane.detached.extend(spares);
                }
                self.wants_sweep();
            }
        }
    }

    /// Asks for a look at the clock soon.
    pub(super) fn wants_sweep(&self) {
        self.sweep.notify_one();
    }

    /// One look at the clock; whether nothing is in flight.
    fn sweep_once(self: &Rc<Self>) -> bool {
        let now = self.context.clock.tick();
        let mut idle = true;
        let mut in_flight = 0;
        let mut queued_bytes = 0;
        for version in [Version::Resp2, Version::Resp3] {
            let connections: Vec<Rc<Connection>> = {
                let lane = self.lane(version).borrow();
                lane.current.iter().chain(&lane.detached).chain(&lane.exclusive).cloned().collect()
            };
            for connection in connections {
                let swept = connection.sweep(now, self);
                idle &= swept.idle;
                in_flight += connection.in_flight();
                queued_bytes += connection.queued_bytes();
                self.count_swept(&connection, &swept);
                self.settle(&connection);
            }
            self.make_room(version);
            idle &= self.end_returned(version, now);
        }
        if self.left.is_cancelled() {
            for lane in &self.lanes {
                for spare in &lane.borrow().spares {
                    spare.end(&Arc::from("the node left the topology"));
                }
            }
        }
        self.cells.in_flight.set(gauge(in_flight));
        self.cells.queued_bytes.set(gauge(queued_bytes));
        idle
    }

    /// Closes connections that were given back and that nobody has taken since; whether there is none to look after.
    fn end_returned(&self, version: Version, now: Moment) -> bool {
        let spares = &mut self.lane(version).borrow_mut().spares;
        if spares.len() <= SPARES_MAX {
            return true;
        }
        if now.since(self.returned.get()) < RETURNED_KEPT {
            return false;
        }
        for spare in spares.drain(SPARES_MAX..) {
            spare.end(&Arc::from("no longer needed"));
        }
        true
    }

    /// Big replies that wait for their clients each hold a connection. Before none is left for others, the client that
    /// has not read for longest has to make way.
    fn make_room(&self, version: Version) {
        let longest = {
            let lane = self.lane(version).borrow();
            if lane.detached.len() < DETACHED_CROWDED {
                return;
            }
            let paused = lane.detached.iter().filter_map(|connection| Some((connection.paused_since()?, connection)));
            paused.min_by_key(|(since, _)| *since).map(|(_, connection)| Rc::clone(connection))
        };
        if let Some(connection) = longest {
            connection.clear_the_way();
        }
    }

    fn count_swept(self: &Rc<Self>, connection: &Rc<Connection>, swept: &super::connection::Swept) {
        if swept.obstructed && connection.role() == Role::Current {
            connection.set_role(Role::Busy);
        }
        if swept.timed_out > 0 || swept.not_sent > 0 {
            connection.set_role(Role::Stalled);
            self.cells.failures(FailureKind::Service).add(u64::from(swept.timed_out));
            self.cells.failures(FailureKind::Queue).add(u64::from(swept.not_sent));
            // Waiting to be sent says nothing about the store (FAILURES F5).
            let why: Arc<str> = "requests time out".into();
            for _ in 0..swept.timed_out.min(1_000) {
                self.count_failure(&why);
            }
        }
    }

    /// Gives a connection the place that its role asks for.
    fn settle(&self, connection: &Rc<Connection>) {
        let done = connection.is_done();
        let end = match connection.role() {
            Role::Current => self.left.is_cancelled() && done,
            Role::Stalled => connection.is_abandoned(),
            Role::Leaving => done,
            Role::Busy | Role::Leased | Role::Spare if done => {
                let mut lane = self.lane(connection.version).borrow_mut();
                let is_current = lane.current.as_ref().is_some_and(|current| Rc::ptr_eq(current, connection));
                let keep = (is_current || lane.spares.len() < SPARES_MAX) && !self.left.is_cancelled();
                if keep && is_current {
                    connection.set_role(Role::Current);
                } else if keep {
                    lane.detached.retain(|other| !Rc::ptr_eq(other, connection));
                    connection.set_role(Role::Spare);
                    lane.spares.push(Rc::clone(connection));
                }
                !keep
            }
            Role::Busy | Role::Leased | Role::Spare | Role::Exclusive => false,
        };
        if end {
            connection.end(&Arc::from("no longer needed"));
        }
    }
}

/// Whether none of the addresses that a name had is among those that it has.
fn has_moved(known: &[SocketAddr], found: &[SocketAddr]) -> bool {
    !known.is_empty() && !found.is_empty() && !known.iter().any(|address| found.contains(address))
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Lane {
    fn detach_current(&mut self) {
        if let Some(current) = self.current.take()
            && !current.is_closed()
        {
            self.detached.push(current);
        }
    }
}

/// Looks at the clock while something is in flight.
async fn sweep(node: Weak<Node>) {
    loop {
        {
            let Some(node) = node.upgrade() else { return };
            node.sweeping.set(false);
            if node.left.is_cancelled() && node.is_gone() {
                return;
            }
            // Dropping the handle while this waits is fine: `leave` comes first, and notifies.
            node.sweep.notified().await;
            node.sweeping.set(true);
        }
        loop {
            let pause = {
                let Some(node) = node.upgrade() else { return };
                (node.options.service_timeout.min(node.options.queue_timeout) / 8)
                    .clamp(Duration::from_millis(1), Duration::from_millis(50))
            };
            tokio::time::sleep(pause).await;
            let Some(node) = node.upgrade() else { return };
            if node.sweep_once() {
                break;
            }
        }
    }
}

impl Node {
    fn is_gone(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let lane = lane.borrow();
            lane.current.is_none() && lane.detached.is_empty() && lane.spares.is_empty() && lane.exclusive.is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(known: &[&str], found: &[&str], want: bool) {
        let parse = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(has_moved(&parse(known), &parse(found)), want, "{known:?} -> {found:?}");
    }

    /// FAILURES F14: an empty answer keeps the last good one, and one more address is no move.
    #[test]
    fn a_name_has_moved_when_no_address_is_left_of_it() {
        check(&["10.0.0.1:6379"], &["10.0.0.2:6379"], true);
        check(&["10.0.0.1:6379"], &["10.0.0.2:6379", "10.0.0.1:6379"], false);
        check(&["10.0.0.1:6379"], &[], false);
        check(&[], &["10.0.0.2:6379"], false);
    }
}
