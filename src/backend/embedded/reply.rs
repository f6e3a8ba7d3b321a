//! What a verb answers, before it is bytes: one value for the client's RESP version and for a script alike.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::number::format_double;

/// The RESP version of one session, chosen by HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Status(Cow<'static, [u8]>),
    Error(Failure),
    Integer(i64),
    Bulk(Vec<u8>),
    /// Text that RESP3 clients get as verbatim `txt`.
    Text(String),
    Double(f64),
    Null,
    /// A missing array: RESP2 writes it differently from a missing bulk.
    NullArray,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
}

/// An error reply: its text without the leading `-`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure(pub(super) Cow<'static, [u8]>);

/// What a verb's function gives back.
pub(super) type Outcome = Result<Reply, Failure>;

pub(super) const OK: Reply = Reply::Status(Cow::Borrowed(b"OK"));

pub(super) const SYNTAX: Failure = Failure::fixed("ERR syntax error");
pub(super) const NOT_INTEGER: Failure = Failure::fixed("ERR value is not an integer or out of range");
pub(super) const NOT_FLOAT: Failure = Failure::fixed("ERR value is not a valid float");
pub(super) const WRONG_TYPE: Failure =
    Failure::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
pub(super) const NO_SUCH_KEY: Failure = Failure::fixed("ERR no such key");
pub(super) const OUT_OF_RANGE: Failure = Failure::fixed("ERR index out of range");

impl Failure {
    pub(super) const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    pub(super) fn owned(text: impl Into<Vec<u8>>) -> Self {
        Self(Cow::Owned(text.into()))
    }
}

impl Reply {
    pub(super) fn bulk(bytes: &[u8]) -> Self {
        Self::Bulk(bytes.to_vec())
    }

    pub(super) fn bulk_or_null(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::Null, Self::bulk)
    }

    pub(super) fn double_or_null(value: Option<f64>) -> Self {
        value.map_or(Self::Null, Self::Double)
    }

    pub(super) fn bulks<'a>(items: impl Iterator<Item = &'a [u8]>) -> Self {
        Self::Array(items.map(Self::bulk).collect())
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(super) fn flag(yes: bool) -> Self {
        Self::Integer(i64::from(yes))
    }

    /// Writes this reply as `protocol` spells it.
    pub(super) fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Status(text) => line(out, b'+', text),
            Self::Error(failure) => line(out, b'-', trim_line_ends(&failure.0)),
            Self::Integer(number) => header(out, ':', *number),
            Self::Bulk(bytes) => bulk(out, bytes),
            Self::Text(text) if resp3 => {
                header(out, '=', text.len() + 4);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Text(text) => bulk(out, text.as_bytes()),
            Self::Double(value) if resp3 => line(out, b',', format_double(*value).as_bytes()),
            Self::Double(value) => bulk(out, format_double(*value).as_bytes()),
            Self::Null | Self::NullArray if resp3 => out.extend_from_slice(b"_\r\n"),
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Array(items) => sequence(out, '*', items, protocol),
            Self::Set(items) => sequence(out, if resp3 { '~' } else { '*' }, items, protocol),
            Self::Map(pairs) => {
                if resp3 {
                    header(out, '%', pairs.len());
                } else {
                    header(out, '*', pairs.len() * 2);
                }
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }
}

fn sequence(out: &mut Vec<u8>, mark: char, items: &[Reply], protocol: Protocol) {
    header(out, mark, items.len());
    for item in items {
        item.encode(protocol, out);
    }
}

fn header(out: &mut Vec<u8>, mark: char, number: impl std::fmt::Display) {
    let mut text = String::with_capacity(24);
    write!(text, "{mark}{number}\r\n").expect("writing to a string does not fail");
    out.extend_from_slice(text.as_bytes());
}

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, '$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn trim_line_ends(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n'] = text {
        text = rest;
    }
    text
}

/// A line must not hold a line end of its own, or the client loses step; Redis puts blanks there too.
fn line(out: &mut Vec<u8>, mark: u8, text: &[u8]) {
    out.push(mark);
    out.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}
