//! Checks of vaults that are whole, and of vaults in which one row is another one.

use ledger_proof::{BlockHeader, Frontier, hash};
use ledger_types::{Digest, StateKey};

use super::*;
use crate::apply::tests_harness::*;
use crate::rows::{
    LogNodeRow, block_body_key, block_header_key, block_log_node_key, latest_key, vault_row_key,
};
use crate::view::{Family, MemoryRows, RowWrite};

const BLOCKS: u64 = 40;

/// A vault with entities and relationships, some changed and some deleted again.
fn whole() -> MemoryRows {
    let mut machine = Machine::new();
    for number in 1..=BLOCKS {
        let mut operations = vec![
            set(&format!("key/{:02}", number % 11), &number.to_string()),
            relate(&format!("doc:{}", number % 5), "viewer", &format!("user:{number}")),
        ];
        if number % 4 == 0 {
            operations.push(delete(&format!("key/{:02}", (number + 3) % 11)));
        }
        machine.commit(&operations);
    }
    machine.rows
}

fn checked(rows: &MemoryRows, is_full: bool) -> Vec<(u64, IssueKind)> {
    let report = check(rows, vault(), is_full, &|| true).unwrap();
    report.issues.into_iter().map(|issue| (issue.height, issue.kind)).collect()
}

fn put(rows: &mut MemoryRows, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
    rows.write([RowWrite { family, key, value }]);
}

/// A row with its last byte changed.
fn with_other_end(rows: &mut MemoryRows, family: Family, key: Vec<u8>) {
    let mut value = rows.get(family, &key).unwrap().expect("the row is there");
    *value.last_mut().unwrap() ^= 1;
    put(rows, family, key, Some(value));
}

#[test]
fn a_whole_vault_has_no_issues() {
    let rows = whole();
    for is_full in [false, true] {
        assert_eq!(checked(&rows, is_full), []);
    }
    let unknown = check(&rows, VaultRef::new(9, 9), true, &|| true);
    assert_eq!(unknown, Err(CheckError::Query(QueryError::UnknownVault)));
    assert_eq!(check(&rows, vault(), false, &|| false), Err(CheckError::Stopped));
}

#[test]
fn every_row_that_is_another_one_is_found() {
    use IssueKind::{BlockLog, Body, Chain, Record, StateRoot};
    let key = |text: &str| latest_key(vault(), StateKey::entity(text).as_bytes());
    let node = LogNodeRow { level: 2, index: 1 };
    let changed = [
        (Family::Blocks, block_body_key(vault(), 7), (7, Body)),
        (Family::Latest, key("key/05"), (38, Record)),
        (Family::Blocks, block_log_node_key(vault(), node), (7, BlockLog)),
    ];
    for (family, row_key, found) in changed {
        let mut rows = whole();
        with_other_end(&mut rows, family, row_key);
        assert_eq!(checked(&rows, false), [found]);
        assert!(checked(&rows, true).contains(&found));
    }
    let missing = [
        (Family::Blocks, block_header_key(vault(), 9), (9, Chain)),
        (Family::Blocks, block_body_key(vault(), 9), (9, Body)),
        (Family::Latest, key("key/05"), (BLOCKS, StateRoot)),
    ];
    for (family, row_key, found) in missing {
        let mut rows = whole();
        put(&mut rows, family, row_key, None);
        assert_eq!(checked(&rows, false), [found]);
    }
    let mut rows = whole();
    let header = rows.get(Family::Blocks, &block_header_key(vault(), 3)).unwrap();
    put(&mut rows, Family::Blocks, block_header_key(vault(), 9), header);
    assert_eq!(checked(&rows, false)[0], (9, Chain));
}

/// Gives the last block another state root, and everything that follows from it.
fn forge_state_root(rows: &mut MemoryRows) {
    let mut row = vault_row(rows, vault()).unwrap();
    let mut log = Frontier::new();
    for height in 0..row.height {
        let header = rows.get(Family::Blocks, &block_header_key(vault(), height)).unwrap();
        log.append(hash::leaf(&header.unwrap()), |_, _, _| {});
    }
    let key = block_header_key(vault(), row.height);
    let mut header =
        BlockHeader::decode(&rows.get(Family::Blocks, &key).unwrap().unwrap()).unwrap();
    header.state_root = Digest([7; 32]);
    let nodes = &mut Vec::new();
    log.append(header.block_hash(), |level, index, node| nodes.push((level, index, node)));
    (row.state_root, row.block_hash, row.log_root) =
        (header.state_root, header.block_hash(), log.root());
    put(rows, Family::Blocks, key, Some(header.encode().to_vec()));
    put(rows, Family::Vaults, vault_row_key(vault()), Some(row.encode()));
    for (level, index, node) in nodes.iter().filter(|(level, ..)| *level > 0) {
        let key = block_log_node_key(vault(), LogNodeRow { level: *level, index: *index });
        put(rows, Family::Blocks, key, Some(node.0.to_vec()));
    }
}

#[test]
fn a_chain_that_only_agrees_with_itself_is_found() {
    let mut rows = whole();
    forge_state_root(&mut rows);
    assert_eq!(checked(&rows, false), [(BLOCKS, IssueKind::StateRoot)]);
    let found = checked(&rows, true);
    assert!(found.contains(&(BLOCKS, IssueKind::Replay)), "{found:?}");
    assert!(found.contains(&(BLOCKS, IssueKind::StateRoot)), "{found:?}");
    let mut row = vault_row(&rows, vault()).unwrap();
    row.log_root = Digest([8; 32]);
    put(&mut rows, Family::Vaults, vault_row_key(vault()), Some(row.encode()));
    assert!(checked(&rows, false).contains(&(BLOCKS, IssueKind::VaultRow)));
}

#[test]
fn no_more_issues_are_told_than_the_bound() {
    let mut machine = Machine::new();
    let keys: Vec<_> = (0..ISSUES_MAX + 50).map(|number| format!("{number:03}")).collect();
    machine.commit(&keys.iter().map(|key| set(key, "1")).collect::<Vec<_>>());
    for key in &keys {
        let key = latest_key(vault(), StateKey::entity(key).as_bytes());
        with_other_end(&mut machine.rows, Family::Latest, key);
    }
    assert_eq!(checked(&machine.rows, false).len(), ISSUES_MAX);
}
