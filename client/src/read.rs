//! Reading without proofs: entities, tips, blocks. What a node answers here is believed.

use ledger_proof::{BlockHeader, Transaction};
use ledger_proto::convert::{Consistency, block, ids};
use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::write::wire_vault;

/// An entity's value as a node told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    /// The value; `None` if there is no such entity or it has expired.
    pub value: Option<Vec<u8>>,
    /// The height read at.
    pub height: u64,
}

/// The values of several entities at one height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchReadAnswer {
    /// One for each key asked for, in their order.
    pub values: Vec<Option<Vec<u8>>>,
    /// The height read at.
    pub height: u64,
}

/// A vault's newest block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub block_hash: Digest,
    /// The state root after it.
    pub state_root: Digest,
}

/// A block. Its readable fields have been compared with its canonical bytes, nothing more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The header.
    pub header: BlockHeader,
    /// The transactions in order.
    pub transactions: Vec<Transaction>,
}

/// Whom to ask for a read this fresh: only the leader can answer a linearizable one without a detour.
pub(crate) fn read_route(vault: VaultRef, consistency: Consistency) -> Route {
    match consistency {
        Consistency::Eventual => Route::Any(Some(vault)),
        Consistency::Linearizable => Route::Leader(vault),
    }
}

/// The number of a consistency on the wire.
pub(crate) fn wire_consistency(consistency: Consistency) -> i32 {
    v1::ReadConsistency::from(consistency).into()
}

impl Client {
    /// Reads one entity. Not proved: the node that answers is believed; see [`Client::verified_get`].
    pub async fn read(
        &self,
        vault: VaultRef,
        key: &str,
        consistency: Consistency,
    ) -> Result<ReadAnswer, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::ReadRequest {
            namespace_id,
            vault_id,
            key: key.to_owned(),
            consistency: wire_consistency(consistency),
        };
        let kind = CallKind::reads(read_route(vault, consistency));
        let answer = self.call(method::READ, kind, &request).await?;
        Ok(ReadAnswer { value: answer.value, height: answer.block_height })
    }

    /// Reads several entities at one height. Not proved: the node that answers is believed; see
    /// [`Client::verified_get`].
    pub async fn batch_read(
        &self,
        vault: VaultRef,
        keys: Vec<String>,
        consistency: Consistency,
    ) -> Result<BatchReadAnswer, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let consistency_code = wire_consistency(consistency);
        let request =
            v1::BatchReadRequest { namespace_id, vault_id, keys, consistency: consistency_code };
        let kind = CallKind::reads(read_route(vault, consistency));
        let answer = self.call(method::BATCH_READ, kind, &request).await?;
        let asked = request.keys.iter();
        let same_keys = answer.results.iter().map(|result| &result.key).eq(asked);
        if !same_keys {
            return Err(ClientError::Malformed("results"));
        }
        let value =
            |result: v1::BatchReadResult| result.found.then(|| result.value.unwrap_or_default());
        let values = answer.results.into_iter().map(value).collect();
        Ok(BatchReadAnswer { values, height: answer.block_height })
    }

    /// A vault's newest block, as far as the node that answers has applied.
    pub async fn tip(&self, vault: VaultRef) -> Result<Tip, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetTipRequest { namespace_id, vault_id };
        let kind = CallKind::reads(Route::Any(Some(vault)));
        tip_of(self.call(method::GET_TIP, kind, &request).await?)
    }

    /// The newest block of a vault on the node at `address` and no other.
    pub async fn tip_of_node(&self, address: &str, vault: VaultRef) -> Result<Tip, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetTipRequest { namespace_id, vault_id };
        tip_of(self.call_node(method::GET_TIP, address, &request).await?)
    }

    /// A block; `None` if the vault has none of that height.
    pub async fn block(&self, vault: VaultRef, height: u64) -> Result<Option<Block>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetBlockRequest { namespace_id, vault_id, height };
        let kind = CallKind::reads(Route::Any(Some(vault)));
        let answer = self.call(method::GET_BLOCK, kind, &request).await?;
        answer.block.map(|wire| block_of(wire, vault, height)).transpose()
    }

    /// The blocks from the first height to the last, both included, as many of them as an answer holds: at least one,
    /// unless the vault has none of that height.
    pub async fn blocks(
        &self,
        vault: VaultRef,
        (first, last): (u64, u64),
    ) -> Result<Vec<Block>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let (start_height, end_height) = (first, last);
        let request = v1::GetBlockRangeRequest { namespace_id, vault_id, start_height, end_height };
        let kind = CallKind::reads(Route::Any(Some(vault)));
        let answer = self.call(method::GET_BLOCK_RANGE, kind, &request).await?;
        if answer.blocks.len() as u64 > last.saturating_sub(first).saturating_add(1) {
            return Err(ClientError::Malformed("blocks"));
        }
        (first..).zip(answer.blocks).map(|(height, wire)| block_of(wire, vault, height)).collect()
    }
}

fn block_of(wire: v1::Block, vault: VaultRef, height: u64) -> Result<Block, ClientError> {
    let header = wire.header.as_ref().and_then(|header| block::header(header).ok());
    let header = header.filter(|header| (header.vault, header.height) == (vault, height));
    let header = header.ok_or(ClientError::Malformed("header"))?;
    let transactions: Result<Vec<_>, _> =
        wire.transactions.iter().map(block::transaction).collect();
    let transactions = transactions.map_err(|_| ClientError::Malformed("transactions"))?;
    Ok(Block { header, transactions })
}

pub(crate) fn tip_of(answer: v1::GetTipResponse) -> Result<Tip, ClientError> {
    Ok(Tip {
        height: answer.height,
        block_hash: digest("block_hash", answer.block_hash.as_ref())?,
        state_root: digest("state_root", answer.state_root.as_ref())?,
    })
}

pub(crate) fn digest(field: &'static str, wire: Option<&v1::Hash>) -> Result<Digest, ClientError> {
    ids::digest(field, wire).map_err(|_| ClientError::Malformed(field))
}
