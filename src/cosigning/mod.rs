//! Cosignatures: asking the other replicas of a shard for theirs, and answering when asked.
//!
//! A leader that signs a vault's state asks every other voter to cosign it. A voter cosigns what its own log
//! shows, at the time when a read round of its own began, and only if that round did not show a longer log
//! already: a cosignature says that nothing acknowledged before its time is missing.
//!
//! Owns both sides of that conversation. Must never pass on a cosignature that does not hold: one bad line of a
//! known key makes clients refuse the whole note.

mod answer;
mod collect;
mod rounds;

pub use answer::CosignService;
pub use collect::{Shortage, Voters, collect};
pub use rounds::RecentRounds;
