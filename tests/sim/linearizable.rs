//! Is there an order of the operations that a single copy could have executed, and that respects what came before what?
//!
//! The search goes along the answers in their order: whoever has not executed the operation that is answered next
//! executes others and then it (Lowe, "Testing for linearizability", 2017, calls that just in time). An unknown operation
//! may be executed at any point after its call, and need not be at all; a failed one never is.
//!
//! Unknown operations are what makes a search long: they stay open to the end. So whoever has come farthest goes on, and
//! of those who has used the fewest of them; of two ways to one state only the one that has used fewer is kept; of several
//! that are alike the first is used first; and none is executed before one with which it could change places: it can wait.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::history::{End, Operation};

/// What a single copy does.
pub(crate) trait Model {
    type State: Clone + Eq + Hash;
    type Op: PartialEq;
    type Result;

    /// The state before the first operation.
    fn start() -> Self::State;

    /// The states after `op`: those that fit `result`, or all that are possible where the result is not known.
    fn step(state: &Self::State, op: &Self::Op, result: Option<&Self::Result>) -> Vec<Self::State>;
}

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// No order fits. The longest attempt placed so many of the answered operations.
    Violation {
        placed: u32,
    },
    /// Given up: more states than the budget allows.
    Undecided,
}

/// Most operations on one key: they are bits of a word. Longer histories are not judged.
const OPERATIONS_MAX: usize = 128;

/// Most steps of one search.
const VISITED_MAX: usize = 30_000;

/// A quick hash of small numbers: nobody sends them to do harm.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;
type QuickSet<K> = HashSet<K, BuildHasherDefault<Quick>>;

/// Names a state that was seen.
type StateId = u32;

/// A state of the copy, and which operations brought it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    /// So many answers have been explained.
    answers: usize,
    state: StateId,
    /// Operations that are done before their answer comes.
    done: u128,
    /// Unknown ones that are done.
    used: u128,
    /// The last one, if it is an unknown one, and the state before it.
    last: Option<(usize, StateId)>,
}

struct Search<'a, M: Model> {
    /// In the order of their calls, without those that do not matter.
    operations: Vec<&'a Operation<M::Op, M::Result>>,
    answered: u128,
    /// For each unknown one the first that is like it.
    kinds: Vec<usize>,
    states: Vec<M::State>,
    ids: QuickMap<M::State, StateId>,
    steps: QuickMap<(StateId, usize), Vec<StateId>>,
    /// The answers in their order: which operation, and which ones were called before.
    answers: Vec<(usize, u128)>,
    /// Where there is still something to look for.
    left: BinaryHeap<(usize, Reverse<u32>, usize, Place)>,
    seen: QuickSet<Place>,
    /// The fewest unknown operations with which a place right behind an answer was reached.
    ways: QuickMap<(usize, StateId, u128), Vec<u128>>,
}

/// Checks the operations on one key.
pub(crate) fn check<M: Model>(operations: &[Operation<M::Op, M::Result>]) -> Verdict {
    let mut left: Vec<_> = operations.iter().filter(|operation| !matches!(operation.end, End::Failed)).collect();
    left.sort_by_key(|operation| operation.call);
    if left.len() > OPERATIONS_MAX {
        return Verdict::Undecided;
    }
    Search::<M>::new(left).run()
}

