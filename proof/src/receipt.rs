//! Receipts: the proof that a transaction is in a block of a checkpointed log.

use ledger_types::limits::REQUEST_BYTES_MAX;
use ledger_types::{Digest, TxId};

use crate::block_proof::{AuthenticatedBlock, BlockProof, ReadAt, Trust, VerifyError};
use crate::checkpoint::Origin;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::known_checkpoint::KnownCheckpoint;
use crate::rfc9162::{PATH_LEN_MAX, verify_inclusion};
use crate::transaction::Transaction;
use crate::tx_tree::tx_leaf;

/// First bytes of an encoded receipt, which is also the form of a receipt file.
const MAGIC: [u8; 16] = *b"write-receipt/v1";
/// Longest transaction in bytes: a request with its outcomes and audit fields.
const TRANSACTION_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// A transaction with its way up to a signed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The block that holds it.
    pub block: BlockProof,
    /// Its canonical bytes.
    pub transaction: Vec<u8>,
    /// Its index in the block.
    pub index: u32,
    /// Its inclusion path; the size is the header's `tx_count`.
    pub path: Vec<Digest>,
}

/// Which transaction of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionChoice {
    /// The one with this id, as a write is answered.
    Id(TxId),
    /// The one at this index, from 0.
    Index(u32),
}

/// Which transaction a receipt is asked about, from the client's own memory.
#[derive(Clone, Copy, Debug)]
pub struct ReceiptRequest<'a> {
    /// The vault's log.
    pub origin: &'a Origin,
    /// The block that the write was answered with.
    pub height: u64,
    /// The transaction.
    pub transaction: TransactionChoice,
}

/// What a receipt proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedReceipt {
    /// The block, and the checkpoint to keep before returning.
    pub block: AuthenticatedBlock,
    /// The transaction with its outcomes.
    pub transaction: Transaction,
}

impl Receipt {
    /// Checks that the transaction is in the block.
    pub fn verify(
        &self,
        request: &ReceiptRequest<'_>,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<VerifiedReceipt, VerifyError> {
        let block =
            self.block.verify(request.origin, ReadAt::Height(request.height), trust, known)?;
        let (leaf, index) = (tx_leaf(&self.transaction), u64::from(self.index));
        let (size, root) = (u64::from(block.header.tx_count), block.header.tx_root);
        verify_inclusion(&leaf, index, size, &self.path, &root)
            .map_err(VerifyError::TransactionPath)?;
        let transaction = Transaction::decode(&self.transaction)?;
        let is_wanted = match request.transaction {
            TransactionChoice::Id(tx_id) => transaction.tx_id == tx_id,
            TransactionChoice::Index(index) => self.index == index,
        };
        if !is_wanted {
            return Err(VerifyError::OtherTransaction);
        }
        Ok(VerifiedReceipt { block, transaction })
    }

    /// The canonical bytes: the content of a receipt file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&MAGIC);
        self.block.write(&mut writer);
        writer.bytes_u32(&self.transaction);
        writer.u32(self.index);
        writer.digests_u16(&self.path);
        bytes
    }

    /// Reads one receipt and nothing else. What it says is checked by [`Receipt::verify`] alone.
    pub fn decode(bytes: &[u8]) -> Result<Receipt, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("receipt magic")? != MAGIC {
            let rule = "is not write-receipt/v1";
            return Err(DecodeError::Invalid { field: "receipt magic", rule });
        }
        let receipt = Receipt {
            block: BlockProof::read(&mut reader)?,
            transaction: reader.bytes_u32("transaction", TRANSACTION_BYTES_MAX)?.to_vec(),
            index: reader.u32("transaction index")?,
            path: reader.digests_u16("transaction path", PATH_LEN_MAX)?,
        };
        reader.finish()?;
        Ok(receipt)
    }
}
