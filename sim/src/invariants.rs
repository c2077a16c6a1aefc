//! What must hold after every event, and the memory that is needed to tell.
//!
//! Owns the judgement of replicas; that of chains and answers is in [`chain`]. Must never change anything but
//! its own memory.

pub(crate) mod chain;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger_shard_core::effects::{
    BootRecord, Committed, ConfState, GroupMessage, GroupStatus, HardState, Persist, Role,
};
use ledger_types::{GroupId, Incarnation, VaultRef};

use crate::fingerprint;
use crate::node::Seen;
use crate::raft_header::{self, APPEND_RESPONSE, VOTE_RESPONSE};
use chain::Chain;

/// What an invariant says: nothing, or its name and what it found.
pub(crate) type Verdict = Result<(), (&'static str, String)>;

/// Durable entries that are remembered of a replica beyond what is committed.
const REMEMBERED_MAX: usize = 2048;
/// How often the caps a log may be reached, as the core has it while a snapshot is under way.
const CAP_FACTOR: u64 = 4;
/// Entries that a log may hold beside.
const CAP_SLACK: u64 = 64;

/// What is durable of a replica.
#[derive(Default)]
struct Durable {
    /// Everything up to here is durable and committed.
    base: u64,
    /// Terms of the entries behind.
    terms: VecDeque<u64>,
    hard_state: HardState,
    applied: u64,
    applied_seen: u64,
}

impl Durable {
    fn last(&self) -> u64 {
        self.base + self.terms.len() as u64
    }

    fn holds(&self, index: u64, term: u64) -> bool {
        let Some(place) = index.checked_sub(self.base + 1) else { return true };
        self.terms.get(place as usize) == Some(&term)
    }
}

/// An acknowledgement in the replica's durable term is of durable entries. One of an earlier term is a late message:
/// the replica had the entries in that term and has durably left it since, which may be with one sync, so that they
/// were durable at no time. Whether the leader of that term may count it shows when it commits: by then no quorum
/// can have left the term, and a commit that no quorum has durable is refused (`committed before durable`).
fn acknowledged(from: Incarnation, durable: &Durable, term: u64, index: u64) -> Verdict {
    let (durable_term, last) = (durable.hard_state.term, durable.last());
    if term < durable_term || (term == durable_term && index <= last) {
        return Ok(());
    }
    let detail = format!(
        "replica {from} acknowledges {index} in term {term}, and has {last} in {durable_term}"
    );
    Err(("acknowledged before durable", detail))
}

/// All memory of what happened.
pub(crate) struct Oracle {
    is_blind: bool,
    leaders: BTreeMap<(GroupId, u64), Incarnation>,
    votes: BTreeMap<(GroupId, u64, u64), u64>,
    /// Of each group, the digests of its committed entries from the first one on.
    logs: BTreeMap<GroupId, Vec<u128>>,
    replicas: BTreeMap<Incarnation, Durable>,
    buried: BTreeSet<Incarnation>,
    chains: BTreeMap<VaultRef, Chain>,
    /// Namespaces that clients were told of as new.
    namespaces: BTreeSet<u64>,
}

impl Oracle {
    pub(crate) fn new(is_blind: bool) -> Oracle {
        Oracle {
            is_blind,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            logs: BTreeMap::new(),
            replicas: BTreeMap::new(),
            buried: BTreeSet::new(),
            chains: BTreeMap::new(),
            namespaces: BTreeSet::new(),
        }
    }

    /// A message leaves: what it promises is durable, and its sender lives.
    pub(crate) fn sent(&mut self, message: &GroupMessage) -> Verdict {
        if self.is_blind {
            return Ok(());
        }
        if self.buried.contains(&message.from) {
            return Err(("buried", format!("replica {} speaks after its end", message.from)));
        }
        let payload = &message.payload;
        let (is_vote, is_ack) =
            (raft_header::is(payload, VOTE_RESPONSE), raft_header::is(payload, APPEND_RESPONSE));
        if !is_vote && !is_ack {
            return Ok(());
        }
        let header = raft_header::read(payload);
        let header = header.ok_or_else(|| ("message", "a message cannot be read".to_owned()))?;
        let from = message.from;
        let durable = self.replicas.get(&from).expect("a replica that sends was started");
        if header.is_rejection {
            return Ok(());
        }
        if is_ack {
            return acknowledged(from, durable, header.term, header.index);
        }
        let (term, candidate) = (header.term, header.to);
        let hard_state = durable.hard_state;
        let is_kept =
            hard_state.term > term || (hard_state.term == term && hard_state.vote == candidate);
        if !is_kept {
            let detail = format!("replica {from} votes for {candidate} in {term}: {hard_state:?}");
            return Err(("voted before durable", detail));
        }
        let vote = self.votes.entry((message.group, term, from.0)).or_insert(candidate);
        match *vote == candidate {
            true => Ok(()),
            false => Err((
                "one vote a term",
                format!("replica {from} votes for {vote} and for {candidate} in term {term}"),
            )),
        }
    }

    /// Committed entries: the same on every replica, without a gap, and durable on a quorum.
    pub(crate) fn committed(&mut self, committed: &Committed, seen: Option<&Seen>) -> Verdict {
        let group = committed.group;
        let log = self.logs.entry(group).or_default();
        for entry in &committed.entries {
            let print = fingerprint::of(entry.term << 2 | entry.kind as u64, &entry.data);
            let place = (entry.index - BootRecord::FIRST.0 - 1) as usize;
            match log.get(place) {
                Some(&known) if known == print => {}
                Some(_) => {
                    let detail = format!("group {group} has two entries at {}", entry.index);
                    return Err(("committed prefix", detail));
                }
                None if place == log.len() => log.push(print),
                None => {
                    let detail = format!("group {group} commits {} before others", entry.index);
                    return Err(("committed prefix", detail));
                }
            }
        }
        let Some(seen) = seen.filter(|seen| seen.role == Role::Leader) else { return Ok(()) };
        let last = committed.entries.last().expect("committed entries are never none");
        let confs = [&seen.conf, &seen.conf_before];
        let is_durable = |conf| self.has_quorum(conf, |id| self.holds(id, last.index, last.term));
        if self.is_blind || confs.into_iter().any(is_durable) {
            return Ok(());
        }
        let detail = format!("group {group}, entry {}, voters {:?}", last.index, seen.conf);
        Err(("committed before durable", detail))
    }

    fn holds(&self, id: u64, index: u64, term: u64) -> bool {
        self.replicas.get(&Incarnation(id)).is_some_and(|durable| durable.holds(index, term))
    }

    fn has_quorum(&self, conf: &ConfState, is_for: impl Fn(u64) -> bool) -> bool {
        let is_majority = |voters: &[u64]| {
            let count = voters.iter().filter(|id| is_for(**id)).count();
            voters.is_empty() || 2 * count > voters.len()
        };
        !conf.voters.is_empty() && is_majority(&conf.voters) && is_majority(&conf.voters_outgoing)
    }

    /// A replica tells of itself: one leader a term, chosen by a quorum of its members.
    pub(crate) fn status(&mut self, status: &GroupStatus) -> Verdict {
        let (group, term, me) = (status.group, status.term, status.incarnation);
        if status.applied > status.commit || status.commit > status.last_index {
            let (applied, commit, last) = (status.applied, status.commit, status.last_index);
            let detail = format!("replica {me}: applied {applied}, commit {commit}, last {last}");
            return Err(("applied, commit, last", detail));
        }
        if status.role != Role::Leader {
            return Ok(());
        }
        let known = self.leaders.insert((group, term), me);
        if known == Some(me) {
            return Ok(());
        }
        if let Some(known) = known {
            let detail = format!("group {group}, term {term}: {known} and {me}");
            return Err(("one leader a term", detail));
        }
        let voted = |id| id == me.0 || self.votes.get(&(group, term, id)) == Some(&me.0);
        if self.is_blind || self.has_quorum(&status.conf_state, voted) {
            return Ok(());
        }
        let detail = format!("group {group}, term {term}: {me} of {:?}", status.conf_state);
        Err(("elected by a quorum", detail))
    }

    /// A look at a running replica: logs are bounded, and nothing goes back.
    pub(crate) fn looked_at(&mut self, status: &GroupStatus, entries_max: u64) -> Verdict {
        self.status(status)?;
        let me = status.incarnation;
        let kept = (status.applied + 1).saturating_sub(status.first_index);
        let most = entries_max.saturating_mul(CAP_FACTOR) + entries_max / 4 + CAP_SLACK;
        if kept > most {
            let detail = format!("replica {me} keeps {kept} applied entries, at most {most}");
            return Err(("bounded log", detail));
        }
        let replica = self.replicas.entry(me).or_default();
        if status.applied < replica.applied_seen {
            let (before, now) = (replica.applied_seen, status.applied);
            return Err(("applied goes on", format!("replica {me}: {before}, then {now}")));
        }
        replica.applied_seen = status.applied;
        Ok(())
    }

    /// A replica starts: what was durable is there.
    pub(crate) fn booted(&mut self, record: &BootRecord) -> Verdict {
        let me = record.incarnation;
        let before = self.replicas.insert(me, Durable::default()).unwrap_or_default();
        let durable = self.replicas.get_mut(&me).expect("just put there");
        durable.base = record.truncated.0;
        for (number, &(first, term)) in record.term_runs.iter().enumerate() {
            let end = record.term_runs.get(number + 1).map_or(record.last_index + 1, |run| run.0);
            durable.terms.extend((first..end).map(|_| term));
        }
        durable.hard_state = record.hard_state;
        durable.applied = record.applied;
        if record.applied < before.applied {
            let (was, now) = (before.applied, record.applied);
            return Err(("applied goes on", format!("replica {me} had {was}, starts with {now}")));
        }
        let (was, now) = (before.hard_state, record.hard_state);
        let is_other_vote = was.vote != 0 && was.vote != now.vote;
        let is_lost = was.term > now.term || (was.term == now.term && is_other_vote);
        if !self.is_blind && is_lost {
            return Err(("hard state is kept", format!("replica {me} had {was:?}, has {now:?}")));
        }
        Ok(())
    }

    /// Rows of the log are durable.
    pub(crate) fn persisted(&mut self, me: Incarnation, one: &Persist) {
        let committed = self.logs.get(&one.group).map_or(0, Vec::len) as u64;
        let committed = committed + BootRecord::FIRST.0;
        let durable = self.replicas.get_mut(&me).expect("a replica that persists was started");
        if let Some(hard_state) = one.hard_state {
            durable.hard_state = hard_state;
        }
        let first = one.entries.first().map(|entry| entry.index);
        if let Some(first) = first.or(one.delete.map(|range| range.0)) {
            let keep = first.saturating_sub(durable.base + 1);
            durable.terms.truncate(keep as usize);
        }
        durable.terms.extend(one.entries.iter().map(|entry| entry.term));
        while durable.terms.len() > REMEMBERED_MAX && durable.base < committed {
            durable.terms.pop_front();
            durable.base += 1;
        }
    }

    /// Applied rows are durable.
    pub(crate) fn applied_durably(&mut self, me: Incarnation, index: u64) {
        let durable = self.replicas.get_mut(&me).expect("a replica that applies was started");
        durable.applied = durable.applied.max(index);
    }

    /// A snapshot is installed: the log begins after it.
    pub(crate) fn installed(&mut self, me: Incarnation, index: u64, hard_state: HardState) {
        let durable = self.replicas.get_mut(&me).expect("a replica that installs was started");
        durable.base = index;
        durable.terms.clear();
        durable.hard_state = hard_state;
        durable.applied = index;
    }

    /// The disk of a replica is gone, and the replica with it.
    pub(crate) fn buried(&mut self, incarnation: Incarnation) {
        self.buried.insert(incarnation);
    }

    /// Entries that are known to be committed in a group, by the index of the last.
    pub(crate) fn last_committed(&self, group: GroupId) -> u64 {
        BootRecord::FIRST.0 + self.logs.get(&group).map_or(0, Vec::len) as u64
    }
}

#[cfg(test)]
mod tests;
