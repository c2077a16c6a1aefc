//! `GetReceipt` and `GetConsistencyProof`: proofs about the block log and what is in its blocks.
//!
//! Owns how a transaction is found in its block. Must never sign for a request that has no answer.

use ledger_proof::{Receipt, TransactionChoice, tx_tree};
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_proto::v1::get_receipt_request::Transaction as Choice;
use ledger_shard::{StoredBlock, VaultRow};
use ledger_types::{Digest, VaultRef};
use tonic::{Request, Response};

use super::Edge;
use super::ledger::client;
use super::read::{Target, apart};
use super::route::{Call, Freshness, Owner, query_failure};
use super::status::Failure;

/// What a receipt is asked for, checked.
#[derive(Clone, Copy)]
struct Asked {
    vault: VaultRef,
    height: u64,
    transaction: TransactionChoice,
    known_size: Option<u64>,
}

impl Asked {
    fn of(message: &v1::GetReceiptRequest) -> Result<Asked, Failure> {
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let height = message.block_height;
        if height == 0 {
            return Err(Failure::field(
                "block_height",
                "is 0; the first block has no transactions",
            ));
        }
        let transaction = match &message.transaction {
            Some(Choice::TxId(tx_id)) => {
                TransactionChoice::Id(ids::transaction("tx_id", Some(tx_id))?)
            }
            Some(Choice::TxIndex(index)) => TransactionChoice::Index(*index),
            None => return Err(Failure::field("transaction", "is missing: an id or an index")),
        };
        Ok(Asked { vault, height, transaction, known_size: message.known_size })
    }

    /// The least number of blocks that the answer's note must cover.
    fn size_min(&self) -> u64 {
        self.known_size.unwrap_or(0).max(self.height.saturating_add(1))
    }
}

/// A transaction with its place in its block.
struct Found {
    bytes: Vec<u8>,
    index: u32,
    path: Vec<Digest>,
}

impl Edge {
    pub(super) async fn receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let asked = Asked::of(&message)?;
        let local = |owner| self.receipt_here(&call, owner, asked);
        let send = |channel, request| async move { client(channel).get_receipt(request).await };
        call.at_leader(asked.vault, message, local, send).await
    }

    async fn receipt_here(
        &self,
        call: &Call,
        owner: Owner,
        asked: Asked,
    ) -> Result<v1::GetReceiptResponse, Failure> {
        if call.owned_row(owner)?.log_size < asked.size_min() {
            self.wait_for_size(call, owner, asked.size_min()).await?;
        }
        let reader = &call.context.reader;
        let found = apart(usize::MAX, || {
            let block = reader.block(asked.vault, asked.height).map_err(query_failure)?;
            find(block, asked.transaction)
        })?;
        let signed = self.note_over(call, owner, asked.size_min()).await?;
        let block = call.block_under(&signed, asked.height, asked.known_size)?;
        let Found { bytes, index, path } = found;
        let receipt = Receipt { block, transaction: bytes, index, path };
        Ok(v1::GetReceiptResponse { package: receipt.encode() })
    }

    /// Between two sizes that the client names any replica that has them shows the way; to a note's size the
    /// leader does, which signs it.
    pub(super) async fn consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let from_size = message.from_size;
        let send =
            |channel, request| async move { client(channel).get_consistency_proof(request).await };
        let Some(to_size) = message.to_size else {
            let local = |owner| self.way_to_a_note(&call, owner, from_size);
            return call.at_leader(vault, message, local, send).await;
        };
        if to_size < from_size {
            return Err(Failure::field("to_size", format!("is below from_size {from_size}")));
        }
        let height_min = to_size.saturating_sub(1);
        let freshness = Freshness { consistency: Consistency::Eventual, height_min };
        let local = |_: &VaultRow, _: &v1::GetConsistencyProofRequest| {
            let path = call.context.reader.consistency(vault, from_size, to_size);
            Ok(way((from_size, to_size), path.map_err(query_failure)?, None))
        };
        call.read(Target::existing(vault, freshness), message, local, send).await
    }

    async fn way_to_a_note(
        &self,
        call: &Call,
        owner: Owner,
        from_size: u64,
    ) -> Result<v1::GetConsistencyProofResponse, Failure> {
        let signed = self.note_over(call, owner, from_size).await?;
        let to_size = signed.state.size;
        let path = call.context.reader.consistency(owner.vault, from_size, to_size);
        let path = path.map_err(query_failure)?;
        Ok(way((from_size, to_size), path, Some(signed.note.clone())))
    }
}

