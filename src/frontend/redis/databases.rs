//! The databases that clients select: which one a client is in, and the view of the stores that goes with it.
//!
//! A worker makes the view of a database when the first client needs it and drops it, with its connections, when nobody has
//! for a while. Database 0 is the worker's own view: who stays there meets nothing of this but a comparison.
//! `docs/decisions/2026-11-23-databases.md`.
//!
//! # Invariants
//! - What a client sends after a `SELECT` is served with the view of that database, and not before all that it sent earlier is
//!   answered.
//! - There are at most as many views as the pools have databases.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::local::{Local, refused};
use super::requests::verb_of;
use super::session::Session;
use super::worker::Worker;
use crate::clock::Moment;
use crate::command::{self, Args, DatabaseError, Handling, KeyIndexes, KeyspaceVerb, Row, TransactionVerb, reply};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::topology::View;

/// How long a database that no client uses keeps its connections.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// One worker's views of the databases other than 0 that clients use.
#[derive(Default)]
pub(super) struct Databases {
    views: RefCell<BTreeMap<u16, (Rc<View>, Moment)>>,
}

impl Worker {
    /// The view of a database. Takes a changed topology at once.
    #[inline(never)]
    fn view_of(&self, database: u16) -> Rc<View> {
        let base = self.view();
        let now = self.context.clock.now();
        let mut views = self.databases.views.borrow_mut();
        if let Some((view, used)) = views.get_mut(&database)
            && Arc::ptr_eq(&view.topology, &base.topology)
        {
            *used = now;
            return Rc::clone(view);
        }
        let previous = views.get(&database).map(|(view, _)| Rc::as_ref(view));
        let view = Rc::new(View::of_database(&base, database, previous, &self.context, &self.metrics));
        views.insert(database, (Rc::clone(&view), now));
        view
    }

    /// Lets go of databases that nobody uses, and of nodes that the topology does not have any more.
    pub(super) fn keep_databases(&self, base: &View, now: Moment) {
        let mut views = self.databases.views.borrow_mut();
        for (database, (view, _)) in views.iter_mut() {
            if !Arc::ptr_eq(&view.topology, &base.topology) {
                let next = View::of_database(base, *database, Some(view), &self.context, &self.metrics);
                *view = Rc::new(next);
            }
        }
        views.retain(|_, (view, used)| {
            let is_kept = now.since(*used) < IDLE_MAX || !view.is_unused();
            if !is_kept {
                view.leave();
            }
            is_kept
        });
    }

    /// The worker ends.
    pub(super) fn leave_databases(&self) {
        for (view, _) in self.databases.views.borrow().values() {
            view.leave();
        }
    }
}

impl Session {
    /// The view for what the client sends now.
    #[inline]
    pub(super) fn view(&self) -> Rc<View> {
        match self.database.get() {
            0 => self.worker.view(),
            database => self.worker.view_of(database),
        }
    }

    /// Puts the client into a database. What it sends next is served with the view of that one, also where it has come already.
    pub(super) fn enter(&self, database: u16) {
        if self.database.replace(database) != database {
            self.inner.borrow_mut().alone = true;
        }
    }

    /// Whether the request can be served in the database of this view, which is not 0; else it is answered here.
    ///
    /// Routes lead to pools that may have fewer databases than the client's own, and a reload may have taken some away.
    #[cold]
    pub(super) fn has_database(&self, view: &View, listener: &Listener, row: &'static Row, args: &Args<'_>) -> bool {
        let Some(refusal) = missing(view, listener, row, args) else { return true };
        self.void_transaction();
        self.answer(verb_of(row), &refusal, Outcome::Refused);
        false
    }

    /// Whether `MOVE` or `COPY … DB` names a database that there is not; it is answered then.
    pub(super) fn refuses_database(
        &self,
        view: &View,
        listener: &Listener,
        row: &'static Row,
        args: &Args<'_>,
    ) -> bool {
        let Some(refusal) = refusal(view, listener, row, args) else { return false };
        self.answer(verb_of(row), &refusal, Outcome::Refused);
        true
    }
}

