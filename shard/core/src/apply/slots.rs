//! The state keys that a round touches in one vault: their rows as loaded, and as changed since.
//!
//! Owns reads-your-writes inside a round, undoing a transaction that fails, and the records that a block
//! leaves behind. Must never decide an outcome: that is [`super::operations`]' work.

use std::collections::BTreeMap;

use ledger_proof::record::RECORD_LEN;
use ledger_proof::{ReadFault, Record, hash};
use ledger_types::{Digest, Operation, StateKey, VaultRef};

use super::operations::Target;
use crate::rows::{history_key, latest_key};
use crate::view::{Family, RowWrite};

/// A present key: the parts of its record that decide outcomes, and its row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Live {
    /// The block in which the key last became present.
    pub created_height: u64,
    /// The block that last changed it.
    pub modified_height: u64,
    /// Unix seconds after which it counts as absent; 0 = never.
    pub expires_at: u64,
    /// Record and value; the record is not filled in before the block that changed it is sealed.
    row: Vec<u8>,
}

impl Live {
    /// A key as a block's transaction sets it.
    pub(crate) fn new(
        created_height: u64,
        modified_height: u64,
        expires_at: u64,
        value: &[u8],
    ) -> Live {
        let mut row = Vec::with_capacity(RECORD_LEN + value.len());
        row.resize(RECORD_LEN, 0);
        row.extend_from_slice(value);
        Live { created_height, modified_height, expires_at, row }
    }

    fn from_row(row: Vec<u8>) -> Result<Live, ReadFault> {
        let corrupt = ReadFault::Corrupt { what: "a latest row does not begin with a record" };
        let record = row.get(..RECORD_LEN).and_then(|bytes| Record::decode(bytes).ok());
        let Record { created_height, modified_height, expires_at, .. } = record.ok_or(corrupt)?;
        Ok(Live { created_height, modified_height, expires_at, row })
    }

    /// The value.
    pub(crate) fn value(&self) -> &[u8] {
        &self.row[RECORD_LEN..]
    }

    /// Whether the entity counts as absent at `now_s` (Unix seconds).
    pub(crate) fn is_expired(&self, now_s: u64) -> bool {
        self.expires_at != 0 && self.expires_at <= now_s
    }

    fn record_bytes(&self) -> [u8; RECORD_LEN] {
        *self.row.first_chunk().expect("rows begin with a record")
    }
}

/// One touched state key.
#[derive(Debug)]
struct Slot {
    key: StateKey,
    loaded: bool,
    live: Option<Live>,
    /// Set while the current block has changed the slot.
    block_change: Option<BlockChange>,
    changed_in_round: bool,
}

#[derive(Clone, Copy, Debug)]
struct BlockChange {
    /// The record under the previous block's state root.
    before: Option<[u8; RECORD_LEN]>,
    /// The last transaction of the block that changed the key.
    tx_index: u32,
}

/// How to take back one change of the transaction being executed.
#[derive(Debug)]
struct Undo {
    slot: u32,
    live: Option<Live>,
    block_change: Option<BlockChange>,
}

/// What a block did to a state key.
#[derive(Debug)]
pub(crate) struct KeyChange {
    slot: u32,
    /// The record before the block.
    pub before: Option<[u8; RECORD_LEN]>,
    /// Hash of the record after it.
    pub after: Option<Digest>,
    tx_index: u32,
}

/// All state keys that a round touches in one vault.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    index: BTreeMap<StateKey, u32>,
    slots: Vec<Slot>,
    in_block: Vec<u32>,
    undo: Vec<Undo>,
}

impl Slots {
    /// Registers the keys that an operation reads and writes.
    pub(crate) fn target(&mut self, operation: &Operation) -> Target {
        match operation {
            Operation::SetEntity { key, .. }
            | Operation::DeleteEntity { key }
            | Operation::ExpireEntity { key, .. } => {
                Target { slot: self.register(StateKey::entity(key)), twin: None }
            }
            Operation::CreateRelationship { resource, relation, subject }
            | Operation::DeleteRelationship { resource, relation, subject } => {
                let slot = self.register(StateKey::by_resource(resource, relation, subject));
                let twin = self.register(StateKey::by_subject(resource, relation, subject));
                Target { slot, twin: Some(twin) }
            }
        }
    }

    fn register(&mut self, key: StateKey) -> u32 {
        if let Some(&slot) = self.index.get(&key) {
            return slot;
        }
        let number = u32::try_from(self.slots.len()).expect("a round touches few keys");
        self.index.insert(key.clone(), number);
        let (live, block_change) = (None, None);
        self.slots.push(Slot { key, loaded: false, live, block_change, changed_in_round: false });
        number
    }

    /// Adds the row keys of the slots that are not loaded yet, in order.
    pub(crate) fn wanted(&self, vault: VaultRef, keys: &mut Vec<Vec<u8>>) {
        let unloaded =
            self.index.iter().filter(|(_, number)| !self.slots[**number as usize].loaded);
        keys.extend(unloaded.map(|(key, _)| latest_key(vault, key.as_bytes())));
    }

    /// Takes in the rows that [`Slots::wanted`] asked for, in its order.
    pub(crate) fn fill(
        &mut self,
        rows: &mut dyn Iterator<Item = Option<Vec<u8>>>,
    ) -> Result<(), ReadFault> {
        for &number in self.index.values() {
            let slot = &mut self.slots[number as usize];
            if !slot.loaded {
                let row = rows.next().expect("one answer for each wanted row");
                slot.live = row.map(Live::from_row).transpose()?;
                slot.loaded = true;
            }
        }
        Ok(())
    }

