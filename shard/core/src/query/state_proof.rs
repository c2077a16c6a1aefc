//! What an answer can prove of the state after a block: header, its place in the block log, keys and lists.
//!
//! Owns how these parts are put together from rows and a state tree, at the tip and at earlier heights alike.
//! Must never verify them: whoever asked does that.

use std::ops::ControlFlow;

use ledger_proof::header::HEADER_LEN;
use ledger_proof::{
    KeyProof, ListLimits, ListProof, ReadFault, Record, StateTree, TreeStore, block_log,
};
use ledger_types::limits::PAGE_ITEMS_MAX;
use ledger_types::{Digest, StateKey, VaultRef};

use super::QueryError;
use super::list::List;
use super::version::{Values, Version, find, find_latest};
use crate::apply::vault_state::{StoredLog, stored_header_bytes};
use crate::rows::{RECORD_LEN, VaultRow, tree_page_key};
use crate::view::{Family, StateView};

/// What the state after a block holds, and where the block is in the block log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateProof {
    /// Height of the block.
    pub height: u64,
    /// Its canonical header.
    pub header: [u8; HEADER_LEN],
    /// Blocks in the block log that the paths lead to; more than `height`.
    pub log_size: u64,
    /// Root of that block log.
    pub log_root: Digest,
    /// Log epoch of the vault.
    pub log_epoch: u64,
    /// Inclusion path of the header in the block log.
    pub inclusion: Vec<Digest>,
    /// Consistency path from the size that the caller knows; empty if it named none.
    pub consistency: Vec<Digest>,
    /// One proof for each key asked for, in order.
    pub keys: Vec<ProvedKey>,
}

/// What a state holds for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvedKey {
    /// The proof of presence or absence.
    pub proof: KeyProof,
    /// The value, if the key is present; an expired entity is present here. A relationship's is empty.
    pub value: Option<Vec<u8>>,
}

/// Between which sizes of the block log a state is proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogSizes {
    /// Blocks in the log in which the header is included; `None` for all of them.
    pub log_size: Option<u64>,
    /// The size that the caller knows, from which consistency is proved.
    pub known_size: Option<u64>,
}

/// A list to prove, or its next page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRequest<'a> {
    /// What the state keys begin with, 1 to 2,048 bytes; the caller has checked it.
    pub prefix: &'a [u8],
    /// The last key of the page before; `None` for the first page.
    pub kept: Option<&'a [u8]>,
    /// How much one proof may hold.
    pub limits: ListLimits,
    /// Bytes of values after which a page ends; its first new leaf is always in it.
    pub value_bytes: usize,
}

/// A page of a list that can be verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvedList {
    /// The state that it is a list of; without keys.
    pub state: StateProof,
    /// The proof, with keys and records.
    pub list: ListProof,
    /// The values of the proof's leaves, in their order; `None` for the leaf that the caller kept and for
    /// relationships. None at all if nothing begins with the prefix.
    pub values: Vec<Option<Vec<u8>>>,
}

/// As in [`ProvedList::values`].
type LeafValues = Vec<Option<Vec<u8>>>;

/// The state after one block as rows show it, to read and to read a state tree's leaves and pages from.
#[derive(Clone, Copy)]
pub(crate) struct StateAt<'a> {
    pub view: &'a dyn StateView,
    pub vault: VaultRef,
    /// The vault's row in this view.
    pub row: &'a VaultRow,
    pub height: u64,
}

impl<'a> StateAt<'a> {
    /// Header, inclusion and consistency. Errors if a size is not one that the block log had since this block.
    pub(crate) fn in_log(&self, sizes: LogSizes) -> Result<StateProof, QueryError> {
        let StateAt { view, vault, row, height } = *self;
        let log_size = sizes.log_size.unwrap_or(row.log_size);
        let known_size = sizes.known_size.unwrap_or(0);
        if !(height + 1..=row.log_size).contains(&log_size) || known_size > log_size {
            let (floor, tip) = (row.history_floor, row.height);
            return Err(QueryError::HeightUnavailable { floor, tip });
        }
        let log = StoredLog { view, vault };
        let log_root = match log_size == row.log_size {
            true => row.log_root,
            false => block_log::root_at(log_size, &log)?,
        };
        Ok(StateProof {
            height,
            header: stored_header_bytes(view, vault, height)?,
            log_size,
            log_root,
            log_epoch: row.log_epoch,
            inclusion: block_log::inclusion_path(height, log_size, &log)?,
            consistency: block_log::consistency_path(known_size, log_size, &log)?,
            keys: Vec::new(),
        })
    }

