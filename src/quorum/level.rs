//! Consistency levels: what a request wants of its replicas.
//!
//! N replicas, W and R the pool's quorums, A = [`Quorums::agree`]:
//!
//! | level | a write is answered when | a read is answered when | what that promises |
//! |---|---|---|---|
//! | `linearizable` (or `quorum`) | W of N took it | A of N agree on the version | Every history of a key is linearizable: a read sees every write that was answered before it began, and what one read saw the next one sees. Served while a majority answers. |
//! | `all` | all N took it | A of N agree on the version | The same, and an answered write outlives the loss of all stores of its key but one. One dead store of a key stops its writes. |
//! | `one` | W of N took it | one of N answers | Writes as `linearizable`, and none is lost. A read is as fast as one store, and may be old. |
//! | `eventual` | the first of N took it | one of N answers | For caches. The other replicas follow in the background; until then reads may be old or go back in time, and a store that is lost at once takes the write along. |
//!
//! # Invariants
//! - A read of a lower level weakens nobody else's promise. A write of `eventual` is its own exception: other levels promise
//!   nothing about it until a quorum holds it.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::Quorums;

/// What a request wants of its replicas; the table of the module says what each promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = with_other_words)]
pub enum Level {
    /// A write is answered when `write_quorum` replicas took it, a read when a quorum agrees on the version. Every history
    /// of a key is linearizable: nothing that was answered is lost or read in an older state.
    #[default]
    #[serde(alias = "quorum")]
    Linearizable,
    /// A write is answered by the first replica that took it and follows to the others, a read by one replica. A read may
    /// be old, and a write may be lost with its store: for caches.
    Eventual,
    /// A write is answered when every replica took it, so one dead store stops the writes of its keys. Reads are as with
    /// `linearizable`.
    All,
    /// Writes are as with `linearizable`; a read is answered by one replica and may be old.
    One,
}

/// A word that names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no level `{0}`; there are linearizable (or quorum), eventual, all and one")]
pub struct UnknownLevel(pub String);

impl Level {
    /// Every level, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Linearizable, Self::Eventual, Self::All, Self::One];

    /// Its name in a configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Eventual => "eventual",
            Self::All => "all",
            Self::One => "one",
        }
    }

    /// How many replicas must have taken a write before it is answered.
    pub fn write_acks(self, quorums: Quorums) -> u8 {
        match self {
            Self::Linearizable | Self::One => quorums.write,
            Self::All => quorums.replicas,
            Self::Eventual => 1,
        }
    }

    /// How many replicas must agree on the version before a read is answered.
    pub fn read_acks(self, quorums: Quorums) -> u8 {
        match self {
            Self::Linearizable | Self::All => quorums.agree(),
            Self::Eventual | Self::One => 1,
        }
    }

    /// Whether what it promises rests on [`Quorums::check`].
    pub fn needs_quorums(self) -> bool {
        match self {
            Self::Linearizable | Self::All | Self::One => true,
            Self::Eventual => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Capital letters are as good as small ones: the word may come from a client's command.
    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        let lower = word.to_ascii_lowercase();
        if lower == OTHER_WORD {
            return Ok(Self::Linearizable);
        }
        Self::ALL.into_iter().find(|level| level.name() == lower).ok_or_else(|| UnknownLevel(word.to_owned()))
    }
}

/// What other stores call [`Level::Linearizable`].
const OTHER_WORD: &str = "quorum";

/// The derive of the schema does not know serde's `alias`.
fn with_other_words(schema: &mut Schema) {
    if let Some(choices) = schema.get_mut("oneOf").and_then(serde_json::Value::as_array_mut) {
        let word = serde_json::json!({
            "type": "string",
            "const": OTHER_WORD,
            "description": "Another word for `linearizable`.",
        });
        choices.insert(choices.len().min(1), word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, writes: u8, reads: u8) {
        let quorums = Quorums { replicas: 5, write: 4, read: 3 };
        let level: Level = word.parse().unwrap();
        assert_eq!((level.write_acks(quorums), level.read_acks(quorums)), (writes, reads), "{word}");
        // A file and a client write the same words.
        let lower = word.to_lowercase();
        assert_eq!(serde_json::from_value::<Level>(lower.into()).unwrap(), level);
        assert_eq!(serde_json::to_value(level).unwrap(), level.name());
    }

    #[test]
    fn what_levels_wait_for() {
        check("linearizable", 4, 3);
        check("quorum", 4, 3);
        check("QUORUM", 4, 3);
        check("all", 5, 3);
        check("one", 4, 1);
        check("eventual", 1, 1);
        assert_eq!("two".parse::<Level>(), Err(UnknownLevel("two".to_owned())));
    }

    #[test]
    fn every_level_is_named_in_the_schema() {
        let schema = schemars::schema_for!(Level).to_value();
        let words: Vec<&str> =
            schema["oneOf"].as_array().unwrap().iter().map(|c| c["const"].as_str().unwrap()).collect();
        let mut want: Vec<&str> = Level::ALL.iter().map(|level| level.name()).collect();
        want.insert(1, OTHER_WORD);
        assert_eq!(words, want);
    }
}
