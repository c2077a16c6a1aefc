//! Makes what is so follow what the directory says: replicas on this node, members of groups, shards and vaults
//! of the cluster.
//!
//! Owns no state: every step is found from the directory anew and is idempotent, so that any node can go
//! on where another stopped. Must never delete anything.

mod members;

use std::sync::Arc;
use std::time::Duration;

use ledger_proof::system_entity::{NodeState, ShardEntity, ShardReplica, VaultEntity, VaultState};
use ledger_proto::internal::ProposeOutcome;
use ledger_router::VaultLookup;
use ledger_shard::boot::{BootError, create_group};
use ledger_shard::{
    BootRecord, Command, CommandKind, CreateShards, CreateVaultBlock, DeleteVaultMark,
    FEATURE_LEVEL, Found, Founder, Replica, Store, SystemCommand, SystemResult, VaultActive,
    VaultDeleted,
};
use ledger_types::{GroupId, NodeId};
use tracing::{info, warn};

use crate::bootstrap::GenesisPromise;
use crate::commands::{propose_anywhere, propose_system};
use crate::context::NodeContext;
use crate::peer::PeerState;

/// Pause between looks when nothing changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause between looks while the members of a group change: each step is an entry of the group's log.
const LOOK_AT_CHANGE: Duration = Duration::from_millis(50);
/// Pause after a look that had to leave something for the next one.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Longest wait for this node's copy of the directory to show what was just committed.
const DIRECTORY_TIME_MAX: Duration = Duration::from_secs(1);

