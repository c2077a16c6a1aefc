//! Checking a received snapshot before anything of it is believed.
//!
//! Owns what must hold between its rows. The sender is not trusted: everything that can be computed again is.
//! Must never take memory in proportion to the snapshot beyond its sparse index.

mod chain;
mod state;
mod tree;

use std::path::Path;

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_shard_core::rows::{
    ClientRow, GroupRow, OwnedState, SessionRow, VAULT_FAMILIES, VaultRow, VaultStatus,
    group_row_key, owned_rows_range, split_history_key, split_vault_row_key, vault_range,
    vault_rows_range,
};
use ledger_shard_core::snapshot::SnapshotManifest;
use ledger_shard_core::view::{Family, StateView};
use ledger_types::VaultRef;

use super::cut::split_owned_row;
use super::error::{SnapshotError, VerifyError};
use super::staged_rows::{Cursor, StagedRows};

/// Tag of idempotency-key rows, behind the vault in a key of the sessions family.
const TAG_SESSION_KEY: u8 = 1;
/// Tag of client rows there.
const TAG_SESSION_CLIENT: u8 = 2;
/// The vault whose rows would have no end.
const NO_VAULT: [u8; VaultRef::LEN] = [0xff; VaultRef::LEN];

/// Checks the files in `directory` against their manifest and against each other. Errors with the first
/// thing that does not fit.
pub(super) fn verify(directory: &Path, manifest: &SnapshotManifest) -> Result<(), SnapshotError> {
    let rows = StagedRows::open(directory, manifest)?;
    let mut check = Check { rows: &rows, manifest, counted: [0; Family::ALL.len()] };
    check.tables()?;
    let (from, to) = vault_rows_range();
    let mut vaults = rows.range(Family::Vaults, &from, &to);
    while let Some((vault, row)) = next_vault(&mut vaults)? {
        check.vault(vault, &row)?;
    }
    for family in VAULT_FAMILIES {
        if check.counted[family as usize] != rows.count(family) {
            return Err(VerifyError::ForeignRows { family }.into());
        }
    }
    Ok(())
}

/// One verification.
struct Check<'a> {
    rows: &'a StagedRows,
    manifest: &'a SnapshotManifest,
    /// Rows of each family that belong to a vault of the group.
    counted: [u64; Family::ALL.len()],
}

