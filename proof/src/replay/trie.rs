//! The state of a replay: every present key with its record, in the trie that the state root is
//! defined by.
//!
//! All of it is in memory and nothing is read from anywhere: a key takes about 190 bytes and its own
//! length, and up to twice that while the arrays grow. Must share no code with the tree that replicas
//! keep beyond the bits of keys and the hashes.

use ledger_types::Digest;

use crate::hash;
use crate::record::Record;
use crate::tree::bits;

/// Set in the number of a node that is a leaf.
const LEAF_BIT: u32 = 1 << 31;

/// A branch by its number, or a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NodeId(u32);

enum Node {
    Branch(usize),
    Leaf(usize),
}

impl NodeId {
    fn branch(index: usize) -> NodeId {
        NodeId(small(index))
    }

    fn leaf(index: usize) -> NodeId {
        NodeId(small(index) | LEAF_BIT)
    }

    fn view(self) -> Node {
        match self.0 & LEAF_BIT {
            0 => Node::Branch(self.0 as usize),
            _ => Node::Leaf((self.0 & !LEAF_BIT) as usize),
        }
    }
}

fn small(index: usize) -> u32 {
    u32::try_from(index)
        .ok()
        .filter(|index| index & LEAF_BIT == 0)
        .expect("memory ends before that")
}

#[derive(Clone, Debug)]
struct Branch {
    hash: Digest,
    sides: [NodeId; 2],
    bit: u16,
    /// Something below has changed since the hash was computed.
    is_stale: bool,
}

#[derive(Clone, Debug)]
struct Leaf {
    key: Box<[u8]>,
    record: Record,
    hash: Digest,
}

/// Present keys with their records.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    root: Option<NodeId>,
    branches: Vec<Branch>,
    leaves: Vec<Leaf>,
    free_branches: Vec<usize>,
    free_leaves: Vec<usize>,
}

impl Trie {
    /// Present keys.
    pub(super) fn len(&self) -> usize {
        self.leaves.len() - self.free_leaves.len()
    }

