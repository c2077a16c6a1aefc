//! Where a request is carried out: here, or forwarded once to the node that leads the vault's group.
//!
//! Owns a request's deadline, its route, the barrier of linearizable reads and the forwarding of messages.
//! Must never trust its route for safety: the owner is checked again where a command is proposed and applied.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proof::system_entity::{SystemEntity as _, VaultEntity};
use ledger_proto::convert::Consistency;
use ledger_proto::internal::LookupVaultRequest;
use ledger_proto::internal::peer_client::PeerClient;
use ledger_router::placement::voters_of;
use ledger_router::{Reach, Route, RouteError, RouteRequest, Target, decide};
use ledger_shard::{QueryError, Refusal, Role, VaultRow};
use ledger_types::{GroupId, NodeId, OwnerEpoch, VaultRef};
use tokio::sync::oneshot;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::deadline::Deadline;
use super::passed_metadata::{Passed, forwarded, passed};
use super::slot::NodeSlot;
use super::status::{ERROR_DOMAIN, Failure, LeaderAddress};
use crate::context::NodeContext;

/// Marks a request that another node has forwarded; it is never forwarded again.
pub const FORWARDED: &str = "ledger-forwarded";
/// Tells a client whom to ask directly next time.
pub const LEADER: &str = "ledger-leader";
/// Tells a client for which group that leader is.
pub const GROUP: &str = "ledger-group";

/// Routes tried for one request: the first, and one more after a look at what changed.
pub(crate) const ROUTES_MAX: u32 = 2;
/// How long a request waits for a group to get a leader before it is refused.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pause between looks at an obstacle that passes by itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a request waits for a new vault's first block.
const ACTIVE_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a request waits for this node's copy of the directory to catch up.
const DIRECTORY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Who owns a vault, as far as the directory here knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    /// The vault.
    pub vault: VaultRef,
    /// The group.
    pub group: GroupId,
    /// The epoch in which the group owns the vault.
    pub epoch: OwnerEpoch,
}

/// Another node that carries out a request.
#[derive(Debug)]
pub(super) struct Remote {
    /// The group that the request is for.
    pub group: GroupId,
    /// The node.
    pub leader: LeaderAddress,
    channel: Channel,
}

/// Where a request is carried out.
#[derive(Debug)]
pub(super) enum Place {
    /// On this node, for this owner.
    Here(Owner),
    /// Another node does.
    There(Remote),
}

/// Where a read is served. Here, every condition on freshness and ownership already holds.
#[derive(Debug)]
pub(super) enum ReadPlace {
    /// From this node's rows; the vault's row as it was checked.
    Here(Owner, Box<VaultRow>),
    /// By the group's leader.
    There(Remote),
}

/// What a read needs of the state that answers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    /// Whether every acknowledged write must show.
    pub consistency: Consistency,
    /// The least height that must be there.
    pub height_min: u64,
}

impl From<Consistency> for Freshness {
    fn from(consistency: Consistency) -> Freshness {
        Freshness { consistency, height_min: 0 }
    }
}

/// A request on its way through the node.
pub(super) struct Call {
    /// The node.
    pub context: Arc<NodeContext>,
    /// When nobody waits any more.
    pub deadline: Deadline,
    /// Another node has forwarded it already.
    pub is_forwarded: bool,
    /// What it takes along if it is forwarded.
    pub passed: Passed,
}

/// Groups with a replica here whose leader this node does not know. One that sleeps is not looking for one.
pub(super) fn leaderless_groups(context: &NodeContext) -> usize {
    let statuses = context.shard.statuses();
    statuses.iter().filter(|status| status.leader.is_none() && !status.is_asleep).count()
}

impl Call {
    /// Takes in a request. Refuses one whose deadline has passed, and any while the node cannot serve.
    pub(super) fn begin(slot: &NodeSlot, metadata: &MetadataMap) -> Result<Call, Failure> {
        let deadline = Deadline::of(metadata)?;
        let context = slot.get()?.clone();
        let is_forwarded = metadata.contains_key(FORWARDED);
        Ok(Call { context, deadline, is_forwarded, passed: passed(metadata) })
    }

    /// The same call with another deadline, as one of the requests of a stream.
    pub(super) fn until(&self, deadline: Deadline) -> Call {
        let (context, passed) = (self.context.clone(), self.passed.clone());
        Call { context, deadline, is_forwarded: self.is_forwarded, passed }
    }

    /// The same call as a request of this node itself, which may go on to another node.
    pub(super) fn on_own_behalf(&self) -> Call {
        let (context, passed) = (self.context.clone(), self.passed.clone());
        Call { context, deadline: self.deadline, is_forwarded: false, passed }
    }

