//! Raft messages from another node, taken in by replicas of a running group.
//!
//! Owns three nodes in one thread, with disks that are lists. The input comes to one of them as if a member of the
//! group had sent it: whatever is in it, the replica must go on.

use std::collections::{BTreeMap, VecDeque};

use ledger_shard_core::effects::{
    BootRecord, Effects, GroupMessage, Input, Now, OutMessage, Replica, Token,
};
use ledger_shard_core::entry::{Command, CommandKind, LogEntry};
use ledger_shard_core::{CoreConfig, NodeCore};
use ledger_types::{GroupId, Incarnation, NodeId, OwnerEpoch, VaultRef};
use prost::Message;

use crate::Verdict;

/// As much of a Raft message as is needed to see what its entries are.
#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "7")]
    entries: Vec<EntryType>,
}

/// As much of an entry.
#[derive(Clone, PartialEq, Message)]
struct EntryType {
    #[prost(int32, tag = "1")]
    number: i32,
}

/// The number of entries that change the members.
const CHANGE_OF_MEMBERS: i32 = 2;

/// The group that the nodes run.
pub const RAFT_GROUP: GroupId = GroupId(3);
/// Number of nodes; node `n` has the replica with incarnation `n`.
const NODES: u64 = 3;
/// Most messages of one input.
const MESSAGES_MAX: usize = 8;
/// Steps after which what a message set in motion has come to rest.
const STEPS_MAX: usize = 400;

struct Node {
    core: NodeCore,
    log: BTreeMap<u64, LogEntry>,
    inbox: Vec<Input>,
}

struct Cluster {
    nodes: Vec<Node>,
    network: VecDeque<OutMessage>,
    /// Every message that was ever sent.
    sent: Vec<GroupMessage>,
    now_ms: u64,
}

impl Cluster {
    fn new() -> Cluster {
        let replica = |id| Replica { incarnation: Incarnation(id), node: NodeId(id) };
        let replicas: Vec<Replica> = (1..=NODES).map(replica).collect();
        let node = |id: u64| {
            let boot = BootRecord::new_group(RAFT_GROUP, Incarnation(id), replicas.clone());
            let config = CoreConfig { seed: id, ..CoreConfig::default() };
            Node {
                core: NodeCore::new(config, NodeId(id)),
                log: BTreeMap::new(),
                inbox: vec![Input::Start(Box::new(boot))],
            }
        };
        let nodes = (1..=NODES).map(node).collect();
        Cluster { nodes, network: VecDeque::new(), sent: Vec::new(), now_ms: 1_000 }
    }

    fn tell(&mut self, id: u64, input: Input) {
        self.nodes[id as usize - 1].inbox.push(input);
    }

    /// One turn of one node, with everything that its executor would do about it.
    fn turn(&mut self, id: u64) {
        let now = Now { monotonic_ms: self.now_ms, wall_ns: self.now_ms * 1_000_000 };
        let node = &mut self.nodes[id as usize - 1];
        let mut effects = Effects::default();
        let mut inputs = std::mem::take(&mut node.inbox);
        node.core.turn(&mut inputs, now, &mut effects);
        for persist in &effects.persist {
            if let Some((first, last)) = persist.delete {
                node.log.retain(|index, _| *index < first || *index > last);
            }
            for entry in &persist.entries {
                node.log.insert(entry.index, entry.clone());
            }
        }
        node.answer(&effects);
        for message in effects.messages {
            self.sent.push(message.message.clone());
            self.network.push_back(message);
        }
    }

    /// Runs until nothing is under way, or long enough.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            for id in 1..=NODES {
                if !self.nodes[id as usize - 1].inbox.is_empty() {
                    self.turn(id);
                }
            }
            while let Some(OutMessage { node, message, .. }) = self.network.pop_front() {
                // The first replica of each node has the node's number.
                let from = NodeId(message.from.0);
                self.tell(node.0, Input::Message { from, message });
            }
            if self.nodes.iter().all(|node| node.inbox.is_empty()) {
                return;
            }
        }
    }

    /// Time passes on every node.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for id in 1..=NODES {
            self.tell(id, Input::Tick);
        }
        self.settle();
    }

    /// Node 1 leads and a few entries are committed.
    fn led_by_1() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.settle();
        cluster.tell(1, Input::Campaign { group: RAFT_GROUP });
        cluster.settle();
        for number in 0..3 {
            cluster.propose(number);
            cluster.settle();
        }
        cluster
    }

    fn propose(&mut self, number: u64) {
        let (vault, owner_epoch) = (VaultRef::new(1, number), OwnerEpoch(1));
        let kind = CommandKind::CreateVault as u8;
        let command = Command { kind, vault, owner_epoch, body: &[1] }.encode();
        let (token, deadline_ms) = (Token(number), u64::MAX);
        self.tell(1, Input::Propose { group: RAFT_GROUP, token, command, deadline_ms });
    }
}

