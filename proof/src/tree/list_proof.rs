//! Proofs that a run of leaves is all that a state root holds under a prefix of keys, or a page of it.
//!
//! Owns the bytes of these proofs and the check of each by itself; a list of several pages is
//! checked by [`super::ListCheck`]. Must never take the root or the prefix from the proof: the
//! caller brings both. Each leaf is present as if by a key proof; that none is missing holds if the
//! root was computed honestly.

use ledger_types::Digest;
use ledger_types::limits::{PAGE_ITEMS_MAX, STATE_KEY_BYTES_MAX};
use thiserror::Error;

use super::assembly::{Assembly, EqualSeparators};
use super::bits;
use super::key_proof::{KeyProof, ProofError, read_path, write_path};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;
use crate::record::{RECORD_LEN, Record};

/// Most leaves of one proof: the leaf that the caller kept and a full page of new ones.
pub const LIST_LEAVES_MAX: usize = PAGE_ITEMS_MAX + 1;
/// Fewest bytes of an encoded leaf: the length of its key and its record.
pub(super) const LEAF_BYTES_MIN: usize = 2 + RECORD_LEN;

/// First byte of each form of a list proof.
const EMPTY: u8 = 1;
const WHOLE: u8 = 2;
const PAGE: u8 = 3;

/// A leaf as a proof carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListLeaf {
    /// Its state key.
    pub key: Vec<u8>,
    /// Its record, in canonical bytes.
    pub record: [u8; RECORD_LEN],
}

/// A leaf whose record was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListItem {
    /// Its state key.
    pub key: Vec<u8>,
    /// Its record; the value, if it is needed, must have its hash.
    pub record: Record,
}

/// Proof that these leaves, one or more, are all that begin with a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrefixProof {
    /// The branches from the root down to the prefix: the bit each splits on, below the bits of the
    /// prefix, and the hash of the side not taken.
    pub path: Vec<(u16, Digest)>,
    /// All leaves below, in key order.
    pub leaves: Vec<ListLeaf>,
}

/// Proof that these leaves, one or more, are neighbours in the tree, and what is on both sides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageProof {
    /// The branches at which the first leaf takes side 1, from the root down, with their side 0.
    pub left: Vec<(u16, Digest)>,
    /// The branches at which the last leaf takes side 0, from the root down, with their side 1.
    pub right: Vec<(u16, Digest)>,
    /// The leaves in key order.
    pub leaves: Vec<ListLeaf>,
}

/// What a page proof proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvedPage {
    /// Its leaves in key order.
    pub items: Vec<ListItem>,
    /// No leaf before them begins with the prefix.
    pub is_first: bool,
    /// No leaf after them begins with the prefix.
    pub is_last: bool,
}

/// The answer to one request for a list or its next page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListProof {
    /// Nothing begins with the prefix: the key proof of the prefix, taken as a key.
    Empty(KeyProof),
    /// The whole list at once.
    Whole(PrefixProof),
    /// A page of it.
    Page(PageProof),
}

