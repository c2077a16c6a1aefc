//! Removal of what is stored of deleted vaults, once they have been deleted for as long as the setting says.
//!
//! Owns when a purge is proposed; the leader of the vault's group does it, and every replica removes the same rows at
//! the same place of the log. Afterwards each node gives the room on its disk back and removes its snapshots of the
//! vault. Must never remove a row itself, nor
//! go by the directory: only a vault whose own group has ended it is purged, and from then on its time counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_shard::{
    Command, CommandKind, CommandResult, PurgeVault, QueryError, Reader, Role, Store, VaultRow,
    VaultStatus, query, wall_clock_ns,
};
use ledger_types::{GroupId, VaultRef};
use tracing::{debug, info, warn};

use crate::commands::propose_here;
use crate::context::NodeContext;
use crate::quarantine::leads;

/// Most vaults that one look has purged; the next one goes on.
const PURGES_PER_LOOK: usize = 256;
/// Most vaults whose room is given back between two looks: files are rewritten for it.
const RECLAIMS_PER_LOOK: usize = 16;
/// Shortest and longest pause between looks.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Looks within a retention, so that a purge is late by a small part of it.
const LOOKS_PER_RETENTION: u32 = 24;
/// A look is followed by a pause of at least this many times its length.
const REST_FACTOR: u32 = 20;

/// What is known of deleted vaults, for whoever asks for metrics.
#[derive(Debug, Default)]
pub struct PurgeBook {
    purged: AtomicU64,
    awaiting: AtomicU64,
}

impl PurgeBook {
    /// Vaults that were purged because this node, leading their group, asked for it.
    pub fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    /// Deleted vaults of which rows are stored here, as of the last look.
    pub fn awaiting(&self) -> u64 {
        self.awaiting.load(Ordering::Relaxed)
    }
}

/// What a look through the vaults' rows found.
#[derive(Debug, Default)]
struct Look {
    /// Deleted vaults that are not purged.
    awaiting: u64,
    /// Those of the node's groups that have waited long enough; not all of them if there are many.
    due: Vec<(VaultRef, VaultRow)>,
    /// Purged vaults whose room may not be given back yet; not all of them if there are many.
    purged: Vec<VaultRef>,
}

/// By what a look judges.
#[derive(Debug)]
struct Rule {
    retention: Option<Duration>,
    now_ns: u64,
    /// Groups that are led here, or that sleep, so that nobody leads them.
    groups: BTreeSet<GroupId>,
    /// Purged vaults whose room was given back since the start.
    reclaimed: BTreeSet<VaultRef>,
}

impl Look {
    fn take_in(&mut self, vault: VaultRef, row: &VaultRow, rule: &Rule) {
        match row.status {
            VaultStatus::Active | VaultStatus::ReadOnly => return,
            VaultStatus::Purged => {
                if self.purged.len() < RECLAIMS_PER_LOOK && !rule.reclaimed.contains(&vault) {
                    self.purged.push(vault);
                }
                return;
            }
            VaultStatus::Deleted => {}
        }
        self.awaiting += 1;
        let is_due = rule.groups.contains(&row.owner) && is_due(row, rule.retention, rule.now_ns);
        if is_due && self.due.len() < PURGES_PER_LOOK {
            self.due.push((vault, row.clone()));
        }
    }
}

/// True of a vault that was deleted at least `retention` before `now_ns`.
fn is_due(row: &VaultRow, retention: Option<Duration>, now_ns: u64) -> bool {
    // Without a time it cannot be told how long the vault has been deleted.
    let Some(retention) = retention.filter(|_| row.deleted_at_ns > 0) else { return false };
    let passed_ns = now_ns.saturating_sub(row.deleted_at_ns);
    u128::from(passed_ns) >= retention.as_nanos()
}

/// The pause after a look that took this long.
fn pause(retention: Option<Duration>, took: Duration) -> Duration {
    let (shortest, longest) = PAUSES;
    let of_retention = retention.map_or(longest, |retention| retention / LOOKS_PER_RETENTION);
    of_retention.clamp(shortest, longest).max(took * REST_FACTOR)
}

