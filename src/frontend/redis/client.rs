//! What a client says of itself, and how `CLIENT LIST` and `CLIENT INFO` show it.

use super::session::{Replies, Session};
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

    /// `CLIENT REPLY`. Whether there is a reply to this request itself.
    pub(super) fn set_replies(&self, args: &Args<'_>, out: &mut Vec<u8>) -> bool {
        let mut inner = self.inner.borrow_mut();
        if args.is_word(2, "ON") {
            // After `SKIP`, this is the request that is skipped.
            if inner.replies == Replies::Off {
                inner.replies = Replies::On;
            }
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
        let mut inner = self.inner.borrow_mut();
        inner.version = crate::protocol::resp::Version::Resp2;
        inner.replies = Replies::On;
        inner.become_default(listener);
        inner.level = None;
        if let Some(facts) = &mut inner.facts {
            facts.name.clear();
            facts.no_evict = false;
        }
    }

    /// The line of `CLIENT LIST` (fields: Redis's manual page of `CLIENT LIST`; those that have no meaning here are
    /// left out).
    pub(super) fn describe(&self, now: Moment) -> String {
        let (peer, is_local) = (self.peer().unwrap_or_default(), self.is_local());
        let inner = self.inner.borrow();
        let (channels, patterns, shards) =
            inner.subscriptions.as_ref().map_or((0, 0, 0), |subscriptions| subscriptions.counts());
        let none = ClientFacts::default();
        let (multi, watch) = inner.transaction.as_ref().map_or((-1, 0), |transaction| transaction.counts());
        let is_blocked = inner.block.as_ref().is_some_and(|block| !block.is_over());
        let facts = inner.facts.as_deref().unwrap_or(&none);
        let marks = [
            (inner.subscriptions.is_some(), 'P'),
            (multi >= 0, 'x'),
            (is_blocked, 'b'),
            (facts.no_evict, 'e'),
            (is_local, 'U'),
        ];
        let mut flags: String = marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect();
        if flags.is_empty() {
            flags.push('N');
        }
        format!(
            "id={} addr={peer} name={} age={} idle={} flags={} db=0 sub={channels} psub={patterns} ssub={shards} \
             multi={multi} watch={watch} resp={} lib-name={} lib-ver={} user={}",
            self.id,
            facts.name,
            now.since(self.since).as_secs(),
            now.since(self.seen.get()).as_secs(),
            flags,
            inner.version.number(),
            facts.lib_name,
            facts.lib_version,
            inner.user.name(),
        )
    }
}
