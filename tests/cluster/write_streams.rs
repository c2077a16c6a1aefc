//! Many writes on one stream: the same answers as one by one, in order where order counts, through a change of
//! leader and a stop.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger_client::PipelineOptions;
use ledger_proto::v1;
use ledger_proto::v1::set_condition::Condition;
use ledger_proto::v1::write_stream_response::Result as Streamed;
use ledger_types::{Operation, VaultRef};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::harness::{Cluster, Node, peak_bytes, set, set_if, why, write_request};

/// More than a stream has under way, so that the server must stop reading and go on again.
const FLOOD: u64 = 3_000;

/// One open stream of writes.
struct Stream {
    requests: mpsc::Sender<v1::WriteStreamRequest>,
    answers: Streaming<v1::WriteStreamResponse>,
}

impl Stream {
    async fn open(node: &Node) -> Stream {
        let (requests, outgoing) = mpsc::channel(2 * FLOOD as usize);
        let outgoing = ReceiverStream::new(outgoing);
        let answers = node.ledger().write_stream(outgoing).await.unwrap().into_inner();
        Stream { requests, answers }
    }

    fn send(&self, correlation_id: u64, write: Option<v1::WriteRequest>) {
        let request = v1::WriteStreamRequest { correlation_id, timeout_ms: 0, write };
        self.requests.try_send(request).unwrap();
    }

    async fn take(&mut self, count: usize) -> BTreeMap<u64, Streamed> {
        take(&mut self.answers, count).await
    }
}

/// The next answers of a stream by correlation id.
async fn take(
    answers: &mut Streaming<v1::WriteStreamResponse>,
    count: usize,
) -> BTreeMap<u64, Streamed> {
    let mut taken = BTreeMap::new();
    while taken.len() < count {
        let answer = answers.message().await.unwrap().expect("the stream goes on");
        let result = answer.result.expect("an answer or a refusal");
        assert!(taken.insert(answer.correlation_id, result).is_none(), "answered twice");
    }
    taken
}

fn success(streamed: &Streamed) -> &v1::WriteSuccess {
    match streamed {
        Streamed::Answer(v1::WriteResponse {
            result: Some(v1::write_response::Result::Success(success)),
        }) => success,
        other => panic!("{other:?}"),
    }
}

fn refusal(streamed: &Streamed) -> &v1::Refusal {
    match streamed {
        Streamed::Refusal(refusal) => refusal,
        Streamed::Answer(answer) => panic!("{answer:?}"),
    }
}

fn counted(vault: VaultRef, client: &str, sequence: u64) -> v1::WriteRequest {
    let key = format!("counted/{client}");
    v1::WriteRequest {
        client_id: Some(v1::ClientId { id: client.to_owned() }),
        idempotency_key: Vec::new(),
        sequence: Some(sequence),
        ..write_request(vault, vec![set(&key, &sequence.to_be_bytes())])
    }
}

