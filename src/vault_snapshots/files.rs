//! Where snapshots of vaults lie, how one becomes a file, and which go.
//!
//! Owns names, order of writes and room. A snapshot is there once its manifest is: the file gets its name before. Must
//! never touch a file that is not named as these are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use ledger_client::{Measure, Measured, SnapshotManifest};
use ledger_types::VaultRef;
use parking_lot::Mutex;

use super::{KEPT_PER_VAULT, VaultSnapshotError};

/// Directory of all snapshots of vaults inside the data directory.
const DIRECTORY: &str = "vault-snapshots";
/// What the name of a file ends with while it is written.
const PART: &str = ".part";
/// What the name of a snapshot ends with.
const LINES: &str = ".jsonl";
/// Bytes that are written before they are made durable, so that the node's log never waits behind many of them.
const SYNC_BYTES: u64 = 8 << 20;
/// Bytes written at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Most bytes of a disk that snapshots must leave free.
const RESERVE_BYTES_MAX: u64 = 4 << 30;

/// Bytes that must stay free on a disk of so many: a tenth, at most 4 GiB.
pub(super) fn reserve_bytes(total: u64) -> u64 {
    (total / 10).min(RESERVE_BYTES_MAX)
}

/// The directory.
#[derive(Debug)]
pub(super) struct Files {
    data: PathBuf,
    root: PathBuf,
    /// From the size of the disk, what must stay free of it.
    reserve: fn(u64) -> u64,
    /// Held while snapshots come and go, never while one is written.
    changing: Mutex<()>,
}

type Outcome<T> = Result<T, VaultSnapshotError>;

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultSnapshotError {
    let path = path.to_owned();
    move |source| VaultSnapshotError::File { doing, path, source }
}

impl Files {
    pub(super) fn new(data: &Path, reserve: fn(u64) -> u64) -> Files {
        // Paths are told to operators, whose working directory is another.
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        Files { root: data.join(DIRECTORY), data, reserve, changing: Mutex::new(()) }
    }

    fn folder(&self, vault: VaultRef) -> PathBuf {
        self.root.join(format!("{}-{}", vault.namespace, vault.vault))
    }

    /// Where the snapshot of a height lies, if there is one.
    pub(super) fn path(&self, vault: VaultRef, height: u64) -> PathBuf {
        self.folder(vault).join(file_name(vault, height))
    }

