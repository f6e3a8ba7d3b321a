//! What each replica knows of one key, for people who ask (`QUOIT VERSIONS`). Nothing is decided or repaired by it.

use super::round::Round;
use super::wire::{Cursor, write_probe};
use super::{Engine, Group};
use crate::backend::Backend;
use crate::protocol::resp::Version;
use crate::version::{Ballot, Record, write_record_key};

/// What one replica of a key said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersion {
    /// The name of its node.
    pub node: String,
    /// Whether its word counts.
    pub votes: bool,
    /// How it compares with the others.
    pub state: State,
    /// What its record says; the default where it has none or none could be read.
    pub record: Record,
    /// What went wrong, for people; empty if nothing did.
    pub trouble: String,
}

/// How one replica compares with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It holds the newest version that any of them holds.
    Equal,
    /// Another holds a newer one.
    Stale,
    /// Its fence is not the expected one: what it holds counts for nothing.
    Fenced,
    /// It did not answer, or not in a way that can be read.
    Unreachable,
}

impl State {
    /// The word that people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Stale => "stale",
            Self::Fenced => "fenced",
            Self::Unreachable => "unreachable",
        }
    }
}

impl<B: Backend> Engine<B> {
    /// Asks every replica of a key for its record; in ring order. Takes as long as the slowest, which the timeouts of the
    /// pool bound.
    ///
    /// # Cancel safety
    /// Dropped early it leaves nothing behind: late answers find nobody.
    pub async fn versions(&self, group: &Group<B>, key: &[u8]) -> Vec<KeyVersion> {
        let members = group.replicas_of(key).unwrap_or_default();
        let mut record = Vec::new();
        write_record_key(key, &mut record);
        let write = |_: usize, _, out: &mut Vec<u8>| write_probe(out, std::iter::once(record.as_slice()), None);
        let mut all: Vec<KeyVersion> = members
            .iter()
            .map(|member| KeyVersion {
                node: self.backend.name(&member.node).to_owned(),
                votes: member.votes(),
                state: State::Unreachable,
                record: Record::default(),
                trouble: String::new(),
            })
            .collect();
        let round = Round::new(self, &members, Version::Resp2, 0, &write);
        for at in 0..members.len() {
            round.ask(at);
        }
        while let Some((at, said)) = round.next().await {
            let (Some(version), Some(member)) = (all.get_mut(at), members.get(at)) else { continue };
            match said {
                Ok(reply) => version.take(&reply, member.fence().as_bytes()),
                Err(failure) => version.trouble = failure.cause.to_string(),
            }
        }
        compare(&mut all);
        all
    }
}

impl KeyVersion {
    /// Takes the answer to the question for record and fence.
    fn take(&mut self, reply: &[u8], fence: &[u8]) {
        let mut cursor = Cursor::new(reply);
        let parts = (|| {
            cursor.array().filter(|elements| *elements == 2)?;
            Some((cursor.bulk()?, cursor.bulk()?))
        })();
        let Some((record, found)) = parts else {
            let error = String::from_utf8_lossy(reply.strip_prefix(b"-").unwrap_or(reply));
            error.trim_end().clone_into(&mut self.trouble);
            return;
        };
        match Record::decode(record) {
            Ok(record) if !found.is_empty() && found == fence => {
                self.state = State::Equal;
                self.record = record;
            }
            Ok(record) => {
                self.state = State::Fenced;
                self.record = record;
                let why = if found.is_empty() { "it has no fence: it has lost its memory" } else { "another fence" };
                why.clone_into(&mut self.trouble);
            }
            Err(error) => self.trouble = error.to_string(),
        }
    }
}

/// Finds out who is stale.
fn compare(all: &mut [KeyVersion]) {
    let counted = |version: &&KeyVersion| version.state == State::Equal;
    let newest: Ballot = all.iter().filter(counted).map(|version| version.record.accepted).max().unwrap_or_default();
    for version in all {
        if version.state == State::Equal && version.record.accepted < newest {
            version.state = State::Stale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::resp::{write_bulk, write_header};

    fn version(reply: &[u8]) -> KeyVersion {
        let mut version = KeyVersion {
            node: "a".to_owned(),
            votes: true,
            state: State::Unreachable,
            record: Record::default(),
            trouble: String::new(),
        };
        version.take(reply, b"fence");
        version
    }

    fn reply(hlc: u64, fence: &[u8]) -> Vec<u8> {
        let (mut record, mut out) = (Vec::new(), Vec::new());
        if hlc > 0 {
            Record { accepted: Ballot { hlc, id: 1, seq: 0 }, ..Record::default() }.encode(&mut record);
        }
        write_header(&mut out, b'*', 2);
        write_bulk(&mut out, &record);
        write_bulk(&mut out, fence);
        out
    }

    #[test]
    fn who_is_stale() {
        let mut all = [
            version(&reply(2, b"fence")),
            version(&reply(1, b"fence")),
            version(&reply(0, b"fence")),
            version(&reply(3, b"other")),
            version(&reply(3, b"")),
            version(b"-LOADING Redis is loading the dataset in memory\r\n"),
        ];
        compare(&mut all);
        let states: Vec<&str> = all.iter().map(|version| version.state.name()).collect();
        assert_eq!(states, ["equal", "stale", "stale", "fenced", "fenced", "unreachable"]);
        assert_eq!(all[5].trouble, "LOADING Redis is loading the dataset in memory");
        let mut none = [version(&reply(0, b"fence")), version(&reply(0, b"fence"))];
        compare(&mut none);
        assert!(none.iter().all(|version| version.state == State::Equal));
    }
}
