//! Goes over the keys of all pools that a client can reach, a page of one store at a time.
//!
//! The stops of a walk are the stores, by the names of pools and nodes, so that every proxy has the same order. Where a
//! key is on one node, its node reports it. Where it is on several, one of them does:
//!
//! - At the levels that read one replica, the first of them in ring order that is not left out.
//! - At the others the last of them in the order of the walk that holds it, with `survey` to tell who does. So a key that
//!   its first replica has missed is not missed by the walk, and one that repair brings to a store in the middle
//!   of a walk may be reported twice, never not at all.
//!
//! A store that is away is left out from there on; the position says so. Stops before it have counted on it for some
//! keys, so they are walked again for these. A store that was restarted has begun its own cursors anew, so it is walked
//! from its beginning; its process says by `run_id` that it is another.
//!
//! # Invariants
//! - A key that is there from the beginning of a walk to its end is reported, or the walk fails.
//! - It is reported once, unless a store comes, goes, restarts or is repaired meanwhile.
//! - What quoit keeps in the stores is not reported.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use super::cursor::{Away, Layout, Position, layout_bits, run_bits};
use super::names::{Names, pools_of};
use crate::backend::redis::Node;
use crate::backend::{Cause, Failure, Stores};
use crate::config::{Listener, Rewrite};
use crate::coordinator::gather::{Miss, ask};
use crate::protocol::resp::{write_bulk, write_request};
use crate::quorum::Level;
use crate::replication::{Cursor, Engine, Group};
use crate::topology::View;
use crate::version::{FENCE_KEY, is_reserved};

/// Places that one page of a store with one copy looks at, however many a client asks for: a page is held in memory.
const COUNT_MAX: u64 = 5_000;
/// The same where the keys of a page are then looked up on their other replicas.
const COUNT_REPLICATED_MAX: u64 = 1_000;
/// How often a walk begins a pool again within one call because another store is away than before.
const RESTARTS_MAX: u32 = 2;

/// How often, and after which pauses, a store whose fence was raised is asked again: the worker looks at fences once a
/// second, and at once when it is told to.
const FENCE_LOOKS_MAX: u32 = 40;
pub(super) const FENCE_PAUSE: Duration = Duration::from_millis(25);

/// One store.
pub(super) struct Stop {
    /// An index into the configuration's pools.
    pub(super) pool: usize,
    /// Its place among the pool's nodes.
    pub(super) member: usize,
    pub(super) node: Rc<Node>,
    /// Where keys have several replicas.
    pub(super) group: Option<Rc<Group<Stores>>>,
    /// Clients call each of its keys what the store does.
    is_plain: bool,
}

/// What a walk looks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) pattern: Option<Vec<u8>>,
    pub(super) type_name: Option<Vec<u8>>,
    /// About so many places are looked at for one page.
    pub(super) count: u64,
    /// Every copy of every key, whoever should report it.
    pub(super) copies: bool,
}

/// Keys of one pool, as its stores call them.
pub(super) struct Page {
    pub(super) pool: usize,
    pub(super) keys: Vec<Vec<u8>>,
}

/// Why a walk cannot go on.
pub(super) enum Trouble {
    /// The only store of some keys gives no answer.
    Node(Failure),
    /// A store refuses, in these words.
    Store(Vec<u8>),
    /// Too few stores answer.
    TooFew(String),
}

impl From<Miss> for Trouble {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Failed(failure) => Self::Node(failure),
            Miss::TooLong => Self::Store(b"-ERR names of keys too long for quoit to hold\r\n".to_vec()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(failure) => write!(f, "{}: {}", failure.node, failure.cause),
            Self::Store(text) => f.write_str(String::from_utf8_lossy(text).trim_start_matches('-').trim_end()),
            Self::TooFew(why) => f.write_str(why),
        }
    }
}

/// One client's way over all keys.
pub(super) struct Walk {
    pub(super) view: Rc<View>,
    pub(super) engine: Rc<Engine<Stores>>,
    pub(super) stops: Vec<Stop>,
    /// The stop of each node, by pool and place in it.
    places: BTreeMap<(usize, usize), usize>,
    pub(super) layout: Layout,
    /// Of the client.
    pub(super) origin: usize,
    level: Option<Level>,
}

/// The stops of a key's replicas, in ring order.
pub(super) type Homes = SmallVec<[usize; 4]>;

