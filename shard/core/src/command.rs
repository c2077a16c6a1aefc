//! The commands of the replicated log, one file each: encoding, apply and tests.
//!
//! Owns what each kind of command means. Must never own the order in which entries, vaults and blocks are
//! handled: that is [`crate::apply`]'s work.

pub mod create_vault;
pub mod delete_vault;
pub mod purge_vault;
pub mod record_checkpoint;
pub mod system;
pub mod write;
