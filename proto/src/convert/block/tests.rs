//! Blocks convert both ways, and contradictions are refused.

use ledger_proof::{EntryPosition, Recovery, hash, tx_tree};
use ledger_types::{Dedup, Outcome, TxId, VaultRef};

use super::*;

fn a_header() -> BlockHeader {
    let position = EntryPosition { shard: 3, term: 4, index: 5, timestamp_ns: 6_000_000_007 };
    BlockHeader::genesis(VaultRef::new(1, 2), Digest([9; 32]), 1, position)
}

fn a_transaction() -> Transaction {
    let operation = Operation::DeleteEntity { key: "k".to_owned() };
    let recovery = Recovery {
        who: "operator".to_owned(),
        why: "a disk".to_owned(),
        log_epoch: 2,
        from_height: 3,
        from_hash: Digest([4; 32]),
        old_note: Digest::ZERO,
    };
    Transaction {
        tx_id: TxId([1; 16]),
        client: "engine".to_owned(),
        dedup: Dedup::IdempotencyKey([2; 16]),
        assigned_sequence: 11,
        actor: String::new(),
        timestamp_ns: 1,
        operations: vec![
            AppliedOperation::State { operation, outcome: Outcome::NotFound },
            AppliedOperation::Recovery(recovery),
        ],
    }
}

#[test]
fn header_reads_back_and_its_fields_repeat_the_bytes() {
    let wire = wire_header(&a_header(), "ledger-0");
    assert_eq!(wire.canonical.len(), 200);
    assert_eq!((wire.term, wire.committed_index, wire.height), (4, 5, 0));
    assert_eq!(wire.namespace_id, Some(v1::NamespaceId { id: 1 }));
    assert_eq!(header(&wire), Ok(a_header()));
    let unnamed = v1::BlockHeader { leader_id: None, ..wire };
    assert_eq!(header(&unnamed), Ok(a_header()));
}

#[test]
fn header_whose_fields_differ_from_its_bytes_is_refused() {
    let wire = wire_header(&a_header(), "ledger-0");
    let other = Err(ConvertError::Contradiction { field: "canonical" });
    assert_eq!(header(&v1::BlockHeader { height: 1, ..wire.clone() }), other);
    let state_root = Some(Digest([8; 32]).into());
    assert_eq!(header(&v1::BlockHeader { state_root, ..wire.clone() }), other);
    assert_eq!(header(&v1::BlockHeader { vault_id: None, ..wire.clone() }), other);
    let cut = v1::BlockHeader { canonical: wire.canonical[..199].to_vec(), ..wire };
    assert!(matches!(header(&cut), Err(ConvertError::NotCanonical { field: "canonical", .. })));
}

#[test]
fn header_with_ids_beyond_the_wire_is_refused() {
    let huge = BlockHeader { vault: VaultRef::new(u64::MAX, 1), ..a_header() };
    let canonical = huge.encode().to_vec();
    let wire = v1::BlockHeader { canonical, ..wire_header(&a_header(), "") };
    assert!(matches!(header(&wire), Err(ConvertError::OutOfRange { .. })));
}

#[test]
fn transaction_reads_back_and_a_recovery_is_in_the_bytes_only() {
    let wire = wire_transaction(a_transaction().encode()).unwrap();
    assert_eq!(wire.sequence, 11);
    assert_eq!(wire.operations.len(), 1);
    assert_eq!(transaction(&wire), Ok(a_transaction()));
    let error = Err(ConvertError::Contradiction { field: "canonical" });
    assert_eq!(transaction(&v1::Transaction { sequence: 12, ..wire }), error);
}

#[test]
fn block_names_the_transaction_that_is_none() {
    let good = a_transaction().encode();
    let block = wire_block(&a_header(), "n", vec![good.clone()]).unwrap();
    assert_eq!(block.transactions[0].canonical, good);
    let error = wire_block(&a_header(), "n", vec![good, vec![1, 2]]).unwrap_err();
    assert_eq!(error.field(), "transactions[1].canonical");
}

#[test]
fn sides_of_every_leaf_lead_to_the_root() {
    for size in 1..=40_usize {
        let leaves: Vec<Digest> =
            (0..size).map(|index| tx_tree::tx_leaf(&index.to_be_bytes())).collect();
        let root = tx_tree::tx_root(&leaves);
        for (index, &leaf) in leaves.iter().enumerate() {
            let siblings = tx_tree::inclusion_path(&leaves, index);
            let wire = wire_path(leaf, index as u64, size as u64, &siblings);
            assert_eq!(path(&wire), Ok((leaf, siblings)));
            let reached = wire.siblings.iter().fold(leaf, |below, sibling| {
                let beside = digest("hash", sibling.hash.as_ref()).unwrap();
                match sibling.direction() {
                    v1::Direction::Left => hash::node(&beside, &below),
                    v1::Direction::Right => hash::node(&below, &beside),
                    v1::Direction::Unspecified => panic!("no side"),
                }
            });
            assert_eq!(reached, root, "leaf {index} of {size}");
        }
    }
}

#[test]
fn path_is_bounded() {
    let sibling = v1::MerkleSibling { hash: Some(Digest::ZERO.into()), direction: 1 };
    let of = |count| {
        let leaf_hash = Some(Digest::ZERO.into());
        path(&v1::MerkleProof { leaf_hash, siblings: vec![sibling.clone(); count] })
    };
    assert!(of(PATH_LEN_MAX).is_ok());
    let error = ConvertError::TooMany { field: "siblings", count: 65, max: 64 };
    assert_eq!(of(65), Err(error));
}
