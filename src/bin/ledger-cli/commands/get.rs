//! `get`: proved reads, and unproved ones on request.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use ledger_client::{
    CheckedValues, Client, Consistency, ListOptions, Proved, Relationship, RelationshipFilter,
    SavedProof, VerifiedOptions,
};
use ledger_proof::{Threshold, TrustBundle, VerifiedValue};
use ledger_types::{StateKey, VaultRef, check_client_string};
use serde_json::{Value, json};

use crate::args::{GetOptions, Global};
use crate::commands::put::given;
use crate::failure::Failure;
use crate::output::Format;
use crate::{names, output, session};

/// Reads.
pub(crate) async fn run(options: &GetOptions, global: &Global) -> Result<(), Failure> {
    let relationships: Vec<Relationship> = given(&options.relationships, &options.parts).collect();
    if relationships.is_empty() && options.keys.is_empty() {
        return Err(Failure::failed("give --key, or relationships"));
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    if options.unverified {
        return unverified(options, global, &client, vault, &relationships).await;
    }
    let keys = state_keys(&relationships, &options.keys)?;
    let consistency = consistency(options);
    let min_height = options.min_height.unwrap_or(0);
    let wanted = VerifiedOptions { consistency, min_height, at_height: options.at_height };
    let answer = client.verified_get(vault, &keys, wanted).await?;
    if let Some(path) = &options.save_proof {
        save(&answer.saved_proof(), path)?;
    }
    let bundle = client.trust_bundle().await?;
    let at_height = options.at_height;
    let checked = CheckedValues { vault, keys, at_height, proved: answer.proved };
    show(global.format(), &checked, &needed(&bundle));
    Ok(())
}

fn consistency(options: &GetOptions) -> Consistency {
    if options.linearizable { Consistency::Linearizable } else { Consistency::Eventual }
}

/// Keeps a proof in a file.
pub(crate) fn save(proof: &SavedProof, path: &Path) -> Result<(), Failure> {
    let bytes = proof.encode();
    std::fs::write(path, &bytes).map_err(|error| Failure::file(path, &error))?;
    eprintln!("proof of {} bytes saved in {}", bytes.len(), path.display());
    Ok(())
}

/// The state keys of relationships and entities, in this order.
pub(crate) fn state_keys(
    relationships: &[Relationship],
    keys: &[String],
) -> Result<Vec<StateKey>, Failure> {
    let refused = |error: ledger_types::InvalidInput| Failure::failed(error.to_string());
    let mut state_keys = Vec::new();
    for Relationship { resource, relation, subject } in relationships {
        StateKey::check_relationship(resource, relation, subject).map_err(refused)?;
        state_keys.push(StateKey::by_resource(resource, relation, subject));
    }
    for key in keys {
        check_client_string("key", key).map_err(refused)?;
        state_keys.push(StateKey::entity(key));
    }
    Ok(state_keys)
}

async fn unverified(
    options: &GetOptions,
    global: &Global,
    client: &Client,
    vault: VaultRef,
    relationships: &[Relationship],
) -> Result<(), Failure> {
    let consistency = consistency(options);
    for relationship in relationships {
        let filter = RelationshipFilter {
            resource: Some(relationship.resource.clone()),
            relation: Some(relationship.relation.clone()),
            subject: Some(relationship.subject.clone()),
        };
        let list = ListOptions { at_height: None, page_items: 1, consistency };
        let page = client.list_relationships(vault, filter, list)?.next_page().await?;
        let page = page.ok_or_else(|| Failure::failed("the list has no first page"))?;
        let name = names::show(relationship);
        let state = if page.items.is_empty() { "absent" } else { "present" };
        let json = json!({ "relationship": name, "state": state, "height": page.height });
        output::line(global.format(), &format!("{name}\t{state}\tunverified"), &json);
    }
    for key in &options.keys {
        let answer = client.read(vault, key, consistency).await?;
        let (text, mut json) = match &answer.value {
            Some(value) => (output::value_text(value), output::value_json(value)),
            None => ("absent".to_owned(), json!({})),
        };
        json["key"] = json!(key);
        json["state"] = json!(if answer.value.is_some() { "present" } else { "absent" });
        json["height"] = json!(answer.height);
        output::line(global.format(), &format!("{key}\t{text}\tunverified"), &json);
    }
    Ok(())
}

/// Shows what a checked proof says, and under what.
pub(crate) fn show(format: Format, checked: &CheckedValues, rule: &str) {
    let Proved { block, values } = &checked.proved;
    let items: Vec<(String, &VerifiedValue)> =
        checked.keys.iter().map(|key| key_name(key.as_bytes())).zip(values).collect();
    if format == Format::Json {
        let json = json!({
            "vault": checked.vault.to_string(),
            "height": block.header.height,
            "block_hash": block.header.block_hash().to_string(),
            "state_root": block.header.state_root.to_string(),
            "checkpoint_size": block.checkpoint.size,
            "checkpoint_root": block.checkpoint.root.to_string(),
            "signers": block.counted.keys,
            "signed_at": block.counted.oldest_time,
            "verified": true,
            "items": items.iter().map(|(name, value)| item_json(name, value)).collect::<Vec<_>>(),
        });
        println!("{json:#}");
        return;
    }
    for (name, value) in &items {
        let text = match value {
            VerifiedValue::Present { value, .. } if value.is_empty() => "present".to_owned(),
            VerifiedValue::Present { value, .. } => output::value_text(value),
            VerifiedValue::Expired { record } => {
                format!("absent (expired at {})", record.expires_at)
            }
            VerifiedValue::Absent => "absent".to_owned(),
        };
        println!("{name}\t{text}");
    }
    println!(
        "verified: vault {} at block {}, {} of its voters signed ({rule}), {}",
        checked.vault,
        block.header.height,
        block.counted.keys,
        age(block.counted.oldest_time),
    );
}

/// The bundle's threshold in words.
pub(crate) fn needed(bundle: &TrustBundle) -> String {
    match bundle.threshold {
        Threshold::Majority => "a majority is needed".to_owned(),
        Threshold::Fixed(count) => format!("{count} needed"),
    }
}

/// How long ago something was signed.
pub(crate) fn age(unix_seconds: u64) -> String {
    let signed = UNIX_EPOCH + Duration::from_secs(unix_seconds);
    match signed.elapsed() {
        Ok(age) => format!("{} s ago", age.as_secs()),
        Err(_) => "just now".to_owned(),
    }
}

/// A state key as it is written on the command line.
pub(crate) fn key_name(bytes: &[u8]) -> String {
    if let Some((resource, relation, subject)) = StateKey::as_relationship(bytes) {
        return format!("{resource}#{relation}@{subject}");
    }
    StateKey::as_entity(bytes).map_or_else(|| format!("0x{}", hex::encode(bytes)), str::to_owned)
}

fn item_json(name: &str, value: &VerifiedValue) -> Value {
    let (state, mut json) = match value {
        VerifiedValue::Present { record, value } => {
            let mut json = output::value_json(value);
            json["created_height"] = json!(record.created_height);
            json["modified_height"] = json!(record.modified_height);
            json["expires_at"] = json!(record.expires_at);
            ("present", json)
        }
        VerifiedValue::Expired { record } => {
            ("expired", json!({ "expires_at": record.expires_at }))
        }
        VerifiedValue::Absent => ("absent", json!({})),
    };
    json["key"] = json!(name);
    json["state"] = json!(state);
    json
}
