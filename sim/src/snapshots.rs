//! Snapshots between nodes: cut from one view, brought over in steps, checked, installed with a marker.
//!
//! Owns the same rules as the real thing: rows of a vault that is as new here stay, a vault half of which is
//! old has no row, and a crash between any two steps is mended at the next start.

use std::collections::BTreeSet;
use std::rc::Rc;

use ledger_proof::{ReadFault, Record, hash};
use ledger_shard_core::effects::{
    CutSnapshot, Effects, HardState, Input, InstallSnapshot, SnapshotPhase,
};
use ledger_shard_core::rows::{
    LocalState, OwnedRow, OwnedState, VAULT_FAMILIES, VaultRow, encode_hard_state, group_row_key,
    owned_rows_range, prefix_end, raft_entry_range, raft_hard_state_key, raft_local_key,
    split_latest, split_vault_row_key, vault_range, vault_row_key,
};
use ledger_shard_core::snapshot::{SnapshotFile, SnapshotId, SnapshotManifest};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::{ClusterId, GroupId, Incarnation, VaultRef};

use crate::boot::{self, put};
use crate::disk::Disk;
use crate::node::Node;
use crate::recompute;
use crate::world::{Event, Sabotage, World};

/// What the keys of installation markers begin with.
const MARKER_PREFIX: &[u8] = b"install/";
/// Steps in which a snapshot is brought over at most.
const FETCH_STEPS_MAX: u64 = 8;
/// Steps without an answer after which a transfer has failed.
const FETCH_MISSES_MAX: u32 = 10;

/// Keys and values, in the order of the keys.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A snapshot: its manifest and its rows, family by family.
pub(crate) struct Cut {
    pub(crate) manifest: SnapshotManifest,
    rows: Vec<(Family, Rows)>,
}

/// A transfer on its way.
pub(crate) struct Fetching {
    number: u64,
    manifest: Box<SnapshotManifest>,
    steps_left: u64,
    misses: u32,
}

/// What the next start must know to go on with an installation.
struct Marker {
    incarnation: Incarnation,
    hard_state: HardState,
}

impl World {
    /// Hands a turn's work on snapshots out.
    pub(crate) fn queue_snapshots(&mut self, place: usize, effects: &mut Effects) {
        let boot = self.nodes[place].boot;
        for wanted in effects.cuts.drain(..) {
            let wait_us = self.snapshot_wait();
            self.after(wait_us, Event::Cut { place, boot, wanted });
        }
        for wanted in effects.snapshot_fetches.drain(..) {
            self.snapshots_made += 1;
            let (number, group) = (self.snapshots_made, wanted.manifest.group);
            let steps_left = self.disks.within(1, FETCH_STEPS_MAX);
            let wait_us = self.snapshot_wait();
            self.after(wait_us, Event::Fetch { place, boot, group, number });
            let Some(process) = &mut self.nodes[place].process else { return };
            let manifest = wanted.manifest;
            process.fetching.insert(group, Fetching { number, manifest, steps_left, misses: 0 });
        }
        let node = &mut self.nodes[place];
        let Some(process) = &mut node.process else { return };
        for id in effects.releases.drain(..) {
            process.outgoing.remove(&id);
        }
        for (group, id) in effects.discards.drain(..) {
            if node.incoming.get(&group).is_some_and(|cut| cut.manifest.id == id) {
                node.incoming.remove(&group);
            }
        }
    }

    fn snapshot_wait(&mut self) -> u64 {
        let longest = if self.network.is_healed { 20_000 } else { self.swarm.snapshot_us };
        1 + self.disks.below(longest)
    }

    fn snapshot_fails(&mut self) -> bool {
        let share = if self.network.is_healed { 0 } else { self.swarm.snapshot_fails };
        self.disks.hits(share)
    }

