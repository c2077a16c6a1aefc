//! The typed view follows deltas, notices gaps and refuses damage.

use std::num::NonZeroUsize;

use ledger_proof::system_entity::SystemEntity;

use super::*;
use crate::script::{changes, vault_entity, vault_named};

fn delta(base: u64, revision: u64, script: &str) -> Delta {
    Delta { base, revision, changes: changes(script) }
}

/// A directory at revision 3 with two shards on three nodes.
fn small(scope: VaultScope) -> Directory {
    let directory = Directory::new(scope);
    let entities = changes(
        "node 1 a:1
         node 2 b:1
         node 3 c:1
         shard 0: 1 2 3
         shard 1: 1 2
         shard 2: 2 3
         namespace 1 acme
         namespace 2 globex
         vault 1/0 on 1 epoch 1 Active
         vault 1/1 on 2 epoch 1 Active
         vault 2/0 on 1 epoch 1 Creating
         pending 2/0
         other sequence/node
         other some-later-kind/7",
    );
    assert_eq!(directory.replace(3, &entities), Ok(true));
    directory
}

fn cached(capacity: usize) -> VaultScope {
    VaultScope::Cached(NonZeroUsize::new(capacity).expect("not zero"))
}

fn known(directory: &Directory, vault: &str) -> String {
    match directory.vault(vault_named(vault)) {
        VaultLookup::Known(entity) => {
            format!("on {} epoch {} {:?}", entity.shard, entity.owner_epoch, entity.state)
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn tables_are_read_by_every_key() {
    let directory = small(VaultScope::All);
    assert_eq!(directory.revision(), 3);
    assert_eq!(directory.node(NodeId(2)).expect("node 2").address, "b:1");
    assert_eq!(directory.node_named("n-3").expect("node 3").id, NodeId(3));
    assert_eq!(directory.node_of_store(StoreId([1; 16])).expect("node 1").id, NodeId(1));
    assert_eq!(directory.nodes().len(), 3);
    let groups = |shards: Vec<Arc<ShardEntity>>| shards.iter().map(|s| s.id.0).collect::<Vec<_>>();
    assert_eq!(groups(directory.shards()), [0, 1, 2]);
    assert_eq!(groups(directory.shards_on(NodeId(3))), [0, 2]);
    assert!(directory.shard(GroupId(3)).is_none());
    assert_eq!(directory.namespace(NamespaceId(1)).expect("namespace 1").name, "acme");
    assert_eq!(directory.namespace_named("globex").expect("namespace 2").id, NamespaceId(2));
    assert!(directory.namespace_named("initech").is_none());
    assert_eq!(directory.namespaces(None, 1)[0].id, NamespaceId(1));
    assert_eq!(directory.namespaces(Some(NamespaceId(1)), 9)[0].id, NamespaceId(2));
    assert_eq!(directory.pending(), [VaultRef::new(2, 0)]);
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 1 Active");
    assert_eq!(known(&directory, "1/2"), "Absent");
}

#[test]
fn vaults_are_listed_in_pages_by_namespace_or_all() {
    let directory = small(VaultScope::All);
    let more = delta(3, 4, "vault 1/2 on 1 epoch 1 Active\nvault 2/7 on 1 epoch 1 Active");
    assert_eq!(directory.apply_delta(&more), Ok(true));
    let page = |after: Option<&str>, namespace: Option<u64>, limit| {
        let page = directory.vaults(after.map(vault_named), namespace.map(NamespaceId), limit);
        let names = page.expect("all vaults are held").into_iter().map(|e| e.vault.to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(page(None, None, 99), "1/0 1/1 1/2 2/0 2/7");
    assert_eq!(page(Some("1/1"), None, 2), "1/2 2/0");
    assert_eq!(page(None, Some(1), 99), "1/0 1/1 1/2");
    assert_eq!(page(Some("1/0"), Some(1), 1), "1/1");
    assert_eq!(page(Some("1/2"), Some(1), 9), "");
    assert_eq!(page(Some("1/1"), Some(2), 9), "2/0 2/7");
    assert_eq!(page(Some("2/7"), Some(1), 9), "");
    assert_eq!(page(None, Some(3), 9), "");
    assert_eq!(small(cached(8)).vaults(None, None, 9), None);
}

#[test]
fn deltas_follow_each_other_and_gaps_are_told() {
    let directory = small(VaultScope::All);
    let gap = DirectoryError::Gap { have: 3, base: 4 };
    assert_eq!(directory.apply_delta(&delta(4, 5, "node 4 d:1")), Err(gap));
    assert!(directory.node(NodeId(4)).is_none());
    let next = delta(3, 4, "node 2 b:2\ngone vault/1/1\ngone pending/2/0");
    assert_eq!(directory.apply_delta(&next), Ok(true));
    assert_eq!(directory.node(NodeId(2)).expect("node 2").address, "b:2");
    assert_eq!(known(&directory, "1/1"), "Absent");
    assert!(directory.pending().is_empty());
    assert_eq!(directory.apply_delta(&delta(3, 4, "node 2 b:9")), Ok(false), "known already");
    assert_eq!(directory.apply_delta(&delta(0, 2, "node 2 b:9")), Ok(false));
    assert_eq!(directory.node(NodeId(2)).expect("node 2").address, "b:2");
    let overlapping = delta(2, 6, "node 2 b:3\nnode 5 e:1");
    assert_eq!(directory.apply_delta(&overlapping), Ok(true));
    assert_eq!((directory.revision(), directory.nodes().len()), (6, 4));
    assert_eq!(
        directory.apply_delta(&delta(6, 7, "")),
        Ok(true),
        "a block may change nothing here"
    );
    assert_eq!(directory.revision(), 7);
}

#[test]
fn replacing_drops_what_is_gone_but_never_goes_back() {
    let directory = small(VaultScope::All);
    assert_eq!(directory.replace(2, &changes("node 9 z:1")), Ok(false));
    assert_eq!(directory.nodes().len(), 3);
    assert_eq!(directory.replace(5, &changes("node 9 z:1")), Ok(true));
    assert_eq!(directory.nodes().len(), 1);
    assert!(directory.shards().is_empty() && directory.pending().is_empty());
    assert!(directory.namespace_named("acme").is_none());
    assert_eq!(known(&directory, "1/1"), "Absent");
    assert_eq!(directory.revision(), 5);
}

#[test]
fn a_name_leads_to_the_node_that_was_not_removed() {
    let directory = small(VaultScope::All);
    let renamed = |id: u64, state| {
        let node = directory.node(NodeId(1)).expect("node 1");
        let node = NodeEntity { id: NodeId(id), state, ..(*node).clone() };
        EntityChange { key: format!("node/{id}"), value: Some(node.encode()) }
    };
    let changes = vec![renamed(1, NodeState::Removed), renamed(4, NodeState::Active)];
    assert_eq!(directory.apply_delta(&Delta { base: 3, revision: 4, changes }), Ok(true));
    assert_eq!(directory.node_named("n-1").expect("node 4").id, NodeId(4));
    let changes = vec![renamed(4, NodeState::Removed)];
    assert_eq!(directory.apply_delta(&Delta { base: 4, revision: 5, changes }), Ok(true));
    assert!(directory.node_named("n-1").is_none());
    assert!(directory.node(NodeId(1)).is_some(), "its number still leads to it");
}

#[test]
fn a_partial_directory_comes_to_hold_all_vaults() {
    let directory = small(cached(2));
    assert!(!directory.holds_all_vaults());
    let all = changes("vault 1/0 on 1 epoch 1 Active\nvault 1/1 on 2 epoch 1 Active");
    assert_eq!(directory.replace_with_all_vaults(2, &all), Ok(false), "that would lead back");
    assert!(!directory.holds_all_vaults());
    assert_eq!(directory.replace_with_all_vaults(3, &all), Ok(true), "even at the same revision");
    assert!(directory.holds_all_vaults());
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 1 Active");
    assert_eq!(known(&directory, "1/9"), "Absent");
    let next = delta(3, 4, "vault 1/9 on 1 epoch 1 Active");
    assert_eq!(directory.apply_delta(&next), Ok(true));
    assert_eq!(known(&directory, "1/9"), "on 1 epoch 1 Active");
}

#[test]
fn malformed_changes_change_nothing() {
    let directory = small(VaultScope::All);
    let bad = delta(3, 4, "node 4 d:1\nother node/5");
    let error = directory.apply_delta(&bad).expect_err("node/5 is no node");
    assert!(matches!(error, DirectoryError::Malformed { key, .. } if key == "node/5"));
    assert_eq!(directory.revision(), 3);
    assert!(directory.node(NodeId(4)).is_none());
    assert!(directory.replace(9, &changes("other vault/1/1")).is_err());
    assert_eq!(directory.nodes().len(), 3);
}

#[test]
fn a_partial_directory_caches_the_vaults_it_was_told_of() {
    let directory = small(cached(2));
    assert_eq!(known(&directory, "1/1"), "NotCached");
    directory.learn_vault(3, vault_entity("1/1", 2, 1, "Active"));
    directory.learn_vault(3, vault_entity("1/0", 1, 1, "Active"));
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 1 Active");
    directory.learn_vault(3, vault_entity("1/9", 1, 1, "Active"));
    assert_eq!(known(&directory, "1/0"), "NotCached", "the one not asked for longest is dropped");
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 1 Active");
}

#[test]
fn older_knowledge_of_a_vault_never_replaces_newer() {
    let directory = small(cached(8));
    directory.learn_vault(5, vault_entity("1/1", 1, 2, "Active"));
    directory.learn_vault(4, vault_entity("1/1", 2, 1, "Active"));
    assert_eq!(known(&directory, "1/1"), "on 1 epoch 2 Active");
    let late = delta(3, 4, "vault 1/1 on 2 epoch 1 Active\nvault 1/5 on 2 epoch 1 Active");
    assert_eq!(directory.apply_delta(&late), Ok(true));
    assert_eq!(known(&directory, "1/1"), "on 1 epoch 2 Active");
    assert_eq!(known(&directory, "1/5"), "NotCached", "only vaults that are cached follow changes");
    let newer = delta(4, 6, "vault 1/1 on 2 epoch 3 Active");
    assert_eq!(directory.apply_delta(&newer), Ok(true));
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 3 Active");
    directory.forget_vault(vault_named("1/1"), OwnerEpoch(2));
    assert_eq!(known(&directory, "1/1"), "on 2 epoch 3 Active");
    directory.forget_vault(vault_named("1/1"), OwnerEpoch(3));
    assert_eq!(known(&directory, "1/1"), "NotCached");
}
