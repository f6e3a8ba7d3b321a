//! What one copy of each key does, for all verbs that the clients of the engine send.

use std::collections::BTreeSet;

use crate::linearizable::Model;
use crate::sequential::{Answer, RedisKey, Value, Verb};

/// Keys that belong together, at most.
pub(crate) const KEYS_MAX: usize = 3;

/// A key that is not there, among the values of several.
const NIL: &[u8] = b"(nil)";

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A verb that other simulations send, too.
    Plain(Verb),
    GetDel,
    SetNx(Vec<u8>),
    /// An update that changes nothing: no key expires.
    Persist,
    /// `RENAME`: the key is gone, and its value is the other key's.
    Rename(usize),
    /// A transaction that appends to each key.
    AppendEach(Vec<u8>),
    /// A transaction that reads each key.
    LookEach,
    /// `MGET` of all keys.
    Mget,
}

impl Ask {
    /// The verb, as tables of it name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Plain(Verb::Get) => "GET",
            Self::Plain(Verb::Set(_)) => "SET",
            Self::Plain(Verb::Del) => "DEL",
            Self::Plain(Verb::Incr) => "INCR",
            Self::Plain(Verb::Append(_)) => "APPEND",
            Self::Plain(Verb::RPush(_)) => "RPUSH",
            Self::Plain(Verb::LRange) => "LRANGE",
            Self::Plain(Verb::SAdd(_)) => "SADD",
            Self::Plain(Verb::SMembers) => "SMEMBERS",
            Self::Plain(Verb::SPop) => "SPOP",
            Self::GetDel => "GETDEL",
            Self::SetNx(_) => "SET NX",
            Self::Persist => "PERSIST",
            Self::Rename(_) => "RENAME",
            Self::AppendEach(_) => "MULTI APPEND",
            Self::LookEach => "MULTI GET",
            Self::Mget => "MGET",
        }
    }

    /// Whether it is a transaction.
    pub(crate) fn is_transaction(&self) -> bool {
        matches!(self, Self::AppendEach(_) | Self::LookEach)
    }

    /// The words of the request, or of the part of a transaction that is about a key. `all` are the keys.
    pub(crate) fn words(&self, key: usize, all: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let key = all[key].as_slice();
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
        match self {
            Self::Plain(Verb::Get) | Self::LookEach => words(&[b"GET", key]),
            Self::Plain(Verb::Set(value)) => words(&[b"SET", key, value]),
            Self::Plain(Verb::Del) => words(&[b"DEL", key]),
            Self::Plain(Verb::Incr) => words(&[b"INCR", key]),
            Self::Plain(Verb::Append(tail)) | Self::AppendEach(tail) => words(&[b"APPEND", key, tail]),
            Self::Plain(Verb::RPush(item)) => words(&[b"RPUSH", key, item]),
            Self::Plain(Verb::LRange) => words(&[b"LRANGE", key, b"0", b"-1"]),
            Self::Plain(Verb::SAdd(member)) => words(&[b"SADD", key, member]),
            Self::Plain(Verb::SMembers) => words(&[b"SMEMBERS", key]),
            Self::Plain(Verb::SPop) => words(&[b"SPOP", key]),
            Self::GetDel => words(&[b"GETDEL", key]),
            Self::Persist => words(&[b"PERSIST", key]),
            Self::SetNx(value) => words(&[b"SET", key, value, b"NX"]),
            Self::Rename(other) => words(&[b"RENAME", key, &all[*other]]),
            Self::Mget => std::iter::once(b"MGET".to_vec()).chain(all.iter().cloned()).collect(),
        }
    }
}

/// One key of the engine.
pub(crate) struct OneKey;

impl Model for OneKey {
    type State = Value;
    type Op = Ask;
    type Result = Answer;

    fn start() -> Value {
        Value::None
    }

