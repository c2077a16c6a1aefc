//! What the rows of a group must say of each other, after the installation of a snapshot and at the end: nothing in
//! them is taken on trust that can be computed again.
//!
//! Owns the claims of the shipped check of a received snapshot, computed another way and on the rows that a node has.
//! Must never repair anything, nor mind rows whose checksums show damage: other invariants are about those.

use std::collections::{BTreeMap, BTreeSet};

use ledger_proof::tree::bits;
use ledger_proof::{
    BlockHeader, Frontier, PageReference, PageSummary, Record, SignedNote, TreeAnchor, hash,
    tx_tree,
};
use ledger_shard_core::apply::{Applier, ApplyConfig};
use ledger_shard_core::query;
use ledger_shard_core::rows::{
    GroupRow, LogNodeRow, OwnedRow, RetiredPage, SessionRow, TreeRow, VAULT_FAMILIES, VaultRow,
    VaultStatus, block_body_key, block_header_key, block_log_node_key, checkpoint_key, decode_body,
    decode_checkpoint, owned_row_key, split_history_key, split_latest, split_tree_key, vault_range,
};
use ledger_shard_core::view::Family;
use ledger_types::{Digest, GroupId, StateKey, VaultRef};

use crate::boot;
use crate::disk::Disk;
use crate::snapshots::owned_vaults;

/// What a row of the sessions family has behind its vault if it is that of an idempotency key.
const SESSION_KEY: u8 = 1;

/// Checks a group's rows against each other and against the row that it is to have. Tells how many vaults it has.
pub(crate) fn check(disk: &Disk, group: GroupId, row: &GroupRow) -> Result<u64, String> {
    let found = boot::group_row(disk, group).map_err(|error| error.to_string())?;
    if found != *row {
        return Err(format!("its row is {found:?}, and not {row:?}"));
    }
    let conf = &row.conf_state;
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    let lives = |id: &u64| row.replicas.iter().any(|replica| replica.incarnation.0 == *id);
    if let Some(id) = lists.into_iter().flatten().find(|id| !lives(id)) {
        return Err(format!("member {id} lives nowhere"));
    }
    let vaults = owned_vaults(disk, group).map_err(|error| error.to_string())?;
    for &vault in &vaults {
        let checked = check_vault(disk, group, vault);
        checked.map_err(|detail| format!("vault {vault}: {detail}"))?;
    }
    Ok(vaults.len() as u64)
}

fn check_vault(disk: &Disk, group: GroupId, vault: VaultRef) -> Result<(), String> {
    let row = query::stored_row(disk, vault).map_err(|error| error.to_string())?;
    let line = only(disk, Family::Vaults, &owned_row_key(group, vault));
    let line = line.and_then(|line| OwnedRow::decode(line).ok());
    if row.owner != group || line.is_none_or(|line| line.owner_epoch != row.owner_epoch) {
        return Err("its row names another owner or epoch".to_owned());
    }
    if row.status == VaultStatus::Purged {
        return check_purged(disk, vault, &row);
    }
    check_chain(disk, vault, &row)?;
    check_state(disk, vault, &row)?;
    check_the_rest(disk, vault, &row)?;
    if disk.is_damaged() { Ok(()) } else { check_pages(disk, vault, &row) }
}

/// Nothing of a purged vault is left but its row, which says so of everything that was its replica's own.
fn check_purged(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let (from, to) = vault_range(vault);
    let left = VAULT_FAMILIES.into_iter().find(|family| {
        let mut rows = disk.range(*family, &from, &to);
        rows.next().is_some()
    });
    if let Some(family) = left {
        return Err(format!("it is purged, and has rows in {}", family.name()));
    }
    let anchor = &row.tree_anchor;
    let is_bare = (anchor.height, anchor.leaf_count, anchor.root_page) == (row.height, 0, None)
        && row.session_rows == 0
        && row.history_floor > row.height;
    if is_bare { Ok(()) } else { Err(format!("it is purged, and its row is {row:?}")) }
}

