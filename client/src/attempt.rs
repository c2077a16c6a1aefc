//! What one failed attempt means: whether the request may have been carried out, and what to do next.
//!
//! The only place that decides about retries. Must never wait or send.

use std::error::Error as _;
use std::time::Duration;

use ledger_proto::v1;
use ledger_types::GroupId;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::error::{ClientError, ServerError};
use crate::reason::Reason;

/// What a call does, as far as repeating it is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It only reads.
    Reads,
    /// It writes under an idempotency key, so the cluster carries it out once however often it is sent.
    WritesOnce,
    /// It writes, and a second request would write again.
    WritesEachTime,
}

/// How an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection came up, so nothing was sent.
    NotConnected(String),
    /// The connection broke while the request was under way.
    Broken(String),
    /// The attempt's time was up.
    TimedOut,
    /// The node answered with an error.
    Refused(Box<ServerError>),
}

/// What to do after a failed attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Give up: another attempt would end the same way or do harm.
    GiveUp,
    /// Ask the node named, at once.
    Follow(String),
    /// Ask another node after the backoff.
    Elsewhere,
    /// Ask again after the backoff, and no sooner than the node asked for.
    After(Duration),
}

impl Failure {
    /// Sorts a status by where it comes from: made here by the transport, or sent by a node.
    pub(crate) fn from_status(status: &Status) -> Failure {
        let mut cause = status.source();
        let local = cause.is_some();
        let mut text = status.message().to_owned();
        while let Some(error) = cause {
            if error.is::<tonic::TimeoutExpired>() {
                return Failure::TimedOut;
            }
            if error.is::<tonic::ConnectError>() {
                return Failure::NotConnected(innermost(error));
            }
            text = error.to_string();
            cause = error.source();
        }
        if local {
            return Failure::Broken(text);
        }
        let error = ServerError::from_status(status);
        match (error.code, &error.reason) {
            // With a reason it is a node's word that nothing was done.
            (Code::DeadlineExceeded, Reason::Missing) => Failure::TimedOut,
            _ => Failure::Refused(Box::new(error)),
        }
    }

    /// A node's refusal of one request of a stream.
    pub(crate) fn from_refusal(refusal: v1::Refusal) -> Failure {
        let error = ServerError::from_refusal(refusal);
        match (error.code, &error.reason) {
            (Code::DeadlineExceeded, Reason::Missing) => Failure::TimedOut,
            _ => Failure::Refused(Box::new(error)),
        }
    }

    /// The failure of another request of the same stream, which had not been sent when the stream ended.
    pub(crate) fn before_sending(&self) -> Failure {
        match self {
            Failure::Refused(error) if !self.may_have_happened() => Failure::Refused(error.clone()),
            Failure::NotConnected(message) | Failure::Broken(message) => {
                Failure::NotConnected(message.clone())
            }
            Failure::Refused(error) => Failure::NotConnected(error.to_string()),
            Failure::TimedOut => Failure::NotConnected("the stream was not opened in time".into()),
        }
    }

    /// True if the request may have been carried out nevertheless.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self {
            Failure::NotConnected(_) => false,
            Failure::Broken(_) | Failure::TimedOut => true,
            // A node that says why it refused also says so when it does not know. Without a reason the
            // answer comes from something in between, which cannot tell.
            Failure::Refused(error) => match error.reason {
                Reason::OutcomeUnknown => true,
                Reason::Missing => matches!(
                    error.code,
                    Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                ),
                _ => false,
            },
        }
    }

    /// True if the node itself, rather than the request, is the trouble.
    pub(crate) fn is_node_trouble(&self) -> bool {
        match self {
            Failure::NotConnected(_) | Failure::Broken(_) | Failure::TimedOut => true,
            Failure::Refused(error) => {
                matches!(error.reason, Reason::NotReady | Reason::Draining)
            }
        }
    }

    /// True if a node said why, other than that time was up.
    pub(crate) fn says_why(&self) -> bool {
        matches!(self, Failure::Refused(error) if error.reason != Reason::DeadlineExceeded)
    }

    /// What to do next, for a call with this effect.
    pub(crate) fn next(&self, effect: Effect) -> Next {
        if self.may_have_happened() && effect == Effect::WritesEachTime {
            return Next::GiveUp;
        }
        let Failure::Refused(error) = self else { return Next::Elsewhere };
        let asked = error.retry_after;
        match (&error.reason, error.code) {
            (Reason::NotLeader, _) => match error.leader_address() {
                Some(address) => Next::Follow(address.to_owned()),
                None => Next::Elsewhere,
            },
            (Reason::NoLeader | Reason::WrongShard, _) => {
                asked.map_or(Next::Elsewhere, Next::After)
            }
            (
                Reason::NotReady
                | Reason::Draining
                | Reason::OutcomeUnknown
                | Reason::DeadlineExceeded,
                _,
            ) => Next::Elsewhere,
            (_, Code::ResourceExhausted) => asked.map_or(Next::GiveUp, Next::After),
            (_, Code::Unavailable) => asked.map_or(Next::Elsewhere, Next::After),
            (Reason::Missing, Code::Unknown | Code::Cancelled) => Next::Elsewhere,
            _ => Next::GiveUp,
        }
    }

    /// The failure as the caller sees it.
    pub(crate) fn into_error(self, address: &str) -> ClientError {
        let unreachable =
            |message| ClientError::Unreachable { address: address.to_owned(), message };
        match self {
            Failure::NotConnected(message) => unreachable(format!("cannot connect: {message}")),
            Failure::Broken(message) => unreachable(format!("the connection broke: {message}")),
            Failure::TimedOut => unreachable("no answer in time".to_owned()),
            Failure::Refused(error) => ClientError::Server(error),
        }
    }
}

