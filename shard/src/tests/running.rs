//! Three nodes on their own threads, in both modes, under load, with one of them dying and coming back.

use std::thread;
use std::time::{Duration, Instant};

use ledger_shard_core::effects::Role;
use tempfile::TempDir;

use super::*;
use crate::{Driver, SystemClock};

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Running {
    root: TempDir,
    network: Arc<Network>,
    config: DriverConfig,
    nodes: BTreeMap<u64, (Driver, Arc<Store>)>,
}

impl Running {
    fn start(mode: DriverMode) -> Running {
        Running::with(config(mode, 20))
    }

    fn with(config: DriverConfig) -> Running {
        let (root, network) = (TempDir::new().unwrap(), Arc::new(Network::default()));
        let mut all = Running { root, network, config, nodes: BTreeMap::new() };
        for node in NODES {
            all.start_node(node);
        }
        all
    }

    fn start_node(&mut self, node: u64) {
        let store = open_store(&self.root.path().join(node.to_string()));
        let parts = parts(node, store.clone(), self.network.clone(), Arc::new(SystemClock));
        let driver = Driver::start(parts, self.config.clone()).unwrap();
        self.network.connect(node, driver.handle());
        wake(node, &driver.handle());
        self.nodes.insert(node, (driver, store));
    }

    /// Stops a node without a last sync and closes its store.
    fn kill(&mut self, node: u64) {
        self.network.disconnect(node);
        let (driver, store) = self.nodes.remove(&node).unwrap();
        drop(driver);
        Arc::into_inner(store).expect("the driver gave its hold on the store back");
    }

    fn leader(&self, group: u64) -> Option<u64> {
        let leads = |(driver, _): &(Driver, Arc<Store>)| {
            driver.handle().leader(GroupId(group)).is_some_and(|(role, ..)| role == Role::Leader)
        };
        self.nodes.iter().find(|(_, one)| leads(one)).map(|(&node, _)| node)
    }

    fn propose(&self, group: u64, command: &[u8]) -> Option<Answer> {
        let (driver, _) = &self.nodes[&self.leader(group)?];
        let (answer, completion) = answer_slot();
        let handle = driver.handle();
        let deadline_ms = handle.now().monotonic_ms + 60_000;
        handle.propose(GroupId(group), command.to_vec(), deadline_ms, completion);
        Some(answer)
    }

    /// Commits every command, each as often as it takes, all at the same time.
    fn commit(&self, commands: &[(u64, Vec<u8>)]) {
        let mut open: Vec<(usize, Option<Answer>)> =
            (0..commands.len()).map(|n| (n, None)).collect();
        wait_until("every command is committed", || {
            open.retain_mut(|(number, answer)| {
                let (group, command) = &commands[*number];
                let outcome = answer.as_ref().and_then(|one| one.lock().unwrap().take());
                match (&answer, outcome) {
                    (Some(_), Some(outcome)) if is_done(&outcome) => return false,
                    (Some(_), None) => {}
                    _ => *answer = self.propose(*group, command),
                }
                true
            });
            open.is_empty()
        });
    }

    /// A group as a node sees it, a moment ago.
    fn status(&self, node: u64, group: u64) -> crate::GroupStatus {
        let handle = self.nodes[&node].0.handle();
        handle.refresh();
        handle.status(GroupId(group)).unwrap()
    }

    fn wait_until_settled(&self) {
        wait_until("every node has applied everything", || {
            GROUPS.into_iter().all(|group| {
                let status =
                    |(driver, _): &(Driver, _)| driver.handle().status(GroupId(group)).unwrap();
                let leader = self.leader(group).map(|node| status(&self.nodes[&node]).commit);
                self.nodes.values().all(|node| Some(status(node).applied) == leader)
            })
        });
    }

