//! A cluster's logs in memory, with real state trees and signatures, that a test's node answers from.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger_proof::block_log::{consistency_path, inclusion_path};
use ledger_proof::system_entity::{
    NodeEntity, NodeState, ReplicaRole, RetentionMode, ShardEntity, ShardReplica,
    SystemEntity as _, VaultEntity, VaultState, node_key, shard_key, vault_key,
};
use ledger_proof::trust::BundleVoter;
use ledger_proof::{
    BlockHeader, BlockProof, Checkpoint, Consistency, Descriptor, EntryPosition, Frontier,
    LogNodes, NodeKey, Origin, ReadFault, ReadItem, Record, SignedNote, StateTree, Threshold,
    TreeStore, TrustBundle, VerifiedRead, hash,
};
use ledger_proto::convert::{ids, reads};
use ledger_proto::v1;
use ledger_types::{Digest, GroupId, Incarnation, NodeId, OwnerEpoch, StateKey, StoreId, VaultRef};
use parking_lot::Mutex;

use super::{Node, VAULT};

const DOMAIN: &str = "test.ledger";
const SHARD: GroupId = GroupId(3);

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// When this test process began: bundles made at different moments must be equal.
fn began() -> u64 {
    static BEGAN: OnceLock<u64> = OnceLock::new();
    *BEGAN.get_or_init(now)
}

