//! How writes begin: what each class of them needs, and at which place of its lane.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use super::lane::{Entrance, Held, LaneId, Owned, Wish, lane_of};
use super::proposal::{Key, Proposal, Work};
use super::shape::Shape;
use super::wire::Words;
use super::write::{Kind, Plan, Write, words_of_blind};
use super::{Asker, CONTENTION_MS, Engine, Group, Request, Taken};
use crate::backend::{Backend, ReplySink, Tag};
use crate::command::replicate::{Blind, KeyRoles, key_roles};
use crate::command::{Args, Row, absolute};
use crate::quorum::Level;
use crate::version::{Ballot, OpId};

impl<B: Backend> Engine<B> {
    /// Serves a blind write of one key.
    pub(super) fn write_blind(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        blind: &Blind<'_>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Taken {
        let (kind, load) = match *blind {
            Blind::Set { value, expires_at_ms } => (Kind::Set { expires_at: expires_at_ms }, value),
            Blind::Restore { payload, expires_at_ms } => (Kind::Restore { expires_at: expires_at_ms }, payload),
            // `MSET` of one key, as the coordinator cuts it.
            Blind::SetEach => (Kind::Set { expires_at: None }, request.args.get(2).unwrap_or_default()),
        };
        let key = request.args.get(1).unwrap_or_default();
        let lane = lane_of(request.group.seed, key);
        let (generation, now) = (request.group.generation.get(), self.backend.now());
        // Without anybody to meet the lineage may end; the record gets short again.
        let rest = Duration::from_millis(CONTENTION_MS);
        let entrance = self.lanes.enter_blind(lane, sink.origin(), generation, now, rest);
        if let Entrance::Owned(base, ballot) = entrance {
            // As one of the updates: those who met this worker here find in the lineage what became of them.
            // A plain `SET` is sent as it came: this path allocates nothing.
            let is_plain = request.row.name == "set" && request.args.len() == 3;
            let words = (!is_plain).then(|| words_of_blind(kind, key, load));
            let (load, count) = match &words {
                Some(words) => (words.bytes.as_slice(), words.count),
                None => (words_in(request.frame), request.args.len()),
            };
            let plan = Plan { kind: Kind::Update { words: count }, load, ballot, base, overwrites: true };
            self.start_write(request, key, lane, &plan, sink, tag);
            return Taken::Sent;
        }
        let base = Owned { ballot: Ballot::default(), count: 0, last: OpId(0), generation, since: now };
        let plan = Plan { kind, load, ballot: self.next_ballot(), base, overwrites: true };
        let Entrance::Blind { others } = entrance else {
            let write = self.take_write();
            write.fill(request, key, &plan, sink, tag);
            self.write_in_turn(write, lane, sink.origin());
            return Taken::Sent;
        };
        if others > 0 && self.has_gathered_writes() {
            self.send_gathered(); // One of them may be of this key.
        }
        self.start_write(request, key, lane, &plan, sink, tag);
        Taken::Sent
    }

    /// Serves an update of one key.
    pub(super) fn update(self: &Rc<Self>, request: &Request<'_, B>, sink: &Rc<dyn ReplySink>, tag: Tag) -> Taken {
        let [at] = request.keys.as_slice() else { return self.opaque(request, sink, tag) };
        let key = request.args.get(*at as usize).unwrap_or_default();
        let lane = lane_of(request.group.seed, key);
        if request.level == Level::Eventual {
            let words = self.words_of(request.row, &request.args);
            return self.update_eventually(request, key, words, sink, tag);
        }
        if let Some((base, ballot)) =
            self.lanes.enter_owned(lane, sink.origin(), request.group.generation.get(), self.backend.now())
        {
            let words = absolute(request.row, &request.args, self.backend.wall_ms()).map(|all| Words::of(all.iter()));
            let (load, count) = match &words {
                Some(words) => (words.bytes.as_slice(), words.count),
                // As they came: this path allocates nothing.
                None => (words_in(request.frame), request.args.len()),
            };
            let plan = Plan { kind: Kind::Update { words: count }, load, ballot, base, overwrites: false };
            self.start_write(request, key, lane, &plan, sink, tag);
            return Taken::Sent;
        }
        let keys = std::iter::once(Key::new(key, true)).collect();
        let words = self.words_of(request.row, &request.args);
        let proposal = self.proposal_of(request, keys, Work::Update(words), sink, tag);
        self.propose_in_turn(proposal, lane, sink.origin());
        Taken::Sent
    }

