//! What is said to a store about a replicated key, and what it answers. The scripts themselves, their arguments and
//! answers: `version/scripts`.

use smallvec::SmallVec;

use crate::command::Args;
use crate::protocol::resp::{ReplyScan, Step, write_header};
use crate::version::{BALLOT_BYTES, Ballot, FENCE_KEY, Record, Script, around_record_key};

/// How a script is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// By its digest: it was loaded when the connection was opened.
    Digest,
    /// With its text: the store has forgotten it.
    Text,
}

/// Appends a bulk string. Quick where it is short: a request to a store has a dozen of them, and all but the value are.
#[inline]
pub(super) fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write_length(out, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before a bulk string.
#[inline]
fn write_length(out: &mut Vec<u8>, len: usize) {
    let digit = |number: usize| b'0' + u8::try_from(number).unwrap_or(0);
    match len {
        0..=9 => out.extend_from_slice(&[b'$', digit(len), b'\r', b'\n']),
        10..=99 => out.extend_from_slice(&[b'$', digit(len / 10), digit(len % 10), b'\r', b'\n']),
        _ => write_header(out, b'$', len),
    }
}

/// The fence's key as a bulk string.
const FENCE_BULK: &[u8] = b"$3\r\n\0qf\r\n";

/// Appends the beginning of a script's call: `keys` keys and `args` arguments have to follow.
#[inline]
pub(super) fn write_script(out: &mut Vec<u8>, script: Script, call: Call, keys: usize, args: usize) {
    write_any_script(out, script.sha(), script.body().as_bytes(), call, keys, args);
}

/// The same for any script.
#[inline]
pub(super) fn write_any_script(out: &mut Vec<u8>, sha: &str, body: &[u8], call: Call, keys: usize, args: usize) {
    write_header(out, b'*', 3 + keys + args);
    match call {
        Call::Digest => {
            out.extend_from_slice(b"$7\r\nEVALSHA\r\n");
            write_bulk(out, sha.as_bytes());
        }
        Call::Text => {
            write_bulk(out, b"EVAL");
            write_bulk(out, body);
        }
    }
    write_number(out, keys as u64);
}

/// Appends a number as a bulk string.
#[inline]
pub(super) fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    write_bulk(out, digits.get(at..).unwrap_or_default());
}

/// Appends a point in time, or the empty string for never.
#[inline]
pub(super) fn write_time(out: &mut Vec<u8>, at_ms: Option<u64>) {
    match at_ms {
        None => write_bulk(out, b""),
        Some(at_ms) => write_number(out, at_ms),
    }
}

/// Appends the question for records and fence: `MGET record… fence`, and `last` if there is one.
#[inline]
pub(super) fn write_probe<'k>(
    out: &mut Vec<u8>,
    records: impl ExactSizeIterator<Item = &'k [u8]>,
    last: Option<&[u8]>,
) {
    match (records.len(), last) {
        (1, Some(_)) => out.extend_from_slice(b"*4\r\n$4\r\nMGET\r\n"),
        (1, None) => out.extend_from_slice(b"*3\r\n$4\r\nMGET\r\n"),
        (count, _) => {
            write_header(out, b'*', 2 + count + usize::from(last.is_some()));
            write_bulk(out, b"MGET");
        }
    }
    for record in records {
        write_bulk(out, record);
    }
    write_bulk(out, FENCE_KEY);
    if let Some(last) = last {
        write_bulk(out, last);
    }
}

/// Appends the name of a key's record as a bulk string.
#[inline]
pub(super) fn write_record_bulk(key: &[u8], out: &mut Vec<u8>) {
    let (before, after) = around_record_key(key);
    write_length(out, before.len() + key.len() + after.len());
    out.extend_from_slice(before);
    out.extend_from_slice(key);
    out.extend_from_slice(if after.is_empty() { b"\r\n" } else { b"}\r\n" });
}

/// Appends the question for one record, whose name is a bulk string already, and the fence; and for the value, if `last` is
/// its key.
#[inline]
pub(super) fn write_probe_of(out: &mut Vec<u8>, record: &[u8], last: Option<&[u8]>) {
    out.extend_from_slice(if last.is_some() { b"*4\r\n$4\r\nMGET\r\n" } else { b"*3\r\n$4\r\nMGET\r\n" });
    out.extend_from_slice(record);
    out.extend_from_slice(FENCE_BULK);
    if let Some(last) = last {
        write_bulk(out, last);
    }
}

