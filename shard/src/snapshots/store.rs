//! Which snapshots are on disk: those cut here for others, and one per group that is being received.
//!
//! Owns the directories' content. Must never hand out a byte of a snapshot that was released, nor let two
//! receivers of one group's snapshots write.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_proof::encoding::DecodeError;
use ledger_shard_core::effects::CutSnapshot;
use ledger_shard_core::rows::{GroupRow, group_row_key};
use ledger_shard_core::snapshot::{MANIFEST_BYTES_MAX, SnapshotId, SnapshotManifest};
use ledger_shard_core::view::{Family, StateView as _};
use ledger_types::{ClusterId, GroupId};
use parking_lot::Mutex;

use super::cut::{CutTarget, cut};
use super::error::SnapshotError;
use super::files::{
    DIRECTORY, FILE_BYTES_AIM, IN, MANIFEST, OUT, file_path, incoming_directory, remove_directory,
};
use super::staging::Staging;
use crate::metrics::{Metrics, add};
use crate::store::Store;
use crate::view::LiveView;

/// Most bytes that [`SnapshotStore::read_chunk`] returns, whatever is asked for.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// A snapshot that was cut here.
struct Outgoing {
    group: GroupId,
    file_bytes: Vec<u64>,
}

/// The snapshot that a group receives.
struct Incoming {
    id: SnapshotId,
    /// Counts the receivers; only the last one may write.
    receiver: u64,
    /// Everything in it was checked, in this life of the process.
    is_verified: bool,
    is_installing: bool,
}

#[derive(Default)]
struct Tables {
    outgoing: HashMap<SnapshotId, Outgoing>,
    incoming: HashMap<GroupId, Incoming>,
    receivers: u64,
}

/// The snapshots in a data directory. Cheap to clone the handle of; usable from any thread, though calls
/// touch the disk.
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    data: PathBuf,
    cluster: ClusterId,
    pub(super) metrics: Arc<Metrics>,
    tables: Mutex<Tables>,
}

impl std::fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotStore({})", self.shared.data.display())
    }
}

impl SnapshotStore {
    /// Opens the snapshots of a data directory. What was cut before is removed, because nobody asks for it
    /// by an id that was told before the restart; what was being received can be gone on with.
    pub(crate) fn open(
        data: &Path,
        cluster: ClusterId,
        metrics: Arc<Metrics>,
    ) -> Result<SnapshotStore, SnapshotError> {
        remove_directory(&data.join(DIRECTORY).join(OUT))?;
        let tables = Tables { incoming: find_incoming(data)?, ..Tables::default() };
        let (data, tables) = (data.to_owned(), Mutex::new(tables));
        Ok(SnapshotStore { shared: Arc::new(Shared { data, cluster, metrics, tables }) })
    }

    /// Removes received snapshots that bring nothing new: a process that ends between the last step of an
    /// installation and the removal of its files leaves them. Called before anything is received. Errors if
    /// a group's row cannot be read or files cannot be removed.
    pub(crate) fn remove_outdated(&self, store: &Store) -> Result<(), SnapshotError> {
        let view = LiveView::new(store);
        let mut tables = self.shared.tables.lock();
        let received: Vec<(GroupId, SnapshotId)> =
            tables.incoming.iter().map(|(group, one)| (*group, one.id)).collect();
        for (group, id) in received {
            let corrupt = |error: DecodeError| SnapshotError::Corrupt {
                group,
                detail: format!("its row: {error}"),
            };
            let Some(row) = view.get(Family::Vaults, &group_row_key(group))? else { continue };
            let applied = GroupRow::decode(&row).map_err(corrupt)?.applied_index;
            let directory = incoming_directory(&self.shared.data, id);
            let manifest = read_manifest(&directory)?;
            let manifest = manifest.and_then(|bytes| SnapshotManifest::decode(&bytes).ok());
            if manifest.is_none_or(|manifest| manifest.row.applied_index <= applied) {
                remove_directory(&directory)?;
                tables.incoming.remove(&group);
            }
        }
        Ok(())
    }

