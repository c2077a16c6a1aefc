//! The gRPC listener: which services there are, the limits of connections, and what every request passes.
//!
//! Owns deadlines at the door, durations, and the answers that the transport would otherwise give without a
//! reason. Must never look into a message.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ledger_proto::internal::commands_server::{Commands, CommandsServer};
use ledger_proto::internal::cosigners_server::{Cosigners, CosignersServer};
use ledger_proto::internal::{CosignRequest, CosignResponse, ProposeRequest, ProposeResponse};
use ledger_proto::v1::admin_service_server::AdminServiceServer;
use ledger_proto::v1::health_service_server::HealthServiceServer;
use ledger_proto::v1::ledger_server::LedgerServer;
use ledger_proto::v1::read_service_server::ReadServiceServer;
use ledger_proto::v1::system_discovery_service_server::SystemDiscoveryServiceServer;
use ledger_proto::v1::write_service_server::WriteServiceServer;
use ledger_types::limits::{self, REQUEST_BYTES_MAX};
use prometheus::Histogram;
use rand::Rng as _;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use super::Edge;
use super::deadline::{GRPC_TIMEOUT, is_past, parse_timeout};
use super::slot::NodeSlot;
use super::status::{Failure, of_transport};
use crate::commands::CommandService;
use crate::cosigning::CosignService;
use crate::metrics::RequestMetrics;
use crate::peer::PeerService;
use crate::snapshots::SnapshotService;

/// Flow-control window of a stream: a largest request and its framing arrive without waiting.
const STREAM_WINDOW_BYTES: u32 = 9 * 1024 * 1024;
/// Flow-control window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Requests in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = limits::STREAMS_PER_CONNECTION_MAX as u32;
/// A connection is asked to end after this time, so that clients spread again over grown clusters.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Up to this is added to the age, so that not all nodes close their connections at once.
const CONNECTION_AGE_JITTER: Duration = Duration::from_secs(10 * 60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest message that is decoded. A forwarded request may name what the client's left out, and so be a
/// little larger than the limit that the client is held to.
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 4096;
/// Largest command of another node: a command and its envelope.
const COMMAND_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// How long open streams may keep a listener that is asked to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves all gRPC services on `listener`, whatever the stage of the edge's node, until `shutdown`
/// completes and open requests have ended, or at most a few seconds longer. Errors if the listener fails.
pub async fn serve(
    edge: Edge,
    metrics: Arc<RequestMetrics>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE_INTERVAL));
    let jitter = rand::rng().random_range(Duration::ZERO..CONNECTION_AGE_JITTER);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_connection_age(CONNECTION_AGE + jitter);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let signal = async move {
        // A sender that is gone means the same as one that has sent.
        let _ = stopped.await;
    };
    let serving = server.serve_with_incoming_shutdown(Door::new(edge, metrics), incoming, signal);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = shutdown => drop(stop),
    }
    tokio::time::timeout(DRAIN_TIME_MAX, serving).await.unwrap_or(Ok(()))
}

/// Every service behind one door. The busy ones are told apart by their path's beginning, without the
/// general router's cost.
#[derive(Clone)]
struct Door {
    write: WriteServiceServer<Edge>,
    read: ReadServiceServer<Edge>,
    ledger: LedgerServer<Edge>,
    rest: Routes,
    metrics: Arc<RequestMetrics>,
}

