//! Snapshots over loopback: broken connections, bounds, refusals, and who goes first.

mod pair;
mod senders;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger_proto::convert::snapshots::{Fetch, HELD_MAX, Hold, Piece};
use ledger_proto::internal::fetch_response::Answer;
use ledger_proto::internal::snapshots_client::SnapshotsClient;
use ledger_proto::internal::{FetchRefusalReason, FetchRequest, FetchResponse, HoldRequest};
use ledger_shard::{FetchSnapshot, SnapshotFetcher as _, SnapshotId, SnapshotManifest};
use ledger_types::{ClusterId, GroupId, NodeId};
use tonic::Streaming;
use tonic::transport::Endpoint;

use self::pair::{
    CLUSTER, GROUP, Pair, RECEIVER, SENDER, STRANGER, last_key, until, value_of, vault,
};
use self::senders::{BadSender, Behaviour, BreakingWire, Told, listen};
use super::*;

fn serve_limits() -> ServeLimits {
    ServeLimits::at_rate(1 << 30)
}

fn fetch_limits() -> FetchLimits {
    FetchLimits {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        ..FetchLimits::default()
    }
}

/// The sender's service, its reports, and where it listens.
async fn serving(pair: &Pair, limits: ServeLimits) -> (Arc<SnapshotServer>, Arc<Told>, String) {
    let told = Told::new();
    let store = pair.sender.driver.handle().snapshots();
    let book = pair.book("127.0.0.1:1");
    let server = SnapshotServer::new(CLUSTER, store, book, told.clone(), limits);
    let address = listen(&server).await;
    (server, told, address)
}

/// A fetcher of the receiver that looks for the sender at this address, and its reports.
fn fetching(pair: &Pair, address: &str, limits: FetchLimits) -> (Arc<Fetcher>, Arc<Told>) {
    let told = Told::new();
    let fetcher = Fetcher::new(pair.receiver.asking, pair.book(address), limits);
    fetcher.attach(pair.receiver.driver.handle().snapshots(), told.clone());
    (fetcher, told)
}

fn wish(manifest: &SnapshotManifest) -> FetchSnapshot {
    FetchSnapshot { manifest: Box::new(manifest.clone()) }
}

/// What the receiver asks for at first.
fn question(pair: &Pair) -> Fetch {
    let Asking { cluster, node, store } = pair.receiver.asking;
    Fetch { cluster, node, store, snapshot: pair.manifest.id.0, file: 0, offset: 0 }
}

async fn ask(address: &str, request: FetchRequest) -> Streaming<FetchResponse> {
    // With the windows of HTTP/2 itself, so that an unread stream holds its sender up.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = SnapshotsClient::new(endpoint.connect().await.expect("connects"));
    client.fetch(request).await.expect("answers").into_inner()
}

/// The next piece, or why there is none.
async fn next(stream: &mut Streaming<FetchResponse>) -> Option<Result<Piece, FetchRefusalReason>> {
    match stream.message().await.expect("a message")?.answer.expect("an answer") {
        Answer::Chunk(chunk) => Some(Ok(Piece::try_from(chunk).expect("in its bounds"))),
        Answer::Refusal(refusal) => Some(Err(refusal.reason())),
    }
}

