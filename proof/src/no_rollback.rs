//! What a signer must remember so that it never signs two histories, and the rule it follows.
//!
//! Pure: keeping the record durable before the signature leaves is the caller's duty.

use ledger_types::Digest;

use crate::checkpoint::{Checkpoint, CheckpointError, Origin};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::read_fault::ReadFault;

/// First byte of an encoded record.
const VERSION: u8 = 1;
/// Longest origin in bytes.
const ORIGIN_BYTES_MAX: usize = 256;

/// The largest log that a signer has signed under one origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedRecord {
    /// The log.
    pub origin: Origin,
    /// Blocks in it.
    pub size: u64,
    /// Its root.
    pub root: Digest,
}

/// What a signer may do with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Sign, after the checkpoint has replaced the record durably.
    SignAfterRecording,
    /// Sign: it is the record's own state.
    Sign,
    /// Wait: the record is ahead, the log here has yet to catch up.
    Wait,
    /// Sign nothing more with this key: the log here contradicts what was signed.
    Contradiction,
}

/// Decides whether `checkpoint` may be signed. `is_prefix(size, root)` says whether the log's first
/// `size` blocks have that root; it is asked at most once, for a size at or below the checkpoint's.
pub fn may_sign(
    record: Option<&SignedRecord>,
    checkpoint: &Checkpoint,
    is_prefix: impl FnOnce(u64, &Digest) -> Result<bool, ReadFault>,
) -> Result<Decision, ReadFault> {
    let Some(record) = record else { return Ok(Decision::SignAfterRecording) };
    assert_eq!(record.origin, checkpoint.origin, "records are kept per origin");
    if checkpoint.size < record.size {
        return Ok(Decision::Wait);
    }
    if checkpoint.size == record.size {
        let is_same = checkpoint.root == record.root;
        return Ok(if is_same { Decision::Sign } else { Decision::Contradiction });
    }
    match is_prefix(record.size, &record.root)? {
        true => Ok(Decision::SignAfterRecording),
        false => Ok(Decision::Contradiction),
    }
}

impl SignedRecord {
    /// The record of having signed `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> SignedRecord {
        let Checkpoint { origin, size, root } = checkpoint.clone();
        SignedRecord { origin, size, root }
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.u8(VERSION);
        writer.bytes_u16(self.origin.to_string().as_bytes());
        writer.u64(self.size);
        writer.digest(&self.root);
        bytes
    }

    /// Reads what [`SignedRecord::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<SignedRecord, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("signer record version")?;
        if version != VERSION {
            let (field, value) = ("signer record version", version.into());
            return Err(DecodeError::UnknownValue { field, value });
        }
        let origin = read_origin(&mut reader)?;
        let (size, root) = (reader.u64("size")?, reader.digest("root")?);
        reader.finish()?;
        Ok(SignedRecord { origin, size, root })
    }
}

/// Reads an origin after its 16-bit length.
pub(crate) fn read_origin(reader: &mut Reader<'_>) -> Result<Origin, DecodeError> {
    let text = reader.text_u16("origin", ORIGIN_BYTES_MAX)?;
    Origin::parse(text).map_err(|_: CheckpointError| {
        let rule = "is not of the form <domain>/ns/<n>/vault/<n>/<n>";
        DecodeError::Invalid { field: "origin", rule }
    })
}

#[cfg(test)]
mod tests {
    use ledger_types::VaultRef;

    use super::*;

    fn checkpoint(size: u64, root: u8) -> Checkpoint {
        let origin = Origin { domain: "a".into(), vault: VaultRef::new(1, 2), log_epoch: 0 };
        Checkpoint { origin, size, root: Digest([root; 32]) }
    }

    #[test]
    fn a_signer_never_goes_back_nor_signs_two_histories() {
        let record = SignedRecord::of(&checkpoint(5, 1));
        let unasked =
            |_: u64, _: &Digest| -> Result<bool, ReadFault> { panic!("the log need not be asked") };
        let decide = |size, root| may_sign(Some(&record), &checkpoint(size, root), unasked);
        assert_eq!(decide(4, 9), Ok(Decision::Wait));
        assert_eq!(decide(5, 1), Ok(Decision::Sign));
        assert_eq!(decide(5, 2), Ok(Decision::Contradiction));
        let grown = |answer: bool| {
            may_sign(Some(&record), &checkpoint(6, 2), |size, root| {
                assert_eq!((size, *root), (5, Digest([1; 32])));
                Ok(answer)
            })
        };
        assert_eq!(grown(true), Ok(Decision::SignAfterRecording));
        assert_eq!(grown(false), Ok(Decision::Contradiction));
        let first = may_sign(None, &checkpoint(1, 1), unasked);
        assert_eq!(first, Ok(Decision::SignAfterRecording));
        let fault = may_sign(Some(&record), &checkpoint(6, 2), |_, _| {
            Err(ReadFault::corrupt("a log node is missing"))
        });
        assert!(fault.is_err());
    }

    #[test]
    fn records_round_trip() {
        let record = SignedRecord::of(&checkpoint(5, 1));
        let bytes = record.encode();
        assert_eq!(SignedRecord::decode(&bytes), Ok(record));
        assert!(SignedRecord::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(SignedRecord::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
