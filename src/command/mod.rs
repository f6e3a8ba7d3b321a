//! One row a verb: its name, arity, keys, and what quoit does with it; and every error text that clients see.
//!
//! A request meets this module once. The frontend scans a frame into [`Args`] and calls [`resolve`], which gives the
//! row of the verb (of the subcommand, of the variant its arguments ask for) or the reason why there is none. The row's
//! [`Handling`] says who answers: a node ([`Row::single_key_at`], or [`keys()`] where there are several), several nodes,
//! or quoit itself. In a pool that keeps several copies, [`replicate`] says how it goes to them. Texts come from [`reply`], answers to `COMMAND` from [`introspect`].
//!
//! The table is generated: facts from the `COMMAND` replies of real servers, decisions from one readable file
//! (`tools/`). A test generates it again and compares; another compares [`keys()`] with the servers' `COMMAND GETKEYS`.
//!
//! # Invariants
//!
//! * No row means `-ERR unknown command`; every verb of the servers we know has a row, and its handling is a decision.
//! * A verb that is forwarded gives exactly one reply, does not block, and neither changes nor reads the state of its
//!   connection: store connections are shared by all clients of a worker.
//! * Nothing here waits, reads a clock or keeps state, or allocates but for a request of many words. Nothing here
//!   panics, whatever the bytes.
//!
//! It deliberately does not know nodes, rings or replicas: whether keys share a node is the coordinator's question.

mod absolute;
mod args;
pub mod blocking;
mod configured;
mod databases;
mod glob;
pub mod introspect;
mod keys;
mod lookup;
pub mod replicate;
pub mod reply;
mod row;
#[rustfmt::skip]
mod table;
pub mod tracking;
mod variant;

pub use absolute::{Words, absolute};
pub use args::Args;
pub use configured::{Configured, IDS_WITH_CONFIGURED, Verb, generic};
pub use databases::{DatabaseError, database, refused_database};
pub use glob::{glob, glob_exact};
pub use keys::{Begin, Find, KeyError, KeyIndexes, KeySpec, KeySpecs, each_key, keys};
pub use lookup::{Unsupported, all, lookup, lookup_full_name, resolve};
pub use row::{
    About, Flag, Flags, Handling, KeyspaceVerb, LocalVerb, Program, ProgramsVerb, PubSubVerb, Replication, Row,
    SplitRule, TransactionVerb, VerbClass,
};
pub use table::IDS;
pub use variant::{Condition, Variant};
