//! Where the keys of each verb stand, as a script in a store reads it: `version/scripts/exec/client.lua` looks there for
//! what a client's script does.
//!
//! A line for each verb: its name, a space, and what follows for each specification of its keys: `r` or `w` (read or
//! written), then `R` first, last, step (a range), `C` first, place of the count, first key, step (a count),
//! `W` from, word (behind each occurrence of a word), `S` (streams) or `P` (patterns that must not name keys). Places
//! count from 0, the verb. A verb without keys that may be used has a `!` in place of the space.

use std::fmt::Write as _;
use std::sync::LazyLock;

use super::writes;
use crate::command::{Begin, Find, Flag, Row, all};

/// Verbs without keys that say nothing of one store.
const WITHOUT_KEYS: [&str; 5] = ["echo", "ping", "publish", "spublish", "time"];

/// The lines, with a line end before each.
pub fn script_keys() -> &'static str {
    static LINES: LazyLock<String> = LazyLock::new(|| {
        let mut out = String::new();
        for row in all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            push(row, &mut out);
        }
        for verb in WITHOUT_KEYS {
            out.extend(["\n", verb, "!"]);
        }
        out.push('\n');
        out
    });
    &LINES
}

fn push(row: &Row, out: &mut String) {
    let specs = row.keys.iter().filter(|spec| !spec.flags.contains(&"not_key"));
    let mut rules = String::new();
    for spec in specs {
        let mode = if writes(row, spec.flags) { 'w' } else { 'r' };
        let _infallible = match (spec.begin, spec.find) {
            (Begin::Index(first), Find::Range { last, step, .. }) => write!(rules, " {mode}R{first},{last},{step}"),
            (Begin::Index(from), Find::KeyCount { at, first, step }) => {
                write!(rules, " {mode}C{from},{at},{first},{step}")
            }
            (Begin::Keyword { word: "STREAMS", .. }, _) => write!(rules, " {mode}S"),
            (Begin::Keyword { word, from }, _) if from > 0 => {
                write!(rules, " {mode}W{from},{}", word.to_ascii_lowercase())
            }
            // `SORT`, whose patterns are undescribed, as is where it stores.
            (Begin::Unknown, _) if row.name == "sort" && spec.flags.contains(&"update") => write!(rules, " wW2,store"),
            (Begin::Unknown, _) if row.name.starts_with("sort") => write!(rules, " rP"),
            // It cannot be told: as if there were no such verb.
            _ => return,
        };
    }
    if !rules.is_empty() {
        out.extend(["\n", row.name, &rules]);
    } else if row.flags.contains(Flag::Noscript) {
        // The stores refuse it there.
        out.extend(["\n", row.name, "!"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(verb: &str, want: Option<&str>) {
        let found = script_keys().lines().find_map(|line| line.strip_prefix(verb)?.strip_prefix(' '));
        assert_eq!(found, want, "{verb}");
    }

    #[test]
    fn where_keys_stand() {
        check("get", Some("rR1,0,1"));
        check("set", Some("wR1,0,1"));
        check("mset", Some("wR1,-1,2"));
        check("rename", Some("wR1,0,1 wR2,0,1"));
        check("zunionstore", Some("wR1,0,1 rC2,0,1,1"));
        check("lmpop", Some("wC1,0,1,1"));
        check("xread", Some("rS"));
        check("xreadgroup", Some("wS"));
        check("xgroup|create", Some("wR2,0,1"));
        check("georadius", Some("rR1,0,1 wW6,store wW6,storedist"));
        check("sort", Some("rR1,0,1 rP wW2,store"));
        check("sort_ro", Some("rR1,0,1 rP"));
        check("migrate", None);
        check("flushall", None);
        check("scan", None);
        assert!(script_keys().contains("\nsubscribe!"));
    }

    #[test]
    fn every_verb_with_keys_has_a_line() {
        for row in all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            let has_keys = row.keys.iter().any(|spec| !spec.flags.contains(&"not_key"));
            let has_line = script_keys().contains(&format!("\n{} ", row.name));
            assert!(has_line == has_keys || row.name == "migrate", "{}", row.name);
        }
    }
}
