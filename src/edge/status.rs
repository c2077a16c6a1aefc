//! The one place where failures become `tonic::Status`, with `google.rpc` details.
//!
//! Owns the table from failure to code, reason and details; the table is a contract with clients. Must
//! never be bypassed: other modules fail with a [`Failure`].

use std::collections::HashMap;
use std::time::Duration;

use ledger_proto::convert::ConvertError;
use ledger_proto::v1;
use ledger_types::limits::{
    CLIENT_ID_BYTES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, PAGE_ITEMS_MAX, PAGE_TOKEN_BYTES_MAX,
    REQUEST_BYTES_MAX, STATE_KEY_BYTES_MAX, VALUE_BYTES_MAX,
};
use ledger_types::{GroupId, InvalidInput, NamespaceId, NodeId, OwnerEpoch, VaultId, VaultRef};
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::cosigning::Shortage;

/// `ErrorInfo.domain` of every failure.
pub const ERROR_DOMAIN: &str = "ledger.v1";

/// How long a client should wait before it repeats a request that met a passing obstacle.
const RETRY_SOON: Duration = Duration::from_millis(50);
/// How long it should wait after a refusal for overload.
const RETRY_AFTER_OVERLOAD: Duration = Duration::from_millis(200);

/// Who leads a group, as told to a client whose request could not be carried to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderAddress {
    /// The node.
    pub node: NodeId,
    /// Where it is reached, host:port.
    pub address: String,
}

impl LeaderAddress {
    /// Reads what an error's metadata says of the leader, as [`Failure::NotLeader`] tells it.
    pub fn of(metadata: &HashMap<String, String>) -> Option<LeaderAddress> {
        let node = NodeId(metadata.get("leader_node")?.parse().ok()?);
        Some(LeaderAddress { node, address: metadata.get("leader_address")?.clone() })
    }
}

