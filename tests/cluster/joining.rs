//! A node that was no founder.

use ledger::demo::process::{READY_TIME_MAX, Server};
use ledger_proto::v1;

use super::harness::{Cluster, Node, eventually, set, wire, write_request};

/// Every public call, answered by a node that holds no replica.
async fn serves_what_others_hold(node: &Node, cluster: &Cluster) {
    let vault = cluster.vaults("before", 1).await[0];
    cluster.node(0).put(vault, "elsewhere", b"1").await.unwrap();
    let read = eventually("the directory arrives", || node.read(vault, "elsewhere")).await;
    assert_eq!(read.as_deref(), Some(&b"1"[..]));
    let height = node.put(vault, "through-it", b"2").await.unwrap();
    for other in cluster.nodes() {
        let read = other.read(vault, "through-it").await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"2"[..]));
    }
    let (namespace_id, vault_id) = wire(vault);
    let list = v1::ListEntitiesRequest {
        namespace_id,
        vault_id,
        consistency: v1::ReadConsistency::Eventual.into(),
        ..v1::ListEntitiesRequest::default()
    };
    eventually("a replica that is asked has applied both writes", || async {
        let page = node.reads().list_entities(list.clone()).await.map_err(|s| s.to_string())?;
        let entities = page.into_inner().entities;
        if entities.len() == 2 { Ok(()) } else { Err(format!("{entities:?}")) }
    })
    .await;
    let watch = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 1 };
    let mut stream = node.reads().watch_blocks(watch).await.unwrap().into_inner();
    for expected in 1..=height {
        assert_eq!(stream.message().await.unwrap().unwrap().height, expected);
    }
    let made = v1::CreateNamespaceRequest { name: "made-there".to_owned(), shard_id: None };
    let made = node.admin().create_namespace(made).await.unwrap().into_inner();
    let lookup = v1::get_namespace_request::Lookup::Name("made-there".to_owned());
    let lookup = v1::GetNamespaceRequest { lookup: Some(lookup) };
    let found = cluster.node(1).admin().get_namespace(lookup).await.unwrap().into_inner();
    assert_eq!(found.namespace_id, made.namespace_id);
    let proved = v1::VerifiedGetRequest {
        namespace_id,
        vault_id,
        keys: vec![v1::VerifiedKey {
            key: Some(v1::verified_key::Key::Entity("through-it".to_owned())),
        }],
        ..v1::VerifiedGetRequest::default()
    };
    assert!(!node.ledger().verified_get(proved).await.unwrap().into_inner().package.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_joins_and_serves() {
    let cluster = Cluster::start(3).await;
    let mut spec = cluster.spare("fourth");
    spec.founders = 3;
    spec.peers = cluster.addresses();
    let mut fourth = Server::start(spec).unwrap();
    fourth.wait_ready(READY_TIME_MAX).await.unwrap();
    let node = Node::at(&fourth.address());
    let status = node.status().await.unwrap().node.unwrap();
    let home = cluster.node(0).status().await.unwrap().node.unwrap();
    assert_eq!(status.cluster_id, home.cluster_id);
    assert_eq!((status.node_id, status.name.as_str()), (4, "fourth"));
    for known in cluster.nodes() {
        eventually("every node knows the new one", || async {
            let nodes = known.status().await.map_err(|status| status.to_string())?.nodes;
            let is_known = nodes.iter().any(|node| node.address == fourth.address());
            if is_known { Ok(()) } else { Err(format!("{nodes:?}")) }
        })
        .await;
    }
    serves_what_others_hold(&node, &cluster).await;

    // It comes back as the same node, and nobody misses it meanwhile.
    let vault = cluster.vaults("after", 1).await[0];
    fourth.kill();
    cluster.node(0).put(vault, "meanwhile", b"1").await.unwrap();
    fourth.resume().unwrap();
    fourth.wait_ready(READY_TIME_MAX).await.unwrap();
    let again = Node::at(&fourth.address());
    let status = again.status().await.unwrap().node.unwrap();
    assert_eq!((status.node_id, status.store_id.is_empty()), (4, false));
    let request = write_request(vault, vec![set("after", b"2")]);
    eventually("it serves again", || async { again.writes().write(request.clone()).await }).await;
    assert_eq!(again.read(vault, "meanwhile").await.unwrap().as_deref(), Some(&b"1"[..]));
    cluster.assert_ready().await;
}
