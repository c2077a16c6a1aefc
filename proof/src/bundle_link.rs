//! Following the chain of trust bundles: each is an entity of `_system`, proved under the one
//! before.

use ledger_types::{StateKey, VaultRef};

use crate::block_proof::{ReadAt, Trust, VerifyError};
use crate::checkpoint::Origin;
use crate::system_entity::bundle_key;
use crate::trust::{TimeRule, TrustBundle};
use crate::verified_read::{ReadRequest, VerifiedRead, VerifiedValue};

/// Whether the client agrees to a bundle that asks for fewer signatures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lowering {
    /// Such a bundle is refused.
    Refused,
    /// The client has consented.
    Accepted,
}

/// Checks that `link` proves the bundle after `bundle`, and returns it. Times of the note and the
/// expiry of the old bundle are not checked: only the last bundle of the chain has to be current.
pub fn follow_link(
    bundle: &TrustBundle,
    link: &VerifiedRead,
    lowering: Lowering,
) -> Result<TrustBundle, VerifyError> {
    let expected = bundle.sequence.saturating_add(1);
    let not_next = VerifyError::NotTheNextBundle { expected };
    let origin = Origin {
        domain: bundle.domain.clone(),
        vault: VaultRef::SYSTEM,
        log_epoch: bundle.system_log_epoch,
    };
    let key = StateKey::entity(&bundle_key(expected));
    let at = ReadAt::Latest { min_height: 0 };
    let request = ReadRequest { origin: &origin, at, keys: std::slice::from_ref(&key) };
    let voters = [bundle.system_voters()];
    let trust = Trust { bundle, voters: &voters, times: TimeRule::Any, memory: None };
    let mut answer = link.verify(&request, &trust, None)?;
    let Some(VerifiedValue::Present { value, .. }) = answer.values.pop() else {
        return Err(not_next);
    };
    let next = TrustBundle::decode(&value)?;
    if next.sequence != expected || next.domain != bundle.domain {
        return Err(not_next);
    }
    if bundle.is_lowered_by(&next) && lowering == Lowering::Refused {
        return Err(VerifyError::LoweredRule { sequence: next.sequence });
    }
    Ok(next)
}
