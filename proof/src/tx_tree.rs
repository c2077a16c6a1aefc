//! The tree over a block's transactions: root and paths.
//!
//! The library builds the tree; its verifier is never called, because it accepts proofs that name
//! an index twice and proofs with hashes to spare. `rfc9162` verifies.

use ledger_types::Digest;
use rs_merkle::{Hasher, MerkleTree};

use crate::hash;

/// Hashes as RFC 6962 does: a lone right child moves up unchanged.
#[derive(Clone)]
struct TransactionHasher;

impl Hasher for TransactionHasher {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        hash::leaf(data).0
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        match right {
            Some(right) => hash::node(&Digest(*left), &Digest(*right)).0,
            None => *left,
        }
    }
}

/// The leaf of a transaction's canonical bytes.
pub fn tx_leaf(bytes: &[u8]) -> Digest {
    Digest(TransactionHasher::hash(bytes))
}

/// The root over leaves made by [`tx_leaf`], in order.
pub fn tx_root(leaves: &[Digest]) -> Digest {
    build(leaves).root().map_or_else(hash::empty_root, Digest)
}

/// The hashes that lead from leaf `index` to the root, lowest first. `index` must be below the
/// count.
pub fn inclusion_path(leaves: &[Digest], index: usize) -> Vec<Digest> {
    assert!(index < leaves.len(), "only a leaf of the block has a path");
    build(leaves).proof(&[index]).proof_hashes().iter().copied().map(Digest).collect()
}

fn build(leaves: &[Digest]) -> MerkleTree<TransactionHasher> {
    let hashes: Vec<[u8; 32]> = leaves.iter().map(|leaf| leaf.0).collect();
    MerkleTree::from_leaves(&hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, section 2.1.
    fn naive_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => hash::empty_root(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                hash::node(&naive_root(&leaves[..split]), &naive_root(&leaves[split..]))
            }
        }
    }

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|number| tx_leaf(&number.to_be_bytes())).collect()
    }

    #[test]
    fn root_and_paths_are_those_of_the_definition() {
        for count in 0..=130 {
            let leaves = leaves(count);
            let root = naive_root(&leaves);
            assert_eq!(tx_root(&leaves), root, "{count} leaves");
            for index in 0..count {
                let path = inclusion_path(&leaves, index);
                let (index, size) = (index as u64, count as u64);
                let checked = crate::rfc9162::verify_inclusion(
                    &leaves[index as usize],
                    index,
                    size,
                    &path,
                    &root,
                );
                assert_eq!(checked, Ok(()), "leaf {index} of {size}");
            }
        }
    }

    #[test]
    fn repeating_the_last_transaction_changes_the_root() {
        for count in 1..=64 {
            let once = leaves(count);
            let mut twice = once.clone();
            twice.push(once[count - 1]);
            assert_ne!(tx_root(&once), tx_root(&twice));
        }
    }
}
