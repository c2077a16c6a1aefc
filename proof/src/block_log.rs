//! A vault's block log: the RFC 6962 tree over block hashes, grown one leaf at a time.
//!
//! Nodes of complete subtrees never change, so each is stored once; roots and proofs are put
//! together from them. Must never verify: that is `rfc9162`'s work.

use ledger_types::Digest;

use crate::hash;
use crate::read_fault::ReadFault;

/// The stored nodes of one log. Node `(level, index)` covers entries `index << level` up to the
/// next.
pub trait LogNodes {
    /// Reads a node that the log has emitted; a missing one is a fault.
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault>;
}

/// The right edge of a log: all that appending and the root need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each set bit of the size.
    peaks: Vec<Digest>,
}

impl Frontier {
    /// An empty log.
    pub fn new() -> Frontier {
        Frontier::default()
    }

    /// Reads the right edge of a stored log of `size` entries.
    pub fn load(size: u64, nodes: &dyn LogNodes) -> Result<Frontier, ReadFault> {
        let mut peaks = Vec::with_capacity(size.count_ones() as usize);
        for level in (0..64u8).rev().filter(|level| size >> level & 1 == 1) {
            peaks.push(nodes.node(level, (size >> level) - 1)?);
        }
        Ok(Frontier { size, peaks })
    }

    /// Takes a right edge kept elsewhere: one root per complete subtree, largest first. `None` if
    /// their number does not fit the size.
    pub fn from_peaks(size: u64, peaks: Vec<Digest>) -> Option<Frontier> {
        (peaks.len() == size.count_ones() as usize).then_some(Frontier { size, peaks })
    }

