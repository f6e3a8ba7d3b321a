//! Sessions of Redis clients: bytes in, requests out to the coordinator, replies back in the order of the requests.
//!
//! Everything of one worker runs on one thread: [`Worker`] is what its sessions share, `Worker::admit` starts a session
//! for an accepted connection.

mod acl;
mod acl_changes;
mod acl_log;
mod auth;
mod blocking;
mod client;
mod clients;
mod cluster;
mod counts;
mod databases;
mod hyperloglog;
mod info;
mod intake;
mod latency;
mod local;
mod minor;
mod monitor;
mod nodes;
mod output;
mod pause;
mod pubsub;
mod quoit;
mod requests;
mod scripting;
mod session;
mod settings;
mod slowlog;
mod tls;
mod tracking;
mod transaction;
mod tuned;
mod worker;

pub use acl_changes::{LiveUsers, UsersNews};
pub use acl_log::AclLog;
pub use clients::Ask;
pub use info::Figures;
pub use latency::Latency;
pub use slowlog::SlowLog;
pub use tuned::Tuned;
pub use worker::{Fleet, Order, Worker};
