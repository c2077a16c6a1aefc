//! One snapshot on its way here: streams, retries and the hand-over of pieces to the staging.
//!
//! Owns when a broken transfer goes on and when it is given up. Must never take a piece for good because of where
//! it came from: the staging checks every byte.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ledger_proto::convert::ConvertError;
use ledger_proto::convert::snapshots::{CHUNK_BYTES_MAX, Fetch, Piece};
use ledger_proto::internal::fetch_response::Answer;
use ledger_proto::internal::snapshots_client::SnapshotsClient;
use ledger_proto::internal::{FetchRefusal, FetchRefusalReason, FetchResponse};
use ledger_shard::{SnapshotError, SnapshotManifest, SnapshotStore, Staging};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::fail_point;
use super::fetch::Links;
use crate::context::endpoint;

/// Longest wait for a connection, and for the first word on a stream.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Pieces that the staging may refuse before the sender's files are taken to be damaged.
const PIECES_REFUSED_MAX: u32 = 3;
/// What a message has beside its piece.
const OVERHEAD_BYTES: usize = 4096;

/// Why a fetch ended without a verified snapshot.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    /// Another one took its place, or the node stops.
    #[error("it is not wanted any more")]
    Stopped,
    /// The sender will never send it.
    #[error("the sender refuses ({}): {}", .0.reason().as_str_name(), .0.detail)]
    Refused(FetchRefusal),
    /// Nothing came for too long.
    #[error("nothing came for {seconds} s; the last attempt: {last}")]
    Silent {
        /// For how long, in whole seconds.
        seconds: u64,
        /// How the last attempt ended.
        last: LinkError,
    },
    /// It cannot be kept, or it is not what it says.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A thread that works on it ended early.
    #[error("its work was cut off: {0}")]
    CutOff(#[from] JoinError),
}

