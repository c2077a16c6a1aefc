//! Vaults for whoever needs some: the demonstration and the tests.
//!
//! Owns what is done about an outcome that nobody knows. Must never give a vault to two callers.

use ledger_client::{Client, ClientError};
use ledger_proof::BlockHeader;
use ledger_types::{NamespaceId, VaultRef};

/// Attempts for one vault.
const ATTEMPTS_MAX: usize = 20;

/// Makes a vault of its own for the caller. After an unknown outcome it makes another one, so the namespace may end up
/// with a vault that nobody uses. Errors: the last attempt's.
pub async fn make_vault(
    client: &Client,
    namespace: NamespaceId,
) -> Result<(VaultRef, BlockHeader), ClientError> {
    for _ in 1..ATTEMPTS_MAX {
        match client.create_vault(namespace).await {
            Err(error) if error.outcome_unknown() => {}
            made => return made,
        }
    }
    client.create_vault(namespace).await
}
