//! Nodes that find each other over loopback, with crashes at every durable write.

use std::sync::Arc;
use std::time::Duration;

use ledger_types::{ClusterId, NodeId, StoreId};

use super::*;
use crate::peer::Membership;
use crate::peer::test_nodes::{Crash, MemoryRows, TestNode, pair};

fn settings(addresses: &[String]) -> BootstrapSettings {
    let peers = PeerSource::Listed(addresses.to_vec());
    BootstrapSettings {
        settle: Duration::from_millis(100),
        interval: Duration::from_millis(10),
        ..BootstrapSettings::new(peers, None)
    }
}

/// Starts nodes named `a`, `b`, … on free ports.
async fn nodes(count: u8, expect: u32) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for number in 1..=count {
        nodes.push(TestNode::start(number, expect, MemoryRows::new()).await);
    }
    nodes
}

fn addresses(nodes: &[TestNode]) -> Vec<String> {
    nodes.iter().map(|node| node.address.clone()).collect()
}

/// Lets nodes look for their cluster at the same time; each tells how it went.
async fn establish_all(nodes: &[TestNode]) -> Vec<Result<Established, BootstrapError>> {
    let settings = settings(&addresses(nodes));
    let mut tasks = Vec::new();
    for node in nodes {
        let (state, settings) = (node.state.clone(), settings.clone());
        tasks.push(tokio::spawn(async move { establish(&state, &settings).await }));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        let outcome = timeout(Duration::from_secs(20), task).await;
        outcomes.push(outcome.expect("in time").expect("no panic"));
    }
    outcomes
}

fn clusters(outcomes: &[Result<Established, BootstrapError>]) -> Vec<ClusterId> {
    let cluster = |outcome: &Result<Established, BootstrapError>| {
        outcome.as_ref().expect("established").identity.cluster
    };
    let mut clusters: Vec<ClusterId> = outcomes.iter().map(cluster).collect();
    clusters.dedup();
    clusters
}

#[tokio::test]
async fn one_node_founds_alone() {
    let nodes = nodes(1, 1).await;
    let outcome = establish_all(&nodes).await.remove(0).expect("founded");
    assert_eq!(outcome.identity.node, NodeId(1));
    let hex = outcome.identity.cluster.to_string();
    assert_eq!(outcome.identity.domain, format!("{}.ledger", &hex[..16]));
    assert!(outcome.founding.is_some());
    assert_ne!(outcome.identity.cluster, ClusterId::default());
}

#[tokio::test]
async fn three_nodes_found_one_cluster_and_number_themselves_by_name() {
    let nodes = nodes(3, 3).await;
    let outcomes = establish_all(&nodes).await;
    assert_eq!(clusters(&outcomes).len(), 1);
    let genesis = outcomes[0].as_ref().expect("founded").genesis.clone();
    for (place, outcome) in outcomes.iter().enumerate() {
        let outcome = outcome.as_ref().expect("founded");
        assert_eq!(outcome.identity.node, NodeId(place as u64 + 1));
        assert_eq!(outcome.genesis, genesis);
        assert_eq!(outcome.founding.as_ref(), Some(&genesis));
    }
    // A restart needs the rows only: nobody else is there, nothing is listed.
    let restarted = PeerState::open(nodes[1].rows.clone(), nodes[1].state.local().clone());
    let restarted = restarted.expect("opens");
    let alone = establish(&restarted, &settings(&[])).await.expect("remembers");
    assert_eq!((alone.identity.node, alone.genesis), (NodeId(2), genesis));
    restarted.finish_founding().expect("writes");
    let addresses = vec![(NodeId(3), "c:1".to_owned())];
    restarted.remember_addresses(&addresses).expect("writes");
    assert_eq!(nodes[1].state.remembered_addresses(), Ok(addresses));
    let restarted = PeerState::open(nodes[1].rows.clone(), nodes[1].state.local().clone());
    assert!(restarted.expect("opens").established().expect("a member").founding.is_none());
}

