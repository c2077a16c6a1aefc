//! Unary gRPC calls by hand over HTTP/2, for what a proper client library would never send.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tonic::Status;
use tonic::codegen::http::{Method, Request};

/// A deadline of the test's own, far above what any answer takes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Sends `message` as it is, with more headers, and returns the status that the server answers.
pub(crate) async fn call(
    address: &str,
    path: &str,
    message: &[u8],
    headers: &[(&'static str, &str)],
) -> Status {
    let calling = call_unbounded(address, path, message, headers);
    tokio::time::timeout(ANSWER_TIME_MAX, calling).await.expect("the server answers")
}

async fn call_unbounded(
    address: &str,
    path: &str,
    message: &[u8],
    headers: &[(&'static str, &str)],
) -> Status {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    // A server that refuses by the headers alone may end the stream before the message is out.
    let _ = body.send_data(frame(message), true);
    let response = response.await.unwrap();
    let (head, mut answer) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        connection.abort();
        return status;
    }
    while let Some(chunk) = answer.data().await {
        let len = chunk.unwrap().len();
        answer.flow_control().release_capacity(len).unwrap();
    }
    let trailers = answer.trailers().await.unwrap().expect("gRPC answers end with trailers");
    connection.abort();
    Status::from_header_map(&trailers).expect("trailers carry a status")
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}