async fn refusal(address: &str, request: FetchRequest) -> FetchRefusalReason {
    let mut stream = ask(address, request).await;
    let refused = next(&mut stream).await.expect("an answer").expect_err("refused");
    assert!(next(&mut stream).await.is_none(), "a refusal ends the stream");
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let pair = Pair::start().await;
    let (_, server_told, address) = serving(&pair, serve_limits()).await;
    let bytes = pair.manifest.bytes();
    let wire = BreakingWire::to(address, bytes / 2).await;
    let (fetcher, told) = fetching(&pair, &wire.address, fetch_limits());
    fetcher.fetch(wish(&pair.manifest));
    let (group, id) = (GROUP, pair.manifest.id);
    assert_eq!(told.ends(1).await, [(group, id, true)]);
    assert_eq!(wire.connections.load(Ordering::Relaxed), 2);
    let later = wire.later_bytes.load(Ordering::Relaxed);
    // A piece under way is lost, and little else.
    assert!(later > bytes / 4 && later < bytes * 3 / 4, "{later} bytes of {bytes} came again");
    assert_eq!(fetcher.running(), 0);
    // Once at the first question, and hardly more often: the whole transfer takes a moment.
    let progress = server_told.progress.lock().clone();
    assert!(progress.iter().all(|one| *one == (group, id)) && progress.len() < 10, "{progress:?}");
    assert!(!progress.is_empty());

    // What was fetched is what the group's replica needs.
    let shard = pair.receiver.driver.handle();
    shard.snapshot_fetched(group, id, true);
    until("the snapshot is the replica's state", || {
        shard.status(group).is_some_and(|status| status.is_readable() && status.applied > 0)
    })
    .await;
    let reader = pair.receiver.driver.reader();
    let (key, expected) = (last_key(), value_of(&last_key()));
    until("its rows are here", || {
        let found = reader.entity(vault(), &key);
        found.ok().flatten().is_some_and(|entity| entity.value == expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_resumes_in_another_fetcher() {
    let pair = Pair::start().await;
    let (server, _, address) = serving(&pair, serve_limits()).await;
    let mut stream = ask(&address, question(&pair).into()).await;
    let store = pair.receiver.driver.handle().snapshots();
    let mut staging = store.receive(&pair.manifest).expect("a staging");
    let piece = next(&mut stream).await.expect("an answer").expect("a piece");
    staging.write(piece.file, piece.offset, &piece.data, &piece.digest).expect("written");
    drop((staging, stream));
    until("the stream's place is free", || server.streams_open() == 0).await;
    let have = store.receive(&pair.manifest).expect("the same staging").next();
    assert!(have.is_some_and(|place| place > (0, 0)), "nothing was kept: {have:?}");
    let (fetcher, told) = fetching(&pair, &address, fetch_limits());
    fetcher.fetch(wish(&pair.manifest));
    assert_eq!(told.ends(1).await, [(GROUP, pair.manifest.id, true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_stream_waits_for_its_turn() {
    let pair = Pair::start().await;
    let (server, told, address) = serving(&pair, serve_limits()).await;
    let request: FetchRequest = question(&pair).into();
    let first = ask(&address, request.clone()).await;
    let second = ask(&address, request.clone()).await;
    until("both hold a place", || server.streams_open() == 2).await;
    assert_eq!(refusal(&address, request).await, FetchRefusalReason::Busy);
    assert!(!told.progress.lock().is_empty());
    let wire = BreakingWire::to(address, u64::MAX).await;
    let (fetcher, fetched) = fetching(&pair, &wire.address, fetch_limits());
    fetcher.fetch(wish(&pair.manifest));
    until("it has asked in vain", || wire.connections.load(Ordering::Relaxed) > 2).await;
    assert!(fetched.fetched.lock().is_empty());
    drop(first);
    assert_eq!(fetched.ends(1).await, [(GROUP, pair.manifest.id, true)]);
    drop(second);
    until("every place is free", || server.streams_open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_to_wait_is_alive_all_the_same() {
    let pair = Pair::start().await;
    let limits = ServeLimits { streams_max: 0, ..serve_limits() };
    let (_, told, address) = serving(&pair, limits).await;
    for _ in 0..3 {
        let refused = refusal(&address, question(&pair).into()).await;
        assert_eq!(refused, FetchRefusalReason::Busy);
    }
    let progress = told.progress.lock().clone();
    // Once a second at most; three questions take a moment.
    assert!(matches!(progress.len(), 1..3), "{progress:?}");
    assert_eq!(progress[0], (GROUP, pair.manifest.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_takes_nothing_loses_its_place() {
    let pair = Pair::start().await;
    let limits = ServeLimits { stall_max: Duration::from_millis(50), ..serve_limits() };
    let (server, _, address) = serving(&pair, limits).await;
    let mut stream = ask(&address, question(&pair).into()).await;
    assert!(next(&mut stream).await.is_some_and(|piece| piece.is_ok()));
    until("its place is free", || server.streams_open() == 0).await;
    // What was queued still comes, and then the end, far before the snapshot's.
    let mut bytes = 0;
    while let Some(piece) = next(&mut stream).await {
        bytes += piece.expect("a piece").data.len() as u64;
    }
    assert!(bytes < pair.manifest.bytes(), "all of it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_have_a_snapshot_gets_none() {
    let pair = Pair::start().await;
    let (server, told, address) = serving(&pair, serve_limits()).await;
    let asked = question(&pair);
    let files = u32::try_from(pair.manifest.files.len()).expect("few");
    let wrong = [
        (Fetch { cluster: ClusterId([1; 16]), ..asked }, FetchRefusalReason::OtherCluster),
        (Fetch { store: STRANGER, ..asked }, FetchRefusalReason::UnknownStore),
        (Fetch { node: NodeId(9), ..asked }, FetchRefusalReason::UnknownStore),
        (Fetch { node: SENDER, ..asked }, FetchRefusalReason::UnknownStore),
        (Fetch { snapshot: [7; 16], ..asked }, FetchRefusalReason::UnknownSnapshot),
    ];
    for (fetch, reason) in wrong {
        assert_eq!(refusal(&address, fetch.into()).await, reason, "{fetch:?}");
    }
    let mut malformed = FetchRequest::from(asked);
    malformed.store_id.clear();
    assert_eq!(refusal(&address, malformed).await, FetchRefusalReason::Malformed);
    assert!(told.progress.lock().is_empty(), "none of them is a sign of life");
    for (file, offset) in [(files, 0), (0, u64::MAX / 2)] {
        let request = Fetch { file, offset, ..asked }.into();
        assert_eq!(refusal(&address, request).await, FetchRefusalReason::Unreadable);
    }
    server.close();
    assert_eq!(refusal(&address, asked.into()).await, FetchRefusalReason::NotReady);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_open_streams() {
    let pair = Pair::start().await;
    // So slow that the second piece would take minutes.
    let limits = ServeLimits { bytes_per_second: 64, ..serve_limits() };
    let (server, _, address) = serving(&pair, limits).await;
    let mut stream = ask(&address, question(&pair).into()).await;
    until("the stream is open", || server.streams_open() == 1).await;
    server.close();
    assert!(next(&mut stream).await.is_none());
    until("its place is free", || server.streams_open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sender_does_not_have_is_given_up_at_once() {
    let pair = Pair::start().await;
    let (_, _, address) = serving(&pair, serve_limits()).await;
    let wire = BreakingWire::to(address, u64::MAX).await;
    let (fetcher, told) = fetching(&pair, &wire.address, fetch_limits());
    let mut manifest = pair.manifest.clone();
    manifest.id = SnapshotId([7; 16]);
    fetcher.fetch(wish(&manifest));
    assert_eq!(told.ends(1).await, [(GROUP, manifest.id, false)]);
    assert_eq!(wire.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pieces_and_silence_end_a_fetch() {
    let pair = Pair::start().await;
    let (sender, address) = BadSender::listen(Behaviour::Damages).await;
    let (fetcher, told) = fetching(&pair, &address, fetch_limits());
    fetcher.fetch(wish(&pair.manifest));
    assert_eq!(told.ends(1).await, [(GROUP, pair.manifest.id, false)]);
    assert_eq!(sender.asked.lock().len(), 3);
    let short = Duration::from_millis(50);
    let limits = FetchLimits { piece_wait_max: short, silence_max: short, ..fetch_limits() };
    for behaviour in [Behaviour::SaysNothing, Behaviour::Hangs] {
        let (sender, address) = BadSender::listen(behaviour).await;
        let (fetcher, told) = fetching(&pair, &address, limits);
        fetcher.fetch(wish(&pair.manifest));
        assert_eq!(told.ends(1).await, [(GROUP, pair.manifest.id, false)], "{behaviour:?}");
        assert!(!sender.asked.lock().is_empty());
    }
    // Nobody listens there.
    let (fetcher, told) = fetching(&pair, "127.0.0.1:1", limits);
    fetcher.fetch(wish(&pair.manifest));
    assert_eq!(told.ends(1).await, [(GROUP, pair.manifest.id, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_says_what_it_still_wants_and_hears_what_is_gone() {
    let pair = Pair::start().await;
    let (_, told, address) = serving(&pair, serve_limits()).await;
    let (Asking { cluster, node, store }, kept) = (pair.receiver.asking, pair.manifest.id);
    let hold = Hold { cluster, node, store, snapshots: vec![kept.0, [7; 16]] };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = SnapshotsClient::new(endpoint.connect().await.expect("connects"));
    let answer = client.hold(HoldRequest::from(hold.clone())).await.expect("answers").into_inner();
    assert_eq!((answer.unknown_ids, answer.refusal), (vec![vec![7; 16]], None));
    assert_eq!(*told.progress.lock(), [(GROUP, kept)]);
    let too_many = vec![kept.0; HELD_MAX + 1];
    let wrong = [
        (Hold { cluster: ClusterId([1; 16]), ..hold.clone() }, FetchRefusalReason::OtherCluster),
        (Hold { store: STRANGER, ..hold.clone() }, FetchRefusalReason::UnknownStore),
        (Hold { snapshots: too_many, ..hold }, FetchRefusalReason::Malformed),
    ];
    for (hold, reason) in wrong {
        let answer = client.hold(HoldRequest::from(hold)).await.expect("answers").into_inner();
        assert_eq!(answer.refusal.expect("refused").reason(), reason);
        assert!(answer.unknown_ids.is_empty());
    }
    assert_eq!(told.progress.lock().len(), 1, "none of those is a sign of life");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_before_its_turn_is_given_up() {
    let pair = Pair::start().await;
    // So slow that the first one is under way for minutes.
    let limits = ServeLimits { bytes_per_second: 64, ..serve_limits() };
    let (server, server_told, address) = serving(&pair, limits).await;
    let limits =
        FetchLimits { fetches_max: 1, hold_every: Duration::from_millis(20), ..fetch_limits() };
    let (fetcher, told) = fetching(&pair, &address, limits);
    fetcher.fetch(wish(&pair.manifest));
    until("the first one is under way", || server.streams_open() == 1).await;
    let gone = variant(&pair.manifest, 7, 1);
    fetcher.fetch(wish(&gone));
    assert_eq!(told.ends(1).await, [(gone.group, gone.id, false)]);
    assert_eq!(fetcher.running(), 1);
    // A piece leaves in minutes, and still the sender hears every second that it is waited for.
    until("the sender hears of it", || server_told.progress.lock().len() >= 3).await;
    fetcher.close();
}

/// A manifest of another group or another cut, told apart by one byte.
fn variant(manifest: &SnapshotManifest, group: u64, id: u8) -> SnapshotManifest {
    SnapshotManifest { group: GroupId(group), id: SnapshotId([id; 16]), ..manifest.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_goes_first_and_the_newest_wish_of_a_group_counts() {
    let pair = Pair::start().await;
    let (sender, address) = BadSender::listen(Behaviour::Hangs).await;
    let limits = FetchLimits { fetches_max: 1, ..fetch_limits() };
    let (fetcher, told) = fetching(&pair, &address, limits);
    let asked = || sender.asked.lock().iter().map(|id| id[0]).collect::<Vec<_>>();
    fetcher.fetch(wish(&variant(&pair.manifest, 5, 1)));
    until("the first one is under way", || asked() == [1]).await;
    for (group, id) in [(7, 2), (0, 3), (5, 1), (7, 4)] {
        fetcher.fetch(wish(&variant(&pair.manifest, group, id)));
    }
    assert_eq!(fetcher.running(), 1);
    // A newer one of the group under way ends that one, and waits behind the directory.
    fetcher.fetch(wish(&variant(&pair.manifest, 5, 6)));
    until("the directory's is next", || asked() == [1, 3]).await;
    fetcher.fetch(wish(&variant(&pair.manifest, 0, 7)));
    until("the directory's newer one is next", || asked() == [1, 3, 7]).await;
    fetcher.close();
    until("nothing runs any more", || fetcher.running() == 0).await;
    fetcher.fetch(wish(&variant(&pair.manifest, 9, 9)));
    assert_eq!((fetcher.running(), asked()), (0, vec![1, 3, 7]));
    assert!(told.fetched.lock().is_empty(), "what was replaced or stopped has no end to tell of");
    assert_ne!(SENDER, RECEIVER);
}

#[tokio::test]
async fn wishes_wait_for_a_place_to_go() {
    let pair = Pair::start().await;
    let (_, _, address) = serving(&pair, serve_limits()).await;
    let fetcher = Fetcher::new(pair.receiver.asking, pair.book(&address), fetch_limits());
    fetcher.fetch(wish(&pair.manifest));
    assert_eq!(fetcher.running(), 0);
    let told = Told::new();
    fetcher.attach(pair.receiver.driver.handle().snapshots(), told.clone());
    assert_eq!(told.ends(1).await, [(GROUP, pair.manifest.id, true)]);
}
