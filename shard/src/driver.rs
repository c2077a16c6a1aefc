//! The one loop that runs a node's groups: events in, one turn, effects executed.
//!
//! Owns the driver's thread and the callers that wait for answers. Must never decide what the core
//! decides: it only carries out effects, in their order, and reports back.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, unbounded};
use ledger_shard_core::apply::{Applier, ApplyConfig};
use ledger_shard_core::effects::{BootRecord, Effects, GroupStatus, Input, Token};
use ledger_shard_core::{CoreConfig, NodeCore};
use ledger_types::{GroupId, NodeId};
use parking_lot::Mutex;
use thiserror::Error;

use crate::Fatal;
use crate::apply::{ApplyRound, ApplyStage, WaitingCommand};
use crate::clock::Clock;
use crate::crash_point;
use crate::handle::{BlockListener, Outbox, ShardHandle, Shared};
use crate::ingress::{Event, Gauge, Permit, WaitingRead, WaitingWrite};
use crate::lanes::ApplyThreads;
use crate::log::{LogRound, LogSink};
use crate::metrics::{Metrics, add};
use crate::pipeline::{DriverMode, Pipeline, PipelineLimits, spawn};
use crate::reads::Reader;
use crate::sleepers::{Sleepers, group_of};
use crate::snapshots::{SnapshotError, SnapshotFetcher, SnapshotStore, WorkerParts, Workers};
use crate::status::{StatusTable, StatusWriter};
use crate::store::{Store, StoreError};

/// Events taken in before a turn at most, so that no flood postpones the turn.
const EVENTS_PER_TURN_MAX: usize = 8192;
/// Longest wait for an event while turns pause; only bounds how late a lost wake-up would show.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How a driver runs.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// The core's settings.
    pub core: CoreConfig,
    /// The state machine's settings.
    pub apply: ApplyConfig,
    /// On which threads effects are executed.
    pub mode: DriverMode,
    /// Bytes of requests accepted and not answered yet, above which further ones are `Busy`.
    pub request_bytes_max: usize,
    /// Bytes of messages of other nodes waiting for a turn, above which further ones are dropped.
    pub message_bytes_max: usize,
    /// Bytes of entries applied in one batch of rows, about.
    pub apply_batch_bytes: u64,
    /// Bytes of committed entries waiting to be applied, above which turns pause.
    pub apply_backlog_bytes_max: u64,
    /// Threads on which the vaults of one batch are applied side by side, at most; 1 for one after the other.
    pub apply_threads: usize,
}

impl Default for DriverConfig {
    fn default() -> DriverConfig {
        DriverConfig {
            core: CoreConfig::default(),
            apply: ApplyConfig::default(),
            mode: DriverMode::default(),
            request_bytes_max: 32 << 20,
            message_bytes_max: 64 << 20,
            apply_batch_bytes: 4 << 20,
            apply_backlog_bytes_max: 64 << 20,
            apply_threads: 1,
        }
    }
}

/// What a driver is started with.
pub struct DriverParts {
    /// The node's store.
    pub store: Arc<Store>,
    /// Who the node is.
    pub node: NodeId,
    /// The replicas to begin with.
    pub records: Vec<BootRecord>,
    /// The replicas that are opened when something first names them.
    pub sleeping: Vec<GroupStatus>,
    /// Who brings snapshots from other nodes.
    pub fetcher: Arc<dyn SnapshotFetcher>,
    /// Where messages to other nodes go.
    pub outbox: Arc<dyn Outbox>,
    /// Who hears of new blocks.
    pub blocks: Arc<dyn BlockListener>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ends the process after a failure that leaves the disk or the state unknown.
    pub fatal: Fatal,
}

/// Why a driver did not start or did not end cleanly.
#[derive(Debug, Error)]
pub enum DriverError {
    /// A thread could not be started.
    #[error("cannot start a thread of the driver: {0}")]
    Thread(#[from] io::Error),
    /// The last sync failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory of snapshots cannot be used.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The driver's thread ended by a panic.
    #[error("the driver's thread panicked")]
    Panicked,
}

/// A running driver. Dropped without [`Driver::shutdown`], it stops and makes nothing durable that is
/// not so already.
pub struct Driver {
    handle: ShardHandle,
    reader: Reader,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts the driver's threads and the given replicas.
    pub fn start(parts: DriverParts, config: DriverConfig) -> Result<Driver, DriverError> {
        let (store, fatal) = (parts.store.clone(), parts.fatal.clone());
        let Assembly { event_loop, handle, reader } = assemble(parts, config)?;
        let failed = fatal.clone();
        let thread = spawn("ledger-driver", fatal, move || {
            if let Err(error) = event_loop.run(&store) {
                failed.end(&error.to_string());
            }
        })?;
        Ok(Driver { handle, reader, thread: Some(thread) })
    }

