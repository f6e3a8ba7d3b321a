//! The servers' glob patterns, as `COMMAND LIST FILTERBY PATTERN`, `CONFIG GET` and `SCAN MATCH` take them.

/// Whether the text matches the servers' glob: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a literal, in any case. Goes
/// back to the last `*` only, so its work is bounded by the product of the lengths.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    matches(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// The same where capital letters are others than small ones, as in names of keys.
pub fn glob_exact(pattern: &[u8], text: &[u8]) -> bool {
    matches(pattern, text, |byte| byte)
}

fn matches(pattern: &[u8], text: &[u8], fold: fn(u8) -> u8) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        if let Some(((), rest)) = text.split_first().and_then(|(byte, rest)| {
            pattern = glob_one(pattern, *byte, fold)?;
            Some(((), rest))
        }) {
            text = rest;
            continue;
        }
        if pattern.is_empty() && text.is_empty() {
            return true;
        }
        let Some((after_star, [_, shorter @ ..])) = retry else { return false };
        retry = Some((after_star, shorter));
        (pattern, text) = (after_star, shorter);
    }
}

/// What is left of the pattern after it took one byte of the text; none where it does not take it.
fn glob_one(pattern: &[u8], byte: u8, fold: fn(u8) -> u8) -> Option<&[u8]> {
    let same = |literal: u8| fold(literal) == fold(byte);
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => {
            let (negated, mut class) = match class {
                [b'^', class @ ..] => (true, class),
                _ => (false, class),
            };
            let mut found = false;
            loop {
                class = match class {
                    [] => return (found != negated).then_some(class),
                    [b']', rest @ ..] => return (found != negated).then_some(rest),
                    [b'\\', literal, rest @ ..] => {
                        found |= same(*literal);
                        rest
                    }
                    [low, b'-', high, rest @ ..] => {
                        let range = fold(*low.min(high))..=fold(*low.max(high));
                        found |= range.contains(&fold(byte));
                        rest
                    }
                    [literal, rest @ ..] => {
                        found |= same(*literal);
                        rest
                    }
                };
            }
        }
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => same(*literal).then_some(rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_matches_as_the_servers_do() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c*e", "abcde", true),
            ("a*c*f", "abcde", false),
            ("a[b-d]E", "aCe", true),
            ("a[^b-d]e", "ace", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[a", "a", true),
            ("?", "", false),
            ("**a", "bba", true),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
        assert!(glob_exact(b"a[b-d]*\\?", b"ac?") && glob_exact(b"K*", b"Key"));
        assert!(!glob_exact(b"k*", b"Key") && !glob_exact(b"[a-c]", b"B") && !glob_exact(b"[^b]", b"b"));
    }
}
