//! `status`: every node that is known, asked one by one. A node that does not answer is a row too.

use ledger_client::ClientError;
use ledger_proto::v1;
use serde_json::{Value, json};

use crate::args::{Global, StatusOptions};
use crate::failure::Failure;
use crate::{output, session};

const NODE_COLUMNS: &[&str] =
    &["node", "name", "address", "state", "leads", "groups", "version", "uptime"];
const GROUP_COLUMNS: &[&str] = &[
    "group", "node", "role", "term", "leader", "commit", "applied", "first", "last", "log",
    "oldest", "voters", "vaults", "now",
];
const MEMBER_COLUMNS: &[&str] =
    &["group", "leader", "member", "node", "matched", "lag", "heard", "snapshot"];

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
        show_by_group(GROUP_COLUMNS, answers.iter().flat_map(group_rows).collect());
        show_by_group(MEMBER_COLUMNS, answers.iter().flat_map(member_rows).collect());
    }
    Ok(())
}

/// A table after an empty line, ordered by its rows' groups; nothing if it has no rows.
fn show_by_group(columns: &[&str], mut rows: Vec<(u64, Vec<String>)>) {
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|(group, _)| *group);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    println!();
    output::rows(output::Format::Table, columns, rows, &Value::Null);
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
            group.first_index.to_string(),
            group.last_index.to_string(),
            bytes_text(group.log_bytes),
            format!("{} s", group.oldest_entry_age_seconds),
            voters.join(","),
            group.vaults_count.to_string(),
            now_text(group),
        ];
        (group.group, cells)
    };
    status.system.iter().chain(&status.groups).map(row).collect()
}

/// What a replica is in the middle of, in a few words; `-` for nothing.
fn now_text(group: &v1::GroupStatus) -> String {
    let mut words = Vec::new();
    if group.is_asleep {
        words.push("asleep".to_owned());
    }
    match group.snapshot_phase() {
        v1::SnapshotPhase::Fetching => words.push("fetching a snapshot".to_owned()),
        v1::SnapshotPhase::Installing => words.push("installing a snapshot".to_owned()),
        v1::SnapshotPhase::None | v1::SnapshotPhase::Unspecified => {}
    }
    let conf = group.configuration.clone().unwrap_or_default();
    if !conf.voters_outgoing.is_empty() {
        words.push(format!("voters {:?} to {:?}", conf.voters_outgoing, conf.voters));
    }
    if !conf.learners.is_empty() {
        words.push(format!("learners {:?}", conf.learners));
    }
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// Every member as the answering node sees it, of the groups that the node leads.
fn member_rows((address, answer): &Answer) -> Vec<(u64, Vec<String>)> {
    let Ok(status) = answer else { return Vec::new() };
    let name = status.node.as_ref().map_or(address.as_str(), |node| &node.name);
    let rows = status.system.iter().chain(&status.groups).flat_map(|group| {
        group.members.iter().map(|member| {
            let snapshot = match member.snapshot_index {
                0 => "-".to_owned(),
                index => format!("up to {index}"),
            };
            let cells = vec![
                group.group.to_string(),
                name.to_owned(),
                member.incarnation.to_string(),
                member.node_id.to_string(),
                member.matched_index.to_string(),
                member.lag_entries.to_string(),
                if member.is_active { "lately" } else { "no" }.to_owned(),
                snapshot,
            ];
            (group.group, cells)
        })
    });
    rows.collect()
}

/// Bytes for people.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
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
        "first_index": group.first_index,
        "log_bytes": group.log_bytes,
        "oldest_entry_age_seconds": group.oldest_entry_age_seconds,
        "asleep": group.is_asleep,
        "snapshot": phase_name(group),
        "configuration": configuration_json(group),
        "members": group.members.iter().map(member_json).collect::<Vec<_>>(),
    })
}

fn phase_name(group: &v1::GroupStatus) -> String {
    group.snapshot_phase().as_str_name().trim_start_matches("SNAPSHOT_PHASE_").to_lowercase()
}

fn configuration_json(group: &v1::GroupStatus) -> Value {
    let conf = group.configuration.clone().unwrap_or_default();
    json!({
        "voters": conf.voters,
        "learners": conf.learners,
        "voters_outgoing": conf.voters_outgoing,
        "learners_next": conf.learners_next,
    })
}

fn member_json(member: &v1::MemberStatus) -> Value {
    json!({
        "node": member.node_id,
        "incarnation": member.incarnation,
        "matched_index": member.matched_index,
        "lag_entries": member.lag_entries,
        "active": member.is_active,
        "snapshot_index": member.snapshot_index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        let told = [0, 1023, 1024, 1536, 64 << 20, 3 << 30, 5 << 40, 5 << 50].map(bytes_text);
        let expected =
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "3.0 GiB", "5.0 TiB", "5120.0 TiB"];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_change_under_way_is_told_in_words() {
        let mut group = v1::GroupStatus::default();
        assert_eq!(now_text(&group), "-");
        group.is_asleep = true;
        assert_eq!(now_text(&group), "asleep");
        group.is_asleep = false;
        group.set_snapshot_phase(v1::SnapshotPhase::Installing);
        group.configuration = Some(v1::Configuration {
            voters: vec![2, 3, 1001],
            voters_outgoing: vec![1, 2, 3],
            learners: vec![1002],
            ..v1::Configuration::default()
        });
        let expected = "installing a snapshot, voters [1, 2, 3] to [2, 3, 1001], learners [1002]";
        assert_eq!(now_text(&group), expected);
        let json = group_json(&group);
        assert_eq!(json["snapshot"], "installing");
        assert_eq!(json["configuration"]["voters_outgoing"], json!([1, 2, 3]));
    }

    #[test]
    fn only_a_leader_has_members_to_tell_of() {
        let member = v1::MemberStatus {
            node_id: 4,
            incarnation: 1001,
            matched_index: 90,
            lag_entries: 10,
            is_active: true,
            snapshot_index: 80,
        };
        let led = v1::GroupStatus { group: 7, members: vec![member], ..Default::default() };
        let other = v1::GroupStatus { group: 8, ..Default::default() };
        let status = v1::GetStatusResponse { groups: vec![led, other], ..Default::default() };
        let rows = member_rows(&("a:1".to_owned(), Ok(status)));
        let cells = ["7", "a:1", "1001", "4", "90", "10", "lately", "up to 80"];
        assert_eq!(rows, [(7, cells.map(str::to_owned).to_vec())]);
        assert_eq!(MEMBER_COLUMNS.len(), cells.len());
        assert_eq!(
            group_rows(&(
                "a:1".to_owned(),
                Ok(v1::GetStatusResponse {
                    groups: vec![v1::GroupStatus::default()],
                    ..Default::default()
                })
            ))[0]
                .1
                .len(),
            GROUP_COLUMNS.len()
        );
    }
}
