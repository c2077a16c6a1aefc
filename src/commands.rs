//! Background commands: proposed here if this node leads the group, else on the node that does.
//!
//! Owns the internal `Commands` service and its client, and what they carry: a vault's first block and its end,
//! and what a shard's leader has to tell the directory. Must never carry clients' transactions; those go through the edge
//! with their own deadlines and idempotency.

use std::sync::Arc;

use ledger_proof::system_entity::{NodeState, VaultState};
use ledger_proto::internal::commands_client::CommandsClient;
use ledger_proto::internal::commands_server::Commands;
use ledger_proto::internal::{ProposeOutcome, ProposeRequest, ProposeResponse};
use ledger_router::placement::voters_of;
use ledger_router::{Directory, VaultLookup};
use ledger_shard::system::FinishReplacement;
use ledger_shard::{
    Command, CommandKind, CommandResult, CreateVaultBlock, DeleteVaultMark, FIRST_OWNER_EPOCH,
    Refusal, ShardHandle, SystemCommand, SystemResult,
};
use ledger_types::limits::REQUEST_BYTES_MAX;
use ledger_types::{GroupId, NodeId, StoreId, VaultRef};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::bundle_link::check_link;
use crate::context::{ChannelPool, NodeContext};

/// Milliseconds that a background command may wait to be applied.
const COMMAND_DEADLINE_MS: u64 = 5_000;

/// Proposes a command to a group that this node leads and waits until it is applied.
pub async fn propose_here(
    shard: &ShardHandle,
    group: GroupId,
    command: Vec<u8>,
) -> Result<CommandResult, Refusal> {
    let (sender, receiver) = oneshot::channel();
    let deadline_ms = shard.now().monotonic_ms + COMMAND_DEADLINE_MS;
    let completion = move |outcome| drop(sender.send(outcome));
    shard.propose(group, command, deadline_ms, Box::new(completion));
    match receiver.await {
        Ok(outcome) => outcome.map(|applied| applied.result),
        Err(_) => Err(Refusal::OutcomeUnknown),
    }
}

/// A directory command as it goes into the log.
pub fn system_entry(command: &SystemCommand) -> Vec<u8> {
    let body = command.encode().expect("directory commands are checked before they are made");
    let kind = CommandKind::System as u8;
    let (vault, owner_epoch) = (VaultRef::SYSTEM, FIRST_OWNER_EPOCH);
    Command { kind, vault, owner_epoch, body: &body }.encode()
}

/// Proposes a directory command on the node that leads the directory's group.
pub async fn propose_system(
    shard: &ShardHandle,
    command: &SystemCommand,
) -> Result<SystemResult, Refusal> {
    match propose_here(shard, GroupId::SYSTEM, system_entry(command)).await? {
        CommandResult::System(result) => Ok(result),
        other => panic!("the directory's group answered a directory command with {other:?}"),
    }
}

/// Proposes a command wherever the group's leader is thought to be. A node without a replica of the group, which
/// never hears of its leader, asks one voter after the other. The outcome says whether to try again.
pub async fn propose_anywhere(
    context: &NodeContext,
    group: GroupId,
    command: Vec<u8>,
) -> ProposeOutcome {
    if let Some(leader) = context.leaders.leader(group) {
        return propose_at(context, leader, group, command).await;
    }
    if let Some(status) = context.shard.status(group) {
        if status.is_asleep {
            // The next attempt finds the leader that it elects.
            context.shard.wake(group);
        }
        return ProposeOutcome::NotLeader;
    }
    let shard = context.directory.current().shard(group);
    for voter in shard.iter().flat_map(|shard| voters_of(shard)) {
        match propose_at(context, voter.node, group, command.clone()).await {
            ProposeOutcome::NotLeader => {}
            outcome => return outcome,
        }
    }
    ProposeOutcome::NotLeader
}

async fn propose_at(
    context: &NodeContext,
    node: NodeId,
    group: GroupId,
    command: Vec<u8>,
) -> ProposeOutcome {
    if node == context.identity.node {
        return outcome(propose_here(&context.shard, group, command).await);
    }
    let channel = context
        .directory
        .address(node)
        .and_then(|address| ChannelPool::channel(&context.channels, &address));
    let Some(channel) = channel else { return ProposeOutcome::NotLeader };
    let mut client = CommandsClient::new(channel).max_encoding_message_size(2 * REQUEST_BYTES_MAX);
    let cluster_id = context.identity.cluster.0.to_vec();
    let store_id = context.identity.store.0.to_vec();
    let mut request =
        Request::new(ProposeRequest { cluster_id, group: group.0, command, store_id });
    request.set_timeout(std::time::Duration::from_millis(COMMAND_DEADLINE_MS));
    match client.propose(request).await {
        Ok(response) => response.into_inner().outcome(),
        Err(_) => ProposeOutcome::Retry,
    }
}

fn outcome(result: Result<CommandResult, Refusal>) -> ProposeOutcome {
    match result {
        Ok(CommandResult::WrongShard { .. } | CommandResult::UnknownVault) => {
            ProposeOutcome::WrongShard
        }
        Ok(CommandResult::System(SystemResult::Refused(_))) => ProposeOutcome::Refused,
        Ok(_) => ProposeOutcome::Applied,
        Err(Refusal::NotLeader(_) | Refusal::NoReplica) => ProposeOutcome::NotLeader,
        Err(Refusal::Busy | Refusal::Expired | Refusal::OutcomeUnknown) => ProposeOutcome::Retry,
    }
}

/// Takes commands from other nodes.
pub struct CommandService {
    context: Arc<NodeContext>,
}

