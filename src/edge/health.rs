//! Both health services: the standard one and the published one.
//!
//! Owns the names that can be asked about and what each means. Must never ask another node.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use ledger_proto::convert::ids;
use ledger_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::status::Failure;
use super::{Edge, route, vaults};

/// How often a watched status is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

impl Edge {
    /// The standard status of a name; `None` if there is no such name. The empty name and the ledger's own
    /// service mean readiness, so that balancers keep away from a node that cannot serve.
    fn serving_status(&self, service: &str) -> Option<ServingStatus> {
        let serves = match service {
            "" | "ledger.v1.Ledger" => self.slot.is_ready(),
            "liveness" => self.slot.is_live(),
            _ => return None,
        };
        Some(if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Edge {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.serving_status(service) {
            Some(status) => Ok(Response::new(answer(status))),
            None => Err(Failure::UnknownService(service.clone()).into()),
        }
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    /// Tells the status at once and then every change. A name that is not known is told as such, as the
    /// protocol asks for: it may become known.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let edge = self.clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut told = None;
            let mut interval = tokio::time::interval(WATCH_INTERVAL);
            loop {
                interval.tick().await;
                let now = edge.serving_status(&service).unwrap_or(ServingStatus::ServiceUnknown);
                if told.replace(now) != Some(now) && sender.send(Ok(answer(now))).await.is_err() {
                    return;
                }
                if sender.is_closed() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl v1::health_service_server::HealthService for Edge {
    async fn check(
        &self,
        request: Request<v1::HealthCheckRequest>,
    ) -> Result<Response<v1::HealthCheckResponse>, Status> {
        let request = request.into_inner();
        let vault = ids::optional_vault_ref(request.namespace_id, request.vault_id)
            .map_err(Failure::from)?;
        if let Some(vault) = vault {
            return Ok(Response::new(self.vault_health(vault)?));
        }
        let mut details = HashMap::new();
        let checks = self.slot.readiness();
        for check in &checks {
            let finding = check.failure.clone().unwrap_or_else(|| "ok".to_owned());
            details.insert(check.name.to_owned(), finding);
        }
        let failed: Vec<&str> =
            checks.iter().filter(|check| check.failure.is_some()).map(|check| check.name).collect();
        let leaderless = self.slot.peek().map_or(0, |context| route::leaderless_groups(context));
        details.insert("groups-without-leader".to_owned(), leaderless.to_string());
        let (status, message) = match (failed.as_slice(), leaderless) {
            ([], 0) => (v1::HealthStatus::Healthy, "ok".to_owned()),
            ([], count) => {
                let message = format!("{count} groups have no known leader");
                (v1::HealthStatus::Degraded, message)
            }
            (failed, _) => (v1::HealthStatus::Unavailable, failed.join(", ")),
        };
        let status = status.into();
        Ok(Response::new(v1::HealthCheckResponse { status, message, details }))
    }
}

impl Edge {
    /// The health of one vault as this node sees it.
    fn vault_health(
        &self,
        vault: ledger_types::VaultRef,
    ) -> Result<v1::HealthCheckResponse, Failure> {
        let context = self.slot.get()?;
        let group = vaults::known_group(context, vault)?;
        let mut details = HashMap::new();
        details.insert("group".to_owned(), group.to_string());
        let (status, message) = match context.shard.leader(group) {
            Some((_, _, Some(leader))) => {
                details.insert("leader_node".to_owned(), leader.to_string());
                (v1::HealthStatus::Healthy, "ok")
            }
            Some((_, _, None)) => {
                (v1::HealthStatus::Degraded, "no leader of the vault's group is known")
            }
            None => (v1::HealthStatus::Healthy, "this node has no replica of the vault's group"),
        };
        let status = status.into();
        Ok(v1::HealthCheckResponse { status, message: message.to_owned(), details })
    }
}
