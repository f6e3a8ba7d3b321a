//! `ACL`: questions about users and their rights. They are in the configuration, which every proxy of a fleet has; what
//! changes them at run time is in `acl_changes`.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::acl_changes::{self, UsersNews, tell_users};
use super::acl_log::Entry;
use super::local::Local;
use super::requests::verb_of;
use super::session::Session;
use crate::acl::{CATEGORIES, Denial, Selector, User, is_in_category};
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::command::reply::{self, Resp};
use crate::command::{Args, Row, Unsupported, all};
use crate::config::Listener;
use crate::metrics::Outcome;
use crate::topology::View;

/// Entries of `ACL LOG` where no number is given.
const LOG_SHOWN: usize = 10;
/// Bits of `ACL GENPASS`: where no number is given, and at most.
const PASSWORD_BITS: i64 = 256;
const PASSWORD_BITS_MAX: i64 = 4096;
/// Letters of a reload's fault that go into an error.
const FAULT_LETTERS_MAX: usize = 500;

/// Answers a subcommand of `ACL`.
pub(super) fn answer(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    resp: Resp,
    out: &mut Vec<u8>,
) -> Local {
    let live = &session.worker.fleet.users;
    let was_given = match row.name {
        "acl|cat" => categories(args, out),
        "acl|dryrun" => dry_run(session, view, listener, args, out),
        "acl|genpass" => generate_password(args, out),
        "acl|getuser" => {
            match live.user(&view.topology, listener, args.get(2).unwrap_or_default()) {
                Some(user) => show_user(&user, resp, out),
                None => reply::null(out, resp),
            }
            true
        }
        "acl|list" => {
            let lines: Vec<_> = live.all(&view.topology, listener).iter().map(|user| user.line()).collect();
            list(&lines, out)
        }
        "acl|users" => {
            let users = live.all(&view.topology, listener);
            let names: Vec<_> = users.iter().map(|user| user.name().to_owned()).collect();
            list(&names, out)
        }
        "acl|log" => log(session, args, resp, out),
        "acl|save" => acl_changes::save(view, row, out),
        _ => {
            reply::bulk(out, session.inner.borrow().user.name().as_bytes());
            true
        }
    };
    Local::Reply(if was_given { Outcome::Ok } else { Outcome::Refused })
}

fn list(texts: &[impl AsRef<[u8]>], out: &mut Vec<u8>) -> bool {
    reply::array_header(out, texts.len());
    for text in texts {
        reply::bulk(out, text.as_ref());
    }
    true
}

/// `ACL CAT [category]`.
fn categories(args: &Args<'_>, out: &mut Vec<u8>) -> bool {
    let Some(name) = args.get(2) else { return list(&CATEGORIES, out) };
    if args.len() > 3 {
        reply::subcommand_syntax(out, args);
        return false;
    }
    let Some(category) = CATEGORIES.iter().find(|category| category.as_bytes().eq_ignore_ascii_case(name)) else {
        reply::unknown_category(out, name);
        return false;
    };
    let rows = || all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
    let found: Vec<_> = rows().filter(|row| is_in_category(row, category)).map(|row| row.name).collect();
    list(&found, out)
}

/// `ACL DRYRUN user command …`: a text that says why not, or OK.
fn dry_run(session: &Session, view: &View, listener: &Listener, args: &Args<'_>, out: &mut Vec<u8>) -> bool {
    let name = args.get(2).unwrap_or_default();
    let Some(user) = session.worker.fleet.users.user(&view.topology, listener, name) else {
        reply::no_such_user(out, name);
        return false;
    };
    let request = args.skip(3);
    let row = match view.topology.config.commands.resolve(&request) {
        Ok(row) => row,
        // An odd MSET is no request, but rights to it can be told.
        Err(Unsupported::WrongArity(row)) if row.takes(request.len()) => row,
        Err(Unsupported::WrongArity(row)) => {
            reply::wrong_arity(out, row);
            return false;
        }
        Err(Unsupported::UnknownCommand | Unsupported::UnknownSubcommand(_)) => {
            reply::no_such_command(out, request.get(0).unwrap_or_default());
            return false;
        }
    };
    let argument = |at: usize| request.get(at).unwrap_or_default();
    let of = |what: &[u8], kind: &[u8]| {
        [b"This user has no permissions to access the '".as_slice(), what, b"' ", kind].concat()
    };
    match user.check(row, &request) {
        Ok(()) => reply::ok(out),
        Err(Denial::Command) => {
            reply::bulk(out, format!("This user has no permissions to run the '{}' command", row.name).as_bytes());
        }
        Err(Denial::Script) => reply::bulk(out, format!("This user {}", reply::NO_SCRIPTS).as_bytes()),
        Err(Denial::Key(at)) => reply::bulk(out, &of(argument(at), b"key")),
        Err(Denial::Channel(at)) => reply::bulk(out, &of(argument(at), b"channel")),
    }
    true
}

