//! A cluster's logs in memory, with real state trees and signatures, that a test's node answers from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger_proof::block_log::{consistency_path, inclusion_path};
use ledger_proof::system_entity::{
    NodeEntity, NodeState, ReplicaRole, RetentionMode, ShardEntity, ShardReplica,
    SystemEntity as _, VaultEntity, VaultState, node_key, shard_key, vault_key,
};
use ledger_proof::trust::BundleVoter;
use ledger_proof::{
    AppliedOperation, BlockHeader, BlockProof, Checkpoint, Consistency, Descriptor, EntryPosition,
    Frontier, ListLimits, ListPage, ListProof, LogNodes, NodeKey, Origin, ReadFault, ReadItem,
    Receipt, Record, SignedNote, StateTree, Threshold, TimeRule, Transaction, TreeStore,
    TrustBundle, VerifiedList, VerifiedRead, hash, tx_tree,
};
use ledger_proto::convert::block::wire_block;
use ledger_proto::convert::{ids, lists, reads};
use ledger_proto::v1;
use ledger_proto::v1::get_receipt_request::Transaction as Choice;
use ledger_types::{
    Dedup, Digest, GroupId, Incarnation, NodeId, Operation, Outcome, OwnerEpoch, StateKey, StoreId,
    TxId, VaultRef,
};
use parking_lot::Mutex;

use super::{Node, VAULT};

const DOMAIN: &str = "test.ledger";
const SHARD: GroupId = GroupId(3);

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// When this test process began: bundles and blocks made at different moments must be equal.
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

