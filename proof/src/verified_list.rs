//! Verified lists: what an answer to a list carries, its bytes, and the whole check of it.
//!
//! The first answer brings the block; every later page is checked under the state root of that block. Must
//! never return an item whose value is not the one its record commits to.

use ledger_types::limits::{PAGE_ITEMS_MAX, VALUE_BYTES_MAX};

use crate::block_proof::{AuthenticatedBlock, BlockProof, ReadAt, Trust, VerifyError};
use crate::checkpoint::Origin;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::hash;
use crate::known_checkpoint::KnownCheckpoint;
use crate::record::Record;
use crate::tree::{ListCheck, ListProof};
use crate::verified_read::expiry_time;

/// First bytes of an encoded first answer.
const FIRST_MAGIC: [u8; 16] = *b"verified-list/v1";
/// First bytes of an encoded later page.
const PAGE_MAGIC: [u8; 16] = *b"list-page/v1\0\0\0\0";
/// Fewest bytes of a value: its length.
const ITEM_BYTES_MIN: usize = 4;

/// A page of a list with the values of its items.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPage {
    /// The proof of its leaves.
    pub proof: ListProof,
    /// One value for each leaf but the one that the page before ended with, in order; of a relationship
    /// the empty one.
    pub values: Vec<Vec<u8>>,
}

/// The first answer to a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedList {
    /// The header under whose state root all pages are proved.
    pub block: BlockProof,
    /// The first page.
    pub page: ListPage,
}

/// Which list is asked for, from the client's own memory.
#[derive(Clone, Copy, Debug)]
pub struct ListQuestion<'a> {
    /// The vault's log.
    pub origin: &'a Origin,
    /// Which block.
    pub at: ReadAt,
    /// What the state keys begin with, tag included.
    pub prefix: &'a [u8],
}

/// An item of a list that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedItem {
    /// Its state key.
    pub key: Vec<u8>,
    /// Its record.
    pub record: Record,
    /// Its value.
    pub value: Vec<u8>,
}

/// A list under way. Nothing in it comes from an answer that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListProgress {
    block: AuthenticatedBlock,
    check: ListCheck,
    expiry_time: u64,
}

impl VerifiedList {
    /// Checks the first answer: origin, signatures, growth of the log, header, the first page. On success
    /// the caller stores the checkpoint before it returns an item. Items that have expired are left out;
    /// the time for that is chosen now, for all pages.
    pub fn verify(
        &self,
        question: &ListQuestion<'_>,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<(ListProgress, Vec<VerifiedItem>), VerifyError> {
        let block = self.block.verify(question.origin, question.at, trust, known)?;
        let expiry_time = expiry_time(&block.header, question.at, trust.times);
        let check = ListCheck::new(block.header.state_root, question.prefix, expiry_time)?;
        let mut progress = ListProgress { block, check, expiry_time };
        let items = progress.accept(&self.page)?;
        Ok((progress, items))
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&FIRST_MAGIC);
        self.block.write(&mut writer);
        self.page.write(&mut bytes);
        bytes
    }

    /// Reads one first answer and nothing else. What it says is checked by [`VerifiedList::verify`] alone.
    pub fn decode(bytes: &[u8]) -> Result<VerifiedList, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("list magic")? != FIRST_MAGIC {
            let rule = "is not verified-list/v1";
            return Err(DecodeError::Invalid { field: "list magic", rule });
        }
        let list = VerifiedList {
            block: BlockProof::read(&mut reader)?,
            page: ListPage::read(&mut reader)?,
        };
        reader.finish()?;
        Ok(list)
    }
}

impl ListProgress {
    /// The block that all pages are of, and the checkpoint to keep.
    pub fn block(&self) -> &AuthenticatedBlock {
        &self.block
    }

    /// Whether the last page was checked. Before it was, the list is not to be taken for complete.
    pub fn is_complete(&self) -> bool {
        self.check.is_complete()
    }

    /// Checks the next page and returns its new items that have not expired. After an error the list is
    /// where it was, and another answer may be tried.
    pub fn accept(&mut self, page: &ListPage) -> Result<Vec<VerifiedItem>, VerifyError> {
        let mut check = self.check.clone();
        let leaves = check.accept_leaves(&page.proof)?;
        if leaves.len() != page.values.len() {
            let (leaves, values) = (leaves.len(), page.values.len());
            return Err(VerifyError::ValueCount { leaves, values });
        }
        let mut items = Vec::with_capacity(leaves.len());
        for (index, (leaf, value)) in leaves.into_iter().zip(&page.values).enumerate() {
            if hash::plain(value) != leaf.record.value_hash {
                return Err(VerifyError::ValueMismatch { index });
            }
            if !leaf.record.is_expired(self.expiry_time) {
                let value = value.clone();
                items.push(VerifiedItem { key: leaf.key, record: leaf.record, value });
            }
        }
        self.check = check;
        Ok(items)
    }
}

impl ListPage {
    /// The canonical bytes of a later page.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = PAGE_MAGIC.to_vec();
        self.write(&mut bytes);
        bytes
    }

    /// Reads one later page and nothing else. What it says is checked by [`ListProgress::accept`] alone.
    pub fn decode(bytes: &[u8]) -> Result<ListPage, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("page magic")? != PAGE_MAGIC {
            let rule = "is not list-page/v1";
            return Err(DecodeError::Invalid { field: "page magic", rule });
        }
        let page = ListPage::read(&mut reader)?;
        reader.finish()?;
        Ok(page)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        self.proof.encode_into(bytes);
        assert!(self.values.len() <= PAGE_ITEMS_MAX, "pages are limited");
        let mut writer = Writer::new(bytes);
        writer.u16(self.values.len() as u16);
        for value in &self.values {
            writer.bytes_u32(value);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<ListPage, DecodeError> {
        let proof = ListProof::decode_from(reader)?;
        let count = usize::from(reader.u16("values")?);
        let count = reader.count("values", count, PAGE_ITEMS_MAX, ITEM_BYTES_MIN)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(reader.bytes_u32("value", VALUE_BYTES_MAX)?.to_vec());
        }
        Ok(ListPage { proof, values })
    }
}
