//! A node: the shipped core and state machine, a disk, clocks, and the stages between them.
//!
//! Owns what is lost in a crash and what is not. Must never decide when anything happens.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ledger_shard_core::apply::{Applier, ApplyConfig};
use ledger_shard_core::effects::{
    Committed, ConfState, FetchLog, Input, InstallSnapshot, Persist, Proposed, Role, TruncateLog,
};
use ledger_shard_core::snapshot::SnapshotId;
use ledger_shard_core::{CoreConfig, NodeCore};
use ledger_types::{GroupId, Incarnation, NodeId};

use crate::clock::{Clock, Micros};
use crate::disk::Disk;
use crate::snapshots::{Cut, Fetching};

/// Log rounds that may be unfinished before turns pause, as in production.
const LOG_ROUNDS_MAX: usize = 2;

/// A node at a place. The place stays, the node may be another after its disk was lost.
pub(crate) struct Node {
    pub(crate) place: usize,
    pub(crate) id: NodeId,
    /// Starts of the process at this place; work of an earlier one is void.
    pub(crate) boot: u64,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    /// Snapshots received, verified and durable, by group.
    pub(crate) incoming: BTreeMap<GroupId, Rc<Cut>>,
    /// The process, if it runs.
    pub(crate) process: Option<Process>,
    /// Reasons why the process gets no turns.
    pub(crate) pauses: u32,
    /// Reasons why syncs take long, and how long.
    pub(crate) slow_sync_us: u64,
    pub(crate) slow_syncs: u32,
    /// The disk was refused: the node stays away until it has a new life.
    pub(crate) is_lost: bool,
    /// Then its replicas go to other nodes where they can.
    pub(crate) moves_away: bool,
}

/// What a crash ends.
pub(crate) struct Process {
    pub(crate) core: NodeCore,
    pub(crate) applier: Applier,
    pub(crate) inbox: Vec<Input>,
    pub(crate) is_turn_due: bool,
    pub(crate) log: LogStage,
    pub(crate) apply: VecDeque<ApplyJob>,
    pub(crate) is_apply_due: bool,
    pub(crate) groups: BTreeMap<GroupId, Seen>,
    pub(crate) outgoing: BTreeMap<SnapshotId, Rc<Cut>>,
    pub(crate) fetching: BTreeMap<GroupId, Fetching>,
    pub(crate) installing: BTreeMap<GroupId, Box<InstallSnapshot>>,
    /// Batches of applied rows that are not durable: their number, the replica, and what it had applied.
    pub(crate) applied: VecDeque<(u64, Incarnation, u64)>,
}

/// What a replica last told of itself.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) incarnation: Incarnation,
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) conf: ConfState,
    /// Who voted before that: entries behind a change may be committed by those before it takes effect.
    pub(crate) conf_before: ConfState,
}

impl Seen {
    /// Takes over a configuration.
    pub(crate) fn set_conf(&mut self, conf: &ConfState) {
        if self.conf != *conf {
            self.conf_before = std::mem::replace(&mut self.conf, conf.clone());
        }
    }
}

/// The log stage: what waits for the disk.
#[derive(Default)]
pub(crate) struct LogStage {
    pub(crate) queue: Vec<LogJob>,
    pub(crate) busy: Option<Syncing>,
}

/// A sync on its way.
pub(crate) struct Syncing {
    /// The batch it makes durable.
    pub(crate) batch: u64,
    /// What was persisted by it.
    pub(crate) persist: Vec<Persist>,
    /// Rounds among it.
    pub(crate) rounds: usize,
    pub(crate) fetches: Vec<FetchLog>,
    pub(crate) installs: Vec<InstallSnapshot>,
}

/// Work of the log stage.
pub(crate) enum LogJob {
    Round { persist: Vec<Persist>, truncations: Vec<TruncateLog> },
    Fetch(FetchLog),
    Install(Box<InstallSnapshot>),
}

/// Work of the apply stage.
pub(crate) enum ApplyJob {
    Round { committed: Vec<Committed>, waiting: Vec<Proposed> },
    Install(Box<InstallSnapshot>),
}

impl Process {
    pub(crate) fn new(core: CoreConfig, apply: ApplyConfig, id: NodeId) -> Process {
        Process {
            core: NodeCore::new(core, id),
            applier: Applier::new(apply),
            inbox: Vec::new(),
            is_turn_due: false,
            log: LogStage::default(),
            apply: VecDeque::new(),
            is_apply_due: false,
            groups: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            fetching: BTreeMap::new(),
            installing: BTreeMap::new(),
            applied: VecDeque::new(),
        }
    }

    /// True if no further turn should be taken until the log stage reports.
    pub(crate) fn is_full(&self) -> bool {
        let waiting = self.log.queue.iter().filter(|job| matches!(job, LogJob::Round { .. }));
        let syncing = self.log.busy.as_ref().map_or(0, |busy| busy.rounds);
        syncing + waiting.count() >= LOG_ROUNDS_MAX
    }
}

impl Node {
    pub(crate) fn new(place: usize, id: NodeId, now: Micros) -> Node {
        Node {
            place,
            id,
            boot: 0,
            disk: Disk::default(),
            clock: Clock::start(0, now, 0),
            incoming: BTreeMap::new(),
            process: None,
            pauses: 0,
            slow_sync_us: 0,
            slow_syncs: 0,
            is_lost: false,
            moves_away: false,
        }
    }

    /// The running process, if it is not paused.
    pub(crate) fn awake(&mut self) -> Option<&mut Process> {
        if self.pauses == 0 { self.process.as_mut() } else { None }
    }

    /// What the node's replica of a group last told, if it runs.
    pub(crate) fn seen(&self, group: GroupId) -> Option<&Seen> {
        self.process.as_ref()?.groups.get(&group)
    }
}
