//! Makes what is so follow what the directory says: replicas on this node, shards and vaults of the cluster.
//!
//! Owns no state: every step is found from the directory anew and is idempotent, so that any node can go
//! on where another stopped. Must never delete anything.

use std::sync::Arc;
use std::time::Duration;

use ledger_proof::system_entity::VaultState;
use ledger_proto::internal::ProposeOutcome;
use ledger_router::VaultLookup;
use ledger_shard::boot::{BootError, create_group};
use ledger_shard::{
    BootRecord, Command, CommandKind, CreateShards, CreateVaultBlock, FEATURE_LEVEL, Found,
    Founder, Replica, Store, SystemCommand, SystemResult, VaultActive,
};
use ledger_types::{GroupId, OwnerEpoch, VaultRef};
use tracing::{info, warn};

use crate::bootstrap::GenesisPromise;
use crate::commands::{propose_anywhere, propose_system};
use crate::context::NodeContext;

/// Pause between looks when nothing changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause after a look that had to leave something for the next one.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Keeps looking until the task is ended.
pub async fn run(context: Arc<NodeContext>, store: Arc<Store>, genesis: GenesisPromise) {
    let found = found_command(&context, &genesis);
    let mut revisions = context.directory.subscribe();
    loop {
        start_replicas(&context, &store);
        let leads = context.leaders.leader(GroupId::SYSTEM) == Some(context.identity.node);
        let is_settled = !leads || lead(&context, &found).await;
        let pause = if is_settled { LOOK_EVERY } else { LOOK_AGAIN };
        tokio::select! {
            _ = revisions.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The directory's first command, from the genesis that all founders promised.
fn found_command(context: &NodeContext, genesis: &GenesisPromise) -> Found {
    let founders = genesis.founders().iter();
    Found {
        cluster: genesis.cluster(),
        domain: genesis.domain().to_owned(),
        founded_at_ns: genesis.founded_at_ns(),
        feature_level: u32::from(FEATURE_LEVEL),
        replication_factor: replication_factor(context),
        data_shards: context.config.shards,
        founders: founders
            .map(|founder| Founder {
                name: founder.name.clone(),
                store_id: founder.store,
                address: founder.address.clone(),
                public_key: founder.public_key,
                zone: founder.zone.clone(),
            })
            .collect(),
    }
}

fn replication_factor(context: &NodeContext) -> u8 {
    u8::try_from(context.config.replication_factor).expect("the setting is at most 7")
}

/// Starts replicas that the directory places on this very store and that do not run yet.
fn start_replicas(context: &NodeContext, store: &Store) {
    let directory = context.directory.current();
    let node = context.identity.node;
    let registered = directory.node(node).is_some_and(|entity| entity.store_id == store.id());
    if !registered {
        return;
    }
    for shard in directory.shards() {
        let ours = shard.replicas.iter().find(|replica| replica.node == node);
        let (Some(ours), None) = (ours, context.shard.status(shard.id)) else { continue };
        let table = shard.replicas.iter();
        let table: Vec<Replica> =
            table.map(|one| Replica { incarnation: one.incarnation, node: one.node }).collect();
        let record = BootRecord::new_group(shard.id, ours.incarnation, table);
        match create_group(store, &record, &[]) {
            Ok(()) => {
                info!(group = shard.id.0, incarnation = ours.incarnation.0, "raft group created");
                context.shard.start(record);
            }
            // It runs already, or is about to: its rows were there at boot.
            Err(BootError::Exists { .. }) => {}
            Err(error) => warn!(group = shard.id.0, %error, "a raft group cannot be created"),
        }
    }
}

/// What the node that leads the directory's group sees to. False if a vault still waits for its shard.
async fn lead(context: &NodeContext, found: &Found) -> bool {
    let directory = context.directory.current();
    if directory.cluster().is_none() {
        system(context, &SystemCommand::Found(found.clone())).await;
        return true;
    }
    // The setting counts at founding only; later shards are an operator's command.
    if directory.shards().iter().all(|shard| shard.id == GroupId::SYSTEM) {
        let replication_factor = replication_factor(context);
        let create = CreateShards { count: context.config.shards, replication_factor };
        system(context, &SystemCommand::CreateShards(create)).await;
    }
    let mut is_settled = true;
    for vault in directory.pending() {
        if let VaultLookup::Known(entity) = directory.vault(vault)
            && entity.state == VaultState::Creating
        {
            is_settled &= create_vault(context, vault, entity.shard, entity.owner_epoch).await;
        }
    }
    is_settled
}

/// The steps of a vault's creation that follow its place in the directory. False if its shard could not
/// take the first one yet.
async fn create_vault(
    context: &NodeContext,
    vault: VaultRef,
    shard: GroupId,
    epoch: OwnerEpoch,
) -> bool {
    let body = CreateVaultBlock.encode();
    let kind = CommandKind::CreateVault as u8;
    let command = Command { kind, vault, owner_epoch: epoch, body: &body }.encode();
    match propose_anywhere(context, shard, command).await {
        ProposeOutcome::Applied => {
            let active = VaultActive { vault, owner_epoch: epoch };
            system(context, &SystemCommand::VaultActive(active)).await;
            true
        }
        ProposeOutcome::NotLeader | ProposeOutcome::Retry => false,
        other => {
            warn!(%vault, ?other, "a vault's first block was refused");
            true
        }
    }
}

async fn system(context: &NodeContext, command: &SystemCommand) {
    match propose_system(&context.shard, command).await {
        Ok(SystemResult::Refused(refusal)) => {
            warn!(%refusal, "the directory refused a command of its own leader");
        }
        Ok(_) => {}
        // Leadership went elsewhere or the disk is slow; the next look finds what is left to do.
        Err(refusal) => info!(?refusal, "a directory command was not applied"),
    }
}
