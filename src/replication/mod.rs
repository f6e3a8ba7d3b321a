//! Keys with several replicas: who has to take a write, who has to agree on a read, and what happens when they do not.
//!
//! An [`Engine`] belongs to a worker. What needs one round of messages (a read whose replicas agree, a blind write, an
//! update of a key that this worker wrote last) is a small state machine without a task of its own (`read`, `write`).
//! What these say to a store for one batch of a client is put together (`bundle`). Everything else is a task: proposals
//! (`proposal`), repair (`repair`), and the fences that keep a store without memory from voting (`fence`). The protocol and
//! what was tried before it: `docs/decisions/2026-11-23-replication.md`.
//!
//! # Invariants
//! - A write is answered when a write quorum holds it, a read when enough replicas agree that every later read sees it.
//! - What may or may not have happened is said to be unknown; nothing is applied twice.
//! - A store whose fence is not the expected one counts for nothing.
//! - Nothing here is kept: another proxy can finish or supersede whatever this one began.

mod accept;
mod anyone;
mod begin;
mod bundle;
mod fence;
mod inspect;
mod lane;
mod members;
mod piece;
mod program;
mod proposal;
mod read;
mod repair;
mod round;
mod shape;
mod slow_read;
mod transact;
mod wire;
mod write;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::backend::{Backend, Flow, Piece, ReplySink, Tag};
use crate::clock::Moment;
use crate::command::{Args, Handling, KeyIndexes, Program, Row, reply};
use crate::metrics::ReplicationCells;
use crate::protocol::resp::Version;
use crate::quorum::{Adopt, Lag, Level, Quorums};
use crate::version::{Ballot, FENCE_BYTES, Fence, FenceState, Founding, Hlc, Record};

pub use inspect::{KeyVersion, State};
pub use members::{Members, PlaceOf, Places};
pub use transact::{Transaction, Watched};
pub(crate) use wire::Cursor;

use fence::Standing;
use lane::Lanes;
use members::Lists;

/// What a replicated pool is told by its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// N, W and R.
    pub quorums: Quorums,
    /// How long a tombstone is kept.
    pub tombstone_grace: Duration,
    /// An operation with all its tries.
    pub timeout: Duration,
    /// When a read asks one more replica.
    pub hedge: Option<Duration>,
    /// Keys that may wait for repair.
    pub repair_queue_len: usize,
    /// The ring: stores of another ring are not touched.
    pub fingerprint: u64,
    /// Whether any request may ask for more than `eventual`.
    pub is_strict: bool,
    /// Which of several values from before quoit wins.
    pub adopt: Adopt,
}

/// Which members hold a key, in ring order.
pub type Locate = dyn Fn(&[u8]) -> SmallVec<[usize; 8]>;

/// As [`Locate`], one member after the other: nothing is gathered in between.
pub type Visit = dyn Fn(&[u8], &mut dyn FnMut(usize));

/// How long a record outlives its key: longer than any operation can be under way.
const RECORD_GRACE: Duration = Duration::from_hours(1);

/// What was written less than this before a blind write may be part of a meeting of writers that are still finding out
/// what became of theirs: many round trips, and more than clocks that are kept differ.
const CONTENTION_MS: u64 = 250;

/// One replicated pool as one worker sees it.
pub struct Group<B: Backend> {
    /// Its name.
    pub name: String,
    /// What it is told.
    pub settings: Settings,
    /// In the order of the ring's members.
    pub members: Vec<Rc<Member<B>>>,
    /// What the worker counts for it.
    pub cells: Arc<ReplicationCells>,
    /// What the workers of this process know that its members lack.
    lag: Arc<Lag>,
    /// Changes with every fence that is seen to have changed.
    generation: Cell<u64>,
    visit: Box<Visit>,
    lists: Option<Lists<B>>,
    retired: Cell<bool>,
    /// The group of the same pool that came in its place.
    next: RefCell<Option<Rc<Self>>>,
    look_soon: Cell<bool>,
    lengths: bundle::Lengths,
    seed: u64,
    record_grace_ms: u64,
    tombstone_ms: u64,
}

