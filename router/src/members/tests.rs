//! Replacements planned and carried out on a model of the directory and of a group.

use std::collections::BTreeSet;

use ledger_proof::system_entity::ReplicaRole;
use ledger_types::StoreId;
use proptest::prelude::*;

use super::*;

fn node(id: u64, name: &str, state: NodeState) -> Arc<NodeEntity> {
    Arc::new(NodeEntity {
        id: NodeId(id),
        name: name.to_owned(),
        store_id: StoreId([id as u8; 16]),
        address: format!("{name}:1"),
        public_key: [id as u8; 32],
        state,
        zone: String::new(),
    })
}

fn voter(incarnation: u64, node: u64) -> ShardReplica {
    ShardReplica {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        role: ReplicaRole::Voter,
        in_old_set: false,
        in_new_set: true,
        is_added: false,
    }
}

/// A settled shard with a voter on each of these nodes.
fn shard(id: u64, nodes: &[u64]) -> ShardEntity {
    let replicas = nodes.iter().zip(0..).map(|(node, place)| voter(1000 + id * 10 + place, *node));
    ShardEntity { id: GroupId(id), epoch: 1, replicas: replicas.collect() }
}

/// What `ReplaceReplica` does to a shard's entity.
fn replace(shard: &mut ShardEntity, old: Incarnation, node: NodeId, incarnation: Incarnation) {
    if shard.incoming().is_some_and(|one| one.incarnation == old) {
        shard.replicas.retain(|one| one.incarnation != old);
    } else {
        assert!(!shard.is_changing(), "one change at a time");
        for one in &mut shard.replicas {
            one.in_old_set = true;
            one.in_new_set = one.incarnation != old;
        }
    }
    let role = ReplicaRole::Learner;
    let new = voter(incarnation.0, node.0);
    shard.replicas.push(ShardReplica { role, is_added: true, ..new });
    shard.epoch += 1;
}

/// What `FinishReplacement` does to it.
fn finish(shard: &mut ShardEntity, old: Incarnation) {
    if shard.leaving().is_none_or(|one| one.incarnation != old) {
        return;
    }
    shard.replicas.retain(|one| one.incarnation != old);
    for one in &mut shard.replicas {
        (one.in_old_set, one.role) = (false, ReplicaRole::Voter);
    }
    shard.epoch += 1;
}

fn arcs(shards: &[ShardEntity]) -> Vec<Arc<ShardEntity>> {
    shards.iter().cloned().map(Arc::new).collect()
}

fn written(plan: &[Replacement]) -> Vec<String> {
    plan.iter().map(|one| format!("{}: {} -> {}", one.shard, one.old, one.node)).collect()
}

#[test]
fn a_removed_nodes_replicas_go_to_the_node_with_its_name_few_at_a_time() {
    let nodes = [
        node(1, "a", NodeState::Active),
        node(2, "b", NodeState::Active),
        node(3, "c", NodeState::Removed),
        node(4, "c", NodeState::Active),
    ];
    let mut shards: Vec<ShardEntity> = (0..=6).rev().map(|id| shard(id, &[1, 2, 3])).collect();
    let plan = plan_replacements(&nodes, &arcs(&shards));
    let first = ["0: 1002 -> 4", "1: 1012 -> 4", "2: 1022 -> 4", "3: 1032 -> 4"];
    assert_eq!(written(&plan), first);
    for one in plan {
        let shard = shards.iter_mut().find(|shard| shard.id == one.shard).expect("planned");
        replace(shard, one.old, one.node, Incarnation(2000 + one.shard.0));
    }
    assert_eq!(plan_replacements(&nodes, &arcs(&shards)), [], "four at a time");
    let system = shards.iter_mut().find(|shard| shard.id == GroupId::SYSTEM).expect("group 0");
    finish(system, Incarnation(1002));
    assert_eq!(written(&plan_replacements(&nodes, &arcs(&shards))), ["4: 1042 -> 4"]);
}

