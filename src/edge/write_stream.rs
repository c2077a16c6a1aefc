//! `WriteStream`: many writes under way on one stream, each answered when it is committed or refused.
//!
//! Owns a stream's window: how many writes and bytes of it are under way, and in which order they are proposed.
//! A write that this node can propose costs no task; one that must wait or be forwarded has a task of its own.
//! Must never read on while the window is full, and never end without having answered what it read.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ledger_proto::convert::writes::WriteInput;
use ledger_proto::v1;
use ledger_shard::ProposeOutcome;
use ledger_types::limits::STREAM_WRITES_MAX;
use ledger_types::{Dedup, VaultRef};
use prometheus::Histogram;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Edge;
use super::deadline::Deadline;
use super::route::{Call, GROUP, LEADER, Owner};
use super::slot::Stage;
use super::status::{Failure, of_transport};
use super::window::Window;
use super::write::{answer_of, check_owner, propose_write, result_of};

/// Answers on their way to one client.
pub(super) type WriteAnswers =
    Pin<Box<dyn Stream<Item = Result<v1::WriteStreamResponse, Status>> + Send>>;

/// How often a stream looks for passed deadlines, and whether the node still serves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long past its deadline a write that went its own way may be about to end.
const PARTED_PATIENCE: Duration = Duration::from_secs(1);
/// Writes taken in before other tasks of this thread have a turn.
const TAKEN_AT_ONCE_MAX: usize = 64;
/// Outcomes that wait to be looked at: those of a full window, and of as many writes whose deadline passed.
const COMPLETIONS_MAX: usize = 2 * STREAM_WRITES_MAX;
/// The method's name among the request durations.
const METHOD: &str = "/ledger.v1.Ledger/WriteStream";

