//! A proof in a file: the answer itself and, before it, the reads of the directory that say whose signatures
//! count for it. With a trust bundle it can be checked anywhere, without a network.
//!
//! A read of the newest state: `"saved-proof/v1\0\0" ‖ u8 steps ‖ each: step`. Steps before the last are reads
//! of the directory: the vault's entity, its shard's, its voters'. A read of the directory itself is a single
//! step. Everything else: `"saved-proof/v2\0\0" ‖ u8 steps of the directory ‖ each: step ‖ u8 kind ‖ answer`,
//! see [`Subject`]. Step: `namespace u64 ‖ vault u64 ‖ u16 keys ‖ each u16 len ‖ key ‖ u32 len ‖ verified read`.

use ledger_proof::{
    AuthenticatedBlock, DecodeError, ListPage, ListQuestion, Origin, ReadAt, ReadRequest, Reader,
    Receipt, ReceiptRequest, TimeRule, TransactionChoice, Trust, TrustBundle, VerifiedItem,
    VerifiedList, VerifiedRead, VerifiedReceipt, VerifyError, Writer,
};
use ledger_types::limits::{KEYS_PER_READ_MAX, STATE_KEY_BYTES_MAX};
use ledger_types::{StateKey, TxId, VaultRef};

use crate::verification::{
    Proved, VerificationError, shard_entity, shard_entity_key, vault_entity, vault_entity_key,
    voter_entity_keys, voter_sets,
};

/// First bytes of a file with a read of the newest state.
const MAGIC: [u8; 16] = *b"saved-proof/v1\0\0";
/// First bytes of a file with another answer.
const MAGIC_2: [u8; 16] = *b"saved-proof/v2\0\0";
/// Steps of a proof of a vault: its entity, its shard's, its voters', the read.
const STEPS_MAX: usize = 4;
/// Fewest bytes of a step.
const STEP_BYTES_MIN: usize = 22;
/// Largest read in a step, and largest page, in bytes.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest receipt in bytes: the largest transaction, and what is around it.
const RECEIPT_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Most pages of a list in a file.
const PAGES_MAX: usize = 65_536;
/// Fewest bytes of a page: its length.
const PAGE_BYTES_MIN: usize = 4;

/// The kinds of answers in a file of the second form.
const KIND_RECEIPT: u8 = 1;
const KIND_AT_HEIGHT: u8 = 2;
const KIND_LIST: u8 = 3;
/// How a receipt's transaction was named.
const BY_ID: u8 = 1;
const BY_INDEX: u8 = 2;

/// One proved read: what was asked, and the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) vault: VaultRef,
    pub(crate) keys: Vec<StateKey>,
    pub(crate) read: VerifiedRead,
}

/// A receipt: what was asked, and the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReceiptStep {
    pub(crate) vault: VaultRef,
    pub(crate) height: u64,
    pub(crate) transaction: TransactionChoice,
    pub(crate) receipt: Receipt,
}

/// A list: what was asked, and all pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ListStep {
    pub(crate) vault: VaultRef,
    pub(crate) at_height: Option<u64>,
    pub(crate) prefix: Vec<u8>,
    pub(crate) first: VerifiedList,
    /// The pages after the first.
    pub(crate) pages: Vec<ListPage>,
}

/// What a file proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// Keys in the newest state. The last step of the first form.
    Latest(Step),
    /// Kind 1: `namespace u64 ‖ vault u64 ‖ height u64 ‖ (0x01 ‖ 16 bytes id, or 0x02 ‖ u32 index) ‖ u32 len
    /// ‖ receipt`.
    Receipt(ReceiptStep),
    /// Kind 2: `height u64 ‖ step`.
    AtHeight(u64, Step),
    /// Kind 3: `namespace u64 ‖ vault u64 ‖ flag, if 1: height u64 ‖ u16 len ‖ prefix ‖ u32 len ‖ first answer
    /// ‖ u32 pages ‖ each u32 len ‖ page`.
    List(ListStep),
}

/// An answer with everything that is needed to check it later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedProof {
    /// The reads of the directory; none if the answer is about the directory itself.
    directory: Vec<Step>,
    subject: Subject,
}

