//! What an audit says: findings, which are contradictions, and obstacles, which are answers that did not
//! come. Must never mix the two: a node that is down has changed nothing.

use std::fmt;

use ledger_proof::{CountError, Finding, FindingKind, VerifyError};
use ledger_types::Digest;
use thiserror::Error;

use crate::error::ClientError;
use crate::verification::VerificationError;

/// Something that contradicts what is signed, or what the format allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditFinding {
    /// The node that showed it; `None` if it is what the cluster as a whole shows.
    pub node: Option<String>,
    /// The block that it is about, if it is about one.
    pub height: Option<u64>,
    /// Place of the transaction in the block, from 0, if it is about one.
    pub transaction: Option<u32>,
    /// Place of the operation in the transaction, from 0, if it is about one.
    pub operation: Option<u32>,
    /// What is wrong.
    pub kind: AuditFindingKind,
}

/// What contradicts.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AuditFindingKind {
    /// The chain is not one that its format allows.
    #[error("{0}")]
    Chain(FindingKind),
    /// A proof, a signature or a rule of trust does not hold, or the log forked.
    #[error("{0}")]
    Refused(String),
    /// An answer is not what the protocol allows.
    #[error("the answer's {0} is missing or malformed")]
    Malformed(&'static str),
    /// The readable fields of a block say something else than its bytes.
    #[error("readable fields contradict the bytes: {0}")]
    ReadableFields(String),
    /// A replica holds another block than the one in the signed log.
    #[error("the replica holds block {found}, the signed log has {expected}")]
    OtherBlock {
        /// Hash in the signed log.
        expected: Digest,
        /// Hash of what the replica holds.
        found: Digest,
    },
    /// A replica's transactions are not those that the signed header commits to.
    #[error("the replica's transactions have root {found}, the signed header says {expected}")]
    OtherTransactions {
        /// What the header says.
        expected: Digest,
        /// Root of what the replica holds.
        found: Digest,
    },
    /// A replica says that its newest block has another state root than its header.
    #[error("the replica's tip has state root {found}, its header {expected}")]
    OtherTip {
        /// What the header says.
        expected: Digest,
        /// What the replica says.
        found: Digest,
    },
    /// A replica signed another log.
    #[error("the replica's note has root {found} at that size, the replayed log {expected}")]
    OtherNote {
        /// As replayed.
        expected: Digest,
        /// What the note says.
        found: Digest,
    },
    /// A replica holds another value for a present entity.
    #[error("entity {key:?} has a value with hash {found}, its record says {expected}")]
    OtherValue {
        /// The entity's key.
        key: String,
        /// Hash in the replayed record.
        expected: Digest,
        /// Hash of the value that the replica holds.
        found: Digest,
    },
    /// A replica holds another version or expiry time for a present entity.
    #[error("entity {key:?} has version {} and expiry {}, by its record {} and {}", .found.0, .found.1, .expected.0, .expected.1)]
    OtherRecord {
        /// The entity's key.
        key: String,
        /// Version and expiry time in the replayed record.
        expected: (u64, u64),
        /// What the replica says.
        found: (u64, u64),
    },
    /// A replica lacks a key that is present.
    #[error("{0} is missing")]
    KeyMissing(String),
    /// A replica holds a key that is absent.
    #[error("{0} is there and should not be")]
    KeyUnexpected(String),
}

