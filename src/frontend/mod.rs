//! The proxy's side towards clients.

pub mod redis;