    /// Reads up to `max_bytes` (at most 4 MiB) of a file of a snapshot that was cut here; nothing at its end.
    /// Errors if there is no such snapshot or file, if `offset` is behind the file's end, or if the file
    /// cannot be read.
    pub fn read_chunk(
        &self,
        id: SnapshotId,
        file: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<u8>, SnapshotError> {
        let bytes = {
            let tables = self.shared.tables.lock();
            let outgoing = tables.outgoing.get(&id).ok_or(SnapshotError::Unknown(id))?;
            let bytes = outgoing.file_bytes.get(file as usize).copied();
            bytes.ok_or(SnapshotError::UnknownFile { id, file })?
        };
        let left = bytes.checked_sub(offset);
        let left = left.ok_or(SnapshotError::BeyondEnd { file, offset, bytes })?;
        let len = left.min(max_bytes.min(CHUNK_BYTES_MAX) as u64);
        let mut chunk = vec![0; usize::try_from(len).expect("a chunk is small")];
        let path = file_path(&self.shared.outgoing_directory(id), file);
        let read = File::open(&path).and_then(|open| open.read_exact_at(&mut chunk, offset));
        if let Err(error) = read {
            // Released between the look and the read.
            return match self.outgoing(id) {
                None => Err(SnapshotError::Unknown(id)),
                Some(_) => Err(SnapshotError::file("read", &path)(error)),
            };
        }
        add(&self.shared.metrics.snapshot_bytes_out, len);
        Ok(chunk)
    }

    /// The group of a snapshot that was cut here and is still kept.
    pub fn outgoing(&self, id: SnapshotId) -> Option<GroupId> {
        self.shared.tables.lock().outgoing.get(&id).map(|one| one.group)
    }

    /// Begins to receive a snapshot, or goes on with it where a broken connection or a restart ended.
    /// Whatever else the group received is removed, and whoever received it can write no more. Errors if
    /// the snapshot is of another cluster, while the group installs one, or if the disk fails.
    pub fn receive(&self, manifest: &SnapshotManifest) -> Result<Staging, SnapshotError> {
        let shared = &self.shared;
        if manifest.cluster != shared.cluster {
            return Err(SnapshotError::OtherCluster { found: manifest.cluster });
        }
        let group = manifest.group;
        let mut tables = shared.tables.lock();
        if let Some(before) = tables.incoming.get(&group) {
            if before.is_installing {
                return Err(SnapshotError::Installing(group));
            }
            if before.id != manifest.id {
                remove_directory(&incoming_directory(&shared.data, before.id))?;
                tables.incoming.remove(&group);
            }
        }
        tables.receivers += 1;
        let receiver = tables.receivers;
        let (id, is_verified, is_installing) = (manifest.id, false, false);
        tables.incoming.insert(group, Incoming { id, receiver, is_verified, is_installing });
        drop(tables);
        let directory = incoming_directory(&shared.data, id);
        Staging::open(shared.clone(), (directory, receiver), manifest.clone())
    }

    /// Cuts a snapshot and keeps it until it is released.
    pub(super) fn cut(
        &self,
        store: &Store,
        wanted: &CutSnapshot,
        stop: &std::sync::atomic::AtomicBool,
    ) -> Result<SnapshotManifest, SnapshotError> {
        let id = SnapshotId(rand::random());
        let (cluster, directory) = (self.shared.cluster, self.shared.outgoing_directory(id));
        let target = CutTarget { id, cluster, directory, file_bytes_aim: FILE_BYTES_AIM };
        match cut(store, wanted, &target, stop) {
            Ok(manifest) => {
                self.keep(&manifest);
                Ok(manifest)
            }
            Err(error) => {
                // The first error is the one that tells something.
                let _ = remove_directory(&target.directory);
                Err(error)
            }
        }
    }

    /// Makes a snapshot that was cut readable.
    pub(super) fn keep(&self, manifest: &SnapshotManifest) {
        let file_bytes = manifest.files.iter().map(|file| file.bytes).collect();
        let outgoing = Outgoing { group: manifest.group, file_bytes };
        self.shared.tables.lock().outgoing.insert(manifest.id, outgoing);
    }

    /// Takes a snapshot that was cut here back at once; the caller removes the directory that is returned.
    pub(super) fn release(&self, id: SnapshotId) -> Option<PathBuf> {
        let outgoing = self.shared.tables.lock().outgoing.remove(&id);
        outgoing.map(|_| self.shared.outgoing_directory(id))
    }

    /// Gives a received snapshot up; the caller removes the directory that is returned. One that the group
    /// does not receive any more, or that it installs, stays as it is.
    pub(super) fn discard(&self, group: GroupId, id: SnapshotId) -> Option<PathBuf> {
        let mut tables = self.shared.tables.lock();
        let is_it = |one: &&Incoming| one.id == id && !one.is_installing;
        tables.incoming.get(&group).filter(is_it)?;
        tables.incoming.remove(&group);
        Some(incoming_directory(&self.shared.data, id))
    }

    /// Nobody may replace or write this snapshot from now on. Errors if it was not verified.
    pub(super) fn begin_install(&self, manifest: &SnapshotManifest) -> Result<(), SnapshotError> {
        let mut tables = self.shared.tables.lock();
        let incoming = tables.incoming.get_mut(&manifest.group);
        match incoming.filter(|one| one.id == manifest.id && one.is_verified) {
            Some(incoming) => {
                incoming.is_installing = true;
                Ok(())
            }
            None => Err(SnapshotError::NotVerified(manifest.id)),
        }
    }

    /// A snapshot is installed; the caller removes the directory that is returned.
    pub(super) fn end_install(&self, group: GroupId, id: SnapshotId) -> PathBuf {
        self.shared.tables.lock().incoming.remove(&group);
        incoming_directory(&self.shared.data, id)
    }

    #[cfg(test)]
    pub(super) fn outgoing_directory(&self, id: SnapshotId) -> PathBuf {
        self.shared.outgoing_directory(id)
    }
}

impl Shared {
    fn outgoing_directory(&self, id: SnapshotId) -> PathBuf {
        self.data.join(DIRECTORY).join(OUT).join(id.to_string())
    }

