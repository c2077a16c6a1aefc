//! How the vaults of a round may be applied side by side.
//!
//! Owns the rule that a job sees nothing of another job of its round. Must never start a thread: whoever runs the
//! state machine says where jobs run, and one after the other is always right.

/// Runs the jobs of a round.
pub trait Lanes: Sync {
    /// Calls `job` with every number below `count`, each once and in any order, and returns when all are done.
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync));
}

/// One job after the other, where the caller is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Lanes for Inline {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(job);
    }
}
