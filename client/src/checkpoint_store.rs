//! What the client remembers of each log: the newest checkpoint that it has checked.
//!
//! With a state directory a checkpoint is on disk, synced, before the read that brought it returns, and
//! several processes may share the directory. Must never replace a checkpoint unless the new one was
//! proved to continue exactly the one that is replaced; proving is the caller's work.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_proof::{CheckedNotes, Cosignature, Fork, KnownCheckpoint, hash};
use ledger_types::{Digest, VaultRef};
use parking_lot::Mutex;

use crate::error::ClientError;

/// Logs held in memory; beyond it those that are not in use are dropped and read from disk again.
const LOGS_MAX: usize = 16_384;
/// Checked sizes of a log that are remembered besides the newest.
const HISTORY_MAX: usize = 64;
/// Checked notes of a log that are remembered. Readers of one log mostly see one note at a time.
const NOTES_MAX: usize = 8;
/// Largest file that is taken for a checkpoint, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

fn same_log_state(left: &KnownCheckpoint, right: &KnownCheckpoint) -> bool {
    (&left.origin, left.size, left.root) == (&right.origin, right.size, right.root)
}

/// What became of a checkpoint that was to be remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remembered {
    /// It is remembered, or was already.
    Yes,
    /// Another read came first, with a checkpoint that this one was not compared with.
    Raced,
}

/// All logs.
#[derive(Debug)]
pub(crate) struct CheckpointStore {
    directory: Option<PathBuf>,
    logs: Mutex<HashMap<String, Arc<LogMemory>>>,
}

/// One vault's log, through all its epochs.
#[derive(Debug)]
pub(crate) struct LogMemory {
    name: String,
    /// Held shared by a read while it is under way, and alone by one that was overtaken before.
    pub(crate) gate: tokio::sync::RwLock<()>,
    file: Option<PathBuf>,
    /// Held while the newest checkpoint is replaced, so that `state` is never held across disk writes.
    replacing: Mutex<()>,
    state: Mutex<LogState>,
    /// Notes of this log whose signatures held.
    pub(crate) notes: NoteMemory,
}

/// The last notes of a log whose signatures held, with the cosignatures that were valid.
#[derive(Debug, Default)]
pub(crate) struct NoteMemory {
    checked: Mutex<VecDeque<(Digest, Vec<Cosignature>)>>,
}

impl CheckedNotes for NoteMemory {
    fn recall(&self, question: &Digest) -> Option<Vec<Cosignature>> {
        let checked = self.checked.lock();
        checked.iter().find(|(of, _)| of == question).map(|(_, valid)| valid.clone())
    }

    fn keep(&self, question: Digest, valid: &[Cosignature]) {
        let mut checked = self.checked.lock();
        if checked.iter().any(|(of, _)| *of == question) {
            return;
        }
        checked.truncate(NOTES_MAX - 1);
        checked.push_front((question, valid.to_vec()));
    }
}

#[derive(Debug, Default)]
struct LogState {
    loaded: bool,
    known: Option<KnownCheckpoint>,
    /// States of the log before the known one; each was proved to continue in the next.
    history: VecDeque<(u64, Digest)>,
}

impl CheckpointStore {
    /// Opens the directory, which is made if it is missing.
    pub(crate) fn open(directory: Option<&Path>) -> Result<CheckpointStore, ClientError> {
        if let Some(directory) = directory {
            fs::create_dir_all(directory).map_err(|source| state_error(directory, source))?;
        }
        let directory = directory.map(Path::to_owned);
        Ok(CheckpointStore { directory, logs: Mutex::new(HashMap::new()) })
    }

    /// What is remembered of the log of a vault. It is kept under the origin without its log epoch, so
    /// that a new epoch is noticed instead of looking like a log never seen.
    pub(crate) fn log(&self, domain: &str, vault: VaultRef) -> Arc<LogMemory> {
        let name = log_name(domain, vault);
        let mut logs = self.logs.lock();
        if let Some(log) = logs.get(&name) {
            return log.clone();
        }
        if logs.len() >= LOGS_MAX {
            // Without a directory this memory is all there is, so only what disk can give back goes.
            logs.retain(|_, log| log.file.is_none() || Arc::strong_count(log) > 1);
        }
        let stem = hash::plain(name.as_bytes());
        let file = self.directory.as_ref().map(|path| path.join(format!("{stem}.checkpoint")));
        let gate = tokio::sync::RwLock::new(());
        let state = Mutex::new(LogState::default());
        let replacing = Mutex::new(());
        let notes = NoteMemory::default();
        let log = Arc::new(LogMemory { name: name.clone(), gate, file, replacing, state, notes });
        logs.insert(name, log.clone());
        log
    }

