//! Judges of recorded histories: was what clients, watchers and auditors saw possible?
//!
//! Owns the record types and the checks. Every check is a function of what was recorded and nothing else, so a
//! history that was kept can be judged again. Must never do I/O, read a clock or draw random numbers, and must
//! never ask the code that it judges.
//!
//! A check returns its findings; none means that the history passed. A check that could not finish says so in a
//! finding of its own: silence always means that the whole history was judged. An empty history passes every check,
//! so whoever records one must also see to it that it is not empty.

pub mod agreement;
pub mod brute_force;
pub mod exactly_once;
pub mod linearizable;
pub mod record;
pub mod watched;

pub use agreement::{Agreement, Fork};
pub use exactly_once::{ChainFinding, ChainWrite, exactly_once};
pub use linearizable::{KeyFinding, Window, linearizable};
pub use record::{Answer, Call, Operation, Outcome, SeenBlock};
pub use watched::{Watch, WatchFinding, watched};