    /// The record of a key, if it is present.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Record> {
        let leaf = &self.leaves[self.nearest(key)?];
        (*leaf.key == *key).then_some(&leaf.record)
    }

    /// The leaf that the key's bits lead to.
    fn nearest(&self, key: &[u8]) -> Option<usize> {
        let mut node = self.root?;
        loop {
            match node.view() {
                Node::Leaf(index) => return Some(index),
                Node::Branch(index) => {
                    let branch = &self.branches[index];
                    node = branch.sides[bits::side(key, branch.bit)];
                }
            }
        }
    }

    /// Puts a key with its record, in the place of the record that it has.
    pub(super) fn insert(&mut self, key: &[u8], record: Record) {
        let hash = hash::state_leaf(key, &record.hash());
        let Some(nearest) = self.nearest(key) else {
            self.root = Some(self.new_leaf(Leaf { key: key.into(), record, hash }));
            return;
        };
        let Some(bit) = bits::first_difference(&self.leaves[nearest].key, key) else {
            let leaf = &mut self.leaves[nearest];
            (leaf.record, leaf.hash) = (record, hash);
            self.mark(key, u16::MAX);
            return;
        };
        let leaf = self.new_leaf(Leaf { key: key.into(), record, hash });
        let (parent, below) = self.mark(key, bit);
        let below = below.expect("there is a leaf");
        let sides = match bits::side(key, bit) {
            0 => [leaf, below],
            _ => [below, leaf],
        };
        let branch = self.new_branch(Branch { hash: Digest::ZERO, sides, bit, is_stale: true });
        self.put_below(parent, key, Some(branch));
    }

    /// Takes a key away. One that is absent changes nothing.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let Some(index) = self.nearest(key).filter(|&index| *self.leaves[index].key == *key) else {
            return;
        };
        let (parent, _) = self.mark(key, u16::MAX);
        self.leaves[index].key = Box::default();
        self.free_leaves.push(index);
        let Some(parent) = parent else {
            self.root = None;
            return;
        };
        let Branch { sides, bit, .. } = self.branches[parent];
        let sibling = sides[1 - bits::side(key, bit)];
        let (above, _) = self.mark(key, bit);
        self.put_below(above, key, Some(sibling));
        self.free_branches.push(parent);
    }

    /// Marks the branches above `bit` on the way of a key. Tells the last of them and what is below it.
    fn mark(&mut self, key: &[u8], bit: u16) -> (Option<usize>, Option<NodeId>) {
        let (mut parent, mut node) = (None, self.root);
        while let Some(id) = node
            && let Node::Branch(index) = id.view()
            && self.branches[index].bit < bit
        {
            let branch = &mut self.branches[index];
            branch.is_stale = true;
            (parent, node) = (Some(index), Some(branch.sides[bits::side(key, branch.bit)]));
        }
        (parent, node)
    }

    fn put_below(&mut self, parent: Option<usize>, key: &[u8], node: Option<NodeId>) {
        match (parent, node) {
            (Some(parent), Some(node)) => {
                let branch = &mut self.branches[parent];
                branch.sides[bits::side(key, branch.bit)] = node;
            }
            _ => self.root = node,
        }
    }

    fn new_leaf(&mut self, leaf: Leaf) -> NodeId {
        NodeId::leaf(match self.free_leaves.pop() {
            Some(index) => {
                self.leaves[index] = leaf;
                index
            }
            None => {
                self.leaves.push(leaf);
                self.leaves.len() - 1
            }
        })
    }

    fn new_branch(&mut self, branch: Branch) -> NodeId {
        NodeId::branch(match self.free_branches.pop() {
            Some(index) => {
                self.branches[index] = branch;
                index
            }
            None => {
                self.branches.push(branch);
                self.branches.len() - 1
            }
        })
    }

    /// The state root. A loop, because paths may be 18,432 branches long.
    pub(super) fn root(&mut self) -> Digest {
        let Some(root) = self.root else { return hash::empty_root() };
        let mut stack = vec![root];
        while let Some(&node) = stack.last() {
            let Node::Branch(index) = node.view() else {
                stack.pop();
                continue;
            };
            let branch = &self.branches[index];
            let before = stack.len();
            if branch.is_stale {
                stack.extend(branch.sides.iter().filter(|side| self.is_stale(**side)));
            }
            if stack.len() > before {
                continue;
            }
            stack.pop();
            if branch.is_stale {
                let [left, right] = branch.sides.map(|side| self.hash_of(side));
                let hash = hash::branch(branch.bit, &left, &right);
                let branch = &mut self.branches[index];
                (branch.hash, branch.is_stale) = (hash, false);
            }
        }
        self.hash_of(root)
    }

    fn is_stale(&self, node: NodeId) -> bool {
        matches!(node.view(), Node::Branch(index) if self.branches[index].is_stale)
    }

    fn hash_of(&self, node: NodeId) -> Digest {
        match node.view() {
            Node::Branch(index) => self.branches[index].hash,
            Node::Leaf(index) => self.leaves[index].hash,
        }
    }

    /// All keys with their records, in the order of their bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        let mut stack: Vec<NodeId> = self.root.into_iter().collect();
        std::iter::from_fn(move || {
            loop {
                match stack.pop()?.view() {
                    Node::Branch(index) => stack.extend(self.branches[index].sides.iter().rev()),
                    Node::Leaf(index) => {
                        let leaf = &self.leaves[index];
                        return Some((&*leaf.key, &leaf.record));
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn record(number: u64) -> Record {
        Record {
            created_height: number,
            modified_height: number,
            modified_tx: 0,
            expires_at: 0,
            previous_record_hash: Digest::ZERO,
            value_hash: Digest::ZERO,
        }
    }

    /// The state root by its definition.
    fn naive(entries: &[(&[u8], &Record)]) -> Digest {
        match entries {
            [] => hash::plain(b""),
            [(key, record)] => hash::state_leaf(key, &record.hash()),
            [(first, _), .., (last, _)] => {
                let bit = (0..bits::BITS_MAX)
                    .find(|bit| bits::side(first, *bit) != bits::side(last, *bit));
                let bit = bit.expect("keys differ");
                let split = entries.partition_point(|(key, _)| bits::side(key, bit) == 0);
                hash::branch(bit, &naive(&entries[..split]), &naive(&entries[split..]))
            }
        }
    }

    proptest! {
        #[test]
        fn the_root_is_that_of_the_definition(
            steps in prop::collection::vec(
                (prop::collection::vec(0..3u8, 1..6), any::<bool>(), 0..9u64, any::<bool>()),
                1..80,
            ),
        ) {
            let (mut trie, mut naively) = (Trie::default(), BTreeMap::new());
            for (key, is_put, number, is_asked) in steps {
                if is_put {
                    trie.insert(&key, record(number));
                    naively.insert(key, record(number));
                } else {
                    trie.remove(&key);
                    naively.remove(&key);
                }
                let entries: Vec<(&[u8], &Record)> =
                    naively.iter().map(|(key, record)| (&key[..], record)).collect();
                prop_assert_eq!(trie.iter().collect::<Vec<_>>(), entries.clone());
                prop_assert_eq!(trie.len(), entries.len());
                if is_asked {
                    prop_assert_eq!(trie.root(), naive(&entries));
                }
            }
            for (key, record) in &naively {
                prop_assert_eq!(trie.get(key), Some(record));
            }
            prop_assert_eq!(trie.get(&[9]), None);
        }
    }

    /// Each key goes on from the one before, so that every branch is below another.
    #[test]
    fn the_longest_path_needs_no_stack() {
        let mut trie = Trie::default();
        for len in 1..=2048 {
            trie.insert(&vec![b'x'; len], record(len as u64));
        }
        let before = trie.root();
        trie.insert(&[b'x'; 2048], record(1));
        assert_ne!(trie.root(), before);
        assert_eq!(trie.len(), 2048);
    }
}