/// The error for a request that needs a pool without the database of the view.
fn missing(view: &View, listener: &Listener, row: &'static Row, args: &Args<'_>) -> Option<Vec<u8>> {
    match row.handling {
        // About no database, or about several.
        Handling::Local(_)
        | Handling::Keyspace(KeyspaceVerb::FlushAll)
        | Handling::Programs(_)
        | Handling::PubSub(_)
        | Handling::Later(_)
        | Handling::Refused(_) => return None,
        Handling::Transaction(verb) if verb != TransactionVerb::Watch => return None,
        Handling::Forward
        | Handling::SameNode
        | Handling::Split(_)
        | Handling::Keyspace(_)
        | Handling::Run(_)
        | Handling::Blocking
        | Handling::ToDatabase
        | Handling::Transaction(_) => {}
    }
    if view.has_pool(listener.pool) && listener.routes.iter().all(|route| view.has_pool(route.pool)) {
        return None; // Whatever the keys are.
    }
    let pool = pools_of(listener, row, args).into_iter().find(|pool| !view.has_pool(*pool))?;
    Some(too_few(view, row, pool))
}

/// The error for `MOVE` or `COPY … DB` to a database that its client, or the pool of its key, does not have.
pub(super) fn refusal(view: &View, listener: &Listener, row: &'static Row, args: &Args<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if listener.cluster_emulation && row.name == "move" {
        reply::move_in_cluster(&mut out);
        return Some(out);
    }
    let refused = |databases| command::refused_database(row, args, view.database(), databases);
    if let Some(error) = refused(view.databases(listener)) {
        error.write(&mut out);
        return Some(out);
    }
    let config = &view.topology.config;
    let has_it = |pool: &usize| config.pools.get(*pool).is_none_or(|pool| refused(pool.databases).is_none());
    let pool = pools_of(listener, row, args).into_iter().find(|pool| !has_it(pool))?;
    Some(too_few(view, row, pool))
}

fn too_few(view: &View, row: &Row, pool: usize) -> Vec<u8> {
    let config = &view.topology.config;
    let (name, count) = config.pools.get(pool).map_or(("", 0), |pool| (pool.name.as_str(), pool.databases));
    let mut out = Vec::new();
    reply::too_few_databases(&mut out, row, name, count);
    out
}

/// The pools of a request's keys; that of the listener if it has none.
fn pools_of(listener: &Listener, row: &'static Row, args: &Args<'_>) -> SmallVec<[usize; 4]> {
    let mut keys = KeyIndexes::new();
    if !matches!(command::keys(row, args, &mut keys), Ok(()) if !keys.is_empty()) {
        return SmallVec::from_slice(&[listener.pool]);
    }
    let keys = keys.iter().filter_map(|at| args.get(*at as usize));
    let mut pools: SmallVec<[usize; 4]> =
        keys.map(|key| listener.route(key).map_or(listener.pool, |route| route.pool)).collect();
    pools.dedup();
    pools
}

/// Whether a `SELECT` leaves the database of the view.
pub(super) fn leaves(view: &View, listener: &Listener, args: &Args<'_>) -> bool {
    let named = args.get(1).map(|word| command::database(word, view.databases(listener)));
    matches!(named, Some(Ok(number)) if number != view.database())
}

/// `SELECT`.
pub(super) fn select(session: &Session, view: &View, listener: &Listener, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let word = args.get(1).unwrap_or_default();
    let database = match command::database(word, view.databases(listener)) {
        Ok(database) => database,
        Err(DatabaseError::OutOfRange) if listener.cluster_emulation => return refused(out, reply::select_in_cluster),
        Err(error) => return refused(out, |out| error.write(out)),
    };
    let is_watching = session.inner.borrow().transaction.as_ref().is_some_and(|transaction| transaction.is_watching());
    if is_watching && database != session.database.get() {
        return refused(out, |out| {
            reply::select_refused(
                out,
                "while keys are watched",
                "they are in this one; EXEC, DISCARD or UNWATCH first",
            );
        });
    }
    session.enter(database);
    reply::ok(out);
    Local::Reply(Outcome::Ok)
}
