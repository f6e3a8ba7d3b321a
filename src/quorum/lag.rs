//! Which replicas may lack something that others hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one process knows of the replicas of a pool: those that missed a write and have not caught up. Reads of one
/// replica ask others.
///
/// All workers share it. It knows nothing of what other processes wrote; quorums need no such knowledge.
#[derive(Debug)]
pub struct Lag {
    behind: Box<[AtomicBool]>,
    /// Whether any is. The path of requests looks here first.
    any: AtomicBool,
    /// Keys that wait for repair, or are being repaired.
    owed: Mutex<usize>,
}

impl Lag {
    /// Of so many members, none of which lacks anything.
    pub fn new(members: usize) -> Self {
        let behind = (0..members).map(|_| AtomicBool::new(false)).collect();
        Self { behind, any: AtomicBool::new(false), owed: Mutex::new(0) }
    }

    fn owed(&self) -> MutexGuard<'_, usize> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key is owed to members: it will be repaired, and [`Lag::settle`] follows.
    pub fn owe(&self, members: impl Iterator<Item = usize>) {
        let mut owed = self.owed();
        *owed += 1;
        self.mark(members);
    }

    /// Members lack a key that is owed already, or that nobody will bring them.
    pub fn misses(&self, members: impl Iterator<Item = usize>) {
        let _owed = self.owed();
        self.mark(members);
    }

    fn mark(&self, members: impl Iterator<Item = usize>) {
        for flag in members.filter_map(|member| self.behind.get(member)) {
            flag.store(true, Ordering::Relaxed);
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// A key is not owed any more. With the last one all have caught up.
    pub fn settle(&self) {
        let mut owed = self.owed();
        *owed = owed.saturating_sub(1);
        if *owed == 0 {
            self.any.store(false, Ordering::Relaxed);
            self.behind.iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
        }
    }

    /// Whether any member may lack something.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether this one may.
    pub fn is_behind(&self, member: usize) -> bool {
        self.behind.get(member).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_behind_until_nothing_is_owed() {
        let lag = Lag::new(3);
        assert!(!lag.any() && !lag.is_behind(0));
        lag.owe([1].into_iter());
        lag.owe([2].into_iter());
        lag.misses([1, 9].into_iter());
        assert!(lag.any() && !lag.is_behind(0) && lag.is_behind(1) && lag.is_behind(2));
        lag.settle();
        assert!(lag.is_behind(1) && lag.is_behind(2), "which of them has caught up is not known");
        lag.settle();
        assert!(!lag.any() && !lag.is_behind(1) && !lag.is_behind(2));
    }
}
