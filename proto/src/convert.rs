//! Conversions between wire messages and domain types, one file per area.
//!
//! Owns every check that can be made of a request by itself: presence, sign, length, count, legal
//! characters. Must never look at state, and never make a gRPC status: the node has one place for
//! that.

pub mod block;
pub mod changes;
pub mod conditions;
pub mod consistency;
pub mod cosigning;
pub mod dedup;
mod error;
pub mod ids;
pub mod imports;
pub mod limits;
pub mod lists;
pub mod operations;
pub mod peers;
pub mod reads;
pub mod snapshots;
pub mod times;
pub mod writes;

pub use consistency::Consistency;
pub use error::ConvertError;
