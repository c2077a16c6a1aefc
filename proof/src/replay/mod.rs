//! An auditor's replay of a chain: everything that blocks commit to, computed again from the
//! transactions alone.
//!
//! Owns a second reading of the format, next to the state machine of replicas and without any of its
//! code. Takes headers and transactions as the bytes that are hashed, block by block from genesis on, and
//! reports every difference as a [`Finding`]; it never stops at one. Bodies are not kept: memory is that
//! of the present keys (about 190 bytes and the key's length each, up to twice that while arrays grow)
//! and of the clients that count. Must never do I/O, and never take a header's word for anything that
//! can be computed.

mod clients;
mod finding;
mod state;
mod trie;

use ledger_types::{Digest, VaultRef};

use crate::block_log::Frontier;
use crate::checkpoint::Checkpoint;
use crate::hash;
use crate::header::BlockHeader;
use crate::record::{Descriptor, Record};
use crate::transaction::{AppliedOperation, Recovery, Transaction};
use clients::Clients;
use state::{Moment, State};

pub use finding::{ConditionText, Finding, FindingKind, KeyText};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;
/// Name of the client in the directory's own transactions.
const DIRECTORY_CLIENT: &str = "_system";
/// Group, term and index of the entry that the directory's genesis names.
const DIRECTORY_GENESIS: (u64, u64, u64) = (0, 5, 5);
/// Places in a log entry at which a transaction of the directory is looked for.
const ENTRY_PLACES_MAX: u32 = 65_536;

/// The replay of one vault's chain.
#[derive(Clone, Debug)]
pub struct Replay {
    vault: VaultRef,
    state: State,
    clients: Clients,
    log: Frontier,
    /// Hash of the last block.
    tip_hash: Digest,
    /// The last header that could be read.
    before: Option<BlockHeader>,
    /// The state is known to be another one than the headers say.
    state_differs: bool,
    transactions: u64,
    operations: u64,
}

/// What is found in one block, with the place in it.
struct Findings {
    height: u64,
    transaction: Option<u32>,
    operation: Option<u32>,
    all: Vec<Finding>,
}

impl Findings {
    fn push(&mut self, kind: FindingKind) {
        let Findings { height, transaction, operation, .. } = *self;
        self.all.push(Finding { height, transaction, operation, kind });
    }
}

impl Replay {
    /// Begins before the first block of a vault.
    pub fn new(vault: VaultRef) -> Replay {
        Replay {
            vault,
            state: State::default(),
            clients: Clients::default(),
            log: Frontier::new(),
            tip_hash: Digest::ZERO,
            before: None,
            state_differs: false,
            transactions: 0,
            operations: 0,
        }
    }

    /// Takes the next block in, as the bytes of its header and of its transactions in order, and tells
    /// what is wrong with it; nothing in a chain that was made as it should be.
    pub fn block<T: AsRef<[u8]>>(&mut self, header: &[u8], transactions: &[T]) -> Vec<Finding> {
        let height = self.log.size();
        let mut findings = Findings { height, transaction: None, operation: None, all: Vec::new() };
        let block_hash = hash::leaf(header);
        match BlockHeader::decode(header) {
            Ok(header) => {
                self.check_place(&header, &mut findings);
                check_body(&header, transactions, &mut findings);
                self.run_block(&header, transactions, &mut findings);
                self.before = Some(header);
            }
            Err(error) => {
                findings.push(FindingKind::HeaderMalformed(error));
                self.state_differs = true;
            }
        }
        self.log.append(block_hash, |_, _, _| {});
        self.tip_hash = block_hash;
        findings.all
    }

    /// Blocks taken in.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Hash of the last block, zero before the first.
    pub fn tip_hash(&self) -> Digest {
        self.tip_hash
    }

    /// Root of the block log over the blocks taken in.
    pub fn log_root(&self) -> Digest {
        self.log.root()
    }

    /// Compares a checkpoint of exactly these blocks with the log; `None` if they agree. The caller has
    /// checked its signatures.
    pub fn check_checkpoint(&self, checkpoint: &Checkpoint) -> Option<Finding> {
        let (size, expected) = (self.log.size(), self.log.root());
        let found = checkpoint.root;
        let kind = match (checkpoint.size == size, found == expected) {
            (true, true) => return None,
            (true, false) => FindingKind::LogRoot { size, expected, found },
            (false, _) => FindingKind::Height { expected: size, found: checkpoint.size },
        };
        let height = checkpoint.size.saturating_sub(1);
        Some(Finding { height, transaction: None, operation: None, kind })
    }

