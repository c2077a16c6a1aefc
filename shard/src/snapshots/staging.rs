//! Receiving one snapshot: bytes in order, each where it belongs, and the checks at the end.
//!
//! Owns the received files. Must never trust what lies there from before: digests are compared over every
//! byte before anything is believed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use ledger_proof::hash;
use ledger_shard_core::snapshot::SnapshotManifest;
use ledger_types::Digest;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::error::SnapshotError;
use super::fail_point;
use super::files::{MANIFEST, digest_of, file_path, hash_prefix, remove_directory, sync_directory};
use super::store::{Shared, read_manifest};
use super::verify::verify;
use crate::metrics::add;

/// A snapshot that is being received. Does file I/O in every call: not for threads that must not block.
pub struct Staging {
    shared: Arc<Shared>,
    directory: PathBuf,
    receiver: u64,
    manifest: SnapshotManifest,
    /// Bytes of each file that are here.
    present: Vec<u64>,
    open: Option<OpenFile>,
}

/// The file that grows.
struct OpenFile {
    number: u32,
    file: File,
    /// Of all its bytes so far.
    hasher: Sha256,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staging({}, next {:?})", self.directory.display(), self.next())
    }
}

impl Staging {
    pub(super) fn open(
        shared: Arc<Shared>,
        (directory, receiver): (PathBuf, u64),
        manifest: SnapshotManifest,
    ) -> Result<Staging, SnapshotError> {
        let encoded = manifest.encode();
        if read_manifest(&directory)?.is_none_or(|found| found != encoded) {
            remove_directory(&directory)?;
            fs::create_dir_all(&directory).map_err(SnapshotError::file("create", &directory))?;
            let path = directory.join(MANIFEST);
            fs::write(&path, &encoded).map_err(SnapshotError::file("write", &path))?;
        }
        let mut present = Vec::with_capacity(manifest.files.len());
        for (number, line) in (0..).zip(&manifest.files) {
            let found = fs::metadata(file_path(&directory, number)).map_or(0, |found| found.len());
            // Longer than it should be: nothing of it is worth anything.
            present.push(if found <= line.bytes { found } else { 0 });
        }
        Ok(Staging { shared, directory, receiver, manifest, present, open: None })
    }

    /// What is received.
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// Bytes that are here.
    pub fn bytes(&self) -> u64 {
        self.present.iter().sum()
    }

    /// File and byte to go on with; `None` when every byte is here.
    pub fn next(&self) -> Option<(u32, u64)> {
        let mut lines = (0..).zip(self.manifest.files.iter().zip(&self.present));
        let missing = lines.find(|(_, (line, present))| **present < line.bytes)?;
        Some((missing.0, *missing.1.1))
    }

    /// Appends bytes at exactly the place that [`Staging::next`] names. Errors on another place, on bytes
    /// that do not have their digest (SHA-256) or reach over the file's end, if another receiver of the
    /// group took over, and if the file is complete now and not what the manifest says: then it is emptied
    /// and comes next again.
    pub fn write(
        &mut self,
        file: u32,
        offset: u64,
        bytes: &[u8],
        digest: &Digest,
    ) -> Result<(), SnapshotError> {
        self.shared.check_receiver(self.manifest.group, self.receiver)?;
        let next = self.next();
        if next != Some((file, offset)) {
            return Err(SnapshotError::WrongPlace { file, offset, next });
        }
        if hash::plain(bytes) != *digest {
            return Err(SnapshotError::ChunkDigest { file, offset });
        }
        let line = self.manifest.files[file as usize];
        if bytes.is_empty() || bytes.len() as u64 > line.bytes - offset {
            let (len, bytes) = (bytes.len(), line.bytes);
            return Err(SnapshotError::ChunkLength { file, offset, len, bytes });
        }
        self.append(file, offset, bytes)?;
        add(&self.shared.metrics.snapshot_bytes_in, bytes.len() as u64);
        self.present[file as usize] += bytes.len() as u64;
        if self.present[file as usize] < line.bytes {
            return Ok(());
        }
        let OpenFile { file: written, hasher, .. } = self.open.take().expect("it was written to");
        let path = file_path(&self.directory, file);
        written.sync_all().map_err(SnapshotError::file("sync", &path))?;
        if digest_of(hasher) != line.digest {
            self.empty(file)?;
            return Err(SnapshotError::FileDigest { file });
        }
        Ok(())
    }

