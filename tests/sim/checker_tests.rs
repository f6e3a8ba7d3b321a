//! The checker on histories whose verdict is known, and against the definition itself.
//!
//! A history is drawn as one word an operation, `client:what@call-end`; an end of `?` is unknown, of `!` failed. An
//! operation takes effect somewhere between its two times.

use fastrand::Rng;

use crate::history::{End, History, Operation};
use crate::linearizable::{Model, Verdict, check};
use crate::sequential::{
    Answer, Counter, CounterOp, List, ListOp, ListResult, RedisKey, Register, RegisterOp, Set, SetOp, SetResult, Value,
    Verb,
};

/// One operation: when it was called, when it ended, what it was, what it said.
fn operation<O, R>(call: u64, op: O, end: End<R>) -> Operation<O, R> {
    Operation { proxy: 0, key: 0, call, op, end }
}

/// `w1@1-2`: written 1 from time 1 to time 2. `r1@3-4`: read 1. `w1@1-?`, `w1@1-!`.
fn register(drawing: &str) -> Vec<Operation<RegisterOp, u32>> {
    drawing
        .split_whitespace()
        .map(|word| {
            parse(word, |kind, value| match kind {
                'w' => (RegisterOp::Write(value), 0),
                _ => (RegisterOp::Read, value),
            })
        })
        .collect()
}

/// `i3@1-2`: INCR said 3. `r3@1-2`: GET said 3.
fn counter(drawing: &str) -> Vec<Operation<CounterOp, i64>> {
    drawing
        .split_whitespace()
        .map(|word| {
            parse(word, |kind, value| match kind {
                'i' => (CounterOp::Increment, i64::from(value)),
                _ => (CounterOp::Read, i64::from(value)),
            })
        })
        .collect()
}

fn parse<O, R>(word: &str, of: impl Fn(char, u32) -> (O, R)) -> Operation<O, R> {
    let (what, times) = word.split_once('@').expect("what@call-end");
    let (call, end) = times.split_once('-').expect("call-end");
    let mut letters = what.chars();
    let kind = letters.next().expect("a letter");
    let (op, result) = of(kind, letters.as_str().parse().expect("a number"));
    let end = match end {
        "?" => End::Unknown,
        "!" => End::Failed,
        at => End::Answered { at: at.parse().expect("a time"), result },
    };
    operation(call.parse().expect("a time"), op, end)
}

#[track_caller]
fn judge<M: Model>(history: &[Operation<M::Op, M::Result>], fine: bool) {
    match check::<M>(history) {
        Verdict::Linearizable => assert!(fine, "should be a violation"),
        Verdict::Violation { placed } => assert!(!fine, "should be linearizable, {placed} placed"),
        Verdict::Undecided => panic!("undecided"),
    }
}

#[track_caller]
fn good(drawing: &str) {
    judge::<Register>(&register(drawing), true);
}

#[track_caller]
fn bad(drawing: &str) {
    judge::<Register>(&register(drawing), false);
}

#[test]
fn registers() {
    good("");
    good("r0@1-2");
    good("w1@1-2 r1@3-4");
    bad("w1@1-2 r0@3-4"); // A stale read.
    bad("r1@1-2 w1@3-4"); // A read from the future.
    good("w1@1-4 r0@2-3"); // Concurrent: before it or after it.
    good("w1@1-4 r1@2-3");
    bad("w1@1-8 r1@2-3 r0@4-5"); // Inversion between two readers.
    good("w1@1-8 r0@2-3 r1@4-5");
    good("w1@1-8 r1@2-5 r0@3-6"); // Readers that overlap may differ.
    bad("w1@1-2 w2@3-4 r1@5-6"); // A lost write.
    good("w1@1-4 w2@2-3 r1@5-6");
    bad("w1@1-4 w2@2-3 r1@5-6 r2@7-8"); // It comes back.
    bad("w1@1-2 w2@3-8 r2@4-5 r1@6-7");
    good("w1@1-? r0@2-3 r0@4-5"); // An unknown write that never was,
    good("w1@1-? r0@2-3 r1@4-5"); // that appears late,
    good("w1@1-? w2@2-3 r2@4-5 r1@6-7"); // very late,
    bad("w1@1-? r1@2-3 r0@4-5"); // that goes again,
    bad("w1@1-? w2@2-3 r1@4-5 w3@6-7 r1@8-9"); // that appears twice,
    bad("r1@1-2 w1@3-?"); // that appears before it was called.
    good("w1@1-? w2@1-? r2@2-3 r1@4-5");
    bad("w1@1-! r1@2-3"); // A failed write that did happen.
    good("w1@1-! r0@2-3");
    bad("w1@1-2 r1@3-? r0@4-5"); // A read without an answer proves nothing.
    good("w1@1-2 r0@3-? r1@4-5");
}

