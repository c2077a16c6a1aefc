//! One call: choose a node, send, learn from the answer, repeat what may be repeated until the deadline.
//!
//! Must never change a request between attempts: a write keeps its idempotency key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::attempt::{Effect, Failure, Next, leader_told, leader_told_by};
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method::{EncodedRequests, Messages, Method};
use crate::nodes::Node;
use crate::retry::Backoff;

/// Largest answer that is accepted, in bytes: a full page and what frames it.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Hints that one call follows without waiting in between, so that two nodes that name each other do not
/// make it spin.
const HINTS_FOLLOWED_MAX: u32 = 3;
/// Metadata of a request that the node asked must answer itself or not at all.
const FORWARDED: &str = "ledger-forwarded";
/// With less time left than this another attempt is not worth its cost.
const ATTEMPT_MIN: Duration = Duration::from_millis(2);

/// Where a call goes and what may be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallKind {
    /// Whom to ask first.
    pub route: Route,
    /// What the call does.
    pub effect: Effect,
}

impl CallKind {
    /// A call that only reads.
    pub fn reads(route: Route) -> CallKind {
        CallKind { route, effect: Effect::Reads }
    }
}

/// An answer, and what went before it.
#[derive(Debug)]
pub(crate) struct Answered<R> {
    pub(crate) answer: R,
    /// An earlier attempt of the call may have been carried out, or may still be.
    pub(crate) earlier_may_happen: bool,
}

/// What a failure costs beside the call that it failed: calls that fail together pay once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charge {
    /// The node is counted as failed, and the repetition is taken from the budget.
    Full,
    /// Another call has paid for the same event.
    Paid,
}

/// The state of one call between its attempts.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    deadline: Instant,
    /// Longest time for an attempt.
    attempt_max: Duration,
    kind: CallKind,
    backoff: Backoff,
    hints_followed: u32,
    hint: Option<Arc<Node>>,
    failed_at: Option<Arc<str>>,
    may_have_happened: bool,
    last: Option<Box<ClientError>>,
}

impl Client {
    /// Makes a call whose request is already encoded, as tools that prepare their requests do. Follows
    /// leader hints and repeats attempts like every other call.
    pub async fn call_encoded<Q, R>(
        &self,
        method: Method<Q, R>,
        kind: CallKind,
        request: Bytes,
    ) -> Result<R, ClientError>
    where
        R: Message + Default + 'static,
    {
        Ok(self.attempts(method, kind, request).await?.answer)
    }

    /// Makes a call and tells whether an attempt before the one that was answered may still take effect.
    pub(crate) async fn attempts<Q, R>(
        &self,
        method: Method<Q, R>,
        kind: CallKind,
        request: Bytes,
    ) -> Result<Answered<R>, ClientError>
    where
        R: Message + Default + 'static,
    {
        self.attempts_of(self.begin(kind), method, request).await
    }

    /// Makes a call whose single attempt may take all of the client's deadline, since the work that it asks for may.
    pub(crate) async fn call_long<Q, R>(
        &self,
        method: Method<Q, R>,
        kind: CallKind,
        request: &Q,
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        let progress = Progress { attempt_max: self.deadline, ..self.begin(kind) };
        let request = request.encode_to_vec().into();
        Ok(self.attempts_of(progress, method, request).await?.answer)
    }

