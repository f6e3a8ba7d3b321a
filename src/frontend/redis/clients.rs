//! What one client may do about the others: list them, close them. Every worker is asked, since each has clients of its own.
//! Holding their requests back is in `pause`.
//!
//! # Invariants
//! - A client that closes itself has its reply first.

use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::acl_changes::UsersNews;
use super::local::{Local, answer_later, refused};
use super::monitor::Feed;
use super::pause::Paused;
use super::session::Session;
use super::worker::{Order, Worker};
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row};
use crate::config::Listener;
use crate::coordinator::Unblock;
use crate::metrics::Outcome;
use crate::topology::View;

/// What a client asks of a worker about its clients.
#[derive(Debug)]
pub enum Ask {
    /// A line for each client of a kind.
    List(Arc<Selection>, oneshot::Sender<Vec<(u64, String)>>),
    /// Close those clients; the number is who asks. How many there were.
    Kill(Arc<Selection>, u64, oneshot::Sender<i64>),
    /// Hold requests back.
    Pause(Paused, Duration, oneshot::Sender<()>),
    /// Hold nothing back.
    Unpause(oneshot::Sender<()>),
    /// End the wait of the client of this number, and tell the reply. Nothing is told of a client of another worker.
    Unblock(u64, Unblock, oneshot::Sender<Vec<u8>>),
    /// Whether there is a client of this number.
    Find(u64, oneshot::Sender<bool>),
    /// Tell the client of number `id` what that of number `of`, on the worker `from`, tracks.
    Tell {
        /// Who is told.
        id: u64,
        /// The keys, as they are sent.
        keys: Vec<u8>,
        /// Who tracks them.
        of: u64,
        /// The number of its worker.
        from: usize,
    },
    /// The client that was to be told in the place of this one has gone.
    RedirectBroken(u64),
    /// Take what clients have set.
    Tune(oneshot::Sender<()>),
    /// Tell all clients what became of users; the number is who asks.
    Users(Arc<UsersNews>, u64, oneshot::Sender<()>),
    /// Show this monitor all requests.
    Monitor(Feed, oneshot::Sender<()>),
}

/// What a client does here, in Redis's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Pubsub,
    /// Nobody.
    Replica,
    /// Nobody.
    Master,
}

impl Kind {
    fn parse(word: &[u8]) -> Option<Self> {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if is("normal") => Some(Self::Normal),
            () if is("pubsub") => Some(Self::Pubsub),
            () if is("slave") || is("replica") => Some(Self::Replica),
            () if is("master") => Some(Self::Master),
            () => None,
        }
    }
}

/// Some of the clients; all of them if nothing is said.
#[derive(Debug, Default)]
pub struct Selection {
    ids: Option<Vec<u64>>,
    peer: Option<String>,
    local: Option<String>,
    user: Option<String>,
    kind: Option<Kind>,
    age_s_min: u64,
    /// Not this one.
    except: Option<u64>,
}

impl Selection {
    fn has(&self, session: &Session, age_s: u64) -> bool {
        let is = |wanted: &Option<String>, found: &dyn Fn() -> String| {
            wanted.as_ref().is_none_or(|wanted| *wanted == found())
        };
        self.except != Some(session.id)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
            && self.kind.is_none_or(|kind| kind == session.kind())
            && self.age_s_min <= age_s
            && is(&self.user, &|| session.user())
            && is(&self.peer, &|| session.peer_name())
            && is(&self.local, &|| session.local_name())
            && !session.has_ended()
    }
}

impl Worker {
    /// The clients that are meant.
    fn select(&self, selection: &Selection) -> Vec<Rc<Session>> {
        let now = self.context.clock.tick();
        let sessions = self.sessions.borrow();
        let age_s = |session: &Session| now.since(session.since).as_secs();
        sessions.values().filter(|session| selection.has(session, age_s(session))).map(Rc::clone).collect()
    }

