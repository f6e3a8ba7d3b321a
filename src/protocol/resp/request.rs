//! Requests: an array of bulk strings, or an inline line.

use super::number::{Line, length_line};

/// What a client may send. The defaults are the servers' own.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest single argument, in bytes (`proto-max-bulk-len`; 512 MiB).
    pub bulk_bytes_max: i64,
    /// Most arguments of one request (Redis: 2³¹ − 1; 10 before a needed AUTH).
    pub arguments_max: i64,
    /// Whether a password is still owed: only changes what the error says.
    pub unauthenticated: bool,
}

/// Longest line that is waited for, in bytes (`PROTO_INLINE_MAX_SIZE`).
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

impl Limits {
    /// The limits of a client that may do what it likes.
    pub const REDIS: Self =
        Self { bulk_bytes_max: 512 * 1024 * 1024, arguments_max: i32::MAX as i64, unauthenticated: false };
    /// The limits before AUTH, where a password is needed (Redis since 6.2.6, CVE-2021-32675).
    pub const UNAUTHENTICATED: Self = Self { bulk_bytes_max: 16_384, arguments_max: 10, unauthenticated: true };
}

/// A request that cannot be framed. The connection answers it and closes, as Redis does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*` with something that is no count.
    #[error("invalid multibulk length")]
    MultibulkLength,
    /// More arguments than allowed before AUTH.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// `$` with something that is no length, or more than the limit.
    #[error("invalid bulk length")]
    BulkLength,
    /// A longer argument than allowed before AUTH.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// Something else where an argument should begin.
    #[error("expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// A count line that does not end.
    #[error("too big mbulk count string")]
    MultibulkLine,
    /// A length line that does not end.
    #[error("too big bulk count string")]
    BulkLine,
    /// An inline line that does not end.
    #[error("too big inline request")]
    InlineLine,
    /// An inline line with an open quote.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// What one call of [`RequestScan::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    /// A whole request in the first `len` bytes; [`RequestScan::bounds`] has its arguments.
    Request {
        /// Bytes of the frame.
        len: usize,
    },
    /// An inline request: a line of `line` bytes in the first `len` bytes.
    Inline {
        /// Bytes of the line without its end.
        line: usize,
        /// Bytes to take off the input.
        len: usize,
    },
    /// Bytes that ask for nothing (`*0`, `*-1`): Redis skips them silently.
    Nothing {
        /// Bytes to take off the input.
        len: usize,
    },
    /// More bytes are needed.
    Incomplete,
}

/// The resumable scanner of one request at a time.
///
/// The caller shows it the same frame from its first byte each time, with more bytes at the end; what was scanned is
/// not scanned again. After a whole request, [`RequestScan::reset`] readies it for the next.
#[derive(Debug, Default)]
pub struct RequestScan {
    bounds: Vec<(u32, u32)>,
    at: usize,
    arguments_left: i64,
    arguments: i64,
    bulk: Option<usize>,
    irregular: bool,
}

impl RequestScan {
    /// Forgets the request that was scanned.
    pub fn reset(&mut self) {
        self.bounds.clear();
        self.at = 0;
        self.arguments_left = 0;
        self.arguments = 0;
        self.bulk = None;
        self.irregular = false;
    }

    /// Where the arguments that are complete begin and end in the frame.
    pub fn bounds(&self) -> &[(u32, u32)] {
        &self.bounds
    }

    /// Whether line ends other than CRLF were met, which Redis tolerates: such a frame is rewritten, never forwarded.
    pub fn irregular(&self) -> bool {
        self.irregular
    }

    /// How many arguments the request has in all, once its first line is read.
    pub fn arguments(&self) -> i64 {
        self.arguments
    }

    /// Whether nothing of a request has been seen yet.
    pub fn is_idle(&self) -> bool {
        self.at == 0
    }

    /// Bytes of the frame that are known to be needed: the end of the argument that is being received.
    pub fn bytes_needed(&self) -> usize {
        self.at + self.bulk.map_or(1, |len| len + 2)
    }

    /// Heap bytes it holds.
    pub fn heap_bytes(&self) -> usize {
        self.bounds.capacity() * size_of::<(u32, u32)>()
    }

