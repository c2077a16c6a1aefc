//! What a watcher must get: each block of its range once, in order, without gaps.
//!
//! Owns the check of one watcher's deliveries. What the blocks held is compared by [`crate::agreement`].

use std::collections::BTreeSet;

use ledger_types::VaultRef;
use thiserror::Error;

use crate::record::SeenBlock;

/// What a watcher asked for and by when it must have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The watcher, as [`SeenBlock::witness`] names it.
    pub witness: String,
    /// The vault.
    pub vault: VaultRef,
    /// The height at which it began.
    pub first: u64,
    /// The height up to which it was left running, inclusive: it got this block, or was waited for until it had to.
    pub last: u64,
}

/// How a watcher's deliveries differ from its range.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WatchFinding {
    /// A block came again.
    #[error("{witness} on vault {vault}: block {height} came again")]
    Repeated {
        /// The watcher.
        witness: String,
        /// The vault.
        vault: VaultRef,
        /// The block's height.
        height: u64,
    },
    /// Blocks were left out before this one.
    #[error("{witness} on vault {vault}: block {height} came where {expected} was due")]
    Gap {
        /// The watcher.
        witness: String,
        /// The vault.
        vault: VaultRef,
        /// The height that was due.
        expected: u64,
        /// The height that came.
        height: u64,
    },
    /// A block came late that had been left out.
    #[error("{witness} on vault {vault}: block {height} came after {after}")]
    OutOfOrder {
        /// The watcher.
        witness: String,
        /// The vault.
        vault: VaultRef,
        /// The block's height.
        height: u64,
        /// The highest that had come before.
        after: u64,
    },
    /// A block came that was not asked for.
    #[error("{witness} on vault {vault}: block {height} lies before the first asked for, {first}")]
    BeforeStart {
        /// The watcher.
        witness: String,
        /// The vault.
        vault: VaultRef,
        /// The block's height.
        height: u64,
        /// Where the watch began.
        first: u64,
    },
    /// The last blocks never came.
    #[error("{witness} on vault {vault}: blocks {from} to {last} never came")]
    Missing {
        /// The watcher.
        witness: String,
        /// The vault.
        vault: VaultRef,
        /// The first that did not come.
        from: u64,
        /// The last that had to.
        last: u64,
    },
}

/// Checks what one watcher saw, in the order in which it came. Blocks of other witnesses and vaults are skipped;
/// blocks above the range are welcome as long as they come in order.
pub fn watched(watch: &Watch, seen: &[SeenBlock]) -> Vec<WatchFinding> {
    let mut findings = Vec::new();
    let mut came = BTreeSet::new();
    // What is due next; nothing after the last height that there can be.
    let mut due = Some(watch.first);
    let own = seen.iter().filter(|b| b.witness == watch.witness && b.vault == watch.vault);
    for height in own.map(|block| block.height) {
        let (witness, vault, first) = (watch.witness.clone(), watch.vault, watch.first);
        if height < first {
            findings.push(WatchFinding::BeforeStart { witness, vault, height, first });
            continue;
        }
        let highest = came.last().copied().unwrap_or(first);
        if !came.insert(height) {
            findings.push(WatchFinding::Repeated { witness, vault, height });
            continue;
        }
        match due {
            Some(expected) if height > expected => {
                findings.push(WatchFinding::Gap { witness, vault, expected, height });
            }
            Some(expected) if height == expected => {}
            _ => findings.push(WatchFinding::OutOfOrder { witness, vault, height, after: highest }),
        }
        due = highest.max(height).checked_add(1);
    }
    if let Some(from) = due.filter(|due| *due <= watch.last) {
        let (witness, vault) = (watch.witness.clone(), watch.vault);
        findings.push(WatchFinding::Missing { witness, vault, from, last: watch.last });
    }
    findings
}

#[cfg(test)]
mod tests {
    use ledger_types::Digest;

    use super::*;

    const VAULT: VaultRef =
        VaultRef { namespace: ledger_types::NamespaceId(4), vault: ledger_types::VaultId(1) };

    fn watch(first: u64, last: u64) -> Watch {
        Watch { witness: "watcher".to_owned(), vault: VAULT, first, last }
    }

    fn seen(heights: &[u64]) -> Vec<SeenBlock> {
        let block = |height: &u64| SeenBlock {
            witness: "watcher".to_owned(),
            vault: VAULT,
            height: *height,
            block_hash: Digest([*height as u8; 32]),
            state_root: Digest::ZERO,
        };
        heights.iter().map(block).collect()
    }

    fn told(watch: &Watch, heights: &[u64]) -> Vec<String> {
        watched(watch, &seen(heights)).iter().map(WatchFinding::to_string).collect()
    }

    #[test]
    fn every_block_once_and_in_order_passes() {
        assert_eq!(told(&watch(0, 3), &[0, 1, 2, 3]), [""; 0]);
        assert_eq!(told(&watch(7, 8), &[7, 8, 9]), [""; 0], "more than had to come");
        assert_eq!(told(&watch(u64::MAX, u64::MAX), &[u64::MAX]), [""; 0]);
    }

    #[test]
    fn blocks_of_others_do_not_count() {
        let mut blocks = seen(&[0, 1]);
        blocks[1].witness = "another".to_owned();
        blocks.extend(seen(&[1]));
        blocks.push(SeenBlock { vault: VaultRef::new(4, 2), ..blocks[0].clone() });
        assert_eq!(watched(&watch(0, 1), &blocks), []);
    }

    #[test]
    fn a_duplicate_is_found() {
        assert_eq!(
            told(&watch(0, 3), &[0, 1, 1, 2, 3]),
            ["watcher on vault 4/1: block 1 came again"]
        );
    }

    #[test]
    fn a_reordered_watch_is_found() {
        assert_eq!(
            told(&watch(0, 3), &[0, 2, 1, 3]),
            [
                "watcher on vault 4/1: block 2 came where 1 was due",
                "watcher on vault 4/1: block 1 came after 2",
            ]
        );
    }

    #[test]
    fn a_gap_is_found_even_if_the_watch_goes_on() {
        assert_eq!(
            told(&watch(0, 4), &[0, 1, 3, 4]),
            ["watcher on vault 4/1: block 3 came where 2 was due"]
        );
        assert_eq!(
            told(&watch(5, 6), &[6]),
            ["watcher on vault 4/1: block 6 came where 5 was due"]
        );
    }

    #[test]
    fn a_watch_that_stops_early_is_found() {
        assert_eq!(told(&watch(0, 4), &[0, 1]), ["watcher on vault 4/1: blocks 2 to 4 never came"]);
        assert_eq!(told(&watch(3, 3), &[]), ["watcher on vault 4/1: blocks 3 to 3 never came"]);
    }

    #[test]
    fn a_block_from_before_the_start_is_found() {
        assert_eq!(
            told(&watch(2, 3), &[1, 2, 3]),
            ["watcher on vault 4/1: block 1 lies before the first asked for, 2"]
        );
    }
}
