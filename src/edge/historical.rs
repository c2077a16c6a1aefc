//! `HistoricalRead` and `VerifiedRead` of the published protocol: a value at a height, with headers.
//!
//! Owns the run of headers. Must never fill the published path: that form cannot hold a proof of this state
//! tree, and a client that checked one would believe something that was never bound to the value.

use ledger_proto::convert::block::wire_header;
use ledger_proto::convert::{Consistency, ids, reads};
use ledger_proto::v1;
use ledger_shard::VaultRow;
use ledger_types::VaultRef;
use ledger_types::limits::CHAIN_HEADERS_MAX;
use tonic::{Request, Response};

use super::read::{Target, apart, client, clock_ns};
use super::route::{Call, Freshness, query_failure};
use super::status::Failure;
use super::{Edge, vaults};

/// What both reads ask for, checked.
struct Asked {
    vault: VaultRef,
    key: String,
    at_height: Option<u64>,
    /// The height after which headers are wanted, if they are.
    headers_after: Option<u64>,
}

/// What both answer.
struct Found {
    value: Option<Vec<u8>>,
    height: u64,
    header: v1::BlockHeader,
    chain: Option<v1::ChainProof>,
}

impl Asked {
    fn new(
        vault: VaultRef,
        key: String,
        at_height: Option<u64>,
        headers_after: Option<u64>,
    ) -> Result<Asked, Failure> {
        let key = reads::key(key)?;
        if let (Some(after), Some(height)) = (headers_after, at_height) {
            check_run(after, height)?;
        }
        Ok(Asked { vault, key, at_height, headers_after })
    }

    /// Any replica that has the height answers; without one the trusted height must be there, at least.
    fn target<A>(&self) -> Target<A> {
        let height_min = self.at_height.or(self.headers_after).unwrap_or(0);
        let freshness = Freshness { consistency: Consistency::Eventual, height_min };
        Target::existing(self.vault, freshness)
    }

    fn find(&self, call: &Call) -> Result<Found, Failure> {
        let reader = &call.context.reader;
        let found = reader.entity_at(self.vault, &self.key, self.at_height, clock_ns());
        let (height, entity) = found.map_err(query_failure)?;
        let header = header_at(call, self.vault, height)?;
        let chain = self.headers_after.map(|after| self.chain(call, after, height)).transpose()?;
        Ok(Found { value: entity.map(|entity| entity.value), height, header, chain })
    }

    fn chain(&self, call: &Call, after: u64, last: u64) -> Result<v1::ChainProof, Failure> {
        check_run(after, last)?;
        let headers = (after..last).map(|before| header_at(call, self.vault, before + 1));
        Ok(v1::ChainProof { headers: headers.collect::<Result<_, _>>()? })
    }
}

/// Checks that a run of headers after one height up to another may be asked for.
fn check_run(after: u64, last: u64) -> Result<(), Failure> {
    let field = "trusted_height";
    let count = last.checked_sub(after).ok_or_else(|| {
        Failure::field(field, format!("is {after}, above the height read, {last}"))
    })?;
    let max = CHAIN_HEADERS_MAX as u64;
    if count > max {
        let (field, limit) = (field.to_owned(), "chain_headers_max");
        return Err(Failure::Limit { field, limit, actual: count, max });
    }
    Ok(())
}

fn header_at(call: &Call, vault: VaultRef, height: u64) -> Result<v1::BlockHeader, Failure> {
    let (header, _) = call.context.reader.block_header(vault, height).map_err(query_failure)?;
    Ok(wire_header(&header, &vaults::proposer_name(&call.context, &header)))
}

impl Edge {
    pub(super) async fn read_with_header(
        &self,
        request: Request<v1::VerifiedReadRequest>,
    ) -> Result<Response<v1::VerifiedReadResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let after = message.include_chain_proof.then(|| message.trusted_height.unwrap_or(0));
        let asked = Asked::new(vault, message.key.clone(), message.at_height, after)?;
        let local = |_: &VaultRow, _: &v1::VerifiedReadRequest| {
            let Found { value, height, header, chain } = apart(usize::MAX, || asked.find(&call))?;
            Ok(v1::VerifiedReadResponse {
                value,
                block_height: height,
                block_header: Some(header),
                merkle_proof: None,
                chain_proof: chain,
            })
        };
        let send = |channel, request| async move { client(channel).verified_read(request).await };
        call.read(asked.target(), message, local, send).await
    }

    pub(super) async fn read_at_height(
        &self,
        request: Request<v1::HistoricalReadRequest>,
    ) -> Result<Response<v1::HistoricalReadResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        if message.at_height == 0 {
            return Err(Failure::field("at_height", "is missing; the first block has no entities"));
        }
        let after = message.include_chain_proof.then(|| message.trusted_height.unwrap_or(0));
        let asked = Asked::new(vault, message.key.clone(), Some(message.at_height), after)?;
        let local = |_: &VaultRow, message: &v1::HistoricalReadRequest| {
            let Found { value, height, header, chain } = apart(usize::MAX, || asked.find(&call))?;
            Ok(v1::HistoricalReadResponse {
                value,
                block_height: height,
                block_header: message.include_proof.then_some(header),
                merkle_proof: None,
                chain_proof: chain,
            })
        };
        let send = |channel, request| async move { client(channel).historical_read(request).await };
        call.read(asked.target(), message, local, send).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_headers_are_bounded_and_end_at_the_height_read() {
        let max = CHAIN_HEADERS_MAX as u64;
        for (after, last) in [(0, 0), (4, 4), (0, max), (5, max + 5)] {
            assert!(check_run(after, last).is_ok(), "{after} {last}");
        }
        let above = check_run(5, 4).unwrap_err();
        assert!(matches!(above, Failure::Field { field, .. } if field == "trusted_height"));
        let long = check_run(4, max + 5).unwrap_err();
        assert!(
            matches!(&long, Failure::Limit { limit: "chain_headers_max", actual, max: bound, .. }
                if (*actual, *bound) == (max + 1, max)),
            "{long:?}"
        );
    }
}
