//! Arguments of what operators have done to vaults: files of them, and the removal of what has expired.

use clap::Args;

use super::VaultChoice;

#[derive(Args, Debug)]
pub(crate) struct VaultSnapshotOptions {
    #[command(flatten)]
    pub(crate) vault: VaultChoice,
    /// The node on whose disk the file is to be, host:port; it must hold the vault [default: any that does].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node: Option<String>,
}

/// The environment's namespace and vault are not taken: what is meant has to be said.
#[derive(Args, Debug)]
pub(crate) struct RemoveExpiredOptions {
    /// In all vaults of this namespace, by number or name, and among its own entities.
    #[arg(long, short = 'n', required_unless_present = "all", conflicts_with = "all")]
    pub(crate) namespace: Option<String>,
    /// In this vault of it alone; 0 holds the namespace's own entities.
    #[arg(long, short = 'v', requires = "namespace", conflicts_with = "all")]
    pub(crate) vault: Option<u64>,
    /// In all vaults of all namespaces.
    #[arg(long)]
    pub(crate) all: bool,
}
