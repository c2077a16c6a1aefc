//! The HTTP listener: metrics, probes and vaults' logs for monitors, over HTTP/1 only.
//!
//! Owns the paths and what they answer. Must never change anything, and never let what monitors ask for keep probes and
//! metrics waiting: they must answer while everything else is in trouble.

mod log_files;

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::edge::{BEAT_INTERVAL, Check, Edge, NodeSlot};
use crate::metrics::RequestMetrics;

/// The format that Prometheus scrapes.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TYPE: &str = "text/plain; charset=utf-8";

#[derive(Clone)]
struct Served {
    slot: Arc<NodeSlot>,
    edge: Edge,
    metrics: Arc<RequestMetrics>,
    log_requests: Arc<Semaphore>,
}

/// Serves metrics, probes and logs of the edge's node until `shutdown` completes.
pub async fn serve(
    edge: Edge,
    metrics: Arc<RequestMetrics>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let beats = tokio::spawn(beat(edge.slot().clone()));
    let served = axum::serve(listener, router(edge, metrics)).with_graceful_shutdown(shutdown);
    let outcome = served.await;
    beats.abort();
    outcome
}

fn router(edge: Edge, metrics: Arc<RequestMetrics>) -> Router {
    let log_requests = Arc::new(Semaphore::new(log_files::LOG_REQUESTS_MAX));
    let slot = edge.slot().clone();
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route(&format!("{}{{*file}}", log_files::LOG_PREFIX), get(log_files::file))
        .with_state(Served { slot, edge, metrics, log_requests })
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
    use crate::peer::test_nodes::{MemoryRows, TestNode};

    async fn get_text(address: std::net::SocketAddr, path: &str) -> String {
        ask(address, "GET", path).await
    }

    async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
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
        let peers = TestNode::start(1, 1, MemoryRows::new()).await.state.clone();
        let serving = tokio::spawn(serve(Edge::new(slot, peers), metrics, listener, async move {
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
        assert_logs_are_refused(address).await;
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    /// What can be said of a log without a node, and that nothing but reading is possible.
    async fn assert_logs_are_refused(address: std::net::SocketAddr) {
        let log = "/log/ns/0/vault/0/0";
        for file in ["checkpoint", "tile/0/000", "tile/entries/000.p/7"] {
            let answer = get_text(address, &format!("{log}/{file}")).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
            assert!(answer.ends_with("it belongs to no cluster yet\n"), "{answer}");
            let head = ask(address, "HEAD", &format!("{log}/{file}")).await;
            assert!(head.starts_with("HTTP/1.1 503") && head.ends_with("\r\n\r\n"), "{head}");
            for method in ["POST", "PUT", "DELETE", "PATCH"] {
                let answer = ask(address, method, &format!("{log}/{file}")).await;
                assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
                assert!(answer.contains("\r\nallow: GET,HEAD\r\n"), "{method}: {answer}");
            }
        }
        for (file, reason) in [
            ("tile/00/000", "a tile's level is a number from 0 to 63"),
            ("tile/0/00%30", "a tile's number is below 2^64"),
            ("tile/0/000.p/256", "a partial tile's width is a number from 1 to 255"),
            ("tile/0/000/../001", "a tile's number is below 2^64"),
            ("checkpoint/", "a log has checkpoint, "),
        ] {
            let answer = get_text(address, &format!("{log}/{file}")).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{file}: {answer}");
            assert!(answer.contains(reason), "{file}: {answer}");
        }
        let answer = get_text(address, "/log/other").await;
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("a log is named"),
            "{answer}"
        );
    }

    #[test]
    fn verbose_is_found_among_parameters() {
        assert!(is_verbose(Some("verbose")));
        assert!(is_verbose(Some("a=b&verbose=1")));
        assert!(!is_verbose(Some("a=verbose")));
        assert!(!is_verbose(None));
    }
}
