//! Whole nodes on real databases, three in one process, joined by queues instead of sockets.

mod crash;
mod dying;
mod lazy;
mod running;
mod scripted;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ledger_shard_core::CoreConfig;
use ledger_shard_core::apply::{CommandResult, NewBlock};
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::write::{WriteCommand, WriteResult};
use ledger_shard_core::effects::{
    BootRecord, FetchSnapshot, GroupMessage, OutMessage, Refusal, Replica,
};
use ledger_shard_core::entry::{Command, CommandKind};
use ledger_shard_core::rows::{VaultRow, latest_key, split_latest, vault_row_key};
use ledger_shard_core::snapshot::SnapshotManifest;
use ledger_shard_core::view::{Family, StateView};
use ledger_types::{
    Dedup, GroupId, Incarnation, NodeId, Operation, OwnerEpoch, StateKey, TxId, VaultRef,
};

use crate::view::scan;
use crate::{
    AppliedCommand, BlockListener, DriverConfig, DriverMode, DriverParts, Fatal, LiveView, Outbox,
    ProposeCompletion, ProposeOutcome, ShardHandle, SnapshotError, SnapshotFetcher, Store,
    StoreConfig, boot,
};

const NODES: [u64; 3] = [1, 2, 3];
/// Three groups, each with one vault of the same number.
const GROUPS: [u64; 3] = [1, 2, 3];

fn vault_of(group: u64) -> VaultRef {
    VaultRef::new(10, group)
}

/// Queues between the nodes of one process.
#[derive(Default)]
struct Network {
    handles: Mutex<BTreeMap<NodeId, ShardHandle>>,
}

impl Network {
    fn connect(&self, node: u64, handle: ShardHandle) {
        self.handles.lock().unwrap().insert(NodeId(node), handle);
    }

    fn disconnect(&self, node: u64) {
        self.handles.lock().unwrap().remove(&NodeId(node));
    }
}

/// Brings snapshots from one node of the process to another, on a thread for each.
struct Courier {
    network: Arc<Network>,
    node: u64,
}

impl SnapshotFetcher for Courier {
    fn fetch(&self, wanted: FetchSnapshot) {
        let handle = |node| self.network.handles.lock().unwrap().get(&node).cloned();
        let (manifest, here) = (wanted.manifest, handle(NodeId(self.node)));
        let (Some(here), Some(there)) = (here, handle(manifest.sender.node)) else { return };
        std::thread::spawn(move || {
            let verified = bring(&manifest, &there, &here).is_ok();
            here.snapshot_fetched(manifest.group, manifest.id, verified);
        });
    }
}

fn bring(
    manifest: &SnapshotManifest,
    from: &ShardHandle,
    to: &ShardHandle,
) -> Result<(), SnapshotError> {
    let mut staging = to.snapshots().receive(manifest)?;
    while let Some((file, offset)) = staging.next() {
        let bytes = from.snapshots().read_chunk(manifest.id, file, offset, 1000)?;
        staging.write(file, offset, &bytes, &ledger_proof::hash::plain(&bytes))?;
        from.snapshot_progress(manifest.group, manifest.id);
    }
    staging.finish()
}

impl Outbox for Network {
    fn send(&self, messages: Vec<OutMessage>) {
        let handles = self.handles.lock().unwrap();
        let mut frames: BTreeMap<NodeId, Vec<GroupMessage>> = BTreeMap::new();
        for one in messages {
            frames.entry(one.node).or_default().push(one.message);
        }
        for (node, frame) in frames {
            if let Some(handle) = handles.get(&node) {
                // The first replica of each node has the node's number.
                let from = NodeId(frame[0].from.0);
                handle.message(from, frame);
            }
        }
    }
}

/// Collects what was told of blocks.
#[derive(Default)]
struct Blocks {
    heights: Mutex<BTreeMap<VaultRef, u64>>,
}

impl BlockListener for Blocks {
    fn blocks(&self, blocks: &[NewBlock]) {
        let mut heights = self.heights.lock().unwrap();
        for block in blocks {
            let last = heights.insert(block.vault, block.height);
            assert!(last.is_none_or(|last| last + 1 == block.height), "blocks come in order");
        }
    }
}

/// The answer to a proposal, once it is there.
type Answer = Arc<Mutex<Option<ProposeOutcome>>>;

fn answer_slot() -> (Answer, ProposeCompletion) {
    let slot = Answer::default();
    let filled = slot.clone();
    let completion = Box::new(move |outcome| {
        assert!(filled.lock().unwrap().replace(outcome).is_none(), "answered once");
    });
    (slot, completion)
}

fn fatal_in_tests() -> Fatal {
    Fatal::new(|reason| panic!("fatal: {reason}"))
}

