//! Rows of the `vaults` family: what each vault and each group has reached on this replica.
//!
//! Owns their bytes. Must never hold the rule by which they change.
//!
//! `0x00 ‖ group u64` -> [`GroupRow`]; `0x01 ‖ vault 16` -> [`VaultRow`];
//! `0x02 ‖ group u64 ‖ vault 16` -> [`OwnedRow`].

use ledger_proof::TreeAnchor;
use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_types::{Digest, GroupId, Incarnation, NodeId, OwnerEpoch, VaultRef};

use crate::command::create_vault::retention_blocks;
use crate::effects::{ConfState, Replica};

/// Version of every value in the family, but of a vault row with more at its end.
const VERSION: u8 = 1;
/// Version of a vault row that ends with the time of its vault's end.
const VERSION_ENDED: u8 = 2;
/// Version of a vault row that ends with the blocks that stay readable and the time of its vault's end, or 0.
const VERSION_RETAINED: u8 = 3;
/// Tag of group rows.
const TAG_GROUP: u8 = 0;
/// Tag of vault rows.
const TAG_VAULT: u8 = 1;
/// Tag of the owned tables.
const TAG_OWNED: u8 = 2;
/// Most replicas, voters or learners in one group's row.
const MEMBERS_MAX: usize = 1024;
/// Longest tree anchor in bytes.
const ANCHOR_BYTES_MAX: usize = 4096;

/// What a group's state machine has reached, and who its members are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupRow {
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Who votes and who learns, as of that entry.
    pub conf_state: ConfState,
    /// Every incarnation of the group and where it lives.
    pub replicas: Vec<Replica>,
}

impl GroupRow {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 16 * self.replicas.len());
        let mut writer = Writer::new(&mut out);
        writer.u8(VERSION);
        writer.u64(self.applied_index);
        writer.u64(self.applied_term);
        let conf = &self.conf_state;
        for ids in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
            writer.u16(member_count(ids.len()));
            for &id in ids {
                writer.u64(id);
            }
        }
        writer.u16(member_count(self.replicas.len()));
        for replica in &self.replicas {
            writer.u64(replica.incarnation.0);
            writer.u64(replica.node.0);
        }
        out
    }

    /// Reads a row's value. Errors on an unknown version, a count over the limit, or bytes left over.
    pub fn decode(value: &[u8]) -> Result<GroupRow, DecodeError> {
        let mut reader = super::versioned(value, VERSION, "group row version")?;
        let applied_index = reader.u64("applied index")?;
        let applied_term = reader.u64("applied term")?;
        let conf_state = ConfState {
            voters: members(&mut reader, "voters")?,
            learners: members(&mut reader, "learners")?,
            voters_outgoing: members(&mut reader, "outgoing voters")?,
            learners_next: members(&mut reader, "next learners")?,
        };
        let count = usize::from(reader.u16("replicas")?);
        let count = reader.count("replicas", count, MEMBERS_MAX, 16)?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            let incarnation = Incarnation(reader.u64("incarnation")?);
            replicas.push(Replica { incarnation, node: NodeId(reader.u64("node")?) });
        }
        reader.finish()?;
        Ok(GroupRow { applied_index, applied_term, conf_state, replicas })
    }
}

fn member_count(len: usize) -> u16 {
    assert!(len <= MEMBERS_MAX, "groups have few members");
    len as u16
}

fn members(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<u64>, DecodeError> {
    let count = usize::from(reader.u16(field)?);
    let count = reader.count(field, count, MEMBERS_MAX, 8)?;
    (0..count).map(|_| reader.u64(field)).collect()
}

/// Whether a vault takes reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VaultStatus {
    /// Reads and writes.
    Active = 0,
    /// Reads only.
    ReadOnly = 1,
    /// Neither; the row keeps the vault's number from being used again.
    Deleted = 2,
    /// Deleted, and all its other rows are gone for good.
    Purged = 3,
}

impl VaultStatus {
    /// True if clients are told that the vault is deleted, whatever of it is still stored.
    pub fn is_deleted(self) -> bool {
        matches!(self, VaultStatus::Deleted | VaultStatus::Purged)
    }
}

