//! One round: entries are decoded, the rows they will read are loaded at once, and each is run.
//!
//! Owns the order of work inside a round. Must never look into a command's body beyond handing it to the
//! command's own file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ledger_proof::encoding::DecodeError;
use ledger_proof::transaction::Transaction;
use ledger_proof::{EntryPosition, ReadFault, hash};
use ledger_types::{Dedup, GroupId, OwnerEpoch, TxId, VaultRef};

use super::block::BlockBuilder;
use super::cache::VaultCache;
use super::flush;
use super::round::{RoundEntities, VaultRound};
use super::sessions::SessionLimits;
use super::vault_state::{Born, VaultState, born};
use super::{Applier, ApplyFault, ApplyOutput, CommandReply, CommandResult, NewBlock};
use crate::command::create_vault::CreateVaultCommand;
use crate::command::record_checkpoint::RecordCheckpointCommand;
use crate::command::write::PreparedWrite;
use crate::command::{record_checkpoint, system, write};
use crate::effects::{Committed, MembersChanged};
use crate::entry::{CommandKind, EntryData, EntryKind, FEATURE_LEVEL, LogEntry};
use crate::rows::{GroupRow, OwnedRow, OwnedState, VaultStatus, group_row_key, owned_row_key};
use crate::view::{Family, RowWrite, StateView};

/// The client name in the directory's own transactions.
const SYSTEM_CLIENT: &str = "_system";

/// One entry, decoded: its commands by vault, in order of first mention.
struct PlannedEntry {
    index: u64,
    term: u64,
    time_ns: u64,
    parts: Vec<(VaultRef, Vec<PlannedCommand>)>,
    /// The group's members from this entry on, if it changes them.
    members: Option<MembersChanged>,
}

struct PlannedCommand {
    position: u32,
    owner_epoch: OwnerEpoch,
    action: Action,
}

enum Action {
    Write(PreparedWrite),
    CreateVault,
    System(Vec<u8>),
    RecordCheckpoint(RecordCheckpointCommand),
}

type Rounds = BTreeMap<VaultRef, VaultRound>;

/// Applies a round; see [`Applier::apply`].
pub(super) fn round(
    applier: &mut Applier,
    committed: &[Committed],
    view: &dyn StateView,
    output: &mut ApplyOutput,
) -> Result<(), ApplyFault> {
    let mut rounds = Rounds::new();
    let mut plans = Vec::with_capacity(committed.len());
    for Committed { group, entries, members } in committed {
        let entries: Result<Vec<_>, _> =
            entries.iter().map(|entry| plan(*group, entry, members, &mut rounds)).collect();
        plans.push((*group, entries?));
    }
    load_rows(&mut rounds, view)?;
    let mut touched = BTreeMap::new();
    for (group, entries) in plans {
        let row = group_row(&mut applier.groups, group, view)?;
        for entry in entries {
            let is_replay = entry.index <= row.applied_index;
            if !is_replay && entry.index != row.applied_index + 1 {
                let (applied, found) = (row.applied_index, entry.index);
                return Err(ApplyFault::Gap { group, applied, found });
            }
            let PlannedEntry { index, term, time_ns, parts, members } = entry;
            let limits = SessionLimits {
                retention_ns: applier.config.session_retention_ns,
                rows_max: applier.config.session_rows_max,
            };
            let cache = &mut applier.cache;
            let position = EntryPosition { shard: group.0, term, index, timestamp_ns: time_ns };
            let mut run = EntryRun { group, position, limits, is_replay, cache, view };
            run.entry(parts, &mut rounds, output)?;
            if !is_replay {
                (row.applied_index, row.applied_term) = (index, term);
                if let Some(members) = members {
                    row.conf_state = members.conf_state;
                    row.replicas = members.replicas;
                }
            }
        }
        touched.insert(group, row.applied_index);
    }
    for (&group, &applied_index) in &touched {
        let (family, key) = (Family::Vaults, group_row_key(group));
        output.rows.push(RowWrite { family, key, value: Some(applier.groups[&group].encode()) });
        output.applied.push((group, applied_index));
    }
    finish(applier, rounds, view, output)
}