    /// Begins a file. Errors: the disk is too full.
    pub(super) fn grow<'a>(
        &'a self,
        vault: VaultRef,
        height: u64,
        go_on: &'a dyn Fn() -> bool,
    ) -> Outcome<Growing<'a>> {
        let folder = self.folder(vault);
        if !folder.is_dir() {
            fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
            sync_directory(&self.root)?;
            sync_directory(&self.data)?;
        }
        self.check_room()?;
        let path = self.path(vault, height);
        let part = Part(beside(&path, PART));
        let file = File::create(&part.0).map_err(failed("make", &part.0))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, Measured::new(file));
        Ok(Growing { out, part, path, vault, synced: 0, files: self, go_on })
    }

    fn check_room(&self) -> Outcome<()> {
        let told = rustix::fs::statvfs(&self.root).map_err(|error| error.into());
        let told = told.map_err(failed("look at the disk of", &self.root))?;
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        let (free, min) = (bytes(told.f_bavail), (self.reserve)(bytes(told.f_blocks)));
        if free < min { Err(VaultSnapshotError::DiskSpace { free, min }) } else { Ok(()) }
    }

    /// What a failed write means: a disk that is full is told as such.
    fn write_failed(&self, path: &Path, error: io::Error) -> VaultSnapshotError {
        let is_full = error.kind() == io::ErrorKind::StorageFull;
        match self.check_room() {
            Err(full @ VaultSnapshotError::DiskSpace { .. }) if is_full => full,
            _ => failed("write", path)(error),
        }
    }

    /// Gives a written file its name and a manifest, unless `is_wanted` objects, and removes the vault's snapshots that
    /// are one too many. Whoever removes a vault's files does so before `is_wanted` is asked, or after this.
    pub(super) fn publish(
        &self,
        written: Written,
        manifest: &SnapshotManifest,
        is_wanted: &dyn Fn() -> Outcome<()>,
    ) -> Outcome<()> {
        let Written { part, path, vault, .. } = written;
        let manifest_path = SnapshotManifest::path(&path);
        let manifest_part = Part(beside(&manifest_path, PART));
        let made = File::create(&manifest_part.0).and_then(|mut file| {
            file.write_all(manifest.to_json().as_bytes())?;
            file.sync_all()
        });
        // The vault may have gone with its directory.
        let is_alone = self.changing.lock();
        is_wanted()?;
        made.map_err(|error| self.write_failed(&manifest_part.0, error))?;
        fs::rename(&part.0, &path).map_err(failed("name", &path))?;
        let named = fs::rename(&manifest_part.0, &manifest_path);
        if let Err(error) = named {
            // Without a manifest it counts for nothing.
            let _ = fs::remove_file(&path);
            return Err(failed("name", &manifest_path)(error));
        }
        let folder = self.folder(vault);
        sync_directory(&folder)?;
        prune(&folder, vault).map_err(failed("remove old snapshots in", &folder))?;
        drop(is_alone);
        Ok(())
    }

    /// Removes what is no whole snapshot, and tells how many files that were.
    pub(super) fn remove_leftovers(&self) -> io::Result<usize> {
        let _alone = self.changing.lock();
        let mut count = 0;
        for (vault, folder) in self.vaults()? {
            for path in leftovers(&folder, vault)? {
                fs::remove_file(path)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Removes everything of the vaults that are to go, and tells which had something.
    pub(super) fn remove_vaults(
        &self,
        is_to_go: &dyn Fn(VaultRef) -> bool,
    ) -> io::Result<Vec<VaultRef>> {
        let _alone = self.changing.lock();
        let mut removed = Vec::new();
        for (vault, folder) in self.vaults()? {
            if is_to_go(vault) {
                fs::remove_dir_all(folder)?;
                removed.push(vault);
            }
        }
        if !removed.is_empty() {
            File::open(&self.root)?.sync_all()?;
        }
        Ok(removed)
    }

    /// The vaults that have a directory, with it.
    fn vaults(&self) -> io::Result<Vec<(VaultRef, PathBuf)>> {
        let named = |path: PathBuf| {
            let (namespace, vault) = path.file_name()?.to_str()?.split_once('-')?;
            let vault = VaultRef::new(namespace.parse().ok()?, vault.parse().ok()?);
            Some((vault, path))
        };
        Ok(entries(&self.root)?.into_iter().filter_map(named).collect())
    }
}

/// A file that is written, and gone at the end unless it got another name.
#[derive(Debug)]
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It is not there any more if all went well; a leftover goes with the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// A snapshot while it is written.
pub(super) struct Growing<'a> {
    out: BufWriter<Measured<File>>,
    part: Part,
    path: PathBuf,
    vault: VaultRef,
    synced: u64,
    files: &'a Files,
    go_on: &'a dyn Fn() -> bool,
}

/// A snapshot that is written and durable, and has no name yet.
#[derive(Debug)]
pub(super) struct Written {
    part: Part,
    path: PathBuf,
    vault: VaultRef,
    measure: Measure,
}

impl Written {
    /// Length and digest.
    pub(super) fn measure(&self) -> Measure {
        self.measure.clone()
    }
}

impl Growing<'_> {
    /// Writes some items. Errors: it is time to stop, or the disk is too full.
    pub(super) fn page(
        &mut self,
        write: impl FnOnce(&mut BufWriter<Measured<File>>) -> io::Result<()>,
    ) -> Outcome<()> {
        #[cfg(feature = "failpoints")]
        fail::fail_point!("vault_snapshot::page");
        if !(self.go_on)() {
            return Err(VaultSnapshotError::Stopped);
        }
        self.wrote(write)?;
        if self.out.get_ref().measure().bytes() - self.synced >= SYNC_BYTES {
            self.wrote(|out| {
                out.flush()?;
                out.get_ref().get_ref().sync_data()
            })?;
            self.synced = self.out.get_ref().measure().bytes();
            self.files.check_room()?;
        }
        Ok(())
    }

    fn wrote(
        &mut self,
        write: impl FnOnce(&mut BufWriter<Measured<File>>) -> io::Result<()>,
    ) -> Outcome<()> {
        write(&mut self.out).map_err(|error| self.files.write_failed(&self.part.0, error))
    }

    /// Makes all of it durable.
    pub(super) fn finish(mut self) -> Outcome<Written> {
        self.wrote(|out| {
            out.flush()?;
            out.get_ref().get_ref().sync_all()
        })?;
        let measure = self.out.get_ref().measure().clone();
        Ok(Written { part: self.part, path: self.path, vault: self.vault, measure })
    }
}

