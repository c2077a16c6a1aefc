//! Replacements as scripts, from a wiped disk to the tombstone.

use ledger_proof::system_entity::{NodeEntity, SystemEntity};
use ledger_proof::trust::Threshold;

use super::super::script::{Script, TIME_NS, run};
use super::*;

const WIPED: &str = "found a b c         => founded
                     shards 2 factor=3   => 2 shards, new: 1 2
                     register c store=z  => node 4 created";

#[test]
fn a_replica_is_replaced_in_two_commands() {
    let mut script = Script::new(WIPED);
    script.run(
        "replace 1 1002 node=4  => shard 1 epoch 2 takes in 1006
         get shard/1            => shard 1 epoch 2: 1000@1(old,new) 1001@2(old,new) 1002@3(old) 1006@4(new,learner,added)
         get shard/2            => shard 2 epoch 1: 1003@1 1004@2 1005@3
         get sequence/incarnation => next 1007
         finish 1 1002 epoch=2  => shard 1 epoch 3 is settled
         get shard/1            => shard 1 epoch 3: 1000@1 1001@2 1006@4(new,added)
         get tombstone/1/1002   => 1002 of shard 1 was on node 3
         finish 1 1002 epoch=2  => shard 1 epoch 3 is settled, nothing changed
         replace 1 1006 node=3  => refused: node 3 takes no replicas
         replace 2 1005 node=4  => shard 2 epoch 2 takes in 1007
         keys bundle            => bundle/1",
    );
}

#[test]
fn only_what_can_be_replaced_is() {
    let mut script = Script::new(WIPED);
    script.run(
        "replace 9 1002 node=4  => refused: shard 9 is not a shard of this cluster
         replace 1 1005 node=4  => refused: shard 1 has no replica 1005
         replace 1 1002 node=9  => refused: node 9 does not exist
         replace 1 1002 node=3  => refused: node 3 takes no replicas
         replace 1 1002 node=2  => refused: shard 1 has a replica on node 2 already
         finish 9 1002 epoch=1  => refused: shard 9 is not a shard of this cluster
         finish 1 1002 epoch=1  => refused: replica 1002 of shard 1 is not leaving
         finish 1 7 epoch=1     => refused: shard 1 has no replica 7
         replace 1 1002 node=4  => shard 1 epoch 2 takes in 1006
         register d store=d     => node 5 created
         replace 1 1001 node=5  => refused: the members of shard 1 are changing
         replace 1 1006 node=5  => refused: the members of shard 1 are changing
         finish 1 1001 epoch=2  => refused: replica 1001 of shard 1 is not leaving
         finish 1 1006 epoch=2  => refused: replica 1006 of shard 1 is not leaving
         get sequence/incarnation => next 1007",
    );
    script.set_node_state(NodeId(5), NodeState::Draining);
    script.run("replace 2 1005 node=5  => refused: node 5 takes no replicas");
}

#[test]
fn a_newcomer_that_is_wiped_on_its_way_makes_room_for_the_next() {
    let mut script = Script::new(WIPED);
    script.run(
        "replace 1 1002 node=4  => shard 1 epoch 2 takes in 1006
         register c store=y     => node 5 created
         get node/4             => node 4 c c:1 Removed
         replace 1 1006 node=5  => shard 1 epoch 3 takes in 1007
         get shard/1            => shard 1 epoch 3: 1000@1(old,new) 1001@2(old,new) 1002@3(old) 1007@5(new,learner,added)
         get tombstone/1/1006   => 1006 of shard 1 was on node 4
         finish 1 1002 epoch=2  => refused: shard 1 is at epoch 3
         finish 1 1002 epoch=3  => shard 1 epoch 4 is settled
         get shard/1            => shard 1 epoch 4: 1000@1 1001@2 1007@5(new,added)
         keys tombstone/        => tombstone/1/1002 tombstone/1/1006",
    );
}

#[test]
fn a_change_of_the_directorys_voters_makes_the_next_bundle() {
    let mut script = Script::new(WIPED);
    script.run(
        "replace 0 3 node=4  => shard 0 epoch 2 takes in 1006
         get bundle/2        => bundle 2: a@1 b@2 c@4
         finish 0 3 epoch=2  => shard 0 epoch 3 is settled
         keys bundle/        => bundle/1 bundle/2
         register c store=y  => node 5 created
         replace 0 1006 node=5 => shard 0 epoch 4 takes in 1007
         get bundle/3        => bundle 3: a@1 b@2 c@5",
    );
    let bundle = |sequence: u64| {
        let value = script.value(&bundle_key(sequence)).expect("the bundle is there");
        TrustBundle::decode(value).expect("a well-formed bundle")
    };
    let (first, second) = (bundle(1), bundle(2));
    assert!(!first.is_lowered_by(&second), "a client needs to consent to nothing");
    assert_eq!((second.threshold, second.floor), (Threshold::Majority, 1));
    assert_eq!(second.issued_at, TIME_NS / NS_PER_SECOND);
    assert_eq!(second.expires_at - second.issued_at, BUNDLE_LIFE_SECONDS);
    assert_eq!(second.voters[..2], first.voters[..2]);
    let node = script.value("node/4").expect("node 4");
    let node = NodeEntity::decode(node).expect("a node");
    assert_eq!(second.voters[2].public_key, node.public_key);
}

#[test]
fn a_bundle_never_names_a_removed_node_or_one_name_twice() {
    run("found a b c          => founded
         register c store=z   => node 4 created
         register d store=d   => node 5 created
         replace 0 2 node=4   => shard 0 epoch 2 takes in 1000
         get bundle/2         => bundle 2: a@1 c@4
         finish 0 2 epoch=2   => shard 0 epoch 3 is settled
         replace 0 3 node=5   => shard 0 epoch 4 takes in 1001
         get bundle/3         => bundle 3: a@1 c@4 d@5");
}

#[test]
fn a_shard_lists_a_bounded_number_of_replicas() {
    let mut script = Script::new(WIPED);
    let value = script.value("shard/1").expect("shard 1");
    let mut shard = ShardEntity::decode(value).expect("a shard");
    for number in shard.replicas.len()..REPLICAS_MAX {
        let (node, incarnation) =
            (NodeId(100 + number as u64), Incarnation(1_000_000 + number as u64));
        shard.replicas.push(ShardReplica { node, incarnation, ..shard.replicas[0] });
    }
    script.put("shard/1", &shard);
    script.run("replace 1 1002 node=4 => refused: shard 1 has no room for another replica");
}
