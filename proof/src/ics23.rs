//! Key proofs in the form of ICS23, for verifiers that know nothing of this ledger.
//!
//! Owns the translation and the bytes, which are the protobuf messages `cosmos.ics23.v1`: a state key
//! is the ICS23 key, its record the ICS23 value. Must never decide what this ledger's own clients
//! believe: ICS23 does not compare the sides of a path with the bits of the key, so it takes two
//! records for one key under a root that was made for that, which [`KeyProof::verify`] refuses.

use ledger_types::Digest;

use crate::record::RECORD_LEN;
use crate::tree::{KeyProof, bits};

/// `HashOp.SHA256` and `LengthOp.VAR_PROTO`, which are both 1.
const SHA256: u64 = 1;
const VAR_PROTO: u64 = 1;
/// First bytes of what a leaf and a branch hash, as in [`crate::hash`].
const LEAF_PREFIX: u8 = 0x00;
const BRANCH_PREFIX: u8 = 0x02;
/// Bytes of a branch before its two hashes: the domain and the bit.
const BRANCH_PREFIX_LEN: u64 = 3;

/// Proof that a key has a record: an ICS23 `ExistenceProof`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Existence {
    /// The state key.
    pub key: Vec<u8>,
    /// Its record, in canonical bytes.
    pub value: [u8; RECORD_LEN],
    /// The way from the leaf up to the root.
    pub path: Vec<Step>,
}

/// A branch on the way up: an ICS23 `InnerOp`. What it hashes is prefix, child, suffix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The domain, the bit, and the hash of the zeros' side if the child is on the ones' side.
    pub prefix: Vec<u8>,
    /// The hash of the ones' side if the child is on the zeros' side, else nothing.
    pub suffix: Vec<u8>,
}

/// Proof that a key has no record: an ICS23 `NonExistenceProof`. The neighbours' records are in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NonExistence {
    /// The state key that is absent.
    pub key: Vec<u8>,
    /// The last key before it; `None` if it would be the first of all.
    pub left: Option<Existence>,
    /// The first key after it; `None` if it would be the last of all.
    pub right: Option<Existence>,
}

impl Existence {
    /// Translates the presence of the leaf of `proof`. Whether it holds is found by verifying.
    pub fn of_leaf(proof: &KeyProof) -> Existence {
        let step = |(bit, sibling): &(u16, Digest)| {
            let mut prefix = vec![BRANCH_PREFIX];
            prefix.extend(bit.to_be_bytes());
            match bits::side(&proof.leaf_key, *bit) {
                0 => Step { prefix, suffix: sibling.0.to_vec() },
                _ => Step { prefix: [prefix, sibling.0.to_vec()].concat(), suffix: Vec::new() },
            }
        };
        let path = proof.path.iter().rev().map(step).collect();
        Existence { key: proof.leaf_key.clone(), value: proof.record, path }
    }

    /// The bytes of a `CommitmentProof` with this proof.
    pub fn encode(&self) -> Vec<u8> {
        message(1, &self.message())
    }

    fn message(&self) -> Vec<u8> {
        let mut bytes = [message(1, &self.key), message(2, &self.value)].concat();
        bytes.extend(message(3, &leaf_op()));
        for step in &self.path {
            let mut inner = number(1, SHA256);
            inner.extend(message(2, &step.prefix));
            if !step.suffix.is_empty() {
                inner.extend(message(3, &step.suffix));
            }
            bytes.extend(message(4, &inner));
        }
        bytes
    }
}

impl NonExistence {
    /// Translates the absence of `key` from proofs of the leaves next to it in the order of keys.
    /// `None` without any neighbour: a tree without leaves proves nothing.
    pub fn between(
        key: &[u8],
        left: Option<&KeyProof>,
        right: Option<&KeyProof>,
    ) -> Option<NonExistence> {
        if left.is_none() && right.is_none() {
            return None;
        }
        let [left, right] = [left, right].map(|proof| proof.map(Existence::of_leaf));
        Some(NonExistence { key: key.to_vec(), left, right })
    }

    /// The bytes of a `CommitmentProof` with this proof.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = message(1, &self.key);
        for (field, neighbour) in [(2, &self.left), (3, &self.right)] {
            if let Some(neighbour) = neighbour {
                bytes.extend(message(field, &neighbour.message()));
            }
        }
        message(2, &bytes)
    }
}

/// The bytes of the `ProofSpec` under which exported proofs are verified. Fields that are left out
/// are 0, empty or false: the least depth, the empty child, hashing keys before they are compared.
pub fn spec() -> Vec<u8> {
    let mut inner = message(1, &[0, 1]);
    inner.extend(number(2, Digest::LEN as u64));
    inner.extend(number(3, BRANCH_PREFIX_LEN));
    inner.extend(number(4, BRANCH_PREFIX_LEN));
    inner.extend(number(6, SHA256));
    let depth_max = number(3, bits::BITS_MAX.into());
    [message(1, &leaf_op()), message(2, &inner), depth_max].concat()
}

/// What a leaf hashes: the domain, then key and value, each hashed and after its length.
fn leaf_op() -> Vec<u8> {
    let hashes = [1, 2, 3].map(|field| number(field, SHA256)).concat();
    [hashes, number(4, VAR_PROTO), message(5, &[LEAF_PREFIX])].concat()
}

/// A protobuf field of bytes or of another message.
fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    push_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

/// A protobuf field of a number or an enum.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    push_varint(&mut out, value);
    out
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
