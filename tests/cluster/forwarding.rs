//! What a node passes on with a request that another one carries out, as it arrives there: a recorder stands before each
//! of the others.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ledger::test_hooks::DIAL_VARIABLE;
use ledger_proto::v1;
use ledger_proto::v1::import_bulk_request::Message;
use ledger_proto::v1::verified_key::Key;
use ledger_proto::v1::write_stream_response::Result as Streamed;
use ledger_types::VaultRef;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use super::harness::{Cluster, Node, eventually, set, wire, write_request};
use super::vaults::leaders_are_spread;

/// More vaults than there are shards, so that each node leads the group of some.
const VAULTS: usize = 9;
/// The node that passes requests on.
const NEAR: usize = 0;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_STATE: &str = "vendor=t61rcWkgMzE,other=1";
/// Names a request among those that arrive.
const REQUEST_ID: &str = "x-request-id";

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Arrived {
    path: String,
    headers: HeaderMap,
}

impl Arrived {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// What the header of the deadline leaves.
    fn timeout(&self) -> Option<Duration> {
        let text = self.header("grpc-timeout")?;
        let (digits, unit) = text.split_at(text.len() - 1);
        let count = digits.parse().unwrap();
        Some(match unit {
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => panic!("{text}"),
        })
    }
}

/// Stands before a node, writes down how requests arrive, and lets all of them through as they are.
#[derive(Clone)]
struct Recorder {
    node: Channel,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Recorder {
    /// Stands before the node of this address; returns where.
    async fn before(address: &str, arrived: Arc<Mutex<Vec<Arrived>>>) -> String {
        let node = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap().to_string();
        let incoming = TcpIncoming::from(listener);
        let recorder = Recorder { node, arrived };
        tokio::spawn(Server::builder().serve_with_incoming(recorder, incoming));
        local
    }
}

impl Service<http::Request<Body>> for Recorder {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        self.arrived.lock().push(Arrived { path, headers });
        let mut node = self.node.clone();
        Box::pin(async move {
            let passed = async {
                poll_fn(|context| node.poll_ready(context)).await?;
                node.call(request).await
            };
            let refused = |error: tonic::transport::Error| Status::unavailable(error.to_string());
            Ok(passed.await.unwrap_or_else(|error| refused(error).into_http()))
        })
    }
}

/// A cluster of which one node reaches the others through recorders.
struct Bench {
    cluster: Cluster,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    vaults: Vec<VaultRef>,
}

impl Bench {
    async fn start() -> Bench {
        let mut cluster = Cluster::start(3).await;
        let vaults = cluster.vaults("forwarding", VAULTS).await;
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let mut dialled = Vec::new();
        for address in cluster.addresses().into_iter().skip(NEAR + 1) {
            let recorder = Recorder::before(&address, arrived.clone()).await;
            dialled.push(format!("{address}={recorder}"));
        }
        let server = &mut cluster.servers[NEAR];
        server.stop().await.unwrap();
        server.spec_mut().environment.push((DIAL_VARIABLE.to_owned(), dialled.join(",")));
        cluster.resume(NEAR).await;
        // Leaders that are spread stay where they are.
        leaders_are_spread(&cluster.nodes()).await;
        Bench { cluster, arrived, vaults }
    }

    fn near(&self) -> Node {
        self.cluster.node(NEAR)
    }

    /// A vault that another node leads.
    async fn vault(&self) -> VaultRef {
        for &vault in &self.vaults {
            let (namespace_id, vault_id) = wire(vault);
            let request = v1::GetVaultRequest { namespace_id, vault_id };
            let told = self.near().admin().get_vault(request).await.unwrap().into_inner();
            let near = &self.cluster.servers[NEAR].spec().name;
            if told.leader.is_some_and(|leader| leader.id != *near) {
                return vault;
            }
        }
        panic!("one node leads everything")
    }

    /// The request of this name as it arrived at the node that carried it out.
    async fn arrived(&self, name: &str, path: &str) -> Arrived {
        eventually("the request is passed on", async || {
            let all = self.arrived.lock().clone();
            let named: Vec<Arrived> =
                all.into_iter().filter(|one| one.header(REQUEST_ID) == Some(name)).collect();
            let one = named.iter().find(|one| one.path == path).cloned();
            one.ok_or(named.into_iter().map(|one| one.path).collect::<Vec<_>>())
        })
        .await
    }
}

/// A request with a name, in a trace, and with a header that is the client's own word to this connection.
fn traced<T>(name: &str, message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", TRACE.parse().unwrap());
    metadata.insert("tracestate", TRACE_STATE.parse().unwrap());
    metadata.insert(REQUEST_ID, name.parse().unwrap());
    metadata.insert("ledger-leader", "nobody:1".parse().unwrap());
    metadata.insert_bin("baggage-bin", MetadataValue::from_bytes(b"\x00\xff"));
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}

