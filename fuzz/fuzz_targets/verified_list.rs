//! Fuzz target `verified_list`; what it checks is in `fuzz/bodies/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ledger_fuzz_bodies::run("verified_list", input));