/// Moves every vault's rows into the output, writes tree pages that are due, and keeps the states.
fn finish(
    applier: &mut Applier,
    rounds: Rounds,
    view: &dyn StateView,
    output: &mut ApplyOutput,
) -> Result<(), ApplyFault> {
    let history_blocks = applier.config.history_blocks;
    for (vault, mut round) in rounds {
        if round.is_looked_up() && round.state().is_some() {
            let (blocks_max, bytes_max) =
                (applier.config.tree_flush_blocks, applier.config.tree_flush_bytes);
            let state = round.state().expect("just looked at");
            if state.unflushed_blocks() >= blocks_max || state.unflushed_bytes() >= bytes_max {
                let (state, rows) = (round.state_mut(), &mut output.rows);
                flush::flush(vault, state, history_blocks, view, rows)?;
            }
        }
        if let Some(state) = round.finish(&mut output.rows) {
            applier.cache.put(vault, state);
        }
    }
    applier.cache.flush_for_room(history_blocks, view, &mut output.rows)?;
    Ok(())
}

fn group_row<'a>(
    groups: &'a mut BTreeMap<GroupId, GroupRow>,
    group: GroupId,
    view: &dyn StateView,
) -> Result<&'a mut GroupRow, ApplyFault> {
    match groups.entry(group) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(place) => {
            let value = view.get(Family::Vaults, &group_row_key(group))?;
            let value = value.ok_or(ApplyFault::UnknownGroup(group))?;
            let corrupt = |_| ReadFault::Corrupt { what: "a group row is malformed" };
            Ok(place.insert(GroupRow::decode(&value).map_err(corrupt)?))
        }
    }
}

/// Decodes an entry and registers the rows that its commands will read.
fn plan(
    group: GroupId,
    entry: &LogEntry,
    members: &[MembersChanged],
    rounds: &mut Rounds,
) -> Result<PlannedEntry, ApplyFault> {
    let LogEntry { index, term, kind, data } = entry;
    let (index, term) = (*index, *term);
    let nothing = |members| PlannedEntry { index, term, time_ns: 0, parts: Vec::new(), members };
    if *kind != EntryKind::Normal {
        // What it comes to is raft's to say, before the entry gets here (I8).
        let changed = members.iter().find(|changed| changed.index == index).cloned();
        return changed.map(|one| nothing(Some(one))).ok_or(ApplyFault::Members { group, index });
    }
    if data.is_empty() {
        return Ok(nothing(None));
    }
    let decode = |source| ApplyFault::Decode { group, index, source };
    let data = EntryData::decode(data).map_err(decode)?;
    if data.feature_level > FEATURE_LEVEL {
        return Err(ApplyFault::FeatureLevel { group, index, level: data.feature_level });
    }
    let mut parts: Vec<(VaultRef, Vec<PlannedCommand>)> = Vec::new();
    let mut places = BTreeMap::new();
    for (position, command) in (0u32..).zip(&data.commands) {
        let vault = command.vault;
        let round = rounds.entry(vault).or_insert_with(|| VaultRound::new(vault));
        let Some(kind) = CommandKind::from_code(command.kind) else {
            return Err(ApplyFault::UnknownCommand { group, index, kind: command.kind });
        };
        let action = action(kind, command.body, round).map_err(decode)?;
        let place = *places.entry(vault).or_insert_with(|| {
            parts.push((vault, Vec::new()));
            parts.len() - 1
        });
        let owner_epoch = command.owner_epoch;
        parts[place].1.push(PlannedCommand { position, owner_epoch, action });
    }
    Ok(PlannedEntry { index, term, time_ns: data.time_ns, parts, members: None })
}

fn action(kind: CommandKind, body: &[u8], round: &mut VaultRound) -> Result<Action, DecodeError> {
    Ok(match kind {
        CommandKind::Write => Action::Write(write::prepare(body, round)?),
        CommandKind::CreateVault => {
            CreateVaultCommand::decode(body)?;
            Action::CreateVault
        }
        CommandKind::System => Action::System(body.to_vec()),
        CommandKind::RecordCheckpoint => {
            Action::RecordCheckpoint(RecordCheckpointCommand::decode(body)?)
        }
    })
}

