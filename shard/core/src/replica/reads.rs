//! Linearizable reads: rounds that ask a quorum whether the leader still leads (Raft thesis, section 6.4).
//!
//! Owns who waits for which round. Must never use a round's context twice.

use std::mem;

use raft::StateRole;

use super::RaftReplica;
use crate::effects::{Effects, Now, ReadAnswer, Refusal, Token};

/// A read waiting for, or in, a round.
pub(super) struct WaitingRead {
    pub(super) token: Token,
    pub(super) deadline_ms: u64,
}

/// One round that asks a quorum whether this term's leader still leads. Its context is never used again.
pub(super) struct ReadRound {
    pub(super) context: Vec<u8>,
    pub(super) reads: Vec<WaitingRead>,
    pub(super) ticks_left: u32,
}

impl RaftReplica {
    pub(super) fn start_read_round(&mut self, now: Now, effects: &mut Effects) {
        if self.round.as_ref().is_some_and(|round| round.ticks_left == 0) {
            let lost = self.round.take().expect("just seen");
            self.reads.extend(lost.reads);
        }
        if self.reads.is_empty() || self.round.is_some() {
            return;
        }
        let no_leader = self.raw.raft.leader_id == raft::INVALID_ID;
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for read in mem::take(&mut self.reads) {
            if read.deadline_ms <= now.monotonic_ms {
                refused.push((read.token, Refusal::Expired));
            } else if no_leader {
                refused.push((read.token, Refusal::NotLeader(None)));
            } else {
                kept.push(read);
            }
        }
        let answers = refused.into_iter();
        effects.reads.extend(answers.map(|(token, why)| ReadAnswer { token, result: Err(why) }));
        let leads = self.raw.raft.state == StateRole::Leader;
        if kept.is_empty() || (leads && !self.raw.raft.commit_to_current_term()) {
            // raft drops a read that comes before the term's first commit (trap 12); it waits here.
            self.reads = kept;
            return;
        }
        self.rounds_started += 1;
        let mut context = self.config.seed.to_be_bytes().to_vec();
        context.extend_from_slice(&self.incarnation.0.to_be_bytes());
        context.extend_from_slice(&self.rounds_started.to_be_bytes());
        self.raw.read_index(context.clone());
        let ticks_left = u32::try_from(self.config.election_ticks).expect("a small number");
        self.round = Some(ReadRound { context, reads: kept, ticks_left });
    }

    pub(super) fn answer_confirmed(&mut self, effects: &mut Effects) {
        let applied = self.applied;
        self.confirmed.retain_mut(|(index, reads)| {
            if *index > applied {
                return true;
            }
            let answers = reads.drain(..);
            effects
                .reads
                .extend(answers.map(|read| ReadAnswer { token: read.token, result: Ok(applied) }));
            false
        });
    }
}
