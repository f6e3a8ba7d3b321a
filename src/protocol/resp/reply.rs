//! Replies of a store: where one ends and the next begins.

use super::number::{Line, length_line};

/// Longest line of a simple string or error that is waited for. Far more than any server sends.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// A store that does not speak RESP; its connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A value of an unknown type.
    #[error("unknown reply type 0x{0:02x}")]
    Kind(u8),
    /// A length line that is no number. RESP3's streamed aggregates (`$?`) count here: no server sends them.
    #[error("reply with a bad length")]
    Length,
    /// A line that does not end.
    #[error("reply line without an end")]
    Line,
}

/// How far one call of [`ReplyScan::advance`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reply ends after `len` bytes.
    Complete {
        /// Bytes of the input that belong to the reply.
        len: usize,
    },
    /// The first `len` bytes belong to the reply and need not be shown again; more has to come.
    Partial {
        /// Bytes of the input that were taken.
        len: usize,
    },
}

/// The resumable scanner of one reply at a time.
///
/// The caller shows it bytes; those it took are not shown again.
#[derive(Debug, Default, Clone)]
pub struct ReplyScan {
    /// Values still to come, over all levels of nesting; 0 between replies.
    values_left: u64,
    /// Bytes of a bulk string still to come, its CRLF included.
    skip: u64,
    kind: u8,
}

impl ReplyScan {
    /// The type byte of the reply: `-` for an error, `>` for a push.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether a reply has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.values_left > 0
    }

    /// Bytes that are known to be still to come of the current bulk string.
    pub fn bytes_pending(&self) -> u64 {
        self.skip
    }

    /// Forgets a reply that was only begun, so that it can be shown again from its first byte.
    pub fn reset(&mut self) {
        self.values_left = 0;
        self.skip = 0;
    }

    /// Takes bytes of the reply.
    ///
    /// # Errors
    /// Bytes that are no RESP.
    #[inline]
    pub fn advance(&mut self, buf: &[u8]) -> Result<Step, ReplyError> {
        let mut at = 0;
        if self.values_left == 0 {
            match buf.first() {
                None => return Ok(Step::Partial { len: 0 }),
                Some(kind) => self.kind = *kind,
            }
            if let Some(len) = short_reply(buf) {
                return Ok(Step::Complete { len });
            }
            self.values_left = 1;
        }
        loop {
            if self.skip > 0 {
                let here = (buf.len() - at) as u64;
                if here < self.skip {
                    self.skip -= here;
                    return Ok(Step::Partial { len: buf.len() });
                }
                // `skip` is at most `here`, which came from a usize.
                #[expect(clippy::cast_possible_truncation, reason = "bounded by the buffer's length")]
                {
                    at += self.skip as usize;
                }
                self.skip = 0;
                self.values_left -= 1;
            } else {
                match self.value(buf, at)? {
                    Some(next) => at = next,
                    None => return Ok(Step::Partial { len: at }),
                }
            }
            if self.values_left == 0 {
                return Ok(Step::Complete { len: at });
            }
        }
    }

    /// Reads the first line of the value at `at`; the position behind it, or `None` when the line is not all there.
    #[inline]
    fn value(&mut self, buf: &[u8], at: usize) -> Result<Option<usize>, ReplyError> {
        let Some(kind) = buf.get(at) else { return Ok(None) };
        match kind {
            b'$' | b'=' | b'!' => self.counted(buf, at, |scan, len| match u64::try_from(len) {
                Ok(len) => scan.skip = len + 2,
                Err(_) => scan.values_left -= 1, // Null.
            }),
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {
                let rest = buf.get(at..).unwrap_or_default();
                match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        self.values_left -= 1;
                        Ok(Some(at + end + 1))
                    }
                    None if rest.len() > LINE_BYTES_MAX => Err(ReplyError::Line),
                    None => Ok(None),
                }
            }
            b'*' | b'~' | b'>' => self.counted(buf, at, |scan, len| {
                scan.values_left = (scan.values_left - 1).saturating_add(u64::try_from(len).unwrap_or(0));
            }),
            b'%' => self.counted(buf, at, |scan, len| {
                scan.values_left =
                    (scan.values_left - 1).saturating_add(u64::try_from(len).unwrap_or(0).saturating_mul(2));
            }),
            // An attribute stands before the value it describes, so that value is still to come.
            b'|' => self.counted(buf, at, |scan, len| {
                scan.values_left = scan.values_left.saturating_add(u64::try_from(len).unwrap_or(0).saturating_mul(2));
            }),
            other => Err(ReplyError::Kind(*other)),
        }
    }

    #[inline]
    fn counted(
        &mut self,
        buf: &[u8],
        at: usize,
        apply: impl FnOnce(&mut Self, i64),
    ) -> Result<Option<usize>, ReplyError> {
        let mut irregular = false;
        match length_line(buf, at + 1, &mut irregular) {
            Line::Number(len, next) if !irregular => {
                apply(self, len);
                Ok(Some(next))
            }
            Line::Incomplete if buf.len() - at > 64 => Err(ReplyError::Length),
            Line::Incomplete => Ok(None),
            Line::Number(..) | Line::NotANumber(_) => Err(ReplyError::Length),
        }
    }
}