/// One store of a group.
pub struct Member<B: Backend> {
    /// The handle to it.
    pub node: Rc<B::Node>,
    belief: Cell<Option<Belief>>,
    standing: Cell<Standing>,
    /// What it says while its pool begins.
    founding: RefCell<Option<Founding>>,
    /// What the batch under way has to say to it.
    gathered: bundle::Gathered<B>,
}

/// The fence that a store is believed to have.
#[derive(Clone, Copy)]
struct Belief {
    fence: Fence,
    bytes: [u8; FENCE_BYTES],
}

impl<B: Backend> Member<B> {
    /// A store of which nothing is known yet.
    pub fn new(node: Rc<B::Node>) -> Rc<Self> {
        Rc::new(Self {
            node,
            belief: Cell::new(None),
            standing: Cell::new(Standing::Unknown),
            founding: RefCell::default(),
            gathered: bundle::Gathered::default(),
        })
    }

    /// Whether its word counts.
    #[inline]
    pub fn votes(&self) -> bool {
        self.belief.get().is_some_and(|belief| belief.fence.state == FenceState::Member)
    }

    /// Whether its word counts in an answer that came with this fence.
    pub fn votes_under(&self, fence: &[u8]) -> bool {
        self.votes() && self.fence().as_bytes() == fence
    }

    /// The fence it is believed to have, as its scripts want it; empty where none is known.
    #[inline]
    fn fence(&self) -> FenceText {
        FenceText(self.belief.get().map(|belief| belief.bytes))
    }

    /// Whether this is the fence it is believed to have.
    #[inline]
    fn has_fence(&self, fence: &[u8]) -> bool {
        self.belief.get().is_some_and(|belief| belief.bytes == fence)
    }

    fn is_pure(&self) -> bool {
        self.belief.get().is_some_and(|belief| belief.fence.pure)
    }
}

struct FenceText(Option<[u8; FENCE_BYTES]>);

impl FenceText {
    #[inline]
    fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes.as_slice())
    }
}

impl<B: Backend> Group<B> {
    /// A pool. `generation` is a number that no other group of the worker has had ([`Engine::next_serial`]).
    pub fn new(
        name: &str,
        settings: Settings,
        members: Vec<Rc<Member<B>>>,
        generation: u64,
        locate: Box<Locate>,
    ) -> Rc<Self> {
        let lag = Arc::new(Lag::new(members.len()));
        let visit = move |key: &[u8], take: &mut dyn FnMut(usize)| locate(key).into_iter().for_each(take);
        Self::counting(name, settings, members, generation, Box::new(visit), None, Arc::default(), lag)
    }

