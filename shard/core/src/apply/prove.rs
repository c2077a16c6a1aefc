//! Proofs of a vault's tip: header, its place in the block log, and what the state tree holds for keys.
//!
//! Owns how a proof is put together from memory and rows. Must never run while a round is half-way.

use ledger_proof::header::HEADER_LEN;
use ledger_proof::{KeyProof, block_log};
use ledger_types::{Digest, StateKey, VaultRef};

use super::Applier;
use super::vault_state::{StoredLog, StoredState, VaultState, stored_header_bytes};
use crate::query::QueryError;
use crate::rows::{latest_key, split_latest};
use crate::view::{Family, StateView};
use ledger_proof::ReadFault;

/// Everything about a vault's tip that an answer can prove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TipProof {
    /// Height of the last block.
    pub height: u64,
    /// Its canonical header.
    pub header: [u8; HEADER_LEN],
    /// Blocks in the block log, `height + 1`.
    pub log_size: u64,
    /// Root of the block log.
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

/// What the tip's state holds for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvedKey {
    /// The proof of presence or absence.
    pub proof: KeyProof,
    /// The value, if the key is present; an expired entity is present here.
    pub value: Option<Vec<u8>>,
}

impl Applier {
    /// Proves a vault's tip and what it holds for `keys`. `view` is the store with every round written.
    /// Errors if there is no such vault, or if `known_size` is beyond the tip.
    pub fn prove(
        &mut self,
        vault: VaultRef,
        keys: &[StateKey],
        known_size: Option<u64>,
        view: &dyn StateView,
    ) -> Result<TipProof, QueryError> {
        assert!(!self.is_ahead, "proofs are made between rounds");
        let mut state = match self.cache.take(vault) {
            Some(state) => state,
            None => VaultState::load(vault, view)?.ok_or(QueryError::UnknownVault)?,
        };
        let proof = prove_tip(&mut state, vault, keys, known_size, view);
        if !matches!(proof, Err(QueryError::Fault(_))) {
            self.cache.put(vault, state);
            self.cache.trim();
        }
        proof
    }
}

fn prove_tip(
    state: &mut VaultState,
    vault: VaultRef,
    keys: &[StateKey],
    known_size: Option<u64>,
    view: &dyn StateView,
) -> Result<TipProof, QueryError> {
    let row = &state.row;
    let known_size = known_size.unwrap_or(0);
    if known_size > row.log_size {
        let (floor, tip) = (row.history_floor, row.height);
        return Err(QueryError::HeightUnavailable { floor, tip });
    }
    let log = StoredLog { view, vault };
    let header = stored_header_bytes(view, vault, row.height)?;
    let inclusion = block_log::inclusion_path(row.height, row.log_size, &log)?;
    let consistency = block_log::consistency_path(known_size, row.log_size, &log)?;
    let store = StoredState { view, vault };
    let row_keys: Vec<_> = keys.iter().map(|key| latest_key(vault, key.as_bytes())).collect();
    let rows = view.multi_get(Family::Latest, &row_keys)?;
    let mut proved = Vec::with_capacity(keys.len());
    for (key, row) in keys.iter().zip(rows) {
        let proof = state.tree.prove(key.as_bytes(), &store)?;
        if row.is_some() != (proof.leaf_key == key.as_bytes()) {
            let what = "a latest row and the state tree disagree about presence";
            return Err(ReadFault::Corrupt { what }.into());
        }
        let value = row.map(|row| split_latest(&row).map(|(_, value)| value.to_vec()));
        let what = "a latest row does not begin with a record";
        let value = value.map(|value| value.ok_or(ReadFault::Corrupt { what })).transpose()?;
        proved.push(ProvedKey { proof, value });
    }
    Ok(TipProof {
        height: state.row.height,
        header,
        log_size: state.row.log_size,
        log_root: state.row.log_root,
        log_epoch: state.row.log_epoch,
        inclusion,
        consistency,
        keys: proved,
    })
}
