//! Who may do what: users, their passwords and their rights, in Redis's own rule language.
//!
//! The configuration reads rules ([`Words`], [`User::apply`]) and makes [`Users`]; a session has one user at a time. A
//! request of a user that may not do everything meets [`User::check`] between its row and its handling: one bit for the
//! row, then the patterns for keys and channels, if the user has not all of them. A user that may do everything
//! ([`User::may_all`]) is not asked at all.
//!
//! The language and its meaning are those of Redis 7 (the manual page "ACL"), compared with a running server: which of
//! several selectors grants, which of the rights to read and to write a key needs, what an error blames.
//!
//! `docs/decisions/2026-11-23-users.md` says why users are where they are and what becomes of sessions.
//!
//! # Invariants
//! - Rights are granted by rules and by nothing else: a new user is off, has no password and may do nothing.
//! - Passwords are kept as their SHA-256 and print as `***`; comparing takes the same time whatever is given.
//! - Nothing here panics, whatever the rules and requests.
//!
//! # What it deliberately does not do
//! It does not look into scripts: they run on the stores, with the rights that quoit has there. Who may not do everything
//! may run none ([`Denial::Script`]), unless the configuration says that the scripts of this user are trusted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::{Args, Flag, Row};

mod describe;
mod password;
mod rules;
mod selector;

pub use password::Password;
pub use rules::{RuleError, Words, secrets_in};
pub use selector::{CATEGORIES, Selector, is_in_category};

/// The user that a connection has from the start.
pub const DEFAULT: &str = "default";

/// Verbs that run programs on the stores.
const PROGRAMS: [&str; 6] = ["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];

/// What becomes of payloads of `RESTORE`, as Redis notes it; quoit leaves that to its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sanitize {
    /// `sanitize-payload`.
    Always,
    /// `skip-sanitize-payload`.
    Never,
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    is_on: bool,
    no_password: bool,
    sanitize: Option<Sanitize>,
    passwords: Vec<Password>,
    root: Selector,
    selectors: Vec<Selector>,
    trusts_scripts: bool,
}

/// Why a user may not run a request, in the order of how much an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// Not this command.
    Command,
    /// It runs a program, and nobody can tell what that does.
    Script,
    /// Not this key: the index of the argument.
    Key(usize),
    /// Not this channel: the index of the argument.
    Channel(usize),
}

impl User {
    /// A user that may not even sign in.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_on: false,
            no_password: false,
            sanitize: None,
            passwords: Vec::new(),
            root: Selector::default(),
            selectors: Vec::new(),
            trusts_scripts: false,
        }
    }

    /// The user `default` where nothing is said of it: needs no password and may do everything.
    pub fn unlimited_default() -> Self {
        let mut user = Self::new(DEFAULT);
        (user.is_on, user.no_password) = (true, true);
        user.root = Selector::unlimited();
        user
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may sign in.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether a connection has this user without signing in, if it is the default one.
    pub fn needs_no_sign_in(&self) -> bool {
        self.is_on && self.no_password
    }

    /// Whether any password will do.
    pub fn needs_no_password(&self) -> bool {
        self.no_password
    }

    /// One more password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.add_password(Password::of(password.as_bytes()));
        self
    }

    /// This password in place of all it had, as Redis's `requirepass` does for the default user.
    #[must_use]
    pub fn with_only_password(mut self, password: &str) -> Self {
        self.passwords.clear();
        self.with_password(password)
    }

    /// Scripts of this user may do what they like.
    #[must_use]
    pub fn trusting_scripts(mut self, trusts: bool) -> Self {
        self.trusts_scripts = trusts;
        self
    }

    fn add_password(&mut self, password: Password) {
        self.no_password = false;
        if !self.passwords.contains(&password) {
            self.passwords.push(password);
        }
    }

    /// Whether a client that gives this password is this user.
    pub fn accepts(&self, password: &[u8]) -> bool {
        // The password is compared with each, so that the time tells nothing of which it was.
        let given = Password::of(password);
        let known = self.passwords.iter().fold(false, |known, own| known | own.is_same(&given));
        self.is_on && (self.no_password || known)
    }

    /// Whether who has signed in as `self` could not do so as `next`, the user of that name in a newer configuration:
    /// it is off, or a password is gone.
    pub fn is_revoked_by(&self, next: &Self) -> bool {
        let is_gone = |password: &Password| !next.no_password && !next.passwords.contains(password);
        !next.is_on || (self.no_password && !next.no_password) || self.passwords.iter().any(is_gone)
    }

    /// Whether there is nothing that it may not do, so that no request need be checked.
    pub fn may_all(&self) -> bool {
        self.root.is_unlimited()
    }

    /// Whether it may run this request.
    ///
    /// # Errors
    /// Why not, as the selector says that came closest.
    pub fn check(&self, row: &Row, args: &Args<'_>) -> Result<(), Denial> {
        let mut found = match self.root.check(row, args) {
            Ok(()) => return self.check_program(row),
            Err(denial) => denial,
        };
        for selector in &self.selectors {
            match selector.check(row, args) {
                Ok(()) => return self.check_program(row),
                Err(denial) => found = found.max(denial),
            }
        }
        Err(found)
    }

    /// Whether it may run a request with this verb and this one key, whatever the other arguments are.
    pub fn may_with_any_arguments(&self, row: &Row, key: &[u8]) -> bool {
        let grants = |selector: &Selector| selector.grants_any_arguments(row, key);
        (grants(&self.root) || self.selectors.iter().any(grants)) && self.check_program(row).is_ok()
    }

    fn check_program(&self, row: &Row) -> Result<(), Denial> {
        let is_program = row.flags.contains(Flag::Movablekeys) && PROGRAMS.contains(&row.name);
        if is_program && !self.trusts_scripts && !self.may_all() { Err(Denial::Script) } else { Ok(()) }
    }

    /// Whether it may listen to this channel.
    pub fn may_hear(&self, channel: &[u8]) -> bool {
        self.all_rights().any(|selector| selector.has_channel(channel))
    }

    /// Whether it may listen to what fits this pattern.
    pub fn may_hear_pattern(&self, pattern: &[u8]) -> bool {
        self.all_rights().any(|selector| selector.has_channel_pattern(pattern))
    }

    fn all_rights(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// Whether every channel that it may listen to is one that `next` may listen to as well; errs on the side of no.
    pub fn keeps_channels_in(&self, next: &Self) -> bool {
        let all = || std::iter::once(&next.root).chain(&next.selectors);
        let kept = |selector: &Selector| all().any(|other| other.has_channels_of(selector));
        kept(&self.root) && self.selectors.iter().all(kept)
    }
}

/// All users of a configuration but those that differ between listeners: see [`Users::get`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<String, Arc<User>>,
}

impl Users {
    /// Adds a user; the one that had its name is gone.
    pub fn insert(&mut self, user: User) {
        self.by_name.insert(user.name.clone(), Arc::new(user));
    }

    /// Takes a user out; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// The user of that name. `default` is the one that the configuration gives all listeners, if it does.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.by_name.values()
    }
}

#[cfg(test)]
mod tests;
