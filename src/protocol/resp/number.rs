//! The length lines of RESP: `*3\r\n`, `$32\r\n`.

/// What a length line said, or why it said nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The number, and where the next byte after the line is.
    Number(i64, usize),
    /// The line is not complete yet.
    Incomplete,
    /// The line is complete, but is no number as Redis reads one: no leading zero, no plus sign, no space.
    NotANumber(usize),
}

/// Reads the number at `at`, up to its CRLF.
///
/// Redis looks for `\r` and takes whatever byte follows it as the end of the line (`processMultibulkBuffer`); so do we,
/// and say so in `irregular`, because such a frame is rewritten before a store sees it.
#[inline]
pub(super) fn length_line(buf: &[u8], at: usize, irregular: &mut bool) -> Line {
    let Some(rest) = buf.get(at..) else { return Line::Incomplete };
    match rest {
        [d @ b'0'..=b'9', b'\r', b'\n', ..] => Line::Number(i64::from(d - b'0'), at + 3),
        [t @ b'1'..=b'9', d @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Line::Number(i64::from(t - b'0') * 10 + i64::from(d - b'0'), at + 4)
        }
        _ => slow_length_line(rest, at, irregular),
    }
}

#[cold]
#[inline(never)]
fn slow_length_line(rest: &[u8], at: usize, irregular: &mut bool) -> Line {
    let Some(end) = memchr::memchr(b'\r', rest) else { return Line::Incomplete };
    let Some(last) = rest.get(end + 1) else { return Line::Incomplete };
    if *last != b'\n' {
        *irregular = true;
    }
    let next = at + end + 2;
    match rest.get(..end).and_then(strict_number) {
        Some(number) => Line::Number(number, next),
        None => Line::NotANumber(next),
    }
}

/// A number as Redis's `string2ll` takes it.
pub(super) fn strict_number(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Accumulated below zero, whose range is the larger one.
    let mut number = 0_i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// Appends a number in decimal.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut left = number;
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        // A remainder of ten fits a byte.
        *place = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// Appends a header line: the type byte, the count or length, CRLF.
pub fn write_header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    write_number(out, count as u64);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(digits: &str, want: Option<i64>) {
        assert_eq!(strict_number(digits.as_bytes()), want, "{digits:?}");
    }

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        check("0", Some(0));
        check("12", Some(12));
        check("-1", Some(-1));
        check("9223372036854775807", Some(i64::MAX));
        check("-9223372036854775808", Some(i64::MIN));
        check("9223372036854775808", None);
        check("01", None);
        check("+1", None);
        check("-0", None);
        check("", None);
        check("-", None);
        check("1a", None);
        check(" 1", None);
    }

    #[test]
    fn written_numbers_read_back() {
        for number in [0, 9, 10, 99, 100, 65_535, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