/// The last cause of an error, which is the one that names the system's complaint.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The group that answered and its leader, as the metadata of an answer tell.
pub(crate) fn leader_told(metadata: &MetadataMap) -> (Option<GroupId>, Option<&str>) {
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
    let group = text("ledger-group").and_then(|text| text.parse().ok()).map(GroupId);
    (group, text("ledger-leader").filter(|text| !text.is_empty()))
}

/// The same from the metadata of a refusal.
pub(crate) fn leader_told_by(error: &ServerError) -> (Option<GroupId>, Option<&str>) {
    let group = error.metadata.get("group").and_then(|text| text.parse().ok()).map(GroupId);
    (group, error.leader_address())
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn refusal(code: Code, reason: &str, retry_after_ms: Option<u64>) -> Failure {
        let mut details = ErrorDetails::new();
        let metadata = [("leader_address".to_owned(), "n2:50051".to_owned())];
        details.set_error_info(reason, "ledger.v1", metadata);
        if let Some(ms) = retry_after_ms {
            details.set_retry_info(Some(Duration::from_millis(ms)));
        }
        Failure::from_status(&Status::with_error_details(code, "no", details))
    }

    #[test]
    fn refusals_are_repeated_only_where_that_helps_and_is_safe() {
        let reads = |failure: Failure| failure.next(Effect::Reads);
        let follow = Next::Follow("n2:50051".to_owned());
        assert_eq!(reads(refusal(Code::Unavailable, "NOT_LEADER", Some(50))), follow);
        let wait = Next::After(Duration::from_millis(30));
        assert_eq!(reads(refusal(Code::ResourceExhausted, "OVERLOADED", Some(30))), wait);
        assert_eq!(reads(refusal(Code::Unavailable, "NO_LEADER", Some(30))), wait);
        let too_large = refusal(Code::ResourceExhausted, "ANSWER_TOO_LARGE", None);
        assert_eq!(reads(too_large), Next::GiveUp);
        assert_eq!(reads(refusal(Code::NotFound, "VAULT_NOT_FOUND", None)), Next::GiveUp);
        assert_eq!(reads(refusal(Code::Unavailable, "DRAINING", None)), Next::Elsewhere);
    }

    #[test]
    fn an_unknown_outcome_is_repeated_only_under_a_key() {
        let unknown = refusal(Code::Unknown, "OUTCOME_UNKNOWN", None);
        assert!(unknown.may_have_happened());
        assert_eq!(unknown.next(Effect::WritesOnce), Next::Elsewhere);
        assert_eq!(unknown.next(Effect::WritesEachTime), Next::GiveUp);
        let late = refusal(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None);
        assert!(!late.may_have_happened());
        let dropped_on_the_way = Failure::from_status(&Status::deadline_exceeded("late"));
        assert!(dropped_on_the_way.may_have_happened());
        let refused = refusal(Code::Unavailable, "NOT_LEADER", None);
        assert!(!refused.may_have_happened());
        let from_a_proxy = Failure::from_status(&Status::unavailable("upstream"));
        assert!(from_a_proxy.may_have_happened());
        assert_eq!(from_a_proxy.next(Effect::WritesEachTime), Next::GiveUp);
        assert_eq!(from_a_proxy.next(Effect::WritesOnce), Next::Elsewhere);
    }
}
