//! Round trips, order, and golden vectors of every row.

use ledger_proof::TreeAnchor;
use ledger_types::{Digest, GroupId, Incarnation, NodeId, OwnerEpoch, TxId, VaultRef};
use proptest::prelude::*;

use super::*;
use crate::effects::{ConfState, HardState, Replica};
use crate::entry::{EntryKind, LogEntry};
use crate::vectors::check;

fn group_row() -> GroupRow {
    let replica = |number| Replica { incarnation: Incarnation(number), node: NodeId(number + 100) };
    GroupRow {
        applied_index: 7,
        applied_term: 6,
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            learners: vec![4],
            voters_outgoing: vec![5],
            learners_next: vec![6, 7],
        },
        replicas: vec![replica(1), replica(2)],
    }
}

fn vault_row() -> VaultRow {
    VaultRow {
        owner: GroupId(1),
        owner_epoch: OwnerEpoch(2),
        applied_index: 3,
        height: 4,
        block_hash: Digest([5; 32]),
        log_size: 6,
        log_root: Digest([7; 32]),
        state_root: Digest([8; 32]),
        state_keys: 9,
        block_time_ns: 10,
        tree_anchor: TreeAnchor::empty(),
        retention_floor: 11,
        history_floor: 12,
        session_floor_height: 13,
        session_rows: 14,
        log_epoch: 15,
        status: VaultStatus::ReadOnly,
        deleted_at_ns: 0,
        retention_blocks: 0,
    }
}

fn purged_vault_row() -> VaultRow {
    VaultRow { deleted_at_ns: 0x0102, ..vault_row() }.purged()
}

fn session_row() -> SessionRow {
    SessionRow {
        payload_hash: Digest([1; 32]),
        tx_id: TxId([2; 16]),
        height: 3,
        tx_index: 4,
        sequence: 5,
    }
}

fn owned_row() -> OwnedRow {
    OwnedRow { owner_epoch: OwnerEpoch(9), state: OwnedState::Released }
}

fn client_row() -> ClientRow {
    ClientRow { last_sequence: 8, contract: SequenceContract::Keyed }
}

fn local_state() -> LocalState {
    LocalState { truncated_index: 5, truncated_term: 6, incarnation: Incarnation(1001) }
}

fn entry() -> LogEntry {
    LogEntry { index: 9, term: 8, kind: EntryKind::ConfChangeV2, data: b"data".to_vec() }
}

fn hard_state() -> HardState {
    HardState { term: 1, vote: 2, commit: 3 }
}

/// Checks that a value decodes to itself and that no cut, longer or newer form of it does.
fn strict<T: PartialEq + std::fmt::Debug>(
    value: T,
    bytes: Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) {
    assert_eq!(decode(&bytes), Ok(value));
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
    let mut newer = bytes;
    newer[0] += 1;
    assert!(decode(&newer).is_err());
}

#[test]
fn values_round_trip_and_refuse_damage() {
    strict(group_row(), group_row().encode(), GroupRow::decode);
    strict(vault_row(), vault_row().encode(), VaultRow::decode);
    let deleted = VaultRow { status: VaultStatus::Deleted, deleted_at_ns: 0x0102, ..vault_row() };
    strict(deleted.clone(), deleted.encode(), VaultRow::decode);
    strict(deleted.purged(), deleted.purged().encode(), VaultRow::decode);
    // Directories have rows of vaults that were deleted before the time was kept.
    let timeless = VaultRow { deleted_at_ns: 0, ..deleted.clone() };
    strict(timeless.clone(), timeless.encode(), VaultRow::decode);
    let retained = VaultRow { retention_blocks: 0x0304, ..vault_row() };
    strict(retained.clone(), retained.encode(), VaultRow::decode);
    let both = VaultRow { retention_blocks: 0x0304, ..deleted.clone() };
    strict(both.clone(), both.encode(), VaultRow::decode);
    strict(both.purged(), both.purged().encode(), VaultRow::decode);
    for wrong in [
        VaultRow { status: VaultStatus::Active, ..deleted.clone() }.encode(),
        VaultRow { status: VaultStatus::Active, ..both }.encode(),
        [&[2][..], &timeless.encode()[1..], &[0; 8]].concat(),
        [&[3][..], &timeless.encode()[1..], &[0; 16]].concat(),
    ] {
        assert!(VaultRow::decode(&wrong).is_err());
    }
    strict(owned_row(), owned_row().encode(), OwnedRow::decode);
    strict(session_row(), session_row().encode(), SessionRow::decode);
    strict(client_row(), client_row().encode(), ClientRow::decode);
    strict(local_state(), local_state().encode(), LocalState::decode);
    strict(hard_state(), encode_hard_state(&hard_state()), decode_hard_state);
    let transactions = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
    let body = encode_body(&transactions);
    let decode = |bytes: &[u8]| {
        decode_body(bytes).map(|all| all.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>())
    };
    strict(transactions.to_vec(), body, decode);
    let bytes = encode_raft_entry(&entry());
    assert_eq!(decode_raft_entry(9, &bytes), Ok(entry()));
    let mut wrong_kind = bytes.clone();
    wrong_kind[9] = 77;
    for damaged in [&bytes[..9], &wrong_kind, &[2]] {
        assert!(decode_raft_entry(9, damaged).is_err());
    }
}

