//! `ACL SETUSER` and its like: users that are changed at run time, where `acl_at_run_time` allows it.
//!
//! What is changed so is this process's alone. It begins as a copy of what the configuration says of users, holds for as
//! long as the configuration says that, and is gone with the process: `docs/decisions/2026-11-23-users.md`.
//!
//! # Invariants
//! - When a change is confirmed, every session has it: no request is served any more by the rights of before.
//! - A user that is deleted takes its connections along, even if it is there again by the time they are looked at.
//! - Nobody who does not use this pays for it: sessions are told, they do not ask.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::acl::load;
use super::clients::{Ask, ask_all};
use super::local::{Local, answer_later, refused};
use super::session::Session;
use super::worker::Worker;
use crate::acl::{DEFAULT, RuleError, User, Users};
use crate::command::{Args, Row, reply};
use crate::config::{AclAtRunTime, Bind, Listener};
use crate::topology::{Topology, View};

/// Users that there may be: they are in memory alone, and every `ACL LIST` shows them.
const USERS_MAX: usize = 65_536;
const REFUSED: &str = "users are in quoit's configuration; change its [[user]] tables or its aclfile, and all proxies \
                       alike, or set acl_at_run_time in [proxy], which lets each proxy have users of its own";

/// Who may sign in, as it is now.
#[derive(Debug, Default)]
pub struct LiveUsers(Mutex<Option<Changed>>);

/// Users that are not as the configuration has them.
#[derive(Debug)]
struct Changed {
    /// What the configuration said when they began to differ.
    configured: Arc<Users>,
    configured_defaults: Defaults,
    /// The newest topology that is known to say the same.
    epoch: u64,
    users: Users,
    defaults: Defaults,
}

/// Each listener's default user.
type Defaults = Vec<(Bind, Arc<User>)>;

fn defaults_of(topology: &Topology) -> Defaults {
    topology.config.listeners.iter().map(|it| (it.bind.clone(), Arc::clone(&it.default_user))).collect()
}

/// Why users stay as they are.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The rule of that number.
    Rule(usize, RuleError),
    TooMany,
}

impl Changed {
    fn new(topology: &Topology) -> Self {
        let defaults = defaults_of(topology);
        let configured = Arc::clone(&topology.config.users);
        let users = Users::clone(&configured);
        Self { configured, configured_defaults: defaults.clone(), epoch: topology.epoch, users, defaults }
    }

    /// Whether they still are what the configuration's users were changed to. One that is older than the change is no news.
    fn holds(&mut self, topology: &Topology) -> bool {
        if topology.epoch > self.epoch {
            let config = &topology.config;
            if config.proxy.acl_at_run_time == AclAtRunTime::Off
                || config.users != self.configured
                || defaults_of(topology) != self.configured_defaults
            {
                return false;
            }
            self.epoch = topology.epoch;
        }
        true
    }

    fn default_user(&self, listener: &Listener) -> Option<&Arc<User>> {
        self.defaults.iter().find(|(bind, _)| *bind == listener.bind).map(|(_, user)| user)
    }

    fn change(&mut self, name: &str, rules: &[String], trusts_scripts: bool) -> Result<(), Trouble> {
        let changed = |user: &User| {
            let mut user = user.clone();
            let apply = |(at, rule): (usize, &String)| user.apply(rule).map_err(|error| Trouble::Rule(at, error));
            rules.iter().enumerate().try_for_each(apply).map(|()| user)
        };
        if name == DEFAULT {
            let users: Result<Vec<_>, _> = self.defaults.iter().map(|(_, user)| changed(user)).collect();
            for ((_, user), changed) in self.defaults.iter_mut().zip(users?) {
                *user = Arc::new(changed);
            }
            return Ok(());
        }
        let user = match self.users.get(name.as_bytes()) {
            Some(user) => changed(user)?,
            None if self.users.iter().len() >= USERS_MAX => return Err(Trouble::TooMany),
            None => changed(&User::new(name).trusting_scripts(trusts_scripts))?,
        };
        self.users.insert(user);
        Ok(())
    }
}

impl LiveUsers {
    /// Looks at what was changed, if that is what holds.
    fn with<T>(&self, topology: &Topology, look: impl FnOnce(Option<&Changed>) -> T) -> T {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(changed.take_if(|it| !it.holds(topology)).map_or(changed.as_ref(), |_void| None))
    }

