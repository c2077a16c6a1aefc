//! A request and what is known of it.
//!
//! Owns the record. Must never change itself: the clients fill it in as they are answered.

use ledger_types::{Dedup, GroupId, Operation, VaultRef};

use crate::clock::Micros;

/// A step of a vault's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The vault takes nothing in any more.
    Delete,
    /// Its rows are removed.
    Purge,
}

/// What a request is known to have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Asked, and not answered for good.
    Open,
    /// Answered as committed, or with a value.
    Acknowledged,
    /// Answered as without effect.
    Refused,
    /// Given up: it may happen or not.
    Unknown,
}

/// A request with everything that is known of it.
pub(crate) struct Asked {
    pub(crate) client: usize,
    pub(crate) group: GroupId,
    pub(crate) vault: VaultRef,
    pub(crate) dedup: Dedup,
    pub(crate) operations: Vec<Operation>,
    pub(crate) is_read: bool,
    /// It records a signed checkpoint.
    pub(crate) is_checkpoint: bool,
    /// It ends the vault.
    pub(crate) ending: Option<Ending>,
    /// Somebody knew that the vault was deleted when the request was made.
    pub(crate) is_late: bool,
    pub(crate) key: String,
    /// Height of the vault that was known to somebody when the request was made.
    pub(crate) floor: u64,
    /// Where it is in the vault's chain.
    pub(crate) placed: Option<(u64, u32)>,
    pub(crate) state: State,
    pub(super) begun: Micros,
    pub(super) attempt: u32,
    pub(super) node: usize,
    pub(super) repeats: bool,
    /// It may be in somebody's log.
    pub(crate) may_be_logged: bool,
}

#[cfg(test)]
impl Asked {
    /// A read of a key by nobody in particular.
    pub(crate) fn for_test(placed: Option<(u64, u32)>, floor: u64) -> Asked {
        Asked {
            client: 0,
            group: GroupId(1),
            vault: VaultRef::new(1, 0),
            dedup: Dedup::None,
            operations: Vec::new(),
            is_read: true,
            is_checkpoint: false,
            ending: None,
            is_late: false,
            key: "key".to_owned(),
            floor,
            placed,
            state: State::Open,
            begun: 0,
            attempt: 1,
            node: 0,
            repeats: false,
            may_be_logged: false,
        }
    }
}
