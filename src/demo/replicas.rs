//! One node's own replicas, asked directly: what this node holds, not what the cluster answers.
//!
//! Owns the comparison of replicas over all nodes. Every request says that it was forwarded already, so a
//! node answers from its own rows or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use ledger_client::Tip;
use ledger_proto::convert::ids;
use ledger_proto::v1;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_types::VaultRef;
use ledger_types::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
use thiserror::Error;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The metadata key of a request that another node has passed on.
const FORWARDED: &str = "ledger-forwarded";
/// Longest wait for a node's answer. Without it one lost answer would keep a comparison waiting for ever.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Pause between two comparisons.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Marks each request as one that must not leave the node.
#[derive(Clone, Copy, Debug)]
pub struct StayHere;

impl Interceptor for StayHere {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        Ok(request)
    }
}

/// A channel whose requests are answered by the node at its other end or by nobody.
pub type LocalChannel = InterceptedService<Channel, StayHere>;

/// Why replicas cannot be compared, or differ.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// The address is none.
    #[error("{0} is no address")]
    Address(String),
    /// A node does not answer.
    #[error("{address}: {status}")]
    Refused {
        /// The node.
        address: String,
        /// What it said.
        status: Box<Status>,
    },
    /// A node's answer lacks something.
    #[error("{address}: the answer's {field} is missing or malformed")]
    Malformed {
        /// The node.
        address: String,
        /// The field.
        field: &'static str,
    },
    /// At the same height two nodes hold different blocks or states.
    #[error("DIVERGED: {0}")]
    Diverged(String),
    /// The nodes did not reach the same height in time.
    #[error("replicas are not level after {waited:?}: {difference}")]
    NotLevel {
        /// How long.
        waited: Duration,
        /// The first difference left.
        difference: String,
    },
}

/// A node as a holder of replicas.
#[derive(Clone, Debug)]
pub struct Replica {
    address: String,
    channel: LocalChannel,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Replica {
    /// The node at `address`, host:port; it is connected to with the first request.
    pub fn at(address: &str) -> Result<Replica, ReplicaError> {
        let endpoint = crate::context::endpoint(address);
        let endpoint = endpoint.ok_or_else(|| ReplicaError::Address(address.to_owned()))?;
        let endpoint = endpoint.timeout(ANSWER_MAX);
        let channel = InterceptedService::new(endpoint.connect_lazy(), StayHere);
        Ok(Replica { address: address.to_owned(), channel })
    }

    /// The channel, for other services of the node.
    pub fn channel(&self) -> LocalChannel {
        self.channel.clone()
    }

    fn reads(&self) -> ReadServiceClient<LocalChannel> {
        let bytes_max = 2 * PAGE_BYTES_MAX;
        ReadServiceClient::new(self.channel.clone()).max_decoding_message_size(bytes_max)
    }

    fn refused(&self, status: Status) -> ReplicaError {
        ReplicaError::Refused { address: self.address.clone(), status: Box::new(status) }
    }

    fn malformed(&self, field: &'static str) -> ReplicaError {
        ReplicaError::Malformed { address: self.address.clone(), field }
    }

    /// The newest block that this node has applied.
    pub async fn tip(&self, vault: VaultRef) -> Result<Tip, ReplicaError> {
        let request = v1::GetTipRequest {
            namespace_id: Some(vault.namespace.into()),
            vault_id: Some(vault.vault.into()),
        };
        let answer = self.reads().get_tip(request).await;
        let tip = answer.map_err(|status| self.refused(status))?.into_inner();
        let digest = |field, hash: Option<v1::Hash>| {
            let digest = hash.and_then(|hash| ids::digest(field, Some(&hash)).ok());
            digest.ok_or_else(|| self.malformed(field))
        };
        Ok(Tip {
            height: tip.height,
            block_hash: digest("block_hash", tip.block_hash)?,
            state_root: digest("state_root", tip.state_root)?,
        })
    }

    /// Every entity whose key begins with `prefix`, as this node holds it.
    pub async fn entities(
        &self,
        vault: VaultRef,
        prefix: &str,
    ) -> Result<Vec<v1::Entity>, ReplicaError> {
        let mut request = v1::ListEntitiesRequest {
            namespace_id: Some(vault.namespace.into()),
            vault_id: Some(vault.vault.into()),
            key_prefix: prefix.to_owned(),
            limit: PAGE_ITEMS_MAX as u32,
            consistency: v1::ReadConsistency::Eventual.into(),
            ..v1::ListEntitiesRequest::default()
        };
        let mut entities = Vec::new();
        loop {
            let answer = self.reads().list_entities(request.clone()).await;
            let page = answer.map_err(|status| self.refused(status))?.into_inner();
            entities.extend(page.entities);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(entities);
            }
        }
    }

    /// Every relationship of the vault, as this node holds it.
    pub async fn relationships(
        &self,
        vault: VaultRef,
    ) -> Result<Vec<v1::Relationship>, ReplicaError> {
        let mut request = v1::ListRelationshipsRequest {
            namespace_id: Some(vault.namespace.into()),
            vault_id: Some(vault.vault.into()),
            limit: PAGE_ITEMS_MAX as u32,
            consistency: v1::ReadConsistency::Eventual.into(),
            ..v1::ListRelationshipsRequest::default()
        };
        let mut relationships = Vec::new();
        loop {
            let answer = self.reads().list_relationships(request.clone()).await;
            let page = answer.map_err(|status| self.refused(status))?.into_inner();
            relationships.extend(page.relationships);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(relationships);
            }
        }
    }
}

/// Waits until every node holds the same newest block of each vault, and returns those blocks. Two nodes
/// with different blocks at one height are an error at once. Nobody may write meanwhile.
pub async fn wait_level(
    replicas: &[Replica],
    vaults: &[VaultRef],
    within: Duration,
) -> Result<BTreeMap<VaultRef, Tip>, ReplicaError> {
    let begun = Instant::now();
    let mut level = BTreeMap::new();
    for &vault in vaults {
        loop {
            let difference = match compare(replicas, vault).await {
                Ok(Ok(tip)) => {
                    level.insert(vault, tip);
                    break;
                }
                Ok(Err(difference)) => difference,
                Err(error @ ReplicaError::Diverged(_)) => return Err(error),
                Err(error) => error.to_string(),
            };
            let waited = begun.elapsed();
            if waited >= within {
                return Err(ReplicaError::NotLevel { waited, difference });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(level)
}

/// The block that all nodes hold as the newest, or who is behind.
async fn compare(
    replicas: &[Replica],
    vault: VaultRef,
) -> Result<Result<Tip, String>, ReplicaError> {
    let (first, rest) = replicas.split_first().expect("at least one node");
    let expected = first.tip(vault).await?;
    for replica in rest {
        let found = replica.tip(vault).await?;
        if found.height != expected.height {
            let heights = format!("{} at {first}, {} at {replica}", expected.height, found.height);
            return Ok(Err(format!("vault {vault} has height {heights}")));
        }
        if found != expected {
            let both = format!("{expected:?} at {first}, {found:?} at {replica}");
            return Err(ReplicaError::Diverged(format!("vault {vault} has {both}")));
        }
    }
    Ok(Ok(expected))
}
