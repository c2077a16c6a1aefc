//! The table of settings: names, defaults and what each is for.
//!
//! Owns nothing but the table, which the operator's page repeats. What a value means is `Config`'s to say.

/// A setting as users see it.
#[derive(Debug)]
pub struct Setting {
    /// Environment variable.
    pub env: &'static str,
    /// Command-line flag without dashes; with underscores instead of dashes it is the TOML key.
    pub flag: &'static str,
    /// Default as written; empty if it is derived.
    pub default: &'static str,
    /// What it means, with its unit.
    pub doc: &'static str,
}

/// Every setting of a node.
pub const SETTINGS: &[Setting] = &[
    Setting {
        env: "LEDGER_NODE_ID",
        flag: "node-id",
        default: "",
        doc: "Name of the node, [a-z0-9.-]; default: the ordinal that ends the host name, else 0",
    },
    Setting {
        env: "LEDGER_LISTEN_ADDR",
        flag: "listen-addr",
        default: "0.0.0.0:50051",
        doc: "Address of the gRPC listener",
    },
    Setting {
        env: "LEDGER_HTTP_ADDR",
        flag: "http-addr",
        default: "0.0.0.0:9090",
        doc: "Address of the HTTP listener: metrics, probes and logs of vaults",
    },
    Setting {
        env: "LEDGER_ADVERTISE_ADDR",
        flag: "advertise-addr",
        default: "",
        doc: "host:port under which other nodes and clients reach this node; default: the host name \
              (the listen address if that is no wildcard) with the listener's port",
    },
    Setting {
        env: "LEDGER_DATA_DIR",
        flag: "data-dir",
        default: "/data",
        doc: "Directory of the node's one store",
    },
    Setting {
        env: "LEDGER_PEERS",
        flag: "peers",
        default: "",
        doc: "Addresses of peers, host:port separated by commas; default: the addresses behind the \
              headless service",
    },
    Setting {
        env: "LEDGER_HEADLESS_SERVICE",
        flag: "headless-service",
        default: "inferadb-ledger:50051",
        doc: "host:port whose DNS addresses are the peers when no peers are given",
    },
    Setting {
        env: "BOOTSTRAP_EXPECT",
        flag: "bootstrap-expect",
        default: "3",
        doc: "Nodes that found the cluster together; acts only on an empty data directory",
    },
    Setting {
        env: "LEDGER_CLUSTER_DOMAIN",
        flag: "cluster-domain",
        default: "",
        doc: "Name of the cluster in signed notes, used when it is founded; default: from its id",
    },
    Setting {
        env: "LEDGER_ZONE",
        flag: "zone",
        default: "",
        doc: "Failure zone of the node, told to the directory",
    },
    Setting {
        env: "LEDGER_SHARDS",
        flag: "shards",
        default: "8",
        doc: "Data shards made when the cluster is founded",
    },
    Setting {
        env: "LEDGER_REPLICATION_FACTOR",
        flag: "replication-factor",
        default: "3",
        doc: "Replicas of a shard, at most as many as there are nodes",
    },
    Setting {
        env: "LEDGER_NOTE_THRESHOLD",
        flag: "note-threshold",
        default: "majority",
        doc: "Voters that must cosign a note, used when the cluster is founded: majority, all or a number",
    },
    Setting {
        env: "LEDGER_AUTO_CREATE_VAULTS",
        flag: "auto-create-vaults",
        default: "false",
        doc: "Create a vault that a write names and nobody created",
    },
    Setting {
        env: "LEDGER_DRIVER_MODE",
        flag: "driver-mode",
        default: "inline",
        doc: "inline: one thread drives, persists and applies; staged: a thread for each",
    },
    Setting {
        env: "LEDGER_WRITE_BUFFER_BYTES",
        flag: "write-buffer-bytes",
        default: "67108864",
        doc: "Bytes of unflushed writes that the store keeps in memory",
    },
    Setting {
        env: "LEDGER_BLOCK_CACHE_BYTES",
        flag: "block-cache-bytes",
        default: "",
        doc: "Bytes of the store's block cache; default: a 32nd of the memory, 64 to 512 MiB",
    },
    Setting {
        env: "LEDGER_TREE_CACHE_BYTES",
        flag: "tree-cache-bytes",
        default: "",
        doc: "Bytes of state-tree nodes kept in memory over all vaults; default: as the block cache",
    },
    Setting {
        env: "LEDGER_NAMESPACE_OPERATIONS_PER_SECOND",
        flag: "namespace-operations-per-second",
        default: "200000",
        doc: "Operations that a namespace may ask of this node in a second; 0 for any number",
    },
    Setting {
        env: "LEDGER_EXPIRY_INTERVAL_MS",
        flag: "expiry-interval-ms",
        default: "1000",
        doc: "Milliseconds between looks for expired entities to remove; 0 for never",
    },
    Setting {
        env: "LEDGER_EXPIRY_RATE",
        flag: "expiry-rate",
        default: "2000",
        doc: "Expired entities that a node removes in a second, at most",
    },
    Setting {
        env: "LEDGER_CLOCK_SKEW_MAX_MS",
        flag: "clock-skew-max-ms",
        default: "500",
        doc: "Milliseconds by which the clock may differ from those of most nodes before the node leads no more; 0 for any number",
    },
    Setting {
        env: "LEDGER_DELETED_RETENTION_S",
        flag: "deleted-retention-s",
        default: "2592000",
        doc: "Seconds for which the data of a deleted vault stays; 0 removes it as soon as possible, never keeps it",
    },
    Setting {
        env: "LEDGER_APPLY_THREADS",
        flag: "apply-threads",
        default: "",
        doc: "Threads that apply the vaults of a round side by side; default: a quarter of the processors, at least 1",
    },
    Setting {
        env: "LEDGER_WORKER_THREADS",
        flag: "worker-threads",
        default: "",
        doc: "Threads that serve requests; default: half the processors, at least 1",
    },
    Setting {
        env: "LEDGER_TICK_MS",
        flag: "tick-ms",
        default: "50",
        doc: "Milliseconds of a Raft tick; elections begin after 10 to 20 ticks without a leader",
    },
    Setting {
        env: "LEDGER_CHECKPOINT_INTERVAL_MS",
        flag: "checkpoint-interval-ms",
        default: "10000",
        doc: "Milliseconds after which a vault with new blocks gets a signed checkpoint in its group's log; \
              0 for never",
    },
    Setting {
        env: "LEDGER_RAFT_LOG_ENTRIES_MAX",
        flag: "raft-log-entries-max",
        default: "100000",
        doc: "Entries of a group's log kept for members that lag; one further behind gets a snapshot",
    },
    Setting {
        env: "LEDGER_RAFT_LOG_BYTES_MAX",
        flag: "raft-log-bytes-max",
        default: "67108864",
        doc: "Bytes of a group's log kept for members that lag; one further behind gets a snapshot",
    },
    Setting {
        env: "LEDGER_SNAPSHOT_BYTES_PER_SECOND",
        flag: "snapshot-bytes-per-second",
        default: "16777216",
        doc: "Bytes of snapshots that the node sends in a second, to all receivers together",
    },
    Setting {
        env: "LEDGER_HISTORY_BLOCKS",
        flag: "history-blocks",
        default: "",
        doc: "Blocks of a vault below its tip at which this node can still be asked for the state; \
              default: all",
    },
    Setting {
        env: "LEDGER_LOG",
        flag: "log",
        default: "info",
        doc: "Log filter: a level, or targets with levels",
    },
    Setting {
        env: "LEDGER_LOG_FORMAT",
        flag: "log-format",
        default: "",
        doc: "json or text; default: text on a terminal, else json",
    },
];