/// Keeps looking until the task is ended.
pub async fn run(
    context: Arc<NodeContext>,
    store: Arc<Store>,
    peers: Arc<PeerState>,
    genesis: GenesisPromise,
) {
    let found = found_command(&context, &genesis);
    let mut revisions = context.directory.subscribe();
    let mut remembered = peers.remembered_addresses().unwrap_or_default();
    loop {
        remember_addresses(&context, &peers, &mut remembered);
        start_replicas(&context, &store);
        let leads = context.leaders.leader(GroupId::SYSTEM) == Some(context.identity.node);
        let is_settled = !leads || lead(&context, &found).await;
        let is_changing = members::follow_directory(&context).await;
        let pause = match (is_settled, is_changing) {
            (false, _) => LOOK_AGAIN,
            (true, true) => LOOK_AT_CHANGE,
            (true, false) => LOOK_EVERY,
        };
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
        threshold: context.config.note_threshold,
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

/// Keeps the addresses of the other nodes for a start at which none of the configured ones answers.
fn remember_addresses(
    context: &NodeContext,
    peers: &PeerState,
    remembered: &mut Vec<(NodeId, String)>,
) {
    let addresses = context.directory.addresses(context.identity.node);
    if addresses.is_empty() || addresses == *remembered {
        return;
    }
    match peers.remember_addresses(&addresses) {
        Ok(()) => *remembered = addresses,
        Err(error) => warn!(%error, "addresses of other nodes cannot be kept"),
    }
}

/// Starts replicas that the directory places on this very store and that do not run yet.
fn start_replicas(context: &NodeContext, store: &Store) {
    let directory = context.directory.current();
    let node = context.identity.node;
    let registered = directory
        .node(node)
        .is_some_and(|entity| entity.store_id == store.id() && entity.state != NodeState::Removed);
    if !registered {
        return;
    }
    for shard in directory.shards() {
        let ours = shard.replica_on(node);
        let (Some(ours), None) = (ours, context.shard.status(shard.id)) else { continue };
        let record = first_record(&shard, ours);
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

/// With what a replica begins that has no rows here.
///
/// A group begins with the voters that its entity was made with, and every founding replica must begin with the
/// very same ones. So only the entity as it was made may be taken for that: its epoch is 1 and no replica was
/// added. A replica that sees a later one begins with nothing instead, is in no configuration that it knows of,
/// and gets a snapshot; so does a founding replica that was away until then. To begin as a voter of today's
/// table, in the place where the log began, would be to vote for a history that the group never had.
fn first_record(shard: &ShardEntity, ours: &ShardReplica) -> BootRecord {
    let table = shard.replicas.iter();
    let table = table.map(|one| Replica { incarnation: one.incarnation, node: one.node }).collect();
    let is_as_made = shard.epoch == 1 && !shard.replicas.iter().any(|replica| replica.is_added);
    match is_as_made {
        true => BootRecord::new_group(shard.id, ours.incarnation, table),
        false => BootRecord::added_replica(shard.id, ours.incarnation, table),
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
        create_shards(context).await;
    }
    members::replace_replicas(context).await;
    let mut is_settled = true;
    for vault in directory.pending() {
        let VaultLookup::Known(entity) = directory.vault(vault) else { continue };
        is_settled &= match entity.state {
            VaultState::Creating => create_vault(context, &entity).await,
            VaultState::Deleting => end_vault(context, &entity).await,
            VaultState::Active | VaultState::Deleted => true,
        };
    }
    is_settled
}

/// Makes the cluster's first data shards, as many at a time as one command may.
async fn create_shards(context: &NodeContext) {
    let (count, replication_factor) = (context.config.shards, replication_factor(context));
    let command = SystemCommand::CreateShards(CreateShards { count, replication_factor });
    loop {
        match propose_system(&context.shard, &command).await {
            Ok(SystemResult::ShardsReady { data_shards, created })
                if data_shards < u64::from(count) && !created.is_empty() => {}
            Ok(SystemResult::Refused(refusal)) => {
                warn!(%refusal, "the first shards cannot be made");
                return;
            }
            Ok(_) => return,
            Err(refusal) => {
                info!(?refusal, "the first shards are not made yet");
                return;
            }
        }
    }
}

/// The steps of a vault's creation that follow its place in the directory. False if its shard could not
/// take the first one yet.
async fn create_vault(context: &NodeContext, entity: &VaultEntity) -> bool {
    let VaultEntity { vault, shard, owner_epoch, .. } = *entity;
    let body = CreateVaultBlock { retention_blocks: entity.retention_blocks }.encode();
    let kind = CommandKind::CreateVault as u8;
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_anywhere(context, shard, command).await {
        ProposeOutcome::Applied => {
            let active = VaultActive { vault, owner_epoch };
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

/// The steps of a vault's end that follow its deletion in the directory: its group takes nothing in any more, and
/// the directory is told so. False if the group could not take that in yet.
async fn end_vault(context: &NodeContext, entity: &VaultEntity) -> bool {
    let VaultEntity { vault, shard, owner_epoch, .. } = *entity;
    let body = DeleteVaultMark.encode();
    let kind = CommandKind::DeleteVault as u8;
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_anywhere(context, shard, command).await {
        ProposeOutcome::Applied => {
            let deleted = VaultDeleted { vault, owner_epoch };
            system(context, &SystemCommand::VaultDeleted(deleted)).await;
            true
        }
        ProposeOutcome::NotLeader | ProposeOutcome::Retry => false,
        other => {
            warn!(%vault, ?other, "a vault's end was refused");
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

#[cfg(test)]
mod tests {
    use ledger_proof::system_entity::ReplicaRole;
    use ledger_types::Incarnation;

    use super::*;

    fn replica(number: u64, is_added: bool) -> ShardReplica {
        ShardReplica {
            node: NodeId(number),
            incarnation: Incarnation(1000 + number),
            role: ReplicaRole::Voter,
            in_old_set: false,
            in_new_set: true,
            is_added,
        }
    }

    #[test]
    fn only_a_shard_as_it_was_made_is_founded() {
        let shard = |epoch, replicas: Vec<ShardReplica>| {
            let entity = ShardEntity { id: GroupId(3), epoch, replicas };
            first_record(&entity, &entity.replicas[0])
        };
        let founding = || vec![replica(1, false), replica(2, false)];
        let made = shard(1, founding());
        assert_eq!(made.conf_state.voters, [1001, 1002]);
        assert_eq!((made.applied, made.truncated), (5, BootRecord::FIRST));
        for later in [shard(3, founding()), shard(1, vec![replica(1, true), replica(2, false)])] {
            assert!(later.conf_state.voters.is_empty(), "it knows of no configuration");
            assert_eq!((later.applied, later.truncated, later.replicas.len()), (0, (0, 0), 2));
            assert_eq!((later.group, later.incarnation), (GroupId(3), Incarnation(1001)));
        }
    }
}