    async fn attempts_of<Q, R>(
        &self,
        mut progress: Progress,
        method: Method<Q, R>,
        request: Bytes,
    ) -> Result<Answered<R>, ClientError>
    where
        R: Message + Default + 'static,
    {
        loop {
            let node = self.choose(&mut progress);
            let limit = progress.attempt_limit()?;
            let attempt = send(node.channel(), method.path(), request.clone(), limit, false);
            let failure = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(response)) => {
                    self.inner.nodes.answered(&node);
                    let (group, leader) = leader_told(response.metadata());
                    self.inner.leaders.learn(progress.kind.route, group, leader);
                    let earlier_may_happen = progress.may_have_happened;
                    return Ok(Answered { answer: response.into_inner(), earlier_may_happen });
                }
                Ok(Err(status)) => Failure::from_status(&status),
                Err(_) => Failure::TimedOut,
            };
            self.after_failure(&mut progress, &node, failure, Charge::Full).await?;
        }
    }

    /// Makes a call.
    pub(crate) async fn call<Q, R>(
        &self,
        method: Method<Q, R>,
        kind: CallKind,
        request: &Q,
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        self.call_encoded(method, kind, request.encode_to_vec().into()).await
    }

    /// Makes a call to one node and no other, once.
    pub(crate) async fn call_node<Q, R>(
        &self,
        method: Method<Q, R>,
        address: &str,
        request: &Q,
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        let limit = self.inner.config.attempt_timeout.min(self.deadline);
        self.call_one(method, address, request, (limit, false)).await
    }

    /// Makes a call that the node at `address` answers from its own rows or refuses, once.
    pub(crate) async fn call_replica<Q, R>(
        &self,
        method: Method<Q, R>,
        address: &str,
        request: &Q,
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        let limit = self.inner.config.attempt_timeout.min(self.deadline);
        self.call_one(method, address, request, (limit, true)).await
    }

    /// [`Client::call_replica`] for work that may take all of the client's deadline: no other node is asked instead.
    pub(crate) async fn call_replica_long<Q, R>(
        &self,
        method: Method<Q, R>,
        address: &str,
        request: &Q,
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        self.call_one(method, address, request, (self.deadline, true)).await
    }

    async fn call_one<Q, R>(
        &self,
        method: Method<Q, R>,
        address: &str,
        request: &Q,
        (limit, stays_there): (Duration, bool),
    ) -> Result<R, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        let node = self.inner.nodes.get_or_add(address);
        let node = node.ok_or_else(|| ClientError::Config(format!("{address:?} is no address")))?;
        let body = request.encode_to_vec().into();
        let attempt = send(node.channel(), method.path(), body, limit, stays_there);
        let failure = match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => Failure::from_status(&status),
            Err(_) => Failure::TimedOut,
        };
        Err(failure.into_error(node.address()))
    }

    /// Opens a stream of answers. Attempts are repeated until it is open; afterwards it is the caller's.
    pub(crate) async fn open_stream<Q, R>(
        &self,
        method: Method<Q, R>,
        kind: CallKind,
        request: &Q,
    ) -> Result<Streaming<R>, ClientError>
    where
        Q: Message,
        R: Message + Default + 'static,
    {
        let request = Bytes::from(request.encode_to_vec());
        let mut progress = self.begin(kind);
        loop {
            let node = self.choose(&mut progress);
            let limit = progress.attempt_limit()?;
            let attempt = open(node.channel(), method.path(), request.clone());
            let failure = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(response)) => {
                    self.inner.nodes.answered(&node);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Failure::from_status(&status),
                Err(_) => Failure::TimedOut,
            };
            self.after_failure(&mut progress, &node, failure, Charge::Full).await?;
        }
    }

    /// A call that begins now.
    pub(crate) fn begin(&self, kind: CallKind) -> Progress {
        let started = Instant::now();
        Progress {
            started,
            deadline: started + self.deadline,
            attempt_max: self.inner.config.attempt_timeout,
            kind,
            backoff: Backoff::new(&self.inner.config.retry),
            hints_followed: 0,
            hint: None,
            failed_at: None,
            may_have_happened: false,
            last: None,
        }
    }

    /// The node for the next attempt: the one just hinted at, the leader as far as known, or one in turn.
    pub(crate) fn choose(&self, progress: &mut Progress) -> Arc<Node> {
        let inner = &self.inner;
        if let Some(node) = progress.hint.take() {
            return node;
        }
        let avoid = progress.failed_at.as_deref();
        let leader = inner.leaders.lookup(progress.kind.route);
        let leader = leader.filter(|leader| Some(&**leader) != avoid);
        let leader = leader.and_then(|leader| inner.nodes.get_or_add(&leader));
        match leader.filter(|node| !inner.nodes.is_resting(node)) {
            Some(node) => node,
            None => inner.nodes.next(avoid),
        }
    }

    /// Learns from a failure and waits until the next attempt, or ends the call.
    pub(crate) async fn after_failure(
        &self,
        progress: &mut Progress,
        node: &Arc<Node>,
        failure: Failure,
        charge: Charge,
    ) -> Result<(), ClientError> {
        let inner = &self.inner;
        let kind = progress.kind;
        if failure.is_node_trouble() {
            inner.leaders.forget(kind.route, node.address());
        }
        match &failure {
            Failure::NotConnected(_) | Failure::Broken(_) if charge == Charge::Full => {
                inner.nodes.failed(node);
            }
            Failure::NotConnected(_) | Failure::Broken(_) | Failure::TimedOut => {}
            Failure::Refused(error) => {
                inner.leaders.forget(kind.route, node.address());
                let (group, leader) = leader_told_by(error);
                inner.leaders.learn(kind.route, group, leader);
            }
        }
        let next = failure.next(kind.effect);
        let writes = kind.effect != Effect::Reads;
        progress.may_have_happened |= writes && failure.may_have_happened();
        let says_why = failure.says_why();
        let error = failure.into_error(node.address());
        if next == Next::GiveUp {
            return Err(progress.give_up(error));
        }
        let now = Instant::now();
        if charge == Charge::Full && !inner.budget.take(now) {
            let outcome_unknown = progress.may_have_happened;
            return Err(ClientError::RetryBudgetSpent { last: Box::new(error), outcome_unknown });
        }
        // What a node said tells more than that a later attempt had no time or another node could not be reached.
        if says_why || progress.last.is_none() {
            progress.last = Some(Box::new(error));
        }
        progress.failed_at = Some(node.address().into());
        let wait = match next {
            Next::Follow(address) if progress.hints_followed < HINTS_FOLLOWED_MAX => {
                progress.hints_followed += 1;
                progress.hint = inner.nodes.get_or_add(&address);
                Duration::ZERO
            }
            Next::After(asked) => asked.max(progress.backoff.wait()),
            _ => progress.backoff.wait(),
        };
        if now + wait >= progress.deadline {
            return Err(progress.deadline_exceeded());
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

impl Progress {
    /// What the call does, and whom to ask.
    pub(crate) fn kind(&self) -> CallKind {
        self.kind
    }

    /// True if an attempt so far may have been carried out, or may still be.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.may_have_happened
    }

    /// The time until the call's deadline; zero if it has passed.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The time for the next attempt. Errors: there is none left.
    pub(crate) fn attempt_limit(&mut self) -> Result<Duration, ClientError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < ATTEMPT_MIN {
            return Err(self.deadline_exceeded());
        }
        Ok(left.min(self.attempt_max))
    }

    fn deadline_exceeded(&mut self) -> ClientError {
        ClientError::DeadlineExceeded {
            waited: self.started.elapsed(),
            outcome_unknown: self.may_have_happened,
            last: self.last.take(),
        }
    }

    /// The error of a call that ends with `error`: if an earlier attempt, or this one, may have changed
    /// something, that is what the caller must learn.
    fn give_up(&self, error: ClientError) -> ClientError {
        if self.may_have_happened {
            return ClientError::OutcomeUnknown(Box::new(error));
        }
        error
    }
}

