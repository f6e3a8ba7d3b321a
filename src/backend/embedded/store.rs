//! The store itself: one command in, one reply out.

use super::keyspace::Keyspace;
use super::reply::{Failure, Outcome, Protocol, Reply};
use super::scripts::Scripts;
use super::table::{self, Access, Verb};
use super::transactions::{self, Transaction};

/// The store's memory cap when nobody sets another: enough for a demo, harmless on a laptop.
pub const MEMORY_BYTES_MAX_DEFAULT: usize = 256 << 20;

pub(super) const OUT_OF_MEMORY: Failure = Failure::fixed("OOM command not allowed when used memory > 'maxmemory'.");

/// An in-memory store that answers as Redis 7.0 does. No I/O, clock or randomness of its own.
#[derive(Debug)]
pub struct Store {
    pub(super) keyspace: Keyspace,
    pub(super) random: fastrand::Rng,
    pub(super) scripts: Scripts,
    pub(super) memory_bytes_max: usize,
    pub(super) commands_total: u64,
    /// The time of the first command.
    pub(super) started_at_ms: Option<u64>,
    pub(super) seed: u64,
}

/// What the store remembers of one client.
#[derive(Debug)]
pub struct SessionState {
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    pub(super) name: Vec<u8>,
    pub(super) transaction: Option<Transaction>,
    /// Keys under WATCH with their version then.
    pub(super) watched: Vec<(Vec<u8>, u64)>,
    pub(super) closing: bool,
}

impl SessionState {
    /// A new client; `id` is what CLIENT ID and HELLO tell it.
    pub fn new(id: u64) -> Self {
        Self { id, protocol: Protocol::Resp2, name: Vec::new(), transaction: None, watched: Vec::new(), closing: false }
    }

    /// Whether the client said QUIT: its connection ends after the replies written so far.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.id);
    }
}

/// The words of one command. The table has checked their number before a verb sees them, so a missing one is an
/// empty one.
#[derive(Clone, Copy)]
pub(super) struct Args<'a>(pub(super) &'a [&'a [u8]]);

impl<'a> Args<'a> {
    pub(super) fn at(self, place: usize) -> &'a [u8] {
        self.0.get(place).copied().unwrap_or_default()
    }

    pub(super) fn from(self, place: usize) -> &'a [&'a [u8]] {
        self.0.get(place..).unwrap_or_default()
    }

    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    /// Whether the word in this place is `word`, in any case.
    pub(super) fn is(self, place: usize, word: &str) -> bool {
        self.at(place).eq_ignore_ascii_case(word.as_bytes())
    }
}

