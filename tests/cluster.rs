//! The product from outside: real processes on loopback, asked over the wire and killed for real.
//!
//! Nothing here reaches into a process; what a test knows, a user could know too. Clusters run one after
//! the other, because the machines that run these tests are small.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a failed test stops and says why")]

mod cluster {
    mod alike;
    mod auditing;
    mod bad_input;
    mod bad_start;
    mod bulk;
    mod changes;
    #[cfg(feature = "failpoints")]
    mod clocks;
    mod command_line;
    mod compressed;
    mod contents;
    mod cosigning;
    #[cfg(feature = "failpoints")]
    mod crash_points;
    mod deletion;
    mod deployment;
    mod faults;
    #[cfg(feature = "failpoints")]
    mod forwarding;
    mod harness;
    mod heights;
    mod hostile;
    mod joining;
    mod limits;
    mod load;
    mod log_files;
    mod log_proofs;
    mod members;
    mod past_proofs;
    #[cfg(feature = "failpoints")]
    mod points;
    mod proofs;
    mod purging;
    mod python_clients;
    mod quarantine;
    mod raw_call;
    mod recovery;
    #[cfg(feature = "failpoints")]
    mod recovery_crashes;
    mod recovery_disks;
    mod resources;
    mod service_address;
    mod services;
    #[cfg(feature = "failpoints")]
    mod signing_crashes;
    mod store;
    mod vault_snapshots;
    mod vaults;
    mod watching;
    mod write_streams;
    mod writes;
}
