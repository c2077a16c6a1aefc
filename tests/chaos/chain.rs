//! The chains as each replica holds them, read block by block from genesis once everything is quiet.
//!
//! Owns the reading and the comparison of neighbouring blocks. What clients were told is compared in `checks`.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::demo::replicas::Replica;
use ledger_history::exactly_once::ChainWrite;
use ledger_proof::tx_tree::{tx_leaf, tx_root};
use ledger_proof::{AppliedOperation, BlockHeader, Transaction};
use ledger_proto::convert::block;
use ledger_proto::v1;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_types::{Operation, VaultRef};
use tokio::task::JoinSet;

/// Blocks that are asked for at one time.
const IN_FLIGHT_MAX: usize = 32;
/// Longest time for one block.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A vault's chain as one replica holds it.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Headers and transactions, from genesis on.
    pub(crate) blocks: Vec<(BlockHeader, Vec<Transaction>)>,
}

impl Chain {
    /// Reads all blocks up to this height from the replica itself.
    pub(crate) async fn read(
        replica: &Replica,
        vault: VaultRef,
        tip_height: u64,
    ) -> Result<Chain, String> {
        let mut blocks = BTreeMap::new();
        let mut asked = JoinSet::new();
        let mut next = 0;
        while next <= tip_height || !asked.is_empty() {
            if next <= tip_height && asked.len() < IN_FLIGHT_MAX {
                asked.spawn(read_block(replica.clone(), vault, next));
                next += 1;
                continue;
            }
            let (header, transactions) =
                asked.join_next().await.expect("some are asked").unwrap()?;
            blocks.insert(header.height, (header, transactions));
        }
        Ok(Chain { blocks: blocks.into_values().collect() })
    }

    /// Everything that the chain writes to entities, in order.
    pub(crate) fn writes(&self) -> Vec<ChainWrite> {
        let mut writes = Vec::new();
        for (header, transactions) in &self.blocks {
            for applied in transactions.iter().flat_map(|one| &one.operations) {
                let AppliedOperation::State { operation, .. } = applied else { continue };
                let (key, value) = match operation {
                    Operation::SetEntity { key, value, .. } => (key, Some(value.clone())),
                    Operation::DeleteEntity { key } => (key, None),
                    _ => continue,
                };
                writes.push(ChainWrite { height: header.height, key: key.clone(), value });
            }
        }
        writes
    }

    /// Where the chain is none: heights that are not counted up, a hash that is not the one before's, a time that goes
    /// back.
    pub(crate) fn breaks(&self) -> Vec<String> {
        let mut breaks = Vec::new();
        for (number, (header, transactions)) in self.blocks.iter().enumerate() {
            let at = format!("vault {}, block {number}", header.vault);
            if header.height != number as u64 {
                breaks.push(format!("{at} has height {}", header.height));
            }
            if header.tx_count as usize != transactions.len() {
                breaks.push(format!("{at} counts {} transactions", header.tx_count));
            }
            let leaves = transactions.iter().map(|one| tx_leaf(&one.encode())).collect::<Vec<_>>();
            if header.tx_root != tx_root(&leaves) {
                breaks.push(format!("{at} commits to other transactions"));
            }
            let Some((before, _)) = number.checked_sub(1).map(|before| &self.blocks[before]) else {
                continue;
            };
            if header.previous_hash != before.block_hash() {
                breaks.push(format!("{at} does not follow the block before it"));
            }
            if header.timestamp_ns < before.timestamp_ns {
                breaks.push(format!("{at} is older than the block before it"));
            }
        }
        breaks
    }
}

async fn read_block(
    replica: Replica,
    vault: VaultRef,
    height: u64,
) -> Result<(BlockHeader, Vec<Transaction>), String> {
    let failed = |what: String| format!("block {height} of vault {vault} at {replica}: {what}");
    let request = v1::GetBlockRequest {
        namespace_id: Some(vault.namespace.into()),
        vault_id: Some(vault.vault.into()),
        height,
    };
    let mut reads = ReadServiceClient::new(replica.channel()).max_decoding_message_size(64 << 20);
    let answer = tokio::time::timeout(ANSWER_MAX, reads.get_block(request)).await;
    let answer = answer.map_err(|_| failed("no answer in time".to_owned()))?;
    let answer = answer.map_err(|status| failed(status.to_string()))?;
    let found = answer.into_inner().block.ok_or_else(|| failed("there is none".to_owned()))?;
    let header = found.header.as_ref().and_then(|header| block::header(header).ok());
    let header = header.ok_or_else(|| failed("a malformed header".to_owned()))?;
    if (header.vault, header.height) != (vault, height) {
        return Err(failed(format!("it is block {} of {}", header.height, header.vault)));
    }
    let transactions: Result<Vec<_>, _> =
        found.transactions.iter().map(block::transaction).collect();
    let transactions = transactions.map_err(|error| failed(error.to_string()))?;
    Ok((header, transactions))
}

#[cfg(test)]
mod tests {
    use ledger_proof::EntryPosition;
    use ledger_types::Digest;

    use super::*;

    fn chain(heights: u64) -> Chain {
        let vault = VaultRef::new(1, 1);
        let position = EntryPosition { shard: 1, term: 1, index: 1, timestamp_ns: 5 };
        let genesis = BlockHeader::genesis(vault, Digest::ZERO, 1, position);
        let mut blocks = vec![(genesis, Vec::new())];
        for height in 1..heights {
            let before = &blocks.last().expect("genesis").0;
            let previous_hash = before.block_hash();
            let timestamp_ns = before.timestamp_ns + 1;
            blocks
                .push((BlockHeader { height, previous_hash, timestamp_ns, ..genesis }, Vec::new()));
        }
        Chain { blocks }
    }

    #[test]
    fn a_chain_has_no_breaks_and_each_kind_of_break_is_found() {
        assert_eq!(chain(4).breaks(), [""; 0]);
        let mut other_block = chain(4);
        other_block.blocks[1].0.state_root = Digest([1; 32]);
        assert_eq!(
            other_block.breaks(),
            ["vault 1/1, block 2 does not follow the block before it"]
        );
        let mut older = chain(3);
        older.blocks[2].0.timestamp_ns = 0;
        assert_eq!(older.breaks(), ["vault 1/1, block 2 is older than the block before it"]);
        let mut missing = chain(4);
        missing.blocks.remove(2);
        assert_eq!(missing.breaks().len(), 2, "a wrong height and a wrong hash before it");
        let mut uncounted = chain(2);
        uncounted.blocks[1].0.tx_count = 3;
        assert_eq!(uncounted.breaks(), ["vault 1/1, block 1 counts 3 transactions"]);
        let mut untrue = chain(2);
        untrue.blocks[1].0.tx_root = Digest([1; 32]);
        assert_eq!(untrue.breaks(), ["vault 1/1, block 1 commits to other transactions"]);
    }
}