impl Door {
    fn new(edge: Edge, metrics: Arc<RequestMetrics>) -> Door {
        let slot = edge.slot.clone();
        let commands = CommandsServer::new(LateCommands { slot: slot.clone() });
        let cosigners = CosignersServer::new(LateCosigners { slot: slot.clone() });
        let find = move || slot.peek().map(|context| context.snapshots.clone());
        let internal = Routes::new(PeerService::new(edge.peers.clone()).into_server())
            .add_service(commands.max_decoding_message_size(COMMAND_BYTES_MAX))
            .add_service(cosigners)
            .add_service(SnapshotService::new(find).into_server());
        let edge = Arc::new(edge);
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(ledger_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = descriptors().build_v1().expect("the descriptors are compiled in");
        let older = descriptors().build_v1alpha().expect("the descriptors are compiled in");
        let admin = AdminServiceServer::from_arc(edge.clone());
        // What a message may have at most is counted unpacked, while it is unpacked. Answers are never packed: most are
        // hashes and small values.
        let rest = internal
            .add_service(admin.accept_compressed(Gzip).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(HealthServiceServer::from_arc(edge.clone()).accept_compressed(Gzip))
            .add_service(
                SystemDiscoveryServiceServer::from_arc(edge.clone()).accept_compressed(Gzip),
            )
            .add_service(HealthServer::from_arc(edge.clone()).accept_compressed(Gzip))
            .add_service(reflection)
            .add_service(older)
            .prepare();
        Door {
            write: WriteServiceServer::from_arc(edge.clone())
                .accept_compressed(Gzip)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            read: ReadServiceServer::from_arc(edge.clone())
                .accept_compressed(Gzip)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            ledger: LedgerServer::from_arc(edge)
                .accept_compressed(Gzip)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            rest,
            metrics,
        }
    }

    fn dispatch(&mut self, request: http::Request<Body>) -> Answer {
        let path = request.uri().path();
        if path.starts_with("/ledger.v1.WriteService/") {
            self.write.call(request)
        } else if path.starts_with("/ledger.v1.ReadService/") {
            self.read.call(request)
        } else if path.starts_with("/ledger.v1.Ledger/") {
            self.ledger.call(request)
        } else {
            Box::pin(self.rest.call(request))
        }
    }
}

/// The nodes' own commands, refused until this node belongs to a cluster.
struct LateCommands {
    slot: Arc<NodeSlot>,
}

#[tonic::async_trait]
impl Commands for LateCommands {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let not_ready = || Failure::not_ready("it belongs to no cluster yet");
        let context = self.slot.peek().ok_or_else(not_ready)?;
        CommandService::new(context).propose(request).await
    }
}

/// Cosignatures for other nodes, refused until this node belongs to a cluster.
struct LateCosigners {
    slot: Arc<NodeSlot>,
}

#[tonic::async_trait]
impl Cosigners for LateCosigners {
    async fn cosign(
        &self,
        request: Request<CosignRequest>,
    ) -> Result<Response<CosignResponse>, Status> {
        let not_ready = || Failure::not_ready("it belongs to no cluster yet");
        let context = self.slot.peek().ok_or_else(not_ready)?;
        CosignService::new(context).cosign(request).await
    }
}

type Answer = BoxFuture<http::Response<Body>, Infallible>;

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Measured;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Measured {
        let started = Instant::now();
        let duration = self.metrics.duration_of(request.uri().path()).clone();
        let answer = if is_too_late(&request) {
            let response = Status::from(Failure::Deadline).into_http();
            Box::pin(std::future::ready(Ok(response)))
        } else {
            self.dispatch(request)
        };
        Measured { answer, started, duration }
    }
}

/// True if the client's deadline passed before its message was even read.
fn is_too_late(request: &http::Request<Body>) -> bool {
    let header = request.headers().get(GRPC_TIMEOUT);
    let timeout = header.and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    timeout.is_some_and(is_past)
}

/// A request on its way, with its beginning.
struct Measured {
    answer: Answer,
    started: Instant,
    duration: Histogram,
}

impl Future for Measured {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.answer.as_mut().poll(context));
        self.duration.observe(self.started.elapsed().as_secs_f64());
        Poll::Ready(Ok(with_reason(response)))
    }
}

/// Gives a reason to what the transport refuses by itself: messages that are too large or malformed.
fn with_reason(response: http::Response<Body>) -> http::Response<Body> {
    let headers = response.headers();
    if !headers.contains_key("grpc-status") || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else { return response };
    match of_transport(&status) {
        Some(failure) => Status::from(failure).into_http(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    fn reason_of(status: Status) -> Option<(Code, String)> {
        let response = with_reason(status.into_http());
        let status = Status::from_header_map(response.headers())?;
        Some((status.code(), status.get_details_error_info()?.reason))
    }

    #[test]
    fn refusals_of_the_transport_get_a_reason() {
        let too_large = Status::out_of_range("decoded message length too large");
        let expected = (Code::InvalidArgument, "REQUEST_TOO_LARGE".to_owned());
        assert_eq!(reason_of(too_large), Some(expected.clone()));
        // A packed message that grows beyond the limit is not unpacked further.
        let bomb = Status::resource_exhausted("Error decompressing: size limit exceeded");
        assert_eq!(reason_of(bomb), Some(expected));
        let malformed = Status::internal("failed to decode Protobuf message");
        let expected = (Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned());
        assert_eq!(reason_of(malformed), Some(expected));
        let own = Status::from(Failure::Store("disk".into()));
        assert_eq!(reason_of(own), Some((Code::Internal, "STORE_FAULT".to_owned())));
        assert_eq!(reason_of(Status::cancelled("gone")), None);
    }

    #[test]
    fn a_passed_deadline_is_seen_before_the_message_is_read() {
        let with_timeout = |value: &str| {
            let request = http::Request::builder().header(GRPC_TIMEOUT, value);
            is_too_late(&request.body(Body::empty()).expect("legal"))
        };
        assert!(with_timeout("0m") && with_timeout("1n"));
        assert!(!with_timeout("5m") && !with_timeout("nonsense"));
    }
}
