//! Block headers: 200 canonical bytes whose leaf hash names the block.

use ledger_types::{Digest, VaultRef};

use crate::encoding::{DecodeError, Reader};
use crate::hash;

/// Length of an encoded header in bytes.
pub const HEADER_LEN: usize = 200;
/// First bytes of every header.
const MAGIC: [u8; 16] = *b"vault-block/v1\0\0";
/// Flag bit: the block holds one recovery operation and may be an unexplained transition.
pub const FLAG_RECOVERY: u32 = 1;

/// One block of a vault, without its transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// The vault.
    pub vault: VaultRef,
    /// Number of the block, from 0; its index in the vault's block log.
    pub height: u64,
    /// Hash of the block before, zero for genesis.
    pub previous_hash: Digest,
    /// Root over the transactions' bytes.
    pub tx_root: Digest,
    /// How many transactions there are; the size that their inclusion proofs are checked with.
    pub tx_count: u32,
    /// [`FLAG_RECOVERY`] or 0.
    pub flags: u32,
    /// Root of the state tree after the block.
    pub state_root: Digest,
    /// Leaves of that tree.
    pub state_keys: u64,
    /// Block time, Unix nanoseconds.
    pub timestamp_ns: u64,
    /// Group whose log entry made the block.
    pub shard: u64,
    /// Term of that entry.
    pub term: u64,
    /// Index of that entry.
    pub index: u64,
}

/// The log entry that makes a block: group, term, index and the block time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryPosition {
    /// The group.
    pub shard: u64,
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
    /// Block time, Unix nanoseconds.
    pub timestamp_ns: u64,
}

impl BlockHeader {
    /// The first block of a vault, without transactions.
    pub fn genesis(
        vault: VaultRef,
        state_root: Digest,
        state_keys: u64,
        position: EntryPosition,
    ) -> BlockHeader {
        BlockHeader {
            vault,
            height: 0,
            previous_hash: Digest::ZERO,
            tx_root: hash::empty_root(),
            tx_count: 0,
            flags: 0,
            state_root,
            state_keys,
            timestamp_ns: position.timestamp_ns,
            shard: position.shard,
            term: position.term,
            index: position.index,
        }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..32].copy_from_slice(&self.vault.to_bytes());
        bytes[32..40].copy_from_slice(&self.height.to_be_bytes());
        bytes[40..72].copy_from_slice(&self.previous_hash.0);
        bytes[72..104].copy_from_slice(&self.tx_root.0);
        bytes[104..108].copy_from_slice(&self.tx_count.to_be_bytes());
        bytes[108..112].copy_from_slice(&self.flags.to_be_bytes());
        bytes[112..144].copy_from_slice(&self.state_root.0);
        bytes[144..152].copy_from_slice(&self.state_keys.to_be_bytes());
        bytes[152..160].copy_from_slice(&self.timestamp_ns.to_be_bytes());
        bytes[160..168].copy_from_slice(&self.shard.to_be_bytes());
        bytes[168..176].copy_from_slice(&self.term.to_be_bytes());
        bytes[176..184].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Reads exactly [`HEADER_LEN`] bytes. Unknown flags and reserved bytes that are not zero are
    /// refused.
    pub fn decode(bytes: &[u8]) -> Result<BlockHeader, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("header magic")? != MAGIC {
            return Err(DecodeError::Invalid {
                field: "header magic",
                rule: "is not vault-block/v1",
            });
        }
        let header = BlockHeader {
            vault: VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?),
            height: reader.u64("height")?,
            previous_hash: reader.digest("previous_hash")?,
            tx_root: reader.digest("tx_root")?,
            tx_count: reader.u32("tx_count")?,
            flags: reader.u32("flags")?,
            state_root: reader.digest("state_root")?,
            state_keys: reader.u64("state_keys")?,
            timestamp_ns: reader.u64("timestamp_ns")?,
            shard: reader.u64("shard")?,
            term: reader.u64("term")?,
            index: reader.u64("index")?,
        };
        if header.flags & !FLAG_RECOVERY != 0 {
            let value = header.flags.into();
            return Err(DecodeError::UnknownValue { field: "flags", value });
        }
        if reader.array::<16>("reserved bytes")? != [0; 16] {
            return Err(DecodeError::Invalid { field: "reserved bytes", rule: "must be zero" });
        }
        reader.finish()?;
        Ok(header)
    }

    /// Names the block: the next block's `previous_hash` and its leaf in the block log.
    pub fn block_hash(&self) -> Digest {
        hash::leaf(&self.encode())
    }

    /// Whether the block records a recovery.
    pub fn is_recovery(&self) -> bool {
        self.flags & FLAG_RECOVERY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_refuses_unknown_bits() {
        let position = EntryPosition { shard: 3, term: 4, index: 5, timestamp_ns: 6 };
        let vault = VaultRef::new(1, 2);
        let header = BlockHeader::genesis(vault, Digest([9; 32]), 1, position);
        let bytes = header.encode();
        assert_eq!(BlockHeader::decode(&bytes), Ok(header));
        assert_eq!(header.block_hash(), hash::leaf(&bytes));
        for offset in [0, 15, 108, 184, 199] {
            let mut wrong = bytes;
            wrong[offset] ^= 0x40;
            assert!(BlockHeader::decode(&wrong).is_err(), "offset {offset}");
        }
        assert!(BlockHeader::decode(&bytes[..199]).is_err());
        assert!(BlockHeader::decode(&[&bytes[..], &[0]].concat()).is_err());
        let recovery = BlockHeader { flags: FLAG_RECOVERY, ..header };
        assert!(BlockHeader::decode(&recovery.encode()).unwrap().is_recovery());
    }
}
