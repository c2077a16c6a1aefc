//! State records: what the state tree commits to for each key, and the vault descriptor's value.

use ledger_types::{Digest, VaultRef};

use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;

/// Length of an encoded record in bytes.
pub const RECORD_LEN: usize = 93;
/// First byte of a record and of a descriptor.
const VERSION: u8 = 1;

/// The committed facts about one key. The value itself is stored beside it, only its hash is
/// inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The block in which the key last went from absent to present.
    pub created_height: u64,
    /// The block that last changed the key; an entity's version.
    pub modified_height: u64,
    /// Index, in that block, of the last transaction that changed the key.
    pub modified_tx: u32,
    /// Unix seconds after which the entity counts as absent; 0 = never.
    pub expires_at: u64,
    /// Hash of the key's record under the previous block's state root; zero if it was absent there.
    pub previous_record_hash: Digest,
    /// SHA-256 of the value.
    pub value_hash: Digest,
}

impl Record {
    /// The canonical bytes.
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.created_height.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.modified_height.to_be_bytes());
        bytes[17..21].copy_from_slice(&self.modified_tx.to_be_bytes());
        bytes[21..29].copy_from_slice(&self.expires_at.to_be_bytes());
        bytes[29..61].copy_from_slice(&self.previous_record_hash.0);
        bytes[61..].copy_from_slice(&self.value_hash.0);
        bytes
    }

    /// Reads exactly [`RECORD_LEN`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader, "record version")?;
        let record = Record {
            created_height: reader.u64("created_height")?,
            modified_height: reader.u64("modified_height")?,
            modified_tx: reader.u32("modified_tx")?,
            expires_at: reader.u64("expires_at")?,
            previous_record_hash: reader.digest("previous_record_hash")?,
            value_hash: reader.digest("value_hash")?,
        };
        reader.finish()?;
        Ok(record)
    }

    /// SHA-256 of the canonical bytes: what the state leaf and the next record commit to.
    pub fn hash(&self) -> Digest {
        hash::plain(&self.encode())
    }

    /// Whether the entity counts as absent at `now` (Unix seconds).
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at != 0 && self.expires_at <= now
    }
}

/// The value of a vault's descriptor, which ties a state root to its vault and log epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The vault.
    pub vault: VaultRef,
    /// The number in the origin of the vault's current log.
    pub log_epoch: u64,
    /// Height of the last recovery block, 0 if there was none.
    pub last_recovery_height: u64,
    /// Hash of the last known note of the log before that recovery, or zero.
    pub old_note: Digest,
}

impl Descriptor {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(65);
        let mut writer = Writer::new(&mut bytes);
        writer.u8(VERSION);
        writer.raw(&self.vault.to_bytes());
        writer.u64(self.log_epoch);
        writer.u64(self.last_recovery_height);
        writer.digest(&self.old_note);
        bytes
    }

    /// Reads what [`Descriptor::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Descriptor, DecodeError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader, "descriptor version")?;
        let descriptor = Descriptor {
            vault: VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?),
            log_epoch: reader.u64("log_epoch")?,
            last_recovery_height: reader.u64("last_recovery_height")?,
            old_note: reader.digest("old_note")?,
        };
        reader.finish()?;
        Ok(descriptor)
    }
}

fn check_version(reader: &mut Reader<'_>, field: &'static str) -> Result<(), DecodeError> {
    match reader.u8(field)? {
        VERSION => Ok(()),
        value => Err(DecodeError::UnknownValue { field, value: value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_its_length_and_round_trips() {
        let record = Record {
            created_height: 1,
            modified_height: 2,
            modified_tx: 3,
            expires_at: 4,
            previous_record_hash: Digest([5; 32]),
            value_hash: hash::plain(b"v"),
        };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        assert!(Record::decode(&bytes[..92]).is_err());
        assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
        let mut other_version = bytes;
        other_version[0] = 2;
        assert!(Record::decode(&other_version).is_err());
        assert!(record.is_expired(4) && !record.is_expired(3));
        assert!(!Record { expires_at: 0, ..record }.is_expired(u64::MAX));
    }

    #[test]
    fn descriptor_round_trips() {
        let vault = VaultRef::new(7, 9);
        let old_note = Digest([1; 32]);
        let descriptor = Descriptor { vault, log_epoch: 3, last_recovery_height: 5, old_note };
        let bytes = descriptor.encode();
        assert_eq!(bytes.len(), 65);
        assert_eq!(Descriptor::decode(&bytes), Ok(descriptor));
        assert!(Descriptor::decode(&bytes[1..]).is_err());
    }
}
