//! Requests for keys with several replicas: finds those of each key, cuts what concerns several keys into one request a
//! key, and hands all to the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::blocking::{Herald, only_takes};
use super::{Coordinator, Request, Target, Verdict, rewritten_key};
use crate::backend::{ReplySink, Stores, Tag};
use crate::command::{self, Args, Handling, KeyIndexes, SplitRule, VerbClass, reply};
use crate::config::{Pool, Rewrite};
use crate::metrics::{Metrics, Outcome, ReplicationCells};
use crate::protocol::resp::{write_bulk, write_header};
use crate::quorum::Level;
use crate::replication::{self, Engine, Group, Member, Members, Places, Settings, Taken};
use crate::topology::View;
use crate::version::is_reserved;

/// The groups of one view: one for each pool with several replicas.
#[derive(Default)]
pub(super) struct Groups {
    pools: RefCell<Vec<Option<Rc<Group<Stores>>>>>,
    /// By the name of the pool, for the life of the worker: counters do not go back.
    cells: RefCell<BTreeMap<String, Arc<ReplicationCells>>>,
}

/// A request that was put together here, and where its words are.
#[derive(Default)]
pub(super) struct Own {
    pub(super) frame: Vec<u8>,
    pub(super) bounds: SmallVec<[(u32, u32); 4]>,
}

impl Own {
    pub(super) fn begin(&mut self, words: usize) {
        self.frame.clear();
        self.bounds.clear();
        write_header(&mut self.frame, b'*', words);
    }

    pub(super) fn push(&mut self, word: &[u8]) {
        write_bulk(&mut self.frame, word);
        let end = self.frame.len() - 2;
        let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.bounds.push((bound(end - word.len()), bound(end)));
    }
}

impl Groups {
    /// Makes groups for a new view; a group whose pool is the same is kept with what it knows of its stores.
    pub(super) fn refresh(&self, view: &View, engine: &Rc<Engine<Stores>>, leads: bool, metrics: &Metrics) {
        let mut pools = self.pools.borrow_mut();
        let old: Vec<Rc<Group<Stores>>> = pools.drain(..).flatten().collect();
        for (index, pool) in view.topology.config.pools.iter().enumerate() {
            if pool.replicas < 2 {
                pools.push(None);
                continue;
            }
            let (Some(topology), nodes) = (view.topology.pools.get(index), view.nodes_in(index)) else { continue };
            let settings = settings_of(view, index, pool, topology.ring.fingerprint());
            let previous = old.iter().find(|group| group.name == pool.name);
            let same = previous.filter(|group| {
                group.settings == settings
                    && group.members.len() == nodes.len()
                    && group.members.iter().zip(nodes).all(|(member, node)| Rc::ptr_eq(&member.node, node))
            });
            if let Some(same) = same {
                pools.push(Some(Rc::clone(same)));
                continue;
            }
            let members = nodes.iter().map(|node| {
                let known = previous.and_then(|group| group.members.iter().find(|it| Rc::ptr_eq(&it.node, node)));
                known.map_or_else(|| Member::new(Rc::clone(node)), Rc::clone)
            });
            let (shared, count) = (Arc::clone(&view.topology), pool.replicas as usize);
            let visit = move |key: &[u8], take: &mut dyn FnMut(usize)| {
                if let Some(pool) = shared.pools.get(index) {
                    for member in pool.ring.replicas(key, count) {
                        take(usize::from(member.0));
                    }
                }
            };
            let ring = Arc::clone(&view.topology);
            let places = topology.ring.places().map(|count| Places {
                count,
                of: Box::new(move |key| ring.pools.get(index).and_then(|pool| pool.ring.place_of(key)).unwrap_or(0)),
            });
            let cells = {
                let mut all = self.cells.borrow_mut();
                Arc::clone(all.entry(pool.name.clone()).or_insert_with(|| metrics.replication(&pool.name)))
            };
            let (serial, lag) = (engine.next_serial(), Arc::clone(&topology.lag));
            let group =
                Group::counting(&pool.name, settings, members.collect(), serial, Box::new(visit), places, cells, lag);
            engine.keep(&group, leads);
            pools.push(Some(group));
        }
        for group in old {
            if !pools.iter().flatten().any(|kept| Rc::ptr_eq(kept, &group)) {
                if let Some(next) = pools.iter().flatten().find(|kept| kept.name == group.name) {
                    group.replaced_by(next);
                } else {
                    group.retire();
                    group.cells.retire();
                }
            }
        }
    }

    /// Whether any pool has several replicas.
    pub(super) fn any(&self) -> bool {
        self.pools.borrow().iter().any(Option::is_some)
    }

