//! Namespaces and vaults: made, listed and told alike through every node, and made by a first write where
//! the cluster allows it.

use std::collections::BTreeSet;

use ledger_proto::v1;
use ledger_proto::v1::ReadConsistency::{Eventual, Linearizable};
use ledger_proto::v1::get_namespace_request::Lookup;
use ledger_types::{NamespaceId, VaultId, VaultRef};
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, eventually, set, why, wire, write_request};

/// Ids that first writes choose, one through each node. Ids that the cluster draws would reach the lower
/// two at once.
const CHOSEN: [u64; 3] = [2, 4, 77];
/// Vaults of each namespace that is listed.
const VAULTS: [usize; 3] = [2, 1, 2];
const PAGE_ITEMS: u32 = 2;

fn batch_read(vault: VaultRef) -> v1::BatchReadRequest {
    let (namespace_id, vault_id) = wire(vault);
    let keys = vec!["a".to_owned(), "b".to_owned()];
    v1::BatchReadRequest { namespace_id, vault_id, keys, consistency: Linearizable.into() }
}

fn list_entities(vault: VaultRef) -> v1::ListEntitiesRequest {
    let (namespace_id, vault_id) = wire(vault);
    v1::ListEntitiesRequest { namespace_id, vault_id, ..Default::default() }
}

fn list_relationships(vault: VaultRef) -> v1::ListRelationshipsRequest {
    let (namespace_id, vault_id) = wire(vault);
    v1::ListRelationshipsRequest { namespace_id, vault_id, ..Default::default() }
}

/// A vault that its first write would make reads as an empty one.
async fn reads_as_empty(node: &Node, vault: VaultRef) {
    let (namespace_id, vault_id) = wire(vault);
    for consistency in [Eventual, Linearizable] {
        let (key, consistency) = ("a".to_owned(), consistency.into());
        let request = v1::ReadRequest { namespace_id, vault_id, key, consistency };
        let answer = node.reads().read(request).await.unwrap().into_inner();
        assert_eq!((answer.value, answer.block_height), (None, 0));
    }
    let answer = node.reads().batch_read(batch_read(vault)).await.unwrap().into_inner();
    assert_eq!((answer.results.len(), answer.block_height), (2, 0));
    assert!(answer.results.iter().all(|one| !one.found && one.value.is_none()), "{answer:?}");
    let answer = node.reads().list_entities(list_entities(vault)).await.unwrap().into_inner();
    assert_eq!(answer, v1::ListEntitiesResponse::default());
    let request = list_relationships(vault);
    let answer = node.reads().list_relationships(request).await.unwrap().into_inner();
    assert_eq!(answer, v1::ListRelationshipsResponse::default());
    let resource_type = "doc".to_owned();
    let request =
        v1::ListResourcesRequest { namespace_id, vault_id, resource_type, ..Default::default() };
    let answer = node.reads().list_resources(request).await.unwrap().into_inner();
    assert_eq!(answer, v1::ListResourcesResponse::default());
    let request = v1::GetTipRequest { namespace_id, vault_id };
    let answer = node.reads().get_tip(request).await.unwrap().into_inner();
    assert_eq!(answer, v1::GetTipResponse::default());
}