    /// Entries in the log.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the complete subtrees, largest first.
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Appends an entry's leaf hash and emits every node that became complete: `(level, index,
    /// hash)`.
    pub fn append(&mut self, leaf_hash: Digest, mut emit: impl FnMut(u8, u64, Digest)) {
        let index = self.size;
        let mut node = leaf_hash;
        emit(0, index, node);
        let mut level = 0;
        while index >> level & 1 == 1 {
            let left = self.peaks.pop().expect("one peak for each set bit of the size");
            node = hash::node(&left, &node);
            level += 1;
            emit(level, index >> level, node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The log's root.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(smallest) = peaks.next() else { return hash::empty_root() };
        peaks.fold(*smallest, |right, left| hash::node(left, &right))
    }
}

/// The root of the log's first `size` entries.
pub fn root_at(size: u64, nodes: &dyn LogNodes) -> Result<Digest, ReadFault> {
    Ok(Frontier::load(size, nodes)?.root())
}

/// The inclusion path of entry `index` in the log of `size` entries. `index` must be below `size`.
pub fn inclusion_path(
    index: u64,
    size: u64,
    nodes: &dyn LogNodes,
) -> Result<Vec<Digest>, ReadFault> {
    assert!(index < size, "only an entry of the log has a path");
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(range_root(middle, high, nodes)?);
            high = middle;
        } else {
            path.push(range_root(low, middle, nodes)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The consistency path from `old_size` to `new_size`, which must not be below it. Empty when the
/// sizes are equal and when the old one is 0.
pub fn consistency_path(
    old_size: u64,
    new_size: u64,
    nodes: &dyn LogNodes,
) -> Result<Vec<Digest>, ReadFault> {
    assert!(old_size <= new_size, "a log only grows");
    if old_size == 0 || old_size == new_size {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, new_size);
    let mut path = Vec::new();
    while high != old_size {
        let middle = low + split(high - low);
        if old_size <= middle {
            path.push(range_root(middle, high, nodes)?);
            high = middle;
        } else {
            path.push(range_root(low, middle, nodes)?);
            low = middle;
        }
    }
    // The verifier knows the old root; the node is only sent when it is not that root.
    if low > 0 {
        path.push(range_root(low, high, nodes)?);
    }
    path.reverse();
    Ok(path)
}

/// The largest power of two below `len`, where RFC 6962 splits.
fn split(len: u64) -> u64 {
    assert!(len > 1, "a single entry does not split");
    1 << (63 - (len - 1).leading_zeros())
}

/// The root over entries `low..high`, where `low` is a multiple of the size of the subtree it
/// starts.
fn range_root(low: u64, high: u64, nodes: &dyn LogNodes) -> Result<Digest, ReadFault> {
    let mut peaks = Vec::new();
    let mut low = low;
    while low < high {
        let level = 63 - (high - low).leading_zeros() as u8;
        peaks.push(nodes.node(level, low >> level)?);
        low += 1 << level;
    }
    let smallest = peaks.pop().expect("a range has at least one entry");
    Ok(peaks.iter().rev().fold(smallest, |right, left| hash::node(left, &right)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rfc9162::{PathError, verify_consistency, verify_inclusion};

    #[derive(Default)]
    struct Stored(BTreeMap<(u8, u64), Digest>);

    impl LogNodes for Stored {
        fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
            let missing = ReadFault::corrupt("a log node is missing");
            self.0.get(&(level, index)).copied().ok_or(missing)
        }
    }

    fn entry(number: u64) -> Digest {
        hash::leaf(&number.to_be_bytes())
    }

    /// A log of `size` entries, its nodes, and its root at every size up to it.
    fn grow(size: u64) -> (Stored, Vec<Digest>) {
        let (mut stored, mut frontier) = (Stored::default(), Frontier::new());
        let mut roots = vec![frontier.root()];
        for number in 0..size {
            frontier.append(entry(number), |level, index, node| {
                assert!(stored.0.insert((level, index), node).is_none(), "nodes are written once");
            });
            roots.push(frontier.root());
        }
        assert_eq!(frontier.size(), size);
        (stored, roots)
    }

    #[test]
    fn roots_equal_those_of_the_transaction_tree_which_has_another_builder() {
        let (stored, roots) = grow(130);
        let leaves: Vec<Digest> = (0..130).map(entry).collect();
        for size in 0..=130 {
            assert_eq!(roots[size], crate::tx_tree::tx_root(&leaves[..size]));
            assert_eq!(root_at(size as u64, &stored), Ok(roots[size]));
        }
    }

    #[test]
    fn every_proof_between_sizes_up_to_64_verifies_and_only_as_itself() {
        let (stored, roots) = grow(64);
        for size in 1..=64u64 {
            let root = &roots[size as usize];
            for index in 0..size {
                let mut path = inclusion_path(index, size, &stored).unwrap();
                assert_eq!(verify_inclusion(&entry(index), index, size, &path, root), Ok(()));
                let other = verify_inclusion(&entry(index + 1), index, size, &path, root);
                assert_eq!(other, Err(PathError::WrongRoot));
                path.push(*root);
                let long = verify_inclusion(&entry(index), index, size, &path, root);
                assert_eq!(long, Err(PathError::TooLong));
                if path.len() > 1 {
                    path.truncate(path.len() - 2);
                    let short = verify_inclusion(&entry(index), index, size, &path, root);
                    assert_eq!(short, Err(PathError::TooShort));
                }
            }
            for old in 0..=size {
                let mut path = consistency_path(old, size, &stored).unwrap();
                let old_root = &roots[old as usize];
                assert_eq!(verify_consistency(old, old_root, size, root, &path), Ok(()));
                path.push(*root);
                let long = verify_consistency(old, old_root, size, root, &path);
                assert_eq!(long, Err(PathError::TooLong), "{old} to {size}");
            }
        }
    }

    #[test]
    fn edges_of_consistency_are_refused() {
        let (stored, roots) = grow(9);
        let shrinks = verify_consistency(9, &roots[9], 8, &roots[8], &[]);
        assert_eq!(shrinks, Err(PathError::SizeShrinks { old: 9, new: 8 }));
        let equal = verify_consistency(8, &roots[8], 8, &roots[9], &[]);
        assert_eq!(equal, Err(PathError::WrongRoot), "equal size, other root");
        let from_nothing = verify_consistency(0, &roots[1], 8, &roots[8], &[]);
        assert_eq!(from_nothing, Err(PathError::WrongOldRoot));
        let path = consistency_path(3, 9, &stored).unwrap();
        assert_eq!(
            verify_consistency(3, &roots[2], 9, &roots[9], &path),
            Err(PathError::WrongOldRoot)
        );
        assert_eq!(verify_consistency(3, &roots[3], 9, &roots[9], &[]), Err(PathError::TooShort));
        assert_eq!(verify_consistency(8, &roots[8], 9, &roots[9], &[]), Err(PathError::TooShort));
    }

    #[test]
    fn a_loaded_frontier_goes_on_as_the_one_that_stayed() {
        let (stored, roots) = grow(100);
        for size in 0..100 {
            let mut frontier = Frontier::load(size, &stored).unwrap();
            assert_eq!(
                Frontier::from_peaks(size, frontier.peaks().to_vec()).as_ref(),
                Some(&frontier)
            );
            frontier.append(entry(size), |level, index, node| {
                assert_eq!(stored.0[&(level, index)], node);
            });
            assert_eq!(frontier.root(), roots[size as usize + 1]);
        }
        assert_eq!(Frontier::from_peaks(3, vec![]), None);
        assert!(Frontier::load(101, &stored).is_err());
    }
}
