//! The program: what it prints, and with which code it ends.
#![expect(clippy::disallowed_methods, reason = "a test of a program starts it and reads its files")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_ledger-sim")).args(arguments).output();
    output.expect("the program starts")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn seeds_that_hold_end_with_0_and_counts() {
    let output = sim(&["--seeds", "2", "--events", "2000"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("events/s") && text.contains("every invariant held"), "{text}");
    assert!(text.contains("faults: ") && text.contains("answers checked"), "{text}");
}

#[test]
fn a_broken_invariant_ends_with_1_and_a_file_that_shows_it_again() {
    let path = file("stale.jsonl");
    let path = path.to_str().expect("a plain path");
    let output =
        sim(&["--seeds", "20", "--events", "3000", "--sabotage", "stale-read", "--save", path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("invariant \"fresh reads\"") && text.contains("--replay"), "{text}");
    let again = sim(&["--replay", path]);
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(again.status.code(), Some(1), "{text}");
    assert!(text.contains("invariant \"fresh reads\""), "{text}");
    // Without the sabotage in its first line the same file does no harm.
    let honest = std::fs::read_to_string(path).expect("it was just written");
    std::fs::write(path, honest.replace("\"stale-read\"", "null")).expect("a temporary file");
    assert_eq!(sim(&["--replay", path]).status.code(), Some(0));
}

#[test]
fn what_cannot_be_done_ends_with_2_and_a_reason() {
    let bad = file("bad.jsonl");
    std::fs::write(&bad, "not a list").expect("a temporary file");
    let bad = bad.to_str().expect("a plain path").to_owned();
    let gone = file("gone.jsonl").to_str().expect("a plain path").to_owned();
    for (arguments, reason) in [
        (vec!["--replay", gone.as_str()], "cannot read"),
        (vec!["--replay", bad.as_str()], "line 1"),
        (vec!["--replay", bad.as_str(), "--seed", "3"], "cannot be used with"),
        (vec!["--sabotage", "sloth"], "early-acknowledgement"),
        (vec!["--seeds", "0"], "--seeds"),
        (vec!["--seeds", "many"], "invalid"),
        (vec!["--events", "0"], "--events"),
        (vec!["--fast"], "--fast"),
    ] {
        let output = sim(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
}
