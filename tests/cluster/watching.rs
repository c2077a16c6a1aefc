//! A watch that outlives the node that serves it, one that nobody reads, and as many as a node serves.

use std::time::Duration;

use ledger::demo::replicas::wait_level;
use ledger_client::BlockNotice;
use ledger_proto::v1;
use ledger_types::VaultRef;
use ledger_types::limits::WATCHES_PER_NODE_MAX;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, WAIT_MAX, eventually, why, wire};
use super::load::Load;

async fn next(notices: &mut mpsc::Receiver<BlockNotice>, within: Duration) -> BlockNotice {
    let notice = tokio::time::timeout(within, notices.recv()).await.expect("the watch goes on");
    notice.expect("the watch lives")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_and_repeats_nothing_while_nodes_are_killed() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("watching", 1).await;
    let client = cluster.client().await;
    let mut watch = client.watch_blocks(vaults[0], 1);
    let (announce, mut notices) = mpsc::channel(64 * 1024);
    let watching =
        tokio::spawn(
            async move { while announce.send(watch.next().await.unwrap()).await.is_ok() {} },
        );
    let mut load = Load::start(&client, &vaults, 2);
    // Each in turn, so that the one that serves the watch is among them.
    for victim in 0..3 {
        load.wait_more(20).await;
        cluster.servers[victim].kill();
        load.wait_more(20).await;
        cluster.resume(victim).await;
    }
    load.finish().await;
    let tips = wait_level(&cluster.replicas(), &vaults, WAIT_MAX).await.unwrap();
    let tip = tips[&vaults[0]];
    for height in 1..=tip.height {
        let notice = next(&mut notices, WAIT_MAX).await;
        assert_eq!((notice.vault, notice.height), (vaults[0], height));
        if height == tip.height {
            assert_eq!((notice.block_hash, notice.state_root), (tip.block_hash, tip.state_root));
        }
    }
    // What comes next is the next block and not an old one again.
    let height = cluster.node(0).put(vaults[0], "after", b"1").await.unwrap();
    assert_eq!(height, tip.height + 1);
    assert_eq!(next(&mut notices, WAIT_MAX).await.height, height);
    drop(notices);
    watching.abort();
}

type Blocks = Streaming<v1::BlockAnnouncement>;

async fn watch_from(node: &Node, vault: VaultRef, start_height: u64) -> Result<Blocks, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::WatchBlocksRequest { namespace_id, vault_id, start_height };
    Ok(node.reads().watch_blocks(request).await?.into_inner())
}

/// The next message of a watch, which comes.
async fn told<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let told = tokio::time::timeout(WAIT_MAX, stream.message()).await.expect("the watch goes on");
    told.transpose().expect("a watch does not end well by itself")
}

