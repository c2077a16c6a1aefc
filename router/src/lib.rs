//! Where requests go: the cached directory, the route decision and the plan for leaders.
//!
//! Owns the typed view of the directory's entities, leader hints and placement arithmetic. Must never do
//! I/O, wait, read a clock or change anything outside its own memory. What it holds may be stale: safety
//! is the owner check where a command is proposed and applied, never a route.

mod change;
mod directory;
mod hints;
pub mod members;
pub mod placement;
mod route;
#[cfg(test)]
mod script;
mod vault_table;

pub use change::EntityChange;
pub use directory::{Delta, Directory, DirectoryError};
pub use hints::{LeaderHint, LeaderHints};
pub use route::{Reach, Route, RouteError, RouteRequest, SYSTEM_OWNER_EPOCH, Target, decide};
pub use vault_table::{VaultLookup, VaultScope};