    /// The way in.
    pub fn handle(&self) -> ShardHandle {
        self.handle.clone()
    }

    /// The way to read.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Stops taking requests in, finishes what is in the stages, makes everything written durable and
    /// ends the threads. Callers still waiting are refused.
    pub fn shutdown(mut self) -> Result<(), DriverError> {
        self.stop(true)
    }

    fn stop(&mut self, flush: bool) -> Result<(), DriverError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.handle.shared.closed.store(true, Ordering::Release);
        // If the loop is gone already, joining tells why.
        let _ = self.handle.shared.sender.send(Event::Stop { flush });
        thread.join().map_err(|_| DriverError::Panicked)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A failure has ended the process or been logged by whoever was injected to do so.
        let _ = self.stop(false);
    }
}

/// A driver with everything but the thread of its loop.
pub(crate) struct Assembly {
    pub(crate) event_loop: EventLoop,
    pub(crate) handle: ShardHandle,
    pub(crate) reader: Reader,
}

/// Puts a driver together. The threads of the stages and of snapshots run from here on.
pub(crate) fn assemble(parts: DriverParts, config: DriverConfig) -> Result<Assembly, DriverError> {
    let DriverParts { store, node, records, sleeping, .. } = parts;
    let (sender, events) = unbounded();
    let metrics = Arc::new(Metrics::default());
    let statuses = Arc::new(StatusTable::default());
    let applier = Arc::new(Mutex::new(Applier::new(config.apply)));
    let cluster = store.cluster()?.unwrap_or_default();
    let snapshots = SnapshotStore::open(store.directory(), cluster, metrics.clone())?;
    snapshots.remove_outdated(&store)?;
    let snapshots = Arc::new(snapshots);
    let workers = Workers::start(WorkerParts {
        store: store.clone(),
        snapshots: snapshots.clone(),
        applier: applier.clone(),
        events: sender.clone(),
        metrics: metrics.clone(),
        fatal: parts.fatal.clone(),
    })?;
    let reader = Reader::new(store.clone(), applier.clone());
    let log = LogSink::new(store.clone(), metrics.clone(), parts.fatal.clone());
    let counted = (metrics.clone(), parts.fatal.clone());
    let threads = ApplyThreads(config.apply_threads);
    let shape = (config.apply_batch_bytes, threads);
    let apply = ApplyStage::new(store.clone(), applier, parts.blocks, shape, counted);
    let limits = PipelineLimits {
        apply_batch_bytes: config.apply_batch_bytes,
        apply_backlog_bytes_max: config.apply_backlog_bytes_max,
    };
    let (stages, installs) = ((log, apply), workers.installs());
    let pipeline = match config.mode {
        DriverMode::Inline => Pipeline::inline(stages, installs, metrics.clone()),
        DriverMode::Staged => {
            Pipeline::staged(stages, (&sender, installs), limits, metrics.clone(), &parts.fatal)?
        }
    };
    let mut core = config.core;
    core.seed ^= seed(&store);
    let asleep = sleeping.iter().map(|status| status.group);
    let mut event_loop = EventLoop {
        core: NodeCore::new(core, node),
        events,
        inputs: Vec::new(),
        effects: Effects::default(),
        pipeline,
        workers,
        rows: LogRound::default(),
        writes: HashMap::new(),
        reads: HashMap::new(),
        tokens: 0,
        permits: Vec::new(),
        statuses: StatusWriter::new(statuses.clone()),
        sleepers: Sleepers::new(asleep, (store.clone(), node), metrics.clone(), parts.fatal),
        clock: parts.clock.clone(),
        outbox: parts.outbox,
        fetcher: parts.fetcher,
        metrics: metrics.clone(),
        stop: None,
    };
    event_loop.statuses.changed(&sleeping);
    for record in records {
        event_loop.take(Event::Control(Input::Start(Box::new(record))));
    }
    let requests = Gauge::new(config.request_bytes_max);
    let messages = Gauge::new(config.message_bytes_max);
    let (clock, closed) = (parts.clock, AtomicBool::new(false));
    let shared = Shared { sender, requests, messages, statuses, metrics, snapshots, clock, closed };
    let handle = ShardHandle { shared: Arc::new(shared) };
    Ok(Assembly { event_loop, handle, reader })
}

