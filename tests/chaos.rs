//! Real server processes under faults, and judges of what clients saw meanwhile.
//!
//! Owns the faults, the load and the verdict. The only things that these tests change inside a server are fail points
//! (slow disk, clock, sabotage) and whom it dials, both of which exist only in builds with the feature `failpoints`.

#![expect(clippy::unwrap_used, reason = "a failed test stops and says why")]

mod chaos {
    mod chain;
    mod checks;
    mod disk;
    mod faults;
    mod link;
    mod mixes;
    mod namespaces;
    mod network;
    mod nodes;
    mod recorder;
    mod report;
    mod round;
    mod sabotage;
    mod soak;
    mod witnesses;
    mod workload;
}