    /// As [`Group::new`], with the places of its ring, cells that somebody reads, and what the workers know together.
    #[expect(clippy::too_many_arguments, reason = "what a group is made of")]
    pub fn counting(
        name: &str,
        settings: Settings,
        members: Vec<Rc<Member<B>>>,
        generation: u64,
        visit: Box<Visit>,
        places: Option<Places>,
        cells: Arc<ReplicationCells>,
        lag: Arc<Lag>,
    ) -> Rc<Self> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Rc::new(Self {
            name: name.to_owned(),
            seed: xxhash_rust::xxh3::xxh3_64(name.as_bytes()),
            record_grace_ms: millis(RECORD_GRACE),
            tombstone_ms: millis(settings.tombstone_grace),
            settings,
            members,
            cells,
            lag,
            generation: Cell::new(generation),
            visit,
            lists: places.and_then(Lists::of),
            retired: Cell::new(false),
            next: RefCell::default(),
            look_soon: Cell::new(false),
            lengths: bundle::Lengths::default(),
        })
    }

    /// The replicas of a key.
    #[inline]
    pub fn replicas_of(&self, key: &[u8]) -> Option<Members<B>> {
        match &self.lists {
            Some(lists) => lists.get(key, || self.gather(key)),
            None => self.gather(key),
        }
    }

    fn gather(&self, key: &[u8]) -> Option<Members<B>> {
        let (mut all, mut is_whole) = (SmallVec::<[Rc<Member<B>>; 8]>::new(), true);
        (self.visit)(key, &mut |at| match self.members.get(at) {
            Some(member) => all.push(Rc::clone(member)),
            None => is_whole = false,
        });
        is_whole.then(|| all.into_iter().collect())
    }

    /// The group has left the topology: nobody looks after it any more.
    pub fn retire(&self) {
        self.retired.set(true);
    }

    /// The group has left the topology, and this one has come in its place. What waits for repair goes on there.
    pub fn replaced_by(&self, next: &Rc<Self>) {
        *self.next.borrow_mut() = Some(Rc::clone(next));
        self.retire();
    }

    /// The group of its pool that is in the topology now.
    fn newest(self: &Rc<Self>) -> Option<Rc<Self>> {
        let mut group = Rc::clone(self);
        while group.retired.get() {
            let next = group.next.borrow().clone();
            group = next?;
        }
        Some(group)
    }

    /// The places in the pool of some replicas of a key.
    fn places_of(&self, members: &Members<B>, some: u8) -> SmallVec<[usize; 8]> {
        let chosen = members.iter().enumerate().filter(|(at, _)| some & (1 << at) != 0);
        chosen.filter_map(|(_, member)| self.members.iter().position(|other| Rc::ptr_eq(other, member))).collect()
    }

    /// Whether a member may lack what others have.
    fn is_behind(&self, member: &Rc<Member<B>>) -> bool {
        let place = || self.members.iter().position(|other| Rc::ptr_eq(other, member));
        self.lag.any() && place().is_some_and(|place| self.lag.is_behind(place))
    }

    /// Whether no store can hold a key from before quoit.
    pub fn is_pure(&self) -> bool {
        self.members.iter().all(|member| member.is_pure())
    }

    /// For how long a blind write leaves alone what others wrote; none where it must not depend on what is there.
    fn contention_ms(&self, needed: usize) -> Option<u64> {
        (needed >= usize::from(self.quorums().majority())).then_some(CONTENTION_MS)
    }

    fn quorums(&self) -> Quorums {
        self.settings.quorums
    }
}

/// A request for keys with several replicas.
pub struct Request<'a, B: Backend> {
    /// The pool.
    pub group: &'a Rc<Group<B>>,
    /// The replicas of its keys.
    pub members: Members<B>,
    /// Its bytes.
    pub frame: &'a [u8],
    /// Its arguments.
    pub args: Args<'a>,
    /// Which of them are keys.
    pub keys: &'a KeyIndexes,
    /// What the table says of its verb.
    pub row: &'static Row,
    /// The protocol version of the reply.
    pub version: Version,
    /// What it asks of its replicas.
    pub level: Level,
}

/// Who hears the answer.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) sink: Rc<dyn ReplySink>,
    pub(crate) tag: Tag,
}

impl Asker {
    fn answer(&self, bytes: &[u8]) {
        let _: Flow = Rc::clone(&self.sink).reply(self.tag, Piece::Whole(bytes));
    }
}

/// Whether `BITFIELD` has a field whose value may not fit a number of Lua.
fn is_wide_bitfield<B: Backend>(request: &Request<'_, B>) -> bool {
    let is_wide = |word: &[u8]| {
        let Some((b'i' | b'I' | b'u' | b'U', digits)) = word.split_first() else { return false };
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|bits| bits > 53)
    };
    request.row.name == "bitfield" && request.args.iter().skip(2).any(is_wide)
}

/// Says that a replica holds a record that is none of ours.
fn unreadable<B: Backend>(engine: &Engine<B>, members: &Members<B>, at: usize) -> String {
    let label = members.get(at).map(|member| engine.backend.label(&member.node)).unwrap_or_default();
    format!("{label}: a version record that this version cannot read")
}

