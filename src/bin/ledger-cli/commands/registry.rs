//! `namespace` and `vault`: what the directory holds.

use ledger_client::{Namespace, Vault};
use serde_json::{Value, json};

use crate::args::{Global, NamespaceCommand, VaultChoice, VaultCommand};
use crate::failure::Failure;
use crate::{output, session};

const NAMESPACE_COLUMNS: &[&str] = &["namespace", "name", "shard", "status", "nodes"];
const VAULT_COLUMNS: &[&str] = &["vault", "height", "status", "leader", "nodes", "state root"];

/// Makes, lists and shows namespaces.
pub(crate) async fn namespace(command: &NamespaceCommand, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    match command {
        NamespaceCommand::Create { name } => {
            let id = client.create_namespace(name).await?;
            let facts = [("namespace", id.to_string()), ("name", name.clone())];
            let json = json!({ "namespace": id.0, "name": name });
            output::facts(global.format(), &facts, &json);
        }
        NamespaceCommand::Delete { namespace } => {
            let id = session::namespace(&client, namespace).await?;
            let deleted_at_ns = client.delete_namespace(id).await?;
            show_deletion("namespace", &id.to_string(), deleted_at_ns, global);
        }
        NamespaceCommand::List { deleted } => {
            let all = match deleted {
                true => client.namespaces_with_deleted().await?,
                false => client.namespaces().await?,
            };
            let json: Vec<Value> = all.iter().map(namespace_json).collect();
            let rows = all.iter().map(namespace_row).collect();
            output::rows(global.format(), NAMESPACE_COLUMNS, rows, &Value::Array(json));
        }
        NamespaceCommand::Get { namespace } => {
            let id = session::namespace(&client, namespace).await?;
            let found = client.namespace(id).await?;
            let (row, json) = (namespace_row(&found), namespace_json(&found));
            output::rows(global.format(), NAMESPACE_COLUMNS, vec![row], &json);
        }
    }
    Ok(())
}

/// Makes, lists and shows vaults.
pub(crate) async fn vault(command: &VaultCommand, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    match command {
        VaultCommand::Create { namespace, count, retain } => {
            let namespace = session::namespace(&client, namespace).await?;
            for _ in 0..*count {
                let (vault, genesis) = match retain {
                    Some(blocks) => client.create_vault_retaining(namespace, *blocks).await?,
                    None => client.create_vault(namespace).await?,
                };
                let hash = genesis.block_hash();
                let json = json!({
                    "vault": vault.to_string(), "genesis": hash.to_string(), "shard": genesis.shard,
                });
                output::line(global.format(), &format!("{vault}\t{hash}"), &json);
            }
        }
        VaultCommand::CheckIntegrity(options) => super::cluster::check(options, global).await?,
        VaultCommand::Snapshot(options) => super::maintenance::snapshot(options, global).await?,
        VaultCommand::Delete { namespace, vault } => {
            let choice = VaultChoice { namespace: namespace.clone(), vault: *vault };
            let vault = session::vault(&client, &choice).await?;
            let deleted_at_ns = client.delete_vault(vault).await?;
            show_deletion("vault", &vault.to_string(), deleted_at_ns, global);
        }
        VaultCommand::List { namespace, deleted } => {
            let namespace = match namespace {
                Some(text) => Some(session::namespace(&client, text).await?),
                None => None,
            };
            let all = match deleted {
                true => client.vaults_with_deleted(namespace).await?,
                false => client.vaults(namespace).await?,
            };
            let json: Vec<Value> = all.iter().map(vault_json).collect();
            let rows = all.iter().map(vault_row).collect();
            output::rows(global.format(), VAULT_COLUMNS, rows, &Value::Array(json));
        }
        VaultCommand::Get(choice) => {
            let vault = session::vault(&client, choice).await?;
            let found = client.vault(vault).await?;
            let (row, json) = (vault_row(&found), vault_json(&found));
            output::rows(global.format(), VAULT_COLUMNS, vec![row], &json);
        }
    }
    Ok(())
}

/// Shows what is deleted and since when.
fn show_deletion(kind: &str, name: &str, deleted_at_ns: u64, global: &Global) {
    let seconds = deleted_at_ns / 1_000_000_000;
    let facts = [(kind, name.to_owned()), ("deleted at", format!("{seconds} s since 1970"))];
    let json = json!({ kind: name, "deleted_at_ns": deleted_at_ns });
    output::facts(global.format(), &facts, &json);
}

/// A status without the prefix that makes it unique on the wire.
fn status_name(wire: &str, prefix: &str) -> String {
    wire.strip_prefix(prefix).unwrap_or(wire).to_lowercase()
}

fn namespace_status(namespace: &Namespace) -> String {
    status_name(namespace.status.as_str_name(), "NAMESPACE_STATUS_")
}

fn vault_status(vault: &Vault) -> String {
    status_name(vault.status.as_str_name(), "VAULT_STATUS_")
}

fn namespace_row(namespace: &Namespace) -> Vec<String> {
    vec![
        namespace.id.to_string(),
        namespace.name.clone(),
        namespace.shard.to_string(),
        namespace_status(namespace),
        namespace.nodes.join(","),
    ]
}

fn namespace_json(namespace: &Namespace) -> Value {
    json!({
        "namespace": namespace.id.0,
        "name": namespace.name,
        "shard": namespace.shard.0,
        "status": namespace_status(namespace),
        "nodes": namespace.nodes,
    })
}

fn vault_row(vault: &Vault) -> Vec<String> {
    vec![
        vault.vault.to_string(),
        vault.height.to_string(),
        vault_status(vault),
        vault.leader.clone(),
        vault.nodes.join(","),
        vault.state_root.to_string(),
    ]
}

fn vault_json(vault: &Vault) -> Value {
    json!({
        "vault": vault.vault.to_string(),
        "namespace_id": vault.vault.namespace.0,
        "vault_id": vault.vault.vault.0,
        "height": vault.height,
        "status": vault_status(vault),
        "leader": vault.leader,
        "nodes": vault.nodes,
        "state_root": vault.state_root.to_string(),
    })
}