/// Has deleted vaults purged for as long as the node runs.
pub async fn run(context: Arc<NodeContext>, store: Arc<Store>) {
    let retention = context.config.deleted_retention;
    let mut reclaimed = BTreeSet::new();
    // The first look is soon, so that what fell due while nothing ran does not wait.
    let mut rest = PAUSES.0;
    loop {
        tokio::time::sleep(rest).await;
        let began = Instant::now();
        let (reader, groups) = (context.reader.clone(), groups(&context));
        let snapshots = context.vault_snapshots.clone();
        let rule = Rule { retention, now_ns: wall_clock_ns(), groups, reclaimed };
        let looking = tokio::task::spawn_blocking(move || {
            // By what is stored here, not by what this look finds: also what an earlier one could not remove goes.
            snapshots.remove_purged(&reader);
            (look(&reader, &rule), rule.reclaimed)
        });
        let (found, known) = looking.await.expect("looking does not panic");
        reclaimed = known;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "the vaults' rows cannot be looked through for deleted ones");
                rest = PAUSES.1;
                continue;
            }
        };
        let took = began.elapsed();
        // What is due now and not done waits for no retention: a group that was just woken, or what did not fit.
        let mut is_done = found.due.len() < PURGES_PER_LOOK;
        let mut purged = 0;
        for (vault, row) in found.due {
            let is_purged = purge(&context, vault, &row).await;
            purged += u64::from(is_purged);
            is_done &= is_purged;
        }
        context.purges.purged.fetch_add(purged, Ordering::Relaxed);
        context.purges.awaiting.store(found.awaiting - purged, Ordering::Relaxed);
        is_done &= purged == 0 && found.purged.len() < RECLAIMS_PER_LOOK;
        for vault in found.purged {
            reclaim(&store, vault).await;
            reclaimed.insert(vault);
        }
        rest = pause(if is_done { retention } else { Some(Duration::ZERO) }, took);
    }
}

/// Gives the room of a purged vault back on this node's disk.
async fn reclaim(store: &Arc<Store>, vault: VaultRef) {
    let store = store.clone();
    let reclaiming = tokio::task::spawn_blocking(move || store.reclaim(vault));
    let bytes = reclaiming.await.expect("giving room back does not panic");
    debug!(%vault, bytes, "the room of a purged vault is given back");
}

fn groups(context: &NodeContext) -> BTreeSet<GroupId> {
    let statuses = context.shard.statuses().into_iter();
    let ours = statuses.filter(|status| status.role == Role::Leader || status.is_asleep);
    ours.map(|status| status.group).collect()
}

fn look(reader: &Reader, rule: &Rule) -> Result<Look, QueryError> {
    let mut found = Look::default();
    query::each_vault(&reader.view(), &mut |vault, row| found.take_in(vault, row, rule))?;
    Ok(found)
}

