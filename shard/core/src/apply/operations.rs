//! What one operation does to the keys it names, and when a condition fails.
//!
//! Owns outcomes. Must never touch sessions, blocks or rows.

use ledger_proof::transaction::AppliedOperation;
use ledger_types::limits::CONDITION_VALUE_BYTES_MAX;
use ledger_types::{Condition, Operation, Outcome};

use super::slots::{Live, Slots};

/// The slots that an operation reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The entity, or the relationship under its resource.
    pub slot: u32,
    /// The relationship under its subject.
    pub twin: Option<u32>,
}

/// Which kind of condition did not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedCondition {
    /// The entity was to be absent.
    KeyExists,
    /// The entity was to be present.
    KeyNotFound,
    /// The entity was to have another version.
    VersionMismatch,
    /// The entity was to have another value.
    ValueMismatch,
}

/// Why a transaction has no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConditionFailure {
    /// The operation's place in the transaction, from 0.
    pub operation: u32,
    /// What did not hold.
    pub failed: FailedCondition,
    /// The entity's key.
    pub key: String,
    /// The entity's version at that moment, earlier operations of the transaction included; `None` if absent.
    pub current_version: Option<u64>,
    /// Its value, if it is present and at most `CONDITION_VALUE_BYTES_MAX` long.
    pub current_value: Option<Vec<u8>>,
}

/// Where in the vault's history an operation runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Height of the block being built.
    pub height: u64,
    /// Place of the transaction in it.
    pub tx_index: u32,
    /// The block's time in whole Unix seconds, which decides what has expired.
    pub now_s: u64,
}

/// Runs the operations of a transaction in order: all of them or, at the first failed condition, none.
pub(crate) fn execute(
    slots: &mut Slots,
    operations: Vec<Operation>,
    targets: &[Target],
    moment: Moment,
) -> Result<Vec<AppliedOperation>, ConditionFailure> {
    assert_eq!(operations.len(), targets.len(), "each operation has its target");
    let mut applied = Vec::with_capacity(operations.len());
    for (place, (operation, target)) in operations.into_iter().zip(targets).enumerate() {
        match run(slots, &operation, *target, moment) {
            Ok(outcome) => applied.push(AppliedOperation::State { operation, outcome }),
            Err(failed) => {
                let visible = visible(slots, *target, moment);
                let failure = failure(operation, place as u32, failed, visible);
                slots.roll_back();
                return Err(failure);
            }
        }
    }
    slots.keep();
    Ok(applied)
}

fn run(
    slots: &mut Slots,
    operation: &Operation,
    target: Target,
    moment: Moment,
) -> Result<Outcome, FailedCondition> {
    match operation {
        Operation::SetEntity { value, expires_at, condition, .. } => {
            let visible = visible(slots, target, moment);
            if let Some(condition) = condition {
                check(condition, visible)?;
            }
            Ok(set(slots, target, value, *expires_at, moment))
        }
        Operation::DeleteEntity { .. } => Ok(delete(slots, target, moment)),
        Operation::ExpireEntity { expired_at, .. } => {
            Ok(expire(slots, target, *expired_at, moment))
        }
        Operation::CreateRelationship { .. } => Ok(create(slots, target, moment)),
        Operation::DeleteRelationship { .. } => Ok(delete(slots, target, moment)),
    }
}

/// The key as conditions and outcomes see it: expired counts as absent.
fn visible(slots: &Slots, target: Target, moment: Moment) -> Option<&Live> {
    slots.live(target.slot).filter(|live| !live.is_expired(moment.now_s))
}

fn check(condition: &Condition, visible: Option<&Live>) -> Result<(), FailedCondition> {
    let (holds, failed) = match condition {
        Condition::NotExists => (visible.is_none(), FailedCondition::KeyExists),
        Condition::MustExist => (visible.is_some(), FailedCondition::KeyNotFound),
        Condition::Version(version) => {
            let holds = visible.is_some_and(|live| live.modified_height == *version);
            (holds, FailedCondition::VersionMismatch)
        }
        Condition::ValueEquals(value) => {
            let holds = visible.is_some_and(|live| live.value() == value);
            (holds, FailedCondition::ValueMismatch)
        }
    };
    if holds { Ok(()) } else { Err(failed) }
}

fn set(
    slots: &mut Slots,
    target: Target,
    value: &[u8],
    expires_at: u64,
    moment: Moment,
) -> Outcome {
    let created_before = visible(slots, target, moment).map(|live| live.created_height);
    let created_height = created_before.unwrap_or(moment.height);
    let live = Live::new(created_height, moment.height, expires_at, value);
    slots.replace(target.slot, Some(live), moment.tx_index);
    match created_before {
        Some(_) => Outcome::Updated,
        None => Outcome::Created,
    }
}

/// Removes a row wherever there is one; an expired one was not there for the client.
fn delete(slots: &mut Slots, target: Target, moment: Moment) -> Outcome {
    let Some(live) = slots.live(target.slot) else { return Outcome::NotFound };
    let is_expired = live.is_expired(moment.now_s);
    remove(slots, target, moment);
    if is_expired { Outcome::NotFound } else { Outcome::Deleted }
}

/// Removes a row only if it is the one that the proposer saw, and due.
fn expire(slots: &mut Slots, target: Target, expired_at: u64, moment: Moment) -> Outcome {
    let is_due = |live: &Live| live.expires_at == expired_at && live.is_expired(moment.now_s);
    if !slots.live(target.slot).is_some_and(is_due) {
        return Outcome::NotFound;
    }
    remove(slots, target, moment);
    Outcome::Expired
}

fn create(slots: &mut Slots, target: Target, moment: Moment) -> Outcome {
    if slots.live(target.slot).is_some() {
        return Outcome::AlreadyExists;
    }
    for slot in [Some(target.slot), target.twin].into_iter().flatten() {
        let live = Live::new(moment.height, moment.height, 0, &[]);
        slots.replace(slot, Some(live), moment.tx_index);
    }
    Outcome::Created
}

fn remove(slots: &mut Slots, target: Target, moment: Moment) {
    slots.replace(target.slot, None, moment.tx_index);
    if let Some(twin) = target.twin {
        assert!(slots.live(twin).is_some(), "a relationship has both its keys");
        slots.replace(twin, None, moment.tx_index);
    }
}

fn failure(
    operation: Operation,
    place: u32,
    failed: FailedCondition,
    visible: Option<&Live>,
) -> ConditionFailure {
    let Operation::SetEntity { key, .. } = operation else {
        unreachable!("only a set has a condition");
    };
    let shown = visible.filter(|live| live.value().len() <= CONDITION_VALUE_BYTES_MAX);
    ConditionFailure {
        operation: place,
        failed,
        key,
        current_version: visible.map(|live| live.modified_height),
        current_value: shown.map(|live| live.value().to_vec()),
    }
}