#[test]
fn nothing_is_planned_without_somebody_to_take_the_place() {
    let shards = [shard(1, &[1, 2, 3])];
    let gone = || node(3, "c", NodeState::Removed);
    let plan = |nodes: &[Arc<NodeEntity>]| written(&plan_replacements(nodes, &arcs(&shards)));
    let others = || vec![node(1, "a", NodeState::Active), node(2, "b", NodeState::Active)];
    assert!(plan(&[others(), vec![gone()]].concat()).is_empty());
    assert!(plan(&[others(), vec![gone(), node(4, "d", NodeState::Active)]].concat()).is_empty());
    assert!(plan(&[others(), vec![gone(), node(4, "c", NodeState::Draining)]].concat()).is_empty());
    assert!(plan(&[others(), vec![node(3, "c", NodeState::Active)]].concat()).is_empty());
    let twice =
        [others(), vec![gone(), node(4, "c", NodeState::Removed), node(5, "c", NodeState::Active)]];
    assert_eq!(plan(&twice.concat()), ["1: 1012 -> 5"]);
    // The node with the name has a replica already.
    let shards = [shard(1, &[1, 2, 3, 4])];
    let nodes = [others(), vec![gone(), node(4, "c", NodeState::Active)]].concat();
    assert_eq!(plan_replacements(&nodes, &arcs(&shards)), []);
}

#[test]
fn a_newcomer_that_is_lost_on_its_way_is_replaced_and_nothing_else_meanwhile() {
    let mut changing = shard(1, &[1, 2, 3]);
    replace(&mut changing, Incarnation(1012), NodeId(4), Incarnation(2000));
    let names = |third, fourth| {
        vec![
            node(1, "a", NodeState::Active),
            node(2, "b", NodeState::Removed),
            node(3, "c", NodeState::Removed),
            node(4, "c", third),
            node(5, "c", fourth),
            node(6, "b", NodeState::Active),
        ]
    };
    let plan = |nodes: Vec<Arc<NodeEntity>>| {
        written(&plan_replacements(&nodes, &arcs(std::slice::from_ref(&changing))))
    };
    assert!(plan(names(NodeState::Active, NodeState::Removed)).is_empty());
    assert_eq!(plan(names(NodeState::Removed, NodeState::Active)), ["1: 2000 -> 5"]);
}

fn ids(list: &[u64]) -> Vec<Incarnation> {
    list.iter().copied().map(Incarnation).collect()
}

/// The group of `shard(1, &[1, 2, 3])` under its first replica.
fn group(learners: &[u64], matched: u64) -> GroupView {
    let member = |id: u64, matched| Progress {
        incarnation: Incarnation(id),
        matched,
        is_active: true,
        awaits_snapshot: false,
    };
    let mut progress = vec![member(1011, 5000), member(1012, 5000)];
    progress.extend(learners.iter().map(|id| member(*id, matched)));
    GroupView {
        leader: Incarnation(1010),
        voters: ids(&[1010, 1011, 1012]),
        learners: ids(learners),
        is_settled: true,
        last_index: 5000,
        progress,
        ..GroupView::default()
    }
}

#[test]
fn a_learner_is_promoted_once_it_is_there_and_has_caught_up() {
    let mut entity = shard(1, &[1, 2, 3]);
    assert_eq!(next_step(&entity, &group(&[], 0), false), None, "nothing is to change");
    replace(&mut entity, Incarnation(1012), NodeId(4), Incarnation(2000));
    let step = |group: &GroupView| next_step(&entity, group, false);
    assert_eq!(step(&group(&[], 0)), Some(Step::AddLearner(Incarnation(2000), NodeId(4))));
    assert_eq!(step(&group(&[2000], 5000 - CATCH_UP_ENTRIES_MAX - 1)), None);
    let ready = group(&[2000], 5000 - CATCH_UP_ENTRIES_MAX);
    let joint = Step::EnterJoint { promote: ids(&[2000]), remove: ids(&[1012]) };
    assert_eq!(step(&ready), Some(joint.clone()));
    let changed = |change: fn(&mut Progress)| {
        let mut group = ready.clone();
        change(group.progress.last_mut().expect("the learner"));
        step(&group)
    };
    assert_eq!(changed(|learner| learner.is_active = false), None);
    assert_eq!(changed(|learner| learner.awaits_snapshot = true), None);
    // The directory's own group proves its next trust bundle first.
    let system = ShardEntity { id: GroupId::SYSTEM, ..entity.clone() };
    assert_eq!(next_step(&system, &ready, false), Some(Step::StoreLink));
    assert_eq!(next_step(&system, &ready, true), Some(joint));
}

