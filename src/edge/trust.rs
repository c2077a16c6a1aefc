//! `GetTrustBundle`: whose signatures count.
//!
//! Owns the form in which bundles and voter sets are told. Must never be what a client trusts: a bundle is
//! proved under the one before it, and voter sets are hints until they are read from the directory with
//! proofs.
//!
//! Voter set: `count u16 ‖ (name length u16 ‖ name ‖ public key 32) repeated`.

use ledger_proof::Writer;
use ledger_proof::system_entity::{bundle_key, bundle_link_key};
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_shard::VaultRow;
use ledger_types::{GroupId, VaultRef};
use tonic::{Request, Response};

use super::Edge;
use super::ledger::client;
use super::read::Target;
use super::route::{Call, query_failure};
use super::status::Failure;
use super::vaults::known_group;
use crate::context::NodeContext;

/// Bundles told in one answer.
const BUNDLES_MAX: u64 = 64;

impl Edge {
    pub(super) async fn trust_bundle(
        &self,
        request: Request<v1::GetTrustBundleRequest>,
    ) -> Result<Response<v1::GetTrustBundleResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::optional_vault_ref(message.namespace_id, message.vault_id)?;
        let voter_sets = match vault {
            None => Vec::new(),
            Some(vault) => {
                call.place(vault, ledger_router::Reach::AnyReplica, 0).await?;
                voter_sets(&call.context, known_group(&call.context, vault)?)?
            }
        };
        let target = Target::existing(VaultRef::SYSTEM, Consistency::Linearizable);
        let local = |_: &VaultRow, asked: &v1::GetTrustBundleRequest| {
            let bundles = stored_bundles(&call, asked.from_sequence)?;
            Ok(v1::GetTrustBundleResponse { bundles, voter_sets: voter_sets.clone() })
        };
        let send =
            |channel, request| async move { client(channel).get_trust_bundle(request).await };
        let answered = call.read(target, message, local, send).await?;
        if !call.leads(GroupId::SYSTEM) {
            return Ok(answered);
        }
        let (headers, mut answer, extensions) = answered.into_parts();
        // Closed, so that counting ends where numbers do: a client may name the last one.
        let numbers = message.from_sequence.saturating_add(1)..=u64::MAX;
        for (number, bundle) in numbers.zip(&mut answer.bundles) {
            // The first bundle stays as it is: there is nothing that it could be proved with.
            if number > 1 {
                *bundle = match stored_link(&call, number)? {
                    Some(link) => link,
                    None => self.link(&call, number).await?,
                };
            }
        }
        Ok(Response::from_parts(headers, answer, extensions))
    }

    /// A verified read of the bundle under the current note of the directory's chain.
    async fn link(&self, call: &Call, number: u64) -> Result<Vec<u8>, Failure> {
        let entity =
            v1::VerifiedKey { key: Some(v1::verified_key::Key::Entity(bundle_key(number))) };
        let message = v1::VerifiedGetRequest {
            namespace_id: Some(VaultRef::SYSTEM.namespace.into()),
            vault_id: Some(VaultRef::SYSTEM.vault.into()),
            keys: vec![entity],
            min_height: None,
            known_size: None,
            consistency: v1::ReadConsistency::Linearizable.into(),
            at_height: None,
        };
        let mut request = Request::new(message);
        request.set_timeout(call.deadline.check()?);
        Ok(self.get_verified(request).await?.into_inner().package)
    }
}

/// The bundles after `from`, in order, as the directory's chain holds them.
fn stored_bundles(call: &Call, from: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let mut bundles = Vec::new();
    for number in from.saturating_add(1)..=from.saturating_add(BUNDLES_MAX) {
        let key = bundle_key(number);
        let found = call.context.reader.entity(VaultRef::SYSTEM, &key);
        match found.map_err(query_failure)? {
            Some(entity) => bundles.push(entity.value),
            None => break,
        }
    }
    Ok(bundles)
}

/// The proof that was kept when the voters changed: signed by the voters of the bundle before, whose keys may
/// be gone by now. Without one, as long as they still vote, a new one does as well.
fn stored_link(call: &Call, number: u64) -> Result<Option<Vec<u8>>, Failure> {
    let found = call.context.reader.entity(VaultRef::SYSTEM, &bundle_link_key(number));
    let found = found.map_err(query_failure)?;
    Ok(found.map(|entity| entity.value))
}

fn voter_sets(context: &NodeContext, group: GroupId) -> Result<Vec<Vec<u8>>, Failure> {
    let directory = context.directory.current();
    let shard = directory.shard(group);
    let shard = shard.ok_or_else(|| Failure::not_ready("the shard is not known here yet"))?;
    let mut sets = Vec::new();
    for nodes in shard.voter_sets() {
        let mut voters = Vec::with_capacity(nodes.len());
        for node in nodes {
            let entity = directory.node(node);
            let entity = entity.ok_or_else(|| Failure::not_ready("a voter is not known here"))?;
            voters.push((entity.name.clone(), entity.public_key));
        }
        sets.push(encode_voters(&voters));
    }
    Ok(sets)
}

fn encode_voters(voters: &[(String, [u8; 32])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.u16(u16::try_from(voters.len()).expect("a shard has few voters"));
    for (name, public_key) in voters {
        writer.bytes_u16(name.as_bytes());
        writer.raw(public_key);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voter_sets_have_their_documented_bytes() {
        let bytes = encode_voters(&[("n0".to_owned(), [7; 32]), ("n1".to_owned(), [8; 32])]);
        assert_eq!(bytes.len(), 2 + 2 * (2 + 2 + 32));
        assert_eq!(bytes[..6], [0, 2, 0, 2, b'n', b'0']);
        assert_eq!(bytes[6..38], [7; 32]);
    }
}
