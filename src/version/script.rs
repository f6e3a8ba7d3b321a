//! The scripts that change a value and its record together, as stores load them. Their files say what each takes and
//! gives.

use std::fmt::Write as _;
use std::sync::LazyLock;

use sha1::{Digest as _, Sha1};

use super::ballot::BALLOT_BYTES;

/// The base of an update of a key of which nothing was accepted.
pub const NO_BASE: [u8; BALLOT_BYTES] = [0; BALLOT_BYTES];

/// The base of an update that takes any.
pub const ANY_BASE: &[u8] = b"*";

/// A script: the file `scripts/<name>.lua` beside this one, in some cases with others before it, or several in `scripts/exec/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Script {
    /// A write that needs no base.
    Blind,
    /// Such writes of several keys.
    BlindMany,
    /// The promise to accept nothing below a term.
    Prepare,
    /// A command on a known base, or none, which renews the ballot.
    Apply,
    /// Writes what [`Script::Fetch`] read from another replica.
    State,
    /// Reads the whole value and record of a key.
    Fetch,
    /// A command that runs on one replica only; gives what it wrote.
    Exec,
    /// The same with several commands.
    Multi,
    /// Takes the states of several keys that one command wrote, all or none, until it is decided whether they stay.
    Stage,
    /// Whether they stay.
    Decide,
}

/// A script as it is sent, and its name there.
#[derive(Debug)]
struct Loaded {
    body: String,
    sha: String,
}

impl Loaded {
    fn new(files: &[&str]) -> Self {
        let body = joined(files);
        let sha = digest(body.as_bytes());
        Self { body, sha }
    }
}

fn joined(files: &[&str]) -> String {
    files.iter().map(|file| without_comments(file)).collect::<Vec<_>>().join("\n")
}

fn digest(body: &[u8]) -> String {
    let mut sha = String::with_capacity(40);
    for byte in Sha1::digest(body) {
        write!(sha, "{byte:02x}").expect("writing to a string does not fail");
    }
    sha
}

/// What a store has to keep of a script: it remembers the text, comments and indentation too.
fn without_comments(file: &str) -> String {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}

macro_rules! loaded {
    ($($file:literal),+) => {{
        static LOADED: LazyLock<Loaded> = LazyLock::new(|| Loaded::new(&[$(include_str!($file)),+]));
        &LOADED
    }};
}

impl Script {
    /// All scripts.
    pub const ALL: [Self; 10] = [
        Self::Blind,
        Self::BlindMany,
        Self::Prepare,
        Self::Apply,
        Self::State,
        Self::Fetch,
        Self::Exec,
        Self::Multi,
        Self::Stage,
        Self::Decide,
    ];

    /// The text for SCRIPT LOAD and EVAL.
    pub fn body(self) -> &'static str {
        &self.loaded().body
    }

    /// The name for EVALSHA: forty hex digits.
    pub fn sha(self) -> &'static str {
        &self.loaded().sha
    }

    fn loaded(self) -> &'static Loaded {
        match self {
            Self::Blind => loaded!("scripts/succeed.lua", "scripts/blind.lua"),
            Self::BlindMany => loaded!("scripts/succeed.lua", "scripts/blind_many.lua"),
            Self::Prepare => loaded!("scripts/prepare.lua"),
            Self::Apply => loaded!("scripts/unlogged.lua", "scripts/apply.lua"),
            Self::State => loaded!("scripts/follow.lua", "scripts/state.lua"),
            Self::Stage => loaded!("scripts/follow.lua", "scripts/piece.lua", "scripts/stage.lua"),
            Self::Decide => loaded!("scripts/piece.lua", "scripts/decide.lua"),
            Self::Fetch => loaded!("scripts/fetch.lua"),
            Self::Exec => loaded!(
                "scripts/unlogged.lua",
                "scripts/piece.lua",
                "scripts/exec/check.lua",
                "scripts/exec/one.lua",
                "scripts/exec/states.lua",
                "scripts/exec/reply.lua"
            ),
            Self::Multi => loaded!(
                "scripts/unlogged.lua",
                "scripts/piece.lua",
                "scripts/exec/check.lua",
                "scripts/exec/several.lua",
                "scripts/exec/states.lua",
                "scripts/exec/reply.lua"
            ),
        }
    }
}

/// A script of a client, made so that it can run where keys have records: it is a function in a script that checks what it
/// builds on, watches which keys it uses, and gives the states of what it wrote (`scripts/exec/client.lua`).
#[derive(Debug)]
pub struct ClientScript {
    /// The text for EVAL.
    pub body: Vec<u8>,
    /// Its name for EVALSHA.
    pub sha: String,
    /// The client's own text.
    pub text: Vec<u8>,
    /// The name of that.
    pub name: String,
    /// How many lines that has.
    pub lines: usize,
}

