//! A snapshot's files: where they lie, how records are put into them and read back in order.
//!
//! Owns the directories' layout. The framing of records is in `ledger_shard_core::records`. Must never judge a key or a
//! value.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use ledger_shard_core::records::{RecordReader, record_header};
use ledger_shard_core::snapshot::{
    FILE_BYTES_MAX, RECORD_HEADER_LEN, RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, SnapshotFile,
    SnapshotId,
};
use ledger_shard_core::view::Family;
use ledger_types::Digest;
use sha2::{Digest as _, Sha256};

use super::error::SnapshotError;
use super::fail_point;

/// Directory of all snapshots inside the data directory.
pub(super) const DIRECTORY: &str = "snapshots";
/// Directory of the snapshots that were cut here.
pub(super) const OUT: &str = "out";
/// Directory of the snapshots that are being received.
pub(super) const IN: &str = "in";
/// File with a received snapshot's manifest, beside its files.
pub(super) const MANIFEST: &str = "manifest";
/// Bytes after which a file is closed and the next one begun.
pub(super) const FILE_BYTES_AIM: u64 = 64 << 20;
/// Bytes read or written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Directory of a snapshot that is being received.
pub(super) fn incoming_directory(data: &Path, id: SnapshotId) -> PathBuf {
    data.join(DIRECTORY).join(IN).join(id.to_string())
}

/// Path of a file of a snapshot.
pub(super) fn file_path(directory: &Path, file: u32) -> PathBuf {
    directory.join(file.to_string())
}

/// Removes a directory with all that is in it; one that is not there is as good.
pub(super) fn remove_directory(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(SnapshotError::file("sync", path))
}

/// SHA-256 of what went through a hasher.
pub(super) fn digest_of(hasher: Sha256) -> Digest {
    Digest(hasher.finalize().into())
}

/// Puts records into numbered files of bounded length, a family after the other.
pub(super) struct RecordWriter<'a> {
    directory: &'a Path,
    bytes_aim: u64,
    open: Option<OpenFile>,
    files: Vec<SnapshotFile>,
}

struct OpenFile {
    path: PathBuf,
    out: BufWriter<File>,
    family: Family,
    rows: u64,
    bytes: u64,
    hasher: Sha256,
}

impl<'a> RecordWriter<'a> {
    /// Writes into a directory that exists and is empty.
    pub(super) fn new(directory: &'a Path, bytes_aim: u64) -> RecordWriter<'a> {
        RecordWriter { directory, bytes_aim, open: None, files: Vec::new() }
    }

    /// Adds a record. Keys ascend within a family, and families come one after the other.
    pub(super) fn push(
        &mut self,
        family: Family,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), SnapshotError> {
        let bytes = (RECORD_HEADER_LEN + key.len() + value.len()) as u64;
        let fits = key.len() <= RECORD_KEY_BYTES_MAX && value.len() <= RECORD_VALUE_BYTES_MAX;
        assert!(fits, "rows are far smaller than what a record holds");
        let aim = self.bytes_aim;
        let is_full = |open: &OpenFile| open.family != family || open.bytes + bytes > aim;
        if self.open.as_ref().is_some_and(is_full) {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(OpenFile::create(self.directory, self.files.len(), family)?),
        };
        open.push(key, value).map_err(SnapshotError::file("write", &open.path))
    }

    /// Ends the last file and tells of all. Everything is durable.
    pub(super) fn finish(mut self) -> Result<Vec<SnapshotFile>, SnapshotError> {
        self.close()?;
        sync_directory(self.directory)?;
        Ok(self.files)
    }

    fn close(&mut self) -> Result<(), SnapshotError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let written = open.out.flush().and_then(|()| open.out.get_ref().sync_all());
        written.map_err(SnapshotError::file("write", &open.path))?;
        assert!(open.bytes <= FILE_BYTES_MAX, "a file has its aim or one record");
        let OpenFile { family, rows, bytes, hasher, .. } = open;
        self.files.push(SnapshotFile { family, rows, bytes, digest: digest_of(hasher) });
        fail_point!("snapshot::cut_file");
        Ok(())
    }
}

impl OpenFile {
    fn create(directory: &Path, number: usize, family: Family) -> Result<OpenFile, SnapshotError> {
        let number = u32::try_from(number).expect("the number of files is limited");
        let path = file_path(directory, number);
        let file = OpenOptions::new().create_new(true).write(true).open(&path);
        let file = file.map_err(SnapshotError::file("create", &path))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(OpenFile { path, out, family, rows: 0, bytes: 0, hasher: Sha256::new() })
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let header = record_header(key.len(), value.len());
        for part in [&header[..], key, value] {
            self.hasher.update(part);
            self.out.write_all(part)?;
            self.bytes += part.len() as u64;
        }
        self.rows += 1;
        Ok(())
    }
}

/// A file that is read and hashed at once.
pub(super) struct Hashing {
    input: BufReader<File>,
    hasher: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

/// Reads a file's records in order, and hashes every byte on the way.
pub(super) type RecordFile = RecordReader<Hashing>;

/// Opens a file that should have this many bytes.
pub(super) fn open_records(path: &Path, bytes: u64) -> io::Result<RecordFile> {
    let input = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    Ok(RecordReader::new(Hashing { input, hasher: Sha256::new() }, bytes))
}

/// SHA-256 of all that was read.
pub(super) fn finish_records(file: RecordFile) -> Digest {
    digest_of(file.into_input().hasher)
}

/// SHA-256 of a file's first `bytes` bytes, which must be there.
pub(super) fn hash_prefix(path: &Path, bytes: u64) -> io::Result<Sha256> {
    let mut input = File::open(path)?.take(bytes);
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut hasher, mut left) = (Sha256::new(), bytes);
    while left > 0 {
        let read = input.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(hasher)
}
