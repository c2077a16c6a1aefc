//! Arguments of `workload`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ledger_types::VaultRef;

use crate::names;

#[derive(Subcommand, Debug)]
pub(crate) enum WorkloadCommand {
    /// Clients that each send the next request when the last one is answered.
    Run(WorkloadOptions),
}

/// What a workload does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Work {
    /// Transactions of one entity.
    Write,
    /// Transactions of many entities, see --batch.
    Batch,
    /// Transactions of relationships, as many as --batch says.
    Relationship,
    /// Reads that any replica answers.
    ReadEventual,
    /// Reads that show every acknowledged write.
    ReadLinearizable,
    /// Reads whose proofs are checked.
    Verified,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct WorkloadOptions {
    /// What to do.
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) op: Work,
    /// Clients; each has one request under way.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Connections to each node, shared by the clients.
    #[arg(long, default_value_t = 2)]
    pub(crate) connections: usize,
    /// How long to measure.
    #[arg(long, default_value = "10s", value_parser = names::duration)]
    pub(crate) duration: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "1s", value_parser = names::duration)]
    pub(crate) warmup: Duration,
    /// Vaults to use, namespace/vault, separated by commas; instead of --namespace.
    #[arg(long, value_delimiter = ',', value_parser = names::vault)]
    pub(crate) vaults: Vec<VaultRef>,
    /// Namespace to use, by number or name; a name is made if it is unknown.
    #[arg(long, short = 'n', env = "LEDGER_NAMESPACE", default_value = "workload")]
    pub(crate) namespace: String,
    /// Vaults to use in the namespace; missing ones are made.
    #[arg(long, default_value_t = 16)]
    pub(crate) vault_count: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub(crate) value_bytes: usize,
    /// Operations in a transaction of --op batch and relationship.
    #[arg(long, default_value_t = 100)]
    pub(crate) batch: usize,
    /// Different keys in each vault; reads write them first.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// Requests a second of all clients together, at most; without it, as many as are answered.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Threads of this program.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Send writes on one stream to each node, shared by the clients, instead of as requests of their own.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Writes that each client has under way on the stream.
    #[arg(long, default_value_t = 1, requires = "stream")]
    pub(crate) in_flight: usize,
}