    /// Cuts a snapshot and tells the core.
    pub(crate) fn cut(&mut self, place: usize, wanted: &CutSnapshot) {
        self.snapshots_made += 1;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.snapshots_made.to_be_bytes());
        let fails = self.snapshot_fails();
        let node = &mut self.nodes[place];
        let lies = self.options.sabotage == Some(Sabotage::WrongSnapshotRow);
        let cut = if fails { None } else { cut_rows(&node.disk, wanted, SnapshotId(id), lies) };
        let manifest = cut.as_ref().map(|cut| Box::new(cut.manifest.clone()));
        let process = node.process.as_mut().expect("cuts of a running process");
        match cut {
            Some(cut) => {
                self.counts.snapshots_cut += 1;
                process.outgoing.insert(cut.manifest.id, Rc::new(cut));
            }
            None => self.counts.snapshots_failed += 1,
        }
        let (group, to) = (wanted.group, wanted.to.incarnation);
        self.give(place, Input::SnapshotCut { group, to, manifest });
    }

    /// A step of a transfer.
    pub(crate) fn fetch_step(&mut self, place: usize, group: GroupId, number: u64) {
        let process = self.nodes[place].process.as_ref().expect("checked by the caller");
        let Some(fetching) = process.fetching.get(&group) else { return };
        if fetching.number != number {
            return;
        }
        let (id, sender) = (fetching.manifest.id, fetching.manifest.sender.node);
        let from = self.places.get(&sender).copied().filter(|&from| {
            let is_open = self.network.is_open(from, place) && self.network.is_open(place, from);
            is_open && self.nodes[from].pauses == 0
        });
        let held = from.and_then(|from| {
            let sender = self.nodes[from].process.as_ref()?;
            Some((from, sender.outgoing.get(&id)?.clone()))
        });
        let (wait_us, fails) = (self.snapshot_wait(), self.snapshot_fails());
        let boot = self.nodes[place].boot;
        let process = self.nodes[place].process.as_mut().expect("just seen");
        let fetching = process.fetching.get_mut(&group).expect("just seen");
        let Some((from, cut)) = held else {
            fetching.misses += 1;
            if fetching.misses > FETCH_MISSES_MAX {
                return self.end_fetch(place, group, None);
            }
            return self.after(wait_us, Event::Fetch { place, boot, group, number });
        };
        fetching.steps_left -= 1;
        if fetching.steps_left == 0 {
            // A transfer that fails brings other bytes than the manifest names, and is told by that.
            let verified = cut.matches(&fetching.manifest, fails).then_some(cut);
            return self.end_fetch(place, group, verified);
        }
        self.after(wait_us, Event::Fetch { place, boot, group, number });
        self.give(from, Input::SnapshotProgress { group, id });
    }

    fn end_fetch(&mut self, place: usize, group: GroupId, cut: Option<Rc<Cut>>) {
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("checked by the caller");
        let fetching = process.fetching.remove(&group).expect("it was on its way");
        let (id, verified) = (fetching.manifest.id, cut.is_some());
        if let Some(cut) = cut {
            node.incoming.insert(group, cut);
        } else {
            self.counts.snapshots_failed += 1;
        }
        self.give(place, Input::SnapshotFetched { group, id, verified });
    }

    /// All that came before is written and applied: the installation begins.
    pub(crate) fn begin_install(&mut self, place: usize, wanted: Box<InstallSnapshot>) {
        let group = wanted.manifest.group;
        let boot = self.nodes[place].boot;
        // What was applied just before may have met a damaged row, which ends the process.
        let Some(process) = &mut self.nodes[place].process else { return };
        process.installing.insert(group, wanted);
        let wait_us = self.snapshot_wait();
        self.after(wait_us, Event::Install { place, boot, group, step: 0 });
    }

    /// A step of an installation: the marker, the rows, the end.
    pub(crate) fn install_step(&mut self, place: usize, group: GroupId, step: u8) {
        let node = &mut self.nodes[place];
        let process = node.process.as_ref().expect("checked by the caller");
        let wanted = process.installing.get(&group).expect("it is on its way").clone();
        let InstallSnapshot { manifest, ready, incarnation, hard_state } = *wanted;
        let Some(cut) = node.incoming.get(&group).filter(|cut| cut.manifest.id == manifest.id)
        else {
            return self.fail("install", format!("node {place}: the files of {group} are gone"));
        };
        let cut = cut.clone();
        let marker = Marker { incarnation, hard_state };
        let boot = node.boot;
        if run_step(node, &cut, &marker, step).is_err() {
            return self.lose(place);
        }
        if step < 2 {
            let wait_us = self.snapshot_wait();
            return self.after(wait_us, Event::Install { place, boot, group, step: step + 1 });
        }
        let process = node.process.as_mut().expect("still running");
        process.installing.remove(&group);
        node.incoming.remove(&group);
        self.counts.snapshots_installed += 1;
        let row = &manifest.row;
        self.oracle.installed(incarnation, row.applied_index, hard_state);
        self.tell(|| format!("node {place} group {group} installed {}", row.applied_index));
        self.check_installed(place, &manifest);
        self.give(place, Input::Persisted { group, ready });
    }

    /// Goes on with installations that a crash left behind. False if the disk is damaged.
    pub(crate) fn finish_installs(&mut self, place: usize) -> bool {
        let node = &mut self.nodes[place];
        let (from, to) = (MARKER_PREFIX.to_vec(), prefix_end(MARKER_PREFIX));
        let mut marked = Vec::new();
        let scanned = node.disk.scan(Family::Meta, &from, &to, &mut |key, value| {
            marked.push((key.to_vec(), value.to_vec()));
            true
        });
        if scanned.is_err() {
            return false;
        }
        for (key, value) in marked {
            let node = &mut self.nodes[place];
            let group = key[MARKER_PREFIX.len()..].try_into().expect("a marker names a group");
            let group = GroupId(u64::from_be_bytes(group));
            let marker = Marker::decode(&value);
            let Some(cut) = node.incoming.get(&group).cloned() else {
                self.fail("install", format!("node {place}: the files of {group} are gone"));
                return false;
            };
            for step in 0..3 {
                if run_step(node, &cut, &marker, step).is_err() {
                    return false;
                }
            }
            node.incoming.remove(&group);
            self.counts.snapshots_resumed += 1;
            self.check_installed(place, &cut.manifest);
        }
        true
    }

    /// What was installed is what its own rows say that it is.
    fn check_installed(&mut self, place: usize, manifest: &SnapshotManifest) {
        if self.options.is_blind {
            return;
        }
        match recompute::check(&self.nodes[place].disk, manifest.group, &manifest.row) {
            Ok(vaults) => self.counts.vaults_recomputed += vaults,
            Err(detail) => {
                let detail = format!("node {place}, group {}: {detail}", manifest.group);
                self.fail("installed rows", detail);
            }
        }
    }

    /// True if the rows of a group must not be read now.
    pub(crate) fn is_installing(&self, place: usize, group: GroupId) -> bool {
        let process = self.nodes[place].process.as_ref();
        let status = process.and_then(|process| process.core.status(group));
        status.is_some_and(|status| status.snapshot == SnapshotPhase::Installing)
    }
}

