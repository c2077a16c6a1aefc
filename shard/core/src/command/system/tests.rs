//! Directory commands as scripts: what is asked, what is answered, what is set.

use ledger_types::{NamespaceId, StoreId, VaultId};

use super::script::{Script, founded_by};
use super::*;

fn every_command() -> Vec<SystemCommand> {
    let node = RegisterNode {
        name: "n-4".to_owned(),
        store_id: StoreId([4; 16]),
        public_key: [5; 32],
        address: "10.0.0.4:50051".to_owned(),
        zone: "east".to_owned(),
    };
    let retention =
        Retention { mode: ledger_proof::system_entity::RetentionMode::KeepBlocks, blocks: 9 };
    let (namespace, name) = (NamespaceId(6), "acme".to_owned());
    let vault = Some(VaultId(7));
    vec![
        SystemCommand::Found(founded_by(&["a", "b", "c"])),
        SystemCommand::RegisterNode(node),
        SystemCommand::CreateShards(CreateShards { count: 8, replication_factor: 3 }),
        SystemCommand::CreateNamespace(CreateNamespace { name: name.clone(), shard: None }),
        SystemCommand::CreateNamespace(CreateNamespace { name, shard: Some(GroupId(2)) }),
        SystemCommand::CreateVault(CreateVault {
            namespace,
            vault: None,
            retention: Retention::KEEP_ALL,
        }),
        SystemCommand::CreateVault(CreateVault { namespace, vault, retention }),
        SystemCommand::VaultActive(VaultActive {
            vault: VaultRef::new(6, 7),
            owner_epoch: OwnerEpoch(1),
        }),
        SystemCommand::ReplaceReplica(ReplaceReplica {
            shard: GroupId(2),
            old: Incarnation(1003),
            node: NodeId(4),
        }),
        SystemCommand::FinishReplacement(FinishReplacement {
            shard: GroupId(2),
            old: Incarnation(1003),
            epoch: 5,
        }),
        SystemCommand::StoreBundleLink(StoreBundleLink { sequence: 2, link: vec![0xab, 0xcd] }),
        SystemCommand::DeleteVault(DeleteVault { vault: VaultRef::new(6, 7) }),
        SystemCommand::DeleteNamespace(DeleteNamespace { namespace }),
        SystemCommand::VaultDeleted(VaultDeleted {
            vault: VaultRef::new(6, 7),
            owner_epoch: OwnerEpoch(1),
        }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bodies_round_trip_and_refuse_damage() {
    for command in every_command() {
        let body = command.encode().expect("a legal command");
        assert_eq!(SystemCommand::decode(&body).as_ref(), Ok(&command));
        for end in 0..body.len() {
            assert!(SystemCommand::decode(&body[..end]).is_err(), "{command:?} cut at {end}");
        }
        assert!(SystemCommand::decode(&[&body[..], &[0]].concat()).is_err());
        for (offset, mask) in (0..body.len()).flat_map(|at| [1, 0x80].map(|mask| (at, mask))) {
            let mut damaged = body.clone();
            damaged[offset] ^= mask;
            if let Ok(other) = SystemCommand::decode(&damaged) {
                assert_eq!(other.encode().as_deref(), Ok(&damaged[..]), "one encoding per command");
            }
        }
    }
}

#[test]
fn bodies_are_fixed() {
    let commands = every_command();
    let body = |number: usize| hex(&commands[number].encode().expect("a legal command"));
    assert_eq!(body(2), "030000000803");
    assert_eq!(body(3), "04000461636d6500");
    assert_eq!(body(4), "04000461636d65010000000000000002");
    assert_eq!(body(5), "05000000000000000600010000000000000000");
    assert_eq!(body(6), "050000000000000006010000000000000007020000000000000009");
    assert_eq!(body(7), "06000000000000000600000000000000070000000000000001");
    assert_eq!(body(8), "07000000000000000200000000000003eb0000000000000004");
    assert_eq!(body(9), "08000000000000000200000000000003eb0000000000000005");
    assert_eq!(body(10), "09000000000000000200000002abcd");
    assert_eq!(body(11), "0a00000000000000060000000000000007");
    assert_eq!(body(12), "0b0000000000000006");
    assert_eq!(body(13), "0c000000000000000600000000000000070000000000000001");
    let node = format!("0200036e2d34{}{}", "04".repeat(16), "05".repeat(32));
    assert_eq!(body(1), format!("{node}000e31302e302e302e343a3530303531000465617374"));
}

#[test]
fn unknown_kinds_and_damaged_entities_are_faults() {
    let script = Script::default();
    let fault = plan(&[99], 0, &script).expect_err("kind 99 means nothing");
    assert!(matches!(fault, SystemFault::Command(DecodeError::UnknownValue { value: 99, .. })));
    assert!(plan(&[], 0, &script).is_err());
    let mut script = Script::new("found a => founded");
    script.put("sequence/node", &entity::ShardByLoadEntity { shard: GroupId(1) });
    script.put("cluster", &entity::SettingEntity { value: 1 });
    let body = every_command()[1].encode().expect("a legal command");
    let fault = plan(&body, 0, &script).expect_err("the cluster entity is damaged");
    assert!(matches!(fault, SystemFault::Entity { key, .. } if key == "cluster"));
}

#[test]
fn texts_are_checked_before_they_enter_the_log() {
    let node = |name: &str, address: &str, zone: &str| {
        SystemCommand::RegisterNode(RegisterNode {
            name: name.to_owned(),
            store_id: StoreId([1; 16]),
            public_key: [1; 32],
            address: address.to_owned(),
            zone: zone.to_owned(),
        })
        .encode()
    };
    assert!(node("n-1", "[::1]:50051", "").is_ok());
    assert!(node("n_1", "h:1", "").is_err());
    assert!(node("n-1", "", "").is_err());
    assert!(node("n-1", "h 1", "").is_err());
    assert!(node("n-1", "h:1", "East 1").is_err());
    assert!(node("n-1", &"h".repeat(ADDRESS_BYTES_MAX + 1), "").is_err());
    let error = SystemCommand::CreateShards(CreateShards { count: 1, replication_factor: 0 });
    let error = error.encode().expect_err("no replicas").to_string();
    assert_eq!(error, "replication_factor must be from 1 to 64");
}
