//! The published names and how a scrape looks.

use ledger_shard::{ConfState, SnapshotPhase};
use ledger_types::{GroupId, Incarnation, NodeId};

use super::*;

fn sample() -> NodeSample {
    let status = |group: u64, role: Role| GroupStatus {
        group: GroupId(group),
        incarnation: Incarnation(group + 1),
        role,
        term: 7,
        leader: Some(NodeId(1)),
        commit: 120,
        applied: 118,
        last_index: 121,
        replicas: Vec::new(),
        voters: vec![1],
        lag_max: 3 + group,
        conf_state: ConfState::default(),
        members: Vec::new(),
        first_index: 100,
        log_bytes: 1000 * (group + 1),
        oldest_entry_ns: 30_000_000_000 + group,
        snapshot: SnapshotPhase::None,
        is_asleep: group == 9,
        is_conf_settled: true,
    };
    let mut shard = MetricsSnapshot {
        blocks: 40,
        syncs: 9,
        snapshots_cut: 3,
        snapshots_installed: 2,
        snapshot_install_ns: 1_500_000_000,
        log_entries_truncated: 77,
        ..MetricsSnapshot::default()
    };
    shard.groups_per_sync[0] = 4;
    shard.groups_per_sync[2] = 5;
    NodeSample {
        version: "1.2.3",
        groups: vec![status(0, Role::Follower), status(4, Role::Leader), status(9, Role::Follower)],
        peers: PeerMetricsSnapshot { messages_out: 12, dropped_data: 5, ..Default::default() },
        snapshot_fetches: 1,
        cosignatures: 6,
        signing_contradictions: 2,
        expired_entities: 7,
        vaults_purged: 11,
        vaults_awaiting_purge: 13,
        rate_limited: 8,
        clock_skews: vec![(NodeId(2), -0.25)],
        clock_is_off: true,
        wall_ns: 90_000_000_000,
        shard,
        storage_bytes: 4096,
        vaults_healthy: 16,
        vaults_diverged: 3,
        ready: true,
        ..NodeSample::default()
    }
}

#[test]
fn a_scrape_has_the_published_names_with_help() {
    let metrics = RequestMetrics::new();
    metrics.duration_of("/ledger.v1.WriteService/Write").observe(0.06);
    metrics.duration_of("/made.up/Method").observe(0.001);
    metrics.watches_open().set(21);
    metrics.slow_watches().inc();
    let text = metrics.render(&sample());
    for line in [
        "ledger_raft_term{group=\"4\"} 7",
        "ledger_raft_commit_index{group=\"0\"} 120",
        "ledger_raft_applied_index{group=\"4\"} 118",
        "ledger_raft_is_leader{group=\"4\"} 1",
        "ledger_raft_is_leader{group=\"0\"} 0",
        "ledger_blocks_total 40",
        "ledger_storage_bytes 4096",
        "vault_health{state=\"healthy\"} 16",
        "vault_health{state=\"diverged\"} 3",
        "ledger_raft_syncs_total 9",
        "ledger_raft_groups_per_sync_bucket{le=\"1\"} 4",
        "ledger_raft_groups_per_sync_bucket{le=\"7\"} 9",
        "ledger_raft_groups_per_sync_bucket{le=\"+Inf\"} 9",
        "ledger_raft_groups_per_sync_count 9",
        "ledger_build_info{version=\"1.2.3\"} 1",
        "ledger_raft_log_bytes 16000",
        "ledger_raft_log_bytes_max 10000",
        "ledger_raft_log_oldest_entry_seconds 60",
        "ledger_raft_follower_lag_entries 12",
        "ledger_raft_log_truncated_entries_total 77",
        "ledger_groups{state=\"open\"} 2",
        "ledger_groups{state=\"asleep\"} 1",
        "ledger_snapshots_cut_total 3",
        "ledger_snapshots_cut_failed_total 0",
        "ledger_snapshots_installed_total 2",
        "ledger_snapshots_refused_total 0",
        "ledger_snapshot_install_seconds_total 1.5",
        "ledger_snapshot_bytes_sent_total 0",
        "ledger_snapshot_bytes_received_total 0",
        "ledger_snapshot_fetches_running 1",
        "ledger_cosignatures_total 6",
        "ledger_signing_contradictions_total 2",
        "ledger_expired_entities_total 7",
        "ledger_vaults_purged_total 11",
        "ledger_vaults_awaiting_purge 13",
        "ledger_rate_limited_total 8",
        "ledger_watches_open 21",
        "ledger_slow_watches_total 1",
        "ledger_clock_skew_seconds{node=\"2\"} -0.25",
        "ledger_clock_is_off 1",
        "ledger_peer_messages_sent_total 12",
        "ledger_peer_messages_dropped_total{why=\"data_queue_full\"} 5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    let write = "method=\"ledger.v1.WriteService/Write\"";
    let bucket = |bound: &str, count: u32| {
        format!("ledger_request_duration_seconds_bucket{{{write},le=\"{bound}\"}} {count}")
    };
    for expected in [bucket("0.05", 0), bucket("0.1", 1), bucket("0.5", 1)] {
        assert!(text.lines().any(|found| found == expected), "{expected} is missing");
    }
    assert!(text.contains("method=\"other\",le=\"+Inf\"} 1"));
}

#[test]
fn every_family_has_help_and_a_type_once() {
    let text = RequestMetrics::new().render(&sample());
    let named = |mark: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let (helps, types) = (named("# HELP "), named("# TYPE "));
    assert_eq!(helps, types);
    let mut unique = helps.clone();
    unique.dedup();
    assert_eq!(unique, helps);
    assert!(!text.contains("namespace=") && !text.contains("vault="));
}

#[test]
fn a_node_without_groups_still_renders() {
    let text = RequestMetrics::new().render(&NodeSample::default());
    assert!(text.contains("ledger_ready 0"));
    assert!(!text.contains("ledger_raft_term"));
}