    /// Puts a key in place that a vault is born with.
    pub(crate) fn insert_born(&mut self, key: StateKey, row: Vec<u8>) -> Result<(), ReadFault> {
        let number = self.register(key);
        let slot = &mut self.slots[number as usize];
        slot.live = Some(Live::from_row(row)?);
        (slot.loaded, slot.changed_in_round) = (true, true);
        Ok(())
    }

    /// The key's present row, expired or not.
    pub(crate) fn live(&self, slot: u32) -> Option<&Live> {
        let slot = &self.slots[slot as usize];
        assert!(slot.loaded, "rows are loaded before operations run");
        slot.live.as_ref()
    }

    /// Changes a key on behalf of the block's transaction `tx_index`.
    pub(crate) fn replace(&mut self, slot: u32, live: Option<Live>, tx_index: u32) {
        let number = slot;
        let slot = &mut self.slots[number as usize];
        assert!(slot.loaded, "rows are loaded before operations run");
        let block_change = slot.block_change;
        let before = match block_change {
            Some(change) => change.before,
            None => {
                self.in_block.push(number);
                slot.live.as_ref().map(Live::record_bytes)
            }
        };
        slot.block_change = Some(BlockChange { before, tx_index });
        let live = std::mem::replace(&mut slot.live, live);
        self.undo.push(Undo { slot: number, live, block_change });
    }

    /// Keeps the changes since the last call of this or [`Slots::roll_back`].
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back the changes since the last call of this or [`Slots::keep`].
    pub(crate) fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            let slot = &mut self.slots[undo.slot as usize];
            slot.live = undo.live;
            slot.block_change = undo.block_change;
            if undo.block_change.is_none() {
                let last = self.in_block.pop();
                assert_eq!(last, Some(undo.slot), "first changes are undone in reverse order");
            }
        }
    }

    /// Ends the block: fills in the records of the keys that it changed, and tells the changes in key order.
    pub(crate) fn seal(&mut self, height: u64) -> Vec<KeyChange> {
        assert!(self.undo.is_empty(), "no transaction is half-way");
        let mut numbers = std::mem::take(&mut self.in_block);
        numbers.sort_unstable_by(|left, right| {
            self.slots[*left as usize].key.cmp(&self.slots[*right as usize].key)
        });
        let mut changes = Vec::with_capacity(numbers.len());
        for number in numbers {
            let slot = &mut self.slots[number as usize];
            let change = slot.block_change.take().expect("the list names changed slots");
            let BlockChange { before, tx_index } = change;
            let after = slot.live.as_mut().map(|live| {
                assert_eq!(
                    live.modified_height, height,
                    "a changed key carries its block's height"
                );
                let record = Record {
                    created_height: live.created_height,
                    modified_height: height,
                    modified_tx: tx_index,
                    expires_at: live.expires_at,
                    previous_record_hash: before.map_or(Digest::ZERO, |bytes| hash::plain(&bytes)),
                    value_hash: hash::plain(live.value()),
                };
                let bytes = record.encode();
                live.row[..RECORD_LEN].copy_from_slice(&bytes);
                hash::plain(&bytes)
            });
            if before.is_some() || after.is_some() {
                slot.changed_in_round = true;
                changes.push(KeyChange { slot: number, before, after, tx_index });
            }
        }
        changes
    }

    /// The state key of a change.
    pub(crate) fn key(&self, change: &KeyChange) -> &StateKey {
        &self.slots[change.slot as usize].key
    }

    /// The row that keeps what a block replaced or removed, if it did.
    pub(crate) fn history_row(
        &self,
        vault: VaultRef,
        change: &KeyChange,
        height: u64,
    ) -> Option<RowWrite> {
        let before = change.before?;
        let key = history_key(vault, self.key(change).as_bytes(), height, change.tx_index);
        Some(RowWrite { family: Family::History, key, value: Some(before.to_vec()) })
    }

    /// The loaded keys that begin with `prefix` as they are now, in order.
    pub(crate) fn loaded_from<'a>(
        &'a self,
        prefix: &'a StateKey,
    ) -> impl Iterator<Item = (&'a StateKey, Option<&'a Live>)> {
        let keys = self.index.range::<StateKey, _>(prefix..);
        keys.take_while(|(key, _)| key.as_bytes().starts_with(prefix.as_bytes()))
            .map(|(key, number)| (key, &self.slots[*number as usize]))
            .filter(|(_, slot)| slot.loaded)
            .map(|(key, slot)| (key, slot.live.as_ref()))
    }

    /// The present value of a key, if the round has loaded it.
    pub(crate) fn loaded(&self, key: &StateKey) -> Option<Option<&Live>> {
        let slot = &self.slots[*self.index.get(key)? as usize];
        slot.loaded.then_some(slot.live.as_ref())
    }

    /// The latest rows that the round leaves behind.
    pub(crate) fn into_rows(self, vault: VaultRef, rows: &mut Vec<RowWrite>) {
        assert!(self.in_block.is_empty(), "every block is sealed");
        let changed = self.slots.into_iter().filter(|slot| slot.changed_in_round);
        rows.extend(changed.map(|slot| RowWrite {
            family: Family::Latest,
            key: latest_key(vault, slot.key.as_bytes()),
            value: slot.live.map(|live| live.row),
        }));
    }
}
