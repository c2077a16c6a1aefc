//! Every acknowledged write is in the chain exactly once, at the height that was acknowledged, and nothing is there
//! that nobody asked for.
//!
//! Owns the comparison of what clients were told with what the blocks hold. Must never judge the order of reads: that
//! is [`crate::linearizable()`]'s work.

use std::collections::BTreeMap;

use ledger_types::VaultRef;
use thiserror::Error;

use crate::record::{Answer, Call, Operation, Outcome};

/// One write in a vault's chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainWrite {
    /// Height of the block.
    pub height: u64,
    /// The entity's key.
    pub key: String,
    /// What the key was set to; none for a delete, whether or not there was something to delete.
    pub value: Option<Vec<u8>>,
}

/// Where what was told and what is in the chain differ.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ChainFinding {
    /// A write was acknowledged and is nowhere.
    #[error("lost write: {operation} is not in the chain")]
    Lost {
        /// The acknowledged operation.
        operation: Operation,
    },
    /// A write was acknowledged at another height than its block's.
    #[error("misplaced write: {operation} is in block {found}")]
    Misplaced {
        /// The acknowledged operation.
        operation: Operation,
        /// The height at which its value is.
        found: u64,
    },
    /// One write took effect more than once.
    #[error("duplicate write: {operation} is in blocks {heights:?}")]
    Duplicate {
        /// The operation.
        operation: Operation,
        /// All heights at which its value is, one for each time.
        heights: Vec<u64>,
    },
    /// A write was refused and took effect all the same.
    #[error("refused write: {operation} is in block {found}")]
    Refused {
        /// The operation, which failed or whose condition did not hold.
        operation: Operation,
        /// The height at which its value is.
        found: u64,
    },
    /// Nobody asked for what the chain holds.
    #[error("nobody's write: block {height} sets {key:?} to {}", shown(value.as_deref()))]
    Nobodys {
        /// Height of the block.
        height: u64,
        /// The entity's key.
        key: String,
        /// The value, or none if the block deletes the key.
        value: Option<Vec<u8>>,
    },
    /// A write that was asked for after another was acknowledged is not in a later block.
    #[error("time ran backwards: {earlier} was over before {later} began")]
    WentBack {
        /// The operation that was over first.
        earlier: Operation,
        /// The one that began afterwards.
        later: Operation,
    },
    /// Two operations write the same value, so neither can be told apart in the chain.
    #[error("not a history: {first} and {second} write the same value")]
    SameValue {
        /// One of them.
        first: Operation,
        /// The other.
        second: Operation,
    },
    /// The chain was not given in the order of its blocks.
    #[error("not a chain: block {height} comes after block {after}")]
    Unordered {
        /// Height of the block.
        height: u64,
        /// Height of the one before it.
        after: u64,
    },
}

/// Compares all operations on `vault` with all writes of its chain, given in order from its first block to a height
/// that no acknowledged operation exceeds. Operations on other vaults are skipped.
pub fn exactly_once(
    vault: VaultRef,
    operations: &[Operation],
    chain: &[ChainWrite],
) -> Vec<ChainFinding> {
    let operations: Vec<&Operation> = operations.iter().filter(|o| o.vault == vault).collect();
    let mut findings = unordered(chain);
    findings.extend(check_values(&operations, chain));
    findings.extend(check_deletes(&operations, chain));
    findings.extend(check_time(&operations));
    findings
}

fn unordered(chain: &[ChainWrite]) -> Vec<ChainFinding> {
    let falls = chain.windows(2).filter(|pair| pair[1].height < pair[0].height);
    falls
        .map(|pair| ChainFinding::Unordered { height: pair[1].height, after: pair[0].height })
        .collect()
}

/// A key and one of its values.
type Value<'a> = (&'a str, &'a [u8]);

