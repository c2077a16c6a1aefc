//! `vault snapshot` and `remove-expired`: what operators have done to vaults.

use ledger_client::{RemoveIn, Removed};
use ledger_types::{VaultId, VaultRef};
use serde_json::json;

use crate::args::{Global, RemoveExpiredOptions, VaultSnapshotOptions};
use crate::failure::Failure;
use crate::{output, session};

/// Has a node write a vault to a file, and tells where.
pub(crate) async fn snapshot(
    options: &VaultSnapshotOptions,
    global: &Global,
) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let made = match &options.node {
        Some(address) => client.create_snapshot_at(address, vault).await?,
        None => client.create_snapshot(vault).await?,
    };
    let (height, root) = (made.height.to_string(), made.state_root.to_string());
    let json = json!({
        "vault": vault.to_string(),
        "height": made.height,
        "state_root": root,
        "node": made.node,
        "path": made.path,
    });
    let facts = [
        ("vault", vault.to_string()),
        ("height", height),
        ("state root", root),
        ("node", made.node),
        ("path", made.path),
    ];
    output::facts(global.format(), &facts, &json);
    Ok(())
}

/// Has everything removed that has expired, in as many calls as that takes. Fails if one of them removes nothing and
/// is not done either.
pub(crate) async fn remove_expired(
    options: &RemoveExpiredOptions,
    global: &Global,
) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let place = match &options.namespace {
        None => RemoveIn::Everything,
        Some(text) => {
            let namespace = session::namespace(&client, text).await?;
            match options.vault {
                None => RemoveIn::Namespace(namespace),
                Some(number) => RemoveIn::Vault(VaultRef { namespace, vault: VaultId(number) }),
            }
        }
    };
    let mut entities = 0;
    let vaults = loop {
        let Removed { is_complete, entities: removed, vaults, message } =
            client.remove_expired(place).await?;
        entities += removed;
        if is_complete {
            break vaults;
        }
        eprintln!("{message}");
        if removed == 0 {
            return Err(Failure::failed(format!("{entities} expired entities removed, not all")));
        }
    };
    let json = json!({ "entities": entities, "vaults": vaults });
    let facts =
        [("expired entities removed", entities.to_string()), ("vaults", vaults.to_string())];
    output::facts(global.format(), &facts, &json);
    Ok(())
}