/// Loads every registered row of the round: one read of many rows for each family.
fn load_rows(rounds: &mut Rounds, view: &dyn StateView) -> Result<(), ApplyFault> {
    let (mut latest, mut sessions) = (Vec::new(), Vec::new());
    for (vault, round) in rounds.iter() {
        round.slots.wanted(*vault, &mut latest);
        round.sessions.wanted(&mut sessions);
    }
    let mut latest = view.multi_get(Family::Latest, &latest)?.into_iter();
    let mut sessions = view.multi_get(Family::Sessions, &sessions)?.into_iter();
    for round in rounds.values_mut() {
        round.slots.fill(&mut latest)?;
        round.sessions.fill(&mut sessions)?;
    }
    assert!(latest.next().is_none() && sessions.next().is_none(), "each answer has its row");
    Ok(())
}

/// Running one entry.
struct EntryRun<'a> {
    group: GroupId,
    /// The entry's place in the log and its time.
    position: EntryPosition,
    limits: SessionLimits,
    /// The entry was applied before; only vaults that missed it take it in, and nobody waits for answers.
    is_replay: bool,
    cache: &'a mut VaultCache,
    view: &'a dyn StateView,
}

impl EntryRun<'_> {
    fn entry(
        &mut self,
        parts: Vec<(VaultRef, Vec<PlannedCommand>)>,
        rounds: &mut Rounds,
        output: &mut ApplyOutput,
    ) -> Result<(), ApplyFault> {
        let first_reply = output.replies.len();
        for (vault, commands) in parts {
            let round = rounds.get_mut(&vault).expect("planning made a round for each vault");
            self.part(round, commands, output)?;
        }
        if self.is_replay {
            output.replies.truncate(first_reply);
        }
        output.replies[first_reply..].sort_unstable_by_key(|reply| reply.position);
        Ok(())
    }

    /// Runs the entry's commands for one vault.
    fn part(
        &mut self,
        round: &mut VaultRound,
        commands: Vec<PlannedCommand>,
        output: &mut ApplyOutput,
    ) -> Result<(), ApplyFault> {
        if !round.is_looked_up() {
            let state = match self.cache.take(round.vault()) {
                Some(state) => Some(state),
                None => VaultState::load(round.vault(), self.view)?,
            };
            round.set_state(state);
        }
        let index = self.position.index;
        let is_applied =
            |state: &VaultState| state.row.owner == self.group && index <= state.row.applied_index;
        if round.state().is_some_and(is_applied) {
            return Ok(());
        }
        let mut block = None;
        for command in commands {
            let (group, position) = (self.group, command.position);
            let result = match self.refusal(round, &command)? {
                Some(result) => result,
                None => self.command(round, &mut block, command, output)?,
            };
            output.replies.push(CommandReply { group, index, position, result });
        }
        if let Some(block) = block.filter(|block: &BlockBuilder| !block.is_empty()) {
            block.seal(round, self.limits, self.view, output)?;
        }
        if round.state().is_some_and(|state| state.row.owner == self.group) {
            round.state_mut().row.applied_index = index;
        }
        Ok(())
    }

    /// Why a command is not for this vault here: the owner check of the one rule.
    fn refusal(
        &self,
        round: &VaultRound,
        command: &PlannedCommand,
    ) -> Result<Option<CommandResult>, ApplyFault> {
        let vault = round.vault();
        let is_directory = self.group == GroupId::SYSTEM && vault == VaultRef::SYSTEM;
        let is_legal = match command.action {
            Action::Write(_) | Action::CreateVault => vault.namespace != VaultRef::SYSTEM.namespace,
            Action::System(_) => is_directory,
            Action::RecordCheckpoint(_) => {
                vault.namespace != VaultRef::SYSTEM.namespace || is_directory
            }
        };
        if !is_legal {
            return Ok(Some(CommandResult::UnknownVault));
        }
        let is_create = matches!(command.action, Action::CreateVault);
        let Some(state) = round.state() else {
            let owned = self.view.get(Family::Vaults, &owned_row_key(self.group, vault))?;
            let Some(owned) = owned else {
                return Ok((!is_create).then_some(CommandResult::UnknownVault));
            };
            let corrupt = |_| ReadFault::Corrupt { what: "an owned row is malformed" };
            let owned = OwnedRow::decode(&owned).map_err(corrupt)?;
            assert_eq!(owned.state, OwnedState::Released, "an owned vault has its row");
            return Ok(Some(CommandResult::WrongShard { owner_epoch: Some(owned.owner_epoch) }));
        };
        let row = &state.row;
        if (row.owner, row.owner_epoch) != (self.group, command.owner_epoch) {
            return Ok(Some(CommandResult::WrongShard { owner_epoch: Some(row.owner_epoch) }));
        }
        Ok((row.status == VaultStatus::Deleted).then_some(CommandResult::UnknownVault))
    }

    fn command(
        &self,
        round: &mut VaultRound,
        block: &mut Option<BlockBuilder>,
        command: PlannedCommand,
        output: &mut ApplyOutput,
    ) -> Result<CommandResult, ApplyFault> {
        let (position, view) = (self.position, self.view);
        match command.action {
            Action::Write(write) => {
                let block = block.get_or_insert_with(|| BlockBuilder::new(round, position));
                Ok(CommandResult::Write(write::apply(write, round, block, view)?))
            }
            Action::System(body) => {
                let block = block.get_or_insert_with(|| BlockBuilder::new(round, position));
                let tx_id = self.own_tx_id(command.position);
                system_command(round, block, &body, tx_id, view)
            }
            Action::RecordCheckpoint(command) => {
                let ApplyOutput { rows, checkpoints, .. } = output;
                Ok(record_checkpoint::apply(command, round, rows, checkpoints))
            }
            Action::CreateVault => {
                if round.state().is_none() {
                    create_vault(
                        round,
                        born(round.vault(), command.owner_epoch, position),
                        output,
                    )?;
                }
                let header = round.header(0, view)?.encode();
                Ok(CommandResult::VaultCreated { header })
            }
        }
    }

    /// The id of a transaction that no client sent: where in the log its command is.
    fn own_tx_id(&self, position: u32) -> TxId {
        let mut place = [0; 20];
        place[..8].copy_from_slice(&self.group.0.to_be_bytes());
        place[8..16].copy_from_slice(&self.position.index.to_be_bytes());
        place[16..].copy_from_slice(&position.to_be_bytes());
        let digest = hash::plain(&place);
        TxId(*digest.0.first_chunk().expect("a digest is longer than an id"))
    }
}

