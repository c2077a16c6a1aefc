//! The apply stage: committed entries become rows, then answers.
//!
//! Owns the order "rows written, then told". Must never answer a caller, or report an index as applied,
//! before the rows can be read.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ledger_shard_core::apply::{Applier, ApplyOutput, CommandReply};
use ledger_shard_core::effects::{Committed, Input};
use ledger_shard_core::query::{self, QueryError};
use ledger_types::GroupId;
use parking_lot::Mutex;

use crate::handle::{AppliedCommand, BlockListener};
use crate::ingress::WaitingWrite;
use crate::lanes::ApplyThreads;
use crate::metrics::{Metrics, add};
use crate::store::Store;
use crate::view::LiveView;
use crate::{Fatal, crash_point};

/// A caller and the command of the log that it waits for.
pub(crate) struct WaitingCommand {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) position: u32,
    pub(crate) waiting: WaitingWrite,
}

/// What one turn committed, and who waits for it, both in the order of the log.
#[derive(Default)]
pub(crate) struct ApplyRound {
    pub(crate) committed: Vec<Committed>,
    pub(crate) waiting: VecDeque<WaitingCommand>,
}

impl ApplyRound {
    /// Bytes of the entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.committed.iter().map(committed_bytes).sum()
    }
}

fn committed_bytes(committed: &Committed) -> u64 {
    committed.entries.iter().map(|entry| entry.data.len() as u64 + 64).sum()
}

/// Applies rounds to the store.
pub(crate) struct ApplyStage {
    store: Arc<Store>,
    applier: Arc<Mutex<Applier>>,
    listener: Arc<dyn BlockListener>,
    metrics: Arc<Metrics>,
    fatal: Fatal,
    batch_bytes_max: u64,
    threads: ApplyThreads,
    output: ApplyOutput,
}

impl ApplyStage {
    pub(crate) fn new(
        store: Arc<Store>,
        applier: Arc<Mutex<Applier>>,
        listener: Arc<dyn BlockListener>,
        (batch_bytes_max, threads): (u64, ApplyThreads),
        (metrics, fatal): (Arc<Metrics>, Fatal),
    ) -> ApplyStage {
        let output = ApplyOutput::default();
        ApplyStage { store, applier, listener, metrics, fatal, batch_bytes_max, threads, output }
    }