    /// Whether this pool has.
    pub(super) fn has(&self, pool: usize) -> bool {
        matches!(self.pools.borrow().get(pool), Some(Some(_)))
    }

    pub(super) fn get(&self, pool: usize) -> Option<Rc<Group<Stores>>> {
        self.pools.borrow().get(pool)?.clone()
    }
}

fn settings_of(view: &View, index: usize, pool: &Pool, fingerprint: u64) -> Settings {
    let listeners = &view.topology.config.listeners;
    let mut routes = listeners.iter().flat_map(|listener| &listener.routes).filter(|route| route.pool == index);
    Settings {
        quorums: pool.quorums,
        tombstone_grace: pool.tombstone_grace,
        timeout: pool.operation_timeout,
        hedge: pool.hedge,
        repair_queue_len: pool.repair_queue_len,
        fingerprint,
        is_strict: pool.level != Level::Eventual
            || routes.any(|route| route.level.is_some_and(|it| it != Level::Eventual)),
        adopt: pool.adopt,
    }
}

/// Where the keys of a request live.
pub(super) struct Place {
    pub(super) pool: usize,
    level: Option<Level>,
    rewritten: bool,
}

impl Coordinator {
    pub(super) fn place_of(target: &Target<'_>, key: &[u8]) -> Place {
        match target.listener.route(key) {
            Some(route) => Place { pool: route.pool, level: route.level, rewritten: route.rewrite != Rewrite::Keep },
            None => Place { pool: target.listener.pool, level: None, rewritten: false },
        }
    }

