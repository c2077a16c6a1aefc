//! Asks every listed address who is there.
//!
//! Owns the addresses, the connections for bootstrap and how long the same nodes have answered. Must never
//! decide anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proto::convert::peers;
use ledger_proto::internal::peer_client::PeerClient;
use ledger_proto::internal::{
    self, HelloRequest, ProbeRequest, ProbeResponse, Refusal, RefusalReason, hello_response,
};
use ledger_types::{ClusterId, StoreId};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::decide::{FoundingView, PeerView};
use super::{BootstrapSettings, PeerSource};
use super::{Founder, GenesisPromise};
use crate::context::endpoint;
use crate::peer::{MESSAGE_BYTES_MAX, PeerState, wire_founder};

/// Longest wait for an answer to a probe, or from DNS.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most addresses that are probed.
const ADDRESSES_MAX: usize = 1024;

/// A client of the internal service, connected on first use; `None` if the address is malformed.
pub(super) fn client(address: &str) -> Option<PeerClient<Channel>> {
    let channel = endpoint(address)?.connect_lazy();
    Some(PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// What a round of probes showed.
pub(super) struct Round {
    /// For the decision.
    pub(super) view: FoundingView,
    /// Addresses without an answer.
    pub(super) unanswered: Vec<String>,
    members: Vec<(ClusterId, String)>,
}

impl Round {
    /// Addresses of nodes that belong to the cluster.
    pub(super) fn members(&self, cluster: ClusterId) -> Vec<String> {
        let belongs = self.members.iter().filter(|(other, _)| *other == cluster);
        belongs.map(|(_, address)| address.clone()).collect()
    }
}

/// The addresses, and what is remembered between rounds.
pub(super) struct Peers {
    state: Arc<PeerState>,
    settings: BootstrapSettings,
    clients: BTreeMap<String, PeerClient<Channel>>,
    stable: Option<(Vec<StoreId>, Instant)>,
}

impl Peers {
    pub(super) fn new(state: Arc<PeerState>, settings: BootstrapSettings) -> Peers {
        Peers { state, settings, clients: BTreeMap::new(), stable: None }
    }

    /// Probes every address at once. A node that belongs to a cluster goes on to the addresses that it
    /// remembers if nobody else answers where it was told to look.
    pub(super) async fn round(&mut self) -> Round {
        let local = self.state.local().clone();
        let promise = self.state.standing().promise().cloned();
        let mut answers = Answers::default();
        let listed = self.addresses().await;
        self.ask(listed.clone(), &mut answers).await;
        if answers.peers.is_empty() {
            let mut remembered = self.remembered();
            remembered.retain(|address| !listed.contains(address));
            self.ask(remembered, &mut answers).await;
        }
        let Answers { peers, mut members, unanswered } = answers;
        members.sort();
        let peers: Vec<PeerView> = peers.into_values().collect();
        let is_settled = self.is_settled(&peers);
        let view = FoundingView {
            me: local.founder(),
            expect: local.bootstrap_expect as usize,
            promise,
            peers,
            unanswered: unanswered.len(),
            is_list_complete: matches!(self.settings.peers, PeerSource::Listed(_)),
            is_settled,
        };
        Round { view, unanswered, members }
    }

    async fn ask(&mut self, addresses: Vec<String>, answers: &mut Answers) {
        let local = self.state.local().clone();
        let request = probe_request(&self.state);
        let mut asked = JoinSet::new();
        for address in addresses {
            let Some(mut client) = self.client(&address) else {
                answers.unanswered.push(address);
                continue;
            };
            let request = request.clone();
            asked.spawn(async move { (address, ask_one(&mut client, request).await) });
        }
        for (address, answer) in asked.join_all().await {
            match answer {
                Some(peer) if peer.founder.store == local.store => {}
                Some(peer) => {
                    answers.members.extend(peer.cluster.map(|cluster| (cluster, address)));
                    answers.peers.insert(peer.founder.store, peer);
                }
                // This node's own listener may be slow to answer; it is not somebody else.
                None if address == local.address => {}
                None => answers.unanswered.push(address),
            }
        }
    }

    /// The addresses that the directory had when this node last saw it; none before it saw one.
    fn remembered(&self) -> Vec<String> {
        let remembered = self.state.remembered_addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "remembered addresses cannot be read");
            Vec::new()
        });
        remembered.into_iter().map(|(_, address)| address).take(ADDRESSES_MAX).collect()
    }

    async fn addresses(&self) -> Vec<String> {
        let mut addresses = match &self.settings.peers {
            PeerSource::Listed(addresses) => addresses.clone(),
            PeerSource::Service(service) => resolve(service).await,
        };
        addresses.sort();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }

    fn client(&mut self, address: &str) -> Option<PeerClient<Channel>> {
        if let Some(client) = self.clients.get(address) {
            return Some(client.clone());
        }
        let client = client(address)?;
        self.clients.insert(address.to_owned(), client.clone());
        Some(client)
    }

    fn is_settled(&mut self, peers: &[PeerView]) -> bool {
        let stores: Vec<StoreId> = peers.iter().map(|peer| peer.founder.store).collect();
        match &self.stable {
            Some((same, since)) if *same == stores => since.elapsed() >= self.settings.settle,
            _ => {
                self.stable = Some((stores, Instant::now()));
                false
            }
        }
    }
}

