//! The node's settings: one table from which flags, environment, file and documentation follow.
//!
//! Owns names, defaults and validation. Precedence: flags, environment, TOML file, defaults. Must never
//! ignore a key that it does not know, nor read anything after start.

mod memory;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger_proof::Threshold;
use ledger_shard::DriverMode;
use ledger_types::check_name;
use thiserror::Error;

pub use memory::available_bytes;
pub use settings::{SETTINGS, Setting};

/// Variables under our prefix that belong to the command-line tools.
const TOOL_VARIABLES: &[&str] = &[
    "LEDGER_BIN",
    "LEDGER_CLIENT_ID",
    "LEDGER_CONFIG",
    "LEDGER_DEADLINE",
    "LEDGER_ENDPOINTS",
    "LEDGER_NAMESPACE",
    "LEDGER_OUTPUT",
    "LEDGER_STATE_DIR",
    "LEDGER_TRUST",
    "LEDGER_TRUST_ON_FIRST_USE",
    "LEDGER_VAULT",
];

/// Variables by which tests change what a node does; they exist in builds for tests only.
#[cfg(feature = "failpoints")]
const TEST_VARIABLES: &[&str] =
    &[crate::test_hooks::DIAL_VARIABLE, crate::test_hooks::POINTS_VARIABLE];
#[cfg(not(feature = "failpoints"))]
const TEST_VARIABLES: &[&str] = &[];

/// Longest retention of a deleted vault's data in seconds: a hundred years.
const RETENTION_SECONDS_MAX: u64 = 3_155_760_000;

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// The table.
    Default,
    /// The TOML file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Default => "default",
            Origin::File => "file",
            Origin::Environment => "environment",
            Origin::Flag => "flag",
        })
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A key that no setting has.
    #[error("unknown setting `{key}` in the {origin}{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Where it was.
        origin: Origin,
        /// The nearest known one.
        suggestion: Option<String>,
    },
    /// A value that its setting does not take.
    #[error("`{value}` is not a value of {flag} (from the {origin}): {reason}")]
    BadValue {
        /// The setting's flag.
        flag: &'static str,
        /// The value as written.
        value: String,
        /// Where it was.
        origin: Origin,
        /// What would be right.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or holds more than plain keys.
    #[error("the configuration file {path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Settings as written, each with its origin.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl RawConfig {
    /// Gathers all layers. `flags` are (flag, value) pairs; `environment` is the whole environment.
    pub fn gather(
        flags: &[(String, String)],
        environment: impl Iterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<RawConfig, ConfigError> {
        let mut raw = RawConfig::default();
        for setting in SETTINGS {
            raw.values.insert(setting.flag, (setting.default.to_owned(), Origin::Default));
        }
        if let Some(path) = file {
            raw.read_file(path)?;
        }
        for (name, value) in environment {
            match SETTINGS.iter().find(|setting| setting.env == name) {
                Some(setting) => raw.set(setting.flag, value, Origin::Environment),
                None if is_foreign(&name) => {}
                None => return Err(unknown(name, Origin::Environment, |setting| setting.env)),
            }
        }
        for (flag, value) in flags {
            match SETTINGS.iter().find(|setting| setting.flag == flag) {
                Some(setting) => raw.set(setting.flag, value.clone(), Origin::Flag),
                None => return Err(unknown(flag.clone(), Origin::Flag, |setting| setting.flag)),
            }
        }
        Ok(raw)
    }

    /// The value of a setting and where it came from.
    pub fn get(&self, flag: &str) -> (&str, Origin) {
        let (value, origin) =
            self.values.get(flag).expect("every setting of the table has a value");
        (value, *origin)
    }

    fn set(&mut self, flag: &'static str, value: String, origin: Origin) {
        self.values.insert(flag, (value, origin));
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let table: toml::Table = text.parse().map_err(|error| malformed(format!("{error}")))?;
        for (key, value) in table {
            let known = SETTINGS.iter().find(|setting| setting.flag.replace('-', "_") == key);
            let Some(setting) = known else {
                return Err(unknown(key, Origin::File, |setting| setting.flag));
            };
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                _ => return Err(malformed(format!("`{key}` must be text, a number or a flag"))),
            };
            self.set(setting.flag, value, Origin::File);
        }
        Ok(())
    }

    fn parse<T>(
        &self,
        flag: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (value, origin) = self.get(flag);
        let value = value.trim();
        read(value).map_err(|reason| ConfigError::BadValue {
            flag,
            value: value.to_owned(),
            origin,
            reason,
        })
    }
}

