//! The session rows that a round touches in one vault, and the eviction of old ones.
//!
//! Owns which idempotency keys are still remembered. Eviction follows block order and block time only, so
//! that every replica forgets the same keys at the same block. Must never judge a write.

use std::collections::BTreeMap;

use ledger_proof::encoding::DecodeError;
use ledger_proof::{ReadFault, Transaction};
use ledger_types::{Dedup, VaultRef};

use super::round::VaultRound;
use crate::rows::{ClientRow, SessionRow, decode_body, session_client_key, session_key};
use crate::view::{Family, RowWrite, StateView};

/// Blocks whose keys one new block evicts because of their age.
const AGED_BLOCKS_PER_BLOCK: u32 = 8;

/// A value of the `sessions` family.
pub(crate) trait RowValue: Copy {
    fn to_value(self) -> Vec<u8>;
    fn from_value(value: &[u8]) -> Result<Self, DecodeError>;
}

impl RowValue for SessionRow {
    fn to_value(self) -> Vec<u8> {
        self.encode()
    }
    fn from_value(value: &[u8]) -> Result<SessionRow, DecodeError> {
        SessionRow::decode(value)
    }
}

impl RowValue for ClientRow {
    fn to_value(self) -> Vec<u8> {
        self.encode()
    }
    fn from_value(value: &[u8]) -> Result<ClientRow, DecodeError> {
        ClientRow::decode(value)
    }
}

#[derive(Debug)]
struct TableRow<V> {
    value: Option<V>,
    loaded: bool,
    changed: bool,
}

/// Rows of one kind, as loaded and as changed since.
#[derive(Debug)]
pub(crate) struct Table<V> {
    index: BTreeMap<Vec<u8>, u32>,
    rows: Vec<TableRow<V>>,
}

impl<V> Default for Table<V> {
    fn default() -> Table<V> {
        Table { index: BTreeMap::new(), rows: Vec::new() }
    }
}

impl<V: RowValue> Table<V> {
    fn register(&mut self, key: Vec<u8>) -> u32 {
        let rows = &mut self.rows;
        *self.index.entry(key).or_insert_with(|| {
            rows.push(TableRow { value: None, loaded: false, changed: false });
            u32::try_from(rows.len() - 1).expect("a round touches few sessions")
        })
    }

    fn wanted(&self, keys: &mut Vec<Vec<u8>>) {
        let unloaded = self.index.iter().filter(|(_, number)| !self.rows[**number as usize].loaded);
        keys.extend(unloaded.map(|(key, _)| key.clone()));
    }

    fn fill(&mut self, values: &mut dyn Iterator<Item = Option<Vec<u8>>>) -> Result<(), ReadFault> {
        for &number in self.index.values() {
            let row = &mut self.rows[number as usize];
            if !row.loaded {
                let value = values.next().expect("one answer for each wanted row");
                let corrupt = |_| ReadFault::Corrupt { what: "a session row is malformed" };
                row.value =
                    value.map(|value| V::from_value(&value).map_err(corrupt)).transpose()?;
                row.loaded = true;
            }
        }
        Ok(())
    }

    /// The row's value now.
    pub(crate) fn get(&self, number: u32) -> Option<&V> {
        let row = &self.rows[number as usize];
        assert!(row.loaded, "rows are loaded before writes run");
        row.value.as_ref()
    }

    /// Puts a value.
    pub(crate) fn set(&mut self, number: u32, value: V) {
        self.write(number, Some(value));
    }

    fn write(&mut self, number: u32, value: Option<V>) {
        let row = &mut self.rows[number as usize];
        row.value = value;
        (row.loaded, row.changed) = (true, true);
    }

    fn into_rows(self, rows: &mut Vec<RowWrite>) {
        for (key, number) in self.index {
            let TableRow { value, changed, .. } = self.rows[number as usize];
            if changed {
                let value = value.map(V::to_value);
                rows.push(RowWrite { family: Family::Sessions, key, value });
            }
        }
    }
}

