//! Which record of a key is visible at a height, and where its value is.
//!
//! Owns reading `latest` and `history` as one. Must never filter by time: that is the query's work.

use ledger_proof::transaction::AppliedOperation;
use ledger_proof::{Descriptor, ReadFault, Record, Transaction, hash};
use ledger_types::{Digest, Operation, StateKey, VaultRef};

use super::Entity;
use crate::apply::vault_state::stored_body;
use crate::rows::{
    RECORD_LEN, decode_body, history_key, history_key_after, latest_key, split_latest,
};
use crate::view::{Family, StateView};

/// A key's record at some height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version {
    pub record: Record,
    /// The value, if the record came with it; else the body of the record's block has it.
    pub value: Option<Vec<u8>>,
}

/// The record and value of a present row.
pub(super) fn from_latest(row: &[u8]) -> Result<(Record, &[u8]), ReadFault> {
    let corrupt = ReadFault::Corrupt { what: "a latest row does not begin with a record" };
    let split = split_latest(row).and_then(|(record, value)| Some((decode(record)?, value)));
    split.ok_or(corrupt)
}

/// The record of a history row.
pub(super) fn from_history(row: &[u8]) -> Result<Record, ReadFault> {
    decode(row).ok_or(ReadFault::Corrupt { what: "a history row is not a record" })
}

fn decode(record: &[u8]) -> Option<Record> {
    debug_assert!(record.len() <= RECORD_LEN);
    Record::decode(record).ok()
}

/// The version of a key that is visible at `height`.
pub(super) fn find(
    view: &dyn StateView,
    vault: VaultRef,
    key: &StateKey,
    height: u64,
) -> Result<Option<Version>, ReadFault> {
    let latest = view.get(Family::Latest, &latest_key(vault, key.as_bytes()))?;
    if let Some(row) = latest {
        let (record, value) = from_latest(&row)?;
        if record.modified_height <= height {
            return Ok(Some(Version { record, value: Some(value.to_vec()) }));
        }
    }
    // The first record superseded above the height is the one that was there, if it had begun by then.
    let from = history_key(vault, key.as_bytes(), height + 1, 0);
    let end = history_key_after(vault, key.as_bytes());
    let mut found = None;
    view.scan(Family::History, &from, &end, &mut |_, row| {
        found = Some(from_history(row));
        false
    })?;
    let record = found.transpose()?.filter(|record| record.modified_height <= height);
    Ok(record.map(|record| Version { record, value: None }))
}

/// The present versions of several keys, in their order.
pub(super) fn find_latest(
    view: &dyn StateView,
    vault: VaultRef,
    keys: &[StateKey],
) -> Result<Vec<Option<Version>>, ReadFault> {
    let row_keys: Vec<_> = keys.iter().map(|key| latest_key(vault, key.as_bytes())).collect();
    let rows = view.multi_get(Family::Latest, &row_keys)?;
    let version = |row: Vec<u8>| {
        let (record, value) = from_latest(&row)?;
        Ok(Version { record, value: Some(value.to_vec()) })
    };
    rows.into_iter().map(|row| row.map(version).transpose()).collect()
}

/// Values of superseded records, read from bodies; remembers the last body, as a list often reads one block.
pub(super) struct Values<'a> {
    view: &'a dyn StateView,
    vault: VaultRef,
    body: Option<(u64, Vec<u8>)>,
}

impl<'a> Values<'a> {
    pub(crate) fn new(view: &'a dyn StateView, vault: VaultRef) -> Values<'a> {
        Values { view, vault, body: None }
    }

    /// A version of an entity's key as an entity.
    pub(crate) fn entity(
        &mut self,
        state_key: &[u8],
        version: Version,
    ) -> Result<Entity, ReadFault> {
        let record = version.record;
        let key = StateKey::as_entity(state_key)
            .ok_or(ReadFault::Corrupt { what: "an entity's state key is malformed" })?;
        let value = self.value(state_key, version)?;
        Ok(Entity {
            key: key.to_owned(),
            value,
            version: record.modified_height,
            created_height: record.created_height,
            expires_at: record.expires_at,
        })
    }

    /// The value of a version of any key; a relationship's is empty.
    pub(crate) fn value(
        &mut self,
        state_key: &[u8],
        version: Version,
    ) -> Result<Vec<u8>, ReadFault> {
        match version.value {
            Some(value) => Ok(value),
            None => self.read(state_key, &version.record),
        }
    }

    fn read(&mut self, state_key: &[u8], record: &Record) -> Result<Vec<u8>, ReadFault> {
        let value = if StateKey::as_relationship(state_key).is_some() {
            Vec::new()
        } else if record.modified_height == 0 {
            // Genesis has no body; its only value is the descriptor's first one.
            let (vault, old_note) = (self.vault, Digest::ZERO);
            Descriptor { vault, log_epoch: 0, last_recovery_height: 0, old_note }.encode()
        } else {
            self.read_from_body(state_key, record)?
        };
        if hash::plain(&value) != record.value_hash {
            return Err(ReadFault::Corrupt { what: "a superseded value has another hash" });
        }
        Ok(value)
    }

    fn read_from_body(&mut self, key: &[u8], record: &Record) -> Result<Vec<u8>, ReadFault> {
        let height = record.modified_height;
        if self.body.as_ref().is_none_or(|(of, _)| *of != height) {
            self.body = Some((height, stored_body(self.view, self.vault, height)?));
        }
        let (_, body) = self.body.as_ref().expect("just read");
        let corrupt = ReadFault::Corrupt { what: "a block body lacks the value of its record" };
        let transactions = decode_body(body).map_err(|_| corrupt.clone())?;
        let bytes = transactions.get(record.modified_tx as usize).ok_or(corrupt.clone())?;
        let transaction = Transaction::decode(bytes).map_err(|_| corrupt.clone())?;
        let entity = StateKey::as_entity(key).ok_or(corrupt.clone())?;
        let set = transaction.operations.into_iter().rev().find_map(|applied| match applied {
            AppliedOperation::State {
                operation: Operation::SetEntity { key, value, .. }, ..
            } if key == entity => Some(value),
            _ => None,
        });
        set.ok_or(corrupt)
    }
}
