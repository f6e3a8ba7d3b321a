//! What clients saw: one entry an operation, from its call to its end. The checker reads nothing else.

use std::fmt::Debug;

/// How an operation ended, as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End<R> {
    /// It took effect between its call and `at`, with this result.
    Answered { at: u64, result: R },
    /// It may take effect at any later time, or never.
    Unknown,
    /// It never took effect and never will.
    Failed,
}

/// One operation on one key.
#[derive(Debug, Clone)]
pub(crate) struct Operation<O, R> {
    pub(crate) proxy: usize,
    pub(crate) key: usize,
    pub(crate) call: u64,
    pub(crate) op: O,
    pub(crate) end: End<R>,
}

/// Names an operation from its call to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call(usize);

/// The operations of one run. Its times are a count of calls and ends: two of them are never equal, and one that is
/// smaller did come first, which microseconds of a simulation do not say.
#[derive(Debug, Clone)]
pub(crate) struct History<O, R> {
    operations: Vec<Operation<O, R>>,
    time: u64,
}

impl<O: Clone + Debug, R: Clone + Debug> History<O, R> {
    pub(crate) fn new() -> Self {
        Self { operations: Vec::new(), time: 0 }
    }

    /// An operation begins. Until it is told otherwise its end is unknown.
    pub(crate) fn call(&mut self, proxy: usize, key: usize, op: O) -> Call {
        self.time += 1;
        self.operations.push(Operation { proxy, key, call: self.time, op, end: End::Unknown });
        Call(self.operations.len() - 1)
    }

    pub(crate) fn answer(&mut self, call: Call, result: R) {
        self.time += 1;
        self.operations[call.0].end = End::Answered { at: self.time, result };
    }

    pub(crate) fn fail(&mut self, call: Call) {
        self.operations[call.0].end = End::Failed;
    }

    pub(crate) fn operations(&self) -> &[Operation<O, R>] {
        &self.operations
    }

    /// The operations on one key: linearizability of each key is that of all (Herlihy and Wing, locality).
    pub(crate) fn of_key(&self, key: usize) -> Vec<Operation<O, R>> {
        self.operations.iter().filter(|operation| operation.key == key).cloned().collect()
    }

    /// One operation a line, for people.
    pub(crate) fn shown(&self) -> String {
        let line = |operation: &Operation<O, R>| {
            let end = match &operation.end {
                End::Answered { at, result } => format!("{at:>4} {result:?}"),
                End::Unknown => "   ? unknown".to_owned(),
                End::Failed => "   - failed".to_owned(),
            };
            format!(
                "  key {} proxy {} {:>4}..{end:<24} {:?}\n",
                operation.key, operation.proxy, operation.call, operation.op
            )
        };
        self.operations.iter().map(line).collect()
    }
}
