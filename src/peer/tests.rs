//! The transport over loopback: order, refusals, reconnecting, loss.

use std::sync::Arc;
use std::time::Duration;

use ledger_proto::internal::peer_client::PeerClient;
use ledger_proto::internal::{
    Frame, HelloRequest, LookupVaultRequest, PeerIdentity, RefusalReason, hello_response,
};
use ledger_shard::{Lane, OutMessage, Outbox};
use ledger_types::{ClusterId, GroupId, Incarnation};
use tokio::net::TcpListener;
use tonic::transport::Channel;

use super::test_nodes::{MemoryRows, PATIENCE, TestNode, TestSink, pair};
use super::*;
use crate::bootstrap::GenesisPromise;

fn limits() -> TransportLimits {
    let backoff_max = Duration::from_millis(100);
    TransportLimits { backoff_min: Duration::from_millis(10), backoff_max, ..Default::default() }
}

fn transport(node: &TestNode, limits: TransportLimits) -> Arc<Transport> {
    let transport = Transport::new(&node.state, node.book.clone(), limits);
    transport.attach(node.sink.clone());
    transport
}

/// A message to node 2 whose group is its number.
fn message(number: u64, lane: Lane, bytes: usize) -> OutMessage {
    let (from, to) = (Incarnation(1), Incarnation(2));
    let (group, payload) = (GroupId(number), vec![9; bytes]);
    let message =
        GroupMessage { group, from, to, payload, log_floor: number + 1, is_catching_up: true };
    OutMessage { node: NodeId(2), lane, message }
}

fn groups(sink: &TestSink) -> Vec<u64> {
    sink.messages.lock().iter().map(|message| message.group.0).collect()
}

async fn client(node: &TestNode) -> PeerClient<Channel> {
    let channel = crate::context::endpoint(&node.address).expect("an address").connect().await;
    PeerClient::new(channel.expect("connects"))
}

async fn say_hello(node: &TestNode, identity: PeerIdentity) -> hello_response::Answer {
    let request = HelloRequest { identity: Some(identity), lane: internal::Lane::Data.into() };
    let answer = client(node).await.hello(request).await.expect("answers").into_inner();
    answer.answer.expect("an answer")
}

/// Makes an identity wrong in one way.
type Change = fn(&mut PeerIdentity);

async fn refusal(node: &TestNode, identity: PeerIdentity) -> RefusalReason {
    match say_hello(node, identity).await {
        hello_response::Answer::Refusal(refusal) => refusal.reason(),
        hello_response::Answer::Identity(identity) => panic!("not refused: {identity:?}"),
    }
}

#[tokio::test]
async fn messages_arrive_once_and_in_order_in_few_frames() {
    let (first, second) = pair().await;
    let transport = transport(&first, limits());
    let rounds: u64 = 50;
    for round in 0..rounds {
        let data = (0..100).map(|i| message(round * 100 + i, Lane::Data, 300));
        let control = std::iter::once(message(1_000_000 + round, Lane::Control, 20));
        transport.send(data.chain(control).collect());
        tokio::task::yield_now().await;
    }
    let expected = usize::try_from(rounds).expect("small") * 101;
    second.sink.wait("everything arrives", |sink| sink.messages.lock().len() >= expected).await;
    let (control, data): (Vec<u64>, Vec<u64>) =
        groups(&second.sink).into_iter().partition(|group| *group >= 1_000_000);
    assert_eq!(data, (0..rounds * 100).collect::<Vec<_>>());
    assert_eq!(control, (1_000_000..1_000_000 + rounds).collect::<Vec<_>>());
    let received = second.state.metrics().snapshot();
    assert_eq!(received.messages_in, expected as u64);
    assert_eq!(received.bytes_in, rounds * (100 * 300 + 20));
    // At most a frame per round and lane, and the first of each stream.
    assert!(received.frames_in <= 2 * rounds + 2, "{received:?}");
    let sent = first.state.metrics().snapshot();
    assert_eq!((sent.connects, sent.messages_out), (2, expected as u64));
    assert!(first.sink.unreachable.lock().is_empty());
    let message = second.sink.messages.lock()[0].clone();
    assert_eq!(
        (message.from, message.to, message.payload.len()),
        (Incarnation(1), Incarnation(2), 300)
    );
    assert_eq!(message.log_floor, message.group.0 + 1);
    assert!(message.is_catching_up);
}