/// Why a request is not answered as asked.
#[derive(Debug, Error)]
pub enum Failure {
    /// A field is missing or malformed.
    #[error("{problem}")]
    Field {
        /// The field's path on the wire, for example `operations[3].key`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bound that `GetServerInfo` tells is exceeded.
    #[error("{field} has {actual}, beyond the limit {limit} of {max}")]
    Limit {
        /// The field's path on the wire.
        field: String,
        /// The limit's name in `GetServerInfo`.
        limit: &'static str,
        /// What the request has.
        actual: u64,
        /// The limit.
        max: u64,
    },
    /// The request message is larger than the server decodes.
    #[error("the request message is larger than request_bytes_max, {max} bytes")]
    RequestTooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The request message is no valid encoding of its type.
    #[error("the request message cannot be decoded")]
    Malformed,
    /// The page token is damaged, or was given out for another query or by another cluster.
    #[error("page_token is not one that this query was given")]
    PageToken,
    /// There is no such namespace.
    #[error("there is no such namespace")]
    UnknownNamespace,
    /// There is no such vault.
    #[error("vault {0} does not exist")]
    UnknownVault(VaultRef),
    /// The vault existed and its id is never used again.
    #[error("vault {0} was deleted")]
    DeletedVault(VaultRef),
    /// The namespace existed and its id is never used again.
    #[error("the namespace was deleted")]
    DeletedNamespace,
    /// The namespace has vaults, which are to be deleted before it.
    #[error("the namespace has {vaults} vaults; delete them first")]
    NamespaceNotEmpty {
        /// How many; counted up to a bound, which then stands for so many or more.
        vaults: u64,
    },
    /// The block has no such transaction.
    #[error("block {height} has no such transaction; it has {count}")]
    NoSuchTransaction {
        /// The block's height.
        height: u64,
        /// How many transactions it has.
        count: u64,
    },
    /// No health is kept under the name.
    #[error("{0:?} is not a service whose health is known")]
    UnknownService(String),
    /// Another namespace has the name.
    #[error("namespace name {0:?} is taken")]
    NameTaken(String),
    /// The directory's namespace is changed by the cluster only.
    #[error("namespace 0 belongs to the cluster and cannot be written")]
    SystemNamespace,
    /// The group's leader is not here, and the request may not be or could not be carried to it.
    #[error("group {group} is led by another node")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Its leader, as far as this node knows.
        leader: Option<LeaderAddress>,
    },
    /// The directory or the vault moved on; a retry finds the new owner.
    #[error("the vault is owned by another shard or under another epoch")]
    WrongShard {
        /// The epoch that the owner told.
        owner_epoch: Option<OwnerEpoch>,
    },
    /// The node cannot serve this yet.
    #[error("the node is not ready: {what}")]
    NotReady {
        /// What it waits for.
        what: String,
    },
    /// The node gives its work away.
    #[error("the node is draining")]
    Draining,
    /// The write was proposed and it is not known whether it committed.
    #[error(
        "the outcome of the write is unknown; repeat it with the same idempotency key or sequence"
    )]
    OutcomeUnknown,
    /// Too much is in flight.
    #[error("too much is in flight")]
    Overloaded,
    /// The namespace asks for more than it may.
    #[error("namespace {namespace} asks this node for more than {max} operations in a second")]
    RateLimited {
        /// The namespace.
        namespace: NamespaceId,
        /// Operations that it may do in a second.
        max: u64,
        /// After what time the request may come again.
        after: Duration,
    },
    /// As many watching streams as a node serves are open.
    #[error("this node serves {max} watching streams and no more; ask another node")]
    TooManyWatches {
        /// The bound, `watches_per_node_max`.
        max: u64,
    },
    /// The client of a watching stream does not read it.
    #[error("the stream was not read for too long; open it again at height {resume_height}")]
    SlowWatcher {
        /// The first block that may not have been told of to its end.
        resume_height: u64,
    },
    /// As many streams that carry data as a node serves are open.
    #[error("this node serves {max} streams of data and no more; ask another node")]
    TooManyStreams {
        /// The bound, `data_streams_per_node_max`.
        max: u64,
    },
    /// The whole answer is too large to give in one message.
    #[error("the answer is larger than {limit} ({max}); ask for pages")]
    AnswerTooLarge {
        /// Which bound.
        limit: &'static str,
        /// The bound.
        max: u64,
    },
    /// The deadline passed, and nothing was changed.
    #[error("the deadline passed before the request was carried out")]
    Deadline,
    /// The height is not kept, or not reached.
    #[error("the height is not available: heights {floor} to {tip} are")]
    HeightUnavailable {
        /// The lowest height that can be read.
        floor: u64,
        /// The highest.
        tip: u64,
    },
    /// The client began with the other of the two ways to recognise a retry.
    #[error(
        "client uses {contract} in this vault and must keep to it; its last sequence is {last}"
    )]
    ContractMixed {
        /// The way that the client began with.
        contract: &'static str,
        /// Its last committed sequence.
        last: u64,
    },
    /// The vault is quarantined on this node.
    #[error("vault {0} cannot be served by this node")]
    VaultUnavailable(VaultRef),
    /// Too few voters of the vault's shard cosigned its checkpoint in time.
    #[error("{counted} voters of the shard cosigned the checkpoint in time, {required} must")]
    NotCosigned {
        /// Voters that did.
        counted: usize,
        /// Voters that must.
        required: usize,
    },
    /// The node's disk is too full for what was asked.
    #[error("the node's disk has {free} bytes left, and the last {min} are not for this")]
    DiskSpace {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        min: u64,
    },
    /// The method is published, and this kind of cluster does by other means what it asks for.
    #[error("{method} is not offered: {why}")]
    NotOffered {
        /// `Service/Method`.
        method: &'static str,
        /// Why not, and what there is instead.
        why: &'static str,
    },
    /// The store failed or holds what it must not.
    #[error("the store could not be read: {0}")]
    Store(String),
    /// A file beside the store could not be written.
    #[error("the node {0}")]
    File(String),
    /// The node broke a rule of its own.
    #[error("{0}")]
    Internal(&'static str),
    /// Another node's answer to the forwarded request.
    #[error("{0}")]
    Forwarded(Status),
}