/// The session rows of one vault that a round touches.
#[derive(Debug)]
pub(crate) struct Sessions {
    vault: VaultRef,
    /// Idempotency keys.
    pub keys: Table<SessionRow>,
    /// Clients' counters.
    pub clients: Table<ClientRow>,
}

impl Sessions {
    /// No rows yet.
    pub(crate) fn new(vault: VaultRef) -> Sessions {
        Sessions { vault, keys: Table::default(), clients: Table::default() }
    }

    /// Registers a client's counter.
    pub(crate) fn client_row(&mut self, client: &str) -> u32 {
        self.clients.register(session_client_key(self.vault, client))
    }

    /// Registers a client's idempotency key.
    pub(crate) fn key_row(&mut self, client: &str, key: &[u8; 16]) -> u32 {
        self.keys.register(session_key(self.vault, client, key))
    }

    /// Adds the keys of the rows that are not loaded yet, in order.
    pub(crate) fn wanted(&self, keys: &mut Vec<Vec<u8>>) {
        self.keys.wanted(keys);
        self.clients.wanted(keys);
    }

    /// Takes in the rows that [`Sessions::wanted`] asked for, in its order.
    pub(crate) fn fill(
        &mut self,
        values: &mut dyn Iterator<Item = Option<Vec<u8>>>,
    ) -> Result<(), ReadFault> {
        self.keys.fill(values)?;
        self.clients.fill(values)
    }

    /// The rows that the round leaves behind.
    pub(crate) fn into_rows(self, rows: &mut Vec<RowWrite>) {
        self.keys.into_rows(rows);
        self.clients.into_rows(rows);
    }
}

/// How long and how many idempotency keys a vault remembers. The same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SessionLimits {
    /// Block time after which a key is forgotten.
    pub retention_ns: u64,
    /// Rows at which the oldest go first.
    pub rows_max: u64,
}

/// Forgets the keys of old blocks after the block of time `now_ns` was sealed.
pub(crate) fn evict(
    round: &mut VaultRound,
    limits: SessionLimits,
    now_ns: u64,
    view: &dyn StateView,
) -> Result<(), ReadFault> {
    let mut aged_blocks = 0;
    loop {
        let state = round.state_mut();
        if state.row.session_rows == 0 {
            (state.row.session_floor_height, state.session_floor_time_ns) =
                (state.row.height + 1, None);
            return Ok(());
        }
        let floor = state.row.session_floor_height;
        assert!(floor <= state.row.height, "remembered keys are in a block");
        if state.row.session_rows <= limits.rows_max {
            let floor_time_ns = match state.session_floor_time_ns {
                Some(time_ns) => time_ns,
                None => round.header(floor, view)?.timestamp_ns,
            };
            round.state_mut().session_floor_time_ns = Some(floor_time_ns);
            let is_aged = floor_time_ns.saturating_add(limits.retention_ns) <= now_ns;
            if !is_aged || aged_blocks == AGED_BLOCKS_PER_BLOCK {
                return Ok(());
            }
            aged_blocks += 1;
        }
        let forgotten = forget_block(round, floor, view)?;
        let row = &mut round.state_mut().row;
        row.session_rows = row
            .session_rows
            .checked_sub(forgotten)
            .ok_or(ReadFault::Corrupt { what: "a vault has fewer session rows than its blocks" })?;
        row.session_floor_height = floor + 1;
        round.state_mut().session_floor_time_ns = None;
    }
}

fn forget_block(
    round: &mut VaultRound,
    height: u64,
    view: &dyn StateView,
) -> Result<u64, ReadFault> {
    let body = round.body(height, view)?.into_owned();
    let corrupt = |_| ReadFault::Corrupt { what: "a block body is malformed" };
    let mut forgotten = 0;
    for transaction in decode_body(&body).map_err(corrupt)? {
        let transaction = Transaction::decode(transaction).map_err(corrupt)?;
        if let Dedup::IdempotencyKey(key) = transaction.dedup {
            let row = round.sessions.key_row(&transaction.client, &key);
            round.sessions.keys.write(row, None);
            forgotten += 1;
        }
    }
    Ok(forgotten)
}
