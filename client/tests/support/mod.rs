//! A node that answers over real gRPC on loopback as a test tells it to, and what tests say to it.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "shared by test files as a module")]

pub mod chain;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ledger_client::{Client, ClientConfig, RetryPolicy};
use ledger_proto::v1;
use ledger_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use ledger_proto::v1::ledger_server::{Ledger, LedgerServer};
use ledger_proto::v1::read_service_server::{ReadService, ReadServiceServer};
use ledger_proto::v1::write_service_server::{WriteService, WriteServiceServer};
use ledger_types::{Operation, VaultRef};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

pub const VAULT: VaultRef =
    VaultRef { namespace: ledger_types::NamespaceId(7), vault: ledger_types::VaultId(9) };

/// Answers of a stream that wait for their client.
const QUEUED_MAX: usize = 1_024;

/// What a node does with the `n`-th request of a kind, from 0.
pub type Answer<Q, R> = Box<dyn Fn(usize, &Q) -> Result<R, Status> + Send + Sync>;

/// One kind of call: its requests so far, and how it is answered.
pub struct Calls<Q, R> {
    pub seen: Mutex<Vec<Q>>,
    pub answer: Mutex<Option<Answer<Q, R>>>,
    pub delay: Mutex<Duration>,
}

impl<Q, R> Default for Calls<Q, R> {
    fn default() -> Self {
        let delay = Mutex::new(Duration::ZERO);
        Calls { seen: Mutex::new(Vec::new()), answer: Mutex::new(None), delay }
    }
}

impl<Q: Clone, R> Calls<Q, R> {
    pub fn answer(&self, answer: impl Fn(usize, &Q) -> Result<R, Status> + Send + Sync + 'static) {
        *self.answer.lock() = Some(Box::new(answer));
    }

    pub fn count(&self) -> usize {
        self.seen.lock().len()
    }

    async fn take(&self, request: Q) -> Result<R, Status> {
        let number = {
            let mut seen = self.seen.lock();
            seen.push(request.clone());
            seen.len() - 1
        };
        let delay = *self.delay.lock();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match &*self.answer.lock() {
            Some(answer) => answer(number, &request),
            None => Err(Status::unimplemented("the test gave no answer")),
        }
    }
}

/// A stream's items, and whether it ends after them.
pub struct Announcements {
    pub items: Vec<Result<v1::BlockAnnouncement, Status>>,
    pub ends: bool,
}

#[derive(Default)]
pub struct Node {
    /// Tells clients on every answer who leads, if set: address and group.
    pub leader_told: Mutex<Option<(String, u64)>>,
    /// Addresses told by status.
    pub nodes_told: Mutex<Vec<String>>,
    pub writes: Calls<v1::WriteRequest, v1::WriteResponse>,
    pub namespaces: Calls<v1::CreateNamespaceRequest, v1::CreateNamespaceResponse>,
    pub namespaces_by_name: Calls<v1::GetNamespaceRequest, v1::GetNamespaceResponse>,
    pub vaults: Calls<v1::CreateVaultRequest, v1::CreateVaultResponse>,
    pub blocks: Calls<v1::GetBlockRequest, v1::GetBlockResponse>,
    pub block_ranges: Calls<v1::GetBlockRangeRequest, v1::GetBlockRangeResponse>,
    pub watches: Calls<v1::WatchBlocksRequest, Announcements>,
    pub tips: Calls<v1::GetTipRequest, v1::GetTipResponse>,
    pub entities: Calls<v1::ListEntitiesRequest, v1::ListEntitiesResponse>,
    pub relationships: Calls<v1::ListRelationshipsRequest, v1::ListRelationshipsResponse>,
    pub bundles: Calls<v1::GetTrustBundleRequest, v1::GetTrustBundleResponse>,
    pub verified: Calls<v1::VerifiedGetRequest, v1::VerifiedGetResponse>,
    pub receipts: Calls<v1::GetReceiptRequest, v1::GetReceiptResponse>,
    pub growths: Calls<v1::GetConsistencyProofRequest, v1::GetConsistencyProofResponse>,
    pub lists: Calls<v1::VerifiedListRequest, v1::VerifiedListResponse>,
    /// Writes that came on streams. Without an answer the client hears nothing; with an error the stream ends.
    pub streamed: Arc<Calls<v1::WriteStreamRequest, Option<v1::WriteStreamResponse>>>,
    /// Messages of imports, answered likewise.
    pub imports: Arc<Calls<v1::ImportBulkRequest, Option<v1::ImportBulkResponse>>>,
    pub exports: Calls<v1::ExportBulkRequest, Vec<Result<v1::ExportBulkResponse, Status>>>,
    /// Streams of writes opened so far.
    pub streams_opened: AtomicUsize,
}

