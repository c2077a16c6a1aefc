//! Tests of the state machine, on rows in memory.

mod directory;
mod faults;
pub(crate) mod harness;
mod lanes;
mod past;
mod proofs;
mod property;
mod records;
mod replay;
mod sessions;
mod transactions;
