//! Requests on their way into the log.
//!
//! Owns how they are folded into entries. Must never propose while this replica does not lead: raft would carry
//! the request to the leader unseen, and answer nobody (trap 15).

use raft::StateRole;

use super::{Pending, RaftReplica};
use crate::effects::{Effects, Now, Refusal, Reply, Token};
use crate::entry::EntryBuilder;

/// A request waiting to be put into an entry.
pub(super) struct Proposal {
    pub(super) token: Token,
    pub(super) command: Vec<u8>,
    pub(super) deadline_ms: u64,
}

impl RaftReplica {
    /// Puts queued commands into entries, while nothing of this group waits for the disk: so a batch
    /// grows exactly as long as a sync takes.
    pub(super) fn fold(&mut self, now: Now, effects: &mut Effects) {
        if self.queue.is_empty() {
            return;
        }
        if self.raw.raft.state != StateRole::Leader {
            // raft would carry it to the leader unseen, and answer nobody (trap 15).
            let refusal = Refusal::NotLeader(self.leader_node());
            let refused = self.queue.drain(..);
            effects.replies.extend(refused.map(|one| Reply { token: one.token, refusal }));
            return;
        }
        if self.unpersisted.iter().any(|ready| ready.has_entries) {
            return;
        }
        while !self.queue.is_empty() {
            let mut builder = EntryBuilder::new(self.incarnation, now.wall_ns);
            let mut tokens = Vec::new();
            while let Some(next) = self.queue.front() {
                if !builder.has_room(next.command.len(), self.config.max_entry_bytes) {
                    break;
                }
                let next = self.queue.pop_front().expect("just seen");
                if next.deadline_ms <= now.monotonic_ms {
                    let reply = Reply { token: next.token, refusal: Refusal::Expired };
                    effects.replies.push(reply);
                    continue;
                }
                builder.push(&next.command);
                tokens.push(next.token);
            }
            if !tokens.is_empty() {
                self.propose_entry(builder.finish(), tokens, effects);
            }
        }
    }

    fn propose_entry(&mut self, data: Vec<u8>, tokens: Vec<Token>, effects: &mut Effects) {
        let before = self.raw.raft.raft_log.last_index();
        if self.raw.propose(Vec::new(), data).is_err() {
            // Too much is uncommitted, or leadership is being handed over (trap 16). Nothing was appended.
            assert_eq!(
                before,
                self.raw.raft.raft_log.last_index(),
                "a refused proposal is not in the log"
            );
            let refused = tokens.into_iter();
            effects.replies.extend(refused.map(|token| Reply { token, refusal: Refusal::Busy }));
            return;
        }
        let index = self.raw.raft.raft_log.last_index();
        assert_eq!(index, before + 1, "a proposal is one entry");
        self.pending.push_back(Pending { index, term: self.raw.raft.term, tokens });
    }
}
