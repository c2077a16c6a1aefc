//! Snapshots of a group: offered by its leader, taken in by a replica that needs one.
//!
//! Owns the order of things around them: a snapshot is stepped into raft only when all of it is verified here
//! and nothing of the group waits for the disk or for apply, and the group stands still until it is installed
//! (I3). Raft is told of every snapshot that failed; one that arrived tells of itself by the acknowledgement.

use raft::eraftpb::{Message, MessageType};
use raft::{SnapshotStatus, StateRole};

use super::RaftReplica;
use super::offers::OfferEvent;
use super::storage::from_raft_conf_state;
use crate::effects::{
    ConfState, CutSnapshot, Effects, FetchSnapshot, HardState, InstallSnapshot, Replica,
    SnapshotPhase,
};
use crate::snapshot::{SnapshotId, SnapshotManifest};
use ledger_types::Incarnation;

/// A snapshot on its way into this replica.
pub(super) struct Incoming {
    manifest: Box<SnapshotManifest>,
    /// Raft's message, held back until the files are here.
    message: Message,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Files are being brought here and verified.
    Fetching,
    /// Verified; waits until nothing of the group is under way.
    Verified,
    /// Being installed by this Ready.
    Installing { ready: u64 },
}

impl RaftReplica {
    /// True while no message, tick or request may touch the group.
    pub(super) fn stands_still(&self) -> bool {
        let phase = self.incoming.as_ref().map(|incoming| incoming.phase);
        matches!(phase, Some(Phase::Verified | Phase::Installing { .. }))
    }

    /// True from the moment raft hands a snapshot out until it is installed.
    pub(super) fn is_installing(&self) -> bool {
        let phase = self.incoming.as_ref().map(|incoming| incoming.phase);
        matches!(phase, Some(Phase::Installing { ready }) if ready > 0)
    }

    /// What the replica does about a snapshot, for its status.
    pub(super) fn snapshot_phase(&self) -> SnapshotPhase {
        match self.incoming.as_ref().map(|incoming| incoming.phase) {
            None => SnapshotPhase::None,
            Some(Phase::Fetching | Phase::Verified) => SnapshotPhase::Fetching,
            Some(Phase::Installing { .. }) => SnapshotPhase::Installing,
        }
    }

    /// A leader tells of a snapshot. One that raft would not restore goes straight to raft, which answers what
    /// this replica has; for any other the files are brought here first.
    pub(super) fn offered(&mut self, message: Message, effects: &mut Effects) {
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let raft = &self.raw.raft;
        let has_entry = raft.raft_log.match_term(index, term);
        if index == raft.raft_log.committed && !has_entry {
            // No leader has committed another entry there; raft would restore it all the same.
            return;
        }
        if message.term < raft.term || index < raft.raft_log.committed || has_entry {
            let _ = self.raw.step(message);
            self.keep_election_timeout();
            return;
        }
        let Some(manifest) = self.checked_manifest(&message) else { return };
        if let Some(incoming) = &mut self.incoming {
            let is_newer = message.term >= incoming.message.term;
            if incoming.phase != Phase::Fetching || !is_newer {
                return;
            }
            if incoming.manifest.id == manifest.id {
                incoming.message = message;
                return;
            }
            let is_same_leader = message.term == incoming.message.term
                && manifest.sender == incoming.manifest.sender;
            if is_same_leader {
                // The one that is nearly here is worth more than a newer one that is not: a fetch that cannot
                // succeed ends by itself.
                return;
            }
        }
        effects.snapshot_fetches.push(FetchSnapshot { manifest: manifest.clone() });
        self.incoming = Some(Incoming { manifest, message, phase: Phase::Fetching });
        self.is_status_due = true;
    }

