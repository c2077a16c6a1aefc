//! What the node tells Prometheus: names, help texts, and how a scrape is put together.
//!
//! Owns the registry and the table of metric names. Must never have a label per vault or namespace: only
//! groups, methods and fixed words.

mod clocks;
mod replication;
mod signing;
mod transport;

use std::collections::HashMap;
use std::time::Duration;

use ledger_shard::{GroupStatus, MetricsSnapshot, Role};
use ledger_types::NodeId;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramSample, LabelPair, Metric, MetricFamily,
    MetricType,
};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Registry,
    TextEncoder,
};

use crate::peer::PeerMetricsSnapshot;

/// Upper bounds of the request durations in seconds. 50, 100 and 500 ms are what alerts compare with.
const DURATION_BUCKETS_SECONDS: [f64; 17] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 10.0, 60.0,
];

/// Every method that has a duration of its own; all others share the label `other`.
const METHODS: [&str; 36] = [
    "ledger.v1.WriteService/Write",
    "ledger.v1.WriteService/BatchWrite",
    "ledger.v1.ReadService/Read",
    "ledger.v1.ReadService/BatchRead",
    "ledger.v1.ReadService/ListEntities",
    "ledger.v1.ReadService/ListRelationships",
    "ledger.v1.ReadService/ListResources",
    "ledger.v1.ReadService/HistoricalRead",
    "ledger.v1.ReadService/VerifiedRead",
    "ledger.v1.ReadService/WatchBlocks",
    "ledger.v1.ReadService/GetTip",
    "ledger.v1.ReadService/GetBlock",
    "ledger.v1.ReadService/GetBlockRange",
    "ledger.v1.ReadService/GetClientState",
    "ledger.v1.AdminService/CreateNamespace",
    "ledger.v1.AdminService/GetNamespace",
    "ledger.v1.AdminService/ListNamespaces",
    "ledger.v1.AdminService/CreateVault",
    "ledger.v1.AdminService/GetVault",
    "ledger.v1.AdminService/ListVaults",
    "ledger.v1.HealthService/Check",
    "ledger.v1.Ledger/GetStatus",
    "ledger.v1.Ledger/GetServerInfo",
    "ledger.v1.Ledger/GetCheckpoint",
    "ledger.v1.Ledger/VerifiedGet",
    "ledger.v1.Ledger/VerifiedList",
    "ledger.v1.Ledger/GetReceipt",
    "ledger.v1.Ledger/GetConsistencyProof",
    "ledger.v1.Ledger/GetTrustBundle",
    "ledger.v1.Ledger/WatchChanges",
    "ledger.v1.Ledger/WriteStream",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "ledger.internal.v1.Commands/Propose",
    "ledger.internal.v1.Cosigners/Cosign",
    OTHER_METHOD,
];
/// Label of methods without a line of their own.
const OTHER_METHOD: &str = "other";

/// Durations of requests, and watches: counted where they are served.
pub struct RequestMetrics {
    registry: Registry,
    durations: HashMap<&'static str, Histogram>,
    other: Histogram,
    watches_open: IntGauge,
    slow_watches: IntCounter,
}

impl std::fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestMetrics")
    }
}

impl Default for RequestMetrics {
    fn default() -> RequestMetrics {
        RequestMetrics::new()
    }
}

impl RequestMetrics {
    /// Nothing has been counted.
    pub fn new() -> RequestMetrics {
        let options = HistogramOpts::new(
            "ledger_request_duration_seconds",
            "Time from a request's headers to its response's headers, by gRPC method.",
        );
        let options = options.buckets(DURATION_BUCKETS_SECONDS.to_vec());
        let vector =
            HistogramVec::new(options, &["method"]).expect("the name and the buckets are legal");
        let durations: HashMap<&'static str, Histogram> =
            METHODS.iter().map(|method| (*method, vector.with_label_values(&[*method]))).collect();
        let registry = Registry::new();
        registry.register(Box::new(vector)).expect("the registry is empty");
        let other = durations[OTHER_METHOD].clone();
        let watches_open = IntGauge::new("ledger_watches_open", "Watches that this node serves.");
        let watches_open = watches_open.expect("the name is legal");
        let slow_watches = IntCounter::new(
            "ledger_slow_watches_total",
            "Watches that were ended because nobody read them.",
        );
        let slow_watches = slow_watches.expect("the name is legal");
        let another = "the registry has none of this name";
        registry.register(Box::new(watches_open.clone())).expect(another);
        registry.register(Box::new(slow_watches.clone())).expect(another);
        RequestMetrics { registry, durations, other, watches_open, slow_watches }
    }

