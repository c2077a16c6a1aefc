//! A snapshot's files: where they lie, how records are put into them and read back in order.
//!
//! Owns the directories' layout and the framing. Must never judge a key or a value.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

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

/// The bytes before a record's key.
pub(super) fn record_header(key_len: usize, value_len: usize) -> [u8; RECORD_HEADER_LEN] {
    let mut header = [0; RECORD_HEADER_LEN];
    header[..2].copy_from_slice(&(key_len as u16).to_be_bytes());
    header[2..].copy_from_slice(&(value_len as u32).to_be_bytes());
    header
}

/// Lengths of key and value in the bytes before a record's key; `None` if the value's is over its limit.
pub(super) fn record_lengths(header: &[u8; RECORD_HEADER_LEN]) -> Option<(usize, usize)> {
    let [a, b, c, d, e, f] = *header;
    let key_len = usize::from(u16::from_be_bytes([a, b]));
    let value_len = u32::from_be_bytes([c, d, e, f]) as usize;
    (value_len <= RECORD_VALUE_BYTES_MAX).then_some((key_len, value_len))
}

/// A record's key and value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// Why the next record cannot be read.
pub(super) enum RecordFault {
    Io(io::Error),
    Framing,
}

impl From<io::Error> for RecordFault {
    fn from(error: io::Error) -> RecordFault {
        RecordFault::Io(error)
    }
}

/// Reads a file's records in order, one at a time, and hashes every byte on the way.
pub(super) struct RecordReader {
    input: BufReader<File>,
    /// Bytes of the file in front of the next record.
    pub(super) offset: u64,
    bytes: u64,
    hasher: Sha256,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl RecordReader {
    /// Opens a file that should have this many bytes.
    pub(super) fn open(path: &Path, bytes: u64) -> io::Result<RecordReader> {
        let input = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        let (key, value) = (Vec::new(), Vec::new());
        Ok(RecordReader { input, offset: 0, bytes, hasher: Sha256::new(), key, value })
    }

    /// The next record; `None` at the end. Lengths are compared with what is left of the file before
    /// memory is taken.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>, RecordFault> {
        let left = self.bytes - self.offset;
        if left == 0 {
            let mut more = [0];
            return match self.input.read(&mut more)? {
                0 => Ok(None),
                _ => Err(RecordFault::Framing),
            };
        }
        let mut header = [0; RECORD_HEADER_LEN];
        if left < header.len() as u64 {
            return Err(RecordFault::Framing);
        }
        self.read(&mut header)?;
        let (key_len, value_len) = record_lengths(&header).ok_or(RecordFault::Framing)?;
        let len = (header.len() + key_len + value_len) as u64;
        if len > left {
            return Err(RecordFault::Framing);
        }
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        key.resize(key_len, 0);
        value.resize(value_len, 0);
        self.read(&mut key)?;
        self.read(&mut value)?;
        (self.key, self.value) = (key, value);
        self.offset += len;
        Ok(Some((&self.key, &self.value)))
    }

    /// SHA-256 of all that was read.
    pub(super) fn finish(self) -> Digest {
        digest_of(self.hasher)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), RecordFault> {
        match self.input.read_exact(into) {
            Ok(()) => {
                self.hasher.update(&*into);
                Ok(())
            }
            // Shorter than it should be.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RecordFault::Framing),
            Err(error) => Err(RecordFault::Io(error)),
        }
    }
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
