//! The shared nouns of the ledger: identifiers, digests, operations, limits and state keys.
//!
//! Owns vocabulary that two or more crates need, and the checks that make a value valid. Must never do
//! I/O, hold policy, read a clock or draw random numbers.

mod digest;
mod ids;
mod key;
pub mod limits;
mod operation;

pub use digest::Digest;
pub use ids::{
    ClusterId, GroupId, Incarnation, NamespaceId, NodeId, OwnerEpoch, StoreId, TxId, VaultId,
    VaultRef,
};
pub use key::{InvalidInput, StateKey, check_client_string, check_name};
pub use operation::{Condition, Dedup, Operation, Outcome};
