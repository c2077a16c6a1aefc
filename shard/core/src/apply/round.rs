//! One vault in one round: its state, the rows it touches, and the blocks sealed so far.
//!
//! Owns what later entries of the round see of earlier ones. Must never write: at the end of the round its
//! rows are moved into the output.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ledger_proof::header::HEADER_LEN;
use ledger_proof::{BlockHeader, ReadFault, Transaction};
use ledger_types::{StateKey, VaultRef};

use super::sessions::Sessions;
use super::slots::Slots;
use super::vault_state::{VaultState, stored_body, stored_header};
use crate::command::system::EntityView;
use crate::rows::{
    VaultRow, VaultStatus, block_body_key, block_header_key, decode_body, latest_key, prefix_end,
    split_latest, vault_row_key,
};
use crate::view::{Family, RowWrite, StateView};

/// A block that is not in the store yet.
#[derive(Debug)]
struct RoundBlock {
    header: [u8; HEADER_LEN],
    /// `None` for genesis.
    body: Option<Vec<u8>>,
}

/// One vault in one round.
pub(crate) struct VaultRound {
    vault: VaultRef,
    state: Option<Box<VaultState>>,
    looked_up: bool,
    changed: bool,
    /// State keys.
    pub slots: Slots,
    /// Session rows.
    pub sessions: Sessions,
    /// Idempotency-key rows that the current block adds.
    pub new_session_rows: u64,
    blocks: BTreeMap<u64, RoundBlock>,
}

impl VaultRound {
    /// A round of a vault about which nothing is known yet.
    pub(crate) fn new(vault: VaultRef) -> VaultRound {
        VaultRound {
            vault,
            state: None,
            looked_up: false,
            changed: false,
            slots: Slots::default(),
            sessions: Sessions::new(vault),
            new_session_rows: 0,
            blocks: BTreeMap::new(),
        }
    }

    /// The vault.
    pub(crate) fn vault(&self) -> VaultRef {
        self.vault
    }

    /// True once [`VaultRound::set_state`] was called, even with nothing.
    pub(crate) fn is_looked_up(&self) -> bool {
        self.looked_up
    }

    /// Puts the vault's state in place, or that there is no such vault.
    pub(crate) fn set_state(&mut self, state: Option<Box<VaultState>>) {
        self.looked_up = true;
        self.state = state;
    }

    /// The vault's state, if the vault exists.
    pub(crate) fn state(&self) -> Option<&VaultState> {
        assert!(self.looked_up, "the vault is looked up before it is used");
        self.state.as_deref()
    }

    /// True of a vault that exists and is purged.
    pub(crate) fn is_purged(&self) -> bool {
        self.state().is_some_and(|state| state.row.status == VaultStatus::Purged)
    }

    /// The state of a vault that exists; marks it as changed.
    pub(crate) fn state_mut(&mut self) -> &mut VaultState {
        self.changed = true;
        self.state.as_deref_mut().expect("only an existing vault is changed")
    }

    /// Takes the state of a vault that exists out for a change; [`VaultRound::return_state`] follows.
    pub(crate) fn take_state(&mut self) -> Box<VaultState> {
        self.state.take().expect("only an existing vault is changed")
    }

    /// Puts the state back, changed.
    pub(crate) fn return_state(&mut self, state: Box<VaultState>) {
        self.changed = true;
        self.state = Some(state);
    }

    /// Forgets everything of the vault but this row.
    pub(crate) fn keep_only(&mut self, row: VaultRow) {
        let (vault, state) = (self.vault, VaultState::purged(row));
        *self = VaultRound::new(vault);
        self.looked_up = true;
        self.return_state(Box::new(state));
    }

    /// Keeps a sealed block until the round is written.
    pub(crate) fn add_block(
        &mut self,
        height: u64,
        header: [u8; HEADER_LEN],
        body: Option<Vec<u8>>,
    ) {
        let before = self.blocks.insert(height, RoundBlock { header, body });
        assert!(before.is_none(), "a height has one block");
    }

    /// The header of a block of this round or of the store.
    pub(crate) fn header(
        &self,
        height: u64,
        view: &dyn StateView,
    ) -> Result<BlockHeader, ReadFault> {
        match self.blocks.get(&height) {
            Some(block) => Ok(BlockHeader::decode(&block.header).expect("it was just encoded")),
            None => stored_header(view, self.vault, height),
        }
    }