/// What a saved proof says, once it is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckedProof {
    /// Values of keys.
    Values(CheckedValues),
    /// A transaction.
    Transaction(Box<CheckedTransaction>),
    /// A whole list.
    List(CheckedItems),
}

/// Values of keys, present or absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedValues {
    /// The vault that was read.
    pub vault: VaultRef,
    /// The keys that were asked for.
    pub keys: Vec<StateKey>,
    /// The height that was asked for; `None` for the newest state.
    pub at_height: Option<u64>,
    /// What is proved about them.
    pub proved: Proved,
}

/// A transaction of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedTransaction {
    /// The vault.
    pub vault: VaultRef,
    /// The transaction's index in its block, from 0.
    pub index: u32,
    /// The block, and the transaction with its outcomes.
    pub proved: VerifiedReceipt,
}

/// All items of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedItems {
    /// The vault.
    pub vault: VaultRef,
    /// The height that was asked for; `None` for the newest state.
    pub at_height: Option<u64>,
    /// What all state keys of the list begin with.
    pub prefix: Vec<u8>,
    /// The block that it is of.
    pub block: AuthenticatedBlock,
    /// The items in key order, without those that have expired.
    pub items: Vec<VerifiedItem>,
}

impl CheckedProof {
    /// What is proved about keys, if the proof is about keys.
    pub fn into_values(self) -> Option<CheckedValues> {
        match self {
            CheckedProof::Values(values) => Some(values),
            _ => None,
        }
    }
}

impl SavedProof {
    /// A proof of this answer. Growth of logs since some earlier checkpoint is left out: a verifier that has
    /// only the file does not have that checkpoint.
    pub(crate) fn new(mut directory: Vec<Step>, mut subject: Subject) -> SavedProof {
        for step in &mut directory {
            step.read.block.consistency = None;
        }
        match &mut subject {
            Subject::Latest(step) | Subject::AtHeight(_, step) => {
                step.read.block.consistency = None;
            }
            Subject::Receipt(step) => step.receipt.block.consistency = None,
            Subject::List(step) => step.first.block.consistency = None,
        }
        SavedProof { directory, subject }
    }

    /// Checks everything. With [`TimeRule::Any`] the proof may be old, and what it says held when it was
    /// signed.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        times: TimeRule,
    ) -> Result<CheckedProof, VerificationError> {
        let vault = self.subject.vault();
        let system = [bundle.system_voters()];
        let (log_epoch, voters) = match (vault, &self.directory[..]) {
            (VaultRef::SYSTEM, []) => (bundle.system_log_epoch, system.to_vec()),
            (vault, [vault_step, shard_step, nodes_step]) => {
                let check = |step: &Step, keys: &[StateKey]| {
                    if step.vault != VaultRef::SYSTEM || step.keys != keys {
                        let what = "a step asks for something else than the next one needs";
                        return Err(VerificationError::Incomplete(what));
                    }
                    let origin = origin(bundle, VaultRef::SYSTEM, bundle.system_log_epoch);
                    let trust = Trust { bundle, voters: &system, times, memory: None };
                    Ok(step.check(&origin, LATEST, &trust)?)
                };
                let answer = check(vault_step, &[vault_entity_key(vault)])?;
                let entity = vault_entity(vault, &answer.values)?
                    .ok_or(VerificationError::Incomplete("the vault is proved absent"))?;
                let answer = check(shard_step, &[shard_entity_key(entity.shard)])?;
                let shard = shard_entity(entity.shard, &answer.values)?;
                let answer = check(nodes_step, &voter_entity_keys(&shard))?;
                (entity.log_epoch, voter_sets(&shard, &answer.values)?)
            }
            _ => return Err(VerificationError::Incomplete("it has another number of steps")),
        };
        let origin = origin(bundle, vault, log_epoch);
        self.subject.check(&origin, &Trust { bundle, voters: &voters, times, memory: None })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        let is_latest = matches!(self.subject, Subject::Latest(_));
        writer.raw(if is_latest { &MAGIC } else { &MAGIC_2 });
        let steps = self.directory.len() + usize::from(is_latest);
        writer.u8(u8::try_from(steps).expect("proofs have few steps"));
        for step in &self.directory {
            step.write(&mut writer);
        }
        self.subject.write(&mut writer);
        bytes
    }

    /// Reads a file. What it says is checked by [`SavedProof::verify`] alone.
    pub fn decode(bytes: &[u8]) -> Result<SavedProof, VerificationError> {
        let malformed = |error| VerificationError::Malformed { what: "saved proof", error };
        decode(bytes).map_err(malformed)?.ok_or(VerificationError::Incomplete("it has no steps"))
    }
}

