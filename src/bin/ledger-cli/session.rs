//! From arguments to a connected client and to the vault that a command is about.

use std::path::PathBuf;

use ledger_client::{Client, ClientConfig, TrustSource};
use ledger_types::{NamespaceId, VaultId, VaultRef};

use crate::args::{Global, VaultChoice};
use crate::failure::Failure;

/// Settings of a client as the arguments say.
pub(crate) fn config(global: &Global) -> ClientConfig {
    let mut config = ClientConfig::new(global.addresses.clone());
    config.trust = match (&global.trust, global.trust_on_first_use) {
        (Some(file), _) => TrustSource::File(file.clone()),
        (None, true) => TrustSource::FirstUse,
        (None, false) => TrustSource::Pinned,
    };
    config.state_dir = global.state_dir.clone().or_else(default_state_dir);
    if config.state_dir.is_none() && global.trust.is_some() {
        eprintln!(
            "ledger-cli: nothing is remembered, so a history that is taken back is not noticed: give --state-dir"
        );
        config.forgets_checkpoints = true;
    }
    config.deadline = global.deadline;
    if let Some(client_id) = &global.client_id {
        config.client_id.clone_from(client_id);
    }
    config
}

/// Connects as the arguments say.
pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
    Ok(Client::connect(config(global)).await?)
}

/// Where checkpoints are kept without a setting: the user's state directory, if there is one.
fn default_state_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_STATE_HOME");
    let base = base.or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("ledger"))
}

/// The namespace named: a number is an id, anything else a name, which the cluster is asked for.
pub(crate) async fn namespace(client: &Client, text: &str) -> Result<NamespaceId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(NamespaceId(id));
    }
    Ok(client.namespace_by_name(text).await?.id)
}

/// The vault chosen.
pub(crate) async fn vault(client: &Client, choice: &VaultChoice) -> Result<VaultRef, Failure> {
    let namespace = namespace(client, &choice.namespace).await?;
    Ok(VaultRef { namespace, vault: VaultId(choice.vault) })
}
