//! The root of a vault's state from its keys alone.
//!
//! Owns the computation in one pass over the keys in their order. Must never take a stored page's word.

use ledger_proof::hash;
use ledger_proof::tree::bits;
use ledger_types::Digest;

/// The state tree's root from keys in ascending order: a stack of subtrees that wait for their right side,
/// so that memory depends on the length of a key and not on their number.
#[derive(Clone, Default, Debug)]
pub struct StateRoot {
    /// Bits that subtrees split on, ascending, with the hashes of their left sides.
    waiting: Vec<(u16, Digest)>,
    last: Option<(Box<[u8]>, Digest)>,
}

impl StateRoot {
    /// Takes in the next key, which is above all before, with the hash of its record.
    pub fn push(&mut self, key: &[u8], record_hash: Digest) {
        let leaf = hash::state_leaf(key, &record_hash);
        if let Some((before, mut left)) = self.last.take() {
            let bit = bits::first_difference(&before, key).expect("keys were found to ascend");
            while let Some((above, first)) = self.waiting.pop_if(|(above, _)| *above > bit) {
                left = hash::branch(above, &first, &left);
            }
            self.waiting.push((bit, left));
        }
        self.last = Some((key.into(), leaf));
    }

    /// The root of the keys taken in.
    pub fn finish(mut self) -> Digest {
        let Some((_, mut right)) = self.last else { return hash::empty_root() };
        while let Some((bit, left)) = self.waiting.pop() {
            right = hash::branch(bit, &left, &right);
        }
        right
    }
}
