//! What a failed read of stored tree or log nodes means. Never a client's mistake: the replica
//! stops.

use thiserror::Error;

/// Stored state could not be read or is not what its hash says. Fatal to the replica that meets it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadFault {
    /// The storage engine failed.
    #[error("reading stored state failed: {0}")]
    Io(String),
    /// Stored bytes contradict the hash, count or format that something above them commits to.
    #[error("stored state is corrupt: {what}")]
    Corrupt {
        /// What does not fit, as a sentence without its end.
        what: &'static str,
    },
}

impl ReadFault {
    /// Shorthand for [`ReadFault::Corrupt`].
    pub(crate) fn corrupt(what: &'static str) -> ReadFault {
        ReadFault::Corrupt { what }
    }
}
