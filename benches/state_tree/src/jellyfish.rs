//! The `jmt` crate's Jellyfish Merkle tree over a store in memory that holds only live nodes.
//!
//! Its nodes are kept decoded, which spares it the decoding that a real store would need. Values
//! are 32 bytes: the hash of the record, which is what the ledger's tree commits to.

use std::collections::HashMap;

use jmt::storage::{LeafNode, Node, NodeKey, TreeReader, TreeUpdateBatch};
use jmt::{KeyHash, OwnedValue, RootHash, Sha256Jmt};
use sha2::Sha256;

use crate::cost::timed;
use crate::table::{Proofs, Updates};
use crate::workload::{Draw, key, record};

/// Keys per version while the tree is filled.
const FILL_BATCH: u64 = 10_000;

/// Which of the crate's two ways changes are put in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// `put_value_set`, key by key.
    Set,
    /// `batch_put_value_sets`, all keys of a version in one descent.
    Batch,
}

/// Live nodes and the newest values.
#[derive(Default)]
struct Store {
    nodes: HashMap<NodeKey, Node>,
    values: HashMap<KeyHash, [u8; 32]>,
}

impl TreeReader for Store {
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(self.nodes.get(key).cloned())
    }

    fn get_value_option(&self, _: u64, key: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(self.values.get(&key).map(|value| value.to_vec()))
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        unreachable!("only restoring asks for it")
    }
}

/// A Jellyfish Merkle tree with its store.
pub(crate) struct Jellyfish {
    store: Store,
    next_version: u64,
    root: RootHash,
}

impl Jellyfish {
    /// The tree of `keys` keys.
    pub(crate) fn filled(keys: u64) -> Jellyfish {
        let root = RootHash([0; 32]);
        let mut tree = Jellyfish { store: Store::default(), next_version: 0, root };
        let mut numbers = (0..keys).peekable();
        while numbers.peek().is_some() {
            let batch = numbers.by_ref().take(FILL_BATCH as usize).collect();
            tree.put(batch, Put::Batch, &mut Updates::default());
        }
        tree
    }

    /// Live nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.store.nodes.len()
    }

    /// Drops the nodes and returns how many bytes the allocator got back.
    pub(crate) fn allocated_bytes(mut self) -> usize {
        let before = crate::ALLOCATOR.current_usage();
        self.store.nodes = HashMap::new();
        before - crate::ALLOCATOR.current_usage()
    }

    /// Changes at least `keys` keys in batches.
    pub(crate) fn update(&mut self, draw: &mut Draw, batch: u64, keys: u64, put: Put) -> Updates {
        let mut cost = Updates::default();
        while cost.keys < keys {
            self.put(draw.batch(batch), put, &mut cost);
        }
        cost
    }

    fn put(&mut self, numbers: Vec<u64>, put: Put, cost: &mut Updates) {
        let version = self.next_version;
        self.next_version += 1;
        let changes: Vec<_> = numbers
            .iter()
            .map(|&number| (key(number), record(number, version).hash().0.to_vec()))
            .collect();
        cost.keys += changes.len() as u64;
        let tree = Sha256Jmt::new(&self.store);
        let (root, batch) = timed(&mut cost.update, || {
            let hashed = changes.iter().map(|(key, value)| (hashed(key), value.clone()));
            match put {
                Put::Set => {
                    let changes = hashed.map(|(key, value)| (key, Some(value)));
                    tree.put_value_set(changes, version).expect("memory does not fail")
                }
                Put::Batch => {
                    let changes = vec![hashed.collect()];
                    let (roots, batch) = tree
                        .batch_put_value_sets(changes, None, version)
                        .expect("memory does not fail");
                    (roots[0], batch)
                }
            }
        });
        self.root = root;
        self.store(batch, cost);
    }

    /// Writes a version's nodes and deletes those that it replaced.
    fn store(&mut self, batch: TreeUpdateBatch, cost: &mut Updates) {
        for stale in &batch.stale_node_index_batch {
            cost.written_bytes += encoded_bytes(&stale.node_key);
            self.store.nodes.remove(&stale.node_key);
        }
        for (key, node) in batch.node_batch.nodes() {
            cost.written_bytes += encoded_bytes(key) + encoded_bytes(node);
            self.store.nodes.insert(key.clone(), node.clone());
        }
        for ((_, key), value) in batch.node_batch.values() {
            let value = value.as_deref().expect("nothing is deleted");
            self.store.values.insert(*key, value.try_into().expect("values have 32 bytes"));
        }
    }

    /// Proofs of single keys that are there.
    pub(crate) fn prove_keys(&self, draw: &mut Draw, count: u64) -> Proofs {
        let tree = Sha256Jmt::new(&self.store);
        let version = self.next_version - 1;
        let mut cost = Proofs { count, ..Proofs::default() };
        for _ in 0..count {
            let key = key(draw.one());
            let made = timed(&mut cost.make, || tree.get_with_proof(hashed(&key), version));
            let (value, proof) = made.expect("memory does not fail");
            let value = value.expect("the key is there");
            cost.bytes += encoded_bytes(&proof);
            timed(&mut cost.verify, || proof.verify_existence(self.root, hashed(&key), &value))
                .expect("the proof holds");
        }
        cost
    }
}

fn hashed(key: &[u8]) -> KeyHash {
    KeyHash::with::<Sha256>(key)
}

fn encoded_bytes(value: &impl borsh::BorshSerialize) -> u64 {
    borsh::object_length(value).expect("counting bytes does not fail") as u64
}
