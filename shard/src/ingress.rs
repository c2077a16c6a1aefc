//! The door of the driver: what may come in, and how much of it at once.
//!
//! Owns the limits in bytes and the promise that every request is answered once. Must never block a
//! caller: what does not fit is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_shard_core::effects::{GroupMessage, Input, Refusal};
use ledger_shard_core::view::RowWrite;
use ledger_types::{GroupId, NodeId};

use crate::handle::{AppliedCommand, RowsCompletion};

/// Bytes charged for a request or message beside its payload.
pub(crate) const OVERHEAD_BYTES: usize = 256;

/// Counts bytes against a limit.
#[derive(Debug)]
pub(crate) struct Gauge {
    used: AtomicUsize,
    bytes_max: usize,
}

impl Gauge {
    pub(crate) fn new(bytes_max: usize) -> Arc<Gauge> {
        Arc::new(Gauge { used: AtomicUsize::new(0), bytes_max })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes if they fit, or if nothing is taken yet: a single large request must pass.
    pub(crate) fn take(self: &Arc<Gauge>, bytes: usize) -> Option<Permit> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { gauge: self.clone(), bytes };
        // A refused permit gives its bytes back when it is dropped here.
        (before == 0 || before + bytes <= self.bytes_max).then_some(permit)
    }
}

/// Bytes taken from a gauge until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gauge: Arc<Gauge>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauge.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Takes the one answer.
type Completion<T> = Box<dyn FnOnce(Result<T, Refusal>) + Send>;

/// Someone who waits for an answer. Dropped unanswered, it answers with the refusal it was made with.
pub(crate) struct Waiting<T> {
    completion: Option<Completion<T>>,
    when_dropped: Refusal,
    _permit: Permit,
}

impl<T> Waiting<T> {
    pub(crate) fn new(
        completion: Completion<T>,
        when_dropped: Refusal,
        permit: Permit,
    ) -> Waiting<T> {
        Waiting { completion: Some(completion), when_dropped, _permit: permit }
    }

    pub(crate) fn answer(mut self, outcome: Result<T, Refusal>) {
        let completion = self.completion.take().expect("a request is answered once");
        completion(outcome);
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion(Err(self.when_dropped));
        }
    }
}

/// A proposal's waiting caller.
pub(crate) type WaitingWrite = Waiting<AppliedCommand>;
/// A linearizable read's waiting caller.
pub(crate) type WaitingRead = Waiting<u64>;

/// What reaches the driver. The channel has no limit of its own, so that stages can always report
/// back; everything that comes from outside has taken its bytes from a [`Gauge`] before.
pub(crate) enum Event {
    Propose {
        group: GroupId,
        command: Vec<u8>,
        deadline_ms: u64,
        waiting: WaitingWrite,
    },
    Read {
        group: GroupId,
        deadline_ms: u64,
        waiting: WaitingRead,
    },
    Messages {
        from: NodeId,
        messages: Vec<GroupMessage>,
        permit: Permit,
    },
    Rows {
        rows: Vec<RowWrite>,
        completion: RowsCompletion,
    },
    /// Starts, changes and the ends of work elsewhere: passed on as they are.
    Control(Input),
    /// Somebody needs this group's leader: if it sleeps, it is opened.
    Wake(GroupId),
    /// The log stage is done with this many rounds.
    Logged {
        inputs: Vec<Input>,
        rounds: usize,
    },
    /// The apply stage is done with some entries.
    Applied(Vec<Input>),
    /// Renew the whole status table.
    Refresh,
    /// End. With `flush`, everything written is made durable first.
    Stop {
        flush: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_refuses_what_does_not_fit_and_gives_back() {
        let gauge = Gauge::new(100);
        let large = gauge.take(300).expect("alone, anything passes");
        assert!(gauge.take(1).is_none());
        drop(large);
        let first = gauge.take(60).expect("fits");
        assert!(gauge.take(41).is_none());
        let second = gauge.take(40).expect("fits exactly");
        assert_eq!(gauge.used(), 100);
        drop((first, second));
        assert_eq!(gauge.used(), 0);
    }

    #[test]
    fn an_unanswered_caller_is_refused_once() {
        let (sender, receiver) = crossbeam::channel::unbounded();
        let gauge = Gauge::new(100);
        let make = || {
            let sender = sender.clone();
            let completion = Box::new(move |outcome| sender.send(outcome).expect("open"));
            let permit = gauge.take(10).expect("fits");
            Waiting::<u64>::new(completion, Refusal::OutcomeUnknown, permit)
        };
        make().answer(Ok(7));
        drop(make());
        let outcomes: Vec<_> = receiver.try_iter().collect();
        assert_eq!(outcomes, [Ok(7), Err(Refusal::OutcomeUnknown)]);
        assert_eq!(gauge.used(), 0);
    }
}
