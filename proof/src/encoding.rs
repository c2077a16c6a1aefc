//! Reading and writing canonical bytes: big-endian integers, counted strings, nothing left over.
//!
//! The reader checks every length against its limit and against the bytes that are there before
//! anything is allocated. It must never accept two encodings of one value.

use ledger_types::Digest;
use thiserror::Error;

/// Why bytes are not the canonical encoding of anything.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the bytes end inside {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A length or count is over its limit.
    #[error("{field} has length {len}, the limit is {max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The length that was read.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A tag, version, flag or enumeration has a number that means nothing.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// The number that was read.
        value: u64,
    },
    /// Text is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A field breaks a rule of its format.
    #[error("{field} {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rule it breaks, as a phrase that follows the field's name.
        rule: &'static str,
    },
}

/// Reads fields off the front of a byte string.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// A digest.
    pub fn digest(&mut self, field: &'static str) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array(field)?))
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::UnknownValue { field, value: value.into() }),
        }
    }

    /// Bytes after a 16-bit length of at most `max`.
    pub fn bytes_u16(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16(field)?);
        self.counted(field, len, max)
    }

    /// Bytes after a 32-bit length of at most `max`.
    pub fn bytes_u32(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.u32(field)? as usize;
        self.counted(field, len, max)
    }

    /// Text after a 16-bit length of at most `max` bytes.
    pub fn text_u16(&mut self, field: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes_u16(field, max)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// Text after a 32-bit length of at most `max` bytes.
    pub fn text_u32(&mut self, field: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes_u32(field, max)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// A count of items that take at least `item_bytes_min` bytes each. A count that is over `max`,
    /// or that the bytes left cannot hold, is refused, so its value is safe to allocate for.
    pub fn count(
        &self,
        field: &'static str,
        count: usize,
        max: usize,
        item_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        if count > max {
            return Err(DecodeError::TooLong { field, len: count, max });
        }
        match count.checked_mul(item_bytes_min) {
            Some(len) if len <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Truncated { field }),
        }
    }

    /// Digests after a 16-bit count of at most `max`.
    pub fn digests_u16(
        &mut self,
        field: &'static str,
        max: usize,
    ) -> Result<Vec<Digest>, DecodeError> {
        let count = usize::from(self.u16(field)?);
        let count = self.count(field, count, max, Digest::LEN)?;
        (0..count).map(|_| self.digest(field)).collect()
    }

    /// Ends the reading; anything left over is an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    fn counted(
        &mut self,
        field: &'static str,
        len: usize,
        max: usize,
    ) -> Result<&'a [u8], DecodeError> {
        if len > max {
            return Err(DecodeError::TooLong { field, len, max });
        }
        self.take(field, len)
    }
}

/// Appends fields to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends after what `out` holds.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// A digest.
    pub fn digest(&mut self, value: &Digest) {
        self.out.extend_from_slice(&value.0);
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Bytes after a 16-bit length.
    pub fn bytes_u16(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).expect("checked against a limit below 64 KiB"));
        self.raw(bytes);
    }

    /// Bytes after a 32-bit length.
    pub fn bytes_u32(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("checked against a limit below 4 GiB"));
        self.raw(bytes);
    }

    /// Digests after a 16-bit count.
    pub fn digests_u16(&mut self, digests: &[Digest]) {
        self.u16(u16::try_from(digests.len()).expect("paths have fewer than 65,536 hashes"));
        for digest in digests {
            self.digest(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip_and_nothing_may_follow() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.u16(0x0102);
        writer.flag(true);
        writer.bytes_u32(b"abc");
        writer.digests_u16(&[Digest([7; 32])]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u16("a"), Ok(0x0102));
        assert_eq!(reader.flag("b"), Ok(true));
        assert_eq!(reader.text_u32("c", 3), Ok("abc"));
        assert_eq!(reader.digests_u16("d", 1), Ok(vec![Digest([7; 32])]));
        assert_eq!(reader.clone().finish(), Ok(()));
        let mut short = Reader::new(&bytes[..5]);
        short.take("head", 3).unwrap();
        assert_eq!(short.u64("e"), Err(DecodeError::Truncated { field: "e" }));
        assert_eq!(short.finish(), Err(DecodeError::TrailingBytes { count: 2 }));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_taken() {
        let huge = [0xff; 8];
        let too_long = DecodeError::TooLong { field: "f", len: 0xffff, max: 16 };
        assert_eq!(Reader::new(&huge).bytes_u16("f", 16), Err(too_long.clone()));
        assert_eq!(Reader::new(&huge).digests_u16("f", 16), Err(too_long));
        let truncated = DecodeError::Truncated { field: "f" };
        assert_eq!(Reader::new(&huge).digests_u16("f", 0x10000), Err(truncated.clone()));
        assert_eq!(Reader::new(&huge).count("f", usize::MAX, usize::MAX, 32), Err(truncated));
        let unknown = DecodeError::UnknownValue { field: "f", value: 255 };
        assert_eq!(Reader::new(&huge).flag("f"), Err(unknown));
    }
}
