//! The two tables that a run prints.

use std::time::Duration;

use crate::cost::us_each;

/// What a number of changed keys cost one structure.
#[derive(Default)]
pub(crate) struct Updates {
    pub(crate) keys: u64,
    /// New root of every batch, all reads of stored nodes and rows included.
    pub(crate) update: Duration,
    /// Encoding the pages.
    pub(crate) flush: Duration,
    /// Giving memory back.
    pub(crate) evict: Duration,
    /// Written pages or nodes, with their keys.
    pub(crate) written_bytes: u64,
    /// Most that the structure itself says it holds, `None` if it holds nothing between batches.
    pub(crate) held_bytes_max: Option<usize>,
}

/// What making and checking one kind of proof cost.
#[derive(Default)]
pub(crate) struct Proofs {
    pub(crate) count: u64,
    pub(crate) make: Duration,
    pub(crate) verify: Duration,
    pub(crate) bytes: u64,
}

/// Both tables while they grow. Rows are printed at once as well, for a run takes minutes.
#[derive(Default)]
pub(crate) struct Report {
    updates: Vec<String>,
    proofs: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn updates(&mut self, structure: &str, keys: u64, batch: u64, cost: &Updates) {
        let each = |spent| us_each(spent, cost.keys);
        let held = cost.held_bytes_max.map(|bytes| format!("{:.1}", bytes as f64 / 1048576.0));
        let row = format!(
            "| {structure} | {keys} | {batch} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {} |",
            each(cost.update + cost.flush + cost.evict),
            each(cost.update),
            each(cost.flush),
            each(cost.evict),
            cost.written_bytes / cost.keys.max(1),
            held.unwrap_or_default(),
        );
        say(&row);
        self.updates.push(row);
    }

    pub(crate) fn proofs(&mut self, proof: &str, keys: u64, cost: &Proofs) {
        let row = format!(
            "| {proof} | {keys} | {:.1} | {:.1} | {} |",
            us_each(cost.make, cost.count),
            us_each(cost.verify, cost.count),
            cost.bytes / cost.count.max(1),
        );
        say(&row);
        self.proofs.push(row);
    }

    pub(crate) fn note(&mut self, note: String) {
        say(&note);
        self.notes.push(note);
    }

    pub(crate) fn print(&self) {
        say(
            "\n| structure | keys | batch | CPU us per key | of it update | flush | evict | bytes written per key | most held MiB |",
        );
        say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        self.updates.iter().for_each(|row| say(row));
        say("\n| proof | keys | make, CPU us | verify, CPU us | bytes |");
        say("| --- | --- | --- | --- | --- |");
        self.proofs.iter().for_each(|row| say(row));
        say("");
        self.notes.iter().for_each(|row| say(row));
    }
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "a measurement prints its table")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