    /// State root after the last block.
    pub fn state_root(&mut self) -> Digest {
        self.state.root()
    }

    /// Keys that are present after the last block, the descriptor among them.
    pub fn key_count(&self) -> usize {
        self.state.trie().len()
    }

    /// The record of a state key after the last block.
    pub fn record(&self, key: &[u8]) -> Option<&Record> {
        self.state.trie().get(key)
    }

    /// All state keys with their records, in the order of their bytes.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        self.state.trie().iter()
    }

    /// Transactions replayed.
    pub fn transaction_count(&self) -> u64 {
        self.transactions
    }

    /// Operations replayed.
    pub fn operation_count(&self) -> u64 {
        self.operations
    }

    /// What a header must say because of the blocks before it.
    fn check_place(&self, header: &BlockHeader, findings: &mut Findings) {
        let (expected, found) = (self.vault, header.vault);
        if found != expected {
            findings.push(FindingKind::OtherVault { expected, found });
        }
        let (expected, found) = (findings.height, header.height);
        if found != expected {
            findings.push(FindingKind::Height { expected, found });
        }
        let (expected, found) = (self.tip_hash, header.previous_hash);
        if found != expected {
            findings.push(FindingKind::PreviousHash { expected, found });
        }
        let position = (header.shard, header.term, header.index);
        if findings.height == 0 && self.vault == VaultRef::SYSTEM && position != DIRECTORY_GENESIS {
            findings.push(FindingKind::DirectoryGenesis { found: position });
        }
        let Some(before) = &self.before else { return };
        if header.timestamp_ns < before.timestamp_ns {
            let (before, found) = (before.timestamp_ns, header.timestamp_ns);
            findings.push(FindingKind::TimeWentBack { before, found });
        }
        // One entry makes one block of a vault, but it may make its genesis too.
        let least_index = before.index + u64::from(before.height > 0);
        let is_after = header.term >= before.term && header.index >= least_index;
        if header.shard == before.shard && !is_after {
            let before = (before.term, before.index);
            let found = (header.term, header.index);
            findings.push(FindingKind::EntryPosition { before, found });
        }
    }

    fn run_block<T: AsRef<[u8]>>(
        &mut self,
        header: &BlockHeader,
        transactions: &[T],
        findings: &mut Findings,
    ) {
        let height = findings.height;
        let now_s = header.timestamp_ns / SECOND_NS;
        let mut block =
            BlockRun { now_s, entry_time_ns: None, entry_place: 0, has_recovery: false };
        if height == 0 {
            self.describe(0, 0, Digest::ZERO, Moment { height, transaction: 0, now_s });
        } else {
            for (place, bytes) in (0u32..).zip(transactions) {
                findings.transaction = Some(place);
                match Transaction::decode(bytes.as_ref()) {
                    Ok(transaction) => {
                        self.run_transaction(&mut block, header, &transaction, findings);
                    }
                    Err(error) => findings.push(FindingKind::TransactionMalformed(error)),
                }
                findings.operation = None;
            }
            findings.transaction = None;
        }
        self.check_time(header, &block, findings);
        let is_alone = transactions.len() == 1;
        if header.is_recovery() != (block.has_recovery && is_alone) {
            findings.push(FindingKind::RecoveryForm);
        }
        self.state.seal();
        self.check_state(header, findings);
    }

    fn describe(
        &mut self,
        log_epoch: u64,
        last_recovery_height: u64,
        old_note: Digest,
        at: Moment,
    ) {
        let vault = self.vault;
        let descriptor = Descriptor { vault, log_epoch, last_recovery_height, old_note };
        self.state.describe(&descriptor, at);
    }

    /// Block time is the entry's, but never below that of the block before.
    fn check_time(&self, header: &BlockHeader, block: &BlockRun, findings: &mut Findings) {
        let (Some(entry_time_ns), Some(before)) = (block.entry_time_ns, &self.before) else {
            return;
        };
        let expected = entry_time_ns.max(before.timestamp_ns);
        let found = header.timestamp_ns;
        if found != expected {
            findings.push(FindingKind::BlockTime { expected, found });
        }
    }

    /// Compares the state with the header. While it is known to differ nothing is said again.
    fn check_state(&mut self, header: &BlockHeader, findings: &mut Findings) {
        let (expected, found) = (self.state.root(), header.state_root);
        let keys = self.state.trie().len() as u64;
        if !self.state_differs {
            if found != expected {
                findings.push(FindingKind::StateRoot { expected, found });
            }
            let (expected, found) = (keys, header.state_keys);
            if found != expected {
                findings.push(FindingKind::StateKeys { expected, found });
            }
        }
        self.state_differs = found != expected;
    }

    fn run_transaction(
        &mut self,
        block: &mut BlockRun,
        header: &BlockHeader,
        transaction: &Transaction,
        findings: &mut Findings,
    ) {
        let place = findings.transaction.expect("a transaction has its place");
        let moment = Moment { height: findings.height, transaction: place, now_s: block.now_s };
        self.transactions += 1;
        self.operations += transaction.operations.len() as u64;
        let expected = *block.entry_time_ns.get_or_insert(transaction.timestamp_ns);
        let found = transaction.timestamp_ns;
        if found != expected {
            findings.push(FindingKind::TransactionTime { expected, found });
        }
        if transaction.operations.is_empty() {
            findings.push(FindingKind::NoOperations);
        }
        for kind in self.clients.take(transaction) {
            findings.push(kind);
        }
        let has_recovery = transaction
            .operations
            .iter()
            .any(|operation| matches!(operation, AppliedOperation::Recovery(_)));
        if self.vault == VaultRef::SYSTEM
            && !has_recovery
            && !block.is_directorys(header, transaction)
        {
            findings.push(FindingKind::NotOfDirectory { client: transaction.client.clone() });
        }
        block.has_recovery |= has_recovery && transaction.operations.len() == 1;
        if has_recovery && transaction.operations.len() != 1 {
            findings.push(FindingKind::RecoveryForm);
        }
        for (place, applied) in (0u32..).zip(&transaction.operations) {
            findings.operation = Some(place);
            match applied {
                AppliedOperation::Recovery(recovery) => self.recover(recovery, moment, findings),
                AppliedOperation::State { operation, outcome: found } => {
                    match self.state.run(operation, moment) {
                        Ok(expected) if self.is_as_recorded(expected, *found) => {}
                        Ok(expected) => {
                            findings.push(FindingKind::Outcome { expected, found: *found });
                        }
                        Err(kind) => {
                            if !self.state_differs {
                                findings.push(kind);
                            }
                            self.state.roll_back();
                            return;
                        }
                    }
                }
            }
        }
        self.state.keep();
    }

    /// Outcomes follow from the state, and are not compared while another one is in the headers.
    fn is_as_recorded(
        &self,
        expected: ledger_types::Outcome,
        found: ledger_types::Outcome,
    ) -> bool {
        expected == found || self.state_differs
    }

    fn recover(&mut self, recovery: &Recovery, moment: Moment, findings: &mut Findings) {
        let Recovery { who, why, log_epoch, old_note, .. } = recovery.clone();
        findings.push(FindingKind::Recovery { who, why, log_epoch });
        self.describe(log_epoch, moment.height, old_note, moment);
    }
}

