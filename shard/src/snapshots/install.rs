//! Making a verified snapshot a group's state, so that a crash at any point ends with all of it or leaves it
//! to be done again.
//!
//! Owns the steps and the marker that makes the next start go on. Must never let anybody read a vault half
//! of which is old: its row is gone from the first step to the last.
//!
//! Marker, in the meta family: `install/ ‖ group u64` -> `0x01 ‖ id 16 ‖ SHA-256 of the manifest 32 ‖
//! incarnation u64 ‖ term u64 ‖ vote u64 ‖ commit u64`, integers big-endian.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::hash;
use ledger_shard_core::apply::Applier;
use ledger_shard_core::effects::{HardState, InstallSnapshot};
use ledger_shard_core::records::RecordFault;
use ledger_shard_core::rows::{
    LocalState, VAULT_FAMILIES, VaultRow, encode_hard_state, group_row_key, owned_rows_range,
    raft_entry_range, raft_hard_state_key, raft_local_key, split_vault_row_key, vault_range,
    vault_row_key,
};
use ledger_shard_core::snapshot::{SnapshotFile, SnapshotId, SnapshotManifest};
use ledger_shard_core::view::{Family, StateView};
use ledger_types::{Digest, GroupId, Incarnation, VaultRef};
use parking_lot::Mutex;
use tracing::info;

use super::cut::{owned_vaults, split_owned_row};
use super::error::{SnapshotError, VerifyError};
use super::fail_point;
use super::files::{file_path, finish_records, incoming_directory, open_records, remove_directory};
use super::store::read_manifest;
use crate::store::Store;
use crate::view::{LiveView, first_key};

/// What the markers' keys begin with.
const MARKER_PREFIX: &[u8] = b"install/";
/// Version of the marker.
const VERSION: u8 = 1;
/// Bytes of rows in one batch; a single larger row is a batch of its own.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of rows of a family after which they are flushed, so that they do not fill the memory tables.
const FLUSH_BYTES: usize = 16 << 20;

/// Takes in a record's key and value.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), SnapshotError> + 'a;

/// What the next start must know to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Marker {
    pub(super) id: SnapshotId,
    pub(super) manifest: Digest,
    pub(super) incarnation: Incarnation,
    pub(super) hard_state: HardState,
}

impl Marker {
    pub(super) fn of(wanted: &InstallSnapshot) -> Marker {
        let manifest = hash::plain(&wanted.manifest.encode());
        let InstallSnapshot { incarnation, hard_state, .. } = *wanted;
        Marker { id: wanted.manifest.id, manifest, incarnation, hard_state }
    }

    fn key(group: GroupId) -> Vec<u8> {
        [MARKER_PREFIX, &group.0.to_be_bytes()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(81);
        let mut out = Writer::new(&mut bytes);
        out.u8(VERSION);
        out.raw(&self.id.0);
        out.digest(&self.manifest);
        out.u64(self.incarnation.0);
        out.u64(self.hard_state.term);
        out.u64(self.hard_state.vote);
        out.u64(self.hard_state.commit);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Marker, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("install marker version")?;
        if version != VERSION {
            let (field, value) = ("install marker version", version.into());
            return Err(DecodeError::UnknownValue { field, value });
        }
        let id = SnapshotId(reader.array("snapshot id")?);
        let manifest = reader.digest("manifest digest")?;
        let incarnation = Incarnation(reader.u64("incarnation")?);
        let (term, vote) = (reader.u64("term")?, reader.u64("vote")?);
        let hard_state = HardState { term, vote, commit: reader.u64("commit")? };
        reader.finish()?;
        Ok(Marker { id, manifest, incarnation, hard_state })
    }
}

/// One installation. The steps are called in their order; each may be called again.
pub(super) struct Install<'a> {
    store: &'a Store,
    manifest: &'a SnapshotManifest,
    directory: PathBuf,
    marker: Marker,
    /// The state machine that must forget what it has in memory; none while nothing runs.
    applier: Option<&'a Mutex<Applier>>,
    /// The snapshot's vaults whose state is taken over; the others are at least as new here.
    taken: BTreeSet<VaultRef>,
    /// Vaults that the group owned here and does not own in the snapshot.
    dropped: BTreeSet<VaultRef>,
}

