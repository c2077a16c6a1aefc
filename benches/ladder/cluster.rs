//! Rungs (b) to (e): three nodes in this process, each with its own store and driver.
//!
//! Owns the in-process network and a closed loop of proposals. Must never reach into a driver.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use ledger_shard::boot::create_group;
use ledger_shard::{
    BlockListener, Clock, Driver, DriverConfig, DriverMode, DriverParts, NoSnapshots, Outbox,
    ProposeOutcome, ShardHandle, Store, StoreConfig, SystemClock, abort_process,
};
use ledger_shard_core::apply::{Applier, ApplyConfig, ApplyOutput, CommandResult, NewBlock};
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::write::{WriteCommand, WriteResult};
use ledger_shard_core::effects::{BootRecord, Committed, GroupMessage, OutMessage, Replica, Role};
use ledger_shard_core::entry::{Command, CommandKind, EntryBuilder, EntryKind, LogEntry};
use ledger_shard_core::rows::{GroupRow, group_row_key};
use ledger_shard_core::view::{Family, MemoryRows, RowWrite};
use ledger_types::{Dedup, GroupId, Incarnation, NodeId, Operation, OwnerEpoch, TxId, VaultRef};
use tempfile::TempDir;

use crate::cost::{Cost, Stretch};

/// Nodes of the cluster.
pub(crate) const NODES: u64 = 3;
const GROUPS: u64 = 8;
const VAULTS: u64 = 16;
const KEYS: u64 = 20_000;
const VALUE_BYTES: usize = 256;

/// What is proposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Writes under a wrong owner epoch: logged and replicated, refused by apply.
    Refused,
    /// One entity each.
    Entities,
    /// One relationship each.
    Relationships,
}

/// Hands messages straight to the other nodes' drivers.
#[derive(Default)]
struct Wires {
    handles: OnceLock<Vec<ShardHandle>>,
}

impl Outbox for Wires {
    fn send(&self, messages: Vec<OutMessage>) {
        let Some(handles) = self.handles.get() else { return };
        let mut by_node = BTreeMap::<NodeId, Vec<GroupMessage>>::new();
        for message in messages {
            by_node.entry(message.node).or_default().push(message.message);
        }
        for (node, batch) in by_node {
            let handle = &handles[usize::try_from(node.0 - 1).expect("small")];
            // The first replica of each node has the node's number.
            handle.message(NodeId(batch[0].from.0), batch);
        }
    }
}

struct Nobody;

impl BlockListener for Nobody {
    fn blocks(&self, _: &[NewBlock]) {}
}

pub(crate) struct Cluster {
    drivers: Vec<Driver>,
    _folders: Vec<TempDir>,
    next: u64,
}

