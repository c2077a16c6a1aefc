//! How a node without a cluster comes to belong to one: by founding it with others, or by joining.
//!
//! Owns the conversation; the decisions are in [`decide`], the durable changes in
//! [`PeerState`]. Acts only while the data directory names no cluster, and
//! must never take part in making a second one.

pub mod decide;
pub(crate) mod probe;
pub mod promise;
pub mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_proof::DecodeError;
use ledger_proto::internal::{
    AdoptRequest, JoinRequest, Joined, PromiseRequest, Refusal, RefusalReason, join_response,
    promise_response,
};
use ledger_types::{ClusterId, NodeId, StoreId};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bootstrap::decide::{FoundingView, Step, Waiting, next_step};
use crate::bootstrap::probe::{Peers, Round};
use crate::context::NodeIdentity;
use crate::peer::{PROTOCOL_VERSION, PeerState, StateError};

pub use ledger_proof::genesis::{Founder, GenesisPromise};
pub use promise::FounderBook;

/// Longest wait for another founder's disk.
const PROMISE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the directory to register this node.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request to join follows a hint before it begins anew.
const JOIN_HOPS_MAX: usize = 4;
/// While nothing changes, what is waited for is told this often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Where the addresses of other nodes come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerSource {
    /// A complete list of host:port, this node's own possibly among them.
    Listed(Vec<String>),
    /// The addresses behind a host name with a port. Asked again in every round.
    Service(String),
}

/// How this node looks for its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootstrapSettings {
    /// The other nodes.
    pub peers: PeerSource,
    /// The domain in the cluster's signed notes, if this node makes the genesis and one is wanted.
    pub domain: Option<String>,
    /// How long the same nodes must have answered before others are not waited for.
    pub settle: Duration,
    /// Pause between rounds of probes.
    pub interval: Duration,
}

impl BootstrapSettings {
    /// The usual pauses.
    pub fn new(peers: PeerSource, domain: Option<String>) -> BootstrapSettings {
        let (settle, interval) = (Duration::from_secs(2), Duration::from_millis(200));
        BootstrapSettings { peers, domain, settle, interval }
    }
}

/// A node's place in its cluster.
#[derive(Clone, Debug)]
pub struct Established {
    /// Who this node is.
    pub identity: NodeIdentity,
    /// The cluster's beginning.
    pub genesis: GenesisPromise,
    /// The same, if this node is a founder that has not made the directory's group yet. Until
    /// [`PeerState::finish_founding`].
    pub founding: Option<GenesisPromise>,
}

/// Why a node cannot come to belong to a cluster.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The node's own rows cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The peers belong to two clusters.
    #[error("the peers belong to two clusters, {first} and {second}")]
    TwoClusters {
        /// One of them.
        first: ClusterId,
        /// Another.
        second: ClusterId,
    },
    /// The data directory belongs to a cluster, and the peers that answer all belong to another one.
    #[error("the data directory belongs to cluster {own}, the peers to cluster {found}")]
    ForeignPeers {
        /// The data directory's.
        own: ClusterId,
        /// A peer's.
        found: ClusterId,
    },
    /// A member of the cluster turns this node away for good.
    #[error("cluster {cluster} refuses this node ({reason}): {detail}")]
    Refused {
        /// The cluster.
        cluster: ClusterId,
        /// Why.
        reason: &'static str,
        /// In words.
        detail: String,
    },
    /// The genesis that this node would make breaks a rule, such as a setting's.
    #[error("no genesis can be made of these settings: {0}")]
    Genesis(#[from] DecodeError),
}

