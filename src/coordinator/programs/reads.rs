//! Which programs say that they write nothing: by the flag `no-writes`, which the stores see to.

use std::rc::Rc;
use std::sync::Arc;

use super::functions::{Function, function};
use super::sources::Digest;
use crate::backend::redis::Node;
use crate::command::{Args, Handling, Program, Row};
use crate::coordinator::Coordinator;

impl Coordinator {
    /// Whether the text of a script is here, and says so.
    pub fn script_reads(&self, row: &Row, args: &Args<'_>) -> bool {
        let word = args.get(1).unwrap_or_default();
        match row.handling {
            Handling::Run(Program::Text) => says_it_reads(word),
            Handling::Run(Program::Digest) => {
                let text: Option<Arc<[u8]>> = Digest::parse(word).and_then(|digest| self.programs.sources.find(digest));
                text.is_some_and(|text| says_it_reads(&text))
            }
            _ => false,
        }
    }

    /// Whether one of these nodes says so of a function.
    pub async fn function_reads(nodes: Vec<Rc<Node>>, origin: usize, name: &[u8]) -> bool {
        matches!(function(&nodes.into(), origin, name).await, Some(Function::Reads))
    }
}

/// Reads the first line of a script: `#!lua flags=no-writes,allow-stale`.
fn says_it_reads(text: &[u8]) -> bool {
    let Some(line) = text.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next()) else {
        return false;
    };
    line.split(u8::is_ascii_whitespace)
        .filter_map(|part| part.strip_prefix(b"flags="))
        .flat_map(|flags| flags.split(|byte| *byte == b','))
        .any(|flag| flag.eq_ignore_ascii_case(b"no-writes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: bool) {
        assert_eq!(says_it_reads(text.as_bytes()), want, "{text}");
    }

    #[test]
    fn the_first_line_says_so() {
        check("#!lua flags=no-writes\nreturn 1", true);
        check("#!lua flags=allow-stale,no-writes\r\nreturn 1", true);
        check("#!lua\nreturn 1 -- flags=no-writes", false);
        check("#!lua flags=\nreturn 1", false);
        check("return 1 -- #!lua flags=no-writes", false);
        check("", false);
    }
}