    /// Counts a request of so many operations, unless the node that passed it on has. Refuses what is too much.
    pub(super) fn admit(&self, vault: VaultRef, operations: usize) -> Result<(), Failure> {
        if self.is_forwarded {
            return Ok(());
        }
        let (namespace, cost) = (vault.namespace, operations.max(1) as u64);
        let admission = &self.context.admission;
        let max = admission.per_second();
        let admitted = admission.admit(namespace, cost, Instant::now());
        admitted.map_err(|after| Failure::RateLimited { namespace, max, after })
    }

    /// The answer with who leads the group.
    pub(super) fn answer<A>(&self, group: GroupId, body: A) -> Response<A> {
        let mut response = Response::new(body);
        let leader = self.context.shard.leader(group).and_then(|(_, _, leader)| leader);
        let leader = leader.or_else(|| self.context.leaders.leader(group));
        let address = leader.and_then(|node| self.address(node));
        let metadata = response.metadata_mut();
        if let Some(address) = address.and_then(|text| AsciiMetadataValue::try_from(text).ok()) {
            metadata.insert(LEADER, address);
        }
        metadata.insert(GROUP, MetadataValue::from(group.0));
        response
    }

    fn address(&self, node: NodeId) -> Option<String> {
        if node == self.local() {
            return Some(self.context.identity.advertise_addr.clone());
        }
        self.context.directory.address(node)
    }

    /// Decides who serves a request for the vault. What the directory here does not know is looked up with
    /// its leader, once; obstacles that pass by themselves are waited for, briefly.
    pub(super) async fn place(
        &self,
        vault: VaultRef,
        reach: Reach,
        attempt: u32,
    ) -> Result<Place, Failure> {
        let forwarded = self.is_forwarded;
        let request = RouteRequest { vault, reach, local: self.local(), forwarded, attempt };
        match self.settle(&request).await {
            Err(Failure::UnknownVault(_) | Failure::UnknownNamespace) => {
                self.refresh(vault).await?;
                self.settle(&request).await
            }
            settled => settled,
        }
    }

    /// The owner, if this node leads the vault's group at this moment. Waits for nothing and asks nobody.
    pub(super) fn place_now(&self, vault: VaultRef) -> Option<Owner> {
        let (forwarded, attempt) = (self.is_forwarded, 0);
        let reach = Reach::Leader;
        let request = RouteRequest { vault, reach, local: self.local(), forwarded, attempt };
        match self.try_place(&request) {
            Ok(Place::Here(owner)) => Some(owner),
            _ => None,
        }
    }

    fn local(&self) -> NodeId {
        self.context.identity.node
    }

    /// Decides, and waits for what passes by itself.
    async fn settle(&self, request: &RouteRequest) -> Result<Place, Failure> {
        let started = Instant::now();
        loop {
            let (obstacle, wait_max) = match self.try_place(request) {
                Err(failure @ Failure::NotReady { .. }) => (failure, ACTIVE_WAIT_MAX),
                Err(failure @ Failure::NotLeader { leader: None, .. }) => {
                    (failure, LEADER_WAIT_MAX)
                }
                settled => return settled,
            };
            let remaining = self.deadline.check()?;
            if started.elapsed() >= wait_max || (request.forwarded && is_leaderless(&obstacle)) {
                return Err(obstacle);
            }
            tokio::time::sleep(LOOK_EVERY.min(remaining)).await;
        }
    }

    fn try_place(&self, request: &RouteRequest) -> Result<Place, Failure> {
        let context = &self.context;
        let RouteRequest { vault, reach, .. } = *request;
        match decide(context.directory.current(), &context.leaders, request) {
            Ok(Route::Local { group, owner_epoch }) => {
                if context.quarantine.holds(vault) {
                    return self.besides_quarantine(request, group);
                }
                if reach == Reach::Leader && !self.leads(group) {
                    self.learn_here(group);
                    return Err(Failure::NotLeader { group, leader: None });
                }
                if reach == Reach::AnyReplica && !self.is_readable(group) {
                    // As if there were no replica here: what it has is no state of the group yet.
                    return self.try_place(&RouteRequest { reach: Reach::Leader, ..*request });
                }
                Ok(Place::Here(Owner { vault, group, epoch: owner_epoch }))
            }
            Ok(Route::Forward { target, group }) => self.there(group, target),
            Ok(Route::Lookup { vault }) => Err(Failure::UnknownVault(vault)),
            Err(RouteError::NoLeader { group }) if !self.is_readable(group) => {
                let failure = self.no_route(RouteError::NoLeader { group });
                let target = self.other_voter(group, request.attempt).ok_or(failure)?;
                self.there(group, target)
            }
            Err(error) => Err(self.no_route(error)),
        }
    }

