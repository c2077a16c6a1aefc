//! Whole groups pass; each kind of row that is wrong, missing or too many is found.

use ledger_proof::{Checkpoint, NodeKey, Origin};
use ledger_shard_core::rows::{
    encode_checkpoint, group_row_key, session_key, tree_anchor_key, tree_page_key, vault_row_key,
};
use ledger_shard_core::view::RowWrite;

use super::*;
use crate::world::World;

/// A run in which a group's vault gets rows of every family, and the group.
const SEED: u64 = 1;
const GROUP: GroupId = GroupId(1);

/// The disk of a member, what its group row says, and a vault with rows of every family.
struct Whole {
    disk: Disk,
    row: GroupRow,
    vault: VaultRef,
    state: VaultRow,
}

fn whole() -> Whole {
    let mut world = World::ended(SEED);
    let place = *world.plans[1].members.keys().next().expect("a group has members");
    let disk = std::mem::take(&mut world.nodes[place].disk);
    let row = boot::group_row(&disk, GROUP).expect("a member has its row");
    let vault = owned_vaults(&disk, GROUP).expect("its rows can be read")[0];
    let state = query::vault_row(&disk, vault).expect("it is there");
    Whole { disk, row, vault, state }
}

impl Whole {
    fn check(&self) -> Result<u64, String> {
        check(&self.disk, GROUP, &self.row)
    }