#[tokio::test]
async fn frames_are_acknowledged_now_and_then() {
    let (first, second) = pair().await;
    let transport = transport(&first, limits());
    let metrics = first.state.metrics().clone();
    let mut sent = 0_u64;
    let acknowledged = async {
        while metrics.snapshot().round_trip_ns == 0 {
            transport.send(vec![message(sent, Lane::Data, 1)]);
            sent += 1;
            let arrived = usize::try_from(sent).expect("small");
            second.sink.wait("it arrives", |sink| sink.messages.lock().len() >= arrived).await;
        }
    };
    tokio::time::timeout(PATIENCE, acknowledged).await.expect("an acknowledgement comes back");
}

#[tokio::test]
async fn a_restarted_node_is_found_again() {
    let (first, mut second) = pair().await;
    let transport = transport(&first, limits());
    transport.send(vec![message(1, Lane::Data, 10), message(2, Lane::Control, 10)]);
    second.sink.wait("both arrive", |sink| sink.messages.lock().len() == 2).await;
    second.stop().await;
    let told = |sink: &TestSink| sink.unreachable.lock().contains(&NodeId(2));
    first.sink.wait("the loss is told", told).await;
    second.restart().await;
    second.serve();
    let arrives = async {
        let mut number = 100;
        while !groups(&second.sink).iter().any(|group| *group >= 100) {
            transport.send(vec![message(number, Lane::Data, 10)]);
            number += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrives).await.expect("messages arrive again");
    assert!(first.state.metrics().snapshot().disconnects >= 1);
}

#[tokio::test]
async fn a_node_that_comes_back_is_not_waited_for() {
    let (first, mut second) = pair().await;
    let patient = TransportLimits {
        backoff_min: 10 * PATIENCE,
        backoff_max: 10 * PATIENCE,
        ..TransportLimits::default()
    };
    second.stop().await;
    let outbound = transport(&first, patient);
    outbound.send(vec![message(1, Lane::Data, 10)]);
    let told = |sink: &TestSink| sink.unreachable.lock().contains(&NodeId(2));
    first.sink.wait("the loss is told", told).await;
    second.restart().await;
    second.serve();
    outbound.send(vec![message(2, Lane::Data, 10)]);
    let back = transport(&second, limits());
    back.send(vec![OutMessage { node: NodeId(1), ..message(3, Lane::Control, 10) }]);
    first.sink.wait("the other direction works", |sink| groups(sink) == [3]).await;
    second.sink.wait("the queued message arrives", |sink| groups(sink) == [2]).await;
}

#[tokio::test]
async fn a_node_that_is_away_is_reported_once_a_lane() {
    let (first, mut second) = pair().await;
    second.stop().await;
    let transport = transport(&first, limits());
    let metrics = first.state.metrics().clone();
    let lost = async {
        while metrics.snapshot().dropped_unsent < 10 {
            transport.send(vec![message(1, Lane::Data, 10)]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("attempts fail");
    assert_eq!(*first.sink.unreachable.lock(), [NodeId(2)]);
}

#[tokio::test]
async fn a_full_data_queue_drops_data_and_tells_but_keeps_control() {
    let (first, second) = pair().await;
    // Takes connections and never says a word, so that everything queues.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    first.book.set(NodeId(2), &address, Membership::Member(second.state.local().store));
    let small = TransportLimits { data_bytes_max: 10_000, ..limits() };
    let transport = transport(&first, small);
    for number in 0..20 {
        transport.send(vec![message(number, Lane::Data, 1_000)]);
    }
    transport.send(vec![message(100, Lane::Control, 1_000)]);
    let counted = first.state.metrics().snapshot();
    assert_eq!((counted.dropped_data, counted.dropped_control), (11, 0));
    assert_eq!(*first.sink.unreachable.lock(), [NodeId(2)], "told once for the episode");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let (_, second) = pair().await;
    let stranger = TestNode::start(3, 1, MemoryRows::new()).await;
    let founders = vec![stranger.state.local().founder()];
    let promise = GenesisPromise::new(ClusterId([0xdd; 16]), "d".to_owned(), 1, founders);
    let promise = promise.expect("valid");
    stranger.state.propose(&promise).expect("writes");
    assert_eq!(stranger.state.adopt(&promise).expect("writes"), Ok(()));
    let store = second.state.local().store;
    stranger.book.set(NodeId(2), &second.address, Membership::Member(store));
    assert_eq!(refusal(&second, stranger.state.identity()).await, RefusalReason::OtherCluster);

    let transport = transport(&stranger, limits());
    transport.send(vec![message(1, Lane::Data, 10)]);
    let told = |sink: &TestSink| sink.unreachable.lock().contains(&NodeId(2));
    stranger.sink.wait("the refusal counts as a loss", told).await;

    // A stream without an introduction is checked by itself.
    let mut identity = stranger.state.identity();
    identity.node_id = 1;
    let store = stranger.state.local().store;
    let first = queue::first_frame(store, internal::Lane::Data, identity);
    let first = Frame { sequence: 1, ..first };
    let answer = client(&second).await.exchange(tokio_stream::once(first)).await;
    let reply = answer.expect("opens").into_inner().message().await.expect("answers");
    let refused = reply.expect("a reply").refusal.expect("a refusal");
    assert_eq!(refused.reason(), RefusalReason::OtherCluster);
    assert_eq!(refused.cluster_id, [0xcc; 16]);
    assert!(second.sink.messages.lock().is_empty());
    assert_eq!(second.state.metrics().snapshot().messages_in, 0);
}

#[tokio::test]
async fn identities_are_checked_one_by_one() {
    let (first, second) = pair().await;
    let own = first.state.identity();
    assert!(matches!(say_hello(&second, own.clone()).await, hello_response::Answer::Identity(_)));
    let changed = |change: Change| {
        let mut identity = own.clone();
        change(&mut identity);
        identity
    };
    let cases: [(Change, RefusalReason); 6] = [
        (|identity| identity.protocol_version = 2, RefusalReason::ProtocolVersion),
        (|identity| identity.store_id = vec![8; 16], RefusalReason::UnknownStore),
        (|identity| identity.store_id = vec![8; 15], RefusalReason::Malformed),
        (|identity| identity.node_id = 0, RefusalReason::Malformed),
        (|identity| identity.cluster_id.clear(), RefusalReason::OtherCluster),
        (|identity| identity.store_id = vec![2; 16], RefusalReason::Malformed),
    ];
    for (change, reason) in cases {
        assert_eq!(refusal(&second, changed(change)).await, reason);
    }
    second.book.set(NodeId(1), &first.address, Membership::Removed);
    assert_eq!(refusal(&second, own).await, RefusalReason::Removed);
}

#[tokio::test]
async fn a_disk_that_went_back_in_time_is_refused_even_after_a_restart() {
    let (first, mut second) = pair().await;
    let mut later = first.state.identity();
    later.boot_counter = 5;
    assert!(matches!(say_hello(&second, later).await, hello_response::Answer::Identity(_)));
    assert_eq!(refusal(&second, first.state.identity()).await, RefusalReason::RolledBack);
    second.restart().await;
    second.serve();
    assert_eq!(refusal(&second, first.state.identity()).await, RefusalReason::RolledBack);
}

#[tokio::test]
async fn before_a_cluster_there_is_nothing_to_ask() {
    let node = TestNode::start(1, 3, MemoryRows::new()).await;
    let other = TestNode::start(2, 3, MemoryRows::new()).await;
    assert_eq!(refusal(&node, other.state.identity()).await, RefusalReason::NotBootstrapped);
    let request = LookupVaultRequest { namespace: 1, vault: 1 };
    let status = client(&node).await.lookup_vault(request).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_stream_that_breaks_its_rules_ends() {
    let (first, second) = pair().await;
    let store = first.state.local().store;
    let opening = queue::first_frame(store, internal::Lane::Data, first.state.identity());
    let opening = Frame { sequence: 1, ..opening };
    let skipping = Frame { sequence: 3, sender_store: store.0.to_vec(), ..Frame::default() };
    let frames = tokio_stream::StreamExt::chain(
        tokio_stream::iter([opening, skipping]),
        tokio_stream::pending(),
    );
    let mut replies = client(&second).await.exchange(frames).await.expect("opens").into_inner();
    let reply = replies.message().await.expect("answers").expect("a reply");
    assert_eq!(reply.refusal.expect("a refusal").reason(), RefusalReason::Malformed);
    assert_eq!(replies.message().await.expect("ends well"), None);
}

#[tokio::test]
async fn a_closing_node_lets_its_server_finish() {
    let (first, mut second) = pair().await;
    let transport = transport(&first, limits());
    transport.send(vec![message(1, Lane::Data, 10)]);
    second.sink.wait("the stream is open", |sink| sink.messages.lock().len() == 1).await;
    let request = internal::DirectoryRequest { from_revision: 7 };
    let follower = client(&second).await.directory(request).await.expect("follows");
    let mut deltas = follower.into_inner();
    let delta = deltas.message().await.expect("answers").expect("a delta");
    assert_eq!(delta.revision, 7);
    second.state.close();
    assert_eq!(deltas.message().await.expect("ends well"), None);
    transport.close();
    assert!(second.stop_gracefully().await, "open streams end with the node");
}
