//! Threads on which the vaults of a round are applied side by side.
//!
//! Owns how many there are. Must never outlive a round: whoever runs one waits for all of its jobs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ledger_shard_core::apply::{Inline, Lanes};

/// At most so many threads; the one that applies the round is one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApplyThreads(pub(crate) usize);

impl Lanes for ApplyThreads {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let helpers = self.0.min(count).saturating_sub(1);
        if helpers == 0 {
            return Inline.run(count, job);
        }
        let next = AtomicUsize::new(0);
        // Vaults differ in their work, so each thread takes the next one when it is done with its last.
        let work = || {
            while let Some(number) =
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count)
            {
                job(number);
            }
        };
        thread::scope(|scope| {
            for _ in 0..helpers {
                let thread = thread::Builder::new().name("ledger-apply".to_owned());
                // Without a thread more the round is applied by those that there are.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn every_job_runs_once_and_several_threads_share_them() {
        for threads in [0, 1, 2, 5] {
            let (done, ran_on) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
            let barrier = std::sync::Barrier::new(threads.max(1));
            ApplyThreads(threads).run(9, &|number| {
                // The first jobs wait for each other, so each of them has a thread of its own.
                if number < threads {
                    barrier.wait();
                }
                ran_on.lock().insert(format!("{:?}", thread::current().id()));
                done.lock().push(number);
            });
            let mut done = done.into_inner();
            done.sort_unstable();
            assert_eq!(done, (0..9).collect::<Vec<_>>());
            assert_eq!(ran_on.into_inner().len(), threads.max(1));
        }
    }
}