/// Puts a vault's genesis into the round.
fn create_vault(
    round: &mut VaultRound,
    born: Born,
    output: &mut ApplyOutput,
) -> Result<(), ApplyFault> {
    let Born { state, header, header_bytes, descriptor: (key, row), owned } = born;
    output.rows.push(owned);
    output.blocks.push(NewBlock {
        vault: header.vault,
        height: 0,
        block_hash: state.row.block_hash,
        state_root: header.state_root,
        timestamp_ns: header.timestamp_ns,
    });
    round.slots.insert_born(key, row)?;
    round.add_block(0, header_bytes, None);
    round.return_state(state);
    Ok(())
}

/// Commits what a directory command plans as one transaction; a plan without operations commits nothing.
fn system_command(
    round: &mut VaultRound,
    block: &mut BlockBuilder,
    body: &[u8],
    tx_id: TxId,
    view: &dyn StateView,
) -> Result<CommandResult, ApplyFault> {
    let planned = system::plan(body, block.time_ns(), &RoundEntities { round, view })?;
    if !planned.operations.is_empty() {
        let operations = planned.operations;
        let targets: Vec<_> =
            operations.iter().map(|operation| round.slots.target(operation)).collect();
        round.load(view)?;
        let operations = block
            .execute(&mut round.slots, operations, &targets)
            .expect("the directory's operations have no conditions");
        block.push(&Transaction {
            tx_id,
            client: SYSTEM_CLIENT.to_owned(),
            dedup: Dedup::None,
            assigned_sequence: 0,
            actor: String::new(),
            timestamp_ns: block.entry_time_ns(),
            operations,
        });
    }
    Ok(CommandResult::System(planned.result))
}