#[tokio::test]
async fn every_crash_of_every_founder_is_survived() {
    for crashing in 0..3 {
        for write in 0..3 {
            for crash in [Crash::BeforeWrite(write), Crash::AfterWrite(write)] {
                let mut nodes = nodes(3, 3).await;
                nodes[crashing].rows.crash_at(crash);
                let settings = settings(&addresses(&nodes));
                let mut others = Vec::new();
                for (place, node) in nodes.iter().enumerate() {
                    if place != crashing {
                        let (state, settings) = (node.state.clone(), settings.clone());
                        let task = async move { establish(&state, &settings).await };
                        others.push(tokio::spawn(task));
                    }
                }
                let state = nodes[crashing].state.clone();
                let crashed = establish(&state, &settings).await;
                assert!(matches!(crashed, Err(BootstrapError::State(_))), "{crash:?} is met");
                nodes[crashing].restart().await;
                let state = nodes[crashing].state.clone();
                let resumed = timeout(Duration::from_secs(20), establish(&state, &settings)).await;
                let mut outcomes = vec![resumed.expect("in time")];
                for other in others {
                    let outcome = timeout(Duration::from_secs(20), other).await;
                    outcomes.push(outcome.expect("in time").expect("no panic"));
                }
                assert_eq!(clusters(&outcomes).len(), 1, "node {crashing}, {crash:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_later_node_joins_and_a_taken_name_is_final() {
    let founders = nodes(1, 1).await;
    let founded = establish_all(&founders).await.remove(0).expect("founded");
    founders[0].serve();
    let joiner = TestNode::start(5, 1, MemoryRows::new()).await;
    let listed = settings(&addresses(&founders));
    let joined = establish(&joiner.state, &listed).await.expect("joins");
    assert_eq!(joined.identity.cluster, founded.identity.cluster);
    assert_eq!(joined.identity.domain, founded.identity.domain);
    assert_eq!(joined.genesis, founded.genesis);
    assert_eq!((joined.identity.node, joined.founding), (NodeId(1005), None));
    let reopened = PeerState::open(joiner.rows.clone(), joiner.state.local().clone());
    let reopened = reopened.expect("opens").established().expect("a member");
    assert_eq!(reopened.identity.node, NodeId(1005));

    founders[0].directory.take_name("e");
    let twin = TestNode::start(5, 1, MemoryRows::new()).await;
    match establish(&twin.state, &listed).await {
        Err(BootstrapError::Refused { reason, .. }) => {
            assert_eq!(reason, "REFUSAL_REASON_NAME_TAKEN");
        }
        other => panic!("not refused: {other:?}"),
    }
    assert!(twin.state.established().is_none());
}

#[tokio::test]
async fn a_hint_leads_to_the_leader() {
    let founders = nodes(2, 2).await;
    let outcomes = establish_all(&founders).await;
    let cluster = clusters(&outcomes);
    founders[0].serve();
    founders[1].serve();
    founders[0].directory.point_to(&founders[1].address);
    let joiner = TestNode::start(5, 1, MemoryRows::new()).await;
    let listed = settings(&addresses(&founders[..1]));
    let joined = establish(&joiner.state, &listed).await.expect("joins");
    assert_eq!(vec![joined.identity.cluster], cluster);
    assert_eq!(founders[1].directory.joined(), [StoreId([5; 16])]);
    assert!(founders[0].directory.joined().is_empty());
}

#[tokio::test]
async fn a_node_between_two_clusters_stops() {
    let first = nodes(1, 1).await;
    let second = vec![TestNode::start(2, 1, MemoryRows::new()).await];
    establish_all(&first).await.remove(0).expect("founded");
    establish_all(&second).await.remove(0).expect("founded");
    let lost = TestNode::start(3, 3, MemoryRows::new()).await;
    let both = [addresses(&first), addresses(&second)].concat();
    let outcome = establish(&lost.state, &settings(&both)).await;
    assert!(matches!(outcome, Err(BootstrapError::TwoClusters { .. })), "{outcome:?}");
}

#[tokio::test]
async fn another_name_on_a_members_directory_is_refused() {
    let nodes = nodes(1, 1).await;
    establish_all(&nodes).await.remove(0).expect("founded");
    let mut local = nodes[0].state.local().clone();
    local.name = "z".to_owned();
    let refused = PeerState::open(nodes[0].rows.clone(), local);
    let expected = StateError::NameChanged { stored: "a".to_owned(), configured: "z".to_owned() };
    match refused {
        Err(BootstrapError::State(error)) => assert_eq!(error, expected),
        other => panic!("not refused: {other:?}"),
    }
}

/// A restart of a member on these rows, its store opened `boots` times by now.
async fn start_again(
    of: &TestNode,
    rows: &Arc<MemoryRows>,
    boots: u64,
    peers: &[String],
) -> Result<Established, BootstrapError> {
    let mut local = of.state.local().clone();
    local.boot_counter = boots;
    establish(&PeerState::open(rows.clone(), local)?, &settings(peers)).await
}

fn stopped_by(outcome: Result<Established, BootstrapError>) -> StateError {
    match outcome {
        Err(BootstrapError::State(error)) => error,
        other => panic!("not turned away: {other:?}"),
    }
}

#[tokio::test]
async fn a_removed_store_does_not_start_again() {
    let (first, second) = pair().await;
    let peers = [second.address.clone()];
    start_again(&first, &first.rows, 2, &peers).await.expect("a member");
    second.book.set(NodeId(1), &first.address, Membership::Removed);
    let error = stopped_by(start_again(&first, &first.rows, 3, &peers).await);
    assert!(matches!(error, StateError::Removed { .. }), "{error:?}");
    // It knows from now on, without asking anybody.
    let error = stopped_by(start_again(&first, &first.rows, 4, &[]).await);
    assert!(matches!(error, StateError::Removed { .. }), "{error:?}");
}

#[tokio::test]
async fn an_old_copy_of_a_directory_does_not_start_however_often_it_is_tried() {
    let (first, second) = pair().await;
    let peers = [second.address.clone()];
    let copy = first.rows.copy();
    for boots in 2..=4 {
        start_again(&first, &first.rows, boots, &peers).await.expect("the original goes on");
    }
    let error = stopped_by(start_again(&first, &copy, 2, &peers).await);
    assert!(matches!(error, StateError::RolledBack { .. }), "{error:?}");
    // Its counter would pass the original's with time.
    let error = stopped_by(start_again(&first, &copy, 9, &peers).await);
    assert!(matches!(error, StateError::RolledBack { .. }), "{error:?}");
    start_again(&first, &first.rows, 5, &peers).await.expect("the original is not disturbed");
}

#[tokio::test]
async fn remembered_addresses_are_asked_when_the_configured_ones_are_silent() {
    let (first, second) = pair().await;
    let addresses = vec![(NodeId(2), second.address.clone())];
    first.state.remember_addresses(&addresses).expect("writes");
    second.book.set(NodeId(1), &first.address, Membership::Removed);
    let error = stopped_by(start_again(&first, &first.rows, 2, &[]).await);
    assert!(matches!(error, StateError::Removed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_real_store_keeps_the_cluster() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = ledger_shard::StoreConfig::default();
    let open = || ledger_shard::Store::open(directory.path(), None, &config).expect("opens");
    let local = |store: &ledger_shard::Store| crate::peer::LocalNode {
        name: "solo".to_owned(),
        store: store.id(),
        public_key: [3; 32],
        address: "127.0.0.1:1".to_owned(),
        zone: String::new(),
        boot_counter: store.boots(),
        bootstrap_expect: 1,
        feature_level: 1,
    };
    let store = Arc::new(open());
    let state = PeerState::open(store.clone(), local(&store)).expect("opens");
    let founded = establish(&state, &settings(&[])).await.expect("founded");
    assert_eq!(store.cluster(), Ok(Some(founded.identity.cluster)));
    drop((state, store));
    let store = Arc::new(open());
    let state = PeerState::open(store.clone(), local(&store)).expect("opens");
    let again = state.established().expect("a member");
    assert_eq!(again.genesis, founded.genesis);
    assert_eq!(again.identity.boot_counter, founded.identity.boot_counter + 1);
}