/// Code, reason and whether to tell when to retry.
struct Mapping {
    code: Code,
    reason: &'static str,
    retry_after: Option<Duration>,
}

impl Mapping {
    fn new(code: Code, reason: &'static str) -> Mapping {
        Mapping { code, reason, retry_after: None }
    }

    fn overload(reason: &'static str) -> Mapping {
        Mapping::retry(Code::ResourceExhausted, reason, RETRY_AFTER_OVERLOAD)
    }

    fn retry(code: Code, reason: &'static str, after: Duration) -> Mapping {
        Mapping { code, reason, retry_after: Some(after) }
    }
}

impl Failure {
    /// A field that is missing or malformed.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Failure {
        Failure::Field { field: field.into(), problem: problem.into() }
    }

    /// A size beyond a limit of `GetServerInfo`.
    pub fn limit(
        field: impl Into<String>,
        limit: &'static str,
        actual: usize,
        max: usize,
    ) -> Failure {
        Failure::Limit { field: field.into(), limit, actual: actual as u64, max: max as u64 }
    }

    /// The vault's own group says that it was deleted; that of a namespace's own entities goes with its namespace.
    pub fn deleted(vault: VaultRef) -> Failure {
        match vault.vault {
            VaultId(0) => Failure::DeletedNamespace,
            _ => Failure::DeletedVault(vault),
        }
    }

    /// The node lacks something that it will have soon.
    pub fn not_ready(what: impl Into<String>) -> Failure {
        Failure::NotReady { what: what.into() }
    }

    /// True if the request may be tried once more here, after the node looked again at who owns the vault.
    pub fn is_stale_route(&self) -> bool {
        matches!(self, Failure::WrongShard { .. } | Failure::NotLeader { .. })
    }

    /// True of obstacles that pass by themselves, so that a request which may be repeated is worth it.
    pub fn may_pass(&self) -> bool {
        self.is_stale_route()
            || matches!(
                self,
                Failure::OutcomeUnknown
                    | Failure::NotReady { .. }
                    | Failure::Draining
                    | Failure::Overloaded
            )
    }

    /// The table. An outcome that is unknown gets `UNKNOWN`, which no stock retry policy repeats blindly.
    fn mapping(&self) -> Mapping {
        match self {
            Failure::Field { .. } => Mapping::new(Code::InvalidArgument, "INVALID_ARGUMENT"),
            Failure::Limit { .. } => Mapping::new(Code::InvalidArgument, "LIMIT_EXCEEDED"),
            Failure::RequestTooLarge { .. } => {
                Mapping::new(Code::InvalidArgument, "REQUEST_TOO_LARGE")
            }
            Failure::Malformed => Mapping::new(Code::InvalidArgument, "MALFORMED_MESSAGE"),
            Failure::PageToken => Mapping::new(Code::InvalidArgument, "INVALID_PAGE_TOKEN"),
            Failure::UnknownNamespace => Mapping::new(Code::NotFound, "NAMESPACE_NOT_FOUND"),
            Failure::UnknownVault(_) => Mapping::new(Code::NotFound, "VAULT_NOT_FOUND"),
            Failure::DeletedVault(_) => Mapping::new(Code::NotFound, "VAULT_DELETED"),
            Failure::DeletedNamespace => Mapping::new(Code::NotFound, "NAMESPACE_DELETED"),
            Failure::NamespaceNotEmpty { .. } => {
                Mapping::new(Code::FailedPrecondition, "NAMESPACE_NOT_EMPTY")
            }
            Failure::NoSuchTransaction { .. } => {
                Mapping::new(Code::NotFound, "TRANSACTION_NOT_FOUND")
            }
            Failure::UnknownService(_) => Mapping::new(Code::NotFound, "UNKNOWN_SERVICE"),
            Failure::NameTaken(_) => Mapping::new(Code::AlreadyExists, "NAMESPACE_EXISTS"),
            Failure::SystemNamespace => Mapping::new(Code::PermissionDenied, "SYSTEM_NAMESPACE"),
            Failure::NotLeader { leader: Some(_), .. } => {
                Mapping::retry(Code::Unavailable, "NOT_LEADER", RETRY_SOON)
            }
            Failure::NotLeader { leader: None, .. } => {
                Mapping::retry(Code::Unavailable, "NO_LEADER", RETRY_SOON)
            }
            Failure::WrongShard { .. } => {
                Mapping::retry(Code::Unavailable, "WRONG_SHARD", RETRY_SOON)
            }
            Failure::NotReady { .. } => {
                Mapping::retry(Code::Unavailable, "NOT_READY", RETRY_AFTER_OVERLOAD)
            }
            Failure::Draining => {
                Mapping::retry(Code::Unavailable, "DRAINING", RETRY_AFTER_OVERLOAD)
            }
            Failure::OutcomeUnknown => Mapping::new(Code::Unknown, "OUTCOME_UNKNOWN"),
            Failure::Overloaded => Mapping::overload("OVERLOADED"),
            Failure::RateLimited { after, .. } => {
                Mapping::retry(Code::ResourceExhausted, "RATE_LIMITED", *after)
            }
            Failure::TooManyWatches { .. } => Mapping::overload("TOO_MANY_WATCHES"),
            Failure::SlowWatcher { .. } => Mapping::overload("SLOW_WATCHER"),
            Failure::TooManyStreams { .. } => Mapping::overload("TOO_MANY_STREAMS"),
            Failure::AnswerTooLarge { .. } => {
                Mapping::new(Code::ResourceExhausted, "ANSWER_TOO_LARGE")
            }
            Failure::Deadline => Mapping::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Failure::HeightUnavailable { .. } => {
                Mapping::new(Code::FailedPrecondition, "HEIGHT_UNAVAILABLE")
            }
            Failure::ContractMixed { .. } => {
                Mapping::new(Code::FailedPrecondition, "SEQUENCE_CONTRACT_MIXED")
            }
            Failure::VaultUnavailable(_) => {
                Mapping::new(Code::FailedPrecondition, "VAULT_UNAVAILABLE")
            }
            Failure::NotCosigned { .. } => {
                Mapping::retry(Code::Unavailable, "NOT_COSIGNED", RETRY_SOON)
            }
            Failure::DiskSpace { .. } => Mapping::new(Code::ResourceExhausted, "DISK_SPACE_LOW"),
            Failure::NotOffered { .. } => Mapping::new(Code::Unimplemented, "NOT_OFFERED"),
            Failure::Store(_) | Failure::File(_) => Mapping::new(Code::Internal, "STORE_FAULT"),
            Failure::Internal(_) => Mapping::new(Code::Internal, "INTERNAL"),
            Failure::Forwarded(status) => Mapping::new(status.code(), "FORWARDED"),
        }
    }

    /// What a program can read from `ErrorInfo.metadata`.
    fn facts(&self) -> HashMap<String, String> {
        let mut facts = HashMap::new();
        let mut tell = |name: &str, value: String| {
            facts.insert(name.to_owned(), value);
        };
        match self {
            Failure::Limit { field, limit, actual, max } => {
                tell("field", field.clone());
                tell("limit", (*limit).to_owned());
                tell("actual", actual.to_string());
                tell("max", max.to_string());
            }
            Failure::RequestTooLarge { max } => {
                tell("limit", "request_bytes_max".to_owned());
                tell("max", max.to_string());
            }
            Failure::RateLimited { namespace, max, .. } => {
                tell("limit", "namespace_operations_per_second".to_owned());
                tell("max", max.to_string());
                tell("namespace", namespace.to_string());
            }
            Failure::NamespaceNotEmpty { vaults } => tell("vaults", vaults.to_string()),
            Failure::TooManyWatches { max } => {
                tell("limit", "watches_per_node_max".to_owned());
                tell("max", max.to_string());
            }
            Failure::SlowWatcher { resume_height } => {
                tell("resume_height", resume_height.to_string());
            }
            Failure::TooManyStreams { max } => {
                tell("limit", "data_streams_per_node_max".to_owned());
                tell("max", max.to_string());
            }
            Failure::AnswerTooLarge { limit, max } => {
                tell("limit", (*limit).to_owned());
                tell("max", max.to_string());
            }
            Failure::NotLeader { group, leader } => {
                tell("group", group.to_string());
                if let Some(leader) = leader {
                    tell("leader_node", leader.node.to_string());
                    tell("leader_address", leader.address.clone());
                }
            }
            Failure::WrongShard { owner_epoch: Some(epoch) } => {
                tell("owner_epoch", epoch.to_string());
            }
            Failure::HeightUnavailable { floor, tip } => {
                tell("floor", floor.to_string());
                tell("tip", tip.to_string());
            }
            Failure::NoSuchTransaction { height, count } => {
                tell("height", height.to_string());
                tell("count", count.to_string());
            }
            Failure::ContractMixed { contract, last } => {
                tell("contract", (*contract).to_owned());
                tell("last_sequence", last.to_string());
            }
            Failure::NotCosigned { counted, required } => {
                tell("counted", counted.to_string());
                tell("required", required.to_string());
            }
            Failure::DiskSpace { free, min } => {
                tell("free", free.to_string());
                tell("min", min.to_string());
            }
            Failure::NotOffered { method, .. } => tell("method", (*method).to_owned()),
            _ => {}
        }
        facts
    }

    /// The field that `BadRequest` names.
    fn bad_field(&self) -> Option<&str> {
        match self {
            Failure::Field { field, .. } | Failure::Limit { field, .. } => Some(field),
            Failure::PageToken => Some("page_token"),
            _ => None,
        }
    }
}

