//! Who a client is: `AUTH`, `HELLO … AUTH`, and what becomes of sessions when users change.
//!
//! A session begins as the listener's default user. A request is checked against its user's rights only if there is
//! something the user may not do: [`Inner::restricted`] says so, beside the other marks that every request reads.
//!
//! # Invariants
//! - A request is never served by rights that the topology it sees does not give: a session looks its user up anew when it
//!   first sees a topology of another epoch, before it looks at any request.
//! - A session whose user is gone, is off or has lost a password ends, with whatever it still awaited. The default user
//!   stays signed in, as it does in Redis: nobody need have signed in as it.

use std::sync::Arc;

use super::acl_log::{Event, Reason};
use super::local::Local;
use super::requests::verb_of;
use super::session::{Inner, Session};
use crate::acl::{DEFAULT, Denial, User};
use crate::command::{Args, Handling, LocalVerb, Row, reply};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::topology::{Topology, View};

impl Inner {
    /// Makes the session this user's.
    pub(super) fn become_user(&mut self, user: Arc<User>) {
        self.restricted = !user.may_all();
        self.user = user;
    }

    /// Makes the session the default user's, signed in if no password is asked for.
    pub(super) fn become_default(&mut self, default_user: Arc<User>) {
        self.authenticated = default_user.needs_no_sign_in();
        self.become_user(default_user);
    }
}

impl Session {
    /// Looks the user up anew if the configuration may have changed; ends the session if it is not that user any more.
    #[inline]
    pub(super) fn renew_user(&self, topology: &Topology) {
        if self.users_epoch.get() != topology.epoch {
            self.users_epoch.set(topology.epoch);
            self.look_user_up(topology);
        }
    }

    #[cold]
    fn look_user_up(&self, topology: &Topology) {
        let Some(listener) = topology.listener(self.listener) else { return };
        let mut inner = self.inner.borrow_mut();
        let is_default = inner.user.name() == DEFAULT;
        match self.worker.fleet.users.user(topology, listener, inner.user.name().as_bytes()) {
            Some(next) if is_default || !inner.user.is_revoked_by(&next) => {
                let has_changed = inner.user != next;
                inner.become_user(next);
                drop(inner);
                if has_changed {
                    // What was queued was allowed by other rights.
                    self.void_transaction();
                }
            }
            _ => {
                tracing::info!(client = self.id, user = inner.user.name(), "closed: its user was revoked");
                inner.broken = true;
                inner.wake();
            }
        }
    }

    /// Whether the session's user may run the request; it has been answered otherwise.
    pub(super) fn is_permitted(&self, row: &'static Row, args: &Args<'_>) -> bool {
        let checked = self.inner.borrow().user.check(row, args);
        match checked {
            Ok(()) => true,
            // No command, but the start of an HTTP request: nobody may, and everybody is told so alike.
            Err(_) if row.handling == Handling::Local(LocalVerb::HttpRequest) => true,
            Err(denial) => {
                self.deny(row, args, denial);
                false
            }
        }
    }

    #[cold]
    fn deny(&self, row: &'static Row, args: &Args<'_>, denial: Denial) {
        let user = Arc::clone(&self.inner.borrow().user);
        let argument = |at: usize| args.get(at).unwrap_or_default();
        let (reason, object) = match denial {
            Denial::Command => (Reason::Command, row.name.as_bytes()),
            Denial::Script => (Reason::Script, row.name.as_bytes()),
            Denial::Key(at) => (Reason::Key, argument(at)),
            Denial::Channel(at) => (Reason::Channel, argument(at)),
        };
        self.note_event(reason, object, user.name().as_bytes());
        let mut out = Vec::new();
        match denial {
            Denial::Command => reply::no_permission_for_command(&mut out, row),
            Denial::Script => reply::no_permission_for_script(&mut out),
            Denial::Key(_) => reply::no_permission_for_key(&mut out),
            Denial::Channel(_) => reply::no_permission_for_channel(&mut out),
        }
        self.answer(verb_of(row), &out, Outcome::Refused);
    }

    /// Whether a request of which only the verb and the key are known may be passed on.
    pub(super) fn may_pass_on(&self, row: &Row, key: &[u8]) -> bool {
        let inner = self.inner.borrow();
        inner.authenticated && (!inner.restricted || inner.user.may_with_any_arguments(row, key))
    }

    /// Counts what was not allowed, and keeps it for `ACL LOG`.
    fn note_event(&self, reason: Reason, object: &[u8], user: &[u8]) {
        self.cells.denials(reason.label()).increment();
        let client = self.describe(self.worker.context.clock.now());
        let now_ms = self.worker.context.clock.wall_ms();
        self.worker.fleet.acl_log.add(Event { reason, object, user, client }, now_ms);
    }

    /// Signs in. Whether user and password are right; the session is who it was otherwise. `verb` is how it was asked for.
    pub(super) fn sign_in(&self, view: &View, listener: &Listener, verb: &[u8], name: &[u8], password: &[u8]) -> bool {
        let users = &self.worker.fleet.users;
        let Some(user) = users.user(&view.topology, listener, name).filter(|user| user.accepts(password)) else {
            self.note_event(Reason::Auth, verb, name);
            return false;
        };
        let mut inner = self.inner.borrow_mut();
        inner.become_user(user);
        inner.authenticated = true;
        true
    }
}

/// `AUTH [user] password`.
pub(super) fn auth(session: &Session, view: &View, listener: &Listener, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let (user, password) = match (args.get(1), args.get(2)) {
        (Some(user), Some(password)) if args.len() == 3 => (user, password),
        (Some(password), None) => (DEFAULT.as_bytes(), password),
        _ => {
            reply::syntax_error(out);
            return Local::Reply(Outcome::Refused);
        }
    };
    if args.len() == 2 && session.worker.fleet.users.default_user(&view.topology, listener).needs_no_password() {
        reply::auth_without_password(out);
    } else if session.sign_in(view, listener, args.get(0).unwrap_or_default(), user, password) {
        reply::ok(out);
        return Local::Reply(Outcome::Ok);
    } else {
        reply::wrongpass(out);
    }
    Local::Reply(Outcome::Refused)
}