/// Finds or founds the cluster; returns once that is durable. A node that belongs to one is told its place
/// after one look at its peers, which may turn its store away. Others wait without end for peers, and say in the
/// log for whom.
pub async fn establish(
    state: &Arc<PeerState>,
    settings: &BootstrapSettings,
) -> Result<Established, BootstrapError> {
    let mut peers = Peers::new(state.clone(), settings.clone());
    let mut changes = state.subscribe();
    let mut told = Told::default();
    if let Some(established) = state.established() {
        look_at_peers(state, settings, &mut peers, established.identity.cluster).await?;
    }
    loop {
        if let Some(fault) = state.fault() {
            return Err(fault.into());
        }
        if let Some(established) = state.established() {
            tracing::info!(
                cluster = %established.identity.cluster,
                node = %established.identity.node,
                "this node belongs to a cluster"
            );
            return Ok(established);
        }
        let held = state.standing();
        let round = peers.round().await;
        // A promise made during the round is not judged by answers that may be older.
        let is_stale = state.standing() != held;
        if !is_stale && take_step(state, settings, &round, &mut told).await? {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(settings.interval.mul_f64(rand::random_range(0.5..=1.0))) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Refuses to take a data directory into a place where only nodes of another cluster answer, and asks those of
/// its own whether its store may still take part; while one of them still hears an earlier process of the store,
/// nothing is served. Silence is no reason: all nodes of a cluster may start at the same time.
async fn look_at_peers(
    state: &Arc<PeerState>,
    settings: &BootstrapSettings,
    peers: &mut Peers,
    own: ClusterId,
) -> Result<(), BootstrapError> {
    let round = peers.round().await;
    let clusters = || round.view.peers.iter().filter_map(|peer| peer.cluster);
    match clusters().find(|cluster| *cluster != own) {
        Some(found) if !clusters().any(|cluster| cluster == own) => {
            Err(BootstrapError::ForeignPeers { own, found })
        }
        _ => {
            let mut told = Told::default();
            while let Some(doubt) = probe::introduce(state, round.members(own)).await
                && state.fault().is_none()
            {
                told.say(format!("waiting to be let in: {}", doubt.detail), &round.members(own));
                tokio::time::sleep(settings.interval).await;
            }
            Ok(())
        }
    }
}

/// Does what the view asks for; true if the next round should follow at once.
async fn take_step(
    state: &Arc<PeerState>,
    settings: &BootstrapSettings,
    round: &Round,
    told: &mut Told,
) -> Result<bool, BootstrapError> {
    let view = &round.view;
    match next_step(view) {
        Step::Join(cluster) => {
            state.note_cluster(cluster);
            return join(state, round, cluster, told).await;
        }
        Step::Complete => {
            let promise = held_promise(view);
            tracing::info!(cluster = %promise.cluster(), "the promised cluster exists");
            return Ok(state.adopt(promise)?.is_ok());
        }
        Step::Release => {
            let promise = held_promise(view);
            tracing::warn!(cluster = %promise.cluster(), "letting go of a genesis that cannot be");
            return superseded(state.release(promise));
        }
        Step::Drive => return drive(state, held_promise(view), told).await,
        Step::Propose(founders) => {
            let promise = make_genesis(founders, settings.domain.as_deref())?;
            tracing::info!(cluster = %promise.cluster(), "asking all founders to promise a genesis");
            return superseded(state.propose(&promise));
        }
        Step::Wait(waiting) => told.tell(&waiting, &round.unanswered),
        Step::Disagreement(first, second) => {
            return Err(BootstrapError::TwoClusters { first, second });
        }
    }
    Ok(false)
}

fn held_promise(view: &FoundingView) -> &GenesisPromise {
    view.promise.as_ref().expect("only a view with a promise leads to this step")
}

/// A change that came too late is no failure: the next round sees what happened instead.
fn superseded(outcome: Result<(), StateError>) -> Result<bool, BootstrapError> {
    match outcome {
        Ok(()) | Err(StateError::Superseded) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn make_genesis(
    founders: Vec<Founder>,
    domain: Option<&str>,
) -> Result<GenesisPromise, BootstrapError> {
    let cluster = ClusterId(rand::random());
    let domain = match domain {
        Some(domain) => domain.to_owned(),
        None => format!("{}.ledger", &cluster.to_string()[..16]),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    Ok(GenesisPromise::new(cluster, domain, now, founders)?)
}

/// As proposer: asks all founders for their promise, adopts once all have given it, then tells them.
async fn drive(
    state: &Arc<PeerState>,
    promise: &GenesisPromise,
    told: &mut Told,
) -> Result<bool, BootstrapError> {
    let bytes = promise.encode();
    let own = state.local().store;
    let others: Vec<Founder> =
        promise.founders().iter().filter(|founder| founder.store != own).cloned().collect();
    let mut asked = JoinSet::new();
    for founder in others.clone() {
        let bytes = bytes.clone();
        asked.spawn(async move { ask_promise(&founder, bytes).await });
    }
    let answers = asked.join_all().await;
    let missing: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    if !missing.is_empty() {
        told.tell_missing(&missing);
        return Ok(false);
    }
    // Adopted here first: as long as this node only promises, nobody has been told to adopt.
    if let Err(refused) = state.adopt(promise)? {
        tracing::warn!(detail = refused.detail, "the promise was withdrawn meanwhile");
        return Ok(true);
    }
    tracing::info!(cluster = %promise.cluster(), "all founders promised; the cluster is founded");
    let mut telling = JoinSet::new();
    for founder in others {
        let bytes = bytes.clone();
        telling.spawn(async move { tell_adopt(&founder, bytes).await });
    }
    telling.join_all().await;
    Ok(true)
}

/// Asks one founder; the error says who did not promise and why.
async fn ask_promise(founder: &Founder, promise: Vec<u8>) -> Result<(), String> {
    let fail = |why: String| Err(format!("{}: {why}", founder.name));
    let Some(mut client) = probe::client(&founder.address) else {
        return fail(format!("`{}` is no address", founder.address));
    };
    let answer = match timeout(PROMISE_TIMEOUT, client.promise(PromiseRequest { promise })).await {
        Ok(Ok(answer)) => answer.into_inner().answer,
        Ok(Err(status)) => return fail(status.message().to_owned()),
        Err(_) => return fail("no answer in time".to_owned()),
    };
    match answer {
        Some(promise_response::Answer::Promised(promised))
            if StoreId::from_slice(&promised.store_id) == Some(founder.store) =>
        {
            Ok(())
        }
        Some(promise_response::Answer::Promised(_)) => fail("another store answers".to_owned()),
        Some(promise_response::Answer::Refusal(refusal)) => fail(refusal.detail),
        None => fail("an empty answer".to_owned()),
    }
}

/// Tells one founder. One that is not reached sees for itself, by probing, that the cluster exists.
async fn tell_adopt(founder: &Founder, promise: Vec<u8>) {
    let Some(mut client) = probe::client(&founder.address) else { return };
    match timeout(PROMISE_TIMEOUT, client.adopt(AdoptRequest { promise })).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => tracing::info!(founder = founder.name, %status, "not told to adopt"),
        Err(_) => tracing::info!(founder = founder.name, "not told to adopt in time"),
    }
}

/// Asks members of the cluster to register this node, following hints to the leader.
async fn join(
    state: &Arc<PeerState>,
    round: &Round,
    cluster: ClusterId,
    told: &mut Told,
) -> Result<bool, BootstrapError> {
    for member in round.members(cluster) {
        let mut address = member;
        for _ in 0..JOIN_HOPS_MAX {
            match ask_join(state, &address).await {
                Ok(joined) => return take_place(state, cluster, joined),
                Err(Some(refusal)) if is_final(&refusal) => {
                    let reason = refusal.reason().as_str_name();
                    let detail = refusal.detail;
                    return Err(BootstrapError::Refused { cluster, reason, detail });
                }
                Err(Some(refusal)) if !refusal.leader_address.is_empty() => {
                    address = refusal.leader_address;
                }
                Err(Some(refusal)) => {
                    told.say(format!("not registered yet: {}", refusal.detail), &[address]);
                    break;
                }
                Err(None) => break,
            }
        }
    }
    Ok(false)
}

/// Asks one node; `Err(None)` if it gives no answer.
async fn ask_join(state: &PeerState, address: &str) -> Result<Joined, Option<Refusal>> {
    let local = state.local();
    let request = JoinRequest {
        name: local.name.clone(),
        store_id: local.store.0.to_vec(),
        address: local.address.clone(),
        public_key: local.public_key.to_vec(),
        zone: local.zone.clone(),
        boot_counter: local.boot_counter,
        protocol_version: PROTOCOL_VERSION,
        feature_level: local.feature_level,
    };
    let mut client = probe::client(address).ok_or(None)?;
    let answer = match timeout(JOIN_TIMEOUT, client.join(request)).await {
        Ok(Ok(answer)) => answer.into_inner().answer,
        Ok(Err(status)) => {
            tracing::info!(address, %status, "cannot ask to join");
            return Err(None);
        }
        Err(_) => return Err(None),
    };
    match answer {
        Some(join_response::Answer::Joined(joined)) => Ok(joined),
        Some(join_response::Answer::Refusal(refusal)) => Err(Some(refusal)),
        None => Err(None),
    }
}

/// Whether asking again cannot help.
fn is_final(refusal: &Refusal) -> bool {
    match refusal.reason() {
        RefusalReason::OtherCluster
        | RefusalReason::ProtocolVersion
        | RefusalReason::UnknownStore
        | RefusalReason::Removed
        | RefusalReason::RolledBack
        | RefusalReason::NameTaken
        | RefusalReason::Malformed => true,
        RefusalReason::Unspecified
        | RefusalReason::NotBootstrapped
        | RefusalReason::AlreadyBootstrapped
        | RefusalReason::OtherPromise
        | RefusalReason::StillAlive
        | RefusalReason::NotLeader => false,
    }
}

/// Makes the place that the directory gave durable, if it is one in the cluster that was asked.
fn take_place(
    state: &PeerState,
    cluster: ClusterId,
    joined: Joined,
) -> Result<bool, BootstrapError> {
    let genesis = GenesisPromise::decode(&joined.genesis);
    let genesis = genesis.ok().filter(|genesis| {
        let is_told = joined.cluster_id == cluster.0 && joined.cluster_domain == genesis.domain();
        is_told && genesis.cluster() == cluster && joined.node_id != 0
    });
    let Some(genesis) = genesis else {
        tracing::warn!(%cluster, "the answer to the request to join contradicts itself");
        return Ok(false);
    };
    superseded(state.join(NodeId(joined.node_id), genesis))
}

/// Says what is waited for when it changes, and now and then while it does not.
#[derive(Default)]
struct Told {
    last: Option<(String, Instant)>,
}

impl Told {
    fn tell(&mut self, waiting: &Waiting, unanswered: &[String]) {
        let text = match waiting {
            Waiting::Founders { present } => {
                format!("waiting for more founders; present with this node: {present}")
            }
            Waiting::OtherNodes { unanswered } => {
                format!("waiting for {unanswered} listed nodes that may be among the founders")
            }
            Waiting::Proposer { name } => format!("waiting for node {name} to found the cluster"),
            Waiting::Cluster => "waiting for the founders, to join their cluster".to_owned(),
            Waiting::SameName { name } => format!("two nodes are named {name}; rename one"),
            Waiting::OtherExpect { name, expect } => {
                format!("node {name} has BOOTSTRAP_EXPECT={expect}, this node another")
            }
        };
        self.say(text, unanswered);
    }

    fn tell_missing(&mut self, missing: &[String]) {
        self.say("waiting for the promises of other founders".to_owned(), missing);
    }

    fn say(&mut self, text: String, whom: &[String]) {
        let is_news = self
            .last
            .as_ref()
            .is_none_or(|(last, when)| *last != text || when.elapsed() >= TELL_INTERVAL);
        if is_news {
            tracing::info!(missing = whom.join(", "), "{text}");
            self.last = Some((text, Instant::now()));
        }
    }
}