    fn step(state: &Value, ask: &Ask, result: Option<&Answer>) -> Vec<Value> {
        let (next, answer) = match (ask, state) {
            (Ask::Plain(verb), _) => return RedisKey::step(state, verb, result),
            (Ask::GetDel, Value::None) => (Value::None, Answer::Nil),
            (Ask::GetDel, Value::Text(text)) => (Value::None, Answer::Bytes(text.clone())),
            (Ask::SetNx(value), Value::None) => (Value::Text(value.clone()), Answer::Ok),
            (Ask::SetNx(_), _) => (state.clone(), Answer::Nil),
            (Ask::Persist, _) => (state.clone(), Answer::Number(0)),
            (Ask::GetDel, _) => (state.clone(), Answer::Refused),
            (Ask::Rename(_) | Ask::AppendEach(_) | Ask::LookEach | Ask::Mget, _) => {
                panic!("it is about several keys")
            }
        };
        if result.is_none_or(|seen| *seen == answer) { vec![next] } else { Vec::new() }
    }
}

/// All keys together, where some verbs have two.
pub(crate) struct AllKeys;

/// What all keys hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct World(Vec<Value>);

impl Model for AllKeys {
    type State = World;
    /// The key, and what is asked of it.
    type Op = (usize, Ask);
    type Result = Answer;

    fn start() -> World {
        World(vec![Value::None; KEYS_MAX])
    }

    fn step(state: &World, (key, ask): &(usize, Ask), result: Option<&Answer>) -> Vec<World> {
        let with = |value: Value| {
            let mut next = state.clone();
            next.0[*key] = value;
            next
        };
        let count = |answer: &Answer| if let Answer::Items(items) = answer { items.len() } else { 0 };
        let (next, answer) = match (ask, &state.0[*key]) {
            (Ask::Rename(_), Value::None) => (state.clone(), Answer::Refused),
            (Ask::Rename(other), value) => {
                let mut next = with(Value::None);
                next.0[*other] = value.clone();
                (next, Answer::Ok)
            }
            (Ask::AppendEach(tail), _) => {
                let mut next = state.clone();
                let mut lengths = Vec::new();
                for value in &mut next.0 {
                    let mut text = if let Value::Text(text) = value { text.clone() } else { Vec::new() };
                    text.extend_from_slice(tail);
                    lengths.push(text.len().to_string().into_bytes());
                    *value = Value::Text(text);
                }
                // Keys that the run does not have may hold anything.
                lengths.truncate(result.map_or(0, count));
                (next, Answer::Items(lengths))
            }
            (Ask::LookEach | Ask::Mget, _) => {
                let shown = |value: &Value| if let Value::Text(text) = value { text.clone() } else { NIL.to_vec() };
                let mut items: Vec<Vec<u8>> = state.0.iter().map(shown).collect();
                items.truncate(result.map_or(0, count));
                (state.clone(), Answer::Items(items))
            }
            (_, value) => return OneKey::step(value, ask, result).into_iter().map(with).collect(),
        };
        if result.is_none_or(|seen| *seen == answer) { vec![next] } else { Vec::new() }
    }
}

/// Reads a reply in RESP2; none of an error that is not of the model.
pub(crate) fn answer(reply: &[u8], ask: &Ask) -> Option<Answer> {
    let line = |bytes: &[u8]| {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        Some((String::from_utf8_lossy(&bytes[1..end]).into_owned(), end + 2))
    };
    let (text, after) = line(reply)?;
    Some(match reply[0] {
        b'+' if text == "OK" => Answer::Ok,
        b':' => Answer::Number(text.parse().ok()?),
        b'$' if text == "-1" => Answer::Nil,
        b'$' => Answer::Bytes(reply[after..reply.len() - 2].to_vec()),
        b'*' => {
            let (mut items, mut at) = (Vec::new(), after);
            while at < reply.len() {
                let (len, skip) = line(&reply[at..])?;
                let from = at + skip;
                if reply[at] == b':' || len == "-1" {
                    items.push(if reply[at] == b':' { len.into_bytes() } else { NIL.to_vec() });
                    at = from;
                    continue;
                }
                let to = from + len.parse::<usize>().ok()?;
                items.push(reply[from..to].to_vec());
                at = to + 2;
            }
            if *ask == Ask::Plain(Verb::SMembers) {
                items = items.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            }
            Answer::Items(items)
        }
        b'-' if ["WRONGTYPE", "ERR value is not an integer", "ERR no such key"]
            .iter()
            .any(|it| text.starts_with(it)) =>
        {
            Answer::Refused
        }
        _ => return None,
    })
}