#[test]
fn a_leader_that_leaves_hands_over_first() {
    let mut entity = shard(1, &[1, 2, 3]);
    replace(&mut entity, Incarnation(1010), NodeId(4), Incarnation(2000));
    let mut group = group(&[2000], 5000);
    group.progress[0].matched = 4999;
    assert_eq!(next_step(&entity, &group, false), Some(Step::Transfer(Incarnation(1012))));
    group.progress[1].is_active = false;
    assert_eq!(next_step(&entity, &group, false), Some(Step::Transfer(Incarnation(1011))));
    group.progress[0].is_active = false;
    assert_eq!(next_step(&entity, &group, false), None, "nobody is there to take over");
    (group.voters, group.voters_outgoing) = (ids(&[1011, 1012, 2000]), ids(&[1010, 1011, 1012]));
    assert_eq!(next_step(&entity, &group, false), Some(Step::Transfer(Incarnation(2000))));
    group.leader = Incarnation(2000);
    assert_eq!(next_step(&entity, &group, false), Some(Step::LeaveJoint));
}

#[test]
fn a_change_is_done_once_no_crash_can_take_it_back() {
    let mut entity = shard(1, &[1, 2, 3]);
    replace(&mut entity, Incarnation(1012), NodeId(4), Incarnation(2000));
    let mut group = group(&[], 5000);
    group.voters = ids(&[1010, 1011, 2000]);
    group.is_settled = false;
    assert_eq!(next_step(&entity, &group, false), None);
    group.is_settled = true;
    assert_eq!(next_step(&entity, &group, false), Some(Step::Finish(Incarnation(1012))));
}

#[test]
fn strays_go_and_an_older_copy_of_the_entity_stands_still() {
    let mut entity = shard(1, &[1, 2, 3]);
    assert_eq!(next_step(&entity, &group(&[2000], 0), false), None, "2000 is newer than the copy");
    replace(&mut entity, Incarnation(1012), NodeId(4), Incarnation(2000));
    replace(&mut entity, Incarnation(2000), NodeId(5), Incarnation(2001));
    let step = next_step(&entity, &group(&[2000], 5000), false);
    assert_eq!(step, Some(Step::RemoveLearner(Incarnation(2000))));
    // It got its vote just before: it leaves with the one that it came for.
    let mut group = group(&[2001], 5000);
    group.voters = ids(&[1010, 1011, 2000]);
    let joint = Step::EnterJoint { promote: ids(&[2001]), remove: ids(&[2000]) };
    assert_eq!(next_step(&entity, &group, false), Some(joint));
}

/// What may happen between two looks of the leader.
#[derive(Clone, Debug)]
enum Happening {
    /// The learner's log moves on by so many entries, or its snapshot begins or ends.
    Progress(u64),
    Snapshot(bool),
    /// A member goes or comes back.
    Activity(prop::sample::Index, bool),
    /// Another voter is elected.
    Elected(prop::sample::Index),
    /// Clients write.
    Written(u64),
    /// The newcomer's disk is wiped; the next node takes its place.
    Wiped,
    /// The leader looks at a copy of the entity that is so many changes behind.
    StaleLook(prop::sample::Index),
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0..2000u64).prop_map(Happening::Progress),
        any::<bool>().prop_map(Happening::Snapshot),
        (index(), any::<bool>()).prop_map(|(who, is_active)| Happening::Activity(who, is_active)),
        index().prop_map(Happening::Elected),
        (0..500u64).prop_map(Happening::Written),
        Just(Happening::Wiped),
        index().prop_map(Happening::StaleLook),
    ]
}

/// The directory's entity, its history, and the group as Raft keeps it.
struct Model {
    history: Vec<ShardEntity>,
    group: GroupView,
    is_link_stored: bool,
    next_incarnation: u64,
    next_node: u64,
    founders: BTreeSet<Incarnation>,
    /// The founder that is being replaced.
    replaced: Incarnation,
    finished: usize,
}

