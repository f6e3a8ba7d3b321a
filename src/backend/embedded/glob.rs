//! Redis's glob patterns, for KEYS and MATCH: `*`, `?`, `[a-z]`, `[^a]`, `\x`.

/// Whether `text` matches `pattern`. Linear in both, whatever the pattern: on a mismatch only the last `*` takes one
/// byte more, because an earlier one could not do better.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            last_star = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match (pattern.is_empty(), text.split_first()) {
            (true, None) => return true,
            (false, Some((&byte, tail))) => match_one(pattern, byte).map(|rest| (rest, tail)),
            _ => None,
        };
        if let Some((rest, tail)) = step {
            (pattern, text) = (rest, tail);
            continue;
        }
        let Some((rest, [_, tail @ ..])) = last_star else { return false };
        last_star = Some((rest, tail));
        (pattern, text) = (rest, tail);
    }
}

/// The pattern after its first element, if that matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => match_class(class, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut hit = false;
    loop {
        class = match class {
            [] => break,
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [b'\\', literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
            [from, b'-', to, rest @ ..] => {
                hit |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
        };
    }
    (hit != negated).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let check = |pattern: &str, text: &str, want: bool| {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        };
        check("*", "", true);
        check("a*c", "abbc", true);
        check("a*c", "abbd", false);
        check("h?llo", "hello", true);
        check("h[^e]llo", "hello", false);
        check("h[a-f]llo", "hello", true);
        check("h\\*llo", "h*llo", true);
        check("h\\*llo", "hello", false);
        check("*a*b*", "xxaxxbxx", true);
        check("", "a", false);
        check(&"*a".repeat(40), &"a".repeat(39), false);
    }
}