/// Runs all steps. Errors with `Stopped` where the node is asked to stop; the next start goes on.
pub(super) fn run(install: Install<'_>, stop: &AtomicBool) -> Result<(), SnapshotError> {
    install.mark()?;
    fail_point!("snapshot::install_marker");
    install.write_rows(stop)?;
    fail_point!("snapshot::install_rows");
    install.flush()?;
    fail_point!("snapshot::install_flushed");
    install.finish()?;
    fail_point!("snapshot::install_done");
    Ok(())
}

impl<'a> Install<'a> {
    /// Looks at which vaults to take over. Changes nothing.
    pub(super) fn new(
        store: &'a Store,
        manifest: &'a SnapshotManifest,
        marker: Marker,
        applier: Option<&'a Mutex<Applier>>,
    ) -> Result<Install<'a>, SnapshotError> {
        let group = manifest.group;
        let replica = marker.incarnation;
        if !manifest.row.replicas.iter().any(|one| one.incarnation == replica) {
            let index = manifest.row.applied_index;
            return Err(SnapshotError::NotAMember { group, replica, index });
        }
        let directory = incoming_directory(store.directory(), manifest.id);
        let (taken, dropped) = (BTreeSet::new(), BTreeSet::new());
        let mut install = Install { store, manifest, directory, marker, applier, taken, dropped };
        install.plan()?;
        Ok(install)
    }

    fn plan(&mut self) -> Result<(), SnapshotError> {
        let view = LiveView::new(self.store);
        let (mut taken, mut present) = (BTreeSet::new(), BTreeSet::new());
        self.records(Family::Vaults, &mut |key, value| {
            let Some(vault) = split_vault_row_key(key) else { return Ok(()) };
            present.insert(vault);
            let row = VaultRow::decode(value).map_err(|source| self.damaged(&source))?;
            if !is_kept(self.stored(&view, vault)?.as_ref(), &row) {
                taken.insert(vault);
            }
            Ok(())
        })?;
        let group = self.manifest.group;
        for vault in owned_vaults(&view, group)? {
            // Without a row it is one that an earlier, unfinished installation has begun to drop.
            let is_ours = self.stored(&view, vault)?.is_none_or(|row| row.owner == group);
            if !present.contains(&vault) && is_ours {
                self.dropped.insert(vault);
            }
        }
        self.taken = taken;
        Ok(())
    }

    /// Step 1, durable: the marker, and nobody sees the vaults from here on.
    pub(super) fn mark(&self) -> Result<(), SnapshotError> {
        let mut batch = self.store.batch(64 * (self.taken.len() + self.dropped.len()));
        let key = Marker::key(self.manifest.group);
        batch.put(Family::Meta, &key, &self.marker.encode());
        for &vault in self.taken.iter().chain(&self.dropped) {
            batch.delete(Family::Vaults, &vault_row_key(vault));
        }
        self.alone(|| {
            batch.write()?;
            Ok(self.store.sync()?)
        })
    }

    /// Step 2: the vaults' old rows go and the snapshot's come, past the write-ahead log. Every file's digest
    /// is compared once more.
    pub(super) fn write_rows(&self, stop: &AtomicBool) -> Result<(), SnapshotError> {
        VAULT_FAMILIES.into_iter().try_for_each(|family| self.write_family(family, stop))
    }

    pub(super) fn write_family(
        &self,
        family: Family,
        stop: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        self.delete_old(family)?;
        let mut batch = self.store.batch(BATCH_BYTES);
        let mut unflushed = 0;
        self.records(family, &mut |key, value| {
            let vault = VaultRef::from_prefix(key);
            if !vault.is_some_and(|vault| self.taken.contains(&vault)) {
                return Ok(());
            }
            if batch.bytes() + key.len() + value.len() > BATCH_BYTES {
                let full = std::mem::replace(&mut batch, self.store.batch(BATCH_BYTES));
                unflushed += full.bytes();
                full.write_unlogged()?;
                if unflushed >= FLUSH_BYTES {
                    self.store.flush(&[family])?;
                    unflushed = 0;
                }
            }
            batch.put(family, key, value);
            match stop.load(Ordering::Relaxed) {
                true => Err(SnapshotError::Stopped),
                false => Ok(()),
            }
        })?;
        Ok(batch.write_unlogged()?)
    }

    fn delete_old(&self, family: Family) -> Result<(), SnapshotError> {
        let mut batch = self.store.batch(0);
        for &vault in self.taken.iter().chain(&self.dropped) {
            let (from, to) = vault_range(vault);
            // A range without rows is left alone: what deletes it would slow readers down.
            if first_key(self.store, family, &from..&to)?.is_some() {
                batch.delete_range(family, &from, &to);
            }
        }
        Ok(batch.write_unlogged()?)
    }

    /// Step 3: the rows are durable.
    pub(super) fn flush(&self) -> Result<(), SnapshotError> {
        Ok(self.store.flush(&VAULT_FAMILIES)?)
    }

    /// Step 4, durable and all at once: the vaults appear, the group is where the snapshot is, its log begins
    /// after that, and the marker goes.
    pub(super) fn finish(&self) -> Result<(), SnapshotError> {
        let group = self.manifest.group;
        let mut batch = self.store.batch(BATCH_BYTES);
        let (from, to) = owned_rows_range(group);
        LiveView::new(self.store).scan(Family::Vaults, &from, &to, &mut |key, _| {
            batch.delete(Family::Vaults, key);
            true
        })?;
        self.records(Family::Vaults, &mut |key, value| {
            match split_vault_row_key(key) {
                Some(vault) if !self.taken.contains(&vault) => return Ok(()),
                Some(_) => {}
                None if key == group_row_key(group) => {}
                None => {
                    split_owned_row(key, value).map_err(|source| self.damaged(&source))?;
                }
            }
            batch.put(Family::Vaults, key, value);
            Ok(())
        })?;
        let (from, to) = raft_entry_range(group, 0, u64::MAX);
        batch.delete_range(Family::Raft, &from, &to);
        let row = &self.manifest.row;
        let local = LocalState {
            truncated_index: row.applied_index,
            truncated_term: row.applied_term,
            incarnation: self.marker.incarnation,
        };
        batch.put(Family::Raft, &raft_local_key(group), &local.encode());
        let hard_state = encode_hard_state(&self.marker.hard_state);
        batch.put(Family::Raft, &raft_hard_state_key(group), &hard_state);
        batch.delete(Family::Meta, &Marker::key(group));
        self.alone(|| {
            batch.write()?;
            Ok(self.store.sync()?)
        })
    }

    /// Changes rows that the state machine knows, and makes it forget them before it can look again.
    fn alone(
        &self,
        change: impl FnOnce() -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Some(applier) = self.applier else { return change() };
        let mut applier = applier.lock();
        change()?;
        let vaults: Vec<VaultRef> = self.taken.iter().chain(&self.dropped).copied().collect();
        applier.forget(self.manifest.group, &vaults);
        Ok(())
    }

    /// Visits the snapshot's records of one family in order, and compares each file's digest at its end.
    fn records(&self, family: Family, visit: &mut Visit<'_>) -> Result<(), SnapshotError> {
        let files = (0..).zip(&self.manifest.files);
        for (number, line) in files.filter(|(_, line)| line.family == family) {
            visit_file(&file_path(&self.directory, number), number, line, visit)?;
        }
        Ok(())
    }

    fn stored(
        &self,
        view: &LiveView<'_>,
        vault: VaultRef,
    ) -> Result<Option<VaultRow>, SnapshotError> {
        let Some(value) = view.get(Family::Vaults, &vault_row_key(vault))? else { return Ok(None) };
        let (group, detail) = (self.manifest.group, |error| format!("vault {vault}: {error}"));
        let row = VaultRow::decode(&value).map_err(detail);
        row.map(Some).map_err(|detail| SnapshotError::Corrupt { group, detail })
    }

    fn damaged(&self, error: &DecodeError) -> SnapshotError {
        SnapshotError::Manifest { group: self.manifest.group, detail: error.to_string() }
    }
}

