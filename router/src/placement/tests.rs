//! Leaders are spread evenly and the plan ends.

use proptest::prelude::*;

use super::*;

/// One line per shard, `number: voters by node, the leader with a star`; the last line names who may lead.
fn snapshot(script: &str) -> LeadershipSnapshot {
    let mut snapshot = LeadershipSnapshot::default();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (head, nodes) = line.split_once(':').expect("head: nodes");
        let node = |word: &str| NodeId(word.trim_end_matches('*').parse().expect("a node number"));
        if head == "eligible" {
            snapshot.eligible = nodes.split_whitespace().map(node).collect();
            continue;
        }
        let group = GroupId(head.parse().expect("a shard number"));
        let words: Vec<&str> = nodes.split_whitespace().collect();
        let leader = words.iter().find(|word| word.ends_with('*')).map(|word| node(word));
        let voters = words.iter().map(|word| voter(group, node(word))).collect();
        snapshot.shards.push(ShardLeadership { group, leader, voters });
    }
    snapshot
}

fn voter(group: GroupId, node: NodeId) -> Voter {
    Voter { node, incarnation: Incarnation(1000 + group.0 % 1000 * 10 + node.0) }
}

fn written(transfers: &[Transfer]) -> Vec<String> {
    transfers.iter().map(|t| format!("{}: {} -> {}", t.group, t.from, t.to.node)).collect()
}

fn after(snapshot: &LeadershipSnapshot, transfers: &[Transfer]) -> LeadershipSnapshot {
    let mut next = snapshot.clone();
    for transfer in transfers {
        let shard = next.shards.iter_mut().find(|shard| shard.group == transfer.group);
        let shard = shard.expect("transfers name shards of the snapshot");
        assert_eq!(shard.leader, Some(transfer.from));
        assert!(shard.voters.contains(&transfer.to), "only a voter may lead");
        shard.leader = Some(transfer.to.node);
    }
    next
}

fn loads(snapshot: &LeadershipSnapshot) -> BTreeMap<NodeId, u64> {
    let mut loads: BTreeMap<NodeId, u64> = snapshot.eligible.iter().map(|n| (*n, 0)).collect();
    for shard in &snapshot.shards {
        if let Some(load) = shard.leader.and_then(|leader| loads.get_mut(&leader)) {
            *load += 1;
        }
    }
    loads
}

fn squares(snapshot: &LeadershipSnapshot) -> u64 {
    loads(snapshot).values().map(|load| load * load).sum()
}

#[test]
fn preferred_leaders_of_eight_shards_are_spread_over_three_nodes() {
    let nodes: Vec<u64> = (1..=8)
        .map(|group| {
            let group = GroupId(group);
            let voters = [3, 1, 2].map(|node| voter(group, NodeId(node)));
            preferred_leader(group, &voters).expect("there are voters").node.0
        })
        .collect();
    assert_eq!(nodes, [2, 3, 1, 2, 3, 1, 2, 3]);
    assert_eq!(preferred_leader(GroupId(1), &[]), None);
}

#[test]
fn only_voters_that_stay_may_lead() {
    let replica = |number, role, in_old_set, in_new_set| {
        let (node, incarnation) = (NodeId(number), Incarnation(number));
        let is_added = role == ReplicaRole::Learner;
        ShardReplica { node, incarnation, role, in_old_set, in_new_set, is_added }
    };
    let replicas = vec![
        replica(1, ReplicaRole::Voter, true, true),
        replica(2, ReplicaRole::Voter, true, false),
        replica(3, ReplicaRole::Learner, false, true),
    ];
    let shard = ShardEntity { id: GroupId(1), epoch: 2, replicas };
    assert_eq!(voters_of(&shard), [Voter { node: NodeId(1), incarnation: Incarnation(1) }]);
}

#[test]
fn attempts_visit_every_voter() {
    let group = GroupId(u64::MAX);
    let voters = [4, 7, 9].map(|node| voter(group, NodeId(node)));
    let tried: BTreeSet<NodeId> =
        (0..3).filter_map(|attempt| nth_choice(group, &voters, attempt)).map(|v| v.node).collect();
    assert_eq!(tried.len(), 3);
    assert_eq!(nth_choice(group, &voters, u32::MAX), nth_choice(group, &voters, u32::MAX % 3));
}

#[test]
fn one_node_gives_leaders_to_the_others() {
    let all_on_one = snapshot(
        "1: 1* 2 3
         2: 1* 2 3
         3: 1* 2 3
         4: 1* 2 3
         eligible: 1 2 3",
    );
    assert_eq!(written(&spread(&all_on_one)), ["1: 1 -> 2", "2: 1 -> 3"]);
}

#[test]
fn an_even_cluster_and_unknown_leaders_are_left_alone() {
    let even = snapshot(
        "1: 1* 2 3
         2: 1 2* 3
         3: 1 2 3*
         4: 1* 2 3
         5: 1 2 3
         eligible: 1 2 3",
    );
    assert!(spread(&even).is_empty());
    assert!(spread(&LeadershipSnapshot::default()).is_empty());
}

