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
use ledger_shard_core::effects::{FetchLog, Input, InstallSnapshot};

use crate::Fatal;
use crate::apply::{ApplyRound, ApplyStage};
use crate::ingress::Event;
use crate::log::{LogRound, LogSink};
use crate::metrics::{Metrics, add};
use crate::snapshots::InstallQueue;

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
    Inline { log: LogSink, apply: Box<ApplyStage>, installs: InstallQueue, metrics: Arc<Metrics> },
    Staged(Staged),
}

impl Pipeline {
    pub(crate) fn inline(
        (log, apply): (LogSink, ApplyStage),
        installs: InstallQueue,
        metrics: Arc<Metrics>,
    ) -> Pipeline {
        Pipeline::Inline { log, apply: Box::new(apply), installs, metrics }
    }

    /// Starts the stages' threads, which report to `events`.
    pub(crate) fn staged(
        (log, apply): (LogSink, ApplyStage),
        (events, installs): (&Sender<Event>, InstallQueue),
        limits: PipelineLimits,
        metrics: Arc<Metrics>,
        fatal: &Fatal,
    ) -> io::Result<Pipeline> {
        let (log_jobs, log_queue) = unbounded();
        let (apply_jobs, apply_queue) = unbounded();
        let (report, behind) = (events.clone(), apply_jobs.clone());
        let log_thread = spawn("ledger-log", fatal.clone(), move || {
            log_loop(&log, &log_queue, &report, &behind);
        })?;
        let report = events.clone();
        let mut apply = apply;
        let apply_thread = spawn("ledger-apply", fatal.clone(), move || {
            let jobs = ApplyJobs { queue: apply_queue, installs, next: None };
            apply_loop(&mut apply, jobs, &report, limits.apply_batch_bytes);
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
                staged.apply_jobs.send(ApplyJob::Round(round)).expect(STAGE_RUNS);
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

    /// Installs a snapshot once everything that was handed to the stages before is written and applied:
    /// from then on nobody but the installer writes the group's rows.
    pub(crate) fn install(&mut self, wanted: InstallSnapshot) {
        match self {
            Pipeline::Inline { installs, .. } => installs.push(wanted),
            Pipeline::Staged(staged) => {
                staged.log_jobs.send(LogJob::Install(Box::new(wanted))).expect(STAGE_RUNS);
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
    apply_jobs: Sender<ApplyJob>,
    threads: [JoinHandle<()>; 2],
    outstanding: usize,
    limits: PipelineLimits,
    metrics: Arc<Metrics>,
}

enum LogJob {
    Round(LogRound),
    Fetch(FetchLog),
    Install(Box<InstallSnapshot>),
}

enum ApplyJob {
    Round(ApplyRound),
    Install(Box<InstallSnapshot>),
}

fn log_loop(
    sink: &LogSink,
    jobs: &Receiver<LogJob>,
    events: &Sender<Event>,
    behind: &Sender<ApplyJob>,
) {
    let (mut rounds, mut fetches, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    let mut installs = Vec::new();
    while let Ok(first) = jobs.recv() {
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                LogJob::Round(round) => rounds.push(round),
                LogJob::Fetch(wanted) => fetches.push(wanted),
                LogJob::Install(wanted) => installs.push(wanted),
            }
        }
        let count = rounds.len();
        if count > 0 {
            sink.persist(&mut rounds, &mut inputs);
        }
        for wanted in installs.drain(..) {
            behind.send(ApplyJob::Install(wanted)).expect(STAGE_RUNS);
        }
        if count == 0 && fetches.is_empty() {
            continue;
        }
        inputs.extend(fetches.drain(..).map(|wanted| sink.fetch(wanted)));
        // A driver that is gone has stopped listening on purpose.
        let _ = events.send(Event::Logged { inputs: mem::take(&mut inputs), rounds: count });
    }
}

/// What waits for the apply stage.
struct ApplyJobs {
    queue: Receiver<ApplyJob>,
    installs: InstallQueue,
    /// Taken from the queue and not handed out yet.
    next: Option<ApplyJob>,
}

impl ApplyJobs {
    /// The next round, waiting for it; `None` at the end. Installations on the way are passed on: all that
    /// came before them is applied.
    fn round(&mut self) -> Option<ApplyRound> {
        loop {
            let job = match self.next.take() {
                Some(job) => job,
                None => self.queue.recv().ok()?,
            };
            match job {
                ApplyJob::Round(round) => return Some(round),
                ApplyJob::Install(wanted) => self.installs.push(*wanted),
            }
        }
    }

    /// A round that is there already and may share a batch with the one before.
    fn more(&mut self) -> Option<ApplyRound> {
        match self.queue.try_recv().ok()? {
            ApplyJob::Round(round) => Some(round),
            install => {
                self.next = Some(install);
                None
            }
        }
    }
}

fn apply_loop(
    stage: &mut ApplyStage,
    mut jobs: ApplyJobs,
    events: &Sender<Event>,
    batch_bytes: u64,
) {
    while let Some(mut round) = jobs.round() {
        // What came in meanwhile shares the batch.
        let mut bytes = round.bytes();
        while bytes < batch_bytes {
            let Some(more) = jobs.more() else { break };
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