/// The chain of headers ends with the tip, the block log is that of the headers, and every body that is needed is
/// the one that its header commits to.
fn check_chain(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let bodies_from = row.retention_floor.min(row.session_floor_height);
    let bodies_from = bodies_from.min(row.tree_anchor.height + 1).max(1);
    let (mut frontier, mut nodes) = (Frontier::new(), Vec::new());
    let (mut before, mut time_ns, mut rows) = (Digest::ZERO, 0, 0);
    let mut checkpoints = Vec::new();
    for height in 0..=row.height {
        let bytes = only(disk, Family::Blocks, &block_header_key(vault, height));
        let header = bytes.and_then(|bytes| BlockHeader::decode(bytes).ok());
        let (Some(bytes), Some(header)) = (bytes, header) else {
            return Err(format!("block {height} has no header"));
        };
        let follows = (header.vault, header.height, header.previous_hash)
            == (vault, height, before)
            && header.timestamp_ns >= time_ns;
        let state = (header.state_root, header.state_keys);
        let anchor = &row.tree_anchor;
        let is_anchored = height != anchor.height || state == (anchor.root, anchor.leaf_count);
        if !follows || !is_anchored {
            return Err(format!("block {height} does not belong there: {header:?}"));
        }
        (before, time_ns) = (hash::leaf(bytes), header.timestamp_ns);
        frontier.append(before, |level, index, node| {
            if level > 0 {
                nodes.push((LogNodeRow { level, index }, node));
            }
        });
        let tip = (row.block_hash, row.state_root, row.state_keys, row.block_time_ns);
        if height == row.height && (before, state.0, state.1, time_ns) != tip {
            return Err(format!("block {height} is not the tip that its row names"));
        }
        rows += 1 + check_body(disk, vault, &header, bodies_from)?;
        let key = checkpoint_key(vault, frontier.size());
        checkpoints.extend(only(disk, Family::Blocks, &key).map(|row| (row, frontier.clone())));
    }
    rows += checkpoints.len();
    let is_log = (frontier.size(), frontier.root()) == (row.log_size, row.log_root);
    let is_stored = |(place, node): &(LogNodeRow, Digest)| {
        only(disk, Family::Blocks, &block_log_node_key(vault, *place)) == Some(&node.0)
    };
    let (from, to) = vault_range(vault);
    let has_more = disk.range(Family::Blocks, &from, &to).count() > rows + nodes.len();
    if !is_log || row.tree_anchor.height > row.height || !nodes.iter().all(is_stored) || has_more {
        return Err("its block log is not that of its headers".to_owned());
    }
    checkpoints.iter().try_for_each(|(row, log)| check_checkpoint(row, vault, log))
}

/// A signed checkpoint is over the log as it was at that size.
fn check_checkpoint(row: &[u8], vault: VaultRef, log: &Frontier) -> Result<(), String> {
    let note = decode_checkpoint(row).ok().and_then(|note| SignedNote::parse(note).ok());
    let checkpoint = note.and_then(|note| note.checkpoint().ok());
    let found = checkpoint.map(|one| (one.origin.vault, one.size, one.root));
    match found == Some((vault, log.size(), log.root())) {
        true => Ok(()),
        false => Err(format!("the checkpoint over {} blocks is {found:?}", log.size())),
    }
}

/// How many bodies a block has.
fn check_body(
    disk: &Disk,
    vault: VaultRef,
    header: &BlockHeader,
    needed_from: u64,
) -> Result<usize, String> {
    let height = header.height;
    let Some(body) = only(disk, Family::Blocks, &block_body_key(vault, height)) else {
        return match height < needed_from {
            true => Ok(0),
            false => Err(format!("block {height} has no body")),
        };
    };
    let transactions = decode_body(body).map_err(|error| error.to_string())?;
    let leaves: Vec<Digest> = transactions.iter().map(|bytes| tx_tree::tx_leaf(bytes)).collect();
    match (tx_tree::tx_root(&leaves), leaves.len()) == (header.tx_root, header.tx_count as usize) {
        true => Ok(1),
        false => Err(format!("the body of block {height} is not the one of its header")),
    }
}

/// The rows of the state have the root of the tip.
fn check_state(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let (from, to) = vault_range(vault);
    let mut leaves = Vec::new();
    for (key, value) in disk.range(Family::Latest, &from, &to) {
        let key = &key[VaultRef::LEN..];
        let split = split_latest(value).and_then(|(record, value)| {
            let decoded = Record::decode(record).ok()?;
            (decoded.value_hash == hash::plain(value)).then_some((record, decoded))
        });
        let Some((record, decoded)) = split.filter(|_| StateKey::from_bytes(key).is_some()) else {
            return Err(format!("the row of {key:x?} is none"));
        };
        if decoded.modified_height > row.height {
            return Err(format!("the row of {key:x?} is of a later block"));
        }
        leaves.push((key, hash::state_leaf(key, &hash::plain(record))));
    }
    let found = (state_root(&leaves), leaves.len() as u64);
    let named = (row.state_root, row.state_keys);
    match found == named {
        true => Ok(()),
        false => Err(format!("its rows have root and number {found:?}, its row names {named:?}")),
    }
}

/// The root over the leaves of ascending keys: both sides of the first bit on which any of them differ.
fn state_root(leaves: &[(&[u8], Digest)]) -> Digest {
    match leaves {
        [] => hash::empty_root(),
        [(_, leaf)] => *leaf,
        [(first, _), .., (last, _)] => {
            let bit = bits::first_difference(first, last).expect("keys of rows differ");
            let right = leaves.partition_point(|(key, _)| bits::side(key, bit) == 0);
            let (left, right) = leaves.split_at(right);
            hash::branch(bit, &state_root(left), &state_root(right))
        }
    }
}