impl Store {
    /// An empty store. All that is random in it (SPOP, RANDOMKEY, the sampling of expired keys) follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            keyspace: Keyspace::default(),
            random: fastrand::Rng::with_seed(seed),
            scripts: Scripts::default(),
            memory_bytes_max: MEMORY_BYTES_MAX_DEFAULT,
            commands_total: 0,
            started_at_ms: None,
            seed,
        }
    }

    /// Makes it a store as [`Store::new`] gives it, but keeps the Lua state, in which nothing of a script is left: for tests
    /// that need a great many stores.
    #[must_use]
    pub fn renewed(mut self, seed: u64) -> Self {
        self.scripts.flush();
        Self { scripts: self.scripts, ..Self::new(seed) }
    }

    /// Sets the memory cap in bytes: above it, commands that could add data fail with `-OOM`.
    pub fn set_memory_bytes_max(&mut self, bytes: usize) {
        self.memory_bytes_max = bytes;
    }

    /// How many bytes keys and values take, by the store's own count.
    pub fn memory_bytes(&self) -> usize {
        self.keyspace.bytes()
    }

    /// Runs one command at `now_ms` (Unix time) and appends its reply to `out`. No words, no reply.
    pub fn execute(&mut self, session: &mut SessionState, args: &[&[u8]], now_ms: u64, out: &mut Vec<u8>) {
        if args.is_empty() {
            return;
        }
        self.keyspace.now_ms = now_ms;
        self.started_at_ms.get_or_insert(now_ms);
        self.commands_total += 1;
        let reply = self.reply(session, Args(args)).unwrap_or_else(Reply::Error);
        reply.encode(session.protocol, out);
    }

    /// Removes some of the keys whose time has passed. To be called now and then; returns how many went, and many
    /// is a reason to call again.
    pub fn expire_sample(&mut self, now_ms: u64) -> usize {
        self.keyspace.now_ms = now_ms;
        self.keyspace.expire_sample(&mut self.random)
    }

    fn reply(&mut self, session: &mut SessionState, args: Args<'_>) -> Outcome {
        let found = table::find(args.at(0)).ok_or_else(|| unknown_command(args)).and_then(|verb| {
            verb.takes(args.len()).then_some(verb).ok_or_else(|| wrong_number_of_arguments(verb.name))
        });
        let allowed = found.and_then(|verb| if self.has_room(verb) { Ok(verb) } else { Err(OUT_OF_MEMORY) });
        transactions::run_or_queue(self, session, allowed, args)
    }

    /// Runs a verb for a script: fewer verbs, other error texts.
    pub(super) fn reply_to_script(
        &mut self,
        session: &mut SessionState,
        args: Args<'_>,
        progress: &mut Progress,
    ) -> Outcome {
        let verb = table::find(args.at(0)).ok_or(Failure::fixed("ERR Unknown Redis command called from script"))?;
        if !verb.takes(args.len()) {
            return Err(Failure::fixed("ERR Wrong number of args calling Redis command from script"));
        }
        match (verb.access, progress.writes) {
            (Access::Session, _) => return Err(Failure::fixed("ERR This Redis command is not allowed from script")),
            (Access::Write | Access::Grow, Writes::Refused) => {
                return Err(Failure::fixed("ERR Write commands are not allowed from read-only scripts."));
            }
            (Access::Grow, _) if progress.full && !progress.wrote => return Err(OUT_OF_MEMORY),
            (Access::Write | Access::Grow, Writes::Allowed) => progress.wrote = true,
            (Access::Read, _) => {}
        }
        (verb.run)(self, session, args)
    }

    fn has_room(&self, verb: &Verb) -> bool {
        verb.access != Access::Grow || !self.is_full()
    }

    pub(super) fn is_full(&self) -> bool {
        self.keyspace.bytes() > self.memory_bytes_max
    }
}

/// Whether a script may change data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    Allowed,
    Refused,
}

/// What a script may do, given what it did. As in Redis, memory is judged once, when it starts, and a script that wrote
/// something may finish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) writes: Writes,
    pub(super) full: bool,
    pub(super) wrote: bool,
}

pub(super) fn wrong_number_of_arguments(name: &str) -> Failure {
    Failure::owned(format!("ERR wrong number of arguments for '{name}' command"))
}

pub(super) fn unknown_subcommand(args: Args<'_>) -> Failure {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend(args.at(1).iter().take(128));
    text.extend_from_slice(b"'. Try ");
    text.extend(args.at(0).to_ascii_uppercase());
    text.extend_from_slice(b" HELP.");
    Failure::owned(text)
}

/// Redis quotes at most 128 bytes of the verb and about as many of the arguments.
fn unknown_command(args: Args<'_>) -> Failure {
    const QUOTED_BYTES_MAX: usize = 128;
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(args.at(0).iter().take(QUOTED_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let mut quoted = Vec::new();
    for arg in args.from(1) {
        if quoted.len() >= QUOTED_BYTES_MAX {
            break;
        }
        let room = QUOTED_BYTES_MAX - quoted.len();
        quoted.push(b'\'');
        quoted.extend(arg.iter().take(room));
        quoted.extend_from_slice(b"' ");
    }
    text.extend(quoted);
    Failure::owned(text)
}
