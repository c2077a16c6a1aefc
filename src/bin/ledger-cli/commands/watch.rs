//! `watch`: one line per block.

use serde_json::json;

use crate::args::{Global, WatchOptions};
use crate::failure::Failure;
use crate::{output, session};

/// Watches until the count is reached or the user leaves.
pub(crate) async fn run(options: &WatchOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
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