impl Cluster {
    /// Starts three nodes with 8 groups and waits until each group has a leader and its vaults.
    pub(crate) fn start(mode: DriverMode) -> Cluster {
        let wires = Arc::new(Wires::default());
        let mut drivers = Vec::new();
        let mut folders = Vec::new();
        let table: Vec<Replica> = (1..=NODES)
            .map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) })
            .collect();
        for id in 1..=NODES {
            let folder = TempDir::new().expect("a directory");
            let store = Store::open(folder.path(), None, &StoreConfig::default()).expect("a store");
            let groups = (1..=GROUPS).map(GroupId);
            let records: Vec<BootRecord> = groups
                .map(|group| {
                    let record = BootRecord::new_group(group, Incarnation(id), table.clone());
                    create_group(&store, &record, &[]).expect("a new group");
                    record
                })
                .collect();
            let parts = DriverParts {
                store: Arc::new(store),
                node: NodeId(id),
                records,
                sleeping: Vec::new(),
                outbox: wires.clone(),
                fetcher: Arc::new(NoSnapshots::default()),
                blocks: Arc::new(Nobody),
                clock: Arc::new(SystemClock) as Arc<dyn Clock>,
                fatal: abort_process(),
            };
            let config = DriverConfig { mode, ..DriverConfig::default() };
            drivers.push(Driver::start(parts, config).expect("a driver"));
            folders.push(folder);
        }
        let handles = drivers.iter().map(Driver::handle).collect();
        assert!(wires.handles.set(handles).is_ok(), "set once");
        let mut cluster = Cluster { drivers, _folders: folders, next: 0 };
        for vault in 0..VAULTS {
            cluster.create_vault(vault);
        }
        cluster
    }

    pub(crate) fn stop(&mut self) {
        for driver in self.drivers.drain(..) {
            driver.shutdown().expect("a clean stop");
        }
    }

    fn leader(&self, group: GroupId) -> Option<ShardHandle> {
        let handles = self.drivers.iter().map(Driver::handle);
        handles
            .into_iter()
            .find(|handle| handle.leader(group).is_some_and(|(role, ..)| role == Role::Leader))
    }

    fn create_vault(&mut self, number: u64) {
        let body = CreateVaultCommand::default().encode();
        let command = envelope(CommandKind::CreateVault, number, OwnerEpoch(1), &body);
        let (done, answers) = bounded(1);
        loop {
            if let Some(leader) = self.leader(group_of(number)) {
                self.propose(&leader, number, command.clone(), &done);
                let (_, outcome) = answers.recv().expect("answered once");
                if matches!(&outcome, Ok(applied) if matches!(applied.result, CommandResult::VaultCreated { .. }))
                {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Keeps `in_flight` proposals going for a while.
    pub(crate) fn run(&mut self, time: Duration, in_flight: usize, work: Work) -> Cost {
        let leaders: Vec<ShardHandle> = (0..VAULTS)
            .map(|vault| {
                loop {
                    if let Some(leader) = self.leader(group_of(vault)) {
                        break leader;
                    }
                }
            })
            .collect();
        let (done, answers): (Sender<(u64, ProposeOutcome)>, Receiver<_>) = bounded(in_flight);
        let stretch = Stretch::begin();
        let end = Instant::now() + time;
        let (mut waiting, mut finished) = (0, 0u64);
        loop {
            while waiting < in_flight && Instant::now() < end {
                self.next += 1;
                let vault = self.next % VAULTS;
                let command = command(work, vault, self.next);
                let leader = &leaders[usize::try_from(vault).expect("small")];
                self.propose(leader, vault, command, &done);
                waiting += 1;
            }
            if waiting == 0 {
                return stretch.end(finished);
            }
            let (_, outcome) = answers.recv().expect("each proposal is answered");
            waiting -= 1;
            // A change of leader during the run refuses some; they do not count.
            if let Ok(applied) = outcome {
                assert!(expected(work, &applied.result), "unexpected answer {:?}", applied.result);
                finished += 1;
            }
        }
    }

    fn propose(
        &self,
        leader: &ShardHandle,
        vault: u64,
        command: Vec<u8>,
        done: &Sender<(u64, ProposeOutcome)>,
    ) {
        let done = done.clone();
        let deadline = leader.now().monotonic_ms + 10_000;
        let completion = move |outcome| drop(done.send((vault, outcome)));
        leader.propose(group_of(vault), command, deadline, Box::new(completion));
    }
}

fn expected(work: Work, result: &CommandResult) -> bool {
    match result {
        CommandResult::WrongShard { .. } => work == Work::Refused,
        CommandResult::Write(WriteResult::Committed(_)) => work != Work::Refused,
        _ => false,
    }
}

fn group_of(vault: u64) -> GroupId {
    GroupId(vault % GROUPS + 1)
}

fn envelope(kind: CommandKind, vault: u64, owner_epoch: OwnerEpoch, body: &[u8]) -> Vec<u8> {
    let vault = VaultRef::new(1, vault + 1);
    Command { kind: kind as u8, vault, owner_epoch, body }.encode()
}

fn command(work: Work, vault: u64, number: u64) -> Vec<u8> {
    let epoch = if work == Work::Refused { OwnerEpoch(99) } else { OwnerEpoch(1) };
    envelope(CommandKind::Write, vault, epoch, &write(work, number).encode())
}

fn write(work: Work, number: u64) -> WriteCommand {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS;
    let operation = if work == Work::Relationships {
        Operation::CreateRelationship {
            resource: format!("document:{number:012}"),
            relation: "viewer".to_owned(),
            subject: format!("user:{scattered:08}"),
        }
    } else {
        Operation::SetEntity {
            key: format!("entity/{scattered:012}"),
            value: vec![7; VALUE_BYTES],
            expires_at: 0,
            condition: None,
        }
    };
    WriteCommand {
        tx_id: TxId(key),
        client: "ladder".to_owned(),
        dedup: Dedup::IdempotencyKey(key),
        actor: String::new(),
        operations: vec![operation],
    }
}

/// Rung (c): the rows that real writes make, in batches of 32 commands, written to a store and synced.
pub(crate) fn rows_alone(time: Duration) -> Cost {
    const PER_BATCH: u64 = 32;
    let batches = collect_rows(200, PER_BATCH);
    let folder = TempDir::new().expect("a directory");
    let store = Store::open(folder.path(), None, &StoreConfig::default()).expect("a store");
    let stretch = Stretch::begin();
    let end = Instant::now() + time;
    let mut operations = 0;
    while Instant::now() < end {
        for batch in &batches {
            store.write(batch).expect("written");
            operations += PER_BATCH;
        }
    }
    stretch.end(operations)
}

fn collect_rows(batches: u64, per_batch: u64) -> Vec<Vec<RowWrite>> {
    let mut applier = Applier::new(ApplyConfig::default());
    let mut rows = MemoryRows::default();
    let group = GroupId(1);
    let table = vec![Replica { incarnation: Incarnation(1), node: NodeId(1) }];
    let record = BootRecord::new_group(group, Incarnation(1), table);
    let (applied_index, applied_term) = BootRecord::FIRST;
    let row = GroupRow {
        applied_index,
        applied_term,
        conf_state: record.conf_state.clone(),
        replicas: record.replicas.clone(),
    };
    let value = Some(row.encode());
    rows.write([RowWrite { family: Family::Vaults, key: group_row_key(group).to_vec(), value }]);
    let mut out = Vec::new();
    let mut number = 0;
    for batch in 0..=batches {
        let mut builder = EntryBuilder::new(Incarnation(1), 1_700_000_000_000_000_000 + batch);
        if batch == 0 {
            let body = CreateVaultCommand::default().encode();
            builder.push(&envelope(CommandKind::CreateVault, 0, OwnerEpoch(1), &body));
        } else {
            for _ in 0..per_batch {
                number += 1;
                builder.push(&command(Work::Entities, 0, number));
            }
        }
        let index = applied_index + 1 + batch;
        let data = builder.finish();
        let entry = LogEntry { index, term: 6, kind: EntryKind::Normal, data };
        let mut output = ApplyOutput::default();
        let committed = [Committed { group, entries: vec![entry], members: Vec::new() }];
        applier.apply(&committed, &rows, &mut output).expect("applies");
        rows.write(output.rows.iter().cloned());
        applier.written();
        if batch > 0 {
            out.push(output.rows);
        }
    }
    out
}
