//! The HTTP listener: metrics and probes, over HTTP/1 only.
//!
//! Owns the paths and what they answer. Must never do work for clients: it must answer while everything
//! else is in trouble.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::edge::{BEAT_INTERVAL, Check, NodeSlot};
use crate::metrics::RequestMetrics;

/// The format that Prometheus scrapes.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TYPE: &str = "text/plain; charset=utf-8";

#[derive(Clone)]
struct Served {
    slot: Arc<NodeSlot>,
    metrics: Arc<RequestMetrics>,
}

/// Serves metrics and probes until `shutdown` completes.
pub async fn serve(
    slot: Arc<NodeSlot>,
    metrics: Arc<RequestMetrics>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let beats = tokio::spawn(beat(slot.clone()));
    let served = axum::serve(listener, router(slot, metrics)).with_graceful_shutdown(shutdown);
    let outcome = served.await;
    beats.abort();
    outcome
}

fn router(slot: Arc<NodeSlot>, metrics: Arc<RequestMetrics>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Served { slot, metrics })
}

/// Keeps asking the log for signs of life, which liveness judges by.
async fn beat(slot: Arc<NodeSlot>) {
    let mut interval = tokio::time::interval(BEAT_INTERVAL);
    loop {
        interval.tick().await;
        slot.beat();
    }
}

async fn scrape(State(served): State<Served>) -> Response {
    let rendering = tokio::task::spawn_blocking(move || {
        let sample = served.slot.sample();
        served.metrics.render(&sample)
    });
    match rendering.await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn live(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    report(&served.slot.liveness(), is_verbose(query.as_deref()))
}

async fn ready(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    report(&served.slot.readiness(), is_verbose(query.as_deref()))
}

/// `?verbose`, alone or with a value, among other parameters.
fn is_verbose(query: Option<&str>) -> bool {
    let mut parameters = query.unwrap_or_default().split('&');
    parameters.any(|parameter| parameter.split('=').next() == Some("verbose"))
}

/// 200 if every check passes, else 503. A failed report always tells its reasons.
fn report(checks: &[Check], verbose: bool) -> Response {
    let passed = checks.iter().all(|check| check.failure.is_none());
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if verbose || !passed {
        for check in checks {
            let line = match &check.failure {
                None => writeln!(text, "[+] {}: ok", check.name),
                Some(reason) => writeln!(text, "[-] {}: {reason}", check.name),
            };
            line.expect("writing to memory does not fail");
        }
    }
    text.push_str(if passed { "ok\n" } else { "failed\n" });
    (status, [(header::CONTENT_TYPE, PLAIN_TYPE)], text).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::edge::Stage;

    async fn get_text(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_answer_before_there_is_a_node() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slot = NodeSlot::new();
        slot.enter(Stage::Bootstrapping);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let metrics = Arc::new(RequestMetrics::new());
        let serving = tokio::spawn(serve(slot, metrics, listener, async move {
            let _ = stopped.await;
        }));
        let live = get_text(address, "/livez").await;
        assert!(live.starts_with("HTTP/1.1 200") && live.ends_with("ok\n"), "{live}");
        let ready = get_text(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.contains("[-] joined: the node belongs to no cluster yet"), "{ready}");
        let verbose = get_text(address, "/livez?verbose").await;
        assert!(verbose.contains("[+] process: ok"), "{verbose}");
        let metrics = get_text(address, "/metrics").await;
        assert!(metrics.contains("ledger_ready 0"), "{metrics}");
        assert!(get_text(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn verbose_is_found_among_parameters() {
        assert!(is_verbose(Some("verbose")));
        assert!(is_verbose(Some("a=b&verbose=1")));
        assert!(!is_verbose(Some("a=verbose")));
        assert!(!is_verbose(None));
    }
}
