//! Which state keys a block changed, as its body tells.
//!
//! Owns reading keys out of bodies, for trees that go from one height to another and for rows of history that
//! are no longer kept. Must never tell fewer keys than changed; it may tell more.

use std::collections::{BTreeMap, BTreeSet};

use ledger_proof::ReadFault;
use ledger_proof::transaction::AppliedOperation;
use ledger_types::{Operation, Outcome, StateKey};

use super::vault_state::stored_transactions;

/// Adds the keys that the block with this body changed, and some that it only tried to change.
pub(crate) fn add_changed_keys(
    body: &[u8],
    keys: &mut BTreeSet<StateKey>,
) -> Result<(), ReadFault> {
    for transaction in stored_transactions(body)? {
        for applied in &transaction.operations {
            keys.extend(state_keys(applied));
        }
    }
    Ok(())
}

/// Where the block's rows of history can be: a key that it changed and the last transaction that did. All that
/// it has are told. Told without being there are keys that were absent before the block and, for deletions that
/// found nothing but may have removed an expired entity, other transactions of the block.
pub(crate) fn superseded_by(body: &[u8]) -> Result<Vec<(StateKey, u32)>, ReadFault> {
    let mut places: BTreeMap<StateKey, Vec<u32>> = BTreeMap::new();
    for (tx, transaction) in (0..).zip(stored_transactions(body)?) {
        for applied in &transaction.operations {
            let effect = effect(applied);
            if effect == Effect::None {
                continue;
            }
            for key in state_keys(applied) {
                let places = places.entry(key).or_default();
                if effect == Effect::Change {
                    places.clear();
                }
                if places.last() != Some(&tx) {
                    places.push(tx);
                }
            }
        }
    }
    let pairs =
        places.into_iter().flat_map(|(key, all)| all.into_iter().map(move |tx| (key.clone(), tx)));
    Ok(pairs.collect())
}

/// What an operation did to its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    None,
    /// It removed a row that had expired, or found none.
    Unknown,
    Change,
}

fn effect(applied: &AppliedOperation) -> Effect {
    let AppliedOperation::State { operation, outcome } = applied else { return Effect::Change };
    match (operation, outcome) {
        (Operation::DeleteEntity { .. }, Outcome::NotFound) => Effect::Unknown,
        (_, Outcome::NotFound | Outcome::AlreadyExists) => Effect::None,
        _ => Effect::Change,
    }
}

fn state_keys(applied: &AppliedOperation) -> impl Iterator<Item = StateKey> + use<> {
    let AppliedOperation::State { operation, .. } = applied else {
        return [Some(StateKey::descriptor()), None].into_iter().flatten();
    };
    let keys = match operation {
        Operation::SetEntity { key, .. }
        | Operation::DeleteEntity { key }
        | Operation::ExpireEntity { key, .. } => [Some(StateKey::entity(key)), None],
        Operation::CreateRelationship { resource, relation, subject }
        | Operation::DeleteRelationship { resource, relation, subject } => [
            Some(StateKey::by_resource(resource, relation, subject)),
            Some(StateKey::by_subject(resource, relation, subject)),
        ],
    };
    keys.into_iter().flatten()
}
