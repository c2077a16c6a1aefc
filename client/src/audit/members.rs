//! Who holds a vault: its shard's replicas with their addresses and keys, as the directory proves, and who
//! of them signed a note. Must never take an address or a key that is not proved.

use ledger_proof::note::{KnownSigner, NoteSignature, cosigner_name};
use ledger_proof::system_entity::{NodeEntity, SystemEntity as _, node_key};
use ledger_proof::{SignedNote, TrustBundle, VerifiedValue};
use ledger_types::{NodeId, StateKey, VaultRef};

use crate::client::Client;
use crate::error::ClientError;
use crate::verification::{
    VerificationError, shard_entity, shard_entity_key, vault_entity, vault_entity_key,
};
use crate::verified::VerifiedOptions;

/// A node that holds a replica of the vault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its address, `host:port`.
    pub address: String,
    /// The key that it signs with.
    pub public_key: [u8; 32],
}

/// A signature line of a note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signer {
    /// The name on the line.
    pub name: String,
    /// The member whose key it claims to be of, if it is of one.
    pub member: Option<String>,
    /// True for a signature of that member's; false for one that claims to be and is not. `None` for a
    /// line of nobody known.
    pub is_valid: Option<bool>,
    /// When it signed, Unix seconds; a signature of the log has no time.
    pub time: Option<u64>,
}

/// The replicas of the vault's shard: voters and learners, each node once.
pub(super) async fn members(client: &Client, vault: VaultRef) -> Result<Vec<Member>, ClientError> {
    let mut nodes: Vec<NodeId> = match vault {
        VaultRef::SYSTEM => {
            let bundle = client.trust_bundle().await?;
            bundle.voters.iter().map(|voter| voter.node).collect()
        }
        vault => {
            let values = directory(client, &[vault_entity_key(vault)]).await?;
            let entity = vault_entity(vault, &values)?.ok_or(ClientError::VaultAbsent(vault))?;
            let values = directory(client, &[shard_entity_key(entity.shard)]).await?;
            let shard = shard_entity(entity.shard, &values)?;
            shard.replicas.iter().map(|replica| replica.node).collect()
        }
    };
    nodes.sort_unstable();
    nodes.dedup();
    let keys: Vec<StateKey> = nodes.iter().map(|node| StateKey::entity(&node_key(*node))).collect();
    let values = directory(client, &keys).await?;
    nodes.iter().zip(&values).map(|(node, value)| member(*node, value)).collect()
}

async fn directory(client: &Client, keys: &[StateKey]) -> Result<Vec<VerifiedValue>, ClientError> {
    let read = client.verified_get(VaultRef::SYSTEM, keys, VerifiedOptions::default()).await?;
    Ok(read.proved.values)
}

fn member(node: NodeId, value: &VerifiedValue) -> Result<Member, ClientError> {
    let unusable = |what: String| VerificationError::Directory { key: node_key(node), what };
    let VerifiedValue::Present { value, .. } = value else {
        return Err(unusable("it is absent".to_owned()).into());
    };
    let entity = NodeEntity::decode(value).map_err(|error| unusable(error.to_string()))?;
    if entity.id != node {
        return Err(unusable("it is about another node".to_owned()).into());
    }
    let NodeEntity { name, address, public_key, .. } = entity;
    Ok(Member { name, address, public_key })
}

/// Every signature line of a note, each checked by itself.
pub(super) fn signers(note: &SignedNote, bundle: &TrustBundle, members: &[Member]) -> Vec<Signer> {
    let line = |line: &NoteSignature| {
        let alone = SignedNote { text: note.text.clone(), signatures: vec![line.clone()] };
        let origin = note.text.lines().next().unwrap_or_default();
        for member in members {
            let name = cosigner_name(&bundle.domain, &member.name);
            let known = [KnownSigner { name: name.clone(), public_key: member.public_key }];
            let log_key_id = ledger_proof::note::log_key_id(origin, &member.public_key);
            let is_log = line.name == origin && line.key_id == log_key_id;
            let (is_valid, time) = match alone.cosignatures(&known) {
                Err(_) => (false, None),
                Ok(valid) => match valid.first() {
                    Some(cosignature) => (true, Some(cosignature.time)),
                    None if is_log => (true, None),
                    None => continue,
                },
            };
            let member = Some(member.name.clone());
            return Signer { name: line.name.clone(), member, is_valid: Some(is_valid), time };
        }
        Signer { name: line.name.clone(), member: None, is_valid: None, time: None }
    };
    note.signatures.iter().map(line).collect()
}