/// Variables that orchestration puts under our prefix when a service has our name.
fn is_foreign(name: &str) -> bool {
    let ours = name.starts_with("LEDGER_") || name == "BOOTSTRAP_EXPECT";
    let rest = name.strip_prefix("LEDGER_").unwrap_or_default();
    let service_link = rest == "PORT"
        || rest.starts_with("PORT_")
        || rest.contains("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || (rest.contains("_PORT_") && rest.contains("_TCP"));
    !ours || service_link || TOOL_VARIABLES.contains(&name) || TEST_VARIABLES.contains(&name)
}

fn unknown(key: String, origin: Origin, name: fn(&Setting) -> &'static str) -> ConfigError {
    let normal = key.replace('_', "-").to_lowercase();
    let nearest = SETTINGS
        .iter()
        .map(|setting| {
            (distance(&normal, &name(setting).replace('_', "-").to_lowercase()), name(setting))
        })
        .min_by_key(|(distance, _)| *distance);
    let suggestion = nearest.filter(|(distance, _)| *distance <= 4).map(|(_, name)| {
        if origin == Origin::File { name.replace('-', "_") } else { name.to_owned() }
    });
    ConfigError::UnknownKey { key, origin, suggestion }
}

/// Levenshtein distance, for suggestions.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[right.len()]
}

/// Settings as used: validated, with everything derived.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub name: String,
    /// gRPC listener.
    pub listen_addr: SocketAddr,
    /// HTTP listener.
    pub http_addr: SocketAddr,
    /// host:port for others; derived from the host name if `None`.
    pub advertise_addr: Option<String>,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Configured peers, host:port; empty to ask DNS.
    pub peers: Vec<String>,
    /// host:port whose DNS addresses are the peers when none are configured.
    pub headless_service: String,
    /// Founders of the cluster.
    pub bootstrap_expect: usize,
    /// Name of the cluster in signed notes, if chosen.
    pub cluster_domain: Option<String>,
    /// Failure zone.
    pub zone: String,
    /// Data shards made at founding.
    pub shards: u32,
    /// Replicas of a shard.
    pub replication_factor: u32,
    /// Voters that must cosign a note, written into the first trust bundle.
    pub note_threshold: Threshold,
    /// Create vaults on first write.
    pub auto_create_vaults: bool,
    /// How driver, log and apply share threads.
    pub driver_mode: DriverMode,
    /// Bytes of unflushed writes.
    pub write_buffer_bytes: usize,
    /// Bytes of the block cache.
    pub block_cache_bytes: usize,
    /// Bytes of state-tree nodes in memory.
    pub tree_cache_bytes: usize,
    /// Operations of a namespace in a second; 0 for any number.
    pub namespace_operations_per_second: u64,
    /// Time between looks for expired entities; zero for never.
    pub expiry_interval: Duration,
    /// Expired entities removed in a second, at most.
    pub expiry_rate: u64,
    /// What the clock may differ by from those of most nodes; zero for anything.
    pub clock_skew_max: Duration,
    /// Time for which a deleted vault's data stays; `None` for ever.
    pub deleted_retention: Option<Duration>,
    /// Threads that apply the vaults of a round.
    pub apply_threads: usize,
    /// Threads that serve requests.
    pub worker_threads: usize,
    /// Milliseconds of a Raft tick.
    pub tick_ms: u64,
    /// Time after which a vault with new blocks gets a checkpoint in its group's log; zero for never.
    pub checkpoint_interval: Duration,
    /// Entries of a group's log kept for members that lag.
    pub raft_log_entries_max: u64,
    /// Bytes of a group's log kept for members that lag.
    pub raft_log_bytes_max: u64,
    /// Bytes of snapshots sent in a second.
    pub snapshot_bytes_per_second: u64,
    /// Blocks below a vault's tip whose state can be read and proved here; `None` for all.
    pub history_blocks: Option<u64>,
    /// Log filter.
    pub log: String,
    /// Log as JSON; `None` to decide by the terminal.
    pub log_json: Option<bool>,
}