/// Bytes of the longest number, its sign and line end.
const NUMBER_BYTES_MAX: usize = 22;

/// The end of a reply that is here in full, if it is of the kinds that nearly all replies are: a number, a short bulk
/// string, an array of such. No state is kept for these.
#[inline]
fn short_reply(buf: &[u8]) -> Option<usize> {
    let (count, elements) = match buf {
        [b'*', d @ b'1'..=b'9', b'\r', b'\n', ..] => (usize::from(d - b'0'), 4),
        [b'*', t @ b'1'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (usize::from(t - b'0') * 10 + usize::from(d - b'0'), 5)
        }
        _ => (1, 0),
    };
    let mut at = elements;
    for _ in 0..count {
        at += match buf.get(at..)? {
            [b'$', d @ b'0'..=b'9', b'\r', b'\n', ..] => 6 + usize::from(d - b'0'),
            [b'$', t @ b'1'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', ..] => {
                7 + usize::from(t - b'0') * 10 + usize::from(d - b'0')
            }
            [b':', b'0'..=b'9', b'\r', b'\n', ..] => 4,
            [b':', tail @ ..] => tail.iter().take(NUMBER_BYTES_MAX).position(|byte| *byte == b'\n')? + 2,
            _ => return None,
        };
    }
    (at <= buf.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(input: &[u8], want: Result<Step, ReplyError>) {
        assert_eq!(ReplyScan::default().advance(input), want, "{:?}", String::from_utf8_lossy(input));
    }

    #[test]
    fn replies_end_where_they_end() {
        for whole in [
            &b"+OK\r\n"[..],
            b"-ERR no\r\n",
            b":12\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$5\r\nhello\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
            b"(123\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
            b">2\r\n+invalidate\r\n*0\r\n",
        ] {
            check(whole, Ok(Step::Complete { len: whole.len() }));
            let mut longer = whole.to_vec();
            longer.extend_from_slice(b"+NEXT\r\n");
            check(&longer, Ok(Step::Complete { len: whole.len() }));
        }
        check(b"?1\r\n", Err(ReplyError::Kind(b'?')));
        check(b"$?\r\n", Err(ReplyError::Length));
    }

    /// Feeds the pieces and returns the bytes that were taken when the reply was complete.
    fn fed(input: &[u8], cuts: &[usize]) -> Option<usize> {
        let mut scan = ReplyScan::default();
        let mut taken = 0;
        let mut ends: Vec<usize> = cuts.iter().copied().filter(|cut| *cut < input.len()).collect();
        ends.push(input.len());
        ends.sort_unstable();
        for end in ends {
            match scan.advance(&input[taken..end]).unwrap() {
                Step::Complete { len } => return Some(taken + len),
                Step::Partial { len } => taken += len,
            }
        }
        None
    }

    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just(b"+OK\r\n".to_vec()),
            Just(b"$-1\r\n".to_vec()),
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..30).prop_map(|bytes| {
                let mut out = Vec::new();
                crate::protocol::resp::write_bulk(&mut out, &bytes);
                out
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop::collection::vec(inner, 0..6).prop_map(|parts| {
                let mut out = format!("*{}\r\n", parts.len()).into_bytes();
                out.extend(parts.concat());
                out
            })
        })
    }

    proptest! {
        #[test]
        fn the_end_does_not_depend_on_how_the_input_is_cut(
            reply in reply(), cuts in prop::collection::vec(0_usize..300, 0..8),
        ) {
            prop_assert_eq!(fed(&reply, &cuts), Some(reply.len()));
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = ReplyScan::default();
            let mut taken = 0;
            while let Ok(step) = scan.advance(&input[taken..]) {
                match step {
                    Step::Partial { .. } => break,
                    Step::Complete { len } => taken += len,
                }
            }
        }
    }
}
