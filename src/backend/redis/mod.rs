//! Redis and Valkey stores: one multiplexed, pipelined connection for each node and protocol version.
//!
//! [`Node`] is one worker's handle to a store: its connections, its breaker, its bounds. A request that can be sent goes
//! into the connection's buffer at once; the connection's task writes the buffer when the tasks that were ready before
//! it have run, so that requests of many clients leave in one system call.
//!
//! # Invariants
//! - A request is in the buffer of one connection, whole, or not at all.
//! - A connection on which a reply is overdue takes no new request, ever (FAILURES F9).
//! - A node that is down answers at once, and is asked again by one probe at a time, at growing, jittered distances
//!   (F6, F8). Its keys stay its own (F1).

mod aside;
mod breaker;
mod connection;
mod exclusive;
mod handshake;
mod lease;
mod node;
mod programs;

pub use breaker::BreakerOptions;
pub use exclusive::Exclusive;
pub use handshake::Credentials;
pub use lease::Lease;
pub use node::{Node, NodeOptions};
