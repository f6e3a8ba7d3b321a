//! backend

pub mod embedded;
