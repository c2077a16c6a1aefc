//! The published clients against a real cluster, unchanged: `inferadb-ledger-sdk` and the storage backend of the Engine,
//! `inferadb-common-storage-ledger`, as they lie on crates.io.
//!
//! Owns what those clients may rely on. `make test` runs this after it has built the server; by hand, with the same
//! `CARGO_TARGET_DIR`: `cargo test --manifest-path tests/interop/Cargo.toml --locked`.

mod published {
    mod failover;
    mod fixture;
    mod lists;
    mod places;
    mod storage;
    mod writes;
}