impl From<Shortage> for Failure {
    fn from(shortage: Shortage) -> Failure {
        let Shortage { counted, required, .. } = shortage;
        Failure::NotCosigned { counted, required }
    }
}

impl From<InvalidInput> for Failure {
    fn from(error: InvalidInput) -> Failure {
        Failure::from(ConvertError::from(error))
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Failure {
        let field = error.field();
        let mut inner = &error;
        while let ConvertError::Item { source, .. } = inner {
            inner = source;
        }
        match inner {
            ConvertError::DirectoryNamespace { .. } => Failure::SystemNamespace,
            ConvertError::Invalid(InvalidInput::TooLong { len, max, .. }) => {
                Failure::limit(field, length_limit(*max), *len, *max)
            }
            ConvertError::TooMany { field: "keys", count, max } => {
                Failure::limit(field, "keys_per_read_max", *count, *max)
            }
            ConvertError::TooMany { count, max, .. } => {
                Failure::limit(field, "operations_max", *count, *max)
            }
            ConvertError::OutOfRange { value, max, .. } if *max == PAGE_ITEMS_MAX as u64 => {
                Failure::Limit { field, limit: "page_items_max", actual: *value, max: *max }
            }
            _ => Failure::field(field, error.to_string()),
        }
    }
}

/// The name that `GetServerInfo` gives the limit of a length check.
fn length_limit(max: usize) -> &'static str {
    match max {
        KEY_BYTES_MAX => "key_bytes_max",
        VALUE_BYTES_MAX => "value_bytes_max",
        STATE_KEY_BYTES_MAX => "state_key_bytes_max",
        CLIENT_ID_BYTES_MAX => "client_id_bytes_max",
        NAME_BYTES_MAX => "name_bytes_max",
        PAGE_TOKEN_BYTES_MAX => "page_token_bytes_max",
        _ => "request_bytes_max",
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        if let Failure::Forwarded(status) = failure {
            return status;
        }
        let mapping = failure.mapping();
        let message = failure.to_string();
        let mut details =
            ErrorDetails::with_error_info(mapping.reason, ERROR_DOMAIN, failure.facts());
        if let Some(field) = failure.bad_field() {
            details.add_bad_request_violation(field, message.clone());
        }
        if let Failure::HeightUnavailable { .. } | Failure::VaultUnavailable(_) = failure {
            details.add_precondition_failure_violation(mapping.reason, "vault", message.clone());
        }
        if let Some(after) = mapping.retry_after {
            details.set_retry_info(Some(after));
        }
        Status::with_error_details(mapping.code, message, details)
    }
}

