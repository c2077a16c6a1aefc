//! Rows of the `blocks` family: headers, bodies and the nodes of block logs.
//!
//! Owns their bytes. Must never interpret a transaction.
//!
//! `vault 16 ‖ 0x00 ‖ height u64` -> header 200; `vault 16 ‖ 0x01 ‖ height u64` -> body;
//! `vault 16 ‖ 0x02 ‖ level u8 ‖ index u64` -> node 32. Nodes of level 0 are not stored: they are the block
//! hashes, which the headers give. `vault 16 ‖ 0x03 ‖ size u64` -> `version u8 ‖ note`, a signed checkpoint of
//! the log of that size. Body: `version u8 ‖ count u32 ‖ (length u32 ‖ transaction)…`.

use ledger_proof::encoding::{DecodeError, Writer};
use ledger_types::VaultRef;

/// Version of bodies.
const VERSION: u8 = 1;
/// Tag of header rows.
const TAG_HEADER: u8 = 0;
/// Tag of body rows.
const TAG_BODY: u8 = 1;
/// Tag of block-log nodes.
const TAG_LOG_NODE: u8 = 2;
/// Tag of signed checkpoints.
const TAG_CHECKPOINT: u8 = 3;
/// Version of signed checkpoints.
const CHECKPOINT_VERSION: u8 = 1;
/// Most transactions in a body; one entry's commands are fewer.
const TRANSACTIONS_MAX: usize = 65_536;
/// Largest transaction in bytes; requests are smaller.
const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A node of a block log, as it is named in its row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogNodeRow {
    /// Its level; at least 1 in rows.
    pub level: u8,
    /// Its index in the level.
    pub index: u64,
}

/// Key of a block's header.
pub fn block_header_key(vault: VaultRef, height: u64) -> Vec<u8> {
    key(vault, TAG_HEADER, height)
}

/// Key of a block's body.
pub fn block_body_key(vault: VaultRef, height: u64) -> Vec<u8> {
    key(vault, TAG_BODY, height)
}

/// Key of a node of a vault's block log.
pub fn block_log_node_key(vault: VaultRef, node: LogNodeRow) -> Vec<u8> {
    let mut key = Vec::with_capacity(26);
    key.extend_from_slice(&vault.to_bytes());
    key.push(TAG_LOG_NODE);
    key.push(node.level);
    key.extend_from_slice(&node.index.to_be_bytes());
    key
}

/// Key of a signed checkpoint over the log of `size` blocks.
pub fn checkpoint_key(vault: VaultRef, size: u64) -> Vec<u8> {
    key(vault, TAG_CHECKPOINT, size)
}

/// A signed checkpoint's row.
pub fn encode_checkpoint(note: &[u8]) -> Vec<u8> {
    [&[CHECKPOINT_VERSION], note].concat()
}

/// The note in a signed checkpoint's row. Errors on an unknown version.
pub fn decode_checkpoint(value: &[u8]) -> Result<&[u8], DecodeError> {
    super::versioned(value, CHECKPOINT_VERSION, "checkpoint version")?;
    Ok(&value[1..])
}

/// The range (first key, end) of a vault's rows in the family.
pub fn block_range(vault: VaultRef) -> (Vec<u8>, Vec<u8>) {
    let prefix = vault.to_bytes();
    (prefix.to_vec(), super::prefix_end(&prefix))
}

/// A body from the canonical bytes of its transactions, in order.
pub fn encode_body(transactions: &[Vec<u8>]) -> Vec<u8> {
    let len: usize = transactions.iter().map(|transaction| 4 + transaction.len()).sum();
    let mut out = Vec::with_capacity(5 + len);
    let mut writer = Writer::new(&mut out);
    writer.u8(VERSION);
    writer.u32(u32::try_from(transactions.len()).expect("an entry's commands are limited"));
    for transaction in transactions {
        writer.bytes_u32(transaction);
    }
    out
}

/// The transactions' bytes of a body. Errors on an unknown version or a length that does not fit.
pub fn decode_body(body: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    let mut reader = super::versioned(body, VERSION, "body version")?;
    let count = reader.u32("transactions")? as usize;
    let count = reader.count("transactions", count, TRANSACTIONS_MAX, 4)?;
    let mut transactions = Vec::with_capacity(count);
    for _ in 0..count {
        transactions.push(reader.bytes_u32("transaction", TRANSACTION_BYTES_MAX)?);
    }
    reader.finish()?;
    Ok(transactions)
}

fn key(vault: VaultRef, tag: u8, height: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(25);
    key.extend_from_slice(&vault.to_bytes());
    key.push(tag);
    key.extend_from_slice(&height.to_be_bytes());
    key
}