    /// Proves what a tree of this state holds for each key.
    pub(crate) fn prove_keys(
        &self,
        tree: &mut StateTree,
        keys: &[StateKey],
    ) -> Result<Vec<ProvedKey>, ReadFault> {
        let mut values = Values::new(self.view, self.vault);
        let mut proved = Vec::with_capacity(keys.len());
        let found: Vec<_> = match self.is_tip() {
            true => find_latest(self.view, self.vault, keys)?,
            false => keys.iter().map(|key| self.find(key)).collect::<Result<_, _>>()?,
        };
        for (key, found) in keys.iter().zip(found) {
            let proof = tree.prove(key.as_bytes(), self)?;
            let record = found.as_ref().map(|version| version.record.encode());
            let is_present = proof.leaf_key == key.as_bytes();
            if record != is_present.then_some(proof.record) {
                let what = "the rows of a height and its state tree disagree about a key";
                return Err(ReadFault::Corrupt { what });
            }
            let value = found.map(|version| values.value(key.as_bytes(), version)).transpose()?;
            proved.push(ProvedKey { proof, value });
        }
        Ok(proved)
    }

    /// Proves a list or a page of it with a tree of this state. `None` if the key that the caller kept is not
    /// there.
    pub(crate) fn prove_list(
        &self,
        tree: &mut StateTree,
        request: &ListRequest<'_>,
    ) -> Result<Option<(ListProof, LeafValues)>, ReadFault> {
        let ListRequest { prefix, kept, limits, .. } = *request;
        let mut values = self.list_values(request)?;
        let kept_leaves = usize::from(kept.is_some());
        let items = values.len().saturating_sub(kept_leaves).max(1);
        let limits = ListLimits { items, ..limits };
        let Some(list) = tree.prove_list(prefix, kept, limits, self)? else { return Ok(None) };
        let leaves = match &list {
            ListProof::Empty(_) => 0,
            ListProof::Whole(proof) => proof.leaves.len(),
            ListProof::Page(proof) => proof.leaves.len(),
        };
        if leaves > values.len() {
            let what = "a list has more leaves than the rows show";
            return Err(ReadFault::Corrupt { what });
        }
        values.truncate(leaves);
        Ok(Some((list, values)))
    }

    /// The values of the leaves from `kept` or the list's beginning on, as many as the limits allow.
    fn list_values(&self, request: &ListRequest<'_>) -> Result<LeafValues, ReadFault> {
        let ListRequest { prefix, kept, limits, value_bytes } = *request;
        let is_inside = kept.is_none_or(|kept| kept.starts_with(prefix));
        let mut found = Vec::new();
        if !is_inside {
            return Ok(found);
        }
        let mut values = Values::new(self.view, self.vault);
        let items_max = limits.items.clamp(1, PAGE_ITEMS_MAX) + usize::from(kept.is_some());
        let (mut leaf_bytes, mut bytes, mut new_leaves) = (0, 0, 0);
        let list = self.list(prefix);
        list.visit_from(kept.unwrap_or(prefix), &mut |key, record, value| {
            if kept == Some(key) {
                found.push(None);
                return Ok(ControlFlow::Continue(()));
            }
            leaf_bytes += key.len() + RECORD_LEN;
            let value = match StateKey::as_relationship(key) {
                Some(_) => None,
                None => {
                    let value = value.map(<[u8]>::to_vec);
                    Some(values.value(key, Version { record: *record, value })?)
                }
            };
            bytes += value.as_ref().map_or(0, Vec::len);
            let is_over = leaf_bytes > limits.leaf_bytes || bytes > value_bytes;
            if found.len() == items_max || (is_over && new_leaves > 0) {
                return Ok(ControlFlow::Break(()));
            }
            new_leaves += 1;
            found.push(value);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn list(&self, prefix: &'a [u8]) -> List<'a> {
        let StateAt { view, vault, height, .. } = *self;
        List::new(view, vault, prefix, (height, self.is_tip()))
    }

    fn find(&self, key: &StateKey) -> Result<Option<Version>, ReadFault> {
        match self.is_tip() {
            true => Ok(find_latest(self.view, self.vault, std::slice::from_ref(key))?.remove(0)),
            false => find(self.view, self.vault, key, self.height),
        }
    }

    fn is_tip(&self) -> bool {
        self.height == self.row.height
    }
}

impl TreeStore for StateAt<'_> {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.view.get(Family::Tree, &tree_page_key(self.vault, id, height))
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        self.list(&[]).visit_from(from, &mut |key, record: &Record, _| {
            Ok(match visit(key, &record.encode()) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })
        })?;
        Ok(())
    }

    fn record(&self, key: &[u8]) -> Result<Option<[u8; RECORD_LEN]>, ReadFault> {
        let what = "a key of the state tree is too long";
        let key = StateKey::from_bytes(key).ok_or(ReadFault::Corrupt { what })?;
        let found = self.find(&key)?;
        Ok(found.map(|version| version.record.encode()))
    }
}
