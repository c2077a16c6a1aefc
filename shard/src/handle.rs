//! What the rest of the node holds of the shard: requests in, completions out.
//!
//! Owns the shard's public way in. Must never wait for the driver, nor run anything of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::Sender;
use ledger_shard_core::apply::{CommandResult, NewBlock, NotedCheckpoint};
use ledger_shard_core::effects::{
    BootRecord, GroupMessage, GroupStatus, Input, MemberChange, Now, OutMessage, Refusal, Role,
};
use ledger_shard_core::snapshot::SnapshotId;
use ledger_shard_core::view::{Family, RowWrite};
use ledger_types::{GroupId, Incarnation, NodeId};

use crate::clock::Clock;
use crate::ingress::{Event, Gauge, OVERHEAD_BYTES, Waiting};
use crate::metrics::{Metrics, MetricsSnapshot, add};
use crate::snapshots::SnapshotStore;
use crate::status::StatusTable;

/// A command that was applied: where it stands in the log and what it came to.
#[derive(Clone, PartialEq, Debug)]
pub struct AppliedCommand {
    /// The group.
    pub group: GroupId,
    /// Its entry in the group's log.
    pub index: u64,
    /// What it came to, the same on every replica.
    pub result: CommandResult,
}

/// How a proposal ended.
pub type ProposeOutcome = Result<AppliedCommand, Refusal>;
/// Called once when a proposal ended, on a thread of the driver or of the caller: it must be cheap and
/// must not block.
pub type ProposeCompletion = Box<dyn FnOnce(ProposeOutcome) + Send>;
/// Called once when a read may be served from the local state (with the index that it reflects at
/// least), or may not; as cheap as a [`ProposeCompletion`].
pub type ReadCompletion = Box<dyn FnOnce(Result<u64, Refusal>) + Send>;
/// Called when rows are durable. Dropped without a call if the node stops before.
pub type RowsCompletion = Box<dyn FnOnce() + Send>;

/// Takes Raft messages to other nodes. Called on the driver's thread: it queues or drops, and never
/// blocks.
pub trait Outbox: Send + Sync {
    /// Sends messages, in order for each node and lane.
    fn send(&self, messages: Vec<OutMessage>);
}

/// Hears of new blocks, after their rows are written, on the apply stage's thread. Must be cheap.
pub trait BlockListener: Send + Sync {
    /// These blocks are visible to reads that begin now.
    fn blocks(&self, blocks: &[NewBlock]);

    /// These signed checkpoints were recorded, and the log here has had their roots.
    fn checkpoints(&self, _checkpoints: &[NotedCheckpoint]) {}

    /// This signed checkpoint was recorded, and the log here has had another root at that size.
    fn contradiction(&self, _checkpoint: &NotedCheckpoint) {}
}

pub(crate) struct Shared {
    pub(crate) sender: Sender<Event>,
    pub(crate) requests: Arc<Gauge>,
    pub(crate) messages: Arc<Gauge>,
    pub(crate) statuses: Arc<StatusTable>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) closed: AtomicBool,
}

/// The way to a node's groups. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct ShardHandle {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardHandle")
    }
}

impl ShardHandle {
    /// The driver's clock, on which deadlines are given.
    pub fn now(&self) -> Now {
        self.shared.clock.now()
    }

    /// Puts an encoded command into a group's log and waits for it to be applied. `deadline_ms` is in
    /// monotonic milliseconds; after it, nothing is proposed any more. The completion is called once.
    pub fn propose(
        &self,
        group: GroupId,
        command: Vec<u8>,
        deadline_ms: u64,
        completion: ProposeCompletion,
    ) {
        if self.is_closed() {
            return completion(Err(Refusal::NotLeader(None)));
        }
        let Some(permit) = self.shared.requests.take(command.len() + OVERHEAD_BYTES) else {
            add(&self.shared.metrics.refused_busy, 1);
            return completion(Err(Refusal::Busy));
        };
        add(&self.shared.metrics.proposals, 1);
        let waiting = Waiting::new(completion, Refusal::OutcomeUnknown, permit);
        self.send(Event::Propose { group, command, deadline_ms, waiting });
    }

    /// Asks when a read that begins now may be served from the local state of the group.
    pub fn read(&self, group: GroupId, deadline_ms: u64, completion: ReadCompletion) {
        if self.is_closed() {
            return completion(Err(Refusal::NotLeader(None)));
        }
        let Some(permit) = self.shared.requests.take(OVERHEAD_BYTES) else {
            add(&self.shared.metrics.refused_busy, 1);
            return completion(Err(Refusal::Busy));
        };
        add(&self.shared.metrics.reads, 1);
        let waiting = Waiting::new(completion, Refusal::NotLeader(None), permit);
        self.send(Event::Read { group, deadline_ms, waiting });
    }

