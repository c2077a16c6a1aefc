//! Machine-readable reasons of refusals, as `google.rpc.ErrorInfo` carries them.
//!
//! A table and nothing else: what a reason means for retries is decided in `attempt`.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a node refused a request.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// The answer names no reason: it comes from something older than the reasons or in between.
            Missing,
            /// A reason that this version of the client does not know.
            Other(String),
        }

        impl Reason {
            /// The reason that has this name on the wire.
            pub fn from_wire(text: &str) -> Reason {
                match text {
                    $($text => Reason::$name,)*
                    "" => Reason::Missing,
                    other => Reason::Other(other.to_owned()),
                }
            }

            /// Its name on the wire, empty for [`Reason::Missing`].
            pub fn as_str(&self) -> &str {
                match self {
                    $(Reason::$name => $text,)*
                    Reason::Missing => "",
                    Reason::Other(text) => text,
                }
            }
        }
    };
}

reasons! {
    /// The group's leader is another node, and forwarding did not work. Nothing was done.
    NotLeader = "NOT_LEADER",
    /// The group has no leader at the moment. Nothing was done.
    NoLeader = "NO_LEADER",
    /// The vault belongs to another group by now. Nothing was done.
    WrongShard = "WRONG_SHARD",
    /// The node does not serve yet.
    NotReady = "NOT_READY",
    /// The node is about to stop.
    Draining = "DRAINING",
    /// The write may or may not have happened. Only the same idempotency key makes a retry safe.
    OutcomeUnknown = "OUTCOME_UNKNOWN",
    /// Too much is waiting. Nothing was done.
    Overloaded = "OVERLOADED",
    /// The namespace asks the node for more than it may. Nothing was done.
    RateLimited = "RATE_LIMITED",
    /// As many streams of data as the node serves are open.
    TooManyStreams = "TOO_MANY_STREAMS",
    /// As many watches as the node serves are open.
    TooManyWatches = "TOO_MANY_WATCHES",
    /// A watch was not read for too long; the metadata name where to go on.
    SlowWatcher = "SLOW_WATCHER",
    /// The whole answer would be larger than an answer may be; ask for pages.
    AnswerTooLarge = "ANSWER_TOO_LARGE",
    /// The deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// There is no such namespace.
    NamespaceNotFound = "NAMESPACE_NOT_FOUND",
    /// The namespace is deleted; its id is never used again.
    NamespaceDeleted = "NAMESPACE_DELETED",
    /// The namespace has vaults, which are to be deleted before it; the metadata tell how many.
    NamespaceNotEmpty = "NAMESPACE_NOT_EMPTY",
    /// There is no such vault.
    VaultNotFound = "VAULT_NOT_FOUND",
    /// The vault is deleted; its id is never used again.
    VaultDeleted = "VAULT_DELETED",
    /// The block has no such transaction; the metadata name the height and how many it has.
    TransactionNotFound = "TRANSACTION_NOT_FOUND",
    /// The namespace's name is taken.
    NamespaceExists = "NAMESPACE_EXISTS",
    /// The directory's own namespace is not for clients.
    SystemNamespace = "SYSTEM_NAMESPACE",
    /// The vault is quarantined here.
    VaultUnavailable = "VAULT_UNAVAILABLE",
    /// Too few voters of the vault's shard cosigned its checkpoint in time; the metadata tell how many did and must.
    NotCosigned = "NOT_COSIGNED",
    /// The height lies outside what is kept; the metadata name the floor and the tip.
    HeightUnavailable = "HEIGHT_UNAVAILABLE",
    /// A limit is exceeded; the metadata name it.
    LimitExceeded = "LIMIT_EXCEEDED",
    /// A field of the request is not as it must be; the details name it.
    InvalidArgument = "INVALID_ARGUMENT",
    /// The client counts its writes here and draws keys there, or the other way round.
    SequenceContractMixed = "SEQUENCE_CONTRACT_MIXED",
    /// The page token belongs to another query or is damaged.
    InvalidPageToken = "INVALID_PAGE_TOKEN",
    /// The request cannot be decoded.
    MalformedMessage = "MALFORMED_MESSAGE",
    /// The request is larger than a request may be.
    RequestTooLarge = "REQUEST_TOO_LARGE",
    /// The health of a service was asked for that the node does not have.
    UnknownService = "UNKNOWN_SERVICE",
    /// The disk of the node is too full for what was asked; the metadata tell what is free and what must stay so.
    DiskSpaceLow = "DISK_SPACE_LOW",
    /// The cluster does by other means what this call asks for.
    NotOffered = "NOT_OFFERED",
    /// The node does not offer this call yet.
    NotYetBuilt = "NOT_YET_BUILT",
    /// The node's store failed.
    StoreFault = "STORE_FAULT",
    /// The node broke one of its own rules.
    Internal = "INTERNAL",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Missing => f.write_str("(no reason)"),
            reason => f.write_str(reason.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_round_trip_and_unknown_ones_are_kept() {
        assert_eq!(Reason::from_wire("NOT_LEADER"), Reason::NotLeader);
        assert_eq!(Reason::from_wire(Reason::OutcomeUnknown.as_str()), Reason::OutcomeUnknown);
        assert_eq!(Reason::from_wire(""), Reason::Missing);
        let unknown = Reason::from_wire("FROM_THE_FUTURE");
        assert_eq!(unknown, Reason::Other("FROM_THE_FUTURE".to_owned()));
        assert_eq!(unknown.to_string(), "FROM_THE_FUTURE");
    }
}