/// Why a stream ended before the last byte.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    #[error("the sender's address is not known")]
    NoAddress,
    #[error("`{0}` is no address")]
    BadAddress(String),
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the call failed: {}", .0.message())]
    Call(#[from] Status),
    #[error("the sender refuses ({}): {}", .0.reason().as_str_name(), .0.detail)]
    Refused(FetchRefusal),
    #[error("an answer makes no sense: {0}")]
    Malformed(#[from] ConvertError),
    #[error("a piece was refused: {0}")]
    Piece(SnapshotError),
    #[error("the sender ended the stream")]
    Ended,
}

impl LinkError {
    /// What no later attempt will change. A sender whose directory is behind may not know this node yet.
    fn is_final(&self) -> bool {
        let LinkError::Refused(refusal) = self else { return false };
        matches!(
            refusal.reason(),
            FetchRefusalReason::OtherCluster
                | FetchRefusalReason::UnknownSnapshot
                | FetchRefusalReason::Malformed
        )
    }

    fn is_busy(&self) -> bool {
        let LinkError::Refused(refusal) = self else { return false };
        refusal.reason() == FetchRefusalReason::Busy
    }
}

/// How one attempt ended early.
enum Broken {
    /// For this attempt only.
    Link(LinkError),
    /// For good.
    Fetch(FetchError),
}

impl<E: Into<LinkError>> From<E> for Broken {
    fn from(error: E) -> Broken {
        Broken::Link(error.into())
    }
}

/// One snapshot that is brought here.
pub(super) struct Download {
    links: Arc<Links>,
    manifest: Box<SnapshotManifest>,
    stopped: watch::Receiver<bool>,
    staging: Option<Staging>,
    /// When the last piece was taken.
    heard_at: Instant,
    /// Attempts since then.
    failures: u32,
    pieces_refused: u32,
}

impl Download {
    pub(super) fn new(
        links: Arc<Links>,
        manifest: Box<SnapshotManifest>,
        stopped: watch::Receiver<bool>,
    ) -> Download {
        let (staging, heard_at) = (None, Instant::now());
        Download { links, manifest, stopped, staging, heard_at, failures: 0, pieces_refused: 0 }
    }

    /// Brings every byte here and has it verified. A file that turns out to be damaged at the end, as one that
    /// lay here from before a restart may, is brought once more.
    pub(super) async fn run(mut self, store: Arc<SnapshotStore>) -> Result<(), FetchError> {
        loop {
            match self.run_once(store.clone()).await {
                Err(FetchError::Snapshot(SnapshotError::FileDigest { .. }))
                    if self.pieces_refused + 1 < PIECES_REFUSED_MAX =>
                {
                    self.pieces_refused += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn run_once(&mut self, store: Arc<SnapshotStore>) -> Result<(), FetchError> {
        let manifest = self.manifest.clone();
        let opening = tokio::task::spawn_blocking(move || {
            fail_point!("snapshot::fetch_begin");
            store.receive(&manifest)
        });
        self.staging = Some(opening.await??);
        while let Some(place) = self.place() {
            self.tell_resumed(place);
            match self.attempt(place).await {
                Ok(()) => {}
                Err(Broken::Fetch(error)) => return Err(error),
                Err(Broken::Link(error)) => self.judge(error).await?,
            }
        }
        let staging = self.staging.take().expect("the staging comes back from every write");
        if *self.stopped.borrow() {
            return Err(FetchError::Stopped);
        }
        let finishing = tokio::task::spawn_blocking(move || {
            fail_point!("snapshot::fetch_done");
            staging.finish()
        });
        finishing.await??;
        if *self.stopped.borrow() { Err(FetchError::Stopped) } else { Ok(()) }
    }

    /// The next byte that is missing.
    fn place(&self) -> Option<(u32, u64)> {
        self.staging.as_ref().expect("the staging comes back from every write").next()
    }

    fn tell_resumed(&self, (file, offset): (u32, u64)) {
        let before = self.manifest.files.iter().take(file as usize).map(|file| file.bytes);
        let byte = before.sum::<u64>() + offset;
        if byte > 0 || self.failures > 0 {
            info!(group = %self.manifest.group, snapshot = %self.manifest.id, byte,
                attempt = self.failures, "going on with a snapshot");
        }
    }

    /// Gives up, or waits for the next attempt.
    async fn judge(&mut self, error: LinkError) -> Result<(), FetchError> {
        if error.is_final() {
            let LinkError::Refused(refusal) = error else {
                unreachable!("only refusals are final")
            };
            return Err(FetchError::Refused(refusal));
        }
        if error.is_busy() {
            // The sender is there, and has others before this node.
            self.heard_at = Instant::now();
        }
        if let LinkError::Piece(refused) = error {
            self.pieces_refused += 1;
            if !is_senders_fault(&refused) || self.pieces_refused >= PIECES_REFUSED_MAX {
                return Err(refused.into());
            }
            warn!(group = %self.manifest.group, error = %refused, "a snapshot's piece was refused");
        } else {
            debug!(group = %self.manifest.group, %error, "a snapshot's stream broke");
            if self.heard_at.elapsed() >= self.links.limits.silence_max {
                let seconds = self.heard_at.elapsed().as_secs();
                return Err(FetchError::Silent { seconds, last: error });
            }
        }
        let pause = self.pause();
        self.failures += 1;
        self.unless_stopped(tokio::time::sleep(pause)).await
    }

    /// Exponential in the failures so far, with up to half of it taken off at random.
    fn pause(&self) -> Duration {
        let limits = &self.links.limits;
        let doubled = limits.backoff_min.saturating_mul(1 << self.failures.min(16));
        doubled.min(limits.backoff_max).mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Opens one stream and takes its pieces until everything is here.
    async fn attempt(&mut self, place: (u32, u64)) -> Result<(), Broken> {
        let links = self.links.clone();
        let (file, offset) = place;
        let (asking, snapshot) = (links.asking, self.manifest.id.0);
        let (cluster, node, store) = (asking.cluster, asking.node, asking.store);
        let fetch = Fetch { cluster, node, store, snapshot, file, offset };
        let address = links.book.address(self.manifest.sender.node).ok_or(LinkError::NoAddress)?;
        let opening = timeout(CONNECT_TIME_MAX, open(address, fetch));
        let opened = self.unless_stopped(opening).await.map_err(Broken::Fetch)?;
        let mut answers = opened.map_err(|_| LinkError::TimedOut)??;
        loop {
            let next = timeout(links.limits.piece_wait_max, answers.message());
            let next = self.unless_stopped(next).await.map_err(Broken::Fetch)?;
            let response = next.map_err(|_| LinkError::TimedOut)??;
            self.take(piece_of(response)?).await?;
            if self.place().is_none() {
                return Ok(());
            }
        }
    }

    /// Hands a piece to the staging.
    async fn take(&mut self, piece: Piece) -> Result<(), Broken> {
        let mut staging = self.staging.take().expect("the staging comes back from every write");
        let writing = tokio::task::spawn_blocking(move || {
            fail_point!("snapshot::fetch_chunk");
            let Piece { file, offset, data, digest } = piece;
            let outcome = staging.write(file, offset, &data, &digest);
            (staging, outcome)
        });
        let (staging, outcome) = writing.await.map_err(|error| Broken::Fetch(error.into()))?;
        self.staging = Some(staging);
        outcome.map_err(LinkError::Piece)?;
        self.heard_at = Instant::now();
        self.failures = 0;
        Ok(())
    }

    /// Waits for something on the network, unless nobody wants the snapshot any more. Work on the staging is
    /// never cut off: the next fetch of the group writes to the same place.
    async fn unless_stopped<F: Future>(&mut self, work: F) -> Result<F::Output, FetchError> {
        tokio::select! {
            output = work => Ok(output),
            // A fetcher that is gone means the same as one that has stopped this.
            _ = self.stopped.wait_for(|stopped| *stopped) => Err(FetchError::Stopped),
        }
    }
}

/// True if the same bytes may be right when they come once more.
fn is_senders_fault(error: &SnapshotError) -> bool {
    matches!(
        error,
        SnapshotError::ChunkDigest { .. }
            | SnapshotError::ChunkLength { .. }
            | SnapshotError::FileDigest { .. }
            | SnapshotError::WrongPlace { .. }
    )
}

async fn open(address: String, fetch: Fetch) -> Result<Streaming<FetchResponse>, LinkError> {
    let endpoint = endpoint(&address).ok_or(LinkError::BadAddress(address))?;
    let client = SnapshotsClient::new(endpoint.connect().await?);
    let mut client = client.max_decoding_message_size(CHUNK_BYTES_MAX + OVERHEAD_BYTES);
    Ok(client.fetch(tonic::Request::new(fetch.into())).await?.into_inner())
}

fn piece_of(response: Option<FetchResponse>) -> Result<Piece, LinkError> {
    match response.ok_or(LinkError::Ended)?.answer {
        Some(Answer::Chunk(chunk)) => Ok(Piece::try_from(chunk)?),
        Some(Answer::Refusal(refusal)) => Err(LinkError::Refused(refusal)),
        None => Err(ConvertError::Missing { field: "answer" }.into()),
    }
}
