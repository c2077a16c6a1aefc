//! A stream of answers that is opened again when it breaks.
//!
//! Owns the pauses between attempts, and which refusals end them. Must never hide that a stream broke: whoever reads it
//! knows where another one has to begin.

use std::future::Future;

use tonic::Streaming;

use crate::attempt::{Effect, Failure, Next};
use crate::error::ClientError;
use crate::retry::{Backoff, RetryPolicy};

/// A stream of messages of which there is an open one, or soon will be.
#[derive(Debug)]
pub(crate) struct Reopened<T> {
    /// What it is for, in errors.
    action: &'static str,
    policy: RetryPolicy,
    stream: Option<Streaming<T>>,
    backoff: Backoff,
    /// The last one broke, so that a pause comes before the next.
    is_broken: bool,
}

impl<T> Reopened<T> {
    pub(crate) fn new(policy: &RetryPolicy, action: &'static str) -> Reopened<T> {
        let backoff = Backoff::new(policy);
        Reopened { action, policy: policy.clone(), stream: None, backoff, is_broken: false }
    }

    /// Waits for the next message of the stream, which `open` opens if there is none. `None`: it broke, and the next call
    /// opens another one after a pause. Errors: those of `open`; a refusal that repeating cannot mend. There is no open
    /// stream after an error. May be given up while it waits.
    pub(crate) async fn message(
        &mut self,
        open: impl Future<Output = Result<Streaming<T>, ClientError>>,
    ) -> Result<Option<T>, ClientError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                if self.is_broken {
                    tokio::time::sleep(self.backoff.wait()).await;
                    self.is_broken = false;
                }
                none.insert(open.await?)
            }
        };
        let failure = match stream.message().await {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => None,
            Err(status) => Some(Failure::from_status(&status)),
        };
        self.close();
        match failure {
            Some(failure) if failure.next(Effect::Reads) == Next::GiveUp => {
                Err(failure.into_error(self.action))
            }
            _ => {
                self.is_broken = true;
                Ok(None)
            }
        }
    }

    /// Drops the stream, so that the next message is one of another.
    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    /// The stream brought what was wanted: pauses are short again.
    pub(crate) fn succeeded(&mut self) {
        self.backoff = Backoff::new(&self.policy);
    }
}
