//! Snapshots between real databases: a group with several vaults on one side, an empty replica on the other.

mod crash;
mod damage;
mod large;
mod receiving;
mod round_trip;
mod threads;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ledger_proof::hash;
use ledger_shard_core::apply::{Applier, ApplyConfig, ApplyOutput};
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::delete_vault::DeleteVaultCommand;
use ledger_shard_core::command::purge_vault::PurgeVaultCommand;
use ledger_shard_core::command::write::WriteCommand;
use ledger_shard_core::effects::{BootRecord, Committed, CutSnapshot, HardState, Replica};
use ledger_shard_core::entry::{Command, CommandKind, EntryBuilder, EntryKind, LogEntry};
use ledger_shard_core::rows::{VAULT_FAMILIES, encode_raft_entry, raft_entry_key};
use ledger_shard_core::snapshot::{SnapshotId, SnapshotManifest};
use ledger_shard_core::view::{Family, RowWrite};
use ledger_types::{
    ClusterId, Dedup, GroupId, Incarnation, NodeId, Operation, OwnerEpoch, TxId, VaultRef,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::cut::{CutTarget, cut};
use super::error::{SnapshotError, VerifyError};
use super::files::incoming_directory;
use super::install::{Install, Marker};
use super::staging::Staging;
use super::store::SnapshotStore;
use crate::boot;
use crate::metrics::Metrics;
use crate::store::{Store, StoreConfig};
use crate::view::{LiveView, scan};

const GROUP: GroupId = GroupId(4);
/// A group that shares the stores and must not be touched.
const OTHER: GroupId = GroupId(5);
const CLUSTER: ClusterId = ClusterId([3; 16]);
const SENDER: Replica = Replica { incarnation: Incarnation(1), node: NodeId(1) };
const RECEIVER: Replica = Replica { incarnation: Incarnation(7), node: NodeId(7) };
const SECOND_NS: u64 = 1_000_000_000;
const VAULTS: [VaultRef; 3] = [vault(10, 1), vault(10, 2), vault(11, 1)];

const fn vault(namespace: u64, vault: u64) -> VaultRef {
    VaultRef {
        namespace: ledger_types::NamespaceId(namespace),
        vault: ledger_types::VaultId(vault),
    }
}

type Row = (Vec<u8>, Vec<u8>);
type Rows = Vec<Row>;

/// A node's store and state machine.
struct Node {
    directory: TempDir,
    store: Arc<Store>,
    applier: Arc<Mutex<Applier>>,
    metrics: Arc<Metrics>,
}

fn replicas() -> Vec<Replica> {
    vec![SENDER, Replica { incarnation: Incarnation(2), node: NodeId(2) }, RECEIVER]
}

fn open_store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(directory, None, &StoreConfig::default()).unwrap())
}

impl Node {
    fn open(directory: TempDir) -> Node {
        let store = open_store(directory.path());
        // Pages early and often, so that they lag a few blocks behind.
        let config = ApplyConfig { tree_flush_blocks: 7, ..ApplyConfig::default() };
        let applier = Arc::new(Mutex::new(Applier::new(config)));
        Node { directory, store, applier, metrics: Arc::default() }
    }

    /// A founder with an empty group.
    fn founder() -> Node {
        let node = Node::open(TempDir::new().unwrap());
        for group in [GROUP, OTHER] {
            let record = BootRecord::new_group(group, SENDER.incarnation, replicas());
            boot::create_group(&node.store, &record, &[]).unwrap();
        }
        node
    }

    /// A replica that has nothing and waits for a snapshot.
    fn added() -> Node {
        let node = Node::open(TempDir::new().unwrap());
        let record = BootRecord::added_replica(GROUP, RECEIVER.incarnation, replicas());
        boot::create_group(&node.store, &record, &[]).unwrap();
        let record = BootRecord::new_group(OTHER, RECEIVER.incarnation, replicas());
        boot::create_group(&node.store, &record, &[]).unwrap();
        node
    }

