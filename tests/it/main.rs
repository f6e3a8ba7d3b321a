//! Integration tests: the built binary on real sockets, in front of real stores. `README.md` one folder up says how to
//! run one, what must be installed, and which variables make them longer.

#![expect(clippy::disallowed_methods, reason = "real sockets and processes live in real time; waits have deadlines")]
#![expect(clippy::print_stderr, reason = "a skipped test says so, a random one prints its seed")]

#[cfg(test)]
mod acl;
mod acl_changes;
#[cfg(test)]
mod applications;
#[cfg(test)]
mod blocking;
mod busy;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod configured;
#[cfg(test)]
mod control;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod databases;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod keyspace;
#[cfg(test)]
mod local;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod multi_key;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod pubsub;
#[cfg(test)]
mod quoit_commands;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod replication;
#[cfg(test)]
mod scripting;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tracking;
#[cfg(test)]
mod transactions;
#[cfg(test)]
mod unix_sockets;
