//! What one namespace, and everybody together, may ask of a node: who asks for more is told so and when to come
//! again, and nobody else notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ledger_proto::v1;
use ledger_proto::v1::import_bulk_request::Message;
use ledger_proto::v1::write_stream_response::Result as Streamed;
use ledger_types::VaultRef;
use ledger_types::limits::DATA_STREAMS_PER_NODE_MAX;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, eventually, set, why, wire, write_request};

/// Operations in a second.
const RATE: u64 = 100;
/// Operations of a write that a namespace pays for until long after the test.
const LARGE: u64 = 10_000;

/// A write of more than a namespace may do in a second.
fn large_write(vault: VaultRef) -> v1::WriteRequest {
    let sets = (0..LARGE).map(|number| set(&format!("large/{number}"), b""));
    write_request(vault, sets.collect())
}

/// Writes more than a namespace may do in a second. Nothing is in its way once the bucket is full.
async fn spend(node: &Node, vault: VaultRef) {
    eventually("the bucket is full", async || {
        let answer = node.writes().write(large_write(vault)).await.map_err(|status| why(&status));
        let result = answer?.into_inner().result;
        assert!(matches!(result, Some(v1::write_response::Result::Success(_))), "{result:?}");
        Ok::<_, (Code, String)>(())
    })
    .await;
}

/// Asserts that a refusal says all that a client needs.
fn assert_rate_limited(status: &Status, vault: VaultRef) {
    assert_eq!(why(status), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()), "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["limit"], "namespace_operations_per_second");
    assert_eq!(
        (&facts["max"], &facts["namespace"]),
        (&RATE.to_string(), &vault.namespace.to_string())
    );
    let after = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    // What was spent and one more, but for what was gained since.
    let most = Duration::from_secs(LARGE / RATE);
    assert!(after > Duration::ZERO && after <= most, "{after:?}");
}

/// One write by a stream.
async fn streamed(node: &Node, vault: VaultRef) -> Streamed {
    let write = Some(write_request(vault, vec![set("streamed", b"1")]));
    let one = v1::WriteStreamRequest { correlation_id: 1, timeout_ms: 0, write };
    let stream = node.ledger().write_stream(tokio_stream::once(one)).await.unwrap();
    stream.into_inner().message().await.unwrap().unwrap().result.unwrap()
}

async fn assert_stream_is_rate_limited(node: &Node, vault: VaultRef) {
    let Streamed::Refusal(refusal) = streamed(node, vault).await else { panic!("it is written") };
    assert_eq!((refusal.code, refusal.reason.as_str()), (8, "RATE_LIMITED"));
    assert_eq!(refusal.metadata["max"], RATE.to_string());
    assert!(refusal.retry_after_ms.is_some_and(|after| after > 0), "{refusal:?}");
}

async fn verified(node: &Node, vault: VaultRef) -> Result<(), Status> {
    let (namespace_id, vault_id) = wire(vault);
    let key = v1::VerifiedKey { key: Some(v1::verified_key::Key::Entity("large/0".to_owned())) };
    let request =
        v1::VerifiedGetRequest { namespace_id, vault_id, keys: vec![key], ..Default::default() };
    node.ledger().verified_get(request).await.map(|_| ())
}

