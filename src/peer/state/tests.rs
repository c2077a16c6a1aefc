//! Stores that must not take part any more, over loopback: removed, rolled back, copied.

use std::time::Duration;

use ledger_proto::internal::peer_client::PeerClient;
use ledger_proto::internal::{HelloRequest, PeerIdentity, Refusal, RefusalReason, hello_response};
use ledger_shard::{GroupMessage, Lane, OutMessage, Outbox};
use ledger_types::{GroupId, Incarnation};

use super::*;
use crate::peer::test_nodes::{PATIENCE, TestNode, TestSink, pair};
use crate::peer::{Membership, Transport, TransportLimits};

fn transport(node: &TestNode, state: &Arc<PeerState>) -> Arc<Transport> {
    let backoff_max = Duration::from_millis(100);
    let limits = TransportLimits { backoff_max, ..TransportLimits::default() };
    let transport = Transport::new(state, node.book.clone(), limits);
    transport.attach(node.sink.clone());
    transport
}

fn message(group: u64) -> OutMessage {
    let (group, from, to) = (GroupId(group), Incarnation(1), Incarnation(2));
    let message =
        GroupMessage { group, from, to, payload: vec![1], log_floor: 0, is_catching_up: false };
    OutMessage { node: NodeId(2), lane: Lane::Data, message }
}

/// Introduces somebody to a node: why it is turned away, if it is.
async fn hello(node: &TestNode, identity: PeerIdentity) -> Option<RefusalReason> {
    let endpoint = crate::context::endpoint(&node.address).expect("an address");
    let mut client = PeerClient::new(endpoint.connect().await.expect("connects"));
    let lane = internal::Lane::Control.into();
    let request = HelloRequest { identity: Some(identity), lane };
    let answer = client.hello(request).await.expect("answers").into_inner().answer;
    match answer.expect("an answer") {
        hello_response::Answer::Refusal(refusal) => Some(refusal.reason()),
        hello_response::Answer::Identity(_) => None,
    }
}

/// Another process on a copy of the node's directory, which was opened `boots` times.
fn copy(node: &TestNode, boots: u64) -> Arc<PeerState> {
    let mut local = node.state.local().clone();
    local.boot_counter = boots;
    PeerState::open(node.rows.copy(), local).expect("opens")
}

async fn stops(state: &PeerState) -> StateError {
    tokio::time::timeout(PATIENCE, state.failed()).await.expect("it stops in time")
}

#[tokio::test]
async fn one_of_two_processes_with_one_store_and_count_is_let_in() {
    let (first, second) = pair().await;
    let twin = copy(&first, 1);
    assert_eq!(hello(&second, first.state.identity()).await, None);
    assert_eq!(hello(&second, first.state.identity()).await, None, "each of its streams");
    assert_eq!(hello(&second, twin.identity()).await, Some(RefusalReason::RolledBack));
    assert_eq!(hello(&second, first.state.identity()).await, None, "the first one stays");

    // The twin's own transport hears of it, and the twin is over for good.
    let outbound = transport(&first, &twin);
    outbound.send(vec![message(1)]);
    assert!(matches!(stops(&twin).await, StateError::RolledBack { .. }));
    assert!(second.sink.messages.lock().is_empty(), "nothing of it was taken");
    let rows = twin.rows.clone();
    let again = PeerState::open(rows, twin.local().clone());
    let is_known = matches!(&again, Err(BootstrapError::State(StateError::RolledBack { .. })));
    assert!(is_known, "{again:?}");
    assert_eq!(first.state.fault(), None);
}

#[tokio::test]
async fn a_copy_stays_out_when_its_original_is_gone_and_the_others_were_started_again() {
    let (first, second) = pair().await;
    assert_eq!(hello(&second, first.state.identity()).await, None);
    let twin = copy(&first, 1);
    let rows = second.rows.clone();
    let again = PeerState::open(rows, second.state.local().clone()).expect("opens");
    let reason = |state: &PeerState| {
        let checked = again.check_peer(Some(&state.identity()), &*second.book);
        checked.err().map(|refusal| refusal.reason())
    };
    assert_eq!(reason(&twin), Some(RefusalReason::RolledBack));
    assert_eq!(reason(&first.state), None, "the process that counted this start");
    assert_eq!(reason(&copy(&first, 2)), None, "the next start counts on");
    assert_eq!(reason(&first.state), Some(RefusalReason::RolledBack));
}

