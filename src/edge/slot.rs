//! Where the listeners find the node: empty while it has no cluster yet, then filled once.
//!
//! Owns the node's stage and the checks behind the probes. The listeners are up before the node belongs to
//! a cluster, because founding one needs them. Must never wait.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ledger_shard::ShardHandle;
use ledger_types::GroupId;
use tokio::sync::Notify;

use super::status::Failure;
use crate::context::NodeContext;
use crate::metrics::NodeSample;

/// The driver turns at every tick; this long without a turn and it hangs.
const TURN_AGE_MAX_MS: u64 = 10_000;
/// The log's thread answers a beat with its next sync; this long without an answer and the disk hangs.
const BEAT_AGE_MAX: Duration = Duration::from_secs(30);
/// How often the log's thread is asked for a sign of life.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Where a node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Stage {
    /// Opens its store.
    Starting = 1,
    /// Looks for a cluster or founds one.
    Bootstrapping = 2,
    /// Serves.
    Ready = 3,
    /// Gives its work away.
    Draining = 4,
    /// Ends.
    Stopping = 5,
}

/// One line of a probe's report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// The reason for which it failed, if it did.
    pub failure: Option<String>,
}

/// The node, once there is one, and how it does.
#[derive(Default)]
pub struct NodeSlot {
    context: OnceLock<Arc<NodeContext>>,
    shard: OnceLock<ShardHandle>,
    stage: AtomicU8,
    /// Told when the stage changes.
    moved_on: Notify,
    /// Milliseconds from `beats_since` to the last beat that became durable, plus one; 0 before the first.
    last_beat_ms: Arc<AtomicU64>,
    beat_pending: Arc<AtomicBool>,
    beats_since: OnceLock<Instant>,
}

impl std::fmt::Debug for NodeSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeSlot({:?})", self.stage())
    }
}

impl NodeSlot {
    /// An empty slot in stage [`Stage::Starting`].
    pub fn new() -> Arc<NodeSlot> {
        Arc::new(NodeSlot::default())
    }