/// What the transactions of a block say together.
struct BlockRun {
    now_s: u64,
    /// Time of the entry: that of the first transaction.
    entry_time_ns: Option<u64>,
    /// Where in the entry the next transaction of the directory may stand.
    entry_place: u32,
    /// A transaction is a recovery and nothing else.
    has_recovery: bool,
}

impl BlockRun {
    /// Whether a transaction names the place in the log that made it, after the one before it.
    fn is_directorys(&mut self, header: &BlockHeader, transaction: &Transaction) -> bool {
        let is_own = transaction.client == DIRECTORY_CLIENT
            && transaction.dedup == ledger_types::Dedup::None;
        let found = (self.entry_place..ENTRY_PLACES_MAX).find(|place| {
            let name = [
                &header.shard.to_be_bytes()[..],
                &header.index.to_be_bytes(),
                &place.to_be_bytes(),
            ];
            hash::plain(&name.concat()).0.starts_with(&transaction.tx_id.0)
        });
        if let Some(place) = found {
            self.entry_place = place + 1;
        }
        is_own && found.is_some()
    }
}

/// Compares the transactions with what the header commits to.
fn check_body<T: AsRef<[u8]>>(header: &BlockHeader, transactions: &[T], findings: &mut Findings) {
    let expected = transactions.len();
    if (findings.height == 0) != (expected == 0) {
        findings.push(FindingKind::TransactionsMisplaced { found: expected });
    }
    if u32::try_from(expected).ok() != Some(header.tx_count) {
        findings.push(FindingKind::TransactionCount { expected, found: header.tx_count });
    }
    let mut tree = Frontier::new();
    for bytes in transactions {
        tree.append(hash::leaf(bytes.as_ref()), |_, _, _| {});
    }
    let (expected, found) = (tree.root(), header.tx_root);
    if found != expected {
        findings.push(FindingKind::TransactionRoot { expected, found });
    }
}