async fn send<R>(
    channel: Channel,
    path: &'static str,
    body: Bytes,
    limit: Duration,
    stays_there: bool,
) -> Result<Response<R>, Status>
where
    R: Message + Default + 'static,
{
    let mut request = Request::new(body);
    request.set_timeout(limit);
    if stays_there {
        request.metadata_mut().insert(FORWARDED, AsciiMetadataValue::from_static("1"));
    }
    let mut transport = ready(channel).await?;
    transport.unary(request, PathAndQuery::from_static(path), EncodedRequests::new()).await
}

async fn open<R>(
    channel: Channel,
    path: &'static str,
    body: Bytes,
) -> Result<Response<Streaming<R>>, Status>
where
    R: Message + Default + 'static,
{
    let path = PathAndQuery::from_static(path);
    let mut transport = ready(channel).await?;
    transport.server_streaming(Request::new(body), path, EncodedRequests::new()).await
}

/// Opens a stream of requests and a stream of answers. What the requests yield is sent at once, also before the
/// other side has answered.
pub(crate) async fn open_both<Q, R, S>(
    channel: Channel,
    method: Method<Q, R>,
    requests: S,
    codec: Messages<S::Item, R>,
) -> Result<Response<Streaming<R>>, Status>
where
    S: Stream + Send + 'static,
    S::Item: Message + 'static,
    R: Message + Default + 'static,
    Q: 'static,
{
    let path = PathAndQuery::from_static(method.path());
    let mut transport = ready(channel).await?;
    transport.streaming(Request::new(requests), path, codec).await
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut transport = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let ready = transport.ready().await;
    ready.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(transport)
}
