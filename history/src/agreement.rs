//! One chain for everyone: whoever saw a block of a vault at some height saw the same block.
//!
//! Owns the table of all blocks that anyone has ever seen. Must never forget an entry, and must never hold more of a
//! block than its two hashes and who saw it first.

use std::collections::BTreeMap;

use ledger_types::{Digest, VaultRef};
use thiserror::Error;

use crate::record::SeenBlock;

/// Everything that was seen, fed one block at a time. An entry holds two hashes and a number, whatever the size of
/// the block and however many saw it; names of witnesses are kept once each.
#[derive(Debug, Default)]
pub struct Agreement {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
    blocks: BTreeMap<(VaultRef, u64), Entry>,
    seen: u64,
}

/// What the first witness of a block saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    block_hash: Digest,
    state_root: Digest,
    witness: u32,
}

/// Two witnesses saw different blocks at one height of one vault.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "fork of vault {vault} at height {height}: {} saw block {} with state {}, {} saw block {} with state {}",
    first.witness, first.block_hash, first.state_root,
    other.witness, other.block_hash, other.state_root
)]
pub struct Fork {
    /// The vault.
    pub vault: VaultRef,
    /// The height.
    pub height: u64,
    /// What was seen first.
    pub first: Box<SeenBlock>,
    /// What does not agree with it.
    pub other: Box<SeenBlock>,
}

impl Agreement {
    /// An empty table.
    pub fn new() -> Agreement {
        Agreement::default()
    }

    /// Adds what a witness saw. After a fork the first entry stays, so that everyone is compared with the same one.
    ///
    /// # Errors
    ///
    /// [`Fork`] if somebody, this witness perhaps, has seen another block or state there.
    pub fn see(&mut self, block: &SeenBlock) -> Result<(), Fork> {
        self.seen += 1;
        let witness = self.number_of(&block.witness);
        let seen = Entry { block_hash: block.block_hash, state_root: block.state_root, witness };
        let first = *self.blocks.entry((block.vault, block.height)).or_insert(seen);
        if (first.block_hash, first.state_root) == (seen.block_hash, seen.state_root) {
            return Ok(());
        }
        let earlier = SeenBlock {
            witness: self.names[first.witness as usize].clone(),
            vault: block.vault,
            height: block.height,
            block_hash: first.block_hash,
            state_root: first.state_root,
        };
        Err(Fork {
            vault: block.vault,
            height: block.height,
            first: Box::new(earlier),
            other: Box::new(block.clone()),
        })
    }

    /// Number of different blocks, a fork counted once.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Number of times that anyone saw one.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    fn number_of(&mut self, witness: &str) -> u32 {
        if let Some(number) = self.numbers.get(witness) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("witnesses are counted in thousands");
        self.names.push(witness.to_owned());
        self.numbers.insert(witness.to_owned(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(witness: &str, height: u64, hash: u8, root: u8) -> SeenBlock {
        SeenBlock {
            witness: witness.to_owned(),
            vault: VaultRef::new(1, 2),
            height,
            block_hash: Digest([hash; 32]),
            state_root: Digest([root; 32]),
        }
    }

    #[test]
    fn many_witnesses_of_one_chain_agree() {
        let mut table = Agreement::new();
        for witness in ["node 1", "node 2", "watcher 7", "node 1"] {
            for height in 0..50 {
                assert_eq!(table.see(&block(witness, height, height as u8, 1)), Ok(()));
            }
        }
        assert_eq!((table.blocks(), table.seen()), (50, 200));
        assert_eq!(table.names.len(), 3, "names are kept once");
    }

    #[test]
    fn another_hash_at_the_same_height_is_a_fork() {
        let mut table = Agreement::new();
        table.see(&block("node 1", 3, 7, 1)).expect("first sight");
        let fork = table.see(&block("watcher 7", 3, 8, 1)).expect_err("another block");
        assert_eq!(
            (fork.first.witness.as_str(), fork.other.witness.as_str()),
            ("node 1", "watcher 7")
        );
        let told = fork.to_string();
        assert!(told.starts_with("fork of vault 1/2 at height 3: node 1 saw block 0707"), "{told}");
    }

    #[test]
    fn another_state_of_the_same_block_is_a_fork() {
        let mut table = Agreement::new();
        table.see(&block("node 1", 3, 7, 1)).expect("first sight");
        let fork = table.see(&block("node 2", 3, 7, 2)).expect_err("another state");
        assert_eq!(fork.first.state_root, Digest([1; 32]));
        assert_eq!(fork.other.state_root, Digest([2; 32]));
    }

    #[test]
    fn a_witness_that_contradicts_itself_is_a_fork_and_the_first_entry_stays() {
        let mut table = Agreement::new();
        table.see(&block("node 1", 3, 7, 1)).expect("first sight");
        assert!(table.see(&block("node 1", 3, 9, 1)).is_err());
        assert!(table.see(&block("node 1", 3, 9, 1)).is_err(), "still compared with the first");
        assert_eq!(table.see(&block("node 2", 3, 7, 1)), Ok(()));
    }

    #[test]
    fn other_vaults_and_heights_are_other_blocks() {
        let mut table = Agreement::new();
        table.see(&block("node 1", 3, 7, 1)).expect("first sight");
        assert_eq!(table.see(&block("node 1", 4, 8, 1)), Ok(()));
        let elsewhere = SeenBlock { vault: VaultRef::new(1, 3), ..block("node 1", 3, 8, 1) };
        assert_eq!(table.see(&elsewhere), Ok(()));
    }
}
