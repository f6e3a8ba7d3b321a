//! A store that runs the proxy's scripts, and the bytes of its requests and replies as people read them.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use quoit::version::Script;

use crate::network::{Memory, Store};
use crate::store_node::StoreNode;

/// Requests or replies.
#[derive(Clone)]
pub(crate) struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.escape_ascii().to_string().replace("\\r\\n", " ");
        for script in Script::ALL {
            text = text.replace(script.sha(), &format!("{script:?}"));
            let body = script.body().as_bytes().escape_ascii().to_string();
            text = text.replace(&body, &format!("the text of {script:?}"));
        }
        f.write_str(&text)
    }
}

/// A store process.
pub(crate) struct Server {
    node: Rc<RefCell<StoreNode>>,
    random: fastrand::Rng,
    /// Of a thousand requests, so many come after somebody has said `SCRIPT FLUSH`.
    flushes: u32,
    /// So many did.
    flushed: u64,
    bundles: u64,
}

impl Server {
    pub(crate) fn new(node: Rc<RefCell<StoreNode>>, seed: u64, flushes: u32) -> Self {
        Self { node, random: fastrand::Rng::with_seed(seed), flushes, flushed: 0, bundles: 0 }
    }

    /// How often somebody has flushed its scripts.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// How many requests were of several operations.
    pub(crate) fn bundles(&self) -> u64 {
        self.bundles
    }
}

impl Store for Server {
    type Request = Bytes;
    type Reply = Bytes;

    fn execute(&mut self, proxy: usize, request: &Bytes, now_us: u64) -> Bytes {
        if self.flushes > 0 && self.random.u32(..1000) < self.flushes {
            self.flushed += 1;
            self.node.borrow_mut().command(&[b"SCRIPT", b"FLUSH"], now_us);
        }
        let says = |part: &[u8]| request.0.windows(part.len()).any(|window| window == part);
        self.bundles += u64::from(says(Script::BlindMany.sha().as_bytes()) || says(b"MGET\r\n$3\r\n\0qf"));
        Bytes(self.node.borrow_mut().execute(proxy, &request.0, now_us))
    }

    /// What a proxy does with a new connection before anything else.
    fn connected(&mut self, proxy: usize) {
        let mut node = self.node.borrow_mut();
        node.connected(proxy);
        for script in Script::ALL {
            node.command(&[b"SCRIPT", b"LOAD", script.body().as_bytes()], 0);
        }
    }

    fn restarted(&mut self, memory: Memory) {
        self.node.borrow_mut().restarted(memory);
    }
}
