//! gRPC calls by hand over HTTP/2, for what a proper client library would never send.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::codegen::http::{Method, Request};

/// A deadline of the test's own, far above what any answer takes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a stream that has begun is listened to. One without news says nothing, and that is no fault.
const STREAM_TIME: Duration = Duration::from_millis(100);

/// Sends `message` as it is, with more headers, and returns the status that the server answers.
pub(crate) async fn call(
    address: &str,
    path: &str,
    message: &[u8],
    headers: &[(&'static str, &str)],
) -> Status {
    let line = Line::open(address).await;
    match line.call(path, frame(message), headers, false).await {
        Ok(Heard::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// What a server said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// How the call ended.
    Status(Status),
    /// A stream began, and told no error at once; the rest was not waited for.
    Stream,
    /// Nothing, for longer than any answer takes.
    Nothing,
}

/// All that a server said to a client that has said all it had to say.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// Its messages.
    pub(crate) messages: Vec<Bytes>,
    /// How the call ended.
    pub(crate) status: Status,
}

/// A connection, for call after call.
pub(crate) struct Line {
    address: String,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Line {
    /// Connects to a server.
    pub(crate) async fn open(address: &str) -> Line {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            // The calls tell what became of it.
            let _ = connection.await;
        });
        Line { address: address.to_owned(), sender, connection }
    }

    /// Sends `body` as it is. A stream is listened to for a moment or until its first message, anything else to its end.
    /// Errors are those of the transport: the server broke the call off without a word.
    pub(crate) async fn call(
        &self,
        path: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
        is_stream: bool,
    ) -> Result<Heard, h2::Error> {
        let calling = self.call_unbounded(path, body, headers, is_stream);
        tokio::time::timeout(ANSWER_TIME_MAX, calling).await.unwrap_or(Ok(Heard::Nothing))
    }

    /// Sends `body`, the client's whole side of a stream, and listens to the end. `None` if that does not come. Errors as
    /// those of [`Line::call`].
    pub(crate) async fn converse(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<Option<Conversation>, h2::Error> {
        let conversing = async {
            let mut answer = match self.send(path, body, &[]).await? {
                Ok(answer) => answer,
                Err(status) => return Ok(Some(Conversation { messages: Vec::new(), status })),
            };
            let mut bytes = BytesMut::new();
            while let Some(chunk) = answer.data().await {
                let chunk = chunk?;
                answer.flow_control().release_capacity(chunk.len())?;
                bytes.put(chunk);
            }
            let status = status_behind(&mut answer).await?;
            Ok(Some(Conversation { messages: unframed(bytes.freeze()), status }))
        };
        tokio::time::timeout(ANSWER_TIME_MAX, conversing).await.unwrap_or(Ok(None))
    }

    async fn call_unbounded(
        &self,
        path: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
        is_stream: bool,
    ) -> Result<Heard, h2::Error> {
        let mut answer = match self.send(path, body, headers).await? {
            Ok(answer) => answer,
            Err(status) => return Ok(Heard::Status(status)),
        };
        if is_stream {
            match tokio::time::timeout(STREAM_TIME, answer.data()).await {
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => {}
                _ => return Ok(Heard::Stream),
            }
        }
        while let Some(chunk) = answer.data().await {
            let len = chunk?.len();
            answer.flow_control().release_capacity(len)?;
        }
        Ok(Heard::Status(status_behind(&mut answer).await?))
    }

    /// Sends a request; returns what comes behind the headers of the answer, or the status that was in them.
    async fn send(
        &self,
        path: &str,
        body: Bytes,
        headers: &[(&'static str, &str)],
    ) -> Result<Result<RecvStream, Status>, h2::Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false)?;
        // A server that refuses by the headers alone may end the stream before the message is out.
        let _ = stream.send_data(body, true);
        let (head, answer) = response.await?.into_parts();
        Ok(Status::from_header_map(&head.headers).map_or(Ok(answer), Err))
    }
}

/// The status behind the messages of an answer.
async fn status_behind(answer: &mut RecvStream) -> Result<Status, h2::Error> {
    let trailers = answer.trailers().await?.expect("gRPC answers end with trailers");
    Ok(Status::from_header_map(&trailers).expect("trailers carry a status"))
}

/// The messages of an answer.
fn unframed(mut bytes: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0, "answers are not compressed");
        let len = bytes.get_u32() as usize;
        messages.push(bytes.split_to(len));
    }
    messages
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A message as it travels: not compressed, after its length.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}
