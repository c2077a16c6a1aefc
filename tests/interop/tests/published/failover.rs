//! Writes and watches while the node that serves them is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use inferadb_ledger_sdk::{LedgerClient, ListEntitiesOpts, Operation, SetCondition};

use super::fixture::{WAIT_MAX, World, eventually, set};

const WRITERS: usize = 16;
const WRITES: usize = 60;

/// How long a node tries to settle a write: its default deadline, and a little less for what came before.
const SETTLING: Duration = Duration::from_secs(9);

/// Writes keys that must not be there yet. A write that was carried out twice would find its own key the second time.
/// Returns the numbers that writes got, in order. A failure is taken only from a cluster that had no time left, as on a
/// machine that does too much at once; then the key tells what became of the write.
async fn write_once_each(
    client: LedgerClient,
    place: (i64, i64),
    writer: usize,
    done: Arc<AtomicUsize>,
) -> Vec<u64> {
    let mut sequences = Vec::new();
    for number in 0..WRITES {
        let key = format!("{writer}/{number:03}");
        loop {
            let begun = Instant::now();
            let set = Operation::set_entity_if(key.clone(), b"x".to_vec(), SetCondition::NotExists);
            match client.write(place.0, Some(place.1), vec![set]).await {
                Ok(success) => {
                    sequences.push(success.assigned_sequence);
                    break;
                }
                Err(error) => assert!(begun.elapsed() >= SETTLING, "{key}: {error}"),
            }
            let read = async || client.read_consistent(place.0, Some(place.1), key.as_str()).await;
            if eventually("the key is read", read).await.is_some() {
                break;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    sequences
}

async fn wait_for(done: &AtomicUsize, count: usize) {
    let enough = async || match done.load(Ordering::Relaxed) {
        now if now >= count => Ok(()),
        now => Err(now),
    };
    eventually("writes go on", enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_carried_out_once_while_leaders_are_killed() {
    let mut world = World::make("once", &[]).await;
    let maker = world.client(0, "maker").await;
    let vault = world.vault(&maker).await;
    let place = (world.namespace, vault);
    // Clients keep to a node that lives; leaders elsewhere are killed under them.
    let leader = world.leader_of(&maker, vault).await;
    let entry = (leader + 1) % 3;
    let done = Arc::new(AtomicUsize::new(0));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = world.client(entry, &format!("once-{writer}")).await;
        writers.push(tokio::spawn(write_once_each(client, place, writer, done.clone())));
    }
    let observer = world.client(entry, "observer").await;
    for round in 1..=3 {
        wait_for(&done, round * WRITERS * WRITES / 5).await;
        let leader = world.leader_of(&observer, vault).await;
        if leader == entry {
            // It leads by now: whoever is killed else takes part in every quorum until it is back.
            continue;
        }
        world.cluster.kill(leader);
        wait_for(&done, round * WRITERS * WRITES / 5 + WRITERS).await;
        world.cluster.resume(leader).await;
    }
    for writer in writers {
        let sequences = writer.await.unwrap();
        assert!(sequences.is_sorted_by(|a, b| a < b), "one number for each write: {sequences:?}");
        assert!(sequences.last().is_none_or(|last| *last <= WRITES as u64), "{sequences:?}");
    }
    let all = ListEntitiesOpts::with_prefix("").vault(vault).linearizable().limit(10_000);
    let page = observer.list_entities(world.namespace, all).await.unwrap();
    assert_eq!(page.items.len(), WRITERS * WRITES);
    world.cluster.assert_ready().await;
}

/// Writes so many blocks of which a watch is to tell.
async fn write_blocks(client: &LedgerClient, place: (i64, i64), count: u64) {
    for number in 0..count {
        let operations = vec![set("k", &number.to_string())];
        client.write(place.0, Some(place.1), operations).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_while_its_leader_is_killed_and_its_node_restarts() {
    const BLOCKS: u64 = 20;
    let mut world = World::make("watched", &[]).await;
    let maker = world.client(0, "maker").await;
    let vault = world.vault(&maker).await;
    let place = (world.namespace, vault);
    let leader = world.leader_of(&maker, vault).await;
    let (node, beside) = ((leader + 1) % 3, (leader + 2) % 3);
    let (watcher, writer) = (world.client(node, "watcher").await, world.client(beside, "w").await);
    let mut watch = Box::pin(watcher.watch_blocks(place.0, place.1, 1).await.unwrap());
    let mut next = 1;
    let mut see = async |until: u64| {
        while next <= until {
            let block = tokio::time::timeout(WAIT_MAX, watch.next()).await.expect("it goes on");
            let block = block.expect("the stream lives").expect("it goes on by itself");
            assert_eq!((block.namespace_id, block.height), (place.0, next));
            next += 1;
        }
    };
    write_blocks(&writer, place, BLOCKS).await;
    see(BLOCKS).await;
    world.cluster.kill(leader);
    write_blocks(&writer, place, BLOCKS).await;
    see(2 * BLOCKS).await;
    world.cluster.resume(leader).await;
    // A node that is told to stop ends its streams, and the SDK opens them again when it is back.
    world.cluster.stop(node).await;
    write_blocks(&writer, place, BLOCKS).await;
    world.cluster.resume(node).await;
    see(3 * BLOCKS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_opened_again_misses_and_repeats_nothing() {
    const BLOCKS: u64 = 20;
    let mut world = World::make("again", &[]).await;
    let maker = world.client(0, "maker").await;
    let vault = world.vault(&maker).await;
    let place = (world.namespace, vault);
    let (mut next, mut written) = (1, 0);
    for node in 0..3 {
        let watcher = world.client(node, "watcher").await;
        let writer = world.client((node + 1) % 3, "writer").await;
        let mut watch = Box::pin(watcher.watch_blocks(place.0, place.1, next).await.unwrap());
        write_blocks(&writer, place, BLOCKS).await;
        written += BLOCKS;
        while next <= written {
            assert_eq!(watch.next().await.unwrap().unwrap().height, next);
            next += 1;
        }
        // To the SDK a connection that breaks without a word is the end of a watch; its caller opens another.
        world.cluster.kill(node);
        write_blocks(&writer, place, BLOCKS).await;
        written += BLOCKS;
        world.cluster.resume(node).await;
    }
    let last = world.client(0, "last").await;
    let mut watch = Box::pin(last.watch_blocks(place.0, place.1, next).await.unwrap());
    for height in next..=written {
        assert_eq!(watch.next().await.unwrap().unwrap().height, height);
    }
}
