//! `vault snapshot`: what operators have done to vaults.

use serde_json::json;

use crate::args::{Global, VaultSnapshotOptions};
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
