//! A deterministic simulator of a whole cluster on the shipped core and state machine.
//!
//! Owns simulated disks, networks, clocks, clients and faults, and the invariants that are checked after every
//! event. Everything follows from one number. Must never start a thread, read a clock or touch a real disk:
//! only the program around it reads and writes files of actions.

mod actions;
mod boot;
mod chance;
mod clock;
mod disk;
mod faults;
mod finale;
mod fingerprint;
mod host;
mod invariants;
mod members;
mod network;
mod node;
mod raft_header;
mod recompute;
pub mod replay;
mod report;
mod run;
mod setup;
pub mod shrink;
mod snapshots;
mod stages;
mod swarm;
mod workload;
mod world;

pub use actions::{Act, Action, Request, RequestKind, Trouble};
pub use faults::Fault;
pub use fingerprint::Fingerprint;
pub use report::{Counts, Violation};
pub use run::{Outcome, run};
pub use world::{Options, Sabotage};