/// The newest block of any height.
const LATEST: ReadAt = ReadAt::Latest { min_height: 0 };

fn origin(bundle: &TrustBundle, vault: VaultRef, log_epoch: u64) -> Origin {
    Origin { domain: bundle.domain.clone(), vault, log_epoch }
}

fn read_at(at_height: Option<u64>) -> ReadAt {
    at_height.map_or(LATEST, ReadAt::Height)
}

impl Subject {
    fn vault(&self) -> VaultRef {
        match self {
            Subject::Latest(step) | Subject::AtHeight(_, step) => step.vault,
            Subject::Receipt(step) => step.vault,
            Subject::List(step) => step.vault,
        }
    }

    fn check(&self, origin: &Origin, trust: &Trust<'_>) -> Result<CheckedProof, VerificationError> {
        let values = |step: &Step, at_height| {
            let proved = step.check(origin, read_at(at_height), trust)?;
            let (vault, keys) = (step.vault, step.keys.clone());
            Ok(CheckedProof::Values(CheckedValues { vault, keys, at_height, proved }))
        };
        match self {
            Subject::Latest(step) => values(step, None),
            Subject::AtHeight(height, step) => values(step, Some(*height)),
            Subject::Receipt(step) => {
                let ReceiptStep { vault, height, transaction, ref receipt } = *step;
                let request = ReceiptRequest { origin, height, transaction };
                let proved = receipt.verify(&request, trust, None)?;
                let checked = CheckedTransaction { vault, index: receipt.index, proved };
                Ok(CheckedProof::Transaction(Box::new(checked)))
            }
            Subject::List(step) => step.check(origin, trust).map(CheckedProof::List),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Subject::Latest(step) => step.write(writer),
            Subject::Receipt(step) => {
                writer.u8(KIND_RECEIPT);
                writer.raw(&step.vault.to_bytes());
                writer.u64(step.height);
                match step.transaction {
                    TransactionChoice::Id(tx_id) => {
                        writer.u8(BY_ID);
                        writer.raw(&tx_id.0);
                    }
                    TransactionChoice::Index(index) => {
                        writer.u8(BY_INDEX);
                        writer.u32(index);
                    }
                }
                writer.bytes_u32(&step.receipt.encode());
            }
            Subject::AtHeight(height, step) => {
                writer.u8(KIND_AT_HEIGHT);
                writer.u64(*height);
                step.write(writer);
            }
            Subject::List(step) => {
                writer.u8(KIND_LIST);
                step.write(writer);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Subject, DecodeError> {
        let field = "kind of proof";
        match reader.u8(field)? {
            KIND_RECEIPT => ReceiptStep::read(reader).map(Subject::Receipt),
            KIND_AT_HEIGHT => {
                let height = reader.u64("height")?;
                Ok(Subject::AtHeight(height, Step::read(reader)?))
            }
            KIND_LIST => ListStep::read(reader).map(Subject::List),
            kind => Err(DecodeError::UnknownValue { field, value: kind.into() }),
        }
    }
}

impl Step {
    fn check(&self, origin: &Origin, at: ReadAt, trust: &Trust<'_>) -> Result<Proved, VerifyError> {
        let request = ReadRequest { origin, at, keys: &self.keys };
        let answer = self.read.verify(&request, trust, None)?;
        Ok(Proved { block: answer.block, values: answer.values })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.raw(&self.vault.to_bytes());
        writer.u16(u16::try_from(self.keys.len()).expect("reads are bounded"));
        for key in &self.keys {
            writer.bytes_u16(key.as_bytes());
        }
        writer.bytes_u32(&self.read.encode());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Step, DecodeError> {
        let vault = read_vault(reader)?;
        let keys = usize::from(reader.u16("keys")?);
        let keys = reader.count("keys", keys, KEYS_PER_READ_MAX, 2)?;
        let mut wanted = Vec::with_capacity(keys);
        for _ in 0..keys {
            let key = StateKey::from_bytes(reader.bytes_u16("key", STATE_KEY_BYTES_MAX)?);
            let rule = "is no state key";
            wanted.push(key.ok_or(DecodeError::Invalid { field: "key", rule })?);
        }
        let read = VerifiedRead::decode(reader.bytes_u32("verified read", READ_BYTES_MAX)?)?;
        Ok(Step { vault, keys: wanted, read })
    }
}

impl ReceiptStep {
    fn read(reader: &mut Reader<'_>) -> Result<ReceiptStep, DecodeError> {
        let vault = read_vault(reader)?;
        let height = reader.u64("height")?;
        let field = "choice of the transaction";
        let transaction = match reader.u8(field)? {
            BY_ID => TransactionChoice::Id(TxId(reader.array("transaction id")?)),
            BY_INDEX => TransactionChoice::Index(reader.u32("transaction index")?),
            value => return Err(DecodeError::UnknownValue { field, value: value.into() }),
        };
        let receipt = Receipt::decode(reader.bytes_u32("receipt", RECEIPT_BYTES_MAX)?)?;
        Ok(ReceiptStep { vault, height, transaction, receipt })
    }
}

impl ListStep {
    fn check(&self, origin: &Origin, trust: &Trust<'_>) -> Result<CheckedItems, VerificationError> {
        let at = read_at(self.at_height);
        let question = ListQuestion { origin, at, prefix: &self.prefix };
        let (mut progress, mut items) = self.first.verify(&question, trust, None)?;
        for page in &self.pages {
            items.append(&mut progress.accept(page)?);
        }
        if !progress.is_complete() {
            return Err(VerificationError::Incomplete("pages of the list are missing"));
        }
        let (vault, at_height, prefix) = (self.vault, self.at_height, self.prefix.clone());
        let block = progress.block().clone();
        Ok(CheckedItems { vault, at_height, prefix, block, items })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.raw(&self.vault.to_bytes());
        writer.flag(self.at_height.is_some());
        if let Some(height) = self.at_height {
            writer.u64(height);
        }
        writer.bytes_u16(&self.prefix);
        writer.bytes_u32(&self.first.encode());
        writer.u32(u32::try_from(self.pages.len()).expect("a list in memory has few pages"));
        for page in &self.pages {
            writer.bytes_u32(&page.encode());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<ListStep, DecodeError> {
        let vault = read_vault(reader)?;
        let at_height = match reader.flag("height")? {
            false => None,
            true => Some(reader.u64("height")?),
        };
        let prefix = reader.bytes_u16("prefix", STATE_KEY_BYTES_MAX)?.to_vec();
        let first = VerifiedList::decode(reader.bytes_u32("first page", READ_BYTES_MAX)?)?;
        let count = usize::try_from(reader.u32("pages")?).unwrap_or(usize::MAX);
        let count = reader.count("pages", count, PAGES_MAX, PAGE_BYTES_MIN)?;
        let mut pages = Vec::with_capacity(count);
        for _ in 0..count {
            pages.push(ListPage::decode(reader.bytes_u32("page", READ_BYTES_MAX)?)?);
        }
        Ok(ListStep { vault, at_height, prefix, first, pages })
    }
}

fn read_vault(reader: &mut Reader<'_>) -> Result<VaultRef, DecodeError> {
    Ok(VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?))
}

/// Reads either form; `None` for one of the first form without a step.
fn decode(bytes: &[u8]) -> Result<Option<SavedProof>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let magic = reader.array::<16>("proof magic")?;
    if magic != MAGIC && magic != MAGIC_2 {
        let rule = "is neither saved-proof/v1 nor saved-proof/v2";
        return Err(DecodeError::Invalid { field: "proof magic", rule });
    }
    let is_latest = magic == MAGIC;
    let steps_max = STEPS_MAX - usize::from(!is_latest);
    let count = usize::from(reader.u8("steps")?);
    let count = reader.count("steps", count, steps_max, STEP_BYTES_MIN)?;
    let mut directory = Vec::with_capacity(count);
    for _ in 0..count {
        directory.push(Step::read(&mut reader)?);
    }
    let subject = match is_latest {
        true => directory.pop().map(Subject::Latest),
        false => Some(Subject::read(&mut reader)?),
    };
    reader.finish()?;
    Ok(subject.map(|subject| SavedProof { directory, subject }))
}
