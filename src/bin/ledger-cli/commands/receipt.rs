//! `receipt`: a transaction of a block, proved to be in there.

use ledger_client::CheckedTransaction;
use ledger_proof::{AppliedOperation, TransactionChoice};
use ledger_types::{Operation, Outcome};
use serde_json::json;

use crate::args::{Global, ReceiptOptions};
use crate::commands::get::{age, needed, save};
use crate::commands::put::outcome_name;
use crate::failure::Failure;
use crate::output::Format;
use crate::{output, session};

/// Asks for a receipt and checks it.
pub(crate) async fn run(options: &ReceiptOptions, global: &Global) -> Result<(), Failure> {
    let transaction = match (options.tx, options.index) {
        (Some(tx_id), _) => TransactionChoice::Id(tx_id),
        (None, Some(index)) => TransactionChoice::Index(index),
        (None, None) => return Err(Failure::failed("give --tx or --index")),
    };
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    let receipt = client.receipt(vault, options.height, transaction).await?;
    if let Some(path) = &options.save_proof {
        save(&receipt.saved_proof(), path)?;
    }
    let bundle = client.trust_bundle().await?;
    let checked = CheckedTransaction { vault, index: receipt.index(), proved: receipt.proved };
    show(global.format(), &checked, &needed(&bundle));
    Ok(())
}

/// Shows what a checked receipt says, and under what.
pub(crate) fn show(format: Format, checked: &CheckedTransaction, rule: &str) {
    let (block, transaction) = (&checked.proved.block, &checked.proved.transaction);
    let operations: Vec<String> = transaction.operations.iter().map(operation_text).collect();
    let json = json!({
        "vault": checked.vault.to_string(),
        "height": block.header.height,
        "block_hash": block.header.block_hash().to_string(),
        "index": checked.index,
        "transactions": block.header.tx_count,
        "tx_id": transaction.tx_id.to_string(),
        "client": transaction.client,
        "actor": transaction.actor,
        "sequence": transaction.assigned_sequence,
        "time": transaction.timestamp_ns / 1_000_000_000,
        "operations": operations,
        "checkpoint_size": block.checkpoint.size,
        "checkpoint_root": block.checkpoint.root.to_string(),
        "signers": block.counted.keys,
        "signed_at": block.counted.oldest_time,
        "verified": true,
    });
    let place = format!("{} of {}", checked.index, block.header.tx_count);
    let verified = format!(
        "{} voters signed ({rule}), {}",
        block.counted.keys,
        age(block.counted.oldest_time)
    );
    let mut facts = vec![
        ("vault", checked.vault.to_string()),
        ("block", block.header.height.to_string()),
        ("transaction", transaction.tx_id.to_string()),
        ("index", place),
        ("client", transaction.client.clone()),
    ];
    facts.extend(operations.into_iter().map(|text| ("operation", text)));
    facts.push(("verified", verified));
    output::facts(format, &facts, &json);
}

/// An operation and its outcome in one line; values by their length, since they may be long.
fn operation_text(applied: &AppliedOperation) -> String {
    match applied {
        AppliedOperation::State { operation, outcome } => state_text(operation, *outcome),
        AppliedOperation::Recovery(_) => "recovery".to_owned(),
    }
}

fn state_text(operation: &Operation, outcome: Outcome) -> String {
    let what = match operation {
        Operation::SetEntity { key, value, .. } => format!("set {key} ({} bytes)", value.len()),
        Operation::DeleteEntity { key } => format!("delete {key}"),
        Operation::ExpireEntity { key, .. } => format!("expire {key}"),
        Operation::CreateRelationship { resource, relation, subject } => {
            format!("create {resource}#{relation}@{subject}")
        }
        Operation::DeleteRelationship { resource, relation, subject } => {
            format!("delete {resource}#{relation}@{subject}")
        }
    };
    format!("{what}: {}", outcome_name(outcome))
}