fn file_name(vault: VaultRef, height: u64) -> String {
    format!("vault-{}-{}-height-{height}{LINES}", vault.namespace, vault.vault)
}

/// The height of a snapshot by its file's name.
fn height_of(vault: VaultRef, name: &str) -> Option<u64> {
    let height = name.strip_suffix(LINES)?.rsplit_once("-height-")?.1.parse().ok()?;
    (file_name(vault, height) == name).then_some(height)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What is in a directory; nothing if there is none.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

/// The files of a vault by height, with whether each has its manifest.
fn listed(folder: &Path, vault: VaultRef) -> io::Result<BTreeMap<u64, (PathBuf, bool)>> {
    let mut found = BTreeMap::new();
    for path in entries(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(height) = name.and_then(|name| height_of(vault, name)) {
            let is_whole = SnapshotManifest::path(&path).exists();
            found.insert(height, (path, is_whole));
        }
    }
    Ok(found)
}

/// Files that belong to no whole snapshot.
fn leftovers(folder: &Path, vault: VaultRef) -> io::Result<Vec<PathBuf>> {
    let snapshots = listed(folder, vault)?;
    let mut found: Vec<PathBuf> = snapshots
        .values()
        .filter(|(_, is_whole)| !is_whole)
        .map(|(path, _)| path.clone())
        .collect();
    for path in entries(folder)? {
        let is_part = path.to_str().is_some_and(|path| path.ends_with(PART));
        // A manifest alone: what it is of was being removed.
        let is_manifest = path.extension().is_some_and(|kind| kind == "manifest");
        if is_part || (is_manifest && !path.with_extension("").exists()) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes all but the newest snapshots of a vault.
fn prune(folder: &Path, vault: VaultRef) -> io::Result<()> {
    let snapshots = listed(folder, vault)?;
    for (path, _) in snapshots.into_values().rev().skip(KEPT_PER_VAULT) {
        // A file without a manifest counts for nothing, so a crash in between leaves nothing that seems whole.
        let manifest = SnapshotManifest::path(&path);
        if manifest.exists() {
            fs::remove_file(manifest)?;
        }
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Makes the names in a directory durable.
fn sync_directory(path: &Path) -> Outcome<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ledger_types::{NamespaceId, VaultId};

    use super::*;

    const VAULT: VaultRef = VaultRef { namespace: NamespaceId(4), vault: VaultId(2) };

    struct Bench {
        files: Files,
        _data: tempfile::TempDir,
    }

    fn bench(reserve: fn(u64) -> u64) -> Bench {
        let data = tempfile::tempdir().unwrap();
        Bench { files: Files::new(data.path(), reserve), _data: data }
    }

    impl Bench {
        fn write(&self, height: u64, is_wanted: &dyn Fn() -> Outcome<()>) -> Outcome<()> {
            let mut growing = self.files.grow(VAULT, height, &|| true)?;
            growing.page(|out| out.write_all(b"{}\n"))?;
            let written = growing.finish()?;
            let manifest = SnapshotManifest::of(written.measure());
            self.files.publish(written, &manifest, is_wanted)
        }

        fn names(&self) -> Vec<String> {
            let paths = entries(&self.files.folder(VAULT)).unwrap();
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut names: Vec<String> = paths.iter().map(name).collect();
            names.sort();
            names
        }
    }

    fn pair(height: u64) -> [String; 2] {
        let name = file_name(VAULT, height);
        [name.clone(), format!("{name}.manifest")]
    }

    #[test]
    fn the_newest_snapshots_of_a_vault_stay() {
        let bench = bench(|_| 0);
        for height in [9, 10, 2, 11, 100] {
            bench.write(height, &|| Ok(())).unwrap();
            let path = bench.files.path(VAULT, height);
            SnapshotManifest::beside(&path).unwrap().unwrap().check(&path).unwrap();
        }
        // By number, not by name.
        assert_eq!(bench.names(), [pair(10), pair(100), pair(11)].concat());
    }

    #[test]
    fn nothing_is_left_of_a_snapshot_that_ends_early() {
        let bench = bench(|_| 0);
        let refused = bench.write(1, &|| Err(VaultSnapshotError::Deleted));
        assert!(matches!(refused, Err(VaultSnapshotError::Deleted)));
        assert!(bench.names().is_empty());
        let pages = Cell::new(0);
        let go_on = || pages.replace(pages.get() + 1) < 2;
        let mut growing = bench.files.grow(VAULT, 1, &go_on).unwrap();
        for _ in 0..2 {
            growing.page(|out| out.write_all(b"{}\n")).unwrap();
        }
        let stopped = growing.page(|out| out.write_all(b"{}\n"));
        assert!(matches!(stopped, Err(VaultSnapshotError::Stopped)));
        assert_eq!(bench.names().len(), 1);
        drop(growing);
        assert!(bench.names().is_empty());
    }

    #[test]
    fn a_full_disk_refuses_and_keeps_what_is_there() {
        let mut bench = bench(|_| 0);
        bench.write(1, &|| Ok(())).unwrap();
        bench.files.reserve = |_| u64::MAX;
        let refused = bench.write(2, &|| Ok(()));
        assert!(matches!(refused, Err(VaultSnapshotError::DiskSpace { min: u64::MAX, .. })));
        assert_eq!(bench.names(), pair(1));
        // It may become full while a snapshot is written.
        bench.files.reserve = |_| 0;
        let mut growing = bench.files.grow(VAULT, 2, &|| true).unwrap();
        let page = vec![b' '; SYNC_BYTES as usize];
        growing.page(|out| out.write_all(&page)).unwrap();
        assert_eq!(growing.synced, SYNC_BYTES);
        let full = growing.page(|_| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(full, Err(VaultSnapshotError::File { .. })), "there is room: {full:?}");
        drop(growing);
        assert_eq!(reserve_bytes(1 << 30), (1 << 30) / 10);
        assert_eq!(reserve_bytes(1 << 50), RESERVE_BYTES_MAX);
    }

    #[test]
    fn what_is_not_whole_goes_at_the_start_and_nothing_else() {
        let bench = bench(|_| 0);
        assert_eq!(bench.files.remove_leftovers().unwrap(), 0);
        bench.write(7, &|| Ok(())).unwrap();
        let folder = bench.files.folder(VAULT);
        let kept = [pair(7).to_vec(), vec!["notes.txt".to_owned()]].concat();
        fs::write(folder.join("notes.txt"), "an operator's").unwrap();
        let [lines, manifest] = pair(8);
        for name in [format!("{lines}.part"), lines, format!("{manifest}.part")] {
            fs::write(folder.join(name), "half").unwrap();
        }
        fs::write(folder.join(&pair(9)[1]), "{}").unwrap();
        fs::create_dir(bench.files.root.join("elsewhere")).unwrap();
        assert_eq!(bench.files.remove_leftovers().unwrap(), 4);
        let mut expected = kept;
        expected.sort();
        assert_eq!(bench.names(), expected);
    }

    #[test]
    fn the_files_of_vaults_that_go_are_removed_and_one_that_is_written_is_not_shown() {
        let bench = bench(|_| 0);
        bench.write(7, &|| Ok(())).unwrap();
        assert!(bench.files.remove_vaults(&|_| false).unwrap().is_empty());
        assert_eq!(bench.names(), pair(7));
        let growing = bench.files.grow(VAULT, 8, &|| true).unwrap();
        let written = growing.finish().unwrap();
        assert_eq!(bench.files.remove_vaults(&|vault| vault == VAULT).unwrap(), [VAULT]);
        let manifest = SnapshotManifest::of(written.measure());
        let gone = || Err(VaultSnapshotError::Deleted);
        let refused = bench.files.publish(written, &manifest, &gone);
        assert!(matches!(refused, Err(VaultSnapshotError::Deleted)), "{refused:?}");
        assert!(!bench.files.folder(VAULT).exists());
    }
}