    /// Where a request goes about a vault whose history here is not that of the others: to the leader, and
    /// if that is this node, nowhere until another leads.
    fn besides_quarantine(&self, request: &RouteRequest, group: GroupId) -> Result<Place, Failure> {
        if request.reach == Reach::AnyReplica && !request.forwarded {
            return self.try_place(&RouteRequest { reach: Reach::Leader, ..*request });
        }
        if request.reach == Reach::AnyReplica {
            return Err(Failure::VaultUnavailable(request.vault));
        }
        self.learn_here(group);
        Err(Failure::NotLeader { group, leader: None })
    }

    fn there(&self, group: GroupId, target: Target) -> Result<Place, Failure> {
        let leader = LeaderAddress { node: target.node, address: target.address };
        let channel = self.context.channels.channel(&leader.address);
        let channel = channel.ok_or_else(|| Failure::not_ready("a node's address is malformed"))?;
        Ok(Place::There(Remote { group, leader, channel }))
    }

    /// True if the replica here has a state of the group: not before a new replica's first snapshot, nor while
    /// one is installed. A sleeping replica has one, in its rows.
    fn is_readable(&self, group: GroupId) -> bool {
        self.context.shard.is_readable(group)
    }

    /// A voter on another node. The replica here is too new to know the leader, and the others are not.
    fn other_voter(&self, group: GroupId, attempt: u32) -> Option<Target> {
        let directory = self.context.directory.current();
        let mut voters = voters_of(&*directory.shard(group)?);
        voters.retain(|voter| voter.node != self.local());
        let node = voters.get(attempt as usize % voters.len().max(1))?.node;
        Some(Target { node, address: self.address(node)? })
    }

    /// Takes over what this node's own replica says of its group's leader, which hints hear of a little later. A
    /// replica that sleeps knows of none and is woken, so that it takes part in finding one.
    fn learn_here(&self, group: GroupId) {
        let shard = &self.context.shard;
        if let Some((role, term, leader)) = shard.leader(group) {
            if leader.is_none() && shard.status(group).is_some_and(|status| status.is_asleep) {
                shard.wake(group);
            }
            self.context.leaders.learn(group, term, leader);
            if role != Role::Leader {
                self.context.leaders.suspect(group, self.local());
            }
        }
    }

    fn no_route(&self, error: RouteError) -> Failure {
        match error {
            RouteError::UnknownNamespace { .. } => Failure::UnknownNamespace,
            RouteError::NamespaceDeleted { .. } => Failure::DeletedNamespace,
            RouteError::UnknownVault { vault } => Failure::UnknownVault(vault),
            RouteError::VaultDeleted { vault } => Failure::DeletedVault(vault),
            RouteError::VaultNotReady { .. }
            | RouteError::UnknownShard { .. }
            | RouteError::UnknownNode { .. } => Failure::not_ready(error.to_string()),
            RouteError::NoLeader { group } => {
                self.learn_here(group);
                Failure::NotLeader { group, leader: None }
            }
            RouteError::NoReplica { group } => Failure::NotLeader { group, leader: None },
            RouteError::NotLeader { group, leader } => {
                self.learn_here(group);
                let leader = leader.map(|Target { node, address }| LeaderAddress { node, address });
                Failure::NotLeader { group, leader }
            }
        }
    }

    /// Brings the directory here up to what its leader knows about the vault at this moment.
    pub(super) async fn refresh(&self, vault: VaultRef) -> Result<(), Failure> {
        // The question is this node's own, also when the request came from another one.
        let request = RouteRequest {
            vault: VaultRef::SYSTEM,
            reach: Reach::Leader,
            local: self.local(),
            forwarded: false,
            attempt: 0,
        };
        let revision = match self.settle(&request).await? {
            Place::Here(_) => self.local_row(VaultRef::SYSTEM)?.map_or(0, |row| row.height),
            Place::There(remote) => self.look_up(remote, vault).await?,
        };
        let time = self.deadline.check()?.min(DIRECTORY_WAIT_MAX);
        if self.context.directory.wait_revision(revision, time).await {
            return Ok(());
        }
        Err(Failure::not_ready("the directory here is behind"))
    }

