//! How plain writes travel under load: while many are under way at once, the next ones share streams.
//!
//! Owns the count of a client's writes and the pipeline that they share. Must never let one write wait for another: a
//! pipeline without room is passed by, and every write keeps the deadline of its own call.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ledger_types::VaultRef;
use parking_lot::Mutex;

use crate::client::Client;
use crate::error::ClientError;
use crate::pipeline::{PipelineOptions, WeakPipeline, WritePipeline};
use crate::write::{WriteReceipt, write_kind};

/// What the clones of a client know of their writes.
#[derive(Debug, Default)]
pub(crate) struct WritesUnderWay {
    count: AtomicUsize,
    /// Lives as long as a write that goes through it: a client without writes keeps no stream open.
    pipeline: Mutex<WeakPipeline>,
}

/// One write, as long as it is under way.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    all: &'a WritesUnderWay,
    /// How many there are with it.
    pub(crate) count: usize,
}

impl WritesUnderWay {
    /// Counts a write until what is returned is dropped.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        UnderWay { all: self, count: self.count.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// Sends an encoded write by the shared pipeline; `None` if it has no room now.
    pub(crate) async fn write_by_stream(
        &self,
        vault: VaultRef,
        body: &Bytes,
    ) -> Option<Result<WriteReceipt, ClientError>> {
        let pipeline = self.shared_pipeline();
        let pending = pipeline.try_submit(self.begin(write_kind(vault)), body.clone())?;
        let outcome = pending.await;
        // Only now may the streams end.
        drop(pipeline);
        Some(outcome)
    }

    fn shared_pipeline(&self) -> WritePipeline {
        let mut place = self.inner.writes.pipeline.lock();
        if let Some(pipeline) = place.upgrade() {
            return pipeline;
        }
        let pipeline = self.write_pipeline(PipelineOptions::default());
        *place = pipeline.downgrade();
        pipeline
    }
}
