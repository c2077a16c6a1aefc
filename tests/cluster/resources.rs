//! Lists of resources: each once, pages of one height whatever is written meanwhile, alike through every node.

use ledger_client::ListOptions;
use ledger_proto::v1;
use ledger_types::VaultRef;
use tonic::Code;

use super::harness::{Cluster, Node, WAIT_MAX, grant, why, wire, write_request};

/// Relationships of the resource that has many.
const SUBJECTS: usize = 3_000;
/// Resources of the type that is listed.
const RESOURCES: usize = 7;
const PAGE_ITEMS: u32 = 3;

fn list(vault: VaultRef, resource_type: &str) -> v1::ListResourcesRequest {
    let (namespace_id, vault_id) = wire(vault);
    let resource_type = resource_type.to_owned();
    v1::ListResourcesRequest { namespace_id, vault_id, resource_type, ..Default::default() }
}

async fn write(node: &Node, vault: VaultRef, operations: Vec<v1::Operation>) -> u64 {
    let answer = node.writes().write(write_request(vault, operations)).await.unwrap().into_inner();
    match answer.result {
        Some(v1::write_response::Result::Success(success)) => success.block_height,
        other => panic!("{other:?}"),
    }
}

/// Every page, each from another node than the one before; a resource is granted between pages, and is not in
/// the list that began before.
async fn pages(nodes: &[Node], vault: VaultRef, first: usize) -> (Vec<String>, u64) {
    let (mut found, mut heights, mut page_token) = (Vec::new(), Vec::new(), String::new());
    for page in 0.. {
        let request = v1::ListResourcesRequest {
            limit: PAGE_ITEMS,
            page_token,
            consistency: v1::ReadConsistency::Linearizable.into(),
            ..list(vault, "doc")
        };
        let node = &nodes[(first + page) % nodes.len()];
        let answer = node.reads().list_resources(request).await.unwrap().into_inner();
        assert!(answer.resources.len() <= PAGE_ITEMS as usize);
        found.extend(answer.resources);
        heights.push(answer.block_height);
        if answer.next_page_token.is_empty() {
            break;
        }
        page_token = answer.next_page_token;
        let late = format!("doc:zz/{first}/{page}");
        write(node, vault, vec![grant(&late, "viewer", "user:late")]).await;
    }
    assert!(heights.len() > 2 && heights.iter().all(|height| *height == heights[0]), "{heights:?}");
    (found, heights[0])
}

async fn what_is_no_type_or_token_is_refused(node: &Node, vault: VaultRef) {
    for text in ["", "doc:", "d\0c"] {
        let status = node.reads().list_resources(list(vault, text)).await.unwrap_err();
        let expected = (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned());
        assert_eq!(why(&status), expected, "{text:?} {status:?}");
    }
    let request = v1::ListResourcesRequest { limit: 1, ..list(vault, "doc") };
    let page_token = node.reads().list_resources(request).await.unwrap().into_inner();
    let page_token = page_token.next_page_token;
    let request = v1::ListResourcesRequest { page_token, ..list(vault, "folder") };
    let status = node.reads().list_resources(request).await.unwrap_err();
    assert_eq!(why(&status), (Code::InvalidArgument, "INVALID_PAGE_TOKEN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_listed_once_on_pages_of_one_height() {
    let cluster = Cluster::start(3).await;
    let (nodes, vault) = (cluster.nodes(), cluster.vaults("resources", 1).await[0]);
    let subjects = (0..SUBJECTS).map(|number| format!("user:{number}"));
    write(&nodes[0], vault, subjects.map(|user| grant("doc:3", "viewer", &user)).collect()).await;
    let mut names: Vec<String> = (0..RESOURCES).map(|number| format!("doc:{number}")).collect();
    let grants = names
        .iter()
        .flat_map(|name| ["viewer", "editor"].map(|relation| grant(name, relation, "user:ann")));
    let others = [grant("docs:1", "viewer", "user:ann"), grant("folder:1", "parent", "doc:9")];
    write(&nodes[0], vault, grants.chain(others).collect()).await;

    let mut begun = Vec::new();
    for first in 0..nodes.len() {
        let (listed, height) = pages(&nodes, vault, first).await;
        assert_eq!(listed, names);
        begun.push((listed, height));
        // What was granted between the pages is in the next list.
        let late = (0..).take_while(|page| page * 3 + 3 < names.len());
        names.extend(late.map(|page| format!("doc:zz/{first}/{page}")).collect::<Vec<_>>());
    }
    ledger::demo::replicas::wait_level(&cluster.replicas(), &[vault], WAIT_MAX).await.unwrap();
    for node in &nodes {
        let answer = node.reads().list_resources(list(vault, "doc")).await.unwrap().into_inner();
        assert_eq!((answer.resources, answer.next_page_token), (names.clone(), String::new()));
        for (listed, height) in &begun {
            let at_height = Some(*height);
            let request = v1::ListResourcesRequest { at_height, ..list(vault, "doc") };
            let answer = node.reads().list_resources(request).await.unwrap().into_inner();
            assert_eq!((&answer.resources, answer.block_height), (listed, *height));
        }
        what_is_no_type_or_token_is_refused(node, vault).await;
    }
    let options = ListOptions { page_items: 2, ..ListOptions::default() };
    let mut told = cluster.client().await.list_resources(vault, "doc", options).unwrap();
    let mut listed = Vec::new();
    while let Some(page) = told.next_page().await.unwrap() {
        listed.extend(page.items);
    }
    assert_eq!(listed, names);
}
