//! Wire forms: bytes to frames and back, without I/O.
//!
//! A request enters as bytes that [`resp::RequestScan`] cuts into frames; a store's answer is cut by
//! [`resp::ReplyScan`]. Neither copies, and neither builds values: the data path forwards the raw bytes.

pub mod resp;
