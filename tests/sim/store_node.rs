//! A store of the network that executes real requests: the embedded store, fed with the bytes a proxy would write.

use std::cell::RefCell;

use quoit::backend::embedded::{SessionState, Store as Embedded};
use quoit::protocol::resp::{Limits, RequestScan, Scanned};

use crate::network::{Memory, Store};

/// Unix time in milliseconds at the beginning of each run.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The bounds of a real store.
const LIMITS: Limits = Limits { arguments_max: 1 << 20, ..Limits::REDIS };

thread_local! {
    /// Stores that are done with: a Lua state takes longer to make than a run.
    static USED: RefCell<Vec<Embedded>> = const { RefCell::new(Vec::new()) };
}

/// One store process: its data, and a session for each proxy that is connected.
pub(crate) struct StoreNode {
    store: Embedded,
    seed: u64,
    sessions: Vec<SessionState>,
    /// This store's clock is so far from the true time.
    skew_ms: i64,
}

impl StoreNode {
    pub(crate) fn new(seed: u64, proxies: usize, skew_ms: i64) -> Self {
        let sessions = (0..proxies).map(session).collect();
        let used = USED.with_borrow_mut(Vec::pop);
        let store = used.map_or_else(|| Embedded::new(seed), |store| store.renewed(seed));
        Self { store, seed, sessions, skew_ms }
    }

    /// Runs one command as an operator would, beside the proxies: a fence, a look at a key.
    pub(crate) fn command(&mut self, args: &[&[u8]], now_us: u64) -> Vec<u8> {
        let mut reply = Vec::new();
        let time = self.time_ms(now_us);
        self.store.execute(&mut session(usize::MAX >> 1), args, time, &mut reply);
        reply
    }

    fn empty(&mut self) {
        let store = std::mem::replace(&mut self.store, Embedded::new(0));
        self.store = store.renewed(self.seed);
    }

    fn time_ms(&self, now_us: u64) -> u64 {
        (EPOCH_MS + now_us / 1000).saturating_add_signed(self.skew_ms)
    }
}

fn session(proxy: usize) -> SessionState {
    SessionState::new(proxy as u64 + 1)
}

impl Store for StoreNode {
    /// Whole requests in RESP, one or several.
    type Request = Vec<u8>;
    /// Their replies, one after the other.
    type Reply = Vec<u8>;

    fn execute(&mut self, proxy: usize, request: &Vec<u8>, now_us: u64) -> Vec<u8> {
        let (time, mut reply, mut rest) = (self.time_ms(now_us), Vec::new(), request.as_slice());
        while !rest.is_empty() {
            let mut scan = RequestScan::default();
            let Ok(Scanned::Request { len, .. }) = scan.scan(rest, &LIMITS) else {
                panic!("not whole requests: {:?}", String::from_utf8_lossy(request));
            };
            let args: Vec<&[u8]> = scan.bounds().iter().map(|(from, to)| &rest[*from as usize..*to as usize]).collect();
            self.store.execute(&mut self.sessions[proxy], &args, time, &mut reply);
            rest = &rest[len..];
        }
        reply
    }

    fn connected(&mut self, proxy: usize) {
        self.sessions[proxy] = session(proxy);
    }

    fn restarted(&mut self, memory: Memory) {
        for (proxy, state) in self.sessions.iter_mut().enumerate() {
            *state = session(proxy);
        }
        if memory == Memory::Lost {
            self.empty();
        }
    }
}

impl Drop for StoreNode {
    fn drop(&mut self) {
        self.empty();
        let store = std::mem::replace(&mut self.store, Embedded::new(0));
        USED.with_borrow_mut(|used| used.push(store));
    }
}