/// Different on every start of every store.
fn seed(store: &Store) -> u64 {
    let id = store.id().0;
    let (low, high) = id.split_first_chunk().expect("an id has 16 bytes");
    let high: &[u8; 8] = high.try_into().expect("an id has 16 bytes");
    u64::from_be_bytes(*low) ^ u64::from_be_bytes(*high) ^ store.boots().rotate_right(16)
}

/// The loop itself: one owner of the core, of the callers that wait, and of the order of effects.
pub(crate) struct EventLoop {
    core: NodeCore,
    events: Receiver<Event>,
    inputs: Vec<Input>,
    effects: Effects,
    pipeline: Pipeline,
    workers: Workers,
    /// Rows of others that ride with the next log round.
    rows: LogRound,
    writes: HashMap<u64, WaitingWrite>,
    reads: HashMap<u64, WaitingRead>,
    tokens: u64,
    /// Bytes of messages that the next turn takes in.
    permits: Vec<Permit>,
    statuses: StatusWriter,
    sleepers: Sleepers,
    clock: Arc<dyn Clock>,
    outbox: Arc<dyn Outbox>,
    fetcher: Arc<dyn SnapshotFetcher>,
    metrics: Arc<Metrics>,
    stop: Option<Stop>,
}

/// How the loop ends.
#[derive(Clone, Copy)]
struct Stop {
    flush: bool,
}

impl EventLoop {
    fn run(mut self, store: &Store) -> Result<(), StoreError> {
        let stop = loop {
            let wait = self.wait();
            self.take_events(wait);
            if let Some(stop) = self.stop {
                break stop;
            }
            if !self.pipeline.is_full() {
                self.turn();
                self.execute();
            }
        };
        self.pipeline.finish();
        // A cut is given up, an installation goes on at the next start.
        drop(self.workers);
        // What waits in the maps and the channel is dropped with them, and thereby refused.
        if stop.flush { store.sync() } else { Ok(()) }
    }

    pub(crate) fn turn(&mut self) {
        let now = self.clock.now();
        add(&self.metrics.turns, 1);
        add(&self.metrics.inputs, self.inputs.len() as u64);
        self.metrics.last_turn_ms.store(now.monotonic_ms, Ordering::Relaxed);
        for input in &self.inputs {
            if let &Input::Applied { group, index } = input {
                self.statuses.applied(group, index);
            }
        }
        self.core.turn(&mut self.inputs, now, &mut self.effects);
        self.permits.clear();
    }

