//! Three nodes run by hand on one thread and one hand-moved clock: every step is chosen by the test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger_shard_core::effects::{Now, Role};
use tempfile::TempDir;

use super::*;
use crate::driver::{Assembly, EventLoop, assemble};
use crate::{Clock, MetricsSnapshot, Reader};

const TICK_MS: u64 = 50;

/// A clock that moves when the test says so.
pub(super) struct HandClock {
    monotonic_ms: AtomicU64,
}

impl Clock for HandClock {
    fn now(&self) -> Now {
        let monotonic_ms = self.monotonic_ms.load(Ordering::SeqCst);
        Now { monotonic_ms, wall_ns: 1_700_000_000_000_000_000 + monotonic_ms * 1_000_000 }
    }
}

pub(super) struct ScriptedNode {
    pub(super) store: Arc<Store>,
    pub(super) handle: ShardHandle,
    pub(super) reader: Reader,
    pub(super) directory: PathBuf,
    /// Bytes at the end of the log that no sync covers, at least.
    pub(super) unsynced_bytes: u64,
    event_loop: EventLoop,
    before: MetricsSnapshot,
}

/// Three nodes.
pub(super) struct Scripted {
    pub(super) nodes: Vec<ScriptedNode>,
    clock: Arc<HandClock>,
    numbers: u64,
    root: TempDir,
}

impl Scripted {
    /// Starts nodes on the directories `1`, `2` and `3` below `root`, new or not.
    pub(super) fn start(root: TempDir) -> Scripted {
        let all = Scripted::start_asleep(root);
        for (node, place) in all.nodes.iter().zip(NODES) {
            wake(place, &node.handle);
        }
        all
    }

    /// The same, and every group sleeps until something names it.
    pub(super) fn start_asleep(root: TempDir) -> Scripted {
        let clock = Arc::new(HandClock { monotonic_ms: AtomicU64::new(1000) });
        let network = Arc::new(Network::default());
        let nodes = NODES.map(|node| {
            let directory = root.path().join(node.to_string());
            let store = open_store(&directory);
            let parts = parts(node, store.clone(), network.clone(), clock.clone());
            let config = config(DriverMode::Inline, TICK_MS);
            let Assembly { event_loop, handle, reader } = assemble(parts, config).unwrap();
            network.connect(node, handle.clone());
            let before = MetricsSnapshot::default();
            ScriptedNode { store, handle, reader, directory, unsynced_bytes: 0, event_loop, before }
        });
        Scripted { nodes: nodes.into(), clock, numbers: 0, root }
    }

    /// Stops every node where it is and gives the directories back.
    pub(super) fn stop(self) -> TempDir {
        self.root
    }

    /// Every node takes one turn, and a little time passes.
    pub(super) fn step(&mut self) {
        self.clock.monotonic_ms.fetch_add(10, Ordering::SeqCst);
        for node in &mut self.nodes {
            node.event_loop.take_events(None);
            node.event_loop.turn();
            node.event_loop.execute();
            let now = node.handle.metrics();
            if now.syncs > node.before.syncs {
                node.unsynced_bytes = 0;
            }
            // Within a turn, what is applied is written after the sync.
            node.unsynced_bytes += now.apply_bytes - node.before.apply_bytes;
            node.before = now;
        }
    }

    /// Steps until `condition` holds.
    pub(super) fn step_until(&mut self, what: &str, condition: impl Fn(&Scripted) -> bool) {
        for _ in 0..2000 {
            if condition(self) {
                return;
            }
            self.step();
        }
        let statuses: Vec<_> = self.nodes.iter().map(|node| node.handle.statuses()).collect();
        panic!("not in 2000 steps: {what}; {statuses:#?}");
    }

    /// The node that leads a group, if just one says that it does.
    pub(super) fn leader(&self, group: u64) -> Option<&ScriptedNode> {
        let leads = |node: &&ScriptedNode| {
            node.handle.leader(GroupId(group)).is_some_and(|(role, ..)| role == Role::Leader)
        };
        let mut leaders = self.nodes.iter().filter(leads);
        leaders.next().filter(|_| leaders.next().is_none())
    }

    /// Proposes to the group's leader, if there is one.
    pub(super) fn propose(&self, group: u64, command: Vec<u8>) -> Option<Answer> {
        let leader = self.leader(group)?;
        let (answer, completion) = answer_slot();
        let deadline_ms = leader.handle.now().monotonic_ms + 10_000;
        leader.handle.propose(GroupId(group), command, deadline_ms, completion);
        Some(answer)
    }

    /// Proposes until it is committed.
    pub(super) fn commit(&mut self, group: u64, command: &[u8]) {
        loop {
            self.step_until("a leader", |all| all.leader(group).is_some());
            let Some(answer) = self.propose(group, command.to_vec()) else { continue };
            self.step_until("an answer", |_| answer.lock().unwrap().is_some());
            if is_done(answer.lock().unwrap().as_ref().unwrap()) {
                return;
            }
        }
    }

