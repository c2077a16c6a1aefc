//! Why an answer is not believed, and what the directory's entities say about voters. No I/O: the same
//! code judges answers from the network and saved files.

use std::path::PathBuf;

use ledger_proof::system_entity::{
    NodeEntity, ShardEntity, SystemEntity, VaultEntity, node_key, shard_key, vault_key,
};
use ledger_proof::{AuthenticatedBlock, DecodeError, VerifiedValue, VerifyError, Voter, VoterSet};
use ledger_types::{GroupId, NodeId, StateKey, VaultRef};
use thiserror::Error;

/// Why something that was checked is not believed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerificationError {
    /// A proof, a signature or a rule of trust does not hold.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// Two notes that both count contradict each other: history was rewritten, or two are shown.
    #[error(
        "FORK of the log of vault {vault}: what {known_size} blocks were known to be and what {offered_size} are now said to be contradict each other{}",
        evidence_text(.evidence)
    )]
    Fork {
        /// The vault.
        vault: VaultRef,
        /// Blocks known before.
        known_size: u64,
        /// Blocks offered.
        offered_size: u64,
        /// The file with both notes, if there is a state directory.
        evidence: Option<PathBuf>,
    },
    /// A proved entity of the directory cannot be read, or says something that makes no sense.
    #[error("the directory's entity {key} is unusable: {what}")]
    Directory {
        /// The entity.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// The cluster shows another trust bundle than the one that is pinned, under the same number or a
    /// lower one.
    #[error(
        "the cluster shows trust bundle {offered}, which differs from the pinned bundle {pinned}"
    )]
    TrustChanged {
        /// Number of the pinned bundle.
        pinned: u64,
        /// Number of the newest bundle shown.
        offered: u64,
    },
    /// The cluster has newer trust bundles only and does not show how the pinned one vouches for them.
    #[error(
        "the cluster has trust bundle {offered}, the pinned one is {pinned}: get the new one from an operator"
    )]
    TrustSuperseded {
        /// Number of the pinned bundle.
        pinned: u64,
        /// Number of the newest bundle shown.
        offered: u64,
    },
    /// Two proved states contradict each other: a record commits to another one before it than was there.
    /// Whoever signed both did not compute one from the other.
    #[error(
        "the history of {key} is broken: the record of block {later} does not commit to what was there after block {height}"
    )]
    BrokenHistory {
        /// The state key.
        key: String,
        /// The height before the later record's.
        height: u64,
        /// The block that made the later record.
        later: u64,
    },
    /// A trust bundle or a saved proof is malformed.
    #[error("malformed {what}: {error}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        error: DecodeError,
    },
    /// A saved proof does not hold what its parts need.
    #[error("the saved proof is incomplete: {0}")]
    Incomplete(&'static str),
}

fn evidence_text(evidence: &Option<PathBuf>) -> String {
    match evidence {
        Some(path) => format!("; both notes are kept in {}", path.display()),
        None => "; there is no state directory to keep both notes in".to_owned(),
    }
}

/// What a proved read says, with the block that it holds under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proved {
    /// The block, the checkpoint over it, and how many voters vouch for that.
    pub block: AuthenticatedBlock,
    /// One result for each key, in order.
    pub values: Vec<VerifiedValue>,
}

/// Key of the entity that tells a vault's shard and log epoch.
pub(crate) fn vault_entity_key(vault: VaultRef) -> StateKey {
    StateKey::entity(&vault_key(vault))
}

/// Key of the entity that tells a shard's voters.
pub(crate) fn shard_entity_key(shard: GroupId) -> StateKey {
    StateKey::entity(&shard_key(shard))
}

/// Keys of the nodes that vote in a shard, ascending, each once.
pub(crate) fn voter_entity_keys(shard: &ShardEntity) -> Vec<StateKey> {
    voter_nodes(shard).into_iter().map(|node| StateKey::entity(&node_key(node))).collect()
}

/// Reads a vault's entity; `None` if it is proved absent.
pub(crate) fn vault_entity(
    vault: VaultRef,
    values: &[VerifiedValue],
) -> Result<Option<VaultEntity>, VerificationError> {
    let [value] = values else { return Err(unusable(vault_key(vault), "it is not alone")) };
    let VerifiedValue::Present { value, .. } = value else { return Ok(None) };
    let entity: VaultEntity = decode(vault_key(vault), value)?;
    if entity.vault != vault {
        return Err(unusable(vault_key(vault), "it is about another vault"));
    }
    Ok(Some(entity))
}

/// Reads a shard's entity.
pub(crate) fn shard_entity(
    shard: GroupId,
    values: &[VerifiedValue],
) -> Result<ShardEntity, VerificationError> {
    let [VerifiedValue::Present { value, .. }] = values else {
        return Err(unusable(shard_key(shard), "it is absent"));
    };
    let entity: ShardEntity = decode(shard_key(shard), value)?;
    if entity.id != shard {
        return Err(unusable(shard_key(shard), "it is about another shard"));
    }
    Ok(entity)
}

/// Reads the nodes behind [`voter_entity_keys`] and makes the voter sets of the shard of them.
pub(crate) fn voter_sets(
    shard: &ShardEntity,
    values: &[VerifiedValue],
) -> Result<Vec<VoterSet>, VerificationError> {
    let nodes = voter_nodes(shard);
    if nodes.len() != values.len() {
        return Err(unusable(shard_key(shard.id), "its voters are not all told"));
    }
    let mut voters = Vec::with_capacity(nodes.len());
    for (&node, value) in nodes.iter().zip(values) {
        let VerifiedValue::Present { value, .. } = value else {
            return Err(unusable(node_key(node), "it is absent"));
        };
        let entity: NodeEntity = decode(node_key(node), value)?;
        if entity.id != node {
            return Err(unusable(node_key(node), "it is about another node"));
        }
        voters.push(Voter { name: entity.name, public_key: entity.public_key });
    }
    let set = |members: Vec<NodeId>| {
        let voter = |member: &NodeId| {
            let place = nodes.binary_search(member).expect("nodes holds the members of every set");
            voters[place].clone()
        };
        VoterSet { voters: members.iter().map(voter).collect() }
    };
    Ok(shard.voter_sets().into_iter().map(set).collect())
}

fn voter_nodes(shard: &ShardEntity) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = shard.voter_sets().into_iter().flatten().collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn decode<E: SystemEntity>(key: String, value: &[u8]) -> Result<E, VerificationError> {
    E::decode(value).map_err(|error| VerificationError::Directory { key, what: error.to_string() })
}

fn unusable(key: String, what: &str) -> VerificationError {
    VerificationError::Directory { key, what: what.to_owned() }
}
