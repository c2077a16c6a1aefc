//! Every way in which a call can fail, as values that a program can act on.
//!
//! Must never lose the reason, the metadata or the retry advice that a node gave.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ledger_proto::v1;
use ledger_types::{InvalidInput, TxId, VaultRef};
use thiserror::Error;
use tonic::Code;
use tonic_types::StatusExt;

use crate::reason::Reason;
use crate::verification::VerificationError;

/// A node's refusal.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{reason}: {message}")]
pub struct ServerError {
    /// The gRPC code.
    pub code: Code,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// What else the reason needs: limits, floors, the leader's address.
    pub metadata: BTreeMap<String, String>,
    /// The fields of the request that were not as they must be, each with what is wrong.
    pub fields: Vec<(String, String)>,
    /// How long the node asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl ServerError {
    /// Reads a status and the `google.rpc` details in it.
    pub(crate) fn from_status(status: &tonic::Status) -> ServerError {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = Reason::from_wire(info.map_or("", |info| info.reason.as_str()));
        let metadata = info.map(|info| info.metadata.clone().into_iter().collect());
        let fields = details.bad_request().map(|bad| {
            let pair = |field: &tonic_types::FieldViolation| {
                (field.field.clone(), field.description.clone())
            };
            bad.field_violations.iter().map(pair).collect()
        });
        ServerError {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            metadata: metadata.unwrap_or_default(),
            fields: fields.unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }

    /// Reads a refusal that came as a message of a stream.
    pub(crate) fn from_refusal(refusal: v1::Refusal) -> ServerError {
        let message = refusal.message;
        let pair = |field: String| (field, message.clone());
        ServerError {
            code: i32::try_from(refusal.code).map_or(Code::Unknown, Code::from),
            reason: Reason::from_wire(&refusal.reason),
            metadata: refusal.metadata.into_iter().collect(),
            fields: refusal.fields.into_iter().map(pair).collect(),
            retry_after: refusal.retry_after_ms.map(Duration::from_millis),
            message,
        }
    }

    /// Where the leader is, if the refusal tells.
    pub fn leader_address(&self) -> Option<&str> {
        self.metadata.get("leader_address").map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// Why a write had no effect, in a request that was otherwise in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectionCode {
    /// The key had to be absent and is there.
    KeyExists,
    /// The key had to be there and is absent.
    KeyNotFound,
    /// The key has another version.
    VersionMismatch,
    /// The key has another value.
    ValueMismatch,
    /// The sequence number belongs to an earlier transaction.
    AlreadyCommitted,
    /// The idempotency key was used for other operations.
    IdempotencyKeyReused,
    /// The sequence number is not the next one.
    SequenceGap,
    /// A code that this version of the client does not know.
    Unknown(i32),
}

/// A write that had no effect.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the write had no effect ({code:?}): {message}")]
pub struct WriteRejection {
    /// Why.
    pub code: RejectionCode,
    /// The key whose condition failed; empty if no condition did.
    pub key: String,
    /// That key's version, if it is there.
    pub current_version: Option<u64>,
    /// That key's value, if it is there and small.
    pub current_value: Option<Vec<u8>>,
    /// For people.
    pub message: String,
    /// The earlier transaction under the same number or key.
    pub committed_tx: Option<TxId>,
    /// The block that holds it.
    pub committed_height: Option<u64>,
}

/// Why a call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The client was set up wrongly.
    #[error("bad configuration: {0}")]
    Config(String),
    /// The request could never be accepted; it was not sent.
    #[error(transparent)]
    InvalidInput(#[from] InvalidInput),
    /// An id is larger than the wire can carry; the request was not sent.
    #[error("{field} {value} is out of range")]
    IdOutOfRange {
        /// The field on the wire.
        field: &'static str,
        /// The id.
        value: u64,
    },
    /// A node refused.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The write reached the cluster and had no effect.
    #[error(transparent)]
    Rejected(Box<WriteRejection>),
    /// No node could be reached, or the connection broke.
    #[error("{address}: {message}")]
    Unreachable {
        /// The node asked last.
        address: String,
        /// What the transport said.
        message: String,
    },
    /// The deadline passed.
    #[error("no answer within {waited:?}{}", unknown_suffix(*.outcome_unknown))]
    DeadlineExceeded {
        /// How long the call took.
        waited: Duration,
        /// The call writes and may have happened.
        outcome_unknown: bool,
        /// How the attempt before failed, if there was one.
        #[source]
        last: Option<Box<ClientError>>,
    },
    /// The call changes something, may have happened or may still happen, and another attempt would not tell: it
    /// cannot be repeated safely, or a condition failed when it was repeated while an earlier attempt may still
    /// arrive and find the condition true.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(#[source] Box<ClientError>),
    /// Other calls have used up the repetitions that this client may make.
    #[error("the retry budget is spent; the last failure was: {last}")]
    RetryBudgetSpent {
        /// How the last attempt failed.
        #[source]
        last: Box<ClientError>,
        /// The call writes and may have happened.
        outcome_unknown: bool,
    },
    /// A node's answer breaks the protocol.
    #[error("the answer's {0} is missing or malformed")]
    Malformed(&'static str),
    /// A watch was shown blocks out of order again and again.
    #[error(
        "block {expected} of vault {vault} is missing from the watch, which went on with {found}"
    )]
    WatchGap {
        /// The vault watched.
        vault: VaultRef,
        /// The block that had to come.
        expected: u64,
        /// The block that came.
        found: u64,
    },
    /// The state directory cannot be used.
    #[error("{}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file in the state directory is not what the client wrote.
    #[error("{} is damaged: {what}", path.display())]
    StateDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing says whose signatures count, so nothing can be verified.
    #[error(
        "there is no trust bundle: give a trust file, or allow trust on first use with a state directory"
    )]
    NoTrust,
    /// The directory proves that there is no such vault.
    #[error("vault {0} does not exist, as the directory proves")]
    VaultAbsent(VaultRef),
    /// A list that was to be collected has more items than wanted.
    #[error("the list has more than {max} items")]
    ListTooLong {
        /// The most that were wanted.
        max: usize,
    },
    /// Other readers of the same log were faster again and again.
    #[error("the checkpoint of vault {0} is being replaced by other readers too often")]
    CheckpointContended(VaultRef),
    /// Trust or proof: what a node showed was checked and is not believed.
    #[error(transparent)]
    Verification(Box<VerificationError>),
}

fn unknown_suffix(outcome_unknown: bool) -> &'static str {
    if outcome_unknown { "; whether the write happened is unknown" } else { "" }
}

impl From<VerificationError> for ClientError {
    fn from(error: VerificationError) -> ClientError {
        ClientError::Verification(Box::new(error))
    }
}

impl ClientError {
    /// The node's reason, if a node gave one, also where it was the last failure before the call gave up.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            ClientError::Server(error) => Some(&error.reason),
            ClientError::OutcomeUnknown(last) | ClientError::RetryBudgetSpent { last, .. } => {
                last.reason()
            }
            ClientError::DeadlineExceeded { last, .. } => last.as_ref()?.reason(),
            _ => None,
        }
    }

    /// True if the call may have changed something although it failed.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            ClientError::OutcomeUnknown(_) => true,
            ClientError::DeadlineExceeded { outcome_unknown, .. }
            | ClientError::RetryBudgetSpent { outcome_unknown, .. } => *outcome_unknown,
            _ => false,
        }
    }

    /// True if what a node showed was checked and is not believed.
    pub fn is_verification_refusal(&self) -> bool {
        matches!(self, ClientError::Verification(_))
    }
}
