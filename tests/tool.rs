//! `ledger-cli` as a process of its own, against nodes that a test plays: they lie, stop in the middle, or do not
//! answer. The proofs, signatures and connections are real; no server of the product takes part.

#![expect(clippy::unwrap_used, reason = "a failed test stops and says why")]

#[path = "../client/tests/support/mod.rs"]
mod support;

mod tool {
    mod exports;
    mod harness;
    mod lies;
}