/// Everything of the client's went along, and nothing that was only for the first node.
#[track_caller]
fn assert_traced(arrived: &Arrived) {
    assert_eq!(arrived.header("traceparent"), Some(TRACE), "{arrived:?}");
    assert_eq!(arrived.header("tracestate"), Some(TRACE_STATE), "{arrived:?}");
    assert_eq!(arrived.header("baggage-bin"), Some("AP8"), "{arrived:?}");
    assert_eq!(arrived.header("ledger-forwarded"), Some("1"), "{arrived:?}");
    assert_eq!(arrived.header("ledger-leader"), None, "{arrived:?}");
}

/// No more time than the client gave, of which some has passed.
#[track_caller]
fn assert_within(arrived: &Arrived, most: Duration) {
    let timeout = arrived.timeout().expect("a deadline");
    assert!(timeout > Duration::ZERO && timeout < most, "{timeout:?} of {most:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_request_arrives_with_its_trace_and_no_more_time_than_it_had() {
    let bench = Bench::start().await;
    let (node, time) = (bench.near(), Duration::from_secs(7));
    let vault = bench.vault().await;
    let (namespace_id, vault_id) = wire(vault);

    let write = write_request(vault, vec![set("traced", b"1")]);
    node.writes().write(traced("write", write.clone(), Some(time))).await.unwrap();
    let arrived = bench.arrived("write", "/ledger.v1.WriteService/Write").await;
    assert_traced(&arrived);
    assert_within(&arrived, time);

    let read = v1::ReadRequest {
        namespace_id,
        vault_id,
        key: "traced".to_owned(),
        consistency: v1::ReadConsistency::Linearizable.into(),
    };
    let answer = node.reads().read(traced("read", read.clone(), Some(time))).await.unwrap();
    assert_eq!(answer.into_inner().value.as_deref(), Some(&b"1"[..]));
    let arrived = bench.arrived("read", "/ledger.v1.ReadService/Read").await;
    assert_traced(&arrived);
    assert_within(&arrived, time);
    // Who names no time has the server's, not more for having been passed on.
    node.reads().read(traced("timeless read", read, None)).await.unwrap();
    let arrived = bench.arrived("timeless read", "/ledger.v1.ReadService/Read").await;
    assert_within(&arrived, Duration::from_secs(10));

    let keys = vec![v1::VerifiedKey { key: Some(Key::Entity("traced".to_owned())) }];
    let get = v1::VerifiedGetRequest { namespace_id, vault_id, keys, ..Default::default() };
    node.ledger().verified_get(traced("verified get", get, Some(time))).await.unwrap();
    let arrived = bench.arrived("verified get", "/ledger.v1.Ledger/VerifiedGet").await;
    assert_traced(&arrived);
    assert_within(&arrived, time);

    // A write of a stream has a time of its own, and the trace of its stream.
    let write = Some(write_request(vault, vec![set("traced", b"2")]));
    let one = v1::WriteStreamRequest { correlation_id: 1, timeout_ms: 6_000, write };
    let request = traced("streamed", tokio_stream::once(one), None);
    let mut answers = node.ledger().write_stream(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(matches!(answer.result, Some(Streamed::Answer(_))), "{answer:?}");
    let arrived = bench.arrived("streamed", "/ledger.v1.WriteService/Write").await;
    assert_traced(&arrived);
    assert_within(&arrived, Duration::from_secs(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_stream_arrives_with_its_trace_and_without_an_end_in_time() {
    let bench = Bench::start().await;
    let node = bench.near();
    let vault = bench.vault().await;
    let (namespace_id, vault_id) = wire(vault);

    let client_id = Some(v1::ClientId { id: "traced".to_owned() });
    let begin = Message::Begin(v1::ImportBegin { namespace_id, vault_id, client_id });
    let entities = vec![v1::SetEntity { key: "imported".to_owned(), ..Default::default() }];
    let chunk = Message::Chunk(v1::ImportChunk { number: 1, entities, relationships: Vec::new() });
    let messages = [begin, chunk].map(|one| v1::ImportBulkRequest { message: Some(one) });
    let request = traced("import", tokio_stream::iter(messages), None);
    let mut answers = node.ledger().import_bulk(request).await.unwrap().into_inner();
    let mut durable = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        durable = answer.durable_chunk;
    }
    assert_eq!(durable, 1);
    let arrived = bench.arrived("import", "/ledger.v1.Ledger/ImportBulk").await;
    assert_traced(&arrived);
    assert_eq!(arrived.timeout(), None);

    let consistency = v1::ReadConsistency::Linearizable.into();
    let export =
        v1::ExportBulkRequest { namespace_id, vault_id, consistency, ..Default::default() };
    let mut chunks =
        node.ledger().export_bulk(traced("export", export, None)).await.unwrap().into_inner();
    let chunk = chunks.message().await.unwrap().unwrap();
    assert_eq!(chunk.entities.len(), 1);
    let arrived = bench.arrived("export", "/ledger.v1.Ledger/ExportBulk").await;
    assert_traced(&arrived);
    assert_eq!(arrived.timeout(), None);
}
