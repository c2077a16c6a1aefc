//! Background commands: proposed here if this node leads the group, else on the node that does.
//!
//! Owns the internal `Commands` service and its client. Must never carry clients' transactions; those go
//! through the edge with their own deadlines and idempotency.

use std::sync::Arc;

use ledger_proof::system_entity::VaultState;
use ledger_proto::internal::commands_client::CommandsClient;
use ledger_proto::internal::commands_server::Commands;
use ledger_proto::internal::{ProposeOutcome, ProposeRequest, ProposeResponse};
use ledger_router::VaultLookup;
use ledger_shard::{
    Command, CommandKind, CommandResult, CreateVaultBlock, FIRST_OWNER_EPOCH, Refusal, ShardHandle,
    SystemCommand, SystemResult,
};
use ledger_types::limits::REQUEST_BYTES_MAX;
use ledger_types::{GroupId, VaultRef};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

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

/// Proposes a directory command on the node that leads the directory's group.
pub async fn propose_system(
    shard: &ShardHandle,
    command: &SystemCommand,
) -> Result<SystemResult, Refusal> {
    let body = command.encode().expect("directory commands are checked before they are made");
    let kind = CommandKind::System as u8;
    let (vault, owner_epoch) = (VaultRef::SYSTEM, FIRST_OWNER_EPOCH);
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_here(shard, GroupId::SYSTEM, command).await? {
        CommandResult::System(result) => Ok(result),
        other => panic!("the directory's group answered a directory command with {other:?}"),
    }
}

/// Proposes a command wherever the group's leader is thought to be. The outcome says whether to try again.
pub async fn propose_anywhere(
    context: &NodeContext,
    group: GroupId,
    command: Vec<u8>,
) -> ProposeOutcome {
    let leader = match context.leaders.leader(group) {
        Some(leader) => leader,
        None => return ProposeOutcome::NotLeader,
    };
    if leader == context.identity.node {
        return outcome(propose_here(&context.shard, group, command).await);
    }
    let channel = context
        .directory
        .address(leader)
        .and_then(|address| ChannelPool::channel(&context.channels, &address));
    let Some(channel) = channel else { return ProposeOutcome::NotLeader };
    let mut client = CommandsClient::new(channel).max_encoding_message_size(2 * REQUEST_BYTES_MAX);
    let cluster_id = context.identity.cluster.0.to_vec();
    let mut request = Request::new(ProposeRequest { cluster_id, group: group.0, command });
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
        let answer = if request.cluster_id != self.context.identity.cluster.0 {
            ProposeOutcome::OtherCluster
        } else if !self.is_due(GroupId(request.group), &request.command) {
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
    /// Only the first block of a vault that the directory has placed on this group and that awaits it, in a
    /// well-formed command: a malformed one would stop every replica.
    fn is_due(&self, group: GroupId, command: &[u8]) -> bool {
        let Ok(command) = Command::decode(command) else { return false };
        let is_create = command.kind == CommandKind::CreateVault as u8
            && CreateVaultBlock::decode(command.body).is_ok();
        let entity = self.context.directory.current().vault(command.vault);
        is_create
            && matches!(entity, VaultLookup::Known(entity)
                if entity.shard == group
                    && entity.owner_epoch == command.owner_epoch
                    && entity.state == VaultState::Creating)
    }
}
