//! A vault's state in a received snapshot: its rows, their root, and that its stored tree leads to them.
//!
//! Owns the root computed again from rows alone. Must never take a page's word for it: the tree is opened
//! after the rows were checked, and compared with them.

use ledger_proof::{Record, hash};
use ledger_shard_core::apply::{Applier, ApplyConfig};
use ledger_shard_core::integrity::StateRoot;
use ledger_shard_core::query::QueryError;
use ledger_shard_core::rows::{VaultRow, split_latest};
use ledger_shard_core::view::Family;
use ledger_types::{StateKey, VaultRef};

use super::super::error::{SnapshotError, VerifyError};
use super::super::staged_rows::StagedRows;
use super::{row_error, vault_rows};

/// Memory for the part of a state tree that is looked at, in bytes.
const TREE_BYTES: usize = 8 << 20;
/// Keys looked up at once.
const LOOKS_AT_ONCE: usize = 1024;
/// Bytes of values behind the keys that are looked up at once; one more value may be over it.
const LOOK_BYTES_MAX: usize = 1 << 20;

/// Checks a vault's rows of the latest family and their root; tells how many there are.
pub(super) fn check(
    rows: &StagedRows,
    vault: VaultRef,
    row: &VaultRow,
) -> Result<u64, SnapshotError> {
    let wrong = |what| VerifyError::State { vault, what };
    let mut latest = vault_rows(rows, Family::Latest, vault);
    let (mut root, mut count) = (StateRoot::default(), 0);
    while let Some((key, value)) = latest.next()? {
        let key = &key[VaultRef::LEN..];
        if StateKey::from_bytes(key).is_none() {
            return Err(wrong("a state key is over its limit").into());
        }
        let (record, value) = split_latest(value).ok_or(wrong("a state row has no record"))?;
        let decoded = Record::decode(record).map_err(row_error(vault, Family::Latest))?;
        if decoded.value_hash != hash::plain(value) {
            return Err(wrong("a value is not the one that its record commits to").into());
        }
        if decoded.modified_height > row.height {
            return Err(wrong("a record is of a later block").into());
        }
        root.push(key, hash::plain(record));
        count += 1;
    }
    if count != row.state_keys || root.finish() != row.state_root {
        return Err(VerifyError::StateRoot(vault).into());
    }
    Ok(count)
}

/// Opens a vault as a node would: block log, stored pages, and the blocks above their anchor; then looks up
/// every key, because where a page says that a bucket's keys begin is in no hash.
pub(super) fn check_leaves(rows: &StagedRows, vault: VaultRef) -> Result<(), SnapshotError> {
    let config = ApplyConfig { tree_cache_bytes: TREE_BYTES, ..ApplyConfig::default() };
    let mut applier = Applier::new(config);
    let mut look = |keys: &[StateKey]| match applier.prove(vault, keys, None, rows) {
        Ok(proof) if proof.keys.iter().all(|key| key.value.is_some()) => Ok(()),
        Ok(_) => Err(tree_error(vault, "a key of the rows is not in the tree".to_owned())),
        Err(QueryError::Fault(fault)) => Err(tree_error(vault, fault.to_string())),
        Err(other) => Err(tree_error(vault, other.to_string())),
    };
    look(&[])?;
    let mut latest = vault_rows(rows, Family::Latest, vault);
    let (mut keys, mut bytes) = (Vec::new(), 0);
    while let Some((key, value)) = latest.next()? {
        let key = StateKey::from_bytes(&key[VaultRef::LEN..]);
        keys.push(key.expect("the rows were checked"));
        bytes += value.len();
        if keys.len() == LOOKS_AT_ONCE || bytes >= LOOK_BYTES_MAX {
            look(&keys)?;
            keys.clear();
            bytes = 0;
        }
    }
    if !keys.is_empty() {
        look(&keys)?;
    }
    Ok(())
}

fn tree_error(vault: VaultRef, detail: String) -> VerifyError {
    VerifyError::Tree { vault, detail }
}
