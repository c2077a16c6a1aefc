//! Proofs of a vault's tip: header, its place in the block log, and what the state tree holds for keys and lists.
//!
//! Owns how the trees in memory are used for them. Must never run while a round is half-way.

use ledger_types::{StateKey, VaultRef};

use super::Applier;
use super::vault_state::VaultState;
use crate::query::{ListRequest, LogSizes, ProvedList, QueryError, StateAt, StateProof};
use crate::rows::VaultStatus;
use crate::view::StateView;

/// The proof of a vault's tip: of the last block, in the whole block log.
pub type TipProof = StateProof;

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
        self.on_tip(vault, view, |state| {
            let VaultState { row, tree, .. } = state;
            let at = StateAt { view, vault, row, height: row.height };
            let proof = at.in_log(LogSizes { log_size: None, known_size })?;
            Ok(StateProof { keys: at.prove_keys(tree, keys)?, ..proof })
        })
    }

    /// Proves a list of the tip's state, or the page after one that was proved at the same tip, with its values.
    /// `None` if the key that the caller kept is not there. Errors as [`Applier::prove`] does.
    pub fn prove_list(
        &mut self,
        vault: VaultRef,
        request: &ListRequest<'_>,
        known_size: Option<u64>,
        view: &dyn StateView,
    ) -> Result<Option<ProvedList>, QueryError> {
        self.on_tip(vault, view, |state| {
            let VaultState { row, tree, .. } = state;
            let at = StateAt { view, vault, row, height: row.height };
            let proof = at.in_log(LogSizes { log_size: None, known_size })?;
            let proved = at.prove_list(tree, request)?;
            Ok(proved.map(|(list, values)| ProvedList { state: proof, list, values }))
        })
    }

    fn on_tip<T>(
        &mut self,
        vault: VaultRef,
        view: &dyn StateView,
        work: impl FnOnce(&mut VaultState) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        assert!(!self.is_ahead, "proofs are made between rounds");
        let mut state = match self.cache.take(vault) {
            Some(state) => state,
            None => VaultState::load(vault, view)?.ok_or(QueryError::UnknownVault)?,
        };
        let done = match state.row.status {
            VaultStatus::Purged => Err(QueryError::UnknownVault),
            _ => work(&mut state),
        };
        if !matches!(done, Err(QueryError::Fault(_))) {
            self.cache.put(vault, state);
            self.cache.trim();
        }
        done
    }
}
