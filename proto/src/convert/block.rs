//! Blocks: headers, transactions, paths. The canonical bytes are what counts; the readable fields
//! repeat them.

use ledger_proof::{AppliedOperation, BlockHeader, Transaction};
use ledger_types::{Digest, Operation};

use super::ConvertError;
use super::ids::digest;
use super::times::timestamp;
use crate::v1;

/// Name of the field that holds the bytes that are hashed.
const CANONICAL: &str = "canonical";
/// No tree has longer paths: 64 levels, one for each bit of an index.
const PATH_LEN_MAX: usize = 64;

/// The wire form of a header. `proposer` is the name of the node that proposed the block, empty if
/// unknown; it is not hashed.
pub fn wire_header(header: &BlockHeader, proposer: &str) -> v1::BlockHeader {
    v1::BlockHeader {
        height: header.height,
        namespace_id: Some(header.vault.namespace.into()),
        vault_id: Some(header.vault.vault.into()),
        previous_hash: Some(header.previous_hash.into()),
        tx_merkle_root: Some(header.tx_root.into()),
        state_root: Some(header.state_root.into()),
        timestamp: Some(timestamp(header.timestamp_ns)),
        leader_id: Some(v1::NodeId { id: proposer.to_owned() }),
        term: header.term,
        committed_index: header.index,
        canonical: header.encode().to_vec(),
    }
}

/// Reads a header from its canonical bytes. Errors: bytes that are no header, ids beyond int64, and
/// readable fields that say something else than the bytes.
pub fn header(wire: &v1::BlockHeader) -> Result<BlockHeader, ConvertError> {
    let header = BlockHeader::decode(&wire.canonical)
        .map_err(|source| ConvertError::NotCanonical { field: CANONICAL, source })?;
    for id in [header.vault.namespace.0, header.vault.vault.0] {
        let max = i64::MAX.unsigned_abs();
        if id > max {
            return Err(ConvertError::OutOfRange { field: CANONICAL, value: id, min: 0, max });
        }
    }
    let proposer = wire.leader_id.as_ref().map_or("", |node| &node.id);
    let expected =
        v1::BlockHeader { leader_id: wire.leader_id.clone(), ..wire_header(&header, proposer) };
    if *wire != expected {
        return Err(ConvertError::Contradiction { field: CANONICAL });
    }
    Ok(header)
}

/// The wire form of a transaction with these canonical bytes. A recovery has no readable operation.
/// Errors: bytes that are no transaction.
pub fn wire_transaction(canonical: Vec<u8>) -> Result<v1::Transaction, ConvertError> {
    let transaction = decode_transaction(&canonical)?;
    let operations = transaction.operations.into_iter().filter_map(readable_operation);
    Ok(v1::Transaction {
        id: Some(transaction.tx_id.into()),
        client_id: Some(v1::ClientId { id: transaction.client }),
        sequence: transaction.assigned_sequence,
        operations: operations.map(v1::Operation::from).collect(),
        timestamp: Some(timestamp(transaction.timestamp_ns)),
        actor: transaction.actor,
        canonical,
    })
}

fn readable_operation(applied: AppliedOperation) -> Option<Operation> {
    match applied {
        AppliedOperation::State { operation, .. } => Some(operation),
        AppliedOperation::Recovery(_) => None,
    }
}

/// Reads a transaction from its canonical bytes. Errors: bytes that are no transaction, and
/// readable fields that say something else than the bytes.
pub fn transaction(wire: &v1::Transaction) -> Result<Transaction, ConvertError> {
    if wire_transaction(wire.canonical.clone())? != *wire {
        return Err(ConvertError::Contradiction { field: CANONICAL });
    }
    decode_transaction(&wire.canonical)
}

fn decode_transaction(canonical: &[u8]) -> Result<Transaction, ConvertError> {
    Transaction::decode(canonical)
        .map_err(|source| ConvertError::NotCanonical { field: CANONICAL, source })
}

/// The wire form of a block. Errors: bytes of a transaction that are none.
pub fn wire_block(
    header: &BlockHeader,
    proposer: &str,
    transactions: Vec<Vec<u8>>,
) -> Result<v1::Block, ConvertError> {
    let transactions = transactions.into_iter().enumerate().map(|(index, canonical)| {
        wire_transaction(canonical).map_err(|error| error.of_item("transactions", index))
    });
    Ok(v1::Block {
        header: Some(wire_header(header, proposer)),
        transactions: transactions.collect::<Result<_, _>>()?,
    })
}

/// The announcement of a block.
pub fn wire_announcement(header: &BlockHeader) -> v1::BlockAnnouncement {
    v1::BlockAnnouncement {
        namespace_id: Some(header.vault.namespace.into()),
        vault_id: Some(header.vault.vault.into()),
        height: header.height,
        block_hash: Some(header.block_hash().into()),
        state_root: Some(header.state_root.into()),
        timestamp: Some(timestamp(header.timestamp_ns)),
    }
}

/// The wire form of an inclusion path: leaf `index` of a tree with `size` leaves, siblings from the
/// leaf upwards.
///
/// Panics if the leaf lies outside the tree, or if the path has another length than such a leaf's.
pub fn wire_path(leaf_hash: Digest, index: u64, size: u64, path: &[Digest]) -> v1::MerkleProof {
    let sides = sibling_sides(index, size);
    assert_eq!(sides.len(), path.len(), "the path of leaf {index} of {size}");
    let siblings = path
        .iter()
        .zip(sides)
        .map(|(&hash, side)| v1::MerkleSibling { hash: Some(hash.into()), direction: side.into() });
    v1::MerkleProof { leaf_hash: Some(leaf_hash.into()), siblings: siblings.collect() }
}

/// The side of each sibling of leaf `index`. At a level's end a node without a sibling moves up
/// unchanged.
fn sibling_sides(index: u64, size: u64) -> Vec<v1::Direction> {
    assert!(index < size, "leaf {index} of a tree with {size}");
    let (mut node, mut last) = (index, size - 1);
    let mut sides = Vec::new();
    while last > 0 {
        if node % 2 == 1 {
            sides.push(v1::Direction::Left);
        } else if node < last {
            sides.push(v1::Direction::Right);
        }
        (node, last) = (node / 2, last / 2);
    }
    sides
}

/// Reads a path: the leaf's hash, and the siblings from the leaf upwards. Whether they lead
/// anywhere is for the verifier, who derives the sides from index and size and ignores those told
/// here.
pub fn path(wire: &v1::MerkleProof) -> Result<(Digest, Vec<Digest>), ConvertError> {
    let (field, count) = ("siblings", wire.siblings.len());
    if count > PATH_LEN_MAX {
        return Err(ConvertError::TooMany { field, count, max: PATH_LEN_MAX });
    }
    let leaf_hash = digest("leaf_hash", wire.leaf_hash.as_ref())?;
    let siblings = wire.siblings.iter().enumerate().map(|(index, sibling)| {
        digest("hash", sibling.hash.as_ref()).map_err(|error| error.of_item(field, index))
    });
    Ok((leaf_hash, siblings.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests;