impl Marker {
    fn key(group: GroupId) -> Vec<u8> {
        [MARKER_PREFIX, &group.0.to_be_bytes()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        let HardState { term, vote, commit } = self.hard_state;
        [self.incarnation.0, term, vote, commit].map(u64::to_be_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Marker {
        let number = |place: usize| {
            let bytes = bytes[8 * place..8 * place + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        let hard_state = HardState { term: number(1), vote: number(2), commit: number(3) };
        Marker { incarnation: Incarnation(number(0)), hard_state }
    }
}

impl Cut {
    /// True if the rows that arrived are those that the manifest names.
    fn matches(&self, manifest: &SnapshotManifest, is_changed_on_the_way: bool) -> bool {
        if self.rows.len() != manifest.files.len() {
            return false;
        }
        self.rows.iter().zip(&manifest.files).all(|((family, rows), file)| {
            let mut bytes = records(rows);
            if is_changed_on_the_way && let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            *family == file.family && hash::plain(&bytes) == file.digest
        })
    }

    fn family(&self, family: Family) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        let rows = self.rows.iter().filter(move |(of, _)| *of == family);
        rows.flat_map(|(_, rows)| rows)
    }

    /// Vaults to take over, and vaults that the group owned here and does not own in the snapshot.
    fn plan(&self, disk: &Disk) -> Result<(BTreeSet<VaultRef>, BTreeSet<VaultRef>), ReadFault> {
        let group = self.manifest.group;
        let stored = |vault| -> Result<Option<VaultRow>, ReadFault> {
            let row = disk.get(Family::Vaults, &vault_row_key(vault))?;
            Ok(row.map(|row| VaultRow::decode(&row).expect("rows are in their format")))
        };
        let (mut taken, mut present) = (BTreeSet::new(), BTreeSet::new());
        for (key, value) in self.family(Family::Vaults) {
            let Some(vault) = split_vault_row_key(key) else { continue };
            present.insert(vault);
            let row = VaultRow::decode(value).expect("rows are in their format");
            let is_kept = stored(vault)?.is_some_and(|stored| {
                stored.owner_epoch == row.owner_epoch && stored.applied_index >= row.applied_index
            });
            if !is_kept {
                taken.insert(vault);
            }
        }
        let mut dropped = BTreeSet::new();
        for vault in owned_vaults(disk, group)? {
            let is_ours = stored(vault)?.is_none_or(|row| row.owner == group);
            if !present.contains(&vault) && is_ours {
                dropped.insert(vault);
            }
        }
        Ok((taken, dropped))
    }
}

fn records(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in rows {
        bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The vaults that a group owns, in order.
pub(crate) fn owned_vaults(disk: &Disk, group: GroupId) -> Result<Vec<VaultRef>, ReadFault> {
    let mut vaults = Vec::new();
    let (from, to) = owned_rows_range(group);
    disk.scan(Family::Vaults, &from, &to, &mut |key, value| {
        let owned = OwnedRow::decode(value).expect("rows are in their format");
        if owned.state == OwnedState::Active {
            vaults.push(VaultRef::from_prefix(&key[9..]).expect("a line names a vault"));
        }
        true
    })?;
    Ok(vaults)
}

/// The rows of a group as they are now; `None` if one is damaged or the receiver is no member.
fn cut_rows(disk: &Disk, wanted: &CutSnapshot, id: SnapshotId, lies: bool) -> Option<Cut> {
    let group = wanted.group;
    let row = boot::group_row(disk, group).ok()?;
    let conf = &row.conf_state;
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    if !lists.iter().any(|ids| ids.contains(&wanted.to.incarnation.0)) {
        return None;
    }
    let read = |family, (from, to): (Vec<u8>, Vec<u8>)| {
        let mut rows = Vec::new();
        let scanned = disk.scan(family, &from, &to, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        });
        scanned.ok().map(|()| rows)
    };
    let vaults = owned_vaults(disk, group).ok()?;
    let mut tables = vec![(group_row_key(group), row.encode())];
    for &vault in &vaults {
        let key = vault_row_key(vault);
        let value = disk.get(Family::Vaults, &key).ok()??;
        tables.push((key, value));
    }
    tables.extend(read(Family::Vaults, owned_rows_range(group))?);
    let mut rows = vec![(Family::Vaults, tables)];
    for family in VAULT_FAMILIES {
        let mut all = Vec::new();
        for &vault in &vaults {
            all.extend(read(family, vault_range(vault))?);
        }
        rows.push((family, all));
    }
    if lies && group != GroupId::SYSTEM {
        falsify(&mut rows);
    }
    let file = |(family, rows): &(Family, Rows)| {
        let bytes = records(rows);
        let (count, digest) = (rows.len() as u64, hash::plain(&bytes));
        SnapshotFile { family: *family, rows: count, bytes: bytes.len() as u64, digest }
    };
    let files = rows.iter().map(file).collect();
    let (cluster, sender) = (ClusterId([1; 16]), wanted.from);
    Some(Cut { manifest: SnapshotManifest { id, cluster, group, sender, row, files }, rows })
}

/// A mistake on purpose: an entity gets another value, and its record the hash of that, so that the row is right by
/// itself.
fn falsify(rows: &mut [(Family, Rows)]) {
    let latest = rows.iter_mut().filter(|(family, _)| *family == Family::Latest);
    for (_, row) in latest.flat_map(|(_, rows)| rows) {
        let (record, value) = split_latest(row).expect("rows are in their format");
        if !value.is_empty() {
            let mut record = Record::decode(record).expect("rows are in their format");
            let value = [value, b"!"].concat();
            record.value_hash = hash::plain(&value);
            *row = [&record.encode()[..], &value].concat();
            return;
        }
    }
}

/// One step of an installation; each may be done again.
fn run_step(node: &mut Node, cut: &Cut, marker: &Marker, step: u8) -> Result<(), ReadFault> {
    let (taken, dropped) = cut.plan(&node.disk)?;
    let vaults: Vec<VaultRef> = taken.iter().chain(&dropped).copied().collect();
    let group = cut.manifest.group;
    match step {
        0 => {
            let mut rows = vec![put(Family::Meta, Marker::key(group), marker.encode())];
            rows.extend(vaults.iter().map(|&vault| delete(Family::Vaults, vault_row_key(vault))));
            node.disk.write(rows);
            node.disk.sync();
        }
        1 => {
            for family in VAULT_FAMILIES {
                let mut rows = Vec::new();
                for &vault in &vaults {
                    let (from, to) = vault_range(vault);
                    let old = node.disk.range(family, &from, &to);
                    rows.extend(old.map(|(key, _)| delete(family, key.to_vec())));
                }
                let is_taken = |key: &[u8]| {
                    VaultRef::from_prefix(key).is_some_and(|vault| taken.contains(&vault))
                };
                let new = cut.family(family).filter(|(key, _)| is_taken(key));
                rows.extend(new.map(|(key, value)| put(family, key.clone(), value.clone())));
                node.disk.write_flushed(rows);
            }
        }
        _ => {
            node.disk.write(last_rows(&node.disk, cut, marker, &taken));
            node.disk.sync();
        }
    }
    if let Some(process) = &mut node.process
        && step != 1
    {
        process.applier.forget(group, &vaults);
    }
    Ok(())
}

/// The rows of the last step, all at once: the vaults appear, and the log begins after the snapshot.
fn last_rows(disk: &Disk, cut: &Cut, marker: &Marker, taken: &BTreeSet<VaultRef>) -> Vec<RowWrite> {
    let group = cut.manifest.group;
    let (from, to) = owned_rows_range(group);
    let owned = disk.range(Family::Vaults, &from, &to);
    let mut rows: Vec<RowWrite> =
        owned.map(|(key, _)| delete(Family::Vaults, key.to_vec())).collect();
    for (key, value) in cut.family(Family::Vaults) {
        if split_vault_row_key(key).is_none_or(|vault| taken.contains(&vault)) {
            rows.push(put(Family::Vaults, key.clone(), value.clone()));
        }
    }
    let (from, to) = raft_entry_range(group, 0, u64::MAX);
    let log = disk.range(Family::Raft, &from, &to);
    rows.extend(log.map(|(key, _)| delete(Family::Raft, key.to_vec())));
    let row = &cut.manifest.row;
    let local = LocalState {
        truncated_index: row.applied_index,
        truncated_term: row.applied_term,
        incarnation: marker.incarnation,
    };
    rows.push(put(Family::Raft, raft_local_key(group), local.encode()));
    let hard_state = encode_hard_state(&marker.hard_state);
    rows.push(put(Family::Raft, raft_hard_state_key(group), hard_state));
    rows.push(delete(Family::Meta, Marker::key(group)));
    rows
}

fn delete(family: Family, key: Vec<u8>) -> RowWrite {
    RowWrite { family, key, value: None }
}
