//! Makes the members of groups follow the directory, one step at a time.
//!
//! Owns the way from what is seen to [`next_step`] and from its answer to whoever carries it out. Must never
//! remember a step: one that was lost is found again.

use std::sync::Arc;

use ledger_proof::system_entity::ShardEntity;
use ledger_proto::internal::ProposeOutcome;
use ledger_router::members::{GroupView, Progress, Step, next_step, plan_replacements};
use ledger_shard::system::{FinishReplacement, ReplaceReplica, StoreBundleLink};
use ledger_shard::{GroupStatus, MemberChange, MemberProgress, Replica, Role, SystemCommand};
use ledger_types::{GroupId, Incarnation, VaultRef};
use tracing::{debug, info, warn};

use super::{DIRECTORY_TIME_MAX, system};
use crate::bundle_link::{first_unlinked, make_link};
use crate::commands::{propose_anywhere, system_entry};
use crate::context::NodeContext;

/// Begins the replacements that are due. For the node that leads the directory's group.
pub(super) async fn replace_replicas(context: &NodeContext) {
    let directory = context.directory.current();
    let plan = plan_replacements(&directory.nodes(), &directory.shards());
    if plan.is_empty() {
        return;
    }
    for replacement in plan {
        let (shard, old, node) = (replacement.shard, replacement.old, replacement.node);
        info!(shard = shard.0, old = old.0, node = node.0, "a replica goes to another node");
        let command = ReplaceReplica { shard, old, node };
        system(context, &SystemCommand::ReplaceReplica(command)).await;
    }
    // The next plan is made from a copy that shows these.
    if let Ok(tip) = context.reader.tip(VaultRef::SYSTEM) {
        context.directory.wait_revision(tip.height, DIRECTORY_TIME_MAX).await;
    }
}

/// Takes the next step of each group that this node leads. True if some group's members are changing.
pub(super) async fn follow_directory(context: &NodeContext) -> bool {
    let directory = context.directory.current();
    let mut is_changing = false;
    // What waits for the directory comes after what does not, so that no group holds up another.
    let mut slow = Vec::new();
    for status in context.shard.statuses() {
        let Some(entity) = directory.shard(status.group) else { continue };
        if status.is_asleep && entity.is_changing() {
            // Nobody may have used the group since the start, and without a leader it stays as it is.
            context.shard.wake(status.group);
            is_changing = true;
        }
        if status.role != Role::Leader {
            continue;
        }
        is_changing |= entity.is_changing();
        let unlinked = match needs_links(&entity) {
            true => first_unlinked(&context.reader),
            false => Ok(None),
        };
        match unlinked {
            Ok(unlinked) => {
                if let Some(step) = next_step(&entity, &view(&status), unlinked.is_none()) {
                    slow.extend(take(context, &entity, step, unlinked));
                }
            }
            Err(error) => warn!(%error, "trust bundles cannot be read; trying again"),
        }
    }
    for step in slow {
        match step {
            SlowStep::StoreLink(sequence) => store_link(context, sequence).await,
            SlowStep::Finish(entity, old) => finish(context, &entity, old).await,
        }
    }
    if is_changing {
        // How far the new replicas are must be known by the next look.
        context.shard.refresh();
    }
    is_changing
}

/// Only a change of the directory's own voters makes trust bundles.
fn needs_links(entity: &ShardEntity) -> bool {
    entity.id == GroupId::SYSTEM && entity.is_changing()
}

/// A step that the directory has to be told of.
enum SlowStep {
    StoreLink(u64),
    Finish(Arc<ShardEntity>, Incarnation),
}

/// Takes a step, or returns it if it takes its time.
fn take(
    context: &NodeContext,
    entity: &Arc<ShardEntity>,
    step: Step,
    unlinked: Option<u64>,
) -> Option<SlowStep> {
    let group = entity.id;
    debug!(group = group.0, ?step, "a step towards the members of the directory");
    match step {
        Step::StoreLink => {
            let sequence = unlinked.expect("a step is only asked for when a link is missing");
            return Some(SlowStep::StoreLink(sequence));
        }
        Step::Transfer(to) => context.shard.transfer(group, to),
        Step::Finish(old) => return Some(SlowStep::Finish(entity.clone(), old)),
        Step::AddLearner(incarnation, node) => {
            let change = MemberChange::AddLearner(Replica { incarnation, node });
            context.shard.change_members(group, change);
        }
        Step::RemoveLearner(incarnation) => {
            context.shard.change_members(group, MemberChange::RemoveLearner(incarnation));
        }
        Step::EnterJoint { promote, remove } => {
            let change = MemberChange::EnterJoint { promote, remove };
            context.shard.change_members(group, change);
        }
        Step::LeaveJoint => context.shard.change_members(group, MemberChange::LeaveJoint),
    }
    None
}

async fn store_link(context: &NodeContext, sequence: u64) {
    match make_link(context, sequence).await {
        Ok(link) => {
            let command = SystemCommand::StoreBundleLink(StoreBundleLink { sequence, link });
            system(context, &command).await;
        }
        Err(error) => warn!(sequence, %error, "no link to a trust bundle yet; trying again"),
    }
}

async fn finish(context: &NodeContext, entity: &ShardEntity, old: Incarnation) {
    let (shard, epoch) = (entity.id, entity.epoch);
    let command = SystemCommand::FinishReplacement(FinishReplacement { shard, old, epoch });
    match propose_anywhere(context, GroupId::SYSTEM, system_entry(&command)).await {
        ProposeOutcome::Applied => {
            info!(shard = shard.0, old = old.0, "a replica has left its shard");
            // Otherwise the same would be told again until this copy shows it.
            let revision = context.directory.revision();
            context.directory.wait_revision(revision + 1, DIRECTORY_TIME_MAX).await;
        }
        // The next look finds whether it is still to be told.
        outcome => debug!(shard = shard.0, ?outcome, "the directory was not told yet"),
    }
}

/// The group as the planner sees it.
fn view(status: &GroupStatus) -> GroupView {
    let ids = |list: &[u64]| list.iter().copied().map(Incarnation).collect();
    GroupView {
        leader: status.incarnation,
        voters: ids(&status.conf_state.voters),
        voters_outgoing: ids(&status.conf_state.voters_outgoing),
        learners: ids(&status.conf_state.learners),
        is_settled: status.is_conf_settled,
        last_index: status.last_index,
        progress: status.members.iter().map(progress).collect(),
    }
}

fn progress(member: &MemberProgress) -> Progress {
    Progress {
        incarnation: member.replica.incarnation,
        matched: member.matched,
        is_active: member.is_active,
        awaits_snapshot: member.snapshot_index != 0,
    }
}
