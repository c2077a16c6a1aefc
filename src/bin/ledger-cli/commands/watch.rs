//! `watch`: one line per block, or per changed key.

use ledger_client::{ChangeNotice, ChangeOptions, Client};
use ledger_proto::v1;
use ledger_proto::v1::change::Key;
use ledger_proto::v1::change_filter::Of;
use ledger_types::VaultRef;
use serde_json::json;

use crate::args::{Global, WatchOptions};
use crate::failure::Failure;
use crate::{output, session};

/// Watches until the count is reached or the user leaves.
pub(crate) async fn run(options: &WatchOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    match options.changes {
        true => changes(&client, vault, options, global).await,
        false => blocks(&client, vault, options, global).await,
    }
}

async fn blocks(
    client: &Client,
    vault: VaultRef,
    options: &WatchOptions,
    global: &Global,
) -> Result<(), Failure> {
    let from = match options.from {
        Some(height) => height,
        None => client.tip(vault).await?.height + 1,
    };
    let mut watch = client.watch_blocks(vault, from);
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let block = watch.next().await?;
        let text = format!("{}\t{}\t{}", block.height, block.block_hash, block.state_root);
        let json = json!({
            "vault": vault.to_string(),
            "height": block.height,
            "block_hash": block.block_hash.to_string(),
            "state_root": block.state_root.to_string(),
            "timestamp_ns": block.timestamp_ns,
        });
        output::line(global.format(), &text, &json);
        left -= 1;
    }
    Ok(())
}

async fn changes(
    client: &Client,
    vault: VaultRef,
    options: &WatchOptions,
    global: &Global,
) -> Result<(), Failure> {
    let filter = |of| v1::ChangeFilter { of: Some(of), relation: None };
    let filters = [
        options.prefix.clone().map(Of::EntityPrefix),
        options.resource.clone().map(Of::Resource),
        options.subject.clone().map(Of::Subject),
    ];
    let filters = filters.into_iter().flatten().map(filter).collect();
    let start_height = options.from;
    let wanted = ChangeOptions { start_height, filters, ..ChangeOptions::default() };
    let mut watch = client.watch_changes(vault, wanted);
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let ChangeNotice::Block { height, changes, .. } = watch.next().await? else { continue };
        for change in changes {
            let kind =
                change.kind().as_str_name().trim_start_matches("CHANGE_KIND_").to_lowercase();
            let key = match change.key {
                Some(Key::Entity(key)) => key,
                Some(Key::Relationship(one)) => {
                    format!("{}#{}@{}", one.resource, one.relation, one.subject)
                }
                None => continue,
            };
            let json = json!({
                "vault": vault.to_string(),
                "height": height,
                "kind": kind,
                "key": key,
                "expires_at": change.expires_at,
            });
            output::line(global.format(), &format!("{height}\t{kind}\t{key}"), &json);
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}