    /// Does what was asked. Who asked may have gone: then nobody takes the answer.
    pub(super) fn answer_ask(&self, ask: Ask) {
        match ask {
            Ask::List(selection, answer) => {
                let now = self.context.clock.tick();
                let sessions = self.select(&selection);
                tell(answer, sessions.iter().map(|session| (session.id, session.describe(now))).collect());
            }
            Ask::Kill(selection, asker, answer) => {
                let sessions = self.select(&selection);
                for session in &sessions {
                    session.kill(asker);
                }
                tell(answer, i64::try_from(sessions.len()).unwrap_or(i64::MAX));
            }
            Ask::Pause(what, span, answer) => {
                self.begin_pause(what, span);
                tell(answer, ());
            }
            Ask::Unpause(answer) => {
                self.end_pause();
                tell(answer, ());
            }
            Ask::Unblock(id, how, answer) => self.unblock(id, how, answer),
            Ask::Find(id, answer) => {
                tell(answer, self.sessions.borrow().get(&id).is_some_and(|session| !session.has_ended()));
            }
            Ask::Tell { id, keys, of, from } => {
                if !self.tell_in_place(id, &keys)
                    && let Some(worker) = self.fleet.workers.get(from)
                {
                    // The next news says so again.
                    worker.try_send(Order::Ask(Ask::RedirectBroken(of))).ok();
                }
            }
            Ask::RedirectBroken(id) => self.redirect_is_broken(id),
            Ask::Tune(answer) => {
                self.tune(&self.view().topology);
                tell(answer, ());
            }
            Ask::Users(news, asker, answer) => {
                self.renew_users(&news, asker);
                tell(answer, ());
            }
            Ask::Monitor(feed, answer) => {
                self.monitors.borrow_mut().push(feed);
                self.attention.set(true);
                tell(answer, ());
            }
        }
    }

    /// Requests pass by without a look while there is neither a pause nor a monitor, nor a client that tracks keys.
    pub(super) fn look_around(&self) {
        self.attention.set(self.pause.get().is_some() || !self.monitors.borrow().is_empty() || self.is_tracking());
    }
}

impl Session {
    /// Closes the client; the one that asked for it has its reply first.
    pub(super) fn kill(&self, asker: u64) {
        let mut inner = self.inner.borrow_mut();
        if self.id == asker {
            inner.closing = true;
        } else {
            inner.broken = true;
        }
        inner.wake();
    }
}

/// Answers who asked, unless that one has gone.
fn tell<T>(answer: oneshot::Sender<T>, value: T) {
    answer.send(value).ok();
}

/// Asks every worker and gathers the answers. A worker that is gone has no clients.
pub(super) async fn ask_all<T>(session: &Session, make: impl Fn(oneshot::Sender<T>) -> Ask) -> Vec<T> {
    ask_each(session, None, make).await
}

/// The same, but for the session's own worker.
pub(super) async fn ask_others<T>(session: &Session, make: impl Fn(oneshot::Sender<T>) -> Ask) -> Vec<T> {
    ask_each(session, Some(session.worker.number()), make).await
}

async fn ask_each<T>(session: &Session, except: Option<usize>, make: impl Fn(oneshot::Sender<T>) -> Ask) -> Vec<T> {
    let mut answers = Vec::new();
    for (number, worker) in session.worker.fleet.workers.iter().enumerate() {
        if except == Some(number) {
            continue;
        }
        let (sender, answer) = oneshot::channel();
        if worker.send(Order::Ask(make(sender))).await.is_ok()
            && let Ok(answer) = answer.await
        {
            answers.push(answer);
        }
    }
    answers
}