/// Proposes the purge of a vault; true if it is purged then. A group that sleeps has nobody who could propose it, and
/// is woken.
async fn purge(context: &NodeContext, vault: VaultRef, row: &VaultRow) -> bool {
    let group = row.owner;
    if !leads(context, group) {
        if context.shard.status(group).is_some_and(|status| status.is_asleep) {
            context.shard.wake(group);
        }
        return false;
    }
    let body = PurgeVault.encode();
    let (kind, owner_epoch) = (CommandKind::PurgeVault as u8, row.owner_epoch);
    let command = Command { kind, vault, owner_epoch, body: &body }.encode();
    match propose_here(&context.shard, group, command).await {
        Ok(CommandResult::VaultPurged) => {
            info!(%vault, group = group.0, "what was stored of a deleted vault is removed");
            true
        }
        // Leadership went elsewhere or the disk is slow; the next look finds the vault again.
        other => {
            debug!(%vault, ?other, "a deleted vault is not purged now");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn row(status: VaultStatus, deleted_at_ns: u64) -> VaultRow {
        let vault = VaultRef::new(1, 2);
        let position = ledger_proof::EntryPosition { shard: 3, term: 5, index: 6, timestamp_ns: 7 };
        let rows = ledger_shard::genesis_rows(vault, ledger_types::OwnerEpoch(1), position);
        let row = rows[0].value.as_deref().expect("the vault's row comes first");
        VaultRow { status, deleted_at_ns, ..VaultRow::decode(row).expect("it was just made") }
    }

    #[test]
    fn a_vault_is_due_when_it_was_deleted_long_enough_ago() {
        let deleted = row(VaultStatus::Deleted, 1_000 * SECOND_NS);
        let end = 4_600 * SECOND_NS;
        assert!(is_due(&deleted, Some(HOUR), end));
        assert!(!is_due(&deleted, Some(HOUR), end - 1));
        assert!(is_due(&deleted, Some(Duration::ZERO), 1_000 * SECOND_NS));
        assert!(is_due(&deleted, Some(Duration::ZERO), 0), "clocks differ");
        assert!(!is_due(&deleted, Some(HOUR), 0));
        assert!(!is_due(&deleted, None, u64::MAX), "never");
        assert!(
            !is_due(&row(VaultStatus::Deleted, 0), Some(HOUR), u64::MAX),
            "nobody knows since when"
        );
    }

    #[test]
    fn a_look_finds_deleted_vaults_that_are_not_purged() {
        let (mut look, groups) = (Look::default(), BTreeSet::from([GroupId(3)]));
        let reclaimed = BTreeSet::new();
        let rule = |now_ns| {
            let (groups, reclaimed) = (groups.clone(), reclaimed.clone());
            Rule { retention: Some(HOUR), now_ns, groups, reclaimed }
        };
        let (early, late) = (rule(0), rule(u64::MAX));
        for (number, status) in
            [VaultStatus::Active, VaultStatus::ReadOnly, VaultStatus::Deleted, VaultStatus::Purged]
                .into_iter()
                .enumerate()
        {
            let vault = VaultRef::new(1, number as u64);
            look.take_in(vault, &row(status, SECOND_NS), &late);
        }
        let deleted = row(VaultStatus::Deleted, SECOND_NS);
        look.take_in(VaultRef::new(1, 8), &deleted, &early);
        let of_another = VaultRow { owner: GroupId(4), ..deleted.clone() };
        look.take_in(VaultRef::new(1, 9), &of_another, &late);
        assert_eq!(look.awaiting, 3);
        let due: Vec<VaultRef> = look.due.iter().map(|(vault, _)| *vault).collect();
        assert_eq!(due, [VaultRef::new(1, 2)]);
        for number in 0..2 * PURGES_PER_LOOK as u64 {
            look.take_in(VaultRef::new(2, number), &deleted, &late);
        }
        assert_eq!(look.due.len(), PURGES_PER_LOOK);
        assert_eq!(look.purged, [VaultRef::new(1, 3)]);
        let mut again = Look::default();
        let known = Rule { reclaimed: BTreeSet::from([VaultRef::new(1, 3)]), ..late };
        let purged = row(VaultStatus::Purged, SECOND_NS);
        for number in 3..5 + RECLAIMS_PER_LOOK as u64 {
            again.take_in(VaultRef::new(1, number), &purged, &known);
        }
        assert_eq!((again.awaiting, again.purged.len()), (0, RECLAIMS_PER_LOOK));
        assert_eq!(again.purged[0], VaultRef::new(1, 4), "once for each");
    }

    #[test]
    fn looks_come_often_enough_for_the_retention_and_cost_little() {
        let at_once = Duration::ZERO;
        assert_eq!(pause(Some(Duration::ZERO), at_once), Duration::from_secs(1));
        assert_eq!(pause(Some(HOUR), at_once), HOUR / 24);
        assert_eq!(pause(Some(720 * HOUR), at_once), Duration::from_secs(600));
        assert_eq!(pause(None, at_once), Duration::from_secs(600));
        assert_eq!(pause(Some(at_once), Duration::from_secs(2)), Duration::from_secs(40));
    }
}
