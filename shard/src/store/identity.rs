//! Who a data directory is: its lock, its identity file, its node key, and the rows that repeat them.
//!
//! Owns every file beside the database. Must never overwrite an identity or a key that is there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ledger_types::StoreId;
use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::OpenError;

/// Version of everything under a data directory that this build writes, and the highest it reads.
pub const FORMAT_VERSION: u32 = 1;

const LOCK_FILE: &str = "ledger.lock";
const IDENTITY_FILE: &str = "ledger.identity";
const KEY_FILE: &str = "node.key";
const IDENTITY_MAGIC: &str = "ledger-store";
/// An identity is one short line; anything longer is not one.
const IDENTITY_BYTES_MAX: u64 = 256;

/// Seed of the node's signing key. Its bytes are shown by no `Debug`.
#[derive(Clone)]
pub struct NodeKeySeed(pub [u8; 32]);

impl std::fmt::Debug for NodeKeySeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeySeed(..)")
    }
}

/// Makes the data directory if need be and takes its lock, which is held as long as the file is open.
pub(super) fn lock(directory: &Path) -> Result<File, OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(directory);
    made.map_err(|source| OpenError::file("create the data directory", directory, source))?;
    let path = directory.join(LOCK_FILE);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| OpenError::file("open the lock file", &path, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(OpenError::Locked { directory: directory.to_owned() }),
        Err(errno) => Err(OpenError::file("lock", &path, errno.into())),
    }
}

/// Reads the identity file; `None` if there is none.
pub(super) fn read(directory: &Path) -> Result<Option<StoreId>, OpenError> {
    let path = directory.join(IDENTITY_FILE);
    let Some(bytes) = read_bounded(&path, IDENTITY_BYTES_MAX)? else { return Ok(None) };
    let damaged = || OpenError::Damaged { what: "identity file", path: path.clone() };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    let mut words = text.strip_suffix('\n').ok_or_else(damaged)?.split(' ');
    if words.next() != Some(IDENTITY_MAGIC) {
        return Err(damaged());
    }
    let version = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    check_format(version)?;
    match (words.next().and_then(StoreId::from_hex), words.next()) {
        (Some(store), None) => Ok(Some(store)),
        _ => Err(damaged()),
    }
}

/// Writes the identity file, durably, as the last act of making a store.
pub(super) fn write(directory: &Path, store: StoreId) -> Result<(), OpenError> {
    let text = format!("{IDENTITY_MAGIC} {FORMAT_VERSION} {store}\n");
    write_new(directory, IDENTITY_FILE, text.as_bytes(), 0o640)
}

/// Refuses a format that a later build wrote.
pub(super) fn check_format(found: u32) -> Result<(), OpenError> {
    if found > FORMAT_VERSION {
        return Err(OpenError::NewerFormat { found, supported: FORMAT_VERSION });
    }
    Ok(())
}

/// Reads the node key's seed; `None` if there is no key file.
pub(super) fn read_key(directory: &Path) -> Result<Option<NodeKeySeed>, OpenError> {
    let path = directory.join(KEY_FILE);
    let Some(bytes) = read_bounded(&path, 64)? else { return Ok(None) };
    match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(seed) => Ok(Some(NodeKeySeed(seed))),
        Err(_) => Err(OpenError::Damaged { what: "node key", path }),
    }
}

/// Draws a node key's seed and writes it, readable by the owner alone.
pub(super) fn create_key(directory: &Path) -> Result<NodeKeySeed, OpenError> {
    let seed = random_bytes::<32>()?;
    write_new(directory, KEY_FILE, &seed, 0o600)?;
    Ok(NodeKeySeed(seed))
}

/// Draws the id of a new store.
pub(super) fn random_store_id() -> Result<StoreId, OpenError> {
    random_bytes::<16>().map(StoreId)
}

fn random_bytes<const N: usize>() -> Result<[u8; N], OpenError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| OpenError::File {
        doing: "draw random bytes",
        path: "/dev/urandom".into(),
        source: io::Error::other(error),
    })?;
    Ok(bytes)
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, OpenError> {
    let fault = |source| OpenError::file("read", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).map_err(fault)?;
    Ok(Some(bytes))
}

/// Writes a file that must not be half there after a crash: a synced temporary file, a rename, a
/// synced directory.
fn write_new(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), OpenError> {
    let path = directory.join(name);
    let temporary = directory.join(format!("{name}.new"));
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|source| OpenError::file("write", &path, source))
}