#[tokio::test]
async fn a_later_start_of_the_store_is_let_in_once_the_earlier_one_is_gone() {
    let (first, second) = pair().await;
    let outbound = transport(&first, &first.state);
    outbound.send(vec![message(1)]);
    second.sink.wait("the stream is open", |sink| sink.messages.lock().len() == 1).await;
    // A copy that is started beside its original has the higher count, and must not win by it.
    let later = copy(&first, 2);
    assert_eq!(hello(&second, later.identity()).await, Some(RefusalReason::StillAlive));
    assert_eq!(hello(&second, first.state.identity()).await, None, "the original is not disturbed");
    outbound.send(vec![message(2)]);
    second.sink.wait("its stream goes on", |sink| sink.messages.lock().len() == 2).await;
    assert_eq!((first.state.fault(), later.fault()), (None, None));

    // The original ends: what is left is an ordinary restart.
    outbound.close();
    let let_in = async { while hello(&second, later.identity()).await.is_some() {} };
    tokio::time::timeout(PATIENCE, let_in).await.expect("it is let in");
    transport(&first, &first.state).send(vec![message(3)]);
    assert!(matches!(stops(&first.state).await, StateError::RolledBack { .. }));
    assert_eq!(second.sink.messages.lock().len(), 2, "nothing more of it was taken");
}

#[tokio::test]
async fn a_process_whose_earlier_one_never_ends_is_a_copy() {
    let (first, _second) = pair().await;
    let doubt = || Refusal {
        reason: RefusalReason::StillAlive.into(),
        detail: "it is heard".to_owned(),
        cluster_id: vec![0xcc; 16],
        leader_address: String::new(),
    };
    first.state.turned_away(&doubt());
    first.state.turned_away(&doubt());
    assert_eq!(first.state.fault(), None, "it may be dying");
    let twin = copy(&first, 2);
    let (now, gap) = (Instant::now(), live::DOUBT_GAP_MAX);
    let long_ago = now.checked_sub(live::DOUBT_TIME_MAX).expect("the clock is older");
    *twin.doubted.lock() = Some((long_ago, now.checked_sub(2 * gap).expect("the clock is older")));
    twin.turned_away(&doubt());
    assert_eq!(twin.fault(), None, "it was let in meanwhile, and this is a doubt of its own");
    *twin.doubted.lock() = Some((long_ago, now));
    twin.turned_away(&doubt());
    assert!(matches!(stops(&twin).await, StateError::RolledBack { .. }));
    assert!(live::DOUBT_TIME_MAX > SILENCE, "an ordinary restart is let in before");
}

#[tokio::test]
async fn a_node_that_is_removed_stops_in_the_middle_of_its_stream() {
    let (first, second) = pair().await;
    let outbound = transport(&first, &first.state);
    outbound.send(vec![message(1)]);
    second.sink.wait("the stream is open", |sink| sink.messages.lock().len() == 1).await;
    second.book.set(NodeId(1), &first.address, Membership::Removed);
    outbound.send(vec![message(2)]);
    let fault = stops(&first.state).await;
    assert!(matches!(fault, StateError::Removed { .. }), "{fault:?}");
    assert!(fault.to_string().contains("was removed from the cluster"), "{fault}");
    assert_eq!(second.sink.messages.lock().len(), 1);
}

#[tokio::test]
async fn only_what_members_of_its_own_cluster_say_stops_a_node() {
    let (first, second) = pair().await;
    let refusal = |reason: RefusalReason, cluster_id: Vec<u8>| Refusal {
        reason: reason.into(),
        detail: "so it says".to_owned(),
        cluster_id,
        leader_address: String::new(),
    };
    for cluster in [vec![], vec![0xdd; 16]] {
        first.state.turned_away(&refusal(RefusalReason::Removed, cluster.clone()));
        first.state.turned_away(&refusal(RefusalReason::RolledBack, cluster));
    }
    for reason in [RefusalReason::UnknownStore, RefusalReason::NotBootstrapped] {
        first.state.turned_away(&refusal(reason, vec![0xcc; 16]));
    }
    assert_eq!(first.state.fault(), None);

    // That this node does not trust the other one is no reason either.
    first.book.set(NodeId(2), &second.address, Membership::Removed);
    let outbound = transport(&first, &first.state);
    outbound.send(vec![message(1)]);
    let told = |sink: &TestSink| sink.unreachable.lock().contains(&NodeId(2));
    first.sink.wait("the loss is told", told).await;
    assert_eq!(first.state.fault(), None);

    first.state.turned_away(&refusal(RefusalReason::Removed, vec![0xcc; 16]));
    first.state.turned_away(&refusal(RefusalReason::RolledBack, vec![0xcc; 16]));
    let expected = StateError::Removed { detail: "so it says".to_owned() };
    assert_eq!(first.state.fault(), Some(expected), "the first reason counts");
}

#[tokio::test]
async fn a_store_is_heard_of_when_it_says_hello() {
    let (first, second) = pair().await;
    let store = first.state.local().store;
    let asked = Instant::now();
    assert!(second.state.silent_for(store) > asked.elapsed(), "silent since the node began");
    assert_eq!(hello(&second, first.state.identity()).await, None);
    assert!(second.state.silent_for(store) <= asked.elapsed(), "heard since then");
    let mut nameless = first.state.identity();
    nameless.instance_id.clear();
    assert_eq!(hello(&second, nameless).await, Some(RefusalReason::Malformed));
}
