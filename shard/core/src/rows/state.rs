//! Rows of the `latest`, `history` and `tree` families: a vault's state now, before, and its tree pages.
//!
//! Owns their bytes. Must never decide which version a reader sees.
//!
//! `latest`: `vault 16 ‖ state key` -> record 93 ‖ value. `history`: `vault 16 ‖ escaped state key ‖
//! superseded height u64 ‖ superseded tx u32` -> record 93, valid below the superseded height and from the
//! record's own height on; its value is in the body of the block that wrote it. In an escaped key each zero
//! byte is followed by 0xFF and the end is 0x00 0x01, so keys of any length keep their order.
//! `tree`: `vault 16 ‖ page id u64 ‖ inverted height u64` -> page, so that the newest version comes first.

use ledger_proof::record::RECORD_LEN as LEN;
use ledger_types::VaultRef;

/// Length of the record before the value, in bytes.
pub const RECORD_LEN: usize = LEN;
/// Ends an escaped key.
const KEY_END: [u8; 2] = [0x00, 0x01];
/// Sorts after [`KEY_END`] and before anything that continues an escaped key.
const AFTER_KEY_END: [u8; 2] = [0x00, 0x02];
/// Bytes of a history key after the escaped key.
const HISTORY_TAIL_LEN: usize = 12;

/// Key of a state key's present row.
pub fn latest_key(vault: VaultRef, state_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(VaultRef::LEN + state_key.len());
    key.extend_from_slice(&vault.to_bytes());
    key.extend_from_slice(state_key);
    key
}

/// Splits a present row into record bytes and value; `None` if it is too short to hold a record.
pub fn split_latest(row: &[u8]) -> Option<(&[u8; RECORD_LEN], &[u8])> {
    row.split_first_chunk()
}

/// Key of the record that block `height`, transaction `tx`, replaced or removed.
pub fn history_key(vault: VaultRef, state_key: &[u8], height: u64, tx: u32) -> Vec<u8> {
    let mut key = history_key_from(vault, state_key);
    key.reserve(KEY_END.len() + HISTORY_TAIL_LEN);
    key.extend_from_slice(&KEY_END);
    key.extend_from_slice(&height.to_be_bytes());
    key.extend_from_slice(&tx.to_be_bytes());
    key
}

/// The first history key of all state keys that are equal to `state_key` or continue it.
pub fn history_key_from(vault: VaultRef, state_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(VaultRef::LEN + state_key.len() + 24);
    key.extend_from_slice(&vault.to_bytes());
    for &byte in state_key {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    key
}

/// Greater than every history key of exactly `state_key`, and not above those of any greater one.
pub fn history_key_after(vault: VaultRef, state_key: &[u8]) -> Vec<u8> {
    let mut key = history_key_from(vault, state_key);
    key.extend_from_slice(&AFTER_KEY_END);
    key
}

/// The state key, superseded height and superseded transaction in a history key; `None` if it is none.
pub fn split_history_key(key: &[u8]) -> Option<(Vec<u8>, u64, u32)> {
    let escaped = key.get(VaultRef::LEN..)?;
    let tail_at = escaped.len().checked_sub(HISTORY_TAIL_LEN)?;
    let (escaped, tail) = escaped.split_at(tail_at);
    let escaped = escaped.strip_suffix(&KEY_END)?;
    let mut state_key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        state_key.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    let height = u64::from_be_bytes(tail[..8].try_into().ok()?);
    let tx = u32::from_be_bytes(tail[8..].try_into().ok()?);
    Some((state_key, height, tx))
}

/// Key of a tree page as written at a height.
pub fn tree_page_key(vault: VaultRef, page: u64, height: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(&vault.to_bytes());
    key.extend_from_slice(&page.to_be_bytes());
    key.extend_from_slice(&(!height).to_be_bytes());
    key
}

/// The range (first key, end) of a vault's tree pages.
pub fn tree_page_range(vault: VaultRef) -> (Vec<u8>, Vec<u8>) {
    let prefix = vault.to_bytes();
    (prefix.to_vec(), super::prefix_end(&prefix))
}
