//! Deleting vaults and namespaces: refused by every node and for ever, also where the directory's copy is behind.

use ledger_proto::v1;
use ledger_proto::v1::ReadConsistency::{Eventual, Linearizable};
use ledger_proto::v1::get_namespace_request::Lookup;
use ledger_proto::v1::health_service_client::HealthServiceClient;
use ledger_types::{NamespaceId, VaultId, VaultRef};
use tonic::{Code, Status};

use super::harness::{Cluster, Node, eventually, why, wire};

fn is_gone(reason: &str) -> (Code, String) {
    (Code::NotFound, reason.to_owned())
}

/// Every way to a vault ends with this reason.
pub(crate) async fn is_refused(node: &Node, vault: VaultRef, reason: &str) {
    let (namespace_id, vault_id) = wire(vault);
    let mut refusals: Vec<Status> = vec![
        node.put(vault, "late", b"1").await.unwrap_err(),
        node.read(vault, "a").await.unwrap_err(),
    ];
    let (key, consistency) = ("a".to_owned(), Eventual.into());
    let request = v1::ReadRequest { namespace_id, vault_id, key, consistency };
    refusals.push(node.reads().read(request).await.unwrap_err());
    let consistency = Linearizable.into();
    let request =
        v1::ListEntitiesRequest { namespace_id, vault_id, consistency, ..Default::default() };
    refusals.push(node.reads().list_entities(request).await.unwrap_err());
    let request = v1::GetTipRequest { namespace_id, vault_id };
    refusals.push(node.reads().get_tip(request).await.unwrap_err());
    let request = v1::GetBlockRequest { namespace_id, vault_id, height: 1 };
    refusals.push(node.reads().get_block(request).await.unwrap_err());
    let request = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 1 };
    refusals.push(node.reads().watch_blocks(request).await.unwrap_err());
    let request = v1::GetVaultRequest { namespace_id, vault_id };
    refusals.push(node.admin().get_vault(request).await.unwrap_err());
    let request = v1::GetCheckpointRequest { namespace_id, vault_id, ..Default::default() };
    refusals.push(node.ledger().get_checkpoint(request).await.unwrap_err());
    for status in refusals {
        assert_eq!(why(&status), is_gone(reason), "{status:?}");
    }
}

pub(crate) async fn delete_vault(
    node: &Node,
    vault: VaultRef,
) -> Result<v1::DeleteVaultResponse, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::DeleteVaultRequest { namespace_id, vault_id };
    Ok(node.admin().delete_vault(request).await?.into_inner())
}

pub(crate) async fn delete_namespace(
    node: &Node,
    namespace: NamespaceId,
) -> Result<v1::DeleteNamespaceResponse, Status> {
    let request = v1::DeleteNamespaceRequest { namespace_id: Some(namespace.into()) };
    Ok(node.admin().delete_namespace(request).await?.into_inner())
}

/// The vaults of a namespace that a node lists, with what they are doing.
pub(crate) async fn listed(
    node: &Node,
    namespace: NamespaceId,
    include_deleted: bool,
) -> Vec<(i64, v1::VaultStatus)> {
    let namespace_id = Some(namespace.into());
    let request = v1::ListVaultsRequest { namespace_id, include_deleted, ..Default::default() };
    let answer = node.admin().list_vaults(request).await.unwrap().into_inner();
    let vaults = answer.vaults.iter();
    vaults.map(|vault| (vault.vault_id.unwrap().id, vault.status())).collect()
}

/// A block that is announced shows that the stream has begun; then it waits for the next.
async fn watch(node: &Node, vault: VaultRef) -> tonic::Streaming<v1::BlockAnnouncement> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 1 };
    let mut blocks = node.reads().watch_blocks(request).await.unwrap().into_inner();
    assert_eq!(blocks.message().await.unwrap().unwrap().height, 1);
    blocks
}

