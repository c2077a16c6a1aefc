//! What operations do to the state, by the words of the format: conditions, outcomes, records.
//!
//! Owns reads of a block's own changes and undoing a transaction that cannot have been committed. Must
//! never look at what a block says the outcome was.

use std::collections::BTreeMap;

use ledger_types::{Condition, Digest, Operation, Outcome, StateKey};

use super::finding::{FindingKind, KeyText};
use super::trie::Trie;
use crate::hash;
use crate::record::{Descriptor, Record};

/// Where in the chain an operation stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The block.
    pub height: u64,
    /// Place of the transaction in it.
    pub transaction: u32,
    /// Block time in whole Unix seconds.
    pub now_s: u64,
}

/// The state after the last sealed block, and what the block at hand has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    trie: Trie,
    /// Keys that the block has changed, with the records that they have now.
    changed: BTreeMap<StateKey, Option<Record>>,
    /// What the transaction at hand has changed, with what was in `changed` before.
    undo: Vec<(StateKey, Option<Option<Record>>)>,
}

/// A key as an operation leaves it.
struct New {
    created_height: u64,
    expires_at: u64,
    value_hash: Digest,
}

impl State {
    /// The state that a vault is born with, and later the mark that a recovery leaves.
    pub(super) fn describe(&mut self, descriptor: &Descriptor, moment: Moment) {
        let key = StateKey::descriptor();
        let created_height = self.live(&key).map_or(moment.height, |live| live.created_height);
        let value_hash = hash::plain(&descriptor.encode());
        self.put(key, Some(New { created_height, expires_at: 0, value_hash }), moment);
    }

    /// Carries an operation out. Errors: its condition does not hold, so it is in no block.
    pub(super) fn run(
        &mut self,
        operation: &Operation,
        moment: Moment,
    ) -> Result<Outcome, FindingKind> {
        match operation {
            Operation::SetEntity { key, value, expires_at, condition } => {
                let key = StateKey::entity(key);
                let visible = self.visible(&key, moment);
                if let Some(condition) = condition {
                    check(condition, visible)?;
                }
                let outcome = visible.map_or(Outcome::Created, |_| Outcome::Updated);
                let created_height = visible.map_or(moment.height, |live| live.created_height);
                let (expires_at, value_hash) = (*expires_at, hash::plain(value));
                self.put(key, Some(New { created_height, expires_at, value_hash }), moment);
                Ok(outcome)
            }
            Operation::DeleteEntity { key } => {
                let key = StateKey::entity(key);
                let was_visible = self.visible(&key, moment).is_some();
                if self.live(&key).is_some() {
                    self.put(key, None, moment);
                }
                Ok(if was_visible { Outcome::Deleted } else { Outcome::NotFound })
            }
            Operation::ExpireEntity { key, expired_at } => {
                let key = StateKey::entity(key);
                let is_named = self.live(&key).is_some_and(|live| {
                    live.expires_at == *expired_at && live.is_expired(moment.now_s)
                });
                if is_named {
                    self.put(key, None, moment);
                }
                Ok(if is_named { Outcome::Expired } else { Outcome::NotFound })
            }
            Operation::CreateRelationship { resource, relation, subject } => {
                let keys = both_keys(resource, relation, subject)?;
                if self.live(&keys[0]).is_some() {
                    return Ok(Outcome::AlreadyExists);
                }
                for key in keys {
                    let created_height = moment.height;
                    let value_hash = hash::plain(b"");
                    self.put(key, Some(New { created_height, expires_at: 0, value_hash }), moment);
                }
                Ok(Outcome::Created)
            }
            Operation::DeleteRelationship { resource, relation, subject } => {
                let keys = both_keys(resource, relation, subject)?;
                if self.live(&keys[0]).is_none() {
                    return Ok(Outcome::NotFound);
                }
                for key in keys {
                    self.put(key, None, moment);
                }
                Ok(Outcome::Deleted)
            }
        }
    }

    /// Keeps what the transaction did.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back what the transaction did.
    pub(super) fn roll_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(before) => self.changed.insert(key, before),
                None => self.changed.remove(&key),
            };
        }
    }

    /// Ends the block.
    pub(super) fn seal(&mut self) {
        self.keep();
        for (key, record) in std::mem::take(&mut self.changed) {
            match record {
                Some(record) => self.trie.insert(key.as_bytes(), record),
                None => self.trie.remove(key.as_bytes()),
            }
        }
    }

    /// The root after the last sealed block.
    pub(super) fn root(&mut self) -> Digest {
        self.trie.root()
    }

    /// The keys after the last sealed block.
    pub(super) fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The key's record, expired or not.
    fn live(&self, key: &StateKey) -> Option<&Record> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.trie.get(key.as_bytes()),
        }
    }

    /// The key as conditions and outcomes see it.
    fn visible(&self, key: &StateKey, moment: Moment) -> Option<&Record> {
        self.live(key).filter(|live| !live.is_expired(moment.now_s))
    }

    fn put(&mut self, key: StateKey, new: Option<New>, moment: Moment) {
        let before = self.trie.get(key.as_bytes()).map_or(Digest::ZERO, Record::hash);
        let record = new.map(|New { created_height, expires_at, value_hash }| Record {
            created_height,
            modified_height: moment.height,
            modified_tx: moment.transaction,
            expires_at,
            previous_record_hash: before,
            value_hash,
        });
        let replaced = self.changed.insert(key.clone(), record);
        self.undo.push((key, replaced));
    }
}

fn both_keys(resource: &str, relation: &str, subject: &str) -> Result<[StateKey; 2], FindingKind> {
    StateKey::check_relationship(resource, relation, subject)
        .map_err(|_| FindingKind::RelationshipTooLong)?;
    Ok([
        StateKey::by_resource(resource, relation, subject),
        StateKey::by_subject(resource, relation, subject),
    ])
}

fn check(condition: &Condition, visible: Option<&Record>) -> Result<(), FindingKind> {
    let holds = match condition {
        Condition::NotExists => visible.is_none(),
        Condition::MustExist => visible.is_some(),
        Condition::Version(version) => visible.is_some_and(|live| live.modified_height == *version),
        Condition::ValueEquals(value) => {
            visible.is_some_and(|live| live.value_hash == hash::plain(value))
        }
    };
    if holds {
        return Ok(());
    }
    let found = visible.map_or(KeyText::Absent, |live| KeyText::Present {
        version: live.modified_height,
        value_hash: live.value_hash,
    });
    Err(FindingKind::ConditionFailed { condition: condition.into(), found })
}