impl CommandService {
    /// The service of a node that belongs to a cluster.
    pub fn new(context: &Arc<NodeContext>) -> CommandService {
        CommandService { context: context.clone() }
    }
}

#[tonic::async_trait]
impl Commands for CommandService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let request = request.into_inner();
        let is_own = request.cluster_id == self.context.identity.cluster.0;
        if is_own {
            self.learn_vault(&request).await;
        }
        let answer = if !is_own {
            ProposeOutcome::OtherCluster
        } else if !self.is_due(&request) {
            // A directory that is behind says so too; the asking node tries again.
            ProposeOutcome::Retry
        } else {
            let group = GroupId(request.group);
            outcome(propose_here(&self.context.shard, group, request.command).await)
        };
        Ok(Response::new(ProposeResponse { outcome: answer.into() }))
    }
}

impl CommandService {
    /// Has a vault looked up that a node without a replica of the directory was not asked for lately.
    async fn learn_vault(&self, request: &ProposeRequest) {
        let Ok(command) = Command::decode(&request.command) else { return };
        let cache = &self.context.directory;
        if matches!(cache.current().vault(command.vault), VaultLookup::NotCached) {
            cache.lookup_vault(command.vault).await;
        }
    }

    /// Only what the directory itself waits for, from a node that it knows, in a well-formed command: a
    /// malformed one would stop every replica.
    fn is_due(&self, request: &ProposeRequest) -> bool {
        let directory = self.context.directory.current();
        let store = StoreId::from_slice(&request.store_id);
        let sender = store.and_then(|store| directory.node_of_store(store));
        let Some(sender) = sender.filter(|node| node.state != NodeState::Removed) else {
            return false;
        };
        let Ok(command) = Command::decode(&request.command) else { return false };
        let group = GroupId(request.group);
        if command.kind == CommandKind::CreateVault as u8 {
            return CreateVaultBlock::decode(command.body).is_ok()
                && awaits(directory, group, &command, VaultState::Creating);
        }
        if command.kind == CommandKind::DeleteVault as u8 {
            return DeleteVaultMark::decode(command.body).is_ok()
                && awaits(directory, group, &command, VaultState::Deleting);
        }
        if command.kind != CommandKind::System as u8
            || request.group != GroupId::SYSTEM.0
            || (command.vault, command.owner_epoch) != (VaultRef::SYSTEM, FIRST_OWNER_EPOCH)
        {
            return false;
        }
        match SystemCommand::decode(command.body) {
            Ok(SystemCommand::FinishReplacement(finish)) => {
                is_finish_due(directory, sender.id, &finish)
            }
            Ok(SystemCommand::StoreBundleLink(link)) => {
                let system = directory.shard(GroupId::SYSTEM);
                system.is_some_and(|system| system.is_changing())
                    && check_link(&self.context.reader, link.sequence, &link.link).is_ok()
            }
            _ => false,
        }
    }
}

/// True of a command for a vault that the directory has placed on this group and that is in this state.
fn awaits(directory: &Directory, group: GroupId, command: &Command<'_>, state: VaultState) -> bool {
    matches!(directory.vault(command.vault), VaultLookup::Known(entity)
        if entity.shard == group
            && entity.owner_epoch == command.owner_epoch
            && entity.state == state)
}

/// The end of a change of members that is under way, told by a node that has a replica of the shard.
fn is_finish_due(directory: &Directory, sender: NodeId, finish: &FinishReplacement) -> bool {
    let Some(shard) = directory.shard(finish.shard) else { return false };
    shard.epoch == finish.epoch
        && shard.leaving().is_some_and(|leaving| leaving.incarnation == finish.old)
        && shard.replica_on(sender).is_some()
}

#[cfg(test)]
mod tests {
    use ledger_proof::system_entity::{
        ReplicaRole, ShardEntity, ShardReplica, SystemEntity, shard_key,
    };
    use ledger_router::{EntityChange, VaultScope};
    use ledger_types::Incarnation;

    use super::*;

    #[test]
    fn a_change_is_finished_by_its_own_shard_at_its_own_epoch_only() {
        let replica = |node: u64, in_old_set, in_new_set| ShardReplica {
            node: NodeId(node),
            incarnation: Incarnation(1000 + node),
            role: ReplicaRole::Voter,
            in_old_set,
            in_new_set,
            is_added: false,
        };
        let shard = |id, epoch, replicas| {
            let entity = ShardEntity { id: GroupId(id), epoch, replicas };
            EntityChange { key: shard_key(entity.id), value: Some(entity.encode()) }
        };
        let changing =
            vec![replica(1, true, true), replica(2, true, false), replica(3, false, true)];
        let settled = vec![replica(1, false, true), replica(2, false, true)];
        let directory = Directory::new(VaultScope::All);
        let entities = [shard(1, 7, changing), shard(2, 1, settled)];
        assert_eq!(directory.replace(1, &entities), Ok(true));
        let is_due = |sender, shard, old, epoch| {
            let (shard, old) = (GroupId(shard), Incarnation(old));
            is_finish_due(&directory, NodeId(sender), &FinishReplacement { shard, old, epoch })
        };
        assert!(is_due(1, 1, 1002, 7));
        assert!(is_due(3, 1, 1002, 7));
        assert!(!is_due(4, 1, 1002, 7), "a node without a replica");
        assert!(!is_due(1, 1, 1001, 7), "a replica that stays");
        assert!(!is_due(1, 1, 1002, 6), "an older entity");
        assert!(!is_due(1, 2, 1002, 1), "nothing is changing there");
        assert!(!is_due(1, 3, 1002, 7), "no such shard");
    }
}