/// True if what is stored of a vault is at least as new as the snapshot's row, or is another group's by now.
fn is_kept(stored: Option<&VaultRow>, row: &VaultRow) -> bool {
    stored.is_some_and(|stored| {
        let is_same_owner = stored.owner == row.owner;
        match stored.owner_epoch.cmp(&row.owner_epoch) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => {
                !is_same_owner || stored.applied_index >= row.applied_index
            }
            std::cmp::Ordering::Less => false,
        }
    })
}

fn visit_file(
    path: &Path,
    file: u32,
    line: &SnapshotFile,
    visit: &mut Visit<'_>,
) -> Result<(), SnapshotError> {
    let failed = |error| SnapshotError::file("read", path)(error);
    let mut reader = open_records(path, line.bytes).map_err(failed)?;
    loop {
        let offset = reader.offset();
        match reader.next_record() {
            Ok(Some((key, value))) => visit(key, value)?,
            Ok(None) => break,
            Err(RecordFault::Framing) => return Err(VerifyError::Framing { file, offset }.into()),
            Err(RecordFault::Io(error)) => return Err(failed(error)),
        }
    }
    match finish_records(reader) == line.digest {
        true => Ok(()),
        false => Err(SnapshotError::FileDigest { file }),
    }
}

/// Finishes every installation that a crash or a stop left behind, before anything runs; tells the groups.
/// Errors name the group.
pub(crate) fn finish_marked(store: &Store) -> Result<Vec<GroupId>, (GroupId, SnapshotError)> {
    let mut marked = Vec::new();
    let scanned = store.scan_meta(MARKER_PREFIX, &mut |key, value| {
        let group = key.get(MARKER_PREFIX.len()..).and_then(|group| group.try_into().ok());
        let group = GroupId(group.map_or(u64::MAX, u64::from_be_bytes));
        marked.push((group, Marker::decode(value)));
    });
    scanned.map_err(|error| (GroupId::SYSTEM, error.into()))?;
    let mut groups = Vec::new();
    for (group, marker) in marked {
        let begin = Instant::now();
        let damaged =
            |error: DecodeError| SnapshotError::Manifest { group, detail: error.to_string() };
        let finished = marker.map_err(damaged).and_then(|marker| finish_one(store, group, marker));
        let index = finished.map_err(|error| (group, error))?;
        let ms = begin.elapsed().as_millis();
        info!(group = group.0, index, ms, "snapshot installed that an earlier start began with");
        groups.push(group);
    }
    Ok(groups)
}

fn finish_one(store: &Store, group: GroupId, marker: Marker) -> Result<u64, SnapshotError> {
    let damaged = |detail: String| SnapshotError::Manifest { group, detail };
    let directory = incoming_directory(store.directory(), marker.id);
    let bytes = read_manifest(&directory)?.ok_or_else(|| damaged("it is missing".to_owned()))?;
    if hash::plain(&bytes) != marker.manifest {
        return Err(damaged("it is not the one that the marker names".to_owned()));
    }
    let manifest = SnapshotManifest::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.group != group {
        return Err(damaged(format!("it is of group {}", manifest.group)));
    }
    run(Install::new(store, &manifest, marker, None)?, &AtomicBool::new(false))?;
    // What is left behind is removed when the group receives its next snapshot.
    let _ = remove_directory(&directory);
    Ok(manifest.row.applied_index)
}
