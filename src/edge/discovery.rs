//! The discovery service of the published API, which this release does not have yet.
//!
//! Owns its refusals: a client learns by their reason that it is talking to a server that knows the service.

use ledger_proto::v1;
use ledger_proto::v1::system_discovery_service_server::SystemDiscoveryService;
use tonic::{Request, Response, Status};

use super::Edge;
use super::admin::not_yet_built;

#[tonic::async_trait]
impl SystemDiscoveryService for Edge {
    async fn get_peers(
        &self,
        _request: Request<v1::GetPeersRequest>,
    ) -> Result<Response<v1::GetPeersResponse>, Status> {
        not_yet_built("SystemDiscoveryService/GetPeers")
    }

    async fn announce_peer(
        &self,
        _request: Request<v1::AnnouncePeerRequest>,
    ) -> Result<Response<v1::AnnouncePeerResponse>, Status> {
        not_yet_built("SystemDiscoveryService/AnnouncePeer")
    }

    async fn get_system_state(
        &self,
        _request: Request<v1::GetSystemStateRequest>,
    ) -> Result<Response<v1::GetSystemStateResponse>, Status> {
        not_yet_built("SystemDiscoveryService/GetSystemState")
    }
}