fn assert_too_many(status: &Status) {
    let expected = (Code::ResourceExhausted, "TOO_MANY_WATCHES".to_owned());
    assert_eq!(why(status), expected, "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["limit"], "watches_per_node_max");
    assert_eq!(facts["max"], WATCHES_PER_NODE_MAX.to_string());
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_so_many_watches_tells_all_of_each_block_and_refuses_the_next() {
    let cluster = Cluster::start(1).await;
    let vaults = cluster.vaults("watched", 2).await;
    let node = cluster.node(0);
    let (namespace_id, vault_id) = wire(vaults[0]);
    let changes = v1::WatchChangesRequest { namespace_id, vault_id, ..Default::default() };
    let mut watches = Vec::new();
    for _ in 1..WATCHES_PER_NODE_MAX {
        watches.push(watch_from(&node, vaults[0], 1).await.unwrap());
    }
    // Both kinds, of whatever vaults, count together.
    let last = node.ledger().watch_changes(changes.clone()).await.unwrap().into_inner();
    assert_eq!(cluster.metric(0, "ledger_watches_open").await, WATCHES_PER_NODE_MAX as f64);
    assert_too_many(&watch_from(&node, vaults[1], 1).await.unwrap_err());
    assert_too_many(&node.ledger().watch_changes(changes).await.unwrap_err());

    let height = node.put(vaults[0], "watched", b"1").await.unwrap();
    let mut reading = JoinSet::new();
    for mut watch in watches {
        reading.spawn(async move { told(&mut watch).await.map(|block| (block.height, watch)) });
    }
    let mut told_to = Vec::new();
    while let Some(read) = reading.join_next().await {
        let (told_height, watch) = read.unwrap().unwrap();
        assert_eq!(told_height, height);
        told_to.push(watch);
    }
    assert_eq!(told_to.len() + 1, WATCHES_PER_NODE_MAX);

    // One that is left makes room for one.
    drop(last);
    let again = async || watch_from(&node, vaults[1], 1).await.map_err(|status| why(&status));
    let _another = eventually("there is room again", again).await;
    assert_too_many(&watch_from(&node, vaults[1], 1).await.unwrap_err());
    drop(told_to);
    eventually("the others are gone", async || {
        let open = cluster.metric(0, "ledger_watches_open").await;
        if open == 1.0 { Ok(()) } else { Err(open) }
    })
    .await;
}

#[cfg(feature = "failpoints")]
mod slow {
    use tonic::transport::Endpoint;

    use super::super::points::Points;
    use super::*;

    /// Blocks of the vault, and bytes of the value in each. Together far more than waits in the server and on the way: 64
    /// answers, the half megabyte of the transport, and the client's window.
    const BLOCKS: u64 = 200;
    const VALUE_BYTES: usize = 16 << 10;
    /// What a client takes in on a stream before it reads.
    const WINDOW_BYTES: u32 = 65_535;

    /// A client that takes in little that it does not read.
    fn small(cluster: &Cluster) -> Node {
        let address = format!("http://{}", cluster.servers[0].address());
        let endpoint = Endpoint::from_shared(address).unwrap();
        let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES);
        let endpoint = endpoint.initial_connection_window_size(WINDOW_BYTES);
        Node { channel: endpoint.connect_lazy() }
    }

    fn resume_height(status: &Status) -> u64 {
        let expected = (Code::ResourceExhausted, "SLOW_WATCHER".to_owned());
        assert_eq!(why(status), expected, "{status:?}");
        assert!(status.get_details_retry_info().is_some());
        status.get_details_error_info().unwrap().metadata["resume_height"].parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_watch_that_nobody_reads_ends_and_the_next_one_goes_on_where_it_was() {
        let points = Points::new();
        let cluster = Cluster::start_with(1, &[points.setting()]).await;
        let vault = cluster.vaults("slow", 1).await[0];
        points.set("watch::slow_time_ms=return(100)\n").await;
        let node = cluster.node(0);
        let mut quick = watch_from(&node, vault, 1).await.unwrap();
        for number in 1..=BLOCKS {
            let value = vec![number as u8; VALUE_BYTES];
            assert_eq!(node.put(vault, "watched", &value).await.unwrap(), number);
            assert_eq!(told(&mut quick).await.unwrap().height, number);
        }

        let (namespace_id, vault_id) = wire(vault);
        let changes = |start_height| v1::WatchChangesRequest {
            namespace_id,
            vault_id,
            start_height: Some(start_height),
            include_values: true,
            ..Default::default()
        };
        let unread = small(&cluster).ledger().watch_changes(changes(1)).await.unwrap();
        eventually("the watch is given up", async || {
            let slow = cluster.metric(0, "ledger_slow_watches_total").await;
            if slow == 1.0 { Ok(()) } else { Err(slow) }
        })
        .await;
        let (mut unread, mut values) = (unread.into_inner(), Vec::new());
        let status = loop {
            match told(&mut unread).await {
                Ok(answer) => {
                    values.extend(answer.block.map(|block| (block.height, block.changes)))
                }
                Err(status) => break status,
            }
        };
        let resume = resume_height(&status);
        assert!(resume > 1 && resume <= BLOCKS, "{resume}");
        assert_eq!(values.len() as u64 + 1, resume);
        let next = node.ledger().watch_changes(changes(resume)).await.unwrap();
        let mut next = next.into_inner();
        for _ in resume..=BLOCKS {
            let block = told(&mut next).await.unwrap().block.expect("no heartbeat before the end");
            values.push((block.height, block.changes));
        }
        for ((height, changes), number) in values.iter().zip(1..=BLOCKS) {
            let value = changes[0].value.as_ref().unwrap();
            assert_eq!((*height, value[0]), (number, number as u8));
        }
        assert_eq!(values.len() as u64, BLOCKS);
        // The one that was read all the time was never slow.
        let height = node.put(vault, "watched", b"the last").await.unwrap();
        assert_eq!(told(&mut quick).await.unwrap().height, height);
    }
}
