//! From a list of actions that breaks an invariant to a short one that still does.
//!
//! Owns the search. Must never judge: a list counts only if a run of it breaks the same invariant.

use crate::actions::{Act, Action};
use crate::run::{Outcome, run, with_end};
use crate::world::Options;

/// Runs that a search may take by default.
pub const RUNS_MAX: usize = 400;

/// The shortest list found, what its run came to, and how many runs it took to find.
pub struct Shrunk {
    /// The actions.
    pub actions: Vec<Action>,
    /// The outcome of a run of them.
    pub outcome: Outcome,
    /// Runs.
    pub runs: usize,
}

/// Leaves out as many actions as possible, in at most `runs_max` runs. `failed` is the outcome to begin with.
pub fn shrink(options: &Options, failed: Outcome, runs_max: usize) -> Shrunk {
    let mut best = Shrunk { actions: until_break(&failed), outcome: failed, runs: 0 };
    let mut size = best.actions.len().div_ceil(2).max(1);
    loop {
        let before = best.actions.len();
        let mut from = 0;
        while from < best.actions.len() && best.runs < runs_max {
            let to = (from + size).min(best.actions.len());
            if !try_without(options, &mut best, from..to) {
                from = to;
            }
        }
        let is_shorter = best.actions.len() < before;
        if best.runs >= runs_max || (size == 1 && !is_shorter) {
            return best;
        }
        size = if size == 1 { 1 } else { size.div_ceil(2) };
    }
}

/// Tries the list without a range of it, and keeps what is left if it breaks the same invariant.
fn try_without(options: &Options, best: &mut Shrunk, range: std::ops::Range<usize>) -> bool {
    let is_fixed = |action: &Action| action.act == Act::Heal;
    let (before, after) = (&best.actions[..range.start], &best.actions[range.end..]);
    let kept = best.actions[range.clone()].iter().filter(|action| is_fixed(action));
    let actions: Vec<Action> = before.iter().chain(kept).chain(after).cloned().collect();
    if actions.len() == best.actions.len() {
        return false;
    }
    best.runs += 1;
    let outcome = run(options, Some(&actions));
    let name = |outcome: &Outcome| outcome.violation.as_ref().map(|one| one.invariant);
    if name(&outcome) != name(&best.outcome) {
        return false;
    }
    best.actions = until_break(&outcome);
    best.outcome = outcome;
    true
}

/// The actions of a run that broke an invariant: those after the break never happened.
fn until_break(outcome: &Outcome) -> Vec<Action> {
    let at_us = outcome.violation.as_ref().map_or(0, |one| one.at_us);
    with_end(outcome.actions.clone(), at_us)
}
