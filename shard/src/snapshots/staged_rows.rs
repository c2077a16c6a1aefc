//! The rows of a received snapshot, readable by key where they lie in their files.
//!
//! Owns the first look at the files: digests, framing, ascending keys, counts; and a sparse index over them,
//! so that memory stays far below the snapshot's size. Must never know what a row means.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_proof::ReadFault;
use ledger_shard_core::records::{Record, RecordFault, RecordPlace, record_at};
use ledger_shard_core::snapshot::{SnapshotFile, SnapshotManifest};
use ledger_shard_core::view::{Family, StateView};
use parking_lot::Mutex;

use super::error::{SnapshotError, VerifyError};
use super::files::{digest_of, file_path, finish_records, hash_prefix, open_records};

/// Bytes of records between two places of the index.
const BLOCK_BYTES: u64 = 64 << 10;
/// A key in the index stands for at least this many times its length, so that long keys do not make the
/// index large.
const BYTES_PER_KEY_BYTE: u64 = 1024;

/// The rows of a snapshot's files.
pub(super) struct StagedRows {
    families: [FamilyRows; Family::ALL.len()],
}

/// The files of one family, in key order.
#[derive(Default)]
struct FamilyRows {
    files: Vec<IndexedFile>,
    rows: u64,
    /// The block read last: neighbours are asked for one after the other.
    cached: Mutex<Option<Block>>,
}

struct IndexedFile {
    path: PathBuf,
    bytes: u64,
    /// First key and offset of each block.
    blocks: Vec<(Box<[u8]>, u64)>,
}

/// A run of whole records of one file.
#[derive(Clone)]
struct Block {
    file: usize,
    number: usize,
    bytes: Arc<[u8]>,
}

impl StagedRows {
    /// Reads every file once from its beginning to its end. Errors if a file is missing, has another digest
    /// than the manifest says, or is not a run of records with ascending keys.
    pub(super) fn open(
        directory: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<StagedRows, SnapshotError> {
        let mut rows = StagedRows { families: Default::default() };
        let mut before: Option<Family> = None;
        let mut last_key = Vec::new();
        for (file, line) in (0..).zip(&manifest.files) {
            if before.is_some_and(|before| line.family < before) {
                return Err(VerifyError::FileOrder { file }.into());
            }
            if before != Some(line.family) {
                last_key.clear();
            }
            before = Some(line.family);
            let path = file_path(directory, file);
            let indexed = index_file(&path, file, line, &mut last_key)?;
            let family = &mut rows.families[line.family as usize];
            family.rows += line.rows;
            family.files.push(indexed);
        }
        Ok(rows)
    }

    /// How many rows a family has.
    pub(super) fn count(&self, family: Family) -> u64 {
        self.families[family as usize].rows
    }

    /// The rows with `from <= key < to`.
    pub(super) fn range(&self, family: Family, from: &[u8], to: &[u8]) -> Cursor<'_> {
        Cursor::new(&self.families[family as usize], from, to)
    }
}

/// Checks a file against its line and makes its index. `last_key` is the family's last key so far.
fn index_file(
    path: &Path,
    file: u32,
    line: &SnapshotFile,
    last_key: &mut Vec<u8>,
) -> Result<IndexedFile, SnapshotError> {
    let failed = |error| SnapshotError::file("read", path)(error);
    let mut reader = open_records(path, line.bytes).map_err(failed)?;
    let mut blocks: Vec<(Box<[u8]>, u64)> = Vec::new();
    let (mut row, mut block_ends) = (0, 0);
    let framing = loop {
        let offset = reader.offset();
        match reader.next_record() {
            Ok(Some((key, _))) => {
                let is_first = row == 0 && last_key.is_empty();
                if !is_first && key <= last_key.as_slice() {
                    break Err(VerifyError::KeyOrder { file, row });
                }
                if blocks.is_empty() || offset >= block_ends {
                    let bytes = BLOCK_BYTES.max(BYTES_PER_KEY_BYTE * key.len() as u64);
                    block_ends = offset + bytes;
                    blocks.push((key.into(), offset));
                }
                last_key.clear();
                last_key.extend_from_slice(key);
                row += 1;
            }
            // Nobody cuts a file without a row, and a search could not step over one.
            Ok(None) if row == 0 => break Err(VerifyError::Framing { file, offset }),
            Ok(None) if row == line.rows => break Ok(()),
            Ok(None) => {
                break Err(VerifyError::RowCount { file, found: row, expected: line.rows });
            }
            Err(RecordFault::Framing) => break Err(VerifyError::Framing { file, offset }),
            Err(RecordFault::Io(error)) => return Err(failed(error)),
        }
    };
    // A file that is not what was sent says nothing about the sender, whatever else is wrong with it.
    let digest = match &framing {
        Ok(()) => finish_records(reader),
        Err(_) => match hash_prefix(path, line.bytes) {
            Ok(hasher) => digest_of(hasher),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SnapshotError::FileDigest { file });
            }
            Err(error) => return Err(failed(error)),
        },
    };
    if digest != line.digest {
        return Err(SnapshotError::FileDigest { file });
    }
    framing?;
    Ok(IndexedFile { path: path.to_owned(), bytes: line.bytes, blocks })
}

