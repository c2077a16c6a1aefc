//! Keys and values of every persisted row, in one place.
//!
//! Owns the bytes on disk: how rows are named, ordered and versioned. Must never decide what is written
//! or when. Integers are big-endian, so the order of rows is the order of their numbers.

mod blocks;
mod raft_log;
mod sessions;
mod state;
mod vaults;

pub use blocks::{
    LogNodeRow, block_body_key, block_header_key, block_log_node_key, block_range, checkpoint_key,
    decode_body, decode_checkpoint, encode_body, encode_checkpoint,
};
pub use raft_log::{
    LocalState, decode_hard_state, decode_raft_entry, encode_hard_state, encode_raft_entry,
    raft_entry_index, raft_entry_key, raft_entry_range, raft_group_range, raft_hard_state_key,
    raft_local_key,
};
pub use sessions::{
    ClientRow, SequenceContract, SessionRow, session_client_key, session_key, session_range,
};
pub use state::{
    RECORD_LEN, RetiredPage, TreeRow, history_key, history_key_after, history_key_from, latest_key,
    retired_page_key, retired_page_range, split_history_key, split_latest, split_tree_key,
    tree_anchor_key, tree_anchor_range, tree_page_key, tree_page_range,
};
pub use vaults::{
    GroupRow, OwnedRow, OwnedState, VaultRow, VaultStatus, group_row_key, group_rows_range,
    owned_row_key, owned_rows_range, split_group_row_key, split_vault_row_key, vault_row_key,
    vault_rows_range,
};

use ledger_proof::encoding::{DecodeError, Reader};
use ledger_types::VaultRef;

use crate::view::Family;

/// The families whose keys begin with a vault: all that is stored of one, beside its row and its owner's line.
pub const VAULT_FAMILIES: [Family; 5] =
    [Family::Latest, Family::History, Family::Tree, Family::Blocks, Family::Sessions];

/// The range (first key, end) of a vault's rows in any of its families.
pub fn vault_range(vault: VaultRef) -> (Vec<u8>, Vec<u8>) {
    let prefix = vault.to_bytes();
    (prefix.to_vec(), prefix_end(&prefix))
}

/// The first key that is greater than every key beginning with `prefix`.
///
/// No prefix in use consists of 0xFF bytes only; such a one has no end and is refused.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let last = prefix.iter().rposition(|&byte| byte < 0xFF);
    let last = last.expect("every row prefix has a byte below 0xFF");
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// Begins reading a value whose first byte must be `version`.
fn versioned<'a>(
    value: &'a [u8],
    version: u8,
    field: &'static str,
) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(value);
    match reader.u8(field)? {
        found if found == version => Ok(reader),
        found => Err(DecodeError::UnknownValue { field, value: found.into() }),
    }
}

#[cfg(test)]
mod tests;
