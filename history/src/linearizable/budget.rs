//! How much may be searched.
//!
//! Owns the count: every search goes through a budget, so that nothing is searched beside it. Must never depend on
//! time.

use super::search::{Step, Verdict, search};

/// Configurations that may be looked at, and those that were.
#[derive(Debug)]
pub(super) struct Budget {
    configurations_max: usize,
    spent: usize,
}

impl Budget {
    pub(super) fn new(configurations_max: usize) -> Budget {
        Budget { configurations_max, spent: 0 }
    }

    /// What was looked at: more than allowed only by what the last search found at once when it ended.
    pub(super) fn spent(&self) -> usize {
        self.spent
    }

    /// What may still be looked at.
    pub(super) fn left(&self) -> usize {
        self.configurations_max.saturating_sub(self.spent)
    }

    /// Searches as long as that is allowed here, and at most so long. Tells how much was looked at, too.
    pub(super) fn search(&mut self, steps: &[Step], configurations_max: usize) -> (Verdict, usize) {
        if self.left() == 0 {
            return (Verdict::NotDecided, 0);
        }
        let (verdict, configurations) = search(steps, configurations_max.min(self.left()));
        self.spent += configurations;
        (verdict, configurations)
    }
}
