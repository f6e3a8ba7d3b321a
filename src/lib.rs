//! quoit: a stateless sharding proxy, as a library. The binary (`main.rs`) is flags around it.

#![forbid(unsafe_code)]

// The modules in reading order: a module imports only from modules above it (`tests/tidy.rs` holds the list).
pub mod clock;
pub mod metrics;

pub mod command;
pub mod ring;

pub mod protocol;

pub mod config;

pub mod backend;
pub mod listener;

pub mod topology;

pub mod coordinator;

pub mod admin;
pub mod frontend;

pub mod cli;
pub mod server;
