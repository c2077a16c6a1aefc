//! Registering nodes, and who may come under the name of one that is registered.
//!
//! Owns the decision that a store is gone, so that another one under its name takes its place. Must never let
//! two stores live under one name, as far as this node can know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ledger_shard::{Refusal, RegisterNode, Role, SystemCommand, SystemRefusal, SystemResult};
use ledger_types::{GroupId, NodeId, StoreId, VaultRef};
use tokio::sync::oneshot;

use super::LocalDirectory;
use crate::bootstrap::probe::store_at;
use crate::commands::propose_system;
use crate::peer::{JoinRefusal, JoiningNode, SILENCE};

/// Longest wait for what a decision about a joining node needs.
const DECISION_TIME_MAX: Duration = Duration::from_secs(3);

/// Probes of one store that are further apart than this are not one watch.
const PROBE_GAP_MAX: Duration = Duration::from_secs(5);

/// Stores that were looked for at their addresses in vain while this node led the directory, without a pause.
/// That a store sent nothing to this node says little: it may have had no reason to. Bounded by the registered
/// nodes.
#[derive(Default)]
pub(super) struct Missing(BTreeMap<StoreId, Watch>);

struct Watch {
    term: u64,
    first: Instant,
    last: Instant,
}

impl Missing {
    /// Takes in a probe, and tells for how long the store has been looked for in vain.
    fn probed(&mut self, store: StoreId, is_here: bool, term: u64, now: Instant) -> Duration {
        if is_here {
            self.0.remove(&store);
            return Duration::ZERO;
        }
        let watch = self.0.entry(store).or_insert(Watch { term, first: now, last: now });
        if watch.term != term || now.duration_since(watch.last) > PROBE_GAP_MAX {
            *watch = Watch { term, first: now, last: now };
        }
        watch.last = now;
        now.duration_since(watch.first)
    }
}

impl LocalDirectory {
    /// Registers a node, on the directory's leader only.
    pub(super) async fn register(&self, joining: JoiningNode) -> Result<NodeId, JoinRefusal> {
        let shard = &self.source.shard;
        if shard.leader(GroupId::SYSTEM).is_none_or(|(role, ..)| role != Role::Leader) {
            return Err(self.not_leader());
        }
        let mut missing = self.joining.lock().await;
        self.check_name(&joining, &mut missing).await?;
        let JoiningNode { name, store: store_id, public_key, address, zone } = joining;
        let register = RegisterNode { name, store_id, public_key, address, zone };
        let command = SystemCommand::RegisterNode(register);
        match propose_system(shard, &command).await {
            Ok(SystemResult::NodeRegistered { node, .. }) => Ok(node),
            Ok(SystemResult::Refused(refusal)) => match refusal {
                SystemRefusal::NotFounded | SystemRefusal::MajorityAtRisk { .. } => {
                    Err(JoinRefusal::Unavailable(refusal.to_string()))
                }
                SystemRefusal::NodeRemoved { .. } => Err(JoinRefusal::Removed(refusal.to_string())),
                other => Err(JoinRefusal::Refused(other.to_string())),
            },
            Ok(other) => Err(JoinRefusal::Unavailable(format!("unexpected answer {other:?}"))),
            Err(Refusal::NotLeader(_) | Refusal::NoReplica) => Err(self.not_leader()),
            Err(refusal) => Err(JoinRefusal::Unavailable(format!("{refusal:?}"))),
        }
    }

    fn not_leader(&self) -> JoinRefusal {
        let leader = self.source.shard.leader(GroupId::SYSTEM).and_then(|(_, _, leader)| leader);
        JoinRefusal::NotLeader { leader_address: leader.and_then(|node| self.cache.address(node)) }
    }

    /// Makes sure that nobody lives under the name of the joining node with another store, as far as that can
    /// be known: from then on that store is removed.
    async fn check_name(
        &self,
        joining: &JoiningNode,
        missing: &mut Missing,
    ) -> Result<(), JoinRefusal> {
        self.wait_for_copy().await?;
        if self.cache.directory.node_of_store(joining.store).is_some() {
            // The directory's own command decides about a store that it knows.
            return Ok(());
        }
        let Some(old) = self.cache.directory.node_named(&joining.name) else { return Ok(()) };
        let local = self.peers.local().store;
        let answering = match old.store_id == local {
            true => Some(local),
            false => store_at(&self.peers, &old.address).await,
        };
        let term = self.source.shard.leader(GroupId::SYSTEM).map_or(0, |(_, term, _)| term);
        let is_here = answering == Some(old.store_id);
        let missed = missing.probed(old.store_id, is_here, term, Instant::now());
        let silent = self.peers.silent_for(old.store_id).min(missed);
        may_replace(&joining.name, old.store_id, answering, silent)
    }

