//! A node of the ledger: the one place where runtime, sockets, configuration and clock meet.
//!
//! Owns wiring and everything that faces the outside. Must never decide what a command does or whether a
//! proof holds; that is below, in crates without I/O.

pub mod admission;
pub mod bootstrap;
pub mod bundle_link;
pub mod checkpoints;
pub mod clock_guard;
pub mod commands;
pub mod config;
pub mod context;
pub mod cosigning;
pub mod demo;
pub mod directory;
pub mod edge;
pub mod expiry;
pub mod http;
pub mod leadership;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod purge;
pub mod quarantine;
pub mod reconciler;
pub mod signed_history;
pub mod signer;
pub mod snapshots;
#[cfg(feature = "failpoints")]
pub mod test_hooks;
pub mod vault_snapshots;
