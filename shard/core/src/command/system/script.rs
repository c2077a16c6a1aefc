//! Tests as scripts: one command a line, and behind the arrow what it answers.

use std::collections::BTreeMap;

use ledger_proof::system_entity::{
    ClusterEntity, NamespaceEntity, NamespaceNameEntity, NamespaceState, NodeEntity, NodeState,
    ReplicaRole, RetentionMode, SequenceEntity, ShardEntity, ShardReplica, SystemEntity,
    TombstoneEntity, VaultEntity, VaultState, namespace_key, node_key, vault_key,
};
use ledger_proof::trust::{Threshold, TrustBundle};
use ledger_types::{
    ClusterId, GroupId, Incarnation, NamespaceId, NodeId, Operation, OwnerEpoch, StoreId, VaultId,
    VaultRef,
};

use super::entity::{DeletionEntity, PendingEntity, SettingEntity, ShardVaultsEntity};
use super::*;

/// The time of every entry in a script.
pub(super) const TIME_NS: u64 = 1_700_000_000_000_000_000;

#[derive(Default)]
pub(super) struct Script {
    entities: BTreeMap<String, Vec<u8>>,
}

impl EntityView for Script {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(self.entities.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        for (key, value) in self.entities.range(prefix.to_owned()..) {
            if !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

/// Runs a script on an empty directory.
pub(super) fn run(script: &str) {
    Script::default().run(script);
}

impl Script {
    pub(super) fn new(script: &str) -> Script {
        let mut new = Script::default();
        new.run(script);
        new
    }

    pub(super) fn run(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (step, expected) = line.split_once("=>").expect("step => answer");
            assert_eq!(self.step(step), expected.trim(), "{line}");
        }
    }

    pub(super) fn put(&mut self, key: &str, entity: &impl SystemEntity) {
        self.entities.insert(key.to_owned(), entity.encode());
    }

    pub(super) fn set_vault_state(&mut self, vault: VaultRef, state: VaultState) {
        let key = vault_key(vault);
        let entity = VaultEntity::decode(&self.entities[&key]).expect("a vault");
        self.put(&key, &VaultEntity { state, ..entity });
    }

    pub(super) fn set_node_state(&mut self, id: NodeId, state: NodeState) {
        let key = node_key(id);
        let entity = NodeEntity::decode(&self.entities[&key]).expect("a node");
        self.put(&key, &NodeEntity { state, ..entity });
    }

    pub(super) fn set_namespace_state(&mut self, id: NamespaceId, state: NamespaceState) {
        let key = namespace_key(id);
        let entity = NamespaceEntity::decode(&self.entities[&key]).expect("a namespace");
        self.put(&key, &NamespaceEntity { state, ..entity });
    }

    /// Plans a command, takes its operations in and tells the answer in words.
    pub(super) fn command(&mut self, command: &SystemCommand) -> String {
        let body = command.encode().expect("scripts hold legal commands");
        assert_eq!(SystemCommand::decode(&body).as_ref(), Ok(command));
        let planned = plan(&body, TIME_NS, self).expect("scripts hold no faults");
        let again = plan(&body, TIME_NS, self).expect("a plan changes nothing by itself");
        assert_eq!(planned, again);
        let unchanged = planned.operations.is_empty();
        let mut last = String::new();
        for operation in planned.operations {
            let key = self.apply(operation);
            assert!(last < key, "operations are in key order, one per key");
            last = key;
        }
        answer(&planned.result, unchanged)
    }

    fn apply(&mut self, operation: Operation) -> String {
        match operation {
            Operation::SetEntity { key, value, expires_at: 0, condition: None } => {
                self.entities.insert(key.clone(), value);
                key
            }
            Operation::DeleteEntity { key } => {
                assert!(self.entities.remove(&key).is_some(), "only what is there is deleted");
                key
            }
            other => panic!("the directory never does this: {other:?}"),
        }
    }

    fn step(&mut self, step: &str) -> String {
        let (options, words): (Vec<&str>, Vec<&str>) =
            step.split_whitespace().partition(|word| word.contains('='));
        let option =
            |name: &str| options.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| option(name).map(|text| text.parse().expect("a number"));
        let command = match words[..] {
            ["get", key] => return self.show(key),
            ["keys", prefix] => {
                let keys = self.entities.keys().filter(|key| key.starts_with(prefix));
                return keys.map(String::as_str).collect::<Vec<_>>().join(" ");
            }
            ["found", ..] => SystemCommand::Found(founded_by(&words[1..])),
            ["register", name] => {
                let store = option("store").expect("every node has a store");
                let mut node = node(name, store, option("key").unwrap_or(store));
                node.address = option("address").map_or(node.address, str::to_owned);
                node.zone = option("zone").unwrap_or_default().to_owned();
                SystemCommand::RegisterNode(node)
            }
            ["shards", count] => SystemCommand::CreateShards(CreateShards {
                count: count.parse().expect("a number"),
                replication_factor: number("factor").expect("a factor") as u8,
            }),
            ["namespace", name] => SystemCommand::CreateNamespace(CreateNamespace {
                name: name.to_owned(),
                shard: number("on").map(GroupId),
            }),
            ["vault", namespace] => SystemCommand::CreateVault(CreateVault {
                namespace: NamespaceId(namespace.parse().expect("a number")),
                vault: number("id").map(VaultId),
                retention: match number("keep") {
                    Some(blocks) => Retention { mode: RetentionMode::KeepBlocks, blocks },
                    None => Retention::KEEP_ALL,
                },
            }),
            ["replace", shard, old] => SystemCommand::ReplaceReplica(ReplaceReplica {
                shard: GroupId(shard.parse().expect("a number")),
                old: Incarnation(old.parse().expect("a number")),
                node: NodeId(number("node").expect("a node")),
            }),
            ["finish", shard, old] => SystemCommand::FinishReplacement(FinishReplacement {
                shard: GroupId(shard.parse().expect("a number")),
                old: Incarnation(old.parse().expect("a number")),
                epoch: number("epoch").expect("an epoch"),
            }),
            ["link", sequence, text] => SystemCommand::StoreBundleLink(StoreBundleLink {
                sequence: sequence.parse().expect("a number"),
                link: text.as_bytes().to_vec(),
            }),
            ["delete-vault", vault] => {
                SystemCommand::DeleteVault(DeleteVault { vault: vault_named(vault) })
            }
            ["delete-namespace", namespace] => SystemCommand::DeleteNamespace(DeleteNamespace {
                namespace: NamespaceId(namespace.parse().expect("a number")),
            }),
            ["deleted", vault] => SystemCommand::VaultDeleted(VaultDeleted {
                vault: vault_named(vault),
                owner_epoch: OwnerEpoch(number("epoch").expect("an epoch")),
            }),
            ["active", vault] => SystemCommand::VaultActive(VaultActive {
                vault: vault_named(vault),
                owner_epoch: OwnerEpoch(number("epoch").expect("an epoch")),
            }),
            _ => panic!("unknown step: {step}"),
        };
        self.command(&command)
    }

    /// An entity in words.
    fn show(&self, key: &str) -> String {
        let Some(value) = self.entities.get(key) else { return "none".to_owned() };
        let kind = key.split('/').next().unwrap_or_default();
        match kind {
            "cluster" => show(value, |e: ClusterEntity| {
                format!("cluster {} {} level {}", e.id, e.domain, e.feature_level)
            }),
            "node" => show(value, |e: NodeEntity| {
                format!("node {} {} {} {:?}", e.id, e.name, e.address, e.state)
            }),
            "shard" => show(value, |e: ShardEntity| {
                let replicas = e.replicas.iter().map(show_replica).collect::<String>();
                format!("shard {} epoch {}:{replicas}", e.id, e.epoch)
            }),
            "bundle" => {
                let bundle = TrustBundle::decode(value).expect("bundles are well formed");
                let voters = bundle.voters.iter().map(|v| format!(" {}@{}", v.name, v.node));
                format!("bundle {}:{}", bundle.sequence, voters.collect::<String>())
            }
            "bundle-link" => String::from_utf8(value.clone()).expect("scripts link with words"),
            "tombstone" => show(value, |e: TombstoneEntity| {
                assert_eq!(e.removed_at_ns, TIME_NS);
                format!("{} of shard {} was on node {}", e.incarnation, e.shard, e.node)
            }),
            "namespace" => show(value, |e: NamespaceEntity| {
                assert_eq!(e.created_at_ns, TIME_NS);
                format!("namespace {} {} {:?}", e.id, e.name, e.state)
            }),
            "namespace-name" => show(value, |e: NamespaceNameEntity| format!("namespace {}", e.id)),
            "vault" => show(value, |e: VaultEntity| {
                assert_eq!((e.created_at_ns, e.log_epoch), (TIME_NS, 0));
                let keep = match e.retention {
                    RetentionMode::KeepAll => String::new(),
                    RetentionMode::KeepBlocks => format!(" keep {}", e.retention_blocks),
                };
                let VaultEntity { vault, shard, owner_epoch, state, .. } = e;
                format!("vault {vault} on {shard} epoch {owner_epoch} {state:?}{keep}")
            }),
            "pending" => show(value, |e: PendingEntity| {
                format!("pending {} on {} epoch {}", e.vault, e.shard, e.owner_epoch)
            }),
            "deletion" => show(value, |e: DeletionEntity| {
                assert_eq!(e.deleted_at_ns, TIME_NS);
                "deleted".to_owned()
            }),
            "sequence" => show(value, |e: SequenceEntity| format!("next {}", e.next)),
            "setting" => show(value, |e: SettingEntity| e.value.to_string()),
            "shard-vaults" => show(value, |e: ShardVaultsEntity| format!("{} vaults", e.vaults)),
            _ => panic!("no words for {key}"),
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&Vec<u8>> {
        self.entities.get(key)
    }
}

fn show<E: SystemEntity>(value: &[u8], words: impl Fn(E) -> String) -> String {
    words(E::decode(value).expect("entities are well formed"))
}

/// A replica; the usual one, a founding voter of a settled shard, without remarks.
fn show_replica(replica: &ShardReplica) -> String {
    let remarks = [
        ("old", replica.in_old_set),
        ("new", replica.in_new_set),
        ("learner", replica.role == ReplicaRole::Learner),
        ("added", replica.is_added),
    ];
    let remarks: Vec<&str> =
        remarks.iter().filter(|(_, holds)| *holds).map(|(word, _)| *word).collect();
    let ShardReplica { incarnation, node, .. } = replica;
    match remarks[..] {
        ["new"] => format!(" {incarnation}@{node}"),
        _ => format!(" {incarnation}@{node}({})", remarks.join(",")),
    }
}

fn vault_named(text: &str) -> VaultRef {
    let (namespace, vault) = text.split_once('/').expect("namespace/vault");
    VaultRef::new(namespace.parse().expect("a number"), vault.parse().expect("a number"))
}

/// A node whose store and public key are named by a letter.
fn node(name: &str, store: &str, key: &str) -> RegisterNode {
    RegisterNode {
        name: name.to_owned(),
        store_id: StoreId([store.as_bytes()[0]; 16]),
        public_key: [key.as_bytes()[0]; 32],
        address: format!("{name}:1"),
        zone: String::new(),
    }
}

/// A cluster founded by nodes with these names.
pub(super) fn founded_by(names: &[&str]) -> Found {
    Found {
        cluster: ClusterId([0xc1; 16]),
        founded_at_ns: TIME_NS,
        feature_level: 1,
        replication_factor: 3,
        data_shards: 8,
        threshold: Threshold::Majority,
        domain: "test.ledger".to_owned(),
        founders: names.iter().map(|name| node(name, name, name)).collect(),
    }
}

fn answer(result: &SystemResult, unchanged: bool) -> String {
    let suffix = if unchanged { ", nothing changed" } else { "" };
    match result {
        SystemResult::Founded { .. } => "founded".to_owned(),
        SystemResult::NodeRegistered { node, created: true } => format!("node {node} created"),
        SystemResult::NodeRegistered { node, .. } => format!("node {node} known{suffix}"),
        SystemResult::ShardsReady { data_shards, created } => {
            let new = match created[..] {
                [first, .., last] if created.len() > 9 => format!(" {first}..{last}"),
                _ => created.iter().map(|shard| format!(" {shard}")).collect(),
            };
            format!("{data_shards} shards, new:{new}{suffix}")
        }
        SystemResult::NamespaceCreated { namespace, shard, owner_epoch } => {
            assert_eq!(*owner_epoch, FIRST_OWNER_EPOCH);
            format!("namespace {namespace} on shard {shard}")
        }
        SystemResult::VaultPlaced { vault, shard, owner_epoch, pending, created } => {
            let pending = if *pending { " pending" } else { "" };
            let created = if *created { " created" } else { "" };
            format!("vault {vault} on {shard} epoch {owner_epoch}{pending}{created}{suffix}")
        }
        SystemResult::VaultActive { vault, owner_epoch } => {
            format!("active {vault} epoch {owner_epoch}{suffix}")
        }
        SystemResult::VaultDeleting { vault, deleted_at_ns } => {
            assert_eq!(*deleted_at_ns, TIME_NS);
            format!("vault {vault} deleted{suffix}")
        }
        SystemResult::NamespaceDeleting { namespace, deleted_at_ns } => {
            assert_eq!(*deleted_at_ns, TIME_NS);
            format!("namespace {namespace} deleted{suffix}")
        }
        SystemResult::VaultDeleted { vault } => format!("ended {vault}{suffix}"),
        SystemResult::ReplacementBegun { shard, incarnation, epoch } => {
            format!("shard {shard} epoch {epoch} takes in {incarnation}")
        }
        SystemResult::ReplacementFinished { shard, epoch } => {
            format!("shard {shard} epoch {epoch} is settled{suffix}")
        }
        SystemResult::BundleLinkStored { sequence } => format!("link of bundle {sequence}{suffix}"),
        SystemResult::Refused(refusal) => {
            assert!(unchanged, "a refusal leaves nothing behind");
            format!("refused: {refusal}")
        }
    }
}
