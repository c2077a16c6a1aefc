//! The wire: messages and services generated from the `.proto` files of this crate, and the
//! conversions between them and domain types.
//!
//! Generated types stop here: other crates convert at their edge and hand domain types on. Must
//! never hold policy, do I/O, or name anything of the node.

pub mod convert;

/// The package `ledger.v1` that clients see: messages, and a client and a server module for each
/// service.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("ledger.v1");
}

/// The package `ledger.internal.v1`, spoken between nodes and refused to anything else.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated code"
)]
pub mod internal {
    tonic::include_proto!("ledger.internal.v1");
}

/// The compiled descriptors of `ledger.v1` and what it imports, for reflection. Internal services
/// are not in it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ledger_v1.bin"));
