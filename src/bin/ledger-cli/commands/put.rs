//! `put` and `delete`: one transaction each.

use std::time::{SystemTime, UNIX_EPOCH};

use ledger_client::{Relationship, WriteReceipt};
use ledger_types::{Condition, Operation, Outcome, VaultRef};
use serde_json::json;

use crate::args::{ConditionOptions, DeleteOptions, Global, PutOptions, RelationshipParts};
use crate::failure::Failure;
use crate::{output, session};

/// Sets an entity or creates relationships.
pub(crate) async fn put(options: &PutOptions, global: &Global) -> Result<(), Failure> {
    let mut operations: Vec<Operation> =
        given(&options.relationships, &options.parts).map(create).collect();
    if let Some(key) = &options.key {
        operations.push(Operation::SetEntity {
            key: key.clone(),
            value: value(options)?,
            expires_at: expires_at(options)?,
            condition: condition(&options.condition),
        });
    }
    if operations.is_empty() {
        return Err(Failure::failed("give --key with a value, or relationships"));
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let receipt = client.write(vault, operations).await?;
    show(global, vault, &receipt);
    Ok(())
}

/// Deletes entities and relationships.
pub(crate) async fn delete(options: &DeleteOptions, global: &Global) -> Result<(), Failure> {
    let relationships = given(&options.relationships, &options.parts).map(|relationship| {
        let Relationship { resource, relation, subject } = relationship;
        Operation::DeleteRelationship { resource, relation, subject }
    });
    let entities = options.keys.iter().map(|key| Operation::DeleteEntity { key: key.clone() });
    let operations: Vec<Operation> = relationships.chain(entities).collect();
    if operations.is_empty() {
        return Err(Failure::failed("give --key, or relationships"));
    }
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let receipt = client.write(vault, operations).await?;
    show(global, vault, &receipt);
    Ok(())
}

/// Relationships given whole and in parts.
pub(crate) fn given<'a>(
    whole: &'a [Relationship],
    parts: &'a RelationshipParts,
) -> impl Iterator<Item = Relationship> + 'a {
    whole.iter().cloned().chain(parts.relationship())
}

fn create(relationship: Relationship) -> Operation {
    let Relationship { resource, relation, subject } = relationship;
    Operation::CreateRelationship { resource, relation, subject }
}

fn value(options: &PutOptions) -> Result<Vec<u8>, Failure> {
    match (&options.value, &options.value_hex, &options.value_file) {
        (Some(text), _, _) => Ok(text.clone().into_bytes()),
        (_, Some(digits), _) => {
            hex::decode(digits).map_err(|error| Failure::failed(format!("--value-hex: {error}")))
        }
        (_, _, Some(path)) => std::fs::read(path).map_err(|error| Failure::file(path, &error)),
        (None, None, None) => {
            Err(Failure::failed("--key needs --value, --value-hex or --value-file"))
        }
    }
}

fn expires_at(options: &PutOptions) -> Result<u64, Failure> {
    let Some(ttl) = options.ttl else { return Ok(options.expires_at.unwrap_or(0)) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| Failure::failed("the clock stands before 1970"))?;
    Ok((now + ttl).as_secs())
}

fn condition(options: &ConditionOptions) -> Option<Condition> {
    if options.if_absent {
        return Some(Condition::NotExists);
    }
    if options.if_present {
        return Some(Condition::MustExist);
    }
    let value = || options.if_value.clone().map(|text| Condition::ValueEquals(text.into_bytes()));
    options.if_version.map(Condition::Version).or_else(value)
}

fn show(global: &Global, vault: VaultRef, receipt: &WriteReceipt) {
    let outcomes: Vec<&str> = receipt.outcomes.iter().copied().map(outcome_name).collect();
    let json = json!({
        "vault": vault.to_string(),
        "height": receipt.height,
        "tx_id": receipt.tx_id.to_string(),
        "sequence": receipt.sequence,
        "outcomes": outcomes,
    });
    let facts = [
        ("vault", vault.to_string()),
        ("height", receipt.height.to_string()),
        ("transaction", receipt.tx_id.to_string()),
        ("outcomes", outcomes.join(", ")),
    ];
    output::facts(global.format(), &facts, &json);
}

/// The name of an outcome.
pub(crate) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Deleted => "deleted",
        Outcome::NotFound => "not found",
        Outcome::AlreadyExists => "already exists",
        Outcome::Expired => "expired",
        Outcome::Recovered => "recovered",
    }
}
