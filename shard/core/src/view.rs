//! How the state machine reads rows, and how it asks for rows to be written.
//!
//! Owns the narrow interface between pure code and the store. Must never know what the store is.

use std::collections::BTreeMap;

use ledger_proof::ReadFault;
use ledger_types::VaultRef;

use crate::rows::VAULT_FAMILIES;

/// A family of rows. One column family each; the set is small and fixed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Family {
    /// Store identity, format version, founding, checkpoint records.
    Meta = 0,
    /// Raft logs and hard states.
    Raft = 1,
    /// Vault rows, group rows, owned tables.
    Vaults = 2,
    /// State key -> record and value.
    Latest = 3,
    /// Superseded records.
    History = 4,
    /// State tree pages.
    Tree = 5,
    /// Headers, bodies, block-log nodes.
    Blocks = 6,
    /// Idempotency and sequence rows.
    Sessions = 7,
}

impl Family {
    /// Every family, in the order of their numbers.
    pub const ALL: [Family; 8] = [
        Family::Meta,
        Family::Raft,
        Family::Vaults,
        Family::Latest,
        Family::History,
        Family::Tree,
        Family::Blocks,
        Family::Sessions,
    ];

    /// The family's name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Raft => "raft",
            Family::Vaults => "vaults",
            Family::Latest => "latest",
            Family::History => "history",
            Family::Tree => "tree",
            Family::Blocks => "blocks",
            Family::Sessions => "sessions",
        }
    }
}

/// One consistent view of the rows. A fault is fatal to the replica that met it, never a reply.
pub trait StateView: Sync {
    /// The row's value, if the row is there.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault>;

    /// The values of several rows of one family, in the order of the keys.
    fn multi_get(
        &self,
        family: Family,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, ReadFault> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    /// Visits the rows with `from <= key < to` in key order until `visit` answers false.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault>;
}

/// A row to write: put if it has a value, delete otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowWrite {
    /// The family.
    pub family: Family,
    /// The row's key.
    pub key: Vec<u8>,
    /// The new value, or `None` to delete.
    pub value: Option<Vec<u8>>,
}

/// Rows in memory with the store's semantics: the simulator's and the tests' store.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct MemoryRows {
    rows: BTreeMap<(Family, Vec<u8>), Vec<u8>>,
}

impl MemoryRows {
    /// Applies a batch, in order.
    pub fn write(&mut self, batch: impl IntoIterator<Item = RowWrite>) {
        for row in batch {
            match row.value {
                Some(value) => self.rows.insert((row.family, row.key), value),
                None => self.rows.remove(&(row.family, row.key)),
            };
        }
    }

    /// Removes every row of these vaults but those of the `vaults` family, as [`crate::apply::ApplyOutput::erased`]
    /// asks for.
    pub fn erase(&mut self, vaults: &[VaultRef]) {
        for &vault in vaults {
            let prefix = vault.to_bytes();
            self.rows.retain(|(family, key), _| {
                !(VAULT_FAMILIES.contains(family) && key.starts_with(&prefix))
            });
        }
    }

    /// Every row of a family, in key order.
    pub fn family(&self, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
        let all = self.rows.iter().filter(move |((of, _), _)| *of == family);
        all.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }
}

impl StateView for MemoryRows {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(self.rows.get(&(family, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        let range = (family, from.to_vec())..(family, to.to_vec());
        for ((_, key), value) in self.rows.range(range) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
