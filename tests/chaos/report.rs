//! What a round did and found, printed, and kept in a directory if something is wrong.
//!
//! Owns the text and the files. The history is one JSON object in a line for each operation and each block seen.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger_history::record::{Answer, Call, Operation, Outcome, SeenBlock};
use serde_json::{Value, json};

/// Tells how far things are, at once: what a test prints is kept back until the test is over, and lost if it never is.
pub(crate) fn tell(what: impl fmt::Display) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "chaos: {what}");
}

/// Where the directories of failed rounds go; the system's directory for temporary files by default.
pub(crate) const DIRECTORY_VARIABLE: &str = "LEDGER_CHAOS_REPORTS";
/// Violations that are printed; all are in the report.
const PRINTED_MAX: usize = 12;

/// A round that is over.
#[derive(Debug)]
pub(crate) struct Report {
    /// The mix of faults.
    pub(crate) mix: String,
    /// The seed that it was drawn from.
    pub(crate) seed: u64,
    /// How long faults were done.
    pub(crate) time: Duration,
    /// From the end of the last fault until every vault took a write.
    pub(crate) healed_after: Duration,
    /// Faults by kind.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// The faults with their times.
    pub(crate) diary: Vec<String>,
    /// Operations by call and by outcome, and what else was counted.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What was checked, and how much of it.
    pub(crate) checks: Vec<(&'static str, u64)>,
    /// What must not be.
    pub(crate) violations: Vec<String>,
    /// The history.
    pub(crate) operations: Vec<Operation>,
    /// The blocks that anyone saw.
    pub(crate) blocks: Vec<SeenBlock>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { mix, seed, time, healed_after, .. } = self;
        writeln!(
            f,
            "mix {mix}, seed {seed}, {time:.1?} of faults, healed after {healed_after:.1?}"
        )?;
        writeln!(
            f,
            "  faults: {}",
            list(self.faults.iter().map(|(name, n)| (*name, u64::from(*n))))
        )?;
        writeln!(f, "  seen:   {}", list(self.counts.iter().map(|(name, n)| (*name, *n))))?;
        writeln!(f, "  checks: {}", list(self.checks.iter().copied()))?;
        for violation in self.violations.iter().take(PRINTED_MAX) {
            writeln!(f, "  VIOLATION {violation}")?;
        }
        write!(f, "  {} violations", self.violations.len())
    }
}

fn list<'a>(items: impl Iterator<Item = (&'a str, u64)>) -> String {
    let items: Vec<String> = items.map(|(name, count)| format!("{name} {count}")).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

impl Report {
    /// Keeps everything in a new directory, where the environment wants it, and tells which.
    pub(crate) fn keep(&self, log_files: &[PathBuf]) -> PathBuf {
        let wanted = std::env::var_os(DIRECTORY_VARIABLE);
        self.keep_below(&wanted.map_or_else(std::env::temp_dir, PathBuf::from), log_files)
    }

    fn keep_below(&self, parent: &Path, log_files: &[PathBuf]) -> PathBuf {
        let name = format!("ledger-chaos-{}-{}-{}", self.mix, self.seed, std::process::id());
        let directory = parent.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut summary = self.to_string();
        for violation in &self.violations {
            write!(summary, "\n\n{violation}").unwrap();
        }
        std::fs::write(directory.join("summary.txt"), summary).unwrap();
        std::fs::write(directory.join("faults.txt"), self.diary.join("\n")).unwrap();
        write_lines(
            &directory.join("operations.jsonl"),
            self.operations.iter().map(operation_json),
        );
        write_lines(&directory.join("blocks.jsonl"), self.blocks.iter().map(block_json));
        for file in log_files {
            let name = file.file_name().expect("a log file has a name");
            std::fs::copy(file, directory.join(name)).unwrap();
        }
        directory
    }
}

fn write_lines(path: &Path, lines: impl Iterator<Item = Value>) {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
}

fn operation_json(operation: &Operation) -> Value {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let call = match &operation.call {
        Call::Set(value) => json!({ "set": text(value) }),
        Call::Create(value) => json!({ "create": text(value) }),
        Call::Replace { expected, value } => {
            json!({ "replace": text(expected), "by": text(value) })
        }
        Call::Delete => json!("delete"),
        Call::Read => json!("read"),
    };
    let outcome = match &operation.outcome {
        Outcome::Done { returned_ns, answer } => match answer {
            Answer::Written { height } => json!({ "returned_ns": returned_ns, "height": height }),
            Answer::ConditionFailed => {
                json!({ "returned_ns": returned_ns, "condition_failed": true })
            }
            Answer::Value(value) => {
                let value = value.as_ref().map(|value| text(value));
                json!({ "returned_ns": returned_ns, "value": value })
            }
        },
        Outcome::Failed => json!("failed"),
        Outcome::Unknown => json!("unknown"),
    };
    json!({
        "client": operation.client, "vault": operation.vault.to_string(), "key": operation.key,
        "call": call, "invoked_ns": operation.invoked_ns, "outcome": outcome,
    })
}

fn block_json(block: &SeenBlock) -> Value {
    json!({
        "witness": block.witness, "vault": block.vault.to_string(), "height": block.height,
        "block_hash": block.block_hash.to_string(), "state_root": block.state_root.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use ledger_types::{Digest, VaultRef};

    use super::*;

    #[test]
    fn what_is_kept_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("node-0.log");
        std::fs::write(&log, "said\n").unwrap();
        let vault = VaultRef::new(1, 2);
        let operation = |call, outcome| Operation {
            client: 3,
            vault,
            key: "k".to_owned(),
            call,
            invoked_ns: 5,
            outcome,
        };
        let done = |answer| Outcome::Done { returned_ns: 9, answer };
        let (block_hash, state_root) = (Digest([1; 32]), Digest([2; 32]));
        let witness = "watcher".to_owned();
        let report = Report {
            mix: "kill".to_owned(),
            seed: 7,
            time: Duration::from_secs(1),
            healed_after: Duration::from_secs(2),
            faults: BTreeMap::from([("kill", 4)]),
            diary: vec!["first".to_owned(), "second".to_owned()],
            counts: BTreeMap::new(),
            checks: vec![("blocks", 5)],
            violations: vec!["lost write".to_owned()],
            operations: vec![
                operation(Call::Set(b"v".to_vec()), done(Answer::Written { height: 6 })),
                operation(Call::Read, done(Answer::Value(None))),
                operation(Call::Delete, Outcome::Unknown),
            ],
            blocks: vec![SeenBlock { witness, vault, height: 6, block_hash, state_root }],
        };
        let kept = report.keep_below(folder.path(), &[log]);
        let read = |name: &str| std::fs::read_to_string(kept.join(name)).unwrap();
        let summary = read("summary.txt");
        for words in ["mix kill, seed 7", "kill 4", "blocks 5", "VIOLATION lost write"] {
            assert!(summary.contains(words), "{words}: {summary}");
        }
        assert_eq!(read("faults.txt"), "first\nsecond");
        assert_eq!(read("node-0.log"), "said\n");
        let lines: Vec<Value> = read("operations.jsonl")
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["call"]["set"], "v");
        assert_eq!(lines[0]["outcome"]["height"], 6);
        assert_eq!(lines[1]["outcome"]["value"], Value::Null);
        assert_eq!(lines[2]["outcome"], "unknown");
        assert!(read("blocks.jsonl").contains("0101"));
    }
}
