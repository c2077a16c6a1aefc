//! Faults and operators' orders: what each does, and how it ends.
//!
//! Owns every way in which something goes wrong that is not a message or a snapshot lost by itself. Must never
//! take more copies of a group than the group can lose.

use ledger_shard_core::effects::Input;
use ledger_shard_core::rows::{
    decode_hard_state, decode_raft_entry, encode_hard_state, raft_entry_index, raft_entry_range,
    raft_hard_state_key,
};
use ledger_shard_core::view::{Family, StateView};
use ledger_types::{GroupId, Incarnation};
use serde::{Deserialize, Serialize};

use crate::actions::Trouble;
use crate::boot;
use crate::disk::Disk;
use crate::node::Node;
use crate::workload::Waiter;
use crate::world::{Event, Phase, Sabotage, World};

/// What can go wrong, and what an operator may order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No messages between some nodes and the others.
    Partition,
    /// No messages from one node to some others.
    OneWay,
    /// Many messages are lost.
    Lossy,
    /// A process ends; what was not synced may be gone.
    Crash,
    /// As a crash, and the batch being written is torn.
    Torn,
    /// Every process ends at once.
    CrashAll,
    /// A process gets no time.
    Pause,
    /// Syncs take long.
    SlowDisk,
    /// A disk is lost: its node comes back as another.
    Wipe,
    /// Bits of a durable row flip.
    BitFlip,
    /// A wall clock jumps.
    WallJump,
    /// A clock begins to run at another rate.
    Drift,
    /// A replica goes to another node: one that lives, or those of a disk that is lost.
    Move,
    /// A learner comes or goes.
    Learner,
    /// Leadership is handed over.
    Transfer,
    /// Somebody asks a node to campaign.
    Campaign,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 16] = [
        Fault::Partition,
        Fault::OneWay,
        Fault::Lossy,
        Fault::Crash,
        Fault::Torn,
        Fault::CrashAll,
        Fault::Pause,
        Fault::SlowDisk,
        Fault::Wipe,
        Fault::BitFlip,
        Fault::WallJump,
        Fault::Drift,
        Fault::Move,
        Fault::Learner,
        Fault::Transfer,
        Fault::Campaign,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Partition => "partition",
            Fault::OneWay => "one_way",
            Fault::Lossy => "lossy",
            Fault::Crash => "crash",
            Fault::Torn => "torn",
            Fault::CrashAll => "crash_all",
            Fault::Pause => "pause",
            Fault::SlowDisk => "slow_disk",
            Fault::Wipe => "wipe",
            Fault::BitFlip => "bit_flip",
            Fault::WallJump => "wall_jump",
            Fault::Drift => "drift",
            Fault::Move => "move",
            Fault::Learner => "learner",
            Fault::Transfer => "transfer",
            Fault::Campaign => "campaign",
        }
    }
}

/// How a fault ends.
pub(crate) enum Mend {
    Join(Vec<(usize, usize)>),
    Lossless(u64),
    Restart(usize),
    Resume(usize),
    FastDisk(usize),
    Reborn(usize),
    Scrub(usize),
}

impl World {
    /// Carries a fault out, if it fits.
    pub(crate) fn trouble(&mut self, trouble: Trouble) {
        let Trouble { fault, for_us, pick, .. } = trouble;
        let place = trouble.node as usize % self.nodes.len();
        let happened = match fault {
            Fault::Partition | Fault::OneWay => self.cut_links(trouble, place),
            Fault::Lossy => {
                let share = 20_000 + pick % 400_000;
                self.network.extra_drop += share;
                self.later(for_us, Mend::Lossless(share));
                true
            }
            Fault::Crash | Fault::Torn => self.crash_for(place, trouble),
            Fault::CrashAll => {
                (0..self.nodes.len()).filter(|&place| self.crash_for(place, trouble)).count() > 0
            }
            Fault::Pause => {
                self.nodes[place].pauses += 1;
                self.later(for_us, Mend::Resume(place));
                true
            }
            Fault::SlowDisk => {
                let node = &mut self.nodes[place];
                node.slow_syncs += 1;
                node.slow_sync_us = 5_000 + pick % 400_000;
                self.later(for_us, Mend::FastDisk(place));
                true
            }
            Fault::Move if pick % 2 == 0 => {
                self.order_move(trouble.group as usize % self.plans.len(), place)
            }
            Fault::Wipe | Fault::Move => {
                let is_wiped = self.wipe(place, for_us);
                self.nodes[place].moves_away |= is_wiped && fault == Fault::Move;
                is_wiped
            }
            Fault::BitFlip => self.flip(place, pick, for_us),
            Fault::WallJump => {
                // Less than the retention of idempotency keys, in sum and both ways.
                let offset_ms = (pick % 1_200_000) as i64 - 600_000;
                self.nodes[place].clock.set_wall_offset(offset_ms);
                true
            }
            Fault::Drift => {
                let now = self.now;
                self.nodes[place].clock.set_drift(now, (pick % 400_000) as i64 - 200_000);
                true
            }
            Fault::Learner | Fault::Transfer | Fault::Campaign => self.order(trouble, place),
        };
        let counts = if happened { &mut self.counts.faults } else { &mut self.counts.misfits };
        *counts.entry(fault.name()).or_default() += 1;
    }