    /// Errors if another receiver took over.
    pub(super) fn check_receiver(
        &self,
        group: GroupId,
        receiver: u64,
    ) -> Result<(), SnapshotError> {
        let tables = self.tables.lock();
        match tables.incoming.get(&group) {
            Some(one) if one.receiver == receiver && !one.is_installing => Ok(()),
            _ => Err(SnapshotError::Replaced(group)),
        }
    }

    /// Notes that everything was checked, unless another receiver took over.
    pub(super) fn verified(&self, group: GroupId, receiver: u64) -> Result<(), SnapshotError> {
        let mut tables = self.tables.lock();
        match tables.incoming.get_mut(&group).filter(|one| one.receiver == receiver) {
            Some(incoming) => {
                incoming.is_verified = true;
                Ok(())
            }
            None => Err(SnapshotError::Replaced(group)),
        }
    }
}

/// The snapshots that were being received; what has no whole manifest is removed.
fn find_incoming(data: &Path) -> Result<HashMap<GroupId, Incoming>, SnapshotError> {
    let directory = data.join(DIRECTORY).join(IN);
    fs::create_dir_all(&directory).map_err(SnapshotError::file("create", &directory))?;
    let mut found = HashMap::new();
    let listed = fs::read_dir(&directory).map_err(SnapshotError::file("list", &directory))?;
    for entry in listed {
        let path = entry.map_err(SnapshotError::file("list", &directory))?.path();
        if !path.is_dir() {
            // Nothing here makes such a thing, and it is nobody's snapshot.
            continue;
        }
        let manifest = read_manifest(&path)?;
        let manifest = manifest.and_then(|bytes| SnapshotManifest::decode(&bytes).ok());
        match manifest.filter(|one| incoming_directory(data, one.id) == path) {
            Some(manifest) if !found.contains_key(&manifest.group) => {
                let (id, is_verified, is_installing) = (manifest.id, false, false);
                let incoming = Incoming { id, receiver: 0, is_verified, is_installing };
                found.insert(manifest.group, incoming);
            }
            _ => remove_directory(&path)?,
        }
    }
    Ok(found)
}

/// The bytes of the manifest in a directory; `None` if there is no file of a manifest's size.
pub(super) fn read_manifest(directory: &Path) -> Result<Option<Vec<u8>>, SnapshotError> {
    let path = directory.join(MANIFEST);
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(SnapshotError::file("read", &path))?;
    Ok((bytes.len() <= MANIFEST_BYTES_MAX).then_some(bytes))
}