    fn apply(&self, group: GroupId, entries: &[LogEntry]) {
        let (entries, members) = (entries.to_vec(), Vec::new());
        let committed = [Committed { group, entries, members }];
        let mut output = ApplyOutput::default();
        let mut applier = self.applier.lock();
        applier.apply(&committed, &LiveView::new(&self.store), &mut output).unwrap();
        self.store.write_round(&output.erased, &output.rows).unwrap();
        applier.written();
    }

    /// Also puts the entry into the log, for tests that start again from it.
    fn log_and_apply(&self, group: GroupId, entry: &LogEntry) {
        let (family, key) = (Family::Raft, raft_entry_key(group, entry.index));
        let value = Some(encode_raft_entry(entry));
        self.store.write(&[RowWrite { family, key, value }]).unwrap();
        self.apply(group, std::slice::from_ref(entry));
    }

    fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::open(self.directory.path(), CLUSTER, self.metrics.clone()).unwrap()
    }

    fn prove_all(&self, vaults: &[VaultRef]) {
        for &vault in vaults {
            let keys = [ledger_types::StateKey::entity("key7")];
            let view = LiveView::new(&self.store);
            self.applier.lock().prove(vault, &keys, None, &view).unwrap();
        }
    }
}

/// Every row of a family.
fn rows_of(store: &Store, family: Family) -> Rows {
    let mut rows = Rows::new();
    scan(store, None, family, &b""[..]..&[0xff; 64][..], &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    })
    .unwrap();
    rows
}

/// Every row of the state machine.
fn state_of(store: &Store) -> Vec<(Family, Rows)> {
    let families = [Family::Vaults].into_iter().chain(VAULT_FAMILIES);
    families.map(|family| (family, rows_of(store, family))).collect()
}

fn entry(index: u64, commands: &[Vec<u8>]) -> LogEntry {
    let mut builder = EntryBuilder::new(SENDER.incarnation, index * SECOND_NS);
    for command in commands {
        builder.push(command);
    }
    LogEntry { index, term: 6, kind: EntryKind::Normal, data: builder.finish() }
}

fn create(vault: VaultRef) -> Vec<u8> {
    command(CommandKind::CreateVault, vault, &CreateVaultCommand::default().encode())
}

fn command(kind: CommandKind, vault: VaultRef, body: &[u8]) -> Vec<u8> {
    Command { kind: kind as u8, vault, owner_epoch: OwnerEpoch(1), body }.encode()
}

/// A transaction of its own client every time the number is a multiple of five.
fn write(vault: VaultRef, number: u64, operations: Vec<Operation>) -> Vec<u8> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let body = WriteCommand {
        tx_id: TxId(id),
        client: format!("client{}", number % 5),
        dedup: Dedup::IdempotencyKey(id),
        actor: String::new(),
        operations,
    };
    command(CommandKind::Write, vault, &body.encode())
}

fn set(key: &str, value: Vec<u8>) -> Operation {
    Operation::SetEntity { key: key.to_owned(), value, expires_at: 0, condition: None }
}

/// What a group did: two vaults with state, history, sessions and pages, one with just its genesis.
fn entries() -> Vec<LogEntry> {
    let mut entries = vec![entry(6, &VAULTS.map(create))];
    for index in 7..67 {
        let mut commands = Vec::new();
        for (place, &vault) in VAULTS[..2].iter().enumerate() {
            let number = index * 10 + place as u64;
            // Some keys are written again and again, some once, some go.
            let mut operations = vec![
                set(&format!("key{}", index % 9), index.to_be_bytes().repeat(8)),
                set(&format!("once{number:04}"), vec![index as u8; 300]),
                set(&format!("more{number:04}"), Vec::new()),
            ];
            if index % 4 == 0 {
                operations.push(Operation::DeleteEntity { key: format!("key{}", index % 7) });
            }
            let (resource, relation) = (format!("doc:{index}"), "viewer".to_owned());
            let subject = format!("user:{number}");
            operations.push(Operation::CreateRelationship { resource, relation, subject });
            commands.push(write(vault, number, operations));
            commands.push(write(vault, number + 5, vec![set("last", vec![place as u8])]));
        }
        entries.push(entry(index, &commands));
    }
    entries
}

