//! `PFDEBUG`: what a store says of the registers of one key.

use std::rc::Rc;

use super::local::{Local, refused};
use super::nodes;
use super::session::Session;
use crate::command::{Args, Row, reply};
use crate::config::Listener;
use crate::topology::View;

/// What only looks. The others give the value another form, on that store alone.
const LOOKS: [&str; 2] = ["DECODE", "ENCODING"];

/// `PFDEBUG subcommand key`, asked of the store that has the key.
pub(super) fn debug(
    session: &Rc<Session>,
    view: &View,
    listener: &Listener,
    row: &Row,
    args: &Args<'_>,
    out: &mut Vec<u8>,
) -> Local {
    let looks = LOOKS.iter().any(|word| args.is_word(1, word));
    if !looks && session.worker.coordinator.has_copies(listener) {
        return refused(out, |out| {
            let reason = "but for DECODE and ENCODING it changes one of the copies alone; connect to a node";
            reply::refused(out, row, reason);
        });
    }
    nodes::ask_owner(session, view, listener, row, args, args.get(2).unwrap_or_default(), out)
}
