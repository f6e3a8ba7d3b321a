//! Which scripts and functions a store is believed to have, so that one that lacks them is told before it is asked.
//!
//! A store forgets scripts when it restarts, and then its connections end. What it forgets otherwise (`SCRIPT FLUSH`, or
//! too many scripts) it says when it is asked: whoever asks has an answer to that.

use std::cell::RefCell;
use std::collections::HashSet;

use super::Node;

/// As many are remembered; beyond that it begins anew.
const PROGRAMS_MAX: usize = 8192;

/// The numbers that stand for them.
#[derive(Default)]
pub(super) struct Programs(RefCell<HashSet<u64>>);

impl Programs {
    pub(super) fn clear(&self) {
        let mut known = self.0.borrow_mut();
        if known.capacity() > 0 {
            *known = HashSet::new();
        }
    }
}

impl Node {
    /// Whether the store is believed to have a program. Each has a number by which its user knows it; two of one number
    /// would do no harm.
    pub fn has_program(&self, program: u64) -> bool {
        self.programs.0.borrow().contains(&program)
    }

    /// The store has it, or will have it before it hears anything that is sent to it from now on.
    pub fn note_program(&self, program: u64) {
        let mut known = self.programs.0.borrow_mut();
        if known.len() >= PROGRAMS_MAX {
            known.clear();
        }
        known.insert(program);
    }

    /// It does not have it.
    pub fn forget_program(&self, program: u64) {
        self.programs.0.borrow_mut().remove(&program);
    }

    /// It may have none any more.
    pub fn forget_programs(&self) {
        self.programs.clear();
    }
}
