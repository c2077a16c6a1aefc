//! Blocks of a vault, one or a run of them.
//!
//! Owns how much one answer holds. Must never leave a block out of a run: an answer ends early, and a gap is an error.

use ledger_proto::convert::block::wire_block;
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_shard::VaultRow;
use ledger_types::VaultRef;
use ledger_types::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
use prost::Message;
use tonic::{Request, Response};

use super::read::{Target, apart, client};
use super::route::{Call, Freshness, query_failure};
use super::status::Failure;
use super::{Edge, vaults};

impl Edge {
    pub(super) async fn block(
        &self,
        request: Request<v1::GetBlockRequest>,
    ) -> Result<Response<v1::GetBlockResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let freshness =
            Freshness { consistency: Consistency::Eventual, height_min: message.height };
        let local = |_: &VaultRow, message: &v1::GetBlockRequest| match apart(usize::MAX, || {
            read_block(&call, vault, message.height)
        }) {
            Ok(block) => Ok(v1::GetBlockResponse { block: Some(block) }),
            Err(Failure::HeightUnavailable { tip, .. }) if message.height > tip => {
                Ok(v1::GetBlockResponse { block: None })
            }
            Err(failure) => Err(failure),
        };
        let send = |channel, request| async move { client(channel).get_block(request).await };
        call.read(Target::existing(vault, freshness), message, local, send).await
    }

    /// Answers from any replica that has the whole range, else from the leader.
    pub(super) async fn block_range(
        &self,
        request: Request<v1::GetBlockRangeRequest>,
    ) -> Result<Response<v1::GetBlockRangeResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        if message.end_height < message.start_height {
            let problem = format!("is below start_height {}", message.start_height);
            return Err(Failure::field("end_height", problem));
        }
        let freshness =
            Freshness { consistency: Consistency::Eventual, height_min: message.end_height };
        let local = |row: &VaultRow, message: &v1::GetBlockRangeRequest| {
            let last = message.end_height.min(row.height);
            let read = || read_range(&call, vault, (message.start_height, last));
            let blocks = apart(usize::MAX, read)?;
            Ok(v1::GetBlockRangeResponse { blocks, current_tip: row.height })
        };
        let send = |channel, request| async move { client(channel).get_block_range(request).await };
        call.read(Target::existing(vault, freshness), message, local, send).await
    }
}

/// The blocks from the first height on that fit an answer, at least one if there are any up to the last height.
fn read_range(
    call: &Call,
    vault: VaultRef,
    (first, last): (u64, u64),
) -> Result<Vec<v1::Block>, Failure> {
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    for height in (first..=last).take(PAGE_ITEMS_MAX) {
        let block = read_block(call, vault, height)?;
        bytes += block.encoded_len();
        if bytes > PAGE_BYTES_MAX && !blocks.is_empty() {
            break;
        }
        blocks.push(block);
    }
    Ok(blocks)
}

fn read_block(call: &Call, vault: VaultRef, height: u64) -> Result<v1::Block, Failure> {
    let block = call.context.reader.block(vault, height).map_err(query_failure)?;
    let proposer = vaults::proposer_name(&call.context, &block.header);
    let bytes = block.transactions.into_iter().map(|(_, bytes)| bytes).collect();
    wire_block(&block.header, &proposer, bytes).map_err(|error| Failure::Store(error.to_string()))
}