#[test]
fn leaders_leave_a_node_that_may_not_lead() {
    let draining = snapshot(
        "1: 1* 2 3
         2: 1* 2 3
         3: 1*
         4: 2* 3
         eligible: 2 3",
    );
    assert_eq!(written(&spread(&draining)), ["1: 1 -> 3", "2: 1 -> 2"]);
}

#[test]
fn a_chain_of_transfers_reaches_a_node_that_the_loaded_one_shares_no_shard_with() {
    let chain = snapshot(
        "1: 1* 2
         2: 1* 2
         3: 2* 3
         eligible: 1 2 3",
    );
    assert_eq!(written(&spread(&chain)), ["1: 1 -> 2", "3: 2 -> 3"]);
}

fn any_snapshot() -> impl Strategy<Value = LeadershipSnapshot> {
    let shard = (prop::collection::btree_set(1u64..=6, 1..=3), any::<prop::sample::Index>());
    let leaders = prop::collection::vec((shard, prop::bool::weighted(0.9)), 0..40);
    (leaders, prop::collection::btree_set(1u64..=6, 1..=6)).prop_map(|(shards, eligible)| {
        let shards = shards.into_iter().zip(1u64..).map(|(((nodes, leader), known), group)| {
            let nodes: Vec<NodeId> = nodes.into_iter().map(NodeId).collect();
            let leader = known.then(|| nodes[leader.index(nodes.len())]);
            let group = GroupId(group);
            let voters = nodes.into_iter().map(|node| voter(group, node)).collect();
            ShardLeadership { group, leader, voters }
        });
        let eligible = eligible.into_iter().map(NodeId).collect();
        LeadershipSnapshot { shards: shards.collect(), eligible }
    })
}

proptest! {
    #[test]
    fn a_plan_evens_out_and_a_second_plan_is_empty(snapshot in any_snapshot()) {
        let plan = spread(&snapshot);
        let groups: BTreeSet<GroupId> = plan.iter().map(|transfer| transfer.group).collect();
        prop_assert_eq!(groups.len(), plan.len(), "a shard moves at most once");
        let next = after(&snapshot, &plan);
        prop_assert!(spread(&next).is_empty());
        for transfer in &plan {
            prop_assert!(snapshot.eligible.contains(&transfer.to.node));
        }
        let from_eligible = plan.iter().all(|t| snapshot.eligible.contains(&t.from));
        if !plan.is_empty() && from_eligible {
            prop_assert!(squares(&next) < squares(&snapshot));
        }
    }

    #[test]
    fn with_voters_everywhere_loads_differ_by_at_most_one(
        leaders in prop::collection::vec(1u64..=5, 0..60),
    ) {
        let shards = leaders.into_iter().zip(1u64..).map(|(leader, group)| {
            let group = GroupId(group);
            let voters = (1..=5).map(|node| voter(group, NodeId(node))).collect();
            ShardLeadership { group, leader: Some(NodeId(leader)), voters }
        });
        let eligible = (1..=5).map(NodeId).collect();
        let snapshot = LeadershipSnapshot { shards: shards.collect(), eligible };
        let loads = loads(&after(&snapshot, &spread(&snapshot)));
        let (most, least) = (loads.values().max(), loads.values().min());
        prop_assert!(most.copied() <= least.map(|least| least + 1), "{:?}", loads);
    }

    #[test]
    fn no_assignment_of_leaders_is_more_even(snapshot in any_snapshot()) {
        let mut small = snapshot;
        small.shards.truncate(7);
        let next = after(&small, &spread(&small));
        let strays = |s: &LeadershipSnapshot| {
            s.shards.iter().filter(|h| h.leader.is_some_and(|l| !s.eligible.contains(&l))).count()
        };
        prop_assert_eq!((strays(&next), squares(&next)), best(&small, 0, &mut small.clone()));
    }
}

/// Fewest leaders on nodes that may not lead, then the lowest sum of squares, by trying everything.
fn best(
    snapshot: &LeadershipSnapshot,
    position: usize,
    trial: &mut LeadershipSnapshot,
) -> (usize, u64) {
    let Some(shard) = snapshot.shards.get(position) else {
        let stray = |leader: NodeId| !trial.eligible.contains(&leader);
        let strays = trial.shards.iter().filter(|shard| shard.leader.is_some_and(stray)).count();
        return (strays, squares(trial));
    };
    if shard.leader.is_none() {
        return best(snapshot, position + 1, trial);
    }
    let mut lowest = (usize::MAX, u64::MAX);
    for voter in &shard.voters {
        trial.shards[position].leader = Some(voter.node);
        lowest = lowest.min(best(snapshot, position + 1, trial));
    }
    lowest
}