    /// Waits for the first event, but not longer than `wait`, and takes in what else is there.
    pub(crate) fn take_events(&mut self, wait: Option<Duration>) {
        let mut next = match wait {
            Some(wait) => match self.events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => unreachable!("stages and handles send"),
            },
            None => self.events.try_recv().ok(),
        };
        let mut taken = 0;
        while let Some(event) = next {
            self.take(event);
            taken += 1;
            next = if taken < EVENTS_PER_TURN_MAX { self.events.try_recv().ok() } else { None };
        }
    }

    /// How long nothing needs doing without an event; `None` if a turn is due now.
    fn wait(&self) -> Option<Duration> {
        if self.pipeline.is_full() {
            return Some(PAUSE_MAX);
        }
        let is_idle = self.inputs.is_empty() && self.rows.is_empty();
        let left = self.core.next_tick_ms().saturating_sub(self.clock.now().monotonic_ms);
        (is_idle && left > 0).then(|| Duration::from_millis(left))
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Propose { group, command, deadline_ms, waiting } => {
                self.open_for_leader(group);
                let token = self.token();
                self.writes.insert(token.0, waiting);
                self.inputs.push(Input::Propose { group, token, command, deadline_ms });
            }
            Event::Read { group, deadline_ms, waiting } => {
                self.open_for_leader(group);
                let token = self.token();
                self.reads.insert(token.0, waiting);
                self.inputs.push(Input::Read { group, token, deadline_ms });
            }
            Event::Messages { from, messages, permit } => {
                for message in &messages {
                    self.open(message.group);
                }
                let input = |message| Input::Message { from, message };
                self.inputs.extend(messages.into_iter().map(input));
                self.permits.push(permit);
            }
            Event::Rows { rows, completion } => {
                self.rows.rows.extend(rows);
                self.rows.completions.push(completion);
            }
            Event::Wake(group) => self.open_for_leader(group),
            Event::Control(input) => {
                if let Some(group) = group_of(&input) {
                    self.open(group);
                }
                if let Input::Start(record) = &input {
                    self.statuses.started(record);
                }
                self.inputs.push(input);
            }
            Event::Logged { inputs, rounds } => {
                self.pipeline.logged(rounds);
                self.inputs.extend(inputs);
            }
            Event::Applied(inputs) => self.inputs.extend(inputs),
            Event::Refresh => self.statuses.changed(&self.core.statuses()),
            Event::Stop { flush } => self.stop = Some(Stop { flush }),
        }
    }

    /// Opens a group that sleeps, before what named it is passed on.
    fn open(&mut self, group: GroupId) -> bool {
        let Some(record) = self.sleepers.wake(group) else { return false };
        self.statuses.opened(&record);
        self.inputs.push(Input::Start(Box::new(record)));
        true
    }

    /// Opens a group because somebody waits for its leader: nobody else may be awake to become it.
    fn open_for_leader(&mut self, group: GroupId) {
        if self.open(group) {
            self.inputs.push(Input::Campaign { group });
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// Carries out a turn's effects. Answers that wait for nothing on disk go before the disk.
    pub(crate) fn execute(&mut self) {
        let mut effects = mem::take(&mut self.effects);
        if !effects.messages.is_empty() {
            crash_point!("crash::send");
            add(&self.metrics.messages_out, effects.messages.len() as u64);
            self.outbox.send(mem::take(&mut effects.messages));
            crash_point!("crash::sent");
        }
        self.statuses.changed(&effects.changed);
        self.answer(&effects);
        let mut log = mem::take(&mut self.rows);
        log.persist = mem::take(&mut effects.persist);
        log.truncations = mem::take(&mut effects.truncations);
        if !log.is_empty() {
            self.pipeline.persist(log, &mut self.inputs);
        }
        if !effects.committed.is_empty() {
            self.apply(&mut effects);
        }
        for &wanted in &effects.fetches {
            self.pipeline.fetch(wanted, &mut self.inputs);
        }
        self.snapshots(&mut effects);
        effects.clear();
        self.effects = effects;
    }

    /// Hands work on snapshots to those who have the time for it.
    fn snapshots(&mut self, effects: &mut Effects) {
        for &wanted in &effects.cuts {
            self.workers.cut(wanted);
        }
        for &id in &effects.releases {
            self.workers.release(id);
        }
        for wanted in effects.snapshot_fetches.drain(..) {
            self.fetcher.fetch(wanted);
        }
        for &(group, id) in &effects.discards {
            self.workers.discard(group, id);
        }
        for wanted in effects.installs.drain(..) {
            self.pipeline.install(wanted);
        }
    }

    fn answer(&mut self, effects: &Effects) {
        add(&self.metrics.refused, effects.replies.len() as u64);
        for reply in &effects.replies {
            let waiting = self.writes.remove(&reply.token.0).expect(ONCE);
            waiting.answer(Err(reply.refusal));
        }
        for answer in &effects.reads {
            let waiting = self.reads.remove(&answer.token.0).expect(ONCE);
            waiting.answer(answer.result);
        }
    }

    fn apply(&mut self, effects: &mut Effects) {
        let mut round = ApplyRound::default();
        for one in &effects.proposed {
            let waiting = self.writes.remove(&one.token.0).expect(ONCE);
            let (group, index, position) = (one.group, one.index, one.position);
            round.waiting.push_back(WaitingCommand { group, index, position, waiting });
        }
        round.committed = mem::take(&mut effects.committed);
        self.statuses.committed(&round.committed);
        self.pipeline.apply(round, &mut self.inputs);
    }
}

const ONCE: &str = "the core answers every request once";
