//! What one copy of a key does, for each type that histories are checked against.

use std::collections::BTreeSet;

use crate::linearizable::Model;

/// The next state if the result is the right one, or is not known.
fn fits<S, R: PartialEq>(next: S, right: &R, seen: Option<&R>) -> Vec<S> {
    if seen.is_none_or(|seen| seen == right) { vec![next] } else { Vec::new() }
}

/// A cell that is read and written whole.
pub(crate) struct Register;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RegisterOp {
    Read,
    Write(u32),
}

impl Model for Register {
    type State = u32;
    type Op = RegisterOp;
    /// What was read; 0 of a write.
    type Result = u32;

    fn start() -> u32 {
        0
    }

    fn step(state: &u32, op: &RegisterOp, result: Option<&u32>) -> Vec<u32> {
        match op {
            RegisterOp::Read => fits(*state, state, result),
            RegisterOp::Write(value) => fits(*value, &0, result),
        }
    }
}

/// INCR and GET.
pub(crate) struct Counter;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CounterOp {
    Increment,
    Read,
}

impl Model for Counter {
    type State = i64;
    type Op = CounterOp;
    type Result = i64;

    fn start() -> i64 {
        0
    }

    fn step(state: &i64, op: &CounterOp, result: Option<&i64>) -> Vec<i64> {
        let next = match op {
            CounterOp::Increment => state + 1,
            CounterOp::Read => *state,
        };
        fits(next, &next, result)
    }
}

/// RPUSH and LRANGE.
pub(crate) struct List;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListOp {
    Push(u32),
    Read,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListResult {
    Len(usize),
    Items(Vec<u32>),
}

impl Model for List {
    type State = Vec<u32>;
    type Op = ListOp;
    type Result = ListResult;

    fn start() -> Vec<u32> {
        Vec::new()
    }

    fn step(state: &Vec<u32>, op: &ListOp, result: Option<&ListResult>) -> Vec<Vec<u32>> {
        match op {
            ListOp::Push(item) => {
                let mut next = state.clone();
                next.push(*item);
                let len = next.len();
                fits(next, &ListResult::Len(len), result)
            }
            ListOp::Read => fits(state.clone(), &ListResult::Items(state.clone()), result),
        }
    }
}

/// SADD and SMEMBERS.
pub(crate) struct Set;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetOp {
    Add(u32),
    Read,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetResult {
    Added(bool),
    Members(BTreeSet<u32>),
}

impl Model for Set {
    type State = BTreeSet<u32>;
    type Op = SetOp;
    type Result = SetResult;

    fn start() -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn step(state: &BTreeSet<u32>, op: &SetOp, result: Option<&SetResult>) -> Vec<BTreeSet<u32>> {
        match op {
            SetOp::Add(member) => {
                let mut next = state.clone();
                let added = next.insert(*member);
                fits(next, &SetResult::Added(added), result)
            }
            SetOp::Read => fits(state.clone(), &SetResult::Members(state.clone()), result),
        }
    }
}

/// One key of a store and the verbs that the simulations send.
pub(crate) struct RedisKey;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) enum Value {
    #[default]
    None,
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Set(Vec<u8>),
    Del,
    Incr,
    Append(Vec<u8>),
    RPush(Vec<u8>),
    LRange,
    SAdd(Vec<u8>),
    SMembers,
    SPop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Nil,
    Number(i64),
    Bytes(Vec<u8>),
    Items(Vec<Vec<u8>>),
    /// `-WRONGTYPE`, or `-ERR value is not an integer`.
    Refused,
}

impl Model for RedisKey {
    type State = Value;
    type Op = Verb;
    type Result = Answer;

    fn start() -> Value {
        Value::None
    }

    fn step(state: &Value, verb: &Verb, result: Option<&Answer>) -> Vec<Value> {
        if let (Verb::SPop, Value::Set(members)) = (verb, state) {
            // Any member may go: each is a state of its own, unless the result says which.
            let popped = members.iter().filter(|member| match result {
                Some(Answer::Bytes(seen)) => seen == *member,
                Some(_) => false,
                None => true,
            });
            return popped.map(|member| without(members, member)).collect();
        }
        let (next, answer) = run(state, verb);
        fits(next, &answer, result)
    }
}

fn without(members: &BTreeSet<Vec<u8>>, member: &[u8]) -> Value {
    let left: BTreeSet<_> = members.iter().filter(|other| *other != member).cloned().collect();
    if left.is_empty() { Value::None } else { Value::Set(left) }
}

/// What a verb with one outcome does.
fn run(state: &Value, verb: &Verb) -> (Value, Answer) {
    let count = |len: usize| Answer::Number(i64::try_from(len).expect("a small number"));
    match (verb, state) {
        (Verb::Set(text), _) => (Value::Text(text.clone()), Answer::Ok),
        (Verb::Del, _) => (Value::None, Answer::Number(i64::from(*state != Value::None))),
        (Verb::Get | Verb::SPop, Value::None) => (Value::None, Answer::Nil),
        (Verb::Get, Value::Text(text)) => (state.clone(), Answer::Bytes(text.clone())),
        (Verb::Incr, Value::None) => (Value::Text(b"1".to_vec()), Answer::Number(1)),
        (Verb::Incr, Value::Text(text)) => {
            match std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()) {
                Some(number) => (Value::Text((number + 1).to_string().into_bytes()), Answer::Number(number + 1)),
                None => (state.clone(), Answer::Refused),
            }
        }
        (Verb::Append(tail), Value::None) => (Value::Text(tail.clone()), count(tail.len())),
        (Verb::Append(tail), Value::Text(text)) => {
            let whole = [text.as_slice(), tail].concat();
            let len = whole.len();
            (Value::Text(whole), count(len))
        }
        (Verb::RPush(item), Value::None) => (Value::List(vec![item.clone()]), count(1)),
        (Verb::RPush(item), Value::List(items)) => {
            let mut items = items.clone();
            items.push(item.clone());
            let len = items.len();
            (Value::List(items), count(len))
        }
        (Verb::LRange | Verb::SMembers, Value::None) => (Value::None, Answer::Items(Vec::new())),
        (Verb::LRange, Value::List(items)) => (state.clone(), Answer::Items(items.clone())),
        (Verb::SAdd(member), Value::None) => (Value::Set([member.clone()].into()), count(1)),
        (Verb::SAdd(member), Value::Set(members)) => {
            let mut members = members.clone();
            let added = members.insert(member.clone());
            (Value::Set(members), count(usize::from(added)))
        }
        (Verb::SMembers, Value::Set(members)) => (state.clone(), Answer::Items(members.iter().cloned().collect())),
        _ => (state.clone(), Answer::Refused),
    }
}