    fn assert_equal_state(&self) {
        let mut states = self.nodes.values().map(|(_, store)| replicated_state(store));
        let first = states.next().unwrap();
        assert!(states.all(|state| state == first), "the nodes differ");
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Writes `count` keys to each group, numbered from `first`.
fn writes(first: u64, count: u64) -> Vec<(u64, Vec<u8>)> {
    let numbers = first..first + count;
    let of_group =
        |number| GROUPS.map(|group| (group, write(group, number, &format!("key{number}"))));
    numbers.flat_map(of_group).collect()
}

fn assert_written(all: &Running, numbers: std::ops::Range<u64>) {
    for (_, store) in all.nodes.values() {
        for number in numbers.clone() {
            let key = format!("key{number}");
            for group in GROUPS {
                assert_eq!(entity(store, group, &key), Some(value_of(&key)), "{key} of {group}");
            }
        }
    }
}

fn three_nodes_keep_their_promises(mode: DriverMode) {
    let mut all = Running::start(mode);
    all.commit(&GROUPS.map(|group| (group, create_vault(group))));
    all.commit(&writes(0, 50));
    let victim = all.leader(1).unwrap_or(1);
    all.kill(victim);
    all.commit(&writes(50, 50));
    all.start_node(victim);
    all.commit(&writes(100, 10));
    all.wait_until_settled();
    all.assert_equal_state();
    assert_written(&all, 0..110);
    let fetches: u64 =
        all.nodes.values().map(|(driver, _)| driver.handle().metrics().fetches).sum();
    assert!(fetches > 0, "the node that was away was not served from disk");
    for node in NODES {
        all.kill(node);
    }
    for node in NODES {
        all.start_node(node);
    }
    all.commit(&writes(110, 5));
    all.wait_until_settled();
    all.assert_equal_state();
    assert_written(&all, 0..115);
    for (_, (driver, store)) in std::mem::take(&mut all.nodes) {
        let handle = driver.handle();
        driver.shutdown().unwrap();
        assert!(handle.is_closed());
        let (answer, completion) = answer_slot();
        handle.propose(GroupId(1), write(1, 1, "late"), u64::MAX, completion);
        assert_eq!(*answer.lock().unwrap(), Some(Err(Refusal::NotLeader(None))));
        assert_eq!(handle.bytes_in_flight(), (0, 0));
        drop(store);
    }
}

/// A node comes back to find that the others' logs begin after its own ends.
fn a_node_that_was_away_too_long_gets_snapshots(mode: DriverMode) {
    let mut config = config(mode, 20);
    config.core.log_entries_max = 20;
    let mut all = Running::with(config);
    all.commit(&GROUPS.map(|group| (group, create_vault(group))));
    all.commit(&writes(0, 20));
    all.wait_until_settled();
    let victim = all.leader(1).unwrap_or(1);
    let last = GROUPS.map(|group| all.status(victim, group).last_index);
    all.kill(victim);
    // One after the other, because commands that wait together share an entry.
    let mut written = 20;
    wait_until("the logs of the others are cut", || {
        all.commit(&writes(written, 1));
        written += 1;
        all.nodes.keys().all(|&node| {
            let groups = GROUPS.into_iter().zip(last);
            groups.into_iter().all(|(group, last)| all.status(node, group).first_index > last + 1)
        })
    });
    all.start_node(victim);
    all.commit(&writes(written, 10));
    all.wait_until_settled();
    all.assert_equal_state();
    assert_written(&all, 0..written + 10);
    let metrics = |node: u64| all.nodes[&node].0.handle().metrics();
    assert!(metrics(victim).snapshots_installed >= 3, "{:?}", metrics(victim));
    let cut: u64 = NODES.iter().map(|&node| metrics(node).snapshots_cut).sum();
    assert!(cut >= 3 && NODES.iter().all(|&node| metrics(node).snapshots_refused == 0));
    // What was installed is a state like any other, also after everything starts again.
    for node in NODES {
        all.kill(node);
    }
    for node in NODES {
        all.start_node(node);
    }
    all.commit(&writes(written + 10, 5));
    all.wait_until_settled();
    all.assert_equal_state();
    assert_written(&all, 0..written + 15);
}

#[test]
fn a_node_that_was_away_too_long_gets_snapshots_inline() {
    a_node_that_was_away_too_long_gets_snapshots(DriverMode::Inline);
}

#[test]
fn a_node_that_was_away_too_long_gets_snapshots_staged() {
    a_node_that_was_away_too_long_gets_snapshots(DriverMode::Staged);
}

#[test]
fn three_nodes_keep_their_promises_inline() {
    three_nodes_keep_their_promises(DriverMode::Inline);
}

#[test]
fn three_nodes_keep_their_promises_staged() {
    three_nodes_keep_their_promises(DriverMode::Staged);
}

#[test]
fn callers_of_a_stopping_node_are_answered() {
    for mode in [DriverMode::Inline, DriverMode::Staged] {
        let mut all = Running::start(mode);
        all.commit(&GROUPS.map(|group| (group, create_vault(group))));
        let leader = all.leader(1).unwrap_or(1);
        // Alone, the leader cannot commit.
        for node in NODES.into_iter().filter(|&node| node != leader) {
            all.kill(node);
        }
        let (driver, _store) = all.nodes.remove(&leader).unwrap();
        let answers: Vec<Answer> = (0..100)
            .map(|number| {
                let (answer, completion) = answer_slot();
                let command = write(1, number, "never");
                driver.handle().propose(GroupId(1), command, u64::MAX, completion);
                answer
            })
            .collect();
        driver.shutdown().unwrap();
        for answer in answers {
            let outcome = answer.lock().unwrap().take().expect("answered when the node stopped");
            assert!(outcome.is_err(), "{outcome:?}");
        }
    }
}
