//! A file of items as numbered chunks.
//!
//! The same file and the same size of chunks make the same chunks every time: an import that goes on relies on
//! it. Must never take a line in part.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use ledger_client::ImportChunk;
use ledger_proof::hash;
use ledger_types::Digest;

use super::items::{self, Fault, Item};
use crate::args::bulk::FileFormat;

/// Longest line, in bytes: a largest value with every byte escaped.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A chunk ends with the item that takes it to this many bytes.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// A line that is no item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadLine {
    /// From 1.
    pub(crate) line: u64,
    /// What is wrong.
    pub(crate) fault: Fault,
    /// The line itself; cut if it is longer than a line may be.
    pub(crate) text: Vec<u8>,
}

/// Items that are imported as one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    /// From 1.
    pub(crate) number: u64,
    /// Its items.
    pub(crate) items: ImportChunk,
    /// Of everything in the file up to its end.
    pub(crate) digest: Digest,
    /// Where in the file it ends.
    pub(crate) end: u64,
}

impl Chunk {
    /// How many items it has.
    pub(crate) fn len(&self) -> u64 {
        (self.items.entities.len() + self.items.relationships.len()) as u64
    }
}

/// The chunks of a file, from its beginning.
pub(crate) struct Chunks {
    reader: BufReader<File>,
    format: FileFormat,
    items_max: usize,
    number: u64,
    line: u64,
    end: u64,
    digest: Digest,
    buffer: Vec<u8>,
}

impl Chunks {
    /// Opens a file.
    pub(crate) fn open(
        path: &Path,
        format: FileFormat,
        items_max: usize,
    ) -> std::io::Result<Chunks> {
        Ok(Chunks {
            reader: BufReader::with_capacity(BUFFER_BYTES, File::open(path)?),
            format,
            items_max,
            number: 0,
            line: 0,
            end: 0,
            digest: Digest::ZERO,
            buffer: Vec::new(),
        })
    }

    /// The next chunk; `None` at the end. Lines that are no items go to `bad`.
    pub(crate) fn next(
        &mut self,
        bad: &mut dyn FnMut(BadLine) -> std::io::Result<()>,
    ) -> std::io::Result<Option<Chunk>> {
        let mut items = ImportChunk::default();
        let (mut count, mut bytes) = (0, 0);
        while count < self.items_max && bytes < CHUNK_BYTES {
            let Some(is_whole) = self.read_line()? else { break };
            let read = match is_whole {
                true => items::read(self.format, self.line, &self.buffer),
                false => Err(Fault::new("line", format!("is longer than {LINE_BYTES_MAX} bytes"))),
            };
            match read {
                Ok(None) => continue,
                Ok(Some(item)) => {
                    (count, bytes) = (count + 1, bytes + item.bytes());
                    match item {
                        Item::Entity(entity) => items.entities.push(entity),
                        Item::Relationship(one) => items.relationships.push(one),
                    }
                }
                Err(fault) => bad(BadLine { line: self.line, fault, text: self.buffer.clone() })?,
            }
        }
        if count == 0 {
            return Ok(None);
        }
        self.number += 1;
        let (number, digest, end) = (self.number, self.digest, self.end);
        Ok(Some(Chunk { number, items, digest, end }))
    }

    /// Reads a line into the buffer, without its end. `None` at the end of the file; false if it was too long and
    /// the rest of it was passed over.
    fn read_line(&mut self) -> std::io::Result<Option<bool>> {
        self.buffer.clear();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.end += read as u64;
        let is_whole = self.buffer.last() == Some(&b'\n') || (read as u64) < LINE_BYTES_MAX;
        if !is_whole {
            self.end += self.reader.skip_until(b'\n')? as u64;
        }
        while self.buffer.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
            self.buffer.pop();
        }
        let chained = [&self.digest.0[..], &self.buffer].concat();
        self.digest = hash::plain(&chained);
        Ok(Some(is_whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str, items_max: usize) -> (Vec<Chunk>, Vec<BadLine>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.csv");
        std::fs::write(&path, text).unwrap();
        let mut source = Chunks::open(&path, FileFormat::Csv, items_max).unwrap();
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        let mut take = |line| {
            bad.push(line);
            Ok(())
        };
        while let Some(chunk) = source.next(&mut take).unwrap() {
            found.push(chunk);
        }
        (found, bad)
    }

    #[test]
    fn every_good_line_is_in_one_chunk_and_every_bad_line_is_told() {
        let text = "resource,relation,subject\na,r,1\nbad\na,r,2\r\n\na,,3\na,r,4\na,r,5";
        let (found, bad) = chunks(text, 3);
        let subjects: Vec<Vec<&str>> = found
            .iter()
            .map(|chunk| chunk.items.relationships.iter().map(|one| one.subject.as_str()).collect())
            .collect();
        assert_eq!(subjects, [vec!["1", "2", "4"], vec!["5"]]);
        let told: Vec<(u64, &str)> =
            bad.iter().map(|bad| (bad.line, bad.fault.field.as_str())).collect();
        assert_eq!(told, [(3, "line"), (6, "relation")]);
        assert_eq!(bad[0].text, b"bad");
        assert_eq!(found[1].end, text.len() as u64);
    }

    #[test]
    fn the_digest_is_of_everything_up_to_the_chunk() {
        let (first, _) = chunks("a,r,1\na,r,2\na,r,3\n", 1);
        let (longer, _) = chunks("a,r,1\na,r,2\na,r,4\n", 1);
        assert_eq!(first[1].digest, longer[1].digest);
        assert_ne!(first[2].digest, longer[2].digest);
        let (with_bad, _) = chunks("a,r,1\nbad\na,r,2\n", 1);
        assert_ne!(first[1].digest, with_bad[1].digest, "a line that is left out counts");
    }
}