    /// Moves on to a later stage. An earlier one is ignored: a node's life has one direction.
    pub fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.moved_on.notify_waiters();
    }

    /// Waits until the node gives its work away. Costs nothing meanwhile, so every open stream may wait.
    pub async fn drained(&self) {
        loop {
            // Listens before it looks, so that no change falls between the two.
            let mut moved_on = pin!(self.moved_on.notified());
            moved_on.as_mut().enable();
            if self.stage() >= Stage::Draining {
                return;
            }
            moved_on.await;
        }
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 | 1 => Stage::Starting,
            2 => Stage::Bootstrapping,
            3 => Stage::Ready,
            4 => Stage::Draining,
            _ => Stage::Stopping,
        }
    }

    /// Fills the slot and enters [`Stage::Ready`]. Filling it twice changes nothing.
    pub fn fill(&self, context: Arc<NodeContext>) {
        let _ = self.shard.set(context.shard.clone());
        let _ = self.context.set(context);
        self.enter(Stage::Ready);
    }

    /// The node, or a refusal while there is none or while it ends.
    pub fn get(&self) -> Result<&Arc<NodeContext>, Failure> {
        let context =
            self.context.get().ok_or_else(|| Failure::not_ready("it belongs to no cluster yet"))?;
        if context.draining.load(Ordering::Relaxed) {
            return Err(Failure::Draining);
        }
        Ok(context)
    }

    /// The node, also while it drains.
    pub fn peek(&self) -> Option<&Arc<NodeContext>> {
        self.context.get()
    }

    /// Whether the process makes progress: its loop turns and its disk answers. Never depends on a leader,
    /// a quorum, disk space or other nodes.
    pub fn liveness(&self) -> Vec<Check> {
        let Some(shard) = self.shard.get() else {
            return vec![Check { name: "process", failure: None }];
        };
        let age = shard.now().monotonic_ms.saturating_sub(shard.metrics().last_turn_ms);
        let ends = self.stage() >= Stage::Stopping || shard.is_closed();
        let loop_failure = (age > TURN_AGE_MAX_MS && !ends)
            .then(|| format!("the last turn of the driver was {age} ms ago"));
        let disk_failure = self
            .beat_age()
            .filter(|age| *age > BEAT_AGE_MAX && !ends)
            .map(|age| format!("the log has made nothing durable for {} s", age.as_secs()));
        vec![
            Check { name: "driver", failure: loop_failure },
            Check { name: "disk", failure: disk_failure },
        ]
    }

    /// Whether this node takes requests. Never the sum of all its groups.
    pub fn readiness(&self) -> Vec<Check> {
        let joined = self.context.get();
        let join_failure = match joined {
            Some(_) => None,
            None => Some(format!("the node belongs to no cluster yet ({:?})", self.stage())),
        };
        let draining = self.stage() >= Stage::Draining
            || joined.is_some_and(|context| context.draining.load(Ordering::Relaxed));
        let mut checks = vec![
            Check { name: "joined", failure: join_failure },
            Check {
                name: "not-draining",
                failure: draining.then(|| "the node gives its work away".to_owned()),
            },
        ];
        if let Some(context) = joined {
            checks.push(Check { name: "directory", failure: directory_failure(context) });
            let is_off = context.clocks.is_off();
            let failure = is_off.then(|| "the clock differs from those of most nodes".to_owned());
            checks.push(Check { name: "clock", failure });
        }
        checks.extend(self.liveness());
        checks
    }

    /// True if every check of [`NodeSlot::readiness`] passes.
    pub fn is_ready(&self) -> bool {
        self.readiness().iter().all(|check| check.failure.is_none())
    }

    /// True if every check of [`NodeSlot::liveness`] passes.
    pub fn is_live(&self) -> bool {
        self.liveness().iter().all(|check| check.failure.is_none())
    }

    /// Asks the log for a sign of life, unless the last question is still open.
    pub fn beat(&self) {
        let Some(shard) = self.shard.get() else { return };
        let since = *self.beats_since.get_or_init(Instant::now);
        if self.beat_pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let (last, pending) = (self.last_beat_ms.clone(), self.beat_pending.clone());
        let completion = move || {
            let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            last.store(elapsed.saturating_add(1), Ordering::Release);
            pending.store(false, Ordering::Release);
        };
        shard.record_checkpoint(Vec::new(), Box::new(completion));
    }

    /// Time since the last answered beat, or since the first question if none was answered.
    fn beat_age(&self) -> Option<Duration> {
        let since = self.beats_since.get()?;
        let last = self.last_beat_ms.load(Ordering::Acquire);
        Some(since.elapsed().saturating_sub(Duration::from_millis(last)))
    }

    /// What a scrape tells; nothing of the groups before there is a node.
    pub fn sample(&self) -> NodeSample {
        let mut sample = NodeSample {
            version: env!("CARGO_PKG_VERSION"),
            ready: self.is_ready(),
            ..NodeSample::default()
        };
        if let Some(context) = self.context.get() {
            let (requests, messages) = context.shard.bytes_in_flight();
            sample.uptime = context.started.elapsed();
            sample.groups = context.shard.statuses();
            sample.shard = context.shard.metrics();
            sample.bytes_in_flight = (requests as u64, messages as u64);
            sample.storage_bytes = storage_bytes(&context.config.data_dir);
            sample.vaults_diverged = context.quarantine.count();
            let vaults = super::vaults::local_vaults(context);
            sample.vaults_healthy = vaults.saturating_sub(sample.vaults_diverged);
            sample.peers = context.peer_metrics.snapshot();
            sample.snapshot_fetches = context.fetcher.running() as u64;
            sample.snapshot_streams = context.snapshots.streams_open() as u64;
            sample.cosignatures = context.signer.cosignatures();
            sample.signing_contradictions = context.signer.contradictions();
            sample.expired_entities = context.blocks.expiry.removed();
            sample.vaults_purged = context.purges.purged();
            sample.vaults_awaiting_purge = context.purges.awaiting();
            sample.rate_limited = context.admission.refused();
            sample.clock_skews = context.clocks.skews(Instant::now());
            sample.clock_is_off = context.clocks.is_off();
            sample.wall_ns = context.shard.now().wall_ns;
            context.shard.refresh();
        }
        sample
    }
}

/// The directory must be reachable, or known well enough to be served stale.
fn directory_failure(context: &NodeContext) -> Option<String> {
    let reachable = context.leaders.leader(GroupId::SYSTEM).is_some()
        || context.shard.leader(GroupId::SYSTEM).is_some_and(|(_, _, leader)| leader.is_some());
    let known = context.directory.current().revision() > 0;
    (!reachable && !known).then(|| "neither a leader of group 0 nor a copy is known".to_owned())
}

/// Bytes of the files below a directory; what cannot be read counts nothing.
fn storage_bytes(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => storage_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_is_alive_and_not_ready() {
        let slot = NodeSlot::new();
        assert!(slot.is_live());
        assert!(!slot.is_ready());
        assert!(matches!(slot.get(), Err(Failure::NotReady { .. })));
        let failed: Vec<&str> = slot
            .readiness()
            .into_iter()
            .filter(|check| check.failure.is_some())
            .map(|check| check.name)
            .collect();
        assert_eq!(failed, ["joined"]);
    }

    #[test]
    fn stages_only_go_forward() {
        let slot = NodeSlot::new();
        assert_eq!(slot.stage(), Stage::Starting);
        slot.enter(Stage::Draining);
        slot.enter(Stage::Ready);
        assert_eq!(slot.stage(), Stage::Draining);
        let draining = slot.readiness().into_iter().find(|check| check.name == "not-draining");
        assert!(draining.expect("always looked at").failure.is_some());
    }

    #[test]
    fn storage_is_the_sum_of_all_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("db")).unwrap();
        std::fs::write(directory.path().join("identity"), [0; 10]).unwrap();
        std::fs::write(directory.path().join("db/file"), [0; 32]).unwrap();
        assert_eq!(storage_bytes(directory.path()), 42);
        assert_eq!(storage_bytes(&directory.path().join("absent")), 0);
    }
}
