//! Rows and pages of one tree in memory, where a node has RocksDB.
//!
//! Must never count anything: what a lookup costs is the tree's.

use std::collections::{BTreeMap, HashMap};

use ledger_proof::{ReadFault, TreeStore};

/// Rows in key order and pages.
#[derive(Default)]
pub(crate) struct Rows {
    /// Records by state key.
    pub(crate) records: BTreeMap<Box<[u8]>, [u8; 93]>,
    /// Pages by id and height.
    pub(crate) pages: HashMap<(u64, u64), Vec<u8>>,
}

impl TreeStore for Rows {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(self.pages.get(&(id, height)).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        let from = std::ops::Bound::Included(from);
        for (key, record) in self.records.range::<[u8], _>((from, std::ops::Bound::Unbounded)) {
            if !visit(key, record) {
                break;
            }
        }
        Ok(())
    }
}
