//! What a client says of itself, and how `CLIENT LIST` and `CLIENT INFO` show it.

use std::net::SocketAddr;

use tokio_util::sync::DropGuard;

use super::clients::Kind;
use super::session::{Inner, Replies, Session};
use crate::backend::Stream;
use crate::clock::Moment;
use crate::command::{Args, reply};
use crate::config::Listener;

/// What a client may say of itself; most say nothing, so it is not part of the session.
#[derive(Debug, Default)]
pub(super) struct ClientFacts {
    pub(super) name: String,
    lib_name: String,
    lib_version: String,
    no_evict: bool,
    no_touch: bool,
    /// The client is a monitor; letting go of this ends that.
    monitor: Option<DropGuard>,
}

/// Whether a name can be shown in a line of `CLIENT LIST`: printable, no spaces (Redis: `validateClientAttr`).
pub(super) fn is_printable(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_graphic)
}

impl Session {
    fn with_facts<T>(&self, use_facts: impl FnOnce(&mut ClientFacts) -> T) -> T {
        use_facts(self.inner.borrow_mut().facts.get_or_insert_default())
    }

    /// The client's name, empty if it has none.
    pub(super) fn name(&self) -> String {
        self.inner.borrow().facts.as_ref().map(|facts| facts.name.clone()).unwrap_or_default()
    }

    /// `CLIENT SETNAME`, `HELLO … SETNAME`. Whether the name is allowed.
    pub(super) fn set_name(&self, name: &[u8]) -> bool {
        if !is_printable(name) {
            return false;
        }
        self.with_facts(|facts| facts.name = String::from_utf8_lossy(name).into_owned());
        true
    }

    /// `CLIENT SETINFO`.
    pub(super) fn set_info(&self, args: &Args<'_>, out: &mut Vec<u8>) {
        let value = args.get(3).unwrap_or_default();
        let is_name = args.is_word(2, "LIB-NAME");
        if !is_name && !args.is_word(2, "LIB-VER") {
            return reply::unrecognized_option(out, args.get(2).unwrap_or_default());
        }
        if !is_printable(value) {
            return reply::unprintable(out, if is_name { "lib-name" } else { "lib-ver" });
        }
        let value = String::from_utf8_lossy(value).into_owned();
        self.with_facts(|facts| if is_name { facts.lib_name = value } else { facts.lib_version = value });
        reply::ok(out);
    }

    /// `CLIENT NO-EVICT`: quoit evicts nobody for memory, so remembering it is all there is to do.
    pub(super) fn set_no_evict(&self, args: &Args<'_>, out: &mut Vec<u8>) {
        let on = args.is_word(2, "ON");
        if !on && !args.is_word(2, "OFF") {
            return reply::syntax_error(out);
        }
        self.with_facts(|facts| facts.no_evict = on);
        reply::ok(out);
    }

    /// `CLIENT NO-TOUCH`: remembered and shown. The connections to stores are everybody's, so that what stores know of
    /// the last use of a key changes all the same.
    pub(super) fn set_no_touch(&self, args: &Args<'_>, out: &mut Vec<u8>) {
        let on = args.is_word(2, "ON");
        if !on && !args.is_word(2, "OFF") {
            return reply::syntax_error(out);
        }
        self.with_facts(|facts| facts.no_touch = on);
        reply::ok(out);
    }

    /// Whether the client is shown what others ask.
    pub(super) fn is_monitor(&self) -> bool {
        self.inner.borrow().is_monitor()
    }

    /// Makes it one, until it is reset or gone.
    pub(super) fn set_monitor(&self, guard: DropGuard) {
        self.with_facts(|facts| facts.monitor = Some(guard));
    }

    /// What the client does here.
    pub(super) fn kind(&self) -> Kind {
        if self.inner.borrow().subscriptions.is_some() { Kind::Pubsub } else { Kind::Normal }
    }

    /// Whom the client has signed in as.
    pub(super) fn user(&self) -> String {
        self.inner.borrow().user.name().to_owned()
    }

    /// Where the client is, as it is shown; empty once it has gone.
    pub(super) fn peer_name(&self) -> String {
        self.inner.borrow().peer_name()
    }

