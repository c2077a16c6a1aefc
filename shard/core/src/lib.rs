//! Everything about a node's Raft groups except disk, sockets, threads and clocks.
//!
//! Owns the consensus turn ([`NodeCore`]), the replicated log's encoding ([`entry`]), the state machine
//! ([`apply`]) and the layout of rows ([`rows`]). Must never do I/O, read a clock, draw random numbers
//! that were not handed in, or iterate an unordered map: the simulator runs this code byte for byte.

pub mod apply;
pub mod boot;
pub mod command;
pub mod effects;
pub mod entry;
pub mod integrity;
mod log_cache;
mod node_core;
pub mod query;
pub mod records;
mod replica;
pub mod rows;
pub mod snapshot;
#[cfg(test)]
mod vectors;
pub mod view;

pub use node_core::{CoreConfig, NodeCore};