/// The number of the server that leads the one data group.
async fn leader(cluster: &Cluster) -> usize {
    eventually("the data group has a leader", async || {
        let groups = cluster.node(0).groups().await.map_err(|status| status.to_string())?;
        let leader = groups.get(&1).map_or(0, |group| group.leader_node_id);
        usize::try_from(leader).unwrap().checked_sub(1).ok_or_else(|| "none".to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_asks_too_much_is_told_when_to_come_again_and_no_other_notices() {
    let rate = RATE.to_string();
    let environment =
        [("LEDGER_NAMESPACE_OPERATIONS_PER_SECOND", rate.as_str()), ("LEDGER_SHARDS", "1")];
    let cluster = Cluster::start_with(3, &environment).await;
    let busy = cluster.vaults("busy", 1).await[0];
    let calm = cluster.vaults("calm", 1).await[0];
    let leading = leader(&cluster).await;
    let (near, far) = ((leading + 1) % 3, (leading + 2) % 3);
    for node in cluster.nodes() {
        let info = node.ledger().get_server_info(v1::GetServerInfoRequest {}).await.unwrap();
        assert_eq!(info.into_inner().namespace_operations_per_second, RATE);
    }

    // A node that passes requests on counts them.
    let node = cluster.node(near);
    spend(&node, busy).await;
    let before = cluster.metric(near, "ledger_rate_limited_total").await;
    assert_rate_limited(&node.put(busy, "a", b"1").await.unwrap_err(), busy);
    assert_rate_limited(&node.read(busy, "a").await.unwrap_err(), busy);
    assert_rate_limited(&verified(&node, busy).await.unwrap_err(), busy);
    assert_stream_is_rate_limited(&node, busy).await;
    assert_eq!(cluster.metric(near, "ledger_rate_limited_total").await, before + 4.0);
    node.put(calm, "a", b"1").await.unwrap();
    assert_eq!(node.read(calm, "a").await.unwrap().as_deref(), Some(&b"1"[..]));
    verified(&node, calm).await.unwrap();

    // The leader, which carried all of it out, has not counted it again.
    let node = cluster.node(leading);
    node.put(busy, "a", b"2").await.unwrap();
    let Streamed::Answer(_) = streamed(&node, busy).await else { panic!("it is refused") };

    // Nor does it refuse what it would not take from a client itself, if another node has counted that.
    spend(&node, busy).await;
    let before = cluster.metric(leading, "ledger_rate_limited_total").await;
    assert_rate_limited(&node.put(busy, "a", b"3").await.unwrap_err(), busy);
    assert_rate_limited(&node.read(busy, "a").await.unwrap_err(), busy);
    assert_rate_limited(&verified(&node, busy).await.unwrap_err(), busy);
    assert_stream_is_rate_limited(&node, busy).await;
    assert_eq!(cluster.metric(leading, "ledger_rate_limited_total").await, before + 4.0);
    let node = cluster.node(far);
    node.put(busy, "a", b"4").await.unwrap();
    assert_eq!(node.read(busy, "a").await.unwrap().as_deref(), Some(&b"4"[..]));
    verified(&node, busy).await.unwrap();
    assert_eq!(cluster.metric(leading, "ledger_rate_limited_total").await, before + 4.0);
}

fn chunk(number: u64) -> v1::ImportBulkRequest {
    let entity =
        |item| v1::SetEntity { key: format!("item/{number}/{item}"), ..Default::default() };
    let entities = (0..RATE).map(entity).collect();
    let chunk = v1::ImportChunk { number, entities, relationships: Vec::new() };
    v1::ImportBulkRequest { message: Some(Message::Chunk(chunk)) }
}

fn begin(vault: VaultRef, client: &str) -> v1::ImportBulkRequest {
    let (namespace_id, vault_id) = wire(vault);
    let client_id = Some(v1::ClientId { id: client.to_owned() });
    let begin = v1::ImportBegin { namespace_id, vault_id, client_id };
    v1::ImportBulkRequest { message: Some(Message::Begin(begin)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_at_the_rate_of_its_namespace_and_is_not_refused() {
    /// Each of as many items as the namespace may do in a second.
    const CHUNKS: u64 = 4;
    let rate = RATE.to_string();
    let environment =
        [("LEDGER_NAMESPACE_OPERATIONS_PER_SECOND", rate.as_str()), ("LEDGER_SHARDS", "1")];
    let cluster = Cluster::start_with(3, &environment).await;
    let vault = cluster.vaults("imported", 1).await[0];
    let leading = leader(&cluster).await;
    // By the leader and by a node that passes the stream on: the leader counts it both times.
    for number in [leading, (leading + 1) % 3] {
        let node = cluster.node(number);
        let begin = begin(vault, &format!("import by {number}"));
        let all = std::iter::once(begin).chain((1..=CHUNKS).map(chunk));
        let begun = Instant::now();
        let answers = node.ledger().import_bulk(tokio_stream::iter(all)).await.unwrap();
        let mut answers = answers.into_inner();
        let mut durable = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            assert!(answer.durable_chunk >= durable, "{answer:?}");
            durable = answer.durable_chunk;
        }
        assert_eq!(durable, CHUNKS);
        // The first is paid for from what was saved up, the last need not be paid for yet. A slow machine takes longer,
        // and none takes less.
        let least = Duration::from_secs(CHUNKS - 2);
        assert!(begun.elapsed() >= least, "all of it was taken in {:?}", begun.elapsed());
    }
    for number in 0..3 {
        assert_eq!(cluster.metric(number, "ledger_rate_limited_total").await, 0.0);
    }
}

/// An open stream of writes: the client's side, and the server's.
type WriteStream = (mpsc::Sender<v1::WriteStreamRequest>, Streaming<v1::WriteStreamResponse>);

async fn open_stream(node: &Node) -> Result<WriteStream, Status> {
    let (requests, outgoing) = mpsc::channel(1);
    let answers = node.ledger().write_stream(ReceiverStream::new(outgoing)).await?;
    Ok((requests, answers.into_inner()))
}

fn assert_too_many_streams(status: &Status) {
    let expected = (Code::ResourceExhausted, "TOO_MANY_STREAMS".to_owned());
    assert_eq!(why(status), expected, "{status:?}");
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["limit"], "data_streams_per_node_max");
    assert_eq!(facts["max"], DATA_STREAMS_PER_NODE_MAX.to_string());
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_so_many_streams_of_data_and_no_more() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("streams", 1).await[0];
    let (node, (namespace_id, vault_id)) = (cluster.node(0), wire(vault));
    let mut streams = BTreeMap::new();
    for number in 0..DATA_STREAMS_PER_NODE_MAX {
        streams.insert(number, open_stream(&node).await.unwrap());
    }
    // All kinds count together, and other requests do not count.
    assert_too_many_streams(&open_stream(&node).await.unwrap_err());
    let export = v1::ExportBulkRequest { namespace_id, vault_id, ..Default::default() };
    assert_too_many_streams(&node.ledger().export_bulk(export.clone()).await.unwrap_err());
    let import = tokio_stream::once(begin(vault, "one more"));
    assert_too_many_streams(&node.ledger().import_bulk(import).await.unwrap_err());
    node.put(vault, "a", b"1").await.unwrap();

    // Each of them works, and one that ends makes room.
    for (number, (requests, answers)) in &mut streams {
        let write = write_request(vault, vec![set(&format!("stream/{number}"), b"1")]);
        let one = v1::WriteStreamRequest { correlation_id: 7, timeout_ms: 0, write: Some(write) };
        requests.send(one).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert!(matches!(answer.result, Some(Streamed::Answer(_))), "{answer:?}");
    }
    streams.pop_first();
    eventually("there is room again", async || {
        node.ledger().export_bulk(export.clone()).await.map(|_| ()).map_err(|status| why(&status))
    })
    .await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_log_is_bounded_in_bytes_and_more_is_refused_unharmed() {
    use super::points::Points;

    const VALUE_BYTES: usize = 1 << 20;
    /// Values in a request: with what is beside them well below the largest request.
    const VALUES: usize = 7;
    let points = Points::new();
    let cluster = Cluster::start_with(1, &[points.setting(), ("LEDGER_SHARDS", "1")]).await;
    let vault = cluster.vaults("large", 1).await[0];
    let node = cluster.node(0);
    let info = node.ledger().get_server_info(v1::GetServerInfoRequest {}).await.unwrap();
    let max = usize::try_from(info.into_inner().in_flight_bytes_max).unwrap();
    let fitting = max / (VALUES * VALUE_BYTES + 64 * 1024);
    assert!((fitting + 1) * VALUES * VALUE_BYTES > max, "the next one does not fit");
    let large = |number: usize| {
        let value = vec![7; VALUE_BYTES];
        let sets = (0..VALUES).map(|item| set(&format!("large/{number}/{item}"), &value));
        write_request(vault, sets.collect())
    };

    // Nothing becomes durable any more, so that what is proposed stays under way.
    points.set("store::sync=pause\n").await;
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..fitting {
        let (node, request) = (node.clone(), large(number));
        writes.spawn(async move { node.writes().write(request).await });
    }
    let least = (fitting * VALUES * VALUE_BYTES) as f64;
    eventually("all of them are under way", async || {
        let bytes = cluster.metric(0, "ledger_requests_in_flight_bytes").await;
        if bytes >= least { Ok(()) } else { Err(bytes) }
    })
    .await;
    let refused = large(fitting);
    let status = node.writes().write(refused.clone()).await.unwrap_err();
    let expected = (Code::ResourceExhausted, "OVERLOADED".to_owned());
    assert_eq!(why(&status), expected, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    assert!(cluster.metric(0, "ledger_requests_shed_total").await >= 1.0);
    // What needs no word of the log is still served.
    let (namespace_id, vault_id) = wire(vault);
    let tip = v1::GetTipRequest { namespace_id, vault_id };
    let before = node.reads().get_tip(tip).await.unwrap().into_inner().height;

    points.set("").await;
    while let Some(write) = writes.join_next().await {
        write.unwrap().unwrap();
    }
    let after = node.reads().get_tip(tip).await.unwrap().into_inner().height;
    assert!(after > before && after <= before + fitting as u64, "{before} {after}");
    assert_eq!(node.read(vault, &format!("large/{fitting}/0")).await.unwrap(), None);
    node.writes().write(refused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_would_be_too_large_is_refused_and_not_cut() {
    const VALUE_BYTES: usize = 1 << 20;
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("large", 1).await[0];
    let (node, (namespace_id, vault_id)) = (cluster.node(0), wire(vault));
    let keys: Vec<String> = (0..9).map(|number| format!("large/{number}")).collect();
    for key in &keys {
        node.put(vault, key, &vec![7; VALUE_BYTES]).await.unwrap();
    }
    let verified = async |keys: &[String]| {
        let entity = |key: &String| Some(v1::verified_key::Key::Entity(key.clone()));
        let keys = keys.iter().map(|key| v1::VerifiedKey { key: entity(key) }).collect();
        let request = v1::VerifiedGetRequest { namespace_id, vault_id, keys, ..Default::default() };
        let mut ledger = node.ledger().max_decoding_message_size(16 << 20);
        Ok::<_, Status>(ledger.verified_get(request).await?.into_inner().package.len())
    };
    let read = async |keys: &[String]| {
        let keys = keys.to_vec();
        let request = v1::BatchReadRequest { namespace_id, vault_id, keys, ..Default::default() };
        let results = node.reads().batch_read(request).await?.into_inner().results;
        let values = results.into_iter().filter_map(|result| result.value);
        Ok::<_, Status>(values.map(|value| value.len()).sum::<usize>())
    };
    // A page's bytes and one value more.
    let refused = [verified(&keys).await, read(&keys).await];
    for status in refused.map(|answer| answer.expect_err("too large")) {
        let expected = (Code::ResourceExhausted, "ANSWER_TOO_LARGE".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
        let facts = status.get_details_error_info().unwrap().metadata;
        assert_eq!((facts["limit"].as_str(), facts["max"].as_str()), ("page_bytes_max", "8388608"));
        assert!(status.get_details_retry_info().is_none(), "asking again is no help");
    }
    assert!(verified(&keys[..8]).await.unwrap() > 8 * VALUE_BYTES);
    assert_eq!(read(&keys[..8]).await.unwrap(), 8 * VALUE_BYTES);
}
