//! Requests from bytes: a small decoder over a whole buffered frame. The proxy's own scanner streams; a demo store
//! need not.

use std::borrow::Cow;

/// The limits of Redis on one request, except that the store's own bound on its buffer comes first.
const WORDS_MAX: usize = 1 << 20;
const WORD_BYTES_MAX: usize = 512 << 20;
const INLINE_BYTES_MAX: usize = 64 << 10;

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    /// One request and how many bytes it took. No words: an empty line, which has no reply.
    Request { words: Vec<&'a [u8]>, used: usize },
    /// More bytes are needed.
    Partial,
    /// The bytes are no request; the reply to send before the connection ends.
    Broken(String),
}

/// Decodes the first request of `bytes`: a RESP array of bulk strings, or an inline command split at blanks.
pub(super) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let outcome = match bytes {
        [] => Ok(None),
        [b'*', ..] => multibulk(bytes),
        _ => inline(bytes),
    };
    match outcome {
        Ok(Some((words, used))) => Decoded::Request { words, used },
        Ok(None) => Decoded::Partial,
        Err(text) => Decoded::Broken(format!("-ERR Protocol error: {text}\r\n")),
    }
}

type Step<T> = Result<Option<T>, Cow<'static, str>>;

fn multibulk(bytes: &[u8]) -> Step<(Vec<&[u8]>, usize)> {
    const BAD_COUNT: &str = "invalid multibulk length";
    let Some((count, mut place)) = number_line(bytes, 1, BAD_COUNT)? else { return Ok(None) };
    let count = usize::try_from(count).unwrap_or(0);
    if count > WORDS_MAX {
        return Err(BAD_COUNT.into());
    }
    let mut words = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        const BAD_LEN: &str = "invalid bulk length";
        match bytes.get(place) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(format!("expected '$', got '{}'", char::from(other)).into()),
        }
        let Some((len, start)) = number_line(bytes, place + 1, BAD_LEN)? else { return Ok(None) };
        let len = usize::try_from(len).ok().filter(|&len| len <= WORD_BYTES_MAX).ok_or(BAD_LEN)?;
        if bytes.len() < start + len + 2 {
            return Ok(None);
        }
        words.push(bytes.get(start..start + len).unwrap_or_default());
        place = start + len + 2;
    }
    Ok(Some((words, place)))
}

/// The number that starts at `from`, and the place after its line.
fn number_line(bytes: &[u8], from: usize, broken: &'static str) -> Step<(i64, usize)> {
    const LINE_BYTES_MAX: usize = 32;
    let rest = bytes.get(from..).unwrap_or_default();
    let Some(len) = memchr::memchr(b'\r', rest) else {
        return if rest.len() > LINE_BYTES_MAX { Err(broken.into()) } else { Ok(None) };
    };
    let number = super::number::parse_integer(rest.get(..len).unwrap_or_default()).map_err(|_| broken)?;
    if rest.len() < len + 2 { Ok(None) } else { Ok(Some((number, from + len + 2))) }
}

fn inline(bytes: &[u8]) -> Step<(Vec<&[u8]>, usize)> {
    match memchr::memchr(b'\n', bytes) {
        Some(len) if len <= INLINE_BYTES_MAX => {
            let line = bytes.get(..len).unwrap_or_default();
            let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            Ok(Some((words.collect(), len + 1)))
        }
        None if bytes.len() <= INLINE_BYTES_MAX => Ok(None),
        _ => Err("too big inline request".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, want: Result<&[&str], &str>) {
        let whole = decode(bytes.as_bytes());
        match want {
            Ok(want) => {
                let words = want.iter().map(|word| word.as_bytes()).collect();
                assert_eq!(whole, Decoded::Request { words, used: bytes.len() });
                for len in 0..bytes.len() {
                    assert_eq!(decode(&bytes.as_bytes()[..len]), Decoded::Partial, "cut at {len}");
                }
            }
            Err(text) => assert!(matches!(&whole, Decoded::Broken(reply) if reply.contains(text)), "{whole:?}"),
        }
    }

    #[test]
    fn requests_are_whole_or_partial() {
        check("*2\r\n$3\r\nGET\r\n$1\r\na\r\n", Ok(&["GET", "a"]));
        check("*1\r\n$0\r\n\r\n", Ok(&[""]));
        check("*0\r\n", Ok(&[]));
        check("ping  x\r\n", Ok(&["ping", "x"]));
        check("*x\r\n", Err("invalid multibulk length"));
        check("*1\r\n:1\r\n", Err("expected '$'"));
        check("*1\r\n$-1\r\n", Err("invalid bulk length"));
        check("*1\r\n$536870913\r\n", Err("invalid bulk length"));
    }
}