    /// Keeps both notes of a fork and returns where. Without a directory they are kept nowhere.
    pub(crate) fn keep_evidence(&self, fork: &Fork) -> Result<Option<PathBuf>, ClientError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let mut bytes = fork.known.note.clone();
        bytes.push(b'\n');
        bytes.extend_from_slice(&fork.offered.note);
        let path = directory.join(format!("{}.fork", hash::plain(&bytes)));
        write_atomically(&path, &bytes)?;
        Ok(Some(path))
    }
}

impl LogMemory {
    /// The newest checkpoint, from memory or disk.
    pub(crate) fn known(&self) -> Result<Option<KnownCheckpoint>, ClientError> {
        let mut state = self.state.lock();
        if !state.loaded {
            state.known = self.load()?;
            state.loaded = true;
        }
        Ok(state.known.clone())
    }

    /// True if this state of the log is one that was proved to continue in the known one.
    pub(crate) fn is_ancestor(&self, size: u64, root: &Digest) -> bool {
        let state = self.state.lock();
        let newest = state.known.as_ref();
        let newest = newest.is_some_and(|known| (known.size, known.root) == (size, *root));
        newest || state.history.iter().any(|past| *past == (size, *root))
    }

    /// Remembers `new`, which was proved to continue `base` (or is the first). Blocks on the disk if the
    /// log has grown and there is a state directory.
    pub(crate) fn remember(
        &self,
        base: Option<&KnownCheckpoint>,
        new: KnownCheckpoint,
    ) -> Result<Remembered, ClientError> {
        let continues = |known: &Option<KnownCheckpoint>| match (known, base) {
            (None, None) => true,
            (Some(known), Some(base)) => same_log_state(known, base),
            _ => false,
        };
        let unchanged = |state: &LogState| {
            state.known.as_ref().is_some_and(|known| same_log_state(known, &new))
        };
        if unchanged(&self.state.lock()) {
            return Ok(Remembered::Yes);
        }
        let _replacing = self.replacing.lock();
        {
            let state = self.state.lock();
            if unchanged(&state) {
                return Ok(Remembered::Yes);
            }
            if !continues(&state.known) {
                return Ok(Remembered::Raced);
            }
        }
        if let Some(file) = &self.file {
            let _lock = lock_directory(file)?;
            let on_disk = self.load()?;
            let already = on_disk.as_ref().is_some_and(|disk| same_log_state(disk, &new));
            if !already && !continues(&on_disk) {
                let mut state = self.state.lock();
                state.loaded = true;
                state.known = on_disk;
                state.history.clear();
                return Ok(Remembered::Raced);
            }
            if !already {
                write_atomically(file, &new.encode())?;
            }
        }
        let mut state = self.state.lock();
        state.loaded = true;
        if let Some(past) = state.known.replace(new) {
            if state.history.len() >= HISTORY_MAX {
                state.history.pop_front();
            }
            state.history.push_back((past.size, past.root));
        }
        Ok(Remembered::Yes)
    }

    fn load(&self) -> Result<Option<KnownCheckpoint>, ClientError> {
        let Some(path) = &self.file else { return Ok(None) };
        let Some(bytes) = read_bounded(path, FILE_BYTES_MAX)? else { return Ok(None) };
        let known = KnownCheckpoint::decode(&bytes).map_err(|error| error.to_string());
        let known =
            known.and_then(|known| match log_name(&known.origin.domain, known.origin.vault) {
                name if name == self.name => Ok(known),
                name => Err(format!("it is about {name}")),
            });
        known.map(Some).map_err(|what| ClientError::StateDamaged { path: path.clone(), what })
    }
}

/// Keeps other processes that share the directory out until the returned file is dropped.
fn lock_directory(file: &Path) -> Result<File, ClientError> {
    let path = file.with_file_name("lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = open.and_then(|lock| lock.lock().map(|()| lock));
    lock.map_err(|source| state_error(&path, source))
}

/// Reads a whole file; `None` if there is none. Errors: longer than `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, ClientError> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(state_error(path, error)),
    };
    if length > max {
        let what = format!("it has {length} bytes, at most {max} are read");
        return Err(ClientError::StateDamaged { path: path.to_owned(), what });
    }
    fs::read(path).map(Some).map_err(|source| state_error(path, source))
}

