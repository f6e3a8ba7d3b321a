//! Is there an order of the operations that a single copy could have executed, and that respects what came before what?
//!
//! The search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): place any operation that
//! was called before the first unplaced answer, and never visit the same (placed operations, state) twice. An unknown
//! operation may be placed at any point after its call, and need not be placed at all; a failed one never is.

use std::collections::HashSet;
use std::hash::Hash;

use crate::history::{End, Operation};

/// What a single copy does.
pub(crate) trait Model {
    type State: Clone + Eq + Hash;
    type Op;
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

/// Most operations on one key: they are bits of a word.
const OPERATIONS_MAX: usize = 128;

/// Most pairs that are remembered.
const VISITED_MAX: usize = 200_000;

struct Search<'a, M: Model> {
    /// In the order of their calls, without those that do not matter.
    operations: Vec<&'a Operation<M::Op, M::Result>>,
    answered: u128,
    visited: HashSet<(u128, M::State)>,
    placed_max: u32,
}

/// Checks the operations on one key.
pub(crate) fn check<M: Model>(operations: &[Operation<M::Op, M::Result>]) -> Verdict {
    let mut left: Vec<_> = operations.iter().filter(|operation| !matches!(operation.end, End::Failed)).collect();
    left.sort_by_key(|operation| operation.call);
    assert!(left.len() <= OPERATIONS_MAX, "{} operations on one key", left.len());
    let bit = |(place, operation): (usize, &&Operation<M::Op, M::Result>)| match operation.end {
        End::Answered { .. } => 1_u128 << place,
        End::Unknown | End::Failed => 0,
    };
    let answered = left.iter().enumerate().map(bit).sum();
    let mut search = Search::<M> { operations: left, answered, visited: HashSet::new(), placed_max: 0 };
    match search.place(0, &M::start()) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violation { placed: search.placed_max },
        None => Verdict::Undecided,
    }
}

impl<M: Model> Search<'_, M> {
    /// Whether the rest can be placed after those in `done`. None: too much to look at.
    fn place(&mut self, done: u128, state: &M::State) -> Option<bool> {
        self.placed_max = self.placed_max.max((done & self.answered).count_ones());
        if done & self.answered == self.answered {
            return Some(true);
        }
        if !self.visited.insert((done, state.clone())) {
            return Some(false);
        }
        if self.visited.len() > VISITED_MAX {
            return None;
        }
        let (answered, open) = (self.answered, self.open(done));
        // Answered ones first: most unknown ones never took effect, and each that is placed early doubles the search.
        for known in [true, false] {
            for place in open.iter().copied().filter(|place| (answered >> place & 1 == 1) == known) {
                let operation = self.operations[place];
                let result = match &operation.end {
                    End::Answered { result, .. } => Some(result),
                    End::Unknown | End::Failed => None,
                };
                for next in M::step(state, &operation.op, result) {
                    // An unknown operation that changes nothing may as well not have happened.
                    if (known || next != *state) && self.place(done | 1 << place, &next)? {
                        return Some(true);
                    }
                }
            }
        }
        Some(false)
    }

    /// The operations that may come next: called before the first answer among those not placed.
    fn open(&self, done: u128) -> Vec<usize> {
        let undone = || self.operations.iter().enumerate().filter(move |(place, _)| done >> place & 1 == 0);
        let first = undone().filter_map(|(_, operation)| match operation.end {
            End::Answered { at, .. } => Some(at),
            End::Unknown | End::Failed => None,
        });
        let first = first.min().unwrap_or(u64::MAX);
        undone().filter(|(_, operation)| operation.call < first).map(|(place, _)| place).collect()
    }
}