/// Rows of history and of sessions are of blocks that there are, and are counted.
fn check_the_rest(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let (from, to) = vault_range(vault);
    for (key, value) in disk.range(Family::History, &from, &to) {
        let superseded = split_history_key(key).map(|(_, superseded, _)| superseded);
        let record = Record::decode(value).ok();
        let is_right = superseded.zip(record).is_some_and(|(superseded, record)| {
            superseded <= row.height && record.modified_height < superseded
        });
        if !is_right {
            return Err(format!("a row of history is none: {key:x?}"));
        }
    }
    let sessions = disk.range(Family::Sessions, &from, &to);
    let keys = sessions.filter(|(key, _)| key.get(VaultRef::LEN) == Some(&SESSION_KEY));
    let mut count = 0;
    for (_, value) in keys {
        count += 1;
        if SessionRow::decode(value).map_or(true, |session| session.height > row.height) {
            return Err("a session is of no block".to_owned());
        }
    }
    match count == row.session_rows {
        true => Ok(()),
        false => Err(format!("it has {count} sessions, its row counts {}", row.session_rows)),
    }
}

/// The stored pages of the tree, with the blocks above their anchor, lead to every key. `disk` has no damage.
fn check_pages(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let (from, to) = vault_range(vault);
    let latest = disk.range(Family::Latest, &from, &to);
    let keys = latest.filter_map(|(key, _)| StateKey::from_bytes(&key[VaultRef::LEN..]));
    let keys: Vec<StateKey> = keys.collect();
    let proof = Applier::new(ApplyConfig::default()).prove(vault, &keys, None, disk);
    let proof = proof.map_err(|error| format!("its tree cannot be opened: {error}"))?;
    if proof.keys.iter().any(|key| key.value.is_none()) {
        return Err("its tree does not lead to a key of its rows".to_owned());
    }
    check_versions(disk, vault, row)
}

/// Pages by id and height of their flush.
type Pages<'a> = BTreeMap<(u64, u64), &'a [u8]>;

/// The rows of the tree family are the pages of the anchors' trees, these anchors, and for each page that one has
/// and the next has not, that it was retired then.
fn check_versions(disk: &Disk, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
    let (from, to) = vault_range(vault);
    let (mut pages, mut anchors, mut retired) = (Pages::new(), Vec::new(), BTreeSet::new());
    for (key, value) in disk.range(Family::Tree, &from, &to) {
        match split_tree_key(key) {
            Some(TreeRow::Page { id, height }) => drop(pages.insert((id, height), value)),
            Some(TreeRow::Retired(page)) if value.is_empty() => drop(retired.insert(page)),
            Some(TreeRow::Anchor { height }) => {
                let anchor = TreeAnchor::decode(value).ok();
                let anchor = anchor.filter(|anchor| anchor.height == height);
                anchors.push(anchor.ok_or("an anchor of its tree is none")?);
            }
            _ => return Err(format!("a row of its tree is none: {key:x?}")),
        }
    }
    anchors.push(row.tree_anchor.clone());
    let (mut all, mut gone, mut before) = (BTreeSet::new(), BTreeSet::new(), None);
    for anchor in &anchors {
        let header = only(disk, Family::Blocks, &block_header_key(vault, anchor.height));
        let header = header.and_then(|bytes| BlockHeader::decode(bytes).ok());
        let state = header.map(|header| (header.state_root, header.state_keys));
        if state != Some((anchor.root, anchor.leaf_count)) {
            return Err(format!("its tree at {} is not that of the block", anchor.height));
        }
        let reached = reach(&pages, anchor)?;
        if let Some((height, old)) = before.replace((anchor.height, reached.clone())) {
            let retired_height = anchor.height;
            if height >= retired_height {
                return Err("the last anchor of its tree is not the newest".to_owned());
            }
            let lost = old.difference(&reached);
            gone.extend(lost.map(|&(id, height)| RetiredPage { retired_height, id, height }));
        }
        all.extend(reached);
    }
    match pages.keys().eq(&all) && retired == gone {
        true => Ok(()),
        false => {
            Err("its tree has pages that no anchor leads to, or are not as retired".to_owned())
        }
    }
}

/// The pages of an anchor's tree.
fn reach(pages: &Pages<'_>, anchor: &TreeAnchor) -> Result<BTreeSet<(u64, u64)>, String> {
    let mut reached = BTreeSet::new();
    let mut waiting = Vec::new();
    if let Some((id, height)) = anchor.root_page {
        let TreeAnchor { root, leaf_count, .. } = *anchor;
        waiting.push(PageReference { id, height, root, leaf_count });
    }
    while let Some(page) = waiting.pop() {
        let place = (page.id, page.height);
        let bytes = pages.get(&place).ok_or("its tree lacks a page")?;
        let found = PageSummary::read(bytes).map_err(|error| format!("its tree: {error}"))?;
        if (found.root, found.leaf_count) != (page.root, page.leaf_count) {
            return Err("its tree has a page with another root".to_owned());
        }
        if page.height > anchor.height {
            return Err("a page is of a later block".to_owned());
        }
        reached.insert(place);
        waiting.extend(found.pages);
    }
    Ok(reached)
}

/// The value of a row, damaged or not.
fn only<'a>(disk: &'a Disk, family: Family, key: &[u8]) -> Option<&'a [u8]> {
    let end = [key, &[0]].concat();
    disk.range(family, key, &end).next().map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