impl Model {
    fn new(id: u64, voters: u64, leaving: prop::sample::Index) -> Model {
        let nodes: Vec<u64> = (1..=voters).collect();
        let mut entity = shard(id, &nodes);
        let founders: Vec<Incarnation> =
            entity.replicas.iter().map(|one| one.incarnation).collect();
        let replaced = *leaving.get(&founders);
        let first = entity.clone();
        replace(&mut entity, replaced, NodeId(100), Incarnation(2000));
        let member = |id: &Incarnation| Progress {
            incarnation: *id,
            matched: 1000,
            is_active: true,
            awaits_snapshot: false,
        };
        let group = GroupView {
            leader: founders[0],
            voters: founders.clone(),
            is_settled: true,
            last_index: 1000,
            progress: founders[1..].iter().map(member).collect(),
            ..GroupView::default()
        };
        Model {
            history: vec![first, entity],
            group,
            is_link_stored: false,
            next_incarnation: 2001,
            next_node: 101,
            founders: founders.into_iter().collect(),
            replaced,
            finished: 0,
        }
    }

    fn entity(&self) -> &ShardEntity {
        self.history.last().expect("it has a beginning")
    }

    fn is_settled(&self) -> bool {
        let wanted = self.entity().replicas.iter().map(|one| one.incarnation);
        !self.entity().is_changing()
            && self.group.voters_outgoing.is_empty()
            && self.group.learners.is_empty()
            && self.group.voters.iter().copied().eq(wanted)
    }

    fn look(&mut self, copy: &ShardEntity) {
        if let Some(step) = next_step(copy, &self.group, self.is_link_stored) {
            self.take(copy, step);
        }
    }

    /// Carries a step out as Raft and the directory would, and checks that it is a legal one.
    fn take(&mut self, copy: &ShardEntity, step: Step) {
        let group = &mut self.group;
        let is_joint = !group.voters_outgoing.is_empty();
        match step {
            Step::AddLearner(id, node) => {
                assert!(!is_joint && !group.voters.contains(&id) && !group.learners.contains(&id));
                assert!(copy.replicas.iter().any(|one| (one.incarnation, one.node) == (id, node)));
                group.learners.push(id);
                let (is_active, awaits_snapshot) = (true, true);
                group.progress.push(Progress {
                    incarnation: id,
                    matched: 0,
                    is_active,
                    awaits_snapshot,
                });
            }
            Step::RemoveLearner(id) => {
                assert!(!is_joint && group.learners.contains(&id));
                group.learners.retain(|one| *one != id);
                group.progress.retain(|one| one.incarnation != id);
            }
            Step::EnterJoint { promote, remove } => self.enter_joint(&promote, &remove),
            Step::LeaveJoint => {
                assert!(is_joint && group.voters.contains(&group.leader));
                group.voters_outgoing.clear();
                let voters = group.voters.clone();
                group.progress.retain(|one| voters.contains(&one.incarnation));
            }
            Step::StoreLink => {
                assert!(copy.id == GroupId::SYSTEM && !self.is_link_stored);
                self.is_link_stored = true;
            }
            Step::Transfer(to) => {
                assert!(group.voters.contains(&to), "only a voter leads");
                self.elect(to);
            }
            Step::Finish(old) => self.finish(copy.epoch, old),
        }
    }

    /// The directory refuses what was decided on an older copy: the newcomer may be another one by now.
    fn finish(&mut self, epoch: u64, old: Incarnation) {
        let mut entity = self.entity().clone();
        if entity.epoch != epoch {
            return;
        }
        if entity.leaving().is_some_and(|one| one.incarnation == old) {
            let wanted = entity.replicas.iter().filter(|one| one.in_new_set);
            assert!(wanted.map(|one| one.incarnation).eq(self.group.voters.iter().copied()));
            assert!(self.group.voters_outgoing.is_empty());
            self.finished += 1;
        }
        finish(&mut entity, old);
        self.history.push(entity);
    }