/// `ACL GENPASS [bits]`: hexadecimal digits that nobody can guess.
fn generate_password(args: &Args<'_>, out: &mut Vec<u8>) -> bool {
    if args.len() > 3 {
        reply::subcommand_syntax(out, args);
        return false;
    }
    let bits = args.get(2).map_or(Some(PASSWORD_BITS), parse_integer);
    let Some(bits) = bits else {
        reply::not_an_integer(out);
        return false;
    };
    let digits = (bits.saturating_add(3)) / 4;
    let (true, Ok(digits)) = ((1..=PASSWORD_BITS_MAX).contains(&bits), usize::try_from(digits)) else {
        reply::genpass_bits(out, PASSWORD_BITS_MAX);
        return false;
    };
    let mut bytes = vec![0; digits];
    if let Err(error) = getrandom::fill(&mut bytes) {
        reply::error(out, &format!("ERR the system gives no random numbers: {error}"));
        return false;
    }
    let letters = b"0123456789abcdef".as_slice();
    let password: Vec<u8> = bytes.iter().filter_map(|byte| letters.get(usize::from(byte & 0x0f)).copied()).collect();
    reply::bulk(out, &password);
    true
}

fn parse_integer(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The reply to `ACL GETUSER`.
fn show_user(user: &User, resp: Resp, out: &mut Vec<u8>) {
    reply::map_header(out, resp, 6);
    reply::bulk(out, b"flags");
    reply::set_header(out, resp, user.flags().count());
    user.flags().for_each(|flag| reply::bulk(out, flag.as_bytes()));
    reply::bulk(out, b"passwords");
    reply::array_header(out, user.hashes().count());
    user.hashes().for_each(|hash| reply::bulk(out, hash.as_bytes()));
    show_selector(user.root(), out);
    reply::bulk(out, b"selectors");
    reply::array_header(out, user.selectors().len());
    for selector in user.selectors() {
        reply::map_header(out, resp, 3);
        show_selector(selector, out);
    }
}

fn show_selector(selector: &Selector, out: &mut Vec<u8>) {
    reply::bulk(out, b"commands");
    reply::bulk(out, selector.commands_text().as_bytes());
    reply::bulk(out, b"keys");
    reply::bulk(out, &selector.keys_text());
    reply::bulk(out, b"channels");
    reply::bulk(out, &selector.channels_text());
}

/// `ACL LOG [count | RESET]`.
fn log(session: &Session, args: &Args<'_>, resp: Resp, out: &mut Vec<u8>) -> bool {
    let log = &session.worker.fleet.acl_log;
    if args.len() > 3 {
        reply::subcommand_syntax(out, args);
        return false;
    }
    if args.is_word(2, "RESET") {
        log.clear();
        reply::ok(out);
        return true;
    }
    let Some(count) = args
        .get(2)
        .map_or(Some(LOG_SHOWN), |count| parse_integer(count).map(|count| usize::try_from(count).unwrap_or(0)))
    else {
        reply::not_an_integer(out);
        return false;
    };
    let entries = log.newest(count);
    let now_ms = session.worker.context.clock.wall_ms();
    reply::array_header(out, entries.len());
    for entry in &entries {
        show_entry(entry, now_ms, resp, out);
    }
    true
}

fn show_entry(entry: &Entry, now_ms: u64, resp: Resp, out: &mut Vec<u8>) {
    reply::map_header(out, resp, 7);
    reply::bulk(out, b"count");
    reply::integer(out, entry.count);
    let texts: [(&str, &[u8]); 4] = [
        ("reason", entry.reason.word().as_bytes()),
        ("context", b"toplevel"),
        ("object", &entry.object),
        ("username", &entry.user),
    ];
    for (name, text) in texts {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, text);
    }
    reply::bulk(out, b"age-seconds");
    let age_ms = u32::try_from(now_ms.saturating_sub(entry.at_ms)).unwrap_or(u32::MAX);
    reply::double(out, resp, f64::from(age_ms) / 1_000.0);
    reply::bulk(out, b"client-info");
    reply::bulk(out, entry.client.as_bytes());
}

/// `ACL LOAD` reads the whole configuration again; the reply comes when that is done.
pub(super) fn load(session: &Rc<Session>, row: &Row) {
    session.inner.borrow_mut().alone = true;
    let slot = session.open_slot(verb_of(row));
    let session = Rc::clone(session);
    let worker = Rc::clone(&session.worker);
    worker.context.spawn(async move {
        let (sender, answer) = oneshot::channel();
        let result = match session.worker.fleet.ask_reload.try_send(sender) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err("quoit is stopping".to_owned())),
            Err(_) => Err("too many reloads are asked for, or quoit is stopping".to_owned()),
        };
        let mut out = Vec::new();
        match result {
            Ok(_) => {
                // As in Redis, the file is what holds now; of other reloads only one that changes users says so.
                session.worker.fleet.users.forget();
                tell_users(&session, Arc::new(UsersNews::Loaded)).await;
                reply::ok(&mut out);
            }
            Err(fault) => {
                let fault: String = fault.split_whitespace().collect::<Vec<_>>().join(" ");
                reply::not_reloaded(&mut out, &fault.chars().take(FAULT_LETTERS_MAX).collect::<String>());
            }
        }
        let _: Flow = ReplySink::reply(session, Tag { slot, part: 0 }, Piece::Whole(&out));
    });
}