/// Everything about a vault that a replica must know before it touches the vault's other rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultRow {
    /// The owning group.
    pub owner: GroupId,
    /// The epoch in which it owns the vault.
    pub owner_epoch: OwnerEpoch,
    /// Last entry of the owner's log that was applied to the vault.
    pub applied_index: u64,
    /// Height of the last block.
    pub height: u64,
    /// Hash of the last block.
    pub block_hash: Digest,
    /// Blocks in the block log.
    pub log_size: u64,
    /// Root of the block log.
    pub log_root: Digest,
    /// Root of the state tree after the last block.
    pub state_root: Digest,
    /// Leaves of that tree.
    pub state_keys: u64,
    /// Time of the last block, Unix nanoseconds.
    pub block_time_ns: u64,
    /// From what height and root the stored tree pages can be opened; may lag behind `height`.
    pub tree_anchor: TreeAnchor,
    /// Lowest height whose body is kept.
    pub retention_floor: u64,
    /// Lowest height at which the state can be read.
    pub history_floor: u64,
    /// Lowest height whose idempotency keys are kept.
    pub session_floor_height: u64,
    /// Idempotency-key rows of the vault.
    pub session_rows: u64,
    /// The number in the origin of the current log.
    pub log_epoch: u64,
    /// Whether the vault takes reads and writes.
    pub status: VaultStatus,
    /// When the owner's log ended the vault, Unix nanoseconds. 0 of a vault that is not deleted, or that a build
    /// ended which did not keep the time: nothing says how old that end is.
    pub deleted_at_ns: u64,
    /// How many of the vault's newest blocks stay readable, as it was made; 0 keeps them all.
    pub retention_blocks: u64,
}

impl VaultRow {
    /// The row of the same vault once its other rows are gone: how it ended, and nothing that a replica has of its
    /// own, so that it is the same everywhere.
    pub fn purged(&self) -> VaultRow {
        let beyond_tip = self.height.saturating_add(1);
        VaultRow {
            tree_anchor: TreeAnchor { height: self.height, ..TreeAnchor::empty() },
            retention_floor: beyond_tip,
            history_floor: beyond_tip,
            session_floor_height: beyond_tip,
            session_rows: 0,
            status: VaultStatus::Purged,
            ..self.clone()
        }
    }

    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        let mut writer = Writer::new(&mut out);
        writer.u8(match (self.retention_blocks, self.deleted_at_ns) {
            (0, 0) => VERSION,
            (0, _) => VERSION_ENDED,
            _ => VERSION_RETAINED,
        });
        writer.u64(self.owner.0);
        writer.u64(self.owner_epoch.0);
        writer.u64(self.applied_index);
        writer.u64(self.height);
        writer.digest(&self.block_hash);
        writer.u64(self.log_size);
        writer.digest(&self.log_root);
        writer.digest(&self.state_root);
        writer.u64(self.state_keys);
        writer.u64(self.block_time_ns);
        writer.bytes_u16(&self.tree_anchor.encode());
        writer.u64(self.retention_floor);
        writer.u64(self.history_floor);
        writer.u64(self.session_floor_height);
        writer.u64(self.session_rows);
        writer.u64(self.log_epoch);
        writer.u8(self.status as u8);
        if self.retention_blocks > 0 {
            writer.u64(self.retention_blocks);
        }
        if self.retention_blocks > 0 || self.deleted_at_ns > 0 {
            writer.u64(self.deleted_at_ns);
        }
        out
    }

    /// Reads a row's value. Errors on an unknown version or status, on a time of an end that has not come, or
    /// bytes left over.
    pub fn decode(value: &[u8]) -> Result<VaultRow, DecodeError> {
        let mut reader = Reader::new(value);
        let field = "vault row version";
        let version = match reader.u8(field)? {
            known @ (VERSION | VERSION_ENDED | VERSION_RETAINED) => known,
            value => return Err(DecodeError::UnknownValue { field, value: value.into() }),
        };
        let mut row = VaultRow {
            owner: GroupId(reader.u64("owner")?),
            owner_epoch: OwnerEpoch(reader.u64("owner epoch")?),
            applied_index: reader.u64("applied index")?,
            height: reader.u64("height")?,
            block_hash: reader.digest("block hash")?,
            log_size: reader.u64("log size")?,
            log_root: reader.digest("log root")?,
            state_root: reader.digest("state root")?,
            state_keys: reader.u64("state keys")?,
            block_time_ns: reader.u64("block time")?,
            tree_anchor: TreeAnchor::decode(reader.bytes_u16("tree anchor", ANCHOR_BYTES_MAX)?)?,
            retention_floor: reader.u64("retention floor")?,
            history_floor: reader.u64("history floor")?,
            session_floor_height: reader.u64("session floor")?,
            session_rows: reader.u64("session rows")?,
            log_epoch: reader.u64("log epoch")?,
            status: status(reader.u8("vault status")?)?,
            deleted_at_ns: 0,
            retention_blocks: 0,
        };
        if version == VERSION_RETAINED {
            row.retention_blocks = retention_blocks(&mut reader)?;
        }
        if version != VERSION {
            row.deleted_at_ns = reader.u64("deletion time")?;
            let is_needed = version == VERSION_ENDED;
            let is_ended = row.deleted_at_ns > 0;
            if is_needed && !is_ended || is_ended && !row.status.is_deleted() {
                let rule = "is that of a deleted vault";
                return Err(DecodeError::Invalid { field: "deletion time", rule });
            }
        }
        reader.finish()?;
        Ok(row)
    }
}