/// What one store said.
struct Found {
    keys: Vec<Vec<u8>>,
    next: u64,
    run: u16,
}

impl Walk {
    /// The walk of a listener's clients. `group` gives the group of a pool with several replicas.
    pub(super) fn new(
        view: &Rc<View>,
        listener: &Listener,
        level: Option<Level>,
        origin: usize,
        engine: &Rc<Engine<Stores>>,
        group: impl Fn(usize) -> Option<Rc<Group<Stores>>>,
    ) -> Self {
        let config = &view.topology.config;
        let mut pools = pools_of(listener);
        pools.sort_by_key(|pool| config.pools.get(*pool).map(|pool| pool.name.as_str()));
        let mut stops = Vec::new();
        for pool in &pools {
            let group = group(*pool);
            let first = stops.len();
            let nodes = view.nodes_in(*pool).iter().enumerate();
            stops.extend(nodes.map(|(member, node)| Stop {
                pool: *pool,
                member,
                node: Rc::clone(node),
                group: group.clone(),
                is_plain: Names { listener, pool: *pool }.are_plain(),
            }));
            if let Some(own) = stops.get_mut(first..) {
                own.sort_by(|a, b| a.node.options().name.cmp(&b.node.options().name));
            }
        }
        let places = stops.iter().enumerate().map(|(at, stop)| ((stop.pool, stop.member), at)).collect();
        let replicated = stops.iter().any(|stop| stop.group.is_some());
        let bits = layout_bits(fingerprint(view, listener, &pools, level));
        let layout = Layout { bits, stops: stops.len(), replicated };
        Self { view: Rc::clone(view), engine: Rc::clone(engine), stops, places, layout, origin, level }
    }

    /// Whether a walk at this place is over.
    pub(super) fn is_over(&self, position: &Position) -> bool {
        position.stop >= self.stops.len()
    }

    /// What the client's reads of a pool ask of its replicas.
    pub(super) fn level_of(&self, pool: usize) -> Level {
        self.level
            .unwrap_or_else(|| self.view.topology.config.pools.get(pool).map(|pool| pool.level).unwrap_or_default())
    }

    /// Where the replicas of a key are, in ring order; one where a pool keeps one copy.
    pub(super) fn homes(&self, pool: usize, key: &[u8]) -> Homes {
        let (Some(topology), Some(config)) =
            (self.view.topology.pools.get(pool), self.view.topology.config.pools.get(pool))
        else {
            return Homes::new();
        };
        let stop_of = |member: usize| self.places.get(&(pool, member)).copied();
        match config.replicas {
            0 | 1 => stop_of(usize::from(topology.ring.primary(key).0)).into_iter().collect(),
            count => {
                let replicas = topology.ring.replicas(key, count as usize);
                replicas.iter().filter_map(|member| stop_of(usize::from(member.0))).collect()
            }
        }
    }

