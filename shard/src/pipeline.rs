//! Where a turn's log writes and applies happen: on the driver's thread, or on threads of their own.
//!
//! Owns the two modes behind one interface, and the limits of what may be outstanding. Must never
//! reorder the rounds of a stage.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, unbounded};
use ledger_shard_core::effects::{FetchLog, Input};

use crate::Fatal;
use crate::apply::{ApplyRound, ApplyStage};
use crate::ingress::Event;
use crate::log::{LogRound, LogSink};
use crate::metrics::{Metrics, add};

/// Log rounds that may be unfinished: one at the disk, one filling up behind it.
const LOG_ROUNDS_MAX: usize = 2;

/// On which threads a turn's effects are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverMode {
    /// The driver's thread writes, syncs and applies itself: fewest context switches.
    #[default]
    Inline,
    /// The log and the apply stage have a thread each.
    Staged,
}

/// Limits of the pipeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipelineLimits {
    /// Bytes of entries after which waiting rounds are not merged any further.
    pub(crate) apply_batch_bytes: u64,
    /// Bytes of committed entries waiting to be applied above which turns pause.
    pub(crate) apply_backlog_bytes_max: u64,
}

/// The stages behind the driver.
pub(crate) enum Pipeline {
    Inline { log: LogSink, apply: Box<ApplyStage>, metrics: Arc<Metrics> },
    Staged(Staged),
}

impl Pipeline {
    pub(crate) fn inline(log: LogSink, apply: ApplyStage, metrics: Arc<Metrics>) -> Pipeline {
        Pipeline::Inline { log, apply: Box::new(apply), metrics }
    }

    /// Starts the stages' threads, which report to `events`.
    pub(crate) fn staged(
        (log, apply): (LogSink, ApplyStage),
        events: &Sender<Event>,
        limits: PipelineLimits,
        metrics: Arc<Metrics>,
        fatal: &Fatal,
    ) -> io::Result<Pipeline> {
        let (log_jobs, log_queue) = unbounded();
        let (apply_jobs, apply_queue) = unbounded();
        let report = events.clone();
        let log_thread =
            spawn("ledger-log", fatal.clone(), move || log_loop(&log, &log_queue, &report))?;
        let report = events.clone();
        let mut apply = apply;
        let apply_thread = spawn("ledger-apply", fatal.clone(), move || {
            apply_loop(&mut apply, &apply_queue, &report, limits.apply_batch_bytes);
        })?;
        let threads = [log_thread, apply_thread];
        let outstanding = 0;
        Ok(Pipeline::Staged(Staged { log_jobs, apply_jobs, threads, outstanding, limits, metrics }))
    }

    /// True if no further turn should be taken until a stage reports.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Pipeline::Inline { .. } => false,
            Pipeline::Staged(staged) => {
                let backlog = staged.metrics.apply_backlog_bytes.load(Ordering::Relaxed);
                staged.outstanding >= LOG_ROUNDS_MAX
                    || backlog > staged.limits.apply_backlog_bytes_max
            }
        }
    }

    /// Writes a round; its acknowledgements come as inputs, now or by an event.
    pub(crate) fn persist(&mut self, round: LogRound, inputs: &mut Vec<Input>) {
        match self {
            Pipeline::Inline { log, .. } => log.persist(&mut vec![round], inputs),
            Pipeline::Staged(staged) => {
                staged.outstanding += 1;
                staged.log_jobs.send(LogJob::Round(round)).expect(STAGE_RUNS);
            }
        }
    }

    /// Applies a round; its acknowledgements come as inputs, now or by an event.
    pub(crate) fn apply(&mut self, round: ApplyRound, inputs: &mut Vec<Input>) {
        match self {
            Pipeline::Inline { apply, metrics, .. } => {
                add(&metrics.apply_backlog_bytes, round.bytes());
                apply.apply(round, inputs);
            }
            Pipeline::Staged(staged) => {
                add(&staged.metrics.apply_backlog_bytes, round.bytes());
                staged.apply_jobs.send(round).expect(STAGE_RUNS);
            }
        }
    }

    /// Reads old log entries; they come as an input, now or by an event.
    pub(crate) fn fetch(&mut self, wanted: FetchLog, inputs: &mut Vec<Input>) {
        match self {
            Pipeline::Inline { log, .. } => inputs.push(log.fetch(wanted)),
            Pipeline::Staged(staged) => {
                staged.log_jobs.send(LogJob::Fetch(wanted)).expect(STAGE_RUNS);
            }
        }
    }

    /// The log stage reported this many rounds.
    pub(crate) fn logged(&mut self, rounds: usize) {
        if let Pipeline::Staged(staged) = self {
            assert!(rounds <= staged.outstanding, "the log stage reports what it was given");
            staged.outstanding -= rounds;
        }
    }

    /// Waits for the stages to finish what they were given.
    pub(crate) fn finish(self) {
        let Pipeline::Staged(Staged { log_jobs, apply_jobs, threads, .. }) = self else { return };
        drop((log_jobs, apply_jobs));
        for thread in threads {
            // A stage that panicked has ended the process already; here there is nothing left to tell.
            let _ = thread.join();
        }
    }
}

const STAGE_RUNS: &str = "a stage runs as long as the driver, or ends the process";

pub(crate) struct Staged {
    log_jobs: Sender<LogJob>,
    apply_jobs: Sender<ApplyRound>,
    threads: [JoinHandle<()>; 2],
    outstanding: usize,
    limits: PipelineLimits,
    metrics: Arc<Metrics>,
}

enum LogJob {
    Round(LogRound),
    Fetch(FetchLog),
}

fn log_loop(sink: &LogSink, jobs: &Receiver<LogJob>, events: &Sender<Event>) {
    let (mut rounds, mut fetches, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    while let Ok(first) = jobs.recv() {
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                LogJob::Round(round) => rounds.push(round),
                LogJob::Fetch(wanted) => fetches.push(wanted),
            }
        }
        let count = rounds.len();
        if count > 0 {
            sink.persist(&mut rounds, &mut inputs);
        }
        inputs.extend(fetches.drain(..).map(|wanted| sink.fetch(wanted)));
        // A driver that is gone has stopped listening on purpose.
        let _ = events.send(Event::Logged { inputs: mem::take(&mut inputs), rounds: count });
    }
}

fn apply_loop(
    stage: &mut ApplyStage,
    jobs: &Receiver<ApplyRound>,
    events: &Sender<Event>,
    batch_bytes: u64,
) {
    while let Ok(mut round) = jobs.recv() {
        // What came in meanwhile shares the batch.
        let mut bytes = round.bytes();
        while bytes < batch_bytes {
            let Ok(more) = jobs.try_recv() else { break };
            bytes += more.bytes();
            round.committed.extend(more.committed);
            round.waiting.extend(more.waiting);
        }
        let mut inputs = Vec::new();
        stage.apply(round, &mut inputs);
        let _ = events.send(Event::Applied(inputs));
    }
}

/// Starts a named thread whose panic ends the process: state half changed must not be served.
pub(crate) fn spawn(
    name: &'static str,
    fatal: Fatal,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            fatal.end(&format!("thread {name} panicked"));
        }
    })
}