/// Why a list proof proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ListError {
    /// The prefix asked for is empty or too long to begin a state key.
    #[error("the prefix has {len} bytes; state keys have 1 to 2048")]
    PrefixLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A bit is not one that a state key has.
    #[error("bit {bit} is out of range")]
    BitOutOfRange {
        /// The bit.
        bit: u16,
    },
    /// The bits of a path do not increase.
    #[error("bit {bit} does not come after the one before it")]
    BitsNotIncreasing {
        /// The bit.
        bit: u16,
    },
    /// The path leads past the prefix, so that leaves beginning with it may be left out.
    #[error("bit {bit} of the path is beyond the prefix")]
    BitBeyondPrefix {
        /// The bit.
        bit: u16,
    },
    /// There are no leaves; an empty list has another proof.
    #[error("there are no leaves")]
    NoLeaves,
    /// A leaf is not of the list.
    #[error("leaf {index} does not begin with the prefix")]
    OutsidePrefix {
        /// Its place in the proof.
        index: usize,
    },
    /// A leaf's key is too long to be a state key.
    #[error("the key of leaf {index} has {len} bytes; state keys have 1 to 2048")]
    LeafKeyLength {
        /// Its place in the proof.
        index: usize,
        /// The length of its key in bytes.
        len: usize,
    },
    /// The leaves are out of order or one is repeated.
    #[error("leaf {index} does not come after the one before it")]
    NotAscending {
        /// Its place in the proof.
        index: usize,
    },
    /// A leaf's record is malformed.
    #[error("the record of leaf {index} is malformed: {error}")]
    Record {
        /// Its place in the proof.
        index: usize,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The first leaf does not take side 1 at a bit to its left.
    #[error("nothing is left of the first leaf at bit {bit}")]
    NotLeft {
        /// The bit.
        bit: u16,
    },
    /// The last leaf does not take side 0 at a bit to its right.
    #[error("nothing is right of the last leaf at bit {bit}")]
    NotRight {
        /// The bit.
        bit: u16,
    },
    /// Neighbours are separated by the same bit with no smaller one between, as in no tree. The
    /// sides of the outer leaves are checked before and leave no proof with such bits; a fold that
    /// went on regardless would depend on its own order.
    #[error("bit {bit} separates twice")]
    EqualSeparators {
        /// The bit.
        bit: u16,
    },
    /// The proof leads to another root.
    #[error("the list leads to another state root")]
    WrongRoot,
    /// The key proof of an empty list does not hold.
    #[error("the proof of an empty list does not hold: {0}")]
    Key(ProofError),
    /// The proof of an empty list shows a leaf that begins with the prefix.
    #[error("a leaf begins with the prefix, the list is not empty")]
    NotEmpty,
    /// The list's first page leaves out what comes before it.
    #[error("leaves of the list come before its first page")]
    NotTheFirst,
    /// A later page does not begin with the last leaf of the page before.
    #[error("the page does not begin with the leaf that was last before")]
    NotTheNext,
    /// A later page of an unfinished list shows no further leaf.
    #[error("the page adds nothing and is not the last")]
    NothingAdded,
    /// After a first page came something else than a page.
    #[error("what follows a page is not a page")]
    NotAPage,
    /// A page came after the last.
    #[error("the list was complete already")]
    AfterTheLast,
    /// The last of the pages is not the list's last.
    #[error("leaves of the list come after the last of its pages")]
    Unfinished,
}

impl From<EqualSeparators> for ListError {
    fn from(EqualSeparators(bit): EqualSeparators) -> ListError {
        ListError::EqualSeparators { bit }
    }
}

impl PrefixProof {
    /// Checks that the leaves are all that begin with `prefix` under an authenticated state root.
    pub fn verify(&self, state_root: &Digest, prefix: &[u8]) -> Result<Vec<ListItem>, ListError> {
        let prefix_bits = checked_bits(prefix)?;
        check_increasing(&self.path)?;
        if let Some(&(bit, _)) = self.path.iter().find(|(bit, _)| *bit >= prefix_bits) {
            return Err(ListError::BitBeyondPrefix { bit });
        }
        let items = checked_items(&self.leaves, prefix)?;
        let mut assembly = Assembly::new();
        push_leaves(&mut assembly, 0, &self.leaves)?;
        let mut computed = assembly.finish(join).expect("there are leaves");
        for (bit, sibling) in self.path.iter().rev() {
            computed = match bits::side(prefix, *bit) {
                0 => hash::branch(*bit, &computed, sibling),
                _ => hash::branch(*bit, sibling, &computed),
            };
        }
        if computed == *state_root { Ok(items) } else { Err(ListError::WrongRoot) }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        write_path(writer, &self.path);
        write_leaves(writer, &self.leaves);
    }

    fn read(reader: &mut Reader<'_>) -> Result<PrefixProof, DecodeError> {
        let path = read_path(reader, "prefix proof path")?;
        Ok(PrefixProof { path, leaves: read_leaves(reader)? })
    }
}