    /// The message's manifest, if it is about the snapshot that raft would restore, and this replica is a
    /// member there.
    fn checked_manifest(&self, message: &Message) -> Option<Box<SnapshotManifest>> {
        let snapshot = message.get_snapshot();
        let metadata = snapshot.get_metadata();
        let manifest = SnapshotManifest::decode(&snapshot.data).ok()?;
        let row = &manifest.row;
        let conf = &row.conf_state;
        let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing];
        let is_member = lists.iter().any(|ids| ids.contains(&self.incarnation.0));
        let in_table = row.replicas.iter().any(|one| one.incarnation == self.incarnation);
        let is_same = manifest.group == self.group
            && manifest.sender.incarnation.0 == message.from
            && (row.applied_index, row.applied_term) == (metadata.index, metadata.term)
            && from_raft_conf_state(metadata.get_conf_state()) == *conf;
        let is_legal = is_same && is_member && in_table && is_well_formed(conf);
        is_legal.then(|| Box::new(manifest))
    }

    /// The files are here and verified, or will not come.
    pub(crate) fn snapshot_fetched(
        &mut self,
        id: SnapshotId,
        verified: bool,
        effects: &mut Effects,
    ) {
        match &mut self.incoming {
            Some(incoming) if incoming.manifest.id == id && incoming.phase == Phase::Fetching => {
                self.is_status_due = true;
                if verified {
                    incoming.phase = Phase::Verified;
                } else {
                    self.incoming = None;
                }
            }
            _ if verified => effects.discards.push((self.group, id)),
            _ => {}
        }
    }

    /// Steps a verified snapshot into raft once nothing of the group waits for the disk or for apply.
    pub(super) fn restore_if_idle(&mut self, effects: &mut Effects) {
        let is_idle = self.unpersisted.is_empty() && self.applied == self.apply_sent;
        let is_due = |incoming: &mut Incoming| incoming.phase == Phase::Verified && is_idle;
        let Some(mut incoming) = self.incoming.take_if(is_due) else { return };
        let _ = self.raw.step(std::mem::take(&mut incoming.message));
        self.keep_election_timeout();
        self.is_status_due = true;
        if self.raw.raft.raft_log.unstable_snapshot().is_some() {
            // The Ready's number is filled in when raft hands the snapshot out.
            incoming.phase = Phase::Installing { ready: 0 };
            self.incoming = Some(incoming);
        } else {
            // Another leader, or the log itself, has overtaken it.
            effects.discards.push((self.group, incoming.manifest.id));
        }
    }

    /// Raft hands a restored snapshot out: from here on the log begins after it.
    pub(super) fn install(&mut self, ready: u64, hard_state: HardState, effects: &mut Effects) {
        let incoming = self.incoming.as_mut().expect("only a fetched snapshot is restored");
        assert_eq!(incoming.phase, Phase::Installing { ready: 0 }, "a snapshot is restored once");
        incoming.phase = Phase::Installing { ready };
        let manifest = incoming.manifest.clone();
        let row = &manifest.row;
        assert!(hard_state.commit >= row.applied_index, "raft commits to what it restores");
        let table = row.replicas.iter().map(|one| (one.incarnation.0, one.node)).collect();
        self.raw.mut_store().cache.reset((row.applied_index, row.applied_term));
        self.apply_sent = row.applied_index;
        self.set_table(table);
        let incarnation = self.incarnation;
        effects.installs.push(InstallSnapshot { manifest, ready, incarnation, hard_state });
    }

    /// A Ready is durable; if it installed a snapshot, the group goes on from there.
    pub(super) fn end_install(&mut self, ready: u64) {
        let is_it = |incoming: &mut Incoming| incoming.phase == Phase::Installing { ready };
        let Some(incoming) = self.incoming.take_if(is_it) else { return };
        self.applied = incoming.manifest.row.applied_index;
        self.raw.advance_apply_to(self.applied);
        self.is_status_due = true;
    }

    /// A cut ended.
    pub(crate) fn snapshot_cut(
        &mut self,
        to: Incarnation,
        manifest: Option<Box<SnapshotManifest>>,
    ) {
        self.raw.store().offers.borrow_mut().cut(to.0, manifest);
    }

    /// The receiver of a snapshot is alive.
    pub(crate) fn snapshot_progress(&mut self, id: SnapshotId) {
        self.raw.store().offers.borrow_mut().progress(id);
    }

    /// One tick of the offers; raft is told of those that failed. True if raft has something to do.
    pub(super) fn tick_offers(&mut self) -> bool {
        if self.raw.store().offers.borrow().is_empty() {
            return false;
        }
        let raft = &self.raw.raft;
        let is_settled = |to: u64, index: u64| match raft.prs().get(to) {
            None => true,
            Some(progress) => index > 0 && progress.matched >= index,
        };
        let events = self.raw.store().offers.borrow_mut().tick(is_settled);
        for &OfferEvent::Failed(to) in &events {
            self.raw.report_snapshot(to, SnapshotStatus::Failure);
        }
        !events.is_empty()
    }

    /// Asks for the files of snapshots that raft wanted to send, and lets go of those not needed.
    pub(super) fn request_cuts(&mut self, effects: &mut Effects) {
        let mut offers = self.raw.store().offers.borrow_mut();
        if self.raw.raft.state != StateRole::Leader {
            offers.clear();
        }
        effects.releases.extend(offers.take_releases());
        for to in offers.begin_cuts(self.applied) {
            let (Some(&node), Some(&here)) =
                (self.table.get(&to), self.table.get(&self.incarnation.0))
            else {
                offers.cut(to, None);
                continue;
            };
            let to = Replica { incarnation: Incarnation(to), node };
            let from = Replica { incarnation: self.incarnation, node: here };
            effects.cuts.push(CutSnapshot { group: self.group, to, from });
        }
    }
}

/// What raft takes for granted of a configuration, and would end the process over.
fn is_well_formed(conf: &ConfState) -> bool {
    let ascend = |ids: &[u64]| ids.is_sorted_by(|a, b| a < b);
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    let is_voter = |id: &u64| conf.voters.contains(id) || conf.voters_outgoing.contains(id);
    !conf.voters.is_empty()
        && lists.iter().all(|ids| ascend(ids))
        && !conf.learners.iter().any(is_voter)
        && conf.learners_next.iter().all(|id| conf.voters_outgoing.contains(id))
        && !conf.learners_next.iter().any(|id| conf.voters.contains(id))
}

/// True for the one message that this module takes in before raft does.
pub(super) fn is_offer(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
}