/// The setting makes vaults, never namespaces.
async fn namespaces_are_not_made_by_writes(node: &Node) {
    let nowhere = VaultRef::new(4_711, 77);
    let mut refusals: Vec<Status> = vec![
        node.put(nowhere, "a", b"1").await.unwrap_err(),
        node.read(nowhere, "a").await.unwrap_err(),
    ];
    let mut reads = node.reads();
    refusals.push(reads.batch_read(batch_read(nowhere)).await.unwrap_err());
    refusals.push(reads.list_entities(list_entities(nowhere)).await.unwrap_err());
    refusals.push(reads.list_relationships(list_relationships(nowhere)).await.unwrap_err());
    for status in refusals {
        let expected = (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
    }
}

/// Writers that all come first to one vault make it once.
async fn first_writes_may_race(nodes: &[Node], vault: VaultRef) {
    let mut writers = JoinSet::new();
    for (number, node) in nodes.iter().cloned().enumerate() {
        writers.spawn(async move {
            node.put(vault, &format!("race/{number}"), b"1").await.unwrap();
        });
    }
    writers.join_all().await;
    let request = v1::ListEntitiesRequest {
        consistency: Linearizable.into(),
        key_prefix: "race/".to_owned(),
        ..list_entities(vault)
    };
    for node in nodes {
        let answer = node.reads().list_entities(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.entities.len(), nodes.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_makes_its_vault() {
    let cluster = Cluster::start_with(3, &[("LEDGER_AUTO_CREATE_VAULTS", "true")]).await;
    let namespace = cluster.client().await.ensure_namespace("chosen").await.unwrap();
    let of_id = |id: u64| VaultRef { namespace, vault: VaultId(id) };
    let nodes = cluster.nodes();
    for (node, chosen) in nodes.iter().zip(CHOSEN) {
        let vault = of_id(chosen);
        assert_eq!(node.put(vault, "a", b"1").await.unwrap(), 1, "the first block after genesis");
        for other in &nodes {
            assert_eq!(other.read(vault, "a").await.unwrap().as_deref(), Some(&b"1"[..]));
        }
        reads_as_empty(node, of_id(900 + chosen)).await;
        namespaces_are_not_made_by_writes(node).await;
    }
    first_writes_may_race(&nodes, of_id(78)).await;

    let mut drawn = Vec::new();
    for number in 0..4 {
        let request =
            v1::CreateVaultRequest { namespace_id: Some(namespace.into()), ..Default::default() };
        let answer = nodes[number % 3].admin().create_vault(request).await.unwrap().into_inner();
        drawn.push(answer.vault_id.unwrap().id);
    }
    assert_eq!(drawn, [1, 3, 5, 6], "drawn ids pass over chosen ones");
    for node in &nodes {
        // Reads have made nothing.
        list_of_vaults(node, Some(namespace), &[1, 2, 3, 4, 5, 6, 77, 78].map(of_id)).await;
    }
}

/// Waits until a node lists exactly these vaults in one answer.
async fn list_of_vaults(node: &Node, namespace: Option<NamespaceId>, expected: &[VaultRef]) {
    let namespace_id = namespace.map(v1::NamespaceId::from);
    eventually("the node lists all vaults", || async {
        let request = v1::ListVaultsRequest { namespace_id, ..Default::default() };
        let answer =
            node.admin().list_vaults(request).await.map_err(|status| status.to_string())?;
        let listed: Vec<VaultRef> = answer.into_inner().vaults.iter().map(vault_of).collect();
        if listed == expected { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
}

fn vault_of(told: &v1::GetVaultResponse) -> VaultRef {
    let (namespace, vault) = (told.namespace_id.unwrap().id, told.vault_id.unwrap().id);
    VaultRef::new(namespace.try_into().unwrap(), vault.try_into().unwrap())
}

/// The pages of all vaults, each from another node than the page before.
async fn pages_of_vaults(nodes: &[Node], first: usize) -> Vec<v1::GetVaultResponse> {
    let mut found = Vec::new();
    let mut page_token = None;
    for page in 0.. {
        let request =
            v1::ListVaultsRequest { page_size: Some(PAGE_ITEMS), page_token, ..Default::default() };
        let node = &nodes[(first + page) % nodes.len()];
        let answer = node.admin().list_vaults(request).await.unwrap().into_inner();
        assert!(answer.vaults.len() <= PAGE_ITEMS as usize);
        found.extend(answer.vaults);
        page_token = answer.next_page_token;
        if page_token.is_none() {
            break;
        }
    }
    found
}

/// The pages of all namespaces, each from another node than the page before.
async fn pages_of_namespaces(nodes: &[Node], first: usize) -> Vec<v1::GetNamespaceResponse> {
    let mut found = Vec::new();
    let mut page_token = None;
    for page in 0.. {
        let request =
            v1::ListNamespacesRequest { page_size: PAGE_ITEMS, page_token, ..Default::default() };
        let node = &nodes[(first + page) % nodes.len()];
        let answer = node.admin().list_namespaces(request).await.unwrap().into_inner();
        assert!(answer.namespaces.len() <= PAGE_ITEMS as usize);
        found.extend(answer.namespaces);
        page_token = answer.next_page_token;
        if page_token.is_none() {
            break;
        }
    }
    found
}

async fn vaults_are_told_as_listed(node: &Node, listed: &[v1::GetVaultResponse]) {
    for told in listed {
        let vault = vault_of(told);
        let (namespace_id, vault_id) = wire(vault);
        let request = v1::GetVaultRequest { namespace_id, vault_id };
        let one = node.admin().get_vault(request).await.unwrap().into_inner();
        let expected = v1::GetVaultResponse { leader: one.leader.clone(), ..told.clone() };
        assert_eq!(one, expected, "vault {vault}; its leader may move");
        assert_eq!((one.height, one.status()), (1, v1::VaultStatus::Active), "{one:?}");
        let nodes: BTreeSet<&str> = one.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(nodes, BTreeSet::from(["0", "1", "2"]));
        let tip = v1::GetTipRequest { namespace_id, vault_id };
        let tip = node.reads().get_tip(tip).await.unwrap().into_inner();
        assert_eq!((tip.height, tip.state_root), (one.height, one.state_root));
        let policy = one.retention_policy.expect("a policy is told");
        assert_eq!(policy.mode(), v1::BlockRetentionMode::Full);
    }
}

/// The floor of the past that a refusal tells.
fn floor_told(status: &Status) -> u64 {
    assert_eq!(why(status), (Code::FailedPrecondition, "HEIGHT_UNAVAILABLE".to_owned()));
    let facts = status.get_details_error_info().expect("it has details").metadata;
    facts["floor"].parse().expect("a height")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_made_to_forget_does_so_on_every_replica_and_beside_one_that_keeps_all() {
    const RETAINED: u64 = 20;
    // A vault's tree is written after 256 blocks; only then is anything forgotten.
    const BLOCKS: u64 = 600;
    let cluster = Cluster::start(3).await;
    let keeps = cluster.vaults("forgetful", 1).await[0];
    let node = cluster.node(0);
    let (namespace_id, _) = wire(keeps);
    let mode = v1::BlockRetentionMode::Compacted.into();
    let policy = v1::BlockRetentionPolicy { mode, retention_blocks: RETAINED };
    let retention_policy = Some(policy);
    let create = v1::CreateVaultRequest { namespace_id, retention_policy, ..Default::default() };
    let vault_id = node.admin().create_vault(create).await.unwrap().into_inner().vault_id;
    let id = vault_id.expect("it has an id").id as u64;
    let forgets = VaultRef { vault: VaultId(id), ..keeps };
    let told = v1::GetVaultRequest { namespace_id, vault_id };
    let told = node.admin().get_vault(told).await.unwrap().into_inner();
    assert_eq!(told.retention_policy, Some(policy));
    for vault in [keeps, forgets] {
        for number in 1..=BLOCKS {
            let height = node.put(vault, "key", number.to_string().as_bytes()).await.unwrap();
            assert_eq!(height, number, "each write is a block");
        }
    }
    for (node, replica) in cluster.nodes().iter().zip(cluster.replicas()) {
        let value_at = async |vault: VaultRef, at_height| {
            let (namespace_id, vault_id) = wire(vault);
            let key = "key".to_owned();
            let request = v1::HistoricalReadRequest {
                namespace_id,
                vault_id,
                key,
                at_height,
                ..Default::default()
            };
            // Its own rows, or nothing.
            let mut request = Request::new(request);
            request.metadata_mut().insert("ledger-forwarded", MetadataValue::from_static("1"));
            let answer = node.reads().historical_read(request).await?.into_inner();
            Ok::<_, Status>(answer.value)
        };
        let caught_up = async || match replica.tip(forgets).await {
            Ok(tip) if tip.height == BLOCKS => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("a replica with all blocks", caught_up).await;
        let floor = floor_told(&value_at(forgets, 1).await.unwrap_err());
        assert!((200..=BLOCKS - RETAINED + 1).contains(&floor), "{floor}");
        assert_eq!(floor_told(&value_at(forgets, floor - 1).await.unwrap_err()), floor);
        for height in [floor, BLOCKS - RETAINED + 1, BLOCKS] {
            let expected = height.to_string().into_bytes();
            assert_eq!(value_at(forgets, height).await.unwrap(), Some(expected));
        }
        assert_eq!(value_at(keeps, 1).await.unwrap(), Some(b"1".to_vec()));
        // Blocks stay, also those of heights that cannot be read any more.
        let (namespace_id, vault_id) = wire(forgets);
        let block = v1::GetBlockRequest { namespace_id, vault_id, height: 1 };
        let block = node.reads().get_block(block).await.unwrap().into_inner().block;
        assert_eq!(block.expect("it is kept").transactions.len(), 1);
    }
}

async fn namespaces_are_told_as_listed(node: &Node, listed: &[v1::GetNamespaceResponse]) {
    let get = |lookup| async {
        let request = v1::GetNamespaceRequest { lookup: Some(lookup) };
        node.admin().get_namespace(request).await
    };
    for told in listed {
        let by_id = get(Lookup::NamespaceId(told.namespace_id.unwrap())).await.unwrap();
        assert_eq!(by_id.into_inner(), *told);
        let by_name = get(Lookup::Name(told.name.clone())).await.unwrap();
        assert_eq!(by_name.into_inner(), *told);
        assert_eq!(told.status(), v1::NamespaceStatus::Active);
        assert!((1..=8).contains(&told.shard_id.unwrap().id), "{told:?}");
        assert_eq!(told.member_nodes.len(), 3, "{told:?}");
        assert!(told.created_at.is_some_and(|time| time.seconds > 0), "{told:?}");
    }
    let status = get(Lookup::Name("nobody".to_owned())).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned()), "{status:?}");
    let vault_id = Some(v1::VaultId { id: 4_711 });
    let request = v1::GetVaultRequest { namespace_id: listed[0].namespace_id, vault_id };
    let status = node.admin().get_vault(request).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "VAULT_NOT_FOUND".to_owned()), "{status:?}");
}

/// Nine groups on three nodes: nobody leads more than four or fewer than two.
pub(super) async fn leaders_are_spread(nodes: &[Node]) {
    eventually("each node leads its part of the groups", || async {
        let mut counts = Vec::new();
        for node in nodes {
            let status = node.status().await.map_err(|status| status.to_string())?;
            counts.push(status.node.expect("the node tells of itself").leaders_count);
        }
        let spread = counts.iter().all(|count| (2..=4).contains(count));
        if spread && counts.iter().sum::<u64>() == 9 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_and_namespaces_are_listed_once_and_leaders_are_spread() {
    let cluster = Cluster::start(3).await;
    let (nodes, mut vaults) = (cluster.nodes(), Vec::new());
    for (number, count) in VAULTS.into_iter().enumerate() {
        vaults.extend(cluster.vaults(&format!("listed-{number}"), count).await);
    }
    assert_eq!(vaults, [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)].map(|(n, v)| VaultRef::new(n, v)));
    for &vault in &vaults {
        let write = write_request(vault, vec![set("a", vault.to_string().as_bytes())]);
        nodes[0].writes().write(write).await.unwrap();
    }
    ledger::demo::replicas::wait_level(&cluster.replicas(), &vaults, super::harness::WAIT_MAX)
        .await
        .unwrap();
    for node in &nodes {
        list_of_vaults(node, None, &vaults).await;
        list_of_vaults(node, Some(vaults[3].namespace), &vaults[3..]).await;
    }
    for (number, node) in nodes.iter().enumerate() {
        let listed = pages_of_vaults(&nodes, number).await;
        assert_eq!(listed.iter().map(vault_of).collect::<Vec<_>>(), vaults);
        vaults_are_told_as_listed(node, &listed).await;
        let listed = pages_of_namespaces(&nodes, number).await;
        let names: Vec<&str> = listed.iter().map(|told| told.name.as_str()).collect();
        assert_eq!(names, ["listed-0", "listed-1", "listed-2"]);
        assert_eq!(listed.iter().map(|told| told.namespace_id.unwrap().id).max(), Some(3));
        namespaces_are_told_as_listed(node, &listed).await;
    }
    leaders_are_spread(&nodes).await;
}
