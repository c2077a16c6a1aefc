//! What goes into a turn of the core and what comes out of it: plain data on both sides.
//!
//! Owns the vocabulary between [`crate::NodeCore`] and whoever executes it. Must never hold behaviour.

use ledger_types::{GroupId, Incarnation, NodeId};

use crate::entry::LogEntry;
use crate::snapshot::{SnapshotId, SnapshotManifest};

/// The executor's handle for one waiting request; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// The times a turn works with. The core has no clock of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; drives ticks and deadlines.
    pub monotonic_ms: u64,
    /// Nanoseconds since the Unix epoch; becomes the time of proposed entries.
    pub wall_ns: u64,
}

/// Hard state of a replica (Raft paper, figure 2, and the commit index).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// The candidate voted for in that term, 0 for none.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// The voters and learners of a group. Sorted, without repetition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    /// Voters of the (incoming) configuration.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration while the configuration is joint.
    pub voters_outgoing: Vec<u64>,
    /// Learners to be once the joint configuration is left.
    pub learners_next: Vec<u64>,
}

/// One replica of a group: which life of which node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Replica {
    /// The Raft id.
    pub incarnation: Incarnation,
    /// The node it lives on.
    pub node: NodeId,
}

/// All that a replica needs to start: what was on disk, or the beginning of a new group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootRecord {
    /// The group.
    pub group: GroupId,
    /// This node's replica of it.
    pub incarnation: Incarnation,
    /// The replica table: every incarnation of the group and where it lives.
    pub replicas: Vec<Replica>,
    /// Who votes and who learns, as of `applied`.
    pub conf_state: ConfState,
    /// The durable hard state.
    pub hard_state: HardState,
    /// Index and term of the last entry before the log begins.
    pub truncated: (u64, u64),
    /// (first index, term) of each run of entries with one term, ascending, over the whole durable log.
    pub term_runs: Vec<(u64, u64)>,
    /// Index of the last durable entry; the truncated index when there is none.
    pub last_index: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Every durable entry above `applied`.
    pub entries: Vec<LogEntry>,
    /// Bytes that the durable log takes up to `applied`, about.
    pub log_bytes: u64,
}

impl BootRecord {
    /// Index and term at which every group begins, so that an empty replica can never be mistaken for a new one.
    pub const FIRST: (u64, u64) = (5, 5);

    /// The beginning of a group with the given voters.
    pub fn new_group(group: GroupId, incarnation: Incarnation, replicas: Vec<Replica>) -> Self {
        let mut voters: Vec<u64> = replicas.iter().map(|replica| replica.incarnation.0).collect();
        voters.sort_unstable();
        let (index, term) = BootRecord::FIRST;
        BootRecord {
            group,
            incarnation,
            replicas,
            conf_state: ConfState { voters, ..ConfState::default() },
            hard_state: HardState { term, vote: 0, commit: index },
            truncated: (index, term),
            term_runs: Vec::new(),
            last_index: index,
            applied: index,
            entries: Vec::new(),
            log_bytes: 0,
        }
    }

    /// A replica that joins a group which has run without it: it has nothing, is in no configuration that
    /// it knows of, and waits for a snapshot. `replicas` says whom it listens to.
    pub fn added_replica(group: GroupId, incarnation: Incarnation, replicas: Vec<Replica>) -> Self {
        BootRecord {
            group,
            incarnation,
            replicas,
            conf_state: ConfState::default(),
            hard_state: HardState::default(),
            truncated: (0, 0),
            term_runs: Vec::new(),
            last_index: 0,
            applied: 0,
            entries: Vec::new(),
            log_bytes: 0,
        }
    }
}