    /// Takes in messages that another node sent. Over the limit they are dropped, which Raft survives.
    pub fn message(&self, from: NodeId, messages: Vec<GroupMessage>) {
        let count = messages.len() as u64;
        let payloads: usize = messages.iter().map(|one| one.payload.len()).sum();
        let bytes = payloads + OVERHEAD_BYTES * messages.len();
        match self.shared.messages.take(bytes) {
            Some(permit) => {
                add(&self.shared.metrics.messages_in, count);
                self.send(Event::Messages { from, messages, permit });
            }
            None => add(&self.shared.metrics.messages_dropped, count),
        }
    }

    /// Starts a replica whose rows are durable. A group that runs already is left as it is.
    pub fn start(&self, record: BootRecord) {
        self.send(Event::Control(Input::Start(Box::new(record))));
    }

    /// Tells that messages to a node are being lost.
    pub fn unreachable(&self, node: NodeId) {
        self.send(Event::Control(Input::Unreachable(node)));
    }

    /// Says whether other nodes should not make this one a leader.
    pub fn set_unfit(&self, is_unfit: bool) {
        self.send(Event::Control(Input::Unfit(is_unfit)));
    }

    /// Hands leadership of a group to another replica, if this node leads it.
    pub fn transfer(&self, group: GroupId, to: Incarnation) {
        self.send(Event::Control(Input::TransferLeader { group, to }));
    }

    /// Changes a group's members by one step, if this node leads it and no change is under way. Whether it
    /// happened shows in the group's configuration.
    pub fn change_members(&self, group: GroupId, change: MemberChange) {
        self.send(Event::Control(Input::ChangeMembers { group, change }));
    }

    /// Opens a group that sleeps, because its leader is needed. One that is open stays as it is.
    pub fn wake(&self, group: GroupId) {
        self.send(Event::Wake(group));
    }

    /// Tells the end of a fetch that the node was asked for: `verified` if all of the snapshot is durable
    /// here and [`crate::Staging::finish`] found nothing wrong.
    pub fn snapshot_fetched(&self, group: GroupId, id: SnapshotId, verified: bool) {
        self.send(Event::Control(Input::SnapshotFetched { group, id, verified }));
    }

    /// Tells that the receiver of a snapshot that was cut here is alive.
    pub fn snapshot_progress(&self, group: GroupId, id: SnapshotId) {
        self.send(Event::Control(Input::SnapshotProgress { group, id }));
    }

    /// The snapshots on this node's disk.
    pub fn snapshots(&self) -> Arc<SnapshotStore> {
        self.shared.snapshots.clone()
    }

    /// Makes rows of the meta family durable with the next log round, such as a signer's record of what
    /// it is about to sign.
    pub fn record_checkpoint(&self, rows: Vec<RowWrite>, completion: RowsCompletion) {
        let is_meta = |row: &RowWrite| row.family == Family::Meta;
        assert!(rows.iter().all(is_meta), "only the meta family is open to others");
        self.send(Event::Rows { rows, completion });
    }

    /// A group as this node sees it; `None` if it has no replica here. Role, term and leader are
    /// current, the lag is as of the last change or [`ShardHandle::refresh`].
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.shared.statuses.get(group)
    }

    /// Every group of this node, by number.
    pub fn statuses(&self) -> Vec<GroupStatus> {
        self.shared.statuses.all()
    }

    /// Role, term and known leader of a group, without copying its tables.
    pub fn leader(&self, group: GroupId) -> Option<(Role, u64, Option<NodeId>)> {
        self.shared.statuses.leader(group)
    }

    /// Term and known leader of every group that is awake here.
    pub fn leaders(&self) -> Vec<(GroupId, u64, Option<NodeId>)> {
        self.shared.statuses.leaders()
    }

    /// True if the group's rows here are a state of it: there is a replica, it is not new and without its first
    /// snapshot, nor in the middle of one.
    pub fn is_readable(&self, group: GroupId) -> bool {
        self.shared.statuses.is_readable(group)
    }

    /// Renews every status line soon. Costs work per group: for a slow background beat.
    pub fn refresh(&self) {
        self.send(Event::Refresh);
    }

    /// The shard's counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.metrics.snapshot()
    }

    /// Bytes of requests and of messages that are in flight.
    pub fn bytes_in_flight(&self) -> (usize, usize) {
        (self.shared.requests.used(), self.shared.messages.used())
    }

    /// True once the driver is ending; every request is refused from then on.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// A driver that ended drops the event, and whoever waits in it is refused.
    fn send(&self, event: Event) {
        let _ = self.shared.sender.send(event);
    }
}