impl AuditFindingKind {
    /// The name under which reports show this kind.
    pub fn name(&self) -> &'static str {
        match self {
            AuditFindingKind::Chain(kind) => kind.name(),
            AuditFindingKind::Refused(_) => "refused",
            AuditFindingKind::Malformed(_) => "malformed",
            AuditFindingKind::ReadableFields(_) => "readable_fields",
            AuditFindingKind::OtherBlock { .. } => "other_block",
            AuditFindingKind::OtherTransactions { .. } => "other_transactions",
            AuditFindingKind::OtherTip { .. } => "other_tip",
            AuditFindingKind::OtherNote { .. } => "other_note",
            AuditFindingKind::OtherValue { .. } => "other_value",
            AuditFindingKind::OtherRecord { .. } => "other_record",
            AuditFindingKind::KeyMissing(_) => "key_missing",
            AuditFindingKind::KeyUnexpected(_) => "key_unexpected",
        }
    }

    /// What was expected and what was found, for the kinds that compare two values.
    pub fn expected_and_found(&self) -> Option<(String, String)> {
        match self {
            AuditFindingKind::Chain(kind) => kind.expected_and_found(),
            AuditFindingKind::OtherBlock { expected, found }
            | AuditFindingKind::OtherTransactions { expected, found }
            | AuditFindingKind::OtherTip { expected, found }
            | AuditFindingKind::OtherNote { expected, found }
            | AuditFindingKind::OtherValue { expected, found, .. } => {
                Some((expected.to_string(), found.to_string()))
            }
            AuditFindingKind::OtherRecord { expected, found, .. } => {
                let text = |(version, expiry): &(u64, u64)| format!("{version}, {expiry}");
                Some((text(expected), text(found)))
            }
            _ => None,
        }
    }
}

impl AuditFinding {
    /// Something that a node shows about a block.
    pub(super) fn at(node: &str, height: u64, kind: AuditFindingKind) -> AuditFinding {
        let (node, height) = (Some(node.to_owned()), Some(height));
        AuditFinding { node, height, transaction: None, operation: None, kind }
    }

    /// A replay's finding in the blocks that a node showed.
    pub(super) fn of_chain(node: Option<&str>, finding: Finding) -> AuditFinding {
        let Finding { height, transaction, operation, kind } = finding;
        let (node, kind) = (node.map(str::to_owned), AuditFindingKind::Chain(kind));
        AuditFinding { node, height: Some(height), transaction, operation, kind }
    }
}

/// Something that could not be asked or looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Obstacle {
    /// The node, if it is about one.
    pub node: Option<String>,
    /// What could not be done, and why.
    pub message: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// What an audit comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything was looked at and agrees.
    Verified,
    /// Something contradicts what is signed or what the format allows.
    Tampered,
    /// No checkpoint, or no whole chain up to it, could be had: nothing is said about the vault.
    Unavailable,
    /// The chain holds, but something could not be looked at.
    Incomplete,
}

impl Verdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Verified => "verified",
            Verdict::Tampered => "tampered",
            Verdict::Unavailable => "unavailable",
            Verdict::Incomplete => "incomplete",
        }
    }
}

/// An error of a call as what it means for an audit.
#[derive(Debug)]
pub(super) enum Meaning {
    /// Somebody showed something that contradicts.
    Contradicts(AuditFindingKind),
    /// Somebody did not answer, or not yet.
    Hinders(String),
}

/// Tells what an error means: signatures that are too few or too old, and notes that are behind what is
/// known, are answers that did not come; everything else that was checked and is not believed contradicts.
pub(super) fn meaning(error: &ClientError) -> Meaning {
    let text = error.to_string();
    match error {
        ClientError::Verification(refused) => match &**refused {
            VerificationError::Refused(
                VerifyError::Count(
                    CountError::TooFew { .. }
                    | CountError::BundleExpired { .. }
                    | CountError::NoVoters,
                )
                | VerifyError::Behind { .. }
                | VerifyError::TooOld { .. },
            )
            | VerificationError::TrustSuperseded { .. } => Meaning::Hinders(text),
            _ => Meaning::Contradicts(AuditFindingKind::Refused(text)),
        },
        ClientError::Malformed(field) => Meaning::Contradicts(AuditFindingKind::Malformed(field)),
        ClientError::DeadlineExceeded { last: Some(last), .. } => {
            Meaning::Hinders(format!("{text}: {last}"))
        }
        _ => Meaning::Hinders(text),
    }
}
