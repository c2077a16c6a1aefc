//! Proofs that a key has a certain record, or none, under a state root.
//!
//! The verifier takes the key from its caller and picks the side at each branch by that key's own
//! bit, so even a malicious root holds at most one record per key.

use ledger_types::Digest;
use ledger_types::limits::STATE_KEY_BYTES_MAX;
use thiserror::Error;

use super::{RowsAt, StateTree, TreeStore, bits};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;
use crate::read_fault::ReadFault;
use crate::record::{RECORD_LEN, Record};

/// Bytes of one step of an encoded path.
const STEP_LEN: usize = 2 + Digest::LEN;

/// The way from the root to the leaf where a key's bits lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyProof {
    /// The branches from the root down: the bit each splits on and the hash of the side not taken.
    pub path: Vec<(u16, Digest)>,
    /// Key of the leaf reached: the key asked for if it is present, another if it is absent.
    pub leaf_key: Vec<u8>,
    /// The record of that leaf, in canonical bytes.
    pub record: [u8; RECORD_LEN],
}

/// What a proof proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// The key has this record.
    Present(Record),
    /// The key has no record.
    Absent,
}

/// Why a key proof proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ProofError {
    /// The key asked for is empty or too long to be a state key.
    #[error("the key has {len} bytes; state keys have 1 to 2048")]
    KeyLength {
        /// Its length in bytes.
        len: usize,
    },
    /// The leaf's key is empty or too long to be a state key.
    #[error("the leaf's key has {len} bytes; state keys have 1 to 2048")]
    LeafKeyLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A bit of the path is not one that a state key has.
    #[error("bit {bit} is out of range")]
    BitOutOfRange {
        /// The bit.
        bit: u16,
    },
    /// The bits of the path do not increase.
    #[error("bit {bit} does not come after the one before it")]
    BitsNotIncreasing {
        /// The bit.
        bit: u16,
    },
    /// The leaf is not where the key's bits lead.
    #[error("the leaf's key takes another side at bit {bit}")]
    LeafElsewhere {
        /// The bit on which the keys differ.
        bit: u16,
    },
    /// The leaf's record is malformed.
    #[error("the leaf's record is malformed: {0}")]
    Record(DecodeError),
    /// The path leads to another root.
    #[error("the path leads to another state root")]
    WrongRoot,
}

impl KeyProof {
    /// Checks the proof for `key` against an authenticated state root.
    pub fn verify(&self, state_root: &Digest, key: &[u8]) -> Result<Presence, ProofError> {
        let is_legal = |len: usize| (1..=STATE_KEY_BYTES_MAX).contains(&len);
        if !is_legal(key.len()) {
            return Err(ProofError::KeyLength { len: key.len() });
        }
        if !is_legal(self.leaf_key.len()) {
            return Err(ProofError::LeafKeyLength { len: self.leaf_key.len() });
        }
        let mut before = None;
        for &(bit, _) in &self.path {
            if bit >= bits::BITS_MAX {
                return Err(ProofError::BitOutOfRange { bit });
            }
            if before.is_some_and(|before| before >= bit) {
                return Err(ProofError::BitsNotIncreasing { bit });
            }
            if bits::side(key, bit) != bits::side(&self.leaf_key, bit) {
                return Err(ProofError::LeafElsewhere { bit });
            }
            before = Some(bit);
        }
        let record = Record::decode(&self.record).map_err(ProofError::Record)?;
        let mut computed = hash::state_leaf(&self.leaf_key, &hash::plain(&self.record));
        for (bit, sibling) in self.path.iter().rev() {
            computed = match bits::side(key, *bit) {
                0 => hash::branch(*bit, &computed, sibling),
                _ => hash::branch(*bit, sibling, &computed),
            };
        }
        if computed != *state_root {
            return Err(ProofError::WrongRoot);
        }
        Ok(if self.leaf_key == key { Presence::Present(record) } else { Presence::Absent })
    }

    /// Appends the canonical bytes to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        write_path(&mut writer, &self.path);
        writer.bytes_u16(&self.leaf_key);
        writer.raw(&self.record);
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Reads one proof and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<KeyProof, DecodeError> {
        let mut reader = Reader::new(bytes);
        let proof = KeyProof::decode_from(&mut reader)?;
        reader.finish()?;
        Ok(proof)
    }

    /// Reads one proof off the front of `reader`. What it says is checked by [`KeyProof::verify`]
    /// alone.
    pub fn decode_from(reader: &mut Reader<'_>) -> Result<KeyProof, DecodeError> {
        let path = read_path(reader, "key proof path")?;
        let leaf_key = reader.bytes_u16("leaf key", STATE_KEY_BYTES_MAX)?.to_vec();
        let record = reader.array("leaf record")?;
        Ok(KeyProof { path, leaf_key, record })
    }
}

/// Writes the number of steps and each of them.
pub(super) fn write_path(writer: &mut Writer<'_>, path: &[(u16, Digest)]) {
    writer.u16(u16::try_from(path.len()).expect("bits are below 18,432 and increase"));
    for (bit, sibling) in path {
        writer.u16(*bit);
        writer.digest(sibling);
    }
}

/// Reads what [`write_path`] writes.
pub(super) fn read_path(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Vec<(u16, Digest)>, DecodeError> {
    let count = usize::from(reader.u16(field)?);
    let count = reader.count(field, count, usize::from(bits::BITS_MAX), STEP_LEN)?;
    let mut path = Vec::with_capacity(count);
    for _ in 0..count {
        path.push((reader.u16("path bit")?, reader.digest("path hash")?));
    }
    Ok(path)
}

impl StateTree {
    /// Proves what the tree holds for `key`. The rows must show the tree's state. An empty tree
    /// proves nothing and is a fault: every vault has its descriptor.
    pub fn prove(&mut self, key: &[u8], store: &dyn TreeStore) -> Result<KeyProof, ReadFault> {
        self.rehash();
        self.generation += 1;
        let terminal = self.descend(key, store, RowsAt::TreeState)?;
        let leaf = terminal.ok_or(ReadFault::corrupt("the state tree has no leaves"))?;
        let leaf_key = self.leaves[leaf].to_vec();
        let record = store.record(&leaf_key)?;
        let record = record.ok_or(ReadFault::corrupt("a leaf of the state tree has no row"))?;
        let (_, leaf_hash, _) = self.slot();
        if hash::state_leaf(&leaf_key, &hash::plain(&record)) != leaf_hash {
            return Err(ReadFault::corrupt("a state row contradicts its leaf"));
        }
        let steps = self.path.iter().map(|step| {
            let bit = self.branches[step.branch].bit;
            (bit, self.branches.hashes(step.branch)[1 - step.side])
        });
        Ok(KeyProof { path: steps.collect(), leaf_key, record })
    }
}