    fn order(&mut self, trouble: Trouble, place: usize) -> bool {
        let number = trouble.group as usize % self.plans.len();
        let group = GroupId(number as u64);
        let other = trouble.pick as usize % self.nodes.len();
        match trouble.fault {
            Fault::Learner => self.order_learner(number, other),
            Fault::Transfer => {
                let (Some(from), Some(seen)) =
                    (self.leader_place(group), self.nodes[place].seen(group))
                else {
                    return false;
                };
                let to: Incarnation = seen.incarnation;
                self.give(from, Input::TransferLeader { group, to });
                true
            }
            _ => {
                // Whoever it is: what may not lead has to refuse.
                let is_there = self.nodes[place].seen(group).is_some();
                if is_there {
                    self.give(place, Input::Campaign { group });
                }
                is_there
            }
        }
    }

    fn cut_links(&mut self, trouble: Trouble, place: usize) -> bool {
        let is_in = |node: usize| trouble.other >> node & 1 == 1;
        let mut links = Vec::new();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                let is_cut = match trouble.fault {
                    Fault::Partition => is_in(from) != is_in(to),
                    _ => from == place && from != to && is_in(to),
                };
                if is_cut {
                    self.network.cut(from, to);
                    links.push((from, to));
                }
            }
        }
        let happened = !links.is_empty();
        self.later(trouble.for_us, Mend::Join(links));
        happened
    }

    /// Schedules a fault's end.
    fn later(&mut self, wait_us: u64, mend: Mend) {
        let epoch = self.mend_epoch;
        self.after(wait_us, Event::Mend { epoch, mend });
    }

    /// Ends a fault.
    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Join(links) => links.into_iter().for_each(|(from, to)| {
                self.network.join(from, to);
            }),
            Mend::Lossless(share) => self.network.extra_drop -= share,
            Mend::Restart(place) => self.restart(place),
            Mend::Resume(place) => self.resume(place),
            Mend::FastDisk(place) => {
                let node = &mut self.nodes[place];
                node.slow_syncs -= 1;
                if node.slow_syncs == 0 {
                    node.slow_sync_us = 0;
                }
            }
            Mend::Reborn(place) => self.reborn(place),
            Mend::Scrub(place) => {
                if self.nodes[place].disk.is_damaged() && !self.nodes[place].is_lost {
                    self.lose(place);
                }
            }
        }
    }

    fn resume(&mut self, place: usize) {
        self.nodes[place].pauses -= 1;
        self.wake(place);
    }

    fn restart(&mut self, place: usize) {
        let node = &self.nodes[place];
        if node.process.is_none() && !node.is_lost {
            self.boot(place);
        }
    }

    fn crash_for(&mut self, place: usize, trouble: Trouble) -> bool {
        if self.nodes[place].process.is_none() {
            return false;
        }
        let unsynced = self.nodes[place].disk.unsynced() as u64;
        let kept = match self.swarm.keeps_unsynced {
            true => trouble.pick.rotate_left(place as u32 * 7) % (unsynced + 1),
            false => 0,
        };
        // A batch torn in the middle shows by its checksum, and is as if it had not been written.
        let torn = u64::from(trouble.fault == Fault::Torn && kept > 0);
        self.counts.torn_batches += torn;
        self.crash(place, kept - torn);
        self.later(trouble.for_us, Mend::Restart(place));
        true
    }

    /// Ends the process at a place; so many of the batches that were not synced stay.
    fn crash(&mut self, place: usize, kept: u64) {
        let node = &mut self.nodes[place];
        node.process = None;
        node.disk.crash(kept as usize);
        if self.options.sabotage == Some(Sabotage::LostHardState) {
            forget_votes(&mut node.disk);
        }
        for waiter in self.clients.forget_node(place) {
            if let Waiter::Setup { step } = waiter {
                self.setup.unanswered(step);
            }
        }
        self.tell(|| format!("node {place} crashes"));
    }

    fn wipe(&mut self, place: usize, for_us: u64) -> bool {
        if self.nodes[place].is_lost || !self.may_lose(place) {
            return false;
        }
        self.crash(place, 0);
        self.nodes[place].is_lost = true;
        self.later(for_us, Mend::Reborn(place));
        true
    }

    fn flip(&mut self, place: usize, pick: u64, for_us: u64) -> bool {
        if self.nodes[place].is_lost || !self.may_lose(place) {
            return false;
        }
        if !self.nodes[place].disk.damage(pick) {
            return false;
        }
        self.later(4 * for_us, Mend::Scrub(place));
        true
    }

    /// A damaged row was met: the node ends, and its disk is not used again.
    pub(crate) fn lose(&mut self, place: usize) {
        assert!(self.nodes[place].disk.is_damaged(), "only a damaged disk is refused");
        self.counts.damage_found += 1;
        self.crash(place, 0);
        self.nodes[place].is_lost = true;
        let wait_us = match self.phase {
            Phase::Settling(_) => 10_000,
            _ => 1_000_000,
        };
        self.later(wait_us, Mend::Reborn(place));
    }

    /// A node that lost its disk comes back as another.
    fn reborn(&mut self, place: usize) {
        let id = self.new_node();
        let node = &mut self.nodes[place];
        if !node.is_lost {
            return;
        }
        let old = std::mem::replace(&mut node.id, id);
        node.disk = Disk::default();
        node.incoming.clear();
        node.is_lost = false;
        self.places.remove(&old);
        self.places.insert(id, place);
        let moves_away = std::mem::take(&mut self.nodes[place].moves_away);
        self.replace_lost(place, old, moves_away);
        self.counts.reborn += 1;
        self.boot(place);
    }

    /// Mends everything at once.
    pub(crate) fn heal(&mut self) {
        self.tell(|| "everything is mended".to_owned());
        self.mend_epoch += 1;
        self.phase = Phase::Settling(self.now);
        self.network.heal();
        for place in 0..self.nodes.len() {
            let now = self.now;
            let node: &mut Node = &mut self.nodes[place];
            (node.pauses, node.slow_syncs, node.slow_sync_us) = (0, 0, 0);
            node.clock.set_drift(now, 0);
            if node.is_lost {
                self.reborn(place);
            } else if node.disk.is_damaged() {
                self.lose(place);
            } else if node.process.is_none() {
                self.boot(place);
            } else {
                self.wake(place);
            }
        }
        self.begin_last_requests();
    }
}

/// Sets every hard state back to what the log alone tells: a term, and no vote.
fn forget_votes(disk: &mut Disk) {
    for group in boot::groups(disk) {
        let Ok(Some(value)) = disk.get(Family::Raft, &raft_hard_state_key(group)) else { continue };
        let mut hard_state = decode_hard_state(&value).expect("rows are in their format");
        let (from, to) = raft_entry_range(group, 0, u64::MAX);
        let last = disk.range(Family::Raft, &from, &to).next_back();
        let last = last.and_then(|(key, value)| {
            decode_raft_entry(raft_entry_index(key)?, value).ok().map(|entry| entry.term)
        });
        let Some(term) = last else { continue };
        (hard_state.term, hard_state.vote) = (term, 0);
        let value = encode_hard_state(&hard_state);
        disk.write_flushed([boot::put(Family::Raft, raft_hard_state_key(group), value)]);
    }
}
