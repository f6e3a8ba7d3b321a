//! What one copy of each key does, for all verbs that the clients of the engine send.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{End, Operation};
use crate::linearizable::Model;
use crate::sequential::{Answer, RedisKey, Value, Verb};

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
    /// The parts of a `RENAME` whose outcome is unknown: each key may have got its half, at different times, or not. First
    /// the value is taken as it is,
    Take(usize),
    /// then the key may go,
    Leave(usize),
    /// and the other key may get the value.
    Arrive(usize, usize),
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
            Self::Rename(_) | Self::Take(_) | Self::Leave(_) | Self::Arrive(..) => "RENAME",
        }
    }

    /// The words of the request.
    pub(crate) fn words(&self, key: &[u8], other: &[u8]) -> Vec<Vec<u8>> {
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
        match self {
            Self::Plain(Verb::Get) => words(&[b"GET", key]),
            Self::Plain(Verb::Set(value)) => words(&[b"SET", key, value]),
            Self::Plain(Verb::Del) => words(&[b"DEL", key]),
            Self::Plain(Verb::Incr) => words(&[b"INCR", key]),
            Self::Plain(Verb::Append(tail)) => words(&[b"APPEND", key, tail]),
            Self::Plain(Verb::RPush(item)) => words(&[b"RPUSH", key, item]),
            Self::Plain(Verb::LRange) => words(&[b"LRANGE", key, b"0", b"-1"]),
            Self::Plain(Verb::SAdd(member)) => words(&[b"SADD", key, member]),
            Self::Plain(Verb::SMembers) => words(&[b"SMEMBERS", key]),
            Self::Plain(Verb::SPop) => words(&[b"SPOP", key]),
            Self::GetDel => words(&[b"GETDEL", key]),
            Self::Persist => words(&[b"PERSIST", key]),
            Self::SetNx(value) => words(&[b"SET", key, value, b"NX"]),
            Self::Rename(_) => words(&[b"RENAME", key, other]),
            Self::Take(_) | Self::Leave(_) | Self::Arrive(..) => panic!("nobody asks for half a move"),
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
            (Ask::GetDel | Ask::Rename(_) | Ask::Take(_) | Ask::Leave(_) | Ask::Arrive(..), _) => {
                (state.clone(), Answer::Refused)
            }
        };
        if result.is_none_or(|seen| *seen == answer) { vec![next] } else { Vec::new() }
    }
}

/// All keys together, where some verbs have two.
pub(crate) struct AllKeys;

/// What all keys hold, and what moves that may be half done have taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct World {
    keys: [Value; 2],
    taken: BTreeMap<usize, Value>,
}

impl Model for AllKeys {
    type State = World;
    /// The key, and what is asked of it.
    type Op = (usize, Ask);
    type Result = Answer;

    fn start() -> World {
        World::default()
    }

    fn step(state: &World, (key, ask): &(usize, Ask), result: Option<&Answer>) -> Vec<World> {
        let with = |value: Value| {
            let mut next = state.clone();
            next.keys[*key] = value;
            next
        };
        let (next, answer) = match (ask, &state.keys[*key]) {
            (Ask::Rename(_), Value::None) => (state.clone(), Answer::Refused),
            (Ask::Rename(other), value) => {
                let mut next = with(Value::None);
                next.keys[*other] = value.clone();
                (next, Answer::Ok)
            }
            (Ask::Take(_), Value::None) => return Vec::new(),
            (Ask::Take(of), value) => {
                let mut next = state.clone();
                next.taken.insert(*of, value.clone());
                return vec![next];
            }
            (Ask::Leave(of), _) if state.taken.contains_key(of) => return vec![with(Value::None)],
            (Ask::Arrive(of, other), _) => {
                let Some(value) = state.taken.get(of) else { return Vec::new() };
                let mut next = state.clone();
                next.keys[*other] = value.clone();
                return vec![next];
            }
            (Ask::Leave(_), _) => return Vec::new(),
            (_, value) => return OneKey::step(value, ask, result).into_iter().map(with).collect(),
        };
        if result.is_none_or(|seen| *seen == answer) { vec![next] } else { Vec::new() }
    }
}

/// Moves of unknown outcome in their parts: what is promised is promised of each key.
pub(crate) fn in_parts(operations: &[Operation<(usize, Ask), Answer>]) -> Vec<Operation<(usize, Ask), Answer>> {
    let parts = |(nth, operation): (usize, &Operation<(usize, Ask), Answer>)| match (&operation.op, &operation.end) {
        ((key, Ask::Rename(other)), End::Unknown) => {
            let part = |ask| Operation { op: (*key, ask), ..operation.clone() };
            vec![part(Ask::Take(nth)), part(Ask::Leave(nth)), part(Ask::Arrive(nth, *other))]
        }
        _ => vec![operation.clone()],
    };
    operations.iter().enumerate().flat_map(parts).collect()
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
