//! The embedded demo store: what `quoit demo` starts when there is no Redis at hand, and the double of a store in
//! simulations.
//!
//! A request meets it as bytes on a socket (`network`), cut into words by the proxy's own scanner. [`Store::execute`]
//! looks the verb up in `table`, queues it if the session is in a transaction, and otherwise runs its function (one
//! file a type: `strings`, `hashes`, `lists`, `sets`, `sorted_sets`; `keys` and `sessions` for the rest) over the
//! `keyspace`. The reply, a value until then, is encoded for the session's RESP version. Scripts call the same verbs.
//!
//! # Invariants
//! - The core does no I/O and has no clock and no randomness: time and seed come in, so the same commands at the same
//!   times give the same bytes.
//! - Replies are those of Redis 7.0, byte for byte, for the verbs it serves. The order of hash-table sets and of KEYS
//!   is ours, as are DUMP payloads, INFO and script limits.
//! - No command makes it panic; above its memory cap it refuses writes that add data.
//!
//! It is a demo store: no persistence, no replication, no users, one database, and no streams, bitmaps, geo,
//! `HyperLogLog`, blocking verbs or pub/sub.

mod dump;
mod glob;
mod hashes;
#[expect(clippy::unnecessary_wraps, reason = "the table wants one signature for all verbs")]
mod keys;
mod keyspace;
mod lists;
mod network;
mod number;
mod reply;
mod scripts;
#[expect(clippy::unnecessary_wraps, reason = "the table wants one signature for all verbs")]
mod sessions;
mod sets;
mod sorted_sets;
mod store;
#[expect(clippy::unnecessary_wraps, reason = "the table wants one signature for all verbs")]
mod strings;
mod table;
#[cfg(test)]
mod tests;
#[expect(clippy::unnecessary_wraps, reason = "the table wants one signature for all verbs")]
mod transactions;
mod value;

pub use network::EmbeddedServer;
pub use store::{MEMORY_BYTES_MAX_DEFAULT, SessionState, Store};