#[test]
fn a_body_cannot_claim_more_than_it_holds() {
    let mut body = encode_body(&[b"one".to_vec()]);
    body[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(decode_body(&body).is_err());
}

#[test]
fn ranges_hold_their_rows_and_no_others() {
    let group = GroupId(3);
    let (first, end) = raft_group_range(group);
    for key in [raft_hard_state_key(group), raft_local_key(group), raft_entry_key(group, u64::MAX)]
    {
        assert!(first <= key && key < end);
    }
    assert!(end < raft_hard_state_key(GroupId(4)) && raft_entry_key(GroupId(2), u64::MAX) < first);
    let (low, high) = raft_entry_range(group, 6, 9);
    assert!(low == raft_entry_key(group, 6) && raft_entry_key(group, 8) < high);
    assert_eq!(raft_entry_index(&high), Some(9));
    assert_eq!(raft_entry_index(&raft_local_key(group)), None);
    let vault = VaultRef::new(1, u64::MAX);
    let (first, end) = block_range(vault);
    for key in [
        block_header_key(vault, 0),
        block_body_key(vault, 9),
        block_log_node_key(vault, LogNodeRow { level: 63, index: u64::MAX }),
    ] {
        assert!(first <= key && key < end);
    }
    assert_eq!(end, [&2u64.to_be_bytes()[..]].concat());
    let (first, end) = vault_rows_range();
    assert!(first <= vault_row_key(vault) && vault_row_key(vault) < end);
    assert_eq!(split_vault_row_key(&vault_row_key(vault)), Some(vault));
    assert_eq!(split_group_row_key(&group_row_key(group)), Some(group));
    assert_eq!(split_group_row_key(&vault_row_key(vault)), None);
    let (first, end) = group_rows_range();
    assert!(first <= group_row_key(group) && group_row_key(group) < end);
    let (first, end) = owned_rows_range(group);
    let owned = owned_row_key(group, vault);
    assert!(first <= owned && owned < end && end <= owned_rows_range(GroupId(4)).0);
    let (first, end) = tree_page_range(vault);
    let newest_first = [tree_page_key(vault, 1, 9), tree_page_key(vault, 1, 8)];
    assert!(first <= newest_first[0] && newest_first[0] < newest_first[1] && newest_first[1] < end);
    let (anchors, anchors_end) = tree_anchor_range(vault, 8);
    assert!(first < anchors && anchors <= tree_anchor_key(vault, 8));
    assert!(tree_anchor_key(vault, 7) < anchors && tree_anchor_key(vault, 300) < anchors_end);
    assert!(tree_anchor_key(vault, u64::MAX) < anchors_end && anchors_end < newest_first[0]);
    let (retired, retired_end) = retired_page_range(vault, RETIRED.retired_height);
    let key = |retired_height| retired_page_key(vault, RetiredPage { retired_height, ..RETIRED });
    assert!(newest_first[1] < key(0) && key(11) < retired && retired < key(12));
    assert!(key(12) < retired_end && retired_end <= key(13) && key(u64::MAX - 1) < end);
    let (first, end) = session_range(vault);
    let keys = [session_key(vault, "c", &[0xFF; 16]), session_client_key(vault, "c")];
    assert!(first <= keys[0] && keys[0] < keys[1] && keys[1] < end);
}

const RETIRED: RetiredPage = RetiredPage { retired_height: 12, id: 3, height: 9 };

#[test]
fn keys_of_the_tree_family_tell_what_they_are() {
    let vault = VaultRef::new(1, 2);
    let rows = [
        (tree_page_key(vault, 1, 9), Some(TreeRow::Page { id: 1, height: 9 })),
        (tree_anchor_key(vault, 9), Some(TreeRow::Anchor { height: 9 })),
        (retired_page_key(vault, RETIRED), Some(TreeRow::Retired(RETIRED))),
    ];
    for (key, row) in rows {
        assert_eq!(split_tree_key(&key), row);
        for end in 0..key.len() {
            assert_eq!(split_tree_key(&key[..end]), None, "cut at {end}");
        }
        assert_eq!(split_tree_key(&[&key[..], &[0; 8]].concat()), None);
        assert_eq!(split_tree_key(&[&key[..], &[0]].concat()), None);
    }
}

proptest! {
    #[test]
    fn history_keys_keep_the_order_of_state_keys(
        left in prop::collection::vec(0..3u8, 0..6),
        right in prop::collection::vec(0..3u8, 0..6),
        heights in (any::<u64>(), any::<u64>()),
        tx in any::<u32>(),
    ) {
        let vault = VaultRef::new(1, 2);
        let one = history_key(vault, &left, heights.0, tx);
        let other = history_key(vault, &right, heights.1, tx);
        prop_assert_eq!((&left, heights.0).cmp(&(&right, heights.1)), one.cmp(&other));
        prop_assert_eq!(split_history_key(&one), Some((left.clone(), heights.0, tx)));
        prop_assert_eq!(right.starts_with(&left), other.starts_with(&history_key_from(vault, &left)));
        prop_assert_eq!(left < right, history_key_after(vault, &left) <= other);
    }
}

#[test]
fn rows_are_the_golden_bytes() {
    let vault = VaultRef::new(0x0102, 0x0304);
    let group = GroupId(0x0506);
    let state_key = b"\x02doc:1\0viewer\0user:a";
    let node = LogNodeRow { level: 3, index: 5 };
    check(
        "rows",
        &[
            ("raft_hard_state_key", raft_hard_state_key(group)),
            ("raft_hard_state", encode_hard_state(&hard_state())),
            ("raft_local_key", raft_local_key(group)),
            ("raft_local", local_state().encode()),
            ("raft_entry_key", raft_entry_key(group, 9)),
            ("raft_entry", encode_raft_entry(&entry())),
            ("group_row_key", group_row_key(group)),
            ("group_row", group_row().encode()),
            ("vault_row_key", vault_row_key(vault)),
            ("vault_row", vault_row().encode()),
            ("vault_row_purged", purged_vault_row().encode()),
            ("owned_row_key", owned_row_key(group, vault)),
            ("owned_row", owned_row().encode()),
            ("latest_key", latest_key(vault, state_key)),
            ("history_key", history_key(vault, state_key, 7, 1)),
            ("block_header_key", block_header_key(vault, 9)),
            ("block_body_key", block_body_key(vault, 9)),
            ("block_body", encode_body(&[b"one".to_vec(), b"two".to_vec()])),
            ("block_log_node_key", block_log_node_key(vault, node)),
            ("tree_page_key", tree_page_key(vault, 11, 9)),
            ("tree_anchor_key", tree_anchor_key(vault, 9)),
            ("tree_anchor", TreeAnchor { height: 9, ..TreeAnchor::empty() }.encode()),
            ("retired_page_key", retired_page_key(vault, RETIRED)),
            ("session_key", session_key(vault, "client", &[0xAB; 16])),
            ("session_row", session_row().encode()),
            ("session_client_key", session_client_key(vault, "client")),
            ("client_row", client_row().encode()),
        ],
    );
}