/// The places that are set in a word.
fn bits(mut word: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (place < OPERATIONS_MAX).then_some(place)
    })
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: Vec<&'a Operation<M::Op, M::Result>>) -> Self {
        let is_answered = |operation: &Operation<M::Op, M::Result>| matches!(operation.end, End::Answered { .. });
        let bit = |(place, operation): (usize, &&_)| if is_answered(operation) { 1_u128 << place } else { 0 };
        let answered = operations.iter().enumerate().map(bit).sum();
        let kind = |place: usize| {
            let alike =
                |other: &usize| !is_answered(operations[*other]) && operations[*other].op == operations[place].op;
            (0..place).find(alike).unwrap_or(place)
        };
        let kinds = (0..operations.len()).map(kind).collect();
        let mut answers: Vec<(u64, usize)> = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            if let End::Answered { at, .. } = &operation.end {
                answers.push((*at, place));
            }
        }
        answers.sort_unstable();
        let mut over = 0_u128;
        let open = |(at, place): (u64, usize)| {
            let called = operations.iter().enumerate().filter(|(_, operation)| operation.call < at);
            let open = called.fold(0, |open, (place, _)| open | 1 << place) & !over;
            over |= 1 << place;
            (place, open)
        };
        let answers = answers.into_iter().map(open).collect();
        Self {
            operations,
            answered,
            kinds,
            states: Vec::new(),
            ids: QuickMap::default(),
            steps: QuickMap::default(),
            answers,
            left: BinaryHeap::new(),
            seen: QuickSet::default(),
            ways: QuickMap::default(),
        }
    }

    fn run(mut self) -> Verdict {
        let start = self.id(M::start());
        self.go_on(Place { answers: 0, state: start, done: 0, used: 0, last: None });
        let mut farthest = 0;
        while let Some((_, _, _, here)) = self.left.pop() {
            farthest = farthest.max(here.answers);
            let Some((_, open)) = self.answers.get(here.answers).copied() else { return Verdict::Linearizable };
            if self.seen.len() > VISITED_MAX {
                return Verdict::Undecided;
            }
            for next in bits(open & !here.done & !here.used) {
                if self.is_behind_its_like(next, open & !here.used) {
                    continue;
                }
                for state in self.step(here.state, next) {
                    if let Some(place) = self.placed(here, next, state) {
                        self.go_on(place);
                    }
                }
            }
        }
        Verdict::Violation { placed: u32::try_from(farthest).expect("a small number") }
    }

    /// Looks on from a place, unless there is a better way to it.
    fn go_on(&mut self, mut place: Place) {
        let before = place.answers;
        while let Some((answered, _)) = self.answers.get(place.answers)
            && place.done >> answered & 1 == 1
        {
            place.done &= !(1 << answered);
            place.answers += 1;
        }
        if place.answers > before {
            let ways = self.ways.entry((place.answers, place.state, place.done)).or_default();
            if ways.iter().any(|way| way & place.used == *way) {
                return;
            }
            ways.retain(|way| way & place.used != place.used);
            ways.push(place.used);
        }
        if self.seen.insert(place) {
            self.left.push((place.answers, Reverse(place.used.count_ones()), self.seen.len(), place));
        }
    }

    /// Whether an unknown operation that is like this one and came before it could be used as well.
    fn is_behind_its_like(&self, place: usize, free: u128) -> bool {
        let is_unknown = |place: usize| self.answered >> place & 1 == 0;
        let kind = self.kinds[place];
        is_unknown(place) && bits(free & ((1 << place) - 1)).any(|other| is_unknown(other) && self.kinds[other] == kind)
    }

    /// Where the copy is when it has executed one more; none if there is no need to look at that.
    fn placed(&mut self, here: Place, next: usize, state: StateId) -> Option<Place> {
        let bit = 1_u128 << next;
        let is_known = self.answered & bit != 0;
        // An unknown operation that changes nothing may as well not have happened.
        if !is_known && state == here.state {
            return None;
        }
        if let Some((unknown, before)) = here.last
            && (is_known || self.kinds[unknown] > self.kinds[next])
        {
            for between in self.step(before, next) {
                if self.step(between, unknown).contains(&state) {
                    return None; // In the other order it is the same.
                }
            }
        }
        Some(if is_known {
            Place { state, done: here.done | bit, last: None, ..here }
        } else {
            Place { state, used: here.used | bit, last: Some((next, here.state)), ..here }
        })
    }

    fn step(&mut self, state: StateId, place: usize) -> Vec<StateId> {
        if let Some(next) = self.steps.get(&(state, place)) {
            return next.clone();
        }
        let operation = self.operations[place];
        let result = match &operation.end {
            End::Answered { result, .. } => Some(result),
            End::Unknown | End::Failed => None,
        };
        let next = M::step(&self.states[state as usize], &operation.op, result);
        let next: Vec<StateId> = next.into_iter().map(|state| self.id(state)).collect();
        self.steps.insert((state, place), next.clone());
        next
    }

    fn id(&mut self, state: M::State) -> StateId {
        let new = StateId::try_from(self.states.len()).expect("fewer than the budget");
        let states = &mut self.states;
        *self.ids.entry(state).or_insert_with_key(|state| {
            states.push(state.clone());
            new
        })
    }
}
