//! Transactions over keys with several replicas: one replica runs all commands, the others get the states; and keys that
//! are watched from before.
//!
//! A watched key is known by the last operation in its newest state. That is chosen before the client hears of it, and the
//! transaction begins from the newest states of a majority: so if the operation is still the last one then, nothing came
//! between that anybody was told of.
//!
//! # Invariants
//! - A state that a client may rely on by watching it is held by a majority.
//! - A key that was there when it was watched and has ended since counts as changed, as on a server.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::begin::acks_of;
use super::lane::{LaneId, Wish, lane_of};
use super::program::Parts;
use super::proposal::{Ground, Key, Proposal, Several, Work};
use super::round::{Round, sleep};
use super::shape::Shape;
use super::wire::{Cursor, TRANSACTION_REPLIES, Words, write_transaction};
use super::{Asker, Engine, Group, Members};
use crate::backend::{Backend, ReplySink, Tag};
use crate::command::replicate::{KeyRoles, key_roles};
use crate::command::{Args, Handling, Row, absolute};
use crate::protocol::resp::{Version, write_request};
use crate::quorum::Level;
use crate::version::{Record, write_record_key};

/// Before replicas are asked again.
const PAUSE: Duration = Duration::from_millis(2);

/// The state of a key when it was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The last operation in it; 0 for none.
    operation: u64,
    exists: bool,
}

/// A transaction over keys that have the same replicas.
pub struct Transaction<'a, B: Backend> {
    /// The pool.
    pub group: &'a Rc<Group<B>>,
    /// The replicas of all its keys.
    pub members: Members<B>,
    /// Its commands, in order.
    pub commands: &'a [(&'static Row, Args<'a>)],
    /// The texts of those of them that are scripts and known.
    pub texts: &'a [Option<Arc<[u8]>>],
    /// The keys that the client watches, and their states then.
    pub watched: &'a [(Vec<u8>, Watched)],
    /// The protocol version of the reply.
    pub version: Version,
    /// What it asks of its replicas.
    pub level: Level,
}

