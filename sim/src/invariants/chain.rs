//! What clients are told against what the chains hold.
//!
//! Owns a model of every vault: its blocks by height, and every key's values by height. A vault's blocks are
//! one order, so an answer is right if it is what that order says, and not older than what anybody knew when
//! the question was asked: that is linearizability, vault by vault.

use std::collections::BTreeMap;

use ledger_proof::transaction::{AppliedOperation, Transaction};
use ledger_shard_core::apply::{CommandResult, ConditionFailure, NewBlock};
use ledger_shard_core::command::record_checkpoint::CheckpointRefusal;
use ledger_shard_core::command::system::{SystemRefusal, SystemResult};
use ledger_shard_core::command::write::WriteResult;
use ledger_shard_core::rows::{block_body_key, decode_body};
use ledger_shard_core::view::{Family, RowWrite};
use ledger_types::{Condition, Digest, Operation, Outcome, VaultRef};

use super::{Oracle, Verdict};
use crate::workload::{self, Asked, Ending, State};

/// A key's values: from which height on, and what; `None` for absent.
type Values = Vec<(u64, Option<Vec<u8>>)>;

/// A vault's chain as the first replica to apply each block had it.
#[derive(Default)]
pub(crate) struct Chain {
    blocks: Vec<(Digest, Digest)>,
    keys: BTreeMap<String, Values>,
    /// The greatest height that anybody outside was told of.
    known: u64,
    /// What was asked for and what was told of the vault's end.
    end: End,
}

/// What is known of a vault's end outside.
#[derive(Default)]
struct End {
    is_delete_asked: bool,
    is_purge_asked: bool,
    is_deleted: bool,
    is_purged: bool,
}

impl Chain {
    fn latest(&self, key: &str) -> Option<(u64, &[u8])> {
        let (height, value) = self.keys.get(key)?.last()?;
        Some((*height, value.as_deref()?))
    }

    fn at(&self, key: &str, height: u64) -> Option<(u64, &[u8])> {
        let values = self.keys.get(key)?;
        let place = values.partition_point(|(from, _)| *from <= height);
        let (height, value) = values.get(place.checked_sub(1)?)?;
        Some((*height, value.as_deref()?))
    }

    /// True if a key was as a refusal says, at some height from `floor` on.
    fn was(&self, failure: &ConditionFailure, floor: u64) -> bool {
        let told = failure.current_version.zip(failure.current_value.as_deref());
        let values = self.keys.get(&failure.key).map_or(&[][..], Vec::as_slice);
        // A block may change a key more than once, so each change counts and not only the last of a height.
        let mut changes = values.iter().filter(|(height, _)| *height > floor);
        let is_told = |(height, value): &(u64, Option<Vec<u8>>)| {
            value.as_deref().map(|value| (*height, value)) == told
        };
        self.at(&failure.key, floor) == told || changes.any(is_told)
    }

    /// Carries out an operation and tells how it must have ended; `Err` if its condition does not hold.
    fn carry_out(&mut self, height: u64, operation: &Operation) -> Result<Outcome, String> {
        let (key, value) = match operation {
            Operation::SetEntity { key, value, condition, .. } => {
                let before = self.latest(key);
                let holds = match condition {
                    None => true,
                    Some(Condition::NotExists) => before.is_none(),
                    Some(Condition::MustExist) => before.is_some(),
                    Some(Condition::Version(version)) => before.map(|one| one.0) == Some(*version),
                    Some(Condition::ValueEquals(value)) => {
                        before.map(|one| one.1) == Some(value.as_slice())
                    }
                };
                if !holds {
                    return Err(format!("{condition:?} of {key} does not hold: {before:?}"));
                }
                (key.clone(), Some(value.clone()))
            }
            Operation::DeleteEntity { key } => (key.clone(), None),
            Operation::ExpireEntity { .. } => return Err("nothing expires here".to_owned()),
            Operation::CreateRelationship { resource, relation, subject } => {
                let key = format!("{resource}#{relation}@{subject}");
                if self.latest(&key).is_some() {
                    return Ok(Outcome::AlreadyExists);
                }
                (key, Some(Vec::new()))
            }
            Operation::DeleteRelationship { resource, relation, subject } => {
                (format!("{resource}#{relation}@{subject}"), None)
            }
        };
        let outcome = match (self.latest(&key).is_some(), value.is_some()) {
            (false, true) => Outcome::Created,
            (true, true) => Outcome::Updated,
            (true, false) => Outcome::Deleted,
            (false, false) => return Ok(Outcome::NotFound),
        };
        self.keys.entry(key).or_default().push((height, value));
        Ok(outcome)
    }
}

impl Oracle {
    /// A client asks for a vault's end.
    pub(crate) fn asked_to_end(&mut self, vault: VaultRef, ending: Ending) {
        let end = &mut self.chains.entry(vault).or_default().end;
        match ending {
            Ending::Delete => end.is_delete_asked = true,
            Ending::Purge => end.is_purge_asked = true,
        }
    }

