//! One file per command.

mod audit;
mod audit_report;
mod checkpoint;
mod cluster;
mod export;
pub(crate) mod get;
mod history;
mod import;
pub(crate) mod list;
mod maintenance;
mod put;
pub(crate) mod receipt;
mod registry;
mod status;
mod trust;
pub(crate) mod verify;
mod watch;

use crate::args::{Arguments, ClusterCommand, Command, WorkloadCommand};
use crate::failure::Failure;
use crate::workload;

/// Carries a command out.
pub(crate) async fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Put(options) => put::put(options, global).await,
        Command::Delete(options) => put::delete(options, global).await,
        Command::Get(options) => get::run(options, global).await,
        Command::List(command) => list::run(command, global).await,
        Command::Import(options) => import::run(options, global).await,
        Command::Export(options) => export::run(options, global).await,
        Command::History(options) => history::run(options, global).await,
        Command::Receipt(options) => receipt::run(options, global).await,
        Command::Checkpoint(options) => checkpoint::run(options, global).await,
        Command::Watch(options) => watch::run(options, global).await,
        Command::Verify(options) => verify::run(options, global),
        Command::Audit(options) => audit::run(options, global).await,
        Command::Trust(command) => trust::run(command, global).await,
        Command::Status(options) => status::run(options, global).await,
        Command::Cluster(ClusterCommand::Info) => cluster::info(global).await,
        Command::Namespace(command) => registry::namespace(command, global).await,
        Command::Vault(command) => registry::vault(command, global).await,
        Command::RemoveExpired(options) => maintenance::remove_expired(options, global).await,
        Command::Workload(WorkloadCommand::Run(options)) => workload::run(options, global).await,
    }
}
