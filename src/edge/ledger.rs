//! The ledger's own service: which of its methods is answered where.
//!
//! Owns the method table and what `GetServerInfo` tells. The work is in `verified`, `receipts`,
//! `report`, `trust` and `watch_changes`.

use ledger_proto::convert::limits::wire_limits;
use ledger_proto::v1;
use ledger_proto::v1::ledger_client::LedgerClient;
use ledger_proto::v1::ledger_server::Ledger;
use ledger_shard::DriverConfig;
use ledger_types::limits::PAGE_BYTES_MAX;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::{Edge, export, import, watch_changes, write_stream};

/// Version of the public API.
const API_VERSION: &str = "ledger.v1";

/// A client of another node for forwarded requests.
pub(super) fn client(channel: Channel) -> LedgerClient<Channel> {
    LedgerClient::new(channel).max_decoding_message_size(4 * PAGE_BYTES_MAX)
}

impl Edge {
    /// Operations that a namespace may ask of this node in a second; 0 for any number, or for none yet.
    fn namespace_rate(&self) -> u64 {
        self.slot.peek().map_or(0, |context| context.admission.per_second())
    }
}

#[tonic::async_trait]
impl Ledger for Edge {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(self.status_report(request).await?)
    }

    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let mut features = [
            "client-sequences",
            "verified-get",
            "verified-list",
            "watch-changes",
            "write-stream",
            "bulk",
        ]
        .map(str::to_owned)
        .to_vec();
        if self.slot.peek().is_some_and(|context| context.config.auto_create_vaults) {
            features.push("auto-create-vaults".to_owned());
        }
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: API_VERSION.to_owned(),
            limits: Some(wire_limits()),
            features,
            namespace_operations_per_second: self.namespace_rate(),
            in_flight_bytes_max: DriverConfig::default().request_bytes_max as u64,
        }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        Ok(self.checkpoint(request).await?)
    }

    async fn verified_get(
        &self,
        request: Request<v1::VerifiedGetRequest>,
    ) -> Result<Response<v1::VerifiedGetResponse>, Status> {
        Ok(self.get_verified(request).await?)
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        Ok(self.receipt(request).await?)
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        Ok(self.consistency_proof(request).await?)
    }

    async fn verified_list(
        &self,
        request: Request<v1::VerifiedListRequest>,
    ) -> Result<Response<v1::VerifiedListResponse>, Status> {
        Ok(self.list_verified(request).await?)
    }

    type WatchChangesStream = watch_changes::ChangeStream;

    async fn watch_changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        Ok(self.changes(request).await?)
    }

    async fn get_trust_bundle(
        &self,
        request: Request<v1::GetTrustBundleRequest>,
    ) -> Result<Response<v1::GetTrustBundleResponse>, Status> {
        Ok(self.trust_bundle(request).await?)
    }

    type WriteStreamStream = write_stream::WriteAnswers;

    async fn write_stream(
        &self,
        request: Request<Streaming<v1::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        Ok(self.stream_writes(request)?)
    }

    type ImportBulkStream = import::ImportAnswers;

    async fn import_bulk(
        &self,
        request: Request<Streaming<v1::ImportBulkRequest>>,
    ) -> Result<Response<Self::ImportBulkStream>, Status> {
        Ok(self.import(request).await?)
    }

    type ExportBulkStream = export::ExportChunks;

    async fn export_bulk(
        &self,
        request: Request<v1::ExportBulkRequest>,
    ) -> Result<Response<Self::ExportBulkStream>, Status> {
        Ok(self.export(request).await?)
    }
}