    /// Serves a command that one replica runs for all.
    pub(super) fn opaque(self: &Rc<Self>, request: &Request<'_, B>, sink: &Rc<dyn ReplySink>, tag: Tag) -> Taken {
        let mut roles = KeyRoles::new();
        if key_roles(request.row, &request.args, &mut roles).is_err() || roles.is_empty() {
            let mut out = Vec::new();
            if self.pass_on(request, sink, tag, &mut out) == Taken::Answered {
                Asker { sink: Rc::clone(sink), tag }.answer(&out);
            }
            return Taken::Sent;
        }
        let keys: SmallVec<[Key; 1]> =
            roles.iter().filter_map(|role| Some(Key::new(request.args.get(role.at as usize)?, role.written))).collect();
        let lanes: SmallVec<[LaneId; 2]> = keys.iter().map(|key| lane_of(request.group.seed, &key.name)).collect();
        let words = self.words_of(request.row, &request.args);
        let proposal = self.proposal_of(request, keys, Work::Opaque(words), sink, tag);
        let engine = Rc::clone(self);
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&lanes, self.next_serial(), Wish::Exclusive, Some(sink.origin()));
        self.spawn(async move {
            let held = waiting.await;
            proposal.run(engine, held).await;
        });
        Taken::Sent
    }

    /// The command with its times made absolute.
    fn words_of(&self, row: &Row, args: &Args<'_>) -> Words {
        match absolute(row, args, self.backend.wall_ms()) {
            Some(words) => Words::of(words.iter()),
            None => Words::of_args(args),
        }
    }

    fn proposal_of(
        &self,
        request: &Request<'_, B>,
        keys: SmallVec<[Key; 1]>,
        work: Work,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Proposal<B> {
        Proposal {
            version: request.version,
            needed: acks_of(request.level, request.group),
            shape: Shape::of(request.row, &request.args, request.version),
            asker: Some(Asker { sink: Rc::clone(sink), tag }),
            ..Proposal::new(self, request.group, &request.members, keys, work)
        }
    }

    /// Sends a blind write when its turn has come. Behind updates in their only round it is one of them.
    fn write_in_turn(self: &Rc<Self>, write: Rc<Write<B>>, lane: LaneId, origin: usize) {
        let (engine, serial) = (Rc::clone(self), self.next_serial());
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&[lane], serial, Wish::Blind, Some(origin));
        self.spawn(async move {
            let held = waiting.await;
            if engine.lanes.is_ready_for_blind(lane, serial) {
                held.keep(); // The write gives it back.
                engine.lanes.disown(lane);
                engine.send_blind(&write, lane, serial);
                return;
            }
            let proposal = write.inner.borrow().proposal(&engine, None);
            if let Some(proposal) = proposal {
                engine.propose_with(held, proposal, lane, serial).await;
            }
        });
    }

    /// Runs a proposal for one key when its turn has come: in one round if the key is this worker's by then.
    fn propose_in_turn(self: &Rc<Self>, proposal: Proposal<B>, lane: LaneId, origin: usize) {
        let (engine, serial) = (Rc::clone(self), self.next_serial());
        // Now and not when the task runs: what comes next must not overtake it.
        let waiting = self.lanes.wait(&[lane], serial, Wish::Owned, Some(origin));
        self.spawn(async move {
            let held = waiting.await;
            engine.propose_with(held, proposal, lane, serial).await;
        });
    }

    async fn propose_with(self: Rc<Self>, mut held: Held, proposal: Proposal<B>, lane: LaneId, serial: u64) {
        if held.is_shared() {
            if let Some((base, ballot)) =
                self.lanes.next_owned(lane, proposal.group.generation.get(), self.backend.now())
            {
                held.keep(); // The write gives it back.
                self.start_proposed(proposal, lane, serial, base, ballot);
                return;
            }
            // It waits before it leaves, so that nothing gets in between.
            let waiting = self.lanes.wait(&[lane], serial, Wish::Exclusive, None);
            drop(held);
            held = waiting.await;
        }
        proposal.run(self, held).await;
    }

    /// An update of a cache: one replica runs it, the others get the state when they get it.
    fn update_eventually(
        self: &Rc<Self>,
        request: &Request<'_, B>,
        key: &[u8],
        words: Words,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Taken {
        let keys = std::iter::once(Key::new(key, true)).collect();
        let proposal = self.proposal_of(request, keys, Work::Update(words), sink, tag);
        let engine = Rc::clone(self);
        self.spawn(async move { proposal.run_anywhere(&engine).await });
        Taken::Sent
    }
}

/// The words of a request, without the line that counts them.
fn words_in(frame: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\n', frame).map_or(frame.len(), |at| at + 1);
    frame.get(end..).unwrap_or_default()
}

/// How many replicas have to take a write.
pub(super) fn acks_of<B: Backend>(level: Level, group: &Group<B>) -> usize {
    usize::from(level.write_acks(group.quorums()))
}
