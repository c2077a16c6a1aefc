//! Tests of the state machine, on rows in memory.

mod directory;
mod faults;
pub(crate) mod harness;
mod proofs;
mod property;
mod records;
mod sessions;
mod transactions;