/// Appends a transaction that asks for one record, whose name is a bulk string already, and the fence, and then runs a command.
pub(super) fn write_transaction_of(out: &mut Vec<u8>, record: &[u8], command: &[u8]) {
    out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
    write_probe_of(out, record, None);
    out.extend_from_slice(command);
    out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
}

/// Replies to a transaction that asks for records and fence and then runs one command.
pub(super) const TRANSACTION_REPLIES: u32 = 4;

/// Appends such a transaction: what its command answers belongs to the records beside it.
pub(super) fn write_transaction<'k>(
    out: &mut Vec<u8>,
    records: impl ExactSizeIterator<Item = &'k [u8]>,
    command: &[u8],
) {
    out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
    write_probe(out, records, None);
    out.extend_from_slice(command);
    out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
}

/// What a store answered to a script. Slices are of the reply.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// `blind` and `state`: the store holds it.
    Accepted,
    /// A state was brought to a replica that holds something newer, which need not build on it.
    Overtaken,
    /// `apply`: it ran; `existed` says whether the key was there before.
    Applied { existed: bool, reply: &'a [u8] },
    /// `apply`: it ran and answered a number that Lua cannot hold.
    AppliedNumber { existed: bool, digits: &'a [u8] },
    /// `exec`: it ran; the states of the written keys as they are now.
    Executed { reply: &'a [u8], states: SmallVec<[Fetched<'a>; 2]> },
    /// A client's script uses this key and was not given it; nothing was changed.
    Wants(&'a [u8]),
    /// `prepare`: the records as they were, and whether each key is there.
    Promised(SmallVec<[(&'a [u8], bool); 2]>),
    /// The store does not hold what the operation builds on.
    Behind,
    /// A newer ballot was there before.
    Refused(SmallVec<[&'a [u8]; 2]>),
    /// The store's fence is another one.
    Fenced(&'a [u8]),
    /// The command failed; nothing was changed.
    Error(&'a [u8]),
    /// `fetch`.
    Fetched(Fetched<'a>),
    /// The store has forgotten the script.
    NoScript,
    /// Any other error of the store, without its `-`.
    Failed(&'a [u8]),
    /// Not an answer of ours.
    Garbled,
}

/// The whole state of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetched<'a> {
    pub(super) record: &'a [u8],
    /// What `DUMP` gave; empty where there is no key.
    pub(super) payload: &'a [u8],
    /// Unix time in ms as text; empty for never.
    pub(super) expires_at: &'a [u8],
}

/// Reads values one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(reply: &'a [u8]) -> Self {
        Self { rest: reply }
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn line(&mut self) -> Option<(u8, &'a [u8])> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(end + 1)?;
        self.rest = rest;
        let (kind, line) = line.split_first()?;
        Some((*kind, line.strip_suffix(b"\r\n")?))
    }

    /// A line of this kind with one or two digits and nothing else: nearly all lengths are such.
    #[inline]
    fn short(&mut self, kind: u8) -> Option<usize> {
        let (number, rest) = match self.rest {
            [first, d @ b'0'..=b'9', b'\r', b'\n', rest @ ..] if *first == kind => (usize::from(d - b'0'), rest),
            [first, t @ b'0'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', rest @ ..] if *first == kind => {
                (usize::from(t - b'0') * 10 + usize::from(d - b'0'), rest)
            }
            _ => return None,
        };
        self.rest = rest;
        Some(number)
    }

    /// The number of elements of an array.
    #[inline]
    pub(crate) fn array(&mut self) -> Option<usize> {
        if let Some(count) = self.short(b'*') {
            return Some(count);
        }
        match self.line()? {
            (b'*', count) => number(count).and_then(|count| usize::try_from(count).ok()),
            _ => None,
        }
    }

    /// A bulk string; empty for nil, which none of ours tells apart.
    #[inline]
    pub(crate) fn bulk(&mut self) -> Option<&'a [u8]> {
        let len = match self.short(b'$') {
            Some(len) => len,
            None => match self.line()? {
                (b'$', b"-1") | (b'_', b"") => return Some(b""),
                (b'$', len) => usize::try_from(number(len)?).ok()?,
                _ => return None,
            },
        };
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest.strip_prefix(b"\r\n")?;
        Some(bytes)
    }

    pub(crate) fn integer(&mut self) -> Option<i64> {
        if let Some(number) = self.short(b':') {
            return i64::try_from(number).ok();
        }
        match self.line()? {
            (b':', digits) => number(digits),
            _ => None,
        }
    }

    /// The next value as it stands.
    pub(crate) fn value(&mut self) -> Option<&'a [u8]> {
        match ReplyScan::default().advance(self.rest) {
            Ok(Step::Complete { len }) => {
                let (value, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                Some(value)
            }
            _ => None,
        }
    }

    fn fetched(&mut self) -> Option<Fetched<'a>> {
        Some(Fetched { record: self.bulk()?, payload: self.bulk()?, expires_at: self.bulk()? })
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl<'a> Answer<'a> {
    #[inline]
    pub(super) fn parse(reply: &'a [u8]) -> Self {
        match reply.first() {
            Some(b':') if reply == b":1\r\n" => Self::Accepted,
            Some(b':') if reply == b":2\r\n" => Self::Overtaken,
            Some(b'-') if reply.starts_with(b"-NOSCRIPT") => Self::NoScript,
            Some(b'-') => {
                let text = reply.get(1..).unwrap_or_default();
                Self::Failed(text.strip_suffix(b"\r\n").unwrap_or(text))
            }
            Some(b'*') => Self::parse_array(reply).unwrap_or(Self::Garbled),
            _ => Self::Garbled,
        }
    }

    fn parse_array(reply: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(reply);
        let count = cursor.array()?.checked_sub(1)?;
        Some(match cursor.bulk()? {
            b"A" => Self::Applied { existed: cursor.integer()? == 1, reply: cursor.value()? },
            b"I" => Self::AppliedNumber { existed: cursor.integer()? == 1, digits: cursor.bulk()? },
            b"X" => {
                let reply = cursor.value()?;
                let states = (0..count.saturating_sub(1) / 3).map(|_| cursor.fetched()).collect::<Option<_>>()?;
                Self::Executed { reply, states }
            }
            b"P" => {
                let promised = (0..count / 2).map(|_| Some((cursor.bulk()?, cursor.integer()? == 1)));
                Self::Promised(promised.collect::<Option<_>>()?)
            }
            b"K" => Self::Wants(cursor.bulk()?),
            b"B" => Self::Behind,
            b"R" => Self::Refused((0..count).map(|_| cursor.bulk()).collect::<Option<_>>()?),
            b"F" => Self::Fenced(cursor.bulk()?),
            b"E" => Self::Error(cursor.bulk()?),
            b"S" => Self::Fetched(cursor.fetched()?),
            _ => return None,
        })
    }
}

/// What a probe told of one key's record, without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// What the store has accepted; zero for nothing.
    pub(super) ballot: [u8; BALLOT_BYTES],
    /// There is a record and the key was not deleted under it.
    pub(super) live: bool,
    /// It is open whether what a command over several keys wrote stays.
    pub(super) marked: bool,
}

const NOTHING: [u8; BALLOT_BYTES] = [0; BALLOT_BYTES];

impl Seen {
    /// Reads only what a read needs of a record.
    #[inline]
    pub(super) fn of(record: &[u8]) -> Option<Self> {
        let Some((flags, rest)) = record.split_first() else {
            return Some(Self { ballot: NOTHING, live: false, marked: false });
        };
        let ballot = *rest.first_chunk::<BALLOT_BYTES>()?;
        Some(Self { ballot, live: flags & 1 == 0 && ballot != NOTHING, marked: Record::is_marked(record) })
    }

    /// Nothing was accepted.
    #[inline]
    pub(super) fn is_nothing(&self) -> bool {
        self.ballot == NOTHING
    }

    /// What was accepted.
    pub(super) fn accepted(&self) -> Ballot {
        Ballot::decode(&self.ballot).unwrap_or_default()
    }
}

/// A command without its array header: bulk strings one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Words {
    pub(super) fn of<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> Self {
        let mut all = Self::default();
        for word in words {
            all.push(word);
        }
        all
    }

    pub(super) fn push(&mut self, word: &[u8]) {
        write_bulk(&mut self.bytes, word);
        self.count += 1;
    }

    /// Appends a command as [`Script::Multi`] takes it.
    pub(super) fn push_command<'w>(&mut self, words: impl ExactSizeIterator<Item = &'w [u8]>, resp: &[u8]) {
        write_number(&mut self.bytes, words.len() as u64);
        write_bulk(&mut self.bytes, resp);
        self.count += 2;
        for word in words {
            self.push(word);
        }
    }

    pub(super) fn of_args(args: &Args<'_>) -> Self {
        Self::of(args.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::resp;
    use crate::version::write_record_key;

    #[test]
    fn names_of_records() {
        for key in [b"k".as_slice(), b"{tag}:k", &[b'x'; 200]] {
            let (mut name, mut want, mut got) = (Vec::new(), Vec::new(), Vec::new());
            write_record_key(key, &mut name);
            write_bulk(&mut want, &name);
            write_record_bulk(key, &mut got);
            assert_eq!(got, want);
        }
        let mut fence = Vec::new();
        write_bulk(&mut fence, FENCE_KEY);
        assert_eq!(fence, FENCE_BULK);
    }

    #[test]
    fn answers() {
        assert!(matches!(Answer::parse(b":1\r\n"), Answer::Accepted));
        assert!(matches!(Answer::parse(b":2\r\n"), Answer::Overtaken));
        assert!(matches!(Answer::parse(b"-NOSCRIPT No matching script.\r\n"), Answer::NoScript));
        assert!(matches!(Answer::parse(b"-OOM x\r\n"), Answer::Failed(b"OOM x")));
        assert!(matches!(Answer::parse(b"*2\r\n$1\r\nF\r\n$0\r\n\r\n"), Answer::Fenced(b"")));
        assert!(matches!(
            Answer::parse(b"*3\r\n$1\r\nA\r\n:1\r\n*1\r\n:7\r\n"),
            Answer::Applied { existed: true, reply: b"*1\r\n:7\r\n" }
        ));
        let Answer::Promised(promised) = Answer::parse(b"*3\r\n$1\r\nP\r\n$2\r\nab\r\n:0\r\n") else { panic!() };
        assert_eq!(promised.as_slice(), [(b"ab".as_slice(), false)]);
        assert!(matches!(Answer::parse(b"*2\r\n$1\r\n?\r\n:0\r\n"), Answer::Garbled));
        assert!(matches!(Answer::parse(b"+OK\r\n"), Answer::Garbled));
    }

    #[test]
    fn bulk_strings_of_every_length() {
        for len in [0, 1, 9, 10, 19, 99, 100, 1_000] {
            let word = vec![b'x'; len];
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            write_bulk(&mut ours, &word);
            resp::write_bulk(&mut theirs, &word);
            assert_eq!(ours, theirs, "{len}");
            let mut cursor = Cursor::new(&ours);
            assert_eq!((cursor.bulk(), cursor.rest()), (Some(word.as_slice()), b"".as_slice()), "{len}");
        }
        for (reply, want) in
            [("$-1\r\n", Some(b"".as_slice())), ("_\r\n", Some(b"")), ("$2\r\na", None), ("$1\r", None)]
        {
            assert_eq!(Cursor::new(reply.as_bytes()).bulk(), want, "{reply:?}");
        }
        for (reply, want) in [(":7\r\n", Some(7)), (":-7\r\n", Some(-7)), (":123\r\n", Some(123)), ("$7\r\n", None)] {
            assert_eq!(Cursor::new(reply.as_bytes()).integer(), want, "{reply:?}");
        }
    }

    #[test]
    fn numbers() {
        let mut out = Vec::new();
        for number in [0, 9, 10, u64::MAX] {
            write_number(&mut out, number);
        }
        assert_eq!(out, b"$1\r\n0\r\n$1\r\n9\r\n$2\r\n10\r\n$20\r\n18446744073709551615\r\n");
    }
}