    /// Asks another node about the vault, and tells the revision that its answer is of.
    async fn look_up(&self, remote: Remote, vault: VaultRef) -> Result<u64, Failure> {
        let mut client = PeerClient::new(remote.channel);
        let (namespace, number) = (vault.namespace.0, vault.vault.0);
        let mut request = Request::new(LookupVaultRequest { namespace, vault: number });
        request.set_timeout(self.deadline.check()?);
        let response = match client.lookup_vault(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.context.leaders.suspect(remote.group, remote.leader.node);
                let what = format!("the directory cannot be asked: {}", status.message());
                return Err(Failure::NotReady { what });
            }
        };
        if let Some(entry) = response.entry.filter(|entry| !entry.deleted) {
            let entity = VaultEntity::decode(&entry.value)
                .map_err(|_| Failure::Internal("another node's answer about a vault is damaged"))?;
            self.context.directory.current().learn_vault(response.revision, entity);
        }
        Ok(response.revision)
    }

    /// Where a read of the vault is served. The barrier of a linearizable read has passed when this returns
    /// `Here`, and the vault's row is that of the expected owner.
    pub(super) async fn read_place(
        &self,
        vault: VaultRef,
        freshness: Freshness,
        attempt: u32,
    ) -> Result<ReadPlace, Failure> {
        #[cfg(feature = "failpoints")]
        let freshness = sabotaged(freshness);
        if freshness.consistency == Consistency::Eventual && attempt == 0 {
            let place = self.place(vault, Reach::AnyReplica, attempt).await?;
            match place {
                Place::There(remote) => return Ok(ReadPlace::There(remote)),
                Place::Here(owner) => match self.owned_row(owner) {
                    Ok(row) if row.height >= freshness.height_min => {
                        return Ok(ReadPlace::Here(owner, Box::new(row)));
                    }
                    // This replica is behind; the leader is not.
                    Ok(_) | Err(Failure::WrongShard { .. }) => {}
                    Err(failure) => return Err(failure),
                },
            }
        }
        match self.place(vault, Reach::Leader, attempt).await? {
            Place::There(remote) => Ok(ReadPlace::There(remote)),
            Place::Here(owner) => {
                if freshness.consistency == Consistency::Linearizable {
                    self.barrier(owner.group).await?;
                }
                Ok(ReadPlace::Here(owner, Box::new(self.owned_row(owner)?)))
            }
        }
    }

    /// True if this node leads the group, as far as it knows.
    pub(super) fn leads(&self, group: GroupId) -> bool {
        self.context.shard.leader(group).is_some_and(|(role, ..)| role == Role::Leader)
    }

    /// Looks the vault up again if the failure says that another shard owns it.
    pub(super) async fn refresh_if_moved(
        &self,
        failure: &Failure,
        vault: VaultRef,
    ) -> Result<(), Failure> {
        match failure {
            Failure::WrongShard { .. } => self.refresh(vault).await,
            _ => Ok(()),
        }
    }

    /// The vault's row, if it is the expected owner's.
    pub(super) fn owned_row(&self, owner: Owner) -> Result<VaultRow, Failure> {
        let row = self.local_row(owner.vault)?;
        let row = row.ok_or(Failure::WrongShard { owner_epoch: None })?;
        if row.owner != owner.group || row.owner_epoch != owner.epoch {
            return Err(Failure::WrongShard { owner_epoch: Some(row.owner_epoch) });
        }
        Ok(row)
    }

    fn local_row(&self, vault: VaultRef) -> Result<Option<VaultRow>, Failure> {
        match self.context.reader.tip(vault) {
            // The rows may still be there; nobody is to be shown them.
            Ok(row) if row.status.is_deleted() => Err(Failure::deleted(vault)),
            Ok(row) => Ok(Some(row)),
            Err(QueryError::UnknownVault) => Ok(None),
            Err(error) => Err(query_failure(error)),
        }
    }

    /// Waits until everything acknowledged before now is applied here.
    pub(super) async fn barrier(&self, group: GroupId) -> Result<u64, Failure> {
        #[cfg(feature = "failpoints")]
        fail::fail_point!("sabotage::no_barrier", |_| Ok(0));
        let (sender, receiver) = oneshot::channel();
        let remaining = self.deadline.check()?;
        let shard = &self.context.shard;
        // A caller that has given up needs no answer.
        let completion = move |outcome| {
            let _ = sender.send(outcome);
        };
        shard.read(group, deadline_ms(&self.context, remaining), Box::new(completion));
        match tokio::time::timeout(remaining, receiver).await {
            Ok(Ok(Ok(index))) => Ok(index),
            Ok(Ok(Err(refusal))) => Err(self.refused(group, refusal)),
            Ok(Err(_)) => Err(Failure::NotLeader { group, leader: None }),
            Err(_) => Err(Failure::Deadline),
        }
    }

    /// What a refusal of the group means to the client. Nothing was changed, except where the outcome is
    /// unknown.
    pub(super) fn refused(&self, group: GroupId, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::NotLeader(leader) => {
                self.learn_here(group);
                let leader = leader.filter(|node| *node != self.local());
                let address = |node| Some(LeaderAddress { node, address: self.address(node)? });
                Failure::NotLeader { group, leader: leader.and_then(address) }
            }
            Refusal::NoReplica => Failure::NotLeader { group, leader: None },
            Refusal::Expired => Failure::Deadline,
            Refusal::Busy => Failure::Overloaded,
            Refusal::OutcomeUnknown => Failure::OutcomeUnknown,
        }
    }

    /// Sends a request to another node and hands its answer on. `send` makes the call on the channel.
    pub(super) async fn forward<Q, A, S, F>(
        &self,
        remote: Remote,
        message: Q,
        send: S,
    ) -> Result<Response<A>, Failure>
    where
        S: FnOnce(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let remaining = self.deadline.check()?;
        let request = forwarded(message, &self.passed, remaining);
        let Remote { group, leader, channel } = remote;
        let answer = tokio::time::timeout(remaining, send(channel, request)).await;
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status)) => Err(self.remote_failure(group, &leader, status)),
            Err(_) => Err(Failure::OutcomeUnknown),
        }
    }

    /// What another node's refusal means. One with a reason is that node's own word and is handed on; one
    /// without came from the connection, and unless it was never made, what became of the request is unknown.
    fn remote_failure(&self, group: GroupId, leader: &LeaderAddress, status: Status) -> Failure {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
        match info.as_ref().map(|info| info.reason.as_str()) {
            Some("NOT_LEADER" | "NO_LEADER" | "NOT_READY" | "DRAINING") => {
                self.context.leaders.suspect(group, leader.node);
                // Whom the other node takes for the leader, if it said so.
                let leader = info.as_ref().and_then(|info| LeaderAddress::of(&info.metadata));
                Failure::NotLeader { group, leader }
            }
            Some("WRONG_SHARD") => Failure::WrongShard { owner_epoch: None },
            Some("OUTCOME_UNKNOWN") => Failure::OutcomeUnknown,
            Some(_) => Failure::Forwarded(status),
            None if was_never_sent(&status) => {
                self.context.leaders.suspect(group, leader.node);
                // Out of reach from here; the client may reach it.
                Failure::NotLeader { group, leader: Some(leader.clone()) }
            }
            None if status.code() == Code::Unimplemented => Failure::Forwarded(status),
            None => Failure::OutcomeUnknown,
        }
    }
}