/// One step of a change of a group's members; each is one entry of its log (Raft thesis, section 4.3, and
/// joint consensus, section 6 of the paper). Fire and forget: whoever asks looks at the configuration and asks
/// again if it has not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// Adds a replica that follows without a vote.
    AddLearner(Replica),
    /// Takes a learner out.
    RemoveLearner(Incarnation),
    /// Enters the joint configuration: learners become voters and voters leave, at once.
    EnterJoint {
        /// Learners that become voters.
        promote: Vec<Incarnation>,
        /// Voters that leave the group.
        remove: Vec<Incarnation>,
    },
    /// Leaves the joint configuration for the new one.
    LeaveJoint,
}

/// Which stream between two nodes a message travels on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Votes, heartbeats, read rounds, leadership transfer: small and never dropped for size.
    Control,
    /// Log entries and their acknowledgements.
    Data,
}

/// A Raft message on its way to another node; the payload is opaque to everyone but the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutMessage {
    /// Where it goes.
    pub node: NodeId,
    /// On which stream.
    pub lane: Lane,
    /// The message.
    pub message: GroupMessage,
}

/// A Raft message between two replicas of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The sending replica.
    pub from: Incarnation,
    /// The receiving replica.
    pub to: Incarnation,
    /// The encoded Raft message.
    pub payload: Vec<u8>,
    /// From a leader: no member needs the log up to this index any more. Else 0.
    pub log_floor: u64,
    /// The sending node is far behind in one of its groups and should not be made a leader now.
    pub is_catching_up: bool,
}

/// Something that happened since the last turn.
#[derive(Clone, Debug)]
pub enum Input {
    /// Start this replica. A group that runs already is left as it is.
    Start(Box<BootRecord>),
    /// Put a command into the group's log, if this node leads it.
    Propose {
        /// The group.
        group: GroupId,
        /// Answered once, by a [`Reply`] or with the applied command.
        token: Token,
        /// The encoded command (see [`crate::entry::Command`]).
        command: Vec<u8>,
        /// Monotonic milliseconds after which it is not proposed any more.
        deadline_ms: u64,
    },
    /// Tell when a read that begins now may be served from the local state.
    Read {
        /// The group.
        group: GroupId,
        /// Answered once by a [`ReadAnswer`].
        token: Token,
        /// Monotonic milliseconds after which the answer is not wanted any more.
        deadline_ms: u64,
    },
    /// A message came in.
    Message {
        /// The node whose stream it came on.
        from: NodeId,
        /// The message.
        message: GroupMessage,
    },
    /// Everything up to this Ready of the group is durable.
    Persisted {
        /// The group.
        group: GroupId,
        /// The Ready's number.
        ready: u64,
    },
    /// The state machine applied the group's log up to this index, and its rows are written.
    Applied {
        /// The group.
        group: GroupId,
        /// The index.
        index: u64,
    },
    /// Log entries that a [`FetchLog`] asked for.
    Fetched {
        /// The group.
        group: GroupId,
        /// The request's low index.
        low: u64,
        /// Consecutive entries from `low`.
        entries: Vec<LogEntry>,
    },
    /// Messages to this node are being lost.
    Unreachable(NodeId),
    /// Whether this node is not to be made a leader: something is wrong with its state. It says so to others as
    /// if it caught up, and keeps what it leads until it is told to hand that over.
    Unfit(bool),
    /// Hand leadership of the group to this replica, if this node leads it.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// The replica.
        to: Incarnation,
    },
    /// Ask for votes now if no leader is known: somebody waits for one.
    Campaign {
        /// The group.
        group: GroupId,
    },
    /// Change the group's members by one step, if this node leads it and no change is under way.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// The step.
        change: MemberChange,
    },
    /// A [`CutSnapshot`] is done: its manifest, or `None` if it failed.
    SnapshotCut {
        /// The group.
        group: GroupId,
        /// The replica it is for.
        to: Incarnation,
        /// What can be sent, its files durable.
        manifest: Option<Box<SnapshotManifest>>,
    },
    /// The receiver of a snapshot asked for some of it: it is alive.
    SnapshotProgress {
        /// The group.
        group: GroupId,
        /// The snapshot.
        id: SnapshotId,
    },
    /// A [`FetchSnapshot`] ended.
    SnapshotFetched {
        /// The group.
        group: GroupId,
        /// The snapshot.
        id: SnapshotId,
        /// True if every file is durable here and everything was verified.
        verified: bool,
    },
    /// Only time has passed.
    Tick,
}

