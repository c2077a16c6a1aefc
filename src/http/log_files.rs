//! Vaults' block logs over HTTP, in the C2SP `tlog-tiles` layout below `/log/`.
//!
//! Owns status codes, headers and how many of these requests run at once, so that probes and metrics are answered
//! however many monitors there are. Must never read a log itself, nor take a path for another.

use std::fmt::Display;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ledger_proof::{LogPath, LogResource};
use tonic::{Code, Status};

use super::{PLAIN_TYPE, Served};
use crate::edge::LogFileError;

/// Where the logs' files begin.
pub(super) const LOG_PREFIX: &str = "/log/";
/// Requests for files of logs that are served at a time.
pub(super) const LOG_REQUESTS_MAX: usize = 32;

const BYTES_TYPE: &str = "application/octet-stream";
/// A full tile never changes.
const CACHE_FULL: &str = "public, max-age=31536000, immutable";
/// A partial tile never changes either, but soon nobody asks for it.
const CACHE_PARTIAL: &str = "public, max-age=60";
const CACHE_CHECKPOINT: &str = "no-cache";
const CACHE_NOTHING: &str = "no-store";
/// Seconds after which a passing obstacle may be gone.
const RETRY_AFTER_SECONDS: &str = "1";

pub(super) async fn file(State(served): State<Served>, uri: Uri) -> Response {
    // The path as it was sent: a file has one name, and escapes would give it more.
    let path = uri.path().strip_prefix(LOG_PREFIX).unwrap_or_default();
    let path = match LogPath::parse(path) {
        Ok(path) => path,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error),
    };
    let Ok(_permit) = served.log_requests.try_acquire() else {
        let reason = "this node serves as many requests for logs as it may";
        return refused(StatusCode::SERVICE_UNAVAILABLE, &reason);
    };
    match Box::pin(served.edge.log_file(path)).await {
        Ok(bytes) => found(&path.resource, bytes),
        Err(error) => failed(error),
    }
}

fn found(resource: &LogResource, bytes: Vec<u8>) -> Response {
    let (content, cache) = match resource.tile() {
        None => (PLAIN_TYPE, CACHE_CHECKPOINT),
        Some(tile) if tile.is_full() => (BYTES_TYPE, CACHE_FULL),
        Some(_) => (BYTES_TYPE, CACHE_PARTIAL),
    };
    ([(header::CONTENT_TYPE, content), (header::CACHE_CONTROL, cache)], bytes).into_response()
}

fn failed(error: LogFileError) -> Response {
    let status = match error {
        LogFileError::NotHere(_)
        | LogFileError::OtherLog { .. }
        | LogFileError::BeyondLog { .. } => StatusCode::NOT_FOUND,
        LogFileError::Renewed(_) => StatusCode::SERVICE_UNAVAILABLE,
        LogFileError::Failure(failure) => {
            let status = Status::from(failure);
            return refused(http_status(status.code()), &status.message());
        }
    };
    refused(status, &error)
}

/// What a refusal of the services is over HTTP. One that may pass by itself is 503.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Internal | Code::DataLoss | Code::Unimplemented => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A refusal with its reason in a line.
fn refused(status: StatusCode, reason: &dyn Display) -> Response {
    let headers = [(header::CONTENT_TYPE, PLAIN_TYPE), (header::CACHE_CONTROL, CACHE_NOTHING)];
    let mut response = (status, headers, format!("{reason}\n")).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let after = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

#[cfg(test)]
mod tests {
    use ledger_types::{GroupId, VaultRef};

    use super::*;
    use crate::edge::status::Failure;

    fn field<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn only_what_never_changes_is_cached_for_long() {
        let cases = [
            ("checkpoint", PLAIN_TYPE, CACHE_CHECKPOINT),
            ("tile/0/000", BYTES_TYPE, CACHE_FULL),
            ("tile/1/000.p/255", BYTES_TYPE, CACHE_PARTIAL),
            ("tile/entries/x001/000", BYTES_TYPE, CACHE_FULL),
            ("tile/entries/000.p/1", BYTES_TYPE, CACHE_PARTIAL),
        ];
        for (path, content, cache) in cases {
            let response = found(&LogResource::parse(path).unwrap(), vec![7]);
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(field(&response, "content-type"), content, "{path}");
            assert_eq!(field(&response, "cache-control"), cache, "{path}");
        }
    }

    #[test]
    fn refusals_say_whether_to_come_again() {
        let vault = VaultRef::new(1, 2);
        let cases = [
            (LogFileError::NotHere(vault), 404),
            (LogFileError::OtherLog { log_epoch: 1 }, 404),
            (LogFileError::BeyondLog { size: 3 }, 404),
            (LogFileError::Renewed(GroupId(4)), 503),
            (Failure::Draining.into(), 503),
            (Failure::not_ready("nothing").into(), 503),
            (Failure::NotLeader { group: GroupId(4), leader: None }.into(), 503),
            (Failure::OutcomeUnknown.into(), 503),
            (Failure::Deadline.into(), 503),
            (Failure::VaultUnavailable(vault).into(), 503),
            (Failure::UnknownVault(vault).into(), 404),
            (Failure::Store("disk".to_owned()).into(), 500),
        ];
        for (error, status) in cases {
            let said = format!("{error:?}");
            let response = failed(error);
            assert_eq!(response.status().as_u16(), status, "{said}");
            let retries = if status == 503 { RETRY_AFTER_SECONDS } else { "" };
            assert_eq!(field(&response, "retry-after"), retries, "{said}");
            assert_eq!(field(&response, "cache-control"), CACHE_NOTHING, "{said}");
        }
    }
}
