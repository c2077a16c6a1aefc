//! The state machine: committed log entries in, rows and answers out.
//!
//! Owns the one rule of apply: entry `i` of group `g` changes a vault if and only if the vault's row says that
//! `g` owns it in the entry's epoch and that `i` is not applied to it yet. Of each entry, the committed
//! transactions of a vault are one block. Must never read anything but rows and entries: every replica gets
//! the same result from the same log.

pub(crate) mod anchors;
pub(crate) mod block;
mod cache;
pub(crate) mod changed_keys;
mod flush;
mod lanes;
pub(crate) mod operations;
mod prove;
pub(crate) mod round;
mod run;
pub(crate) mod sessions;
pub(crate) mod slots;
pub(crate) mod vault_state;

use std::collections::BTreeMap;

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_proof::header::HEADER_LEN;
use ledger_types::{Digest, GroupId, OwnerEpoch, VaultRef};
use thiserror::Error;

use crate::command::record_checkpoint::CheckpointRefusal;
use crate::command::system::{SystemFault, SystemResult};
use crate::command::write::WriteResult;
use crate::effects::Committed;
use crate::rows::GroupRow;
use crate::view::{RowWrite, StateView};
use cache::VaultCache;

pub use crate::query::ProvedKey;
pub use lanes::{Inline, Lanes};
pub use operations::{ConditionFailure, FailedCondition};
pub use prove::TipProof;
pub use vault_state::genesis_rows;

/// Settings of the state machine. The session limits change what replicas answer and are the same on every
/// node of a cluster; the tree settings are a node's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyConfig {
    /// Blocks after which a vault's tree pages are written.
    pub tree_flush_blocks: u64,
    /// Estimated bytes of changed pages after which they are written.
    pub tree_flush_bytes: u64,
    /// Memory for vault states and trees, in bytes.
    pub tree_cache_bytes: usize,
    /// Block time after which an idempotency key is forgotten, in nanoseconds.
    pub session_retention_ns: u64,
    /// Idempotency keys that a vault remembers at most.
    pub session_rows_max: u64,
    /// Heights below the tip that can still be read and proved, of a vault that was not made to keep fewer; `None`
    /// keeps all. The directory's are always kept. A node's own: it decides only what this node can answer.
    pub history_blocks: Option<u64>,
}

impl Default for ApplyConfig {
    fn default() -> ApplyConfig {
        ApplyConfig {
            tree_flush_blocks: 256,
            tree_flush_bytes: 8 * 1024 * 1024,
            tree_cache_bytes: 64 * 1024 * 1024,
            session_retention_ns: 3600 * 1_000_000_000,
            // At ten thousand writes a second on one vault, well above the longest deadline.
            session_rows_max: 1_000_000,
            history_blocks: None,
        }
    }
}

/// Why a replica cannot go on. Never an answer to a client.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ApplyFault {
    /// Stored state could not be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The group has no row here.
    #[error("group {0} has no state on this node")]
    UnknownGroup(GroupId),
    /// Entries are missing before this one.
    #[error("group {group}: entry {found} comes after entry {applied}")]
    Gap {
        /// The group.
        group: GroupId,
        /// Index of the last applied entry.
        applied: u64,
        /// Index of the entry.
        found: u64,
    },
    /// An entry or a command in it cannot be read.
    #[error("group {group}, entry {index}: {source}")]
    Decode {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// An entry was proposed under rules that this build does not know.
    #[error("group {group}, entry {index}: feature level {level} is newer than this build")]
    FeatureLevel {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// The entry's level.
        level: u16,
    },
    /// A command is of a kind that this build does not know.
    #[error("group {group}, entry {index}: unknown command kind {kind}")]
    UnknownCommand {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// The kind.
        kind: u8,
    },
    /// The entry changes the group's members, and nobody said what they are then.
    #[error("group {group}, entry {index}: a change of members came without its outcome")]
    Members {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// A command of the directory cannot be planned.
    #[error(transparent)]
    System(#[from] SystemFault),
}

/// Answer to a command, the same on every replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandResult {
    /// To a write.
    Write(WriteResult),
    /// The vault exists and this is its first header.
    VaultCreated {
        /// Its canonical bytes.
        header: [u8; HEADER_LEN],
    },
    /// To a change of the directory.
    System(SystemResult),
    /// A signed checkpoint is recorded.
    CheckpointRecorded,
    /// A signed checkpoint is not recorded.
    CheckpointRefused(CheckpointRefusal),
    /// The group does not own the vault in the command's epoch.
    WrongShard {
        /// The epoch that this replica's row knows.
        owner_epoch: Option<OwnerEpoch>,
    },
    /// There is no such vault here.
    UnknownVault,
    /// The vault is deleted, by this command or an earlier one.
    VaultDeleted,
    /// What was stored of the vault is gone, by this command or an earlier one.
    VaultPurged,
    /// The vault is not deleted, so nothing of it is removed.
    VaultNotDeleted,
}

/// An answer and the command it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandReply {
    /// The group.
    pub group: GroupId,
    /// The entry.
    pub index: u64,
    /// The command's place in the entry.
    pub position: u32,
    /// The answer.
    pub result: CommandResult,
}

