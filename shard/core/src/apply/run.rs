//! One round: entries are decoded, the rows they will read are loaded at once, and each is run.
//!
//! Owns the order of work inside a round. Must never look into a command's body beyond handing it to the
//! command's own file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;

use ledger_proof::encoding::DecodeError;
use ledger_proof::transaction::Transaction;
use ledger_proof::{EntryPosition, ReadFault, hash};
use ledger_types::{Dedup, GroupId, OwnerEpoch, TxId, VaultRef};

use super::block::BlockBuilder;
use super::flush;
use super::lanes::{Inline, Lanes};
use super::round::{RoundEntities, VaultRound};
use super::sessions::SessionLimits;
use super::vault_state::{Born, VaultState, born};
use super::{Applier, ApplyConfig, ApplyFault, ApplyOutput, CommandReply, CommandResult, NewBlock};
use crate::command::create_vault::CreateVaultCommand;
use crate::command::delete_vault::DeleteVaultCommand;
use crate::command::purge_vault::PurgeVaultCommand;
use crate::command::record_checkpoint::RecordCheckpointCommand;
use crate::command::write::PreparedWrite;
use crate::command::{delete_vault, purge_vault, record_checkpoint, system, write};
use crate::effects::{Committed, MembersChanged};
use crate::entry::{CommandKind, EntryData, EntryKind, FEATURE_LEVEL, LogEntry};
use crate::rows::{GroupRow, OwnedRow, OwnedState, group_row_key, owned_row_key};
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
    CreateVault(CreateVaultCommand),
    DeleteVault,
    PurgeVault,
    System(Vec<u8>),
    RecordCheckpoint(RecordCheckpointCommand),
}

/// The commands of one entry for one vault.
struct Part {
    /// The entry's number in the round.
    ordinal: usize,
    group: GroupId,
    /// The entry's place in the log and its time.
    position: EntryPosition,
    /// The entry was applied before; only vaults that missed it take it in, and nobody waits for answers.
    is_replay: bool,
    commands: Vec<PlannedCommand>,
}

/// One vault's share of a round, and what comes of it.
struct VaultWork {
    round: VaultRound,
    parts: Vec<Part>,
    output: ApplyOutput,
    /// Answers with the numbers of their entries.
    replies: Vec<(usize, CommandReply)>,
}

impl VaultWork {
    fn new(vault: VaultRef) -> VaultWork {
        let (parts, output) = (Vec::new(), ApplyOutput::default());
        VaultWork { round: VaultRound::new(vault), parts, output, replies: Vec::new() }
    }
}

type Work = BTreeMap<VaultRef, VaultWork>;

/// Commands of a round below which its vaults are applied one after the other: lanes cost more than they save.
const COMMANDS_TO_SHARE_MIN: usize = 32;

/// Applies a round; see [`Applier::apply_in`].
pub(super) fn round(
    applier: &mut Applier,
    committed: &[Committed],
    view: &dyn StateView,
    lanes: &dyn Lanes,
    output: &mut ApplyOutput,
) -> Result<(), ApplyFault> {
    let mut work = Work::new();
    let mut plans = Vec::with_capacity(committed.len());
    for Committed { group, entries, members } in committed {
        let entries: Result<Vec<_>, _> =
            entries.iter().map(|entry| plan(*group, entry, members, &mut work)).collect();
        plans.push((*group, entries?));
    }
    load_rows(&mut work, view)?;
    let touched = share_out(applier, plans, &mut work, view)?;
    for (&group, &applied_index) in &touched {
        let (family, key) = (Family::Vaults, group_row_key(group));
        output.rows.push(RowWrite { family, key, value: Some(applier.groups[&group].encode()) });
        output.applied.push((group, applied_index));
    }
    for (&vault, work) in &mut work {
        if let Some(state) = applier.cache.take(vault) {
            work.round.set_state(Some(state));
        }
    }
    run_all(applier, work, view, lanes, output)?;
    applier.cache.flush_for_room(applier.config.history_blocks, view, &mut output.rows)?;
    Ok(())
}