pub fn node_key_of(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

pub fn bundle() -> TrustBundle {
    bundle_of(&[1], Threshold::Fixed(1))
}

/// A bundle with these nodes as voters.
pub fn bundle_of(voters: &[u8], threshold: Threshold) -> TrustBundle {
    let voter = |&number: &u8| BundleVoter {
        node: NodeId(number.into()),
        name: format!("n{number}"),
        public_key: node_key_of(number).public_key(),
    };
    TrustBundle {
        domain: DOMAIN.to_owned(),
        sequence: 1,
        issued_at: began() - 1000,
        expires_at: began() + 100_000,
        system_log_epoch: 0,
        threshold,
        floor: 1,
        max_age_seconds: 600,
        skew_seconds: 60,
        voters: voters.iter().map(voter).collect(),
    }
}

#[derive(Clone, Default)]
struct Rows(BTreeMap<Vec<u8>, (Record, Vec<u8>)>);

impl TreeStore for Rows {
    fn page(&self, _: u64, _: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(None)
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        for (key, (record, _)) in self.0.range(from.to_vec()..) {
            if !visit(key, &record.encode()) {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Nodes(BTreeMap<(u8, u64), Digest>);

impl LogNodes for Nodes {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        let missing = ReadFault::Corrupt { what: "a log node is missing" };
        self.0.get(&(level, index)).copied().ok_or(missing)
    }
}

/// One vault's log and state.
pub struct Log {
    /// What it says it is the log of.
    pub origin: Origin,
    rows: Rows,
    tree: StateTree,
    headers: Vec<BlockHeader>,
    nodes: Nodes,
    frontier: Frontier,
    /// Which node signs: its key's seed, and the number in its name.
    pub signed_by: u8,
    /// Nodes that cosign besides, each with the age of its signature in seconds.
    pub cosigned_by: Vec<(u8, u64)>,
}

impl Log {
    pub fn new(vault: VaultRef) -> Log {
        let mut log = Log {
            origin: Origin { domain: DOMAIN.to_owned(), vault, log_epoch: 0 },
            rows: Rows::default(),
            tree: StateTree::empty(),
            headers: Vec::new(),
            nodes: Nodes::default(),
            frontier: Frontier::new(),
            signed_by: 1,
            cosigned_by: Vec::new(),
        };
        let descriptor =
            Descriptor { vault, log_epoch: 0, last_recovery_height: 0, old_note: Digest::ZERO };
        log.commit(&[(StateKey::descriptor(), descriptor.encode().to_vec())]);
        log
    }

    /// Adds a block that sets these keys.
    pub fn commit(&mut self, changes: &[(StateKey, Vec<u8>)]) {
        self.commit_until(changes, 0);
    }

    /// Adds a block that sets these keys until they expire, in Unix seconds; 0 is never.
    pub fn commit_until(&mut self, changes: &[(StateKey, Vec<u8>)], expires_at: u64) {
        let height = self.headers.len() as u64;
        for (key, value) in changes {
            let before = self.rows.0.get(key.as_bytes()).map(|(record, _)| *record);
            let record = Record {
                created_height: before.map_or(height, |record| record.created_height),
                modified_height: height,
                modified_tx: 0,
                expires_at,
                previous_record_hash: before.map_or(Digest::ZERO, |record| record.hash()),
                value_hash: hash::plain(value),
            };
            self.tree.apply(&[(key, Some(record.hash()))], &self.rows).unwrap();
            self.rows.0.insert(key.as_bytes().to_vec(), (record, value.clone()));
        }
        let timestamp_ns = (now() - 100) * 1_000_000_000;
        let position = EntryPosition { shard: SHARD.0, term: 2, index: 10 + height, timestamp_ns };
        let (root, keys) = (self.tree.root(), self.tree.leaf_count());
        let header = BlockHeader {
            height,
            previous_hash: self.headers.last().map_or(Digest::ZERO, |last| last.block_hash()),
            ..BlockHeader::genesis(self.origin.vault, root, keys, position)
        };
        let nodes = &mut self.nodes.0;
        self.frontier.append(header.block_hash(), |level, index, node| {
            nodes.insert((level, index), node);
        });
        self.headers.push(header);
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        Checkpoint { origin: self.origin.clone(), size, root }
    }

    /// A block's header and the path from it to the log's root of today.
    pub fn block(&self, height: u64) -> (BlockHeader, Vec<Digest>) {
        let path = inclusion_path(height, self.frontier.size(), &self.nodes).unwrap();
        (self.headers[height as usize], path)
    }

    /// The proved answer, as a replica that signs makes it.
    pub fn read(&mut self, keys: &[StateKey], known_size: Option<u64>) -> VerifiedRead {
        let size = self.frontier.size();
        let checkpoint = self.checkpoint();
        let cosign = |number: u8, age: u64| {
            node_key_of(number).cosign(&checkpoint, &format!("n{number}"), now() - age)
        };
        let mut lines = vec![node_key_of(self.signed_by).sign_log(&checkpoint)];
        lines.push(cosign(self.signed_by, 0));
        lines.extend(self.cosigned_by.iter().map(|&(number, age)| cosign(number, age)));
        let items = keys.iter().map(|key| ReadItem {
            proof: self.tree.prove(key.as_bytes(), &self.rows).unwrap(),
            value: self.rows.0.get(key.as_bytes()).map(|(_, value)| value.clone()),
        });
        let items = items.collect();
        let known_size = known_size.filter(|known| *known <= size);
        let block = BlockProof {
            note: SignedNote::new(&checkpoint, lines).encode(),
            header: *self.headers.last().unwrap(),
            header_path: inclusion_path(size - 1, size, &self.nodes).unwrap(),
            consistency: known_size.map(|from_size| Consistency {
                from_size,
                path: consistency_path(from_size, size, &self.nodes).unwrap(),
            }),
        };
        VerifiedRead { block, items }
    }
}

/// The directory and one vault, [`VAULT`], behind a node.
pub struct Cluster {
    pub system: Mutex<Log>,
    pub vault: Mutex<Log>,
}

impl Cluster {
    pub fn new() -> Arc<Cluster> {
        Cluster::of(&[1])
    }

    /// A cluster with these nodes, which vote for the directory and for the vault's shard.
    pub fn of(nodes: &[u8]) -> Arc<Cluster> {
        let mut system = Log::new(VaultRef::SYSTEM);
        let replica = |&number: &u8| ShardReplica {
            node: NodeId(number.into()),
            incarnation: Incarnation(7 + u64::from(number)),
            role: ReplicaRole::Voter,
            in_old_set: false,
            in_new_set: true,
            is_added: false,
        };
        let replicas = nodes.iter().map(replica).collect();
        let shard = ShardEntity { id: SHARD, epoch: 1, replicas };
        let node = |&number: &u8| NodeEntity {
            id: NodeId(number.into()),
            name: format!("n{number}"),
            store_id: StoreId([4 + number; 16]),
            address: "127.0.0.1:1".to_owned(),
            public_key: node_key_of(number).public_key(),
            state: NodeState::Active,
            zone: String::new(),
        };
        let vault = VaultEntity {
            vault: VAULT,
            shard: SHARD,
            owner_epoch: OwnerEpoch(1),
            log_epoch: 0,
            state: VaultState::Active,
            created_at_ns: 1,
            retention: RetentionMode::KeepAll,
            retention_blocks: 0,
        };
        let entity = |node: NodeEntity| (StateKey::entity(&node_key(node.id)), node.encode());
        let mut entities: Vec<_> = nodes.iter().map(node).map(entity).collect();
        entities.push((StateKey::entity(&shard_key(SHARD)), shard.encode()));
        entities.push((StateKey::entity(&vault_key(VAULT)), vault.encode()));
        system.commit(&entities);
        let mut log = Log::new(VAULT);
        log.commit(&[(StateKey::entity("config"), b"{}".to_vec())]);
        Arc::new(Cluster { system: Mutex::new(system), vault: Mutex::new(log) })
    }

    /// Lets `node` answer honestly from this cluster.
    pub fn serve(self: &Arc<Cluster>, node: &Node) {
        let cluster = self.clone();
        node.verified.answer(move |_, request| Ok(cluster.answer(request)));
        node.bundles.answer(|_, request| {
            let is_first = request.from_sequence == 0;
            let bundles = if is_first { vec![bundle().encode()] } else { Vec::new() };
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
        });
    }

    pub fn answer(&self, request: &v1::VerifiedGetRequest) -> v1::VerifiedGetResponse {
        let vault = ids::vault_ref(request.namespace_id, request.vault_id).unwrap();
        let keys = reads::verified_keys(&request.keys).unwrap();
        let log = if vault == VaultRef::SYSTEM { &self.system } else { &self.vault };
        let read = log.lock().read(&keys, request.known_size);
        let height = read.block.header.height;
        v1::VerifiedGetResponse { package: read.encode(), height }
    }
}
