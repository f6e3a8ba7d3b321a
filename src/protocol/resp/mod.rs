//! RESP2 and RESP3, the wire protocol of Redis and Valkey (specification: "Redis serialization protocol", redis.io).
//!
//! They find where a frame ends and where its arguments are; nothing is decoded
//! (`docs/decisions/2026-11-23-raw-frames.md`).
//!
//! # Invariants
//! - Both scanners are resumable: bytes that were looked at once are not looked at again, however the input is cut.
//! - Nothing recurses: nesting is a count of values still to come.
//! - A scanner allocates nothing but the list of argument bounds, which is reused.

mod inline;
mod number;
mod reply;
mod request;

pub use inline::{Unbalanced, split_inline};
pub use number::{write_header, write_number};
pub use reply::{ReplyError, ReplyScan, Step};
pub use request::{Limits, ProtocolError, RequestScan, Scanned};

/// The version of the protocol that one connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// The protocol of every client until it says `HELLO 3`.
    #[default]
    Resp2,
    /// Typed replies: maps, sets, doubles, pushes.
    Resp3,
}

impl Version {
    /// 0 for RESP2, 1 for RESP3: where things of one version are kept in an array.
    pub const fn index(self) -> usize {
        match self {
            Self::Resp2 => 0,
            Self::Resp3 => 1,
        }
    }

    /// The number that `HELLO` takes.
    pub const fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends one request in its canonical form, an array of bulk strings.
pub fn write_request<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    write_header(out, b'*', args.len());
    for arg in args {
        write_bulk(out, arg);
    }
}

/// Appends one bulk string.
pub fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}