/// What probes showed so far.
#[derive(Default)]
struct Answers {
    peers: BTreeMap<StoreId, PeerView>,
    members: Vec<(ClusterId, String)>,
    unanswered: Vec<String>,
}

fn probe_request(state: &PeerState) -> ProbeRequest {
    let local = state.local();
    let founder = Some(wire_founder(&local.founder()));
    ProbeRequest { founder, bootstrap_expect: local.bootstrap_expect }
}

async fn ask_one(client: &mut PeerClient<Channel>, request: ProbeRequest) -> Option<PeerView> {
    let answer = timeout(PROBE_TIMEOUT, client.probe(request)).await.ok()?.ok()?;
    read_answer(&answer.into_inner())
}

/// The store of the node that answers at an address now; `None` if none does.
pub(crate) async fn store_at(state: &PeerState, address: &str) -> Option<StoreId> {
    let peer = ask_one(&mut client(address)?, probe_request(state)).await?;
    Some(peer.founder.store)
}

/// Introduces this node to the nodes at these addresses, all at once. One that turns its store away for good
/// stops it (see [`PeerState::turned_away`]); silence says nothing. The answer is that of a node which still
/// hears an earlier process of this store.
pub(super) async fn introduce(state: &Arc<PeerState>, addresses: Vec<String>) -> Option<Refusal> {
    let mut asked = JoinSet::new();
    for address in addresses {
        let Some(mut client) = client(&address) else { continue };
        let request =
            HelloRequest { identity: Some(state.identity()), lane: internal::Lane::Control.into() };
        asked.spawn(async move { timeout(PROBE_TIMEOUT, client.hello(request)).await });
    }
    let mut doubt = None;
    for answer in asked.join_all().await {
        if let Ok(Ok(answer)) = answer
            && let Some(hello_response::Answer::Refusal(refusal)) = answer.into_inner().answer
        {
            state.turned_away(&refusal);
            let is_doubt = refusal.reason() == RefusalReason::StillAlive;
            doubt = doubt.or(is_doubt.then_some(refusal));
        }
    }
    doubt
}

/// The addresses behind a name. A name that is not known yet has none.
async fn resolve(service: &str) -> Vec<String> {
    match timeout(PROBE_TIMEOUT, tokio::net::lookup_host(service.to_owned())).await {
        Ok(Ok(found)) => found.map(|address| address.to_string()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(service, %error, "the name of the service is not known");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Reads an answer; a malformed one counts as none.
fn read_answer(answer: &ProbeResponse) -> Option<PeerView> {
    let wire = answer.founder.as_ref()?;
    let founder = Founder {
        name: wire.name.clone(),
        store: peers::store("store_id", &wire.store_id).ok()?,
        public_key: peers::public_key("public_key", &wire.public_key).ok()?,
        address: wire.address.clone(),
        zone: String::new(),
    };
    founder.check().ok()?;
    let promise = match answer.promise.as_slice() {
        [] => None,
        bytes => Some(GenesisPromise::decode(bytes).ok()?),
    };
    let cluster = peers::cluster("cluster_id", &answer.cluster_id).ok()?;
    Some(PeerView { founder, expect: answer.bootstrap_expect as usize, cluster, promise })
}