    /// The user of that name, as clients of this listener see it.
    pub(super) fn user(&self, topology: &Topology, listener: &Listener, name: &[u8]) -> Option<Arc<User>> {
        self.with(topology, |changed| match changed {
            None => listener.user(&topology.config, name).map(Arc::clone),
            Some(changed) if name == DEFAULT.as_bytes() => changed.default_user(listener).map(Arc::clone),
            Some(changed) => changed.users.get(name).map(Arc::clone),
        })
    }

    /// Who a client of this listener is before it signs in.
    pub(super) fn default_user(&self, topology: &Topology, listener: &Listener) -> Arc<User> {
        let found = self.user(topology, listener, DEFAULT.as_bytes());
        found.unwrap_or_else(|| Arc::clone(&listener.default_user))
    }

    /// All of them, by name.
    pub(super) fn all(&self, topology: &Topology, listener: &Listener) -> Vec<Arc<User>> {
        let mut users: Vec<_> = self.with(topology, |changed| {
            let named = changed.map_or(&*topology.config.users, |changed| &changed.users);
            named.iter().filter(|user| user.name() != DEFAULT).map(Arc::clone).collect()
        });
        users.push(self.default_user(topology, listener));
        users.sort_by(|left, right| left.name().cmp(right.name()));
        users
    }

    fn change(&self, topology: &Topology, name: &str, rules: &[String]) -> Result<(), Trouble> {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.take_if(|it| !it.holds(topology)));
        let trusts_scripts = topology.config.proxy.acl_at_run_time == AclAtRunTime::TrustingScripts;
        changed.get_or_insert_with(|| Changed::new(topology)).change(name, rules, trusts_scripts)
    }

    /// How many of those there were.
    fn remove(&self, topology: &Topology, names: &[String]) -> usize {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.take_if(|it| !it.holds(topology)));
        let changed = changed.get_or_insert_with(|| Changed::new(topology));
        names.iter().filter(|name| changed.users.remove(name)).count()
    }

    /// What the configuration says holds again.
    pub(super) fn forget(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What sessions are told of users.
#[derive(Debug)]
pub enum UsersNews {
    /// Rights may be others.
    Changed,
    /// These are gone.
    Deleted(Vec<String>),
    /// The configuration's hold again, for everybody.
    Loaded,
}

impl Worker {
    /// Has every session of this worker see what has become of its user. `asker` has its reply before it is closed.
    pub(super) fn renew_users(&self, news: &UsersNews, asker: u64) {
        let view = self.view();
        let sessions: Vec<Rc<Session>> = self.sessions.borrow().values().map(Rc::clone).collect();
        for session in sessions {
            session.hear_of_users(&view.topology, news, asker);
        }
    }
}

impl Session {
    fn hear_of_users(&self, topology: &Topology, news: &UsersNews, asker: u64) {
        let is_mine = |names: &[String]| names.iter().any(|name| name == self.inner.borrow().user.name());
        match news {
            UsersNews::Deleted(names) if is_mine(names) => self.kill(asker),
            UsersNews::Changed | UsersNews::Deleted(_) => {
                // What a reload has revoked is revoked, whatever came after it.
                self.renew_user(topology);
                self.take_changed_user(topology, asker);
            }
            UsersNews::Loaded => {
                self.users_epoch.set(u64::MAX);
                self.renew_user(topology);
            }
        }
    }

    /// Nobody is closed for a password, as in Redis; who listens to what it may not hear any more is.
    fn take_changed_user(&self, topology: &Topology, asker: u64) {
        let Some(listener) = topology.listener(self.listener) else { return };
        let name = self.inner.borrow().user.name().to_owned();
        let Some(next) = self.worker.fleet.users.user(topology, listener, name.as_bytes()) else { return };
        let mut inner = self.inner.borrow_mut();
        if inner.user == next {
            return;
        }
        let keeps_names = inner.subscriptions.as_ref().is_none_or(|names| names.are_allowed(&next));
        inner.become_user(next);
        drop(inner);
        // What was queued was allowed by other rights.
        self.void_transaction();
        if !keeps_names {
            self.kill(asker);
        }
    }
}

/// Answers `ACL SETUSER`, `DELUSER` and `LOAD`.
pub(super) fn answer(
    session: &Rc<Session>,
    view: &View,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let topology = &view.topology;
    let is_allowed = topology.config.proxy.acl_at_run_time != AclAtRunTime::Off;
    match row.name {
        "acl|load" if is_allowed && !topology.config.has_acl_file => refused(out, reply::no_acl_file),
        "acl|load" => {
            load(session, row);
            Local::Silent
        }
        _ if !is_allowed => refused(out, |out| reply::refused(out, row, REFUSED)),
        "acl|setuser" => set_user(session, topology, row, args, out),
        _ => delete_users(session, topology, row, args, out),
    }
}

/// Answers `ACL SAVE`: there is nothing that quoit would write to.
pub(super) fn save(view: &View, row: &Row, out: &mut Vec<u8>) -> bool {
    let config = &view.topology.config;
    if config.proxy.acl_at_run_time != AclAtRunTime::Off && !config.has_acl_file {
        reply::no_acl_file(out);
    } else {
        reply::refused(out, row, "quoit does not write to its files; change the aclfile on all proxies, and ACL LOAD");
    }
    false
}

fn set_user(
    session: &Rc<Session>,
    topology: &Topology,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let name = args.get(2).unwrap_or_default();
    if name.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0b)) {
        return refused(out, reply::user_name_with_spaces);
    }
    let Ok(name) = std::str::from_utf8(name) else { return refused(out, reply::user_name_not_text) };
    let words: Vec<&[u8]> = args.iter().skip(3).collect();
    let rules = match rules(&words) {
        Ok(rules) => rules,
        Err(at) => {
            return refused(out, |out| reply::unmatched_selector(out, words.get(at).copied().unwrap_or_default()));
        }
    };
    match session.worker.fleet.users.change(topology, name, &rules) {
        Ok(()) => {}
        Err(Trouble::Rule(at, error)) => {
            let rule = rules.get(at).map(String::as_bytes).unwrap_or_default();
            return refused(out, |out| reply::wrong_rule(out, rule, &error));
        }
        Err(Trouble::TooMany) => return refused(out, |out| reply::too_many_users(out, USERS_MAX)),
    }
    tracing::info!(client = session.id, user = name, "ACL SETUSER: a user was changed at run time");
    confirm(session, row, UsersNews::Changed, b"+OK\r\n".to_vec())
}

