//! Is there one order of a key's operations that everyone's answers fit, and that no two operations contradict of
//! which one was over before the other began?
//!
//! Owns the check of registers, key by key: keys of a register are independent of each other, and no claim is made
//! across keys or vaults. A key is absent when its history begins. An operation with an unknown outcome may take
//! effect at any time after it began, once or never; a failed one is dropped. Operations that touch at one
//! nanosecond count as concurrent.
//!
//! The question is decided by search and may be hard for a key on which very much is open at once, and for one that is
//! wrong. All keys of a history share one bound, in configurations and not in time, so that a verdict does not depend
//! on the machine and a history that is wrong all over takes no longer than one that is wrong once. A key for which
//! nothing is left is reported as not decided.

mod budget;
mod search;
mod window;

use std::collections::BTreeMap;
use std::fmt;

use ledger_types::VaultRef;
use thiserror::Error;

use crate::record::{Answer, Call, Operation, Outcome};
use budget::Budget;
use search::{Step, Verdict};

/// Enough for some ten thousand operations of ten clients, some hundred of them on a key. All of it takes seconds.
pub const CONFIGURATIONS_MAX_DEFAULT: usize = 4_000_000;
/// Most windows that are looked for; other keys without an order are only named.
pub const WINDOWS_MAX: usize = 3;
/// Configurations that every key may have before any key gets more.
const FIRST_LOOK: usize = 1_000;
/// How many times as many a key that was not decided may have the next time.
const DEEPER: usize = 8;
/// Most configurations that one search may have, all of which it keeps; some 300 MiB.
const SEARCH_MAX: usize = 1_000_000;

/// Why a key's history did not pass.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyFinding {
    /// No order fits the answers.
    #[error("{0}")]
    NotLinearizable(Window),
    /// No order fits the answers, and which of them contradict each other was not looked for: [`WINDOWS_MAX`] other
    /// keys show that already.
    #[error(
        "not linearizable: {key:?} of vault {vault}, {operations} operations, not made smaller as other keys are"
    )]
    NotShrunk {
        /// The vault.
        vault: VaultRef,
        /// The key.
        key: String,
        /// Number of operations on the key.
        operations: usize,
    },
    /// The search was given up; the history may be good or bad.
    #[error(
        "not decided: {operations} operations on {key:?} of vault {vault}, {configurations} configurations tried"
    )]
    NotDecided {
        /// The vault.
        vault: VaultRef,
        /// The key.
        key: String,
        /// Number of operations on the key.
        operations: usize,
        /// Number of configurations that its longest search looked at; 0 if other keys took all there were.
        configurations: usize,
    },
    /// The record itself cannot be: a return before the call, or an answer that its call does not have.
    #[error("not a history: {0}")]
    Malformed(Operation),
}

/// The smallest part of a key's history that has no order, even if every other operation on the key may have
/// happened or not as it likes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The vault.
    pub vault: VaultRef,
    /// The key.
    pub key: String,
    /// The operations that contradict each other, in the order in which they began.
    pub operations: Vec<Operation>,
    /// Number of operations on the key.
    pub of: usize,
    /// The search for a smaller part was given up somewhere: fewer operations may say the same.
    pub is_cut_short: bool,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { vault, key, operations, of, is_cut_short } = self;
        let shown = operations.len();
        write!(f, "not linearizable: {key:?} of vault {vault}, {shown} of {of} operations")?;
        f.write_str(if *is_cut_short { " (fewer may say the same):" } else { ":" })?;
        operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

/// A key's history on its way to a verdict.
struct Key<'a> {
    vault: VaultRef,
    name: &'a str,
    operations: Vec<&'a Operation>,
    steps: Vec<Step>,
    /// What its longest search looked at.
    configurations: usize,
}