impl Edge {
    pub(super) fn stream_writes(
        &self,
        request: Request<Streaming<v1::WriteStreamRequest>>,
    ) -> Result<Response<WriteAnswers>, Failure> {
        let (metadata, _, inbound) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let permit = self.data_stream()?;
        let stream = WriteStream::new(self.clone(), call, inbound, permit);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A write that was read and not answered yet.
struct UnderWay {
    correlation_id: u64,
    bytes: usize,
    began: Instant,
    deadline: Deadline,
    stage: WriteStage,
}

impl UnderWay {
    /// True once it must be answered here. A write that went its own way ends by itself, nearly always.
    fn is_late(&self, now: Instant) -> bool {
        let patience = match self.stage {
            WriteStage::Apart { .. } => PARTED_PATIENCE,
            WriteStage::Proposed { .. } | WriteStage::Queued => Duration::ZERO,
        };
        self.deadline.is_past(now, patience)
    }
}

/// Where a write is.
enum WriteStage {
    /// In the log of a group that this node leads, or on its way into it.
    Proposed { owner: Owner, include_proof: bool },
    /// Behind an earlier write of its client, or waiting for its turn to be looked at.
    Queued,
    /// Waiting for what passes by itself, or forwarded.
    Apart { lane: Option<VaultRef> },
}

/// How a write that went its own way ended.
struct Parted {
    ticket: u64,
    outcome: Result<Response<v1::WriteResponse>, Failure>,
}

/// What a look at the client's side came to.
enum Taken {
    /// Something was read, or the client's side ended.
    Some,
    /// Nothing is there, or the window is full.
    Nothing,
}

struct WriteStream {
    edge: Edge,
    call: Call,
    /// The client's side, until it ends or nothing more is taken from it.
    inbound: Option<Streaming<v1::WriteStreamRequest>>,
    /// How the stream ends once everything is answered: well if `None`.
    ending: Option<Failure>,
    next_ticket: u64,
    under_way: HashMap<u64, UnderWay>,
    window: Window,
    /// Counted writes that may not overtake one another, behind one that went its own way.
    lanes: HashMap<VaultRef, VecDeque<(u64, WriteInput)>>,
    apart: JoinSet<Parted>,
    completed: mpsc::Receiver<(u64, ProposeOutcome)>,
    completions: mpsc::Sender<(u64, ProposeOutcome)>,
    answers: VecDeque<v1::WriteStreamResponse>,
    next_look: Pin<Box<Sleep>>,
    durations: Histogram,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl WriteStream {
    fn new(
        edge: Edge,
        call: Call,
        inbound: Streaming<v1::WriteStreamRequest>,
        place: OwnedSemaphorePermit,
    ) -> WriteStream {
        let (completions, completed) = mpsc::channel(COMPLETIONS_MAX);
        let durations = call.context.metrics.duration_of(METHOD).clone();
        WriteStream {
            edge,
            call,
            inbound: Some(inbound),
            ending: None,
            next_ticket: 0,
            under_way: HashMap::new(),
            window: Window::default(),
            lanes: HashMap::new(),
            apart: JoinSet::new(),
            completed,
            completions,
            answers: VecDeque::new(),
            next_look: Box::pin(tokio::time::sleep(LOOK_EVERY)),
            durations,
            is_over: false,
            _place: place,
        }
    }

    /// Takes in a write: checks it, and sends it on its way.
    fn take_in(&mut self, message: v1::WriteStreamRequest) {
        let v1::WriteStreamRequest { correlation_id, timeout_ms, write } = message;
        let began = Instant::now();
        let deadline = Deadline::of_stream(timeout_ms);
        let missing = || Failure::field("write", "is missing");
        let write = write.ok_or_else(missing);
        let bytes = write.as_ref().map_or(0, v1::WriteRequest::encoded_len);
        let input = write.and_then(|write| WriteInput::try_from(write).map_err(Failure::from));
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let stage = WriteStage::Queued;
        self.window.take(bytes);
        self.under_way.insert(ticket, UnderWay { correlation_id, bytes, began, deadline, stage });
        match input {
            Ok(input) => self.in_order(ticket, input),
            Err(failure) => self.answer(ticket, Err(failure)),
        }
    }

    /// A counted write goes behind those of its vault that went their own way; every other goes at once.
    fn in_order(&mut self, ticket: u64, input: WriteInput) {
        if matches!(input.dedup, Dedup::Sequence(_))
            && let Some(lane) = self.lanes.get_mut(&input.vault)
        {
            lane.push_back((ticket, input));
            return;
        }
        self.begin(ticket, input);
    }

    /// Proposes a write if that is possible at once, else lets it go its own way.
    fn begin(&mut self, ticket: u64, input: WriteInput) {
        let Some(waiting) = self.under_way.get_mut(&ticket) else { return };
        let owner = self.call.place_now(input.vault);
        if let Some(owner) = owner.filter(|owner| check_owner(&self.call, *owner).is_ok()) {
            let include_proof = input.include_proof;
            waiting.stage = WriteStage::Proposed { owner, include_proof };
            let call = self.call.until(waiting.deadline);
            let completions = self.completions.clone();
            // A stream that is gone needs no answer, nor one that has given up more than fits its queue.
            let completed = move |outcome| {
                let _ = completions.try_send((ticket, outcome));
            };
            let admitted = call.admit(input.vault, input.operations.len());
            let proposed = admitted.and_then(|()| propose_write(&call, owner, input, completed));
            if let Err(failure) = proposed {
                self.answer(ticket, Err(failure));
            }
            return;
        }
        let lane = matches!(input.dedup, Dedup::Sequence(_)).then_some(input.vault);
        if let Some(vault) = lane {
            self.lanes.entry(vault).or_default();
        }
        waiting.stage = WriteStage::Apart { lane };
        let (edge, call) = (self.edge.clone(), self.call.until(waiting.deadline));
        self.apart.spawn(async move {
            let outcome = edge.carry_out(&call, input).await;
            Parted { ticket, outcome }
        });
    }

    /// Goes on with the counted writes of a vault until one goes its own way again.
    fn advance(&mut self, vault: VaultRef) {
        // Without a lane a write that is proposed leaves none behind.
        let Some(mut lane) = self.lanes.remove(&vault) else { return };
        while let Some((ticket, input)) = lane.pop_front() {
            self.begin(ticket, input);
            if let Some(current) = self.lanes.get_mut(&vault) {
                current.append(&mut lane);
                return;
            }
        }
    }

    /// Answers a write and makes room for another. One that was answered already is passed over.
    fn answer(&mut self, ticket: u64, outcome: Result<v1::WriteStreamResponse, Failure>) {
        let Some(ended) = self.under_way.remove(&ticket) else { return };
        self.window.give_back(ended.bytes);
        self.durations.observe(ended.began.elapsed().as_secs_f64());
        let mut response = outcome.unwrap_or_else(|failure| v1::WriteStreamResponse {
            result: Some(v1::write_stream_response::Result::Refusal(failure.into())),
            ..v1::WriteStreamResponse::default()
        });
        response.correlation_id = ended.correlation_id;
        self.answers.push_back(response);
    }

    /// A write that was proposed here has ended.
    fn settle(&mut self, ticket: u64, outcome: ProposeOutcome) {
        let Some(UnderWay { stage: WriteStage::Proposed { owner, include_proof }, .. }) =
            self.under_way.get(&ticket)
        else {
            return;
        };
        let (owner, include_proof) = (*owner, *include_proof);
        let result = result_of(&self.call, owner, outcome);
        let context = &self.call.context;
        let answer =
            result.and_then(|result| answer_of(context, owner.vault, result, include_proof));
        self.answer(ticket, answer.map(plain));
    }

    fn rejoin(&mut self, parted: Parted) {
        let Parted { ticket, outcome } = parted;
        let lane = match self.under_way.get(&ticket).map(|one| &one.stage) {
            Some(WriteStage::Apart { lane }) => *lane,
            _ => None,
        };
        self.answer(ticket, outcome.map(with_leader));
        if let Some(vault) = lane {
            self.advance(vault);
        }
    }

    /// Answers writes whose time is up.
    fn look(&mut self) {
        if self.edge.slot.stage() >= Stage::Draining && self.inbound.take().is_some() {
            self.ending = Some(Failure::Draining);
        }
        let now = Instant::now();
        let mut late: Vec<u64> = self
            .under_way
            .iter()
            .filter(|(_, one)| one.is_late(now))
            .map(|(ticket, _)| *ticket)
            .collect();
        late.sort_unstable();
        for ticket in late {
            self.give_up(ticket);
        }
    }

    /// Answers a write whose time is up. One that was proposed, or went its own way, may be applied still.
    fn give_up(&mut self, ticket: u64) {
        match self.under_way.get(&ticket).map(|one| &one.stage) {
            Some(WriteStage::Queued) => self.answer(ticket, Err(Failure::Deadline)),
            Some(WriteStage::Apart { .. }) => {
                self.rejoin(Parted { ticket, outcome: Err(Failure::OutcomeUnknown) });
            }
            _ => self.answer(ticket, Err(Failure::OutcomeUnknown)),
        }
    }

    /// Takes what the node did: writes that ended here, that ended elsewhere, and time. False if nothing was
    /// there.
    fn poll_node(&mut self, context: &mut Context<'_>) -> bool {
        if let Poll::Ready(Some((ticket, outcome))) = self.completed.poll_recv(context) {
            self.settle(ticket, outcome);
            return true;
        }
        if let Poll::Ready(Some(joined)) = self.apart.poll_join_next(context) {
            // A task that panicked leaves its write to the deadline.
            if let Ok(parted) = joined {
                self.rejoin(parted);
            }
            return true;
        }
        if self.next_look.as_mut().poll(context).is_ready() {
            self.next_look.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
            self.look();
            return true;
        }
        false
    }

    /// Takes what the client sent, if there is room for it.
    fn poll_client(&mut self, context: &mut Context<'_>) -> Taken {
        if !self.window.has_room() {
            return Taken::Nothing;
        }
        let Some(inbound) = &mut self.inbound else { return Taken::Nothing };
        match Pin::new(inbound).poll_next(context) {
            Poll::Pending => return Taken::Nothing,
            Poll::Ready(Some(Ok(message))) => self.take_in(message),
            Poll::Ready(Some(Err(status))) => {
                self.inbound = None;
                self.ending = of_transport(&status);
            }
            Poll::Ready(None) => self.inbound = None,
        }
        Taken::Some
    }
}

impl Stream for WriteStream {
    type Item = Result<v1::WriteStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut taken = 0;
        loop {
            if let Some(answer) = this.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            if this.poll_node(context) {
                continue;
            }
            if let Taken::Some = this.poll_client(context) {
                taken += 1;
                if taken < TAKEN_AT_ONCE_MAX {
                    continue;
                }
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.inbound.is_none() && this.under_way.is_empty() {
                this.is_over = true;
                let ending = this.ending.take();
                return Poll::Ready(ending.map(|failure| Err(failure.into())));
            }
            return Poll::Pending;
        }
    }
}

fn plain(answer: v1::WriteResponse) -> v1::WriteStreamResponse {
    v1::WriteStreamResponse {
        result: Some(v1::write_stream_response::Result::Answer(answer)),
        ..v1::WriteStreamResponse::default()
    }
}

/// The answer of a write that may have been carried out elsewhere, with who leads there.
fn with_leader(response: Response<v1::WriteResponse>) -> v1::WriteStreamResponse {
    let text = |name| response.metadata().get(name).and_then(|value| value.to_str().ok());
    let leader_address = text(LEADER).map(str::to_owned);
    let group = text(GROUP).and_then(|text| text.parse().ok());
    v1::WriteStreamResponse { leader_address, group, ..plain(response.into_inner()) }
}