/// While a test makes this node serve stale reads: no read waits for anything.
#[cfg(feature = "failpoints")]
fn sabotaged(freshness: Freshness) -> Freshness {
    fail::fail_point!("sabotage::stale_read", |_| Freshness {
        consistency: Consistency::Eventual,
        ..freshness
    });
    freshness
}

/// True of a request that waits for a group to get a leader.
fn is_leaderless(failure: &Failure) -> bool {
    matches!(failure, Failure::NotLeader { .. })
}

/// True if no connection to the node could be made, so that it cannot have seen the request.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A deadline on the driver's clock.
pub(crate) fn deadline_ms(context: &NodeContext, remaining: Duration) -> u64 {
    let remaining = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
    context.shard.now().monotonic_ms.saturating_add(remaining)
}

/// What a failed local read of a vault means to the client that was routed here. A vault whose row was there a
/// moment ago is not unknown: its group takes another state over at this moment, or it moved.
pub(crate) fn query_failure(error: QueryError) -> Failure {
    match error {
        QueryError::UnknownVault => Failure::WrongShard { owner_epoch: None },
        QueryError::HeightUnavailable { floor, tip } => Failure::HeightUnavailable { floor, tip },
        QueryError::TooManyChanges { keys_max, .. } => {
            let max = keys_max as u64;
            let (field, limit) = ("at_height".to_owned(), "past_keys_max");
            Failure::Limit { field, limit, actual: max + 1, max }
        }
        QueryError::Fault(fault) => Failure::Store(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_that_goes_in_the_middle_of_a_read_is_asked_for_elsewhere() {
        assert!(query_failure(QueryError::UnknownVault).is_stale_route());
        let below = query_failure(QueryError::HeightUnavailable { floor: 3, tip: 9 });
        assert!(matches!(below, Failure::HeightUnavailable { floor: 3, tip: 9 }));
    }
}
