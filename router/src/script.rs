//! Entities in words, for tests.

use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceNameEntity, NamespaceState, NodeEntity, NodeState, ReplicaRole,
    RetentionMode, ShardEntity, ShardReplica, SystemEntity, VaultEntity, VaultState, namespace_key,
    namespace_name_key, node_key, shard_key, vault_key,
};
use ledger_types::{GroupId, Incarnation, NamespaceId, NodeId, OwnerEpoch, StoreId, VaultRef};

use crate::EntityChange;

/// Reads one change a line:
/// `node 1 a:1`, `shard 4: 1 2 3` (voters by node), `namespace 1 acme`, `namespace 1 acme Deleted`,
/// `vault 1/2 on 4 epoch 1 Active`, `pending 1/2`, and `gone KEY`.
pub(crate) fn changes(script: &str) -> Vec<EntityChange> {
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.flat_map(|line| change(&line.split_whitespace().collect::<Vec<_>>())).collect()
}

fn change(words: &[&str]) -> Vec<EntityChange> {
    match words {
        ["node", id, address] => vec![node(NodeId(number(id)), address)],
        ["shard", id, nodes @ ..] => vec![shard(GroupId(number(id.trim_end_matches(':'))), nodes)],
        ["namespace", id, name, state @ ..] => {
            let id = NamespaceId(number(id));
            vec![
                namespace(id, name, state),
                put(namespace_name_key(name), &NamespaceNameEntity { id }),
            ]
        }
        ["vault", vault, "on", shard, "epoch", epoch, state] => {
            vec![put_vault(&vault_entity(vault, number(shard), number(epoch), state))]
        }
        ["pending", vault] => {
            vec![EntityChange { key: format!("pending/{vault}"), value: Some(vec![1]) }]
        }
        ["gone", key] => vec![EntityChange { key: (*key).to_owned(), value: None }],
        ["other", key] => vec![EntityChange { key: (*key).to_owned(), value: Some(vec![0xff]) }],
        _ => panic!("unknown change: {words:?}"),
    }
}

pub(crate) fn vault_named(text: &str) -> VaultRef {
    let (namespace, vault) = text.split_once('/').expect("namespace/vault");
    VaultRef::new(number(namespace), number(vault))
}

pub(crate) fn vault_entity(vault: &str, shard: u64, epoch: u64, state: &str) -> VaultEntity {
    VaultEntity {
        vault: vault_named(vault),
        shard: GroupId(shard),
        owner_epoch: OwnerEpoch(epoch),
        log_epoch: 0,
        state: match state {
            "Creating" => VaultState::Creating,
            "Active" => VaultState::Active,
            "Deleting" => VaultState::Deleting,
            "Deleted" => VaultState::Deleted,
            _ => panic!("unknown state: {state}"),
        },
        created_at_ns: 1,
        retention: RetentionMode::KeepAll,
        retention_blocks: 0,
    }
}

pub(crate) fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

fn node(id: NodeId, address: &str) -> EntityChange {
    let entity = NodeEntity {
        id,
        name: format!("n-{id}"),
        store_id: StoreId([id.0 as u8; 16]),
        address: address.to_owned(),
        public_key: [id.0 as u8; 32],
        state: NodeState::Active,
        zone: String::new(),
    };
    put(node_key(id), &entity)
}

fn shard(id: GroupId, nodes: &[&str]) -> EntityChange {
    let replicas = nodes.iter().map(|node| ShardReplica {
        node: NodeId(number(node)),
        incarnation: Incarnation(1000 + id.0 * 10 + number(node)),
        role: ReplicaRole::Voter,
        in_old_set: false,
        in_new_set: true,
        is_added: false,
    });
    put(shard_key(id), &ShardEntity { id, epoch: 1, replicas: replicas.collect() })
}

fn namespace(id: NamespaceId, name: &str, state: &[&str]) -> EntityChange {
    let state = match state {
        [] => NamespaceState::Active,
        ["Deleting"] => NamespaceState::Deleting,
        ["Deleted"] => NamespaceState::Deleted,
        _ => panic!("unknown state: {state:?}"),
    };
    let name = name.to_owned();
    put(
        namespace_key(id),
        &NamespaceEntity { id, name, state, created_at_ns: 1, config_version: 1 },
    )
}

fn put_vault(entity: &VaultEntity) -> EntityChange {
    put(vault_key(entity.vault), entity)
}

fn put(key: String, entity: &impl SystemEntity) -> EntityChange {
    EntityChange { key, value: Some(entity.encode()) }
}