    /// Serves a request if its keys have several replicas, or some of them; none if no key has.
    pub(super) fn dispatch_replicated(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Option<Verdict> {
        let mut keys = KeyIndexes::new();
        if let (Handling::Forward, Some(at)) = (request.row.handling, request.row.single_key_at) {
            let place = Self::place_of(target, request.args.get(usize::from(at))?);
            let group = self.groups.get(place.pool)?;
            keys.push(u32::from(at));
            if !place.rewritten {
                let pool = target.view.topology.config.pools.get(place.pool)?;
                let level = request.level.or(place.level).unwrap_or(pool.level);
                let announcing = self.announcing(place.pool, request, &keys, sink);
                let sink = announcing.as_ref().unwrap_or(sink);
                return Some(self.serve(&group, request, &keys, level, sink, tag, out));
            }
        } else {
            command::keys(request.row, &request.args, &mut keys).ok()?;
        }
        let first = request.args.get(*keys.first()? as usize)?;
        let place = Self::place_of(target, first);
        let mut alike = true;
        let mut replicated = self.groups.has(place.pool);
        let mut rewritten = place.rewritten;
        for at in keys.iter().skip(1) {
            let other = Self::place_of(target, request.args.get(*at as usize)?);
            alike &= other.pool == place.pool;
            replicated |= self.groups.has(other.pool);
            rewritten |= other.rewritten;
        }
        if !replicated {
            return None;
        }
        let most = target.listener.keys_per_command_max;
        if keys.len() > most {
            reply::too_large(out, "keys in one command", most);
            return Some(Verdict::Answered(Outcome::Refused));
        }
        if let Handling::Split(rule) = request.row.handling
            && (keys.len() > 1 || rule == SplitRule::Mget)
        {
            return Some(self.serve_each(target, request, &keys, rule, sink, tag));
        }
        if !alike {
            reply::crossslot(out);
            return Some(Verdict::Answered(Outcome::Refused));
        }
        let group = self.groups.get(place.pool)?;
        let pool = target.view.topology.config.pools.get(place.pool)?;
        let level = request.level.or(place.level).unwrap_or(pool.level);
        if !rewritten {
            let announcing = self.announcing(place.pool, request, &keys, sink);
            let sink = announcing.as_ref().unwrap_or(sink);
            return Some(self.serve(&group, request, &keys, level, sink, tag, out));
        }
        let mut own = Own::default();
        own.begin(request.args.len());
        for (at, word) in request.args.iter().enumerate() {
            match target.listener.route(word) {
                Some(route) if keys.iter().any(|key| *key as usize == at) => {
                    own.push(&rewritten_key(target, word, &route.rewrite));
                }
                _ => own.push(word),
            }
        }
        let request = Request { frame: &own.frame, args: Args::new(&own.frame, &own.bounds), ..*request };
        let announcing = self.announcing(place.pool, &request, &keys, sink);
        let sink = announcing.as_ref().unwrap_or(sink);
        Some(self.serve(&group, &request, &keys, level, sink, tag, out))
    }

    /// Who tells of a write when it is done, where anybody in this process waits for that.
    #[inline]
    fn announcing(
        &self,
        pool: usize,
        request: &Request<'_>,
        keys: &KeyIndexes,
        sink: &Rc<dyn ReplySink>,
    ) -> Option<Rc<dyn ReplySink>> {
        if !self.turns.any() || request.row.class == VerbClass::Read || only_takes(request.row.name) {
            return None;
        }
        let keys = keys.iter().filter_map(|at| request.args.get(*at as usize)).map(<[u8]>::to_vec).collect();
        Some(Herald::announcing(sink, &self.turns, pool, keys))
    }

    /// One request whose keys are of one pool.
    #[expect(clippy::too_many_arguments, reason = "a request, where it goes and who hears of it")]
    fn serve(
        &self,
        group: &Rc<Group<Stores>>,
        request: &Request<'_>,
        keys: &KeyIndexes,
        level: Level,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let mut members: Option<Members<Stores>> = None;
        for at in keys {
            let Some(key) = request.args.get(*at as usize) else { continue };
            if is_reserved(key) {
                reply::reserved_key(out);
                return Verdict::Answered(Outcome::Refused);
            }
            let Some(own) = group.replicas_of(key) else {
                reply::no_pool(out);
                return Verdict::Answered(Outcome::Refused);
            };
            match &mut members {
                None => members = Some(own),
                Some(all) => {
                    if !group.join(all, &own) {
                        reply::crossslot(out);
                        return Verdict::Answered(Outcome::Refused);
                    }
                }
            }
        }
        let request = replication::Request {
            group,
            members: members.unwrap_or_default(),
            frame: request.frame,
            args: request.args,
            keys,
            row: request.row,
            version: request.version,
            level,
        };
        match self.engine.serve(&request, sink, tag, out) {
            Taken::Sent => Verdict::Sent,
            Taken::Answered => Verdict::Answered(Outcome::Unavailable),
        }
    }

    /// A request for several keys, each of which is an operation of its own.
    fn serve_each(
        &self,
        target: &Target<'_>,
        request: &Request<'_>,
        keys: &KeyIndexes,
        rule: SplitRule,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
    ) -> Verdict {
        let most = usize::try_from(target.listener.multi_key_reply_bytes_max).unwrap_or(usize::MAX);
        let merge = self.merges.take_each(rule, keys.len(), sink, tag, most);
        let part_sink: Rc<dyn ReplySink> = Rc::<super::merge::Merge>::clone(&merge);
        let mut own = Own::default();
        let mut only = KeyIndexes::new();
        only.push(1);
        let mut refusal = Vec::new();
        let begins = self.begin_batch();
        for (part, at) in keys.iter().enumerate() {
            let at = *at as usize;
            let key = request.args.get(at).unwrap_or_default();
            let place = Self::place_of(target, key);
            own.begin(if rule == SplitRule::Mset { 3 } else { 2 });
            own.push(request.args.get(0).unwrap_or_default());
            match target.listener.route(key) {
                Some(route) if place.rewritten => own.push(&rewritten_key(target, key, &route.rewrite)),
                _ => own.push(key),
            }
            if rule == SplitRule::Mset {
                own.push(request.args.get(at + 1).unwrap_or_default());
            }
            let one = Request { frame: &own.frame, args: Args::new(&own.frame, &own.bounds), ..*request };
            let tag = Tag { slot: 0, part: u32::try_from(part).unwrap_or(u32::MAX) };
            refusal.clear();
            let verdict = match (self.groups.get(place.pool), target.view.topology.config.pools.get(place.pool)) {
                (Some(group), Some(pool)) => {
                    let level = request.level.or(place.level).unwrap_or(pool.level);
                    let part_sink =
                        self.announcing(place.pool, &one, &only, &part_sink).unwrap_or_else(|| Rc::clone(&part_sink));
                    self.serve(&group, &one, &only, level, &part_sink, tag, &mut refusal)
                }
                _ => Self::send_to_owner(target, place.pool, &one, &part_sink, tag, &mut refusal),
            };
            if verdict != Verdict::Sent {
                merge.part_answered(part, &refusal);
            }
        }
        if begins {
            self.end_batch();
        }
        merge.all_sent();
        Verdict::Sent
    }

    /// One key of a pool without replicas, among others of a pool with some.
    fn send_to_owner(
        target: &Target<'_>,
        pool: usize,
        request: &Request<'_>,
        sink: &Rc<dyn ReplySink>,
        tag: Tag,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let key = request.args.get(1).unwrap_or_default();
        let Some((_, node)) = target.view.owner(pool, key) else {
            reply::no_pool(out);
            return Verdict::Answered(Outcome::Refused);
        };
        let sent = node.send(request.frame, request.version, sink, tag);
        super::verdict(node, sent, out)
    }
}