    /// The body of a block of this round or of the store.
    pub(crate) fn body(
        &self,
        height: u64,
        view: &dyn StateView,
    ) -> Result<Cow<'_, [u8]>, ReadFault> {
        match self.blocks.get(&height).and_then(|block| block.body.as_deref()) {
            Some(body) => Ok(Cow::Borrowed(body)),
            None => stored_body(view, self.vault, height).map(Cow::Owned),
        }
    }

    /// A committed transaction of this round or of the store.
    pub(crate) fn transaction(
        &self,
        height: u64,
        tx_index: u32,
        view: &dyn StateView,
    ) -> Result<Transaction, ReadFault> {
        let body = self.body(height, view)?;
        let corrupt = || ReadFault::Corrupt { what: "a block body lacks a recorded transaction" };
        let transactions = decode_body(&body).map_err(|_| corrupt())?;
        let bytes = transactions.get(tx_index as usize).ok_or_else(corrupt)?;
        Transaction::decode(bytes).map_err(|_| corrupt())
    }

    /// Loads the rows that were registered since the last loading, for this vault alone.
    pub(crate) fn load(&mut self, view: &dyn StateView) -> Result<(), ReadFault> {
        let mut keys = Vec::new();
        self.slots.wanted(self.vault, &mut keys);
        self.slots.fill(&mut view.multi_get(Family::Latest, &keys)?.into_iter())
    }

    /// Moves what the round leaves behind into `rows`; returns the state for the next round.
    pub(crate) fn finish(self, rows: &mut Vec<RowWrite>) -> Option<Box<VaultState>> {
        let vault = self.vault;
        assert_eq!(self.new_session_rows, 0, "the last block is sealed");
        self.slots.into_rows(vault, rows);
        self.sessions.into_rows(rows);
        for (height, block) in self.blocks {
            let put = |key, value| RowWrite { family: Family::Blocks, key, value: Some(value) };
            rows.push(put(block_header_key(vault, height), block.header.to_vec()));
            if let Some(body) = block.body {
                rows.push(put(block_body_key(vault, height), body));
            }
        }
        if let Some(state) = &self.state
            && self.changed
        {
            rows.push(vault_row(vault, state));
        }
        self.state
    }
}

/// The write of a vault's own row.
pub(crate) fn vault_row(vault: VaultRef, state: &VaultState) -> RowWrite {
    let value = Some(state.row.encode());
    RowWrite { family: Family::Vaults, key: vault_row_key(vault), value }
}

/// The directory's entities as a command of the round sees them.
pub(crate) struct RoundEntities<'a> {
    /// The directory's vault.
    pub round: &'a VaultRound,
    /// The store.
    pub view: &'a dyn StateView,
}

impl EntityView for RoundEntities<'_> {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ReadFault> {
        let key = StateKey::entity(key);
        if let Some(live) = self.round.slots.loaded(&key) {
            return Ok(live.map(|live| live.value().to_vec()));
        }
        let row = self.view.get(Family::Latest, &latest_key(self.round.vault, key.as_bytes()))?;
        row.map(|row| Ok(value_of(&row)?.to_vec())).transpose()
    }

    fn scan(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        let prefix = StateKey::from_bytes(&StateKey::entity_prefix(prefix));
        let prefix = prefix.expect("directory keys are short");
        let mut changed = self.round.slots.loaded_from(&prefix).peekable();
        let from = latest_key(self.round.vault, prefix.as_bytes());
        let (mut wanted, mut fault) = (true, None);
        let mut offer = |key: &[u8], value: &[u8]| {
            let key = StateKey::as_entity(key).expect("the prefix is that of entities");
            visit(key, value)
        };
        self.view.scan(Family::Latest, &from, &prefix_end(&from), &mut |key, row| {
            let key = &key[VaultRef::LEN..];
            while let Some((earlier, live)) = changed.next_if(|(of, _)| of.as_bytes() < key) {
                wanted = live.is_none_or(|live| offer(earlier.as_bytes(), live.value()));
                if !wanted {
                    return false;
                }
            }
            wanted = match changed.next_if(|(of, _)| of.as_bytes() == key) {
                Some((_, live)) => live.is_none_or(|live| offer(key, live.value())),
                None => match value_of(row) {
                    Ok(value) => offer(key, value),
                    Err(error) => {
                        fault = Some(error);
                        false
                    }
                },
            };
            wanted
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        while wanted && let Some((key, live)) = changed.next() {
            wanted = live.is_none_or(|live| offer(key.as_bytes(), live.value()));
        }
        Ok(())
    }
}

fn value_of(row: &[u8]) -> Result<&[u8], ReadFault> {
    let (_, value) = split_latest(row)
        .ok_or(ReadFault::Corrupt { what: "a latest row does not begin with a record" })?;
    Ok(value)
}