#[test]
fn counters() {
    let (good, bad) =
        (|drawing| judge::<Counter>(&counter(drawing), true), |drawing| judge::<Counter>(&counter(drawing), false));
    good("i1@1-2 i2@3-4 r2@5-6");
    bad("i1@1-2 i1@3-4"); // A lost update.
    bad("i1@1-4 i1@2-3"); // Concurrent ones too.
    good("i2@1-4 i1@2-3");
    bad("i1@1-2 r2@3-4"); // Applied twice.
    bad("i2@1-2"); // One update counted as two.
    good("i0@1-? r1@2-3");
    good("i0@1-? r0@2-3 i1@4-5 r2@6-7");
    bad("i0@1-? r2@2-3"); // An unknown update that was applied twice.
    bad("i0@1-! i2@2-3"); // Certainly failed, and counted.
    good("i0@1-? i0@1-? i3@2-3");
    bad("i0@1-? i0@1-? i4@2-3");
}

fn at<R>(at: u64, result: R) -> End<R> {
    End::Answered { at, result }
}

#[test]
fn lists_and_sets() {
    let push = |call, item, end| operation(call, ListOp::Push(item), end);
    let read = |call, items: &[u32]| operation(call, ListOp::Read, at(call + 1, ListResult::Items(items.to_vec())));
    let pushed = |call, item, len| push(call, item, at(call + 1, ListResult::Len(len)));
    judge::<List>(&[pushed(1, 7, 1), pushed(3, 8, 2), read(5, &[7, 8])], true);
    judge::<List>(&[pushed(1, 7, 1), pushed(3, 8, 2), read(5, &[8, 7])], false);
    judge::<List>(&[pushed(1, 7, 1), pushed(3, 8, 2), read(5, &[7, 8, 8])], false);
    judge::<List>(&[push(1, 7, End::Unknown), pushed(3, 8, 1), read(5, &[8]), read(7, &[8, 7])], true);
    judge::<List>(&[push(1, 7, End::Unknown), pushed(3, 8, 1), read(5, &[8]), read(7, &[7, 8])], false);

    let add = |call, member, end| operation(call, SetOp::Add(member), end);
    let added = |call, member, is_new| add(call, member, at(call + 1, SetResult::Added(is_new)));
    let members = |call, members: &[u32]| {
        operation(call, SetOp::Read, at(call + 1, SetResult::Members(members.iter().copied().collect())))
    };
    judge::<Set>(&[added(1, 7, true), added(3, 7, false), members(5, &[7])], true);
    judge::<Set>(&[added(1, 7, true), added(3, 7, true)], false);
    judge::<Set>(&[add(1, 7, End::Unknown), added(3, 7, false)], true);
    judge::<Set>(&[add(1, 7, End::Unknown), members(3, &[]), members(5, &[7]), members(7, &[])], false);
}

