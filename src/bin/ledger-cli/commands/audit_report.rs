//! The report of an audit, as JSON and for people. Its fields are told in `docs/auditing.md`.

use ledger_client::audit::{Audit, AuditFinding, Obstacle, ReplicaReport, Signer};
use serde_json::{Value, json};

use crate::output::{self, Format};

/// Version of the report's form.
const FORM: u32 = 1;

/// When an audit was made, Unix seconds.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) started: u64,
    pub(crate) ended: u64,
}

/// The report.
pub(crate) fn report_json(audit: &mut Audit, times: Times) -> Value {
    let replayed = audit.replayed();
    let checkpoint = audit.checkpoint().map(|checkpoint| {
        json!({
            "origin": checkpoint.origin.to_string(),
            "size": checkpoint.size,
            "root": checkpoint.root.to_string(),
            "note": String::from_utf8_lossy(&checkpoint.note),
            "signers": signers_json(audit.signers()),
        })
    });
    json!({
        "form": FORM,
        "version": env!("CARGO_PKG_VERSION"),
        "verdict": audit.verdict().name(),
        "vault": audit.vault().to_string(),
        "started": times.started,
        "ended": times.ended,
        "bundle": audit.bundle_sequence(),
        "checkpoint": checkpoint,
        "replayed": {
            "blocks": replayed.blocks,
            "transactions": replayed.transactions,
            "operations": replayed.operations,
            "keys": replayed.keys,
            "log_root": replayed.log_root.to_string(),
            "state_root": replayed.state_root.to_string(),
        },
        "replicas": audit.replicas().iter().map(replica_json).collect::<Vec<_>>(),
        "findings": audit.findings().iter().map(finding_json).collect::<Vec<_>>(),
        "obstacles": audit.obstacles().iter().map(obstacle_json).collect::<Vec<_>>(),
    })
}

fn replica_json(replica: &ReplicaReport) -> Value {
    let tip = replica.tip.map(|tip| {
        json!({
            "height": tip.height,
            "block_hash": tip.block_hash.to_string(),
            "state_root": tip.state_root.to_string(),
        })
    });
    json!({
        "node": replica.member.name,
        "address": replica.member.address,
        "verdict": replica.verdict.name(),
        "tip": tip,
        "blocks_compared": replica.blocks_compared,
        "keys_compared": replica.keys_compared,
        "note_size": replica.note_size,
        "signers": signers_json(&replica.signers),
    })
}

fn signers_json(signers: &[Signer]) -> Value {
    let one = |signer: &Signer| {
        json!({
            "name": signer.name,
            "node": signer.member,
            "valid": signer.is_valid,
            "time": signer.time,
        })
    };
    signers.iter().map(one).collect()
}

/// A finding.
pub(crate) fn finding_json(finding: &AuditFinding) -> Value {
    let (expected, found) = finding.kind.expected_and_found().unzip();
    json!({
        "kind": finding.kind.name(),
        "node": finding.node,
        "height": finding.height,
        "transaction": finding.transaction,
        "operation": finding.operation,
        "expected": expected,
        "found": found,
        "message": finding.kind.to_string(),
    })
}

/// An obstacle.
pub(crate) fn obstacle_json(obstacle: &Obstacle) -> Value {
    json!({ "node": obstacle.node, "message": obstacle.message })
}

/// Shows an audit that has ended.
pub(crate) fn show(format: Format, audit: &Audit, report: &Value) {
    if format == Format::Json {
        println!("{report:#}");
        return;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let replayed = &report["replayed"];
    let facts = [
        ("verdict", text(&report["verdict"])),
        ("vault", text(&report["vault"])),
        ("trust bundle", text(&report["bundle"])),
        ("checkpoint", text(&report["checkpoint"]["size"])),
        ("blocks", text(&replayed["blocks"])),
        ("transactions", text(&replayed["transactions"])),
        ("operations", text(&replayed["operations"])),
        ("keys", text(&replayed["keys"])),
        ("log root", text(&replayed["log_root"])),
        ("state root", text(&replayed["state_root"])),
    ];
    output::facts(format, &facts, report);
    let row = |replica: &ReplicaReport| {
        vec![
            replica.member.name.clone(),
            replica.member.address.clone(),
            replica.tip.map_or("-".to_owned(), |tip| tip.height.to_string()),
            replica.blocks_compared.to_string(),
            replica.keys_compared.to_string(),
            replica.verdict.name().to_owned(),
        ]
    };
    let rows = audit.replicas().iter().map(row).collect();
    let headings = ["replica", "address", "tip", "blocks", "keys", "verdict"];
    output::rows(format, &headings, rows, report);
    for finding in audit.findings() {
        let node = finding.node.as_deref().unwrap_or("cluster");
        let height = finding.height.map_or(String::new(), |height| format!(" block {height}"));
        println!("FINDING {node}{height} {}: {}", finding.kind.name(), finding.kind);
    }
    for obstacle in audit.obstacles() {
        println!("OBSTACLE {obstacle}");
    }
}