/// The same failure as a message of a stream that goes on.
impl From<Failure> for v1::Refusal {
    fn from(failure: Failure) -> v1::Refusal {
        let status = Status::from(failure);
        let details = status.get_error_details();
        let info = details.error_info();
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        let fields = details.bad_request().map(|bad| {
            bad.field_violations.iter().map(|violation| violation.field.clone()).collect()
        });
        v1::Refusal {
            code: i32::from(status.code()).unsigned_abs(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            retry_after_ms: retry.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            fields: fields.unwrap_or_default(),
        }
    }
}

/// What the transport's complaint about a message of a stream means; `None` if the client is gone.
pub(super) fn of_transport(status: &Status) -> Option<Failure> {
    match status.code() {
        // Too large as it came, or unpacked.
        Code::OutOfRange | Code::ResourceExhausted => {
            Some(Failure::RequestTooLarge { max: REQUEST_BYTES_MAX as u64 })
        }
        Code::Internal => Some(Failure::Malformed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status: &Status) -> String {
        let info = status.get_details_error_info().expect("every failure carries ErrorInfo");
        assert_eq!(info.domain, ERROR_DOMAIN);
        info.reason
    }

    #[test]
    fn reasons_and_codes_are_the_published_table() {
        let vault = VaultRef::new(1, 2);
        let table: Vec<(Failure, Code, &str)> = vec![
            (Failure::field("f", "p"), Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Failure::limit("f", "l", 2, 1), Code::InvalidArgument, "LIMIT_EXCEEDED"),
            (Failure::RequestTooLarge { max: 1 }, Code::InvalidArgument, "REQUEST_TOO_LARGE"),
            (Failure::PageToken, Code::InvalidArgument, "INVALID_PAGE_TOKEN"),
            (Failure::UnknownNamespace, Code::NotFound, "NAMESPACE_NOT_FOUND"),
            (Failure::UnknownVault(vault), Code::NotFound, "VAULT_NOT_FOUND"),
            (Failure::deleted(vault), Code::NotFound, "VAULT_DELETED"),
            (Failure::deleted(VaultRef::new(1, 0)), Code::NotFound, "NAMESPACE_DELETED"),
            (
                Failure::NamespaceNotEmpty { vaults: 2 },
                Code::FailedPrecondition,
                "NAMESPACE_NOT_EMPTY",
            ),
            (Failure::NameTaken("a".into()), Code::AlreadyExists, "NAMESPACE_EXISTS"),
            (Failure::SystemNamespace, Code::PermissionDenied, "SYSTEM_NAMESPACE"),
            (Failure::WrongShard { owner_epoch: None }, Code::Unavailable, "WRONG_SHARD"),
            (Failure::OutcomeUnknown, Code::Unknown, "OUTCOME_UNKNOWN"),
            (Failure::Overloaded, Code::ResourceExhausted, "OVERLOADED"),
            (
                Failure::RateLimited { namespace: NamespaceId(1), max: 2, after: Duration::ZERO },
                Code::ResourceExhausted,
                "RATE_LIMITED",
            ),
            (Failure::TooManyWatches { max: 1 }, Code::ResourceExhausted, "TOO_MANY_WATCHES"),
            (Failure::SlowWatcher { resume_height: 7 }, Code::ResourceExhausted, "SLOW_WATCHER"),
            (Failure::TooManyStreams { max: 1 }, Code::ResourceExhausted, "TOO_MANY_STREAMS"),
            (Failure::Deadline, Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            (Failure::VaultUnavailable(vault), Code::FailedPrecondition, "VAULT_UNAVAILABLE"),
            (Failure::DiskSpace { free: 1, min: 2 }, Code::ResourceExhausted, "DISK_SPACE_LOW"),
            (Failure::NotOffered { method: "m", why: "w" }, Code::Unimplemented, "NOT_OFFERED"),
            (Failure::Store("s".into()), Code::Internal, "STORE_FAULT"),
        ];
        for (failure, code, name) in table {
            let status = Status::from(failure);
            assert_eq!((status.code(), reason(&status).as_str()), (code, name));
        }
    }

    #[test]
    fn only_passing_obstacles_tell_when_to_retry() {
        let overloaded = Status::from(Failure::Overloaded);
        assert!(overloaded.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
        let too_large = Failure::AnswerTooLarge { limit: "page_items_max", max: 10_000 };
        assert!(Status::from(too_large).get_details_retry_info().is_none());
        assert!(Status::from(Failure::OutcomeUnknown).get_details_retry_info().is_none());
    }

    #[test]
    fn a_refusal_says_what_the_status_says() {
        let leader = LeaderAddress { node: NodeId(3), address: "host:1".into() };
        let refusal =
            v1::Refusal::from(Failure::NotLeader { group: GroupId(7), leader: Some(leader) });
        assert_eq!((refusal.code, refusal.reason.as_str()), (14, "NOT_LEADER"));
        assert_eq!(refusal.metadata["leader_address"], "host:1");
        assert_eq!(refusal.retry_after_ms, Some(50));
        let original = Status::from(Failure::field("operations[3].key", "is empty"));
        let passed = v1::Refusal::from(Failure::Forwarded(original));
        assert_eq!((passed.code, passed.reason.as_str()), (3, "INVALID_ARGUMENT"));
        assert_eq!(passed.fields, ["operations[3].key"]);
    }

    #[test]
    fn a_leader_hint_is_readable_by_a_program() {
        let leader = LeaderAddress { node: NodeId(3), address: "host:1".into() };
        let told = Failure::NotLeader { group: GroupId(2), leader: Some(leader.clone()) }.facts();
        assert_eq!(LeaderAddress::of(&told).as_ref(), Some(&leader));
        let status = Status::from(Failure::NotLeader { group: GroupId(7), leader: Some(leader) });
        let facts = status.get_details_error_info().expect("ErrorInfo").metadata;
        assert_eq!(facts["group"], "7");
        assert_eq!(facts["leader_node"], "3");
        assert_eq!(facts["leader_address"], "host:1");
        let nobody = Status::from(Failure::NotLeader { group: GroupId(7), leader: None });
        assert_eq!(reason(&nobody), "NO_LEADER");
    }

    #[test]
    fn a_length_beyond_its_limit_names_field_and_limit() {
        let too_long = InvalidInput::TooLong { field: "key", len: 1025, max: KEY_BYTES_MAX };
        let status = Status::from(Failure::from(too_long));
        let facts = status.get_details_error_info().expect("ErrorInfo").metadata;
        assert_eq!(facts["limit"], "key_bytes_max");
        assert_eq!(facts["max"], "1024");
        let bad = status.get_details_bad_request().expect("BadRequest");
        assert_eq!(bad.field_violations[0].field, "key");
    }

    #[test]
    fn another_nodes_answer_passes_unchanged() {
        let original = Status::from(Failure::HeightUnavailable { floor: 3, tip: 9 });
        let details = original.details().to_vec();
        let passed = Status::from(Failure::Forwarded(original));
        assert_eq!(passed.code(), Code::FailedPrecondition);
        assert_eq!(passed.details(), details);
    }
}
