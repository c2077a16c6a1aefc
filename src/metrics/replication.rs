//! What a scrape tells of the groups' logs, of snapshots and of groups that sleep.
//!
//! Owns sums and worst cases over all groups. Must never have a label per group: what one group does is in
//! `GetStatus`.

use ledger_shard::GroupStatus;
use prometheus::proto::{MetricFamily, MetricType};

use super::{NodeSample, family, gauge, label, single_counter, single_gauge};

impl NodeSample {
    pub(super) fn log_families(&self) -> Vec<MetricFamily> {
        let over_groups = |value: fn(&GroupStatus) -> u64| self.groups.iter().map(value);
        let log_bytes = |status: &GroupStatus| status.log_bytes;
        let oldest = self.groups.iter().map(|status| self.oldest_entry_ns(status)).max();
        let asleep = self.groups.iter().filter(|status| status.is_asleep).count();
        let states = vec![
            gauge(vec![label("state", "asleep")], asleep as f64),
            gauge(vec![label("state", "open")], (self.groups.len() - asleep) as f64),
        ];
        vec![
            single_gauge(
                "ledger_raft_log_bytes",
                "Bytes that the logs of all groups take here, about.",
                over_groups(log_bytes).sum::<u64>() as f64,
            ),
            single_gauge(
                "ledger_raft_log_bytes_max",
                "Bytes of the largest of those logs.",
                over_groups(log_bytes).max().unwrap_or(0) as f64,
            ),
            single_gauge(
                "ledger_raft_log_oldest_entry_seconds",
                "Age of the oldest entry in any of those logs.",
                oldest.unwrap_or(0) as f64 / 1e9,
            ),
            single_gauge(
                "ledger_raft_follower_lag_entries",
                "Most entries that a recently active member of a group led here lacks.",
                over_groups(|status| status.lag_max).max().unwrap_or(0) as f64,
            ),
            single_counter(
                "ledger_raft_log_truncations_total",
                "Times that the beginning of a log was deleted.",
                self.shard.log_truncations as f64,
            ),
            single_counter(
                "ledger_raft_log_truncated_entries_total",
                "Log entries deleted because no member needs them any more.",
                self.shard.log_entries_truncated as f64,
            ),
            family(
                "ledger_groups",
                "Groups with a replica here: open, or asleep on disk since the start.",
                MetricType::GAUGE,
                states,
            ),
            single_counter(
                "ledger_groups_opened_total",
                "Groups opened when they were first needed.",
                self.shard.groups_opened as f64,
            ),
        ]
    }

    /// Age of a log's oldest entry in nanoseconds; 0 for none.
    fn oldest_entry_ns(&self, status: &GroupStatus) -> u64 {
        let since = status.oldest_entry_ns;
        if since == 0 { 0 } else { self.wall_ns.saturating_sub(since) }
    }

    pub(super) fn snapshot_families(&self) -> Vec<MetricFamily> {
        let shard = &self.shard;
        let counters: [(&str, &str, f64); 7] = [
            ("ledger_snapshots_cut_total", "Snapshots cut here.", shard.snapshots_cut as f64),
            (
                "ledger_snapshots_cut_failed_total",
                "Snapshots that could not be cut.",
                shard.snapshots_cut_failed as f64,
            ),
            (
                "ledger_snapshots_installed_total",
                "Snapshots that became the state of a replica here.",
                shard.snapshots_installed as f64,
            ),
            (
                "ledger_snapshots_refused_total",
                "Snapshots brought here that are not what they say.",
                shard.snapshots_refused as f64,
            ),
            (
                "ledger_snapshot_bytes_sent_total",
                "Bytes of snapshots read to be sent.",
                shard.snapshot_bytes_out as f64,
            ),
            (
                "ledger_snapshot_bytes_received_total",
                "Bytes of snapshots received.",
                shard.snapshot_bytes_in as f64,
            ),
            (
                "ledger_snapshot_install_seconds_total",
                "Time spent installing snapshots.",
                shard.snapshot_install_ns as f64 / 1e9,
            ),
        ];
        let counters =
            counters.into_iter().map(|(name, help, value)| single_counter(name, help, value));
        let running = [
            single_gauge(
                "ledger_snapshot_fetches_running",
                "Snapshots that are being brought here.",
                self.snapshot_fetches as f64,
            ),
            single_gauge(
                "ledger_snapshot_streams_open",
                "Streams on which snapshots are being sent.",
                self.snapshot_streams as f64,
            ),
        ];
        counters.chain(running).collect()
    }
}
