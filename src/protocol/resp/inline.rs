//! Inline requests: a line of words, for people with `nc` and for health checks.

/// The line has an opening quote without its end, or text right behind a closing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unbalanced quotes in request")]
pub struct Unbalanced;

/// Splits a line into its words as Redis does (`sdssplitargs`): blanks separate, `"…"` understands `\n \r \t \b \a`
/// and `\xNN`, `'…'` understands `\'` alone.
///
/// # Errors
/// [`Unbalanced`] quotes.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        // Redis works on C strings: a NUL ends the line.
        if matches!(rest, [] | [0, ..]) {
            return Ok(words);
        }
        let (word, tail) = word(rest)?;
        words.push(word);
        rest = tail;
    }
}

fn word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), Unbalanced> {
    let mut word = Vec::new();
    loop {
        match rest {
            [b'"', tail @ ..] => return quoted(tail, word),
            [b'\'', tail @ ..] => return single_quoted(tail, word),
            [] | [0, ..] => return Ok((word, rest)),
            [first, ..] if is_space(*first) => return Ok((word, rest)),
            [first, tail @ ..] => {
                word.push(*first);
                rest = tail;
            }
        }
    }
}

fn quoted(mut rest: &[u8], mut word: Vec<u8>) -> Result<(Vec<u8>, &[u8]), Unbalanced> {
    loop {
        match rest {
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) * 16 + hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = tail;
            }
            [b'"', tail @ ..] => return after_quote(tail, word),
            [] => return Err(Unbalanced),
            [first, tail @ ..] => {
                word.push(*first);
                rest = tail;
            }
        }
    }
}

fn single_quoted(mut rest: &[u8], mut word: Vec<u8>) -> Result<(Vec<u8>, &[u8]), Unbalanced> {
    loop {
        match rest {
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return after_quote(tail, word),
            [] => return Err(Unbalanced),
            [first, tail @ ..] => {
                word.push(*first);
                rest = tail;
            }
        }
    }
}

fn after_quote(rest: &[u8], word: Vec<u8>) -> Result<(Vec<u8>, &[u8]), Unbalanced> {
    match rest.first() {
        None | Some(0) => Ok((word, rest)),
        Some(next) if is_space(*next) => Ok((word, rest)),
        Some(_) => Err(Unbalanced),
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: &[&[u8]]) {
        assert_eq!(split_inline(line.as_bytes()).unwrap(), want, "{line}");
    }

    #[test]
    fn words_are_split_as_redis_splits_them() {
        check("", &[]);
        check("   ", &[]);
        check(" SET  k v ", &[b"SET", b"k", b"v"]);
        check(r#"SET k "a b""#, &[b"SET", b"k", b"a b"]);
        check(r#""\x41\n\q""#, &[b"A\nq"]);
        check(r"'it\'s' ok", &[b"it's", b"ok"]);
        check(r#"a"b""#, &[b"ab"]);
        check(r#""""#, &[b""]);
        assert_eq!(split_inline(b"\"open"), Err(Unbalanced));
        assert_eq!(split_inline(b"\"a\"b"), Err(Unbalanced));
        assert_eq!(split_inline(b"'open"), Err(Unbalanced));
    }
}
