//! `checkpoint`: that a log only grew, and what it has come to.

use serde_json::json;

use crate::args::{CheckpointOptions, Global};
use crate::commands::get::{age, needed};
use crate::failure::Failure;
use crate::{output, session};

/// Asks for a checkpoint, checks that it contains the one that is remembered, and remembers it.
pub(crate) async fn run(options: &CheckpointOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let checked = client.extend_checkpoint(vault).await?;
    let checkpoint = &checked.checkpoint;
    if let Some(path) = &options.save_note {
        std::fs::write(path, &checkpoint.note).map_err(|error| Failure::file(path, &error))?;
    }
    let bundle = client.trust_bundle().await?;
    let rule = needed(&bundle);
    let json = json!({
        "origin": checkpoint.origin.to_string(),
        "size": checkpoint.size,
        "root": checkpoint.root.to_string(),
        "extends": checked.extended_from,
        "signers": checked.signers,
        "signed_at": checked.signed_at,
        "verified": true,
    });
    let extends = match checked.extended_from {
        Some(size) => format!("the {size} blocks known before"),
        None => "nothing: this is the first one known".to_owned(),
    };
    let verified =
        format!("{} voters signed ({rule}), {}", checked.signers, age(checked.signed_at));
    let facts = [
        ("origin", checkpoint.origin.to_string()),
        ("blocks", checkpoint.size.to_string()),
        ("root", checkpoint.root.to_string()),
        ("extends", extends),
        ("verified", verified),
    ];
    output::facts(global.format(), &facts, &json);
    Ok(())
}