impl Check<'_> {
    /// The group's row, and that owned table and vault rows name the same vaults in the same epochs.
    fn tables(&mut self) -> Result<(), SnapshotError> {
        let Check { rows, manifest, .. } = *self;
        let group = manifest.group;
        let found = rows.get(Family::Vaults, &group_row_key(group))?;
        let found = found.and_then(|value| GroupRow::decode(&value).ok());
        if found.as_ref() != Some(&manifest.row) {
            return Err(VerifyError::GroupRow.into());
        }
        check_members(&manifest.row)?;
        let mut counted = 1;
        let (from, to) = vault_rows_range();
        let mut vaults = rows.range(Family::Vaults, &from, &to);
        let (from, to) = owned_rows_range(group);
        let mut owned = rows.range(Family::Vaults, &from, &to);
        while let Some((key, value)) = owned.next()? {
            counted += 1;
            let (vault, line) = split_owned_row(key, value).map_err(|source| {
                let vault = VaultRef::from_prefix(key.get(9..).unwrap_or(&[]));
                row_error(vault.unwrap_or_default(), Family::Vaults)(source)
            })?;
            let wrong = |what| VerifyError::Ownership { vault, what };
            if vault.to_bytes() == NO_VAULT {
                return Err(wrong("no vault has this name").into());
            }
            if line.state == OwnedState::Released {
                continue;
            }
            counted += 1;
            let Some((of, row)) = next_vault(&mut vaults)? else {
                return Err(wrong("it has no row").into());
            };
            if of > vault {
                return Err(wrong("it has no row").into());
            }
            if of < vault {
                return Err(not_owned(of).into());
            }
            if row.owner != group || row.owner_epoch != line.owner_epoch {
                return Err(wrong("its row names another owner or epoch").into());
            }
            if row.applied_index > manifest.row.applied_index {
                return Err(wrong("it is ahead of its group").into());
            }
        }
        if let Some((of, _)) = next_vault(&mut vaults)? {
            return Err(not_owned(of).into());
        }
        match counted == rows.count(Family::Vaults) {
            true => Ok(()),
            false => Err(VerifyError::ForeignRows { family: Family::Vaults }.into()),
        }
    }

    fn vault(&mut self, vault: VaultRef, row: &VaultRow) -> Result<(), SnapshotError> {
        if row.status == VaultStatus::Purged {
            // None of its rows is counted, so that one that is there is a foreign one.
            return Ok(check_purged(vault, row)?);
        }
        let counts = [
            (Family::Blocks, chain::check(self.rows, vault, row)?),
            (Family::Latest, state::check(self.rows, vault, row)?),
            (Family::History, self.history(vault, row)?),
            (Family::Sessions, self.sessions(vault, row)?),
            (Family::Tree, tree::check(self.rows, vault, row)?),
        ];
        // Last, because leaves are reached by way of headers, bodies, state and pages.
        state::check_leaves(self.rows, vault)?;
        for (family, count) in counts {
            self.counted[family as usize] += count;
        }
        Ok(())
    }

    fn history(&self, vault: VaultRef, row: &VaultRow) -> Result<u64, SnapshotError> {
        let mut rows = vault_rows(self.rows, Family::History, vault);
        let mut count = 0;
        while let Some((key, value)) = rows.next()? {
            count += 1;
            let wrong = |what| VerifyError::State { vault, what };
            let (_, superseded, _) =
                split_history_key(key).ok_or(wrong("a history key is malformed"))?;
            let record = ledger_proof::Record::decode(value);
            let record = record.map_err(row_error(vault, Family::History))?;
            if superseded > row.height || record.modified_height >= superseded {
                return Err(wrong("a history row is of no earlier block").into());
            }
        }
        Ok(count)
    }

    fn sessions(&self, vault: VaultRef, row: &VaultRow) -> Result<u64, SnapshotError> {
        let mut rows = vault_rows(self.rows, Family::Sessions, vault);
        let (mut count, mut keys) = (0, 0);
        let malformed = || row_error(vault, Family::Sessions);
        while let Some((key, value)) = rows.next()? {
            count += 1;
            let field = "sessions key";
            match key.get(VaultRef::LEN) {
                Some(&TAG_SESSION_KEY) => {
                    let session = SessionRow::decode(value).map_err(malformed())?;
                    if session.height > row.height {
                        let what = "a session is of a later block";
                        return Err(VerifyError::State { vault, what }.into());
                    }
                    keys += 1;
                }
                Some(&TAG_SESSION_CLIENT) => {
                    ClientRow::decode(value).map_err(malformed())?;
                }
                _ => {
                    let rule = "has an unknown tag";
                    return Err(malformed()(DecodeError::Invalid { field, rule }).into());
                }
            }
        }
        if keys != row.session_rows {
            let what = "it has more or fewer session rows than it counts";
            return Err(VerifyError::State { vault, what }.into());
        }
        Ok(count)
    }
}

/// Every member of the configuration lives somewhere.
fn check_members(row: &GroupRow) -> Result<(), VerifyError> {
    let conf = &row.conf_state;
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    for &id in lists.into_iter().flatten() {
        if !row.replicas.iter().any(|replica| replica.incarnation.0 == id) {
            return Err(VerifyError::Member(id));
        }
    }
    Ok(())
}

/// The row of a purged vault names nothing that could still be there.
fn check_purged(vault: VaultRef, row: &VaultRow) -> Result<(), VerifyError> {
    let what = "its row names rows, but it is purged";
    if *row == row.purged() { Ok(()) } else { Err(VerifyError::State { vault, what }) }
}

fn not_owned(vault: VaultRef) -> VerifyError {
    VerifyError::Ownership { vault, what: "the group does not own it" }
}

fn row_error(vault: VaultRef, family: Family) -> impl FnOnce(DecodeError) -> VerifyError {
    move |source| VerifyError::Row { vault, family, source }
}

/// The rows of a vault in one family.
fn vault_rows(rows: &StagedRows, family: Family, vault: VaultRef) -> Cursor<'_> {
    let (from, to) = vault_range(vault);
    rows.range(family, &from, &to)
}

/// The next vault's row.
pub(super) fn next_vault(
    rows: &mut Cursor<'_>,
) -> Result<Option<(VaultRef, VaultRow)>, SnapshotError> {
    let Some((key, value)) = rows.next()? else { return Ok(None) };
    let what = "a vault row has another key than vault rows have";
    let vault = split_vault_row_key(key).ok_or(ReadFault::Corrupt { what })?;
    let row = VaultRow::decode(value).map_err(row_error(vault, Family::Vaults))?;
    Ok(Some((vault, row)))
}