pub(crate) async fn is_not_made_again(node: &Node, vault: VaultRef, reason: &str) {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::CreateVaultRequest { namespace_id, vault_id, ..Default::default() };
    let status = node.admin().create_vault(request).await.unwrap_err();
    assert_eq!(why(&status), is_gone(reason), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_vault_is_refused_everywhere_and_for_ever() {
    let mut cluster = Cluster::start_with(3, &[("LEDGER_AUTO_CREATE_VAULTS", "true")]).await;
    let vaults = cluster.vaults("doomed", 2).await;
    let (gone, stays, namespace) = (vaults[0], vaults[1], vaults[0].namespace);
    let nodes = cluster.nodes();
    for &vault in &vaults {
        nodes[0].put(vault, "a", b"1").await.unwrap();
    }
    ledger::demo::replicas::wait_level(&cluster.replicas(), &vaults, super::harness::WAIT_MAX)
        .await
        .unwrap();
    let mut watches = Vec::new();
    for node in &nodes {
        watches.push(watch(node, gone).await);
    }
    let first = delete_vault(&nodes[1], gone).await.unwrap();
    assert!(first.deleted_at.is_some_and(|time| time.seconds > 1_000_000_000), "{first:?}");
    // Nobody writes or reads so that it would have to show what was acknowledged last.
    for node in &nodes {
        for status in
            [node.put(gone, "b", b"1").await.unwrap_err(), node.read(gone, "a").await.unwrap_err()]
        {
            assert_eq!(why(&status), is_gone("VAULT_DELETED"), "{status:?}");
        }
    }
    for mut watch in watches {
        let status = watch.message().await.unwrap_err();
        assert_eq!(why(&status), is_gone("VAULT_DELETED"), "{status:?}");
    }
    for node in &nodes {
        let shown = || async {
            match listed(node, namespace, false).await {
                shown if shown == [(2, v1::VaultStatus::Active)] => Ok(()),
                shown => Err(shown),
            }
        };
        eventually("the deleted vault is not listed", shown).await;
        let all = [(1, v1::VaultStatus::Deleted), (2, v1::VaultStatus::Active)];
        assert_eq!(listed(node, namespace, true).await, all);
        is_refused(node, gone, "VAULT_DELETED").await;
        is_not_made_again(node, gone, "VAULT_DELETED").await;
        assert_eq!(delete_vault(node, gone).await.unwrap(), first, "once more tells the same");
        let (namespace_id, vault_id) = wire(gone);
        let request = v1::HealthCheckRequest { namespace_id, vault_id };
        let mut health = HealthServiceClient::new(node.channel.clone());
        let status = health.check(request).await.unwrap_err();
        assert_eq!(why(&status), is_gone("VAULT_DELETED"), "{status:?}");
        node.put(stays, "b", b"1").await.unwrap();
    }
    assert_eq!(cluster.vaults("doomed", 1).await, [VaultRef { namespace, vault: VaultId(3) }]);
    for number in 0..3 {
        cluster.servers[number].kill();
    }
    for number in 0..3 {
        cluster.servers[number].resume().unwrap();
    }
    cluster.assert_ready().await;
    for node in cluster.nodes() {
        node.put_in_time(stays, "c", b"1").await;
        is_refused(&node, gone, "VAULT_DELETED").await;
    }
}

async fn refusals_have_reasons(node: &Node, namespace: NamespaceId) {
    let of = |id| VaultRef { namespace, vault: VaultId(id) };
    let refusals = [
        (delete_vault(node, of(0)).await.unwrap_err(), Code::InvalidArgument, "INVALID_ARGUMENT"),
        (delete_vault(node, of(99)).await.unwrap_err(), Code::NotFound, "VAULT_NOT_FOUND"),
        (
            delete_vault(node, VaultRef::new(4_711, 1)).await.unwrap_err(),
            Code::NotFound,
            "NAMESPACE_NOT_FOUND",
        ),
        (
            delete_vault(node, VaultRef::new(0, 1)).await.unwrap_err(),
            Code::PermissionDenied,
            "SYSTEM_NAMESPACE",
        ),
        (
            delete_namespace(node, NamespaceId(4_711)).await.unwrap_err(),
            Code::NotFound,
            "NAMESPACE_NOT_FOUND",
        ),
        (
            delete_namespace(node, NamespaceId(0)).await.unwrap_err(),
            Code::PermissionDenied,
            "SYSTEM_NAMESPACE",
        ),
    ];
    for (status, code, reason) in refusals {
        assert_eq!(why(&status), (code, reason.to_owned()), "{status:?}");
    }
}

async fn namespace_of(node: &Node, lookup: Lookup) -> Result<v1::GetNamespaceResponse, Status> {
    let request = v1::GetNamespaceRequest { lookup: Some(lookup) };
    Ok(node.admin().get_namespace(request).await?.into_inner())
}

async fn namespaces(node: &Node, include_deleted: bool) -> Vec<(String, v1::NamespaceStatus)> {
    let request = v1::ListNamespacesRequest { include_deleted, ..Default::default() };
    let answer = node.admin().list_namespaces(request).await.unwrap().into_inner();
    answer.namespaces.into_iter().map(|one| (one.name.clone(), one.status())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_deleted_after_its_vaults_and_frees_its_name() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("doomed", 1).await[0];
    let (nodes, namespace) = (cluster.nodes(), vault.namespace);
    let own = VaultRef { namespace, vault: VaultId(0) };
    nodes[0].put(own, "a", b"1").await.unwrap();
    for node in &nodes {
        refusals_have_reasons(node, namespace).await;
        let status = delete_namespace(node, namespace).await.unwrap_err();
        let expected = (Code::FailedPrecondition, "NAMESPACE_NOT_EMPTY".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
        let details = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
        assert_eq!(details.metadata["vaults"], "1");
    }
    nodes[2].put(own, "b", b"1").await.unwrap();
    delete_vault(&nodes[0], vault).await.unwrap();
    let first = delete_namespace(&nodes[2], namespace).await.unwrap();
    for node in &nodes {
        let status = node.put(own, "c", b"1").await.unwrap_err();
        assert_eq!(why(&status), is_gone("NAMESPACE_DELETED"), "{status:?}");
    }
    for node in &nodes {
        let shown = || async {
            match namespaces(node, false).await {
                shown if shown.is_empty() => Ok(()),
                shown => Err(shown),
            }
        };
        eventually("the deleted namespace is not listed", shown).await;
        let all = [("doomed".to_owned(), v1::NamespaceStatus::Deleted)];
        assert_eq!(namespaces(node, true).await, all);
        for of in [own, vault] {
            is_refused(node, of, "NAMESPACE_DELETED").await;
        }
        is_not_made_again(node, VaultRef { namespace, vault: VaultId(7) }, "NAMESPACE_DELETED")
            .await;
        assert_eq!(delete_namespace(node, namespace).await.unwrap(), first);
        let by_id = namespace_of(node, Lookup::NamespaceId(namespace.into())).await.unwrap_err();
        assert_eq!(why(&by_id), is_gone("NAMESPACE_DELETED"), "{by_id:?}");
        let by_name = namespace_of(node, Lookup::Name("doomed".to_owned())).await.unwrap_err();
        assert_eq!(why(&by_name), is_gone("NAMESPACE_NOT_FOUND"), "{by_name:?}");
    }
    let client = cluster.client().await;
    let next = client.create_namespace("doomed").await.unwrap();
    assert_eq!(next, NamespaceId(namespace.0 + 1), "the name is free, the number is not");
    assert_eq!(client.namespace_by_name("doomed").await.unwrap().id, next);
    nodes[0].put(VaultRef { namespace: next, vault: VaultId(0) }, "a", b"1").await.unwrap();
    // The SDK says the same as the calls themselves.
    let deleted_at = first.deleted_at.unwrap();
    let told = client.delete_namespace(namespace).await.unwrap();
    assert_eq!(told / 1_000_000_000, u64::try_from(deleted_at.seconds).unwrap());
    assert_eq!(client.namespaces_with_deleted().await.unwrap().len(), 2);
    assert_eq!(client.namespaces().await.unwrap().len(), 1);
}

/// More vaults than there are shards, so that each node leads the group of some.
#[cfg(feature = "failpoints")]
const VAULTS: usize = 9;

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_directory_is_behind_refuses_a_deleted_vault() {
    use ledger::test_hooks::{POINTS_VARIABLE, SEEN_SUFFIX};

    use super::vaults::leaders_are_spread;

    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("behind", VAULTS).await;
    for &vault in &vaults {
        cluster.node(0).put(vault, "a", b"1").await.unwrap();
    }
    let folder = cluster.directory("points");
    for number in 0..3 {
        cluster.servers[number].stop().await.unwrap();
        let points = folder.join(number.to_string()).to_str().unwrap().to_owned();
        let environment = &mut cluster.servers[number].spec_mut().environment;
        environment.push((POINTS_VARIABLE.to_owned(), points));
        cluster.resume(number).await;
    }
    // Leaders that are spread stay where they are: the directory's does not come to the node that is behind.
    leaders_are_spread(&cluster.nodes()).await;
    let system = || async {
        let groups = cluster.node(0).groups().await.map_err(|status| status.to_string())?;
        let leader = usize::try_from(groups[&0].leader_node_id).unwrap();
        leader.checked_sub(1).ok_or_else(|| "nobody leads the directory's group".to_owned())
    };
    let behind = (eventually("the directory's group has a leader", system).await + 1) % 3;
    let points = folder.join(behind.to_string());
    std::fs::write(&points, "directory::stale=return\n").unwrap();
    let seen = folder.join(format!("{behind}{SEEN_SUFFIX}"));
    eventually("the directory's copy stands still", || async {
        std::fs::read_to_string(&seen).ok().filter(|text| !text.is_empty()).ok_or("not yet")
    })
    .await;

    let (node, other, namespace) =
        (cluster.node(behind), cluster.node((behind + 1) % 3), vaults[0].namespace);
    // A group that the node leads is not told of an end that the node's own directory does not name yet.
    let mut deleted = Vec::new();
    for &vault in &vaults {
        let (namespace_id, vault_id) = wire(vault);
        let request = v1::GetVaultRequest { namespace_id, vault_id };
        let told = other.admin().get_vault(request).await.unwrap().into_inner();
        if told.leader.is_some_and(|leader| leader.id != behind.to_string()) {
            delete_vault(&other, vault).await.unwrap();
            deleted.push(vault);
        }
    }
    assert!(deleted.len() > 2, "{deleted:?}");
    assert_eq!(listed(&node, namespace, false).await.len(), VAULTS, "it still lists them");
    for &vault in &deleted {
        let refused =
            [node.put(vault, "b", b"1").await.map(|_| ()), node.read(vault, "a").await.map(|_| ())];
        for status in refused.map(Result::unwrap_err) {
            assert_eq!(why(&status), is_gone("VAULT_DELETED"), "{vault}: {status:?}");
        }
        // Its own replica knows by itself, once it has got that far.
        let (namespace_id, vault_id) = wire(vault);
        let (key, consistency) = ("a".to_owned(), Eventual.into());
        let request = v1::ReadRequest { namespace_id, vault_id, key, consistency };
        let refused = || async {
            match node.reads().read(request.clone()).await {
                Err(status) if why(&status) == is_gone("VAULT_DELETED") => Ok(()),
                other => Err(other.map(tonic::Response::into_inner)),
            }
        };
        eventually("the replica that is behind in the directory refuses", refused).await;
    }
    std::fs::write(&points, "").unwrap();
    let rest = vaults.iter().filter(|vault| !deleted.contains(vault));
    for &vault in rest {
        eventually("the others can be deleted too", || delete_vault(&other, vault)).await;
    }
    let shown = || async {
        let shown = listed(&node, namespace, false).await;
        if shown.is_empty() { Ok(()) } else { Err(shown) }
    };
    eventually("it has caught up", shown).await;
}