/// A sealed block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewBlock {
    /// The vault.
    pub vault: VaultRef,
    /// Height; 0 for a new vault.
    pub height: u64,
    /// The block's hash.
    pub block_hash: Digest,
    /// Root of the state tree after it.
    pub state_root: Digest,
    /// Block time, Unix nanoseconds.
    pub timestamp_ns: u64,
    /// The earliest expiry that a transaction of the block gave an entity, Unix seconds.
    pub soonest_expiry: Option<u64>,
}

/// A state of a vault's log that a recorded note claims. Whether this replica's log had that root is for
/// whoever writes the round to find out, once its rows can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotedCheckpoint {
    /// The vault.
    pub vault: VaultRef,
    /// Blocks in the log.
    pub size: u64,
    /// The root that the note claims.
    pub root: Digest,
}

/// What a round leaves behind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApplyOutput {
    /// Vaults all of whose rows in [`crate::rows::VAULT_FAMILIES`] go in the same batch, before `rows`.
    pub erased: Vec<VaultRef>,
    /// Rows to write in one batch, in order; no two are for one key unless the later one is to win.
    pub rows: Vec<RowWrite>,
    /// Answers, by group, entry and position.
    pub replies: Vec<CommandReply>,
    /// Blocks, in order for each vault.
    pub blocks: Vec<NewBlock>,
    /// Signed checkpoints that were recorded.
    pub checkpoints: Vec<NotedCheckpoint>,
    /// How far each group of the round is applied once the rows are written.
    pub applied: Vec<(GroupId, u64)>,
}

impl ApplyOutput {
    /// Empties every list and keeps their memory.
    pub fn clear(&mut self) {
        self.erased.clear();
        self.rows.clear();
        self.replies.clear();
        self.blocks.clear();
        self.checkpoints.clear();
        self.applied.clear();
    }
}

/// The state machine of all groups of a node. One round at a time: [`Applier::apply`], the rows into the
/// store, [`Applier::written`].
pub struct Applier {
    config: ApplyConfig,
    groups: BTreeMap<GroupId, GroupRow>,
    cache: VaultCache,
    /// A round's rows are not in the store yet, so the states in memory are ahead of it.
    is_ahead: bool,
}

impl Applier {
    /// A state machine that has read nothing yet.
    pub fn new(config: ApplyConfig) -> Applier {
        let cache = VaultCache::new(config.tree_cache_bytes);
        Applier { config, groups: BTreeMap::new(), cache, is_ahead: false }
    }

    /// Applies entries of several groups as one round, appending to `output`. `view` is the store with every
    /// earlier round written. After a fault the state machine must be dropped.
    pub fn apply(
        &mut self,
        committed: &[Committed],
        view: &dyn StateView,
        output: &mut ApplyOutput,
    ) -> Result<(), ApplyFault> {
        self.apply_in(&Inline, committed, view, output)
    }

    /// The same, with the vaults of the round side by side in lanes. What comes of it does not depend on them.
    pub fn apply_in(
        &mut self,
        lanes: &dyn Lanes,
        committed: &[Committed],
        view: &dyn StateView,
        output: &mut ApplyOutput,
    ) -> Result<(), ApplyFault> {
        assert!(!self.is_ahead, "a round begins when the last one's rows are written");
        self.is_ahead = true;
        run::round(self, committed, view, lanes, output)
    }

    /// The round's rows are in the store. Memory above the budget is given back.
    pub fn written(&mut self) {
        assert!(self.is_ahead, "a round was applied");
        self.is_ahead = false;
        self.cache.trim();
    }

    /// Forgets what is in memory of a group and of vaults: their rows are about to be replaced, or were, by
    /// other means than a round.
    pub fn forget(&mut self, group: GroupId, vaults: &[VaultRef]) {
        assert!(!self.is_ahead, "nothing of a round is lost");
        self.groups.remove(&group);
        for &vault in vaults {
            self.cache.take(vault);
        }
    }

    /// Bytes of vault states and trees in memory.
    pub fn memory_bytes(&self) -> usize {
        self.cache.memory_bytes()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::harness as tests_harness;