    /// A number that no other write of this run has.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// True if every replica of every group has applied all that any replica has in its log.
    pub(super) fn is_settled(&self) -> bool {
        GROUPS.into_iter().all(|group| {
            let statuses =
                self.nodes.iter().map(|node| node.handle.status(GroupId(group)).unwrap());
            let applied: Vec<u64> = statuses.map(|status| status.applied).collect();
            let commit =
                self.leader(group).map(|node| node.handle.status(GroupId(group)).unwrap().commit);
            applied.iter().all(|&one| Some(one) == commit)
        })
    }

    pub(super) fn assert_equal_state(&self) {
        let first = replicated_state(&self.nodes[0].store);
        for node in &self.nodes[1..] {
            assert!(replicated_state(&node.store) == first, "{:?} differs", node.store);
        }
    }
}

fn new_root() -> TempDir {
    TempDir::new().unwrap()
}

#[test]
fn one_sync_covers_the_groups_of_a_turn() {
    let mut all = Scripted::start(new_root());
    for group in GROUPS {
        all.commit(group, &create_vault(group));
    }
    all.step_until("rest", Scripted::is_settled);
    // Followers of all three groups get the entries of all three in one step.
    let syncs = |all: &Scripted| -> Vec<u64> {
        all.nodes.iter().map(|node| node.handle.metrics().syncs).collect()
    };
    let (syncs_before, metrics_before) = (syncs(&all), all.nodes[0].handle.metrics());
    let mut answers = Vec::new();
    for round in 0..5 {
        for group in GROUPS {
            let number = all.number();
            answers.push(all.propose(group, write(group, number, &format!("k{round}"))).unwrap());
        }
    }
    all.step_until("answers", |_| answers.iter().all(|one| one.lock().unwrap().is_some()));
    all.step_until("rest", Scripted::is_settled);
    assert!(answers.iter().all(|one| is_done(one.lock().unwrap().as_ref().unwrap())));
    for (before, after) in syncs_before.iter().zip(syncs(&all)) {
        let spent = after - before;
        assert!(spent <= 4, "15 writes in 3 groups took {spent} syncs");
    }
    let now = all.nodes[0].handle.metrics();
    let shared: u64 = (1..crate::SYNC_BUCKETS)
        .map(|bucket| now.groups_per_sync[bucket] - metrics_before.groups_per_sync[bucket])
        .sum();
    assert!(shared > 0, "no sync served two groups or more: {:?}", now.groups_per_sync);
    all.assert_equal_state();
}

#[test]
fn an_applied_write_is_readable_when_it_is_answered() {
    let mut all = Scripted::start(new_root());
    all.commit(1, &create_vault(1));
    for round in 0..20 {
        let number = all.number();
        let key = format!("key{round}");
        all.commit(1, &write(1, number, &key));
        let leader = all.leader(1).expect("it just committed");
        assert_eq!(entity(&leader.store, 1, &key), Some(value_of(&key)));
    }
}

#[test]
fn a_read_waits_for_what_was_committed_before_it() {
    let mut all = Scripted::start(new_root());
    all.commit(1, &create_vault(1));
    let number = all.number();
    let answer = all.propose(1, write(1, number, "a")).unwrap();
    all.step_until("an answer", |_| answer.lock().unwrap().is_some());
    let index = answer.lock().unwrap().as_ref().unwrap().as_ref().unwrap().index;
    let (slot, leader) = (Arc::new(Mutex::new(None)), all.leader(1).unwrap());
    let filled = slot.clone();
    let deadline_ms = leader.handle.now().monotonic_ms + 10_000;
    let completion = Box::new(move |outcome| *filled.lock().unwrap() = Some(outcome));
    leader.handle.read(GroupId(1), deadline_ms, completion);
    assert!(slot.lock().unwrap().is_none(), "a read is never answered at the door");
    all.step_until("the read", |_| slot.lock().unwrap().is_some());
    let read: Result<u64, Refusal> = slot.lock().unwrap().unwrap();
    assert!(read.unwrap() >= index);
    let nowhere = all.nodes[0].handle.clone();
    let filled = slot.clone();
    *slot.lock().unwrap() = None;
    nowhere.read(
        GroupId(77),
        deadline_ms,
        Box::new(move |outcome| *filled.lock().unwrap() = Some(outcome)),
    );
    all.step_until("the refusal", |_| slot.lock().unwrap().is_some());
    assert_eq!(slot.lock().unwrap().unwrap(), Err(Refusal::NoReplica));
}

