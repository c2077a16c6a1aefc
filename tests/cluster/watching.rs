//! A watch that outlives the node that serves it.

use std::time::Duration;

use ledger::demo::replicas::wait_level;
use ledger_client::BlockNotice;
use tokio::sync::mpsc;

use super::harness::{Cluster, WAIT_MAX};
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