    /// Applies a round in batches of bounded size and answers those who waited for it.
    pub(crate) fn apply(&mut self, round: ApplyRound, inputs: &mut Vec<Input>) {
        let ApplyRound { committed, mut waiting } = round;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for one in committed {
            bytes += committed_bytes(&one);
            batch.push(one);
            if bytes >= self.batch_bytes_max {
                self.apply_batch(&mem::take(&mut batch), &mut waiting, inputs);
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.apply_batch(&batch, &mut waiting, inputs);
        }
        assert!(waiting.is_empty(), "callers wait only for entries of their own round");
    }

    fn apply_batch(
        &mut self,
        batch: &[Committed],
        waiting: &mut VecDeque<WaitingCommand>,
        inputs: &mut Vec<Input>,
    ) {
        let begin = Instant::now();
        self.output = ApplyOutput::default();
        {
            // Held until the rows are written, so that a proof never meets half a round.
            let mut applier = self.applier.lock();
            let view = LiveView::new(&self.store);
            crash_point!("crash::apply");
            if let Err(fault) = applier.apply_in(&self.threads, batch, &view, &mut self.output) {
                self.fatal.end(&fault.to_string());
            }
            // In key order, because the database's memory tables take neighbours cheaply; rows of one key
            // keep their own order. Unsynced: the entries that made the rows are durable, and replay
            // makes the same rows again.
            self.output.rows.sort_by(|a, b| (a.family, &a.key).cmp(&(b.family, &b.key)));
            crash_point!("crash::apply_write");
            match self.store.write_round(&self.output.erased, &self.output.rows) {
                Ok(bytes) => add(&self.metrics.apply_bytes, bytes),
                Err(error) => self.fatal.end(&error.to_string()),
            }
            applier.written();
        }
        crash_point!("crash::reply");
        answer(batch, mem::take(&mut self.output.replies), waiting);
        crash_point!("crash::replied");
        if !self.output.blocks.is_empty() {
            self.listener.blocks(&self.output.blocks);
        }
        if !self.output.checkpoints.is_empty() {
            self.compare_checkpoints();
        }
        for one in batch {
            let last = one.entries.last().expect("committed entries are never none");
            inputs.push(Input::Applied { group: one.group, index: last.index });
        }
        self.count(batch, begin);
    }

    /// Compares what was signed elsewhere with the logs here.
    fn compare_checkpoints(&mut self) {
        let view = LiveView::new(&self.store);
        let mut checkpoints = mem::take(&mut self.output.checkpoints);
        checkpoints.retain(|noted| match query::log_root(&view, noted.vault, noted.size) {
            Ok(root) if root == noted.root => true,
            Ok(_) => {
                self.listener.contradiction(noted);
                false
            }
            Err(QueryError::Fault(fault)) => {
                self.fatal.end(&format!("a block log cannot be read: {fault}"))
            }
            // A vault that is gone by now contradicts nothing.
            Err(_) => false,
        });
        self.listener.checkpoints(&checkpoints);
    }

    fn count(&self, batch: &[Committed], begin: Instant) {
        let metrics = &self.metrics;
        let entries: usize = batch.iter().map(|one| one.entries.len()).sum();
        let bytes: u64 = batch.iter().map(committed_bytes).sum();
        add(&metrics.apply_rounds, 1);
        add(&metrics.entries_applied, entries as u64);
        add(&metrics.blocks, self.output.blocks.len() as u64);
        let ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        add(&metrics.apply_ns, ns);
        metrics.apply_backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Answers the callers whose commands were applied. All three lists are in the order of the log. Most
/// replies of a follower have no caller here; a command without a reply, which a vault skipped because
/// it had it already, leaves its caller with an unknown outcome.
fn answer(batch: &[Committed], replies: Vec<CommandReply>, waiting: &mut VecDeque<WaitingCommand>) {
    let mut replies = replies.into_iter().peekable();
    for (group, entry) in batch.iter().flat_map(|one| one.entries.iter().map(|e| (one.group, e))) {
        let here = (group, entry.index);
        while let Some(reply) = replies.next_if(|reply| (reply.group, reply.index) == here) {
            while let Some(one) = next_waiting(waiting, here, reply.position) {
                if one.position == reply.position {
                    let CommandReply { group, index, result, .. } = reply;
                    one.waiting.answer(Ok(AppliedCommand { group, index, result }));
                    break;
                }
            }
        }
        while next_waiting(waiting, here, u32::MAX).is_some() {}
    }
}

/// Takes the first caller if it waits for a command of this entry, at or before `position`.
fn next_waiting(
    waiting: &mut VecDeque<WaitingCommand>,
    entry: (GroupId, u64),
    position: u32,
) -> Option<WaitingCommand> {
    let first = waiting.front()?;
    let is_due = (first.group, first.index) == entry && first.position <= position;
    if is_due { waiting.pop_front() } else { None }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use ledger_shard_core::apply::CommandResult;
    use ledger_shard_core::effects::Refusal;
    use ledger_shard_core::entry::{EntryKind, LogEntry};

    use super::*;
    use crate::ingress::{Gauge, Waiting};

    #[test]
    fn each_caller_gets_the_answer_to_its_own_command() {
        let (sender, receiver) = mpsc::channel();
        let gauge = Gauge::new(1000);
        let caller = |group, index, position| {
            let sender = sender.clone();
            let completion = Box::new(move |outcome: Result<AppliedCommand, Refusal>| {
                let answered = outcome.map(|applied| (applied.group.0, applied.index));
                sender.send(((group, index, position), answered)).unwrap();
            });
            let waiting = Waiting::new(completion, Refusal::OutcomeUnknown, gauge.take(1).unwrap());
            WaitingCommand { group: GroupId(group), index, position, waiting }
        };
        let entry = |index| LogEntry { index, term: 5, kind: EntryKind::Normal, data: Vec::new() };
        let committed = |group, entries| {
            let (group, members) = (GroupId(group), Vec::new());
            Committed { group, entries, members }
        };
        let batch =
            [committed(2, vec![entry(6), entry(7), entry(8)]), committed(1, vec![entry(9)])];
        let replies =
            [(2, 6, 0), (2, 7, 0), (2, 7, 2), (1, 9, 0)].map(|(group, index, position)| {
                let result = CommandResult::UnknownVault;
                CommandReply { group: GroupId(group), index, position, result }
            });
        // Entry 6 is another leader's; command 1 of entry 7 and all of entry 8 go without a reply.
        let callers = [(2, 7, 0), (2, 7, 1), (2, 7, 2), (2, 8, 0), (1, 9, 0)];
        let mut waiting: VecDeque<_> = callers
            .iter()
            .map(|&(group, index, position)| caller(group, index, position))
            .collect();
        answer(&batch, replies.to_vec(), &mut waiting);
        assert!(waiting.is_empty());
        let unknown = Err(Refusal::OutcomeUnknown);
        let answers: Vec<_> = receiver.try_iter().collect();
        let expected = [
            ((2, 7, 0), Ok((2, 7))),
            ((2, 7, 1), unknown),
            ((2, 7, 2), Ok((2, 7))),
            ((2, 8, 0), unknown),
            ((1, 9, 0), Ok((1, 9))),
        ];
        assert_eq!(answers, expected);
    }
}
