//! Which write is newer, and how an ordinary store keeps that: ballots, records, the clock, and the scripts.
//!
//! In a replicated pool each key has a second key beside it in the same store, its *record* ([`Record`]): the [`Ballot`]
//! of the state that the store accepted, a promise to accept nothing older, and the ids of the last operations. A worker
//! takes ballots from its [`Hlc`]; the scripts ([`Script`]) compare them with the record and change value and record
//! together, so that a store never holds one without the other. A [`Fence`] in each store names the ring it belongs to.
//! `docs/decisions/2026-11-23-version-record.md` says why the record looks as it does.
//!
//! # Invariants
//! - Two operations never share a ballot or an id, whatever the clocks do: a skewed clock costs refusals, not correctness.
//! - The order of ballots is that of their bytes, here and in the scripts, whatever the locale of a store.
//! - A script that fails has changed nothing.
//! - [`Record::never_accepted`] says yes only when it is certain.
//!
//! It sends nothing and waits for nothing: when a script runs, and what its answer means for a client, is the
//! coordinator's part.

mod ballot;
mod hlc;
mod names;
mod record;
mod script;

pub use ballot::{BALLOT_BYTES, Ballot, OpId, TERM_BYTES, Term, WRITER_BITS};
pub use hlc::Hlc;
pub use names::{
    FENCE_BYTES, FENCE_KEY, Fence, FenceError, FenceState, Founding, Mark, ROUNDS_MAX, around_record_key, is_reserved,
    key_of_record, piece_name, placed_as, write_decision_key, write_piece_key, write_record_key,
};
pub use record::{OPERATIONS_MAX, Operations, Record, RecordError};
pub use script::{ANY_BASE, ClientScript, NO_BASE, Script};