/// `CLIENT LIST [TYPE type | ID id …]`.
pub(super) fn list(session: &Rc<Session>, row: &Row, resp: Resp, args: &Args<'_>, out: &mut Vec<u8>) -> Local {
    let mut selection = Selection::default();
    if args.is_word(2, "TYPE") && args.len() == 4 {
        let word = args.get(3).unwrap_or_default();
        selection.kind = Kind::parse(word);
        if selection.kind.is_none() {
            return refused(out, |out| reply::unknown_client_type(out, word));
        }
    } else if args.is_word(2, "ID") && args.len() > 3 {
        let ids = args.iter().skip(3).map(|id| number(id).map(|id| u64::try_from(id).unwrap_or(0)));
        let Some(ids) = ids.collect::<Option<Vec<u64>>>() else { return refused(out, reply::invalid_client_id) };
        selection.ids = Some(ids);
    } else if args.len() != 2 {
        return refused(out, reply::syntax_error);
    }
    let selection = Arc::new(selection);
    answer_later(session, row, move |session| async move {
        let mut lines: Vec<(u64, String)> =
            ask_all(&session, |answer| Ask::List(Arc::clone(&selection), answer)).await.into_iter().flatten().collect();
        lines.sort_unstable_by_key(|(id, _)| *id);
        if let Some(ids) = &selection.ids {
            let of = |id: &u64| lines.iter().find(|(found, _)| found == id).cloned();
            lines = ids.iter().filter_map(of).collect();
        }
        let text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
        let mut out = Vec::new();
        reply::verbatim_text(&mut out, resp, text.as_bytes());
        out
    })
}

/// `CLIENT KILL address`, and `CLIENT KILL` with filters.
pub(super) fn kill(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let old = args.len() == 3;
    let selection = if old {
        let address = String::from_utf8_lossy(args.get(2).unwrap_or_default()).into_owned();
        Selection { peer: Some(address), ..Selection::default() }
    } else {
        match filters(session, view, listener, args, out) {
            Some(selection) => selection,
            None => return Local::Reply(Outcome::Refused),
        }
    };
    let selection = Arc::new(selection);
    answer_later(session, row, move |session| async move {
        let asker = session.id;
        let killed: i64 =
            ask_all(&session, |answer| Ask::Kill(Arc::clone(&selection), asker, answer)).await.into_iter().sum();
        let mut out = Vec::new();
        match killed {
            0 if old => reply::no_such_client(&mut out),
            _ if old => reply::ok(&mut out),
            killed => reply::integer(&mut out, killed),
        }
        out
    })
}

/// The filters of `CLIENT KILL`; none if they are wrong, which was said then.
fn filters(
    session: &Session,
    view: &View,
    listener: &Listener,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Option<Selection> {
    let mut selection = Selection { except: Some(session.id), ..Selection::default() };
    let mut at = 2;
    while at < args.len() {
        let Some(value) = args.get(at + 1) else {
            reply::syntax_error(out);
            return None;
        };
        let text = || Some(String::from_utf8_lossy(value).into_owned());
        if args.is_word(at, "ID") {
            let Some(id) = number(value).filter(|id| *id > 0) else {
                reply::client_id_not_positive(out);
                return None;
            };
            selection.ids = Some(vec![u64::try_from(id).unwrap_or(0)]);
        } else if args.is_word(at, "TYPE") {
            selection.kind = Kind::parse(value);
            if selection.kind.is_none() {
                reply::unknown_client_type(out, value);
                return None;
            }
        } else if args.is_word(at, "ADDR") {
            selection.peer = text();
        } else if args.is_word(at, "LADDR") {
            selection.local = text();
        } else if args.is_word(at, "USER") {
            selection.user = text();
            if session.worker.fleet.users.user(&view.topology, listener, value).is_none() {
                reply::no_such_user_to_close(out, value);
                return None;
            }
        } else if args.is_word(at, "MAXAGE") {
            selection.age_s_min = match number(value).map(u64::try_from) {
                Some(Ok(age)) if age > 0 => age,
                Some(_) => {
                    reply::max_age_not_positive(out);
                    return None;
                }
                None => {
                    reply::max_age_not_an_integer(out);
                    return None;
                }
            };
        } else if args.is_word(at, "SKIPME") && value.eq_ignore_ascii_case(b"yes") {
            selection.except = Some(session.id);
        } else if args.is_word(at, "SKIPME") && value.eq_ignore_ascii_case(b"no") {
            selection.except = None;
        } else {
            reply::syntax_error(out);
            return None;
        }
        at += 2;
    }
    Some(selection)
}

/// A number as Redis reads one: no sign `+`, no spaces, no zeros in front.
pub(super) fn number(text: &[u8]) -> Option<i64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_string().as_bytes() == text).then_some(value)
}