#[test]
fn a_redis_key() {
    let text = |text: &str| text.as_bytes().to_vec();
    let done = |call, verb, result| operation(call, verb, End::Answered { at: call + 1, result });
    let check = |verbs: &[(Verb, Answer)], fine| {
        let history: Vec<_> =
            (1..).zip(verbs).map(|(place, (verb, answer))| done(place * 2, verb.clone(), answer.clone())).collect();
        judge::<RedisKey>(&history, fine);
    };
    let (set, add) =
        (|value| (Verb::Set(text(value)), Answer::Ok), |member| (Verb::SAdd(text(member)), Answer::Number(1)));
    check(&[set("5"), (Verb::Incr, Answer::Number(6)), (Verb::Get, Answer::Bytes(text("6")))], true);
    check(&[set("x"), (Verb::Incr, Answer::Refused), (Verb::Append(text("y")), Answer::Number(2))], true);
    check(&[set("x"), (Verb::Del, Answer::Number(1)), (Verb::Get, Answer::Nil)], true);
    check(&[set("x"), (Verb::Del, Answer::Number(0))], false);
    check(&[(Verb::RPush(text("a")), Answer::Number(1)), (Verb::LRange, Answer::Items(vec![text("a")]))], true);
    check(&[(Verb::RPush(text("a")), Answer::Number(1)), (Verb::Incr, Answer::Number(1))], false);
    check(
        &[add("a"), add("b"), (Verb::SPop, Answer::Bytes(text("a"))), (Verb::SMembers, Answer::Items(vec![text("b")]))],
        true,
    );
    check(&[add("a"), (Verb::SPop, Answer::Bytes(text("a"))), (Verb::SPop, Answer::Nil)], true);
    check(
        &[add("a"), add("b"), (Verb::SPop, Answer::Bytes(text("a"))), (Verb::SMembers, Answer::Items(vec![text("a")]))],
        false,
    );

    // An unknown SPOP took either member, and only one.
    let popped = operation(5, Verb::SPop, End::Unknown);
    let left = |left: &[&str]| {
        let left = left.iter().map(|member| text(member)).collect();
        [
            done(1, add("a").0, Answer::Number(1)),
            done(3, add("b").0, Answer::Number(1)),
            popped.clone(),
            done(7, Verb::SMembers, Answer::Items(left)),
        ]
    };
    judge::<RedisKey>(&left(&["a"]), true);
    judge::<RedisKey>(&left(&["b"]), true);
    judge::<RedisKey>(&left(&[]), false);
    assert_eq!(RedisKey::start(), Value::None);
}

#[test]
fn keys_are_judged_apart() {
    let mut history = History::new();
    let write = history.call(0, 1, RegisterOp::Write(4));
    let read = history.call(1, 0, RegisterOp::Read);
    history.answer(write, 0);
    history.answer(read, 0);
    let failed = history.call(1, 1, RegisterOp::Write(5));
    history.fail(failed);
    let late = history.call(0, 1, RegisterOp::Read);
    history.answer(late, 5);
    judge::<Register>(&history.of_key(0), true);
    judge::<Register>(&history.of_key(1), false);
    assert_eq!(history.shown().lines().count(), 4);
}

/// The definition: some order of the answered operations and any of the unknown ones, in which nothing comes before what
/// had ended when it was called, gives these results.
fn brute<M: Model>(left: &[&Operation<M::Op, M::Result>], state: &M::State) -> bool {
    let end = |operation: &Operation<M::Op, M::Result>| match operation.end {
        End::Answered { at, .. } => at,
        End::Unknown | End::Failed => u64::MAX,
    };
    if left.iter().all(|operation| end(operation) == u64::MAX) {
        return true;
    }
    left.iter().enumerate().any(|(place, operation)| {
        let result = match &operation.end {
            End::Answered { result, .. } => Some(result),
            End::Unknown => None,
            End::Failed => return false,
        };
        let first = left.iter().all(|other| end(other) > operation.call);
        let rest: Vec<_> =
            left.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| *other).collect();
        first && M::step(state, &operation.op, result).iter().any(|next| brute::<M>(&rest, next))
    })
}