/// What defaults derive from.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its name.
    pub host_name: &'a str,
    /// Its processors.
    pub processors: usize,
    /// Bytes of memory that this process may use; 0 if unknown.
    pub memory_bytes: u64,
}

impl Config {
    /// Validates settings.
    pub fn from_raw(raw: &RawConfig, machine: Machine<'_>) -> Result<Config, ConfigError> {
        let Machine { host_name, processors, memory_bytes } = machine;
        let cache = |text: &str| match text {
            "" => Ok(memory::default_cache_bytes(memory_bytes)),
            text => bytes(text),
        };
        let expect = raw.parse("bootstrap-expect", |text| number(text, 1, 7))?;
        let replicas = raw.parse("replication-factor", |text| number(text, 1, 7))?;
        Ok(Config {
            name: raw.parse("node-id", |text| node_name(text, host_name))?,
            listen_addr: raw.parse("listen-addr", address)?,
            http_addr: raw.parse("http-addr", address)?,
            advertise_addr: raw.parse("advertise-addr", optional_host_port)?,
            data_dir: raw.parse("data-dir", path)?,
            peers: raw.parse("peers", host_ports)?,
            headless_service: raw.parse("headless-service", host_port)?,
            bootstrap_expect: usize::try_from(expect).expect("at most 7"),
            cluster_domain: raw.parse("cluster-domain", optional_name)?,
            zone: raw.parse("zone", |text| Ok(text.to_owned()))?,
            shards: raw.parse("shards", |text| number(text, 1, 10_000))? as u32,
            replication_factor: replicas as u32,
            note_threshold: raw
                .parse("note-threshold", |text| note_threshold(text, expect, replicas))?,
            auto_create_vaults: raw.parse("auto-create-vaults", flag)?,
            driver_mode: raw.parse("driver-mode", driver_mode)?,
            write_buffer_bytes: raw.parse("write-buffer-bytes", bytes)?,
            block_cache_bytes: raw.parse("block-cache-bytes", cache)?,
            tree_cache_bytes: raw.parse("tree-cache-bytes", cache)?,
            namespace_operations_per_second: raw
                .parse("namespace-operations-per-second", |text| number(text, 0, 1_000_000_000))?,
            expiry_interval: raw
                .parse("expiry-interval-ms", |text| number(text, 0, 86_400_000))
                .map(Duration::from_millis)?,
            expiry_rate: raw.parse("expiry-rate", |text| number(text, 1, 1_000_000))?,
            clock_skew_max: raw
                .parse("clock-skew-max-ms", |text| number(text, 0, 86_400_000))
                .map(Duration::from_millis)?,
            deleted_retention: raw.parse("deleted-retention-s", deleted_retention)?,
            apply_threads: raw.parse("apply-threads", |text| threads(text, processors / 4))?,
            worker_threads: raw.parse("worker-threads", |text| threads(text, processors / 2))?,
            tick_ms: raw.parse("tick-ms", |text| number(text, 5, 1_000))?,
            checkpoint_interval: raw
                .parse("checkpoint-interval-ms", |text| number(text, 0, 86_400_000))
                .map(Duration::from_millis)?,
            raft_log_entries_max: raw
                .parse("raft-log-entries-max", |text| number(text, 10, 100_000_000))?,
            raft_log_bytes_max: raw
                .parse("raft-log-bytes-max", |text| number(text, 64 << 10, 1 << 40))?,
            snapshot_bytes_per_second: raw
                .parse("snapshot-bytes-per-second", |text| number(text, 64 << 10, 1 << 40))?,
            history_blocks: raw.parse("history-blocks", history_blocks)?,
            log: raw.parse("log", |text| Ok(text.to_owned()))?,
            log_json: raw.parse("log-format", log_format)?,
        })
    }
}

fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {min} to {max}")),
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let bytes = number(text, 1 << 20, 1 << 40)?;
    usize::try_from(bytes).map_err(|_| "too large for this machine".to_owned())
}

fn threads(text: &str, default: usize) -> Result<usize, String> {
    if text.is_empty() {
        return Ok(default.max(1));
    }
    number(text, 1, 1024).map(|count| usize::try_from(count).expect("at most 1024"))
}

/// The threshold that founders of this number write down. Errors if no note of some voter set could meet it: the
/// directory's voters are the founders, a shard's are as many of them as it has replicas.
fn note_threshold(text: &str, founders: u64, replicas: u64) -> Result<Threshold, String> {
    let fixed = |count| Threshold::Fixed(u16::try_from(count).expect("at most 7"));
    match text {
        "majority" => Ok(Threshold::Majority),
        "all" if replicas < founders => Err(format!(
            "a shard has {replicas} replicas and the directory {founders}: `all` needs as many of both"
        )),
        "all" => Ok(fixed(founders)),
        _ => number(text, 1, founders.min(replicas)).map(fixed).map_err(|reason| {
            format!("expected majority or all, or {}", &reason["expected ".len()..])
        }),
    }
}

fn history_blocks(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    number(text, 1, u64::MAX).map(Some)
}

fn deleted_retention(text: &str) -> Result<Option<Duration>, String> {
    if text == "never" {
        return Ok(None);
    }
    let seconds = number(text, 0, RETENTION_SECONDS_MAX);
    let expected =
        || format!("expected never, or a whole number from 0 to {RETENTION_SECONDS_MAX}");
    seconds.map(|seconds| Some(Duration::from_secs(seconds))).map_err(|_| expected())
}

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".to_owned())
}

fn driver_mode(text: &str) -> Result<DriverMode, String> {
    match text {
        "inline" => Ok(DriverMode::Inline),
        "staged" => Ok(DriverMode::Staged),
        _ => Err("expected inline or staged".to_owned()),
    }
}

fn log_format(text: &str) -> Result<Option<bool>, String> {
    match text {
        "" => Ok(None),
        "json" => Ok(Some(true)),
        "text" => Ok(Some(false)),
        _ => Err("expected json or text".to_owned()),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("expected a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 0.0.0.0:50051".to_owned())
}

fn host_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let legal = parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if legal { Ok(text.to_owned()) } else { Err("expected host:port".to_owned()) }
}

fn optional_host_port(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() { Ok(None) } else { host_port(text).map(Some) }
}

fn host_ports(text: &str) -> Result<Vec<String>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(host_port).collect()
}

fn optional_name(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    check_name("cluster-domain", text).map_err(|error| error.to_string())?;
    Ok(Some(text.to_owned()))
}

/// The configured name, else the ordinal that ends the host name (`ledger-2` is `2`), else `0`.
fn node_name(text: &str, host_name: &str) -> Result<String, String> {
    let ordinal = host_name.rsplit_once('-').map(|(_, last)| last);
    let ordinal =
        ordinal.filter(|last| !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()));
    let name = if text.is_empty() { ordinal.unwrap_or("0") } else { text };
    check_name("node-id", name).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
