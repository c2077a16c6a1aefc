//! What a scrape tells of signatures and of the work on vaults that nobody asked for.
//!
//! Owns the names of their counters. Must never have a label per vault.

use prometheus::proto::MetricFamily;

use super::{NodeSample, single_counter, single_gauge};

impl NodeSample {
    pub(super) fn signing_families(&self) -> Vec<MetricFamily> {
        vec![
            single_counter(
                "ledger_cosignatures_total",
                "States of vaults' logs that this node cosigned, its own and those of other leaders.",
                self.cosignatures as f64,
            ),
            single_counter(
                "ledger_signing_contradictions_total",
                "Times that two histories of one log were met: here and in what this node had signed, or on two nodes.",
                self.signing_contradictions as f64,
            ),
            single_counter(
                "ledger_expired_entities_total",
                "Entities that this node, leading their group, had removed because they had expired.",
                self.expired_entities as f64,
            ),
            single_counter(
                "ledger_vaults_purged_total",
                "Deleted vaults whose data this node, leading their group, had removed for good.",
                self.vaults_purged as f64,
            ),
            single_gauge(
                "ledger_vaults_awaiting_purge",
                "Deleted vaults whose data is still stored here.",
                self.vaults_awaiting_purge as f64,
            ),
            single_counter(
                "ledger_rate_limited_total",
                "Requests refused because their namespace asked this node for more than it may.",
                self.rate_limited as f64,
            ),
        ]
    }
}