fn status(code: u8) -> Result<VaultStatus, DecodeError> {
    match code {
        0 => Ok(VaultStatus::Active),
        1 => Ok(VaultStatus::ReadOnly),
        2 => Ok(VaultStatus::Deleted),
        3 => Ok(VaultStatus::Purged),
        _ => Err(DecodeError::UnknownValue { field: "vault status", value: code.into() }),
    }
}

/// Whether a group still owns a vault of its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OwnedState {
    /// The group owns the vault.
    Active = 0,
    /// The group gave the vault away in this epoch.
    Released = 1,
}

/// One line of a group's owned table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnedRow {
    /// The epoch in which the group took or released the vault.
    pub owner_epoch: OwnerEpoch,
    /// Whether it still owns it.
    pub state: OwnedState,
}

impl OwnedRow {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(10);
        out.push(VERSION);
        out.extend_from_slice(&self.owner_epoch.0.to_be_bytes());
        out.push(self.state as u8);
        out
    }

    /// Reads a row's value. Errors on an unknown version or state, or a wrong length.
    pub fn decode(value: &[u8]) -> Result<OwnedRow, DecodeError> {
        let mut reader = super::versioned(value, VERSION, "owned row version")?;
        let owner_epoch = OwnerEpoch(reader.u64("owner epoch")?);
        let state = match reader.flag("owned state")? {
            false => OwnedState::Active,
            true => OwnedState::Released,
        };
        reader.finish()?;
        Ok(OwnedRow { owner_epoch, state })
    }
}

/// Key of a group's row.
pub fn group_row_key(group: GroupId) -> Vec<u8> {
    let mut key = vec![TAG_GROUP];
    key.extend_from_slice(&group.0.to_be_bytes());
    key
}

/// The group whose row this key names; `None` for a key of another kind.
pub fn split_group_row_key(key: &[u8]) -> Option<GroupId> {
    let (&tag, group) = key.split_first()?;
    let group = u64::from_be_bytes(group.try_into().ok()?);
    (tag == TAG_GROUP).then_some(GroupId(group))
}

/// The range (first key, end) of all group rows.
pub fn group_rows_range() -> (Vec<u8>, Vec<u8>) {
    (vec![TAG_GROUP], vec![TAG_GROUP + 1])
}

/// Key of a vault's row.
pub fn vault_row_key(vault: VaultRef) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + VaultRef::LEN);
    key.push(TAG_VAULT);
    key.extend_from_slice(&vault.to_bytes());
    key
}

/// The vault whose row this key names; `None` for a key of another kind.
pub fn split_vault_row_key(key: &[u8]) -> Option<VaultRef> {
    match key.split_first() {
        Some((&TAG_VAULT, vault)) if vault.len() == VaultRef::LEN => VaultRef::from_prefix(vault),
        _ => None,
    }
}

/// The range (first key, end) of all vault rows.
pub fn vault_rows_range() -> (Vec<u8>, Vec<u8>) {
    (vec![TAG_VAULT], vec![TAG_VAULT + 1])
}

/// Key of a vault in a group's owned table.
pub fn owned_row_key(group: GroupId, vault: VaultRef) -> Vec<u8> {
    let mut key = vec![TAG_OWNED];
    key.extend_from_slice(&group.0.to_be_bytes());
    key.extend_from_slice(&vault.to_bytes());
    key
}

/// The range (first key, end) of a group's owned table.
pub fn owned_rows_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    let mut first = vec![TAG_OWNED];
    first.extend_from_slice(&group.0.to_be_bytes());
    let end = super::prefix_end(&first);
    (first, end)
}