/// Cut a snapshot of the group from one consistent view for a replica that needs more than the log has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutSnapshot {
    /// The group.
    pub group: GroupId,
    /// The replica in need.
    pub to: Replica,
    /// This node's replica.
    pub from: Replica,
}

/// Bring a snapshot here from the replica that cut it; any earlier fetch for the group is given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchSnapshot {
    /// What to bring. `manifest.sender` has it.
    pub manifest: Box<SnapshotManifest>,
}

/// Make a verified snapshot the group's state, with the hard state and the log's new beginning. Answered by
/// [`Input::Persisted`]; until then the group stands still (I3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstallSnapshot {
    /// What to install. The log begins after `manifest.row`'s applied index and term.
    pub manifest: Box<SnapshotManifest>,
    /// The Ready's number.
    pub ready: u64,
    /// This node's replica.
    pub incarnation: Incarnation,
    /// The hard state from then on.
    pub hard_state: HardState,
}

/// Forget the beginning of a group's log: delete the entries and write the new bounds, in the round's batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TruncateLog {
    /// The group.
    pub group: GroupId,
    /// This node's replica.
    pub incarnation: Incarnation,
    /// First entry to delete.
    pub first: u64,
    /// Last entry to delete: the log begins after it.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The members of a group as an entry left them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembersChanged {
    /// The entry.
    pub index: u64,
    /// Who votes and who learns from there on.
    pub conf_state: ConfState,
    /// The replica table from there on.
    pub replicas: Vec<Replica>,
}

/// What the executor has to write for one group in the round's batch (invariant I7: the hard state
/// goes with the entries of its own Ready).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// The group.
    pub group: GroupId,
    /// The Ready's number, to be handed back in [`Input::Persisted`].
    pub ready: u64,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries to put, consecutive.
    pub entries: Vec<LogEntry>,
    /// Inclusive range of old entries to delete, because a new leader overwrote the suffix (invariant I4).
    pub delete: Option<(u64, u64)>,
    /// False if losing the write in a crash is harmless (only the commit index moved).
    pub must_sync: bool,
}

/// Committed entries of a group, in order and without a gap since the last ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The group.
    pub group: GroupId,
    /// The entries. Empty data is a new leader's first entry and changes nothing.
    pub entries: Vec<LogEntry>,
    /// What those of them that change the members came to.
    pub members: Vec<MembersChanged>,
}

/// Entries that the core needs from disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchLog {
    /// The group.
    pub group: GroupId,
    /// First index.
    pub low: u64,
    /// One past the last index.
    pub high: u64,
    /// Bytes after which to stop; at least one entry is returned.
    pub max_bytes: u64,
}

/// Why a proposal or read will not be served here and now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This node does not lead the group; the leader's node, if known.
    NotLeader(Option<NodeId>),
    /// The group has no replica on this node.
    NoReplica,
    /// The deadline passed before anything was proposed.
    Expired,
    /// Too much is in flight.
    Busy,
    /// The command was proposed, and a change of leader hides whether it committed.
    OutcomeUnknown,
}

/// Answer to a proposal that will not be answered by applying it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The request.
    pub token: Token,
    /// Why.
    pub refusal: Refusal,
}

/// Names the request that an applied command answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proposed {
    /// The group.
    pub group: GroupId,
    /// The entry.
    pub index: u64,
    /// The command's place in the entry, from 0.
    pub position: u32,
    /// The waiting request.
    pub token: Token,
}

/// Answer to a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    /// The request.
    pub token: Token,
    /// The state is applied up to this index, at or above the read index; or why not.
    pub result: Result<u64, Refusal>,
}