fn check_values(operations: &[&Operation], chain: &[ChainWrite]) -> Vec<ChainFinding> {
    let mut findings = Vec::new();
    let mut places: BTreeMap<Value<'_>, Vec<u64>> = BTreeMap::new();
    for write in chain {
        if let Some(value) = &write.value {
            places.entry((&write.key, value)).or_default().push(write.height);
        }
    }
    let mut writers: BTreeMap<Value<'_>, &Operation> = BTreeMap::new();
    for &operation in operations {
        let Some(value) = operation.call.value() else { continue };
        let value = (operation.key.as_str(), value);
        if let Some(first) = writers.insert(value, operation) {
            let (first, second) = (first.clone(), operation.clone());
            findings.push(ChainFinding::SameValue { first, second });
        }
        let found = places.remove(&value).unwrap_or_default();
        findings.extend(check_places(operation, found));
    }
    for ((key, value), heights) in places {
        // Of a value with two writers the second finds none, which is reported above.
        findings.extend(heights.into_iter().map(|height| ChainFinding::Nobodys {
            height,
            key: key.to_owned(),
            value: Some(value.to_owned()),
        }));
    }
    findings
}

/// Judges one write by the heights at which its value was found.
fn check_places(operation: &Operation, heights: Vec<u64>) -> Option<ChainFinding> {
    let operation = operation.clone();
    let first = heights.first().copied();
    match (&operation.outcome, first) {
        (Outcome::Done { answer: Answer::Written { .. }, .. }, None) => {
            Some(ChainFinding::Lost { operation })
        }
        (_, None) => None,
        (Outcome::Failed, Some(found)) => Some(ChainFinding::Refused { operation, found }),
        (Outcome::Done { answer: Answer::ConditionFailed | Answer::Value(_), .. }, Some(found)) => {
            Some(ChainFinding::Refused { operation, found })
        }
        (_, Some(_)) if heights.len() > 1 => Some(ChainFinding::Duplicate { operation, heights }),
        (Outcome::Done { answer: Answer::Written { height }, .. }, Some(found)) => {
            (*height != found).then_some(ChainFinding::Misplaced { operation, found })
        }
        (Outcome::Unknown, Some(_)) => None,
    }
}

/// Deletes carry no value: they are counted, per key and height.
fn check_deletes(operations: &[&Operation], chain: &[ChainWrite]) -> Vec<ChainFinding> {
    let mut findings = Vec::new();
    let mut unexplained: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for write in chain.iter().filter(|write| write.value.is_none()) {
        unexplained.entry(&write.key).or_default().push(write.height);
    }
    let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.call == Call::Delete) {
        let heights = unexplained.entry(&operation.key).or_default();
        match &operation.outcome {
            Outcome::Done { answer: Answer::Written { height }, .. } => {
                match heights.iter().position(|found| found == height) {
                    Some(place) => _ = heights.remove(place),
                    None => findings.push(ChainFinding::Lost { operation: (*operation).clone() }),
                }
            }
            Outcome::Unknown => *unknown.entry(&operation.key).or_default() += 1,
            Outcome::Done { .. } | Outcome::Failed => {}
        }
    }
    for (key, heights) in unexplained {
        let excused = unknown.get(key).copied().unwrap_or(0);
        let rest = heights.into_iter().skip(excused);
        findings.extend(rest.map(|height| ChainFinding::Nobodys {
            height,
            key: key.to_owned(),
            value: None,
        }));
    }
    findings
}

/// What begins after an acknowledgement goes into a later block.
fn check_time(operations: &[&Operation]) -> Vec<ChainFinding> {
    let mut over: Vec<(u64, u64, &Operation)> = Vec::new();
    for &operation in operations {
        if let Outcome::Done { returned_ns, answer: Answer::Written { height } } = operation.outcome
        {
            over.push((returned_ns, height, operation));
        }
    }
    over.sort_by_key(|(returned_ns, ..)| *returned_ns);
    let mut begun = over.clone();
    begun.sort_by_key(|(.., operation)| operation.invoked_ns);
    let mut findings = Vec::new();
    let mut ended = over.into_iter().peekable();
    let mut highest: Option<(u64, &Operation)> = None;
    for (_, height, later) in begun {
        while let Some((_, reached, earlier)) =
            ended.next_if(|(returned_ns, ..)| *returned_ns < later.invoked_ns)
        {
            if highest.is_none_or(|(highest, _)| highest < reached) {
                highest = Some((reached, earlier));
            }
        }
        if let Some((_, earlier)) = highest.filter(|(highest, _)| *highest >= height) {
            let (earlier, later) = (earlier.clone(), later.clone());
            findings.push(ChainFinding::WentBack { earlier, later });
        }
    }
    findings
}

fn shown(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.escape_ascii().to_string())
}

#[cfg(test)]
mod tests;
