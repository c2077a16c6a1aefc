//! What clients and watchers saw, as they saw it.
//!
//! Owns the types of a recorded history. Must never interpret one.

use std::fmt;

use ledger_types::{Digest, VaultRef};

/// One operation of one client on one key of one vault. Times are nanoseconds of one monotonic clock that all
/// clients of the history share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The client; it has at most one operation open at a time.
    pub client: u32,
    /// The vault.
    pub vault: VaultRef,
    /// The entity's key.
    pub key: String,
    /// What was asked for.
    pub call: Call,
    /// When it was asked for.
    pub invoked_ns: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Set the key to a value that no other operation of the history writes.
    Set(Vec<u8>),
    /// Set the key to a unique value if it is absent.
    Create(Vec<u8>),
    /// Set the key to a unique value if it holds another one.
    Replace {
        /// What it must hold.
        expected: Vec<u8>,
        /// What it holds afterwards.
        value: Vec<u8>,
    },
    /// Delete the key.
    Delete,
    /// A linearizable read.
    Read,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was acknowledged.
    Done {
        /// When the answer was there.
        returned_ns: u64,
        /// What was answered.
        answer: Answer,
    },
    /// It certainly had and will have no effect.
    Failed,
    /// Nobody knows: it may take effect at any time after the call, or never.
    Unknown,
}

/// What a node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A write took effect in this block.
    Written {
        /// The block's height.
        height: u64,
    },
    /// A condition did not hold; nothing was written.
    ConditionFailed,
    /// A read's value; none if the key was absent.
    Value(Option<Vec<u8>>),
}

/// A block as a server, a client or a watcher has seen it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenBlock {
    /// Who saw it, for messages.
    pub witness: String,
    /// The vault.
    pub vault: VaultRef,
    /// The block's height.
    pub height: u64,
    /// Its hash.
    pub block_hash: Digest,
    /// The state root that it commits to.
    pub state_root: Digest,
}

impl Call {
    /// The value that it writes if it takes effect; none for deletes and reads.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Call::Set(value) | Call::Create(value) | Call::Replace { value, .. } => Some(value),
            Call::Delete | Call::Read => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, vault, key, invoked_ns, .. } = self;
        write!(f, "client {client} ")?;
        match &self.call {
            Call::Set(value) => write!(f, "sets {key:?} to {}", value.escape_ascii())?,
            Call::Create(value) => write!(f, "creates {key:?} as {}", value.escape_ascii())?,
            Call::Replace { expected, value } => {
                let (from, to) = (expected.escape_ascii(), value.escape_ascii());
                write!(f, "replaces {key:?} from {from} to {to}")?;
            }
            Call::Delete => write!(f, "deletes {key:?}")?,
            Call::Read => write!(f, "reads {key:?}")?,
        }
        write!(f, " of vault {vault} at {invoked_ns} ns, ")?;
        match &self.outcome {
            Outcome::Failed => write!(f, "failed"),
            Outcome::Unknown => write!(f, "outcome unknown"),
            Outcome::Done { returned_ns, answer } => match answer {
                Answer::Written { height } => write!(f, "written in block {height}"),
                Answer::ConditionFailed => write!(f, "condition failed"),
                Answer::Value(None) => write!(f, "absent"),
                Answer::Value(Some(value)) => write!(f, "saw {}", value.escape_ascii()),
            }
            .and_then(|()| write!(f, " at {returned_ns} ns")),
        }
    }
}

#[cfg(test)]
pub(crate) mod build;
