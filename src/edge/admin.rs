//! The administration service: which of its methods are built.
//!
//! Owns the method table. The work is in `namespaces` and `vaults`.

use ledger_proto::v1;
use ledger_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use super::Edge;
use super::status::Failure;

/// The answer of a published method for which this cluster has other means.
pub(super) fn not_offered<A>(
    method: &'static str,
    why: &'static str,
) -> Result<Response<A>, Status> {
    Err(Failure::NotOffered { method, why }.into())
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
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        Ok(self.remove_namespace(request).await?)
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
        request: Request<v1::DeleteVaultRequest>,
    ) -> Result<Response<v1::DeleteVaultResponse>, Status> {
        Ok(self.remove_vault(request).await?)
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
        let why = "a node joins by itself: start it with LEDGER_PEERS naming nodes of the cluster";
        not_offered("AdminService/JoinCluster", why)
    }

    async fn leave_cluster(
        &self,
        _request: Request<v1::LeaveClusterRequest>,
    ) -> Result<Response<v1::LeaveClusterResponse>, Status> {
        let why = "members change only to replace those of a node that lost its disk";
        not_offered("AdminService/LeaveCluster", why)
    }

    async fn get_cluster_info(
        &self,
        request: Request<v1::GetClusterInfoRequest>,
    ) -> Result<Response<v1::GetClusterInfoResponse>, Status> {
        Ok(self.cluster_info(request)?)
    }

    async fn get_node_info(
        &self,
        request: Request<v1::GetNodeInfoRequest>,
    ) -> Result<Response<v1::GetNodeInfoResponse>, Status> {
        Ok(self.node_info(request)?)
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        Ok(self.snapshot_vault(request).await?)
    }

    async fn check_integrity(
        &self,
        request: Request<v1::CheckIntegrityRequest>,
    ) -> Result<Response<v1::CheckIntegrityResponse>, Status> {
        Ok(self.check_vault(request).await?)
    }

    async fn recover_vault(
        &self,
        _request: Request<v1::RecoverVaultRequest>,
    ) -> Result<Response<v1::RecoverVaultResponse>, Status> {
        let why = "a replica is renewed as a whole, by taking its node's data directory away";
        not_offered("AdminService/RecoverVault", why)
    }

    async fn simulate_divergence(
        &self,
        _request: Request<v1::SimulateDivergenceRequest>,
    ) -> Result<Response<v1::SimulateDivergenceResponse>, Status> {
        let why = "a node that serves cannot be made to contradict its own chain";
        not_offered("AdminService/SimulateDivergence", why)
    }

    async fn force_gc(
        &self,
        request: Request<v1::ForceGcRequest>,
    ) -> Result<Response<v1::ForceGcResponse>, Status> {
        Ok(self.remove_expired(request).await?)
    }
}