/// Replaces a file so that it holds either all of the old or all of the new bytes after a crash.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput.into());
    let name = name.map_err(|source| state_error(path, source))?;
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let unique = format!("{}.{:016x}.new", name.to_string_lossy(), rand::random::<u64>());
    let fresh = directory.join(unique);
    let written = File::create_new(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // The half-written file is of no use; failing to remove it changes nothing about the error.
        let _ = fs::remove_file(&fresh);
    }
    written.map_err(|source| state_error(path, source))
}

/// The origin of a vault's log without its epoch.
fn log_name(domain: &str, vault: VaultRef) -> String {
    format!("{domain}/ns/{}/vault/{}", vault.namespace, vault.vault)
}

fn state_error(path: &Path, source: std::io::Error) -> ClientError {
    ClientError::State { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use ledger_proof::Origin;

    use super::*;

    const VAULT: VaultRef =
        VaultRef { namespace: ledger_types::NamespaceId(1), vault: ledger_types::VaultId(2) };

    fn known(size: u8) -> KnownCheckpoint {
        let origin = Origin { domain: "a".to_owned(), vault: VAULT, log_epoch: 0 };
        let root = Digest([size; 32]);
        KnownCheckpoint { origin, size: size.into(), root, note: vec![b'n', size] }
    }

    #[test]
    fn survives_the_process_and_refuses_damage() {
        let directory = tempfile::tempdir().unwrap();
        let open = || CheckpointStore::open(Some(directory.path())).unwrap().log("a", VAULT);
        let first = open();
        assert_eq!(first.known().unwrap(), None);
        assert_eq!(first.remember(None, known(3)).unwrap(), Remembered::Yes);
        assert_eq!(open().known().unwrap(), Some(known(3)));
        let store = CheckpointStore::open(Some(directory.path())).unwrap();
        let other = store.log("b", VAULT);
        assert_eq!(other.known().unwrap(), None);
        let file = open().file.clone().unwrap();
        fs::copy(&file, other.file.as_ref().unwrap()).unwrap();
        let moved = CheckpointStore::open(Some(directory.path())).unwrap().log("b", VAULT);
        assert!(matches!(moved.known(), Err(ClientError::StateDamaged { .. })));
        fs::write(file, b"").unwrap();
        assert!(matches!(open().known(), Err(ClientError::StateDamaged { .. })));
    }

    #[test]
    fn a_read_that_was_overtaken_does_not_win() {
        let log = CheckpointStore::open(None).unwrap().log("a", VAULT);
        log.remember(None, known(3)).unwrap();
        let base = known(3);
        assert_eq!(log.remember(Some(&base), known(5)).unwrap(), Remembered::Yes);
        assert_eq!(log.remember(Some(&base), known(4)).unwrap(), Remembered::Raced);
        assert_eq!(log.known().unwrap(), Some(known(5)));
        assert!(log.is_ancestor(3, &Digest([3; 32])) && log.is_ancestor(5, &Digest([5; 32])));
        assert!(!log.is_ancestor(4, &Digest([4; 32])) && !log.is_ancestor(3, &Digest([5; 32])));
    }

    #[test]
    fn another_process_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || CheckpointStore::open(Some(directory.path())).unwrap().log("a", VAULT);
        let (first, second) = (open(), open());
        assert_eq!((first.known().unwrap(), second.known().unwrap()), (None, None));
        assert_eq!(first.remember(None, known(3)).unwrap(), Remembered::Yes);
        assert_eq!(second.remember(None, known(2)).unwrap(), Remembered::Raced);
        assert_eq!(second.known().unwrap(), Some(known(3)));
        let base = known(3);
        assert_eq!(second.remember(Some(&base), known(7)).unwrap(), Remembered::Yes);
        assert_eq!(first.remember(Some(&base), known(7)).unwrap(), Remembered::Yes);
        assert_eq!(open().known().unwrap(), Some(known(7)));
    }

    #[test]
    fn evidence_holds_both_notes() {
        let directory = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(Some(directory.path())).unwrap();
        let fork = Fork { known: known(3), offered: known(4), path_error: None };
        let path = store.keep_evidence(&fork).unwrap().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"n\x03\nn\x04");
    }
}
