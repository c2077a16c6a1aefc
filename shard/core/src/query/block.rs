//! Reads of blocks and of the block log.
//!
//! Owns putting a stored block together. Must never verify it: whoever asked does that.

use ledger_proof::header::HEADER_LEN;
use ledger_proof::{BlockHeader, Frontier, Tile, TileError, Transaction, block_log};
use ledger_types::{Digest, VaultRef};

use super::{QueryError, vault_row};
use crate::apply::vault_state::{StoredLog, stored_body, stored_header_bytes};
use crate::rows::{VaultRow, decode_body};
use crate::view::StateView;
use ledger_proof::ReadFault;

/// A block with its transactions, decoded and in canonical bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBlock {
    /// The header.
    pub header: BlockHeader,
    /// Its canonical bytes.
    pub header_bytes: [u8; HEADER_LEN],
    /// The transactions with their canonical bytes, in order.
    pub transactions: Vec<(Transaction, Vec<u8>)>,
}

/// A block's header and its canonical bytes. Errors if the height is beyond the tip.
pub fn block_header(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<(BlockHeader, [u8; HEADER_LEN]), QueryError> {
    let row = vault_row(view, vault)?;
    check(&row, height, 0)?;
    header(view, vault, height)
}

/// A block with its transactions. Errors if the height is beyond the tip or its body is not kept.
pub fn block(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<StoredBlock, QueryError> {
    let row = vault_row(view, vault)?;
    check(&row, height, row.retention_floor)?;
    let (header, header_bytes) = header(view, vault, height)?;
    let mut transactions = Vec::new();
    if height > 0 {
        let corrupt = |_| ReadFault::Corrupt { what: "a block body is malformed" };
        let body = stored_body(view, vault, height)?;
        for bytes in decode_body(&body).map_err(corrupt)? {
            let transaction = Transaction::decode(bytes).map_err(corrupt)?;
            transactions.push((transaction, bytes.to_vec()));
        }
    }
    Ok(StoredBlock { header, header_bytes, transactions })
}

/// The inclusion path of block `height` in the block log of `size` blocks.
pub fn inclusion(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
    size: u64,
) -> Result<Vec<Digest>, QueryError> {
    let row = vault_row(view, vault)?;
    check(&row, height, 0)?;
    check_size(&row, height + 1, size)?;
    Ok(block_log::inclusion_path(height, size, &StoredLog { view, vault })?)
}

/// The root of the block log when it had `size` blocks; at least one, at most as many as there are.
pub fn log_root(view: &dyn StateView, vault: VaultRef, size: u64) -> Result<Digest, QueryError> {
    let row = vault_row(view, vault)?;
    check_size(&row, 1, size)?;
    if size == row.log_size {
        return Ok(row.log_root);
    }
    Ok(Frontier::load(size, &StoredLog { view, vault })?.root())
}

/// The consistency path between two sizes of the block log.
pub fn consistency(
    view: &dyn StateView,
    vault: VaultRef,
    old_size: u64,
    new_size: u64,
) -> Result<Vec<Digest>, QueryError> {
    let row = vault_row(view, vault)?;
    check_size(&row, old_size, new_size)?;
    Ok(block_log::consistency_path(old_size, new_size, &StoredLog { view, vault })?)
}

/// The hashes of a tile of the block log, 32 bytes each. Errors if the log has not all of them.
pub fn log_hashes(
    view: &dyn StateView,
    vault: VaultRef,
    tile: &Tile,
) -> Result<Vec<u8>, QueryError> {
    let row = vault_row(view, vault)?;
    let hashes = tile.hashes(row.log_size, &StoredLog { view, vault });
    hashes.map_err(|error| tile_error(error, &row))
}

/// The canonical headers whose hashes are in a tile of level 0, as a bundle of log entries. Errors if the log
/// has not all of them.
pub fn log_entries(
    view: &dyn StateView,
    vault: VaultRef,
    tile: &Tile,
) -> Result<Vec<u8>, QueryError> {
    let row = vault_row(view, vault)?;
    let header = |height| stored_header_bytes(view, vault, height);
    tile.entries(row.log_size, header).map_err(|error| tile_error(error, &row))
}

fn tile_error(error: TileError, row: &VaultRow) -> QueryError {
    match error {
        TileError::BeyondLog { .. } => QueryError::HeightUnavailable { floor: 0, tip: row.height },
        TileError::Fault(fault) => QueryError::Fault(fault),
    }
}

fn check(row: &VaultRow, height: u64, floor: u64) -> Result<(), QueryError> {
    let tip = row.height;
    if (floor..=tip).contains(&height) {
        Ok(())
    } else {
        Err(QueryError::HeightUnavailable { floor, tip })
    }
}

fn check_size(row: &VaultRow, size_min: u64, size: u64) -> Result<(), QueryError> {
    if (size_min..=row.log_size).contains(&size) {
        Ok(())
    } else {
        Err(QueryError::HeightUnavailable { floor: 0, tip: row.height })
    }
}

fn header(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<(BlockHeader, [u8; HEADER_LEN]), QueryError> {
    let corrupt = |_| ReadFault::Corrupt { what: "a block header is malformed" };
    let bytes = stored_header_bytes(view, vault, height)?;
    Ok((BlockHeader::decode(&bytes).map_err(corrupt)?, bytes))
}
