//! Snapshots that a leader offers to members that need more than its log has.
//!
//! Owns where each offer stands and how long it may stand there. Must never name raft: the replica tells raft
//! what became of an offer.

use std::collections::BTreeMap;
use std::mem;

use crate::snapshot::{SnapshotId, SnapshotManifest};

/// Ticks without a sign of the receiver after which an offer has failed.
const IDLE_TICKS_MAX: u32 = 200;
/// Ticks after which an offer is dropped whatever its receiver does, so that it cannot pin the log for ever; a
/// large one has more, for its bytes.
const TOTAL_TICKS_MAX: u32 = 24_000;
/// How often the same files are offered before they are cut anew.
const ATTEMPTS_MAX: u32 = 30;
/// The slowest transfer that is waited for, in bytes a tick.
const BYTES_PER_TICK_MIN: u64 = 16 * 1024;

/// Where an offer stands.
#[derive(Debug)]
enum Offer {
    /// Raft asked; the turn's end will ask for the files.
    Wanted,
    /// The files are being made. Nothing above this index may be forgotten meanwhile.
    Cutting { floor: u64 },
    /// The files are there, to be offered.
    Ready(Files),
    /// Raft has told the member of them.
    Sent { files: Files, idle_ticks: u32 },
}

#[derive(Debug)]
struct Files {
    manifest: Box<SnapshotManifest>,
    attempts: u32,
    ticks: u32,
}

impl Files {
    fn ticks_max(&self) -> u64 {
        u64::from(TOTAL_TICKS_MAX) + self.manifest.bytes() / BYTES_PER_TICK_MIN
    }
}

/// What a tick did to an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OfferEvent {
    /// The member has not been heard of; raft must be told that the snapshot failed.
    Failed(u64),
}

/// All offers of a group, by the member's Raft id.
#[derive(Debug, Default)]
pub(super) struct Offers {
    offers: BTreeMap<u64, Offer>,
    releases: Vec<SnapshotId>,
}

impl Offers {
    /// Raft wants to send a snapshot at `index_min` or later: hands out one that is ready, or notes the wish.
    pub(super) fn take_up(&mut self, to: u64, index_min: u64) -> Option<SnapshotManifest> {
        let offer = self.offers.entry(to).or_insert(Offer::Wanted);
        let files = match mem::replace(offer, Offer::Wanted) {
            Offer::Ready(files) => files,
            // Raft asks again only after it let go of the one sent.
            Offer::Sent { files, .. } => files,
            waiting @ (Offer::Wanted | Offer::Cutting { .. }) => {
                *offer = waiting;
                return None;
            }
        };
        let Files { manifest, attempts, ticks } = files;
        if manifest.row.applied_index < index_min || attempts >= ATTEMPTS_MAX {
            self.releases.push(manifest.id);
            return None;
        }
        let copy = (*manifest).clone();
        let files = Files { manifest, attempts: attempts + 1, ticks };
        *offer = Offer::Sent { files, idle_ticks: 0 };
        Some(copy)
    }

    /// The members for which files are to be cut now, at or above `applied`.
    pub(super) fn begin_cuts(&mut self, applied: u64) -> Vec<u64> {
        let mut begun = Vec::new();
        for (&to, offer) in &mut self.offers {
            if matches!(offer, Offer::Wanted) {
                *offer = Offer::Cutting { floor: applied };
                begun.push(to);
            }
        }
        begun
    }

    /// Cutting ended. Files that nobody asked for any more are released.
    pub(super) fn cut(&mut self, to: u64, manifest: Option<Box<SnapshotManifest>>) {
        let is_waiting = matches!(self.offers.get(&to), Some(Offer::Cutting { .. }));
        match manifest {
            Some(manifest) if is_waiting => {
                let files = Files { manifest, attempts: 0, ticks: 0 };
                self.offers.insert(to, Offer::Ready(files));
            }
            Some(manifest) => self.releases.push(manifest.id),
            None if is_waiting => drop(self.offers.remove(&to)),
            None => {}
        }
    }

    /// The receiver is alive.
    pub(super) fn progress(&mut self, id: SnapshotId) {
        for offer in self.offers.values_mut() {
            if let Offer::Sent { files, idle_ticks } = offer
                && files.manifest.id == id
            {
                *idle_ticks = 0;
            }
        }
    }

    /// One tick of every offer. `is_settled` tells of a member and index whether the member has that much by now
    /// or has left the group.
    pub(super) fn tick(&mut self, is_settled: impl Fn(u64, u64) -> bool) -> Vec<OfferEvent> {
        let (mut events, mut ended) = (Vec::new(), Vec::new());
        for (&to, offer) in &mut self.offers {
            let (files, idle) = match offer {
                Offer::Wanted | Offer::Cutting { .. } => {
                    if is_settled(to, 0) {
                        ended.push(to);
                    }
                    continue;
                }
                Offer::Ready(files) => (files, None),
                Offer::Sent { files, idle_ticks } => (files, Some(idle_ticks)),
            };
            files.ticks += 1;
            let is_over = u64::from(files.ticks) > files.ticks_max();
            if is_settled(to, files.manifest.row.applied_index) || (is_over && idle.is_none()) {
                ended.push(to);
            } else if let Some(idle) = idle {
                *idle += 1;
                if is_over || *idle > IDLE_TICKS_MAX {
                    events.push(OfferEvent::Failed(to));
                }
            }
        }
        for to in ended {
            self.end(to);
        }
        for &OfferEvent::Failed(to) in &events {
            self.put_back(to);
        }
        events
    }

    /// The member was told of files and has not come: they may be offered again.
    fn put_back(&mut self, to: u64) {
        if let Some(Offer::Sent { files, .. }) = self.offers.remove(&to) {
            self.offers.insert(to, Offer::Ready(files));
        }
    }

    fn end(&mut self, to: u64) {
        match self.offers.remove(&to) {
            Some(Offer::Ready(files) | Offer::Sent { files, .. }) => {
                self.releases.push(files.manifest.id);
            }
            Some(Offer::Wanted | Offer::Cutting { .. }) | None => {}
        }
    }

    /// Gives up every offer: only a leader makes them.
    pub(super) fn clear(&mut self) {
        for to in self.offers.keys().copied().collect::<Vec<_>>() {
            self.end(to);
        }
    }

    /// Files that nobody needs any more, since the last call.
    pub(super) fn take_releases(&mut self) -> Vec<SnapshotId> {
        mem::take(&mut self.releases)
    }

    /// True if nothing is offered.
    pub(super) fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    /// Index from which the member will need the log once it has what is offered to it.
    pub(super) fn floor(&self, to: u64) -> Option<u64> {
        match self.offers.get(&to)? {
            Offer::Wanted => None,
            Offer::Cutting { floor } => Some(*floor),
            Offer::Ready(files) | Offer::Sent { files, .. } => {
                Some(files.manifest.row.applied_index)
            }
        }
    }

    /// The lowest index from which any member will need the log once it has what is offered to it; the highest
    /// number if nothing is offered.
    pub(super) fn lowest_floor(&self) -> u64 {
        let floors = self.offers.keys().filter_map(|&to| self.floor(to));
        floors.min().unwrap_or(u64::MAX)
    }

    /// Index of the snapshot that the member was told of; 0 for none.
    pub(super) fn sent_index(&self, to: u64) -> u64 {
        match self.offers.get(&to) {
            Some(Offer::Sent { files, .. }) => files.manifest.row.applied_index,
            _ => 0,
        }
    }
}