impl PageProof {
    /// Checks that the leaves are neighbours that begin with `prefix` under an authenticated state
    /// root. Whether they are the page that the caller expects is not checked here.
    pub fn verify(&self, state_root: &Digest, prefix: &[u8]) -> Result<ProvedPage, ListError> {
        let prefix_bits = checked_bits(prefix)?;
        check_increasing(&self.left)?;
        check_increasing(&self.right)?;
        for &(bit, _) in self.left.iter().chain(&self.right) {
            if bit >= bits::BITS_MAX {
                return Err(ListError::BitOutOfRange { bit });
            }
        }
        let items = checked_items(&self.leaves, prefix)?;
        let (first, last) = (&self.leaves[0].key, &self.leaves[self.leaves.len() - 1].key);
        if let Some(&(bit, _)) = self.left.iter().find(|(bit, _)| bits::side(first, *bit) == 0) {
            return Err(ListError::NotLeft { bit });
        }
        if let Some(&(bit, _)) = self.right.iter().find(|(bit, _)| bits::side(last, *bit) == 1) {
            return Err(ListError::NotRight { bit });
        }
        let mut assembly = Assembly::new();
        let mut separator = 0;
        for (bit, subtree) in &self.left {
            assembly.push(separator, *subtree, join)?;
            separator = *bit;
        }
        push_leaves(&mut assembly, separator, &self.leaves)?;
        for (bit, subtree) in self.right.iter().rev() {
            assembly.push(*bit, *subtree, join)?;
        }
        if assembly.finish(join).expect("there are leaves") != *state_root {
            return Err(ListError::WrongRoot);
        }
        // A subtree that parts from the run within the prefix holds no key that begins with it; one
        // that parts later holds nothing else.
        let is_edge = |path: &[(u16, Digest)]| path.iter().all(|(bit, _)| *bit < prefix_bits);
        let (is_first, is_last) = (is_edge(&self.left), is_edge(&self.right));
        Ok(ProvedPage { items, is_first, is_last })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        write_path(writer, &self.left);
        write_path(writer, &self.right);
        write_leaves(writer, &self.leaves);
    }

    fn read(reader: &mut Reader<'_>) -> Result<PageProof, DecodeError> {
        let left = read_path(reader, "page left of it")?;
        let right = read_path(reader, "page right of it")?;
        Ok(PageProof { left, right, leaves: read_leaves(reader)? })
    }
}

impl ListProof {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// The key after which the list goes on, as this proof by itself says; `None` if nothing of the list comes
    /// after its leaves. For whoever made the proof: a reader has it from [`super::ListCheck`].
    pub fn goes_on_after(&self, prefix: &[u8]) -> Option<&[u8]> {
        let ListProof::Page(page) = self else { return None };
        let is_edge = |(bit, _): &(u16, Digest)| *bit < bits::count(prefix);
        match page.right.iter().all(is_edge) {
            true => None,
            false => page.leaves.last().map(|leaf| &leaf.key[..]),
        }
    }

    /// Appends the canonical bytes to `bytes`.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        match self {
            ListProof::Empty(proof) => {
                bytes.push(EMPTY);
                proof.encode_into(bytes);
            }
            ListProof::Whole(proof) => {
                bytes.push(WHOLE);
                proof.write(&mut Writer::new(bytes));
            }
            ListProof::Page(proof) => {
                bytes.push(PAGE);
                proof.write(&mut Writer::new(bytes));
            }
        }
    }

    /// Reads one proof and nothing else. What it says is checked by [`super::ListCheck`] alone.
    pub fn decode(bytes: &[u8]) -> Result<ListProof, DecodeError> {
        let mut reader = Reader::new(bytes);
        let proof = ListProof::decode_from(&mut reader)?;
        reader.finish()?;
        Ok(proof)
    }

    /// Reads one proof and leaves what follows it to the caller.
    pub fn decode_from(reader: &mut Reader<'_>) -> Result<ListProof, DecodeError> {
        let field = "form of the list proof";
        match reader.u8(field)? {
            EMPTY => Ok(ListProof::Empty(KeyProof::decode_from(reader)?)),
            WHOLE => Ok(ListProof::Whole(PrefixProof::read(reader)?)),
            PAGE => Ok(ListProof::Page(PageProof::read(reader)?)),
            form => Err(DecodeError::UnknownValue { field, value: form.into() }),
        }
    }
}

