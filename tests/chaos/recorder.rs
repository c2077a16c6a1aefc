//! What was seen, by whom and when: the history that the judges get.
//!
//! Owns the clock and the lists. Must never judge, except by counting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_history::record::{Answer, Call, Operation, Outcome, SeenBlock};
use ledger_proof::BlockHeader;
use ledger_types::VaultRef;
use parking_lot::Mutex;

/// Everything that a round records.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Instant,
    operations: Mutex<Vec<Operation>>,
    blocks: Mutex<Vec<SeenBlock>>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    diary: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Recorder {
    /// An empty record that begins now.
    pub(crate) fn new() -> Recorder {
        Recorder {
            begun: Instant::now(),
            operations: Mutex::default(),
            blocks: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
            diary: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the beginning, on the one clock of the history.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).expect("a round is shorter than centuries")
    }

    /// Time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Asks everybody who records to finish.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// True once everybody is asked to finish.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Keeps an operation that has ended.
    pub(crate) fn operation(&self, operation: Operation) {
        let call = match operation.call {
            Call::Set(_) => "set",
            Call::Create(_) => "create",
            Call::Replace { .. } => "replace",
            Call::Delete => "delete",
            Call::Read => "read",
        };
        let outcome = match &operation.outcome {
            Outcome::Done { answer: Answer::Written { .. }, .. } => "written",
            Outcome::Done { answer: Answer::ConditionFailed, .. } => "condition failed",
            Outcome::Done { answer: Answer::Value(_), .. } => "value read",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        };
        self.count(call);
        self.count(outcome);
        self.operations.lock().push(operation);
    }

    /// Keeps a block that somebody saw.
    pub(crate) fn block(&self, block: SeenBlock) {
        self.blocks.lock().push(block);
    }

    /// Keeps a block whose header somebody saw.
    pub(crate) fn header(&self, witness: &str, vault: VaultRef, header: &BlockHeader) {
        self.block(SeenBlock {
            witness: witness.to_owned(),
            vault,
            height: header.height,
            block_hash: header.block_hash(),
            state_root: header.state_root,
        });
    }

    /// Keeps something that must never be seen.
    pub(crate) fn violation(&self, what: String) {
        self.violations.lock().push(what);
    }

    /// Writes something down with its time.
    pub(crate) fn note(&self, what: &str) {
        let at = self.elapsed().as_secs_f64();
        self.diary.lock().push(format!("{at:>9.3} s  {what}"));
    }

    /// What was written down so far.
    pub(crate) fn diary(&self) -> Vec<String> {
        self.diary.lock().clone()
    }

    /// Counts something.
    pub(crate) fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    /// Counts something that happened several times.
    pub(crate) fn count_many(&self, what: &'static str, times: u64) {
        *self.counts.lock().entry(what).or_default() += times;
    }

    /// Operations so far, in the order in which they ended.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().clone()
    }

    /// Blocks that were seen so far.
    pub(crate) fn blocks(&self) -> Vec<SeenBlock> {
        self.blocks.lock().clone()
    }

    /// What must never have been seen.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// Everything that was counted.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }
}
