//! `cluster`: members of the directory's group, and what replicas find in a vault when they check it.

use ledger_client::ClientError;
use ledger_proto::v1;
use ledger_types::VaultRef;
use serde_json::{Value, json};

use crate::args::{Global, VaultCheckOptions};
use crate::failure::Failure;
use crate::{output, session};

const MEMBER_COLUMNS: &[&str] = &["node", "address", "role", "leader"];
const CHECK_COLUMNS: &[&str] = &["asked", "node", "height", "finding", "block", "description"];

/// Shows who is in the cluster.
pub(crate) async fn info(global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let info = client.cluster_info().await?;
    let member = |member: &v1::ClusterMember| {
        let role = member.role().as_str_name().trim_start_matches("CLUSTER_MEMBER_ROLE_");
        (role.to_lowercase(), if member.is_leader { "leads" } else { "" })
    };
    let rows = info.members.iter().map(|one| {
        let (role, leads) = member(one);
        vec![one.node_id.to_string(), one.address.clone(), role, leads.to_owned()]
    });
    let members = info.members.iter().map(|one| {
        let role = member(one).0;
        json!({
            "node": one.node_id, "address": one.address, "role": role, "leader": one.is_leader,
        })
    });
    let json = json!({
        "members": members.collect::<Vec<Value>>(), "leader": info.leader_id, "term": info.term,
    });
    output::rows(global.format(), MEMBER_COLUMNS, rows.collect(), &json);
    Ok(())
}

/// A node's answer, or that there was none.
type Answer = (String, Result<v1::CheckIntegrityResponse, ClientError>);

/// Has every known node check its replica of a vault. Fails if one finds something, or none could.
pub(crate) async fn check(options: &VaultCheckOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let vault = session::vault(&client, &options.vault).await?;
    // Makes the addresses of all nodes known.
    let any = client.addresses().into_iter().next();
    if let Some(address) = any {
        let _ = client.status_of(&address).await;
    }
    let mut answers: Vec<Answer> = Vec::new();
    for address in client.addresses() {
        let answer = client.check_integrity_at(&address, vault, options.full).await;
        answers.push((address, answer));
    }
    let json = Value::Array(answers.iter().map(|answer| answer_json(vault, answer)).collect());
    let rows = answers.iter().flat_map(answer_rows).collect();
    output::rows(global.format(), CHECK_COLUMNS, rows, &json);
    let whole = answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|one| one.healthy));
    let bad = answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|one| !one.healthy));
    match (whole.count(), bad.count()) {
        (0, 0) => Err(Failure::failed("no node could check the vault")),
        (_, 0) => Ok(()),
        (_, bad) => Err(Failure::failed(format!("{bad} replicas are not as they should be"))),
    }
}

fn answer_rows((asked, answer): &Answer) -> Vec<Vec<String>> {
    let row = |cells: [String; 5]| [vec![asked.clone()], cells.to_vec()].concat();
    match answer {
        Err(error) => {
            let nothing = String::new;
            vec![row([nothing(), nothing(), "not checked".into(), nothing(), error.to_string()])]
        }
        Ok(told) => {
            let node = told.node_id.as_ref().map_or_else(String::new, |node| node.id.clone());
            let height = told.block_height.to_string();
            if told.healthy {
                let none = String::new();
                return vec![row([node, height, "whole".into(), none.clone(), none])];
            }
            let found = told.issues.iter().map(|issue| {
                let v1::IntegrityIssue { block_height, issue_type, description } = issue.clone();
                let block = block_height.to_string();
                row([node.clone(), height.clone(), issue_type, block, description])
            });
            found.collect()
        }
    }
}

fn answer_json(vault: VaultRef, (asked, answer): &Answer) -> Value {
    match answer {
        Err(error) => json!({
            "vault": vault.to_string(), "asked": asked, "error": error.to_string(),
        }),
        Ok(told) => {
            let issues = told.issues.iter().map(|issue| {
                json!({
                    "block": issue.block_height,
                    "type": issue.issue_type,
                    "description": issue.description,
                })
            });
            json!({
                "vault": vault.to_string(),
                "asked": asked,
                "node": told.node_id.as_ref().map(|node| node.id.clone()),
                "height": told.block_height,
                "healthy": told.healthy,
                "issues": issues.collect::<Vec<Value>>(),
            })
        }
    }
}