/// Every answer and every refusal is that of `Write`, and a refused write harms no other.
async fn answers_are_those_of_single_writes(node: &Node, vault: VaultRef) {
    let mut stream = Stream::open(node).await;
    let repeated = write_request(vault, vec![set("again", b"1")]);
    stream.send(7, Some(repeated.clone()));
    let first = stream.take(1).await;
    let long = "k".repeat(2_000);
    let absent = VaultRef::new(vault.namespace.0, 4_711);
    stream.send(1, Some(write_request(vault, vec![set(&long, b"")])));
    stream.send(2, None);
    stream.send(3, Some(write_request(absent, vec![set("k", b"")])));
    let taken = Some(Condition::NotExists(true));
    stream.send(4, Some(write_request(vault, vec![set_if("again", b"2", taken)])));
    stream.send(5, Some(repeated));
    let proved = v1::WriteRequest {
        include_tx_proof: true,
        ..write_request(vault, vec![set("proved", b"1")])
    };
    stream.send(6, Some(proved));
    let answers = stream.take(6).await;

    let limit = refusal(&answers[&1]);
    assert_eq!((limit.code, limit.reason.as_str()), (3, "LIMIT_EXCEEDED"));
    assert_eq!(limit.metadata["limit"], "key_bytes_max");
    assert_eq!(limit.fields, ["operations[0].key"]);
    let missing = refusal(&answers[&2]);
    assert_eq!(
        (missing.reason.as_str(), &missing.fields[..]),
        ("INVALID_ARGUMENT", &["write".to_owned()][..])
    );
    let unknown = refusal(&answers[&3]);
    assert_eq!((unknown.code, unknown.reason.as_str()), (5, "VAULT_NOT_FOUND"));
    match &answers[&4] {
        Streamed::Answer(v1::WriteResponse {
            result: Some(v1::write_response::Result::Error(error)),
        }) => {
            assert_eq!((error.code(), error.key.as_str()), (v1::WriteErrorCode::KeyExists, "again"))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(success(&answers[&5]).tx_id, success(&first[&7]).tx_id, "one transaction");
    let proved = success(&answers[&6]);
    assert!(proved.block_header.is_some() && proved.tx_proof.is_some());
    drop(stream.requests);
    assert!(stream.answers.message().await.unwrap().is_none(), "the stream ends well");
}

/// Writes that count up by one are proposed in the order in which they came, whoever leads the vault.
async fn counted_writes_keep_their_order(node: &Node, vaults: &[VaultRef], client: &str) {
    let mut stream = Stream::open(node).await;
    const EACH: u64 = 60;
    let all = vaults.len() as u64;
    for sequence in 1..=EACH {
        for (index, vault) in (0_u64..).zip(vaults) {
            let id = sequence * all + index;
            stream.send(id, Some(counted(*vault, client, sequence)));
        }
    }
    let answers = stream.take((EACH * all) as usize).await;
    for index in 0..all {
        let mut height = 0;
        for sequence in 1..=EACH {
            let success = success(&answers[&(sequence * all + index)]);
            assert_eq!(success.assigned_sequence, sequence);
            assert!(success.block_height >= height, "{sequence} went before its predecessor");
            height = success.block_height;
        }
    }
}

/// A client that sends far more than the window before it reads an answer loses nothing.
async fn a_flood_is_answered_whole(node: &Node, vault: VaultRef) {
    let mut stream = Stream::open(node).await;
    for number in 0..FLOOD {
        let key = format!("flood/{number}");
        stream.send(number, Some(write_request(vault, vec![set(&key, b"x")])));
    }
    let answers = stream.take(FLOOD as usize).await;
    assert_eq!(answers.len() as u64, FLOOD);
    answers.values().for_each(|answer| assert!(success(answer).block_height > 0));
    let last = format!("flood/{}", FLOOD - 1);
    assert_eq!(node.read(vault, &last).await.unwrap().as_deref(), Some(&b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_like_single_writes_through_every_node() {
    let cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("streams", 4).await;
    for (number, node) in cluster.nodes().iter().enumerate() {
        answers_are_those_of_single_writes(node, vaults[number]).await;
        counted_writes_keep_their_order(node, &vaults, &format!("counting-{number}")).await;
    }
    a_flood_is_answered_whole(&cluster.node(0), vaults[0]).await;
    cluster.assert_ready().await;
}

/// Bytes of a value of which a flood is made.
const HEAVY_BYTES: usize = 64 * 1024;
/// A flood of so many of them is far more than a server may hold for one client.
const HEAVY_FLOOD: u64 = 8_000;
/// A write that is not taken for so long waits for room.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a server may need more while a client does not read: what is under way and in transport, and the log of it.
const HELD_BYTES_MAX: u64 = 192 << 20;

/// A write whose condition fails, and whose answer is as large as that of a small write can be.
fn heavy(vault: VaultRef, key: &str, correlation_id: u64) -> v1::WriteStreamRequest {
    let operation = set_if(key, &vec![1; HEAVY_BYTES], Some(Condition::NotExists(true)));
    let write = Some(write_request(vault, vec![operation]));
    v1::WriteStreamRequest { correlation_id, timeout_ms: 60_000, write }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_held_back_and_harms_nobody() {
    // A cache of written rows of the default size would hide what a stream needs.
    let environment = [("LEDGER_WRITE_BUFFER_BYTES", "4194304")];
    let cluster = Cluster::start_with(1, &environment).await;
    let vault = cluster.vaults("unread", 1).await[0];
    let (node, server) = (cluster.node(0), &cluster.servers[0]);
    let key = "k".repeat(1_000);
    node.put(vault, &key, &[7; 1_000]).await.unwrap();
    let before = peak_bytes(server);

    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let mut answers = node.ledger().write_stream(outgoing).await.unwrap().into_inner();
    let mut sent = 0;
    while sent < HEAVY_FLOOD {
        let sending = requests.send(heavy(vault, &key, sent));
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(taken) => taken.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < HEAVY_FLOOD / 2, "{sent} writes were taken although no answer was read");
    let grown = peak_bytes(server) - before;
    assert!(grown < HELD_BYTES_MAX, "{grown} bytes for one client");
    // On the same connection and on another one.
    for node in [&node, &cluster.node(0)] {
        node.put(vault, "meanwhile", b"1").await.unwrap();
        let mut stream = Stream::open(node).await;
        stream.send(1, Some(write_request(vault, vec![set("streamed meanwhile", b"1")])));
        success(&stream.take(1).await[&1]);
    }

    let all = sent + 100;
    let sending = async {
        for number in sent..all {
            requests.send(heavy(vault, &key, number)).await.unwrap();
        }
        drop(requests);
    };
    let ((), taken) = tokio::join!(sending, take(&mut answers, all as usize));
    for (number, streamed) in taken {
        let Streamed::Answer(v1::WriteResponse {
            result: Some(v1::write_response::Result::Error(error)),
        }) = streamed
        else {
            panic!("{number}: {streamed:?}")
        };
        assert_eq!(error.code(), v1::WriteErrorCode::KeyExists);
    }
    assert!(answers.message().await.unwrap().is_none(), "each is answered once");
}

/// Submits writes until it is stopped, and tells those that were acknowledged.
async fn submit_while(
    client: ledger_client::Client,
    vaults: Vec<VaultRef>,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> Vec<(VaultRef, String)> {
    let pipeline = client.write_pipeline(PipelineOptions { writes_max: 64, ..Default::default() });
    let mut pending = Vec::new();
    let mut number = 0_u64;
    while stop.try_recv().is_err() {
        let vault = vaults[number as usize % vaults.len()];
        let key = format!("pipelined/{number}");
        let operation = Operation::SetEntity {
            key: key.clone(),
            value: number.to_be_bytes().to_vec(),
            expires_at: 0,
            condition: None,
        };
        let write = pipeline.submit(vault, vec![operation]).await.unwrap();
        pending.push((vault, key, write));
        number += 1;
    }
    let mut acknowledged = Vec::new();
    for (vault, key, write) in pending {
        write.await.unwrap_or_else(|error| panic!("{key} of vault {vault}: {error}"));
        acknowledged.push((vault, key));
    }
    acknowledged
}

/// A pipeline goes on through the death of each node; what it acknowledged is there, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_outlives_the_leaders_that_it_writes_to() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("pipelined", 4).await;
    let client = cluster.client().await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn(submit_while(client, vaults.clone(), stopped));
    for victim in 0..3 {
        cluster.servers[victim].kill();
        cluster.resume(victim).await;
    }
    stop.send(()).unwrap();
    let acknowledged = writing.await.unwrap();
    assert!(acknowledged.len() > 100, "{} writes", acknowledged.len());
    let node = cluster.node(0);
    for (vault, key) in &acknowledged {
        let number: u64 = key.rsplit('/').next().unwrap().parse().unwrap();
        let found = node.read(*vault, key).await.unwrap();
        assert_eq!(found, Some(number.to_be_bytes().to_vec()), "{key} of vault {vault}");
    }
    // One block of a vault for each transaction at most, and no transaction twice.
    for &vault in &vaults {
        let mine = acknowledged.iter().filter(|(of, _)| *of == vault).count() as u64;
        assert_eq!(transactions(&node, vault).await, mine, "vault {vault}");
    }
}

/// How many transactions the vault's chain has.
async fn transactions(node: &Node, vault: VaultRef) -> u64 {
    let (namespace_id, vault_id) = super::harness::wire(vault);
    let (mut height, mut count) = (1, 0);
    loop {
        let request = v1::GetBlockRangeRequest {
            namespace_id,
            vault_id,
            start_height: height,
            end_height: u64::MAX,
        };
        let range = node.reads().get_block_range(request).await.unwrap().into_inner();
        let Some(last) = range.blocks.last().and_then(|block| block.header.as_ref()) else {
            return count;
        };
        height = last.height + 1;
        count += range.blocks.iter().map(|block| block.transactions.len() as u64).sum::<u64>();
    }
}

/// A node that stops answers what it has read and says why it reads no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_ends_its_streams_with_a_reason() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("stopping", 1).await[0];
    let mut stream = Stream::open(&cluster.node(0)).await;
    stream.send(1, Some(write_request(vault, vec![set("before", b"1")])));
    stream.take(1).await;
    let (status, ended) = tokio::join!(cluster.servers[0].stop(), async {
        let ended: Status = match stream.answers.message().await {
            Ok(Some(answer)) => panic!("nothing was asked: {answer:?}"),
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => status,
        };
        ended
    });
    assert_eq!(why(&ended), (Code::Unavailable, "DRAINING".to_owned()), "{ended:?}");
    assert!(status.unwrap().success());
}
