//! What the fuzz targets do with their input: one function for each decoder of bytes from outside.
//!
//! Owns the properties that every decoder must keep: it ends with a value or a typed error and never in a panic, what
//! it accepts is the one encoding of what it says, and reading again what was written gives the same. Must never do
//! I/O or keep anything between two inputs: an input that failed once must fail again. The fuzzer runs these
//! functions, and so do the tests of this crate, over the files of `fuzz/corpus/`.

mod checkpoints;
mod edge;
mod log;
mod page_tokens;
mod proofs;
mod raft;
mod rows;
mod snapshots;
mod trust;
mod wire;

pub use page_tokens::sealed_page_token;
pub use raft::{RAFT_GROUP, recorded_messages};
pub use trust::sample_bundle;

/// What a decoder said of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the encoding of something.
    Accepted,
    /// A typed error came back.
    Refused,
}

/// One decoder, or a few that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzz target and of its corpus.
    pub name: &'static str,
    /// Decodes an input and checks everything about it. Panics if a property is broken.
    pub run: fn(&[u8]) -> Verdict,
}

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "block_header", run: proofs::block_header },
    Target { name: "checkpoint", run: checkpoints::checkpoint },
    Target { name: "checkpoint_rows", run: checkpoints::rows },
    Target { name: "client_requests", run: wire::client_requests },
    Target { name: "genesis", run: trust::genesis },
    Target { name: "key_proof", run: proofs::key_proof },
    Target { name: "list_proof", run: proofs::list_proof },
    Target { name: "log_entry", run: log::entry },
    Target { name: "page_token", run: page_tokens::page_token },
    Target { name: "peer_frames", run: wire::peer_frames },
    Target { name: "raft_messages", run: raft::raft_messages },
    Target { name: "receipt", run: proofs::receipt },
    Target { name: "rows", run: rows::rows },
    Target { name: "saved_proof", run: trust::saved_proof },
    Target { name: "signed_note", run: checkpoints::signed_note },
    Target { name: "snapshot_manifest", run: snapshots::manifest },
    Target { name: "snapshot_records", run: snapshots::records },
    Target { name: "state_key", run: rows::state_key },
    Target { name: "system_entity", run: trust::system_entity },
    Target { name: "transaction", run: log::transaction },
    Target { name: "tree_page", run: proofs::tree_page },
    Target { name: "trust_bundle", run: trust::trust_bundle },
    Target { name: "verified_list", run: proofs::verified_list },
    Target { name: "verified_read", run: proofs::verified_read },
];

/// Runs the target of this name, for the fuzzer.
///
/// # Panics
///
/// If a property is broken, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a fuzz target is named after its body");
    (target.run)(input);
}

/// Checks that an accepted input is what its value is written as, and reads back.
fn canonical<T, E>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Verdict
where
    T: PartialEq + std::fmt::Debug,
    E: std::fmt::Debug + std::fmt::Display,
{
    match decode(input) {
        Ok(value) => {
            let written = encode(&value);
            assert_eq!(written, input, "two encodings of one value are accepted");
            let again = decode(&written).expect("what was accepted is accepted again");
            assert_eq!(again, value, "a value changes when it is written and read");
            Verdict::Accepted
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error says something");
            Verdict::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the property refuses a decoder of one number below 100 that has been made worse.
    fn is_caught(decode: fn(&[u8]) -> Result<u8, String>, encode: fn(&u8) -> Vec<u8>) -> bool {
        let inputs: [&[u8]; 4] = [&[7], &[7, 0], &[], &[200]];
        inputs
            .iter()
            .any(|input| std::panic::catch_unwind(|| canonical(input, decode, encode)).is_err())
    }

    fn good(input: &[u8]) -> Result<u8, String> {
        match input {
            [number @ 0..100] => Ok(*number),
            _ => Err("no number".to_owned()),
        }
    }

    #[test]
    fn decoders_that_are_not_canonical_are_caught() {
        assert!(!is_caught(good, |number| vec![*number]));
        assert!(is_caught(|input| good(&input[..input.len().min(1)]), |number| vec![*number]));
        assert!(is_caught(|input| Ok(input[0]), |number| vec![*number]));
        assert!(is_caught(|input| good(input).map_err(|_| String::new()), |number| vec![*number]));
        assert!(is_caught(good, |number| vec![*number, 0]));
    }

    #[test]
    fn targets_have_names_of_their_own() {
        assert!(TARGETS.is_sorted_by(|left, right| left.name < right.name));
    }
}
