//! Arguments of what operators have done to vaults: files of them.

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
