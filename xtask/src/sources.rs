//! Habits that every source file keeps: a header, a size, a name, and a few words that may not
//! occur. Judges one file at a time.

use crate::code::{code_only, has_word, lines_without_tests, names_crate};
use crate::{Finding, TextFile};

/// A file may have this many lines, tests left out.
pub const FILE_LINES_MAX: usize = 600;

/// Names that say nothing about what a file owns.
const REFUSED_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "manager", "misc", "shared"];
/// Constructors of queues that nothing bounds.
const UNBOUNDED_QUEUES: &[&str] = &["unbounded_channel(", "unbounded()", "unbounded::<"];
/// Files whose queues are bounded by bytes instead of places, each with what bounds them.
const BOUNDED_BY_BYTES: &[(&str, &str)] = &[
    ("shard/src/driver.rs", "events hold permits of the byte gauges in ingress.rs"),
    ("shard/src/ingress.rs", "a test's channel under the same gauges"),
    ("shard/src/pipeline.rs", "two log rounds, and the byte limit of unapplied entries"),
];
/// Marks of unfinished work, split so that this file does not contain them.
const UNFINISHED_MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Crates whose results must be the same bits on every machine.
const FLOAT_FREE: &[&str] = &["types/src/", "proof/src/", "shard/core/src/"];
/// Per crate directory: a dependency and the only files, or directories with all below them, that may name it.
pub const SOLE_NAMERS: &[(&str, &str, &[&str])] = &[
    ("shard/core/", "raft", &["shard/core/src/replica.rs", "shard/core/src/replica/"]),
    ("proof/", "rs_merkle", &["proof/src/tx_tree.rs"]),
];

/// Checks one file; files that are not Rust are checked for unfinished marks only.
pub fn check(file: &TextFile) -> Vec<Finding> {
    let mut findings = unfinished_marks(file);
    if !file.path.ends_with(".rs") {
        return findings;
    }
    let mut report = |message: String| findings.push(Finding::new(&file.path, message));
    if !file.text.starts_with("//!") {
        report("must start with //! saying what the module owns".into());
    }
    let stem = file.path.rsplit('/').next().unwrap_or("").trim_end_matches(".rs");
    if REFUSED_NAMES.contains(&stem) {
        report(format!("`{stem}` says nothing; name the file after what it owns"));
    }
    if let Some(message) = length_message(file) {
        report(message);
    }
    let code = code_only(&file.text);
    let by_bytes = BOUNDED_BY_BYTES.iter().any(|(path, _)| *path == file.path);
    for queue in UNBOUNDED_QUEUES.iter().filter(|queue| !by_bytes && code.contains(**queue)) {
        report(format!("`{queue}` makes a queue without a bound"));
    }
    if FLOAT_FREE.iter().any(|directory| file.path.starts_with(directory)) {
        for word in ["f32", "f64"].iter().filter(|word| has_word(&code, word)) {
            report(format!("`{word}` is not exact; replicas must compute the same bits"));
        }
    }
    for (directory, dependency, namers) in SOLE_NAMERS {
        let is_namer = |namer: &str| {
            file.path == *namer || (namer.ends_with('/') && file.path.starts_with(namer))
        };
        let may_name = !file.path.starts_with(directory) || namers.iter().copied().any(is_namer);
        if !may_name && names_crate(&code, dependency) {
            report(format!("only {} may name `{dependency}`", namers.join(", ")));
        }
    }
    findings
}

fn unfinished_marks(file: &TextFile) -> Vec<Finding> {
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| UNFINISHED_MARKS.iter().any(|mark| has_word(line, mark)))
        .map(|(number, _)| {
            let place = format!("{}:{}", file.path, number + 1);
            Finding::new(place, "unfinished work does not enter the repository")
        })
        .collect()
}

fn length_message(file: &TextFile) -> Option<String> {
    let is_test = file.path.ends_with("/tests.rs")
        || ["tests/", "benches/"].iter().any(|directory| {
            file.path.starts_with(directory) || file.path.contains(&format!("/{directory}"))
        });
    if is_test {
        return None;
    }
    let lines = lines_without_tests(&file.text);
    (lines > FILE_LINES_MAX)
        .then(|| format!("{lines} lines without tests, at most {FILE_LINES_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> String {
        let findings = check(&TextFile { path: path.into(), text: text.into() });
        findings.iter().map(|finding| finding.to_string() + "\n").collect()
    }

    #[test]
    fn a_plain_file_passes() {
        assert_eq!(messages("types/src/key.rs", "//! Keys.\npub fn f() {}\n"), "");
    }

    #[test]
    fn a_missing_header_is_found() {
        assert!(messages("types/src/key.rs", "pub fn f() {}\n").contains("must start with //!"));
    }

    #[test]
    fn an_empty_name_is_found() {
        assert!(messages("src/utils.rs", "//! Odds and ends.\n").contains("says nothing"));
    }

    #[test]
    fn a_long_file_is_found_and_tests_do_not_count() {
        let body = "fn f() {}\n".repeat(FILE_LINES_MAX);
        let long = format!("//! Long.\n{body}");
        assert!(messages("src/edge.rs", &long).contains("601 lines without tests"));
        let tested = format!("//! Short.\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert_eq!(messages("src/edge.rs", &tested), "");
        assert_eq!(messages("shard/core/src/apply/tests.rs", &long), "");
    }

    #[test]
    fn an_unbounded_queue_is_found_in_code_and_not_in_comments() {
        let code = "//! Queue.\nfn f() { let (s, r) = unbounded_channel(); }\n";
        assert!(messages("src/queue.rs", code).contains("without a bound"));
        assert_eq!(messages("src/queue.rs", "//! Queue.\n// never unbounded()\n"), "");
    }

    #[test]
    fn unfinished_marks_are_found_in_any_text() {
        let text = format!("fine\n# {}: later\n", UNFINISHED_MARKS[0]);
        assert!(messages("deploy/Dockerfile", &text).starts_with("deploy/Dockerfile:2:"));
    }

    #[test]
    fn floats_are_found_in_deterministic_crates_only() {
        let text = "//! Rate.\nfn rate() -> f64 { 0.5 }\n";
        assert!(messages("shard/core/src/rate.rs", text).contains("not exact"));
        assert_eq!(messages("src/rate.rs", text), "");
    }

    #[test]
    fn naming_raft_outside_its_file_is_found() {
        let text = "//! Apply.\nuse raft::RawNode;\n";
        assert!(messages("shard/core/src/apply.rs", text).contains("may name `raft`"));
        assert_eq!(messages("shard/core/src/replica.rs", text), "");
        assert_eq!(messages("shard/core/src/replica/storage.rs", text), "");
        assert!(messages("shard/core/src/replica_set.rs", text).contains("may name `raft`"));
    }

    #[test]
    fn naming_rs_merkle_outside_its_file_is_found() {
        let text = "//! Log.\nuse rs_merkle::MerkleTree;\n";
        assert!(messages("proof/src/block_log.rs", text).contains("may name `rs_merkle`"));
    }
}
