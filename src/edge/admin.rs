//! The administration service: which of its methods are built.
//!
//! Owns the method table. The work is in `namespaces` and `vaults`.

use ledger_proto::v1;
use ledger_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use super::Edge;
use super::status::Failure;

/// The answer of a published method that this release does not have.
pub(super) fn not_yet_built<A>(method: &'static str) -> Result<Response<A>, Status> {
    Err(Failure::NotYetBuilt { method }.into())
}

#[tonic::async_trait]
impl AdminService for Edge {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        Ok(self.make_namespace(request).await?)
    }

    async fn delete_namespace(
        &self,
        _request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        not_yet_built("AdminService/DeleteNamespace")
    }

    async fn get_namespace(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Result<Response<v1::GetNamespaceResponse>, Status> {
        Ok(self.tell_namespace(request).await?)
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        Ok(self.list_all_namespaces(request).await?)
    }

    async fn create_vault(
        &self,
        request: Request<v1::CreateVaultRequest>,
    ) -> Result<Response<v1::CreateVaultResponse>, Status> {
        Ok(self.make_vault(request).await?)
    }

    async fn delete_vault(
        &self,
        _request: Request<v1::DeleteVaultRequest>,
    ) -> Result<Response<v1::DeleteVaultResponse>, Status> {
        not_yet_built("AdminService/DeleteVault")
    }

    async fn get_vault(
        &self,
        request: Request<v1::GetVaultRequest>,
    ) -> Result<Response<v1::GetVaultResponse>, Status> {
        Ok(self.tell_vault(request).await?)
    }

    async fn list_vaults(
        &self,
        request: Request<v1::ListVaultsRequest>,
    ) -> Result<Response<v1::ListVaultsResponse>, Status> {
        Ok(self.list_all_vaults(request).await?)
    }

    async fn join_cluster(
        &self,
        _request: Request<v1::JoinClusterRequest>,
    ) -> Result<Response<v1::JoinClusterResponse>, Status> {
        not_yet_built("AdminService/JoinCluster")
    }

    async fn leave_cluster(
        &self,
        _request: Request<v1::LeaveClusterRequest>,
    ) -> Result<Response<v1::LeaveClusterResponse>, Status> {
        not_yet_built("AdminService/LeaveCluster")
    }

    async fn get_cluster_info(
        &self,
        _request: Request<v1::GetClusterInfoRequest>,
    ) -> Result<Response<v1::GetClusterInfoResponse>, Status> {
        not_yet_built("AdminService/GetClusterInfo")
    }

    async fn get_node_info(
        &self,
        _request: Request<v1::GetNodeInfoRequest>,
    ) -> Result<Response<v1::GetNodeInfoResponse>, Status> {
        not_yet_built("AdminService/GetNodeInfo")
    }

    async fn create_snapshot(
        &self,
        _request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        not_yet_built("AdminService/CreateSnapshot")
    }

    async fn check_integrity(
        &self,
        _request: Request<v1::CheckIntegrityRequest>,
    ) -> Result<Response<v1::CheckIntegrityResponse>, Status> {
        not_yet_built("AdminService/CheckIntegrity")
    }

    async fn recover_vault(
        &self,
        _request: Request<v1::RecoverVaultRequest>,
    ) -> Result<Response<v1::RecoverVaultResponse>, Status> {
        not_yet_built("AdminService/RecoverVault")
    }

    async fn simulate_divergence(
        &self,
        _request: Request<v1::SimulateDivergenceRequest>,
    ) -> Result<Response<v1::SimulateDivergenceResponse>, Status> {
        not_yet_built("AdminService/SimulateDivergence")
    }

    async fn force_gc(
        &self,
        _request: Request<v1::ForceGcRequest>,
    ) -> Result<Response<v1::ForceGcResponse>, Status> {
        not_yet_built("AdminService/ForceGc")
    }
}