fn delete_users(
    session: &Rc<Session>,
    topology: &Topology,
    row: &'static Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let names: Vec<&[u8]> = args.iter().skip(2).collect();
    if names.contains(&DEFAULT.as_bytes()) {
        return refused(out, reply::default_user_stays);
    }
    // What is no text is the name of nobody.
    let names: Vec<String> =
        names.iter().filter_map(|name| std::str::from_utf8(name).ok()).map(ToOwned::to_owned).collect();
    let count = session.worker.fleet.users.remove(topology, &names);
    tracing::info!(client = session.id, users = count, "ACL DELUSER: users were deleted at run time");
    let mut answer = Vec::new();
    reply::integer(&mut answer, i64::try_from(count).unwrap_or(i64::MAX));
    confirm(session, row, UsersNews::Deleted(names), answer)
}

/// Answers when all sessions of all workers know.
fn confirm(session: &Rc<Session>, row: &Row, news: UsersNews, answer: Vec<u8>) -> Local {
    session.inner.borrow_mut().alone = true;
    let news = Arc::new(news);
    answer_later(session, row, move |session| async move {
        tell_users(&session, news).await;
        answer
    })
}

/// Tells all sessions of all workers.
pub(super) async fn tell_users(session: &Session, news: Arc<UsersNews>) {
    ask_all(session, |answer| Ask::Users(Arc::clone(&news), session.id, answer)).await;
}

/// The rules among the words of a request: a selector, `(…)`, may have several. Which word begins one that does not end; of
/// two such the second, before which the servers forget the first.
fn rules(words: &[&[u8]]) -> Result<Vec<String>, usize> {
    let mut rules = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, word) in words.iter().enumerate() {
        let text = String::from_utf8_lossy(word);
        let ends = text.ends_with(')');
        if text.starts_with('(') && !ends {
            open = Some((at, text.into_owned()));
        } else if let Some((begin, selector)) = open.take() {
            let selector = format!("{selector} {text}");
            if ends {
                rules.push(selector);
            } else {
                open = Some((begin, selector));
            }
        } else {
            rules.push(text.into_owned());
        }
    }
    open.map_or(Ok(rules), |(at, _)| Err(at))
}
