//! Reads of a vault: entities, relationships, lists, blocks, at the tip or at an earlier height.
//!
//! Owns which version of a key a reader sees. Pure over a consistent view of the rows; must never decide how
//! fresh that view has to be, nor read a clock: the caller brings the time that decides what has expired.

mod block;
mod expiry;
mod list;
mod past;
mod past_trees;
mod resources;
mod state_proof;
mod version;

use ledger_proof::ReadFault;
use ledger_types::{StateKey, VaultRef};
use thiserror::Error;

use crate::apply::vault_state::{stored_header, stored_vault_row};
use crate::rows::{
    ClientRow, VaultRow, VaultStatus, session_client_key, split_vault_row_key, vault_rows_range,
};
use crate::view::{Family, StateView};

pub use block::{
    StoredBlock, block, block_header, consistency, inclusion, log_entries, log_hashes, log_root,
};
pub use expiry::{Expiry, ExpiryStep, StepLimits, expiry, expiry_step};
pub use list::{EntityQuery, Page, PageLimits, RelationshipQuery, entities, relationships};
pub use past::PastTree;
pub use past_trees::PastTrees;
pub use resources::{ResourceQuery, resources};
pub(crate) use state_proof::StateAt;
pub use state_proof::{ListRequest, LogSizes, ProvedKey, ProvedList, StateProof};

/// Why a read has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum QueryError {
    /// There is no such vault here.
    #[error("the vault is unknown")]
    UnknownVault,
    /// The height is below what is kept or beyond the tip.
    #[error("the height is not available; heights {floor} to {tip} are")]
    HeightUnavailable {
        /// The lowest height that can be read.
        floor: u64,
        /// The height of the last block.
        tip: u64,
    },
    /// The state tree of the height is too far from every stored one.
    #[error(
        "more than {keys_max} keys changed between height {height} and the nearest stored tree"
    )]
    TooManyChanges {
        /// The height.
        height: u64,
        /// The most changed keys that are gone through for one height.
        keys_max: usize,
    },
    /// Stored state could not be read. Fatal to the replica.
    #[error(transparent)]
    Fault(#[from] ReadFault),
}

/// An entity as a reader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entity {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Height of the block that last changed it.
    pub version: u64,
    /// Height of the block in which it last became present.
    pub created_height: u64,
    /// Unix seconds after which it counts as absent; 0 = never.
    pub expires_at: u64,
}

/// A relationship.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Relationship {
    /// What access is given to.
    pub resource: String,
    /// How.
    pub relation: String,
    /// To whom.
    pub subject: String,
    /// Height of the block that created it.
    pub created_height: u64,
}

/// The row of a vault that has one here, also of one that is purged, of which nothing else is left.
pub fn stored_row(view: &dyn StateView, vault: VaultRef) -> Result<VaultRow, QueryError> {
    stored_vault_row(view, vault)?.ok_or(QueryError::UnknownVault)
}

/// The row of a vault that can be read here. A deleted vault keeps its rows and can be read like any other until it is
/// purged: who serves clients looks at the row's status first.
pub fn vault_row(view: &dyn StateView, vault: VaultRef) -> Result<VaultRow, QueryError> {
    let row = stored_row(view, vault)?;
    if row.status == VaultStatus::Purged { Err(QueryError::UnknownVault) } else { Ok(row) }
}

/// Visits the row of every vault that has one here, in order, purged ones too.
pub fn each_vault(
    view: &dyn StateView,
    visit: &mut dyn FnMut(VaultRef, &VaultRow),
) -> Result<(), QueryError> {
    let ((from, to), mut malformed) = (vault_rows_range(), false);
    view.scan(Family::Vaults, &from, &to, &mut |key, value| {
        match (split_vault_row_key(key), VaultRow::decode(value)) {
            (Some(vault), Ok(row)) => visit(vault, &row),
            _ => malformed = true,
        }
        !malformed
    })?;
    let corrupt = ReadFault::Corrupt { what: "a vault row is malformed" };
    if malformed { Err(corrupt.into()) } else { Ok(()) }
}

/// The height to read at: the one asked for, if it is kept, else the tip.
pub fn read_height(row: &VaultRow, at_height: Option<u64>) -> Result<u64, QueryError> {
    let (floor, tip) = (row.history_floor, row.height);
    match at_height {
        None => Ok(tip),
        Some(height) if (floor..=tip).contains(&height) => Ok(height),
        Some(_) => Err(QueryError::HeightUnavailable { floor, tip }),
    }
}

/// The Unix second at which expiry is judged: at the tip the later of the block's and the caller's clock, at
/// an earlier height that of the block. A list fixes it with its first page.
pub fn read_time_s(
    view: &dyn StateView,
    vault: VaultRef,
    at_height: Option<u64>,
    clock_ns: u64,
) -> Result<u64, QueryError> {
    let row = vault_row(view, vault)?;
    let time_ns = match at_height {
        Some(_) => stored_header(view, vault, read_height(&row, at_height)?)?.timestamp_ns,
        None => row.block_time_ns.max(clock_ns),
    };
    Ok(time_ns / 1_000_000_000)
}

/// One entity and the height it was read at; expired at `time_s` counts as absent.
pub fn entity(
    view: &dyn StateView,
    vault: VaultRef,
    key: &str,
    at_height: Option<u64>,
    time_s: u64,
) -> Result<(u64, Option<Entity>), QueryError> {
    let row = vault_row(view, vault)?;
    let height = read_height(&row, at_height)?;
    let state_key = StateKey::entity(key);
    let mut values = version::Values::new(view, vault);
    let found = version::find(view, vault, &state_key, height)?;
    let found = found.filter(|version| !version.record.is_expired(time_s));
    let entity = found.map(|version| values.entity(state_key.as_bytes(), version)).transpose()?;
    Ok((height, entity))
}

/// Several entities at the tip, in the order of the keys, and the tip's height; expired at `time_s` counts as
/// absent.
pub fn tip_entities(
    view: &dyn StateView,
    vault: VaultRef,
    keys: &[String],
    time_s: u64,
) -> Result<(u64, Vec<Option<Entity>>), QueryError> {
    let row = vault_row(view, vault)?;
    let state_keys: Vec<StateKey> = keys.iter().map(|key| StateKey::entity(key)).collect();
    let found = version::find_latest(view, vault, &state_keys)?;
    let mut values = version::Values::new(view, vault);
    let mut entities = Vec::with_capacity(keys.len());
    for (key, found) in state_keys.iter().zip(found) {
        let found = found.filter(|version| !version.record.is_expired(time_s));
        entities.push(found.map(|found| values.entity(key.as_bytes(), found)).transpose()?);
    }
    Ok((row.height, entities))
}

/// The last sequence that a client committed on a vault; 0 for none.
pub fn client_sequence(
    view: &dyn StateView,
    vault: VaultRef,
    client: &str,
) -> Result<u64, QueryError> {
    vault_row(view, vault)?;
    let corrupt = |_| ReadFault::Corrupt { what: "a session row is malformed" };
    let value = view.get(Family::Sessions, &session_client_key(vault, client))?;
    let row = value.map(|value| ClientRow::decode(&value).map_err(corrupt)).transpose()?;
    Ok(row.map_or(0, |row| row.last_sequence))
}

#[cfg(test)]
mod tests;