/// The files of what a client remembers of logs.
pub fn remembered(state: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let kept = entries.filter(|path| path.extension().is_some_and(|name| name == "checkpoint"));
    kept.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// Both notes about [`VAULT`] of an evidence file, checked like any note, times left out.
pub fn convicting(evidence: &Path, trust: &TrustBundle) -> [Checkpoint; 2] {
    let kept = std::fs::read_to_string(evidence).unwrap();
    let origin = format!("{}/ns/7/vault/9/0\n", trust.domain);
    let second = kept.rfind(&origin).unwrap();
    assert!(second > 0, "two notes are kept");
    [&kept[..second - 1], &kept[second..]].map(|note| {
        let parsed = SignedNote::parse(note.as_bytes()).unwrap();
        let counted = trust.count(&parsed, &[trust.system_voters()], TimeRule::Any).unwrap();
        assert!(counted.keys >= 1);
        parsed.checkpoint().unwrap()
    })
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
    /// The transactions of each block.
    bodies: Vec<Vec<Vec<u8>>>,
    /// The rows after each block.
    past: Vec<Rows>,
    nodes: Nodes,
    frontier: Frontier,
    /// Which node signs: its key's seed, and the number in its name.
    pub signed_by: u8,
    /// What transactions say of how they ended, if not the truth.
    pub outcome_told: Option<Outcome>,
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
            bodies: Vec::new(),
            past: Vec::new(),
            nodes: Nodes::default(),
            frontier: Frontier::new(),
            signed_by: 1,
            outcome_told: None,
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

    /// Adds a block that sets these keys until they expire, in Unix seconds; 0 is never. Each is a transaction,
    /// with an id that tells block and index.
    pub fn commit_until(&mut self, changes: &[(StateKey, Vec<u8>)], expires_at: u64) {
        let height = self.headers.len() as u64;
        let timestamp_ns = (began() - 100) * 1_000_000_000;
        let timestamp_ns =
            self.headers.last().map_or(timestamp_ns, |last| timestamp_ns.max(last.timestamp_ns));
        let begin = self.bodies.iter().map(Vec::len).sum::<usize>() as u64;
        let mut body: Vec<Vec<u8>> = Vec::new();
        // The first block has no transactions.
        let with_transactions = if height == 0 { &[] } else { changes };
        for (change, sequence) in with_transactions.iter().zip(begin + 1..) {
            let number = (body.len(), sequence);
            body.push(self.made(change, number, expires_at, timestamp_ns).encode());
        }
        for (number, (key, value)) in changes.iter().enumerate() {
            let before = self.rows.0.get(key.as_bytes()).map(|(record, _)| *record);
            let record = Record {
                created_height: before.map_or(height, |record| record.created_height),
                modified_height: height,
                modified_tx: number as u32,
                expires_at,
                previous_record_hash: before.map_or(Digest::ZERO, |record| record.hash()),
                value_hash: hash::plain(value),
            };
            self.tree.apply(&[(key, Some(record.hash()))], &self.rows).unwrap();
            self.rows.0.insert(key.as_bytes().to_vec(), (record, value.clone()));
        }
        let position = EntryPosition { shard: SHARD.0, term: 2, index: 10 + height, timestamp_ns };
        let (root, keys) = (self.tree.root(), self.tree.leaf_count());
        let leaves: Vec<Digest> = body.iter().map(|bytes| tx_tree::tx_leaf(bytes)).collect();
        let header = BlockHeader {
            height,
            tx_root: tx_tree::tx_root(&leaves),
            tx_count: leaves.len() as u32,
            previous_hash: self.headers.last().map_or(Digest::ZERO, |last| last.block_hash()),
            ..BlockHeader::genesis(self.origin.vault, root, keys, position)
        };
        let nodes = &mut self.nodes.0;
        self.frontier.append(header.block_hash(), |level, index, node| {
            nodes.insert((level, index), node);
        });
        self.headers.push(header);
        self.bodies.push(body);
        self.past.push(self.rows.clone());
    }

    /// The transaction that sets a key, with its outcome. Its id begins with its block and its place there.
    fn made(
        &self,
        (key, value): &(StateKey, Vec<u8>),
        (index, sequence): (usize, u64),
        expires_at: u64,
        timestamp_ns: u64,
    ) -> Transaction {
        let now_s = timestamp_ns / 1_000_000_000;
        let before = self.rows.0.get(key.as_bytes());
        let is_there = before.is_some_and(|(record, _)| !record.is_expired(now_s));
        let outcome = if is_there { Outcome::Updated } else { Outcome::Created };
        let operation = match StateKey::as_relationship(key.as_bytes()) {
            Some((resource, relation, subject)) => Operation::CreateRelationship {
                resource: resource.to_owned(),
                relation: relation.to_owned(),
                subject: subject.to_owned(),
            },
            None => Operation::SetEntity {
                key: StateKey::as_entity(key.as_bytes()).unwrap().to_owned(),
                value: value.clone(),
                expires_at,
                condition: None,
            },
        };
        let mut tx_id = [7; 16];
        (tx_id[0], tx_id[1]) = (self.headers.len() as u8, index as u8);
        let outcome = self.outcome_told.unwrap_or(outcome);
        Transaction {
            tx_id: TxId(tx_id),
            client: "writer".to_owned(),
            dedup: Dedup::Sequence(sequence),
            assigned_sequence: sequence,
            actor: String::new(),
            timestamp_ns,
            operations: vec![AppliedOperation::State { operation, outcome }],
        }
    }

    /// A transaction of a block.
    pub fn transaction(&self, height: u64, index: usize) -> Transaction {
        Transaction::decode(&self.bodies[height as usize][index]).unwrap()
    }

    /// The blocks as the wire carries them.
    pub fn wire_blocks(&self) -> Vec<v1::Block> {
        let blocks = self.headers.iter().zip(&self.bodies);
        blocks.map(|(header, body)| wire_block(header, "", body.clone()).unwrap()).collect()
    }

    /// The newest block, as a node tells it.
    pub fn tip(&self) -> v1::GetTipResponse {
        let last = self.headers.last().unwrap();
        v1::GetTipResponse {
            height: last.height,
            block_hash: Some(last.block_hash().into()),
            state_root: Some(last.state_root.into()),
        }
    }

    /// All entities, in key order.
    pub fn entities(&self) -> v1::ListEntitiesResponse {
        let entities = self.rows.0.iter().filter(|(key, _)| key[0] == 1);
        let entity = |(key, (record, value)): (&Vec<u8>, &(Record, Vec<u8>))| v1::Entity {
            key: String::from_utf8(key[1..].to_vec()).unwrap(),
            value: value.clone(),
            expires_at: (record.expires_at != 0).then_some(record.expires_at),
            version: record.modified_height,
        };
        v1::ListEntitiesResponse {
            entities: entities.map(entity).collect(),
            block_height: self.headers.len() as u64 - 1,
            next_page_token: String::new(),
        }
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

    /// The signed note over the whole log.
    pub fn note(&self) -> Vec<u8> {
        let checkpoint = self.checkpoint();
        let cosign = |number: u8, age: u64| {
            node_key_of(number).cosign(&checkpoint, &format!("n{number}"), now() - age)
        };
        let mut lines = vec![node_key_of(self.signed_by).sign_log(&checkpoint)];
        lines.push(cosign(self.signed_by, 0));
        lines.extend(self.cosigned_by.iter().map(|&(number, age)| cosign(number, age)));
        SignedNote::new(&checkpoint, lines).encode()
    }

    /// The way from one size of the log to another.
    pub fn path(&self, from_size: u64, to_size: u64) -> Vec<Digest> {
        consistency_path(from_size, to_size, &self.nodes).unwrap()
    }

    /// A block under the note of now; the newest without a height.
    pub fn block_proof(&self, height: Option<u64>, known_size: Option<u64>) -> BlockProof {
        let size = self.frontier.size();
        let (header, header_path) = self.block(height.unwrap_or(size - 1));
        let known_size = known_size.filter(|known| *known <= size);
        let growth = |from_size| Consistency { from_size, path: self.path(from_size, size) };
        BlockProof { note: self.note(), header, header_path, consistency: known_size.map(growth) }
    }

    /// The proved answer, as a replica that signs makes it.
    pub fn read(&mut self, keys: &[StateKey], known_size: Option<u64>) -> VerifiedRead {
        self.read_at(keys, None, known_size)
    }

    /// The same at a height.
    pub fn read_at(
        &self,
        keys: &[StateKey],
        height: Option<u64>,
        known_size: Option<u64>,
    ) -> VerifiedRead {
        let (mut tree, rows) = self.state(height);
        let items = keys.iter().map(|key| ReadItem {
            proof: tree.prove(key.as_bytes(), rows).unwrap(),
            value: rows.0.get(key.as_bytes()).map(|(_, value)| value.clone()),
        });
        let items = items.collect();
        VerifiedRead { block: self.block_proof(height, known_size), items }
    }

    /// A page of a list at a height, after the leaf that the page before ended with.
    pub fn page(
        &self,
        prefix: &[u8],
        kept: Option<&[u8]>,
        height: Option<u64>,
        items: usize,
    ) -> ListPage {
        let (mut tree, rows) = self.state(height);
        let limits = ListLimits { items, leaf_bytes: 1 << 20 };
        let proof = tree.prove_list(prefix, kept, limits, rows).unwrap().unwrap();
        let leaves: Vec<&[u8]> = match &proof {
            ListProof::Empty(_) => Vec::new(),
            ListProof::Whole(whole) => whole.leaves.iter().map(|leaf| &leaf.key[..]).collect(),
            ListProof::Page(page) => page.leaves.iter().map(|leaf| &leaf.key[..]).collect(),
        };
        let new = leaves.into_iter().skip(usize::from(kept.is_some()));
        let values = new.map(|key| rows.0[key].1.clone()).collect();
        ListPage { proof, values }
    }

    /// The receipt of a transaction.
    pub fn receipt(&self, height: u64, index: usize, known_size: Option<u64>) -> Receipt {
        let body = &self.bodies[height as usize];
        let leaves: Vec<Digest> = body.iter().map(|bytes| tx_tree::tx_leaf(bytes)).collect();
        Receipt {
            block: self.block_proof(Some(height), known_size),
            transaction: body[index].clone(),
            index: index as u32,
            path: tx_tree::inclusion_path(&leaves, index),
        }
    }

    /// Tree and rows after a block.
    fn state(&self, height: Option<u64>) -> (StateTree, &Rows) {
        let rows = match height {
            Some(height) => &self.past[height as usize],
            None => &self.rows,
        };
        let mut tree = StateTree::empty();
        for (key, (record, _)) in &rows.0 {
            let key = StateKey::from_bytes(key).unwrap();
            tree.apply(&[(&key, Some(record.hash()))], rows).unwrap();
        }
        (tree, rows)
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
        Cluster::at(&nodes.iter().map(|number| (*number, "127.0.0.1:1")).collect::<Vec<_>>())
    }

    /// The same with the nodes' addresses.
    pub fn at(places: &[(u8, &str)]) -> Arc<Cluster> {
        let nodes = &places.iter().map(|(number, _)| *number).collect::<Vec<_>>()[..];
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
            address: places.iter().find(|place| place.0 == number).unwrap().1.to_owned(),
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
        let cluster = self.clone();
        node.receipts.answer(move |_, request| Ok(cluster.receipt(request)));
        let cluster = self.clone();
        node.growths.answer(move |_, request| Ok(cluster.growth(request)));
        let cluster = self.clone();
        node.lists.answer(move |_, request| Ok(cluster.list(request)));
        node.bundles.answer(|_, request| {
            let is_first = request.from_sequence == 0;
            let bundles = if is_first { vec![bundle().encode()] } else { Vec::new() };
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: Vec::new() })
        });
    }

    fn log(
        &self,
        namespace: Option<v1::NamespaceId>,
        vault: Option<v1::VaultId>,
    ) -> parking_lot::MutexGuard<'_, Log> {
        let vault = ids::vault_ref(namespace, vault).unwrap();
        if vault == VaultRef::SYSTEM { self.system.lock() } else { self.vault.lock() }
    }

    pub fn receipt(&self, request: &v1::GetReceiptRequest) -> v1::GetReceiptResponse {
        let log = self.log(request.namespace_id, request.vault_id);
        let index = match request.transaction.as_ref().unwrap() {
            Choice::TxIndex(index) => *index as usize,
            Choice::TxId(tx_id) => usize::from(tx_id.id[1]),
        };
        let receipt = log.receipt(request.block_height, index, request.known_size);
        v1::GetReceiptResponse { package: receipt.encode() }
    }

    pub fn growth(
        &self,
        request: &v1::GetConsistencyProofRequest,
    ) -> v1::GetConsistencyProofResponse {
        let log = self.log(request.namespace_id, request.vault_id);
        let note = request.to_size.is_none().then(|| log.note());
        let (from_size, size) = (request.from_size, log.frontier.size());
        let to_size = request.to_size.unwrap_or(size);
        // A server that went back has no path to show.
        let path = if from_size <= to_size { log.path(from_size, to_size) } else { Vec::new() };
        let path = path.into_iter().map(v1::Hash::from).collect();
        v1::GetConsistencyProofResponse { from_size, to_size, path, note }
    }

    /// A page of a list; the token is the height and the last key.
    pub fn list(&self, request: &v1::VerifiedListRequest) -> v1::VerifiedListResponse {
        let log = self.log(request.namespace_id, request.vault_id);
        let prefix = lists::list_of(request.list.clone()).unwrap().prefix();
        let items = if request.limit == 0 { 100 } else { request.limit as usize };
        let token = (!request.page_token.is_empty()).then(|| {
            let (asked, token) = request.page_token.split_once('/').unwrap();
            assert_eq!(asked, format!("{:?}", request.at_height), "tokens are of one height");
            let (height, kept) = token.split_once('/').unwrap();
            (height.parse::<u64>().unwrap(), kept.as_bytes().to_vec())
        });
        let newest = log.frontier.size() - 1;
        let height = token.as_ref().map(|(height, _)| *height).or(request.at_height);
        let height = height.unwrap_or(newest);
        let kept = token.as_ref().map(|(_, kept)| &kept[..]);
        let page = log.page(&prefix, kept, Some(height), items);
        let next_page_token = match &page.proof {
            ListProof::Page(proof)
                if !proof
                    .verify(&log.headers[height as usize].state_root, &prefix)
                    .unwrap()
                    .is_last =>
            {
                let kept = std::str::from_utf8(&proof.leaves.last().unwrap().key).unwrap();
                format!("{:?}/{height}/{kept}", request.at_height)
            }
            _ => String::new(),
        };
        let package = match token {
            Some(_) => page.encode(),
            None => {
                let block = log.block_proof(Some(height), request.known_size);
                VerifiedList { block, page }.encode()
            }
        };
        v1::VerifiedListResponse { package, height, next_page_token }
    }

    /// Lets `node` tell its blocks and its state as well.
    pub fn serve_blocks(self: &Arc<Cluster>, node: &Node) {
        self.serve(node);
        let cluster = self.clone();
        node.tips.answer(move |_, _| Ok(cluster.vault.lock().tip()));
        let cluster = self.clone();
        node.block_ranges.answer(move |_, request| Ok(cluster.range(request)));
        let cluster = self.clone();
        node.entities.answer(move |_, _| Ok(cluster.vault.lock().entities()));
        node.relationships.answer(|_, _| Ok(v1::ListRelationshipsResponse::default()));
    }

    /// At most two of the blocks asked for, so that there is always more than one answer.
    pub fn range(&self, request: &v1::GetBlockRangeRequest) -> v1::GetBlockRangeResponse {
        let blocks = self.vault.lock().wire_blocks();
        let current_tip = blocks.len() as u64 - 1;
        let last = request.end_height.min(request.start_height + 1);
        let wanted = |block: &v1::Block| {
            let height = block.header.as_ref().unwrap().height;
            (request.start_height..=last).contains(&height)
        };
        let blocks = blocks.into_iter().filter(wanted).collect();
        v1::GetBlockRangeResponse { blocks, current_tip }
    }

    pub fn answer(&self, request: &v1::VerifiedGetRequest) -> v1::VerifiedGetResponse {
        let vault = ids::vault_ref(request.namespace_id, request.vault_id).unwrap();
        let keys = reads::verified_keys(&request.keys).unwrap();
        let log = if vault == VaultRef::SYSTEM { &self.system } else { &self.vault };
        let read = log.lock().read_at(&keys, request.at_height, request.known_size);
        let height = read.block.header.height;
        v1::VerifiedGetResponse { package: read.encode(), height }
    }
}
