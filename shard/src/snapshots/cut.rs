//! Cutting a snapshot: a group's rows as they are at one moment, into files.
//!
//! Owns which rows a snapshot has and in which order. Must never read from two views, or keep the view
//! longer than the files take.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_proof::encoding::DecodeError;
use ledger_shard_core::effects::CutSnapshot;
use ledger_shard_core::rows::{
    GroupRow, OwnedRow, OwnedState, VAULT_FAMILIES, group_row_key, owned_rows_range, vault_range,
    vault_row_key,
};
use ledger_shard_core::snapshot::{SnapshotId, SnapshotManifest};
use ledger_shard_core::view::{Family, StateView};
use ledger_types::{ClusterId, GroupId, VaultRef};

use super::error::SnapshotError;
use super::fail_point;
use super::files::RecordWriter;
use crate::store::Store;
use crate::view::SnapshotView;

/// Where a snapshot goes and what it is called.
pub(super) struct CutTarget {
    pub(super) id: SnapshotId,
    pub(super) cluster: ClusterId,
    /// Made here; must not exist.
    pub(super) directory: PathBuf,
    /// Bytes after which a file ends.
    pub(super) file_bytes_aim: u64,
}

/// Cuts a snapshot for a replica. Every file is durable when this returns. Errors if the replica is in no
/// list of the configuration that the snapshot holds: raft would refuse it there.
pub(super) fn cut(
    store: &Store,
    wanted: &CutSnapshot,
    target: &CutTarget,
    stop: &AtomicBool,
) -> Result<SnapshotManifest, SnapshotError> {
    fail_point!("snapshot::cut_begin");
    let group = wanted.group;
    let view = SnapshotView::new(store);
    let corrupt = |detail: &str| SnapshotError::Corrupt { group, detail: detail.to_owned() };
    let row = view.get(Family::Vaults, &group_row_key(group))?;
    let row = row.ok_or_else(|| corrupt("it has no row"))?;
    let row = GroupRow::decode(&row).map_err(|error| corrupt(&error.to_string()))?;
    if !is_member(&row, wanted.to.incarnation.0) {
        let (replica, index) = (wanted.to.incarnation, row.applied_index);
        return Err(SnapshotError::NotAMember { group, replica, index });
    }
    fs::create_dir_all(&target.directory)
        .map_err(SnapshotError::file("create", &target.directory))?;
    let out = RecordWriter::new(&target.directory, target.file_bytes_aim);
    let mut cutter = Cutter { view: &view, out, stop };
    let vaults = cutter.tables(group, &row)?;
    for family in VAULT_FAMILIES {
        for &vault in &vaults {
            cutter.range(family, vault_range(vault))?;
        }
    }
    let files = cutter.out.finish()?;
    fail_point!("snapshot::cut_done");
    let (id, cluster, sender) = (target.id, target.cluster, wanted.from);
    Ok(SnapshotManifest { id, cluster, group, sender, row, files })
}

fn is_member(row: &GroupRow, id: u64) -> bool {
    let conf = &row.conf_state;
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    lists.iter().any(|ids| ids.contains(&id))
}

struct Cutter<'a> {
    view: &'a SnapshotView<'a>,
    out: RecordWriter<'a>,
    stop: &'a AtomicBool,
}

impl Cutter<'_> {
    /// The group's row, its vaults' rows and its table of owned vaults; tells the vaults, in order.
    fn tables(&mut self, group: GroupId, row: &GroupRow) -> Result<Vec<VaultRef>, SnapshotError> {
        self.out.push(Family::Vaults, &group_row_key(group), &row.encode())?;
        let corrupt = |detail: String| SnapshotError::Corrupt { group, detail };
        let vaults = owned_vaults(self.view, group)?;
        for &vault in &vaults {
            let key = vault_row_key(vault);
            let value = self.view.get(Family::Vaults, &key)?;
            let value = value.ok_or_else(|| corrupt(format!("vault {vault} has no row")))?;
            self.out.push(Family::Vaults, &key, &value)?;
        }
        self.range(Family::Vaults, owned_rows_range(group))?;
        Ok(vaults)
    }

    fn range(
        &mut self,
        family: Family,
        (from, to): (Vec<u8>, Vec<u8>),
    ) -> Result<(), SnapshotError> {
        let mut failed = None;
        self.view.scan_cold(family, &from, &to, &mut |key, value| {
            let pushed = match self.stop.load(Ordering::Relaxed) {
                true => Err(SnapshotError::Stopped),
                false => self.out.push(family, key, value),
            };
            failed = pushed.err();
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// The vaults that a group owns in a view, in order.
pub(crate) fn owned_vaults(
    view: &dyn StateView,
    group: GroupId,
) -> Result<Vec<VaultRef>, SnapshotError> {
    let (mut vaults, mut failed) = (Vec::new(), None);
    let (from, to) = owned_rows_range(group);
    view.scan(Family::Vaults, &from, &to, &mut |key, value| {
        match split_owned_row(key, value) {
            Ok((vault, owned)) if owned.state == OwnedState::Active => vaults.push(vault),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    match failed {
        None => Ok(vaults),
        Some(error) => Err(SnapshotError::Corrupt { group, detail: error.to_string() }),
    }
}

/// The vault and the content of a line of an owned table.
pub(super) fn split_owned_row(
    key: &[u8],
    value: &[u8],
) -> Result<(VaultRef, OwnedRow), DecodeError> {
    let field = "owned row key";
    let vault = key.get(9..).filter(|vault| vault.len() == VaultRef::LEN);
    let vault = vault.and_then(VaultRef::from_prefix);
    let vault = vault.ok_or(DecodeError::Invalid { field, rule: "is tag, group and vault" })?;
    Ok((vault, OwnedRow::decode(value)?))
}
