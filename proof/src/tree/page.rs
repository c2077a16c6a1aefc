//! Bytes of stored pages and of the anchor. Local to a replica: only the hashes inside are shared.
//!
//! A page is a run of unloaded subtrees in key order with the bits that separate neighbours, from
//! which its branches follow: the smallest bit is on top.

use ledger_types::Digest;
use ledger_types::limits::STATE_KEY_BYTES_MAX;

use super::arena::StoredPage;
use super::assembly::Assembly;
use super::{BUCKET_LEAVES, PAGE_BRANCHES_MAX, bits};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;
use crate::read_fault::ReadFault;

/// First byte of a page and of an anchor.
const VERSION: u8 = 1;
/// Takes the place of a bucket's leaf count in entries that are pages.
const PAGE_TAG: u8 = 0;
/// Fewest bytes of an entry: separator, count, hash, prefix lengths.
const ENTRY_BYTES_MIN: usize = 39;

/// What a flush does to one stored page, in the same batch as the anchor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageWrite {
    /// Writes a page.
    Put {
        /// The page's id.
        id: u64,
        /// Height of the flush that writes it.
        height: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Retires an older version of a page, or the last one of a page that is no more. Trees at this
    /// flush's anchor and later ones never read it; earlier anchors lead to it as long as it is kept.
    Retire {
        /// The page's id.
        id: u64,
        /// Height of the flush that had written it.
        height: u64,
    },
}

/// Where a stored tree begins. Kept in the vault row, written with the pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeAnchor {
    /// Height of the last block in the stored tree; keys of later blocks are reconciled.
    pub height: u64,
    /// Leaves of the stored tree.
    pub leaf_count: u64,
    /// Root of the stored tree.
    pub root: Digest,
    /// Id and height of the top page; `None` if the tree is a single bucket or empty.
    pub root_page: Option<(u64, u64)>,
    /// The next page id to give out.
    pub next_page_id: u64,
}

impl TreeAnchor {
    /// The anchor of an empty tree.
    pub fn empty() -> TreeAnchor {
        TreeAnchor {
            height: 0,
            leaf_count: 0,
            root: hash::empty_root(),
            root_page: None,
            next_page_id: 1,
        }
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(74);
        let mut writer = Writer::new(&mut bytes);
        writer.u8(VERSION);
        writer.u64(self.height);
        writer.u64(self.leaf_count);
        writer.digest(&self.root);
        writer.u64(self.next_page_id);
        writer.flag(self.root_page.is_some());
        if let Some((id, height)) = self.root_page {
            writer.u64(id);
            writer.u64(height);
        }
        bytes
    }

    /// Reads what [`TreeAnchor::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<TreeAnchor, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("anchor version")?;
        if version != VERSION {
            let (field, value) = ("anchor version", version.into());
            return Err(DecodeError::UnknownValue { field, value });
        }
        let height = reader.u64("anchor height")?;
        let leaf_count = reader.u64("anchor leaf count")?;
        let root = reader.digest("anchor root")?;
        let next_page_id = reader.u64("anchor next page id")?;
        let root_page = match reader.flag("anchor root page")? {
            false => None,
            true => Some((reader.u64("anchor page id")?, reader.u64("anchor page height")?)),
        };
        reader.finish()?;
        if root_page.is_some() != (leaf_count > BUCKET_LEAVES) {
            let rule = "does not fit the leaf count";
            return Err(DecodeError::Invalid { field: "anchor root page", rule });
        }
        Ok(TreeAnchor { height, leaf_count, root, root_page, next_page_id })
    }
}

/// An unloaded subtree as a page lists it.
pub(super) struct Entry {
    /// The bit that separates it from the entry before; 0 for the first.
    pub(super) separator: u16,
    pub(super) hash: Digest,
    pub(super) leaf_count: u64,
    pub(super) kind: EntryKind,
}

pub(super) enum EntryKind {
    /// Leaves to read from the rows with this bit prefix.
    Bucket { prefix: Box<[u8]> },
    /// Another stored page.
    Page { id: u64, height: u64 },
}

/// Writes a page entry by entry; prefixes of buckets are stored as what they add to the one before.
pub(super) struct PageEncoder<'a> {
    bytes: Vec<u8>,
    entries_left: usize,
    /// The prefix of the bucket before, in memory that the next page uses again.
    before: &'a mut Vec<u8>,
}