    fn enter_joint(&mut self, promote: &[Incarnation], remove: &[Incarnation]) {
        let is_system = self.entity().id == GroupId::SYSTEM;
        assert!(!is_system || self.is_link_stored, "the next bundle is proved in time");
        let group = &mut self.group;
        assert!(group.voters_outgoing.is_empty());
        assert!(!remove.contains(&group.leader), "the leader hands over first");
        assert!(!promote.is_empty(), "nobody leaves without somebody coming");
        assert!(promote.len() >= remove.len(), "somebody votes in place of each who leaves");
        for id in promote {
            let learner = group.progress.iter().find(|one| one.incarnation == *id);
            let learner = learner.expect("only members are promoted");
            assert!(group.learners.contains(id) && !learner.awaits_snapshot);
            assert!(learner.matched + CATCH_UP_ENTRIES_MAX >= group.last_index);
        }
        for id in remove {
            let stays = self.founders.contains(id) && *id != self.replaced;
            assert!(!stays, "a voter that nobody asked to leave is never removed");
        }
        group.voters_outgoing = group.voters.clone();
        group.learners.retain(|one| !promote.contains(one));
        group.voters.retain(|one| !remove.contains(one));
        group.voters.extend(promote);
        group.voters.sort_unstable();
    }

    fn elect(&mut self, id: Incarnation) {
        let group = &mut self.group;
        let old = group.leader;
        if id == old {
            return;
        }
        let matched = group.last_index;
        group.progress.retain(|one| one.incarnation != id);
        let (is_active, awaits_snapshot) = (true, false);
        group.progress.push(Progress { incarnation: old, matched, is_active, awaits_snapshot });
        group.leader = id;
    }

    fn happens(&mut self, happening: &Happening) {
        let group = &mut self.group;
        match happening {
            Happening::Progress(entries) => {
                let last = group.last_index;
                for one in group.progress.iter_mut().filter(|one| one.is_active) {
                    one.matched = (one.matched + entries).min(last);
                }
            }
            Happening::Snapshot(awaits) => {
                let learners = group.learners.clone();
                let members = group.progress.iter_mut();
                members
                    .filter(|one| learners.contains(&one.incarnation))
                    .for_each(|one| one.awaits_snapshot = *awaits);
            }
            Happening::Activity(who, is_active) => {
                let count = group.progress.len();
                if count > 0 {
                    group.progress[who.index(count)].is_active = *is_active;
                }
            }
            Happening::Elected(who) => {
                let mut voters = [&group.voters[..], &group.voters_outgoing].concat();
                voters.sort_unstable();
                voters.dedup();
                let elected = *who.get(&voters);
                self.elect(elected);
            }
            Happening::Written(entries) => group.last_index += entries,
            Happening::Wiped => self.wipe_newcomer(),
            Happening::StaleLook(which) => {
                let copy = which.get(&self.history).clone();
                self.look(&copy);
            }
        }
    }

    /// The newcomer is gone for good and somebody else comes in its place, at most three times.
    fn wipe_newcomer(&mut self) {
        let mut entity = self.entity().clone();
        let Some(lost) = entity.incoming().map(|one| one.incarnation) else { return };
        if self.next_incarnation > 2003 {
            return;
        }
        let (node, incarnation) = (NodeId(self.next_node), Incarnation(self.next_incarnation));
        (self.next_node, self.next_incarnation) = (self.next_node + 1, self.next_incarnation + 1);
        replace(&mut entity, lost, node, incarnation);
        self.history.push(entity);
        // Another voter set, another bundle, another link.
        self.is_link_stored = false;
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_group_ends_with_the_voters_of_its_entity(
        id in 0..=1u64,
        voters in 2..=5u64,
        leaving in any::<prop::sample::Index>(),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut model = Model::new(id, voters, leaving);
        for happening in &happenings {
            model.happens(happening);
            let current = model.entity().clone();
            model.look(&current);
        }
        // From here on all is well: everybody is there and catches up.
        for _ in 0..20 {
            let last = model.group.last_index;
            for one in &mut model.group.progress {
                (one.matched, one.is_active, one.awaits_snapshot) = (last, true, false);
            }
            let current = model.entity().clone();
            model.look(&current);
        }
        prop_assert!(model.is_settled(), "{:?} {:?}", model.entity(), model.group);
        prop_assert_eq!(model.finished, 1);
        prop_assert_eq!(model.group.voters.len() as u64, voters);
        prop_assert!(!model.group.voters.contains(&model.replaced));
        let current = model.entity().clone();
        prop_assert_eq!(next_step(&current, &model.group, false), None);
    }
}