    /// True if somebody was told that the vault is deleted.
    pub(crate) fn is_ended(&self, vault: VaultRef) -> bool {
        self.chains.get(&vault).is_some_and(|chain| chain.end.is_deleted)
    }

    /// True if a replica may have purged the vault.
    pub(crate) fn may_be_purged(&self, vault: VaultRef) -> bool {
        self.is_ended(vault)
            && self.chains.get(&vault).is_some_and(|chain| chain.end.is_purge_asked)
    }

    /// True if somebody was told that the vault is purged.
    pub(crate) fn is_purged(&self, vault: VaultRef) -> bool {
        self.chains.get(&vault).is_some_and(|chain| chain.end.is_purged)
    }

    /// An answer that is about a vault's end: only what was asked for has come, and what has come stays.
    fn told_of_end(&mut self, asked: &Asked, result: &CommandResult) -> Result<(), String> {
        let end = &mut self.chains.entry(asked.vault).or_default().end;
        let is_right = match (result, asked.ending) {
            (CommandResult::VaultDeleted, Some(Ending::Purge)) => false,
            (CommandResult::VaultDeleted, _) => end.is_delete_asked,
            (CommandResult::VaultPurged, Some(Ending::Purge)) => end.is_deleted,
            (CommandResult::VaultNotDeleted, Some(Ending::Purge)) => !asked.is_late,
            _ => false,
        };
        end.is_deleted |= *result == CommandResult::VaultDeleted;
        end.is_purged |= *result == CommandResult::VaultPurged;
        match is_right {
            true => Ok(()),
            false => Err(format!("{:?} of {} told {result:?}", asked.ending, asked.vault)),
        }
    }

    /// The greatest height of a vault that anybody outside was told of.
    pub(crate) fn known_height(&self, vault: VaultRef) -> u64 {
        self.chains.get(&vault).map_or(0, |chain| chain.known)
    }

    /// Height and value of a key as of the last block anywhere.
    pub(crate) fn latest(&self, vault: VaultRef, key: &str) -> Option<(u64, &[u8])> {
        self.chains.get(&vault)?.latest(key)
    }

    /// Every entity of a vault that is present after the last block, with its version.
    pub(crate) fn entities(&self, vault: VaultRef) -> Vec<(&str, u64, &[u8])> {
        let keys = self.chains.get(&vault).into_iter().flat_map(|chain| &chain.keys);
        let present = keys.filter_map(|(key, values)| {
            let (height, value) = values.last()?;
            Some((key.as_str(), *height, value.as_deref()?))
        });
        present.filter(|(key, ..)| !key.contains('#')).collect()
    }

    /// Height, hash and state root of a vault's last block anywhere.
    pub(crate) fn tip(&self, vault: VaultRef) -> Option<(u64, Digest, Digest)> {
        let blocks = &self.chains.get(&vault)?.blocks;
        blocks.last().map(|&(hash, root)| (blocks.len() as u64 - 1, hash, root))
    }

    /// A replica seals a block: the same as every other replica's of that height. The first one's
    /// transactions are carried out in the model, each at most once.
    pub(crate) fn block(
        &mut self,
        block: &NewBlock,
        rows: &[RowWrite],
        requests: &mut [Asked],
    ) -> Verdict {
        let chain = self.chains.entry(block.vault).or_default();
        if block.vault == VaultRef::SYSTEM && chain.blocks.is_empty() {
            // The directory's first block is in no log.
            chain.blocks.push((Digest::ZERO, Digest::ZERO));
        }
        let (vault, height) = (block.vault, block.height);
        let here = (block.block_hash, block.state_root);
        match chain.blocks.get(height as usize) {
            Some(known) if *known == here => return Ok(()),
            Some(known) => {
                let detail = format!("vault {vault}, height {height}: {known:?} and {here:?}");
                return Err(("one block a height", detail));
            }
            None if chain.end.is_deleted => {
                let detail = format!("vault {vault} has block {height} after its end");
                return Err(("nothing after the end", detail));
            }
            None if height as usize == chain.blocks.len() => chain.blocks.push(here),
            None => {
                let detail = format!("vault {vault} has block {height} before others");
                return Err(("one block a height", detail));
            }
        }
        if height == 0 || vault == VaultRef::SYSTEM {
            return Ok(());
        }
        let key = block_body_key(vault, height);
        let body = rows.iter().find(|row| row.family == Family::Blocks && row.key == key);
        let body = body.and_then(|row| row.value.as_deref()).unwrap_or_default();
        let broken = |detail: String| ("chain", format!("vault {vault}, {height}: {detail}"));
        let transactions = decode_body(body).map_err(|error| broken(error.to_string()))?;
        for (number, bytes) in (0..).zip(transactions) {
            let transaction =
                Transaction::decode(bytes).map_err(|error| broken(error.to_string()))?;
            let place = (height, number);
            take_in(chain, (vault, place), &transaction, requests).map_err(broken)?;
        }
        Ok(())
    }