impl PageEncoder<'_> {
    /// Begins a page of so many entries.
    pub(super) fn new(entries: usize, before: &mut Vec<u8>) -> PageEncoder<'_> {
        assert!((2..=PAGE_BRANCHES_MAX + 1).contains(&entries), "a page has 1 to 256 branches");
        let mut bytes = Vec::with_capacity(4 + entries * 64);
        let mut writer = Writer::new(&mut bytes);
        writer.u8(VERSION);
        writer.u16(entries as u16);
        before.clear();
        PageEncoder { bytes, entries_left: entries, before }
    }

    /// Another stored page.
    pub(super) fn page(&mut self, separator: u16, hash: &Digest, page: &StoredPage) {
        let mut writer = self.entry(separator, PAGE_TAG, hash);
        writer.u64(page.id);
        writer.u64(page.height);
        writer.u64(page.leaf_count);
    }

    /// Leaves to read from the rows with this bit prefix.
    pub(super) fn bucket(&mut self, separator: u16, hash: &Digest, leaf_count: u64, prefix: &[u8]) {
        assert!((1..=BUCKET_LEAVES).contains(&leaf_count), "a bucket is small");
        let shared = bits::shared_bytes(self.before, prefix);
        let mut writer = self.entry(separator, leaf_count as u8, hash);
        writer.u16(shared as u16);
        writer.bytes_u16(&prefix[shared..]);
        self.before.truncate(shared);
        self.before.extend_from_slice(&prefix[shared..]);
    }

    fn entry(&mut self, separator: u16, tag: u8, hash: &Digest) -> Writer<'_> {
        self.entries_left = self.entries_left.checked_sub(1).expect("no more entries than said");
        let mut writer = Writer::new(&mut self.bytes);
        writer.u16(separator);
        writer.u8(tag);
        writer.digest(hash);
        writer
    }

    /// The page's bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        assert_eq!(self.entries_left, 0, "as many entries as said");
        self.bytes
    }
}

/// A stored page that another page, or an anchor, leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PageReference {
    /// The page's id.
    pub id: u64,
    /// Height of the flush that wrote it.
    pub height: u64,
    /// Root of the subtree that begins with it.
    pub root: Digest,
    /// Leaves of that subtree.
    pub leaf_count: u64,
}

/// What a stored page commits to and which pages it leads to, for whoever checks stored trees without
/// opening them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageSummary {
    /// Root of the subtree that begins with the page.
    pub root: Digest,
    /// Leaves of that subtree.
    pub leaf_count: u64,
    /// The pages right below it, in key order.
    pub pages: Vec<PageReference>,
}

impl PageSummary {
    /// Reads a page's bytes and computes its root. Errors if they are malformed.
    pub fn read(bytes: &[u8]) -> Result<PageSummary, ReadFault> {
        let mut pages = Vec::new();
        let mut assembly = Assembly::new();
        let join = |bit, left: (Digest, u64), right: (Digest, u64)| {
            (hash::branch(bit, &left.0, &right.0), left.1.saturating_add(right.1))
        };
        for Entry { separator, hash: root, leaf_count, kind } in decode(bytes)? {
            if let EntryKind::Page { id, height } = kind {
                pages.push(PageReference { id, height, root, leaf_count });
            }
            assembly.push(separator, (root, leaf_count), join)?;
        }
        let (root, leaf_count) = assembly.finish(join).expect("a decoded page has entries");
        Ok(PageSummary { root, leaf_count, pages })
    }
}

/// Reads the entries of a page. Their hashes are not checked here, the bytes' shape is.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, ReadFault> {
    decode_entries(bytes).map_err(|_| ReadFault::corrupt("a page of the state tree is malformed"))
}

fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("page version")?;
    let count = usize::from(reader.u16("page entries")?);
    let count = reader.count("page entries", count, PAGE_BRANCHES_MAX + 1, ENTRY_BYTES_MIN)?;
    if version != VERSION || count < 2 {
        return Err(DecodeError::Invalid { field: "page", rule: "has no known form" });
    }
    let mut entries = Vec::with_capacity(count);
    let mut before: Box<[u8]> = Box::default();
    for _ in 0..count {
        let separator = reader.u16("separator")?;
        let tag = reader.u8("bucket leaves")?;
        let hash = reader.digest("hash")?;
        if separator >= bits::BITS_MAX || u64::from(tag) > BUCKET_LEAVES {
            return Err(DecodeError::Invalid { field: "page entry", rule: "is out of range" });
        }
        let (leaf_count, kind) = if tag == PAGE_TAG {
            let (id, height) = (reader.u64("page id")?, reader.u64("page height")?);
            (reader.u64("page leaves")?, EntryKind::Page { id, height })
        } else {
            let prefix = decode_prefix(&mut reader, &before)?;
            before = prefix.clone();
            (u64::from(tag), EntryKind::Bucket { prefix })
        };
        entries.push(Entry { separator, hash, leaf_count, kind });
    }
    reader.finish()?;
    Ok(entries)
}

fn decode_prefix(reader: &mut Reader<'_>, before: &[u8]) -> Result<Box<[u8]>, DecodeError> {
    let field = "bucket prefix";
    let shared = usize::from(reader.u16(field)?);
    let shared = before.get(..shared).ok_or(DecodeError::Truncated { field })?;
    let added = reader.bytes_u16(field, STATE_KEY_BYTES_MAX - shared.len())?;
    Ok([shared, added].concat().into_boxed_slice())
}
