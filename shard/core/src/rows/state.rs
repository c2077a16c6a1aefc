//! Rows of the `latest`, `history` and `tree` families: a vault's state now, before, and its tree pages.
//!
//! Owns their bytes. Must never decide which version a reader sees.
//!
//! `latest`: `vault 16 ‖ state key` -> record 93 ‖ value. `history`: `vault 16 ‖ escaped state key ‖
//! superseded height u64 ‖ superseded tx u32` -> record 93, valid below the superseded height and from the
//! record's own height on; its value is in the body of the block that wrote it. In an escaped key each zero
//! byte is followed by 0xFF and the end is 0x00 0x01, so keys of any length keep their order.
//! `tree`: `vault 16 ‖ page id u64 ‖ inverted height u64` -> page, so that the newest version comes first.
//! No page has the first or the last id. Below the first lie the anchors of earlier flushes, oldest first:
//! `vault 16 ‖ 0 u64 ‖ height u64` -> anchor. Below the last it is told which version of which page the flush
//! of a height retired: `vault 16 ‖ 0xFF.. u64 ‖ retired height u64 ‖ page id u64 ‖ height u64` -> nothing.

use ledger_proof::record::RECORD_LEN as LEN;
use ledger_types::VaultRef;

/// Length of the record before the value, in bytes.
pub const RECORD_LEN: usize = LEN;
/// Ends an escaped key.
const KEY_END: [u8; 2] = [0x00, 0x01];
/// Sorts after [`KEY_END`] and before anything that continues an escaped key.
const AFTER_KEY_END: [u8; 2] = [0x00, 0x02];
/// The page id below which anchors lie.
const ANCHORS_ID: u64 = 0;
/// The page id below which retired versions are listed.
const RETIRED_ID: u64 = u64::MAX;
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
    debug_assert!(page != ANCHORS_ID && page != RETIRED_ID, "no page has these ids");
    tree_key(vault, page, &[!height])
}

/// Key of the anchor of the flush at a height.
pub fn tree_anchor_key(vault: VaultRef, height: u64) -> Vec<u8> {
    tree_key(vault, ANCHORS_ID, &[height])
}

/// The range (first key, end) of the anchors of a vault's flushes at `height` and later ones.
pub fn tree_anchor_range(vault: VaultRef, height: u64) -> (Vec<u8>, Vec<u8>) {
    (tree_anchor_key(vault, height), tree_key(vault, ANCHORS_ID + 1, &[]))
}

/// A version of a page that a flush retired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RetiredPage {
    /// Height of the flush that retired it.
    pub retired_height: u64,
    /// The page's id.
    pub id: u64,
    /// Height of the flush that had written it.
    pub height: u64,
}

/// Key of the row that says when a version of a page was retired.
pub fn retired_page_key(vault: VaultRef, page: RetiredPage) -> Vec<u8> {
    tree_key(vault, RETIRED_ID, &[page.retired_height, page.id, page.height])
}

/// The range (first key, end) of the rows of versions that the flush at a height retired.
pub fn retired_page_range(vault: VaultRef, retired_height: u64) -> (Vec<u8>, Vec<u8>) {
    let first = tree_key(vault, RETIRED_ID, &[retired_height]);
    let end = super::prefix_end(&first);
    (first, end)
}

/// What a row of the tree family is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TreeRow {
    /// The anchor of a flush.
    Anchor {
        /// Its height.
        height: u64,
    },
    /// A page.
    Page {
        /// Its id.
        id: u64,
        /// Height of the flush that wrote it.
        height: u64,
    },
    /// When a version of a page was retired.
    Retired(RetiredPage),
}

/// What the row with this key is; `None` if it is none of the family.
pub fn split_tree_key(key: &[u8]) -> Option<TreeRow> {
    let (parts, []) = key.get(VaultRef::LEN..)?.as_chunks::<8>() else { return None };
    let parts: Vec<u64> = parts.iter().map(|part| u64::from_be_bytes(*part)).collect();
    match parts[..] {
        [ANCHORS_ID, height] => Some(TreeRow::Anchor { height }),
        [RETIRED_ID, retired_height, id, height] => {
            Some(TreeRow::Retired(RetiredPage { retired_height, id, height }))
        }
        [ANCHORS_ID | RETIRED_ID, ..] => None,
        [id, inverted] => Some(TreeRow::Page { id, height: !inverted }),
        _ => None,
    }
}

fn tree_key(vault: VaultRef, id: u64, rest: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(VaultRef::LEN + 8 + 8 * rest.len());
    key.extend_from_slice(&vault.to_bytes());
    for number in [&[id], rest].concat() {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

/// The range (first key, end) of a vault's rows in the tree family.
pub fn tree_page_range(vault: VaultRef) -> (Vec<u8>, Vec<u8>) {
    let prefix = vault.to_bytes();
    (prefix.to_vec(), super::prefix_end(&prefix))
}
