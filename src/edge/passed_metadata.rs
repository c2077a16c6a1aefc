//! What a forwarded request carries of the metadata that it came with: trace context and whatever else a client or a
//! proxy has put there.
//!
//! Owns what belongs to one connection alone and is left behind. Must never pass on what nodes tell each other: a client
//! could pose as a node that has forwarded.

use std::sync::Arc;
use std::time::Duration;

use tonic::Request;
use tonic::metadata::{AsciiMetadataValue, KeyAndValueRef, MetadataMap};

use super::route::FORWARDED;

/// Headers of one connection, and of the encoding on it.
const OF_THE_CONNECTION: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// Headers that the transport or the nodes use themselves begin with one of these.
const OURS: [&str; 3] = ["grpc-", "ledger-", "proxy-"];

/// The metadata that a request takes along; `None` for none, as from most clients.
pub(super) type Passed = Option<Arc<MetadataMap>>;

/// What a request that came with this metadata takes along. Its size is that of a header list at most, which the
/// server bounds.
pub(super) fn passed(metadata: &MetadataMap) -> Passed {
    let is_passed = |name: &str| {
        !OF_THE_CONNECTION.contains(&name) && !OURS.iter().any(|start| name.starts_with(start))
    };
    let mut passed = MetadataMap::new();
    for pair in metadata.iter() {
        match pair {
            KeyAndValueRef::Ascii(name, value) if is_passed(name.as_str()) => {
                passed.append(name.clone(), value.clone());
            }
            KeyAndValueRef::Binary(name, value) if is_passed(name.as_str()) => {
                passed.append_bin(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    (!passed.is_empty()).then(|| Arc::new(passed))
}

/// A request to another node, for as long as its caller waits.
pub(super) fn forwarded<Q>(message: Q, passed: &Passed, remaining: Duration) -> Request<Q> {
    let mut request = Request::new(message);
    if let Some(passed) = passed {
        *request.metadata_mut() = MetadataMap::clone(passed);
    }
    request.set_timeout(remaining);
    request.metadata_mut().insert(FORWARDED, AsciiMetadataValue::from_static("1"));
    request
}

#[cfg(test)]
mod tests {
    use tonic::metadata::BinaryMetadataValue;

    use super::*;

    #[test]
    fn trace_context_and_unknown_metadata_go_along_and_nothing_of_the_connection() {
        let mut metadata = MetadataMap::new();
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (name, value) in [
            ("traceparent", trace),
            ("x-request-id", "7"),
            ("user-agent", "somebody/1"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "1S"),
            ("grpc-accept-encoding", "gzip"),
            ("ledger-forwarded", "0"),
            ("ledger-leader", "nobody:1"),
        ] {
            metadata.insert(name, value.parse().expect("plain text"));
        }
        metadata.append("x-request-id", AsciiMetadataValue::from_static("8"));
        metadata.insert_bin("baggage-bin", BinaryMetadataValue::from_bytes(b"\x00\xff"));
        let passed = passed(&metadata);
        let request = forwarded((), &passed, Duration::from_secs(5));
        let sent = request.metadata();
        let mut names: Vec<&str> = sent
            .keys()
            .map(|name| match name {
                tonic::metadata::KeyRef::Ascii(name) => name.as_str(),
                tonic::metadata::KeyRef::Binary(name) => name.as_str(),
            })
            .collect();
        names.sort_unstable();
        let expected =
            ["baggage-bin", "grpc-timeout", "ledger-forwarded", "traceparent", "x-request-id"];
        assert_eq!(names, expected);
        assert_eq!(sent.get("traceparent").and_then(|value| value.to_str().ok()), Some(trace));
        assert_eq!(sent.get_all("x-request-id").iter().count(), 2);
        assert_eq!(sent.get("ledger-forwarded").and_then(|one| one.to_str().ok()), Some("1"));
        assert_eq!(sent.get("grpc-timeout").and_then(|one| one.to_str().ok()), Some("5000000u"));
    }

    #[test]
    fn a_request_without_any_takes_nothing_along() {
        let mut metadata = MetadataMap::new();
        metadata.insert("user-agent", AsciiMetadataValue::from_static("somebody/1"));
        assert!(passed(&metadata).is_none());
    }
}