    /// The next page, and the place behind it. A page may be empty before the walk is over. Where it fails, the place
    /// from which it can be tried again is the one before.
    pub(super) async fn step(&self, position: &mut Position, wanted: &Wanted) -> Result<Page, Trouble> {
        let mut spent = Duration::ZERO;
        loop {
            let mut here = *position;
            match self.try_step(&mut here, wanted).await {
                Ok(page) => {
                    *position = here;
                    return Ok(page);
                }
                Err(Trouble::TooFew(_)) if self.may_vote_soon(here.stop, spent) => {
                    tokio::time::sleep(FENCE_PAUSE).await;
                    spent += FENCE_PAUSE;
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Whether a store of the pool that is reached does not vote yet, and it is worth waiting for: the pool just begins, or
    /// this worker has not looked yet.
    pub(super) fn may_vote_soon(&self, stop: usize, spent: Duration) -> bool {
        let Some(group) = self.stops.get(stop).and_then(|stop| stop.group.as_ref()) else { return false };
        spent < group.settings.timeout
            && group.members.iter().any(|member| !member.votes() && member.node.is_available())
    }

    async fn try_step(&self, position: &mut Position, wanted: &Wanted) -> Result<Page, Trouble> {
        let mut restarts = 0;
        loop {
            self.leave_out_known(position);
            while !wanted.copies && self.is_covered(position) {
                self.advance(position);
            }
            let Some(stop) = self.stops.get(position.stop) else { return Ok(Page { pool: 0, keys: Vec::new() }) };
            let found = match (self.scan(stop, position, wanted).await, &stop.group) {
                (Ok(found), _) => found,
                (Err(trouble), None) => return Err(trouble),
                (Err(trouble), Some(_)) => {
                    self.leave_out(position, &trouble, wanted, &mut restarts)?;
                    continue;
                }
            };
            let keys = if stop.group.is_some() {
                self.reported(position, stop, found.keys, wanted).await?
            } else {
                let mut keys = found.keys;
                // Another node's key, from before an edit of the ring: clients cannot reach it here.
                keys.retain(|key| self.homes(stop.pool, key).contains(&position.stop));
                keys
            };
            position.store = found.next;
            position.run = found.run;
            if found.next == 0 {
                self.advance(position);
            }
            return Ok(Page { pool: stop.pool, keys });
        }
    }

    /// The first stop of the pool that a stop is of.
    fn first_of(&self, stop: usize) -> usize {
        let pool = self.stops.get(stop).map(|stop| stop.pool);
        self.stops.iter().position(|other| Some(other.pool) == pool).unwrap_or(stop)
    }

    /// Goes to the next stop.
    pub(super) fn advance(&self, position: &mut Position) {
        let pool_of = |stop: usize| self.stops.get(stop).map(|stop| stop.pool);
        let pool = pool_of(position.stop);
        position.stop += 1;
        match position.away {
            Away::Patched(away) if away == position.stop => {
                position.away = Away::Known(away);
                position.stop += 1;
            }
            Away::Known(away) if away == position.stop => position.stop += 1,
            Away::None | Away::Known(_) | Away::Patched(_) => {}
        }
        if pool_of(position.stop) != pool {
            position.away = Away::None;
        }
        position.store = 0;
        position.run = 0;
    }

    /// Whether the store at a stop with replicas votes and answers, as far as this worker knows.
    pub(super) fn is_usable(&self, stop: usize) -> bool {
        let Some(stop) = self.stops.get(stop) else { return false };
        let votes = stop.group.as_ref().and_then(|group| group.members.get(stop.member)).is_some_and(|it| it.votes());
        votes && stop.node.is_available()
    }

    /// Whether the stops behind this one, without the one that is left out, are so many of a key's replicas that one of them
    /// holds whatever was answered to a client: of N replicas W hold it. Then nothing is reported here.
    pub(super) fn is_covered_by(&self, homes: &Homes, position: &Position) -> bool {
        let Some(stop) = self.stops.get(position.stop) else { return false };
        let Some(group) = stop.group.as_ref().filter(|group| group.is_pure()) else { return false };
        let left_out = |home: usize| position.away == Away::Known(home) || position.away == Away::Patched(home);
        let later = homes.iter().filter(|home| **home > position.stop && !left_out(**home)).count();
        let quorums = group.settings.quorums;
        self.level_of(stop.pool).read_acks(quorums) > 1 && later > usize::from(quorums.replicas - quorums.write)
    }

    /// The same of all keys of a pool, where each is on every store.
    fn is_covered(&self, position: &Position) -> bool {
        let Some(stop) = self.stops.get(position.stop) else { return false };
        let Some(group) = &stop.group else { return false };
        let first = self.first_of(position.stop);
        let all: Homes = (first..first + group.members.len()).collect();
        group.members.len() == usize::from(group.settings.quorums.replicas) && self.is_covered_by(&all, position)
    }

    /// At the beginning of a pool, leaves out the one store that is known to be away: nothing has to be walked twice then.
    fn leave_out_known(&self, position: &mut Position) {
        let Some(stop) = self.stops.get(position.stop).filter(|stop| stop.group.is_some()) else { return };
        let is_beginning = position.store == 0 && position.away == Away::None;
        if !is_beginning || self.first_of(position.stop) != position.stop {
            return;
        }
        let mut unusable = (position.stop..self.stops.len())
            .take_while(|other| self.stops.get(*other).is_some_and(|other| other.pool == stop.pool))
            .filter(|other| !self.is_usable(*other));
        if let (Some(away), None) = (unusable.next(), unusable.next()) {
            position.away = Away::Known(away);
            if away == position.stop {
                position.stop += 1;
            }
        }
    }

    /// The store at this stop is away.
    fn leave_out(
        &self,
        position: &mut Position,
        trouble: &Trouble,
        wanted: &Wanted,
        restarts: &mut u32,
    ) -> Result<(), Trouble> {
        let stop = position.stop;
        let first = self.first_of(stop);
        match position.away {
            Away::None if stop == first || wanted.copies => {
                position.away = Away::Known(stop);
                self.advance(position);
            }
            Away::None => *position = Position { stop: first, away: Away::Patched(stop), store: 0, run: 0 },
            Away::Known(other) | Away::Patched(other) => {
                *restarts += 1;
                if *restarts > RESTARTS_MAX || !self.is_usable(other) {
                    return Err(Trouble::TooFew(self.explain(other, trouble)));
                }
                // The other has come back: without this one all is begun anew.
                *position = Position { stop: first, away: Away::Known(stop), store: 0, run: 0 };
                if stop == first {
                    position.stop += 1;
                }
            }
        }
        Ok(())
    }

    fn explain(&self, other: usize, trouble: &Trouble) -> String {
        let label = self.stops.get(other).map(|stop| stop.node.options().label.as_ref()).unwrap_or_default();
        format!("{trouble}; and {label} is away")
    }

    /// Asks one store for a page, from the beginning if the store's process is another than before.
    async fn scan(&self, stop: &Stop, position: &Position, wanted: &Wanted) -> Result<Found, Trouble> {
        let mut question = Question {
            cursor: position.store,
            run: position.run,
            count: count_for(stop, wanted),
            asks_run: true,
            repeated: false,
        };
        let mut fence_looks = 0;
        loop {
            let mut write = |out: &mut Vec<u8>| question.write(stop, wanted, out);
            let reply = match ask(&stop.node, self.origin, question.replies(stop), &mut write).await {
                Ok(reply) => reply,
                // The connection may have been dead before this: a page can be asked for twice.
                Err(Miss::Failed(Failure { cause: Cause::Broken(_) | Cause::Unsent(_), .. })) if !question.repeated => {
                    question.repeated = true;
                    continue;
                }
                // Very long names.
                Err(Miss::TooLong) if question.count > 1 => {
                    question.count = (question.count / 10).max(1);
                    continue;
                }
                Err(miss) => return Err(miss.into()),
            };
            if reply.first() == Some(&b'-') {
                if question.asks_run && reply.starts_with(b"-NOPERM") {
                    // Who may not ask for `INFO` can still walk; a restart is then not noticed.
                    question.asks_run = false;
                    continue;
                }
                return Err(Trouble::Store(reply));
            }
            let Some((run, fence, found)) = question.read(stop, &reply) else {
                return Err(Trouble::Store(b"-ERR a store answered SCAN with something else\r\n".to_vec()));
            };
            if let Some(group) = &stop.group {
                match check_fence(stop, group, fence) {
                    Ok(()) => {}
                    Err(Stranger::Raised) if fence_looks < FENCE_LOOKS_MAX => {
                        fence_looks += 1;
                        tokio::time::sleep(FENCE_PAUSE).await;
                        continue;
                    }
                    Err(_) => {
                        return Err(Trouble::TooFew(format!("{}: it does not vote", stop.node.options().label)));
                    }
                }
            }
            let (next, keys) = found.map_err(|error| Trouble::Store(error.to_vec()))?;
            if question.cursor != 0 && run != question.run {
                question.cursor = 0;
                continue;
            }
            return Ok(Found { keys, next, run });
        }
    }
}

/// Why the word of a store does not count.
enum Stranger {
    /// It has another fence than before, perhaps a later one, of which this worker hears soon.
    Raised,
    /// It has none, or one that does not vote.
    Voteless,
}

/// Whether a store votes by its own word.
fn check_fence(stop: &Stop, group: &Rc<Group<Stores>>, fence: &[u8]) -> Result<(), Stranger> {
    let Some(member) = group.members.get(stop.member) else { return Err(Stranger::Voteless) };
    if member.votes_under(fence) {
        return Ok(());
    }
    group.look_at_fences();
    if member.votes() && !fence.is_empty() { Err(Stranger::Raised) } else { Err(Stranger::Voteless) }
}

/// What a store is asked for one page.
struct Question {
    cursor: u64,
    run: u16,
    count: u64,
    asks_run: bool,
    repeated: bool,
}

impl Question {
    /// Replies to the transaction: `MULTI`, what is queued, `EXEC`.
    fn replies(&self, stop: &Stop) -> u32 {
        3 + u32::from(self.asks_run) + u32::from(stop.group.is_some())
    }

    fn write(&self, stop: &Stop, wanted: &Wanted, out: &mut Vec<u8>) {
        write_request(out, std::iter::once(b"MULTI".as_slice()));
        if self.asks_run {
            write_request(out, [b"INFO".as_slice(), b"server"].into_iter());
        }
        if stop.group.is_some() {
            write_request(out, [b"GET".as_slice(), FENCE_KEY].into_iter());
        }
        let (cursor, count) = (self.cursor.to_string(), self.count.to_string());
        let mut words: SmallVec<[&[u8]; 8]> = SmallVec::new();
        words.extend([b"SCAN".as_slice(), cursor.as_bytes(), b"COUNT", count.as_bytes()]);
        if let Some(pattern) = wanted.pattern.as_deref().filter(|_| stop.is_plain) {
            words.extend([b"MATCH".as_slice(), pattern]);
        }
        // One replica may be behind with the type; who reports a key asks for it.
        if let Some(name) = wanted.type_name.as_deref().filter(|_| stop.group.is_none()) {
            words.extend([b"TYPE".as_slice(), name]);
        }
        write_request(out, words.into_iter());
        write_request(out, std::iter::once(b"EXEC".as_slice()));
    }

    /// Run, fence, and the next cursor with the keys, or the error that the store gave instead.
    #[expect(clippy::type_complexity, reason = "three answers in one reply")]
    fn read<'r>(&self, stop: &Stop, reply: &'r [u8]) -> Option<(u16, &'r [u8], Result<(u64, Vec<Vec<u8>>), &'r [u8]>)> {
        let mut cursor = Cursor::new(reply);
        cursor.array().filter(|count| *count == self.replies(stop) as usize - 2)?;
        let run = if self.asks_run { run_of(cursor.bulk()?) } else { 0 };
        let fence = if stop.group.is_some() { cursor.bulk()? } else { &[] };
        let page = cursor.value()?;
        if page.first() == Some(&b'-') {
            return Some((run, fence, Err(page)));
        }
        let mut page = Cursor::new(page);
        page.array().filter(|parts| *parts == 2)?;
        let next = std::str::from_utf8(page.bulk()?).ok()?.parse().ok()?;
        let count = page.array()?;
        let mut keys = Vec::new();
        for _ in 0..count {
            let key = page.bulk()?;
            if stop.group.is_none() || !is_reserved(key) {
                keys.push(key.to_vec());
            }
        }
        Some((run, fence, Ok((next, keys))))
    }
}

/// How many places a store is to look at.
fn count_for(stop: &Stop, wanted: &Wanted) -> u64 {
    match &stop.group {
        None => wanted.count.min(COUNT_MAX),
        // Every second name is a record's, and each key is met once a replica.
        Some(group) => {
            let replicas = u64::from(group.settings.quorums.replicas);
            wanted.count.saturating_mul(2 * replicas).min(COUNT_REPLICATED_MAX)
        }
    }
}

/// The process that gave this `INFO`.
fn run_of(text: &[u8]) -> u16 {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"run_id:"));
    line.map_or(0, |id| run_bits(xxhash_rust::xxh3::xxh3_64(id)))
}

/// Of all that decides which stop reports a key, and by which name.
fn fingerprint(view: &View, listener: &Listener, pools: &[usize], level: Option<Level>) -> u64 {
    let mut text = Vec::new();
    for index in pools {
        let (Some(pool), Some(config)) = (view.topology.pools.get(*index), view.topology.config.pools.get(*index))
        else {
            continue;
        };
        write_bulk(&mut text, pool.name.as_bytes());
        text.extend(pool.ring.fingerprint().to_be_bytes());
        text.extend(config.replicas.to_be_bytes());
        text.extend(level.unwrap_or(config.level).name().bytes());
    }
    let name_of = |pool: usize| view.topology.pools.get(pool).map(|pool| pool.name.as_bytes()).unwrap_or_default();
    write_bulk(&mut text, name_of(listener.pool));
    for route in &listener.routes {
        write_bulk(&mut text, &route.prefix);
        write_bulk(&mut text, name_of(route.pool));
        match &route.rewrite {
            Rewrite::Keep => text.push(0),
            Rewrite::Strip => text.push(1),
            Rewrite::Replace(with) => write_bulk(&mut text, with),
        }
    }
    xxhash_rust::xxh3::xxh3_64(&text)
}