/// Gives every vault its parts of the entries, and takes the entries into the groups' rows. Tells how far each
/// group is then applied.
fn share_out(
    applier: &mut Applier,
    plans: Vec<(GroupId, Vec<PlannedEntry>)>,
    work: &mut Work,
    view: &dyn StateView,
) -> Result<BTreeMap<GroupId, u64>, ApplyFault> {
    let mut touched = BTreeMap::new();
    let mut ordinal = 0;
    for (group, entries) in plans {
        let row = group_row(&mut applier.groups, group, view)?;
        for entry in entries {
            let is_replay = entry.index <= row.applied_index;
            if !is_replay && entry.index != row.applied_index + 1 {
                let (applied, found) = (row.applied_index, entry.index);
                return Err(ApplyFault::Gap { group, applied, found });
            }
            let PlannedEntry { index, term, time_ns, parts, members } = entry;
            let position = EntryPosition { shard: group.0, term, index, timestamp_ns: time_ns };
            for (vault, commands) in parts {
                let work = work.get_mut(&vault).expect("planning made work for each vault");
                work.parts.push(Part { ordinal, group, position, is_replay, commands });
            }
            ordinal += 1;
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
    Ok(touched)
}

/// Applies every vault's parts, in lanes if there is enough of them, and gathers what comes of it in an order that
/// does not depend on the lanes.
fn run_all(
    applier: &mut Applier,
    work: Work,
    view: &dyn StateView,
    lanes: &dyn Lanes,
    output: &mut ApplyOutput,
) -> Result<(), ApplyFault> {
    let commands =
        |work: &VaultWork| -> usize { work.parts.iter().map(|part| part.commands.len()).sum() };
    let commands = work.values().map(commands).sum::<usize>();
    let config = applier.config;
    type Slot = (VaultWork, Result<Option<Box<VaultState>>, ApplyFault>);
    let slots: Vec<Mutex<Slot>> =
        work.into_values().map(|work| Mutex::new((work, Ok(None)))).collect();
    let job = |number: usize| {
        let mut slot = slots[number].lock().expect("a job that panics ends the round");
        let (work, outcome) = &mut *slot;
        *outcome = run_vault(&config, work, view);
    };
    match slots.len() > 1 && commands >= COMMANDS_TO_SHARE_MIN {
        true => lanes.run(slots.len(), &job),
        false => Inline.run(slots.len(), &job),
    }
    let mut replies = Vec::new();
    for slot in slots {
        let (work, outcome) = slot.into_inner().expect("a job that panics ends the round");
        let vault = work.round.vault();
        if let Some(state) = outcome? {
            applier.cache.put(vault, state);
        }
        output.erased.extend(work.output.erased);
        output.rows.extend(work.output.rows);
        output.blocks.extend(work.output.blocks);
        output.checkpoints.extend(work.output.checkpoints);
        replies.extend(work.replies);
    }
    replies.sort_unstable_by_key(|(ordinal, reply)| (*ordinal, reply.position));
    output.replies.extend(replies.into_iter().map(|(_, reply)| reply));
    Ok(())
}

/// Applies a vault's parts, writes its tree pages if they are due, and moves its rows into its output. Returns the
/// state to keep.
fn run_vault(
    config: &ApplyConfig,
    work: &mut VaultWork,
    view: &dyn StateView,
) -> Result<Option<Box<VaultState>>, ApplyFault> {
    let vault = work.round.vault();
    let limits = SessionLimits {
        retention_ns: config.session_retention_ns,
        rows_max: config.session_rows_max,
    };
    let VaultWork { round, parts, output, replies } = work;
    for Part { ordinal, group, position, is_replay, commands } in std::mem::take(parts) {
        PartRun { group, position, limits, view }.part(round, commands, output)?;
        let answers = output.replies.drain(..).map(|reply| (ordinal, reply));
        replies.extend(answers.filter(|_| !is_replay));
    }
    if round.is_looked_up()
        && let Some(state) = round.state()
        && !round.is_purged()
        && (state.unflushed_blocks() >= config.tree_flush_blocks
            || state.unflushed_bytes() >= config.tree_flush_bytes)
    {
        let (state, rows) = (round.state_mut(), &mut output.rows);
        flush::flush(vault, state, config.history_blocks, view, rows)?;
    }
    let round = std::mem::replace(round, VaultRound::new(vault));
    Ok(round.finish(&mut output.rows))
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
    work: &mut Work,
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
        let round = &mut work.entry(vault).or_insert_with(|| VaultWork::new(vault)).round;
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
        CommandKind::CreateVault => Action::CreateVault(CreateVaultCommand::decode(body)?),
        CommandKind::DeleteVault => {
            DeleteVaultCommand::decode(body)?;
            Action::DeleteVault
        }
        CommandKind::PurgeVault => {
            PurgeVaultCommand::decode(body)?;
            Action::PurgeVault
        }
        CommandKind::System => Action::System(body.to_vec()),
        CommandKind::RecordCheckpoint => {
            Action::RecordCheckpoint(RecordCheckpointCommand::decode(body)?)
        }
    })
}

