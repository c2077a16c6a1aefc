//! When a replica asks for votes, and which voter is to lead when all is well.
//!
//! Owns the drawing of election timeouts from the seeded source. Must never use another source of chance.

use std::collections::BTreeSet;

use ledger_types::{Incarnation, NodeId};
use raft::StateRole;

use super::RaftReplica;

/// Entries behind its leader's commit index from which a replica counts as catching up.
const CATCHING_UP_ENTRIES: u64 = 256;

impl RaftReplica {
    /// The voter that leads when all is well: groups spread over their voters by number.
    fn preferred(&self) -> Option<u64> {
        let voters = self.voters();
        let place = self.group.0.checked_rem(voters.len() as u64)?;
        voters.get(usize::try_from(place).expect("below a length")).copied()
    }

    /// Counts the time as leader, and now and then looks whether another voter should lead. True if it is asked
    /// to.
    pub(super) fn tick_leading(&mut self, laggards: &BTreeSet<NodeId>) -> bool {
        if self.raw.raft.state != StateRole::Leader {
            self.ticks_leading = 0;
            return false;
        }
        self.ticks_leading = self.ticks_leading.saturating_add(1);
        self.hand_over_to_preferred(laggards)
    }

    /// True of a replica that is far behind its leader. Its node spends its time on what it has missed, and would
    /// be a slow leader of its other groups.
    pub(crate) fn is_catching_up(&self) -> bool {
        let is_follower = self.raw.raft.state == StateRole::Follower;
        // Past its leader's log it waits for a snapshot, also before it was told of one.
        let needs_snapshot = self.raw.raft.raft_log.last_index() < self.leader_log_floor;
        let is_behind = self.applied + CATCHING_UP_ENTRIES < self.heard_commit;
        self.incoming.is_some() || (is_follower && (is_behind || needs_snapshot))
    }

    /// A leader that is not the preferred one hands over once that one is up to date. True if it does.
    fn hand_over_to_preferred(&mut self, laggards: &BTreeSet<NodeId>) -> bool {
        let is_time = self.ticks_leading.is_multiple_of(self.config.spread_ticks);
        if !is_time || self.raw.raft.lead_transferee.is_some() {
            return false;
        }
        let Some(preferred) = self.preferred() else { return false };
        let commit = self.raw.raft.raft_log.committed;
        let progress = self.raw.raft.prs().get(preferred);
        let is_ready = preferred != self.incarnation.0
            && progress.is_some_and(|one| one.recent_active && one.matched >= commit)
            && self.table.get(&preferred).is_some_and(|node| !laggards.contains(node));
        if is_ready {
            self.transfer(Incarnation(preferred));
        }
        is_ready
    }

    /// raft draws election timeouts from the thread's generator and compares them only in a tick. So
    /// after every event its draw is replaced by ours, which changes with term, role or leader.
    pub(super) fn keep_election_timeout(&mut self) {
        let raft = &self.raw.raft;
        let seen = (raft.term, raft.state, raft.leader_id);
        if seen != self.drawn_for {
            self.drawn_for = seen;
            self.draw_election_timeout();
        }
        self.raw.raft.set_randomized_election_timeout(self.election_timeout);
    }

    pub(super) fn draw_election_timeout(&mut self) {
        self.random = split_mix(self.random);
        let base = self.config.election_ticks;
        let preferred = self.preferred() == Some(self.incarnation.0);
        // The preferred leader's range ends where the others' begins, so that it usually wins alone.
        let (low, high) = if preferred { (0, 2) } else { (2, (base * 7 / 10).max(3)) };
        let span = (high - low) as u64;
        let drawn = usize::try_from(self.random % span).expect("below a small number");
        self.election_timeout = base + low + drawn;
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): enough to spread election timeouts.
pub(super) fn split_mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