    /// The address that the client has connected to.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.inner.borrow().stream.as_ref()?.local_address()
    }

    /// The same, as it is shown: for a Unix socket the socket itself.
    pub(super) fn local_name(&self) -> String {
        self.local().map_or_else(|| self.inner.borrow().socket_name(), |local| local.to_string())
    }

    /// Whether the client is on this machine and came by a Unix socket.
    fn is_local(&self) -> bool {
        matches!(self.inner.borrow().stream, Some(Stream::Unix(_)))
    }

    /// `CLIENT REPLY`. Whether there is a reply to this request itself.
    pub(super) fn set_replies(&self, args: &Args<'_>, out: &mut Vec<u8>) -> bool {
        let mut inner = self.inner.borrow_mut();
        if args.is_word(2, "ON") {
            // Also after `SKIP`, which it ends.
            inner.replies = Replies::On;
            reply::ok(out);
            return true;
        }
        if args.is_word(2, "OFF") {
            inner.replies = Replies::Off;
        } else if args.is_word(2, "SKIP") {
            if inner.replies == Replies::On {
                inner.replies = Replies::SkipNext;
            }
        } else {
            reply::syntax_error(out);
            return true;
        }
        false
    }

    /// `RESET`: as if the client had just connected.
    pub(super) fn forget(&self, listener: &Listener) {
        self.forget_transaction();
        self.leave_channels();
        self.track_no_more();
        self.enter(0);
        let default_user = self.worker.fleet.users.default_user(&self.worker.view().topology, listener);
        let mut inner = self.inner.borrow_mut();
        inner.version = crate::protocol::resp::Version::Resp2;
        inner.replies = Replies::On;
        inner.become_default(default_user);
        inner.level = None;
        if let Some(facts) = &mut inner.facts {
            facts.name.clear();
            facts.no_evict = false;
            facts.no_touch = false;
            facts.monitor = None;
        }
    }

    /// The line of `CLIENT LIST`, with the fields of Redis 7.2 that have a meaning here (manual page of `CLIENT LIST`).
    pub(super) fn describe(&self, now: Moment) -> String {
        let (peer, local, is_local) = (self.peer_name(), self.local_name(), self.is_local());
        let inner = self.inner.borrow();
        let (channels, patterns, shards) =
            inner.subscriptions.as_ref().map_or((0, 0, 0), |subscriptions| subscriptions.counts());
        let none = ClientFacts::default();
        let (multi, watch) = inner.transaction.as_ref().map_or((-1, 0), |transaction| transaction.counts());
        let is_blocked = inner.block.as_ref().is_some_and(|block| !block.is_over());
        let facts = inner.facts.as_deref().unwrap_or(&none);
        let tracks = inner.tracks.as_ref().map(|tracks| &tracks.options);
        let mut flags = String::new();
        let marks = [
            (facts.monitor.is_some(), 'O'),
            (inner.subscriptions.is_some(), 'P'),
            (multi >= 0, 'x'),
            (inner.is_held_back() || is_blocked, 'b'),
            (tracks.is_some(), 't'),
            (tracks.is_some_and(|tracks| tracks.is_broken), 'R'),
            (tracks.is_some_and(|tracks| tracks.broadcast), 'B'),
            (inner.closing, 'c'),
            (facts.no_evict, 'e'),
            (facts.no_touch, 'T'),
            (is_local, 'U'),
        ];
        flags.extend(marks.iter().filter(|(set, _)| *set).map(|(_, letter)| letter));
        if flags.is_empty() {
            flags.push('N');
        }
        format!(
            "id={} addr={peer} laddr={local} name={} age={} idle={} flags={flags} db={} sub={channels} psub={patterns} \
             ssub={shards} multi={multi} watch={watch} qbuf={} omem={} tot-mem={} cmd={} user={} redir={} resp={} \
             lib-name={} lib-ver={}",
            self.id,
            facts.name,
            now.since(self.since).as_secs(),
            now.since(self.seen.get()).as_secs(),
            self.database.get(),
            inner.input.len(),
            inner.output.bytes_held(),
            inner.input.capacity() + inner.output.bytes_held() + std::mem::size_of::<Self>(),
            self.last.get().map_or("NULL", |row| row.name),
            inner.user.name(),
            tracks.map_or(-1, |tracks| tracks.redirect),
            inner.version.number(),
            facts.lib_name,
            facts.lib_version,
        )
    }
}

impl Inner {
    pub(super) fn is_monitor(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.monitor.is_some())
    }

    /// Where the client is, as it is shown: for a Unix socket the socket itself. Empty once it has gone.
    pub(super) fn peer_name(&self) -> String {
        match &self.stream {
            Some(Stream::Unix(_)) | None => self.socket_name(),
            Some(stream) => stream.peer_address().map(|peer| peer.to_string()).unwrap_or_default(),
        }
    }

    /// The Unix socket that the client has connected to, if it has.
    fn socket_name(&self) -> String {
        let Some(Stream::Unix(stream)) = &self.stream else { return String::new() };
        let own = stream.local_addr().ok();
        own.as_ref().and_then(|own| own.as_pathname()).map(|path| format!("{}:0", path.display())).unwrap_or_default()
    }
}