fn way(
    (from_size, to_size): (u64, u64),
    path: Vec<Digest>,
    note: Option<Vec<u8>>,
) -> v1::GetConsistencyProofResponse {
    let path = path.into_iter().map(v1::Hash::from).collect();
    v1::GetConsistencyProofResponse { from_size, to_size, path, note }
}

/// Looks for the transaction in its block, whose other transactions its path is made of.
fn find(block: StoredBlock, wanted: TransactionChoice) -> Result<Found, Failure> {
    let place = match wanted {
        TransactionChoice::Id(tx_id) => {
            block.transactions.iter().position(|(transaction, _)| transaction.tx_id == tx_id)
        }
        TransactionChoice::Index(index) => {
            usize::try_from(index).ok().filter(|index| *index < block.transactions.len())
        }
    };
    let count = block.transactions.len() as u64;
    let place = place.ok_or(Failure::NoSuchTransaction { height: block.header.height, count })?;
    let leaves: Vec<Digest> =
        block.transactions.iter().map(|(_, bytes)| tx_tree::tx_leaf(bytes)).collect();
    let path = tx_tree::inclusion_path(&leaves, place);
    let (_, bytes) = block.transactions.into_iter().nth(place).expect("its place was found");
    let index = u32::try_from(place).expect("a header counts its transactions in 32 bits");
    Ok(Found { bytes, index, path })
}

#[cfg(test)]
mod tests {
    use ledger_proof::rfc9162::verify_inclusion;
    use ledger_proof::{BlockHeader, EntryPosition, Transaction};
    use ledger_types::{Dedup, TxId};

    use super::*;

    fn block(count: u8) -> StoredBlock {
        let transaction = |number: u8| {
            let transaction = Transaction {
                tx_id: TxId([number; 16]),
                client: "c".to_owned(),
                dedup: Dedup::None,
                assigned_sequence: 0,
                actor: String::new(),
                timestamp_ns: 1,
                operations: Vec::new(),
            };
            let bytes = transaction.encode();
            (transaction, bytes)
        };
        let position = EntryPosition { shard: 1, term: 1, index: 1, timestamp_ns: 1 };
        let header = BlockHeader {
            height: 7,
            tx_count: count.into(),
            ..BlockHeader::genesis(VaultRef::new(1, 2), Digest::ZERO, 1, position)
        };
        let header_bytes = header.encode();
        StoredBlock { header, header_bytes, transactions: (0..count).map(transaction).collect() }
    }

    #[test]
    fn every_transaction_is_found_with_its_own_path() {
        for count in 1..=9 {
            let leaves: Vec<Digest> = block(count)
                .transactions
                .iter()
                .map(|(_, bytes)| tx_tree::tx_leaf(bytes))
                .collect();
            let root = tx_tree::tx_root(&leaves);
            for number in 0..count {
                let by_id = TransactionChoice::Id(TxId([number; 16]));
                for wanted in [by_id, TransactionChoice::Index(number.into())] {
                    let found = find(block(count), wanted).unwrap();
                    assert_eq!(found.index, u32::from(number));
                    let leaf = tx_tree::tx_leaf(&found.bytes);
                    let (index, size) = (number.into(), count.into());
                    assert_eq!(verify_inclusion(&leaf, index, size, &found.path, &root), Ok(()));
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_the_blocks_height_and_count() {
        let absent = TransactionChoice::Id(TxId([9; 16]));
        for wanted in [absent, TransactionChoice::Index(3), TransactionChoice::Index(u32::MAX)] {
            let refused = find(block(3), wanted).err();
            assert!(
                matches!(refused, Some(Failure::NoSuchTransaction { height: 7, count: 3 })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_receipt_needs_a_note_over_its_block_and_what_the_client_knows() {
        let wanted = |height, known_size| Asked {
            vault: VaultRef::new(1, 2),
            height,
            transaction: TransactionChoice::Index(0),
            known_size,
        };
        assert_eq!(wanted(4, None).size_min(), 5);
        assert_eq!(wanted(4, Some(9)).size_min(), 9);
        assert_eq!(wanted(u64::MAX, Some(9)).size_min(), u64::MAX);
    }
}
