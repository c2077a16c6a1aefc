//! The end of a run: after everything is mended, every group works and all its replicas are the same.
//!
//! Owns the time that this may take. Must never mend anything itself.

use std::collections::BTreeMap;

use ledger_shard_core::effects::{Role, SnapshotPhase};
use ledger_shard_core::query;
use ledger_shard_core::rows::{VaultRow, VaultStatus, split_history_key, vault_range};
use ledger_shard_core::view::Family;
use ledger_types::{GroupId, VaultRef};

use crate::actions::{Request, RequestKind};
use crate::boot;
use crate::clock::Micros;
use crate::fingerprint::Fingerprint;
use crate::recompute;
use crate::snapshots::owned_vaults;
use crate::world::{Phase, World};

/// Longest time from the mending of everything to a cluster that is as it must be.
const SETTLE_US: Micros = 240_000_000;
/// Families whose rows are the same on every replica; history, from the block on that each of them still knows. Tree
/// pages are written when each sees fit.
const SAME_FAMILIES: [Family; 4] =
    [Family::Latest, Family::History, Family::Blocks, Family::Sessions];

impl World {
    /// One more write to every vault and to the directory, which must be accepted.
    pub(crate) fn begin_last_requests(&mut self) {
        let vaults = self.clients.vaults.len();
        for number in 0..=vaults {
            let kind = if number == vaults { RequestKind::Namespace } else { RequestKind::Set };
            let (client, vault) = (self.clients.add_keyed(), number as u32);
            let request = Request { client: 0, vault, kind, key: 0, node: 0, repeats: false };
            self.begin_as(client, request);
        }
    }

    /// Looks whether all is as it must be; too late is an invariant broken.
    pub(crate) fn settle(&mut self, since: Micros) {
        match self.unsettled() {
            None => {
                self.compare_replicas();
                self.counts.settled_us += self.now - since;
                self.phase = Phase::Done;
            }
            Some(what) if self.now > since + SETTLE_US => self.fail("works again", what),
            Some(_) => {}
        }
    }

    /// What is not yet as it must be.
    fn unsettled(&self) -> Option<String> {
        if !self.clients.are_idle() {
            return Some(format!("clients wait: {}", self.clients.describe_busy()));
        }
        for plan in &self.plans {
            let group = plan.group;
            if let Some(change) = &plan.change {
                return Some(format!("group {group} is changing: {change:?}"));
            }
            let last = self.oracle.last_committed(group);
            let Some(leader) = self.leader_place(group) else {
                return Some(format!("group {group} has no leader"));
            };
            let places = plan.members.keys().chain(plan.learner.as_ref().map(|(place, _)| place));
            for &place in places {
                let process = self.nodes[place].process.as_ref();
                let Some(status) = process.and_then(|process| process.core.status(group)) else {
                    return Some(format!("group {group} does not run at {place}"));
                };
                let is_level = status.applied == last && status.last_index == last;
                let is_leader = (status.role == Role::Leader) == (place == leader);
                if !is_level || !is_leader || status.snapshot != SnapshotPhase::None {
                    let leader = self.nodes[leader].process.as_ref();
                    let leader = leader.and_then(|process| process.core.status(group));
                    let text = format!("group {group} at {place}, {last} is last: {status:?}");
                    return Some(format!("{text}; its leader: {leader:?}"));
                }
            }
        }
        None
    }

    /// Every replica has the same rows, and they say what the model says.
    fn compare_replicas(&mut self) {
        for number in 0..self.plans.len() {
            let plan = &self.plans[number];
            let group = plan.group;
            let learner = plan.learner.as_ref().map(|(place, _)| place);
            let places: Vec<usize> = plan.members.keys().chain(learner).copied().collect();
            let mut first = None;
            let floors = self.floors(&places, group);
            for place in places {
                match self.contents(place, group, &floors) {
                    Err(detail) => return self.fail("contents", format!("node {place}: {detail}")),
                    Ok(print) if *first.get_or_insert(print) != print => {
                        let detail = format!("group {group} at {place} has other rows");
                        return self.fail("same rows", detail);
                    }
                    Ok(print) => self.print.number(print.value() as u64),
                }
                self.counts.replicas_compared += 1;
            }
        }
    }

