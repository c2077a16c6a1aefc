//! Verified reads: what an answer carries, its file form, and the whole check of it.

use ledger_types::StateKey;
use ledger_types::limits::{KEYS_PER_READ_MAX, VALUE_BYTES_MAX};

use crate::block_proof::{AuthenticatedBlock, BlockProof, ReadAt, Trust, VerifyError};
use crate::checkpoint::Origin;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;
use crate::header::BlockHeader;
use crate::known_checkpoint::KnownCheckpoint;
use crate::record::Record;
use crate::tree::{KeyProof, Presence};
use crate::trust::TimeRule;

/// First bytes of an encoded verified read, which is also the form of a proof file.
const MAGIC: [u8; 16] = *b"verified-read/v1";
/// Fewest bytes of one answer: path length, leaf key length, record, value flag.
const ITEM_BYTES_MIN: usize = 98;
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The answer to a read of one or more keys of a vault at one height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedRead {
    /// The header under whose state root the keys are proved.
    pub block: BlockProof,
    /// One answer for each key of the request, in its order.
    pub items: Vec<ReadItem>,
}

/// The answer for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadItem {
    /// Proof of presence or absence.
    pub proof: KeyProof,
    /// The value, if and only if the key is present; of a relationship the empty one.
    pub value: Option<Vec<u8>>,
}

/// What was asked, from the client's own memory.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest<'a> {
    /// The vault's log: configured domain and vault, and the log epoch known for it.
    pub origin: &'a Origin,
    /// Which block.
    pub at: ReadAt,
    /// The keys.
    pub keys: &'a [StateKey],
}

/// What a verified read says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedAnswer {
    /// The block under which it holds, and the checkpoint to keep before returning.
    pub block: AuthenticatedBlock,
    /// One result for each key of the request, in its order.
    pub values: Vec<VerifiedValue>,
}

/// What a verified read says about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VerifiedValue {
    /// The key is present.
    Present {
        /// Its record.
        record: Record,
        /// Its value.
        value: Vec<u8>,
    },
    /// The key is in the state but expired, and counts as absent.
    Expired {
        /// Its record.
        record: Record,
    },
    /// The key is absent.
    Absent,
}

impl VerifiedRead {
    /// Checks everything: origin, signatures, growth of the log, header, key proofs, values,
    /// expiry. On success the caller stores the checkpoint before it returns the values.
    pub fn verify(
        &self,
        request: &ReadRequest<'_>,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<VerifiedAnswer, VerifyError> {
        if self.items.len() != request.keys.len() {
            let (asked, answered) = (request.keys.len(), self.items.len());
            return Err(VerifyError::ItemCount { asked, answered });
        }
        let block = self.block.verify(request.origin, request.at, trust, known)?;
        let expiry_time = expiry_time(&block.header, request.at, trust.times);
        let items = self.items.iter().zip(request.keys).enumerate();
        let values = items
            .map(|(index, (item, key))| {
                let presence = item
                    .proof
                    .verify(&block.header.state_root, key.as_bytes())
                    .map_err(|error| VerifyError::Key { index, error })?;
                item.verify_value(index, presence, expiry_time)
            })
            .collect::<Result<_, _>>()?;
        Ok(VerifiedAnswer { block, values })
    }

    /// The canonical bytes: the content of a proof file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&MAGIC);
        self.block.write(&mut writer);
        assert!(self.items.len() <= KEYS_PER_READ_MAX, "requests are limited");
        writer.u16(self.items.len() as u16);
        for item in &self.items {
            item.proof.encode_into(&mut bytes);
            let mut writer = Writer::new(&mut bytes);
            writer.flag(item.value.is_some());
            if let Some(value) = &item.value {
                writer.bytes_u32(value);
            }
        }
        bytes
    }

    /// Reads one verified read and nothing else. What it says is checked by
    /// [`VerifiedRead::verify`] alone.
    pub fn decode(bytes: &[u8]) -> Result<VerifiedRead, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("read magic")? != MAGIC {
            let rule = "is not verified-read/v1";
            return Err(DecodeError::Invalid { field: "read magic", rule });
        }
        let block = BlockProof::read(&mut reader)?;
        let count = usize::from(reader.u16("items")?);
        let count = reader.count("items", count, KEYS_PER_READ_MAX, ITEM_BYTES_MIN)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            let proof = KeyProof::decode_from(&mut reader)?;
            let value = match reader.flag("value")? {
                false => None,
                true => Some(reader.bytes_u32("value", VALUE_BYTES_MAX)?.to_vec()),
            };
            items.push(ReadItem { proof, value });
        }
        reader.finish()?;
        Ok(VerifiedRead { block, items })
    }
}

/// The Unix second at which expiry is judged: the header's, and for the latest block the verifier's clock if
/// that is later.
pub(crate) fn expiry_time(header: &BlockHeader, at: ReadAt, times: TimeRule) -> u64 {
    let header_time = header.timestamp_ns / NANOSECONDS_PER_SECOND;
    match (at, times) {
        (ReadAt::Latest { .. }, TimeRule::Now(now)) => now.max(header_time),
        _ => header_time,
    }
}

impl ReadItem {
    fn verify_value(
        &self,
        index: usize,
        presence: Presence,
        expiry_time: u64,
    ) -> Result<VerifiedValue, VerifyError> {
        match (presence, &self.value) {
            (Presence::Absent, None) => Ok(VerifiedValue::Absent),
            (Presence::Absent, Some(_)) => Err(VerifyError::ValueUnexpected { index }),
            (Presence::Present(_), None) => Err(VerifyError::ValueMissing { index }),
            (Presence::Present(record), Some(value)) => {
                if hash::plain(value) != record.value_hash {
                    return Err(VerifyError::ValueMismatch { index });
                }
                if record.is_expired(expiry_time) {
                    return Ok(VerifiedValue::Expired { record });
                }
                Ok(VerifiedValue::Present { record, value: value.clone() })
            }
        }
    }
}
