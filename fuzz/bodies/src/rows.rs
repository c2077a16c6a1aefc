//! Rows as they lie on disk and travel in snapshots, and their keys.

use ledger_proof::{Descriptor, Record};
use ledger_shard_core::rows::{
    ClientRow, GroupRow, LocalState, OwnedRow, SessionRow, VaultRow, block_body_key, decode_body,
    decode_hard_state, decode_raft_entry, encode_body, encode_hard_state, encode_raft_entry,
    raft_entry_index, raft_entry_key, split_group_row_key, split_history_key, split_latest,
    split_vault_row_key,
};
use ledger_types::{GroupId, StateKey, VaultRef};

use crate::{Verdict, canonical};

/// The value of a row. The first byte says of which kind.
pub(crate) fn rows(input: &[u8]) -> Verdict {
    let Some((kind, value)) = input.split_first() else { return Verdict::Refused };
    match kind {
        0 => canonical(value, ClientRow::decode, ClientRow::encode),
        1 => canonical(value, SessionRow::decode, SessionRow::encode),
        2 => canonical(value, GroupRow::decode, GroupRow::encode),
        3 => canonical(value, VaultRow::decode, VaultRow::encode),
        4 => canonical(value, OwnedRow::decode, OwnedRow::encode),
        5 => canonical(value, LocalState::decode, LocalState::encode),
        6 => canonical(value, decode_hard_state, encode_hard_state),
        7 => canonical(value, |bytes| decode_raft_entry(9, bytes), encode_raft_entry),
        8 => body(value),
        9 => canonical(value, Record::decode, |record| record.encode().to_vec()),
        10 => canonical(value, Descriptor::decode, Descriptor::encode),
        11 => keys(value),
        _ => Verdict::Refused,
    }
}

fn body(value: &[u8]) -> Verdict {
    let Ok(transactions) = decode_body(value) else { return Verdict::Refused };
    let owned: Vec<Vec<u8>> = transactions.iter().map(|bytes| bytes.to_vec()).collect();
    assert_eq!(encode_body(&owned), value, "two encodings of one body are accepted");
    Verdict::Accepted
}

/// Keys of rows: none is taken for a key of a kind that it was not written as.
fn keys(key: &[u8]) -> Verdict {
    let group = split_group_row_key(key);
    let vault = split_vault_row_key(key);
    assert!(group.is_none() || vault.is_none(), "a key is of one kind");
    if let Some(index) = raft_entry_index(key) {
        let group = key[..8].try_into().map(u64::from_be_bytes).expect("eight bytes");
        assert_eq!(raft_entry_key(GroupId(group), index), key, "a key has one form");
    }
    let _ = (split_latest(key), split_history_key(key));
    assert_ne!(block_body_key(VaultRef::new(1, 1), 1), Vec::<u8>::new());
    if group.is_some() || vault.is_some() { Verdict::Accepted } else { Verdict::Refused }
}

/// A key of a vault's state.
pub(crate) fn state_key(input: &[u8]) -> Verdict {
    let Some(key) = StateKey::from_bytes(input) else { return Verdict::Refused };
    assert_eq!(key.as_bytes(), input, "a key is its bytes");
    assert_eq!(StateKey::from_bytes(key.as_bytes()).as_ref(), Some(&key), "a key reads back");
    Verdict::Accepted
}
