//! What all connections of one worker share: clock, buffers, the connect rate, the tasks.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Moment};

/// Bytes that one read takes at most. Two of the kernel's usual 64 KiB loopback segments.
const SCRATCH_BYTES: usize = 128 * 1024;
/// Bytes of the buffers that are kept for the next one who needs one, and of the largest of them.
const POOL_BYTES_MAX: usize = 4 * 1024 * 1024;
const POOLED_BYTES_MAX: usize = 256 * 1024;

/// The bounds that hold for one worker.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connects to stores a second, over all nodes: a restarted store is not met by a storm (FAILURES F6).
    pub connects_per_second_max: u32,
    /// Bytes in buffers of clients and nodes before no more requests are read.
    pub buffer_bytes_max: usize,
}

/// Shared by all that runs on one worker's thread.
pub struct Context {
    /// The worker's clock.
    pub clock: Clock,
    /// Owns every task of the worker.
    pub tasks: TaskTracker,
    limits: Limits,
    scratch: Cell<Option<Box<[u8]>>>,
    pool: RefCell<Vec<Vec<u8>>>,
    pooled_bytes: Cell<usize>,
    next_connect: Cell<Moment>,
    buffered_bytes: Cell<usize>,
}

impl Context {
    /// A context for one worker.
    pub fn new(limits: Limits) -> Self {
        Self {
            clock: Clock::new(),
            tasks: TaskTracker::new(),
            limits,
            scratch: Cell::new(None),
            pool: RefCell::default(),
            pooled_bytes: Cell::default(),
            next_connect: Cell::default(),
            buffered_bytes: Cell::default(),
        }
    }

    /// Starts a task on this worker's thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(self.tasks.spawn_local(task));
    }

    /// Lends the read buffer. One is in use at a time; a second borrower gets one of its own.
    pub fn take_scratch(&self) -> Box<[u8]> {
        self.scratch.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice())
    }

    /// Takes the read buffer back.
    pub fn return_scratch(&self, scratch: Box<[u8]>) {
        self.scratch.set(Some(scratch));
    }

    /// An empty buffer, used before if there is one.
    #[inline]
    pub fn take_buffer(&self) -> Vec<u8> {
        let buffer = self.pool.borrow_mut().pop().unwrap_or_default();
        self.pooled_bytes.set(self.pooled_bytes.get() - buffer.capacity());
        buffer
    }

    /// Takes a buffer back. Big ones are freed, so that a burst does not stay in memory (FAILURES F4).
    #[inline]
    pub fn return_buffer(&self, mut buffer: Vec<u8>) {
        let pooled_bytes = self.pooled_bytes.get() + buffer.capacity();
        if buffer.capacity() == 0 || buffer.capacity() > POOLED_BYTES_MAX || pooled_bytes > POOL_BYTES_MAX {
            return;
        }
        self.pooled_bytes.set(pooled_bytes);
        buffer.clear();
        self.pool.borrow_mut().push(buffer);
    }

    /// Counts bytes that came into a buffer (or, with [`Context::released`], left it).
    pub fn buffered(&self, bytes: usize) {
        self.buffered_bytes.set(self.buffered_bytes.get() + bytes);
    }

    /// Counts bytes that left a buffer.
    pub fn released(&self, bytes: usize) {
        self.buffered_bytes.set(self.buffered_bytes.get().saturating_sub(bytes));
    }

    /// Bytes in the counted buffers.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes.get()
    }

    /// Whether the counted buffers hold as much as they may.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.buffered_bytes.get() > self.limits.buffer_bytes_max
    }

    /// How many bytes have to leave for a quarter of what the buffers may hold to be free.
    pub fn excess_bytes(&self) -> usize {
        self.buffered_bytes.get().saturating_sub(self.limits.buffer_bytes_max / 4 * 3)
    }

    /// Waits for this worker's turn to open a connection.
    pub async fn connect_turn(&self) {
        let gap = Duration::from_secs(1) / self.limits.connects_per_second_max.max(1);
        let now = self.clock.tick();
        // A tenth of a second's worth may go at once.
        let earliest = self.next_connect.get().max(now);
        self.next_connect.set(earliest.after(gap));
        let wait = earliest.since(now).saturating_sub(Duration::from_millis(100));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}
