//! Values and keys of the directory, byte by byte.

use std::fmt::Debug;

use super::*;

fn round_trips<E: SystemEntity + PartialEq + Debug>(entity: &E) {
    let bytes = entity.encode();
    assert_eq!(E::decode(&bytes).as_ref(), Ok(entity));
    for len in 0..bytes.len() {
        assert!(E::decode(&bytes[..len]).is_err(), "{} cut at {len}", E::KIND);
    }
    assert!(E::decode(&[&bytes[..], &[0]].concat()).is_err());
    for (offset, mask) in (0..bytes.len()).flat_map(|at| [1, 0x80].map(|mask| (at, mask))) {
        let mut mutated = bytes.clone();
        mutated[offset] ^= mask;
        if let Ok(other) = E::decode(&mutated) {
            assert_ne!(&other, entity, "{} byte {offset}", E::KIND);
            assert_eq!(other.encode(), mutated);
        }
    }
}

fn replica(number: u64, in_old_set: bool, in_new_set: bool) -> ShardReplica {
    let (node, incarnation) = (NodeId(number), Incarnation(number * 10));
    let role = ReplicaRole::Voter;
    ShardReplica { node, incarnation, role, in_old_set, in_new_set, is_added: false }
}

fn added(number: u64) -> ShardReplica {
    ShardReplica { role: ReplicaRole::Learner, is_added: true, ..replica(number, false, true) }
}

#[test]
fn values_are_canonical() {
    round_trips(&ClusterEntity {
        id: ClusterId([1; 16]),
        domain: "a.ledger".into(),
        feature_level: 1,
    });
    round_trips(&NodeEntity {
        id: NodeId(1),
        name: "node-1".into(),
        store_id: StoreId([2; 16]),
        address: "127.0.0.1:7400".into(),
        public_key: [3; 32],
        state: NodeState::Active,
        zone: "z".into(),
    });
    let replicas = vec![replica(1, true, true), replica(2, true, false), replica(3, false, true)];
    round_trips(&ShardEntity { id: GroupId(4), epoch: 5, replicas });
    round_trips(&TombstoneEntity {
        shard: GroupId(2),
        incarnation: Incarnation(3),
        node: NodeId(4),
        store_id: StoreId([5; 16]),
        removed_at_ns: 6,
    });
    round_trips(&VaultEntity {
        vault: VaultRef::new(1, 2),
        shard: GroupId(1),
        owner_epoch: OwnerEpoch(3),
        log_epoch: 0,
        state: VaultState::Active,
        created_at_ns: 9,
        retention: RetentionMode::KeepBlocks,
        retention_blocks: 100,
    });
    round_trips(&NamespaceEntity {
        id: NamespaceId(1),
        name: "acme".into(),
        state: NamespaceState::Active,
        created_at_ns: 9,
        config_version: 1,
    });
    round_trips(&NamespaceNameEntity { id: NamespaceId(1) });
    round_trips(&SequenceEntity { next: 7 });
}

#[test]
fn voter_sets_are_both_while_members_change() {
    let settled = vec![replica(1, false, true), replica(2, false, true)];
    let settled = ShardEntity { id: GroupId(1), epoch: 1, replicas: settled };
    assert_eq!(settled.voter_sets(), [[NodeId(1), NodeId(2)]]);
    let changing = vec![replica(1, true, true), replica(2, true, false), replica(3, false, true)];
    let changing = ShardEntity { id: GroupId(1), epoch: 2, replicas: changing };
    let sets = [[NodeId(1), NodeId(3)], [NodeId(1), NodeId(2)]];
    assert_eq!(changing.voter_sets(), sets);
}

#[test]
fn the_sets_of_a_replica_are_three_bits() {
    let shard = |replica| ShardEntity { id: GroupId(1), epoch: 2, replicas: vec![replica] };
    let last = |replica| shard(replica).encode().pop();
    assert_eq!(last(replica(1, true, false)), Some(1));
    assert_eq!(last(replica(1, true, true)), Some(3));
    assert_eq!(last(replica(1, false, true)), Some(2), "founding replicas keep their bytes");
    assert_eq!(last(added(1)), Some(6));
    round_trips(&shard(added(1)));
    let mut unknown = shard(added(1)).encode();
    *unknown.last_mut().expect("a value has bytes") = 8;
    let error = DecodeError::UnknownValue { field: "replica sets", value: 8 };
    assert_eq!(ShardEntity::decode(&unknown), Err(error));
}

#[test]
fn a_replica_on_its_way_is_in_the_new_set_before_it_votes() {
    let replicas =
        vec![replica(1, true, true), replica(2, true, true), replica(3, true, false), added(4)];
    let shard = ShardEntity { id: GroupId(1), epoch: 2, replicas };
    let sets = [[NodeId(1), NodeId(2), NodeId(4)], [NodeId(1), NodeId(2), NodeId(3)]];
    assert_eq!(shard.voter_sets(), sets);
    assert_eq!(shard.leaving().map(|replica| replica.node), Some(NodeId(3)));
    assert_eq!(shard.incoming().map(|replica| replica.node), Some(NodeId(4)));
    assert_eq!(shard.replica_on(NodeId(3)).map(|replica| replica.incarnation.0), Some(30));
}

#[test]
fn keys_are_the_documented_text() {
    assert_eq!(node_key(NodeId(7)), "node/7");
    assert_eq!(shard_key(GroupId(0)), "shard/0");
    assert_eq!(vault_key(VaultRef::new(1, 2)), "vault/1/2");
    assert_eq!(bundle_key(3), "bundle/3");
    assert_eq!(bundle_link_key(3), "bundle-link/3");
    assert_eq!(tombstone_key(GroupId(2), Incarnation(1001)), "tombstone/2/1001");
    assert_eq!(namespace_key(NamespaceId(4)), "namespace/4");
    assert_eq!(namespace_name_key("acme"), "namespace-name/acme");
    assert_eq!(sequence_key("node"), "sequence/node");
}