impl Node {
    /// What is told to the core once its effects were carried out.
    fn answer(&mut self, effects: &Effects) {
        let group = RAFT_GROUP;
        let written = effects.persist.iter().map(|persist| persist.ready);
        let installed = effects.installs.iter().map(|install| install.ready);
        self.inbox.extend(written.chain(installed).map(|ready| Input::Persisted { group, ready }));
        for index in effects.committed.iter().filter_map(|one| one.entries.last()).map(|e| e.index)
        {
            self.inbox.push(Input::Applied { group, index });
        }
        for fetch in &effects.fetches {
            let entries: Vec<LogEntry> =
                self.log.range(fetch.low..fetch.high).map(|(_, entry)| entry.clone()).collect();
            self.inbox.push(Input::Fetched { group, low: fetch.low, entries });
        }
        for fetch in &effects.snapshot_fetches {
            let id = fetch.manifest.id;
            self.inbox.push(Input::SnapshotFetched { group, id, verified: false });
        }
        for cut in &effects.cuts {
            let to = cut.to.incarnation;
            self.inbox.push(Input::SnapshotCut { group, to, manifest: None });
        }
    }
}

/// Up to [`MESSAGES_MAX`] messages, each `receiver u8 ‖ sender u8 ‖ length u16 ‖ Raft message`, given to a group that
/// node 1 leads. Messages with changes of members are left out: a leader that commits one which does not fit the
/// configuration ends the process on purpose. Afterwards time passes and a command is proposed: nothing may panic. Accepted if all of the input
/// was given to somebody.
pub(crate) fn raft_messages(input: &[u8]) -> Verdict {
    let mut cluster = Cluster::led_by_1();
    let mut rest = input;
    for _ in 0..MESSAGES_MAX {
        let Some((&[to, from, high, low], after)) = rest.split_first_chunk() else { break };
        let len = usize::from(u16::from_be_bytes([high, low]));
        // A length that is too long takes what there is, so that an input that grew or shrank still says something.
        let (payload, after) = after.split_at(len.min(after.len()));
        rest = after;
        let known = Entries::decode(payload).unwrap_or_default();
        if known.entries.iter().any(|entry| entry.number == CHANGE_OF_MEMBERS) {
            return Verdict::Refused;
        }
        let (to, from) = (u64::from(to) % NODES + 1, u64::from(from) % NODES + 1);
        let message = GroupMessage {
            group: RAFT_GROUP,
            from: Incarnation(from),
            to: Incarnation(to),
            payload: payload.to_vec(),
            log_floor: 0,
            is_catching_up: false,
        };
        cluster.tell(to, Input::Message { from: NodeId(from), message });
        cluster.settle();
    }
    for number in 10..14 {
        cluster.pass(CoreConfig::default().tick_ms);
        cluster.propose(number);
        cluster.settle();
    }
    if rest.is_empty() && !input.is_empty() { Verdict::Accepted } else { Verdict::Refused }
}

/// Messages as the nodes send them while a leader is elected, commands are replicated and time passes, each in the
/// form of an input.
pub fn recorded_messages() -> Vec<Vec<u8>> {
    let mut cluster = Cluster::led_by_1();
    for number in 10..14 {
        cluster.pass(CoreConfig::default().tick_ms);
        cluster.propose(number);
        cluster.settle();
    }
    let form = |message: &GroupMessage| {
        let len = u16::try_from(message.payload.len()).expect("these are small");
        let mut bytes = vec![(message.to.0 - 1) as u8, (message.from.0 - 1) as u8];
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&message.payload);
        bytes
    };
    cluster.sent.iter().map(form).collect()
}