/// Loads every registered row of the round: one read of many rows for each family.
fn load_rows(work: &mut Work, view: &dyn StateView) -> Result<(), ApplyFault> {
    let (mut latest, mut sessions) = (Vec::new(), Vec::new());
    for (vault, VaultWork { round, .. }) in work.iter() {
        round.slots.wanted(*vault, &mut latest);
        round.sessions.wanted(&mut sessions);
    }
    let mut latest = view.multi_get(Family::Latest, &latest)?.into_iter();
    let mut sessions = view.multi_get(Family::Sessions, &sessions)?.into_iter();
    for VaultWork { round, .. } in work.values_mut() {
        round.slots.fill(&mut latest)?;
        round.sessions.fill(&mut sessions)?;
    }
    assert!(latest.next().is_none() && sessions.next().is_none(), "each answer has its row");
    Ok(())
}

/// Running the part of one entry that is one vault's.
struct PartRun<'a> {
    group: GroupId,
    /// The entry's place in the log and its time.
    position: EntryPosition,
    limits: SessionLimits,
    view: &'a dyn StateView,
}

impl PartRun<'_> {
    /// Runs the entry's commands for the vault.
    fn part(
        &self,
        round: &mut VaultRound,
        commands: Vec<PlannedCommand>,
        output: &mut ApplyOutput,
    ) -> Result<(), ApplyFault> {
        if !round.is_looked_up() {
            round.set_state(VaultState::load(round.vault(), self.view)?);
        }
        let index = self.position.index;
        let is_applied =
            |state: &VaultState| state.row.owner == self.group && index <= state.row.applied_index;
        if round.state().is_some_and(is_applied) {
            return Ok(());
        }
        let was_purged = round.is_purged();
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
        // Last, so that nothing of this entry comes after it: not its block either.
        if round.is_purged() && !was_purged {
            purge_vault::erase(round, output);
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
            Action::Write(_)
            | Action::CreateVault(_)
            | Action::DeleteVault
            | Action::PurgeVault => vault.namespace != VaultRef::SYSTEM.namespace,
            Action::System(_) => is_directory,
            Action::RecordCheckpoint(_) => {
                vault.namespace != VaultRef::SYSTEM.namespace || is_directory
            }
        };
        if !is_legal {
            return Ok(Some(CommandResult::UnknownVault));
        }
        let is_create = matches!(command.action, Action::CreateVault(_));
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
        let is_refused = row.status.is_deleted() && !matches!(command.action, Action::PurgeVault);
        Ok(is_refused.then_some(CommandResult::VaultDeleted))
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
            Action::DeleteVault => Ok(delete_vault::apply(round, position.timestamp_ns)),
            Action::PurgeVault => Ok(purge_vault::apply(round)),
            Action::CreateVault(create) => {
                if round.state().is_none() {
                    let (vault, owner_epoch) = (round.vault(), command.owner_epoch);
                    let born = born(vault, owner_epoch, position, create.retention_blocks);
                    create_vault(round, born, output)?;
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
        soonest_expiry: None,
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