/// A founder that applied all of [`entries`].
fn source() -> Node {
    let node = Node::founder();
    for one in entries() {
        node.apply(GROUP, &[one]);
    }
    node
}

/// A source whose first vault was deleted and purged since.
fn source_after_purge() -> Node {
    let node = source();
    let delete = command(CommandKind::DeleteVault, VAULTS[0], &DeleteVaultCommand.encode());
    let purge = command(CommandKind::PurgeVault, VAULTS[0], &PurgeVaultCommand.encode());
    node.apply(GROUP, &[entry(67, &[delete])]);
    node.apply(GROUP, &[entry(68, &[purge])]);
    node
}

fn wanted() -> CutSnapshot {
    CutSnapshot { group: GROUP, to: RECEIVER, from: SENDER }
}

/// Cuts a snapshot into many small files and keeps it for reading.
fn cut_small(node: &Node, snapshots: &SnapshotStore) -> SnapshotManifest {
    let id = SnapshotId(rand::random());
    let directory = snapshots.outgoing_directory(id);
    let target = CutTarget { id, cluster: CLUSTER, directory, file_bytes_aim: 16 << 10 };
    let manifest = cut(&node.store, &wanted(), &target, &AtomicBool::new(false)).unwrap();
    snapshots.keep(&manifest);
    manifest
}

/// Takes in up to `chunks` chunks of a snapshot; true if everything is here then.
fn transfer(from: &SnapshotStore, staging: &mut Staging, chunks: usize) -> bool {
    let id = staging.manifest().id;
    for _ in 0..chunks {
        let Some((file, offset)) = staging.next() else { break };
        let bytes = from.read_chunk(id, file, offset, 5000).unwrap();
        staging.write(file, offset, &bytes, &hash::plain(&bytes)).unwrap();
    }
    staging.next().is_none()
}

/// A snapshot of [`source`], received and verified by a new replica.
struct Received {
    source: Node,
    node: Node,
    snapshots: SnapshotStore,
    manifest: SnapshotManifest,
}

fn received_by(node: Node) -> Received {
    received_from(source(), node)
}

fn received_from(source: Node, node: Node) -> Received {
    let outgoing = source.snapshots();
    let manifest = cut_small(&source, &outgoing);
    let snapshots = node.snapshots();
    let mut staging = snapshots.receive(&manifest).unwrap();
    assert!(transfer(&outgoing, &mut staging, usize::MAX));
    staging.finish().unwrap();
    Received { source, node, snapshots, manifest }
}

fn hard_state(manifest: &SnapshotManifest) -> HardState {
    HardState { term: 9, vote: 2, commit: manifest.row.applied_index }
}

fn marker(manifest: &SnapshotManifest) -> Marker {
    let (id, encoded) = (manifest.id, hash::plain(&manifest.encode()));
    let (incarnation, hard_state) = (RECEIVER.incarnation, hard_state(manifest));
    Marker { id, manifest: encoded, incarnation, hard_state }
}

impl Received {
    fn install(&self) -> Install<'_> {
        let applier = Some(&*self.node.applier);
        let manifest = &self.manifest;
        Install::new(&self.node.store, manifest, marker(manifest), applier).unwrap()
    }
}

/// Everything that an installed snapshot promises about the group's own rows.
fn assert_group(store: &Store, manifest: &SnapshotManifest) {
    let record = boot::load_group(store, RECEIVER.node, GROUP).unwrap();
    let (index, term) = (manifest.row.applied_index, manifest.row.applied_term);
    assert_eq!((record.applied, record.truncated), (index, (index, term)));
    assert_eq!((record.last_index, record.entries.len()), (index, 0));
    assert_eq!(record.hard_state, hard_state(manifest));
    assert_eq!(record.incarnation, RECEIVER.incarnation);
    assert_eq!(record.conf_state, manifest.row.conf_state);
    assert_eq!(store.meta(&[&b"install/"[..], &GROUP.0.to_be_bytes()].concat()).unwrap(), None);
}

/// Copies a directory with all below it, as a crash would leave it.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_directory(&path, &target),
            false => {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
}