fn open_store(directory: &Path) -> Arc<Store> {
    let config = StoreConfig {
        write_buffer_bytes: 8 << 20,
        block_cache_bytes: 8 << 20,
        ..StoreConfig::default()
    };
    Arc::new(Store::open(directory, None, &config).unwrap())
}

/// Makes a node's groups if the directory is new, and tells what the node starts with.
fn parts(
    node: u64,
    store: Arc<Store>,
    network: Arc<Network>,
    clock: Arc<dyn crate::Clock>,
) -> DriverParts {
    let replicas = NODES.map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
    if store.boots() == 1 {
        for group in GROUPS {
            let record =
                BootRecord::new_group(GroupId(group), Incarnation(node), replicas.to_vec());
            boot::create_group(&store, &record, &[]).unwrap();
        }
    }
    let loaded = boot::load(&store, NodeId(node)).unwrap();
    assert_eq!(loaded.orphans, []);
    DriverParts {
        store,
        node: NodeId(node),
        records: loaded.records,
        sleeping: loaded.sleeping,
        fetcher: Arc::new(Courier { network: network.clone(), node }),
        outbox: network,
        blocks: Arc::new(Blocks::default()),
        clock,
        fatal: fatal_in_tests(),
    }
}

/// Opens the groups that this node is to lead at first; the others are opened by what it sends.
fn wake(node: u64, handle: &ShardHandle) {
    for group in GROUPS.into_iter().filter(|group| group % 3 == node % 3) {
        handle.wake(GroupId(group));
    }
}

fn config(mode: DriverMode, tick_ms: u64) -> DriverConfig {
    // A small cache, so that a follower that was away is served from disk.
    let core = CoreConfig { tick_ms, cache_bytes_per_group: 4096, ..CoreConfig::default() };
    DriverConfig { core, mode, apply_batch_bytes: 64 << 10, ..DriverConfig::default() }
}

fn create_vault(group: u64) -> Vec<u8> {
    command(CommandKind::CreateVault, group, &CreateVaultCommand::default().encode())
}

/// Sets entity `key`, recognised by `number` if it comes twice.
fn write(group: u64, number: u64, key: &str) -> Vec<u8> {
    let mut idempotency_key = [0; 16];
    idempotency_key[..8].copy_from_slice(&number.to_be_bytes());
    let operation = Operation::SetEntity {
        key: key.to_owned(),
        value: value_of(key),
        expires_at: 0,
        condition: None,
    };
    let body = WriteCommand {
        tx_id: TxId(idempotency_key),
        client: "tests".to_owned(),
        dedup: Dedup::IdempotencyKey(idempotency_key),
        actor: String::new(),
        operations: vec![operation],
    };
    command(CommandKind::Write, group, &body.encode())
}

fn value_of(key: &str) -> Vec<u8> {
    key.repeat(20).into_bytes()
}

fn command(kind: CommandKind, group: u64, body: &[u8]) -> Vec<u8> {
    let (vault, owner_epoch) = (vault_of(group), OwnerEpoch(1));
    Command { kind: kind as u8, vault, owner_epoch, body }.encode()
}

/// True if the command was committed, false if it must be tried again.
fn is_done(outcome: &ProposeOutcome) -> bool {
    match outcome {
        Ok(AppliedCommand { result: CommandResult::Write(WriteResult::Committed(_)), .. }) => true,
        Ok(AppliedCommand { result: CommandResult::VaultCreated { .. }, .. }) => true,
        Err(Refusal::NotLeader(_) | Refusal::OutcomeUnknown | Refusal::Expired) => false,
        other => panic!("unexpected outcome {other:?}"),
    }
}

/// The value of an entity on one node.
fn entity(store: &Store, group: u64, key: &str) -> Option<Vec<u8>> {
    let key = latest_key(vault_of(group), StateKey::entity(key).as_bytes());
    let row = LiveView::new(store).get(Family::Latest, &key).unwrap()?;
    split_latest(&row).map(|(_, value)| value.to_vec())
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything of a node that must be equal on all replicas: all rows of state, blocks and sessions, and
/// the vaults' rows but for how far their trees are flushed.
fn replicated_state(store: &Store) -> (Vec<Rows>, Vec<Option<VaultRow>>) {
    let families = [Family::Latest, Family::History, Family::Blocks, Family::Sessions];
    let rows = families.map(|family| {
        let mut rows = Rows::new();
        scan(store, None, family, &b""[..]..&[0xff; 64][..], &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
        rows
    });
    let vaults = GROUPS.map(|group| {
        let key = vault_row_key(vault_of(group));
        let row = LiveView::new(store).get(Family::Vaults, &key).unwrap()?;
        let mut row = VaultRow::decode(&row).unwrap();
        row.tree_anchor = ledger_proof::TreeAnchor::empty();
        Some(row)
    });
    (rows.to_vec(), vaults.to_vec())
}
