//! Groups that sleep: seen from the start, opened by the first word about them.

use tempfile::TempDir;

use super::scripted::Scripted;
use super::*;

/// A cluster that has written something and was stopped.
fn written() -> TempDir {
    let mut all = Scripted::start(TempDir::new().unwrap());
    for group in GROUPS {
        all.commit(group, &create_vault(group));
        let number = all.number();
        all.commit(group, &write(group, number, "before"));
    }
    all.step_until("rest", Scripted::is_settled);
    all.stop()
}

fn status(all: &Scripted, node: usize, group: u64) -> crate::GroupStatus {
    all.nodes[node].handle.status(GroupId(group)).unwrap()
}

#[test]
fn a_sleeping_group_is_seen_and_opened_by_a_request() {
    let mut all = Scripted::start_asleep(written());
    for _ in 0..100 {
        all.step();
    }
    for node in 0..3 {
        for group in GROUPS {
            let status = status(&all, node, group);
            assert!(status.is_asleep && status.is_readable(), "{status:?}");
            assert!(status.applied >= 7 && status.last_index >= status.applied, "{status:?}");
            assert_eq!((status.first_index, status.voters.len()), (6, 3));
        }
        assert_eq!(all.nodes[node].handle.metrics().groups_opened, 0);
        assert_eq!(entity(&all.nodes[node].store, 2, "before"), Some(value_of("before")));
    }
    // Nobody leads, so the request is refused, but the next one finds a leader.
    let (answer, completion) = answer_slot();
    let handle = all.nodes[0].handle.clone();
    let deadline_ms = handle.now().monotonic_ms + 10_000;
    handle.propose(GroupId(2), write(2, 900, "refused or not"), deadline_ms, completion);
    all.step_until("an answer", |_| answer.lock().unwrap().is_some());
    all.step_until("a leader", |all| all.leader(2).is_some());
    all.commit(2, &write(2, 901, "after"));
    all.step_until("everywhere", |all| {
        all.nodes.iter().all(|node| entity(&node.store, 2, "after") == Some(value_of("after")))
    });
    for node in 0..3 {
        assert!(!status(&all, node, 2).is_asleep, "messages opened the others");
        assert!(status(&all, node, 1).is_asleep && status(&all, node, 3).is_asleep);
        assert_eq!(all.nodes[node].handle.metrics().groups_opened, 1);
    }
}

#[test]
fn a_read_and_a_wake_open_as_well() {
    let mut all = Scripted::start_asleep(written());
    all.nodes[1].handle.wake(GroupId(1));
    all.nodes[1].handle.wake(GroupId(77));
    let deadline_ms = all.nodes[2].handle.now().monotonic_ms + 10_000;
    all.nodes[2].handle.read(GroupId(3), deadline_ms, Box::new(|_| {}));
    all.step();
    assert!(!status(&all, 1, 1).is_asleep && !status(&all, 2, 3).is_asleep);
    all.step_until("leaders", |all| all.leader(1).is_some() && all.leader(3).is_some());
    all.commit(1, &write(1, 902, "woken"));
    assert!(status(&all, 0, 2).is_asleep);
    assert!(all.nodes[0].handle.status(GroupId(77)).is_none());
}

#[test]
fn a_start_of_a_sleeping_group_reads_what_is_on_disk() {
    let mut all = Scripted::start_asleep(written());
    let replicas = NODES.map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
    let stale = BootRecord::new_group(GroupId(1), Incarnation(1), replicas.to_vec());
    let applied = status(&all, 0, 1).applied;
    all.nodes[0].handle.start(stale);
    all.step();
    let now = status(&all, 0, 1);
    assert!(!now.is_asleep && now.applied >= applied, "{now:?}");
}