    /// Makes everything durable and checks all that can be checked: digests, rows, chains, roots. Blocking,
    /// and heavy on the processor: about as long as reading and hashing everything twice. After an error
    /// about a file's digest that file was emptied; after any other the whole snapshot is worth nothing.
    pub fn finish(mut self) -> Result<(), SnapshotError> {
        let begin = std::time::Instant::now();
        let (group, index) = (self.manifest.group, self.manifest.row.applied_index);
        // On a thread of its own, whose priority is nobody else's.
        let checked = std::thread::scope(|scope| {
            let check = || {
                super::stand_back();
                self.check()
            };
            scope.spawn(check).join()
        });
        match checked.expect("verifying does not panic") {
            Ok(()) => {
                let ms = begin.elapsed().as_millis();
                tracing::debug!(group = group.0, index, ms, "snapshot verified");
                Ok(())
            }
            Err(error) => {
                add(&self.shared.metrics.snapshots_refused, 1);
                warn!(group = group.0, index, %error, "snapshot refused");
                Err(error)
            }
        }
    }

    fn check(&mut self) -> Result<(), SnapshotError> {
        let group = self.manifest.group;
        self.shared.check_receiver(group, self.receiver)?;
        if let Some((file, offset)) = self.next() {
            return Err(SnapshotError::Incomplete { file, offset });
        }
        self.sync()?;
        match verify(&self.directory, &self.manifest) {
            Err(SnapshotError::FileDigest { file }) => {
                self.empty(file)?;
                return Err(SnapshotError::FileDigest { file });
            }
            other => other?,
        }
        fail_point!("snapshot::verify_done");
        self.shared.verified(group, self.receiver)
    }

    /// Files that were complete before a restart may not have been synced by anyone.
    fn sync(&self) -> Result<(), SnapshotError> {
        let files = (0..self.present.len()).map(|number| {
            file_path(&self.directory, u32::try_from(number).expect("files are limited"))
        });
        for path in files.chain([self.directory.join(MANIFEST)]) {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(SnapshotError::file("sync", &path))?;
        }
        sync_directory(&self.directory)?;
        // The names of the directory itself and of those above it.
        let above = self.directory.ancestors().skip(1).take(3);
        above.into_iter().try_for_each(sync_directory)
    }

    fn append(&mut self, number: u32, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let path = file_path(&self.directory, number);
        let failed = |error| SnapshotError::file("write", &path)(error);
        let is_open = self.open.as_ref().is_some_and(|open| open.number == number);
        let open = match &mut self.open {
            Some(open) if is_open => open,
            other => {
                let file = OpenOptions::new().create(true).append(true).open(&path);
                let file = file.map_err(failed)?;
                file.set_len(offset).map_err(failed)?;
                // What came before a restart is hashed here; whether it is right shows at the file's end.
                let hasher = hash_prefix(&path, offset).map_err(failed)?;
                other.insert(OpenFile { number, file, hasher })
            }
        };
        if let Err(error) = open.file.write_all(bytes) {
            // How much of it is there is not known: opened again, the file is cut to what is.
            self.open = None;
            return Err(failed(error));
        }
        open.hasher.update(bytes);
        Ok(())
    }

    fn empty(&mut self, number: u32) -> Result<(), SnapshotError> {
        self.open = None;
        self.present[number as usize] = 0;
        let path = file_path(&self.directory, number);
        let emptied = File::create(&path);
        emptied.map(drop).map_err(SnapshotError::file("empty", &path))
    }
}