/// A replica's place in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Follows a leader or waits for one.
    #[default]
    Follower,
    /// Asks for votes, or whether it would get them.
    Candidate,
    /// Leads.
    Leader,
}

/// Where a leader stands with one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberProgress {
    /// The member.
    pub replica: Replica,
    /// Last index known to be durable there.
    pub matched: u64,
    /// It was heard from within the last election timeout.
    pub is_active: bool,
    /// Index of the snapshot that is on its way to it; 0 for none.
    pub snapshot_index: u64,
}

/// What a replica does about a snapshot of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotPhase {
    /// Nothing.
    #[default]
    None,
    /// One is being brought here.
    Fetching,
    /// One is being made its state.
    Installing,
}

/// A group's state as this node sees it, for routing, status and metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This node's replica.
    pub incarnation: Incarnation,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader's node, if one is known.
    pub leader: Option<NodeId>,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// The replica table.
    pub replicas: Vec<Replica>,
    /// Who votes.
    pub voters: Vec<u64>,
    /// For a leader: how far behind its slowest recently active member is, in entries.
    pub lag_max: u64,
    /// Who votes and who learns.
    pub conf_state: ConfState,
    /// For a leader: a majority knows this configuration durably, so that no crash of all nodes brings the one
    /// before it back.
    pub is_conf_settled: bool,
    /// For a leader: every member but itself.
    pub members: Vec<MemberProgress>,
    /// First index that the log still has.
    pub first_index: u64,
    /// Bytes of the log, about.
    pub log_bytes: u64,
    /// Wall time of the oldest entry in the log, Unix nanoseconds; 0 for none or not known.
    pub oldest_entry_ns: u64,
    /// What it does about a snapshot. Its state must not be read while it installs one.
    pub snapshot: SnapshotPhase,
    /// It is on disk and was not needed since the start: it neither votes nor ticks.
    pub is_asleep: bool,
}

impl GroupStatus {
    /// True if the rows of the group's vaults here are a state of the group, however old: not before
    /// a new replica's first snapshot, nor in the middle of one.
    pub fn is_readable(&self) -> bool {
        self.applied > 0 && self.snapshot != SnapshotPhase::Installing
    }
}

/// What a turn asks for. The order of execution is the order of the fields.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages that may leave at once (a leader's; Raft thesis 10.2.1) or whose Ready is durable (invariant I1).
    pub messages: Vec<OutMessage>,
    /// Rows for the round's batch.
    pub persist: Vec<Persist>,
    /// Beginnings of logs to forget, in the round's batch.
    pub truncations: Vec<TruncateLog>,
    /// Entries to apply, in order for each group.
    pub committed: Vec<Committed>,
    /// The requests that `committed` entries answer.
    pub proposed: Vec<Proposed>,
    /// Requests answered without being applied.
    pub replies: Vec<Reply>,
    /// Reads answered.
    pub reads: Vec<ReadAnswer>,
    /// Entries to read from disk.
    pub fetches: Vec<FetchLog>,
    /// Snapshots to cut.
    pub cuts: Vec<CutSnapshot>,
    /// Cut snapshots that nobody needs any more.
    pub releases: Vec<SnapshotId>,
    /// Snapshots to bring here.
    pub snapshot_fetches: Vec<FetchSnapshot>,
    /// Fetched snapshots that turned out not to be needed, with their groups.
    pub discards: Vec<(GroupId, SnapshotId)>,
    /// Snapshots to install.
    pub installs: Vec<InstallSnapshot>,
    /// Groups whose role, term, leader, members or snapshot changed.
    pub changed: Vec<GroupStatus>,
}

impl Effects {
    /// Empties every list and keeps their memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.persist.clear();
        self.truncations.clear();
        self.committed.clear();
        self.proposed.clear();
        self.replies.clear();
        self.reads.clear();
        self.fetches.clear();
        self.cuts.clear();
        self.releases.clear();
        self.snapshot_fetches.clear();
        self.discards.clear();
        self.installs.clear();
        self.changed.clear();
    }
}