    /// Watches that are open, also those that this node passes on.
    pub fn watches_open(&self) -> &IntGauge {
        &self.watches_open
    }

    /// Watches that this node ended because nobody read them.
    pub fn slow_watches(&self) -> &IntCounter {
        &self.slow_watches
    }

    /// The histogram for a request path such as `/ledger.v1.WriteService/Write`.
    pub fn duration_of(&self, path: &str) -> &Histogram {
        let method = path.strip_prefix('/').unwrap_or(path);
        self.durations.get(method).unwrap_or(&self.other)
    }

    /// The whole text of a scrape.
    pub fn render(&self, sample: &NodeSample) -> String {
        let mut families = self.registry.gather();
        families.extend(sample.families());
        families.sort_by(|left, right| left.name().cmp(right.name()));
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&families, &mut text).expect("writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// What the node looks like at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct NodeSample {
    /// Version of the binary.
    pub version: &'static str,
    /// Time since the process began to serve.
    pub uptime: Duration,
    /// Every group of this node.
    pub groups: Vec<GroupStatus>,
    /// The shard's counters.
    pub shard: MetricsSnapshot,
    /// Bytes of the node's store on disk.
    pub storage_bytes: u64,
    /// Vaults of this node's groups that agree with their other replicas, as far as is known here.
    pub vaults_healthy: u64,
    /// Vaults whose history here is not that of the others.
    pub vaults_diverged: u64,
    /// Bytes of requests and of messages that are in flight.
    pub bytes_in_flight: (u64, u64),
    /// True if the node takes requests.
    pub ready: bool,
    /// The transport's counters.
    pub peers: PeerMetricsSnapshot,
    /// Snapshots that are being brought here.
    pub snapshot_fetches: u64,
    /// Streams on which snapshots are sent.
    pub snapshot_streams: u64,
    /// States that this node cosigned.
    pub cosignatures: u64,
    /// Times that two histories of one log were met.
    pub signing_contradictions: u64,
    /// Requests that were refused because their namespace asked for too much.
    pub rate_limited: u64,
    /// Entities that were removed because they had expired.
    pub expired_entities: u64,
    /// By how many seconds the clocks of other nodes are ahead of this one's.
    pub clock_skews: Vec<(NodeId, f64)>,
    /// True if this node's clock differs too much from those of most nodes.
    pub clock_is_off: bool,
    /// Vaults that were purged because this node asked for it.
    pub vaults_purged: u64,
    /// Deleted vaults of which rows are stored here.
    pub vaults_awaiting_purge: u64,
    /// The time in Unix nanoseconds, from which ages are told.
    pub wall_ns: u64,
}

impl NodeSample {
    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.group_families();
        families.extend(self.shard_families());
        families.extend(self.log_families());
        families.extend(self.snapshot_families());
        families.extend(self.transport_families());
        families.extend(self.signing_families());
        families.extend(self.clock_families());
        families.extend(self.node_families());
        families
    }

    fn group_families(&self) -> Vec<MetricFamily> {
        let by_group = |name: &str, help: &str, value: &dyn Fn(&GroupStatus) -> f64| {
            let metrics = self.groups.iter().map(|status| {
                gauge(vec![label("group", &status.group.to_string())], value(status))
            });
            family(name, help, MetricType::GAUGE, metrics.collect())
        };
        let families = vec![
            by_group("ledger_raft_term", "Raft term of the group's replica here.", &|status| {
                status.term as f64
            }),
            by_group(
                "ledger_raft_commit_index",
                "Newest log entry known here to be on a quorum.",
                &|status| status.commit as f64,
            ),
            by_group("ledger_raft_applied_index", "Newest log entry applied here.", &|status| {
                status.applied as f64
            }),
            by_group(
                "ledger_raft_is_leader",
                "1 if this node leads the group, else 0.",
                &|status| f64::from(u8::from(status.role == Role::Leader)),
            ),
            by_group(
                "ledger_raft_has_leader",
                "1 if this node knows a leader of the group, else 0.",
                &|status| f64::from(u8::from(status.leader.is_some())),
            ),
            by_group(
                "ledger_raft_replication_lag_entries",
                "On the leader: entries that its slowest recently active voter lacks; 0 elsewhere.",
                &|status| status.lag_max as f64,
            ),
        ];
        families.into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }

