//! The last checkpoint that a client verified: what the next one must extend.

use ledger_types::Digest;

use crate::checkpoint::{Checkpoint, Origin};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::no_rollback::read_origin;
use crate::note::NOTE_BYTES_MAX;

/// First bytes of an encoded known checkpoint.
const MAGIC: [u8; 16] = *b"known-checkpt/v1";

/// A verified checkpoint with the note that proves it, kept as evidence against a fork.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownCheckpoint {
    /// The log.
    pub origin: Origin,
    /// Blocks in it.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// The note's bytes.
    pub note: Vec<u8>,
}

impl KnownCheckpoint {
    /// A checkpoint that was verified with the note `note`.
    pub(crate) fn new(checkpoint: Checkpoint, note: Vec<u8>) -> KnownCheckpoint {
        let Checkpoint { origin, size, root } = checkpoint;
        KnownCheckpoint { origin, size, root, note }
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&MAGIC);
        writer.bytes_u16(self.origin.to_string().as_bytes());
        writer.u64(self.size);
        writer.digest(&self.root);
        writer.bytes_u16(&self.note);
        bytes
    }

    /// Reads what [`KnownCheckpoint::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<KnownCheckpoint, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("checkpoint magic")? != MAGIC {
            let rule = "is not known-checkpt/v1";
            return Err(DecodeError::Invalid { field: "checkpoint magic", rule });
        }
        let known = KnownCheckpoint {
            origin: read_origin(&mut reader)?,
            size: reader.u64("size")?,
            root: reader.digest("root")?,
            note: reader.bytes_u16("note", NOTE_BYTES_MAX)?.to_vec(),
        };
        reader.finish()?;
        Ok(known)
    }
}