/// Replicates; one for each worker.
pub struct Engine<B: Backend> {
    backend: B,
    hlc: Hlc,
    lanes: Rc<Lanes>,
    serial: Cell<u64>,
    reads: read::Pool<B>,
    writes: write::Pool<B>,
    asked: anyone::Pool<B>,
    bundles: bundle::Bundles<B>,
    scripts: program::Scripts,
    repairs: repair::Queue<B>,
    met: piece::Met,
    ending: Cell<bool>,
    /// How long a round of a proposal takes.
    round_trip: Cell<Duration>,
    scratch: Cell<Vec<u8>>,
    this: RefCell<std::rc::Weak<Self>>,
}

/// What became of a request at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The sink will hear of it.
    Sent,
    /// The answer was appended.
    Answered,
}

impl<B: Backend> Engine<B> {
    /// An engine; `writer` has to be a number that no other engine has, such as a random one.
    pub fn new(backend: B, writer: u64) -> Rc<Self> {
        let engine = Rc::new(Self {
            backend,
            hlc: Hlc::new(writer),
            lanes: Rc::default(),
            serial: Cell::new(0),
            reads: read::Pool::default(),
            writes: write::Pool::default(),
            asked: anyone::Pool::default(),
            bundles: bundle::Bundles::default(),
            scripts: program::Scripts::default(),
            repairs: repair::Queue::default(),
            met: piece::Met::default(),
            ending: Cell::new(false),
            round_trip: Cell::new(Duration::from_millis(1)),
            scratch: Cell::default(),
            this: RefCell::default(),
        });
        *engine.this.borrow_mut() = Rc::downgrade(&engine);
        engine
    }

    /// What it uses to reach the world.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Ends what runs for nobody: the worker drains.
    pub fn end(&self) {
        self.ending.set(true);
    }

    /// A number that was not given before.
    pub fn next_serial(&self) -> u64 {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        serial
    }

    /// A round of a proposal took so long.
    fn took(&self, span: Duration) {
        self.round_trip.set((self.round_trip.get() * 7 + span) / 8);
    }

    /// How long a promise is left alone by others: the second round, and what it may be late.
    fn patience_ms(&self) -> u64 {
        u64::try_from(self.round_trip.get().as_millis()).unwrap_or(u64::MAX).saturating_mul(6).clamp(10, 500)
    }

    fn next_ballot(&self) -> Ballot {
        self.hlc.next(self.backend.wall_ms())
    }

    fn saw(&self, record: &Record) {
        let newest = record.promised.map_or(record.accepted, |promised| promised.first().max(record.accepted));
        self.hlc.saw(newest, self.backend.wall_ms());
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.backend.spawn(Box::pin(task));
    }

    fn deadline(&self, group: &Group<B>) -> Moment {
        self.backend.now().after(group.settings.timeout)
    }

    fn is_late(&self, deadline: Moment) -> bool {
        self.backend.now() >= deadline
    }

    /// Serves one request. Its keys have the same replicas.
    pub fn serve(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Taken {
        use crate::command::Replication;
        use crate::command::replicate::{Form, classify};
        let form = match request.row.replication {
            // The commonest needs no clock.
            Replication::Read if request.row.name == "get" => Form::Read,
            _ => classify(request.row, &request.args, self.backend.wall_ms()),
        };
        match form {
            Form::Read => self.read(request, sink, tag, out),
            Form::Blind(blind) => self.write_blind(request, &blind, sink, tag),
            Form::Update if is_wide_bitfield(request) => {
                // Numbers of Lua have 53 bits: better none than wrong ones.
                reply::refused(out, request.row, "fields wider than 53 bits lose digits in a replicated pool");
                Taken::Answered
            }
            Form::Update => self.update(request, sink, tag),
            Form::Opaque if request.row.handling == Handling::Run(Program::Text) => self.run_script(request, sink, tag),
            Form::Opaque => self.opaque(request, sink, tag),
            // The store refuses it in its own words and touches nothing.
            Form::Malformed | Form::FanOut | Form::Local | Form::Refused => self.pass_on(request, sink, tag, out),
        }
    }
}