/// Answers the messages of a stream as the test tells, until an answer is an error.
fn answer_each<Q, R>(
    calls: Arc<Calls<Q, Option<R>>>,
    mut inbound: Streaming<Q>,
    finished: impl Fn(&Q, R) -> R + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>
where
    Q: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUED_MAX);
    tokio::spawn(async move {
        while let Ok(Some(message)) = inbound.message().await {
            let answer = match calls.take(message.clone()).await {
                Ok(None) => continue,
                Ok(Some(answer)) => Ok(finished(&message, answer)),
                Err(status) => Err(status),
            };
            let is_end = answer.is_err();
            if sender.send(answer).await.is_err() || is_end {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// The answer of a stream to a write.
pub fn streamed(answer: v1::WriteResponse) -> Option<v1::WriteStreamResponse> {
    let result = Some(v1::write_stream_response::Result::Answer(answer));
    Some(v1::WriteStreamResponse { result, ..v1::WriteStreamResponse::default() })
}

/// A refusal of one write of a stream, which goes on.
pub fn streamed_refusal(
    code: Code,
    reason: &str,
    metadata: &[(&str, &str)],
) -> Option<v1::WriteStreamResponse> {
    let pairs = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let refusal = v1::Refusal {
        code: (code as i32).unsigned_abs(),
        reason: reason.to_owned(),
        message: reason.to_lowercase(),
        metadata: pairs.collect(),
        ..v1::Refusal::default()
    };
    let result = Some(v1::write_stream_response::Result::Refusal(refusal));
    Some(v1::WriteStreamResponse { result, ..v1::WriteStreamResponse::default() })
}

impl Node {
    fn tell<R>(&self, answer: R) -> Response<R> {
        let mut response = Response::new(answer);
        if let Some((address, group)) = &*self.leader_told.lock() {
            let metadata = response.metadata_mut();
            metadata.insert("ledger-leader", address.parse().unwrap());
            metadata.insert("ledger-group", group.to_string().parse().unwrap());
        }
        response
    }
}

/// Starts a node on a free port. It serves until the test's runtime ends.
pub async fn start() -> (Arc<Node>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = Arc::new(Node::default());
    let server = tonic::transport::Server::builder()
        .add_service(WriteServiceServer::from_arc(node.clone()))
        .add_service(ReadServiceServer::from_arc(node.clone()))
        .add_service(AdminServiceServer::from_arc(node.clone()))
        .add_service(LedgerServer::from_arc(node.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (node, address)
}

/// Settings that make tests quick.
pub fn config(addresses: &[&str]) -> ClientConfig {
    let mut config = ClientConfig::new(addresses.iter().map(|&text| text.to_owned()).collect());
    config.retry = RetryPolicy {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        ..RetryPolicy::default()
    };
    config.deadline = Duration::from_secs(20);
    config
}

pub async fn connect(addresses: &[&str]) -> Client {
    Client::connect(config(addresses)).await.unwrap()
}

pub fn set(key: &str) -> Vec<Operation> {
    vec![Operation::SetEntity {
        key: key.to_owned(),
        value: b"value".to_vec(),
        expires_at: 0,
        condition: None,
    }]
}

/// A write's success at this height.
pub fn written(height: u64) -> v1::WriteResponse {
    let success = v1::WriteSuccess {
        tx_id: Some(v1::TxId { id: vec![3; 16] }),
        block_height: height,
        assigned_sequence: 1,
        operation_outcomes: vec![v1::OperationOutcome::Created.into()],
        ..v1::WriteSuccess::default()
    };
    v1::WriteResponse { result: Some(v1::write_response::Result::Success(success)) }
}

/// A refusal as nodes make them.
pub fn refusal(
    code: Code,
    reason: &str,
    metadata: &[(&str, &str)],
    retry_ms: Option<u64>,
) -> Status {
    let mut details = ErrorDetails::new();
    let pairs = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    details.set_error_info(reason, "ledger.v1", pairs.collect::<std::collections::HashMap<_, _>>());
    if let Some(ms) = retry_ms {
        details.set_retry_info(Some(Duration::from_millis(ms)));
    }
    Status::with_error_details(code, reason.to_lowercase(), details)
}

/// Calls that no test makes. Written as `async_trait` writes them, because it does not look into macros.
macro_rules! refuse {
    ($($name:ident: $request:ident => $answer:ident,)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<v1::$request>,
        ) -> Pin<
            Box<dyn Future<Output = Result<Response<v1::$answer>, Status>> + Send + 'async_trait>,
        >
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not part of any test")) })
        })*
    };
}

#[tonic::async_trait]
impl WriteService for Node {
    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        Ok(self.tell(self.writes.take(request.into_inner()).await?))
    }

    async fn batch_write(
        &self,
        _: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        Err(Status::unimplemented("not part of any test"))
    }
}

#[tonic::async_trait]
impl Ledger for Node {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let known = |address: &String| v1::KnownNode {
            address: address.clone(),
            ..v1::KnownNode::default()
        };
        let nodes = self.nodes_told.lock().iter().map(known).collect();
        Ok(Response::new(v1::GetStatusResponse { nodes, ..v1::GetStatusResponse::default() }))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        Err(Status::unimplemented("not part of any test"))
    }

    async fn get_checkpoint(
        &self,
        _: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        Err(Status::unimplemented("not part of any test"))
    }

    async fn verified_get(
        &self,
        request: Request<v1::VerifiedGetRequest>,
    ) -> Result<Response<v1::VerifiedGetResponse>, Status> {
        Ok(self.tell(self.verified.take(request.into_inner()).await?))
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        Ok(self.tell(self.receipts.take(request.into_inner()).await?))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        Ok(self.tell(self.growths.take(request.into_inner()).await?))
    }

    async fn verified_list(
        &self,
        request: Request<v1::VerifiedListRequest>,
    ) -> Result<Response<v1::VerifiedListResponse>, Status> {
        Ok(self.tell(self.lists.take(request.into_inner()).await?))
    }

    type WatchChangesStream = tokio_stream::Empty<Result<v1::WatchChangesResponse, Status>>;

    async fn watch_changes(
        &self,
        _: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn get_trust_bundle(
        &self,
        request: Request<v1::GetTrustBundleRequest>,
    ) -> Result<Response<v1::GetTrustBundleResponse>, Status> {
        Ok(Response::new(self.bundles.take(request.into_inner()).await?))
    }

    type WriteStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::WriteStreamResponse, Status>> + Send>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<v1::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        self.streams_opened.fetch_add(1, Ordering::SeqCst);
        let inbound = request.into_inner();
        let noted = |message: &v1::WriteStreamRequest, answer: v1::WriteStreamResponse| {
            v1::WriteStreamResponse { correlation_id: message.correlation_id, ..answer }
        };
        Ok(Response::new(answer_each(self.streamed.clone(), inbound, noted)))
    }

    type ImportBulkStream =
        Pin<Box<dyn Stream<Item = Result<v1::ImportBulkResponse, Status>> + Send>>;

    async fn import_bulk(
        &self,
        request: Request<Streaming<v1::ImportBulkRequest>>,
    ) -> Result<Response<Self::ImportBulkStream>, Status> {
        let inbound = request.into_inner();
        Ok(Response::new(answer_each(self.imports.clone(), inbound, |_, answer| answer)))
    }

    type ExportBulkStream =
        Pin<Box<dyn Stream<Item = Result<v1::ExportBulkResponse, Status>> + Send>>;

    async fn export_bulk(
        &self,
        request: Request<v1::ExportBulkRequest>,
    ) -> Result<Response<Self::ExportBulkStream>, Status> {
        let chunks = self.exports.take(request.into_inner()).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

#[tonic::async_trait]
impl ReadService for Node {
    type WatchBlocksStream =
        Pin<Box<dyn Stream<Item = Result<v1::BlockAnnouncement, Status>> + Send>>;

    async fn watch_blocks(
        &self,
        request: Request<v1::WatchBlocksRequest>,
    ) -> Result<Response<Self::WatchBlocksStream>, Status> {
        let Announcements { items, ends } = self.watches.take(request.into_inner()).await?;
        let items = tokio_stream::iter(items);
        Ok(Response::new(match ends {
            true => Box::pin(items),
            false => Box::pin(tokio_stream::StreamExt::chain(items, tokio_stream::pending())),
        }))
    }

    async fn list_entities(
        &self,
        request: Request<v1::ListEntitiesRequest>,
    ) -> Result<Response<v1::ListEntitiesResponse>, Status> {
        Ok(self.tell(self.entities.take(request.into_inner()).await?))
    }

    async fn list_relationships(
        &self,
        request: Request<v1::ListRelationshipsRequest>,
    ) -> Result<Response<v1::ListRelationshipsResponse>, Status> {
        Ok(self.tell(self.relationships.take(request.into_inner()).await?))
    }

    async fn get_tip(
        &self,
        request: Request<v1::GetTipRequest>,
    ) -> Result<Response<v1::GetTipResponse>, Status> {
        Ok(self.tell(self.tips.take(request.into_inner()).await?))
    }

    async fn get_block(
        &self,
        request: Request<v1::GetBlockRequest>,
    ) -> Result<Response<v1::GetBlockResponse>, Status> {
        Ok(self.tell(self.blocks.take(request.into_inner()).await?))
    }

    async fn get_block_range(
        &self,
        request: Request<v1::GetBlockRangeRequest>,
    ) -> Result<Response<v1::GetBlockRangeResponse>, Status> {
        Ok(self.tell(self.block_ranges.take(request.into_inner()).await?))
    }

    refuse! {
        read: ReadRequest => ReadResponse,
        batch_read: BatchReadRequest => BatchReadResponse,
        verified_read: VerifiedReadRequest => VerifiedReadResponse,
        historical_read: HistoricalReadRequest => HistoricalReadResponse,
        get_client_state: GetClientStateRequest => GetClientStateResponse,
        list_resources: ListResourcesRequest => ListResourcesResponse,
    }
}

#[tonic::async_trait]
impl AdminService for Node {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        Ok(self.tell(self.namespaces.take(request.into_inner()).await?))
    }

    async fn get_namespace(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Result<Response<v1::GetNamespaceResponse>, Status> {
        Ok(self.tell(self.namespaces_by_name.take(request.into_inner()).await?))
    }

    async fn create_vault(
        &self,
        request: Request<v1::CreateVaultRequest>,
    ) -> Result<Response<v1::CreateVaultResponse>, Status> {
        Ok(self.tell(self.vaults.take(request.into_inner()).await?))
    }

    refuse! {
        delete_namespace: DeleteNamespaceRequest => DeleteNamespaceResponse,
        list_namespaces: ListNamespacesRequest => ListNamespacesResponse,
        delete_vault: DeleteVaultRequest => DeleteVaultResponse,
        get_vault: GetVaultRequest => GetVaultResponse,
        list_vaults: ListVaultsRequest => ListVaultsResponse,
        join_cluster: JoinClusterRequest => JoinClusterResponse,
        leave_cluster: LeaveClusterRequest => LeaveClusterResponse,
        get_cluster_info: GetClusterInfoRequest => GetClusterInfoResponse,
        get_node_info: GetNodeInfoRequest => GetNodeInfoResponse,
        create_snapshot: CreateSnapshotRequest => CreateSnapshotResponse,
        check_integrity: CheckIntegrityRequest => CheckIntegrityResponse,
        recover_vault: RecoverVaultRequest => RecoverVaultResponse,
        simulate_divergence: SimulateDivergenceRequest => SimulateDivergenceResponse,
        force_gc: ForceGcRequest => ForceGcResponse,
    }
}