    /// Waits until the copy holds everything that was committed before this call.
    async fn wait_for_copy(&self) -> Result<(), JoinRefusal> {
        let shard = &self.source.shard;
        let (sender, receiver) = oneshot::channel();
        let time_ms = u64::try_from(DECISION_TIME_MAX.as_millis()).expect("a few seconds");
        let deadline_ms = shard.now().monotonic_ms + time_ms;
        let completion = move |outcome| {
            let _ = sender.send(outcome);
        };
        shard.read(GroupId::SYSTEM, deadline_ms, Box::new(completion));
        match receiver.await {
            Ok(Ok(_)) => {}
            Ok(Err(Refusal::NotLeader(_) | Refusal::NoReplica)) | Err(_) => {
                return Err(self.not_leader());
            }
            Ok(Err(refusal)) => return Err(JoinRefusal::Unavailable(format!("{refusal:?}"))),
        }
        let tip = self.source.reader.tip(VaultRef::SYSTEM);
        let tip = tip.map_err(|error| JoinRefusal::Unavailable(error.to_string()))?.height;
        match self.cache.wait_revision(tip, DECISION_TIME_MAX).await {
            true => Ok(()),
            false => {
                let why = "this node's copy of the directory is behind".to_owned();
                Err(JoinRefusal::Unavailable(why))
            }
        }
    }
}

/// Whether a store may take the place of the one that is registered under its name: the old one does not
/// answer at its address and was not heard from for [`SILENCE`].
fn may_replace(
    name: &str,
    old: StoreId,
    answering: Option<StoreId>,
    silent: Duration,
) -> Result<(), JoinRefusal> {
    if answering == Some(old) {
        let detail = format!("the name {name} belongs to another store, which is alive: {old}");
        return Err(JoinRefusal::NameTaken(detail));
    }
    if silent < SILENCE {
        let seconds = SILENCE.as_secs();
        return Err(JoinRefusal::Unavailable(format!(
            "the name {name} belongs to another store, {old}, that may have been alive in the last \
             {seconds} s; once it was silent for that long, this one takes its place"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_missing_only_while_it_is_looked_for_in_vain_without_a_pause() {
        let (store, start) = (StoreId([1; 16]), Instant::now());
        let mut missing = Missing::default();
        let mut probe = |seconds, is_here, term| {
            missing.probed(store, is_here, term, start + Duration::from_secs(seconds)).as_secs()
        };
        assert_eq!([probe(0, false, 7), probe(4, false, 7), probe(8, false, 7)], [0, 4, 8]);
        assert_eq!([probe(9, true, 7), probe(10, false, 7), probe(12, false, 7)], [0, 0, 2]);
        assert_eq!([probe(13, false, 8), probe(15, false, 8)], [0, 2], "another term as leader");
        assert_eq!([probe(21, false, 8), probe(22, false, 8)], [0, 1], "nobody looked in between");
    }

    #[test]
    fn a_name_changes_hands_once_its_store_is_silent_and_answers_nowhere() {
        let (old, other) = (StoreId([1; 16]), StoreId([2; 16]));
        let may = |answering, silent| may_replace("c", old, answering, silent);
        let almost = SILENCE - Duration::from_millis(1);
        assert_eq!(may(None, SILENCE), Ok(()));
        assert_eq!(may(Some(other), SILENCE), Ok(()), "the new one answers at the old address");
        assert!(matches!(may(None, almost), Err(JoinRefusal::Unavailable(_))));
        assert!(matches!(may(Some(other), Duration::ZERO), Err(JoinRefusal::Unavailable(_))));
        for silent in [Duration::ZERO, 100 * SILENCE] {
            assert!(matches!(may(Some(old), silent), Err(JoinRefusal::NameTaken(_))));
        }
    }
}
