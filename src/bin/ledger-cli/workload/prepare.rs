//! What must be there before a workload is measured: vaults, and for reads something to read.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use ledger_client::{Client, Reason};
use ledger_types::{NamespaceId, Operation, VaultRef};

use super::request::{Numbers, entity_key, value};
use crate::args::WorkloadOptions;
use crate::failure::Failure;

/// Entities written in one transaction while filling.
const FILL_BATCH: u64 = 500;
/// Bytes of values in such a transaction, at most.
const FILL_BATCH_BYTES: u64 = 4 * 1024 * 1024;

/// The vaults to use; missing ones are made.
pub(crate) async fn vaults(
    client: &Client,
    options: &WorkloadOptions,
) -> Result<Vec<VaultRef>, Failure> {
    if !options.vaults.is_empty() {
        return Ok(options.vaults.clone());
    }
    let namespace = namespace(client, &options.namespace).await?;
    let found = client.vaults(Some(namespace)).await?;
    let mut vaults: Vec<VaultRef> = found.into_iter().map(|vault| vault.vault).collect();
    vaults.retain(|vault| vault.vault.0 != 0);
    while vaults.len() < options.vault_count {
        vaults.push(client.create_vault(namespace).await?.0);
    }
    vaults.truncate(options.vault_count);
    Ok(vaults)
}

async fn namespace(client: &Client, text: &str) -> Result<NamespaceId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(NamespaceId(id));
    }
    match client.namespace_by_name(text).await {
        Ok(found) => Ok(found.id),
        Err(error) if error.reason() == Some(&Reason::NamespaceNotFound) => {
            Ok(client.create_namespace(text).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes every key that reads may ask for. Vaults are filled side by side.
pub(crate) async fn fill(
    client: &Client,
    options: &WorkloadOptions,
    vaults: &[VaultRef],
) -> Result<(), Failure> {
    let total = options.keys.saturating_mul(u64::try_from(vaults.len()).expect("vaults are few"));
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("filling {wide_bar} {pos}/{len} keys {eta}");
    bar.set_style(style.expect("the template is well formed"));
    let bar = Arc::new(bar);
    let mut tasks = tokio::task::JoinSet::new();
    for &vault in vaults {
        tasks.spawn(fill_vault(client.clone(), vault, options.clone(), bar.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(|error| Failure::failed(format!("filling ended: {error}")))?;
        ended?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn fill_vault(
    client: Client,
    vault: VaultRef,
    options: WorkloadOptions,
    bar: Arc<ProgressBar>,
) -> Result<(), Failure> {
    let mut numbers = Numbers::new(vault.vault.0);
    let value_bytes = u64::try_from(options.value_bytes).expect("values are bounded").max(1);
    let batch = FILL_BATCH.min(FILL_BATCH_BYTES / value_bytes).max(1);
    let mut from = 0;
    while from < options.keys {
        let to = (from + batch).min(options.keys);
        let operations = (from..to).map(|number| Operation::SetEntity {
            key: entity_key(number),
            value: value(options.value_bytes, &mut numbers),
            expires_at: 0,
            condition: None,
        });
        client.write(vault, operations.collect()).await?;
        bar.inc(to - from);
        from = to;
    }
    Ok(())
}