impl<B: Backend> Engine<B> {
    /// Runs a transaction. The sink hears an array of replies; nothing (a null array) if a watched key has changed.
    pub fn transact(self: &Rc<Self>, transaction: &Transaction<'_, B>, sink: &Rc<dyn ReplySink>, tag: Tag) {
        let mut keys: SmallVec<[Key; 1]> = SmallVec::new();
        let mut place_of = |name: &[u8], written: bool| {
            if let Some(at) = keys.iter().position(|key| key.name == name) {
                if let Some(key) = keys.get_mut(at) {
                    key.written |= written;
                }
                return at;
            }
            keys.push(Key::new(name, written));
            keys.len() - 1
        };
        let watched: Vec<(usize, Watched)> =
            transaction.watched.iter().map(|(name, state)| (place_of(name, false), *state)).collect();
        let (mut words, mut shapes, mut scripts) = (Words::default(), Vec::new(), Parts::default());
        for (number, (row, args)) in transaction.commands.iter().enumerate() {
            let mut roles = KeyRoles::new();
            if key_roles(row, args, &mut roles).is_ok() {
                for role in &roles {
                    place_of(args.get(role.at as usize).unwrap_or_default(), role.written);
                }
            }
            if let Handling::Run(_) = row.handling {
                scripts.push(&mut words, args, transaction.texts.get(number).and_then(Option::as_deref));
                shapes.push(Shape::default());
                continue;
            }
            let shape = Shape::within(row, args, transaction.version);
            match absolute(row, args, self.backend.wall_ms()) {
                Some(all) => words.push_command(all.iter(), shape.resp()),
                None => words.push_command(args.iter(), shape.resp()),
            }
            shapes.push(shape);
        }
        let mut members = transaction.members.clone();
        for others in keys.iter().filter_map(|key| transaction.group.replicas_of(&key.name)) {
            let is_same = transaction.group.join(&mut members, &others);
            debug_assert!(is_same, "whoever queued them saw to it");
        }
        let script = scripts.ready(&self.scripts);
        if script.is_some() {
            // What scripts write is known when they have run; what is known of tries goes by the places of replicas.
            keys.iter_mut().for_each(|key| key.written = true);
            members = transaction.group.in_own_order(&members);
        }
        let lanes: SmallVec<[LaneId; 2]> = keys.iter().map(|key| lane_of(transaction.group.seed, &key.name)).collect();
        let work = Work::Several(Box::new(Several { words, shapes, watched, script, found: 0 }));
        let proposal = Proposal {
            version: transaction.version,
            needed: acks_of(transaction.level, transaction.group),
            asker: Some(Asker { sink: Rc::clone(sink), tag }),
            ..Proposal::new(self, transaction.group, &members, keys, work)
        };
        let engine = Rc::clone(self);
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&lanes, self.next_serial(), Wish::Exclusive, Some(sink.origin()));
        self.spawn(async move {
            let held = waiting.await;
            proposal.run(engine, held).await;
        });
    }

    /// The states of keys, each held by a majority.
    ///
    /// # Errors
    /// When too few replicas answer until the pool's deadline.
    pub async fn watch(self: &Rc<Self>, group: &Rc<Group<B>>, keys: &[Vec<u8>]) -> Result<Vec<Watched>, String> {
        let deadline = self.deadline(group);
        let mut states = Vec::with_capacity(keys.len());
        for key in keys {
            let members = group.replicas_of(key).ok_or("no replicas")?;
            loop {
                match self.state_of(group, &members, key).await {
                    Ok(Some(state)) => {
                        states.push(state);
                        break;
                    }
                    Ok(None) => {
                        // What is newest is not held by enough: it is brought to them, or was never there.
                        let _: bool = self.settle(Proposal::identity(self, group, &members, key)).await;
                    }
                    Err(trouble) if self.is_late(deadline) => return Err(trouble),
                    Err(_) => sleep(&self.backend, PAUSE).await,
                }
                if self.is_late(deadline) {
                    return Err("the value changes faster than it can be read".to_owned());
                }
            }
        }
        Ok(states)
    }

    /// The newest state of a key; none if not enough hold it.
    async fn state_of(&self, group: &Group<B>, members: &Members<B>, key: &[u8]) -> Result<Option<Watched>, String> {
        let (mut record, mut exists) = (Vec::new(), Vec::new());
        write_record_key(key, &mut record);
        write_request(&mut exists, [b"EXISTS".as_slice(), key].into_iter());
        let write = |_: usize, _, out: &mut Vec<u8>| {
            write_transaction(out, std::iter::once(record.as_slice()), &exists);
        };
        let round = Round::new(self, members, Version::Resp2, 0, &write).of_replies(TRANSACTION_REPLIES);
        for (at, _) in members.iter().enumerate().filter(|(_, member)| member.votes()) {
            round.ask(at);
        }
        let majority = usize::from(group.quorums().majority());
        let mut states: SmallVec<[(Record, bool); 7]> = SmallVec::new();
        let mut trouble = "too few replicas can vote".to_owned();
        while let Some((at, said)) = round.next().await {
            let reply = match said {
                Ok(reply) => reply,
                Err(failure) => {
                    trouble = format!("{}: {}", failure.node, failure.cause);
                    continue;
                }
            };
            let mut cursor = Cursor::new(&reply);
            let parts = (|| {
                cursor.array().filter(|elements| *elements == 2)?;
                cursor.array().filter(|elements| *elements == 2)?;
                Some((cursor.bulk()?, cursor.bulk()?, cursor.integer()?))
            })();
            let Some((record, fence, exists)) = parts else { continue };
            if !members.get(at).is_some_and(|member| member.votes_under(fence)) {
                group.look_at_fences();
                continue;
            }
            let Ok(record) = Record::decode(record) else { continue };
            self.saw(&record);
            if record.mark.is_some() {
                return Ok(None);
            }
            states.push((record, exists == 1));
            let newest = states.iter().map(|(record, _)| record.accepted).max().unwrap_or_default();
            let mut holders = states.iter().filter(|(record, _)| record.accepted == newest);
            if let Some((record, exists)) = holders.next()
                && 1 + holders.count() >= majority
                && (!newest.is_zero() || !exists)
            {
                return Ok(Some(Watched::of(record, *exists)));
            }
        }
        if states.len() < majority { Err(trouble) } else { Ok(None) }
    }
}

impl Watched {
    fn of(record: &Record, exists: bool) -> Self {
        Self { operation: record.operations().last().copied().unwrap_or(0), exists }
    }

    /// Whether the key is still what it was.
    pub(super) fn is_still(self, ground: &Ground, key: usize) -> bool {
        let Some(newest) = ground.newest.get(key) else { return false };
        let holder = ground.holders(key).next();
        let promise = ground.promises.iter().find(|promise| Some(promise.member) == holder);
        let exists = promise.and_then(|promise| promise.records.get(key)).is_some_and(|(_, exists)| *exists);
        self == Self::of(newest, exists)
    }
}