impl ClientScript {
    /// Of the client's text; `places` says where the keys of verbs stand, and begins with a line end.
    pub fn new(text: &[u8], places: &str) -> Self {
        // On the line on which the text begins, so that its lines keep their numbers. What Redis 7 reads before Lua does
        // has to stay in front.
        let (head, rest) = text.split_at(shebang(text));
        let body =
            [head, BEFORE, b"local function q_run(...) ", rest, b"\nend\n", &after(places, Kind::Script)].concat();
        let lines = 1 + memchr::memchr_iter(b'\n', text).count();
        Self { sha: digest(&body), body, text: text.to_vec(), name: digest(text), lines }
    }

    /// Of the scripts of a transaction, in one text.
    pub fn of_transaction(texts: &[&[u8]], places: &str) -> Self {
        let mut body = [BEFORE, b"local q_parts={} "].concat();
        let mut start = 0;
        for (number, text) in texts.iter().enumerate() {
            let (head, rest) = text.split_at(shebang(text));
            let lines = 1 + memchr::memchr_iter(b'\n', text).count();
            let part = format!(
                "q_parts[{}]={{start={start},lines={lines},name='{}',run=function(...) {}",
                number + 1,
                digest(text),
                if head.is_empty() { "" } else { "\n" }
            );
            body.extend_from_slice(part.as_bytes());
            body.extend_from_slice(rest);
            body.extend_from_slice(b"\nend}\n");
            start += lines + 1;
        }
        body.extend_from_slice(&after(places, Kind::Transaction));
        Self { sha: digest(&body), body, text: Vec::new(), name: String::new(), lines: 0 }
    }
}

/// What stands before the text of a client: its own tables under the names that it knows.
const BEFORE: &[u8] = b"local q_store,q_own,q_args=redis,KEYS,ARGV local q_keys,q_argv,q_redis={},{},{} \
    local KEYS,ARGV,redis,server=q_keys,q_argv,q_redis,q_redis ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Script,
    Transaction,
}

/// What stands behind it.
fn after(places: &str, kind: Kind) -> Vec<u8> {
    static SCRIPT: LazyLock<String> = LazyLock::new(|| {
        joined(&[
            include_str!("scripts/unlogged.lua"),
            include_str!("scripts/piece.lua"),
            include_str!("scripts/exec/check.lua"),
            include_str!("scripts/exec/guard.lua"),
            include_str!("scripts/exec/client.lua"),
            include_str!("scripts/exec/states.lua"),
            include_str!("scripts/exec/client_reply.lua"),
        ])
    });
    static TRANSACTION: LazyLock<String> = LazyLock::new(|| {
        joined(&[
            include_str!("scripts/unlogged.lua"),
            include_str!("scripts/piece.lua"),
            include_str!("scripts/exec/check.lua"),
            include_str!("scripts/exec/guard.lua"),
            include_str!("scripts/exec/transaction.lua"),
            include_str!("scripts/exec/states.lua"),
            include_str!("scripts/exec/reply.lua"),
        ])
    });
    let rest: &str = match kind {
        Kind::Script => &SCRIPT,
        Kind::Transaction => &TRANSACTION,
    };
    ["local redis,KEYS,ARGV=q_store,q_own,q_args\nlocal q_places=[==[\n", places, "]==]\n", rest].concat().into_bytes()
}

/// How long the line is that Redis 7 reads before Lua does.
fn shebang(text: &[u8]) -> usize {
    if text.starts_with(b"#!") { memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_client_keeps_its_lines() {
        for (text, first) in
            [("return 1\nreturn 2", "local "), ("#!lua flags=no-writes\nreturn 1", "#!lua flags=no-writes\n")]
        {
            let script = ClientScript::new(text.as_bytes(), "\nget rR1,0,1\n");
            let body = String::from_utf8(script.body).unwrap();
            assert!(body.starts_with(first));
            assert_eq!(script.lines, 2);
            let last = body.lines().nth(1).unwrap();
            assert!(last.ends_with(text.lines().nth(1).unwrap()), "{last}");
            assert!(!body.contains("--"));
        }
    }

    #[test]
    fn comments_and_indentation_stay_here() {
        assert_eq!(
            without_comments("-- a\n\nif x then\n  -- b\n  return 1 -- c\nend\n"),
            "if x then\nreturn 1 -- c\nend"
        );
        for script in Script::ALL {
            assert!(script.body().starts_with("local "), "{script:?}");
            assert!(!script.body().contains("--"), "{script:?} has a comment behind code");
        }
    }

    #[test]
    fn names_are_digests() {
        assert_eq!(Loaded::new(&["return 1"]).sha, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    #[test]
    fn strings_are_never_compared_by_locale() {
        // `<` on strings is `strcoll` in Lua 5.1. All that is compared that way here are bytes, counts and times.
        for script in Script::ALL {
            for line in script.body().lines().filter(|line| line.contains(['<', '>'])) {
                assert!(!line.contains("ballot <") && !line.contains("term <") && !line.contains("base <"), "{line}");
            }
        }
    }
}