    fn rows(&self, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (from, to) = vault_range(self.vault);
        let rows = self.disk.range(family, &from, &to);
        rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    fn write(&mut self, family: Family, key: &[u8], value: Option<Vec<u8>>) {
        self.disk.write_flushed([RowWrite { family, key: key.to_vec(), value }]);
    }

    /// With another row in place of this one, the check says these words; with the right one again, nothing.
    #[track_caller]
    fn finds(&mut self, family: Family, key: &[u8], wrong: Option<Vec<u8>>, words: &str) {
        let right = only(&self.disk, family, key).map(<[u8]>::to_vec);
        assert_ne!(right, wrong, "another row");
        self.write(family, key, wrong);
        let found = self.check().expect_err("a wrong row is found");
        assert!(found.contains(words), "{found:?} instead of {words:?}");
        self.write(family, key, right);
        assert!(self.check().is_ok());
    }
}

/// The same bytes but for one within the first hash of a page, or the height of an anchor.
fn bent_early(value: &[u8]) -> Option<Vec<u8>> {
    let mut value = value.to_vec();
    value[8] ^= 1;
    Some(value)
}

/// The same bytes but for the last one.
fn bent(value: &[u8]) -> Option<Vec<u8>> {
    let mut value = value.to_vec();
    *value.last_mut().expect("rows have bytes") ^= 1;
    Some(value)
}

#[test]
fn groups_of_a_run_that_held_pass() {
    let world = World::ended(SEED);
    let mut vaults = 0;
    for plan in &world.plans {
        for &place in plan.members.keys() {
            let disk = &world.nodes[place].disk;
            let row = boot::group_row(disk, plan.group).expect("a member has its row");
            vaults += check(disk, plan.group, &row).expect("it held");
        }
    }
    assert!(vaults >= 6, "{vaults}");
}

#[test]
fn wrong_state_is_found() {
    let mut whole = whole();
    let rows = whole.rows(Family::Latest);
    let has_value = |(_, row): &&(Vec<u8>, Vec<u8>)| {
        split_latest(row).is_some_and(|(_, value)| !value.is_empty())
    };
    let (key, row) = rows.iter().find(has_value).expect("an entity");
    whole.finds(Family::Latest, key, bent(row), "is none");
    let (record, value) = split_latest(row).expect("it is in its format");
    let mut record = Record::decode(record).expect("it is in its format");
    let other = [value, b"!"].concat();
    record.value_hash = hash::plain(&other);
    let right_by_itself = [&record.encode()[..], &other].concat();
    whole.finds(Family::Latest, key, Some(right_by_itself), "have root");
    record.value_hash = hash::plain(value);
    record.modified_height = whole.state.height + 1;
    let later = [&record.encode()[..], value].concat();
    whole.finds(Family::Latest, key, Some(later), "of a later block");
    whole.finds(Family::Latest, key, None, "have root");
    let one_more = [key.as_slice(), b"x"].concat();
    whole.finds(Family::Latest, &one_more, Some(row.clone()), "have root");
}

#[test]
fn wrong_blocks_are_found() {
    let mut whole = whole();
    let (vault, tip) = (whole.vault, whole.state.height);
    let header = |height| block_header_key(vault, height);
    let body = |height| block_body_key(vault, height);
    let row = |whole: &Whole, key: &[u8]| {
        only(&whole.disk, Family::Blocks, key).expect("it is there").to_vec()
    };
    assert!(tip > 4, "there are blocks");
    let decoded = |whole: &Whole, height| {
        let header = BlockHeader::decode(&row(whole, &header(height)));
        header.expect("it is in its format")
    };
    let of_another_term = |whole: &Whole, height| {
        let header = decoded(whole, height);
        BlockHeader { term: header.term + 1, ..header }.encode().to_vec()
    };
    let wrong = of_another_term(&whole, 3);
    whole.finds(Family::Blocks, &header(3), Some(wrong), "block 4 does not belong there");
    let wrong = row(&whole, &header(2));
    whole.finds(Family::Blocks, &header(3), Some(wrong), "block 3 does not belong there");
    let wrong = of_another_term(&whole, tip);
    whole.finds(Family::Blocks, &header(tip), Some(wrong), "is not the tip");
    let anchor = whole.state.tree_anchor.height;
    let other = BlockHeader { state_root: Digest([7; 32]), ..decoded(&whole, anchor) };
    let (wrong, words) = (other.encode().to_vec(), format!("block {anchor} does not belong there"));
    whole.finds(Family::Blocks, &header(anchor), Some(wrong), &words);
    whole.finds(Family::Blocks, &header(1), None, "block 1 has no header");
    whole.finds(Family::Blocks, &body(tip), None, "has no body");
    let wrong = row(&whole, &body(tip - 1));
    whole.finds(Family::Blocks, &body(tip), Some(wrong), "not the one of its header");
    let node = block_log_node_key(vault, LogNodeRow { level: 1, index: 0 });
    let wrong = bent(&row(&whole, &node));
    whole.finds(Family::Blocks, &node, wrong, "block log");
    whole.finds(Family::Blocks, &node, None, "block log");
    let foreign = block_log_node_key(vault, LogNodeRow { level: 40, index: 0 });
    whole.finds(Family::Blocks, &foreign, Some(vec![0; 32]), "block log");
}

#[test]
fn checkpoints_over_another_log_are_found() {
    let mut whole = whole();
    let vault = whole.vault;
    let row = |size, root| {
        let origin = Origin { domain: "sim.example".to_owned(), vault, log_epoch: 0 };
        let checkpoint = Checkpoint { origin, size, root };
        let line = NodeKey::from_seed(&[1; 32]).cosign(&checkpoint, "node", 1);
        encode_checkpoint(&SignedNote::new(&checkpoint, vec![line]).encode())
    };
    let root = query::log_root(&whole.disk, vault, 3).expect("it has had that size");
    let earlier = query::log_root(&whole.disk, vault, 2).expect("it has had that size");
    let key = checkpoint_key(vault, 3);
    let words = "the checkpoint over 3 blocks";
    whole.finds(Family::Blocks, &key, Some(row(3, earlier)), words);
    whole.finds(Family::Blocks, &key, Some(row(2, root)), words);
    whole.finds(Family::Blocks, &key, Some(b"no note".to_vec()), words);
    whole.write(Family::Blocks, &key, Some(row(3, root)));
    assert!(whole.check().is_ok(), "one over the log itself belongs there");
}

#[test]
fn wrong_history_sessions_and_pages_are_found() {
    let mut whole = whole();
    let (vault, tip) = (whole.vault, whole.state.height);
    let (mut key, row) = whole.rows(Family::History).remove(0);
    let height_at = key.len() - 12;
    key[height_at..height_at + 8].copy_from_slice(&(tip + 1).to_be_bytes());
    whole.finds(Family::History, &key, Some(row), "history");
    let sessions = whole.rows(Family::Sessions);
    let (key, _) = sessions.iter().find(|(key, _)| key[16] == SESSION_KEY).expect("a session");
    whole.finds(Family::Sessions, key, None, "sessions");
    let later = SessionRow::decode(&sessions[0].1).map(|row| SessionRow { height: tip + 1, ..row });
    let later = later.expect("it is in its format").encode();
    whole.finds(Family::Sessions, key, Some(later.clone()), "a session is of no block");
    let one_more = session_key(vault, "nobody", &[7; 16]);
    whole.finds(Family::Sessions, &one_more, Some(later), "a session is of no block");
}

#[test]
fn wrong_pages_and_anchors_are_found() {
    let mut whole = whole();
    let (vault, newest) = (whole.vault, whole.state.tree_anchor.height);
    let rows = whole.rows(Family::Tree);
    let last = |wanted: fn(&TreeRow) -> bool| {
        let is_wanted = |(key, _): &&(Vec<u8>, Vec<u8>)| {
            wanted(&split_tree_key(key).expect("a row of the tree family"))
        };
        rows.iter().rev().find(is_wanted).expect("there is one").clone()
    };
    let (key, page) = last(|row| matches!(row, TreeRow::Page { .. }));
    whole.finds(Family::Tree, &key, bent_early(&page), "its tree");
    whole.finds(Family::Tree, &key, None, "its tree");
    let orphan = tree_page_key(vault, 1 << 40, newest);
    whole.finds(Family::Tree, &orphan, Some(page.clone()), "no anchor leads to");
    whole.finds(Family::Tree, &[&key[..], &[0]].concat(), Some(page), "is none");
    // Not the first: without it there would be less history, and nothing wrong.
    let (key, anchor) = last(|row| matches!(row, TreeRow::Anchor { .. }));
    whole.finds(Family::Tree, &key, bent_early(&anchor), "its tree");
    whole.finds(Family::Tree, &key, None, "its tree");
    let later = TreeAnchor { height: newest, ..whole.state.tree_anchor.clone() };
    let key = tree_anchor_key(vault, newest);
    whole.finds(Family::Tree, &key, Some(later.encode()), "not the newest");
    let (key, _) = last(|row| matches!(row, TreeRow::Retired(_)));
    whole.finds(Family::Tree, &key, None, "as retired");
    whole.finds(Family::Tree, &key, Some(vec![1]), "is none");
}

#[test]
fn wrong_tables_are_found() {
    let mut whole = whole();
    let (vault, state) = (whole.vault, whole.state.clone());
    let key = vault_row_key(vault);
    let mut other = state.clone();
    other.owner = GroupId(2);
    whole.finds(Family::Vaults, &key, Some(other.encode()), "another owner or epoch");
    let mut other = state.clone();
    other.owner_epoch.0 += 1;
    whole.finds(Family::Vaults, &key, Some(other.encode()), "another owner or epoch");
    let mut other = state.clone();
    other.session_rows += 1;
    whole.finds(Family::Vaults, &key, Some(other.encode()), "its row counts");
    let mut other = state;
    other.log_root = Digest::ZERO;
    whole.finds(Family::Vaults, &key, Some(other.encode()), "block log");
    let mut other = whole.row.clone();
    other.applied_index += 1;
    whole.finds(Family::Vaults, &group_row_key(GROUP), Some(other.encode()), "its row is");
    // A table that both the rows and the snapshot have, and that leaves a member out.
    whole.row.replicas.clear();
    let table = Some(whole.row.encode());
    whole.write(Family::Vaults, &group_row_key(GROUP), table);
    let found = whole.check().expect_err("a member without a node is found");
    assert!(found.contains("lives nowhere"), "{found}");
}

#[test]
fn a_purged_vault_has_its_row_and_no_other() {
    let mut whole = whole();
    let (key, row) = (vault_row_key(whole.vault), whole.state.clone());
    whole.finds(Family::Vaults, &key, Some(row.purged().encode()), "it is purged, and has rows in");
    for family in VAULT_FAMILIES {
        for (key, _) in whole.rows(family) {
            whole.write(family, &key, None);
        }
    }
    assert!(whole.check().is_err(), "a vault that is not purged misses its rows");
    whole.write(Family::Vaults, &key, Some(row.purged().encode()));
    assert!(whole.check().is_ok());
    let bare = row.purged();
    for wrong in [
        VaultRow { session_rows: 1, ..bare.clone() },
        VaultRow { history_floor: bare.height, ..bare.clone() },
        VaultRow { tree_anchor: row.tree_anchor.clone(), ..bare },
    ] {
        whole.finds(Family::Vaults, &key, Some(wrong.encode()), "it is purged, and its row is");
    }
}