/// A history of up to six operations that overlap, with results that may be right.
fn random_history<O, R>(random: &mut Rng, mut of: impl FnMut(&mut Rng) -> (O, R)) -> Vec<Operation<O, R>> {
    let count = random.usize(1..=6);
    let mut times: Vec<u64> = (1..=count as u64 * 2).collect();
    random.shuffle(&mut times);
    times
        .chunks(2)
        .map(|pair| {
            let (op, result) = of(random);
            let end = match random.u8(..8) {
                0 | 1 => End::Unknown,
                2 => End::Failed,
                _ => End::Answered { at: pair[0].max(pair[1]), result },
            };
            operation(pair[0].min(pair[1]), op, end)
        })
        .collect()
}

#[track_caller]
fn same_as_brute<M: Model>(history: &[Operation<M::Op, M::Result>]) -> bool {
    let right = brute::<M>(&history.iter().collect::<Vec<_>>(), &M::start());
    judge::<M>(history, right);
    right
}

/// Something to ask of a key of any type, and an answer that may be right.
fn any_verb(random: &mut Rng) -> (Verb, Answer) {
    let word = |random: &mut Rng| random.u8(b'1'..=b'2').to_string().into_bytes();
    let words = |random: &mut Rng| {
        let mut words: Vec<_> = (0..random.usize(..3)).map(|_| word(random)).collect();
        words.sort();
        words.dedup();
        Answer::Items(words)
    };
    let number = |random: &mut Rng| Answer::Number(random.i64(..3));
    match random.u8(..10) {
        0 => (Verb::Set(word(random)), Answer::Ok),
        1 => (Verb::Get, if random.bool() { Answer::Nil } else { Answer::Bytes(word(random)) }),
        2 => (Verb::Del, number(random)),
        3 => (Verb::Incr, if random.bool() { Answer::Refused } else { number(random) }),
        4 => (Verb::RPush(word(random)), number(random)),
        5 => (Verb::LRange, words(random)),
        6 | 7 => (Verb::SAdd(word(random)), number(random)),
        8 => (Verb::SPop, if random.bool() { Answer::Nil } else { Answer::Bytes(word(random)) }),
        _ => (Verb::SMembers, words(random)),
    }
}

/// The same of one type: more of it fits.
fn any_set_verb(random: &mut Rng) -> (Verb, Answer) {
    let word = |random: &mut Rng| random.u8(b'1'..=b'2').to_string().into_bytes();
    match random.u8(..8) {
        0 | 1 => (Verb::SAdd(word(random)), Answer::Number(random.i64(..2))),
        2 => (Verb::SPop, Answer::Bytes(word(random))),
        3 => (Verb::Del, Answer::Number(random.i64(..2))),
        4 => (Verb::SMembers, Answer::Items(vec![word(random)])),
        5 => (Verb::SMembers, Answer::Items(vec![b"49".to_vec(), b"50".to_vec()])),
        _ => (Verb::SMembers, Answer::Items(Vec::new())),
    }
}

#[test]
fn the_search_agrees_with_the_definition() {
    const HISTORIES: usize = 4_000;
    let mut random = Rng::with_seed(17);
    let mut fine = [0; 4];
    for _ in 0..HISTORIES {
        let register = random_history(&mut random, |random| {
            let value = random.u32(..3);
            if random.bool() { (RegisterOp::Write(value), 0) } else { (RegisterOp::Read, value) }
        });
        fine[0] += usize::from(same_as_brute::<Register>(&register));
        let counter = random_history(&mut random, |random| {
            if random.bool() { (CounterOp::Increment, random.i64(1..4)) } else { (CounterOp::Read, random.i64(..3)) }
        });
        fine[1] += usize::from(same_as_brute::<Counter>(&counter));
        fine[2] += usize::from(same_as_brute::<RedisKey>(&random_history(&mut random, any_verb)));
        fine[3] += usize::from(same_as_brute::<RedisKey>(&random_history(&mut random, any_set_verb)));
    }
    // Both verdicts have to be common, or nothing was compared.
    for fine in fine {
        assert!((HISTORIES / 10..HISTORIES * 9 / 10).contains(&fine), "{fine} of {HISTORIES} are linearizable");
    }
}
