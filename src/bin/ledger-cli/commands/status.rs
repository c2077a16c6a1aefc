//! `status`: every node that is known, asked one by one. A node that does not answer is a row too.

use ledger_client::ClientError;
use ledger_proto::v1;
use serde_json::{Value, json};

use crate::args::{Global, StatusOptions};
use crate::failure::Failure;
use crate::{output, session};

const NODE_COLUMNS: &[&str] =
    &["node", "name", "address", "state", "leads", "groups", "version", "uptime"];
const GROUP_COLUMNS: &[&str] =
    &["group", "node", "role", "term", "leader", "commit", "applied", "last", "voters", "vaults"];

/// A node's answer, or that there was none.
type Answer = (String, Result<v1::GetStatusResponse, ClientError>);

/// Shows nodes, and groups if asked for.
pub(crate) async fn run(options: &StatusOptions, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut answers: Vec<Answer> = Vec::new();
    for address in client.addresses() {
        let answer = client.status_of(&address).await;
        answers.push((address, answer));
    }
    // A node may be known under the address given and under the one that it advertises.
    let store = |answer: &Answer| {
        let node = answer.1.as_ref().ok()?.node.as_ref()?;
        (!node.store_id.is_empty()).then(|| node.store_id.clone())
    };
    let mut seen = Vec::new();
    answers.retain(|answer| match store(answer) {
        Some(id) if seen.contains(&id) => false,
        Some(id) => {
            seen.push(id);
            true
        }
        None => true,
    });
    answers.sort_by_key(|(_, answer)| node_number(answer));
    let json = json!({ "nodes": answers.iter().map(answer_json).collect::<Vec<_>>() });
    output::rows(global.format(), NODE_COLUMNS, answers.iter().map(node_row).collect(), &json);
    if options.groups && global.format() == output::Format::Table {
        let mut rows: Vec<(u64, Vec<String>)> = answers.iter().flat_map(group_rows).collect();
        rows.sort_by_key(|(group, _)| *group);
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        println!();
        output::rows(output::Format::Table, GROUP_COLUMNS, rows, &Value::Null);
    }
    Ok(())
}

fn node_number(answer: &Result<v1::GetStatusResponse, ClientError>) -> u64 {
    let node = answer.as_ref().ok().and_then(|status| status.node.as_ref());
    node.map_or(u64::MAX, |node| node.node_id)
}

fn state_name(node: &v1::NodeSummary) -> String {
    node.state().as_str_name().trim_start_matches("NODE_STATE_").to_lowercase()
}

fn role_name(group: &v1::GroupStatus) -> String {
    group.role().as_str_name().trim_start_matches("REPLICA_ROLE_").to_lowercase()
}

fn node_row((address, answer): &Answer) -> Vec<String> {
    let node = match answer {
        Ok(status) => status.node.clone().unwrap_or_default(),
        Err(_) => {
            let mut row = vec!["?".to_owned(), String::new(), address.clone()];
            row.push("unreachable".to_owned());
            row.resize(NODE_COLUMNS.len(), String::new());
            return row;
        }
    };
    vec![
        node.node_id.to_string(),
        node.name.clone(),
        address.clone(),
        state_name(&node),
        node.leaders_count.to_string(),
        node.groups_count.to_string(),
        node.version.clone(),
        format!("{} s", node.uptime_seconds),
    ]
}

fn answer_json((address, answer): &Answer) -> Value {
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            return json!({ "address": address, "reachable": false, "error": error.to_string() });
        }
    };
    let node = status.node.clone().unwrap_or_default();
    json!({
        "address": address,
        "reachable": true,
        "node": node.node_id,
        "name": node.name,
        "state": state_name(&node),
        "store": node.store_id,
        "cluster": node.cluster_id,
        "domain": node.cluster_domain,
        "version": node.version,
        "uptime_seconds": node.uptime_seconds,
        "leads": node.leaders_count,
        "groups_count": node.groups_count,
        "http_address": node.http_address,
        "grpc_address": node.grpc_address,
        "groups": status.system.iter().chain(&status.groups).map(group_json).collect::<Vec<_>>(),
    })
}

fn group_rows((address, answer): &Answer) -> Vec<(u64, Vec<String>)> {
    let Ok(status) = answer else { return Vec::new() };
    let name = status.node.as_ref().map_or(address.as_str(), |node| &node.name);
    let row = |group: &v1::GroupStatus| {
        let voters: Vec<String> = group.voters.iter().map(u64::to_string).collect();
        let cells = vec![
            group.group.to_string(),
            name.to_owned(),
            role_name(group),
            group.term.to_string(),
            group.leader_node_id.to_string(),
            group.commit_index.to_string(),
            group.applied_index.to_string(),
            group.last_index.to_string(),
            voters.join(","),
            group.vaults_count.to_string(),
        ];
        (group.group, cells)
    };
    status.system.iter().chain(&status.groups).map(row).collect()
}

fn group_json(group: &v1::GroupStatus) -> Value {
    json!({
        "group": group.group,
        "incarnation": group.incarnation,
        "role": role_name(group),
        "term": group.term,
        "leader": group.leader_node_id,
        "leader_address": group.leader_address,
        "commit_index": group.commit_index,
        "applied_index": group.applied_index,
        "last_index": group.last_index,
        "voters": group.voters,
        "learners": group.learners,
        "vaults": group.vaults_count,
    })
}
