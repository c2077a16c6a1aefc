//! `history`: the versions of a key, each proved, the newest first.

use ledger_client::{Consistency, HistoryEnd, KeyVersion, VerifiedOptions};
use ledger_types::StateKey;
use serde_json::json;

use crate::args::{Global, HistoryOptions};
use crate::commands::get::state_keys;
use crate::failure::Failure;
use crate::output::Format;
use crate::{output, session};

/// Walks back through the versions of one key.
pub(crate) async fn run(options: &HistoryOptions, global: &Global) -> Result<(), Failure> {
    let relationship = options.relationship.clone().or_else(|| options.parts.relationship());
    let relationships: Vec<_> = relationship.into_iter().collect();
    let keys: Vec<String> = options.key.iter().cloned().collect();
    let keys = state_keys(&relationships, &keys)?;
    let [key]: [StateKey; 1] =
        keys.try_into().map_err(|_| Failure::failed("give --key, or one relationship"))?;
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let consistency = match options.linearizable {
        true => Consistency::Linearizable,
        false => Consistency::Eventual,
    };
    let from = VerifiedOptions { consistency, min_height: 0, at_height: options.at_height };
    let history = client.key_history(vault, &key, options.limit, from).await?;
    for version in &history.versions {
        show(global.format(), version);
    }
    let end = end_text(&history.end);
    let json = json!({ "versions": history.versions.len(), "end": end });
    output::line(global.format(), &format!("verified: {end}"), &json);
    Ok(())
}

fn show(format: Format, version: &KeyVersion) {
    let record = &version.record;
    let (text, mut json) = match &version.value {
        Some(value) if value.is_empty() => ("present".to_owned(), output::value_json(value)),
        Some(value) => (output::value_text(value), output::value_json(value)),
        None => (format!("expired at {}", record.expires_at), json!({})),
    };
    json["modified_height"] = json!(record.modified_height);
    json["created_height"] = json!(record.created_height);
    json["expires_at"] = json!(record.expires_at);
    json["proved_at"] = json!(version.proved_at);
    output::line(format, &format!("block {}\t{text}", record.modified_height), &json);
}

fn end_text(end: &HistoryEnd) -> String {
    match end {
        HistoryEnd::Absent => "there is no such key".to_owned(),
        HistoryEnd::Created => "the last one shown created the key".to_owned(),
        HistoryEnd::Limit => "there may be earlier ones".to_owned(),
        HistoryEnd::NotKept { floor: Some(floor) } => {
            format!("earlier ones are not kept: states from block {floor} on are")
        }
        HistoryEnd::NotKept { floor: None } => "earlier ones are not kept".to_owned(),
    }
}
