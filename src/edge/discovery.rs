//! The discovery service of the published API.
//!
//! Owns the method table. The work is in `cluster`.

use ledger_proto::v1;
use ledger_proto::v1::system_discovery_service_server::SystemDiscoveryService;
use tonic::{Request, Response, Status};

use super::Edge;
use super::admin::not_offered;

#[tonic::async_trait]
impl SystemDiscoveryService for Edge {
    async fn get_peers(
        &self,
        request: Request<v1::GetPeersRequest>,
    ) -> Result<Response<v1::GetPeersResponse>, Status> {
        Ok(self.peers_to_connect(request)?)
    }

    async fn announce_peer(
        &self,
        _request: Request<v1::AnnouncePeerRequest>,
    ) -> Result<Response<v1::AnnouncePeerResponse>, Status> {
        let why = "a node registers its own address when it joins";
        not_offered("SystemDiscoveryService/AnnouncePeer", why)
    }

    async fn get_system_state(
        &self,
        request: Request<v1::GetSystemStateRequest>,
    ) -> Result<Response<v1::GetSystemStateResponse>, Status> {
        Ok(self.system_state(request)?)
    }
}
