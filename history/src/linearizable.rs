//! Is there one order of a key's operations that everyone's answers fit, and that no two operations contradict of
//! which one was over before the other began?
//!
//! Owns the check of registers, key by key: keys of a register are independent of each other, and no claim is made
//! across keys or vaults. A key is absent when its history begins. An operation with an unknown outcome may take
//! effect at any time after it began, once or never; a failed one is dropped. Operations that touch at one
//! nanosecond count as concurrent.
//!
//! The question is decided by search and may be hard for a key on which very much is open at once. The search is
//! bounded in steps, not in time, so that a verdict does not depend on the machine. A key whose bound is reached is
//! reported as not decided.

mod search;
mod window;

use std::collections::BTreeMap;
use std::fmt;

use ledger_types::VaultRef;
use thiserror::Error;

use crate::record::{Answer, Call, Operation, Outcome};
use search::Verdict;

/// Enough for some hundred operations of ten clients on a key; about 100 MiB if all of it is needed.
pub const CONFIGURATIONS_MAX_DEFAULT: usize = 1_000_000;

/// Why a key's history did not pass.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyFinding {
    /// No order fits the answers.
    #[error("{0}")]
    NotLinearizable(Window),
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
        /// Number of configurations that were looked at.
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
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { vault, key, operations, of } = self;
        let shown = operations.len();
        write!(f, "not linearizable: {key:?} of vault {vault}, {shown} of {of} operations:")?;
        operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

/// Checks each key of each vault. `configurations_max` bounds the search per key, its memory included;
/// [`CONFIGURATIONS_MAX_DEFAULT`] is a good choice.
pub fn linearizable(operations: &[Operation], configurations_max: usize) -> Vec<KeyFinding> {
    let mut keys: BTreeMap<(VaultRef, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry((operation.vault, &operation.key)).or_default().push(operation);
    }
    keys.into_iter()
        .flat_map(|((vault, key), operations)| {
            check_key(vault, key, &operations, configurations_max)
        })
        .collect()
}

fn check_key(
    vault: VaultRef,
    key: &str,
    operations: &[&Operation],
    configurations_max: usize,
) -> Vec<KeyFinding> {
    let malformed: Vec<KeyFinding> = operations
        .iter()
        .filter(|operation| !is_possible(operation))
        .map(|operation| KeyFinding::Malformed((*operation).clone()))
        .collect();
    if !malformed.is_empty() {
        return malformed;
    }
    let steps = search::steps(operations);
    let (verdict, configurations) = search::search(&steps, configurations_max);
    let finding = match verdict {
        Verdict::Legal => return Vec::new(),
        Verdict::NotDecided => KeyFinding::NotDecided {
            vault,
            key: key.to_owned(),
            operations: operations.len(),
            configurations,
        },
        Verdict::Illegal => KeyFinding::NotLinearizable(Window {
            vault,
            key: key.to_owned(),
            operations: window::shrink(&steps, operations, configurations_max),
            of: operations.len(),
        }),
    };
    vec![finding]
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
