//! A group on one node and an empty replica that joins it on another: real stores, drivers and sockets, so that
//! the snapshot is a real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shard::{
    BootRecord, Command, CommandKind, CommandResult, CreateVaultBlock, Driver, DriverConfig,
    DriverParts, FIRST_OWNER_EPOCH, Fatal, FetchSnapshot, MemberChange, OutMessage, Outbox,
    Replica, ShardHandle, SnapshotFetcher, SnapshotManifest, Store, StoreConfig, SystemClock,
    WriteCommand, WriteResult, boot,
};
use ledger_types::{
    ClusterId, Dedup, GroupId, Incarnation, NodeId, Operation, StoreId, TxId, VaultRef,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::commands::propose_here;
use crate::context::BlockFeed;
use crate::peer::test_nodes::{PATIENCE, TestBook};
use crate::peer::{AddressBook as _, Membership};
use crate::snapshots::Asking;

pub(super) const CLUSTER: ClusterId = ClusterId([0xcc; 16]);
pub(super) const GROUP: GroupId = GroupId(3);
/// A store that nobody knows.
pub(super) const STRANGER: StoreId = StoreId([0xee; 16]);
/// The node with the group.
pub(super) const SENDER: NodeId = NodeId(1);
/// The node that joins.
pub(super) const RECEIVER: NodeId = NodeId(2);
const SENDING: Replica = Replica { incarnation: Incarnation(1), node: SENDER };
const RECEIVING: Replica = Replica { incarnation: Incarnation(1000), node: RECEIVER };
/// Writes before the snapshot, each of as many entities, each of as many bytes.
const WRITES: u64 = 12;
const ENTITIES: u64 = 16;
const VALUE_BYTES: usize = 16 * 1024;

/// Hands messages straight to the other driver.
#[derive(Default)]
struct Wires {
    handles: Mutex<BTreeMap<NodeId, ShardHandle>>,
}

impl Outbox for Wires {
    fn send(&self, messages: Vec<OutMessage>) {
        let handles = self.handles.lock();
        for one in messages {
            if let Some(handle) = handles.get(&one.node) {
                let from = NodeId(3 - one.node.0);
                handle.message(from, vec![one.message]);
            }
        }
    }
}

/// Leaves it to the test what becomes of a wish.
struct Wishes {
    wished: mpsc::Sender<FetchSnapshot>,
}

impl SnapshotFetcher for Wishes {
    fn fetch(&self, wanted: FetchSnapshot) {
        // A test that has its manifest looks at no further wish.
        let _ = self.wished.try_send(wanted);
    }
}

/// A node in this process.
pub(super) struct Member {
    pub(super) driver: Driver,
    pub(super) asking: Asking,
    wishes: mpsc::Receiver<FetchSnapshot>,
    _folder: TempDir,
}

/// The two nodes, and what the receiver was told to fetch.
pub(super) struct Pair {
    pub(super) sender: Member,
    pub(super) receiver: Member,
    pub(super) manifest: Box<SnapshotManifest>,
}

impl Pair {
    /// Fills a group, adds a replica to it and waits for the manifest that the new replica gets.
    pub(super) async fn start() -> Pair {
        let wires = Arc::new(Wires::default());
        let founding = BootRecord::new_group(GROUP, SENDING.incarnation, vec![SENDING]);
        let sender = Member::start(SENDER, founding, &wires);
        let shard = sender.driver.handle();
        until("the group has a leader", || {
            shard.leader(GROUP).is_some_and(|(role, ..)| role == ledger_shard::Role::Leader)
        })
        .await;
        fill(&shard).await;
        let table = vec![SENDING, RECEIVING];
        let added = BootRecord::added_replica(GROUP, RECEIVING.incarnation, table);
        let mut receiver = Member::start(RECEIVER, added, &wires);
        until("the new replica is a member", || {
            shard.change_members(GROUP, MemberChange::AddLearner(RECEIVING));
            let status = shard.status(GROUP).expect("it runs");
            status.conf_state.learners == [RECEIVING.incarnation.0]
        })
        .await;
        let wish = tokio::time::timeout(PATIENCE, receiver.wishes.recv()).await;
        let manifest = wish.expect("the leader sends a snapshot").expect("open").manifest;
        assert!(manifest.bytes() > 2 << 20, "{} bytes are too few to cut", manifest.bytes());
        Pair { sender, receiver, manifest }
    }

    /// A book that knows both nodes, and the sender under this address.
    pub(super) fn book(&self, address: &str) -> Arc<TestBook> {
        let book = TestBook::default();
        book.set(SENDER, address, Membership::Member(self.sender.asking.store));
        book.set(RECEIVER, "127.0.0.1:1", Membership::Member(self.receiver.asking.store));
        assert_eq!(book.address(SENDER).as_deref(), Some(address));
        Arc::new(book)
    }
}

impl Member {
    fn start(node: NodeId, record: BootRecord, wires: &Arc<Wires>) -> Member {
        let folder = tempfile::tempdir().expect("a directory");
        let config = StoreConfig {
            write_buffer_bytes: 8 << 20,
            block_cache_bytes: 8 << 20,
            ..StoreConfig::default()
        };
        let store = Store::open(folder.path(), None, &config).expect("a store");
        store.join_cluster(CLUSTER).expect("a fresh store joins");
        boot::create_group(&store, &record, &[]).expect("a new group");
        let asking = Asking { cluster: CLUSTER, node, store: store.id() };
        let (wished, wishes) = mpsc::channel(4);
        let parts = DriverParts {
            store: Arc::new(store),
            node,
            records: vec![record],
            sleeping: Vec::new(),
            outbox: wires.clone(),
            blocks: Arc::new(BlockFeed::default()),
            fetcher: Arc::new(Wishes { wished }),
            clock: Arc::new(SystemClock),
            fatal: Fatal::new(|reason| panic!("fatal: {reason}")),
        };
        let mut config = DriverConfig::default();
        config.core.tick_ms = 20;
        let driver = Driver::start(parts, config).expect("a driver");
        wires.handles.lock().insert(node, driver.handle());
        Member { driver, asking, wishes, _folder: folder }
    }
}

/// The group's one vault.
pub(super) fn vault() -> VaultRef {
    VaultRef::new(10, 3)
}

async fn fill(shard: &ShardHandle) {
    let created = command(CommandKind::CreateVault, &CreateVaultBlock::default().encode());
    let created = propose_here(shard, GROUP, created).await;
    assert!(matches!(created, Ok(CommandResult::VaultCreated { .. })), "{created:?}");
    for number in 1..=WRITES {
        let written = propose_here(shard, GROUP, write(number)).await;
        let is_written = matches!(written, Ok(CommandResult::Write(WriteResult::Committed(_))));
        assert!(is_written, "{written:?}");
    }
}

/// The value of an entity, the same for the same key.
pub(super) fn value_of(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(VALUE_BYTES).collect()
}

pub(super) fn last_key() -> String {
    format!("entity/{WRITES}/{}", ENTITIES - 1)
}

fn write(number: u64) -> Vec<u8> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let operations = (0..ENTITIES).map(|entity| {
        let key = format!("entity/{number}/{entity}");
        let value = value_of(&key);
        Operation::SetEntity { key, value, expires_at: 0, condition: None }
    });
    let body = WriteCommand {
        tx_id: TxId(id),
        client: "tests".to_owned(),
        dedup: Dedup::IdempotencyKey(id),
        actor: String::new(),
        operations: operations.collect(),
    };
    command(CommandKind::Write, &body.encode())
}

fn command(kind: CommandKind, body: &[u8]) -> Vec<u8> {
    let (vault, owner_epoch) = (vault(), FIRST_OWNER_EPOCH);
    Command { kind: kind as u8, vault, owner_epoch, body }.encode()
}

/// Looks again and again until the condition holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