impl FamilyRows {
    /// File and block in which `key` is, or would be.
    fn place(&self, key: &[u8]) -> (usize, usize) {
        let begins = |file: &IndexedFile| file.blocks.first().is_some_and(|(at, _)| **at <= *key);
        let file = self.files.partition_point(begins).saturating_sub(1);
        let blocks = self.files.get(file).map_or(&[][..], |file| &file.blocks);
        let block = blocks.partition_point(|(at, _)| **at <= *key).saturating_sub(1);
        (file, block)
    }

    /// Reads a block; `None` behind the last one.
    fn block(&self, file: usize, number: usize) -> Result<Option<Block>, ReadFault> {
        let cached = self.cached.lock().clone();
        if let Some(block) = cached.filter(|one| (one.file, one.number) == (file, number)) {
            return Ok(Some(block));
        }
        let Some(indexed) = self.files.get(file) else { return Ok(None) };
        let Some(&(_, from)) = indexed.blocks.get(number) else { return Ok(None) };
        let to = indexed.blocks.get(number + 1).map_or(indexed.bytes, |(_, offset)| *offset);
        let mut bytes = vec![0; (to - from) as usize];
        let read = File::open(&indexed.path).and_then(|open| open.read_exact_at(&mut bytes, from));
        read.map_err(|error| ReadFault::Io(format!("{}: {error}", indexed.path.display())))?;
        let block = Block { file, number, bytes: bytes.into() };
        *self.cached.lock() = Some(block.clone());
        Ok(Some(block))
    }

    /// The block after this one.
    fn next_block(&self, before: (usize, usize)) -> Result<Option<Block>, ReadFault> {
        let (file, number) = before;
        match self.block(file, number + 1)? {
            Some(block) => Ok(Some(block)),
            None => self.block(file + 1, 0),
        }
    }
}

/// Reads a range of rows in key order.
pub(super) struct Cursor<'a> {
    family: &'a FamilyRows,
    from: Vec<u8>,
    to: Vec<u8>,
    block: Option<Block>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(family: &'a FamilyRows, from: &[u8], to: &[u8]) -> Cursor<'a> {
        Cursor { family, from: from.to_vec(), to: to.to_vec(), block: None, at: 0 }
    }

    /// The next row; `None` at the end of the range.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>, ReadFault> {
        let found = loop {
            let block = match &self.block {
                Some(block) if self.at < block.bytes.len() => block,
                before => {
                    let next = match before {
                        Some(block) => self.family.next_block((block.file, block.number))?,
                        None => {
                            let (file, number) = self.family.place(&self.from);
                            self.family.block(file, number)?
                        }
                    };
                    let Some(next) = next else { return Ok(None) };
                    self.at = 0;
                    self.block.insert(next)
                }
            };
            let what = "a file of a snapshot changed while it was read";
            let place = record_at(&block.bytes, self.at).ok_or(ReadFault::Corrupt { what })?;
            let key = &block.bytes[place.key_at..place.value_at];
            if key >= self.to.as_slice() {
                // Nothing in the range comes after this; asked again, the answer is the same.
                return Ok(None);
            }
            self.at = place.end;
            if key >= self.from.as_slice() {
                break place;
            }
        };
        let RecordPlace { key_at, value_at, end } = found;
        let bytes = &self.block.as_ref().expect("a row was found in it").bytes;
        Ok(Some((&bytes[key_at..value_at], &bytes[value_at..end])))
    }
}

impl StateView for StagedRows {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadFault> {
        let after = [key, &[0]].concat();
        let mut rows = self.range(family, key, &after);
        Ok(rows.next()?.map(|(_, value)| value.to_vec()))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        let mut rows = self.range(family, from, to);
        while let Some((key, value)) = rows.next()? {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
