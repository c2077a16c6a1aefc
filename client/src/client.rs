//! The client itself: what all calls share, connecting, status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proto::v1;
use ledger_types::{GroupId, VaultRef};

use crate::call::CallKind;
use crate::checkpoint_store::CheckpointStore;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::leaders::{Leaders, Route};
use crate::method;
use crate::nodes::Nodes;
use crate::proving::VoterMemory;
use crate::retry::Budget;
use crate::trust::TrustStore;
use crate::write::wire_vault;
use crate::writes_under_way::WritesUnderWay;

/// A connection to a cluster. Clones share connections, what was learnt, and the retry budget.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) deadline: Duration,
}

/// What the clones of a client share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) nodes: Nodes,
    pub(crate) leaders: Leaders,
    pub(crate) budget: Budget,
    pub(crate) checkpoints: CheckpointStore,
    pub(crate) trust: TrustStore,
    pub(crate) voters: VoterMemory,
    pub(crate) writes: WritesUnderWay,
}

impl Client {
    /// Connects: asks any of the configured nodes for status and learns the others and the leaders from
    /// it. Errors: bad settings, an unusable state directory or trust file, no node answers in time.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        let client = Client::unconnected(config)?;
        client.status().await?;
        Ok(client)
    }

    /// A client that makes its first connection with its first call.
    pub fn unconnected(config: ClientConfig) -> Result<Client, ClientError> {
        config.check()?;
        let nodes = Nodes::new(&config)?;
        let checkpoints = CheckpointStore::open(config.state_dir.as_deref())?;
        let trust = TrustStore::open(&config)?;
        let budget = Budget::new(&config.retry, Instant::now());
        let deadline = config.deadline;
        let (leaders, voters) = (Leaders::default(), VoterMemory::default());
        let writes = WritesUnderWay::default();
        let inner = Inner { config, nodes, leaders, budget, checkpoints, trust, voters, writes };
        Ok(Client { inner: Arc::new(inner), deadline })
    }

    /// The same client with another deadline for its calls.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { inner: self.inner.clone(), deadline }
    }

    /// The name under which the cluster counts this client's writes.
    pub fn client_id(&self) -> &str {
        &self.inner.config.client_id
    }

    /// Addresses of all nodes that the client knows.
    pub fn addresses(&self) -> Vec<String> {
        self.inner.nodes.addresses()
    }

    /// Status of any node and its first groups; what it says of nodes and leaders is learnt.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, ClientError> {
        let kind = CallKind::reads(Route::Any(None));
        let request = v1::GetStatusRequest::default();
        let status = self.call(method::GET_STATUS, kind, &request).await?;
        self.learn_status(&status);
        Ok(status)
    }

    /// Status of the node at `address` and of all its groups. Asked once: a node that is down is an
    /// answer too.
    pub async fn status_of(&self, address: &str) -> Result<v1::GetStatusResponse, ClientError> {
        let mut request = v1::GetStatusRequest::default();
        let mut status = self.call_node(method::GET_STATUS, address, &request).await?;
        while !status.next_page_token.is_empty() {
            request.page_token = Some(std::mem::take(&mut status.next_page_token));
            let page = self.call_node(method::GET_STATUS, address, &request).await?;
            status.groups.extend(page.groups);
            status.next_page_token = page.next_page_token;
        }
        self.learn_status(&status);
        Ok(status)
    }

    /// The members of the cluster as any node knows them.
    pub async fn cluster_info(&self) -> Result<v1::GetClusterInfoResponse, ClientError> {
        let kind = CallKind::reads(Route::Any(None));
        self.call(method::GET_CLUSTER_INFO, kind, &v1::GetClusterInfoRequest {}).await
    }

    /// Has the node at `address` check its own replica of a vault; with `full_check` its blocks are carried out
    /// again. Asked once. Errors: the node has no replica, or the deadline is too short for so many rows.
    pub async fn check_integrity_at(
        &self,
        address: &str,
        vault: VaultRef,
        full_check: bool,
    ) -> Result<v1::CheckIntegrityResponse, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::CheckIntegrityRequest { namespace_id, vault_id, full_check };
        self.call_replica_long(method::CHECK_INTEGRITY, address, &request).await
    }

    /// Version, limits and features of any node.
    pub async fn server_info(&self) -> Result<v1::GetServerInfoResponse, ClientError> {
        let kind = CallKind::reads(Route::Any(None));
        self.call(method::GET_SERVER_INFO, kind, &v1::GetServerInfoRequest {}).await
    }

    fn learn_status(&self, status: &v1::GetStatusResponse) {
        for node in status.nodes.iter().filter(|node| !node.address.is_empty()) {
            self.inner.nodes.get_or_add(&node.address);
        }
        for group in status.system.iter().chain(&status.groups) {
            if !group.leader_address.is_empty() {
                self.inner.leaders.learn_group(GroupId(group.group), &group.leader_address);
            }
        }
    }
}