    /// Looks for the end of the request that begins at `buf[0]`.
    ///
    /// # Errors
    /// What Redis calls a protocol error; the connection cannot be read further.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], limits: &Limits) -> Result<Scanned, ProtocolError> {
        if self.at == 0 {
            match buf.first() {
                None => return Ok(Scanned::Incomplete),
                Some(b'*') => {
                    if let Some(early) = self.first_line(buf, limits)? {
                        return Ok(early);
                    }
                }
                Some(_) => return inline_line(buf),
            }
        }
        while self.arguments_left > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => match self.bulk_line(buf, limits)? {
                    Some(len) => len,
                    None => return Ok(Scanned::Incomplete),
                },
            };
            let end = self.at + len;
            match buf.get(end..end + 2) {
                None => {
                    self.bulk = Some(len);
                    return Ok(Scanned::Incomplete);
                }
                Some(b"\r\n") => {}
                Some(_) => self.irregular = true,
            }
            self.bulk = None;
            // Frames are bounded far below 4 GiB by the session that feeds this scanner.
            #[expect(clippy::cast_possible_truncation, reason = "frames are shorter than 4 GiB")]
            self.bounds.push((self.at as u32, end as u32));
            self.at = end + 2;
            self.arguments_left -= 1;
        }
        Ok(Scanned::Request { len: self.at })
    }

    #[inline]
    fn first_line(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Scanned>, ProtocolError> {
        match length_line(buf, 1, &mut self.irregular) {
            Line::Number(count, next) => {
                if count > limits.arguments_max {
                    return Err(if limits.unauthenticated && count <= i64::from(i32::MAX) {
                        ProtocolError::UnauthenticatedMultibulkLength
                    } else {
                        ProtocolError::MultibulkLength
                    });
                }
                if count <= 0 {
                    self.irregular = false;
                    return Ok(Some(Scanned::Nothing { len: next }));
                }
                self.at = next;
                self.arguments = count;
                self.arguments_left = count;
                Ok(None)
            }
            Line::Incomplete if buf.len() > LINE_BYTES_MAX => Err(ProtocolError::MultibulkLine),
            Line::Incomplete => Ok(Some(Scanned::Incomplete)),
            Line::NotANumber(_) => Err(ProtocolError::MultibulkLength),
        }
    }

    #[inline]
    fn bulk_line(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        // Redis looks for the end of the line before it looks at the type byte.
        let line = length_line(buf, self.at + 1, &mut self.irregular);
        match buf.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(_) if line == Line::Incomplete && buf.len() - self.at <= LINE_BYTES_MAX => return Ok(None),
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        match line {
            Line::Number(len, next) => {
                if len > limits.bulk_bytes_max && limits.unauthenticated {
                    return Err(ProtocolError::UnauthenticatedBulkLength);
                }
                if len > limits.bulk_bytes_max {
                    return Err(ProtocolError::BulkLength);
                }
                let len = usize::try_from(len).map_err(|_| ProtocolError::BulkLength)?;
                self.at = next;
                Ok(Some(len))
            }
            Line::Incomplete if buf.len() - self.at > LINE_BYTES_MAX => Err(ProtocolError::BulkLine),
            Line::Incomplete => Ok(None),
            Line::NotANumber(_) => Err(ProtocolError::BulkLength),
        }
    }
}

fn inline_line(buf: &[u8]) -> Result<Scanned, ProtocolError> {
    match memchr::memchr(b'\n', buf) {
        // Redis answers a long line with an error only while its end is late; one that arrived whole is served.
        None if buf.len() > LINE_BYTES_MAX => Err(ProtocolError::InlineLine),
        None => Ok(Scanned::Incomplete),
        Some(end) => {
            let line = match buf.get(..end) {
                Some([.., b'\r']) => end - 1,
                _ => end,
            };
            Ok(Scanned::Inline { line, len: end + 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(input: &[u8]) -> Vec<Vec<u8>> {
        let mut scan = RequestScan::default();
        let scanned = scan.scan(input, &Limits::REDIS).unwrap();
        assert_eq!(scanned, Scanned::Request { len: input.len() });
        scan.bounds().iter().map(|(from, to)| input[*from as usize..*to as usize].to_vec()).collect()
    }

    #[test]
    fn a_request_is_cut_into_its_arguments() {
        assert_eq!(arguments(b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n"), [b"GET".to_vec(), b"key:1".to_vec()]);
        assert_eq!(arguments(b"*1\r\n$0\r\n\r\n"), [b"".to_vec()]);
    }

    #[track_caller]
    fn check(input: &[u8], want: Result<Scanned, ProtocolError>) {
        assert_eq!(RequestScan::default().scan(input, &Limits::REDIS), want, "{:?}", String::from_utf8_lossy(input));
    }

    #[test]
    fn corners_are_those_of_redis() {
        check(b"", Ok(Scanned::Incomplete));
        check(b"*", Ok(Scanned::Incomplete));
        check(b"*1\r", Ok(Scanned::Incomplete));
        check(b"*0\r\n", Ok(Scanned::Nothing { len: 4 }));
        check(b"*-1\r\n", Ok(Scanned::Nothing { len: 5 }));
        check(b"*2147483647\r\n", Ok(Scanned::Incomplete));
        check(b"*2147483648\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*01\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*1\r\n:3\r\n", Err(ProtocolError::ExpectedBulk(b':')));
        check(b"*1\r\n$-1\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$536870913\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$536870912\r\n", Ok(Scanned::Incomplete));
        check(b"\r\n", Ok(Scanned::Inline { line: 0, len: 2 }));
        check(b"PING\r\nx", Ok(Scanned::Inline { line: 4, len: 6 }));
        check(&vec![b'x'; LINE_BYTES_MAX + 1], Err(ProtocolError::InlineLine));
    }

    #[test]
    fn before_authentication_little_is_read() {
        let mut scan = RequestScan::default();
        let error = scan.scan(b"*11\r\n", &Limits::UNAUTHENTICATED).unwrap_err();
        assert_eq!(error, ProtocolError::UnauthenticatedMultibulkLength);
        let mut scan = RequestScan::default();
        let error = scan.scan(b"*1\r\n$16385\r\n", &Limits::UNAUTHENTICATED).unwrap_err();
        assert_eq!(error, ProtocolError::UnauthenticatedBulkLength);
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_input_is_cut(
            args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cuts in prop::collection::vec(0_usize..400, 0..6),
        ) {
            let mut input = Vec::new();
            crate::protocol::resp::write_request(&mut input, args.iter().map(Vec::as_slice));
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < input.len()).collect();
            ends.sort_unstable();
            let mut scan = RequestScan::default();
            for end in ends {
                prop_assert_eq!(scan.scan(&input[..end], &Limits::REDIS).unwrap(), Scanned::Incomplete);
            }
            prop_assert_eq!(scan.scan(&input, &Limits::REDIS).unwrap(), Scanned::Request { len: input.len() });
            let got: Vec<Vec<u8>> =
                scan.bounds().iter().map(|(from, to)| input[*from as usize..*to as usize].to_vec()).collect();
            prop_assert_eq!(got, args);
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = RequestScan::default();
            for end in 0..=input.len() {
                if !matches!(scan.scan(&input[..end], &Limits::REDIS), Ok(Scanned::Incomplete)) {
                    break;
                }
            }
        }
    }
}
