//! What a scrape tells of the nodes' clocks.
//!
//! Owns the one family with a label per node; a node hears of few others.

use prometheus::proto::{MetricFamily, MetricType};

use super::{NodeSample, family, gauge, label, single_gauge};

impl NodeSample {
    pub(super) fn clock_families(&self) -> Vec<MetricFamily> {
        let skews = self
            .clock_skews
            .iter()
            .map(|(node, seconds)| gauge(vec![label("node", &node.0.to_string())], *seconds));
        let help =
            "By how much the clock of another node is ahead of this one's, as measured lately.";
        let skews = family("ledger_clock_skew_seconds", help, MetricType::GAUGE, skews.collect());
        let is_off = single_gauge(
            "ledger_clock_is_off",
            "1 if this node's clock differs too much from those of most nodes, else 0.",
            f64::from(u8::from(self.clock_is_off)),
        );
        [skews, is_off].into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }
}
