//! Receipts: the proof that a transaction is in a block. Must never return one that did not hold.

use std::sync::Arc;

use ledger_proof::{
    KnownCheckpoint, Origin, Receipt, ReceiptRequest, TransactionChoice, Trust, VerifiedReceipt,
    VerifyError,
};
use ledger_proto::v1;
use ledger_proto::v1::get_receipt_request::Transaction as Choice;
use ledger_types::VaultRef;

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::proving::{Held, Question, VaultTrust};
use crate::saved_proof::{ReceiptStep, SavedProof, Subject};
use crate::write::wire_vault;

/// A transaction that is proved to be in a block.
#[derive(Clone, Debug)]
pub struct CheckedReceipt {
    /// What is proved: the block, the checkpoint over it, and the transaction with its outcomes.
    pub proved: VerifiedReceipt,
    voters: Arc<VaultTrust>,
    step: ReceiptStep,
}

impl CheckedReceipt {
    /// The transaction's index in its block, from 0.
    pub fn index(&self) -> u32 {
        self.step.receipt.index
    }

    /// The receipt with everything that is needed to check it without a network.
    pub fn saved_proof(&self) -> SavedProof {
        SavedProof::new(self.voters.steps.clone(), Subject::Receipt(self.step.clone()))
    }
}

/// A question for a transaction of a block.
#[derive(Clone, Copy, Debug)]
struct ReceiptQuestion {
    height: u64,
    transaction: TransactionChoice,
}

impl Question for ReceiptQuestion {
    type Package = Vec<u8>;
    type Answer = (Receipt, VerifiedReceipt);

    async fn fetch(
        &self,
        client: &Client,
        vault: VaultRef,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Vec<u8>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::GetReceiptRequest {
            namespace_id,
            vault_id,
            block_height: self.height,
            transaction: Some(match self.transaction {
                TransactionChoice::Id(tx_id) => Choice::TxId(tx_id.into()),
                TransactionChoice::Index(index) => Choice::TxIndex(index),
            }),
            known_size: known.map(|known| known.size),
        };
        let kind = CallKind::reads(Route::Leader(vault));
        Ok(client.call(method::GET_RECEIPT, kind, &request).await?.package)
    }

    fn check(
        &self,
        package: &Vec<u8>,
        origin: &Origin,
        trust: &Trust<'_>,
        known: Option<&KnownCheckpoint>,
    ) -> Result<Held<(Receipt, VerifiedReceipt)>, VerifyError> {
        let ReceiptQuestion { height, transaction } = *self;
        let receipt = Receipt::decode(package)?;
        let request = ReceiptRequest { origin, height, transaction };
        let verified = receipt.verify(&request, trust, known)?;
        let checkpoint = verified.block.checkpoint.clone();
        Ok(Held { answer: (receipt, verified), checkpoint })
    }
}

impl Client {
    /// Asks for the receipt of a transaction in the block of this height and checks it. The checkpoint that
    /// the answer brought is remembered before this returns, as with [`Client::verified_get`].
    pub async fn receipt(
        &self,
        vault: VaultRef,
        height: u64,
        transaction: TransactionChoice,
    ) -> Result<CheckedReceipt, ClientError> {
        let question = ReceiptQuestion { height, transaction };
        let (checked, voters) = self.prove(vault, &question).await?;
        let (receipt, proved) = checked.answer;
        let step = ReceiptStep { vault, height, transaction, receipt };
        Ok(CheckedReceipt { proved, voters, step })
    }
}
