//! Rung (a): an empty unary call over loopback, client and server in this process.
//!
//! Owns a server whose `Check` answers with nothing. Must never do work in the handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_proto::v1::health_service_client::HealthServiceClient;
use ledger_proto::v1::health_service_server::{HealthService, HealthServiceServer};
use ledger_proto::v1::{HealthCheckRequest, HealthCheckResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::cost::{Cost, Stretch};

struct Empty;

#[tonic::async_trait]
impl HealthService for Empty {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse::default()))
    }
}

/// Calls in a closed loop with `in_flight` callers on 4 connections.
pub(crate) fn measure(time: Duration, in_flight: usize) -> Cost {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder()
            .tcp_nodelay(true)
            .add_service(HealthServiceServer::new(Empty))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);
        let mut clients = Vec::new();
        for _ in 0..4 {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            let channel = endpoint.tcp_nodelay(true).connect().await.expect("the server listens");
            clients.push(HealthServiceClient::new(channel));
        }
        let calls = Arc::new(AtomicU64::new(0));
        let stretch = Stretch::begin();
        let end = Instant::now() + time;
        let callers: Vec<_> = (0..in_flight)
            .map(|number| {
                let (mut client, calls) = (clients[number % clients.len()].clone(), calls.clone());
                tokio::spawn(async move {
                    while Instant::now() < end {
                        client.check(HealthCheckRequest::default()).await.expect("an answer");
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        let cost = stretch.end(calls.load(Ordering::Relaxed));
        server.abort();
        cost
    })
}