    fn shard_families(&self) -> Vec<MetricFamily> {
        let shard = &self.shard;
        let counters: [(&str, &str, f64); 11] = [
            ("ledger_blocks_total", "Blocks applied by this node.", shard.blocks as f64),
            ("ledger_raft_syncs_total", "Syncs of the log to disk.", shard.syncs as f64),
            (
                "ledger_raft_sync_seconds_total",
                "Time spent in syncs of the log.",
                shard.sync_ns as f64 / 1e9,
            ),
            (
                "ledger_raft_entries_persisted_total",
                "Log entries written.",
                shard.entries_persisted as f64,
            ),
            (
                "ledger_raft_log_bytes_total",
                "Bytes of the batches written to the log.",
                shard.log_bytes as f64,
            ),
            ("ledger_apply_entries_total", "Log entries applied.", shard.entries_applied as f64),
            (
                "ledger_apply_bytes_total",
                "Bytes of rows written by apply.",
                shard.apply_bytes as f64,
            ),
            ("ledger_apply_seconds_total", "Time spent applying.", shard.apply_ns as f64 / 1e9),
            (
                "ledger_requests_shed_total",
                "Requests refused at the door because too many bytes were in flight.",
                shard.refused_busy as f64,
            ),
            (
                "ledger_raft_messages_received_total",
                "Raft messages taken in.",
                shard.messages_in as f64,
            ),
            (
                "ledger_raft_messages_dropped_total",
                "Raft messages dropped because the queue was full.",
                shard.messages_dropped as f64,
            ),
        ];
        let counters =
            counters.into_iter().map(|(name, help, value)| single_counter(name, help, value));
        let backlog = single_gauge(
            "ledger_apply_backlog_bytes",
            "Bytes of committed entries that wait to be applied.",
            shard.apply_backlog_bytes as f64,
        );
        counters.chain([backlog, groups_per_sync(shard)]).collect()
    }

    fn node_families(&self) -> Vec<MetricFamily> {
        let build = vec![label("version", self.version)];
        let healthy = vec![label("state", "healthy")];
        let diverged = vec![label("state", "diverged")];
        let recovering = vec![label("state", "recovering")];
        let vaults = vec![
            gauge(diverged, self.vaults_diverged as f64),
            gauge(healthy, self.vaults_healthy as f64),
            gauge(recovering, 0.0),
        ];
        let (requests, messages) = self.bytes_in_flight;
        vec![
            family(
                "ledger_build_info",
                "1, with the version of the binary as a label.",
                MetricType::GAUGE,
                vec![gauge(build, 1.0)],
            ),
            family(
                "vault_health",
                "Vaults of this node's groups by whether they agree with their other replicas.",
                MetricType::GAUGE,
                vaults,
            ),
            single_gauge(
                "ledger_storage_bytes",
                "Bytes of this node's store on disk.",
                self.storage_bytes as f64,
            ),
            single_gauge(
                "ledger_uptime_seconds",
                "Time since the process began to serve.",
                self.uptime.as_secs_f64(),
            ),
            single_gauge(
                "ledger_ready",
                "1 if the node takes requests, else 0.",
                f64::from(u8::from(self.ready)),
            ),
            single_gauge(
                "ledger_requests_in_flight_bytes",
                "Bytes of requests in the node's groups.",
                requests as f64,
            ),
            single_gauge(
                "ledger_raft_messages_in_flight_bytes",
                "Bytes of Raft messages that wait for the node's groups.",
                messages as f64,
            ),
        ]
    }
}

/// Groups that shared a sync, as a histogram. The shard counts in powers of two, so the sum is the least
/// that the counts allow.
fn groups_per_sync(shard: &MetricsSnapshot) -> MetricFamily {
    let mut cumulative = 0;
    let mut sum = 0;
    let mut buckets = Vec::with_capacity(shard.groups_per_sync.len());
    for (index, &count) in shard.groups_per_sync.iter().enumerate() {
        cumulative += count;
        sum += count << index;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(((1u64 << (index + 1)) - 1) as f64);
        buckets.push(bucket);
    }
    // The last bucket has no upper end; the text format adds it from the count.
    buckets.pop();
    let mut sample = HistogramSample::default();
    sample.set_sample_count(cumulative);
    sample.set_sample_sum(sum as f64);
    sample.set_bucket(buckets);
    let mut metric = Metric::from_label(Vec::new());
    metric.set_histogram(sample);
    family(
        "ledger_raft_groups_per_sync",
        "Groups whose writes shared one sync of the log. The sum counts each sync at its bucket's lower end.",
        MetricType::HISTOGRAM,
        vec![metric],
    )
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn single_counter(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![counter(Vec::new(), value)])
}

fn single_gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![gauge(Vec::new(), value)])
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests;