#[test]
fn every_node_reads_and_proves_what_was_written() {
    let mut all = Scripted::start(new_root());
    all.commit(1, &create_vault(1));
    for key in ["a", "b", "a"] {
        let number = all.number();
        all.commit(1, &write(1, number, key));
    }
    all.step_until("rest", Scripted::is_settled);
    let (vault, keys) = (vault_of(1), ["a", "b", "c"].map(StateKey::entity));
    for ScriptedNode { reader, .. } in &all.nodes {
        let tip = reader.tip(vault).unwrap();
        assert_eq!((tip.height, tip.log_size), (3, 4));
        assert_eq!(reader.entity(vault, "a").unwrap().unwrap().version, 3);
        let at = |height| reader.entity_at(vault, "b", Some(height), 0).unwrap().1;
        assert_eq!((at(1), at(2).map(|found| found.value)), (None, Some(value_of("b"))));
        let names = ["b", "c", "a"].map(str::to_owned);
        let (height, found) = reader.tip_entities(vault, &names, u64::MAX).unwrap();
        let versions: Vec<_> =
            found.iter().map(|one| one.as_ref().map(|one| one.version)).collect();
        assert_eq!((height, versions), (3, vec![Some(2), None, Some(3)]));
        let proof = reader.prove(vault, &keys, Some(2)).unwrap();
        assert_eq!((proof.height, proof.log_root), (3, tip.log_root));
        for (key, proved) in keys.iter().zip(&proof.keys) {
            let presence = proved.proof.verify(&tip.state_root, key.as_bytes()).unwrap();
            let is_present = matches!(presence, ledger_proof::Presence::Present(_));
            assert_eq!(is_present, proved.value.is_some(), "{key:?}");
        }
        assert_eq!(proof.keys[0].value, Some(value_of("a")));
        assert_eq!(proof.keys[2].value, None);
        let block = reader.block(vault, 3).unwrap();
        assert_eq!((block.header.state_root, block.transactions.len()), (tip.state_root, 1));
        let (_, header) = reader.block_header(vault, 3).unwrap();
        assert_eq!(
            (header, reader.inclusion(vault, 3, 4).unwrap()),
            (proof.header, proof.inclusion)
        );
        assert_eq!(reader.consistency(vault, 2, 4).unwrap(), proof.consistency);
        let unknown = reader.tip(VaultRef::new(10, 99)).unwrap_err();
        assert_eq!(unknown, crate::QueryError::UnknownVault);
    }
}

#[test]
fn rows_of_others_are_durable_when_they_are_told() {
    let mut all = Scripted::start(new_root());
    all.step();
    let told = Arc::new(Mutex::new(false));
    let node = &all.nodes[0];
    let syncs = node.handle.metrics().syncs;
    let row = ledger_shard_core::view::RowWrite {
        family: Family::Meta,
        key: b"checkpoint/x".to_vec(),
        value: Some(b"note".to_vec()),
    };
    let tell = told.clone();
    node.handle.record_checkpoint(vec![row], Box::new(move || *tell.lock().unwrap() = true));
    assert!(!*told.lock().unwrap());
    all.step();
    assert!(*told.lock().unwrap());
    let node = &all.nodes[0];
    assert!(node.handle.metrics().syncs > syncs);
    assert_eq!(node.store.meta(b"checkpoint/x").unwrap(), Some(b"note".to_vec()));
}

#[test]
fn more_than_fits_is_refused_at_the_door() {
    let mut all = Scripted::start(new_root());
    all.commit(1, &create_vault(1));
    let leader = all.leader(1).unwrap();
    let (limit, deadline_ms) = (DriverConfig::default().request_bytes_max, u64::MAX);
    let mut answers = Vec::new();
    let large = 8 << 20;
    for _ in 0..=limit / large {
        let (answer, completion) = answer_slot();
        // Never decoded: the deadline has passed when the turn comes.
        leader.handle.propose(GroupId(1), vec![0; large], 0, completion);
        answers.push(answer);
    }
    let busy = |answer: &Answer| *answer.lock().unwrap() == Some(Err(Refusal::Busy));
    assert!(busy(answers.last().unwrap()));
    assert!(!busy(&answers[0]));
    let metrics = leader.handle.metrics();
    assert!(metrics.refused_busy > 0);
    all.step();
    assert_eq!(*answers[0].lock().unwrap(), Some(Err(Refusal::Expired)));
    let leader = all.leader(1).unwrap();
    assert_eq!(leader.handle.bytes_in_flight().0, 0);
    let (answer, completion) = answer_slot();
    leader.handle.propose(GroupId(1), write(1, 99, "after"), deadline_ms, completion);
    all.step_until("an answer", |_| answer.lock().unwrap().is_some());
    assert!(is_done(answer.lock().unwrap().as_ref().unwrap()));
}
