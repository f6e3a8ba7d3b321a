//! [`Backend`] for a worker: its nodes, its clock, timers that are tasks of its tracker.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::redis::Node;
use super::{Backend, Cause, Context, ReplySink, Tag, Wake};
use crate::clock::Moment;
use crate::protocol::resp::Version;

/// The stores, the clock and the timers of one worker.
#[derive(Clone)]
pub struct Stores {
    context: Rc<Context>,
}

impl Stores {
    /// Those of the worker with this context.
    pub fn new(context: Rc<Context>) -> Self {
        Self { context }
    }
}

impl Backend for Stores {
    type Node = Node;

    #[inline]
    fn send(
        &self,
        node: &Rc<Node>,
        bytes: usize,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        node.send_with(bytes, write, version, sink, tag)
    }

    #[inline]
    fn send_transaction(
        &self,
        node: &Rc<Node>,
        bytes: usize,
        count: u32,
        write: &mut dyn FnMut(&mut Vec<u8>),
        version: Version,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Result<(), Cause> {
        node.send_transaction(bytes, count, write, version, sink, tag)
    }

    #[inline]
    fn is_available(&self, node: &Rc<Node>) -> bool {
        node.is_available()
    }

    fn label(&self, node: &Rc<Node>) -> Arc<str> {
        Arc::clone(&node.options().label)
    }

    fn name<'n>(&self, node: &'n Rc<Node>) -> &'n str {
        &node.options().name
    }

    fn generation(&self, node: &Rc<Node>) -> u64 {
        node.generation()
    }

    #[inline]
    fn now(&self) -> Moment {
        self.context.clock.now()
    }

    #[inline]
    fn wall_ms(&self) -> u64 {
        self.context.clock.wall_ms()
    }

    fn random(&self) -> u64 {
        fastrand::u64(..)
    }

    fn later(&self, after: Duration, wake: Rc<dyn Wake>) {
        let context = Rc::clone(&self.context);
        self.context.spawn(async move {
            tokio::time::sleep(after).await;
            let _: Moment = context.clock.tick(); // A batch of work begins.
            wake.wake();
        });
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        self.context.spawn(task);
    }
}