    /// A client is answered: what it is told is in the chain where it is said to be, and not before what was
    /// known when it asked.
    pub(crate) fn answered(&mut self, asked: &Asked, id: usize, result: &CommandResult) -> Verdict {
        let vault = asked.vault;
        let wrong = |detail: String| Err(("answers", format!("request {id}: {detail}")));
        let known = match result {
            CommandResult::VaultDeleted
            | CommandResult::VaultPurged
            | CommandResult::VaultNotDeleted => {
                return match self.told_of_end(asked, result) {
                    Ok(()) => Ok(()),
                    Err(detail) => wrong(detail),
                };
            }
            _ if asked.is_late => return wrong(format!("told {result:?} after the vault's end")),
            CommandResult::Write(WriteResult::Committed(committed)) => {
                let place = (committed.height, committed.tx_index);
                if asked.placed != Some(place) {
                    return wrong(format!("told {place:?}, but is at {:?}", asked.placed));
                }
                if committed.height <= asked.floor {
                    return wrong(format!("at {}, known {}", committed.height, asked.floor));
                }
                committed.height
            }
            CommandResult::Write(WriteResult::SequenceDuplicate { .. }) => match asked.placed {
                Some((height, _)) => height,
                None => return wrong("told of a duplicate that is nowhere".to_owned()),
            },
            CommandResult::Write(WriteResult::ConditionFailed(failure)) => {
                let chain = self.chains.entry(vault).or_default();
                return match asked.placed {
                    Some(place) => wrong(format!("refused, but is at {place:?}")),
                    None if chain.was(failure, asked.floor) => Ok(()),
                    None => wrong(format!("refused after {}: {failure:?}", asked.floor)),
                };
            }
            CommandResult::System(SystemResult::NamespaceCreated { namespace, .. }) => {
                if !self.namespaces.insert(namespace.0) || namespace.0 <= asked.floor {
                    return wrong(format!("told {namespace}, known {}", asked.floor));
                }
                namespace.0
            }
            CommandResult::System(SystemResult::Refused(SystemRefusal::NamespaceNameTaken {
                namespace,
            })) if asked.may_be_logged => namespace.0,
            CommandResult::CheckpointRecorded
                if asked.is_checkpoint && !workload::asks_beyond(id) =>
            {
                return Ok(());
            }
            CommandResult::CheckpointRefused(CheckpointRefusal::BeyondTip)
                if asked.is_checkpoint && workload::asks_beyond(id) =>
            {
                return Ok(());
            }
            other => return wrong(format!("told {other:?}")),
        };
        let chain = self.chains.entry(vault).or_default();
        chain.known = chain.known.max(known);
        Ok(())
    }

    /// A client reads: the value of that height, and a height not below what was known when it asked.
    pub(crate) fn read(
        &mut self,
        asked: &Asked,
        height: u64,
        found: Option<&(u64, Vec<u8>)>,
    ) -> Verdict {
        let (vault, key, floor) = (asked.vault, &asked.key, asked.floor);
        let chain = self.chains.entry(vault).or_default();
        if height < floor {
            let detail = format!("{key} of {vault} at {height}, but {floor} was known before");
            return Err(("fresh reads", detail));
        }
        let expected = chain.at(key, height);
        let found = found.map(|(height, value)| (*height, value.as_slice()));
        if expected != found {
            let detail = format!("{key} of {vault} at {height}: {found:?}, not {expected:?}");
            return Err(("right reads", detail));
        }
        chain.known = chain.known.max(height);
        Ok(())
    }
}

fn take_in(
    chain: &mut Chain,
    (vault, place): (VaultRef, (u64, u32)),
    transaction: &Transaction,
    requests: &mut [Asked],
) -> Result<(), String> {
    let number = transaction.actor.strip_prefix("request").and_then(|number| number.parse().ok());
    let asked = number.and_then(|number: usize| requests.get_mut(number));
    let asked = asked.ok_or_else(|| format!("a transaction of {:?}", transaction.actor))?;
    if let Some(before) = asked.placed {
        return Err(format!("{} is at {before:?} and at {place:?}", transaction.actor));
    }
    if asked.vault != vault || asked.state == State::Refused {
        return Err(format!("{} does not belong at {place:?}", transaction.actor));
    }
    asked.placed = Some(place);
    if transaction.operations.len() != asked.operations.len() {
        return Err(format!("{} has other operations", transaction.actor));
    }
    for (applied, wanted) in transaction.operations.iter().zip(&asked.operations) {
        let AppliedOperation::State { operation, outcome } = applied else {
            return Err("nobody recovers here".to_owned());
        };
        if operation != wanted {
            return Err(format!("{} has other operations", transaction.actor));
        }
        let expected = chain.carry_out(place.0, operation)?;
        if expected != *outcome {
            return Err(format!("{operation:?} ended {outcome:?}, not {expected:?}"));
        }
    }
    Ok(())
}