/// Checks each key of each vault. `configurations_max` bounds the search over all keys, and should be many times the
/// number of operations; [`CONFIGURATIONS_MAX_DEFAULT`] is a good choice. Half of it is for the
/// verdicts: easy keys come first, and what they leave goes to the hard ones. The other half is for the windows of the
/// first keys that have no order. Findings that say most come first.
pub fn linearizable(operations: &[Operation], configurations_max: usize) -> Vec<KeyFinding> {
    judge(operations, configurations_max).0
}

/// As [`linearizable`]; also tells how many configurations were looked at.
fn judge(operations: &[Operation], configurations_max: usize) -> (Vec<KeyFinding>, usize) {
    let mut by_key: BTreeMap<(VaultRef, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry((operation.vault, &operation.key)).or_default().push(operation);
    }
    let (mut findings, mut keys) = (Vec::new(), Vec::new());
    for ((vault, name), operations) in by_key {
        let wrong = operations.iter().filter(|operation| !is_possible(operation));
        let wrong: Vec<KeyFinding> =
            wrong.map(|operation| KeyFinding::Malformed((*operation).clone())).collect();
        if wrong.is_empty() {
            let steps = search::steps(&operations);
            keys.push(Key { vault, name, operations, steps, configurations: 0 });
        }
        findings.extend(wrong);
    }
    let for_windows = configurations_max / 2;
    let mut budget = Budget::new(configurations_max - for_windows);
    let (without_order, not_decided) = decide(keys, &mut budget);
    let mut spent = budget.spent();
    let (shown, named) = without_order.split_at(without_order.len().min(WINDOWS_MAX));
    let mut left = for_windows;
    for (number, key) in shown.iter().enumerate() {
        let mut budget = Budget::new(left / (shown.len() - number));
        findings.push(KeyFinding::NotLinearizable(window::find(key, &mut budget)));
        left = left.saturating_sub(budget.spent());
        spent += budget.spent();
    }
    findings.extend(named.iter().map(|key| KeyFinding::NotShrunk {
        vault: key.vault,
        key: key.name.to_owned(),
        operations: key.operations.len(),
    }));
    findings.extend(not_decided.iter().map(|key| KeyFinding::NotDecided {
        vault: key.vault,
        key: key.name.to_owned(),
        operations: key.operations.len(),
        configurations: key.configurations,
    }));
    (findings, spent)
}

/// Parts the keys that have no order, the easiest first, from those for which the budget did not suffice. Each key is
/// looked at shortly before any is looked at for long: who knows which ones are hard.
fn decide<'a>(mut keys: Vec<Key<'a>>, budget: &mut Budget) -> (Vec<Key<'a>>, Vec<Key<'a>>) {
    keys.retain(|key| !key.steps.is_empty());
    keys.sort_by_key(|key| key.steps.len());
    let mut without_order = Vec::new();
    let mut look = FIRST_LOOK;
    while !keys.is_empty() && budget.left() > 0 {
        for mut key in std::mem::take(&mut keys) {
            let (verdict, configurations) = budget.search(&key.steps, look);
            key.configurations = key.configurations.max(configurations);
            match verdict {
                Verdict::Legal => {}
                Verdict::Illegal => without_order.push(key),
                Verdict::NotDecided => keys.push(key),
            }
        }
        if look == SEARCH_MAX {
            break;
        }
        look = SEARCH_MAX.min(look * DEEPER);
    }
    (without_order, keys)
}

/// Whether the record of one operation makes sense by itself.
fn is_possible(operation: &Operation) -> bool {
    let Outcome::Done { returned_ns, answer } = &operation.outcome else { return true };
    let fits = match (&operation.call, answer) {
        (Call::Read, answer) => matches!(answer, Answer::Value(_)),
        (Call::Set(_) | Call::Delete, answer) => matches!(answer, Answer::Written { .. }),
        (Call::Create(_) | Call::Replace { .. }, answer) => !matches!(answer, Answer::Value(_)),
    };
    fits && *returned_ns >= operation.invoked_ns
}

#[cfg(test)]
mod tests;
