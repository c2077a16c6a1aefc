//! What a scrape tells of the messages between nodes.
//!
//! Owns the names of the transport's counters. Must never have a label per node.

use prometheus::proto::{MetricFamily, MetricType};

use super::{NodeSample, counter, family, label, single_counter, single_gauge};

impl NodeSample {
    pub(super) fn transport_families(&self) -> Vec<MetricFamily> {
        let peers = &self.peers;
        let counters: [(&str, &str, u64); 9] = [
            (
                "ledger_peer_frames_sent_total",
                "Frames of messages sent to other nodes.",
                peers.frames_out,
            ),
            (
                "ledger_peer_frames_received_total",
                "Frames of messages received from other nodes.",
                peers.frames_in,
            ),
            (
                "ledger_peer_messages_sent_total",
                "Raft messages sent to other nodes.",
                peers.messages_out,
            ),
            (
                "ledger_peer_messages_received_total",
                "Raft messages received from other nodes.",
                peers.messages_in,
            ),
            (
                "ledger_peer_bytes_sent_total",
                "Bytes of the messages sent to other nodes.",
                peers.bytes_out,
            ),
            (
                "ledger_peer_bytes_received_total",
                "Bytes of the messages received from other nodes.",
                peers.bytes_in,
            ),
            ("ledger_peer_connects_total", "Streams opened to other nodes.", peers.connects),
            ("ledger_peer_disconnects_total", "Streams to other nodes lost.", peers.disconnects),
            (
                "ledger_peer_refusals_total",
                "Nodes turned away, and times that this node was.",
                peers.refusals,
            ),
        ];
        let counters = counters
            .into_iter()
            .map(|(name, help, value)| single_counter(name, help, value as f64));
        let dropped = [
            ("control_queue_full", peers.dropped_control),
            ("data_queue_full", peers.dropped_data),
            ("not_connected", peers.dropped_unsent),
        ];
        let dropped =
            dropped.map(|(why, count)| counter(vec![label("why", why)], count as f64)).into();
        let dropped = family(
            "ledger_peer_messages_dropped_total",
            "Raft messages to other nodes that were lost before they were sent.",
            MetricType::COUNTER,
            dropped,
        );
        let round_trip = single_gauge(
            "ledger_peer_round_trip_seconds",
            "The latest measured time between a frame's leaving and its acknowledgement.",
            peers.round_trip_ns as f64 / 1e9,
        );
        counters.chain([dropped, round_trip]).collect()
    }
}