/// Checks that nothing begins with `prefix` under an authenticated state root. Following the
/// prefix's own bits and then zeros, one would meet a leaf that begins with it if there were any.
pub(super) fn verify_empty(
    proof: &KeyProof,
    state_root: &Digest,
    prefix: &[u8],
) -> Result<(), ListError> {
    checked_bits(prefix)?;
    proof.verify(state_root, prefix).map_err(ListError::Key)?;
    if proof.leaf_key.starts_with(prefix) { Err(ListError::NotEmpty) } else { Ok(()) }
}

/// The number of the prefix's bits, if state keys can begin with it.
pub(super) fn checked_bits(prefix: &[u8]) -> Result<u16, ListError> {
    if (1..=STATE_KEY_BYTES_MAX).contains(&prefix.len()) {
        Ok(bits::count(prefix))
    } else {
        Err(ListError::PrefixLength { len: prefix.len() })
    }
}

fn check_increasing(path: &[(u16, Digest)]) -> Result<(), ListError> {
    match path.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        Some(pair) => Err(ListError::BitsNotIncreasing { bit: pair[1].0 }),
        None => Ok(()),
    }
}

/// Checks keys and records of the leaves and reads the latter.
fn checked_items(leaves: &[ListLeaf], prefix: &[u8]) -> Result<Vec<ListItem>, ListError> {
    let mut items: Vec<ListItem> = Vec::with_capacity(leaves.len());
    for (index, leaf) in leaves.iter().enumerate() {
        if leaf.key.len() > STATE_KEY_BYTES_MAX {
            return Err(ListError::LeafKeyLength { index, len: leaf.key.len() });
        }
        if !leaf.key.starts_with(prefix) {
            return Err(ListError::OutsidePrefix { index });
        }
        if items.last().is_some_and(|before| before.key >= leaf.key) {
            return Err(ListError::NotAscending { index });
        }
        let record = Record::decode(&leaf.record);
        let record = record.map_err(|error| ListError::Record { index, error })?;
        items.push(ListItem { key: leaf.key.clone(), record });
    }
    if items.is_empty() { Err(ListError::NoLeaves) } else { Ok(items) }
}

/// Adds leaves in key order; `separator` parts the first from what was added before.
fn push_leaves(
    assembly: &mut Assembly<Digest>,
    mut separator: u16,
    leaves: &[ListLeaf],
) -> Result<(), ListError> {
    let mut before: Option<&ListLeaf> = None;
    for leaf in leaves {
        if let Some(before) = before {
            let difference = bits::first_difference(&before.key, &leaf.key);
            separator = difference.expect("leaves ascend");
        }
        let leaf_hash = hash::state_leaf(&leaf.key, &hash::plain(&leaf.record));
        assembly.push(separator, leaf_hash, join)?;
        before = Some(leaf);
    }
    Ok(())
}

fn join(bit: u16, left: Digest, right: Digest) -> Digest {
    hash::branch(bit, &left, &right)
}

fn write_leaves(writer: &mut Writer<'_>, leaves: &[ListLeaf]) {
    assert!(leaves.len() <= LIST_LEAVES_MAX, "pages are limited");
    writer.u16(leaves.len() as u16);
    for leaf in leaves {
        writer.bytes_u16(&leaf.key);
        writer.raw(&leaf.record);
    }
}

fn read_leaves(reader: &mut Reader<'_>) -> Result<Vec<ListLeaf>, DecodeError> {
    let field = "leaves of the list";
    let count = usize::from(reader.u16(field)?);
    let count = reader.count(field, count, LIST_LEAVES_MAX, LEAF_BYTES_MIN)?;
    let mut leaves = Vec::with_capacity(count);
    for _ in 0..count {
        let key = reader.bytes_u16("leaf key", STATE_KEY_BYTES_MAX)?.to_vec();
        leaves.push(ListLeaf { key, record: reader.array("leaf record")? });
    }
    Ok(leaves)
}
