//! The records in a snapshot's files: framing, read and written.
//!
//! Owns the bytes between records and the bounds that are checked before memory is taken. Must never judge a key or a
//! value, nor open a file: bytes come from a reader that the caller has.

use std::io::{self, Read};

use crate::snapshot::{RECORD_HEADER_LEN, RECORD_VALUE_BYTES_MAX};

/// The bytes before a record's key.
pub fn record_header(key_len: usize, value_len: usize) -> [u8; RECORD_HEADER_LEN] {
    let mut header = [0; RECORD_HEADER_LEN];
    header[..2].copy_from_slice(&(key_len as u16).to_be_bytes());
    header[2..].copy_from_slice(&(value_len as u32).to_be_bytes());
    header
}

/// Lengths of key and value in the bytes before a record's key; `None` if the value's is over its limit.
fn record_lengths(header: &[u8; RECORD_HEADER_LEN]) -> Option<(usize, usize)> {
    let [a, b, c, d, e, f] = *header;
    let key_len = usize::from(u16::from_be_bytes([a, b]));
    let value_len = u32::from_be_bytes([c, d, e, f]) as usize;
    (value_len <= RECORD_VALUE_BYTES_MAX).then_some((key_len, value_len))
}

/// Where a record lies in the bytes around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordPlace {
    /// Offset of its key.
    pub key_at: usize,
    /// Offset of its value, where the key ends.
    pub value_at: usize,
    /// Offset of what follows.
    pub end: usize,
}

/// Where the parts of the record at offset `at` are; `None` if there is no whole record.
pub fn record_at(bytes: &[u8], at: usize) -> Option<RecordPlace> {
    let header = bytes.get(at..).and_then(|rest| rest.first_chunk())?;
    let (key_len, value_len) = record_lengths(header)?;
    let key_at = at + RECORD_HEADER_LEN;
    let value_at = key_at + key_len;
    let end = value_at + value_len;
    (end <= bytes.len()).then_some(RecordPlace { key_at, value_at, end })
}

/// A record's key and value.
pub type Record<'a> = (&'a [u8], &'a [u8]);

/// Why the next record cannot be read.
#[derive(Debug)]
pub enum RecordFault {
    /// The bytes cannot be read.
    Io(io::Error),
    /// The bytes are no record, or not as many as there should be.
    Framing,
}

impl From<io::Error> for RecordFault {
    fn from(error: io::Error) -> RecordFault {
        RecordFault::Io(error)
    }
}

/// Reads records in order, one at a time, each into the memory of the one before it.
#[derive(Debug)]
pub struct RecordReader<R> {
    input: R,
    offset: u64,
    bytes: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<R: Read> RecordReader<R> {
    /// Reads records from an input that should have this many bytes.
    pub fn new(input: R, bytes: u64) -> RecordReader<R> {
        RecordReader { input, offset: 0, bytes, key: Vec::new(), value: Vec::new() }
    }

    /// Bytes in front of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The input, read as far as the records were.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next record; `None` at the end. Lengths are compared with what is left of the input before memory is taken.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, RecordFault> {
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
        read_exact(&mut self.input, &mut header)?;
        let (key_len, value_len) = record_lengths(&header).ok_or(RecordFault::Framing)?;
        let len = (header.len() + key_len + value_len) as u64;
        if len > left {
            return Err(RecordFault::Framing);
        }
        self.key.resize(key_len, 0);
        self.value.resize(value_len, 0);
        read_exact(&mut self.input, &mut self.key)?;
        read_exact(&mut self.input, &mut self.value)?;
        self.offset += len;
        Ok(Some((&self.key, &self.value)))
    }
}

fn read_exact(input: &mut impl Read, into: &mut [u8]) -> Result<(), RecordFault> {
    match input.read_exact(into) {
        // Shorter than it should be.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RecordFault::Framing),
        read => Ok(read?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        [&record_header(key.len(), value.len())[..], key, value].concat()
    }

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    /// The records of an input that says to have `bytes` bytes, or true if it is not framed.
    fn read(input: &[u8], bytes: u64) -> Result<Records, bool> {
        let mut reader = RecordReader::new(input, bytes);
        let mut records = Vec::new();
        while let Some((key, value)) =
            reader.next_record().map_err(|fault| matches!(fault, RecordFault::Framing))?
        {
            records.push((key.to_vec(), value.to_vec()));
        }
        assert_eq!(reader.offset(), bytes);
        Ok(records)
    }

    #[test]
    fn records_are_read_as_they_were_written_and_no_other_length_is_accepted() {
        let file = [record(b"a", b"1"), record(b"", b""), record(&[7; 300], &[8; 3])].concat();
        let expected =
            [(b"a".to_vec(), b"1".to_vec()), (Vec::new(), Vec::new()), (vec![7; 300], vec![8; 3])];
        assert_eq!(read(&file, file.len() as u64).as_deref(), Ok(&expected[..]));
        assert_eq!(read(&[], 0), Ok(Vec::new()));
        let boundaries = [0, 8, 14];
        for bytes in (0..file.len()).chain([file.len() + 1]) {
            assert_eq!(read(&file, bytes as u64), Err(true), "{bytes} bytes, but more are there");
            if bytes < file.len() {
                let cut = read(&file[..bytes], bytes as u64);
                assert_eq!(cut.is_ok(), boundaries.contains(&bytes), "cut at {bytes}");
            }
        }
    }

    #[test]
    fn a_length_is_bounded_by_its_limit_and_by_what_is_there() {
        let promised = record_header(5, RECORD_VALUE_BYTES_MAX);
        assert_eq!(record_at(&promised, 0), None);
        assert_eq!(read(&promised, promised.len() as u64), Err(true));
        let over = record_header(0, RECORD_VALUE_BYTES_MAX + 1);
        assert_eq!(read(&over, u64::MAX), Err(true));
        let bytes = [&[9][..], &record(b"key", b"v")].concat();
        assert_eq!(record_at(&bytes, 1), Some(RecordPlace { key_at: 7, value_at: 10, end: 11 }));
        assert_eq!(record_at(&bytes[..10], 1), None);
        assert_eq!(record_at(&bytes, 12), None, "behind the end");
    }
}
