//! Building one block of one vault from one log entry, and sealing it.
//!
//! Owns the order of a block's transactions and everything that its header commits to. Must never skip a
//! step for one replica only: the header is the same everywhere.

use ledger_proof::transaction::AppliedOperation;
use ledger_proof::{BlockHeader, EntryPosition, ReadFault, Transaction, hash, tx_tree};
use ledger_types::{Digest, Operation, Outcome};

use super::operations::{self, ConditionFailure, Moment, Target};
use super::round::VaultRound;
use super::sessions::{self, SessionLimits};
use super::slots::Slots;
use super::vault_state::StoredState;
use super::{ApplyOutput, NewBlock};
use crate::command::write::outcomes_of;
use crate::rows::encode_body;
use crate::view::StateView;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A block of which no transaction, or some, are committed so far.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    height: u64,
    /// The entry that makes the block; its time is the block's.
    position: EntryPosition,
    entry_time_ns: u64,
    transactions: Vec<Vec<u8>>,
    leaves: Vec<Digest>,
    outcomes: Vec<Vec<Outcome>>,
    soonest_expiry: Option<u64>,
}

impl BlockBuilder {
    /// Begins the block after the vault's last one. Block time never goes back.
    pub(crate) fn new(round: &VaultRound, entry: EntryPosition) -> BlockBuilder {
        let row = &round.state().expect("only an existing vault gets a block").row;
        let timestamp_ns = entry.timestamp_ns.max(row.block_time_ns);
        BlockBuilder {
            height: row.height + 1,
            position: EntryPosition { timestamp_ns, ..entry },
            entry_time_ns: entry.timestamp_ns,
            transactions: Vec::new(),
            leaves: Vec::new(),
            outcomes: Vec::new(),
            soonest_expiry: None,
        }
    }

    /// The block's height.
    pub(crate) fn height(&self) -> u64 {
        self.height
    }

    /// The block's time in Unix nanoseconds.
    pub(crate) fn time_ns(&self) -> u64 {
        self.position.timestamp_ns
    }

    /// Time of the log entry in Unix nanoseconds: the transactions' timestamp.
    pub(crate) fn entry_time_ns(&self) -> u64 {
        self.entry_time_ns
    }

    /// True if no transaction is committed, so that there will be no block.
    pub(crate) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Runs a transaction's operations against the state that earlier ones left: all or none.
    pub(crate) fn execute(
        &self,
        slots: &mut Slots,
        operations: Vec<Operation>,
        targets: &[Target],
    ) -> Result<Vec<AppliedOperation>, ConditionFailure> {
        let tx_index = self.next_index();
        let now_s = self.position.timestamp_ns / SECOND_NS;
        let moment = Moment { height: self.height, tx_index, now_s };
        operations::execute(slots, operations, targets, moment)
    }

    /// Adds an executed transaction; returns its place and its outcomes.
    pub(crate) fn push(&mut self, transaction: &Transaction) -> (u32, Vec<Outcome>) {
        let tx_index = self.next_index();
        let expiries = transaction.operations.iter().filter_map(expiry_of);
        self.soonest_expiry = self.soonest_expiry.into_iter().chain(expiries).min();
        let bytes = transaction.encode();
        self.leaves.push(tx_tree::tx_leaf(&bytes));
        self.transactions.push(bytes);
        let outcomes = outcomes_of(transaction);
        self.outcomes.push(outcomes.clone());
        (tx_index, outcomes)
    }

    /// The outcomes of an earlier transaction of the block.
    pub(crate) fn outcomes(&self, tx_index: u32) -> &[Outcome] {
        &self.outcomes[tx_index as usize]
    }

    fn next_index(&self) -> u32 {
        u32::try_from(self.transactions.len()).expect("an entry's commands are limited")
    }

    /// Ends the block: state tree, header, block log, body, history rows, sessions.
    pub(crate) fn seal(
        self,
        round: &mut VaultRound,
        limits: SessionLimits,
        view: &dyn StateView,
        output: &mut ApplyOutput,
    ) -> Result<(), ReadFault> {
        assert!(!self.is_empty(), "a block has a transaction");
        let vault = round.vault();
        self.seal_state(round, view, output)?;
        let tx_count = self.next_index();
        let new_session_rows = std::mem::take(&mut round.new_session_rows);
        let state = round.state_mut();
        let header = BlockHeader {
            vault,
            height: self.height,
            previous_hash: state.row.block_hash,
            tx_root: tx_tree::tx_root(&self.leaves),
            tx_count,
            flags: 0,
            state_root: state.row.state_root,
            state_keys: state.row.state_keys,
            timestamp_ns: self.position.timestamp_ns,
            shard: self.position.shard,
            term: self.position.term,
            index: self.position.index,
        };
        let header_bytes = header.encode();
        let block_hash = hash::leaf(&header_bytes);
        state.append_to_log(vault, block_hash, &mut output.rows);
        state.row.height = self.height;
        state.row.block_hash = block_hash;
        state.row.block_time_ns = header.timestamp_ns;
        state.row.session_rows += new_session_rows;
        round.add_block(self.height, header_bytes, Some(encode_body(&self.transactions)));
        output.blocks.push(NewBlock {
            vault,
            height: self.height,
            block_hash,
            state_root: header.state_root,
            timestamp_ns: header.timestamp_ns,
            soonest_expiry: self.soonest_expiry,
        });
        sessions::evict(round, limits, header.timestamp_ns, view)
    }

    /// Brings records, history rows and the state tree to where the block leaves them.
    fn seal_state(
        &self,
        round: &mut VaultRound,
        view: &dyn StateView,
        output: &mut ApplyOutput,
    ) -> Result<(), ReadFault> {
        let vault = round.vault();
        let changes = round.slots.seal(self.height);
        for change in &changes {
            output.rows.extend(round.slots.history_row(vault, change, self.height));
        }
        let mut state = round.take_state();
        let slots = &round.slots;
        let leaves: Vec<_> =
            changes.iter().map(|change| (slots.key(change), change.after)).collect();
        state.tree.apply(&leaves, &StoredState { view, vault })?;
        state.row.state_root = state.tree.root();
        state.row.state_keys = state.tree.leaf_count();
        state.keys_since_flush += leaves.len() as u64;
        round.return_state(state);
        Ok(())
    }
}

/// When an operation lets its entity expire.
fn expiry_of(applied: &AppliedOperation) -> Option<u64> {
    match applied {
        AppliedOperation::State { operation: Operation::SetEntity { expires_at, .. }, .. } => {
            Some(*expires_at).filter(|at| *at != 0)
        }
        _ => None,
    }
}