    /// Of each vault, the first height whose state every one of these nodes can still tell.
    fn floors(&self, places: &[usize], group: GroupId) -> BTreeMap<VaultRef, u64> {
        let mut floors = BTreeMap::new();
        for &place in places {
            let disk = &self.nodes[place].disk;
            for vault in owned_vaults(disk, group).unwrap_or_default() {
                let row = query::stored_row(disk, vault).ok();
                let floor: &mut u64 = floors.entry(vault).or_default();
                *floor = row.map_or(*floor, |row| row.history_floor.max(*floor));
            }
        }
        floors
    }

    /// A digest of a group's rows on a node: those of history that are younger than the floors.
    fn contents(
        &self,
        place: usize,
        group: GroupId,
        floors: &BTreeMap<VaultRef, u64>,
    ) -> Result<Fingerprint, String> {
        let disk = &self.nodes[place].disk;
        let mut print = Fingerprint::default();
        let row = boot::group_row(disk, group).map_err(|error| error.to_string())?;
        print.bytes(&row.encode());
        if !self.options.is_blind {
            recompute::check(disk, group, &row)?;
        }
        let mut vaults = owned_vaults(disk, group).map_err(|error| error.to_string())?;
        if group != GroupId::SYSTEM && vaults.len() as u64 != self.swarm.vaults_per_group {
            return Err(format!("group {group} owns {vaults:?}"));
        }
        vaults.sort_unstable();
        for vault in vaults {
            let row = query::stored_row(disk, vault).map_err(|error| error.to_string())?;
            self.check_vault(place, vault, &row)?;
            print.number(row.status as u64);
            print.bytes(&row.block_hash.0);
            print.bytes(&row.log_root.0);
            print.number(row.session_rows);
            print.number(row.applied_index);
            for family in SAME_FAMILIES {
                let (from, to) = vault_range(vault);
                for (key, value) in disk.range(family, &from, &to) {
                    let superseded = split_history_key(key).map(|(_, superseded, _)| superseded);
                    let is_forgotten = superseded.is_some_and(|height| height <= floors[&vault]);
                    if family == Family::History && is_forgotten {
                        continue;
                    }
                    print.bytes(key);
                    print.bytes(value);
                }
            }
        }
        Ok(print)
    }

    fn check_vault(&self, place: usize, vault: VaultRef, row: &VaultRow) -> Result<(), String> {
        let tip = Some((row.height, row.block_hash, row.state_root));
        let disk = &self.nodes[place].disk;
        let expected = self.oracle.tip(vault);
        if expected != tip {
            return Err(format!("vault {vault} ends with {tip:?}, not {expected:?}"));
        }
        if self.oracle.is_ended(vault) && !row.status.is_deleted() {
            return Err(format!("vault {vault} is {:?}, and was told to be deleted", row.status));
        }
        match row.status {
            VaultStatus::Purged if self.oracle.may_be_purged(vault) => return Ok(()),
            VaultStatus::Purged => return Err(format!("vault {vault} is purged, for nobody")),
            _ if self.oracle.is_purged(vault) => {
                return Err(format!("vault {vault} was told to be purged and is not"));
            }
            _ => {}
        }
        for (key, version, value) in self.oracle.entities(vault) {
            let found = query::entity(disk, vault, key, None, 0);
            let found = found.map_err(|error| error.to_string())?.1;
            let found = found.map(|entity| (entity.version, entity.value));
            if found != Some((version, value.to_vec())) {
                return Err(format!("{key} of {vault} is {found:?}, not {version} {value:?}"));
            }
        }
        Ok(())
    }

    /// Looks at every running replica.
    pub(crate) fn look_at_replicas(&mut self) {
        let caps = self.swarm.core.log_entries_max;
        for place in 0..self.nodes.len() {
            let Some(process) = &self.nodes[place].process else { continue };
            for status in process.core.statuses() {
                let verdict = self.oracle.looked_at(&status, caps);
                self.judge(verdict);
            }
        }
    }
}

#[cfg(test)]
mod tests;
