//! Protocols written as they read: `async` functions over the simulated network, one task a client.
//!
//! A task runs until it waits for replies or for a time; whatever happens to its proxy lets it run on. A proxy that
//! crashes loses its tasks, wherever they stood.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::network::{Happening, Network, Store};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What came of one request.
enum Slot<R> {
    Waiting,
    Here(R),
    Lost,
}

struct Shared<S: Store> {
    network: Network<S>,
    slots: HashMap<u64, Slot<S::Reply>>,
    tags: u64,
    born: Vec<(usize, Task)>,
}

/// The world as all tasks see it.
pub(crate) struct World<S: Store>(Rc<RefCell<Shared<S>>>);

/// One proxy, in the hands of its tasks.
pub(crate) struct Proxy<S: Store> {
    shared: Rc<RefCell<Shared<S>>>,
    pub(crate) id: usize,
}

impl<S: Store> Clone for Proxy<S> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), id: self.id }
    }
}

impl<S: Store + 'static> World<S> {
    pub(crate) fn new(network: Network<S>) -> Self {
        let slots = HashMap::new();
        Self(Rc::new(RefCell::new(Shared { network, slots, tags: 0, born: Vec::new() })))
    }

    pub(crate) fn proxy(&self, id: usize) -> Proxy<S> {
        Proxy { shared: Rc::clone(&self.0), id }
    }

    /// Runs until nothing is left to happen. `start` is called for each new life of a proxy.
    pub(crate) fn run(&self, proxies: usize, mut start: impl FnMut(Proxy<S>)) {
        let mut tasks: Vec<Vec<Task>> = (0..proxies).map(|_| Vec::new()).collect();
        for proxy in 0..proxies {
            start(self.proxy(proxy));
            self.poll(&mut tasks, proxy);
        }
        loop {
            let happening = self.0.borrow_mut().network.step();
            let Some(happening) = happening else { break };
            let proxy = match happening {
                Happening::Reply { proxy, tag, reply } => {
                    self.settle(tag, Slot::Here(reply));
                    proxy
                }
                Happening::Lost { proxy, tag } => {
                    self.settle(tag, Slot::Lost);
                    proxy
                }
                Happening::Timer { proxy, .. } => proxy,
                Happening::Crashed { proxy } => {
                    tasks[proxy].clear();
                    continue;
                }
                Happening::Started { proxy } => {
                    start(self.proxy(proxy));
                    proxy
                }
                Happening::Restarted { .. } => continue,
            };
            self.poll(&mut tasks, proxy);
        }
    }

    pub(crate) fn with_network<T>(&self, look: impl FnOnce(&mut Network<S>) -> T) -> T {
        look(&mut self.0.borrow_mut().network)
    }

    /// A reply to a request that nobody waits for any longer is dropped.
    fn settle(&self, tag: u64, slot: Slot<S::Reply>) {
        if let Some(waiting @ Slot::Waiting) = self.0.borrow_mut().slots.get_mut(&tag) {
            *waiting = slot;
        }
    }

    fn poll(&self, tasks: &mut [Vec<Task>], proxy: usize) {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            for (owner, task) in self.0.borrow_mut().born.drain(..) {
                tasks[owner].push(task);
            }
            tasks[proxy].retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            if self.0.borrow().born.is_empty() {
                return;
            }
        }
    }
}

impl<S: Store + 'static> Proxy<S> {
    /// Another task of this proxy.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.borrow_mut().born.push((self.id, Box::pin(task)));
    }

    pub(crate) fn with_network<T>(&self, look: impl FnOnce(&mut Network<S>) -> T) -> T {
        look(&mut self.shared.borrow_mut().network)
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.with_network(|network| network.now_us())
    }

    /// This proxy's own, skewed, idea of the time.
    pub(crate) fn clock_us(&self) -> u64 {
        self.with_network(|network| network.clock_us(self.id))
    }

    /// A number below `end`.
    pub(crate) fn random(&self, end: u64) -> u64 {
        self.with_network(|network| network.random().u64(..end))
    }

    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        self.with_network(|network| network.note(line));
    }

    pub(crate) async fn sleep(&self, span_us: u64) {
        let end = self.wake_at(span_us);
        poll_fn(|_| if self.now_us() >= end { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn wake_at(&self, span_us: u64) -> u64 {
        self.with_network(|network| {
            let end = network.now_us() + span_us;
            network.timer(self.id, end, 0);
            end
        })
    }

    /// Sends to each store named, and waits until `enough` says so of the replies so far (by the place of their store in
    /// `stores`), all are there, or the time is over.
    pub(crate) async fn ask(
        &self,
        stores: &[usize],
        request: impl Fn(usize) -> S::Request,
        timeout_us: u64,
        enough: impl Fn(&[Option<S::Reply>]) -> bool,
    ) -> Vec<Option<S::Reply>> {
        let tags: Vec<u64> = stores.iter().map(|store| self.send(*store, request(*store))).collect();
        let end = self.wake_at(timeout_us);
        let mut replies: Vec<Option<S::Reply>> = stores.iter().map(|_| None).collect();
        poll_fn(|_| {
            let mut shared = self.shared.borrow_mut();
            let mut open = false;
            for (tag, reply) in tags.iter().zip(&mut replies) {
                match shared.slots.remove(tag) {
                    Some(Slot::Here(here)) => *reply = Some(here),
                    Some(Slot::Waiting) => {
                        shared.slots.insert(*tag, Slot::Waiting);
                        open = true;
                    }
                    Some(Slot::Lost) | None => {}
                }
            }
            if open && shared.network.now_us() < end && !enough(&replies) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let mut shared = self.shared.borrow_mut();
        for tag in &tags {
            shared.slots.remove(tag);
        }
        drop(shared);
        replies
    }

    fn send(&self, store: usize, request: S::Request) -> u64 {
        let mut shared = self.shared.borrow_mut();
        shared.tags += 1;
        let tag = shared.tags;
        shared.slots.insert(tag, Slot::Waiting);
        shared.network.send(self.id, store, tag, request);
        tag
    }
}
